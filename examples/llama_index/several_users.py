"""One agent, one engine, many users at once.

    ana ──┐                ┌── ana's memory
          ├── one agent ───┤
    ben ──┘                └── ben's memory

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
Environment: LIGHTMEM_MODEL names a model of OpenAI, such as gpt-4o-mini (pip install llama-index-llms-openai);
without it the answers are scripted and nothing leaves this machine.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemMemory, lightmem_tools


def chat_model(*answers: str) -> LLM:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from llama_index.llms.openai import OpenAI

        return OpenAI(model=name)
    script = iter(answers)

    def answer(messages: Sequence[ChatMessage], **options: Any) -> ChatMessage:
        return ChatMessage(role="assistant", content=next(script))

    return MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)


async def serve(lightmem: LightMem, model: LLM, words: str, *, user_id: str, session_id: str) -> str:
    """One request. The id of the user is the one that your server authenticated, never one that a model chose."""
    agent = FunctionAgent(tools=lightmem_tools(lightmem, user_id, session_id=session_id), llm=model)
    memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id=user_id, session_id=session_id)
    return str(await agent.run(words, memory=memory))


async def main() -> None:
    """Two users tell a secret at the same time; each is asked for it later."""
    with LightMem(":memory:") as lightmem:
        secrets = {"ana": "My locker is number 7.", "ben": "My locker is number 12."}
        await asyncio.gather(
            *(
                serve(lightmem, chat_model("Noted."), words, user_id=user_id, session_id="monday")
                for user_id, words in secrets.items()
            )
        )
        for user_id in secrets:
            memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id=user_id, session_id="friday")
            shown = (await memory.aget("Which number is my locker?"))[0].content or ""
            print(f"{user_id}: sees 7: {'number 7' in shown}, sees 12: {'number 12' in shown}")
        print("removed of ben:", lightmem.forget(user_id="ben").entries > 0)
        print("left of ben:", lightmem.list(user_id="ben"))


if __name__ == "__main__":
    asyncio.run(main())
