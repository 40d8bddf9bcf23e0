"""Facts and summaries of a short-term buffer, from one call to a language model.

The answer is data and nothing else: of what it holds, only the fields that were asked for are read; turns
are named by the numbers that this call showed, so that an id, a user or a session in an answer leads
nowhere. A number that was not shown is rejected, never moved to the nearest one.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Literal, get_args

from lightmem_integrations.core.llm_json import clean_text, label_of, read_json, words_of
from lightmem_integrations.core.ports import LLM
from lightmem_integrations.core.prompts import ExtractionMode, extraction, repair
from lightmem_integrations.errors import LLMError, LLMResponseError, UsageError

__all__ = ["MAX_SEGMENTS", "Extracted", "Extraction", "Fact", "SourceTurn", "extract"]

MAX_SEGMENTS = 20
"""Segments in one call, at most."""
MAX_FACT_CHARS = 2_000
MAX_SUMMARY_CHARS = 4_000
_MAX_WORDS = 10

Category = Literal["factual", "relational"]

_EVENTS = uuid.UUID("3f0b5a52-7c0e-5d7e-9a53-2f1f6b6f6a11")
_DAY = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")


@dataclass(frozen=True, slots=True)
class SourceTurn:
    """A turn, or a piece of one, as the model gets to see it.

    Attributes:
        id: the turn's id. Pieces of one long turn have the same.
        speaker: who said it: a name, or the role.
        timestamp: when; timezone-aware.
        text: compressed or verbatim.
    """

    id: str
    speaker: str
    timestamp: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement from the conversation.

    Attributes:
        text: the statement, at most 2,000 characters.
        sources: ids of the turns that say it, in the order of the buffer; at least one.
        keywords, entities: at most 10 each.
        importance: 0..1; None where the model gave none in that range.
        event_time: when it happened: start and end, timezone-aware, the end not part of it.
        category: ``relational`` for what it means between people; only with mode ``event``.
        event_id: UUID that the entries of one event share; None with mode ``flat``. Deterministic in the
            segment's turns and the event's number.
    """

    text: str
    sources: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    importance: float | None = None
    event_time: tuple[datetime, datetime] | None = None
    category: Category = "factual"
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """What came of one segment. ``summary`` is "" where the model gave none."""

    summary: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Extraction:
    """What came of one buffer.

    Attributes:
        segments: by the position of the segment in the buffer; those that are missing are ``pending``.
        pending: positions of the segments that the model left out twice.
        calls: calls made, 1 or 2.
        input_tokens, output_tokens: of those calls.
        rejected_facts: statements without a text, or without a valid source.
        rejected_sources: numbers that name no turn of the call.
        rejected_times: event times that are no dates.
        errors: what went wrong, in words without text of the conversation.
    """

    segments: Mapping[int, Extracted]
    pending: tuple[int, ...] = ()
    calls: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    rejected_facts: int = 0
    rejected_sources: int = 0
    rejected_times: int = 0
    errors: tuple[str, ...] = ()

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact, segment by segment."""
        return tuple(fact for _, segment in sorted(self.segments.items()) for fact in segment.facts)


def extract(llm: LLM, segments: Sequence[Sequence[SourceTurn]], *, mode: ExtractionMode = "flat") -> Extraction:
    """Ask a language model for the facts and the summaries of a buffer, in one call.

    Segments that the answer leaves out, or that it was cut off in, are asked for once more, by themselves.

    Args:
        llm: whom to ask.
        segments: at most 20, each of at least one turn, all of one session.
        mode: ``event`` asks for factual and relational entries that share an event id (StructMem, arXiv
            2604.21748).

    Raises:
        UsageError: a segment is empty, there are too many, or the mode is unknown.
        LLMResponseError: both answers had nothing that can be used.
        LLMError: the call failed. In either case nothing was done, and the buffer stays pending.
    """
    _check(segments, mode)
    if not segments:
        return Extraction({}, calls=0)
    reading = _Reading(segments, mode)
    prompt = extraction(reading.shown(reading.missing()), mode)
    answer = llm.complete(prompt.system, prompt.user, schema=prompt.schema, purpose="add_memory")
    reading.take(answer.text)
    calls, used = 1, [answer.input_tokens, answer.output_tokens]
    if missing := reading.missing():
        again = repair(extraction(reading.shown(missing), mode), reading.problem(missing))
        try:
            answer = llm.complete(again.system, again.user, schema=again.schema, purpose="add_memory")
        except LLMError as error:
            if not reading.answered():
                raise
            reading.errors.append(str(error))
        else:
            calls, used = 2, [used[0] + answer.input_tokens, used[1] + answer.output_tokens]
            reading.take(answer.text)
    reading.settle()
    if not reading.answered():
        why = "; ".join(dict.fromkeys(reading.errors))
        raise LLMResponseError(f"{llm.name} gave two answers that cannot be used: {why}")
    return reading.result(calls, used[0], used[1])


def _check(segments: Sequence[Sequence[SourceTurn]], mode: str) -> None:
    if mode not in get_args(ExtractionMode):
        raise UsageError("extraction_mode", f"must be of {', '.join(get_args(ExtractionMode))}", mode)
    if len(segments) > MAX_SEGMENTS:
        raise UsageError("segments", f"must be at most {MAX_SEGMENTS}", len(segments))
    for n, turns in enumerate(segments):
        if not turns:
            raise UsageError(f"segments[{n}]", "must hold at least one turn", turns)


@dataclass(slots=True)
class _Part:
    """A segment as far as it was answered."""

    summary: str = ""
    facts: list[Fact] = field(default_factory=list)
    is_whole: bool = False


class _Reading:
    """Collects what the answers hold, by segment. Turns and segments are numbered from 1."""

    def __init__(self, segments: Sequence[Sequence[SourceTurn]], mode: ExtractionMode) -> None:
        self._segments, self._mode = segments, mode
        self._turns: dict[int, SourceTurn] = {}
        self._labels: list[range] = []
        for turns in segments:
            first = len(self._turns) + 1
            self._labels.append(range(first, first + len(turns)))
            self._turns.update(zip(self._labels[-1], turns, strict=True))
        self._parts: dict[int, _Part] = {}
        self._asked: tuple[int, ...] = ()
        self.errors: list[str] = []
        self.rejected_facts = self.rejected_sources = self.rejected_times = 0

    # ---- asking
    def missing(self) -> tuple[int, ...]:
        """Numbers of the segments that are not answered in full."""
        return tuple(
            n for n in range(1, len(self._segments) + 1) if n not in self._parts or not self._parts[n].is_whole
        )

    def answered(self) -> bool:
        """Whether any segment can be used."""
        return any(part.is_whole or part.facts for part in self._parts.values())

    def shown(self, numbers: Sequence[int]) -> dict[int, list[tuple[int, datetime, str, str]]]:
        """The segments for a prompt; only their turns can be cited in its answer."""
        self._asked = tuple(numbers)
        return {n: [self._row(label) for label in self._labels[n - 1]] for n in numbers}

    def problem(self, missing: Sequence[int]) -> str:
        """What to tell the model about its answer, without repeating any of it."""
        reason = f"{self.errors[-1]}; " if self.errors else ""
        return f"{reason}it has no complete entry for segment {', '.join(map(str, missing))}"

    def _row(self, label: int) -> tuple[int, datetime, str, str]:
        turn = self._turns[label]
        return label, turn.timestamp, turn.speaker, turn.text

    # ---- reading
    def take(self, text: str) -> None:
        """Read an answer to the segments shown last."""
        loose = read_json(text)
        if loose.problem:
            self.errors.append(loose.problem)
        found = _segment_objects(loose.value, self._asked)
        if found is None:
            self.errors.append(loose.problem or 'it has no list "segments"')
            return
        # Below the list of segments, an open bracket means that the last of them is not whole.
        is_list = isinstance(loose.value, list)
        is_last_partial = loose.open_depth > (1 if is_list else 2) or (loose.open_depth > 0 and not _nests(loose.value))
        for position, (number, item) in enumerate(found):
            self._take_segment(number, item, is_whole=not (is_last_partial and position == len(found) - 1))

    def _take_segment(self, number: int | None, item: Mapping[str, Any], *, is_whole: bool) -> None:
        facts = item.get("facts")
        if number not in self._asked:
            self.rejected_facts += len(facts) if isinstance(facts, list) else 0
            self.errors.append("it names a segment that was not shown")
            return
        if is_whole and not isinstance(facts, list):
            self.errors.append(f'segment {number} has no list "facts"')
            return
        read = list(self._facts(number, facts if isinstance(facts, list) else []))
        if is_whole and facts and not read:
            self.errors.append(f"no fact of segment {number} has both a text and the number of a turn that was shown")
            return
        part = self._parts.setdefault(number, _Part())
        if is_whole and not part.is_whole:
            part.facts, part.is_whole = [], True  # replaces what was saved of a cut-off answer
        part.summary = part.summary or clean_text(item.get("summary"), MAX_SUMMARY_CHARS)
        known = {(fact.text.casefold(), fact.sources) for fact in part.facts}
        for fact in read:
            if (fact.text.casefold(), fact.sources) not in known:
                known.add((fact.text.casefold(), fact.sources))
                part.facts.append(fact)

    def _facts(self, segment: int, items: list[Any]) -> Iterator[Fact]:
        for position, item in enumerate(items):
            text = clean_text(item.get("text"), MAX_FACT_CHARS) if isinstance(item, dict) else ""
            labels = self._sources(item.get("sources")) if isinstance(item, dict) else []
            if not text or not labels:
                self.rejected_facts += 1
                continue
            is_event = self._mode == "event"
            yield Fact(
                text=text,
                sources=tuple(dict.fromkeys(self._turns[label].id for label in labels)),
                keywords=words_of(item.get("keywords"), _MAX_WORDS),
                entities=words_of(item.get("entities"), _MAX_WORDS),
                importance=_importance(item.get("importance")),
                event_time=self._event_time(item.get("event_time"), self._turns[labels[0]].timestamp),
                category="relational" if is_event and item.get("type") == "relational" else "factual",
                event_id=self._event_id(segment, item.get("event"), position) if is_event else None,
            )

    def _sources(self, value: Any) -> list[int]:
        """The valid turn numbers, in order; the others are counted."""
        shown = {label for n in self._asked for label in self._labels[n - 1]}
        given = value if isinstance(value, list) else [value]
        labels = {label for label in map(label_of, given) if label in shown and label is not None}
        self.rejected_sources += sum(label_of(v) not in shown for v in given)
        return sorted(labels)

    def _event_time(self, value: Any, said: datetime) -> tuple[datetime, datetime] | None:
        if value is None or (isinstance(value, str) and value.strip().lower() in {"", "null", "none", "unknown"}):
            return None
        interval = read_interval(value, said.tzinfo or timezone.utc) if isinstance(value, str) else None
        self.rejected_times += interval is None
        return interval

    def _event_id(self, segment: int, value: Any, position: int) -> str:
        number = label_of(value)
        event = f"event {number}" if number is not None else f"entry {position}"  # unnumbered: by itself
        turns = "\0".join(self._turns[label].id for label in self._labels[segment - 1])
        return str(uuid.uuid5(_EVENTS, f"{turns}\0{event}"))

    # ---- the result
    def settle(self) -> None:
        """Put up with segments that were cut off twice: their complete facts are used."""
        for number in self.missing():
            part = self._parts.get(number)
            if part is not None and part.facts:
                self.errors.append(f"segment {number} was cut off; its {len(part.facts)} complete facts were kept")
            else:
                self._parts.pop(number, None)

    def result(self, calls: int, input_tokens: int, output_tokens: int) -> Extraction:
        """Positions count from 0 again."""
        return Extraction(
            segments={n - 1: Extracted(p.summary, tuple(p.facts)) for n, p in sorted(self._parts.items())},
            pending=tuple(n for n in range(len(self._segments)) if n + 1 not in self._parts),
            calls=calls,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            rejected_facts=self.rejected_facts,
            rejected_sources=self.rejected_sources,
            rejected_times=self.rejected_times,
            errors=tuple(dict.fromkeys(self.errors)),
        )


def _nests(value: Any) -> bool:
    """Whether segments stand in a list of their own."""
    return isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("segments"), list))


def _segment_objects(value: Any, asked: Sequence[int]) -> list[tuple[int | None, Mapping[str, Any]]] | None:
    """The (number, object) pairs of an answer, also where a small model left out the frame around them.

    None where there is no list of segments at all.
    """
    items = value.get("segments") if isinstance(value, dict) else value
    if items is None and isinstance(value, dict) and "facts" in value:
        items = [value]
    if not isinstance(items, list):
        return None
    objects = [item for item in items if isinstance(item, dict)]
    if len(objects) == len(asked) == 1 and "segment" not in objects[0]:
        return [(asked[0], objects[0])]
    return [(label_of(item.get("segment")), item) for item in objects]


def _importance(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= 1 else None


def read_interval(text: str, zone: tzinfo) -> tuple[datetime, datetime] | None:
    """A date or an interval of ISO 8601 as a half-open interval; None for what is neither.

    ``2023``, ``2023-05`` and ``2023-05-12`` are the whole year, month and day; of ``first/last`` both are
    part of the interval. A time of day stands for its minute. Where the text has no zone, ``zone`` is taken.
    """
    first, slash, last = text.strip().partition("/")
    begin = _period(first.strip(), zone)
    end = _period(last.strip(), zone) if slash else begin
    if begin is None or end is None or end[1] <= begin[0]:
        return None
    return begin[0], end[1]


def _period(text: str, zone: tzinfo) -> tuple[datetime, datetime] | None:
    match = _DAY.fullmatch(text)
    try:
        if match is None:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
            return moment, moment + timedelta(minutes=1)
        year, month, day = (int(part) if part else None for part in match.groups())
        start = datetime(year or 0, month or 1, day or 1, tzinfo=zone)
        return start, _after(start, has_month=month is not None, has_day=day is not None)
    except (ValueError, OverflowError):
        return None


def _after(start: datetime, *, has_month: bool, has_day: bool) -> datetime:
    """The first moment after the day, month or year that begins at ``start``."""
    if has_day:
        return start + timedelta(days=1)
    if has_month:
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start.replace(year=start.year + 1)
