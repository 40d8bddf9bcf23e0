"""One collection for one database, behind an alias: how it is laid out, made, checked and filled.

A collection is named by what its points depend on (database, model, analyzer, layout), so that one made
for something else is never written to. Source of the layout: Qdrant's guide to multitenancy; a graph for
each user instead of one for all (``m=0``, ``payload_m=16``).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.errors import EmbedderMismatchError, IndexUnavailableError, StorageError
from lightmem_integrations.stores.qdrant.connection import Connection
from lightmem_integrations.stores.qdrant.points import DENSE, SPARSE, batches, of_user, point, sparse_query
from lightmem_integrations.stores.sql.outbox import Projected

LAYOUT = 1
"""Counts changes of ``points.point``."""

Preset = Literal["single", "cluster"]

SHARDS, REPLICAS, ACKNOWLEDGING = 4, 2, 1
"""Of the cluster preset. Two replicas that must both acknowledge fail with the first server that is down."""

LOCAL_COMFORT, LOCAL_MOST = 2_000, 20_000
"""Points in local mode: it looks at each of everybody's for each query, 7 ms per 1,000."""

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: entry ids with their cosine, and with their BM25, best first."""

    dense: list[tuple[str, float]]
    sparse: list[tuple[str, float]]


class Collection:
    """The points of one database.

    Args:
        connection: to Qdrant.
        alias: under which the collection is found.
        made_for: what the points depend on; part of the collection's name.
        preset: ``cluster`` for several servers.
    """

    def __init__(self, connection: Connection, alias: str, made_for: Mapping[str, str], preset: Preset) -> None:
        self.connection, self.alias, self.preset = connection, alias, preset
        self._made_for = {**made_for, "layout": str(LAYOUT)}
        text = "\n".join(f"{key}={value}" for key, value in sorted(self._made_for.items()))
        self.base = f"{alias}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    # ------------------------------------------------------------------ making
    def current(self) -> str | None:
        """The collection behind the alias; None without one.

        Raises:
            EmbedderMismatchError: it was made for another database or model.
        """
        aliases = self.connection(lambda client: client.get_aliases()).aliases
        behind = next((a.collection_name for a in aliases if a.alias_name == self.alias), None)
        if behind is not None and not behind.startswith(self.base):
            raise EmbedderMismatchError(
                f"{self.alias!r} in Qdrant at {self.connection} is {behind}, which was made for another database, "
                f"model or release (expected {self.base}). Give this database a qdrant_collection of its own, or let "
                "`lightmem reindex --to qdrant` replace it."
            )
        return str(behind) if behind is not None else None

    def make(self, dim: int, *, serial: int = 1) -> str:
        """Make an empty collection if it is not there; returns its name. Nothing points at it yet."""
        from qdrant_client import models as m

        name = f"{self.base}-{serial}"
        if self.connection(lambda client: client.collection_exists(name)):
            return name
        layout: dict[str, Any] = {
            "vectors_config": {
                DENSE: m.VectorParams(
                    size=dim,
                    distance=m.Distance.COSINE,
                    on_disk=True,
                    datatype=m.Datatype.FLOAT16,
                    multivector_config=m.MultiVectorConfig(comparator=m.MultiVectorComparator.MAX_SIM),
                )
            },
            "sparse_vectors_config": {
                SPARSE: m.SparseVectorParams(modifier=m.Modifier.IDF, index=m.SparseIndexParams(on_disk=False))
            },
        }
        if not self.connection.is_local:
            layout |= _server_layout(m)
        if self.preset == "cluster":
            layout |= {
                "shard_number": SHARDS,
                "replication_factor": REPLICAS,
                "write_consistency_factor": ACKNOWLEDGING,
            }
        self.connection(lambda client: _create(client, name, layout))
        if not self.connection.is_local:  # indexes before data: what comes later is not in the users' graphs
            for field, index in _payload_indexes(m).items():
                self.connection(lambda client, f=field, i=index: client.create_payload_index(name, f, i, wait=True))
        return name

    def publish(self, name: str) -> None:
        """Put a collection behind the alias, and remove those that were there before."""
        from qdrant_client import models as m

        aliases = self.connection(lambda client: client.get_aliases()).aliases
        there = [a.collection_name for a in aliases if a.alias_name == self.alias]
        operations: list[Any] = []
        if there:
            operations.append(m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=self.alias)))
        create = m.CreateAlias(collection_name=name, alias_name=self.alias)
        operations.append(m.CreateAliasOperation(create_alias=create))
        if there != [name]:
            self.connection(lambda client: client.update_collection_aliases(operations))
        for old in self.siblings():
            if old != name:
                self.connection(lambda client, o=old: client.delete_collection(o))

    def siblings(self) -> list[str]:
        """Collections under this alias's name: the one in use, and those that are being filled or were left over."""
        found = self.connection(lambda client: client.get_collections()).collections
        return sorted(c.name for c in found if c.name.rsplit("-", 2)[0] == self.alias)

    def remove(self) -> None:
        """Remove everything under this alias."""
        for name in self.siblings():
            self.connection(lambda client, n=name: client.delete_collection(n))

    def dim(self, name: str) -> int:
        """Length of the vectors that a collection takes."""
        info = self.connection(lambda client: client.get_collection(name))
        return int(info.config.params.vectors[DENSE].size)

    # ------------------------------------------------------------------ writing
    def upsert(self, entries: Iterable[Projected], *, into: str | None = None) -> int:
        """Store the points of entries; returns how many.

        Raises:
            IndexUnavailableError: local mode has no room for more.
        """
        return self.send(self.points(entries), into=into)

    def points(self, entries: Iterable[Projected]) -> Iterator[list[Any]]:
        """The points of entries, in batches that ``send`` takes."""
        return batches(map(point, entries))

    def send(self, points: Iterable[list[Any]], *, into: str | None = None) -> int:
        """Store points, as ``upsert`` does, which makes them as well."""
        stored = 0
        for batch in points:
            if self.connection.is_local:
                self._check_room([p.id for p in batch], into)
            self.connection(lambda client, b=batch: client.upsert(into or self.alias, b, wait=True))
            stored += len(batch)
        return stored

    def delete(self, ids: Sequence[str], user_id: str | None = None) -> None:
        """Remove points; those that are not there, or not this user's, are no error."""
        from qdrant_client import models as m

        for start in range(0, len(ids), PAGE):
            which: Any = [int(i) if i.isdecimal() else i for i in ids[start : start + PAGE]]
            if user_id is not None:
                which = m.Filter(must=[*of_user(user_id).must, m.HasIdCondition(has_id=which)])
            self.connection(lambda client, w=which: client.delete(self.alias, w, wait=True))

    def _check_room(self, ids: Sequence[str], into: str | None) -> None:
        there = self.count(of=into)
        if there + len(ids) <= LOCAL_COMFORT:
            return
        then = there + len(ids) - len(self.revisions(ids, of=into))
        if then > max(there, LOCAL_MOST):
            raise IndexUnavailableError(
                f"Qdrant in local mode ({self.connection}) takes no more than {LOCAL_MOST:,} entries; it has "
                f"{there:,}. Run a Qdrant server, or leave `qdrant` out: the built-in index has no such limit."
            )
        if there <= LOCAL_COMFORT < then:
            warnings.warn(
                f"Qdrant in local mode looks at every entry of every user for each question; above {LOCAL_COMFORT:,} "
                "that is slow. Run a Qdrant server, or leave `qdrant` out.",
                stacklevel=2,
            )

    # ------------------------------------------------------------------ reading
    def search(
        self,
        vector: NDArray[np.float32] | None,
        terms: Mapping[str, float],
        where: Any,
        depth: tuple[int, int],
    ) -> Found:
        """The nearest entries by vector and by words among those that a filter lets pass.

        Args:
            vector: (dim,) of the question; None to search by words alone.
            terms: of the question, with their weights; empty to search by vector alone.
            where: a filter of ``points.conditions``, which always names the user.
            depth: how many by vector, and how many by words.
        """
        from qdrant_client import models as m

        requests: list[Any] = []
        if vector is not None and depth[0]:
            requests.append(m.QueryRequest(query=[vector.tolist()], using=DENSE, filter=where, limit=depth[0]))
        if terms and depth[1]:
            requests.append(m.QueryRequest(query=sparse_query(terms), using=SPARSE, filter=where, limit=depth[1]))
        if not requests:
            return Found([], [])
        answers = self.connection(lambda client: client.query_batch_points(self.alias, requests))
        ranked = [[(str(hit.id), float(hit.score)) for hit in answer.points] for answer in answers]
        by_vector = ranked.pop(0) if requests[0].using == DENSE else []
        return Found(by_vector, ranked[0] if ranked else [])

    def count(self, *, of: str | None = None) -> int:
        """Points of everybody."""
        return int(self.connection(lambda client: client.count(of or self.alias, exact=True)).count)

    def revisions(self, ids: Sequence[str], *, of: str | None = None) -> dict[str, tuple[str, int]]:
        """User and revision of the points that are there."""
        found: dict[str, tuple[str, int]] = {}
        for start in range(0, len(ids), PAGE):
            part = list(ids[start : start + PAGE])
            points = self.connection(lambda client, p=part: client.retrieve(of or self.alias, p, with_payload=_OWNED))
            found.update((str(p.id), _owner(p.payload)) for p in points)
        return found

    def pages(self) -> Iterator[list[tuple[str, str]]]:
        """(user, entry) of every point, page by page."""
        offset: Any = None
        while True:
            points, offset = self.connection(
                lambda client, o=offset: client.scroll(
                    self.alias, limit=PAGE, offset=o, with_payload=_OWNED, with_vectors=False
                )
            )
            yield [(_owner(p.payload)[0], str(p.id)) for p in points]
            if offset is None:
                return

    # ------------------------------------------------------------------ health
    def faults(self) -> tuple[list[str], str]:
        """What is wrong with the collection, and a line on its state."""
        if self.connection.is_local:
            return [], "local mode"
        info = self.connection(lambda client: client.get_collection(self.alias))
        faults = [] if str(info.status).endswith(("GREEN", "green")) else [f"the collection is {_word(info.status)}"]
        lacking = sorted(_payload_fields() - set(info.payload_schema))
        if lacking:
            faults.append(f"payload indexes are missing: {', '.join(lacking)}")
        told = f"version {self.connection.version()}, {_word(info.status)}"
        if self.preset == "single":
            return faults, told
        copies = info.config.params.replication_factor or 1
        if copies < REPLICAS:
            faults.append(f"replication is {copies}: one server that goes takes memory with it")
        peers = self.connection(lambda client: client.http.distributed_api.cluster_status()).result
        replicas = self._replicas(info)
        dead = [state for state in replicas if _word(state) != "Active"]
        if dead:
            faults.append(f"{len(dead)} of {len(replicas)} replicas are {', '.join(sorted(set(map(_word, dead))))}")
        number = len(getattr(peers, "peers", None) or {})
        return faults, f"{told}, {number} peers, {len(replicas)} replicas of {info.config.params.shard_number} shards"

    def _replicas(self, info: Any) -> list[Any]:
        """The state of every replica, as one server sees them."""
        name = self.current() or self.alias
        found = self.connection(lambda client: client.http.distributed_api.collection_cluster_info(name)).result
        return [shard.state for shard in (*found.local_shards, *found.remote_shards)]

    def check_replication(self) -> None:
        """Refuse a collection of the cluster preset that lives on one server alone.

        Raises:
            StorageError: with what to do.
        """
        if self.preset != "cluster":
            return
        info = self.connection(lambda client: client.get_collection(self.alias))
        if (info.config.params.replication_factor or 1) < REPLICAS:
            raise StorageError(
                f"{self.alias!r} in Qdrant at {self.connection} has replication factor 1, so one server that goes "
                f"takes memory with it; qdrant_preset='cluster' needs {REPLICAS}. Make it anew with "
                "`lightmem reindex --to qdrant`, or set qdrant_preset='single'."
            )


_OWNED = ["user_id", "revision"]


def _owner(payload: Mapping[str, Any] | None) -> tuple[str, int]:
    """User and revision; of a point that somebody else wrote they may be missing."""
    found = payload or {}
    return str(found.get("user_id", "")), int(found.get("revision", -1))


def _create(client: Any, name: str, layout: Mapping[str, Any]) -> None:
    """Create a collection; another host that was quicker is fine."""
    try:
        client.create_collection(name, timeout=60, **layout)
    except Exception:
        if not client.collection_exists(name):
            raise


def _server_layout(m: Any) -> dict[str, Any]:
    int8 = m.ScalarQuantizationConfig(type=m.ScalarType.INT8, quantile=0.99, always_ram=True)
    return {
        "hnsw_config": m.HnswConfigDiff(m=0, payload_m=16, ef_construct=100),
        "quantization_config": m.ScalarQuantization(scalar=int8),
        "optimizers_config": m.OptimizersConfigDiff(default_segment_number=2, indexing_threshold=10_000),
        "on_disk_payload": True,
        "strict_mode_config": m.StrictModeConfig(
            enabled=True, unindexed_filtering_retrieve=False, unindexed_filtering_update=False, max_query_limit=PAGE
        ),
    }


def _payload_indexes(m: Any) -> dict[str, Any]:
    """Of every field that a filter names. Only the user's own has a graph."""
    numbers = {"type": m.IntegerIndexType.INTEGER, "enable_hnsw": False}
    return {
        "user_id": m.KeywordIndexParams(type=m.KeywordIndexType.KEYWORD, is_tenant=True),
        "marks": m.IntegerIndexParams(lookup=True, range=False, **numbers),
        "time": m.IntegerIndexParams(lookup=False, range=True, **numbers),
        "ends": m.IntegerIndexParams(lookup=False, range=True, **numbers),
        "importance": m.FloatIndexParams(type=m.FloatIndexType.FLOAT, enable_hnsw=False),
    }


def _payload_fields() -> set[str]:
    return {"user_id", "marks", "time", "ends", "importance"}


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))
