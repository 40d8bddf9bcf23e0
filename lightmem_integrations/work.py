"""What a worker does: the work that waits of everybody, round after round.

All that waits is in the database, so that any number of workers, on any hosts, may share it. What is
worked on is claimed there, by user: of two workers that come for the same queue, one does it. Vectors
alone are not claimed. Workers take users in an order of their own, and what two encode is stored once.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from lightmem_integrations.core.consolidate import Consolidator
from lightmem_integrations.core.indexer import Indexer
from lightmem_integrations.core.reflect import Reflection
from lightmem_integrations.core.worker import DUE, EMPTIED, FORCED, How
from lightmem_integrations.errors import LightMemError, StorageError
from lightmem_integrations.stores.sql.backlog import Key, SqlBacklog

if TYPE_CHECKING:
    from lightmem_integrations.stores.qdrant.projection import Projection

__all__ = ["Round", "Work"]

logger = logging.getLogger(__name__)

T = TypeVar("T", str, Key)

MOST = 1_000
"""Users, or sessions, that one step of a round takes along."""

REST_SECONDS = 60.0
"""How long what failed is left alone: an outage is no poison."""

PAUSE_SECONDS = 1.0
"""How long what was worked on is left alone: whatever becomes of it, nothing is tried without end."""

LOOK_SECONDS = 600.0
"""How often buffers are looked at, which costs more than a look at the queues."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a worker did.

    Attributes:
        encoded: entries that have got their vectors.
        extracted: users or sessions whose turns were made memory of, as far as was due.
        updated: users whose facts were compared.
        indexed: changes that the index outside of the database was told.
        errors: what went wrong, in words. Nothing is lost, and all of it is tried again.
        seconds: how long it took.
    """

    encoded: int = 0
    extracted: int = 0
    updated: int = 0
    indexed: int = 0
    errors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How much was done, whatever it was; 0 for a round that found nothing."""
        return self.encoded + self.extracted + self.updated + self.indexed

    def __add__(self, other: Round) -> Round:
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Round(**both | {"errors": tuple(dict.fromkeys(both["errors"]))})

    def line(self) -> str:
        """The round as a JSON object on one line. No text: of errors their number."""
        counts = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps(counts | {"errors": len(self.errors), "seconds": round(self.seconds, 3)})


class Work:
    """Works off what waits in one database.

    Args:
        backlog: tells what waits.
        indexer: encodes; None without an embedder.
        reflection: makes memory of turns; None when nothing does.
        consolidator: compares facts; None where that waits for ``update``.
        projection: tells the index outside of the database; None without one.
        buffer_tokens: a sensory buffer with so many is due.
        max_age: what is in buffers and queues for longer is due, however little.
    """

    def __init__(
        self,
        backlog: SqlBacklog,
        *,
        indexer: Indexer | None,
        reflection: Reflection | None,
        consolidator: Consolidator | None,
        projection: Projection | None,
        buffer_tokens: int,
        max_age: timedelta,
    ) -> None:
        self._backlog, self._indexer, self._reflection = backlog, indexer, reflection
        self._consolidator, self._projection = consolidator, projection
        self._buffer_tokens, self._max_age = buffer_tokens, max_age
        self._resting: dict[tuple[str, str | Key], float] = {}
        self._looked = -LOOK_SECONDS
        self._told: tuple[str, ...] = ()

    def run(self, stop: Event, *, once: bool, interval: float, on_round: Callable[[Round], None]) -> Round:
        """Round after round until ``stop`` is set, or, with ``once``, until nothing is left that can be done.

        Returns:
            all rounds together.

        Raises:
            StorageError: with ``once``, the database cannot be read. Otherwise it is tried again.
        """
        whole = Round()
        while not stop.is_set():
            start = time.monotonic()
            try:
                done = self._round(stop, everything=once)
            except StorageError as error:
                if once:
                    raise
                done = Round(errors=(str(error),))
            done += Round(seconds=time.monotonic() - start)
            whole += done
            self._tell(done, on_round)
            if not done.done:
                if once:
                    break
                stop.wait(interval)
        return whole

    def _tell(self, done: Round, on_round: Callable[[Round], None]) -> None:
        new = [error for error in done.errors if error not in self._told]  # what is away is told once
        self._told = done.errors
        logger.log(logging.INFO if done.done or new else logging.DEBUG, "%s", done.line())
        for error in new:
            logger.warning("%s", error)
        on_round(done)

    def _round(self, stop: Event, *, everything: bool) -> Round:
        """One look at everything. Vectors come first: the other steps read them."""
        done = self._encode(stop)
        done += self._extract(stop, everything=everything)
        done += self._update(stop)
        return done + self._index(stop)

    # ------------------------------------------------------------------ the steps
    def _encode(self, stop: Event) -> Round:
        indexer = self._indexer
        if indexer is None:
            return Round()
        users = self._backlog.unencoded(MOST)
        random.shuffle(users)
        return self._each("encode", users, lambda user: Round(encoded=indexer.drain(user, stop=stop)), stop)

    def _extract(self, stop: Event, *, everything: bool) -> Round:
        if self._reflection is None:
            return Round()
        now = datetime.now(timezone.utc)
        long_ago = now - self._max_age
        done = Round()
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            done += self._reflect(self._backlog.full(self._buffer_tokens, MOST), DUE, stop)
            done += self._reflect(self._backlog.silent(long_ago, MOST), EMPTIED, stop)
            if not done.done:  # a look takes so many along and no more
                self._looked = time.monotonic()
        at_least = self._reflection.worth_a_call
        queued = self._backlog.queued(at_least, now if everything else long_ago, MOST)
        return done + self._reflect(queued, FORCED, stop)

    def _reflect(self, keys: Sequence[Key], how: How, stop: Event) -> Round:
        assert self._reflection is not None
        step = f"extract {how.value}"
        todo = self._rested(step, keys)
        failed = self._reflection.work(todo, how, stop) if not stop.is_set() else {}
        for key in todo:
            self._rest(step, key, REST_SECONDS if key in failed else PAUSE_SECONDS)
        return Round(extracted=len(todo), errors=tuple(error for errors in failed.values() for error in errors))

    def _update(self, stop: Event) -> Round:
        consolidator = self._consolidator
        if consolidator is None:
            return Round()

        def update(user: str) -> Round:
            return Round(updated=1, errors=tuple(consolidator.update(user).errors))

        return self._each("update", self._backlog.undecided(MOST), update, stop, REST_SECONDS)

    def _index(self, stop: Event) -> Round:
        told: list[int] = []
        if self._projection is None or stop.is_set():
            return Round()
        try:
            self._projection.work(stop.is_set, told.append)
        except StorageError as error:
            return Round(indexed=sum(told), errors=(str(error),))
        return Round(indexed=sum(told))

    def _each(
        self, step: str, users: Sequence[str], do: Callable[[str], Round], stop: Event, pause: float = PAUSE_SECONDS
    ) -> Round:
        """Do something for users, one after the other; what fails for one is left alone for a while."""
        whole = Round()
        for user in self._rested(step, users):
            if stop.is_set():
                break
            try:
                done = do(user)
            except LightMemError as error:
                done = Round(errors=(str(error),))
            self._rest(step, user, REST_SECONDS if done.errors else pause)
            whole += done
        return whole

    # ------------------------------------------------------------------ who is left alone
    def _rested(self, step: str, keys: Sequence[T]) -> list[T]:
        now = time.monotonic()
        self._resting = {what: until for what, until in self._resting.items() if until > now}
        return [key for key in keys if (step, key) not in self._resting]

    def _rest(self, step: str, key: str | Key, seconds: float) -> None:
        self._resting[step, key] = time.monotonic() + seconds
