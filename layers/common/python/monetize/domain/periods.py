"""Which stretch of time: half-open UTC periods between anchored midnights."""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

type AnchorMode = Literal["calendar", "anniversary"]

MONTH: Final = 1
YEAR: Final = 12
_INSTANT: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Period:
    """`[start, end)`, aware and UTC, never empty."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is not UTC or self.end.tzinfo is not UTC:
            # A JSON decoder hands over an equal offset under another name; anything else is refused.
            object.__setattr__(self, "start", utc(self.start))
            object.__setattr__(self, "end", utc(self.end))
        if self.start >= self.end:
            raise ValueError(f"a period ends after it starts: {self.start} {self.end}")

    @property
    def seconds(self) -> int:
        """Whole seconds; billing times have no fractions (`to_the_second`)."""
        return (self.end - self.start) // timedelta(seconds=1)

    def holds(self, instant: datetime) -> bool:
        """Whether the instant is inside; the end is not."""
        return self.start <= instant < self.end


@dataclass(frozen=True, slots=True)
class Anchor:
    """The day (1 to 31) periods begin on, and the month (1 to 12) years begin in. Days past a month's end clamp."""

    month: int = 1
    day: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.month <= YEAR and 1 <= self.day <= 31):
            raise ValueError(f"not a day of a year: {self.month}-{self.day}")


def utc(instant: datetime) -> datetime:
    """The same instant as aware UTC. A naive time or another offset is a programming error: ValueError."""
    if instant.tzinfo is None or instant.utcoffset() != timedelta(0):
        raise ValueError(f"times are aware and UTC: {instant!r}")
    return instant.replace(tzinfo=UTC)


def to_the_second(instant: datetime) -> datetime:
    """The instant without its fraction of a second: what a first start and a cancellation are recorded as."""
    return utc(instant).replace(microsecond=0)


def midnight(day: date) -> datetime:
    """The UTC midnight a day begins with."""
    return datetime.combine(day, time(), tzinfo=UTC)


def anchor_for(mode: AnchorMode, first_start: datetime) -> Anchor:
    """The anchor of a subscription: the first of the month, or the day it started on. Years begin in its month."""
    return Anchor(first_start.month, 1 if mode == "calendar" else first_start.day)


def next_edge(after: datetime, anchor: Anchor, months: int = MONTH) -> datetime:
    """The first anchored UTC midnight strictly after `after`: 31 January, 28 February, 31 March."""
    at = utc(after)
    index = at.year * YEAR + at.month - 1
    index += (anchor.month - 1 - index) % months
    edge = _edge(index, anchor)
    return edge if edge > at else _edge(index + months, anchor)


def nominal_period(instant: datetime, anchor: Anchor, months: int = MONTH) -> Period:
    """The full anchored period that holds the instant: what a flat fee is the price of."""
    at = utc(instant)
    end = next_edge(at, anchor, months)
    return Period(_edge(end.year * YEAR + end.month - 1 - months, anchor), end)


def period_from(start: datetime, anchor: Anchor, months: int = MONTH) -> Period:
    """The period that begins at `start` and ends at the next edge: short when it begins between two edges."""
    return Period(utc(start), next_edge(start, anchor, months))


def trial_end(start: datetime, days: int) -> datetime:
    """The UTC midnight a trial of whole days ends at, never short: a trial begun at noon gets the rest of the day."""
    return end_of_day(utc(start) + days * _DAY)


def end_of_day(instant: datetime) -> datetime:
    """The first UTC midnight at or after the instant."""
    begun = midnight(instant.date())
    return begun if begun == instant else begun + _DAY


def utc_days(period: Period) -> Iterator[date]:
    """Every UTC day a period touches, in order. Consecutive periods that meet at a midnight share none."""
    day, last = period.start.date(), (period.end - _INSTANT).date()
    while day <= last:
        yield day
        day += _DAY


def _edge(index: int, anchor: Anchor) -> datetime:
    """The anchored midnight in the month numbered `year * 12 + month - 1`."""
    year, month = divmod(index, YEAR)
    last = calendar.monthrange(year, month + 1)[1]
    return datetime(year, month + 1, min(anchor.day, last), tzinfo=UTC)
