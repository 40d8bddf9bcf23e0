"""What only a real server shows: layout, refusals, outages, and processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from lightmem_integrations.bench.candidates import run_candidates
from lightmem_integrations.errors import IndexUnavailableError, StorageError
from lightmem_integrations.stores.qdrant import collection as collections
from lightmem_integrations.stores.qdrant import points, projection
from lightmem_integrations.stores.qdrant.connection import Connection
from lightmem_integrations.testing import HashEmbedder
from tests.bench.test_stores import conversation
from tests.qdrant.conftest import projection_of
from tests.qdrant.test_index import CATS, finding, reasons, stored, texts
from tests.qdrant_servers import OLD, qdrant

pytestmark = [pytest.mark.qdrant_server, pytest.mark.allow_hosts(["127.0.0.1"])]

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture
def url(qdrant_server):
    return qdrant_server.url


@pytest.fixture
def impatient(monkeypatch):
    """Qdrant is asked again at once after it could not be reached."""
    monkeypatch.setattr(projection, "REST_SECONDS", 0.0)


@pytest.fixture
def own_server():
    """A server that a test may stop."""
    with qdrant() as started:
        yield started


# ------------------------------------------------------------------------------ how it is laid out
def test_the_layout(opened, url):
    memory = opened(url)
    memory.add(CATS, user_id="ana")
    asked = projection_of(memory).collection
    assert asked.current() == f"{asked.base}-1"
    assert asked.siblings() == [f"{asked.base}-1"]
    info = asked.connection(lambda client: client.get_collection(asked.alias))
    hnsw, params, schema = info.config.hnsw_config, info.config.params, info.payload_schema
    assert (hnsw.m, hnsw.payload_m) == (0, 16)
    assert params.sparse_vectors["bm25"].modifier == models.Modifier.IDF
    assert (params.vectors["dense"].size, params.vectors["dense"].distance) == (64, models.Distance.COSINE)
    assert set(schema) == {"user_id", "marks", "time", "ends", "importance"}
    assert schema["user_id"].params.is_tenant
    assert [field for field, index in schema.items() if index.params.enable_hnsw is not False] == ["user_id"]
    assert {index.points for field, index in schema.items() if field != "importance"} == {len(CATS)}


def test_strict_mode_refuses_what_has_no_index(opened, url):
    memory = opened(url)
    asked = projection_of(memory).collection
    where = models.Filter(must=[models.FieldCondition(key="text", match=models.MatchValue(value="Miso"))])
    with pytest.raises(StorageError, match="Index required"):
        asked.connection(lambda client: client.scroll(asked.alias, where))
    with pytest.raises(StorageError, match="Limit exceeded"):
        asked.connection(lambda client: client.scroll(asked.alias, limit=100_000))


def test_batches_that_are_sent_are_small(opened, url, monkeypatch):
    sent: list[list[str]] = []
    upsert = QdrantClient.upsert

    def counted(self, name, batch, **kwargs):
        sent.append([p.id for p in batch])
        return upsert(self, name, batch, **kwargs)

    monkeypatch.setattr(QdrantClient, "upsert", counted)
    memory = opened(url)
    memory.add([{"role": "user", "content": f"Number {n}."} for n in range(600)], user_id="ana")
    assert len(set().union(*sent)) == 600
    assert max(map(len, sent)) <= points.BATCH_POINTS


def test_terms_are_those_of_the_servers_own_bm25(opened, url):
    """``qdrant/bm25`` runs in the server: the same ids, so that either may write and the other search."""
    memory = opened(url)
    memory.add("Miso sleeps under the lamp.", user_id="ana")
    asked = projection_of(memory).collection
    client = asked.connection(lambda client: client)
    theirs = QdrantClient(
        url=url, grpc_port=client._client._grpc_port, prefer_grpc=True, cloud_inference=True, check_compatibility=False
    )
    found = theirs.query_points(
        asked.alias,
        query=models.Document(text="miso", model="qdrant/bm25", options={"tokenizer": "word", "language": "none"}),
        using="bm25",
        query_filter=points.of_user("ana"),
    )
    theirs.close()
    assert len(found.points) == 1


def test_a_very_long_text_is_told(opened, url):
    memory = opened(url)
    text = " ".join(f"Sentence number {n} is about topic{n}." for n in range(9_000))
    assert memory.add(text, user_id="ana").errors == ()
    assert len(stored(memory)) == 1
    (hit,) = memory.search("topic8999", user_id="ana")
    assert "reason" not in hit.parts


# ------------------------------------------------------------------------------ engines side by side
def test_engines_see_each_other_at_once(opened, url):
    one, two = opened(url), opened(url, qdrant_grpc=False)
    for n, message in enumerate(CATS):
        (one, two)[n % 2].add(message, user_id="ana")
        for memory in (one, two):
            hits = memory.search(message["content"], user_id="ana", k=50)
            assert texts(hits)[0] == message["content"]
            assert (len(hits), reasons(hits)) == (n + 1, {""})
    one.forget(user_id="ana", ids=["m0"])
    assert CATS[0]["content"] not in texts(two.search("Miso0", user_id="ana", k=50))
    assert len(stored(two)) == len(CATS) - 1


def test_databases_under_one_name_are_refused(opened, url, tmp_path):
    one = opened(url)
    one.add(CATS, user_id="ana")
    with pytest.raises(StorageError, match="made for another database"):
        opened(url, at=tmp_path / "other.db")
    assert len(stored(one)) == len(CATS)
    other = opened(url, at=tmp_path / "other.db", qdrant_collection=f"{one.config.qdrant_collection}-2")
    other.add("Ana has a dog.", user_id="ana")
    assert texts(other.search("Miso", user_id="ana", k=50)) == ["Ana has a dog."]
    assert (len(stored(one)), len(stored(other))) == (len(CATS), 1)
    projection_of(one).rebuild()
    assert (len(stored(one)), len(stored(other))) == (len(CATS), 1)


def test_threads_may_write_to_one_user(opened, url):
    one, two = opened(url), opened(url)
    errors: list[str] = []

    def write(memory, n):
        for i in range(10):
            errors.extend(memory.add(f"Thread {n} says {i}.", user_id="ana").errors)

    threads = [Thread(target=write, args=(memory, n)) for n, memory in enumerate((one, one, two, two))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.flush()
    assert [error for error in errors if "has yet to learn" not in error] == []
    assert list(projection_of(one).differences()) == []
    assert len(stored(one)) == 40


# ------------------------------------------------------------------------------ it refuses
def test_an_old_server_is_refused(opened):
    with qdrant(OLD) as old, pytest.raises(StorageError, match=r"version 1\.16\.3; 1\.17 or newer is needed"):
        opened(old.url)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("grpc", [True, False])
def test_a_wrong_key_is_told_and_nothing_is_lost(opened, tmp_path, grpc, impatient):
    settings = {"QDRANT__SERVICE__API_KEY": "right", "QDRANT__SERVICE__READ_ONLY_API_KEY": "looking"}
    with qdrant(settings=settings) as guarded:
        for key in (None, "wrong", "looking"):
            memory = opened(guarded.url, qdrant_api_key=key, qdrant_grpc=grpc)
            (error,) = memory.add({"role": "user", "content": "A cat.", "id": str(key)}, user_id="ana").errors
            assert "qdrant_api_key" in error
            assert str(key) == "None" or str(key) not in error
            assert "qdrant_api_key" in reasons(memory.search("cat", user_id="ana")).pop()
            memory.close()
        memory = opened(guarded.url, qdrant_api_key="right", qdrant_grpc=grpc)
        hits = memory.search("cat", user_id="ana")
        assert (len(hits), reasons(hits)) == (3, {""})
        assert finding(memory).ok


def test_a_collection_of_another_length_is_refused(opened, url):
    memory = opened(url)
    memory.add(CATS, user_id="ana")
    asked = projection_of(memory).collection
    asked.remove()
    asked.publish(asked.make(7))
    hits = memory.search("Miso4", user_id="ana", k=1)
    assert texts(hits) == [CATS[4]["content"]]
    with pytest.raises(IndexUnavailableError, match="length 7, and the embedder gives 64"):
        memory.flush()
    assert "length 7" in finding(memory).detail
    memory.close()
    with pytest.raises(StorageError, match=r"length 7.*reindex"):
        opened(url)


def test_a_collection_that_somebody_removed_is_made_again(opened, url):
    memory = opened(url)
    memory.add(CATS, user_id="ana")
    projection_of(memory).collection.remove()
    for _ in range(3):
        assert texts(memory.search("Miso4", user_id="ana", k=1)) == [CATS[4]["content"]]
    assert reasons(memory.search("Miso4", user_id="ana")) == {""}
    projection_of(memory).collection.remove()
    memory.add("One more.", user_id="ana")
    memory.flush()
    assert len(stored(memory)) == len(CATS) + 1
    assert finding(memory).ok


# ------------------------------------------------------------------------------ it is away
def test_away_at_opening_and_back(opened, own_server, impatient):
    own_server.stop()
    memory = opened(own_server.url)
    assert "What was written is safe" in memory.add(CATS, user_id="ana").errors[0]
    assert "searched without Qdrant" in reasons(memory.search("Miso4", user_id="ana")).pop()
    own_server.start()
    assert texts(memory.search("Miso4", user_id="ana", k=1)) == [CATS[4]["content"]]
    wait_for(lambda: reasons(memory.search("Miso4", user_id="ana")) == {""})
    assert len(stored(memory)) == len(CATS)
    assert finding(memory).ok


@pytest.mark.parametrize("grpc", [True, False])
def test_away_while_writing_and_back(opened, own_server, impatient, grpc):
    memory = opened(own_server.url, qdrant_grpc=grpc)
    memory.add(CATS[:4], user_id="ana")
    own_server.kill()
    assert memory.add(CATS[4:8], user_id="ana").errors
    memory.forget(user_id="ana", ids=["m0"])
    hits = memory.search("Miso5", user_id="ana", k=50)
    assert texts(hits)[0] == CATS[5]["content"]
    assert len(hits) == 7
    assert "searched without Qdrant" in reasons(hits).pop()
    assert not finding(memory).ok
    own_server.start()
    wait_for(lambda: reasons(memory.search("Miso5", user_id="ana")) == {""})
    memory.add(CATS[8:], user_id="ana")
    assert len(stored(memory)) == len(CATS) - 1
    assert finding(memory).ok


def test_a_server_that_hangs_is_waited_for_once(opened, own_server, monkeypatch):
    monkeypatch.setattr(projection, "REST_SECONDS", 600.0)
    memory = opened(own_server.url, qdrant_timeout_seconds=1)
    memory.add(CATS, user_id="ana")
    calls: list[float] = []
    query = QdrantClient.query_batch_points
    monkeypatch.setattr(QdrantClient, "query_batch_points", lambda *a, **k: [calls.append(1), query(*a, **k)][1])
    assert own_server._process is not None
    own_server._process.send_signal(signal.SIGSTOP)
    try:
        for n in range(3):
            hits = memory.search(f"Miso{n}", user_id="ana", k=1)
            assert texts(hits) == [CATS[n]["content"]]
            assert "searched without Qdrant" in reasons(hits).pop()
        assert len(calls) == 1
    finally:
        own_server._process.send_signal(signal.SIGCONT)
    projection_of(memory).wake()
    wait_for(lambda: reasons(memory.search("Miso5", user_id="ana")) == {""})


def wait_for(holds, what: str = "it does not recover") -> None:
    limit = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


# ------------------------------------------------------------------------------ making anew
def test_searches_go_on_while_a_collection_is_made_anew(opened, url, monkeypatch):
    monkeypatch.setattr(projection, "PAGE", 5)
    memory, other = opened(url), opened(url)
    memory.add(CATS, user_id="ana")
    mine = projection_of(memory)
    before = mine.collection.current()
    seen: list[int] = []

    def meanwhile(done: int, total: int) -> None:
        other.add(f"Said after {done}.", user_id="ben")
        other.forget(user_id="ana", ids=[f"m{done}"])
        hits = other.search("Miso11", user_id="ana", k=1)
        assert texts(hits) == [CATS[11]["content"]]
        assert reasons(hits) == {""}
        seen.append(done)

    mine.rebuild(meanwhile)
    assert len(seen) >= 3
    after = mine.collection.current()
    assert (before, after) == (f"{mine.collection.base}-1", f"{mine.collection.base}-2")
    assert mine.collection.siblings() == [after]
    assert list(mine.differences()) == []
    assert len(other.search("Said", user_id="ben", k=50)) == len(seen)


def test_a_rebuild_that_was_killed_goes_on(opened, url, monkeypatch):
    monkeypatch.setattr(projection, "PAGE", 5)
    memory = opened(url)
    memory.add(CATS, user_id="ana")

    def killed(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        projection_of(memory).rebuild(killed)
    assert texts(memory.search("Miso11", user_id="ana", k=1)) == [CATS[11]["content"]]
    assert projection_of(memory).rebuild() == len(CATS) - 5
    assert len(projection_of(memory).collection.siblings()) == 1
    assert finding(memory).ok


# ------------------------------------------------------------------------------ killed
def test_killed_writers_leave_nothing_wrong(opened, url, path, name):
    """Six processes are killed while they write, forget and search: what was acknowledged is there, and no more."""
    draw = random.Random(6)
    said: dict[str, set[str]] = {"ann": set(), "bob": set()}
    gone: set[str] = set()
    opened(url).close()
    for kill in range(6):
        who = ("ann", "bob")[kill % 2]
        command = [sys.executable, str(WORKER), str(path), url, name, who, str(1_000 * kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines: list[str] = []
            reader = Thread(target=lambda p=process, into=lines: into.extend(p.stdout))
            reader.start()
            wait_for(lambda p=process, said=lines: len(said) > 8 or p.poll() is not None, "the writer gets nowhere")
            time.sleep(draw.uniform(0, 0.3))
            assert process.poll() is None, process.stderr
            os.kill(process.pid, signal.SIGKILL)
            reader.join()
        for line in lines:
            if line.endswith("\n") and line[0] in "+-":
                (said[who] if line[0] == "+" else gone).update(line.split()[1:])
    memory = opened(url)
    memory.flush()
    for who, ids in said.items():
        there = {e.source_messages[0] for e in memory.list(user_id=who, limit=100_000)}
        assert ids - there <= gone
        last = max(ids & there)
        assert memory.search(f"marker{last.replace('-', 'x')}", user_id=who, k=1)[0].source_ids == (last,)
    assert min(map(len, said.values())) > 10
    assert list(projection_of(memory).differences()) == []
    assert finding(memory).ok


def test_points_hold_what_is_told_and_no_more(opened, url):
    memory = opened(url)
    memory.add(CATS, user_id="ana")
    (one, *_) = stored(memory)
    assert np.asarray(one.vector["dense"]).shape == (1, 64)
    assert collections.LAYOUT == 1
    assert set(one.vector) == {"dense", "bm25"}


def test_candidates_of_a_server_are_compared_with_exact_search(qdrant_server):
    table = run_candidates([conversation()], (qdrant_server.url,), [(2, 4), (50, 100)], embedder=HashEmbedder())
    found = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["late, recall@10"] for row in found] == ["1.000", "1.000", "1.000"]
    with closing(Connection((qdrant_server.url,))) as connection:
        left = connection(lambda client: client.get_collections()).collections
    assert not any("candidates" in collection.name for collection in left)
