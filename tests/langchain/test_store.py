"""The LangGraph store: its semantics, run against LangGraph's own store as well, and what is ours alone."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("langgraph.store.base")

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.prebuilt import ToolRuntime
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from lightmem_integrations import Filter, LightMem, LightMemConfig, UsageError
from lightmem_integrations.langchain import LightMemStore
from lightmem_integrations.langchain.store import from_label, to_label
from lightmem_integrations.testing import HashEmbedder

NS = ("memories", "ana")
HOSTILE = [
    "ana",
    "ANA",
    "ana ",
    "ana%",
    "an_",
    "ana' OR '1'='1",
    "ana\n",
    "ána",
    "a.n.a",
    "*",
    "ana/ben",
    "🐈",
    "../ana",
]


class Hashed(Embeddings):
    """The test embedder for LangGraph's own store."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = HashEmbedder().embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class Driver:
    """Calls a store by its sync or by its async methods."""

    def __init__(self, store: Any, mode: Literal["sync", "async"]) -> None:
        self.store, self.mode = store, mode

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name if self.mode == "sync" else f"a{name}")

        async def called(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            return await result if inspect.isawaitable(result) else result

        return called


@pytest.fixture
def memory() -> Iterator[LightMem]:
    with LightMem(":memory:", embedder=HashEmbedder()) as opened:
        yield opened


@pytest.fixture
def ours(memory: LightMem) -> LightMemStore:
    return LightMemStore(memory, user_id="ana")


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["theirs", "ours"])
def store(request: pytest.FixtureRequest, ours: LightMemStore, mode: Any) -> Driver:
    theirs = InMemoryStore(index={"dims": 64, "embed": Hashed(), "fields": ["$"]})
    return Driver({"theirs": theirs, "ours": ours}[request.param], mode)


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


class TestStoreSemantics:
    """What every LangGraph store does. Each test runs against ``InMemoryStore`` and ``LightMemStore``."""

    async def test_what_was_put_is_got(self, store: Driver) -> None:
        value = {"text": "tea", "n": 3, "f": 1.5, "on": True, "none": None, "deep": {"list": [1, {"a": "b"}]}}
        before = datetime.now(timezone.utc)
        await store.put(NS, "k", value)
        item = await store.get(NS, "k")
        assert (item.namespace, item.key, item.value) == (NS, "k", value)
        assert before <= item.created_at <= item.updated_at <= datetime.now(timezone.utc)
        assert isinstance(item.namespace, tuple)

    async def test_what_is_not_there_is_none(self, store: Driver) -> None:
        await store.put(NS, "k", {"text": "tea"})
        assert await store.get(NS, "other") is None
        assert await store.get((*NS, "more"), "k") is None
        assert await store.get(("memories",), "k") is None
        assert await store.search(("nobody",)) == []
        assert await store.search(("nobody",), query="tea") == []

    async def test_a_second_put_replaces_the_value(self, store: Driver) -> None:
        await store.put(NS, "k", {"text": "tea", "old": 1})
        first = await store.get(NS, "k")
        await store.put(NS, "k", {"text": "coffee"})
        second = await store.get(NS, "k")
        assert second.value == {"text": "coffee"}
        assert second.updated_at > first.updated_at
        assert keys(await store.search(NS)) == ["k"]
        assert keys(await store.search(NS, query="coffee")) == ["k"]

    async def test_delete_removes_and_may_be_repeated(self, store: Driver) -> None:
        await store.put(NS, "k", {"text": "tea"})
        await store.put(NS, "l", {"text": "coffee"})
        await store.delete(NS, "k")
        await store.delete(NS, "k")
        await store.delete(("never",), "k")
        assert await store.get(NS, "k") is None
        assert keys(await store.search(NS)) == ["l"]
        assert keys(await store.search(NS, query="tea")) == ["l"]

    async def test_an_item_comes_back_after_its_deletion(self, store: Driver) -> None:
        for _ in range(2):
            await store.put(NS, "k", {"text": "tea"})
            await store.delete(NS, "k")
        await store.put(NS, "k", {"text": "tea"})
        assert keys(await store.search(NS, query="tea")) == ["k"]

    async def test_reads_of_a_batch_see_what_held_before_its_writes(self, store: Driver) -> None:
        await store.put(NS, "k", {"text": "old"})
        results = await store.batch(
            [
                PutOp(NS, "k", {"text": "new"}),
                GetOp(NS, "k"),
                SearchOp(NS),
                PutOp(NS, "l", {"text": "first"}),
                PutOp(NS, "l", {"text": "last"}),
                PutOp(NS, "m", {"text": "gone"}),
                PutOp(NS, "m", None),
                ListNamespacesOp(),
            ]
        )
        assert results[0] is None
        assert results[1].value == {"text": "old"}
        assert [item.value["text"] for item in results[2]] == ["old"]
        assert results[7] == [NS]
        assert (await store.get(NS, "k")).value == {"text": "new"}
        assert (await store.get(NS, "l")).value == {"text": "last"}
        assert await store.get(NS, "m") is None

    async def test_an_empty_batch_is_fine(self, store: Driver) -> None:
        assert await store.batch([]) == []

    async def test_a_prefix_matches_whole_labels(self, store: Driver) -> None:
        for namespace in (("m", "u"), ("m", "u1"), ("m", "u", "deep"), ("mm", "u")):
            await store.put(namespace, "k", {"text": "tea", "at": list(namespace)})

        async def found(prefix: tuple[str, ...], **options: Any) -> set[tuple[str, ...]]:
            return {item.namespace for item in await store.search(prefix, **options)}

        for options in ({}, {"query": "tea"}):
            assert await found(("m", "u"), **options) == {("m", "u"), ("m", "u", "deep")}
            assert await found(("m",), **options) == {("m", "u"), ("m", "u1"), ("m", "u", "deep")}
            assert len(await found((), **options)) == 4

    async def test_the_best_answer_comes_first(self, store: Driver) -> None:
        await store.put(NS, "a", {"text": "the weather in Porto"})
        await store.put(NS, "b", {"text": "green tea and black tea"})
        await store.put(NS, "c", {"text": "football on Sunday"})
        found = await store.search(NS, query="green tea")
        assert keys(found)[0] == "b"
        assert len(found) == 3
        scores = [item.score for item in found]
        assert scores == sorted(scores, reverse=True)
        assert all(item.score is None for item in await store.search(NS))
        assert all(item.score is None for item in await store.search(NS, query=""))

    async def test_what_is_not_indexed_is_not_ranked(self, store: Driver) -> None:
        await store.put(NS, "hidden", {"text": "green tea"}, index=False)
        await store.put(NS, "seen", {"text": "football"})
        found = await store.search(NS, query="green tea")
        assert [(item.key, item.score is None) for item in found] == [("seen", False), ("hidden", True)]
        assert keys(await store.search(NS, query="green tea", limit=1)) == ["seen"]
        assert (await store.get(NS, "hidden")).value == {"text": "green tea"}
        assert set(keys(await store.search(NS))) == {"hidden", "seen"}

    async def test_index_names_the_fields(self, store: Driver) -> None:
        await store.put(NS, "a", {"title": "football", "body": "green tea"}, index=["title"])
        await store.put(NS, "b", {"title": "green tea", "body": "football"}, index=["title"])
        await store.put(NS, "c", {"notes": [{"text": "football"}, {"text": "chess"}]}, index=["notes[*].text"])
        assert keys(await store.search(NS, query="green tea"))[0] == "b"
        assert keys(await store.search(NS, query="chess"))[0] == "c"

    async def test_pages_do_not_overlap(self, store: Driver) -> None:
        for n in range(7):
            await store.put(NS, f"k{n}", {"text": f"tea number {n}"})
        for options in ({}, {"query": "tea"}):
            pages = [keys(await store.search(NS, limit=3, offset=n, **options)) for n in (0, 3, 6, 9)]
            assert [len(page) for page in pages] == [3, 3, 1, 0]
            assert len({key for page in pages for key in page}) == 7

    async def test_ten_items_are_the_default(self, store: Driver) -> None:
        for n in range(12):
            await store.put(NS, f"k{n}", {"text": "tea"})
        assert len(await store.search(NS)) == 10
        assert len(await store.search(NS, query="tea")) == 10

    @pytest.mark.parametrize(
        ("filter", "expected"),
        [
            ({"color": "red"}, "ac"),
            ({"color": {"$eq": "red"}}, "ac"),
            ({"color": {"$ne": "red"}}, "b"),
            ({"n": {"$gt": 1}}, "bc"),
            ({"n": {"$gte": 2, "$lt": 3}}, "b"),
            ({"n": {"$lte": 1.0}}, "a"),
            ({"color": "red", "n": 3}, "c"),
            ({"deep": {"on": True}}, "a"),
            ({"deep": {"level": {"$gt": 5}}}, "b"),
            ({"tags": ["x", "y"]}, "a"),
            ({"missing": None}, "abc"),
            ({"color": "green"}, ""),
        ],
    )
    async def test_filters(self, store: Driver, filter: dict[str, Any], expected: str) -> None:
        await store.put(
            NS, "a", {"text": "tea", "color": "red", "n": 1, "deep": {"on": True, "level": 1}, "tags": ["x", "y"]}
        )
        await store.put(
            NS, "b", {"text": "tea", "color": "blue", "n": 2, "deep": {"on": False, "level": 9}, "tags": []}
        )
        await store.put(
            NS, "c", {"text": "tea", "color": "red", "n": 3, "deep": {"on": False, "level": 1}, "tags": ["x"]}
        )
        assert sorted(keys(await store.search(NS, filter=filter))) == list(expected)
        assert sorted(keys(await store.search(NS, filter=filter, query="tea"))) == list(expected)

    async def test_a_filter_applies_before_the_limit(self, store: Driver) -> None:
        for n in range(12):
            await store.put(NS, f"k{n}", {"text": "green tea", "wanted": False})
        await store.put(NS, "wanted", {"text": "football", "wanted": True})
        assert keys(await store.search(NS, query="green tea", filter={"wanted": True}, limit=1)) == ["wanted"]

    @pytest.mark.parametrize("operator", ["$in", "$regex", "$or"])
    async def test_other_operators_are_refused(self, store: Driver, operator: str) -> None:
        await store.put(NS, "k", {"n": 1})
        with pytest.raises(ValueError, match="Unsupported operator"):
            await store.search(NS, filter={"n": {operator: [1]}})

    async def test_namespaces_are_listed(self, store: Driver) -> None:
        spaces = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "x", "c"), ("z", "b", "c")]
        for namespace in reversed(spaces):
            await store.put(namespace, "k", {"text": "tea"})
            await store.put(namespace, "l", {"text": "tea"})
        assert await store.list_namespaces() == sorted(spaces)
        assert await store.list_namespaces(prefix=("a",)) == sorted(spaces[:4])
        assert await store.list_namespaces(prefix=("a", "b", "c", "d")) == []
        assert await store.list_namespaces(suffix=("c",)) == [spaces[2], spaces[3], spaces[4]]
        assert await store.list_namespaces(prefix=("a", "*", "c")) == [spaces[2], spaces[3]]
        assert await store.list_namespaces(prefix=("*", "b")) == [spaces[1], spaces[2], spaces[4]]
        assert await store.list_namespaces(suffix=("b", "*")) == [spaces[2], spaces[4]]
        assert await store.list_namespaces(prefix=("a",), suffix=("c",)) == [spaces[2], spaces[3]]
        assert await store.list_namespaces(max_depth=2) == [("a",), ("a", "b"), ("a", "x"), ("z", "b")]
        assert await store.list_namespaces(limit=2, offset=1) == [spaces[1], spaces[2]]

    @pytest.mark.parametrize("namespace", [("",), ("a", ""), ("a.b",), (1,), ()])
    async def test_bad_namespaces_are_refused_on_put(self, store: Driver, namespace: Any) -> None:
        with pytest.raises(InvalidNamespaceError):
            await store.put(namespace, "k", {"text": "tea"})
        with pytest.raises(InvalidNamespaceError):
            await store.put(("langgraph", "x"), "k", {"text": "tea"})

    @pytest.mark.parametrize("key", ["", " ", "a.b", "ünï🐈", "x" * 400, "a\nb", "*", "%", "'; --"])
    async def test_any_key_is_a_key(self, store: Driver, key: str) -> None:
        await store.put(NS, key, {"text": "tea"})
        assert (await store.get(NS, key)).key == key
        assert keys(await store.search(NS, query="tea")) == [key]

    async def test_keys_and_namespaces_do_not_run_together(self, store: Driver) -> None:
        places = [(("a", "b"), "c"), (("a",), "b/c"), (("a/b",), "c"), (("a", "b", "c"), "d"), (('a","b',), "c")]
        for n, (namespace, key) in enumerate(places):
            await store.put(namespace, key, {"n": n})
        for n, (namespace, key) in enumerate(places):
            assert (await store.get(namespace, key)).value == {"n": n}

    async def test_a_batch_may_not_smuggle_a_label(self, store: Driver) -> None:
        if isinstance(store.store, InMemoryStore):
            pytest.skip("LangGraph's own store does not check ops of a batch")
        bad: list[Any] = [
            GetOp(("a.b",), "k"),
            GetOp(("a\0b",), "k"),
            SearchOp(("a.b",)),
            PutOp(("a.b",), "k", {"n": 1}),
            PutOp((), "k", {"n": 1}),
            ListNamespacesOp((MatchCondition("prefix", ("a.b",)),)),
        ]
        for op in bad:
            with pytest.raises(InvalidNamespaceError):
                await store.batch([PutOp(NS, "k", {"n": 1}), op])
        assert await store.get(NS, "k") is None


# ------------------------------------------------------------------------------ better than the model
def test_created_at_outlives_an_update(ours: LightMemStore) -> None:
    ours.put(NS, "k", {"text": "tea"})
    first = ours.get(NS, "k")
    ours.put(NS, "k", {"text": "coffee"})
    second = ours.get(NS, "k")
    assert first is not None
    assert second is not None
    assert second.created_at == first.created_at
    assert [(i.created_at, i.updated_at) for i in ours.search(NS)] == [(second.created_at, second.updated_at)]


async def test_an_item_ends_when_its_time_is_up(ours: LightMemStore, mode: Any) -> None:
    store = Driver(ours, mode)
    await store.put(NS, "short", {"text": "tea"}, ttl=1e-6)
    await store.put(NS, "long", {"text": "tea"}, ttl=60)
    await store.put(NS, "ever", {"text": "tea"}, ttl=None)
    assert await store.get(NS, "short") is None
    for options in ({}, {"query": "tea"}, {"filter": {"text": "tea"}}):
        assert set(keys(await store.search(NS, **options))) == {"long", "ever"}
    await store.put(NS, "short", {"text": "coffee"})
    assert (await store.get(NS, "short", refresh_ttl=True)).value == {"text": "coffee"}
    await store.put(NS, "long", {"text": "tea"}, ttl=1e-6)
    assert await store.get(NS, "long") is None
    assert await store.list_namespaces() == [NS]


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
async def test_a_time_to_live_must_be_one(ours: LightMemStore, mode: Any, ttl: float) -> None:
    with pytest.raises(UsageError, match="ttl must be minutes above 0"):
        await Driver(ours, mode).put(NS, "k", {"text": "tea"}, ttl=ttl)


def test_values_are_copies(ours: LightMemStore) -> None:
    value = {"tags": ["a"]}
    ours.put(NS, "k", value)
    value["tags"].append("b")
    got = ours.get(NS, "k")
    assert got is not None
    got.value["tags"].append("c")
    for found in (ours.get(NS, "k"), *ours.search(NS), *ours.search(NS, query="a")):
        assert found is not None
        assert found.value == {"tags": ["a"]}


def test_without_a_query_the_item_updated_last_comes_first(ours: LightMemStore) -> None:
    for key in ("a", "b", "c", "a"):
        ours.put(NS, key, {"text": "tea"})
    assert keys(ours.search(NS)) == ["a", "c", "b"]


def test_what_is_no_number_is_not_greater(ours: LightMemStore) -> None:
    ours.put(NS, "k", {"n": "many"})
    assert ours.search(NS, filter={"n": {"$gt": 1}}) == []
    assert ours.search(NS, filter={"missing": {"$lte": 1}}) == []


def test_unranked_items_are_paged_behind_the_ranked(ours: LightMemStore) -> None:
    for n in range(3):
        ours.put(NS, f"hidden{n}", {"text": "tea"}, index=False)
        ours.put(NS, f"seen{n}", {"text": "tea"})
    pages = [keys(ours.search(NS, query="tea", limit=2, offset=n)) for n in (0, 2, 4)]
    assert [key for page in pages for key in page][3:] == ["hidden2", "hidden1", "hidden0"]


@pytest.mark.parametrize(
    "value", [{"f": float("nan")}, {"o": object()}, {1: "a"}, {"s": "a\0b"}, {"s": "x" * 70_000}, "tea"]
)
async def test_a_value_that_cannot_be_kept_is_refused_and_nothing_is_written(
    ours: LightMemStore, mode: Any, value: Any
) -> None:
    with pytest.raises(UsageError, match=r"^item\."):
        await Driver(ours, mode).batch([PutOp(NS, "good", {"text": "tea"}), PutOp(NS, "bad", value)])
    assert ours.search(()) == []


def test_keywords_alone_will_do() -> None:
    with LightMem(":memory:", LightMemConfig(embedder="none")) as memory:
        store = LightMemStore(memory, user_id="ana")
        store.put(NS, "a", {"text": "green tea"})
        store.put(NS, "b", {"text": "football"})
        assert keys(store.search(NS, query="tea"))[0] == "a"


def test_the_store_can_be_told_what_to_search(memory: LightMem) -> None:
    store = LightMemStore(memory, user_id="ana", fields=["text"])
    store.put(NS, "a", {"text": "football", "note": "green tea"})
    store.put(NS, "b", {"text": "green tea", "note": "football"})
    store.put(NS, "c", {"note": "green tea"})
    assert [(i.key, i.score is None) for i in store.search(NS, query="green tea")] == [
        *[("b", False), ("a", False)],
        ("c", True),
    ]


# ------------------------------------------------------------------------------ one truth, one index
def test_items_and_conversations_are_one_memory(memory: LightMem, ours: LightMemStore) -> None:
    memory.add(["I drink green tea.", ("tool", "42 cups of tea.")], user_id="ana", session_id="chat")
    ours.put(NS, "diet", {"content": "Ana is allergic to nuts."})
    assert {hit.entry.memory for hit in memory.search("nuts and tea", user_id="ana")} == {
        "I drink green tea.",
        "42 cups of tea.",
        "Ana is allergic to nuts.",
    }
    assert keys(ours.search((), query="green tea")) == ["diet"]
    assert keys(ours.search(())) == ["diet"]
    assert ours.list_namespaces() == [NS]


def test_an_update_leaves_nothing_of_the_old_value(memory: LightMem, ours: LightMemStore) -> None:
    for drink in ("tea", "coffee", "water"):
        ours.put(NS, "drink", {"content": f"Ana drinks {drink}."})
    assert [entry.memory for entry in memory.list(user_id="ana")] == ["Ana drinks water."]
    assert memory.stats(user_id="ana")["rows"]["turns"] == 1


def test_forgetting_a_user_forgets_the_items(memory: LightMem, ours: LightMemStore) -> None:
    ours.put(NS, "k", {"content": "secret"})
    memory.forget(user_id="ana")
    assert ours.get(NS, "k") is None
    assert ours.search((), query="secret") == []
    assert ours.list_namespaces() == []


def test_items_move_with_an_export(memory: LightMem, ours: LightMemStore, tmp_path: Path) -> None:
    ours.put(NS, "k", {"content": "green tea"})
    memory.export(tmp_path / "ana.jsonl", user_id="ana")
    memory.import_(tmp_path / "ana.jsonl", user_id="ben")
    assert LightMemStore(memory, user_id="ben").get(NS, "k") == ours.get(NS, "k")


def test_a_crash_between_the_steps_of_an_update_loses_nothing() -> None:
    class Crashing(LightMem):
        def forget(self, **options: Any) -> Any:
            raise KeyboardInterrupt

    with Crashing(":memory:", embedder=HashEmbedder()) as crashing:
        store = LightMemStore(crashing, user_id="ana")
        store.put(NS, "k", {"text": "green tea"})
        with pytest.raises(KeyboardInterrupt):
            store.put(NS, "k", {"text": "football", "kind": "sport"})
        got = store.get(NS, "k")
        assert got is not None
        assert got.value["text"] == "football"
        for options in ({}, {"query": "green tea"}, {"query": "tea", "filter": {"kind": "sport"}}):
            assert [item.value["text"] for item in store.search(NS, **options)] == ["football"]  # type: ignore[arg-type]
        assert store.search(NS, filter={"text": "green tea"}) == []
        assert store.search(NS, query="tea", filter={"text": "green tea"}) == []


def test_an_update_holds_though_the_clock_was_set_back(memory: LightMem, ours: LightMemStore) -> None:
    ours.put(NS, "k", {"text": "new"})
    (entry,) = memory.list(user_id="ana")
    ahead = {"role": "tool", "content": "later", "timestamp": entry.timestamp.replace(year=2100)}
    metadata = {**entry.metadata, "store_value": {"text": "from the future"}}
    memory.add({**ahead, "metadata": metadata}, user_id="ana", session_id=entry.session_id)
    ours.put(NS, "k", {"text": "newest"})
    got = ours.get(NS, "k")
    assert got is not None
    assert got.value == {"text": "newest"}


async def test_many_writers_of_one_key_leave_one_item(memory: LightMem, ours: LightMemStore) -> None:
    await asyncio.gather(*(ours.aput(NS, "k", {"n": n}) for n in range(20)))
    await ours.aput(NS, "k", {"n": 99})
    assert [item.value for item in ours.search(NS)] == [{"n": 99}]
    assert len(memory.list(user_id="ana")) == 1


def test_items_outlive_the_process(tmp_path: Path) -> None:
    with LightMem(tmp_path / "memory.db", embedder=HashEmbedder()) as first:
        LightMemStore(first, user_id="ana").put(NS, "k", {"content": "green tea"})
    with LightMem(tmp_path / "memory.db", embedder=HashEmbedder()) as second:
        assert keys(LightMemStore(second, user_id="ana").search(NS, query="tea")) == ["k"]


# ------------------------------------------------------------------------------ users
def by_user(memory: LightMem) -> LightMemStore:
    return LightMemStore(memory, user_id=lambda namespace: from_label(namespace[1]))


@pytest.mark.parametrize("user", [*HOSTILE, "ana@example.org", 42, "100%25", "a b"])
def test_any_id_has_a_label(user: object) -> None:
    label = to_label(user)
    assert "." not in label
    assert from_label(label) == str(user)


async def test_users_with_hostile_names_have_their_own_items_only(memory: LightMem, mode: Any) -> None:
    store = Driver(by_user(memory), mode)
    for n, user in enumerate(HOSTILE):
        await store.put(("memories", to_label(user)), "secret", {"text": f"The password is number{n}."})
    for n, user in enumerate(HOSTILE):
        namespace = ("memories", to_label(user))
        assert (await store.get(namespace, "secret")).value == {"text": f"The password is number{n}."}
        for options in ({}, {"query": "Which password?"}, {"filter": {"text": {"$ne": ""}}}):
            found = await store.search(namespace, **options)
            assert [item.value["text"] for item in found] == [f"The password is number{n}."]
        assert await store.list_namespaces(prefix=namespace) == [namespace]
        assert len(memory.list(user_id=user)) == 1


async def test_nobody_reads_across_users(memory: LightMem, mode: Any) -> None:
    store = Driver(by_user(memory), mode)
    await store.put(("memories", "ana"), "k", {"text": "tea"})
    for prefix in ((), ("memories",)):
        with pytest.raises(UsageError, match="must begin with the labels that name the user"):
            await store.search(prefix, query="tea")
        with pytest.raises(UsageError, match="must begin with the labels that name the user"):
            await store.list_namespaces(prefix=prefix)
    for path in (("memories", "*"), ("*", "ana")):
        with pytest.raises(UsageError, match="must begin with the labels that name the user"):
            await store.list_namespaces(prefix=path)
    with pytest.raises(UsageError, match="must begin with the labels that name the user"):
        await store.list_namespaces(suffix=("ana",))
    with pytest.raises(UsageError, match="must begin with the labels that name the user"):
        await store.put(("memories",), "k", {"text": "tea"})


def test_what_others_keep_does_not_change_a_score(memory: LightMem) -> None:
    store = by_user(memory)
    store.put(("memories", "ana"), "k", {"text": "green tea"})
    alone = store.search(("memories", "ana"), query="tea")
    for n in range(20):
        store.put(("memories", "ben"), f"k{n}", {"text": f"tea number {n}"})
    assert [(i.key, i.score) for i in store.search(("memories", "ana"), query="tea")] == [
        (i.key, i.score) for i in alone
    ]


@pytest.mark.parametrize("user_id", ["", " ", None, 42])
def test_the_user_must_be_one(memory: LightMem, user_id: Any) -> None:
    with pytest.raises(UsageError, match="user_id"):
        LightMemStore(memory, user_id=lambda namespace: user_id).put(NS, "k", {"text": "tea"})
    with pytest.raises(UsageError, match="user_id"):
        LightMemStore(memory, user_id=user_id)


def test_the_engine_sees_items_as_what_a_tool_said(memory: LightMem, ours: LightMemStore) -> None:
    ours.put(NS, "k", {"content": "green tea"})
    (entry,) = memory.list(user_id="ana", filter=Filter(roles=["tool"]))
    assert (entry.memory, entry.metadata["store_key"]) == ("green tea", "k")


# ------------------------------------------------------------------------------ in graphs
async def test_tools_of_an_agent_use_the_store(memory: LightMem, mode: Any) -> None:
    pytest.importorskip("langchain.agents")
    from langchain.agents import create_agent

    class Model(FakeMessagesListChatModel):
        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return self

    @tool
    async def aremember(text: str, runtime: ToolRuntime) -> str:
        """Keep a text."""
        assert runtime.store is not None
        await runtime.store.aput(NS, "note", {"content": text})
        return keys(await runtime.store.asearch(NS, query=text))[0]

    @tool
    def remember(text: str, runtime: ToolRuntime) -> str:
        """Keep a text."""
        assert runtime.store is not None
        runtime.store.put(NS, "note", {"content": text})
        return keys(runtime.store.search(NS, query=text))[0]

    chosen = remember if mode == "sync" else aremember
    call = AIMessage("", tool_calls=[{"name": chosen.name, "args": {"text": "Ana likes tea."}, "id": "1"}])
    agent = create_agent(
        Model(responses=[call, AIMessage("Noted.")]), tools=[chosen], store=LightMemStore(memory, user_id="ana")
    )
    out = await Driver(agent, mode).invoke({"messages": [("user", "I like tea.")]})
    assert [message.text for message in out["messages"][2:]] == ["note", "Noted."]
    assert [entry.memory for entry in memory.list(user_id="ana")] == ["Ana likes tea."]


async def test_tools_of_langmem_use_the_store(memory: LightMem, mode: Any) -> None:
    langmem = pytest.importorskip("langmem")
    store = by_user(memory)
    options = {"namespace": ("memories", "{langgraph_user_id}"), "store": store}
    manage, search = langmem.create_manage_memory_tool(**options), langmem.create_search_memory_tool(**options)
    for user in ("ana", "ben"):
        config = {"configurable": {"langgraph_user_id": user}}
        await Driver(manage, mode).invoke({"content": f"The name is {user}.", "action": "create"}, config)
    found = await Driver(search, mode).invoke({"query": "name"}, {"configurable": {"langgraph_user_id": "ana"}})
    assert "The name is ana." in str(found)
    assert "ben" not in str(found)
