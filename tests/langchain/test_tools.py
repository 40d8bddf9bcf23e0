"""``lightmem_tools``: LangChain's standard tests, the user that no model can choose, failing open."""

from __future__ import annotations

import pytest

from lightmem_integrations import UsageError
from lightmem_integrations.errors import ClosedError

pytest.importorskip("langchain_core")

from lightmem_integrations.langchain import failures_of, lightmem_tools


@pytest.fixture
def tools(lightmem):
    lightmem.add("My sister Noor moved to Lisbon.", user_id="ana")
    lightmem.add("My sister Noor moved to Porto.", user_id="bob")
    return {tool.name: tool for tool in lightmem_tools(lightmem, user_id="ana", session_id="s1", forget=True)}


def texts(lightmem, user_id="ana"):
    return [entry.memory for entry in lightmem.list(user_id=user_id)]


def test_forgetting_is_off_unless_asked_for(lightmem):
    assert [tool.name for tool in lightmem_tools(lightmem, user_id="ana")] == ["search_memory", "save_memory"]


def test_the_model_chooses_words_only(tools):
    asked = {name: set(tool.tool_call_schema.model_json_schema()["properties"]) for name, tool in tools.items()}
    assert asked == {"search_memory": {"query"}, "save_memory": {"text"}, "forget_memory": {"line"}}


def test_a_user_that_the_model_makes_up_is_not_heard(tools, lightmem):
    found = tools["search_memory"].invoke({"query": "Where does Noor live?", "user_id": "bob"})
    assert "Lisbon" in found
    assert "Porto" not in found
    tools["save_memory"].invoke({"text": "Noor likes tea.", "user_id": "bob", "config": {"user_id": "bob"}})
    assert texts(lightmem, "bob") == ["My sister Noor moved to Porto."]


def test_search_returns_fenced_lines(tools):
    found = tools["search_memory"].invoke({"query": "Where does Noor live?"})
    assert found.startswith("<memory>")
    assert tools["search_memory"].invoke({"query": " "}) == "Nothing is remembered about that."


def test_a_note_is_saved_once(tools, lightmem):
    for _ in range(2):
        assert tools["save_memory"].invoke({"text": "Noor likes tea."}) == "Saved."
    note = lightmem.list(user_id="ana", session_id="s1")
    assert [(entry.role, entry.memory, dict(entry.metadata)) for entry in note] == [
        ("assistant", "Noor likes tea.", {"tool": "save_memory"})
    ]


def test_what_was_searched_is_not_saved_again(tools, lightmem):
    found = tools["search_memory"].invoke({"query": "Where does Noor live?"})
    tools["save_memory"].invoke({"text": found})
    assert texts(lightmem) == ["My sister Noor moved to Lisbon."]


def test_forgetting_a_quoted_line(tools, lightmem):
    found = tools["search_memory"].invoke({"query": "Where does Noor live?"})
    line = next(line for line in found.splitlines() if "Lisbon" in line)
    assert tools["forget_memory"].invoke({"line": "Lisbon"}).startswith("No memory reads like that.")
    assert tools["forget_memory"].invoke({"line": line}) == "Forgotten."
    assert texts(lightmem) == []
    assert texts(lightmem, "bob") == ["My sister Noor moved to Porto."]
    assert tools["forget_memory"].invoke({"line": line}).startswith("No memory reads like that.")


async def test_sync_and_async_agree(tools):
    for name, arguments in (
        ("search_memory", {"query": "Where does Noor live?"}),
        ("save_memory", {"text": "Noor likes tea."}),
        ("forget_memory", {"line": "- 12:00 user: nobody said this"}),
    ):
        assert tools[name].invoke(arguments) == await tools[name].ainvoke(arguments)


async def test_a_plain_string_is_the_argument(tools):
    """So chains of agents call tools of one argument."""
    asked = "Where does Noor live?"
    assert "Lisbon" in tools["search_memory"].invoke(asked)
    assert await tools["search_memory"].ainvoke(asked) == tools["search_memory"].invoke({"query": asked})
    assert await tools["save_memory"].ainvoke("Noor likes tea.") == tools["save_memory"].invoke("Noor likes tea.")


async def test_one_set_of_tools_for_many_users(lightmem):
    search, save = lightmem_tools(lightmem, user_id=lambda config: config["configurable"]["user_id"])
    for n in range(5):
        await save.ainvoke({"text": f"The number is {n}."}, {"configurable": {"user_id": f"user {n}"}})
    for n in range(5):
        found = search.invoke({"query": "What is the number?"}, {"configurable": {"user_id": f"user {n}"}})
        assert [m for m in range(5) if f"number is {m}." in found] == [n]
    with pytest.raises(KeyError):
        search.invoke({"query": "What is the number?"})


def test_hostile_ids_see_nothing_of_others(lightmem, tools, hostile_id):
    search, _, forget = lightmem_tools(lightmem, user_id=hostile_id, forget=True)
    assert search.invoke({"query": "Where does Noor live?"}) == "Nothing is remembered about that."
    line = next(iter(tools["search_memory"].invoke({"query": "Where does Noor live?"}).splitlines()[3:]))
    assert "Lisbon" in line
    assert forget.invoke({"line": line}).startswith("No memory")
    assert texts(lightmem) == ["My sister Noor moved to Lisbon."]


@pytest.mark.parametrize("user_id", ["", " ", None, "a" * 256])
def test_there_are_no_tools_without_a_user(lightmem, user_id):
    with pytest.raises(UsageError, match="user_id"):
        lightmem_tools(lightmem, user_id=user_id)


def test_a_failing_engine_is_told_to_the_model(lightmem, tools):
    lightmem.close()
    for name, argument in (("search_memory", "query"), ("save_memory", "text")):
        assert tools[name].invoke({argument: "Noor"}) == "Memory is not available right now."
    line = {"line": "- 12:00 user: Noor"}
    assert tools["forget_memory"].invoke(line) == "Memory is not available right now."
    assert (failures_of(lightmem).recalls, failures_of(lightmem).waiting) == (2, 1)


def test_raising_on_demand(lightmem):
    search, save = lightmem_tools(lightmem, user_id="ana", on_error="raise")
    lightmem.close()
    for tool, arguments in ((search, {"query": "Noor"}), (save, {"text": "Noor"})):
        with pytest.raises(ClosedError):
            tool.invoke(arguments)


def test_there_are_two_ways_to_fail(lightmem):
    with pytest.raises(UsageError, match="on_error must be one of warn, raise"):
        lightmem_tools(lightmem, user_id="ana", on_error="ignore")
