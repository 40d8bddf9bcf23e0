"""Topic segmentation: how well the boundaries of labelled dialogues are found.

Figures of one method on one file:

============== ==================================================================================
``pk``         share of windows in which exactly one of gold and prediction has a boundary
               (Beeferman et al. 1999), mean over dialogues; lower is better
``windowdiff`` share of windows with another number of boundaries than gold (Pevzner and Hearst
               2002), mean over dialogues; lower is better
``f1``         of exact boundary positions, over all dialogues together
``f1~1``       the same when a boundary may be one turn off
``precision``  share of the predicted boundaries that are right, and
``recall``     share of the gold boundaries that are found, both exact
``ratio``      predicted boundaries by gold boundaries: 1 is neither too many nor too few
============== ==================================================================================

A window is half the dialogue's mean gold segment long, at least 2 gaps, and at most the dialogue.
"Cut nothing" is a good Pk on short dialogues; read it together with F1 and the ratio.
"""

from __future__ import annotations

import glob
import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.bench.metrics import Interval, bootstrap
from lightmem_integrations.bench.provenance import Provenance, provenance
from lightmem_integrations.core.encode import encode_texts, name_of
from lightmem_integrations.core.segment import (
    BUFFER_TOKENS,
    CONTEXT_TURNS,
    BufferedTurn,
    SensoryBuffer,
    lengths,
    segment,
    valleys,
)
from lightmem_integrations.core.tokens import wordpiece_counts
from lightmem_integrations.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lightmem_integrations.core.ports import Embedder

__all__ = [
    "Dialogue",
    "SegmentReport",
    "SegmentRow",
    "Segmenter",
    "load_dialogues",
    "pk",
    "render_segment",
    "run_segment",
    "texttiling",
    "through_buffer",
    "windowdiff",
]

Segmenter = Callable[[Any, Sequence[str]], Sequence[int]]
"""From one vector a turn, or None, and the turns to boundaries, as ``core.segment.segment`` does."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A labelled dialogue.

    Attributes:
        segments: lengths in turns of its topics; they add up to the number of turns.
    """

    id: str
    language: str
    utterances: tuple[str, ...]
    segments: tuple[int, ...]


# ------------------------------------------------------------------------------------ files
def load_dialogues(path: str | Path) -> list[Dialogue]:
    """Read a JSON Lines file, plain or gzip: ``id``, ``language``, ``utterances`` and ``segments`` a line.

    Raises:
        UsageError: naming the line and what was expected there.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            items = [json.loads(line) for line in stream if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UsageError(str(path), "must be readable JSON Lines in UTF-8, plain or gzip", str(error)) from error
    return [_dialogue(item, f"{path}[{i}]") for i, item in enumerate(items)]


def _dialogue(item: Any, where: str) -> Dialogue:
    if not isinstance(item, dict) or "utterances" not in item or "segments" not in item:
        raise UsageError(where, "must be an object with utterances and segments", item)
    turns, sizes = item["utterances"], item["segments"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise UsageError(f"{where}.utterances", "must be a list of at least one string", turns)
    if not isinstance(sizes, list) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UsageError(f"{where}.segments", "must be a list of lengths above 0", sizes)
    if sum(sizes) != len(turns):
        raise UsageError(f"{where}.segments", f"must add up to the number of utterances, {len(turns)}", sum(sizes))
    return Dialogue(str(item.get("id", where)), str(item.get("language") or "en"), tuple(turns), tuple(sizes))


def _paths(files: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    for pattern in [files] if isinstance(files, str | Path) else files:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for ending in ("*.jsonl", "*.jsonl.gz") for file in path.glob(ending))
        else:
            found = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(pattern)))]
        if not found:
            raise UsageError("files", "must be a file, a folder with JSON Lines or a glob that matches", str(pattern))
        yield from found


# ------------------------------------------------------------------------------------ figures
def pk(gold: Sequence[int], found: Sequence[int]) -> float:
    """Pk of one dialogue, 0..1, lower is better.

    Args:
        gold: lengths of the true segments.
        found: lengths of the predicted ones, with the same sum.
    """
    true, predicted = _in_windows(gold, found)
    return float(np.mean((true > 0) != (predicted > 0))) if len(true) else 0.0


def windowdiff(gold: Sequence[int], found: Sequence[int]) -> float:
    """WindowDiff of one dialogue, 0..1, lower is better; arguments as for ``pk``."""
    true, predicted = _in_windows(gold, found)
    return float(np.mean(true != predicted)) if len(true) else 0.0


def _in_windows(gold: Sequence[int], found: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of boundaries in each window of gaps, of gold and of the prediction."""
    gaps = sum(gold) - 1
    if sum(found) - 1 != gaps:
        raise UsageError("found", f"must add up to the number of utterances, {gaps + 1}", sum(found))
    size = min(max(2, round(sum(gold) / len(gold) / 2)), gaps)
    true, predicted = _sums_of_windows(gold, size), _sums_of_windows(found, size)
    return true, predicted


def _sums_of_windows(sizes: Sequence[int], window: int) -> NDArray[np.int64]:
    marks = np.zeros(sum(sizes), np.int64)
    marks[np.cumsum(sizes[:-1], dtype=np.int64)] = 1
    totals = np.cumsum(marks)  # totals[i]: boundaries up to and with the one before turn i
    return totals[window:] - totals[: len(totals) - window] if window else np.zeros(0, np.int64)


def hits(gold: Sequence[int], found: Sequence[int], slack: int) -> int:
    """How many predicted boundaries are right within ``slack`` turns.

    From left to right each takes the nearest gold boundary that is left, the earlier of two.
    """
    left, n = set(gold), 0
    for boundary in sorted(found):
        for off in range(slack + 1):
            match = next((b for b in (boundary - off, boundary + off) if b in left), None)
            if match is not None:
                left.remove(match)
                n += 1
                break
    return n


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One method on one file; the figures are those of the table above.

    Attributes:
        pk: with its 95 % bootstrap interval over dialogues.
        utterances_per_second: of segmentation alone, with the vectors at hand.
    """

    file: str
    method: str
    dialogues: int
    utterances: int
    boundaries: int
    pk: Interval
    windowdiff: float
    f1: float
    f1_within_1: float
    precision: float
    recall: float
    ratio: float
    utterances_per_second: float


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """Every method on every file. ``embedder`` is ``none`` when words were compared."""

    rows: tuple[SegmentRow, ...]
    embedder: str
    limit: int
    provenance: Provenance

    def row(self, file: str, method: str) -> SegmentRow:
        """The row of one file, by its name without endings, and one method.

        Raises:
            UsageError: it was not measured.
        """
        for row in self.rows:
            if row.file == file and row.method == method:
                return row
        raise UsageError("row", "must be a file and a method that were measured", (file, method))

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values."""
        return asdict(self)

    def markdown(self) -> str:
        """The table of ``render_segment`` as Markdown, for the documentation."""
        lines = [_HEADER, ["---", "---", *["---:"] * (len(_HEADER) - 2)], *(_cells(row) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_summary(self)}\n"


# ------------------------------------------------------------------------------------ methods
def texttiling(vectors: Any, texts: Sequence[str], *, width: int = 2, cutoff: float = 0.5) -> list[int]:
    """The baseline: cut at the valleys of similarity deeper than most (Hearst 1997).

    Args:
        vectors: one a turn, or None.
        texts: the turns.
        width: turns compared on each side of a gap.
        cutoff: how many standard deviations deeper than the mean a valley must be.
    """
    if len(texts) < 3:
        return []
    depths = np.concatenate([[-np.inf], valleys(vectors, texts, width), [-np.inf]])
    inner = depths[1:-1]
    peaks = (inner > cutoff) & (inner >= depths[:-2]) & (inner > depths[2:])
    return [int(i) for i in np.flatnonzero(peaks) + 1]


def cut_nothing(vectors: Any, texts: Sequence[str]) -> list[int]:
    """The baseline that a method must beat in F1."""
    return []


def through_buffer(segmenter: Segmenter, limit: int = BUFFER_TOKENS, context: int = CONTEXT_TURNS) -> Segmenter:
    """The same method turn by turn, through a sensory buffer of ``limit`` tokens.

    ``context`` turns before the buffer are shown to the segmenter; boundaries among them are dropped.
    """

    def streamed(vectors: Any, texts: Sequence[str]) -> list[int]:
        rows = None if vectors is None else np.asarray(vectors)

        def cut(turns: Sequence[BufferedTurn]) -> Sequence[int]:
            first, last = int(turns[0].id), int(turns[-1].id) + 1
            seen = max(0, first - context)
            found = segmenter(None if rows is None else rows[seen:last], texts[seen:last])
            return [boundary - (first - seen) for boundary in found if boundary > first - seen]

        buffer = SensoryBuffer(cut, limit=limit)
        turns = [BufferedTurn(str(i), tokens) for i, tokens in enumerate(wordpiece_counts(texts))]
        closed = [piece for turn in turns for piece in buffer.push(turn)] + buffer.flush()
        return [int(piece[0].id) for piece in closed[1:]]

    return streamed


# ------------------------------------------------------------------------------------ running
def run_segment(
    files: str | Path | Iterable[str | Path],
    *,
    segmenter: Segmenter = segment,
    name: str = "lightmem",
    embedder: Embedder | None = None,
    limit: int = BUFFER_TOKENS,
    baselines: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> SegmentReport:
    """Segment every dialogue whole and through the sensory buffer, and compare with its labels.

    Args:
        files: JSON Lines files, folders of them or globs; see ``load_dialogues``.
        segmenter: the method.
        name: what the report calls it.
        embedder: gives the vectors, one an utterance as it is written; None compares words.
        limit: tokens of the sensory buffer.
        baselines: measure TextTiling, with the mean plus 0.5 and plus 1.5 standard deviations, and
            "cut nothing" as well.
        progress: called with files done, files in all and the name of the next one.

    Raises:
        UsageError: no file, or one that cannot be read.
        EmbedderError: the embedder failed.
    """
    methods: dict[str, Segmenter] = {name: segmenter, f"{name}, buffer of {limit}": through_buffer(segmenter, limit)}
    if baselines:
        methods |= {
            "texttiling 0.5": texttiling,
            "texttiling 1.5": lambda vectors, texts: texttiling(vectors, texts, cutoff=1.5),
            "cut nothing": cut_nothing,
        }
    paths, rows = list(_paths(files)), []
    for number, path in enumerate(paths):
        file = path.name.partition(".")[0]
        if progress is not None:
            progress(number, len(paths), file)
        dialogues = load_dialogues(path)
        if not dialogues:
            raise UsageError(str(path), "must hold at least one dialogue", "none")
        vectors = _vectors(dialogues, embedder)
        rows += [_measure(file, name, method, dialogues, vectors) for name, method in methods.items()]
    return SegmentReport(tuple(rows), name_of(embedder), limit, provenance())


def _vectors(dialogues: Sequence[Dialogue], embedder: Embedder | None) -> list[Any]:
    if embedder is None:
        return [None] * len(dialogues)
    # Joined dialogues repeat utterances; each is encoded once. An empty one has no vector of its own.
    place = {text: i for i, text in enumerate(dict.fromkeys(t for d in dialogues for t in d.utterances))}
    encodings = encode_texts(embedder, [text if text.strip() else "." for text in place])
    vectors = np.stack([encoding.vector for encoding in encodings])
    return [vectors[[place[text] for text in d.utterances]] for d in dialogues]


def _measure(
    file: str, name: str, method: Segmenter, dialogues: Sequence[Dialogue], vectors: Sequence[Any]
) -> SegmentRow:
    start = time.perf_counter()
    found = [list(method(v, d.utterances)) for v, d in zip(vectors, dialogues, strict=True)]
    seconds = time.perf_counter() - start
    gold = [list(np.cumsum(d.segments[:-1], dtype=int)) for d in dialogues]
    sizes = [lengths(cuts, len(d.utterances)) for cuts, d in zip(found, dialogues, strict=True)]
    n_gold, n_found = sum(map(len, gold)), sum(map(len, found))
    exact, near = (sum(hits(g, f, slack) for g, f in zip(gold, found, strict=True)) for slack in (0, 1))
    utterances = sum(len(d.utterances) for d in dialogues)
    return SegmentRow(
        file=file,
        method=name,
        dialogues=len(dialogues),
        utterances=utterances,
        boundaries=n_gold,
        pk=bootstrap([pk(d.segments, s) for d, s in zip(dialogues, sizes, strict=True)]),
        windowdiff=float(np.mean([windowdiff(d.segments, s) for d, s in zip(dialogues, sizes, strict=True)])),
        f1=_share(2 * exact, n_found + n_gold),
        f1_within_1=_share(2 * near, n_found + n_gold),
        precision=_share(exact, n_found, 0.0 if n_gold else 1.0),
        recall=_share(exact, n_gold),
        ratio=n_found / max(1, n_gold),
        utterances_per_second=utterances / max(seconds, 1e-9),
    )


def _share(part: int, whole: int, empty: float = 1.0) -> float:
    """A share; where there is nothing to find, finding nothing is perfect."""
    return part / whole if whole else empty


# ------------------------------------------------------------------------------------ printing
_HEADER = ["file", "method", "Pk", "WindowDiff", "F1", "F1~1", "precision", "recall", "ratio", "utterances/s"]


def render_segment(report: SegmentReport, console: Console) -> None:
    """Print a report as a table."""
    from rich.table import Table

    table = Table(title="topic segmentation", title_justify="left")
    for place, name in enumerate(_HEADER):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place < 2)
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(_summary(report), highlight=False)


def _cells(row: SegmentRow) -> list[str]:
    return [
        row.file,
        row.method,
        f"{row.pk.mean:.3f} [{row.pk.low:.3f}, {row.pk.high:.3f}]",
        *(f"{value:.3f}" for value in (row.windowdiff, row.f1, row.f1_within_1, row.precision, row.recall)),
        f"{row.ratio:.2f}",
        # A method that never cuts does nothing, and its speed says nothing.
        f"{row.utterances_per_second:.0f}" if row.ratio else "-",
    ]


def _summary(report: SegmentReport) -> str:
    sizes = {row.file: f"{row.file} {row.dialogues} dialogues, {row.utterances} utterances" for row in report.rows}
    return (
        f"Embedder `{report.embedder}`, sensory buffer of {report.limit} tokens; {'; '.join(sizes.values())}. "
        f"Lower Pk and WindowDiff are better. Brackets: 95 % bootstrap interval. {report.provenance}."
    )
