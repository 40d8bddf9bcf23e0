"""The order of the write steps: check, store, encode.

``add`` returns when the turns are on disk. Encoding follows in a worker thread, for which ``add``
waits, up to a limit, so that a write can be read at once; what is not done then, or fails, stays in
the outbox and is taken up by the next call.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from datetime import datetime, timezone
from threading import Lock
from typing import Any

from lightmem_integrations.core.analyze import detect_language
from lightmem_integrations.core.encode import BATCH, encode_texts, passages_to_encode
from lightmem_integrations.core.normalize import content_hash, normalize, spaced
from lightmem_integrations.core.ports import Embedder, Encoded, NewTurn, Store
from lightmem_integrations.core.tokens import wordpiece_counts
from lightmem_integrations.core.types import AddResult, Message, Scope
from lightmem_integrations.errors import EmbedderError, LightMemError

DEFAULT_SESSION = "default"
_STRIPES = 64
_GIVE_UP_AFTER = 3


class Ingest:
    """Takes messages in.

    Args:
        store: the truth.
        embedder: None for keywords only.
        wait_seconds: how long ``add`` waits for the encoder.
        workers: threads that encode, each for one user at a time.
    """

    def __init__(self, store: Store, embedder: Embedder | None, wait_seconds: float, workers: int) -> None:
        self._store, self._embedder, self._wait = store, embedder, wait_seconds
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="lightmem-index")
        self._stripes = [Lock() for _ in range(_STRIPES)]
        self._late: set[Future[int]] = set()

    def add(self, scope: Scope, messages: Any, actor: str = "add") -> AddResult:
        """Store one message or several; see ``LightMem.add``."""
        now = datetime.now(timezone.utc)
        session_id = scope.session_id or DEFAULT_SESSION
        turns = [_turn(m, session_id) for m in normalize(messages, now=now)]
        return self.add_turns(scope.user_id, turns, actor)

    def add_turns(self, user_id: str, turns: Sequence[NewTurn], actor: str) -> AddResult:
        """Store checked turns, then encode them."""
        self.load()
        fresh = self._store.add_turns(user_id, _arranged(turns), actor, queue=self._embedder is not None)
        errors = self._index(user_id) if fresh else ()
        return AddResult(
            ids=tuple(turn.id for turn in turns),
            added=len(fresh),
            pending=self._store.pending_count(user_id) if errors else 0,
            tokens=sum(turn.tokens for turn in fresh),
            errors=errors,
        )

    def load(self) -> None:
        """Make the model ready.

        Raises:
            ModelNotFoundError, MissingDependencyError: before anything is written.
        """
        load = getattr(self._embedder, "load", None)
        if load is not None:
            load()

    def nudge(self, user_id: str) -> None:
        """Encode what is pending in the background, without waiting."""
        if self._embedder is not None and not self._is_busy():
            self._pool.submit(self.drain, user_id).add_done_callback(lambda done: done.exception())

    def drain(self, user_id: str) -> int:
        """Encode everything of the user that is pending, now.

        Returns:
            entries encoded.

        Raises:
            EmbedderError: when some could not be; they stay pending, with the reason.
        """
        if self._embedder is None:
            return 0
        done, failed, last = 0, set[str](), None
        with self._stripes[hash(user_id) % _STRIPES]:
            while True:
                rows = [row for row in self._store.pending(user_id, BATCH + len(failed)) if row[0] not in failed]
                if not rows:
                    break
                try:
                    self._encode(user_id, rows)
                    done += len(rows)
                except EmbedderError as error:
                    saved, lost, alive = self._encode_one_by_one(user_id, rows, error)
                    done, last = done + saved, error
                    failed.update(lost)
                    if not alive:
                        break
        if last is not None:
            raise last
        return done

    def close(self) -> None:
        """Wait for the batch that is being encoded; the rest stays in the outbox."""
        self._pool.shutdown(wait=not self._is_busy(), cancel_futures=True)

    # ------------------------------------------------------------------ inside
    def _index(self, user_id: str) -> tuple[str, ...]:
        if self._embedder is None:
            return ()
        job = self._pool.submit(self.drain, user_id)
        try:
            # An embedder that hung before is not waited for again until it has come back.
            job.result(0 if self._is_busy() else self._wait)
        except FutureTimeout:
            self._late.add(job)
            return (f"the embedder is still busy after {self._wait:g} s; the rest is encoded in the background",)
        except LightMemError as error:
            return (str(error),)
        return ()

    def _is_busy(self) -> bool:
        self._late = {job for job in self._late if not job.done()}
        return bool(self._late)

    def _encode(self, user_id: str, rows: Sequence[tuple[str, str, str]]) -> None:
        assert self._embedder is not None
        cut = [(entry, passages_to_encode(text, label)) for entry, label, text in rows]
        encodings = iter(encode_texts(self._embedder, [text for _, parts in cut for _, text in parts]))
        made = [Encoded(entry, [(p, next(encodings)) for p, _ in parts]) for entry, parts in cut]
        self._store.save_encoded(user_id, made)

    def _encode_one_by_one(
        self, user_id: str, rows: Sequence[tuple[str, str, str]], error: EmbedderError
    ) -> tuple[int, list[str], bool]:
        """After a failed batch: is it one text, or the embedder? (saved, failed ids, embedder works)."""
        saved, lost, in_a_row = 0, [], 0
        for row in rows if len(rows) > 1 else ():
            try:
                self._encode(user_id, [row])
                saved, in_a_row = saved + 1, 0
            except EmbedderError:
                lost.append(row[0])
                in_a_row += 1
                if in_a_row == _GIVE_UP_AFTER:
                    break
        alive = in_a_row < _GIVE_UP_AFTER and (saved > 0 or len(rows) == 1)
        lost = lost if len(rows) > 1 else [rows[0][0]]
        self._store.note_failure(user_id, lost, str(error))
        return saved, lost, alive


def _turn(message: Message, session_id: str) -> NewTurn:
    assert message.timestamp is not None
    return NewTurn(
        id=message.id or uuid.uuid4().hex,
        session_id=session_id,
        role=message.role,
        speaker=message.speaker,
        content=message.content,
        timestamp=message.timestamp,
        session_time=message.timestamp,
        tokens=0,
        language=detect_language(message.content),
        content_hash=content_hash(message),
        metadata=message.metadata,
    )


def _arranged(turns: Sequence[NewTurn]) -> list[NewTurn]:
    """By time, then arrival; equal times 500 ms apart; with their lengths."""
    ordered = sorted(turns, key=lambda turn: turn.timestamp)
    times = spaced([turn.timestamp for turn in ordered])
    lengths = wordpiece_counts([turn.content for turn in ordered])
    return [
        replace(turn, timestamp=time, tokens=tokens) for turn, time, tokens in zip(ordered, times, lengths, strict=True)
    ]
