"""Three servers, four shards, two replicas of each; and one of the three goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest

from lightmem_integrations.errors import StorageError
from lightmem_integrations.stores.qdrant import collection as collections
from tests.qdrant.conftest import projection_of
from tests.qdrant.test_index import CATS, finding, reasons, stored, texts
from tests.qdrant_servers import cluster

pytestmark = [pytest.mark.qdrant_cluster, pytest.mark.allow_hosts(["127.0.0.1"])]

LOG = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def peers():
    with cluster() as started:
        yield started


@pytest.fixture(autouse=True)
def _quiet_client(caplog):
    """What is logged here is not lost among the requests of doctor."""
    caplog.set_level(logging.WARNING, logger="httpx")


@pytest.fixture
def urls(peers):
    for peer in peers:
        if not peer.is_ready():
            peer.start()
    return tuple(peer.url for peer in peers)


def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until something holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, what
        time.sleep(0.1)


def all_grow(lists: list[list[Any]], by: int = 10) -> Callable[[], bool]:
    """Whether each has got that much longer since."""
    lengths = [len(each) + by for each in lists]
    return lambda: all(len(each) >= length for each, length in zip(lists, lengths, strict=True))


def test_the_preset(opened, urls):
    memory = opened(urls, qdrant_preset="cluster")
    memory.add(CATS, user_id="ana")
    asked = projection_of(memory).collection
    params = asked.connection(lambda client: client.get_collection(asked.alias)).config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (4, 2, 1)
    found = finding(memory)
    assert found.ok
    assert "3 peers, 8 replicas of 4 shards" in found.detail
    assert reasons(memory.search("Miso4", user_id="ana")) == {""}


def test_one_replica_is_refused(opened, urls):
    memory = opened(urls)
    memory.add(CATS, user_id="ana")
    memory.close()
    with pytest.raises(StorageError, match=r"replication factor 1.*reindex --to qdrant"):
        opened(urls, qdrant_preset="cluster")


def test_one_replica_is_told_by_doctor(opened, urls, monkeypatch):
    memory = opened(urls, qdrant_preset="cluster")
    monkeypatch.setattr(collections, "REPLICAS", 3)
    found = finding(memory)
    assert not found.ok
    assert "replication is 2" in found.detail


def test_an_engine_opens_with_a_server_down(opened, peers, urls):
    opened(urls, qdrant_preset="cluster").add(CATS, user_id="ana")
    peers[0].kill()
    memory = opened(urls, qdrant_preset="cluster")
    hits = memory.search("Miso4", user_id="ana", k=1)
    assert (texts(hits), reasons(hits)) == ([CATS[4]["content"]], {""})


def test_one_of_three_goes_while_everybody_reads_and_writes(opened, peers, urls):
    """No read fails or is answered without Qdrant, no write is lost, and the peer comes back by itself."""
    memories = [opened(urls[n:] + urls[:n], qdrant_preset="cluster") for n in range(3)]
    for n, memory in enumerate(memories):
        memory.add(f"Client {n} said marker{n}x0.", user_id=f"u{n}")
    stop = Event()
    reads: dict[int, list[tuple[bool, float, str]]] = {n: [] for n in range(3)}
    acknowledged: dict[int, list[str]] = {n: [f"marker{n}x0"] for n in range(3)}
    failures: list[str] = []

    def read(n: int) -> None:
        while not stop.is_set():
            word, began = acknowledged[n][-1], time.monotonic()
            try:
                hits = memories[n].search(word, user_id=f"u{n}", k=20)
            except StorageError as error:
                failures.append(str(error))
                continue
            found = any(word in text for text in texts(hits))
            reads[n].append((found, time.monotonic() - began, "".join(reasons(hits))))

    def write(n: int) -> None:
        i = 0
        while not stop.is_set():
            i += 1
            word = f"marker{n}x{i}"
            errors = memories[n].add(f"Client {n} said {word}.", user_id=f"u{n}").errors
            failures.extend(error for error in errors if "somebody" not in error and "yet to learn" not in error)
            acknowledged[n].append(word)
            time.sleep(0.01)

    one, done = memories[0], [*reads.values(), *acknowledged.values()]
    threads = [Thread(target=work, args=(n,)) for n in range(3) for work in (read, write)]
    for thread in threads:
        thread.start()
    try:
        until(all_grow(done), "somebody gets nowhere")
        peers[1].kill()
        until(lambda: "Dead" in finding(one).detail, "a dead replica is not told")
        until(all_grow(done), "somebody gets nowhere without the peer")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    answers = [answer for each in reads.values() for answer in each]
    without = [reason for _, _, reason in answers if reason]
    LOG.info(
        "%d reads, longest %.2f s, %d answered without Qdrant; %d writes acknowledged",
        len(answers), max(took for _, took, _ in answers), len(without), sum(map(len, acknowledged.values())),
    )  # fmt: skip
    assert failures == []
    assert all(found for found, _, _ in answers)

    one.flush()
    differing = list(projection_of(one).differences())
    assert differing == []
    assert not finding(one).ok
    began = time.monotonic()
    peers[1].start()
    until(lambda: finding(one).ok, "the peer does not recover")
    took = time.monotonic() - began
    LOG.info("all replicas active %.1f s after the peer was started: %s", took, finding(one).detail)
    for n, words in acknowledged.items():
        there = " ".join(e.memory for e in one.list(user_id=f"u{n}", limit=100_000))
        assert [word for word in words if f"{word}." not in there] == []
    assert len(stored(one)) == min(1_000, sum(map(len, acknowledged.values())))
