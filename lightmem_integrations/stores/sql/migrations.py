"""Schema versions. A new database is made at the newest; an older one runs the steps it lacks.

``STEPS[n]`` takes a database from version n to n + 1 and is never edited once released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, inspect, select

from lightmem_integrations.errors import CorruptDataError, SchemaVersionError
from lightmem_integrations.stores.sql import dialect, schema

STEPS: Mapping[int, Callable[[Connection], None]] = {}


def migrate(connection: Connection, path: str) -> None:
    """Bring the database to ``SCHEMA_VERSION``, inside the caller's transaction.

    Raises:
        SchemaVersionError: the database is newer than this release.
        CorruptDataError: it holds other tables and is none of ours.
    """
    tables = set(inspect(connection).get_table_names())
    if schema.meta.name not in tables:
        if tables:
            raise CorruptDataError(f"{path} is a database of something else: it has tables but no {schema.meta.name!r}")
        schema.metadata.create_all(connection)
        write_meta(connection, "schema_version", str(schema.SCHEMA_VERSION))
        return
    found = int(read_meta(connection, "schema_version") or 0)
    if found > schema.SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has schema version {found}; this release knows up to {schema.SCHEMA_VERSION}. "
            "Upgrade lightmem-integrations, or open another file."
        )
    for version in range(found, schema.SCHEMA_VERSION):
        STEPS[version](connection)
        write_meta(connection, "schema_version", str(version + 1))


def read_meta(connection: Connection, key: str) -> str | None:
    """One value of the ``meta`` table."""
    return connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == key)).scalar()


def write_meta(connection: Connection, key: str, value: str) -> None:
    """Set one value of the ``meta`` table."""
    statement = dialect.upsert(connection, schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
