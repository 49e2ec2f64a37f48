"""Apply Stripe's events: find what of ours an event is about, and bring that up to what it is at Stripe now.

The event itself is a hint: its payload is not kept, and nothing is believed of it but which object to look at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from monetize.domain.dunning import Collected
from monetize.domain.errors import AccountUnreachable, NotFound
from monetize.domain.stripe_events import Notice
from monetize.services import onboarding, payments, subscribing
from monetize.services.billing import split_bill_id
from monetize.services.subscription_access import Card, until_unchanged
from monetize.services.subscription_access import Ports as SubscribingPorts

EARLY = frozenset({"draft", "open"})


class Inbox(Protocol):
    """Which events were seen, and which are done."""

    def get(self, event: str) -> tuple[Notice, str] | None: ...


class PaidWith(Protocol):
    """What a completed Checkout session left."""

    @property
    def subscription(self) -> str: ...
    @property
    def payment_method(self) -> str: ...
    @property
    def brand(self) -> str: ...
    @property
    def last4(self) -> str: ...
    @property
    def expires(self) -> str: ...


class Sessions(Protocol):
    """Checkout at the provider."""

    def completed_setup(self, account: str, session: str) -> PaidWith | None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What applying works with."""

    inbox: Inbox
    payments: payments.Ports
    subscribing: SubscribingPorts
    onboarding: onboarding.Ports
    sessions: Sessions


def apply(event: str, now: datetime, ports: Ports) -> str:
    """Apply one stored event. Answers what became of it, a word for metrics.

    The effect and the event's `done` are one write, on the version of ours that was read before Stripe was asked; what
    changed meanwhile is read again. What Stripe does not answer now goes up as ProviderBusy: the caller brings the
    event again.
    """
    return until_unchanged(lambda: _apply(event, now, ports))


def _apply(event: str, now: datetime, ports: Ports) -> str:
    stored = ports.inbox.get(event)
    if stored is None:
        return "unknown_event"
    notice, state = stored
    if state == "done":
        return "known"
    try:
        outcome = _handler(notice.type)(notice, now, ports)
    except AccountUnreachable:
        outcome = "unreachable"
    except NotFound:
        outcome = "gone"  # what it was about is not there any more: there is nothing to bring up
    if outcome is None:
        return "applied"
    ports.payments.store.save(event=(event, outcome))
    return outcome


type Handler = Callable[[Notice, datetime, Ports], str | None]
"""None: it is done in the transaction of its effect. A word: nothing stored says so yet."""


def _handler(kind: str) -> Handler:
    return next((handler for prefix, handler in HANDLERS if kind.startswith(prefix)), _observed)


def _invoice(notice: Notice, now: datetime, ports: Ports) -> str | None:
    """By our own id in its metadata, which must be the record of this very invoice on this very account."""
    store = ports.payments.store
    ours = store.invoice(notice.hint) if notice.hint else None
    if ours is None:
        return _unrecorded(notice, now, ports)
    if ours.stripe_id != notice.object or ours.account != notice.account:
        return "foreign"
    payments.heard(ours.id, notice.id, now, ports.payments)
    return None


def _unrecorded(notice: Notice, now: datetime, ports: Ports) -> str | None:
    """An invoice that names us and that we have no record of: the billing worker is about to record it, or crashed."""
    found = ports.payments.provider.collected(notice.account, notice.object)
    if not found.ours or found.status in EARLY:
        return "early"  # what comes of it is heard again, and its bill is still in the to-do list
    bill = _bill_of(found, ports)
    if bill is None or bill.account != notice.account or bill.invoice != found.id:
        return "foreign"
    payments.adopt(found, bill, now, ports.payments, event=(notice.id, "adopted"))
    return None


def _bill_of(found: Collected, ports: Ports) -> Any:
    try:
        sub, edge = split_bill_id(found.bill)
    except NotFound:
        return None
    return ports.payments.store.bill(sub, edge)


def _paid_for(notice: Notice, now: datetime, ports: Ports) -> str | None:
    """Refunds, disputes, credit notes, invoice payments: by the invoice or the payment that they name.

    A payment is in our index once the invoice was read with it; until then Stripe says which invoice it is for.
    """
    store, provider = ports.payments.store, ports.payments.provider
    ours = store.invoice_known_as(notice.about)
    if ours is None:
        paid = (provider.invoice_of(notice.account, each) for each in notice.about if each.startswith("pi_"))
        ours = store.invoice_known_as([each for each in paid if each])
    if ours is None or ours.account != notice.account:
        return "not_ours"
    about_dispute = notice.type.startswith("charge.dispute.")
    payments.heard(ours.id, notice.id, now, ports.payments, disputed=about_dispute)
    return None


def _customer(notice: Notice, now: datetime, ports: Ports) -> str | None:
    """Cards and customers: by the customer that it names."""
    store = ports.payments.store
    publisher, _, name = notice.hint.partition("/")
    subscriber = store.subscriber(publisher, name) if name else store.subscriber_known_as(notice.about)
    known = {each.id for each in subscriber.customers if each.account == notice.account} if subscriber else set()
    customer = next((each for each in notice.about if each in known), None)
    if subscriber is None or customer is None:
        return "not_ours"
    outcome = payments.customer_changed(subscriber, customer, notice.id, now, ports.payments)
    return outcome if outcome == "unknown" else None


def _completed(notice: Notice, now: datetime, ports: Ports) -> str | None:
    paid = ports.sessions.completed_setup(notice.account, notice.object)
    if paid is None:
        return "not_complete"
    card = Card(paid.payment_method, paid.brand, paid.last4, paid.expires)
    done = ports.payments.store.done(notice.id, "applied")
    begun = subscribing.activate_checkout(
        paid.subscription, session=notice.object, card=card, now=now, ports=ports.subscribing, also=(done,)
    )
    return "unknown" if begun is None else None


def _expired(notice: Notice, now: datetime, ports: Ports) -> str | None:
    done = ports.payments.store.done(notice.id, "expired")
    resumable = subscribing.checkout_expired(
        notice.hint, session=notice.object, now=now, ports=ports.subscribing, also=(done,)
    )
    return "unchanged" if resumable is None else None


def _account(notice: Notice, now: datetime, ports: Ports) -> str | None:
    done = ports.payments.store.done(notice.id, "updated")
    outcome = onboarding.account_updated(notice.account, now, ports.onboarding, also=(done,))
    return None if outcome == "updated" else outcome


def _deauthorized(notice: Notice, now: datetime, ports: Ports) -> str | None:
    done = ports.payments.store.done(notice.id, "disconnected")
    outcome = onboarding.account_deauthorized(notice.account, now, ports.onboarding, also=(done,))
    return None if outcome == "disconnected" else outcome


def _observed(_notice: Notice, _now: datetime, _ports: Ports) -> str:
    return "observed"


HANDLERS: tuple[tuple[str, Handler], ...] = (
    ("invoice.", _invoice),
    ("invoice_payment.", _paid_for),
    ("credit_note.", _paid_for),
    ("charge.", _paid_for),
    ("refund.", _paid_for),
    ("checkout.session.completed", _completed),
    ("checkout.session.expired", _expired),
    ("payment_method.", _customer),
    ("setup_intent.", _customer),
    ("customer.", _customer),
    ("account.updated", _account),
    ("capability.updated", _account),
    ("account.application.deauthorized", _deauthorized),
)
