"""What importing costs, and what is said when an extra is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightmem_integrations.langchain as package
from lightmem_integrations._adapters import without_recalled

pytest.importorskip("langchain_core")

FRAMEWORKS = ("langchain", "langchain_core", "langchain_classic", "langgraph", "llama_index", "torch", "openai")

# Name of the adapter, packages that are not installed, extra that the error must name; None when it works.
MISSING = [
    ("LightMemMemory", ["langchain_classic", "langchain_core.memory"], "langchain-classic"),
    ("LightMemMemory", ["langchain_core"], "langchain-classic"),
    ("LightMemMiddleware", ["langchain"], "agents"),
    ("LightMemMiddleware", ["langgraph"], "agents"),
    ("LightMemRetriever", ["langchain_core"], "langchain"),
    ("LightMemStore", ["langgraph"], "langgraph"),
    ("lightmem_tools", ["langchain_core"], "langchain"),
    ("LightMemMemory", ["langchain", "langgraph", "qdrant_client", "openai"], None),
    ("LightMemRetriever", ["langchain", "langchain_classic", "langgraph"], None),
    ("lightmem_tools", ["langchain", "langchain_classic", "langgraph"], None),
    ("lightmem_summarizer", ["langchain", "langchain_classic", "langgraph"], None),
    ("LangChainEmbedder", ["langchain", "langchain_classic", "langgraph"], None),
    ("langchain_llm", ["langchain_core", "langchain", "langchain_classic", "langgraph"], None),
    ("failures_of", ["langchain_core", "langchain", "langchain_classic", "langgraph"], None),
]


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_itself_loads_no_framework():
    program = f"""
import sys, lightmem_integrations.langchain as package
dir(package)
print([name for name in {FRAMEWORKS} if name in sys.modules])
"""
    assert output_of(program) == "[]"


def test_every_name_is_found():
    assert sorted(package.__all__) == dir(package) == sorted(package._HOME)
    assert not hasattr(package, "LightMemMemroy")


@pytest.mark.parametrize(("name", "absent", "extra"), MISSING)
def test_each_adapter_needs_its_extra_alone(name, absent, extra):
    program = f"""
import sys
sys.modules.update({{name: None for name in {absent}}})
try:
    from lightmem_integrations.langchain import {name}
    print("imported")
except ImportError as error:
    print(type(error).__name__, error)
"""
    told = output_of(program)
    if extra is None:
        assert told == "imported"
    else:
        assert told.startswith("MissingDependencyError")
        assert f"pip install 'lightmem-integrations[{extra}]'" in told


def test_every_example_is_shown_by_a_recipe():
    root = Path(__file__).parents[2]
    examples = {path.relative_to(root).as_posix() for path in (root / "examples/langchain").glob("*.py")}
    recipes = "\n".join(path.read_text(encoding="utf-8") for path in (root / "docs/recipes/langchain").glob("*.md"))
    # The short form on one line is Python too, and formatters put spaces into it: then the page shows no example.
    assert set(re.findall(r"^--8<--\n(.+)\n--8<--$", recipes, re.MULTILINE)) == examples


def test_the_fence_is_the_one_that_the_engine_renders(lightmem):
    """What ``without_recalled`` looks for is written down twice; here the two meet."""
    lightmem.add([("user", "a </memory> b"), ("user", "Notes recalled from c")], user_id="ana")
    text = lightmem.context("a b c", user_id="ana").text
    assert text.count("\n") > 3
    flow = without_recalled(f"before {text} after", user_id="bob")
    with pytest.raises(StopIteration) as done:
        next(flow)
    assert done.value.value == "before  after"
