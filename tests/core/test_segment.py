"""Cutting turns into topics: laws over random turns, and small cases by hand."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_integrations.core.ports import Attention
from lightmem_integrations.core.segment import (
    BufferedTurn,
    HybridParameters,
    SegmentParameters,
    SensoryBuffer,
    attention_boundaries,
    lengths,
    segment,
    similarity_boundaries,
    valleys,
)
from lightmem_integrations.errors import UsageError

NOON = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def topics(*sizes: int, dim: int = 256, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """Vectors of turns on consecutive topics, each topic a direction of its own."""
    rng = np.random.default_rng(seed)
    rows = [np.eye(dim)[topic] for topic, size in enumerate(sizes) for _ in range(size)]
    return np.array(rows) + noise * rng.standard_normal((sum(sizes), dim))


def statements(n: int) -> list[str]:
    """Turns without any cue."""
    return [f"Statement {i}" for i in range(n)]


def minutes(*values: float | None) -> list[datetime | None]:
    return [None if value is None else NOON + timedelta(minutes=value) for value in values]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Any, list[str], list[datetime | None] | None]:
    n = draw(st.integers(0, 12))
    texts = draw(
        st.lists(st.sampled_from(["", "?", "Yes, it is.", "A: So?", "我们去吧", "Tea"]), min_size=n, max_size=n)
    )
    component = st.sampled_from([-1.0, 0.0, 0.25, 1.0])
    row = st.lists(component, min_size=3, max_size=3)
    vectors = draw(st.none() | st.lists(row, min_size=n, max_size=n).map(lambda rows: np.reshape(rows, (n, 3))))
    offsets = st.none() | st.floats(-1e4, 1e4)
    times = draw(st.none() | st.lists(offsets, min_size=n, max_size=n).map(lambda values: minutes(*values)))
    return vectors, texts, times


# ------------------------------------------------------------------------------------ segmenting
@given(conversations())
def test_boundaries_are_ascending_indices(conversation: tuple[Any, list[str], list[datetime | None] | None]):
    vectors, texts, times = conversation
    sizes = lengths(segment(vectors, texts, times), len(texts))
    assert sum(sizes) == len(texts)
    assert all(size > 0 for size in sizes)


@given(conversations(), st.floats(0.01, 100))
def test_the_length_of_vectors_does_not_matter(
    conversation: tuple[Any, list[str], list[datetime | None] | None], scale: float
):
    vectors, texts, times = conversation
    if vectors is not None:
        assert segment(vectors * scale, texts, times) == segment(vectors, texts, times)


@given(conversations())
def test_every_pause_is_a_boundary_and_only_pauses_without_other_reason(
    conversation: tuple[Any, list[str], list[datetime | None] | None],
):
    vectors, texts, times = conversation
    apart = [
        i
        for i in range(1, len(texts))
        if times is not None and times[i] and times[i - 1] and abs(times[i] - times[i - 1]) > HOUR
    ]
    assert set(apart) <= set(segment(vectors, texts, times))
    assert segment(vectors, texts, times, parameters=SegmentParameters(penalty=1e6)) == apart


@given(conversations(), st.integers(0, 12))
def test_context_is_not_cut_and_moves_no_boundary(
    conversation: tuple[Any, list[str], list[datetime | None] | None], context: int
):
    vectors, texts, times = conversation
    whole = segment(vectors, texts, times)
    assert segment(vectors, texts, times, context=context) == [b - context for b in whole if b > context]


@pytest.mark.parametrize("sizes", [(5, 5), (8, 4, 6), (3, 9, 3, 7), (12,)])
def test_topics_that_differ_are_told_apart(sizes: tuple[int, ...]):
    vectors = topics(*sizes)
    assert lengths(segment(vectors, statements(len(vectors))), len(vectors)) == list(sizes)


def test_an_offset_that_all_vectors_share_changes_little():
    # Encoders such as E5 put all texts into a narrow cone.
    vectors = topics(6, 5, 7)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert segment(vectors + 2, statements(18)) == segment(vectors, statements(18)) == [6, 11]


def test_words_are_compared_without_vectors():
    texts = ["The cat sleeps", "My cat eats fish", "That cat loves fish", "A cat hunts fish"]
    texts += ["The train leaves at nine", "This train has a delay", "Which train leaves", "Train delay again"]
    assert segment(None, texts) == [4]


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_few_turns_are_one_segment(n: int, vectors: bool):
    assert segment(np.eye(4)[:n] if vectors else None, statements(n)) == []


@pytest.mark.parametrize("vectors", [np.ones((30, 3)), np.zeros((30, 3)), None])
def test_turns_that_cannot_be_told_apart_are_one_segment(vectors: Any):
    assert segment(vectors, ["same"] * 30) == []


def test_a_question_stays_with_its_answer():
    vectors, plain = topics(5, 5), statements(10)
    asked = [*plain[:4], "Shall we?", *plain[5:]]
    dear = SegmentParameters(question=50)
    assert segment(vectors, asked) == segment(vectors, plain, parameters=dear) == [5]
    assert 5 not in segment(vectors, asked, parameters=dear)


def test_a_question_may_open_a_topic():
    vectors, plain = topics(5, 5), statements(10)
    asked = [*plain[:7], "Bob: Tell me? Please.", *plain[8:]]
    assert segment(vectors, asked) == segment(vectors, plain, parameters=SegmentParameters(opening=50)) == [5]
    assert 7 in segment(vectors, asked, parameters=SegmentParameters(opening=50))


@pytest.mark.parametrize(
    "reply", ["Yes, please", "Bob: it was fine", "But why", "是的，我去", "Lisa：那很好", "Thanks!"]
)
def test_a_turn_that_refers_back_is_not_cut_off(reply: str):
    vectors, plain = topics(5, 5), statements(10)
    texts = [*plain[:5], reply, *plain[6:]]
    assert segment(vectors, texts) == [5]
    assert 5 not in segment(vectors, texts, parameters=SegmentParameters(continuation=50))
    assert segment(vectors, plain, parameters=SegmentParameters(continuation=50)) == [5]


def test_valleys_by_hand():
    # Cosines of neighbours: 1, 0, 1. Depths: 0, 1 + 1 - 0 = 2, 0; mean 2/3, deviation sqrt(8/9).
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    depth = np.array([0, 2, 0])
    assert valleys(vectors, statements(4), 1) == pytest.approx((depth - depth.mean()) / depth.std())


def test_a_valley_is_measured_from_the_peaks_on_both_sides():
    # Angles of 0, 10, 50, 60, 130 and 140 degrees: neighbours 10, 40, 10, 70 and 10 degrees apart.
    angles = np.radians([0, 10, 50, 60, 130, 140])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)])
    high, low, lowest = np.cos(np.radians([10, 40, 70]))
    depth = np.array([0, 2 * (high - low), 0, 2 * (high - lowest), 0])
    assert valleys(vectors, statements(6), 1) == pytest.approx((depth - depth.mean()) / depth.std())


# ------------------------------------------------------------------------------------ pauses
def test_pauses():
    texts, vectors = statements(6), np.ones((6, 2))
    assert segment(vectors, texts, minutes(0, 60, 121, None, 500, -1)) == [2, 5]
    assert segment(vectors, texts, minutes(0, 60, 121, None, 500, -1), parameters=SegmentParameters(max_gap=None)) == []
    short = SegmentParameters(max_gap=timedelta(minutes=1))
    assert segment(None, texts[:3], minutes(0, 1, 2.1), parameters=short) == [2]


def test_a_pause_holds_for_the_hybrid():
    calm = np.ones((3, 3))
    assert segment(np.ones((3, 2)), statements(3), minutes(0, 1, 200), attention=calm) == [2]


# ------------------------------------------------------------------------------------ hybrid
def attention_of(*to_the_one_before: float) -> np.ndarray:
    """A matrix with these values below the diagonal, in rows that sum to 1."""
    matrix = np.diag(to_the_one_before, -1)
    return matrix + np.diag(1 - matrix.sum(axis=1))


def test_the_cut_lies_before_the_peak():
    # Sentence 2 attends to sentence 1 most: the new segment begins with sentence 2.
    assert attention_boundaries(attention_of(0.1, 0.6, 0.2, 0.3, 0.3, 0.1)) == [2, 4]
    assert attention_boundaries(attention_of(0.5, 0.1, 0.4)) == [1, 3]
    assert attention_boundaries(attention_of()) == []


def test_dips():
    vectors = np.array([[1, 0], [3, 0], [0, 1], [1, 1]])
    assert similarity_boundaries(vectors, 0.2) == [2]
    assert similarity_boundaries(vectors, 0.8) == [2, 3]


def cosines(*values: float) -> np.ndarray:
    """Vectors in the plane whose neighbours have these cosines."""
    angles = np.cumsum([0, *np.arccos(values)])
    return np.column_stack([np.cos(angles), np.sin(angles)])


@pytest.mark.parametrize(
    ("similar", "peaks", "parameters", "expected"),
    [
        ((0.9, 0.1, 0.9, 0.9), (0.1, 0.6, 0.1, 0.1), {}, [2]),
        ((0.9, 0.1, 0.9, 0.9), (0.1, 0.1, 0.6, 0.1), {}, []),  # the peak is elsewhere
        ((0.9, 0.1, 0.9, 0.9), (0.1, 0.1, 0.6, 0.1), {"tolerance": 1}, [2]),
        ((0.9, 0.42, 0.9, 0.9), (0.1, 0.6, 0.1, 0.1), {}, [2]),  # found at 0.45
        ((0.9, 0.42, 0.9, 0.9), (0.1, 0.6, 0.1, 0.1), {"tau_last": 0.4}, []),
        ((0.9, 0.42, 0.9, 0.9), (0.1, 0.6, 0.1, 0.1), {"tau_first": 0.5}, [2]),
        ((0.1, 0.9, 0.9, 0.42), (0.6, 0.1, 0.1, 0.6), {}, [1]),  # the first threshold that finds any ends it
        ((0.9, 0.9, 0.9, 0.9), (0.1, 0.6, 0.1, 0.1), {}, []),
    ],
)
def test_hybrid(similar: Sequence[float], peaks: Sequence[float], parameters: dict[str, Any], expected: list[int]):
    found = segment(
        cosines(*similar), statements(5), attention=attention_of(*peaks), hybrid=HybridParameters(**parameters)
    )
    assert found == expected


def test_thresholds_are_those_of_the_published_code():
    assert HybridParameters().taus == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    assert HybridParameters(tau_first=0.2, tau_last=0.3, tau_step=0.08).taus == pytest.approx([0.2, 0.28])


def test_attention_is_a_port():
    class Model:
        name = "model"

        def attend(self, texts: Sequence[str]) -> np.ndarray:
            return np.eye(len(texts))

    assert isinstance(Model(), Attention)
    assert segment(np.eye(3), statements(3), attention=Model().attend(statements(3))) == [1]


# ------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("vectors", lambda: segment(np.eye(3), statements(4))),
        ("vectors", lambda: segment([[1.0], [np.nan]], statements(2))),
        ("vectors", lambda: segment("text", statements(2))),
        ("vectors", lambda: segment(np.ones(3), statements(3))),
        ("times", lambda: segment(None, statements(2), minutes(1))),
        ("times", lambda: segment(None, statements(2), [NOON, NOON.replace(tzinfo=None)])),
        ("attention", lambda: segment(None, statements(2), attention=np.eye(3))),
        ("attention", lambda: attention_boundaries(np.ones((2, 3)))),
        ("context", lambda: segment(None, statements(2), context=-1)),
        ("width", lambda: SegmentParameters(width=0)),
        ("penalty", lambda: SegmentParameters(penalty=float("nan"))),
        ("max_gap", lambda: SegmentParameters(max_gap=timedelta(-1))),
        ("tau_step", lambda: HybridParameters(tau_step=0.0)),
        ("tau_last", lambda: HybridParameters(tau_last=0.1)),
        ("tolerance", lambda: HybridParameters(tolerance=-1)),
        ("limit", lambda: SensoryBuffer(lambda turns: [], limit=0)),
        ("tokens", lambda: BufferedTurn("a", -1)),
        ("boundaries", lambda: lengths([2, 2], 4)),
        ("boundaries", lambda: lengths([4], 4)),
        ("boundaries", lambda: lengths([0], 4)),
        ("boundaries", lambda: lengths([1], 0)),
    ],
)
def test_bad_input_names_the_field(field: str, call: Any):
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.field == field


# ------------------------------------------------------------------------------------ the buffer
def ids(segments: Sequence[Sequence[BufferedTurn]]) -> list[str]:
    return ["".join(turn.id for turn in piece) for piece in segments]


def turns(*tokens: int) -> list[BufferedTurn]:
    return [BufferedTurn(chr(97 + i), size) for i, size in enumerate(tokens)]


def cut_at(*places: str) -> Any:
    """Boundaries before these turns, wherever they lie in the buffer."""
    return lambda held: [i for i, turn in enumerate(held) if i and turn.id in places]


def test_the_last_segment_is_carried_over():
    buffer = SensoryBuffer(cut_at("c", "e"), limit=10)
    out = [buffer.push(turn) for turn in turns(2, 2, 2, 2, 2, 2)]
    assert [ids(closed) for closed in out] == [[], [], [], [], ["ab", "cd"], []]
    assert ids([buffer.turns]) == ["ef"]
    assert buffer.tokens == 4
    assert ids(buffer.flush()) == ["ef"]
    assert buffer.flush() == []


def test_one_topic_that_fills_the_buffer_is_closed():
    buffer = SensoryBuffer(cut_at(), limit=10)
    assert [ids(buffer.push(turn)) for turn in turns(4, 4, 4)] == [[], [], ["abc"]]
    assert buffer.turns == ()


def test_a_turn_longer_than_the_buffer():
    buffer = SensoryBuffer(cut_at("b"), limit=10)
    assert [ids(buffer.push(turn)) for turn in turns(4, 40, 4)] == [[], ["a", "b"], []]
    assert [ids(SensoryBuffer(cut_at(), limit=10).push(turn)) for turn in turns(10)] == [["a"]]


def test_a_pause_closes_what_came_before():
    buffer = SensoryBuffer(cut_at("b"), limit=100)
    said = [
        BufferedTurn(name, 1, NOON + timedelta(minutes=at)) for name, at in zip("abcd", (0, 1, 62, 63), strict=True)
    ]
    assert [ids(buffer.push(turn)) for turn in said] == [[], [], ["a", "b"], []]
    assert ids([buffer.turns]) == ["cd"]


def test_it_goes_on_where_another_process_stopped():
    first = SensoryBuffer(cut_at("c"), limit=10)
    stream = turns(3, 3, 3, 3)
    for turn in stream[:3]:
        first.push(turn)
    second = SensoryBuffer(cut_at("c"), limit=10, turns=first.turns)
    assert ids(second.push(stream[3])) == ["ab"]
    assert ids(second.flush()) == ["cd"]


def test_a_failing_cut_loses_and_doubles_nothing():
    failures = iter([True, False, True, False])

    def cut(held: Sequence[BufferedTurn]) -> list[int]:
        if next(failures):
            raise RuntimeError("the model is away")
        return [1]

    buffer = SensoryBuffer(cut, limit=10)
    a, b = turns(5, 5)
    assert buffer.push(a) == []
    with pytest.raises(RuntimeError, match="away"):
        buffer.push(b)
    assert ids([buffer.turns]) == ["a"]
    assert ids(buffer.push(b)) == ["a"]
    buffer.push(BufferedTurn("c", 1))
    with pytest.raises(RuntimeError, match="away"):
        buffer.flush()
    assert ids(buffer.flush()) == ["b", "c"]


def test_a_cut_that_gives_no_boundaries_is_refused():
    buffer = SensoryBuffer(lambda held: [7], limit=2, turns=turns(1))
    with pytest.raises(UsageError, match="boundaries"):
        buffer.push(BufferedTurn("b", 1))
    assert ids([buffer.turns]) == ["a"]


@given(st.data())
def test_every_turn_comes_out_once_and_in_order(data: st.DataObject):
    limit = data.draw(st.integers(1, 30))
    gaps = st.none() | st.integers(-200, 200)
    stream = [
        BufferedTurn(str(i), tokens, None if at is None else NOON + timedelta(minutes=at))
        for i, (tokens, at) in enumerate(data.draw(st.lists(st.tuples(st.integers(0, 40), gaps), max_size=40)))
    ]
    most = [0]

    def cut(held: Sequence[BufferedTurn]) -> list[int]:
        *before, _ = held
        assert sum(max(1, turn.tokens) for turn in before) < limit
        most[0] = max(most[0], len(held))
        return sorted(data.draw(st.sets(st.integers(1, len(held) - 1))))

    buffer = SensoryBuffer(cut, limit=limit)
    closed: list[tuple[BufferedTurn, ...]] = []
    for i, turn in enumerate(stream):
        if data.draw(st.booleans()):
            buffer = SensoryBuffer(cut, limit=limit, turns=buffer.turns)
        closed += buffer.push(turn)
        assert buffer.tokens < limit
        assert [t for piece in closed for t in piece] + list(buffer.turns) == stream[: i + 1]
    closed += buffer.flush()
    assert all(closed)
    assert buffer.turns == ()
    assert [turn for piece in closed for turn in piece] == stream
    assert most[0] <= limit  # turns without tokens count, so the number of turns is bounded


@given(conversations(), st.integers(1, 12))
def test_segments_of_a_stream(conversation: tuple[Any, list[str], list[datetime | None] | None], limit: int):
    vectors, texts, times = conversation

    def cut(held: Sequence[BufferedTurn]) -> list[int]:
        first, last = int(held[0].id), int(held[-1].id) + 1
        return segment(None if vectors is None else vectors[first:last], texts[first:last])

    buffer = SensoryBuffer(cut, limit=limit)
    stream = [BufferedTurn(str(i), len(text), None if times is None else times[i]) for i, text in enumerate(texts)]
    closed = [piece for turn in stream for piece in buffer.push(turn)] + buffer.flush()
    assert [turn for piece in closed for turn in piece] == stream


def test_ten_thousand_one_word_turns_and_one_enormous_turn():
    words = ["word"] * 10_000

    def cut(held: Sequence[BufferedTurn]) -> list[int]:
        return segment(None, words[: len(held)])

    buffer = SensoryBuffer(cut)
    stream = [BufferedTurn(str(i), 1) for i in range(10_000)]
    closed = [piece for turn in stream for piece in buffer.push(turn)] + buffer.flush()
    assert [turn for piece in closed for turn in piece] == stream
    assert {len(piece) for piece in closed} == {512, 10_000 % 512}
    assert segment(None, ["word " * 40_000, "short"]) == []
