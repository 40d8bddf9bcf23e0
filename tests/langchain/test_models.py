"""LangChain's embeddings and chat models as the engine's own."""

from __future__ import annotations

import pytest

from lightmem_integrations import Embedder, LightMem, UsageError
from lightmem_integrations.core.ports import LLM
from lightmem_integrations.errors import EmbedderError, EmbedderMismatchError

pytest.importorskip("langchain_core")

from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from lightmem_integrations.langchain import LangChainEmbedder, langchain_llm
from lightmem_integrations.testing import HashEmbedder


class Words(Embeddings):
    """Texts that share words are near each other; questions are told from texts."""

    def __init__(self, model="words-1"):
        self.model, self.asked = model, []

    def embed_documents(self, texts):
        return [[float(x) for x in row] for row in HashEmbedder(dim=32).embed(texts)]

    def embed_query(self, text):
        self.asked.append(text)
        return self.embed_documents([text])[0]


def test_the_engine_ranks_by_any_embeddings(path):
    embeddings = Words()
    with LightMem(path, embedder=LangChainEmbedder(embeddings)) as memory:
        memory.add(["My cat is called Miso.", "The weather is fine."], user_id="ana")
        found = memory.search("How is my cat called?", user_id="ana", strategy="dense")
        assert found[0].entry.memory == "My cat is called Miso."
        assert memory.get(found[0].entry.id, user_id="ana").embedding.shape == (32,)
        assert memory.stats()["pending"] == 0
    assert embeddings.asked == ["How is my cat called?"]


def test_a_database_remembers_the_model(path):
    with LightMem(path, embedder=LangChainEmbedder(Words())) as memory:
        memory.add("My cat is called Miso.", user_id="ana")
    LightMem(path, embedder=LangChainEmbedder(Words())).close()
    with pytest.raises(EmbedderMismatchError, match="words-2"):
        LightMem(path, embedder=LangChainEmbedder(Words("words-2")))


def test_names():
    assert LangChainEmbedder(Words()).name == "langchain/Words/words-1"
    assert LangChainEmbedder(DeterministicFakeEmbedding(size=4)).name == "langchain/DeterministicFakeEmbedding"
    assert LangChainEmbedder(Words(), name="mine").name == "mine"
    assert isinstance(LangChainEmbedder(Words()), Embedder)


@pytest.mark.parametrize("given", [None, 7, Words])
def test_what_is_no_embeddings_is_refused(given):
    with pytest.raises(UsageError, match="embeddings"):
        LangChainEmbedder(given)


def test_a_failing_model_leaves_turns_pending(path):
    class Down(Words):
        def embed_documents(self, texts):
            raise ConnectionError("no route")

    with LightMem(path, embedder=LangChainEmbedder(Down())) as memory:
        assert memory.add("My cat is called Miso.", user_id="ana").pending == 1
        with pytest.raises(EmbedderError, match="no route"):
            memory.flush()


def test_a_chat_model_as_language_model(scripted):
    model = scripted("Lisbon.")
    llm = langchain_llm(model)
    assert isinstance(llm, LLM)
    assert llm.complete("Be brief.", "Where is Noor?", purpose="update").text == "Lisbon."


async def test_tokens_of_inner_calls_stay_out_of_the_stream(scripted):
    """A model that the engine asks inside an agent's hook is not heard by the user."""
    pytest.importorskip("langchain.agents.middleware")
    from langchain.agents import create_agent
    from langchain.agents.middleware import after_agent

    llm = langchain_llm(scripted("inner words"))

    @after_agent
    def reflect(state, runtime):
        llm.complete("Be brief.", "What was said?", purpose="summarize")

    agent = create_agent(scripted("outer words"), middleware=[reflect])
    asked = {"messages": [("human", "Hello")]}
    heard = [chunk.content for chunk, _ in agent.stream(asked, stream_mode="messages")]
    assert heard == ["outer words"]
    assert [chunk.content async for chunk, _ in agent.astream(asked, stream_mode="messages")] == ["outer words"]


def test_model_strings_go_to_langchain():
    pytest.importorskip("langchain.chat_models")
    with pytest.raises(ValueError, match="nowhere"):
        langchain_llm("nowhere:model")
    with pytest.raises(ValueError, match="nowhere"):
        LangChainEmbedder("nowhere:model")
