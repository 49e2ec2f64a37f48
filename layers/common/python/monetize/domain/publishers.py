"""A publisher: the tenant, its link to its own Stripe account, and how it wants to bill."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

MOST_AHEAD: Final = timedelta(days=1100)  # a sandbox's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthState:
    """What is remembered under a state's hash until its one use."""

    organization: str
    user: str
    return_to: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A connected account as Stripe tells it."""

    id: str
    name: str
    country: str
    currency: str
    charges_enabled: bool
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the provider gave for a code: never a token."""

    account: str
    livemode: bool
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeLink:
    """The connected account. No tokens: the platform's key with `Stripe-Account` does everything."""

    account: str
    livemode: bool
    scope: str
    connected_at: datetime
    name: str = ""
    country: str = ""
    currency: str = ""
    charges_enabled: bool = False
    requirements: tuple[str, ...] = ()
    deauthorized_at: datetime | None = None

    @property
    def usable(self) -> bool:
        """Whether invoices can be made and collected on it."""
        return self.charges_enabled and self.deauthorized_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLink:
    """An account that came back from OAuth and waits for its owner's confirmation."""

    account: str
    livemode: bool
    scope: str
    user: str
    token_sha256: str
    expires_at: datetime
    name: str = ""
    country: str = ""
    currency: str = ""
    charges_enabled: bool = False
    requirements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingSettings:
    """What a publisher decides about its billing. Durations in their named unit, money in minor units."""

    grace_hours: int = 24
    late_window_days: int = 35
    collection: str = "charge_automatically"  # or send_invoice
    days_until_due: int = 14
    automatic_tax: bool = False
    memo: str = ""  # shown on every invoice instead of the bill's name
    footer: str = ""
    custom_fields: tuple[tuple[str, str], ...] = ()
    retry_days: tuple[int, ...] = (1, 3, 5, 7)
    payment_grace_days: int = 3
    hold_above: int | None = None
    hold_times_last: int | None = None
    fail_open: bool = True
    approval: bool = False
    threshold_percents: tuple[int, ...] = (85, 100)
    threshold_amounts: tuple[int, ...] = ()  # what a subscription's period costs when somebody is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """An organization that sells APIs."""

    id: str
    status: str = "new"  # states.PUBLISHER
    stripe: StripeLink | None = None
    pending: PendingLink | None = None
    settings: BillingSettings = field(default_factory=BillingSettings)
    fee_percent: str = "0"  # the platform's share, decimal percent, set by the operator
    fee_fixed: int = 0
    sandbox: bool = False
    clock_offset_seconds: int = 0  # sandbox publishers only: their own clock is ahead by this
    held_at: datetime | None = None  # billing waits since then, until it is released
    held_reason: str = ""
    held_by_operator: bool = False
    created_at: datetime
    enabled_at: datetime | None = None
    rev: int = 0
