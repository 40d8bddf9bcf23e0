"""Settings of every test run: no network, repeatable examples, no file left in the work tree."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports huggingface_hub, which reads them once. Child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

# `ci` draws the same examples on every run; HYPOTHESIS_PROFILE=explore looks for new ones.
_SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, database=None, print_blob=True, **_SHARED)
settings.register_profile("explore", max_examples=1_000, database=None, print_blob=True, **_SHARED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def _outside_the_work_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in a scratch folder, so that a relative path, such as the default database, lands there."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture
def closed_chat_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections of LlamaIndex's chat stores, which never do it."""
    if find_spec("aiosqlite") is None:
        yield
        return
    import aiosqlite

    connect, opened = aiosqlite.connect, []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(aiosqlite, "connect", remembered)
    yield
    for connection in opened:
        connection.stop()
        if connection._thread.ident is not None:
            connection._thread.join(10)


# ------------------------------------------------------------------------------ what the adapters' tests share
HOSTILE_IDS = [
    "ana'; DROP TABLE turns; --",
    "ana\u202e",
    "ana%",
    "an_",
    "*",
    "ANA",
    "ana ",
    "ａｎａ",
    "ana\u0301",
    '{"user_id": "ana"}',
    "../ana",
    "default",
    "None",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that is not there yet."""
    return tmp_path / "memory.db"


@pytest.fixture
def impatient(path: Path) -> Iterator[Any]:
    """An engine over a file that gives up soon when somebody else has locked it."""
    from lightmem_integrations import LightMem, LightMemConfig
    from lightmem_integrations.testing import HashEmbedder

    with LightMem(path, LightMemConfig(busy_timeout_seconds=0.05), embedder=HashEmbedder()) as memory:
        yield memory


@pytest.fixture(params=HOSTILE_IDS)
def hostile_id(request: pytest.FixtureRequest) -> str:
    """The id of somebody who is not ``ana``."""
    return str(request.param)
