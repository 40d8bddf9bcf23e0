"""The stores and the exact index keep to the laws; with ``--database postgresql``, PostgreSQL does."""

from __future__ import annotations

import pytest

from lightmem_integrations.stores.exact import ExactIndex
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing.conformance import (
    KeywordIndexConformance,
    StoreConformance,
    VectorIndexConformance,
)


class TestFile(StoreConformance):
    @pytest.fixture
    def open_store(self, path):
        return lambda: SqlStore(path)


class TestMemory(StoreConformance):
    persistent = False

    @pytest.fixture
    def open_store(self):
        return lambda: SqlStore(":memory:")


@pytest.fixture
def exact(store):
    return ExactIndex(store, 1 << 20, 4.0)


class TestExactVectors(VectorIndexConformance):
    tolerance = 1e-6

    @pytest.fixture
    def index(self, exact):
        return exact


class TestExactKeywords(KeywordIndexConformance):
    @pytest.fixture
    def index(self, exact):
        return exact
