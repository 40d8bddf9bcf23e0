"""What the engine asks of the world, as small protocols. Any object with these methods fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lightmem_integrations.core.types import Encoding, MemoryEntry, Passage

if TYPE_CHECKING:
    from lightmem_integrations.core.index import UserIndex


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


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A checked turn on its way in. ``seq`` is given by the store."""

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


@dataclass(frozen=True, slots=True)
class Version:
    """How far a user's memory has come. A new epoch means that rows were removed or rewritten."""

    number: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """The passages of one entry, ready to be stored."""

    entry_id: str
    passages: Sequence[tuple[Passage, Encoding]]


class Store(Protocol):
    """The truth, as the engine's steps use it. See ``stores.sql.store`` for the details."""

    def add_turns(self, user_id: str, turns: Sequence[NewTurn], actor: str, *, queue: bool) -> list[NewTurn]:
        """Store the turns that are not there yet; returns those."""
        ...

    def pending(self, user_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Entries that wait for the encoder: (id, who said it, text)."""
        ...

    def pending_count(self, user_id: str | None = None) -> int:
        """How many entries wait for the encoder."""
        ...

    def save_encoded(self, user_id: str, encoded: Sequence[Encoded]) -> None:
        """Store passages and take their entries out of the outbox."""
        ...

    def note_failure(self, user_id: str, ids: Sequence[str], error: str) -> None:
        """Count a failed attempt."""
        ...

    def entries_by_id(self, user_id: str, ids: Sequence[str]) -> dict[str, MemoryEntry]:
        """This user's entries among the ids."""
        ...


class Index(Protocol):
    """Working sets by user."""

    def of(self, user_id: str) -> AbstractContextManager[UserIndex]:
        """The user's working set, up to date, held for this thread while the block runs."""
        ...
