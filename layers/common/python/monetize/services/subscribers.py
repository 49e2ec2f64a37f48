"""The subscriber itself at one publisher: contact and billing data, Stripe's portal, erasure."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from monetize.domain.errors import Conflict, NotFound, PreconditionFailed
from monetize.domain.offers import time_of
from monetize.domain.subscriptions import Application, Contact, Customer, Subscriber, Subscription
from monetize.services.subscription_access import (
    Page,
    Person,
    Ports,
    audit,
    of_publisher,
    of_subscriber,
    the_publisher,
    the_subscriber,
    until_unchanged,
    with_customer,
)


class Erasable(Protocol):
    """What is asked, and what must go, when a person's data is erased."""

    def money_due(self, publisher: str, subscriber: str) -> str | None: ...
    def applications(self, publisher: str, subscriber: str, after: str | None, limit: int) -> Page[Application]: ...
    def of_subscriber(self, publisher: str, subscriber: str, after: str | None, limit: int) -> Page[Subscription]: ...
    def forget_application(self, application: Application) -> None: ...
    def forget_subscription(self, subscription: Subscription) -> None: ...


@dataclass(frozen=True, slots=True)
class Known:
    """A subscriber, and who it is at the publisher's present Stripe account."""

    subscriber: Subscriber
    customer: Customer | None


def get(person: Person, publisher: str, ports: Ports) -> Known:
    """The caller's organization at one publisher. NotFound `unknown_subscriber` before it left any data there."""
    found = ports.store.subscriber(publisher, person.organization)
    if found is None:
        raise NotFound("unknown_subscriber", "Nothing is known of your organization there.")
    return _known(found, ports)


def put_contact(
    person: Person, publisher: str, contact: Contact, rev: int | None, now: datetime, ports: Ports
) -> Known:
    """Replace billing and contact information, at Stripe first. `rev` is what was read, None for the first time."""
    seller = the_publisher(publisher, ports)
    at = time_of(seller, now)

    subscriber = the_subscriber(publisher, person.organization, at, ports)
    if subscriber.rev != (rev or 0):
        raise PreconditionFailed("changed_meanwhile", "This changed since it was read: read it again.")
    try:
        after = with_customer(subscriber, None, contact, person, at, ports)
    except PreconditionFailed as changed:
        if changed.code != "customer_forgotten":
            raise
        # That change was ours: a customer deleted at Stripe is out of the way now.
        subscriber = the_subscriber(publisher, person.organization, at, ports)
        after = with_customer(subscriber, None, contact, person, at, ports)
    return _known(after, ports)


def portal(person: Person, subscription_id: str, ports: Ports) -> str:
    """The address of Stripe's own page for cards, tax ids and invoices. Conflict `no_customer` on free tiers."""
    subscription = of_subscriber(person, subscription_id, ports)
    subscriber = ports.store.subscriber(subscription.publisher, subscription.subscriber)
    customer = subscriber.customer(subscription.account) if subscriber is not None else None
    if customer is None:
        raise Conflict("no_customer", "There is nothing at Stripe to look at.")
    return ports.payments().portal(customer.account, customer.id)


def of_publisher_side(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscriber:
    """The subscriber of one of the publisher's subscriptions."""
    subscription = of_publisher(person, subscription_id, ports)
    at = time_of(the_publisher(subscription.publisher, ports), now)
    return the_subscriber(subscription.publisher, subscription.subscriber, at, ports)


def set_payment_grace(
    person: Person, subscription_id: str, days: int | None, rev: int, now: datetime, ports: Ports
) -> Subscriber:
    """How long this subscriber's unpaid invoices leave access open, by the publisher; None leaves it to the plan.

    PreconditionFailed when the subscriber changed since `rev` was read.
    """
    subscriber = of_publisher_side(person, subscription_id, now, ports)
    if subscriber.rev != rev:
        raise PreconditionFailed("changed_meanwhile", "This changed since it was read: read it again.")
    entry = audit(
        person,
        subscriber,
        "subscriber.payment_grace",
        time_of(the_publisher(subscriber.publisher, ports), now),
        ports,
        before={"days": str(subscriber.payment_grace_days)},
        after={"days": str(days)},
    )
    return ports.store.save_subscriber(replace(subscriber, payment_grace_days=days), entry)


def erase(person: Person, publisher: str, now: datetime, ports: Ports, store: Erasable) -> Subscriber:
    """Personal data gone, here and at Stripe: the customers are deleted, finalized invoices stay as law requires.

    In three steps, each of which can be repeated: nothing new begins; the customers go; the data goes. Refused with
    Conflict `subscriptions_live`, `usage_unbilled` or `money_due` while anything is owed.
    """

    def mark() -> Subscriber:
        found = ports.store.subscriber(publisher, person.organization)
        if found is None:
            raise NotFound("unknown_subscriber", "Nothing is known of your organization there.")
        _refuse_debtors(publisher, person, store)
        if found.erasing:
            return found
        at = time_of(the_publisher(publisher, ports), now)
        entry = audit(person, found, "subscriber.erase", at, ports)
        return ports.store.save_subscriber(replace(found, erasing=True), entry)

    marked = until_unchanged(mark)
    # Again: a subscription that began between the question and the mark is seen now, and nothing begins any more.
    if (due := store.money_due(publisher, person.organization)) is not None:
        ports.store.save_subscriber(replace(marked, erasing=False), None)
        raise Conflict(due, "Something is still owed or running: settle it first.")
    for customer in marked.customers:
        ports.payments().delete_customer(customer.account, customer.id)
    for application in _all_applications(publisher, person.organization, store):
        store.forget_application(application)
    for subscription in _all_subscriptions(publisher, person.organization, store):
        store.forget_subscription(subscription)
    erased = replace(marked, contact=None, customers=(), generation=marked.generation + 1, erasing=False, erased_at=now)
    return ports.store.save_subscriber(erased, None)


def _refuse_debtors(publisher: str, person: Person, store: Erasable) -> None:
    if (due := store.money_due(publisher, person.organization)) is not None:
        raise Conflict(due, "Something is still owed or running: settle it first.")


def _all_applications(publisher: str, subscriber: str, store: Erasable) -> list[Application]:
    found: list[Application] = []
    after: str | None = None
    while True:
        page = store.applications(publisher, subscriber, after, 100)
        found.extend(page.items)
        after = page.after
        if after is None:
            return found


def _all_subscriptions(publisher: str, subscriber: str, store: Erasable) -> list[Subscription]:
    found: list[Subscription] = []
    after: str | None = None
    while True:
        page = store.of_subscriber(publisher, subscriber, after, 100)
        found.extend(page.items)
        after = page.after
        if after is None:
            return found


def _known(subscriber: Subscriber, ports: Ports) -> Known:
    publisher = ports.store.publisher(subscriber.publisher)
    account = publisher.stripe.account if publisher is not None and publisher.stripe is not None else ""
    return Known(subscriber, subscriber.customer(account))
