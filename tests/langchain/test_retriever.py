"""``LightMemRetriever``: LangChain's standard tests, our options, tracing, isolation."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from lightmem_integrations import Filter, UsageError
from lightmem_integrations.core.tokens import budget_counter
from lightmem_integrations.errors import ClosedError

pytest.importorskip("langchain_core")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnablePassthrough
from langchain_core.tools import create_retriever_tool

from lightmem_integrations.langchain import LightMemRetriever

QUESTION = "How are my animals called?"


@pytest.fixture
def animals(lightmem):
    lightmem.add(
        [
            {
                **{"role": "user", "content": "My cat is called Miso.", "speaker": "Ana", "id": "m1"},
                **{"timestamp": "2024-05-01T10:00:00+00:00", "metadata": {"topic": "cats", "score": "mine"}},
            },
            {"role": "user", "content": "My dog is called Rex.", "timestamp": "2024-05-02T10:00:00+00:00"},
        ],
        user_id="ana",
        session_id="pets",
    )
    lightmem.add([("user", "My snake is called Kaa.", "2024-05-03T10:00:00+00:00")], user_id="ana", session_id="wild")
    lightmem.add("My bird is called Polly.", user_id="bob")
    return lightmem


@pytest.fixture
def retriever(animals):
    return LightMemRetriever(lightmem=animals, user_id="ana")


def names(documents):
    return {document.page_content.split()[-1].rstrip(".") for document in documents}


def test_a_document_tells_where_it_comes_from(retriever, animals):
    found = next(d for d in retriever.invoke("How is my cat called?") if "Miso" in d.page_content)
    assert found.id == animals.get("m1", user_id="ana").id
    assert 0 <= found.metadata["score"] <= 1
    assert {"strategy", "profile"} <= set(found.metadata["parts"])
    rest = {name: value for name, value in found.metadata.items() if name not in ("score", "parts")}
    assert rest == {
        "topic": "cats",
        "timestamp": "2024-05-01T10:00:00+00:00",
        "kind": "turn",
        "role": "user",
        "speaker": "Ana",
        "session_id": "pets",
        "source_ids": ["m1"],
    }
    json.dumps(found.metadata)


OPTIONS = [
    ({"k": 1}, 1),
    ({"session_id": "pets"}, {"Miso", "Rex"}),
    ({"filter": {"topic": "cats"}}, {"Miso"}),
    ({"filter": Filter(session_ids=["wild"])}, {"Kaa"}),
    ({"kinds": ["turn"]}, {"Miso", "Rex", "Kaa"}),
    ({"kinds": ["summary"]}, set()),
    ({"as_of": datetime(2024, 5, 2, 12, tzinfo=timezone.utc)}, {"Miso", "Rex"}),
    ({"score_threshold": 1.0}, 1),
    ({"max_tokens": 1}, set()),
    ({"strategy": "bm25"}, {"Miso", "Rex", "Kaa"}),
    ({"user_id": "bob"}, {"Polly"}),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
@pytest.mark.parametrize("given", ["field", "invoke", "bind", "async"])
async def test_options_work_as_fields_and_when_invoked(animals, options, expected, given):
    fields = {"user_id": "ana"} | (options if given == "field" else {})
    retriever = LightMemRetriever(lightmem=animals, **fields)
    match given:
        case "field":
            found = retriever.invoke(QUESTION)
        case "invoke":
            found = retriever.invoke(QUESTION, None, **options)
        case "bind":
            found = retriever.bind(**options).invoke(QUESTION)
        case "async":
            found = await retriever.ainvoke(QUESTION, None, **options)
    if isinstance(expected, int):
        assert len(found) <= expected
    else:
        assert names(found) == expected


def test_the_budget_is_for_all_texts(animals, retriever):
    count = budget_counter().count
    two = sum(sorted(count(entry.memory) for entry in animals.list(user_id="ana"))[:2])
    found = retriever.invoke(QUESTION, max_tokens=two)
    assert 1 <= len(found) <= 2
    assert sum(count(document.page_content) for document in found) <= two


@pytest.mark.parametrize("options", [{"top_k": 3}, {"user": "bob"}, {"filters": {}}])
def test_unknown_options_are_refused(retriever, animals, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        retriever.invoke(QUESTION, **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        LightMemRetriever(lightmem=animals, user_id="ana", **options)


@pytest.mark.parametrize("options", [{"k": 0}, {"max_tokens": 0}, {"score_threshold": 2}, {"strategy": "best"}])
def test_options_out_of_range_are_refused(retriever, animals, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        retriever.invoke(QUESTION, **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        LightMemRetriever(lightmem=animals, user_id="ana", **options)


def test_a_dict_is_metadata_whatever_its_keys(lightmem):
    lightmem.add({"role": "user", "content": "The red cat.", "metadata": {"kinds": ["a"]}}, user_id="ana")
    for given in ({"kinds": ["a"]}, {"kinds": ["b"]}):
        found = LightMemRetriever(lightmem=lightmem, user_id="ana", filter=given).invoke("cat")
        assert len(found) == (given["kinds"] == ["a"])


def test_a_condition_is_given_once(retriever):
    with pytest.raises(UsageError, match="kinds"):
        retriever.invoke(QUESTION, filter=Filter(kinds=("turn",)), kinds=("turn",))


def test_there_is_no_answer_without_a_user(animals):
    with pytest.raises(UsageError, match="user_id"):
        LightMemRetriever(lightmem=animals).invoke(QUESTION)


def test_the_user_can_be_configured(animals):
    retriever = LightMemRetriever(lightmem=animals).configurable_fields(user_id=ConfigurableField(id="user_id"))
    for user, expected in (("ana", {"Miso", "Rex", "Kaa"}), ("bob", {"Polly"})):
        assert names(retriever.invoke(QUESTION, {"configurable": {"user_id": user}})) == expected
    with pytest.raises(UsageError, match="user_id"):
        retriever.invoke(QUESTION)


def test_hostile_ids_see_nothing_of_others(animals, retriever, hostile_id):
    assert retriever.invoke(QUESTION, user_id=hostile_id) == []
    assert LightMemRetriever(lightmem=animals, user_id=hostile_id).invoke(QUESTION) == []


async def test_sync_and_async_agree(retriever):
    assert retriever.invoke(QUESTION) == await retriever.ainvoke(QUESTION)
    assert retriever.batch([QUESTION] * 2) == await retriever.abatch([QUESTION] * 2)


def test_in_a_rag_chain(retriever, scripted):
    model = scripted("Miso.")
    prompt = ChatPromptTemplate.from_template("{memories}\n\n{question}")
    chain = {"memories": retriever, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()
    assert chain.invoke(QUESTION) == "Miso."
    assert "My cat is called Miso." in model.prompts[0]


def test_as_a_tool(retriever):
    tool = create_retriever_tool(retriever, "memories", "What the user said.")
    assert "Miso" in tool.invoke({"query": QUESTION})
    assert set(tool.args) == {"query"}


class Seen(BaseCallbackHandler):
    def __init__(self):
        self.started, self.ended, self.failed = [], [], []

    def on_retriever_start(self, serialized, query, **told):
        self.started.append(told)

    def on_retriever_end(self, documents, **told):
        self.ended.append(documents)

    def on_retriever_error(self, error, **told):
        self.failed.append(error)


def test_callbacks_see_documents_and_errors(animals, retriever):
    seen = Seen()
    found = retriever.invoke(QUESTION, {"callbacks": [seen]})
    assert seen.ended == [found]
    told = seen.started[0]["metadata"]
    assert told["ls_retriever_name"] == "lightmem"
    assert told["ls_vector_store_provider"] == "lightmem"
    assert told["ls_embedding_model"] == "hash"
    animals.close()
    with pytest.raises(ClosedError):
        retriever.invoke("Something else?", {"callbacks": [seen]})
    assert isinstance(seen.failed[0], ClosedError)


def test_the_engine_stays_out_of_dumps(retriever):
    assert "lightmem" not in retriever.model_dump()
    assert "LightMem(" not in repr(retriever)


def test_documents_are_langchain_documents(retriever):
    assert all(type(document) is Document for document in retriever.invoke(QUESTION))
