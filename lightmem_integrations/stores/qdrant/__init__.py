"""An index in Qdrant: server, cluster, or local for tests and notebooks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.stores.exact import ExactIndex
from lightmem_integrations.stores.qdrant.collection import Collection
from lightmem_integrations.stores.qdrant.connection import Connection
from lightmem_integrations.stores.qdrant.index import QdrantIndex
from lightmem_integrations.stores.qdrant.projection import Projection
from lightmem_integrations.stores.sql.store import SqlStore

__all__ = ["QdrantIndex", "open_index"]


def open_index(
    config: LightMemConfig,
    store: SqlStore,
    identity: Mapping[str, str],
    dim: Callable[[], int | None],
    exact: ExactIndex,
) -> QdrantIndex:
    """The index that a configuration names. Nothing is connected to yet.

    Raises:
        UsageError: an address that is none.
        MissingDependencyError: qdrant-client is not installed.
    """
    key = config.qdrant_api_key
    connection = Connection(
        config.qdrant or (),
        api_key=None if key is None else key.get_secret_value(),
        timeout_seconds=config.qdrant_timeout_seconds,
        grpc=config.qdrant_grpc,
    )
    database = store.claim_meta({"database": uuid.uuid4().hex})
    collection = Collection(connection, config.qdrant_collection, {**identity, **database}, config.qdrant_preset)
    depth = config.candidates_dense, config.candidates_bm25
    return QdrantIndex(store, Projection(store, collection, dim), depth, exact, config.conversation_gap_hours)
