"""LightMem for LangChain: chain memory, retriever, agent middleware, tools, summariser and store.

Each name is loaded, with what it needs of LangChain, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightmem_integrations.errors import MissingDependencyError

if TYPE_CHECKING:
    from lightmem_integrations._adapters import Failures, failures_of
    from lightmem_integrations.langchain.embeddings import LangChainEmbedder
    from lightmem_integrations.langchain.llm import langchain_llm
    from lightmem_integrations.langchain.memory import LightMemMemory
    from lightmem_integrations.langchain.middleware import LightMemMiddleware
    from lightmem_integrations.langchain.retriever import LightMemRetriever
    from lightmem_integrations.langchain.store import LightMemStore
    from lightmem_integrations.langchain.summarizer import lightmem_summarizer
    from lightmem_integrations.langchain.tools import lightmem_tools

__all__ = [
    "Failures",
    "LangChainEmbedder",
    "LightMemMemory",
    "LightMemMiddleware",
    "LightMemRetriever",
    "LightMemStore",
    "failures_of",
    "langchain_llm",
    "lightmem_summarizer",
    "lightmem_tools",
]

# Name: (module, extra that brings what it needs).
_HOME = {
    "Failures": ("lightmem_integrations._adapters", "langchain"),
    "LangChainEmbedder": (".embeddings", "langchain"),
    "LightMemMemory": (".memory", "langchain-classic"),
    "LightMemMiddleware": (".middleware", "agents"),
    "LightMemRetriever": (".retriever", "langchain"),
    "LightMemStore": (".store", "langgraph"),
    "failures_of": ("lightmem_integrations._adapters", "langchain"),
    "langchain_llm": (".llm", "langchain"),
    "lightmem_summarizer": (".summarizer", "langchain"),
    "lightmem_tools": (".tools", "langchain"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _HOME[name]
    try:
        value = getattr(import_module(module, __name__), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package.startswith("lang"):
            raise
        raise MissingDependencyError(package.replace("_", "-"), extra, name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
