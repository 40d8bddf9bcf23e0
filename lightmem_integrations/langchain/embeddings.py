"""Any LangChain ``Embeddings`` as the engine's embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from lightmem_integrations.core.types import Vector
from lightmem_integrations.errors import UsageError

__all__ = ["LangChainEmbedder"]


class LangChainEmbedder:
    """An embedder of the engine that asks a LangChain ``Embeddings``.

    ``LightMem("memory.db", embedder=LangChainEmbedder(OpenAIEmbeddings()))``. There are no token vectors,
    so that ranking goes without late interaction.

    Args:
        embeddings: the model, or a string of ``langchain.embeddings.init_embeddings`` such as
            ``openai:text-embedding-3-small``, which needs the ``langchain`` package.
        name: identity that the database remembers; None makes one of the class and its model. Give one
            where the class keeps its model's name elsewhere than in ``model`` or ``model_name``.
        languages: languages that the model knows, as ISO 639-1 codes; None for any.

    Raises:
        UsageError: it is no ``Embeddings``.
    """

    def __init__(
        self, embeddings: Embeddings | str, *, name: str | None = None, languages: frozenset[str] | None = None
    ) -> None:
        model = _named(embeddings) if isinstance(embeddings, str) else embeddings
        if not isinstance(model, Embeddings):
            raise UsageError("embeddings", "must be a LangChain Embeddings, or a string that names one", embeddings)
        self._model, self.languages = model, languages
        self.name = name or "/".join(("langchain", type(model).__name__, *_model_name(model)))

    def embed(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, by ``embed_documents``."""
        return np.asarray(self._model.embed_documents(list(texts)), np.float32)

    def embed_query(self, text: str) -> Vector:
        """(dim,) float32, by ``embed_query``."""
        return np.asarray(self._model.embed_query(text), np.float32)


def _named(name: str) -> Any:
    from langchain.embeddings import init_embeddings

    return init_embeddings(name)


def _model_name(model: Embeddings) -> list[str]:
    names = (getattr(model, attribute, None) for attribute in ("model", "model_name"))
    return [name for name in names if isinstance(name, str) and name][:1]
