"""Leaving out the words of a text that say least, without a model.

A text is cut into units: words, punctuation, pairs of Chinese characters. Each has a cost in
WordPiece tokens and a self-information, and the units with the most information per token are kept,
in their order, until the target share of tokens is reached.

Self-information is −ln p(unit), in nats, under a cache language model::

    p(w) = (1 − λ) · p₀(w) + λ · n(w) / N

where ``n(w)`` counts w among the ``N`` units of the text so far and ``p₀`` is the prior. The prior
needs no corpus: the vocabulary of WordPiece is ordered by frequency, so the rank r of a piece gives
p₀ by the law of Zipf and Mandelbrot, p₀ ∝ 1 / (r + 2.7). A word of several pieces has the product.
Function words of the other languages that ``core.analyze`` knows count as the most frequent words.
Characters of scripts without spaces are taken by overlapping pairs, all equally likely before the
text has used them; Chinese function words count as frequent. A text's compression depends on that
text alone, never on what else was in the batch.

Some spans are protected. In order, from the one that is given up last: numbers, dates, negations,
addresses; names and inline code; quotations; fenced code. Where the protected spans alone are longer
than the target, protection ends from the back of that list; that of the first group never does, and
a text made of these stays longer than asked.

Sources: self-information as the measure of what to keep, Selective Context (Li et al. 2023,
arXiv 2310.06201); the cache model, Kuhn & De Mori 1990; the rank law, Mandelbrot 1953.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from lightmem_integrations.core.analyze import detect_language, stop_words
from lightmem_integrations.core.cues import MONTHS, WEEKDAYS
from lightmem_integrations.core.ports import Compressor
from lightmem_integrations.core.tokens import wordpiece, wordpiece_counts
from lightmem_integrations.core.types import Compression
from lightmem_integrations.errors import LightMemError, UsageError, shorten

__all__ = [
    "RATE",
    "LexicalCompressor",
    "Unit",
    "Weighed",
    "align",
    "check_rate",
    "compressions",
    "join_spans",
    "safely",
    "select",
    "token_counts",
    "units",
    "whole",
]

RATE = 0.6
"""Default share of tokens to keep: the mean optimum of the LightMem paper (table of r × th)."""

CACHE_WEIGHT = 0.3
"""λ, the weight of the text's own counts."""

FREE, CODE, QUOTE, NAME, FACT = range(5)
"""How well a unit is protected; the higher, the later it is given up. ``FACT`` never is."""

Span = tuple[int, int]
_NOTHING = object()

_FIRST_WORD = 1996  # id of "the": before it come special tokens and single characters, unordered
_MANDELBROT = 2.7
_FREQUENT_RANK = 10  # of function words and single letters, which have no rank of their own
_MARK_RANK = 0  # punctuation: more frequent than any word
_UNSPACED_CHARACTERS = 3_500  # in general use; the base of the uniform prior
_GOLDEN = (math.sqrt(5) - 1) / 2
_MAX_PIECE_CHARS = 100  # longer "words" are one unknown token to WordPiece: data, not language
_ROUNDS, _TOLERANCE = 4, 0.03

_CJK = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff"
_UNSPACED = _CJK + "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3"
_LETTER = rf"[^\W_{_UNSPACED}]"
_UNIT = re.compile(
    rf"(?P<address>(?:https?://|www\.)[^\s<>\"'”」]+|[\w.+-]{{1,64}}@[\w-]{{1,64}}(?:\.[\w-]{{1,64}}){{1,4}})"
    rf"|(?P<word>(?:[$€£¥](?=\d))?{_LETTER}"
    rf"(?:{_LETTER}|[\u0300-\u036f\u0900-\u0963]|(?<=\d)[.,:/](?=\d)|['’_.-](?={_LETTER}))*(?:(?<=\d)[%°€])?)"
    rf"|(?P<run>[{_UNSPACED}]+)"
    r"|(?P<mark>([^\w\s]|_)\5{0,7})"
)

_PERIOD = (
    "day|night|week|weekend|month|year|morning|afternoon|evening|spring|summer|autumn|fall|winter|time|"
    + "|".join((*WEEKDAYS, *MONTHS))
)
_DATES = re.compile(
    rf"\b(?:last|next|this|past|previous|coming|every)\s(?:{_PERIOD})s?\b"
    rf"|\b(?:hour|minute|{_PERIOD})s?\s(?:ago|before|later|from\snow)\b"
    rf"|\b(?:yesterday|today|tonight|tomorrow|{'|'.join((*WEEKDAYS, *(m for m in MONTHS if m != 'may')))})\b",
    re.IGNORECASE,
)
_QUOTES = re.compile(
    '"[^"\n]{1,300}"|“[^”\n]{1,300}”|«[^»\n]{1,300}»|「[^」\n]{1,300}」|『[^』\n]{1,300}』|《[^》\n]{1,100}》'
)
_INLINE_CODE = re.compile("`[^`\n]{1,300}`")
_FENCED_CODE = re.compile("```.*?```", re.DOTALL)
_OPENS = re.compile(r"(?:^|[.!?…:。！？：\n\r])[\s\"'“”‘’«(\[*#>•-]*$")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_APOSTROPHE = re.compile("['’]")

_NEGATIONS = _words(
    "no not never none nobody nothing nowhere neither nor cannot without dont doesnt didnt isnt wasnt cant wont "
    "nicht kein keine keinen nie niemals pas jamais rien nunca jamás não nunca mai niet geen не нет ни нельзя"
)
_NUMBER_WORDS = _words(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen half twice "
    "ago"
)
# Cut by a Chinese text's function words, the pieces between are words more often than not.
_CHINESE = re.compile(
    r"(?P<fact>[零〇一二三四五六七八九十百千万亿两几半]+(?:个?[年月日号点分秒岁次天周块元里米]|个)"
    r"|[昨今明前后]天|[去今明前后]年|[上下这本]个?(?:星期|礼拜|周|月)[一二三四五六日天末]?|(?:星期|礼拜|周)[一二三四五六日天末]"
    r"|早上|上午|中午|下午|晚上|没有|[不没无未别莫勿])"
    r"|(?P<function>这个|那个|这些|那些|这样|那样|什么|怎么样|怎么|怎样|为什么|哪里|哪儿|哪些|我们|你们|他们|她们|它们|咱们|大家|自己"
    r"|因为|所以|但是|可是|不过|而且|如果|虽然|然后|还是|还有|或者|就是|也是|都是|不是|可以|可能|应该|已经|一直|一下|一些|一样|一起|一个"
    r"|非常|特别|真的|其实|觉得|知道|有点|有些|时候|起来|出来|[的了着过吗呢吧啊呀嘛哦啦哈嗯得地之我你您他她它是在有和与跟也都就还又再很太最更"
    r"这那哪谁会能要想把被让给对从到为于以而且但或如若并所个们来去上下里说看啥])"
)


class Unit(NamedTuple):
    """A piece of a text that is kept or left out as one.

    Attributes:
        start, end: character offsets.
        level: protection, ``FREE`` to ``FACT``.
        key: what counts as the same word.
    """

    start: int
    end: int
    level: int
    key: str


# ------------------------------------------------------------------------------------ results
def join_spans(text: str, spans: Iterable[Span]) -> str:
    """The kept spans of a text as one: with a line break where one was left out, else with a space.

    Characters of scripts that are written without spaces are joined directly where nothing but
    such characters and punctuation was left out between them.

    >>> join_spans("It was, I think, in Oslo.", [(0, 6), (17, 25)])
    'It was in Oslo.'
    """
    parts: list[str] = []
    at = None
    for start, end in spans:
        if at is not None:
            parts.append(_joiner(text, at, start))
        parts.append(text[start:end])
        at = end
    return "".join(parts)


def _joiner(text: str, end: int, start: int) -> str:
    gap = text[end:start]
    if "\n" in gap:
        return "\n"
    unspaced = end > 0 and _is_unspaced(text[end - 1]) and start < len(text) and _is_unspaced(text[start])
    return "" if unspaced and not any(char.isspace() for char in gap) else " "


_is_unspaced = re.compile(f"[{_UNSPACED}，。！？；：、“”「」『』《》（）]").match


def whole(text: str, tokens: int, *, failed: bool = False) -> Compression:
    """The text as it is, as a result."""
    return Compression(text, ((0, len(text)),) if text else (), tokens, tokens, failed)


def compressions(texts: Sequence[str], spans: Sequence[Sequence[Span] | None]) -> list[Compression]:
    """Results from what was kept of each text; None means that its compressor failed.

    A text of which nothing was kept comes back whole and ``failed``; one that would not become
    shorter, whole.
    """
    before = token_counts(texts)
    joined = [join_spans(text, kept or ()) for text, kept in zip(texts, spans, strict=True)]
    made = [
        Compression(short, tuple(kept or ()), n, m)
        for short, kept, n, m in zip(joined, spans, before, token_counts(joined), strict=True)
    ]
    return [
        _sound(text, result if text.strip() else None, n) for text, result, n in zip(texts, made, before, strict=True)
    ]


def token_counts(texts: Sequence[str]) -> list[int]:
    """WordPiece tokens of each text; lone surrogates, which the tokenizer refuses, count one each."""
    return wordpiece_counts([_encodable(text) for text in texts])


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def align(text: str, shorter: str) -> list[Span] | None:
    """Where the words of a shorter text stand in the original, for compressors that give text only.

    Each word is taken at its first place after the word before.

    Returns:
        Spans in order, or None when a word is not there.

    >>> align("The boat left Oslo at noon.", "boat Oslo noon")
    [(4, 8), (14, 18), (22, 26)]
    """
    spans: list[Span] = []
    at = 0
    for word in shorter.split():
        start = text.find(word, at)
        if start < 0:
            return None
        at = start + len(word)
        if spans and not text[spans[-1][1] : start].strip():
            spans[-1] = (spans[-1][0], at)
        else:
            spans.append((start, at))
    return spans


def safely(compressor: Compressor, texts: Sequence[str]) -> tuple[list[Compression], list[str]]:
    """Ask a compressor, and not believe it: whatever it does, each text comes back, shorter or whole.

    When a batch fails, its texts are tried one at a time, so that one of them fails alone. A result
    whose spans do not give its text, or that is blank or longer than the original, is a failure.

    Returns:
        One result a text, ``failed`` where the original had to be returned, and what went wrong in
        words, each reason once. ``sum(c.failed for c in results)`` counts the failures.
    """
    texts = list(texts)
    reasons: dict[str, None] = {}
    try:
        made = _ask(compressor, texts, reasons)
        if made is None and len(texts) > 1:
            made = [(_ask(compressor, [text], reasons) or [_NOTHING])[0] for text in texts]
    except LightMemError as error:  # a missing package or model: no use in asking again
        reasons[f"{_name(compressor)}: {error}"] = None
        made = None
    out: list[Compression] = []
    for text, answer in zip(texts, [_NOTHING] * len(texts) if made is None else made, strict=True):
        fault = _fault(text, answer)
        if isinstance(answer, Compression) and not fault:
            out.append(answer)
            continue
        if answer is not _NOTHING:  # else the reason was noted when it happened
            reasons[f"{_name(compressor)}: {fault}"] = None
        out.append(whole(text, token_counts([text])[0], failed=True))
    return out, list(reasons)


def _ask(compressor: Compressor, texts: list[str], reasons: dict[str, None]) -> list[Any] | None:
    """As many answers as texts, of any kind; None, and why, when there are none."""
    try:
        made: list[Any] = list(compressor.compress(texts))
    except LightMemError:
        raise
    except Exception as error:  # a compressor may raise anything; the text is kept and the reason told
        reasons[f"{_name(compressor)}: {type(error).__name__}: {shorten(str(error))}"] = None
        return None
    if len(made) != len(texts):
        reasons[f"{_name(compressor)}: {len(made)} results for {len(texts)} texts"] = None
        return None
    return made


def _name(compressor: object) -> str:
    return str(getattr(compressor, "name", None) or type(compressor).__name__)


def _fault(text: str, made: object) -> str:
    """What is wrong with a result, in words; "" for a good one."""
    if made is None:
        return "gave nothing"
    if not isinstance(made, Compression):
        return f"gave {type(made).__name__}, not Compression"
    if not made.text.strip() and text.strip():
        return "kept nothing of a text"
    if made.tokens_after > made.tokens_before:
        return "gave a text that is longer than the original"
    try:
        edges = [edge for span in made.kept for edge in span]
        ordered = all(a <= b for a, b in pairwise([0, *edges, len(text)]))
        if not ordered or join_spans(text, made.kept) != made.text:
            return "gave spans that are not those of its text"
    except (TypeError, ValueError):
        return "gave spans that are not pairs of offsets"
    return ""


# ------------------------------------------------------------------------------------ units
def units(text: str) -> list[Unit]:
    """The words, marks and pairs of a text in order, each with its protection.

    They cover every character but white space.
    """
    levels = _protection(text)
    cut = list(_cut(text, levels))
    names = _names(text, cut)
    return [u._replace(level=NAME) if i in names and u.level < NAME else u for i, u in enumerate(cut)] if names else cut


def _protection(text: str) -> bytearray:
    """One level a character, from the spans that patterns find."""
    levels = bytearray(len(text))
    for pattern, level in ((_QUOTES, QUOTE), (_INLINE_CODE, NAME), (_DATES, FACT)):
        for found in pattern.finditer(text):
            levels[found.start() : found.end()] = bytes([level]) * (found.end() - found.start())
    for found in _FENCED_CODE.finditer(text):
        levels[found.start() : found.end()] = bytes([CODE]) * (found.end() - found.start())
    return levels


def _cut(text: str, levels: bytearray) -> Iterator[Unit]:
    for found in _UNIT.finditer(text):
        start, end = found.span()
        level, kind = levels[start], found.lastgroup
        if kind == "run":
            yield from _cut_run(text, start, end, level)
            continue
        key = found.group().lower() if kind == "word" else found.group()
        if level != CODE and (kind == "address" or (kind == "word" and _is_fact(key))):
            level = FACT
        elif kind == "word" and level == FREE and "_" in key:
            level = NAME  # an identifier
        yield Unit(start, end, level, key)


@lru_cache(maxsize=1 << 16)
def _is_fact(word: str) -> bool:
    if word in _NEGATIONS or word in _NUMBER_WORDS or word.endswith(("n't", "n’t")):
        return True
    return any(char.isdigit() for char in word)


def _cut_run(text: str, start: int, end: int, level: int) -> Iterator[Unit]:
    """A run of characters without spaces: function words, facts, and the rest in pairs."""
    at = start
    for found in _CHINESE.finditer(text, start, end):
        yield from _pairs(text, at, found.start(), level)
        at = found.end()
        if found.lastgroup == "fact" and level != CODE:
            yield Unit(found.start(), at, FACT, found.group())
        else:
            yield Unit(found.start(), at, level, "\0" + found.group())  # marks a function word
    yield from _pairs(text, at, end, level)


def _pairs(text: str, start: int, end: int, level: int) -> Iterator[Unit]:
    while start < end:
        step = 3 if end - start == 3 else 2
        stop = min(start + step, end)
        yield Unit(start, stop, level, text[start:stop])
        start = stop


def _names(text: str, cut: Sequence[Unit]) -> set[int]:
    """Capitalised words that do not open a sentence, and their like that do; none in a text of capitals."""
    capital = [
        i for i, u in enumerate(cut) if text[u.start].isupper() and u.key != "i" and u.key[:2] not in ("i'", "i’")
    ]
    words = sum(text[u.start].isalpha() for u in cut)
    if 2 * len(capital) > words and words > 4:
        return set()
    inside = {
        i for i in capital if not _OPENS.search(text[max(0, cut[i].start - 12) : cut[i].start] if cut[i].start else "")
    }
    known = {cut[i].key for i in inside}
    return inside | {i for i in capital if cut[i].key in known}


# ------------------------------------------------------------------------------------ choosing
def check_rate(rate: float) -> float:
    """Return a share of tokens to keep.

    Raises:
        UsageError: outside 0 < rate ≤ 1.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise UsageError("rate", "must lie in 0 < rate <= 1", rate)
    return float(rate)


@dataclass(frozen=True, slots=True)
class Weighed:
    """The units of one text with what each costs and is worth.

    Attributes:
        parts: the units, in order; none for a text that stays whole.
        costs: WordPiece tokens of each unit by itself.
        scores: what each is worth a token; the highest are kept.
    """

    parts: Sequence[Unit]
    costs: Sequence[int]
    scores: Sequence[float]


def select(texts: Sequence[str], weighed: Sequence[Weighed], rate: float) -> list[Compression]:
    """Keep of each text the protected units, then those of the highest score, up to the rate.

    The share of tokens that is kept lies within 0.05 of ``rate`` for texts over 50 tokens, unless
    the units that are never given up are longer, or one unit is that large.
    """
    before = token_counts(texts)
    targets = [max(1.0, rate * sum(w.costs)) for w in weighed]
    best: list[Compression | None] = [None] * len(texts)
    todo = [i for i, w in enumerate(weighed) if w.parts]
    # Units cut inside a WordPiece word do not cost what they cost alone, so the outcome is measured.
    for _ in range(_ROUNDS):
        spans = [_merge(weighed[i].parts, _choose(weighed[i], targets[i])) for i in todo]
        joined = [join_spans(texts[i], kept) for i, kept in zip(todo, spans, strict=True)]
        again = []
        for i, kept, text, after in zip(todo, spans, joined, token_counts(joined), strict=True):
            wanted = max(1.0, rate * before[i])
            known = best[i]
            if known is None or abs(after - wanted) < abs(known.tokens_after - wanted):
                best[i] = Compression(text, tuple(kept), before[i], after)
            if abs(after - wanted) > max(1.0, _TOLERANCE * before[i]) and 0 < after != len(weighed[i].parts):
                targets[i] = max(1.0, targets[i] + wanted - after)
                again.append(i)
        todo = again
        if not todo:
            break
    return [_sound(text, made, n) for text, made, n in zip(texts, best, before, strict=True)]


def _sound(text: str, made: Compression | None, tokens: int) -> Compression:
    """The result, or the original: failed where nothing was kept, as it is where nothing was won."""
    if made is None:
        return whole(text, tokens)
    if not made.text.strip():
        return whole(text, tokens, failed=True)
    return made if made.tokens_after < tokens else whole(text, tokens)


def _choose(weighed: Weighed, target: float) -> list[bool]:
    parts, costs, scores = weighed.parts, weighed.costs, weighed.scores
    by_level = [0] * (FACT + 1)
    for part, cost in zip(parts, costs, strict=True):
        by_level[part.level] += cost
    given_up = next((level for level in range(FACT) if sum(by_level[level + 1 :]) <= target), FACT - 1)
    keep = [part.level > given_up for part in parts]
    left = target - sum(by_level[given_up + 1 :])
    # Equals are thinned out evenly, by the golden ratio, and not cut off at the end.
    rest = sorted((-scores[i], i * _GOLDEN % 1, i) for i, kept in enumerate(keep) if not kept)
    if rest and not any(keep):  # a short text keeps its best word, though it be longer than the target
        keep[rest[0][2]] = True
        left -= costs[rest[0][2]]
    for _, _, i in rest:
        if left < 0.5:
            break
        if not keep[i] and costs[i] - left <= 0.5:
            keep[i] = True
            left -= costs[i]
    return keep


def _merge(parts: Sequence[Unit], keep: Sequence[bool]) -> list[Span]:
    """Spans of kept units; neighbours become one, with the white space between them."""
    spans: list[Span] = []
    first: Unit | None = None
    last: Unit | None = None
    for part, kept in zip(parts, keep, strict=True):
        if kept:
            first, last = first or part, part
        elif first is not None and last is not None:
            spans.append((first.start, last.end))
            first = None
    if first is not None and last is not None:
        spans.append((first.start, last.end))
    return spans


# ------------------------------------------------------------------------------------ the default
class LexicalCompressor:
    """The default compressor: no model, deterministic, a function of each text alone.

    Args:
        rate: share of WordPiece tokens to keep, 0 < rate ≤ 1.

    Raises:
        UsageError: rate out of range.
    """

    name = "lexical"

    def __init__(self, rate: float = RATE) -> None:
        self.rate = check_rate(rate)

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        """Keep the most informative words of each text, in their order."""
        return select(texts, [self._weigh(text) for text in texts], self.rate)

    def _weigh(self, text: str) -> Weighed:
        if self.rate == 1:
            return Weighed((), (), ())
        parts = units(text)
        return Weighed(parts, *information(text, parts))


def information(text: str, parts: Sequence[Unit]) -> tuple[list[int], list[float]]:
    """WordPiece tokens of each unit, and its self-information a token in nats."""
    language = detect_language(text[:2_000])
    seen: dict[str, int] = {}
    costs: list[int] = []
    scores: list[float] = []
    for n, part in enumerate(parts, 1):
        key = part.key
        if not key.isascii() and _is_unspaced(key[0]):
            cost, nats = _pair_information(key, seen, n)
        else:
            cost, nats = _word_information(key, language)
            if count := seen.get(key):
                nats = -math.log((1 - CACHE_WEIGHT) * math.exp(-nats) + CACHE_WEIGHT * count / n)
            seen[key] = seen.get(key, 0) + 1
        costs.append(cost)
        scores.append(nats / cost if cost else 0.0)
    return costs, scores


@lru_cache(maxsize=1 << 16)
def _word_information(key: str, language: str) -> tuple[int, float]:
    """Of a word or mark that the text has not used before."""
    cost, nats = (len(key) - 1, _frequent() * (len(key) - 1)) if key[0] == "\0" else _prior(key)
    stops = stop_words(language)
    if key in stops or _APOSTROPHE.split(key, 1)[0] in stops:  # "it's" is a function word like "it"
        nats = min(nats, _frequent())
    return cost, nats


def _pair_information(key: str, seen: dict[str, int], n: int) -> tuple[int, float]:
    """Of characters without spaces: the mean over their overlapping pairs, for each character."""
    found = [key[i : i + 2] for i in range(len(key) - 1)] or [key]
    nats = 0.0
    for pair in found:
        prior = 1 / _UNSPACED_CHARACTERS ** len(pair)
        nats -= math.log((1 - CACHE_WEIGHT) * prior + CACHE_WEIGHT * seen.get(pair, 0) / n) / len(pair)
        seen[pair] = seen.get(pair, 0) + 1
    cost = _prior(key)[0]
    return cost, nats / len(found) * cost


@lru_cache(maxsize=1 << 16)
def _prior(word: str) -> tuple[int, float]:
    """WordPiece tokens of a word, and −ln p₀ in nats."""
    ids = wordpiece().encode(_encodable(word), add_special_tokens=False).ids
    if len(word) > _MAX_PIECE_CHARS and len(ids) == 1:
        return 1, 0.0
    ranks = _ranks()
    return len(ids), sum(ranks[i] for i in ids)


@lru_cache(maxsize=1)
def _ranks() -> list[float]:
    """−ln p₀ of every piece, by its id."""
    vocabulary: dict[str, int] = wordpiece().get_vocab()
    words = sorted(i for piece, i in vocabulary.items() if i >= _FIRST_WORD and len(piece.removeprefix("##")) > 1)
    mass = math.log(sum(1 / (rank + _MANDELBROT) for rank in range(1, len(words) + 1)))
    nats = [math.log(_FREQUENT_RANK + _MANDELBROT) + mass] * (max(vocabulary.values()) + 1)
    for piece, i in vocabulary.items():
        if len(piece) == 1 and not piece.isalnum():
            nats[i] = math.log(_MARK_RANK + _MANDELBROT) + mass
    for rank, i in enumerate(words, 1):
        nats[i] = math.log(rank + _MANDELBROT) + mass
    nats[vocabulary["[UNK]"]] = math.log(len(words) + _MANDELBROT) + mass
    return nats


@lru_cache(maxsize=1)
def _frequent() -> float:
    """−ln p₀ of a function word."""
    return _ranks()[0]
