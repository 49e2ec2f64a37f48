"""When a subscription is billed, and what is in force when: pure functions of its spans."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.periods import Period
from monetize.domain.subscriptions import (
    WRITTEN,
    Change,
    Subscription,
    advance_period,
    arrears_period,
    begun,
    bill_due_at,
    billed,
    billing_periods,
    due_at,
    first_edge,
    following_edge,
    from_today,
    in_force,
    paused_from,
    resumed_from,
    retiered,
    running_period,
    scheduled,
    segments,
    status_at,
    tier_at,
    timeline,
)

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def day(month: int, of_month: int, hour: int = 0, year: int = 2026) -> datetime:
    return datetime(year, month, of_month, hour, tzinfo=UTC)


def paying(
    start: datetime = START, *, advance: bool = True, trial_days: int = 0, anchor: str = "calendar"
) -> Subscription:
    raw = Subscription(
        id="sub_1",
        publisher="acme",
        subscriber="dev",
        application="app_1",
        product="api_1",
        apis=("api_1",),
        tier="gold",
        status="active",
        plan="plan_gold",
        version=1,
        currency="usd",
        created_at=start,
    )
    return scheduled(begun(raw, start, advance=advance, trial_days=trial_days, anchor=anchor), 24)  # type: ignore[arg-type] # a literal


def edges(subscription: Subscription, count: int) -> list[datetime]:
    found = []
    for _ in range(count):
        if subscription.next_edge is None:
            break
        found.append(subscription.next_edge)
        subscription = billed(subscription, subscription.next_edge, 24)
    return found


def test_what_is_paid_in_advance_opens_with_a_bill_and_goes_on_by_the_calendar() -> None:
    assert edges(paying(), 3) == [START, day(2, 1), day(3, 1)]


def test_what_is_paid_afterwards_is_first_billed_when_its_period_ends() -> None:
    assert edges(paying(advance=False), 2) == [day(2, 1), day(3, 1)]


def test_an_anniversary_on_the_31st_clamps_and_comes_back() -> None:
    dates = edges(paying(anchor="anniversary"), 4)
    assert dates == [START, day(2, 28), day(3, 31), day(4, 30)]


def test_a_leap_days_anniversary_clamps_in_common_years_and_comes_back() -> None:
    start = datetime(2028, 2, 29, 12, tzinfo=UTC)
    dates = edges(paying(start, anchor="anniversary", advance=False), 13)
    assert dates[0] == day(3, 29, year=2028)
    assert dates[11] == day(2, 28, year=2029)
    assert dates[12] == day(3, 29, year=2029)


def test_a_trial_is_never_short_and_the_first_bill_stands_at_its_end() -> None:
    subscription = paying(trial_days=14)
    assert first_edge(subscription) == day(2, 15)
    assert [span.kind for span in subscription.spans] == ["trial", "paid"]
    assert arrears_period(subscription, day(2, 15)) is None


def test_the_opening_bill_is_due_at_once_and_later_ones_after_the_grace() -> None:
    subscription = paying()
    assert subscription.due_at == START
    later = billed(subscription, START, 24)
    assert later.next_edge == day(2, 1)
    assert later.due_at == day(2, 2)


def test_an_exact_cancellation_is_billed_when_its_day_and_the_grace_are_over() -> None:
    gone = replace(billed(paying(), START, 0), status="ended", ended_at=day(2, 10, 15))
    gone = billed(scheduled(gone, 0), day(2, 1), 0)
    assert gone.next_edge == day(2, 10, 15)
    assert bill_due_at(gone, day(2, 10, 15), 0) == day(2, 11) + WRITTEN
    assert bill_due_at(gone, day(2, 10, 15), 24) == day(2, 11, 15) + WRITTEN
    assert billed(gone, day(2, 10, 15), 0).next_edge is None


def test_a_last_bill_with_nothing_metered_still_waits_for_late_usage() -> None:
    paused = billed(billed(paused_from(billed(paying(), START, 24), day(2, 11)), day(2, 1), 24), day(2, 11), 24)
    gone = scheduled(replace(paused, status="ended", ended_at=day(2, 20, 9)), 24)
    assert (gone.next_edge, gone.due_at) == (day(2, 20, 9), day(2, 21, 9) + WRITTEN)


def test_a_cancellation_in_the_trial_is_never_billed() -> None:
    assert scheduled(replace(paying(trial_days=14), cancel_at=day(2, 15)), 24).next_edge is None
    assert scheduled(replace(paying(trial_days=14), cancel_at=day(2, 16)), 24).next_edge == day(2, 15)


def test_what_was_ever_billed_gets_a_last_bill_even_when_it_ends_paused() -> None:
    paused = billed(billed(paused_from(billed(paying(), START, 24), day(2, 11)), day(2, 1), 24), day(2, 11), 24)
    assert paused.next_edge is None
    assert scheduled(replace(paused, ended_at=day(3, 5, 4)), 24).next_edge == day(3, 5, 4)


def test_a_free_subscription_is_never_due() -> None:
    free = begun(replace(paying(), plan=None, version=None), START, advance=False, trial_days=0, anchor="calendar")
    assert scheduled(free, 24).next_edge is None
    assert due_at(scheduled(free, 24), 24) is None


def test_an_upgrade_now_ends_the_period_at_todays_midnight() -> None:
    running = billed(billed(paying(), START, 24), day(2, 1), 24)
    at = from_today(running, day(2, 10, 17))
    assert at == day(2, 10)
    spans = retiered(running.spans, at, tier="platinum", plan="plan_platinum", version=1, advance=True)
    after = scheduled(replace(running, spans=spans), 24)
    assert after.next_edge == day(2, 10)
    assert arrears_period(after, day(2, 10)) == Period(day(2, 1), day(2, 10))
    assert advance_period(after, day(2, 10)) == Period(day(2, 10), day(3, 1))


def test_what_costs_more_begins_tomorrow_on_the_first_day_and_on_a_day_that_was_billed() -> None:
    assert from_today(paying(), START + timedelta(hours=3)) == day(2, 1)
    assert from_today(billed(paying(), day(2, 1), 0), day(2, 1, 8)) == day(2, 2)
    assert from_today(billed(paying(), START, 0), day(2, 1, 8)) == day(2, 1)


def test_two_changes_on_one_day_leave_one_span() -> None:
    running = billed(paying(), START, 24)
    once = retiered(running.spans, day(2, 10), tier="b", plan="p_b", version=1, advance=True)
    twice = retiered(once, day(2, 10), tier="c", plan="p_c", version=1, advance=True)
    assert [(span.start, span.tier) for span in twice] == [(START, "gold"), (day(2, 10), "c")]


def test_a_change_that_waits_holds_from_its_instant_before_a_worker_sees_it() -> None:
    waiting = replace(paying(), change=Change(at=day(3, 1), tier="silver", plan="plan_silver", version=2, advance=True))
    assert tier_at(waiting, day(2, 28, 23)) == ("gold", "plan_gold", 1)
    assert tier_at(waiting, day(3, 1)) == ("silver", "plan_silver", 2)
    span = in_force(waiting, day(3, 1))
    assert span is not None
    assert span.tier == "silver"


def test_a_cancellation_that_came_due_holds_before_a_worker_sees_it() -> None:
    leaving = replace(paying(), cancel_at=day(3, 1))
    assert status_at(leaving, day(2, 28)) == "active"
    assert status_at(leaving, day(3, 1)) == "ended"


def test_a_change_in_a_trial_keeps_the_trials_end() -> None:
    spans = retiered(paying(trial_days=14).spans, day(2, 3), tier="b", plan="p_b", version=1, advance=True)
    assert [(span.start, span.kind, span.tier) for span in spans] == [
        (START, "trial", "gold"),
        (day(2, 3), "trial", "b"),
        (day(2, 15), "paid", "b"),
    ]


def test_from_paid_to_free_ends_with_a_bill_and_then_none() -> None:
    running = billed(billed(paying(), START, 24), day(2, 1), 24)
    after = scheduled(replace(running, change=Change(at=day(2, 11), tier="free")), 24)
    assert edges(after, 9) == [day(2, 11)]


def test_a_pause_ends_the_period_and_a_resume_begins_one() -> None:
    running = billed(billed(paying(), START, 24), day(2, 1), 24)
    paused = paused_from(running, day(2, 11))
    again = scheduled(resumed_from(paused, day(2, 20)), 24)
    assert edges(again, 3) == [day(2, 11), day(2, 20), day(3, 1)]
    kinds = [(each.span.kind, each.start) for each in segments(again, day(2, 1), day(3, 1))]
    assert kinds == [("paid", day(2, 1)), ("paused", day(2, 11)), ("paid", day(2, 20))]
    assert running_period(again, day(2, 15)) is None


def test_a_pause_that_had_not_begun_never_was() -> None:
    running = billed(paying(), START, 24)
    assert resumed_from(paused_from(running, day(2, 11)), day(2, 11)).spans == running.spans


def test_running_period_is_bounded_by_the_end_that_is_known() -> None:
    leaving = replace(billed(paying(), START, 24), cancel_at=day(2, 20))
    assert running_period(leaving, day(2, 10)) == Period(day(2, 1), day(2, 20))


@pytest.mark.parametrize("advance", [True, False])
def test_unbilled_periods_follow_each_other_without_a_gap(advance: bool) -> None:
    found = billing_periods(paying(advance=advance), day(5, 10))
    assert found[0].start == START
    assert all(one.end == two.start for one, two in pairwise(found))
    assert found[-1].holds(day(5, 10))


def test_an_upgrade_in_the_first_period_after_a_free_time_ends_that_period() -> None:
    moves = [(10, "free"), (15, "paid"), (5, "up")]  # free from the 11th, paid from the 26th, more from the 31st
    changed = lived(datetime(2026, 1, 1, 9, 30, tzinfo=UTC), False, 0, "calendar", moves)
    assert edges(changed, 3) == [day(1, 11), day(1, 31), day(2, 1)]


instants = st.datetimes(datetime(2024, 1, 1), datetime(2029, 12, 31)).map(  # noqa: DTZ001 hypothesis wants naive bounds
    lambda at: at.replace(tzinfo=UTC, microsecond=0)
)
moves = st.lists(st.tuples(st.integers(1, 70), st.sampled_from(["up", "free", "pause", "resume", "paid"])), max_size=6)


def lived(start: datetime, advance: bool, trial: int, anchor: str, what: list[tuple[int, str]]) -> Subscription:
    """A subscription to which these things happened, so many days after each other."""
    subscription = paying(start, advance=advance, trial_days=trial, anchor=anchor)
    at = start
    for days, move in what:
        at = at + timedelta(days=days)
        midnight = at.replace(hour=0, minute=0, second=0)
        last = subscription.spans[-1]
        if midnight <= last.start:
            continue
        if move == "pause" and last.kind != "paused":
            subscription = paused_from(subscription, midnight)
        elif move == "resume" and last.kind == "paused":
            subscription = resumed_from(subscription, midnight)
        elif move in ("up", "paid", "free") and last.kind != "paused":
            plan = None if move == "free" else f"plan_{move}"
            spans = retiered(subscription.spans, midnight, tier=move, plan=plan, version=1, advance=advance)
            subscription = replace(subscription, spans=spans)
    return scheduled(subscription, 24)


@given(instants, st.booleans(), st.sampled_from([0, 3]), st.sampled_from(["calendar", "anniversary"]), moves)
def test_every_paid_instant_is_in_exactly_one_bill(
    start: datetime, advance: bool, trial: int, anchor: str, what: list[tuple[int, str]]
) -> None:
    subscription = replace(lived(start, advance, trial, anchor, what), ended_at=start + timedelta(days=500, seconds=7))
    subscription = scheduled(subscription, 24)
    paid = timedelta()
    before: datetime | None = None
    while (edge := subscription.next_edge) is not None:
        assert before is None or edge > before
        arrears = arrears_period(subscription, edge)
        if arrears is not None:
            parts = segments(subscription, arrears.start, arrears.end)
            paid += sum((each.end - each.start for each in parts if each.span.paid), timedelta())
            versions = {(each.span.plan, each.span.version) for each in parts if each.span.paid}
            assert len(versions) <= 1, "a bill's period has one price"
        before, subscription = edge, billed(subscription, edge, 24)
    everything = segments(subscription, start, start + timedelta(days=1000))
    assert paid == sum((each.end - each.start for each in everything if each.span.paid), timedelta())


@given(instants, st.booleans(), st.sampled_from([0, 3]), st.sampled_from(["calendar", "anniversary"]), moves)
def test_every_span_but_the_first_begins_at_a_midnight_and_edges_are_midnights_or_ends(
    start: datetime, advance: bool, trial: int, anchor: str, what: list[tuple[int, str]]
) -> None:
    subscription = lived(start, advance, trial, anchor, what)
    assert all(span.start.time() == datetime.min.time() for span in timeline(subscription)[1:])
    for edge in edges(subscription, 30):
        assert edge == start or edge.time() == datetime.min.time()
        following = following_edge(subscription, edge)
        assert following is None or following > edge
