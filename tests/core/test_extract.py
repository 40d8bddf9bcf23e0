"""The extractor: what it finds, and laws that hold for any segment."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_integrations.core import extract as module
from lightmem_integrations.core.extract import (
    FACT_THRESHOLD,
    MAX_FACTS_PER_TURN,
    MAX_KEYWORDS,
    CorpusStats,
    Entity,
    Extraction,
    SourceTurn,
    extract,
    spacy_names,
)
from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.core.types import ROLES, Role
from lightmem_integrations.errors import UsageError

SAID = datetime(2023, 5, 8, 13, 56, tzinfo=timezone.utc)
UNRELATED = CorpusStats.of(f"{word} something else about the weather" for word in "abcdefghij" * 20)


def turn(text: str, speaker: str | None = "Caroline", role: Role = "user", n: int = 1) -> SourceTurn:
    return SourceTurn(f"t{n}", role, speaker, text, SAID)


def entities(text: str, **kwargs: str) -> set[tuple[str, str]]:
    return {(e.text, e.kind) for e in extract([turn(text, **kwargs)], UNRELATED).entities}


CHAT = [
    turn("Hey Mel! How have you been?", n=1),
    turn("Hey Caroline! I'm swamped with the kids & work. Anything new?", "Melanie", n=2),
    turn("I went to an LGBTQ support group yesterday and it was so powerful.", n=3),
    turn("Wow, that's cool! What happened?", "Melanie", n=4),
    turn('The support group heard Amy Ellis Nutt read from "Becoming Nicole". Tickets were $12.', n=5),
]
CHINESE = [
    turn("你好，我叫张曼婷。", "张曼婷", n=1),
    turn("推荐你看《小王子》。", "AI", "assistant", n=2),
    turn("昨天我去了绿禾公园散步，花了50元，公园的樱花很美。公园的松鼠也很可爱。", "张曼婷", n=3),
]


# ------------------------------------------------------------------------------------------- cases
def test_a_chat() -> None:
    found = extract(CHAT, CorpusStats.of(t.text for t in CHAT))
    assert "support group" in found.keywords
    assert [e.text for e in found.entities if e.kind == "name"] == ["Mel", "Caroline", "LGBTQ", "Amy Ellis Nutt"]
    assert {Entity("Becoming Nicole", "title"), Entity("$12", "money"), Entity("2023-05-07", "date")} <= set(
        found.entities
    )
    assert [(t.text, t.source_id, t.granularity) for t in found.event_times] == [("yesterday", "t3", "day")]
    yesterday = SAID.replace(hour=0, minute=0) - timedelta(1)
    assert found.event_time == (yesterday, yesterday + timedelta(1))
    assert "Caroline: I went to an LGBTQ support group yesterday" in found.summary
    assert "Hey Mel" not in found.summary


def test_facts_point_at_their_turn_and_carry_speaker_and_date_in_the_key_only() -> None:
    fact = extract(CHAT).facts[0]
    assert fact.text == CHAT[2].text
    assert fact.key == f"Caroline: {CHAT[2].text} (Sunday 7 May 2023)"
    assert fact.source_ids == ("t3",)
    assert fact.event_time is not None
    assert fact.event_time[0].date().isoformat() == "2023-05-07"


@pytest.mark.parametrize(
    ("text", "kind", "entity"),
    [
        ("I work at Acme Corp in New York now", "name", "Acme Corp"),
        ("I work at Acme Corp in New York now", "name", "New York"),
        ("We read Lord of the Rings again", "name", "Lord of the Rings"),
        ("I met Tom's sister", "name", "Tom"),
        ("NASA called me", "name", "NASA"),
        ("Berlin was cold. I miss Berlin", "name", "Berlin"),
        ("Write to ann.lee@example.org please", "email", "ann.lee@example.org"),
        ("See https://example.org/a?b=1, it is good", "url", "https://example.org/a?b=1"),
        ("It cost $1,200 in total", "money", "$1,200"),
        ("It cost 30 euros in total", "money", "30 euros"),
        ("I ran 12.5 km and it rained", "quantity", "12.5 km"),
        ("We scored 40 points then", "quantity", "40 points"),
        ("About 75% agreed", "quantity", "75%"),
        ("I loved “The Lean Startup” a lot", "title", "The Lean Startup"),
        ("We moved in May 2021", "date", "2021-05-01/2021-05-31"),
        ("I got it on 3 June 2022", "date", "2022-06-03"),
        ("我在看《百年孤独》", "title", "百年孤独"),
        ("一共花了三百元", "quantity", "三百元"),
        ("跑了10公里", "quantity", "10公里"),
        ("昨天见了李老师", "name", "李老师"),
        ("我去北京大学读书", "name", "北京大学"),
        ("我买了一台 MacBook Pro 电脑", "name", "MacBook Pro"),
    ],
)
def test_entity(text: str, kind: str, entity: str) -> None:
    assert (entity, kind) in entities(text)


@pytest.mark.parametrize(
    "text",
    [
        "Thanks! Totally agree. Sounds good.", "Painting is fun. Yesterday", "WOW THIS IS SO GOOD", "I think I'm OK",
        "On Monday I sleep", "Running helps. I love running", "- Start here\n- Keep going",
        "Step 1: Prepare Your Garden Soil",
    ],
)  # fmt: skip
def test_capitals_that_are_no_names(text: str) -> None:
    assert not {e for e in entities(text) if e[1] == "name"}


def test_german_capitals_are_no_names() -> None:
    assert entities("Ich habe gestern mit der Schwester einen Kuchen für das Fest gebacken") == set()


def test_a_speaker_who_is_addressed_is_an_entity_but_makes_no_fact() -> None:
    found = extract([turn("I totally agree with you about the garden, Melanie."), turn("Fine.", "Melanie", n=2)])
    assert Entity("Melanie", "name") in found.entities
    assert found.facts == ()


def test_a_chinese_segment() -> None:
    found = extract(CHINESE)
    assert {
        ("小王子", "title"),
        ("绿禾公园", "name"),
        ("张曼婷", "name"),
        ("50元", "money"),
        ("2023-05-07", "date"),
    } <= {(e.text, e.kind) for e in found.entities}
    assert any("公园" in word for word in found.keywords)
    assert "张曼婷: " in found.summary
    assert any("2023年5月7日星期日" in fact.key for fact in found.facts)


def test_questions_and_reactions_become_no_facts() -> None:
    assert extract([turn("Did you meet Amy Nutt in New York on 3 June 2022?")]).facts == ()
    assert extract([turn("Wow, great!"), turn("好的，谢谢！", n=2)]).facts == ()


def test_nothing_in_nothing_out() -> None:
    assert extract([]) == Extraction()
    assert extract([turn(" \n"), turn("🙂🙂🎉", n=2), turn("...", n=3)]) == Extraction()


def test_assistant_turns_only() -> None:
    found = extract([turn("Paris is the capital of France. I like Paris in 2021.", None, "assistant")])
    assert found.summary.startswith("assistant: ")
    assert Entity("Paris", "name") in found.entities


def test_a_date_across_what_looks_like_a_sentence_end() -> None:
    found = extract([turn("I saw Amy on Sept. 3rd in Oslo.")])
    assert [(t.text, t.start.date().isoformat()) for t in found.event_times] == [("Sept. 3rd", "2022-09-03")]


def test_emoji_inside_text() -> None:
    found = extract([turn("🎉🎉 I bought 3 red lamps 🙂 in Oslo yesterday! 👨‍👩‍👧‍👦")])
    assert {("Oslo", "name"), ("3 red", "quantity"), ("2023-05-07", "date")} <= {
        (e.text, e.kind) for e in found.entities
    }


@pytest.mark.parametrize(
    "text",
    ["I met Amy in Oslo yesterday. " * 7_000, "word " * 40_000, "a" * 200_000, "昨天我去了公园。" * 25_000,
     "A1 \"" * 50_000],
)  # fmt: skip
def test_200_000_characters(text: str) -> None:
    started = time.process_time()
    found = extract([turn(text)])
    assert time.process_time() - started < 20
    assert len(found.facts) <= MAX_FACTS_PER_TURN
    assert wordpiece_count(found.summary) <= 60


# ----------------------------------------------------------------------------------------- summary
def test_the_summary_keeps_the_order_and_names_a_speaker_once() -> None:
    turns = [
        turn("My sister Anna opened a small bakery in Lyon.", "Bo", n=1),
        turn("The bakery sells sourdough bread every single morning.", "Bo", n=2),
        turn("I would love to visit that little bakery near the old station.", "Cy", n=3),
    ]
    summary = extract(turns, summary_tokens=200).summary
    assert summary == f"Bo: {turns[0].text} {turns[1].text} Cy: {turns[2].text}"


def test_the_summary_does_not_repeat_itself() -> None:
    same = "My sister Anna opened a small bakery in Lyon."
    other = "Our old boat needs a new engine before autumn."
    turns = [turn(same, n=1), turn(same, n=2), turn(other, n=3)]
    summary = extract(turns, summary_tokens=wordpiece_count(f"Caroline: {same} Caroline: {other}")).summary
    assert summary == f"Caroline: {same} {other}"


def test_vectors_decide_what_is_central() -> None:
    turns = [turn(f"{a} {b} {c} {d} near the harbour", n=i) for i, (a, b, c, d) in enumerate(
        [("red", "lamps", "hang", "low"), ("old", "trains", "run", "late"), ("cold", "rain", "falls", "hard")]
    )]  # fmt: skip
    for i in range(3):
        vectors = np.full((3, 2), [0.0, 1.0], np.float32)
        vectors[i] = [1.0, 0.0]
        odd_one_out = turns[i].text
        summary = extract(
            turns, vectors=vectors, summary_tokens=wordpiece_count(f"Caroline: {odd_one_out}") + 2
        ).summary
        assert odd_one_out not in summary
        assert summary


def test_one_sentence_that_is_too_long_is_cut() -> None:
    summary = extract([turn("alpha beta gamma delta epsilon " * 30)], summary_tokens=12).summary
    assert summary.startswith("Caroline: alpha beta")
    assert wordpiece_count(summary) <= 12


# -------------------------------------------------------------------------------------- importance
@given(
    st.floats(0, 20), st.integers(0, 6), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 5)
)  # fmt: skip
def test_importance_is_monotone(
    telling: float, count: int, dated: bool, first: bool, question: bool, reaction: bool, more: float
) -> None:
    def value(**changes: float | bool) -> float:
        cues = {"telling": telling, "entities": count, "dated": dated, "first_person": first}
        return module._importance(**{**cues, "question": question, "acknowledgement": reaction, **changes})  # type: ignore[arg-type]

    here = value()
    assert 0 <= here < 1
    assert value(telling=telling + more) >= here
    assert value(entities=count + 1) >= here
    assert value(dated=True) >= here
    assert value(first_person=True) >= here
    assert value(question=True) <= here
    assert value(acknowledgement=True) <= here


def test_importance_by_hand() -> None:
    cues = {"first_person": True, "question": False, "acknowledgement": False}
    value = module._importance(telling=5, entities=1, dated=True, **cues)
    assert value == pytest.approx(1 - math.exp(-(0.06 * 5 + 0.20 + 0.25 + 0.15)))


@given(st.lists(st.floats(0, 1), max_size=6), st.floats(0, 1))
def test_a_further_sentence_never_lowers_the_importance(values: list[float], further: float) -> None:
    assert module._segment_importance([*values, further]) >= module._segment_importance(values) - 1e-12


def test_a_dated_statement_outweighs_small_talk() -> None:
    assert extract([CHAT[2]], UNRELATED).importance > 2 * extract([CHAT[3]], UNRELATED).importance


# -------------------------------------------------------------------------------------- the corpus
def test_rare_words_of_the_user_make_keywords() -> None:
    corpus = CorpusStats.of(["the garden is green"] * 50 + ["the trombone is loud"])
    assert extract([turn("The trombone stands beside the garden gate")], corpus).keywords[-1] == "garden"


def test_a_word_with_accents_is_one_keyword() -> None:
    assert extract([turn("Müller müller Müller")]).keywords == ("Müller",)


def test_a_lone_surrogate() -> None:
    assert extract([turn("I met Amy \ud800 in Oslo yesterday")]).summary == "Caroline: I met Amy ? in Oslo yesterday"


def test_stats_that_lag_behind_or_are_empty() -> None:
    for corpus in (CorpusStats(), CorpusStats(1, {"group": 9}), CorpusStats(10, {})):
        assert extract(CHAT, corpus).keywords
        assert 0 < corpus.specificity("group") <= 1


# ------------------------------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"summary_tokens": -1}, "summary_tokens"),
        ({"fact_threshold": 1.5}, "fact_threshold"),
        ({"vectors": np.zeros((2, 3), np.float32)}, "vectors"),
        ({"vectors": np.zeros(5, np.float32)}, "vectors"),
    ],
)
def test_bad_input(kwargs: dict[str, object], field: str) -> None:
    with pytest.raises(UsageError, match=field):
        extract(CHAT, **kwargs)  # type: ignore[arg-type]


def test_a_pipeline_of_spacy_adds_names() -> None:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "ORG", "pattern": "support group"}])
    assert Entity("support group", "name") in extract(CHAT, find_names=spacy_names(pipeline)).entities


# -------------------------------------------------------------------------------------------- laws
PIECES = st.sampled_from(
    [t.text for t in CHAT + CHINESE] + ["?", "5%", "New York", "last May", "🙂", "\n", "https://x.y"]
)
TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=()), max_size=40), max_size=5).map(" ".join)
TURNS = st.lists(st.tuples(TEXT, st.sampled_from(ROLES), st.sampled_from([None, "Mel", "张", " "])), max_size=6).map(
    lambda rows: [SourceTurn(str(i), role, who, text, SAID) for i, (text, role, who) in enumerate(rows)]
)


@given(TURNS, st.booleans(), st.integers(0, 80), st.floats(0, 1))
def test_laws(turns: list[SourceTurn], with_vectors: bool, limit: int, threshold: float) -> None:
    vectors = np.eye(len(turns), 8, dtype=np.float32) if with_vectors else None
    found = extract(turns, UNRELATED, vectors, summary_tokens=limit, fact_threshold=threshold)
    assert found == extract(turns, UNRELATED, vectors, summary_tokens=limit, fact_threshold=threshold)
    assert 0 <= found.importance <= 1
    assert len(found.keywords) <= MAX_KEYWORDS
    assert len(set(found.keywords)) == len(found.keywords)
    assert len(set(found.entities)) == len(found.entities)
    assert all(entity.text.strip() for entity in found.entities)
    assert wordpiece_count(found.summary) <= limit
    by_id = {t.id: t for t in turns}
    for fact in found.facts:
        [source] = fact.source_ids
        assert fact.text in by_id[source].text
        assert fact.text in fact.key
        assert fact.importance >= threshold
    for event in found.event_times:
        assert event.start < event.end
        assert event.text in by_id[event.source_id].text


@given(TURNS)
def test_the_result_depends_on_the_arguments_only(turns: list[SourceTurn]) -> None:
    before = extract(turns)
    extract(CHAT)
    assert extract(turns) == before


def test_facts_are_fewer_the_higher_the_threshold() -> None:
    counts = [len(extract(CHAT + CHINESE, fact_threshold=t / 10).facts) for t in range(11)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0 == counts[-1]
    assert len(extract(CHAT).facts) == len(extract(CHAT, fact_threshold=FACT_THRESHOLD).facts)


def test_throughput() -> None:
    corpus = CorpusStats.of(t.text for t in CHAT)
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(20):
            extract(CHAT * 2, corpus)
        best = min(best, time.process_time() - started)
    assert 20 * 2 * len(CHAT) / best > 500
