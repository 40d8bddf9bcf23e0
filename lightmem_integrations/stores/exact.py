"""Exact search over one user's memory at a time, read from the truth.

Each user's working set is loaded on first use and then follows the user's version, so that threads
and processes see each other's writes. Least recently used sets are dropped over a limit in bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from threading import Lock, RLock
from typing import Any

import numpy as np

from lightmem_integrations.core.index import StoredPassage
from lightmem_integrations.core.ports import Version
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


def _by_entry(rows: Sequence[Any]) -> list[tuple[str, list[StoredPassage]]]:
    return [(entry, [_passage(row) for row in group]) for entry, group in groupby(rows, key=lambda row: row.entry_id)]


def _passage(row: Any) -> StoredPassage:
    ids = np.frombuffer(row.piece_ids, "<u4")
    pieces = np.frombuffer(row.pieces, "i1")
    return StoredPassage(
        start=row.start,
        end=row.end,
        vector=np.frombuffer(row.vector, "<f4"),
        piece_ids=ids,
        pieces=pieces.reshape(len(ids), -1) if len(ids) else np.zeros((0, 0), np.int8),
    )
