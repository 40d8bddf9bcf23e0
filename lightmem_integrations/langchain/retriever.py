"""``LightMemRetriever``: a user's memory as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import ConfigDict, Field

from lightmem_integrations._adapters import Flow, arun, as_filter, call, embedder_of, metadata_of, run
from lightmem_integrations.core.encode import name_of
from lightmem_integrations.core.tokens import budget_counter
from lightmem_integrations.core.types import Filter, Hit, Kind, Strategy
from lightmem_integrations.errors import UsageError
from lightmem_integrations.memory import LightMem

__all__ = ["LightMemRetriever"]

_OPTIONS = "user_id", "session_id", "k", "filter", "score_threshold", "strategy", "kinds", "as_of", "max_tokens"


class LightMemRetriever(BaseRetriever):
    """Memories of a user as documents, best first.

    Every option is a field, and an argument of ``invoke`` that stands in for the field once:
    ``retriever.invoke(question, user_id="ana", k=3)``. Others are refused. Errors are raised and reach
    the callbacks.

    A document holds the text, the id of the entry, and as metadata what the caller stored with it and
    ``score`` (0..1), ``parts``, ``timestamp`` (ISO 8601), ``kind``, ``role``, ``speaker``,
    ``session_id`` and ``source_ids``.

    Args:
        lightmem: the engine.
        user_id: whose memory; needed here, in ``invoke`` or by ``configurable_fields``.
        session_id: only this conversation; None for all.
        k: documents at most, at least 1.
        filter: what a memory must be: a ``Filter``, or a dict of metadata.
        score_threshold: 0..1; documents below are left out.
        strategy: how memories are ranked; None for the engine's.
        kinds: kinds of entries, such as ``turn``; None for all.
        as_of: answer as of this time (timezone-aware).
        max_tokens: budget of the texts together; what does not fit is passed over. None for none.

    Example:
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> from lightmem_integrations.langchain import LightMemRetriever
        >>> lightmem = LightMem(":memory:", LightMemConfig(embedder="none"))
        >>> added = lightmem.add("My cat is called Miso.", user_id="ana")
        >>> retriever = LightMemRetriever(lightmem=lightmem, user_id="ana")
        >>> retriever.invoke("What is the cat's name?")[0].page_content
        'My cat is called Miso.'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    lightmem: LightMem = Field(exclude=True, repr=False)
    user_id: str | None = None
    session_id: str | None = None
    k: int = Field(default=10, ge=1)
    filter: Filter | dict[str, Any] | None = None
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    strategy: Strategy | None = None
    kinds: Sequence[Kind] | None = None
    as_of: datetime | None = None
    max_tokens: int | None = Field(default=None, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return run(self.lightmem, self._documents(query, options))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return await arun(self.lightmem, self._documents(query, options))

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "lightmem"
        params["ls_embedding_model"] = name_of(embedder_of(self.lightmem))
        return params

    def _documents(self, query: str, options: dict[str, Any]) -> Flow[list[Document]]:
        wanted = self._wanted(options)
        kinds, as_of, max_tokens = (wanted.pop(name) for name in ("kinds", "as_of", "max_tokens"))
        wanted["filter"] = as_filter(wanted["filter"], kinds=kinds, as_of=as_of)
        hits: list[Hit] = yield from call("search", query, **wanted)
        if max_tokens is not None:
            hits = yield from call(_within, hits, max_tokens)
        return [Document(page_content=hit.entry.memory, id=hit.entry.id, metadata=metadata_of(hit)) for hit in hits]

    def _wanted(self, options: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise UsageError("invoke", f"takes {', '.join(_OPTIONS)} beside the query", unknown)
        wanted = {name: options.get(name, getattr(self, name)) for name in _OPTIONS}
        if wanted["user_id"] is None:
            raise UsageError("user_id", "is required: set it on the retriever or pass it to invoke", None)
        return wanted


def _within(hits: list[Hit], max_tokens: int) -> list[Hit]:
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise UsageError("max_tokens", "must be a whole number of at least 1", max_tokens)
    count = budget_counter().count
    kept = []
    for hit in hits:
        size = count(hit.entry.memory)
        if size <= max_tokens:
            kept.append(hit)
            max_tokens -= size
    return kept
