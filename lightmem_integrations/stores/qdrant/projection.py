"""Keeping an index outside of the database like the database: what is written there is told to Qdrant.

The database is the truth. Qdrant learns from the outbox what has changed, and can be compared with the
truth and made anew from it at any time.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from lightmem_integrations.errors import IndexUnavailableError, StorageError
from lightmem_integrations.stores.qdrant.collection import PAGE, Collection
from lightmem_integrations.stores.sql.outbox import LEASE_SECONDS, Claim, SqlOutbox
from lightmem_integrations.stores.sql.store import SqlStore

CLAIM_ROWS = 512
"""Rows of the outbox that are worked off at a time."""

IN_LINE = 2_000
"""Rows of one user that a search or a write works off by itself; more is left to workers."""

WAIT_SECONDS = 2.0
"""How long a search or a write waits for somebody else who is at a user's rows."""

REST_SECONDS = 5.0
"""After Qdrant could not be reached, for how long nobody waits for it again."""

_POLL_SECONDS = 0.02

Progress = Callable[[int, int], None]

T = TypeVar("T")


class Projection:
    """One database and its collection.

    Args:
        store: the truth.
        collection: the index, which may be unreachable.
        dim: tells the length of vectors; None while nobody knows.
    """

    def __init__(self, store: SqlStore, collection: Collection, dim: Callable[[], int | None]) -> None:
        self.collection, self.outbox = collection, SqlOutbox(store)
        self._dim = dim
        self._ready = False
        self._rests_until, self._why = 0.0, ""
        self._preparing = Lock()
        self._draining = [Lock() for _ in range(64)]  # of users, each of whom has one of them
        # Nobody else sees what is in the memory of this process.
        self._private = collection.connection.urls == (":memory:",)
        self.name = f"qdrant:{collection.base}" + (f"@{uuid.uuid4().hex}" if self._private else "")

    # ------------------------------------------------------------------ getting ready
    def prepare(self) -> bool:
        """Connect, check what is there, and make what is missing; False while the length of vectors is unknown.

        Raises:
            IndexUnavailableError: Qdrant cannot be reached, or could not a moment ago.
            StorageError: it is too old, or has something else under this name.
        """
        with self.asking():
            if self._is_ready():
                return True
            with self._preparing:
                if not self._is_ready():
                    self._ready = self._prepared()
            return self._ready

    def _is_ready(self) -> bool:
        return self._ready and (not self._private or self.outbox.index() == self.name)

    def _prepared(self) -> bool:
        self._check_owner()
        if not self.collection.connection.is_local:
            self.collection.connection.version()
        behind = self.collection.current()
        if behind is None:
            dim = self._dim()
            if dim is None:
                return False
            made = self.collection.make(dim)
            self.outbox.attach(self.name, enqueue=True)
            self.collection.publish(made)
        else:
            self._check_dim(behind)
            if self.outbox.index() != self.name:
                self.outbox.attach(self.name, enqueue=True)
        self.collection.check_replication()
        return True

    def _check_owner(self) -> None:
        known = self.outbox.index()
        if known is None or known == self.name or ("@" in known and "@" in self.name):
            return
        raise StorageError(
            f"the index of this database is {known}, and the configuration names {self.name}. Name the same embedder, "
            "analyzer and qdrant_collection, or move the index with `lightmem reindex --to qdrant`."
        )

    def _check_dim(self, behind: str) -> None:
        mine, theirs = self._dim(), self.collection.dim(behind)
        if mine is not None and mine != theirs:
            raise StorageError(
                f"the collection {behind} takes vectors of length {theirs}, and the embedder gives {mine}. Make it "
                "anew with `lightmem reindex --to qdrant`."
            )

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Where Qdrant is asked something. If it cannot be reached, the next calls do not wait for it again.

        Raises:
            IndexUnavailableError: at once, if it could not be reached a moment ago.
        """
        if time.monotonic() < self._rests_until:
            raise IndexUnavailableError(self._why)
        try:
            yield
        except IndexUnavailableError as error:
            self._rests_until, self._why = time.monotonic() + REST_SECONDS, str(error)
            raise
        except StorageError:
            self._ready = False  # perhaps somebody removed the collection
            raise

    def wake(self) -> None:
        """Ask again, even if Qdrant could not be reached a moment ago."""
        self._rests_until = 0.0

    # ------------------------------------------------------------------ following the truth
    def catch_up(
        self,
        user_id: str,
        most: int | None = IN_LINE,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> int:
        """Tell Qdrant what it has yet to learn of a user. What it refuses is parked.

        Args:
            user_id: whose.
            most: rows up to which to do it now; None for however many.
            stop: says, between two claims, to leave the rest.
            progress: told how many rows of a claim Qdrant was told.

        Returns:
            rows that are left, for somebody else.

        Raises:
            IndexUnavailableError: Qdrant cannot be reached; the rows wait.
            StorageError: it is too old, or has something else under this name; the rows wait.
        """
        if not self.prepare():
            return self.outbox.backlog(user_id)
        limit = time.monotonic() + WAIT_SECONDS + (LEASE_SECONDS if most is None else 0)
        enough = 1 if most is None else most + 1  # to be counted, of rows that may be many
        with self._draining[hash(user_id) % len(self._draining)]:
            while left := self.outbox.backlog(user_id, enough):
                if stop() or (most is not None and left > most):
                    break
                claim = self.outbox.claim(user_id, CLAIM_ROWS)
                if claim is not None:
                    progress(self._tell(claim))
                elif time.monotonic() > limit:
                    break
                else:
                    time.sleep(_POLL_SECONDS)  # another process is at it, or was and died
        return self.outbox.backlog(user_id) if left else 0

    def work(self, stop: Callable[[], bool], progress: Callable[[int], None] = lambda rows: None) -> None:
        """Tell Qdrant everything that waits, of every user, until nothing does or ``stop`` says so.

        Args:
            stop: says, between two claims, to leave the rest.
            progress: as for ``catch_up``.

        Raises:
            StorageError: as for ``catch_up``.
        """
        self.prepare()  # nothing waits where no index was made yet
        while not stop() and self.outbox.backlog(at_most=1):
            users = self.outbox.users()
            if not users:
                time.sleep(_POLL_SECONDS)
            for user in users:
                if stop():
                    return
                self.catch_up(user, most=None, stop=stop, progress=progress)

    def _tell(self, claim: Claim) -> int:
        """Make the entries of a claim in Qdrant what they are in the truth; returns rows that it was told."""
        found = self.outbox.projected(claim.user_id, claim.entries)
        alive = {projected.row.id for projected in found}
        try:
            with self.asking():
                self.collection.delete([i for i in claim.entries if i not in alive], claim.user_id)
                self.collection.upsert(found)
        except IndexUnavailableError as error:
            self.outbox.release(claim, str(error), failed=False)
            raise
        except StorageError as error:
            return self._tell_apart(claim, error)
        if not self.outbox.done(claim):  # somebody else may have told what is newer before this was
            self.outbox.enqueue([(claim.user_id, entry) for entry in claim.entries])
        return len(claim.rows)

    def _tell_apart(self, claim: Claim, error: StorageError) -> int:
        """Find out which entry of a claim was refused, so that it keeps no other waiting."""
        try:
            is_there = self.collection.current() is not None
        except StorageError:
            is_there = False
        if not is_there:  # somebody removed the collection, or it cannot be told what the entries have to do with it
            self.outbox.release(claim, str(error), failed=False)
            raise error
        if len(claim.entries) > 1:
            return sum(self._tell(half) for half in claim.halves())
        self.outbox.release(claim, str(error), failed=True)
        return 0

    # ------------------------------------------------------------------ comparing
    def differences(self) -> Iterator[tuple[str, str]]:
        """(user, entry) of everything that Qdrant lacks, has of an older state, or should not have."""
        yield from self._lacking()
        yield from self._left_over()

    def _lacking(self) -> Iterator[tuple[str, str]]:
        after = ("", "")
        while page := self.outbox.revisions(after, PAGE):
            known = self.collection.revisions([entry for _, entry, _ in page])
            yield from ((user, entry) for user, entry, revision in page if known.get(entry) != (user, revision))
            after = page[-1][:2]

    def _left_over(self) -> Iterator[tuple[str, str]]:
        for points in self.collection.pages():
            there = self.outbox.revisions_of(points)
            yield from (point for point in points if point not in there)

    def repair(self) -> int:
        """Make Qdrant what the truth is, and try parked rows again; returns how many entries differed."""
        self.outbox.unpark()
        self.work(lambda: False)
        left_over = list(self._left_over())
        different = [*self._lacking(), *left_over]
        self.collection.delete([entry for _, entry in left_over])
        # Those that were removed as well: somebody may have said them again meanwhile.
        named = [(user, entry) for user, entry in different if user]
        for start in range(0, len(named), PAGE):
            self.outbox.enqueue(named[start : start + PAGE])
        self.work(lambda: False)
        return len(different)

    # ------------------------------------------------------------------ making anew
    def rebuild(self, progress: Progress | None = None) -> int:
        """Fill a new collection from the truth, put it in the place of the old one, and catch up.

        Searches use the old collection meanwhile, if there is one. Killed half-way, the next call goes on
        where this one was.

        Returns:
            entries that were written.
        """
        dim = self._dim()
        if not self.collection.connection.is_local:
            self.collection.connection.version()
        there = self._behind()
        serial = 1 if there is None else int(there.rsplit("-", 1)[1]) + 1
        made = self.collection.make(1 if dim is None else dim, serial=serial)
        self.outbox.attach(self.name, enqueue=False)
        written = self._fill(made, progress)
        self.collection.publish(made)
        self._ready = True
        self.repair()
        return written

    def _behind(self) -> str | None:
        """The collection in use, if it is this one's; another's is replaced."""
        try:
            return self.collection.current()
        except StorageError:
            return None

    def _fill(self, made: str, progress: Progress | None) -> int:
        total, done, written = self.outbox.count(), 0, 0
        for rows, points in _ahead(self._unwritten(made)):
            written += self.collection.send(points, into=made)
            done += rows
            if progress is not None:
                progress(done, total)
        return written

    def _unwritten(self, made: str) -> Iterator[tuple[int, list[list[Any]]]]:
        """By page of the truth, how many entries it has, and the points of those that a collection lacks."""
        after = ("", "")
        while page := self.outbox.revisions(after, PAGE):
            known = self.collection.revisions([entry for _, entry, _ in page], of=made)
            lacking = [(user, entry) for user, entry, revision in page if known.get(entry) != (user, revision)]
            yield len(page), list(self.collection.points(self.outbox.projected_among(lacking)))
            after = page[-1][:2]

    def close(self) -> None:
        """Give back the connections."""
        self.collection.connection.close()


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; the next one is made, in a thread, while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
