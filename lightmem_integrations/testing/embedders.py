"""Embedders for tests: small and deterministic, and real enough to rank by.

``HashEmbedder`` behaves like a model, without one: texts that share words are near each other.
``FlakyEmbedder`` wraps an embedder and misbehaves on the calls of your choice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import shake_256
from threading import Event, Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.ports import TokenEmbedder
from lightmem_integrations.core.types import Encoding

__all__ = ["Fault", "FlakyEmbedder", "HashEmbedder"]

_WORD = re.compile(r"\w+")
_VOCABULARY = 30_000

Fault = Literal["raise", "nan", "zero", "shape", "rows", "pieces", "sleep"]


class HashEmbedder:
    """A bag of words: every word has a fixed vector that is made from its hash.

    The vector of a text is the sum of its words' vectors, at unit length; case and order do not
    matter. Unrelated words are nearly orthogonal. Nothing is learned, loaded or kept, so that equal
    texts have equal vectors in every process and on every machine.

    Args:
        dim: length of the vectors.
        token_dim: length of the token vectors.
        name: identity that a database remembers.
        languages: what it claims to know, as ISO 639-1 codes; None for any language.
    """

    def __init__(
        self,
        dim: int = 64,
        token_dim: int = 16,
        *,
        name: str = "hash",
        languages: frozenset[str] | None = None,
    ) -> None:
        self.dim, self.token_dim, self.name, self.languages = dim, token_dim, name, languages

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dim) float32, unit rows."""
        return np.stack([e.vector for e in self.encode(texts)]) if texts else np.zeros((0, self.dim), np.float32)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        """Vector and token vectors of each text; questions and texts are treated alike."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoding:
        words = _WORD.findall(text.lower())
        # A text without words still needs a direction of its own. Sorting makes sums repeatable.
        bag = sorted(Counter(words or [text]).items())
        total = np.sum([n * _direction(word, self.dim) for word, n in bag], axis=0)
        tokens = [np.rint(_direction(f"token {word}", self.token_dim) * 127).astype(np.int8) for word in words]
        return Encoding(
            vector=(total / np.linalg.norm(total)).astype(np.float32),
            piece_ids=np.array([_number(word) for word in words], np.int32),
            pieces=np.stack(tokens) if tokens else np.zeros((0, self.token_dim), np.int8),
        )


class FlakyEmbedder:
    """An embedder that fails on chosen calls and is the wrapped one on all others. Thread-safe.

    Args:
        inner: what to wrap; None for a ``HashEmbedder``.
        fail_on: the calls that fail, by number from 0, such as ``{0}`` or ``range(3)``; or a test of
            the texts of a call, such as ``lambda texts: "poison" in texts[0]``.
        fault: what goes wrong then. ``raise`` raises ``error``; ``nan`` and ``zero`` spoil the
            vectors; ``shape`` makes them too short by one; ``rows`` leaves out the last one;
            ``pieces`` gives more piece ids than token vectors; ``sleep`` answers rightly, but only
            after ``seconds``, or as soon as ``wake`` is set.
        error: what to raise; None for a ``RuntimeError``.
        seconds: for ``sleep``.

    Attributes:
        calls: calls so far, of ``embed`` and ``encode`` together.
        wake: ends every sleep at once.
    """

    def __init__(
        self,
        inner: TokenEmbedder | None = None,
        *,
        fail_on: Container[int] | Callable[[Sequence[str]], bool] = (),
        fault: Fault = "raise",
        error: BaseException | None = None,
        seconds: float = 60.0,
    ) -> None:
        self._inner: TokenEmbedder = inner or HashEmbedder()
        self._fail_on, self._fault, self._seconds = fail_on, fault, seconds
        self._error = error or RuntimeError("flaky on purpose")
        self._lock = Lock()
        self.calls = 0
        self.wake = Event()
        self.name = str(getattr(self._inner, "name", type(self._inner).__name__))
        self.dim: int | None = getattr(self._inner, "dim", None)
        self.token_dim = self._inner.token_dim
        self.languages: frozenset[str] | None = getattr(self._inner, "languages", None)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dim) float32, or what the fault makes of it."""
        vectors = [encoding.vector for encoding in self.encode(texts)]
        return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        """What the wrapped embedder gives, or what the fault makes of it."""
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
        fails = self._fail_on(texts) if callable(self._fail_on) else number in self._fail_on
        if fails and self._fault == "raise":
            raise self._error
        if fails and self._fault == "sleep":
            self.wake.wait(self._seconds)
        encodings = self._inner.encode(texts, query=query)
        return _spoiled(encodings, self._fault) if fails else encodings


def _spoiled(encodings: list[Encoding], fault: Fault) -> list[Encoding]:
    match fault:
        case "nan":
            return [replace(e, vector=np.full_like(e.vector, np.nan)) for e in encodings]
        case "zero":
            return [replace(e, vector=np.zeros_like(e.vector)) for e in encodings]
        case "shape":
            return [replace(e, vector=e.vector[:-1]) for e in encodings]
        case "rows":
            return encodings[:-1]
        case "pieces":
            return [replace(e, piece_ids=np.append(e.piece_ids, np.int32(1))) for e in encodings]
    return encodings


@lru_cache(maxsize=1 << 16)
def _direction(word: str, dim: int) -> NDArray[np.float64]:
    """(dim,) unit vector that is uniform in the word's hash."""
    bits = shake_256(word.encode("utf-8", "surrogatepass")).digest(2 * dim)
    vector = np.frombuffer(bits, "<u2").astype(np.float64) - 32767.5  # never zero: halves are not whole
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def _number(word: str) -> int:
    """A piece id in 0..29999."""
    return int.from_bytes(shake_256(f"id {word}".encode("utf-8", "surrogatepass")).digest(8), "little") % _VOCABULARY
