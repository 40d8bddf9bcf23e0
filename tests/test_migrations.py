"""Databases of earlier releases open and answer; those of later ones are refused untouched.

``data/v*.db`` were made by the releases that they are named after, with ``data/make_fixture.py``.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from lightmem_integrations import LightMem
from lightmem_integrations.errors import EmbedderMismatchError, SchemaVersionError
from lightmem_integrations.stores.sql.migrations import STEPS
from lightmem_integrations.stores.sql.outbox import SqlOutbox
from lightmem_integrations.stores.sql.schema import SCHEMA_VERSION
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing.embedders import HashEmbedder

pytestmark = pytest.mark.sqlite("files of earlier releases; tests/postgres migrates a schema of the first one")

DATA = Path(__file__).with_name("data")
FIXTURES = sorted(DATA.glob("v*.db"))
SAID = runpy.run_path(str(DATA / "make_fixture.py"))
TURNS, START = SAID["TURNS"], SAID["START"]


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def old(request, tmp_path) -> Path:
    """A copy of a database of an earlier release; opening one may change it."""
    return Path(shutil.copy(request.param, tmp_path / "memory.db"))


def query(path: Path, statement: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(statement).fetchall()
        connection.commit()
    finally:
        connection.close()
    return rows


def schema_of(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Columns, keys and indexes of every table, however they came to be."""
    tables = [name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    out: dict[str, list[tuple[str, ...]]] = {}
    for table in tables:
        out[table] = sorted(row[1:] for row in query(path, f"PRAGMA table_info({table})"))
        out[f"{table} foreign keys"] = sorted(row[1:] for row in query(path, f"PRAGMA foreign_key_list({table})"))
        for _, index, unique, origin, _ in query(path, f"PRAGMA index_list({table})"):
            columns = [row[2] for row in query(path, f"PRAGMA index_info({index})")]
            name = index if origin == "c" else f"{table} {origin} {columns}"
            out[name] = [(str(unique), *columns)]
    return out


def test_there_is_a_fixture_of_the_first_release():
    assert DATA / "v0.1.0.db" in FIXTURES


def test_there_is_a_step_from_every_version_to_the_next():
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))


def test_database_of_an_earlier_release_opens_and_answers(old):
    with LightMem(old, embedder=HashEmbedder()) as memory:
        assert memory.doctor().ok
        for user in ("ana", "bob"):
            entries = memory.list(user_id=user)
            assert [
                (e.session_id, *e.source_messages, e.role, e.speaker, e.memory, e.timestamp, e.metadata)
                for e in entries
            ] == [
                (session, i, role, speaker, text, START.replace(hour=START.hour + n), {"n": n})
                for n, (whose, session, i, role, speaker, text) in enumerate(TURNS)
                if whose == user
            ]
            assert all(memory.history(e.id, user_id=user)[0].operation == "insert" for e in entries)
        hit = memory.search("the name of my cat Miso", user_id="ana")[0]
        assert hit.source_ids == ("a1",)
        assert hit.parts["strategy"] == "late"
        assert memory.search("上海", user_id="ana", strategy="bm25")[0].source_ids == ("a3",)
        entry = memory.get("a1", user_id="ana")
        assert entry is not None
        np.testing.assert_allclose(entry.embedding, HashEmbedder().embed([entry.memory])[0], atol=1e-6)


def test_database_of_an_earlier_release_takes_and_forgets_turns(old):
    with LightMem(old, embedder=HashEmbedder()) as memory:
        again = [{"id": i, "role": role, "content": text} for user, _, i, role, _, text in TURNS if user == "ana"]
        assert memory.add(again, user_id="ana").added == 0
        assert memory.add("The cat moved too.", user_id="ana", session_id="s1").added == 1
        assert memory.forget(user_id="ana", session_id="s2").entries == 2
        assert len(memory.list(user_id="ana")) == 3
        assert len(memory.list(user_id="bob")) == 2
        assert memory.doctor().ok


def test_schema_that_migrations_lead_to_is_the_schema_of_a_new_database(old, tmp_path):
    new = tmp_path / "new.db"
    for path in (old, new):
        LightMem(path, embedder=HashEmbedder()).close()
    assert schema_of(old) == schema_of(new)
    assert query(old, "SELECT value FROM meta WHERE key = 'schema_version'") == [(str(SCHEMA_VERSION),)]


def test_triggers_of_an_earlier_release_are_made_anew(tmp_path):
    path = tmp_path / "memory.db"
    store = SqlStore(path)
    SqlOutbox(store).attach("qdrant:somewhere", enqueue=False)
    store.close()
    triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    before, shape = query(path, triggers), schema_of(path)
    old = "CREATE TRIGGER projection_encoded AFTER INSERT ON passages BEGIN DELETE FROM projection_outbox; END"
    made = ("segments_queued", "segments_held", "updates_pending", "projection_claimed")
    for statement in (*(f"DROP INDEX {name}" for name in made), "DROP TRIGGER projection_encoded", old):
        query(path, statement)
    query(path, "UPDATE meta SET value = '3' WHERE key = 'schema_version'")
    assert query(path, triggers) != before
    SqlStore(path).close()
    assert (query(path, triggers), schema_of(path)) == (before, shape)


def test_opening_an_up_to_date_database_changes_nothing(tmp_path):
    path = tmp_path / "memory.db"
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.add("Hello.", user_id="ana")
    before = path.read_bytes()
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.search("hello", user_id="ana")
    assert path.read_bytes() == before


def test_database_indexed_by_another_embedder_is_refused_untouched(old):
    LightMem(old, embedder=HashEmbedder()).close()  # brings the tables up to date, if they are not
    before = old.read_bytes()
    with pytest.raises(EmbedderMismatchError, match=r"'hash' \(now 'other'\)") as told:
        LightMem(old, embedder=HashEmbedder(name="other"))
    assert str(old) in str(told.value)
    assert old.read_bytes() == before
    assert os.listdir(old.parent) == ["memory.db"]


@pytest.fixture
def newer(old) -> Path:
    """A database of a later release, with a table that this one has never heard of."""
    query(old, "CREATE TABLE dreams (user_id TEXT, dream TEXT)")
    query(old, f"UPDATE meta SET value = '{SCHEMA_VERSION + 41}' WHERE key = 'schema_version'")
    return old


def test_database_of_a_later_release_is_refused_untouched(newer):
    before = newer.read_bytes()
    with pytest.raises(SchemaVersionError) as told:
        LightMem(newer, embedder=HashEmbedder())
    for part in (str(newer), f" {SCHEMA_VERSION + 41};", f" {SCHEMA_VERSION}. "):
        assert part in str(told.value)
    assert newer.read_bytes() == before


def test_refused_database_is_let_go_of(newer):
    with pytest.raises(SchemaVersionError):
        LightMem(newer, embedder=HashEmbedder())
    assert os.listdir(newer.parent) == ["memory.db"]


def test_database_of_a_later_release_in_another_journal_mode_is_refused_untouched(newer):
    query(newer, "PRAGMA journal_mode=DELETE")
    before = newer.read_bytes()
    with pytest.raises(SchemaVersionError):
        LightMem(newer, embedder=HashEmbedder())
    assert newer.read_bytes() == before
