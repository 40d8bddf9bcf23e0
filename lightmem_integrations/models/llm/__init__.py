"""Language models: one client for OpenAI-compatible endpoints, and adapters for LangChain and LlamaIndex."""

from __future__ import annotations

from typing import Any

from lightmem_integrations.core.ports import LLM
from lightmem_integrations.errors import UsageError
from lightmem_integrations.models.llm.adapters import as_llm
from lightmem_integrations.models.llm.client import PRESETS, OpenAICompatible
from lightmem_integrations.models.llm.meter import Meter, QuotaEvent, QuotaStore

__all__ = ["PRESETS", "Meter", "OpenAICompatible", "QuotaEvent", "QuotaStore", "as_llm", "make_llm"]


def make_llm(llm: Any, *, meter: Meter | None = None, **options: Any) -> LLM:
    """A language model from the name of a preset, or from an object.

    Args:
        llm: ``openai``, ``deepseek``, ``ollama`` or ``vllm``; or what ``as_llm`` takes.
        meter: counts tokens and holds the daily quota.
        options: of ``OpenAICompatible``, for a preset only.

    Raises:
        UsageError: options were given with an object, or the object is not a language model.
        ConfigError: unknown preset, a value that cannot work, or no API key.
        MissingDependencyError: the ``openai`` package is not installed.
    """
    if isinstance(llm, str):
        return OpenAICompatible(llm, meter=meter, **options)
    if options:
        raise UsageError("llm", f"takes no {', '.join(sorted(options))} when it is an object; set them on it", llm)
    return as_llm(llm, meter)
