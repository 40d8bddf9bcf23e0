"""The figures of the recall benchmark: by hand, and as laws over random rankings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_integrations.bench.metrics import (
    Interval,
    Result,
    bootstrap,
    by_session,
    content_words,
    first_ranks,
    ndcg_at,
    pack,
    paired_bootstrap,
    score_question,
)
from lightmem_integrations.errors import UsageError


def words(text: str) -> int:
    return len(text.split())


def ranking(*turns: str) -> list[Result]:
    """Results of two words each; a string of letters names the turns behind one."""
    return [Result(f"text {name}", tuple(name)) for name in turns]


TURNS = st.sampled_from("abcdefgh")
RANKINGS = st.lists(
    st.builds(
        Result, st.text("x ", max_size=9), st.lists(TURNS, min_size=1, max_size=3).map(lambda turns: tuple(turns))
    ),
    max_size=12,
)
GOLD = st.sets(TURNS, min_size=1)


# ------------------------------------------------------------------------------------ by hand
def test_one_question_by_hand():
    # Gold a and c: a at rank 2, c at rank 4.
    row = score_question(
        ranking("x", "a", "y", "c", "z"),
        ["a", "c", "a"],
        count=words,
        answer="The text of c",
        ks=(1, 2, 4),
        budgets=(3, 4, 8),
    )
    assert row == pytest.approx(
        {
            "recall@1": 0,
            "hit@1": 0,
            "any@1": 0,
            "recall@2": 0.5,
            "hit@2": 0,
            "any@2": 1,
            "recall@4": 1,
            "hit@4": 1,
            "any@4": 1,
            "mrr": 0.5,
            "ndcg@10": (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)),
            "tokens@1": 2,
            "tokens@2": 4,
            "tokens@4": 8,
            "sources@10": 1,
            "recall@3t": 0,
            "hit@3t": 0,
            "answer@3t": 0.5,
            "recall@4t": 0.5,
            "hit@4t": 0,
            "answer@4t": 0.5,
            "recall@8t": 1,
            "hit@8t": 1,
            "answer@8t": 1,
        }
    )


def test_nothing_found():
    row = score_question([], ["a"], count=words, answer="oak", ks=(5,), budgets=(10,))
    assert set(row.values()) == {0.0}


def test_a_result_may_cover_several_turns_and_a_turn_counts_once():
    results = [Result("ab", ("a", "b", "a")), Result("bc", ("b", "c"))]
    assert first_ranks(results, {"a", "b", "c"}) == {"a": 1, "b": 1, "c": 2}
    assert ndcg_at({"a": 1, "b": 1}, 2) == 1.0  # gains 2 where the ideal order of single turns gains 1.63
    assert score_question(results, ["a"], count=words)["sources@10"] == 2


def test_packing_ends_at_the_first_result_that_does_not_fit():
    results = [Result("one two", ("a",)), Result("one two three four", ("b",)), Result("one", ("c",))]
    assert pack(results, 5, words) == results[:1]
    assert pack(results, 6, words) == results[:2]
    assert pack(results, 1, words) == []


def test_no_answer_figure_without_content_words():
    assert not any(name.startswith("answer") for name in score_question([], ["a"], count=words, answer="Yes, it was."))
    assert not any(name.startswith("answer") for name in score_question([], ["a"], count=words, answer=None))


def test_content_words_are_stems_and_chinese_characters():
    assert content_words("The Painting, painted in 2022: 绘本馆!") == {"painti", "painte", "2022", "绘", "本", "馆"}


def test_sessions_rank_by_first_appearance():
    session_of = {"a": "s2", "b": "s1", "c": "s2", "d": "s3"}
    ranked = by_session(ranking("a", "cb", "d"), session_of)
    assert [result.turn_ids for result in ranked] == [("s2",), ("s1",), ("s3",)]
    assert score_question(ranked, ["s1"], count=None)["mrr"] == 0.5


# ------------------------------------------------------------------------------------ laws
@given(RANKINGS, GOLD)
def test_every_figure_is_a_share_and_recall_grows_with_k_and_budget(results: list[Result], gold: set[str]):
    ks, budgets = range(1, 14), range(1, 40)
    row = score_question(results, gold, count=words, answer="x xx", ks=ks, budgets=budgets)
    for figure in ("recall", "hit", "any"):
        by_k = [row[f"{figure}@{k}"] for k in ks]
        assert by_k == sorted(by_k)
    for figure in ("recall", "hit", "answer"):
        by_budget = [row[f"{figure}@{budget}t"] for budget in budgets]
        assert by_budget == sorted(by_budget)
    shares = [value for name, value in row.items() if not name.startswith(("tokens", "sources"))]
    assert all(0 <= share <= 1 for share in shares)
    assert all(row[f"hit@{k}"] <= row[f"recall@{k}"] <= row[f"any@{k}"] for k in ks)


@given(GOLD, RANKINGS)
def test_an_oracle_scores_one(gold: set[str], rest: list[Result]):
    oracle = [Result(f"x {turn}", (turn,)) for turn in sorted(gold)]
    row = score_question(oracle + rest, gold, count=words, ks=(8,), budgets=(16,))
    perfect = ("recall@8", "hit@8", "any@8", "mrr", "ndcg@10", "recall@16t", "hit@16t")
    assert [row[name] for name in perfect] == [pytest.approx(1.0)] * len(perfect)


@given(RANKINGS, GOLD)
def test_a_better_place_never_scores_less(results: list[Result], gold: set[str]):
    first = Result("x", (min(gold),))
    last, best = (
        score_question([*results, first], gold, count=None),
        score_question([first, *results], gold, count=None),
    )
    assert best["mrr"] == 1.0
    assert best["mrr"] >= last["mrr"]


# ------------------------------------------------------------------------------------ intervals
def test_interval_of_equal_values_is_a_point():
    assert bootstrap([0.25] * 9) == Interval(0.25, 0.25, 0.25, 9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_interval_holds_the_mean_of_resamples_within_the_values(values: list[float]):
    interval = bootstrap(values, resamples=100)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert interval == bootstrap(values, resamples=100)


def test_interval_has_the_width_of_the_normal_approximation():
    values = [0.0, 1.0] * 200
    interval = bootstrap(values, resamples=4_000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.1)


def test_pairing_sees_a_small_steady_difference():
    a = [i / 100 for i in range(90)]
    b = [value + 0.01 for value in a]
    gap = paired_bootstrap(a, b)
    assert gap.mean == pytest.approx(0.01)
    assert gap.excludes_zero
    assert not paired_bootstrap(a, a[::-1]).excludes_zero


def test_intervals_need_values_and_equal_lengths():
    with pytest.raises(UsageError, match="at least one value"):
        bootstrap([])
    with pytest.raises(UsageError, match="40 resamples"):
        bootstrap([1.0], resamples=10)
    with pytest.raises(ValueError, match="zip"):
        paired_bootstrap([1.0], [1.0, 2.0])
