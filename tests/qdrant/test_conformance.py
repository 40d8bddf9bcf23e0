"""The index in Qdrant keeps to the laws: local in memory, local in a folder, and on a server."""

from __future__ import annotations

import pytest

from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.stores.exact import ExactIndex
from lightmem_integrations.stores.qdrant import open_index
from lightmem_integrations.testing.conformance import DIM, KeywordIndexConformance, VectorIndexConformance

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def index(store, address, name):
    config = LightMemConfig(qdrant=address, qdrant_collection=name)
    opened = open_index(config, store, {"embedder": "laws"}, lambda: DIM, ExactIndex(store, 1 << 20, 4.0))
    opened.open()
    yield opened
    opened.projection.collection.remove()
    opened.close()


class TestVectors(VectorIndexConformance):
    @pytest.fixture
    def index(self, index):
        return index


class TestKeywords(KeywordIndexConformance):
    @pytest.fixture
    def index(self, index):
        return index
