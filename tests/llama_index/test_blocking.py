"""The async methods leave the event loop alone: no file, lock or database is waited for on it."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_index.core")
pytest.importorskip("blockbuster")

import blockbuster
from llama_index.core.llms import ChatMessage
from llama_index.core.utils import get_tokenizer

from lightmem_integrations.core import tokens
from lightmem_integrations.llama_index import LightMemMemory, LightMemRetriever, lightmem_tools


@pytest.fixture
def guarded():
    """Raises where something blocks the loop; what the engine loads once is not loaded yet."""
    get_tokenizer()("LlamaIndex reads its vocabulary where it happens to need it.")
    tokens.budget_counter.cache_clear()
    tokens.wordpiece.cache_clear()
    with blockbuster.blockbuster_ctx() as guard:
        yield guard


async def test_the_guard_notices(tmp_path, guarded):
    with pytest.raises(blockbuster.BlockingError):
        tmp_path.exists()


async def test_memory(lightmem, guarded):
    guarded.deactivate()
    memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana")
    guarded.activate()
    await lightmem.aadd("My cat is called Miso.", user_id="ana")
    await memory.aput(ChatMessage(role="user", content="What is my cat called?"))
    assert "Miso" in (await memory.aget())[-1].content
    await memory.aput_messages([ChatMessage(role="assistant", content="Miso.")])
    await memory.aset(await memory.aget_all())
    await memory.areset()
    assert await memory.aflush()


async def test_retriever(lightmem, guarded):
    await lightmem.aadd("My cat is called Miso.", user_id="ana")
    assert await LightMemRetriever(lightmem, "ana").aretrieve("What is my cat called?")


async def test_tools(lightmem, guarded):
    search, save, forget = lightmem_tools(lightmem, "ana", forget=True)
    await save.acall(text="The cat is called Miso.")
    found = str(await search.acall(query="What is the cat called?"))
    line = next(line for line in found.splitlines() if "Miso" in line)
    assert str(await forget.acall(line=line)) == "Forgotten."
