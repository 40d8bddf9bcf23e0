"""What is read around an entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.stores.sql.store import SqlStore, entry_id
from lightmem_integrations.stores.sql.vicinity import vicinity
from lightmem_integrations.testing import HashEmbedder
from tests.pipeline.test_pipeline import talk
from tests.stores.test_backlog import plan


@pytest.mark.sqlite("how SQLite plans; tests/postgres has the plans of PostgreSQL")
def test_a_long_session_is_read_around_an_entry_alone(path: Path | str) -> None:
    with LightMem(path, LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as memory:
        memory.add(talk(100), user_id="ana")
        memory.add(talk(100), user_id="bea")
        wanted = [entry_id("ana", "turn", [f"m{n}"]) for n in (10, 11, 50)]
        store = memory._store
        assert isinstance(store, SqlStore)
        rows, passages = vicinity(store, "ana", wanted, 2, [])
        assert [row.seq for row in rows] == [8, 9, 10, 11, 12, 13, 48, 49, 50, 51, 52]
        assert {entry for entry, _ in passages} == {row.id for row in rows}
        lines = plan(store, lambda: vicinity(store, "ana", wanted, 2, []))
        assert any("(user_id=? AND session_id=? AND seq=?)" in line for line in lines)


def test_another_users_entries_are_not_there(path: Path | str) -> None:
    with LightMem(path, LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as memory:
        memory.add(talk(3), user_id="ana")
        memory.add(talk(3), user_id="bea")
        wanted = [entry.id for entry in memory.list(user_id="bea")]
        assert isinstance(memory._store, SqlStore)
        assert vicinity(memory._store, "ana", wanted, 2, ["fact"]) == ([], [])
