"""Move from mem0: its memories become notes of the same user, with their ids and dates.

    mem0.get_all(user) ── rows ──> memory.add(user) ──> LightMemMiddleware recalls them

Prerequisites: pip install "lightmem-integrations[offline,agents]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMiddleware

# In your program: mem0.Memory().get_all(filters={"user_id": "ana"}, top_k=100_000)["results"]
ROWS = [
    {
        "id": "7b2c",
        "memory": "Is allergic to peanuts",
        "metadata": {"category": "health"},
        "created_at": "2025-03-02T18:20:00+00:00",
        "updated_at": None,
    },
    {"id": "9f01", "memory": "Plays the cello", "metadata": None, "created_at": "2025-04-11T09:00:00+00:00"},
]


def notes(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """mem0's rows as messages. Their ids make it safe to run this twice."""
    return [
        {
            "role": "assistant",
            "content": row["memory"],
            "id": f"mem0-{row['id']}",
            "timestamp": row.get("updated_at") or row.get("created_at"),
            "metadata": row.get("metadata") or {},
        }
        for row in rows
    ]


def main() -> None:
    """Copy one user's memories, then ask an agent that has the middleware."""
    with LightMem(":memory:") as memory:
        print(memory.add(notes(ROWS), user_id="ana", session_id="mem0").added, "memories copied")
        print(memory.add(notes(ROWS), user_id="ana", session_id="mem0").added, "the second time")

        model = os.environ.get("LIGHTMEM_MODEL") or FakeListChatModel(responses=["To peanuts."])
        agent = create_agent(model, middleware=[LightMemMiddleware(memory, user_id="ana")])
        question = "What am I allergic to?"
        print(memory.context(question, user_id="ana", max_tokens=60).text)
        print("agent:", agent.invoke({"messages": [("user", question)]})["messages"][-1].text)


if __name__ == "__main__":
    main()
