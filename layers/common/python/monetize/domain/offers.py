"""What a subscriber may choose: a publisher's product at one of its tiers, with what that costs today. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from monetize.domain.catalog import Product, Tier
from monetize.domain.errors import Conflict
from monetize.domain.periods import to_the_second
from monetize.domain.plans import Plan, PlanTerms, PlanVersion
from monetize.domain.publishers import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """As read at one instant; a subscription begins only if none of it changed since. Free tiers have no plan."""

    publisher: Publisher
    product: Product
    tier: Tier
    plan: Plan | None = None
    version: PlanVersion | None = None

    @property
    def terms(self) -> PlanTerms | None:
        """What it costs; None when it is free."""
        return self.version.terms if self.version is not None else None

    @property
    def approval(self) -> bool:
        """Whether the publisher looks at each subscription first."""
        return self.product.approval or self.publisher.settings.approval


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSummary:
    """What subscribing would mean: the first bill (minor units, before tax), what recurs, and when."""

    tier: Tier
    version: PlanVersion | None
    starts_at: datetime
    trial_ends_at: datetime | None
    first_bill_at: datetime | None
    first_period_ends_at: datetime | None
    first_amount: int
    next_bill_at: datetime | None
    recurring_month: int
    recurring_year: int
    card_on_file: bool
    approval: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a change of tier would mean, in minor units before tax and usage. `due` < 0 is credit for later bills."""

    tier: str
    version: PlanVersion | None
    currency: str
    upgrade: bool
    takes_effect_at: datetime
    credit: int
    charge: int
    due: int
    next_bill_at: datetime | None
    needs_payment_method: bool


def check_open(offer: Offer) -> None:
    """Refuse what takes no new subscription now.

    Conflict: `publisher_not_enabled`, `product_deleted`, `tier_not_offered`, `plan_archived`, `plan_not_published`,
    `account_restricted`.
    """
    publisher = offer.publisher
    if publisher.status != "enabled":
        raise Conflict("publisher_not_enabled", "The publisher takes no subscriptions now.")
    if offer.product.deleted_at is not None:
        raise Conflict("product_deleted", "The API is not offered any more.")
    if offer.tier.id not in offer.product.tiers:
        raise Conflict("tier_not_offered", "The API is not offered at this tier.")
    if not offer.tier.commercial:
        return
    if publisher.stripe is None or not publisher.stripe.usable:
        raise Conflict("account_restricted", "The publisher's Stripe account cannot take payments now.")
    if offer.plan is not None and offer.plan.status == "archived":
        raise Conflict("plan_archived", "The tier's plan takes no new subscriptions.")
    if offer.version is None:
        raise Conflict("plan_not_published", "The tier has no published price yet.")


def in_advance(terms: PlanTerms | None) -> bool:
    """Whether something is charged when a period begins."""
    return terms is not None and any(charge.model == "flat" and charge.timing == "advance" for charge in terms.charges)


def yearly_fees(terms: PlanTerms | None) -> int:
    """The flat fees of a year, in minor units, whatever their interval: what says which of two plans costs more."""
    if terms is None:
        return 0
    return sum((charge.amount or 0) * (12 if charge.interval == "month" else 1) for charge in terms.charges)


def scope_of(publisher: Publisher) -> str:
    """The part of the to-do list where its entries stand: a sandbox has one of its own, by its own time."""
    return publisher.id if publisher.sandbox else ""


def time_of(publisher: Publisher, now: datetime) -> datetime:
    """The publisher's own time: the clock's, or a sandbox's ahead of it. Whole seconds."""
    return to_the_second(now + timedelta(seconds=publisher.clock_offset_seconds))
