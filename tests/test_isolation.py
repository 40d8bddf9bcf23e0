"""Users do not exist for each other: in what is returned, counted, removed, and in no bit of a score."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lightmem_integrations import Hit, LightMem, LightMemConfig, UsageError
from lightmem_integrations.core.types import STRATEGIES
from lightmem_integrations.testing import HashEmbedder

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
USERS = ("ana", "ben", "ana ")
SESSIONS = ("s1", "s2")
WORDS = ("tea", "cat", "Bergen", "Miso", "river", "yesterday", "guitar", "snow", "why", "lamp")
QUERIES = ("Where is the cat?", "tea in Bergen", "Who plays the guitar?", "snow snow", "nothing of this")


def sentence(numbers: list[int]) -> str:
    return " ".join(WORDS[n] for n in numbers) + ("?" if sum(numbers) % 4 == 0 else ".")


TEXTS = st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=8).map(sentence)
MESSAGE = st.fixed_dictionaries(
    {
        "id": st.integers(0, 12).map(lambda n: f"m{n}"),
        "content": TEXTS,
        "role": st.sampled_from(["user", "assistant"]),
        "speaker": st.sampled_from([None, "Ana", "Ben"]),
        "timestamp": st.integers(0, 60).map(lambda n: NOON + timedelta(hours=n)),
    }
)
BATCH = st.lists(MESSAGE, min_size=1, max_size=4, unique_by=lambda m: m["id"])


class Model:
    """What one user's memory should hold: a dictionary."""

    def __init__(self) -> None:
        self.turns: dict[str, tuple[str, str, datetime]] = {}  # id -> session, text, time

    def add(self, session: str, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages that may be said: an id is not used for something else."""
        fresh = [m for m in batch if m["id"] not in self.turns]
        self.turns |= {m["id"]: (session, m["content"], m["timestamp"]) for m in fresh}
        return fresh

    def forget(self, keep: Callable[[str, tuple[str, str, datetime]], bool]) -> int:
        before = len(self.turns)
        self.turns = {id: turn for id, turn in self.turns.items() if keep(id, turn)}
        return before - len(self.turns)


def found(hits: list[Hit]) -> set[str]:
    return {id for hit in hits for id in hit.source_ids}


class Users(RuleBasedStateMachine):
    """Three users in one memory, each against a dictionary of their own."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.memory = LightMem(":memory:", embedder=HashEmbedder())
        self.models = {user: Model() for user in USERS}

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            self.folder.cleanup()

    @rule(user=st.sampled_from(USERS), session=st.sampled_from(SESSIONS), batch=BATCH)
    def add(self, user: str, session: str, batch: list[dict[str, Any]]) -> None:
        fresh = self.models[user].add(session, batch)
        if fresh:
            result = self.memory.add(fresh, user_id=user, session_id=session)
            assert (result.added, result.pending) == (len(fresh), 0)

    @rule(
        user=st.sampled_from(USERS),
        query=st.sampled_from(QUERIES),
        strategy=st.sampled_from(STRATEGIES),
        session=st.sampled_from([None, *SESSIONS]),
    )
    def search(self, user: str, query: str, strategy: Any, session: str | None) -> None:
        turns = self.models[user].turns
        of_session = {id for id, turn in turns.items() if session in (None, turn[0])}
        hits = self.memory.search(query, user_id=user, session_id=session, strategy=strategy, k=99)
        assert found(hits) <= of_session
        assert strategy in ("bm25", "intersection", "rrf") or found(hits) == of_session
        assert all(hit.entry.user_id == user and hit.entry.memory == turns[hit.source_ids[0]][1] for hit in hits)
        context = self.memory.context(query, user_id=user, session_id=session, strategy=strategy)
        assert found(list(context.hits)) <= of_session

    @rule(user=st.sampled_from(USERS), ids=st.sets(st.integers(0, 12).map(lambda n: f"m{n}"), max_size=4))
    def forget_ids(self, user: str, ids: set[str]) -> None:
        gone = self.models[user].forget(lambda id, _: id not in ids)
        assert self.memory.forget(user_id=user, ids=ids).entries == gone

    @rule(user=st.sampled_from(USERS), session=st.sampled_from(SESSIONS), hours=st.none() | st.integers(0, 60))
    def forget_session(self, user: str, session: str, hours: int | None) -> None:
        before = None if hours is None else NOON + timedelta(hours=hours)
        stored = {e.source_messages[0]: e.timestamp for e in self.memory.list(user_id=user)}
        gone = self.models[user].forget(
            lambda id, turn: turn[0] != session or (before is not None and stored[id] >= before)
        )
        assert self.memory.forget(user_id=user, session_id=session, before=before).entries == gone

    @rule(user=st.sampled_from(USERS))
    @precondition(lambda self: sum(len(m.turns) for m in self.models.values()) > 12)
    def forget_all(self, user: str) -> None:
        gone = self.models[user].forget(lambda *_: False)
        assert self.memory.forget(user_id=user).entries == gone

    @rule(user=st.sampled_from(USERS))
    def get(self, user: str) -> None:
        for n in range(13):
            entry = self.memory.get(f"m{n}", user_id=user)
            turn = self.models[user].turns.get(f"m{n}")
            assert (entry is None) == (turn is None)
            if entry is not None and turn is not None:
                assert (entry.user_id, entry.session_id, entry.memory) == (user, turn[0], turn[1])
                assert len(self.memory.history(entry.id, user_id=user)) == 1

    @rule(user=st.sampled_from(USERS), to=st.sampled_from(USERS))
    def export(self, user: str, to: str) -> None:
        path = Path(self.folder.name) / "out.jsonl"
        turns = self.models[user].turns
        assert self.memory.export(path, user_id=user) == len(turns)
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
        assert {r["id"]: (r["session_id"], r["content"]) for r in records} == {i: t[:2] for i, t in turns.items()}
        if not self.models[to].turns:
            assert self.memory.import_(path, user_id=to).added == len(turns)
            self.models[to].turns = dict(turns)

    @invariant()
    def lists_and_counts_are_each_users_own(self) -> None:
        if not hasattr(self, "memory"):
            return
        for user, model in self.models.items():
            entries = self.memory.list(user_id=user, limit=999)
            assert {e.source_messages[0]: (e.session_id, e.memory) for e in entries} == {
                id: turn[:2] for id, turn in model.turns.items()
            }
            assert [e.timestamp for e in entries] == sorted(e.timestamp for e in entries)
            stats = self.memory.stats(user_id=user)
            n = len(model.turns)
            sessions = len({turn[0] for turn in model.turns.values()})
            rows = stats["rows"]
            assert (rows["sessions"], rows["turns"], rows["passages"], rows["index_outbox"]) == (sessions, n, n, 0)
            assert stats["entries"]["turn"] == n
            assert rows["entries"] == rows["journal"] == sum(stats["entries"].values())
            assert stats["pending"] == 0
        assert self.memory.doctor().ok

    @invariant()
    def knowing_an_id_of_another_user_does_not_help(self) -> None:
        if not hasattr(self, "memory"):
            return
        for user in USERS:
            for entry in self.memory.list(user_id=user, limit=1):
                for other in set(USERS) - {user}:
                    assert self.memory.get(entry.id, user_id=other) is None
                    assert self.memory.history(entry.id, user_id=other) == []
                    if (
                        len(self.models[user].turns) % 3 == 1
                    ):  # not always: it makes the other's working set be loaded anew
                        assert self.memory.forget(user_id=other, ids=[entry.id]).entries == 0
                    with pytest.raises(UsageError):
                        self.memory.expand(Hit(entry, 1.0), user_id=other)
                assert self.memory.get(entry.id, user_id=user) is not None


TestUsers = Users.TestCase
TestUsers.settings = settings(max_examples=10, stateful_step_count=20)


# ------------------------------------------------------------------------------------- the replay law
Op = tuple[str, str, Any]  # user, verb, argument


def apply(memory: LightMem, op: Op) -> Any:
    """Run one operation; returns everything that its user can see of the outcome."""
    user, verb, argument = op
    match verb:
        case "add":
            session, batch = argument
            return memory.add(batch, user_id=user, session_id=session)
        case "forget":
            return memory.forget(user_id=user, ids=argument)
        case "search":
            return [
                memory.search(query, user_id=user, strategy=strategy, k=99)
                for query in argument
                for strategy in STRATEGIES
            ]
        case "context":
            return memory.context(argument, user_id=user, max_tokens=200)
        case "list":
            return memory.list(user_id=user)
        case _:
            stats = memory.stats(user_id=user)
            return stats["rows"], stats["pending"]


@st.composite
def operations(draw: st.DrawFn) -> list[Op]:
    known: dict[str, set[str]] = {user: set() for user in USERS}
    ops: list[Op] = []
    for _ in range(draw(st.integers(5, 20))):
        user = draw(st.sampled_from(USERS))
        verb = draw(st.sampled_from(["add", "add", "add", "search", "context", "forget", "list", "stats"]))
        argument: Any = None
        if verb == "add":
            batch = [m for m in draw(BATCH) if m["id"] not in known[user]]
            if not batch:
                continue
            known[user].update(m["id"] for m in batch)
            argument = draw(st.sampled_from(SESSIONS)), batch
        elif verb == "forget":
            argument = sorted(draw(st.sets(st.integers(0, 12).map(lambda n: f"m{n}"), max_size=3)))
            known[user].difference_update(argument)
        elif verb in ("search", "context"):
            query = draw(st.sampled_from(QUERIES))
            argument = [query] if verb == "search" else query
        ops.append((user, verb, argument))
    return [*ops, *((user, "search", list(QUERIES)) for user in USERS)]


@given(ops=operations())
@settings(max_examples=12)
def test_what_a_user_sees_is_a_function_of_their_own_operations(ops: list[Op]) -> None:
    """Hits, scores, parts and texts are equal to the last bit, with and without the others."""
    with LightMem(":memory:", embedder=HashEmbedder()) as together:
        seen = [(op, apply(together, op)) for op in ops]
    for user in USERS:
        with LightMem(":memory:", embedder=HashEmbedder()) as alone:
            for op, outcome in seen:
                if op[0] == user:
                    assert apply(alone, op) == outcome, op


def said(text: str, id: str, hour: int) -> dict[str, Any]:
    return {"role": "user", "content": text, "id": id, "timestamp": NOON + timedelta(hours=hour)}


@pytest.fixture
def corpus() -> list[dict[str, Any]]:
    draw = random.Random(5)
    return [said(sentence(draw.choices(range(len(WORDS)), k=6)), f"m{n}", n) for n in range(60)]


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return ":memory:" if request.param == "memory" else tmp_path / "memory.db"


def everything(memory: LightMem, user: str) -> list[list[Hit]]:
    ops = [memory.search(q, user_id=user, strategy=s, k=99) for q in QUERIES for s in STRATEGIES]
    return [*ops, list(memory.context(QUERIES[0], user_id=user, max_tokens=300).hits)]


def test_others_who_write_at_the_same_time_change_nothing(corpus: list[dict[str, Any]], path: str | Path) -> None:
    with LightMem(":memory:", embedder=HashEmbedder()) as alone:
        alone.add(corpus, user_id="ana", session_id="s1")
        expected = everything(alone, "ana")
    stop, failures = Event(), list[BaseException]()

    def write(memory: LightMem, user: str) -> None:
        n = 0
        try:
            while not stop.is_set():
                memory.add([said(f"tea cat {user} {n} {i}", f"m{n}-{i}", n) for i in range(5)], user_id=user)
                memory.search("tea", user_id=user)
                memory.forget(user_id=user, ids=[f"m{n}-0"])
                n += 1
        except BaseException as error:
            failures.append(error)

    with LightMem(path, embedder=HashEmbedder()) as memory:
        memory.add(corpus, user_id="ana", session_id="s1")
        threads = [Thread(target=write, args=(memory, user)) for user in ("ben", "ana ")]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                assert everything(memory, "ana") == expected
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert memory.stats(user_id="ana")["rows"]["turns"] == 60
        assert memory.stats(user_id="ben")["rows"]["turns"] > 0
        assert everything(memory, "ana") == expected


def test_many_users_of_one_text_see_one_score(corpus: list[dict[str, Any]]) -> None:
    config = LightMemConfig(index_cache_mb=1)
    users = [f"user{n}" for n in range(8)]
    with LightMem(":memory:", config, embedder=HashEmbedder(dim=1024)) as memory:
        for user in users:
            memory.add(corpus, user_id=user)
        views = []
        for user in [*users, *reversed(users)]:
            hits = memory.search(QUERIES[1], user_id=user, k=99)
            views.append([(hit.source_ids, hit.score, hit.parts) for hit in hits])
        assert all(view == views[0] for view in views)
