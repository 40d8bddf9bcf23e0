"""Many clients at once on one database and one index: latency, throughput and errors, with and without workers.

Clients are threads of several processes, each process with an engine of its own, as on as many hosts.
They add two turns or search, at random, in the memory of random users. An instant embedder stands in
for the model, so that the figures are the stores' and the engine's.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import lightmem_integrations
from lightmem_integrations.bench.instant import InstantEmbedder, questions, sentences
from lightmem_integrations.bench.table import Cell, Table, percentile
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.errors import LightMemError
from lightmem_integrations.memory import LightMem

__all__ = ["run_clients"]

USERS = 64
PROCESSES = 4
ADDS = 0.5
"""Share of calls that add."""


def run_clients(
    database: str,
    qdrant: Sequence[str],
    *,
    clients: int = 16,
    seconds: float = 60.0,
    workers: Sequence[int] = (0, 1, 2),
    say: Callable[[str], None] = lambda line: None,
) -> Table:
    """Let clients loose, once for each number of workers, each time on other users.

    Args:
        database: URL; a file serves too.
        qdrant: URLs; none for exact search.
        clients: at a time; a multiple of 4.
        seconds: each time.
        workers: processes of ``lightmem worker`` beside them.
        say: told what goes on.

    Raises:
        LightMemError: a process failed.
    """
    columns = []
    for number in workers:
        say(f"{clients} clients for {seconds:g} s, {number} workers")
        columns.append(_measured(database, qdrant, clients, seconds, number))
    rows = tuple((name, *(column[name] for column in columns)) for name in columns[0])
    note = (
        f"{clients} clients in {PROCESSES} processes, {USERS} users, half of the calls add two turns and half search; "
        f"{seconds:g} s each; no model. Clients, workers and servers share the machine."
    )
    return Table("clients", ("worker processes", *map(str, workers)), rows, note)


def _measured(database: str, qdrant: Sequence[str], clients: int, seconds: float, workers: int) -> dict[str, Cell]:
    settings = json.dumps([database, list(qdrant)])
    with ExitStack() as stack:
        helpers = [stack.enter_context(_Process("work", settings)) for _ in range(workers)]
        crowd = [
            stack.enter_context(_Process("use", settings, str(clients // PROCESSES), str(seconds), f"w{workers}-"))
            for _ in range(PROCESSES)
        ]
        for process in (*helpers, *crowd):
            process.ready()
        for process in crowd:
            process.go()
        found = [json.loads(process.result()) for process in crowd]
        for process in helpers:
            process.stop()
    out: dict[str, Cell] = {}
    for what in ("add", "search"):
        taken = [ms for one in found for ms in one[what]]
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            out[f"{what}, {name} (ms)"] = percentile(taken, share)
        out[f"{what}, calls a second"] = len(taken) / seconds
    out["errors"] = sum(len(one["errors"]) for one in found)
    out["turns added and then not found"] = sum(one["missed"] for one in found)
    if out["errors"]:
        out["the first error"] = next(error for one in found for error in one["errors"])[:200]
    else:
        out["the first error"] = "none"
    out["searches without Qdrant"] = sum(one["without"] for one in found)
    with LightMem(database, config_of([]), embedder=InstantEmbedder()) as memory:
        out["entries left pending"] = memory.stats()["pending"]
    return out


class _Process:
    """A child of this module, and the lines that it prints."""

    def __init__(self, *arguments: str) -> None:
        root = str(Path(lightmem_integrations.__path__[0]).parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "lightmem_integrations.bench.clients", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
        )

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LightMemError(f"a process of the benchmark ended with {self._process.wait()}")
        return line

    def ready(self) -> None:
        self._line()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> str:
        return self._line()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(60):
            raise LightMemError(f"a worker ended with {self._process.returncode}")

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


# ------------------------------------------------------------------------------------ in the child
def config_of(qdrant: Sequence[str]) -> LightMemConfig:
    """Settings of clients and workers."""
    return LightMemConfig(qdrant=tuple(qdrant) or None, busy_timeout_seconds=60)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _work(settings: str) -> None:
    database, qdrant = json.loads(settings)
    with LightMem(database, config_of(qdrant), embedder=InstantEmbedder()) as memory:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda number, frame: Thread(target=stop.set).start())
        _say("ready")
        memory.work(stop)


def _use(settings: str, threads: int, seconds: float, prefix: str) -> None:
    database, qdrant = json.loads(settings)
    texts, asked = sentences(4_000, seed=os.getpid()), questions(200)
    found: dict[str, Any] = {"add": [], "search": [], "errors": [], "missed": 0, "without": 0}
    lock = Lock()
    with LightMem(database, config_of(qdrant), embedder=InstantEmbedder()) as memory:
        memory.search("warm", user_id=f"{prefix}0")
        _say("ready")
        sys.stdin.readline()
        until = time.monotonic() + seconds

        def client(number: int) -> None:
            draw = random.Random(f"{os.getpid()} {number}")
            while time.monotonic() < until:
                user = f"{prefix}{draw.randrange(USERS)}"
                what = "add" if draw.random() < ADDS else "search"
                start = time.perf_counter()
                try:
                    if what == "add":
                        pair = [{"role": role, "content": draw.choice(texts)} for role in ("user", "assistant")]
                        done = memory.add(pair, user_id=user, session_id=f"s{draw.randrange(4)}")
                        ids, reasons = done.ids, done.errors
                    else:
                        hits = memory.search(draw.choice(asked), user_id=user)
                        ids, reasons = (), ()
                except LightMemError as error:
                    with lock:
                        found["errors"].append(str(error))
                    continue
                taken = 1_000 * (time.perf_counter() - start)
                with lock:
                    found[what].append(taken)
                    if what == "search":
                        found["without"] += any("without Qdrant" in str(h.parts.get("reason", "")) for h in hits[:1])
                    found["errors"] += reasons
                if ids and draw.random() < 0.1:
                    there = all(memory.get(i, user_id=user) for i in ids)
                    with lock:
                        found["missed"] += not there

        crowd = [Thread(target=client, args=(n,)) for n in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
    _say(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "work":
        _work(sys.argv[2])
    else:
        _use(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
