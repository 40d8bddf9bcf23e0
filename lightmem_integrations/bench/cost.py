"""What a language model costs: calls and tokens by configuration, and what it adds to ``add``.

Conversations go through ``LightMem`` two turns at a time. The client is the real one and speaks HTTP to a
server on the loopback that answers by a script and counts (``testing.llm_server``). Calls and prompts are
therefore real, while an answer is as long as the script makes it: a fact for every turn. Tokens are
WordPiece. Only what makes memory of turns is counted; ``update`` and ``summarize`` are calls of their own.

The last row is the usual way, measured likewise: the same prompts with every message as it was said, alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightmem_integrations.bench.provenance import Provenance, provenance
from lightmem_integrations.bench.recall import user_of
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.encode import name_of
from lightmem_integrations.core.types import AddResult, Message
from lightmem_integrations.datasets import Conversation, messages
from lightmem_integrations.errors import LightMemError, UsageError
from lightmem_integrations.models.embed import make_embedder
from lightmem_integrations.testing.llm_server import LLMServer, note_taker

if TYPE_CHECKING:
    from rich.console import Console

    from lightmem_integrations.core.ports import Embedder
    from lightmem_integrations.memory import LightMem

__all__ = ["BUFFERS", "PER_MESSAGE", "AddTime", "CostReport", "CostRow", "render_cost", "run_cost"]

BUFFERS = (256, 512, 1024)
PER_MESSAGE = "one call a message"
UNIT = 512
"""Tokens that ``CostRow.calls_per_unit`` is for: the short-term buffer of the paper."""

_TURNS = 2  # of one add

# Every message is a segment and a buffer of its own, and is sent whatever it holds.
_ALONE: dict[str, Any] = {
    "sensory_buffer_tokens": 1,
    "short_term_buffer_tokens": 1,
    "pre_compress": False,
    "extract_threshold": 0.0,
}
_BY_RULES: dict[str, Any] = {"llm": None, "llm_base_url": None, "memory_manager": "extractive"}


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one configuration asked of the model.

    Attributes:
        name: the short-term buffer in tokens and what else differs, or ``PER_MESSAGE``.
        calls: requests that the server got.
        tokens: text that went through the short-term buffers, compressed where the row compresses.
        calls_per_1000_turns: ``calls`` by turns, times 1,000.
        calls_per_unit: ``calls`` by ``tokens``, times ``UNIT``.
        input_per_turn, output_per_turn: tokens charged, by turns.
    """

    name: str
    calls: int
    tokens: int
    calls_per_1000_turns: float
    calls_per_unit: float
    input_per_turn: float
    output_per_turn: float


@dataclass(frozen=True, slots=True)
class AddTime:
    """How long ``add`` of two turns took, in milliseconds."""

    name: str
    adds: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """All rows of a run, ``PER_MESSAGE`` last, and ``add`` with the language model and without one."""

    rows: tuple[CostRow, ...]
    with_model: AddTime
    without_model: AddTime
    conversations: int
    sessions: int
    turns: int
    tokens: int
    embedder: str
    provenance: Provenance

    @property
    def ratio(self) -> float:
        """Median ``add`` with the model by that without one."""
        return self.with_model.median_ms / self.without_model.median_ms

    def row(self, name: str) -> CostRow:
        """The row of that name.

        Raises:
            UsageError: it was not measured.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise UsageError("row", f"must be one of {', '.join(row.name for row in self.rows)}", name)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values."""
        return asdict(self) | {"ratio": self.ratio}

    def markdown(self) -> str:
        """The tables of ``render_cost`` as Markdown, for the documentation."""
        return "\n\n".join([*(_markdown(header, rows) for _, header, rows in _tables(self)), _summary(self)]) + "\n"


# ------------------------------------------------------------------------------------ running
def run_cost(
    conversations: Sequence[Conversation],
    buffers: Sequence[int] = BUFFERS,
    *,
    config: LightMemConfig | None = None,
    embedder: Embedder | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> CostReport:
    """Remember conversations with a language model that is scripted, and count what it is asked.

    Args:
        conversations: each becomes a user, flushed after the last one.
        buffers: short-term buffers to measure, in tokens.
        config: of the memory; its language model is replaced. None means the defaults.
        embedder: used instead of the one that the configuration names.
        progress: called with steps done, steps in all and the name of the next one.

    Raises:
        UsageError: no turn to remember, no buffer, or one below 1.
        MissingDependencyError: the ``openai`` package is not installed.
        LightMemError: something failed, so that the figures would be of less than the conversations.
    """
    config = config or LightMemConfig()
    plans = _plans(buffers)
    turns = sum(len(batch) for c in conversations for _, batch in messages(c))
    if not turns:
        raise UsageError("conversations", "must hold at least one turn", len(conversations))
    told = progress or (lambda done, total, name: None)
    model = embedder or make_embedder(config)
    rows = []
    for number, (name, settings) in enumerate(plans.items()):
        told(number, len(plans) + 1, name)
        rows.append(_measure(conversations, name, settings, config, model))
    told(len(plans), len(plans) + 1, "add")
    with_model, without_model = _add_times(conversations, config, model)
    return CostReport(
        rows=tuple(rows),
        with_model=with_model,
        without_model=without_model,
        conversations=len(conversations),
        sessions=sum(len(messages(c)) for c in conversations),
        turns=turns,
        tokens=rows[-1].tokens,
        embedder=name_of(model),
        provenance=provenance(),
    )


def _plans(buffers: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The settings of each row, by its name."""
    if not buffers:
        raise UsageError("buffers", "must be at least one number of tokens", list(buffers))
    for tokens in buffers:
        if tokens < 1:
            raise UsageError("buffers", "must be numbers of tokens from 1", tokens)
    plans: dict[str, dict[str, Any]] = {
        f"{tokens}, {name}": {"short_term_buffer_tokens": tokens, "pre_compress": compress}
        for name, compress in (("compressed", True), ("verbatim", False))
        for tokens in buffers
    }
    return plans | {PER_MESSAGE: _ALONE}


def _measure(
    conversations: Sequence[Conversation],
    name: str,
    settings: Mapping[str, Any],
    config: LightMemConfig,
    embedder: Embedder | None,
) -> CostRow:
    turns = tokens = 0
    with (
        LLMServer(note_taker) as server,
        _opened(":memory:", config, embedder, {**_asking(server), **settings}) as memory,
    ):
        for user, session, batch in _sessions(conversations):
            for result, _ in _adds(memory, user, session, batch):
                turns, tokens = turns + result.added, tokens + result.tokens
        memory.flush()
        if memory.config.pre_compress:
            tokens = memory.stats()["compression"]["after"]
        calls = len(server.calls)
        return CostRow(
            name=name,
            calls=calls,
            tokens=tokens,
            calls_per_1000_turns=1_000 * calls / turns,
            calls_per_unit=UNIT * calls / max(1, tokens),
            input_per_turn=server.input_tokens / turns,
            output_per_turn=server.output_tokens / turns,
        )


def _add_times(
    conversations: Sequence[Conversation], config: LightMemConfig, embedder: Embedder | None
) -> tuple[AddTime, AddTime]:
    """``add`` with a language model and without one, on files, in turn session by session.

    There is no pause between the turns of a session, so that work in the background is felt by the ``add``
    that it slows down. It is done before the other memory's turn comes.
    """
    asking: list[float] = []
    by_rules: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="lightmem-cost-") as folder,
        LLMServer(note_taker) as server,
        _opened(Path(folder) / "with.db", config, embedder, _asking(server)) as with_model,
        _opened(Path(folder) / "without.db", config, embedder, _BY_RULES) as without_model,
    ):
        for user, session, batch in _sessions(conversations):
            for memory, taken in ((with_model, asking), (without_model, by_rules)):
                taken += [seconds for _, seconds in _adds(memory, user, session, batch)]
                memory.flush()
    return _add_time("with a language model", asking), _add_time("without", by_rules)


def _sessions(conversations: Sequence[Conversation]) -> Iterator[tuple[str, str, list[Message]]]:
    """User, session and messages, in order."""
    for number, conversation in enumerate(conversations):
        for session, batch in messages(conversation):
            yield user_of(number), session, batch


def _adds(memory: LightMem, user: str, session: str, batch: Sequence[Message]) -> Iterator[tuple[AddResult, float]]:
    """Add two turns at a time; gives each result and the seconds that it took."""
    for at in range(0, len(batch), _TURNS):
        start = time.perf_counter()
        done = memory.add(batch[at : at + _TURNS], user_id=user, session_id=session)
        seconds = time.perf_counter() - start
        if done.errors:
            raise LightMemError(f"session {session}: {'; '.join(done.errors)}")
        yield done, seconds


def _asking(server: LLMServer) -> dict[str, Any]:
    return {"llm": "vllm/scripted", "llm_base_url": server.url, "memory_manager": "llm"}


def _opened(
    path: str | Path, config: LightMemConfig, embedder: Embedder | None, settings: Mapping[str, Any]
) -> LightMem:
    from lightmem_integrations.memory import LightMem

    return LightMem(path, config.model_copy(update=settings), embedder=embedder)


def _add_time(name: str, seconds: Sequence[float]) -> AddTime:
    ordered = sorted(seconds)
    p95 = ordered[int(0.95 * len(ordered))]
    return AddTime(name, len(ordered), 1_000 * statistics.median(ordered), 1_000 * p95)


# ------------------------------------------------------------------------------------ printing
_Table = tuple[str, list[str], list[list[str]]]


def render_cost(report: CostReport, console: Console) -> None:
    """Print a report as two tables."""
    from rich.table import Table

    for title, header, rows in _tables(report):
        table = Table(title=title, title_justify="left")
        for place, name in enumerate(header):
            table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    console.print(_summary(report), highlight=False)


def _tables(report: CostReport) -> list[_Table]:
    calls = [
        "short-term buffer",
        "calls",
        "by 1,000 turns",
        f"by {UNIT} tokens",
        "tokens in / turn",
        "out / turn",
        "sum",
    ]
    times = (report.with_model, report.without_model)
    adds = [[t.name, f"{t.median_ms:.1f} ms", f"{t.p95_ms:.1f} ms", f"{t.adds}"] for t in times]
    ratios = [report.ratio, report.with_model.p95_ms / report.without_model.p95_ms]
    return [
        ("calls and tokens", calls, [_cells(row) for row in report.rows]),
        (
            "time of add",
            ["add of two turns", "median", "95th percentile", "adds"],
            [*adds, ["ratio", *(f"{ratio:.2f}" for ratio in ratios), ""]],
        ),
    ]


def _cells(row: CostRow) -> list[str]:
    total = row.input_per_turn + row.output_per_turn
    return [
        row.name,
        f"{row.calls}",
        f"{row.calls_per_1000_turns:.0f}",
        f"{row.calls_per_unit:.2f}",
        *(f"{value:.0f}" for value in (row.input_per_turn, row.output_per_turn, total)),
    ]


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _summary(report: CostReport) -> str:
    return (
        f"{report.conversations} conversations, {report.sessions} sessions, {report.turns} turns, "
        f"{report.tokens} tokens (WordPiece), two turns an add; embedder `{report.embedder}`. The language model is "
        f"scripted: calls and prompts are real, answers are as long as the script makes them. {report.provenance}."
    )
