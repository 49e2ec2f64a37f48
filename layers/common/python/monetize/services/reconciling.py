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

from monetize.domain import states
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
    settled,
    stale,
)
from monetize.domain.dunning import Collected, FoundCustomer
from monetize.domain.errors import AccountUnreachable, Invalid, NotFound, PreconditionFailed, Refusal, Unavailable
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.offers import time_of
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import (
    Subscriber,
    Subscription,
    billed,
    called_off_at,
    discounts_in_force,
    in_force,
)
from monetize.services import invoice_actions, onboarding, payments
from monetize.services.billing import charging, invoice_id, split_bill_id
from monetize.services.subscription_access import until_unchanged

WINDOW: Final = timedelta(days=100)  # how far back; what is older and still owed is asked for one by one
SETTLING: Final = timedelta(days=7)  # an invoice of many lines is read whole in its first days: lines never change
MOST_STALLS: Final = 2  # times more that Stripe is asked for one that it did not answer for; then it is left out
BEGINNING: Final = "PLAN#"  # the account, and products by plan; then subscribers, by their first subscription
CUSTOMERS: Final = "PLAN#~"  # between them, after the last plan
SUBSCRIBERS: Final = "SUB#"
DISPUTES: Final = "SUB#~"  # at the end, after the last subscription


class Store(Protocol):
    """What of ours is compared, in pages."""

    def connected(self, after: str = "") -> Iterator[str]: ...
    def publisher(self, pub: str) -> Publisher | None: ...
    def subscribers(self, pub: str, after: str | None) -> Iterator[tuple[str, Subscriber]]: ...
    def subscribers_named(self, pub: str, names: Sequence[str]) -> dict[str, Subscriber]: ...
    def subscriptions_of(self, subscriber: Subscriber) -> list[Subscription]: ...
    def bills_since(self, subscription: str, since: datetime) -> list[Bill]: ...
    def bill(self, sub: str, edge: datetime) -> Bill | None: ...
    def invoices(self, ids: Sequence[str]) -> dict[str, Invoice]: ...
    def products(self, pub: str, after: str | None) -> Iterator[tuple[str, PlanVersion]]: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def bill_before(self, sub: str, edge: datetime) -> Bill | None: ...
    def lines_before(self, sub: str, edge: datetime) -> BillLines | None: ...
    def adopt(
        self, bills: Sequence[Bill], lines: BillLines | None, before: Subscription, after: Subscription
    ) -> None: ...
    def report(self, pub: str) -> Report | None: ...
    def interrupted(self) -> Report | None: ...
    def begun(self, pub: str) -> Report | None: ...
    def save(self, report: Report) -> None: ...
    def forget(self, report: Report) -> None: ...


class Provider(Protocol):
    """The provider's side, read in bulk; two writes, both on what we made."""

    def collected(self, account: str, invoice: str, *, disputed: bool = False) -> Collected: ...
    def customer(self, account: str, customer: str) -> FoundCustomer: ...
    def customers_since(self, account: str, since: datetime) -> Iterator[FoundCustomer]: ...
    def invoices_of(self, account: str, customer: str, since: datetime) -> Iterator[Collected]: ...
    def refunded(self, account: str, customer: str, since: datetime) -> dict[str, int]: ...
    def disputes(self, account: str, since: datetime) -> Iterator[tuple[str, str]]: ...
    def lines(self, account: str, invoice: str) -> tuple[InvoiceLine, ...]: ...
    def product_live(self, account: str, product: str) -> bool: ...
    def delete_draft(self, account: str, invoice: str) -> None: ...


class Products(Protocol):
    """Plans as products."""

    def ensure(self, account: str, publisher: str, plan: str, name: str, tax_code: str | None) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What reconciling works with. `requests`: how many were made to the provider so far.

    `restored`: billing is paused, as it is while restored tables are brought up to what happened after their instant.
    """

    store: Store
    provider: Provider
    products: Callable[[], Products]
    payments: payments.Ports
    onboarding: Callable[[], onboarding.Ports]
    requests: Callable[[], int]
    restored: Callable[[], bool]


class Broken(Exception):
    """Something went wrong that nobody foresaw. The rest was compared and stored: `reports`; the cause is attached."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__("Some could not be compared.")
        self.reports = reports


@dataclass(slots=True)
class _Pass:
    """One pass while it runs: the report as far as it came, and what went wrong."""

    publisher: Publisher
    account: str
    now: datetime
    ports: Ports
    report: Report
    failures: list[Exception]

    def tell(self, kind: str, subject: str, detail: str, outcome: str, money: int = 0, currency: str = "") -> None:
        found = Finding(kind=kind, subject=subject, detail=detail, outcome=outcome, money=money, currency=currency)
        self.report = added(self.report, found)


def reconcile_all(now: datetime, left: Callable[[], bool], ports: Ports, *, resume_only: bool = False) -> list[Report]:
    """Every connected account, or as many as time allows: then the next call goes on where this one stopped.

    `resume_only`: nothing at all, unless a pass ran out of time. Broken, at the end, when something did break.
    """
    waiting = ports.store.interrupted()
    if waiting is None and resume_only:
        return []
    done: list[Report] = []
    failures: list[Exception] = []

    def finished(publisher: str, begun: Report | None = None) -> bool:
        """Compare one account. An odd one, or one that nobody can compare with any more, is no reason to stop."""
        try:
            done.append(reconcile(publisher, now, left, ports, begun=begun))
        except NotFound:  # the index of connected accounts is seconds behind
            return True
        except Broken as broken:
            done.extend(broken.reports)
            failures.append(broken)
        except Exception as unforeseen:  # noqa: BLE001 # raised when everybody else was compared
            failures.append(unforeseen)
            return True
        return done[-1].after is None

    last = ""
    if waiting is not None:
        last = waiting.publisher
        ports.store.save(waiting)  # taken up; it stays until it is done, so that a crash loses no place
        if not finished(last, replace(waiting, rev=0)):
            ports.store.save(replace(done[-1], rev=waiting.rev + 1))
            return _unless(failures, done)
        ports.store.forget(replace(waiting, rev=waiting.rev + 1))
    for publisher in ports.store.connected(last):
        if not finished(publisher):
            ports.store.save(done[-1])
            break
    return _unless(failures, done)


def _unless(failures: list[Exception], done: list[Report]) -> list[Report]:
    if failures:
        raise Broken(done) from ExceptionGroup("reconciliation", failures)
    return done


def on_demand(
    publisher: str, now: datetime, left: Callable[[], bool], ports: Ports, *, cursor: str | None = None
) -> tuple[Report, str | None]:
    """A publisher's own pass: what it found so far, and the cursor to go on with, None at its end.

    A pass that runs out of time is kept, with its findings; the cursor says which pass it is, never where it stands.
    Invalid `bad_cursor` for one that is over, or that another has taken the place of.
    """
    waiting = ports.store.begun(publisher)
    if cursor is not None and (waiting is None or cursor != waiting.started_at.isoformat()):
        raise Invalid("bad_cursor", "This pass is over. Read what it found, or begin another.")
    begun = Report(publisher=publisher, started_at=now, on_demand=True) if cursor is None else waiting
    if begun is None:
        raise Invalid("bad_cursor", "This pass is over. Read what it found, or begin another.")
    try:
        report = reconcile(publisher, now, left, ports, begun=begun)
    except Broken as broken:
        _keep(broken.reports[0], waiting, ports)
        raise
    return report, _keep(report, waiting, ports)


def _keep(report: Report, waiting: Report | None, ports: Ports) -> str | None:
    """What is not at its end is kept in the place of what waited; answers its cursor."""
    if report.after is not None:
        ports.store.save(replace(report, rev=waiting.rev if waiting is not None else 0))
        return report.started_at.isoformat()
    if waiting is not None:
        ports.store.forget(waiting)
    return None


def reconcile(
    publisher_id: str, now: datetime, left: Callable[[], bool], ports: Ports, *, begun: Report | None = None
) -> Report:
    """One publisher's account, from the start or from where a pass stopped. NotFound for one without an account.

    The report is stored when it says something new; `after` in the answer says that time ran out, or that Stripe does
    not answer now: where it does not for the same subscriber time after time, the pass goes on without. What cannot be
    compared is reported, and the rest goes on; Broken, at the end, for what nobody foresaw.
    """
    publisher = ports.store.publisher(publisher_id)
    link = publisher.stripe if publisher is not None else None
    if publisher is None or link is None:
        raise NotFound("not_enabled", "Monetization was never set up for this organization.")
    begun = begun or Report(publisher=publisher_id, started_at=now)
    going = _Pass(publisher, link.account, now, ports, replace(begun, after=None, stalls=0), [])
    asked = ports.requests()
    stopped = _compared(going, begun.after or BEGINNING, begun.stalls, left)
    report = replace(going.report, reads=begun.reads + ports.requests() - asked)
    if stopped is not None:
        report = replace(report, after=stopped, stalls=begun.stalls + 1 if stopped == begun.after else 0)
    else:
        until_unchanged(lambda: _conclude(report, ports))
    _unless(going.failures, [report])
    return report


def _compared(going: _Pass, place: str, stalls: int, left: Callable[[], bool]) -> str | None:
    """Go through everything from a place on; answers where it stopped, None at the end."""
    try:
        for position, subject, compare in _steps(going, place):
            if not left():
                return place
            try:
                compare()
            except AccountUnreachable:
                raise
            except Unavailable:
                if stalls < MOST_STALLS:
                    return place
                going.tell(NOT_COMPARED, subject, "Stripe did not answer, time after time", REPORTED)
            except Refusal as refused:
                going.tell(NOT_COMPARED, subject, f"could not be compared to the end: {refused.code}", REPORTED)
            except Exception as unforeseen:  # noqa: BLE001 # raised when everything else was compared
                going.tell(NOT_COMPARED, subject, f"could not be compared: {type(unforeseen).__name__}", REPORTED)
                going.failures.append(unforeseen)
            place, stalls = position, 0
    except AccountUnreachable as away:
        _away(going, away)
    return None


type _Step = tuple[str, str, Callable[[], None]]  # the position after it, what it is about, and what to do


def _steps(going: _Pass, after: str) -> Iterator[_Step]:
    """Everything that one pass compares, in the order of its positions. Invalid for a position that is none."""
    pub, store = going.publisher.id, going.ports.store
    if not after.startswith((BEGINNING, SUBSCRIBERS)):
        raise Invalid("bad_cursor", "This cursor was not made for this list.")
    if after == BEGINNING:
        yield BEGINNING, going.account, partial(_account, going)
    if after.startswith(BEGINNING):
        for position, version in store.products(pub, after):
            yield position, version.plan, partial(_product, going, version)
    if after < CUSTOMERS and going.ports.restored():
        yield CUSTOMERS, going.account, partial(_customers, going)
    since = after if after.startswith(SUBSCRIBERS) else None
    for position, subscriber in store.subscribers(pub, since):
        yield position, subscriber.id, partial(_subscriber, going, subscriber)
    if after < DISPUTES:
        yield DISPUTES, going.account, partial(_disputes, going)


def _conclude(report: Report, ports: Ports) -> None:
    """Store it when it found something, or when the last one did and this one does not; else nothing is written."""
    last = ports.store.report(report.publisher)
    if not report.clean:
        ports.store.save(replace(report, rev=last.rev if last is not None else 0))
    elif last is not None:
        ports.store.forget(last)


# --- the account ---


def _account(going: _Pass) -> None:
    """What it may do now, if nobody told us."""
    ports = going.ports.onboarding()
    if until_unchanged(lambda: onboarding.account_updated(going.account, going.now, ports)) == "updated":
        going.tell(STALE, going.account, "what the account may do, or what it is called, is another", REPAIRED)


def _away(going: _Pass, away: AccountUnreachable) -> None:
    """It left without our hearing of it, if that is what Stripe says: a key may also lack a right."""
    outcome = "unreachable"
    if away.members.get("provider_code") == "account_invalid":
        ports = going.ports.onboarding()
        outcome = until_unchanged(lambda: onboarding.account_deauthorized(going.account, going.now, ports))
    done = REPAIRED if outcome == "disconnected" else REPORTED
    going.tell(STALE, going.account, "the account does not let us in any more", done)


# --- customers, after a restore ---


def _customers(going: _Pass) -> None:
    """Made after the instant that the tables are of: who is here gets its customer back, and its invoices are compared.

    Who is not here ordered after that instant: nothing here bills it any more, and a person decides.
    """
    found = going.ports.provider.customers_since(going.account, going.now - WINDOW)
    ours = [each for each in found if each.publisher == going.publisher.id]
    here = going.ports.store.subscribers_named(going.publisher.id, [each.subscriber for each in ours])
    for each in ours:
        subscriber = here.get(each.subscriber)
        known = subscriber.customer(going.account) if subscriber is not None else None
        if subscriber is None or subscriber.erasing or (known is not None and known.id != each.id):
            going.tell(FOREIGN, each.id, f"is the customer of {each.subscriber}, who is not here so", REPORTED)
        elif known is None and until_unchanged(partial(_recorded, going, each)):
            going.tell(MISSING_HERE, each.subscriber, "its customer was recorded again", REPAIRED)


def _recorded(going: _Pass, found: FoundCustomer) -> bool:
    return payments.customer_found(going.publisher.id, found, going.account, going.now, going.ports.payments)


# --- products ---


def _product(going: _Pass, version: PlanVersion) -> None:
    product = version.stripe_product or ""
    going.report = replace(going.report, products=going.report.products + 1)
    if going.ports.provider.product_live(going.account, product):
        return
    terms = version.terms
    going.ports.products().ensure(going.account, going.publisher.id, version.plan, version.name, terms.tax_code)
    going.tell(MISSING_THERE, product, "the plan's product was deleted or archived", REPAIRED)


# --- disputes ---


def _disputes(going: _Pass) -> None:
    """Opened or decided without our hearing of it: the account's newest, whatever the age of what was paid."""
    newest: dict[str, str] = {}
    for payment, became in going.ports.provider.disputes(going.account, going.now - WINDOW):
        newest.setdefault(payment, became)
    for payment, became in newest.items():
        invoice = going.ports.payments.store.invoice_known_as((payment,))
        if invoice is not None and invoice.account == going.account and invoice.disputed != became:
            _bring_up(going, invoice, f"dispute {invoice.disputed or 'unknown'} is {became} there", disputed=True)


# --- one subscriber ---


@dataclass(slots=True)
class _Here:
    """What we hold of one subscriber: by id."""

    subscriptions: dict[str, Subscription]
    bills: dict[str, Bill]
    invoices: dict[str, Invoice]


def _subscriber(going: _Pass, subscriber: Subscriber) -> None:
    going.report = replace(going.report, subscribers=going.report.subscribers + 1)
    store, since, customer = going.ports.store, going.now - WINDOW, subscriber.customer(going.account)
    theirs: list[Collected] = []
    if customer is not None:
        _card(going, subscriber, customer.id)
        theirs = _listed(going, customer.id, since)
    subscriptions = {each.id: each for each in store.subscriptions_of(subscriber)}
    bills = {bill.id: bill for each in subscriptions for bill in store.bills_since(each, since)}
    owed = [inv for each in subscriptions.values() for inv in each.unpaid]
    names = [found.invoice for found in theirs] + [invoice_id(bill) for bill in bills.values()] + owed
    here = _Here(subscriptions, bills, store.invoices(names))
    for found in sorted(theirs, key=lambda each: (each.bill, each.status == "void", each.created)):
        _theirs(going, found, here)
    seen = {found.id for found in theirs}
    for invoice in here.invoices.values():
        if invoice.stripe_id not in seen and invoice.account == going.account:
            _ours(going, invoice)
    for bill in here.bills.values():
        _leftover(going, bill)
    for invoice in here.invoices.values():
        _paid_too_late(going, invoice, here.subscriptions.get(invoice.subscription))


def _listed(going: _Pass, customer: str, since: datetime) -> list[Collected]:
    """The customer's invoices that name ours, with what was given back of them."""
    provider = going.ports.provider
    theirs = [found for found in provider.invoices_of(going.account, customer, since) if found.ours]
    if not any(found.amount_paid for found in theirs):
        return theirs
    back = provider.refunded(going.account, customer, since)
    return [replace(found, refunded=back.get(found.payment, 0)) for found in theirs]


def _card(going: _Pass, subscriber: Subscriber, customer: str) -> None:
    known = subscriber.customer(going.account)
    found = going.ports.provider.customer(going.account, customer)
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


def _theirs(going: _Pass, found: Collected, here: _Here) -> None:
    try:
        sub, edge = split_bill_id(found.bill)
    except NotFound:
        sub, edge = "", going.now
    subscription = here.subscriptions.get(sub)
    if subscription is None:
        going.tell(FOREIGN, found.id, "names a subscription that is not here", REPORTED, found.total, found.currency)
        return
    bill = here.bills.get(found.bill) or going.ports.store.bill(sub, edge)
    if found.status == "draft":
        if orphan(found, bill, going.now):
            going.ports.provider.delete_draft(going.account, found.id)
            going.tell(ORPHAN, found.id, "a draft that its bill does not remember was deleted", REPAIRED)
        return
    going.report = replace(going.report, invoices=going.report.invoices + 1)
    record = here.invoices.get(found.invoice)
    if record is not None and record.stripe_id == found.id:
        _compare(going, record, found)
    elif record is not None or (bill is not None and _another(going, bill, found)):
        if not settled(found):
            detail = f"{found.id} carries {found.bill} a second time: void it, or refund what was paid"
            going.tell(DUPLICATE, found.id, detail, PROPOSED, found.total, found.currency)
    else:
        _missing_here(going, found, bill, edge, subscription, here)


def _another(going: _Pass, bill: Bill, found: Collected) -> bool:
    """Whether the bill has another invoice. One that is gone at Stripe is none: the draft of an earlier attempt."""
    if bill.invoice in (None, found.id):
        return False
    try:
        going.ports.provider.collected(going.account, bill.invoice or "")
    except NotFound:
        return False
    return True


def _missing_here(
    going: _Pass, found: Collected, bill: Bill | None, edge: datetime, subscription: Subscription, here: _Here
) -> None:
    """Adopt what its metadata proves to be ours: a crash before it was recorded, or tables restored to before it."""
    try:
        if bill is None:
            bill = _taken_back(going, found, edge, subscription, here)
        elif bill.status in ("empty", "waived"):
            detail = f"{bill.id} is {bill.status} here: void {found.id}, or refund what was paid"
            going.tell(AMOUNT, found.id, detail, PROPOSED, found.total, found.currency)
            return
        elif states.BILL.can(bill.status, "adopt") and (bill.status, bill.invoice) != ("drafted", found.id):
            bill = _settled_by(going, found, bill, subscription)
        here.bills[bill.id] = bill
        here.invoices[found.invoice] = payments.adopt(found, bill, going.now, going.ports.payments)
    except PreconditionFailed:
        going.tell(MISSING_HERE, found.id, "its bill is being worked on", REPORTED)
        return
    going.tell(MISSING_HERE, found.invoice, "the invoice was recorded again", REPAIRED)


def _taken_back(going: _Pass, found: Collected, edge: datetime, subscription: Subscription, here: _Here) -> Bill:
    """The bill that the invoice proves, as far as it tells of it; its subscription moves on past it.

    A billing date on the way that has no invoice was empty, or waited for a person: nobody knows any more, so its bill
    is parked for one.
    """
    grace, gaps, after = going.publisher.settings.grace_hours, list[Bill](), subscription
    at = time_of(going.publisher, found.created)
    if subscription.next_edge is not None and subscription.next_edge <= edge:
        while after.next_edge is not None and after.next_edge < edge:
            gaps.append(_gap(going, after, after.next_edge))
            after = billed(after, after.next_edge, grace)
        after = billed(after, edge, grace)
    bill = Bill(
        subscription=subscription.id,
        publisher=subscription.publisher,
        subscriber=subscription.subscriber,
        account=going.account,
        currency=found.currency,
        edge=edge,
        last=subscription.end is not None and edge >= subscription.end,
        status="sent",
        invoice=found.id,
        reason="adopted",
        created_at=at,
        sent_at=at,
    )
    lines = _lines(going, bill, subscription, gaps[-1].edge if gaps else None)
    bill = charging(bill, lines)
    going.ports.store.adopt((bill, *gaps), lines, subscription, after)
    here.subscriptions[subscription.id] = (
        replace(after, rev=subscription.rev + 1) if after != subscription else subscription
    )
    for gap in gaps:
        detail = "no invoice carries it, and later ones were sent: look whether something was owed, release or waive it"
        going.tell(MISSING_HERE, gap.id, detail, PROPOSED)
    going.tell(MISSING_HERE, bill.id, "the bill was taken back from its invoice", REPAIRED)
    return replace(bill, rev=1)


def _gap(going: _Pass, subscription: Subscription, edge: datetime) -> Bill:
    return Bill(
        subscription=subscription.id,
        publisher=subscription.publisher,
        subscriber=subscription.subscriber,
        account=going.account,
        currency=subscription.currency,
        edge=edge,
        last=subscription.end is not None and edge >= subscription.end,
        discounts=discounts_in_force(subscription),
        status=states.BILL.move("claimed", "park"),
        reason="not_invoiced",
        created_at=time_of(going.publisher, going.now),
    )


def _settled_by(going: _Pass, found: Collected, bill: Bill, subscription: Subscription) -> Bill:
    """The bill as sent by the invoice that carries it, wherever it stood: its worker finds nothing left to do."""
    at = time_of(going.publisher, found.created)
    frozen = going.ports.store.lines(bill.subscription, bill.edge)
    sent = replace(
        bill,
        status=states.BILL.move(bill.status, "adopt"),
        invoice=found.id,
        account=going.account,
        reason="adopted",
        next_at=None,
        sent_at=at,
    )
    lines = frozen or _lines(going, sent, subscription, None)
    sent = charging(sent, lines)
    going.ports.store.adopt((sent,), lines if frozen is None else None, subscription, subscription)
    going.tell(MISSING_HERE, bill.id, f"the bill was {bill.status}, and sent by its invoice", REPAIRED)
    return replace(sent, rev=bill.rev + 1)


def _lines(going: _Pass, bill: Bill, subscription: Subscription, gap: datetime | None) -> BillLines:
    """What the next bill has to know of this one: what was paid in advance, and what nobody is to bill again.

    `gap`: the billing date before, where its bill is not stored yet.
    """
    store = going.ports.store
    span = in_force(subscription, bill.edge)
    version = None
    if span is not None and span.plan is not None and span.version is not None:
        version = going.ports.payments.store.plan_version(span.plan, span.version)
    sent = going.ports.provider.lines(going.account, bill.invoice or "")
    lines = lines_taken_back(bill, sent, version, store.lines_before(bill.subscription, bill.edge))
    former = store.bill_before(bill.subscription, bill.edge)
    return replace(lines, since=gap or (former.edge if former is not None else None))


def _leftover(going: _Pass, bill: Bill) -> None:
    """What no later bill can take of a credit is given back; what no invoice can carry is for a person."""
    if bill.returned >= 0:
        return
    asked = going.ports.payments.store
    before = sum(each.credited for each in asked.invoices_up_to(bill))
    left = invoice_actions.credit_leftover(bill, going.now, going.ports.payments)
    given = sum(each.credited for each in asked.invoices_up_to(bill)) - before
    if given:
        going.tell(AMOUNT, bill.id, f"{given} was credited: no later bill takes it", REPAIRED)
    if left:
        detail = f"{left} is owed to the subscriber and no invoice can carry it: pay it outside"
        going.tell(AMOUNT, bill.id, detail, PROPOSED, left, bill.currency)


def _paid_too_late(going: _Pass, invoice: Invoice, subscription: Subscription | None) -> None:
    """An opening bill that was paid in the moment in which its order ended is given back."""
    never_began = subscription is not None and not subscription.live and called_off_at(subscription) is not None
    if not never_began or invoice.status != "paid" or not invoice.returnable:
        return
    asked = going.ports.payments
    invoice_actions.credit_correction(invoice.id, invoice.returnable, "called-off", going.now, asked)
    after = payments.around_of(invoice.id, going.now, asked).invoice
    if after.credited != invoice.credited:
        given = after.credited - invoice.credited
        going.tell(AMOUNT, invoice.id, f"{given} was credited: its order ended before it was paid", REPAIRED)
    if after.returnable:
        detail = f"{after.returnable} of what was paid too late could not be given back: pay it outside"
        going.tell(AMOUNT, invoice.id, detail, PROPOSED, after.returnable, invoice.currency)


def _ours(going: _Pass, invoice: Invoice) -> None:
    """Recorded here and not among the customer's invoices there: older, another customer's, or gone."""
    try:
        found = going.ports.provider.collected(going.account, invoice.stripe_id, disputed=bool(invoice.disputed))
    except NotFound:
        detail = f"{invoice.stripe_id} is not at Stripe: it was deleted, or never kept"
        going.tell(MISSING_THERE, invoice.id, detail, PROPOSED, invoice.amount, invoice.currency)
        return
    _compare(going, invoice, found)


def _compare(going: _Pass, invoice: Invoice, found: Collected) -> None:
    content = going.ports.store.lines(invoice.subscription, invoice.edge)
    if found.lines is None and going.now - found.created < SETTLING:
        sent = going.ports.provider.lines(going.account, found.id)
        found = replace(found, lines=tuple(each.amount for each in sent))
    for each in tuple(amounts(invoice, found)) or lines_differ(invoice, content, found):
        going.report = added(going.report, each)
    told = stale(invoice, found)
    if told:
        _bring_up(going, invoice, told, disputed=bool(invoice.disputed))


def _bring_up(going: _Pass, invoice: Invoice, told: str, *, disputed: bool) -> None:
    ports = going.ports.payments
    try:
        around = payments.around_of(invoice.id, going.now, ports)
        found = ports.provider.collected(invoice.account, invoice.stripe_id, disputed=disputed)
        payments.bring_up_to(around, found, going.now, ports, payments.Written())
    except PreconditionFailed:
        told += "; somebody else was on it"
    going.tell(STATUS, invoice.id, told, REPAIRED)
