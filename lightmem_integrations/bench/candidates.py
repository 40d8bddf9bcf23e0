"""What candidates from Qdrant cost in retrieval quality, by how many there are, against exact search."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lightmem_integrations.bench.metrics import paired_bootstrap
from lightmem_integrations.bench.recall import RecallReport, run_recall
from lightmem_integrations.bench.table import Cell, Table
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.ports import Embedder
from lightmem_integrations.core.types import Strategy
from lightmem_integrations.datasets import Conversation
from lightmem_integrations.stores.qdrant.collection import Collection
from lightmem_integrations.stores.qdrant.connection import Connection

__all__ = ["DEPTHS", "run_candidates"]

DEPTHS = ((25, 50), (50, 100), (100, 200))
"""Candidates by vector and by words."""

ASKED = {"recall@10": 10, "recall@1000t": 50}
"""Results that each figure is taken from: those of a ``search``, and those that ``context`` chooses from.

An index looks at no fewer candidates than twice the results, whatever the depth."""

STRATEGIES: tuple[Strategy, ...] = ("late", "weighted")
Reports = dict[str, RecallReport]


def run_candidates(
    conversations: Sequence[Conversation],
    qdrant: Sequence[str],
    depths: Sequence[tuple[int, int]] = DEPTHS,
    *,
    config: LightMemConfig | None = None,
    embedder: Embedder | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Table:
    """Ask every labelled question, exactly and with each depth, by both strategies.

    Args:
        conversations: as for ``run_recall``.
        qdrant: URLs, or ``":memory:"``.
        depths: candidates by vector and by words.
        config: of the memory; None means the defaults, without extraction.
        embedder: in place of the one that it names.
        say: told what goes on.
    """
    config = (config or LightMemConfig()).model_copy(update={"memory_manager": "none"})

    def asked(name: str, settings: LightMemConfig) -> Reports:
        found = {}
        for metric, results in ASKED.items():

            def told(done: int, total: int, conversation: str, metric: str = metric) -> None:
                say(f"{name}, {metric}: {done} of {total} conversations")

            with _collection(settings) as own:
                found[metric] = run_recall(
                    conversations,
                    config=own,
                    strategies=STRATEGIES,
                    embedder=embedder,
                    ks=(10,),
                    results=results,
                    progress=told,
                )
        return found

    exact = asked("exact", config)
    rows: list[tuple[Cell, ...]] = [("exact", *_figures(exact, exact))]
    for dense, sparse in depths:
        settings = {"qdrant": tuple(qdrant), "embedding_retriever": "qdrant"}
        depth = {"candidates_dense": dense, "candidates_bm25": sparse}
        reports = asked(f"{dense} + {sparse}", config.model_copy(update={**settings, **depth}))
        rows.append((f"{dense} by vector, {sparse} by words", *_figures(reports, exact)))
    columns = [f"{strategy}, {metric}" for strategy in STRATEGIES for metric in ASKED]
    header = ("candidates", *(part for column in columns for part in (column, "difference [95 %]")), "search p50 (ms)")
    one = exact["recall@10"]
    note = (
        f"{one.questions} questions of {one.conversations} conversations, {one.turns} turns. Differences to exact "
        "search, question by question (paired bootstrap). recall@10 of 10 results, recall@1000t of 50, for which no "
        "fewer than 100 candidates of each kind are looked at."
    )
    return Table("candidates", header, tuple(rows), note)


def _figures(reports: Reports, exact: Reports) -> list[Cell]:
    out: list[Cell] = []
    for strategy in STRATEGIES:
        for metric, report in reports.items():
            gap = paired_bootstrap(exact[metric].values(metric, strategy), report.values(metric, strategy))
            out += [
                f"{report.mean(metric, strategy):.3f}",
                "" if reports is exact else f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
            ]
    return [*out, reports["recall@10"].search_ms_p50]


@contextmanager
def _collection(config: LightMemConfig) -> Iterator[LightMemConfig]:
    """The same with a name in Qdrant of its own, which is removed afterwards."""
    if not config.qdrant:
        yield config
        return
    name = f"lightmem-candidates-{uuid.uuid4().hex}"
    try:
        yield config.model_copy(update={"qdrant_collection": name})
    finally:
        connection = Connection(config.qdrant)
        try:
            Collection(connection, name, {}, "single").remove()
        finally:
            connection.close()
