"""``LightMemRetriever``: nodes, filters, query engines, fusion, isolation."""

from __future__ import annotations

import json

import pytest

from lightmem_integrations import Filter, UsageError
from lightmem_integrations.errors import ClosedError

pytest.importorskip("llama_index.core")

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import MetadataMode, QueryBundle
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from lightmem_integrations.llama_index import LightMemRetriever

QUESTION = "How are my animals called?"


@pytest.fixture
def animals(lightmem):
    lightmem.add(
        [
            {
                **{"role": "user", "content": "My cat is called Miso.", "speaker": "Ana", "id": "m1"},
                **{"timestamp": "2024-05-01T10:00:00+00:00", "metadata": {"topic": "cats", "score": "mine", "n": 3}},
            },
            {"role": "user", "content": "My dog is called Rex.", "timestamp": "2024-05-02T10:00:00+00:00"},
        ],
        user_id="ana",
        session_id="pets",
    )
    lightmem.add(
        [("assistant", "Your snake is called Kaa.", "2024-05-03T10:00:00+00:00")], user_id="ana", session_id="wild"
    )
    lightmem.add("My bird is called Polly.", user_id="bob")
    return lightmem


@pytest.fixture
def retriever(animals):
    return LightMemRetriever(animals, "ana")


def names(nodes):
    return {node.text.split()[-1].rstrip(".") for node in nodes}


def where(*conditions, condition=FilterCondition.AND):
    filters = [
        c if isinstance(c, MetadataFilters) else MetadataFilter(key=c[0], operator=c[1], value=c[2]) for c in conditions
    ]
    return MetadataFilters(filters=filters, condition=condition)


def test_it_is_a_retriever():
    assert BaseRetriever.__name__ in [c.__name__ for c in LightMemRetriever.__mro__]


def test_a_node_tells_where_it_comes_from(retriever, animals):
    found = next(n for n in retriever.retrieve("How is my cat called?") if "Miso" in n.text)
    assert 0 <= found.score <= 1
    assert found.node_id == found.metadata["memory_id"] == animals.get("m1", user_id="ana").id
    rest = {name: value for name, value in found.metadata.items() if name != "memory_id"}
    assert rest == {
        **{"topic": "cats", "score": "mine", "n": 3},
        "timestamp": "2024-05-01T10:00:00+00:00",
        "kind": "turn",
        "role": "user",
        "speaker": "Ana",
        "session_id": "pets",
        "source_ids": ["m1"],
    }
    json.dumps(found.metadata)
    shown = found.node.get_content(MetadataMode.LLM)
    assert "2024-05-01" in shown
    assert "Ana" in shown
    assert "memory_id" not in shown
    assert "topic" not in shown
    assert found.node.get_content(MetadataMode.EMBED) == "My cat is called Miso."


def test_equal_texts_stay_apart(animals, retriever):
    for day in (4, 5):
        animals.add([("user", "I fed the cat.", f"2024-05-0{day}")], user_id="ana", session_id=f"day {day}")
    found = [n for n in retriever.retrieve("Who fed the cat?") if n.text == "I fed the cat."]
    assert len({n.metadata["memory_id"] for n in found}) == 2


OPTIONS = [
    ({"k": 1}, 1),
    ({"session_id": "pets"}, {"Miso", "Rex"}),
    ({"score_threshold": 1.0}, 1),
    ({"strategy": "bm25"}, {"Miso", "Rex", "Kaa"}),
    ({"filters": {"topic": "cats"}}, {"Miso"}),
    ({"filters": Filter(session_ids=["wild"])}, {"Kaa"}),
    ({"filters": where(("topic", "==", "cats"))}, {"Miso"}),
    ({"filters": where(("n", "==", 3), ("topic", "==", "cats"))}, {"Miso"}),
    ({"filters": where(("n", "==", 3), ("topic", "==", "dogs"))}, set()),
    ({"filters": where(("session_id", "==", "wild"))}, {"Kaa"}),
    ({"filters": where(("session_id", "in", ["wild", "pets"]))}, {"Miso", "Rex", "Kaa"}),
    ({"filters": where(("role", "==", "assistant"))}, {"Kaa"}),
    ({"filters": where(("speaker", "==", "Ana"))}, {"Miso"}),
    ({"filters": where(("kind", "in", ["summary"]))}, set()),
    ({"filters": where(("timestamp", ">=", "2024-05-02T10:00:00+00:00"))}, {"Rex", "Kaa"}),
    ({"filters": where(("timestamp", ">=", "2024-05-02"), ("timestamp", "<=", "2024-05-03"))}, {"Rex"}),
    ({"filters": where(("importance", ">=", 0.9))}, set()),
    ({"filters": where(where(("topic", "==", "cats")), ("session_id", "==", "pets"))}, {"Miso"}),
    ({"filters": where(("topic", "==", "cats"), condition=FilterCondition.OR)}, {"Miso"}),
    ({"filters": MetadataFilters(filters=[])}, {"Miso", "Rex", "Kaa"}),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
async def test_options(animals, options, expected):
    retriever = LightMemRetriever(animals, "ana", **options)
    turns = [node for node in retriever.retrieve(QUESTION) if node.metadata["kind"] == "turn"]
    if isinstance(expected, int):
        assert len(turns) <= expected
    else:
        assert names(turns) == expected
    assert [n.node_id for n in await retriever.aretrieve(QUESTION)] == [n.node_id for n in retriever.retrieve(QUESTION)]


REFUSED = [
    where(("topic", "==", "cats"), ("topic", "==", "dogs"), condition=FilterCondition.OR),
    where(("topic", "==", "cats"), ("user_id", "==", "bob"), condition=FilterCondition.OR),
    where(("user_id", "==", "bob")),
    where(("user_id", "!=", "ana")),
    where(("topic", "==", "cats"), ("topic", "==", "dogs")),
    where(("n", ">", 1)),
    where(("timestamp", ">", "2024-05-01")),
    where(("timestamp", ">=", "last week")),
    where(("role", "==", "king")),
    where(("session_id", "!=", "pets")),
    where(("importance", ">=", 2)),
    where(("topic", "is_empty", None)),
    where(("topic", "==", None)),
]
REFUSED += [
    where(("topic", operator, ["cats"]))
    for operator in FilterOperator
    if operator.value in ("in", "nin", "any", "all", "contains", "text_match", "!=")
]
if hasattr(FilterCondition, "NOT"):
    REFUSED.append(where(("topic", "==", "cats"), condition=FilterCondition.NOT))


@pytest.mark.parametrize("filters", REFUSED)
def test_filters_that_cannot_be_answered_are_refused(animals, filters):
    with pytest.raises(UsageError, match="filter"):
        LightMemRetriever(animals, "ana", filters=filters)


@pytest.mark.parametrize("user_id", ["", " ", None, "a" * 256])
def test_there_is_no_retriever_without_a_user(animals, user_id):
    with pytest.raises(UsageError, match="user_id"):
        LightMemRetriever(animals, user_id)


def test_hostile_ids_see_nothing_of_others(animals, hostile_id):
    assert LightMemRetriever(animals, hostile_id).retrieve(QUESTION) == []


@pytest.mark.parametrize("query", ["", "  ", QueryBundle("")])
async def test_nothing_asked_finds_nothing(retriever, query):
    assert retriever.retrieve(query) == await retriever.aretrieve(query) == []


def test_chinese(lightmem):
    lightmem.add(["我的猫叫米索。", "今天天气很好。"], user_id="ana")
    assert LightMemRetriever(lightmem, "ana", k=1).retrieve("我的猫叫什么名字？")[0].text == "我的猫叫米索。"


# --------------------------------------------------------------------------------------- with the rest of LlamaIndex
async def test_query_engine(retriever, scripted):
    model = scripted("Miso, Rex and Kaa.")
    engine = retriever.as_query_engine(llm=model, node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.01)])
    answer = engine.query(QUESTION)
    assert str(answer) == str(await engine.aquery(QUESTION)) == "Miso, Rex and Kaa."
    assert names(answer.source_nodes) >= {"Miso", "Rex", "Kaa"}
    assert all("Miso" in prompt[-1][1] for prompt in model.prompts)
    assert "Polly" not in str(model.prompts)


def test_nothing_remembered_gives_an_empty_response(animals, scripted):
    engine = LightMemRetriever(animals, "carl").as_query_engine(llm=scripted("?"))
    assert str(engine.query(QUESTION)) == "Empty Response"


async def test_fusion(animals, scripted):
    retrievers = [LightMemRetriever(animals, "ana", strategy=strategy) for strategy in ("bm25", "late")]
    for mode in ("reciprocal_rerank", "relative_score", "dist_based_score", "simple"):
        model = scripted("How is my cat called?\nHow is my dog called?")
        fusion = QueryFusionRetriever(
            retrievers, llm=model, mode=mode, similarity_top_k=9, num_queries=3, use_async=False
        )
        found = fusion.retrieve(QUESTION)
        ids = [node.metadata["memory_id"] for node in found]
        assert len(ids) == len(set(ids)) >= 3, "one memory, found by several questions, is one node"
        assert len(await fusion.aretrieve(QUESTION)) == len(found)


def test_router(retriever, scripted):
    model = scripted("Kaa.")
    selector = LLMSingleSelector.from_defaults(llm=scripted('[{"choice": 1, "reason": "It is about memories."}]'))
    tools = [QueryEngineTool.from_defaults(retriever.as_query_engine(llm=model), description="What the user said.")]
    router = RouterQueryEngine.from_defaults(tools, llm=model, selector=selector)
    assert str(router.query("How is my snake called?")) == "Kaa."


async def test_as_a_tool(retriever):
    tool = RetrieverTool.from_defaults(retriever, name="memories", description="What the user said.")
    assert "Miso" in str(tool.call(QUESTION))
    assert "Miso" in str(await tool.acall(QUESTION))


def test_a_failing_engine_is_told(animals, retriever):
    animals.close()
    with pytest.raises(ClosedError):
        retriever.retrieve(QUESTION)


def test_events(retriever, events):
    found = retriever.retrieve(QUESTION)
    (recall,) = events
    assert (recall.hits, recall.failed) == (len(found), False)
    assert recall.tokens_before == recall.tokens_after > 0


def test_long_prompts_are_llama_index_business(retriever, scripted):
    """Nodes are ordinary text nodes: what repacks and cuts them works."""
    repacked = PromptHelper(context_window=200, num_output=20).repack(
        prompt=retriever.as_query_engine(llm=scripted("x")).get_prompts()["response_synthesizer:text_qa_template"],
        text_chunks=[node.get_content(MetadataMode.LLM) for node in retriever.retrieve(QUESTION)],
        llm=None,
    )
    assert "Miso" in "".join(repacked)
