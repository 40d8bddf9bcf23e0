"""A way to Qdrant that leads elsewhere or breaks: told with what to do, nothing lost, and well again by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from lightmem_integrations import LightMem
from lightmem_integrations.cli import app
from lightmem_integrations.errors import IndexUnavailableError, StorageError, UsageError
from lightmem_integrations.stores.qdrant import projection
from tests.faults.proxy import Proxy
from tests.qdrant.conftest import projection_of
from tests.qdrant.test_index import CATS, finding, reasons, stored, texts
from tests.qdrant.test_server import wait_for
from tests.qdrant_servers import qdrant

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

server_test = pytest.mark.qdrant_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qdrant is asked again at once after it could not be reached."""
    monkeypatch.setattr(projection, "REST_SECONDS", 0.0)


# ------------------------------------------------------------------------------ what is no address
@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:6333", "must begin with http:// or https://"),
        ("localhost:6333/path", "must begin with http:// or https://"),
        ("http:/127.0.0.1:6333", "must begin with http:// or https://"),
        ("https//127.0.0.1", "must begin with http:// or https://"),
        ("ana:s3cret@127.0.0.1:6333", "must begin with http:// or https://"),
        ("ftp://ana:s3c/ret@127.0.0.1", "must be http://host:port"),
        ("http://127.0.0.1:6333?api-key=s3cret", "give qdrant_api_key"),
        ("http://127.0.0.1:6333#s3cret", "give qdrant_api_key"),
        ("http://ana:s3cret@127.0.0.1:6333", "give qdrant_api_key"),
    ],
)
def test_what_is_no_address_is_told_and_makes_no_folder(opened, tmp_path, monkeypatch, url, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told) as error:
        opened(url)
    assert "s3c" not in str(error.value)
    assert [path for path in tmp_path.iterdir() if path.name != "memory.db"] == []


# ------------------------------------------------------------------------------ something else answers
@contextmanager
def answering(status: int, body: bytes, kind: str = "text/html") -> Iterator[int]:
    """An HTTP server that answers everything with the same; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>Welcome</html>", "what answers there is no Qdrant"),
        (200, b"\xff\xfe", "what answers there is no Qdrant"),
        (200, b'{"hello": 1}', "what answers there is no Qdrant"),
        (302, b"", "no Qdrant: 302"),
        (404, b"<html>not here</html>", "no Qdrant: 404 <html>not here</html>"),
        (405, b"", "no Qdrant: 405"),
        (502, b"bad gateway", "bad gateway"),
    ],
)
@pytest.mark.parametrize("grpc", [True, False])
def test_something_else_that_answers_there_is_told_and_nothing_is_lost(opened, status, body, told, grpc):
    with answering(status, body) as port:
        url = f"http://127.0.0.1:{port - 1 if grpc else port}"
        memory = opened(url, qdrant_grpc=grpc)
        (error,) = memory.add(CATS, user_id="ana").errors
        assert f"Qdrant at {url} cannot be reached" in error
        assert grpc or told in error
        assert ("set qdrant_grpc=False" in error) == grpc
        assert "Check http or https, host and port" in error
        hits = memory.search("Miso4", user_id="ana", k=1)
        assert texts(hits) == [CATS[4]["content"]]
        assert "searched without Qdrant" in reasons(hits).pop()
        with pytest.raises(IndexUnavailableError):
            memory.flush()
        assert not finding(memory).ok


@pytest.mark.parametrize("version", ["1.9.0", "1.16.9-dev", "0", "weird", ""])
def test_an_old_server_is_refused_by_its_number(opened, version):
    body = json.dumps({"title": "qdrant - vector search engine", "version": version}).encode()
    refused = pytest.raises(StorageError, match=rf"is version {version}; 1\.17 or newer is needed\. Upgrade the server")
    with answering(200, body, "application/json") as port, refused:
        opened(f"http://127.0.0.1:{port}", qdrant_grpc=False)


@server_test
@pytest.mark.parametrize("grpc", [True, False])
@pytest.mark.parametrize("where", ["https", "gRPC's port"])
def test_a_wrong_part_of_the_address_is_told(opened, qdrant_server, where, grpc):
    port = qdrant_server.port
    url = f"https://127.0.0.1:{port}" if where == "https" else f"http://127.0.0.1:{port + 1}"
    memory = opened(url, qdrant_grpc=grpc)
    (error,) = memory.add(CATS, user_id="ana").errors
    assert "cannot be reached" in error
    assert "Check http or https, host and port" in error
    assert texts(memory.search("Miso4", user_id="ana", k=1)) == [CATS[4]["content"]]


# ------------------------------------------------------------------------------ at the command line
@pytest.fixture
def lightmem(path: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command on the test's database, with variables of Qdrant."""

    def run(*arguments: str, code: int = 0, **variables: str) -> Any:
        environment = {f"LIGHTMEM_{key}": value for key, value in variables.items()}
        environment |= {"LIGHTMEM_QDRANT_COLLECTION": name, "LIGHTMEM_DB": str(path)}
        result = CliRunner().invoke(app, list(arguments), env=environment)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@server_test
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("grpc", ["true", "false"])
def test_a_key_at_the_command_line(lightmem, opened, grpc):
    settings = {"QDRANT__SERVICE__API_KEY": "r1ght", "QDRANT__SERVICE__READ_ONLY_API_KEY": "l00king"}
    opened(None, embedder="none").add(CATS, user_id="ana")
    with qdrant(settings=settings) as guarded:
        told = {"": "Check qdrant_api_key", "wr0ng": "Check qdrant_api_key", "l00king": "it has to read and write"}
        for key, hint in told.items():
            of_qdrant = {"QDRANT": guarded.url, "QDRANT_API_KEY": key, "QDRANT_GRPC": grpc}
            assert hint in lightmem("doctor", "--embedder", "none", code=3, **of_qdrant).stdout
            found = lightmem("search", "Miso4", "--user", "ana", "--json", **of_qdrant)
            assert hint in found.stdout
            assert not key or key not in found.output
        right = {"QDRANT": guarded.url, "QDRANT_API_KEY": "r1ght", "QDRANT_GRPC": grpc}
        lightmem("worker", "--once", **right)
        assert "0 changes wait" in lightmem("doctor", **right).stdout


@server_test
def test_doctor_and_forget_know_of_the_qdrant_of_the_environment(lightmem, opened, qdrant_server):
    memory = opened(qdrant_server.url)
    memory.add(CATS, user_id="ana")
    of_qdrant = {"QDRANT": qdrant_server.url}
    assert "✓ qdrant" in lightmem("doctor", **of_qdrant).stdout
    assert "qdrant" not in lightmem("doctor").stdout
    assert "✓ qdrant" in lightmem("doctor", "--qdrant", qdrant_server.url).stdout
    lightmem("forget", "--user", "ana", "--id", "m4", "--yes", **of_qdrant)
    assert len(stored(memory)) == len(CATS) - 1
    projection_of(memory).collection.delete([str(stored(memory)[0].id)])
    assert "1 entries are missing" in lightmem("doctor", code=3, **of_qdrant).stdout


def test_a_wrong_address_at_the_command_line(lightmem, opened):
    opened(None, embedder="none").add(CATS, user_id="ana")
    down = {"QDRANT": "http://127.0.0.1:1"}
    assert "Check http or https, host and port" in lightmem("search", "Miso4", "--user", "ana", "--json", **down).stdout
    assert "cannot be reached" in lightmem("doctor", code=3, **down).stdout
    told = lightmem("search", "Miso4", "--user", "ana", code=2, QDRANT="127.0.0.1:6333").stderr
    assert told.startswith("error: qdrant must begin with http://")


# ------------------------------------------------------------------------------ a connection that is cut
def told(memory: LightMem) -> bool:
    """Qdrant could be told what waits; gRPC takes a moment before it connects anew."""
    try:
        memory.flush()
    except IndexUnavailableError:
        return False
    return True


@server_test
@pytest.mark.parametrize("grpc", [True, False])
def test_wherever_a_call_is_cut_qdrant_is_told_in_the_end(opened, qdrant_server, grpc):
    """The network goes after ever more bytes of an ``add``, until there are none left to cut."""
    with Proxy(qdrant_server.port + grpc) as proxy:
        memory = opened(f"http://127.0.0.1:{proxy.port - grpc}", qdrant_grpc=grpc, qdrant_timeout_seconds=2)
        memory.add("First.", user_id="ana")
        failed = 0
        for number, after in enumerate(range(20, 60_000, 1_511)):
            proxy.left = after
            said = [{"role": "user", "content": f"Cut{number}x{n} was said.", "id": f"{number}-{n}"} for n in range(5)]
            result = memory.add(said, user_id="ana")
            assert result.added == 5
            was_cut = not proxy.is_up
            failed += was_cut
            proxy.left, proxy.is_up = None, True
            wait_for(lambda: told(memory))
            assert len(stored(memory)) == 1 + 5 * (number + 1), "without a restart"
            hits = memory.search(f"Cut{number}x3", user_id="ana", k=1, strategy="bm25")
            assert (texts(hits), reasons(hits)) == ([f"Cut{number}x3 was said."], {""})
            if not was_cut:
                break
        assert not was_cut
        assert failed
        assert list(projection_of(memory).differences()) == []
        assert finding(memory).ok
