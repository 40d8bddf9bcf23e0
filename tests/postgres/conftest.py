"""Fresh schemas, and what several tests of PostgreSQL share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from tests.faults.conftest import spawn
from tests.servers import OWNER, PLAIN, PostgreSQL, Schemas

__all__ = ["spawn"]

_NUMBERS = count(1)


@pytest.fixture
def url(schemas: Schemas) -> Iterator[str]:
    """A schema as ``lightmem db init`` leaves it, for its plain role."""
    yield schemas.url()
    schemas.take_back()


@pytest.fixture
def schema(server: PostgreSQL, schemas: Schemas) -> Iterator[str]:
    """The name of a schema with nothing in it, which belongs to ``OWNER``."""
    name = f"fresh{next(_NUMBERS)}"
    server.run(f"CREATE SCHEMA {name} AUTHORIZATION {OWNER}")
    yield name
    server.run(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def owner(server: PostgreSQL, schema: str) -> str:
    """The URL of that schema, for its owner."""
    return server.url(user=OWNER, schema=schema)


@pytest.fixture
def plain(server: PostgreSQL, schema: str) -> str:
    """The URL of that schema, for a role without rights."""
    return server.url(user=PLAIN, schema=schema)


Ask = Callable[..., list[Any]]


@pytest.fixture
def ask(server: PostgreSQL, schema: str) -> Ask:
    """Run a statement with bare hands: as a role, with settings of the transaction; returns its rows."""

    def run(statement: str, role: str = PLAIN, **settings: str) -> list[Any]:
        with server.connect(role, schema=schema) as connection, connection.transaction():
            for name, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, true)", (f"app.{name}", value))
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]

    return run
