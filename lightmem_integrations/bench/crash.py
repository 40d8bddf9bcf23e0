"""kill -9 at random moments: what was acknowledged is there, what was forgotten is gone, and the index agrees.

A process adds and forgets, and says what it is about to do and what was acknowledged. It is killed; the
next one takes over; and after every few kills an engine opens the database and compares.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import lightmem_integrations
from lightmem_integrations.bench.instant import InstantEmbedder
from lightmem_integrations.bench.table import Cell, Table, percentile
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.errors import LightMemError
from lightmem_integrations.memory import LightMem

__all__ = ["Outcome", "Target", "run_crash"]

USERS = ("ana", "bea", "cleo")
EVERY = 5
"""Kills between two comparisons."""

RECOVER_SECONDS = 60.0
"""After which an index that still differs is stale."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is written to: a database, and a collection at Qdrant's URLs. Both are empty, and are filled."""

    name: str
    database: str
    qdrant: tuple[str, ...] = ()
    collection: str = "lightmem"

    def config(self) -> LightMemConfig:
        """Settings of writers and of those who compare."""
        return LightMemConfig(qdrant=self.qdrant or None, qdrant_collection=self.collection)


@dataclass
class Outcome:
    """What came of the kills on one target.

    Attributes:
        lost: acknowledged turns that are not there.
        risen: turns that were forgotten, acknowledged, and are there.
        doubled: turns that are there more than once.
        orphans: points of the index that no entry has, after recovery.
        stale: entries that the index lacks or has of an older state, after recovery.
        unsound: contradictions that ``doctor`` found.
        recovery: seconds until the index had learnt everything, after each comparison's start.
    """

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    risen: int = 0
    doubled: int = 0
    orphans: int = 0
    stale: int = 0
    unsound: int = 0
    recovery: list[float] = field(default_factory=list)


def run_crash(
    targets: Sequence[Target],
    kills: int = 60,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Table:
    """Kill a writer ``kills`` times, in turn on each target.

    Raises:
        LightMemError: a writer ended by itself.
    """
    draw = random.Random(seed)
    share = -(-kills // len(targets))
    outcomes = {target.name: crash(target, share, draw, say) for target in targets}
    names = ("kills", "acknowledged", "lost", "risen", "doubled", "orphans", "stale", "unsound")
    rows: list[tuple[Cell, ...]] = [(name, *(getattr(o, name) for o in outcomes.values())) for name in names]
    rows.append(("longest recovery (s)", *(percentile(o.recovery, 1.0) for o in outcomes.values())))
    note = (
        "A process that adds (70 %) and forgets (30 %) is killed with SIGKILL at random moments. Acknowledged: calls "
        "that returned. Recovery: until the index agrees with the database; answers are right before that."
    )
    return Table("crash", ("", *outcomes), tuple(rows), note)


def crash(target: Target, kills: int, draw: random.Random, say: Callable[[str], None]) -> Outcome:
    """Kill writers on one target, and compare now and then."""
    outcome, said = Outcome(), _Said()
    while outcome.kills < kills:
        say(f"{target.name}: {outcome.kills} of {kills} kills")
        writer = _Writer(target, outcome.kills)
        writer.wait_for_the_first()
        time.sleep(draw.uniform(0, 1))
        said.take(writer.kill())
        outcome.kills += 1
        if outcome.kills % EVERY == 0 or outcome.kills == kills:
            compare(target, said, outcome)
    outcome.acknowledged = said.acknowledged
    return outcome


# ------------------------------------------------------------------------------------ the writer
class _Said:
    """What writers said: what must be there, what must be gone, and what may be either."""

    def __init__(self) -> None:
        self.there: set[tuple[str, str]] = set()
        self.gone: set[tuple[str, str]] = set()
        self.last: tuple[str, str] | None = None
        self.acknowledged = 0

    def take(self, lines: Sequence[str]) -> None:
        for line in lines:
            with suppress(ValueError):  # the last line may be cut
                what, user, *ids = json.loads(line)
                turns = {(user, i) for i in ids}
                self.acknowledged += what in ("added", "forgotten")
                if what == "added":
                    self.there |= turns
                    self.last = user, ids[-1]
                elif what == "forgetting":
                    self.there -= turns
                elif what == "forgotten":
                    self.gone |= turns


class _Writer:
    """A child process that writes, with everything that it has said."""

    def __init__(self, target: Target, number: int) -> None:
        root = str(Path(lightmem_integrations.__path__[0]).parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        arguments = [target.database, json.dumps(target.qdrant), target.collection, str(number)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lightmem_integrations.bench.crash", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._lines: list[str] = []
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def wait_for_the_first(self) -> None:
        limit = time.monotonic() + 120
        while not self._lines:
            if self._process.poll() is not None or time.monotonic() > limit:
                self.kill()
                raise LightMemError(f"a writer ended with {self._process.returncode}, or did not get to write")
            time.sleep(0.005)

    def kill(self) -> list[str]:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._lines


def _write(target: Target, number: int) -> None:
    def say(what: str, user: str, ids: Sequence[str]) -> None:
        sys.stdout.write(json.dumps([what, user, *ids]) + "\n")
        sys.stdout.flush()

    draw = random.Random(number)
    mine: list[tuple[str, str]] = []
    with LightMem(target.database, target.config(), embedder=InstantEmbedder()) as memory:
        for n in range(1_000_000):
            if mine and draw.random() < 0.3:
                user, turn = mine.pop(draw.randrange(len(mine)))
                say("forgetting", user, [turn])
                memory.forget(user_id=user, ids=[turn])
                say("forgotten", user, [turn])
                continue
            user = draw.choice(USERS)
            batch = [
                {"role": "user", "id": f"{number}-{n}-{i}", "content": f"Marker {number} {n} {i} of the day."}
                for i in range(draw.choice((1, 2, 5)))
            ]
            done = memory.add(batch, user_id=user, session_id=f"s{n % 3}")
            say("added", user, done.ids)
            mine += [(user, i) for i in done.ids]


# ------------------------------------------------------------------------------------ comparing
def compare(target: Target, said: _Said, outcome: Outcome) -> None:
    """Open an engine as after any crash, and count what is amiss."""
    start = time.monotonic()
    with LightMem(target.database, target.config(), embedder=InstantEmbedder()) as memory:
        stored = [(user, turn) for user in USERS for turn in _turns(memory, user)]
        there = set(stored)
        outcome.lost += len(said.there - there)
        outcome.risen += len(said.gone & there)
        outcome.doubled += len(stored) - len(there)
        if said.last in said.there & there:
            outcome.stale += not _is_found(memory, *said.last)
        _recover(memory, start + RECOVER_SECONDS)
        outcome.recovery.append(time.monotonic() - start)
        known = sorted(said.there & there)
        sample = known[:: max(1, len(known) // 20)]
        outcome.stale += sum(not _is_found(memory, *turn) for turn in sample)
        for user, entry in _differences(memory):
            is_there = memory.get(entry, user_id=user) is not None
            outcome.stale += is_there
            outcome.orphans += not is_there
        report = memory.doctor()
        outcome.unsound += sum(f.count or 1 for f in report.findings if not f.ok)


def _is_found(memory: LightMem, user: str, turn: str) -> bool:
    """Its own words find it, among turns that share most of them."""
    hits = memory.search(f"Marker {' '.join(turn.split('-'))}", user_id=user, k=50, strategy="bm25")
    return any(turn in hit.source_ids for hit in hits)


def _turns(memory: LightMem, user: str) -> Iterator[str]:
    for entry in memory.list(user_id=user, limit=1_000_000):
        yield entry.source_messages[0]


def _recover(memory: LightMem, limit: float) -> None:
    """What a worker does, until nothing waits. A claim of the dead is anybody's after some seconds."""
    while memory.stats()["pending"] or (memory._projection and memory._projection.outbox.backlog()):
        memory.work(once=True)
        if time.monotonic() > limit:
            return
        time.sleep(0.2)


def _differences(memory: LightMem) -> list[tuple[str, str]]:
    return [] if memory._projection is None else list(memory._projection.differences())


if __name__ == "__main__":
    _, path_or_url, urls, collection, number = sys.argv
    _write(Target("", path_or_url, tuple(json.loads(urls)), collection), int(number))
