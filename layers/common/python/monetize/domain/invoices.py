"""What a subscription owes at one billing date (the bill), and what Stripe collects (the invoice)."""

from dataclasses import dataclass
from datetime import date, datetime

from monetize.domain.rating import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One entry of the to-do list: what (subscription, bill, invoice …), since when, and where it stands.

    `mark` is its index key as read: a lease is taken on condition that it is still that.
    """

    kind: str
    id: str
    at: datetime
    pk: str
    sk: str
    mark: str


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
    """Frozen when rated; apart from the bill, so that a change of status does not rewrite them."""

    subscription: str
    edge: datetime
    lines: tuple[Line, ...]
    usage: tuple[tuple[str, date, int], ...]  # (meter, day, quantity) that was rated
    rev: int = 0


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
    failure: str = ""
    disputed: str = ""
    issued_at: datetime
    paid_at: datetime | None = None
    rev: int = 0
