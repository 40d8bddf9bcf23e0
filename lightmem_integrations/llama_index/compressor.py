"""The engine's compressors in LlamaIndex: for nodes on their way into an index, and for nodes that were found."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, TypeVar

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TransformComponent
from pydantic import BaseModel, Field, PrivateAttr, field_validator

from lightmem_integrations.core.compress import RATE, safely
from lightmem_integrations.core.ports import Compressor
from lightmem_integrations.llama_index.events import dispatcher
from lightmem_integrations.models.compress import COMPRESSORS, make_compressor

__all__ = ["LightMemCompressor", "LightMemCompressorPostprocessor"]

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=BaseNode)


class _Compressing(BaseModel):
    """What both have: which compressor, made on first use. All fields are JSON values, for cache keys."""

    compressor: str = "lexical"
    rate: float = Field(default=RATE, gt=0, le=1)
    model: str | None = None
    device: str = "cpu"

    _made: Compressor | None = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @field_validator("compressor")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in COMPRESSORS:
            raise ValueError(f"must be one of {', '.join(COMPRESSORS)} (got {value!r})")
        return value

    def _compressed(self, nodes: Sequence[N]) -> list[N]:
        """Copies of the nodes with less text; nodes without text come back as they are."""
        with self._lock:
            if self._made is None:
                self._made = make_compressor(self.compressor, rate=self.rate, model=self.model, device=self.device)
        texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        if self._made is None:
            return list(nodes)
        made, reasons = safely(self._made, texts)
        for reason in reasons:
            logger.warning("Some nodes were not compressed: %s", reason)
        return [
            node if result.failed or result.text == text else _with_text(node, result.text)
            for node, text, result in zip(nodes, texts, made, strict=True)
        ]


class LightMemCompressor(_Compressing, TransformComponent):
    """Leaves out the words that say least, for an ``IngestionPipeline``: smaller indexes, shorter prompts.

    Nodes keep their ids, metadata and relationships; the ones that are given are not modified. A text that
    cannot be compressed stays whole.

    Args:
        compressor: ``lexical`` needs nothing; ``llmlingua`` and ``entropy`` need the ``llmlingua`` extra;
            ``none`` changes nothing.
        rate: share of the tokens to keep, 0 < rate ≤ 1.
        model: of ``llmlingua`` and ``entropy``: a folder or a name on the Hugging Face hub.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> text = "Well, you know, I really think that we should meet in Lisbon on the 4th of May, if at all possible."
        >>> shorter = LightMemCompressor(rate=0.5)([TextNode(text=text)])[0].text
        >>> "Lisbon" in shorter, len(shorter) < len(text)
        (True, True)
    """

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "LightMemCompressor"

    @dispatcher.span
    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Compressed copies of the nodes."""
        return self._compressed(nodes)


class LightMemCompressorPostprocessor(_Compressing, BaseNodePostprocessor):
    """Leaves out the words that say least from nodes that were retrieved, before a model reads them.

    Order and scores stay. The arguments are those of ``LightMemCompressor``.
    """

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "LightMemCompressorPostprocessor"

    @dispatcher.span
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        shorter = self._compressed([found.node for found in nodes])
        return [NodeWithScore(node=node, score=found.score) for node, found in zip(shorter, nodes, strict=True)]


def _with_text(node: N, text: str) -> N:
    copy = node.model_copy()
    copy.set_content(text)
    return copy
