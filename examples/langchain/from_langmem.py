"""Move from langmem: copy its store, then let the middleware do what its tools and managers did.

    any LangGraph store ── items ──> LightMemStore ──> LightMemMiddleware recalls them

Prerequisites: pip install "lightmem-integrations[offline,agents]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import os
from collections.abc import Iterator

from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langgraph.store.base import BaseStore, Item
from langgraph.store.memory import InMemoryStore

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMiddleware, LightMemStore
from lightmem_integrations.langchain.store import from_label

PAGE = 100


def old_store() -> BaseStore:
    """What langmem left: namespaces ("memories", user), values with a ``content``."""
    store = InMemoryStore()
    store.put(("memories", "ana"), "1", {"content": "Ana is allergic to peanuts."})
    store.put(("memories", "ana"), "2", {"content": "Ana plays the cello in an orchestra."})
    store.put(("memories", "ben"), "1", {"content": "Ben collects stamps."})
    return store


def items_of(store: BaseStore) -> Iterator[Item]:
    """Every item of any LangGraph store, page by page."""
    offset = 0
    while page := store.search((), limit=PAGE, offset=offset):
        yield from page
        offset += PAGE


def main() -> None:
    """Copy the items, then ask an agent that has the middleware."""
    with LightMem(":memory:") as memory:
        new = LightMemStore(memory, user_id=lambda namespace: from_label(namespace[1]))
        for item in items_of(old_store()):
            new.put(item.namespace, item.key, item.value)
        print({user: len(memory.list(user_id=user)) for user in ("ana", "ben")}, "items copied")

        model = os.environ.get("LIGHTMEM_MODEL") or FakeListChatModel(responses=["To peanuts."])
        agent = create_agent(model, middleware=[LightMemMiddleware(memory)])
        question = "What am I allergic to?"
        print(memory.context(question, user_id="ana", max_tokens=60).text)
        config = {"configurable": {"user_id": "ana", "thread_id": "1"}}
        print("agent:", agent.invoke({"messages": [("user", question)]}, config)["messages"][-1].text)


if __name__ == "__main__":
    main()
