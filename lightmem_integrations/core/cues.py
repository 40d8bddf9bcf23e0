"""What can be read off a chat turn or a question without a model: small, English, documented.

Source: section 2 of the ranking study behind decision 0007. Each cue is a yes or no.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_TIMES = """yesterday today tomorrow tonight last next ago since week weeks weekend month months year years day days
morning recently"""
# "may" is left out: it is a verb far more often than a month.
_TIME_WORDS = frozenset([*_TIMES.split(), *WEEKDAYS, *MONTHS]) - {"may"}
_WORD = re.compile(r"\w+")
_ACKNOWLEDGEMENT = re.compile(
    r"^\W*(wow|thanks|thank you|that's|that sounds|sounds|great|awesome|cool|congrats|yeah|absolutely|nice|glad|"
    r"totally|good luck|bye|take care|haha|hey|hi)\b",
    re.IGNORECASE,
)
_ASKS_WHEN = re.compile(
    r"\bwhen\b|\b(what|which) (date|day|month|year)\b|\bwhat time\b|\bwhich week\b|\bhow long\b|\bsince when\b",
    re.IGNORECASE,
)
_MAY = re.compile(r"\b(in|of|on|early|late|mid|\d+(st|nd|rd|th)?) may\b|\bmay,? \d", re.IGNORECASE)
_DAY = re.compile(r"\b([12]?\d|3[01])(?:st|nd|rd|th)?\b")
_YEAR = re.compile(r"\b((?:19|20)\d\d)\b")


def acknowledges(text: str) -> bool:
    """The turn opens like a reaction ("Wow", "Thanks", "Take care")."""
    return _ACKNOWLEDGEMENT.match(text) is not None


def asks(text: str) -> bool:
    """The turn ends with a question mark."""
    return text.rstrip().endswith(("?", "？"))


def mentions_time(text: str) -> bool:
    """The turn holds a time word: "last", "ago", a weekday, a month, a year."""
    # A set of words is twice as fast as one expression for all of them.
    return not _TIME_WORDS.isdisjoint(_WORD.findall(text.lower())) or _YEAR.search(text) is not None


def asks_when(question: str) -> bool:
    """The question is about a time."""
    return _ASKS_WHEN.search(question) is not None


@dataclass(frozen=True, slots=True)
class NamedDay:
    """A day that a question names: months and days of the month that may be combined, and years."""

    months: frozenset[int]
    days: frozenset[int]
    years: frozenset[int]

    def near(self, said: date) -> bool:
        """``said`` is that day, or up to three days after it, when people tell of it."""
        return any(self.names(said - timedelta(days=back)) for back in range(4))

    def names(self, day: date) -> bool:
        """``day`` is that day."""
        return day.month in self.months and day.day in self.days and (not self.years or day.year in self.years)


def named_day(question: str) -> NamedDay | None:
    """The day that a question gives by month name and number, or None."""
    low = question.lower()
    months = {n for n, month in enumerate(MONTHS, 1) if month != "may" and re.search(rf"\b{month}\b", low)}
    if _MAY.search(question):
        months.add(5)
    days = {int(day) for day in _DAY.findall(question) if int(day) > 0}
    if not months or not days:
        return None
    return NamedDay(frozenset(months), frozenset(days), frozenset(int(year) for year in _YEAR.findall(question)))
