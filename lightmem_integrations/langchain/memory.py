"""``LightMemMemory``: the memory of a LangChain chain, in place of a buffer or a vector store memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, get_buffer_string
from pydantic import ConfigDict, Field, field_validator

from lightmem_integrations._adapters import (
    Failures,
    Flow,
    OnError,
    arun,
    as_filter,
    call,
    failing_open,
    failures_of,
    recall,
    record,
    run,
    text_of,
)
from lightmem_integrations.core.ingest import DEFAULT_SESSION
from lightmem_integrations.core.types import Context, Filter, MemoryEntry, Scope, Strategy
from lightmem_integrations.errors import MissingDependencyError, UsageError
from lightmem_integrations.memory import LightMem

if TYPE_CHECKING:
    from langchain_classic.base_memory import BaseMemory
else:
    try:  # LangChain 1.x
        from langchain_classic.base_memory import BaseMemory
    except ModuleNotFoundError:
        try:  # LangChain 0.3
            from langchain_core.memory import BaseMemory
        except ModuleNotFoundError as error:
            raise MissingDependencyError("langchain-classic", "langchain-classic", "LightMemMemory") from error

__all__ = ["LightMemMemory"]

_INPUTS = ("input", "question", "query", "human_input")
_OUTPUTS = ("output", "response", "answer", "result", "text")
_NEVER_SAID = frozenset({"stop", "agent_scratchpad", "intermediate_steps", "chat_history"})


class LightMemMemory(BaseMemory):
    """Long-term memory of a chain: recalls before the model is asked, remembers after it answered.

    Works wherever LangChain takes a ``memory=``: ``ConversationChain``, ``LLMChain``, ``RetrievalQA``,
    ``ConversationalRetrievalChain``, ``AgentExecutor``; sync, async, batch and stream.

    What is recalled comes from all sessions of the user; what is said goes to ``session_id``. A failing
    engine costs no answer: see ``on_error``. ``failures`` tells what went wrong.

    Args:
        lightmem: the engine.
        user_id: whose memory. There is no default.
        session_id: the conversation that this chain holds.
        memory_key: name of the variable in the prompt.
        input_key: which of several inputs the user said; None finds out by the usual names.
        output_key: likewise, of several outputs.
        return_messages: a list of messages, for a ``MessagesPlaceholder``, rather than text.
        human_prefix: name of the user in text.
        ai_prefix: name of the assistant in text.
        k: memories to choose from, at least 1.
        max_tokens: budget of the recalled text, which ``recent_turns`` come on top of.
        recent_turns: the last so many messages of this session are always there, oldest first; 0 for
            recall alone.
        strategy: how memories are ranked; None for the engine's.
        filters: what a memory must be: a ``Filter``, or a dict of metadata.
        clear_scope: what ``clear`` removes, this session or everything of the user.
        on_error: when the engine fails, ``warn`` goes on without memory and writes the turn later;
            ``raise`` raises. A wrong argument raises when memory is loaded.

    Raises:
        MissingDependencyError: on import, without ``langchain-classic`` (or LangChain 0.3).

    Example:
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> from lightmem_integrations.langchain import LightMemMemory
        >>> memory = LightMemMemory(lightmem=LightMem(":memory:", LightMemConfig(embedder="none")), user_id="ana")
        >>> memory.save_context({"input": "My cat is called Miso."}, {"response": "Noted."})
        >>> "Miso" in memory.load_memory_variables({"input": "What is the cat's name?"})["history"]
        True
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    lightmem: LightMem = Field(exclude=True, repr=False)
    user_id: str
    session_id: str = DEFAULT_SESSION
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    return_messages: bool = False
    human_prefix: str = "Human"
    ai_prefix: str = "AI"
    k: int = Field(default=20, ge=1)
    max_tokens: int = Field(default=1000, ge=1)
    recent_turns: int = Field(default=0, ge=0)
    strategy: Strategy | None = None
    filters: Filter | dict[str, Any] | None = None
    clear_scope: Literal["session", "user"] = "session"
    on_error: OnError = "warn"

    @field_validator("user_id", "session_id")
    @classmethod
    def _identifier(cls, value: str) -> str:
        return Scope(value).user_id

    @property
    def memory_variables(self) -> list[str]:
        """The one variable that this memory fills."""
        return [self.memory_key]

    @property
    def failures(self) -> Failures:
        """What went wrong so far, of all adapters of this engine, and the turns that wait."""
        return failures_of(self.lightmem)

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What is remembered about the inputs, under ``memory_key``.

        Raises:
            UsageError: it cannot be told which of the inputs the user said.
        """
        return run(self.lightmem, self._load(inputs))

    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """``load_memory_variables`` without blocking the event loop."""
        return await arun(self.lightmem, self._load(inputs))

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Remember one exchange. Raises nothing with ``on_error="warn"``."""
        run(self.lightmem, self._save(inputs, outputs))

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """``save_context`` without blocking the event loop."""
        await arun(self.lightmem, self._save(inputs, outputs))

    def clear(self) -> None:
        """Forget this session, or all of the user's memory with ``clear_scope="user"``.

        Raises:
            StorageError: it could not be forgotten, whatever ``on_error`` says.
        """
        run(self.lightmem, self._clear())

    async def aclear(self) -> None:
        """``clear`` without blocking the event loop."""
        await arun(self.lightmem, self._clear())

    def _load(self, inputs: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        question = self._question(inputs)
        recent: list[MemoryEntry] = []
        if self.recent_turns:
            recent = yield from failing_open(self.lightmem, self._recent(), default=[], on_error=self.on_error)
        recalled = yield from recall(
            self.lightmem,
            question,
            user_id=self.user_id,
            max_tokens=self.max_tokens,
            k=self.k,
            on_error=self.on_error,
            exclude=[id for entry in recent for id in entry.source_messages],
            strategy=self.strategy,
            filter=as_filter(self.filters),
        )
        return {self.memory_key: self._shown(recalled, recent)}

    def _recent(self) -> Flow[list[MemoryEntry]]:
        said = Filter(kinds=("turn",), roles=("user", "assistant"))
        newest: list[MemoryEntry] = yield from call(
            "list",
            user_id=self.user_id,
            session_id=self.session_id,
            filter=said,
            limit=self.recent_turns,
            newest_first=True,
        )
        return newest[::-1]

    def _save(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Flow[bool]:
        return record(
            self.lightmem,
            self._exchange(inputs, outputs),
            user_id=self.user_id,
            session_id=self.session_id,
            on_error=self.on_error,
        )

    def _clear(self) -> Flow[None]:
        session_id = None if self.clear_scope == "user" else self.session_id
        self.failures.discard(self.user_id, session_id)
        yield from call("forget", user_id=self.user_id, session_id=session_id)

    def _shown(self, recalled: Context, recent: list[MemoryEntry]) -> str | list[BaseMessage]:
        said: list[BaseMessage] = [
            HumanMessage(entry.memory) if entry.role == "user" else AIMessage(entry.memory) for entry in recent
        ]
        if self.return_messages:
            return [SystemMessage(recalled.text), *said] if recalled.text else said
        spoken = get_buffer_string(said, human_prefix=self.human_prefix, ai_prefix=self.ai_prefix)
        return "\n\n".join(text for text in (recalled.text, spoken) if text)

    def _exchange(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        # A generator, so that ``record`` meets the error of an unclear key: the answer is there already.
        answer = text_of(_chosen(outputs, self.output_key, _OUTPUTS, "output"))
        for role, text in (("user", self._question(inputs)), ("assistant", answer)):
            if text.strip():
                yield role, text

    def _question(self, inputs: Mapping[str, Any]) -> str:
        own = {name: value for name, value in inputs.items() if name not in _NEVER_SAID | {self.memory_key}}
        return text_of(_chosen(own, self.input_key, _INPUTS, "input")) if own else ""


def _chosen(values: Mapping[str, Any], key: str | None, known: tuple[str, ...], what: str) -> Any:
    """The value under the key, or the only one, or the first with a usual name."""
    names = [key] if key is not None else list(values) if len(values) == 1 else known
    found = [values[name] for name in names if name in values]
    if not found:
        raise UsageError(f"{what}s", f"must hold what was said; set {what}_key to its name", sorted(values))
    return found[0]
