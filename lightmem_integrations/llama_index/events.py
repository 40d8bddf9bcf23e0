"""What the adapters tell LlamaIndex's instrumentation: counts and times, never a text.

Listen with an event handler on ``llama_index.core.instrumentation.get_dispatcher()``. Spans are opened
around every method of the memory, the memory block and the retriever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

__all__ = ["LightMemIngestEvent", "LightMemRecallEvent", "dispatcher", "tokens_of", "whose"]

dispatcher = get_dispatcher("lightmem_integrations.llama_index")


class LightMemRecallEvent(BaseEvent):
    """Memory was asked.

    Attributes:
        user: a hash of the user's id.
        hits: memories that were returned.
        milliseconds: time that it took.
        tokens_before: length of these memories.
        tokens_after: length of what was made of them for the prompt; the same for the retriever.
        failed: the engine failed, and there is nothing.
    """

    user: str
    hits: int
    milliseconds: float
    tokens_before: int
    tokens_after: int
    failed: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Name of the event."""
        return "LightMemRecallEvent"


class LightMemIngestEvent(BaseEvent):
    """Turns were given to memory.

    Attributes:
        user: a hash of the user's id.
        messages: messages that were new.
        stored: they are on disk; False when they wait or were refused.
        milliseconds: time that it took.
        tokens_before: length of what the adapter was given, traces and tool calls included.
        tokens_after: length of what is new among it.
    """

    user: str
    messages: int
    stored: bool
    milliseconds: float
    tokens_before: int
    tokens_after: int

    @classmethod
    def class_name(cls) -> str:
        """Name of the event."""
        return "LightMemIngestEvent"


def whose(user_id: str) -> str:
    """A user's id as events show it."""
    return hashlib.sha256(user_id.encode("utf-8", "replace")).hexdigest()[:16]


def tokens_of(texts: Iterable[str], count: Callable[[str], int]) -> int:
    """Length of texts together."""
    return sum(map(count, texts))
