"""``LightMemMemory`` in every chain that takes a memory, sync and async, with the engine up and down."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import ExitStack, closing

import pytest

from lightmem_integrations import LightMem, UsageError
from lightmem_integrations.errors import ClosedError, StorageBusyError
from lightmem_integrations.stores.sql import dialect
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.testing import HashEmbedder

pytest.importorskip("langchain_core")
try:
    from langchain_classic.agents import AgentExecutor, create_react_agent
    from langchain_classic.chains import ConversationalRetrievalChain, ConversationChain, LLMChain, RetrievalQA
except ModuleNotFoundError:
    pytest.importorskip("langchain.chains", reason="needs langchain-classic or LangChain 0.3")
    from langchain.agents import AgentExecutor, create_react_agent
    from langchain.chains import ConversationalRetrievalChain, ConversationChain, LLMChain, RetrievalQA

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.tools import tool

from lightmem_integrations._adapters import MAX_WAITING
from lightmem_integrations.langchain import LightMemMemory, LightMemRetriever

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")


@pytest.fixture
def memory(lightmem):
    return LightMemMemory(lightmem=lightmem, user_id="ana", session_id="s1")


@pytest.fixture(params=["sync", "async"])
def invoke(request):
    """Invokes a chain one way or the other."""
    if request.param == "sync":
        return lambda chain, inputs: chain.invoke(inputs)
    return lambda chain, inputs: asyncio.run(chain.ainvoke(inputs))


def stored(lightmem, user_id="ana", session_id=None):
    return [(entry.role, entry.memory) for entry in lightmem.list(user_id=user_id, session_id=session_id)]


def fence_of(text):
    return text[text.index("<memory>") : text.index("</memory>")]


# --------------------------------------------------------------------------------------- chains
def test_conversation_chain(lightmem, memory, scripted, invoke):
    model = scripted("Noted.", "In Lisbon.")
    chain = ConversationChain(llm=model, memory=memory)
    invoke(chain, {"input": "My sister Noor moved to Lisbon."})
    answer = invoke(chain, {"input": "Where does Noor live?"})
    assert answer["response"] == "In Lisbon."
    assert "My sister Noor moved to Lisbon." in fence_of(model.prompts[1])
    assert stored(lightmem, session_id="s1") == [
        ("user", "My sister Noor moved to Lisbon."),
        ("assistant", "Noted."),
        ("user", "Where does Noor live?"),
        ("assistant", "In Lisbon."),
    ]


def test_stored_text_is_plain(lightmem, memory, scripted):
    """LangChain hands out a subclass of ``str``; the database and JSON get none of it."""
    ConversationChain(llm=scripted("Noted."), memory=memory).invoke({"input": "My cat is called Miso."})
    assert all(type(text) is str for _, text in stored(lightmem))


def test_llm_chain_with_several_inputs(lightmem, memory, scripted, invoke):
    model = scripted("Bonjour.")
    prompt = PromptTemplate.from_template("{history}\nIn {language}: {question}")
    chain = LLMChain(llm=model, prompt=prompt, memory=memory)
    invoke(chain, {"question": "How do I greet Noor?", "language": "French"})
    assert stored(lightmem) == [("user", "How do I greet Noor?"), ("assistant", "Bonjour.")]


def test_retrieval_qa_with_sources(lightmem, memory, scripted, invoke):
    lightmem.add("The office closes at six.", user_id="docs")
    chain = RetrievalQA.from_chain_type(
        scripted("At six."),
        retriever=LightMemRetriever(lightmem=lightmem, user_id="docs"),
        memory=memory,
        return_source_documents=True,
    )
    answer = invoke(chain, {"query": "When does the office close?"})
    assert answer["result"] == "At six."
    assert len(answer["source_documents"]) == 1
    assert stored(lightmem) == [("user", "When does the office close?"), ("assistant", "At six.")]


def test_conversational_retrieval_chain(lightmem, scripted, invoke):
    lightmem.add("The office closes at six.", user_id="docs")
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", memory_key="chat_history", return_messages=True)
    chain = ConversationalRetrievalChain.from_llm(
        scripted("At six."), retriever=LightMemRetriever(lightmem=lightmem, user_id="docs"), memory=memory
    )
    assert invoke(chain, {"question": "When does the office close?"})["answer"] == "At six."
    assert invoke(chain, {"question": "And when does the office open?"})["answer"] == "At six."
    assert [role for role, _ in stored(lightmem)] == ["user", "assistant"] * 2


def test_agent_executor(lightmem, scripted, invoke):
    @tool
    def clock(city: str) -> str:
        """Tells the time."""
        return "noon"

    prompt = PromptTemplate.from_template(
        "{tools} {tool_names}\n{chat_history}\nQuestion: {input}\nThought: {agent_scratchpad}"
    )
    model = scripted("I look.\nAction: clock\nAction Input: Lisbon", "I know.\nFinal Answer: It is noon.")
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", memory_key="chat_history")
    agent = AgentExecutor(
        agent=create_react_agent(model, [clock], prompt), tools=[clock], memory=memory, return_intermediate_steps=True
    )
    answer = invoke(agent, {"input": "What time is it in Lisbon?"})
    assert len(answer["intermediate_steps"]) == 1
    assert stored(lightmem) == [("user", "What time is it in Lisbon?"), ("assistant", "It is noon.")]


def test_stream_and_batch(lightmem, memory, scripted):
    chain = ConversationChain(llm=scripted("Noted."), memory=memory)
    assert [chunk["response"] for chunk in chain.stream({"input": "My cat is called Miso."})] == ["Noted."]
    chain.batch([{"input": f"My friend number {n} is called F{n}."} for n in range(8)])
    assert len(stored(lightmem)) == 18


def test_messages_placeholder(lightmem, scripted):
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", return_messages=True, recent_turns=2)
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{input}")])
    model = scripted("Noted.")
    LLMChain(llm=model, prompt=prompt, memory=memory).invoke({"input": "My cat is called Miso."})
    lightmem.add("My dog is called Rex.", user_id="ana", session_id="earlier")
    shown = memory.load_memory_variables({"input": "How are my cat and dog called?"})["history"]
    assert [type(message) for message in shown] == [SystemMessage, HumanMessage, AIMessage]
    assert "Rex" in shown[0].content
    assert "Miso" not in shown[0].content, "what is shown as a recent turn is not recalled a second time"


# --------------------------------------------------------------------------------------- what is shown
def test_recent_turns_replace_a_buffer(lightmem):
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", session_id="s1", recent_turns=2, ai_prefix="Bot")
    for n in range(3):
        memory.save_context({"input": f"Question {n}"}, {"output": f"Answer {n}"})
    lightmem.add("Something else", user_id="ana", session_id="s2")
    assert memory.load_memory_variables({})["history"] == "Human: Question 2\nBot: Answer 2"


def test_recall_reaches_other_sessions_of_the_user(lightmem, memory):
    lightmem.add("My cat is called Miso.", user_id="ana", session_id="s0")
    assert "Miso" in memory.load_memory_variables({"input": "What is my cat called?"})["history"]


def test_nothing_asked_recalls_nothing(memory):
    memory.save_context({"input": "My cat is called Miso."}, {"output": "Noted."})
    assert memory.load_memory_variables({}) == {"history": ""}
    assert memory.load_memory_variables({"input": "  "}) == {"history": ""}


def test_results_are_fresh(lightmem):
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", return_messages=True, recent_turns=4)
    memory.save_context({"input": "Hello"}, {"output": "Hi"})
    first = memory.load_memory_variables({})["history"]
    first.clear()
    assert len(memory.load_memory_variables({})["history"]) == 2


def test_budget_holds(lightmem):
    for n in range(30):
        lightmem.add(f"Remark {n} about the garden and its many flowers.", user_id="ana")
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", max_tokens=120)
    text = memory.load_memory_variables({"input": "What about the garden?"})["history"]
    assert 1 <= text.count("Remark") <= 8
    assert lightmem.context("What about the garden?", user_id="ana", max_tokens=120).tokens <= 120


def test_recall_past_recent_turns_keeps_the_budget(lightmem):
    for n in range(30):
        lightmem.add(f"Remark {n} about the garden and its many flowers.", user_id="ana", session_id="s1")
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", session_id="s1", max_tokens=120, recent_turns=1)
    text = memory.load_memory_variables({"input": "What about the garden?"})["history"]
    fence, _, recent = text.rpartition("</memory>")
    assert 1 <= fence.count("Remark") <= 8
    assert recent.strip() == "Human: Remark 29 about the garden and its many flowers."
    assert "Remark 29" not in fence


def test_filters_by_metadata(lightmem):
    lightmem.add({"role": "user", "content": "The cat is red.", "metadata": {"project": "a"}}, user_id="ana")
    lightmem.add({"role": "user", "content": "The cat is blue.", "metadata": {"project": "b"}}, user_id="ana")
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", filters={"project": "b"})
    text = memory.load_memory_variables({"input": "What colour is the cat?"})["history"]
    assert "blue" in text
    assert "red" not in text


# --------------------------------------------------------------------------------------- keys
@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"anything": "A"}, "A"),
        ({"input": "A", "context": "B"}, "A"),
        ({"question": "A", "chat_history": ["B"], "history": "C", "stop": ["D"]}, "A"),
        ({"custom": "A", "history": "B", "agent_scratchpad": "C"}, "A"),
        ({"input": HumanMessage("A")}, "A"),
        ({"input": [HumanMessage("A"), HumanMessage([{"type": "text", "text": "B"}])]}, "A\nB"),
    ],
)
def test_input_key_is_found(lightmem, memory, inputs, said):
    memory.save_context(inputs, {"output": "Z"})
    assert stored(lightmem)[0] == ("user", said)


def test_keys_can_be_named(lightmem):
    memory = LightMemMemory(lightmem=lightmem, user_id="ana", input_key="b", output_key="d")
    memory.save_context({"a": "A", "b": "B"}, {"c": "C", "d": "D"})
    assert stored(lightmem) == [("user", "B"), ("assistant", "D")]


def test_unclear_inputs_are_told_before_the_model_is_asked(memory, scripted):
    with pytest.raises(UsageError, match=r"input_key.*\['a', 'b'\]"):
        memory.load_memory_variables({"a": "A", "b": "B"})


def test_an_unclear_output_costs_no_answer(lightmem, memory, caplog):
    memory.save_context({"input": "A"}, {"a": "A", "b": "B"})
    assert memory.failures.dropped == 1
    assert "output_key" in caplog.text
    memory.on_error = "raise"
    with pytest.raises(UsageError, match="output_key"):
        memory.save_context({"input": "A"}, {"a": "A", "b": "B"})


# --------------------------------------------------------------------------------------- forgetting
def test_clear_forgets_the_session_only(lightmem, memory):
    memory.save_context({"input": "My cat is called Miso."}, {"output": "Noted."})
    lightmem.add("My dog is called Rex.", user_id="ana", session_id="s2")
    lightmem.add("My cat is called Tom.", user_id="bob", session_id="s1")
    memory.clear()
    assert stored(lightmem) == [("user", "My dog is called Rex.")]
    assert len(stored(lightmem, "bob")) == 1


def test_clear_scope_user_forgets_the_user(lightmem):
    lightmem.add("My dog is called Rex.", user_id="ana", session_id="s2")
    lightmem.add("My cat is called Tom.", user_id="bob")
    LightMemMemory(lightmem=lightmem, user_id="ana", clear_scope="user").clear()
    assert stored(lightmem) == []
    assert len(stored(lightmem, "bob")) == 1


# --------------------------------------------------------------------------------------- failing open
def locked(path):
    """Another process writes, and does not finish."""
    other = ExitStack()
    connection = other.enter_context(other.enter_context(closing(SqlStore(path))).writing(None))
    dialect.keep_writers_out(connection)
    return other


@pytest.fixture
def hasty(impatient):
    return LightMemMemory(lightmem=impatient, user_id="ana", session_id="s1")


def test_turns_wait_while_the_database_is_locked(path, impatient, hasty, scripted, invoke, caplog):
    chain = ConversationChain(llm=scripted("Noted.", "Fine.", "Sure."), memory=hasty)
    other = locked(path)
    assert invoke(chain, {"input": "My cat is called Miso."})["response"] == "Noted."
    assert invoke(chain, {"input": "My dog is called Rex."})["response"] == "Fine."
    assert (hasty.failures.waiting, hasty.failures.records) == (2, 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "Miso" not in caplog.text, "what users say is not logged"
    other.close()
    assert invoke(chain, {"input": "How are you?"})["response"] == "Sure."
    assert hasty.failures.waiting == 0
    assert [text for _, text in stored(impatient)] == [
        *("My cat is called Miso.", "Noted.", "My dog is called Rex.", "Fine.", "How are you?", "Sure.")
    ]


def test_the_turn_of_another_user_is_carried_along(path, impatient):
    ana, bob = (LightMemMemory(lightmem=impatient, user_id=user) for user in ("ana", "bob"))
    other = locked(path)
    ana.save_context({"input": "My cat is called Miso."}, {"output": "Noted."})
    other.close()
    bob.save_context({"input": "Hello"}, {"output": "Hi"})
    assert [text for _, text in stored(impatient, "ana")] == ["My cat is called Miso.", "Noted."]
    assert [text for _, text in stored(impatient, "bob")] == ["Hello", "Hi"]
    assert ana.failures is bob.failures


def test_what_waits_is_bounded_and_the_loss_is_counted(lightmem, memory, caplog):
    lightmem.close()
    for n in range(MAX_WAITING + 5):
        memory.session_id = f"s{n % 3}"
        memory.save_context({"input": "A"}, {"output": "B"})
    assert (memory.failures.waiting, memory.failures.dropped) == (MAX_WAITING, 5)
    assert "dropped" in caplog.text


def test_raising_on_demand(path, impatient):
    memory = LightMemMemory(lightmem=impatient, user_id="ana", on_error="raise")
    other = locked(path)
    with pytest.raises(StorageBusyError):
        memory.save_context({"input": "A"}, {"output": "B"})
    other.close()
    assert memory.failures.waiting == 0
    impatient.close()
    with pytest.raises(ClosedError):
        memory.load_memory_variables({"input": "A"})


def test_a_closed_engine_costs_no_answer(lightmem, memory, scripted, invoke):
    lightmem.close()
    chain = ConversationChain(llm=scripted("Noted."), memory=memory)
    assert invoke(chain, {"input": "My cat is called Miso."})["response"] == "Noted."
    assert (memory.failures.recalls, memory.failures.waiting) == (1, 1)


class Breaking(HashEmbedder):
    """Fails from the moment that ``broken`` holds an error."""

    broken = None

    def load(self):
        if self.broken:
            raise self.broken


def test_recent_turns_survive_a_broken_embedder(path):
    embedder = Breaking()
    with LightMem(path, embedder=embedder) as lightmem:
        memory = LightMemMemory(lightmem=lightmem, user_id="ana", recent_turns=2)
        memory.save_context({"input": "I am in Lisbon."}, {"output": "Noted."})
        embedder.broken = ValueError("no more")
        assert memory.load_memory_variables({"input": "Where am I?"}) == {
            "history": "Human: I am in Lisbon.\nAI: Noted."
        }
        assert memory.failures.recalls == 1


def test_errors_that_quote_the_user_are_not_logged(path, caplog):
    embedder = Breaking()
    with LightMem(path, embedder=embedder) as lightmem:
        memory = LightMemMemory(lightmem=lightmem, user_id="ana")
        embedder.broken = ValueError("cannot read 'My PIN is 1234.'")
        assert memory.load_memory_variables({"input": "My PIN is 1234."}) == {"history": ""}
    assert "EmbedderError" in caplog.text
    assert "1234" not in caplog.text


def test_clearing_drops_what_waits(path, impatient, hasty):
    other = locked(path)
    hasty.save_context({"input": "My cat is called Miso."}, {"output": "Noted."})
    other.close()
    hasty.clear()
    hasty.save_context({"input": "Hello"}, {"output": "Hi"})
    assert [text for _, text in stored(impatient)] == ["Hello", "Hi"]


def test_a_clear_that_fails_is_told(path, hasty):
    other = locked(path)
    with pytest.raises(StorageBusyError):
        hasty.clear()
    other.close()


def test_a_failed_model_call_records_nothing(lightmem, memory, scripted):
    chain = ConversationChain(llm=scripted(), memory=memory)
    with pytest.raises(ZeroDivisionError):
        chain.invoke({"input": "My cat is called Miso."})
    assert stored(lightmem) == []


async def test_a_cancelled_write_is_written_once(path, impatient, hasty):
    other = locked(path)
    write = asyncio.ensure_future(hasty.asave_context({"input": "My cat is called Miso."}, {"output": "Noted."}))
    await asyncio.sleep(0)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    other.close()
    await hasty.asave_context({"input": "Hello"}, {"output": "Hi"})
    assert [text for _, text in stored(impatient)] == ["My cat is called Miso.", "Noted.", "Hello", "Hi"]
    assert hasty.failures.waiting == 0


# --------------------------------------------------------------------------------------- never again
def test_recalled_text_is_not_remembered_again(lightmem, memory):
    memory.save_context({"input": "My sister Noor moved to Lisbon."}, {"output": "Good for her!"})
    recalled = memory.load_memory_variables({"input": "Where does Noor live?"})["history"]
    before = stored(lightmem)
    memory.save_context({"input": f"{recalled}\nWhere does Noor live?"}, {"output": recalled})
    assert stored(lightmem) == [*before, ("user", "Where does Noor live?")]


def test_recalled_lines_without_their_fence_are_known(lightmem, memory):
    memory.save_context({"input": "My sister Noor moved to Lisbon."}, {"output": "Good for her!"})
    lines = memory.load_memory_variables({"input": "Where does Noor live?"})["history"].splitlines()
    pasted = "\n".join(line for line in lines if line.startswith(("[", "- ")))
    memory.save_context({"input": f"You told me:\n{pasted}\n- 12:30 Lunch: soup\nIs it true?"}, {"output": "Yes."})
    assert stored(lightmem)[2] == ("user", "You told me:\n- 12:30 Lunch: soup\nIs it true?")


# --------------------------------------------------------------------------------------- isolation, parity
def test_hostile_ids_see_nothing_of_others(lightmem, memory, hostile_id):
    memory.save_context({"input": "My secret word is xylophone."}, {"output": "Noted."})
    other = LightMemMemory(lightmem=lightmem, user_id=hostile_id, session_id="s1", recent_turns=10)
    assert other.load_memory_variables({"input": "What is the secret word?"}) == {"history": ""}
    other.save_context({"input": "Mine is different."}, {"output": "Noted."})
    other.clear()
    assert len(stored(lightmem)) == 2


@pytest.mark.parametrize("user_id", ["", "  ", "a" * 256, "a\0b", None, 7])
def test_there_is_no_memory_without_a_user(lightmem, user_id):
    with pytest.raises(ValueError, match="user_id"):
        LightMemMemory(lightmem=lightmem, user_id=user_id)
    with pytest.raises(ValueError, match="user_id"):
        LightMemMemory(lightmem=lightmem)


async def test_sync_and_async_agree(tmp_path):
    shown = []
    for name in ("sync", "async"):
        with LightMem(tmp_path / f"{name}.db", embedder=HashEmbedder()) as lightmem:
            memory = LightMemMemory(lightmem=lightmem, user_id="ana", recent_turns=2)
            for n in range(4):
                exchange = {"input": f"My friend {n} is called F{n}."}, {"output": f"Noted, F{n}."}
                if name == "sync":
                    memory.save_context(*exchange)
                else:
                    await memory.asave_context(*exchange)
            asked = {"input": "How is friend 1 called?"}
            if name == "sync":
                text = memory.load_memory_variables(asked)["history"]
                memory.clear()
            else:
                text = (await memory.aload_memory_variables(asked))["history"]
                await memory.aclear()
            shown.append(([line[8:] for line in text.splitlines()], stored(lightmem)))
    assert shown[0] == shown[1]
    assert len(shown[0][0]) > 4


async def test_fifty_users_at_once(lightmem):
    async def talk(n):
        memory = LightMemMemory(lightmem=lightmem, user_id=f"user {n}")
        await memory.asave_context({"input": f"My number is {n}."}, {"output": "Noted."})
        return (await memory.aload_memory_variables({"input": "What is my number?"}))["history"]

    told = await asyncio.gather(*(talk(n) for n in range(50)))
    assert all([f"number is {m}." in text for m in range(50)].count(True) == 1 for text in told)
    assert all(f"number is {n}." in text for n, text in enumerate(told))


def test_the_engine_stays_out_of_dumps(memory):
    assert "lightmem" not in memory.model_dump()
    assert "LightMem(" not in repr(memory)
    json.dumps(memory.model_dump())


def test_a_wrong_field_is_refused(lightmem):
    with pytest.raises(ValueError, match="sesion_id"):
        LightMemMemory(lightmem=lightmem, user_id="ana", sesion_id="s1")
