"""What the engine counts about itself, in this process: latencies and tokens. No text, no telemetry."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

KEPT = 1_000
"""Latencies that percentiles are taken of, the newest ones."""


class Latency:
    """How long something took, lately. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: deque[float] = deque(maxlen=KEPT)
        self._count = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Time the block; one that raises is not counted."""
        start = time.perf_counter()
        yield
        with self._lock:
            self._kept.append(1e3 * (time.perf_counter() - start))
            self._count += 1

    def summary(self) -> dict[str, float]:
        """``p50`` and ``p95`` in milliseconds, 0 before the first one, and the ``count`` of all."""
        with self._lock:
            ordered, count = sorted(self._kept), self._count
        return {"p50": _percentile(ordered, 0.5), "p95": _percentile(ordered, 0.95), "count": count}


class Counters:
    """The counters of one engine, under the names that LightMem gives them."""

    def __init__(self) -> None:
        self.add_memory, self.retrieve, self.embedding = Latency(), Latency(), Latency()
        self._lock = Lock()
        self._embedding_tokens = 0

    def embedded(self, tokens: int) -> None:
        """Count WordPiece tokens that were handed to the embedder."""
        with self._lock:
            self._embedding_tokens += tokens

    @property
    def embedding_tokens(self) -> int:
        """WordPiece tokens that were handed to the embedder."""
        return self._embedding_tokens


def _percentile(ordered: list[float], share: float) -> float:
    """The nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
