"""Stream an answer token by token, with memory before it and after it.

    question ── recall ──> prompt ──> model ── tokens ──> user
                                        └── when the stream has ended ──> record

Prerequisites: pip install "lightmem-integrations[offline,langchain-classic]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini
(which needs the package langchain); without it the answers are scripted and nothing leaves this machine.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMemory

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You are a helpful assistant."), MessagesPlaceholder("history"), ("human", "{input}")]
)


def chat_model(*answers: str) -> BaseChatModel:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return FakeListChatModel(responses=list(answers))


async def stream_answer(model: BaseChatModel, memory: LightMemMemory, words: str) -> AsyncIterator[str]:
    """The tokens of one answer. A stream that is left early, or fails, records nothing."""
    inputs = {"input": words}
    prompt = inputs | await memory.aload_memory_variables(inputs)
    answer = ""
    async for token in (PROMPT | model | StrOutputParser()).astream(prompt):
        answer += token
        yield token
    await memory.asave_context(inputs, {"output": answer})


async def main() -> None:
    """Two turns; the second is asked in another session."""
    with LightMem(":memory:") as lightmem:
        model = chat_model("Noted: no peanuts.", "No peanuts, please.")
        for session, words in (("monday", "I'm allergic to peanuts."), ("friday", "What do I tell the cook?")):
            memory = LightMemMemory(lightmem=lightmem, user_id="ana", session_id=session, return_messages=True)
            print(f"user: {words}\nassistant: ", end="")
            async for token in stream_answer(model, memory, words):
                print(token, end="", flush=True)
            print()
        print([entry.memory for entry in lightmem.list(user_id="ana")])


if __name__ == "__main__":
    asyncio.run(main())
