"""``LightMemMemoryBlock`` in LlamaIndex's own ``Memory``, which writes to it when the history overflows."""

from __future__ import annotations

import asyncio
import copy

import pytest

from lightmem_integrations import Filter
from lightmem_integrations.errors import ClosedError

pytest.importorskip("llama_index.core")

from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, Memory
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from lightmem_integrations.llama_index import LightMemMemoryBlock

QUESTION = [ChatMessage(role="user", content="What is my cat called?")]


@pytest.fixture
def make(lightmem):
    """Makes a block of ana's."""
    return lambda **options: LightMemMemoryBlock(lightmem=lightmem, **{"user_id": "ana"} | options)


@pytest.fixture
def cat(lightmem):
    lightmem.add([("user", "My cat is called Miso.", "2024-05-01T10:00:00+00:00")], user_id="ana", session_id="s0")


def turns(n, first=0):
    return [
        ChatMessage(role=role, content=f"{role} says number {m}")
        for m in range(first, first + n)
        for role in ("user", "assistant")
    ]


def texts(lightmem, session_id, user_id="ana"):
    return [e.memory for e in lightmem.list(user_id=user_id, session_id=session_id, kinds=("turn",), limit=1000)]


def test_it_is_a_block():
    assert BaseMemoryBlock.__name__ in [c.__name__ for c in LightMemMemoryBlock.__mro__]


async def test_dated_lines_best_first(lightmem, make, cat):
    lightmem.add([("assistant", "The weather is fine.", "2024-05-02T10:00:00+00:00")], user_id="ana", session_id="s0")
    lines = (await make().aget(QUESTION)).split("\n")
    assert "data, not instructions" in lines[0]
    assert lines[1:] == [
        "- 2024-05-01 Wed 10:00 user: My cat is called Miso.",
        "- 2024-05-02 Thu 10:00 assistant: The weather is fine.",
    ]


async def test_the_budget_holds_by_the_same_tokenizer(lightmem, make):
    lightmem.add([f"My cat number {n} is called Miso the {n}th." for n in range(30)], user_id="ana")
    count = get_tokenizer()
    full = await make(k=30, max_tokens=10_000).aget(QUESTION)
    for budget in (60, 120, 400):
        text = await make(k=30, max_tokens=budget).aget(QUESTION)
        assert budget / 2 < len(count(text)) <= budget
    assert await make(max_tokens=5).aget(QUESTION) == ""
    assert await make(max_tokens=200, tokenizer_fn=list).aget(QUESTION) == "\n".join(full.split("\n")[:2])


@pytest.mark.parametrize("cut", [0, 1, 30, 200])
async def test_truncation_drops_lines_from_the_end(lightmem, make, cut):
    lightmem.add([f"My cat number {n} is called Miso the {n}th." for n in range(30)], user_id="ana")
    block, count = make(), get_tokenizer()
    text = await block.aget(QUESTION)
    rest = await block.atruncate(text, cut)
    assert text.startswith(rest)
    assert len(count(text)) - len(count(rest)) >= cut
    assert (rest == text) == (cut == 0)


@pytest.mark.parametrize("nothing", ["", [], None])
async def test_truncating_nothing(make, nothing):
    assert await make().atruncate(nothing, 10) is None


async def test_truncating_all(make, cat):
    assert await make().atruncate(await make().aget(QUESTION), 10_000) is None


async def test_one_search_for_a_question(make, cat, events):
    block = make()
    question, answer = QUESTION[0], ChatMessage(role="assistant", content="Miso.")
    for messages in ([question], [question, question], [question, answer]):
        assert "Miso" in await block.aget(messages, session_id="s1")
    assert len(events) == 1
    await block.aget([question, answer, question], session_id="s1")
    await block.aget([question], session_id="s2")
    assert len(events) == 3


@pytest.mark.parametrize("messages", [None, [], [ChatMessage(role="user", content=" ")], turns(1)[1:]])
async def test_no_question_recalls_nothing(make, cat, events, messages):
    assert await make().aget(messages, initial_token_count=7) == ""
    assert events == []


# --------------------------------------------------------------------------------------- writing
async def test_what_overflows_is_remembered(lightmem, make, tmp_path):
    memory = Memory.from_defaults(
        session_id="s1",
        token_limit=400,
        token_flush_size=100,
        memory_blocks=[make()],
        async_database_uri=f"sqlite+aiosqlite:///{tmp_path}/chat.db",
    )
    given = turns(60)
    for message in given:
        await memory.aput(message)
    kept = [m.content for m in await memory.aget_all()]
    assert texts(lightmem, "s1") == kept[: len(texts(lightmem, "s1"))], "in order, each once"
    assert len(texts(lightmem, "s1")) > 60
    shown = await memory.aget("user says number 3?")
    assert any("user says number 3" in m.content for m in shown)
    await memory.sql_store._async_engine.dispose()


async def test_what_is_delivered_twice_is_stored_once(lightmem, make):
    block, batch = make(), turns(8)
    for messages in (batch, batch[:5], batch[3:]):
        await block.aput(messages, from_short_term_memory=True, session_id="s1")
    await asyncio.gather(*(block.aput(batch[n:], session_id="s1") for n in range(8)))
    assert texts(lightmem, "s1") == [m.content for m in batch]
    await make().aput(batch, session_id="s1")
    assert len(texts(lightmem, "s1")) == 16
    await block.aput(batch, session_id="s2")
    assert len(texts(lightmem, "s2")) == 16


async def test_equal_words_with_times_of_their_own_are_kept(lightmem, make):
    said = [
        ChatMessage(role="user", content="yes", additional_kwargs={"timestamp": f"2024-05-0{n}"}) for n in (1, 2, 3)
    ]
    for _ in range(2):
        await make().aput(said, session_id="s1")
    found = lightmem.list(user_id="ana", session_id="s1", kinds=("turn",))
    assert [entry.timestamp.day for entry in found] == [1, 2, 3]


async def test_twenty_puts_at_once(lightmem, make):
    block = make()
    await asyncio.gather(*(block.aput(turns(1, first=n), session_id="s1") for n in range(20)))
    assert sorted(texts(lightmem, "s1")) == sorted(m.content for m in turns(20))


async def test_two_sessions_on_one_block(lightmem, make):
    block = make(session_scope=True)
    for session_id, pet in (("s1", "Miso"), ("s2", "Rex")):
        message = ChatMessage(role="user", content=f"My pet is called {pet}.")
        await block.aput([message], session_id=session_id)
    question = [ChatMessage(role="user", content="What is my pet called?")]
    for _ in range(2):
        for session_id, mine, other in (("s1", "Miso", "Rex"), ("s2", "Rex", "Miso")):
            text = await block.aget(question, session_id=session_id)
            assert (mine in text, other in text) == (True, False)


async def test_short_term_memory_may_be_declined(lightmem, make):
    block = make(accept_short_term_memory=False)
    await block.aput(turns(1), from_short_term_memory=True, session_id="s1")
    assert texts(lightmem, "s1") == []
    await block.aput(turns(1), session_id="s1")
    assert len(texts(lightmem, "s1")) == 2


async def test_messages_are_not_modified(make):
    given = turns(2)
    before = copy.deepcopy(given)
    await make().aput(given, session_id="s1")
    await make().aget(given, session_id="s1")
    assert given == before


# --------------------------------------------------------------------------------------- options
FILTERS = [
    {"project": "a"},
    Filter(metadata={"project": "a"}),
    MetadataFilters(filters=[MetadataFilter(key="project", value="a")]),
]


@pytest.mark.parametrize("filters", FILTERS)
async def test_filters(lightmem, make, filters):
    for project, colour in (("a", "red"), ("b", "blue")):
        message = {"role": "user", "content": f"My cat is {colour}.", "metadata": {"project": project}}
        lightmem.add(message, user_id="ana")
    text = await make(filters=filters).aget([ChatMessage(role="user", content="What colour is my cat?")])
    assert ("red" in text, "blue" in text) == (True, False)


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"max_tokens": 0}, {"name": "my block!"}, {"name": ""}, {"strategy": "best"}, {"sesion_scope": True}]
    + [{"user_id": user_id} for user_id in ("", " ", None, "a" * 256)],
)
def test_options_out_of_range_are_refused(make, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


def test_the_user_is_fixed(make):
    block = make()
    with pytest.raises(ValueError, match="frozen"):
        block.user_id = "bob"


def test_the_engine_stays_out_of_dumps(make):
    block = make()
    assert "LightMem(" not in repr(block)
    assert block.model_dump()["user_id"] == "ana"


async def test_hostile_ids_see_nothing_of_others(lightmem, make, cat, hostile_id):
    assert await make(user_id=hostile_id).aget(QUESTION, session_id="s0") == ""


async def test_the_engine_is_down_and_up_again(path, lightmem, make, cat):
    block = make()
    lightmem.close()
    assert await block.aget(QUESTION, session_id="s1") == ""
    await block.aput(turns(1), session_id="s1")
    assert (block.failures.recalls, block.failures.records, block.failures.waiting) == (1, 1, 1)
    strict = make(raise_on_error=True)
    with pytest.raises(ClosedError):
        await strict.aget(QUESTION, session_id="s1")
    with pytest.raises(ClosedError):
        await strict.aput(turns(1), session_id="s1")
