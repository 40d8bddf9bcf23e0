"""Every form of a message, every rule that it can break, and the properties that hold for all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone, tzinfo
from enum import Enum
from itertools import pairwise
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightmem_integrations.core.normalize import (
    MAX_CONTENT_CHARS,
    MAX_METADATA_BYTES,
    content_hash,
    normalize,
    read_message,
    read_timestamp,
    spaced,
)
from lightmem_integrations.core.types import Message
from lightmem_integrations.errors import UsageError

NOW = datetime(2024, 3, 1, 12, 0, tzinfo=timezone.utc)
SAID = datetime(2023, 5, 20, 0, 44, tzinfo=timezone.utc)
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}


class MessageRole(str, Enum):
    """Shape of LlamaIndex's enum of the same name."""

    USER = "user"
    MODEL = "model"


@dataclass
class LangChainLike:
    """The attributes of a LangChain message. It is iterable over its fields, as pydantic models are."""

    type: str
    content: Any
    id: str | None = None
    name: str | None = None
    additional_kwargs: dict[str, Any] = field(default_factory=dict)
    response_metadata: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())


@dataclass
class Block:
    """The attributes of a LlamaIndex content block."""

    block_type: str
    text: str | None = None
    content: Any = None


@dataclass
class LlamaIndexLike:
    """The attributes of a LlamaIndex ``ChatMessage``."""

    role: MessageRole
    blocks: list[Block]
    additional_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str | None:
        return "\n".join(block.text for block in self.blocks if block.text) or None


def user(content: Any, **extra: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **extra}


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


FORMS: dict[str, tuple[Any, Message]] = {
    "string": ("hi", Message("user", "hi")),
    "message": (Message("assistant", "hi", "Ann", SAID, "m1", {"a": 1}),) * 2,
    "naive message": (Message("user", "hi", timestamp=SAID.replace(tzinfo=None)), Message("user", "hi", None, SAID)),
    "tuple": (("assistant", "hi"), Message("assistant", "hi")),
    "tuple with time": (("ai", "hi", "2023-05-20 00:44"), Message("assistant", "hi", None, SAID)),
    "tuple without time": (("user", "hi", None), Message("user", "hi")),
    "list": (["system", "hi"], Message("system", "hi")),
    "openai": (user("hi"), Message("user", "hi")),
    "openai developer": ({"role": "developer", "content": "hi"}, Message("system", "hi")),
    "openai name": (user("hi", name="Ann"), Message("user", "hi", "Ann")),
    "openai tool": (
        {"role": "tool", "content": "3 files", "tool_call_id": "c1", "name": "ls"},
        Message("tool", "3 files", "ls"),
    ),
    "openai answer": (
        {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None, "tool_calls": []},
        Message("assistant", "hi"),
    ),
    "openai text beside a call": (
        {"role": "assistant", "content": "I look.", "tool_calls": [TOOL_CALL], "function_call": None},
        Message("assistant", "I look."),
    ),
    "openai refusal": ({"role": "assistant", "content": None, "refusal": "No."}, Message("assistant", "No.")),
    "openai parts": (
        user([text_part("See"), {"type": "image_url", "image_url": {"url": "data:"}}, text_part("this")]),
        Message("user", "See\n[image]\nthis"),
    ),
    "openai attachments": (
        user([{"type": "input_audio"}, {"type": "file"}, {"type": "video_url"}, {"type": "image"}]),
        Message("user", "[audio]\n[file]\n[video]\n[image]"),
    ),
    "openai refusal part": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        Message("assistant", "No."),
    ),
    "openai responses": (
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}], "status": "done"},
        Message("assistant", "hi"),
    ),
    "openai object": (SimpleNamespace(role="assistant", content="hi", tool_calls=None), Message("assistant", "hi")),
    "anthropic": (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "text": "hm"},
                text_part("hi"),
                {"type": "tool_use", "id": "c1", "name": "ls", "input": {}},
                {"type": "document", "source": {}},
                {"type": "odd_block"},
                "",
                "bye",
            ],
            "stop_reason": "end_turn",
        },
        Message("assistant", "hi\n[file]\n[odd_block]\nbye"),
    ),
    "lightmem": (
        user("hi", time_stamp="2023/05/20 (Sat) 00:44", speaker_id="s1", speaker_name="Ann"),
        Message("user", "hi", "Ann", SAID, None, {"speaker_id": "s1"}),
    ),
    "lightmem without a name": (
        user("hi", speaker_id="s1", speaker_name=""),
        Message("user", "hi", "s1", None, None, {"speaker_id": "s1"}),
    ),
    "lightmem without a speaker": (user("hi", speaker_id="", speaker_name=""), Message("user", "hi")),
    "all keys": (
        user("hi", timestamp=SAID, id="m1", metadata={"a": [1, None]}, speaker="Ann", importance=0.5),
        Message("user", "hi", "Ann", SAID, "m1", {"a": [1, None], "importance": 0.5}),
    ),
    "absent keys": (user("hi", timestamp=None, id=None, metadata=None, speaker=None), Message("user", "hi")),
    "same thing twice": (
        user("hi", timestamp=SAID, time_stamp="2023/05/20 (Sat) 00:44", type="human", speaker="Ann", name="Ann"),
        Message("user", "hi", "Ann", SAID),
    ),
    "metadata repeats a key": (
        user("hi", importance=1, metadata={"importance": 1}),
        Message("user", "hi", metadata={"importance": 1}),
    ),
    "read-only mapping": (
        MappingProxyType(user("hi", metadata=MappingProxyType({"a": 1}))),
        Message("user", "hi", metadata={"a": 1}),
    ),
    "langchain human": (
        LangChainLike("human", "hi", "m1", "Ann", {"timestamp": SAID.isoformat(), "function_call": {}}),
        Message("user", "hi", "Ann", SAID, "m1"),
    ),
    "langchain chunk": (LangChainLike("AIMessageChunk", "hi"), Message("assistant", "hi")),
    "langchain parts": (
        LangChainLike(
            "ai", ["a", text_part("b"), {"type": "tool_call_chunk"}, {"type": "reasoning", "reasoning": "c"}]
        ),
        Message("assistant", "a\nb"),
    ),
    "langchain ignores the provider's clock": (
        LangChainLike("ai", "hi", response_metadata={"timestamp": "2023-05-20", "created_at": "2023-05-20"}),
        Message("assistant", "hi"),
    ),
    "langchain chat": (SimpleNamespace(type="chat", role="User", content="hi"), Message("user", "hi")),
    "langchain dump": (
        {"type": "tool", "content": "hi", "additional_kwargs": {}, "response_metadata": {}, "id": "m1", "artifact": 1},
        Message("tool", "hi", id="m1"),
    ),
    "langchain message_to_dict": (
        {"type": "human", "data": {"content": "hi", "type": "human", "example": False, "name": None}},
        Message("user", "hi"),
    ),
    "langchain dumpd": (
        {"lc": 1, "type": "constructor", "id": ["langchain", "HumanMessage"], "kwargs": {"content": "hi"}},
        Message("user", "hi"),
    ),
    "llamaindex": (
        LlamaIndexLike(
            MessageRole.USER,
            [Block("text", "a"), Block("thinking", content="hm"), Block("image"), Block("text", "b")],
            {"timestamp": SAID, "id": "m1", "name": "Ann", "importance": 1, "session_id": "s1"},
        ),
        Message("user", "a\n[image]\nb", "Ann", SAID, "m1", {"importance": 1}),
    ),
    "llamaindex citable": (
        LlamaIndexLike(MessageRole.MODEL, [Block("citable", content=[Block("text", "a"), Block("document")])]),
        Message("assistant", "a\n[file]"),
    ),
    "llamaindex without blocks": (
        SimpleNamespace(role=MessageRole.USER, content="hi", blocks=[], additional_kwargs={}),
        Message("user", "hi"),
    ),
    "llamaindex dump": (
        {"role": "chatbot", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": "hi"}]},
        Message("assistant", "hi"),
    ),
}


@pytest.mark.parametrize(("value", "expected"), FORMS.values(), ids=FORMS)
def test_every_form_is_read(value: Any, expected: Message) -> None:
    assert read_message(value) == expected
    assert Message.from_any(value) == expected


@pytest.mark.parametrize(("value", "expected"), FORMS.values(), ids=FORMS)
def test_one_message_of_any_form_but_a_list_needs_no_list_around_it(value: Any, expected: Message) -> None:
    stamped = expected if expected.timestamp else Message(**{**_as_arguments(expected), "timestamp": NOW})
    assert normalize([value], now=NOW) == [stamped]
    if not isinstance(value, list):
        assert normalize(value, now=NOW) == [stamped]


def _as_arguments(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in ("role", "content", "speaker", "timestamp", "id", "metadata")}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("user", "user"),
        ("Human", "user"),
        ("HumanMessage", "user"),
        ("ASSISTANT", "assistant"),
        ("ai", "assistant"),
        ("model", "assistant"),
        ("chatbot", "assistant"),
        ("system", "system"),
        ("developer", "system"),
        ("SystemMessageChunk", "system"),
        ("tool", "tool"),
        ("function", "tool"),
        ("FunctionMessageChunk", "tool"),
    ],
)
def test_role_names(name: str, role: str) -> None:
    assert read_message((name, "hi")).role == role


class NotATime(datetime):
    """Like ``pandas.NaT``: a datetime that has no year."""

    @property
    def year(self) -> Any:
        return float("nan")


BAD: dict[str, tuple[Any, str]] = {
    "no message": (7, "m"),
    "none": (None, "m"),
    "bytes": (b"hi", "m"),
    "one-tuple": (("user",), "m"),
    "four-tuple": (("user", "hi", None, None), "m"),
    "role missing": ({"content": "hi"}, "m.role"),
    "role unknown": (user("hi") | {"role": "usr"}, "m.role"),
    "role blank": (user("hi") | {"role": ""}, "m.role"),
    "role not text": (("hi", "there"), "m.role"),
    "role number": ((1, "hi"), "m.role"),
    "type unknown": ({"type": "remove", "content": "hi"}, "m.type"),
    "role against type": (user("hi", type="ai"), "m"),
    "content missing": ({"role": "user"}, "m.content"),
    "content none": (user(None), "m.content"),
    "content bytes": (user(b"hi"), "m.content"),
    "content number": (("user", 7), "m.content"),
    "content dict": (user({"text": "hi"}), "m.content"),
    "content empty": ("", "m.content"),
    "content blank": (user(" \n\t\u3000"), "m.content"),
    "content of no parts": (user([]), "m.content"),
    "content of empty parts": (user([text_part(""), " "]), "m.content"),
    "content nul": ("a\0b", "m.content"),
    "content surrogate": ("a\ud800b", "m.content"),
    "content too long": ("x" * (MAX_CONTENT_CHARS + 1), "m.content"),
    "call without text": ({"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}, "m.content"),
    "call part without text": ({"role": "assistant", "content": [{"type": "tool_use"}]}, "m.content"),
    "part number": (user(["hi", 7]), "m.content[1]"),
    "part without type": (user([{"image": {}}]), "m.content[0]"),
    "part type odd": (user([{"type": "no such: type"}]), "m.content[0]"),
    "part text missing": (user([{"type": "text"}]), "m.content[0]"),
    "part text not text": (user([{"type": "text", "text": {"value": "hi"}}]), "m.content[0]"),
    "blocks not a list": ({"role": "user", "blocks": "hi"}, "m.content"),
    "key misspelt": (user("hi", timestmap=1), "m"),
    "key unknown": (user("hi", mood="glad"), "m"),
    "key not text": ({**user("hi"), 7: 1}, "m"),
    "key unknown in an envelope": ({"type": "human", "data": {"content": "hi", "mood": "glad"}}, "m"),
    "id number": (user("hi", id=7), "m.id"),
    "id blank": (user("hi", id=" "), "m.id"),
    "id too long": (user("hi", id="x" * 256), "m.id"),
    "id nul": (user("hi", id="a\0"), "m.id"),
    "id surrogate": (user("hi", id="a\udfff"), "m.id"),
    "speaker number": (user("hi", speaker=7), "m.speaker"),
    "speaker blank": (user("hi", name=" "), "m.name"),
    "speaker too long": (user("hi", speaker_name="x" * 256), "m.speaker_name"),
    "speaker_id number": (user("hi", speaker="Ann", speaker_id=7), "m.speaker_id"),
    "speakers differ": (user("hi", speaker="Ann", name="Bob"), "m"),
    "times differ": (user("hi", timestamp=1, time_stamp=2), "m"),
    "time_stamp bad": (user("hi", time_stamp="soon"), "m.time_stamp"),
    "tuple time bad": (("user", "hi", "soon"), "m.timestamp"),
    "carried time bad": (LangChainLike("human", "hi", additional_kwargs={"timestamp": "soon"}), "m.timestamp"),
    "kwargs not a dict": (user("hi", additional_kwargs=[1]), "m.additional_kwargs"),
    "metadata list": (user("hi", metadata=[]), "m.metadata"),
    "metadata key": (user("hi", metadata={1: 2}), "m.metadata"),
    "metadata inner key": (user("hi", metadata={"a": [{1: 2}]}), "m.metadata"),
    "metadata object": (user("hi", metadata={"a": object()}), "m.metadata"),
    "metadata nan": (user("hi", metadata={"a": [float("nan")]}), "m.metadata"),
    "metadata infinity": (user("hi", metadata={"a": float("inf")}), "m.metadata"),
    "metadata nul": (user("hi", metadata={"a": ["\0"]}), "m.metadata"),
    "metadata surrogate": (user("hi", metadata={"\ud800": 1}), "m.metadata"),
    "metadata too large": (user("hi", metadata={"a": "x" * MAX_METADATA_BYTES}), "m.metadata"),
    "message metadata nan": (Message("user", "hi", metadata={"a": float("nan")}), "m.metadata"),
    "importance nan": (user("hi", importance=float("nan")), "m.importance"),
    "importance high": (user("hi", importance=1.01), "m.importance"),
    "importance text": (user("hi", importance="0.5"), "m.importance"),
    "importance bool": (user("hi", importance=True), "m.importance"),
    "importance in metadata nan": (user("hi", metadata={"importance": float("nan")}), "m.metadata.importance"),
    "importance in metadata low": (user("hi", metadata={"importance": -0.1}), "m.metadata.importance"),
    "importance in metadata none": (user("hi", metadata={"importance": None}), "m.metadata.importance"),
    "importances differ": (user("hi", importance=0.1, metadata={"importance": 0.2}), "m.importance"),
    "speaker_ids differ": (user("hi", speaker_id="a", metadata={"speaker_id": "b"}), "m.speaker_id"),
}


@pytest.mark.parametrize(("value", "at"), BAD.values(), ids=BAD)
def test_every_broken_rule_is_named(value: Any, at: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_message(value, "m")
    assert caught.value.field == at
    assert str(caught.value).startswith(f"{at} {caught.value.rule} (got ")


def test_the_error_of_a_misspelt_key_says_which_and_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"unknown key; did you mean timestamp\?.*metadata \(got 'timestmap'\)"):
        read_message(user("hi", timestmap=1))


def test_the_error_of_a_long_message_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"at most 1,000,000 characters; split it.*got '10,485,760 characters'"):
        read_message("x" * 10 * 1024 * 1024)


def test_metadata_that_refers_to_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for metadata in (loop, {"deep": deep}):
        with pytest.raises(UsageError, match="JSON-serialisable"):
            read_message(user("hi", metadata=metadata))


@pytest.mark.parametrize("length", [200_000, MAX_CONTENT_CHARS])
def test_long_messages_are_accepted(length: int) -> None:
    assert read_message("é" * length).content == "é" * length


def test_metadata_is_a_copy_and_the_message_is_not_modified() -> None:
    metadata = {"tags": ["a"]}
    value = user("hi", metadata=metadata, importance=0.5)
    before = json.dumps(value)
    message = read_message(value)
    metadata["tags"].append("b")
    assert message.metadata == {"tags": ["a"], "importance": 0.5}
    metadata["tags"].pop()
    assert json.dumps(value) == before


class Amsterdam(tzinfo):
    """Two hours ahead before the clock goes back, one hour after; enough to tell the two 02:30 apart."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1 if moment is not None and moment.fold else 2)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, moment: datetime | None) -> str:
        return "CET"


TIMES = [
    (SAID, SAID.isoformat()),
    (datetime(2023, 5, 20, 0, 44), SAID.isoformat()),
    (datetime(2023, 5, 20, 2, 44, tzinfo=timezone(timedelta(hours=2))), "2023-05-20T02:44:00+02:00"),
    (datetime(2023, 10, 29, 2, 30, tzinfo=Amsterdam()), "2023-10-29T02:30:00+02:00"),
    (datetime(2023, 10, 29, 2, 30, tzinfo=Amsterdam(), fold=1), "2023-10-29T02:30:00+01:00"),
    (date(2023, 5, 20), "2023-05-20T00:00:00+00:00"),
    ("2023-05-20", "2023-05-20T00:00:00+00:00"),
    ("2023-05-20T00:44", SAID.isoformat()),
    (" 2023-05-20 00:44:00\n", SAID.isoformat()),
    ("2023-05-20T00:44:00Z", SAID.isoformat()),
    ("2023-05-20t00:44:00z", SAID.isoformat()),
    ("2023-05-20T00:44:00.5Z", "2023-05-20T00:44:00.500000+00:00"),
    ("2023-05-20T00:44:00,123456789Z", "2023-05-20T00:44:00.123456+00:00"),
    ("2023-05-20T00:44:00+02:00", "2023-05-20T00:44:00+02:00"),
    ("2023-05-20 00:44:00 -0330", "2023-05-20T00:44:00-03:30"),
    ("2023-05-20T00:44+05", "2023-05-20T00:44:00+05:00"),
    ("2023/05/20 (Sat) 00:44", SAID.isoformat()),
    ("2023/05/20 (saturday) 00:44", SAID.isoformat()),
    ("2023/05/20 00:44", SAID.isoformat()),
    ("2023/5/20(Sat)", "2023-05-20T00:00:00+00:00"),
    ("2024-02-29", "2024-02-29T00:00:00+00:00"),
    (0, "1970-01-01T00:00:00+00:00"),
    (-1.5, "1969-12-31T23:59:58.500000+00:00"),
    (1684543440, SAID.isoformat()),
    (1684543440.25, "2023-05-20T00:44:00.250000+00:00"),
    ("1900-01-01", "1900-01-01T00:00:00+00:00"),
    ("2200-12-31T23:59:59Z", "2200-12-31T23:59:59+00:00"),
]


@pytest.mark.parametrize(("value", "expected"), TIMES)
def test_times(value: Any, expected: str) -> None:
    moment = read_timestamp(value)
    assert moment.isoformat() == expected
    assert type(moment) is datetime
    assert type(moment.tzinfo) is timezone


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", "must be a datetime"),
        ("soon", "must be a datetime"),
        ("1684543440", "must be a datetime"),
        ("2023-05/20", "must be a datetime"),
        ("2023-05-20T", "must be a datetime"),
        ("2023-05-20T00:44:00+2", "must be a datetime"),
        ("2023-05-20T00:44:00+02:99", "must be a datetime"),
        ("٢٠٢٣-05-20", "must be a datetime"),
        (None, "must be a datetime"),
        (True, "must be a datetime"),
        (b"2023-05-20", "must be a datetime"),
        ("2023-02-30", "must be a time that exists"),
        ("2023/13/01", "must be a time that exists"),
        ("2023-05-20T24:00", "must be a time that exists"),
        ("2023-05-20T00:60", "must be a time that exists"),
        ("2023-05-20T00:44:00+99:00", "must be a time that exists"),
        ("0000-01-01", "must be a time that exists"),
        (NotATime(2023, 5, 20), "must be a time that exists"),
        ("2023/05/20 (Sun) 00:44", "must name the right weekday, which is Saturday"),
        ("2023/05/20 (Sax) 00:44", "must name the right weekday, which is Saturday"),
        ("1899-12-31", "must lie in the years 1900 to 2200"),
        ("2201-01-01", "must lie in the years 1900 to 2200"),
        (datetime.min, "must lie in the years 1900 to 2200"),
        (datetime.max, "must lie in the years 1900 to 2200"),
        (date.max, "must lie in the years 1900 to 2200"),
        (1684543440000, "divide milliseconds by 1000"),
        (10**400, "must be seconds since 1970"),
        (-(10**10), "must be seconds since 1970"),
        (float("nan"), "must be seconds since 1970"),
        (float("inf"), "must be seconds since 1970"),
    ],
)
def test_bad_times(value: Any, rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_timestamp(value, "at")
    assert caught.value.field == "at"
    assert rule in caught.value.rule


def test_order_is_kept_and_missing_times_are_filled() -> None:
    read = normalize((text for text in ("c", "a", "b")), now=NOW)
    assert [message.content for message in read] == ["c", "a", "b"]
    assert {message.timestamp for message in read} == {NOW}
    mixed = normalize([("user", "now"), ("assistant", "then", SAID)], now=NOW)
    assert [message.timestamp for message in mixed] == [NOW, SAID]


def test_a_tuple_is_one_message_or_several() -> None:
    assert [m.content for m in normalize(("user", "hi"), now=NOW)] == ["hi"]
    assert [m.content for m in normalize(("user", [text_part("hi")]), now=NOW)] == ["hi"]
    assert [m.content for m in normalize((("user", "a"), ("ai", "b")), now=NOW)] == ["a", "b"]
    assert [m.content for m in normalize((user("a"), user("b")), now=NOW)] == ["a", "b"]
    assert [m.content for m in normalize(("a", user("b")), now=NOW)] == ["a", "b"]
    assert [m.content for m in normalize(("a", "b", "c", "d"), now=NOW)] == ["a", "b", "c", "d"]
    assert [m.content for m in normalize(["a", "b"], now=NOW)] == ["a", "b"]
    assert [m.content for m in normalize([["user", "a"], ["ai", "b"]], now=NOW)] == ["a", "b"]
    with pytest.raises(UsageError, match=r"messages\[0\]\.role"):
        normalize(("usr", "hi"), now=NOW)


@pytest.mark.parametrize(
    "value",
    [[], (), iter(()), None, 7, b"hi", bytearray(b"hi"), {"hi", "there"}, object(), ["user", "hi"], ["ai", "hi", SAID]],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_list_of_messages_is_refused(value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        normalize(value, now=NOW)
    assert caught.value.field == "messages"


def test_an_empty_dict_is_a_message_without_role() -> None:
    with pytest.raises(UsageError, match=r"^messages\[0\]\.role is required"):
        normalize({}, now=NOW)


def test_errors_name_the_message() -> None:
    with pytest.raises(UsageError, match=r"^messages\[2\]\.timestamp must be a time that exists"):
        normalize(["a", "b", user("c", timestamp="2023-02-30")], now=NOW)


def test_a_failing_iterable_fails_as_it_is() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        normalize(broken(), now=NOW)


def test_identical_repeats_are_kept_and_conflicts_refused() -> None:
    first = user("hi", id="m1", timestamp=SAID)
    again = user("hi", id="m1", metadata={"retry": 1})
    assert [m.id for m in normalize([first, again, user("hi")], now=NOW)] == ["m1", "m1", None]
    for other in (user("ho", id="m1"), user("hi", id="m1", name="Ann"), {**first, "role": "ai"}):
        with pytest.raises(UsageError, match=r"^messages\[2\]\.id is the id of messages\[0\]"):
            normalize([first, "between", other], now=NOW)


def test_spacing_counts_runs_of_equal_times() -> None:
    half = timedelta(milliseconds=500)
    later, elsewhere = SAID + timedelta(minutes=1), SAID.astimezone(timezone(timedelta(hours=2)))
    assert spaced([]) == []
    assert spaced([SAID, elsewhere, SAID, later, later, SAID]) == [
        SAID,
        SAID + half,
        SAID + 2 * half,
        later,
        later + half,
        SAID,
    ]
    assert spaced([SAID, elsewhere])[1].utcoffset() == timedelta(hours=2)


def test_hash_tells_fields_apart_and_ignores_time_and_metadata() -> None:
    message = Message("user", "hi", "Ann", SAID, "m1", {"a": 1})
    assert content_hash(message) == content_hash(Message("user", "hi", "Ann", NOW, "m2"))
    different = [
        message,
        Message("assistant", "hi", "Ann"),
        Message("user", "hi"),
        Message("user", "hi", "null"),
        Message("user", 'Ann", "hi'),
        Message("user", "hi ", "Ann"),
    ]
    assert len({content_hash(m) for m in different}) == len(different)


def test_hash_is_what_stored_hashes_were_made_with() -> None:
    written = rb'["user", "Ann", "Gr\u00fc\u00dfe \ud83d\ude00"]'
    assert content_hash(Message("user", "Grüße 😀", "Ann")) == hashlib.sha256(written).hexdigest()


# --- properties ---

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text("a \n\0\u3000\u200b\ud83d\ude00é", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("role", "type", "content", "blocks", "refusal", "timestamp", "time_stamp", "speaker", "name", "speaker_name"),
        *("speaker_id", "id", "metadata", "importance", "additional_kwargs", "data", "lc", "kwargs", "text"),
    ]
)
LOOSE = st.sampled_from(["user", "human", "text", "image", "message", "2023/05/20", "citable"]) | JSON
ANY_DICT = st.dictionaries(
    KEYS,
    LOOSE | st.lists(st.dictionaries(KEYS, LOOSE, max_size=3), max_size=3) | st.dictionaries(KEYS, LOOSE),
    max_size=6,
)


def read_in_every_form(text: str) -> list[Message]:
    return [
        read_message(text),
        read_message(("user", text)),
        read_message(user(text)),
        read_message(user([text_part(text)])),
        read_message(LangChainLike("human", text)),
        read_message(LlamaIndexLike(MessageRole.USER, [Block("text", text)])),
    ]


@given(ANY_TEXT)
@example("\ufeffa\r\n\u2028e\u0301 ")
def test_any_text_is_kept_as_it_is_or_refused(text: str) -> None:
    if not text.strip() or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        with pytest.raises(UsageError, match=r"^message\.content must"):
            read_message(text)
    else:
        assert {message.content for message in read_in_every_form(text)} == {text}


@given(ANY_DICT | JSON | st.tuples(LOOSE, LOOSE) | st.tuples(LOOSE, LOOSE, LOOSE))
def test_anything_is_a_storable_message_or_a_usage_error(value: Any) -> None:
    try:
        message = read_message(value)
    except UsageError:
        return
    assert message.content.strip()
    assert message.timestamp is None or message.timestamp.tzinfo is not None
    assert json.loads(json.dumps(dict(message.metadata), allow_nan=False)) == message.metadata
    assert read_message(message) == message


OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 12, 31), timezones=OFFSETS))
def test_a_time_and_its_iso_text_are_the_same_time(moment: datetime) -> None:
    for form in (moment, moment.isoformat()):
        assert read_timestamp(form) == moment
        assert read_timestamp(form).utcoffset() == moment.utcoffset()


@given(st.lists(st.integers(0, 3), max_size=12))
def test_spaced_times_of_a_session_rise(minutes: list[int]) -> None:
    times = [SAID + timedelta(minutes=m) for m in sorted(minutes)]
    moved = spaced(times)
    assert all(later - earlier >= timedelta(milliseconds=500) for earlier, later in pairwise(moved))


# --- the real classes, where they are installed ---


def test_real_langchain_messages() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    load = pytest.importorskip("langchain_core.load")
    kwargs = {"timestamp": "2023/05/20 (Sat) 00:44", "speaker": "Ann"}
    human = messages.HumanMessage("hi", id="m1", additional_kwargs=kwargs)
    expected = Message("user", "hi", "Ann", SAID, "m1")
    for form in (human, human.model_dump(), messages.message_to_dict(human), load.dumpd(human)):
        assert normalize(form, now=NOW) == [expected]
    others = [
        (messages.AIMessage([text_part("a"), {"type": "image_url", "image_url": "data:"}]), "assistant", "a\n[image]"),
        (messages.AIMessageChunk("a"), "assistant", "a"),
        (messages.SystemMessage("a"), "system", "a"),
        (messages.ToolMessage("a", tool_call_id="c1"), "tool", "a"),
        (messages.FunctionMessage("a", name="f"), "tool", "a"),
        (messages.ChatMessage("a", role="user"), "user", "a"),
    ]
    for value, role, content in others:
        for form in (value, value.model_dump(), messages.message_to_dict(value), load.dumpd(value)):
            (read,) = normalize([form], now=NOW)
            assert (read.role, read.content) == (role, content)
    call = messages.AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "c1"}])
    for value, at in ((call, "content"), (messages.RemoveMessage(id="m1"), "type")):
        with pytest.raises(UsageError, match=rf"^message\.{at}"):
            read_message(value)


def test_real_llama_index_messages() -> None:
    llms = pytest.importorskip("llama_index.core.llms")
    message = llms.ChatMessage(
        role="user",
        blocks=[llms.TextBlock(text="a"), llms.ImageBlock(url="https://example.org/a.png"), llms.TextBlock(text="b")],
        additional_kwargs={"timestamp": SAID, "id": "m1"},
    )
    for form in (message, message.model_dump()):
        assert normalize(form, now=NOW) == [Message("user", "a\n[image]\nb", None, SAID, "m1")]
    for role, expected in (("model", "assistant"), ("developer", "system"), ("function", "tool")):
        assert read_message(llms.ChatMessage(role=role, content=" hi ")) == Message(expected, " hi ")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^message\.content"):
        read_message(llms.ChatMessage(role="assistant", content=None))
