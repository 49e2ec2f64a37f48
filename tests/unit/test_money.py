"""Amounts are exact, rounded once, and split without losing a unit."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.currencies import CURRENCIES
from monetize.domain.errors import Invalid
from monetize.domain.money import (
    chargeable,
    check_unit_price,
    currency_of,
    divide_half_up,
    format_amount,
    format_unit_price,
    parse_unit_price,
    prorate,
    round_half_up,
    split,
)

AMOUNTS = st.integers(-(10**15), 10**15)


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [("0.5", 1), ("1.5", 2), ("2.5", 3), ("-0.5", -1), ("0.499999999999", 0), ("0", 0)],
)
def test_halves_round_away_from_zero(exact: str, rounded: int) -> None:
    assert round_half_up(Decimal(exact)) == rounded


def test_thirty_digits_round_exactly_whatever_the_thread_s_context_is() -> None:
    with localcontext() as context:
        context.prec = 5
        assert round_half_up(Decimal("123456789012345678901234567890.5")) == 123456789012345678901234567891


@given(AMOUNTS, st.integers(1, 10**9))
def test_division_rounds_to_the_nearest_halves_away_from_zero(numerator: int, denominator: int) -> None:
    rounded = divide_half_up(numerator, denominator)
    distance = abs(Fraction(numerator, denominator) - rounded)
    assert distance <= Fraction(1, 2)
    if distance == Fraction(1, 2):
        assert abs(rounded) * denominator > abs(numerator)


@given(AMOUNTS, st.lists(st.integers(0, 10**9), min_size=1, max_size=12).filter(any))
def test_parts_sum_to_the_whole_and_are_within_one_unit_of_their_share(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1


def test_the_largest_remainder_gets_the_odd_unit_and_the_earlier_of_equals() -> None:
    assert split(100, [1, 1, 1]) == [34, 33, 33]
    assert split(-100, [1, 1, 1]) == [-34, -33, -33]
    assert split(10, [30, 69, 1]) == [3, 7, 0]


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2]])
def test_a_split_needs_weights(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        split(1, weights)


@given(st.integers(0, 10**12), st.integers(1, 10**8), st.data())
def test_a_prorated_part_and_its_rest_differ_from_the_whole_by_one_unit_at_most(
    amount: int, whole: int, data: st.DataObject
) -> None:
    part = data.draw(st.integers(0, whole))
    assert abs(prorate(amount, part, whole) + prorate(amount, whole - part, whole) - amount) <= 1
    assert prorate(amount, whole, whole) == amount
    assert sum(split(amount, [part, whole - part])) == amount


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1e3", "price_malformed"),
        ("NaN", "price_malformed"),
        ("Infinity", "price_malformed"),
        ("", "price_malformed"),
        (".5", "price_malformed"),
        ("1.", "price_malformed"),
        ("+1", "price_malformed"),
        (" 1", "price_malformed"),
        ("1_000", "price_malformed"),
        ("\u0661", "price_malformed"),
        ("-0.01", "negative_price"),
        ("0.0000000000001", "price_too_precise"),
        ("1" * 16, "price_too_large"),
        ("9" * 100_000, "price_too_large"),
    ],
)
def test_a_price_that_is_no_price_is_refused_by_name(text: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_unit_price(text)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("price", "code"),
    [
        ("1e999999", "price_too_large"),
        ("1e-999999", "price_too_precise"),
        ("-1", "negative_price"),
        ("NaN", "price_malformed"),
        ("1." + "1" * 200, "price_too_precise"),
    ],
)
def test_a_decimal_is_held_to_the_same_rules(price: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_unit_price(Decimal(price))
    assert refused.value.code == code


@pytest.mark.parametrize("price", ["0", "0E-30", "0E+30", "1.500000000000000", "999999999999999.999999999999"])
def test_a_decimal_within_the_rules_passes(price: str) -> None:
    check_unit_price(Decimal(price))


def test_a_price_is_a_string_never_a_float() -> None:
    with pytest.raises(Invalid, match="price_malformed"):
        parse_unit_price(0.1)  # type: ignore[arg-type]


@given(st.decimals(0, 10**15 - 1, places=12, allow_nan=False, allow_infinity=False))
def test_a_price_of_twelve_decimals_survives_as_a_string(price: Decimal) -> None:
    assert parse_unit_price(f"{price:f}") == price


def test_a_price_may_round_to_nothing_and_stays_exact() -> None:
    assert parse_unit_price("0.000000000001") * 10**12 == 1


@pytest.mark.parametrize(
    ("minor", "currency", "said"),
    [
        (123450, "usd", "$1,234.50"),
        (-500, "jpy", "-¥500"),
        (1230, "kwd", "KWD 1.230"),
        (-5, "chf", "CHF -0.05"),
        (0, "eur", "€0.00"),
        (10**14, "isk", "ISK 1,000,000,000,000.00"),
    ],
)
def test_amounts_are_said_with_the_currency_s_own_decimals(minor: int, currency: str, said: str) -> None:
    assert format_amount(minor, currency) == said
    assert format_unit_price(Decimal(minor), currency) == said


def test_a_unit_price_is_said_with_every_digit() -> None:
    assert format_unit_price(Decimal("0.0025"), "usd") == "$0.000025"
    assert format_unit_price(Decimal("15.5"), "kwd") == "KWD 0.0155"


def test_every_currency_has_a_known_minor_unit() -> None:
    assert len(CURRENCIES) >= 135
    assert {known.exponent for known in CURRENCIES.values()} == {0, 2, 3}
    assert {code for code, known in CURRENCIES.items() if known.exponent == 3} == {"bhd", "jod", "kwd", "omr", "tnd"}
    assert CURRENCIES["jpy"].exponent == CURRENCIES["krw"].exponent == CURRENCIES["xpf"].exponent == 0


@pytest.mark.parametrize("code", ["USD", "xxx", "", "btc"])
def test_an_unknown_currency_is_refused(code: str) -> None:
    with pytest.raises(Invalid, match="unknown_currency"):
        currency_of(code)


@given(
    st.sampled_from(sorted(CURRENCIES)),
    st.decimals(-(10**12), 10**12, places=6, allow_nan=False, allow_infinity=False),
)
def test_what_is_charged_is_the_nearest_amount_stripe_takes(code: str, exact: Decimal) -> None:
    currency = CURRENCIES[code]
    amount = chargeable(exact, currency)
    assert amount % currency.multiple_of == 0
    assert abs(amount - exact) * 2 <= currency.multiple_of


def test_whole_crowns_and_last_digits_of_dinars() -> None:
    assert chargeable(Decimal(12350), CURRENCIES["isk"]) == 12400
    assert chargeable(Decimal(5125), CURRENCIES["kwd"]) == 5130
