"""Any LlamaIndex ``BaseEmbedding`` as the engine's embedder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from lightmem_integrations.core.types import Vector
from lightmem_integrations.errors import UsageError

__all__ = ["LlamaIndexEmbedder"]


class LlamaIndexEmbedder:
    """An embedder of the engine that asks a LlamaIndex ``BaseEmbedding``.

    ``LightMem("memory.db", embedder=LlamaIndexEmbedder(OpenAIEmbedding()))``. There are no token vectors,
    so that ranking goes without late interaction.

    Args:
        embeddings: the model.
        name: identity that the database remembers; None makes one of the class and its ``model_name``.
        languages: languages that the model knows, as ISO 639-1 codes; None for any.

    Raises:
        UsageError: it is no ``BaseEmbedding``.
    """

    def __init__(
        self, embeddings: BaseEmbedding, *, name: str | None = None, languages: frozenset[str] | None = None
    ) -> None:
        if not isinstance(embeddings, BaseEmbedding):
            raise UsageError("embeddings", "must be a LlamaIndex BaseEmbedding", embeddings)
        self._model, self.languages = embeddings, languages
        self.name = name or "/".join(("llama-index", type(embeddings).__name__, embeddings.model_name))

    def embed(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, by ``get_text_embedding_batch``."""
        return np.asarray(self._model.get_text_embedding_batch(list(texts)), np.float32)

    def embed_query(self, text: str) -> Vector:
        """(dim,) float32, by ``get_query_embedding``."""
        return np.asarray(self._model.get_query_embedding(text), np.float32)
