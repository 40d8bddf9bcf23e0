"""Calls to Qdrant: one of several servers of a cluster, or a local one behind a lock."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock, RLock
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from lightmem_integrations.errors import IndexUnavailableError, MissingDependencyError, StorageError, UsageError

T = TypeVar("T")

OLDEST = (1, 17)
"""Servers before this one do not search by user in collections whose graph is by user."""

PAUSES = (0.1, 0.5, 1.0, 2.0)
"""Seconds before another round over the servers of a cluster; a replica that died is noticed meanwhile."""

_RETRIED = {
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "ABORTED", "RESOURCE_EXHAUSTED", "UNKNOWN", "CANCELLED"),
    "UNIMPLEMENTED",  # something else that speaks gRPC, such as a balancer with nothing behind it
}
_GRPC_OPTIONS = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 2_000}  # not two minutes
_FAILED = {"INTERNAL", "ABORTED", "RESOURCE_EXHAUSTED", "500", "507"}
"""Of these, what a server says that was reached."""

_HINTS = {
    "UNAUTHENTICATED": "Check qdrant_api_key.",
    "PERMISSION_DENIED": "Check what qdrant_api_key may do; it has to read and write.",
    "401": "Check qdrant_api_key.",
    "403": "Check what qdrant_api_key may do; it has to read and write.",
}

_NO_FOLDER = re.compile(r"https?[:/].*|([^/]*@)?[\w.-]+:\d+.*")
"""A URL that lacks its beginning, or a part of it."""


class Connection:
    """A Qdrant that may have several addresses. Thread-safe.

    Args:
        urls: ``http(s)://host:port`` of the servers of one cluster, ``":memory:"``, or one folder.
        api_key: sent with every call; None for none.
        timeout_seconds: of one call.
        grpc: speak gRPC, on the port after the one of the URL; False for HTTP alone.

    Raises:
        UsageError: an address that is none, or a local one among several.
        MissingDependencyError: qdrant-client is not installed.
    """

    def __init__(
        self, urls: Sequence[str], *, api_key: str | None = None, timeout_seconds: float = 10.0, grpc: bool = True
    ) -> None:
        self.urls = tuple(urls)
        self.is_local = not any("://" in url for url in self.urls)
        if not self.urls or (len(self.urls) > 1 and any("://" not in url for url in self.urls)):
            raise UsageError("qdrant", "must be a URL, several URLs, ':memory:' or one folder", list(self.urls))
        self._timeout = timeout_seconds
        self._advice = _advice(self.is_local, grpc)
        self._make = [_maker(url, api_key, timeout_seconds, grpc) for url in self.urls]
        self._clients: list[Any] = [None] * len(self.urls)
        self._first = 0
        self._creating = Lock()
        # Local mode breaks when threads use it at once.
        self._turn: AbstractContextManager[Any] = RLock() if self.is_local else nullcontext()

    def __repr__(self) -> str:
        return ", ".join(self.urls)

    def __call__(self, call: Callable[..., T]) -> T:
        """Make a call, which is given a client and must do no harm when it is made twice.

        Raises:
            IndexUnavailableError: no server could answer, again and again; or the key is wrong, or may not do this.
            StorageError: a server refused the call itself.
        """
        told, began = "", time.monotonic()
        for pause in (0.0, *PAUSES) if len(self.urls) > 1 else (0.0, PAUSES[0]):
            if pause and time.monotonic() - began > self._timeout:
                break  # a server that does not answer is not waited for twice
            time.sleep(pause)
            for n in range(len(self.urls)):
                at = (self._first + n) % len(self.urls)
                try:
                    with self._turn:
                        result = call(self._client(at))
                    self._first = at
                    return result
                except Exception as error:
                    told = self._told(error)
        raise IndexUnavailableError(
            f"Qdrant at {self} {told} What was written is safe in the database, and the index learns of it when Qdrant "
            "is back."
        )

    def version(self) -> str:
        """The server's version.

        Raises:
            StorageError: it is older than ``OLDEST``.
        """
        found = str(self(lambda client: client.info()).version)
        numbers = tuple(int(part) for part in found.split("-")[0].split(".")[:2] if part.isdecimal())
        if numbers < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise StorageError(f"Qdrant at {self} is version {found}; {wanted} or newer is needed. Upgrade the server.")
        return found

    def close(self) -> None:
        """Give back the connections."""
        with self._turn, self._creating:
            clients, self._clients = self._clients, [None] * len(self.urls)
            for client in filter(None, clients):
                client.close()

    def _client(self, at: int) -> Any:
        with self._creating:
            if self._clients[at] is None:
                self._clients[at] = self._make[at]()
            return self._clients[at]

    def _told(self, error: Exception) -> str:
        """What happened and what to do, where a call may be made again; raises when there is no use in that."""
        code, told = _code(error)
        if code is None and self.is_local and isinstance(error, ValueError):
            code, told = "INVALID_ARGUMENT", str(error)  # what a server would refuse
        if code is None:
            raise error
        if code in _RETRIED or code.startswith("5"):
            if "No space left" in told:
                return f"has no room left ({told}). Free some space on its disk."
            if code in _FAILED:
                return f"failed ({told}). See its log."
            return f"cannot be reached ({told}). {self._advice}"
        message = f"Qdrant at {self} refused ({code}): {told.rstrip('.')}. {_HINTS.get(code, '')}".strip()
        raise (IndexUnavailableError if code in _HINTS else StorageError)(message) from error


def _code(error: Exception) -> tuple[str | None, str]:
    """A name of what went wrong and its text; None for what is no fault of Qdrant or the way there."""
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return "RESOURCE_EXHAUSTED", str(error)
    if isinstance(error, UnexpectedResponse):
        return _refusal(error.status_code or 0, error.content)
    if isinstance(error, ResponseHandlingException) and not isinstance(error.source, ValueError):
        return "UNAVAILABLE", str(error.source)
    if isinstance(error, ResponseHandlingException | json.JSONDecodeError | UnicodeDecodeError):
        return "UNAVAILABLE", "what answers there is no Qdrant"
    status = getattr(error, "code", None)
    if type(error).__module__.startswith("grpc") and callable(status):
        found: Any = status()
        details: Any = getattr(error, "details", lambda: "")()
        return str(found.name), str(details)[:300]
    if isinstance(error, OSError | sqlite3.Error):
        return "UNAVAILABLE", str(error)
    return None, ""


def _refusal(status: int, content: bytes) -> tuple[str, str]:
    """Code and text of an HTTP answer that is no success."""
    text = content.decode("utf-8", "replace")
    try:
        return str(status), str(json.loads(text)["status"]["error"])[:300]
    except (ValueError, TypeError, LookupError):
        told = " ".join(text.split())[:300]
    if status < 400 or status in (404, 405):  # Qdrant says so in JSON
        return "UNAVAILABLE", f"what answers there is no Qdrant: {status} {told}".strip()
    return str(status), told


def _advice(is_local: bool, grpc: bool) -> str:
    if is_local:
        return "Check the folder."
    also = " with gRPC on the port after that of the URL (else set qdrant_grpc=False)" if grpc else ""
    return f"Check http or https, host and port, and that it runs there{also}."


def _maker(url: str, api_key: str | None, timeout_seconds: float, grpc: bool) -> Callable[[], Any]:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingDependencyError("qdrant-client", "qdrant", "An index in Qdrant") from error
    if url == ":memory:":
        return lambda: QdrantClient(":memory:")
    if _NO_FOLDER.fullmatch(url) and "://" not in url:
        raise UsageError("qdrant", "must begin with http:// or https:// if it is a server", _shown(url))
    if "://" not in url:
        return lambda: _open_folder(url)
    parts, port = _parts(url)
    return lambda: QdrantClient(
        url=f"{parts.scheme}://{parts.hostname}",
        port=port,
        grpc_port=port + 1,
        prefer_grpc=grpc,
        grpc_options=dict(_GRPC_OPTIONS),
        prefix=parts.path.strip("/") or None,
        api_key=api_key,
        timeout=max(1, round(timeout_seconds)),
        check_compatibility=False,  # the server's version decides, see ``Connection.version``
    )


def _parts(url: str) -> tuple[SplitResult, int]:
    """A URL in parts, and its port."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6333
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), 0
    if parts.username or parts.password:
        raise UsageError("qdrant", "must hold no name and no password; give qdrant_api_key", parts.hostname)
    if parts.query or parts.fragment:
        raise UsageError("qdrant", "must end after host, port and path; give qdrant_api_key", _shown(url))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("qdrant", "must be http://host:port, https://host:port, ':memory:' or a folder", _shown(url))
    return parts, port


def _shown(url: str) -> str:
    """A URL that is none as a message shows it: without what could be a password or a key."""
    return re.sub(r"(?<=//).*@|^.*@", "***@", re.sub(r"[?#].*", "?***", url))


def _open_folder(path: str) -> Any:
    from qdrant_client import QdrantClient

    try:
        return QdrantClient(path=path, force_disable_check_same_thread=True)
    except RuntimeError as error:
        raise StorageError(
            f"the Qdrant folder {path} is in use by another process ({error}). A folder serves one process; "
            "run a Qdrant server for several."
        ) from error
