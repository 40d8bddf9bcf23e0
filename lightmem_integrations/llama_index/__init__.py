"""LightMem for LlamaIndex: memory, memory block, retriever, compressors, tools, models and events.

Each name is loaded, with what it needs of LlamaIndex, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightmem_integrations.errors import MissingDependencyError

if TYPE_CHECKING:
    from lightmem_integrations._adapters import Failures, failures_of
    from lightmem_integrations.llama_index.block import LightMemMemoryBlock
    from lightmem_integrations.llama_index.compressor import LightMemCompressor, LightMemCompressorPostprocessor
    from lightmem_integrations.llama_index.embeddings import LlamaIndexEmbedder
    from lightmem_integrations.llama_index.events import LightMemIngestEvent, LightMemRecallEvent
    from lightmem_integrations.llama_index.llm import llama_index_llm
    from lightmem_integrations.llama_index.memory import LightMemMemory
    from lightmem_integrations.llama_index.retriever import LightMemRetriever
    from lightmem_integrations.llama_index.tools import lightmem_tools

__all__ = [
    "Failures",
    "LightMemCompressor",
    "LightMemCompressorPostprocessor",
    "LightMemIngestEvent",
    "LightMemMemory",
    "LightMemMemoryBlock",
    "LightMemRecallEvent",
    "LightMemRetriever",
    "LlamaIndexEmbedder",
    "failures_of",
    "lightmem_tools",
    "llama_index_llm",
]

_HOME = {
    "Failures": "lightmem_integrations._adapters",
    "LightMemCompressor": ".compressor",
    "LightMemCompressorPostprocessor": ".compressor",
    "LightMemIngestEvent": ".events",
    "LightMemMemory": ".memory",
    "LightMemMemoryBlock": ".block",
    "LightMemRecallEvent": ".events",
    "LightMemRetriever": ".retriever",
    "LlamaIndexEmbedder": ".embeddings",
    "failures_of": "lightmem_integrations._adapters",
    "lightmem_tools": ".tools",
    "llama_index_llm": ".llm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOME[name], __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("llama_index", "llama_index_instrumentation"):
            raise
        raise MissingDependencyError("llama-index-core", "llama-index", name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
