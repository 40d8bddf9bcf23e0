"""LLMLingua-2: a token classifier says how likely each token is to be worth keeping.

The package ``llmlingua`` loads the model and its tokenizer. The pass over the model is our own, and
the rule that follows it is the package's (0.2.2, ``compress_prompt_llmlingua2``), for three reasons:
the offsets of what was kept come from the tokenizer instead of a search, a short message is not
padded to 512 tokens, and the attentions that topic segmentation reads come from the same pass. A
test holds the words that are kept against those of the package.

Sources: LLMLingua-2 (Pan et al. 2024, arXiv 2403.12968); LightMem (arXiv 2510.18866), section on
topic segmentation, for the attentions.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.compress import RATE, Span, check_rate, compressions
from lightmem_integrations.core.tokens import budget_counter
from lightmem_integrations.core.types import Compression
from lightmem_integrations.errors import ConfigError, MissingDependencyError, ModelNotFoundError

__all__ = ["DEFAULT_MODEL", "FORCE_TOKENS", "LLMLinguaCompressor", "Reading"]

DEFAULT_MODEL = "microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank"
FORCE_TOKENS = (".", "?", "!")
LAYERS = (8, 9, 10, 11)
"""Layers whose attention shows topics (LightMem)."""

_FAMILIES = ("bert-base-multilingual-cased", "xlm-roberta-large")
_MAX_TOKENS = 510  # a chunk; 512 with the special tokens
_EDGE = 3  # tokens masked at either end of a sequence: attention sinks
_HALF = 250  # longest chunk of a joint pass: two of them and an overlap of up to 2 · _EDGE fit into one
_BATCH = 32
_CHUNK_ENDS = (".", "\n")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pass over the model gives for a run of sentences.

    Attributes:
        compressions: one a sentence.
        attention: (n, n) float32 in 0..1, rows attend to columns: of the attention that sentence i pays
            to earlier ones, the share that goes to j, as the published code of LightMem has it. A row
            sums to 1, or to 0 where all of it was masked, as that of the first sentence. Sentences
            that were not in one window have 0.
    """

    compressions: list[Compression]
    attention: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One token: where it stands in its text, and how the vocabulary writes it."""

    id: int
    start: int
    end: int
    piece: str


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens that run through the model together, and the text that they are of."""

    text: int
    pieces: Sequence[_Piece]


class LLMLinguaCompressor:
    """Compression by LLMLingua-2.

    Args:
        model: a folder, or a name on the Hugging Face hub. Its last part must contain
            ``bert-base-multilingual-cased`` or ``xlm-roberta-large``: the package tells the
            tokenizers apart by it. None means ``DEFAULT_MODEL``.
        rate: share of tokens to keep, 0 < rate ≤ 1; counted in cl100k tokens a chunk, as the package
            does.
        force_tokens: always kept. A single token of the vocabulary matches that token; anything else
            every token of its occurrences. Line breaks need none: they are always kept.
        keep_digits: always keep tokens with a digit.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        UsageError: rate out of range. ConfigError: a model of another family.
        MissingDependencyError: on first use, when llmlingua is not installed.
        ModelNotFoundError: on first use, when the model or the cl100k vocabulary is not there.
    """

    name = "llmlingua"

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        rate: float = RATE,
        force_tokens: Sequence[str] = FORCE_TOKENS,
        keep_digits: bool = True,
        device: str = "cpu",
    ) -> None:
        self.model = str(model or DEFAULT_MODEL)
        if not any(family in Path(self.model).name for family in _FAMILIES):
            raise ConfigError("model", f"must be a folder or name with {' or '.join(_FAMILIES)} in it", self.model)
        self.rate = check_rate(rate)
        self.force_tokens = tuple(force_tokens)
        self.keep_digits = keep_digits
        self.device = device
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def load(self) -> None:
        """Load the model, once. Making the object loads nothing."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _Loaded(_prompt_compressor(self.model, self.device))

    @property
    def prompt_compressor(self) -> Any:
        """The package's object, loaded: ``.model``, ``.tokenizer``, for whoever shares the model."""
        return self._ready().package

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        """Compress each text on its own, many to a pass, long ones in chunks under 512 tokens.

        A text that makes the model fail comes back whole and ``failed``. A model that is not there
        raises, once and clearly, before anything is compressed; ``core.compress.safely`` catches it.
        """
        loaded = self._ready()
        pieces = loaded.pieces(texts)
        chunks = [chunk for i, row in enumerate(pieces) for chunk in _chunks(i, row, _MAX_TOKENS)]
        return self._compressed(loaded, texts, pieces, chunks, loaded.keep_probabilities(chunks))

    def attend(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``Reading.attention`` alone, for the port ``Attention``; costs as much as ``read``."""
        return self.read(texts).attention

    def read(self, sentences: Sequence[str]) -> Reading:
        """Compress sentences and see how they attend to each other, from one pass over the model.

        The sentences run through the model together, as one sequence where they have at most 510
        tokens. Longer runs become windows that overlap by a sentence, so that every sentence meets the
        one before it; one of more than 250 tokens is cut. Here the probability of a
        token depends on the other sentences too; in ``compress`` it does not.
        """
        loaded = self._ready()
        pieces = loaded.pieces(sentences)
        chunks = [chunk for i, row in enumerate(pieces) for chunk in _chunks(i, row, _HALF)]
        probabilities: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(chunks)
        attention = np.zeros((len(sentences), len(sentences)), np.float32)
        for first, last in _windows(chunks):
            window = chunks[first:last]
            keep, attended = loaded.joint(window)
            at = 0
            for number, chunk in enumerate(window, first):
                if not len(probabilities[number]):
                    probabilities[number] = keep[at : at + len(chunk.pieces)]
                at += len(chunk.pieces)
            for text, others, shares in _rows([chunk.text for chunk in window for _ in chunk.pieces], attended):
                if not attention[text].any():  # a row that the window before gave stays
                    attention[text, others] = shares
        return Reading(self._compressed(loaded, sentences, pieces, chunks, probabilities), attention)

    def _ready(self) -> _Loaded:
        self.load()
        assert self._loaded is not None
        return self._loaded

    def _compressed(
        self,
        loaded: _Loaded,
        texts: Sequence[str],
        pieces: Sequence[Sequence[_Piece]],
        chunks: Sequence[_Chunk],
        probabilities: Sequence[NDArray[np.float32]],
    ) -> list[Compression]:
        spans: list[list[Span] | None] = [[] if row else None for row in pieces]
        for chunk, keep in zip(chunks, probabilities, strict=True):
            kept = spans[chunk.text]
            if kept is None or len(keep) != len(chunk.pieces):
                spans[chunk.text] = None
                continue
            text = texts[chunk.text]
            spans[chunk.text] = _joined(text, kept, self._kept(loaded, text, chunk, keep))
        return compressions(texts, spans)

    def _kept(self, loaded: _Loaded, text: str, chunk: _Chunk, keep: NDArray[np.float32]) -> list[Span]:
        """The words of one chunk that pass its threshold (``PromptCompressor.__compress``)."""
        singles, forced = self._forced(loaded, text)
        words: list[Span] = []
        values: list[list[float]] = []
        for piece, value in zip(chunk.pieces, keep.tolist(), strict=True):
            pure, starts = loaded.pure(piece.piece)
            value = 1.0 if self._always(piece, pure, singles, forced) else value
            if starts or not words or pure in singles:
                words.append((piece.start, piece.end))
                values.append([value])
            else:
                words[-1] = (words[-1][0], piece.end)
                values[-1].append(value)
        if self.rate == 1 or not words:
            return words
        means = [sum(v) / len(v) for v in values]
        weights = [loaded.weight(text[a:b]) for a, b in words]
        threshold = float(np.percentile(np.repeat(means, weights), int(100 * (1 - self.rate) + 1)))
        return [w for w, mean in zip(words, means, strict=True) if mean > threshold or threshold == mean == 1.0]

    def _forced(self, loaded: _Loaded, text: str) -> tuple[set[str], list[Span]]:
        singles = {token for token in self.force_tokens if loaded.is_piece(token)}
        others = [token for token in self.force_tokens if token and token not in singles]
        spans = [m.span() for token in others for m in re.finditer(re.escape(token), text)]
        return singles, spans

    def _always(self, piece: _Piece, pure: str, singles: set[str], forced: Sequence[Span]) -> bool:
        if pure in singles or (self.keep_digits and any(char.isdigit() for char in piece.piece)):
            return True
        return any(a < piece.end and piece.start < b for a, b in forced)


class _Loaded:
    """The model in memory."""

    def __init__(self, package: Any) -> None:
        import torch

        self.package = package
        self._torch = torch
        self._model, self._tokenizer = package.model.eval(), package.tokenizer
        self._wordpiece = _FAMILIES[0] in Path(package.model_name).name
        # Not the tokenizer's: the package overwrites that with None where it is 0.
        self._pad = getattr(self._model.config, "pad_token_id", None) or 0
        self._lock = threading.Lock()  # of the attention implementation, which is a state of the model

    # -------------------------------------------------------------------------------- tokens
    def pieces(self, texts: Sequence[str]) -> list[list[_Piece]]:
        """Tokens of each text with their offsets; none for a text that cannot be tokenized."""
        return [self._pieces(text) for text in texts]

    def _pieces(self, text: str) -> list[_Piece]:
        sound = text.encode("utf-8", "replace").decode("utf-8")
        # Special tokens that a text spells out are text.
        found = self._tokenizer(
            sound, add_special_tokens=False, return_offsets_mapping=True, verbose=False, split_special_tokens=True
        )
        names = self._tokenizer.convert_ids_to_tokens(found["input_ids"])
        rows = zip(found["input_ids"], found["offset_mapping"], names, strict=True)
        return [_Piece(i, a, b, name) for i, (a, b), name in rows]

    def is_piece(self, token: str) -> bool:
        """Is this string one token?"""
        return len(self._tokenizer.tokenize(token)) == 1

    def pure(self, piece: str) -> tuple[str, bool]:
        """A piece without the sign of its place in a word, and whether a word starts with it."""
        if self._wordpiece:
            return piece.removeprefix("##"), not piece.startswith("##")
        plain = piece.lstrip("▁")
        punctuation = len(piece) == 1 and not piece.isalnum() and piece.isascii()
        return plain, piece.startswith("▁") or punctuation

    def weight(self, word: str) -> int:
        """cl100k tokens of a word: how often it counts in the percentile."""
        return len(self.package.oai_tokenizer.encode(word.encode("utf-8", "replace").decode(), disallowed_special=()))

    # -------------------------------------------------------------------------------- passes
    def keep_probabilities(self, chunks: Sequence[_Chunk]) -> list[NDArray[np.float32]]:
        """Of each token of each chunk, in batches of like length; empty where the model failed."""
        out: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(chunks)
        order = sorted(range(len(chunks)), key=lambda i: len(chunks[i].pieces))
        for at in range(0, len(order), _BATCH):
            batch = order[at : at + _BATCH]
            for i, row in zip(batch, self._tried([chunks[i] for i in batch]), strict=True):
                out[i] = row
        return out

    def _tried(self, chunks: Sequence[_Chunk]) -> list[NDArray[np.float32]]:
        try:
            return self._probabilities(chunks)
        except RuntimeError:  # out of memory, or an input that the model cannot take: each alone, so that one fails
            if len(chunks) == 1:
                return [np.zeros(0, np.float32)]
            return [row for chunk in chunks for row in self._tried([chunk])]

    def _probabilities(self, chunks: Sequence[_Chunk]) -> list[NDArray[np.float32]]:
        ids = [[piece.id for piece in chunk.pieces] for chunk in chunks]
        outputs, _ = self._run(ids, attentions=False)
        keep = self._torch.softmax(outputs.logits.float(), dim=-1)[:, :, 1].cpu().numpy()
        return [keep[row, 1 : 1 + len(chunk.pieces)] for row, chunk in enumerate(chunks)]

    def joint(self, window: Sequence[_Chunk]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keep probabilities and attention between the tokens of a window, from one pass.

        Returns:
            (t,) and (t, t) float32; attention is the mean over heads and ``LAYERS`` (the last four
            of a smaller model), 0 from and to the first and last three tokens of the sequence.
        """
        outputs, length = self._run([[piece.id for chunk in window for piece in chunk.pieces]], attentions=True)
        keep = self._torch.softmax(outputs.logits.float(), dim=-1)[0, 1:-1, 1].cpu().numpy()
        layers = outputs.attentions
        chosen = [layers[i] for i in LAYERS] if len(layers) > max(LAYERS) else layers[-len(LAYERS) :]
        attention = sum(layer[0].float().mean(dim=0) for layer in chosen) / len(chosen)
        attention = attention.cpu().numpy()
        if length > 2 * _EDGE:
            attention[:_EDGE] = attention[-_EDGE:] = 0
            attention[:, :_EDGE] = attention[:, -_EDGE:] = 0
        return keep, attention[1:-1, 1:-1]

    def _run(self, ids: Sequence[Sequence[int]], *, attentions: bool) -> tuple[Any, int]:
        tokenizer, torch = self._tokenizer, self._torch
        rows = [[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in ids]
        length = max(map(len, rows))
        padded = [row + [self._pad] * (length - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        device = next(self._model.parameters()).device
        with self._lock, torch.inference_mode(), _eager(self._model, attentions):
            outputs = self._model(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                output_attentions=attentions,
            )
        return outputs, length


@contextmanager
def _eager(model: Any, wanted: bool) -> Iterator[None]:
    """Only the plain implementation of attention can show it."""
    before = model.config._attn_implementation
    if not wanted or before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# ------------------------------------------------------------------------------------ chunks
def _chunks(text: int, pieces: Sequence[_Piece], limit: int) -> Iterator[_Chunk]:
    """A text's tokens in chunks, cut after the last sentence end that fits, where there is one."""
    start = 0
    while start < len(pieces):
        end = min(start + limit, len(pieces))
        if end < len(pieces):
            ends = (i for i in range(end, start, -1) if pieces[i - 1].piece in _CHUNK_ENDS)
            end = next(ends, end)
        yield _Chunk(text, pieces[start:end])
        start = end


def _windows(chunks: Sequence[_Chunk]) -> Iterator[tuple[int, int]]:
    """Runs of chunks of at most 510 tokens, each starting with the last ones of the run before.

    What is shared has more tokens than are masked, so that the first new sentence sees the one before it.
    """
    first = 0
    while first < len(chunks):
        last, used = first, 0
        while last < len(chunks) and used + len(chunks[last].pieces) <= _MAX_TOKENS:
            used += len(chunks[last].pieces)
            last += 1
        yield first, last
        if last == len(chunks):
            return
        first, shared = last, 0
        while shared <= 2 * _EDGE and first > 0:
            first -= 1
            shared += len(chunks[first].pieces)


def _rows(owner: Sequence[int], attention: NDArray[np.float32]) -> Iterator[tuple[int, list[int], NDArray[np.float32]]]:
    """For each sentence of a window but the first, the earlier ones and its attention to each, summing to 1.

    Args:
        owner: the sentence that each token is of; ascending.
        attention: (t, t), rows attend to columns.
    """
    others: list[int] = []
    starts: list[int] = []
    at = 0
    for text, run in groupby(owner):
        end = at + len(list(run))
        if others and others[-1] == text - 1:  # without the one before it, a row says nothing of topics
            sums = np.add.reduceat(attention[at:end, :at].sum(axis=0), starts)
            if sums.sum() > 0:
                yield text, list(others), sums / sums.sum()
        others.append(text)
        starts.append(at)
        at = end


def _joined(text: str, spans: Sequence[Span], more: Sequence[Span]) -> list[Span]:
    """Spans with neighbours merged over the white space between them, where no word was left out."""
    out = list(spans)
    for a, b in more:
        if out and a < out[-1][1]:
            out[-1] = (out[-1][0], max(b, out[-1][1]))
        elif out and not text[out[-1][1] : a].strip():
            out[-1] = (out[-1][0], b)
        elif b > a:
            out.append((a, b))
    return out


# ------------------------------------------------------------------------------------ loading
def _prompt_compressor(model: str, device: str) -> Any:
    if importlib.util.find_spec("llmlingua") is None:
        raise MissingDependencyError("llmlingua", "llmlingua", "pre_compressor='llmlingua'")
    if budget_counter().name != "cl100k_base":
        raise ModelNotFoundError(
            "pre_compressor='llmlingua' needs tiktoken's cl100k_base vocabulary, which is not on this machine. Two "
            "ways to get it: (1) pip install llama-index-core, which carries it; (2) set TIKTOKEN_CACHE_DIR to a "
            "folder that holds it."
        )
    folder = Path(model)
    if folder.is_absolute() and not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"model: no config.json at {model}. Give the folder of a LLMLingua-2 model.")
    with _quiet(), _same_chance():
        from llmlingua import PromptCompressor

        try:
            return PromptCompressor(
                model, device_map=device, model_config={"trust_remote_code": False}, use_llmlingua2=True
            )
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(
                f"llmlingua could not load {model!r} ({error}). Give the folder of the model, or let the library "
                "fetch it once (HF_HUB_OFFLINE unset)."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The package uses arguments that newer transformers call deprecated; nobody here can act on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _same_chance() -> Iterator[None]:
    """The package seeds every generator of the process on loading; put them back."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the package sets this one
    seed, deterministic, benchmark = (
        os.environ.get("PYTHONHASHSEED"),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
        if seed is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = seed
