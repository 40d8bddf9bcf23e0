"""A LangGraph store whose items lie in the users' memories, beside what they said.

    tool ── store.put(("memories", user), ...) ──> memory of the user <── what was said

Prerequisites: pip install "lightmem-integrations[offline,agents]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import os
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.language_models import BaseChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemStore
from lightmem_integrations.langchain.store import from_label, to_label


@dataclass
class User:
    """Who is speaking. The application says so, never the model."""

    user_id: str


@tool
def set_diet(diet: str, runtime: ToolRuntime[User, Any]) -> str:
    """Keep what the user eats and does not eat, in place of what was kept before."""
    assert runtime.store is not None
    runtime.store.put(("memories", to_label(runtime.context.user_id)), "diet", {"content": diet})
    return "Kept."


class Scripted(FakeMessagesListChatModel):
    """Says what it is told to; it may be given tools."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Take the tools and go on as before."""
        return self


def chat_model() -> BaseChatModel | str:
    """A model by name, or one that calls the tool."""
    call = {"name": "set_diet", "args": {"diet": "Ana eats no peanuts and no fish."}, "id": "1"}
    answers = [AIMessage("", tool_calls=[call]), AIMessage("I will remember that.")]
    return os.environ.get("LIGHTMEM_MODEL") or Scripted(responses=answers)


def main() -> None:
    """An agent keeps an item; the application, another agent and the engine find it."""
    with LightMem(":memory:") as memory:
        # The second label of a namespace is the user. A label may hold no ".", hence to_label and from_label.
        store = LightMemStore(memory, user_id=lambda namespace: from_label(namespace[1]))
        agent = create_agent(chat_model(), tools=[set_diet], store=store, context_schema=User)
        words = {"messages": [("user", "Mind you: no peanuts and no fish for me.")]}
        print("agent:", agent.invoke(words, context=User("ana@example.org"))["messages"][-1].text)

        namespace = ("memories", to_label("ana@example.org"))
        store.put(namespace, "hobby", {"content": "Ana plays the cello.", "since": 2019})
        for item in store.search(namespace, query="What must I not cook?"):
            print(f"{item.score:.2f}  {item.key}: {item.value['content']}")
        print("since 2018:", [item.key for item in store.search(namespace, filter={"since": {"$gte": 2018}})])
        print(memory.context("What must I not cook?", user_id="ana@example.org", max_tokens=60).text)


if __name__ == "__main__":
    main()
