"""Subscribe an application to an API at a tier, from the order to the instant it is active.

A line may run twice, late, or beside itself: guards forbid a second live subscription, the caller's own key finds the
first answer again, Stripe's writes carry derived keys, and whatever is stored is stored on condition of what was read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from monetize.domain import states
from monetize.domain.errors import Conflict, Invalid, NotFound, PreconditionFailed
from monetize.domain.offers import Offer, check_open, in_advance, scope_of, time_of
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import (
    Application,
    Contact,
    Subscriber,
    Subscription,
    begun,
    noted,
    scheduled,
    status_at,
    timeline,
)
from monetize.services.subscription_access import (
    Card,
    Checkout,
    Person,
    Ports,
    audit,
    natural_key,
    of_publisher,
    of_subscriber,
    the_offer,
    the_publisher,
    the_subscriber,
    until_unchanged,
    version_of,
    with_card,
    with_customer,
    with_customers_alive,
)

PENDING_LIFE: Final = timedelta(hours=72)
APPROVAL_LIFE: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request to subscribe. `key` is the caller's Idempotency-Key."""

    publisher: str
    application: str
    product: str
    tier: str
    contact: Contact | None = None
    invoice_email: str = ""
    spend_cap: int | None = None
    key: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked for, without the key."""
        return sha256(repr(replace(self, key=None)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Listed:
    """Some subscriptions, and the position after them."""

    items: tuple[Subscription, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Started:
    """A subscription, and where to leave a card when it waits for one."""

    subscription: Subscription
    checkout: Checkout | None = None


def subscribe(person: Person, order: Order, now: datetime, ports: Ports) -> Started:
    """Order a subscription.

    Free, or a card on file: active at once. Commercial without a card: `pending_payment` and a Checkout session. With
    approval: `pending_approval`. The same key and the same order answer the same subscription again. Raises NotFound
    `unknown_offer`, `unknown_application`; Conflict `already_subscribed` (member `subscription`) and what `check_open`
    refuses; Invalid `contact_required`, `idempotency_key_reused`.
    """
    request = natural_key(person, "subscribe", order.key)
    if request is not None and (again := _asked_before(order, request, ports)) is not None:
        return _resumed(again, now, ports)
    return until_unchanged(lambda: _subscribe_once(person, order, request, now, ports))


def _asked_before(order: Order, request: str, ports: Ports) -> Subscription | None:
    found = ports.store.requested(request)
    if found is None:
        return None
    if found.fingerprint != order.fingerprint:
        raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    return ports.store.subscription(found.made)


def _subscribe_once(person: Person, order: Order, request: str | None, now: datetime, ports: Ports) -> Started:
    offer = the_offer(order.publisher, order.product, order.tier, ports)
    check_open(offer)
    at = time_of(offer.publisher, now)
    application = ports.store.application(order.publisher, person.organization, order.application)
    if application is None:
        raise NotFound("unknown_application", "There is no such application.")
    _refuse_second(application, offer, at, now, ports)
    if order.spend_cap is not None and not offer.tier.commercial:
        raise Invalid("spend_cap_on_free_tier", "A free subscription spends nothing.")
    subscriber = the_subscriber(order.publisher, person.organization, at, ports)
    if offer.tier.commercial and order.contact is None and subscriber.contact is None:
        raise Invalid("contact_required", "A commercial tier needs billing and contact information.")
    if order.contact is not None or offer.tier.commercial:
        wanted = offer.publisher if offer.tier.commercial and not offer.approval else None
        subscriber = with_customer(subscriber, wanted, order.contact, person, at, ports)
    subscription = _ordered(person, order, offer, at, ports)
    if not offer.approval:
        subscription = _admitted(subscription, offer.version, subscriber, offer.publisher, at)
    entry = audit(person, subscription, "subscription.create", at, ports, after=_terms_of(subscription))
    kept = None if request is None else (request, order.fingerprint, now + timedelta(hours=24))
    made = ports.store.begin(subscription, application, offer, entry, kept)
    return _resumed(made, now, ports)


def _refuse_second(application: Application, offer: Offer, at: datetime, now: datetime, ports: Ports) -> None:
    """Early and with a name; the guards in the transaction are what holds."""
    owner = ports.store.guarded_by(application.id, offer.product.guards)
    if owner is None:
        return
    other = ports.store.subscription(owner)
    if other is not None and other.live and status_at(other, at) == "ended":
        settle(other, now, ports)
        raise PreconditionFailed("ended_meanwhile", "The former subscription has just ended.")
    raise Conflict("already_subscribed", "The application is subscribed to this API already.", subscription=owner)


def _ordered(person: Person, order: Order, offer: Offer, at: datetime, ports: Ports) -> Subscription:
    link = offer.publisher.stripe
    commercial = offer.version is not None
    subscription = Subscription(
        id=ports.ids.new("sub", at),
        publisher=order.publisher,
        subscriber=person.organization,
        application=order.application,
        product=order.product,
        apis=offer.product.guards,
        tier=order.tier,
        status="pending_approval" if offer.approval else states.SUBSCRIPTION.initial,
        plan=offer.version.plan if offer.version else None,
        version=offer.version.number if offer.version else None,
        currency=offer.version.terms.currency if offer.version else "",
        account=link.account if commercial and link is not None else "",
        invoice_email=order.invoice_email or (order.contact.email if order.contact else ""),
        spend_cap=order.spend_cap,
        due_scope=scope_of(offer.publisher),
        pending_until=at + (APPROVAL_LIFE if offer.approval else PENDING_LIFE),
        created_at=at,
    )
    return scheduled(subscription, offer.publisher.settings.grace_hours)


def _admitted(
    subscription: Subscription, version: PlanVersion | None, subscriber: Subscriber, publisher: Publisher, at: datetime
) -> Subscription:
    """As far as it gets without a person: active when free or when a card is on file."""
    customer = subscriber.customer(subscription.account)
    if subscription.commercial and (customer is None or customer.payment_method is None):
        return subscription
    return started(subscription, version, publisher, at)


def started(
    subscription: Subscription, version: PlanVersion | None, publisher: Publisher, at: datetime
) -> Subscription:
    """The same, begun: active, or waiting for its opening bill where the plan says so."""
    terms = version.terms if version is not None else None
    advance = in_advance(terms)
    begins = begun(
        subscription,
        at,
        advance=advance,
        trial_days=terms.trial_days if terms else 0,
        anchor=terms.anchor if terms else "calendar",
    )
    waits = terms is not None and terms.activation == "on_payment" and advance and not terms.trial_days
    move = "await_invoice" if waits else "activate"
    begins = replace(
        begins,
        status=states.SUBSCRIPTION.move(subscription.status, move),
        checkout=None,
        checkout_expires_at=None,
        activated_at=None if waits else at,
        pending_until=at + _time_to_pay(publisher) if waits else None,
    )
    return noted(scheduled(begins, publisher.settings.grace_hours), at, begins.status)


def _time_to_pay(publisher: Publisher) -> timedelta:
    """How long an order waits for its opening bill to be paid."""
    settings = publisher.settings
    by_hand = settings.collection != "charge_automatically"
    return max(PENDING_LIFE, timedelta(days=settings.days_until_due)) if by_hand else PENDING_LIFE


def resume_checkout(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Started:
    """Where to leave a card: the open Checkout session, or a new one. Also for another card of an active subscription.

    Conflict `no_payment_needed` for free and ended ones.
    """
    subscription = of_subscriber(person, subscription_id, ports)
    waits = subscription.commercial and subscription.status == "pending_payment"
    if not waits and subscription.status not in ("active", "paused", "pending_invoice"):
        raise Conflict("no_payment_needed", "There is nothing to pay for now.")
    return Started(subscription, until_unchanged(lambda: _checkout(subscription_id, now, ports)))


def _resumed(subscription: Subscription, now: datetime, ports: Ports) -> Started:
    if subscription.status != "pending_payment":
        return Started(subscription)
    checkout = until_unchanged(lambda: _checkout(subscription.id, now, ports))
    return Started(ports.store.subscription(subscription.id) or subscription, checkout)


def _checkout(subscription_id: str, now: datetime, ports: Ports) -> Checkout:
    """The session on file while it is open; else one made under a key derived from the revision it is stored over."""
    subscription = ports.store.subscription(subscription_id)
    if subscription is None:
        raise NotFound("unknown_subscription", "There is no such subscription.")
    publisher = the_publisher(subscription.publisher, ports)
    if publisher.stripe is None or not publisher.stripe.usable:
        raise Conflict("account_restricted", "The publisher's Stripe account cannot take payments now.")
    account = subscription.account or publisher.stripe.account
    payments = ports.payments()
    if subscription.checkout is not None:
        still = payments.open_setup(account, subscription.checkout)
        if still is not None:
            return still
    at = time_of(publisher, now)
    subscriber = the_subscriber(subscription.publisher, subscription.subscriber, at, ports)
    if subscriber.contact is None:
        raise Invalid("contact_required", "Leave billing and contact information first.")
    if subscriber.customer(account) is None:
        person = Person("", subscription.subscriber)
        subscriber = with_customer(subscriber, publisher, None, person, at, ports)
    customer = subscriber.customer(account)
    if customer is None:
        raise Conflict("account_changed", "The publisher has another Stripe account now.")
    key = f"checkout:{subscription.id}:{subscription.rev}:{customer.id}"
    currency = subscription.currency or publisher.stripe.currency or "usd"
    ordered = subscription.id
    made = with_customers_alive(
        subscriber,
        customer,
        lambda it: payments.begin_setup(account, it.id, currency, ordered, publisher.id, key),
        ports,
    )
    after = replace(subscription, checkout=made.id, checkout_expires_at=made.expires_at)
    ports.store.save(subscription, after)
    return made


def activate_checkout(
    subscription_id: str, *, session: str, card: Card, now: datetime, ports: Ports, also: Sequence[Any] = ()
) -> Subscription | None:
    """A Checkout session was completed: the card becomes the customer's default, and what waited for it begins.

    Twice is once; a session that was replaced by a later one counts as well: a card is a card. `also` are further
    operations of the transaction that stores the effect. None when there is no such subscription.
    """

    def once() -> Subscription | None:
        subscription = ports.store.subscription(subscription_id)
        if subscription is None:
            return None
        publisher = the_publisher(subscription.publisher, ports)
        account = subscription.account or (publisher.stripe.account if publisher.stripe else "")
        subscriber = ports.store.subscriber(subscription.publisher, subscription.subscriber)
        customer = subscriber.customer(account) if subscriber is not None else None
        if subscriber is None or customer is None or subscriber.erasing:
            return None
        ports.payments().set_default(account, customer.id, card.payment_method)
        after = subscription
        if subscription.status == "pending_payment":
            after = started(subscription, version_of(subscription, ports), publisher, time_of(publisher, now))
        elif subscription.checkout == session:
            after = replace(subscription, checkout=None, checkout_expires_at=None)
        return ports.store.save(subscription, after, subscriber=with_card(subscriber, customer, card), also=also)

    return until_unchanged(once)


def checkout_expired(
    subscription_id: str, *, session: str, now: datetime, ports: Ports, also: Sequence[Any] = ()
) -> Subscription | None:
    """A Checkout session ran out. The order can be resumed until its own end, which the to-do list brings about.

    None when it is not the order's session any more: nothing is written then, `also` included.
    """

    def once() -> Subscription | None:
        subscription = ports.store.subscription(subscription_id)
        if subscription is None or subscription.checkout != session:
            return None
        after = replace(subscription, checkout=None, checkout_expires_at=None)
        return ports.store.save(subscription, noted(after, now, "checkout_expired"), also=also)

    return until_unchanged(once)


def approve(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscription:
    """The publisher lets a subscription begin: at once when free or when a card is on file, else the card is next."""
    subscription = of_publisher(person, subscription_id, ports)
    publisher = the_publisher(subscription.publisher, ports)
    at = time_of(publisher, now)
    if subscription.commercial and (publisher.stripe is None or not publisher.stripe.usable):
        raise Conflict("account_restricted", "The publisher's Stripe account cannot take payments now.")
    status = states.SUBSCRIPTION.move(subscription.status, "approve")
    after = replace(subscription, status=status, approved_at=at, pending_until=at + PENDING_LIFE)
    subscriber = the_subscriber(subscription.publisher, subscription.subscriber, at, ports)
    after = _admitted(after, version_of(subscription, ports), subscriber, publisher, at)
    after = scheduled(after, publisher.settings.grace_hours)
    return ports.store.save(subscription, after, entry=audit(person, subscription, "subscription.approve", at, ports))


def reject(person: Person, subscription_id: str, reason: str, now: datetime, ports: Ports) -> Subscription:
    """The publisher refuses a subscription that waits for approval."""
    subscription = of_publisher(person, subscription_id, ports)
    publisher = the_publisher(subscription.publisher, ports)
    at = time_of(publisher, now)
    after = ended(subscription, "reject", at, f"rejected: {reason}" if reason else "rejected", publisher)
    entry = audit(person, subscription, "subscription.reject", at, ports, after={"reason": reason})
    return ports.store.save(subscription, after, entry=entry)


def settle(subscription: Subscription, now: datetime, ports: Ports, also: Sequence[Any] = ()) -> Subscription:
    """Do what has come due on a subscription beside its bills, for the worker of the to-do list.

    A pending one whose time is over ends; a cancellation that has come due ends it; a change that has come due becomes
    its tier. Answers it as it is afterwards, whatever was done; a bill is due when `next_edge` is set and
    `bill_due_at` has come.
    """
    publisher = the_publisher(subscription.publisher, ports)
    at = time_of(publisher, now)
    after = settled(subscription, publisher, at)
    if after == subscription:
        return subscription
    return ports.store.save(subscription, after, also=also)


def settled(subscription: Subscription, publisher: Publisher, at: datetime) -> Subscription:
    """The same after everything due at that instant, bills aside. Pure."""
    after = subscription
    if after.pending and after.pending_until is not None and after.pending_until <= at:
        after = ended(after, "expire", at, "not completed in time", publisher)
    if after.live and after.change is not None and after.change.at <= at:
        after = changed_over(after, publisher)
    if after.live and after.cancel_at is not None and after.cancel_at <= at:
        after = ended(after, "cancel", after.cancel_at, after.end_reason or "cancelled", publisher)
    return scheduled(after, publisher.settings.grace_hours)


def changed_over(subscription: Subscription, publisher: Publisher) -> Subscription:
    """The same with the change that waited carried out."""
    change = subscription.change
    if change is None:
        return subscription
    after = replace(
        subscription,
        spans=timeline(replace(subscription, cancel_at=None)),
        tier=change.tier,
        plan=change.plan,
        version=change.version,
        currency=change.currency or subscription.currency,
        change=None,
    )
    return noted(scheduled(after, publisher.settings.grace_hours), change.at, "tier_changed", change.tier)


def ended(subscription: Subscription, move: str, at: datetime, reason: str, publisher: Publisher) -> Subscription:
    """The same, ended. Its last bill is still to come when it was ever billed or is to be.

    What waited for its opening bill never began: nothing of it is charged or given back.
    """
    after = replace(
        subscription,
        spans=() if subscription.status == "pending_invoice" else subscription.spans,
        status=states.SUBSCRIPTION.move(subscription.status, move),
        ended_at=at,
        end_reason=reason,
        cancel_at=None,
        change=None,
        checkout=None,
        checkout_expires_at=None,
        pending_until=None,
    )
    return noted(scheduled(after, publisher.settings.grace_hours), at, "ended", reason)


def listed(
    person: Person, side: str, publisher: str | None, status: str | None, after: str | None, limit: int, ports: Ports
) -> Listed:
    """The caller's subscriptions, as `subscriber` at one publisher or as `publisher`; with one status when given.

    A page of a filtered list may hold fewer than `limit`, and none: `after` says whether there is more.
    """
    if status is not None and status not in states.SUBSCRIPTION.moves:
        raise Invalid("unknown_status", "A subscription has no such status.")
    if side == "publisher":
        page = ports.store.of_publisher(person.organization, after, limit)
    elif publisher is None:
        raise Invalid("publisher_required", "Name the publisher whose subscriptions to list.")
    else:
        page = ports.store.of_subscriber(publisher, person.organization, after, limit)
    return Listed(tuple(each for each in page.items if status is None or each.status == status), page.after)


def _terms_of(subscription: Subscription) -> dict[str, str]:
    return {
        "application": subscription.application,
        "product": subscription.product,
        "tier": subscription.tier,
        "plan": f"{subscription.plan}:{subscription.version}" if subscription.plan else "",
        "status": subscription.status,
    }
