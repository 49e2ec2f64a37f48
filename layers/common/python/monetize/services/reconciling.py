"""Compare what we hold with what Stripe holds of ours; repair what is ours to repair, propose the rest, touch nothing
that we did not make.

Nothing is written where nothing differs. A pass goes subscriber by subscriber, so it can stop anywhere and go on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from monetize.domain.adoption import lines_taken_back
from monetize.domain.collecting import InvoiceLine
from monetize.domain.drift import (
    AMOUNT,
    DUPLICATE,
    FOREIGN,
    MISSING_HERE,
    MISSING_THERE,
    NOT_COMPARED,
    ORPHAN,
    PROPOSED,
    REPAIRED,
    REPORTED,
    STALE,
    STATUS,
    Finding,
    Report,
    added,
    amounts,
    lines_differ,
    orphan,
    stale,
)
from monetize.domain.dunning import Collected, FoundCustomer
from monetize.domain.errors import AccountUnreachable, Invalid, NotFound, PreconditionFailed, Refusal, Unavailable
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.offers import time_of
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Subscriber, Subscription, billed, called_off_at, in_force
from monetize.services import invoice_actions, payments
from monetize.services.billing import invoice_id, split_bill_id
from monetize.services.subscription_access import until_unchanged

WINDOW: Final = timedelta(days=100)  # how far back; what is older and still owed is asked for one by one
PAGE: Final = 100
BEGINNING: Final = "PLAN#"  # products first, by plan; then subscribers, by their first subscription
SUBSCRIBERS: Final = "SUB#"


class Store(Protocol):
    """What of ours is compared, in pages."""

    def connected(self, after: str = "") -> Iterator[str]: ...
    def publisher(self, pub: str) -> Publisher | None: ...
    def subscribers(self, pub: str, after: str | None) -> Iterator[tuple[str, Subscriber]]: ...
    def subscriptions_of(self, subscriber: Subscriber) -> list[Subscription]: ...
    def bills_since(self, subscription: str, since: datetime) -> list[Bill]: ...
    def bill(self, sub: str, edge: datetime) -> Bill | None: ...
    def invoices(self, ids: Sequence[str]) -> dict[str, Invoice]: ...
    def products(self, pub: str, after: str | None) -> Iterator[tuple[str, PlanVersion]]: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def adopt(self, bill: Bill, lines: BillLines, before: Subscription, after: Subscription) -> None: ...
    def report(self, pub: str) -> Report | None: ...
    def interrupted(self) -> Report | None: ...
    def save(self, report: Report) -> None: ...
    def forget(self, report: Report) -> None: ...


class Provider(Protocol):
    """The provider's side, read in bulk; two writes, both on what we made."""

    def collected(self, account: str, invoice: str, *, disputed: bool = False) -> Collected: ...
    def customer(self, account: str, customer: str) -> FoundCustomer: ...
    def invoices_of(self, account: str, customer: str, since: datetime) -> Iterator[Collected]: ...
    def given_back(self, account: str, customer: str, since: datetime) -> dict[str, tuple[int, bool]]: ...
    def lines(self, account: str, invoice: str) -> tuple[InvoiceLine, ...]: ...
    def product_live(self, account: str, product: str) -> bool: ...
    def delete_draft(self, account: str, invoice: str) -> None: ...


class Products(Protocol):
    """Plans as products."""

    def ensure(self, account: str, publisher: str, plan: str, name: str, tax_code: str | None) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What reconciling works with."""

    store: Store
    provider: Provider
    products: Callable[[], Products]
    payments: payments.Ports


@dataclass(slots=True)
class _Pass:
    """One pass while it runs: the report as far as it came, and the requests made."""

    publisher: Publisher
    account: str
    now: datetime
    ports: Ports
    report: Report

    def read(self, requests: int = 1) -> None:
        self.report = replace(self.report, reads=self.report.reads + requests)

    def tell(self, kind: str, subject: str, detail: str, outcome: str, money: int = 0, currency: str = "") -> None:
        found = Finding(kind=kind, subject=subject, detail=detail, outcome=outcome, money=money, currency=currency)
        self.report = added(self.report, found)


def reconcile_all(now: datetime, left: Callable[[], bool], ports: Ports, *, resume_only: bool = False) -> list[Report]:
    """Every connected account, or as many as time allows: then the next call goes on where this one stopped.

    `resume_only`: nothing at all, unless a pass ran out of time.
    """
    waiting = ports.store.interrupted()
    if waiting is None and resume_only:
        return []
    done: list[Report] = []
    if waiting is not None:
        ports.store.save(waiting)  # taken up; it stays until it is done, so that a crash loses no place
        done += _unless_left(waiting.publisher, now, left, ports, begun=replace(waiting, rev=0))
        if done and done[-1].after is not None:
            ports.store.save(replace(done[-1], rev=waiting.rev + 1))
            return done
        ports.store.forget(replace(waiting, rev=waiting.rev + 1))
    for publisher in ports.store.connected("" if waiting is None else waiting.publisher):
        done += _unless_left(publisher, now, left, ports)
        if done and done[-1].after is not None:
            ports.store.save(done[-1])
            break
    return done


def _unless_left(
    publisher: str, now: datetime, left: Callable[[], bool], ports: Ports, *, begun: Report | None = None
) -> list[Report]:
    """The index of connected accounts is seconds behind: nobody to compare with is no reason to stop."""
    try:
        return [reconcile(publisher, now, left, ports, begun=begun)]
    except NotFound:
        return []


def reconcile(
    publisher_id: str, now: datetime, left: Callable[[], bool], ports: Ports, *, begun: Report | None = None
) -> Report:
    """One publisher's account, from the start or from where a pass stopped. NotFound for one without an account.

    The report is stored when it says something new; `after` in the answer says that time ran out, or that Stripe does
    not answer now. What cannot be compared is reported, and the rest goes on.
    """
    publisher = ports.store.publisher(publisher_id)
    link = publisher.stripe if publisher is not None else None
    if publisher is None or link is None:
        raise NotFound("not_enabled", "Monetization was never set up for this organization.")
    going = _Pass(publisher, link.account, now, ports, begun or Report(publisher=publisher_id, started_at=now))
    place, going.report = going.report.after or BEGINNING, replace(going.report, after=None)
    try:
        for position, subject, compare in _steps(going, place):
            if not left():
                return replace(going.report, after=place)
            try:
                compare()
            except (AccountUnreachable, Unavailable):
                raise
            except Refusal as refused:
                going.tell(NOT_COMPARED, subject, f"could not be compared to the end: {refused.code}", REPORTED)
            place = position
    except AccountUnreachable:
        going.tell(STALE, link.account, "the account does not let us in any more", REPORTED)
    except Unavailable:
        return replace(going.report, after=place)
    until_unchanged(lambda: _conclude(going.report, ports))
    return going.report


type _Step = tuple[str, str, Callable[[], None]]  # the position after it, what it is about, and what to do


def _steps(going: _Pass, after: str) -> Iterator[_Step]:
    """Everything that one pass compares, in the order of its positions. Invalid for a position that is none."""
    pub, store = going.publisher.id, going.ports.store
    if not after.startswith((BEGINNING, SUBSCRIBERS)):
        raise Invalid("bad_cursor", "This cursor was not made for this list.")
    if after.startswith(BEGINNING):
        for position, version in store.products(pub, after):
            yield position, version.plan, partial(_product, going, version)
    since = after if after.startswith(SUBSCRIBERS) else None
    for position, subscriber in store.subscribers(pub, since):
        yield position, subscriber.id, partial(_subscriber, going, subscriber)


def _conclude(report: Report, ports: Ports) -> None:
    """Store it when it found something, or when the last one did and this one does not; else nothing is written."""
    last = ports.store.report(report.publisher)
    if not report.clean:
        ports.store.save(replace(report, rev=last.rev if last is not None else 0))
    elif last is not None:
        ports.store.forget(last)


# --- products ---


def _product(going: _Pass, version: PlanVersion) -> None:
    product = version.stripe_product or ""
    going.read()
    going.report = replace(going.report, products=going.report.products + 1)
    if going.ports.provider.product_live(going.account, product):
        return
    terms = version.terms
    going.ports.products().ensure(going.account, going.publisher.id, version.plan, version.name, terms.tax_code)
    going.tell(MISSING_THERE, product, "the plan's product was deleted or archived", REPAIRED)


# --- one subscriber ---


def _subscriber(going: _Pass, subscriber: Subscriber) -> None:
    going.report = replace(going.report, subscribers=going.report.subscribers + 1)
    customer = subscriber.customer(going.account)
    if customer is None:
        return
    ports, since = going.ports, going.now - WINDOW
    _card(going, subscriber, customer.id)
    theirs = [found for found in ports.provider.invoices_of(going.account, customer.id, since) if found.ours]
    going.read(1 + len(theirs) // PAGE)
    if any(found.amount_paid for found in theirs):
        back = ports.provider.given_back(going.account, customer.id, since)
        going.read(1 + len(back) // PAGE)
        theirs = [_with(found, back.get(found.payment, (0, False))) for found in theirs]
    subscriptions = {each.id: each for each in ports.store.subscriptions_of(subscriber)}
    bills = {bill.id: bill for each in subscriptions for bill in ports.store.bills_since(each, since)}
    owed = [inv for each in subscriptions.values() for inv in each.unpaid]
    names = [found.invoice for found in theirs] + [invoice_id(bill) for bill in bills.values()] + owed
    ours = ports.store.invoices(names)
    for found in sorted(theirs, key=lambda each: (each.bill, each.created)):
        _theirs(going, found, subscriptions, bills, ours)
    for bill in bills.values():
        _leftover(going, bill)
    for invoice in ours.values():
        _paid_too_late(going, invoice, subscriptions.get(invoice.subscription))
    seen = {found.id for found in theirs}
    for invoice in ours.values():
        if invoice.stripe_id not in seen and invoice.account == going.account:
            _ours(going, invoice)


def _with(found: Collected, back: tuple[int, bool]) -> Collected:
    return replace(found, refunded=back[0], disputed="open" if back[1] else "")


def _card(going: _Pass, subscriber: Subscriber, customer: str) -> None:
    known = subscriber.customer(going.account)
    found = going.ports.provider.customer(going.account, customer)
    going.read(2 if found.payment_method else 1)
    same = known is not None and (found.payment_method, found.expires) == (known.payment_method, known.expires)
    if found.deleted or not same:
        outcome = until_unchanged(
            lambda: payments.customer_changed(subscriber, customer, None, going.now, going.ports.payments)
        )
        going.tell(STALE, subscriber.id, f"customer: {outcome}", REPAIRED)
    elif known is not None and known.expires and known.warned != known.expires <= _next_month(going.now):
        with suppress(PreconditionFailed):  # somebody is on it: told tomorrow
            payments.card_expires(subscriber, known, going.now, going.ports.payments)


def _next_month(now: datetime) -> str:
    return f"{now + timedelta(days=31):%Y-%m}"


def _theirs(
    going: _Pass,
    found: Collected,
    subscriptions: dict[str, Subscription],
    bills: dict[str, Bill],
    ours: dict[str, Invoice],
) -> None:
    bill = bills.get(found.bill) or _older(going, found)
    if found.status == "draft":
        if orphan(found, bill, going.now):
            going.ports.provider.delete_draft(going.account, found.id)
            going.tell(ORPHAN, found.id, "a draft that its bill does not remember was deleted", REPAIRED)
        return
    going.report = replace(going.report, invoices=going.report.invoices + 1)
    record = ours.get(found.invoice)
    if (record is not None and record.stripe_id != found.id) or (
        bill is not None and bill.invoice not in (None, found.id)
    ):
        detail = f"{found.id} carries {found.bill} a second time: void it, or refund what was paid"
        going.tell(DUPLICATE, found.id, detail, PROPOSED, found.total, found.currency)
    elif record is not None:
        _compare(going, record, found)
    else:
        _missing_here(going, found, bill, subscriptions)


def _older(going: _Pass, found: Collected) -> Bill | None:
    try:
        sub, edge = split_bill_id(found.bill)
    except NotFound:
        return None
    return going.ports.store.bill(sub, edge)


def _missing_here(going: _Pass, found: Collected, bill: Bill | None, subscriptions: dict[str, Subscription]) -> None:
    """Adopt what its metadata proves to be ours: a crash before it was recorded, or tables restored to before it."""
    try:
        sub, edge = split_bill_id(found.bill)
    except NotFound:
        sub, edge = "", going.now
    subscription = subscriptions.get(sub)
    if subscription is None:
        going.tell(FOREIGN, found.id, "names a subscription that is not here", REPORTED, found.total, found.currency)
        return
    if bill is None:
        bill = _restored(going, found, subscription, edge)
        grace = going.publisher.settings.grace_hours
        after = subscription
        if subscription.next_edge is not None and subscription.next_edge <= edge:
            after = billed(subscription, edge, grace)
        going.ports.store.adopt(bill, _lines(going, bill, subscription), subscription, after)
        subscriptions[sub] = replace(after, rev=subscription.rev + 1) if after != subscription else subscription
        going.tell(MISSING_HERE, bill.id, "the bill was taken back from its invoice", REPAIRED)
    if bill.invoice is None or (bill.status in ("rated", "claimed")):
        going.tell(MISSING_HERE, found.id, "its bill is still being worked on", REPORTED)
        return
    payments.adopt(found, bill, going.now, going.ports.payments)
    going.tell(MISSING_HERE, found.invoice, "the invoice was recorded again", REPAIRED)


def _lines(going: _Pass, bill: Bill, subscription: Subscription) -> BillLines:
    """What the next bill has to know of this one: what was paid in advance, and what nobody is to bill again."""
    span = in_force(subscription, bill.edge)
    version = None
    if span is not None and span.plan is not None and span.version is not None:
        version = going.ports.payments.store.plan_version(span.plan, span.version)
    last = subscription.last_edge
    before = going.ports.store.lines(subscription.id, last) if last is not None and last < bill.edge else None
    sent = going.ports.provider.lines(going.account, bill.invoice or "")
    going.read(1 + len(sent) // PAGE)
    return lines_taken_back(bill, sent, version, before)


def _restored(going: _Pass, found: Collected, subscription: Subscription, edge: datetime) -> Bill:
    """A bill as far as its invoice tells of it."""
    at = time_of(going.publisher, found.created)
    return Bill(
        subscription=subscription.id,
        publisher=subscription.publisher,
        subscriber=subscription.subscriber,
        account=going.account,
        currency=found.currency,
        edge=edge,
        last=subscription.end is not None and edge >= subscription.end,
        status="sent",
        subtotal=found.subtotal,
        invoice=found.id,
        reason="adopted",
        created_at=at,
        sent_at=at,
    )


def _leftover(going: _Pass, bill: Bill) -> None:
    """What the last bill left in the subscriber's favour is given back; what no invoice can carry is for a person."""
    if not bill.last or bill.carry_out >= 0:
        return
    asked = going.ports.payments.store
    before = sum(each.credited for each in asked.invoices_up_to(bill))
    left = invoice_actions.credit_leftover(bill, going.now, going.ports.payments)
    given = sum(each.credited for each in asked.invoices_up_to(bill)) - before
    if given:
        going.tell(AMOUNT, bill.id, f"{given} was credited for corrections after the last bill", REPAIRED)
    if left:
        detail = f"{left} is owed to the subscriber and no invoice can carry it: pay it outside"
        going.tell(AMOUNT, bill.id, detail, PROPOSED, left, bill.currency)


def _paid_too_late(going: _Pass, invoice: Invoice, subscription: Subscription | None) -> None:
    """An opening bill that was paid in the moment in which its order ended is given back."""
    never_began = subscription is not None and not subscription.live and called_off_at(subscription) is not None
    left = invoice.total - invoice.credited - invoice.refunded
    if not never_began or invoice.status != "paid" or left <= 0:
        return
    given = invoice_actions.credit_correction(invoice.id, left, "called-off", going.now, going.ports.payments)
    going.tell(AMOUNT, invoice.id, f"{given} was credited: its order ended before it was paid", REPAIRED)


def _ours(going: _Pass, invoice: Invoice) -> None:
    """Recorded here and not among the customer's invoices there: older, another customer's, or gone."""
    try:
        found = going.ports.provider.collected(going.account, invoice.stripe_id, disputed=bool(invoice.disputed))
    except NotFound:
        going.read()
        detail = f"{invoice.stripe_id} is not at Stripe: it was deleted, or never kept"
        going.tell(MISSING_THERE, invoice.id, detail, PROPOSED, invoice.amount, invoice.currency)
        return
    going.read(2)
    _compare(going, invoice, found)


def _compare(going: _Pass, invoice: Invoice, found: Collected) -> None:
    content = going.ports.store.lines(invoice.subscription, invoice.edge)
    for each in tuple(amounts(invoice, found)) or lines_differ(invoice, content, found):
        going.report = added(going.report, each)
    told = stale(invoice, found)
    if not told:
        return
    try:
        around = payments.around_of(invoice.id, going.now, going.ports.payments)
        payments.bring_up(around, going.now, going.ports.payments)
    except PreconditionFailed:
        told += "; somebody else was on it"
    going.read(3)
    going.tell(STATUS, invoice.id, told, REPAIRED)
