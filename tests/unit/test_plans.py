"""Terms that make no sense are refused by name, all of them at once."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter

from monetize.domain.errors import Invalid
from monetize.domain.plans import Allowance, Charge, PlanTerms, PriceTier, Quota, validate_terms, wso2_terms

METERS = {"met_calls"}
FEE = Charge(id="fee", name="Fee", model="flat", amount=2900, timing="advance")
UNIT = Charge(id="calls", name="Calls", model="per_unit", meter="met_calls", unit_price=Decimal("0.25"))
PACKAGE = Charge(id="calls", name="Calls", model="package", meter="met_calls", unit_price=Decimal(10), package_size=500)
OPEN = PriceTier(up_to=None, unit_price=Decimal("0.1"))
FIRST = PriceTier(up_to=1000, unit_price=Decimal("0.5"))
GRADUATED = Charge(id="calls", name="Calls", model="graduated", meter="met_calls", tiers=(FIRST, OPEN))


def terms(*charges: Charge, **changes: Any) -> PlanTerms:
    return replace(PlanTerms(currency="usd", charges=charges), **changes)


@pytest.mark.parametrize(
    "good",
    [
        terms(FEE, UNIT),
        terms(PACKAGE, minimum=100, maximum=100),
        terms(GRADUATED, trial_days=14),
        terms(replace(UNIT, allowance=Allowance(quantity=0, per="day"))),
        terms(UNIT, quotas=(Quota(meter="met_calls", quantity=5, per="day"),)),
        terms(replace(UNIT, unit_price=Decimal("0.000000000001"))),
        terms(replace(FEE, amount=10000), currency="isk"),
    ],
)
def test_sensible_terms_pass_and_survive_json(good: PlanTerms) -> None:
    validate_terms(good, METERS)
    wire = msgspec.json.encode(good)
    assert msgspec.json.decode(wire, type=PlanTerms) == good
    assert TypeAdapter(PlanTerms).validate_json(wire) == good


BAD = {
    "unknown_currency": terms(FEE, currency="xxx"),
    "no_charges": terms(),
    "too_many_charges": terms(*(replace(FEE, id=f"f{n}") for n in range(51))),
    "duplicate_charge": terms(FEE, FEE),
    "bad_charge_id": terms(replace(FEE, id="a b")),
    "reserved_charge_id": terms(replace(FEE, id="minimum"), minimum=3000),
    "charge_without_name": terms(replace(FEE, name=" ")),
    "amount_missing": terms(replace(FEE, amount=None)),
    "negative_amount": terms(replace(FEE, amount=-1)),
    "amount_too_large": terms(replace(FEE, amount=10**12)),
    "amount_not_chargeable": terms(replace(FEE, amount=150), currency="isk"),
    "field_not_of_model": terms(replace(FEE, meter="met_calls")),
    "meter_missing": terms(replace(UNIT, meter=None)),
    "unknown_meter": terms(replace(UNIT, meter="met_other")),
    "usage_in_advance": terms(replace(UNIT, timing="advance")),
    "usage_by_year": terms(replace(UNIT, interval="year")),
    "bad_allowance": terms(replace(UNIT, allowance=Allowance(quantity=-1, per="day"))),
    "price_missing": terms(replace(UNIT, unit_price=None)),
    "negative_price": terms(replace(UNIT, unit_price=Decimal(-1))),
    "price_too_precise": terms(replace(UNIT, unit_price=Decimal("1e-13"))),
    "price_too_large": terms(replace(UNIT, unit_price=Decimal("1e15"))),
    "price_malformed": terms(replace(UNIT, unit_price=Decimal("NaN"))),
    "bad_package_size": terms(replace(PACKAGE, package_size=0)),
    "tiers_missing": terms(replace(GRADUATED, tiers=())),
    "too_many_tiers": terms(replace(GRADUATED, tiers=(FIRST,) * 101)),
    "open_tier_not_last": terms(replace(GRADUATED, tiers=(OPEN, FIRST, OPEN))),
    "last_tier_not_open": terms(replace(GRADUATED, tiers=(FIRST,))),
    "overlapping_tiers": terms(replace(GRADUATED, tiers=(FIRST, FIRST, OPEN))),
    "quantity_too_large": terms(replace(GRADUATED, tiers=(replace(FIRST, up_to=10**16), OPEN))),
    "maximum_below_minimum": terms(UNIT, minimum=200, maximum=100),
    "maximum_below_fees": terms(FEE, maximum=100),
    "bad_quota": terms(UNIT, quotas=(Quota(meter="met_calls", quantity=-1, per="day"),)),
    "duplicate_quota": terms(UNIT, quotas=(Quota(meter="met_calls", quantity=1, per="day"),) * 2),
    "bad_trial_days": terms(FEE, trial_days=-1),
    "bad_grace_days": terms(FEE, grace_days=-1),
}


@pytest.mark.parametrize("code", BAD)
def test_a_term_that_makes_no_sense_is_refused_by_name(code: str) -> None:
    with pytest.raises(Invalid) as refused:
        validate_terms(BAD[code], METERS)
    assert refused.value.code == code


@pytest.mark.parametrize("ours", ["minimum", "maximum"])
def test_no_charge_is_called_what_our_own_lines_are(ours: str) -> None:
    with pytest.raises(Invalid) as refused:
        validate_terms(terms(FEE, replace(UNIT, id=ours)), METERS)
    assert refused.value.code == "reserved_charge_id"


def test_every_problem_is_told_at_once_with_its_place() -> None:
    bad = terms(replace(UNIT, meter="met_other"), replace(GRADUATED, id="more", tiers=(FIRST, FIRST, OPEN)))
    with pytest.raises(Invalid) as refused:
        validate_terms(bad, METERS)
    problems = refused.value.members["problems"]
    assert isinstance(problems, list)
    assert [(each["code"], each["at"]) for each in problems] == [
        ("unknown_meter", "charges/0/meter"),
        ("overlapping_tiers", "charges/1/tiers/1"),
    ]


def test_wso2_s_four_fields_are_a_fee_and_a_daily_overage() -> None:
    four = wso2_terms(
        price=2900,
        max_daily_usage=1000,
        overage_charge=Decimal(10),
        overage_unit=500,
        meter="met_calls",
        currency="usd",
    )
    validate_terms(four, METERS)
    fee, overage = four.charges
    assert (fee.amount, fee.timing, fee.interval) == (2900, "advance", "month")
    assert overage.model == "package"
    assert (overage.package_size, overage.unit_price) == (500, Decimal(10))
    assert overage.allowance == Allowance(quantity=1000, per="day")
