"""Every instant is in exactly one period, and anchors past a month's end clamp and come back."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.periods import (
    Anchor,
    Period,
    anchor_for,
    end_of_day,
    midnight,
    next_edge,
    nominal_period,
    period_from,
    to_the_second,
    trial_end,
    utc_days,
)

INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds must be naive
ANCHORS = st.builds(Anchor, st.integers(1, 12), st.integers(1, 31))
INTERVALS = st.sampled_from([1, 12])


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_thirty_first_clamps_to_february_and_comes_back() -> None:
    anchor, edge, seen = Anchor(1, 31), at("2027-01-31"), []
    for _ in range(4):
        edge = next_edge(edge, anchor)
        seen.append(edge.date().isoformat())
    assert seen == ["2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31"]


def test_the_twenty_ninth_of_february_clamps_and_comes_back_in_leap_years() -> None:
    anchor, edge, seen = Anchor(2, 29), at("2024-02-29"), []
    for _ in range(4):
        edge = next_edge(edge, anchor, 12)
        seen.append(edge.date().isoformat())
    assert seen == ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]


@pytest.mark.parametrize("day", range(1, 32))
def test_a_hundred_years_of_months_meet_without_a_gap(day: int) -> None:
    anchor, edge = Anchor(3, day), next_edge(at("2000-01-01"), Anchor(3, day))
    months = {(edge.year, edge.month)}
    for _ in range(1199):
        following = next_edge(edge, anchor)
        assert nominal_period(edge, anchor) == Period(edge, following)
        assert nominal_period(following - timedelta(microseconds=1), anchor) == Period(edge, following)
        month_end = (following + timedelta(days=1)).day == 1
        assert following.day == day or (following.day < day and month_end)
        edge = following
        months.add((edge.year, edge.month))
    assert len(months) == 1200


@given(INSTANTS, ANCHORS, INTERVALS)
def test_every_instant_is_in_exactly_one_period(instant: datetime, anchor: Anchor, months: int) -> None:
    period = nominal_period(instant, anchor, months)
    assert period.holds(instant)
    assert period.start == midnight(period.start.date())
    before = nominal_period(period.start - timedelta(microseconds=1), anchor, months)
    after = nominal_period(period.end, anchor, months)
    assert (before.end, after.start) == (period.start, period.end)
    assert not before.holds(instant)
    assert not after.holds(instant)


@given(INSTANTS, ANCHORS)
def test_months_tile_years(instant: datetime, anchor: Anchor) -> None:
    year = nominal_period(instant, anchor, 12)
    edges, edge = 0, year.start
    while edge < year.end:
        edge = next_edge(edge, anchor)
        edges += 1
    assert (edge, edges) == (year.end, 12)


@given(INSTANTS, ANCHORS)
def test_consecutive_periods_share_no_day(instant: datetime, anchor: Anchor) -> None:
    first = period_from(instant, anchor)
    second = period_from(first.end, anchor)
    days = [*utc_days(first), *utc_days(second)]
    assert len(set(days)) == len(days)
    assert days[0] == instant.date()
    assert days[-1] == second.end.date() - timedelta(days=1)


def test_a_cancellation_in_the_middle_of_a_day_keeps_that_day() -> None:
    assert list(utc_days(Period(at("2026-01-01"), at("2026-01-02T00:00:01")))) == [date(2026, 1, 1), date(2026, 1, 2)]


def test_calendar_plans_begin_on_the_first_and_anniversaries_on_their_day() -> None:
    assert anchor_for("calendar", at("2026-03-17T10:00")) == Anchor(3, 1)
    assert anchor_for("anniversary", at("2024-02-29T10:00")) == Anchor(2, 29)


def test_a_trial_is_never_short() -> None:
    assert trial_end(at("2026-03-01T12:00"), 14) == at("2026-03-16")
    assert trial_end(at("2026-03-01"), 14) == at("2026-03-15")
    assert end_of_day(at("2026-03-01")) == at("2026-03-01")


def test_a_first_start_has_no_fraction_of_a_second() -> None:
    assert to_the_second(at("2026-03-01T12:00:00.999999")) == at("2026-03-01T12:00")


@pytest.mark.parametrize("start", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))])  # noqa: DTZ001 - what is refused
def test_a_naive_or_foreign_time_is_refused(start: datetime) -> None:
    with pytest.raises(ValueError, match="aware and UTC"):
        Period(start, at("2026-02-01"))


def test_a_period_is_never_empty() -> None:
    with pytest.raises(ValueError, match="ends after it starts"):
        Period(at("2026-01-01"), at("2026-01-01"))


@pytest.mark.parametrize(("month", "day"), [(0, 1), (13, 1), (1, 0), (1, 32)])
def test_an_anchor_is_a_day_of_a_year(month: int, day: int) -> None:
    with pytest.raises(ValueError, match="not a day"):
        Anchor(month, day)
