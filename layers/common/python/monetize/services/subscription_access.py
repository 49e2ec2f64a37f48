"""Who may act on a subscription, and what everything that does works with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final, Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Conflict, NotFound, PreconditionFailed
from monetize.domain.offers import Offer
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Application, Contact, Customer, Subscriber, Subscription

ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts, and for which organization."""

    user: str
    organization: str


@dataclass(frozen=True, slots=True)
class Card:
    """A payment method as far as we keep it."""

    payment_method: str
    brand: str = ""
    last4: str = ""
    expires: str = ""  # yyyy-mm


class Checkout(Protocol):
    """Where the subscriber leaves a card. `url` is for the caller's eyes alone: never stored, never logged."""

    @property
    def id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def expires_at(self) -> datetime: ...


class Request(Protocol):
    """A request that was carried out: what it made, and the hash of what it asked for."""

    @property
    def made(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Page[T](Protocol):
    """Some of a list, and the position after it."""

    @property
    def items(self) -> tuple[T, ...]: ...
    @property
    def after(self) -> str | None: ...


class Store(Protocol):
    """What is stored. Writes raise PreconditionFailed when something changed since it was read."""

    def publisher(self, publisher: str) -> Publisher | None: ...
    def offer(self, publisher: str, product: str, tier: str) -> Offer | None: ...
    def version(self, plan: str, number: int) -> PlanVersion | None: ...
    def application(self, publisher: str, subscriber: str, application: str) -> Application | None: ...
    def subscriber(self, publisher: str, subscriber: str) -> Subscriber | None: ...
    def save_subscriber(self, subscriber: Subscriber, entry: AuditEntry | None) -> Subscriber: ...
    def subscription(self, subscription: str) -> Subscription | None: ...
    def guarded_by(self, application: str, apis: Sequence[str]) -> str | None: ...
    def requested(self, request_sha256: str) -> Request | None: ...
    def of_subscriber(self, publisher: str, subscriber: str, after: str | None, limit: int) -> Page[Subscription]: ...
    def of_publisher(self, publisher: str, after: str | None, limit: int) -> Page[Subscription]: ...
    def begin(
        self,
        subscription: Subscription,
        application: Application,
        offer: Offer,
        entry: AuditEntry,
        request: tuple[str, str, datetime] | None,
    ) -> Subscription: ...
    def save(
        self,
        before: Subscription,
        after: Subscription,
        *,
        entry: AuditEntry | None = None,
        subscriber: Subscriber | None = None,
        also: Sequence[Any] = (),
    ) -> Subscription: ...


class Payments(Protocol):
    """The subscriber at the publisher's Stripe account."""

    def create_customer(self, account: str, publisher: str, subscriber: str, key: str) -> str: ...
    def update_customer(self, account: str, customer: str, contact: Contact) -> None: ...
    def delete_customer(self, account: str, customer: str) -> None: ...
    def begin_setup(
        self, account: str, customer: str, currency: str, subscription: str, publisher: str, key: str
    ) -> Checkout: ...
    def open_setup(self, account: str, session: str) -> Checkout | None: ...
    def set_default(self, account: str, customer: str, payment_method: str) -> None: ...
    def portal(self, account: str, customer: str) -> str: ...


class Asked(Protocol):
    """What a request made, and the hash of what it asked for."""

    @property
    def made(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Ids(Protocol):
    """New names and secrets."""

    def new(self, prefix: str, at: datetime) -> str: ...
    def secret(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What subscribing works with. `payments` is made when first needed: free tiers never call Stripe."""

    store: Store
    payments: Callable[[], Payments]
    ids: Ids


def until_unchanged[T](attempt: Callable[[], T]) -> T:
    """Read, decide and write again when something changed in between; after a few times the refusal stands."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except PreconditionFailed:
            continue
    return attempt()


def natural_key(person: Person, route: str, key: str | None) -> str | None:
    """The caller's key as its own: organization, user and route are part of it."""
    if key is None:
        return None
    return sha256(f"{person.organization}\n{person.user}\n{route}\n{key}".encode()).hexdigest()


def the_publisher(publisher: str, ports: Ports) -> Publisher:
    """A publisher that a subscription names."""
    found = ports.store.publisher(publisher)
    if found is None:
        raise NotFound("unknown_publisher", "There is no such publisher.")
    return found


def version_of(subscription: Subscription, ports: Ports) -> PlanVersion | None:
    """The plan version it pinned; None when it is free."""
    if subscription.plan is None or subscription.version is None:
        return None
    return ports.store.version(subscription.plan, subscription.version)


def visible(person: Person, subscription_id: str, ports: Ports) -> Subscription:
    """One of the caller's, as subscriber or as publisher. NotFound for anybody else's."""
    subscription = ports.store.subscription(subscription_id)
    if subscription is None or person.organization not in (subscription.publisher, subscription.subscriber):
        raise NotFound("unknown_subscription", "There is no such subscription.")
    return subscription


def of_anybody(subscription_id: str, ports: Ports) -> Subscription:
    """Anybody's, for an operator and for the machine. NotFound when there is none."""
    subscription = ports.store.subscription(subscription_id)
    if subscription is None:
        raise NotFound("unknown_subscription", "There is no such subscription.")
    return subscription


def of_subscriber(person: Person, subscription_id: str, ports: Ports) -> Subscription:
    """One of the caller's as subscriber; NotFound otherwise."""
    subscription = visible(person, subscription_id, ports)
    if subscription.subscriber != person.organization:
        raise NotFound("unknown_subscription", "There is no such subscription.")
    return subscription


def of_publisher(person: Person, subscription_id: str, ports: Ports) -> Subscription:
    """One of the caller's as publisher; NotFound otherwise."""
    subscription = visible(person, subscription_id, ports)
    if subscription.publisher != person.organization:
        raise NotFound("unknown_subscription", "There is no such subscription.")
    return subscription


def audit(
    person: Person,
    target: Subscription | Subscriber | Application,
    action: str,
    at: datetime,
    ports: Ports,
    *,
    before: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> AuditEntry:
    """What a person did, for the publisher's audit. Personal fields by name only."""
    return AuditEntry(
        id=ports.ids.new("aud", at),
        publisher=target.publisher,
        at=at,
        actor=person.user,
        organization=person.organization,
        action=action,
        target=target.id,
        before=before,
        after=after,
    )


def with_card(subscriber: Subscriber, customer: Customer, card: Card) -> Subscriber:
    """The same with that card as the one that pays."""
    paying = replace(
        customer, payment_method=card.payment_method, brand=card.brand, last4=card.last4, expires=card.expires
    )
    others = tuple(each for each in subscriber.customers if each.account != customer.account)
    return replace(subscriber, customers=(*others, paying))


def with_customer(
    subscriber: Subscriber,
    publisher: Publisher | None,
    contact: Contact | None,
    person: Person,
    at: datetime,
    ports: Ports,
) -> Subscriber:
    """The same with its contact stored, at Stripe first, and with a customer at that publisher's account.

    Without a publisher no customer is made. One is made under a derived key whose request never varies, so that two at
    once make one, and its id is stored before anything uses it.
    """
    known = contact or subscriber.contact
    after = replace(subscriber, contact=known, erased_at=None)
    account = publisher.stripe.account if publisher is not None and publisher.stripe is not None else None
    if account is not None and subscriber.customer(account) is None:
        key = f"customer:{account}:{subscriber.publisher}:{subscriber.id}:{subscriber.generation}"
        made = ports.payments().create_customer(account, subscriber.publisher, subscriber.id, key)
        after = replace(after, customers=(*after.customers, Customer(account=account, id=made)))
    stale = after.customers if known != subscriber.contact else after.customers[len(subscriber.customers) :]
    if known is not None:
        tell = partial(_tell, known, ports)
        for customer in stale:
            with_customers_alive(subscriber, customer, tell, ports)
    if after == subscriber and subscriber.rev:
        return subscriber
    entry = None
    if known != subscriber.contact:
        entry = audit(person, subscriber, "subscriber.contact", at, ports, after={"fields": "contact"})
    return ports.store.save_subscriber(after, entry)


def the_offer(publisher: str, product: str, tier: str, ports: Ports) -> Offer:
    """A product at a tier. NotFound `unknown_offer` when there is none."""
    offer = ports.store.offer(publisher, product, tier)
    if offer is None:
        raise NotFound("unknown_offer", "There is no such API or tier.")
    return offer


def the_subscriber(publisher: str, organization: str, at: datetime, ports: Ports) -> Subscriber:
    """The organization as this publisher's subscriber, stored or new. Conflict `erasing` while it is being erased."""
    found = ports.store.subscriber(publisher, organization)
    if found is None:
        return Subscriber(id=organization, publisher=publisher, created_at=at)
    if found.erasing:
        raise Conflict("erasing", "The subscriber's data is being erased.")
    return found


def with_customers_alive[T](
    subscriber: Subscriber, customer: Customer, act: Callable[[Customer], T], ports: Ports
) -> T:
    """Act on a customer at Stripe. One that somebody deleted there is forgotten, and the caller begins again.

    Raises PreconditionFailed then (`until_unchanged` reads and decides anew): the next customer gets another key.
    """
    try:
        return act(customer)
    except NotFound as missing:
        if missing.code != "customer_missing":
            raise
        others = tuple(each for each in subscriber.customers if each.id != customer.id)
        forgotten = replace(subscriber, customers=others, generation=subscriber.generation + 1)
        ports.store.save_subscriber(forgotten, None)
        raise PreconditionFailed("customer_forgotten", "The customer was deleted at Stripe.") from missing


def _tell(contact: Contact, ports: Ports, customer: Customer) -> None:
    ports.payments().update_customer(customer.account, customer.id, contact)
