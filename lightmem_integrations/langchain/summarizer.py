"""``lightmem_summarizer``: summaries of a conversation without a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import numpy as np
from langchain_core.messages import BaseMessage

from lightmem_integrations._adapters import embedder_of, is_summary, text_of
from lightmem_integrations.core.compress import LexicalCompressor, safely
from lightmem_integrations.core.encode import encode_texts
from lightmem_integrations.core.extract import SourceTurn, extract
from lightmem_integrations.core.passages import sentences
from lightmem_integrations.core.segment import segment
from lightmem_integrations.core.tokens import wordpiece_counts
from lightmem_integrations.core.types import Message, Vector
from lightmem_integrations.errors import EmbedderError, UsageError
from lightmem_integrations.memory import LightMem

__all__ = ["lightmem_summarizer"]

_BULLET = "- "
_INTRODUCTION = "Here is a summary of the conversation"
_LEAST_SHARE = 30  # tokens; a shorter summary of a topic says nothing
_LEAST_RATE = 0.4


def lightmem_summarizer(lightmem: LightMem, *, max_tokens: int = 500) -> Callable[[Sequence[BaseMessage]], str]:
    """A function that summarises messages, for ``SummarizationMiddleware(summarizer=...)``.

    The conversation is cut into topics, and each is told in its own words: the sentences that say most
    of it, with who said them. What an earlier summary told comes first; when there is too much, it is
    compressed, and at last the oldest goes. Nothing is stored. Tool calls and their results are left out.

    Args:
        lightmem: lends its embedder; without one, or when it fails, words are compared.
        max_tokens: longest summary, in WordPiece tokens, at least 30.

    Raises:
        UsageError: ``max_tokens`` is too small.
    """
    if max_tokens < _LEAST_SHARE:
        raise UsageError("max_tokens", f"must be at least {_LEAST_SHARE}", max_tokens)

    def summarize(messages: Sequence[BaseMessage]) -> str:
        earlier = [line for message in messages if is_summary(message) for line in _told(text_of(message))]
        turns = list(_turns([message for message in messages if not is_summary(message)]))
        return "\n".join(_fitted([*earlier, *_topics(lightmem, turns, max_tokens)], max_tokens))

    return summarize


def _told(summary: str) -> Iterator[str]:
    """The lines of an earlier summary, ours or another's, without the sentence that the middleware puts in front."""
    for line in summary.splitlines():
        if line.startswith(_BULLET):
            yield line
        elif not line.startswith(_INTRODUCTION):
            yield from (_BULLET + line[part.start : part.end].strip() for part in sentences(line))


def _turns(messages: Sequence[BaseMessage]) -> Iterator[SourceTurn]:
    now = datetime.now(timezone.utc)
    for n, message in enumerate(messages):
        if message.type in ("human", "ai") and text_of(message).strip():
            read = Message.from_any(message)
            yield SourceTurn(str(n), read.role, read.speaker, read.content, read.timestamp or now)


def _topics(lightmem: LightMem, turns: Sequence[SourceTurn], max_tokens: int) -> list[str]:
    """A line for each topic, in order; of too many, those of the least importance are left out."""
    if not turns:
        return []
    vectors = _vectors(lightmem, turns)
    cuts = segment(vectors, [turn.text for turn in turns], [turn.timestamp for turn in turns])
    share = max(_LEAST_SHARE, max_tokens // (len(cuts) + 1) - len(_BULLET))
    found = [
        extract(turns[a:b], vectors=None if vectors is None else vectors[a:b], summary_tokens=share)
        for a, b in pairwise([0, *cuts, len(turns)])
    ]
    best = sorted(range(len(found)), key=lambda n: (-found[n].importance, n))[: max(1, max_tokens // share)]
    return [_BULLET + " ".join(found[n].summary.split()) for n in sorted(best) if found[n].summary]


def _vectors(lightmem: LightMem, turns: Sequence[SourceTurn]) -> Vector | None:
    embedder: Any = embedder_of(lightmem)
    if embedder is None:
        return None
    try:
        return np.stack([e.vector for e in encode_texts(embedder, [turn.text for turn in turns])])
    except EmbedderError:  # words are compared instead
        return None


def _fitted(lines: list[str], max_tokens: int) -> list[str]:
    def size() -> int:
        return sum(wordpiece_counts(lines))

    if size() > max_tokens:
        rate = max(_LEAST_RATE, max_tokens / size())
        said = [line.removeprefix(_BULLET) for line in lines]
        lines = [_BULLET + made.text for made in safely(LexicalCompressor(rate), said)[0]]
    while size() > max_tokens and len(lines) > 1:
        lines = lines[1:]
    return lines
