"""The benchmarks of stores, at sizes that take a moment: they measure what they say, and count what is amiss."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.bench import scale
from lightmem_integrations.bench.candidates import run_candidates
from lightmem_integrations.bench.clients import run_clients
from lightmem_integrations.bench.crash import Outcome, Target, _Said, compare, run_crash
from lightmem_integrations.bench.instant import InstantEmbedder
from lightmem_integrations.bench.scale import Place, run_scale, user_sizes
from lightmem_integrations.bench.table import Table, number, percentile
from lightmem_integrations.core.types import Message
from lightmem_integrations.datasets import Conversation, Question, Session
from lightmem_integrations.errors import LightMemError, UsageError
from lightmem_integrations.stores.sql import schema as s
from lightmem_integrations.testing import HashEmbedder
from tests.test_cli import run

NOON = datetime(2024, 5, 20, 12, tzinfo=timezone.utc)

pytestmark = pytest.mark.sqlite("opens databases of its own, in processes of its own")


# ------------------------------------------------------------------------------------ tables
def test_a_table_is_markdown_and_json() -> None:
    table = Table("t", ("what", "a"), (("x", 12_345), ("y", 0.12345), ("z", "none")), "Measured.")
    lines = table.markdown().splitlines()
    assert lines[:5] == ["| what | a |", "| --- | ---: |", "| x | 12,345 |", "| y | 0.123 |", "| z | none |"]
    assert json.loads(json.dumps(table.as_dict()))["rows"][0] == ["x", 12_345]
    assert [number(n) for n in (1234.5, 99.95, 7)] == ["1,234", "100", "7"]
    assert [percentile([3, 1, 2], share) for share in (0, 0.5, 1)] == [1, 2, 3]


# ------------------------------------------------------------------------------------ scale
def test_the_largest_user_has_a_quarter() -> None:
    sizes = user_sizes(100_000, 10_000, 0)
    assert sum(sizes.values()) == 100_000
    assert 0.2 < max(sizes.values()) / 100_000 < 0.3
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)


def test_one_database_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "QUERIES", 2)
    table = run_scale(Place(str(tmp_path / "m.db")), (300, 900), users=50)
    found = {row[0]: row[1:] for row in table.rows}
    assert table.header == ("entries", "300", "900")
    assert all(3_000 < float(n) < 12_000 for n in found["database, whole (bytes/entry)"])
    assert all(float(n) > 0 for row in found.values() for n in row)
    with LightMem(tmp_path / "m.db", LightMemConfig(memory_manager="none"), embedder=InstantEmbedder()) as memory:
        assert memory.stats()["rows"]["turns"] == memory.stats()["rows"]["passages"] == 900
        assert memory.doctor().ok, "it is what bulk_add would have made"
        sizes = user_sizes(900, 50, 0)
        assert {user: len(memory.list(user_id=user, limit=1000)) for user in sizes} == sizes
    with pytest.raises(UsageError, match="database must hold 0 turns"):
        run_scale(Place(str(tmp_path / "m.db")), (300,), users=50)


# ------------------------------------------------------------------------------------ crash
def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    table = run_crash([Target("file", str(tmp_path / "m.db"))], kills=2)
    found = {str(row[0]): row[1] for row in table.rows}
    assert found["kills"] == 2
    assert int(found["acknowledged"]) >= 2
    assert [found[name] for name in ("lost", "risen", "doubled", "orphans", "stale", "unsound")] == [0] * 6


def test_a_loss_would_be_counted(tmp_path: Path) -> None:
    target, said, outcome = Target("file", str(tmp_path / "m.db")), _Said(), Outcome()
    with LightMem(target.database, target.config(), embedder=InstantEmbedder()) as memory:
        for turn in ("1-0-0", "1-1-0"):
            words = " ".join(turn.split("-"))
            ids = memory.add({"role": "user", "id": turn, "content": f"Marker {words}."}, user_id="ana").ids
            said.take([json.dumps(["added", "ana", *ids]), '["forg'])
        with memory._store.writing("ana") as connection:
            connection.execute(s.entries.delete())
            connection.execute(s.turns.delete().where(s.turns.c.id == "1-0-0"))
    said.take([json.dumps(["added", "ana", "1-2-0"])])
    compare(target, said, outcome)
    assert outcome.lost == 3
    assert outcome.unsound

    said = _Said()
    with LightMem(target.database, target.config(), embedder=InstantEmbedder()) as memory:
        memory.add({"role": "user", "id": "1-3-0", "content": "Marker 1 3 0."}, user_id="ana")
    said.take([json.dumps([what, "ana", "1-3-0"]) for what in ("added", "forgetting", "forgotten")])
    compare(target, said, outcome)
    assert (outcome.lost, outcome.risen, said.acknowledged) == (3, 1, 2)


def test_a_writer_that_cannot_begin_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(LightMemError, match="a writer ended with 1"):
        run_crash([Target("file", str(tmp_path / "no folder" / "m.db"))], kills=1)


# ------------------------------------------------------------------------------------ clients
@pytest.mark.slow
def test_clients_with_and_without_a_worker(tmp_path: Path) -> None:
    table = run_clients(str(tmp_path / "m.db"), (), clients=4, seconds=2, workers=(0, 1))
    found = {str(row[0]): row[1:] for row in table.rows}
    for name in ("errors", "turns added and then not found", "entries left pending"):
        assert found[name] == (0, 0), found["the first error"]
    assert all(float(n) > 0 for n in (*found["add, calls a second"], *found["search, calls a second"]))


# ------------------------------------------------------------------------------------ candidates
def conversation() -> Conversation:
    words = [f"{a} {b}" for a in ("red", "tall", "late", "cold", "new") for b in ("boat", "lamp", "song", "road")]
    turns = [
        Message("user", f"Let me tell of the {word}, number {n}.", "Ana", NOON + timedelta(minutes=n), f"t{n}")
        for n, word in enumerate(words)
    ]
    asked = [Question(f"q{n}", f"What of the {words[n]}?", "one", "", (f"t{n}",), ("s",)) for n in (3, 9, 16)]
    return Conversation("c", "en", (Session("s", NOON, tuple(turns)),), tuple(asked))


def test_candidates_are_compared_with_exact_search() -> None:
    pytest.importorskip("qdrant_client")
    table = run_candidates([conversation()], (":memory:",), [(50, 100)], embedder=HashEmbedder())
    exact, candidates = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert exact["late, recall@10"] == candidates["late, recall@10"] == "1.000"
    assert "3 questions of 1 conversations, 20 turns" in table.note


def test_a_bad_depth_is_refused(tmp_path: Path) -> None:
    demo = str(tmp_path / "none.json")
    assert "--depth must be two numbers" in run("bench", "candidates", demo, "--depth", "50", code=2).stderr
