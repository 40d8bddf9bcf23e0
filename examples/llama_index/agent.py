"""An agent that remembers its user across sessions and restarts.

    user's words ── recall ──> model, with what was recalled ──> answer ── remember

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
Environment: LIGHTMEM_MODEL names a model of OpenAI, such as gpt-4o-mini (pip install llama-index-llms-openai);
without it the answers are scripted and nothing leaves this machine.
"""

import asyncio
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemMemory


def chat_model(*answers: str) -> LLM:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from llama_index.llms.openai import OpenAI

        return OpenAI(model=name)
    script = iter(answers)

    def answer(messages: Sequence[ChatMessage], **options: Any) -> ChatMessage:
        return ChatMessage(role="assistant", content=next(script))

    return MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)


def today() -> str:
    """The date of today."""
    return date.today().isoformat()


def make_agent(model: LLM) -> FunctionAgent:
    """An agent like any other: it is the run that has a memory."""
    return FunctionAgent(tools=[today], llm=model, system_prompt="You are a helpful assistant.")


async def main() -> None:
    """Tell the agent something, restart, and ask for it in another session."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        with LightMem(path) as lightmem:
            agent = make_agent(chat_model("Noted: no peanuts for you."))
            memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id="monday")
            print("agent:", await agent.run("I'm allergic to peanuts, by the way.", memory=memory))
        with LightMem(path) as lightmem:  # another process, another day
            agent = make_agent(chat_model("Tofu satay, with sesame in place of peanuts."))
            memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id="friday")
            words = "What shall I cook tonight, given my allergy?"
            shown = await memory.aget(words)
            print("agent:", await agent.run(words, memory=memory))
            print("\nWhat the model was shown of the first session:", shown[0].content, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
