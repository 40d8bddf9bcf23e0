"""When the pipeline runs: in line where it is cheap, in the background where a model is asked."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from threading import Event, Lock

from lightmem_integrations.core.pipeline import INLINE_TURNS, Pipeline
from lightmem_integrations.core.ports import Buffers
from lightmem_integrations.core.worker import DUE, EMPTIED, FORCED, How, Key, Worker

logger = logging.getLogger(__name__)

BEHIND = 1
"""Sessions left behind that one ``add`` flushes in line, at most; the others follow with the next ones."""

EVERYTHING = 2**31
"""Turns of an old backlog that are cut where nobody waits."""

LOOK_SECONDS = 60.0
"""How often a user's other sessions are looked at while one of them goes on."""

REMEMBERED = 10_000
"""Sessions that ``close`` flushes, at most: those that were fed last. Others wait for their user."""

RETRY_SECONDS = 60.0
"""How long the background leaves a user alone that it failed for: an outage is no poison."""

KEPT_ERRORS = 5

POLL_SECONDS = 0.25
"""How often ``flush`` looks again at what another process has claimed."""


class Reflection:
    """Runs the pipeline after writes, on demand, and at the end.

    Args:
        pipeline: what to run.
        buffers: what waits.
        threads: how many sessions are worked on side by side in the background; 0 works in line.

    Attributes:
        lately: what went wrong in this process, in words, the newest last.
    """

    def __init__(self, pipeline: Pipeline, buffers: Buffers, threads: int) -> None:
        self._pipeline, self._buffers = pipeline, buffers
        self._worker = Worker(self._work, threads) if threads else None
        self._fed: OrderedDict[Key, None] = OrderedDict()
        self._failed: dict[str, float] = {}
        self._last: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = Lock()
        self.lately: deque[str] = deque(maxlen=KEPT_ERRORS)

    def resume(self) -> None:
        """Go on with what a former process left in the queue."""
        if self._worker is not None:
            self._worker.ask([(w.user_id, w.session_id) for w in self._buffers.waiting() if w.queued], FORCED)

    def after_add(self, user_id: str, session_ids: Iterable[str], turns: int) -> list[str]:
        """Do what is due now that turns were stored.

        Args:
            user_id: whose.
            session_ids: the sessions that they belong to.
            turns: how many they are.

        Returns:
            what went wrong, in words; nothing is lost, and the next call tries again.
        """
        errors: list[str] = []
        for session_id in session_ids:
            key = (user_id, session_id)
            behind: list[Key] = []
            with self._pipeline.guarded(errors):
                behind = [(user_id, other) for other in self._left_behind(key)]
            if self._worker is not None:
                self._worker.ask([key], DUE)
                self._worker.ask(behind, EMPTIED)
                continue
            errors += self._pipeline.advance(*key, most=max(INLINE_TURNS, 2 * turns))
            for other in behind[:BEHIND]:
                errors += self._pipeline.flush(*other)
        return self._told(errors)

    def _left_behind(self, key: Key) -> list[str]:
        """Sessions to flush, now that this one was written to; looked for when it changes, and now and then."""
        user_id, session_id = key
        now = time.monotonic()
        with self._lock:
            self._fed[key] = None
            session, looked = self._last.get(user_id, ("", 0.0))
            if session == session_id and now - looked < LOOK_SECONDS:
                return []
            self._last[user_id] = (session_id, now)
            self._last.move_to_end(user_id)
            for kept in (self._fed, self._last):
                while len(kept) > REMEMBERED:
                    kept.popitem(last=False)
        found = self._pipeline.left_behind(user_id, session_id)
        if len(found) > BEHIND:
            with self._lock:
                self._last.pop(user_id, None)
        return found

    def flush(self, user_id: str | None, session_id: str | None, *, wait: bool) -> list[str]:
        """Empty buffers and queue, of one user or of all; returns what went wrong, in words."""
        keys = [(w.user_id, w.session_id) for w in self._buffers.waiting(user_id, session_id) if w.open]
        if self._worker is None:
            return self._told([error for key in keys for error in self._pipeline.flush(*key)])
        self._ask_for_all(keys)
        if not wait:
            return []
        errors = self._worker.wait(keys)
        while not errors and (left := self._left(keys)):  # another process has claimed them
            time.sleep(POLL_SECONDS)
            self._ask_for_all(left)
            errors = self._worker.wait(left)
        return errors

    def _ask_for_all(self, keys: Sequence[Key]) -> None:
        """Empty the buffers of these sessions, and work off the queue with the last one of each user."""
        assert self._worker is not None
        last = {user_id: (user_id, session_id) for user_id, session_id in keys}
        self._worker.ask([key for key in keys if key != last[key[0]]], EMPTIED)
        self._worker.ask(last.values(), EMPTIED | FORCED)

    def retry(self, user_id: str | None) -> list[str]:
        """Work on what is queued, in line or until the worker is done; returns what went wrong, in words."""
        keys = [(w.user_id, w.session_id) for w in self._buffers.waiting(user_id) if w.queued]
        if self._worker is None:
            return self._told([error for key in keys for error in self._pipeline.work_off(key[0])])
        self._worker.ask(keys, FORCED)
        return self._worker.wait(keys)

    def work(self, keys: Sequence[Key], how: How, stop: Event) -> dict[Key, list[str]]:
        """Work on sessions until ``stop`` is set; what is under way then is finished.

        Returns:
            what went wrong, in words, by session.
        """
        self._pipeline.stop = stop
        try:
            if self._worker is not None:
                self._worker.ask(keys, how)
                self._worker.wait(keys, stop)
                return self._worker.errors(keys)
            return {key: errors for key in keys if not stop.is_set() and (errors := self._work(*key, how))}
        finally:
            self._pipeline.stop = Event()

    @property
    def worth_a_call(self) -> int:
        """Tokens in a user's queue from which on it is worked off without need."""
        return self._pipeline.worth_a_call

    def close(self) -> None:
        """Stop, after flushing the sessions that were fed; with a slow manager they go to the queue."""
        if self._worker is not None:
            self._worker.close()
        with self._lock:
            fed = list(self._fed)
            self._fed.clear()
        for key in fed:
            run = self._pipeline.queue_all if self._worker is not None else self._pipeline.flush
            for error in run(*key):
                logger.warning("closing: %s; what was to be done is still in the database", error)

    def _work(self, user_id: str, session_id: str, how: How) -> list[str]:
        """One session's work in the background. A user that it failed for is left alone for a while, unless forced."""
        pipeline, forced = self._pipeline, FORCED in how
        if not forced and time.monotonic() - self._failed.get(user_id, -RETRY_SECONDS) < RETRY_SECONDS:
            return self._told(pipeline.queue_all(user_id, session_id)) if EMPTIED in how else []
        errors: list[str] = []
        if EMPTIED in how:
            errors += pipeline.queue_all(user_id, session_id)
        elif not forced:
            errors += pipeline.advance(user_id, session_id, most=EVERYTHING)
        if not errors:
            errors += pipeline.work_off(user_id, if_worth_it=not forced)
        self._failed.pop(user_id, None)
        if errors:
            self._failed[user_id] = time.monotonic()
        return self._told(errors)

    def _told(self, errors: Sequence[str]) -> list[str]:
        """Each error once; the last few are kept for ``doctor``, since nobody may be looking now."""
        distinct = list(dict.fromkeys(errors))
        self.lately.extend(error for error in distinct if error not in self.lately)
        return distinct

    def _left(self, keys: Sequence[Key]) -> list[Key]:
        users = dict.fromkeys(user for user, _ in keys)
        waiting = [w for user in users for w in self._buffers.waiting(user)]
        open_keys = {(w.user_id, w.session_id) for w in waiting if w.open}
        return [key for key in keys if key in open_keys]
