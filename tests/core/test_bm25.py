"""BM25: equal to rank_bm25 with Lucene's idf, after any history, and over windows."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from lightmem_integrations.core.bm25 import IncrementalBM25, Windows
from lightmem_integrations.errors import UsageError

TERMS = st.sampled_from([*"abcdefgh", "北京", ""])
DOCUMENT = st.lists(TERMS, min_size=1, max_size=12)
CORPUS = st.lists(DOCUMENT, min_size=1, max_size=12)
QUERY = st.lists(TERMS | st.just("unknown"), max_size=6)
FIELDS = st.dictionaries(TERMS, st.sampled_from([0.25, 0.5, 1.0, 2.5]), max_size=6)


class Reference(BM25Okapi):  # type: ignore[misc]  # rank_bm25 ships no annotations
    """rank_bm25 with Lucene's idf and nothing else changed."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        for term, df in nd.items():
            self.idf[term] = math.log(1 + (self.corpus_size - df + 0.5) / (df + 0.5))


def reference_scores(corpus: list[list[str]], query: list[str]) -> NDArray[np.float64]:
    return np.asarray(Reference(corpus).get_scores(list(dict.fromkeys(query))))


def assert_equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@given(CORPUS, QUERY)
@example([["a"]], ["a"])
@example([["a"], ["a", "a", "b"]], ["a", "b", "b"])
def test_equals_rank_bm25(corpus: list[list[str]], query: list[str]) -> None:
    index = IncrementalBM25(corpus)
    expected = reference_scores(corpus, query)
    assert_equal(index.get_scores(query), expected)
    ids = list(range(len(corpus)))[::-2]
    assert_equal(index.get_batch_scores(query, ids), expected[ids])
    best = index.get_top_n(query, range(len(corpus)), n=3)
    assert len(best) == min(3, len(corpus))
    assert_equal(expected[best], np.sort(expected)[::-1][:3])


@given(CORPUS, QUERY, st.floats(0.1, 3), st.floats(0, 1))
def test_parameters_mean_the_same(corpus: list[list[str]], query: list[str], k1: float, b: float) -> None:
    expected = Reference(corpus, k1=k1, b=b).get_scores(list(dict.fromkeys(query)))
    assert_equal(IncrementalBM25(corpus, k1=k1, b=b).get_scores(query), expected)


@dataclass
class History:
    """An index and the documents that should be left in it, by number."""

    index: IncrementalBM25
    left: dict[int, Any]


@st.composite
def histories(draw: st.DrawFn, document: st.SearchStrategy[Any] = DOCUMENT) -> History:
    history = History(IncrementalBM25(), {})
    for _ in range(draw(st.integers(0, 15))):
        if draw(st.booleans()) and history.left:
            number = draw(st.sampled_from(sorted(history.left)))
            history.index.remove(number)
            del history.left[number]
        else:
            terms = draw(document)
            number = history.index.add(terms)
            assert number == history.index.corpus_size - 1
            history.left[number] = terms
        if draw(st.booleans()):
            history.index.get_scores(["a"])  # fills the caches that later changes must drop
    return history


@given(histories(), QUERY)
def test_after_any_history_equals_a_fresh_index_of_the_survivors(history: History, query: list[str]) -> None:
    index, left = history.index, history.left
    scores = index.get_scores(query)
    assert scores.shape == (index.corpus_size,)
    assert scores.dtype == np.float64
    assert len(index) == len(left)
    if left:
        assert_equal(scores[list(left)], reference_scores(list(left.values()), query))
        assert index.avgdl == pytest.approx(sum(map(len, left.values())) / len(left))
    assert not np.delete(scores, list(left)).any()
    assert sorted(index.vocabulary) == sorted({term for terms in left.values() for term in terms})
    assert index.document_frequency("a") == sum("a" in terms for terms in left.values())
    names = list(range(index.corpus_size))
    assert sorted(index.get_top_n(query, names, n=99)) == list(left)


@given(histories(FIELDS), st.dictionaries(TERMS, st.floats(0, 2), max_size=5))
def test_fractional_frequencies_and_query_weights_follow_the_formula(history: History, query: dict[str, float]) -> None:
    scores, left = history.index.get_scores(query), history.left
    lengths = {number: sum(terms.values()) for number, terms in left.items()}
    average = sum(lengths.values()) / len(left) if left else 0
    for number, terms in left.items():
        expected = 0.0
        for term, weight in query.items():
            if tf := terms.get(term):
                df = sum(term in other for other in left.values())
                norm = 1.5 * (1 - 0.75 + 0.75 * lengths[number] / average)
                expected += weight * math.log(1 + (len(left) - df + 0.5) / (df + 0.5)) * tf * 2.5 / (tf + norm)
        assert scores[number] == pytest.approx(expected, rel=1e-9)


@given(CORPUS, QUERY)
def test_counts_and_lists_are_the_same_document(corpus: list[list[str]], query: list[str]) -> None:
    weighted = IncrementalBM25([Counter(document) for document in corpus])
    assert_equal(weighted.get_scores(query), IncrementalBM25(corpus).get_scores(query))


def test_scores_are_never_negative_and_a_common_term_still_counts() -> None:
    scores = IncrementalBM25([["a"], ["a"], ["a", "b"]]).get_scores(["a"])
    assert (scores > 0).all()


def test_empty_index_and_empty_documents() -> None:
    empty = IncrementalBM25()
    assert empty.get_scores(["a"]).shape == (0,)
    assert empty.get_top_n(["a"], []) == []
    assert empty.get_batch_scores(["a"], []) == []
    assert empty.vocabulary == ()
    assert IncrementalBM25([[], []]).get_scores(["a"]).tolist() == [0.0, 0.0]
    assert IncrementalBM25([[], ["a"]]).get_scores(["a"])[1] > 0


def test_attributes_that_postings_replace_are_gone() -> None:
    index = IncrementalBM25([["a"]])
    assert not hasattr(index, "idf")
    assert not hasattr(index, "doc_freqs")
    assert list(index.doc_len) == [1.0]


@pytest.mark.parametrize("frequency", [0.0, -1.0, math.inf, math.nan])
def test_bad_frequency_is_refused_and_nothing_is_added(frequency: float) -> None:
    index = IncrementalBM25([["a"]])
    with pytest.raises(UsageError, match="terms must have positive, finite frequencies"):
        index.add({"b": 1.0, "c": frequency})
    assert index.corpus_size == 1
    assert index.vocabulary == ("a",)


def test_texts_in_place_of_terms_are_refused() -> None:
    index = IncrementalBM25([["a"]])
    with pytest.raises(UsageError, match="terms must be terms, not a text"):
        index.add("some text")
    with pytest.raises(UsageError, match="query must be terms, not a text"):
        index.get_scores("some text")


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_only_a_living_document_can_be_removed(number: int) -> None:
    index = IncrementalBM25([["a"], ["b"]])
    index.remove(0)
    with pytest.raises(UsageError, match="doc must be the number of a document"):
        index.remove(number)
    assert len(index) == 1


def test_top_n_needs_one_document_per_number() -> None:
    with pytest.raises(UsageError, match="documents must be 2"):
        IncrementalBM25([["a"], ["b"]]).get_top_n(["a"], ["only one"])


# ------------------------------------------------------------------------------------- windows
@st.composite
def windows_of(draw: st.DrawFn, count: int) -> Windows:
    """Sessions whose documents are interleaved, and reaches that differ to the left and to the right."""
    width = draw(st.integers(0, 4))
    session = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    neighbours = np.full((count, 2 * width + 1), -1, np.int32)
    left, right = np.zeros(count, np.int8), np.zeros(count, np.int8)
    for name in set(session):
        members = [number for number in range(count) if session[number] == name]
        for place, number in enumerate(members):
            for offset in range(-width, width + 1):
                if 0 <= place + offset < len(members):
                    neighbours[number, width + offset] = members[place + offset]
            left[number], right[number] = draw(st.integers(0, width)), draw(st.integers(0, width))
    return Windows(neighbours, left, right)


def members(windows: Windows, number: int) -> list[int]:
    """The law of windows, read literally."""
    width = windows.neighbours.shape[1] // 2
    start, end = width - windows.left[number], width + windows.right[number]
    return [int(d) for d in windows.neighbours[number, start : end + 1] if d >= 0]


@given(st.data(), histories(), QUERY)
def test_window_scores_equal_a_fresh_index_of_concatenations(
    data: st.DataObject, history: History, query: list[str]
) -> None:
    index, left = history.index, history.left
    windows = data.draw(windows_of(index.corpus_size))
    joined = [[term for d in members(windows, number) for term in left.get(d, [])] for number in left]
    scores = index.window_scores(query, windows)
    assert scores.shape == (index.corpus_size,)
    if left:
        assert_equal(scores[list(left)], reference_scores(joined, query))
    assert not np.delete(scores, list(left)).any()


@given(st.data(), st.integers(0, 10))
def test_holders_are_the_inverse_of_members(data: st.DataObject, count: int) -> None:
    windows = data.draw(windows_of(count))
    held = {(int(i), d) for d in range(count) for i in windows.holders[d] if i < count}
    assert held == {(i, d) for i in range(count) for d in members(windows, i)}


@given(st.data(), CORPUS, st.dictionaries(TERMS, st.floats(0, 2), max_size=4))
def test_windows_of_one_document_change_nothing(
    data: st.DataObject, corpus: list[list[str]], query: dict[str, float]
) -> None:
    neighbours = data.draw(windows_of(len(corpus))).neighbours
    alone = np.zeros(len(corpus), np.int8)
    index = IncrementalBM25(corpus)
    assert_equal(index.window_scores(query, Windows(neighbours, alone, alone)), index.get_scores(query))


def test_window_lengths_follow_changes_of_the_index() -> None:
    index = IncrementalBM25([["a"], ["b", "b"], ["c"]])
    row = np.array([[-1, 0, 1], [0, 1, 2], [1, 2, -1]], np.int32)
    windows = Windows(row, np.ones(3, np.int8), np.ones(3, np.int8))
    index.window_scores(["a"], windows)
    index.remove(1)
    # The windows that are left hold "a" and "c"; the one in the middle counts nowhere.
    assert_equal(index.window_scores(["a"], windows), [reference_scores([["a"], ["c"]], ["a"])[0], 0, 0])


@pytest.mark.parametrize(
    ("neighbours", "left", "right", "field"),
    [
        ([[0, 1], [1, 0]], [0, 0], [0, 0], "neighbours"),
        ([[1], [0]], [0, 0], [0, 0], "neighbours"),
        ([[-1, 0, 2], [0, 1, -1]], [0, 0], [0, 0], "neighbours"),
        ([[-1, 0, 1], [0, 1, -1]], [0], [0, 0], "left"),
        ([[-1, 0, 1], [0, 1, -1]], [0, 2], [0, 0], "left"),
        ([[-1, 0, 1], [0, 1, -1]], [0, 0], [-1, 0], "right"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    neighbours: list[list[int]], left: list[int], right: list[int], field: str
) -> None:
    with pytest.raises(UsageError, match=f"windows.{field} must"):
        Windows(np.array(neighbours, np.int32), np.array(left, np.int8), np.array(right, np.int8))


def test_windows_of_another_index_are_refused() -> None:
    windows = Windows(np.array([[0]], np.int32), np.zeros(1, np.int8), np.zeros(1, np.int8))
    with pytest.raises(UsageError, match="windows must cover 2 documents"):
        IncrementalBM25([["a"], ["b"]]).window_scores(["a"], windows)
