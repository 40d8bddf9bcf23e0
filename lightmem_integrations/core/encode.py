"""Asking an embedder, and not believing it: whatever comes back is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.passages import cut, sentences
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.core.types import Encoding, Passage
from lightmem_integrations.errors import EmbedderError, LightMemError

T = TypeVar("T")

BATCH = 128
"""Texts handed to an embedder at a time, at most."""

LONG_TURN_PIECES = 24
"""Token vectors kept of each passage of a long turn, about."""


def name_of(embedder: Embedder | None) -> str:
    """The identity under which vectors are stored; ``none`` without an embedder."""
    if embedder is None:
        return "none"
    return str(getattr(embedder, "name", None) or type(embedder).__name__)


def encode_texts(embedder: Embedder, texts: Sequence[str], shape: tuple[int, int] | None = None) -> list[Encoding]:
    """Encode texts to be stored, in batches of at most 128.

    Args:
        embedder: whom to ask.
        texts: any number of them.
        shape: (dim, token_dim) that the vectors must have; None for any, as long as they are alike.

    Raises:
        EmbedderError: the embedder raised, or gave NaN, a wrong shape or a wrong number of rows.
    """
    out: list[Encoding] = []
    for at in range(0, len(texts), BATCH):
        out += guarded(embedder, partial(_encode_batch, embedder, texts[at : at + BATCH]))
    if out:
        _check_alike(out, shape or shape_of(out), name_of(embedder))
    return out


def shape_of(encodings: Sequence[Encoding]) -> tuple[int, int]:
    """(dim, token_dim) of encodings; token_dim is 0 where there are no token vectors."""
    return len(encodings[0].vector), max(encoding.pieces.shape[1] for encoding in encodings)


def _check_alike(encodings: Sequence[Encoding], shape: tuple[int, int], who: str) -> None:
    for encoding in encodings:
        width = encoding.pieces.shape[1] if len(encoding.pieces) else shape[1]
        if len(encoding.vector) != shape[0] or width != (shape[1] or width):
            found = (len(encoding.vector), width)
            raise EmbedderError(f"{who} gave vectors of the shape (dim, token_dim) {found}, expected {shape}")


def encode_query(embedder: Embedder, text: str) -> Encoding:
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

    return guarded(embedder, lambda: _checked(run(), 1, embedder)[0])


def passages_to_encode(text: str, label: str) -> list[tuple[Passage, str]]:
    """The passages of an entry, each with the text to encode: who said it, and what."""
    return [(p, f"{label}: {text[p.start : p.end]}" if label else text[p.start : p.end]) for p in cut(text)]


def central(encoding: Encoding, text: str) -> Encoding:
    """The encoding with the token vectors of the text's most central sentences only.

    Sentences are taken in the order of the cosine between the mean of their token vectors and that
    of the whole text, until ``LONG_TURN_PIECES`` are reached. Long turns say a thing many times over;
    keeping all their token vectors costs storage and finds nothing more (decision 0007).
    """
    starts, limit = encoding.piece_starts, LONG_TURN_PIECES
    if starts is None or len(starts) <= limit:
        return encoding
    owner = np.searchsorted([s.start for s in sentences(text)], starts, side="right") - 1
    pieces = encoding.pieces.astype(np.float32)
    middle = pieces.sum(axis=0)
    keep = np.zeros(len(starts), bool)
    means = {n: pieces[owner == n].mean(axis=0) for n in np.unique(owner).tolist()}
    for n in sorted(means, key=lambda n: (-float(means[n] @ middle) / float(np.linalg.norm(means[n]) + 1e-9), n)):
        if keep.sum() + (owner == n).sum() <= limit:
            keep |= owner == n
    if not keep.any():
        keep[:limit] = True
    return replace(
        encoding, piece_ids=encoding.piece_ids[keep], pieces=encoding.pieces[keep], piece_starts=starts[keep]
    )


def _encode_batch(embedder: Embedder, texts: Sequence[str]) -> list[Encoding]:
    encodings = list(embedder.encode(texts)) if hasattr(embedder, "encode") else _plain(embedder.embed(texts))
    return _checked(encodings, len(texts), embedder)


def _plain(vectors: Any) -> list[Encoding]:
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2:
        raise EmbedderError(f"expected vectors of shape (n, dim), got {rows.shape}")
    none = np.zeros(0, np.int32), np.zeros((0, 0), np.int8)
    return [Encoding(row, *none) for row in rows]


def guarded(embedder: Embedder | None, run: Callable[[], T]) -> T:
    """Run something of the embedder's; whatever it raises becomes an ``EmbedderError``."""
    try:
        return run()
    except LightMemError:
        raise
    except Exception as error:  # an embedder may raise anything; the caller keeps the input and tells
        raise EmbedderError(f"{name_of(embedder)} failed: {type(error).__name__}: {error}") from error


def _checked(encodings: Sequence[Encoding], n: int, embedder: Embedder) -> list[Encoding]:
    who = name_of(embedder)
    if len(encodings) != n:
        raise EmbedderError(f"{who} gave {len(encodings)} vectors for {n} texts")
    return [_unit(e, who) for e in encodings]


def _unit(encoding: Encoding, who: str) -> Encoding:
    vector: NDArray[np.float32] = np.asarray(encoding.vector, np.float32)
    if vector.ndim != 1 or not len(vector):
        raise EmbedderError(f"{who} gave a vector of shape {vector.shape}, expected (dim,)")
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise EmbedderError(f"{who} gave a vector that is zero or holds NaN or infinity")
    if abs(length - 1) > 1e-5:
        vector = vector / np.float32(length)
    if len(encoding.piece_ids) != len(encoding.pieces):
        raise EmbedderError(f"{who} gave {len(encoding.pieces)} token vectors for {len(encoding.piece_ids)} token ids")
    return replace(encoding, vector=vector)
