"""The disk of Qdrant is full: what is written waits in the database and is told when there is room again."""

from __future__ import annotations

import pytest

from lightmem_integrations.stores.qdrant import projection
from tests.postgres.test_faults_disk import fill_up, small_disk
from tests.qdrant.conftest import projection_of
from tests.qdrant.test_index import CATS, finding, reasons, stored, texts
from tests.qdrant_servers import qdrant

pytestmark = [pytest.mark.qdrant_server, pytest.mark.allow_hosts(["127.0.0.1"])]


@pytest.mark.parametrize("grpc", [True, False])
def test_a_full_disk_holds_nothing_up_but_qdrant(opened, monkeypatch, grpc):
    monkeypatch.setattr(projection, "REST_SECONDS", 0.0)
    with small_disk(96) as disk:
        settings = {
            "QDRANT__STORAGE__STORAGE_PATH": str(disk / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(disk / "snapshots"),
            "QDRANT__STORAGE__WAL__WAL_CAPACITY_MB": "4",
        }
        with qdrant(settings=settings) as server:
            memory = opened(server.url, qdrant_grpc=grpc)
            assert memory.add(CATS[:2], user_id="ana").errors == ()
            ballast = fill_up(disk)
            for message in CATS[2:]:
                (error,) = memory.add(message, user_id="ana").errors
                assert "has no room left" in error
                assert "Free some space on its disk. What was written is safe" in error
            memory.forget(user_id="ana", ids=["m0"])
            hits = memory.search("Miso11", user_id="ana", k=50)
            assert texts(hits)[0] == CATS[11]["content"]
            assert len(hits) == len(CATS) - 1
            assert "has no room left" in reasons(hits).pop()
            found = finding(memory)
            assert not found.ok
            assert "has no room left" in found.detail
            assert projection_of(memory).outbox.parked() == 0, "an outage is no poison"
            ballast.unlink()
            memory.flush()
            assert len(stored(memory)) == len(CATS) - 1
            assert finding(memory).ok
            assert reasons(memory.search("Miso11", user_id="ana")) == {""}
