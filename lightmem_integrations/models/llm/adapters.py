"""Chat models of LangChain and LlamaIndex as our language model port, without importing either framework.

Retries, time limits and the format of the answer are the wrapped model's own affair: set them on it. The
JSON Schema of a call is not passed on, since neither framework has one way for it that all models know;
the prompts say what is wanted, and answers are checked all the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lightmem_integrations.core.ports import LLM, Completion, Purpose
from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.errors import LLMError, LLMResponseError, UsageError, shorten
from lightmem_integrations.models.llm.meter import Meter, check_purpose

__all__ = ["LangChainLLM", "LlamaIndexLLM", "as_llm"]

NOSTREAM = "nostream"
"""Tag by which LangGraph keeps a call's tokens out of the user's stream (``langgraph.constants.TAG_NOSTREAM``)."""

_EXTRACT_CHARS = 200


class _Wrapped:
    """What the adapters share: the quota, the checks, the price."""

    def __init__(self, model: Any, meter: Meter | None = None) -> None:
        self._model = model
        self.meter = meter or Meter()
        self.name = f"{type(model).__name__}/{_model_name(model)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def complete(
        self, system: str, user: str, *, schema: Mapping[str, Any] | None = None, purpose: Purpose
    ) -> Completion:
        """Answer one prompt; see ``core.ports.LLM``.

        Raises:
            UsageError: unknown purpose.
            LLMQuotaError: the daily quota is used up.
            LLMResponseError: the answer has no text.
            LLMError: the model raised.
        """
        check_purpose(purpose)
        self.meter.check()
        try:
            response = self._call(system, user)
        except Exception as error:  # a foreign model may raise anything
            raise LLMError(f"{self.name} failed: {type(error).__name__}: {_extract(error)}") from error
        text = self._text(response)
        usage = self._usage(response)
        if usage is None:
            usage = wordpiece_count(system) + wordpiece_count(user), wordpiece_count(text)
        self.meter.record(purpose, *usage)
        if not text.strip():
            raise LLMResponseError(f"{self.name} answered without a text: {_extract(response)}")
        return Completion(text, *usage, self.name)

    def _call(self, system: str, user: str) -> Any:
        raise NotImplementedError

    def _text(self, response: Any) -> str:
        raise NotImplementedError

    def _usage(self, response: Any) -> tuple[int, int] | None:
        raise NotImplementedError


class LangChainLLM(_Wrapped):
    """Any LangChain chat model, or runnable, that is invoked with messages.

    Every call is tagged ``nostream``, so that its tokens never reach the user's stream. Callbacks of the
    surrounding run are left in place: a tracer sees the call.

    Args:
        model: has ``invoke(messages, config=...)``.
        meter: counts tokens and holds the quota; None for one of its own.
    """

    def _call(self, system: str, user: str) -> Any:
        return self._model.invoke([("system", system), ("human", user)], config={"tags": [NOSTREAM]})

    def _text(self, response: Any) -> str:
        return _joined(getattr(response, "content", response))

    def _usage(self, response: Any) -> tuple[int, int] | None:
        return _pair(getattr(response, "usage_metadata", None), "input_tokens", "output_tokens")


class LlamaIndexLLM(_Wrapped):
    """Any LlamaIndex LLM: by ``chat`` where it is a chat model or does not say, else by ``complete``.

    Args:
        model: has ``chat(messages)`` or ``complete(prompt)``.
        meter: counts tokens and holds the quota; None for one of its own.
    """

    def _call(self, system: str, user: str) -> Any:
        is_chat = getattr(getattr(self._model, "metadata", None), "is_chat_model", True)
        if is_chat and hasattr(self._model, "chat"):
            message = import_module("llama_index.core.llms").ChatMessage
            return self._model.chat([message(role="system", content=system), message(role="user", content=user)])
        return self._model.complete(f"{system}\n\n{user}")

    def _text(self, response: Any) -> str:
        message = getattr(response, "message", None)
        return _joined(message.content if message is not None else getattr(response, "text", response))

    def _usage(self, response: Any) -> tuple[int, int] | None:
        raw = getattr(response, "raw", None)
        usage = raw.get("usage") if isinstance(raw, Mapping) else getattr(raw, "usage", None)
        told = getattr(response, "additional_kwargs", None)
        names = ("prompt_tokens", "completion_tokens")
        return _pair(usage, *names) or _pair(told, *names) or _pair(usage, "input_tokens", "output_tokens")


def as_llm(model: Any, meter: Meter | None = None) -> LLM:
    """The language model port over whatever was given.

    Recognised by their methods, in this order: our own port (``complete`` with ``purpose``, returned as it
    is), a LlamaIndex LLM (``complete`` or ``chat``, and ``metadata``), a LangChain chat model or runnable
    (``invoke``).

    Args:
        model: the object.
        meter: for the adapter; an object that is the port already keeps its own.

    Raises:
        UsageError: it is none of these.
    """
    if not isinstance(model, type):
        if _is_port(model):
            port: LLM = model
            return port
        if hasattr(model, "metadata") and (callable(_get(model, "chat")) or callable(_get(model, "complete"))):
            return LlamaIndexLLM(model, meter)
        if callable(_get(model, "invoke")):
            return LangChainLLM(model, meter)
    raise UsageError(
        "llm",
        "must be a LangChain chat model, a LlamaIndex LLM, or have complete(system, user, *, schema, purpose)",
        model if isinstance(model, type) else type(model),
    )


def _is_port(model: Any) -> bool:
    complete = _get(model, "complete")
    try:
        return callable(complete) and "purpose" in inspect.signature(complete).parameters and hasattr(model, "name")
    except (TypeError, ValueError):  # a callable that cannot be inspected is not ours
        return False


def _get(model: Any, name: str) -> Any:
    return getattr(model, name, None)


def _model_name(model: Any) -> str:
    for holder in (model, getattr(model, "metadata", None)):
        for attribute in ("model_name", "model"):
            value = getattr(holder, attribute, None)
            if isinstance(value, str) and value:
                return value
    return "unnamed"


def _joined(content: Any) -> str:
    """A text, or the text parts of a list of content blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
    return "".join(part for part in parts if isinstance(part, str))


def _pair(usage: Any, first: str, second: str) -> tuple[int, int] | None:
    """Two counts by name, from a mapping or an object; None unless both are there."""
    get: Callable[[str], Any] = usage.get if isinstance(usage, Mapping) else lambda name: getattr(usage, name, None)
    a, b = get(first), get(second)
    return (a, b) if isinstance(a, int) and isinstance(b, int) and a >= 0 and b >= 0 else None


def _extract(value: object) -> str:
    return shorten(str(value), _EXTRACT_CHARS)
