"""The working set: built in any order it is the same, and windows are what their definition says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_integrations.core.analyze import terms
from lightmem_integrations.core.grow import Grow
from lightmem_integrations.core.index import REACH, WINDOW_TOKENS, StoredPassage, UserIndex, matches_metadata
from lightmem_integrations.core.times import to_us
from lightmem_integrations.core.types import Filter
from lightmem_integrations.testing import HashEmbedder

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
GAP_HOURS = 24.0
GAP = timedelta(hours=GAP_HOURS)
WORDS = ("tea", "cat", "Bergen", "Miso", "river", "guitar", "snow", "lamp", "9", "last", "year", "zebra")
EMBEDDER = HashEmbedder(dim=32, token_dim=8)
QUERY = {"tea": 1.0, "bergen": 0.5, "snow": 1.0, "may": 1.0, "nothing": 1.0}


@dataclass
class Row:
    """One entry as the database would give it."""

    id: str
    memory: str = "tea"
    session_id: str = "s1"
    seq: int = 0
    moment: datetime = NOON
    kind: str = "turn"
    role: str | None = "user"
    speaker: str | None = None
    tokens: int = 5
    language: str = "en"
    importance: float | None = None
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


def passages(texts: Iterable[str]) -> list[StoredPassage]:
    """As the database gives them: without pieces, the width of a piece is not known."""
    none = np.zeros((0, 0), np.int8)
    return [
        StoredPassage(0, 1, e.vector, e.piece_ids.astype(np.uint32), e.pieces if len(e.pieces) else none)
        for e in EMBEDDER.encode(list(texts))
    ]


@dataclass
class Memory:
    """Rows and their passages by entry id; some entries have several, some wait for the encoder."""

    rows: list[Row]
    passages: dict[str, list[StoredPassage]]


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    random = Random(draw(st.integers(0, 2**32)))
    rows: list[Row] = []
    for n in range(draw(st.integers(1, 14))):
        text = " ".join(random.choices(WORDS, k=random.randint(1, 6)))
        rows.append(
            Row(
                id=f"e{n}",
                memory=text,
                session_id=random.choice(["s1", "s1", "s2"]),
                seq=n,
                moment=NOON + random.choice([1, 1, 600, 1400]) * timedelta(minutes=random.randint(0, 9)),
                kind=random.choice(["turn", "turn", "turn", "turn", "fact"]),
                speaker=random.choice([None, "Ana", "Ben"]),
                tokens=random.choice([3, 10, 60, 120, 125, 250, 251, 400]),
            )
        )
    made = {
        row.id: passages(" ".join(random.choices(WORDS, k=4)) for _ in range(random.choice([1, 1, 2, 3])))
        for row in rows
        if random.random() < 0.9
    }
    return Memory(rows, made)


def build(memory: Memory) -> UserIndex:
    index = UserIndex(GAP_HOURS)
    index.add(memory.rows)
    index.attach_all(list(memory.passages.items()))
    return index


def window(rows: Sequence[Row], row: Row, reach: int) -> list[str]:
    """W(row, reach) read literally from its definition: ids in order of time."""
    if row.kind != "turn":
        return [row.id]
    order = sorted(
        (r for r in rows if r.session_id == row.session_id and r.kind == "turn"), key=lambda r: (r.moment, r.seq)
    )
    at = order.index(row)
    out = [row.id]
    for step in (-1, 1):
        used, here = 0, at
        for _ in range(reach):
            there = here + step
            if not 0 <= there < len(order) or abs(order[there].moment - order[here].moment) > GAP:
                break
            used += order[there].tokens
            if used > WINDOW_TOKENS:
                break
            out.insert(0 if step < 0 else len(out), order[there].id)
            here = there
    return out


def windows_of(index: UserIndex, reach: int) -> dict[str, list[str]]:
    found = index.windows(reach)
    out = {}
    for n, id in enumerate(index.ids):
        members = found.neighbours[n, reach - found.left[n] : reach + found.right[n] + 1]
        out[id] = [index.ids[m] for m in members]
    return out


def by_id(index: UserIndex, values: Any) -> dict[str, Any]:
    assert len(values) == len(index)
    return dict(zip(index.ids, np.asarray(values).tolist(), strict=True))


def state(index: UserIndex) -> dict[str, dict[str, Any]]:
    """Everything that ranking reads, by entry id."""
    norm, window_norm = index.norms()
    return {
        "norm": by_id(index, norm),
        "window_norm": by_id(index, window_norm),
        "bm25": by_id(index, index.bm25.get_scores(QUERY)),
        **{f"window {w}": by_id(index, index.bm25.window_scores(QUERY, index.windows(w))) for w in (1, REACH)},
        **{name: by_id(index, index.column(name)) for name in ("time", "day", "tokens", "count", "asks", "dated")},
    }


# ------------------------------------------------------------------------------------- any order
@given(data=st.data(), memory=memories())
@settings(max_examples=80)
def test_built_in_any_batches_and_order_it_is_the_same(data: st.DataObject, memory: Memory) -> None:
    whole = build(memory)
    random = Random(data.draw(st.integers(0, 2**32)))
    rows = random.sample(memory.rows, len(memory.rows))
    index, waiting = UserIndex(GAP_HOURS), list[str]()
    while rows or waiting:
        if rows and (not waiting or random.random() < 0.6):
            batch = [rows.pop() for _ in range(min(len(rows), random.randint(1, 4)))]
            index.add(batch)
            waiting += [row.id for row in batch if row.id in memory.passages]
        else:
            random.shuffle(waiting)
            ready = [waiting.pop() for _ in range(min(len(waiting), random.randint(1, 4)))]
            if len(ready) == 1:
                index.attach(ready[0], memory.passages[ready[0]])
            else:
                index.attach_all([(id, memory.passages[id]) for id in ready])
        if random.random() < 0.5:  # fill the caches that later changes must drop
            windows_of(index, 1)
            if index.has_vectors:
                state(index)
                index.unit_pieces()
    assert sorted(index.ids) == sorted(whole.ids)
    assert windows_of(index, 1) == windows_of(whole, 1)
    assert windows_of(index, REACH) == windows_of(whole, REACH)
    assert index.languages == whole.languages
    assert (index.pending, index.is_conversation) == (whole.pending, whole.is_conversation)
    if whole.has_vectors:
        assert np.array_equal(index.piece_df, whole.piece_df)
        mine, theirs = state(index), state(whole)
        for name, values in theirs.items():
            assert mine[name] == pytest.approx(values, abs=1e-5), name
        assert len(index.unit_pieces()) == len(index.passage("pieces")) == len(whole.passage("pieces"))


@given(memory=memories())
def test_norms_are_lengths_of_sums(memory: Memory) -> None:
    index = build(memory)
    if not index.has_vectors:
        return
    sums = {id: np.sum([p.vector for p in parts], axis=0, dtype=float) for id, parts in memory.passages.items()}
    unit = {id: total / np.linalg.norm(total) for id, total in sums.items()}
    norm, window_norm = (by_id(index, values) for values in index.norms())
    for row in memory.rows:
        expected = np.linalg.norm(sums[row.id]) if row.id in sums else 1
        assert norm[row.id] == pytest.approx(expected, abs=1e-5)
        members = [unit[id] for id in window(memory.rows, row, 1) if id in unit]
        assert window_norm[row.id] == pytest.approx(np.linalg.norm(sum(members)) if members else 1, abs=1e-5)


@given(memory=memories())
def test_passages_stay_with_their_entries(memory: Memory) -> None:
    index = build(memory)
    for id, parts in memory.passages.items():
        n = index.position[id]
        first, count = int(index.column("first")[n]), int(index.column("count")[n])
        assert count == len(parts)
        assert (index.passage("owner")[first : first + count] == n).all()
        np.testing.assert_array_equal(index.passage("vector")[first : first + count], [p.vector for p in parts])
        starts = [*index.passage("piece_start").tolist(), len(index.passage("pieces"))]
        for at, part in enumerate(parts, first):
            np.testing.assert_array_equal(index.passage("pieces")[starts[at] : starts[at + 1]], part.pieces)
    counted: dict[int, int] = {}
    for parts in memory.passages.values():
        for piece in {int(i) for p in parts for i in p.piece_ids}:
            counted[piece] = counted.get(piece, 0) + 1
    assert {int(i): int(index.piece_df[i]) for i in np.flatnonzero(index.piece_df)} == counted
    assert index.pending == len(memory.rows) - len(memory.passages)


# ------------------------------------------------------------------------------------- windows
@given(memory=memories(), reach=st.integers(1, REACH))
def test_windows_are_what_their_definition_says(memory: Memory, reach: int) -> None:
    found = windows_of(build(memory), reach)
    for row in memory.rows:
        assert found[row.id] == window(memory.rows, row, reach)


@given(memory=memories())
def test_windows_cross_no_session_no_pause_and_no_limit(memory: Memory) -> None:
    rows = {row.id: row for row in memory.rows}
    for id, members in windows_of(build(memory), REACH).items():
        inside = [rows[m] for m in members]
        at = members.index(id)
        assert {row.session_id for row in inside} == {rows[id].session_id}
        assert all(b.moment - a.moment <= GAP for a, b in pairwise(inside))
        for side in (inside[:at], inside[at + 1 :]):
            assert len(side) <= REACH
            assert sum(row.tokens for row in side) <= WINDOW_TOKENS


@given(memory=memories())
def test_the_turns_beside_are_those_of_the_window(memory: Memory) -> None:
    index = build(memory)
    for n, (before, after) in enumerate(zip(*index.beside(), strict=True)):
        members = windows_of(index, 1)[index.ids[n]]
        sides = [index.ids[m] for m in (before, n, after) if m >= 0]
        assert sides == members


def pair(**changes: Any) -> list[Row]:
    later: dict[str, Any] = {"id": "b", "seq": 1, "moment": NOON + timedelta(minutes=1), **changes}
    return [Row("a"), Row(**later)]


@pytest.mark.parametrize(
    ("changes", "joined"),
    [
        ({}, True),
        ({"moment": NOON}, True),
        ({"moment": NOON + GAP}, True),
        ({"moment": NOON + GAP + timedelta(microseconds=1)}, False),
        ({"tokens": 250}, True),
        ({"tokens": 251}, False),
        ({"session_id": "s2"}, False),
        ({"kind": "fact"}, False),
        ({"kind": "segment"}, False),
    ],
)
def test_limits_of_a_window(changes: dict[str, Any], joined: bool) -> None:
    index = UserIndex(GAP_HOURS)
    index.add(pair(**changes))
    assert windows_of(index, REACH)["a"] == (["a", "b"] if joined else ["a"])
    # A turn's own length does not count, so "b" may see "a" although "a" does not see "b".
    assert index.is_conversation == (joined or "tokens" in changes)
    assert windows_of(index, REACH)["b"] == (["a", "b"] if joined or changes.get("tokens") else ["b"])


def test_a_turn_that_arrives_late_parts_its_neighbours() -> None:
    index = UserIndex(GAP_HOURS)
    index.add(pair(moment=NOON + timedelta(hours=2)))
    assert windows_of(index, 1) == {"a": ["a", "b"], "b": ["a", "b"]}
    index.add([Row("c", seq=2, moment=NOON + timedelta(hours=1))])
    assert windows_of(index, 1) == {"a": ["a", "c"], "b": ["c", "b"], "c": ["a", "c", "b"]}


def test_order_within_one_moment_is_that_of_arrival() -> None:
    index = UserIndex(GAP_HOURS)
    index.add([Row(id, seq=seq) for id, seq in (("c", 2), ("a", 0), ("b", 1))])
    assert windows_of(index, 1)["b"] == ["a", "b", "c"]


# ------------------------------------------------------------------------------------- the rest
def test_an_empty_index_answers() -> None:
    index = UserIndex(GAP_HOURS)
    index.add([])
    index.attach_all([])
    assert (len(index), index.pending, index.has_vectors, index.has_pieces) == (0, 0, False, False)
    assert index.mask(None, Filter()) is None


def test_words_of_text_speaker_and_date_are_found() -> None:
    index = UserIndex(GAP_HOURS)
    index.add([Row("a", "I like tea", speaker="Ana Ruiz"), Row("b", "我喜欢茶", language="zh")])
    for words, language, found in (
        ("tea", "en", "a"), ("ruiz", "en", "a"), ("20 May 2023 Saturday", "en", "a"),
        ("喜欢", "zh", "b"), ("2023年5月20日", "zh", "b"),
    ):  # fmt: skip
        scores = by_id(index, index.bm25.get_scores(terms(words, language)))
        assert max(scores, key=lambda id: scores[id]) == found
        assert scores[found] > 0


def test_a_batch_without_pieces_keeps_the_arrays_in_step() -> None:
    index = UserIndex(GAP_HOURS)
    index.add(pair())
    index.attach("a", passages(["tea"]))
    index.attach("b", passages(["?!"]))
    assert len(index.passage("piece_start")) == len(index.passage("owner")) == 2


def test_a_batch_with_and_without_pieces_keeps_the_arrays_in_step() -> None:
    for texts in (["?!", "tea"], ["tea", "?!"]):
        index = UserIndex(GAP_HOURS)
        index.add(pair())
        index.attach_all([(id, passages([text])) for id, text in zip("ab", texts, strict=True)])
        assert len(index.passage("piece_start")) == len(index.passage("owner")) == 2
        assert len(index.passage("pieces")) == 2
    index = UserIndex(GAP_HOURS)
    index.add(pair())
    index.attach("a", passages(["?!"]))
    assert not index.has_pieces
    index.attach("b", passages(["tea cat"]))
    assert index.passage("piece_start").tolist() == [0, 1]
    assert len(index.passage("pieces")) == 3


def test_memory_in_use_grows_with_the_memory() -> None:
    index = UserIndex(GAP_HOURS)
    sizes = []
    for n in range(4):
        index.add([Row(f"{n}-{i}", seq=10 * n + i) for i in range(10)])
        index.attach_all([(f"{n}-{i}", passages(["tea cat"])) for i in range(10)])
        sizes.append(index.nbytes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] > 40 * (32 * 4 + 2 * 8)


@pytest.mark.parametrize(
    ("found", "wanted", "passes"),
    [
        ({}, {}, True),
        ({"a": 1}, {}, True),
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": True}, True),
        ({"a": None}, {"a": None}, True),
        ({}, {"a": None}, False),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, True),
        ({"a": "1"}, {"a": 1}, False),
    ],
)
def test_metadata_must_be_equal(found: dict[str, Any], wanted: dict[str, Any], passes: bool) -> None:
    assert matches_metadata(found, wanted) is passes


@given(
    batches=st.lists(st.lists(st.integers(-1000, 1000), max_size=40), max_size=12), width=st.none() | st.integers(1, 3)
)
def test_a_growing_array_is_the_concatenation(batches: list[list[int]], width: int | None) -> None:
    array = Grow(np.int32, width)
    expected: list[Any] = []
    for batch in batches:
        rows = batch if width is None else [[v] * width for v in batch]
        array.extend(np.array(rows, np.int32).reshape((-1,) if width is None else (-1, width)))
        expected += rows
        assert array.view.tolist() == expected
        assert len(array) == len(expected)
        assert array.nbytes >= array.view.nbytes
