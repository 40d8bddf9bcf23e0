"""When a text says that something happened: time expressions resolved against the time of saying.

English and Chinese, by rules, without a model. An interval is half open, in the zone of ``said``; weeks
begin on Monday (ISO 8601). Where usage differs, these are the readings:

=============================  =========================================================================
last Friday, next Friday       the Friday among the 7 days before, or after, today; never today
this Friday, 这周五, 周五        the Friday of this week; 上周五 and 下周五 are those of the weeks beside it
Friday, the weekend            the last one where the nearest verb looks past, else the coming one
last, this, next week ...      the calendar week, weekend, month or year beside or around today
last May, next May             the latest May that began before this month; the first one after it
May, 7 May, the 15th           without a year: the last one after a past verb, the next one after a future
                               verb, else the nearest
two weeks ago, in a month      the calendar unit (day, week, weekend, month, year) that far away
a couple, a few, several       2, 2 to 5, 3 to 7 units; 几天前 and 前几天 are "a few"
the past two weeks             from that many units ago until tonight
four years now                 the unit in which it began
early, mid, late               thirds of the period that follows; 初, 中旬, 底 of the one before
earlier, later this week       the part of it before today, or from today on
morning, afternoon, night      6 to 12, 12 to 18, 18 to 24 o'clock; last night was yesterday
the other day                  the 7 days before today
spring, summer, fall, winter   March to May, June to August, September to November, December to February
=============================  =========================================================================

Left out, because a wrong date is worse than none: dates that may be read in two ways (5/7/2023), habits
("every Friday", "on Sundays"), distances from another event ("two days later"), and "in two weeks" after
a past verb, which is a duration. The set of expressions follows TimeML's TIMEX3 (ISO 24617-1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from lightmem_integrations.core.cues import MONTHS, WEEKDAYS
from lightmem_integrations.errors import UsageError

__all__ = ["Granularity", "TimeMention", "describe", "resolve"]

Granularity = Literal["hour", "part", "day", "weekend", "week", "month", "season", "year", "span"]


@dataclass(frozen=True, slots=True)
class TimeMention:
    """A time expression and the interval that it names.

    Attributes:
        start, end: timezone-aware, in the zone of the time of saying; ``end`` is not part of it.
        span: character offsets of the expression in the text.
        granularity: how exact it is; ``part`` is a part of a day, ``span`` anything irregular.
    """

    start: datetime
    end: datetime
    span: tuple[int, int]
    granularity: Granularity


@dataclass(frozen=True, slots=True)
class _Period:
    """An interval of wall-clock time; both ends without a zone."""

    start: datetime
    end: datetime
    granularity: Granularity


# ------------------------------------------------------------------------------------ vocabulary
_MONTH_NUMBER = {name[:n]: i for i, name in enumerate(MONTHS, 1) for n in (3, 4, len(name))}
_WEEKDAY_NUMBER = {name[:n]: i for i, name in enumerate(WEEKDAYS) for n in (3, 4, 5, len(name))}
_SEASON_MONTH = {"spring": 3, "summer": 6, "fall": 9, "autumn": 9, "winter": 12, "春": 3, "夏": 6, "秋": 9, "冬": 12}
_FEW, _SEVERAL = (2, 5), (3, 7)
_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "couple": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30,
}  # fmt: skip
_NUMBERS = {word: (n, n) for word, n in _WORDS.items()} | {"few": _FEW, "some": _FEW, "several": _SEVERAL}
_HAN_DIGITS = {c: n for n, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
_HAN_DIGITS |= {"日": 7, "天": 7, "末": 8}  # as days of the week; 8 stands for 周末
_PART_HOURS = {"morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (18, 24)}
_PART_HOURS |= {"早": (6, 12), "上": (6, 12), "凌": (0, 6), "中": (12, 18), "下": (12, 18), "晚": (18, 24)}
_PART_HOURS |= {"夜": (18, 24), "傍": (18, 24)}

_MONTH = r"(?P<month>january|february|march|april|may|june|july|august|september|october|november|december"
_MONTH += r"|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
_DAY = r"(?P<day>\d{1,2})(?P<ordinal>st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)(?![\d.,:/%-]*\d|%)"
_WEEKDAY = r"(?P<weekday>(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:mon|tues?|wed|thur?s?|fri|sat|sun)\b)"
_SEASON = r"(?P<season>spring|summer|fall|autumn|winter)"
_COUNT = r"(?P<count>\d{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty"
_COUNT += r"|an?(?!\s+(?:few|couple))|(?:a\s+)?(?:couple(?:\s+of)?|few)|several|some)"
_UNIT = r"(?P<unit>hour|day|night|weekend|week|month|year|decade)s?"
_WHICH = r"(?P<which>this\s+(?:past|last|coming)|last|past|this|next|coming|previous|following)"
_TIME_PREPOSITION = r"(?:in|last|since|until|till|by|during|around|from|of|before|after|through|back\s+in|for)"
_HAN_COUNT = r"(?P<count>\d{1,4}|[一二两兩三四五六七八九十百]{1,3}|半|[几幾数數])"
_HAN_YEAR = r"(?P<year>(?:19|20)\d\d|[一二][〇零一二三四五六七八九]{3})"
_HAN_MONTH = r"(?P<month>1[0-2]|0?[1-9]|十[一二]?|[一二三四五六七八九])月"
_HAN_DAY = r"(?P<day>3[01]|[12]\d|0?[1-9]|三十一?|二?十[一二三四五六七八九]?|[一二三四五六七八九])[日号號]"
_HAN_WEEK = r"(?:周|週|星期|[礼禮]拜)"

# Whatever none of these words is in holds no expression: one look spares most texts the rules.
_HINT = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago\b|the other day|weekend|day (?:before|after)|on the \d|(?:19|20)\d\d\b"
    r"|(?:last|past|next|coming|previous|following|this) (?:\S+ )?(?:hour|day|night|week|month|year|decade)"
    r"|(?:last|this) (?:night|morning|afternoon|evening)|(?:hour|day|week|month|year|decade)s? (?:back|from|now)\b"
    r"|in (?:a |just |about )?(?:\w+|couple of) (?:hour|day|week|month|year|decade)s?\b"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:mon|tues?|wed|thur?s?|fri|sat|sun)\b|spring|summer|fall\b|autumn"
    r"|winter|(?:jan|feb)(?:uary|ruary)?\b|mar(?:ch)?\b|apr(?:il)?\b|may\b|june?\b|july?\b|aug(?:ust)?\b"
    r"|(?:sept?|oct|nov|dec)(?:ember|ober)?\b)|\d[/.-]\d|[年月周週]|[昨今明前后後]|星期|[礼禮]拜"
)
_FUTURE = (
    r"will|won['’]t|shall|gonna|going\s+to|plan(?:s|ning)?|hop(?:e|es|ing)|upcoming|forward|see\s+you|scheduled|might"
    r"|should|want|wanna|would|about\s+to|coming|can['’]t\s+wait|let['’]s"
)
_PAST = (
    "was|were|had|did|didn|went|got|took|met|saw|came|made|gave|told|said|bought|won|lost|left|found|felt|spent|ran|began"
    "|held|heard|ate|drank|drove|flew|grew|knew|kept|led|sold|sent|slept|spoke|stood|swam|taught|thought|threw|wore|wrote"
    "|built|caught|chose|fell|forgot|hid|hung|broke|brought|sang|sat|shot|rode|rose|paid|became|been|done|gone"
    r"|[a-z]{2,}(?<!exc)(?<!ne)(?<!fe)(?<!spe)ed"
)
_TENSE = re.compile(rf"\b(?:(?P<past>{_PAST})|{_FUTURE})\b|['’]ll\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?\n。！？]")
_SENTENCE_CHARS = 200
"""How far to each side a verb is looked for."""


# --------------------------------------------------------------------------------------- calendar
def _day(day: datetime) -> _Period:
    return _Period(day, day + timedelta(1), "day")


def _week(day: datetime) -> _Period:
    monday = day - timedelta(day.weekday())
    return _Period(monday, monday + timedelta(7), "week")


def _weekend(day: datetime) -> _Period:
    saturday = day + timedelta(5 - day.weekday())
    return _Period(saturday, saturday + timedelta(2), "weekend")


def _months(year: int, month: int, n: int, granularity: Granularity) -> _Period:
    """``n`` months from a month, which may lie outside 1..12: 0 is December of the year before."""
    first = year * 12 + month - 1
    start, end = (datetime(at // 12, at % 12 + 1, 1) for at in (first, first + n))
    return _Period(start, end, granularity)


def _month(year: int, month: int) -> _Period:
    return _months(year, month, 1, "month")


def _year(year: int) -> _Period:
    return _months(year, 1, 12, "year")


def _season(year: int, month: int) -> _Period:
    return _months(year, month, 3, "season")


def _unit_at(today: datetime, unit: str, steps: int) -> _Period:
    """The calendar unit that lies ``steps`` units after the one around today."""
    if unit == "week":
        return _week(today + timedelta(7 * steps))
    if unit == "weekend":
        return _weekend(today + timedelta(7 * steps))
    if unit == "month":
        return _month(today.year, today.month + steps)
    if unit in ("year", "decade"):
        return _year(today.year + steps * (10 if unit == "decade" else 1))
    day = today + timedelta(steps)
    return _hours(day, "night") if unit == "night" else _day(day)


def _hours(day: datetime, part: str) -> _Period:
    start, end = _PART_HOURS[part]
    return _Period(day + timedelta(hours=start), day + timedelta(hours=end), "part")


def _third(period: _Period, which: int) -> _Period:
    """The first (0), middle (1) or last (2) third of a period, in whole days."""
    days = (period.end - period.start).days
    size = max(round(days / 3), 1)
    cuts = (0, size, max(days - size, size), days)
    return _Period(period.start + timedelta(cuts[which]), period.start + timedelta(cuts[which + 1]), "span")


# ---------------------------------------------------------------------------------------- context
class _Place:
    """Where an expression stands: the match, and the time of saying."""

    def __init__(self, match: re.Match[str], said: datetime) -> None:
        self.match, self.text, self.said = match, match.string, said
        self.today = said.replace(hour=0, minute=0, second=0, microsecond=0)

    def __getitem__(self, group: str) -> str:
        """A named group in lower case, "" where it took no part."""
        return (self.match.groupdict().get(group) or "").lower()

    @cached_property
    def tense(self) -> int:
        """-1 where the nearest verb of the sentence looks past, 1 where it looks ahead, 0 without one."""
        start, end = self.match.span()
        before = _SENTENCE_END.split(self.text[max(start - _SENTENCE_CHARS, 0) : start])[-1]
        after = _SENTENCE_END.split(self.text[end : end + _SENTENCE_CHARS], maxsplit=1)[0]
        found = [(len(before) - m.end(), m) for m in _TENSE.finditer(before)]
        found += [(m.start(), m) for m in _TENSE.finditer(after)]
        if not found:
            return 0
        return -1 if min(found, key=lambda pair: pair[0])[1]["past"] else 1

    @property
    def step(self) -> int:
        """-1, 0, 1 for last, this, next."""
        which = self["which"]
        if which in ("last", "past", "previous") or which.endswith(("past", "last")):
            return -1
        return 1 if which in ("next", "following") or which.endswith("coming") else 0

    @property
    def count(self) -> tuple[int, int]:
        """Least and most of "three", "a few"."""
        word = self["count"].removesuffix(" of")
        return _NUMBERS.get(word.split()[-1]) or (int(word), int(word))

    def is_capital(self, group: str) -> bool:
        """Is it written with a capital, as a name is?"""
        return bool(self.match[group]) and self.match[group][0].isupper()

    def nearest(self, candidates: Iterator[_Period]) -> _Period | None:
        """The candidate that the tense asks for, among those of several years."""
        periods = list(candidates)
        past = [p for p in periods if p.start <= self.today]
        ahead = [p for p in periods if p.end > self.today]
        if self.tense < 0 and past:
            return past[-1]
        if self.tense > 0 and ahead:
            return ahead[0]
        return min(periods, key=lambda p: (abs(p.start - self.today), p.start), default=None)

    def years(self) -> range:
        """Last year, this year, next year."""
        return range(self.said.year - 1, self.said.year + 2)


def _dates(place: _Place, month: int, day: int, last: int) -> Iterator[_Period]:
    """The days ``day`` to ``last`` of a month in the years around now, where they exist."""
    for year in place.years():
        try:
            yield _date(year, month, day, last)
        except ValueError:
            continue


def _date(year: int, month: int, day: int, last: int | None = None) -> _Period:
    start, end = datetime(year, month, day), datetime(year, month, last or day) + timedelta(1)
    return _Period(start, end, "day" if end - start == timedelta(1) else "span")


# ---------------------------------------------------------------------------------- English rules
def _iso_date(p: _Place) -> _Period:
    return _date(int(p["year"]), int(p["month"]), int(p["day"]))


def _numeric_date(p: _Place) -> _Period | None:
    a, b = int(p["a"]), int(p["b"])
    if a == b or a > 12 >= b:
        return _date(int(p["year"]), b, a)
    return _date(int(p["year"]), a, b) if b > 12 >= a else None


def _month_day(p: _Place) -> _Period | None:
    """Read "7 May", "May 7th", "May 7-9, 2023"."""
    name = p["month"].rstrip(".")
    is_plain = not (p["ordinal"] or p["year"] or p["the"])
    if is_plain and name in ("may", "march", "mar") and not p.is_capital("month"):
        return None  # "you may 2 times", "march 5 miles"
    month, day = _MONTH_NUMBER[name], int(p["day"])
    last = int(p["last"]) if p["last"] else day
    if last < day:
        return None
    return _date(int(p["year"]), month, day, last) if p["year"] else p.nearest(_dates(p, month, day, last))


def _month_year(p: _Place) -> _Period:
    return _month(int(p["year"]), _MONTH_NUMBER[p["month"].rstrip(".")])


def _which_month(p: _Place) -> _Period | None:
    """Read "last May", "this March"."""
    name = p["month"].rstrip(".")
    if name in ("may", "march", "mar") and not p.is_capital("month") and p["which"] != "last":
        return None  # "this may be", "next march on"
    month, this = _MONTH_NUMBER[name], p.today.month
    if p.step < 0:
        return _month(p.today.year - (month >= this), month)
    return _month(p.today.year + (p.step > 0 and month <= this), month)


def _in_month(p: _Place) -> _Period | None:
    """Read "in May", "since January"."""
    name = p["month"].rstrip(".")
    if len(name) < 4 and name != "may" and not p.is_capital("month"):
        return None
    if name in ("may", "march") and not p.is_capital("month") and p["preposition"] not in ("in", "since", "during"):
        return None
    return p.nearest(_month(year, _MONTH_NUMBER[name]) for year in p.years())


def _which_season(p: _Place) -> _Period:
    month = _SEASON_MONTH[p["season"]]
    seasons = [_season(year, month) for year in range(p.said.year - 2, p.said.year + 2)]
    if p.step < 0:
        return [s for s in seasons if s.end <= p.today][-1]
    if p.step > 0:
        return next(s for s in seasons if s.start > p.today)
    return next(s for s in seasons if s.end > p.today)


def _in_season(p: _Place) -> _Period | None:
    month = _SEASON_MONTH[p["season"]]
    if p["year"]:
        return _season(int(p["year"]), month)
    return p.nearest(_season(year, month) for year in p.years())


def _distance(p: _Place, sign: int) -> _Period:
    """``count`` units before (-1) or after (1) now."""
    least, most = p.count
    if p["unit"] == "hour":
        hour = p.said.replace(minute=0, second=0, microsecond=0)
        near, far = (hour + timedelta(hours=sign * n) for n in (least, most))
        granularity: Granularity = "hour" if least == most else "span"
        return _Period(min(near, far), max(near, far) + timedelta(hours=1), granularity)
    near_unit, far_unit = (_unit_at(p.today, p["unit"], sign * n) for n in (least, most))
    if least == most:
        return near_unit
    return _Period(min(near_unit.start, far_unit.start), max(near_unit.end, far_unit.end), "span")


def _ago(p: _Place) -> _Period:
    return _distance(p, -1)


def _from_now(p: _Place) -> _Period:
    return _distance(p, 1)


def _in_distance(p: _Place) -> _Period | None:
    is_duration = p.tense < 0 or (p["unit"] == "day" and p.count == (1, 1))  # "finished in one day"
    return None if is_duration else _distance(p, 1)


def _weekdays_ago(p: _Place) -> _Period:
    """Read "two Fridays ago"."""
    return _day(_weekday_before(p.today, _WEEKDAY_NUMBER[p["weekday"]]) - timedelta(7 * (p.count[0] - 1)))


def _past_span(p: _Place) -> _Period:
    """Read "the past two weeks", "the next few days"."""
    most = p.count[1] if p["count"] else 1
    ahead = p["which"] in ("next", "coming", "following")
    steps = most if ahead else -most
    if p["unit"] in ("month", "year", "decade"):
        months = steps * {"month": 1, "year": 12, "decade": 120}[p["unit"]]
        other = _month(p.today.year, p.today.month + months)
        far = other.start + timedelta(min(p.today.day, (other.end - other.start).days) - 1)
    else:
        far = p.today + timedelta(steps * (7 if p["unit"].startswith("week") else 1))
    near = p.today + timedelta(1)
    return _Period(p.today, far + timedelta(1), "span") if ahead else _Period(far, near, "span")


def _which_unit(p: _Place) -> _Period:
    """Read "last week", "next year", "this past weekend"."""
    if p["which"] == "this past" and p["unit"] != "weekend":
        return _past_span(p)
    return _unit_at(p.today, p["unit"], p.step)


def _rest_of_unit(p: _Place) -> _Period:
    """Read "earlier this week", "later this month"."""
    unit = _unit_at(p.today, p["unit"], 0)
    if p["side"].startswith("later"):
        return _Period(p.today, max(unit.end, p.today + timedelta(1)), "span")
    return _Period(unit.start, max(p.today, unit.start + timedelta(1)), "span")


def _weekday_before(today: datetime, weekday: int) -> datetime:
    return today - timedelta((today.weekday() - weekday - 1) % 7 + 1)


def _weekday_after(today: datetime, weekday: int) -> datetime:
    return today + timedelta((weekday - today.weekday() - 1) % 7 + 1)


def _which_weekday(p: _Place) -> _Period | None:
    if len(p["weekday"]) < 6 and not p.is_capital("weekday"):
        return None  # "we last sat down"
    weekday = _WEEKDAY_NUMBER[p["weekday"]]
    if p.step < 0:
        return _day(_weekday_before(p.today, weekday))
    if p.step > 0:
        return _day(_weekday_after(p.today, weekday))
    return _day(_week(p.today).start + timedelta(weekday))


def _bare_weekday(p: _Place) -> _Period | None:
    is_short = len(p["weekday"]) < 6
    if (is_short or not p["preposition"]) and not (p.is_capital("weekday") and (p["preposition"] or not is_short)):
        return None
    weekday = _WEEKDAY_NUMBER[p["weekday"]]
    return _day(_weekday_before(p.today, weekday) if p.tense < 0 else _weekday_after(p.today, weekday))


def _bare_weekend(p: _Place) -> _Period:
    if p.tense < 0:
        return _weekend(p.today - timedelta(0 if p.today.weekday() == 6 else 7))
    return _weekend(p.today)


def _day_word(p: _Place) -> _Period:
    word = " ".join(p["word"].split())
    if word == "tonight":
        return _hours(p.today, "night")
    if word == "last night":
        return _hours(p.today - timedelta(1), "night")
    if word.startswith("this "):
        return _hours(p.today, word[5:])
    if word.endswith("other day"):
        return _Period(p.today - timedelta(7), p.today, "span")
    steps = {"yesterday": -1, "today": 0, "tomorrow": 1, "day before yesterday": -2, "day after tomorrow": 2}
    return _day(p.today + timedelta(steps[word.removeprefix("the ")]))


def _day_of_month(p: _Place) -> _Period | None:
    """Read "on the 15th"."""
    first = p.today.year * 12 + p.today.month - 1
    around = []
    for at in (first - 1, first, first + 1):
        try:
            around.append(_date(at // 12, at % 12 + 1, int(p["day"])))
        except ValueError:
            continue
    return p.nearest(iter(around))


def _in_year(p: _Place) -> _Period:
    return _year(int(p["year"]))


# ---------------------------------------------------------------------------------- Chinese rules
def _han_number(text: str) -> int:
    """Return the number: "三十一" is 31, "二〇二三" is 2023."""
    if text.isdigit():
        return int(text)
    if "百" in text:
        return 100 * (_HAN_DIGITS.get(text[0], 1))
    if "十" in text:
        tens, ones = text.split("十", 1)
        return 10 * (_HAN_DIGITS[tens] if tens else 1) + (_HAN_DIGITS[ones] if ones else 0)
    return int("".join(str(_HAN_DIGITS[c]) for c in text))


def _han_date(p: _Place) -> _Period | None:
    """2023年5月7日, 去年夏天, 明年3月, 5月7号."""
    year = None
    if p["year"]:
        year = _han_number(p["year"])
    elif p["which"]:
        year = p.today.year + {"大前": -3, "前": -2, "去": -1, "今": 0, "明": 1, "后": 2, "後": 2}[p["which"]]
    month = _han_number(p["month"]) if p["month"] else None
    if p["season"]:
        return None if year is None else _season(year, _SEASON_MONTH[p["season"]])
    if p["day"] and month:
        day = _han_number(p["day"])
        return _date(year, month, day) if year else p.nearest(_dates(p, month, day, day))
    if month:
        return _month(year, month) if year else p.nearest(_month(y, month) for y in p.years())
    return _year(year) if year else None


_HAN_STEPS = {"上上": -2, "上": -1, "这": 0, "這": 0, "本": 0, "下": 1, "下下": 2, "": 0}


def _han_week(p: _Place) -> _Period:
    """上周五, 这周末, 下星期."""
    day = p.today + timedelta(7 * _HAN_STEPS[p["which"]])
    if not p["weekday"]:
        return _week(day)
    weekday = _HAN_DIGITS[p["weekday"]]
    return _weekend(day) if weekday == 8 else _day(_week(day).start + timedelta(weekday - 1))


def _han_month(p: _Place) -> _Period:
    """上个月, 上个月5号."""
    month = _month(p.today.year, p.today.month + _HAN_STEPS[p["which"]])
    return _date(month.start.year, month.start.month, _han_number(p["day"])) if p["day"] else month


def _han_day_word(p: _Place) -> _Period:
    word = p["word"]
    steps = {"大前": -3, "前": -2, "昨": -1, "今": 0, "明": 1, "后": 2, "後": 2, "大后": 3, "大後": 3}
    day = p.today + timedelta(steps[word.rstrip("天日晚早晨")])
    return _day(day) if word[-1] in "天日" else _hours(day, "早" if word[-1] in "早晨" else "晚")


def _han_distance(p: _Place) -> _Period | None:
    """三天前, 两个月后, 半年前, 几天前, 前几天."""
    unit = {"天": "day", "日": "day", "周": "week", "週": "week", "星": "week", "礼": "week", "禮": "week"}.get(
        p["unit"][:1], "month" if "月" in p["unit"] else "year"
    )
    sign = 1 if p["side"].endswith(("后", "後")) else -1
    count = p["count"]
    if count == "半":
        return _month(p.today.year, p.today.month + 6 * sign) if unit == "year" else None
    least, most = _FEW if count in tuple("几幾数數") else (_han_number(count),) * 2
    near, far = (_unit_at(p.today, unit, sign * n) for n in (least, most))
    return near if least == most else _Period(min(near.start, far.start), max(near.end, far.end), "span")


def _han_few_days(p: _Place) -> _Period:
    """前几天, 前两天."""
    return _Period(p.today - timedelta(_FEW[1]), p.today - timedelta(_FEW[0] - 1), "span")


# ------------------------------------------------------------------------------------- rule tables
_Rule = tuple["re.Pattern[str]", Callable[[_Place], "_Period | None"]]


def _rules(*pairs: tuple[str, Callable[[_Place], _Period | None]]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern, re.IGNORECASE), read) for pattern, read in pairs)


_PART_OF = r"(?:(?:early|mid|late)[\s-]+)?"
_RANGE = r"(?:\s?(?:-|–|to)\s?(?P<last>\d{1,2})(?:st|nd|rd|th)?)?"
_NOT_A_COUNT = r"(?![\d:/%]|[.,]\d|\s?(?:miles?|km|kilomet|times|percent|people|of\s+(?:the|them|us))\b)"
# More specific rules come first: what one has taken, the later ones leave alone.
_ENGLISH = _rules(
    (r"(?<![\d.-])(?P<year>(?:19|20)\d\d)([-/.])(?P<month>\d{1,2})\2(?P<day>\d{1,2})(?![\d/]|[-.]\d)", _iso_date),
    (r"(?<![\d./-])(?P<a>\d{1,2})([-/.])(?P<b>\d{1,2})\2(?P<year>(?:19|20)\d\d)(?![\d/]|[-.]\d)", _numeric_date),
    (rf"\b(?P<the>the\s+)?{_DAY}{_RANGE}(?:\s+of)?\s+{_MONTH}(?:,?\s+{_YEAR})?(?!\w)", _month_day),
    (rf"\b{_MONTH}[ \t]+(?P<the>the\s+)?{_DAY}(?!\w){_RANGE}(?:,?\s+{_YEAR})?{_NOT_A_COUNT}(?!\w)", _month_day),
    (rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR}", _month_year),
    (rf"\b{_WHICH}\s+{_MONTH}(?!\w)(?!\s+(?:be|not|have|seem|take|sound|help)\b)", _which_month),
    (rf"\b{_SEASON}\s+(?:of\s+)?{_YEAR}", _in_season),
    (rf"\b{_WHICH}\s+{_SEASON}\b", _which_season),
    (rf"\b{_COUNT}\s+{_WEEKDAY}s\s+ago\b", _weekdays_ago),
    (rf"\b{_COUNT}\s+{_UNIT}\s+(?:ago|back)\b", _ago),
    (rf"\b{_COUNT}\s+{_UNIT}\s+from\s+(?:now|today)\b", _from_now),
    (rf"\b{_COUNT}\s+(?P<unit>week|month|year)s?\s+now\b", _ago),
    (rf"\bin\s+(?:about\s+|around\s+|just\s+|another\s+)?{_COUNT}\s+{_UNIT}\b(?!\s+(?:of|or|for|before|after))",
     _in_distance),
    (rf"\b(?:the|these)\s+(?P<which>past|last|next|coming|following)\s+{_COUNT}\s+(?P<unit>day|week|month|year)s?\b",
     _past_span),
    (r"\b(?:the|this)\s+(?P<which>past)\s+(?P<unit>week|month|year)\b", _past_span),
    (r"\b(?P<side>earlier|later)\s+(?:on\s+)?this\s+(?P<unit>week|month|year)\b", _rest_of_unit),
    (r"\b(?P<word>(?:the\s+)?day\s+before\s+yesterday|(?:the\s+)?day\s+after\s+tomorrow|the\s+other\s+day|yesterday"
     r"|today|tomorrow|tonight|last\s+night|this\s+(?:morning|afternoon|evening))\b", _day_word),
    (rf"\b{_WHICH}\s+(?P<unit>weekend|week|month|year)\b(?!\s+of\b)", _which_unit),
    (rf"\b{_WHICH}\s+{_WEEKDAY}(?![\w])", _which_weekday),
    (rf"\b(?P<preposition>on\s+)?(?<!black )(?<!good )(?<!cyber )(?<!super )(?<!palm ){_WEEKDAY}(?!\w)", _bare_weekday),
    (r"\b(?:the|over|during)\s+weekend\b(?!\s+of\b)", _bare_weekend),
    (rf"\b(?P<preposition>{_TIME_PREPOSITION})\s+(?P<core>{_PART_OF}{_MONTH})(?!\w)(?!\s+\d)", _in_month),
    (rf"\b(?:in|during|over|since|by)\s+(?:the\s+)?(?P<core>{_PART_OF}{_SEASON})\b(?!\s+(?:of|break))", _in_season),
    (r"\bon\s+the\s+(?P<day>\d{1,2})(?:st|nd|rd|th)(?=\s*(?:[.,;!?)]|$|(?:at|after|with|for|and|to|we|i|because)\b))",
     _day_of_month),
    (rf"\b(?:in|since|until|till|by|during|around|from|of|before|after|through|year|early|late|mid)[\s-]+(?P<core>{_YEAR})"
     r"(?!\s+(?:words|people|dollars|steps|miles|times|calories|characters)\b)(?!\w)", _in_year),
)  # fmt: skip
_CHINESE = _rules(
    (rf"{_HAN_YEAR}年(?:{_HAN_MONTH}(?:份)?(?:{_HAN_DAY})?|的?(?P<season>[春夏秋冬])[天季])?", _han_date),
    (rf"(?P<which>大前|(?<![年])前|去|今|明|后|後)年(?:的?{_HAN_MONTH}(?:份)?(?:{_HAN_DAY})?|的?(?P<season>[春夏秋冬])[天季])?",
     _han_date),
    (rf"(?P<which>上上|上|这|這|本|下下|下)(?:个|個)?月(?!亮|球|饼|季)(?:{_HAN_DAY})?", _han_month),
    (rf"(?P<which>上上|上|这|這|本|下下|下)(?:个|個)?{_HAN_WEEK}(?P<weekday>[一二三四五六日天末])?", _han_week),
    (rf"{_HAN_COUNT}(?P<unit>天|日|周|週|个?星期|個?星期|个?礼拜|個?禮拜|个月|個月|年)多?(?P<side>以前|之前|前|以后|之后|以後|之後|后|後)"
     r"(?![天年])", _han_distance),
    (r"前(?:几|幾|两|兩|些)[天日]", _han_few_days),
    (rf"(?<![\d.月一二三四五六七八九十]){_HAN_MONTH}(?:份)?(?:{_HAN_DAY})", _han_date),
    (rf"(?<=[在从從于於到是，。、]){_HAN_MONTH}(?:份)(?!\d)", _han_date),
    (rf"(?<![一二两兩三四五六七八九十几幾每个個\d])(?P<which>){_HAN_WEEK}(?P<weekday>[一二三四五六日天])(?![天年岁次])",
     _han_week),
    (r"(?<!先天)(?P<word>大前天|前天|昨天|昨日|今天|今日|明天|明日|大后天|大後天|后天|後天|前晚|昨晚|今晚|明晚|今早|今晨|明早)(?!性)",
     _han_day_word),
)  # fmt: skip

_BEFORE = re.compile(
    r"(?:\b(?P<habit>every|each|per)(?:\s+other)?\s+(?:on\s+)?"
    r"|\b(?P<part>early|mid|late|(?:the\s+)?(?:beginning|start|middle|end)\s+of)(?:\s+in|\s+the)?[\s-]+"
    r"|\b(?:the\s+)?(?P<nth>first|last)\s+(?P<unit>week|weekend)\s+(?:of|in)\s+"
    r"|\b(?:the\s+)?(?P<around>week|weekend)\s+of\s+"
    r"|(?P<han_habit>每)个?)$",
    re.IGNORECASE,
)
_INSIDE_PART = re.compile(r"\b(early|mid|late)[\s-]", re.IGNORECASE)
_AFTER = re.compile(
    r"\s+(?P<part>morning|afternoon|evening|night)\b|的?(?P<han>早上|早晨|上午|凌晨|中午|下午|晚上|夜里|傍晚)"
    r"|年?(?P<third>初|中旬|底|末)|s\b(?P<plural>)",
    re.IGNORECASE,
)
_THIRDS = {"early": 0, "beginning": 0, "start": 0, "初": 0, "mid": 1, "middle": 1, "中旬": 1, "late": 2, "end": 2}
_THIRDS |= {"底": 2, "末": 2}
_LONG = ("week", "month", "season", "year")


def resolve(text: str, said: datetime) -> list[TimeMention]:
    """The time expressions of a text, as intervals; the module's docstring says how each is read.

    Args:
        text: any text. About 20,000 chat turns without an expression take a second.
        said: when it was said; timezone-aware.

    Returns:
        Mentions in the order of the text; none overlap; ``start < end``. An expression that names no
        day of the calendar, such as "30 February", gives nothing.

    Raises:
        UsageError: when ``said`` has no zone.

    >>> from datetime import timezone
    >>> resolve("I went there yesterday.", datetime(2023, 5, 8, 13, 56, tzinfo=timezone.utc))[0].start.isoformat()
    '2023-05-07T00:00:00+00:00'
    """
    if said.tzinfo is None:
        raise UsageError("said", "must be a timezone-aware datetime", said)
    if _HINT.search(text.lower()) is None:
        return []
    wall, found, taken = said.replace(tzinfo=None, fold=0), list[TimeMention](), bytearray(len(text))
    for pattern, read in _ENGLISH if text.isascii() else _ENGLISH + _CHINESE:
        for match in pattern.finditer(text):
            start, end = match.span("core" if "core" in pattern.groupindex else 0)
            if any(taken[start:end]):
                continue
            try:
                period = read(_Place(match, wall))
                refined = None if period is None else _refined(text, start, end, period)
            except (ValueError, OverflowError):  # no such day, or outside the years 1 to 9999
                taken[start:end] = b"\1" * (end - start)
                continue
            if refined is None:
                continue
            period, start, end = refined
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(_mention(period, said, start, end))
    return sorted(found, key=lambda mention: mention.span)


def _mention(period: _Period, said: datetime, start: int, end: int) -> TimeMention:
    first, last = (at.replace(tzinfo=said.tzinfo) for at in (period.start, period.end))
    return TimeMention(first, last, (start, end), period.granularity)


def _refined(text: str, start: int, end: int, period: _Period) -> tuple[_Period, int, int] | None:
    """The period after the words around it: "early", "the week of", "morning". None for a habit."""
    after = _AFTER.match(text, end)
    if after is not None and after["plural"] is not None:
        return None
    if after is not None and period.granularity == "day" and (after["part"] or after["han"]):
        part = (after["part"] or after["han"][0]).lower()
        period, end = _hours(period.start, part), after.end()
    elif after is not None and after["third"] and period.granularity in ("month", "year"):
        period, end = _third(period, _THIRDS[after["third"]]), after.end()
    inside = _INSIDE_PART.search(text, start, end)
    if inside is not None and period.granularity in _LONG:
        return _third(period, _THIRDS[inside[1].lower()]), start, end
    before = _BEFORE.search(text, max(start - 40, 0), start)
    if before is None:
        return period, start, end
    if before["habit"] or before["han_habit"]:
        return None
    changed = _changed(before, period)
    return (period, start, end) if changed is None else (changed, before.start(), end)


def _changed(before: re.Match[str], period: _Period) -> _Period | None:
    """The period that the words before it make of it; None when they do not belong to it."""
    if before["part"] and period.granularity in _LONG:
        words = before["part"].lower().removeprefix("the").split()
        return _third(period, _THIRDS[words[0]])
    if before["nth"] and period.granularity in ("month", "year", "season"):
        if before["unit"].lower() == "weekend":
            first = _weekend(period.start)
            return first if before["nth"].lower() == "first" else _weekend(period.end - timedelta(2))
        week = timedelta(7)
        if before["nth"].lower() == "first":
            return _Period(period.start, period.start + week, "week")
        return _Period(period.end - week, period.end, "week")
    if before["around"] and period.granularity == "day":
        return _weekend(period.start) if before["around"].lower() == "weekend" else _week(period.start)
    return None


# -------------------------------------------------------------------------------------- in words
def describe(start: datetime, end: datetime, language: str = "en") -> str:
    """An interval in the words that a question about it would use, for a keyword or vector index.

    Args:
        start: as ``TimeMention`` has it.
        end: likewise.
        language: ``zh`` for Chinese, anything else for English.

    >>> describe(datetime(2023, 5, 7), datetime(2023, 5, 8))
    'Sunday 7 May 2023'
    >>> describe(datetime(2023, 5, 1), datetime(2023, 6, 1)), describe(datetime(2022, 1, 1), datetime(2023, 1, 1))
    ('May 2023', '2022')
    """
    last = end - timedelta(microseconds=1)
    is_whole_months = start.day == 1 and end.day == 1 and start.hour == end.hour == 0
    if is_whole_months and (start.month, end.month, end.year - start.year) == (1, 1, 1):
        return f"{start.year}年" if language == "zh" else str(start.year)
    names = [_named(at, is_whole_months, language) for at in (start, last)]
    joint = "至" if language == "zh" else " to "
    return names[0] if names[0] == names[1] else joint.join(names)


def _named(day: datetime, is_month: bool, language: str) -> str:
    if language == "zh":
        month = f"{day.year}年{day.month}月"
        return month if is_month else f"{month}{day.day}日星期{'一二三四五六日'[day.weekday()]}"
    month = f"{MONTHS[day.month - 1].capitalize()} {day.year}"
    return month if is_month else f"{WEEKDAYS[day.weekday()].capitalize()} {day.day} {month}"
