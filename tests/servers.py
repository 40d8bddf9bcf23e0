"""Servers that tests start for themselves: private, on loopback, gone when the tests end."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

_QUICK = ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=64MB", "log_statement=ddl")

GUARDED = "guarded"
"""A role that must give a password; all others are trusted."""


def binaries() -> Path:
    """The folder of ``initdb`` and ``postgres``; skips where there is none."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("there is no PostgreSQL here: no initdb on the PATH or in /usr/lib/postgresql/*/bin")


def unprivileged(*names: str, dying: str) -> tuple[list[str], pwd.struct_passwd | None]:
    """What to put before the command of a server, and whose its files must be, if not ours.

    Args:
        names: the first of these that is a user here runs it in root's place.
        dying: the signal that the server gets when the thread that started it ends, even if that is killed.
    """
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", dying] if setpriv else []
    if os.geteuid():
        return prefix, None
    if not prefix:
        pytest.skip("a server is not run as root here, and there is no setpriv to run it as somebody else")
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = next(users[name] for name in names if name in users)
    return [*prefix, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user


@contextmanager
def server_folder(prefix: str) -> Iterator[Path]:
    """A scratch folder that an unprivileged user may look into."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class PostgreSQL:
    """One server. ``url`` connects as the superuser ``postgres``, without a password.

    Args:
        folder: its own, which is not there yet.
        settings: ``name=value``, after those that make it quick.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        self.folder, self._settings = folder, settings
        self._bin = binaries()
        self._prefix, user = unprivileged("postgres", "nobody", dying="QUIT")  # killed, it would leave shared memory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        folder.mkdir(exist_ok=True)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        made = ["initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(self._command(*made), cwd=folder, check=True, capture_output=True)
        trusting = folder / "data" / "pg_hba.conf"
        trusting.write_text(f"host all {GUARDED} 127.0.0.1/32 scram-sha-256\n{trusting.read_text()}")

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [*self._prefix, str(self._bin / name), *arguments]

    def start(self) -> None:
        """Start it, on the port that it had before, and wait until it answers."""
        for _ in range(20):
            port = self.port or random.SystemRandom().randrange(12_000, 32_000)
            settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories="]
            options = [part for setting in (*settings, *_QUICK, *self._settings) for part in ("-c", setting)]
            with (self.folder / "log").open("ab") as log:
                command = self._command("postgres", "-D", "data", *options)
                self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
            if self._answers(port):
                self.port = port
                return
        raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        asked = self._command("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port))
        while self._process.poll() is None:  # it ends when somebody else has the port
            if subprocess.run(asked, cwd=self.folder).returncode == 0:
                return True
            time.sleep(0.02)
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Break off all connections and stop; SIGKILL for a crash."""
        if self._process is not None:
            children = children_of(self._process.pid) if how is signal.SIGKILL else []
            self._process.send_signal(how)
            self._process.wait()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, how)
            self._process = None

    def url(self, database: str = "postgres", user: str = "postgres", *, schema: str | None = None) -> str:
        """A URL for the engine."""
        options = "" if schema is None else f"?options=-csearch_path%3D{schema}"
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}{options}"

    def connect(self, user: str = "postgres", *, schema: str = "public") -> psycopg.Connection[Any]:
        """A bare connection, each statement a transaction of its own unless one is begun."""
        import psycopg

        options = f"-csearch_path={schema}"
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=user, dbname="postgres", options=options, autocommit=True
        )

    def run(self, *statements: str) -> None:
        """Run statements as the superuser, each by itself."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement)


OWNER, PLAIN = "lightmem_owner", "lightmem_app"


class Schemas:
    """Schemas of one server, made once and emptied after use: making one takes as long as many tests.

    Each is as ``lightmem db init --role`` leaves it; its URL connects as the plain role.
    """

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        self._made = 0
        self._free: list[str] = []
        self._lent: dict[str, str] = {}
        server.run(f"CREATE ROLE {OWNER} LOGIN CREATEROLE")

    def url(self, key: str | None = None) -> str:
        """The URL of an empty schema; the same for the same key. None is a key of its own each time."""
        key = key or f"{len(self._lent)} of none"
        if key not in self._lent:
            self._lent[key] = self._free.pop() if self._free else self._make()
        return self._server.url(user=PLAIN, schema=self._lent[key])

    def _make(self) -> str:
        from lightmem_integrations.stores.sql.store import SqlStore

        self._made += 1
        name = f"memory{self._made}"
        self._server.run(f"CREATE SCHEMA {name} AUTHORIZATION {OWNER}")
        store = SqlStore(self._server.url(user=OWNER, schema=name))
        store.fence(PLAIN)
        store.close()
        return name

    def take_back(self) -> None:
        """Empty what was lent."""
        from lightmem_integrations.stores.sql.schema import metadata

        # ``meta`` first: it says whether there is an index to tell of what goes.
        tables = ["meta", *(table.name for table in reversed(metadata.sorted_tables) if table.name != "meta")]
        for name in self._lent.values():
            emptied = [f"DELETE FROM {name}.{table} WHERE {'true' if table != 'meta' else KEPT}" for table in tables]
            self._server.run("; ".join(emptied))
        self._free += self._lent.values()
        self._lent = {}


KEPT = "key <> 'schema_version'"


def children_of(pid: int) -> list[int]:
    """Processes that a process has started, where Linux tells them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def postgresql(settings: Sequence[str] = ()) -> Iterator[PostgreSQL]:
    """A running server."""
    pytest.importorskip("psycopg", reason="needs the postgres extra")
    with server_folder("lightmem-postgresql-") as folder:
        server = PostgreSQL(folder / "server", settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()
