"""Bad input is refused with the field, the rule and the value, before anything is written; odd input is data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_integrations import Filter, LightMem, Message, UsageError
from lightmem_integrations.core.normalize import MAX_CONTENT_CHARS
from lightmem_integrations.core.types import STRATEGIES
from lightmem_integrations.testing import HashEmbedder

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
GOOD = {"role": "user", "content": "alpha, kept only with the others", "id": "good"}
STORED = {"role": "user", "content": "alpha stored", "id": "m1", "timestamp": NOON, "speaker": "Ana"}


@pytest.fixture(scope="module")
def memory() -> Iterator[LightMem]:
    """Shared, because no test of bad input may change it."""
    with LightMem(":memory:", embedder=HashEmbedder()) as opened:
        opened.add(STORED, user_id="ana")
        yield opened


@pytest.fixture
def fresh() -> Iterator[LightMem]:
    with LightMem(":memory:", embedder=HashEmbedder()) as opened:
        yield opened


def assert_refused(memory: LightMem, call: Callable[[], Any], field: str, rule: str, value: str | None = None) -> None:
    before = memory.stats()
    with pytest.raises(UsageError) as caught:
        call()
    error = caught.value
    assert error.field == field
    assert rule in error.rule
    assert error.rule in str(error)
    assert str(error).startswith(f"{field} ")
    assert str(error).endswith(f"(got {error.value})")
    assert len(error.value) <= 80
    if value is not None:
        assert error.value == value
    after = memory.stats()
    assert (after["rows"], after["pending"]) == (before["rows"], before["pending"])


def said(**changes: Any) -> dict[str, Any]:
    return {"role": "user", "content": "beta", **changes}


# ------------------------------------------------------------------------------------- messages
BAD_MESSAGES: list[tuple[Any, str, str, str | None]] = [
    (said(content=5), ".content", "must be text or a list of parts", "5"),
    (said(content=None), ".content", "must be text or a list of parts", "None"),
    (said(content=b"bytes"), ".content", "must be text or a list of parts", "b'bytes'"),
    (said(content={"text": "x"}), ".content", "must be text or a list of parts", "{'text': 'x'}"),
    (said(content=""), ".content", "must hold some text", "''"),
    (said(content=" \n\t\u3000"), ".content", "must hold some text", None),
    (said(content=[]), ".content", "must hold some text", "''"),
    (said(content=[5]), ".content[0]", "must be text, or a part with a type", "5"),
    (said(content="x" * 10_000_000), ".content", "must be at most 1,000,000 characters", "'10,000,000 characters'"),
    (said(content="lone \ud800 surrogate"), ".content", "NUL bytes or lone surrogates", None),
    (said(content="nul \0 byte"), ".content", "NUL bytes or lone surrogates", r"'nul \x00 byte'"),
    (said(role="narrator"), ".role", "must be one of user, assistant, system, tool", "'narrator'"),
    (said(role=""), ".role", "must be one of user", "''"),
    (said(role=None), ".role", "is required", "None"),
    (said(role=7), ".role", "must be one of user", "7"),
    (said(timestamp="next tuesday"), ".timestamp", "must be a datetime", "'next tuesday'"),
    (said(timestamp="2023-02-30T10:00:00"), ".timestamp", "must be a time that exists", None),
    (said(timestamp="2023-05-20T25:00:00"), ".timestamp", "must be a time that exists", None),
    (said(timestamp="0001-01-01"), ".timestamp", "must lie in the years 1900 to 2200", "'0001-01-01'"),
    (said(timestamp="9999-12-31T23:59:59"), ".timestamp", "must lie in the years 1900 to 2200", None),
    (said(timestamp=datetime.max), ".timestamp", "must lie in the years 1900 to 2200", None),
    (said(timestamp=1e300), ".timestamp", "in the years 1900 to 2200", "1e+300"),
    (said(timestamp=math.nan), ".timestamp", "must be seconds since 1970", "nan"),
    (said(timestamp=math.inf), ".timestamp", "must be seconds since 1970", "inf"),
    (said(timestamp=True), ".timestamp", "must be a datetime", "True"),
    (said(timestamp=[2023]), ".timestamp", "must be a datetime", "[2023]"),
    (said(time_stamp="2023/05/20 (Mon) 00:44"), ".time_stamp", "must name the right weekday", None),
    (said(importance=math.nan), ".importance", "must be a number in 0..1", "nan"),
    (said(importance=1.5), ".importance", "must be a number in 0..1", "1.5"),
    (said(importance=-0.1), ".importance", "must be a number in 0..1", "-0.1"),
    (said(importance="high"), ".importance", "must be a number in 0..1", "'high'"),
    (said(metadata={"importance": math.nan}), ".metadata.importance", "must be a number in 0..1", "nan"),
    (said(metadata="x"), ".metadata", "must be a dict", "'x'"),
    (said(metadata={"x": object}), ".metadata", "must be JSON-serialisable", None),
    (said(metadata={"x": math.inf}), ".metadata", "without NaN and infinities", None),
    (said(metadata={5: "x"}), ".metadata", "must have strings as keys", "5"),
    (said(metadata={"x": "\ud800"}), ".metadata", "NUL bytes or lone surrogates", None),
    (said(metadata={"x\0": 1}), ".metadata", "NUL bytes or lone surrogates", None),
    (said(metadata={"x": "y" * 70_000}), ".metadata", "must be at most 65,536 bytes", None),
    (said(id=7), ".id", "must be a string", "7"),
    (said(id=""), ".id", "must not be blank", "''"),
    (said(id="x" * 256), ".id", "must be at most 255 characters", "'256 characters'"),
    (said(id="\ud800"), ".id", "NUL bytes or lone surrogates", None),
    (said(speaker=7), ".speaker", "must be a string", "7"),
    (said(speaker="  "), ".speaker", "must not be blank", "'  '"),
    (said(speaker="a\0b"), ".speaker", "NUL bytes or lone surrogates", r"'a\x00b'"),
    (said(text="beta"), "", "has an unknown key", "'text'"),
    ({}, ".role", "is required", "None"),
    ("", ".content", "must hold some text", "''"),
    (5, "", "must be text, (role, content)", "5"),
    (None, "", "must be text, (role, content)", "None"),
    (Message("user", "", id="x"), ".content", "must hold some text", "''"),
    (Message("user", "beta", timestamp="never"), ".timestamp", "must be a datetime", "'never'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("message", "field", "rule", "value"), BAD_MESSAGES)
def test_a_bad_message_keeps_good_ones_out_too(
    memory: LightMem, message: Any, field: str, rule: str, value: str | None
) -> None:
    for position in range(3):
        batch: list[Any] = [GOOD, {**GOOD, "id": "good too"}]
        batch.insert(position, message)
        where = f"messages[{position}]{field}"
        assert_refused(memory, lambda batch=batch: memory.add(batch, user_id="ana"), where, rule, value)
    assert memory.get("good", user_id="ana") is None


def test_content_of_the_largest_size_is_accepted_and_one_more_character_is_not(memory: LightMem) -> None:
    too_long = "a" * (MAX_CONTENT_CHARS + 1)
    assert_refused(memory, lambda: memory.add(too_long, user_id="ana"), "messages[0].content", "must be at most")
    with LightMem(":memory:") as unread:  # the model is never loaded: a refusal needs none
        assert_refused(unread, lambda: unread.add(too_long, user_id="ana"), "messages[0].content", "must be at most")


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ([], "must hold at least one message"),
        ((), "must hold at least one message"),
        (iter([]), "must hold at least one message"),
        (None, "must be a message or an iterable"),
        (5, "must be a message or an iterable"),
        (b"hello", "must be a message or an iterable"),
        ({"hello"}, "must have an order"),
        (["user", "hello"], "must not be a list that reads like one"),
    ],
)
def test_what_is_no_message_is_refused(memory: LightMem, messages: Any, rule: str) -> None:
    assert_refused(memory, lambda: memory.add(messages, user_id="ana"), "messages", rule)


@pytest.mark.parametrize(
    "change",
    [{"content": "other"}, {"role": "assistant"}, {"speaker": "Ben"}, {"speaker": None}, {"content": "alpha stored "}],
)
def test_an_id_that_was_used_for_something_else_is_refused(memory: LightMem, change: dict[str, Any]) -> None:
    other = {**STORED, **change}
    for session in (None, "another"):
        for at, batch in enumerate(([other, GOOD], [GOOD, other])):
            call = lambda batch=batch, session=session: memory.add(batch, user_id="ana", session_id=session)  # noqa: E731
            rule = "was used before with another role, speaker or text"
            assert_refused(memory, call, f"messages[{at}].id", rule, "'m1'")
    batch = [{**GOOD, "id": "twice"}, said(id="twice")]
    assert_refused(memory, lambda: memory.add(batch, user_id="ana"), "messages[1].id", "is the id of messages[0]")


def test_an_iterable_that_fails_half_way_writes_nothing(memory: LightMem) -> None:
    def broken() -> Iterator[Any]:
        yield GOOD
        raise ZeroDivisionError

    before = memory.stats()["rows"]
    with pytest.raises(ZeroDivisionError):
        memory.add(broken(), user_id="ana")
    assert memory.stats()["rows"] == before


# ------------------------------------------------------------------------------------- scope
BAD_IDS = [
    ("", "must not be blank", "''"),
    (" \t\n", "must not be blank", r"' \t\n'"),
    ("\u3000", "must not be blank", None),
    ("x" * 256, "must be at most 255 characters", "'256 characters'"),
    (7, "must be a string", "7"),
    (b"ana", "must be a string", "b'ana'"),
    (["ana"], "must be a string", "['ana']"),
    ("a\0b", "must not contain NUL bytes or lone surrogates", r"'a\x00b'"),
    ("\udfff", "must not contain NUL bytes or lone surrogates", r"'\udfff'"),
]


def calls(memory: LightMem, user: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    hit = memory.search("alpha", user_id="ana")[0]
    return {
        "add": lambda: memory.add(GOOD, user_id=user),
        "search": lambda: memory.search("alpha", user_id=user),
        "context": lambda: memory.context("alpha", user_id=user),
        "expand": lambda: memory.expand(hit, user_id=user),
        "get": lambda: memory.get("m1", user_id=user),
        "list": lambda: memory.list(user_id=user),
        "history": lambda: memory.history("m1", user_id=user),
        "forget": lambda: memory.forget(user_id=user),
        "export": lambda: memory.export(folder / "out.jsonl", user_id=user),
        "import_": lambda: memory.import_(folder / "in.jsonl", user_id=user),
        "stats": lambda: memory.stats(user_id=user),
        "scope": lambda: memory.scope(user_id=user),
    }


@pytest.mark.parametrize(("user", "rule", "value"), [*BAD_IDS, (None, "must be a string", "None")])
def test_every_verb_refuses_a_bad_user_id(
    memory: LightMem, tmp_path: Path, user: Any, rule: str, value: str | None
) -> None:
    memory.export(tmp_path / "in.jsonl", user_id="ana")
    for name, call in calls(memory, user, tmp_path).items():
        if not (user is None and name == "stats"):  # None is everybody there
            assert_refused(memory, call, "user_id", rule, value)
    if user is not None:
        assert_refused(memory, lambda: memory.flush(user_id=user), "user_id", rule, value)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_doctor_refuses_a_bad_user_id(memory: LightMem) -> None:
    assert_refused(memory, lambda: memory.doctor(user_id=" "), "user_id", "must not be blank")


@pytest.mark.parametrize(("session", "rule", "value"), BAD_IDS)
def test_every_verb_refuses_a_bad_session_id(memory: LightMem, session: Any, rule: str, value: str | None) -> None:
    for call in (
        lambda: memory.add(GOOD, user_id="ana", session_id=session),
        lambda: memory.search("alpha", user_id="ana", session_id=session),
        lambda: memory.context("alpha", user_id="ana", session_id=session),
        lambda: memory.list(user_id="ana", session_id=session),
        lambda: memory.forget(user_id="ana", session_id=session),
        lambda: memory.flush(user_id="ana", session_id=session),
        lambda: memory.scope(user_id="ana", session_id=session),
    ):
        assert_refused(memory, call, "session_id", rule, value)


@pytest.mark.parametrize("verb", ["add", "search", "list", "forget", "get", "export", "import_"])
def test_there_is_no_call_without_a_user(memory: LightMem, verb: str) -> None:
    with pytest.raises(TypeError, match="user_id"):
        getattr(memory, verb)(*(["x"] if verb not in ("list", "forget") else []))


# ------------------------------------------------------------------------------------- searching
@pytest.mark.parametrize(
    ("options", "field", "rule"),
    [
        ({"k": 0}, "k", "must be a whole number of at least 1"),
        ({"k": -3}, "k", "must be a whole number of at least 1"),
        ({"k": 2.5}, "k", "must be a whole number of at least 1"),
        ({"k": "10"}, "k", "must be a whole number of at least 1"),
        ({"k": True}, "k", "must be a whole number of at least 1"),
        ({"k": None}, "k", "must be a whole number of at least 1"),
        ({"strategy": "best"}, "strategy", "must be one of late, weighted, rrf, intersection, dense, bm25"),
        ({"strategy": ""}, "strategy", "must be one of"),
        ({"strategy": 1}, "strategy", "must be one of"),
        ({"profile": "robot"}, "profile", "must be one of auto, peer, assistant, notes"),
        ({"query": None}, "query", "must be a string"),
        ({"query": 5}, "query", "must be a string"),
        ({"query": b"alpha"}, "query", "must be a string"),
    ],
)
def test_bad_arguments_of_search_and_context(memory: LightMem, options: dict[str, Any], field: str, rule: str) -> None:
    arguments = {"query": "alpha", "user_id": "ana", **options}
    assert_refused(memory, lambda: memory.search(**arguments), field, rule)
    assert_refused(memory, lambda: memory.context(**arguments), field, rule)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf, Decimal("2")])
def test_a_threshold_lies_in_0_to_1(memory: LightMem, threshold: Any) -> None:
    call = lambda: memory.search("alpha", user_id="ana", score_threshold=threshold)  # noqa: E731
    assert_refused(memory, call, "score_threshold", "in 0..1")


@pytest.mark.parametrize("budget", [0, -1, 0.5, 100.0, "100", True, None, math.inf])
def test_a_budget_is_a_whole_number_of_tokens(memory: LightMem, budget: Any) -> None:
    call = lambda: memory.context("alpha", user_id="ana", max_tokens=budget)  # noqa: E731
    assert_refused(memory, call, "max_tokens", "must be a whole number of at least 1")


@pytest.mark.parametrize(
    ("condition", "field", "rule"),
    [
        ({"since": datetime(2023, 5, 20)}, "since", "must be a timezone-aware datetime"),
        ({"until": datetime(2023, 5, 20)}, "until", "must be a timezone-aware datetime"),
        ({"as_of": "2023-05-20"}, "as_of", "must be a timezone-aware datetime"),
        ({"since": date(2023, 5, 20)}, "since", "must be a timezone-aware datetime"),
        ({"until": 0}, "until", "must be a timezone-aware datetime"),
        ({"min_importance": 1.5}, "min_importance", "must be a number in 0..1"),
        ({"min_importance": -1}, "min_importance", "must be a number in 0..1"),
        ({"min_importance": math.nan}, "min_importance", "must be a number in 0..1"),
        ({"kinds": ["turns"]}, "kinds", "must be of turn, fact, segment, summary"),
        ({"kinds": "turn"}, "kinds", "must be"),
        ({"roles": ["human"]}, "roles", "must be of user, assistant, system, tool"),
        ({"roles": "user"}, "roles", "must be"),
        ({"session_ids": "s1"}, "session_ids", "must be a list of strings"),
        ({"speakers": "Ana"}, "speakers", "must be a list of strings"),
    ],
)
def test_bad_filters(memory: LightMem, condition: dict[str, Any], field: str, rule: str) -> None:
    call = lambda: memory.search("alpha", user_id="ana", filter=Filter(**condition))  # noqa: E731
    assert_refused(memory, call, f"filter.{field}", rule)


@pytest.mark.parametrize(
    ("options", "field", "rule"),
    [
        ({"limit": -1}, "limit", "must be a whole number in 0.."),
        ({"limit": "3"}, "limit", "must be a whole number in 0.."),
        ({"limit": 2.5}, "limit", "must be a whole number in 0.."),
        ({"offset": -1}, "offset", "must be a whole number in 0.."),
        ({"offset": None}, "offset", "must be a whole number in 0.."),
        ({"kinds": ["turns"]}, "filter.kinds", "must be of turn, fact, segment, summary"),
    ],
)
def test_bad_arguments_of_list(memory: LightMem, options: dict[str, Any], field: str, rule: str) -> None:
    assert_refused(memory, lambda: memory.list(user_id="ana", **options), field, rule)


@pytest.mark.parametrize(
    ("options", "field", "rule"),
    [
        ({"ids": "m1"}, "ids", "must be a list of ids"),
        ({"before": datetime(2023, 5, 20)}, "before", "must be a timezone-aware datetime"),
    ],
)
def test_bad_arguments_of_forget(memory: LightMem, options: dict[str, Any], field: str, rule: str) -> None:
    assert_refused(memory, lambda: memory.forget(user_id="ana", **options), field, rule)


UNCHECKED: dict[str, tuple[Callable[[LightMem], Any], str]] = {
    "threshold text": (lambda m: m.search("alpha", user_id="ana", score_threshold="high"), "score_threshold"),  # type: ignore[arg-type]
    "filter dict": (lambda m: m.search("alpha", user_id="ana", filter={"kinds": ["turn"]}), "filter"),  # type: ignore[arg-type]
    "filter dict, list": (lambda m: m.list(user_id="ana", filter={"kinds": ["turn"]}), "filter"),  # type: ignore[arg-type]
    "importance text": (lambda m: Filter(min_importance="x"), "filter.min_importance"),  # type: ignore[arg-type]
    "sessions number": (lambda m: m.search("alpha", user_id="ana", filter=Filter(session_ids=5)), "filter.session_ids"),  # type: ignore[arg-type]
    "metadata text": (lambda m: m.search("alpha", user_id="ana", filter=Filter(metadata="x")), "filter.metadata"),  # type: ignore[arg-type]
    "filter surrogate": (lambda m: m.list(user_id="ana", filter=Filter(session_ids=["\ud800"])), "filter.session_ids"),
    "huge limit": (lambda m: m.list(user_id="ana", limit=10**30), "limit"),
    "get surrogate": (lambda m: m.get("\ud800", user_id="ana"), "id"),
    "get number": (lambda m: m.get(5, user_id="ana"), "id"),  # type: ignore[arg-type]
    "history surrogate": (lambda m: m.history("\ud800", user_id="ana"), "entry_id"),
    "forget surrogate": (lambda m: m.forget(user_id="ana", ids=["\ud800"]), "ids"),
    "forget numbers": (lambda m: m.forget(user_id="ana", ids=[1]), "ids"),  # type: ignore[list-item]
    "forget number": (lambda m: m.forget(user_id="ana", ids=5), "ids"),  # type: ignore[arg-type]
    "before text": (lambda m: m.forget(user_id="ana", before="2023-05-20"), "before"),  # type: ignore[arg-type]
    "before date": (lambda m: m.forget(user_id="ana", before=date(2023, 5, 20)), "before"),  # type: ignore[arg-type]
    "expand text": (lambda m: m.expand("m1", user_id="ana"), "hit"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", UNCHECKED)
def test_arguments_of_a_wrong_type_are_named(memory: LightMem, name: str) -> None:
    call, field = UNCHECKED[name]
    assert_refused(memory, lambda: call(memory), field, "must")


# ------------------------------------------------------------------------------------- hostile, but data
HOSTILE = [
    "%", "_", "%%", "a_b%c", "'", '"', "`", "''; --", ":", ":user", "?", "{}", "${x}", "%s", "\\", "\\'",
    "../", "../../etc/passwd", "C:\\x", "</memory>", "<memory>",
    "'); DROP TABLE turns; --", "' OR '1'='1", '" UNION SELECT * FROM entries --',
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u202eevil\u202c", "\u200f", "שלום", "مرحبا",
    "e\u0301", "é", "ana ", " ana", "Ana", "ana\n", "NULL", "None", "true", "0", "-1", "1e9",
    "\x1b[31m", "\x7f", "\ufeff", "x" * 255, "default",
]  # fmt: skip


@pytest.mark.parametrize("odd", HOSTILE)
def test_a_hostile_string_is_data_everywhere(fresh: LightMem, tmp_path: Path, odd: str) -> None:
    text = f"alpha {odd} omega"
    message = Message("user", text, odd, NOON, odd, {odd: odd, "n": 1})
    fresh.add("alpha of somebody else", user_id="ana")
    fresh.add(("user", "alpha in another session"), user_id=odd, session_id="another session")
    assert fresh.add(message, user_id=odd, session_id=odd).ids == (odd,)
    assert fresh.add(message, user_id=odd, session_id=odd).added == 0
    (entry,) = fresh.list(user_id=odd, session_id=odd)
    assert (entry.user_id, entry.session_id, entry.speaker, entry.source_messages) == (odd, odd, odd, (odd,))
    assert (entry.memory, entry.metadata) == (text, {odd: odd, "n": 1})
    assert fresh.get(odd, user_id=odd) == entry
    assert len(fresh.history(odd, user_id=odd)) == 1
    exact = Filter(session_ids=[odd], speakers=[odd], metadata={odd: odd})
    assert fresh.list(user_id=odd, filter=exact) == [entry]
    for strategy in STRATEGIES:
        hits = fresh.search(f"alpha {odd}", user_id=odd, strategy=strategy)
        assert len(hits) == 2
        assert {hit.entry.user_id for hit in hits} == {odd}
        (hit,) = fresh.search(f"alpha {odd}", user_id=odd, session_id=odd, filter=exact, strategy=strategy)
        assert hit.entry == entry
        fresh.search(odd, user_id=odd, strategy=strategy)
    context = fresh.context(f"alpha {odd}", user_id=odd)
    assert len(context.hits) == 2
    assert context.text.count("<memory>") == context.text.count("</memory>") == 1
    assert len(context.text.splitlines()) == 7  # fences, notice, two sessions of a heading and a line
    assert fresh.export(tmp_path / "out.jsonl", user_id=odd) == 2
    assert fresh.import_(tmp_path / "out.jsonl", user_id="copy").added == 2
    assert [e.memory for e in fresh.list(user_id="copy", session_id=odd)] == [text]
    assert fresh.forget(user_id=odd, session_id=odd, ids=[odd]).entries == 1
    assert fresh.stats(user_id=odd)["rows"]["turns"] == 1
    assert fresh.forget(user_id=odd).entries == 1
    assert fresh.stats(user_id="ana")["rows"]["turns"] == 1
    assert fresh.doctor().ok


def test_ids_that_look_alike_are_different(fresh: LightMem) -> None:
    users = list(dict.fromkeys(HOSTILE))
    for n, user in enumerate(users):
        fresh.add(Message("user", f"alpha number{n}", None, NOON + timedelta(minutes=n), "m1"), user_id=user)
    for n, user in enumerate(users):
        assert [e.memory for e in fresh.list(user_id=user)] == [f"alpha number{n}"]
        assert [h.entry.memory for h in fresh.search("alpha", user_id=user)] == [f"alpha number{n}"]
    for user in users[::2]:
        assert fresh.forget(user_id=user).entries == 1
    assert [fresh.stats(user_id=u)["rows"]["turns"] for u in users] == [n % 2 for n in range(len(users))]


VALID_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
VALID = VALID_TEXT.filter(str.strip)


@pytest.fixture(scope="module")
def shared() -> Iterator[LightMem]:
    with LightMem(":memory:", embedder=HashEmbedder()) as opened:
        yield opened


@given(user=VALID, session=VALID, id=VALID, speaker=VALID, text=VALID, query=st.text(max_size=40))
@settings(max_examples=30)
def test_any_text_is_data_everywhere(
    shared: LightMem, user: str, session: str, id: str, speaker: str, text: str, query: str
) -> None:
    shared.forget(user_id=user)
    assert shared.add(Message("user", text, speaker, NOON, id), user_id=user, session_id=session).ids == (id,)
    (entry,) = shared.list(user_id=user)
    assert (entry.memory, entry.speaker, entry.session_id, entry.source_messages) == (text, speaker, session, (id,))
    for strategy in STRATEGIES:
        assert all(h.entry == entry for h in shared.search(query, user_id=user, strategy=strategy))
    assert shared.context(query, user_id=user, max_tokens=120).tokens <= 120
    assert shared.forget(user_id=user, ids=[id]).entries == 1
