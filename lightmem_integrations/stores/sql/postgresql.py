"""PostgreSQL: connections, transactions, and its errors in our words.

Writers of one user take turns by an advisory lock on the user; each of them also shares a lock on the
whole, which maintenance takes alone. Every transaction says whose rows it is about, for the policies of
``access``; where there are none, that changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, TextClause, create_engine, event, text
from sqlalchemy import exc as sa_exc

from lightmem_integrations.errors import (
    CorruptDataError,
    MissingDependencyError,
    StorageBusyError,
    StorageError,
    UsageError,
)

OLDEST = 12
"""Older servers are refused; what the package does is tested with 15."""

POOL_SIZE = 8
"""Connections of one engine at most, unless the URL's ``pool_size`` says otherwise; who comes later waits."""

RECYCLE_SECONDS = 1800
"""A connection is not used for longer, so that a moved server and a balancer's limits are followed."""

# What psycopg is told, unless the URL says otherwise: seconds, and milliseconds for the timeout of TCP. A network
# that swallows everything is noticed within a minute.
_CONNECTING = {
    "application_name": "lightmem",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    # Nothing is prepared: each statement is planned for the user that it is about. A plan for all users reads the
    # whole memory of a large one. Balancers that share connections between transactions need no care, too.
    "prepare_threshold": None,
}


# ------------------------------------------------------------------------------ connections
def open_engine(url: URL, busy_timeout_seconds: float) -> Engine:
    """An engine with pooled connections, which are looked at before use. Nothing is connected to yet.

    Raises:
        UsageError: the URL names another driver than psycopg, or its ``pool_size`` is no number above 0.
        MissingDependencyError: psycopg is not installed.

    Connecting raises StorageError where the server is older than ``OLDEST``.
    """
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError("path_or_url", "must begin with postgresql+psycopg:// (psycopg 3)", url.drivername)
    size = url.query.get("pool_size", str(POOL_SIZE))
    if not isinstance(size, str) or not size.isdecimal() or int(size) < 1:
        raise UsageError("path_or_url", "must have a whole number above 0 as pool_size", size)
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg").difference_update_query(["pool_size"]),
            connect_args={name: value for name, value in _CONNECTING.items() if name not in url.query}
            | {"cursor_factory": _binary_cursor()},
            pool_size=int(size),
            max_overflow=0,
            pool_timeout=busy_timeout_seconds,
            pool_pre_ping=True,
            pool_recycle=RECYCLE_SECONDS,
            hide_parameters=True,  # an error must not quote what was said
            json_serializer=_json,
            json_deserializer=_from_json,
        )
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "psycopg", "postgres", "PostgreSQL") from error
    event.listen(engine, "connect", _check_version, insert=True)  # before SQLAlchemy asks what old servers lack
    engine.update_execution_options(lock_timeout=f"{max(1, round(busy_timeout_seconds * 1000))}ms")
    return engine


def _binary_cursor() -> Any:
    """Vectors come as they are, and not as hexadecimal text of twice their size."""
    import psycopg

    class BinaryCursor(psycopg.Cursor[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.format = psycopg.pq.Format.BINARY

    return BinaryCursor


def _check_version(connection: Any, _record: object) -> None:
    """Raise if the server, of which this is a connection, is too old."""
    info = connection.info
    if info.server_version < OLDEST * 10_000:
        raise StorageError(
            f"the server at {info.host}:{info.port} is PostgreSQL {info.parameter_status('server_version')}; "
            f"{OLDEST} or newer is needed. Upgrade the server."
        )


def _json(value: Any) -> str:
    """JSON that means the same after JSONB, which writes 1e16 and larger floats as whole numbers, rounded to ten."""
    text = json.dumps(value)
    return json.dumps(_whole(value)) if "e+" in text else text


def _from_json(data: bytes | str) -> Any:
    # json.loads would look for the encoding of bytes; most of our objects are empty.
    return {} if data == b"{}" else json.loads(data if isinstance(data, str) else data.decode())


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and abs(value) >= 1e16 else value


# ------------------------------------------------------------------------------ transactions
# Whose rows, for the policies; "nobody" is the empty string, which is nobody's id.
_WHOSE = "set_config('app.user_id', :user, true), set_config('app.everybody', :everybody, true)"
_WAITING = "set_config('lock_timeout', :patience, true)"
_RELAXED = "set_config('synchronous_commit', 'off', true)"
# Databases may hold several LightMems, in schemas of their own.
_ALL = "hashtextextended('', hashtext(current_schema()))"
_ONE = "hashtextextended(:user, hashtext(current_schema()))"
_IN_TURN = f"pg_advisory_xact_lock_shared({_ALL}), pg_advisory_xact_lock({_ONE})"


def _select(*parts: str) -> TextClause:
    return text(f"SELECT {', '.join(parts)}")  # evaluated in order


_READ = _select("set_config('transaction_read_only', 'on', true)", _WHOSE)
_WRITE = {
    (one, relaxed): _select(_WAITING, *[_RELAXED] * relaxed, _WHOSE, *[_IN_TURN] * one)
    for one in (True, False)
    for relaxed in (True, False)
}
_KEEP_OUT = _select(f"pg_advisory_xact_lock({_ALL})")


@contextmanager
def transaction(connection: Connection, user_id: str | None, *, writing: bool, relaxed: bool) -> Iterator[None]:
    """See ``dialect.transaction``. One that writes about everybody locks only the rows that it touches."""
    patience = connection.get_execution_options()["lock_timeout"]
    connection = connection.execution_options(isolation_level="READ COMMITTED" if writing else "REPEATABLE READ")
    whose = {"user": user_id or "", "everybody": "on" if user_id is None else "off"}
    with connection.begin():
        if writing:
            connection.execute(_WRITE[user_id is not None, relaxed], {"patience": patience, **whose})
        else:
            connection.execute(_READ, whose)
        yield


def keep_writers_out(connection: Connection) -> None:
    """See ``dialect.keep_writers_out``."""
    connection.execute(_KEEP_OUT)


# ------------------------------------------------------------------------------ errors
_AGAIN = "Nothing was written; try again."
_LOST = (
    "The next call connects anew. Whether the last write was kept is not known: "
    "adding the same messages again, with their ids, is safe."
)
_RIGHTS = (
    "Nothing was written. The role lacks rights, or the tables are missing or those of an older release: run "
    "`lightmem db init postgresql+psycopg://OWNER@HOST/DATABASE --role NAME` as their owner."
)

# By SQLSTATE, or else by its class: our class of error, what happened, what to do.
_TOLD: dict[str, tuple[type[StorageError], str, str]] = {
    "08": (StorageError, "the connection to {} was lost", _LOST),
    "22": (StorageError, "{} cannot hold a value", "Nothing was written."),
    "25006": (StorageError, "{} can only be read", "Nothing was written. It may be a standby: name the primary."),
    "28": (StorageError, "{} refuses this user or password", "Check both."),
    "3D000": (StorageError, "{} is not there", "Create the database (`createdb`), or name another."),
    "3F000": (StorageError, "{} has no schema to work in", "Create the schema that its search_path names."),
    "40": (StorageBusyError, "{} had two writers in each other's way", _AGAIN),
    "42501": (StorageError, "{} does not allow that", _RIGHTS),
    "42P01": (CorruptDataError, "{} lacks a table", "Is it the right database, and the right schema?"),
    "42703": (CorruptDataError, "{} has tables that are not LightMem's", "Is it the right database, and schema?"),
    "53100": (StorageError, "the disk of {} is full", "Nothing was written. Free some space and retry."),
    "53300": (
        StorageBusyError,
        "{} has no connection left",
        "Try again, raise its max_connections, or lower pool_size in the URLs.",
    ),
    "53": (StorageBusyError, "{} is short of means", _AGAIN),
    "55P03": (
        StorageBusyError,
        "{} is locked by another writer of this user",
        "Nothing was written. Try again, or raise busy_timeout_seconds.",
    ),
    "57014": (StorageBusyError, "{} broke off what took too long", "Nothing was written. See its statement_timeout."),
    "57P03": (StorageBusyError, "{} is starting or stopping", _AGAIN),
    "57": (StorageError, "the connection to {} was lost", _LOST),
    "58": (StorageError, "{} cannot read or write its files", _AGAIN),
    "XX": (CorruptDataError, "{} may be damaged", "See the log of the server."),
}

# libpq gives no SQLSTATE for a connection that was never made. The words are the server's, in English.
_NOT_CONNECTED = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "authentication failed": "28000",
    "is not permitted to log in": "28000",
    "permission denied for database": "42501",
    "too many": "53300",  # clients already; connections for role or database
    "connection slots": "53300",
    "system is": "57P03",  # starting up, shutting down
    "not yet accepting": "57P03",
}


def translate(error: sa_exc.DBAPIError, path: str) -> StorageError:
    """A driver's error in our words, by SQLSTATE. It quotes no value of a row."""
    cause: Any = error.orig
    reason = getattr(getattr(cause, "diag", None), "message_primary", None) or _last_line(str(cause))
    lost = "08" if error.connection_invalidated else ""
    code: str = getattr(cause, "sqlstate", None) or _code_of(str(cause)) or lost
    for known in (code, code[:2]):
        if known in _TOLD:
            kind, what, advice = _TOLD[known]
            return kind(f"{what.format(path)} ({reason}). {advice}")
    if not code and isinstance(error, sa_exc.OperationalError):
        advice = "Check host and port, and that PostgreSQL runs there."
        return StorageError(f"{path} cannot be reached ({reason}). {advice}")
    return StorageError(f"{path}: {reason}")


def _last_line(told: str) -> str:
    """What libpq says of the last address that it tried, without the question that it asks after it."""
    lines = [line.strip() for line in told.splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1] if lines else "no reason given"


def _code_of(told: str) -> str | None:
    if 'database "' in told and "does not exist" in told:
        return "3D000"
    if 'role "' in told and "does not exist" in told:
        return "28000"
    return next((code for words, code in _NOT_CONNECTED.items() if words in told), None)
