"""Any LlamaIndex LLM as the engine's language model."""

from __future__ import annotations

from llama_index.core.llms import LLM

from lightmem_integrations.errors import UsageError
from lightmem_integrations.models.llm.adapters import LlamaIndexLLM
from lightmem_integrations.models.llm.meter import Meter

__all__ = ["llama_index_llm"]


def llama_index_llm(model: LLM, *, meter: Meter | None = None) -> LlamaIndexLLM:
    """A LlamaIndex LLM as a language model of the engine; ``LightMem(..., llm=model)`` does the same.

    Args:
        model: any LLM; chat models are asked by ``chat``, others by ``complete``.
        meter: counts tokens and holds the daily quota; None for one of its own.

    Raises:
        UsageError: it is no LLM.
    """
    if not isinstance(model, LLM):
        raise UsageError("model", "must be a LlamaIndex LLM", model)
    return LlamaIndexLLM(model, meter)
