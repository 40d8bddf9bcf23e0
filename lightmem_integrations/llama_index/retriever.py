"""``LightMemRetriever``: a user's memory as a LlamaIndex retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilters

from lightmem_integrations._adapters import Flow, arun, call, metadata_of, run
from lightmem_integrations.core.tokens import budget_counter
from lightmem_integrations.core.types import Filter, Hit, Scope, Strategy
from lightmem_integrations.llama_index.events import LightMemRecallEvent, dispatcher, tokens_of, whose
from lightmem_integrations.llama_index.filters import engine_filter
from lightmem_integrations.memory import LightMem

__all__ = ["LightMemRetriever"]

_SHOWN = frozenset({"timestamp", "speaker", "role"})


class LightMemRetriever(BaseRetriever):
    """Memories of a user as nodes, best first, each with a score in 0..1. Errors are raised.

    A node has the id of its entry, and as metadata what the caller stored with it and ``memory_id``,
    ``timestamp`` (ISO 8601), ``kind``, ``role``, ``speaker``, ``session_id`` and ``source_ids``. A language
    model is shown the time and who spoke, an embedding model the text alone.

    Args:
        lightmem: the engine.
        user_id: whose memory. There is no default.
        session_id: only this conversation; None for all.
        k: nodes at most, at least 1.
        filters: what a memory must be: LlamaIndex ``MetadataFilters``, a ``Filter``, or a dict of metadata.
            Beside metadata they know ``session_id``, ``kind``, ``role``, ``speaker``, ``timestamp`` and
            ``importance``. What they cannot express is refused; they never widen the user.
        score_threshold: 0..1; nodes below are left out.
        strategy: how memories are ranked; None for the engine's.
        options: of ``BaseRetriever``, such as ``callback_manager``.

    Raises:
        UsageError: an argument breaks a rule.

    Example:
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> lightmem = LightMem(":memory:", LightMemConfig(embedder="none"))
        >>> added = lightmem.add("My cat is called Miso.", user_id="ana")
        >>> LightMemRetriever(lightmem, "ana").retrieve("What is the cat's name?")[0].text
        'My cat is called Miso.'
    """

    def __init__(
        self,
        lightmem: LightMem,
        user_id: str,
        *,
        session_id: str | None = None,
        k: int = 10,
        filters: MetadataFilters | Filter | Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        strategy: Strategy | None = None,
        **options: Any,
    ) -> None:
        scope = Scope(user_id, session_id)
        self._lightmem = lightmem
        self._options: dict[str, Any] = {
            "user_id": scope.user_id,
            "session_id": session_id,
            "k": k,
            "filter": engine_filter(filters),
            "score_threshold": score_threshold,
            "strategy": strategy,
        }
        options.setdefault("callback_manager", Settings.callback_manager)
        super().__init__(**options)

    def as_query_engine(self, **options: Any) -> RetrieverQueryEngine:
        """A query engine over this retriever; the options are those of ``RetrieverQueryEngine.from_args``."""
        return RetrieverQueryEngine.from_args(self, **options)

    @dispatcher.span
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return run(self._lightmem, self._nodes(query_bundle.query_str))

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await arun(self._lightmem, self._nodes(query_bundle.query_str))

    def _nodes(self, query: str) -> Flow[list[NodeWithScore]]:
        start = perf_counter()
        hits: list[Hit] = yield from call("search", query, **self._options)
        milliseconds = (perf_counter() - start) * 1000
        tokens = yield from call(_tokens, hits)
        dispatcher.event(
            LightMemRecallEvent(
                user=whose(self._options["user_id"]),
                hits=len(hits),
                milliseconds=milliseconds,
                tokens_before=tokens,
                tokens_after=tokens,
            )
        )
        return [_node(hit) for hit in hits]


def _tokens(hits: Sequence[Hit]) -> int:
    return tokens_of((hit.entry.memory for hit in hits), budget_counter().count)


def _node(hit: Hit) -> NodeWithScore:
    """A hit as a node. Score and signals are not in its metadata, which LlamaIndex tells equal nodes by."""
    entry = hit.entry
    told = metadata_of(hit) | {name: entry.metadata.get(name) for name in ("score", "parts")}
    metadata = {name: value for name, value in told.items() if value is not None} | {"memory_id": entry.id}
    node = TextNode(
        id_=entry.id,
        text=entry.memory,
        metadata=metadata,
        excluded_llm_metadata_keys=[name for name in metadata if name not in _SHOWN],
        excluded_embed_metadata_keys=list(metadata),
    )
    return NodeWithScore(node=node, score=float(hit.score))
