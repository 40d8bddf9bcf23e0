"""The order of the read steps: encode the question, rank, read the entries from the truth."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from lightmem_integrations.core.analyze import detect_language, expand_unknown, query_weights, terms
from lightmem_integrations.core.bm25 import IncrementalBM25
from lightmem_integrations.core.counters import Counters
from lightmem_integrations.core.encode import encode_query
from lightmem_integrations.core.extract import CorpusStats
from lightmem_integrations.core.index import UserIndex
from lightmem_integrations.core.passages import cut
from lightmem_integrations.core.ports import Embedder, Index, Store
from lightmem_integrations.core.rank import Options, Query, Ranked, Signals, rank, rank_notes, score
from lightmem_integrations.core.tokens import wordpiece, wordpiece_count
from lightmem_integrations.core.types import KINDS, Encoding, Filter, Hit, MemoryEntry, Passage, Scope
from lightmem_integrations.core.working_set import WorkingSet
from lightmem_integrations.errors import EmbedderError

_WORD = re.compile(r"[^\W\d_]+")
_FACT = KINDS.index("fact")

GUESS_WEIGHT = 0.5
"""Weight of a known term that a query word may be a misspelling of."""


class QueryEncoder:
    """Encodes questions, the last ``size`` of them once. Thread-safe."""

    def __init__(self, embedder: Embedder | None, size: int, counters: Counters) -> None:
        self._embedder, self._size, self._counters = embedder, size, counters
        self._cache: OrderedDict[str, Encoding] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0

    def covers(self, language: str) -> bool:
        """The model knows this language."""
        known = getattr(self._embedder, "languages", None)
        return known is None or language in known

    def __call__(self, text: str) -> tuple[Encoding | None, str]:
        """The encoding, or None and the reason why there is none."""
        if self._embedder is None:
            return None, "no embedder"
        if not self.covers(detect_language(text)):
            return None, "the embedder does not know the language"
        with self._lock:
            if text in self._cache:
                self.hits += 1
                self._cache.move_to_end(text)
                return self._cache[text], ""
            self.misses += 1
        try:
            with self._counters.embedding.measured():
                encoding = encode_query(self._embedder, text)
            self._counters.embedded(wordpiece_count(text))
        except EmbedderError as error:
            return None, f"the embedder failed: {error}"
        with self._lock:
            self._cache[text] = encoding
            while len(self._cache) > self._size:
                self._cache.popitem(last=False)
        return encoding, ""


class Frequencies(Mapping[str, int]):
    """In how many of the user's turns each term occurs, read from the keyword index."""

    def __init__(self, bm25: IncrementalBM25) -> None:
        self._bm25 = bm25

    def __getitem__(self, term: str) -> int:
        found = self._bm25.document_frequency(term)
        if not found:
            raise KeyError(term)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._bm25.vocabulary)

    def __len__(self) -> int:
        return len(self._bm25.vocabulary)


@dataclass(frozen=True, slots=True)
class Recalled:
    """Hits, and what each of the query's terms is worth in this memory: its weight times its IDF."""

    hits: list[Hit]
    worth: Mapping[str, float]


class Recall:
    """Answers questions.

    Args:
        store: the truth, which has the last word on what is returned.
        index: working sets by user.
        encoder: of questions.
        fuzzy: match misspelt words.
        on_pending: called with the user id when entries wait for the encoder.
    """

    def __init__(
        self, store: Store, index: Index, encoder: QueryEncoder, *, fuzzy: bool, on_pending: Callable[[str], None]
    ) -> None:
        self._store, self._index, self._encoder, self._fuzzy = store, index, encoder, fuzzy
        self._on_pending = on_pending

    def search(self, scope: Scope, text: str, k: int, filter: Filter, options: Options) -> Recalled:
        """The best ``k`` entries for a question; none for a blank one or an empty memory."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not text.strip():
            return Recalled([], {})
        encoding, reason = (None, "") if options.strategy == "bm25" else self._encoder(text)
        with self._index.about(scope, text, encoding, k, filter) as view:
            turns = view.memory.turns
            if not len(turns):
                return Recalled([], {})
            if encoding is not None and not _fits(encoding, turns):
                encoding, reason = None, "the embedder failed: its vector is not as long as those stored"
            elif encoding is not None and self._mostly_unknown(turns):
                encoding, reason = None, "the embedder does not know the language of most texts"
            query = Query(text, self._terms(turns, text), encoding)
            found = _ranked(view.memory, query, scope, k, filter, options)
            worth = {term: weight * _idf(turns, term) for term, weight in query.terms.items()}
            pending = view.memory.pending
        if pending:
            self._on_pending(scope.user_id)
        entries = self._store.entries_by_id(scope.user_id, [entry_id for entry_id, _ in found])
        told = "; ".join(part for part in (reason, view.reason) if part)
        hits = [_hit(entries[entry_id], ranked, query, told) for entry_id, ranked in found if entry_id in entries]
        return Recalled(hits, worth)

    def corpus(self, user_id: str) -> CorpusStats:
        """How common terms are in the user's turns."""
        with self._index.sample(user_id) as memory:
            return CorpusStats(len(memory.turns), Frequencies(memory.turns.bm25))

    def _mostly_unknown(self, index: UserIndex) -> bool:
        known = sum(n for language, n in index.languages.items() if self._encoder.covers(language))
        return 2 * known < len(index)

    def _terms(self, index: UserIndex, text: str) -> Mapping[str, float]:
        weights = dict(query_weights(text, index.languages))
        if self._fuzzy:
            for term in [t for t in _strange(text) & weights.keys() if not index.bm25.document_frequency(t)]:
                for guess in expand_unknown(term, index.bm25.vocabulary):
                    weights.setdefault(guess, GUESS_WEIGHT * weights[term])
        return weights


def _ranked(
    memory: WorkingSet, query: Query, scope: Scope, k: int, filter: Filter, options: Options
) -> list[tuple[str, Ranked]]:
    """The best entries of the kinds that the filter names, by id, best first.

    A note that says nothing beyond the turns before it in the list is left out.
    """
    kinds = filter.kinds or ("turn",)
    turns, notes = memory.turns, memory.notes
    keys = memory.keys(filter.as_of)
    found: list[tuple[str, Ranked]] = []
    if "turn" in kinds:
        ranked = rank(turns, query, k, turns.mask(scope.session_id, filter), options, keys)
        found = [(turns.ids[r.position], r) for r in ranked]
    if len(notes) and set(kinds) != {"turn"}:
        near = score(Signals(turns, query, options, np.ones(len(turns), bool), keys))
        ranked = rank_notes(notes, query, k, notes.mask(scope.session_id, filter), options, near, memory.links())
        shown = {turns.sources[r.position][0] for _, r in found}
        found += [
            (notes.ids[r.position], r)
            for r in ranked
            if notes.column("kind")[r.position] != _FACT or not shown.issuperset(notes.sources[r.position])
        ]
        found.sort(key=lambda pair: -pair[1].score)
    return found[:k]


def _fits(encoding: Encoding, index: UserIndex) -> bool:
    return not index.has_vectors or index.passage("vector").shape[1] == len(encoding.vector)


def _by_words(text: str, query: Query) -> tuple[int, int] | None:
    """The passage of a long text with most of the query's terms; None for a short text."""
    passages = cut(text)
    if len(passages) == 1:
        return None
    worth = [sum(query.terms.get(t, 0.0) for t in set(terms(text[p.start : p.end]))) for p in passages]
    best = passages[worth.index(max(worth))]
    return best.start, best.end


def _strange(text: str) -> set[str]:
    """Terms of the words that are not common English: a common word that nobody used is no misspelling."""
    words = _WORD.findall(text.lower())
    return {term for word in words if wordpiece().token_to_id(word) is None for term in query_weights(word)}


def _idf(index: UserIndex, term: str) -> float:
    df = index.bm25.document_frequency(term)
    return float(np.log1p((len(index) - df + 0.5) / (df + 0.5)))


def _hit(entry: MemoryEntry, ranked: Ranked, query: Query, reason: str) -> Hit:
    parts = {**ranked.parts, "reason": reason} if reason else ranked.parts
    shown = ranked.passage or (_by_words(entry.memory, query) if query.encoding is None else None)
    if shown is None:
        return Hit(entry, ranked.score, parts)
    start, end = shown
    return Hit(replace(entry, memory=entry.memory[start:end]), ranked.score, parts, Passage(start, end))
