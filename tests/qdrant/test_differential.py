"""Random lives of three users, told to the exact index, to Qdrant in local mode and to a server in lock-step."""

from __future__ import annotations

import tempfile
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from qdrant_client import models

from lightmem_integrations import Filter, LightMem, LightMemConfig
from lightmem_integrations.core.analyze import query_weights
from lightmem_integrations.core.types import STRATEGIES, Scope
from lightmem_integrations.testing import HashEmbedder
from lightmem_integrations.testing.conformance import say, turn
from tests.qdrant.conftest import exact_of, projection_of

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
USERS, SESSIONS = ("ana", "ben", "ana "), ("s1", "s2")
WORDS = ("tea", "cat", "Bergen", "Miso", "river", "yesterday", "guitar", "snow", "why", "lamp")
TOLERANCE = 2e-3
ALL = 500
ALIKE = ("late", "weighted", "dense")
"""Strategies whose scores are alike where all is candidate; ranks of equals are not, and words alone see a part."""
PHASES = (Phase.explicit, Phase.generate)  # a life takes too long to be shrunk

user = st.sampled_from(USERS)
session = st.none() | st.sampled_from(SESSIONS)
ids = st.integers(0, 15).map(lambda n: f"m{n}")
hour = st.integers(0, 6).map(lambda n: NOON + timedelta(hours=n))
text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
message = st.fixed_dictionaries(
    {
        "id": ids,
        "content": text,
        "role": st.sampled_from(["user", "assistant"]),
        "speaker": st.sampled_from([None, "Ana", "Ben"]),
        "timestamp": hour,
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "tag": st.sampled_from([1, 1.0, True, None, "1", [1], [2]]),
                "importance": st.sampled_from([0.1, 0.5, 0.7]),
            },
        ),
    }
)
batch = st.lists(message, min_size=3, max_size=8, unique_by=lambda m: m["id"])
filters = st.builds(
    Filter,
    session_ids=st.none() | st.lists(st.sampled_from(SESSIONS), max_size=2),
    kinds=st.sampled_from([None, ["turn"], ["fact"], ["turn", "fact"]]),
    roles=st.none() | st.just(["user"]),
    speakers=st.none() | st.lists(st.sampled_from(["Ana", "nobody"]), max_size=2),
    since=st.none() | hour,
    until=st.none() | hour,
    metadata=st.none() | st.fixed_dictionaries({"tag": st.sampled_from([1, True, None, "1", [1]])}),
    min_importance=st.none() | st.sampled_from([0.5, 0.7]),
    as_of=st.none() | hour,
    include_superseded=st.booleans(),
)
write = st.one_of(
    st.tuples(st.just("add"), user, st.sampled_from(SESSIONS), batch, st.booleans()),
    st.tuples(st.just("forget"), user, session, st.none() | st.lists(ids, max_size=3), st.none() | hour),
    st.tuples(st.just("update"), user),
    st.tuples(st.just("sweep"), st.none() | user),
)
ask = st.tuples(session, text, filters, st.sampled_from(STRATEGIES))
lives = st.tuples(
    batch,  # everybody has said something
    st.lists(st.tuples(write, st.lists(ask, min_size=1, max_size=3)), min_size=2, max_size=8),
)


class Side:
    """One engine: the database, and the index under test; ``exact`` judges by the same database."""

    def __init__(self, folder: Path, qdrant: str | None) -> None:
        self.name = f"differential-{uuid.uuid4().hex}"
        told = {} if qdrant is None else {"qdrant": qdrant, "qdrant_collection": self.name}
        config = LightMemConfig(index_wait_seconds=60, **told)
        self.memory = LightMem(folder / f"{self.name}.db", config, embedder=HashEmbedder())
        self.index: Any = exact_of(self.memory) if qdrant is None else self.memory._index

    def close(self) -> None:
        if self.index is self.memory._index:
            projection_of(self.memory).collection.remove()
        self.memory.close()


def do(side: Side, known: dict[str, set[str]], what: str, who: Any, *rest: Any) -> Any:
    """One step on one side; what it gives is to be the same on all sides."""
    memory = side.memory
    if what == "add":
        where, messages, expires = rest
        said = [{**m, "id": f"{m['id']}-{len(known[who])}-{n}"} for n, m in enumerate(messages)]
        ttl = timedelta(microseconds=1) if expires else None
        result = memory.add(said, user_id=who, session_id=where, ttl=ttl)
        assert (result.errors, result.pending) == ((), 0)
        return result.ids
    if what == "forget":
        where, wanted, before = rest
        chosen = None if wanted is None else [i for i in sorted(known[who]) if i.split("-")[0] in wanted]
        return dict(memory.forget(user_id=who, session_id=where, ids=chosen, before=before).rows)
    if what == "update":
        memory.flush(user_id=who)
        return memory.update(user_id=who).merged
    if what == "sweep":
        return len(memory.sweep(user_id=who).expired)
    return None


def same_sets(sides: list[Side], who: str, where: str | None, text: str, filter: Filter) -> None:
    """``nearest`` and ``matching`` find the same, with the same cosines."""
    scope = Scope(who, where)
    vector = HashEmbedder().embed([text])[0]
    near = [dict(side.index.nearest(scope, vector, ALL, filter)) for side in sides]
    shared = [dict(side.index.matching(scope, query_weights(text), ALL, filter)) for side in sides]
    for other in near[1:]:
        assert other == pytest.approx(near[0], abs=TOLERANCE)
    for other in shared[1:]:
        assert other.keys() == shared[0].keys()
    first = sorted(near[0].values(), reverse=True)
    for side in sides[1:]:
        best = side.index.nearest(scope, vector, 3, filter)
        assert [score for _, score in best] == pytest.approx(first[:3], abs=TOLERANCE)


def same_hits(sides: list[Side], who: str, where: str | None, text: str, strategy: Any) -> None:
    """``search`` gives the same, as long as all of a memory are candidates."""
    found = [side.memory.search(text, user_id=who, session_id=where, strategy=strategy, k=ALL) for side in sides]
    for hits in found[1:]:
        assert {h.parts.get("reason") for h in hits} == {h.parts.get("reason") for h in found[0]}
        mine, theirs = ({h.entry.id: h.score for h in part} for part in (hits, found[0]))
        assert set(mine) == set(theirs)
        if where is None and strategy in ALIKE and not has_expired(sides[0].memory, who):
            assert mine == pytest.approx(theirs, abs=1e-5)


def has_expired(memory: LightMem, who: str) -> bool:
    """What has expired is no candidate, but counts in the statistics of the exact index until it is swept."""
    whole = memory.list(user_id=who, limit=ALL, filter=Filter(include_superseded=True))
    return len(whole) > len(memory.list(user_id=who, limit=ALL))


def live(life: Any, *addresses: str) -> None:
    began, rounds = life
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(Path(folder), None), *(Side(Path(folder), address) for address in addresses)]
        known: dict[str, set[str]] = {who: set() for who in USERS}

        def write(what: str, who: Any, *rest: Any) -> None:
            given_back = [do(side, known, what, who, *rest) for side in sides]
            assert given_back[1:] == given_back[:1] * len(addresses)
            if what == "add":
                known[who].update(given_back[0])

        try:
            for who in USERS:
                write("add", who, SESSIONS[0], began, False)
            for written, asked in rounds:
                write(*written)
                for where, text, filter, strategy in asked:
                    for who in USERS[:2]:
                        same_sets(sides, who, where, text, filter)
                        same_hits(sides, who, where, text, strategy)
            for side in sides[1:]:
                assert list(projection_of(side.memory).differences()) == []
        finally:
            for side in sides:
                side.close()


@settings(max_examples=8, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(lives)
def test_local_mode_agrees_with_the_exact_index(life):
    live(life, ":memory:")


@pytest.mark.qdrant_server
@settings(max_examples=4, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(life=lives)
def test_a_server_agrees_with_both(qdrant_server, life):
    live(life, ":memory:", qdrant_server.url)


@pytest.mark.qdrant_server
def test_graphs_and_quantised_vectors_find_what_is_near(qdrant_server, tmp_path):
    """With a graph and vectors of one byte a number, candidates may differ a little, and no more."""
    side, number = Side(tmp_path, qdrant_server.url), 2_000
    try:
        draw = np.random.default_rng(1)
        for user in ("ana", "ben"):
            turns = [turn(f"m{n}") for n in range(number)]
            vectors = draw.normal(size=(number, HashEmbedder().dim))
            vectors /= np.linalg.norm(vectors, axis=1)[:, None]
            say_all(side.memory._store, user, turns, vectors.astype(np.float32))
        asked = projection_of(side.memory).collection
        sooner = {
            "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=10),
            "hnsw_config": models.HnswConfigDiff(full_scan_threshold=10),
        }
        asked.connection(lambda client: client.update_collection(asked.current(), **sooner))
        side.memory.flush()
        limit = time.monotonic() + 60
        while not indexed(asked):
            assert time.monotonic() < limit, "no index is built"
            time.sleep(0.2)
        exact = exact_of(side.memory)
        found = 0
        for _ in range(20):
            query = HashEmbedder().embed([str(draw.integers(1_000_000))])[0]
            near = [{i for i, _ in index.nearest(Scope("ana"), query, 50, Filter())} for index in (exact, side.index)]
            found += len(near[0] & near[1])
        assert found / (20 * 50) > 0.95
    finally:
        side.close()


def indexed(asked: Any) -> bool:
    info = asked.connection(lambda client: client.get_collection(asked.alias))
    return bool(info.indexed_vectors_count) and info.status == models.CollectionStatus.GREEN


def say_all(store: Any, user: str, turns: list[Any], vectors: Any) -> None:
    for at in range(0, len(turns), 500):
        some = turns[at : at + 500]
        say(store, user, *some, vectors={t.id: [v] for t, v in zip(some, vectors[at : at + 500], strict=True)})
