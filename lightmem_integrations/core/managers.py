"""What makes memory of segments: rules, or a language model beside them.

A manager is given the segments of one short-term buffer and returns entries to be stored, and notes on
the turns themselves. It writes nothing, and whatever it fails at stays in the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from lightmem_integrations.core import llm_extract
from lightmem_integrations.core.analyze import detect_language
from lightmem_integrations.core.extract import (
    FACT_THRESHOLD,
    CorpusStats,
    Extraction,
    NameFinder,
    SourceTurn,
    extract,
)
from lightmem_integrations.core.passages import cut
from lightmem_integrations.core.ports import LLM, NewEntry, TurnNote
from lightmem_integrations.core.prompts import PROMPT_VERSION, ExtractionMode
from lightmem_integrations.core.tokens import wordpiece_counts
from lightmem_integrations.core.types import Turn, Vector

CALL_TOKENS = 4096
"""Text in one call to a language model, at most; a longer segment takes several."""

MessagesUse = Literal["hybrid", "user_only", "assistant_only"]


@dataclass(frozen=True, slots=True)
class HeldSegment:
    """A segment with its turns.

    Attributes:
        id: of the segment, which is that of its entry.
        compressed: texts by turn id, of turns that were compressed.
        vectors: (dim,) by turn id, of turns that are encoded.
    """

    id: str
    seq: int
    turns: Sequence[Turn]
    compressed: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, Vector] = field(default_factory=dict)

    def text_of(self, turn: Turn) -> str:
        """The turn, compressed where it was."""
        return self.compressed.get(turn.id, turn.content)


@dataclass(frozen=True, slots=True)
class Made:
    """What a manager made of some segments.

    Attributes:
        notes: on every turn of the segments that are done.
        failed: why, by the id of the segments that are not.
        errors: what went wrong besides, in words.
    """

    entries: Sequence[NewEntry]
    notes: Mapping[str, TurnNote]
    failed: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[str] = ()


class Manager(Protocol):
    """Makes memory of segments.

    Attributes:
        name: who it is, for the history.
        slow: it is to be kept off the reply path.
    """

    name: str
    slow: bool

    def make(self, segments: Sequence[HeldSegment], corpus: CorpusStats) -> Made:
        """Make entries of segments of one session.

        Raises:
            LightMemError: none of them is done.
        """
        ...


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """What is made.

    Attributes:
        messages_use: whose turns are read.
        metadata: keep keywords, entities, importance and event times.
        summary_tokens: longest summary of a segment (WordPiece); 0 makes none.
        threshold: 0..1; segments and facts of a lower importance make no entries.
        find_names: a further source of entities.
    """

    messages_use: MessagesUse = "hybrid"
    metadata: bool = True
    summary_tokens: int = 60
    threshold: float = 0.1
    find_names: NameFinder | None = None

    def uses(self, turn: Turn) -> bool:
        """The turn is read: people's and the assistant's words, not those of tools and of the system."""
        return turn.role in ("user", "assistant") and self.messages_use in ("hybrid", f"{turn.role}_only")


class ExtractiveManager:
    """Memory by rules: quotations, names, dates and counts. Deterministic, offline, and without a model."""

    name = "extractive"
    slow = False

    def __init__(self, options: ManagerOptions) -> None:
        self.options = options

    def make(self, segments: Sequence[HeldSegment], corpus: CorpusStats) -> Made:
        """One segment entry each, and its facts. They are found by their words: they say nothing new."""
        entries: list[NewEntry] = []
        notes: dict[str, TurnNote] = {}
        for segment in segments:
            used = [turn for turn in segment.turns if self.options.uses(turn)]
            found = self.read(segment, used, corpus)
            notes.update(_notes(segment, found, self.options))
            if used and found.importance >= self.options.threshold:
                summary = found.summary if self.options.summary_tokens else ""
                entries.append(_segment_entry(segment, used, found, summary, self.options, self.name))
                entries += self._facts(segment, used, found)
        return Made(entries, notes)

    def read(self, segment: HeldSegment, used: Sequence[Turn], corpus: CorpusStats) -> Extraction:
        """What the rules find in some turns of a segment."""
        sources = [SourceTurn(t.id, t.role, t.speaker, t.content, t.timestamp) for t in used]
        known = [segment.vectors[t.id] for t in used if t.id in segment.vectors]
        return extract(
            sources,
            corpus,
            np.stack(known) if known and len(known) == len(used) else None,
            summary_tokens=self.options.summary_tokens,
            fact_threshold=max(FACT_THRESHOLD, self.options.threshold),
            find_names=self.options.find_names,
        )

    def _facts(self, segment: HeldSegment, used: Sequence[Turn], found: Extraction) -> Iterator[NewEntry]:
        by_id = {turn.id: turn for turn in used}
        for fact, tokens in zip(found.facts, wordpiece_counts([f.text for f in found.facts]), strict=True):
            turn = by_id[fact.source_ids[0]]
            metadata: dict[str, Any] = {"made_by": self.name}
            if self.options.metadata:
                entities = [{"text": e.text, "kind": e.kind} for e in fact.entities]
                metadata |= {"keywords": list(fact.keywords), "entities": entities}
            yield NewEntry(
                kind="fact",
                text=fact.text,
                sources=fact.source_ids,
                session_id=turn.session_id,
                seq=turn.seq,
                timestamp=turn.timestamp,
                session_time=turn.session_time,
                tokens=tokens,
                language=detect_language(fact.text),
                role=turn.role,
                speaker=turn.speaker,
                importance=fact.importance if self.options.metadata else None,
                topic_id=segment.id,
                event_time=fact.event_time if self.options.metadata else None,
                metadata=metadata,
                by_words=True,
            )


class LLMManager:
    """Memory by a language model: one call a buffer for facts and summaries; the rules do the rest.

    Args:
        llm: whom to ask.
        options: as for the rules. Segments that the rules rate below the threshold are not sent.
        mode: ``flat`` facts, or factual and relational entries by ``event``.
    """

    slow = True

    def __init__(self, llm: LLM, options: ManagerOptions, mode: ExtractionMode = "flat") -> None:
        self.name = "llm"
        self._llm, self._mode = llm, mode
        self._rules = ExtractiveManager(options)

    @property
    def options(self) -> ManagerOptions:
        """What is made."""
        return self._rules.options

    def make(self, segments: Sequence[HeldSegment], corpus: CorpusStats) -> Made:
        """Entries of the segments that the model answered for; the others fail, by name."""
        notes: dict[str, TurnNote] = {}
        wanted: list[tuple[HeldSegment, list[Turn], Extraction]] = []
        for segment in segments:
            used = [turn for turn in segment.turns if self.options.uses(turn)]
            found = self._rules.read(segment, used, corpus)
            notes.update(_notes(segment, found, self.options))
            if used and found.importance >= self.options.threshold:
                wanted.append((segment, used, found))
        answers, errors = self._ask([(segment, used) for segment, used, _ in wanted])
        entries: list[NewEntry] = []
        failed: dict[str, str] = {}
        for segment, used, found in wanted:
            answer = answers[segment.id]
            if answer is None:
                failed[segment.id] = f"{self._llm.name} left the segment out twice"
                for turn in segment.turns:
                    notes.pop(turn.id, None)
                continue
            summary = answer.summary if self.options.summary_tokens else ""
            entries.append(_segment_entry(segment, used, found, summary, self.options, self.name))
            entries += self._facts(segment, used, answer)
        return Made(entries, notes, failed, errors)

    def _ask(
        self, wanted: Sequence[tuple[HeldSegment, Sequence[Turn]]]
    ) -> tuple[dict[str, llm_extract.Extracted | None], list[str]]:
        """The answer for each segment by id, None where the model gave none, and what went wrong."""
        parts = [(segment.id, part) for segment, used in wanted for part in _parts(segment, used)]
        answers: dict[str, llm_extract.Extracted | None] = {}
        errors: list[str] = []
        for call in _calls(parts):
            reply = llm_extract.extract(self._llm, [part for _, part in call], mode=self._mode)
            errors += reply.errors
            for n, (segment_id, _) in enumerate(call):
                answer = reply.segments.get(n)
                if segment_id in answers:
                    answers[segment_id] = _joined(answers[segment_id], answer)
                else:
                    answers[segment_id] = answer
        return answers, errors

    def _facts(self, segment: HeldSegment, used: Sequence[Turn], answer: llm_extract.Extracted) -> Iterator[NewEntry]:
        by_id = {turn.id: turn for turn in used}
        kept = [f for f in answer.facts if f.importance is None or f.importance >= self.options.threshold]
        for fact, tokens in zip(kept, wordpiece_counts([f.text for f in kept]), strict=True):
            turn = by_id[fact.sources[0]]
            metadata: dict[str, Any] = {"made_by": self._llm.name, "prompt_version": PROMPT_VERSION}
            if self.options.metadata:
                metadata |= {"keywords": list(fact.keywords), "entities": [{"text": e} for e in fact.entities]}
            if fact.event_id is not None:
                metadata |= {"category": fact.category, "event_id": fact.event_id}
            speakers = {by_id[i].speaker for i in fact.sources}
            yield NewEntry(
                kind="fact",
                text=fact.text,
                sources=fact.sources,
                session_id=turn.session_id,
                seq=turn.seq,
                timestamp=turn.timestamp,
                session_time=turn.session_time,
                tokens=tokens,
                language=detect_language(fact.text),
                speaker=speakers.pop() if len(speakers) == 1 else None,
                importance=fact.importance if self.options.metadata else None,
                topic_id=segment.id,
                event_time=fact.event_time if self.options.metadata else None,
                metadata=metadata,
            )


def transcript(segment: HeldSegment, turns: Sequence[Turn]) -> str:
    """The turns as compressed, each after the name of who said it."""
    return "\n".join(f"{(turn.speaker or '').strip() or turn.role}: {segment.text_of(turn)}" for turn in turns)


def _segment_entry(
    segment: HeldSegment,
    used: Sequence[Turn],
    found: Extraction,
    summary: str,
    options: ManagerOptions,
    made_by: str,
) -> NewEntry:
    text = transcript(segment, used)
    first = used[0]
    metadata: dict[str, Any] = {"made_by": made_by}
    if options.metadata:
        entities = [{"text": e.text, "kind": e.kind} for e in found.entities]
        metadata |= {"keywords": list(found.keywords), "entities": entities}
    return NewEntry(
        kind="segment",
        text=text,
        sources=tuple(turn.id for turn in used),
        session_id=first.session_id,
        seq=segment.seq,
        timestamp=first.timestamp,
        session_time=first.session_time,
        tokens=sum(wordpiece_counts([text])),
        language=detect_language(text),
        summary=summary,
        importance=found.importance if options.metadata else None,
        topic_id=segment.id,
        event_time=found.event_time if options.metadata else None,
        metadata=metadata,
        by_words=True,
    )


def _notes(segment: HeldSegment, found: Extraction, options: ManagerOptions) -> dict[str, TurnNote]:
    """A turn speaks of the first time that it names."""
    times = {time.source_id: time.interval for time in reversed(found.event_times)} if options.metadata else {}
    return {turn.id: TurnNote(times.get(turn.id)) for turn in segment.turns}


# ------------------------------------------------------------------------------------ calls
_Part = Sequence[llm_extract.SourceTurn]


def _parts(segment: HeldSegment, used: Sequence[Turn]) -> Iterator[_Part]:
    """The turns of a segment as the model sees them, in parts that fit into one call."""
    held: list[llm_extract.SourceTurn] = []
    total = 0
    for turn in used:
        text = segment.text_of(turn)
        for piece, tokens in _pieces(text):
            if held and total + tokens > CALL_TOKENS:
                yield held
                held, total = [], 0
            speaker = (turn.speaker or "").strip() or turn.role
            held.append(llm_extract.SourceTurn(turn.id, speaker, turn.timestamp, piece))
            total += tokens
    yield held


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """A text with its length in tokens; one that is too long for a call in passages without their overlap."""
    tokens = wordpiece_counts([text])[0]
    if tokens <= CALL_TOKENS // 2:
        yield text, tokens
        return
    at = 0
    for passage in cut(text):
        piece = text[max(at, passage.start) : passage.end]
        at = max(at, passage.end)
        if piece.strip():
            yield piece, wordpiece_counts([piece])[0]


def _calls(parts: Sequence[tuple[str, _Part]]) -> Iterator[list[tuple[str, _Part]]]:
    """Parts in the order given, as many to a call as fit."""
    held: list[tuple[str, _Part]] = []
    total = 0
    for segment_id, part in parts:
        tokens = sum(wordpiece_counts([turn.text for turn in part]))
        if held and (total + tokens > CALL_TOKENS or len(held) == llm_extract.MAX_SEGMENTS):
            yield held
            held, total = [], 0
        held.append((segment_id, part))
        total += tokens
    if held:
        yield held


def _joined(before: llm_extract.Extracted | None, after: llm_extract.Extracted | None) -> llm_extract.Extracted | None:
    """The answers for two parts of one segment; None when one is missing: a segment is done, or it is not."""
    if before is None or after is None:
        return None
    return llm_extract.Extracted(" ".join(filter(None, (before.summary, after.summary))), before.facts + after.facts)


CorpusOf = Callable[[str], CorpusStats]
"""Gives the counts over a user's own turns."""
