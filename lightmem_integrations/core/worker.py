"""Work that is kept off the reply path: a few daemon threads, each on one session at a time.

What is to be done is in the database; this only knows which sessions to look at. A process that is
killed leaves nothing behind but leases, which run out.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Flag, auto
from threading import Condition, Event, Thread

logger = logging.getLogger(__name__)

Key = tuple[str, str]


class How(Flag):
    """How far a session's work is to go."""

    DUE = 0
    """What is due."""
    EMPTIED = auto()
    """Put what its buffers hold into the queue."""
    FORCED = auto()
    """Work off its user's queue, however little is in it."""


DUE, EMPTIED, FORCED = How.DUE, How.EMPTIED, How.FORCED

CLOSE_SECONDS = 1.0
"""How long ``close`` waits for a call that is under way; what it would have given is asked for again."""

LOOK_SECONDS = 0.1
"""How soon somebody who waits sees that the work is to stop."""


class Worker:
    """Runs ``work(user_id, session_id, how)`` for sessions, in the background.

    Calls for one user follow one another; those for several run side by side. A session that is asked
    for again while it waits is run once.

    Args:
        work: does the work on a session; returns what went wrong, in words.
        threads: how many run side by side.
    """

    def __init__(self, work: Callable[[str, str, How], list[str]], threads: int) -> None:
        self._work, self._limit = work, threads
        self._todo: OrderedDict[Key, How] = OrderedDict()
        self._busy: set[Key] = set()
        self._errors: dict[Key, list[str]] = {}
        self._changed = Condition()
        self._threads: list[Thread] = []
        self._closing = False

    def ask(self, keys: Iterable[Key], how: How) -> None:
        """Work on these sessions, soon."""
        with self._changed:
            if self._closing:
                return
            for key in keys:
                self._todo[key] = how | self._todo.get(key, DUE)
                self._todo.move_to_end(key)
            wanted = min(self._limit, len(self._todo) + len(self._busy))
            while len(self._threads) < wanted:
                thread = Thread(target=self._run, name="lightmem-worker", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def wait(self, keys: Iterable[Key], stop: Event | None = None) -> list[str]:
        """Wait until nothing of these sessions is left to do; returns what went wrong with them the last time.

        Once ``stop`` is set, nothing more is begun, and what is under way is waited for.
        """
        wanted = list(keys)

        def is_over() -> bool:
            return self._closing or not any(key in self._todo or key in self._busy for key in wanted)

        with self._changed:
            while not self._changed.wait_for(is_over, None if stop is None else LOOK_SECONDS):
                if stop is not None and stop.is_set():
                    self._todo.clear()
        return list(dict.fromkeys(error for errors in self.errors(wanted).values() for error in errors))

    def errors(self, keys: Iterable[Key]) -> dict[Key, list[str]]:
        """What went wrong with sessions the last time, by session."""
        with self._changed:
            return {key: self._errors[key] for key in keys if key in self._errors}

    def close(self) -> None:
        """Start nothing more, and give what runs a moment."""
        with self._changed:
            self._closing = True
            self._todo.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy, CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                key = self._next()
                if self._closing or key is None:
                    return
                how = self._todo.pop(key)
                self._busy.add(key)
            errors: list[str] = []
            try:
                errors = self._work(*key, how)
            except Exception as error:  # a thread must not die of one session
                logger.exception("the background work on a session failed")
                errors = [f"{type(error).__name__}: {error}"]
            finally:
                with self._changed:
                    self._busy.discard(key)
                    self._errors.pop(key, None)
                    if errors:
                        self._errors[key] = errors
                    self._changed.notify_all()

    def _next(self) -> Key | None:
        """The first session of a user that nobody works for."""
        users = {user_id for user_id, _ in self._busy}
        return next((key for key in self._todo if key[0] not in users), None)
