"""Many entries of many users of very different sizes: load rate, disk, memory and search, and how they grow.

Texts, vectors and token vectors are made up (``bench.instant``) and take the way of ``bulk_add`` into the
database and of ``reindex`` into Qdrant, so that the figures are the stores' and no model's.
"""

from __future__ import annotations

import os
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import text

from lightmem_integrations.bench.instant import InstantEmbedder, questions, sentences
from lightmem_integrations.bench.speed import peak_mib
from lightmem_integrations.bench.table import Cell, Table, percentile
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.normalize import content_hash, read_message
from lightmem_integrations.core.ports import NewTurn
from lightmem_integrations.core.types import Passage
from lightmem_integrations.errors import UsageError
from lightmem_integrations.memory import LightMem
from lightmem_integrations.stores.sql.loading import Load, SqlLoader
from lightmem_integrations.stores.sql.outbox import SqlOutbox
from lightmem_integrations.stores.sql.store import SqlStore

__all__ = ["EXPONENT", "loads", "run_scale", "user_sizes"]

EXPONENT = 1.3
"""Of Zipf's law over users: with 10,000 of them, the largest has about a quarter of all entries."""

PART = 2_000
SESSION = 100
QUERIES = 20
"""Searches of each user that is asked."""

LARGEST, MEDIAN = 10, 20
"""Users that are searched: the largest ones, and some around the median."""

_FIRST_DAY = datetime(2024, 1, 1, 9, tzinfo=timezone.utc)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to measure. The database and the name in Qdrant must be empty, and are filled.

    Attributes:
        database: URL or file.
        qdrant: URLs; none to leave Qdrant out.
        folder: of the data of that Qdrant on this machine, to see its size; None when it is elsewhere.
    """

    database: str
    qdrant: tuple[str, ...] = ()
    folder: Path | None = None


def run_scale(
    place: Place,
    sizes: Sequence[int] = (10_000, 100_000),
    *,
    users: int = 10_000,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Table:
    """Grow one database through ``sizes`` entries and measure at each.

    Args:
        place: where.
        sizes: entries, rising.
        users: who share them.
        seed: of who says what.
        say: told what goes on.

    Raises:
        UsageError: there is something in the database.
    """
    columns = [_measured(place, n, before, users, seed, say) for before, n in zip((0, *sizes), sizes, strict=False)]
    rows = tuple((name, *(column[name] for column in columns)) for name in columns[0])
    note = (
        f"{users:,} users, sizes by Zipf's law (exponent {EXPONENT}); texts of 8 to 22 words, vectors of 384, token "
        "vectors of 64; no model. Times of the client, which shares the machine with the servers."
    )
    return Table("scale", ("entries", *(f"{n:,}" for n in sizes)), rows, note)


def _measured(place: Place, size: int, before: int, users: int, seed: int, say: Say) -> dict[str, Cell]:
    out: dict[str, Cell] = {}
    sizes = user_sizes(size, users, seed)
    store = SqlStore(place.database)
    try:
        if store.counts()["turns"] != before:
            raise UsageError("database", f"must hold {before} turns at this point", store.counts()["turns"])
        SqlOutbox(store).detach()
        say(f"loading {size - before:,} entries")
        out["load into the database (entries/s)"] = (size - before) / _load(store, size, before, users, seed)
        out |= _database_sizes(store, size)
    finally:
        store.close()
    config = LightMemConfig(memory_manager="none", index_cache_mb=1 << 14)
    if place.qdrant:
        config = config.model_copy(update={"qdrant": place.qdrant, "embedding_retriever": "qdrant"})
        say(f"telling Qdrant {size:,} entries")
        start = time.perf_counter()
        LightMem.reindex(place.database, config, embedder=InstantEmbedder(), to="qdrant")
        out["load into Qdrant (entries/s)"] = size / (time.perf_counter() - start)
        with LightMem(place.database, config, embedder=InstantEmbedder()) as memory:
            out["then until Qdrant has optimised (s)"] = _settled(memory)
            out |= _qdrant_sizes(place, size)
            out |= _searched(memory, sizes, "Qdrant", say)
    exact = config.model_copy(update={"qdrant": None, "embedding_retriever": "exact"})
    with LightMem(place.database, exact, embedder=InstantEmbedder()) as memory:
        out |= _searched(memory, sizes, "exact", say)
        out["exact: working sets of those users (MB)"] = memory.stats()["index_cache"]["bytes"] / 1e6
    out["peak memory of the client (MB)"] = peak_mib() * 2**20 / 1e6
    return out


# ------------------------------------------------------------------------------------ who says what
def owners(size: int, users: int, seed: int) -> Any:
    """(size,) the user of each entry, by Zipf's law. A longer run begins like a shorter one."""
    weights = 1 / np.arange(1, users + 1) ** EXPONENT
    return np.random.default_rng(seed).choice(users, size, p=weights / weights.sum())


def user_sizes(size: int, users: int, seed: int) -> dict[str, int]:
    """How many entries each user has who has any, the largest first."""
    return {f"user-{user}": n for user, n in Counter(owners(size, users, seed).tolist()).most_common()}


def loads(size: int, before: int, users: int, seed: int) -> Iterator[list[Load]]:
    """The entries from number ``before`` on, in parts, as ``bulk_add`` would read them."""
    embedder = InstantEmbedder()
    whose = owners(size, users, seed).tolist()
    said = Counter(whose[:before])
    for start in range(before, size, PART):
        part = whose[start : start + PART]
        texts = sentences(len(part), seed=start)
        made = []
        for user, content, encoding in zip(part, texts, embedder.encode(texts), strict=True):
            turn = _turn(said[user], content, len(encoding.piece_ids))
            said[user] += 1
            made.append(Load(f"user-{user}", turn, [(Passage(0, len(content)), encoding)]))
        yield made


def _turn(n: int, content: str, tokens: int) -> NewTurn:
    at = _FIRST_DAY + timedelta(days=n // SESSION, minutes=n % SESSION)
    message = read_message({"role": "user", "content": content, "speaker": ("Ada", "Ben")[n % 2], "id": f"turn-{n}"})
    return NewTurn(
        id=f"turn-{n}",
        session_id=f"session-{n // SESSION}",
        role=message.role,
        speaker=message.speaker,
        content=content,
        timestamp=at,
        session_time=at,
        tokens=tokens,
        language="en",
        content_hash=content_hash(replace(message, timestamp=at)),
        metadata={},
    )


def _load(store: SqlStore, size: int, before: int, users: int, seed: int) -> float:
    """Store the entries; returns the seconds that storing took, without making them up."""
    identity = {"embedder": InstantEmbedder.name, "dim": str(InstantEmbedder.dim)}
    store.claim_meta(identity | {"token_dim": str(InstantEmbedder.token_dim)})
    loader, taken = SqlLoader(store), 0.0
    for part in loads(size, before, users, seed):
        start = time.perf_counter()
        loader.add(part, "add")
        taken += time.perf_counter() - start
    loader.settle()
    return taken


# ------------------------------------------------------------------------------------ sizes
_TABLES = text(
    "SELECT c.relname, pg_relation_size(c.oid), pg_total_relation_size(c.oid) - pg_indexes_size(c.oid),"
    " pg_indexes_size(c.oid) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace"
)


def database_bytes(store: SqlStore) -> dict[str, int]:
    """Bytes on disk of the tables with many rows, each with what is stored out of line, and of all indexes."""
    with store.reading(None) as connection:
        if connection.dialect.name != "postgresql":
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            return {"whole": pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one()}
        found = connection.execute(_TABLES).all()
    sizes = {f"{name}": int(heap) for name, _, heap, _ in found if name in ("turns", "entries", "passages", "journal")}
    indexes = sum(int(row[3]) for row in found)
    return sizes | {"indexes": indexes, "whole": sum(int(row[2]) + int(row[3]) for row in found)}


def _database_sizes(store: SqlStore, size: int) -> dict[str, Cell]:
    found = database_bytes(store)
    named = {f"database, {name} (bytes/entry)": n / size for name, n in found.items() if name != "whole"}
    return {**named, "database, whole (bytes/entry)": found["whole"] / size}


def _qdrant_sizes(place: Place, size: int) -> dict[str, Cell]:
    out: dict[str, Cell] = {}
    if place.folder is not None:
        files = [Path(at) / name for at, _, names in os.walk(place.folder) for name in names]
        out["Qdrant, disk (bytes/entry)"] = sum(f.stat().st_blocks * 512 for f in files if f.exists()) / size
    out["Qdrant, memory without page cache (MB)"] = allocated_bytes(place.qdrant[0]) / 1e6
    return out


def allocated_bytes(url: str) -> int:
    """Memory that a Qdrant server has allocated, without the files that it has mapped."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("memory_allocated_bytes ")))


def _settled(memory: LightMem) -> float:
    """Wait until Qdrant has nothing left to optimise; returns the seconds."""
    start = time.perf_counter()
    projection = memory._projection
    assert projection is not None
    while True:
        info: Any = projection.collection.connection(lambda client: client.get_collection(projection.collection.alias))
        if str(getattr(info.status, "value", info.status)) == "green":
            return time.perf_counter() - start
        time.sleep(0.5)


# ------------------------------------------------------------------------------------ search
def _searched(memory: LightMem, sizes: dict[str, int], mode: str, say: Say) -> dict[str, Cell]:
    asked = questions(QUERIES)
    ranked = list(sizes)
    middle = len(ranked) // 2
    around = ranked[max(0, middle - MEDIAN // 2) : middle + MEDIAN // 2]
    groups = {f"median users ({sizes[ranked[middle]]:,})": around, "ten largest users": ranked[:LARGEST]}
    out: dict[str, Cell] = {}
    for name, group in groups.items():
        plain = name.partition(" (")[0]
        say(f"searching {name}, {mode}")
        first = [_ms(memory, "warm", user) for user in group]
        taken = [_ms(memory, question, user) for question in asked for user in group]
        out[f"{mode}: {plain}, first search (ms, median)"] = median(first)
        out[f"{mode}: {plain}, p50 (ms)"] = percentile(taken, 0.5)
        out[f"{mode}: {plain}, p95 (ms)"] = percentile(taken, 0.95)
    out[f"{mode}: largest user, first search (ms)"] = _first(memory, ranked[0])
    return out


def _first(memory: LightMem, user: str) -> float:
    memory._index.drop(user)
    return _ms(memory, "warm", user)


def _ms(memory: LightMem, question: str, user: str) -> float:
    start = time.perf_counter()
    memory.search(question, user_id=user)
    return 1_000 * (time.perf_counter() - start)
