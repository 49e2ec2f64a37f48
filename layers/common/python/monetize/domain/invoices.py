"""What a subscription owes at one billing date (the bill), and what Stripe collects (the invoice)."""

from dataclasses import dataclass
from datetime import date, datetime

from monetize.domain.collecting import InvoiceLine
from monetize.domain.rating import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One entry of the to-do list: what (subscription, bill, invoice …) and since when.

    `group` is its publisher: messages of one group wait for each other, not for the others.
    """

    kind: str
    id: str
    at: datetime
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """At most one for (subscription, edge): its key says so. Money in minor units of `currency`.

    `invoice` is Stripe's id of the one draft that may ever be finalized or paid, stored under a condition.
    """

    subscription: str
    publisher: str
    subscriber: str
    account: str
    currency: str
    edge: datetime
    last: bool = False  # the final bill after a cancellation
    status: str = "claimed"  # states.BILL
    attempt: int = 0  # drafts begun; part of the derived idempotency keys
    subtotal: int = 0
    carry_in: int = 0
    carry_out: int = 0
    application_fee: int = 0
    lines: int = 0
    invoice: str | None = None
    reason: str = ""  # why parked or held
    approved: bool = False  # released by a person: safety bounds do not hold it again
    late: tuple[str, ...] = ()  # sort keys of the late entries and corrections it took
    run: str = ""
    due_scope: str = ""  # the part of the to-do list of a publisher with a clock of its own
    next_at: datetime | None = None  # in the to-do list until sent, empty, waived; parked and held are not in it
    created_at: datetime
    sent_at: datetime | None = None
    rev: int = 0

    @property
    def id(self) -> str:
        """The bill's public name."""
        return f"{self.subscription}.{self.edge:%Y%m%dT%H%M%SZ}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLines:
    """What a bill charges, frozen when rated; apart from the bill, so that a change of status does not rewrite it.

    `products[i]` is the Stripe product that `lines[i]` is sold as. `carry_in` and `carry_out` are credit (zero or
    negative) taken from the bill before and left for the next. `late` names the late entries and corrections it took.
    """

    subscription: str
    edge: datetime
    lines: tuple[Line, ...]
    products: tuple[str, ...]
    tax_behavior: str = "unspecified"
    subtotal: int = 0
    carry_in: int = 0
    carry_out: int = 0
    application_fee: int = 0
    late: tuple[str, ...] = ()
    usage: tuple[tuple[str, date, int], ...] = ()  # (meter, day, quantity) that was rated
    advanced: tuple[tuple[str, datetime, datetime, int], ...] = ()  # charged in advance: (charge, start, end, amount)
    rev: int = 0

    def invoice_lines(self) -> tuple[InvoiceLine, ...]:
        """The lines as they are sent."""
        return tuple(
            InvoiceLine(
                amount=line.amount,
                description=line.description,
                product=product,
                period_start=line.period.start,
                period_end=line.period.end,
            )
            for line, product in zip(self.lines, self.products, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """Our record of one Stripe invoice of ours. `total` is Stripe's, tax included; `amount` is ours."""

    id: str
    stripe_id: str
    account: str
    publisher: str
    subscriber: str
    subscription: str
    edge: datetime
    currency: str
    amount: int
    application_fee: int = 0
    total: int = 0
    tax: int = 0
    amount_paid: int = 0
    amount_remaining: int = 0
    credited: int = 0
    refunded: int = 0
    status: str = "open"  # states.INVOICE
    number: str = ""
    attempts: int = 0
    next_attempt_at: datetime | None = None
    due_scope: str = ""
    failure: str = ""
    disputed: str = ""
    issued_at: datetime
    paid_at: datetime | None = None
    rev: int = 0
