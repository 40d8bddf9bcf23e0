"""A chat engine with long-term memory, streaming.

    user's words ── recall ──> chat engine ──> answer, word by word ── remember

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
Environment: LIGHTMEM_MODEL names a model of OpenAI, such as gpt-4o-mini (pip install llama-index-llms-openai);
without it the answers are scripted and nothing leaves this machine.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.chat_engine import SimpleChatEngine
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


async def main() -> None:
    """Talk in two sessions; the second knows what was said in the first."""
    with LightMem(":memory:") as lightmem:
        for session_id, words, answer in (
            ("monday", "My sister Noor moved to Lisbon.", "Good for her!"),
            ("friday", "Where does Noor live?", "In Lisbon."),
        ):
            memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id=session_id)
            engine = SimpleChatEngine.from_defaults(llm=chat_model(answer), memory=memory, system_prompt="Be brief.")
            stream = await engine.astream_chat(words)
            print(f"{session_id}: {words}\nassistant: ", end="")
            async for token in stream.async_response_gen():
                print(token, end="", flush=True)
            print()
            while len(await memory.aget_all()) < 2:  # the answer is stored behind the stream
                await asyncio.sleep(0.01)
        for entry in lightmem.list(user_id="ana", kinds=("turn",)):
            print(f"{entry.session_id} {entry.role}: {entry.memory}")


if __name__ == "__main__":
    asyncio.run(main())
