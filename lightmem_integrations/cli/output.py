"""Printing: text for people, JSON for programs, and nothing that could steer a terminal.

What is remembered was written by others. On its way to a terminal, control characters are shown as
escapes and rich's markup is never read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lightmem_integrations.core.types import Hit, MemoryEntry

MAX_WIDTH = 100  # columns; longer lines are hard to read

# C0, DEL, C1, and the characters that reorder or break lines unseen.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BLANKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029 ]+")
# JSON itself escapes the rest.
_UNESCAPED = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: object, *, lines: bool = False) -> str:
    r"""A text that cannot steer a terminal, on one line unless ``lines``.

    >>> print(printable("two\nlines \x1b[31m[red]"))
    two lines \x1b[31m[red]
    """
    whole = str(text)
    if lines:
        return "\n".join(_CONTROL.sub(_escape, line) for line in re.split(r"\r\n?|\n", whole.replace("\t", "    ")))
    return _CONTROL.sub(_escape, _BLANKS.sub(" ", whole).strip())


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


# ------------------------------------------------------------------------------------ streams
def console(*, stderr: bool = False) -> Console:
    """A console for people, at most 100 columns wide; plain text where there is no terminal."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            # rich would leave with 1; `| head` is no failure.
            raise BrokenPipeError

    made = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    made.width = min(made.width, MAX_WIDTH)
    return made


def print_json(record: Any) -> None:
    """One JSON value on one line of stdout."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    sys.stdout.write(_UNESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def print_lines(lines: Iterable[str]) -> None:
    """Lines that are already printable, unwrapped."""
    for line in lines:
        sys.stdout.write(line + "\n")


def complain(text: str) -> None:
    """One line on stderr for what went wrong."""
    sys.stderr.write(f"error: {printable(text)}\n")


def note(text: str) -> None:
    """One line on stderr that is not part of the result."""
    sys.stderr.write(f"{printable(text)}\n")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block runs, where that is a terminal; call it with (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    err = console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


# ------------------------------------------------------------------------------------ memory
def entry_record(entry: MemoryEntry) -> dict[str, Any]:
    """An entry as JSON: what every command that prints entries gives."""
    return {
        "id": entry.id,
        "source_ids": list(entry.source_messages),
        "session_id": entry.session_id,
        "kind": entry.kind,
        "role": entry.role,
        "speaker": entry.speaker,
        "timestamp": entry.timestamp.isoformat(),
        "text": entry.memory,
        "metadata": dict(entry.metadata),
    }


def hit_record(hit: Hit) -> dict[str, Any]:
    """A hit as JSON: its entry, ``score``, the ``passage`` offsets and the ``parts`` of the score."""
    passage = None if hit.passage is None else [hit.passage.start, hit.passage.end]
    return entry_record(hit.entry) | {"score": round(hit.score, 6), "passage": passage, "parts": dict(hit.parts)}


def who(entry: MemoryEntry) -> str:
    """The speaker, or the role where there is no name."""
    return printable(entry.speaker or entry.role or entry.kind)


def ids(entry: MemoryEntry) -> str:
    """The caller's ids of the turns behind an entry."""
    return printable(", ".join(entry.source_messages) or entry.id)


def grid(*columns: Mapping[str, Any]) -> Table:
    """A table without lines whose last column takes the room that is left."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for column in columns:
        table.add_column(**column)
    table.add_column(ratio=1, overflow="fold")
    return table


def quoted(text: str, source: str, style: str = "") -> Text:
    """Remembered text with its id in brackets behind it."""
    from rich.text import Text

    return Text(text, style=style).append(f" [{source}]", style="dim not bold")


def print_hits(hits: Iterable[Hit]) -> None:
    """Hits for people: a table on a terminal, else a tab-separated line each."""
    out = console()
    if not out.is_terminal:
        print_lines(
            "\t".join((f"{h.score:.2f}", f"{h.entry.timestamp:%Y-%m-%d %H:%M}", who(h.entry), ids(h.entry), text))
            for h in hits
            for text in (printable(h.entry.memory),)
        )
        return
    table = grid({"style": "cyan"}, {"style": "dim", "no_wrap": True}, {"style": "bold", "max_width": 12})
    for hit in hits:
        text = quoted(printable(hit.entry.memory), ids(hit.entry))
        table.add_row(f"{hit.score:.2f}", f"{hit.entry.timestamp:%Y-%m-%d %H:%M}", _plain_text(who(hit.entry)), text)
    out.print(table)


def print_entries(entries: Iterable[MemoryEntry]) -> None:
    """Entries for people, oldest first: a table on a terminal, else a tab-separated line each."""
    out = console()
    if not out.is_terminal:
        print_lines(
            "\t".join((f"{e.timestamp:%Y-%m-%d %H:%M}", printable(e.session_id), who(e), ids(e), printable(e.memory)))
            for e in entries
        )
        return
    session: dict[str, Any] = {"style": "dim", "max_width": 14, "no_wrap": True, "overflow": "ellipsis"}
    table = grid({"style": "dim", "no_wrap": True}, session, {"style": "bold", "max_width": 12})
    for entry in entries:
        when, text = f"{entry.timestamp:%Y-%m-%d %H:%M}", quoted(printable(entry.memory), ids(entry))
        table.add_row(when, _plain_text(printable(entry.session_id)), _plain_text(who(entry)), text)
    out.print(table)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, pairs), default=0)
    print_lines(f"{name:<{width}}  {printable(value)}" for name, value in pairs.items())


def _plain_text(text: str) -> Text:
    from rich.text import Text

    return Text(text)
