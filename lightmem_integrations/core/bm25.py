"""The keyword index: BM25 that grows, forgets, and scores a turn together with its neighbours.

The score of document ``d`` for query terms ``t`` with weights ``w(t)`` (1 unless given)::

    score(d) = sum over t of  w(t) * idf(t) * tf(t, d) * (k1 + 1) / (tf(t, d) + k1 * (1 - b + b * len(d) / avglen))
    idf(t)   = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))

Sources: ``rank_bm25.BM25Okapi`` (Trotman et al., "Improvements to BM25 and Language Models Examined",
2014) for the term weight; Lucene's ``BM25Similarity`` for the idf, which is never negative and holds for
one document; Robertson, Zaragoza & Taylor, "Simple BM25 Extension to Multiple Weighted Fields" (BM25F,
2004) for fractional term frequencies: a field that counts half adds half to ``tf`` and to ``len``.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from lightmem_integrations.errors import UsageError

__all__ = ["IncrementalBM25", "Windows"]

Floats = NDArray[np.float64]
Query = Mapping[str, float] | Iterable[str]


@dataclass(frozen=True, eq=False)
class Windows:
    """The documents that are scored as one with each document: itself and neighbours of its session.

    Attributes:
        neighbours: (n, 2w + 1) document numbers; row ``d`` holds the documents of ``d``'s session from
            ``w`` before it to ``w`` after it, ``d`` itself in column ``w``, -1 where there is none.
        left: (n,) how many of those before a document belong to its window, 0..w.
        right: (n,) the same for those after it. Windows are limited in tokens, so ``left`` and
            ``right`` differ, and ``d`` may be in ``e``'s window without the reverse.

    Raises:
        UsageError: when the shapes do not fit each other or a number is out of range.
    """

    neighbours: NDArray[np.int32]
    left: NDArray[np.int8]
    right: NDArray[np.int8]

    def __post_init__(self) -> None:
        shape = self.neighbours.shape
        if len(shape) != 2 or shape[1] % 2 == 0:
            raise UsageError("windows.neighbours", "must have the shape (n, 2w + 1)", shape)
        n, width = shape[0], shape[1] // 2
        if not np.array_equal(self.neighbours[:, width], np.arange(n)):
            raise UsageError("windows.neighbours", "must hold each document in its own middle column", shape)
        if n and not -1 <= self.neighbours.min() <= self.neighbours.max() < n:
            raise UsageError("windows.neighbours", "must hold document numbers or -1", int(self.neighbours.max()))
        for name, side in (("left", self.left), ("right", self.right)):
            if side.shape != (n,):
                raise UsageError(f"windows.{name}", "must have one value per document", side.shape)
            if n and not 0 <= side.min() <= side.max() <= width:
                raise UsageError(f"windows.{name}", f"must lie in 0..{width}", (int(side.min()), int(side.max())))

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.neighbours)

    @cached_property
    def holders(self) -> NDArray[np.intp]:
        """(n, 2w + 1) the documents whose window holds ``d``; ``n`` where there is none.

        The document ``i`` at offset ``o`` from ``d`` holds it when ``d`` is near enough on ``i``'s other
        side: ``left[i] >= o`` for a later ``i``, ``right[i] >= -o`` for an earlier one.
        """
        width = self.neighbours.shape[1] // 2
        offsets = np.arange(-width, width + 1)
        reach = np.where(offsets > 0, self.left[self.neighbours], self.right[self.neighbours])
        holds = (self.neighbours >= 0) & ((reach >= np.abs(offsets)) | (offsets == 0))
        return np.where(holds, self.neighbours, len(self)).astype(np.intp)

    def sums(self, documents: NDArray[Any], values: Floats) -> Floats:
        """(n,) for each window, the sum of the values of those of ``documents`` that it holds."""
        holders = self.holders[documents]
        weights = np.repeat(values, holders.shape[1])
        sums = np.bincount(holders.ravel(), weights=weights, minlength=len(self) + 1)
        return sums[: len(self)].astype(np.float64, copy=False)


class _Posting:
    """Where one term occurs: ascending document numbers and its frequency in each."""

    __slots__ = ("documents", "frequencies")

    def __init__(self) -> None:
        self.documents = array("I")
        self.frequencies = array("f")

    def arrays(self) -> tuple[NDArray[np.uintc], NDArray[np.float32]]:
        """Views, to be dropped before the next ``add``: an array cannot grow under one."""
        return np.frombuffer(self.documents, np.uintc), np.frombuffer(self.frequencies, np.float32)

    def keep(self, mask: NDArray[np.bool_]) -> None:
        documents, frequencies = self.arrays()
        alive = mask[documents]
        self.documents, self.frequencies = (
            array("I", documents[alive].tobytes()),
            array("f", frequencies[alive].tobytes()),
        )


class IncrementalBM25(BM25Okapi):  # type: ignore[misc]  # rank_bm25 ships no annotations
    """``rank_bm25.BM25Okapi`` with Lucene's idf, weighted terms, ``add``, ``remove`` and windows.

    ``get_scores``, ``get_batch_scores`` and ``get_top_n`` work as in rank_bm25, with these differences: a
    repeated query term counts once (give a mapping to weigh terms); no score is ever negative; an empty
    corpus is allowed; removed documents keep their number and score 0. ``idf`` and ``doc_freqs`` do not
    exist: postings replace them, so that a query touches only the documents that hold its terms.

    Any number of threads may search at once; ``add`` and ``remove`` must have the index to themselves.

    Attributes:
        corpus_size: number of documents ever added, which is the length of the scores.
        doc_len: length of each document, the sum of its term frequencies; 0 for removed ones.
        avgdl: mean length of the documents that are not removed; 0 without any.
    """

    def __init__(
        self,
        corpus: Iterable[Mapping[str, float] | Sequence[str]] = (),
        tokenizer: Any = None,
        k1: float = 1.5,
        b: float = 0.75,
    ) -> None:
        """Index a corpus.

        Args:
            corpus: documents as lists of terms, or as frequencies by term; texts when there is a tokenizer.
            tokenizer: as in rank_bm25, called in worker processes.
            k1: how slowly repetitions of a term saturate, at least 0.
            b: share of the length normalisation, 0..1.
        """
        self._postings: dict[str, _Posting] = {}
        self._alive = bytearray()
        self._live = 0
        self._total_length = 0.0
        self._dead_in_postings = 0
        self._version = 0
        self._norms: tuple[int, Floats] | None = None
        self._window_norms: WeakKeyDictionary[Windows, tuple[int, Floats]] = WeakKeyDictionary()
        self._vocabulary: tuple[int, tuple[str, ...]] | None = None
        super().__init__(corpus, tokenizer, k1=k1, b=b)
        del self.idf, self.doc_freqs  # an empty one would be worse than none

    def _initialize(self, corpus: Iterable[Mapping[str, float] | Sequence[str]]) -> None:
        self.doc_len: array[float] = array("d")
        for document in corpus:
            self.add(document)

    def _calc_idf(self, nd: None) -> None:
        """Nothing to do: the idf follows from the postings at query time."""

    # ---------------------------------------------------------------------------------- writing
    def add(self, terms: Mapping[str, float] | Iterable[str]) -> int:
        """Index one more document.

        Args:
            terms: its terms with repeats, or their frequencies, which may be fractions (weighted fields).

        Returns:
            Its document number, counted from 0 and never used again.

        Raises:
            UsageError: when a frequency is not a positive, finite number, or for a text.
        """
        if isinstance(terms, str):
            raise UsageError("terms", "must be terms, not a text", terms)
        document = self.corpus_size
        if isinstance(terms, Mapping):
            for frequency in terms.values():
                if not 0 < frequency < math.inf:
                    raise UsageError("terms", "must have positive, finite frequencies", frequency)
            counts: Mapping[str, float] = terms
        else:
            counts = {}
            for term in terms:
                counts[term] = counts.get(term, 0) + 1
        for term, frequency in counts.items():
            posting = self._postings.get(term)
            if posting is None:
                posting = self._postings[term] = _Posting()
            posting.documents.append(document)
            posting.frequencies.append(frequency)
        self.doc_len.append(sum(counts.values()))
        self._alive.append(1)
        self.corpus_size += 1
        self._count(1, self.doc_len[document])
        return int(document)

    def remove(self, doc: int) -> None:
        """Forget one document: it is not scored again and counts in no statistic.

        Raises:
            UsageError: when there is no such document, or it was removed before.
        """
        if not 0 <= doc < self.corpus_size or not self._alive[doc]:
            raise UsageError("doc", "must be the number of a document of the index", doc)
        self._alive[doc] = 0
        self._count(-1, -self.doc_len[doc])
        self.doc_len[doc] = 0.0
        self._dead_in_postings += 1
        if self._dead_in_postings > self._live:  # so rarely that its cost per removal is constant
            self._compact()

    def _count(self, documents: int, length: float) -> None:
        self._version += 1
        self._live += documents
        self._total_length = self._total_length + length if self._live else 0.0
        self.avgdl = self._total_length / self._live if self._live else 0.0

    def _compact(self) -> None:
        mask = self._mask()
        for posting in self._postings.values():
            posting.keep(mask)
        self._postings = {term: posting for term, posting in self._postings.items() if posting.documents}
        self._dead_in_postings = 0

    # -------------------------------------------------------------------------------- statistics
    def __len__(self) -> int:
        """Number of documents that are not removed."""
        return self._live

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The terms that occur in the index, for ``expand_unknown``."""
        if self._vocabulary is None or self._vocabulary[0] != self._version:
            known = tuple(
                term for term in self._postings if not self._dead_in_postings or self.document_frequency(term)
            )
            self._vocabulary = self._version, known
        return self._vocabulary[1]

    def document_frequency(self, term: str) -> int:
        """Number of documents that hold a term."""
        if self._dead_in_postings:
            return len(self._occurrences(term)[0])
        posting = self._postings.get(term)
        return 0 if posting is None else len(posting.documents)

    def _mask(self) -> NDArray[np.bool_]:
        return np.frombuffer(self._alive, np.bool_)

    def _occurrences(self, term: str) -> tuple[NDArray[Any], Floats]:
        posting = self._postings.get(term)
        if posting is None:
            return np.empty(0, np.intp), np.empty(0)
        documents, frequencies = posting.arrays()
        if self._dead_in_postings:
            alive = self._mask()[documents]
            documents, frequencies = documents[alive], frequencies[alive]
        return documents, frequencies.astype(np.float64)

    def _length_norms(self, lengths: Floats, average: float) -> Floats:
        """The part of the denominator that depends on a document only: k1 * (1 - b + b * len / avglen)."""
        ratio = lengths / average if average else np.zeros_like(lengths)
        return np.asarray(self.k1 * (1 - self.b + self.b * ratio), dtype=np.float64)

    def _gains(self, frequencies: Floats, norms: Floats) -> Floats:
        df = len(frequencies)
        idf = math.log1p((self._live - df + 0.5) / (df + 0.5))
        return np.asarray(idf * (self.k1 + 1) * frequencies / (frequencies + norms), dtype=np.float64)

    # ----------------------------------------------------------------------------------- reading
    def get_scores(self, query: Query) -> Floats:
        """BM25 of every document.

        Args:
            query: terms, or weights by term (such as 0.5 for a guess at a misspelt word).

        Returns:
            (corpus_size,) scores of at least 0; 0 for documents without a term of the query.
        """
        if self._norms is None or self._norms[0] != self._version:
            self._norms = self._version, self._length_norms(np.array(self.doc_len), self.avgdl)
        norms = self._norms[1]
        scores = np.zeros(self.corpus_size)
        for term, weight in _weights(query).items():
            documents, frequencies = self._occurrences(term)
            scores[documents] += weight * self._gains(frequencies, norms[documents])
        return scores

    def get_batch_scores(self, query: Query, doc_ids: Sequence[int]) -> list[float]:
        """BM25 of some documents, in the order of ``doc_ids``."""
        scores: list[float] = self.get_scores(query)[np.asarray(doc_ids, dtype=np.intp)].tolist()
        return scores

    def get_top_n(self, query: Query, documents: Sequence[Any], n: int = 5) -> list[Any]:
        """The ``n`` best of ``documents``, one per document number, best first, equals in order; no removed ones.

        Raises:
            UsageError: when ``documents`` are not as many as were ever added.
        """
        if len(documents) != self.corpus_size:
            raise UsageError("documents", f"must be {self.corpus_size}, one per document number", len(documents))
        order = np.argsort(-self.get_scores(query), kind="stable")
        return [documents[i] for i in order[self._mask()[order]][:n]]

    def window_scores(self, query: Query, windows: Windows) -> Floats:
        """BM25 of every document's window, as if each window were one concatenated document.

        Frequencies and lengths are sums over the window, ``df`` counts windows, and the mean length is
        that of the windows of documents that are not removed. The lengths are computed once per
        ``Windows`` object and state of the index.

        Args:
            query: terms, or weights by term.
            windows: of all documents ever added.

        Returns:
            (corpus_size,) scores of at least 0; 0 for removed documents.

        Raises:
            UsageError: when ``windows`` are not as many as were ever added.
        """
        if len(windows) != self.corpus_size:
            raise UsageError("windows", f"must cover {self.corpus_size} documents", len(windows))
        scores = np.zeros(self.corpus_size)
        norms = self._norms_of(windows)
        alive = self._mask()
        for term, weight in _weights(query).items():
            documents, frequencies = self._occurrences(term)
            if not len(documents):
                continue
            sums = windows.sums(documents, frequencies)
            holding = np.flatnonzero(sums if self._live == self.corpus_size else sums * alive)
            scores[holding] += weight * self._gains(sums[holding], norms[holding])
        return scores

    def _norms_of(self, windows: Windows) -> Floats:
        known = self._window_norms.get(windows)
        if known is None or known[0] != self._version:
            lengths = windows.sums(np.arange(len(windows)), np.array(self.doc_len))
            average = lengths[self._mask()].sum() / max(1, self._live)
            known = self._window_norms[windows] = self._version, self._length_norms(lengths, average)
        return known[1]


def _weights(query: Query) -> Mapping[str, float]:
    if isinstance(query, str):
        raise UsageError("query", "must be terms, not a text", query)
    return query if isinstance(query, Mapping) else dict.fromkeys(query, 1.0)
