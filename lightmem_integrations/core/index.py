"""One user's memory in arrays: what exact search reads.

Positions 0..n-1 stand for entries in order of arrival; every per-entry array is indexed by them.
Texts are analysed and let go. Nothing here knows of a database or another user.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core import cues
from lightmem_integrations.core.analyze import terms
from lightmem_integrations.core.bm25 import IncrementalBM25, Windows
from lightmem_integrations.core.grow import Grow
from lightmem_integrations.core.temporal import describe
from lightmem_integrations.core.times import from_us, to_us
from lightmem_integrations.core.types import KINDS, ROLES, Filter

REACH = 4
"""Neighbours on each side of a turn, at most."""

WINDOW_TOKENS = 250
"""The neighbours on one side of a turn may have this many WordPiece tokens together."""

MAX_PIECE_ID = 1 << 22
"""No vocabulary is larger; more is a damaged value."""

MAX_EVENT_DAYS = 3
"""An event that took longer is on no day in particular."""

_FOREVER = np.iinfo(np.int64).max
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = 3_600_000_000


class EntryRow(Protocol):
    """What the index needs to know of an entry; a database row will do."""

    id: str
    session_id: str
    seq: int
    kind: str
    memory: str
    role: str | None
    speaker: str | None
    timestamp: str
    timestamp_us: int
    tokens: int
    language: str
    importance: float | None
    event_start_us: int | None
    event_end_us: int | None
    valid_from_us: int | None
    valid_to_us: int | None
    expires_at_us: int | None
    by_words: bool | None
    sources: Sequence[str]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """One encoded passage of an entry. ``pieces`` may have no rows."""

    start: int
    end: int
    vector: NDArray[np.float32]
    piece_ids: NDArray[np.uint32]
    pieces: NDArray[np.int8]


class _Codes:
    """Strings as small integers."""

    def __init__(self) -> None:
        self.code: dict[str, int] = {}
        self.names: list[str] = []

    def __call__(self, name: str) -> int:
        code = self.code.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code


@dataclass
class UserIndex:
    """The working set of one user.

    Args:
        gap_hours: turns of a session further apart than this are not neighbours.
    """

    gap_hours: float
    ids: list[str] = field(default_factory=list)
    position: dict[str, int] = field(default_factory=dict)
    metadata: list[Mapping[str, Any] | None] = field(default_factory=list)
    sources: list[Sequence[str]] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.sessions, self.speakers = _Codes(), _Codes()
        self.bm25 = IncrementalBM25()
        self._columns = {
            "time": Grow(np.int64), "day": Grow(np.int32), "seq": Grow(np.int32),
            "kind": Grow(np.int8), "role": Grow(np.int8),
            "session": Grow(np.int32), "speaker": Grow(np.int32), "tokens": Grow(np.int32),
            "importance": Grow(np.float32), "valid_from": Grow(np.int64), "valid_to": Grow(np.int64),
            "expires": Grow(np.int64), "event_day": Grow(np.int32), "event_days": Grow(np.int8),
            "by_words": Grow(bool), "asks": Grow(bool), "acknowledges": Grow(bool), "dated": Grow(bool),
            "left": Grow(np.int8), "right": Grow(np.int8), "first": Grow(np.int32), "count": Grow(np.int32),
            "norm": Grow(np.float32), "window_norm": Grow(np.float32),
        }  # fmt: skip
        self._neighbours = Grow(np.int32, 2 * REACH + 1)
        self._order: dict[int, list[int]] = {}
        self._passages: dict[str, Grow] = {}
        self.piece_df = np.zeros(0, np.int32)
        self._postings = 0
        self._expected = 0, 0
        self._unit_pieces = np.zeros((0, 0), np.float32)
        self._windows: dict[int, Windows] = {}
        self._unlinked: set[int] = set()
        self._beside: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> NDArray[Any]:
        """(n,) one property of every entry; see ``__post_init__`` for the names and types."""
        return self._columns[name].view

    def passage(self, name: str) -> NDArray[Any]:
        """One property of every passage.

        (passages,) ``owner``, ``start``, ``end``, ``piece_start``; (passages, dim) ``vector``;
        (pieces, token_dim) ``pieces``.
        """
        return self._passages[name].view

    @property
    def has_vectors(self) -> bool:
        """At least one entry is encoded."""
        return bool(self._passages)

    @property
    def has_pieces(self) -> bool:
        """At least one entry has token vectors."""
        return "pieces" in self._passages

    @property
    def pending(self) -> int:
        """Entries that wait for the encoder."""
        return int(((self.column("count") == 0) & ~self.column("by_words")).sum())

    @property
    def nbytes(self) -> int:
        """Bytes held, about: arrays exactly, postings and strings by their usual size."""
        arrays = sum(c.nbytes for c in (*self._columns.values(), *self._passages.values(), self._neighbours))
        return arrays + int(self.piece_df.nbytes + self._unit_pieces.nbytes) + 12 * self._postings + 400 * len(self.ids)

    # ------------------------------------------------------------------ growing
    def add(self, rows: Sequence[EntryRow]) -> None:
        """Append entries. Their passages may follow later."""
        if not rows:
            return
        base = len(self)
        for row in rows:
            self.position[row.id] = len(self.ids)
            self.ids.append(row.id)
            self.metadata.append(row.metadata or None)
            self.sources.append(row.sources)
            self.languages[row.language] += 1
            bag = weighted_terms(row)
            self.bm25.add(bag)
            self._postings += len(bag)
        nothing, one = np.zeros(len(rows)), np.ones(len(rows))
        values: dict[str, Sequence[Any] | NDArray[Any]] = {
            "time": [r.timestamp_us for r in rows],
            "day": [date.fromisoformat(r.timestamp[:10]).toordinal() for r in rows],
            "seq": [r.seq for r in rows],
            "kind": [KINDS.index(r.kind) for r in rows],
            "role": [ROLES.index(r.role) if r.role else -1 for r in rows],
            "session": [self.sessions(r.session_id) for r in rows],
            "speaker": [self.speakers(r.speaker or "") for r in rows],
            "tokens": [r.tokens for r in rows],
            "by_words": [bool(r.by_words) for r in rows],
            **_changeable(rows),
            "asks": [cues.asks(r.memory) for r in rows],
            "acknowledges": [cues.acknowledges(r.memory) for r in rows],
            "dated": [cues.mentions_time(r.memory) for r in rows],
            "norm": one,
            "window_norm": one,
        }
        for name, column in self._columns.items():
            column.extend(values.get(name, nothing))
        alone = np.full((len(rows), 2 * REACH + 1), -1)
        alone[:, REACH] = np.arange(base, len(self))
        self._neighbours.extend(alone)
        self._place([base + i for i, row in enumerate(rows) if row.kind == "turn"])
        self._windows.clear()
        self._beside = None

    def update(self, rows: Sequence[EntryRow]) -> None:
        """Take over what may change of entries that are here: importance, times of validity and event, sources."""
        at = [self.position[row.id] for row in rows]
        for name, values in _changeable(rows).items():
            self.column(name)[at] = values
        for position, row in zip(at, rows, strict=True):
            self.sources[position] = row.sources

    def expect(self, passages: int, pieces: int) -> None:
        """Make room for passages and token vectors that are about to come."""
        self._expected = passages, pieces + passages  # a passage without pieces gets one zero row

    def attach(self, entry: str, passages: Sequence[StoredPassage]) -> None:
        """Append the passages of one entry."""
        self.attach_all([(entry, passages)])

    def attach_all(self, encoded: Sequence[tuple[str, Sequence[StoredPassage]]]) -> None:
        """Append the passages of several entries that had none."""
        flat = [(self.position[entry], p) for entry, passages in encoded for p in passages]
        if not flat:
            return
        base = len(self._passages["owner"]) if self._passages else 0
        owners = np.array([owner for owner, _ in flat], np.int32)
        entries, starts, counts = np.unique(owners, return_index=True, return_counts=True)
        self.column("first")[entries] = base + starts
        self.column("count")[entries] = counts
        self._append_passages(flat, owners)
        self._append_pieces(flat, owners)
        self._unlinked.update(int(i) for i in entries)
        around = self._neighbours.view[entries][:, [REACH - 1, REACH + 1]]
        self._unlinked.update(int(i) for i in around[around >= 0])

    def _append_passages(self, flat: Sequence[tuple[int, StoredPassage]], owners: NDArray[np.int32]) -> None:
        if not self._passages:
            width = len(flat[0][1].vector)
            self._passages = {"owner": Grow(np.int32), "start": Grow(np.int32), "end": Grow(np.int32)}
            self._passages["vector"] = Grow(np.float32, width, self._expected[0])
        self._passages["owner"].extend(owners)
        self._passages["start"].extend([p.start for _, p in flat])
        self._passages["end"].extend([p.end for _, p in flat])
        self._passages["vector"].extend(np.stack([p.vector for _, p in flat]))

    def _append_pieces(self, flat: Sequence[tuple[int, StoredPassage]], owners: NDArray[np.int32]) -> None:
        known = "pieces" in self._passages
        width = self.passage("pieces").shape[1] if known else max(p.pieces.shape[1] for _, p in flat)
        if not width:
            return
        if not known:
            self._passages |= {"pieces": Grow(np.int8, width, self._expected[1]), "piece_start": Grow(np.int64)}
            missing = len(self._passages["owner"]) - len(flat)
            self._passages["piece_start"].extend(np.arange(missing))
            self._passages["pieces"].extend(np.zeros((missing, width)))
        # A passage without content pieces gets one zero row: segments of reduceat must not be empty.
        rows = [p.pieces if len(p.pieces) else np.zeros((1, width), np.int8) for _, p in flat]
        offsets = np.cumsum([0, *(len(r) for r in rows)])[:-1]
        self._passages["piece_start"].extend(len(self._passages["pieces"]) + offsets)
        self._passages["pieces"].extend(np.concatenate(rows))
        ids = np.concatenate([p.piece_ids for _, p in flat]).astype(np.int64)
        owner = np.repeat(owners, [len(p.piece_ids) for _, p in flat]).astype(np.int64)
        if not len(ids):
            return
        if int(ids.max()) >= MAX_PIECE_ID:
            raise ValueError(f"token id {int(ids.max())} is not one of a vocabulary")
        vocabulary = max(int(ids.max()) + 1, len(self.piece_df))
        distinct = np.unique(owner * vocabulary + ids) % vocabulary
        grown = np.bincount(distinct, minlength=vocabulary).astype(np.int32)
        grown[: len(self.piece_df)] += self.piece_df
        self.piece_df = grown

    def unit_pieces(self) -> NDArray[np.float32]:
        """(pieces, token_dim) the token vectors as float32, kept until there are more."""
        pieces = self.passage("pieces")
        if len(self._unit_pieces) != len(pieces):
            self._unit_pieces = pieces.astype(np.float32) / np.float32(127)
        return self._unit_pieces

    # ------------------------------------------------------------------ neighbours
    def _place(self, turns: Sequence[int]) -> None:
        """Put new turns into the order of their sessions and link them with their neighbours."""
        time, seq = self.column("time"), self.column("seq")
        by_session: dict[int, list[int]] = {}
        for turn in turns:
            by_session.setdefault(int(self.column("session")[turn]), []).append(turn)

        def key(turn: int) -> tuple[int, int]:
            return int(time[turn]), int(seq[turn])

        pieces: list[list[int]] = []
        inner: list[NDArray[np.bool_]] = []
        for session, new in by_session.items():
            order = self._order.setdefault(session, [])
            new.sort(key=key)
            first = bisect_left(order, key(new[0]), key=key)
            order[first:] = sorted([*order[first:], *new], key=key)
            last = max(bisect_left(order, key(new[-1]), key=key), first)
            # Neighbours of up to REACH on each side change, and depend on REACH more.
            piece = range(max(0, first - 2 * REACH), min(len(order), last + 2 * REACH + 1))
            pieces.append(order[piece.start : piece.stop])
            inner.append(np.abs(np.array(piece) - np.clip(piece, first, last)) <= REACH)
        if pieces:
            self._link(np.concatenate(pieces), np.concatenate(inner))

    def _link(self, turns: NDArray[np.int64], changed: NDArray[np.bool_]) -> None:
        """Find the neighbours of those of ``turns`` that ``changed``; a session's stand together and in order."""
        session, time, tokens = (self.column(name)[turns] for name in ("session", "time", "tokens"))
        gap = int(self.gap_hours * _MICROSECONDS_PER_HOUR)
        neighbours, left, right = _spans(turns, session, time, tokens, gap)
        mine = turns[changed]
        self._neighbours.view[mine] = neighbours[changed]
        self.column("left")[mine] = left[changed]
        self.column("right")[mine] = right[changed]
        self._unlinked.update(mine.tolist())

    def windows(self, reach: int) -> Windows:
        """The window of every entry: itself and up to ``reach`` neighbours on each side."""
        if reach not in self._windows:
            middle = slice(REACH - reach, REACH + reach + 1)
            self._windows[reach] = Windows(
                neighbours=self._neighbours.view[:, middle],
                left=np.minimum(self.column("left"), reach),
                right=np.minimum(self.column("right"), reach),
            )
        return self._windows[reach]

    def beside(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(n,) positions of the previous and the next turn of each entry; -1 where there is none."""
        if self._beside is None:
            around = self._neighbours.view
            previous = np.where(self.column("left") > 0, around[:, REACH - 1], -1)
            following = np.where(self.column("right") > 0, around[:, REACH + 1], -1)
            self._beside = previous, following
        return self._beside

    @property
    def is_conversation(self) -> bool:
        """At least half of the entries have a neighbour."""
        beside = (self.column("left") > 0) | (self.column("right") > 0)
        return 2 * int(beside.sum()) >= len(self)

    def norms(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What turns sums of vectors into cosines; 1 where there is no vector.

        Returns:
            (n,) length of the sum of an entry's passage vectors, and (n,) length of the sum of the
            unit vectors of the entry and its two neighbours.
        """
        norm, window_norm = self.column("norm"), self.column("window_norm")
        stale = np.array(sorted(self._unlinked), np.int64)
        self._unlinked.clear()
        for at in range(0, len(stale), 4096):
            part = stale[at : at + 4096]
            norm[part] = _lengths(self._sums(part))
        previous, following = self.beside()
        for at in range(0, len(stale), 4096):
            part = stale[at : at + 4096]
            total = self._units(part, norm)
            for side in (previous, following):
                there = side[part] >= 0
                total[there] += self._units(side[part][there], norm)
            window_norm[part] = _lengths(total)
        return norm, window_norm

    def _sums(self, entries: NDArray[np.int64]) -> NDArray[np.float32]:
        """(len(entries), dim) sum of each entry's passage vectors; zeros where there is none."""
        vectors, first, count = self.passage("vector"), self.column("first")[entries], self.column("count")[entries]
        out = np.zeros((len(entries), vectors.shape[1]), np.float32)
        for n in range(int(count.max(initial=0))):
            has = count > n
            out[has] += vectors[first[has] + n]
        return out

    def _units(self, entries: NDArray[Any], norm: NDArray[np.float32]) -> NDArray[np.float32]:
        units: NDArray[np.float32] = self._sums(entries) / norm[entries][:, None]
        return units

    # ------------------------------------------------------------------ filtering
    def mask(self, session_id: str | None, filter: Filter) -> NDArray[np.bool_] | None:
        """(n,) True where an entry may be returned; None when all may."""
        passes: list[NDArray[np.bool_]] = []
        wanted = [session_id] if session_id is not None else None
        for ids in (wanted, filter.session_ids):
            if ids is not None:
                passes.append(self._among("session", [self.sessions.code.get(i, -2) for i in ids]))
        if filter.speakers is not None:
            passes.append(self._among("speaker", [self.speakers.code.get(i, -2) for i in filter.speakers]))
        if filter.kinds is not None:
            passes.append(self._among("kind", [KINDS.index(k) for k in filter.kinds]))
        if filter.roles is not None:
            passes.append(self._among("role", [ROLES.index(r) for r in filter.roles]))
        if filter.since is not None:
            passes.append(self.column("time") >= to_us(filter.since))
        if filter.until is not None:
            passes.append(self.column("time") <= to_us(filter.until))
        if filter.min_importance is not None:
            passes.append(self.column("importance") >= np.float32(filter.min_importance))
        if filter.metadata is not None:
            passes.append(np.array([matches_metadata(m or {}, filter.metadata) for m in self.metadata], bool))
        passes += self._in_force(filter)
        return np.logical_and.reduce(passes) if passes else None

    def _in_force(self, filter: Filter) -> list[NDArray[np.bool_]]:
        now = to_us(filter.as_of or datetime.now(timezone.utc))
        passes: list[NDArray[np.bool_]] = []
        if filter.as_of is not None:
            passes += [self.column("time") <= now, self.column("valid_from") <= now]
        if not filter.include_superseded:
            ends = np.minimum(self.column("valid_to"), self.column("expires"))
            if bool((ends <= now).any()):
                passes.append(ends > now)
        return passes

    def _among(self, name: str, codes: Sequence[int]) -> NDArray[np.bool_]:
        return np.isin(self.column(name), codes)


def matches_metadata(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """True when every wanted key is there with an equal value; True and 1 are not equal here."""
    missing = object()
    pairs = ((found.get(key, missing), value) for key, value in wanted.items())
    return all(isinstance(a, bool) == isinstance(b, bool) and bool(a == b) for a, b in pairs)


def _spans(
    turns: NDArray[np.int64],
    session: NDArray[np.int32],
    time: NDArray[np.int64],
    tokens: NDArray[np.int32],
    gap: int,
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int8]]:
    """Neighbours of turns given in order, session by session, and how many on each side belong to the window.

    A window stops at a pause longer than ``gap`` (µs) and before ``WINDOW_TOKENS`` are exceeded.
    """
    n = len(turns)
    neighbours = np.full((n, 2 * REACH + 1), -1, np.int32)
    neighbours[:, REACH] = turns
    left, right = np.zeros(n, np.int8), np.zeros(n, np.int8)
    total = np.concatenate([[0], np.cumsum(tokens)])
    joined = np.diff(time) <= gap
    goes_left, goes_right = np.ones(n, bool), np.ones(n, bool)
    for step in range(1, min(REACH, n - 1) + 1):
        here = np.flatnonzero(session[:-step] == session[step:])  # the earlier of each pair that is ``step`` apart
        there = here + step
        neighbours[here, REACH + step] = turns[there]
        neighbours[there, REACH - step] = turns[here]
        ahead, behind = np.zeros(n, bool), np.zeros(n, bool)
        ahead[here] = joined[there - 1] & (total[there + 1] - total[here + 1] <= WINDOW_TOKENS)
        behind[there] = joined[here] & (total[there] - total[here] <= WINDOW_TOKENS)
        goes_right &= ahead
        goes_left &= behind
        right += goes_right
        left += goes_left
    return neighbours, left, right


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(rows, axis=1)
    return np.where(lengths > 0, lengths, np.float32(1))


def _changeable(rows: Sequence[EntryRow]) -> dict[str, Sequence[Any]]:
    """The columns that may change after an entry was added."""
    days = [_event_days(row) for row in rows]
    return {
        "importance": [np.nan if r.importance is None else r.importance for r in rows],
        "valid_from": [-_FOREVER if r.valid_from_us is None else r.valid_from_us for r in rows],
        "valid_to": [_FOREVER if r.valid_to_us is None else r.valid_to_us for r in rows],
        "expires": [_FOREVER if r.expires_at_us is None else r.expires_at_us for r in rows],
        "event_day": [first for first, _ in days],
        "event_days": [n for _, n in days],
    }


def _event_time(row: EntryRow) -> tuple[datetime, datetime] | None:
    """When it happened, in the zone in which it was said."""
    start, end = from_us(row.event_start_us), from_us(row.event_end_us)
    if start is None or end is None:
        return None
    zone = datetime.fromisoformat(row.timestamp).tzinfo
    return start.astimezone(zone), end.astimezone(zone)


def _event_days(row: EntryRow) -> tuple[int, int]:
    """The first day of the event, as an ordinal, and how many days it took; (0, 0) for no event or a long one."""
    event = _event_time(row)
    if event is None:
        return 0, 0
    first, last = event[0].date(), (event[1] - _MICROSECOND).date()
    days = (last - first).days + 1
    return (first.toordinal(), days) if days <= MAX_EVENT_DAYS else (0, 0)


def weighted_terms(row: EntryRow) -> Mapping[str, float]:
    """Fields of an entry as one bag of terms: text, speaker, date words. All weigh 1.

    What was made of turns has the words of its event as well. Turns have not: there they find nothing
    more (decision 0008).
    """
    bag = Counter(terms(row.memory, row.language))
    if row.speaker:
        bag.update(_speaker_terms(row.speaker))
    bag.update(_date_terms(row.timestamp[:10], row.language))
    if row.kind != "turn":
        event = _event_time(row)
        words = [] if event is None else terms(describe(*event, language=_described(row.language)))
        bag.update(term for term in words if term not in bag)
    return bag


def _described(language: str) -> str:
    return "zh" if language in {"zh", "ja"} else "en"


@lru_cache(maxsize=4096)
def _speaker_terms(speaker: str) -> tuple[str, ...]:
    return tuple(terms(speaker))


@lru_cache(maxsize=4096)
def _date_terms(day: str, language: str) -> tuple[str, ...]:
    """The words of an ISO date: "8 may 2023 monday", in Chinese and Japanese "2023年5月8日"."""
    when = date.fromisoformat(day)
    if language in {"zh", "ja"}:
        return tuple(terms(f"{when.year}年{when.month}月{when.day}日", language))
    return tuple(terms(f"{when.day} {cues.MONTHS[when.month - 1]} {when.year} {cues.WEEKDAYS[when.weekday()]}", "en"))
