"""The recall benchmark: its report by hand, and whole runs over the demo conversation."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from lightmem_integrations.bench.instant import InstantEmbedder
from lightmem_integrations.bench.provenance import Provenance, provenance
from lightmem_integrations.bench.recall import QuestionScore, RecallReport, render_recall, run_recall
from lightmem_integrations.core.types import Message
from lightmem_integrations.datasets import Conversation, Question, Session, demo
from lightmem_integrations.errors import UsageError


def report(**late: list[float]) -> RecallReport:
    """Two strategies; ``late`` scores as given by category, ``bm25`` a tenth less."""
    rows = [
        QuestionScore("c", f"{category}-{i}", category, strategy, {"recall@10": score, "tokens@10": 100 * (i + 1)})
        for category, scores in late.items()
        for i, base in enumerate(scores)
        for strategy, score in (("late", base), ("bm25", base - 0.1))
    ]
    rows = [replace(row, scores=row.scores | {"recall@1000t": row.scores["recall@10"]}) for row in rows]
    here = Provenance("machine", "3.12", "1.0", None, "2025-01-01")
    return RecallReport("turn", ("late", "bm25"), tuple(rows), 1, 20, 3, 2.0, 1.0, 2.0, here)


# ------------------------------------------------------------------------------------ the report
def test_means_by_strategy_and_category():
    made = report(temporal=[0.2, 0.4], adversarial=[0.9])
    assert made.categories == ("all", "no-adversarial", "temporal", "adversarial")
    assert made.questions == 3
    assert made.mean("recall@10") == pytest.approx(0.5)
    assert made.mean("recall@10", category="no-adversarial") == pytest.approx(0.3)
    assert made.mean("recall@10", "bm25", "adversarial") == pytest.approx(0.8)
    assert math.isnan(made.mean("answer@1000t"))


def test_difference_is_paired():
    gap = report(temporal=[0.2, 0.4, 0.9]).difference("recall@10", "bm25")
    assert (gap.mean, gap.low, gap.high, gap.n) == (*[pytest.approx(0.1)] * 3, 3)


def test_json_holds_figures_intervals_and_rows():
    made = json.loads(json.dumps(report(temporal=[0.5, 0.5]).as_dict(), allow_nan=False))
    figures = made["figures"]["late"]["all"]
    assert (figures["n"], figures["recall@10"], figures["recall@10 interval"]) == (2, 0.5, [0.5, 0.5])
    assert made["differences"]["bm25"]["recall@10"]["mean"] == pytest.approx(0.1)
    assert len(made["rows"]) == 4
    assert made["provenance"]["date"] == "2025-01-01"


def test_markdown_and_terminal_show_the_same_cells():
    made = report(temporal=[0.5, 0.5])
    markdown = made.markdown()
    assert "| late | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] | 150 |" in markdown
    assert "| late − bm25 | +0.100 [+0.100, +0.100] * | +0.100 [+0.100, +0.100] * |" in markdown
    assert "1 conversations, 20 turns, 2 questions (3 without evidence skipped)" in markdown
    screen = io.StringIO()
    render_recall(made, Console(file=screen, width=200))
    for cell in ("0.500 [0.500, 0.500]", "late − bm25", "+0.100 [+0.100, +0.100] *", "no commit, 2025-01-01"):
        assert cell in screen.getvalue()


def test_provenance_names_this_interpreter_and_a_day():
    import platform

    here = provenance()
    assert here.python == platform.python_version()
    assert "cores" in here.machine
    assert len(here.date) == 10


# ------------------------------------------------------------------------------------ whole runs
def test_run_over_the_demo():
    made = run_recall([demo(), demo()], strategies=["late", "bm25", "late"], embedder=InstantEmbedder())
    assert made.strategies == ("late", "bm25")
    assert (made.conversations, made.turns, made.questions, made.skipped) == (2, 354, 24, 0)
    assert made.categories == ("all", "single-hop", "changed-fact", "temporal", "multi-hop")
    # The same conversation twice gives two users, who do not see each other's turns.
    for strategy in made.strategies:
        scores = [row.scores for row in made.rows if row.strategy == strategy]
        assert scores[:12] == scores[12:]
        # Keywords alone find most of it; far less would mean that ids or texts got lost on the way.
        assert made.mean("recall@50", strategy) > 0.5
        assert made.mean("tokens@10", strategy) > 50
    assert made.search_ms_p95 >= made.search_ms_p50 > 0
    json.dumps(made.as_dict(), allow_nan=False)


def test_run_at_session_level():
    made = run_recall([demo()], strategies=["bm25"], level="session", embedder=InstantEmbedder())
    assert "tokens@10" not in made.metrics
    # There are only 12 sessions, so that 20 hold every one that matched.
    assert made.mean("recall@20") >= made.mean("recall@5") > 0.5


def moved(visible_before: str | None) -> Conversation:
    def session(name: str, text: str) -> Session:
        return Session(name, None, (Message("user", text, speaker="Ada", id=f"{name}.1"),))

    question = Question("q", "Where did Ada move?", None, "temporal", ("s2.1",), ("s2",), visible_before)
    sessions = (session("s1", "I will move to Oslo"), session("s2", "I did move to Bergen"), session("s3", "I move"))
    return Conversation("c", "en", sessions, (question,), ("Ada",))


def test_what_a_question_must_not_see_is_dropped():
    for visible_before, expected in ((None, 1.0), ("s3", 1.0), ("s2", 0.0), ("s1", 0.0)):
        made = run_recall([moved(visible_before)], strategies=["bm25"], embedder=InstantEmbedder())
        assert made.mean("recall@50") == expected


def test_questions_without_evidence_are_skipped_and_counted():
    conversation = demo()
    unanswerable = replace(conversation.questions[0], evidence_turns=(), evidence_sessions=())
    talk = replace(conversation, questions=(unanswerable, conversation.questions[1]))
    made = run_recall([talk], strategies=["bm25"], embedder=InstantEmbedder())
    assert (made.questions, made.skipped) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"strategies": ["best"]}, "strategies"),
        ({"level": "word"}, "level"),
        ({"ks": (0, 5)}, "ks"),
        ({"ks": (201,)}, "ks"),
        ({"ks": ()}, "ks"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, field: str):
    with pytest.raises(UsageError) as caught:
        run_recall([demo()], **arguments)
    assert caught.value.field == field


def test_nothing_to_ask():
    with pytest.raises(UsageError, match="at least one question with evidence"):
        run_recall([replace(demo(), questions=())])
