"""Time to reflect: what later facts make of earlier ones, summaries across events, and what may go.

Nothing is rewritten. An entry that no longer holds keeps its text, with the time until which it held and
the entry that took its place; ``undo`` takes that back. Every decision is made on entries as they were
read, and is dropped if one of them has changed by the time it is to be committed.

Sources: the update queue, LightMem (arXiv 2510.18866, section 3.4); summaries over windows of time,
StructMem (arXiv 2604.21748); the prefix filter of the similarity join, Chaudhuri et al. (2006).
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from hashlib import sha256
from threading import Lock
from typing import Any, Protocol

import numpy as np

from lightmem_integrations.core.analyze import detect_language, terms
from lightmem_integrations.core.compress import FREE, Unit, units
from lightmem_integrations.core.extract import SourceTurn, extract
from lightmem_integrations.core.llm_update import MAX_CANDIDATES, MAX_NOTES, Action, Decision, Statement, decide
from lightmem_integrations.core.llm_update import summarize as ask_for_summary
from lightmem_integrations.core.ports import LLM, NewEntry
from lightmem_integrations.core.prompts import PROMPT_VERSION
from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.core.types import Kind, MemoryEntry, SummaryReport, SweepReport, UpdateReport
from lightmem_integrations.errors import LLMError, LLMQuotaError, LLMResponseError, UsageError

__all__ = ["Consolidation", "Consolidator", "Holding", "Outcome", "Pair", "Retention", "StoredFact"]

SIMILARITY = 0.8
"""From here on a later fact may be about the same as an earlier one: cosine, or Jaccard where there are no vectors."""

NEIGHBOURS = 20
"""A fact's nearest, among which the later ones are candidates (LightMem: top-k of 20, cut to 10)."""

SAME = 0.9
"""Jaccard of the words of two texts that say the same, function words included."""

MIN_NOTES = 2
"""A window with fewer facts has no summary."""

SUMMARY_WORDS, SUMMARY_TOKENS = 150, 200
"""Longest summary: what a language model is told, and the limit without one (WordPiece)."""

NEUTRAL_IMPORTANCE = 0.5
"""Of what nobody rated."""

GIVE_UP_AFTER = 5
"""Calls in a row without an answer after which it is the model, and not an entry."""

_ROWS = 512  # of the similarity matrix that are held at a time


# ------------------------------------------------------------------------------------ what is stored
@dataclass(frozen=True, slots=True)
class StoredFact:
    """A fact as consolidation reads it.

    Attributes:
        entry: with its embedding, where that was asked for and is there.
        seq: place in its session.
        by_words: it is found by its words alone, and has no vector to wait for.
    """

    entry: MemoryEntry
    seq: int
    by_words: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """An earlier fact and a later one that resembles it; ``similarity`` in 0..1."""

    earlier: str
    later: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided, and on what grounds.

    Attributes:
        seen: version of every entry that it rests on, by id, as it was read.
        settles: pairs (earlier, later) of the queue that need no further decision.
        replaced: entries that no longer hold; ``by`` holds instead, from the time it was said.
        by: an entry that is there, by id, or a new one; None when nothing is replaced.
        basis: ids that a new entry's id is made of, so that it is made once.
    """

    seen: Mapping[str, int]
    settles: Sequence[tuple[str, str]] = ()
    replaced: Sequence[str] = ()
    by: str | NewEntry | None = None
    basis: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """What retention needs to know of an entry, whether it is in force or not."""

    id: str
    kind: Kind
    timestamp: datetime
    importance: float | None
    superseded_by: str | None
    sources: Sequence[str]


class Consolidation(Protocol):
    """The truth, as consolidation uses it; see ``stores.sql.consolidation``."""

    def facts(
        self,
        user_id: str,
        session_id: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: bool = False,
        history: bool = False,
    ) -> list[StoredFact]:
        """Facts in force, oldest first; with ``history`` also those that were replaced."""
        ...

    def summaries(self, user_id: str) -> list[MemoryEntry]:
        """Summaries across events that are in force."""
        ...

    def enqueue(self, user_id: str, pairs: Sequence[Pair]) -> None:
        """Put pairs into the update queue that were never there."""
        ...

    def waiting(self, user_id: str, earlier: str | None = None) -> dict[str, list[str]]:
        """Undecided pairs of facts in force: for each earlier one, oldest first, the later ones, nearest first."""
        ...

    def commit(self, user_id: str, outcome: Outcome, actor: str) -> bool:
        """Do what was decided, in one transaction; False, and nothing done, if it was overtaken."""
        ...

    def undo(self, user_id: str, entry_id: str, actor: str) -> list[str]:
        """Take back an entry's last change; returns the entries that hold again."""
        ...

    def users(self) -> list[str]:
        """Everybody who has a memory."""
        ...

    def expired(self, user_id: str, now: datetime) -> list[str]:
        """Entries whose time is up."""
        ...

    def holdings(self, user_id: str) -> list[Holding]:
        """All entries."""
        ...

    def remove(self, user_id: str, ids: Sequence[str]) -> dict[str, int]:
        """Remove entries, and with a turn all that was made of it; returns the rows, by table."""
        ...


# ------------------------------------------------------------------------------------ the steps
class Consolidator:
    """Looks after what was made of turns. Safe to call from several threads and processes.

    Args:
        store: the truth.
        llm: decides and sums up; None goes by rules.
        similarity: 0..1, from which a later fact may update an earlier one.
        candidates: later facts compared with one earlier fact, 1 to 10.
        threads: calls to the language model at a time, at least 1.
        encode: called with the user id when there are new texts, so that they are encoded before they are
            compared; whatever it returns is passed over.

    Raises:
        UsageError: a number is out of range.
    """

    def __init__(
        self,
        store: Consolidation,
        llm: LLM | None = None,
        *,
        similarity: float = SIMILARITY,
        candidates: int = MAX_CANDIDATES,
        threads: int = 4,
        encode: Callable[[str], object] = lambda user_id: None,
    ) -> None:
        if not 0 <= similarity <= 1:
            raise UsageError("similarity", "must lie in 0..1", similarity)
        if not 1 <= candidates <= MAX_CANDIDATES:
            raise UsageError("candidates", f"must lie in 1..{MAX_CANDIDATES}", candidates)
        if threads < 1:
            raise UsageError("threads", "must be at least 1", threads)
        self._store, self._llm, self._threads = store, llm, threads
        self._similarity, self._limit, self._encode = similarity, candidates, encode

    # ------------------------------------------------------------------ update
    def update(
        self, user_id: str, session_id: str | None = None, *, only: Collection[str] | None = None
    ) -> UpdateReport:
        """Let later facts merge with earlier ones, or replace them.

        Facts that say the same are merged. With a language model, each fact is then compared with the
        later ones that resemble it, in one call. This goes on until nothing is left to decide, so that a
        second call does nothing unless there are new facts. Decisions that could not be made wait in
        the queue for the next call.

        Args:
            user_id: whose facts.
            session_id: only facts of this conversation, among themselves.
            only: only pairs that one of these entries is part of, such as the new ones.

        Returns:
            facts that were looked at and kept, merged with others, and superseded; and what went wrong.

        Raises:
            StorageError: the database refused; what was decided before is done.
        """
        tally = _Tally()
        while self._round(user_id, session_id, None if only is None else frozenset(only), tally):
            self._encode(user_id)
        done = tally.done
        return UpdateReport(done["keep"], done["merge"], done["supersede"], tally.reasons())

    def undo(self, user_id: str, entry_id: str) -> list[str]:
        """Take back the last change of an entry; ``update`` does not make it again.

        Of one that was superseded, that. Of one that was merged, or came of a merge, the merge: the
        merged entry goes, and the others hold again. A summary gives way to the one before it, until
        the next ``summarize``.

        Args:
            user_id: whose entry.
            entry_id: the entry.

        Returns:
            ids of the entries that hold again.

        Raises:
            UsageError: there is nothing to undo, or a later change is to be undone first.
        """
        return self._store.undo(user_id, entry_id, "undo")

    def _round(self, user_id: str, session_id: str | None, only: frozenset[str] | None, tally: _Tally) -> bool:
        """Decide what can be decided now; True when something was, which may leave more to decide."""
        facts = self._store.facts(user_id, session_id, vectors=self._llm is not None)
        pairs = list(duplicates(facts, self._limit))
        if self._llm is not None:
            pairs += resembling(facts, self._similarity, self._limit, only)
        self._store.enqueue(user_id, [p for p in pairs if only is None or p.earlier in only or p.later in only])
        within = frozenset(fact.entry.id for fact in facts)
        open_now = within - tally.failed
        todo = [
            earlier
            for earlier, later in self._store.waiting(user_id).items()
            if earlier in open_now and (only is None or not only.isdisjoint((earlier, *later)))
        ]
        before = tally.done.total()
        left = [earlier for earlier in todo if not self._merge_duplicates(user_id, earlier, within, tally)]
        if self._llm is not None and left:
            with ThreadPoolExecutor(min(self._threads, len(left)), thread_name_prefix="lightmem-update") as pool:
                list(pool.map(partial(self._ask, self._llm, user_id, within=within, tally=tally), left))
        return tally.done.total() > before and not tally.stopped

    def _open(self, user_id: str, earlier: str, within: Collection[str]) -> list[StoredFact]:
        """A fact and the later ones that it is to be compared with, as they are now; fewer than two if it was done."""
        later = [i for i in self._store.waiting(user_id, earlier).get(earlier, ()) if i in within][: self._limit]
        found = {fact.entry.id: fact for fact in self._store.facts(user_id, ids=[earlier, *later])}
        return [found[i] for i in (earlier, *later) if i in found] if earlier in found else []

    def _merge_duplicates(self, user_id: str, earlier: str, within: Collection[str], tally: _Tally) -> bool:
        """Merge a fact with those that say the same; True when nothing is left to decide about it for now."""
        facts = self._open(user_id, earlier, within)
        same: list[StoredFact] = facts[:1]
        for fact in facts[1:]:
            if all(say_the_same(fact.entry, other.entry) for other in same):
                same.append(fact)
        if len(same) < 2:
            return len(facts) < 2
        said = _by_time(same)
        fullest = max(said, key=lambda fact: (len(_words(fact.entry.memory)), said.index(fact)))
        settles = [(earlier, fact.entry.id) for fact in same[1:]]
        if self._store.commit(user_id, _merge(said, same, merged(said, fullest.entry.memory), settles), "update"):
            tally.count("merge", len(same))
        return True

    def _ask(self, llm: LLM, user_id: str, earlier: str, *, within: Collection[str], tally: _Tally) -> None:
        """Have the language model decide about one fact."""
        if tally.stopped:
            tally.leave()
            return
        facts = self._open(user_id, earlier, within)
        if len(facts) < 2:
            return
        entry, *candidates = (Statement(f.entry.id, _attributed(f.entry), f.entry.timestamp) for f in facts)
        try:
            decision = decide(llm, entry, candidates)
        except LLMError as error:
            tally.fail(earlier, error)
            return
        tally.answered()
        if self._store.commit(user_id, self._outcome(llm, facts, decision), "update"):
            tally.count(decision.action, 1 + len(decision.ids) if decision.action == "merge" else 1)

    def _outcome(self, llm: LLM, facts: Sequence[StoredFact], decision: Decision) -> Outcome:
        earlier = facts[0].entry.id
        settles = [(earlier, fact.entry.id) for fact in facts[1:]]
        if decision.action == "merge":
            said = _by_time([facts[0], *(f for f in facts[1:] if f.entry.id in decision.ids)])
            made_by = {"made_by": llm.name, "prompt_version": PROMPT_VERSION}
            return _merge(said, facts, merged(said, decision.text, made_by), settles)
        if decision.action == "supersede":
            return Outcome(_versions(facts), settles, replaced=[earlier], by=decision.ids[0])
        return Outcome(_versions(facts), settles)

    # ------------------------------------------------------------------ summaries
    def summarize(self, user_id: str, window: timedelta = timedelta(days=1), *, flush: bool = False) -> SummaryReport:
        """Sum up what was said, window by window, across sessions.

        A window is a span of the speakers' own calendar: with one day, the day of the facts' timestamps;
        with seven, the week from Monday. It is summed up from the facts that held at its end, the 100
        most important ones if there are more. Where facts were added or replaced since, a new summary
        supersedes the old one; otherwise nothing is done.

        Args:
            user_id: whose facts.
            window: longer than 0.
            flush: also the window that is not over yet.

        Raises:
            UsageError: a window of no length.
            StorageError: the database refused; the summaries made before are there.
        """
        if window <= timedelta(0):
            raise UsageError("window", "must be longer than 0", window)
        now = datetime.now(timezone.utc)
        held = {summary.metadata.get("window"): summary for summary in self._store.summaries(user_id)}
        tally = _Tally()
        made = replaced = 0
        for name, end, facts in windows(self._store.facts(user_id, history=True), window):
            if len(facts) < MIN_NOTES or (end > now and not flush):
                continue
            old = held.get(name)
            notes = most_important(facts)
            basis = _digest(fact.entry.id for fact in notes)
            if old is not None and old.metadata.get("basis") == basis:
                continue
            if tally.stopped:
                tally.leave()
                continue
            new = self._summary(notes, {"window": name, "basis": basis}, tally)
            if new is not None and self._store.commit(user_id, _renewal(notes, old, new), "summarize"):
                made += 1
                replaced += old is not None
        return SummaryReport(made, replaced, tally.reasons())

    def _summary(self, notes: Sequence[StoredFact], metadata: Mapping[str, Any], tally: _Tally) -> NewEntry | None:
        """A new summary of facts in order of time; None where there is none."""
        used = notes
        if self._llm is None:
            text = _central(notes)
            made_by = {"made_by": "extractive"}
        else:
            try:
                statements = [Statement(n.entry.id, _attributed(n.entry), n.entry.timestamp) for n in notes]
                answer = ask_for_summary(self._llm, statements, max_words=SUMMARY_WORDS)
            except LLMError as error:
                tally.fail(notes[0].entry.id, error)
                return None
            tally.answered()
            text, used = answer.text, [n for n in notes if n.entry.id in answer.ids]
            made_by = {"made_by": self._llm.name, "prompt_version": PROMPT_VERSION}
        if not text:
            return None
        last = notes[-1]
        return NewEntry(
            kind="summary",
            text=text,
            sources=_united(n.entry.source_messages for n in used),
            session_id=last.entry.session_id,
            seq=last.seq,
            timestamp=last.entry.timestamp,
            session_time=last.entry.session_time,
            tokens=wordpiece_count(text),
            language=detect_language(text),
            importance=_highest(n.entry.importance for n in used),
            metadata={**metadata, **made_by},
            by_words=all(n.by_words for n in notes),
        )

    # ------------------------------------------------------------------ what may go
    def sweep(
        self, user_id: str | None = None, retention: Retention | None = None, *, dry_run: bool = False
    ) -> SweepReport:
        """Remove what has expired, and what has faded where a policy says so.

        With a turn goes all that was made of it.

        Args:
            user_id: whose memory; None for everybody's.
            retention: what fades; None: nothing.
            dry_run: remove nothing, and report what would go.

        Raises:
            StorageError: the database refused; the users before are done.
        """
        now = datetime.now(timezone.utc)
        expired: dict[str, tuple[str, ...]] = {}
        gone: dict[str, Mapping[str, float]] = {}
        rows = Counter[str]()
        for user in self._store.users() if user_id is None else [user_id]:
            over = self._store.expired(user, now)
            low = faded(self._store.holdings(user), retention, now) if retention and retention.threshold else {}
            low = {i: score for i, score in low.items() if i not in set(over)}
            expired |= {user: tuple(over)} if over else {}
            gone |= {user: low} if low else {}
            if (over or low) and not dry_run:
                rows.update(self._store.remove(user, [*over, *low]))
        return SweepReport(expired, gone, dict(rows), dry_run)


# ------------------------------------------------------------------------------------ what is alike
def resembling(
    facts: Sequence[StoredFact], least: float, limit: int, only: Collection[str] | None = None
) -> list[Pair]:
    """Each fact with its most similar later ones.

    Args:
        facts: oldest first.
        least: similarity from which a pair counts. Facts with vectors are compared by cosine, those
            without by the Jaccard of their terms.
        limit: later facts of one, among its 20 nearest.
        only: facts that are near none of these, nor one of them, may be left out.
    """
    encoded = [i for i, fact in enumerate(facts) if fact.entry.embedding is not None]
    others = [i for i, fact in enumerate(facts) if fact.entry.embedding is None]
    near: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for a, b, similarity in _near_by_vectors([facts[i] for i in encoded], least, only):
        near[encoded[a]].append((similarity, encoded[b]))
    for a, b, similarity in _near_by_words([_bag(facts[i].entry.memory) for i in others], least):
        near[others[a]].append((similarity, others[b]))
        near[others[b]].append((similarity, others[a]))
    pairs = []
    for i, found in near.items():
        nearest = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:NEIGHBOURS]
        later = [(similarity, j) for similarity, j in nearest if j > i][:limit]
        pairs += [Pair(facts[i].entry.id, facts[j].entry.id, similarity) for similarity, j in later]
    return pairs


def duplicates(facts: Sequence[StoredFact], limit: int) -> Iterator[Pair]:
    """Pairs of facts, given oldest first, that say the same; of equal ones each with the ``limit`` next."""
    groups: dict[Any, list[StoredFact]] = defaultdict(list)
    for fact in facts:
        groups[(*_framed(fact.entry), _plain(fact.entry.memory))].append(fact)
    for equal in groups.values():
        for n, fact in enumerate(equal):
            yield from (Pair(fact.entry.id, other.entry.id, 1.0) for other in equal[n + 1 : n + 1 + limit])
    latest = _by_time([equal[-1] for equal in groups.values()])
    for a, b, similarity in _near_by_words([frozenset(_plain(fact.entry.memory)) for fact in latest], SAME):
        if say_the_same(latest[a].entry, latest[b].entry):
            yield Pair(latest[a].entry.id, latest[b].entry.id, similarity)


def say_the_same(a: MemoryEntry, b: MemoryEntry) -> bool:
    """One says all that the other says, and adds nothing that could make it another statement.

    Both are of the same speaker and about the same time. The words of the shorter text are in the longer
    one, in their order; what is left are no numbers, dates, negations or names, and no more than a tenth.
    Two texts that differ in marks and capitals only are the same.
    """
    if _framed(a) != _framed(b):
        return False
    if _plain(a.memory) == _plain(b.memory):
        return True
    if _jaccard(frozenset(_plain(a.memory)), frozenset(_plain(b.memory))) < SAME:
        return False
    short, long = sorted((_words(a.memory), _words(b.memory)), key=len)
    remaining = iter(unit.key for unit in long)
    if not all(unit.key in remaining for unit in short):
        return False
    added = Counter(unit.key for unit in long) - Counter(unit.key for unit in short)
    return all(unit.level == FREE for unit in long if unit.key in added)


def _framed(entry: MemoryEntry) -> tuple[Any, ...]:
    """What makes the same words another statement: who said them, and about when."""
    return entry.role, entry.speaker, entry.event_time


def _words(text: str) -> list[Unit]:
    """The units of a text without its marks; a question stays one."""
    found = units(unicodedata.normalize("NFKC", text))
    return [unit for unit in found if unit.key == "?" or any(map(str.isalnum, unit.key))]


@lru_cache(maxsize=1 << 14)
def _plain(text: str) -> tuple[str, ...]:
    """The words as they are compared; the marks of a text that has none."""
    return tuple(unit.key for unit in _words(text)) or (text.strip(),)


def _bag(text: str) -> frozenset[str]:
    return frozenset(terms(text))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


def _near_by_vectors(
    facts: Sequence[StoredFact], least: float, only: Collection[str] | None
) -> Iterator[tuple[int, int, float]]:
    """(i, j, cosine) of the nearest of each fact, at most ``NEIGHBOURS``, from ``least`` on."""
    if len(facts) < 2:
        return
    vectors = np.stack([fact.entry.embedding for fact in facts if fact.entry.embedding is not None])
    rows = np.arange(len(facts))
    if only is not None:
        new = [i for i, fact in enumerate(facts) if fact.entry.id in only]
        rows = np.union1d(new, np.flatnonzero((vectors @ vectors[new].T >= least).any(axis=1))).astype(np.intp)
    for at in range(0, len(rows), _ROWS):
        part = rows[at : at + _ROWS]
        cosines = vectors[part] @ vectors.T
        cosines[np.arange(len(part)), part] = -np.inf  # itself
        for i, row in zip(part, cosines, strict=True):
            alike = np.flatnonzero(row >= least)
            for j in alike[np.argsort(-row[alike], kind="stable")][:NEIGHBOURS]:
                yield int(i), int(j), min(float(row[j]), 1.0)


def _near_by_words(bags: Sequence[frozenset[str]], least: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of every pair i < j from ``least`` on.

    Two sets that alike share one of the rarest terms of each: of n terms, the n - ⌈least · n⌉ + 1 rarest.
    """
    common = Counter(term for bag in bags for term in bag)
    holders: dict[str, list[int]] = defaultdict(list)
    for j, bag in enumerate(bags):
        rarest = sorted(bag, key=lambda term: (common[term], term))
        prefix = rarest[: len(bag) - math.ceil(least * len(bag) - 1e-9) + 1]
        for i in sorted({i for term in prefix for i in holders[term]}):
            similarity = _jaccard(bags[i], bag)
            if similarity >= least:
                yield i, j, similarity
        for term in prefix:
            holders[term].append(j)


# ------------------------------------------------------------------------------------ what comes of it
def merged(said: Sequence[StoredFact], text: str, metadata: Mapping[str, Any] | None = None) -> NewEntry:
    """One fact in place of several.

    It has all their sources, the highest importance, the span of their event times, and speaker and role
    where they agree; everything else is that of the latest.

    Args:
        said: the facts, oldest first.
        text: what the new one says.
        metadata: takes the place of theirs, key by key. Of theirs, lists are united.
    """
    entries = [fact.entry for fact in said]
    last = entries[-1]
    times = [entry.event_time for entry in entries if entry.event_time is not None]
    return NewEntry(
        kind="fact",
        text=text,
        sources=_united(entry.source_messages for entry in entries),
        session_id=last.session_id,
        seq=said[-1].seq,
        timestamp=last.timestamp,
        session_time=last.session_time,
        tokens=wordpiece_count(text),
        language=detect_language(text),
        role=last.role if all(entry.role == last.role for entry in entries) else None,
        speaker=last.speaker if all(entry.speaker == last.speaker for entry in entries) else None,
        summary=last.summary,
        importance=_highest(entry.importance for entry in entries),
        topic_id=last.topic_id,
        event_time=(min(start for start, _ in times), max(end for _, end in times)) if times else None,
        metadata={**_joined(entry.metadata for entry in entries), **(metadata or {})},
        by_words=all(fact.by_words for fact in said),
    )


def _merge(
    said: Sequence[StoredFact], seen: Sequence[StoredFact], by: NewEntry, settles: Sequence[tuple[str, str]]
) -> Outcome:
    ids = [fact.entry.id for fact in said]
    return Outcome(_versions(seen), settles, replaced=ids, by=by, basis=ids)


def _renewal(notes: Sequence[StoredFact], old: MemoryEntry | None, new: NewEntry) -> Outcome:
    seen = _versions(notes) | ({old.id: old.version} if old is not None else {})
    before = [old.id] if old is not None else []
    return Outcome(seen, replaced=before, by=new, basis=[*before, new.metadata["window"], new.metadata["basis"]])


def _versions(facts: Iterable[StoredFact]) -> dict[str, int]:
    return {fact.entry.id: fact.entry.version for fact in facts}


def _by_time(facts: Iterable[StoredFact]) -> list[StoredFact]:
    return sorted(facts, key=lambda fact: (fact.entry.timestamp, fact.seq, fact.entry.id))


def _attributed(entry: MemoryEntry) -> str:
    """The text, after the name of who said it where it is a quotation."""
    who = (entry.speaker or "").strip() or entry.role
    return f"{who}: {entry.memory}" if entry.role is not None and who else entry.memory


def _united(parts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for part in parts for value in part))


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Metadata of several entries as one: the later wins, and lists are united."""
    out: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            known = out.get(key)
            if isinstance(known, list) and isinstance(value, list):
                value = [*known, *(v for v in value if v not in known)]
            out[key] = value
    return out


# ------------------------------------------------------------------------------------ windows of time
def windows(facts: Sequence[StoredFact], window: timedelta) -> Iterator[tuple[str, datetime, list[StoredFact]]]:
    """Spans of the calendar in which something was said, in order.

    Args:
        facts: oldest first, in force or replaced.
        window: length of a span. They are laid from a Monday, by the clock of each fact's timestamp.

    Yields:
        the name, the end, and the facts that were said in it and held at its end.
    """
    by_start: dict[datetime, list[StoredFact]] = defaultdict(list)
    for fact in facts:
        said = fact.entry.timestamp.replace(tzinfo=None)
        by_start[datetime.min + (said - datetime.min) // window * window].append(fact)
    for start, members in sorted(by_start.items()):
        over = start + min(window, datetime.max - start)
        end = over.replace(tzinfo=members[-1].entry.timestamp.tzinfo)
        held = [f for f in members if f.entry.valid_to is None or f.entry.valid_to > end]
        yield f"{start.isoformat()}/{over.isoformat()}", end, held


def most_important(facts: Sequence[StoredFact]) -> list[StoredFact]:
    """As many as one summary takes, in their order; those that nobody rated count 0.5."""
    ranked = sorted(range(len(facts)), key=lambda i: (-_rated(facts[i].entry.importance), i))
    return [facts[i] for i in sorted(ranked[:MAX_NOTES])]


def _central(notes: Sequence[StoredFact]) -> str:
    """The most central of the facts, as quotations in order."""
    turns = [
        SourceTurn(n.entry.id, n.entry.role or "user", n.entry.speaker, n.entry.memory, n.entry.timestamp)
        for n in notes
    ]
    return extract(turns, summary_tokens=SUMMARY_TOKENS, fact_threshold=1.0).summary


def _digest(ids: Iterable[str]) -> str:
    return sha256(" ".join(sorted(ids)).encode()).hexdigest()


def _rated(importance: float | None) -> float:
    return NEUTRAL_IMPORTANCE if importance is None else importance


# ------------------------------------------------------------------------------------ retention
@dataclass(frozen=True, slots=True)
class Retention:
    """When an entry has faded: its score is below ``threshold``, and it is old enough.

    ::

        score = importance · 2^(-age / half-life)

    with 0.5 for the importance of what nobody rated, and the age since it was said.

    Attributes:
        threshold: 0..1; 0 keeps everything.
        half_life_days: age at which the score is halved; more than 0.
        min_age_days: nothing younger fades.

    Raises:
        UsageError: a number is out of range.
    """

    threshold: float = 0.0
    half_life_days: float = 90.0
    min_age_days: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError("retention.threshold", "must lie in 0..1", self.threshold)
        if not 0 < self.half_life_days < math.inf:
            raise UsageError("retention.half_life_days", "must be a number above 0", self.half_life_days)
        if not 0 <= self.min_age_days < math.inf:
            raise UsageError("retention.min_age_days", "must be a number of at least 0", self.min_age_days)

    def score(self, importance: float | None, age: timedelta) -> float:
        """0..1; what is to be said in the future has the age 0.

        >>> Retention(half_life_days=90).score(0.8, timedelta(days=180))
        0.2
        """
        days = max(age / timedelta(days=1), 0.0)
        return float(_rated(importance) * 2 ** (-days / self.half_life_days))


def faded(holdings: Sequence[Holding], retention: Retention, now: datetime) -> dict[str, float]:
    """What may go, with the scores.

    A turn stays as long as something that was made of it stays. What was replaced goes no later than what
    took its place: else it would hold again.

    Args:
        holdings: all entries of one user.
        retention: the policy.
        now: from when ages are counted.

    Returns:
        scores by entry id, oldest first.
    """
    by_id = {h.id: h for h in holdings}
    scores = {h.id: retention.score(h.importance, now - h.timestamp) for h in holdings}
    ripe = {h.id: now - h.timestamp >= timedelta(days=retention.min_age_days) for h in holdings}
    made = [h for h in holdings if h.kind != "turn"]
    for h in sorted(made, key=lambda h: h.timestamp, reverse=True):
        following = h.superseded_by
        seen = {h.id}
        while following in by_id and following not in seen:
            scores[h.id] = min(scores[h.id], scores[following])
            seen.add(following)
            following = by_id[following].superseded_by
    leading = defaultdict[str, list[str]](list)
    for h in made:
        for source in h.sources:
            leading[source].append(h.id)
    for h in holdings:
        if h.kind == "turn":
            kin = [h.id, *(i for source in h.sources for i in leading[source])]
            scores[h.id] = max(scores[i] for i in kin)
            ripe[h.id] = all(ripe[i] for i in kin)
    ordered = sorted(holdings, key=lambda h: (h.timestamp, h.id))
    return {h.id: scores[h.id] for h in ordered if ripe[h.id] and scores[h.id] < retention.threshold}


# ------------------------------------------------------------------------------------ counting
@dataclass
class _Tally:
    """What one call did so far. Shared by threads."""

    done: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    stopped: bool = False
    errors: dict[str, None] = field(default_factory=dict)
    left: int = 0
    in_a_row: int = 0
    lock: Any = field(default_factory=Lock)

    def count(self, action: Action, n: int) -> None:
        """Note what became of ``n`` facts."""
        with self.lock:
            self.done[action] += n

    def answered(self) -> None:
        """The model is there."""
        with self.lock:
            self.in_a_row = 0

    def fail(self, what: str, error: LLMError) -> None:
        """Note an error; after some in a row, or when the quota is used up, the rest is left for another time."""
        with self.lock:
            self.failed.add(what)
            self.errors[str(error)] = None
            self.in_a_row = 0 if isinstance(error, LLMResponseError) else self.in_a_row + 1
            self.stopped = self.stopped or isinstance(error, LLMQuotaError) or self.in_a_row >= GIVE_UP_AFTER

    def leave(self) -> None:
        """Count what is not asked for."""
        with self.lock:
            self.left += 1

    def reasons(self) -> tuple[str, ...]:
        """What went wrong, in words."""
        left = (f"{self.left} more were not asked for; they wait for the next call",) if self.left else ()
        return (*self.errors, *left)
