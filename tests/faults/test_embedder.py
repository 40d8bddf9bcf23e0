"""An embedder that fails costs no turn: what was said is kept, found by its words, and encoded later."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.types import Finding
from lightmem_integrations.errors import ClosedError, EmbedderError
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing.embedders import Fault, FlakyEmbedder, HashEmbedder

USER = "ana"
WALRUS = {"role": "user", "id": "w", "content": "The walrus sings in Tromsø."}
ZEBRA = {"role": "user", "id": "z", "content": "A zebra crossed the street."}
FAULTS: tuple[Fault, ...] = ("raise", "nan", "zero", "rows", "pieces")


class Switched:
    """Embedder that fails while ``broken`` is set."""

    def __init__(self, fault: Fault = "raise", poison: str = "") -> None:
        self.broken = Event()
        self.broken.set()
        self.embedder = FlakyEmbedder(
            fault=fault, fail_on=lambda texts: self.broken.is_set() and any(poison in text for text in texts)
        )


def finding(memory: LightMem, name: str) -> Finding:
    return next(f for f in memory.doctor().findings if f.name == name)


def assert_complete(memory: LightMem) -> None:
    """Nothing waits, and every turn (all are short) has its one passage."""
    report = memory.doctor()
    stats = memory.stats()
    assert report.ok, report
    assert stats["rows"]["turns"] == stats["entries"]["turn"] == stats["rows"]["passages"]


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    limit = time.monotonic() + seconds
    while not holds() and time.monotonic() < limit:
        time.sleep(0.01)
    return holds()


# ---------------------------------------------------------------------- failing on what is stored
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("fault", FAULTS)
def test_failed_encoding_leaves_the_turns_stored_pending_and_found_by_words(tmp_path, fault, count):
    switched = Switched(fault)
    with LightMem(tmp_path / "m.db", embedder=switched.embedder) as memory:
        others = [f"Another remark, number {i}." for i in range(count - 1)]
        result = memory.add([WALRUS, *others], user_id=USER)
        assert (result.added, result.pending) == (count, count)
        assert len(result.errors) == 1
        assert "hash" in result.errors[0]

        hit = memory.search("walrus", user_id=USER)[0]
        assert hit.source_ids == ("w",)
        assert hit.parts["strategy"] == "bm25"
        assert "hash" in str(hit.parts["reason"])

        report = memory.doctor()
        waiting = next(f for f in report.findings if f.name == "pending")
        assert not report.ok
        assert report.pending == memory.stats()["pending"] == count
        assert result.errors[0] in waiting.detail


@pytest.mark.parametrize("mend", ["add", "flush", "flush all", "doctor", "reopen", "search"])
def test_pending_turns_are_completed_by_the_next_call(tmp_path, mend):
    switched = Switched()
    with LightMem(tmp_path / "m.db", embedder=switched.embedder) as memory:
        memory.add([WALRUS, ZEBRA], user_id=USER)
        switched.broken.clear()
        if mend == "add":
            assert memory.add("And one more thing.", user_id=USER).pending == 0
        elif mend == "flush":
            assert memory.flush(user_id=USER) == 2
        elif mend == "flush all":
            assert memory.flush() == 2
        elif mend == "doctor":
            assert next(f for f in memory.doctor(repair=True).findings if f.name == "pending").repaired == 2
        elif mend == "search":
            memory.search("walrus", user_id=USER)
            assert eventually(lambda: memory.stats()["pending"] == 0)
    with LightMem(tmp_path / "m.db", embedder=HashEmbedder()) as memory:
        if mend == "reopen":
            assert memory.stats()["pending"] == 2
            assert memory.flush() == 2
        assert_complete(memory)
        hit = memory.search("walrus", user_id=USER)[0]
        assert hit.parts["strategy"] == "late"
        assert "reason" not in hit.parts


def test_flush_and_repair_tell_that_the_embedder_still_fails(tmp_path):
    with LightMem(tmp_path / "m.db", embedder=Switched().embedder) as memory:
        memory.add(WALRUS, user_id=USER)
        with pytest.raises(EmbedderError, match="hash failed: RuntimeError: flaky on purpose"):
            memory.flush()
        report = memory.doctor(repair=True)
        assert not report.ok
        assert "flaky on purpose" in str(report)
        assert memory.list(user_id=USER)[0].memory == WALRUS["content"]


def test_lost_vectors_are_noticed_and_made_again(tmp_path):
    path = tmp_path / "m.db"
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.add([WALRUS, ZEBRA], user_id=USER)
    with closing(SqlStore(path)) as store, store.writing(USER) as connection:
        connection.exec_driver_sql("DELETE FROM passages WHERE entry_id = (SELECT min(entry_id) FROM passages)")
    with LightMem(path, embedder=HashEmbedder()) as memory:
        assert not memory.doctor().ok
        assert finding(memory, "vectors").count == 1
        memory.doctor(repair=True)
        assert_complete(memory)


def test_one_poisonous_text_holds_up_no_other(tmp_path):
    switched = Switched(poison="poison")
    texts = [f"Harmless remark {i}." for i in range(5)] + ["A poison text."] + [f"Late remark {i}." for i in range(5)]
    with LightMem(tmp_path / "m.db", embedder=switched.embedder) as memory:
        result = memory.add(texts, user_id=USER)
        assert (result.added, result.pending) == (11, 1)
        assert memory.stats()["rows"]["passages"] == 10
        assert memory.search("late remark", user_id=USER)[0].parts["strategy"] == "late"
        assert memory.search("poison", user_id=USER, strategy="bm25")[0].entry.memory == "A poison text."
        assert "1 entries wait" in finding(memory, "pending").detail
        switched.broken.clear()
        memory.doctor(repair=True)
        assert_complete(memory)


def test_a_run_of_poisonous_texts_holds_others_up_until_the_next_flush_only(tmp_path):
    switched = Switched(poison="poison")
    texts = [f"A poison text, {i}." for i in range(4)] + [f"Harmless remark {i}." for i in range(200)]
    with LightMem(tmp_path / "m.db", embedder=switched.embedder) as memory:
        assert memory.add(texts, user_id=USER).added == 204
        for _ in range(3):
            with pytest.raises(EmbedderError):
                memory.flush(user_id=USER)
        assert memory.stats()["pending"] == 4
        assert memory.stats()["rows"]["passages"] == 200


def test_a_hiccup_that_was_overcome_is_no_error(tmp_path):
    with LightMem(tmp_path / "m.db", embedder=FlakyEmbedder(fail_on={0})) as memory:
        result = memory.add([WALRUS, ZEBRA], user_id=USER)
        assert_complete(memory)
        assert result.pending == 0
        assert result.errors == ()


def test_vectors_of_another_length_than_those_before_are_refused(tmp_path):
    with LightMem(tmp_path / "m.db", embedder=FlakyEmbedder(fail_on={1}, fault="shape")) as memory:
        memory.add(WALRUS, user_id=USER)
        result = memory.add(ZEBRA, user_id=USER)
        assert memory.search("zebra", user_id=USER)[0].source_ids == ("z",)
        assert result.pending == 1
        assert "shape" in result.errors[0]
        memory.flush()
        assert_complete(memory)


class Odd:
    """Embedder of one answer, whatever it is asked."""

    name = "odd"

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def embed(self, texts: object) -> object:
        return self._answer


class OddTokens(Odd):
    def encode(self, texts: object, *, query: bool = False) -> object:
        return self._answer


@pytest.mark.parametrize(
    "embedder",
    [
        Odd(None),
        Odd("text"),
        Odd(np.ones(4, np.float32)),
        Odd(np.ones((1, 2, 2), np.float32)),
        Odd(np.ones((1, 0), np.float32)),
        Odd(np.full((1, 4), np.inf)),
        Odd([[1.0, 2.0], [1.0]]),
        Odd([]),
        OddTokens(None),
        OddTokens([]),
        pytest.param(
            OddTokens([(1, 2)]),
        ),
    ],
    ids=["none", "text", "flat", "cube", "empty row", "inf", "ragged", "no rows", "t none", "t no rows", "t tuple"],
)
def test_nonsense_from_an_embedder_is_told_and_costs_nothing(tmp_path, embedder):
    with LightMem(tmp_path / "m.db", embedder=embedder) as memory:
        result = memory.add(WALRUS, user_id=USER)
        assert (result.added, result.pending) == (1, 1)
        assert result.errors
        assert memory.search("walrus", user_id=USER)[0].source_ids == ("w",)


# ---------------------------------------------------------------------- failing on the question
def test_failure_on_the_question_falls_back_to_words_with_the_reason(tmp_path):
    switched = Switched(poison="where is the walrus")
    with LightMem(tmp_path / "m.db", embedder=switched.embedder) as memory:
        memory.add([WALRUS, ZEBRA], user_id=USER)
        for strategy in ("late", "weighted", "rrf", "dense"):
            hit = memory.search("where is the walrus", user_id=USER, strategy=strategy)[0]
            assert hit.source_ids == ("w",)
            assert hit.parts["strategy"] == "bm25"
            assert "flaky on purpose" in str(hit.parts["reason"])
        assert "walrus" in memory.context("where is the walrus", user_id=USER).text
        switched.broken.clear()
        assert "reason" not in memory.search("where is the walrus", user_id=USER)[0].parts
        assert_complete(memory)


@pytest.mark.parametrize("fault", FAULTS)
def test_unusable_encoding_of_the_question_falls_back_to_words(tmp_path, fault):
    with LightMem(tmp_path / "m.db", embedder=FlakyEmbedder(fail_on={1}, fault=fault)) as memory:
        memory.add(WALRUS, user_id=USER)
        hit = memory.search("walrus", user_id=USER)[0]
        assert hit.source_ids == ("w",)
        assert "the embedder failed" in str(hit.parts["reason"])


def test_question_vector_of_another_length_falls_back_to_words(tmp_path):
    with LightMem(tmp_path / "m.db", embedder=FlakyEmbedder(fail_on={1}, fault="shape")) as memory:
        memory.add(WALRUS, user_id=USER)
        hit = memory.search("walrus", user_id=USER)[0]
        assert hit.source_ids == ("w",)
        assert "the embedder failed" in str(hit.parts["reason"])


# ---------------------------------------------------------------------- slow and hanging
@pytest.fixture
def sleeper() -> Iterator[FlakyEmbedder]:
    """Embedder that hangs on its first call until it is woken."""
    embedder = FlakyEmbedder(fail_on={0}, fault="sleep", seconds=60)
    yield embedder
    embedder.wake.set()


@pytest.mark.parametrize("wait", [0, 0.3])
def test_add_does_not_wait_longer_than_it_may(tmp_path, sleeper, wait):
    with LightMem(tmp_path / "m.db", LightMemConfig(index_wait_seconds=wait), embedder=sleeper) as memory:
        start = time.monotonic()
        result = memory.add(WALRUS, user_id=USER)
        assert (result.added, result.pending) == (1, 1)
        assert "background" in result.errors[0]
        # Once found hanging, it is not waited for again, by no user.
        assert memory.add("Another.", user_id=USER).pending == 2
        assert memory.add("Hello.", user_id="bob").added == 1
        assert memory.search("walrus", user_id=USER)[0].source_ids == ("w",)
        assert time.monotonic() - start < 5
        assert finding(memory, "pending").count >= 2
        sleeper.wake.set()
        assert eventually(lambda: memory.stats()["pending"] == 0)
        if wait:  # it is waited for again
            assert eventually(lambda: memory.add("Awake again.", user_id=USER).errors == ())
        memory.flush()
        assert_complete(memory)


def test_close_does_not_wait_for_a_hanging_embedder(tmp_path, sleeper):
    memory = LightMem(tmp_path / "m.db", LightMemConfig(index_wait_seconds=0.05), embedder=sleeper)
    memory.add(WALRUS, user_id=USER)
    start = time.monotonic()
    memory.close()
    assert time.monotonic() - start < 5
    sleeper.wake.set()
    with LightMem(tmp_path / "m.db", embedder=HashEmbedder()) as memory:
        assert memory.search("walrus", user_id=USER, strategy="bm25")[0].source_ids == ("w",)
        memory.flush()
        assert_complete(memory)


def test_close_does_not_wait_for_an_embedder_that_hangs_in_the_background(tmp_path):
    path, sleeper = tmp_path / "m.db", FlakyEmbedder(fail_on=lambda _: True, fault="sleep", seconds=60)
    with LightMem(path, embedder=Switched().embedder) as memory:
        memory.add(WALRUS, user_id=USER)
    memory = LightMem(path, embedder=sleeper)
    memory.search("walrus", user_id=USER, strategy="bm25")  # starts to encode what is pending
    assert eventually(lambda: sleeper.calls == 1)
    closing = Thread(target=memory.close)
    closing.start()
    closing.join(2)
    hung = closing.is_alive()
    sleeper.wake.set()
    closing.join()
    assert not hung


HANG = """
import time
from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.testing.embedders import FlakyEmbedder
embedder = FlakyEmbedder(fail_on={0}, fault="sleep", seconds=4)
with LightMem(":memory:", LightMemConfig(index_wait_seconds=0), embedder=embedder) as memory:
    memory.add("Hello.", user_id="ana")
print(time.time(), flush=True)
"""


def test_process_ends_though_the_embedder_hangs():
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, check=True)
    assert time.time() - float(done.stdout) < 2


def test_add_while_closing_is_acknowledged_or_refused(tmp_path):
    sleeper = FlakyEmbedder(fail_on={0}, fault="sleep", seconds=60)
    memory = LightMem(tmp_path / "m.db", embedder=sleeper)
    adding = Thread(target=memory.add, args=(WALRUS,), kwargs={"user_id": USER})
    closing = Thread(target=memory.close)
    adding.start()
    assert eventually(lambda: sleeper.calls == 1)
    closing.start()
    time.sleep(0.1)
    try:
        stored = memory.add(ZEBRA, user_id=USER).added
    except ClosedError:
        stored = 0
    finally:
        sleeper.wake.set()
        adding.join()
        closing.join()
    with LightMem(tmp_path / "m.db", embedder=HashEmbedder()) as memory:
        assert len(memory.list(user_id=USER)) == 1 + stored


def test_closing_with_work_in_the_queue_logs_no_error(tmp_path, caplog):
    path, sleeper = tmp_path / "m.db", FlakyEmbedder(fail_on=lambda _: True, fault="sleep", seconds=60)
    with LightMem(path, embedder=Switched().embedder) as memory:
        memory.add(WALRUS, user_id=USER)
    memory = LightMem(path, LightMemConfig(threads=1), embedder=sleeper)
    for _ in range(3):
        memory.search("walrus", user_id=USER, strategy="bm25")
    assert eventually(lambda: sleeper.calls == 1)
    closing = Thread(target=memory.close)
    closing.start()
    time.sleep(0.1)
    sleeper.wake.set()
    closing.join()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


def test_async_call_after_close_is_told_so():
    memory = LightMem(":memory:", embedder=HashEmbedder())
    memory.close()
    with pytest.raises(ClosedError):
        asyncio.run(memory.asearch("walrus", user_id=USER))


# ---------------------------------------------------------------------- forgetting meanwhile
def test_what_is_forgotten_while_it_is_encoded_leaves_nothing(tmp_path, sleeper):
    with LightMem(tmp_path / "m.db", LightMemConfig(index_wait_seconds=0), embedder=sleeper) as memory:
        memory.add([WALRUS, ZEBRA], user_id=USER)
        memory.forget(user_id=USER, ids=["w"])
        sleeper.wake.set()
        assert eventually(lambda: memory.stats()["pending"] == 0)
        assert [e.source_messages for e in memory.list(user_id=USER)] == [("z",)]
        assert_complete(memory)


def test_vectors_of_a_forgotten_text_do_not_land_on_its_successor(tmp_path, sleeper):
    with LightMem(tmp_path / "m.db", LightMemConfig(index_wait_seconds=0), embedder=sleeper) as memory:
        memory.add(WALRUS, user_id=USER)
        assert eventually(lambda: sleeper.calls == 1)
        memory.forget(user_id=USER)
        memory.add(ZEBRA | {"id": WALRUS["id"]}, user_id=USER)
        sleeper.wake.set()
        assert eventually(lambda: memory.stats()["pending"] == 0)
        entry = memory.get(WALRUS["id"], user_id=USER)
        assert entry is not None
        assert entry.embedding is not None
        np.testing.assert_allclose(entry.embedding, HashEmbedder().embed([ZEBRA["content"]])[0], atol=1e-6)


# ---------------------------------------------------------------------- any one call
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 4)),
        st.tuples(st.just("again"), st.just(0)),
        st.tuples(st.just("search"), st.just(0)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("forget"), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


def run(operations: list[tuple[str, int]], embedder: FlakyEmbedder) -> None:
    """Do the operations, then flush, and check that nothing was lost, doubled or left undone."""
    with LightMem(":memory:", embedder=embedder) as memory:
        said: dict[str, str] = {}
        for number, (name, size) in enumerate(operations):
            if name == "add":
                ids = [f"{number}-{i}" for i in range(size)]
                messages = [{"role": "user", "id": i, "content": f"Remark number {i}."} for i in ids]
                result = memory.add(messages, user_id=USER)
                assert (result.ids, result.added) == (tuple(ids), size)
                said.update((m["id"], m["content"]) for m in messages)
            elif name == "again" and said:
                messages = [{"role": "user", "id": i, "content": text} for i, text in said.items()]
                assert memory.add(messages, user_id=USER).added == 0
            elif name == "search":
                assert len(memory.search("remark number", user_id=USER, k=100)) == len(said)
            elif name == "flush":
                flush(memory)
            elif name == "forget" and said:
                oldest = next(iter(said))
                assert memory.forget(user_id=USER, ids=[oldest]).entries == 1
                del said[oldest]
        flush(memory)
        assert {e.source_messages[0]: e.memory for e in memory.list(user_id=USER, limit=1000)} == said
        assert_complete(memory)
        for i, text in said.items():
            entry = memory.get(i, user_id=USER)
            assert entry is not None
            np.testing.assert_allclose(entry.embedding, HashEmbedder().embed([text])[0], atol=1e-6)


def flush(memory: LightMem) -> None:
    """The embedder fails once at most, so that the second attempt must succeed."""
    try:
        memory.flush()
    except EmbedderError:
        memory.flush()


@settings(max_examples=12)
@given(operations=OPERATIONS, fault=st.sampled_from(FAULTS))
def test_no_failure_of_any_one_call_loses_or_doubles_a_turn(operations, fault):
    sound = FlakyEmbedder()
    run(operations, sound)
    for number in range(sound.calls):
        run(operations, FlakyEmbedder(fail_on={number}, fault=fault))


@settings(max_examples=12)
@given(operations=OPERATIONS, fault=st.sampled_from(FAULTS), failing=st.sets(st.integers(0, 12), max_size=8))
def test_failures_of_several_calls_are_made_good_in_the_end(operations, fault, failing):
    """With several failures ``flush`` may need several attempts, but each takes it further."""
    embedder = FlakyEmbedder(fail_on=failing, fault=fault)
    with LightMem(":memory:", embedder=embedder) as memory:
        for number, (name, size) in enumerate(operations):
            if name == "add":
                memory.add([f"Remark {number} {i}." for i in range(size)], user_id=USER)
        for _ in range(len(failing) + 1):
            try:
                memory.flush()
            except EmbedderError:
                continue
            break
        assert memory.stats()["rows"]["turns"] == sum(size for _, size in operations)
        assert_complete(memory)
