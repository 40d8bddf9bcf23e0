"""Time expressions: a table of readings, and laws that hold for any text."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_integrations.core import temporal
from lightmem_integrations.core.temporal import describe, resolve
from lightmem_integrations.errors import UsageError

SAID = datetime(2023, 5, 10, 14, 30, tzinfo=timezone.utc)  # a Wednesday
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=120)

# text | the interval, as "start end" with the end left out of it | granularity. Hours after "T".
ENGLISH = """
I went there yesterday.                      | 2023-05-09 2023-05-10 | day
Today was fine                               | 2023-05-10 2023-05-11 | day
see you tomorrow                             | 2023-05-11 2023-05-12 | day
we meet tomorrow night                       | 2023-05-11T18 2023-05-12 | part
dinner tonight                               | 2023-05-10T18 2023-05-11 | part
Last night was amazing!                      | 2023-05-09T18 2023-05-10 | part
I ran this morning                           | 2023-05-10T06 2023-05-10T12 | part
yesterday morning                            | 2023-05-09T06 2023-05-09T12 | part
the day before yesterday                     | 2023-05-08 2023-05-09 | day
the day after tomorrow                       | 2023-05-12 2023-05-13 | day
the other day I saw a fox                    | 2023-05-03 2023-05-10 | span
last Friday I met her                        | 2023-05-05 2023-05-06 | day
last Wednesday                               | 2023-05-03 2023-05-04 | day
last Thursday                                | 2023-05-04 2023-05-05 | day
Last Fri we danced                           | 2023-05-05 2023-05-06 | day
joined a group last Tues.                    | 2023-05-09 2023-05-10 | day
this Friday                                  | 2023-05-12 2023-05-13 | day
next Friday                                  | 2023-05-12 2023-05-13 | day
next Wednesday                               | 2023-05-17 2023-05-18 | day
this coming Monday                           | 2023-05-15 2023-05-16 | day
On Friday I got great news                   | 2023-05-05 2023-05-06 | day
I will call you on Friday                    | 2023-05-12 2023-05-13 | day
The talk is on Monday                        | 2023-05-15 2023-05-16 | day
We went home Sunday evening                  | 2023-05-07T18 2023-05-08 | part
last Friday night                            | 2023-05-05T18 2023-05-06 | part
two Fridays ago                              | 2023-04-28 2023-04-29 | day
last week                                    | 2023-05-01 2023-05-08 | week
this week                                    | 2023-05-08 2023-05-15 | week
next week                                    | 2023-05-15 2023-05-22 | week
early next week                              | 2023-05-15 2023-05-17 | span
earlier this week                            | 2023-05-08 2023-05-10 | span
later this month                             | 2023-05-10 2023-06-01 | span
this past week                               | 2023-05-03 2023-05-11 | span
last month                                   | 2023-04-01 2023-05-01 | month
this month                                   | 2023-05-01 2023-06-01 | month
next month                                   | 2023-06-01 2023-07-01 | month
the end of this month                        | 2023-05-22 2023-06-01 | span
last year                                    | 2022-01-01 2023-01-01 | year
this year                                    | 2023-01-01 2024-01-01 | year
next year                                    | 2024-01-01 2025-01-01 | year
last weekend                                 | 2023-05-06 2023-05-08 | weekend
this past weekend                            | 2023-05-06 2023-05-08 | weekend
this weekend                                 | 2023-05-13 2023-05-15 | weekend
next weekend                                 | 2023-05-20 2023-05-22 | weekend
We hiked over the weekend                    | 2023-05-06 2023-05-08 | weekend
We will hike over the weekend                | 2023-05-13 2023-05-15 | weekend
two weekends ago                             | 2023-04-29 2023-05-01 | weekend
two days ago                                 | 2023-05-08 2023-05-09 | day
two weeks ago                                | 2023-04-24 2023-05-01 | week
a few days ago                               | 2023-05-05 2023-05-09 | span
a couple of months ago                       | 2023-03-01 2023-04-01 | month
several years ago                            | 2016-01-01 2021-01-01 | span
a year ago                                   | 2022-01-01 2023-01-01 | year
ten years back                               | 2013-01-01 2014-01-01 | year
two decades ago                              | 2003-01-01 2004-01-01 | year
three hours ago                              | 2023-05-10T11 2023-05-10T12 | hour
in three months                              | 2023-08-01 2023-09-01 | month
we leave in two weeks                        | 2023-05-22 2023-05-29 | week
3 days from now                              | 2023-05-13 2023-05-14 | day
the past two weeks                           | 2023-04-26 2023-05-11 | span
the last few years                           | 2018-05-10 2023-05-11 | span
the next 3 days                              | 2023-05-10 2023-05-14 | span
Seven years now, and I still paint           | 2016-01-01 2017-01-01 | year
last May                                     | 2022-05-01 2022-06-01 | month
last April                                   | 2023-04-01 2023-05-01 | month
next May                                     | 2024-05-01 2024-06-01 | month
in May                                       | 2023-05-01 2023-06-01 | month
I moved here in August                       | 2022-08-01 2022-09-01 | month
I'll move there in March                     | 2024-03-01 2024-04-01 | month
in late September                            | 2023-09-21 2023-10-01 | span
on 7 May 2023                                | 2023-05-07 2023-05-08 | day
May 7                                        | 2023-05-07 2023-05-08 | day
the 7th of May                               | 2023-05-07 2023-05-08 | day
May 7th, 2021                                | 2021-05-07 2021-05-08 | day
December 28                                  | 2022-12-28 2022-12-29 | day
Sept. 3rd                                    | 2023-09-03 2023-09-04 | day
June 5-7, 2023                               | 2023-06-05 2023-06-08 | span
2023-05-07                                   | 2023-05-07 2023-05-08 | day
2023/05/20                                   | 2023-05-20 2023-05-21 | day
25/12/2023                                   | 2023-12-25 2023-12-26 | day
12/25/2023                                   | 2023-12-25 2023-12-26 | day
8/8/2023                                     | 2023-08-08 2023-08-09 | day
May 2021                                     | 2021-05-01 2021-06-01 | month
early May 2021                               | 2021-05-01 2021-05-11 | span
since 2016                                   | 2016-01-01 2017-01-01 | year
mid-2019                                     | 2019-05-03 2019-09-01 | span
I met them on the 15th.                      | 2023-04-15 2023-04-16 | day
the week of May 7                            | 2023-05-01 2023-05-08 | week
the weekend of 3 June 2023                   | 2023-06-03 2023-06-05 | weekend
the first week of May                        | 2023-05-01 2023-05-08 | week
the last weekend of July 2022                | 2022-07-30 2022-08-01 | weekend
last summer                                  | 2022-06-01 2022-09-01 | season
this summer                                  | 2023-06-01 2023-09-01 | season
next spring                                  | 2024-03-01 2024-06-01 | season
the summer of 2021                           | 2021-06-01 2021-09-01 | season
winter 2020                                  | 2020-12-01 2021-03-01 | season
"""
CHINESE = """
昨天我去了公园        | 2023-05-09 2023-05-10 | day
今天                  | 2023-05-10 2023-05-11 | day
明天晚上吃饭          | 2023-05-11T18 2023-05-12 | part
前天                  | 2023-05-08 2023-05-09 | day
后天                  | 2023-05-12 2023-05-13 | day
大前天                | 2023-05-07 2023-05-08 | day
大後天                | 2023-05-13 2023-05-14 | day
昨晚                  | 2023-05-09T18 2023-05-10 | part
今早                  | 2023-05-10T06 2023-05-10T12 | part
上周五                | 2023-05-05 2023-05-06 | day
上上周五              | 2023-04-28 2023-04-29 | day
这周三                | 2023-05-10 2023-05-11 | day
下周一                | 2023-05-15 2023-05-16 | day
下个星期天            | 2023-05-21 2023-05-22 | day
上周末                | 2023-05-06 2023-05-08 | weekend
上禮拜                | 2023-05-01 2023-05-08 | week
我星期五要考试        | 2023-05-12 2023-05-13 | day
上个月                | 2023-04-01 2023-05-01 | month
上个月5号             | 2023-04-05 2023-04-06 | day
上个月底              | 2023-04-21 2023-05-01 | span
去年                  | 2022-01-01 2023-01-01 | year
明年                  | 2024-01-01 2025-01-01 | year
前年                  | 2021-01-01 2022-01-01 | year
去年夏天              | 2022-06-01 2022-09-01 | season
去年5月               | 2022-05-01 2022-06-01 | month
今年三月五号          | 2023-03-05 2023-03-06 | day
去年年底              | 2022-09-01 2023-01-01 | span
三天前                | 2023-05-07 2023-05-08 | day
两周前                | 2023-04-24 2023-05-01 | week
三个月后              | 2023-08-01 2023-09-01 | month
十二年前              | 2011-01-01 2012-01-01 | year
半年前                | 2022-11-01 2022-12-01 | month
几天前                | 2023-05-05 2023-05-09 | span
前几天                | 2023-05-05 2023-05-09 | span
5月7日                | 2023-05-07 2023-05-08 | day
十二月二十五日        | 2022-12-25 2022-12-26 | day
2023年5月7日          | 2023-05-07 2023-05-08 | day
二〇二二年            | 2022-01-01 2023-01-01 | year
2020年初              | 2020-01-01 2020-05-02 | span
"""
NOTHING = [
    "this may be", "you may 2 times", "we march on", "march 5 miles a day", "wait a second", "we last sat down",
    "the sun is out", "every Friday", "on Fridays", "each Monday", "Black Friday", "every summer", "on the 4th floor",
    "5/7/2023", "30 February 2023", "2023-02-30", "99999 years ago", "9999 years ago", "two days later",
    "I lost it in three months", "done in one day", "in 2000 words", "one day", "these days", "version 2.2016.1",
    "I can't decide", "august company", "他姓周，一周一次", "每周一", "每天", "后天性疾病", "上月亮", "",
]  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}:00:00" if "T" in text else text).replace(tzinfo=timezone.utc)


def rows(table: str) -> list[tuple[str, str, str]]:
    return [tuple(cell.strip() for cell in line.split("|")) for line in table.strip().splitlines()]  # type: ignore[misc]


CASES = rows(ENGLISH) + rows(CHINESE)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 80


@pytest.mark.parametrize(("text", "interval", "granularity"), CASES)
def test_reading(text: str, interval: str, granularity: str) -> None:
    [mention] = resolve(text, SAID)
    start, end = interval.split()
    assert (mention.start, mention.end, mention.granularity) == (at(start), at(end), granularity)


@pytest.mark.parametrize("text", NOTHING)
def test_no_expression(text: str) -> None:
    assert resolve(text, SAID) == []


@pytest.mark.parametrize(
    ("said", "text", "start"),
    [
        ("2023-05-12", "last Friday", "2023-05-05"),  # said on a Friday: never today
        ("2023-05-12", "next Friday", "2023-05-19"),
        ("2023-05-14", "last weekend", "2023-05-06"),  # said on a Sunday: the week before
        ("2023-05-14", "this weekend", "2023-05-13"),
        ("2023-05-14", "We hiked over the weekend", "2023-05-13"),
        ("2023-05-14", "上周日", "2023-05-07"),
        ("2023-01-01", "last month", "2022-12-01"),
        ("2023-12-31", "next month", "2024-01-01"),
        ("2023-12-26", "last summer", "2023-06-01"),
        ("2023-07-10", "last summer", "2022-06-01"),
        ("2024-01-02", "this winter", "2023-12-01"),
        ("2024-02-29", "last year", "2023-01-01"),
        ("2024-01-07", "the party was on December 30", "2023-12-30"),
        ("2023-12-20", "the party will be on January 3", "2024-01-03"),
        ("2024-03-31", "the past month", "2024-02-29"),
    ],
)
def test_edges_of_the_calendar(said: str, text: str, start: str) -> None:
    assert [m.start for m in resolve(text, at(said))] == [at(start)]


def test_several_mentions_keep_their_order_and_offsets() -> None:
    text = "Yesterday we talked about last May; on 3 June 2023 we leave. 明天见"
    assert [text[slice(*m.span)] for m in resolve(text, SAID)] == ["Yesterday", "last May", "3 June 2023", "明天"]


def test_days_are_those_of_the_speakers_zone() -> None:
    said = datetime(2023, 5, 10, 0, 30, tzinfo=ZoneInfo("Asia/Shanghai"))  # still 9 May in UTC
    [mention] = resolve("yesterday", said)
    assert mention.start.isoformat() == "2023-05-09T00:00:00+08:00"


def test_a_day_of_25_hours_is_one_day() -> None:
    said = datetime(2023, 10, 30, 9, tzinfo=ZoneInfo("Europe/Berlin"))
    [mention] = resolve("yesterday", said)
    assert (mention.start.utcoffset(), mention.end.utcoffset()) == (timedelta(hours=2), timedelta(hours=1))


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="said"):
        resolve("yesterday", datetime(2023, 5, 10))


PIECES = st.sampled_from([text for text, _, _ in CASES] + NOTHING + ["I was", "will", "early", "the end of", " ", "每"])
WHEN = st.datetimes(timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=-11)), ZoneInfo("Asia/Tokyo")]))


@given(st.lists(PIECES | ANY_TEXT, max_size=6).map(" ".join), WHEN)
def test_laws(text: str, said: datetime) -> None:
    found = resolve(text, said)
    assert found == resolve(text, said)
    for mention in found:
        assert mention.start < mention.end
        assert mention.start.tzinfo is mention.end.tzinfo is said.tzinfo
        assert 0 <= mention.span[0] < mention.span[1] <= len(text)
        assert describe(mention.start, mention.end)
    assert all(a.span[1] <= b.span[0] for a, b in pairwise(found))


@given(st.lists(PIECES, max_size=4).map(" ".join))
def test_the_quick_look_loses_nothing(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(temporal, "_HINT", temporal.re.compile(""))
        every = resolve(text, SAID)
    assert resolve(text, SAID) == every


@pytest.mark.parametrize(
    "piece", ["in ", "1", "2023-", "a few ", "一", "last ", "a ", "early ", "May ", "\n", "on the 1"]
)
def test_long_texts_take_linear_time(piece: str) -> None:
    started = time.process_time()
    resolve("yesterday " + piece * (200_000 // len(piece)), SAID)
    assert time.process_time() - started < 5


def test_texts_without_expressions_cost_little() -> None:
    text = "I totally agree, Melanie. Taking care of ourselves is so important, even if it's not easy. You try!"
    assert resolve(text, SAID) == []
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(2_000):
            resolve(text, SAID)
        best = min(best, time.process_time() - started)
    assert 2_000 / best > 20_000


@pytest.mark.parametrize(
    ("start", "end", "language", "words"),
    [
        ("2023-05-07", "2023-05-08", "en", "Sunday 7 May 2023"),
        ("2023-05-07T18", "2023-05-08", "en", "Sunday 7 May 2023"),
        ("2023-05-01", "2023-06-01", "en", "May 2023"),
        ("2022-01-01", "2023-01-01", "en", "2022"),
        ("2022-12-01", "2023-03-01", "en", "December 2022 to February 2023"),
        ("2023-05-06", "2023-05-08", "en", "Saturday 6 May 2023 to Sunday 7 May 2023"),
        ("2023-05-07", "2023-05-08", "zh", "2023年5月7日星期日"),
        ("2023-05-01", "2023-06-01", "zh", "2023年5月"),
        ("2022-01-01", "2023-01-01", "zh", "2022年"),
    ],
)
def test_describe(start: str, end: str, language: str, words: str) -> None:
    assert describe(at(start), at(end), language) == words
