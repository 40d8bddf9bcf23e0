"""A way to PostgreSQL that leads elsewhere or breaks: told in our words, nothing lost, the next call works."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from lightmem_integrations import LightMem
from lightmem_integrations.cli import app
from lightmem_integrations.errors import StorageError, UsageError
from lightmem_integrations.testing import HashEmbedder
from tests.faults.proxy import Proxy
from tests.postgres.test_faults import USER, assert_sound, ids, message, open_memory
from tests.servers import GUARDED, PLAIN, PostgreSQL

pytestmark = [pytest.mark.postgres, pytest.mark.allow_hosts(["127.0.0.1"])]
SECRET = "s3c/r@t"


# ---------------------------------------------------------------------- at the command line
def complaint(*arguments: str, code: int) -> str:
    """What a command that fails says: one line, without the password."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    told = result.stderr
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert "Traceback" not in result.output
    for part in (SECRET, quote(SECRET, safe=""), "s3c", "r@t"):
        assert part not in result.output
    return told


@contextmanager
def listening(greeting: bytes) -> Iterator[int]:
    """Something that takes connections and answers whatever it is told with the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as client:
                        client.recv(1024)
                        client.sendall(greeting)

        thread = Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("command", [("stats",), ("doctor",), ("worker", "--once"), ("search", "cat", "--user", USER)])
def test_a_closed_port_is_told_with_the_reason(command):
    url = f"postgresql+psycopg://ana:{quote(SECRET, safe='')}@127.0.0.1:1/memory"
    told = complaint(*command, "--db", url, code=1)
    assert "Connection refused" in told
    assert "Check host and port, and that PostgreSQL runs there." in told


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n", b""])
def test_something_else_that_listens_there_is_told(greeting):
    with listening(greeting) as port:
        url = f"postgresql://ana:{quote(SECRET, safe='')}@127.0.0.1:{port}/memory?connect_timeout=2"
        told = complaint("stats", "--db", url, code=1)
    assert "cannot be reached" in told
    assert "that PostgreSQL runs there" in told


def test_a_server_that_says_nothing_is_given_up(server: PostgreSQL):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ana@127.0.0.1:{silent.getsockname()[1]}/memory?connect_timeout=2"
        assert "timeout" in complaint("stats", "--db", url, code=1)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://{0}:{1}@127.0.0.1:{2}/nosuch", "is not there"),
        ("postgresql://nosuch:{1}@127.0.0.1:{2}/postgres", "refuses this user or password"),
        ("postgresql://{0}:{1}@127.0.0.1:{2}/postgres?sslmode=require", "does not support SSL"),
        ("postgresql://{0}:{1}@127.0.0.1:{2}/postgres?options=-csearch_path%3Dnosuch", "no schema to work in"),
    ],
)
def test_what_the_server_refuses_is_told_at_the_command_line(server: PostgreSQL, schemas, url, told):
    schemas.url()  # makes the role
    assert told in complaint("stats", "--db", url.format(PLAIN, quote(SECRET, safe=""), server.port), code=1)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgres://ana@127.0.0.1/memory", r"sqlite:///file, or postgresql\+psycopg://host/database"),
        (f"postgresql://ana:{SECRET}@127.0.0.1/memory", "special in a password"),
    ],
)
def test_an_unusable_url_is_told_with_the_form_that_is(url, told):
    with pytest.raises(UsageError, match=told) as error:
        open_memory(url)
    assert "s3c" not in str(error.value)
    assert "r@t" not in str(error.value)
    assert "error: path_or_url" in complaint("stats", "--db", url, code=2)


def test_a_password_with_everything_in_it_works_and_is_not_shown(server: PostgreSQL):
    server.run(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{SECRET}'", f"CREATE SCHEMA odd AUTHORIZATION {GUARDED}")
    try:
        url = server.url(user=GUARDED, schema="odd").replace("@", f":{quote(SECRET, safe='')}@")
        with open_memory(url) as memory:
            assert memory.add(message(1), user_id=USER).added == 1
            assert "s3c" not in repr(memory)
        assert "refuses this user or password" in complaint("stats", "--db", url.replace("%40", "%3A"), code=1)
    finally:
        server.run("DROP SCHEMA odd CASCADE", f"DROP OWNED BY {GUARDED}", f"DROP ROLE {GUARDED}")


# ---------------------------------------------------------------------- an old server
@contextmanager
def old_server(version: str) -> Iterator[int]:
    """As much of a PostgreSQL as says its version to who connects."""

    def said(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", len(body) + 4) + body

    greeting = said(b"R", struct.pack("!i", 0))
    for name, value in (("server_version", version), ("client_encoding", "UTF8"), ("server_encoding", "UTF8")):
        greeting += said(b"S", f"{name}\0{value}\0".encode())
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as client:
                        client.recv(1024)  # who connects, since the URL says sslmode=disable
                        client.sendall(greeting + said(b"Z", b"I"))
                        client.recv(1024)

        thread = Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_old_server_is_refused():
    with old_server("9.6.24") as port:
        url = f"postgresql://ana:{quote(SECRET, safe='')}@127.0.0.1:{port}/memory?sslmode=disable&gssencmode=disable"
        with pytest.raises(StorageError, match=r"is PostgreSQL 9\.6\.24; 12 or newer is needed\. Upgrade the server"):
            open_memory(url)
        complaint("stats", "--db", url, code=1)


# ---------------------------------------------------------------------- a connection that is cut
@pytest.fixture
def proxy(server: PostgreSQL) -> Iterator[Proxy]:
    with Proxy(server.port) as started:
        yield started


def through(proxy: Proxy, server: PostgreSQL, url: str) -> str:
    """The URL by way of the proxy."""
    return url.replace(f":{server.port}/", f":{proxy.port}/")


def test_wherever_a_write_is_cut_nothing_is_lost_or_doubled(server: PostgreSQL, proxy: Proxy, url):
    """The network goes after ever more bytes of an ``add``, until there are none left to cut."""
    with open_memory(through(proxy, server, url)) as memory:
        acknowledged: list[str] = []
        refused = 0
        for number, after in enumerate(range(60, 60_000, 977)):
            proxy.left = after
            try:
                acknowledged += memory.add(message(number), user_id=USER).ids
            except StorageError as error:
                assert "was lost" in str(error) or "cannot be reached" in str(error)  # noqa: PT017
                refused += 1
            was_cut = not proxy.is_up
            proxy.left, proxy.is_up = None, True
            assert set(acknowledged) <= set(ids(memory)), "without a restart"
            if not was_cut:
                break
            memory.add(message(number), user_id=USER)  # said again
            acknowledged = [*dict.fromkeys([*acknowledged, f"m{number}"])]
            assert sorted(ids(memory)) == sorted(acknowledged)
        assert not was_cut
        assert refused > 5
        assert_sound(memory, acknowledged)


def test_wherever_a_search_is_cut_the_next_one_works(server: PostgreSQL, proxy: Proxy, url):
    with LightMem(url, embedder=HashEmbedder()) as direct:
        direct.add([message(n) for n in range(5)], user_id=USER)
        with open_memory(through(proxy, server, url)) as memory:
            for number, after in enumerate(range(10, 4_000, 201)):
                direct.add(message(100 + number), user_id=USER)  # there is something to read
                proxy.left = after
                with suppress(StorageError):
                    memory.search(f"number{100 + number}", user_id=USER)
                was_cut = not proxy.is_up
                proxy.left, proxy.is_up = None, True
                (hit,) = memory.search(f"number{100 + number}", user_id=USER, k=1, strategy="bm25")
                assert hit.source_ids == (f"m{100 + number}",)
                if not was_cut:
                    break
            assert number > 3


def test_a_network_that_is_away_for_a_while(server: PostgreSQL, proxy: Proxy, url):
    with open_memory(through(proxy, server, url)) as memory:
        memory.add(message(1), user_id=USER)
        proxy.is_up = False
        proxy.cut()
        for _ in range(2):
            for call in (lambda: memory.add(message(2), user_id=USER), lambda: memory.search("remark", user_id=USER)):
                with pytest.raises(StorageError, match=r"cannot be reached|was lost"):
                    call()
        proxy.is_up = True
        memory.add(message(2), user_id=USER)
        assert_sound(memory, ["m1", "m2"])
