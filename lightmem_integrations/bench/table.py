"""A table of figures with where they were measured: what the benchmarks of scale report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lightmem_integrations.bench.provenance import Provenance, provenance

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Table", "number", "percentile", "render_table"]

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures.

    Attributes:
        title: what was measured.
        header: a name a column; the first one names the rows.
        rows: numbers, or words where there is no number.
        note: how it was measured, in a sentence or two.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    provenance: Provenance = field(default_factory=provenance)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values."""
        return asdict(self)

    def markdown(self) -> str:
        """The table as Markdown, for the documentation."""
        lines: list[Sequence[str]] = [self.header, ["---", *["---:"] * (len(self.header) - 1)]]
        lines += [[number(cell) for cell in row] for row in self.rows]
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"{self.note} {self.provenance}.", ""])


def number(cell: Cell) -> str:
    """A figure as people read it: three digits that count."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies, by the nearest rank; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def render_table(table: Table, console: Console) -> None:
    """Print it."""
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, title_justify="left")
    for place, name in enumerate(table.header):
        shown.add_column(name, justify="right" if place else "left")
    for row in table.rows:
        shown.add_row(*map(number, row))
    console.print(shown)
    console.print(f"{table.note} {table.provenance}.", highlight=False)
