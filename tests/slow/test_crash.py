"""At least 60 kill -9 on everything that memory is kept in: nothing acknowledged is lost, the index agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightmem_integrations.bench.crash import Target, run_crash
from tests.qdrant_servers import qdrant
from tests.servers import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.allow_hosts(["127.0.0.1"])]
KILLS = 60


def test_nothing_acknowledged_is_lost(tmp_path: Path, server: PostgreSQL) -> None:
    server.run("CREATE DATABASE crash")
    with qdrant() as index:
        targets = [
            Target("SQLite, exact", str(tmp_path / "exact.db")),
            Target("SQLite, Qdrant", str(tmp_path / "qdrant.db"), (index.url,), "crash-sqlite"),
            Target("PostgreSQL, Qdrant", server.url("crash"), (index.url,), "crash-server"),
        ]
        found = {str(row[0]): row[1:] for row in run_crash(targets, KILLS).rows}
    assert sum(int(n) for n in found["kills"]) >= KILLS
    assert all(int(n) >= KILLS // 3 for n in found["acknowledged"])
    for name in ("lost", "risen", "doubled", "orphans", "stale", "unsound"):
        assert found[name] == (0, 0, 0), name
