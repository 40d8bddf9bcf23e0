"""Compressors by name: what ``pre_compressor`` may name."""

from __future__ import annotations

from pathlib import Path

from lightmem_integrations.core.compress import RATE, LexicalCompressor
from lightmem_integrations.core.ports import Compressor
from lightmem_integrations.errors import ConfigError

__all__ = ["COMPRESSORS", "make_compressor"]

COMPRESSORS = ("lexical", "llmlingua", "entropy", "none")


def make_compressor(
    name: str, *, rate: float = RATE, model: str | Path | None = None, device: str = "cpu"
) -> Compressor | None:
    """The compressor of that name; None for ``none``. Models are loaded on first use.

    Args:
        name: one of ``COMPRESSORS``.
        rate: share of tokens to keep, 0 < rate ≤ 1.
        model: a folder or a name on the Hugging Face hub; None means the compressor's default.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: unknown name.
        UsageError: rate out of range.
    """
    match name:
        case "lexical":
            return LexicalCompressor(rate)
        case "llmlingua":
            from lightmem_integrations.models.compress.llmlingua import LLMLinguaCompressor

            return LLMLinguaCompressor(model, rate=rate, device=device)
        case "entropy":
            from lightmem_integrations.models.compress.entropy import EntropyCompressor

            return EntropyCompressor(model, rate=rate, device=device)
        case "none":
            return None
        case other:
            raise ConfigError("pre_compressor", f"must be one of {', '.join(COMPRESSORS)}", other)
