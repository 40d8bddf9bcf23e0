"""Signals are what their definitions say, worked out in plain Python; and what every ranking must keep to."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightmem_integrations.core.analyze import terms
from lightmem_integrations.core.index import WINDOW_TOKENS, StoredPassage, UserIndex
from lightmem_integrations.core.rank import ASSISTANT, NOTES, PEER, Options, Query, Ranked, Signals, profile_of, rank
from lightmem_integrations.core.times import to_us
from lightmem_integrations.core.types import STRATEGIES, Encoding
from lightmem_integrations.testing import HashEmbedder

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
GAP_HOURS = 24.0
WORDS = ("teapot", "cat", "bergen", "miso", "river", "guitar", "snow", "lamp", "zebra", "piano", "moss", "harbour")
EMBEDDER = HashEmbedder(dim=48, token_dim=12)
SHARP = HashEmbedder(dim=512, token_dim=256)  # unrelated words are all but orthogonal


@dataclass
class Row:
    """One entry as the database would give it, with the texts of its passages."""

    id: str
    memory: str
    session_id: str = "s1"
    seq: int = 0
    moment: datetime = NOON
    kind: str = "turn"
    role: str | None = "user"
    speaker: str | None = None
    tokens: int = 5
    importance: float | None = None
    cut: list[str] = field(default_factory=list)
    encoded: bool = True
    language: str = "en"
    valid_from_us: int | None = None
    valid_to_us: int | None = None
    expires_at_us: int | None = None
    event_start_us: int | None = None
    event_end_us: int | None = None
    by_words: bool | None = None
    sources: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def timestamp(self) -> str:
        return self.moment.isoformat()

    @property
    def timestamp_us(self) -> int:
        return to_us(self.moment)

    @property
    def texts(self) -> list[str]:
        return self.cut or [self.memory]


def build(rows: list[Row], embedder: HashEmbedder = EMBEDDER) -> UserIndex:
    index = UserIndex(GAP_HOURS)
    index.add(rows)
    index.attach_all([(row.id, stored(row.texts, embedder)) for row in rows if row.encoded])
    return index


def stored(texts: list[str], embedder: HashEmbedder) -> list[StoredPassage]:
    at, out = 0, []
    for text, e in zip(texts, embedder.encode(texts), strict=True):
        out.append(StoredPassage(at, at + len(text), e.vector, e.piece_ids.astype(np.uint32), e.pieces))
        at += len(text)
    return out


def ask(text: str, embedder: HashEmbedder | None = EMBEDDER) -> Query:
    encoding = embedder.encode([text], query=True)[0] if embedder else None
    return Query(text, dict.fromkeys(terms(text, "en"), 1.0), encoding)


def ranked_ids(index: UserIndex, found: list[Ranked]) -> list[str]:
    return [index.ids[r.position] for r in found]


# ------------------------------------------------------------------------------------- the reference
class Reference:
    """The definitions in the docstring of ``core.rank``, word for word, in float64 and loops."""

    def __init__(self, rows: list[Row], query: Query) -> None:
        self.rows, self.query = rows, query
        assert query.encoding is not None
        self.encoding: Encoding = query.encoding
        self.parts = {row.id: stored(row.texts, EMBEDDER) if row.encoded else [] for row in rows}
        self.by_id = {row.id: row for row in rows}

    def window(self, row: Row, reach: int) -> list[Row]:
        if row.kind != "turn":
            return [row]
        same = [r for r in self.rows if r.session_id == row.session_id and r.kind == "turn"]
        same.sort(key=lambda r: (r.moment, r.seq))
        at, out = same.index(row), [row]
        for step in (-1, 1):
            total, here = 0, at
            for _ in range(reach):
                there = here + step
                if not 0 <= there < len(same):
                    break
                pause = abs(same[there].moment - same[here].moment)
                total += same[there].tokens
                if pause > timedelta(hours=GAP_HOURS) or total > WINDOW_TOKENS:
                    break
                out.append(same[there])
                here = there
        return out

    def bm25(self, reach: int) -> dict[str, float]:
        bags = {}
        for row in self.rows:
            bags[row.id] = Counter(
                term
                for r in self.window(row, reach)
                for term in [
                    *terms(r.memory, "en"),
                    *terms(r.speaker or "", "en"),
                    *terms(f"{r.moment:%d %B %Y %A}".lstrip("0").lower(), "en"),
                ]
            )
        n, mean = len(bags), sum(sum(bag.values()) for bag in bags.values()) / len(bags)
        scores = dict.fromkeys(bags, 0.0)
        for term in self.query.terms:
            df = sum(term in bag for bag in bags.values())
            for id, bag in bags.items():
                norm = 1.5 * (1 - 0.75 + 0.75 * sum(bag.values()) / mean)
                scores[id] += math.log(1 + (n - df + 0.5) / (df + 0.5)) * bag[term] * 2.5 / (bag[term] + norm)
        return scores

    @cached_property
    def weights(self) -> dict[int, float]:
        """w_j by piece id, of the 32 pieces of highest IDF."""
        n = len(self.rows)
        idf = {}
        for piece in {int(i) for i in self.encoding.piece_ids}:
            df = sum(any(piece in p.piece_ids for p in parts) for parts in self.parts.values())
            idf[piece] = math.log(1 + (n - df + 0.5) / (df + 0.5))
        top = dict(sorted(idf.items(), key=lambda item: (-item[1], item[0]))[:32])
        return {piece: value / sum(top.values()) for piece, value in top.items()}

    def matches(self, row: Row) -> dict[int, float] | None:
        """M_j of the entry's best passage; None while it waits for the encoder."""
        ids = self.encoding.piece_ids.tolist()
        unit = {piece: self.encoding.pieces[ids.index(piece)] / 127 for piece in self.weights}
        of_passages = [
            {piece: max(float(unit[piece] @ (p / 127)) for p in part.pieces) for piece in self.weights}
            for part in self.parts[row.id]
        ]
        return max(of_passages, key=self.weigh, default=None)

    def weigh(self, matches: dict[int, float]) -> float:
        return sum(self.weights[piece] * value for piece, value in matches.items())

    def maxsim(self, row: Row) -> float:
        own = self.matches(row)
        return -math.inf if own is None else self.weigh(own)

    def maxsim_window(self, row: Row) -> float:
        own = self.matches(row)
        if own is None:
            return -math.inf
        near = [m for r in self.window(row, 1)[1:] if (m := self.matches(r)) is not None]
        return self.weigh({piece: max([value, *(0.9 * m[piece] for m in near)]) for piece, value in own.items()})

    def unit(self, row: Row) -> Any:
        total = np.sum([p.vector.astype(float) for p in self.parts[row.id]], axis=0)
        return total / np.linalg.norm(total)

    def dense(self, row: Row) -> float:
        cosines = [float(p.vector.astype(float) @ self.encoding.vector) for p in self.parts[row.id]]
        return max(cosines, default=-math.inf)

    def dense_window(self, row: Row) -> float:
        if not row.encoded:
            return -math.inf
        total = np.sum([self.unit(r) for r in self.window(row, 1) if r.encoded], axis=0)
        return float(total @ self.encoding.vector / np.linalg.norm(total))


def mm(values: dict[str, float], allowed: set[str]) -> dict[str, float]:
    """Min-max over the allowed; without the signal, 0. Skips examples that rounding would blow up."""
    inside = [v for id, v in values.items() if id in allowed and v > -math.inf]
    low, high = (min(inside), max(inside)) if inside else (0.0, 0.0)
    assume(high - low > 0.02 or all(v == 0 for v in inside))
    span = (high - low) or 1.0
    return {id: min(1.0, max(0.0, (v - low) / span)) for id, v in values.items()}


@st.composite
def memories(draw: st.DrawFn, waiting: bool = True) -> list[Row]:
    random = Random(draw(st.integers(0, 2**32)))
    rows = []
    for n in range(draw(st.integers(2, 12))):
        texts = [" ".join(random.choices(WORDS, k=random.randint(1, 6))) for _ in range(random.choice([1, 1, 1, 3]))]
        rows.append(
            Row(
                id=f"e{n}",
                memory=" ".join(texts),
                session_id=random.choice(["s1", "s1", "s2"]),
                seq=n,
                moment=NOON + random.choice([1, 1, 600, 1400]) * timedelta(minutes=random.randint(0, 9)),
                kind=random.choice(["turn"] * 5 + ["fact"]),
                role=random.choice(["user", "assistant", "system"]),
                speaker=random.choice([None, "Ana Ruiz", "Ben"]),
                tokens=random.choice([3, 10, 60, 120, 125, 250, 251]),
                importance=random.choice([None, 0.0, 0.4, 1.0]),
                cut=texts,
                encoded=not waiting or random.random() < 0.9,
            )
        )
    rows[0].encoded = True
    return rows


QUERIES = st.lists(st.sampled_from([*WORDS, "walrus", "saturday", "ana"]), min_size=1, max_size=5).map(" ".join)


@given(data=st.data(), rows=memories(), text=QUERIES)
@settings(max_examples=100)
def test_signals_are_what_their_definitions_say(data: st.DataObject, rows: list[Row], text: str) -> None:
    index, query = build(rows), ask(text)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
    assume(mask.any())
    allowed = {row.id for row, ok in zip(rows, mask, strict=True) if ok}
    signals, reference = Signals(index, query, Options(), mask), Reference(rows, query)
    names_ana = "ana" in text.split() and any(row.speaker == "Ana Ruiz" for row in rows)
    bm25, near = reference.bm25(0), mm(reference.bm25(1), allowed)
    expected = {
        "maxsim": mm({r.id: reference.maxsim(r) for r in rows}, allowed),
        "maxsim_window": mm({r.id: reference.maxsim_window(r) for r in rows}, allowed),
        "bm25_window": mm(reference.bm25(4), allowed),
        "dense_window": mm({r.id: reference.dense_window(r) for r in rows}, allowed),
        "dense": mm({r.id: reference.dense(r) for r in rows}, allowed),
        "bm25": bm25,
        "bm25_near": {id: (value + near[id]) / 2 for id, value in mm(bm25, allowed).items()},
        "cosine": {r.id: reference.dense(r) for r in rows},
        "user": {r.id: float(r.role == "user") for r in rows},
        "length": {r.id: math.log(1 + r.tokens) / 5 for r in rows},
        "importance": {r.id: r.importance or 0.0 for r in rows},
        "recency": {
            r.id: 0.5 ** ((max(o.moment for o in rows) - r.moment) / timedelta(days=30)) for r in rows
        },
        "other_speaker": {r.id: float(names_ana and r.speaker != "Ana Ruiz") for r in rows},
    }  # fmt: skip
    for name, values in expected.items():
        found = dict(zip(index.ids, signals[name].tolist(), strict=True))
        inside = {id: found[id] for id in allowed}  # what the others have is never seen
        assert inside == pytest.approx({id: values[id] for id in allowed}, abs=1e-5), name


def test_only_the_32_rarest_pieces_of_a_question_count() -> None:
    words = [f"word{n}" for n in range(40)]
    rows = [Row(f"e{n}", " ".join(words[: n + 1]), seq=n) for n in range(40)]
    query = ask(" ".join(words))
    reference = Reference(rows, query)
    assert len(reference.weights) == 32
    pieces, weights = Signals(build(rows), query, Options(), np.ones(40, bool))._query_pieces()
    assert len(pieces) == 32
    assert sorted(weights.tolist()) == pytest.approx(sorted(reference.weights.values()), abs=1e-6)


def test_a_repeated_piece_of_a_question_counts_once() -> None:
    rows = [Row("a", "teapot cat"), Row("b", "snow lamp", seq=1), Row("c", "river moss", seq=2)]
    index = build(rows)
    once, often = (Signals(index, ask(t), Options(), np.ones(3, bool)) for t in ("cat snow", "cat cat snow cat"))
    np.testing.assert_allclose(once["maxsim"], often["maxsim"], atol=1e-6)


# ------------------------------------------------------------------------------------- every ranking
@given(rows=memories(), text=QUERIES, strategy=st.sampled_from(STRATEGIES), k=st.integers(1, 14))
@settings(max_examples=100)
def test_laws_of_every_ranking(rows: list[Row], text: str, strategy: Any, k: int) -> None:
    index, query = build(rows), ask(text)
    mask = np.arange(len(rows)) % 3 > 0
    for allowed in (None, mask):
        for options in (Options(strategy), Options(strategy, recency_weight=0.5, importance_weight=2.0)):
            everything = rank(index, query, 99, allowed, options)
            found = rank(index, query, k, allowed, options)
            assert found == everything[:k]
            scores = [r.score for r in found]
            assert all(0 <= score <= 1 for score in scores)
            assert scores == sorted(scores, reverse=True)
            positions = [r.position for r in everything]
            assert len(set(positions)) == len(positions)
            assert allowed is None or all(mask[p] for p in positions)
            assert {r.parts["strategy"] for r in found} <= {strategy}
            if strategy in ("late", "weighted"):
                assert len(everything) == (len(rows) if allowed is None else int(mask.sum()))
            for r in found:
                row = rows[r.position]
                parts = {n: v for n, v in r.parts.items() if not isinstance(v, str)}
                assert all(not math.isnan(v) for v in parts.values())
                if strategy == "late":
                    bound = sum(w for n, w in WEIGHTS[str(r.parts["profile"])].items() if w > 0)
                    bound += options.recency_weight + options.importance_weight
                    assert r.score == pytest.approx(min(1, max(0, sum(parts.values()) / bound)), abs=1e-9)
                if strategy == "bm25":
                    assert parts["bm25"] > 0
                assert (r.passage is None) == (len(row.cut) == 1 or not row.encoded)


WEIGHTS = {"peer": PEER, "assistant": ASSISTANT, "notes": NOTES}


def conversation(random: Random, turns: int = 30) -> list[Row]:
    """A chat in which no word is said twice, so that it is known where a word was said."""
    return [
        Row(
            f"e{n:02}",
            " ".join(f"{random.choice(WORDS)}{n}x{i}" for i in range(random.randint(3, 8))),
            seq=n,
            moment=NOON + timedelta(minutes=n),
            speaker=("Ana", "Ben")[n % 2],
            tokens=random.randint(5, 40),
        )
        for n in range(turns)
    ]


@given(seed=st.integers(0, 2**32), n=st.integers(0, 29), strategy=st.sampled_from(STRATEGIES))
@settings(max_examples=80)
def test_neighbours_help_a_turn_and_never_take_its_place(seed: int, n: int, strategy: Any) -> None:
    rows = conversation(Random(seed))
    index, query = build(rows, SHARP), ask(rows[n].memory, SHARP)
    for profile in ("peer", "notes", "assistant"):
        found = ranked_ids(index, rank(index, query, 5, None, Options(strategy, profile)))
        assert found[0] == rows[n].id
        if strategy in ("bm25", "intersection"):
            assert found == [rows[n].id]


def test_the_turns_around_an_answer_come_next() -> None:
    rows = conversation(Random(3))
    index, query = build(rows, SHARP), ask(rows[15].memory, SHARP)
    assert set(ranked_ids(index, rank(index, query, 3, None, Options("late", "peer")))) == {"e14", "e15", "e16"}


def test_what_the_allowed_entries_stand_beside_still_counts() -> None:
    rows = conversation(Random(3))
    index, query = build(rows, SHARP), ask(rows[15].memory, SHARP)
    mask = np.ones(30, bool)
    mask[15] = False
    assert set(ranked_ids(index, rank(index, query, 2, mask, Options("late", "peer")))) == {"e14", "e16"}


# ------------------------------------------------------------------------------------- large memories
@given(rows=memories(waiting=False), text=QUERIES, extra=st.integers(0, 50))
def test_candidates_that_cover_everything_change_nothing(rows: list[Row], text: str, extra: int) -> None:
    index, query = build(rows), ask(text)
    full = rank(index, query, 99, None, Options())
    candidates = rank(index, query, 99, None, Options(late_max_pieces=0, late_candidates=len(rows) + extra))
    assert [r.position for r in candidates] == [r.position for r in full]
    assert [r.score for r in candidates] == pytest.approx([r.score for r in full], abs=1e-6)


@given(seed=st.integers(0, 2**32), n=st.integers(0, 59), wanted=st.integers(1, 8))
@settings(max_examples=30)
def test_few_candidates_hold_the_answer(seed: int, n: int, wanted: int) -> None:
    rows = conversation(Random(seed), 60)
    index, query = build(rows, SHARP), ask(rows[n].memory, SHARP)
    found = rank(index, query, 99, None, Options(late_max_pieces=0, late_candidates=wanted))
    assert len(found) <= wanted
    assert rows[n].id in ranked_ids(index, found) or wanted < 5
    mask = np.zeros(60, bool)
    mask[[n, (n + 30) % 60]] = True
    found = rank(index, query, 99, mask, Options(late_max_pieces=0, late_candidates=wanted))
    assert ranked_ids(index, found)[0] == rows[n].id


def test_the_limit_counts_pieces_and_is_inclusive() -> None:
    rows = [Row(f"e{n}", "teapot snow", seq=n) for n in range(5)]
    rows[4].memory = "zebra"
    index, query = build(rows), ask("snow")
    pieces = len(index.passage("pieces"))
    assert pieces == 9
    assert len(rank(index, query, 9, None, Options(late_max_pieces=pieces, late_candidates=1))) == 5
    assert len(rank(index, query, 9, None, Options(late_max_pieces=pieces - 1, late_candidates=1))) == 1


# ------------------------------------------------------------------------------------- special cases
def test_what_waits_for_the_encoder_is_found_by_its_words() -> None:
    rows = conversation(Random(1))
    rows[7].encoded = False
    index, query = build(rows, SHARP), ask(rows[7].memory, SHARP)
    for strategy in ("bm25", "late", "weighted"):
        found = rank(index, query, 30, None, Options(strategy, "notes"))
        assert rows[7].id in ranked_ids(index, found)
    assert ranked_ids(index, rank(index, query, 1, None, Options("bm25"))) == [rows[7].id]
    assert rows[7].id not in ranked_ids(index, rank(index, query, 30, None, Options("dense")))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_query_vector_keywords_decide(strategy: Any) -> None:
    rows = conversation(Random(2))
    index = build(rows)
    found = rank(index, ask(rows[4].memory, None), 9, None, Options(strategy))
    assert ranked_ids(index, found) == [rows[4].id]
    assert found[0].parts["strategy"] == "bm25"
    assert found[0].parts.get("reason") == (None if strategy == "bm25" else "no vectors")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_allowed_is_nothing_found(strategy: Any) -> None:
    index = build(conversation(Random(2)))
    assert rank(index, ask("snow"), 9, np.zeros(30, bool), Options(strategy)) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_entry_alone_is_ranked(strategy: Any) -> None:
    index = build([Row("a", "snow in bergen")])
    (found,) = rank(index, ask("snow in bergen"), 9, None, Options(strategy))
    assert 0 < found.score <= 1


def test_entries_without_a_matching_word_are_not_found_by_keywords() -> None:
    index = build(conversation(Random(2)))
    assert rank(index, ask("walrus"), 9, None, Options("bm25")) == []
    assert rank(index, ask("walrus"), 9, None, Options("intersection")) == []


def rows_of(*roles: str, tokens: int = 5, session: str | None = "s") -> list[Row]:
    return [
        Row(
            f"e{n}",
            "snow",
            session_id=session or f"s{n}",
            seq=n,
            role=role,
            tokens=tokens if role == "assistant" else 5,
        )
        for n, role in enumerate(roles)
    ]


@pytest.mark.parametrize(
    ("rows", "profile"),
    [
        (rows_of("user", "user"), "peer"),
        (rows_of("user", "assistant", tokens=100), "peer"),
        (rows_of("user", "assistant", tokens=101), "assistant"),
        (rows_of("assistant", *["user"] * 9, tokens=101), "assistant"),
        (rows_of("assistant", *["user"] * 10, tokens=101), "peer"),
        (rows_of("user"), "notes"),
        (rows_of("user", "user", session=None), "notes"),
        (rows_of("assistant", "user", tokens=400, session=None), "assistant"),
    ],
)
def test_the_profile_of_a_memory(rows: list[Row], profile: str) -> None:
    index = build(rows)
    assert profile_of(index) == profile
    assert rank(index, ask("snow"), 1, None, Options())[0].parts["profile"] == profile


def test_cues_of_a_question() -> None:
    said = [
        Row("asked", "Did it snow in Bergen?", speaker="Ben", moment=NOON),
        Row("thanked", "Thanks, it did snow.", seq=1, speaker="Ana", moment=NOON + timedelta(minutes=1)),
        Row("dated", "It snowed last week.", seq=2, speaker="Ben", moment=NOON + timedelta(days=3)),
        Row("late", "It snowed.", seq=3, speaker="Ana", moment=NOON + timedelta(days=4)),
    ]
    index = build(said)

    def cue(name: str, text: str) -> list[str]:
        values = Signals(index, ask(text), Options(), np.ones(4, bool))[name]
        return [row.id for row, value in zip(said, values, strict=True) if value]

    assert cue("asks", "snow") == ["asked"]
    assert cue("acknowledges", "snow") == ["thanked"]
    assert cue("other_speaker", "What did Ana say of snow?") == ["asked", "dated"]
    assert cue("other_speaker", "What did Ana tell Ben?") == []
    assert cue("other_speaker", "What of the banana?") == []
    assert cue("time_word", "When did it snow?") == ["dated"]
    assert cue("time_word", "Where did it snow?") == []
    assert cue("day", "What was it like on 20 May 2023?") == ["asked", "thanked", "dated"]
    assert cue("day", "What was it like on 20 May 2022?") == []
    assert cue("day", "What may be?") == []


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "rrf"])  # which ranks equal signals one by one
def test_equal_entries_have_equal_scores_wherever_they_are_stored(strategy: Any) -> None:
    """The last bits of a matrix product depend on the row; scaling must not make a difference of them."""
    for n in (2, 3, 5, 9, 17, 33, 40):
        rows = [
            Row(f"e{i:02}", "snow and lamp", session_id=f"s{i}", moment=NOON - i * timedelta(hours=1)) for i in range(n)
        ]
        found = rank(build(rows), ask("lamp in the snow"), n, None, Options(strategy))
        assert len({r.score for r in found}) == 1, n
        assert [r.position for r in found] == list(range(n))[::-1], n
        rows.append(Row("other", "river of moss", session_id="x"))
        found = rank(build(rows), ask("lamp in the snow"), n, None, Options(strategy))
        assert sorted(r.position for r in found) == list(range(n)), n
        assert max(r.score for r in found) - min(r.score for r in found) < 1e-5, n
