"""A process that writes to a memory until it is killed or its time is up. Not a test.

    worker.py add PATH NAME START     batches from number START on, without end
    worker.py mix PATH NAME SECONDS [THREADS]   adds, searches and forgets its own sessions
    worker.py line PATH NAME COUNT    adds one message after the other to the session that all share
    worker.py lock PATH               holds the write lock until its input is closed

``add`` prints the ids of a batch on one line after ``add`` has returned. ``mix`` prints what must be
there at the end, as one line of JSON: user to ids. Each says ``ready`` first.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from lightmem_integrations import LightMem
from lightmem_integrations.testing.embedders import HashEmbedder

BATCH_SIZES = (1, 5, 2, 3)
SHARED = "everybody"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def batch(name: str, number: int) -> list[dict[str, str]]:
    """The messages of one batch; the same each time, so that it can be sent again."""
    size = BATCH_SIZES[number % len(BATCH_SIZES)]
    return [
        {"role": "user", "id": f"{name}-{number}-{i}", "content": f"{name} noted marker{name}x{number}x{i} today."}
        for i in range(size)
    ]


def add(path: str, name: str, start: int) -> None:
    with LightMem(path, embedder=HashEmbedder()) as memory:
        say("ready")
        number = start
        while True:
            user = SHARED if number % 2 else name
            result = memory.add(batch(name, number), user_id=user, session_id=f"s{number % 3}")
            say(" ".join((user, *result.ids)))
            number += 1


def mix(path: str, name: str, seconds: float, threads: int = 1) -> None:
    with LightMem(path, embedder=HashEmbedder()) as memory, ThreadPoolExecutor(threads) as pool:
        say("ready")
        sys.stdin.readline()  # all start together
        until = time.monotonic() + seconds
        held: dict[str, set[str]] = {}
        for ledger in pool.map(lambda n: mixed(memory, f"{name}t{n}" if threads > 1 else name, until), range(threads)):
            for user, ids in ledger.items():
                held.setdefault(user, set()).update(ids)
        say(json.dumps({user: sorted(ids) for user, ids in held.items()}))


def line(path: str, name: str, count: int) -> None:
    with LightMem(path, embedder=HashEmbedder()) as memory:
        say("ready")
        sys.stdin.readline()
        for number in range(count):
            memory.add({"role": "user", "id": f"{name}-{number:03}", "content": f"{name} {number}"}, user_id=SHARED)


def mixed(memory: LightMem, name: str, until: float) -> dict[str, set[str]]:
    """Adds, searches and forgets at random in sessions of its own, checking each answer.

    Returns:
        ids that must be there at the end, by user.
    """
    draw = random.Random(name)
    held: dict[str, dict[str, set[str]]] = {SHARED: {}, name: {}}
    number = 0
    while time.monotonic() < until:
        number += 1
        user, session = draw.choice((SHARED, name)), f"{name}-{draw.randrange(4)}"
        mine = held[user].setdefault(session, set())
        act = draw.random()
        if act < 0.5:
            result = memory.add(batch(f"{name}.{user}", number), user_id=user, session_id=session)
            assert not result.errors, result.errors
            mine.update(result.ids)
        elif act < 0.9:
            hits = memory.search(f"{name} noted today", user_id=user, session_id=session, k=5)
            assert len(hits) == min(5, len(mine)), (len(hits), len(mine))
            assert mine.issuperset(i for hit in hits for i in hit.source_ids)
        else:
            assert memory.forget(user_id=user, session_id=session).rows["turns"] == len(mine)
            mine.clear()
    return {user: set().union(*sessions.values()) for user, sessions in held.items()}


def lock(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("ready")
    sys.stdin.read()
    connection.execute("ROLLBACK")
    connection.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["add", path, name, start]:
            add(path, name, int(start))
        case ["mix", path, name, seconds, *threads]:
            mix(path, name, float(seconds), *map(int, threads))
        case ["line", path, name, count]:
            line(path, name, int(count))
        case ["lock", path]:
            lock(path)
        case _:
            sys.exit(__doc__)
