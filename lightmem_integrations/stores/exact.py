"""Exact search over one user's memory at a time, read from the truth.

Each user's working set is loaded on first use and then follows the user's version, so that threads
and processes see each other's writes. Least recently used sets are dropped over a limit in bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from threading import Lock, RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.index import StoredPassage, UserIndex
from lightmem_integrations.core.ports import Version, View
from lightmem_integrations.core.types import Encoding, Filter, Finding, Scope
from lightmem_integrations.core.working_set import WorkingSet
from lightmem_integrations.stores.sql.dialect import sound_values
from lightmem_integrations.stores.sql.store import SqlStore


@dataclass
class _Slot:
    """A working set, the version it has reached, and the lock that orders its readers."""

    index: WorkingSet
    version: Version | None = None
    lock: RLock = field(default_factory=RLock)


class ExactIndex:
    """The working sets of all users that were asked for lately.

    Args:
        store: the truth.
        limit_bytes: how much they may hold together; the one in use is never dropped.
        gap_hours: see ``UserIndex``.
    """

    def __init__(self, store: SqlStore, limit_bytes: int, gap_hours: float) -> None:
        self._store, self._limit, self._gap = store, limit_bytes, gap_hours
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def of(self, user_id: str) -> Iterator[WorkingSet]:
        """The user's working set, up to date, held for this thread while the block runs."""
        with self._lock:
            slot = self._slots.setdefault(user_id, _Slot(WorkingSet(self._gap)))
            self._slots.move_to_end(user_id)
        with slot.lock:
            self._refresh(user_id, slot)
            yield slot.index
        self._shrink(user_id)

    def open(self) -> None:
        """Nothing to do."""

    @contextmanager
    def about(self, scope: Scope, text: str, encoding: Encoding | None, k: int, filter: Filter) -> Iterator[View]:
        """Everything of the user, whatever is asked."""
        with self.of(scope.user_id) as memory:
            yield View(memory)

    def nearest(self, scope: Scope, vector: NDArray[np.float32], k: int, filter: Filter) -> list[tuple[str, float]]:
        """The ``k`` entries of largest cosine; see ``core.ports.VectorIndex``."""
        with self.of(scope.user_id) as memory:
            found = [pair for index in (memory.turns, memory.notes) for pair in _cosines(index, vector)]
            return _best(found, memory.passing(scope.session_id, filter), k)

    def matching(self, scope: Scope, terms: Mapping[str, float], k: int, filter: Filter) -> list[tuple[str, float]]:
        """The ``k`` entries that share most with the terms; see ``core.ports.KeywordIndex``."""
        with self.of(scope.user_id) as memory:
            found = [
                (index.ids[n], float(score))
                for index in (memory.turns, memory.notes)
                for n, score in enumerate(index.bm25.get_scores(terms))
                if score > 0
            ]
            return _best(found, memory.passing(scope.session_id, filter), k)

    def sample(self, user_id: str) -> AbstractContextManager[WorkingSet]:
        """Everything of the user."""
        return self.of(user_id)

    def catch_up(self, user_id: str) -> Sequence[str]:
        """Nothing to do: a working set follows the database when it is asked for."""
        return ()

    def flush(self, user_id: str | None) -> Sequence[str]:
        """Nothing to do, as for ``catch_up``."""
        return ()

    def findings(self, *, repair: bool) -> Sequence[Finding]:
        """Nothing to tell: what is read from the database cannot differ from it."""
        return ()

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._slots.clear()

    def drop(self, user_id: str) -> None:
        """Let go of a user's working set."""
        with self._lock:
            self._slots.pop(user_id, None)

    def stats(self) -> dict[str, int]:
        """Users held and their bytes, about."""
        with self._lock:
            slots = list(self._slots.values())
        return {"users": len(slots), "bytes": sum(slot.index.nbytes for slot in slots)}

    def _refresh(self, user_id: str, slot: _Slot) -> None:
        version = self._store.version(user_id)
        if version == slot.version:
            return
        with sound_values(self._store.path):
            same = slot.version is not None and version is not None and version.epoch == slot.version.epoch
            if not same or not self._follow(user_id, slot):
                self._load(user_id, slot)

    def _follow(self, user_id: str, slot: _Slot) -> bool:
        """Take in what is new since the slot's version; False when something went or was changed."""
        assert slot.version is not None
        with self._store.changes(user_id, slot.version.number) as changes:
            entries = [row for part in changes.entry_rows for row in part]
            passages = [row for part in changes.passage_rows for row in part]
            version = changes.version
        if version is None or version.epoch != slot.version.epoch:
            return False
        if any(slot.index.is_encoded(row.entry_id) for row in passages):  # encoded anew
            return False
        slot.index.update([row for row in entries if row.id in slot.index])
        slot.index.add([row for row in entries if row.id not in slot.index])
        slot.index.attach_all(_by_entry(passages))
        slot.version = version
        return True

    def _load(self, user_id: str, slot: _Slot) -> None:
        """Read everything, part by part: rows take more room than the arrays that are made of them."""
        slot.version = None
        with self._store.changes(user_id, 0) as changes:
            index = WorkingSet(self._gap)
            index.turns.expect(changes.passages, changes.pieces)
            for part in changes.entry_rows:
                index.add(part)
            held: list[Any] = []  # the last entry of a part may go on in the next
            for part in changes.passage_rows:
                held += part
                cut = len(held)
                while cut and held[cut - 1].entry_id == held[-1].entry_id:
                    cut -= 1
                index.attach_all(_by_entry(held[:cut]))
                held = held[cut:]
            index.attach_all(_by_entry(held))
            slot.index, slot.version = index, changes.version

    def _shrink(self, in_use: str) -> None:
        with self._lock:
            held = {user: slot.index.nbytes for user, slot in self._slots.items()}
            total = sum(held.values())
            for user in list(self._slots):
                if total <= self._limit or user == in_use:
                    break
                total -= held[user]
                del self._slots[user]


def _cosines(index: UserIndex, vector: NDArray[np.float32]) -> list[tuple[str, float]]:
    """The cosine of each encoded entry's nearest passage."""
    if not index.has_vectors:
        return []
    best = np.full(len(index), -np.inf, np.float32)
    np.maximum.at(best, index.passage("owner"), index.passage("vector") @ vector)
    return [(index.ids[n], float(best[n])) for n in np.flatnonzero(np.isfinite(best))]


def _best(found: list[tuple[str, float]], passing: Set[str], k: int) -> list[tuple[str, float]]:
    return sorted((pair for pair in found if pair[0] in passing), key=lambda pair: -pair[1])[:k]


def _by_entry(rows: Sequence[Any]) -> list[tuple[str, list[StoredPassage]]]:
    groups = groupby(rows, key=lambda row: row.entry_id)
    return [(entry, [stored_passage(row) for row in group]) for entry, group in groups]


def stored_passage(row: Any) -> StoredPassage:
    """One row of ``passages`` as the index takes it."""
    ids = np.frombuffer(row.piece_ids, "<u4")
    pieces = np.frombuffer(row.pieces, "i1")
    return StoredPassage(
        start=row.start,
        end=row.end,
        vector=np.frombuffer(row.vector, "<f4"),
        piece_ids=ids,
        pieces=pieces.reshape(len(ids), -1) if len(ids) else np.zeros((0, 0), np.int8),
    )
