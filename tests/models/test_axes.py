"""The shipped axes are what decision 6 says they are."""

import re

import numpy as np
import pytest

from lightmem_integrations.core.analyze import stop_words
from lightmem_integrations.core.tokens import wordpiece
from lightmem_integrations.models.embed import onnx


def test_axes_are_orthonormal():
    axes = onnx.token_axes()
    assert axes.shape == (384, 64)
    assert np.allclose(axes.T @ axes, np.eye(64), atol=1e-5)


@pytest.mark.slow
def test_axes_are_the_leading_directions_of_the_vocabulary():
    """Every fourth word of the vocabulary, encoded alone; takes about a minute."""
    words = sorted(w for w in wordpiece().get_vocab() if re.fullmatch("[a-z]{3,}", w) and w not in stop_words("en"))
    session, (tokenizer, _) = onnx._session(None), onnx._tokenizer()
    rows = []
    for word in words[::4]:
        ids = np.array([tokenizer.encode(word).ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows.append(session.run(None, inputs)[0][0][1:-1])
    states = np.concatenate(rows).astype(np.float64)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    leading = np.linalg.eigh(states.T @ states)[1][:, ::-1][:, :64]
    overlap = np.linalg.svd(leading.T @ onnx.token_axes(), compute_uv=False)
    assert overlap[:60].min() > 0.99  # the last few axes are nearly tied and may turn into each other
