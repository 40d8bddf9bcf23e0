"""Row level security on PostgreSQL: a second fence behind the ``user_id`` in every statement.

A transaction says whose rows it is about (``app.user_id``), or that it is about everybody's
(``app.everybody``); a policy on every table of users' rows lets it see and write no others. A transaction
that says neither sees nothing and writes nothing. ``FORCE`` holds the owner of the tables to it as well;
a superuser passes all policies.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from lightmem_integrations.errors import UsageError
from lightmem_integrations.stores.sql import schema

POLICY = "lightmem_user"

# Sub-selects: the settings are read once a statement, not once a row.
_MINE = (
    "user_id = (SELECT current_setting('app.user_id', true)) OR (SELECT current_setting('app.everybody', true)) = 'on'"
)
_FENCED = text("SELECT tablename FROM pg_policies WHERE schemaname = current_schema() AND policyname = :policy")
_GRANTEES = text(
    "SELECT DISTINCT g.grantee::regrole::text FROM pg_class c, aclexplode(c.relacl) g "
    "WHERE c.oid = 'users'::regclass AND g.privilege_type = 'INSERT' AND g.grantee NOT IN (0, c.relowner)"
)
_ROLE = text("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = :name")
_ME = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")


def fence(connection: Connection) -> None:
    """Put the policy on every table of users' rows that lacks it."""
    fenced = set(connection.execute(_FENCED, {"policy": POLICY}).scalars())
    for table in schema.metadata.sorted_tables:
        if "user_id" in table.c and table.name not in fenced:
            for statement in (
                f"CREATE POLICY {POLICY} ON {table.name} USING ({_MINE}) WITH CHECK ({_MINE})",
                f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            ):
                connection.exec_driver_sql(statement)


def renew(connection: Connection) -> None:
    """After a migration: the policy and the rights for tables that are new, where the old ones had them."""
    if connection.execute(_FENCED, {"policy": POLICY}).first() is None:
        return
    fence(connection)
    for role in connection.execute(_GRANTEES).scalars().all():
        _grant(connection, role)


def allow(connection: Connection, role: str, password: str | None) -> None:
    """Make a plain role if it is not there, and give it the rights that the engine needs, and no others.

    Args:
        connection: as the owner of the tables; to make a role, one with CREATEROLE.
        role: its name.
        password: set as its password; None leaves it as it is.

    Raises:
        UsageError: the role passes all policies.
    """
    found = connection.execute(_ROLE, {"name": role}).first()
    if found is not None and (found.rolsuper or found.rolbypassrls):
        raise UsageError("role", "must not be a superuser and must not have BYPASSRLS: no policy holds for it", role)
    quoted = connection.dialect.identifier_preparer.quote_identifier(role)
    if found is None:
        connection.exec_driver_sql(f"CREATE ROLE {quoted} LOGIN")
    if password is not None:
        connection.exec_driver_sql(f"ALTER ROLE {quoted} PASSWORD '{_scrambled(connection, role, password)}'")
    _grant(connection, quoted)


def _scrambled(connection: Connection, role: str, password: str) -> str:
    """The password as the server keeps it, so that it is in no log of statements."""
    driver: Any = connection.connection.dbapi_connection
    made: bytes = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return made.decode()


def _grant(connection: Connection, role: str) -> None:
    schema_name = connection.dialect.identifier_preparer.quote_identifier(
        connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    )
    tables = schema.metadata.sorted_tables
    for statement in (
        f"GRANT USAGE ON SCHEMA {schema_name} TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(table.name for table in tables)} TO {role}",
        *(
            f"GRANT USAGE ON SEQUENCE {table.name}_{column.name}_seq TO {role}"
            for table in tables
            for column in table.c
            if column is table.autoincrement_column
        ),
    ):
        connection.exec_driver_sql(statement)


def passes(connection: Connection) -> bool:
    """There are policies, and this role passes them."""
    there = connection.execute(_FENCED, {"policy": POLICY}).first() is not None
    return there and bool(connection.execute(_ME).scalar_one())
