"""A report is counted in steps, each adding some invoices or subscriptions to what was counted before. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from monetize.domain.invoices import Invoice
from monetize.domain.money import EXACT, chargeable, currency_of, divide_half_up, prorate
from monetize.domain.plans import PlanTerms
from monetize.domain.subscriptions import Discount


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A report as of an instant, as far as it was counted: everything up to `after` is in it, nothing behind it.

    `groups[dimension]["a|b|measure"]` are counts and minor units.
    """

    publisher: str
    name: str
    as_of: datetime
    after: str | None = None
    seen: int = 0
    complete: bool = False
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    parts: tuple[str, ...] = ()  # objects an export consists of
    rev: int = 0

    def add(self, dimension: str, key: tuple[str, ...], measure: str, value: int) -> None:
        """Count some more. A snapshot that is being built is nobody else's."""
        group = self.groups.setdefault(dimension, {})
        name = _named(key, measure)
        group[name] = group.get(name, 0) + value

    def drop(self, dimension: str, key: tuple[str, ...], measure: str) -> None:
        """Let go what was counted."""
        self.groups[dimension].pop(_named(key, measure), None)

    def rows(self, dimension: str) -> list[tuple[tuple[str, ...], dict[str, int]]]:
        """The measures of every key of a dimension, in the keys' order."""
        found: dict[tuple[str, ...], dict[str, int]] = {}
        for name, value in self.groups.get(dimension, {}).items():
            *key, measure = name.split("|")
            found.setdefault(tuple(key), {})[measure] = value
        return sorted(found.items())


def _named(key: tuple[str, ...], measure: str) -> str:
    return "|".join((*(part.replace("|", "/") for part in key), measure))


@dataclass(frozen=True, slots=True)
class Links:
    """Stripe's own pages of an invoice: for the caller's eyes, never stored, never logged."""

    hosted: str = ""
    pdf: str = ""
    available: bool = True


def a_month(yearly: int) -> int:
    """A twelfth of what is committed for a year, rounded half-up."""
    return divide_half_up(yearly, 12)


def months_of(yearly: Sequence[int]) -> list[int]:
    """Twelfths of yearly amounts, each within one minor unit of its own, that add up to the twelfth of their sum."""
    found, before = [], 0
    for each in yearly:
        found.append(a_month(before + each) - a_month(before))
        before += each
    return found


def committed(terms: PlanTerms | None, discounts: Iterable[Discount] = ()) -> int:
    """What a year of a plan's bills comes to without any usage, in minor units: its fees, or a higher minimum, less
    discounts, which come off each bill in their order. Twelve bills; one of them charges what is yearly.
    """
    if terms is None:
        return 0
    fees = [charge for charge in terms.charges if charge.model == "flat"]
    monthly = max(sum(charge.amount or 0 for charge in fees if charge.interval == "month"), terms.minimum or 0)
    yearly = sum(charge.amount or 0 for charge in fees if charge.interval == "year")
    off = tuple(discounts)
    return 11 * _less(monthly, off, terms.currency) + _less(monthly + yearly, off, terms.currency)


def _less(amount: int, discounts: Iterable[Discount], currency: str) -> int:
    for each in discounts:
        share = EXACT.multiply(Decimal(each.percent or 0), Decimal(amount)) / 100
        amount -= min(amount, each.amount if each.amount is not None else chargeable(share, currency_of(currency)))
    return amount


def percent(part: int, whole: int) -> str | None:
    """`part` of `whole` in percent, two decimals; None of nothing."""
    if whole == 0:
        return None
    return str((Decimal(part) * 100 / Decimal(whole)).quantize(Decimal("0.01"), ROUND_HALF_UP))


def revenue_of(invoice: Invoice) -> dict[str, int]:
    """What an invoice adds to revenue, in minor units; what is nothing is left out.

    `amount` is before tax that comes on top. Under the provider's least charge it is moved to what the customer owes
    there: `carried`, no revenue, until a later invoice asks for it, `carried_collected` (tax included). A void invoice
    is `void` and nothing else.
    """
    if invoice.status == "void":
        return {"void": invoice.amount}
    left = min(invoice.total, max(0, invoice.carried - invoice.credited))  # a credit note settled the rest of it

    def settled(amount: int) -> int:
        return amount - prorate(amount, left, invoice.total) if left else amount

    found = {
        "amount": settled(invoice.amount),
        "tax": settled(invoice.tax),
        "paid": invoice.amount_paid,
        "outstanding": invoice.amount_remaining if invoice.status in OWED else 0,
        "uncollectible": invoice.amount_remaining if invoice.status == "uncollectible" else 0,
        "credited": invoice.credited,
        "refunded": invoice.refunded,
        "application_fee": settled(invoice.application_fee),
        "carried": invoice.amount - settled(invoice.amount),
        "carried_collected": max(0, -invoice.carried),
    }
    return {measure: value for measure, value in found.items() if value}


OWED: Final = ("open", "payment_failed")
AGES: Final = ("not_due", "1-30", "31-60", "61-90", "over_90")


def age_bucket(days_overdue: int) -> str:
    """Which of the usual buckets."""
    if days_overdue <= 0:
        return "not_due"
    return next((AGES[at] for at, limit in ((1, 30), (2, 60), (3, 90)) if days_overdue <= limit), AGES[4])


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """A meter's largest consumers. `late` is not in `total`; `let_go` is of those too small to be kept."""

    meter: str
    total: int
    late: int = 0
    let_go: int = 0
    subscribers: tuple[tuple[str, int], ...] = field(default_factory=tuple)
