"""Moving the index of a database to Qdrant, back, and to another model. The database stays what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.errors import ConfigError, UsageError
from lightmem_integrations.stores.qdrant import projection as projections
from lightmem_integrations.stores.sql.outbox import SqlOutbox
from lightmem_integrations.testing import HashEmbedder
from tests.pipeline.test_pipeline import talk
from tests.test_cli import run

pytest.importorskip("qdrant_client")

EXACT = LightMemConfig(memory_manager="none")


@pytest.fixture
def in_qdrant(tmp_path: Path) -> LightMemConfig:
    return LightMemConfig(memory_manager="none", qdrant=(str(tmp_path / "qdrant"),))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "m.db"
    with LightMem(path, EXACT, embedder=HashEmbedder()) as memory:
        memory.add(talk(30), user_id="ana")
        memory.add(talk(5, "b"), user_id="bea")
    return path


def opened(path: Path, config: LightMemConfig, **embedder: Any) -> LightMem:
    return LightMem(path, config, embedder=HashEmbedder(**embedder))


def is_like_the_database(memory: LightMem, count: int) -> bool:
    projection = memory._projection
    assert projection is not None
    return (list(projection.differences()), projection.collection.count()) == ([], count)


def test_the_index_moves_to_qdrant_and_back(filled: Path, in_qdrant: LightMemConfig) -> None:
    seen: list[tuple[int, int]] = []
    done = LightMem.reindex(
        filled, in_qdrant, embedder=HashEmbedder(), to="qdrant", progress=lambda *at: seen.append(at)
    )
    assert (done, seen[-1]) == (35, (35, 35))
    with opened(filled, in_qdrant) as memory:
        assert is_like_the_database(memory, 35)
        assert memory.doctor().ok
        assert [hit.source_ids for hit in memory.search(talk(30)[7].content, user_id="ana", k=1)] == [("m7",)]
        memory.add("I moved to Porto.", user_id="ana")
    with opened(filled, EXACT) as other:  # without Qdrant, what is written waits for those with
        other.add("I moved back.", user_id="ana")
    assert LightMem.reindex(filled, in_qdrant, embedder=HashEmbedder(), to="exact") == 0
    with opened(filled, EXACT) as memory:
        assert SqlOutbox(memory._store).index() is None
        assert SqlOutbox(memory._store).backlog() == 0
        memory.add("And away again.", user_id="ana")
        assert SqlOutbox(memory._store).backlog() == 0
        assert memory.search("Porto", user_id="ana", k=1)[0].entry.memory == "I moved to Porto."
    with opened(filled, in_qdrant) as memory:
        memory.flush()
        assert is_like_the_database(memory, 38)


def test_it_goes_on_where_it_was_killed(
    filled: Path, in_qdrant: LightMemConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "PAGE", 10)

    def killed(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LightMem.reindex(filled, in_qdrant, embedder=HashEmbedder(), to="qdrant", progress=killed)
    with opened(filled, EXACT) as memory:
        memory.forget(user_id="bea")
    assert LightMem.reindex(filled, in_qdrant, embedder=HashEmbedder(), to="qdrant") == 10
    with opened(filled, in_qdrant) as memory:
        assert is_like_the_database(memory, 30)


def test_another_model_gets_a_collection_of_its_own(filled: Path, in_qdrant: LightMemConfig) -> None:
    LightMem.reindex(filled, in_qdrant, embedder=HashEmbedder(), to="qdrant")
    other = HashEmbedder(dim=32, name="other")
    assert LightMem.reindex(filled, in_qdrant, embedder=other, to="qdrant") == 35
    with LightMem(filled, in_qdrant, embedder=other) as memory:
        assert is_like_the_database(memory, 35)
        projection = memory._projection
        assert projection is not None
        assert projection.collection.dim(projection.collection.alias) == 32
        assert len(projection.collection.siblings()) == 1
    assert LightMem.reindex(filled, in_qdrant, embedder=HashEmbedder()) == 35, "and back, without saying where to"
    with opened(filled, in_qdrant) as memory:
        assert is_like_the_database(memory, 35)


def test_an_index_that_nobody_names_is_not_left_behind(filled: Path, in_qdrant: LightMemConfig) -> None:
    LightMem.reindex(filled, in_qdrant, embedder=HashEmbedder(), to="qdrant")
    with pytest.raises(ConfigError, match=r"qdrant must name the server .*to='exact'"):
        LightMem.reindex(filled, EXACT, embedder=HashEmbedder(name="other"))
    with opened(filled, in_qdrant) as memory:
        assert is_like_the_database(memory, 35)
    assert LightMem.reindex(filled, EXACT, embedder=HashEmbedder(name="other"), to="exact") == 0
    assert LightMem.reindex(filled, EXACT, embedder=HashEmbedder(name="other")) == 35


@pytest.mark.parametrize(("to", "error"), [("qdrant", ConfigError), ("elsewhere", UsageError)])
def test_what_cannot_be_is_refused(filled: Path, to: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        LightMem.reindex(filled, EXACT, embedder=HashEmbedder(), to=to)


def test_at_the_command_line(path: Path | str, tmp_path: Path) -> None:
    db, folder = str(path), str(tmp_path / "qdrant")
    with LightMem(db, EXACT) as memory:
        memory.add(talk(4), user_id="ana")
    printed = json.loads(run("reindex", "--db", db, "--to", "qdrant", "--qdrant", folder, "--json").stdout)
    assert printed == {"entries": 4, "embedder": "minilm", "to": "qdrant"}
    assert (
        "4 entries told" in run("reindex", "--db", db, "--to", "qdrant", "--qdrant", folder, "--model", "minilm").stdout
    )
    assert "by itself" in run("reindex", "--db", db, "--to", "exact", "--qdrant", folder).stdout
    assert run("reindex", "--db", db, "--to", "qdrant", code=2).stderr.startswith("error: qdrant must name")
