"""Figures of one question, and intervals of their means.

A result is a text and the ids of the turns behind it; gold is the set of turns that the answer
needs. A gold turn counts at the rank of the first result that covers it.

=============  =====================================================================================
``recall@k``   share of the gold turns covered by the first k results
``hit@k``      1 when all of them are
``any@k``      1 when at least one is
``mrr``        1 / rank of the first result that covers a gold turn; 0 when none does
``ndcg@10``    a result gains 1 for each gold turn that no earlier result covered, discounted by
               log2(rank + 1) and divided by the gain of the best order of one-turn results
               (Järvelin & Kekäläinen 2002); at most 1
``tokens@k``   tokens of the texts of the first k results
``recall@Bt``  recall of the results that fit into B tokens, taken in order up to the first that
               does not fit; the fair figure between systems whose results differ in length
``hit@Bt``     likewise
``answer@Bt``  share of the content words of the gold answer (Chinese: of its characters) that stand
               in those results; only where the question has an answer with such words
``sources@10`` mean number of turns behind a result, over the first 10
=============  =====================================================================================

Intervals are percentile bootstraps over questions (Efron 1979).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightmem_integrations.errors import UsageError

KS = (5, 10, 20, 50)
BUDGETS = (500, 1_000, 2_000)
NDCG_DEPTH = 10
SOURCES_DEPTH = 10

Counter = Callable[[str], int]

# Words too common to tell whether an answer is there; with those that questions and yes-no answers use.
_COMMON = frozenset(
    re.findall(
        "[a-z]+",
        "a an and answer are as at be been but by did do does for from had has have he her his i in is it its likely "
        "me my no not of on or our she so that the their them they this to was we were what when where which who will "
        "with would yes you your",
    )
)
_STEM_LENGTH = 6
_MIN_SAMPLES, _LOW, _HIGH = 40, 0.025, 0.975


@dataclass(frozen=True, slots=True)
class Result:
    """One answer of a system: the text that would go into a prompt, and the turns behind it."""

    text: str
    turn_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` values with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """True when a difference is larger than chance: zero lies outside the interval."""
        return self.low > 0 or self.high < 0


# ------------------------------------------------------------------------------------ one question
def first_ranks(results: Sequence[Result], gold: Collection[str]) -> dict[str, int]:
    """Rank, from 1, of the first result that covers each gold turn; turns never covered are absent.

    >>> first_ranks([Result("x", ("a", "b")), Result("y", ("b", "c"))], ["b", "c", "d"])
    {'b': 1, 'c': 2}
    """
    ranks: dict[str, int] = {}
    for rank, result in enumerate(results, 1):
        for turn in result.turn_ids:
            if turn in gold:
                ranks.setdefault(turn, rank)
    return ranks


def recall_at(ranks: Mapping[str, int], gold_turns: int, k: int) -> float:
    """Share of the gold turns covered by the first ``k`` results, 0..1."""
    return sum(rank <= k for rank in ranks.values()) / gold_turns


def reciprocal_rank(ranks: Mapping[str, int]) -> float:
    """One over the rank of the first result that covers a gold turn, 0 without one."""
    return 1 / min(ranks.values()) if ranks else 0.0


def ndcg_at(ranks: Mapping[str, int], gold_turns: int, k: int = NDCG_DEPTH) -> float:
    """Normalised discounted cumulative gain of the first ``k`` results, 0..1.

    At most 1, because a result that covers several turns may gain more than the ideal order of
    one-turn results.
    """
    gain = sum(_discount(rank) for rank in ranks.values() if rank <= k)
    ideal = sum(_discount(rank) for rank in range(1, min(gold_turns, k) + 1))
    return min(1.0, gain / ideal)


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


def pack(results: Sequence[Result], budget: int, count: Counter) -> list[Result]:
    """The results that fit into ``budget`` tokens, in order, up to the first that does not fit.

    Stopping there rather than skipping it keeps the figure from falling as the budget grows.
    """
    packed, used = [], 0
    for result in results:
        used += count(result.text)
        if used > budget:
            break
        packed.append(result)
    return packed


def content_words(text: str) -> set[str]:
    """Words that carry content, cut to a crude stem of six letters, and Chinese characters.

    >>> sorted(content_words("It was the Northumberland coast"))
    ['coast', 'northu']
    """
    text = text.lower()
    words = {word[:_STEM_LENGTH] for word in re.findall("[a-z0-9]+", text) if word not in _COMMON}
    return words | set(re.findall("[\u4e00-\u9fff]", text))


def score_question(
    results: Sequence[Result],
    gold: Collection[str],
    *,
    count: Counter | None,
    answer: str | None = None,
    ks: Sequence[int] = KS,
    budgets: Sequence[int] = BUDGETS,
) -> dict[str, float]:
    """All figures of one question, by the names in the table above.

    Args:
        results: best first.
        gold: ids of the turns that the answer needs; not empty.
        count: tokens of a text; None leaves the figures out that need texts.
        answer: the gold answer.
        ks: ranks of ``recall@k`` and its kin.
        budgets: tokens of ``recall@Bt`` and its kin.
    """
    gold = set(gold)
    ranks = first_ranks(results, gold)
    row: dict[str, float] = {}
    for k in ks:
        recall = recall_at(ranks, len(gold), k)
        row |= {f"recall@{k}": recall, f"hit@{k}": float(recall == 1), f"any@{k}": float(recall > 0)}
    row |= {"mrr": reciprocal_rank(ranks), f"ndcg@{NDCG_DEPTH}": ndcg_at(ranks, len(gold))}
    if count is not None:
        row |= _size_figures(results, count, ks) | _budget_figures(results, gold, count, answer, budgets)
    return row


def _size_figures(results: Sequence[Result], count: Counter, ks: Sequence[int]) -> dict[str, float]:
    sizes = [count(result.text) for result in results[: max(ks, default=0)]]
    sources = [len(set(result.turn_ids)) for result in results[:SOURCES_DEPTH]]
    row = {f"tokens@{k}": float(sum(sizes[:k])) for k in ks}
    return {f"sources@{SOURCES_DEPTH}": sum(sources) / len(sources) if sources else 0.0} | row


def _budget_figures(
    results: Sequence[Result], gold: set[str], count: Counter, answer: str | None, budgets: Sequence[int]
) -> dict[str, float]:
    wanted = content_words(answer) if answer is not None else set()
    row: dict[str, float] = {}
    for budget in budgets:
        packed = pack(results, budget, count)
        covered = len(first_ranks(packed, gold))
        row[f"recall@{budget}t"] = covered / len(gold)
        row[f"hit@{budget}t"] = float(covered == len(gold))
        if wanted:
            present = content_words(" ".join(result.text for result in packed))
            row[f"answer@{budget}t"] = len(wanted & present) / len(wanted)
    return row


def by_session(results: Sequence[Result], session_of: Mapping[str, str]) -> list[Result]:
    """The ranking of sessions: each at the place of the first result from it."""
    sessions = dict.fromkeys(session_of[turn] for result in results for turn in result.turn_ids)
    return [Result("", (session,)) for session in sessions]


# ------------------------------------------------------------------------------------ many questions
def bootstrap(values: Sequence[float], *, resamples: int = 1_000, seed: int = 0) -> Interval:
    """The mean of some values and the interval in which it lies in 95 % of resamples.

    Args:
        values: one a question; not empty.
        resamples: at least 40, so that both ends of the interval exist.
        seed: of the resampling, so that a report can be repeated.

    Raises:
        UsageError: when there is nothing to average or too little to resample.
    """
    if not values or resamples < _MIN_SAMPLES:
        rule = f"must be at least one value and {_MIN_SAMPLES} resamples"
        raise UsageError("values", rule, f"{len(values)} values, {resamples} resamples")
    sample = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = np.sort([sample[rng.integers(0, len(sample), len(sample))].mean() for _ in range(resamples)])
    low, high = means[int(_LOW * resamples)], means[int(_HIGH * resamples)]
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, resamples: int = 2_000, seed: int = 0) -> Interval:
    """How much better ``b`` is than ``a`` on the same questions, in the same order.

    Pairing removes what makes a question hard for both, so the interval is narrower than that of
    two separate means.
    """
    return bootstrap([y - x for x, y in zip(a, b, strict=True)], resamples=resamples, seed=seed)
