"""A storage fault is told clearly, by the right class and with the path, and costs nothing acknowledged.

Each test puts one fault in the way, calls the public methods, lifts the fault, and checks that all
that was acknowledged is there and that the refused call left nothing. Permissions are tested by an
unprivileged effective user, since they mean nothing to root.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer

import pytest
from sqlalchemy import event

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.types import Encoding
from lightmem_integrations.errors import (
    CorruptDataError,
    LightMemError,
    StorageBusyError,
    StorageError,
    UsageError,
)
from lightmem_integrations.testing.embedders import FlakyEmbedder, HashEmbedder

pytestmark = pytest.mark.sqlite("faults of a file; those of a server are in tests/postgres")

USER = "ana"
NOBODY = 65534
QUICK = LightMemConfig(busy_timeout_seconds=0.2)


def open_memory(path: Path | str, config: LightMemConfig | None = None) -> LightMem:
    return LightMem(path, config, embedder=HashEmbedder())


def message(number: int, size: int = 1) -> dict[str, str]:
    return {"role": "user", "id": f"m{number}", "content": f"Remark number{number}. " + "It goes on and on. " * size}


def write(path: Path | str) -> None:
    """Open a memory and add to it; either may be refused."""
    with open_memory(path) as memory:
        memory.add(message(100), user_id=USER)


def ids(memory: LightMem) -> list[str]:
    return sorted(entry.source_messages[0] for entry in memory.list(user_id=USER, limit=100_000))


def assert_sound(path: Path, expected: list[str]) -> None:
    """Exactly the expected turns are there, encoded, found, and the memory takes new ones."""
    with open_memory(path) as memory:
        memory.doctor(repair=True)
        assert memory.doctor().ok
        assert ids(memory) == sorted(expected)
        for i in expected[-1:]:
            assert memory.search(f"number{i[1:]}", user_id=USER, k=1)[0].source_ids == (i,)
        assert memory.add("One more.", user_id=USER).pending == 0


@pytest.fixture
def filled(tmp_path) -> Path:
    """A closed memory of 60 turns in one file."""
    path = tmp_path / "memory.db"
    with open_memory(path) as memory:
        memory.add([message(i) for i in range(60)], user_id=USER)
    assert os.listdir(tmp_path) == ["memory.db"]
    return path


FILLED = [f"m{i}" for i in range(60)]


# ---------------------------------------------------------------------- no room
Lift = Callable[[], None]


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[LightMem, Lift]]:
    """A file system of 1 MB that can grow."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root to mount a small disk")
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with open_memory(disk / "memory.db") as memory:
            yield memory, lambda: subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True) and None
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@contextmanager
def small_database(folder: Path) -> Iterator[tuple[LightMem, Lift]]:
    """A database of at most 100 pages."""
    pages = {"most": 100}
    with open_memory(folder / "memory.db") as memory:
        engine = memory._store._engine

        def limit(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute(f"PRAGMA max_page_count={pages['most']}")

        event.listen(engine, "checkout", limit)
        yield memory, lambda: pages.update(most=1_000_000)


@contextmanager
def small_files(folder: Path) -> Iterator[tuple[LightMem, Lift]]:
    """Files of at most 400 kB, by a limit on this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_memory(folder / "memory.db") as memory:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
        try:
            yield memory, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(memory: LightMem, acknowledged: list[str]) -> None:
    """Add more than there is room for, noting what was accepted."""
    for number in range(0, 2000, 4):
        batch = [message(i, size=30) for i in range(number, number + 4)]
        acknowledged += memory.add(batch, user_id=USER).ids


@pytest.mark.parametrize("no_room", [small_disk, small_database, small_files])
def test_full_disk_refuses_what_it_cannot_keep_and_keeps_the_rest(tmp_path, no_room):
    with no_room(tmp_path) as (memory, lift):
        path = Path(memory._store.path)
        acknowledged: list[str] = []
        with pytest.raises(StorageError) as told:
            fill(memory, acknowledged)
        assert type(told.value) is StorageError
        assert str(path) in str(told.value)
        if no_room is not small_files:
            assert "full" in str(told.value)
        assert acknowledged
        # The memory can still be read, and refuses again without harm.
        assert ids(memory) == sorted(acknowledged)
        assert memory.search(f"number{acknowledged[-1][1:]}", user_id=USER, strategy="bm25")
        with pytest.raises(StorageError):
            memory.add([message(i, size=300) for i in range(5000, 5100)], user_id=USER)
        lift()
        assert memory.add(message(9999), user_id=USER).pending == 0
        acknowledged.append("m9999")
        assert ids(memory) == sorted(acknowledged)
        assert_sound(path, acknowledged)


def test_who_asks_while_a_failing_encoding_goes_on_gets_another_round(tmp_path):
    with LightMem(tmp_path / "memory.db", embedder=SlowEmbedder()) as memory:
        embedder, refused = memory._embedder, []

        def refuse_once(conn: object, cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("INSERT INTO passages") and not refused:
                refused.append(statement)
                raise sqlite3.OperationalError("database or disk is full")

        event.listen(memory._store._engine, "before_cursor_execute", refuse_once)
        with ThreadPoolExecutor() as threads:
            first = threads.submit(memory.add, message(1), user_id=USER)
            assert embedder.begun.wait(10)
            second = threads.submit(memory.add, message(2), user_id=USER)
            while not memory._indexer._jobs[USER].again:
                time.sleep(0.001)
            embedder.may_go_on.set()
            assert (first.result().pending, second.result().pending) == (0, 0)
        assert refused


class SlowEmbedder(HashEmbedder):
    """Waits in the middle of its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_go_on = Event(), Event()

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        self.begun.set()
        assert self.may_go_on.wait(10)
        return super().encode(texts, query=query)


# ---------------------------------------------------------------------- no right
@contextmanager
def unprivileged() -> Iterator[None]:
    """Run as nobody, if root: permissions mean nothing to root."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A closed memory of 60 turns, in a folder that an unprivileged user may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    path = folder / "memory.db"
    with open_memory(path) as memory:
        memory.add([message(i) for i in range(60)], user_id=USER)
        memory.search("number1", user_id=USER)  # loads modules that nobody might not be allowed to read
    yield path
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o555), (0o000, 0o755), (0o666, 0o555), (0o444, 0o777)], ids=oct)
def test_missing_permission_is_told_and_harms_nothing(guarded, file, folder):
    guarded.chmod(file)
    guarded.parent.chmod(folder)
    before = guarded.read_bytes() if not os.geteuid() else None
    with unprivileged(), pytest.raises(StorageError) as told:
        write(guarded)
    assert type(told.value) is StorageError
    assert str(guarded) in str(told.value)
    assert "read" in str(told.value)
    assert before is None or guarded.read_bytes() == before
    guarded.parent.chmod(0o755)
    guarded.chmod(0o644)
    assert_sound(guarded, FILLED)


def test_new_file_in_a_folder_that_may_not_be_written_is_refused(guarded):
    guarded.parent.chmod(0o555)
    new = guarded.with_name("new.db")
    with unprivileged(), pytest.raises(StorageError, match="cannot be opened") as told:
        open_memory(new)
    assert str(new) in str(told.value)
    assert not new.exists()


def test_read_only_url_refuses_to_write_only(filled):
    before = filled.read_bytes()
    with pytest.raises(StorageError, match="only be read"):
        write(f"sqlite:///file:{filled}?mode=ro&uri=true")
    assert filled.read_bytes() == before


# ---------------------------------------------------------------------- no database
def test_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="does not exist") as told:
        open_memory(tmp_path / "nowhere" / "memory.db")
    assert str(tmp_path / "nowhere") in str(told.value)
    assert os.listdir(tmp_path) == []


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened") as told:
        open_memory(tmp_path)
    assert str(tmp_path) in str(told.value)


def test_file_in_place_of_a_folder_is_refused(filled):
    with pytest.raises(StorageError) as told:
        open_memory(filled / "memory.db")
    assert str(filled) in str(told.value)
    assert_sound(filled, FILLED)


@pytest.mark.parametrize("name", ["ünï – 記憶.db", "with space.db", "a#b.db", "a&b=c.db", "semi;colon.db", "file:x.db"])
def test_file_is_made_under_the_name_that_was_given(tmp_path, name):
    with open_memory(tmp_path / name) as memory:
        memory.add(message(0), user_id=USER)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["what?.db", "100%20.db", "a?b=c.db"])
def test_file_name_is_no_url(tmp_path, name):
    test_file_is_made_under_the_name_that_was_given(tmp_path, name)


@pytest.mark.parametrize("url", ["", "nosuch://host/name", "postgresql://host:port/name"])
def test_unusable_url_is_refused_in_our_words(url):
    with pytest.raises((StorageError, UsageError)):
        open_memory(url)


# ---------------------------------------------------------------------- damage
def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


@pytest.mark.parametrize(
    "content", [b"Dear diary, today I saw a walrus.\n" * 200, b"SQLite format 3\0" + b"\xff" * 8000, b"\0" * 4096]
)
def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    with pytest.raises(CorruptDataError) as told:
        open_memory(path)
    assert str(path) in str(told.value)
    assert path.read_bytes() == content


def test_garbage_in_the_header_is_damage(filled):
    good = filled.read_bytes()
    overwrite(filled, 0, random.Random(1).randbytes(100))
    bad = filled.read_bytes()
    with pytest.raises(CorruptDataError) as told:
        open_memory(filled)
    assert str(filled) in str(told.value)
    assert filled.read_bytes() == bad
    filled.write_bytes(good)
    assert_sound(filled, FILLED)


def everything(memory: LightMem, folder: Path) -> Iterator[Callable[[], object]]:
    yield lambda: memory.search("number5", user_id=USER)
    yield lambda: memory.context("number5", user_id=USER)
    yield lambda: memory.list(user_id=USER)
    yield lambda: memory.get("m5", user_id=USER)
    yield lambda: memory.export(folder / "export.jsonl", user_id=USER)
    yield memory.stats
    yield memory.doctor
    yield lambda: memory.add(message(100), user_id=USER)
    yield lambda: memory.flush(user_id=USER)
    yield lambda: memory.forget(user_id=USER, session_id="default")


def use(path: Path) -> None:
    """Open a memory and call everything, up to the first error."""
    with open_memory(path) as memory:
        for call in everything(memory, path.parent):
            call()


@pytest.mark.parametrize("seed", range(6))
def test_random_pages_in_the_middle_are_noticed_as_damage(filled, seed):
    """Whole pages turn to noise; every call either works or says what is wrong, none in raw words."""
    good = filled.read_bytes()
    draw = random.Random(seed)
    for page in draw.sample(range(2, len(good) // 4096), len(good) // 4096 // 2):
        overwrite(filled, page * 4096, draw.randbytes(4096))
    told: list[LightMemError] = []
    try:
        with open_memory(filled) as memory:
            for call in everything(memory, filled.parent):
                try:
                    call()
                except LightMemError as error:
                    told.append(error)
    except LightMemError as error:
        told.append(error)
    assert any(isinstance(error, CorruptDataError) for error in told)
    assert all(isinstance(error, StorageError) and str(filled) in str(error) for error in told)
    filled.with_name("memory.db-wal").unlink(missing_ok=True)
    filled.with_name("memory.db-shm").unlink(missing_ok=True)
    filled.write_bytes(good)
    assert_sound(filled, FILLED)


def test_truncated_file_is_damage(filled):
    good = filled.read_bytes()
    filled.write_bytes(good[: len(good) // 2])
    with pytest.raises(CorruptDataError) as told:
        use(filled)
    assert str(filled) in str(told.value)


def test_doctor_does_not_call_a_damaged_file_sound(filled):
    """It reports the damage, or cannot even begin."""
    size = filled.stat().st_size
    for page in range(4, size // 4096, 3):
        overwrite(filled, page * 4096, random.Random(page).randbytes(4096))
    with pytest.raises((CorruptDataError, AssertionError)):
        examine(filled)


def examine(path: Path) -> None:
    with open_memory(path) as memory:
        assert memory.doctor().ok


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE passages SET vector = x'00'",
        "UPDATE passages SET vector = zeroblob(8) WHERE rowid = 1",
        "UPDATE passages SET pieces = x'00'",
        "UPDATE entries SET sources = '5'",
        "UPDATE entries SET metadata = '{'",
        "UPDATE entries SET timestamp = 'yesterday'",
        "UPDATE entries SET memory = CAST(x'FFFE41' AS TEXT)",
        "UPDATE turns SET metadata = '{'",
        "UPDATE meta SET value = 'one' WHERE key = 'schema_version'",
        "DELETE FROM meta WHERE key = 'schema_version'",
    ],
)
def test_damaged_value_is_damage_too(filled, damage):
    """What a flipped bit in a value does; the file as such is a sound database."""
    connection = sqlite3.connect(filled)
    connection.execute(damage)
    connection.commit()
    connection.close()
    with pytest.raises(CorruptDataError) as told:
        use(filled)
    assert str(filled) in str(told.value)


SEARCH_WITH_LITTLE_MEMORY = """
import resource, sys
from lightmem_integrations import LightMem
from lightmem_integrations.errors import CorruptDataError
from lightmem_integrations.testing.embedders import HashEmbedder
with LightMem(sys.argv[1], embedder=HashEmbedder()) as memory:
    memory.search("number5", user_id="bob")
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    try:
        memory.search("number5", user_id="ana")
    except CorruptDataError as error:
        print(error)
"""


def test_damaged_piece_id_does_not_eat_the_memory(filled):
    connection = sqlite3.connect(filled)
    connection.execute(
        "UPDATE passages SET piece_ids = ?, pieces = ? WHERE rowid = 1", (b"\xf0\xff\xff\xff", bytes(16))
    )
    connection.commit()
    connection.close()
    command = [sys.executable, "-c", SEARCH_WITH_LITTLE_MEMORY, str(filled)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(filled) in done.stdout


@pytest.fixture(params=["CREATE TABLE t (x)", "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)"])
def foreign(request, tmp_path) -> Path:
    """A small database of another program, in the usual journal mode."""
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute(request.param)
    connection.close()
    return path


def test_database_of_another_program_is_refused_and_left_alone(foreign):
    before = foreign.read_bytes()
    with pytest.raises(CorruptDataError) as told:
        open_memory(foreign)
    assert str(foreign) in str(told.value)
    assert foreign.read_bytes() == before
    assert os.listdir(foreign.parent) == ["other.db"]


def test_empty_file_becomes_a_database(tmp_path):
    path = tmp_path / "memory.db"
    path.touch()
    with open_memory(path) as memory:
        memory.add(message(0), user_id=USER)
    assert_sound(path, ["m0"])


# ---------------------------------------------------------------------- locked
def test_lock_of_another_process_is_waited_for_then_told(spawn, filled):
    with open_memory(filled, QUICK) as memory:
        holder = spawn("lock", filled)
        start = time.monotonic()
        for call in (
            lambda: memory.add(message(100), user_id=USER),
            lambda: memory.forget(user_id=USER),
        ):
            with pytest.raises(StorageBusyError, match="locked") as told:
                call()
            assert str(filled) in str(told.value)
        assert time.monotonic() - start > 0.3
        assert memory.search("number5", user_id=USER, k=1)[0].source_ids == ("m5",)  # readers are not held up
        assert ids(memory) == sorted(FILLED)
        holder.communicate("")
        assert ids(memory) == sorted(FILLED)
        assert memory.add(message(101), user_id=USER).pending == 0
    assert_sound(filled, [*FILLED, "m101"])


def test_lock_that_ends_in_time_is_not_noticed(spawn, filled):
    with open_memory(filled) as memory:
        holder = spawn("lock", filled)
        timer = Timer(0.3, holder.communicate, ("",))
        timer.start()
        assert memory.add(message(100), user_id=USER).pending == 0
        timer.join()
    assert_sound(filled, [*FILLED, "m100"])


def test_new_file_that_is_locked_is_told(spawn, tmp_path):
    path = tmp_path / "memory.db"
    spawn("lock", path)
    with pytest.raises(StorageBusyError) as told:
        open_memory(path, QUICK)
    assert str(path) in str(told.value)


def test_lock_while_the_vectors_are_stored_leaves_the_turn_acknowledged(filled):
    """The turn is on disk, then another process takes the lock before its vectors are."""
    other = sqlite3.connect(filled, isolation_level=None, check_same_thread=False)

    def takes_the_lock(texts: object) -> bool:
        if not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")
        return False

    with LightMem(filled, QUICK, embedder=FlakyEmbedder(fail_on=takes_the_lock)) as memory:
        result = memory.add(message(100), user_id=USER)
        assert (result.added, result.pending) == (1, 1)
        assert "locked" in result.errors[0]
        other.execute("ROLLBACK")
        other.close()
    assert_sound(filled, [*FILLED, "m100"])
