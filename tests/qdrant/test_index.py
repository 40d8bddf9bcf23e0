"""Memory with its index in Qdrant: local in memory, local in a folder, and on a server."""

from __future__ import annotations

import gc
import json
import re
import socket
import uuid
import warnings
from functools import partialmethod
from threading import Thread
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from lightmem_integrations import Filter, LightMem
from lightmem_integrations.errors import (
    EmbedderMismatchError,
    IndexUnavailableError,
    StorageError,
    UsageError,
)
from lightmem_integrations.stores.qdrant import collection as collections
from lightmem_integrations.stores.qdrant import connection as connections
from lightmem_integrations.stores.qdrant import points, projection
from lightmem_integrations.stores.sql import outbox
from lightmem_integrations.testing import FlakyEmbedder, HashEmbedder
from tests.qdrant.conftest import projection_of

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

CATS = [{"role": "user", "content": f"My cat number {n} is called Miso{n}.", "id": f"m{n}"} for n in range(12)]
DOWN = "http://127.0.0.1:9"  # nobody listens there


def texts(hits) -> list[str]:
    return [hit.entry.memory for hit in hits]


def reasons(hits) -> set[str]:
    return {str(hit.parts.get("reason", "")) for hit in hits}


def stored(memory: LightMem) -> list[Any]:
    """Every point, with payload and vectors."""
    asked = projection_of(memory).collection
    found, _ = asked.connection(
        lambda client: client.scroll(asked.alias, limit=1_000, with_payload=True, with_vectors=True)
    )
    return found


def finding(memory: LightMem, *, repair: bool = False) -> Any:
    (found,) = (f for f in memory.doctor(repair=repair).findings if f.name == "qdrant")
    return found


# ------------------------------------------------------------------------------ what is written is there
def test_what_was_said_is_found_at_once(opened, address):
    memory = opened(address)
    for message in CATS[:3]:
        assert memory.add(message, user_id="ana").errors == ()
        hits = memory.search(message["content"], user_id="ana")
        assert texts(hits)[0] == message["content"]
        assert reasons(hits) == {""}
    assert memory.search("Miso1", user_id="ben") == []
    assert finding(memory).ok


def test_facts_and_turns_are_found_as_by_the_exact_index(opened, address, tmp_path):
    said = ["I moved to Bergen in March 2023.", "Oh, nice! Do you like it?", "I work as a nurse at the hospital."]
    said += ["We have two cats, Miso and Tofu.", "My sister Ella lives in Oslo.", "I play the guitar every Sunday."]
    inside, outside = (
        opened(where, at=tmp_path / f"{bool(where)}.db", memory_manager="extractive") for where in (None, address)
    )
    for memory in (inside, outside):
        memory.add([{"role": "user", "content": text, "id": str(n)} for n, text in enumerate(said)], user_id="ana")
        memory.flush()
    for kinds in (("turn",), ("fact",), ("turn", "fact", "segment")):
        for query in ("Where does Ella live?", "cats", "What is my job?"):
            found = [
                {h.entry.id: h.score for h in memory.search(query, user_id="ana", k=50, filter=Filter(kinds=kinds))}
                for memory in (inside, outside)
            ]
            assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert reasons(outside.search("cats", user_id="ana")) == {""}


def test_what_was_forgotten_is_gone_from_qdrant_at_once(opened, address):
    memory = opened(address)
    memory.add(CATS, user_id="ana", session_id="s1")
    memory.add("Ben has a dog.", user_id="ben")
    assert len(stored(memory)) == 13
    memory.forget(user_id="ana", ids=["m3", "m4"])
    assert {str(p.id) for p in stored(memory) if p.payload["user_id"] == "ana"} == {
        e.id for e in memory.list(user_id="ana")
    }
    memory.forget(user_id="ana")
    assert [p.payload["user_id"] for p in stored(memory)] == ["ben"]
    assert memory.search("Miso3", user_id="ana") == []


def test_what_expired_is_gone_from_qdrant_after_a_sweep(opened, address):
    from datetime import timedelta

    memory = opened(address)
    memory.add("The code is 1234.", user_id="ana", ttl=timedelta(microseconds=1))
    memory.add("The cat is Miso.", user_id="ana")
    assert texts(memory.search("code", user_id="ana")) == ["The cat is Miso."]
    memory.sweep()
    assert len(stored(memory)) == 1


def test_a_user_with_more_than_is_told_in_line_is_forgotten_at_once(opened, address, monkeypatch):
    in_line = partialmethod(projection.Projection.catch_up, most=5)
    monkeypatch.setattr(projection.Projection, "catch_up", in_line)
    monkeypatch.setattr(projection, "CLAIM_ROWS", 4)
    memory = opened(address)
    result = memory.add(CATS, user_id="ana")
    assert "has yet to learn" in result.errors[0]
    hits = memory.search("Miso7", user_id="ana", k=1)
    assert texts(hits) == [CATS[7]["content"]]
    assert "has yet to learn" in reasons(hits).pop()
    memory.flush()
    assert reasons(memory.search("Miso7", user_id="ana")) == {""}
    memory.forget(user_id="ana")
    assert stored(memory) == []


def test_no_text_leaves_the_database(opened, address):
    memory = opened(address, memory_manager="extractive")
    said = [
        {
            "role": "user",
            "speaker": "Caroline",
            "content": "My sister Ella lives in Bergen.",
            "metadata": {"place": "kitchen"},
        },
        {"role": "assistant", "speaker": "Robot", "content": "Noted: Ella, Bergen.", "metadata": {"importance": 0.5}},
    ]
    memory.add([{"role": "user", **message} for message in said], user_id="u-1", session_id="private-talk")
    memory.flush()
    found = stored(memory)
    assert len(found) >= 2
    shown = [[m["content"], m["speaker"], m["metadata"].get("place")] for m in said]
    words = set(re.findall(r"\w{3,}", json.dumps(shown) + " private talk kitchen")) - {"null"}
    for point in found:
        payload = json.dumps(point.payload)
        assert set(point.payload) <= {"user_id", "revision", "marks", "time", "ends", "importance"}
        assert [word for word in words if word.lower() in payload.lower()] == []


# ------------------------------------------------------------------------------ engines side by side
def test_two_engines_in_one_process_keep_their_own_local_index_right(opened):
    one, two = opened(":memory:"), opened(":memory:")
    for n, message in enumerate(CATS):
        (one, two)[n % 2].add(message, user_id="ana")
        for memory in (one, two):
            hits = memory.search(message["content"], user_id="ana", k=50)
            assert len(hits) == n + 1
            assert reasons(hits) == {""}
    one.forget(user_id="ana", ids=["m0"])
    assert CATS[0]["content"] not in texts(two.search("Miso0", user_id="ana", k=50))


def test_a_folder_is_read_again(opened, tmp_path):
    folder = str(tmp_path / "qdrant")
    memory = opened(folder)
    memory.add(CATS, user_id="ana")
    memory.close()
    again = opened(folder)
    assert projection_of(again).outbox.backlog() == 0
    assert texts(again.search("Miso5", user_id="ana", k=1)) == [CATS[5]["content"]]
    assert finding(again).ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client leaves its lock file open
def test_a_folder_serves_one_engine(opened, tmp_path):
    folder = str(tmp_path / "qdrant")
    opened(folder)
    with pytest.raises(StorageError, match="run a Qdrant server"):
        opened(folder)
    gc.collect()


def test_two_databases_under_one_name_are_refused(opened, tmp_path):
    folder = str(tmp_path / "qdrant")
    opened(folder, at=tmp_path / "one.db").close()
    with pytest.raises(EmbedderMismatchError, match=r"made for another database.*qdrant_collection of its own"):
        opened(folder, at=tmp_path / "two.db")
    assert reasons(opened(folder, at=tmp_path / "one.db").search("x", user_id="ana")) <= {""}


def test_another_name_for_a_database_is_refused(opened, tmp_path):
    folder = str(tmp_path / "qdrant")
    opened(folder).close()
    with pytest.raises(StorageError, match="reindex --to qdrant"):
        opened(folder, qdrant_collection="another")


def test_without_an_embedder_words_are_found(opened, address):
    memory = opened(address, embedder="none")
    memory.add(CATS, user_id="ana")
    hits = memory.search("Miso4", user_id="ana", k=1)
    assert texts(hits) == [CATS[4]["content"]]
    assert reasons(hits) == {"no embedder"}
    assert finding(memory).ok


class Undeclared:
    """An embedder that does not say how long its vectors are, and breaks."""

    broken = False

    def embed(self, texts):
        if self.broken:
            raise RuntimeError("broken on purpose")
        return HashEmbedder().embed(texts)


def test_the_length_of_vectors_may_be_unknown_at_first(opened, address):
    embedder = Undeclared()
    memory = opened(address, embedder=embedder)
    assert memory.search("Miso", user_id="ana") == []
    assert "nothing is encoded yet" in finding(memory).detail
    embedder.broken = True
    assert memory.add(CATS, user_id="ana").pending == len(CATS)
    assert texts(memory.search("Miso4", user_id="ana", k=1)) == [CATS[4]["content"]]
    embedder.broken = False
    memory.flush()
    assert reasons(memory.search("Miso4", user_id="ana")) == {"no token vectors"}
    assert len(stored(memory)) == len(CATS)
    assert finding(memory).ok


# ------------------------------------------------------------------------------ Qdrant says something else
def test_points_that_somebody_wrote_never_surface_and_are_removed(opened, address):
    from qdrant_client import models as m

    memory = opened(address)
    memory.add(CATS, user_id="ana")
    memory.add("Ben has a secret dog.", user_id="ben")
    asked = projection_of(memory).collection
    bens = next(p for p in stored(memory) if p.payload["user_id"] == "ben")
    anas = next(p for p in stored(memory) if p.payload["user_id"] == "ana")
    mine = {**anas.payload, "user_id": "ana"}
    forged = [
        m.PointStruct(id=str(uuid.uuid4()), vector=anas.vector, payload=mine),  # of no entry
        m.PointStruct(id=5, vector=anas.vector, payload={}),  # says nothing
        m.PointStruct(id=bens.id, vector=bens.vector, payload={**bens.payload, "user_id": "ana"}),  # of somebody else
        m.PointStruct(id=anas.id, vector=bens.vector, payload={**mine, "revision": 0}),  # outdated
    ]
    asked.connection(lambda client: client.upsert(asked.alias, forged, wait=True))
    found = finding(memory)
    assert (found.ok, found.detail) == (
        False,
        "5 entries are missing, outdated or left over; repair mends that",
    )
    for query in ("secret dog", "Miso1"):
        hits = memory.search(query, user_id="ana", k=50)
        assert set(texts(hits)) == {message["content"] for message in CATS}
    assert finding(memory, repair=True).ok
    assert finding(memory).ok
    assert sorted(p.payload["user_id"] for p in stored(memory)) == ["ana"] * len(CATS) + ["ben"]
    assert texts(memory.search("secret dog", user_id="ben")) == ["Ben has a secret dog."]


def test_what_is_missing_is_told_and_mended(opened, address):
    memory = opened(address)
    memory.add(CATS, user_id="ana")
    asked = projection_of(memory).collection
    asked.delete([str(p.id) for p in stored(memory)[:3]])
    assert "3 entries are missing" in finding(memory).detail
    assert finding(memory, repair=True).repaired == 3
    assert len(stored(memory)) == len(CATS)


def test_what_is_found_and_gone_is_removed(opened, address):
    from qdrant_client import models as m

    memory = opened(address)
    memory.add(CATS, user_id="ana")
    one = stored(memory)[0]
    asked = projection_of(memory).collection
    orphan = m.PointStruct(id=str(uuid.uuid4()), vector=one.vector, payload=one.payload)
    asked.connection(lambda client: client.upsert(asked.alias, [orphan], wait=True))
    memory.search("Miso", user_id="ana", k=50)
    memory.search("Miso", user_id="ana", k=50)
    assert len(stored(memory)) == len(CATS)


def test_an_entry_that_is_refused_keeps_no_other_waiting(opened, address, monkeypatch):
    make = points.point
    poison = "Miso3"

    def spoiled(projected):
        made = make(projected)
        if poison in projected.row.memory:
            made.vector["dense"] = [[1.0, 2.0]]
        return made

    monkeypatch.setattr(collections, "point", spoiled)
    memory = opened(address)
    memory.add(CATS, user_id="ana")
    memory.add("Ben has a dog.", user_id="ben")
    assert len(stored(memory)) == len(CATS)
    hits = memory.search("Miso3", user_id="ana", k=50)
    assert texts(hits)[0] == CATS[3]["content"]
    assert len(hits) == len(CATS)
    assert reasons(hits) == {"Qdrant refused 2 changes; `lightmem doctor` tells why"}
    assert reasons(memory.search("dog", user_id="ben")) == {""}
    found = finding(memory)
    assert not found.ok
    assert "2 changes were refused: Qdrant at" in found.detail
    assert not finding(memory, repair=True).ok
    monkeypatch.setattr(collections, "point", make)
    assert finding(memory, repair=True).ok
    assert len(stored(memory)) == len(CATS) + 1
    assert reasons(memory.search("Miso3", user_id="ana")) == {""}


def test_what_cannot_be_told_apart_waits_for_anybody(opened, monkeypatch):
    memory = opened(":memory:")
    mine = projection_of(memory)

    def away(*args, **kwargs):
        raise StorageError("odd answers")

    with monkeypatch.context() as patch:
        patch.setattr(mine.collection, "upsert", away)
        patch.setattr(mine.collection, "current", away)
        memory.add(CATS, user_id="ana")
    assert mine.outbox.parked() == 0
    other = outbox.SqlOutbox(memory._store)
    assert len(other.claim("ana", 1_000).entries) == len(CATS)


def test_local_mode_warns_and_then_refuses(opened, monkeypatch):
    monkeypatch.setattr(collections, "LOCAL_COMFORT", 4)
    monkeypatch.setattr(collections, "LOCAL_MOST", 8)
    monkeypatch.setattr(projection, "REST_SECONDS", 0.0)
    memory = opened(":memory:")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for message in CATS[:8]:
            assert memory.add(message, user_id="ana").errors == ()
    warnings.simplefilter("ignore")
    assert ["Run a Qdrant server" in str(warning.message) for warning in told] == [True]
    (error,) = memory.add(CATS[8:], user_id="ana").errors
    assert "no more than 8 entries; it has 8" in error
    hits = memory.search("Miso11", user_id="ana", k=50)
    assert texts(hits)[0] == CATS[11]["content"]
    assert len(hits) == len(CATS)
    assert "no more than 8" in reasons(hits).pop()
    with pytest.raises(IndexUnavailableError, match="no more than 8"):
        memory.flush()
    assert not finding(memory).ok
    memory.forget(user_id="ana", ids=[message["id"] for message in CATS[:6]])
    memory.flush()
    assert finding(memory).ok
    assert reasons(memory.search("Miso11", user_id="ana")) == {""}


# ------------------------------------------------------------------------------ Qdrant is away
@pytest.mark.parametrize("grpc", [True, False])
def test_a_server_that_is_not_there_keeps_nobody_waiting(opened, caplog, grpc):
    memory = opened(DOWN, qdrant_grpc=grpc)
    assert "cannot be reached" in caplog.text
    (error,) = memory.add(CATS, user_id="ana").errors
    assert "What was written is safe" in error
    hits = memory.search("Miso4", user_id="ana", k=1)
    assert texts(hits) == [CATS[4]["content"]]
    assert reasons(hits).pop().startswith(f"searched without Qdrant: Qdrant at {DOWN} cannot be reached")
    assert memory.forget(user_id="ana", ids=["m4"]).entries == 1
    with pytest.raises(IndexUnavailableError):
        memory.flush()
    assert not finding(memory).ok
    assert memory.stats()["rows"]["turns"] == len(CATS) - 1


def test_a_memory_too_large_for_the_database_alone_is_an_error_that_says_so(opened, monkeypatch):
    from lightmem_integrations.stores.qdrant import index

    monkeypatch.setattr(index, "EXACT_MOST", 5)
    memory = opened(DOWN)
    memory.add(CATS, user_id="ana")
    with pytest.raises(IndexUnavailableError, match="12 turns, which is too much"):
        memory.search("Miso4", user_id="ana")


class Silent:
    """A server that accepts connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.accepted: list[socket.socket] = []
        self._thread = Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                self.accepted.append(self._socket.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for connection in self.accepted:
            connection.close()


@pytest.mark.parametrize("grpc", [True, False])
def test_a_server_that_says_nothing_is_waited_for_once(opened, monkeypatch, grpc):
    monkeypatch.setattr(projection, "REST_SECONDS", 600.0)
    silent = Silent()
    try:
        url = f"http://127.0.0.1:{silent.port - 1 if grpc else silent.port}"
        memory = opened(url, qdrant_grpc=grpc, qdrant_timeout_seconds=0.5)
        waited_for = len(silent.accepted)
        assert waited_for > 0
        for message in CATS[:3]:
            memory.add(message, user_id="ana")
            assert texts(memory.search(message["content"], user_id="ana", k=1)) == [message["content"]]
        assert len(silent.accepted) == waited_for
        assert grpc or waited_for == 1
    finally:
        silent.close()


def test_many_servers_are_asked_in_turn():
    asked: list[str] = []
    several = connections.Connection(["http://127.0.0.1:9", "http://127.0.0.1:7", "http://127.0.0.1:5"])
    several._make = [lambda n=n: n for n in range(3)]

    def call(client):
        asked.append(client)
        if client != 2:
            raise ConnectionRefusedError("nobody there")
        return "well"

    assert several(call) == "well"
    assert several(call) == "well"  # the one that answered is asked first
    assert asked == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "urls",
    [
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://ana:secret@127.0.0.1:6333",
        "://",
        ("http://127.0.0.1:6333", ":memory:"),
        (":memory:", "folder"),
    ],
)
def test_an_address_that_is_none_is_an_error_at_opening(opened, urls):
    with pytest.raises(UsageError, match="qdrant"):
        opened(urls)


# ------------------------------------------------------------------------------ the outbox
def test_a_large_backlog_is_not_counted_again_and_again(opened, monkeypatch):
    monkeypatch.setattr(projection, "CLAIM_ROWS", 2)
    memory = opened(":memory:")
    memory.add(CATS, user_id="ana")
    mine = projection_of(memory)
    mine.outbox.enqueue([("ana", entry.id) for entry in memory.list(user_id="ana")])
    mine.outbox.enqueue([("ben", f"gone {n}") for n in range(8)])
    counted, told = [], []
    backlog = outbox.SqlOutbox.backlog
    monkeypatch.setattr(
        outbox.SqlOutbox, "backlog", lambda *args, **kwargs: [counted.append(n := backlog(*args, **kwargs)), n][1]
    )
    mine.work(lambda: False, told.append)
    assert (sum(told), backlog(mine.outbox)) == (20, 0)
    assert sum(counted) <= 20


def test_more_than_is_told_in_line_is_left_and_counted(opened):
    memory = opened(":memory:")
    memory.add(CATS, user_id="ana")
    mine = projection_of(memory)
    mine.outbox.enqueue([("ana", f"gone {n}") for n in range(20)])
    assert mine.catch_up("ana", most=7) == 20
    assert mine.catch_up("ana", most=20) == 0


def test_users_of_a_long_outbox_are_found_one_after_the_other(opened, monkeypatch):
    monkeypatch.setattr(outbox, "LOOK_ROWS", 3)
    memory = opened(":memory:")
    memory.add(CATS[:1], user_id="ana")
    mine = projection_of(memory).outbox
    for n in range(9):
        mine.enqueue([(f"user {n % 3}", str(n)), (f"user {n % 3}", f"{n} too")])
    assert mine.users() == ["user 0", "user 1"]
    other = outbox.SqlOutbox(memory._store)
    assert other.claim("user 0", 1) is not None
    assert mine.users() == ["user 1", "user 2"]


def test_vectors_that_come_later_are_told(opened):
    embedder = FlakyEmbedder(fail_on=[0])
    memory = opened(":memory:", embedder=embedder)
    memory.add(CATS[0], user_id="ana")
    assert memory.stats()["pending"] == 1
    memory.flush()
    assert memory.stats()["pending"] == 0
    assert finding(memory).ok
    assert "dense" in stored(memory)[0].vector


def test_a_rebuild_reads_by_page_and_not_by_user(opened, monkeypatch):
    memory = opened(":memory:")
    for n in range(40):
        memory.add(f"User {n} has a cat.", user_id=f"user {n}")
    seen: list[str] = []
    engine = memory._store._engine
    event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    assert projection_of(memory).rebuild() == 40
    assert sum("passages.vector" in statement for statement in seen) == 1
    assert finding(memory).ok


def test_without_an_index_outside_nothing_is_written_down(opened):
    memory = opened(None)
    memory.add(CATS, user_id="ana")
    assert outbox.SqlOutbox(memory._store).backlog() == 0


def test_rows_of_a_process_that_died_are_taken_over(opened, monkeypatch):
    monkeypatch.setattr(outbox, "_LEASE_US", 300_000)
    memory = opened(":memory:")
    mine = projection_of(memory).outbox
    memory.add(CATS[:2], user_id="ana")
    dead = outbox.SqlOutbox(memory._store)
    mine.enqueue([("ana", stored(memory)[0].id)])
    claim = dead.claim("ana", 9)
    assert claim is not None
    assert mine.claim("ana", 9) is None
    assert mine.users() == []
    memory.flush()
    assert mine.backlog() == 0
    assert not dead.done(claim)


def test_a_claim_that_was_lost_meanwhile_is_told_again(opened, monkeypatch):
    """Somebody slow overwrites what somebody else has told since: it has to be looked at again."""
    memory = opened(":memory:")
    mine = projection_of(memory)
    memory.add(CATS[:1], user_id="ana")
    monkeypatch.setattr(outbox, "_LEASE_US", -1)  # over as soon as it is given
    other = outbox.SqlOutbox(memory._store)
    upsert, told = mine.collection.upsert, []

    def slow(entries, **kwargs):
        if not told:
            theirs = other.claim("ana", 9)
            assert theirs is not None
            assert other.done(theirs)
        told.append(1)
        return upsert(entries, **kwargs)

    monkeypatch.setattr(mine.collection, "upsert", slow)
    mine.outbox.enqueue([("ana", str(stored(memory)[0].id))])
    memory.flush()
    assert len(told) == 2
    assert mine.outbox.backlog() == 0


def test_a_clock_that_went_back_holds_nothing_up(opened, monkeypatch):
    memory = opened(":memory:")
    mine = projection_of(memory).outbox
    memory.add(CATS[:1], user_id="ana")
    ahead = outbox.SqlOutbox(memory._store)
    mine.enqueue([("ana", str(stored(memory)[0].id))])
    now = outbox._now()
    monkeypatch.setattr(outbox, "_now", lambda: now + 3_600_000_000)
    assert ahead.claim("ana", 9) is not None
    monkeypatch.undo()
    assert mine.users() == ["ana"]
    memory.flush()
    assert mine.backlog() == 0


# ------------------------------------------------------------------------------ points
class Row:
    """As much of a row as a point is made of."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__ = {
            "id": str(uuid.uuid4()), "user_id": "ana", "session_id": "s", "kind": "turn", "memory": "Hello world.",
            "role": "user", "speaker": None, "timestamp": "2023-05-20T12:00:00+00:00", "timestamp_us": 0,
            "language": "en", "importance": None, "valid_to_us": None, "expires_at_us": None, "version": 1,
            "by_words": None, "metadata": {}, **fields,
        }  # fmt: skip


def test_batches_are_small():
    short = [outbox.Projected(Row(), np.ones((1, 384), np.float32) / 3) for _ in range(600)]
    draw = np.random.default_rng(1)
    book = " ".join(f"word{n}" for n in range(20_000))
    long = [outbox.Projected(Row(memory=book), draw.normal(size=(1_500, 384)).astype(np.float32)) for _ in range(3)]
    batches = list(points.batches(map(points.point, [*short, *long])))
    assert sum(map(len, batches)) == 603
    for batch in batches:
        assert len(batch) <= 256
        assert len(json.dumps([p.model_dump() for p in batch])) <= 5_000_000


def test_terms_have_the_ids_of_qdrants_own_bm25():
    # fastembed: abs(mmh3.hash(token))
    import mmh3

    assert points.sparse_query({"hello": 1.0}).indices == [abs(mmh3.hash("hello"))]
    made = points.point(outbox.Projected(Row(), np.zeros((0, 0), np.float32)))
    assert {abs(mmh3.hash("hello")), abs(mmh3.hash("world"))} <= set(made.vector["bm25"].indices)
    assert "dense" not in made.vector


def test_equal_metadata_has_equal_marks():
    def marks(value):
        return set(
            points.point(outbox.Projected(Row(metadata={"k": value}), np.zeros((0, 0), np.float32))).payload["marks"]
        )

    for one, other in ((1, 1.0), ([1], [2]), (2**60, 2**61), ({"a": 1}, [3])):
        assert marks(one) == marks(other)  # the truth tells the last three apart
    for one, other in ((1, True), (0, False), (None, "null"), ("1", 1), ("a", "b")):
        assert marks(one) != marks(other)
