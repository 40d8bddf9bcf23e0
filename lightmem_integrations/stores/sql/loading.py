"""Many rows at once: COPY on PostgreSQL, one statement for all on SQLite."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count, islice
from typing import Any

from sqlalchemy import Connection, Table, func, select

from lightmem_integrations.core.ports import Encoded, NewTurn
from lightmem_integrations.core.types import Encoding, Passage
from lightmem_integrations.errors import UsageError
from lightmem_integrations.stores.sql import dialect, migrations
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore, chunks, passage_rows, reason, turn_rows_of

ROWS = 10_000
"""Rows that SQLite is handed at a time."""


def load(connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert rows of some columns, inside the caller's transaction; what a row lacks is NULL.

    Returns:
        rows inserted.
    """
    names = ", ".join(f'"{name}"' for name in columns)
    values = _adapted(connection, table, columns, rows)
    if connection.dialect.name == "postgresql":
        return _copy(connection, table, names, values)
    places = ", ".join("?" * len(columns))
    inserted = 0
    while part := list(islice(values, ROWS)):
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({places})", part)
        inserted += len(part)
    return inserted


def _copy(connection: Connection, table: Table, names: str, values: Iterator[tuple[Any, ...]]) -> int:
    """By way of a temporary table: COPY does not write to tables with row level security."""
    made = f"CREATE TEMP TABLE loading ON COMMIT DROP AS SELECT {names} FROM {table.name} WITH NO DATA"
    connection.exec_driver_sql(made)
    dialect.store_uncompressed(connection, "loading", table)
    cursor: Any = connection.connection.cursor()
    with cursor.copy(f"COPY loading ({names}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)
    inserted = connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM loading")
    connection.exec_driver_sql("DROP TABLE loading")
    return inserted.rowcount


def _adapted(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Any, ...]]:
    """Values as the driver takes them."""
    types = [table.c[name].type.dialect_impl(connection.dialect) for name in columns]
    adapt: list[Any] = [kind.bind_processor(connection.dialect) for kind in types]
    for row in rows:
        found = (row.get(name) for name in columns)
        yield tuple(v if v is None or a is None else a(v) for a, v in zip(adapt, found, strict=True))


# ------------------------------------------------------------------------------ turns of many users
@dataclass(frozen=True, slots=True)
class Load:
    """A turn to be stored with its vectors.

    Attributes:
        user_id: whose.
        turn: checked, with its tokens counted.
        passages: None when there are no vectors.
        error: why there are none; "" when nobody is to make any.
    """

    user_id: str
    turn: NewTurn
    passages: Sequence[tuple[Passage, Encoding]] | None = None
    error: str = ""


class SqlLoader:
    """Stores turns of many users at a time, as ``SqlStore.add_turns`` and ``save_encoded`` do for one."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    def known(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Content hashes of those of these (user, message id) pairs that are there."""
        with self._store.reading(None) as connection:
            return _hashes(connection, pairs)

    def add(self, loads: Sequence[Load], actor: str) -> int:
        """Store those that are not there yet, in one transaction, which a power cut may take back until ``settle``.

        Writers of all users wait meanwhile.

        Returns:
            how many were new.

        Raises:
            UsageError: an id is there already with another role, speaker or text; nothing was written.
        """
        with self._store.writing(None, relaxed=True) as connection:
            dialect.keep_writers_out(connection)
            fresh = _fresh(loads, _hashes(connection, [(load.user_id, load.turn.id) for load in loads]))
            if fresh:
                self._insert(connection, fresh, actor)
            return len(fresh)

    def settle(self) -> None:
        """Have everything that was stored on disk."""
        with self._store.writing(None) as connection:  # what a transaction waits for includes all before it
            migrations.write_meta(connection, "last_load", datetime.now(timezone.utc).isoformat())
            dialect.count_anew(connection)

    def _insert(self, connection: Connection, loads: Sequence[Load], actor: str) -> None:
        now = datetime.now(timezone.utc).isoformat()
        revs = _next_versions(connection, [load.user_id for load in loads])
        places = _grow_sessions(connection, loads, now)
        rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in loads:
            user, rev = one.user_id, revs[one.user_id]
            said, made, change = turn_rows_of(user, one.turn, next(places[user, one.turn.session_id]), rev, actor, now)
            rows["turns"].append(said)
            rows["entries"].append(made)
            rows["journal"].append(change)
            if one.passages is not None:
                rows["passages"] += passage_rows(user, Encoded(made["id"], 0, one.passages), rev)
            elif one.error:
                waits = {"user_id": user, "entry_id": made["id"], "attempts": 1, "error": reason(one.error)}
                rows["waiting"].append(waits)
        for table, name in (
            (s.turns, "turns"),
            (s.entries, "entries"),
            (s.journal, "journal"),
            (s.passages, "passages"),
            (s.index_outbox, "waiting"),
        ):
            if rows[name]:
                load(connection, table, list(rows[name][0]), rows[name])


def _fresh(loads: Sequence[Load], known: dict[tuple[str, str], str]) -> list[Load]:
    fresh: list[Load] = []
    for one in loads:
        key = one.user_id, one.turn.id
        if key not in known:
            known[key] = one.turn.content_hash
            fresh.append(one)
        elif known[key] != one.turn.content_hash:
            rule = "was used before with another role, speaker or text; an id names one message of a user"
            raise UsageError(f"{one.turn.origin}id", rule, one.turn.id)
    return fresh


def _hashes(connection: Connection, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for chunk in chunks(pairs):
        named = dialect.among(connection, (_T.user_id, _T.id), chunk)
        statement = select(_T.user_id, _T.id, _T.content_hash).where(named)
        found.update(((user, turn), digest) for user, turn, digest in connection.execute(statement))
    return found


def _next_versions(connection: Connection, users: Sequence[str]) -> dict[str, int]:
    """Count one more write of each of these users; returns the new versions."""
    rows = [{"user_id": user, "version": 1, "epoch": uuid.uuid4().hex} for user in dict.fromkeys(users)]
    statement = dialect.upsert(connection, s.users)
    more = statement.on_conflict_do_update(index_elements=["user_id"], set_={"version": s.users.c.version + 1})
    versions = connection.execute(more.returning(s.users.c.user_id, s.users.c.version), rows)
    return {user: int(version) for user, version in versions}


def _grow_sessions(connection: Connection, loads: Sequence[Load], now: str) -> dict[tuple[str, str], Iterator[int]]:
    """Make or grow the sessions; returns the places in each that come next."""
    grown: dict[tuple[str, str], list[int]] = {}
    for one in loads:
        grown.setdefault((one.user_id, one.turn.session_id), []).append(one.turn.tokens)
    places: dict[tuple[str, str], Iterator[int]] = {key: count(0) for key in grown}
    for chunk in chunks(list(grown)):
        last = select(func.max(_T.seq)).where(_T.user_id == _C.user_id, _T.session_id == _C.session_id)
        there = select(_C.user_id, _C.session_id, last.scalar_subquery())
        named = dialect.among(connection, (_C.user_id, _C.session_id), chunk)
        for user, session, seq in connection.execute(there.where(named)):
            places[user, session] = count(0 if seq is None else seq + 1)
    rows = [
        {
            "user_id": user,
            "session_id": session,
            "created_at": now,
            "last_updated": now,
            "turns": len(tokens),
            "total_tokens": sum(tokens),
            "compressed_tokens": 0,
            "metadata": {},
        }
        for (user, session), tokens in grown.items()
    ]
    statement = dialect.upsert(connection, s.sessions)
    new = statement.excluded
    more = {"last_updated": now, "turns": _C.turns + new.turns, "total_tokens": _C.total_tokens + new.total_tokens}
    connection.execute(statement.on_conflict_do_update(index_elements=["user_id", "session_id"], set_=more), rows)
    return places


_T, _C = s.turns.c, s.sessions.c
