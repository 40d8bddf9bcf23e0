"""Cutting a long text into overlapping passages on sentence bounds.

A text of at most ``PASSAGE_TOKENS`` is one passage. A longer one becomes passages of whole sentences
up to that length, each repeating the last sentences of the one before, up to ``OVERLAP_TOKENS``. A
sentence longer than a passage is cut between tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from lightmem_integrations.core.tokens import wordpiece
from lightmem_integrations.core.types import Passage

PASSAGE_TOKENS = 200
OVERLAP_TOKENS = 40

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def sentences(text: str) -> list[Passage]:
    """The sentences of a text, by character offsets; together they cover all of it."""
    cuts = [0, *(m.end() for m in _SENTENCE_END.finditer(text)), len(text)]
    return [Passage(a, b) for a, b in itertools.pairwise(cuts) if b > a]


def cut(text: str) -> list[Passage]:
    """The passages of a text, in order; together they cover all of it.

    >>> cut("Short texts stay whole.")
    [Passage(start=0, end=23)]
    """
    # A token is at least one character, so most texts need no tokenizer to be seen as short.
    if len(text) <= PASSAGE_TOKENS:
        return [Passage(0, len(text))]
    pieces = list(_pieces(text))
    if sum(size for _, size in pieces) <= PASSAGE_TOKENS:
        return [Passage(0, len(text))]
    out: list[Passage] = []
    first = 0
    while True:
        last, used = first, pieces[first][1]
        while last + 1 < len(pieces) and used + pieces[last + 1][1] <= PASSAGE_TOKENS:
            last += 1
            used += pieces[last][1]
        out.append(Passage(pieces[first][0].start, pieces[last][0].end))
        if last + 1 == len(pieces):
            return out
        following, repeated = last + 1, 0
        while following - 1 > first and repeated + pieces[following - 1][1] <= OVERLAP_TOKENS:
            following -= 1
            repeated += pieces[following][1]
        first = following


def _pieces(text: str) -> Iterator[tuple[Passage, int]]:
    """Sentences with their length in tokens; those longer than a passage in parts."""
    spans = sentences(text)
    encodings = wordpiece().encode_batch([text[p.start : p.end] for p in spans], add_special_tokens=False)
    for span, encoding in zip(spans, encodings, strict=True):
        offsets = encoding.offsets
        if len(offsets) <= PASSAGE_TOKENS:
            yield span, len(offsets)
            continue
        starts = [span.start + offsets[i][0] for i in range(0, len(offsets), PASSAGE_TOKENS)]
        starts[0] = span.start
        for i, (a, b) in enumerate(zip(starts, [*starts[1:], span.end], strict=True)):
            yield Passage(a, b), min(PASSAGE_TOKENS, len(offsets) - i * PASSAGE_TOKENS)
