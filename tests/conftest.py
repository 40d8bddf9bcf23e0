"""Settings of every test run: no network, repeatable examples, no file left in the work tree.

``pytest --database postgresql`` runs the same tests on a PostgreSQL that it starts: what a test opens as
a file or as ``":memory:"`` is then a schema there, used by a plain role behind row level security. Tests
marked ``sqlite`` are left out.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import PostgreSQL, Schemas, binaries, postgresql

# Before anything imports huggingface_hub, which reads them once. Child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

# `ci` draws the same examples on every run; HYPOTHESIS_PROFILE=explore looks for new ones.
_SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, database=None, print_blob=True, **_SHARED)
settings.register_profile("explore", max_examples=1_000, database=None, print_blob=True, **_SHARED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# ------------------------------------------------------------------------------ which database
def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", choices=("sqlite", "postgresql"), default="sqlite", help="what the tests run on")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite(reason): about files of SQLite; left out with --database postgresql")
    if config.getoption("database") == "postgresql":
        try:
            binaries()
        except pytest.skip.Exception as reason:
            pytest.exit(f"all tests are skipped: {reason}", 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("sqlite")
    if mark is not None and item.config.getoption("database") != "sqlite":
        pytest.skip(f"SQLite only: {mark.args[0]}")


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """A PostgreSQL, one for each process that runs tests."""
    with postgresql() as started:
        yield started


@pytest.fixture(scope="session")
def schemas(server: PostgreSQL) -> Schemas:
    """Empty schemas, as ``lightmem db init`` leaves them."""
    return Schemas(server)


@pytest.fixture(autouse=True)
def _database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With ``--database postgresql``, what is named by a file is a schema of the server until the test ends."""
    if request.config.getoption("database") == "sqlite" or request.node.get_closest_marker("postgres"):
        yield
        return
    from lightmem_integrations.stores.sql import dialect

    schemas: Schemas = request.getfixturevalue("schemas")
    open_engine: Callable[..., Any] = dialect.open_engine

    def elsewhere(path_or_url: Any, busy_timeout_seconds: float) -> Any:
        text = str(path_or_url)
        if not text.strip() or "://" in text:
            return open_engine(path_or_url, busy_timeout_seconds)
        return open_engine(schemas.url(None if text == ":memory:" else text), busy_timeout_seconds)

    monkeypatch.setattr(dialect, "open_engine", elsewhere)
    yield
    schemas.take_back()


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
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A database that is not there yet; with ``--database postgresql`` a URL, which child processes can open too."""
    file = tmp_path / "memory.db"
    if request.config.getoption("database") == "sqlite":
        return file
    schemas: Schemas = request.getfixturevalue("schemas")
    return schemas.url(str(file))


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
