"""Move from ConversationSummaryMemory: the running summary becomes a note, new turns are kept word for word.

    summary ── note ──> memory.add(user)      new turns ── recall and the last few ──> prompt

Prerequisites: pip install "lightmem-integrations[offline,langchain-classic]"
Environment: none; no model is asked, neither here nor later to summarise.
"""

from datetime import datetime, timezone

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMemory

# In your program: old_memory.buffer (ConversationSummaryMemory) or old_memory.moving_summary_buffer.
SUMMARY = (
    "The human, Ana, is planning a trip to Japan in May with her sister Noor. "
    "She does not eat fish. The AI suggested Kyoto for temples and gardens."
)


def main() -> None:
    """Keep the old summary, go on with turns."""
    with LightMem(":memory:") as lightmem:
        note = {
            "role": "assistant",
            "content": SUMMARY,
            "id": "summary-before-lightmem",  # makes it safe to run this twice
            "timestamp": datetime(2025, 3, 1, tzinfo=timezone.utc),
        }
        lightmem.add(note, user_id="ana", session_id="before")

        # Before: memory=ConversationSummaryMemory(llm=model), one more model call each turn
        memory = LightMemMemory(lightmem=lightmem, user_id="ana", session_id="today", recent_turns=4, max_tokens=200)
        memory.save_context({"input": "Noor wants to see Nara too."}, {"output": "It is 45 minutes from Kyoto."})
        print(memory.load_memory_variables({"input": "Which food do I not eat in Japan?"})["history"])


if __name__ == "__main__":
    main()
