"""What language models cost: tokens by purpose, and a daily quota that several processes can share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from threading import Lock
from typing import Protocol, get_args

from lightmem_integrations.core.ports import Purpose
from lightmem_integrations.core.types import TokenUsage
from lightmem_integrations.errors import ConfigError, LLMError, LLMQuotaError, UsageError, shorten

__all__ = ["PURPOSES", "MemoryQuotaStore", "Meter", "QuotaEvent", "QuotaStore"]

logger = logging.getLogger(__name__)

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
WARN_AT = 0.8
"""Share of the quota at which the warning is given."""


class QuotaStore(Protocol):
    """Where the tokens of a day are added up. Keep it in a database to share a quota between processes."""

    def used(self, day: str) -> int:
        """Tokens spent on a day, which is a UTC date as ``YYYY-MM-DD``."""
        ...

    def add(self, day: str, tokens: int) -> int:
        """Add to a day in one atomic step; returns the day's new total."""
        ...


class MemoryQuotaStore:
    """The quota of one process, forgotten when it ends. Thread-safe; keeps the current day only."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._day, self._tokens = "", 0

    def used(self, day: str) -> int:
        """Tokens spent on a day."""
        with self._lock:
            return self._tokens if day == self._day else 0

    def add(self, day: str, tokens: int) -> int:
        """Add to a day; returns its new total. A day before the newest one is not added up any more."""
        with self._lock:
            if day > self._day:
                self._day, self._tokens = day, 0
            if day == self._day:
                self._tokens += tokens
            return self._tokens


@dataclass(frozen=True, slots=True)
class QuotaEvent:
    """80 % of a day's quota is spent. ``day`` is a UTC date; the others are tokens."""

    day: str
    used: int
    quota: int


class Meter:
    """Counts tokens by purpose and holds them to a daily quota. Thread-safe.

    A call is refused once the quota is used up, so that a day ends over the quota by no more than the
    calls that were under way. The 80 % event comes from the call that crosses the line: once a day, in
    one of the processes that share the store.

    Args:
        daily_token_quota: input and output tokens a UTC day; None for no limit.
        store: where the day's tokens are added up; None for the memory of this process.
        on_warning: called at 80 % of the quota, in the thread of the call that crossed it.
        now: the clock, for tests.

    Raises:
        ConfigError: the quota is below 1.
    """

    def __init__(
        self,
        daily_token_quota: int | None = None,
        store: QuotaStore | None = None,
        on_warning: Callable[[QuotaEvent], None] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        if daily_token_quota is not None and daily_token_quota < 1:
            raise ConfigError("daily_token_quota", "must be at least 1, or None for no limit", daily_token_quota)
        self._quota, self._store, self._on_warning, self._now = daily_token_quota, store, on_warning, now
        if self._store is None and self._quota is not None:
            self._store = MemoryQuotaStore()
        self._lock = Lock()
        self._input, self._output, self._calls = Counter[str](), Counter[str](), Counter[str]()

    def check(self) -> None:
        """Let a call pass, or not.

        Raises:
            LLMQuotaError: the day's quota is used up.
            LLMError: the store failed, so that nobody knows.
        """
        if self._quota is None or self._store is None:
            return
        day = self._day()
        try:
            used = self._store.used(day)
        except Exception as error:
            raise LLMError(f"the quota store failed: {type(error).__name__}: {shorten(str(error))}") from error
        if used >= self._quota:
            raise LLMQuotaError(
                f"the daily token quota is used up: {used:,} of {self._quota:,} tokens on {day} (UTC). "
                "What was to be done stays pending until 00:00 UTC; raise daily_token_quota to go on now."
            )

    def record(self, purpose: Purpose, input_tokens: int, output_tokens: int) -> None:
        """Count one charged call.

        A store that fails is logged and costs the day's total this call: the answer is paid for and is not
        thrown away.
        """
        check_purpose(purpose)
        with self._lock:
            self._input[purpose] += input_tokens
            self._output[purpose] += output_tokens
            self._calls[purpose] += 1
        if self._quota is None or self._store is None:
            return
        day, tokens = self._day(), input_tokens + output_tokens
        try:
            total = self._store.add(day, tokens)
        except Exception:
            logger.exception("the quota store failed; %d tokens are missing from the total of %s", tokens, day)
            return
        if total - tokens < WARN_AT * self._quota <= total:
            self._warn(QuotaEvent(day, total, self._quota))

    def usage(self) -> dict[str, TokenUsage]:
        """Tokens and calls of this process by purpose; every purpose is there."""
        with self._lock:
            return {p: TokenUsage(p, self._input[p], self._output[p], self._calls[p]) for p in PURPOSES}

    def _day(self) -> str:
        return self._now().astimezone(timezone.utc).date().isoformat()

    def _warn(self, event: QuotaEvent) -> None:
        logger.warning("%d of %d tokens of the daily quota are used on %s", event.used, event.quota, event.day)
        if self._on_warning is None:
            return
        try:
            self._on_warning(event)
        except Exception:  # a caller's callback must not cost the answer that was paid for
            logger.exception("the on_warning callback failed")


def check_purpose(purpose: str) -> None:
    """Refuse a purpose that is not counted.

    Raises:
        UsageError: naming the purposes there are.
    """
    if purpose not in PURPOSES:
        raise UsageError("purpose", f"must be of {', '.join(PURPOSES)}", purpose)
