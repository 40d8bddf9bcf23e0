"""Moving a database: every row of every user into another database, whichever kind either is.

What is copied is one snapshot of the source, which is only read. Tables are filled in the order of their
keys, batch by batch, and each batch is committed, so that a copy that was broken off goes on where it
was. The target says in ``meta`` that it is half-way, and nobody opens it before all of it was compared
with the source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, Float, LargeBinary, Row, Table, Text, delete, func, select, tuple_

from lightmem_integrations.errors import StorageError, UsageError
from lightmem_integrations.stores.sql import dialect, migrations
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.loading import load
from lightmem_integrations.stores.sql.outbox import PROJECTION
from lightmem_integrations.stores.sql.store import SqlStore

COPYING = "copying"
"""Key of ``meta``: what a target that is half-way is copied from."""

BATCH = 2_000
"""Rows read and committed at a time; of passages that is some 5 MB."""

# Parents before children. What is of the target alone: schema version, identity, and its index.
TABLES = tuple(table for table in s.metadata.sorted_tables if table.name not in ("meta", "projection_outbox"))
_NOT_COPIED = ("schema_version", "database", PROJECTION, COPYING)

Progress = Callable[[int, int], None]


def copy_database(source: str | Path, target: str | Path, progress: Progress = lambda done, total: None) -> int:
    """Copy a database into an empty one, or go on with that.

    Args:
        source: file or URL; only read. Nobody should write to it meanwhile.
        target: file or URL, made if it is not there. On PostgreSQL, as the owner of the tables.
        progress: called now and then with (rows done, rows in all).

    Returns:
        rows of the target.

    Raises:
        UsageError: the target holds something else, or is no database that lasts.
        StorageError: the source is not there, or is of an older release. Or it was written to meanwhile:
            then the target stays closed, and the next call begins anew.
    """
    _check_current(source)
    with closing(SqlStore(source)) as origin, closing(SqlStore(target)) as copy:
        with origin.reading(None) as snapshot:
            state = _state(snapshot)
            place = _begun(copy, dialect.shown(source if "://" in str(source) else Path(source).resolve()), state)
            sizes = {table.name: _count(snapshot, table) for table in TABLES}
            done = 0
            for table in TABLES:
                for rows in _copied(snapshot, copy, table, place):
                    done += rows
                    progress(done, sum(sizes.values()))
            with copy.reading(None) as copied:
                _compare(snapshot, copied, copy.path)
            meta = {row.key: row.value for row in snapshot.execute(select(s.meta)) if row.key not in _NOT_COPIED}
        with origin.reading(None) as now:
            if _state(now) != state:
                raise StorageError(
                    f"{origin.path} was written to while it was copied. Stop what writes to it, and run the same "
                    f"again, which begins anew; until then {copy.path} stays closed."
                )
        _finish(copy, meta)
        return done


# ------------------------------------------------------------------------------ before
def _check_current(source: str | Path) -> None:
    """Raise unless there is a database of this release: opening one of an older release would change it."""
    engine = dialect.open_engine(source, 30.0)
    path = dialect.shown(source)
    try:
        if dialect.in_memory(engine):
            raise UsageError("source", "must be a file or a database URL", str(source))
        if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).is_file():
            raise StorageError(f"there is no database at {path}")
        with (
            dialect.translated(path),
            engine.connect() as raw,
            dialect.transaction(raw, None, writing=False) as connection,
        ):
            if not migrations.is_current(connection, path):
                raise StorageError(
                    f"{path} is empty, or of an older release. What is only read cannot be brought up to date: "
                    f"`lightmem doctor --db {path}` does that."
                )
    finally:
        engine.dispose()


def _state(connection: Connection) -> str:
    """A digest that differs when anything was written."""
    digest = hashlib.sha256()
    users = select(s.users).order_by(s.users.c.user_id)
    for row in connection.execute(users, execution_options={"yield_per": BATCH}):
        digest.update(repr(tuple(row)).encode("utf-8", "backslashreplace"))
    for column in (s.turns.c.state, s.segments.c.state, s.update_queue.c.status, s.index_outbox.c.attempts):
        counted = select(column, func.count()).group_by(column).order_by(column)
        digest.update(repr([tuple(row) for row in connection.execute(counted)]).encode())
    for last in (func.max(s.journal.c.seq), func.max(s.index_outbox.c.seq), func.sum(s.llm_usage.c.tokens)):
        digest.update(f"{connection.execute(select(last)).scalar()}".encode())
    return digest.hexdigest()


def _begun(copy: SqlStore, source: str, state: str) -> dict[str, Any]:
    """Where a copy of this source is: ``source``, ``state``, and by table the key of the last row that is there."""
    found = json.loads(copy.read_meta(COPYING) or "null")
    if found is not None and (found["source"], found["state"]) == (source, state):
        return dict(found)
    with copy.writing(None) as connection:
        dialect.keep_writers_out(connection)
        if found is not None and found["source"] == source:  # but somebody wrote to it
            for table in reversed(TABLES):
                connection.execute(delete(table))
        elif found is not None or any(connection.execute(select(table).limit(1)).first() for table in TABLES):
            rule = "must be an empty database, or one that a copy of this source was begun in"
            raise UsageError("target", rule, copy.path)
        begun = {"source": source, "state": state, "last": {}}
        migrations.write_meta(connection, COPYING, json.dumps(begun))
    return begun


def check_whole(store: SqlStore) -> None:
    """Refuse a database that is half-way of being copied.

    Raises:
        StorageError: it is.
    """
    found = store.read_meta(COPYING)
    if found is not None:
        raise StorageError(
            f"{store.path} is half of a copy of {json.loads(found)['source']}. Run `lightmem migrate` with both again, "
            "which goes on."
        )


# ------------------------------------------------------------------------------ copying
def _copied(snapshot: Connection, copy: SqlStore, table: Table, place: dict[str, Any]) -> Iterator[int]:
    """Copy what is not there yet; yields the rows of each batch, of which the first were there before."""
    key = list(table.primary_key.columns)
    columns = list(table.c.keys())
    there = _count_in(copy, table)
    if there:
        yield there
    while rows := _after(snapshot, table, place["last"].get(table.name)):
        place["last"][table.name] = [getattr(rows[-1], column.name) for column in key]
        with copy.writing(None, relaxed=True) as connection:
            load(connection, table, columns, [dict(row._mapping) for row in rows])
            migrations.write_meta(connection, COPYING, json.dumps(place))
        yield len(rows)


def _after(snapshot: Connection, table: Table, last: Sequence[Any] | None) -> Sequence[Row[Any]]:
    key = list(table.primary_key.columns)
    statement = select(table).order_by(*key).limit(BATCH)
    if last is not None:
        statement = statement.where(tuple_(*key) > tuple_(*last))
    return snapshot.execute(statement).all()


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _count_in(store: SqlStore, table: Table) -> int:
    with store.reading(None) as connection:
        return _count(connection, table)


# ------------------------------------------------------------------------------ after
def _compare(source: Connection, target: Connection, path: str) -> None:
    """Raise unless both have the same rows, by table and user."""
    for table in TABLES:
        mine, theirs = _sums(source, table), _sums(target, table)
        differ = [user for user in {*mine, *theirs} if mine.get(user) != theirs.get(user)]
        if differ:
            raise StorageError(
                f"{path} has other rows in {table.name} than what it was copied from, of {len(differ)} users. It stays "
                "closed. Was it written to? Empty it, and run the same again."
            )


def _sums(connection: Connection, table: Table) -> dict[str, tuple[int, int]]:
    """By user, how many rows there are, and the sum of their digests, which is the same in any order."""
    columns = [c for c in table.c if not isinstance(c.type, LargeBinary | Text | JSON | Float)]
    sums: dict[str, tuple[int, int]] = {}
    for row in connection.execute(select(*columns), execution_options={"yield_per": BATCH}):
        user = row._mapping.get("user_id", "")
        count, total = sums.get(user, (0, 0))
        digest = hashlib.blake2b(repr(tuple(row)).encode("utf-8", "backslashreplace"), digest_size=8).digest()
        sums[user] = count + 1, (total + int.from_bytes(digest, "little")) % 2**64
    return sums


def _finish(copy: SqlStore, meta: dict[str, str]) -> None:
    """Open the copy to others, with all that was written before safely on disk."""
    with copy.writing(None) as connection:
        for key, value in meta.items():
            migrations.write_meta(connection, key, value)
        for table in TABLES:
            number = table.autoincrement_column
            if number is not None and connection.dialect.name == "postgresql":
                last = select(func.max(number)).scalar_subquery()
                sequence = func.pg_get_serial_sequence(table.name, number.name)
                connection.execute(select(func.setval(sequence, last)))
        connection.execute(delete(s.meta).where(s.meta.c.key == COPYING))
