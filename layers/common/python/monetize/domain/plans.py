"""What a plan costs: its charges and terms, and which terms make no sense."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from monetize.domain.currencies import Currency
from monetize.domain.errors import Invalid
from monetize.domain.money import check_unit_price, currency_of
from monetize.domain.periods import AnchorMode

type Model = Literal["flat", "per_unit", "graduated", "volume", "package"]
type Interval = Literal["month", "year"]
type Timing = Literal["advance", "arrears"]
type Per = Literal["day", "period"]
type TaxBehavior = Literal["inclusive", "exclusive", "unspecified"]
type Activation = Literal["on_card", "on_payment"]
type PlanStatus = Literal["draft", "published", "archived"]

MOST_CHARGES: Final = 50
RESERVED: Final = frozenset({"minimum", "maximum"})  # lines of our own
MOST_TIERS: Final = 100
MOST_QUANTITY: Final = 10**15
# Stripe's own bound on an amount is 12 digits.
MOST_AMOUNT: Final = 10**12
MOST_TRIAL_DAYS: Final = 730


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Units that cost nothing: on every UTC day, or in the whole period (prorated with it, rounded up)."""

    quantity: int
    per: Per


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTier:
    """Units up to and including `up_to` (None: without end), `unit_price` each in minor units, and a flat amount once
    the tier is reached."""

    up_to: int | None
    unit_price: Decimal
    flat_amount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One priced item.

    flat: `amount` minor units per `interval`, in advance or arrears. per_unit: `unit_price` minor units. package:
    `unit_price` per started `package_size`. graduated, volume: `tiers`. Priced usage is always monthly, in arrears.
    """

    id: str
    name: str
    model: Model
    meter: str | None = None
    amount: int | None = None
    interval: Interval = "month"
    timing: Timing = "arrears"
    unit_price: Decimal | None = None
    package_size: int | None = None
    tiers: tuple[PriceTier, ...] = ()
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A hard limit without a price: what is used above it is recorded and never billed."""

    meter: str
    quantity: int
    per: Per


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """Everything a subscription pins when it pins a plan version.

    `minimum` and `maximum` (minor units) bound a month's charges: usage and monthly flat fees, without yearly ones.
    `grace_days`: how long an unpaid invoice leaves access open; None leaves it to the publisher's setting.
    """

    currency: str
    charges: tuple[Charge, ...]
    minimum: int | None = None
    maximum: int | None = None
    trial_days: int = 0
    tax_behavior: TaxBehavior = "unspecified"
    tax_code: str | None = None
    quotas: tuple[Quota, ...] = ()
    anchor: AnchorMode = "calendar"
    activation: Activation = "on_card"
    grace_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The head of a plan: `latest` is the number of its newest published version, 0 before the first."""

    id: str
    publisher: str
    name: str
    status: PlanStatus
    created_at: datetime
    updated_at: datetime
    tier: str | None = None
    latest: int = 0
    draft: PlanTerms | None = None
    description: str = ""
    rev: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanVersion:
    """What was published, never changed afterwards: the name and the terms existing subscribers keep."""

    plan: str
    publisher: str
    number: int
    name: str
    terms: PlanTerms
    published_at: datetime
    stripe_product: str | None = None
    rev: int = 0


def wso2_terms(
    *,
    price: int,
    max_daily_usage: int,
    overage_charge: Decimal,
    overage_unit: int,
    meter: str,
    currency: str,
    tax_behavior: TaxBehavior = "unspecified",
    tax_code: str | None = None,
    trial_days: int = 0,
) -> PlanTerms:
    """WSO2 API Cloud's four fields: a monthly price in advance, and above each day's usage a charge per started unit.

    `price` in minor units, `overage_charge` in minor units per `overage_unit` calls.
    """
    fee = Charge(id="fee", name="Monthly fee", model="flat", amount=price, timing="advance")
    overage = Charge(
        id="overage",
        name="Overage",
        model="package",
        meter=meter,
        unit_price=overage_charge,
        package_size=overage_unit,
        allowance=Allowance(quantity=max_daily_usage, per="day"),
    )
    return PlanTerms(
        currency=currency,
        charges=(fee, overage),
        tax_behavior=tax_behavior,
        tax_code=tax_code,
        trial_days=trial_days,
    )


def validate_terms(terms: PlanTerms, meters: Collection[str]) -> None:
    """Refuse terms that make no sense; `meters` are the ids the publisher has.

    Raises Invalid with the first problem's code; its member `problems` lists every `{code, at, detail}` found.
    """
    problems = tuple(problems_of(terms, meters))
    if problems:
        first = problems[0]
        listed = [{"code": each.code, "at": each.at, "detail": each.detail} for each in problems]
        raise Invalid(first.code, first.detail, problems=listed)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with terms: a stable code, where (`charges/0/tiers/1`), and a sentence."""

    code: str
    at: str
    detail: str


def problems_of(terms: PlanTerms, meters: Collection[str]) -> Iterator[Problem]:
    """Everything wrong with the terms, in the order they are written."""
    try:
        currency = currency_of(terms.currency)
    except Invalid as unknown:
        yield Problem(unknown.code, "currency", unknown.detail)
        return
    if not terms.charges:
        yield Problem("no_charges", "charges", "A plan has at least one charge.")
    if len(terms.charges) > MOST_CHARGES:
        yield Problem("too_many_charges", "charges", f"A plan has at most {MOST_CHARGES} charges.")
        return
    for charge, times in Counter(each.id for each in terms.charges).items():
        if times > 1:
            yield Problem("duplicate_charge", "charges", f"Charge {charge!r} is there {times} times.")
    for at, charge_at in enumerate(terms.charges):
        yield from _charge_problems(charge_at, f"charges/{at}", currency, meters)
    yield from _bound_problems(terms, currency)
    yield from _quota_problems(terms, meters)
    if not 0 <= terms.trial_days <= MOST_TRIAL_DAYS:
        yield Problem("bad_trial_days", "trial_days", f"A trial has 0 to {MOST_TRIAL_DAYS} days.")
    if terms.grace_days is not None and terms.grace_days < 0:
        yield Problem("bad_grace_days", "grace_days", "Grace is not negative.")


def _charge_problems(charge: Charge, at: str, currency: Currency, meters: Collection[str]) -> Iterator[Problem]:
    if not charge.id or not charge.id.replace("_", "").replace("-", "").isalnum():
        yield Problem("bad_charge_id", f"{at}/id", "A charge's id has letters, digits, - and _.")
    if charge.id in RESERVED:
        yield Problem("reserved_charge_id", f"{at}/id", f"Lines of our own are called {charge.id}.")
    if not charge.name.strip():
        yield Problem("charge_without_name", f"{at}/name", "A charge has a name.")
    yield from _foreign_field_problems(charge, at)
    if charge.model == "flat":
        if charge.amount is None:
            yield Problem("amount_missing", f"{at}/amount", "A flat charge has an amount.")
        else:
            yield from _amount_problems(charge.amount, f"{at}/amount", currency)
    else:
        yield from _usage_problems(charge, at, currency, meters)


def _usage_problems(charge: Charge, at: str, currency: Currency, meters: Collection[str]) -> Iterator[Problem]:
    if charge.meter is None:
        yield Problem("meter_missing", f"{at}/meter", "A price for usage names its meter.")
    elif charge.meter not in meters:
        yield Problem("unknown_meter", f"{at}/meter", f"There is no meter {charge.meter!r}.")
    if charge.timing == "advance":
        yield Problem("usage_in_advance", f"{at}/timing", "Usage is charged in arrears.")
    if charge.interval == "year":
        yield Problem("usage_by_year", f"{at}/interval", "Usage is charged by the month.")
    if charge.allowance is not None and not 0 <= charge.allowance.quantity <= MOST_QUANTITY:
        yield Problem("bad_allowance", f"{at}/allowance", f"An allowance is 0 to {MOST_QUANTITY}.")
    if charge.model in ("graduated", "volume"):
        yield from _tier_problems(charge, at, currency)
        return
    if charge.unit_price is None:
        yield Problem("price_missing", f"{at}/unit_price", f"A {charge.model} charge has a unit price.")
    else:
        yield from _price_problems(charge.unit_price, f"{at}/unit_price")
    if charge.model == "package" and not (charge.package_size and 0 < charge.package_size <= MOST_QUANTITY):
        yield Problem("bad_package_size", f"{at}/package_size", "A package holds at least one unit.")


# What belongs to which model; anything else in a charge is a misunderstanding, told rather than ignored.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "flat": ("amount",),
    "per_unit": ("meter", "unit_price", "allowance"),
    "package": ("meter", "unit_price", "allowance", "package_size"),
    "graduated": ("meter", "tiers", "allowance"),
    "volume": ("meter", "tiers", "allowance"),
}
_PRICED: Final[dict[str, Callable[[Charge], bool]]] = {
    "amount": lambda charge: charge.amount is not None,
    "meter": lambda charge: charge.meter is not None,
    "unit_price": lambda charge: charge.unit_price is not None,
    "package_size": lambda charge: charge.package_size is not None,
    "tiers": lambda charge: bool(charge.tiers),
    "allowance": lambda charge: charge.allowance is not None,
}


def _foreign_field_problems(charge: Charge, at: str) -> Iterator[Problem]:
    for field, given in _PRICED.items():
        if field not in _FIELDS[charge.model] and given(charge):
            yield Problem("field_not_of_model", f"{at}/{field}", f"A {charge.model} charge has no {field}.")


def _tier_problems(charge: Charge, at: str, currency: Currency) -> Iterator[Problem]:
    if not charge.tiers:
        yield Problem("tiers_missing", f"{at}/tiers", f"A {charge.model} charge has tiers.")
        return
    if len(charge.tiers) > MOST_TIERS:
        yield Problem("too_many_tiers", f"{at}/tiers", f"A charge has at most {MOST_TIERS} tiers.")
        return
    below = 0
    for number, tier in enumerate(charge.tiers):
        here = f"{at}/tiers/{number}"
        last = number == len(charge.tiers) - 1
        if tier.up_to is None and not last:
            yield Problem("open_tier_not_last", here, "Only the last tier has no end.")
        if tier.up_to is not None:
            if last:
                yield Problem("last_tier_not_open", here, "The last tier has no end, or some usage has no price.")
            if tier.up_to <= below:
                yield Problem("overlapping_tiers", here, f"A tier after {below} ends above {below}.")
            if tier.up_to > MOST_QUANTITY:
                yield Problem("quantity_too_large", here, f"A tier ends at {MOST_QUANTITY} at most.")
            below = max(below, tier.up_to)
        yield from _price_problems(tier.unit_price, f"{here}/unit_price")
        yield from _amount_problems(tier.flat_amount, f"{here}/flat_amount", currency)


def _price_problems(price: Decimal, at: str) -> Iterator[Problem]:
    try:
        check_unit_price(price)
    except Invalid as refused:
        yield Problem(refused.code, at, refused.detail)


def _amount_problems(amount: int, at: str, currency: Currency) -> Iterator[Problem]:
    if amount < 0:
        yield Problem("negative_amount", at, "An amount is not negative.")
    if amount >= MOST_AMOUNT:
        yield Problem("amount_too_large", at, f"An amount is below {MOST_AMOUNT} minor units.")
    if amount % currency.multiple_of:
        detail = f"Amounts in {currency.code} are multiples of {currency.multiple_of} minor units."
        yield Problem("amount_not_chargeable", at, detail)


def _bound_problems(terms: PlanTerms, currency: Currency) -> Iterator[Problem]:
    if terms.minimum is not None:
        yield from _amount_problems(terms.minimum, "minimum", currency)
    if terms.maximum is None:
        return
    yield from _amount_problems(terms.maximum, "maximum", currency)
    if terms.minimum is not None and terms.maximum < terms.minimum:
        yield Problem("maximum_below_minimum", "maximum", "The maximum is not below the minimum.")
    flat = sum(each.amount or 0 for each in terms.charges if each.model == "flat" and each.interval == "month")
    if terms.maximum < flat:
        yield Problem("maximum_below_fees", "maximum", "The maximum is not below the sum of the monthly fees.")


def _quota_problems(terms: PlanTerms, meters: Collection[str]) -> Iterator[Problem]:
    times = Counter((each.meter, each.per) for each in terms.quotas)
    for number, quota in enumerate(terms.quotas):
        at = f"quotas/{number}"
        if quota.meter not in meters:
            yield Problem("unknown_meter", at, f"There is no meter {quota.meter!r}.")
        if not 0 <= quota.quantity <= MOST_QUANTITY:
            yield Problem("bad_quota", at, f"A quota is 0 to {MOST_QUANTITY}.")
        if times[quota.meter, quota.per] > 1:
            yield Problem("duplicate_quota", at, "A meter has one quota a day and one a period.")
