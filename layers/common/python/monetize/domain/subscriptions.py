"""A subscription: an application's right to call one API at one tier, and the spans of time it pays by one price."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Billing and contact information. Personal: erased on request, never logged."""

    name: str
    email: str
    line1: str = ""
    line2: str = ""
    city: str = ""
    state: str = ""
    postal_code: str = ""
    country: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """The subscriber at one Stripe account: one customer per (subscriber, account)."""

    account: str
    id: str
    payment_method: str | None = None
    brand: str = ""
    last4: str = ""
    expires: str = ""  # yyyy-mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """An organization that consumes one publisher's APIs."""

    id: str
    publisher: str
    contact: Contact | None = None
    customers: tuple[Customer, ...] = ()
    payment_grace_days: int | None = None
    erased_at: datetime | None = None
    created_at: datetime
    rev: int = 0

    def customer(self, account: str) -> Customer | None:
        """Who it is at that Stripe account."""
        return next((customer for customer in self.customers if customer.account == account), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What a subscriber calls APIs from."""

    id: str
    publisher: str
    subscriber: str
    name: str
    description: str = ""
    live: int = 0  # subscriptions not ended; an application with any is not deleted
    created_at: datetime
    rev: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From `start` to the next span (or the end) one plan version holds. `kind`: free, trial, paid, paused."""

    start: datetime
    kind: str
    tier: str
    plan: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of tier that waits for its instant, always a period's end."""

    at: datetime
    tier: str
    plan: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """Extra allowance for one period, bought or given once. `month` names the period's first day, ISO."""

    id: str
    meter: str
    quantity: int
    period_start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """Off a bill's charges, once or for ever. Exactly one of percent (decimal string) and amount (minor units)."""

    id: str
    percent: str | None = None
    amount: int | None = None
    once: bool = False
    used_by: str | None = None  # the bill that took a discount given once


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One application, one product, one tier. `next_edge` is its next billing date, None when nothing will be billed.

    Every bill stands at an edge: the opening bill at the first paid instant, then each period's end. `due_at` is when
    the billing run may take it (edge + grace), the subscription's place in the to-do list.
    """

    id: str
    publisher: str
    subscriber: str
    application: str
    product: str
    apis: tuple[str, ...]
    tier: str
    status: str  # states.SUBSCRIPTION
    payment_state: str = "current"  # states.PAYMENT
    past_due_since: datetime | None = None
    block: str = "none"  # none, production, all
    block_reason: str = ""
    plan: str | None = None
    version: int | None = None
    currency: str = ""
    account: str = ""
    spans: tuple[Span, ...] = ()
    anchor_month: int = 1
    anchor_day: int = 1
    next_edge: datetime | None = None
    due_at: datetime | None = None
    last_edge: datetime | None = None
    change: Change | None = None
    cancel_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str = ""
    checkout: str | None = None  # Stripe's session, while payment is pending
    checkout_expires_at: datetime | None = None
    spend_cap: int | None = None
    topups: tuple[TopUp, ...] = ()
    discounts: tuple[Discount, ...] = ()
    shards: tuple[tuple[str, int], ...] = ()  # (yyyy-mm, shard count) where it is not 1, set before the month begins
    invoice_email: str = ""
    created_at: datetime
    activated_at: datetime | None = None
    rev: int = 0

    @property
    def commercial(self) -> bool:
        """Whether it costs anything."""
        return self.plan is not None

    @property
    def live(self) -> bool:
        """Whether it still holds its guards."""
        return self.status != "ended"
