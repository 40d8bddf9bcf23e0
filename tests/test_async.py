"""The async methods are the sync ones in other threads: same names, same arguments, same answers."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from lightmem_integrations import Filter, LightMem, LightMemConfig, UsageError
from lightmem_integrations.errors import ClosedError
from lightmem_integrations.memory import ScopedMemory
from lightmem_integrations.testing import FlakyEmbedder, HashEmbedder

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
# A view costs nothing; the others are for scripts.
NO_TWIN = {"scope", "reindex", "work", "bulk_add"}


def said(text: str, id: str, minute: int = 0) -> dict[str, Any]:
    return {"role": "user", "content": text, "id": id, "timestamp": NOON + timedelta(minutes=minute)}


@pytest.fixture
def memory() -> Iterator[LightMem]:
    with LightMem(":memory:", embedder=HashEmbedder()) as opened:
        yield opened


def verbs(kind: type) -> list[str]:
    """Public methods that are not async."""
    found = [name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")]
    return [name for name in found if not inspect.iscoroutinefunction(getattr(kind, name)) and name not in NO_TWIN]


@pytest.mark.parametrize("kind", [LightMem, ScopedMemory])
def test_every_verb_has_a_twin_with_the_same_parameters(kind: type) -> None:
    names = verbs(kind)
    assert {"add", "search", "context", "expand", "get", "list", "history", "flush", "forget"} <= set(names)
    assert {"export", "import_", "stats", "doctor"} <= set(names)
    for name in names:
        twin = getattr(kind, f"a{name}")
        assert inspect.iscoroutinefunction(twin), name
        assert inspect.signature(twin) == inspect.signature(getattr(kind, name)), name
    twins = [n for n, f in inspect.getmembers(kind, inspect.iscoroutinefunction) if not n.startswith("_")]
    assert sorted(twins) == sorted(f"a{name}" for name in names)


def test_a_scope_has_the_verbs_of_the_memory() -> None:
    assert set(verbs(ScopedMemory)) == set(verbs(LightMem)) - {"close"}
    for name in verbs(ScopedMemory):
        mine, whole = (inspect.signature(getattr(kind, name)).parameters for kind in (ScopedMemory, LightMem))
        named = {p for p, v in mine.items() if v.kind is not inspect.Parameter.VAR_KEYWORD}
        assert named <= set(whole), name
        if len(named) == len(mine):
            assert set(whole) - named <= {"user_id", "session_id"}, name


async def test_the_answers_are_the_same(memory: LightMem, tmp_path: Path) -> None:
    user: dict[str, Any] = {"user_id": "ana"}
    added = await memory.aadd([said("alpha one", "a"), said("beta two", "b", 1)], session_id="s1", **user)
    assert (added.ids, added.added) == (("a", "b"), 2)
    await memory.aadd(said("alpha three", "c", 2), **user)
    options: dict[str, Any] = {"filter": Filter(since=NOON), "strategy": "weighted", "profile": "notes", **user}
    hits = await memory.asearch("alpha", k=2, session_id="s1", score_threshold=0.1, **options)
    assert hits == memory.search("alpha", k=2, session_id="s1", score_threshold=0.1, **options)
    assert hits
    context = await memory.acontext("alpha", max_tokens=77, k=2, session_id="s1", **options)
    assert context == memory.context("alpha", max_tokens=77, k=2, session_id="s1", **options)
    assert context.text
    assert await memory.aexpand(hits[0], **user) == memory.expand(hits[0], **user)
    assert await memory.aget("a", **user) == memory.get("a", **user)
    paged: dict[str, Any] = {"session_id": "s1", "kinds": ["turn"], "filter": Filter(), "limit": 1, "offset": 1, **user}
    assert await memory.alist(**paged) == memory.list(**paged)
    assert [e.memory for e in await memory.alist(**paged)] == ["beta two"]
    assert await memory.ahistory("a", **user) == memory.history("a", **user)
    assert (await memory.astats(**user))["rows"] == memory.stats(**user)["rows"]
    assert await memory.adoctor(repair=True, **user) == memory.doctor(repair=True, **user)
    assert await memory.aflush(session_id="s1", **user) == 0
    assert await memory.aexport(tmp_path / "out.jsonl", **user) == 3
    assert (await memory.aimport_(tmp_path / "out.jsonl", user_id="ben")).added == 3
    report = await memory.aforget(session_id="s1", ids=["a", "c"], before=NOON + timedelta(hours=1), **user)
    assert report.entries == 1
    assert [e.source_messages[0] for e in memory.list(**user)] == ["b", "c"]


async def test_the_answers_of_a_scope_are_the_same(memory: LightMem, tmp_path: Path) -> None:
    scope = memory.scope(user_id="ana", session_id="s1")
    assert (await scope.aadd([said("alpha one", "a"), said("beta two", "b", 1)])).added == 2
    await memory.aadd(said("alpha elsewhere", "c"), user_id="ana")
    hits = await scope.asearch("alpha", k=5)
    assert hits == scope.search("alpha", k=5)
    assert {hit.source_ids for hit in hits} == {("a",), ("b",)}
    assert await scope.acontext("alpha", max_tokens=60) == scope.context("alpha", max_tokens=60)
    assert await scope.aexpand(hits[0]) == scope.expand(hits[0])
    assert await scope.aget("a") == scope.get("a")
    assert await scope.alist(limit=1) == scope.list(limit=1)
    assert await scope.ahistory("a") == scope.history("a")
    assert (await scope.astats())["rows"] == scope.stats()["rows"]
    assert await scope.adoctor() == scope.doctor()
    assert await scope.aflush() == 0
    assert await scope.aexport(tmp_path / "out.jsonl") == 3
    assert (await memory.scope(user_id="ben").aimport_(tmp_path / "out.jsonl")).added == 3
    assert (await scope.aforget(ids=["a", "c"])).entries == 1


async def test_errors_are_the_same(memory: LightMem) -> None:
    with pytest.raises(UsageError, match="user_id must not be blank"):
        await memory.aadd("x", user_id=" ")
    with pytest.raises(UsageError, match="k must be a whole number"):
        await memory.asearch("x", user_id="ana", k=0)
    with pytest.raises(UsageError, match=r"messages\[0\]\.content"):
        await memory.scope(user_id="ana").aadd([("user", "")])


def test_one_memory_serves_one_loop_after_another(memory: LightMem) -> None:
    async def once(n: int) -> list[str]:
        await memory.aadd(said(f"alpha number{n}", f"m{n}", n), user_id="ana")
        hits = await asyncio.gather(*(memory.asearch(f"number{i}", user_id="ana") for i in range(n + 1)))
        return [found[0].source_ids[0] for found in hits]

    for n in range(4):
        assert asyncio.run(once(n)) == [f"m{i}" for i in range(n + 1)]


def test_one_memory_serves_several_loops_at_a_time(memory: LightMem) -> None:
    failures: list[BaseException] = []

    async def work(user: str) -> None:
        for n in range(5):
            await memory.aadd([said(f"alpha {user} {n}", f"m{n}", n)], user_id=user)
            hits = await memory.asearch("alpha", user_id=user)
            assert sorted(hit.source_ids[0] for hit in hits) == [f"m{i}" for i in range(n + 1)]
            assert {hit.entry.user_id for hit in hits} == {user}

    def loop(user: str) -> None:
        try:
            asyncio.run(work(user))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(f"user{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert memory.stats()["rows"]["turns"] == 20


async def test_many_tasks_lose_nothing(tmp_path: Path) -> None:
    async with LightMem(tmp_path / "m.db", LightMemConfig(threads=4), embedder=HashEmbedder()) as memory:
        results = await asyncio.gather(
            *(memory.aadd(said(f"alpha {n}", f"m{n}", n), user_id=f"user{n % 3}") for n in range(30)),
            *(memory.asearch("alpha", user_id=f"user{n % 3}") for n in range(30)),
        )
        assert sum(r.added for r in results[:30]) == 30
        assert [memory.stats(user_id=f"user{n}")["rows"]["turns"] for n in range(3)] == [10, 10, 10]
        assert (await memory.adoctor()).ok


async def test_the_loop_goes_on_while_the_memory_works() -> None:
    slow = FlakyEmbedder(fail_on={0}, fault="sleep", seconds=60)
    async with LightMem(":memory:", embedder=slow) as memory:
        task = asyncio.create_task(memory.aadd("hello", user_id="ana"))
        while not slow.calls:
            await asyncio.sleep(0.001)
        assert not task.done()
        slow.wake.set()
        assert (await task).added == 1


async def test_a_cancelled_call_leaves_the_memory_usable() -> None:
    slow = FlakyEmbedder(fail_on={0}, fault="sleep", seconds=60)
    async with LightMem(":memory:", LightMemConfig(threads=1), embedder=slow) as memory:
        task = asyncio.create_task(memory.aadd(said("hello one", "a"), user_id="ana"))
        while not slow.calls:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(memory.aadd(said("never", "never"), user_id="ana"))
        await asyncio.sleep(0)
        for cancelled in (task, waiting):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        slow.wake.set()
        assert (await memory.aadd(said("hello two", "b", 1), user_id="ana")).added == 1
        hits = await memory.asearch("hello", user_id="ana")
        # The call that had begun was completed; the one still in the queue never ran.
        assert sorted(hit.source_ids[0] for hit in hits) == ["a", "b"]
        assert (await memory.adoctor()).ok


async def test_a_timeout_leaves_the_memory_usable(tmp_path: Path) -> None:
    slow = FlakyEmbedder(fail_on=lambda texts: texts == ["slow?"], fault="sleep", seconds=60)
    async with LightMem(tmp_path / "m.db", embedder=slow) as memory:
        await memory.aadd("hello", user_id="ana")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(memory.asearch("slow?", user_id="ana"), 0.05)
        assert len(await memory.asearch("hello", user_id="ana")) == 1
        slow.wake.set()


async def test_aclose_closes_and_can_be_repeated(tmp_path: Path) -> None:
    memory = LightMem(tmp_path / "m.db", embedder=HashEmbedder())
    await memory.aadd("hello", user_id="ana")
    await memory.aclose()
    await memory.aclose()
    with pytest.raises(ClosedError):
        memory.search("hello", user_id="ana")


async def test_async_calls_on_a_closed_memory_say_so(memory: LightMem) -> None:
    memory.close()
    with pytest.raises(ClosedError):
        await memory.asearch("hello", user_id="ana")
