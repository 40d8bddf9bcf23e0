"""What the engine asks of the world, as small protocols. Any object with these methods fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lightmem_integrations.core.types import Compression, Encoding, MemoryEntry, Passage

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


class Index(Protocol):
    """Working sets by user."""

    def of(self, user_id: str) -> AbstractContextManager[UserIndex]:
        """The user's working set, up to date, held for this thread while the block runs."""
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
