"""Commands for many users on many hosts: workers, moving a database, and sizing."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event, Thread
from typing import Annotated

import typer

from lightmem_integrations.cli import options as o
from lightmem_integrations.cli import output


def worker(
    db: o.Db = o.DEFAULT_DB,
    qdrant: o.Qdrant = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when nothing is left to do.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Between two looks at an empty queue.")
    ] = 1.0,
    embedder: o.Embedder = None,
    as_json: o.Json = False,
) -> None:
    """Work off what waits of all users: vectors, extraction, online update, and what an index is to learn.

    Any number may run, on any hosts. Each round that did something is a JSON line on stderr, without any
    text. SIGTERM or Ctrl-C: what is under way is finished, then it leaves with 0.
    """
    with o.opened(db, embedder, **o.settings_of(qdrant)) as memory, _stopped_by_signals() as stop, _logged():
        done = memory.work(stop, once=once, interval=interval)
    if as_json:
        output.print_json(asdict(done))


def migrate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Database to read: a file or a URL.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Empty database to fill: a file or a URL.")],
    qdrant: o.Qdrant = None,
    as_json: o.Json = False,
) -> None:
    """Move a database: every row, compared at the end, and then the index if --qdrant names one.

    The source is only read; let nobody write to it. Interrupted, run it again. On PostgreSQL give the URL
    of the tables' owner.
    """
    from lightmem_integrations.memory import LightMem
    from lightmem_integrations.stores.sql.copying import copy_database

    with output.progress("rows") as advance:
        rows = copy_database(source, target, advance)
    told = 0
    config = o.config_of(target, **o.settings_of(qdrant)) if qdrant else None
    if config is not None:
        with output.progress("index") as advance:
            told = LightMem.reindex(target, config, to="qdrant", progress=advance)
    if as_json:
        output.print_json({"rows": rows, "indexed": told})
    else:
        index = f", {told:,} entries told to Qdrant" if qdrant else ""
        output.print_lines([f"{rows:,} rows copied and compared{index}"])


def size(
    users: Annotated[int, typer.Option("--users", metavar="N", help="Who talk.")],
    turns_per_day: Annotated[float, typer.Option("--turns-per-day", metavar="N", help="Of each user, both sides.")],
    tokens_per_turn: Annotated[float, typer.Option("--tokens-per-turn", metavar="N", help="On average.")] = 40,
    days: Annotated[int, typer.Option("--days", metavar="N", help="For which turns are kept.")] = 365,
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", help="Of index and database.")] = 2,
    node_price: Annotated[
        float | None, typer.Option("--node-price", metavar="N", help="Of a server, a month; 400 if left out.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Tell the disk, memory and servers that a number of users needs, and how each figure came about.

    A server is assumed to have 64 GiB of memory and 2 TB of disk for Qdrant, or 8 TB for PostgreSQL.
    """
    from lightmem_integrations.sizing import Constants
    from lightmem_integrations.sizing import size as sized

    constants = Constants() if node_price is None else Constants(node_price=node_price)
    found = sized(
        users, turns_per_day, tokens_per_turn=tokens_per_turn, days=days, replicas=replicas, constants=constants
    )
    if as_json:
        output.print_json([asdict(figure) for figure in found.figures])
        return
    width = max(len(figure.name) for figure in found.figures)
    output.print_lines(f"{f.name:<{width}}  {_amount(f.value, f.unit):>12}  {f.how}" for f in found.figures)


def _amount(value: float, unit: str) -> str:
    """A figure for people: bytes in the unit that fits."""
    if unit != "bytes":
        return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    for name in ("B", "kB", "MB", "GB", "TB"):
        if value < 1_000 or name == "TB":
            break
        value /= 1_000
    return f"{value:,.3g} {name}" if value < 1_000 else f"{value:,.0f} {name}"


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one does what it always does."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: object) -> None:
        restore()
        Thread(target=stop.set).start()  # not here: the interrupted code may hold the event's lock

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def _logged() -> Iterator[None]:
    """The lines of the worker, and warnings of the package, on stderr."""
    logger, handler = logging.getLogger("lightmem_integrations"), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
