"""Hosts, each a process, that open a database of the first release while somebody is writing to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.errors import StorageBusyError
from lightmem_integrations.stores.sql.schema import SCHEMA_VERSION
from lightmem_integrations.testing import HashEmbedder
from tests.postgres.test_hosts import old, shape
from tests.servers import OWNER, PostgreSQL

__all__ = ["old"]

pytestmark = [pytest.mark.postgres, pytest.mark.allow_hosts(["127.0.0.1"])]

_HOST = """
import sys
from lightmem_integrations import LightMem
from lightmem_integrations.testing import HashEmbedder
with LightMem(sys.argv[1], embedder=HashEmbedder()) as memory:
    memory.add({"role": "user", "content": f"{sys.argv[2]} was here.", "id": sys.argv[2]}, user_id="ana")
"""

Host = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def host(old: str) -> Iterator[Host]:
    """Start a process that opens the old database and adds a turn."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", _HOST, old, name]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def waiting(server: PostgreSQL, schema: str) -> list[int]:
    """Connections to a schema that wait for a lock."""
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid "
            "WHERE NOT l.granted AND a.usename = %s AND a.datname = 'postgres'",
            (OWNER,),
        )
        return sorted({row[0] for row in rows})


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.02)


def writer(server: PostgreSQL, schema: str) -> psycopg.Connection:
    """Somebody, of the first release, who is in the middle of a write."""
    connection = server.connect(OWNER, schema=schema)
    connection.execute("BEGIN")
    connection.execute("UPDATE turns SET content = content || ' And so on.' WHERE user_id = 'bob'")
    return connection


def ended(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_two_hosts_migrate_at_once_while_a_third_writes(server: PostgreSQL, schema, old, url, host):
    third = writer(server, schema)
    hosts = [host("one"), host("two")]
    until(lambda: len(waiting(server, schema)) == 2)
    assert all(process.poll() is None for process in hosts)
    third.execute("COMMIT")
    third.close()
    for process in hosts:
        ended(process)
    with LightMem(old, embedder=HashEmbedder()) as memory:
        assert {"one", "two"} <= {entry.source_messages[0] for entry in memory.list(user_id="ana")}
        assert memory.doctor().ok
        with server.connect(OWNER, schema=schema) as connection:
            said = connection.execute("SELECT content FROM turns WHERE user_id = 'bob'").fetchall()
            (version,) = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() or ("",)
    assert said
    assert all(text.endswith("And so on.") for (text,) in said)
    assert version == str(SCHEMA_VERSION)
    assert shape(old) == shape(url)


def test_a_host_that_is_killed_while_it_migrates_leaves_it_to_the_next(server: PostgreSQL, schema, old, url, host):
    third = writer(server, schema)
    first = host("first")
    until(lambda: len(waiting(server, schema)) == 1)
    second = host("second")
    until(lambda: len(waiting(server, schema)) == 2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    third.execute("ROLLBACK")
    third.close()
    ended(second)
    assert shape(old) == shape(url)
    with LightMem(old, embedder=HashEmbedder()) as memory:
        assert memory.doctor().ok


def test_who_waits_too_long_for_a_writer_is_told_and_may_come_again(server: PostgreSQL, schema, old):
    third = writer(server, schema)
    for _ in range(2):
        with pytest.raises(StorageBusyError, match=r"Nothing was written.*busy_timeout_seconds"):
            LightMem(old, LightMemConfig(busy_timeout_seconds=0.3), embedder=HashEmbedder())
    third.execute("COMMIT")
    third.close()
    with LightMem(old, embedder=HashEmbedder()) as memory:
        assert memory.list(user_id="bob")[0].memory
        assert memory.doctor().ok
