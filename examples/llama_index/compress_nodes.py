"""Leave out the words that say least: in an ingestion pipeline, and from nodes that were retrieved.

    documents ── LightMemCompressor ──> index        nodes ── LightMemCompressorPostprocessor ──> prompt

Prerequisites: pip install "lightmem-integrations[offline,llama-index]"
No language model is asked.
"""

from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode

from lightmem_integrations import LightMem
from lightmem_integrations.llama_index import LightMemCompressor, LightMemCompressorPostprocessor, LightMemRetriever

TEXT = (
    "Well, to be quite honest with you, I was really thinking that we could perhaps go and meet somewhere in Lisbon "
    "on the 4th of May, if that is all right with you, because there is going to be a rather nice concert of fado."
)


def main() -> None:
    """Compress a text on its way in, and on its way out."""
    pipeline = IngestionPipeline(transformations=[LightMemCompressor(rate=0.5)])
    (node,) = pipeline.run(nodes=[TextNode(text=TEXT)])
    print(f"in: {len(TEXT)} characters became {len(node.get_content())}:", node.get_content())
    with LightMem(":memory:") as lightmem:
        lightmem.add(TEXT, user_id="ana")
        found = LightMemRetriever(lightmem, "ana", k=1).retrieve("Where shall we meet?")
        shorter = LightMemCompressorPostprocessor(rate=0.5).postprocess_nodes(found)
        print(f"out: {len(found[0].text)} characters became {len(shorter[0].text)}, score {shorter[0].score:.2f}")


if __name__ == "__main__":
    main()
