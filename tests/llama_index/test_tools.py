"""``lightmem_tools``: the user that no model can choose, failing open, in an agent."""

from __future__ import annotations

import pytest

from lightmem_integrations import UsageError
from lightmem_integrations.errors import ClosedError

pytest.importorskip("llama_index.core")

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool

from lightmem_integrations.llama_index import failures_of, lightmem_tools


@pytest.fixture
def tools(lightmem):
    lightmem.add("My sister Noor moved to Lisbon.", user_id="ana")
    lightmem.add("My sister Noor moved to Porto.", user_id="bob")
    return {tool.metadata.name: tool for tool in lightmem_tools(lightmem, "ana", session_id="s1", forget=True)}


def texts(lightmem, user_id="ana", session_id=None):
    return [entry.memory for entry in lightmem.list(user_id=user_id, session_id=session_id, kinds=("turn",))]


def test_forgetting_is_off_unless_asked_for(lightmem):
    tools = lightmem_tools(lightmem, "ana")
    assert [tool.metadata.name for tool in tools] == ["search_memory", "save_memory"]
    assert all(isinstance(tool, FunctionTool) for tool in tools)


def test_the_model_chooses_words_only(tools):
    asked = {name: set(tool.metadata.get_parameters_dict()["properties"]) for name, tool in tools.items()}
    assert asked == {"search_memory": {"query"}, "save_memory": {"text"}, "forget_memory": {"line"}}


def test_a_user_that_the_model_makes_up_is_not_heard(tools, lightmem):
    found = str(tools["search_memory"].call(query="Where does Noor live?", user_id="bob"))
    assert "Lisbon" in found
    assert "Porto" not in found
    tools["save_memory"].call(text="Noor likes tea.", user_id="bob")
    assert texts(lightmem, "bob") == ["My sister Noor moved to Porto."]


async def test_search_save_and_forget(tools, lightmem):
    for _ in range(2):
        assert str(await tools["save_memory"].acall(text="Noor likes tea.")) == "Saved."
    assert texts(lightmem, session_id="s1") == ["Noor likes tea."]
    found = str(tools["search_memory"].call(query="Where does Noor live?"))
    assert found.startswith("<memory>")
    tools["save_memory"].call(text=found)
    assert len(texts(lightmem)) == 2, "what was found is not saved again"
    line = next(line for line in found.splitlines() if "Lisbon" in line)
    assert str(tools["forget_memory"].call(line="Lisbon")).startswith("No memory reads like that.")
    assert str(tools["forget_memory"].call(line=line)) == "Forgotten."
    assert texts(lightmem) == ["Noor likes tea."]
    assert texts(lightmem, "bob") == ["My sister Noor moved to Porto."]
    assert str(await tools["search_memory"].acall(query=" ")) == "Nothing is remembered about that."


async def test_dated_lines_of_a_memory_block_can_be_forgotten(tools, lightmem):
    entry = lightmem.list(user_id="ana")[0]
    line = f"- {entry.timestamp:%Y-%m-%d} {entry.weekday} {entry.timestamp:%H:%M} user: {entry.memory}"
    assert str(tools["forget_memory"].call(line=line)) == "Forgotten."


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
async def test_in_an_agent(tools, lightmem, scripted):
    model = scripted(("search_memory", {"query": "Where does Noor live?"}), "In Lisbon.")
    answer = await FunctionAgent(tools=list(tools.values()), llm=model).run("Where does Noor live?")
    assert str(answer) == "In Lisbon."
    assert "Lisbon" in str(model.prompts[1])
    assert "Porto" not in str(model.prompts[1])


def test_hostile_ids_see_nothing_of_others(lightmem, tools, hostile_id):
    search, _, forget = lightmem_tools(lightmem, hostile_id, forget=True)
    assert str(search.call(query="Where does Noor live?")) == "Nothing is remembered about that."
    line = next(line for line in str(tools["search_memory"].call(query="Noor?")).splitlines() if "Lisbon" in line)
    assert str(forget.call(line=line)).startswith("No memory")
    assert texts(lightmem) == ["My sister Noor moved to Lisbon."]


@pytest.mark.parametrize("user_id", ["", " ", None, "a" * 256])
def test_there_are_no_tools_without_a_user(lightmem, user_id):
    with pytest.raises(UsageError, match="user_id"):
        lightmem_tools(lightmem, user_id)


def test_a_failing_engine_is_told_to_the_model(lightmem, tools):
    lightmem.close()
    calls = {"search_memory": {"query": "Noor"}, "save_memory": {"text": "Noor"}}
    for name, arguments in {**calls, "forget_memory": {"line": "- 12:00 user: Noor"}}.items():
        assert str(tools[name].call(**arguments)) == "Memory is not available right now."
    assert (failures_of(lightmem).recalls, failures_of(lightmem).waiting) == (2, 1)
    for tool in lightmem_tools(lightmem, "ana", raise_on_error=True):
        with pytest.raises(ClosedError):
            tool.call(**calls[tool.metadata.name])
