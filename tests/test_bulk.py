"""Loading a file of many users: the same rows as add makes, whatever interrupts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from sqlalchemy import select

from lightmem_integrations import LightMem, LightMemConfig, Message
from lightmem_integrations import bulk as bulks
from lightmem_integrations.bulk import BulkResult
from lightmem_integrations.errors import EmbedderError, UsageError
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import FlakyEmbedder, HashEmbedder
from tests.pipeline.test_pipeline import extracted, talk
from tests.test_cli import run

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
PLAIN = LightMemConfig(memory_manager="none")
LONG = "A word about the lighthouse. " * 120  # several passages
USERS = ["ana", "bea", "'; DROP TABLE turns; --", "änä\t\\N"]
Talk = list[tuple[str, str, list[Message]]]


def conversations(turns: int = 9) -> Talk:
    """User, session and turns, some of them odd."""
    made: Talk = []
    for n, user in enumerate(USERS):
        for session in ("one", "two"):
            said = talk(turns, f"{session}-", NOON + timedelta(days=n))
            last = said[-1].timestamp
            assert last is not None
            odd = [
                Message("user", LONG, "Ana", last + timedelta(minutes=1), f"{session}-long"),
                Message(
                    "tool", "日本語 \\N \t 🙂", None, last + timedelta(minutes=2), f"{session}-odd", {"a": [1, None]}
                ),
            ]
            made.append((user, session, [*said, *odd]))
    return made


def line(user: str | None, session: str, message: Message) -> dict[str, Any]:
    assert message.timestamp is not None
    record = {
        "type": "turn",
        "user_id": user,
        "id": message.id,
        "session_id": session,
        "role": message.role,
        "speaker": message.speaker,
        "content": message.content,
        "timestamp": message.timestamp.isoformat(),
        "session_time": message.timestamp.isoformat(),
        "metadata": dict(message.metadata),
    }
    return {name: value for name, value in record.items() if value is not None}


def written(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = [line(user, session, m) for user, session, said in conversations() for m in said]
    return written(tmp_path / "all.jsonl", [{"type": "lightmem", "version": 1}, "", *lines])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulks, "LINES", 7)


def plain(path: Path | str, config: LightMemConfig = PLAIN, turns: int = 9) -> None:
    with LightMem(path, config, embedder=HashEmbedder()) as memory:
        for user, session, said in conversations(turns):
            memory.add(said, user_id=user, session_id=session)


_PASSING = {"rev", "epoch", "at", "created_at", "last_updated"}


def contents(path: Path | str, *tables: Any) -> dict[str, list[dict[str, Any]]]:
    """All rows, but for versions, numbers and times of writing."""
    store = SqlStore(path)
    found = {}
    try:
        with store.reading(None) as connection:
            for table in tables or (s.sessions, s.turns, s.entries, s.passages, s.journal, s.index_outbox):
                passing = _PASSING | ({"seq"} if table in (s.journal, s.index_outbox) else set())
                rows = [dict(row._mapping) for row in connection.execute(select(table))]
                kept = [{name: value for name, value in row.items() if name not in passing} for row in rows]
                found[table.name] = sorted(kept, key=repr)
    finally:
        store.close()
    return found


# ------------------------------------------------------------------------------------ the same as add
@pytest.mark.usefixtures("small_parts")
def test_the_rows_are_those_of_add(file: Path, path: Path | str, tmp_path: Path) -> None:
    plain(tmp_path / "plain.db")
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        done = memory.bulk_add(file, processes=1)
        assert done == BulkResult(added=88, known=0, pending=0)
        assert memory.doctor().ok
    expected = contents(tmp_path / "plain.db")
    assert contents(path) == expected
    assert len(expected["passages"]) > len(expected["turns"])


def test_facts_are_made_of_all_of_it(file: Path, path: Path | str) -> None:
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.bulk_add(file, processes=1)
        memory.flush()
        for user in USERS:
            said = [m for u, _, members in conversations() if u == user for m in members if m.role != "tool"]
            assert extracted(memory, user) == Counter(m.id for m in said)
        hits = memory.search(talk(9)[3].content, user_id="ana", k=2)
        assert {hit.source_ids for hit in hits} == {("one-3",), ("two-3",)}


def test_several_processes_do_the_same(file: Path, path: Path | str, tmp_path: Path) -> None:
    plain(tmp_path / "plain.db")
    seen: list[int] = []
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        memory.bulk_add(file, processes=2, progress=seen.append)
    assert contents(path) == contents(tmp_path / "plain.db")
    assert seen[-1] == 88


@pytest.mark.usefixtures("small_parts")
def test_it_adds_to_what_is_there(file: Path, path: Path | str) -> None:
    plain(path, turns=5)
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        before = memory.stats()["rows"]["turns"]
        done = memory.bulk_add(file, processes=1)
        assert (done.added, done.known) == (88 - before, before)
        assert memory.doctor().ok
        turns = memory._store.turns_of("ana")
        assert [turn.seq for turn in turns if turn.session_id == "one"] == list(range(11))


def test_an_index_outside_is_told_at_the_end(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    config = LightMemConfig(memory_manager="none", qdrant=(":memory:",))
    with LightMem(tmp_path / "m.db", config, embedder=HashEmbedder()) as memory:
        memory.bulk_add(file, processes=1)
        projection = memory._projection
        assert projection is not None
        assert (projection.collection.count(), list(projection.differences())) == (88, [])


def test_an_index_outside_is_told_of_each_turn_once(
    file: Path, path: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns come with their vectors: one write, one change, however many are claimed at a time."""
    pytest.importorskip("qdrant_client")
    from lightmem_integrations.stores.qdrant import projection as projections

    monkeypatch.setattr(projections, "CLAIM_ROWS", 5)
    config = LightMemConfig(memory_manager="none", qdrant=(":memory:",))
    with LightMem(path, config, embedder=HashEmbedder()) as memory:
        memory.add("The index is there before.", user_id="ana")
        projection = memory._projection
        assert projection is not None
        upsert, sent = projection.collection.upsert, Counter[str]()

        def counted(entries: Any, **into: Any) -> int:
            sent.update(entry.row.id for entry in entries)
            return upsert(entries, **into)

        monkeypatch.setattr(projection.collection, "upsert", counted)
        memory.bulk_add(file, processes=1)
        assert (len(sent), sent.total()) == (88, 88)
        assert (projection.collection.count(), list(projection.differences())) == (89, [])


# ------------------------------------------------------------------------------------ again
class Counting(HashEmbedder):
    texts = 0

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Any:
        self.texts += len(texts)
        return super().encode(texts, query=query)


@pytest.mark.usefixtures("small_parts")
def test_what_is_there_is_not_encoded_again(file: Path, path: Path | str) -> None:
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        memory.bulk_add(file, processes=1)
    embedder = Counting()
    with LightMem(path, PLAIN, embedder=embedder) as memory:
        assert memory.bulk_add(file, processes=1) == BulkResult(added=0, known=88, pending=0)
    assert embedder.texts == 0


_LOAD = """
import sys
from lightmem_integrations import LightMem, LightMemConfig, bulk
from lightmem_integrations.testing import HashEmbedder
if __name__ == "__main__":
    bulk.LINES = 40
    with LightMem(sys.argv[1], LightMemConfig(memory_manager="none"), embedder=HashEmbedder()) as memory:
        memory.bulk_add(sys.argv[2], processes=int(sys.argv[3]), progress=lambda n: print(n, flush=True))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_run_again_it_goes_on(path: Path | str, tmp_path: Path, processes: int) -> None:
    said = [(f"user {n % 7}", f"s{n % 3}", m) for n, m in enumerate(talk(1500))]
    file = written(tmp_path / "all.jsonl", [line(*each) for each in said])
    script = tmp_path / "load.py"
    script.write_text(_LOAD, encoding="utf-8")
    command = [sys.executable, str(script), str(path), str(file), str(processes)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = 0
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, process_group=0) as process:
            assert process.stdout is not None
            for _ in range(5):
                done = int(process.stdout.readline())
            os.killpg(process.pid, signal.SIGKILL)
    assert done < 1500
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        there = memory.stats()["rows"]["turns"]
        assert there >= done
        assert memory.bulk_add(file, processes=1) == BulkResult(added=1500 - there, known=there, pending=0)
        assert memory.doctor().ok
    with LightMem(tmp_path / "plain.db", PLAIN, embedder=HashEmbedder()) as memory:
        for key in dict.fromkeys((user, session) for user, session, _ in said):
            memory.add([m for u, sess, m in said if (u, sess) == key], user_id=key[0], session_id=key[1])
    assert contents(path) == contents(tmp_path / "plain.db")


# ------------------------------------------------------------------------------------ what goes wrong
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", r"all\.jsonl line 20 must be JSON"),
        ("[1]", "line 20 must be a JSON object"),
        ({"type": "turn", "id": "a"}, "line 20 user_id must be a string"),
        ({"type": "turn", "user_id": " "}, "line 20 user_id must not be blank"),
        ({"type": "note", "user_id": "ana"}, "line 20 type must be turn"),
        ({"type": "turn", "user_id": "ana", "role": "user", "content": "Hi."}, "line 20 must have an id"),
    ],
)
def test_a_bad_line_is_named_and_those_before_it_stay(tmp_path: Path, path: Path | str, bad: Any, told: str) -> None:
    lines: list[Any] = [line("ana", "one", m) for m in talk(30)]
    file = written(tmp_path / "all.jsonl", [*lines[:19], bad, *lines[20:]])
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        with pytest.raises(UsageError, match=told):
            memory.bulk_add(file, processes=1)
        assert memory.stats()["rows"]["turns"] == 14, "two whole parts"
        assert memory.bulk_add(written(file, lines), processes=1) == BulkResult(16, 14, 0)
        assert memory.doctor().ok


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("at", [2, 20])
def test_an_id_names_one_message(tmp_path: Path, path: Path | str, at: int) -> None:
    lines = [line("ana", "one", m) for m in talk(30)]
    file = written(tmp_path / "all.jsonl", [*lines[:at], lines[0] | {"content": "Another text."}, *lines[at:]])
    with LightMem(path, PLAIN, embedder=HashEmbedder()) as memory:
        with pytest.raises(UsageError, match=rf"line {at + 1} id was used before with another"):
            memory.bulk_add(file, processes=1)
        assert memory.doctor().ok


@pytest.mark.usefixtures("small_parts")
def test_what_cannot_be_encoded_waits(file: Path, path: Path | str) -> None:
    offline = Lock()

    def fails(texts: Sequence[str]) -> bool:
        return offline.locked() and any("lighthouse" in text for text in texts)

    with LightMem(path, PLAIN, embedder=FlakyEmbedder(fail_on=fails)) as memory:
        with offline:
            assert memory.bulk_add(file, processes=1) == BulkResult(added=88, known=0, pending=8)
            assert memory.stats()["pending"] == 8
            assert "flaky on purpose" in str(memory.doctor())
        memory.flush()
        assert memory.doctor().ok


def test_an_embedder_that_cannot_be_copied_is_told(file: Path, path: Path | str) -> None:
    with LightMem(path, PLAIN, embedder=FlakyEmbedder()) as memory:
        with pytest.raises(EmbedderError, match=r"cannot be copied .* processes=1"):
            memory.bulk_add(file, processes=2)
        assert memory.stats()["rows"]["turns"] == 0


@pytest.mark.parametrize("options", [{"processes": 0}, {"processes": 1.5}, {"user_id": " "}])
def test_bad_arguments(file: Path, options: dict[str, Any]) -> None:
    with LightMem(":memory:", PLAIN, embedder=HashEmbedder()) as memory, pytest.raises(UsageError):
        memory.bulk_add(file, **options)


def test_others_write_meanwhile(path: Path | str, tmp_path: Path) -> None:
    file = written(tmp_path / "all.jsonl", [line("ana", "one", m) for m in talk(2000)])
    with (
        LightMem(path, PLAIN, embedder=HashEmbedder()) as memory,
        LightMem(path, PLAIN, embedder=HashEmbedder()) as other,
    ):

        def add(done: int) -> None:
            other.add(
                {"role": "user", "content": f"Meanwhile {done}.", "id": f"other-{done}"},
                user_id="ana",
                session_id="one",
            )

        memory.bulk_add(file, processes=1, progress=add)
        assert memory.doctor().ok
        turns = [turn for turn in memory._store.turns_of("ana")]
        assert [turn.seq for turn in turns] == list(range(2004))


# ------------------------------------------------------------------------------------ the command
def test_an_export_loads_for_the_user_that_is_named(tmp_path: Path) -> None:
    db = str(tmp_path / "m.db")
    with LightMem(tmp_path / "old.db", LightMemConfig(embedder="none")) as memory:
        memory.add(talk(4), user_id="ana")
        memory.export(tmp_path / "ana.jsonl", user_id="ana")
    load = ["add", "--bulk", str(tmp_path / "ana.jsonl"), "--db", db, "--embedder", "none", "--json"]
    assert json.loads(run(*load, "--user", "bea").stdout) == {"added": 4, "known": 0, "pending": 0}
    assert json.loads(run(*load, "--user", "bea").stdout) == {"added": 0, "known": 4, "pending": 0}
    assert "line 2 user_id must be a string" in run(*load, code=2).stderr


def test_what_the_command_refuses(tmp_path: Path) -> None:
    assert "--user must be given" in run("add", "-", "--db", str(tmp_path / "m.db"), code=2, stdin='"hi"\n').stderr
    assert "FILE must be a file" in run("add", "--bulk", "-", "--db", str(tmp_path / "m.db"), code=2).stderr
    assert "user_id" in run("add", "--help").stdout
