r"""Move from VectorStoreRetrieverMemory: its documents become the turns they were made of.

    "input: …\nresponse: …" ── turns ──> memory.add(user) ──> LightMemMemory recalls them

Prerequisites: pip install "lightmem-integrations[offline,langchain-classic]"
Environment: none; no model is asked.
"""

import re
from collections.abc import Iterable, Iterator

from langchain_core.documents import Document

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMemory

# In your program: what your vector store lists, such as InMemoryVectorStore.store.values() or a Chroma get().
DOCUMENTS = [
    Document("input: My dog is called Rex.\nresponse: What a good name!", id="d1"),
    Document("input: He is afraid of thunder.\nresponse: Poor Rex.", id="d2"),
]

# VectorStoreRetrieverMemory writes "key: value" lines, with the names of the chain's keys.
_EXCHANGE = re.compile(r"(?:input|question|query): (.*)\n(?:output|response|answer|result|text): (.*)", re.DOTALL)


def turns(documents: Iterable[Document]) -> Iterator[dict[str, str]]:
    """The exchanges, in order. Their ids make it safe to run this twice."""
    for document in documents:
        found = _EXCHANGE.fullmatch(document.page_content)
        said = zip(("user", "assistant"), found.groups(), strict=True) if found else [("user", document.page_content)]
        for role, text in said:
            yield {"role": role, "content": text, "id": f"{document.id}-{role}"}


def main() -> None:
    """Copy one user's documents, then use the memory in their place."""
    with LightMem(":memory:") as lightmem:
        for _ in range(2):
            print(lightmem.add(turns(DOCUMENTS), user_id="ana", session_id="imported").added, "turns copied")
        # Before: memory=VectorStoreRetrieverMemory(retriever=store.as_retriever(search_kwargs={"k": 4}))
        memory = LightMemMemory(lightmem=lightmem, user_id="ana", k=4, max_tokens=200)
        print(memory.load_memory_variables({"input": "What frightens my dog?"})["history"])


if __name__ == "__main__":
    main()
