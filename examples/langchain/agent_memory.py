"""An agent that remembers its users across threads and restarts.

    user's words ── recall ──> model, with what was recalled ──> answer ── record

Prerequisites: pip install "lightmem-integrations[offline,agents]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, FakeListChatModel

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMiddleware


def chat_model(*answers: str) -> BaseChatModel | str:
    """A model by name, or one that says these answers."""
    return os.environ.get("LIGHTMEM_MODEL") or FakeListChatModel(responses=list(answers))


def make_agent(memory: LightMem, model: BaseChatModel | str) -> Any:
    """An agent for any number of users; each run names its own."""
    return create_agent(model, system_prompt="You are a helpful assistant.", middleware=[LightMemMiddleware(memory)])


def ask(agent: Any, words: str, *, user: str, thread: str) -> None:
    """One turn, printed word by word as it is made."""
    print(f"\n{user} ({thread}): {words}\nagent: ", end="")
    config = {"configurable": {"user_id": user, "thread_id": thread}}
    for chunk, _ in agent.stream({"messages": [("user", words)]}, config, stream_mode="messages"):
        print(chunk.text, end="", flush=True)
    print()


def main() -> None:
    """Tell the agent something, restart, and ask for it in another thread."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        with LightMem(path) as memory:
            agent = make_agent(memory, chat_model("Noted: no peanuts for you."))
            ask(agent, "I'm allergic to peanuts, by the way.", user="ana", thread="monday")
        with LightMem(path) as memory:  # another process, another day
            agent = make_agent(memory, chat_model("Tofu satay, with sesame in place of peanuts."))
            ask(agent, "What shall I cook tonight?", user="ana", thread="friday")
            print("\nWhat the model was shown of the first thread:")
            print(memory.context("What shall I cook tonight?", user_id="ana", session_id="monday").text)
            print("\nWhat is known of somebody else:", memory.context("What shall I cook?", user_id="ben").hits)


if __name__ == "__main__":
    main()
