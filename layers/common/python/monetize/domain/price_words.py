"""Prices in words: what a person reads before subscribing. Pure; amounts with every digit they have."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

from monetize.domain.money import format_amount, format_unit_price
from monetize.domain.plans import Allowance, Charge, PlanTerms

_PER = {"day": "a day", "period": "a month"}
_EVERY = {"month": "a month", "year": "a year"}


def in_words(terms: PlanTerms, units: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each charge and bound of a plan. `units` are the units of its meters, in the plural."""
    return tuple(_sentences(terms, units))


def charge_in_words(charge: Charge, currency: str, units: Mapping[str, str]) -> str:
    """One charge: `Monthly fee: $49.00 a month, in advance`."""
    if charge.model == "flat":
        price = f"{format_amount(charge.amount or 0, currency)} {_EVERY[charge.interval]}, in {charge.timing}"
        return f"{charge.name}: {price}"
    unit = units.get(charge.meter or "", "units")
    free = _allowance(charge.allowance, unit)
    return f"{charge.name}: {free}{_usage_price(charge, currency, unit)}"


def _sentences(terms: PlanTerms, units: Mapping[str, str]) -> Iterator[str]:
    if terms.trial_days:
        yield f"The first {terms.trial_days} days are free"
    for charge in terms.charges:
        yield charge_in_words(charge, terms.currency, units)
    if terms.minimum:
        yield f"At least {format_amount(terms.minimum, terms.currency)} a month"
    if terms.maximum is not None:
        yield f"At most {format_amount(terms.maximum, terms.currency)} a month"
    for quota in terms.quotas:
        yield f"At most {quota.quantity:,} {units.get(quota.meter, 'units')} {_PER[quota.per]}"


def _allowance(allowance: Allowance | None, unit: str) -> str:
    return "" if allowance is None else f"{allowance.quantity:,} {unit} {_PER[allowance.per]} included, then "


def _usage_price(charge: Charge, currency: str, unit: str) -> str:
    price = format_unit_price(charge.unit_price or Decimal(0), currency)
    if charge.model == "per_unit":
        return f"{unit} at {price} each"
    if charge.model == "package":
        return f"{price} for every {charge.package_size or 1:,} {unit} begun"
    steps = "; ".join(_steps(charge, currency))
    if charge.model == "volume":
        return f"all {unit} of the month at the price of their number: {steps}"
    return f"{unit} by steps: {steps}"


def _steps(charge: Charge, currency: str) -> Iterator[str]:
    below = 0
    for tier in charge.tiers:
        reach = f"above {below:,}" if tier.up_to is None else f"{below + 1:,} to {tier.up_to:,}"
        once = f" and {format_amount(tier.flat_amount, currency)} once" if tier.flat_amount else ""
        yield f"{reach} at {format_unit_price(tier.unit_price, currency)} each{once}"
        below = tier.up_to or below
