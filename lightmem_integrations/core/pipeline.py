"""From turns to memory (design §5, steps 4 and 5; LightMem, arXiv 2510.18866).

The turns of a session fill its sensory buffer. When that is full they are compressed and cut into
segments; closed segments go to the short-term buffer. When that is full it is queued, and a manager
makes memory of it. Every state is in the database: each step reads, works outside of any transaction,
and commits if nobody else did it first.

A step that fails leaves its input where it was, tells why, and is tried again by the next call.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from threading import Event, Thread
from typing import Any

import numpy as np

from lightmem_integrations.core.compress import safely
from lightmem_integrations.core.llm_extract import MAX_SEGMENTS
from lightmem_integrations.core.managers import CorpusOf, HeldSegment, Manager
from lightmem_integrations.core.ports import Attention, Buffers, ClosedSegment, Compressor, QueuedSegment, Reader
from lightmem_integrations.core.segment import (
    CONTEXT_TURNS,
    DEFAULTS,
    HYBRID,
    BufferedTurn,
    HybridParameters,
    SegmentParameters,
    SensoryBuffer,
    segment,
)
from lightmem_integrations.core.types import Compression, Turn
from lightmem_integrations.errors import LightMemError, LLMQuotaError, shorten

logger = logging.getLogger(__name__)

TRIES = 3
"""Failures after which a segment is parked."""

LEASE_SECONDS = 30.0
"""How long a claim holds without a sign of life: what a crash costs before another process goes on."""

INLINE_TURNS = 64
"""Turns of an old backlog that one ``add`` takes along, at most."""

RACES = 3
"""How often a step that somebody else was quicker with is tried again at once."""


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How turns become segments.

    Attributes:
        sensory_tokens: the sensory buffer is cut when it holds so many (WordPiece).
        short_term_tokens: the short-term buffer is queued when it holds so many, after compression.
        topic_segment: cut by topic; else every full buffer is one segment.
        max_gap: a pause longer than this is always a boundary.
        max_age: a session that was silent for longer is flushed.
        shared: the attention model is the compressor; one pass serves both.
    """

    sensory_tokens: int = 512
    short_term_tokens: int = 512
    topic_segment: bool = True
    max_gap: timedelta = timedelta(hours=1)
    max_age: timedelta = timedelta(hours=24)
    shared: bool = False


class Pipeline:
    """Makes memory of turns.

    Args:
        buffers: the truth.
        manager: who makes memory of segments.
        corpus: gives the counts over a user's own turns.
        options: limits.
        compressor: None keeps turns as they are.
        attention: shows what attends to what; None cuts by similarity alone.
        on_made: called with the user and the ids of new entries after they are stored; returns what
            went wrong, in words.
    """

    def __init__(
        self,
        buffers: Buffers,
        manager: Manager,
        corpus: CorpusOf,
        options: PipelineOptions,
        *,
        compressor: Compressor | None = None,
        attention: Attention | None = None,
        on_made: Callable[[str, Sequence[str]], Sequence[str]] | None = None,
    ) -> None:
        self._buffers, self._manager, self._corpus, self._options = buffers, manager, corpus, options
        self._compressor, self._attention, self._on_made = compressor, attention, on_made
        self._owner = uuid.uuid4().hex
        # Once it is set, nothing more is taken off the queue; what was taken is finished.
        self.stop = Event()

    # ------------------------------------------------------------------ what callers ask for
    def advance(self, user_id: str, session_id: str, *, most: int = INLINE_TURNS) -> list[str]:
        """Do for a session what is due.

        Args:
            user_id: whose.
            session_id: which session.
            most: turns to cut at most; what is over is due the next time.

        Returns:
            what went wrong, in words.
        """
        errors: list[str] = []
        with self.guarded(errors):
            held = self._segment(user_id, session_id, most, errors)
            if held and self._buffers.enqueue(user_id, session_id, self._options.short_term_tokens):
                self._extract(user_id, errors, at_least=self.worth_a_call)
        return errors

    def flush(self, user_id: str, session_id: str) -> list[str]:
        """Empty the buffers of a session, whatever they hold; returns what went wrong, in words."""
        errors = self.queue_all(user_id, session_id)
        return errors + self.work_off(user_id)

    def queue_all(self, user_id: str, session_id: str) -> list[str]:
        """Put everything that a session's buffers hold into the queue, and leave it there."""
        errors: list[str] = []
        with self.guarded(errors):
            self._segment(user_id, session_id, None, errors)
            self._buffers.enqueue(user_id, session_id, 0)
        return errors

    def work_off(self, user_id: str, *, if_worth_it: bool = False) -> list[str]:
        """Make memory of what a user has in the queue; of little only if ``if_worth_it`` is False."""
        errors: list[str] = []
        with self.guarded(errors):
            self._extract(user_id, errors, at_least=self.worth_a_call if if_worth_it else 0)
        return errors

    @property
    def worth_a_call(self) -> int:
        """Tokens for which a manager is asked without need. What costs nothing is always worth it."""
        return self._options.short_term_tokens if self._manager.slow else 0

    def left_behind(self, user_id: str, session_id: str) -> list[str]:
        """Sessions to flush, now that this one was written to."""
        return self._buffers.left_behind(user_id, session_id, datetime.now(timezone.utc) - self._options.max_age)

    @contextmanager
    def guarded(self, errors: list[str]) -> Iterator[None]:
        """Whatever is raised becomes words: turns are safe, and what was to be done is where it was."""
        try:
            yield
        except LightMemError as error:
            errors.append(str(error))
        except Exception as error:  # a compressor, an attention model or an LLM may raise anything
            logger.debug("a step of the pipeline failed", exc_info=True)
            errors.append(f"{type(error).__name__}: {shorten(str(error))}")

    # ------------------------------------------------------------------ sensory buffer
    def _segment(self, user_id: str, session_id: str, most: int | None, errors: list[str]) -> int:
        """Cut the sensory buffer as far as it is full; all of it if ``most`` is None; returns turns cut."""
        # Each turn counts as a token at least, so that this many turns fill the buffer.
        page = self._options.sensory_tokens + 1
        taken = races = 0
        while (most is None or taken < most) and races < RACES:
            turns = self._buffers.buffered(user_id, session_id, page)
            is_rest = len(turns) < page
            reading = _Reading(self, user_id, session_id, turns)
            closed = self._closed(turns, reading, everything=most is None and is_rest)
            if not closed:
                break
            segments = reading.compressed(closed)
            errors += [error for error in dict.fromkeys(reading.errors) if error not in errors]
            if not self._buffers.hold(user_id, session_id, segments):
                races += 1
                continue
            taken += sum(len(members) for members in closed)
            if is_rest:
                break
        return taken

    def _closed(self, turns: Sequence[Turn], reading: _Reading, *, everything: bool) -> list[tuple[BufferedTurn, ...]]:
        options = self._options
        buffer = SensoryBuffer(reading.cut, limit=options.sensory_tokens, max_gap=options.max_gap)
        closed: list[tuple[BufferedTurn, ...]] = []
        for turn in turns:
            closed += buffer.push(BufferedTurn(turn.id, turn.tokens, turn.timestamp))
        return closed + buffer.flush() if everything else closed

    # ------------------------------------------------------------------ extraction
    def _extract(self, user_id: str, errors: list[str], *, at_least: int) -> None:
        """Make memory of what is queued, a call at a time, in order, until there is too little or one fails."""
        # A buffer that was queued when it was full holds its limit and something more; it is one call.
        limits = (MAX_SEGMENTS, 2 * self._options.short_term_tokens)
        lease = LEASE_SECONDS if self._manager.slow else 0.0
        while not self.stop.is_set():
            claimed = self._buffers.claim(user_id, self._owner, lease, limits, at_least)
            if not claimed:
                return
            with self._kept_alive():
                told, is_done = self._make(user_id, claimed)
            errors += told
            if not is_done:
                return

    def _make(self, user_id: str, claimed: Sequence[QueuedSegment]) -> tuple[list[str], bool]:
        """Make memory of one buffer; returns what went wrong, and whether to go on with the next."""
        ids = [segment.id for segment in claimed]
        try:
            made = self._manager.make(self._held(user_id, claimed), self._corpus(user_id))
        except LLMQuotaError as error:
            self._buffers.fail(user_id, self._owner, ids, str(error), tries=0)
            return [str(error)], False
        except Exception as error:  # the queue keeps the segments, and the reason
            reason = str(error) if isinstance(error, LightMemError) else f"{type(error).__name__}: {error}"
            self._buffers.fail(user_id, self._owner, ids, reason, tries=TRIES)
            return [reason], False
        for segment_id, reason in made.failed.items():
            self._buffers.fail(user_id, self._owner, [segment_id], reason, tries=TRIES)
        errors = [*made.errors, *dict.fromkeys(made.failed.values())]
        done = [segment_id for segment_id in ids if segment_id not in made.failed]
        new = self._buffers.finish(user_id, self._owner, done, made.entries, made.notes, self._manager.name)
        if new and self._on_made is not None:
            errors += self._on_made(user_id, new)
        return errors, not made.failed

    def _held(self, user_id: str, claimed: Sequence[QueuedSegment]) -> list[HeldSegment]:
        ids = [i for queued in claimed for i in queued.turn_ids]
        turns = self._buffers.turns(user_id, ids)
        compressed = self._buffers.compressed(user_id, ids) if self._compressor is not None else {}
        vectors = self._buffers.vectors(user_id, ids)
        return [
            HeldSegment(queued.id, queued.seq, [turns[i] for i in queued.turn_ids if i in turns], compressed, vectors)
            for queued in claimed
        ]

    @contextmanager
    def _kept_alive(self) -> Iterator[None]:
        """Renew the lease for as long as the block runs. Rules are quicker than any lease."""
        if not self._manager.slow:
            yield
            return
        finished = Event()

        def renew() -> None:
            while not finished.wait(LEASE_SECONDS / 3):
                try:
                    self._buffers.renew(self._owner, LEASE_SECONDS)
                except LightMemError as error:
                    logger.warning("a lease could not be renewed: %s", error)

        Thread(target=renew, name="lightmem-lease", daemon=True).start()
        try:
            yield
        finally:
            finished.set()


class _Reading:
    """One look at a session's sensory buffer: what the models said of its turns, each asked once."""

    def __init__(self, pipeline: Pipeline, user_id: str, session_id: str, turns: Sequence[Turn]) -> None:
        self._of, self._user_id, self._session_id = pipeline, user_id, session_id
        self._turns = {turn.id: turn for turn in turns}
        self._order = [turn.id for turn in turns]
        self._made: dict[str, Compression] = {}
        self._vectors: dict[str, Any] | None = None
        self._before: list[Turn] | None = None
        self.errors: list[str] = []

    # ---- segmentation
    def cut(self, members: Sequence[BufferedTurn]) -> Sequence[int]:
        """The boundaries of some of the turns."""
        options = self._of._options
        if not options.topic_segment:
            return ()
        turns = [self._turns[member.id] for member in members]
        attention = self._attention(turns)
        before = [] if attention is not None else self._context(turns[0])
        seen = [*before, *turns]
        return segment(
            self._matrix(seen),
            [turn.content for turn in seen],
            [turn.timestamp for turn in seen],
            context=len(before),
            parameters=_similarity(options.max_gap),
            hybrid=_hybrid(options.max_gap),
            attention=attention,
        )

    def _attention(self, turns: Sequence[Turn]) -> Any:
        """(n, n) attention between the turns; None without a model, or where it failed."""
        model = self._of._attention
        if model is None:
            return None
        texts = [turn.content for turn in turns]
        try:
            if self._of._options.shared and isinstance(model, Reader):
                reading = model.read(texts)
                self._made.update(zip((turn.id for turn in turns), reading.compressions, strict=True))
                return reading.attention
            return model.attend(texts)
        except Exception as error:  # the similarity of the turns is left to go by
            self.errors.append(f"{model.name} showed no attention: {type(error).__name__}: {shorten(str(error))}")
            return None

    def _context(self, first: Turn) -> list[Turn]:
        """The turns before a turn of the buffer, in the buffer or handed out before."""
        at = self._order.index(first.id)
        inside = [self._turns[i] for i in self._order[max(0, at - CONTEXT_TURNS) : at]]
        if len(inside) < CONTEXT_TURNS and self._before is None:
            head = self._turns[self._order[0]]
            self._before = self._of._buffers.before(self._user_id, self._session_id, head.seq, CONTEXT_TURNS)
        return [*(self._before or ()), *inside][-CONTEXT_TURNS:]

    def _matrix(self, turns: Sequence[Turn]) -> Any:
        """(turns, dim) vectors, zeros where a turn is not encoded; None when none of them is."""
        if self._vectors is None:
            self._vectors = {}
        missing = [turn.id for turn in turns if turn.id not in self._vectors]
        if missing:
            self._vectors |= dict.fromkeys(missing) | self._of._buffers.vectors(self._user_id, missing)
        rows = [self._vectors[turn.id] for turn in turns]
        known = next((row for row in rows if row is not None), None)
        return None if known is None else np.stack([np.zeros_like(known) if row is None else row for row in rows])

    # ---- compression
    def compressed(self, closed: Sequence[Sequence[BufferedTurn]]) -> list[ClosedSegment]:
        """Closed segments with what compression made of their turns."""
        members = [[self._turns[member.id] for member in segment] for segment in closed]
        self._compress([turn for segment in members for turn in segment])
        return [
            ClosedSegment(
                turn_ids=tuple(turn.id for turn in segment),
                compressions=tuple(self._made.get(turn.id) for turn in segment),
                tokens=sum(self._length(turn) for turn in segment),
            )
            for segment in members
        ]

    def _compress(self, turns: Sequence[Turn]) -> None:
        missing = [turn for turn in turns if turn.id not in self._made]
        if self._of._compressor is None or not missing:
            return
        made, reasons = safely(self._of._compressor, [turn.content for turn in missing])
        self.errors += reasons
        self._made.update(zip((turn.id for turn in missing), made, strict=True))

    def _length(self, turn: Turn) -> int:
        made = self._made.get(turn.id)
        return turn.tokens if made is None else made.tokens_after


def _similarity(max_gap: timedelta) -> SegmentParameters:
    return replace(DEFAULTS, max_gap=max_gap)


def _hybrid(max_gap: timedelta) -> HybridParameters:
    return replace(HYBRID, max_gap=max_gap)
