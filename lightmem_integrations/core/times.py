"""Times as integers: microseconds since 1970 UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 UTC of a timezone-aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int | None) -> datetime | None:
    """The inverse of ``to_us``, in UTC; None stays None."""
    return None if us is None else _EPOCH + timedelta(microseconds=us)
