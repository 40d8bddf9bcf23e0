"""Data and a second evaluator from outside, for checks that need them.

``LIGHTMEM_BENCH_DATA`` is a glob of conversation files, ``LIGHTMEM_REFERENCE_EVALUATOR`` the path of
a Python file with ``load_conversations`` and ``evaluate``.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    return value


@pytest.fixture(scope="session")
def data() -> str:
    return _setting("LIGHTMEM_BENCH_DATA")


@pytest.fixture(scope="session")
def reference() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("reference_evaluator", _setting("LIGHTMEM_REFERENCE_EVALUATOR"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up while it is being made.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
