"""The order of the write steps: check, store, encode, reflect.

``add`` returns when the turns are on disk. Encoding follows in a thread, for which ``add`` waits, so
that a write can be read at once; what fails or hangs stays in the outbox and is taken up by the next
call (``core.indexer``).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from lightmem_integrations.core.analyze import detect_language
from lightmem_integrations.core.encode import guarded
from lightmem_integrations.core.indexer import Indexer
from lightmem_integrations.core.normalize import content_hash, normalize, spaced
from lightmem_integrations.core.ports import Embedder, Index, NewTurn, Store
from lightmem_integrations.core.reflect import Reflection
from lightmem_integrations.core.tokens import wordpiece_counts
from lightmem_integrations.core.types import AddResult, Message, Scope

DEFAULT_SESSION = "default"


class Ingest:
    """Takes messages in.

    Args:
        store: the truth.
        index: told of what was stored.
        embedder: None for keywords only.
        indexer: encodes what was stored; None without an embedder.
        reflection: makes memory of turns; None when nothing does.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        embedder: Embedder | None,
        indexer: Indexer | None,
        reflection: Reflection | None,
    ) -> None:
        self._store, self._index = store, index
        self._embedder, self._indexer, self._reflection = embedder, indexer, reflection

    def add(self, scope: Scope, messages: Any, *, ttl: timedelta | None = None) -> AddResult:
        """Store one message or several; see ``LightMem.add``."""
        now = datetime.now(timezone.utc)
        session_id = scope.session_id or DEFAULT_SESSION
        expires_at = None if ttl is None else now + ttl
        turns = [
            replace(_turn(m, session_id, n), expires_at=expires_at) for n, m in enumerate(normalize(messages, now=now))
        ]
        return self.add_turns(scope.user_id, turns, _arranged(turns), "add")

    def restore(self, user_id: str, turns: Sequence[NewTurn]) -> AddResult:
        """Store turns as they were exported."""
        return self.add_turns(user_id, turns, _measured(turns), "import")

    def add_turns(self, user_id: str, given: Sequence[NewTurn], turns: Sequence[NewTurn], actor: str) -> AddResult:
        """Store checked turns, encode them, reflect; ``given`` are the same in the caller's order."""
        self.load()
        fresh = self._store.add_turns(user_id, turns, actor, queue=self._indexer is not None)
        errors = self._indexer.index(user_id) if fresh and self._indexer else ()
        pending = self._store.pending_count(user_id) if errors else 0
        if fresh:
            errors += tuple(self._index.catch_up(user_id))
        if fresh and self._reflection:
            sessions = dict.fromkeys(turn.session_id for turn in fresh)
            errors += tuple(self._reflection.after_add(user_id, sessions, len(fresh)))
        return AddResult(
            ids=tuple(turn.id for turn in given),
            added=len(fresh),
            pending=pending,
            tokens=sum(turn.tokens for turn in fresh),
            errors=errors,
        )

    def load(self) -> None:
        """Make the model ready.

        Raises:
            ModelNotFoundError, MissingDependencyError: there is no model.
            EmbedderError: the embedder raised something else.
        """
        load = getattr(self._embedder, "load", None)
        if load is not None:
            guarded(self._embedder, load)


def _turn(message: Message, session_id: str, n: int) -> NewTurn:
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
        origin=f"messages[{n}].",
    )


def _arranged(turns: Sequence[NewTurn]) -> list[NewTurn]:
    """By time, then arrival, equal times apart."""
    ordered = sorted(turns, key=lambda turn: turn.timestamp)
    times = spaced([turn.timestamp for turn in ordered])
    return _measured([replace(turn, timestamp=time) for turn, time in zip(ordered, times, strict=True)])


def _measured(turns: Sequence[NewTurn]) -> list[NewTurn]:
    lengths = wordpiece_counts([turn.content for turn in turns])
    return [replace(turn, tokens=tokens) for turn, tokens in zip(turns, lengths, strict=True)]
