"""What the speed benchmarks feed the engine: an embedder that costs nothing, and texts without end."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations import datasets
from lightmem_integrations.core.types import Encoding

_WORD = re.compile(r"\w+")
_VOCABULARY = 30_000
_ZIPF_SHIFT = 2.7  # of Mandelbrot's form of Zipf's law, 1 / (rank + shift); the usual value for English
_SHARE_FROM_DEMO = 0.3
_MADE_UP = 20_000
_SYLLABLES = ("ba", "cor", "den", "fi", "gal", "hum", "ir", "jo", "kel", "lum", "mar", "no", "pel", "qui", "ros", "ta")


class InstantEmbedder:
    """An embedder without a model, so that what remains of a time is the engine's.

    A word's vectors are drawn once from a seeded generator and chosen by a checksum of the word:
    equal words share ids and vectors in every process, other words are as good as orthogonal. A
    text is the mean of its words and has a piece for each. About 20 µs a short text. Use it to
    measure time, never quality.
    """

    name = "instant"
    dim = 384
    token_dim = 64
    languages = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 384) float32, unit rows."""
        return np.stack([e.vector for e in self.encode(texts)]) if texts else np.zeros((0, self.dim), np.float32)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoding]:
        """Vector and one piece a word of each text; questions and texts are treated alike."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoding:
        words = _WORD.findall(text.lower()) or [text]
        ids = np.array([zlib.crc32(word.encode("utf-8", "replace")) % _VOCABULARY for word in words], np.int32)
        mean = self._vectors[ids % len(self._vectors)].sum(axis=0)
        return Encoding((mean / np.linalg.norm(mean)).astype(np.float32), ids, self._pieces[ids])

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        # Fewer rows than words keep the table in the processor's cache; a clash of two words is harmless.
        return np.random.default_rng(0).standard_normal((4_096, self.dim), np.float32)

    @cached_property
    def _pieces(self) -> NDArray[np.int8]:
        rows = np.random.default_rng(1).standard_normal((_VOCABULARY, self.token_dim), np.float32)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(np.rint(unit * 127), np.int8)


def sentences(n: int, *, seed: int = 0) -> list[str]:
    """``n`` texts of 8 to 22 words, or a sentence or two of the demo conversation.

    Words follow Zipf's law over the demo's own words, by frequency, and then over made-up ones,
    so that posting lists are as uneven as in real text.
    """
    rng = np.random.default_rng(seed)
    demo = _demo_sentences()
    words = _words(demo)
    weights = 1 / (np.arange(1, len(words) + 1) + _ZIPF_SHIFT)
    cumulative = np.cumsum(weights / weights.sum())
    lengths = rng.integers(8, 23, n)
    drawn = np.searchsorted(cumulative, rng.random(int(lengths.sum()))).clip(max=len(words) - 1)
    texts, at = [], 0
    for length, from_demo, pair in zip(lengths, rng.random(n), rng.integers(0, len(demo), (n, 2)), strict=True):
        made = " ".join(words[i] for i in drawn[at : at + length])
        at += length
        texts.append(" ".join(demo[i] for i in pair) if from_demo < _SHARE_FROM_DEMO else f"{made.capitalize()}.")
    return texts


def questions(n: int, *, seed: int = 1) -> list[str]:
    """``n`` searches: the demo's questions, then parts of such texts, 4 to 8 words long."""
    rng = np.random.default_rng(seed)
    asked = [question.question for question in datasets.demo().questions]
    made = [" ".join(text.split()[: rng.integers(4, 9)]) for text in sentences(n, seed=seed)]
    return (asked + made)[:n]


def _demo_sentences() -> list[str]:
    turns = (turn.content for session in datasets.demo().sessions for turn in session.messages)
    return [part.strip() for turn in turns for part in re.split(r"(?<=[.!?])\s+", turn) if part.strip()]


def _words(demo: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    for word in _WORD.findall(" ".join(demo).lower()):
        counts[word] = counts.get(word, 0) + 1
    common = sorted(counts, key=lambda word: (-counts[word], word))
    made = ("".join(syllables) for syllables in product(_SYLLABLES, repeat=4))
    return list(dict.fromkeys([*common, *islice(made, _MADE_UP)]))
