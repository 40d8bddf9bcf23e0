"""The command line ``lightmem``.

Importing this package loads typer and nothing of the engine, so that ``--help`` answers at once; each
command imports what it needs when it runs. See docs/cli.md for the commands and exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lightmem_integrations.cli import bench, care, db, demo, memory, scale
from lightmem_integrations.cli.output import complain
from lightmem_integrations.errors import LightMemError, UsageError

__all__ = ["app", "main"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_EPILOG = """Exit codes: 0 done, 1 the operation failed, 2 wrong usage, 3 doctor found something, 130 interrupted.

The database is --db, or LIGHTMEM_DB, or lightmem.db. Errors go to stderr; --json prints JSON and nothing else."""


class _Commands(TyperGroup):
    """The commands, with one way to fail: a line on stderr and an exit code, never a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and leave with the exit code. Takes what ``TyperGroup.main`` takes."""
        extra["standalone_mode"] = False
        with _failures():
            code = super().main(*args, **extra)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What typer itself would answer with 1 is answered here."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that is gone shows here, not in the interpreter's last breath
            return result
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # `| head` has what it wanted. Python flushes stdout once more at exit, which must not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except LightMemError as error:
        complain(str(error))
        sys.exit(USAGE if isinstance(error, UsageError) else FAILED)
    except typer.Abort:  # what older releases of typer make of an interrupt
        complain("interrupted")
        sys.exit(INTERRUPTED)
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(FAILED)
    except Exception as error:
        if os.environ.get("LIGHTMEM_DEBUG"):
            raise
        complain(_usage(error) or f"{type(error).__name__}: {error} (LIGHTMEM_DEBUG=1 shows the traceback)")
        sys.exit(USAGE if _usage(error) else FAILED)


def _usage(error: Exception) -> str:
    """The text of typer's own complaint about the arguments; "" for any other error."""
    # Older releases of typer take these classes from click, newer ones bring their own.
    told = getattr(error, "format_message", None)
    if told is None:
        return ""
    context = getattr(error, "ctx", None)
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    text = str(told())
    return f"{text}{'' if text.endswith(('.', '?')) else '.'}{hint}"


app = typer.Typer(
    name="lightmem",
    cls=_Commands,
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def lightmem(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Long-term memory for conversations: every turn kept, the few that answer recalled."""
    if version:
        from lightmem_integrations.__about__ import __version__

        typer.echo(f"lightmem {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


_START, _USE, _CARE, _SCALE = "Try it", "Remember and recall", "Look after a database", "Many users, many hosts"

app.command(rich_help_panel=_START)(demo.demo)
app.command(rich_help_panel=_USE)(memory.add)
app.command(rich_help_panel=_USE)(memory.search)
app.command(rich_help_panel=_USE)(memory.context)
app.command("list", rich_help_panel=_USE)(memory.list_entries)
app.command(rich_help_panel=_USE)(memory.show)
app.command(rich_help_panel=_USE)(memory.forget)
app.command(rich_help_panel=_USE)(memory.export)
app.command("import", rich_help_panel=_USE)(memory.import_file)
app.command(rich_help_panel=_CARE)(care.update)
app.command(rich_help_panel=_CARE)(care.undo)
app.command(rich_help_panel=_CARE)(care.summarize)
app.command(rich_help_panel=_CARE)(care.sweep)
app.command(rich_help_panel=_CARE)(care.stats)
app.command(rich_help_panel=_CARE)(care.doctor)
app.command(rich_help_panel=_CARE)(care.reindex)
app.command(rich_help_panel=_SCALE)(scale.worker)
app.command(rich_help_panel=_SCALE)(scale.migrate)
app.command(rich_help_panel=_SCALE)(scale.size)
app.add_typer(db.app, name="db", rich_help_panel=_CARE)
app.add_typer(bench.app, name="bench", rich_help_panel=_CARE)


def main() -> None:
    """Entry point of the console script; leaves with one of the documented exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Whatever the locale says: memory holds every script. File names may hold broken bytes.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)
