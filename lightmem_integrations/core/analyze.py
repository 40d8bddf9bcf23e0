"""Text analysis for the keyword index: from text to index terms, for documents and for queries.

A text is normalised (NFKC, lower case), cut into runs of one kind of script, and each run becomes
terms by the rule of its script:

==========================  =========================================================================
words (Latin, Cyrillic ...)  function words dropped, then Snowball stems, without accents. A word with
                             accents is indexed with the stem of its plain spelling as well, so that
                             "muller" finds "Müller" and "informacao" finds "informação".
Han, kana, hangul            overlapping pairs of characters, which need no dictionary, and the single
                             Han and hangul characters, so that a query of one character matches.
Thai, Lao, Burmese, Khmer    overlapping pairs of a letter with its vowel signs and tone marks.
==========================  =========================================================================

A Chinese query is cut at particles, pronouns and question words first: the pairs across them say
nothing about the topic. Its single characters count half of a pair.

Sources: Unicode NFKC (UAX 15), the Snowball stemmers (https://snowballstem.org), Lucene's
``CJKBigramFilter`` with ``outputUnigrams`` for the pairs, and its ``ASCIIFoldingFilter`` with
``preserveOriginal`` for the two spellings.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

__all__ = [
    "ANALYZER_VERSION",
    "detect_language",
    "expand_unknown",
    "normalize",
    "query_terms",
    "query_weights",
    "terms",
]

ANALYZER_VERSION = 1
"""Stored in databases; raised whenever ``terms`` gives other terms for any text."""

SINGLE_CHARACTER_WEIGHT = 0.5
"""Weight of one Han or hangul character of a query: half of the pairs that it is part of."""

MAX_WORD_CHARS = 64
"""Longer words, such as encoded data, are indexed in pieces of this length."""

_ENGLISH = """a about after again all also am an and any are as at be because been before being both but by can could
did do does doing don down during each few for from had has have having he her here hers him his how i if in into is it
its itself just me more most my myself no nor not now of off on once only or other our ours out over own same she should
so some such than that the their theirs them then there these they this those through to too under until up us very was
we were what when where which while who whom whose why will with would you your yours d ll m re s t ve"""

# Few, frequent, and as unlike the other languages' as can be: they also tell the languages apart.
_FUNCTION_WORDS = {
    "de": "der die das und ist nicht ich du wir ihr ein eine einen mit auf zu mein von für auch aber wie was in so",
    "fr": "le la les de des un une en et est je tu nous vous il elle pas que qui dans pour avec du au ai c d j l qu",
    "es": "el la los las un una de y es que en por con para mi yo tu te lo del al como pero muy se está eso",
    "it": "il lo la gli di che è e un una per con non sono mi ho del della nel ma più anche si io al mia mio l",
    "pt": "o os as um uma de e é que em para com não meu minha eu você do da no na se por mais foi ao",
    "nl": "de het een en is van ik je niet dat op te met voor zijn er maar ook wij heb naar mijn",
    "sv": "och att det är jag en ett som på av för inte med du vi har till den mig om men var",
    "da": "og at det er jeg en et som på af for ikke med du vi har til den mig om men hvad",
    "no": "og at det er jeg en et som på av for ikke med du vi har til den meg om men hva",
    "fi": "ja on ei se että minä sinä hän me te mutta kun oli olen ovat kuin myös tai niin",
    "pl": "i w nie na się z jest to że do jak ale co ja ty mnie po tak czy dla był",
    "tr": "ve bir bu ne için de da çok ben sen ile mi mı ama var gibi daha o değil",
}
# Where a Chinese query is cut, simplified and traditional: particles, pronouns, question words, copulas.
_CHINESE_CUTS = """的 了 着 吗 嗎 呢 吧 啊 呀 嘛 哦 啦 我 你 您 他 她 它 们 們 这 這 那 哪 哪些 哪里 哪裡 哪儿 谁 誰
什么 什麼 甚麼 怎么 怎麼 怎么样 怎麼樣 怎样 怎樣 为什么 為什麼 如何 多少 几 幾 请问 請問 是 很 也 没有 沒有 可以
一个 一個 曾经 曾經"""

_SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip

# Languages by the block of a letter: start of the block, the language it stands for.
_BLOCKS = [
    (0x0000, ""), (0x0370, "el"), (0x0400, "ru"), (0x0530, "hy"), (0x0590, "he"), (0x0600, "ar"), (0x0700, ""),
    (0x0750, "ar"), (0x0780, ""), (0x0900, "hi"), (0x0980, "bn"), (0x0A00, "pa"), (0x0A80, "gu"), (0x0B00, "or"),
    (0x0B80, "ta"), (0x0C00, "te"), (0x0C80, "kn"), (0x0D00, "ml"), (0x0D80, "si"), (0x0E00, "th"), (0x0E80, "lo"),
    (0x0F00, "bo"), (0x1000, "my"), (0x10A0, "ka"), (0x1100, "ko"), (0x1200, "am"), (0x13A0, ""), (0x1780, "km"),
    (0x1800, "mn"), (0x18B0, ""), (0x1F00, "el"), (0x2000, ""), (0x3005, "zh"), (0x3008, ""), (0x3040, "ja"),
    (0x3100, ""), (0x3130, "ko"), (0x3190, ""), (0x31F0, "ja"), (0x3200, ""), (0x3400, "zh"), (0xA000, ""),
    (0xAC00, "ko"), (0xD7B0, ""), (0xF900, "zh"), (0xFB00, ""), (0x1B000, "ja"), (0x1B170, ""), (0x20000, "zh"),
    (0x40000, ""),
]  # fmt: skip
_STARTS = [start for start, _ in _BLOCKS]
# Languages that share a script with the one that stands for it, and letters that only they write.
_SAME_SCRIPT = {"ru": {"uk", "bg", "sr", "mk", "be", "kk", "mn"}, "ar": {"fa", "ur"}, "hi": {"ne", "mr"}, "he": {"yi"}}
_OWN_LETTERS = {"ru": ("uk", frozenset("іїєґ")), "ar": ("fa", frozenset("پچژگ"))}
_OTHER_SCRIPTS = frozenset(language for _, language in _BLOCKS if language).union(*_SAME_SCRIPT.values()) - {"sr"}

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\U0001b000-\U0001b16f"
_UNSPACED = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
# Vowel signs and points, which \w leaves out: cut there, most Indic and Semitic words would fall apart.
_SIGNS = "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
_SIGNS += "\u0900-\u0963\u0971-\u0df3\u0f71-\u0f84\u1dc0-\u1dff"
_WORD = rf"[^\W_{_HAN}{_HANGUL}{_KANA}{_UNSPACED}]"
_ASCII_WORD = re.compile(rf"[a-z0-9]{{1,{MAX_WORD_CHARS}}}")
_RUN = re.compile(rf"{_WORD}(?:{_WORD}|[{_SIGNS}]){{,{MAX_WORD_CHARS - 1}}}|[{_HAN}{_HANGUL}{_KANA}]+|[{_UNSPACED}]+")
_PAIRED = re.compile(f"[{_HAN}{_HANGUL}{_KANA}{_UNSPACED}]")
_SINGLE = re.compile(f"[{_HAN}{_HANGUL}]")
_HAS_KANA = re.compile(f"[{_KANA}]")
_UNSPACED_MARKS = "".join(
    chr(c)
    for block in (range(0x0E00, 0x0F00), range(0x1000, 0x10A0), range(0x1780, 0x1800))
    for c in block
    if unicodedata.category(chr(c)).startswith("M")
)
_LETTER_WITH_MARKS = re.compile(f".[{_UNSPACED_MARKS}]*")
# Accents of Latin and Greek letters and the points of Hebrew and Arabic. The breve of Cyrillic й, the voicing
# of kana and the vowel signs of India make other letters and stay.
_ACCENTS = re.compile(
    "(?<=[a-z\u00df-\u024f\u0370-\u03ff\u1e00-\u1eff\u0435])[\u0300-\u036f]+"
    "|[\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4]+"
)
_INVISIBLE = re.compile("[\u00ad\u200c\u200d\u2060\ufeff]")
_CUTS = re.compile("|".join(sorted(_CHINESE_CUTS.split(), key=lambda word: (-len(word), word))))
_local = threading.local()


def normalize(text: str) -> str:
    """One spelling for all ways to write the same letters: NFKC, case folded, no invisible characters.

    Full-width forms become plain ones; accents stay. Never raises, lone surrogates included.
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold()))
    return unicodedata.normalize("NFKC", text.casefold())


def _strip_accents(text: str) -> str:
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


_STOP = {"en": frozenset(_ENGLISH.split())} | {
    language: frozenset(_strip_accents(words).split()) for language, words in _FUNCTION_WORDS.items()
}


_VOTES: dict[str, tuple[str, ...]] = {}
for _language, _words in {"en": _ENGLISH, **_FUNCTION_WORDS}.items():
    for _word in _words.split():
        if len(_word) > 1 or _language == "en":  # elsewhere, a single letter is more often a name or code
            _VOTES[_word] = (*_VOTES.get(_word, ()), _language)


# ------------------------------------------------------------------------------------ languages
def stop_words(language: str) -> frozenset[str]:
    """The function words of a language that are not indexed; none for a language without a list."""
    return _STOP.get(language, frozenset())


def detect_language(text: str) -> str:
    """Language of a text by its script, and by its function words where that is Latin.

    A text in several scripts counts by letters, Han, kana and hangul three times each, because they
    write a word with a third of the characters. Japanese is Han or kana with any kana. Of the languages in
    Latin script another than English needs at least two different function words, and more than
    English has.

    Returns:
        An ISO 639-1 code; ``"en"`` when there is nothing to go by.
    """
    return _detect(_runs(normalize(text)))


def _runs(text: str) -> list[str]:
    """Runs of one kind of script in a normalised text, in order."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return _RUN.findall(text)


def _detect(runs: list[str]) -> str:
    if "".join(runs).isascii():
        return _vote(runs)
    letters: Counter[str] = Counter()
    latin: list[str] = []
    for run in runs:
        if run.isascii():
            latin.append(run)
            continue
        language = _script_language(run[0])
        if not language:
            latin.append(run)
        elif language in ("zh", "ja", "ko"):
            letters["ja" if _HAS_KANA.search(run) else language] += 3 * len(run)
        else:
            letters[language] += len(run)
    if not letters:
        return _vote(latin)
    if letters["ja"]:
        letters["ja"] += letters.pop("zh", 0)
    language, most = max(letters.items(), key=lambda item: (item[1], item[0]))
    if sum(len(word) for word in latin if not word.isdigit()) >= most:
        return _vote(latin)
    other, own = _OWN_LETTERS.get(language, ("", frozenset()))
    return other if other and not own.isdisjoint("".join(runs)) else language


def _vote(words: Iterable[str]) -> str:
    """The language whose function words a Latin text uses most, each counted once."""
    counts: dict[str, int] = {}
    for word in _VOTES.keys() & words:
        for language in _VOTES[word]:
            counts[language] = counts.get(language, 0) + 1
    if counts.keys() <= {"en"}:
        return "en"
    english = counts.pop("en", 0)
    best = max(_FUNCTION_WORDS, key=lambda language: counts.get(language, 0))
    return best if counts[best] >= 2 and counts[best] > english else "en"


def _script_language(char: str) -> str:
    """The language that stands for the script of a letter; "" for Latin letters and digits."""
    return _BLOCKS[bisect_right(_STARTS, ord(char)) - 1][1]


def _word_language(word: str, language: str) -> str:
    """Whose rules a word follows: its text's language where that writes this script."""
    own = "" if word.isascii() else _script_language(word[0])
    if not own:
        return "en" if language in _OTHER_SCRIPTS else language
    return language if language in _SAME_SCRIPT.get(own, ()) else own


# ---------------------------------------------------------------------------------------- terms
def terms(text: str, language: str | None = None) -> list[str]:
    """Index terms of a text, in order, with repeats.

    Args:
        text: any text; lone surrogates and control characters are passed over.
        language: ISO 639-1 code, which chooses the stop words and the stemmer of Latin and Cyrillic
            words; None detects it. Unknown codes mean: no stop words, no stemming.

    Returns:
        Lower-case terms; empty when the text has no word but function words.
    """
    runs = _runs(normalize(text))
    language = language or _detect(runs)
    found: list[str] = []
    for run in runs:
        if run.isascii() or not _is_paired(run):
            found += _word_terms(run, language)
        else:
            found += _pairs(run)
            found += _singles(run)
    return found


def query_terms(text: str, languages: Iterable[str] = ()) -> list[str]:
    """Distinct terms of a query: the keys of ``query_weights``, in the same order."""
    return list(query_weights(text, languages))


def query_weights(text: str, languages: Iterable[str] = ()) -> dict[str, float]:
    """Distinct terms of a query and how much each counts, for ``IncrementalBM25.get_scores``.

    Words are stemmed by the rules of each language, so that a query without function words, which
    does not show its own language, still meets the stems of the texts.

    Args:
        text: the query.
        languages: ISO 639-1 codes of the texts that are searched; none means the query's own.

    Returns:
        1 for words and pairs, ``SINGLE_CHARACTER_WEIGHT`` for one character of a longer run.
    """
    runs = _runs(normalize(text))
    own = _detect(runs)
    targets = sorted(set(languages)) or [own]
    weights: dict[str, float] = {}
    for run in runs:
        if _is_paired(run):
            _weigh_run(run, own, weights)
        elif _word_terms(run, own):  # a function word of the query is not asked for in any language
            for language in targets:
                weights.update(dict.fromkeys(_word_terms(run, language), 1.0))
    return weights


def _weigh_run(run: str, language: str, weights: dict[str, float]) -> None:
    pieces = [piece for piece in _CUTS.split(run) if piece] if language == "zh" else [run]
    for piece in pieces or [run]:  # a query of nothing but particles asks for the particles
        weights.update(dict.fromkeys(_pairs(piece), 1.0))
        for char in _singles(piece):
            weights.setdefault(char, SINGLE_CHARACTER_WEIGHT)


def _is_paired(run: str) -> bool:
    """Is this run of a script that is indexed by pairs?"""
    return not run.isascii() and _PAIRED.match(run) is not None


def _pairs(run: str) -> Iterator[str]:
    """Overlapping pairs of letters; a run of one letter is itself."""
    units = _LETTER_WITH_MARKS.findall(run)
    if len(units) == 1:
        yield units[0]
    yield from map("".join, pairwise(units))


def _singles(run: str) -> list[str]:
    """Characters that are indexed alone; those of a run of one are its "pair" already."""
    return _SINGLE.findall(run) if len(run) > 1 else []


@lru_cache(maxsize=1 << 16)
def _word_terms(word: str, language: str) -> tuple[str, ...]:
    """Terms of one normalised word: none for a function word, two where accents change the stem."""
    language = _word_language(word, language)
    plain = _strip_accents(word)
    if plain in _STOP.get(language, ()):
        return ()
    stem = _stemmer(language)
    bare, accented = stem(plain), _strip_accents(stem(word))
    return (bare,) if bare == accented else (bare, accented)


def _stemmer(language: str) -> Callable[[str], str]:
    """This thread's Snowball stemmer: they are not safe to share between threads."""
    name = _SNOWBALL.get(language)
    if name is None:
        return str
    stemmers: dict[str, Callable[[str], str]] = _local.__dict__
    if name not in stemmers:
        import Stemmer

        stemmers[name] = Stemmer.Stemmer(name, 0).stemWord  # 0: its own cache would double ours
    return stemmers[name]


# ---------------------------------------------------------------------------------- misspellings
def expand_unknown(term: str, vocabulary: Sequence[str]) -> list[str]:
    """Known terms that a term without any match may be a misspelling of.

    Args:
        term: one term as ``query_terms`` gives it.
        vocabulary: the distinct terms of the index.

    Returns:
        At most three terms within Levenshtein distance 2 (1 for a term of four letters), the nearest
        first, equals in alphabetical order. None for shorter terms, for terms with digits, where one
        digit off is another thing, and for scripts that are indexed by pairs.
    """
    if len(term) < 4 or any(char.isdigit() for char in term) or _is_paired(term):
        return []
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    limit = 1 if len(term) == 4 else 2
    near = process.extract(term, vocabulary, scorer=Levenshtein.distance, score_cutoff=limit, limit=None)
    return [known for known, distance, _ in sorted(near, key=lambda hit: (hit[1], hit[0])) if distance][:3]
