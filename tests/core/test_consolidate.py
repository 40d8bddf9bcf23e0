"""What is alike, what says the same, which facts share a window, and what has faded: without a database."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_integrations.core.analyze import terms
from lightmem_integrations.core.consolidate import (
    Consolidator,
    Holding,
    Retention,
    StoredFact,
    duplicates,
    faded,
    most_important,
    resembling,
    say_the_same,
    windows,
)
from lightmem_integrations.core.types import MemoryEntry
from lightmem_integrations.errors import UsageError

T0 = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def fact(text: str, n: int = 0, said: datetime | None = None, vector: Any = None, **more: Any) -> StoredFact:
    said = said or T0 + n * DAY
    unit = None if vector is None else (np.array(vector, np.float32) / np.linalg.norm(vector)).astype(np.float32)
    entry = MemoryEntry(
        id=f"f{n}", user_id="ana", session_id="s", kind="fact", memory=text, timestamp=said, session_time=said,
        source_messages=(f"t{n}",), embedding=unit, **more,
    )  # fmt: skip
    return StoredFact(entry, n, by_words=vector is None)


# ------------------------------------------------------------------------------------ the same
LONG = "Ana works as a nurse in the children's ward of the old hospital beside the river Douro."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ana has a cat.", "ana has a  CAT"),
        ("Ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("我住在上海。", "我住在上海"),
        ("!!!", " !!! "),
        (LONG, LONG.replace("old ", "very old ")),
    ],
)
def test_texts_that_say_the_same(one, other):
    assert say_the_same(fact(one).entry, fact(other, 1).entry)
    assert say_the_same(fact(other).entry, fact(one, 1).entry)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ana has a cat.", "Ana has a cat?"),
        ("Ana has 2 cats.", "Ana has 3 cats."),
        ("Ana likes Bob more than Carl.", "Ana likes Carl more than Bob."),
        ("Ana likes tea.", "Only Ana likes tea."),
        ("我住在上海。", "我不住在上海。"),
        ("!!!", "..."),
        (LONG, LONG.replace("nurse", "doctor")),
        (LONG, LONG.replace("works", "never works")),
        (LONG, LONG.replace("beside", "not beside")),
        (LONG, LONG.replace("ward", "ward 7")),
        (LONG, LONG.replace("old", "very very large and rather old")),
        (LONG, LONG.replace("ward", "Lisbon ward")),
        (LONG, LONG.replace("works", "worked until yesterday")),
    ],
)
def test_texts_that_may_differ_in_meaning(one, other):
    assert not say_the_same(fact(one).entry, fact(other, 1).entry)
    assert not say_the_same(fact(other).entry, fact(one, 1).entry)


@pytest.mark.parametrize("frame", [{"speaker": "Bob"}, {"role": "user"}, {"event_time": (T0, T0 + DAY)}])
def test_the_same_words_are_not_the_same_by_another_speaker_or_about_another_time(frame):
    assert not say_the_same(fact("I went out.").entry, fact("I went out.", 1, **frame).entry)


def test_equal_facts_are_paired_with_the_next_ones_and_near_ones_once():
    facts = [fact(LONG, n) for n in range(4)] + [fact(LONG.replace("old ", ""), 4)]
    pairs = [(p.earlier, p.later) for p in duplicates(facts, 2)]
    assert pairs == [("f0", "f1"), ("f0", "f2"), ("f1", "f2"), ("f1", "f3"), ("f2", "f3"), ("f3", "f4")]


# ------------------------------------------------------------------------------------ alike
WORDS = st.lists(
    st.sampled_from(["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine"]), max_size=9
)


@given(st.lists(WORDS.map(" ".join), max_size=12), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_pairs_by_words_are_those_of_a_full_comparison(texts, least):
    facts = [fact(text, n) for n, text in enumerate(texts)]
    bags = [set(terms(text)) for text in texts]
    expected = {
        (f"f{i}", f"f{j}"): len(bags[i] & bags[j]) / len(bags[i] | bags[j])
        for j in range(len(bags))
        for i in range(j)
        if bags[i] and bags[j] and len(bags[i] & bags[j]) / len(bags[i] | bags[j]) >= least
    }
    found = {(p.earlier, p.later): p.similarity for p in resembling(facts, least, 20)}
    assert found == expected


@given(st.integers(2, 40), st.integers(0, 1_000), st.integers(1, 10))
def test_pairs_by_vectors_are_the_nearest_later_ones_among_the_20_nearest(n, seed, limit):
    draw = np.random.default_rng(seed)
    facts = [fact(f"text {i}", i, vector=draw.normal(size=3)) for i in range(n)]
    vectors = np.stack([f.entry.embedding for f in facts])
    cosines = vectors @ vectors.T
    expected = []
    for i in range(n):
        nearest = sorted((j for j in range(n) if j != i), key=lambda j: -cosines[i, j])[:20]
        later = [j for j in nearest if j > i and cosines[i, j] >= 0.6][:limit]
        expected += [(f"f{i}", f"f{j}") for j in later]
    assert sorted((p.earlier, p.later) for p in resembling(facts, 0.6, limit)) == sorted(expected)
    new = {f"f{n - 1}"}
    touching = [pair for pair in expected if not new.isdisjoint(pair)]
    found = [(p.earlier, p.later) for p in resembling(facts, 0.6, limit, new)]
    assert sorted(pair for pair in found if not new.isdisjoint(pair)) == sorted(touching)


def test_facts_with_and_without_vectors_are_not_compared():
    assert resembling([fact("Ana has a cat", 0), fact("Ana has a cat", 1, vector=[1, 0])], 0.0, 10) == []


@pytest.mark.parametrize(
    "wrong", [{"similarity": 1.1}, {"similarity": -1}, {"candidates": 0}, {"candidates": 11}, {"threads": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))} must"):
        Consolidator(None, **wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ windows
def test_a_day_is_that_of_the_speakers_clock():
    tokyo = timezone(timedelta(hours=9))
    late, early = datetime(2026, 3, 2, 23, tzinfo=tokyo), datetime(2026, 3, 3, 1, tzinfo=tokyo)
    found = list(windows([fact("a", 0, late), fact("b", 1, early)], DAY))
    assert [(name, end.isoformat(), [f.entry.memory for f in held]) for name, end, held in found] == [
        ("2026-03-02T00:00:00/2026-03-03T00:00:00", "2026-03-03T00:00:00+09:00", ["a"]),
        ("2026-03-03T00:00:00/2026-03-04T00:00:00", "2026-03-04T00:00:00+09:00", ["b"]),
    ]


def test_a_week_begins_on_monday():
    days = [fact(str(n), n, datetime(2026, 3, 1 + n, 12, tzinfo=timezone.utc)) for n in range(9)]  # from a Sunday
    assert [len(held) for _, _, held in windows(days, 7 * DAY)] == [1, 7, 1]


def test_what_was_replaced_within_the_window_is_no_part_of_it():
    facts = [fact("a", 0, T0, valid_to=T0 + timedelta(hours=1)), fact("b", 1, T0, valid_to=T0 + 5 * DAY)]
    assert [[f.entry.memory for f in held] for _, _, held in windows(facts, DAY)] == [["b"]]


def test_the_end_of_time_is_the_end_of_the_last_window():
    last = datetime.max.replace(tzinfo=timezone.utc)
    [(_, end, held)] = windows([fact("a", 0, last)], 365 * DAY)
    assert (end, len(held)) == (last, 1)


def test_the_most_important_keep_their_order():
    facts = [fact(str(n), n, importance=n % 3 / 2 if n % 3 else None) for n in range(150)]
    kept = most_important(facts)
    assert len(kept) == 100
    assert kept == sorted(kept, key=lambda f: f.seq)
    assert {f.entry.importance for f in kept} == {1.0, 0.5, None}
    assert sum(f.entry.importance == 1.0 for f in kept) == 50


# ------------------------------------------------------------------------------------ retention
NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
POLICY = Retention(0.25, half_life_days=100, min_age_days=10)


def holding(id: str, age: float, importance: float | None = 0.5, kind: str = "turn", **more: Any) -> Holding:
    return Holding(id, kind, NOW - age * DAY, importance, more.get("by"), more.get("sources", (f"m-{id}",)))  # type: ignore[arg-type]


def test_the_score_halves_with_age():
    assert POLICY.score(0.8, 100 * DAY) == pytest.approx(0.4)
    assert POLICY.score(None, 200 * DAY) == pytest.approx(0.125)
    assert POLICY.score(1.0, -5 * DAY) == 1.0


def test_what_is_old_and_of_little_importance_fades():
    held = [
        holding("old", 101), holding("young", 9, 0.0), holding("ripe", 11, 0.2), holding("dear", 101, 1.0),
        holding("unrated", 101, None), holding("just", 100),
    ]  # fmt: skip
    found = faded(held, POLICY, NOW)
    assert list(found) == ["old", "unrated", "ripe"]
    assert found["old"] == pytest.approx(0.5 * 2**-1.01)


def test_a_turn_stays_for_what_was_made_of_it():
    dear = holding("fact", 300, 1.0, "fact", sources=("m-a", "m-b"))
    turns = [holding("a", 900), holding("b", 300)]
    policy = Retention(0.1, half_life_days=100)
    assert faded([*turns, dear], policy, NOW) == {}
    assert set(faded([*turns, holding("fact", 400, 1.0, "fact", sources=("m-a", "m-b"))], policy, NOW)) >= {"fact", "a"}


def test_a_turn_stays_while_something_young_rests_on_it():
    young = holding("fact", 1, 0.0, "fact", sources=("m-a", "m-b"))
    assert faded([holding("a", 900), young], POLICY, NOW) == {}


def test_what_was_replaced_does_not_outlive_what_replaced_it():
    dear = holding("porto", 60, 1.0, "fact", by="lisbon")
    assert list(faded([dear, holding("lisbon", 50, 0.1, "fact")], POLICY, NOW)) == ["porto", "lisbon"]
    assert faded([dear, holding("lisbon", 50, 0.9, "fact")], POLICY, NOW) == {}


def test_damaged_links_end():
    ring = [holding("a", 60, 1.0, "fact", by="b"), holding("b", 50, 1.0, "fact", by="a")]
    assert faded(ring, POLICY, NOW) == {}


KINDS = st.sampled_from(["turn", "fact", "summary"])


@given(
    st.lists(st.tuples(KINDS, st.floats(0, 500), st.none() | st.floats(0, 1), st.integers(0, 5)), max_size=12),
    st.floats(0.01, 1),
)
def test_what_goes_takes_nothing_along_that_has_not_faded(rows, threshold):
    held = [
        holding(str(n), age, importance, kind, sources=(f"m-{source}",) if kind != "turn" else (f"m-{n}",))
        for n, (kind, age, importance, source) in enumerate(rows)
    ]
    policy = Retention(threshold, half_life_days=100, min_age_days=10)
    gone = faded(held, policy, NOW)
    assert all(score < threshold for score in gone.values())
    assert all(NOW - h.timestamp >= 10 * DAY for h in held if h.id in gone)
    removed = {source for h in held if h.id in gone and h.kind == "turn" for source in h.sources}
    assert {h.id for h in held if removed.intersection(h.sources)} <= gone.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5}, {"threshold": float("nan")}, {"half_life_days": 0}, {"half_life_days": float("inf")},
        {"min_age_days": -1}, {"min_age_days": float("nan")},
    ],
)  # fmt: skip
def test_a_policy_out_of_range_is_refused(wrong):
    with pytest.raises(UsageError, match=f"^retention.{next(iter(wrong))} must"):
        Retention(**wrong)
