"""Coming from ChatMemoryBuffer: one line changes, and the old history comes along.

    ChatMemoryBuffer ── messages ──> LightMemMemory(chat_history=...)

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
Environment: LIGHTMEM_MODEL names a model of OpenAI, such as gpt-4o-mini (pip install llama-index-llms-openai);
without it the answers are scripted and nothing leaves this machine.
"""

import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer

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


def main() -> None:
    """Take over a buffer, go on, and recall it in another session."""
    buffer = ChatMemoryBuffer.from_defaults(
        chat_history=[
            ChatMessage(role="user", content="I'm allergic to peanuts, by the way."),
            ChatMessage(role="assistant", content="Noted."),
        ]
    )
    with LightMem(":memory:") as lightmem:
        # Before: SimpleChatEngine.from_defaults(llm=..., memory=buffer)
        memory = LightMemMemory.from_defaults(
            lightmem=lightmem, user_id="ana", session_id="monday", chat_history=buffer.get_all()
        )
        SimpleChatEngine.from_defaults(llm=chat_model("With rice?"), memory=memory).chat("I bought tofu today.")
        print(len(lightmem.list(user_id="ana", kinds=("turn",))), "turns remembered")
        # Given again, as a stateless service does it, nothing is stored twice.
        LightMemMemory.from_defaults(
            lightmem=lightmem, user_id="ana", session_id="monday", chat_history=buffer.get_all()
        )
        print(len(lightmem.list(user_id="ana", kinds=("turn",))), "turns after it was given again")

        memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id="friday")
        shown = memory.get("What shall I cook, given my allergy?")
        print(shown[0].content)


if __name__ == "__main__":
    main()
