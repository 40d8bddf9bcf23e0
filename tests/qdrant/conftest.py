"""Qdrant in local mode, and real ones for the tests marked ``qdrant_server`` and ``qdrant_cluster``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.stores.exact import ExactIndex
from lightmem_integrations.testing import HashEmbedder
from tests.qdrant_servers import Qdrant, qdrant


def pytest_collect_file() -> None:
    pytest.importorskip("qdrant_client", reason="the qdrant extra is not installed")


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[Qdrant]:
    """A server that all tests of a process share, each with a collection of its own."""
    with qdrant() as started:
        yield started


@pytest.fixture(params=["memory", "folder", pytest.param("server", marks=pytest.mark.qdrant_server)])
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """What ``LightMemConfig.qdrant`` may name."""
    if request.param == "server":
        return str(request.getfixturevalue("qdrant_server").url)
    return ":memory:" if request.param == "memory" else str(tmp_path / "qdrant")


@pytest.fixture
def name() -> str:
    """A collection that no other test has."""
    return f"test-{uuid.uuid4().hex}"


Opened = Callable[..., LightMem]


@pytest.fixture
def opened(path: Any, name: str) -> Iterator[Opened]:
    """Opens the test's database with the Qdrant and the settings that are given; closed when the test ends."""
    memories: list[LightMem] = []

    def open_memory(qdrant: str | tuple[str, ...] | None, at: Any = None, **settings: Any) -> LightMem:
        embedder = None if settings.get("embedder") == "none" else settings.pop("embedder", HashEmbedder())
        fixed = {"qdrant": qdrant, "memory_manager": "none", "qdrant_timeout_seconds": 5.0}
        fixed |= {} if qdrant is None else {"qdrant_collection": name}
        config = LightMemConfig(**{**fixed, **settings})
        memories.append(LightMem(path if at is None else at, config, embedder=embedder))
        return memories[-1]

    yield open_memory
    for memory in memories:
        memory.close()


def projection_of(memory: LightMem) -> Any:
    """The engine's projection, for what no public method tells."""
    return memory._index.projection


def exact_of(memory: LightMem) -> ExactIndex:
    """An exact index of the engine's database."""
    return ExactIndex(memory._store, 1 << 24, memory.config.conversation_gap_hours)
