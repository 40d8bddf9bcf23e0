"""Encoding what waits in the outbox: one job a user, in a daemon thread.

A job goes on until nothing of its user is pending. Callers wait for it for as long as it gets
something done; a hung embedder is left alone, keeps nobody waiting again until it comes back, and
cannot keep the process from ending.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from lightmem_integrations.core.counters import Counters
from lightmem_integrations.core.encode import central, encode_texts, passages_to_encode, shape_of
from lightmem_integrations.core.ports import Embedder, Encoded, Pending, Store
from lightmem_integrations.errors import ClosedError, EmbedderError, LightMemError

ROWS = 64
"""Entries encoded and stored at a time: how far a crash or a hung embedder sets the index back."""

GIVE_UP_AFTER = 3
"""Failures in a row after which it is the embedder, and not a text."""

NUDGE_SECONDS = 5.0
"""Searches start a job for what is pending at most this often, per user."""

CLOSE_SECONDS = 1.0
"""How long ``close`` waits for a batch; what is not stored by then stays pending."""

Shape = tuple[int, int]


class _Job:
    """One user's encoding in progress."""

    def __init__(self) -> None:
        self.finished = Event()
        self.again = True
        self.hung = False
        self.steps = 0
        self.encoded = 0
        self.error: LightMemError | None = None


class Indexer:
    """Encodes pending entries.

    Args:
        store: the truth.
        embedder: who encodes.
        shape: tells the (dim, token_dim) that vectors must have; None for what comes first.
        on_shape: told the shape of the first vectors; raises when the database has another.
        wait_seconds: how long a caller waits for an embedder that gets nothing done.
        counters: where the embedder's time and tokens are counted.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        shape: Callable[[], Shape | None],
        on_shape: Callable[[Shape], None],
        wait_seconds: float,
        counters: Counters,
    ) -> None:
        self._store, self._embedder, self._wait = store, embedder, wait_seconds
        self._counters = counters
        self._expected, self._on_shape = shape, on_shape
        self._shape: Shape | None = None
        self._jobs: dict[str, _Job] = {}
        self._nudged: dict[str, float] = {}
        self._lock = Lock()
        self._closing = False
        self._agreed = False

    def index(self, user_id: str) -> tuple[str, ...]:
        """Encode what is pending, and wait while it goes on.

        Returns:
            what went wrong, in words.
        """
        job = self._start(user_id)
        if job is None:
            return ("the memory is being closed; the rest is encoded when it is opened again",)
        if not self._wait_for(job):
            return (f"the embedder gave nothing for {self._wait:g} s; the rest is encoded in the background",)
        return (str(job.error),) if job.error else ()

    def drain(self, user_id: str, on_progress: Callable[[int], None] | None = None, stop: Event | None = None) -> int:
        """Encode everything of the user that is pending, however long it takes.

        Args:
            user_id: whose.
            on_progress: told now and then how many entries are encoded.
            stop: once it is set, nobody waits any longer; the rest follows in the background until ``close``.

        Returns:
            entries encoded.

        Raises:
            EmbedderError: when some could not be; they stay pending, with the reason.
        """
        job = self._start(user_id)
        if job is None:
            raise ClosedError("the memory was closed; open a new LightMem")
        while not job.finished.wait(0.2):
            if on_progress is not None:
                on_progress(job.encoded)
            if stop is not None and stop.is_set():
                return job.encoded
        if job.error is not None:
            raise job.error
        return job.encoded

    def nudge(self, user_id: str) -> None:
        """Encode what is pending in the background, without waiting."""
        now = time.monotonic()
        if now - self._nudged.get(user_id, -NUDGE_SECONDS) >= NUDGE_SECONDS:
            self._nudged[user_id] = now
            self._start(user_id)

    def close(self) -> None:
        """Stop after the batch that is being encoded; the rest stays pending."""
        with self._lock:
            self._closing = True
            jobs = list(self._jobs.values())
        for job in jobs:
            job.finished.wait(CLOSE_SECONDS)

    # ------------------------------------------------------------------ jobs
    def _start(self, user_id: str) -> _Job | None:
        with self._lock:
            if self._closing:
                return None
            job = self._jobs.get(user_id)
            if job is not None:
                job.again = True
                return job
            job = self._jobs[user_id] = _Job()
        Thread(target=self._run, args=(user_id, job), name="lightmem-index", daemon=True).start()
        return job

    def _wait_for(self, job: _Job) -> bool:
        """Wait for as long as something gets done; False when the embedder hangs."""
        while True:
            before = job.steps
            if job.finished.wait(0 if self._is_hung() else self._wait):
                return True
            if job.steps == before:
                job.hung = True
                return False

    def _is_hung(self) -> bool:
        with self._lock:
            return any(job.hung for job in self._jobs.values())

    def _run(self, user_id: str, job: _Job) -> None:
        try:
            while self._goes_on(user_id, job):
                job.again, job.error = False, None
                try:
                    self._encode_all(user_id, job)
                except LightMemError as error:  # the database refused; the outbox still has the rest
                    job.error = error
        finally:
            with self._lock:
                if self._jobs.get(user_id) is job:
                    del self._jobs[user_id]
            job.finished.set()

    def _goes_on(self, user_id: str, job: _Job) -> bool:
        """Somebody asked since the last round began, whatever became of that; else the job is over."""
        with self._lock:
            if job.again and not self._closing:
                return True
            del self._jobs[user_id]
            return False

    # ------------------------------------------------------------------ encoding
    def _encode_all(self, user_id: str, job: _Job) -> None:
        failed: set[str] = set()
        while not self._closing:
            rows = [row for row in self._store.pending(user_id, ROWS + len(failed)) if row.entry_id not in failed]
            if not rows:
                return
            lost = self._encode_batch(user_id, rows, job)
            failed.update(lost)
            if len(lost) == len(rows) or len(lost) >= GIVE_UP_AFTER:
                return

    def _encode_batch(self, user_id: str, rows: Sequence[Pending], job: _Job) -> list[str]:
        """Encode and store some entries; one by one if they fail together.

        Returns:
            ids of those that failed.
        """
        try:
            self._encode(user_id, rows, job)
            return []
        except EmbedderError as error:
            if len(rows) == 1:
                return self._give_up(user_id, rows[0], error, job)
        lost: list[str] = []
        in_a_row = 0
        for row in rows:
            failed = self._encode_batch(user_id, [row], job)
            lost += failed
            in_a_row = in_a_row + 1 if failed else 0
            if in_a_row == GIVE_UP_AFTER or self._closing:
                break
        return lost

    def _give_up(self, user_id: str, row: Pending, error: EmbedderError, job: _Job) -> list[str]:
        self._store.note_failure(user_id, [row.entry_id], str(error))
        job.error = error
        return [row.entry_id]

    def _encode(self, user_id: str, rows: Sequence[Pending], job: _Job) -> None:
        cut = [(row, passages_to_encode(row.text, row.speaker)) for row in rows]
        texts = [text for _, parts in cut for _, text in parts]
        self._shape = self._shape or self._expected()
        with self._counters.embedding.measured():
            encodings = iter(encode_texts(self._embedder, texts, self._shape))
        self._counters.embedded(sum(row.tokens for row in rows))
        made = []
        for row, parts in cut:
            encoded = [(passage, text, next(encodings)) for passage, text in parts]
            long = len(encoded) > 1
            passages = [(passage, central(e, text) if long else e) for passage, text, e in encoded]
            made.append(Encoded(row.entry_id, row.ticket, passages))
        self._agree(made)
        job.encoded += self._store.save_encoded(user_id, made)
        job.steps += 1
        job.hung = False

    def _agree(self, made: Sequence[Encoded]) -> None:
        """The first vectors say which shape all others must have."""
        if not self._agreed:
            shape = shape_of([encoding for e in made for _, encoding in e.passages])
            self._on_shape(shape)
            self._shape, self._agreed = shape, True
