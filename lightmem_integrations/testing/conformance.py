"""What a store, an index or an embedder must keep to, as tests that anybody can run on their own. Needs pytest.

Subclass a suite in a test module, and give it the fixture that it asks for::

    from lightmem_integrations.testing.conformance import VectorIndexConformance

    class TestMyIndex(VectorIndexConformance):
        @pytest.fixture
        def index(self, store):
            return MyIndex(store)

Every method is one law, and its docstring says which. A law that cannot hold is overridden with a test
that skips and tells why, so that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import update

from lightmem_integrations.core.analyze import terms
from lightmem_integrations.core.normalize import content_hash
from lightmem_integrations.core.ports import Embedder, Encoded, KeywordIndex, NewEntry, NewTurn, VectorIndex
from lightmem_integrations.core.times import to_us
from lightmem_integrations.core.types import Encoding, Filter, Message, Passage, Scope
from lightmem_integrations.errors import ClosedError, UsageError
from lightmem_integrations.stores.sql import schema
from lightmem_integrations.stores.sql.store import SqlStore

__all__ = [
    "EmbedderConformance",
    "KeywordIndexConformance",
    "StoreConformance",
    "VectorIndexConformance",
    "encode",
    "fact",
    "say",
    "turn",
]

NOON = datetime(2023, 5, 20, 12, tzinfo=timezone.utc)
DIM = 16
ALL = 1_000
"""More than any test stores."""

USERS = (
    "ana",
    "ana ",
    "ANA",
    "ａｎａ",
    "an\u0061\u0301",
    "ana\u202e",
    "ana'; DROP TABLE entries; --",
    '{"user_id": "ana"}',
    "user_id:ana",
    "%",
    "*",
    "default",
    "None",
    "安娜",
    "\U0001f469",
    "a" * 255,
)
"""Users who are easily taken for each other."""

Vector = NDArray[np.float32]


# ------------------------------------------------------------------------------ writing to a store
def turn(id: str, text: str = "", *, hour: float = 0, **fields: Any) -> NewTurn:
    """A turn, said so many hours after noon; ``fields`` are those of ``NewTurn``."""
    when = NOON + timedelta(hours=hour)
    text = text or f"Tea number {id}."
    role, speaker = fields.get("role", "user"), fields.get("speaker")
    defaults: dict[str, Any] = {
        "session_id": "s1",
        "role": role,
        "speaker": speaker,
        "tokens": len(text.split()),
        "language": "en",
        "metadata": {},
        "content_hash": content_hash(Message(role, text, speaker)),
    }
    return NewTurn(**{**defaults, "id": id, "content": text, "timestamp": when, "session_time": when, **fields})


def say(store: SqlStore, user_id: str, *turns: NewTurn, vectors: Mapping[str, Sequence[Vector]] | None = None) -> None:
    """Store turns, and their vectors by turn id: one for each passage. Those without stay without."""
    store.add_turns(user_id, turns, "test", queue=bool(vectors))
    by_text = {t.content: (vectors or {}).get(t.id, ()) for t in turns}
    encode(store, user_id, by_text)


def encode(store: SqlStore, user_id: str, vectors: Mapping[str, Sequence[Vector]]) -> int:
    """Store the vectors of entries that wait for theirs, by the text of the entry; returns how many entries."""
    none = np.zeros(0, np.int32), np.zeros((0, 0), np.int8)
    return store.save_encoded(
        user_id,
        [
            Encoded(p.entry_id, p.ticket, [(Passage(0, len(p.text)), Encoding(v, *none)) for v in vectors[p.text]])
            for p in store.pending(user_id, ALL)
            if vectors.get(p.text)
        ],
    )


def fact(store: SqlStore, user_id: str, text: str, sources: Sequence[str], **fields: Any) -> str:
    """Store a fact that was made from turns; returns its id. ``fields`` are those of ``NewEntry``."""
    defaults: dict[str, Any] = {
        "session_id": "s1",
        "seq": 0,
        "timestamp": NOON,
        "session_time": NOON,
        "tokens": len(text.split()),
        "language": "en",
    }
    entry = NewEntry(**{"kind": "fact", "text": text, "sources": tuple(sources), **defaults, **fields})
    with store.writing(user_id) as connection:
        rev = store.next_version(connection, user_id)
        return store.insert_entries(connection, user_id, [entry], rev, "test")[0]


def supersede(store: SqlStore, user_id: str, entry_id: str, when: datetime) -> None:
    """Let an entry hold until then."""
    e = schema.entries.c
    with store.writing(user_id) as connection:
        rev = store.next_version(connection, user_id)
        this = update(schema.entries).where(e.user_id == user_id, e.id == entry_id)
        connection.execute(this.values(rev=rev, valid_to_us=to_us(when), version=e.version + 1))


def _vector(draw: np.random.Generator) -> Vector:
    vector = draw.normal(size=DIM).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def _ids(store: SqlStore, user_id: str, filter: Filter | None = None, session_id: str | None = None) -> set[str]:
    """Entries that pass a filter, as the truth sees it."""
    wanted = filter or Filter()
    wanted = replace(wanted, kinds=wanted.kinds or ("turn",))
    return {entry.id for entry in store.list_entries(Scope(user_id, session_id), wanted, ALL, 0)}


# ------------------------------------------------------------------------------ stores
class StoreConformance:
    """Laws of a store: what ``stores.sql.store.SqlStore`` promises.

    Fixture to give: ``open_store``, a function that opens the same database anew with every call. The suite
    closes what it opens.
    """

    persistent = True
    """False for a database that goes with its only connection."""

    @pytest.fixture
    def open_store(self) -> Callable[[], SqlStore]:
        """Opens the same database with every call."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: Callable[[], SqlStore]) -> Iterator[SqlStore]:
        """One of its openings."""
        opened = open_store()
        yield opened
        opened.close()

    @pytest.fixture
    def other(self, open_store: Callable[[], SqlStore]) -> Iterator[SqlStore]:
        """Another of its openings."""
        if not self.persistent:
            pytest.skip("a database in memory has one opening")
        opened = open_store()
        yield opened
        opened.close()

    def test_what_was_added_is_there_after_reopening(self, store: SqlStore, open_store: Callable[[], SqlStore]) -> None:
        """Texts, times, metadata and vectors come back as they were."""
        vector = _vector(np.random.default_rng(1))
        said = turn("m1", "Grüße 茶 \U0001f375\nשלום", speaker="Ana", metadata={"n": 1, "list": [1.5, None, "é"]})
        say(store, "ana", said, turn("m2", hour=1.5), vectors={"m1": [vector, vector[::-1]]})
        if self.persistent:
            store.close()
            store = open_store()
        first, second = store.list_entries(Scope("ana"), Filter(), ALL, 0)
        assert (first.memory, first.speaker, first.metadata) == (said.content, "Ana", dict(said.metadata))
        assert (first.timestamp, second.timestamp) == (NOON, NOON + timedelta(hours=1.5))
        assert [t.content for t in store.turns_of("ana")] == [said.content, "Tea number m2."]
        found = [v for _, v in store.passages_of("ana", first.id)]
        assert np.array_equal(found, [vector, vector[::-1]])
        store.close()

    def test_adding_again_adds_nothing(self, store: SqlStore) -> None:
        """An id names one message of a user: the same again is passed over."""
        assert len(store.add_turns("ana", [turn("m1"), turn("m2")], "test", queue=True)) == 2
        before = store.version("ana")
        assert store.add_turns("ana", [turn("m2"), turn("m1")], "test", queue=True) == []
        assert store.version("ana") == before
        assert (store.counts("ana")["turns"], store.pending_count("ana")) == (2, 2)

    def test_an_id_for_another_text_is_refused_whole(self, store: SqlStore) -> None:
        """Another text under a known id is an error, and nothing of the batch is stored."""
        say(store, "ana", turn("m1"))
        with pytest.raises(UsageError):
            store.add_turns("ana", [turn("m2"), turn("m1", "Coffee.")], "test", queue=False)
        assert [e.memory for e in store.list_entries(Scope("ana"), Filter(), ALL, 0)] == ["Tea number m1."]

    def test_ids_of_entries_are_the_same_everywhere(self, store: SqlStore) -> None:
        """An entry's id follows from the user and the message: forgotten and said again, it is the same."""
        say(store, "ana", turn("m1"))
        say(store, "ben", turn("m1"))
        (mine,), (theirs,) = _ids(store, "ana"), _ids(store, "ben")
        assert mine != theirs
        store.forget(Scope("ana"), None, None)
        say(store, "ana", turn("m1"))
        assert _ids(store, "ana") == {mine}

    def test_two_openings_see_each_other_at_once(self, store: SqlStore, other: SqlStore) -> None:
        """What one writes the other reads, and both are counted."""
        for n in range(3):
            say(store, "ana", turn(f"a{n}"))
            say(other, "ana", turn(f"b{n}"))
            assert _ids(store, "ana") == _ids(other, "ana")
            assert store.version("ana") == other.version("ana")
        assert [t.seq for t in store.turns_of("ana")] == list(range(6))

    def test_users_never_meet(self, store: SqlStore) -> None:
        """Every read and write touches the rows of its user alone, however alike the ids are."""
        for n, user in enumerate(USERS):
            say(store, user, *(turn(f"m{i}", f"Of user {n}, {i}.") for i in range(2)))
        everything = set().union(*(_ids(store, user) for user in USERS))
        assert len(everything) == 2 * len(USERS)
        for n, user in enumerate(USERS):
            texts = {e.memory for e in store.list_entries(Scope(user), Filter(), ALL, 0)}
            assert texts == {f"Of user {n}, {i}." for i in range(2)}
            assert set(store.entries_by_id(user, sorted(everything))) == _ids(store, user)
            assert store.counts(user)["turns"] == 2
        store.forget(Scope("ana"), None, None)
        assert [store.counts(user)["turns"] for user in USERS] == [0] + [2] * (len(USERS) - 1)

    @pytest.mark.parametrize("what", ["user", "session", "ids", "before"])
    def test_forgetting_leaves_nothing(self, store: SqlStore, what: str) -> None:
        """Turns go with their entries, vectors, history and whatever was made of them; all else stays."""
        draw = np.random.default_rng(2)
        for user in ("ana", "ben"):
            turns = [turn("m1"), turn("m2", hour=1, session_id="s2"), turn("m3", hour=2, session_id="s2")]
            say(store, user, *turns, vectors={t.id: [_vector(draw)] for t in turns})
            fact(store, user, "Ana drinks tea.", ["m1"])
        whole = store.counts("ben")
        how: dict[str, tuple[Scope, Sequence[str] | None, datetime | None]] = {
            "user": (Scope("ana"), None, None),
            "session": (Scope("ana", "s1"), None, None),
            "ids": (Scope("ana"), ["m1"], None),
            "before": (Scope("ana"), None, NOON + timedelta(minutes=1)),
        }
        store.forget(*how[what])
        left = (
            {"turns": 0, "entries": 0, "passages": 0} if what == "user" else {"turns": 2, "entries": 2, "passages": 2}
        )
        counts = store.counts("ana")
        assert {name: counts[name] for name in left} == left
        assert counts["journal"] == left["entries"]
        assert store.counts_by_kind("ana")["fact"] == 0
        assert store.counts("ben") == whole

    def test_a_snapshot_is_of_one_moment(self, store: SqlStore, other: SqlStore) -> None:
        """What an index reads while others write is what was there when it began, version and all."""
        say(store, "ana", turn("m1"))
        with store.changes("ana", 0) as changes:
            say(other, "ana", turn("m2"))
            rows = [row.id for part in changes.entry_rows for row in part]
            version = changes.version
        assert len(rows) == 1
        assert version is not None
        with store.changes("ana", version.number) as later:
            assert [row.id for part in later.entry_rows for row in part] == sorted(_ids(store, "ana") - set(rows))

    def test_versions_tell_what_happened(self, store: SqlStore) -> None:
        """Writing raises the version; removing changes the epoch, so that readers start afresh."""
        assert store.version("ana") is None
        say(store, "ana", turn("m1"), turn("m2"))
        first = store.version("ana")
        say(store, "ana", turn("m3"))
        second = store.version("ana")
        assert first is not None
        assert second is not None
        assert (second.number > first.number, second.epoch == first.epoch) == (True, True)
        store.forget(Scope("ana"), ["m1"], None)
        third = store.version("ana")
        assert third is not None
        assert third.epoch != second.epoch

    def test_an_entry_is_encoded_once(self, store: SqlStore) -> None:
        """A ticket counts once, and not after its entry is gone."""
        vector = _vector(np.random.default_rng(3))
        none = np.zeros(0, np.int32), np.zeros((0, 0), np.int8)
        store.add_turns("ana", [turn("m1"), turn("m2")], "test", queue=True)
        encoded = [
            Encoded(p.entry_id, p.ticket, [(Passage(0, 1), Encoding(vector, *none))]) for p in store.pending("ana", 9)
        ]
        assert store.save_encoded("ben", encoded) == 0
        store.forget(Scope("ana"), ["m2"], None)
        assert store.save_encoded("ana", encoded) == 1
        assert store.save_encoded("ana", encoded) == 0
        assert (store.pending_count("ana"), store.counts("ana")["passages"]) == (0, 1)

    def test_pages_make_the_list(self, store: SqlStore) -> None:
        """Lists are in order of time, either way, and pages neither overlap nor leave gaps."""
        say(store, "ana", *(turn(f"m{n}", hour=n % 5) for n in range(12)))
        whole = store.list_entries(Scope("ana"), Filter(), ALL, 0)
        assert [e.timestamp for e in whole] == sorted(e.timestamp for e in whole)
        assert [e for at in range(0, 12, 5) for e in store.list_entries(Scope("ana"), Filter(), 5, at)] == whole
        assert store.list_entries(Scope("ana"), Filter(), ALL, 0, newest_first=True) == whole[::-1]

    def test_closed_is_closed(self, open_store: Callable[[], SqlStore]) -> None:
        """After ``close`` there is an error that says so; closing twice is fine."""
        store = open_store()
        store.close()
        store.close()
        with pytest.raises(ClosedError):
            store.version("ana")


# ------------------------------------------------------------------------------ indexes
FILTERS: dict[str, tuple[Filter, str | None]] = {
    "none": (Filter(), None),
    "scope": (Filter(), "s2"),
    "sessions": (Filter(session_ids=["s1", "s3"]), None),
    "scope and other sessions": (Filter(session_ids=["s1"]), "s2"),
    "facts": (Filter(kinds=["fact"]), None),
    "turns and facts": (Filter(kinds=["turn", "fact"]), None),
    "summaries, of which there are none": (Filter(kinds=["summary"]), None),
    "roles": (Filter(roles=["assistant", "tool"]), None),
    "speakers": (Filter(speakers=["Ana", "nobody"]), None),
    "no speaker at all": (Filter(speakers=[]), None),
    "since": (Filter(since=NOON + timedelta(hours=3)), None),
    "until": (Filter(until=NOON + timedelta(hours=3)), None),
    "one moment": (Filter(since=NOON + timedelta(hours=5), until=NOON + timedelta(hours=5)), None),
    "importance": (Filter(min_importance=0.7), None),
    "metadata": (Filter(metadata={"tag": "green"}), None),
    "metadata of two keys": (Filter(metadata={"tag": "black", "n": 2}), None),
    "a number": (Filter(metadata={"n": 1}), None),
    "a truth": (Filter(metadata={"n": True}), None),
    "nothing": (Filter(metadata={"n": None}), None),
    "a list": (Filter(metadata={"n": [1, 2]}), None),
    "another list": (Filter(metadata={"n": [2, 1]}), None),
    "a key that nobody has": (Filter(metadata={"\ud800": 1}), None),
    "as of": (Filter(as_of=NOON + timedelta(hours=2)), None),
    "as of, facts": (Filter(as_of=NOON + timedelta(hours=2), kinds=["fact"]), None),
    "with what was replaced": (Filter(include_superseded=True, kinds=["turn", "fact"]), None),
    "everything at once": (
        Filter(roles=["user"], speakers=["Ana"], metadata={"tag": "black"}, until=NOON + timedelta(hours=5)),
        "s2",
    ),
}
EMPTY = {"scope and other sessions", "summaries, of which there are none", "no speaker at all", "a key that nobody has"}
"""Filters that nothing passes."""


class _IndexLaws:
    """What both kinds of index share. Every entry of these tests has a vector, and the word "tea"."""

    @pytest.fixture
    def store(self) -> Iterator[SqlStore]:
        """The truth that the index follows."""
        opened = SqlStore(":memory:")
        yield opened
        opened.close()

    @pytest.fixture
    def index(self, store: SqlStore) -> Any:
        """The index under test, of vectors of length ``DIM``, which follows ``store``."""
        raise NotImplementedError

    def ask(
        self, index: Any, user_id: str, filter: Filter | None = None, session_id: str | None = None, k: int = ALL
    ) -> list[tuple[str, float]]:
        """Ask for everything that passes."""
        raise NotImplementedError

    def found(self, *args: Any, **kwargs: Any) -> set[str]:
        """The same as a set of ids, none of which is there twice."""
        pairs = self.ask(*args, **kwargs)
        ids = {i for i, _ in pairs}
        assert len(ids) == len(pairs)
        scores = [score for _, score in pairs]
        assert scores == sorted(scores, reverse=True)
        return ids

    def tea(self, store: SqlStore, user_id: str, *turns: NewTurn) -> None:
        """Store turns with a vector each."""
        draw = np.random.default_rng(len(turns))
        say(store, user_id, *turns, vectors={t.id: [_vector(draw)] for t in turns})

    def test_an_empty_memory_has_nothing(self, index: Any) -> None:
        """A user who said nothing finds nothing."""
        assert self.found(index, "ana") == set()

    def test_new_entries_are_found_at_once(self, store: SqlStore, index: Any) -> None:
        """Between a write and a search lies nothing that anybody must wait for."""
        for n in range(4):
            self.tea(store, "ana", turn(f"m{n}"))
            assert self.found(index, "ana") == _ids(store, "ana")

    def test_no_more_than_asked_for(self, store: SqlStore, index: Any) -> None:
        """``k`` is a limit, and the best come first."""
        self.tea(store, "ana", *(turn(f"m{n}") for n in range(9)))
        whole = self.ask(index, "ana")
        best = self.ask(index, "ana", k=3)
        assert len(best) == 3
        assert {i for i, _ in best} <= {i for i, score in whole if score >= whole[2][1] - 1e-6}

    def test_filters(self, store: SqlStore, index: Any) -> None:
        """Exactly those entries are found that the truth lists under the same filter."""
        self._fill(store)
        everything = _ids(store, "ana", Filter(include_superseded=True, kinds=["turn", "fact"]))
        wrong: dict[str, tuple[set[str], set[str]]] = {}
        for name, (filter, session) in FILTERS.items():
            expected = _ids(store, "ana", filter, session)
            assert expected < everything or name == "with what was replaced", name
            assert bool(expected) == (name not in EMPTY), name
            found = self.found(index, "ana", filter, session)
            if found != expected:
                wrong[name] = found - expected, expected - found
        assert wrong == {}, "(found and should not, should and not found) by filter"

    def _fill(self, store: SqlStore) -> None:
        tags: list[Any] = [1, 2, True, None, [1, 2], [2, 1], 1.0, "1"]
        turns = [
            turn(
                f"m{n}",
                hour=n / 2,
                session_id=f"s{1 + n % 3}",
                role=("user", "assistant", "system", "tool")[n // 3 % 4],
                speaker=("Ana", "Ben", None)[n // 2 % 3],
                metadata={
                    "n": tags[n % len(tags)],
                    "tag": ("green", "black")[n % 2],
                    **({"importance": round(n / 20, 2)} if n % 5 else {}),
                },
                expires_at=NOON + timedelta(hours=1) if n % 7 == 6 else None,
            )
            for n in range(24)
        ]
        for user in ("ana", "ben"):
            self.tea(store, user, *turns)
            draw = np.random.default_rng(5)
            for n in range(4):
                when = NOON + timedelta(hours=n)
                made = fact(
                    store,
                    user,
                    f"Fact {n} on tea.",
                    [f"m{n}"],
                    session_id=f"s{1 + n % 3}",
                    timestamp=when,
                    importance=n / 4,
                )
                encode(store, user, {f"Fact {n} on tea.": [_vector(draw)]})
                if n % 2:
                    supersede(store, user, made, when + timedelta(hours=1))

    def test_users_never_meet(self, store: SqlStore, index: Any) -> None:
        """A user finds their own entries, however alike the ids of users are."""
        for user in USERS:
            self.tea(store, user, turn("m1"), turn("m2", session_id="s2"))
        for user in USERS:
            mine = _ids(store, user)
            assert len(mine) == 2
            assert self.found(index, user) == mine
            assert self.found(index, user, session_id="s2") < mine
            assert self.found(index, user, Filter(session_ids=list(USERS))) == set()

    @pytest.mark.parametrize("what", ["user", "session", "ids", "before"])
    def test_nothing_that_was_forgotten(self, store: SqlStore, index: Any, what: str) -> None:
        """What was forgotten is not found from then on; what is said again is."""
        for user in ("ana", "ben"):
            self.tea(store, user, turn("m1"), turn("m2", hour=1, session_id="s2"), turn("m3", hour=2, session_id="s2"))
        assert len(self.found(index, "ana")) == 3
        how: dict[str, tuple[Scope, Sequence[str] | None, datetime | None]] = {
            "user": (Scope("ana"), None, None),
            "session": (Scope("ana", "s1"), None, None),
            "ids": (Scope("ana"), ["m1"], None),
            "before": (Scope("ana"), None, NOON + timedelta(minutes=1)),
        }
        store.forget(*how[what])
        left = _ids(store, "ana")
        assert len(left) == (0 if what == "user" else 2)
        assert self.found(index, "ana") == left
        assert len(self.found(index, "ben")) == 3
        self.tea(store, "ana", turn("m1"))
        assert len(self.found(index, "ana")) == len(left) + 1

    def test_what_is_replaced_is_left_out_at_once(self, store: SqlStore, index: Any) -> None:
        """A change of an entry counts for the next search."""
        self.tea(store, "ana", turn("m1"))
        made = fact(store, "ana", "On tea.", ["m1"])
        encode(store, "ana", {"On tea.": [_vector(np.random.default_rng(6))]})
        facts = Filter(kinds=["fact"])
        assert self.found(index, "ana", facts) == {made}
        supersede(store, "ana", made, NOON)
        assert self.found(index, "ana", facts) == set()
        assert self.found(index, "ana", replace(facts, include_superseded=True)) == {made}


class VectorIndexConformance(_IndexLaws):
    """Laws of ``core.ports.VectorIndex``.

    Fixture to give: ``index(store)``, an index of vectors of length ``DIM`` that follows the ``SqlStore``.
    """

    tolerance = 2e-3
    """Cosines may be off by this much: an index may keep vectors in half precision."""

    @pytest.fixture
    def index(self, store: SqlStore) -> VectorIndex:
        """The index under test."""
        raise NotImplementedError

    def ask(
        self, index: Any, user_id: str, filter: Filter | None = None, session_id: str | None = None, k: int = ALL
    ) -> list[tuple[str, float]]:
        """Everything that passes, by a vector drawn at random."""
        found: list[tuple[str, float]] = index.nearest(
            Scope(user_id, session_id), _vector(np.random.default_rng(9)), k, filter or Filter()
        )
        return found

    def test_cosines_are_exact(self, store: SqlStore, index: VectorIndex) -> None:
        """All entries in order of the cosine of their nearest passage, and none that is not encoded."""
        draw = np.random.default_rng(7)
        turns = [turn(f"m{n}") for n in range(60)]
        vectors = {t.id: [_vector(draw) for _ in range(1 + n % 3)] for n, t in enumerate(turns)}
        say(store, "ana", *turns, vectors=vectors)
        say(store, "ana", turn("unencoded"))
        by_id = {e.id: vectors[e.source_messages[0]] for e in store.list_entries(Scope("ana"), Filter(), 60, 0)}
        for _ in range(5):
            query = _vector(draw)
            expected = {i: max(float(v @ query) for v in mine) for i, mine in by_id.items()}
            found = dict(index.nearest(Scope("ana"), query, ALL, Filter()))
            assert found.keys() == expected.keys()
            assert found == pytest.approx(expected, abs=self.tolerance)
            best = index.nearest(Scope("ana"), query, 10, Filter())
            tenth = sorted(expected.values())[-10]
            assert len(best) == 10
            assert min(expected[i] for i, _ in best) >= tenth - 2 * self.tolerance

    def test_vectors_count_as_soon_as_they_are_there(self, store: SqlStore, index: VectorIndex) -> None:
        """An entry that waited for the encoder is found when it has its vector."""
        store.add_turns("ana", [turn("m1")], "test", queue=True)
        assert self.found(index, "ana") == set()
        assert encode(store, "ana", {"Tea number m1.": [_vector(np.random.default_rng(8))]}) == 1
        assert self.found(index, "ana") == _ids(store, "ana")


class KeywordIndexConformance(_IndexLaws):
    """Laws of ``core.ports.KeywordIndex``.

    Fixture to give: ``index(store)``, an index that follows the ``SqlStore``.
    """

    @pytest.fixture
    def index(self, store: SqlStore) -> KeywordIndex:
        """The index under test."""
        raise NotImplementedError

    def ask(
        self, index: Any, user_id: str, filter: Filter | None = None, session_id: str | None = None, k: int = ALL
    ) -> list[tuple[str, float]]:
        """Everything that passes, by the word that all have."""
        return self.matching(index, user_id, "tea", filter, session_id, k)

    def matching(
        self,
        index: KeywordIndex,
        user_id: str,
        text: str,
        filter: Filter | None = None,
        session_id: str | None = None,
        k: int = ALL,
    ) -> list[tuple[str, float]]:
        """Ask by the words of a text."""
        words = dict.fromkeys(terms(text), 1.0)
        return index.matching(Scope(user_id, session_id), words, k, filter or Filter())

    def test_entries_share_a_term(self, store: SqlStore, index: KeywordIndex) -> None:
        """Those that share a term are found, and no others; a score is above 0."""
        texts = ["My cat is called Miso.", "The dog sleeps.", "Cats and dogs.", "Nothing of the kind.", "猫が好き。"]
        say(store, "ana", *(turn(f"m{n}", text) for n, text in enumerate(texts)))
        say(store, "ben", turn("m1", "A cat and a dog."))
        ids = {e.memory: e.id for e in store.list_entries(Scope("ana"), Filter(), ALL, 0)}
        for query, expected in (
            ("cat", {0, 2}),
            ("dog", {1, 2}),
            ("cats, dogs", {0, 1, 2}),
            ("Miso zebra", {0}),
            ("zebra", set()),
            ("猫", {4}),
        ):
            found = dict(self.matching(index, "ana", query))
            assert set(found) == {ids[texts[n]] for n in expected}, query
            assert all(score > 0 for score in found.values())

    def test_more_of_a_rarer_term_is_better(self, store: SqlStore, index: KeywordIndex) -> None:
        """An entry with both terms is before one with either, and the rarer term decides between those."""
        say(store, "ana", turn("both", "Red lamp."), turn("rare", "Blue lamp."), turn("common", "Red sofa."))
        say(store, "ana", *(turn(f"m{n}", f"Red thing{n}.") for n in range(6)))
        texts = {e.id: e.memory for e in store.list_entries(Scope("ana"), Filter(), ALL, 0)}
        found = [texts[i] for i, _ in self.matching(index, "ana", "red lamp")]
        assert found[:2] == ["Red lamp.", "Blue lamp."]
        assert len(found) == 9

    def test_no_terms_find_nothing(self, store: SqlStore, index: KeywordIndex) -> None:
        """A question without words has no answer."""
        say(store, "ana", turn("m1"))
        assert index.matching(Scope("ana"), {}, ALL, Filter()) == []

    def test_speakers_and_dates_are_words(self, store: SqlStore, index: KeywordIndex) -> None:
        """An entry is found by who said it and by the day."""
        say(store, "ana", turn("m1", "Hello.", speaker="Caroline"), turn("m2", "Hello.", hour=24 * 40))
        (by_name,) = self.matching(index, "ana", "Caroline")
        (by_month,) = self.matching(index, "ana", "June")
        assert {by_name[0], by_month[0]} == _ids(store, "ana")


# ------------------------------------------------------------------------------ embedders
class EmbedderConformance:
    """Laws of ``core.ports.Embedder``, and of ``TokenEmbedder`` where there is ``encode``.

    Fixture to give: ``embedder``.
    """

    tolerance = 1e-5
    """Vectors of one text from two calls may differ by this much in any number."""

    texts: Sequence[str] = (
        "My cat is called Miso.",
        "We moved to Bergen in March.",
        "ok",
        "The quarterly report is due on Friday, and nobody has begun with the figures for the northern region yet.",
        "",
        "  \n\t ",
        "🍵🍵🍵",
        "猫が好きです。",
        "naïve café, Straße; E_1234",
        "word " * 600,
    )
    """Short and long, in several scripts, and without words."""

    @pytest.fixture
    def embedder(self) -> Embedder:
        """The embedder under test."""
        raise NotImplementedError

    def test_one_unit_vector_a_text(self, embedder: Embedder) -> None:
        """Rows of one length, of unit length, without NaN, whatever the text."""
        vectors = np.asarray(embedder.embed(list(self.texts)))
        assert vectors.ndim == 2
        assert len(vectors) == len(self.texts)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)

    def test_no_texts_no_vectors(self, embedder: Embedder) -> None:
        """Nothing to do is no error."""
        assert len(embedder.embed([])) == 0

    def test_a_vector_depends_on_its_text_alone(self, embedder: Embedder) -> None:
        """Not on the other texts of the call, their order or their number (decision 0004)."""
        together = np.asarray(embedder.embed(list(self.texts)))
        backwards = np.asarray(embedder.embed(list(reversed(self.texts))))[::-1]
        alone = np.concatenate([np.asarray(embedder.embed([text])) for text in self.texts])
        assert np.abs(together - backwards).max() <= self.tolerance
        assert np.abs(together - alone).max() <= self.tolerance

    def test_what_is_alike_is_near(self, embedder: Embedder) -> None:
        """A paraphrase is nearer than something else."""
        cat, paraphrase, report = np.asarray(
            embedder.embed(
                [
                    "The cat is sleeping on the sofa.",
                    "A cat is sleeping on our sofa.",
                    "Revenue rose by ten percent in June.",
                ]
            )
        )
        assert cat @ paraphrase > cat @ report

    def test_it_says_what_it_is(self, embedder: Embedder) -> None:
        """``name``, ``dim`` and ``languages``, where it has them, are true."""
        assert isinstance(getattr(embedder, "name", ""), str)
        dim = getattr(embedder, "dim", None)
        assert dim is None or np.asarray(embedder.embed(["tea"])).shape == (1, dim)
        languages = getattr(embedder, "languages", None)
        assert languages is None or all(len(language) == 2 for language in languages)

    def test_questions_are_like_texts(self, embedder: Any) -> None:
        """A question has a vector of the same length, near the text that answers it."""
        if hasattr(embedder, "encode"):
            question = embedder.encode(["Where did you move to?"], query=True)[0].vector
        elif hasattr(embedder, "embed_query"):
            question = np.asarray(embedder.embed_query("Where did you move to?"))
        else:
            pytest.skip("treats questions like texts")
        texts = np.asarray(embedder.embed(["We did move to Bergen.", "The soup is cold."]))
        assert question.shape == texts[0].shape
        assert texts[0] @ question > texts[1] @ question

    def test_token_vectors_belong_to_their_text(self, embedder: Any) -> None:
        """One int8 row for each piece, in the order of the text, with the vector that ``embed`` gives."""
        if not hasattr(embedder, "encode"):
            pytest.skip("gives no token vectors")
        encodings = embedder.encode(list(self.texts))
        assert len(encodings) == len(self.texts)
        vectors = np.asarray(embedder.embed(list(self.texts)))
        for text, encoding, vector in zip(self.texts, encodings, vectors, strict=True):
            assert np.abs(encoding.vector - vector).max() <= self.tolerance
            assert encoding.pieces.dtype == np.int8
            assert len(encoding.pieces) == len(encoding.piece_ids)
            assert encoding.pieces.shape[1:] == (embedder.token_dim,) or not len(encoding.pieces)
            if encoding.piece_starts is not None:
                starts = encoding.piece_starts.tolist()
                assert len(starts) == len(encoding.pieces)
                assert starts == sorted(starts)
                assert all(0 <= start < len(text) for start in starts)
        alone = embedder.encode([self.texts[0]])[0]
        assert np.array_equal(alone.piece_ids, encodings[0].piece_ids)
        assert np.abs(alone.pieces.astype(int) - encodings[0].pieces).max() <= 1
