"""``LightMemMemoryBlock``: recall as a block of LlamaIndex's ``Memory``."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores import MetadataFilters
from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from lightmem_integrations._adapters import (
    Failures,
    Flow,
    arun,
    call,
    dated_lines,
    failing_open,
    failures_of,
    record,
)
from lightmem_integrations.core.ingest import DEFAULT_SESSION
from lightmem_integrations.core.types import Filter, Hit, Scope, Strategy
from lightmem_integrations.llama_index._messages import Said, question_of, said_in, shown_ids
from lightmem_integrations.llama_index.events import (
    LightMemIngestEvent,
    LightMemRecallEvent,
    dispatcher,
    tokens_of,
    whose,
)
from lightmem_integrations.llama_index.filters import engine_filter
from lightmem_integrations.memory import LightMem

__all__ = ["LightMemMemoryBlock"]

_SESSIONS_KEPT = 64


class LightMemMemoryBlock(BaseMemoryBlock[str]):
    """A user's long-term memory as a block of ``Memory``: what it holds on the user's last words.

    The engine is asked once for each question, however often an agent reads its memory in a turn. The
    text has one dated line for each memory, best first, escaped; ``Memory`` puts it between tags.

    ``Memory`` writes to its blocks only when the chat history outgrows ``token_limit *
    chat_history_token_ratio``, 21,000 tokens by default, and what does not is lost with the process. Use
    ``LightMemMemory``, which remembers every turn when it completes, unless that is what you want. What is
    delivered twice is stored once; so are equal words of one role in one session, unless they carry
    different times in ``additional_kwargs["timestamp"]``.

    Args:
        lightmem: the engine.
        user_id: whose memory. There is no default.
        name: of the block, and of the tag around its text: letters, digits, ``_``, ``-`` and ``.``.
        priority: LlamaIndex cuts blocks in ascending order when the prompt is too long; 0 is never cut.
        k: memories to choose from, at least 1.
        max_tokens: budget of the text.
        session_scope: recall this session only.
        strategy: how memories are ranked; None for the engine's.
        filters: what a memory must be: LlamaIndex ``MetadataFilters``, a ``Filter``, or a dict of metadata.
        include_tool_results: also remember what tools returned.
        raise_on_error: raise when the engine fails, rather than go on without memory and write the turn
            later; see ``failures``. A wrong argument always raises.
        tokenizer_fn: counts tokens; None for LlamaIndex's ``get_tokenizer()``.

    Example:
        >>> from llama_index.core.llms import ChatMessage
        >>> from llama_index.core.memory import Memory
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> lightmem = LightMem(":memory:", LightMemConfig(embedder="none"))
        >>> added = lightmem.add("My cat is called Miso.", user_id="ana")
        >>> memory = Memory.from_defaults(memory_blocks=[LightMemMemoryBlock(lightmem=lightmem, user_id="ana")])
        >>> memory.put(ChatMessage(role="user", content="What is my cat called?"))
        >>> "Miso" in memory.get()[0].content
        True
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    name: str = Field(default="lightmem", pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")
    priority: int = 1
    user_id: str = Field(frozen=True)
    k: int = Field(default=20, ge=1)
    max_tokens: int = Field(default=1000, ge=1)
    session_scope: bool = False
    strategy: Strategy | None = None
    filters: MetadataFilters | Filter | dict[str, Any] | None = None
    include_tool_results: bool = False
    raise_on_error: bool = False
    tokenizer_fn: Callable[[str], Sequence[Any]] | None = Field(default=None, exclude=True)

    _lightmem: LightMem = PrivateAttr()
    _filter: Filter = PrivateAttr()
    _recalled: OrderedDict[str, tuple[object, str]] = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def __init__(self, *, lightmem: LightMem, **fields: Any) -> None:
        super().__init__(**fields)
        self._lightmem = lightmem
        self._filter = engine_filter(self.filters)

    @field_validator("user_id")
    @classmethod
    def _identifier(cls, value: str) -> str:
        return Scope(value).user_id

    @property
    def lightmem(self) -> LightMem:
        """The engine."""
        return self._lightmem

    @property
    def failures(self) -> Failures:
        """What went wrong so far, of all adapters of this engine, and the turns that wait."""
        return failures_of(self._lightmem)

    # ------------------------------------------------------------------ LlamaIndex calls these
    @dispatcher.span
    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        session_id = block_kwargs.get("session_id") or DEFAULT_SESSION
        messages = messages or []
        question, start = question_of(messages)
        if not question:
            return ""
        before = shown_ids(messages[:start], session_id)
        key = question, before
        with self._lock:
            known = self._recalled.get(session_id)
        if known and known[0] == key:
            return known[1]
        shown = [*before, *shown_ids(messages[start:], session_id)]
        text = await arun(self._lightmem, self._recall(question, shown, session_id))
        with self._lock:
            self._recalled[session_id] = key, text
            self._recalled.move_to_end(session_id)
            while len(self._recalled) > _SESSIONS_KEPT:
                self._recalled.popitem(last=False)
        return text

    async def aput(
        self, messages: list[ChatMessage], from_short_term_memory: bool = False, session_id: str | None = None
    ) -> None:
        """Remember messages; see ``BaseMemoryBlock.aput``. The messages are not modified."""
        if session_id is not None:  # the base class writes it into the caller's messages
            messages = [_with_session(message, session_id) for message in messages]
        await super().aput(messages, from_short_term_memory)

    @dispatcher.span
    async def _aput(self, messages: list[ChatMessage]) -> None:
        sessions: dict[str, list[ChatMessage]] = {}
        for message in messages:
            sessions.setdefault(message.additional_kwargs.get("session_id") or DEFAULT_SESSION, []).append(message)
        for session_id, delivered in sessions.items():
            said = said_in(delivered, tool_results=self.include_tool_results)
            named = [(words.id(session_id, str(words.stamp)), words) for words in said]
            before = tokens_of((m.content or "" for m in delivered), self.count_tokens)
            await self.remember(dict(named), session_id, before)
            self.ask_again(session_id)

    @dispatcher.span
    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """The text without its last lines, shorter by at least so many tokens; None when nothing is left."""
        if not content:
            return None
        lines, target = content.split("\n"), self.count_tokens(content) - tokens_to_truncate
        while len(lines) > 1 and self.count_tokens("\n".join(lines)) > target:
            lines.pop()
        return "\n".join(lines) if len(lines) > 1 else None

    # ------------------------------------------------------------------ LightMemMemory calls these
    async def remember(self, said: Mapping[str, Said], session_id: str, tokens_before: int = 0) -> bool:
        """Store what was said, by id; what the engine has already is passed over.

        Returns:
            True when it is on disk, False when it waits or was refused.

        Raises:
            LightMemError: anything, with ``raise_on_error``.
        """
        return await arun(self._lightmem, self._remember(said, session_id, tokens_before))

    def ask_again(self, session_id: str) -> None:
        """Forget what was recalled for the last question of a session."""
        with self._lock:
            self._recalled.pop(session_id, None)

    def count_tokens(self, text: str) -> int:
        """Length of a text."""
        return len((self.tokenizer_fn or get_tokenizer())(text))

    # ------------------------------------------------------------------ steps
    def _recall(self, question: str, shown: Sequence[str], session_id: str) -> Flow[str]:
        start = perf_counter()
        found = yield from failing_open(
            self._lightmem,
            self._found(question, shown, session_id),
            default=None,
            on_error="raise" if self.raise_on_error else "warn",
        )
        text, hits = found or ("", [])
        dispatcher.event(
            LightMemRecallEvent(
                user=whose(self.user_id),
                hits=len(hits),
                milliseconds=(perf_counter() - start) * 1000,
                tokens_before=tokens_of((hit.entry.memory for hit in hits), self.count_tokens),
                tokens_after=self.count_tokens(text),
                failed=found is None,
            )
        )
        return text

    def _found(self, question: str, shown: Sequence[str], session_id: str) -> Flow[tuple[str, list[Hit]]]:
        hits: list[Hit] = yield from call(
            "search",
            question,
            user_id=self.user_id,
            session_id=session_id if self.session_scope else None,
            k=self.k + len(shown),
            strategy=self.strategy,
            filter=self._filter,
        )
        unseen = [hit for hit in hits if not set(shown).issuperset(hit.source_ids)][: self.k]
        text, fitted = yield from call(dated_lines, unseen, question, self.max_tokens, self.count_tokens)
        tag = rf"<(?=\s*/?\s*{re.escape(self.name)}\b)"
        return re.sub(tag, "&lt;", text, flags=re.IGNORECASE), fitted

    def _remember(self, said: Mapping[str, Said], session_id: str, tokens_before: int) -> Flow[bool]:
        start = perf_counter()
        unknown = yield from self._unknown(said)
        stored = yield from record(
            self._lightmem,
            [words.as_message(id) for id, words in unknown.items()],
            user_id=self.user_id,
            session_id=session_id,
            on_error="raise" if self.raise_on_error else "warn",
        )
        dispatcher.event(
            LightMemIngestEvent(
                user=whose(self.user_id),
                messages=len(unknown),
                stored=stored,
                milliseconds=(perf_counter() - start) * 1000,
                tokens_before=tokens_before,
                tokens_after=tokens_of((words.text for words in unknown.values()), self.count_tokens),
            )
        )
        return stored

    def _unknown(self, said: Mapping[str, Said]) -> Flow[dict[str, Said]]:
        """What the engine does not have. Added again under its id, a text that was cleaned would be a conflict."""
        unknown = {}
        for id, words in said.items():
            if not (yield from is_known(id, self.user_id)):
                unknown[id] = words
        return unknown


def is_known(id: str, user_id: str) -> Flow[bool]:
    """Whether the engine has a message; False when it does not answer."""
    try:
        return (yield from call("get", id, user_id=user_id)) is not None
    except Exception:  # writing meets the same failure, and deals with it
        return False


def _with_session(message: ChatMessage, session_id: str) -> ChatMessage:
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, "session_id": session_id}})
