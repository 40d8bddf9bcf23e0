"""Evidence recall: how much of what a question needs is found, and at what cost in tokens.

Every conversation becomes the memory of a user of its own. All strategies search the same memory,
so that they differ in ranking alone, and are compared question by question.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from lightmem_integrations.bench.metrics import (
    BUDGETS,
    KS,
    Counter,
    Interval,
    Result,
    bootstrap,
    by_session,
    paired_bootstrap,
    score_question,
)
from lightmem_integrations.bench.provenance import Provenance, provenance
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.types import STRATEGIES, Hit, Profile, Strategy
from lightmem_integrations.datasets import Conversation, Question, messages
from lightmem_integrations.errors import LightMemError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lightmem_integrations.core.ports import Embedder
    from lightmem_integrations.memory import LightMem

__all__ = ["Level", "QuestionScore", "RecallReport", "render_recall", "result_of", "run_recall", "user_of"]

Level = Literal["turn", "session"]
Progress = Callable[[int, int, str], None]

RESULTS = 200
# Results from a session that the question must not see are dropped; asking for more makes up for them.
OVERSAMPLE = 5
ALL, NOT_ADVERSARIAL, ADVERSARIAL = "all", "no-adversarial", "adversarial"
# LoCoMo's adversarial questions have evidence but no answer, so papers leave them out of the mean.

TURN_COLUMNS = ("recall@5", "recall@10", "recall@20", "hit@10", "mrr", "ndcg@10", "recall@500t", "recall@1000t")
SESSION_COLUMNS = ("recall@5", "recall@10", "recall@20", "hit@10", "mrr", "ndcg@10")
HEADLINE: dict[Level, tuple[str, ...]] = {"turn": ("recall@10", "recall@1000t"), "session": ("recall@10",)}


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """What one strategy scored on one question; the names are those of ``bench.metrics``."""

    conversation_id: str
    question_id: str
    category: str
    strategy: Strategy
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class RecallReport:
    """Every score of a run, and the means, intervals and differences computed from them.

    Attributes:
        strategies: in the order asked for; the first is the one that the others are compared with.
        rows: one for each question and strategy, questions in the same order for every strategy.
        skipped: questions without labelled evidence.
        ingest_seconds: time in ``LightMem.add``, embedding included.
        search_ms_p50, search_ms_p95: of the first strategy, embedding of the question included; the
            others find the question's encoding in the cache.
    """

    level: Level
    strategies: tuple[Strategy, ...]
    rows: tuple[QuestionScore, ...]
    conversations: int
    turns: int
    skipped: int
    ingest_seconds: float
    search_ms_p50: float
    search_ms_p95: float
    provenance: Provenance

    @property
    def questions(self) -> int:
        """Questions that were asked."""
        return len(self.rows) // len(self.strategies)

    @property
    def categories(self) -> tuple[str, ...]:
        """``all``, ``no-adversarial`` where there are adversarial questions, then each category."""
        found = list(dict.fromkeys(row.category for row in self.rows))
        return (ALL, *([NOT_ADVERSARIAL] if ADVERSARIAL in found else []), *found)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all figures."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.scores))

    def values(self, metric: str, strategy: Strategy | None = None, category: str = ALL) -> list[float]:
        """One figure of every question of a category that has it, in the order of the questions.

        ``strategy`` None means the first.
        """
        wanted = strategy or self.strategies[0]
        return [
            row.scores[metric]
            for row in self.rows
            if row.strategy == wanted and metric in row.scores and _belongs(row.category, category)
        ]

    def mean(self, metric: str, strategy: Strategy | None = None, category: str = ALL) -> float:
        """Mean of a figure over questions; NaN where no question has it."""
        values = self.values(metric, strategy, category)
        return sum(values) / len(values) if values else math.nan

    def interval(self, metric: str, strategy: Strategy | None = None, category: str = ALL) -> Interval:
        """Mean of a figure with its 95 % bootstrap interval."""
        return bootstrap(self.values(metric, strategy, category))

    def difference(self, metric: str, other: Strategy, category: str = ALL) -> Interval:
        """How much better the first strategy is than another on the same questions (paired bootstrap)."""
        return paired_bootstrap(self.values(metric, other, category), self.values(metric, None, category))

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values: means by strategy and category, differences, rows."""
        figures = {
            strategy: {category: self._figures(strategy, category) for category in self.categories}
            for strategy in self.strategies
        }
        differences = {
            other: {metric: asdict(self.difference(metric, other)) for metric in HEADLINE[self.level]}
            for other in self.strategies[1:]
        }
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("rows", "provenance")}
        return plain | {
            "provenance": asdict(self.provenance),
            "questions": self.questions,
            "figures": figures,
            "differences": differences,
            "rows": [asdict(row) for row in self.rows],
        }

    def _figures(self, strategy: Strategy, category: str) -> dict[str, Any]:
        means = {metric: self.mean(metric, strategy, category) for metric in self.metrics}
        headline = {
            f"{metric} interval": [interval.low, interval.high]
            for metric in HEADLINE[self.level]
            if self.values(metric, strategy, category)
            for interval in [self.interval(metric, strategy, category)]
        }
        n = sum(row.strategy == strategy and _belongs(row.category, category) for row in self.rows)
        # A category whose questions have no answers has no answer@B; JSON has no NaN.
        return {"n": n} | {name: mean for name, mean in means.items() if not math.isnan(mean)} | headline

    def markdown(self) -> str:
        """The tables of ``render_recall`` as Markdown, for the documentation."""
        tables = [_strategy_table(self)] if len(self.strategies) > 1 else []
        tables.append(_category_table(self))
        if len(self.strategies) > 1:
            tables.append(_difference_table(self))
        return "\n\n".join([*(_markdown(header, rows) for _, header, rows in tables), _summary(self)]) + "\n"


# ------------------------------------------------------------------------------------ running
def run_recall(
    conversations: Sequence[Conversation],
    *,
    config: LightMemConfig | None = None,
    strategies: Sequence[Strategy] | None = None,
    level: Level = "turn",
    profile: Profile | None = None,
    ks: Sequence[int] = KS,
    budgets: Sequence[int] = BUDGETS,
    count: Counter | None = None,
    embedder: Embedder | None = None,
    results: int = RESULTS,
    progress: Progress | None = None,
) -> RecallReport:
    """Remember every conversation, ask every question that has evidence, and score the answers.

    Args:
        conversations: each becomes a user of one in-memory database, and is forgotten afterwards.
        config: of the memory; None means the defaults.
        strategies: searched over the same memory; the first is compared with the others. None
            means the one of the configuration.
        level: score turns, or the sessions that they are from.
        profile: of the search; None means the one of the configuration.
        ks: ranks of ``recall@k`` and its kin, each at most ``results``.
        budgets: tokens of ``recall@Bt`` and its kin.
        count: tokens of a text; None counts with the shipped WordPiece tokenizer.
        embedder: used instead of the one that the configuration names.
        results: asked for with each question, and looked at.
        progress: called with conversations done, conversations in all and the id of the next one.

    Raises:
        UsageError: unknown strategy or level, a rank out of range, or no question with evidence.
        LightMemError: a conversation could not be remembered whole.
    """
    from lightmem_integrations.memory import LightMem

    config = config or LightMemConfig()
    chosen = _chosen(strategies or (config.strategy,))
    _check(conversations, level, ks, results)
    tokens = lru_cache(maxsize=100_000)(count or _wordpiece_count())
    rows: list[QuestionScore] = []
    search_seconds: list[float] = []
    ingest_seconds = 0.0
    with LightMem(":memory:", config, embedder=embedder) as memory:
        for number, conversation in enumerate(conversations):
            if progress is not None:
                progress(number, len(conversations), conversation.conversation_id)
            user = user_of(number)
            ingest_seconds += _remember(memory, user, conversation)
            for asked, strategy, found, seconds in _ask(memory, user, conversation, chosen, level, profile, results):
                if strategy == chosen[0]:
                    search_seconds.append(seconds)
                scores = _score(conversation, asked, found, level, ks, budgets, tokens)
                rows.append(
                    QuestionScore(conversation.conversation_id, asked.question_id, asked.category, strategy, scores)
                )
            memory.forget(user_id=user)
    return RecallReport(
        level=level,
        strategies=chosen,
        rows=tuple(rows),
        conversations=len(conversations),
        turns=sum(len(session.messages) for c in conversations for session in c.sessions),
        skipped=sum(not _gold(question, level) for c in conversations for question in c.questions),
        ingest_seconds=ingest_seconds,
        search_ms_p50=_percentile_ms(search_seconds, 0.50),
        search_ms_p95=_percentile_ms(search_seconds, 0.95),
        provenance=provenance(),
    )


def user_of(number: int) -> str:
    """The user whose memory the ``number``-th conversation becomes; its own id may occur twice."""
    return f"conversation-{number}"


def result_of(hit: Hit) -> Result:
    """A hit as the metrics see it: the text as a prompt would show it, with who said it."""
    return Result(f"{hit.entry.speaker or hit.entry.role}: {hit.entry.memory}", hit.source_ids)


def _chosen(strategies: Sequence[Strategy]) -> tuple[Strategy, ...]:
    for strategy in strategies:
        if strategy not in STRATEGIES:
            raise UsageError("strategies", f"must be of {', '.join(STRATEGIES)}", strategy)
    return tuple(dict.fromkeys(strategies))


def _check(conversations: Sequence[Conversation], level: Level, ks: Sequence[int], results: int) -> None:
    if level not in HEADLINE:
        raise UsageError("level", f"must be one of {', '.join(HEADLINE)}", level)
    if not ks or not all(1 <= k <= results for k in ks):
        raise UsageError("ks", f"must be ranks in 1..{results}", list(ks))
    if not any(_gold(question, level) for c in conversations for question in c.questions):
        names = [conversation.conversation_id for conversation in conversations]
        raise UsageError("conversations", "must hold at least one question with evidence", names)


def _wordpiece_count() -> Counter:
    from lightmem_integrations.core.tokens import wordpiece_count

    return wordpiece_count


def _remember(memory: LightMem, user: str, conversation: Conversation) -> float:
    start = time.perf_counter()
    for session_id, turns in messages(conversation):
        done = memory.add(turns, user_id=user, session_id=session_id)
        if done.errors:
            raise LightMemError(f"session {session_id} of {conversation.conversation_id}: {'; '.join(done.errors)}")
        if done.pending:
            memory.flush(user_id=user)
    return time.perf_counter() - start


def _ask(
    memory: LightMem,
    user: str,
    conversation: Conversation,
    strategies: Sequence[Strategy],
    level: Level,
    profile: Profile | None,
    results: int,
) -> Iterator[tuple[Question, Strategy, list[Result], float]]:
    """Each question with evidence, each strategy, its visible results and the seconds it took."""
    order = {session.session_id: place for place, session in enumerate(conversation.sessions)}
    place_of = {turn.id: order[s.session_id] for s in conversation.sessions for turn in s.messages}
    for question in conversation.questions:
        if not _gold(question, level):
            continue
        limit = order.get(question.visible_before_session or "")
        k = results if limit is None else results * OVERSAMPLE
        for strategy in strategies:
            start = time.perf_counter()
            hits = memory.search(question.question, user_id=user, k=k, strategy=strategy, profile=profile)
            seconds = time.perf_counter() - start
            found = [result_of(hit) for hit in hits]
            _check_sources(found, place_of.keys(), conversation)
            if limit is not None:
                found = [result for result in found if all(place_of[turn] < limit for turn in result.turn_ids)]
            yield question, strategy, found[:results], seconds


def _check_sources(found: Sequence[Result], known: Any, conversation: Conversation) -> None:
    for result in found:
        for turn in result.turn_ids:
            if turn not in known:
                raise LightMemError(f"a result names turn {turn!r}, which is not in {conversation.conversation_id}")


def _gold(question: Question, level: Level) -> tuple[str, ...]:
    return question.evidence_turns if level == "turn" else question.evidence_sessions


def _score(
    conversation: Conversation,
    question: Question,
    found: Sequence[Result],
    level: Level,
    ks: Sequence[int],
    budgets: Sequence[int],
    count: Counter,
) -> dict[str, float]:
    gold = _gold(question, level)
    if level == "turn":
        return score_question(found, gold, count=count, answer=question.answer, ks=ks, budgets=budgets)
    session_of = {str(turn.id): s.session_id for s in conversation.sessions for turn in s.messages}
    return score_question(by_session(found, session_of), gold, count=None, ks=ks)


def _belongs(category: str, group: str) -> bool:
    return group in (ALL, category) or (group == NOT_ADVERSARIAL and category != ADVERSARIAL)


def _percentile_ms(seconds: Sequence[float], share: float) -> float:
    return 1_000 * sorted(seconds)[int(share * len(seconds))]


# ------------------------------------------------------------------------------------ printing
_Table = tuple[str, list[str], list[list[str]]]


def render_recall(report: RecallReport, console: Console) -> None:
    """Print a report: strategies side by side, the first one by category, and the differences."""
    from rich.table import Table

    tables = [_category_table(report)]
    if len(report.strategies) > 1:
        tables = [_strategy_table(report), *tables, _difference_table(report)]
    for title, header, rows in tables:
        table = Table(title=title, title_justify="left")
        for place, name in enumerate(header):
            table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place == 0)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_summary(report), highlight=False)


def _summary(report: RecallReport) -> str:
    rate = report.turns / report.ingest_seconds if report.ingest_seconds else math.nan
    return (
        f"{report.conversations} conversations, {report.turns} turns, {report.questions} questions "
        f"({report.skipped} without evidence skipped), {report.level} level. Added {rate:.0f} turns/s; "
        f"search with `{report.strategies[0]}` took {report.search_ms_p50:.1f} ms (median), "
        f"{report.search_ms_p95:.1f} ms (95th percentile). Brackets: 95 % bootstrap interval. {report.provenance}."
    )


def _columns(report: RecallReport) -> list[str]:
    wanted = TURN_COLUMNS if report.level == "turn" else SESSION_COLUMNS
    present = report.metrics
    return [name for name in (*wanted, "answer@1000t", "tokens@10") if name in present]


def _cells(report: RecallReport, strategy: Strategy, category: str) -> list[str]:
    return [_cell(report, metric, strategy, category) for metric in _columns(report)]


def _cell(report: RecallReport, metric: str, strategy: Strategy, category: str) -> str:
    mean = report.mean(metric, strategy, category)
    if math.isnan(mean):
        return "-"
    if metric.startswith("tokens"):
        return f"{mean:.0f}"
    if metric not in HEADLINE[report.level]:
        return f"{mean:.3f}"
    interval = report.interval(metric, strategy, category)
    return f"{mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _strategy_table(report: RecallReport) -> _Table:
    rows = [[strategy, *_cells(report, strategy, ALL)] for strategy in report.strategies]
    return "strategies, all questions", ["strategy", *_columns(report)], rows


def _category_table(report: RecallReport) -> _Table:
    first = report.strategies[0]
    rows = []
    for category in report.categories:
        n = sum(row.strategy == first and _belongs(row.category, category) for row in report.rows)
        rows.append([category, str(n), *_cells(report, first, category)])
    return f"{first}, by category", ["category", "n", *_columns(report)], rows


def _difference_table(report: RecallReport) -> _Table:
    first, metrics = report.strategies[0], HEADLINE[report.level]
    rows = []
    for other in report.strategies[1:]:
        cells = []
        for metric in metrics:
            gap = report.difference(metric, other)
            cells.append(f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]{' *' if gap.excludes_zero else ''}")
        rows.append([f"{first} − {other}", *cells])
    return "paired differences (* zero lies outside the interval)", ["difference", *metrics], rows


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
