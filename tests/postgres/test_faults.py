"""Faults of a server: told in our words, without the password; nothing acknowledged is lost; the next call works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from sqlalchemy import event

from lightmem_integrations import Filter, LightMem, LightMemConfig
from lightmem_integrations.errors import CorruptDataError, StorageBusyError, StorageError, UsageError
from lightmem_integrations.stores.sql.migrations import write_meta
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import HashEmbedder
from tests.servers import OWNER, PLAIN, PostgreSQL, postgresql

pytestmark = pytest.mark.postgres

USER = "ana"
QUICK = LightMemConfig(busy_timeout_seconds=0.2)


def open_memory(url: str, config: LightMemConfig | None = None) -> LightMem:
    return LightMem(url, config, embedder=HashEmbedder())


def message(number: int, size: int = 1) -> dict[str, str]:
    return {"role": "user", "id": f"m{number}", "content": f"Remark number{number}. " + "It goes on and on. " * size}


def ids(memory: LightMem) -> list[str]:
    return [entry.source_messages[0] for entry in memory.list(user_id=USER, limit=100_000)]


def assert_sound(memory: LightMem, expected: list[str]) -> None:
    """Exactly the expected turns are there, encoded, found, and the memory takes new ones."""
    memory.doctor(repair=True)
    assert memory.doctor().ok
    assert sorted(ids(memory)) == sorted(expected)
    for i in expected[-1:]:
        assert memory.search(f"number{i[1:]}", user_id=USER, k=1)[0].source_ids == (i,)
    assert memory.add("One more.", user_id=USER).pending == 0


# ---------------------------------------------------------------------- no connection
@pytest.mark.parametrize(
    ("url", "kind", "told"),
    [
        ("postgresql+psycopg://{}:s3cret@127.0.0.1:1/x", StorageError, "cannot be reached.*Check host and port"),
        pytest.param(
            *("postgresql+psycopg://{}:s3cret@host.invalid/x", StorageError, "cannot be reached.*Check host and port"),
            marks=pytest.mark.enable_socket,  # psycopg resolves names in Python
        ),
        ("postgresql+psycopg://{}:s3cret@127.0.0.1:{}/nosuch", StorageError, "is not there.*createdb"),
        ("postgresql://{}:s3cret@127.0.0.1:{}/nosuch", StorageError, "is not there.*createdb"),
        ("postgresql+psycopg://nosuch:s3cret@127.0.0.1:{1}/postgres", StorageError, "refuses this user or password"),
        ("postgresql+psycopg2://{}:s3cret@127.0.0.1:{}/x", UsageError, r"must begin with postgresql\+psycopg://"),
        ("postgresql+psycopg://{}:s3cret@127.0.0.1:port/x", UsageError, "must be a file path or a database URL"),
        ("postgresql://{}:s3cret@127.0.0.1:{}/x?pool_size=none", UsageError, "pool_size"),
        ("mysql://{}:s3cret@127.0.0.1:{}/x", UsageError, "must name SQLite or PostgreSQL"),
    ],
)
def test_what_cannot_be_opened_is_told_without_the_password(server: PostgreSQL, schemas, url, kind, told):
    schemas.url()  # makes the role
    url = url.format(PLAIN, server.port) if url.count("{}") > 1 or "{1}" in url else url.format(PLAIN)
    with pytest.raises(kind, match=told) as error:
        open_memory(url)
    assert type(error.value) is kind
    assert "s3cret" not in str(error.value)


def test_passwords_in_a_url_are_never_shown(server: PostgreSQL, url):
    with open_memory(url.replace("@", ":s3cret@") + "&sslpassword=hush") as memory:
        shown = repr(memory)
    assert "***" in shown
    assert "s3cret" not in shown
    assert "hush" not in shown


def test_no_connection_left_is_told_and_passes(server: PostgreSQL, url):
    with open_memory(url) as memory:
        server.run(f"ALTER ROLE {PLAIN} CONNECTION LIMIT 1")
        try:
            memory.search("anything", user_id=USER)  # one connection is in the pool
            with pytest.raises(StorageBusyError, match="no connection left"):
                open_memory(url)
        finally:
            server.run(f"ALTER ROLE {PLAIN} CONNECTION LIMIT -1")
        with open_memory(url) as other:
            other.add(message(1), user_id=USER)
        assert ids(memory) == ["m1"]


def test_a_pool_that_is_used_up_is_waited_for_then_told(url):
    with open_memory(f"{url}&pool_size=1", QUICK) as memory:
        memory.add(message(1), user_id=USER)
        with memory._store.reading(USER), pytest.raises(StorageBusyError, match="no free connection"):
            memory.list(user_id=USER)
        assert ids(memory) == ["m1"]


# ---------------------------------------------------------------------- a connection that breaks
@contextmanager
def cut(memory: LightMem, server: PostgreSQL, when: str) -> Iterator[list[str]]:
    """Break the connection of the first write that gets to a statement, or to its commit; lists what was hit."""
    engine: Any = memory._store._engine
    hit: list[str] = []

    def terminate(connection: Any) -> None:
        pid = connection.connection.dbapi_connection.info.backend_pid
        hit.append(when)
        server.run(f"SELECT pg_terminate_backend({pid}, 5000)")

    def at_statement(connection: Any, cursor: object, statement: str, *_: object) -> None:
        if not hit and statement.startswith(when):
            terminate(connection)

    def at_commit(connection: Any) -> None:
        if not hit and connection.get_isolation_level() == "READ COMMITTED":
            terminate(connection)

    target = ("commit", at_commit) if when == "COMMIT" else ("before_cursor_execute", at_statement)
    event.listen(engine, *target)
    try:
        yield hit
    finally:
        event.remove(engine, *target)


@pytest.mark.parametrize("when", ["SELECT set_config", "INSERT INTO users", "INSERT INTO turns", "COMMIT"])
def test_a_connection_that_breaks_in_a_write_loses_nothing(server: PostgreSQL, url, when):
    with open_memory(url) as memory:
        memory.add(message(1), user_id=USER)
        with cut(memory, server, when) as hit, pytest.raises(StorageError, match=r"was lost.*connects anew"):
            memory.add(message(2), user_id=USER)
        assert hit
        assert ids(memory) == ["m1"]
        assert memory.add(message(2), user_id=USER).added == 1
        assert_sound(memory, ["m1", "m2"])


def test_a_connection_that_breaks_while_vectors_are_stored_leaves_the_turn_pending(server: PostgreSQL, url):
    with open_memory(url) as memory:
        with cut(memory, server, "INSERT INTO passages") as hit:
            result = memory.add(message(1), user_id=USER)
        assert hit
        assert (result.added, result.pending) == (1, 1)
        assert_sound(memory, ["m1"])


def test_connections_that_broke_in_the_pool_are_not_noticed(server: PostgreSQL, url):
    with open_memory(url) as memory:
        memory.add(message(1), user_id=USER)
        server.run(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{PLAIN}'")
        assert memory.add(message(2), user_id=USER).pending == 0
        assert_sound(memory, ["m1", "m2"])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_server_that_goes_and_comes_back(how):
    # fsync is off, which matters to a power cut and not to a killed process.
    with postgresql() as server, open_memory(server.url()) as memory:
        memory.add(message(1), user_id=USER)
        server.stop(how)
        for call in (lambda: memory.add(message(2), user_id=USER), lambda: memory.search("remark", user_id=USER)):
            with pytest.raises(StorageError, match=r"cannot be reached|was lost"):
                call()
        server.start()
        assert ids(memory) == ["m1"]
        memory.add(message(2), user_id=USER)
        assert_sound(memory, ["m1", "m2"])


# ---------------------------------------------------------------------- no right, no room, no turn
def test_a_database_that_can_only_be_read(server: PostgreSQL, owner):
    with open_memory(owner) as memory:
        memory.add(message(1), user_id=USER)
    server.run(f"ALTER ROLE {OWNER} SET default_transaction_read_only = on")
    try:
        with open_memory(owner) as memory:
            assert memory.search("remark", user_id=USER)
            with pytest.raises(StorageError, match=r"can only be read.*name the primary"):
                memory.add(message(2), user_id=USER)
    finally:
        server.run(f"ALTER ROLE {OWNER} RESET default_transaction_read_only")
    with open_memory(owner) as memory:
        assert_sound(memory, ["m1"])


def test_a_role_that_may_not_write_is_told_and_harms_nothing(server: PostgreSQL, schema, owner, plain):
    with open_memory(owner) as memory:
        memory.add(message(1), user_id=USER)
        server.run(f"GRANT USAGE ON SCHEMA {schema} TO {PLAIN}")
        server.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {PLAIN}")
        with open_memory(plain) as reader:
            assert reader.search("remark", user_id=USER)
            with pytest.raises(StorageError, match=r"permission denied.*`lightmem db init"):
                reader.add(message(2), user_id=USER)
        assert_sound(memory, ["m1"])


@pytest.fixture
def small_disk(server: PostgreSQL) -> Iterator[Path]:
    """A file system of 3 MB that can grow, which the server may write to."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root to mount a small disk")
    disk = Path(tempfile.mkdtemp(prefix="lightmem-disk-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        disk.rmdir()
        pytest.skip("needs the right to mount a small disk")
    status = server.folder.stat()
    os.chown(disk, status.st_uid, status.st_gid)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
    disk.rmdir()


def fill(memory: LightMem, acknowledged: list[str]) -> None:
    """Add more than there is room for, noting what was accepted."""
    for number in range(0, 4000, 4):
        batch = [message(i, size=30) for i in range(number, number + 4)]
        acknowledged += memory.add(batch, user_id=USER).ids


def test_full_disk_refuses_what_it_cannot_keep_and_keeps_the_rest(server: PostgreSQL, small_disk):
    server.run(f"CREATE TABLESPACE small LOCATION '{small_disk}'", "CREATE ROLE cramped LOGIN")
    server.run("GRANT CREATE ON TABLESPACE small TO cramped", "CREATE SCHEMA small AUTHORIZATION cramped")
    server.run("ALTER ROLE cramped SET default_tablespace = 'small'")
    try:
        with open_memory(server.url(user="cramped", schema="small")) as memory:
            kept: list[str] = []
            with pytest.raises(StorageError, match=r"the disk of .* is full.*Free some space"):
                fill(memory, kept)
            assert kept
            assert sorted(ids(memory)) == sorted(kept)
            assert memory.search(f"number{kept[-1][1:]}", user_id=USER, strategy="bm25")
            subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
            assert memory.add(message(9999), user_id=USER).pending == 0
            assert_sound(memory, [*kept, "m9999"])
    finally:
        server.run("DROP SCHEMA small CASCADE", "DROP OWNED BY cramped", "DROP TABLESPACE small", "DROP ROLE cramped")


@contextmanager
def another_writer(url: str, user: str) -> Iterator[None]:
    """Somebody who is in the middle of a write of this user's."""
    begun, may_end = Event(), Event()

    def write() -> None:
        with closing(SqlStore(url)) as store, store.writing(user):
            begun.set()
            assert may_end.wait(30)

    writer = Thread(target=write)
    writer.start()
    assert begun.wait(30)
    try:
        yield
    finally:
        may_end.set()
        writer.join()


def test_a_writer_of_the_same_user_is_waited_for_then_told(url):
    with open_memory(url, QUICK) as memory:
        memory.add(message(1), user_id=USER)
        with another_writer(url, USER):
            with pytest.raises(StorageBusyError, match=r"locked by another writer.*busy_timeout_seconds"):
                memory.add(message(2), user_id=USER)
            assert ids(memory) == ["m1"]  # readers do not wait
            assert memory.add(message(3), user_id="bob").added == 1  # nor do other users
        memory.add(message(2), user_id=USER)
        assert_sound(memory, ["m1", "m2"])


def test_who_writes_about_everybody_waits_for_all_writers(url):
    with open_memory(url, QUICK) as memory:
        memory.add(message(1), user_id=USER)
        with another_writer(url, "bob"), pytest.raises(StorageBusyError, match="locked"):
            LightMem.reindex(url, QUICK, embedder=HashEmbedder(name="other"))
        assert_sound(memory, ["m1"])


def test_a_deadlock_is_told_to_one_and_not_noticed_by_the_other(url):
    """Maintenance of two hosts, in opposite order; a write of one user's cannot get there."""
    with closing(SqlStore(url)) as store, ThreadPoolExecutor(2) as threads:
        store.write_meta({"a": "", "b": ""})
        meet = Barrier(2)

        def write(keys: str) -> str:
            try:
                with store.writing(None) as connection:
                    for key in keys:
                        write_meta(connection, key, keys)
                        if key == keys[0]:
                            meet.wait()
            except StorageBusyError as error:
                return str(error)
            return "done"

        told = sorted(threads.map(write, ("ab", "ba")))
        assert told[0] == "done"
        assert "in each other's way" in told[1]
        assert store.read_meta("a") == store.read_meta("b")


# ---------------------------------------------------------------------- other tables, odd values, odd clocks
def test_tables_of_something_else_are_refused_and_left_alone(server: PostgreSQL, schema, owner):
    server.run(f"CREATE TABLE {schema}.meta (id int)", f"ALTER TABLE {schema}.meta OWNER TO {OWNER}")
    with pytest.raises(CorruptDataError, match="is a database of something else"):
        open_memory(owner)


def test_numbers_of_metadata_come_back_as_they_were(url):
    numbers = {"large": 1.5e300, "tiny": 5e-324, "whole": 10**30, "zero": -0.0, "nested": [1e16, {"x": 1e22}]}
    said = {"role": "user", "content": "Numbers.", "metadata": numbers}
    with open_memory(url) as memory:
        memory.add(said, user_id=USER)
        assert memory.list(user_id=USER)[0].metadata == numbers


def test_what_no_text_can_hold_is_found_nowhere(url):
    with open_memory(url) as memory:
        memory.add({"role": "user", "content": "Hello.", "speaker": "Eve"}, user_id=USER)
        assert memory.list(user_id=USER, filter=Filter(speakers=["Eve", "E\0ve"]))
        assert memory.list(user_id=USER, filter=Filter(speakers=["E\0ve"])) == []


def test_an_error_with_odd_characters_can_be_noted(url):
    class Odd(HashEmbedder):
        def encode(self, texts, *, query=False):
            raise ValueError("no \0 power \ud800")

    with LightMem(url, embedder=Odd()) as memory:
        assert memory.add(message(1), user_id=USER).pending == 1
        assert any("no \\0 power \\ud800" in finding.detail for finding in memory.doctor().findings)


def test_a_clock_that_goes_back_loses_and_reorders_nothing(url, monkeypatch):
    now = time.time_ns
    with open_memory(url) as memory:
        for number, back in enumerate((0, 3600, 7200)):
            monkeypatch.setattr(time, "time_ns", lambda back=back: now() - back * 10**9)
            said = message(number) | {"timestamp": f"2026-01-01T{12 - number:02}:00:00Z"}
            memory.add(said, user_id=USER)
        memory.flush()
        assert [turn.id for turn in memory._store.turns_of(USER)] == ["m0", "m1", "m2"]  # as they were told
        assert ids(memory) == ["m2", "m1", "m0"]  # by their own times
        assert_sound(memory, ["m2", "m1", "m0"])
