"""Speed and size: what the engine costs beyond its embedding model, and how that grows.

Where a figure is about the engine alone, ``InstantEmbedder`` stands in for the model; where it is
about the whole, the configured model runs. Databases lie in files, as they would in use. Start-up
and memory are measured in processes of their own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightmem_integrations
from lightmem_integrations.bench.instant import InstantEmbedder, questions, sentences
from lightmem_integrations.bench.provenance import Provenance, provenance
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.core.types import Message, Strategy
from lightmem_integrations.errors import LightMemError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lightmem_integrations.memory import LightMem

__all__ = ["PARTS", "Figure", "SpeedReport", "peak_mib", "render_speed", "run_speed"]

PARTS = ("ingest", "add", "search", "neighbours", "startup", "memory")
SIZES = (1_000, 10_000, 100_000)
STRATEGIES: tuple[Strategy, ...] = ("late", "weighted")

_SESSION = 100  # turns of a session, given to one add
_OTHER = 1_000  # entries of each other user
_STARTS = 5  # processes started; the median counts
_ME = "me"
_WHOLE_FROM = 100  # figures from here on are printed without decimals
_INSTANT = InstantEmbedder()
_FIRST_DAY = datetime(2024, 1, 1, 9, tzinfo=timezone.utc)

_TIME_IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
_TIME_FIRST_SEARCH = """
import sys, time
start = time.perf_counter()
from lightmem_integrations import LightMem, LightMemConfig
with LightMem(sys.argv[1], LightMemConfig.model_validate_json(sys.argv[2])) as memory:
    memory.search("Where did we leave the lasagne?", user_id=sys.argv[3])
    print(time.perf_counter() - start)
"""
_PEAK_OF_SEARCH = """
import sys
from lightmem_integrations import LightMem, LightMemConfig
from lightmem_integrations.bench.instant import InstantEmbedder
from lightmem_integrations.bench.speed import peak_mib
with LightMem(sys.argv[1], LightMemConfig.model_validate_json(sys.argv[2]), embedder=InstantEmbedder()) as memory:
    memory.search("Where did we leave the lasagne?", user_id=sys.argv[3])
    print(peak_mib())
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        part: the measurement that it is from, one of ``PARTS``.
        name: what was measured and at which size; unique in a report.
        unit: ``ms``, ``turns/s``, ``texts/s``, ``ratio`` or ``MiB``.
    """

    part: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """All figures of a run, and where, when and on which commit they were measured."""

    figures: tuple[Figure, ...]
    provenance: Provenance

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values."""
        return asdict(self)

    def markdown(self) -> str:
        """The table of ``render_speed`` as Markdown, for the documentation."""
        rows = [f"| {f.name} | {_number(f)} | {f.unit} |" for f in self.figures]
        return "\n".join(["| measured | value | unit |", "| --- | ---: | --- |", *rows, "", f"{self.provenance}.", ""])


def run_speed(
    *,
    config: LightMemConfig | None = None,
    embedder: Embedder | None = None,
    parts: Sequence[str] = PARTS,
    turns: int = 1_000,
    adds: int = 200,
    queries: int = 100,
    sizes: Sequence[int] = SIZES,
    own: int = 1_000,
    others: int = 1_000_000,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> SpeedReport:
    """Measure speed and size.

    - ``ingest``: ``add`` of whole sessions with the configured model, and that model alone on the
      same texts, in turn; their ratio is the share of the model's speed that the engine keeps.
    - ``add``: one ``add`` of two turns, the model left out.
    - ``search``: one search among ``sizes`` entries of one user, the model left out.
    - ``neighbours``: the same among ``own`` entries, without and with ``others`` entries of other
      users in the database.
    - ``startup``: import of the package, and import, open and first search with the configured
      model, each in new processes.
    - ``memory``: peak resident memory of a new process that searches the largest of ``sizes``.

    Args:
        config: of the memory; None means the defaults.
        embedder: used in ``ingest`` instead of the one that the configuration names.
        parts: which of these to run.
        turns: entries of ``ingest`` and ``startup``.
        adds: calls of ``add``.
        queries: searches at each size.
        sizes: entries of one user.
        own: entries of the user who searches.
        others: entries of all other users together.
        folder: where the databases are made and removed; None means the system's temporary folder.
            A million entries take some gigabytes.
        progress: called with what is measured next.

    Raises:
        UsageError: unknown part, or a number below 1.
        ModelNotFoundError: the configured model is not on this machine.
    """
    numbers = {"turns": turns, "adds": adds, "queries": queries, "own": own, "others": others}
    _check(parts, numbers | {"sizes": min(sizes, default=0)})
    with tempfile.TemporaryDirectory(prefix="lightmem-speed-", dir=folder) as made:
        run = _Run(Path(made), config or LightMemConfig(), progress or (lambda line: None))
        measure: dict[str, Callable[[], Iterator[Figure]]] = {
            "ingest": lambda: run.ingest(turns, embedder),
            "add": lambda: run.add(adds),
            "search": lambda: run.search(sorted(sizes), queries),
            "neighbours": lambda: run.neighbours(own, others, queries),
            "startup": lambda: run.startup(turns),
            "memory": lambda: run.memory(max(sizes)),
        }
        figures = [figure for part in PARTS if part in parts for figure in measure[part]()]
    return SpeedReport(tuple(figures), provenance())


def peak_mib() -> float:
    """The most memory that this process ever had resident, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands a parent's ru_maxrss down to its child; VmHWM (in KiB) is the process's own.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _check(parts: Sequence[str], numbers: dict[str, int]) -> None:
    for part in parts:
        if part not in PARTS:
            raise UsageError("parts", f"must be of {', '.join(PARTS)}", part)
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(name, "must be at least 1", number)


class _Run:
    """The measurements, each a generator of its figures, with databases below ``folder``."""

    def __init__(self, folder: Path, config: LightMemConfig, progress: Callable[[str], None]) -> None:
        self.folder, self.config, self.progress = folder, config, progress
        self._mine = 0  # entries in the database of `search` and `memory`

    def ingest(self, turns: int, embedder: Embedder | None) -> Iterator[Figure]:
        from lightmem_integrations.models.embed import make_embedder

        model = embedder or make_embedder(self.config)
        if model is None:
            return
        self.progress(f"adding {turns:,} turns with the model")
        texts = sentences(turns)
        encode: Callable[[list[str]], Any] = getattr(model, "encode", model.embed)
        encode(texts[:8])
        alone = whole = 0.0
        with self._open("ingest.db", model) as memory:
            # Model and engine take turns, so that a busy moment of the machine hits both.
            for session, batch in _sessions(texts):
                alone += _seconds(encode, [turn.content for turn in batch])
                whole += _seconds(_add, memory, _ME, session, batch)
        yield Figure("ingest", "model alone", turns / alone, "texts/s")
        yield Figure("ingest", f"add, {_SESSION} turns at a time", turns / whole, "turns/s")
        yield Figure("ingest", "add / model alone", alone / whole, "ratio")

    def add(self, adds: int) -> Iterator[Figure]:
        self.progress(f"{adds:,} adds of two turns")
        with self._open("add.db") as memory:
            _fill(memory, _ME, sentences(_SESSION))
            later = [turn for _, batch in _sessions(sentences(2 * adds, seed=2), "later-") for turn in batch]
            pairs = [[later[i], later[i + 1]] for i in range(0, len(later), 2)]
            taken = [_seconds(_add, memory, _ME, "later", pair) for pair in pairs]
        yield from _median_and_p95("add", "add of two turns, model left out", taken)

    def search(self, sizes: Sequence[int], queries: int) -> Iterator[Figure]:
        asked = questions(queries)
        for size in sizes:
            self._grow(size)
            self.progress(f"searching {size:,} entries of one user")
            with self._open("search.db") as memory:
                for strategy in STRATEGIES:
                    taken = _searches(memory, asked, strategy)
                    yield from _median_and_p95("search", f"{strategy} search, {size:,} entries, model left out", taken)

    def neighbours(self, own: int, others: int, queries: int) -> Iterator[Figure]:
        asked = questions(queries)
        with self._open("neighbours.db") as memory:
            _fill(memory, _ME, sentences(own))
        alone = self._median_search("neighbours.db", asked)
        self.progress(f"adding {others:,} entries of other users")
        with self._open("neighbours.db") as memory:
            for user, start in enumerate(range(0, others, _OTHER)):
                _fill(memory, f"other-{user}", sentences(min(_OTHER, others - start), seed=user + 3))
        crowded = self._median_search("neighbours.db", asked)
        name = f"search, {own:,} entries of mine"
        yield Figure("neighbours", f"{name} and nobody else's, median", alone, "ms")
        yield Figure("neighbours", f"{name} beside {others:,} of others, median", crowded, "ms")
        yield Figure("neighbours", f"{name}, beside {others:,} of others / nobody else's", crowded / alone, "ratio")

    def startup(self, turns: int) -> Iterator[Figure]:
        self.progress("starting new processes")
        for name, statement in (
            ("import lightmem_integrations", "import lightmem_integrations"),
            ("import LightMem", "from lightmem_integrations import LightMem"),
        ):
            yield Figure("startup", name, self._median_start(_TIME_IMPORT.format(statement)), "ms")
        with self._open("startup.db", None) as memory:
            _fill(memory, _ME, sentences(turns))
        taken = self._median_start(_TIME_FIRST_SEARCH, *self._child_arguments("startup.db", _ME))
        yield Figure("startup", f"import, open and first search, {turns:,} entries", taken, "ms")

    def memory(self, size: int) -> Iterator[Figure]:
        self._grow(size)
        self.progress(f"memory of a process that searches {size:,} entries")
        for entries, user in ((0, "nobody"), (size, _ME)):
            peak = _child(_PEAK_OF_SEARCH, *self._child_arguments("search.db", user))
            yield Figure("memory", f"peak memory, search of {entries:,} entries", peak, "MiB")

    def _open(self, name: str, embedder: Embedder | None = _INSTANT) -> LightMem:
        from lightmem_integrations.memory import LightMem

        return LightMem(self.folder / name, self.config, embedder=embedder)

    def _grow(self, size: int) -> None:
        """Fill the database of ``search`` and ``memory`` up to ``size`` entries of mine."""
        if size > self._mine:
            self.progress(f"adding {size - self._mine:,} entries")
            with self._open("search.db") as memory:
                _fill(memory, _ME, sentences(size)[self._mine :], prefix=f"from-{self._mine}-")
            self._mine = size

    def _median_search(self, name: str, asked: Sequence[str]) -> float:
        with self._open(name) as memory:
            return 1_000 * statistics.median(_searches(memory, asked, self.config.strategy))

    def _median_start(self, program: str, *arguments: str) -> float:
        return 1_000 * statistics.median(_child(program, *arguments) for _ in range(_STARTS))

    def _child_arguments(self, name: str, user: str) -> tuple[str, str, str]:
        return str(self.folder / name), self.config.model_dump_json(), user


# ------------------------------------------------------------------------------------ work
def _sessions(texts: Sequence[str], prefix: str = "") -> Iterator[tuple[str, list[Message]]]:
    """Two people's talk: a session a day, a turn a minute."""
    for number, start in enumerate(range(0, len(texts), _SESSION)):
        session, day = f"{prefix}session-{number}", _FIRST_DAY + timedelta(days=number)
        yield (
            session,
            [
                Message("user", text, ("Ada", "Ben")[i % 2], day + timedelta(minutes=i), f"{session}:{i}")
                for i, text in enumerate(texts[start : start + _SESSION])
            ],
        )


def _fill(memory: LightMem, user: str, texts: Sequence[str], prefix: str = "") -> None:
    for session, batch in _sessions(texts, prefix):
        _add(memory, user, session, batch)


def _add(memory: LightMem, user: str, session: str, batch: Sequence[Message]) -> None:
    done = memory.add(batch, user_id=user, session_id=session)
    if done.errors or done.pending:
        # A turn that waits for its vectors would make every later figure look better than it is.
        raise LightMemError(f"{done.pending} entries were left pending: {'; '.join(done.errors) or 'no error given'}")


def _searches(memory: LightMem, asked: Sequence[str], strategy: Strategy) -> list[float]:
    """Seconds of each search; one before them loads the user's working set and is not counted."""
    memory.search("warm", user_id=_ME, strategy=strategy)
    search = partial(memory.search, user_id=_ME, strategy=strategy)
    return [_seconds(search, query) for query in asked]


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def _child(program: str, *arguments: str) -> float:
    """Run a program in a new Python process and read the number that it prints."""
    root = str(Path(lightmem_integrations.__path__[0]).parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        raise LightMemError(f"a measuring process failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return float(done.stdout)


def _median_and_p95(part: str, name: str, seconds: Sequence[float]) -> Iterator[Figure]:
    yield Figure(part, f"{name}, median", 1_000 * statistics.median(seconds), "ms")
    yield Figure(part, f"{name}, 95th percentile", 1_000 * sorted(seconds)[int(0.95 * len(seconds))], "ms")


# ------------------------------------------------------------------------------------ printing
def render_speed(report: SpeedReport, console: Console) -> None:
    """Print a report as a table, with the machine, the commit and the date below it."""
    from rich.table import Table

    table = Table("measured", title="speed and size", title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for figure in report.figures:
        table.add_row(figure.name, _number(figure), figure.unit)
    console.print(table)
    console.print(f"{report.provenance}.", highlight=False)


def _number(figure: Figure) -> str:
    return f"{figure.value:,.0f}" if figure.value >= _WHOLE_FROM else f"{figure.value:.2f}"
