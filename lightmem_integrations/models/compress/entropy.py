"""Compression by surprisal: the words that a causal language model foresees are left out.

The surprisal of a token is −ln p(token | the tokens before it). A unit of ``core.compress`` is worth
the surprisal of its tokens, for each WordPiece token that it costs; protection and the target rate
are those of the lexical compressor, which differs only in where the probabilities come from.

Source: Selective Context (Li et al. 2023, arXiv 2310.06201).
"""

from __future__ import annotations

import importlib.util
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightmem_integrations.core.compress import (
    RATE,
    Weighed,
    check_rate,
    information,
    select,
    units,
)
from lightmem_integrations.core.types import Compression
from lightmem_integrations.errors import MissingDependencyError, ModelNotFoundError

__all__ = ["DEFAULT_MODEL", "EntropyCompressor"]

DEFAULT_MODEL = "openai-community/gpt2"
_WINDOW = 1_024  # tokens of a pass, at most; models with fewer positions take what they have
_NO_LIMIT = 1 << 20  # tokenizers without a limit of their own report an absurd one


class EntropyCompressor:
    """Compression by the surprisal of a causal language model, through transformers.

    Args:
        model: a folder or a name on the Hugging Face hub, of a causal model with a fast tokenizer.
            None means ``DEFAULT_MODEL``, which knows English.
        rate: share of WordPiece tokens to keep, 0 < rate ≤ 1.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        UsageError: rate out of range.
        MissingDependencyError: on first use, when transformers or PyTorch is not installed.
        ModelNotFoundError: on first use, when the model is not there.
    """

    name = "entropy"

    def __init__(self, model: str | Path | None = None, *, rate: float = RATE, device: str = "cpu") -> None:
        self.model = str(model or DEFAULT_MODEL)
        self.rate = check_rate(rate)
        self.device = device
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def load(self) -> None:
        """Load the model, once. Making the object loads nothing."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.model, self.device)

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        """Keep the least expected words of each text; one text at a time, long ones in windows.

        A text that makes the model fail comes back whole and ``failed``.
        """
        self.load()
        weighed = [self._weigh(text) for text in texts]
        made = select(texts, [w or Weighed((), (), ()) for w in weighed], self.rate)
        return [
            Compression(c.text, c.kept, c.tokens_before, c.tokens_after, failed=True) if w is None else c
            for c, w in zip(made, weighed, strict=True)
        ]

    def surprisal(self, text: str) -> list[tuple[int, int, float]]:
        """Each token of the model: start, end, and −ln p in nats given what stands before it.

        The first token follows the model's begin token. In a long text every window but the first
        starts with the last half of the one before, so that a token has at least half a window of
        context.
        """
        self.load()
        assert self._loaded is not None
        model, tokenizer = self._loaded
        sound = text.encode("utf-8", "replace").decode("utf-8")
        found = tokenizer(
            sound, add_special_tokens=False, return_offsets_mapping=True, verbose=False, split_special_tokens=True
        )
        nats: list[float] = []
        for start, skip, ids in _windows(found["input_ids"], _positions(model, tokenizer) - 1):
            assert start + skip == len(nats)
            nats += _surprisals(model, tokenizer, ids)[skip:]
        return [(a, b, n) for (a, b), n in zip(found["offset_mapping"], nats, strict=True)]

    def _weigh(self, text: str) -> Weighed | None:
        if self.rate == 1 or not text.strip():
            return Weighed((), (), ())
        parts = units(text)
        costs = information(text, parts)[0]
        try:
            tokens = self.surprisal(text)
        except (RuntimeError, IndexError, ValueError):  # out of memory, or an id that the model does not have
            return None
        worth = [0.0] * len(parts)
        starts = [part.start for part in parts]
        for a, b, nats in tokens:
            # A token may start with the space before its word, and may be part of one character.
            at = bisect_right(starts, max(a, b - 1)) - 1
            if at >= 0:
                worth[at] += nats
        scores = [value / cost if cost else 0.0 for value, cost in zip(worth, costs, strict=True)]
        return Weighed(parts, costs, scores)


def _windows(ids: Sequence[int], size: int) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Overlapping windows: where each starts, how many of its tokens were seen before, its tokens."""
    start = skip = 0
    while start + skip < len(ids):
        window = ids[start : start + size]
        yield start, skip, window
        following = start + len(window)
        start = max(start + 1, following - size // 2)
        skip = following - start


def _positions(model: Any, tokenizer: Any) -> int:
    known = [getattr(model.config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min([_WINDOW, *(int(n) for n in known if n and n < _NO_LIMIT)])


def _surprisals(model: Any, tokenizer: Any, ids: Sequence[int]) -> list[float]:
    import torch

    begin = next(
        (i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id) if i is not None), ids[0]
    )
    row = torch.tensor([[begin, *ids]], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=row).logits[0, :-1].float()
        chosen = torch.log_softmax(logits, dim=-1).gather(1, row[0, 1:, None])
    nats: list[float] = (-chosen[:, 0]).cpu().tolist()
    return nats


def _load(model: str, device: str) -> tuple[Any, Any]:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "llmlingua", "pre_compressor='entropy'")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        return AutoModelForCausalLM.from_pretrained(model).eval().to(device), tokenizer
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"transformers could not load {model!r} ({error}). Give the folder of a causal language model, or let the "
            "library fetch it once (HF_HUB_OFFLINE unset)."
        ) from error
