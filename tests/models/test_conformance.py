"""Every embedder that is shipped keeps to the laws."""

from __future__ import annotations

from functools import lru_cache

import pytest

from lightmem_integrations import LightMemConfig
from lightmem_integrations.errors import MissingDependencyError, ModelNotFoundError
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.testing import FlakyEmbedder, HashEmbedder
from lightmem_integrations.testing.conformance import EmbedderConformance


@lru_cache
def loaded(preset):
    """Its embedder, ready; skips, and tells what is missing, where its model is not there."""
    try:
        embedder = make_embedder(LightMemConfig(embedder=preset))
        embedder.load()
    except (MissingDependencyError, ModelNotFoundError) as error:
        pytest.skip(str(error))
    return embedder


class TestHash(EmbedderConformance):
    @pytest.fixture
    def embedder(self):
        return HashEmbedder()


class TestFlaky(EmbedderConformance):
    """Without a fault it is what it wraps."""

    @pytest.fixture
    def embedder(self):
        return FlakyEmbedder()


class TestMiniLM(EmbedderConformance):
    @pytest.fixture
    def embedder(self):
        return loaded("minilm")


class TestMultilingual(EmbedderConformance):
    @pytest.fixture
    def embedder(self):
        return loaded("multilingual")


@pytest.mark.sentence_transformers
class TestSentenceTransformers(EmbedderConformance):
    @pytest.fixture
    def embedder(self):
        return loaded("sentence-transformers")
