"""The cost benchmark over a few turns: calls that can be counted by hand."""

import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lightmem_integrations.bench.cost import PER_MESSAGE, CostReport, render_cost, run_cost
from lightmem_integrations.cli import app
from lightmem_integrations.core.types import Message
from lightmem_integrations.datasets import Conversation, Session
from lightmem_integrations.errors import UsageError
from lightmem_integrations.testing import HashEmbedder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

START = datetime(2024, 5, 20, 12, tzinfo=timezone.utc)
SESSIONS, TURNS = 3, 5


def talk(name: str) -> Conversation:
    """Three sessions of five turns."""
    return Conversation(name, "en", tuple(session(name, day) for day in range(SESSIONS)), ())


def session(name: str, day: int) -> Session:
    time = START + timedelta(days=day)
    said = "My cat Miso and I moved to Lisbon, where the old lighthouse is open on Sundays, number"
    turns = (
        Message("user", f"{said} {n}.", ("Ana", "Ben")[n % 2], time + timedelta(minutes=n), f"{name}-{day}-{n}")
        for n in range(TURNS)
    )
    return Session(f"s{day}", time, tuple(turns))


@pytest.fixture(scope="module")
def report() -> CostReport:
    return run_cost([talk("a"), talk("b")], [1, 10_000], embedder=HashEmbedder())


def test_calls_are_those_that_the_buffers_call_for(report: CostReport):
    turns = 2 * SESSIONS * TURNS
    assert (report.conversations, report.sessions, report.turns) == (2, 2 * SESSIONS, turns)
    alone = report.row(PER_MESSAGE)
    assert (alone.calls, alone.calls_per_1000_turns, alone.tokens) == (turns, 1_000, report.tokens)
    # What never fills a buffer is asked for once, at the end.
    assert report.row("10000, compressed").calls == report.row("10000, verbatim").calls == report.conversations
    assert report.conversations < report.row("1, compressed").calls < turns


def test_figures_are_those_of_the_calls(report: CostReport):
    for row in report.rows:
        assert row.calls_per_1000_turns == pytest.approx(1_000 * row.calls / report.turns)
        assert row.calls_per_unit == pytest.approx(512 * row.calls / row.tokens)
        assert row.tokens == report.tokens if "compressed" not in row.name else row.tokens < report.tokens
        assert 0 < row.input_per_turn <= report.row(PER_MESSAGE).input_per_turn
    # The instructions are paid for by the call.
    one, many = report.row("10000, verbatim"), report.row(PER_MESSAGE)
    instructions = (many.input_per_turn - one.input_per_turn) * report.turns / (many.calls - one.calls)
    assert 400 < instructions < 700
    assert report.row("10000, compressed").output_per_turn < one.output_per_turn


def test_add_is_timed_with_a_model_and_without(report: CostReport):
    adds = 2 * SESSIONS * 3  # of two turns, two and one
    assert report.with_model.adds == report.without_model.adds == adds
    for taken in (report.with_model, report.without_model):
        assert 0 < taken.median_ms <= taken.p95_ms
    assert report.ratio == report.with_model.median_ms / report.without_model.median_ms


def test_printing(report: CostReport):
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["ratio"] == report.ratio
    screen = io.StringIO()
    render_cost(report, Console(file=screen, width=200))
    for text in (*(row.name for row in report.rows), "with a language model", "is scripted", "embedder `hash`"):
        assert text in screen.getvalue()
        assert text in report.markdown()
    assert f"| {PER_MESSAGE} | 30 | 1000 |" in report.markdown()
    with pytest.raises(UsageError, match="row must be one of"):
        report.row("512, compressed")


def test_at_the_command_line(tmp_path: Path):
    turns = [
        {"turn_id": f"t{n}", "speaker": "Ana", "text": f"Miso moved to Lisbon on 3 May 202{n} with {n} cats."}
        for n in range(3)
    ]
    data = {"conversation_id": "c", "language": "en", "speakers": ["Ana"], "questions": []}
    data["sessions"] = [{"session_id": "s", "time": "2024-05-20T12:00:00+00:00", "turns": turns}]
    (tmp_path / "c.json").write_text(json.dumps(data), "utf-8")
    arguments = ["bench", "cost", str(tmp_path / "c.json"), "--buffer", "512", "--embedder", "none", "--json"]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    shown = json.loads(made.stdout)
    assert [row["calls"] for row in shown["rows"]] == [1, 1, 3]
    assert shown["embedder"] == "none"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([],), "conversations must hold at least one turn"),
        (([talk("a")], []), "buffers must be at least one"),
        (([talk("a")], [512, 0]), "buffers must be numbers of tokens from 1"),
    ],
)
def test_bad_input_is_named(arguments, told: str):
    with pytest.raises(UsageError, match=told):
        run_cost(*arguments, embedder=HashEmbedder())
