"""The compression benchmark over the demo conversation."""

import io
import json

import pytest
from rich.console import Console

from lightmem_integrations.bench.compress import METHODS, render_compress, run_compress
from lightmem_integrations.core.types import Message
from lightmem_integrations.datasets import Conversation, Question, Session, demo
from lightmem_integrations.errors import UsageError


def test_run_over_the_demo() -> None:
    made = run_compress([demo()], [0.5, 0.8])
    assert [(row.method, row.rate) for row in made.rows] == [
        ("none", 1.0), *((method, rate) for method in METHODS for rate in (0.5, 0.8)),
    ]  # fmt: skip
    none = made.row("none", 1.0)
    assert none.kept == 1
    assert none.survive is not None
    assert none.survive.mean == 1
    for row in made.rows[1:]:
        assert row.kept == pytest.approx(row.rate, abs=0.02)
        assert (row.off, row.failed) == (0, 0)
    for rate in (0.5, 0.8):
        survive = {method: made.row(method, rate).survive for method in METHODS}
        assert survive["lexical"].mean > max(survive["random"].mean, survive["truncate"].mean)
    assert made.row("lexical", 0.8).recall["recall@10"].mean > made.row("random", 0.5).recall["recall@10"].mean
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False))["questions"] == made.questions
    assert f"| lexical | 0.8 | {made.row('lexical', 0.8).kept:.3f} |" in made.markdown()
    screen = io.StringIO()
    render_compress(made, Console(file=screen, width=200))
    for word in ("truncate", "answer words", f"{made.turns} turns", "by `bm25` with embedder `none`"):
        assert word in screen.getvalue()
    with pytest.raises(UsageError, match="must be a method and a rate that were measured"):
        made.row("lexical", 0.3)


def test_survival_counts_the_words_of_the_answer_that_the_evidence_has() -> None:
    turns = (Message("user", "the lighthouse is in Lisbon, marmalade", id="a"), Message("user", "so it is", id="b"))
    ask = Question("q", "Where is the lighthouse?", "Lisbon or Porto", "single-hop", ("a",), ("s",))
    talk = Conversation("c", "en", (Session("s", None, turns),), (ask,))

    class Drop:
        name = "drop"

        def compress(self, texts):
            from lightmem_integrations.core.compress import compressions

            return compressions(texts, [[(4, 14)] if "Lisbon" in text else None for text in texts])

    made = run_compress([talk], [0.5], methods={"drop": lambda rate: Drop()})
    row = made.row("drop", 0.5)
    assert row.survive is not None
    assert (row.survive.mean, row.survive.n) == (0, 1)
    assert row.failed == 1


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="rates must be at least one rate"):
        run_compress([demo()], [])
    with pytest.raises(UsageError, match="rate must lie in 0 < rate <= 1"):
        run_compress([demo()], [2])
