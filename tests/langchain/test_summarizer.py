"""``lightmem_summarizer``: by itself, and inside ``SummarizationMiddleware``."""

from __future__ import annotations

import pytest

from lightmem_integrations import LightMem, LightMemConfig, UsageError
from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.testing import FlakyEmbedder

pytest.importorskip("langchain_core")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from lightmem_integrations.langchain import lightmem_summarizer

MOVING = [
    HumanMessage("My sister Noor moved to Lisbon in March and rents a flat in Alfama."),
    AIMessage("Alfama is the oldest quarter of Lisbon. How does Noor like the flat?"),
    HumanMessage("She likes the view over the river Tejo, but the stairs are steep."),
    AIMessage("Many houses in Alfama have steep stairs and no lift."),
]
BAKING = [
    HumanMessage("Which flour do I need for a sourdough bread with 70% hydration?"),
    AIMessage("Take 500 g of wheat flour type 550 and 350 g of water for the sourdough."),
    HumanMessage("I bake the sourdough bread at 250 degrees for 45 minutes then."),
    AIMessage("Bake it in a closed pot for 25 minutes first, then without the lid."),
]


@pytest.fixture
def summarize(lightmem):
    return lightmem_summarizer(lightmem)


def summary_message(text):
    content = f"Here is a summary of the conversation to date:\n\n{text}"
    return HumanMessage(content, additional_kwargs={"lc_source": "summarization"})


def test_topics_are_told_in_order_in_their_own_words(summarize):
    summary = summarize([*MOVING, *BAKING])
    lines = summary.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("- ") for line in lines)
    assert summary.index("Noor") < summary.index("sourdough")
    assert "user:" in summary
    said = " ".join(str(message.content) for message in [*MOVING, *BAKING])
    for line in lines:
        for sentence in line.removeprefix("- ").replace("user: ", "|").replace("assistant: ", "|").split("|"):
            assert all(part.strip(". ") in said for part in sentence.split(". ")), "nothing is made up"


def test_it_is_deterministic(summarize):
    assert summarize([*MOVING, *BAKING]) == summarize([*MOVING, *BAKING])


@pytest.mark.parametrize("max_tokens", [30, 60, 120, 500])
def test_the_budget_holds(lightmem, max_tokens):
    summarize = lightmem_summarizer(lightmem, max_tokens=max_tokens)
    messages = [m.model_copy(update={"content": f"{m.content} ({n})"}) for n in range(8) for m in [*MOVING, *BAKING]]
    summary = ""
    for _ in range(4):
        summary = summarize([*([summary_message(summary)] if summary else []), *messages])
        assert 0 < wordpiece_count(summary) <= max_tokens


def test_an_earlier_summary_comes_first(summarize):
    first = summarize(MOVING)
    second = summarize([summary_message(first), *BAKING])
    assert second.startswith(first)
    assert "sourdough" in second
    assert "Here is a summary" not in second


def test_a_summary_that_a_model_wrote_is_kept(summarize):
    summary = summarize([summary_message("Noor lives in Lisbon. She likes the view.\n\nThe user bakes."), *BAKING])
    assert summary.splitlines()[:3] == ["- Noor lives in Lisbon.", "- She likes the view.", "- The user bakes."]


def test_tool_traffic_and_instructions_are_left_out(summarize):
    call = {"name": "clock", "args": {}, "id": "1"}
    messages = [
        SystemMessage("You are a pirate."),
        HumanMessage("What time is it in Lisbon?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("12:00 GMT according to atomic clock", tool_call_id="1"),
        AIMessage("It is noon in Lisbon."),
    ]
    summary = summarize(messages)
    assert "noon" in summary
    assert "atomic" not in summary
    assert "pirate" not in summary


def test_nothing_said_gives_nothing(summarize):
    assert summarize([]) == ""


def test_nothing_is_stored(lightmem, summarize):
    summarize(MOVING)
    assert lightmem.stats()["rows"]["turns"] == 0


@pytest.mark.parametrize("embedder", ["none", "broken"])
def test_words_do_without_an_embedder(path, embedder):
    config = LightMemConfig(embedder="none")
    broken = FlakyEmbedder(fail_on=range(100)) if embedder == "broken" else None
    with LightMem(path, config, embedder=broken) as lightmem:
        assert "Noor" in lightmem_summarizer(lightmem)([*MOVING, *BAKING])


def test_a_budget_for_nothing_is_refused(lightmem):
    with pytest.raises(UsageError, match="max_tokens"):
        lightmem_summarizer(lightmem, max_tokens=5)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_in_the_middleware_of_an_agent(summarize, scripted, asynchronous):
    middleware = pytest.importorskip("langchain.agents.middleware")
    from langchain.agents import create_agent

    model = scripted("Fine.")
    if "summarizer" not in middleware.SummarizationMiddleware.__init__.__annotations__:
        pytest.skip("this LangChain has no summarizer=")
    agent = create_agent(
        model,
        middleware=[
            middleware.SummarizationMiddleware(
                model, trigger=("messages", 8), keep=("messages", 2), summarizer=summarize
            )
        ],
    )
    asked = {"messages": [*MOVING, *BAKING, HumanMessage("Thanks. What now?")]}
    answer = await agent.ainvoke(asked) if asynchronous else agent.invoke(asked)
    assert len(model.prompts) == 1, "no model was asked for the summary"
    assert "Noor" in model.prompts[0]
    assert len(answer["messages"]) == 4
