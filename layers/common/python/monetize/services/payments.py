"""What becomes of an invoice: bring our record up to the provider's, try again on schedule, suspend, restore.

Everything here reads our version first, then the provider's latest state, and writes on condition that ours is still
that version. So any line may run twice, late, in another order or next to itself: it ends in the same state.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from monetize.domain import states
from monetize.domain.audit import AuditEntry
from monetize.domain.dunning import (
    NO_CARD,
    PAST_DUE_DATE,
    SUSPEND,
    Action,
    Collected,
    FoundCustomer,
    Refused,
    Terms,
    answered,
    begun,
    bill_after,
    brought_up,
    by_hand,
    due_steps,
    retried_now,
    subscription_after,
    suspended,
    terms_of,
)
from monetize.domain.errors import AccountUnreachable, CardDeclined, NotFound, PreconditionFailed, ProviderRefused
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.offers import scope_of, time_of
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Customer, Step, Subscriber, Subscription, called_off_at, noted, scheduled
from monetize.services.billing import Worked
from monetize.services.subscription_access import Person, until_unchanged

ACTING = timedelta(minutes=15)  # how long after a request what is seen at the provider may be its doing
AGAIN_UNREACHABLE = timedelta(days=1)
MOST_AT_ONCE = 50  # invoices in one transaction; the daily reconciliation takes up the rest


class Store(Protocol):
    """What is stored. `save` raises PreconditionFailed when anything changed since it was read."""

    def invoice(self, inv: str) -> Invoice | None: ...
    def invoice_known_as(self, ids: Sequence[str]) -> Invoice | None: ...
    def subscriber_known_as(self, ids: Sequence[str]) -> Subscriber | None: ...
    def subscription(self, sub: str) -> Subscription | None: ...
    def publisher(self, pub: str) -> Publisher | None: ...
    def subscriber(self, pub: str, subr: str) -> Subscriber | None: ...
    def plan_version(self, plan: str, number: int) -> PlanVersion | None: ...
    def bill(self, sub: str, edge: datetime) -> Bill | None: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def invoices_up_to(self, bill: Bill) -> list[Invoice]: ...
    def owed_by(self, publisher: str, subscriber: str) -> Iterator[Invoice]: ...
    def action(self, invoice: str, action: str) -> Action | None: ...
    def acting(self, invoice: str, since: datetime) -> list[Action]: ...
    def record(self, invoice: Invoice) -> None: ...
    def listed(self, invoice: Invoice) -> None: ...
    def done(self, event: str, outcome: str) -> Any: ...
    def save(
        self,
        invoice: Invoice | None = None,
        *,
        subscription: Subscription | None = None,
        bill: Bill | None = None,
        subscriber: Subscriber | None = None,
        invoices: Sequence[Invoice] = (),
        action: Action | None = None,
        entries: Sequence[AuditEntry] = (),
        event: tuple[str, str] | None = None,
    ) -> None: ...


class Provider(Protocol):
    """The payment provider, after the invoice."""

    def collected(self, account: str, invoice: str, *, disputed: bool = False) -> Collected: ...
    def customer(self, account: str, customer: str) -> FoundCustomer: ...
    def hosted_page(self, account: str, invoice: str) -> str: ...
    def invoice_of(self, account: str, payment: str) -> str: ...
    def pay(self, account: str, invoice: str, bill: str, attempt: int) -> None: ...
    def void(self, account: str, invoice: str, key: str) -> None: ...
    def write_off(self, account: str, invoice: str, key: str) -> None: ...
    def credit(
        self, account: str, invoice: str, payment: str, amount: int, to: str, reason: str, memo: str, key: str
    ) -> str: ...
    def credited_under(self, account: str, invoice: str, key: str) -> tuple[str, int] | None: ...
    def refund(self, account: str, payment: str, amount: int, reason: str, key: str) -> str: ...
    def refunded_under(self, account: str, payment: str, key: str) -> str | None: ...


class Ids(Protocol):
    """New names."""

    def new(self, prefix: str, at: datetime) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What payments work with."""

    store: Store
    provider: Provider
    ids: Ids


@dataclass(frozen=True, slots=True)
class Around:
    """An invoice with what it acts on, as read."""

    invoice: Invoice
    subscription: Subscription | None
    bill: Bill | None
    publisher: Publisher
    terms: Terms
    at: datetime  # the publisher's own time


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction says beside the invoice itself."""

    event: tuple[str, str] | None = None
    action: Action | None = None
    entries: tuple[AuditEntry, ...] = ()
    hand: bool = True  # a change nobody here asked for is somebody's at the provider, and audited as theirs


SILENT = Written(hand=False)


def attempt(invoice_id: str, now: datetime, ports: Ports) -> Worked:
    """Do what is due about one invoice: its steps, and a charge under a key that only this attempt has.

    A charge whose answer was never heard of is asked for under its key again: Stripe answers what it answered then. The
    caller is the worker of the to-do list; a decline is an answer.
    """
    around = _around(invoice_id, now, ports)
    if around is None:
        return Worked("unknown")
    if around.invoice.due_at is None or around.invoice.due_at > around.at:
        return Worked("not_due", invoice_id)
    try:
        around = bring_up(around, now, ports)
        return _advance(around, now, ports)
    except AccountUnreachable:
        return _put_off(_need(invoice_id, now, ports), ports)
    except PreconditionFailed:
        return Worked("elsewhere", invoice_id)  # it is still in the to-do list, if anything is left to do


def _advance(around: Around, now: datetime, ports: Ports) -> Worked:
    """Steps that came due first, so that a suspension is not held up by a bank."""
    due, invoice = due_steps(around.invoice, around.at)
    pays = invoice.next_attempt_at is not None and invoice.next_attempt_at <= around.at
    if due:
        _save_steps(around, invoice, due, ports)
        if not pays:
            return Worked(due[-1].what, invoice.id)
        around = _need(invoice.id, now, ports)
        invoice = around.invoice
    if not pays:
        return Worked("settled" if invoice.due_at is None else "waits", invoice.id)
    if around.terms.until is not None and around.terms.until <= around.at:
        return _call_off(around, now, ports)
    return charge(around, now, ports)


def _call_off(around: Around, now: datetime, ports: Ports) -> Worked:
    """Nobody pays for what never began. Where somebody just did, Stripe refuses, and the next reading says paid."""
    invoice = around.invoice
    with suppress(ProviderRefused):
        ports.provider.void(invoice.account, invoice.stripe_id, f"called-off:{_bill_id(invoice)}")
    latest = bring_up(_need(invoice.id, now, ports), now, ports, SILENT)
    return Worked("called_off" if latest.invoice.status == "void" else latest.invoice.status, invoice.id)


def _save_steps(around: Around, invoice: Invoice, due: Sequence[Step], ports: Ports) -> None:
    subscription = around.subscription
    if subscription is not None and any(each.what == SUSPEND for each in due):
        subscription = suspended(subscription, around.at)
    ports.store.save(invoice, subscription=_if_changed(around.subscription, subscription))


def charge(around: Around, now: datetime, ports: Ports) -> Worked:
    """Charge what is left of an invoice. The try is counted before Stripe is asked, and its number is in the key.

    Whoever comes while its answer is not known asks under the same number, and it is one charge. PreconditionFailed
    when the invoice changed since it was read.
    """
    invoice = begun(around.invoice, now)
    if invoice != around.invoice:
        ports.store.save(invoice)
    refusal: Refused | None = None
    try:
        ports.provider.pay(invoice.account, invoice.stripe_id, _bill_id(invoice), invoice.tries - 1)
    except CardDeclined as declined:
        told = declined.members
        code = str(told.get("decline_code") or told.get("provider_code"))
        attempt, card = str(told.get("charge") or ""), str(told.get("payment_method") or "")
        refusal = Refused(code=code, attempted=True, attempt=attempt, card=card or around.terms.card)
    except AccountUnreachable:
        raise
    except ProviderRefused as refused:
        # Nothing was attempted: no card on file, or the account may not charge now. The schedule goes on.
        refusal = Refused(code=str(refused.members.get("provider_code") or NO_CARD))
    latest = until_unchanged(lambda: _answered(invoice, refusal, now, ports))
    if refusal is None or latest.status in ("paid", "void"):
        return Worked("paid" if refusal is None else "settled", invoice.id)
    return Worked("declined" if refusal.attempted else "refused", invoice.id)


def _answered(asked: Invoice, refusal: Refused | None, now: datetime, ports: Ports) -> Invoice:
    """Record what came of a try, unless a reading has told already. Answers the invoice after it."""
    latest = bring_up(_need(asked.id, now, ports), now, ports)
    invoice = latest.invoice
    if refusal is None or invoice.asked_at is None or invoice.tries != asked.tries:
        return invoice
    after = answered(invoice, refusal, latest.terms, latest.at)
    _store(latest, after, SILENT, ports)
    return after


def _put_off(around: Around, ports: Ports) -> Worked:
    """The account does not let us in: looked at again tomorrow, and what access depends on goes on."""
    again = around.at + AGAIN_UNREACHABLE
    late = [each for each in around.invoice.pending if each.what == PAST_DUE_DATE and each.at <= around.at]
    due, invoice = due_steps(around.invoice, around.at) if not late else ((), around.invoice)
    if late:  # whether it was paid in time is known when the account is back
        invoice = replace(invoice, pending=tuple(replace(each, at=again) for each in late))
    if invoice.next_attempt_at is not None:
        invoice = replace(invoice, next_attempt_at=again)
    _save_steps(around, invoice, due, ports)
    return Worked("unreachable", invoice.id)


def heard(invoice_id: str, event: str, now: datetime, ports: Ports, *, disputed: bool = False) -> str:
    """Something happened to an invoice of ours: bring our record up to what it is now, with the event's `done`.

    `disputed`: it was about a dispute, so one is looked for whatever the charge says. Answers what became of the
    invoice. NotFound when either of them is gone; PreconditionFailed when anything changed meanwhile.
    """
    around = around_of(invoice_id, now, ports)
    found = ports.provider.collected(
        around.invoice.account, around.invoice.stripe_id, disputed=disputed or bool(around.invoice.disputed)
    )
    after = brought_up(around.invoice, found, around.terms, around.at)
    outcome = after.status if after != around.invoice else "unchanged"
    _store(around, after, Written(event=(event, outcome)), ports)
    return outcome


def bring_up(around: Around, now: datetime, ports: Ports, written: Written = Written()) -> Around:  # frozen
    """Read the invoice at the provider and store what it became. Answers it as stored."""
    found = ports.provider.collected(
        around.invoice.account, around.invoice.stripe_id, disputed=bool(around.invoice.disputed)
    )
    return bring_up_to(around, found, now, ports, written)


def bring_up_to(around: Around, found: Collected, now: datetime, ports: Ports, written: Written) -> Around:
    """Store what a reading says, if it says anything new."""
    after = brought_up(around.invoice, found, around.terms, around.at)
    changed = _store(around, after, written, ports)
    return _need(after.id, now, ports) if changed else around


def _store(around: Around, after: Invoice, written: Written, ports: Ports) -> bool:
    """One transaction: the invoice, its subscription, its bill, the audit, the event. False: nothing to write."""
    before = around.invoice
    subscription = around.subscription
    if subscription is not None and after != before:
        others = _others_owed(subscription, after, ports)
        subscription = subscription_after(subscription, after, around.terms, around.at, others)
        if after.status == "paid" and not after.credited_away and subscription.status == "pending_invoice":
            subscription = _begun(subscription, around.publisher, around.at)
    bill = bill_after(around.bill, after, around.at) if around.bill is not None else None
    if bill != around.bill and around.bill is not None and around.bill.status == "drafted":
        ports.store.listed(before)  # its worker will find the bill settled and not come to it
    done = list(by_hand(before, after)) if written.hand else []
    if done and ports.store.acting(before.id, around.at - ACTING):
        done = []  # asked for here, and audited as that person's
    entries = [audit("stripe", before, action, what, around.at, ports) for action, what in done]
    entries += written.entries
    invoice = after if after != before else None
    bill = bill if bill != around.bill else None
    subscription = _if_changed(around.subscription, subscription)
    changed = bool(entries) or any(each is not None for each in (invoice, bill, subscription))
    if not changed and written.event is None and written.action is None:
        return False
    ports.store.save(
        invoice,
        subscription=subscription,
        bill=bill,
        action=written.action,
        entries=entries,
        event=written.event,
    )
    return changed


def _others_owed(subscription: Subscription, after: Invoice, ports: Ports) -> list[Invoice]:
    """The rest of what a subscription owes, once this one is settled: the next grace that ends is one of theirs."""
    if after.id not in subscription.unpaid or after.status not in ("paid", "void"):
        return []
    found = [ports.store.invoice(each) for each in subscription.unpaid if each != after.id]
    return [each for each in found if each is not None]


def _begun(subscription: Subscription, publisher: Publisher, at: datetime) -> Subscription:
    """What waited for its opening bill is active."""
    status = states.SUBSCRIPTION.move(subscription.status, "activate")
    after = replace(subscription, status=status, activated_at=at, pending_until=None)
    return noted(scheduled(after, publisher.settings.grace_hours), at, "active", "opening bill paid")


def adopt(found: Collected, bill: Bill, now: datetime, ports: Ports, event: tuple[str, str] | None = None) -> Invoice:
    """Record an invoice of ours that is at the provider and not here: the worker crashed, or a table was restored."""
    publisher = ports.store.publisher(bill.publisher)
    at = time_of(publisher, now) if publisher is not None else now
    recorded = Invoice(
        id=found.invoice,
        stripe_id=found.id,
        account=bill.account,
        publisher=bill.publisher,
        subscriber=bill.subscriber,
        subscription=bill.subscription,
        edge=bill.edge,
        currency=found.currency,
        amount=bill.subtotal,
        application_fee=bill.application_fee,
        due_scope=scope_of(publisher) if publisher is not None else "",
        next_attempt_at=at,
        issued_at=found.created,
    )
    ports.store.record(recorded)
    around = _need(recorded.id, now, ports)
    return bring_up_to(around, found, now, ports, Written(event=event, hand=False)).invoice


def customer_changed(subscriber: Subscriber, customer_id: str, event: str | None, now: datetime, ports: Ports) -> str:
    """The card that is charged is another, has other dates, or is gone; or the customer is. Answers which.

    PreconditionFailed when anything changed meanwhile.
    """
    latest = ports.store.subscriber(subscriber.publisher, subscriber.id)
    known = next((each for each in latest.customers if each.id == customer_id), None) if latest else None
    if latest is None or known is None:
        return "unknown"
    try:
        found = ports.provider.customer(known.account, customer_id)
    except NotFound:
        found = FoundCustomer(id=customer_id, deleted=True)
    outcome, after, owed = _customer_after(latest, known, found, now, ports)
    if outcome == "unchanged" and event is None:
        return outcome
    entries = [] if outcome in ("unchanged", "retried") else [_of_customer(latest, outcome, known, found, now, ports)]
    ports.store.save(
        subscriber=after if after != latest else None,
        invoices=owed,
        entries=entries,
        event=(event, outcome) if event is not None else None,
    )
    return outcome


def customer_found(pub: str, found: FoundCustomer, account: str, now: datetime, ports: Ports) -> bool:
    """Record a customer of ours that is at the provider and not here, with its card. False: somebody else just did.

    PreconditionFailed when anything changed meanwhile.
    """
    subscriber = ports.store.subscriber(pub, found.subscriber)
    if subscriber is None or subscriber.customer(account) is not None:
        return False
    latest = ports.provider.customer(account, found.id)
    if latest.deleted:
        return False
    bare = Customer(account=account, id=found.id)
    card = replace(
        bare, payment_method=latest.payment_method, brand=latest.brand, last4=latest.last4, expires=latest.expires
    )
    entry = _of_customer(subscriber, "customer_found", bare, latest, now, ports)
    ports.store.save(subscriber=replace(subscriber, customers=(*subscriber.customers, card)), entries=(entry,))
    return True


def _customer_after(
    subscriber: Subscriber, known: Customer, found: FoundCustomer, now: datetime, ports: Ports
) -> tuple[str, Subscriber, list[Invoice]]:
    others = tuple(each for each in subscriber.customers if each.id != known.id)
    if found.deleted:
        # The next order makes a new customer under another derived key.
        gone = replace(subscriber, customers=others, generation=subscriber.generation + 1)
        return "customer_deleted", gone, []
    card = replace(
        known, payment_method=found.payment_method, brand=found.brand, last4=found.last4, expires=found.expires
    )
    # The card may be known from its own Checkout already: what failed on another one is what counts.
    again = iter(()) if card.payment_method is None else _charged_again(subscriber, known, card, now, ports)
    owed = list(islice(again, MOST_AT_ONCE))
    if card == known:
        return ("retried" if owed else "unchanged"), subscriber, owed
    after = replace(subscriber, customers=tuple(card if each.id == known.id else each for each in subscriber.customers))
    return ("card_removed" if card.payment_method is None else "card_replaced"), after, owed


def _charged_again(
    subscriber: Subscriber, before: Customer, after: Customer, now: datetime, ports: Ports
) -> Iterator[Invoice]:
    """What failed on the former card is tried on the new one at once."""
    publisher = ports.store.publisher(subscriber.publisher)
    at = time_of(publisher, now) if publisher is not None else now
    for invoice in ports.store.owed_by(subscriber.publisher, subscriber.id):
        another = after != before or invoice.card != after.payment_method
        if invoice.account == after.account and invoice.status == "payment_failed" and another:
            yield replace(retried_now(invoice, at, "card_replaced"), card=after.payment_method or "")


def card_expires(subscriber: Subscriber, customer: Customer, now: datetime, ports: Ports) -> None:
    """The card on file expires soon: told once. PreconditionFailed when the subscriber changed meanwhile."""
    told = replace(customer, warned=customer.expires)
    others = tuple(told if each.id == customer.id else each for each in subscriber.customers)
    entry = _of_customer(subscriber, "card_expiring", customer, told, now, ports)
    ports.store.save(subscriber=replace(subscriber, customers=others), entries=(entry,))


def _of_customer(
    subscriber: Subscriber, outcome: str, before: Customer, after: FoundCustomer | Customer, now: datetime, ports: Ports
) -> AuditEntry:
    return AuditEntry(
        id=ports.ids.new("aud", now),
        publisher=subscriber.publisher,
        at=now,
        actor="stripe",
        organization=subscriber.id,
        action=f"subscriber.{outcome}",
        target=subscriber.id,
        before={"payment_method": before.payment_method or "", "expires": before.expires},
        after={"payment_method": after.payment_method or "", "expires": after.expires},
    )


# --- reading ---


def _around(invoice_id: str, now: datetime, ports: Ports) -> Around | None:
    invoice = ports.store.invoice(invoice_id)
    if invoice is None:
        return None
    publisher = ports.store.publisher(invoice.publisher)
    if publisher is None:
        return None
    subscription = ports.store.subscription(invoice.subscription)
    subscriber = ports.store.subscriber(invoice.publisher, invoice.subscriber)
    version = None
    if subscription is not None and subscription.plan is not None and subscription.version is not None:
        version = ports.store.plan_version(subscription.plan, subscription.version)
    grace = version.terms.grace_days if version is not None else None
    return Around(
        invoice,
        subscription,
        ports.store.bill(invoice.subscription, invoice.edge),
        publisher,
        terms_of(publisher, subscriber, grace, invoice.account, called_off_at(subscription) if subscription else None),
        time_of(publisher, now),
    )


def around_of(invoice_id: str, now: datetime, ports: Ports) -> Around:
    """An invoice with what it acts on. NotFound when there is none."""
    found = _around(invoice_id, now, ports)
    if found is None:
        raise NotFound("unknown_invoice", "There is no such invoice.")
    return found


_need: Callable[[str, datetime, Ports], Around] = around_of


def _if_changed[T](before: T | None, after: T | None) -> T | None:
    return None if after == before else after


def _bill_id(invoice: Invoice) -> str:
    return f"{invoice.subscription}.{invoice.edge:%Y%m%dT%H%M%SZ}"


def audit(
    person: Person | str, invoice: Invoice, action: str, after: dict[str, str], at: datetime, ports: Ports
) -> AuditEntry:
    """Who did what to an invoice; `stripe` for what was done by hand over there."""
    return AuditEntry(
        id=ports.ids.new("aud", at),
        publisher=invoice.publisher,
        at=at,
        actor=person.user if isinstance(person, Person) else person,
        organization=person.organization if isinstance(person, Person) else invoice.publisher,
        action=action,
        target=invoice.id,
        before={"status": invoice.status},
        after=after,
    )
