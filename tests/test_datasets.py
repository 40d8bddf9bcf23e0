"""Reading conversation files: every format, every form of a time, and what the demos promise."""

import gzip
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_integrations.core.types import Message
from lightmem_integrations.datasets import Conversation, demo, load, messages, parse_time
from lightmem_integrations.errors import UsageError


def own(**changes: Any) -> dict[str, Any]:
    conversation = {
        "conversation_id": "c1",
        "language": "en",
        "speakers": ["Ada", "Ben"],
        "sessions": [
            {
                "session_id": "s1",
                "time": "2024-05-01T10:00:00+02:00",
                "turns": [
                    {"turn_id": "t1", "speaker": "Ada", "text": "I moved to Oslo."},
                    {"turn_id": "t2", "speaker": "Ben", "text": "When?"},
                ],
            },
            {
                "session_id": "s2",
                "time": "2024-06-01T10:00:00+02:00",
                "turns": [{"turn_id": "t3", "speaker": "Ada", "text": "I live in Bergen now."}],
            },
        ],
        "questions": [
            {
                "question_id": "q1",
                "question": "Where does Ada live?",
                "answer": "Bergen",
                "category": "changed-fact",
                "evidence_turns": ["t3", "t1"],
            }
        ],
    }
    return conversation | changes


def write(folder: Path, content: Any, name: str = "talk.json") -> Path:
    path = folder / name
    text = json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def one(folder: Path, content: Any) -> Conversation:
    [conversation] = load(write(folder, content))
    return conversation


# ------------------------------------------------------------------------------------ formats
def test_own_format(tmp_path: Path):
    conversation = one(tmp_path, own())
    assert (conversation.conversation_id, conversation.language) == ("c1", "en")
    assert conversation.speakers == ("Ada", "Ben")
    time = datetime(2024, 5, 1, 10, tzinfo=timezone(timedelta(hours=2)))
    assert messages(conversation)[0] == (
        "s1",
        [
            Message("user", "I moved to Oslo.", speaker="Ada", timestamp=time, id="t1"),
            Message("user", "When?", speaker="Ben", timestamp=time, id="t2"),
        ],
    )
    [question] = conversation.questions
    assert question.category == "changed-fact"
    assert question.evidence_turns == ("t3", "t1")
    assert question.evidence_sessions == ("s2", "s1")
    assert question.visible_before_session is None


def test_prepared_format(tmp_path: Path):
    sessions = [
        {
            "session_id": "s1",
            "time": "one evening",  # only read where there is no ISO form of it
            "iso": "2023-04-27T00:00:00",
            "turns": [
                {"turn_id": "0", "speaker": "Emily", "text": "Look!", "caption": "a red door"},
                {"turn_id": "1", "speaker": "AI", "text": "Lovely.", "time": "April-28-2023"},
                {"turn_id": "2", "speaker": "AI", "text": " "},
            ],
        }
    ]
    question = {
        "question_id": "q",
        "question": "Which door?",
        "answer": 3,
        "category": 2,
        "category_name": "single-hop",
        "evidence_turns": ["2"],
        "evidence_sessions": ["s1"],
        "visible_before_session": "s1",
    }
    conversation = one(tmp_path, own(dataset="made-up", sessions=sessions, questions=[question]))
    assert conversation.dataset == "made-up"
    [(_, [emily, ai])] = messages(conversation)
    assert (emily.role, emily.speaker, emily.content) == ("user", "Emily", "Look! [image: a red door]")
    assert emily.timestamp == datetime(2023, 4, 27, tzinfo=timezone.utc)
    assert (ai.role, ai.speaker) == ("assistant", None)
    assert ai.timestamp == datetime(2023, 4, 28, tzinfo=timezone.utc)
    [asked] = conversation.questions
    assert (asked.category, asked.answer, asked.visible_before_session) == ("single-hop", "3", "s1")
    assert asked.evidence_turns == ("2",)


def test_locomo(tmp_path: Path):
    sample = {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ada",
            "speaker_b": "Ben",
            "session_10_date_time": "9:05 am on 12 June, 2023",
            "session_10": [{"dia_id": "D10:1", "speaker": "Ben", "text": "See?", "blip_caption": "a cat"}],
            "session_2_date_time": "12:30 am on 8 May, 2023",
            "session_2": [{"dia_id": "D2:1", "speaker": "Ada", "text": "Hi"}],
            "session_11_date_time": "1:00 pm on 1 July, 2023",
        },
        "qa": [
            {"question": "Who?", "answer": 2022, "evidence": ["D2:01; D:10:1", "D9:9"], "category": 1},
            {"question": "Why?", "adversarial_answer": "because", "evidence": ["D2:1"], "category": 5},
        ],
    }
    conversation = one(tmp_path, [sample])
    assert conversation.speakers == ("Ada", "Ben")
    assert [session.session_id for session in conversation.sessions] == ["S2", "S10"]
    assert [session.time for session in conversation.sessions] == [
        datetime(2023, 5, 8, 0, 30, tzinfo=timezone.utc),
        datetime(2023, 6, 12, 9, 5, tzinfo=timezone.utc),
    ]
    assert conversation.sessions[1].messages[0].content == "See? [image: a cat]"
    first, second = conversation.questions
    assert (first.question_id, first.category, first.answer) == ("conv-1:q0", "multi-hop", "2022")
    assert (first.evidence_turns, first.evidence_sessions) == (("D2:1", "D10:1"), ("S2", "S10"))
    assert (second.category, second.answer) == ("adversarial", None)


def longmemeval(name: str) -> dict[str, Any]:
    return {
        "question_id": name,
        "question_type": "single-session-user",
        "question": "Which degree?",
        "answer": "Business",
        "haystack_session_ids": ["a", "b", "a"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 03:00", "2023/05/20 (Sat) 02:21"],
        "haystack_sessions": [
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
            [{"role": "user", "content": "I read business.", "has_answer": True}],
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
        ],
        "answer_session_ids": ["b"],
    }


def test_longmemeval(tmp_path: Path):
    answerable, abstention = load(write(tmp_path, [longmemeval("x"), longmemeval("y_abs")]))
    assert [(m.role, m.speaker, m.id) for _, turns in messages(answerable) for m in turns] == [
        ("user", None, "a:0"),
        ("assistant", None, "a:1"),
        ("user", None, "b:0"),
    ]
    assert answerable.sessions[0].time == datetime(2023, 5, 20, 2, 21, tzinfo=timezone.utc)
    assert answerable.questions[0].evidence_turns == ("b:0",)
    assert answerable.questions[0].evidence_sessions == ("b",)
    assert abstention.questions[0].evidence_turns == ()
    assert abstention.questions[0].evidence_sessions == ()


def test_a_session_in_which_nothing_was_said_is_not_remembered(tmp_path: Path):
    silent = {"session_id": "s0", "turns": [{"turn_id": "t0", "speaker": "Ada", "text": ""}]}
    conversation = one(tmp_path, own(sessions=[silent, *own()["sessions"], {"session_id": "s9", "turns": []}]))
    assert [session.session_id for session in conversation.sessions] == ["s0", "s1", "s2", "s9"]
    assert [session_id for session_id, _ in messages(conversation)] == ["s1", "s2"]


@pytest.mark.parametrize(
    ("name", "role", "speaker"),
    [
        ("user", "user", None),
        ("Human", "user", None),
        ("Assistant", "assistant", None),
        ("AI", "assistant", None),
        ("bot", "assistant", None),
        ("model", "assistant", None),
        ("Aida", "user", "Aida"),
        ("张曼婷", "user", "张曼婷"),
    ],
)
def test_roles(tmp_path: Path, name: str, role: str, speaker: str | None):
    sessions = [{"session_id": "s", "turns": [{"turn_id": "t", "speaker": name, "text": "x"}]}]
    [(_, [turn])] = messages(one(tmp_path, own(sessions=sessions, questions=[])))
    assert (turn.role, turn.speaker, turn.timestamp) == (role, speaker, None)


# ------------------------------------------------------------------------------------ times
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:56 pm on 8 May, 2023", "2023-05-08T13:56:00+00:00"),
        ("12:09 am on 13 September, 2023", "2023-09-13T00:09:00+00:00"),
        ("2023/05/20 (Sat) 02:21", "2023-05-20T02:21:00+00:00"),
        ("March-15-2024", "2024-03-15T00:00:00+00:00"),
        ("2025-12-15 (Monday)", "2025-12-15T00:00:00+00:00"),
        ("2023-04-27", "2023-04-27T00:00:00+00:00"),
        ("2023-04-27T08:00:00Z", "2023-04-27T08:00:00+00:00"),
        ("2023-04-27T08:00:00+08:00", "2023-04-27T08:00:00+08:00"),
    ],
)
def test_forms_of_a_time(text: str, expected: str):
    time = parse_time(text)
    assert time is not None
    assert time.isoformat() == expected


def test_no_time():
    assert parse_time(None) is None
    assert parse_time("") is None


@given(st.datetimes(min_value=datetime(1000, 1, 1)))
def test_any_iso_time_is_read_as_utc(time: datetime):
    assert parse_time(time.isoformat()) == time.replace(tzinfo=timezone.utc)


# ------------------------------------------------------------------------------------ files
def test_globs_folders_and_gzip(tmp_path: Path):
    write(tmp_path, own(conversation_id="b"), "b.json")
    write(tmp_path, [own(conversation_id="a1"), own(conversation_id="a2")], "a.json.gz")
    (tmp_path / "notes.txt").write_text("not a conversation")
    for paths in (f"{tmp_path}/*.json*", tmp_path, [tmp_path / "a.json.gz", f"{tmp_path}/b.js?n"]):
        assert [c.conversation_id for c in load(paths)] == ["a1", "a2", "b"]


def test_a_name_with_brackets_is_meant_literally(tmp_path: Path):
    assert load(write(tmp_path, own(), "talk[1].json"))[0].conversation_id == "c1"


def turn(**changes: Any) -> dict[str, Any]:
    return own(sessions=[{"session_id": "s1", "turns": [{"turn_id": "t", "speaker": "Ada", "text": "x"} | changes]}])


def question(**changes: Any) -> dict[str, Any]:
    return own(questions=[own()["questions"][0] | changes])


@pytest.mark.parametrize(
    ("content", "place", "expected"),
    [
        ("just text", "", "'haystack_sessions' (LongMemEval)"),
        ({"sessions": []}, "", "'sessions' and 'questions'"),
        ([own(), 7], "[1]", "conversation object"),
        (own(sessions=None), ".sessions", "must be a list"),
        (own(conversation_id=None), ".conversation_id", "must be a string"),
        (own(sessions=["x"]), ".sessions[0]", "must be an object with 'turns'"),
        (turn(text=None), ".sessions[0].turns[0].text", "must be a string"),
        (turn(time="soon"), ".sessions[0].turns[0].time", "must be ISO 8601"),
        (turn(time=12), ".sessions[0].turns[0].time", "must be a string or null"),
        (own(sessions=[own()["sessions"][0], own()["sessions"][0] | {"session_id": "s9"}]), "", "one turn_id"),
        (question(evidence_turns=["t9"]), ".questions[0].evidence_turns", "ids of turns"),
        (question(question=None), ".questions[0].question", "must be a string"),
        (question(visible_before_session="s9"), ".questions[0].visible_before_session", "id of a session"),
        ({"sample_id": "x", "conversation": {}, "qa": [{"question": "?", "category": 9}]}, ".qa[0].category", "1..5"),
        (longmemeval("x") | {"haystack_dates": []}, "", "as many haystack ids and dates"),
    ],
)
def test_bad_files_are_named_with_the_place_and_the_rule(tmp_path: Path, content: Any, place: str, expected: str):
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert caught.value.field == f"{path}{place}"
    assert expected in caught.value.rule


@pytest.mark.parametrize("content", [b"{", b"\xff", b"\x1f\x8b\x08broken"])
@pytest.mark.parametrize("name", ["bad.json", "bad.json.gz"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, name: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match="readable JSON") as caught:
        load(path)
    assert caught.value.field == str(path)


def test_nothing_to_read(tmp_path: Path):
    for paths in (tmp_path / "missing.json", f"{tmp_path}/*.json", tmp_path):
        with pytest.raises(UsageError, match="must be a file"):
            load(paths)


# ------------------------------------------------------------------------------------ demos
def test_no_demo_in_this_language():
    with pytest.raises(UsageError, match="en, zh"):
        demo("fr")


@pytest.mark.parametrize(
    ("language", "sessions", "turns", "days", "questions"), [("en", 12, 177, 365, 12), ("zh", 5, 40, 200, 5)]
)
def test_demo_keeps_its_promises(language: str, sessions: int, turns: int, days: int, questions: int):
    conversation = demo(language)
    assert conversation.language == language
    assert len(conversation.sessions) == sessions
    said = [turn for session in conversation.sessions for turn in session.messages]
    assert len(said) == turns
    assert len({turn.id for turn in said}) == turns
    assert {turn.speaker for turn in said} == set(conversation.speakers)
    times = [session.time for session in conversation.sessions]
    assert times == sorted(times)
    assert times[-1] - times[0] >= timedelta(days=days)
    assert all(time.utcoffset() is not None for time in times)
    assert len(conversation.questions) == questions
    assert all(question.evidence_turns and question.answer for question in conversation.questions)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_demo_questions_are_of_every_kind(language: str):
    questions = demo(language).questions
    assert {question.category for question in questions} == {"single-hop", "multi-hop", "temporal", "changed-fact"}
    for question in questions:
        if question.category == "multi-hop":
            assert len(question.evidence_sessions) >= 2


def test_english_demo_has_short_and_long_turns():
    lengths = [len(turn.content.split()) for _, turns in messages(demo()) for turn in turns]
    assert min(lengths) == 1
    assert 80 <= max(lengths) <= 150
    assert sum(length >= 80 for length in lengths) >= 5
