"""The only module that knows which database is underneath."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import StaticPool

from lightmem_integrations.errors import CorruptDataError, MissingDependencyError, StorageBusyError, StorageError

MEMORY = ":memory:"


def open_engine(path_or_url: str | Path, busy_timeout_seconds: float) -> Engine:
    """An engine for a file path, ``":memory:"`` or a database URL.

    SQLite runs in WAL mode with ``synchronous=FULL``: when a transaction returns, it is on disk.

    Raises:
        MissingDependencyError: when the URL's driver is not installed.
        StorageError: when the folder of the file does not exist.
    """
    text = str(path_or_url)
    if "://" in text and not text.startswith("sqlite"):
        try:
            return create_engine(text, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(error.name or "driver", "postgres", "This database") from error
    in_memory = text in (MEMORY, "sqlite://", "sqlite:///:memory:")
    url = "sqlite://" if in_memory else text if "://" in text else f"sqlite:///{text}"
    if not in_memory:
        _check_folder(url.removeprefix("sqlite:///"))
    engine = create_engine(
        url,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False},
        **({"poolclass": StaticPool} if in_memory else {"pool_size": 8, "max_overflow": 64}),
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _check_folder(file: str) -> None:
    folder = Path(file).resolve().parent
    if not folder.is_dir():
        raise StorageError(f"the folder of the database does not exist: {folder}. Create it, or give another path.")


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        try:
            connection.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            # A file that may only be read is in no need of a journal; the first write will say so.
            if "readonly" not in str(error):
                raise


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    # A reader that turns into a writer half-way can fail at once, whatever the busy timeout.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def relax_durability(connection: Connection, *, relaxed: bool) -> None:
    """Let the next transactions of this connection return before they are synced (derived data only)."""
    if connection.dialect.name == "sqlite":
        cursor: Any = connection.connection.cursor()
        cursor.execute(f"PRAGMA synchronous={'NORMAL' if relaxed else 'FULL'}")
    else:
        connection.exec_driver_sql(f"SET synchronous_commit TO {'off' if relaxed else 'on'}")


def upsert(connection: Connection, table: Table) -> Any:
    """``INSERT`` that can be followed by ``on_conflict_do_nothing`` or ``on_conflict_do_update``."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def integrity_errors(connection: Connection) -> list[str]:
    """What the database itself says of its file; empty when it is sound."""
    if connection.dialect.name != "sqlite":
        return []
    rows = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check")]
    return [] if rows == ["ok"] else rows


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn the driver's errors into ours, in one place."""
    try:
        yield
    except sa_exc.TimeoutError as error:
        raise StorageBusyError(f"no free connection to {path}: {error}") from error
    except sa_exc.DBAPIError as error:
        raise _translate(error, path) from error


def _translate(error: sa_exc.DBAPIError, path: str) -> StorageError:
    reason = str(error.orig)
    low = reason.lower()
    if "locked" in low or "busy" in low:
        return StorageBusyError(
            f"{path} is locked by another process ({reason}); nothing was written. "
            "Try again, or raise busy_timeout_seconds."
        )
    if "malformed" in low or "not a database" in low or "corrupt" in low:
        return CorruptDataError(
            f"{path} is damaged or is not a LightMem database ({reason}). "
            "Restore a copy, or `lightmem export` what can still be read."
        )
    if "readonly" in low or "read-only" in low:
        return StorageError(f"{path} can only be read ({reason}); nothing was written. Check the file's permissions.")
    if "full" in low:
        return StorageError(f"the disk of {path} is full ({reason}); nothing was written. Free some space and retry.")
    if "unable to open" in low:
        return StorageError(f"{path} cannot be opened ({reason}). Check that it is a file that may be read.")
    return StorageError(f"{path}: {reason}")
