"""Coming from mem0: its memories become notes of the same user, with their ids and dates.

    mem0.get_all(user) ── rows ──> LightMem ──> LightMemMemory recalls them

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
No language model is asked.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemMemory

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
    """Copy one user's memories, then recall them."""
    with LightMem(":memory:") as lightmem:
        print(lightmem.add(notes(ROWS), user_id="ana", session_id="mem0").added, "memories copied")
        print(lightmem.add(notes(ROWS), user_id="ana", session_id="mem0").added, "the second time")
        # Before: Mem0Memory.from_config(context={"user_id": "ana"}, config=...)
        memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana")
        print(memory.get("What am I allergic to?")[0].content)


if __name__ == "__main__":
    main()
