"""Counting tokens: WordPiece for everything that is stored, cl100k for budgets where it is at hand.

The WordPiece vocabulary of all-MiniLM-L6-v2 ships with the package, so that passages and windows are
cut alike on every machine. A budget for an LLM's prompt is counted with tiktoken's ``cl100k_base``
when its vocabulary file lies on this machine; it is never downloaded.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

# tiktoken names a cached vocabulary by the SHA-1 of its address (tiktoken/load.py).
_CL100K_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"

# Not \s: some white space is a control character to the tokenizer, which drops it and joins what is around it.
_WORD = re.compile("[^ \t\n\r]+")
_MAX_CACHED_CHARS = 32


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A way of counting. ``name`` is ``cl100k_base`` or ``wordpiece``; ``count`` takes a text."""

    name: str
    count: Callable[[str], int]


@lru_cache(maxsize=1)
def wordpiece() -> Any:
    """The shipped tokenizer (``tokenizers.Tokenizer``), without truncation or padding."""
    from tokenizers import Tokenizer

    data = resources.files("lightmem_integrations").joinpath("data/minilm-tokenizer.json")
    tokenizer = Tokenizer.from_str(data.read_text(encoding="utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def wordpiece_count(text: str) -> int:
    """Length of a text in WordPiece tokens, special tokens not counted."""
    # No token reaches over a space, so a word that comes again need not be encoded again. What is written
    # without spaces is no word but a text, and texts of users are not kept.
    count, rest = 0, []
    for word in _WORD.findall(text):
        if word.isascii() and len(word) <= _MAX_CACHED_CHARS:
            count += _word_count(word)
        else:
            rest.append(word)
    return count + len(wordpiece().encode(" ".join(rest), add_special_tokens=False)) if rest else count


def wordpiece_counts(texts: Sequence[str]) -> list[int]:
    """``wordpiece_count`` of many texts."""
    return [wordpiece_count(text) for text in texts]


@lru_cache(maxsize=1 << 16)
def _word_count(word: str) -> int:
    return len(wordpiece().encode(word, add_special_tokens=False))


@lru_cache(maxsize=1)
def budget_counter() -> TokenCounter:
    """The counter for prompt budgets: cl100k where its vocabulary is here, else WordPiece."""
    folder = _cl100k_folder()
    if folder is not None:
        try:
            return _cl100k(folder)
        except ImportError:
            pass  # the vocabulary is here but tiktoken is not; the result names the counter that was used
    return TokenCounter("wordpiece", wordpiece_count)


def _cl100k(folder: Path) -> TokenCounter:
    import tiktoken

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        encoding = tiktoken.get_encoding("cl100k_base")
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
    return TokenCounter("cl100k_base", lambda text: len(encoding.encode(text, disallowed_special=())))


def _cl100k_folder() -> Path | None:
    """Where the vocabulary lies: the cache of tiktoken, or the copy inside llama-index-core."""
    named = [os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    folders = [Path(name) for name in named if name]
    folders.append(Path(tempfile.gettempdir()) / "data-gym-cache")
    folders += [Path(entry) / "llama_index/core/_static/tiktoken_cache" for entry in sys.path if entry]
    return next((folder for folder in folders if (folder / _CL100K_FILE).is_file()), None)
