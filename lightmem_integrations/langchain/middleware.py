"""``LightMemMiddleware``: long-term memory for an agent that ``create_agent`` makes.

Recall runs once, before the agent answers the user, and its result is added to the system message of each
model call of that turn, never to ``messages``: it is neither checkpointed nor summarised nor recorded
again. What the user said and the final answer are recorded once, when the agent is done.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ModelCallResult, PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.config import get_config
from langgraph.runtime import Runtime, get_runtime
from pydantic_core import to_json
from typing_extensions import NotRequired, TypedDict

from lightmem_integrations._adapters import (
    Flow,
    OnError,
    arun,
    as_filter,
    is_summary,
    recall,
    record,
    run,
    text_of,
)
from lightmem_integrations.core.types import Filter, Profile, Scope, Strategy
from lightmem_integrations.errors import UsageError
from lightmem_integrations.langchain.tools import lightmem_tools
from lightmem_integrations.memory import LightMem

__all__ = ["LightMemMiddleware", "LightMemState"]

ToolName = Literal["search_memory", "save_memory", "forget_memory"]

# What ModelCallLimitMiddleware and ToolCallLimitMiddleware say in the model's name.
_LIMIT_REACHED = re.compile(
    r"(Model call limits exceeded|(Tool|'[^\n]+' tool) call limit reached): (thread|run) limit "
)


class Said(TypedDict):
    """A message of the user: its id, its text, and when it came (ISO 8601)."""

    id: str
    text: str
    at: str


class LightMemState(AgentState[Any]):
    """What the middleware keeps in the agent's state, hidden from its input and output.

    Attributes:
        lightmem_said: the user's last words, because a summariser may take them away before they are recorded.
        lightmem_context: recalled text by name of the middleware; never checkpointed.
    """

    lightmem_said: NotRequired[Annotated[list[Said], PrivateStateAttr]]
    lightmem_context: NotRequired[Annotated[dict[str, str], UntrackedValue, PrivateStateAttr]]


class LightMemMiddleware(AgentMiddleware[LightMemState, Any]):
    """Gives an agent memory across threads: recalls before it answers, records what was said.

    The user is, in this order: ``user_id``; the user that LangGraph Server authenticated; ``user_id`` of the
    run's ``context``; ``configurable["user_id"]``. There is no default user. The session is the thread.

    Put it after middleware that sets cache points, such as ``AnthropicPromptCachingMiddleware``: the memory
    changes with every turn and belongs behind them. Give sub-agents ``record=False``, or none: what is said
    to them is said by the agent. A turn whose model call fails, or whose stream is left early, is not
    recorded.

    Args:
        lightmem: the engine.
        user_id: whose memory, or a function of the runtime that tells it; None for the places above.
        record: remember the user's words and the final answer.
        inject: show the model what is recalled.
        tools: of ``lightmem_tools``, by name, for the model: ``"search_memory"``, ``"save_memory"``,
            ``"forget_memory"``. The run says whose memory they work on, never the model.
        max_tokens: budget of the recalled text.
        k: hits to choose from.
        strategy, profile, filter: see ``LightMem.search``; a dict as ``filter`` is metadata.
        on_error: when the engine fails, ``"warn"`` answers without memory and records the turn later,
            ``"raise"`` raises.
        name: tells instances of one agent apart; each needs its own.

    Raises:
        UsageError: before the agent answers: nobody names the user, or an argument breaks a rule.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from lightmem_integrations import LightMem, LightMemConfig
        >>> memory = LightMem(":memory:", LightMemConfig(embedder="none"))
        >>> agent = create_agent(FakeListChatModel(responses=["Hello!"]), middleware=[LightMemMiddleware(memory)])
        >>> run = agent.invoke({"messages": [("user", "I am Ana.")]}, {"configurable": {"user_id": "ana"}})
        >>> [entry.memory for entry in memory.list(user_id="ana")]
        ['I am Ana.', 'Hello!']
    """

    state_schema = LightMemState

    def __init__(
        self,
        lightmem: LightMem,
        *,
        user_id: str | Callable[[Any], str] | None = None,
        record: bool = True,
        inject: bool = True,
        tools: Sequence[ToolName] = (),
        max_tokens: int = 1000,
        k: int = 50,
        strategy: Strategy | None = None,
        profile: Profile | None = None,
        filter: Filter | Mapping[str, Any] | None = None,
        on_error: OnError = "warn",
        name: str = "LightMemMiddleware",
    ) -> None:
        super().__init__()
        if user_id is not None and not callable(user_id):
            Scope(user_id)
        self.lightmem, self._user_id, self._name = lightmem, user_id, name
        self._records, self._injects, self._on_error = record, inject, on_error
        self._options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "k": k,
            "strategy": strategy,
            "profile": profile,
            "filter": as_filter(filter),
        }
        made = lightmem_tools(
            lightmem,
            user_id=lambda config: self._scope(get_runtime()).user_id,
            max_tokens=max_tokens,
            forget=True,
            on_error=on_error,
        )
        by_name = {tool.name: tool for tool in made}
        for wanted in tools:
            if wanted not in by_name:
                raise UsageError("tools", f"must be of {', '.join(by_name)}", wanted)
        self.tools = [by_name[wanted] for wanted in tools]

    @property
    def name(self) -> str:
        """The name of this instance."""
        return self._name

    # ------------------------------------------------------------------ hooks
    def before_agent(self, state: LightMemState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall, once per turn of the user."""
        return run(self.lightmem, self._begin(state, runtime))

    async def abefore_agent(self, state: LightMemState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall, once per turn of the user."""
        return await arun(self.lightmem, self._begin(state, runtime))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelCallResult[Any]:
        """Show the model what was recalled, in this call only."""
        return handler(run(self.lightmem, self._informed(request)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelCallResult[Any]:
        """Show the model what was recalled, in this call only."""
        return await handler(await arun(self.lightmem, self._informed(request)))

    def after_agent(self, state: LightMemState, runtime: Runtime[Any]) -> None:
        """Record the turn."""
        run(self.lightmem, self._end(state, runtime))

    async def aafter_agent(self, state: LightMemState, runtime: Runtime[Any]) -> None:
        """Record the turn."""
        await arun(self.lightmem, self._end(state, runtime))

    # ------------------------------------------------------------------ steps
    def _begin(self, state: LightMemState, runtime: Runtime[Any]) -> Flow[dict[str, Any]]:
        scope = self._scope(runtime)  # first of all: who names no user gets no answer
        said = _last_words(state["messages"], datetime.now(timezone.utc).isoformat())
        update: dict[str, Any] = {"lightmem_said": said}
        if self._injects:
            text = yield from self._recalled(said, state["messages"], scope)
            update["lightmem_context"] = {**state.get("lightmem_context", {}), self.name: text}
        return update

    def _informed(self, request: ModelRequest[Any]) -> Flow[ModelRequest[Any]]:
        if not self._injects:
            return request
        state = cast(LightMemState, request.state)
        text = state.get("lightmem_context", {}).get(self.name)
        if text is None:  # it is not checkpointed, so an interrupt that was resumed has lost it
            scope = self._scope(request.runtime)
            text = yield from self._recalled(state.get("lightmem_said", []), state["messages"], scope)
        return request.override(system_message=_extended(request.system_message, text)) if text else request

    def _end(self, state: LightMemState, runtime: Runtime[Any]) -> Flow[None]:
        scope = self._scope(runtime)
        turn = _turn(state, scope)
        if self._records and turn:
            yield from record(
                self.lightmem, turn, user_id=scope.user_id, session_id=scope.session_id, on_error=self._on_error
            )

    def _recalled(self, said: Sequence[Said], messages: Sequence[AnyMessage], scope: Scope) -> Flow[str]:
        context = yield from recall(
            self.lightmem,
            "\n".join(words["text"] for words in said),
            user_id=scope.user_id,
            exclude=_shown(messages, said, scope),
            on_error=self._on_error,
            **self._options,
        )
        return context.text

    def _scope(self, runtime: Any) -> Scope:
        try:
            configurable = get_config().get("configurable", {})
        except RuntimeError:  # not inside a run, or in a coroutine before Python 3.11
            configurable = {}
        thread = _member(getattr(runtime, "execution_info", None), "thread_id") or configurable.get("thread_id")
        return Scope(_as_id(self._user(runtime, configurable)), None if thread is None else _as_id(thread))

    def _user(self, runtime: Any, configurable: Mapping[str, Any]) -> Any:
        if callable(self._user_id):
            return self._user_id(runtime)  # it has the last word: None from it is nobody, not somebody else
        server = getattr(getattr(runtime, "server_info", None), "user", None)
        found = (
            self._user_id,
            _member(server, "identity"),
            _member(runtime.context, "user_id"),
            configurable.get("user_id"),
        )
        user_id = next((value for value in found if value is not None), None)
        if user_id is None:
            rule = "must be given: as user_id=, by the server, in the run's context or in configurable"
            raise UsageError("user_id", rule, user_id)
        return user_id


# ------------------------------------------------------------------------------ what was said
def _last_words(messages: Sequence[AnyMessage], now: str) -> list[Said]:
    """What the user said last: one message, or several in a row."""
    said: list[Said] = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage) and not is_summary(message):
            said.insert(0, Said(id=str(message.id), text=text_of(message), at=now))
        elif said:
            break
    return said


def _turn(state: LightMemState, scope: Scope) -> list[dict[str, str]]:
    """The user's words and the final answer, without tool calls, their results and drafts."""
    said = state.get("lightmem_said", [])
    # As they read now: another middleware may have taken personal data out of them.
    texts = {message.id: text_of(message) for message in state["messages"]}
    turn = [
        _message(scope, words["id"], "user", texts.get(words["id"], words["text"])) | {"timestamp": words["at"]}
        for words in said
    ]
    answer = _answer(state["messages"], said) or _structured(state)
    if said and answer:
        turn.append(_message(scope, *answer))
    return [message for message in turn if message["content"].strip()]


def _answer(messages: Sequence[AnyMessage], said: Sequence[Said]) -> tuple[str, str, str] | None:
    """Id, role and text of the last thing that the model said to the user in this turn."""
    # A summariser may have taken the user's words away; what it leaves is younger then.
    ids = {words["id"] for words in said}
    start = max((n + 1 for n, message in enumerate(messages) if message.id in ids), default=0)
    for message in reversed(messages[start:]):
        if isinstance(message, AIMessage) and not message.tool_calls and not is_summary(message):
            text = text_of(message)
            return str(message.id), "assistant", "" if _LIMIT_REACHED.match(text) else text
    return None


def _structured(state: LightMemState) -> tuple[str, str, str] | None:
    """The same for an answer that was given as the arguments of a tool."""
    last, response = state["messages"][-1], state.get("structured_response")
    if not isinstance(last, ToolMessage) or response is None:
        return None
    return str(last.id), "assistant", to_json(response, fallback=str).decode()


def _message(scope: Scope, origin: str, role: str, text: str) -> dict[str, str]:
    """What is recorded of one message; its id is the same when a run is repeated."""
    name = json.dumps([scope.session_id, origin, role, text])
    return {"id": f"lc-{hashlib.sha256(name.encode('ascii')).hexdigest()}", "role": role, "content": text}


def _shown(messages: Sequence[AnyMessage], said: Sequence[Said], scope: Scope) -> list[str]:
    """Ids under which what the model sees anyway was recorded, which the user's last words were not yet."""
    roles, last = {"human": "user", "ai": "assistant"}, {words["id"] for words in said}
    seen = [message for message in messages if message.type in roles and message.id not in last]
    return [_message(scope, str(message.id), roles[message.type], text_of(message))["id"] for message in seen]


# ------------------------------------------------------------------------------ small change
def _extended(system: SystemMessage | None, text: str) -> SystemMessage:
    """The system message with a text at its end: a string stays one, blocks keep their cache points."""
    if system is None:
        return SystemMessage(content=text)
    if isinstance(system.content, str):
        return system.model_copy(update={"content": f"{system.content}\n\n{text}"})
    return system.model_copy(update={"content": [*system.content, {"type": "text", "text": text}]})


def _member(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _as_id(value: Any) -> Any:
    """An id that is a number as text; ``Scope`` judges what it gets."""
    return str(value) if isinstance(value, int | UUID) and not isinstance(value, bool) else value
