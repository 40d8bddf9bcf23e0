"""What the engine asks of the world, as small protocols. Any object with these methods fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lightmem_integrations.core.types import (
    Compression,
    Encoding,
    Filter,
    Finding,
    Kind,
    MemoryEntry,
    Passage,
    Role,
    Scope,
    Turn,
)

if TYPE_CHECKING:
    from lightmem_integrations.core.working_set import WorkingSet


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. One method is required; the engine looks for the others.

    Optional members:
        ``name``: identity stored with the vectors; the class's name when absent.
        ``languages``: languages that the model knows, as ISO 639-1 codes, or None for "any". Texts
            in other languages are ranked by keywords alone.
        ``load()``: makes the model ready, and raises where there is none.
        ``embed_query(text) -> (dim,)``: for models that treat questions and texts differently.
        ``encode(texts, query=False) -> list[Encoding]``: vectors and token vectors from one pass,
            which late interaction needs; see ``TokenEmbedder``.
    """

    def embed(self, texts: Sequence[str]) -> Any:
        """One vector per text.

        Returns:
            (n, dim) float32; rows of unit length (other lengths are normalised).
        """
        ...


@runtime_checkable
class TokenEmbedder(Embedder, Protocol):
    """An embedder that also gives token vectors."""

    token_dim: int

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        """Vector and token vectors of each text, from one pass of the model."""
        ...


@runtime_checkable
class Compressor(Protocol):
    """Leaves out the words of a text that say least. See ``core.compress`` for the default.

    The engine calls it through ``core.compress.safely``, so that one that raises or keeps nothing
    costs no turn.

    Attributes:
        name: identity, such as ``lexical``; stored with what it made.
    """

    name: str

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        """One result a text, in order. What cannot be compressed comes back whole; it never raises for a text.

        Raises:
            LightMemError: the model or package behind it is not there.
        """
        ...


@runtime_checkable
class Attention(Protocol):
    """A model that shows which sentence attends to which. ``core.segment`` finds topics by it.

    Attributes:
        name: identity, such as the name of the model.
    """

    name: str

    def attend(self, texts: Sequence[str]) -> Any:
        """How strongly each text attends to each, when they are read one after the other.

        LightMem (arXiv 2510.18866) takes the mean over the heads of layers 8 to 11 and over the
        tokens of both sentences, with the first and the last three tokens of the input masked, and
        normalises each row.

        Returns:
            (n, n) finite numbers; row i is text i's attention and sums to 1, or to 0 where all of
            it was masked.
        """
        ...


@runtime_checkable
class Reader(Protocol):
    """A model that compresses texts and shows their attention in one pass."""

    def read(self, texts: Sequence[str], /) -> Any:
        """An object with ``compressions``, one a text, and ``attention`` as ``Attention.attend`` gives it."""
        ...


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A checked turn on its way in. ``origin`` is how messages call it."""

    id: str
    session_id: str
    role: str
    speaker: str | None
    content: str
    timestamp: datetime
    session_time: datetime
    tokens: int
    language: str
    content_hash: str
    metadata: Mapping[str, Any]
    origin: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """How far a user's memory has come. A new epoch means that rows were removed or rewritten."""

    number: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Pending:
    """One entry that waits for the encoder. A later text under the same id has another ticket."""

    entry_id: str
    ticket: int
    speaker: str
    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """The passages of one entry, ready to be stored, with the ticket that asked for them."""

    entry_id: str
    ticket: int
    passages: Sequence[tuple[Passage, Encoding]]


class Store(Protocol):
    """The truth, as the engine's steps use it. See ``stores.sql.store`` for the details."""

    def add_turns(self, user_id: str, turns: Sequence[NewTurn], actor: str, *, queue: bool) -> list[NewTurn]:
        """Store the turns that are not there yet; returns those."""
        ...

    def pending(self, user_id: str, limit: int) -> list[Pending]:
        """Entries that wait for the encoder, the least tried first."""
        ...

    def pending_count(self, user_id: str | None = None) -> int:
        """How many entries wait for the encoder."""
        ...

    def save_encoded(self, user_id: str, encoded: Sequence[Encoded]) -> int:
        """Store passages whose ticket still holds, and take it; returns how many entries."""
        ...

    def note_failure(self, user_id: str, ids: Sequence[str], error: str) -> None:
        """Count a failed attempt."""
        ...

    def entries_by_id(self, user_id: str, ids: Sequence[str]) -> dict[str, MemoryEntry]:
        """This user's entries among the ids."""
        ...


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """Turns of one session that belong together, in order, with what compression made of each."""

    turn_ids: tuple[str, ...]
    compressions: tuple[Compression | None, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class QueuedSegment:
    """A segment that was claimed for extraction. ``tokens`` are those after compression."""

    id: str
    seq: int
    turn_ids: tuple[str, ...]
    tokens: int
    attempts: int


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry made from turns, ready to be stored; see ``MemoryEntry`` for the fields.

    Attributes:
        sources: ids of the turns that it rests on; at least one.
        by_words: it is found by its words alone; the encoder is not asked for it.
    """

    kind: Kind
    text: str
    sources: tuple[str, ...]
    session_id: str
    seq: int
    timestamp: datetime
    session_time: datetime
    tokens: int
    language: str
    role: Role | None = None
    speaker: str | None = None
    summary: str = ""
    importance: float | None = None
    topic_id: str | None = None
    event_time: tuple[datetime, datetime] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    by_words: bool = False


@dataclass(frozen=True, slots=True)
class TurnNote:
    """What extraction found out about a turn itself: the time that it speaks of."""

    event_time: tuple[datetime, datetime] | None = None


class Buffers(Protocol):
    """Sensory buffer, short-term buffer and queue of the extractor, in the truth; see ``stores.sql.buffers``."""

    def buffered(self, user_id: str, session_id: str, limit: int) -> list[Turn]:
        """The first turns of the session's sensory buffer, in order."""
        ...

    def before(self, user_id: str, session_id: str, seq: int, n: int) -> list[Turn]:
        """The ``n`` turns of the session before a position, in order."""
        ...

    def turns(self, user_id: str, ids: Sequence[str]) -> dict[str, Turn]:
        """This user's turns among the ids."""
        ...

    def compressed(self, user_id: str, ids: Sequence[str]) -> dict[str, str]:
        """The compressed texts of turns, by turn id, where there are any."""
        ...

    def vectors(self, user_id: str, ids: Sequence[str]) -> dict[str, Any]:
        """(dim,) float32 unit vectors of turns by turn id, of those that are encoded."""
        ...

    def waiting(self, user_id: str | None = None, session_id: str | None = None) -> list[Waiting]:
        """Sessions with something in their buffers."""
        ...

    def left_behind(self, user_id: str, session_id: str, before: datetime) -> list[str]:
        """Other sessions of the user whose buffers are to be flushed."""
        ...

    def hold(self, user_id: str, session_id: str, segments: Sequence[ClosedSegment]) -> bool:
        """Move turns into the short-term buffer; False, and nothing done, if one of them moved before."""
        ...

    def enqueue(self, user_id: str, session_id: str, at_least: int) -> int:
        """Queue the session's held segments if they have so many tokens together; returns how many."""
        ...

    def claim(
        self, user_id: str, owner: str, lease_seconds: float, limits: tuple[int, int], at_least: int
    ) -> list[QueuedSegment]:
        """Take the user's first queued segments; none while somebody else has some, or there are too few."""
        ...

    def renew(self, owner: str, lease_seconds: float) -> None:
        """Keep what was claimed."""
        ...

    def finish(
        self,
        user_id: str,
        owner: str,
        ids: Sequence[str],
        entries: Sequence[NewEntry],
        notes: Mapping[str, TurnNote],
        actor: str,
    ) -> list[str] | None:
        """Store what was made of claimed segments and take them off the queue; None if the claim was lost."""
        ...

    def fail(self, user_id: str, owner: str, ids: Sequence[str], error: str, *, tries: int) -> None:
        """Give claimed segments back; they are parked after so many failures (0 counts none)."""
        ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """One session's buffers: turns in the sensory one, segments held, queued and parked, and since when."""

    user_id: str
    session_id: str
    turns: int
    held: int
    queued: int
    parked: int
    since: datetime

    @property
    def open(self) -> bool:
        """There is something that a flush would take up."""
        return bool(self.turns or self.held or self.queued)


@dataclass(frozen=True, slots=True)
class View:
    """What an index shows of a user's memory for one question.

    Attributes:
        memory: the whole, or the part that matters.
        reason: why it is not what was configured; "" when it is.
    """

    memory: WorkingSet
    reason: str = ""


class VectorIndex(Protocol):
    """Finds entries by their vectors. ``testing.conformance`` has the laws."""

    def nearest(self, scope: Scope, vector: Any, k: int, filter: Filter) -> list[tuple[str, float]]:
        """The entries of largest cosine among those of the user that pass the filter.

        Args:
            scope: whose entries.
            vector: (dim,) float32, unit length.
            k: how many, at most.
            filter: turns pass, unless it names other kinds.

        Returns:
            ids with the cosine of the entry's nearest passage (-1..1), best first.
        """
        ...


class KeywordIndex(Protocol):
    """Finds entries by their words. ``testing.conformance`` has the laws."""

    def matching(self, scope: Scope, terms: Mapping[str, float], k: int, filter: Filter) -> list[tuple[str, float]]:
        """The entries that share most with the terms, among those of the user that pass the filter.

        Args:
            scope: whose entries.
            terms: of ``core.analyze``, with their weights (above 0).
            k: how many, at most.
            filter: turns pass, unless it names other kinds.

        Returns:
            ids of entries that share a term, with a score above 0, best first.
        """
        ...


class Index(Protocol):
    """What searches one user's memory; see ``stores.exact`` and ``stores.qdrant.index``."""

    def open(self) -> None:
        """Get ready, as far as that can be done now.

        Raises:
            StorageError: what is there cannot be used.
        """
        ...

    def about(
        self, scope: Scope, text: str, encoding: Encoding | None, k: int, filter: Filter
    ) -> AbstractContextManager[View]:
        """What is to be ranked for a question, up to date, held for this thread while the block runs."""
        ...

    def sample(self, user_id: str) -> AbstractContextManager[WorkingSet]:
        """Turns of the user that show which words are common."""
        ...

    def catch_up(self, user_id: str) -> Sequence[str]:
        """Learn what was written of a user; returns what went wrong, in words."""
        ...

    def flush(self, user_id: str | None) -> Sequence[str]:
        """Learn everything that was written, of a user or of all; returns what went wrong, in words."""
        ...

    def drop(self, user_id: str) -> None:
        """Let go of what is held in this process of a user."""
        ...

    def stats(self) -> dict[str, int]:
        """What is held in this process: users and bytes, about."""
        ...

    def findings(self, *, repair: bool) -> Sequence[Finding]:
        """How the index compares with the truth, for ``doctor``."""
        ...

    def close(self) -> None:
        """Give back connections and memory."""
        ...


Purpose = Literal["add_memory", "update", "summarize", "embedding"]
"""What tokens are spent on; usage is counted by it."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a language model answered.

    Attributes:
        text: the answer, not blank; it may have been cut off by the model's limit.
        input_tokens, output_tokens: as charged; counted in WordPiece where the model does not tell.
        model: name of the model that answered, which may be a fallback.
    """

    text: str
    input_tokens: int
    output_tokens: int
    model: str


@runtime_checkable
class LLM(Protocol):
    """A language model that follows instructions. Called from several threads at once.

    Attributes:
        name: identity for messages and statistics, such as ``deepseek/deepseek-chat``.
    """

    name: str

    def complete(
        self, system: str, user: str, *, schema: Mapping[str, Any] | None = None, purpose: Purpose
    ) -> Completion:
        """Answer one prompt.

        Args:
            system: the instructions.
            user: the data that they are about.
            schema: JSON Schema of the answer. A model that cannot be held to one is asked without
                it, so that the answer must be checked all the same.
            purpose: what the tokens are spent on.

        Raises:
            LLMError: there is no answer, and the model's own retries are used up.
        """
        ...
