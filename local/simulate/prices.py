"""What usage must cost, worked out a second time: fractions, no line of the product's own arithmetic."""

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from monetize.domain.plans import Allowance, Charge, PlanTerms, PriceTier, wso2_terms

CALLS, UNITS = "met_calls", "met_units"


@dataclass(frozen=True, slots=True)
class Tariff:
    """A plan in the simulator's own words. `tiers`: (up to, price, flat); money in minor units, prices as text.

    `daily` and `monthly` are allowances; `package` the size of a package; `model` says how `tiers` are read.
    """

    name: str
    meter: str = CALLS
    ahead: int = 0
    arrears: int = 0
    model: str = "per_unit"
    price: str = "0"
    package: int = 1
    daily: int | None = None
    monthly: int | None = None
    tiers: tuple[tuple[int | None, str, int], ...] = ()
    least: int | None = None
    currency: str = "usd"


_GRADUATED = ((10, "50", 25), (40, "12.5", 0), (None, "3.125", 70))
_VOLUME = ((20, "31.5", 0), (None, "9.75", 40))
TARIFFS = (
    Tariff("wso2", ahead=4900, model="package", price="100", package=3, daily=5),
    Tariff("per_unit", price="7.25", monthly=10),
    Tariff("graduated", meter=UNITS, arrears=990, model="graduated", tiers=_GRADUATED),
    Tariff("volume", meter=UNITS, ahead=1500, model="volume", tiers=_VOLUME, currency="eur"),
    Tariff("least", price="33.333", least=2500),
    Tariff("falling", meter=UNITS, model="volume", tiers=_VOLUME),
    Tariff("packages", ahead=700, model="package", price="20", package=5, monthly=30, currency="eur"),
    Tariff("yen", ahead=500, price="0.75", monthly=20, currency="jpy"),
    Tariff("more yen", meter=UNITS, ahead=1200, model="volume", tiers=_VOLUME, currency="jpy"),
    Tariff("dinar", ahead=4990, price="7.5", daily=2, currency="kwd"),
    Tariff("more dinar", meter=UNITS, arrears=9000, model="graduated", tiers=_GRADUATED, currency="kwd"),
)
# Stripe takes three-decimal amounts in tens (https://docs.stripe.com/currencies#three-decimal).
STEPS = {"kwd": 10}


def other_than(tariff: Tariff) -> Tariff:
    """The tariff that a subscription of this one can change to: the next in its currency."""
    same = [each for each in TARIFFS if each.currency == tariff.currency]
    return same[(same.index(tariff) + 1) % len(same)]


def terms_of(tariff: Tariff) -> PlanTerms:
    """The same plan in the product's words."""
    if tariff.name == "wso2":
        return wso2_terms(
            price=tariff.ahead,
            max_daily_usage=tariff.daily or 0,
            overage_charge=Decimal(tariff.price),
            overage_unit=tariff.package,
            meter=tariff.meter,
            currency=tariff.currency,
        )
    charges: list[Charge] = []
    if tariff.ahead:
        charges.append(Charge(id="fee", name="Fee", model="flat", amount=tariff.ahead, timing="advance"))
    if tariff.arrears:
        charges.append(Charge(id="base", name="Base", model="flat", amount=tariff.arrears, timing="arrears"))
    allowed = None if tariff.monthly is None else Allowance(quantity=tariff.monthly, per="period")
    tiered = tariff.model in ("graduated", "volume")
    charges.append(
        Charge(
            id="use",
            name="Use",
            model=tariff.model,  # type: ignore[arg-type] # one of the product's models
            meter=tariff.meter,
            unit_price=None if tiered else Decimal(tariff.price),
            package_size=tariff.package if tariff.model == "package" else None,
            tiers=tuple(PriceTier(up_to=up, unit_price=Decimal(p), flat_amount=flat) for up, p, flat in tariff.tiers),
            allowance=Allowance(quantity=tariff.daily, per="day") if tariff.daily is not None else allowed,
        )
    )
    return PlanTerms(currency=tariff.currency, charges=tuple(charges), minimum=tariff.least)


def half_up(exact: Fraction, step: int = 1) -> int:
    """The nearest multiple of `step`; a half away from zero (nothing here is negative)."""
    return step * int(exact / step + Fraction(1, 2))


def month_of(instant: datetime) -> tuple[datetime, datetime]:
    """The calendar month that holds an instant."""
    first = datetime(instant.year, instant.month, 1, tzinfo=UTC)
    return first, first + timedelta(days=calendar.monthrange(instant.year, instant.month)[1])


def share(start: datetime, end: datetime) -> Fraction:
    """What part of its calendar month a stretch is."""
    first, after = month_of(start)
    return Fraction(int((end - start).total_seconds()), int((after - first).total_seconds()))


def part(amount: int, start: datetime, end: datetime, step: int) -> int:
    """What a stretch of one calendar month costs of its amount: due at its end, less what was due at its start."""
    first, _ = month_of(start)
    before = half_up(amount * share(first, start), step) if start > first else 0
    return half_up(amount * share(first, end), step) - before


def fee(tariff: Tariff, start: datetime, end: datetime) -> int:
    """The fee in advance for a stretch of one calendar month."""
    return part(tariff.ahead, start, end, STEPS.get(tariff.currency, 1))


def behind(tariff: Tariff, start: datetime, end: datetime, used: Mapping[date, int], extra: int = 0) -> int:
    """What a closed period owes for its usage, its fee in arrears and its minimum. `extra`: allowance on top."""
    step = STEPS.get(tariff.currency, 1)
    owed = half_up(_usage(tariff, share(start, end), used, extra), step) + part(tariff.arrears, start, end, step)
    if tariff.least is not None:
        owed = max(owed, part(tariff.least, start, end, step))
    return owed


def _usage(tariff: Tariff, lived: Fraction, used: Mapping[date, int], extra: int) -> Fraction:
    price = Fraction(tariff.price)
    if tariff.daily is not None:
        owed = Fraction(0)
        for day in sorted(used):
            above = max(0, used[day] - tariff.daily)
            free = min(above, extra)
            extra -= free
            owed += -(-(above - free) // tariff.package) * price
        return owed
    total = sum(used.values())
    if tariff.monthly is not None:
        total = max(0, total - -(-tariff.monthly * lived.numerator // lived.denominator))
    total = max(0, total - extra)
    if total == 0:
        return Fraction(0)
    if tariff.model == "per_unit":
        return total * price
    if tariff.model == "package":
        return -(-total // tariff.package) * price
    if tariff.model == "volume":
        _, unit, flat = next(tier for tier in tariff.tiers if tier[0] is None or total <= tier[0])
        return total * Fraction(unit) + flat
    owed, floor = Fraction(0), 0
    for up, unit, flat in tariff.tiers:
        if total > floor:
            owed += (min(total, up if up is not None else total) - floor) * Fraction(unit) + flat
            floor = up if up is not None else total
    return owed
