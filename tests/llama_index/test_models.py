"""LlamaIndex's embeddings and language models as the engine's own."""

from __future__ import annotations

import pytest

from lightmem_integrations import Embedder, LightMem, UsageError
from lightmem_integrations.core.ports import LLM
from lightmem_integrations.errors import EmbedderError, EmbedderMismatchError

pytest.importorskip("llama_index.core")

from llama_index.core import MockEmbedding
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from pydantic import PrivateAttr

from lightmem_integrations.llama_index import LlamaIndexEmbedder, llama_index_llm
from lightmem_integrations.testing import HashEmbedder


class Words(BaseEmbedding):
    """Texts that share words are near each other; questions are told from texts."""

    _asked: list[str] = PrivateAttr(default_factory=list)

    def _get_text_embedding(self, text):
        return [float(x) for x in HashEmbedder(dim=32).embed([text])[0]]

    def _get_query_embedding(self, query):
        self._asked.append(query)
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


def test_the_engine_ranks_by_any_embeddings(path):
    embeddings = Words(model_name="words-1")
    with LightMem(path, embedder=LlamaIndexEmbedder(embeddings)) as memory:
        memory.add(["My cat is called Miso.", "The weather is fine."], user_id="ana")
        found = memory.search("How is my cat called?", user_id="ana", strategy="dense")
        assert found[0].entry.memory == "My cat is called Miso."
        assert memory.get(found[0].entry.id, user_id="ana").embedding.shape == (32,)
    assert embeddings._asked == ["How is my cat called?"]


def test_a_database_remembers_the_model(path):
    with LightMem(path, embedder=LlamaIndexEmbedder(Words(model_name="words-1"))) as memory:
        memory.add("My cat is called Miso.", user_id="ana")
    LightMem(path, embedder=LlamaIndexEmbedder(Words(model_name="words-1"))).close()
    with pytest.raises(EmbedderMismatchError, match="words-2"):
        LightMem(path, embedder=LlamaIndexEmbedder(Words(model_name="words-2")))


def test_names():
    assert LlamaIndexEmbedder(Words(model_name="words-1")).name == "llama-index/Words/words-1"
    assert LlamaIndexEmbedder(MockEmbedding(embed_dim=4), name="mine").name == "mine"
    assert isinstance(LlamaIndexEmbedder(Words()), Embedder)


@pytest.mark.parametrize("given", [None, 7, Words])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(UsageError, match="embeddings"):
        LlamaIndexEmbedder(given)
    with pytest.raises(UsageError, match="LLM"):
        llama_index_llm(given)


def test_a_failing_model_leaves_turns_pending(path):
    class Down(Words):
        def _get_text_embedding(self, text):
            raise ConnectionError("no route")

    with LightMem(path, embedder=LlamaIndexEmbedder(Down())) as memory:
        assert memory.add("My cat is called Miso.", user_id="ana").pending == 1
        with pytest.raises(EmbedderError, match="no route"):
            memory.flush()


def test_a_chat_model_as_language_model(scripted):
    model = scripted("Lisbon.")
    llm = llama_index_llm(model)
    assert isinstance(llm, LLM)
    assert llm.complete("Be brief.", "Where is Noor?", purpose="update").text == "Lisbon."
    assert model.prompts == [[("system", "Be brief."), ("user", "Where is Noor?")]]


def test_a_completion_model_as_language_model():
    answer = llama_index_llm(MockLLM()).complete("Be brief.", "Where is Noor?", purpose="update").text
    assert "Be brief." in answer
    assert "Where is Noor?" in answer


def test_the_engine_takes_a_model_as_it_is(path, scripted):
    model = scripted('{"facts": []}')
    with LightMem(path, embedder=HashEmbedder(), llm=model) as memory:
        memory.add([("user", "My cat is called Miso."), ("assistant", "Noted.")], user_id="ana")
        memory.flush(user_id="ana")
    assert "Miso" in str(model.prompts)
