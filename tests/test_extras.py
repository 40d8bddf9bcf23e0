"""Each extra alone: the built wheel with this extra and nothing else in a fresh environment, and a few lines of use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = "-c", ROOT / "constraints.txt"

MEMORY = """
from lightmem_integrations import LightMem, LightMemConfig
lightmem = LightMem(":memory:", LightMemConfig(embedder="none"))
lightmem.add("My cat is called Miso.", user_id="ana")
question = "What is the cat called?"

def refused(name, extra):
    import lightmem_integrations.langchain as adapters
    try:
        getattr(adapters, name)
    except ImportError as error:
        assert f"lightmem-integrations[{extra}]" in str(error)
    else:
        raise AssertionError(f"{name} works without [{extra}]")
"""

USES = {
    "langchain": """
from lightmem_integrations.langchain import LangChainEmbedder, LightMemRetriever, langchain_llm
from lightmem_integrations.langchain import lightmem_summarizer, lightmem_tools
assert "Miso" in LightMemRetriever(lightmem=lightmem, user_id="ana").invoke(question)[0].page_content
assert "Miso" in lightmem_tools(lightmem, user_id="ana")[0].invoke(question)
refused("LightMemMemory", "langchain-classic")
refused("LightMemMiddleware", "agents")
refused("LightMemStore", "langgraph")
""",
    "langchain-classic": """
from langchain_classic.chains import ConversationChain
from langchain_core.language_models import FakeListChatModel
from lightmem_integrations.langchain import LightMemMemory, LightMemRetriever
memory = LightMemMemory(lightmem=lightmem, user_id="ana")
chain = ConversationChain(llm=FakeListChatModel(responses=["Miso."]), memory=memory)
assert "My cat is called Miso." in chain.invoke({"input": question})["history"]
refused("LightMemMiddleware", "agents")
""",
    "agents": """
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from lightmem_integrations.langchain import LightMemMiddleware, LightMemStore, lightmem_summarizer
middleware = LightMemMiddleware(lightmem, user_id="ana")
store = LightMemStore(lightmem, user_id="ana")
agent = create_agent(FakeListChatModel(responses=["Miso."]), middleware=[middleware], store=store)
agent.invoke({"messages": [("user", question)]})
assert [entry.memory for entry in lightmem.list(user_id="ana")][1:] == [question, "Miso."]
refused("LightMemMemory", "langchain-classic")
""",
    "langgraph": """
from lightmem_integrations.langchain import LightMemStore
store = LightMemStore(lightmem, user_id="ana")
store.put(("memories",), "tea", {"content": "Ana drinks green tea."})
assert [item.key for item in store.search(("memories",), query="Which tea?")] == ["tea"]
refused("LightMemMemory", "langchain-classic")
refused("LightMemMiddleware", "agents")
""",
    "llama-index": """
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import MockLLM
from lightmem_integrations import llama_index as adapters
for name in adapters.__all__:
    getattr(adapters, name)
memory = adapters.LightMemMemory.from_defaults(lightmem=lightmem, user_id="ana", session_id="monday")
SimpleChatEngine.from_defaults(llm=MockLLM(), memory=memory).chat(question)
assert len(lightmem.list(user_id="ana")) == 3
""",
    "openai": """
from lightmem_integrations.models.llm import OpenAICompatible
from lightmem_integrations.testing.llm_server import LLMServer
with LLMServer(["Miso."]) as server:
    llm = OpenAICompatible("vllm", base_url=server.url)
    assert llm.complete("Be brief.", question, purpose="update").text == "Miso."
""",
    "tiktoken": """
import tiktoken
context = lightmem.context(question, user_id="ana")
assert context.tokens and context.tokenizer in ("cl100k_base", "wordpiece")  # its vocabulary is a download
""",
    "yaml": """
from pathlib import Path
Path("settings.yaml").write_text("embedder: none\\nttl_days: 3\\n")
assert LightMemConfig.load("settings.yaml", environ={}).ttl_days == 3
""",
    "qdrant": """
import qdrant_client
assert "Miso" in lightmem.context(question, user_id="ana").text
""",
    "postgres": """
import psycopg
assert "Miso" in lightmem.context(question, user_id="ana").text
""",
    "multilingual": """
with LightMem(":memory:", LightMemConfig(embedder="multilingual")) as other:
    other.add(["Mein Kater heißt Miso.", "Am Montag regnet es."], user_id="ana")
    assert other.search("What is the cat called?", user_id="ana", k=1)[0].entry.memory == "Mein Kater heißt Miso."
""",
    "offline": """
with LightMem(":memory:") as other:
    other.add(["My tomcat is called Miso.", "It rains on Monday."], user_id="ana")
    assert other.search("How is the feline named?", user_id="ana", k=1)[0].entry.memory == "My tomcat is called Miso."
""",
}


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    return done.stdout


def pip(*arguments: str | Path) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    try:
        pip("download", "--no-deps", "--dest", folder / "probe", *CONSTRAINTS, "idna")
    except AssertionError as error:
        pytest.skip(f"no package index: {str(error).strip().splitlines()[-1]}")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every environment begins with: the packages that the wheel brings without an extra."""
    folder = tmp_path_factory.mktemp("plain")
    pip("install", "--no-compile", "--target", folder, *CONSTRAINTS, wheel)
    return folder


@pytest.mark.parametrize("extra", USES)
def test_an_extra_brings_all_that_its_part_needs(extra: str, wheel: Path, plain: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python, (packages,) = tmp_path / "venv/bin/python", (tmp_path / "venv/lib").glob("python*/site-packages")
    shutil.copytree(plain, packages, copy_function=os.link, dirs_exist_ok=True)
    pip("--python", python, "install", "--no-compile", *CONSTRAINTS, f"{wheel}[{extra}]")
    run(python, "-W", "ignore::DeprecationWarning", "-c", MEMORY + USES[extra], cwd=tmp_path)
