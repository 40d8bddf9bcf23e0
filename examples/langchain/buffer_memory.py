"""Long-term memory for a chain, in place of ConversationBufferMemory.

    user's words ── recall + last turns ──> prompt ──> answer ── record

Prerequisites: pip install "lightmem-integrations[offline,langchain-classic]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from langchain_classic.chains import ConversationChain
from langchain_core.language_models import BaseChatModel, FakeListChatModel

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMemory

warnings.filterwarnings("ignore", category=DeprecationWarning)  # the chain itself is deprecated


def chat_model(*answers: str) -> BaseChatModel:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return FakeListChatModel(responses=list(answers))


def main() -> None:
    """Tell a chain something, restart, and ask for it in another session."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        with LightMem(path) as lightmem:
            # Before: memory=ConversationBufferMemory()
            memory = LightMemMemory(lightmem=lightmem, user_id="ana", session_id="monday", recent_turns=6)
            chain = ConversationChain(llm=chat_model("Noted: no peanuts.", "With rice?"), memory=memory)
            print("AI:", chain.invoke({"input": "I'm allergic to peanuts, by the way."})["response"])
            print("AI:", chain.invoke({"input": "I bought tofu today."})["response"])
        with LightMem(path) as lightmem:  # another process, another day
            memory = LightMemMemory(lightmem=lightmem, user_id="ana", session_id="friday", recent_turns=6)
            chain = ConversationChain(llm=chat_model("Tofu satay, with sesame in place of peanuts."), memory=memory)
            answer = chain.invoke({"input": "What shall I cook tonight, given my allergy?"})
            print("\nWhat the prompt held:", answer["history"], sep="\n")
            print("AI:", answer["response"])


if __name__ == "__main__":
    main()
