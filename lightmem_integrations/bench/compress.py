"""Compression: what is kept at which rate, what it costs in evidence, and in recall.

Each method compresses every turn on its own. ``kept`` is the share of WordPiece tokens that remain
over all turns; ``survive`` the share of the content words that the gold answer has in common with
its evidence turns which are still there when these are compressed (``bench.metrics.content_words``),
a mean over questions. For recall the compressed text stands in place of the turn: it is indexed, and
it is what a result costs in ``recall@1000t``.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lightmem_integrations.bench.metrics import Interval, bootstrap, content_words
from lightmem_integrations.bench.provenance import Provenance, provenance
from lightmem_integrations.bench.recall import run_recall
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.compress import (
    FREE,
    LexicalCompressor,
    Weighed,
    check_rate,
    information,
    safely,
    select,
    units,
)
from lightmem_integrations.core.ports import Compressor
from lightmem_integrations.core.types import Compression
from lightmem_integrations.datasets import Conversation
from lightmem_integrations.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lightmem_integrations.core.ports import Embedder

__all__ = ["METHODS", "RATES", "CompressReport", "CompressRow", "render_compress", "run_compress"]

RATES = (0.4, 0.5, 0.6, 0.7, 0.8)
RECALL = ("recall@10", "recall@1000t")
WHOLE = "none"

MakeCompressor = Callable[[float], Compressor]


class _Ranked:
    """Words kept by a score that knows nothing of them: the baselines."""

    def __init__(self, rate: float) -> None:
        self.name, self.rate = type(self).__name__, check_rate(rate)

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        return select(texts, [self._weigh(text) for text in texts], self.rate)

    def _weigh(self, text: str) -> Weighed:
        parts = [unit._replace(level=FREE) for unit in units(text)]
        return Weighed(parts, information(text, parts)[0], self._scores(text, len(parts)))

    def _scores(self, text: str, n: int) -> list[float]:
        raise NotImplementedError


class _RandomWords(_Ranked):
    """Drops words at random, the same ones of the same text every time."""

    def _scores(self, text: str, n: int) -> list[float]:
        dice = random.Random(zlib.crc32(text.encode("utf-8", "replace")))
        return [dice.random() for _ in range(n)]


class _Truncation(_Ranked):
    """Keeps the beginning."""

    def _scores(self, text: str, n: int) -> list[float]:
        return [-float(i) for i in range(n)]


METHODS: dict[str, MakeCompressor] = {"lexical": LexicalCompressor, "random": _RandomWords, "truncate": _Truncation}


@dataclass(frozen=True, slots=True)
class CompressRow:
    """One method at one rate.

    Attributes:
        method: a name of ``METHODS`` or of the caller's own; ``none`` for the texts as they are.
        kept: share of the tokens that remained, over all turns.
        off: share of the turns over 50 tokens whose own rate is more than 0.05 off.
        survive: share of the answer's words in the evidence that remained; None without answers.
        recall: ``recall@10`` and ``recall@1000t``.
        failed: turns that came back whole because the compressor failed.
        turns_per_second: of compression alone.
    """

    method: str
    rate: float
    kept: float
    off: float
    survive: Interval | None
    recall: dict[str, Interval]
    failed: int
    turns_per_second: float


@dataclass(frozen=True, slots=True)
class CompressReport:
    """All rows of a run, ``none`` first."""

    rows: tuple[CompressRow, ...]
    conversations: int
    turns: int
    questions: int
    strategy: str
    embedder: str
    provenance: Provenance

    def row(self, method: str, rate: float) -> CompressRow:
        """The row of one method at one rate.

        Raises:
            UsageError: it was not measured.
        """
        for row in self.rows:
            if row.method == method and row.rate == rate:
                return row
        raise UsageError("row", "must be a method and a rate that were measured", (method, rate))

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values."""
        return asdict(self)

    def markdown(self) -> str:
        """The table of ``render_compress`` as Markdown, for the documentation."""
        lines = [_HEADER, ["---", *["---:"] * (len(_HEADER) - 1)], *(_cells(row) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_summary(self)}\n"


def run_compress(
    conversations: Sequence[Conversation],
    rates: Sequence[float] = RATES,
    *,
    methods: dict[str, MakeCompressor] | None = None,
    config: LightMemConfig | None = None,
    embedder: Embedder | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> CompressReport:
    """Compress every turn by every method at every rate, and measure what that does to evidence.

    Args:
        conversations: with questions that name their evidence.
        rates: shares of tokens to keep, 0 < rate ≤ 1.
        methods: functions from a rate to a compressor, by name; None means ``METHODS``.
        config: of the memory that recall is measured in, which makes nothing of turns; None means BM25
            without an embedder.
        embedder: used instead of the one that the configuration names.
        progress: called with rows done, rows in all and the name of the next one.

    Raises:
        UsageError: no rate, a rate out of range, or no question with evidence.
    """
    if not rates:
        raise UsageError("rates", "must be at least one rate", list(rates))
    makers = methods or METHODS
    plan = [(name, make(check_rate(rate)), rate) for name, make in makers.items() for rate in rates]
    config = config or LightMemConfig(embedder="none", strategy="bm25")
    # Segments and facts would be made of texts that are compressed already, and blur what is compared.
    config = config.model_copy(update={"memory_manager": "none"})
    rows = []
    for number, (name, compressor, rate) in enumerate([(WHOLE, None, 1.0), *plan]):
        if progress is not None:
            progress(number, len(plan) + 1, f"{name} {rate}")
        rows.append(_measure(conversations, name, rate, compressor, config, embedder))
    return CompressReport(
        rows=tuple(rows),
        conversations=len(conversations),
        turns=sum(len(session.messages) for c in conversations for session in c.sessions),
        questions=rows[0].recall[RECALL[0]].n,
        strategy=config.strategy,
        embedder=str(getattr(embedder, "name", None) or config.embedder),
        provenance=provenance(),
    )


def _measure(
    conversations: Sequence[Conversation],
    name: str,
    rate: float,
    compressor: Compressor | None,
    config: LightMemConfig,
    embedder: Embedder | None,
) -> CompressRow:
    texts = [m.content for c in conversations for s in c.sessions for m in s.messages]
    start = time.perf_counter()
    made = safely(compressor, texts)[0] if compressor is not None else LexicalCompressor(1).compress(texts)
    seconds = time.perf_counter() - start
    shortened = _with_texts(conversations, [result.text for result in made])
    long = [result for result in made if result.tokens_before > 50]
    recall = run_recall(shortened, config=config, embedder=embedder)
    survive = _survival(conversations, shortened)
    return CompressRow(
        method=name,
        rate=rate,
        kept=sum(r.tokens_after for r in made) / max(1, sum(r.tokens_before for r in made)),
        off=sum(abs(r.rate - rate) > 0.05 for r in long) / max(1, len(long)),
        survive=bootstrap(survive) if survive else None,
        recall={metric: recall.interval(metric) for metric in RECALL},
        failed=sum(r.failed for r in made),
        turns_per_second=len(texts) / max(seconds, 1e-9),
    )


def _with_texts(conversations: Sequence[Conversation], texts: Sequence[str]) -> list[Conversation]:
    """The conversations with other texts in place of theirs, in the same order."""
    following = iter(texts)
    return [
        replace(
            conversation,
            sessions=tuple(
                replace(session, messages=tuple(replace(m, content=next(following)) for m in session.messages))
                for session in conversation.sessions
            ),
        )
        for conversation in conversations
    ]


def _survival(conversations: Sequence[Conversation], shortened: Sequence[Conversation]) -> list[float]:
    """Per question, the share of the answer's words in its evidence that are still there."""
    out = []
    for before, after in zip(conversations, shortened, strict=True):
        old, new = ({m.id: m.content for s in c.sessions for m in s.messages} for c in (before, after))
        for question in before.questions:
            evidence = [turn for turn in question.evidence_turns if turn in old]
            wanted = content_words(question.answer or "") & content_words(" ".join(old[turn] for turn in evidence))
            if wanted:
                there = content_words(" ".join(new[turn] for turn in evidence))
                out.append(len(wanted & there) / len(wanted))
    return out


# ------------------------------------------------------------------------------------ printing
_HEADER = ["method", "rate", "kept", "off > .05", "answer words", *RECALL, "turns/s"]


def render_compress(report: CompressReport, console: Console) -> None:
    """Print a report as a table."""
    from rich.table import Table

    table = Table(title="compression", title_justify="left")
    for place, name in enumerate(_HEADER):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(_summary(report), highlight=False)


def _cells(row: CompressRow) -> list[str]:
    return [
        row.method,
        f"{row.rate:.1f}",
        f"{row.kept:.3f}",
        f"{row.off:.3f}",
        "-" if row.survive is None else _interval(row.survive),
        *(_interval(row.recall[metric]) for metric in RECALL),
        "-" if row.method == WHOLE else f"{row.turns_per_second:.0f}",
    ]


def _interval(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _summary(report: CompressReport) -> str:
    return (
        f"{report.conversations} conversations, {report.turns} turns, {report.questions} questions with evidence; "
        f"recall by `{report.strategy}` with embedder `{report.embedder}` over the compressed texts. "
        f"Brackets: 95 % bootstrap interval. {report.provenance}."
    )
