"""Search in Qdrant: it finds the candidates, and the truth ranks them.

Qdrant gives the nearest entries by vector and by words. They are read from the database with the turns
around them, which checks that they are there, are this user's and are in force, and are ranked like a
small memory of their own by the same code as in the exact index (``core.rank``). Decision 0011 tells
what that is worth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmem_integrations.core.analyze import query_weights
from lightmem_integrations.core.ports import View
from lightmem_integrations.core.types import Encoding, Filter, Finding, Kind, Scope
from lightmem_integrations.core.working_set import WorkingSet
from lightmem_integrations.errors import IndexUnavailableError, StorageError
from lightmem_integrations.stores.exact import ExactIndex
from lightmem_integrations.stores.qdrant.collection import PAGE, Found
from lightmem_integrations.stores.qdrant.points import conditions
from lightmem_integrations.stores.qdrant.projection import Projection
from lightmem_integrations.stores.sql.store import SqlStore
from lightmem_integrations.stores.sql.vicinity import entries, newest, vicinity

logger = logging.getLogger(__name__)

NEAR = 2
"""Turns up to this far from a candidate are ranked with it: an answer often shares no word with its question."""

SAMPLE_TURNS = 500
"""The last turns show which words are common."""

EXACT_MOST = 20_000
"""Turns of one user up to which the database answers by itself when Qdrant cannot."""


class QdrantIndex:
    """Search by candidates from Qdrant. Keeps nothing of any user in the process.

    Args:
        store: the truth.
        projection: keeps Qdrant like the truth.
        depth: candidates by vector and by words.
        exact: answers while Qdrant cannot.
        gap_hours: see ``UserIndex``.
    """

    def __init__(
        self, store: SqlStore, projection: Projection, depth: tuple[int, int], exact: ExactIndex, gap_hours: float
    ) -> None:
        self.projection = projection
        self._store, self._depth, self._exact, self._gap = store, depth, exact, gap_hours

    def open(self) -> None:
        """Connect, and make the collection if it is not there. A server that is away may come later.

        Raises:
            StorageError: it is too old, or has something else under this name.
        """
        try:
            self.projection.prepare()
        except IndexUnavailableError as error:
            logger.warning("%s", error)

    # ------------------------------------------------------------------ candidates
    def nearest(self, scope: Scope, vector: NDArray[np.float32], k: int, filter: Filter) -> list[tuple[str, float]]:
        """The ``k`` entries of largest cosine, at most 1,000; see ``core.ports.VectorIndex``.

        Raises:
            StorageError: Qdrant cannot be reached, or refused.
        """
        self.projection.catch_up(scope.user_id, most=None)
        found = self._search(vector, {}, conditions(scope, filter, keys=False), (k, 0))
        return self._checked(found.dense, scope, filter)

    def matching(self, scope: Scope, terms: Mapping[str, float], k: int, filter: Filter) -> list[tuple[str, float]]:
        """The ``k`` entries that share most with the terms, at most 1,000; see ``core.ports.KeywordIndex``.

        Scores depend on how rare a term is among all users' entries: not for users to see.

        Raises:
            StorageError: Qdrant cannot be reached, or refused.
        """
        self.projection.catch_up(scope.user_id, most=None)
        found = self._search(None, terms, conditions(scope, filter, keys=False), (0, k))
        return self._checked(found.sparse, scope, filter)

    def _search(
        self, vector: NDArray[np.float32] | None, terms: Mapping[str, float], where: Any, depth: tuple[int, int]
    ) -> Found:
        with self.projection.asking():
            return self.projection.collection.search(vector, terms, where, (min(depth[0], PAGE), min(depth[1], PAGE)))

    def _checked(self, found: Sequence[tuple[str, float]], scope: Scope, filter: Filter) -> list[tuple[str, float]]:
        """What the truth says so of, too: it is there, this user's, and passes the filter."""
        memory = WorkingSet(self._gap)
        memory.add(entries(self._store, scope.user_id, [i for i, _ in found]))
        passing = memory.passing(scope.session_id, filter)
        return [(i, score) for i, score in found if i in passing]

    # ------------------------------------------------------------------ the part that matters
    @contextmanager
    def about(self, scope: Scope, text: str, encoding: Encoding | None, k: int, filter: Filter) -> Iterator[View]:
        """The candidates for a question, with the turns around them.

        Raises:
            IndexUnavailableError: Qdrant cannot be reached, or is far behind, and the memory is too large
                to be searched without it.
        """
        view, reason = self._from_candidates(scope, text, encoding, k, filter)
        if view is not None:
            yield view
            return
        self._check_size(scope.user_id, reason)
        with self._exact.about(scope, text, encoding, k, filter) as whole:
            yield replace(whole, reason=reason and f"searched without Qdrant: {reason}")

    def _from_candidates(
        self, scope: Scope, text: str, encoding: Encoding | None, k: int, filter: Filter
    ) -> tuple[View | None, str]:
        """The view, or None and the reason why there is none; "" when nothing was ever encoded."""
        try:
            left = self.projection.catch_up(scope.user_id)
            if left:
                return None, f"Qdrant has yet to learn of {left} changes"
            if not self.projection.prepare():
                return None, ""
            found = self._candidates(scope, text, encoding, k, filter)
            refused = self.projection.outbox.refused(scope.user_id, PAGE)
        except StorageError as error:
            return None, str(error)
        view = self._around([*found, *refused], scope, filter)
        if refused:  # they are always candidates
            view = replace(view, reason=f"Qdrant refused {len(refused)} changes; `lightmem doctor` tells why")
        return view, ""

    def _candidates(self, scope: Scope, text: str, encoding: Encoding | None, k: int, filter: Filter) -> list[str]:
        # Facts say little of roles and speakers; with such a filter only what passes it itself is wanted.
        keys = filter.roles is None and filter.speakers is None and filter.metadata is None
        wheres = [conditions(scope, filter, keys=keys)]
        if _notes(filter):  # they are as near as their turns, which need not pass
            wheres.append(conditions(scope, Filter(as_of=filter.as_of), keys=True))
        depth = max(self._depth[0], 2 * k), max(self._depth[1], 2 * k)
        vector, terms = None if encoding is None else encoding.vector, query_weights(text)
        found = [self._search(vector, terms, where, depth) for where in wheres]
        return list(dict.fromkeys(i for part in found for i, _ in [*part.dense, *part.sparse]))

    def _around(self, ids: Sequence[str], scope: Scope, filter: Filter) -> View:
        rows, passages = vicinity(self._store, scope.user_id, ids, NEAR, _notes(filter))
        memory = WorkingSet(self._gap)
        memory.add(rows)
        memory.attach_all(passages)
        self.projection.outbox.enqueue([(scope.user_id, i) for i in ids if i not in memory])  # Qdrant is told again
        return View(memory)

    def _check_size(self, user_id: str, reason: str) -> None:
        turns = self._store.counts_by_kind(user_id)["turn"]
        if turns > EXACT_MOST:
            raise IndexUnavailableError(
                f"{reason}. This memory has {turns:,} turns, which is too much to be searched without Qdrant "
                f"(at most {EXACT_MOST:,}). Nothing is lost; run `lightmem worker`, or try again later."
            )

    # ------------------------------------------------------------------ the rest of an index
    @contextmanager
    def sample(self, user_id: str) -> Iterator[WorkingSet]:
        """The user's last turns, without their vectors."""
        memory = WorkingSet(self._gap)
        memory.add(newest(self._store, user_id, SAMPLE_TURNS))
        yield memory

    def catch_up(self, user_id: str) -> Sequence[str]:
        """Tell Qdrant what was written of a user; returns what went wrong, in words."""
        try:
            left = self.projection.catch_up(user_id)
        except StorageError as error:
            return (str(error),)
        return (f"Qdrant has yet to learn of {left} changes; `lightmem worker` tells it",) if left else ()

    def flush(self, user_id: str | None) -> Sequence[str]:
        """Tell Qdrant everything that waits, of a user or of all; returns what went wrong, in words."""
        self.projection.wake()
        try:
            if user_id is None:
                self.projection.work(lambda: False)
            else:
                self.projection.catch_up(user_id, most=None)
        except StorageError as error:
            return (str(error),)
        left = self.projection.outbox.backlog(user_id)
        return (f"Qdrant has yet to learn of {left} changes; somebody else is at them",) if left else ()

    def drop(self, user_id: str) -> None:
        """Let go of what the exact index holds of a user."""
        self._exact.drop(user_id)

    def stats(self) -> dict[str, int]:
        """What the exact index holds."""
        return self._exact.stats()

    def findings(self, *, repair: bool) -> Sequence[Finding]:
        """Whether Qdrant answers, is whole, and has what the truth has."""
        projection = self.projection
        projection.wake()
        try:
            if not projection.prepare():
                return (Finding("qdrant", True, "nothing is encoded yet"),)
            mended = projection.repair() if repair else 0
            faults, told = projection.collection.faults()
            waiting, parked = projection.outbox.backlog(), projection.outbox.parked()
            different = self._different() if not waiting else 0
        except StorageError as error:
            return (Finding("qdrant", False, str(error), 1),)
        if different:
            faults = [*faults, f"{different} entries are missing, outdated or left over; repair mends that"]
        reasons = "; ".join(projection.outbox.reasons())
        if parked:
            faults = [*faults, f"{parked} changes were refused: {reasons}"]
        elif waiting and reasons:
            faults = [*faults, f"{waiting} changes wait: {reasons}"]
        told = "; ".join(faults) or f"{told}; {waiting} changes wait"
        return (Finding("qdrant", not faults, told, len(faults), repaired=mended),)

    def _different(self) -> int:
        """Entries that are not in Qdrant as they are in the database; what is being written now is not meant."""
        first = set(self.projection.differences())
        return len(first & set(self.projection.differences())) if first else 0

    def close(self) -> None:
        """Give back the connections."""
        self._exact.close()
        self.projection.close()


def _notes(filter: Filter) -> list[Kind]:
    """The kinds that are asked for, without turns."""
    return [kind for kind in filter.kinds or () if kind != "turn"]
