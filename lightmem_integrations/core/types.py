"""The nouns of the library: what goes in, what is kept, what comes back.

All are frozen: a result can be passed between threads, and nothing that a caller holds changes
behind its back. Times are timezone-aware ``datetime`` objects; lengths are in tokens unless a name
says otherwise; scores are floats in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.errors import UsageError

Role = Literal["user", "assistant", "system", "tool"]
Kind = Literal["turn", "fact", "segment", "summary"]
TurnState = Literal["buffered", "segmented", "extracted"]
Strategy = Literal["late", "weighted", "rrf", "intersection", "dense", "bm25"]
Profile = Literal["auto", "peer", "assistant", "notes"]

ROLES: tuple[Role, ...] = ("user", "assistant", "system", "tool")
KINDS: tuple[Kind, ...] = ("turn", "fact", "segment", "summary")
STRATEGIES: tuple[Strategy, ...] = ("late", "weighted", "rrf", "intersection", "dense", "bm25")
PROFILES: tuple[Profile, ...] = ("auto", "peer", "assistant", "notes")
MAX_ID_CHARS = 255
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

Vector = NDArray[np.float32]


def check_identifier(name: str, value: object) -> str:
    """Return ``value`` if it can be an id: non-blank, at most 255 characters, no NUL, no lone surrogates.

    Raises:
        UsageError: calling it ``name``.
    """
    if not isinstance(value, str):
        raise UsageError(name, "must be a string", value)
    if not value.strip():
        raise UsageError(name, "must not be blank", value)
    if len(value) > MAX_ID_CHARS:
        raise UsageError(name, f"must be at most {MAX_ID_CHARS} characters", f"{len(value)} characters")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise UsageError(name, "must not contain NUL bytes or lone surrogates", value)
    return value


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memory a call is about. First argument of every function inside the engine.

    Attributes:
        user_id: non-blank, at most 255 characters, any Unicode but NUL and lone surrogates.
        session_id: the same rules, or None for all sessions of the user.

    Raises:
        UsageError: when an id breaks these rules.
    """

    user_id: str
    session_id: str | None = None

    def __post_init__(self) -> None:
        check_identifier("user_id", self.user_id)
        if self.session_id is not None:
            check_identifier("session_id", self.session_id)


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the caller gave it, checked and in one form.

    Attributes:
        role: ``user``, ``assistant``, ``system`` or ``tool``.
        content: the text, verbatim. Not empty.
        speaker: a display name, where there is one.
        timestamp: timezone-aware; None means "on arrival".
        id: the caller's id, the idempotency key within one user; None makes one.
        metadata: JSON-serialisable values, kept and returned as they are.
    """

    role: Role
    content: str
    speaker: str | None = None
    timestamp: datetime | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_any(cls, value: Any, *, where: str = "message") -> Message:
        """Read any form of a message that the supported frameworks use.

        Accepts a ``Message``; a string (a user message); a ``(role, content)`` or
        ``(role, content, timestamp)`` tuple; an OpenAI dict (``role``, ``content`` as text or as
        parts); a LightMem dict (``time_stamp: "2023/05/20 (Sat) 00:44"``, ``speaker_name``); a
        LangChain message; a LlamaIndex ``ChatMessage``.

        Args:
            value: the message. It is never modified.
            where: how to call it in an error, such as ``"messages[3]"``.

        Raises:
            UsageError: naming the field, the rule and the value.
        """
        from lightmem_integrations.core.normalize import read_message

        return read_message(value, where)


@dataclass(frozen=True, slots=True)
class Turn:
    """One stored message.

    Attributes:
        id: the caller's message id, or the one that was made for it.
        seq: position within its session, counted from 0 in order of arrival.
        timestamp: when it was said; turns of a session are at least 500 ms apart when they arrive
            together with equal times.
        session_time: the time as the caller gave it, before that spacing.
        tokens: length of the text in WordPiece tokens.
        compressed_tokens: the same after compression; None until it was compressed.
        content_hash: SHA-256 hex of role, speaker and text, to tell a repeat from a conflict.
        state: ``buffered`` in the sensory buffer, ``segmented`` in the short-term buffer, and
            ``extracted`` when the extractor has seen it.
    """

    id: str
    user_id: str
    session_id: str
    seq: int
    role: Role
    content: str
    speaker: str | None
    timestamp: datetime
    session_time: datetime
    tokens: int
    compressed_tokens: int | None
    content_hash: str
    state: TurnState
    metadata: Mapping[str, Any]

    @property
    def weekday(self) -> str:
        """English short name, ``Mon`` to ``Sun``."""
        return WEEKDAYS[self.timestamp.weekday()]


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation of a user, in numbers.

    Attributes:
        created_at, last_updated: when its first and its last turn arrived.
        tokens: WordPiece tokens of its turns; ``compressed_tokens``: of those that were compressed,
            what was left of them.
        metadata: ``not_compressed``: turns that the compressor failed on and that were kept whole.
    """

    id: str
    user_id: str
    created_at: datetime
    last_updated: datetime
    turns: int
    tokens: int
    compressed_tokens: int
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One record of memory: a turn, a fact, a segment or a summary.

    Attributes:
        id: UUID. Deterministic in user, kind and sources, so that a repeated write replaces.
        memory: the text.
        summary: a shorter form, "" where there is none.
        timestamp: when it was said. ``event_time``: when it happened, where that is known.
        session_time: when its session took place.
        metadata: the caller's values, and ``keywords``, ``entities`` where they were extracted.
        importance: 0..1, or None when nobody rated it.
        source_messages: ids of the turns it was made from, as the caller gave them.
        compressed: the text after compression, None where it was not compressed.
        valid_from, valid_to: when it holds; ``superseded_by``: the entry that replaced it.
        expires_at: when it stops being returned.
        version: counts the changes, from 1.
        embedding: (dim,) float32, unit length; None unless it was asked for.
    """

    id: str
    user_id: str
    session_id: str
    kind: Kind
    memory: str
    timestamp: datetime
    session_time: datetime
    source_messages: tuple[str, ...]
    role: Role | None = None
    speaker: str | None = None
    summary: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    importance: float | None = None
    topic_id: str | None = None
    compressed: str | None = None
    event_time: tuple[datetime, datetime] | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    superseded_by: str | None = None
    expires_at: datetime | None = None
    version: int = 1
    embedding: Vector | None = field(default=None, compare=False, repr=False)

    @property
    def weekday(self) -> str:
        """English short name, ``Mon`` to ``Sun``."""
        return WEEKDAYS[self.timestamp.weekday()]


@dataclass(frozen=True, slots=True)
class Filter:
    """What an entry must be to be found. All conditions hold together; None means "any".

    Attributes:
        session_ids, kinds, roles, speakers: any of these.
        since, until: timezone-aware bounds of ``timestamp``, both inclusive.
        metadata: keys and the values that they must equal.
        min_importance: 0..1; entries that nobody rated do not pass.
        as_of: what was known and held at that time: said by then, and valid then.
        include_superseded: also return what a later entry replaced, and what has expired.

    Raises:
        UsageError: when a bound is not timezone-aware, or a value is out of range.
    """

    session_ids: Sequence[str] | None = None
    kinds: Sequence[Kind] | None = None
    roles: Sequence[Role] | None = None
    speakers: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: Mapping[str, Any] | None = None
    min_importance: float | None = None
    as_of: datetime | None = None
    include_superseded: bool = False

    def __post_init__(self) -> None:
        for name in ("since", "until", "as_of"):
            bound = getattr(self, name)
            if bound is not None and (not isinstance(bound, datetime) or bound.tzinfo is None):
                raise UsageError(f"filter.{name}", "must be a timezone-aware datetime", bound)
        for name in ("session_ids", "kinds", "roles", "speakers"):
            _check_names(f"filter.{name}", getattr(self, name))
        for name, allowed in (("kinds", KINDS), ("roles", ROLES)):
            for value in getattr(self, name) or ():
                if value not in allowed:
                    raise UsageError(f"filter.{name}", f"must be of {', '.join(allowed)}", value)
        if self.metadata is not None and not isinstance(self.metadata, Mapping):
            raise UsageError("filter.metadata", "must be a mapping of keys to values", self.metadata)
        importance = self.min_importance
        if importance is not None and not (isinstance(importance, int | float) and 0 <= importance <= 1):
            raise UsageError("filter.min_importance", "must be a number in 0..1", importance)


def _check_names(field: str, names: object) -> None:
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UsageError(field, "must be a list of strings", names)
    for name in names:
        if not isinstance(name, str) or any("\ud800" <= c <= "\udfff" for c in name):
            raise UsageError(field, "must hold strings without lone surrogates", name)


@dataclass(frozen=True, slots=True)
class Passage:
    """The part of an entry that is encoded and returned as one piece, by character offsets.

    A short entry is one passage; a long one is cut into overlapping passages on sentence bounds.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """What one pass of the encoder gives for one text.

    Attributes:
        vector: (dim,) float32, unit length.
        piece_ids: (pieces,) int32, vocabulary ids of the content pieces; empty where the model has
            no token vectors to give.
        pieces: (pieces, token_dim) int8; divide by 127 for unit vectors.
        piece_starts: (pieces,) int32, where each piece starts in the text; None where the model does
            not tell.
    """

    vector: Vector
    piece_ids: NDArray[np.int32]
    pieces: NDArray[np.int8]
    piece_starts: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Compression:
    """A text with its less informative words left out.

    Attributes:
        text: what was kept, joined; the original where ``failed``. Not blank unless the original is.
        kept: character spans (start, end) of the original that were kept, in order, apart from each
            other; ``core.compress.join_spans(original, kept)`` is ``text``.
        tokens_before, tokens_after: WordPiece tokens of the original and of ``text``.
        failed: the compressor failed or kept nothing, and this is the original.
    """

    text: str
    kept: tuple[tuple[int, int], ...]
    tokens_before: int
    tokens_after: int
    failed: bool = False

    @property
    def rate(self) -> float:
        """Share of the tokens that was kept, 0..1; 1 for a text without tokens."""
        return self.tokens_after / self.tokens_before if self.tokens_before else 1.0


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search.

    Attributes:
        entry: what was found. For a long turn ``entry.memory`` is the passage that matched;
            ``LightMem.expand(hit)`` gives the whole.
        score: 0..1, higher is better; comparable within one result list.
        parts: the signals behind the score, such as ``late``, ``bm25``, ``dense``, and the names of
            the ``strategy`` and ``profile`` that were used.
        passage: offsets of ``entry.memory`` in the full text of the entry.
    """

    entry: MemoryEntry
    score: float
    parts: Mapping[str, float | str] = field(default_factory=dict)
    passage: Passage | None = None

    @property
    def source_ids(self) -> tuple[str, ...]:
        """Ids of the turns behind this hit, as the caller gave them."""
        return self.entry.source_messages


@dataclass(frozen=True, slots=True)
class Context:
    """Recalled memory as text for a prompt: fenced, dated and attributed data, never instructions.

    Attributes:
        text: "" when nothing was recalled.
        hits: what the text holds, best first.
        tokens: length of ``text`` by ``tokenizer``; at most the budget that was asked for.
        tokenizer: ``cl100k_base`` where its vocabulary is on this machine, else ``wordpiece``.
    """

    text: str
    hits: tuple[Hit, ...]
    tokens: int
    tokenizer: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class AddResult:
    """What one ``add`` did.

    Attributes:
        ids: the id of every message given, in the caller's order.
        added: how many of them are new; the others were there already.
        pending: entries of this user that wait for the embedder; keyword search finds them already.
        tokens: WordPiece tokens of the new turns.
        errors: what went wrong after the turns were safe on disk, in words.
    """

    ids: tuple[str, ...]
    added: int
    pending: int = 0
    tokens: int = 0
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """Rows removed by one ``forget``, by table."""

    rows: Mapping[str, int]

    @property
    def entries(self) -> int:
        """Memory entries removed."""
        return self.rows.get("entries", 0)


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What a consolidation did, in entries."""

    kept: int = 0
    merged: int = 0
    superseded: int = 0
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that a model charged for one purpose."""

    purpose: str
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One row of an entry's history.

    Attributes:
        at: when. ``actor``: what did it, such as ``add`` or ``import``.
        operation: ``insert``, ``update`` or ``delete``.
        before, after: version of the entry; None where it did not exist.
    """

    entry_id: str
    at: datetime
    actor: str
    operation: str
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``doctor`` looked at. ``repaired`` counts what ``repair=True`` mended."""

    name: str
    ok: bool
    detail: str
    count: int = 0
    repaired: int = 0


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The state of a database: healthy when every finding is ``ok``."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True when there is nothing to mend."""
        return all(f.ok for f in self.findings)

    @property
    def pending(self) -> int:
        """Entries that wait for the embedder."""
        return sum(f.count for f in self.findings if f.name == "pending")


@dataclass(frozen=True, slots=True)
class SummaryReport:
    """What one ``summarize`` did.

    Attributes:
        made: new summaries; ``replaced``: how many of them took the place of an older one.
        errors: what went wrong, in words; the next call tries again.
    """

    made: int = 0
    replaced: int = 0
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one ``sweep`` removed, or would remove.

    Attributes:
        expired: entries whose time was up, by user. With a turn went all that was made of it.
        faded: entries that fell below the retention threshold, with their scores, by user.
        rows: rows removed, by table; empty with ``dry_run``.
        dry_run: nothing was removed.
    """

    expired: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    faded: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False
