"""What is sent to Stripe for one bill, and what Stripe says it holds. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """One line as sent: our integer, never negative, the arithmetic in the description."""

    amount: int
    description: str
    product: str
    period_start: datetime
    period_end: datetime
    tax_behavior: str = "unspecified"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """Everything a draft is made of but its lines. `bill` and `attempt` are found again in its metadata."""

    account: str
    customer: str
    currency: str
    bill: str
    invoice: str
    attempt: int
    subscription: str
    collection: str
    days_until_due: int
    automatic_tax: bool
    application_fee: int
    footer: str
    custom_fields: tuple[tuple[str, str], ...]
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldInvoice:
    """An invoice as Stripe holds it now. Money in minor units; `subtotal` is `total_excluding_tax`.

    `listed` is the sum of its lines at their prices, before discounts and before tax that comes on top.
    """

    id: str
    status: str  # draft, open, paid, void, uncollectible
    currency: str
    customer: str
    subtotal: int
    listed: int
    total: int
    tax: int
    amount_paid: int
    amount_remaining: int
    number: str
    lines: tuple[int, ...]  # the amounts of the first page of lines, at most 250
    taxed: frozenset[tuple[int, str]] = frozenset()  # amount and tax behavior of those of them that bear tax
    line_count_complete: bool
    bill: str
    attempt: int
    created: datetime
    collection: str  # charge_automatically, send_invoice
    due_at: datetime | None = None  # only where the customer pays by itself
    attempted: int = 0
    hosted_url: str = ""
    pdf_url: str = ""
    failure: str = ""


def differences(held: HeldInvoice, lines: Sequence[InvoiceLine], currency: str, customer: str) -> tuple[str, ...]:
    """What Stripe's draft has otherwise than ours, in words; empty when they agree to the minor unit.

    Where prices include tax, our amounts are compared with the total; otherwise with the total without tax; with what
    is listed where a change of version brought both. What is listed is the same whichever way a line is taxed, so each
    line that bears tax is compared too.
    """
    found = []
    if held.currency != currency:
        found.append(f"currency {held.currency} instead of {currency}")
    if held.customer != customer:
        found.append("another customer")
    ours = sorted(line.amount for line in lines)
    if held.line_count_complete and sorted(held.lines) != ours:
        found.append(f"{len(held.lines)} lines {sum(held.lines)} instead of {len(ours)} lines {sum(ours)}")
    told = {(line.amount, line.tax_behavior) for line in lines}
    for amount, behavior in sorted(held.taxed - told):
        if (amount, "unspecified") not in told:
            found.append(f"a line of {amount} with tax {behavior}")
    included = {line.tax_behavior == "inclusive" for line in lines}
    total = held.listed if len(included) > 1 else held.total if True in included else held.subtotal
    if total != sum(ours):
        found.append(f"total {total} instead of {sum(ours)}")
    return tuple(found)
