"""From turns to memory, without a language model: buffers, segments, facts, and where they lead."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lightmem_integrations import Filter, LightMem, LightMemConfig, Message
from lightmem_integrations.core.compress import LexicalCompressor
from lightmem_integrations.core.types import Compression
from lightmem_integrations.datasets import demo, messages
from lightmem_integrations.errors import MissingDependencyError
from lightmem_integrations.testing.embedders import HashEmbedder

NOON = datetime(2024, 5, 20, 12, tzinfo=timezone.utc)
NOTES = Filter(kinds=["fact", "segment", "summary"])
TOPICS = {
    "cat": "My cat Miso sleeps on the warm radiator and hunts the red toy mouse all night",
    "boat": "We sail the wooden boat from Bergen to Stavanger in July with uncle Olav",
    "work": "The audit of the Hamburg office starts on 3 June and I lead the team of five",
}


def opened(path: Any = ":memory:", **settings: Any) -> LightMem:
    return LightMem(path, LightMemConfig(**settings), embedder=HashEmbedder())


def talk(count: int, prefix: str = "m", start: datetime = NOON) -> list[Message]:
    """Turns of about 18 tokens; the topic changes after every eight."""
    names = list(TOPICS)
    return [
        Message(
            "user" if n % 2 == 0 else "assistant",
            f"{TOPICS[names[n // 8 % 3]]}, N{n:03d}.",
            "Ana" if n % 2 == 0 else "Ben",
            start + timedelta(minutes=n),
            f"{prefix}{n}",
        )
        for n in range(count)
    ]


def buffers(memory: LightMem, user: str = "ana") -> dict[str, int]:
    return memory.stats(user_id=user)["buffers"]


def notes(memory: LightMem, kind: str, user: str = "ana") -> list[Any]:
    return memory.list(user_id=user, kinds=[kind], limit=10_000)


def extracted(memory: LightMem, user: str = "ana") -> Counter[str]:
    """How often each turn is a source of a segment."""
    return Counter(turn for entry in notes(memory, "segment", user) for turn in entry.source_messages)


# ------------------------------------------------------------------------------------ buffers
def test_turns_wait_in_the_sensory_buffer_until_it_is_full():
    with opened() as memory:
        memory.add(talk(8), user_id="ana")
        assert buffers(memory) == {"turns": 8, "held": 0, "queued": 0, "parked": 0}
        assert notes(memory, "segment") == []
        memory.add(talk(80)[8:], user_id="ana")
        now = buffers(memory)
        assert now["turns"] < 30
        assert now["queued"] == 0
        assert len(extracted(memory)) + now["turns"] <= 80
        memory.flush(user_id="ana")
        assert buffers(memory) == {"turns": 0, "held": 0, "queued": 0, "parked": 0}
        assert extracted(memory) == Counter(f"m{n}" for n in range(80))


def test_the_short_term_buffer_counts_compressed_tokens():
    with opened(short_term_buffer_tokens=100_000) as memory:
        memory.add(talk(120), user_id="ana")
        assert buffers(memory)["held"] > 3
        assert notes(memory, "segment") == []
        stats = memory.stats(user_id="ana")["compression"]
        assert stats["failed"] == 0
        assert 0.5 < stats["after"] / stats["before"] < 0.7
        session = memory.sessions(user_id="ana")[0]
        assert session.compressed_tokens == stats["after"]
        assert session.turns == 120


def test_a_new_session_flushes_the_one_before_it_and_two_at_once_do_not():
    with opened() as memory:
        memory.add(talk(3, "a"), user_id="ana", session_id="one")
        memory.add(talk(3, "b"), user_id="ana", session_id="two")
        assert extracted(memory) == Counter(["a0", "a1", "a2"])
        memory.add(talk(5, "a")[3:], user_id="ana", session_id="one")
        memory.add(talk(5, "b")[3:], user_id="ana", session_id="two")
        assert buffers(memory)["turns"] == 7
        memory.add(talk(2, "z"), user_id="bea", session_id="two")
        assert buffers(memory)["turns"] == 7, "another user's session is no change of session"


def test_an_old_session_is_flushed_when_its_user_comes_back():
    with opened(buffer_max_age_hours=1e-9) as memory:
        memory.add(talk(3, "a"), user_id="ana", session_id="one")
        memory.add(talk(3, "b"), user_id="ana", session_id="two")
        memory.add(talk(4, "a")[3:], user_id="ana", session_id="one")
        assert extracted(memory).keys() >= {"a0", "b0", "b1", "b2"}


def test_a_pause_closes_a_segment():
    with opened() as memory:
        memory.add([*talk(4), *talk(4, "late", NOON + timedelta(hours=5))], user_id="ana")
        assert buffers(memory) == {"turns": 4, "held": 1, "queued": 0, "parked": 0}


def test_close_flushes_what_was_fed_and_the_rest_waits_on_disk(tmp_path):
    with opened(tmp_path / "m.db") as memory:
        memory.add(talk(5), user_id="ana")
    with opened(tmp_path / "m.db") as memory:
        assert extracted(memory) == Counter(f"m{n}" for n in range(5))
        assert memory.doctor().ok


def test_two_engines_feed_one_session(tmp_path):
    said = talk(200)
    one, two = opened(tmp_path / "m.db"), opened(tmp_path / "m.db")
    with one, two:
        for n in range(0, 200, 4):
            (one if n % 8 else two).add(said[n : n + 4], user_id="ana", session_id="s")
        one.flush(user_id="ana")
        assert extracted(two) == Counter(f"m{n}" for n in range(200))
        segments = notes(two, "segment")
        assert [m for entry in segments for m in entry.source_messages] == [f"m{n}" for n in range(200)]


def test_segments_follow_the_topics():
    with opened() as memory:
        memory.add(talk(48), user_id="ana")
        memory.flush()
        found = [entry.source_messages for entry in notes(memory, "segment")]
        starts = {int(sources[0][1:]) for sources in found}
        assert starts >= {8, 16, 24, 32, 40}
        assert len(found) <= 8


def test_without_topics_every_full_buffer_is_one_segment():
    with opened(topic_segment=False) as memory:
        memory.add(talk(48), user_id="ana")
        memory.flush()
        assert len(notes(memory, "segment")) == 3


# ------------------------------------------------------------------------------------ what is made
@pytest.fixture(scope="module")
def demo_memory():
    with opened() as memory:
        for session, said in messages(demo()):
            memory.add(said, user_id="ana", session_id=session)
        memory.flush()
        yield memory


def test_a_segment_has_a_summary_keywords_entities_and_an_importance(demo_memory):
    segments = notes(demo_memory, "segment")
    assert len(segments) > 12
    for entry in segments:
        assert entry.topic_id == entry.id
        assert 0 <= entry.importance <= 1
        assert entry.metadata["made_by"] == "extractive"
        assert entry.metadata["keywords"]
        assert entry.summary
        for source in entry.source_messages:
            assert demo_memory.get(source, user_id="ana").topic_id == entry.id


def test_facts_are_quotations_and_lead_to_their_turns(demo_memory):
    facts = notes(demo_memory, "fact")
    assert len(facts) > 30
    for fact in facts:
        (source,) = fact.source_messages
        assert fact.memory in demo_memory.get(source, user_id="ana").memory
    fact = facts[3]
    hits = demo_memory.search(fact.memory, user_id="ana", k=3, filter=Filter(kinds=["fact"]))
    assert hits[0].source_ids == fact.source_messages
    assert {h.entry.kind for h in hits} == {"fact"}


def test_an_event_time_is_kept_and_found():
    with opened() as memory:
        memory.add(Message("user", "I went to the dentist in Oslo yesterday.", "Ana", NOON, "d"), user_id="ana")
        memory.add(Message("user", "The weather is nice.", "Ana", NOON + timedelta(hours=8), "w"), user_id="ana")
        memory.flush()
        start, end = memory.get("d", user_id="ana").event_time
        assert (start, end) == (NOON.replace(hour=0) - timedelta(days=1), NOON.replace(hour=0))
        fact = memory.search("19 May 2024", user_id="ana", filter=Filter(kinds=["fact"]), strategy="bm25")[0]
        assert fact.source_ids == ("d",)
        assert fact.entry.event_time == (start, end)


def test_kinds_may_be_mixed_and_a_fact_behind_its_turn_is_left_out(demo_memory):
    question = "What is Dev's greyhound called?"
    hits = demo_memory.search(question, user_id="ana", k=8, filter=Filter(kinds=["turn", "segment", "fact"]))
    assert {"turn", "segment"} <= {h.entry.kind for h in hits}
    turns = {h.source_ids[0] for h in hits if h.entry.kind == "turn"}
    assert not any(set(h.source_ids) <= turns for h in hits if h.entry.kind == "fact")
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


@pytest.mark.parametrize("strategy", ["late", "weighted", "dense", "bm25", "rrf"])
def test_notes_change_nothing_in_the_ranking_of_turns(demo_memory, strategy):
    with opened(memory_manager="none") as plain:
        for session, said in messages(demo()):
            plain.add(said, user_id="ana", session_id=session)
        for question in demo().questions:
            one, two = (
                [(h.source_ids, h.score) for h in m.search(question.question, user_id="ana", strategy=strategy)]
                for m in (plain, demo_memory)
            )
            assert one == two
        assert plain.stats()["entries"] == {"turn": 177, "fact": 0, "segment": 0, "summary": 0}


def test_it_is_deterministic(demo_memory):
    with opened() as again:
        for session, said in messages(demo()):
            again.add(said, user_id="ana", session_id=session)
        again.flush()
        for kind in ("fact", "segment"):
            assert notes(again, kind) == notes(demo_memory, kind)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"metadata_generate": False}, lambda e: set(e.metadata) == {"made_by"} and e.importance is None),
        ({"text_summary": False}, lambda e: e.summary == ""),
        ({"pre_compress": False}, lambda e: "sleeps on the warm radiator and hunts the red toy" in e.memory),
    ],
)
def test_what_is_switched_off_is_not_made(settings, expected):
    with opened(**settings) as memory:
        memory.add(talk(8), user_id="ana")
        memory.flush()
        segments = notes(memory, "segment")
        assert segments
        assert all(expected(entry) for entry in segments)


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_messages_use_chooses_whose_turns_are_read(role):
    with opened(messages_use=f"{role}_only") as memory:
        memory.add(talk(20), user_id="ana")
        memory.flush()
        wanted = {m.id for m in talk(20) if m.role == role}
        assert set(extracted(memory)) == wanted
        assert len(memory.search("cat", user_id="ana", k=20)) == 20, "all turns are found as before"


def test_nothing_is_made_below_the_threshold():
    with opened(extract_threshold=0.99) as memory:
        memory.add(talk(20), user_id="ana")
        memory.flush()
        assert memory.stats()["entries"] == {"turn": 20, "fact": 0, "segment": 0, "summary": 0}
        assert buffers(memory)["turns"] == 0


# ------------------------------------------------------------------------------------ forgetting
def test_forgetting_empties_the_buffers_too(tmp_path):
    with opened(tmp_path / "m.db", short_term_buffer_tokens=100_000) as memory:
        memory.add(talk(40), user_id="ana", session_id="s")
        memory.add(talk(40, "b"), user_id="bea", session_id="s")
        held = buffers(memory)["held"]
        assert held
        assert memory.forget(user_id="ana", ids=["m0"]).rows["segments"] == 1
        assert buffers(memory)["held"] == held - 1
        memory.flush()
        assert extracted(memory) == Counter(f"m{n}" for n in range(1, 40))
        gone = memory.forget(user_id="ana")
        assert gone.rows["turns"] == 39
        assert buffers(memory) == {"turns": 0, "held": 0, "queued": 0, "parked": 0}
        assert extracted(memory, "bea") == Counter(f"b{n}" for n in range(40))
        assert memory.search("cat", user_id="ana", filter=NOTES) == []


def test_forgetting_a_turn_takes_what_was_made_of_it_along(demo_memory):
    with opened() as memory:
        memory.add(talk(20), user_id="ana")
        memory.flush()
        entry = notes(memory, "segment")[0]
        memory.forget(user_id="ana", ids=[entry.source_messages[0]])
        assert memory.get(entry.id, user_id="ana") is None
        assert not any(entry.source_messages[0] in e.source_messages for e in notes(memory, "fact"))
        assert memory.doctor().ok


# ------------------------------------------------------------------------------------ odd input
def test_a_very_long_message():
    words = [f"word{n % 97} and Miso{n % 13} went to Oslo." for n in range(8_000)]
    text = " ".join(words)[:200_000]
    with opened() as memory:
        assert not memory.add(Message("assistant", text, id="long"), user_id="ana").errors
        memory.add("Yes.", user_id="ana")
        memory.flush()
        assert extracted(memory)["long"] == 1
        assert memory.get("long", user_id="ana").memory == text


def test_ten_thousand_one_word_messages():
    draw = random.Random(3)
    said = [Message("user", draw.choice(["yes", "no", "cat", "Oslo"]), None, NOON, f"m{n}") for n in range(10_000)]
    with opened(embedder="none") as memory:
        assert not memory.add(said, user_id="ana").errors
        memory.flush()
        assert buffers(memory)["turns"] == 0
        states = memory.stats(user_id="ana")
        assert states["entries"]["turn"] == 10_000


def test_a_conversation_of_the_assistant_alone():
    said = [Message("assistant", m.content, None, m.timestamp, m.id) for m in talk(60)]
    with opened() as memory:
        assert not memory.add(said, user_id="ana").errors
        memory.flush()
        assert extracted(memory) == Counter(f"m{n}" for n in range(60))


def test_counters_have_the_names_of_lightmem(demo_memory):
    demo_memory.search("bike", user_id="ana")
    stats = demo_memory.stats()
    assert stats["add_memory_tokens"] == stats["update_tokens"] == stats["summarize_tokens"] == 0
    assert stats["embedding_tokens"] > 3_000
    for name in ("add_memory_latency", "retrieve_latency", "embedding_latency"):
        assert set(stats[name]) == {"p50", "p95", "count"}
        assert 0 < stats[name]["p50"] <= stats[name]["p95"]
    assert stats["add_memory_latency"]["count"] == 12


# ------------------------------------------------------------------------------------ one model for two steps
class Reader:
    """A model that compresses and shows attention, separately or in one pass, and counts its passes."""

    name = "reader"

    def __init__(self) -> None:
        self.passes = Counter[str]()

    def compress(self, texts: Sequence[str]) -> list[Compression]:
        self.passes["compress"] += 1
        return LexicalCompressor().compress(texts)

    def attend(self, texts: Sequence[str]) -> Any:
        self.passes["attend"] += 1
        rows = np.tri(len(texts), k=-1)
        return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)

    def read(self, texts: Sequence[str]) -> Any:
        self.passes["read"] += 1
        return SimpleNamespace(compressions=LexicalCompressor().compress(texts), attention=Reader().attend(texts))


def test_compression_and_segmentation_share_one_pass_over_the_model():
    model = Reader()
    with LightMem(":memory:", embedder=HashEmbedder(), compressor=model, attention=model) as memory:
        for message in talk(60):
            memory.add(message, user_id="ana")
        memory.flush()
        assert extracted(memory) == Counter(f"m{n}" for n in range(60))
        assert memory.stats()["compression"]["after"] < 0.75 * memory.stats()["compression"]["before"]
    assert model.passes["read"] >= 3
    assert set(model.passes) == {"read"}


def test_two_models_are_asked_one_by_one():
    one, two = Reader(), Reader()
    with LightMem(":memory:", embedder=HashEmbedder(), compressor=one, attention=two) as memory:
        memory.add(talk(60), user_id="ana")
        memory.flush()
    assert set(one.passes) == {"compress"}
    assert set(two.passes) == {"attend"}


def test_spacy_is_asked_for_by_name_or_missed_by_name():
    if find_spec("spacy") is not None:
        pytest.skip("spaCy is installed")
    with pytest.raises(MissingDependencyError, match=r"lightmem-integrations\[spacy\]"):
        opened(entity_finder="spacy")
