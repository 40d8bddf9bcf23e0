"""Promises of the project itself: version, changelog, cheap import, examples in docstrings."""

import doctest
import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lightmem_integrations import errors
from lightmem_integrations.__about__ import __version__
from lightmem_integrations.config import LightMemConfig

ROOT = Path(__file__).resolve().parent.parent
FILES = (path.relative_to(ROOT) for path in (ROOT / "lightmem_integrations").rglob("*.py"))
MODULES = sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES)
HEAVY = {
    "huggingface_hub",
    "langchain",
    "langchain_core",
    "llama_index",
    "onnxruntime",
    "openai",
    "qdrant_client",
    "sentence_transformers",
    "sqlalchemy",
    "torch",
    "transformers",
}


def test_changelog_opens_with_the_version_of_the_package():
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_installed_version_is_the_one_in_the_source():
    assert version("lightmem-integrations") == __version__


def test_importing_the_package_loads_nothing_heavy():
    program = "import sys, lightmem_integrations; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_configuration_page_lists_every_setting_with_its_default():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE))
    assert rows == {
        name: json.dumps(f.default) if isinstance(f.default, str) else str(f.default)
        for name, f in LightMemConfig.model_fields.items()
    }


def test_errors_page_names_every_error():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert [name for name in errors.__all__ if f"`{name}`" not in page] == []


@pytest.mark.sqlite("an example in a docstring closes nothing")
@pytest.mark.usefixtures("closed_chat_stores")
@pytest.mark.parametrize("name", MODULES)
def test_module_imports_and_its_examples_are_true(name: str):
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)
