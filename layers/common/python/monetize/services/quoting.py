"""What it would cost: the order summary before anybody is bound, and the invoice that a running period leads to."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from monetize.domain.invoices import Bill, BillLines
from monetize.domain.offers import Offer, OrderSummary, check_open, in_advance, time_of
from monetize.domain.periods import nominal_period, period_from
from monetize.domain.plans import PlanTerms
from monetize.domain.publishers import Publisher
from monetize.domain.rating import BillInput, Segment, rate
from monetize.domain.subscriptions import (
    Subscription,
    begun,
    bill_due_at,
    discounts_in_force,
    first_edge,
    following_edge,
)
from monetize.services.subscribing import settled
from monetize.services.subscription_access import Person, Ports, the_offer, the_publisher, visible


class Rate(Protocol):
    """Rates a bill without sealing anything."""

    def __call__(
        self, bill: Bill, subscription: Subscription, publisher: Publisher, previous: Bill | None
    ) -> BillLines: ...


class Bills(Protocol):
    """What was billed before."""

    def bill_before(self, sub: str, edge: datetime) -> Bill | None: ...


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The next bill as far as it is known now; `lines` is None when none is to come."""

    publisher: str
    as_of: datetime
    currency: str
    bill_at: datetime | None
    due_at: datetime | None
    lines: BillLines | None


def upcoming(
    person: Person, subscription_id: str, now: datetime, ports: Ports, bills: Bills, rate_bill: Rate
) -> Upcoming:
    """The next bill by the usage counted so far, rated as the billing run will rate it. Nothing is sealed or stored."""
    stored = visible(person, subscription_id, ports)
    publisher = the_publisher(stored.publisher, ports)
    at = time_of(publisher, now)
    subscription = settled(stored, publisher, at)
    edge = subscription.next_edge
    if edge is None:
        return Upcoming(publisher.id, at, subscription.currency, None, None, None)
    bill = Bill(
        subscription=subscription.id,
        publisher=publisher.id,
        subscriber=subscription.subscriber,
        account=subscription.account,
        currency=subscription.currency,
        edge=edge,
        last=subscription.end is not None and subscription.end <= edge,
        discounts=discounts_in_force(subscription),
        created_at=at,
    )
    lines = rate_bill(bill, subscription, publisher, bills.bill_before(subscription.id, edge))
    due = bill_due_at(subscription, edge, publisher.settings.grace_hours)
    return Upcoming(publisher.id, at, subscription.currency, edge, due, lines)


def preview(person: Person, publisher: str, product: str, tier: str, now: datetime, ports: Ports) -> OrderSummary:
    """What a subscription begun now would mean. Refuses what `subscribe` would refuse about the offer."""
    offer = the_offer(publisher, product, tier, ports)
    check_open(offer)
    subscriber = ports.store.subscriber(publisher, person.organization)
    account = offer.publisher.stripe.account if offer.publisher.stripe else ""
    customer = subscriber.customer(account) if subscriber is not None else None
    card = customer is not None and customer.payment_method is not None
    return summary(offer, time_of(offer.publisher, now), card_on_file=card)


def summary(offer: Offer, at: datetime, *, card_on_file: bool) -> OrderSummary:
    """The order summary of an offer at an instant. Pure."""
    terms = offer.terms
    would_be = begun(
        _hypothetical(offer, at),
        at,
        advance=in_advance(terms),
        trial_days=terms.trial_days if terms else 0,
        anchor=terms.anchor if terms else "calendar",
    )
    paid_from = next((span.start for span in would_be.spans if span.paid), None)
    first = first_edge(would_be)
    return OrderSummary(
        tier=offer.tier,
        version=offer.version,
        starts_at=at,
        trial_ends_at=paid_from if terms is not None and terms.trial_days else None,
        first_bill_at=first,
        first_period_ends_at=following_edge(would_be, paid_from) if paid_from else None,
        first_amount=opening_amount(terms, would_be, paid_from) if terms and paid_from else 0,
        next_bill_at=following_edge(would_be, first) if first else None,
        recurring_month=_recurring(terms, "month"),
        recurring_year=_recurring(terms, "year"),
        card_on_file=card_on_file,
        approval=offer.approval,
    )


def opening_amount(terms: PlanTerms, subscription: Subscription, start: datetime) -> int:
    """What is charged in advance at the first paid instant, in minor units: each fee for its part of a full period."""
    starting = Segment(
        period=period_from(start, subscription.anchor),
        nominal=nominal_period(start, subscription.anchor),
        terms=terms,
        anchor=subscription.anchor,
        since=start,
    )
    return rate(BillInput(currency=terms.currency, at=start, starting=starting)).subtotal


def _recurring(terms: PlanTerms | None, interval: str) -> int:
    charges = terms.charges if terms is not None else ()
    return sum(charge.amount or 0 for charge in charges if charge.model == "flat" and charge.interval == interval)


def _hypothetical(offer: Offer, at: datetime) -> Subscription:
    subscription = Subscription(
        id="",
        publisher=offer.publisher.id,
        subscriber="",
        application="",
        product=offer.product.id,
        apis=offer.product.guards,
        tier=offer.tier.id,
        status="active",
        created_at=at,
    )
    if offer.version is None:
        return subscription
    return replace(subscription, plan=offer.version.plan, version=offer.version.number)
