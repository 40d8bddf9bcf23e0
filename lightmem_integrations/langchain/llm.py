"""Any LangChain chat model as the engine's language model."""

from __future__ import annotations

from typing import Any

from lightmem_integrations.models.llm.adapters import LangChainLLM
from lightmem_integrations.models.llm.meter import Meter

__all__ = ["langchain_llm"]


def langchain_llm(model: Any, *, meter: Meter | None = None, **options: Any) -> LangChainLLM:
    """A chat model, or a string that ``init_chat_model`` reads, as a language model of the engine.

    Every call is tagged ``nostream``: its tokens never reach the user's stream.

    Args:
        model: a ``BaseChatModel``, a runnable that takes messages, or a string such as
            ``openai:gpt-4o-mini``, which needs the ``langchain`` package.
        meter: counts tokens and holds the daily quota; None for one of its own.
        options: of ``init_chat_model``, such as ``temperature``, for a string.
    """
    if isinstance(model, str):
        from langchain.chat_models import init_chat_model

        model = init_chat_model(model, **options)
    return LangChainLLM(model, meter)
