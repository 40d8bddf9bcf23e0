"""Keep memory in a workflow Context, across runs, serialisation and processes.

    run 1 ── Context ── run 2 ── JSON ── another process ── run 3

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
Environment: LIGHTMEM_MODEL names a model of OpenAI, such as gpt-4o-mini (pip install llama-index-llms-openai);
without it the answers are scripted and nothing leaves this machine.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.workflow import Context

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


def make_memory(lightmem: LightMem, folder: Path) -> LightMemMemory:
    """A memory whose chat history is in a file too, so that a session goes on after a restart."""
    return LightMemMemory.from_defaults(
        lightmem=lightmem,
        user_id="ana",
        session_id="monday",
        async_database_uri=f"sqlite+aiosqlite:///{folder / 'chat.db'}",
    )


async def main() -> None:
    """Three runs of one conversation; memory is passed to the first only."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        agent = FunctionAgent(tools=[], llm=chat_model("Hello Ana.", "It is a fine name.", "Miso."))
        with LightMem(folder / "memory.db") as lightmem:
            context = Context(agent)
            await agent.run("I am Ana.", ctx=context, memory=make_memory(lightmem, folder))
            await agent.run("My cat is called Miso.", ctx=context)
            written = json.dumps(context.to_dict())
        # Another process: make the memory first, then load the Context, which finds it by user and session.
        with LightMem(folder / "memory.db") as lightmem:
            memory = make_memory(lightmem, folder)
            context = Context.from_dict(agent, json.loads(written))
            print("agent:", await agent.run("How is my cat called?", ctx=context))
            print("chat history:", [message.content for message in await memory.aget_all()])
            print("long-term:", len(lightmem.list(user_id="ana", kinds=("turn",))), "turns")


if __name__ == "__main__":
    asyncio.run(main())
