"""Ranking: every signal with its definition and source, and how each strategy adds them up.

A signal is one number per entry. ``mm`` scales a signal to 0..1 over the entries that may be
returned. ``W(t, n)`` is turn t with up to n neighbours on each side: same session, no long pause, at
most 250 tokens a side. Decision 0007 tells where the choices come from and what they are worth.

=================  ===================================================================================
signal             definition
=================  ===================================================================================
``maxsim``         late interaction (ColBERT's MaxSim, Khattab & Zaharia 2020), weighted by IDF: sum
                   over the query's pieces j of w_j · max over the entry's pieces of the cosine;
                   w_j = idf_j / Σ idf, idf_j = ln(1 + (N − df_j + ½) / (df_j + ½)), df_j = entries with
                   piece j; distinct content pieces, the 32 of highest IDF. The best passage counts.
``maxsim_window``  the same, each maximum taken over the turn and 0.9 times its two neighbours'
``bm25_window``    BM25 of W(t, 4) as one document (``core.bm25``)
``dense_window``   cosine of the query with the sum of the unit vectors of W(t, 1)
``dense``          cosine of the query with the entry's best passage
``bm25``           BM25 of the entry alone
``bm25_near``      mean of ``bm25`` and of BM25 over W(t, 1)
``other_speaker``  1 when the question names one of the speakers and another one said it
``asks``           1 when the turn ends with a question mark
``acknowledges``   1 when the turn opens like a reaction ("Wow", "Thanks")
``day``            1 when it was said on the day that the question names, or up to 3 days later, or
                   when it speaks of that day
``time_word``      1 when the question asks for a time and the turn has a time word
``user``           1 when the user said it
``length``         ln(1 + tokens) / 5
``recency``        ½ to the power of age / half-life, age counted from the newest entry
``importance``     the entry's importance, 0 where nobody rated it
=================  ===================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core import cues
from lightmem_integrations.core.index import REACH, UserIndex
from lightmem_integrations.core.types import ROLES, Encoding, Profile, Strategy

Signal = NDArray[np.float64]

PEER = {
    "maxsim": 1.0, "maxsim_window": 1.0, "bm25_window": 1.0, "dense_window": 1.0, "other_speaker": -1.0,
    "asks": -0.3, "acknowledges": -0.1, "day": 0.4, "time_word": 0.3,
}  # fmt: skip
"""Chats between people: "U9" of the ranking study, equal weights, nothing fitted."""

NOTES = {
    "maxsim": 1.0, "dense": 1.0, "bm25_window": 1.0, "dense_window": 1.0, "day": 0.4, "time_word": 0.3,
}  # fmt: skip
"""Mostly entries without neighbours: their windows are themselves, so ``dense`` replaces the second MaxSim,
and what tells one side of a conversation from the other says nothing."""

ASSISTANT = {
    "maxsim": 1.0, "maxsim_window": 1.0, "bm25_window": 1.0, "dense_window": 1.0, "dense": 1.0,
    "user": 1.0, "length": -0.7, "day": 0.4, "time_word": 0.3,
}  # fmt: skip
"""User and assistant: what the user said, and short answers, first."""

NEIGHBOUR_BONUS, SESSION_BONUS, SPEAKER_BONUS, USER_BONUS = 0.3, 0.3, 0.2, 0.4
_WEIGHTED_BONUS = {
    "neighbour": NEIGHBOUR_BONUS, "session": SESSION_BONUS, "speaker": SPEAKER_BONUS, "user": USER_BONUS
}  # fmt: skip
RRF_K = 60
INTERSECTION = (100, 50)
LONG_ANSWER_TOKENS = 100
QUERY_PIECES = 32
NEIGHBOUR_DISCOUNT = 0.9
NOISE = 1e-6
"""Signals that differ by less are equal: float32 sums of the same numbers differ in their last bits."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question, ready to be asked.

    Attributes:
        text: as it was given.
        terms: weights of its keyword terms.
        encoding: None when there is no embedder, or it failed.
    """

    text: str
    terms: Mapping[str, float]
    encoding: Encoding | None


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller may set; see ``LightMemConfig`` for the units."""

    strategy: Strategy = "late"
    profile: Profile = "auto"
    late_max_pieces: int = 120_000
    late_candidates: int = 2_000
    recency_weight: float = 0.0
    recency_half_life_days: float = 30.0
    importance_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Keys:
    """Facts in words of their own: whoever finds one has found the turns that it was made from.

    Attributes:
        index: what the facts are in.
        facts, turns: (m,) positions of a fact and of one of its turns, for each such pair.
    """

    index: UserIndex
    facts: NDArray[np.intp]
    turns: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One entry of a ranking: its position in the index, its score in 0..1 and what it is made of."""

    position: int
    score: float
    parts: Mapping[str, float | str]
    passage: tuple[int, int] | None


@dataclass
class Signals:
    """The signals of one query over one user's entries, each computed at most once."""

    index: UserIndex
    query: Query
    options: Options
    allowed: NDArray[np.bool_]
    keys: Keys | None = None
    _known: dict[str, Signal] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Signal:
        if name not in self._known:
            self._known[name] = np.asarray(getattr(self, f"_{name}")(), np.float64)
        return self._known[name]

    def scaled(self, values: Signal) -> Signal:
        """``mm``: min-max over the entries that may be returned; equal values are ½ where positive."""
        inside = values[self.allowed]
        low, high = inside.min(), inside.max()
        if low == -np.inf:  # entries that do not have the signal get its least value
            inside = inside[inside > -np.inf]
            low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)
        if high - low <= NOISE * max(1.0, abs(high)):
            return np.where(values > -np.inf, 0.5 * float(high > 0), 0.0)  # says nothing of one against another
        return np.asarray(((values - low) * (1 / (high - low))).clip(0, 1))

    # ------------------------------------------------------------------ keywords
    def _bm25(self) -> Signal:
        return self._or_of_keys(self.index.bm25.get_scores(self.query.terms), "bm25")

    def _or_of_keys(self, values: Signal, name: str) -> Signal:
        """The larger of each turn's value and those of its keys."""
        if self.keys is not None:
            np.maximum.at(values, self.keys.turns, self._of_keys[name][self.keys.facts])
        return values

    @cached_property
    def _of_keys(self) -> Signals:
        assert self.keys is not None
        return Signals(self.keys.index, self.query, self.options, np.ones(len(self.keys.index), bool))

    def _bm25_near(self) -> Signal:
        near = self.index.bm25.window_scores(self.query.terms, self.index.windows(1))
        return (self.scaled(self["bm25"]) + self.scaled(near)) / 2

    def _bm25_window(self) -> Signal:
        return self.scaled(self.index.bm25.window_scores(self.query.terms, self.index.windows(REACH)))

    # ------------------------------------------------------------------ vectors
    def _passage_cosine(self) -> Any:
        """(passages,) cosine of every passage with the query."""
        assert self.query.encoding is not None
        # einsum, not BLAS: as fast for one vector, and never slowed by threads that wait for a core.
        return np.einsum("ij,j->i", self.index.passage("vector"), self.query.encoding.vector)

    def _cosine(self) -> Signal:
        """(n,) cosine of the best passage; -inf where an entry is not encoded yet."""
        out = np.full(len(self.index), -np.inf)
        if self.index.has_vectors:
            first, count = self.index.column("first"), self.index.column("count")
            encoded = np.flatnonzero(count)
            encoded = encoded[np.argsort(first[encoded])]  # the passages of an entry lie side by side
            out[encoded] = np.maximum.reduceat(self["passage_cosine"], first[encoded])
        return self._or_of_keys(out, "cosine")

    def _dense(self) -> Signal:
        return self.scaled(self["cosine"])

    def _dense_window(self) -> Signal:
        norm, window_norm = self.index.norms()
        sums = np.bincount(self.index.passage("owner"), weights=self["passage_cosine"], minlength=len(self.index))
        unit = sums / norm
        previous, following = self.index.beside()
        total = unit + np.where(previous >= 0, unit[previous], 0) + np.where(following >= 0, unit[following], 0)
        return self.scaled(np.where(self.index.column("count") > 0, total / window_norm, -np.inf))

    # ------------------------------------------------------------------ late interaction
    def _piece_matches(self) -> NDArray[np.float32]:
        """(n, query pieces) M_j of every entry's best passage; -1 where it was not computed."""
        pieces, weights = self._query_pieces()
        entries = self._late_entries()
        out = np.full((len(self.index), len(weights)), -1.0, np.float32)
        out[entries] = self._best_matches(entries, pieces, weights)
        if self.keys is not None and self.keys.index.has_pieces:
            self._match_keys(out, pieces, weights)
        return out

    def _best_matches(
        self, entries: NDArray[np.intp], pieces: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(entries, query pieces) M_j of the best passage of each entry."""
        first, count = self.index.column("first")[entries], self.index.column("count")[entries]
        passages = np.repeat(first, count) + _ramps(count)
        matches = self._maxima(passages, pieces)
        if len(passages) > len(entries):
            owner = np.repeat(np.arange(len(entries)), count)
            order = np.lexsort((-(matches @ weights), owner))
            matches = matches[order[np.searchsorted(owner, np.arange(len(entries)))]]
        return matches

    def _match_keys(self, out: NDArray[np.float32], pieces: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        """Give turns the matches of their best key, where that is better than their own."""
        assert self.keys is not None
        encoded = np.flatnonzero(self.keys.index.column("count"))
        matches = np.full((len(self.keys.index), len(weights)), -1.0, np.float32)
        matches[encoded] = self._of_keys._best_matches(encoded, pieces, weights)
        worth = (matches @ weights)[self.keys.facts]
        order = np.argsort(worth, kind="stable")
        order = order[worth[order] > (out @ weights)[self.keys.turns[order]]]
        out[self.keys.turns[order]] = matches[self.keys.facts[order]]  # the last, and best, of several stays

    def _query_pieces(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(j, token_dim) distinct pieces of the query and (j,) their weights, which sum to 1."""
        assert self.query.encoding is not None
        ids, at = np.unique(self.query.encoding.piece_ids, return_index=True)
        known = self.index.piece_df
        df = np.where(ids < len(known), known[np.minimum(ids, len(known) - 1)], 0)
        weights = np.log1p((len(self.index) - df + 0.5) / (df + 0.5)).clip(1e-6)
        top = np.argsort(-weights, kind="stable")[:QUERY_PIECES]
        weights = weights[top] / weights[top].sum()
        pieces = self.query.encoding.pieces[at[top]].astype(np.float32) / np.float32(127)
        return pieces, weights.astype(np.float32)

    def _late_entries(self) -> NDArray[np.intp]:
        """Entries that late interaction scores: all, or in a large memory the best by other signals."""
        encoded = self.index.column("count") > 0
        if len(self.index.passage("pieces")) <= self.options.late_max_pieces:
            return np.flatnonzero(encoded)
        others = np.where(self.allowed & encoded, self["bm25_window"] + self["dense_window"], -1.0)
        wanted = min(self.options.late_candidates, len(others))
        best = np.argpartition(-others, wanted - 1)[:wanted]
        return np.sort(best[others[best] >= 0])

    def _maxima(self, passages: NDArray[Any], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """(passages, j) the largest cosine of each query piece with a piece of each passage."""
        start = self.index.passage("piece_start")
        if len(passages) == len(start):
            everywhere = np.maximum.reduceat(self.index.unit_pieces() @ query.T, start, axis=0)
            return np.asarray(everywhere[passages], np.float32)
        ends = np.append(start[1:], len(self.index.passage("pieces")))
        counts = ends[passages] - start[passages]
        rows = self.index.passage("pieces")[np.repeat(start[passages], counts) + _ramps(counts)]
        rows = rows.astype(np.float32) / np.float32(127)
        out: NDArray[np.float32] = np.maximum.reduceat(rows @ query.T, np.cumsum(counts) - counts, axis=0)
        return out

    def _maxsim(self) -> Signal:
        _, weights = self._query_pieces()
        matches = self["piece_matches"]
        return self.scaled(np.where(matches[:, 0] > -1, matches @ weights, -np.inf))

    def _maxsim_window(self) -> Signal:
        _, weights = self._query_pieces()
        matches = self["piece_matches"]
        previous, following = self.index.beside()
        near = np.full_like(matches, -1.0)
        for side in (previous, following):
            there = np.flatnonzero(side >= 0)
            near[there] = np.maximum(near[there], matches[side[there]])
        joined = np.maximum(matches, NEIGHBOUR_DISCOUNT * near)
        return self.scaled(np.where(matches[:, 0] > -1, joined @ weights, -np.inf))

    # ------------------------------------------------------------------ cues
    def _other_speaker(self) -> Signal:
        return 1.0 - self._by_named_speaker() if self._named() is not None else np.zeros(len(self.index))

    def _by_named_speaker(self) -> Signal:
        named = self._named()
        return (
            np.zeros(len(self.index)) if named is None else np.isin(self.index.column("speaker"), named).astype(float)
        )

    def _named(self) -> list[int] | None:
        """Codes of the one speaker whom the question names by first name; None for none or several."""
        by_first: dict[str, list[int]] = {}
        for code, name in enumerate(self.index.speakers.names):
            if name.strip():
                by_first.setdefault(name.split()[0].lower(), []).append(code)
        low = self.query.text.lower()
        named = [codes for first, codes in by_first.items() if re.search(rf"(?<!\w){re.escape(first)}(?!\w)", low)]
        return named[0] if len(named) == 1 else None

    def _asks(self) -> Signal:
        return self.index.column("asks").astype(float)

    def _acknowledges(self) -> Signal:
        return self.index.column("acknowledges").astype(float)

    def _day(self) -> Signal:
        named = cues.named_day(self.query.text)
        if named is None:
            return np.zeros(len(self.index))
        days, where = np.unique(self.index.column("day"), return_inverse=True)
        said = np.array([named.near(date.fromordinal(int(day))) for day in days], bool)[where]
        first, count = self.index.column("event_day"), self.index.column("event_days")
        for n in range(int(count.max(initial=0))):
            at = np.flatnonzero(count > n)
            said[at] |= [named.names(date.fromordinal(int(first[i]) + n)) for i in at]
        return said.astype(float)

    def _time_word(self) -> Any:
        return self.index.column("dated") * float(cues.asks_when(self.query.text))

    def _user(self) -> NDArray[Any]:
        return np.asarray(self.index.column("role") == ROLES.index("user"), float)

    def _length(self) -> Any:
        return np.log1p(self.index.column("tokens")) / 5

    def _recency(self) -> Any:
        time = self.index.column("time")
        days = (time.max() - time) / 86_400_000_000
        return np.exp2(-days / self.options.recency_half_life_days)

    def _importance(self) -> Signal:
        return np.asarray(np.nan_to_num(self.index.column("importance"), nan=0.0), float)


def rank(
    index: UserIndex,
    query: Query,
    k: int,
    mask: NDArray[np.bool_] | None,
    options: Options,
    keys: Keys | None = None,
) -> list[Ranked]:
    """The best ``k`` entries, best first; ties by time, then id.

    Args:
        index: one user's memory, not empty.
        query: encoded where possible; without an encoding only keywords count.
        k: how many, at least 1.
        mask: (n,) entries that may be returned; None for all.
        options: strategy, profile and weights.
        keys: facts that lead to entries.
    """
    allowed = np.ones(len(index), bool) if mask is None else mask
    if not allowed.any():
        return []
    scored = score(Signals(index, query, options, allowed, keys))
    return _best(scored, k)


def rank_notes(
    notes: UserIndex,
    query: Query,
    k: int,
    mask: NDArray[np.bool_] | None,
    options: Options,
    turns: Scored | None,
    links: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> list[Ranked]:
    """The best ``k`` notes. One is as near as the nearest turn that it was made from, and its own words.

    The score is the mean of ``source``, the best score among its turns, and ``own``: BM25, and where it
    is encoded the mean of that and of the cosine, each scaled to 0..1.

    Args:
        notes: facts, segments and summaries of one user, not empty.
        query: as for ``rank``.
        k: how many, at least 1.
        mask: (n,) notes that may be returned; None for all.
        options: as for ``rank``.
        turns: every turn with its score; None without turns.
        links: see ``WorkingSet.links``.
    """
    allowed = np.ones(len(notes), bool) if mask is None else mask
    if not allowed.any():
        return []
    signals = Signals(notes, query, options, allowed)
    own = signals.scaled(signals["bm25"])
    if query.encoding is not None and notes.has_vectors:
        encoded = notes.column("count") > 0
        own = np.where(encoded, (own + signals.scaled(signals["cosine"])) / 2, own)
    source = np.zeros(len(notes))
    if turns is not None:
        near = np.clip(np.where(np.isfinite(turns.scores), turns.scores, 0.0) / turns.bound, 0, 1)
        np.maximum.at(source, links[0], near[links[1]])
    parts = {"source": source / 2, "own": own / 2}
    labels: dict[str, float | str] = {} if turns is None else dict(turns.labels)
    scores = np.where((own > 0) | (source > 0), parts["source"] + parts["own"], -np.inf)
    return _best(Scored(signals, scores, parts, 1.0, labels), k)


@dataclass(frozen=True, slots=True)
class Scored:
    """Every entry with its score.

    Attributes:
        scores: (n,), -inf for entries that are not to be found; divide by ``bound`` for 0..1.
        parts: what they are the sum of.
        labels: names of the strategy and profile that were used.
    """

    signals: Signals
    scores: Signal
    parts: Mapping[str, Signal]
    bound: float
    labels: Mapping[str, float | str]


def score(signals: Signals) -> Scored:
    """Score every entry by the strategy and profile of the options."""
    index, options = signals.index, signals.options
    strategy, reason = usable(index, signals.query, options.strategy)
    labels: dict[str, float | str] = {"strategy": strategy}
    if reason:
        labels["reason"] = reason
    if strategy in ("late", "weighted"):
        labels["profile"] = profile_of(index) if options.profile == "auto" else options.profile
    scores, parts, bound = _STRATEGIES[strategy](signals, str(labels.get("profile", "")))
    for name, weight in (("recency", options.recency_weight), ("importance", options.importance_weight)):
        if weight:
            parts[name] = weight * signals[name]
            scores, bound = scores + parts[name], bound + weight
    return Scored(signals, scores, parts, bound, labels)


def _best(scored: Scored, k: int) -> list[Ranked]:
    signals, scores = scored.signals, scored.scores
    index = signals.index
    candidates = np.flatnonzero(signals.allowed & np.isfinite(scores))
    if k < len(candidates):
        # Keep everything that ties with the k-th, so that the order of ties is ours to decide.
        threshold = -np.partition(-scores[candidates], k - 1)[k - 1]
        candidates = candidates[scores[candidates] >= threshold]
    time = index.column("time")
    order = sorted(candidates.tolist(), key=lambda i: (-scores[i], time[i], index.ids[i]))[:k]
    return [
        Ranked(
            position=i,
            score=float(min(1.0, max(0.0, scores[i] / scored.bound))),
            parts={**scored.labels, **{name: float(part[i]) for name, part in scored.parts.items()}},
            passage=_passage(signals, i),
        )
        for i in order
    ]


def _passage(signals: Signals, entry: int) -> tuple[int, int] | None:
    """Offsets of the passage that is nearest to the query; None for a whole entry, or without vectors."""
    index = signals.index
    first, count = int(index.column("first")[entry]), int(index.column("count")[entry])
    if count < 2 or signals.query.encoding is None:
        return None
    vectors = index.passage("vector")[first : first + count]
    best = first + int((vectors @ signals.query.encoding.vector).argmax())
    return int(index.passage("start")[best]), int(index.passage("end")[best])


def usable(index: UserIndex, query: Query, wanted: Strategy) -> tuple[Strategy, str]:
    """The strategy that this memory and query allow, and why it is not the wanted one ("" if it is)."""
    if wanted == "bm25":
        return "bm25", ""
    if query.encoding is None or not index.has_vectors:
        return "bm25", "no vectors"
    if wanted == "late" and not (index.has_pieces and len(query.encoding.piece_ids)):
        return "weighted", "no token vectors"
    return wanted, ""


def profile_of(index: UserIndex) -> str:
    """The profile that fits a memory, by the roles and lengths of its turns.

    ``assistant`` where a tenth of the entries are an assistant's and these are long on average;
    ``notes`` where most entries have no neighbour; else ``peer``.
    """
    of_assistant = index.column("role") == ROLES.index("assistant")
    tokens = index.column("tokens")[of_assistant]
    if len(tokens) * 10 >= len(index) and float(tokens.mean() if len(tokens) else 0) > LONG_ANSWER_TOKENS:
        return "assistant"
    return "peer" if index.is_conversation else "notes"


_Sum = tuple[Signal, dict[str, Signal], float]


def _late(signals: Signals, profile: str) -> _Sum:
    weights = {"peer": PEER, "assistant": ASSISTANT, "notes": NOTES}[profile]
    parts = {name: weight * _or_keywords(signals, name) for name, weight in weights.items()}
    scored = np.where(signals["piece_matches"][:, 0] > -1, 0.0, -np.inf)
    if len(signals.index.passage("pieces")) <= signals.options.late_max_pieces:
        scored[:] = 0.0  # an entry that waits for the embedder is found by its words
    return scored + sum(parts.values()), parts, sum(w for w in weights.values() if w > 0)


def _or_keywords(signals: Signals, name: str) -> Signal:
    """A signal; where it needs vectors and the entry has none yet, the entry's words speak for it."""
    encoded = signals.index.column("count") > 0
    if name not in ("maxsim", "maxsim_window", "dense", "dense_window") or encoded.all():
        return signals[name]
    return np.where(encoded, signals[name], signals.scaled(signals["bm25"]))


def _weighted(signals: Signals, profile: str) -> _Sum:
    """Min-max weighted sum with bonuses for neighbours, session, speaker and user.

    Source: the recipe ``wsum+timeidx+bmboth1+smooth+session+speaker`` of the data study.
    """
    near = profile != "notes"
    halves = {"dense": 0.5, "bm25_near": 0.5} if near else {"dense": 0.5, "bm25": 0.5}
    parts = {name: weight * signals.scaled(signals[name]) for name, weight in halves.items()}
    base = signals.scaled(sum(parts.values(), np.zeros(len(signals.index))))
    if near:
        parts["neighbour"] = NEIGHBOUR_BONUS * _of_neighbours(signals.index, base)
        parts["session"] = SESSION_BONUS * _of_session(signals, base)
    parts["speaker"] = SPEAKER_BONUS * signals._by_named_speaker()
    if profile == "assistant":
        parts["user"] = USER_BONUS * signals["user"]
    bonuses = [part for name, part in parts.items() if name not in halves]
    return base + sum(bonuses), parts, 1.0 + sum(_WEIGHTED_BONUS[name] for name in parts if name not in halves)


def _of_neighbours(index: UserIndex, values: Signal) -> Signal:
    previous, following = index.beside()
    return np.maximum(np.where(previous >= 0, values[previous], 0.0), np.where(following >= 0, values[following], 0.0))


def _of_session(signals: Signals, values: Signal) -> Signal:
    session = signals.index.column("session")
    best = np.zeros(len(signals.index.sessions.names))
    np.maximum.at(best, session[signals.allowed], values[signals.allowed])
    of_session: Signal = best[session]
    return of_session


def _dense_alone(signals: Signals, profile: str) -> _Sum:
    cosine = signals["cosine"]
    return cosine, {"dense": cosine}, 1.0


def _bm25_alone(signals: Signals, profile: str) -> _Sum:
    bm25 = signals["bm25"]
    return np.where(bm25 > 0, bm25, -np.inf), {"bm25": bm25}, max(float(bm25.max()), 1e-9)


def _rrf(signals: Signals, profile: str) -> _Sum:
    """Reciprocal rank fusion, k = 60 (Cormack, Clarke & Büttcher 2009)."""
    parts = {"dense": 1 / (RRF_K + _ranks(signals, "cosine")), "bm25": 1 / (RRF_K + _ranks(signals, "bm25"))}
    return parts["dense"] + parts["bm25"], parts, 2 / (RRF_K + 1)


def _intersection(signals: Signals, profile: str) -> _Sum:
    """Entries that are both among the first 100 by BM25 and the first 50 by cosine, by cosine."""
    in_both = (_ranks(signals, "bm25") <= INTERSECTION[0]) & (_ranks(signals, "cosine") <= INTERSECTION[1])
    cosine = signals["cosine"]
    return np.where(in_both, cosine, -np.inf), {"dense": cosine, "bm25": signals["bm25"]}, 1.0


def _ranks(signals: Signals, name: str) -> Signal:
    """1-based rank of every entry that may be returned and has the signal; inf for the others."""
    values = signals[name]
    there = np.flatnonzero(signals.allowed & np.isfinite(values) & ((values > 0) | (name != "bm25")))
    ranks = np.full(len(values), np.inf)
    ranks[there[np.argsort(-values[there], kind="stable")]] = np.arange(1, len(there) + 1)
    return ranks


_STRATEGIES = {
    "late": _late,
    "weighted": _weighted,
    "dense": _dense_alone,
    "bm25": _bm25_alone,
    "rrf": _rrf,
    "intersection": _intersection,
}


def _ramps(counts: NDArray[Any]) -> NDArray[np.int64]:
    """0..c-1 for each count c, one after another.

    >>> _ramps(np.array([2, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    total = int(counts.sum())
    ramps: NDArray[np.int64] = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return ramps
