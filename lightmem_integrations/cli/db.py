"""Commands about the database itself: ``lightmem db``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output
from lightmem_integrations.errors import UsageError

app = typer.Typer(help="Prepare a database server.", no_args_is_help=True)


@app.callback()
def db() -> None:
    """Prepare a database server."""


@app.command()
def init(
    url: Annotated[str, typer.Argument(metavar="URL", help="postgresql+psycopg://OWNER@HOST/DATABASE")],
    role: Annotated[
        str | None, typer.Option("--role", metavar="NAME", help="A plain role for the engine; made if it is not there.")
    ] = None,
    password_env: Annotated[
        str | None,
        typer.Option("--password-env", metavar="NAME", help="Environment variable with the role's password."),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Create or update the tables on PostgreSQL, with row level security, and a role to use them with.

    Run it as the owner of the tables, who may make roles. Doing it again changes nothing.
    """
    from lightmem_integrations.stores.sql.store import SqlStore

    password = None if password_env is None else _password(role, password_env)
    store = SqlStore(url)
    try:
        store.fence(role, password)
    finally:
        store.close()
    if as_json:
        output.print_json({"database": store.path, "role": role})
        return
    output.print_lines([f"{store.path} is ready" + (f" for {output.printable(role)}" if role else "")])


def _password(role: str | None, variable: str) -> str:
    if role is None:
        raise UsageError("--password-env", "must come with --role", variable)
    password = os.environ.get(variable, "")
    if not password:
        raise UsageError("--password-env", "must name an environment variable that holds the password", variable)
    return password
