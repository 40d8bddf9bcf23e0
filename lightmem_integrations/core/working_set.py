"""One user's memory in arrays: the turns, and beside them what was made of turns.

Facts, segments and summaries are kept apart, so that a turn's rank does not depend on them: as further
entries of one index they shift every statistic and lower the recall of turns (decision 0008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.index import EntryRow, StoredPassage, UserIndex
from lightmem_integrations.core.rank import Keys
from lightmem_integrations.core.types import KINDS, Filter

Positions = NDArray[np.intp]


class WorkingSet:
    """What search reads of one user.

    Attributes:
        turns: the entries of kind ``turn``.
        notes: all others, which lead to turns.
    """

    def __init__(self, gap_hours: float) -> None:
        self.turns, self.notes = UserIndex(gap_hours), UserIndex(gap_hours)
        self._of_turn: dict[str, int] = {}
        self._links: tuple[Positions, Positions] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, about."""
        return self.turns.nbytes + self.notes.nbytes

    @property
    def pending(self) -> int:
        """Entries that wait for the encoder."""
        return self.turns.pending + self.notes.pending

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self.turns.position or entry_id in self.notes.position

    def is_encoded(self, entry_id: str) -> bool:
        """The entry is there, with its passages."""
        index = self._index_of(entry_id)
        return entry_id in index.position and bool(index.column("count")[index.position[entry_id]])

    def passing(self, session_id: str | None, filter: Filter) -> set[str]:
        """Ids of the entries that pass a filter; turns, unless it names other kinds."""
        wanted = replace(filter, kinds=filter.kinds or ("turn",))
        found: set[str] = set()
        for index in (self.turns, self.notes):
            mask = index.mask(session_id, wanted)
            assert mask is not None  # there are kinds to pass
            found.update(index.ids[n] for n in np.flatnonzero(mask))
        return found

    # ------------------------------------------------------------------ growing
    def add(self, rows: Sequence[EntryRow]) -> None:
        """Append entries of any kind."""
        base = len(self.turns)
        turns = [row for row in rows if row.kind == "turn"]
        self._of_turn.update((row.sources[0], base + n) for n, row in enumerate(turns))
        self.turns.add(turns)
        self.notes.add([row for row in rows if row.kind != "turn"])
        self._links = None

    def update(self, rows: Sequence[EntryRow]) -> None:
        """Take over what may change of an entry; its text may not."""
        self.turns.update([row for row in rows if row.id in self.turns.position])
        self.notes.update([row for row in rows if row.id in self.notes.position])
        self._links = None

    def attach_all(self, encoded: Sequence[tuple[str, Sequence[StoredPassage]]]) -> None:
        """Append the passages of entries that had none."""
        for index in (self.turns, self.notes):
            index.attach_all([(entry, passages) for entry, passages in encoded if entry in index.position])

    def _index_of(self, entry_id: str) -> UserIndex:
        return self.notes if entry_id in self.notes.position else self.turns

    # ------------------------------------------------------------------ from notes to turns
    def links(self) -> tuple[Positions, Positions]:
        """(m,) position of a note and (m,) that of a turn it was made from, for each such pair."""
        if self._links is None:
            pairs = [
                (note, self._of_turn[turn])
                for note, sources in enumerate(self.notes.sources)
                for turn in sources
                if turn in self._of_turn
            ]
            both = np.array(pairs, np.intp).reshape(-1, 2)
            self._links = both[:, 0], both[:, 1]
        return self._links

    def keys(self, as_of: datetime | None) -> Keys | None:
        """The facts in words of their own that hold, as keys to their turns; None without any."""
        notes, (facts, turns) = self.notes, self.links()
        if not len(facts):
            return None
        says_more = (notes.column("kind") == KINDS.index("fact")) & ~notes.column("by_words")
        if not says_more.any():
            return None
        holds = notes.mask(None, Filter(as_of=as_of))
        alive = (says_more if holds is None else says_more & holds)[facts]
        return Keys(notes, facts[alive], turns[alive]) if alive.any() else None
