"""Compressors as a transformation and as a postprocessor."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import Document, ImageNode, NodeWithScore, TextNode, TransformComponent

from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.llama_index import LightMemCompressor, LightMemCompressorPostprocessor, LightMemRetriever

TEXT = (
    "Well, to be quite honest with you, I was really thinking that we could perhaps go and meet somewhere in Lisbon "
    "on the 4th of May, if that is all right with you, because there is going to be a rather nice concert of fado."
)


def node(**fields):
    return TextNode(**{"text": TEXT, "id_": "n1", "metadata": {"page": 4}} | fields)


def test_they_are_what_llama_index_wants():
    assert issubclass(LightMemCompressor, TransformComponent)
    assert issubclass(LightMemCompressorPostprocessor, BaseNodePostprocessor)
    for kind in (LightMemCompressor, LightMemCompressorPostprocessor):
        assert kind.class_name() == kind.__name__
        assert kind.from_dict(kind(rate=0.5).to_dict()).rate == 0.5


@pytest.mark.parametrize("rate", [0.3, 0.6, 1.0])
def test_the_rate_is_reached(rate):
    (made,) = LightMemCompressor(rate=rate)([node()])
    assert wordpiece_count(made.text) <= rate * wordpiece_count(TEXT) + 8
    assert "Lisbon" in made.text
    assert (made.node_id, made.metadata) == ("n1", {"page": 4})


def test_nodes_are_not_modified():
    given = [node(), node(text="", id_="n2"), Document(text=TEXT, id_="n3"), ImageNode(image="", id_="n4")]
    before = copy.deepcopy(given)
    made = LightMemCompressor()(given)
    assert [m.node_id for m in made] == ["n1", "n2", "n3", "n4"]
    assert [type(m) for m in made] == [type(g) for g in given]
    assert [m.get_content() == g.get_content() for m, g in zip(made, given, strict=True)] == [False, True, False, True]
    assert given == before
    found = [NodeWithScore(node=g, score=0.5) for g in given]
    LightMemCompressorPostprocessor().postprocess_nodes(found)
    assert given == before


async def test_in_a_pipeline_with_cache():
    pipeline = IngestionPipeline(transformations=[LightMemCompressor(rate=0.5)])
    first = pipeline.run(nodes=[node()])
    assert len(first[0].text) < len(TEXT)
    assert pipeline.run(nodes=[node()])[0].text == first[0].text
    assert (await pipeline.arun(nodes=[node()]))[0].text == first[0].text
    assert pipeline.cache.get("none") is None
    other = IngestionPipeline(transformations=[LightMemCompressor(rate=0.9)], cache=pipeline.cache)
    assert len(other.run(nodes=[node()])[0].text) > len(first[0].text), "the rate is part of the cache key"


async def test_as_a_postprocessor(lightmem, scripted):
    lightmem.add([TEXT, "Short."], user_id="ana")
    model = scripted("In Lisbon.")
    retriever = LightMemRetriever(lightmem, "ana", filters={})
    shorter = LightMemCompressorPostprocessor(rate=0.5)
    found = retriever.retrieve("Where shall we meet?")
    made = shorter.postprocess_nodes(found, query_str="Where shall we meet?")
    assert [(m.node_id, m.score) for m in made] == [(f.node_id, f.score) for f in found]
    assert [m.text for m in await shorter.apostprocess_nodes(found)] == [m.text for m in made]
    engine = retriever.as_query_engine(llm=model, node_postprocessors=[shorter])
    assert str(engine.query("Where shall we meet?")) == "In Lisbon."
    assert TEXT not in str(model.prompts)
    assert "Lisbon" in str(model.prompts)


def test_none_changes_nothing():
    assert LightMemCompressor(compressor="none")([node()])[0].text == TEXT


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": 1.1}, {"compressor": "best"}])
def test_options_out_of_range_are_refused(options):
    for kind in (LightMemCompressor, LightMemCompressorPostprocessor):
        with pytest.raises(ValueError, match=next(iter(options))):
            kind(**options)
