"""Threads and processes that write, search and forget at once lose nothing and see no error.

Each worker keeps a ledger of what it was told is stored; the database must hold exactly that in the
end. The default run takes two seconds a case; ``pytest -m slow tests/faults/test_concurrency.py``
takes 30 (about two minutes in all).
"""

from __future__ import annotations

import json
import logging
import runpy
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing.embedders import HashEmbedder

WORKER = runpy.run_path(str(Path(__file__).with_name("worker.py")))
SHARED = WORKER["SHARED"]
LOG = logging.getLogger(__name__)
DURATION = pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.slow)], ids=["short", "long"])


def assert_holds(memory: LightMem, ledgers: list[dict[str, list[str]]]) -> None:
    """Exactly what the ledgers say is there, once, with its vectors."""
    expected = Counter((user, i) for ledger in ledgers for user, ids in ledger.items() for i in ids)
    assert set(expected.values()) == {1}
    users = {user for ledger in ledgers for user in ledger}
    stored = Counter(
        (user, i)
        for user in users
        for entry in memory.list(user_id=user, limit=1_000_000)
        for i in entry.source_messages
    )
    assert stored == expected
    memory.flush()
    report = memory.doctor()
    assert report.ok, report
    stats = memory.stats()
    assert stats["rows"]["turns"] == stats["entries"]["turn"] == stats["rows"]["passages"] == len(stored)
    for user in users:
        found = memory.search("noted today", user_id=user, k=1_000_000)
        assert {i for hit in found for i in hit.source_ids} == {i for whose, i in stored if whose == user}
    LOG.info("%d turns held", len(stored))


def in_threads(work: Callable[[int], dict[str, set[str]]], count: int = 8) -> list[dict[str, list[str]]]:
    """Run in threads that take turns as often as possible; the first error is raised."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(count) as pool:
            done = list(pool.map(work, range(count)))
    finally:
        sys.setswitchinterval(before)
    return [{user: sorted(ids) for user, ids in ledger.items()} for ledger in done]


@pytest.fixture(params=["file", ":memory:"])
def memory(request, tmp_path) -> Iterator[LightMem]:
    path = tmp_path / "memory.db" if request.param == "file" else request.param
    with LightMem(path, embedder=HashEmbedder()) as memory:
        yield memory


@DURATION
def test_eight_threads_on_one_engine(memory, seconds):
    until = time.monotonic() + seconds
    assert_holds(memory, in_threads(lambda n: WORKER["mixed"](memory, f"t{n}", until)))


@DURATION
def test_four_processes_on_one_file(spawn, path, seconds):
    # All open the new file at once, begin together and leave together.
    workers = [spawn("mix", path, f"p{n}", seconds, wait=False) for n in range(4)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(errors for _, errors in told)
    with LightMem(path, embedder=HashEmbedder()) as memory:
        assert_holds(memory, [json.loads(out) for out, _ in told])


def test_many_users_do_not_mix(memory):
    def work(n: int) -> dict[str, set[str]]:
        held = {}
        for i in range(6):
            user = f"user{n}-{i}"
            result = memory.add(WORKER["batch"](user, i), user_id=user)
            hits = memory.search("noted today", user_id=user, k=50)
            assert sorted(h.source_ids[0] for h in hits) == sorted(result.ids)
            assert all(h.entry.user_id == user for h in hits)
            held[user] = set(result.ids)
        return held

    assert_holds(memory, in_threads(work))


def test_working_sets_that_are_dropped_meanwhile_are_read_again(tmp_path):
    """A cache that is too small for the users that are asked for at once."""
    with LightMem(tmp_path / "m.db", LightMemConfig(index_cache_mb=1), embedder=HashEmbedder()) as memory:
        for user in range(4):
            memory.add([f"Remark {i} of {user}." for i in range(600)], user_id=f"u{user}")

        def work(n: int) -> dict[str, set[str]]:
            for i in range(3):
                user = (n + i) % 4
                hits = memory.search(f"remark {n}{i}", user_id=f"u{user}", strategy="bm25", k=20)
                assert {hit.entry.user_id for hit in hits} == {f"u{user}"}
                assert len({hit.entry.id for hit in hits}) == len(hits) == 20
            return {}

        in_threads(work)
        assert memory.stats()["index_cache"]["users"] < 4


def test_all_threads_send_the_same_messages(memory):
    """The same ids from everywhere at once: stored once, acknowledged to all, new to one."""
    batches = [WORKER["batch"]("same", number) for number in range(24)]

    def work(n: int) -> dict[str, set[str]]:
        results = [memory.add(batch, user_id="ana") for batch in batches]
        assert [list(r.ids) for r in results] == [[m["id"] for m in batch] for batch in batches]
        return {str(n): {str(sum(r.added for r in results))}}

    counts = in_threads(work)
    ids = [m["id"] for batch in batches for m in batch]
    assert sum(int(added) for ledger in counts for (added,) in ledger.values()) == len(ids)
    assert_holds(memory, [{"ana": ids}])


def test_seq_of_one_session_is_without_gap_and_repeat(path):
    """Eight threads and two engines write into one session."""
    with LightMem(path, embedder=HashEmbedder()) as one, LightMem(path, embedder=HashEmbedder()) as two:

        def work(n: int) -> dict[str, set[str]]:
            ids = [i for k in range(10) for i in (one, two)[k % 2].add(WORKER["batch"](f"n{n}", k), user_id="ana").ids]
            return {"ana": set(ids)}

        ledgers = in_threads(work)
        assert_holds(one, ledgers)
        assert_holds(two, ledgers)
    with closing(SqlStore(path)) as store, store.reading("ana") as connection:
        numbers = connection.exec_driver_sql("SELECT seq FROM turns ORDER BY seq").scalars().all()
    assert numbers == list(range(len(numbers)))


def test_a_forget_is_seen_at_once_by_all_engines(tmp_path):
    path = tmp_path / "memory.db"
    with LightMem(path, embedder=HashEmbedder()) as one, LightMem(path, embedder=HashEmbedder()) as two:
        for round_ in range(10):
            batch = WORKER["batch"](f"r{round_}", 1)
            one.add(batch, user_id="ana")
            assert len(two.search("noted today", user_id="ana", k=50)) == len(batch)
            if round_ % 2:
                two.forget(user_id="ana")
            else:
                two.forget(user_id="ana", ids=[m["id"] for m in batch])
            assert one.search("noted today", user_id="ana") == []
            assert two.search("noted today", user_id="ana") == []
