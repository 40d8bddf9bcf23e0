"""Several hosts on one database: migrations, one session that all write to, mixed work."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine, event, inspect, select

from lightmem_integrations import LightMem
from lightmem_integrations.errors import SchemaVersionError, StorageError
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import HashEmbedder
from tests.servers import OWNER, PLAIN, PostgreSQL

pytestmark = pytest.mark.postgres

TESTS = Path(__file__).parents[1]
FIXTURE = TESTS / "data" / "v0.1.0.db"
TURNS = runpy.run_path(str(TESTS / "data" / "make_fixture.py"))["TURNS"]
OF_VERSION_4 = ("segments_queued", "segments_held", "updates_pending")
SHARED = runpy.run_path(str(TESTS / "faults" / "worker.py"))["SHARED"]


# ------------------------------------------------------------------------------ migrations
@pytest.fixture
def old(server: PostgreSQL, schema: str, owner: str) -> str:
    """A schema as the first release made it, with the rows of its fixture; the URL of its owner."""
    rows = MetaData()
    file = create_engine(f"sqlite:///{FIXTURE}")
    rows.reflect(file)
    with server.connect(OWNER, schema=schema) as connection, file.connect() as source:
        connection.execute(FIXTURE.with_suffix(".postgresql.sql").read_text())
        for table in rows.sorted_tables:
            for row in source.execute(table.select()).mappings() if table.name != "meta" else ():
                values = [json.dumps(v) if isinstance(v, list | dict) else v for v in row.values()]
                names, marks = ", ".join(f'"{name}"' for name in row), ", ".join(["%s"] * len(row))
                connection.execute(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", values)
        connection.execute("INSERT INTO meta SELECT 'embedder', 'hash'")
        connection.execute("SELECT setval('journal_seq_seq', 1000)")
    file.dispose()
    return owner


def shape(url: str) -> dict[str, Any]:
    """Columns, keys, indexes and policies of every table, however they came to be."""
    engine = create_engine(url)
    found = inspect(engine)
    out: dict[str, Any] = {}
    for table in found.get_table_names():
        out[table] = {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table)},
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "foreign keys": sorted(
                (k["constrained_columns"], k["referred_table"], k["options"]) for k in found.get_foreign_keys(table)
            ),
            "unique": sorted(c["column_names"] for c in found.get_unique_constraints(table)),
            "indexes": {i["name"]: (i["column_names"], i["unique"]) for i in found.get_indexes(table)},
        }
    engine.dispose()
    return out


def test_schema_of_the_first_release_opens_and_answers(old):
    with LightMem(old, embedder=HashEmbedder()) as memory:
        for user in ("ana", "bob"):
            said = [(i, text) for whose, _, i, _, _, text in TURNS if whose == user]
            assert [(e.source_messages[0], e.memory) for e in memory.list(user_id=user)] == said
        assert memory.search("the name of my cat Miso", user_id="ana")[0].source_ids == ("a1",)
        assert memory.search("上海", user_id="ana", strategy="bm25")[0].source_ids == ("a3",)
        assert memory.add("The cat moved too.", user_id="ana", session_id="s1").pending == 0
        assert memory.forget(user_id="ana", session_id="s2").entries == 2
        assert memory.doctor().ok


def test_the_longest_times_are_kept(old):
    """Forty characters, as the first release had them, do not do for a zone of odd microseconds."""
    zone = timezone(timedelta(hours=5, minutes=30, seconds=15, microseconds=1))
    when = datetime(2024, 1, 1, 12, 0, 0, 123456, zone)
    with LightMem(old, embedder=HashEmbedder()) as memory:
        memory.add({"role": "user", "content": "Said here.", "timestamp": when}, user_id="eve")
        (entry,) = memory.list(user_id="eve")
        assert (entry.timestamp, entry.timestamp.utcoffset()) == (when, when.utcoffset())


def test_migrations_lead_to_the_schema_of_a_new_database(old, url):
    LightMem(old, embedder=HashEmbedder()).close()
    assert shape(old) == shape(url)


@contextmanager
def counted(prefix: str) -> Iterator[list[str]]:
    """Statements of any engine that begin so."""
    seen: list[str] = []

    def note(connection: Any, cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith(prefix):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def open_at_once(url: str, hosts: int = 4) -> None:
    barrier = Barrier(hosts)

    def host(n: int) -> None:
        barrier.wait()
        with LightMem(url, embedder=HashEmbedder()) as memory:
            memory.add(f"Host {n} was here.", user_id="ana")

    with ThreadPoolExecutor(hosts) as pool:
        list(pool.map(host, range(hosts)))
    with LightMem(url, embedder=HashEmbedder()) as memory:
        assert sum("was here" in entry.memory for entry in memory.list(user_id="ana")) == hosts
        assert memory.doctor().ok


def test_of_hosts_that_migrate_at_once_one_does_it_and_all_are_open(old):
    with counted("CREATE TABLE segments") as made:
        open_at_once(old)
    assert len(made) == 1


def test_of_hosts_that_open_an_empty_schema_at_once_one_makes_the_tables(owner):
    with counted("CREATE TABLE entries") as made:
        open_at_once(owner)
    assert len(made) == 1


def test_a_plain_role_does_not_migrate(server: PostgreSQL, old, plain, schema):
    server.run(f"GRANT USAGE ON SCHEMA {schema} TO {PLAIN}")
    server.run(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {PLAIN}")
    with pytest.raises(StorageError, match=r"tables are missing or those of an older release.*`lightmem db init"):
        LightMem(plain, embedder=HashEmbedder())
    with closing(SqlStore(old)) as store:
        store.fence(PLAIN)
    with LightMem(plain, embedder=HashEmbedder()) as memory:
        assert len(memory.list(user_id="ana")) == 4


def test_tables_of_a_later_release_get_policy_and_rights_from_the_migration(server: PostgreSQL, owner, plain, schema):
    """A database is prepared by a release that knows fewer tables."""
    with closing(SqlStore(owner)) as store:
        store.fence(PLAIN)
    server.run(
        f"DROP TABLE {schema}.projection_outbox",
        *(f"DROP INDEX {schema}.{name}" for name in ("entries_by_place", *OF_VERSION_4)),
        f"UPDATE {schema}.meta SET value = '2' WHERE key = 'schema_version'",
    )
    with closing(SqlStore(owner)):
        pass
    with closing(SqlStore(plain)) as store, store.writing("ana") as connection:
        connection.execute(s.projection_outbox.insert().values(user_id="ana", entry_id="e"))
    with server.connect(PLAIN, schema=schema) as connection:
        assert connection.execute("SELECT count(*) FROM projection_outbox").fetchone() == (0,)


def test_database_of_a_later_release_is_refused_untouched(server: PostgreSQL, owner, schema):
    LightMem(owner, embedder=HashEmbedder()).close()
    server.run(f"UPDATE {schema}.meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(SchemaVersionError, match=r"has schema version 99; this release knows up to"):
        LightMem(owner, embedder=HashEmbedder())


def test_of_hosts_with_different_embedders_one_is_refused(owner):
    """Who comes first says what the database is indexed with; nobody believes otherwise."""
    SqlStore(owner).close()
    barrier = Barrier(4)

    def claim(n: int) -> dict[str, str]:
        with closing(SqlStore(owner)) as store:
            barrier.wait()
            return store.claim_meta({"embedder": f"e{n}", "dim": str(n)})

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(claim, range(4)))
    assert len({tuple(sorted(values.items())) for values in found}) == 1
    assert found[0]["embedder"] == f"e{found[0]['dim']}"


# ------------------------------------------------------------------------------ at work
def begin(workers: list[Any]) -> list[str]:
    """Let the workers go, all at once, and wait; returns what they said."""
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), "\n".join(errors for _, errors in told)
    return [out for out, _ in told]


def test_two_processes_add_to_one_session(spawn, url):
    begin([spawn("line", url, name, 40, wait=False) for name in ("one", "two")])
    with LightMem(url, embedder=HashEmbedder()) as memory:
        turns = list(memory._store.turns_of(SHARED))
        assert [turn.seq for turn in turns] == list(range(80))
        for name in ("one", "two"):
            assert [t.id for t in turns if t.id.startswith(name)] == [f"{name}-{n:03}" for n in range(40)]
        assert memory.doctor().ok


def test_eight_threads_in_each_of_two_processes(spawn, url):
    """Adds, searches and forgets of two users: each thread checks its answers against its own ledger."""
    ledgers = map(json.loads, begin([spawn("mix", url, f"p{n}", 2, 8, wait=False) for n in range(2)]))
    expected = Counter((user, i) for ledger in ledgers for user, held in ledger.items() for i in held)
    with LightMem(url, embedder=HashEmbedder()) as memory:
        memory.flush()
        assert memory.doctor().ok
        with memory._store.reading(None) as connection:
            stored = Counter(map(tuple, connection.execute(select(s.turns.c.user_id, s.turns.c.id))))
        assert stored == expected
