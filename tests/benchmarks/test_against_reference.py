"""Our recall figures are those of an evaluator that was written independently, to 1e-9."""

from types import ModuleType
from typing import Any

import pytest

from lightmem_integrations import datasets
from lightmem_integrations.bench.recall import Level, result_of, run_recall, user_of
from lightmem_integrations.config import LightMemConfig
from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.memory import LightMem

pytestmark = pytest.mark.bench

# Ranking by keywords: the figures are compared, whatever the ranking, and no model has to run.
CONFIG = LightMemConfig(embedder="none", strategy="bm25")


def test_files_are_read_alike(reference: ModuleType, data: str):
    ours, theirs = datasets.load(data), reference.load_conversations([data])
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.conversation_id == their.conversation_id
        assert [(m.id, m.content) for s in our.sessions for m in s.messages] == [
            (turn.turn_id, turn.content()) for turn in their.turns() if turn.content().strip()
        ]
        for asked, same in zip(our.questions, their.questions, strict=True):
            assert (asked.question_id, asked.question, asked.category) == (
                same.question_id,
                same.question,
                same.category,
            )
            assert list(asked.evidence_turns) == same.evidence_turns
            assert list(asked.evidence_sessions) == same.evidence_sessions


@pytest.mark.parametrize("level", ["turn", "session"])
def test_every_figure_of_every_question(reference: ModuleType, data: str, level: Level):
    conversations = datasets.load(data)
    ours = run_recall(conversations, config=CONFIG, level=level)
    theirs = reference.evaluate(
        reference.load_conversations([data]), _systems(reference, conversations), level=level, count=wordpiece_count
    )
    assert len(ours.rows) == theirs["n_questions"] > 0
    assert ours.skipped == theirs["n_skipped_no_evidence"]
    for row, expected in zip(ours.rows, theirs["rows"], strict=True):
        assert row.question_id == expected.pop("question_id")
        assert row.category == expected.pop("category")
        assert row.conversation_id == expected.pop("conversation_id")
        assert row.scores == pytest.approx(expected, abs=1e-9), row.question_id
    for category, expected in theirs["figures"].items():
        assert expected.pop("n") == len(ours.values("mrr", category=category))
        for metric, rounded in expected.items():
            assert ours.mean(metric, category=category) == pytest.approx(rounded, abs=5.1e-5), (category, metric)


def _systems(reference: ModuleType, conversations: list[datasets.Conversation]) -> Any:
    """A factory of systems, each a fresh memory, which the evaluator feeds in the order of the files."""
    numbers = iter(range(len(conversations)))

    class System:
        def __init__(self) -> None:
            self.number = next(numbers)
            self.memory = LightMem(":memory:", CONFIG)

        def ingest(self, conversation: Any) -> None:
            assert conversation.conversation_id == conversations[self.number].conversation_id
            for session_id, turns in datasets.messages(conversations[self.number]):
                self.memory.add(turns, user_id=user_of(self.number), session_id=session_id)

        def search(self, query: str, k: int) -> list[Any]:
            found = map(result_of, self.memory.search(query, user_id=user_of(self.number), k=k, strategy="bm25"))
            return [reference.Result(result.text, result.turn_ids) for result in found]

        def close(self) -> None:
            self.memory.close()

    return System
