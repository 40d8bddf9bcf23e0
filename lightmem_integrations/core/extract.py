"""What a segment of a conversation is about, without a language model.

``extract`` reads the turns of one segment and gives keywords, entities, an importance, a summary, the
times that are spoken of, and facts: sentences worth a key of their own. It is deterministic, looks at
nothing but its arguments, and makes up no word: whatever it gives is a quotation, a name of a speaker
or a resolved date. ``docs/extraction.md`` has the formulas.

Sources: c-TF-IDF after Grootendorst, "BERTopic" (arXiv 2203.05794), with the segment as the class and
the idf of Lucene's ``BM25Similarity`` over the user's own turns; centroid summaries after Radev et al.,
"Centroid-based summarization of multiple documents" (2004); redundancy control after Carbonell and
Goldstein, "The use of MMR" (1998).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.analyze import detect_language, stop_words, terms
from lightmem_integrations.core.cues import acknowledges, asks
from lightmem_integrations.core.passages import sentences
from lightmem_integrations.core.temporal import Granularity, TimeMention, describe, resolve
from lightmem_integrations.core.tokens import wordpiece, wordpiece_count
from lightmem_integrations.core.types import Role
from lightmem_integrations.errors import UsageError

__all__ = [
    "CorpusStats",
    "Entity",
    "EventTime",
    "Extraction",
    "Fact",
    "NameFinder",
    "SourceTurn",
    "extract",
    "spacy_names",
]

MAX_KEYWORDS = 8
SUMMARY_TOKENS = 60
FACT_THRESHOLD = 0.35
MAX_FACTS_PER_TURN = 3
MMR_LAMBDA = 0.7
"""Weight of centrality against novelty when the next sentence of a summary is chosen."""
MAX_SUMMARY_CANDIDATES = 48
_SUMMARY_TERMS = 4  # a shorter sentence is a greeting or a reaction more often than not
MAX_SENTENCE_CHARS = 1_000
"""A longer run without a sentence end is read as several sentences."""

EntityKind = Literal["name", "title", "date", "quantity", "money", "url", "email"]


# ------------------------------------------------------------------------------------------- types
@dataclass(frozen=True, slots=True)
class SourceTurn:
    """One turn of a segment, as far as the extractor needs it.

    Attributes:
        id: what ``Fact.source_ids`` and ``EventTime.source_id`` refer to.
        speaker: a display name; None shows the role instead.
        timestamp: when it was said; timezone-aware.
    """

    id: str
    role: Role
    speaker: str | None
    text: str
    timestamp: datetime

    @property
    def label(self) -> str:
        """Who said it, as summaries and keys show it."""
        return (self.speaker or "").strip() or self.role


@dataclass(frozen=True)
class CorpusStats:
    """How common terms are in the user's own memory; another user's texts never enter.

    Attributes:
        documents: number of turns.
        frequencies: for each term of ``analyze.terms``, in how many of them it occurs.
    """

    documents: int = 0
    frequencies: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> CorpusStats:
        """Count the texts of one user.

        >>> CorpusStats.of(["a red car", "a car"]).frequencies["car"]
        2
        """
        n, counts = 0, Counter[str]()
        for text in texts:
            n += 1
            counts.update(set(terms(text)))
        return cls(n, counts)

    def idf(self, term: str) -> float:
        """Rarity: ``ln(1 + (N - df + 0.5) / (df + 0.5))``, with a term counted at least once.

        The segment is part of the memory, whether or not the counts have caught up with it.
        """
        if term not in self._idf:
            df = max(self.frequencies.get(term, 0), 1)
            self._idf[term] = math.log(1 + (max(self.documents, df) - df + 0.5) / (df + 0.5))
        return self._idf[term]

    @cached_property
    def _idf(self) -> dict[str, float]:
        """Those asked for: the sentences of a segment share most of their words."""
        return {}

    @cached_property
    def highest_idf(self) -> float:
        """The idf of a term that occurs once."""
        return self.idf("")

    def specificity(self, term: str) -> float:
        """``idf`` in 0..1: 1 for a term that occurs once."""
        return self.idf(term) / self.highest_idf


@dataclass(frozen=True, slots=True)
class Entity:
    """Something with a name or a measure, in the words of the text. A date's text is ISO 8601."""

    text: str
    kind: EntityKind


@dataclass(frozen=True, slots=True)
class EventTime:
    """A time that a turn speaks of.

    Attributes:
        start, end: timezone-aware; ``end`` is not part of it.
        text: the expression.
        source_id: the turn.
    """

    start: datetime
    end: datetime
    text: str
    granularity: Granularity
    source_id: str

    @property
    def interval(self) -> tuple[datetime, datetime]:
        """As ``MemoryEntry.event_time`` keeps it."""
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence that deserves a retrieval key of its own, pointing at the turn that holds it.

    Attributes:
        text: the sentence, verbatim.
        key: what to index: speaker, sentence, and the resolved dates in words, which the sentence
            itself lacks ("Caroline: I went there yesterday. (Sunday 7 May 2023)").
        source_ids: the turn.
        importance: 0..1.
        event_time: the most exact time that it speaks of.
    """

    text: str
    key: str
    source_ids: tuple[str, ...]
    keywords: tuple[str, ...]
    entities: tuple[Entity, ...]
    importance: float
    event_time: tuple[datetime, datetime] | None


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in one segment.

    Attributes:
        keywords: words and phrases, the most telling first.
        entities: distinct, in order of first mention.
        importance: 0..1.
        summary: quoted sentences with their speakers, in the order of the conversation.
        event_times: every time spoken of, in order.
        event_time: that of the most important sentence that speaks of one.
        facts: in order.
    """

    keywords: tuple[str, ...] = ()
    entities: tuple[Entity, ...] = ()
    importance: float = 0.0
    summary: str = ""
    event_times: tuple[EventTime, ...] = ()
    event_time: tuple[datetime, datetime] | None = None
    facts: tuple[Fact, ...] = ()


NameFinder = Callable[[str], Iterable[Entity]]
"""Finds further entities in one sentence; what it gives joins what the rules find."""


def extract(
    segment: Sequence[SourceTurn],
    corpus: CorpusStats | None = None,
    vectors: NDArray[np.float32] | None = None,
    *,
    summary_tokens: int = SUMMARY_TOKENS,
    fact_threshold: float = FACT_THRESHOLD,
    find_names: NameFinder | None = None,
) -> Extraction:
    """Read one segment.

    Args:
        segment: its turns in order; may be empty.
        corpus: counts over the user's memory; None counts the segment's own turns.
        vectors: (turns, dim), the turns' unit vectors, for the summary; None goes by words alone.
        summary_tokens: longest summary, in WordPiece tokens; 0 makes none.
        fact_threshold: 0..1; sentences of a lower importance become no facts.
        find_names: a further source of entities, such as ``spacy_names``.

    Raises:
        UsageError: a number is out of range, or there is not one vector per turn.
    """
    if summary_tokens < 0:
        raise UsageError("summary_tokens", "must not be negative", summary_tokens)
    if not 0 <= fact_threshold <= 1:
        raise UsageError("fact_threshold", "must lie in 0..1", fact_threshold)
    if vectors is not None and (np.ndim(vectors) != 2 or len(vectors) != len(segment)):
        raise UsageError("vectors", f"must have the shape ({len(segment)}, dim)", np.shape(vectors))
    corpus = corpus or CorpusStats.of(turn.text for turn in segment)
    found = _Segment(segment, corpus, find_names).sentences
    if not found:
        return Extraction()
    weights = _class_weights(found, corpus)
    dated = [s for s in found if s.times]
    return Extraction(
        keywords=_keywords(found, weights, corpus),
        entities=_distinct(entity for s in found for entity in s.entities),
        importance=_segment_importance(s.importance for s in found),
        summary=_summary(found, segment, weights, vectors, summary_tokens),
        event_times=tuple(time for s in found for time in s.times),
        event_time=max(dated, key=lambda s: s.importance).event_time if dated else None,
        facts=_facts(found, segment, corpus, fact_threshold),
    )


# --------------------------------------------------------------------------------------- sentences
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_HAN_RUN = re.compile(r"[\u4e00-\u9fff]+")
_LETTERS = re.compile(r"[^\W\d_]")
_FIRST_PERSON = re.compile(r"\b(?:I|I['’](?:m|ve|ll|d)|[Mm]y|[Mm]ine|[Ww]e|[Ww]e['’](?:re|ve|ll|d)|[Oo]ur)\b|我")
_ACKNOWLEDGEMENT_ZH = re.compile(
    r"^\W*(?:谢谢|謝謝|感谢|哈哈|好的|嗯|哇|太好了|太棒了|没错|是的|不客气|再见|你好|真的吗)"
)


@dataclass(frozen=True)
class _Sentence:
    """One sentence and everything that is read off it."""

    turn: int
    text: str
    language: str
    words: tuple[tuple[str, str], ...]
    entities: tuple[Entity, ...]
    times: tuple[EventTime, ...]
    importance: float
    asks: bool
    is_specific: bool

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(term for term, _ in self.words)

    @property
    def event_time(self) -> tuple[datetime, datetime] | None:
        return min(self.times, key=lambda t: t.end - t.start).interval if self.times else None


class _Segment:
    """The sentences of a segment; what they need to know of each other is gathered first."""

    def __init__(self, turns: Sequence[SourceTurn], corpus: CorpusStats, find_names: NameFinder | None) -> None:
        self._corpus, self._find_names = corpus, find_names
        self._parts = [(i, turn, part) for i, turn in enumerate(turns) for part in _parts(turn)]
        self._languages = [detect_language(turn.text) for turn in turns]
        self._capitals, self._lower = _spellings(part.text for _, _, part in self._parts)
        self._speakers = {turn.speaker.strip() for turn in turns if turn.speaker and turn.speaker.strip()}
        # Whom one talks to is no news: "I agree, Melanie", "Hey Mel".
        self._addressed = {name for name in self._capitals if any(s.startswith(name) for s in self._speakers)}
        self._addressed |= self._speakers

    @cached_property
    def sentences(self) -> list[_Sentence]:
        """Those that hold a letter or a digit."""
        return [self._read(i, turn, part) for i, turn, part in self._parts if _WORD.search(part.text)]

    def _read(self, i: int, turn: SourceTurn, part: _Part) -> _Sentence:
        language, text = self._languages[i], part.text
        times = tuple(EventTime(m.start, m.end, turn.text[slice(*m.span)], m.granularity, turn.id) for m in part.times)
        words = tuple(pair for word in _WORD.findall(text) for pair in _pairs(word, language))
        entities = self._entities(text, language, times, [part.place(m) for m in part.times])
        telling = sum(map(self._corpus.specificity, dict(words)))
        about = [
            e for e in entities if (e.kind == "name" and e.text not in self._speakers) or e.kind not in ("name", "date")
        ]
        is_question = asks(text)
        importance = _importance(
            telling=telling,
            entities=len(about),
            dated=bool(times),
            first_person=turn.role == "user" and _FIRST_PERSON.search(text) is not None,
            question=is_question,
            acknowledgement=acknowledges(text) or _ACKNOWLEDGEMENT_ZH.match(text) is not None,
        )
        return _Sentence(i, text, language, words, entities, times, importance, is_question, bool(about or times))

    def _entities(
        self, text: str, language: str, times: Sequence[EventTime], spans: Sequence[tuple[int, int]]
    ) -> tuple[Entity, ...]:
        found = [(a, Entity(_iso(time), "date")) for (a, _), time in zip(spans, times, strict=True)]
        free = _blanked(text, spans)
        for kind, pattern in _PATTERNS:
            matches = list(pattern.finditer(free))
            if not matches:
                continue
            found += [(m.start(), Entity(m[m.lastindex or 0].strip(" .,"), kind)) for m in matches]
            free = _blanked(free, [m.span() for m in matches])
        found += _names(free, language, self._speakers, self._capitals, self._lower)
        if self._find_names is not None:
            found += [(max(text.find(e.text), 0), e) for e in self._find_names(text)]
        return _distinct(entity for _, entity in sorted(found, key=lambda pair: pair[0]) if entity.text)


def _pairs(word: str, language: str) -> Iterable[tuple[str, str]]:
    """The (term, surface) pairs of a word, or of a run of Han."""
    if word.isascii():
        return _word_pairs(word, language)
    return [
        (term, term if _HAN_RUN.match(term) else word)
        for term in terms(word, language)
        if len(term) > 1 or not _HAN_RUN.match(term)
    ]


@lru_cache(maxsize=1 << 16)
def _word_pairs(word: str, language: str) -> tuple[tuple[str, str], ...]:
    return tuple((term, word) for term in terms(word, language))


@dataclass(frozen=True, slots=True)
class _Part:
    """One sentence of a turn: where it starts, its text, and the time expressions that start in it."""

    start: int
    text: str
    times: tuple[TimeMention, ...]

    def place(self, mention: TimeMention) -> tuple[int, int]:
        """Offsets of the expression in the sentence; one that runs on, as "Sept. 3rd" does, is cut."""
        return mention.span[0] - self.start, min(mention.span[1] - self.start, len(self.text))


def _parts(turn: SourceTurn) -> Iterator[_Part]:
    """The sentences of a turn, without the blanks around them, none longer than ``MAX_SENTENCE_CHARS``."""
    mentions = deque(resolve(turn.text, turn.timestamp))
    for span in sentences(turn.text):
        for start in range(span.start, span.end, MAX_SENTENCE_CHARS):
            piece = turn.text[start : min(start + MAX_SENTENCE_CHARS, span.end)]
            times = []
            while mentions and mentions[0].span[0] < start + len(piece):
                times.append(mentions.popleft())
            if text := piece.strip():
                yield _Part(start + len(piece) - len(piece.lstrip()), text, tuple(times))


def _blanked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with the spans blanked out by a sign that no rule takes for a word."""
    for a, b in spans:
        text = text[:a] + "\0" * (b - a) + text[b:]
    return text


def _iso(time: EventTime) -> str:
    """A day as one date, anything longer as an ISO 8601 interval of days, the last included."""
    last = max(time.start, time.end.replace(hour=0, minute=0) if time.end.hour else _day_before(time.end))
    days = time.start.date().isoformat(), last.date().isoformat()
    return days[0] if days[0] == days[1] else "/".join(days)


def _day_before(moment: datetime) -> datetime:
    return datetime.fromordinal(moment.toordinal() - 1).replace(tzinfo=moment.tzinfo)


def _distinct(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    return tuple(dict.fromkeys(entities))


# ---------------------------------------------------------------------------------------- entities
_UNIT_ZH = "美元|元|块|塊|公里|千米|平方米|米|厘米|公斤|千克|斤|岁|歲|小时|小時|分钟|分鐘|度"
_MEASURE_ZH = "人|次|本|只|隻|张|張|部|家|门|个|個"
_PATTERNS: tuple[tuple[EntityKind, re.Pattern[str]], ...] = (
    ("url", re.compile(r"\b(?:https?://|www\.)[^\s<>\"'，。）)\]\0]+", re.IGNORECASE)),
    ("email", re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b")),
    ("title", re.compile(r"《([^《》\0]{1,40})》|[「『]([^「」『』\0]{1,40})[」』]")),
    ("title", re.compile(r"[\"“](?=[^\W_])([^\"“”\0.!?]{2,60})[\"”]")),
    (
        "money",
        re.compile(
            r"[$€£¥￥]\s?\d[\d,.]*(?:\s?(?:k|m|bn|thousand|million|billion)\b)?"
            r"|\b\d[\d,.]*\s?(?:k\s)?(?:dollars|euros|pounds|bucks|cents|usd|eur|gbp|rmb|yuan)\b"
            r"|[\d.,]+\s?(?:百|千|万|亿)?(?:美元|欧元|日元|元|块钱|块)",
            re.IGNORECASE,
        ),
    ),
    (
        "quantity",
        re.compile(
            rf"[\d一二两三四五六七八九十百千万]+(?:\.\d+)?\s?(?:个|個)?(?:{_UNIT_ZH})|\d+(?:\.\d+)?\s?(?:{_MEASURE_ZH})"
            r"|(?<![\w.])\d[\d,.]*\s?(?:%|°[CF]?"
            r"|[ -]?(?!(?:and|or|of|in|to|at|on|for|from|with|by|is|are|the|am|pm|as|if)\b)[a-z][a-z-]{0,20}\b)",
            re.IGNORECASE,
        ),
    ),
)
_HAN_NAME = re.compile(
    r"(?:[王李张張刘劉陈陳杨楊赵趙黄黃周吴吳徐孙孫胡朱高林何郭马馬罗羅梁宋郑鄭谢謝韩韓唐冯馮于董萧蕭程曹袁邓鄧许許傅沈曾彭吕呂]"
    r"[\u4e00-\u9fff]{0,2}(?:先生|女士|小姐|老师|老師|医生|醫生|教授|总|阿姨|叔叔))"
    r"|(?:(?<=[在去到从是])|(?<=[去到]了))(?:(?![的了是哪这那个和])[\u4e00-\u9fff]){2,6}?(?:大学|公司|医院|公园|博物馆|图书馆|餐厅|咖啡馆|酒店|机场|[市省县])"
)
_NAME_WORD = re.compile(r"[^\W\d_][^\W_]*(?:['’.&-][^\W_]+)*")
_JOINERS = frozenset(
    {"of", "the", "de", "del", "di", "da", "von", "van", "der", "la", "le", "los", "las", "el", "al", "du"}
)
# Words that open a sentence, or are capitalised for another reason, and are no names.
_OPENERS = """absolutely actually agreed ah aha alright also although amazing another anything anytime anyway aw
awesome aww awww basically besides brilliant btw bye certainly check cheers clearly come congrats congratulations
consider cool currently dear definitely despite due either else enjoy especially even ever every everyone
everything exactly excellent excited exciting fantastic feel finally first following fortunately fun gonna good
goodbye gosh got gotcha great guess guys ha haha happy hello here hey hi hmm honestly hope hopefully how however
huh imagine include including indeed instead interesting keep last lately later learning let lets like listen lol
lots love lovely made make many maybe meanwhile mom moreover morning much nah never nice nope nothing oh ok okay
omg one ooh oops ouch overall perfect perhaps phew please plus pretty probably proud quick really recently remember
right same say seeing seems seriously several since sincerely something sometimes soon sorry sounds speaking
spending start started still step stuff super sure take tell thank thanks therefore though thrilled today together
tomorrow tonight totally true trying unfortunately using usually wait wanna want way well whatever whenever
wherever whether wish without woah wonderful woohoo wow yay yeah yep yes yesterday yet yo yup gym dad god pm am tv
id asap fyi idk tbh etc faq diy vs"""
_CALENDAR = """monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thurs fri sat sun
january february march april may june july august september october november december jan feb mar apr jun jul aug
sep sept oct nov dec spring summer autumn fall winter"""
_NOT_NAMES = stop_words("en").union(_OPENERS.split(), _CALENDAR.split())
_STARTS_AFTER = re.compile(r"[.!?:;\"“”'‘(\[*#•>\n–—-]\s*$|\d\s*$|[\U0001F300-\U0001FAFF\u2600-\u27BF]\ufe0f?\s*$")


def _spellings(texts: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Words capitalised inside a sentence, and words in lower case, anywhere in a segment."""
    capitals, lower = set[str](), set[str]()
    for text in texts:
        for match in _NAME_WORD.finditer(text):
            word = match.group()
            if word[0].islower():
                lower.add(word)
            elif word[0].isupper() and not _starts_sentence(text, match.start()):
                capitals.add(word)
    return frozenset(capitals), frozenset(lower)


def _starts_sentence(text: str, at: int) -> bool:
    before = text[max(at - 4, 0) : at]
    return at == 0 or not before.strip() or _STARTS_AFTER.search(before) is not None


def _names(
    text: str, language: str, speakers: Iterable[str], capitals: frozenset[str], lower: frozenset[str]
) -> list[tuple[int, Entity]]:
    """Names by capitalisation, with where they start; Chinese ones by surname and title, or place."""
    found = [(m.start(), Entity(m.group(), "name")) for m in _HAN_NAME.finditer(text)] if language == "zh" else []
    for speaker in speakers:
        at = text.find(speaker)
        if at >= 0 and (not speaker.isascii() or re.search(rf"\b{re.escape(speaker)}\b", text)):
            found.append((at, Entity(speaker, "name")))
    tokens = list(_NAME_WORD.finditer(text))
    capital = sum(t.group()[0].isupper() for t in tokens)
    is_shouted = text.isupper() or (len(tokens) > 3 and capital > 0.75 * len(tokens))
    if is_shouted or language == "de":  # headings and German nouns: a capital tells nothing
        return found
    run: list[re.Match[str]] = []
    for token in tokens:
        if run and not _continues(text, run[-1], token):
            found += _closed(text, run, capitals, lower)
            run = []
        if run or token.group()[0].isupper():
            run.append(token)
    return found + _closed(text, run, capitals, lower)


def _continues(text: str, last: re.Match[str], token: re.Match[str]) -> bool:
    """Does the token belong to the name that the last one is part of?"""
    return text[last.end() : token.start()] == " " and (token.group()[0].isupper() or token.group() in _JOINERS)


def _closed(
    text: str, run: list[re.Match[str]], capitals: frozenset[str], lower: frozenset[str]
) -> list[tuple[int, Entity]]:
    """The name in a run of capitalised words and joiners, if there is one."""
    while run and not run[-1].group()[0].isupper():
        run = run[:-1]
    while run and _is_no_name(text, run[0], len(run), capitals, lower):
        run = run[1:]
        while run and not run[0].group()[0].isupper():
            run = run[1:]
    while run and run[-1].group().lower() in _NOT_NAMES and not _is_acronym(run[-1].group()):
        run = run[:-1]
    if not run:
        return []
    name = _without_possessive(text[run[0].start() : run[-1].end()])
    return [(run[0].start(), Entity(name, "name"))] if len(name) > 1 else []


def _is_acronym(word: str) -> bool:
    return len(word) > 1 and word.isupper() and word.lower() not in _NOT_NAMES


def _is_no_name(text: str, token: re.Match[str], length: int, capitals: frozenset[str], lower: frozenset[str]) -> bool:
    """Is the first word of a run capitalised for another reason than being a name?"""
    word = token.group()
    base = re.sub(r"['’].*$", "", word)
    if base.lower() in _NOT_NAMES or len(base) < 2:
        return True
    if _is_acronym(base) or not _starts_sentence(text, token.start()):
        return False
    return base.lower() in lower or (length == 1 and word not in capitals)


def spacy_names(pipeline: Any) -> NameFinder:
    """Adapt a loaded spaCy pipeline (``spacy.load("en_core_web_sm")``) to ``find_names``.

    Args:
        pipeline: any spaCy ``Language`` whose documents have ``ents``. Dates and numbers of spaCy are
            left to the rules, which resolve them.
    """
    kinds: dict[str, EntityKind] = {"WORK_OF_ART": "title", "MONEY": "money", "QUANTITY": "quantity"}
    skipped = {"DATE", "TIME", "CARDINAL", "ORDINAL", "PERCENT"}

    def find(text: str) -> list[Entity]:
        return [Entity(e.text, kinds.get(e.label_, "name")) for e in pipeline(text).ents if e.label_ not in skipped]

    return find


# -------------------------------------------------------------------------------------- importance
_PER_TERM, _PER_ENTITY, _DATED, _FIRST_PERSON_BONUS = 0.06, 0.20, 0.25, 0.15
_QUESTION, _ACKNOWLEDGED = 0.40, 0.20
_MOST_TELLING, _MOST_ENTITIES = 10.0, 3
_BEST = (0.5, 0.3, 0.2)


def _importance(
    *, telling: float, entities: int, dated: bool, first_person: bool, question: bool, acknowledgement: bool
) -> float:
    """``1 - exp(-z)`` of a sum of cues: 0 for nothing to keep, towards 1 for dense, dated statements.

    z = 0.06 * telling (at most 10) + 0.20 * entities (at most 3) + 0.25 dated + 0.15 first person
        - 0.40 question - 0.20 acknowledgement, and at least 0
    """
    z = _PER_TERM * min(telling, _MOST_TELLING) + _PER_ENTITY * min(entities, _MOST_ENTITIES)
    z += _DATED * dated + _FIRST_PERSON_BONUS * first_person
    z -= _QUESTION * question + _ACKNOWLEDGED * acknowledgement
    return 1 - math.exp(-max(z, 0.0))


def _segment_importance(values: Iterable[float]) -> float:
    """The three best sentences at 0.5, 0.3 and 0.2; a further sentence never lowers it."""
    return sum(weight * value for weight, value in zip(_BEST, sorted(values, reverse=True), strict=False))


# ---------------------------------------------------------------------------------------- keywords
def _class_weights(found: Sequence[_Sentence], corpus: CorpusStats) -> dict[str, float]:
    """c-TF-IDF of each term: its share of the segment times its idf in the user's memory."""
    counts = Counter[str]()
    for sentence in found:
        counts.update(sentence.counts)
    total = sum(counts.values()) or 1
    return {term: n / total * corpus.idf(term) for term, n in counts.items()}


def _keywords(found: Sequence[_Sentence], weights: Mapping[str, float], corpus: CorpusStats) -> tuple[str, ...]:
    """The heaviest words and repeated two-word phrases, as they are written; no word twice."""
    surfaces: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (term, surface), n in Counter(word for sentence in found for word in sentence.words).items():
        surfaces[term][surface] = n
    counts = {term: sum(spellings.values()) for term, spellings in surfaces.items()}
    total = sum(counts.values())
    phrases = Counter[tuple[str, str]]()
    written: dict[tuple[str, str], str] = {}
    for sentence in found:
        for (a, first), (b, second) in pairwise(sentence.words):
            if counts[a] > 1 and counts[b] > 1 and a != b and (phrase := f"{first} {second}") in sentence.text:
                phrases[a, b] += 1
                written.setdefault((a, b), phrase)
    candidates: list[tuple[float, str, tuple[str, ...]]]
    candidates = [(weight, _written(surfaces[term]), (term,)) for term, weight in weights.items() if _is_word(term)]
    candidates = [c for c in candidates if c[1].lower() not in _NOT_NAMES]
    candidates += [
        (n * (corpus.idf(a) + corpus.idf(b)) / total, written[a, b], (a, b))
        for (a, b), n in phrases.items()
        if n > 1 and 2 * n > max(counts[a], counts[b])
    ]
    candidates += _han_phrases(found, corpus, total)
    return _chosen(candidates)


def _chosen(candidates: list[tuple[float, str, tuple[str, ...]]]) -> tuple[str, ...]:
    """The best of (weight, surface, terms) that share no term; a word with accents has two terms."""
    chosen: list[str] = []
    covered = set[str]()
    for _, surface, parts in sorted(candidates, key=lambda c: (-c[0], c[1])):
        if len(chosen) == MAX_KEYWORDS:
            break
        if covered.isdisjoint((*parts, surface.lower())):
            covered.update((*parts, surface.lower()))
            chosen.append(surface)
    return tuple(chosen)


def _is_word(term: str) -> bool:
    """Pairs of Han letters are no words: those of Chinese texts come from ``_han_phrases``."""
    return len(term) > 1 and not term.isdigit() and not _HAN_RUN.match(term)


def _written(surfaces: Mapping[str, int]) -> str:
    """The most frequent spelling, without a possessive ending; of equals the first in the alphabet."""
    best = min(surfaces, key=lambda s: (-surfaces[s], s))
    return _without_possessive(best)


def _without_possessive(word: str) -> str:
    return re.sub(r"['’]s$", "", word)


_HAN_CUTS = re.compile(
    "[的了着过是在和与跟也都就还又很太更最不没有我你您他她它们这那哪个些什么怎样为吗呢吧啊呀嘛哦会能可以要想去来到把被让给对从]+"
    "|因为|所以|但是|而且|如果|然后|觉得|知道|一下|一些|一点|今天|昨天|明天|现在|时候|已经|真的|非常|应该|其实|起来|需要|通过|以及"
)
_HAN_PHRASE_CHARS = 4


def _han_phrases(
    found: Sequence[_Sentence], corpus: CorpusStats, total: int
) -> list[tuple[float, str, tuple[str, ...]]]:
    """Candidates from Chinese texts: pieces of 2 to 4 letters between function words, repeated pairs of longer ones."""
    pieces, parts = Counter[str](), Counter[str]()
    for sentence in found:
        if sentence.language != "zh":
            continue
        for run in _HAN_RUN.findall(sentence.text):
            for piece in _HAN_CUTS.split(run):
                if 2 <= len(piece) <= _HAN_PHRASE_CHARS:
                    pieces[piece] += 1
                elif len(piece) > _HAN_PHRASE_CHARS:
                    parts.update(piece[i : i + 2] for i in range(len(piece) - 1))
    pieces.update({pair: n for pair, n in parts.items() if n > 1})
    out = []
    for piece, n in pieces.items():
        pairs = tuple(piece[i : i + 2] for i in range(len(piece) - 1))
        rarity = sum(corpus.idf(pair) for pair in pairs) / len(pairs)
        out.append((n * rarity * math.sqrt(len(pairs)) / max(total, 1), piece, pairs))
    return out


# ----------------------------------------------------------------------------------------- summary
def _summary(
    found: Sequence[_Sentence],
    segment: Sequence[SourceTurn],
    weights: Mapping[str, float],
    vectors: NDArray[np.float32] | None,
    limit: int,
) -> str:
    """The most central sentences that fit, each new to the ones before it (MMR), attributed."""
    statements = [s for s in found if not s.asks and len(s.counts) >= _SUMMARY_TERMS] or list(found)
    central = _centrality(statements, weights, vectors)
    order = np.argsort(-central, kind="stable")[:MAX_SUMMARY_CANDIDATES]
    candidates, relevance = [statements[i] for i in order], central[order]
    alike = _similarity(candidates, weights, vectors)
    chosen: list[int] = []
    room, left = limit, list(range(len(candidates)))
    while left and room >= _SUMMARY_TERMS:
        seen = alike[:, chosen].max(axis=1) if chosen else np.zeros(len(candidates))
        gain = MMR_LAMBDA * relevance - (1 - MMR_LAMBDA) * seen
        best = max(left, key=lambda i: (gain[i], -i))
        left.remove(best)
        size = wordpiece_count(_attributed(candidates[best], segment))
        if size <= room:
            chosen.append(best)
            room -= size
    if not chosen:
        return _beginning(_attributed(candidates[0], segment), limit)
    return _quoted([candidates[i] for i in sorted(chosen, key=lambda i: order[i])], segment)


def _attributed(sentence: _Sentence, segment: Sequence[SourceTurn]) -> str:
    return _encodable(f"{segment[sentence.turn].label}: {sentence.text}")


def _encodable(text: str) -> str:
    """Without lone surrogates, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _quoted(chosen: Sequence[_Sentence], segment: Sequence[SourceTurn]) -> str:
    """Sentences in the order of the conversation, the speaker named when it changes."""
    said: list[str] = []
    speaker = None
    for sentence in chosen:
        label = segment[sentence.turn].label
        said.append(sentence.text if label == speaker else f"{label}: {sentence.text}")
        speaker = label
    return _encodable(" ".join(said))


def _beginning(text: str, limit: int) -> str:
    """As much of a text as fits."""
    offsets = wordpiece().encode(text, add_special_tokens=False).offsets[:limit]
    return text[: offsets[-1][1]].rstrip() if offsets else ""


def _centrality(
    found: Sequence[_Sentence], weights: Mapping[str, float], vectors: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """(n,) closeness to the segment's centroid: by words, and halfway by the turn's vector where there is one."""
    lexical = np.array([_lexical_centrality(s, weights) for s in found])
    lexical /= max(float(lexical.max()), 1e-12)
    if vectors is None:
        return lexical
    centroid = np.asarray(vectors, np.float64).mean(axis=0)
    centroid /= max(float(np.linalg.norm(centroid)), 1e-12)
    dense = np.asarray(vectors, np.float64) @ centroid
    return np.asarray((lexical + dense[[s.turn for s in found]]) / 2)


def _lexical_centrality(sentence: _Sentence, weights: Mapping[str, float]) -> float:
    """Sum of the weights of its terms, damped by length, so that neither one word nor a list wins."""
    return sum(weights[term] for term in sentence.counts) / math.sqrt(len(sentence.counts) + 4)


def _similarity(
    found: Sequence[_Sentence], weights: Mapping[str, float], vectors: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """(n, n) cosine between sentences: the larger of the words' and, across turns, the vectors'."""
    terms_of = {term: i for i, term in enumerate(dict.fromkeys(t for s in found for t in s.counts))}
    rows = np.zeros((len(found), max(len(terms_of), 1)))
    for row, sentence in zip(rows, found, strict=True):
        for term in sentence.counts:
            row[terms_of[term]] = weights[term]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    alike = rows @ rows.T
    if vectors is not None:
        turns = np.array([s.turn for s in found])
        dense = np.asarray(vectors, np.float64)[turns]
        across = turns[:, None] != turns[None, :]
        alike = np.where(across, np.maximum(alike, dense @ dense.T), alike)
    return np.asarray(alike)


# ------------------------------------------------------------------------------------------- facts
def _facts(
    found: Sequence[_Sentence], segment: Sequence[SourceTurn], corpus: CorpusStats, threshold: float
) -> tuple[Fact, ...]:
    """Statements above the threshold that hold an entity, at most three of a turn."""
    worthy = [s for s in found if s.is_specific and not s.asks and s.importance >= threshold]
    ranked = sorted(range(len(worthy)), key=lambda i: (worthy[i].turn, -worthy[i].importance, i))
    kept, last, n = list[int](), -1, 0
    for i in ranked:
        n = n + 1 if worthy[i].turn == last else 1
        last = worthy[i].turn
        if n <= MAX_FACTS_PER_TURN:
            kept.append(i)
    return tuple(_fact(worthy[i], segment[worthy[i].turn], corpus) for i in sorted(kept))


def _sentence_keywords(sentence: _Sentence, corpus: CorpusStats) -> tuple[str, ...]:
    """The rarest words of one sentence."""
    words = {term: surface for term, surface in sentence.words if _is_word(term) and surface.lower() not in _NOT_NAMES}
    candidates: list[tuple[float, str, tuple[str, ...]]]
    candidates = [(corpus.idf(term), _without_possessive(surface), (term,)) for term, surface in words.items()]
    return _chosen(candidates + _han_phrases([sentence], corpus, 1))


def _fact(sentence: _Sentence, turn: SourceTurn, corpus: CorpusStats) -> Fact:
    dates = dict.fromkeys(describe(t.start, t.end, sentence.language) for t in sentence.times)
    key = f"{turn.label}: {sentence.text}" + (f" ({'; '.join(dates)})" if dates else "")
    return Fact(
        text=sentence.text,
        key=key,
        source_ids=(turn.id,),
        keywords=_sentence_keywords(sentence, corpus),
        entities=sentence.entities,
        importance=sentence.importance,
        event_time=sentence.event_time,
    )
