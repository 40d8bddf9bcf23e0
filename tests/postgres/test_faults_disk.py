"""The disk of PostgreSQL is full, with all that is on it or with its log alone: refused, and well again with room."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from lightmem_integrations.errors import StorageError
from tests.postgres.test_faults import USER, assert_sound, fill, ids, message, open_memory
from tests.servers import postgresql

pytestmark = pytest.mark.postgres


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own, which everybody may write to."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root to mount a small disk")
    disk = Path(tempfile.mkdtemp(prefix="lightmem-disk-"))
    options = f"size={megabytes}m,mode=777"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True).returncode:
        disk.rmdir()
        pytest.skip("needs the right to mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        disk.rmdir()


def fill_up(disk: Path) -> Path:
    """A file that takes what room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 65_536)
    return ballast


def test_a_full_disk_refuses_writes_and_answers_searches(monkeypatch):
    with small_disk(160) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with postgresql(["max_wal_size=32MB", "min_wal_size=32MB"]) as server, open_memory(server.url()) as memory:
            memory.add([message(9_001), message(9_002)], user_id=USER)
            ballast = fill_up(disk)
            for _ in range(3):
                with pytest.raises(StorageError, match=r"the disk of .* is full.*Nothing was written.*Free some space"):
                    fill(memory, [])
            held = ids(memory)
            assert {"m9001", "m9002"} <= set(held)
            assert memory.search("number9002", user_id=USER, k=1)
            ballast.unlink()
            memory.add(message(9_999), user_id=USER)
            assert_sound(memory, [*held, "m9999"])


def test_a_log_that_has_no_room_stops_the_server_and_loses_nothing():
    """PostgreSQL ends when it cannot write its log. What it had acknowledged is there when it starts again."""
    with small_disk(64) as disk, postgresql(["max_wal_size=1GB", "checkpoint_timeout=1h"]) as own:
        own.stop()
        log = own.folder / "data" / "pg_wal"
        status = log.stat()
        os.chown(disk, status.st_uid, status.st_gid)
        disk.chmod(0o700)
        shutil.copytree(log, disk / "pg_wal", copy_function=shutil.move)
        shutil.rmtree(log)
        for path in (disk / "pg_wal", *(disk / "pg_wal").rglob("*")):
            os.chown(path, status.st_uid, status.st_gid)
        log.symlink_to(disk / "pg_wal")
        own.start()
        with open_memory(own.url()) as memory:
            acknowledged = [i for n in range(5) for i in memory.add(message(n), user_id=USER).ids]
            fill_up(disk)
            with suppress(psycopg.OperationalError):  # each of these needs another 16 MB
                own.run(*(f"CREATE TABLE filler{n} (); SELECT pg_switch_wal()" for n in range(9)))
            with pytest.raises(StorageError, match=r"cannot be reached|was lost|is full|starting or stopping"):
                acknowledged += memory.add(message(5), user_id=USER).ids
            own.stop()
            subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)
            own.start()
            there = ids(memory)
            assert set(acknowledged) <= set(there), "without a restart of this process"
            assert_sound(memory, there)
