"""The lexical compressor: what is kept, where it stood, at what rate; and not believing others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightmem_integrations.core.compress import (
    LexicalCompressor,
    align,
    compressions,
    join_spans,
    safely,
    token_counts,
    units,
    whole,
)
from lightmem_integrations.core.ports import Compressor
from lightmem_integrations.core.types import Compression
from lightmem_integrations.errors import MissingDependencyError, UsageError

RATES = st.sampled_from([0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0])
# Every kind of character, with those more often that the patterns look for.
ANY_TEXT = st.text(max_size=200) | st.lists(
    st.sampled_from([*"`\"'“”.,!?\n\t :/@-_'0129%€\ud800不的", "```", "http://", "北京", "ผม", "です", "not", "Ana"])
    | st.text(max_size=4),
    max_size=60,
).map("".join)  # fmt: skip
WORD_LIST = """
the a of and in to was is it that for on with as his they be at one have this from or had by but what some
we can out other were all there when up use your how said an each she which do their time if will way about many
write would like so these her long make thing see him two has look more day could go come did number sound no most
people my over know water than call first who may down side been now find any new work part take get place made live
where after back little only round man year came show every good me give our under name very through just form
sentence great think say help low line differ turn cause much mean before move right boy old too same tell does set
three want air well also play small end put home read hand port large spell add even land here must big high such
follow act why ask men change went light kind off need house picture try us again animal point mother world near build
lighthouse marmalade bicycle orchestra photosynthesis transcript quarantine Lisbon Marta Zverev"""
WORDS = WORD_LIST.split()
ENGLISH = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", " ", " ", ", ", ". ", "? ", "\n"])),
    min_size=60,
    max_size=200,
).map(lambda pairs: "".join(word + after for word, after in pairs))
CHINESE = st.lists(
    st.sampled_from([*"山水火木金土学校老师朋友电影音乐旅行计划公园城市天气故事的了在，。", "我们", "喜欢", "因为"]),
    min_size=60, max_size=200,
).map("".join)  # fmt: skip


def one(text: str, rate: float = 0.6) -> Compression:
    return LexicalCompressor(rate).compress([text])[0]


def assert_sound(text: str, made: Compression) -> None:
    assert made.text == join_spans(text, made.kept)
    edges = [0, *(edge for span in made.kept for edge in span), len(text)]
    assert all(a <= b for a, b in pairwise(edges))
    assert all(a < b for a, b in made.kept)
    assert made.text.strip() or not text.strip()
    assert [made.tokens_before, made.tokens_after] == token_counts([text, made.text])
    assert made.tokens_after <= made.tokens_before


PROTECTED_WORDS = """not never didn't no 42 3.5% $1,200 2023-05-08 10:30 yesterday Tuesday ana@example.org
https://example.org/a?b=c Zoë NASA file_name.py"""
PROTECTED = [*PROTECTED_WORDS.split(), "last week", "three weeks ago"]


# ------------------------------------------------------------------------------------ laws
@given(ANY_TEXT, RATES)
@example("", 0.6)
@example(" \n", 0.6)
@example("\x00\x01", 0.6)
@example("`" * 7 + '"' * 3, 0.2)
@example("x" * 5_000, 0.2)
@example("ผม" * 400, 0.4)
@example("です" * 400, 0.4)
def test_any_text_comes_back_shorter_or_whole(text: str, rate: float) -> None:
    made = one(text, rate)
    assert_sound(text, made)
    assert made == one(text, rate)
    assert whole(text, made.tokens_before).text == text
    if rate == 1:
        assert made.text == text


@given(st.lists(ANY_TEXT, max_size=6), RATES)
def test_a_text_is_compressed_alike_in_any_company(texts: list[str], rate: float) -> None:
    compressor = LexicalCompressor(rate)
    together = compressor.compress(texts)
    assert together == [compressor.compress([text])[0] for text in texts]
    assert together == LexicalCompressor(rate).compress(texts)
    assert safely(compressor, texts) == (together, [])


@given(ANY_TEXT)
def test_units_cover_all_but_white_space_in_order(text: str) -> None:
    at = 0
    for unit in units(text):
        assert at <= unit.start < unit.end
        assert not text[at : unit.start].strip()
        at = unit.end
    assert not text[at:].strip()


@given(ENGLISH | CHINESE, st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.8]))
@settings(max_examples=60)
def test_the_rate_is_kept_in_texts_over_50_tokens(text: str, rate: float) -> None:
    made = one(text, rate)
    assert made.tokens_before > 50
    assert made.rate == pytest.approx(rate, abs=0.05)
    assert_sound(text, made)


@given(ENGLISH, st.sampled_from([0.4, 0.6]), st.lists(st.sampled_from(PROTECTED), min_size=1, max_size=6))
@settings(max_examples=60)
def test_protected_spans_survive(text: str, rate: float, protected: Sequence[str]) -> None:
    words = text.split(" ")
    for place, span in enumerate(protected):
        words.insert(10 * (place + 1), f"and {span} too")
    made = one(" ".join(words), rate)
    for span in protected:
        assert f" {span} " in f" {made.text} ".replace("\n", " ")
    assert made.rate == pytest.approx(rate, abs=0.05)


# ------------------------------------------------------------------------------------ examples
FILLER = (
    "it is just one of the other things that we have been talking about with them for quite a while by now, and so on. "
)


@pytest.mark.parametrize(
    "span", ['"to be or not to be"', "“the owl of Minerva”", "«la vie»", "`a = b + c`", "```\nx = 1\n```"]
)
def test_quotes_and_code_stay_whole(span: str) -> None:
    assert span in one(f"{FILLER}{FILLER}they wrote {span} there. {FILLER}{FILLER}", 0.5).text


def test_protection_is_given_up_from_code_to_names_and_never_for_facts() -> None:
    code = "```\n" + "for x in range of the list and so on do print it\n" * 20 + "```"
    text = f'She told Marta "we will see" at 10:30, not later.\n{code}'
    made = one(text, 0.3)
    assert made.rate == pytest.approx(0.3, abs=0.05)
    for span in ("Marta", '"we will see"', "10:30", "not"):
        assert span in made.text
    numbers = " ".join(str(n) for n in range(100, 180))
    made = one(f"{FILLER}{numbers}", 0.3)
    assert numbers in made.text
    assert made.rate > 0.6


def test_words_that_say_little_go_first() -> None:
    made = one("We are going to have a picnic at the lighthouse with the marmalade that you have made for us.", 0.4)
    assert {"picnic", "lighthouse", "marmalade"} <= set(made.text.strip(".").split())
    assert not {"the", "a", "at"} & set(made.text.split())


def test_a_word_said_again_says_less() -> None:
    text = (
        "lighthouse keeper orchestra. " + "lighthouse " * 30 + "bicycle quarantine photosynthesis marmalade transcript"
    )
    made = one(text, 0.5).text
    for word in ("keeper", "orchestra", "bicycle", "quarantine", "marmalade"):
        assert word in made
    assert made.count("lighthouse") < 31


def test_chinese_keeps_what_is_said_and_drops_particles() -> None:
    text = (
        "我昨天和小明去了北京的故宫，看到了很多文物，但是没有买到门票的人只能在外面等。我们2023年5月3日又去了一次长城。"
    )
    made = one(text)
    for span in ("昨天", "小明", "北京", "故宫", "文物", "没有", "门票", "2023年5月3日", "长城"):
        assert span in made.text
    assert "的" not in made.text
    assert made.rate == pytest.approx(0.6, abs=0.05)
    assert not made.failed


def test_function_words_of_other_languages_are_known() -> None:
    text = "Ich habe gestern mit meiner Schwester in der Küche einen Kuchen gebacken, aber er war nicht gut und schwer."
    made = one(text, 0.5).text.split()
    assert {"Schwester", "Küche", "Kuchen", "nicht"} <= set(made)
    assert not {"in", "und"} & set(made)


def test_line_breaks_stay_where_lines_do() -> None:
    assert "\n" in one("It is the lighthouse of them all,\nand so it was that the marmalade came to us.").text


# ------------------------------------------------------------------------------------ size and speed
@pytest.mark.parametrize(
    "text",
    [
        "the lighthouse keeper did not say, but 42 gulls left. " * 3_700,
        "我们昨天在北京看了电影。" * 17_000,
        *(
            pytest.param(text, marks=pytest.mark.slow, id=repr(text[:6]))
            for text in (
                "`" * 200_000, '"' * 200_001, "a@" * 100_000, "http://" * 28_600, "A" * 200_000, "1." * 100_000,
                "\n" * 100_000 + "x" * 100_000, "Ab " * 66_700, "last " * 40_000, "ผม" * 100_000, "\ud800" * 200_000,
            )
        ),
    ],
    ids=lambda text: repr(text[:6]),
)  # fmt: skip
def test_a_message_of_200_000_characters(text: str) -> None:
    start = time.perf_counter()
    assert_sound(text, one(text))
    assert time.perf_counter() - start < 20  # linear: a second or two


def test_10_000_messages_of_one_word() -> None:
    texts = [f"{word}!" for word in WORDS] * (10_000 // len(WORDS) + 1)
    made, reasons = safely(LexicalCompressor(), texts)
    assert reasons == []
    assert [m.text.strip("!") for m in made] == [text.strip("!") for text in texts]
    assert not any(m.failed for m in made)


# ------------------------------------------------------------------------------------ others' compressors
class Broken:
    """A compressor that does one thing wrong with texts that hold "bad"."""

    name = "broken"

    def __init__(self, fault: Any) -> None:
        self.fault = fault
        self.calls = 0

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        self.calls += 1
        made = LexicalCompressor().compress(texts)
        return [self.spoil(text, c) if "bad" in text else c for text, c in zip(texts, made, strict=True)]

    def spoil(self, text: str, made: Compression) -> Any:
        if isinstance(self.fault, Exception):
            raise self.fault
        return self.fault(text, made)


GOOD = "the good lighthouse of them all was never so quiet"
BAD = "the bad lighthouse of them all was never so quiet"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (RuntimeError("no"), "broken: RuntimeError: 'no'"),
        (IndexError("tuple index out of range"), "broken: IndexError: 'tuple index out of range'"),
        (lambda text, made: None, ""),
        (lambda text, made: "shorter", "broken: gave str, not Compression"),
        (lambda text, made: replace(made, text=" ", kept=((3, 4),)), "broken: kept nothing of a text"),
        (lambda text, made: replace(made, text="lies"), "broken: gave spans that are not those of its text"),
        (lambda text, made: replace(made, kept=((5, 2),)), "broken: gave spans that are not those of its text"),
        (lambda text, made: replace(made, kept=((0, 10_000),)), "broken: gave spans that are not those of its text"),
        (lambda text, made: replace(made, kept=(7,)), "broken: gave spans that are not pairs of offsets"),
        (lambda text, made: replace(made, tokens_after=99), "broken: gave a text that is longer than the original"),
    ],
)
def test_a_fault_costs_one_text_and_is_told(fault: Any, told: str) -> None:
    compressor = Broken(fault)
    made, reasons = safely(compressor, [GOOD, BAD, GOOD])
    assert [m.failed for m in made] == [False, True, False]
    assert made[1] == whole(BAD, token_counts([BAD])[0], failed=True)
    assert made[0] == made[2] == one(GOOD)
    assert reasons == ([told] if told else ["broken: gave nothing"])


def test_a_wrong_number_of_results_is_a_fault() -> None:
    class Short(LexicalCompressor):
        def compress(self, texts: Sequence[str]) -> list[Compression]:
            return super().compress(texts)[1:]

    made, reasons = safely(Short(), [GOOD, BAD])
    assert [m.text for m in made] == [GOOD, BAD]
    assert all(m.failed for m in made)
    assert reasons == ["lexical: 1 results for 2 texts", "lexical: 0 results for 1 texts"]


def test_a_compressor_that_is_not_there_is_asked_once() -> None:
    compressor = Broken(MissingDependencyError("llmlingua", "llmlingua", "this"))
    made, reasons = safely(compressor, [BAD] * 50)
    assert compressor.calls == 1
    assert all(m.failed and m.text == BAD for m in made)
    assert len(reasons) == 1
    assert "lightmem-integrations[llmlingua]" in reasons[0]


# ------------------------------------------------------------------------------------ helpers
def test_text_without_spans_is_aligned() -> None:
    assert align("The boat left Oslo at noon.", "boat left noon") == [(4, 13), (22, 26)]
    assert align("a b a", "a a") == [(0, 1), (4, 5)]
    assert align("The boat", "ship") is None
    assert align("The boat", "") == []


def test_failed_and_empty_results_come_back_whole() -> None:
    made = compressions(["one two three", "four five", " ", "six"], [[(0, 3)], None, None, [(0, 3)]])
    assert [(m.text, m.kept, m.failed) for m in made] == [
        ("one", ((0, 3),), False), ("four five", ((0, 9),), True), (" ", ((0, 1),), False), ("six", ((0, 3),), False),
    ]  # fmt: skip


def test_rate_of_a_result() -> None:
    assert Compression("a", ((0, 1),), 4, 1).rate == 0.25
    assert Compression("", (), 0, 0).rate == 1


def test_the_default_is_a_compressor() -> None:
    assert isinstance(LexicalCompressor(), Compressor)


@pytest.mark.parametrize("rate", [0, -1, 1.5, float("nan"), True, "0.6", None])
def test_a_rate_out_of_range_is_refused(rate: Any) -> None:
    with pytest.raises(UsageError, match="rate must lie in 0 < rate <= 1"):
        LexicalCompressor(rate)
