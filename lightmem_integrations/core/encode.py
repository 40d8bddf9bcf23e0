"""Asking an embedder, and not believing it: whatever comes back is checked before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.passages import cut
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.core.types import Encoding, Passage
from lightmem_integrations.errors import EmbedderError, LightMemError

BATCH = 128
"""Texts handed to an embedder at a time, at most."""


def name_of(embedder: Embedder | None) -> str:
    """The identity under which vectors are stored; ``none`` without an embedder."""
    if embedder is None:
        return "none"
    return str(getattr(embedder, "name", None) or type(embedder).__name__)


def encode_texts(embedder: Embedder, texts: Sequence[str], dim: int | None = None) -> list[Encoding]:
    """Encode texts to be stored, in batches of at most 128.

    Args:
        embedder: whom to ask.
        texts: any number of them.
        dim: the dimension that the vectors must have; None for any.

    Raises:
        EmbedderError: the embedder raised, or gave NaN, a wrong shape or a wrong number of rows.
    """
    out: list[Encoding] = []
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        out += _checked(_guarded(embedder, lambda batch=batch: _encode(embedder, batch)), len(batch), embedder, dim)
    return out


def encode_query(embedder: Embedder, text: str, dim: int | None = None) -> Encoding:
    """Encode a question, by ``encode(query=True)`` or ``embed_query`` where the embedder has them.

    Raises:
        EmbedderError: as for ``encode_texts``.
    """

    def run() -> list[Encoding]:
        if hasattr(embedder, "encode"):
            return list(embedder.encode([text], query=True))
        if hasattr(embedder, "embed_query"):
            return _plain([embedder.embed_query(text)])
        return _plain(embedder.embed([text]))

    return _checked(_guarded(embedder, run), 1, embedder, dim)[0]


def passages_to_encode(text: str, label: str) -> list[tuple[Passage, str]]:
    """The passages of an entry, each with the text to encode: who said it, and what."""
    return [(p, f"{label}: {text[p.start : p.end]}" if label else text[p.start : p.end]) for p in cut(text)]


def _encode(embedder: Embedder, texts: Sequence[str]) -> list[Encoding]:
    return list(embedder.encode(texts)) if hasattr(embedder, "encode") else _plain(embedder.embed(texts))


def _plain(vectors: Any) -> list[Encoding]:
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2:
        raise EmbedderError(f"expected vectors of shape (n, dim), got {rows.shape}")
    none = np.zeros(0, np.int32), np.zeros((0, 0), np.int8)
    return [Encoding(row, *none) for row in rows]


def _guarded(embedder: Embedder, run: Any) -> list[Encoding]:
    try:
        encodings: list[Encoding] = run()
    except LightMemError:
        raise
    except Exception as error:  # an embedder may raise anything; the caller keeps the input and tells
        raise EmbedderError(f"{name_of(embedder)} failed: {type(error).__name__}: {error}") from error
    return encodings


def _checked(encodings: Sequence[Encoding], n: int, embedder: Embedder, dim: int | None) -> list[Encoding]:
    who = name_of(embedder)
    if len(encodings) != n:
        raise EmbedderError(f"{who} gave {len(encodings)} vectors for {n} texts")
    return [_unit(e, who, dim) for e in encodings]


def _unit(encoding: Encoding, who: str, dim: int | None) -> Encoding:
    vector: NDArray[np.float32] = np.asarray(encoding.vector, np.float32)
    if vector.ndim != 1 or not len(vector) or (dim is not None and len(vector) != dim):
        expected = "(dim,)" if dim is None else f"({dim},)"
        raise EmbedderError(f"{who} gave a vector of shape {vector.shape}, expected {expected}")
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise EmbedderError(f"{who} gave a vector that is zero or holds NaN or infinity")
    if abs(length - 1) > 1e-5:
        vector = vector / np.float32(length)
    if len(encoding.piece_ids) != len(encoding.pieces):
        raise EmbedderError(f"{who} gave {len(encoding.pieces)} token vectors for {len(encoding.piece_ids)} token ids")
    return Encoding(vector, encoding.piece_ids, encoding.pieces)
