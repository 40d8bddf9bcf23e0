"""Schema versions. A new database is made at the newest; an older one runs the steps it lacks.

``STEPS[n]`` takes a database from version n to n + 1 and is never edited once released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, inspect, select

from lightmem_integrations.errors import CorruptDataError, SchemaVersionError
from lightmem_integrations.stores.sql import dialect, schema


def _buffers(connection: Connection) -> None:
    """Version 2: sensory and short-term buffer, entries without vectors, what undoes a change, a quota."""
    json = "JSONB" if connection.dialect.name == "postgresql" else "JSON"
    for statement in (
        f"""CREATE TABLE segments (
            user_id VARCHAR(255) NOT NULL, id VARCHAR(36) NOT NULL, session_id VARCHAR(255) NOT NULL,
            seq INTEGER NOT NULL, turn_ids {json} NOT NULL, tokens INTEGER NOT NULL, state VARCHAR(16) NOT NULL,
            since_us BIGINT NOT NULL, attempts INTEGER NOT NULL, error TEXT, owner VARCHAR(32), lease_us BIGINT,
            PRIMARY KEY (user_id, id),
            FOREIGN KEY (user_id, session_id) REFERENCES sessions (user_id, session_id))""",
        "CREATE INDEX segments_by_session ON segments (user_id, session_id, seq)",
        "CREATE INDEX turns_buffered ON turns (user_id, session_id, seq) WHERE state = 'buffered'",
        "CREATE TABLE llm_usage (day VARCHAR(10) NOT NULL, tokens BIGINT NOT NULL, PRIMARY KEY (day))",
        "ALTER TABLE entries ADD COLUMN by_words BOOLEAN",
        f"ALTER TABLE journal ADD COLUMN undo {json}",
    ):
        connection.exec_driver_sql(statement)


def _projection(connection: Connection) -> None:
    """Version 3: what an index outside of the database has yet to learn."""
    serial = "BIGSERIAL PRIMARY KEY" if connection.dialect.name == "postgresql" else "INTEGER PRIMARY KEY AUTOINCREMENT"
    for statement in (
        f"""CREATE TABLE projection_outbox (
            seq {serial} NOT NULL, user_id VARCHAR(255) NOT NULL, entry_id VARCHAR(36) NOT NULL,
            attempts INTEGER DEFAULT '0' NOT NULL, error TEXT, owner VARCHAR(32), lease_us BIGINT)""",
        "CREATE INDEX projection_by_user ON projection_outbox (user_id, seq)",
        "CREATE INDEX entries_by_place ON entries (user_id, session_id, seq)",
    ):
        connection.exec_driver_sql(statement)


def _waiting(connection: Connection) -> None:
    """Version 4: what waits is found without a look at what does not; times in zones of odd microseconds."""
    for statement in (
        "CREATE INDEX segments_queued ON segments (user_id) WHERE state = 'queued'",
        "CREATE INDEX segments_held ON segments (user_id, session_id) WHERE state = 'held'",
        "CREATE INDEX updates_pending ON update_queue (user_id) WHERE status = 'pending'",
        "DROP INDEX projection_by_user",
        "CREATE INDEX projection_by_user ON projection_outbox (user_id, attempts, seq)",
        "CREATE INDEX projection_claimed ON projection_outbox (user_id) WHERE owner IS NOT NULL",
    ):
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":  # a longer VARCHAR rewrites nothing
        for table, columns in (
            ("sessions", ("created_at", "last_updated")),
            ("turns", ("timestamp", "session_time")),
            ("entries", ("timestamp", "session_time")),
            ("update_queue", ("created_at",)),
            ("journal", ("at",)),
        ):
            longer = ", ".join(f"ALTER COLUMN {column} TYPE VARCHAR(48)" for column in columns)
            connection.exec_driver_sql(f"ALTER TABLE {table} {longer}")


STEPS: Mapping[int, Callable[[Connection], None]] = {1: _buffers, 2: _projection, 3: _waiting}


def is_current(connection: Connection, path: str) -> bool:
    """True when there is nothing to migrate.

    Raises:
        SchemaVersionError: the database is newer than this release.
        CorruptDataError: it holds other tables and is none of ours.
    """
    return _found(connection, path) == schema.SCHEMA_VERSION


def migrate(connection: Connection, path: str) -> None:
    """Bring the database to ``SCHEMA_VERSION``, inside the caller's transaction.

    Raises:
        SchemaVersionError, CorruptDataError: as ``is_current``.
    """
    found = _found(connection, path)
    if found is None:
        schema.metadata.create_all(connection)
        write_meta(connection, "schema_version", str(schema.SCHEMA_VERSION))
        return
    for version in range(found, schema.SCHEMA_VERSION):
        STEPS[version](connection)
        write_meta(connection, "schema_version", str(version + 1))


def _found(connection: Connection, path: str) -> int | None:
    """The version of the database; None for one without tables."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    columns = {c["name"] for c in inspect(connection).get_columns("meta")} if "meta" in tables else set()
    value = read_meta(connection, "schema_version") if {"key", "value"} <= columns else None
    if value is None or not value.isdecimal() or not int(value) >= 1:
        raise CorruptDataError(f"{path} is a database of something else, or damaged: it names no LightMem schema")
    if int(value) > schema.SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has schema version {value}; this release knows up to {schema.SCHEMA_VERSION}. "
            "Upgrade lightmem-integrations, or open another file."
        )
    return int(value)


def read_meta(connection: Connection, key: str) -> str | None:
    """One value of the ``meta`` table."""
    return connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == key)).scalar()


def write_meta(connection: Connection, key: str, value: str) -> None:
    """Set one value of the ``meta`` table."""
    statement = dialect.upsert(connection, schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
