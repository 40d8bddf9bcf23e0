"""Commands that measure: how well evidence is found, and how fast."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output
from lightmem_integrations.errors import UsageError

if TYPE_CHECKING:
    from lightmem_integrations.bench import SpeedReport
    from lightmem_integrations.bench.table import Table

app = typer.Typer(help="Measure retrieval quality and speed on this machine.", pretty_exceptions_enable=False)

QUICK: dict[str, Any] = {"turns": 200, "adds": 50, "queries": 30, "sizes": (1_000,), "others": 10_000}

Markdown = Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")]
Files = Annotated[list[str] | None, typer.Argument(metavar="[DATA]...", help="Files, folders or globs.")]
Data = Annotated[list[str] | None, typer.Option("--data", metavar="DATA", help="The same, as an option.")]


@app.callback(invoke_without_command=True)
def bench(ctx: typer.Context) -> None:
    """Measure retrieval quality and speed on this machine."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command()
def recall(
    files: Files = None,
    data: Data = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option("--strategy", metavar="NAME", help="Repeat to compare; the first is compared with the others."),
    ] = None,
    level: Annotated[str, typer.Option("--level", metavar="LEVEL", help="turn or session.")] = "turn",
    embedder: o.Embedder = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Score how much labelled evidence is found in LoCoMo, LongMemEval or prepared conversation files."""
    from lightmem_integrations.bench import render_recall, run_recall
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.datasets import load

    conversations = load(_paths(files, data))
    config = LightMemConfig(embedder=embedder or o.DEFAULT_EMBEDDER)
    wanted: Any = {"strategies": strategy or None, "level": level}
    with output.progress("conversations") as advance:
        report = run_recall(
            conversations, config=config, progress=lambda done, total, name: advance(done, total), **wanted
        )
    _show(report, render_recall, markdown=markdown, as_json=as_json)


@app.command()
def compress(
    files: Files = None,
    data: Data = None,
    rate: Annotated[
        list[float] | None, typer.Option("--rate", metavar="R", help="Share of tokens to keep, 0 to 1 (repeat).")
    ] = None,
    embedder: o.Embedder = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Score what compression keeps of labelled evidence, against random words and truncation."""
    from lightmem_integrations.bench.compress import RATES, render_compress, run_compress
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.datasets import load

    config = LightMemConfig(embedder=embedder or "none", strategy="late" if embedder else "bm25")
    with output.progress("conversations") as advance:
        report = run_compress(
            load(_paths(files, data)),
            rate or RATES,
            config=config,
            progress=lambda done, total, name: advance(done, total),
        )
    _show(report, render_compress, markdown=markdown, as_json=as_json)


@app.command()
def segment(
    files: Files = None,
    data: Data = None,
    embedder: o.Embedder = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Score topic boundaries in dialogues with labelled segments (JSON Lines)."""
    from lightmem_integrations.bench.segment import render_segment, run_segment
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.models.embed import make_embedder

    model = make_embedder(LightMemConfig(embedder=embedder or o.DEFAULT_EMBEDDER))
    with output.progress("dialogues") as advance:
        report = run_segment(
            _paths(files, data), embedder=model, progress=lambda done, total, name: advance(done, total)
        )
    _show(report, render_segment, markdown=markdown, as_json=as_json)


@app.command()
def cost(
    files: Files = None,
    data: Data = None,
    buffer: Annotated[
        list[int] | None, typer.Option("--buffer", metavar="N", help="Short-term buffer in tokens (repeat).")
    ] = None,
    embedder: o.Embedder = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Count what a language model is asked, and what that adds to the time of add. The model is scripted."""
    from lightmem_integrations.bench.cost import BUFFERS, render_cost, run_cost
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.datasets import demo, load

    conversations = load(_paths(files, data)) if files or data else [demo()]
    config = LightMemConfig(embedder=embedder or o.DEFAULT_EMBEDDER)
    with output.progress("configurations") as advance:
        report = run_cost(
            conversations,
            buffer or BUFFERS,
            config=config,
            progress=lambda done, total, name: advance(done, total),
        )
    _show(report, render_cost, markdown=markdown, as_json=as_json)


@app.command()
def speed(
    sizes: Annotated[
        list[int] | None, typer.Option("--sizes", metavar="N", help="Entries of one user that are searched (repeat).")
    ] = None,
    others: Annotated[
        int | None, typer.Option("--others", metavar="N", help="Entries of all other users [default: 1000000].")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: about a minute.")] = False,
    embedder: o.Embedder = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Measure ingest, search, start-up and memory. The full run takes many minutes and some gigabytes."""
    from lightmem_integrations.bench import render_speed
    from lightmem_integrations.config import LightMemConfig

    numbers = dict(QUICK) if quick else {}
    if sizes:
        numbers["sizes"] = sizes
    if others is not None:
        numbers["others"] = others
    report = _measured(LightMemConfig(embedder=embedder or o.DEFAULT_EMBEDDER), numbers)
    _show(report, render_speed, markdown=markdown, as_json=as_json)


BenchDb = Annotated[
    str,
    typer.Option("--db", envvar="LIGHTMEM_BENCH_DB", metavar="PATH_OR_URL", help="Empty database, which is filled."),
]
BenchQdrant = Annotated[
    str | None, typer.Option("--qdrant", envvar="LIGHTMEM_BENCH_QDRANT", metavar="URL", help="Qdrant server.")
]


@app.command()
def scale(
    db: BenchDb,
    qdrant: BenchQdrant = None,
    entries: Annotated[
        list[int] | None, typer.Option("--entries", metavar="N", help="Sizes to measure at, rising (repeat).")
    ] = None,
    users: Annotated[int, typer.Option("--users", metavar="N", min=1, help="Who share them.")] = 10_000,
    folder: Annotated[
        Path | None,
        typer.Option("--qdrant-folder", envvar="LIGHTMEM_BENCH_QDRANT_FOLDER", help="Data of Qdrant, for its size."),
    ] = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Measure load rate, disk, memory and search with many users; 10,000 entries unless told otherwise."""
    from lightmem_integrations.bench.scale import Place, run_scale

    place = Place(db, (qdrant,) if qdrant else (), folder)
    _tables(lambda say: [run_scale(place, entries or (10_000,), users=users, say=say)], markdown, as_json)


@app.command()
def clients(
    db: BenchDb,
    qdrant: BenchQdrant = None,
    number: Annotated[int, typer.Option("--clients", metavar="N", min=4, help="At a time; a multiple of 4.")] = 16,
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=1, help="For each number of workers.")] = 60,
    workers: Annotated[
        list[int] | None, typer.Option("--workers", metavar="N", help="Worker processes (repeat) [default: 0, 1, 2].")
    ] = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Let many clients add and search at once, with and without workers: latency, throughput, errors."""
    from lightmem_integrations.bench.clients import run_clients

    urls = (qdrant,) if qdrant else ()
    beside = workers or (0, 1, 2)
    _tables(
        lambda say: [run_clients(db, urls, clients=number, seconds=seconds, workers=beside, say=say)], markdown, as_json
    )


@app.command()
def crash(
    db: Annotated[
        str | None,
        typer.Option("--db", envvar="LIGHTMEM_BENCH_DB", metavar="URL", help="Empty PostgreSQL, which is filled."),
    ] = None,
    qdrant: BenchQdrant = None,
    kills: Annotated[int, typer.Option("--kills", metavar="N", min=1, help="Over all targets together.")] = 60,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the moments.")] = 0,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Kill a writer at random moments and count what is lost, orphaned or stale.

    On SQLite; with --qdrant on SQLite and Qdrant; with --db, too, on PostgreSQL and Qdrant.
    """
    import tempfile

    from lightmem_integrations.bench.crash import Target, run_crash

    urls = (qdrant,) if qdrant else ()
    with tempfile.TemporaryDirectory(prefix="lightmem-crash-") as folder:
        targets = [Target("SQLite, exact", f"{folder}/exact.db")]
        if qdrant:
            targets.append(Target("SQLite, Qdrant", f"{folder}/qdrant.db", urls, "crash-sqlite"))
        if db:
            targets.append(Target(f"PostgreSQL, {'Qdrant' if qdrant else 'exact'}", db, urls, "crash-server"))
        _tables(lambda say: [run_crash(targets, kills, seed=seed, say=say)], markdown, as_json)


@app.command()
def candidates(
    files: Files = None,
    data: Data = None,
    qdrant: Annotated[
        str, typer.Option("--qdrant", envvar="LIGHTMEM_BENCH_QDRANT", metavar="URL", help="Qdrant server.")
    ] = ":memory:",
    depth: Annotated[
        list[str] | None,
        typer.Option("--depth", metavar="D+B", help="Candidates by vector and by words, such as 50+100 (repeat)."),
    ] = None,
    embedder: o.Embedder = None,
    markdown: Markdown = False,
    as_json: o.Json = False,
) -> None:
    """Score what candidates from Qdrant cost in recall, by their number, against exact search."""
    from lightmem_integrations.bench.candidates import DEPTHS, run_candidates
    from lightmem_integrations.config import LightMemConfig
    from lightmem_integrations.datasets import load

    depths = [_depth(text) for text in depth] if depth else DEPTHS
    conversations = load(_paths(files, data))
    config = LightMemConfig(embedder=embedder or o.DEFAULT_EMBEDDER)
    _tables(lambda say: [run_candidates(conversations, (qdrant,), depths, config=config, say=say)], markdown, as_json)


def _depth(value: str) -> tuple[int, int]:
    dense, _, sparse = value.partition("+")
    if not (dense.isdecimal() and sparse.isdecimal()):
        raise UsageError("--depth", "must be two numbers, such as 50+100", value)
    return int(dense), int(sparse)


def _tables(run: Callable[[Callable[[str], None]], list[Table]], markdown: bool, as_json: bool) -> None:
    from rich.text import Text

    from lightmem_integrations.bench.table import render_table

    err = output.console(stderr=True)
    with err.status(Text("starting")) as status:
        tables = run(lambda line: status.update(Text(output.printable(line))))
    for table in tables:
        _show(table, render_table, markdown=markdown, as_json=as_json)


def _paths(files: list[str] | None, data: list[str] | None) -> list[str]:
    paths = [*(files or ()), *(data or ())]
    if not paths:
        raise UsageError("DATA", "must name at least one file, folder or glob", "none")
    return paths


def _show(report: Any, render: Callable[[Any, Any], None], *, markdown: bool, as_json: bool) -> None:
    if as_json:
        output.print_json(report.as_dict())
    elif markdown:
        sys.stdout.write(report.markdown())
    else:
        render(report, _wide())


def _measured(config: Any, numbers: dict[str, Any]) -> SpeedReport:
    from rich.text import Text

    from lightmem_integrations.bench import run_speed

    err = output.console(stderr=True)
    with err.status(Text("starting")) as status:
        return run_speed(config=config, progress=lambda line: status.update(Text(output.printable(line))), **numbers)


def _wide() -> Any:
    """A console as wide as the terminal: these tables have many columns. A pipe takes any width."""
    from rich.console import Console

    out = Console(highlight=False, markup=False, emoji=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, emoji=False, width=200)
