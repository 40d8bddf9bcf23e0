"""How statements are planned: a plan that suits most users reads the whole memory of the largest one."""

from __future__ import annotations

import pytest

from lightmem_integrations import LightMem
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import HashEmbedder
from tests.pipeline.test_pipeline import talk
from tests.test_bulk import line, written

pytestmark = pytest.mark.postgres


def test_no_statement_keeps_a_plan_for_all_users(url):
    with LightMem(f"{url}&pool_size=1", embedder=HashEmbedder()) as memory:
        memory.add(["There is tea.", "There is cake."], user_id="ana")
        for _ in range(8):  # psycopg prepares a statement that comes again for the sixth time
            assert memory.search("tea", user_id="ana")
        assert isinstance(memory._store, SqlStore)
        with memory._store.reading("ana") as connection:
            assert connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").all() == []


def test_after_a_load_the_server_knows_how_much_there_is(owner, tmp_path):
    file = written(tmp_path / "all.jsonl", [line("ana", "one", message) for message in talk(50)])
    known = "SELECT reltuples FROM pg_class WHERE oid = 'turns'::regclass"
    with LightMem(owner, embedder=HashEmbedder()) as memory:
        memory.bulk_add(file, processes=1)
        assert isinstance(memory._store, SqlStore)
        with memory._store.reading(None) as connection:
            assert connection.exec_driver_sql(known).scalar() == 50
