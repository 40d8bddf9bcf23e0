"""The only module that knows which database is underneath."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    Table,
    any_,
    cast,
    create_engine,
    event,
    func,
    literal,
    make_url,
    select,
    tuple_,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import QueuePool, StaticPool

from lightmem_integrations.errors import (
    CorruptDataError,
    LightMemError,
    StorageBusyError,
    StorageError,
    UsageError,
)
from lightmem_integrations.stores.sql import access, postgresql, schema, triggers

MEMORY = ":memory:"


def open_engine(path_or_url: str | Path, busy_timeout_seconds: float) -> Engine:
    """An engine for a file path, ``":memory:"`` or a database URL. Nothing is read or written yet.

    Raises:
        UsageError: not a path and not a URL that can be understood.
        MissingDependencyError: when the URL's driver is not installed.
        StorageError: when the folder of the file does not exist.
    """
    text = str(path_or_url)
    if not text.strip():
        raise UsageError("path_or_url", "must be a file path, ':memory:' or a database URL", text)
    url = _url(text)
    if url.get_backend_name() == "postgresql":
        return postgresql.open_engine(url, busy_timeout_seconds)
    if url.get_backend_name() != "sqlite":
        rule = "must name SQLite or PostgreSQL: sqlite:///file, or postgresql+psycopg://host/database"
        raise UsageError("path_or_url", rule, url.drivername)
    in_memory = url.database in (None, "", MEMORY)
    if in_memory:
        url = URL.create("sqlite")
    elif not url.query:
        _check_folder(str(url.database))
    engine = create_engine(
        url,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False},
        hide_parameters=True,  # an error must not quote what was said
        **({"poolclass": StaticPool} if in_memory else {"poolclass": QueuePool, "pool_size": 8, "max_overflow": 64}),
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _url(text: str) -> URL:
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (sa_exc.ArgumentError, ValueError):
        rule = "must be a file path or a database URL, such as postgresql+psycopg://user:password@host/database"
        raise UsageError("path_or_url", rule, _SECRET.sub("//***@", text)) from None  # the cause quotes the password
    if "@" in (url.host or ""):
        rule = "must have what is special in a password as %40 (@), %2F (/), %3A (:) and so on"
        raise UsageError("path_or_url", rule, _SECRET.sub("//***@", text))
    return url


_SECRET = re.compile(r"//.*@")


def shown(path_or_url: str | Path) -> str:
    """A path or URL as messages show it: without its password."""
    text = str(path_or_url)
    if "://" not in text or text.startswith("sqlite"):
        return text
    try:
        url = make_url(text)
    except (sa_exc.ArgumentError, ValueError):
        return _SECRET.sub("//***@", text)
    if "@" in (url.host or ""):  # a part of the password
        return _SECRET.sub("//***@", text)
    secrets = {name: "***" for name in url.query if "password" in name}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)


def _check_folder(file: str) -> None:
    folder = Path(file).resolve().parent
    if not folder.is_dir():
        raise StorageError(f"the folder of the database does not exist: {folder}. Create it, or give another path.")


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def in_memory(engine: Engine) -> bool:
    """The database is one connection, and goes with it."""
    return engine.dialect.name == "sqlite" and engine.url.database is None


def before_first_write(engine: Engine) -> None:
    """Switch an SQLite file to write-ahead logging, once it is known to be ours or empty."""
    if engine.dialect.name == "sqlite" and not in_memory(engine):
        with closing(engine.raw_connection()) as connection, suppress(sqlite3.OperationalError):
            # Another process that opens the same new file may be quicker; the mode is the file's.
            connection.cursor().execute("PRAGMA journal_mode=WAL")


def compact(engine: Engine) -> None:
    """Rewrite the database without its free space."""
    if engine.dialect.name == "sqlite":
        with closing(engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def transaction(
    connection: Connection, user_id: str | None, *, writing: bool, relaxed: bool = False
) -> Iterator[Connection]:
    """A transaction that reads one snapshot, or one that writes after other writers of the user have ended.

    Args:
        connection: not in a transaction.
        user_id: whose rows; None for everybody's.
        writing: it writes.
        relaxed: it may be taken back by a power cut (derived data only).
    """
    if connection.dialect.name == "postgresql":
        with postgresql.transaction(connection, user_id, writing=writing, relaxed=relaxed):
            yield connection
        return
    connection = connection.execution_options(writing=writing)
    if relaxed:
        _synchronous(connection, "NORMAL")
    try:
        with connection.begin():
            yield connection
    finally:
        if relaxed:
            _synchronous(connection, "FULL")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    # A reader that turns into a writer half-way can fail at once, whatever the busy timeout.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _synchronous(connection: Connection, how: str) -> None:
    cursor: Any = connection.connection.cursor()
    cursor.execute(f"PRAGMA synchronous={how}")


def keep_writers_out(connection: Connection) -> None:
    """Wait for all writers, of any user, and let none begin before this transaction, about everybody, ends."""
    if connection.dialect.name == "postgresql":
        postgresql.keep_writers_out(connection)


def after_migration(connection: Connection) -> None:
    """Make the triggers anew that are there, and let what guards the old tables guard new ones."""
    name = connection.dialect.name
    statements = triggers.ALWAYS[name]
    if connection.exec_driver_sql("SELECT 1 FROM meta WHERE key = 'projection'").first():
        statements = [*statements, *triggers.DROP[name], *triggers.CREATE[name]]
    for statement in statements:
        connection.exec_driver_sql(statement)
    if name == "postgresql":
        store_uncompressed(connection, schema.passages.name, schema.passages)
        access.renew(connection)


def store_uncompressed(connection: Connection, name: str, table: Table) -> None:
    """In PostgreSQL, have a table with these columns store their bytes as they are: vectors do not get smaller."""
    columns = [column.name for column in table.c if isinstance(column.type, LargeBinary)]
    if columns:
        plain = ", ".join(f'ALTER COLUMN "{column}" SET STORAGE EXTERNAL' for column in columns)
        connection.exec_driver_sql(f"ALTER TABLE {name} {plain}")


def fence(connection: Connection, role: str | None, password: str | None) -> None:
    """Put row level security in place; see ``access``.

    Raises:
        UsageError: this is no PostgreSQL, or no policy holds for the role.
    """
    if connection.dialect.name != "postgresql":
        raise UsageError("path_or_url", "must name PostgreSQL: a file needs no roles", connection.dialect.name)
    access.fence(connection)
    if role is not None:
        access.allow(connection, role, password)


def passes_policies(connection: Connection) -> bool:
    """Row level security is in place, but holds nothing for the role of this connection."""
    return connection.dialect.name == "postgresql" and access.passes(connection)


def upsert(connection: Connection, table: Table) -> Any:
    """``INSERT`` that can be followed by ``on_conflict_do_nothing`` or ``on_conflict_do_update``."""
    return pg.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def among(
    connection: Connection, columns: Sequence[ColumnElement[Any]], rows: Sequence[Sequence[Any]]
) -> ColumnElement[bool]:
    """Whether columns are one of these rows, of which there may be thousands: a few parameters, planned quickly."""
    numbers = range(len(columns))
    if connection.dialect.name == "postgresql":
        arrays = [literal([row[n] for row in rows], ARRAY(columns[n].type)) for n in numbers]
        if len(columns) == 1:
            return columns[0] == any_(arrays[0])
        given = func.unnest(*arrays).table_valued(*(f"column{n}" for n in numbers)).render_derived()
        return tuple_(*columns).in_(select(*given.c))
    each = func.json_each(json.dumps(rows)).table_valued("value")
    # SQLite uses an index for values of the columns' own types alone.
    wanted = select(*(cast(func.json_extract(each.c.value, f"$[{n}]"), columns[n].type) for n in numbers))
    return columns[0].in_(wanted) if len(columns) == 1 else tuple_(*columns).in_(wanted)


def count_anew(connection: Connection) -> None:
    """After a large load: have PostgreSQL look at what is there, or it plans for a minute as if there were nothing.

    A role that does not own the tables cannot; the server does it by itself, later.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ANALYZE users, sessions, turns, entries, passages")


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
    except LightMemError:
        raise
    except sa_exc.TimeoutError as error:
        raise StorageBusyError(f"no free connection to {path}: {error}") from error
    except sa_exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise _translate(error.orig, path) from error
        raise postgresql.translate(error, path) from error
    except sqlite3.Error as error:
        raise _translate(error, path) from error
    except (sa_exc.ResourceClosedError, sa_exc.NoSuchColumnError) as error:
        raise CorruptDataError(f"{path} has tables that are not LightMem's ({error})") from error


@contextmanager
def sound_values(path: str) -> Iterator[None]:
    """Turn what damaged values do to readers into one error, which quotes none of them."""
    try:
        yield
    except LightMemError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise CorruptDataError(
            f"{path} holds a value that cannot be read ({type(error).__name__}). Restore a copy of the file."
        ) from error


def _translate(error: BaseException | None, path: str) -> StorageError:
    reason = str(error)
    low = reason.lower()
    if "locked" in low or "busy" in low:
        return StorageBusyError(
            f"{path} is locked by another process ({reason}); nothing was written. "
            "Try again, or raise busy_timeout_seconds."
        )
    if "could not decode" in low:  # the driver quotes the text
        return CorruptDataError(f"{path} is damaged: it holds text that is not UTF-8. Restore a copy of the file.")
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
