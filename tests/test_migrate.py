"""Moving a database into another one: every row, once, whatever goes wrong on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.errors import StorageError, UsageError
from lightmem_integrations.stores.sql import copying
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.copying import TABLES, copy_database
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import FlakyEmbedder, HashEmbedder
from tests.pipeline.test_pipeline import talk
from tests.servers import PostgreSQL
from tests.test_cli import run

pytestmark = pytest.mark.sqlite("about what moves between databases of both kinds")

HOSTILE = ["ana", "ANA", "Ana", "änä", "a%", "'; DROP TABLE turns; --", "\t\\N\n", "ａｎａ", "😀"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with something in every table."""
    path = tmp_path_factory.mktemp("made") / "source.db"
    embedder = FlakyEmbedder(fail_on=lambda texts: any("poison" in text for text in texts))
    with LightMem(path, LightMemConfig(update="online"), embedder=embedder) as memory:
        for user in HOSTILE:
            memory.add(talk(20, "x"), user_id=user, session_id=user)
            memory.add(talk(20, "y"), user_id=user, session_id="other", ttl=timedelta(days=9))
        memory.add(
            {"role": "user", "content": "🙂 a\tb\\n\n poison", "metadata": {"n": [1, 2.5, None, "\\N"]}}, user_id="ana"
        )
        memory.add(talk(60, "w"), user_id="ana", session_id="long")
        memory.forget(user_id="ana", ids=["x3"])
        memory._buffers.add("2025-01-01", 17)
        memory._reflection = None  # leave turns and segments in the buffers
    with LightMem(path, LightMemConfig(short_term_buffer_tokens=100_000), embedder=embedder) as memory:
        memory.add(talk(80, "z"), user_id="bea")
        memory._reflection = None
    return path


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path))


def contents(path: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    store = SqlStore(path)
    try:
        with store.reading(None) as connection:
            rows = {t.name: [tuple(r) for r in connection.execute(select(t))] for t in (*TABLES, s.meta)}
    finally:
        store.close()
    return {name: sorted(found, key=repr) for name, found in rows.items()}


def killed_at(rows: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH", 17)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "target.db")
        return
    server: PostgreSQL = request.getfixturevalue("server")
    server.run("DROP SCHEMA IF EXISTS migrated CASCADE", "CREATE SCHEMA migrated")
    yield server.url(schema="migrated")


# ------------------------------------------------------------------------------------ all of it
def test_every_row_moves_and_the_source_stays_as_it_is(source: Path, target: str) -> None:
    before = contents(source)
    assert all(before[table] for table in ("turns", "passages", "journal", "index_outbox", "segments", "llm_usage"))
    seen: list[tuple[int, int]] = []
    rows = copy_database(source, target, lambda *at: seen.append(at))
    assert rows == sum(len(before[table.name]) for table in TABLES)
    assert seen[-1] == (rows, rows)
    assert contents(target) == before
    assert contents(source) == before


def test_the_copy_goes_on_as_the_source_would(source: Path, target: str) -> None:
    copy_database(source, target)
    answers = []
    for path in (source, target):
        with LightMem(path, embedder=HashEmbedder()) as memory:
            memory.flush()
            memory.add({"role": "user", "content": "I moved to Porto.", "id": "new"}, user_id="ana")
            hits = [
                (hit.source_ids, round(hit.score, 5))
                for question in ("Porto", talk(20)[9].content)
                for hit in memory.search(question, user_id="ana", k=5)
            ]
            answers.append((hits, memory.stats()["rows"], memory.doctor().ok))
    assert answers[0] == answers[1]
    assert answers[0][2]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kills", [[1, 60, 501, 1200]])
def test_it_goes_on_where_it_was_killed(source: Path, target: str, kills: list[int]) -> None:
    for rows in kills:
        with pytest.raises(KeyboardInterrupt):
            copy_database(source, target, killed_at(rows))
        with pytest.raises(StorageError, match=r"half of a copy of .*source\.db.*lightmem migrate"):
            LightMem(target, embedder=HashEmbedder())
    seen: list[int] = []
    copy_database(source, target, lambda done, total: seen.append(done))
    assert len(seen) <= (seen[-1] - 1200) / 17 + 2 * len(TABLES), "what was there is not copied again"
    assert contents(target) == contents(source)


def test_back_and_forth(source: Path, target: str, tmp_path: Path) -> None:
    copy_database(source, target)
    copy_database(target, tmp_path / "back.db")
    assert contents(tmp_path / "back.db") == contents(source)


# ------------------------------------------------------------------------------------ what is refused
def test_a_source_that_was_written_to_begins_anew(source: Path, target: str) -> None:
    def write(done: int, total: int) -> None:
        if done == total:
            with LightMem(source, LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as memory:
                memory.add("Meanwhile.", user_id="ana")

    with pytest.raises(StorageError, match="was written to while it was copied"):
        copy_database(source, target, write)
    with pytest.raises(StorageError, match="half of a copy"):
        LightMem(target, embedder=HashEmbedder())
    copy_database(source, target)
    assert contents(target) == contents(source)


def test_a_target_with_something_in_it_is_refused(source: Path, target: str, tmp_path: Path) -> None:
    with LightMem(target, embedder=HashEmbedder()) as memory:
        memory.add("Mine.", user_id="cleo")
    before = contents(target)
    with pytest.raises(UsageError, match="target must be an empty database"):
        copy_database(source, target)
    assert contents(target) == before

    half, other = tmp_path / "half.db", tmp_path / "other.db"
    with pytest.raises(KeyboardInterrupt):
        copy_database(source, half, killed_at(100))
    with LightMem(other, embedder=HashEmbedder()) as memory:
        memory.add("Somebody else's.", user_id="dan")
    with pytest.raises(UsageError, match="target must be an empty database"):
        copy_database(other, half)


def test_a_copy_that_somebody_changed_stays_closed(source: Path, target: str) -> None:
    def meddle(done: int, total: int) -> None:
        if done == total:
            store = SqlStore(target)
            with store.writing(None) as connection:
                connection.execute(s.turns.update().where(s.turns.c.user_id == "ana").values(tokens=0))
            store.close()

    with pytest.raises(StorageError, match="other rows in turns"):
        copy_database(source, target, meddle)
    with pytest.raises(StorageError, match="half of a copy"):
        LightMem(target, embedder=HashEmbedder())


def test_a_source_of_an_older_release_is_not_touched(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    old.write_bytes((Path(__file__).parent / "data" / "v0.1.0.db").read_bytes())
    before = old.read_bytes()
    with pytest.raises(StorageError, match="older release"):
        copy_database(old, tmp_path / "target.db")
    assert old.read_bytes() == before


@pytest.mark.parametrize("name", ["missing.db", "sqlite:///missing.db"])
def test_a_source_that_is_not_there_is_not_made(name: str) -> None:
    with pytest.raises(StorageError, match="no database"):
        copy_database(name, "target.db")
    assert not Path("missing.db").exists()


# ------------------------------------------------------------------------------------ the command
def test_the_command_moves_a_database_and_fills_qdrant(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    old, new, folder = (str(tmp_path / name) for name in ("old.db", "new.db", "qdrant"))
    long_ago = datetime(2020, 1, 1, tzinfo=timezone.utc)
    with LightMem(old, LightMemConfig(memory_manager="none")) as memory:
        memory.add(talk(4, start=long_ago), user_id="ana")
    printed = json.loads(run("migrate", old, new, "--qdrant", folder, "--json").stdout)
    assert printed == {"rows": 1 + 1 + 3 * 4 + 4, "indexed": 4}
    config = LightMemConfig(memory_manager="none", qdrant=(folder,))
    with LightMem(new, config) as memory:
        assert memory.doctor().ok
        assert memory.search(talk(4)[2].content, user_id="ana", k=1)[0].source_ids == ("m2",)
    assert run("migrate", old, new, code=2).stderr.startswith("error: target must be an empty database")
