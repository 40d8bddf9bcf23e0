"""Processes that are killed lose nothing that they had acknowledged, and leave nothing half-done.

Two processes write to one file and are killed with SIGKILL at random moments. A restarted process
sends the batch again that was not acknowledged, with the same ids. The default run kills three
times; ``pytest -m slow tests/faults/test_crash.py`` kills 40 times (about a minute on two cores).
``--log-cli-level=INFO`` shows how much was acknowledged.
"""

from __future__ import annotations

import logging
import random
import runpy
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from threading import Thread

import pytest

from lightmem_integrations import LightMem
from lightmem_integrations.testing.embedders import HashEmbedder

WORKER = runpy.run_path(str(Path(__file__).with_name("worker.py")))
NAMES = ("ann", "bob")
LOG = logging.getLogger(__name__)


class Writer:
    """One writing process, its successors, and all that they acknowledged."""

    def __init__(self, spawn, path: Path, name: str) -> None:
        self._spawn, self._path, self.name = spawn, path, name
        self.acknowledged: list[tuple[str, str]] = []
        self.batches = 0

    def launch(self) -> None:
        self._process = self._spawn("add", self._path, self.name, self.batches, wait=False)
        self._reader = Thread(target=self._read)
        self._reader.start()
        self._seen = self.batches

    def _read(self) -> None:
        for line in self._process.stdout:
            # The kill may cut the last line short; what was not said whole was not acknowledged.
            if line.endswith("\n") and line != "ready\n":
                user, *ids = line.split()
                self.acknowledged += ((user, i) for i in ids)
                self.batches += 1

    def has_written(self) -> bool:
        return self.batches > self._seen

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        assert self.is_alive(), self._process.communicate()[1]
        self._process.kill()
        self._process.wait()
        self._reader.join()


def kill_at_random(spawn, path: Path, kills: int, seed: int) -> list[Writer]:
    """Keep two writers busy and kill one or both at random moments until there were ``kills`` kills."""
    draw = random.Random(seed)
    writers = [Writer(spawn, path, name) for name in NAMES]
    for writer in writers:
        writer.launch()
    done = 0
    while done < kills:
        wait_for(writers)
        time.sleep(draw.uniform(0, 0.3))
        victims = draw.choice((writers[:1], writers[1:], writers))
        for writer in victims:
            writer.kill()
            done += 1
        for writer in victims:
            writer.launch()
    wait_for(writers)
    for writer in writers:
        writer.kill()
    return writers


def wait_for(writers: Iterable[Writer]) -> None:
    """Both are at work, so that a kill hits two writers that contend."""
    for writer in writers:
        limit = time.monotonic() + 60
        while not writer.has_written():
            assert writer.is_alive(), f"{writer.name} ended by itself"
            assert time.monotonic() < limit, f"{writer.name} does not get to write"
            time.sleep(0.002)


def check(path: Path, writers: list[Writer]) -> dict[str, int]:
    """Everything acknowledged is there once, nothing is doubled or half there, and it can be found."""
    batch = WORKER["batch"]
    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.doctor(repair=True)
        report = memory.doctor()
        assert report.ok, report
        users = {*NAMES, WORKER["SHARED"]}
        entries = {user: memory.list(user_id=user, limit=1_000_000) for user in users}
        stored = Counter((user, *entry.source_messages) for user in users for entry in entries[user])
        lost = {said for writer in writers for said in writer.acknowledged} - stored.keys()
        doubled = [said for said, times in stored.items() if times > 1]
        assert not lost
        assert not doubled

        texts = {entry.source_messages[0]: entry.memory for user in users for entry in entries[user]}
        for name, number in {tuple(i.rsplit("-", 2)[:2]) for i in texts}:
            for message in batch(name, int(number)):
                assert texts.get(message["id"]) == message["content"], "half a batch was stored, or another text"

        stats = memory.stats()  # one passage each
        assert stats["rows"]["turns"] == stats["entries"]["turn"] == stats["rows"]["passages"] == len(stored)
        for writer in writers:
            user, last = writer.acknowledged[-1]
            words = texts[last].split()[2]
            assert memory.search(words, user_id=user, k=1, strategy="bm25")[0].source_ids == (last,)
            assert last in {hit.source_ids[0] for hit in memory.search(texts[last], user_id=user, k=3)}
    acknowledged = sum(len(writer.acknowledged) for writer in writers)
    return {"acknowledged": acknowledged, "stored": len(stored), "lost": len(lost), "doubled": len(doubled)}


@pytest.mark.parametrize(("kills", "seed"), [(3, 1), pytest.param(40, 2, marks=pytest.mark.slow)], ids=["few", "many"])
def test_killed_writers_lose_nothing(spawn, path, kills, seed):
    writers = kill_at_random(spawn, path, kills, seed)
    LOG.info("%d kills: %s", kills, check(path, writers))
