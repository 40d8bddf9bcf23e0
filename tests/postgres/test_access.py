"""Row level security: what holds when the engine, or whoever has its connection, forgets whose rows it wants."""

from __future__ import annotations

import json
from contextlib import closing
from urllib.parse import quote

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import select
from typer.testing import CliRunner

from lightmem_integrations import LightMem
from lightmem_integrations.cli import app
from lightmem_integrations.errors import StorageError, UsageError
from lightmem_integrations.stores.sql.schema import entries, metadata, turns
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import HashEmbedder
from tests.servers import GUARDED, OWNER, PLAIN, PostgreSQL

pytestmark = pytest.mark.postgres

USERS = ("ana", "bob")
OF_USERS = sorted(table.name for table in metadata.sorted_tables if "user_id" in table.c)


def init(*arguments: str, code: int = 0, **env: str) -> str:
    result = CliRunner().invoke(app, ["db", "init", *arguments], env=env)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def filled(owner: str, plain: str) -> str:
    """Memories of two users, written by the plain role; its URL."""
    init(owner, "--role", PLAIN)
    with LightMem(plain, embedder=HashEmbedder()) as memory:
        for user in USERS:
            memory.add([f"I am {user}.", f"{user} has a cat."], user_id=user)
    return plain


def test_every_table_of_users_rows_has_its_policy(filled, ask):
    assert sorted(row[0] for row in ask("SELECT tablename FROM pg_policies WHERE schemaname = current_schema()")) == (
        OF_USERS
    )
    forced = ask(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace "
        "AND relrowsecurity AND relforcerowsecurity"
    )
    assert sorted(row[0] for row in forced) == OF_USERS


@pytest.mark.parametrize("role", [PLAIN, OWNER])
@pytest.mark.parametrize("table", OF_USERS)
def test_who_names_no_user_sees_and_changes_nothing(filled, ask, table, role):
    assert ask(f"SELECT count(*) FROM {table}", role) == [(0,)]
    assert ask(f"UPDATE {table} SET user_id = 'eve'", role) == [(0,)]
    assert ask(f"DELETE FROM {table}", role) == [(0,)]


@pytest.mark.parametrize("role", [PLAIN, OWNER])
def test_who_names_a_user_sees_and_changes_no_other(filled, ask, role):
    assert ask("SELECT DISTINCT user_id FROM turns", role, user_id="ana") == [("ana",)]
    assert ask("UPDATE turns SET content = 'gone' WHERE user_id = 'bob'", role, user_id="ana") == [(0,)]
    assert ask("DELETE FROM index_outbox WHERE user_id = 'bob'", role, user_id="ana") == [(0,)]
    assert ask("SELECT DISTINCT user_id FROM turns ORDER BY 1", role, everybody="on") == [("ana",), ("bob",)]
    new = "INSERT INTO users (user_id, version, epoch) VALUES ('bob2', 1, '')"
    for statement in (new, "UPDATE turns SET user_id = 'bob'"):
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            ask(statement, role, user_id="ana")
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        ask(new, role)


def test_a_statement_that_forgets_its_user_gets_no_others(filled):
    with closing(SqlStore(filled)) as store:
        with store.reading("ana") as connection:
            assert set(connection.execute(select(entries.c.user_id)).scalars()) == {"ana"}
        with store.reading(None) as connection:
            assert set(connection.execute(select(entries.c.user_id)).scalars()) == set(USERS)
        with store.writing("bob") as connection:
            assert connection.execute(turns.update().values(role="user")).rowcount == 2


def test_a_setting_ends_with_its_transaction(filled):
    with closing(SqlStore(filled)) as store:
        with store.reading(None):
            pass
        with store._engine.connect() as connection:
            assert connection.execute(select(entries.c.user_id)).all() == []


def test_forgetting_and_looking_after_all_users_works_behind_the_fence(filled):
    with LightMem(filled, embedder=HashEmbedder()) as memory:
        assert memory.stats()["rows"]["turns"] == 4
        assert memory.doctor(repair=True).ok
        assert memory.forget(user_id="ana").rows["turns"] == 2
        assert [hit.entry.user_id for hit in memory.search("cat", user_id="bob", k=1)] == ["bob"]
        assert LightMem.reindex(filled, embedder=HashEmbedder(name="other")) == 2


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE turns", "TRUNCATE turns CASCADE", "CREATE TABLE mine (x int)", "DROP POLICY lightmem_user ON turns",
     "ALTER TABLE turns DISABLE ROW LEVEL SECURITY", "CREATE ROLE eve"],
)  # fmt: skip
def test_the_plain_role_has_no_rights_beyond_rows(filled, ask, statement):
    with pytest.raises(InsufficientPrivilege):
        ask(statement)


def test_superusers_are_told_that_no_policy_holds_for_them(filled, server: PostgreSQL, schema):
    for user in (PLAIN, OWNER, "postgres"):
        with LightMem(server.url(user=user, schema=schema), embedder=HashEmbedder()) as memory:
            report = memory.doctor()
            assert report.ok
            assert ("this role passes it" in str(report)) == (user == "postgres")


# ------------------------------------------------------------------------------ lightmem db init
def test_init_may_be_done_again(owner, plain):
    said = [init(owner, "--role", PLAIN) for _ in range(2)]
    assert said[0] == said[1]
    assert said[0].endswith(f"is ready for {PLAIN}\n")
    LightMem(plain, embedder=HashEmbedder()).close()


def test_init_makes_a_role_with_a_password_that_is_written_nowhere(server: PostgreSQL, schema, owner):
    secret = "o'rly? 100% s3cret"
    server.run(f"DROP ROLE IF EXISTS {GUARDED}")
    told = init(owner, "--role", GUARDED, "--password-env", "PW", "--json", PW=secret)
    assert json.loads(told)["role"] == GUARDED
    url = server.url(user=GUARDED, schema=schema)
    with_it = url.replace("@", f":{quote(secret, safe='')}@")
    with LightMem(with_it, embedder=HashEmbedder()) as memory:
        assert memory.add("Hello.", user_id="ana").added == 1
        assert "s3cret" not in repr(memory)
    assert "s3cret" not in told + (server.folder / "log").read_text()
    with pytest.raises(StorageError, match="refuses this user or password") as refused:
        LightMem(url.replace("@", ":wr0ng@"), embedder=HashEmbedder())
    assert "wr0ng" not in str(refused.value)
    server.run(f"DROP OWNED BY {GUARDED}", f"DROP ROLE {GUARDED}")


def test_init_refuses_what_makes_no_sense(server: PostgreSQL, owner, tmp_path):
    assert "must not be a superuser" in init(owner, "--role", "postgres", code=2)
    assert "must name PostgreSQL" in init(str(tmp_path / "memory.db"), code=2)
    assert "must name an environment variable" in init(owner, "--role", PLAIN, "--password-env", "NO_SUCH", code=2)
    assert "must come with --role" in init(owner, "--password-env", "HOME", code=2)


def test_a_plain_role_without_tables_is_told_what_to_run(plain, owner, server: PostgreSQL, schema):
    server.run(f"GRANT USAGE ON SCHEMA {schema} TO {PLAIN}")
    with pytest.raises(StorageError, match=r"permission denied.*`lightmem db init"):
        LightMem(plain, embedder=HashEmbedder())
    LightMem(owner, embedder=HashEmbedder()).close()  # tables, but no rights
    with pytest.raises(StorageError, match=r"permission denied.*`lightmem db init"):
        LightMem(plain, embedder=HashEmbedder())


def test_policies_need_postgresql():
    with closing(SqlStore(":memory:")) as store, pytest.raises(UsageError, match="must name PostgreSQL"):
        store.fence()


def test_the_engine_works_where_nothing_was_prepared(owner, ask):
    with LightMem(owner, embedder=HashEmbedder()) as memory:
        memory.add("I have a cat.", user_id="ana")
        assert memory.search("cat", user_id="ana")
    assert ask("SELECT count(*) FROM turns", OWNER) == [(1,)]
