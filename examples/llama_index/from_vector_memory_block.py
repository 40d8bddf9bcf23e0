"""Coming from VectorMemoryBlock: the same place in Memory, or better LightMemMemory.

    Memory(memory_blocks=[VectorMemoryBlock(...)])  ──>  LightMemMemory(...)

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
from llama_index.core.memory import Memory

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemMemory, LightMemMemoryBlock


def chat_model(*answers: str) -> LLM:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from llama_index.llms.openai import OpenAI

        return OpenAI(model=name)
    script = iter(answers)

    def answer(messages: Sequence[ChatMessage], **options: Any) -> ChatMessage:
        return ChatMessage(role="assistant", content=next(script))

    return MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)


# What a vector store of the old block holds: a batch of messages in one text, and the session.
OLD_NODES = [
    ("monday", "<message role='user'>My sister Noor moved to Lisbon.</message>"),
    ("monday", "<message role='assistant'>Good for her!</message>"),
]


def main() -> None:
    """Copy what the old block kept, and see what each way of using the new one remembers of a short chat."""
    with LightMem(":memory:") as lightmem:
        for n, (session_id, text) in enumerate(OLD_NODES):
            note = {"role": "assistant", "content": text, "id": f"vector-{n}"}  # the id makes it safe to run twice
            lightmem.add(note, user_id="ana", session_id=session_id)

        # In the same place as before, it is written to when the chat history overflows, and not earlier.
        block = LightMemMemoryBlock(lightmem=lightmem, user_id="ana")
        memory = Memory.from_defaults(session_id="tuesday", memory_blocks=[block])
        SimpleChatEngine.from_defaults(llm=chat_model("Noted."), memory=memory).chat("My cat is called Miso.")
        print("remembered by the block:", [e.memory for e in lightmem.list(user_id="ana", session_id="tuesday")])

        memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id="wednesday")
        SimpleChatEngine.from_defaults(llm=chat_model("Noted."), memory=memory).chat("My dog is called Rex.")
        turns = lightmem.list(user_id="ana", session_id="wednesday", kinds=("turn",))
        print("remembered by the memory:", [entry.memory for entry in turns])
        print((memory.get("Where does Noor live?")[0].content or "").count("Lisbon"), "memory of Lisbon")


if __name__ == "__main__":
    main()
