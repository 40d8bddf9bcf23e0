"""Cutting a buffer of turns into topics, and the sensory buffer that decides when to cut.

A boundary is the index of the first turn of a new segment, so the boundaries of n turns lie in 1..n-1
and n turns with b boundaries are b + 1 segments.

Two methods:

* ``segment`` without attention is a whole-buffer optimum. Similarities of all pairs of turns are centred
  within the buffer, and dynamic programming finds the cuts that maximise the cohesion of the segments
  less a cost for each cut (kernel change-point detection: Harchaoui and Cappé 2007; Arlot, Celisse and
  Harchaoui 2019). The cost depends on what can be seen at the cut: how deep the valley of similarity is
  there (TextTiling: Hearst 1997), and whether the turns form a question and its answer or the second one
  refers back to the first (cue phrases: Grosz and Sidner 1986; Hirschberg and Litman 1993).
* With an attention matrix it is LightMem's hybrid (arXiv 2510.18866, section 3): boundaries of similarity
  that are confirmed by a peak of attention.

Everything is a function of the turns given: no model, no clock, no state but ``SensoryBuffer``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.analyze import terms
from lightmem_integrations.errors import UsageError

__all__ = [
    "BUFFER_TOKENS",
    "CONTEXT_TURNS",
    "BufferedTurn",
    "Cut",
    "HybridParameters",
    "SegmentParameters",
    "SensoryBuffer",
    "attention_boundaries",
    "lengths",
    "segment",
    "similarity_boundaries",
    "valleys",
]

BUFFER_TOKENS = 512
"""Size of the sensory buffer in tokens (LightMem, section 3.1)."""

CONTEXT_TURNS = 20
"""Turns handed out before that are shown to ``segment`` beside the buffer.

A buffer holds few turns; what is usual in this conversation shows in more. On the development sets 20
gain most of what there is to gain, and 100 no more than 40.
"""

_Floats = NDArray[np.float64]


def _check_costs(parameters: Any) -> None:
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(field.name, "must be a finite number", value)


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(name, f"must be a whole number of at least {least}", value)


def _check_gap(value: timedelta | None) -> None:
    if value is not None and value < timedelta(0):
        raise UsageError("max_gap", "must not be negative", value)


@dataclass(frozen=True, slots=True)
class SegmentParameters:
    """What a cut costs, in units of mean centred cosine. One set for all languages and encoders.

    The values are round numbers chosen on the development sets in ``docs/segmentation.md``.

    Attributes:
        penalty: cost of any cut, times the natural logarithm of the number of turns, as in BIC.
        question: added when the turn before the cut ends with a question: its answer follows.
        continuation: added when the turn after the cut opens with a word that refers back ("it",
            "but", "yes", "thanks"). English and Chinese.
        opening: taken off when the turn after the cut asks something: questions open topics.
        valley: taken off for each standard deviation by which the valley of similarity at the cut
            is deeper than the buffer's mean valley; added where it is shallower.
        width: turns on each side of a gap that are compared for its valley, at least 1.
        max_gap: a pause between two turns longer than this is always a boundary; None for never.
            Not measured: the development sets have no times.
    """

    penalty: float = 0.2
    question: float = 0.3
    continuation: float = 0.3
    opening: float = 0.1
    valley: float = 0.2
    width: int = 2
    max_gap: timedelta | None = timedelta(hours=1)

    def __post_init__(self) -> None:
        _check_costs(self)
        _check_whole("width", self.width, 1)
        _check_gap(self.max_gap)


@dataclass(frozen=True, slots=True)
class HybridParameters:
    """LightMem's hybrid of attention and similarity.

    Attributes:
        tau_first: similarity of two adjacent turns below which there may be a boundary, at first.
        tau_step: how much it is raised as long as no boundary is found.
        tau_last: where that ends. The paper names one threshold; the steps are those of its code,
            0.2 to 0.5 by 0.05.
        tolerance: turns by which a peak of attention may miss the dip of similarity that it
            confirms. 0 is the paper's intersection, 3 what its code does.
        max_gap: as in ``SegmentParameters``.
    """

    tau_first: float = 0.2
    tau_step: float = 0.05
    tau_last: float = 0.5
    tolerance: int = 0
    max_gap: timedelta | None = timedelta(hours=1)

    def __post_init__(self) -> None:
        _check_costs(self)
        if self.tau_step <= 0:
            raise UsageError("tau_step", "must be above 0", self.tau_step)
        if self.tau_last < self.tau_first:
            raise UsageError("tau_last", "must not be below tau_first", self.tau_last)
        _check_whole("tolerance", self.tolerance, 0)
        _check_gap(self.max_gap)

    @property
    def taus(self) -> list[float]:
        """The thresholds that are tried, in order."""
        # A step that does not divide the range must not pass its end; rounding must not lose the end.
        steps = math.floor((self.tau_last - self.tau_first) / self.tau_step + 1e-9)
        return [self.tau_first + i * self.tau_step for i in range(steps + 1)]


DEFAULTS = SegmentParameters()
HYBRID = HybridParameters()


# ------------------------------------------------------------------------------------ segmenting
def segment(
    vectors: Any,
    texts: Sequence[str],
    times: Sequence[datetime | None] | None = None,
    *,
    context: int = 0,
    parameters: SegmentParameters = DEFAULTS,
    attention: Any = None,
    hybrid: HybridParameters = HYBRID,
) -> list[int]:
    """The boundaries of a run of turns. Takes O(n²) time and memory, so it is given one buffer.

    Args:
        vectors: (n, dim), one per turn, such as the engine's entry vectors; lengths do not matter,
            and a row of zeros is a turn that nothing is known of. None compares the words instead.
        texts: the turns. Roles are not needed; a leading ``Name:`` is passed over.
        times: when each was said; a turn without a time is never after a pause.
        context: so many of the first turns were handed out before. They are compared with the
            others and are not cut again.
        parameters: of the method without attention.
        attention: (n, n) rows of an ``Attention``; not None chooses the hybrid method.
        hybrid: its parameters.

    Returns:
        Ascending indices of the turns that begin a new segment, the first turn after the context
        counted as 0 and never among them; empty for one segment.

    Raises:
        UsageError: numbers of turns differ, or there is NaN or infinity in what was given.
    """
    n = len(texts)
    if times is not None and len(times) != n:
        raise UsageError("times", f"must be one per turn, {n}", len(times))
    kernel = _kernel(vectors, texts)
    matrix = None if attention is None else _numbers("attention", attention, (n, n))
    _check_whole("context", context, 0)
    if n < 2:
        return []
    pauses = _pauses(times, (parameters if matrix is None else hybrid).max_gap)
    if matrix is not None:
        found = sorted(pauses.union(_hybrid(kernel, matrix, hybrid)))
    else:
        found = _optimum(_cohesion(_centred(kernel)), _costs(kernel, texts, parameters), pauses)
    return [boundary - context for boundary in found if boundary > context]


def lengths(boundaries: Sequence[int], n: int) -> list[int]:
    """The lengths of the segments that the boundaries make of n turns; empty for no turns.

    >>> lengths([2, 3], 5)
    [2, 1, 2]

    Raises:
        UsageError: the boundaries are not ascending indices in 1..n-1.
    """
    edges = [0, *boundaries, n]
    if not n and not boundaries:
        return []
    if any(b <= a for a, b in itertools.pairwise(edges)):
        raise UsageError("boundaries", f"must be ascending indices in 1..{n - 1}", list(boundaries))
    return [b - a for a, b in itertools.pairwise(edges)]


# ------------------------------------------------------------------------------------ similarity
def _kernel(vectors: Any, texts: Sequence[str]) -> _Floats:
    """Cosines of all pairs of turns, (n, n)."""
    if vectors is None:
        rows = _word_vectors(texts)
    else:
        rows = _numbers("vectors", vectors, (len(texts), -1)) if len(texts) else np.zeros((0, 1))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1)
    return np.asarray(rows @ rows.T, float)


def _word_vectors(texts: Sequence[str]) -> _Floats:
    """tf-idf over the index terms of the turns, with idf = ln(1 + n / df)."""
    bags = [Counter(terms(_unlabelled(text))) for text in texts]
    df = Counter(itertools.chain.from_iterable(bags))
    column = {term: i for i, term in enumerate(df)}
    rows = np.zeros((len(bags), max(1, len(column))))
    for row, bag in zip(rows, bags, strict=True):
        for term, count in bag.items():
            row[column[term]] = (1 + math.log(count)) * math.log(1 + len(bags) / df[term])
    return rows


def _centred(kernel: _Floats) -> _Floats:
    """Cosines of the vectors seen from their mean, with a zero diagonal and no bias for n.

    Seen from the mean, what all turns of this conversation share, and what all texts share for this
    encoder, is gone, so that one penalty fits them all. Cosines of n unrelated centred vectors are
    -1 / (n - 1) in the mean, which would drive short buffers into pieces and is taken off.
    """
    n = len(kernel)
    centred = kernel - kernel.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.maximum(np.diag(centred), 0))
    # Below this, equal turns differ by rounding only; they must not be told apart by it.
    scale = np.where(spread > 1e-6, spread, np.inf)
    centred = centred / np.outer(scale, scale) + 1 / (n - 1)
    np.fill_diagonal(centred, 0)
    return np.asarray(centred)


def _sums(matrix: _Floats) -> _Floats:
    """(n + 1, n + 1) sums over the leading rows and columns, from which any block's sum follows."""
    sums = np.zeros((len(matrix) + 1, len(matrix) + 1))
    sums[1:, 1:] = matrix.cumsum(axis=0).cumsum(axis=1)
    return sums


def _cohesion(similarities: _Floats) -> _Floats:
    """[s, e]: mean similarity of the pairs in turns s..e-1, times their number less one.

    The sum over all segments is that of the objective of kernel k-means.
    """
    sums, index = _sums(similarities), np.arange(len(similarities) + 1)
    diagonal = np.diag(sums)
    within = diagonal[None, :] - sums - sums.T + diagonal[:, None]
    return np.asarray(within / np.maximum(index[None, :] - index[:, None], 1))


def valleys(vectors: Any, texts: Sequence[str], width: int) -> _Floats:
    """How far the similarity at each gap lies below the peaks on both sides (Hearst 1997).

    Args:
        vectors: as for ``segment``.
        texts: as for ``segment``.
        width: turns before and after a gap whose mean vectors are compared, by cosine.

    Returns:
        (n - 1,) standard scores: 0 for a gap of mean depth, 1 for one standard deviation deeper.

    Raises:
        UsageError: as ``segment`` does.
    """
    _check_whole("width", width, 1)
    kernel = _kernel(vectors, texts)
    return _valleys(kernel, width) if len(kernel) > 1 else np.zeros(0)


def _valleys(kernel: _Floats, width: int) -> _Floats:
    n, sums = len(kernel), _sums(kernel)
    middle = np.arange(1, n)
    first, last = np.maximum(0, middle - width), np.minimum(n, middle + width)

    def block(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]) -> _Floats:
        return np.asarray(sums[b, d] - sums[a, d] - sums[b, c] + sums[a, c])

    before, after = block(first, middle, first, middle), block(middle, last, middle, last)
    size = np.sqrt(np.maximum(before * after, 1e-12))
    # Rounding keeps equal turns from being told apart by the last bits.
    similarity = np.round(block(first, middle, middle, last) / size, 9)
    depth = _peaks(similarity) + _peaks(similarity[::-1])[::-1] - 2 * similarity
    spread = float(depth.std())
    return (depth - depth.mean()) / spread if spread > 1e-6 else np.zeros(n - 1)


def _peaks(values: _Floats) -> _Floats:
    """The height that is reached from each place by walking left as long as it does not go down."""
    peaks = values.copy()
    for i in range(1, len(values)):
        if values[i - 1] >= values[i]:
            peaks[i] = peaks[i - 1]
    return peaks


# ------------------------------------------------------------------------------------ what a cut costs
_LABEL = re.compile(r"\s*\w[\w .'’-]{0,40}[:：]\s*")
_QUESTION = re.compile("[?？؟]")
_REFERS_BACK = re.compile(
    r"\W*(?:"
    r"(?:it|its|that|this|these|those|they|he|she|him|her|so|and|but|or|same|me too|"  # the thing said before
    r"yes|yeah|yep|no|nope|not|sure|ok|okay|of course|right|well|"  # an answer
    r"oh|wow|really|great|good|sounds|thanks|thank)\b"  # a reaction
    r"|[是对對好那这這嗯谢謝但不没沒哦哇真他她它也]|可是|所以|当然|當然|而且|还有|還有)",
    re.IGNORECASE,
)


def _costs(kernel: _Floats, texts: Sequence[str], parameters: SegmentParameters) -> _Floats:
    """Cost of a cut before turns 1..n-1, in this order."""
    said = [_unlabelled(text) for text in texts]
    asks = np.array([text.rstrip().endswith(("?", "？", "؟")) for text in said[:-1]], float)
    refers = np.array([_REFERS_BACK.match(text) is not None for text in said[1:]], float)
    opens = np.array([_QUESTION.search(text) is not None for text in said[1:]], float)
    costs = parameters.penalty * math.log(len(texts)) - parameters.valley * _valleys(kernel, parameters.width)
    costs += parameters.question * asks + parameters.continuation * refers - parameters.opening * opens
    return np.asarray(costs)


def _unlabelled(text: str) -> str:
    label = _LABEL.match(text)
    return text[label.end() :] if label else text


def _optimum(cohesion: _Floats, costs: _Floats, forced: set[int]) -> list[int]:
    """The boundaries that maximise cohesion less costs, with a boundary at each forced place."""
    n = len(costs) + 1
    best, start_of = np.zeros(n + 1), np.zeros(n + 1, int)
    cost = np.concatenate([[0.0], costs])
    lowest = 0
    for end in range(1, n + 1):
        # The last segment may not reach back over a forced boundary.
        lowest = end - 1 if end - 1 in forced else lowest
        totals = best[lowest:end] + cohesion[lowest:end, end] - cost[lowest:end]
        # Where cutting gains nothing but rounding errors, the longest segment wins.
        choice = int(np.argmax(totals >= totals.max() - 1e-9))
        best[end], start_of[end] = totals[choice], lowest + choice
    boundaries, end = [], n
    while start_of[end]:
        end = int(start_of[end])
        boundaries.append(end)
    return boundaries[::-1]


def _pauses(times: Sequence[datetime | None] | None, max_gap: timedelta | None) -> set[int]:
    if times is None or max_gap is None:
        return set()
    return {i for i, (a, b) in enumerate(itertools.pairwise(times), 1) if _is_pause(a, b, max_gap)}


def _is_pause(before: datetime | None, after: datetime | None, max_gap: timedelta | None) -> bool:
    if before is None or after is None or max_gap is None:
        return False
    if (before.tzinfo is None) != (after.tzinfo is None):
        raise UsageError("times", "must all have a zone, or none of them", f"{before}, {after}")
    # A jump back in time is an older conversation brought in, and as much a break as a jump ahead.
    return abs(after - before) > max_gap


# ------------------------------------------------------------------------------------ the hybrid
def attention_boundaries(attention: Any) -> list[int]:
    """B1: sentences whose attention to the sentence before is a local maximum.

    The cut lies before the sentence at the peak. (The published code reports the index of the gap,
    which is one too low.) The first and the last gap are peaks when they exceed their one neighbour;
    of equal neighbours the first is the peak.

    Args:
        attention: (n, n); [k, k-1] is how much of its attention sentence k gives to sentence k-1.

    Raises:
        UsageError: not square, or NaN or infinity in it.
    """
    matrix = _numbers("attention", attention, (-1, -1))
    if matrix.shape[0] != matrix.shape[1]:
        raise UsageError("attention", "must be square", matrix.shape)
    heights = np.concatenate([[-np.inf], np.diag(matrix, -1), [-np.inf]])
    inner = heights[1:-1]
    return [int(i) for i in np.flatnonzero((inner > heights[:-2]) & (inner >= heights[2:])) + 1]


def similarity_boundaries(vectors: Any, tau: float) -> list[int]:
    """B2: turns whose cosine with the turn before is below ``tau``.

    Raises:
        UsageError: not (n, dim), or NaN or infinity in it.
    """
    return _dips(_kernel(vectors, [""] * len(vectors)), tau)


def _dips(kernel: _Floats, tau: float) -> list[int]:
    return [int(i) for i in np.flatnonzero(np.diag(kernel, -1) < tau) + 1]


def _hybrid(kernel: _Floats, attention: _Floats, parameters: HybridParameters) -> list[int]:
    """B1 ∩ B2 for the first threshold that leaves anything of it; see ``docs/segmentation.md``."""
    peaks = attention_boundaries(attention)
    for tau in parameters.taus:
        found = [b for b in _dips(kernel, tau) if any(abs(b - peak) <= parameters.tolerance for peak in peaks)]
        if found:
            return found
    return []


# ------------------------------------------------------------------------------------ the buffer
@dataclass(frozen=True, slots=True)
class BufferedTurn:
    """A turn in the sensory buffer: its id, its length and when it was said."""

    id: str
    tokens: int
    time: datetime | None = None

    def __post_init__(self) -> None:
        _check_whole("tokens", self.tokens, 0)


Cut = Callable[[Sequence[BufferedTurn]], Sequence[int]]
"""Gives the boundaries of some turns, as ``segment`` does."""


class SensoryBuffer:
    """Collects the turns of one session until they are worth cutting, and hands out closed segments.

    When a turn fills the buffer it is cut. All segments but the last are closed and handed out; the
    last may go on and stays. One that fills the buffer by itself is handed out too, so a stream that
    never pauses or changes its topic makes progress. A pause closes everything before it.

    Every turn is handed out exactly once and in order. Between calls the buffer holds less than
    ``limit`` tokens, and during one at most the turn that was pushed more.

    The buffer is its ``turns``: keep them, and ``SensoryBuffer(cut, turns=…)`` goes on where another
    process stopped. Turns of no token count as one, so that their number is bounded as well.

    Args:
        cut: called with the turns to be cut, at least two of them.
        limit: tokens, at least 1.
        max_gap: a pause longer than this between two turns closes all before it; None for never.
        turns: what a former buffer held.
    """

    def __init__(
        self,
        cut: Cut,
        *,
        limit: int = BUFFER_TOKENS,
        max_gap: timedelta | None = DEFAULTS.max_gap,
        turns: Sequence[BufferedTurn] = (),
    ) -> None:
        _check_whole("limit", limit, 1)
        _check_gap(max_gap)
        self._cut, self._limit, self._max_gap = cut, limit, max_gap
        self._turns: tuple[BufferedTurn, ...] = tuple(turns)

    @property
    def turns(self) -> tuple[BufferedTurn, ...]:
        """What was pushed and not handed out yet."""
        return self._turns

    @property
    def tokens(self) -> int:
        """Length of the buffer."""
        return _tokens(self._turns)

    def push(self, turn: BufferedTurn) -> list[tuple[BufferedTurn, ...]]:
        """Add a turn; returns the segments that this closes, in order, often none.

        Raises:
            UsageError: ``cut`` gave something else than boundaries.

        Whatever ``cut`` raises passes through; the buffer is then as before the call.
        """
        closed: list[tuple[BufferedTurn, ...]] = []
        held = self._turns
        if held and _is_pause(held[-1].time, turn.time, self._max_gap):
            closed, held = self._pieces(held), ()
        held = (*held, turn)
        if _tokens(held) >= self._limit:
            *more, held = self._pieces(held)
            closed += more
            if _tokens(held) >= self._limit:
                closed.append(held)
                held = ()
        self._turns = held
        return closed

    def flush(self) -> list[tuple[BufferedTurn, ...]]:
        """Hand out everything, cut into segments. Raises as ``push`` does, losing nothing."""
        closed = self._pieces(self._turns)
        self._turns = ()
        return closed

    def _pieces(self, turns: tuple[BufferedTurn, ...]) -> list[tuple[BufferedTurn, ...]]:
        boundaries = self._cut(turns) if len(turns) > 1 else ()
        rest = iter(turns)
        return [tuple(itertools.islice(rest, size)) for size in lengths(boundaries, len(turns))]


def _tokens(turns: Sequence[BufferedTurn]) -> int:
    return sum(max(1, turn.tokens) for turn in turns)


# ------------------------------------------------------------------------------------ checking
def _numbers(name: str, values: Any, shape: tuple[int, int]) -> _Floats:
    """Two-dimensional finite numbers; -1 in ``shape`` stands for any length."""
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise UsageError(name, "must be an array of numbers", type(values).__name__) from error
    wanted = ", ".join("any" if size < 0 else str(size) for size in shape)
    if array.ndim != 2 or any(size not in (-1, got) for size, got in zip(shape, array.shape, strict=True)):
        raise UsageError(name, f"must have the shape ({wanted})", array.shape)
    if not np.isfinite(array).all():
        raise UsageError(name, "must hold no NaN or infinity", array)
    return array
