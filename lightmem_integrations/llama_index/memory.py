"""``LightMemMemory``: LlamaIndex's ``Memory`` with a long-term memory that takes in every turn."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from llama_index.core.async_utils import asyncio_run
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemoryBlock, InsertMethod, Memory
from llama_index.core.vector_stores import MetadataFilters
from pydantic import Field, PrivateAttr
from typing_extensions import Self

from lightmem_integrations._adapters import Failures, Flow, arun, is_closed
from lightmem_integrations.core.types import Filter, Strategy
from lightmem_integrations.errors import UsageError
from lightmem_integrations.llama_index._messages import Said, said_in
from lightmem_integrations.llama_index.block import LightMemMemoryBlock, is_known
from lightmem_integrations.llama_index.events import dispatcher, tokens_of
from lightmem_integrations.memory import LightMem

__all__ = ["LightMemMemory"]

_ACKNOWLEDGED = "I will use these notes where they help."


class LightMemMemory(Memory):
    """The memory of an agent or a chat engine: LlamaIndex's ``Memory``, and what the user ever said.

    A turn is written to the engine when its answer is there, and not when the chat history overflows. It
    is recalled in every session of the user. What the chat history shows anyway is not recalled as well.

    Works wherever LlamaIndex takes a ``memory=``: ``FunctionAgent``, ``ReActAgent``, ``CodeActAgent``,
    ``AgentWorkflow``, ``SimpleChatEngine``, ``ContextChatEngine``, ``CondensePlusContextChatEngine``; sync,
    async and streaming. A workflow ``Context`` keeps it: see ``to_dict``. Make one for each session.

    Of what is said, the user's words and the answers are kept: no tool calls, no system messages, and of
    a ReAct trace the answer. Give messages a time in ``additional_kwargs["timestamp"]``; others are dated
    by their arrival.

    Make one with ``from_defaults``. ``insert_method`` decides where recalled text goes. None puts it into
    the question, when that is the last message; else in front of the history, as a note of the user and
    its acknowledgement, so that there is neither a second system message nor a second user message in a
    row. ``InsertMethod.SYSTEM`` and ``USER`` do what they do in ``Memory``.

    Example:
        >>> from llama_index.core.chat_engine import SimpleChatEngine
        >>> from llama_index.core.llms import MockLLM
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> lightmem = LightMem(":memory:", LightMemConfig(embedder="none"))
        >>> memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id="monday")
        >>> answer = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=memory).chat("My cat is called Miso.")
        >>> [entry.role for entry in lightmem.list(user_id="ana")]
        ['user', 'assistant']
    """

    insert_method: InsertMethod | None = Field(default=None)  # type: ignore[assignment]

    _block: LightMemMemoryBlock = PrivateAttr()
    _handle: str = PrivateAttr(default_factory=lambda: uuid.uuid4().hex)
    _waiting: list[_Waiting] = PrivateAttr(default_factory=list)
    _said: dict[str, int] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "LightMemMemory"

    @classmethod
    def from_defaults(  # type: ignore[override]
        cls,
        *,
        lightmem: LightMem,
        user_id: str,
        session_id: str | None = None,
        chat_history: list[ChatMessage] | None = None,
        memory_blocks: list[BaseMemoryBlock[Any]] | None = None,
        insert_method: InsertMethod | str | None = None,
        name: str = "lightmem",
        priority: int = 1,
        k: int = 20,
        max_tokens: int = 1000,
        session_scope: bool = False,
        strategy: Strategy | None = None,
        filters: MetadataFilters | Filter | dict[str, Any] | None = None,
        include_tool_results: bool = False,
        raise_on_error: bool = False,
        **options: Any,
    ) -> Self:
        """A memory for one session of one user.

        Args:
            lightmem: the engine.
            user_id: whose memory. There is no default.
            session_id: the conversation; None makes one. It is the key of the chat history too.
            chat_history: what was said in it before; remembered once, however often it is given.
            memory_blocks: other blocks beside ours.
            insert_method: where recalled text goes; see the class.
            name: of our block, and of the tag around recalled text.
            priority: LlamaIndex cuts blocks in ascending order when the prompt is too long; 0 is never cut.
            k: memories to choose from, at least 1.
            max_tokens: budget of the recalled text, at least 1.
            session_scope: recall this session only.
            strategy: how memories are ranked; None for the engine's.
            filters: what a memory must be: ``MetadataFilters``, a ``Filter``, or a dict of metadata.
            include_tool_results: also remember what tools returned.
            raise_on_error: raise when the engine fails, rather than go on without memory and write the
                turn later; see ``failures``.
            options: any other argument of ``Memory.from_defaults``, such as ``token_limit`` and
                ``async_database_uri``, by which the chat history survives the process.

        Raises:
            UsageError: an argument breaks a rule.
        """
        block = LightMemMemoryBlock(
            lightmem=lightmem,
            user_id=user_id,
            name=name,
            priority=priority,
            k=k,
            max_tokens=max_tokens,
            session_scope=session_scope,
            strategy=strategy,
            filters=filters,
            include_tool_results=include_tool_results,
            raise_on_error=raise_on_error,
            tokenizer_fn=options.get("tokenizer_fn"),
            accept_short_term_memory=False,  # it has each turn long before
        )
        memory: Self = super().from_defaults(  # type: ignore[assignment]
            session_id=session_id,
            chat_history=chat_history,
            memory_blocks=[*(memory_blocks or []), block],
            insert_method=insert_method,  # type: ignore[arg-type]
            **options,
        )
        if chat_history:
            asyncio_run(memory._replayed(chat_history))
        return memory

    def model_post_init(self, context: Any) -> None:
        """Find the block that is written through."""
        super().model_post_init(context)
        ours = [b for b in self.memory_blocks if isinstance(b, LightMemMemoryBlock) and not b.accept_short_term_memory]
        if len(ours) != 1:
            rule = "must hold one LightMemMemoryBlock with accept_short_term_memory=False; use from_defaults"
            raise UsageError("memory_blocks", rule, [block.name for block in self.memory_blocks])
        self._block = ours[0]
        _REGISTRY.made(self)

    @property
    def lightmem(self) -> LightMem:
        """The engine."""
        return self._block.lightmem

    @property
    def user_id(self) -> str:
        """Whose memory."""
        return self._block.user_id

    @property
    def failures(self) -> Failures:
        """What went wrong so far, of all adapters of this engine, and the turns that wait."""
        return self._block.failures

    # ------------------------------------------------------------------ LlamaIndex calls these
    @dispatcher.span
    async def aget(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """The chat history with what is recalled on the user's last words, or on ``input``."""
        if isinstance(input, ChatMessage):  # the base class would pass over it
            input = input.content
        return await super().aget(input or None, **block_kwargs)

    @dispatcher.span
    async def aput(self, message: ChatMessage) -> None:
        """Add a message to the chat history; an answer completes the turn."""
        await self._heard([message])
        await super().aput(message)

    @dispatcher.span
    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages to the chat history; an answer completes the turn."""
        if messages:  # none at all is an error of the database in the base class
            await self._heard(messages)
            await super().aput_messages(messages)

    @dispatcher.span
    async def aset(self, messages: list[ChatMessage]) -> None:
        """Replace the chat history. What was not said before is remembered; nothing is forgotten."""
        await self._replayed(messages)
        await super().aset(messages)

    @dispatcher.span
    async def areset(self, status: Any = None) -> None:
        """Empty the chat history. Long-term memory stays: ``lightmem.forget`` is the way to empty that."""
        await self.aflush()
        self._block.ask_again(self.session_id)
        await super().areset(status)

    @dispatcher.span
    async def aflush(self) -> bool:
        """Write what waits: the user's words that got no answer, and turns that failed to be written.

        Returns:
            True when all of this session is on disk.

        Raises:
            LightMemError: anything, with ``raise_on_error``.
        """
        return await self._write(len(self._waiting))

    def flush(self) -> bool:
        """``aflush`` from code that is not async."""
        return bool(asyncio_run(self.aflush()))

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """A handle of JSON values, by which ``from_dict`` finds this memory again in this process.

        It holds no text and no address of a database. The last 100 memories that were serialised are
        kept alive for it.
        """
        _REGISTRY.kept(self)
        return {
            "class_name": self.class_name(),
            "handle": self._handle,
            "user_id": self.user_id,
            "session_id": self.session_id,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """The memory that ``to_dict`` was called on; where its engine is gone, one of the same user and session.

        Raises:
            UsageError: there is none yet: make it first, with ``from_defaults``.
        """
        found = _REGISTRY.find(data.get("handle"), data.get("user_id"), data.get("session_id"))
        if not isinstance(found, cls):
            rule = "must be that of a memory in this process; make it with from_defaults before you load its Context"
            raise UsageError("session_id", rule, data.get("session_id"))
        return found

    def __reduce__(self) -> Any:
        return type(self).from_dict, (self.to_dict(),)

    def _insert_memory_content(
        self, chat_history: list[ChatMessage], memory_content: list[Any], chat_message_data: list[ChatMessage]
    ) -> list[ChatMessage]:
        # The base class writes into the messages, and a chat store may hand out its own.
        history = [message.model_copy() for message in chat_history]
        if self.insert_method is not None or not memory_content:
            return super()._insert_memory_content(history, memory_content, chat_message_data)
        if history and history[-1].role == MessageRole.USER:
            history[-1].blocks = [*memory_content, *history[-1].blocks]
            return [*chat_message_data, *history]
        told = ChatMessage(role=MessageRole.USER, blocks=memory_content)
        acknowledged = ChatMessage(role=MessageRole.ASSISTANT, content=_ACKNOWLEDGED)
        system = 0
        while system < len(history) and history[system].role == MessageRole.SYSTEM:
            system += 1
        return [*history[:system], *chat_message_data, told, acknowledged, *history[system:]]

    # ------------------------------------------------------------------ what waits for its answer
    async def _heard(self, messages: Sequence[ChatMessage]) -> None:
        tokens = tokens_of((message.content or "" for message in messages), self._block.count_tokens)
        said = said_in(messages, tool_results=self._block.include_tool_results)
        await self._arrived([_Waiting(words) for words in said], tokens)

    async def _replayed(self, messages: Sequence[ChatMessage]) -> None:
        """Take in a history, of which each message may be known: the n-th of its kind is the n-th of its kind."""
        numbers: dict[str, int] = {}
        waiting = []
        for words in said_in(messages, tool_results=self._block.include_tool_results):
            kind = words.id(self.session_id, None)
            numbers[kind] = numbers.get(kind, -1) + 1
            waiting.append(_Waiting(words, words.id(self.session_id, numbers[kind])))
        tokens = tokens_of((message.content or "" for message in messages), self._block.count_tokens)
        self._block.ask_again(self.session_id)
        await self._arrived(waiting, tokens)

    async def _arrived(self, waiting: list[_Waiting], tokens: int) -> None:
        if any(one.said.role == "user" for one in waiting):
            self._block.ask_again(self.session_id)
        with self._lock:
            self._waiting += waiting
            complete = max((n for n, one in enumerate(self._waiting, 1) if one.said.role == "assistant"), default=0)
        if complete:  # the user's words wait for their answer: recalled before, they would echo the question
            await self._write(complete, tokens)

    async def _write(self, n: int, tokens: int = 0) -> bool:
        with self._lock:
            turn, self._waiting = self._waiting[:n], self._waiting[n:]
        try:
            await arun(self.lightmem, self._numbered(turn))
            said = {one.id: one.said for one in turn if one.id is not None}
            return await self._block.remember(said, self.session_id, tokens)
        except BaseException:  # a cancellation too; written once more, it has the same ids
            with self._lock:
                self._waiting = turn + self._waiting
            raise

    def _numbered(self, turn: Sequence[_Waiting]) -> Flow[None]:
        """Give each message its id: how often the same was said in this session before, as far as anybody knows."""
        for one in turn:
            if one.id is None:
                kind = one.said.id(self.session_id, None)
                n = self._said.get(kind, 0)
                while (yield from is_known(one.said.id(self.session_id, n), self.user_id)):
                    n += 1
                self._said[kind] = n + 1
                one.id = one.said.id(self.session_id, n)


class _Waiting:
    """Words that wait to be written, with the id that they will have."""

    def __init__(self, said: Said, id: str | None = None) -> None:
        self.said, self.id = said, id


class _Registry:
    """The memories of this process, for whoever has only a handle of one."""

    MOST = 100

    def __init__(self) -> None:
        self._kept: OrderedDict[str, LightMemMemory] = OrderedDict()
        self._alive: WeakValueDictionary[tuple[str, str], LightMemMemory] = WeakValueDictionary()
        self._lock = threading.Lock()

    def made(self, memory: LightMemMemory) -> None:
        with self._lock:
            self._alive[memory.user_id, memory.session_id] = memory

    def kept(self, memory: LightMemMemory) -> None:
        with self._lock:
            self._kept[memory._handle] = memory
            self._kept.move_to_end(memory._handle)
            while len(self._kept) > self.MOST:
                self._kept.popitem(last=False)

    def find(self, handle: Any, user_id: Any, session_id: Any) -> LightMemMemory | None:
        with self._lock:
            kept = self._kept.get(handle)
            if kept is not None and not is_closed(kept.lightmem):
                return kept
            return self._alive.get((user_id, session_id), kept)


_REGISTRY = _Registry()
