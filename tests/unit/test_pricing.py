"""Each price model, step by step, and against the plainest reading of what it means."""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.plans import Charge, PriceTier
from monetize.domain.pricing import allowance, steps_of
from monetize.domain.pricing.step import Step

PRICES = st.decimals(0, 10**6, places=12, allow_nan=False, allow_infinity=False)
TIERS = (
    PriceTier(up_to=10, unit_price=Decimal(5)),
    PriceTier(up_to=20, unit_price=Decimal(3), flat_amount=100),
    PriceTier(up_to=None, unit_price=Decimal("0.5")),
)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[PriceTier, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 500), max_size=4)))
    return tuple(
        PriceTier(up_to=end, unit_price=draw(PRICES), flat_amount=draw(st.integers(0, 1000))) for end in [*ends, None]
    )


def charge(model: str, **fields: object) -> Charge:
    return Charge(id="c", name="C", model=model, meter="m", **fields)  # type: ignore[arg-type]


def total(steps: tuple[Step, ...]) -> Fraction:
    return sum((Fraction(each.amount) for each in steps), Fraction(0))


@pytest.mark.parametrize(
    ("quantity", "expected"), [(0, 0), (1, 5), (10, 50), (11, 50 + 100 + 3), (20, 180), (21, Fraction(361, 2))]
)
def test_graduated_prices_each_unit_by_its_own_tier(quantity: int, expected: Fraction) -> None:
    assert total(steps_of(charge("graduated", tiers=TIERS), quantity)) == expected


@pytest.mark.parametrize(("quantity", "expected"), [(0, 0), (10, 50), (11, 133), (20, 160), (21, Fraction(21, 2))])
def test_volume_prices_all_units_by_the_tier_reached(quantity: int, expected: Fraction) -> None:
    assert total(steps_of(charge("volume", tiers=TIERS), quantity)) == expected


@pytest.mark.parametrize(("quantity", "packages"), [(0, 0), (1, 1), (500, 1), (501, 2)])
def test_a_started_package_is_a_whole_one(quantity: int, packages: int) -> None:
    steps = steps_of(charge("package", unit_price=Decimal(10), package_size=500), quantity)
    assert total(steps) == 10 * packages


@given(tiers(), st.integers(0, 1000))
def test_graduated_is_the_sum_of_its_units_one_by_one(ladder: tuple[PriceTier, ...], quantity: int) -> None:
    expected, last = Fraction(0), None
    for unit in range(1, quantity + 1):
        tier = next(number for number, each in enumerate(ladder) if each.up_to is None or unit <= each.up_to)
        expected += Fraction(ladder[tier].unit_price)
        if tier != last:
            expected += ladder[tier].flat_amount
            last = tier
    assert total(steps_of(charge("graduated", tiers=ladder), quantity)) == expected


@given(
    st.sampled_from(["per_unit", "graduated", "package"]), tiers(), PRICES, st.integers(0, 1000), st.integers(0, 100)
)
def test_more_usage_never_costs_less_but_by_volume(
    model: str, ladder: tuple[PriceTier, ...], price: Decimal, quantity: int, more: int
) -> None:
    priced = {
        "per_unit": charge("per_unit", unit_price=price),
        "graduated": charge("graduated", tiers=ladder),
        "package": charge("package", unit_price=price, package_size=7),
    }[model]
    assert total(steps_of(priced, quantity)) <= total(steps_of(priced, quantity + more))


@given(st.integers(0, 10**24), PRICES)
def test_a_step_is_exact_whatever_the_size(quantity: int, price: Decimal) -> None:
    assert total(steps_of(charge("per_unit", unit_price=price), quantity)) == quantity * Fraction(price)


def test_a_period_s_allowance_prorates_and_rounds_up() -> None:
    assert allowance.in_period(1000, 1, 3) == 334
    assert allowance.in_period(1000, 3, 3) == 1000
    assert allowance.in_period(0, 1, 3) == 0


def test_a_top_up_covers_the_earliest_excess_first() -> None:
    day = date(2026, 1, 1)
    days = [(day + timedelta(days=2), 130), (day, 110), (day + timedelta(days=1), 90)]
    above = allowance.above_daily(days, 100, top_up=15)
    assert [(each.day.day, each.used, each.charged) for each in above] == [(3, 130, 25)]


@pytest.mark.parametrize("model", ["per_unit", "package"])
def test_a_price_model_without_its_price_is_a_programming_error(model: str) -> None:
    with pytest.raises(ValueError, match="no unit price"):
        steps_of(charge(model), 1)
