"""Coming from FactExtractionMemoryBlock: its facts become notes; turns are kept word for word from now on.

    block.facts ── notes ──> LightMem ── recall by question ──> prompt

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
No language model is asked.
"""

from llama_index.core.llms import MockLLM
from llama_index.core.memory import FactExtractionMemoryBlock

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemMemory


def main() -> None:
    """Copy the facts; the prompt then holds those that answer the question, in place of all of them."""
    facts = ["Ana is allergic to peanuts", "Ana plays the cello", "Ana's cat is called Miso", "Ana lives in Porto"]
    old = FactExtractionMemoryBlock(llm=MockLLM(), facts=facts)
    with LightMem(":memory:") as lightmem:
        notes = [{"role": "assistant", "content": fact, "id": f"fact-{fact}"} for fact in old.facts]
        print(lightmem.add(notes, user_id="ana", session_id="facts").added, "facts copied")
        print(lightmem.add(notes, user_id="ana", session_id="facts").added, "the second time")
        memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", k=1)
        print(memory.get("How is my cat called?")[0].content)


if __name__ == "__main__":
    main()
