"""A bill is the pure function of terms, periods and usage; money is conserved to the last unit."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.currencies import CURRENCIES, Currency
from monetize.domain.money import chargeable, currency_of
from monetize.domain.periods import Anchor, Period, midnight, nominal_period, utc_days
from monetize.domain.plans import Allowance, Charge, PlanTerms, PriceTier, wso2_terms
from monetize.domain.rating import (
    Adjustment,
    Ahead,
    ApplicationFee,
    BillInput,
    Carried,
    Discount,
    Line,
    Rated,
    Segment,
    ahead_of,
    given_back,
    preview,
    rate,
    roll_up,
)
from monetize.domain.subscriptions import Segment as Stretch
from monetize.domain.subscriptions import (
    Span,
    Subscription,
    advance_period,
    first_edge,
    following_edge,
    in_force,
)
from monetize.services.rating_bills import arrears_stretches, paid_since, paid_until

JUNE, JULY, AUGUST = (datetime(2026, month, 1, tzinfo=UTC) for month in (6, 7, 8))
PERIOD = Period(JUNE, JULY)
NEXT = Period(JULY, AUGUST)
FEE = Charge(id="fee", name="Fee", model="flat", amount=3000, timing="advance")
LATE_FEE = Charge(id="late", name="Support", model="flat", amount=3000, timing="arrears")
YEAR_FEE = Charge(id="year", name="Year", model="flat", amount=36500, timing="advance", interval="year")
CALLS = Charge(id="calls", name="Calls", model="per_unit", meter="m", unit_price=Decimal(1))


def terms(*charges: Charge, **changes: Any) -> PlanTerms:
    return replace(PlanTerms(currency="usd", charges=charges), **changes)


def segment(of: PlanTerms, period: Period = PERIOD, nominal: Period | None = None, **fields: Any) -> Segment:
    return Segment(period=period, nominal=nominal or nominal_period(period.start, Anchor()), terms=of, **fields)


def used(*quantities: int, meter: str = "m", start: datetime = JUNE) -> dict[str, dict[date, int]]:
    return {meter: {start.date() + timedelta(days=at): each for at, each in enumerate(quantities)}}


def bill(*closed: Segment, **fields: Any) -> Rated:
    given: dict[str, Any] = {"currency": "usd", "at": JULY, "closed": closed}
    return rate(BillInput(**given | fields))


def amounts(rated: Rated) -> dict[str, int]:
    return {each.charge or each.kind: each.amount for each in rated.lines}


def conserved(rated: Rated) -> None:
    assert rated.subtotal == sum(each.amount for each in rated.lines)
    assert rated.carry == sum(each.amount for each in rated.carried) <= 0
    signed = sum(each.rated for each in (*rated.lines, *rated.credits))
    assert rated.subtotal + rated.carry == signed
    assert all(each.amount >= 0 and each.rated >= 0 for each in rated.lines)
    assert all(each.rated < 0 for each in rated.credits)
    assert all(each.amount == each.rated + sum(part.amount for part in each.netted) for each in rated.lines)
    ids = [each.id for each in (*rated.lines, *rated.credits)]
    assert len(set(ids)) == len(ids)
    assert 0 <= rated.application_fee <= rated.subtotal


# ---- strategies ----

PRICES = st.decimals(0, 500, places=4, allow_nan=False, allow_infinity=False)
ALLOWANCES = st.none() | st.builds(
    lambda quantity, per: Allowance(quantity=quantity, per=per), st.integers(0, 300), st.sampled_from(["day", "period"])
)
METERS = ("m", "n")


@st.composite
def usage_charges(draw: st.DrawFn, number: int) -> Charge:
    model = draw(st.sampled_from(["per_unit", "package", "graduated", "volume"]))
    ends = sorted(draw(st.sets(st.integers(1, 400), max_size=3)))
    tiers = tuple(PriceTier(up_to=end, unit_price=draw(PRICES), flat_amount=0) for end in [*ends, None])
    return Charge(
        id=f"u{number}",
        name=f"Usage {number}",
        model=model,  # type: ignore[arg-type]
        meter=draw(st.sampled_from(METERS)),
        unit_price=draw(PRICES) if model in ("per_unit", "package") else None,
        package_size=draw(st.integers(1, 100)) if model == "package" else None,
        tiers=tiers if model in ("graduated", "volume") else (),
        allowance=draw(ALLOWANCES),
    )


@st.composite
def plan_terms(draw: st.DrawFn, currencies: tuple[str, ...] = ("usd", "jpy", "kwd", "isk")) -> PlanTerms:
    code = draw(st.sampled_from(currencies))
    multiple = CURRENCIES[code].multiple_of
    fees = tuple(
        replace(fee, amount=draw(st.integers(0, 500)) * multiple) for fee in (FEE, LATE_FEE) if draw(st.booleans())
    )
    charges = tuple(draw(usage_charges(number)) for number in range(draw(st.integers(0, 3))))
    minimum = draw(st.none() | st.integers(0, 2000).map(lambda n: n * multiple))
    most = draw(st.none() | st.integers(1000, 5000).map(lambda n: n * multiple))
    if most is not None and minimum is not None:
        most = max(most, minimum)
    return PlanTerms(currency=code, charges=(*fees, *charges), minimum=minimum, maximum=most)


DAILY = st.dictionaries(st.integers(0, 29).map(lambda at: JUNE.date() + timedelta(days=at)), st.integers(0, 500))
USAGE = st.fixed_dictionaries({}, optional=dict.fromkeys(METERS, DAILY))


def in_terms_of(plan: PlanTerms, *closed: Segment, **fields: Any) -> Rated:
    return bill(*closed, currency=plan.currency, **fields)


def merged(one: Mapping[str, Mapping[date, int]], two: Mapping[str, Mapping[date, int]]) -> dict[str, dict[date, int]]:
    total: dict[str, dict[date, int]] = {}
    for usage in (one, two):
        for meter, days in usage.items():
            for day, quantity in days.items():
                of = total.setdefault(meter, {})
                of[day] = of.get(day, 0) + quantity
    return total


# ---- usage ----


def test_wso2_s_daily_allowance_charges_each_day_s_excess_per_started_unit() -> None:
    four = wso2_terms(
        price=2900, max_daily_usage=1000, overage_charge=Decimal(10), overage_unit=500, meter="m", currency="usd"
    )
    rated = bill(segment(four, usage=used(1750, 1250, 1250, 900), units={"m": "calls"}), starting=segment(four, NEXT))
    assert amounts(rated) == {"overage": 40, "fee": 2900}
    overage = rated.lines[0]
    assert overage.arithmetic() == "1,250 calls above 1,000 a day on 3 days = 4 packages of 500 × $0.10 = $0.40"  # noqa: RUF001 - the sign people read
    assert [(each.day.day, each.charged, each.packages) for each in overage.days] == [
        (1, 750, 2),
        (2, 250, 1),
        (3, 250, 1),
    ]
    conserved(rated)


def test_a_day_under_its_allowance_gives_nothing_to_another_day() -> None:
    daily = terms(replace(CALLS, allowance=Allowance(quantity=100, per="day")))
    assert bill(segment(daily, usage=used(150, 0, 50))).subtotal == 50


def test_the_excess_of_all_days_climbs_one_ladder_of_tiers() -> None:
    tiers = (PriceTier(up_to=100, unit_price=Decimal(3)), PriceTier(up_to=None, unit_price=Decimal(1)))
    daily = Allowance(quantity=100, per="day")
    charge = Charge(id="c", name="C", model="graduated", meter="m", tiers=tiers, allowance=daily)
    assert bill(segment(terms(charge), usage=used(180, 50, 180))).subtotal == 100 * 3 + 60


def test_a_period_allowance_is_shared_by_the_days_and_prorated_rounded_up() -> None:
    monthly = terms(replace(CALLS, allowance=Allowance(quantity=100, per="period")))
    assert bill(segment(monthly, usage=used(150, 0, 50))).subtotal == 100
    third = Period(JUNE, JUNE + timedelta(days=10))
    assert bill(segment(monthly, third, PERIOD, usage=used(150))).subtotal == 150 - 34


def test_a_daily_allowance_never_prorates() -> None:
    daily = terms(replace(CALLS, allowance=Allowance(quantity=100, per="day")))
    noon = Period(JUNE + timedelta(hours=12), JULY)
    assert bill(segment(daily, noon, PERIOD, usage=used(100))).subtotal == 0


def test_a_top_up_adds_to_the_allowance() -> None:
    for per, due in (("day", 60), ("period", 110)):
        plan = terms(replace(CALLS, allowance=Allowance(quantity=50, per=per)))  # type: ignore[arg-type]
        assert bill(segment(plan, usage=used(100, 100), top_ups={"m": 40})).subtotal == due


def test_an_upgrade_at_midnight_prices_the_days_from_it_on_by_the_new_version() -> None:
    edge = JUNE + timedelta(days=1)
    old = segment(terms(CALLS), Period(JUNE, edge), PERIOD, usage=used(10, 20, 30), ended=True)
    new = segment(terms(replace(CALLS, unit_price=Decimal(3))), Period(edge, JULY), PERIOD, usage=used(10, 20, 30))
    assert bill(old, new).subtotal == 10 + 3 * 50


def test_a_negative_day_is_an_error_not_a_discount() -> None:
    with pytest.raises(ValueError, match="negative"):
        bill(segment(terms(CALLS), usage=used(10, -1)))


def test_one_rounding_a_line_however_many_steps() -> None:
    tiers = (PriceTier(up_to=1, unit_price=Decimal("0.4")), PriceTier(up_to=None, unit_price=Decimal("0.4")))
    charge = Charge(id="c", name="C", model="graduated", meter="m", tiers=tiers)
    assert bill(segment(terms(charge), usage=used(2))).subtotal == 1


def test_usage_of_a_trial_is_free_and_so_is_its_fee() -> None:
    plan = terms(FEE, CALLS, LATE_FEE, minimum=5000)
    rated = bill(segment(plan, usage=used(100), trial=True), starting=segment(plan, NEXT, trial=True))
    assert rated.lines == ()


@given(plan_terms(), USAGE, st.randoms())
def test_totals_never_depend_on_the_order_of_usage(
    plan: PlanTerms, usage: dict[str, dict[date, int]], random: Any
) -> None:
    def shuffled[V](entries: Mapping[Any, V]) -> dict[Any, V]:
        keys = list(entries)
        random.shuffle(keys)
        return {key: entries[key] for key in keys}

    other = shuffled({meter: shuffled(days) for meter, days in usage.items()})
    assert in_terms_of(plan, segment(plan, usage=usage)) == in_terms_of(plan, segment(plan, usage=other))


@given(plan_terms(), USAGE, USAGE)
def test_more_usage_never_makes_a_smaller_bill_but_by_volume(
    plan: PlanTerms, usage: dict[str, dict[date, int]], more: dict[str, dict[date, int]]
) -> None:
    rising = replace(plan, charges=tuple(each for each in plan.charges if each.model != "volume"))
    small = in_terms_of(rising, segment(rising, usage=usage))
    large = in_terms_of(rising, segment(rising, usage=merged(usage, more)))
    assert small.subtotal <= large.subtotal


@given(plan_terms(), USAGE, st.integers(1, 29))
def test_a_bill_s_lines_sum_to_it_in_every_kind_of_currency(
    plan: PlanTerms, usage: dict[str, dict[date, int]], cut: int
) -> None:
    edge = JUNE + timedelta(days=cut)
    opening = in_terms_of(plan, starting=segment(plan), at=JUNE)
    closing = segment(plan, Period(JUNE, edge), PERIOD, usage=usage, ahead=ahead_of(opening.lines), ended=True)
    following = segment(plan, Period(edge, JULY), PERIOD)
    rated = in_terms_of(
        plan,
        closing,
        starting=following,
        at=edge,
        discounts=(Discount(id="d", name="Ten", percent=Decimal("12.5")),),
        fee=ApplicationFee(percent=Decimal("2.9"), fixed=30),
    )
    conserved(rated)
    multiple = CURRENCIES[plan.currency].multiple_of
    assert all(each.amount % multiple == 0 for each in rated.lines)


# ---- flat fees ----


def test_a_fee_in_advance_is_for_the_period_that_starts_prorated_to_the_second() -> None:
    noon = Period(JUNE + timedelta(days=15, hours=12), JULY)
    rated = bill(starting=segment(terms(FEE), noon, PERIOD), at=noon.start)
    assert rated.subtotal == 1450
    assert rated.lines[0].arithmetic() == "$30.00 × 1,252,800 of 2,592,000 seconds = $14.50"  # noqa: RUF001 - the sign people read


def test_a_fee_in_arrears_is_for_the_period_that_closed() -> None:
    half = Period(JUNE, JUNE + timedelta(days=15))
    assert bill(segment(terms(LATE_FEE), half, PERIOD, ended=True)).subtotal == 1500
    assert bill(starting=segment(terms(LATE_FEE), NEXT)).lines == ()


@given(st.integers(0, 10**6), st.integers(1, 30 * 86_400 - 1))
def test_what_was_charged_ahead_less_its_credit_is_the_fee_for_the_time_lived(price: int, seconds: int) -> None:
    plan = terms(replace(FEE, amount=price))
    opening = bill(starting=segment(plan), at=JUNE)
    end = JUNE + timedelta(seconds=seconds)
    closed = segment(plan, Period(JUNE, end), PERIOD, ahead=ahead_of(opening.lines), ended=True)
    last = bill(closed, at=end)
    lived = bill(starting=segment(plan, Period(JUNE, end), PERIOD), at=JUNE)
    assert opening.subtotal + last.carry == lived.subtotal
    conserved(last)


def test_a_period_that_ran_its_length_gives_nothing_back() -> None:
    plan = terms(FEE)
    opening = bill(starting=segment(plan), at=JUNE)
    assert bill(segment(plan, ahead=ahead_of(opening.lines), ended=True)).carry == 0


def test_unused_time_is_netted_into_the_new_plan_s_fee() -> None:
    old, new, edge = terms(FEE), terms(replace(FEE, id="gold", amount=9000)), JUNE + timedelta(days=20)
    opening = bill(starting=segment(old), at=JUNE)
    closed = segment(old, Period(JUNE, edge), PERIOD, ahead=ahead_of(opening.lines), ended=True)
    rated = bill(closed, starting=segment(new, Period(edge, JULY), PERIOD), at=edge)
    assert (rated.subtotal, rated.carry) == (3000 - 1000, 0)
    assert rated.lines[0].description.endswith("$90.00 × 10 of 30 days = $30.00, less $10.00 unused time")  # noqa: RUF001 - the sign people read
    conserved(rated)


def test_a_yearly_fee_is_charged_at_the_yearly_edge_only() -> None:
    plan, since = terms(YEAR_FEE), JUNE
    anchor = Anchor(6, 1)
    first = bill(starting=segment(plan, anchor=anchor, since=since), at=JUNE)
    assert first.subtotal == 36500
    assert (
        bill(segment(plan, anchor=anchor, since=since), starting=segment(plan, NEXT, anchor=anchor, since=since)).lines
        == ()
    )
    june27 = Period(datetime(2027, 6, 1, tzinfo=UTC), datetime(2027, 7, 1, tzinfo=UTC))
    again = bill(starting=segment(plan, june27, anchor=anchor, since=since), at=june27.start)
    assert again.subtotal == 36500


def test_a_yearly_fee_is_given_back_for_the_time_after_a_cancellation() -> None:
    plan, anchor = terms(YEAR_FEE), Anchor(6, 1)
    first = bill(starting=segment(plan, anchor=anchor, since=JUNE), at=JUNE)
    end = JUNE + timedelta(days=65)
    closed = segment(plan, Period(AUGUST, end), anchor=anchor, since=JUNE, ahead=ahead_of(first.lines), ended=True)
    assert bill(closed, at=end).carry == -(36500 - 6500)


def test_a_yearly_fee_in_arrears_waits_for_the_year_or_the_end() -> None:
    plan, anchor = terms(replace(YEAR_FEE, timing="arrears")), Anchor(6, 1)
    assert bill(segment(plan, anchor=anchor, since=JUNE)).lines == ()
    end = JULY + timedelta(days=43)
    assert bill(segment(plan, Period(AUGUST, end), anchor=anchor, since=JUNE, ended=True), at=end).subtotal == 7300
    may27 = Period(datetime(2027, 5, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC))
    assert bill(segment(plan, may27, anchor=anchor, since=JUNE), at=may27.end).subtotal == 36500


def test_a_yearly_fee_in_arrears_counts_from_when_it_began_to_be_paid() -> None:
    plan, end = terms(replace(YEAR_FEE, timing="arrears")), JULY + timedelta(days=43)
    late = segment(plan, Period(AUGUST, end), anchor=Anchor(6, 1), since=JUNE + timedelta(days=10), ended=True)
    assert bill(late, at=end).subtotal == 6300


# ---- minimum, maximum ----


def test_a_minimum_is_trued_up_and_counts_the_fee_charged_ahead() -> None:
    plan = terms(FEE, CALLS, minimum=5000)
    opening = bill(starting=segment(plan), at=JUNE)
    assert opening.subtotal == 3000
    rated = bill(segment(plan, usage=used(500), ahead=ahead_of(opening.lines)))
    assert amounts(rated) == {"calls": 500, "minimum": 1500}


def test_a_minimum_prorates_with_its_period() -> None:
    plan = terms(CALLS, minimum=3000)
    tenth = Period(JUNE, JUNE + timedelta(days=3))
    assert bill(segment(plan, tenth, PERIOD, ended=True)).subtotal == 300


def test_a_maximum_takes_back_usage_and_leaves_no_negative_line() -> None:
    plan = terms(FEE, CALLS, maximum=4000)
    opening = bill(starting=segment(plan), at=JUNE)
    rated = bill(segment(plan, usage=used(2500), ahead=ahead_of(opening.lines)), starting=segment(plan, NEXT))
    assert amounts(rated) == {"calls": 1000, "fee": 3000}
    assert [each.rated for each in rated.credits] == [-1500]
    conserved(rated)


def test_a_maximum_takes_back_usage_only_never_a_fee_charged_ahead() -> None:
    plan = terms(FEE, CALLS, maximum=1000)
    opening = bill(starting=segment(plan), at=JUNE)
    rated = bill(segment(plan, usage=used(500), ahead=ahead_of(opening.lines)))
    assert (rated.subtotal, rated.carry) == (0, 0)


# ---- lives ----

PARTED = st.sampled_from(["usd", "jpy", "kwd", "isk"]).map(lambda code: CURRENCIES[code])


@pytest.mark.parametrize("kind", ["advance", "arrears", "minimum", "maximum"])
@given(currency=PARTED, units=st.integers(1, 10**6), hours=st.sets(st.integers(1, 30 * 24 - 1), max_size=8))
def test_however_a_month_is_cut_its_parts_cost_what_the_month_does(
    kind: str, currency: Currency, units: int, hours: set[int]
) -> None:
    price = units * currency.multiple_of
    fee = replace(FEE, amount=price, timing="advance" if kind == "advance" else "arrears")
    plan = {
        "minimum": terms(CALLS, minimum=price),
        "maximum": terms(replace(CALLS, unit_price=Decimal(10**8)), maximum=price),
    }.get(kind, terms(fee))
    plan = replace(plan, currency=currency.code)
    usage = used(*[10] * 30) if kind == "maximum" else {}
    whole = 24 if usage else 1  # a day's usage is not cut
    edges = [JUNE + timedelta(hours=each) for each in sorted({hour // whole * whole for hour in hours} | {0, 720})]
    due, carried = 0, tuple[Carried, ...]()
    for start, end in pairwise(edges):
        opened = in_terms_of(plan, starting=segment(plan, Period(start, JULY), PERIOD), at=start, carried=carried)
        closed = segment(plan, Period(start, end), PERIOD, usage=usage, ahead=ahead_of(opened.lines))
        rated = in_terms_of(plan, closed, at=end, carried=opened.carried)
        due, carried = due + opened.subtotal + rated.subtotal, rated.carried
        conserved(rated)
    assert due + sum(each.amount for each in carried) == price


VERSIONS = st.lists(st.tuples(*[st.integers(0, 10**5)] * 4, st.booleans()), min_size=1, max_size=3)
TURNS = st.lists(st.tuples(st.integers(1, 75), st.none() | st.integers(0, 2)), max_size=8)


def sold(currency: Currency, versions: list[tuple[Any, ...]]) -> list[PlanTerms]:
    """Versions with a fee of each kind, some under names of their own."""
    made = []
    for number, (*amounts, own) in enumerate(versions):
        kinds = [(timing, interval) for timing in ("advance", "arrears") for interval in ("month", "year")]
        charges = [
            Charge(
                id=f"{timing}-{interval}{number if own else ''}",
                name="Fee",
                model="flat",
                amount=amount * currency.multiple_of,
                timing=timing,  # type: ignore[arg-type]
                interval=interval,  # type: ignore[arg-type]
            )
            for amount, (timing, interval) in zip(amounts, kinds, strict=True)
        ]
        made.append(PlanTerms(currency=currency.code, charges=tuple(charges)))
    return made


def lived(
    start: datetime, turns: list[tuple[int, int | None]], last: timedelta, versions: int, day: int
) -> Subscription:
    """A subscription that begins with version 0, turns to another or to a pause at midnights, and is cancelled."""
    spans = [Span(start=start, kind="paid", tier="t", plan="p", version=0, advance=True)]
    for days, turn in turns:
        at = midnight(spans[-1].start.date() + timedelta(days=days))
        kind, version = ("paused", spans[-1].version) if turn is None else ("paid", turn % versions)
        spans.append(replace(spans[-1], start=at, kind=kind, version=version))
    return Subscription(
        id="sub",
        publisher="pub",
        subscriber="dev",
        application="app",
        product="api",
        apis=(),
        tier="t",
        status="active",
        spans=tuple(spans),
        anchor_month=start.month,
        anchor_day=day,
        cancel_at=spans[-1].start + last,
        created_at=start,
    )


def charged(subscription: Subscription, versions: list[PlanTerms], until: Iterator[bool]) -> int:
    """What all its bills come to, with what the last one leaves; some bills are made when the end is known already."""
    total, ahead, carried = 0, tuple[Ahead, ...](), tuple[Carried, ...]()
    since: datetime | None = None
    edge = first_edge(subscription)

    def part(stretch: Stretch, **more: Any) -> Segment:
        plan = versions[stretch.span.version or 0]
        period = Period(stretch.start, stretch.end)
        nominal = nominal_period(stretch.start, subscription.anchor)
        begun = paid_since(subscription, stretch)
        return segment(plan, period, nominal, anchor=subscription.anchor, since=begun, **more)

    while edge is not None:
        closed = tuple(
            part(
                stretch,
                ahead=tuple(it for it in ahead if it.period.start < stretch.end and stretch.start < it.period.end),
                ended=paid_until(subscription, stretch) == stretch.end,
            )
            for stretch in arrears_stretches(subscription, since, edge)
        )
        starting = None
        period, span = advance_period(subscription, edge), in_force(subscription, edge)
        if period is not None and span is not None:
            stretch = Stretch(period.start, period.end, span)
            starting = part(stretch, until=paid_until(subscription, stretch) if next(until) else None)
        rated = in_terms_of(versions[0], *closed, starting=starting, at=edge, carried=carried)
        conserved(rated)
        lasting = tuple(each for each in ahead if not any(given_back(it, each) for it in closed))
        ahead = tuple(each for each in (*lasting, *ahead_of(rated.lines)) if each.period.end > edge)
        total, carried = total + rated.subtotal, rated.carried
        since, edge = edge, following_edge(subscription, edge)
    return total + sum(each.amount for each in carried)


def worth(subscription: Subscription, versions: list[PlanTerms], currency: Currency) -> int:
    """The prices of the time that was lived under each version, by fractions."""

    def due(price: int, nominal: Period, at: datetime) -> int:
        exact = Fraction(price * ((at - nominal.start) // timedelta(seconds=1)), nominal.seconds * currency.multiple_of)
        return currency.multiple_of * int(exact + Fraction(1, 2))

    total = 0
    ends = [*(span.start for span in subscription.spans[1:]), subscription.end or subscription.created_at]
    for span, end in zip(subscription.spans, ends, strict=True):
        for charge in versions[span.version or 0].charges if span.paid else ():
            at = span.start
            while at < end:
                nominal = nominal_period(at, subscription.anchor, 1 if charge.interval == "month" else 12)
                until = min(end, nominal.end)
                total += due(charge.amount or 0, nominal, until) - due(charge.amount or 0, nominal, at)
                at = until
    return total


@given(
    currency=PARTED,
    sold_as=VERSIONS,
    turns=TURNS,
    begun=st.integers(0, 86399),
    last=st.integers(1, 40 * 86400),
    day=st.sampled_from([1, 15, 31]),
    known=st.randoms(use_true_random=False),
)
def test_a_life_costs_the_time_lived_under_each_version_whatever_happened(
    currency: Currency,
    sold_as: list[tuple[Any, ...]],
    turns: list[tuple[int, int | None]],
    begun: int,
    last: int,
    day: int,
    known: Any,
) -> None:
    versions = sold(currency, sold_as)
    start = datetime(2027, 11, 20, tzinfo=UTC) + timedelta(seconds=begun)
    life = lived(start, turns, timedelta(seconds=last), len(versions), day)
    bills_know = iter(lambda: known.random() < 0.5, None)
    assert charged(life, versions, bills_know) == worth(life, versions, currency)


# ---- corrections ----


@given(plan_terms(), USAGE, USAGE, USAGE)
def test_a_bill_and_its_corrections_are_the_bill_of_everything_at_once(
    plan: PlanTerms,
    usage: dict[str, dict[date, int]],
    late: dict[str, dict[date, int]],
    later: dict[str, dict[date, int]],
) -> None:
    fees = tuple(each for each in plan.charges if each.timing == "arrears")
    plan = replace(plan, charges=fees)
    second, third = merged(usage, late), merged(merged(usage, late), later)
    first = in_terms_of(plan, segment(plan, usage=usage))
    known = (*first.lines, *first.credits)
    adjusted = in_terms_of(plan, adjustments=(Adjustment(segment=segment(plan, usage=second), billed=known),))
    known = (*known, *adjusted.lines, *adjusted.credits)
    again = in_terms_of(plan, adjustments=(Adjustment(segment=segment(plan, usage=third), billed=known),))
    at_once = in_terms_of(plan, segment(plan, usage=third))
    paid = sum(each.subtotal + each.carry for each in (first, adjusted, again))
    assert paid == at_once.subtotal + at_once.carry
    for each in (first, adjusted, again):
        conserved(each)


def test_what_did_not_change_needs_no_correction() -> None:
    first = bill(segment(terms(CALLS), usage=used(10)))
    same = bill(adjustments=(Adjustment(segment=segment(terms(CALLS), usage=used(10)), billed=first.lines),))
    assert (same.lines, same.credits) == ((), ())


def test_a_correction_says_what_it_corrects() -> None:
    first = bill(segment(terms(CALLS), usage=used(10)))
    more = bill(adjustments=(Adjustment(segment=segment(terms(CALLS), usage=used(15)), billed=first.lines),))
    line = more.lines[0]
    assert (line.kind, line.rated, line.adjusts) == ("adjustment", 5, first.lines[0].id)
    assert line.description == "Correction of Calls, 2026-06-01 to 2026-07-01: $0.05"


def test_a_correction_gives_back_what_was_paid_after_its_discount_never_more() -> None:
    half = (Discount(id="d", name="Half", percent=Decimal(50)),)
    first = bill(segment(terms(CALLS), usage=used(1000)), discounts=half)
    assert first.subtotal == 500
    known = (*first.lines, *first.credits)
    less = bill(adjustments=(Adjustment(segment=segment(terms(CALLS), usage=used(0)), billed=known),))
    assert less.carry == -500
    known = (*known, *less.lines, *less.credits)
    back = bill(
        adjustments=(Adjustment(segment=segment(terms(CALLS), usage=used(1000)), billed=known),), discounts=half
    )
    assert back.subtotal == 500
    conserved(less)


@given(
    st.integers(1, 2000),
    st.lists(st.integers(0, 3000), max_size=5),
    st.integers(0, 2000),
    st.integers(0, 100),
    st.booleans(),
    st.sampled_from(["usd", "jpy", "kwd"]),
)
def test_corrections_ask_for_what_their_bills_discount_left_whichever_steps_led_there(
    first: int, steps: list[int], last: int, percent: int, lasting: bool, currency: str
) -> None:
    price = Decimal("0.7")
    plan = terms(replace(CALLS, unit_price=price), currency=currency)
    off = (Discount(id="d", name="Off", percent=Decimal(percent)),)
    opened = in_terms_of(plan, segment(plan, usage=used(first)), discounts=off)
    known = (*opened.lines, *opened.credits)
    asked = opened.subtotal
    for calls in (*steps, min(first, last)):
        made = Adjustment(segment=segment(plan, usage=used(calls)), billed=known)
        bill_of_it = in_terms_of(plan, adjustments=(made,), discounts=off if lasting else ())
        conserved(bill_of_it)
        asked += bill_of_it.subtotal + bill_of_it.carry
        known = (*known, *bill_of_it.lines, *bill_of_it.credits)
    money = currency_of(currency)
    whole, rest = (chargeable(price * calls, money) for calls in (first, min(first, last)))
    assert abs(asked - Fraction(opened.subtotal * rest, whole or 1)) <= Fraction(money.multiple_of, 2)


# ---- credits, discounts, shares ----


def test_credit_is_used_up_before_anything_is_charged() -> None:
    rated = bill(segment(terms(CALLS), usage=used(300)), carried=(Carried(amount=-1000),))
    assert (rated.subtotal, rated.carry) == (0, -700)
    following = bill(segment(terms(CALLS), usage=used(900)), carried=rated.carried)
    assert (following.subtotal, following.carry) == (200, 0)
    conserved(following)


def test_credit_of_another_tax_treatment_is_carried_not_mixed() -> None:
    rated = bill(
        segment(terms(CALLS, tax_behavior="exclusive"), usage=used(300)),
        carried=(Carried(amount=-100, tax_behavior="inclusive"),),
    )
    assert (rated.subtotal, rated.carry) == (300, -100)
    assert rated.carried == (Carried(amount=-100, tax_behavior="inclusive"),)


def test_carried_money_is_a_credit() -> None:
    with pytest.raises(ValueError, match="credit"):
        bill(carried=(Carried(amount=1),))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.integers(0, 3 * 10**6))
def test_credits_conserve_money(quantities: list[int], credit: int) -> None:
    charges = tuple(replace(CALLS, id=f"c{at}", meter=f"m{at}") for at in range(len(quantities)))
    usage = {f"m{at}": {JUNE.date(): each} for at, each in enumerate(quantities)}
    rated = bill(segment(terms(*charges), usage=usage), carried=(Carried(amount=-credit),))
    assert rated.subtotal + rated.carry == sum(quantities) - credit
    assert rated.subtotal == max(0, sum(quantities) - credit)
    conserved(rated)


def test_a_percentage_comes_off_every_charge_in_proportion() -> None:
    plan = terms(LATE_FEE, CALLS)
    rated = bill(segment(plan, usage=used(1000)), discounts=(Discount(id="d", name="Ten", percent=Decimal(10)),))
    assert amounts(rated) == {"calls": 900, "late": 2700}
    conserved(rated)


def test_discounts_apply_one_after_the_other_and_never_make_a_credit() -> None:
    half = Discount(id="h", name="Half", percent=Decimal(50))
    amount = Discount(id="a", name="Ten dollars", amount=1000)
    assert bill(segment(terms(CALLS), usage=used(1500)), discounts=(half, amount)).subtotal == 0
    assert bill(segment(terms(CALLS), usage=used(1500)), discounts=(amount, half)).subtotal == 250
    conserved(bill(segment(terms(CALLS), usage=used(1500)), discounts=(half, amount)))


def test_unused_time_gives_back_the_discounted_fee() -> None:
    plan = terms(FEE)
    opening = bill(starting=segment(plan), at=JUNE, discounts=(Discount(id="h", name="Half", percent=Decimal(50)),))
    end = JUNE + timedelta(days=10)
    closed = segment(plan, Period(JUNE, end), PERIOD, ahead=ahead_of(opening.lines), ended=True)
    assert bill(closed, at=end).carry == -1000


def test_the_platform_s_share_is_never_above_the_subtotal() -> None:
    fee = ApplicationFee(percent=Decimal("2.5"), fixed=30)
    assert bill(segment(terms(CALLS), usage=used(1000)), fee=fee).application_fee == 55
    assert bill(segment(terms(CALLS), usage=used(10)), fee=fee).application_fee == 10
    assert bill(fee=fee).application_fee == 0


def test_nothing_used_and_no_fee_is_an_empty_bill() -> None:
    rated = bill(segment(terms(CALLS)))
    assert rated == Rated(lines=(), credits=(), subtotal=0, carry=0, carried=(), application_fee=0)


def test_a_bill_has_one_currency() -> None:
    with pytest.raises(ValueError, match="cannot charge terms in eur"):
        bill(segment(terms(CALLS, currency="eur")))


# ---- lines ----


@given(plan_terms(), USAGE)
def test_a_line_survives_json(plan: PlanTerms, usage: dict[str, dict[date, int]]) -> None:
    rated = in_terms_of(plan, segment(plan, usage=usage), carried=(Carried(amount=-100),))
    assert msgspec.json.decode(msgspec.json.encode(rated), type=Rated) == rated


@given(st.integers(1, 400), st.integers(1, 300))
def test_a_rolled_up_tail_keeps_the_sum(count: int, limit: int) -> None:
    lines = tuple(
        Line(id=str(at), kind="usage", name="x", currency="usd", period=PERIOD, rated=at, amount=at)
        for at in range(count)
    )
    rolled = roll_up(lines, limit)
    assert len(rolled) <= limit
    assert sum(each.amount for each in rolled) == sum(each.amount for each in lines)
    assert sum(each.merged or 1 for each in rolled) == count


def test_a_roll_up_keeps_tax_treatments_apart() -> None:
    lines = tuple(
        Line(
            id=str(at),
            kind="usage",
            name="x",
            currency="usd",
            period=PERIOD,
            rated=at,
            amount=at,
            tax_code=f"t{at % 2}",
        )
        for at in range(10)
    )
    rolled = roll_up(lines, 4)
    assert [(each.tax_code, each.amount) for each in rolled[2:]] == [("t0", 20), ("t1", 24)]


def test_a_description_fits_stripe_s_bound() -> None:
    rated = bill(segment(terms(replace(CALLS, name="n" * 600)), usage=used(1)))
    assert len(rated.lines[0].description) == 500


def test_many_price_steps_are_counted_not_listed() -> None:
    tiers = (
        *(PriceTier(up_to=n, unit_price=Decimal(1)) for n in range(1, 10)),
        PriceTier(up_to=None, unit_price=Decimal(1)),
    )
    charge = Charge(id="c", name="C", model="graduated", meter="m", tiers=tiers)
    assert bill(segment(terms(charge), usage=used(50))).lines[0].arithmetic() == "50 units = 10 price steps = $0.50"


@given(plan_terms(), USAGE)
def test_a_preview_of_a_month_is_its_fees_and_its_usage(plan: PlanTerms, usage: dict[str, dict[date, int]]) -> None:
    opening = in_terms_of(plan, starting=segment(plan), at=JUNE)
    closing = in_terms_of(plan, segment(plan, usage=usage, ahead=ahead_of(opening.lines)))
    shown = preview(plan, usage, PERIOD)
    assert shown.subtotal == opening.subtotal + closing.subtotal
    conserved(shown)


def test_the_days_of_consecutive_segments_partition_the_usage() -> None:
    plan, usage = terms(CALLS), used(*range(30))
    cuts = [JUNE + timedelta(hours=7), JUNE + timedelta(days=3), JUNE + timedelta(days=20), JULY]
    parts = [Period(a, b) for a, b in pairwise(cuts)]
    assert sum(len(list(utc_days(each))) for each in parts) == 30
    assert bill(*(segment(plan, each, PERIOD, usage=usage) for each in parts)).subtotal == sum(range(30))
