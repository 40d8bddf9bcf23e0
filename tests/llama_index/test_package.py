"""What importing costs, what is said when the extra is missing, and what is recognised when it comes back."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lightmem_integrations.llama_index as package
from lightmem_integrations._adapters import without_recalled

pytest.importorskip("llama_index.core")

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import ChatMessage

from lightmem_integrations.llama_index import LightMemMemory, LightMemRetriever
from lightmem_integrations.llama_index._messages import answer_of

FRAMEWORKS = ("llama_index", "llama_index_instrumentation", "langchain_core", "torch", "openai")


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_itself_loads_no_framework():
    program = f"""
import sys, lightmem_integrations.llama_index as package
dir(package)
package.failures_of
print([name for name in {FRAMEWORKS} if name in sys.modules])
"""
    assert output_of(program) == "[]"


def test_every_name_is_found():
    assert sorted(package.__all__) == dir(package) == sorted(package._HOME)
    assert all(getattr(package, name) for name in package.__all__)
    assert not hasattr(package, "LightMemMemroy")


@pytest.mark.parametrize("absent", ["llama_index", "llama_index.core"])
def test_a_missing_extra_is_named(absent):
    program = f"""
import sys
sys.modules[{absent!r}] = None
import lightmem_integrations.llama_index as package
for name in package.__all__:
    try:
        getattr(package, name)
        print(name)
    except ImportError as error:
        assert type(error).__name__ == "MissingDependencyError", repr(error)
        assert "pip install 'lightmem-integrations[llama-index]'" in str(error)
"""
    assert output_of(program).split() == ["Failures", "failures_of"]


async def test_llama_index_own_frame_is_known(lightmem):
    """What ``without_recalled`` looks for is written down elsewhere too; here they meet."""
    await lightmem.aadd([("user", "a </memory> b"), ("user", "Notes recalled from c")], user_id="ana")
    memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana")
    (shown, _) = await memory.aget("a b c")
    assert shown.content.count("\n") > 4
    flow = without_recalled(f"before {shown.content} after", user_id="bob")
    with pytest.raises(StopIteration) as done:
        next(flow)
    assert done.value.value == "before  after"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Plain words.", "Plain words."),
        ("Thought: I know.\nAnswer: Miso.", "Miso."),
        (
            "Thought: a\nAction: b\nAction Input: {}\nObservation: Answer: no\nAnswer: no\nThought: c\nAnswer: Yes.",
            "Yes.",
        ),
        ("Thought: c\nAnswer: Two lines.\nAnswer: both are said.", "Two lines.\nAnswer: both are said."),
        ("Thought: c\nAnswer: A poem.\nThought: I am one.", "A poem.\nThought: I am one."),
        ("Thought: a\nAction: b\nAction Input: {}", ""),
        ("Thought: a thing that I say to you.", "Thought: a thing that I say to you."),
        ("My answer:\nAnswer: 42", "My answer:\nAnswer: 42"),
    ],
)
def test_traces_are_reduced_to_the_answer(text, answer):
    assert answer_of(text) == answer


async def test_spans(lightmem):
    root, spans = get_dispatcher(), SimpleSpanHandler()
    root.add_span_handler(spans)
    memory = LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana")
    await memory.aput(ChatMessage(role="user", content="Hello"))
    await memory.aput_messages([ChatMessage(role="assistant", content="Hi")])
    await memory.aget()
    await memory.aset([])
    await memory.areset()
    retriever = LightMemRetriever(lightmem, "ana")
    retriever.retrieve("Hello")
    await retriever.aretrieve("Hello")
    root.span_handlers.remove(spans)
    seen = {span.id_.partition("-")[0] for span in spans.completed_spans}
    assert seen >= {f"LightMemMemory.{name}" for name in ("aput", "aput_messages", "aget", "aset", "areset", "aflush")}
    assert seen >= {"LightMemMemoryBlock._aget", "LightMemRetriever._retrieve", "LightMemRetriever._aretrieve"}
