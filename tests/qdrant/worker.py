"""A process that writes to a memory whose index is in Qdrant, until it is killed. Not a test.

    worker.py DATABASE URLS COLLECTION NAME START

Adds, forgets and searches. Says what it has done, one line each: ``+ id id …`` after ``add`` returned,
``- id`` before it forgets; ``ready`` first.
"""

from __future__ import annotations

import random
import sys

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.testing.embedders import HashEmbedder


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(database: str, urls: str, collection: str, name: str, start: int) -> None:
    config = LightMemConfig(qdrant=tuple(urls.split(",")), qdrant_collection=collection, qdrant_timeout_seconds=5)
    draw = random.Random(start)
    with LightMem(database, config, embedder=HashEmbedder()) as memory:
        say("ready")
        number = start
        while True:
            ids = [f"{name}-{number}-{n}" for n in range(draw.choice((1, 3, 5)))]
            said = [{"role": "user", "id": i, "content": f"{name} noted marker{i.replace('-', 'x')}."} for i in ids]
            memory.add(said, user_id=name)
            say(" ".join(("+", *ids)))
            if draw.random() < 0.3:
                say(f"- {ids[0]}")
                memory.forget(user_id=name, ids=ids[:1])
            memory.search(f"marker{ids[-1].replace('-', 'x')}", user_id=name, k=3)
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
