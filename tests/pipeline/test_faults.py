"""Whatever fails, and whenever: no turn is lost, none is extracted twice, and the error is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.compress import LexicalCompressor
from lightmem_integrations.core.ports import Completion
from lightmem_integrations.core.types import Compression
from lightmem_integrations.errors import LightMemError, LLMError, StorageBusyError
from lightmem_integrations.testing.embedders import HashEmbedder
from lightmem_integrations.testing.llm_server import note_taker
from tests.pipeline.test_pipeline import buffers, extracted, notes, talk

COUNT = 48
ALL = Counter(f"m{n}" for n in range(COUNT))
ERRORS = (RuntimeError("out of memory"), ValueError("shape"), LLMError("gone"), StorageBusyError("locked"))


class Faulty:
    """Fails at some of its calls, with some error."""

    def __init__(self, at: Sequence[int], error: Exception) -> None:
        self.at, self.error, self.calls = set(at), error, 0

    def step(self) -> None:
        self.calls += 1
        if self.calls - 1 in self.at:
            raise self.error


class Compressor(Faulty):
    name = "faulty"

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        self.step()
        return LexicalCompressor().compress(texts)


class Attention(Faulty):
    name = "faulty"

    def attend(self, texts: Sequence[str]) -> Any:
        self.step()
        rows = np.tri(len(texts), k=-1)
        return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)


class Model(Faulty):
    name = "faulty"

    def complete(self, system: str, user: str, *, schema: Any = None, purpose: str) -> Completion:
        self.step()
        return Completion(note_taker({"messages": [{"content": user}]}), 1, 1, "faulty")


class Store(Faulty):
    """The buffers of a memory, failing at some of the calls."""

    def __init__(self, buffers: Any, at: Sequence[int], error: Exception) -> None:
        super().__init__(at, error)
        self._buffers = buffers

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._buffers, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return method(*args, **kwargs)

        return call


def feed(memory: LightMem, failures: int) -> list[str]:
    """Add everything in small batches, then flush once more than it can fail; returns the errors that were told."""
    told: list[str] = []  # by ``add``, by ``flush`` and by ``doctor``
    said = talk(COUNT)
    for n in range(0, COUNT, 5):
        told += memory.add(said[n : n + 5], user_id="ana").errors
    for _ in range(failures + 1):
        try:
            memory.flush(user_id="ana")
        except LightMemError as error:
            told.append(str(error))
        told += [f.detail for f in memory.doctor(repair=True).findings]
    return told


def assert_all_there(memory: LightMem) -> None:
    assert extracted(memory) == ALL
    assert buffers(memory) == {"turns": 0, "held": 0, "queued": 0, "parked": 0}
    facts = notes(memory, "fact")
    assert len({(e.memory, e.source_messages) for e in facts}) == len(facts)
    assert len(memory.search("cat", user_id="ana", k=COUNT)) == COUNT
    assert memory.doctor().ok


points = st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True)
errors = st.sampled_from(ERRORS)


@settings(max_examples=8)
@given(at=points, error=errors)
def test_a_failing_compressor_leaves_turns_whole(at, error):
    compressor = Compressor(at, error)
    with LightMem(":memory:", embedder=HashEmbedder(), compressor=compressor) as memory:
        told = feed(memory, len(at))
        assert_all_there(memory)
        if min(at) < compressor.calls:
            assert any(str(error) in line for line in told)


@settings(max_examples=8)
@given(at=points, error=errors)
def test_a_failing_attention_model_leaves_the_similarity(at, error):
    attention = Attention(at, error)
    with LightMem(":memory:", embedder=HashEmbedder(), attention=attention) as memory:
        told = feed(memory, len(at))
        assert_all_there(memory)
        if min(at) < attention.calls:
            assert any(str(error) in line for line in told)


@settings(max_examples=12)
@given(at=st.lists(st.integers(0, 60), min_size=1, max_size=6, unique=True), error=errors)
def test_a_failing_store_is_asked_again(at, error):
    with LightMem(":memory:", embedder=HashEmbedder()) as memory:
        assert memory._reflection is not None
        memory._reflection._pipeline._buffers = Store(memory._buffers, at, error)
        told = feed(memory, len(at))
        assert_all_there(memory)
        if min(at) < 12:
            assert any(str(error) in line for line in told)


@settings(max_examples=8)
@given(at=st.lists(st.integers(0, 8), min_size=1, max_size=3, unique=True), error=errors)
def test_a_failing_language_model_is_asked_again(at, error):
    model = Model(at, error)
    with LightMem(
        ":memory:", LightMemConfig(short_term_buffer_tokens=200), embedder=HashEmbedder(), llm=model
    ) as memory:
        told = feed(memory, len(at))
        assert_all_there(memory)
        if min(at) < model.calls:
            assert any(str(error) in line for line in told)


class Rubbish:
    """Answers with anything at all."""

    name = "rubbish"

    def __init__(self, value: Any) -> None:
        self.value = value

    def complete(self, system: str, user: str, *, schema: Any = None, purpose: str) -> Any:
        return Completion(self.value, 1, 1, "rubbish") if isinstance(self.value, str) else self.value


@pytest.mark.parametrize(
    "value", ["", "{}", "null", json.dumps({"segments": [{"segment": 1, "facts": [None, 3]}]}), None, 7]
)
def test_a_model_that_answers_rubbish(value):
    with LightMem(":memory:", embedder=HashEmbedder(), llm=Rubbish(value)) as memory:
        memory.add(talk(8), user_id="ana")
        with pytest.raises(LLMError, match="Nothing is lost"):
            memory.flush()
        assert buffers(memory)["queued"]
        assert len(memory.search("cat", user_id="ana")) == 8


@pytest.mark.parametrize("made", [None, [], ["text"], "text", [None]])
def test_a_compressor_that_gives_rubbish(made):
    class Odd:
        name = "odd"

        def compress(self, texts: Sequence[str]) -> Any:
            return made

    with LightMem(":memory:", embedder=HashEmbedder(), compressor=Odd()) as memory:
        told = feed(memory, 0)
        assert_all_there(memory)
        assert any("odd" in line for line in told)
        assert memory.stats()["compression"]["failed"] == COUNT
        assert memory.sessions(user_id="ana")[0].metadata == {"not_compressed": COUNT}
