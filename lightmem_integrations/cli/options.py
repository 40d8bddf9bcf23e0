"""Options that several commands share, and how they open a database."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightmem_integrations.errors import EmbedderError, StorageError

if TYPE_CHECKING:
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.core.types import Filter
    from lightmem_integrations.memory import LightMem

DEFAULT_DB = "lightmem.db"
DEFAULT_EMBEDDER = "minilm"

Db = Annotated[
    str, typer.Option("--db", envvar="LIGHTMEM_DB", metavar="PATH_OR_URL", help="Database: a file or a URL.")
]
User = Annotated[str, typer.Option("--user", "-u", metavar="ID", help="Whose memory.")]
Session = Annotated[str | None, typer.Option("--session", "-s", metavar="ID", help="Only this conversation.")]
Embedder = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        envvar="LIGHTMEM_EMBEDDER",
        metavar="NAME",
        help="minilm, multilingual, sentence-transformers or none. Left out: what the database was indexed with.",
    ),
]
Qdrant = Annotated[
    list[str] | None,
    typer.Option("--qdrant", metavar="URL", help="Qdrant; repeat for each server of a cluster. Else LIGHTMEM_QDRANT."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Results = Annotated[int, typer.Option("--k", "-k", metavar="N", help="How many at most.")]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="late, weighted, rrf, intersection, dense or bm25."),
]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Said at or after this time (ISO 8601).")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Said at or before this time.")]
Speaker = Annotated[list[str] | None, typer.Option("--speaker", metavar="NAME", help="Said by (repeat for several).")]


def time_of(value: str | None, option: str) -> datetime | None:
    """The time that an option names; a date is its midnight in UTC.

    Raises:
        UsageError: naming the option.
    """
    from lightmem_integrations.core.normalize import read_timestamp

    return None if value is None else read_timestamp(value, option)


def filter_of(since: str | None, until: str | None, speakers: list[str] | None) -> Filter:
    """The filter that these options describe.

    Raises:
        UsageError: when a time cannot be read.
    """
    from lightmem_integrations.core.types import Filter

    return Filter(since=time_of(since, "--since"), until=time_of(until, "--until"), speakers=speakers or None)


# ------------------------------------------------------------------------------------ opening
def is_there(db: str) -> bool:
    """A file that exists; a database server is taken at its word."""
    if "://" in db and not db.startswith("sqlite:///"):
        return not db.startswith("sqlite")
    return db != ":memory:" and Path(db.removeprefix("sqlite:///")).exists()


def shown(db: str) -> str:
    """The database as it is printed: without its password."""
    from lightmem_integrations.stores.sql import dialect

    return dialect.shown(db)


def opened(db: str, embedder: str | None = None, *, make: bool = False, **settings: Any) -> LightMem:
    """A memory that can encode, with the embedder named or the one that the database was indexed with.

    Args:
        db: file or URL.
        embedder: a preset of ``LightMemConfig.embedder``.
        make: make the database when it is not there.
        settings: of ``LightMemConfig``, in place of the environment's.

    Raises:
        StorageError: there is no database, or it cannot be opened.
        EmbedderError: it was indexed with an embedder that has no name here.
    """
    from lightmem_integrations.memory import LightMem

    if not make:
        _check_there(db)
    return LightMem(db, config_of(db, embedder, **settings))


def opened_without_model(db: str, **settings: Any) -> LightMem:
    """A memory for looking at and forgetting, whatever the database was indexed with.

    ``settings`` are of ``LightMemConfig``. The environment's do not count: see ``index_settings``.

    Raises:
        StorageError: there is no database, or it cannot be opened.
    """
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.memory import LightMem

    _check_there(db)
    name, dim = _indexed_with(db)
    settings |= {"memory_manager": "none"}
    if name in (None, "none"):
        return LightMem(db, LightMemConfig(embedder=name or DEFAULT_EMBEDDER, **settings))
    return LightMem(db, LightMemConfig(**settings), embedder=_Absent(str(name), dim))


def config_of(db: str, embedder: str | None = None, **settings: Any) -> LightMemConfig:
    """Settings with the embedder named, else with that of the database, else with the default one.

    ``settings`` are of ``LightMemConfig``, and go before the environment.

    Raises:
        EmbedderError: the database was indexed with an embedder that has no name here.
    """
    from lightmem_integrations.config import LightMemConfig

    if embedder is None and is_there(db):
        embedder = _preset(db)
    return LightMemConfig.load(embedder=embedder or DEFAULT_EMBEDDER, **settings)


def settings_of(qdrant: list[str] | None) -> dict[str, Any]:
    """The settings that ``--qdrant`` stands for."""
    return {"qdrant": tuple(qdrant)} if qdrant else {}


def index_settings(qdrant: list[str] | None = None) -> dict[str, Any]:
    """What the environment says of Qdrant, or ``--qdrant``: for commands that change or compare what is there."""
    from lightmem_integrations.config import LightMemConfig

    config = LightMemConfig.load(**settings_of(qdrant))
    return {name: getattr(config, name) for name in LightMemConfig.model_fields if name.startswith("qdrant")}


def _check_there(db: str) -> None:
    if not is_there(db) and db != ":memory:":
        raise StorageError(
            f"there is no database at {db}; `lightmem add` and `lightmem import` make one, "
            "--db or LIGHTMEM_DB names another"
        )


def _indexed_with(db: str) -> tuple[str | None, str | None]:
    """Name and dimension of the embedder that the database knows; None where it knows none yet."""
    from lightmem_integrations.stores.sql.store import SqlStore

    store = SqlStore(db)
    try:
        return store.read_meta("embedder"), store.read_meta("dim")
    finally:
        store.close()


def _preset(db: str) -> str | None:
    """The name for ``--embedder`` of what the database was indexed with."""
    from lightmem_integrations.models.embed.multilingual import MultilingualE5
    from lightmem_integrations.models.embed.onnx import OnnxMiniLM

    name, _ = _indexed_with(db)
    known = {None: None, "none": "none", OnnxMiniLM.name: "minilm", MultilingualE5.name: "multilingual"}
    if name not in known:
        raise EmbedderError(
            f"{shown(db)} was indexed with {name!r}, which is none of the embedders of the command line. "
            "`lightmem reindex --embedder NAME` rebuilds its vectors with one of them."
        )
    return known[name]


class _Absent:
    """Stands for the embedder of a database where nothing needs encoding."""

    def __init__(self, name: str, dim: str | None) -> None:
        self.name = name
        if dim is not None:
            self.dim = int(dim)

    def embed(self, texts: Any) -> Any:
        """Refuse.

        Raises:
            EmbedderError: always.
        """
        raise EmbedderError(f"this command does not load {self.name}")
