"""Memory as a retriever: a query engine over what a user said, with filters.

    question ── LightMemRetriever ── dated nodes ──> response synthesizer ──> answer

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
Environment: LIGHTMEM_MODEL names a model of OpenAI, such as gpt-4o-mini (pip install llama-index-llms-openai);
without it the answers are scripted and nothing leaves this machine.
"""

import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemRetriever


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
    """Ask over all of the memory, and over the trips alone."""
    with LightMem(":memory:") as lightmem:
        lightmem.add(
            [
                ("user", "My train to Porto leaves at 7:40 on Friday.", "2025-03-02T18:20:00+00:00"),
                ("user", "My cat is called Miso.", "2025-03-02T18:21:00+00:00"),
            ],
            user_id="ana",
            session_id="trips",
        )
        lightmem.add(("user", "My train to work is always late."), user_id="ana", session_id="work")
        question = "When does my train leave?"

        engine = LightMemRetriever(lightmem, "ana", k=3).as_query_engine(llm=chat_model("At 7:40 on Friday."))
        answer = engine.query(question)
        print("answer:", answer)
        for source in answer.source_nodes:
            print(f"  {source.score:.2f} {source.metadata['timestamp'][:10]} {source.text}")

        trips = MetadataFilters(filters=[MetadataFilter(key="session_id", value="trips")])
        found = LightMemRetriever(lightmem, "ana", filters=trips).retrieve(question)
        print("of the trips alone:", [node.text for node in found])


if __name__ == "__main__":
    main()
