"""The sizing calculator: its sums, and that what it calls measured is what is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from lightmem_integrations.bench.instant import InstantEmbedder, sentences
from lightmem_integrations.bench.scale import database_bytes as on_disk
from lightmem_integrations.bench.scale import loads
from lightmem_integrations.errors import UsageError
from lightmem_integrations.sizing import Constants, Sizing, database_bytes, size
from lightmem_integrations.stores.sql.loading import SqlLoader
from lightmem_integrations.stores.sql.store import SqlStore
from tests.servers import PostgreSQL
from tests.test_cli import run

ENTRIES = 10_000


def values(found: Sizing) -> dict[str, float]:
    return {figure.name: figure.value for figure in found.figures}


def test_the_sums_add_up() -> None:
    found = size(1_000, 10, days=100)
    tables = ("turns", "entries", "journal", "passages", "indexes")
    parts = [found[f"database: {name}, of a turn"] for name in tables] + [found["database: what is made of a turn"]]
    assert found["turns"] == 1_000_000
    assert found["database: a turn in all"] == pytest.approx(sum(parts))
    assert found["database: disk, with room"] == pytest.approx(1.5e6 * sum(parts))
    assert found["Qdrant: nodes"] == 2
    assert found["Qdrant: shards"] == 4
    assert found["servers in all, a month"] == 400 * 4
    assert {figure.how for figure in found.figures} == {"given", "measured", "computed", "assumed"}
    assert len({figure.name for figure in found.figures}) == len(found.figures)


@pytest.mark.parametrize("what", ["users", "turns_per_day", "tokens_per_turn", "days", "replicas", "dim"])
def test_more_of_anything_is_never_smaller(what: str) -> None:
    given: dict[str, Any] = {"users": 10_000, "turns_per_day": 5, "tokens_per_turn": 40, "days": 365, "replicas": 2}
    given["dim"] = 384
    grown = [values(size(**given | {what: given[what] * factor})) for factor in (1, 10, 1_000)]
    for less, more in pairwise(grown):
        assert all(more[name] >= less[name] for name in less)
    assert grown[-1]["servers in all, a month"] > grown[0]["servers in all, a month"]


def test_servers_follow_what_is_assumed_of_them() -> None:
    small = size(1_000_000, 3, constants=replace(Constants(), node_memory=2**30))
    large = size(1_000_000, 3, constants=replace(Constants(), node_memory=2**40))
    assert small["Qdrant: nodes"] > large["Qdrant: nodes"] >= 2
    assert small["Qdrant: memory, all replicas, with room"] == large["Qdrant: memory, all replicas, with room"]


@pytest.mark.parametrize("given", [{"users": 0}, {"turns_per_day": -1}, {"days": 0}, {"replicas": 0}])
@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(given: dict[str, Any], bad: float | None) -> None:
    name = next(iter(given))
    with pytest.raises(UsageError, match=f"{name} must be a number above 0"):
        size(**{"users": 1, "turns_per_day": 1} | (given if bad is None else {name: bad}))


@pytest.mark.postgres
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_what_is_called_measured_is_measured(server: PostgreSQL) -> None:
    server.run("DROP SCHEMA IF EXISTS sized CASCADE", "CREATE SCHEMA sized")
    store = SqlStore(server.url(schema="sized"))
    try:
        loader = SqlLoader(store)
        for part in loads(ENTRIES, 0, 1_000, 0):
            loader.add(part, "add")
        found = on_disk(store)
    finally:
        store.close()
    texts = sentences(2_000)
    chars = sum(map(len, texts)) / len(texts)
    pieces = sum(len(e.piece_ids) for e in InstantEmbedder().encode(texts)) / len(texts)
    told = database_bytes(chars, pieces, dim=384, token_dim=64, constants=Constants())
    assert {name: n / ENTRIES for name, n in found.items() if name in told} == pytest.approx(told, rel=0.25)


def test_the_command() -> None:
    options = ("size", "--users", "1000000", "--turns-per-day", "2.74")
    shown = run(*options).stdout
    assert "1,000,100,000" in shown
    assert " TB " in shown
    told = json.loads(run(*options, "--json", "--node-price", "100").stdout)
    assert {figure["name"]: figure["value"] for figure in told}["servers in all, a month"] % 100 == 0
    assert "users must be a number above 0" in run("size", "--users", "0", "--turns-per-day", "1", code=2).stderr
