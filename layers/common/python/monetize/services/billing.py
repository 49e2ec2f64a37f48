"""Bill one subscription: claim, seal, rate, draft, compare, finalize, record, pay. Anyone can repeat any step.

What holds whatever crashes, repeats or runs twice: the bill's key allows one bill for an edge; its lines are frozen by
the first who rates; only the draft whose id was stored on the bill is ever finalized or paid.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Protocol
from zlib import crc32

from monetize.domain import states
from monetize.domain.collecting import DraftRequest, HeldInvoice, InvoiceLine, differences
from monetize.domain.errors import (
    KEY_REFUSED,
    AccountUnreachable,
    CardDeclined,
    NotFound,
    PreconditionFailed,
    ProviderBusy,
    ProviderRefused,
    Refusal,
)
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.offers import scope_of, time_of
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import MOST_AHEAD, Publisher
from monetize.domain.subscriptions import Subscriber, Subscription, bill_due_at, billed, discounts_in_force
from monetize.domain.usage import LedgerMismatch
from monetize.services.subscribing import settled

LEASE = timedelta(minutes=15)
PREVIOUS_OPEN = "previous_bill_open"  # why a bill is parked: the one before is, and was never rated
RELEASED = "released"  # by a person, or with the one that it waited for
MOST_EMPTY = 12  # bills in a row that are looked over for one to compare with
KEY_LIFE = timedelta(hours=20)  # Stripe keeps keys 24 hours at least; after this a repeat looks before it creates


# What a bill names at Stripe besides its own invoice: without it, it waits for a person.
_MISSING = {"customer": "customer_missing", "product": "product_missing"}


class Store(Protocol):
    """What is stored."""

    def subscription(self, sub: str) -> Subscription | None: ...
    def publisher(self, pub: str) -> Publisher | None: ...
    def subscriber(self, pub: str, subr: str) -> Subscriber | None: ...
    def plan_version(self, plan: str, number: int) -> PlanVersion | None: ...
    def claim(self, was: Subscription, moved: Subscription, bill: Bill) -> bool: ...
    def move(self, was: Subscription, moved: Subscription) -> bool: ...
    def bill(self, sub: str, edge: datetime) -> Bill | None: ...
    def bill_before(self, sub: str, edge: datetime) -> Bill | None: ...
    def bill_after(self, sub: str, edge: datetime) -> Bill | None: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def freeze(self, lines: BillLines) -> BillLines: ...
    def save(self, bill: Bill) -> Bill: ...
    def record_invoice(self, invoice: Invoice) -> None: ...
    def park_mark(self, bill: Bill, parked: bool) -> None: ...
    def unpark(self, bill: Bill) -> Bill: ...


class Invoices(Protocol):
    """The payment provider's invoices."""

    def create_draft(self, wanted: DraftRequest) -> str: ...
    def add_lines(self, wanted: DraftRequest, invoice: str, lines: Sequence[InvoiceLine]) -> HeldInvoice: ...
    def retrieve(self, account: str, invoice: str) -> HeldInvoice: ...
    def of_customer(self, account: str, customer: str, since: datetime) -> Iterator[HeldInvoice]: ...
    def delete_draft(self, account: str, invoice: str) -> None: ...
    def finalize(self, account: str, invoice: str, bill: str, attempt: int) -> HeldInvoice: ...
    def pay(self, account: str, invoice: str, bill: str, attempt: int) -> HeldInvoice: ...
    def send(self, account: str, invoice: str, bill: str) -> HeldInvoice: ...


class Throttle(Protocol):
    """A pace for calls to Stripe, by account."""

    def reserve(self, account: str, now: datetime) -> float:
        """Take the next free place; the seconds until it, 0 when it is now."""
        ...


class Rate(Protocol):
    """Seal what the bill charges for, and rate it. Pure but for the usage it seals and reads."""

    def __call__(
        self, bill: Bill, subscription: Subscription, publisher: Publisher, previous: Bill | None
    ) -> BillLines: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What billing works with. `held`: whether somebody paused a publisher's billing; what is due stays due.

    `took(subscription, refs, bill)` notes at late entries which bill they are frozen in. `recount(subscription, first,
    last)` makes the counters of sealed days what the ledger says. `address`: where this API is reached; empty, unknown.
    """

    store: Store
    invoices: Invoices
    throttle: Throttle
    rate: Rate
    took: Callable[[str, Sequence[str], str], None]
    recount: Callable[[Subscription, date, date], object]
    held: Callable[[Publisher, datetime], bool] = lambda _publisher, _now: False
    address: str = ""


@dataclass(frozen=True, slots=True)
class Worked:
    """What a message led to: `outcome` is a word for metrics; `again_in` asks to come back, its place being kept.

    `amount` (minor units of `currency`) is what was sent; `returned`: whether the bill leaves what is to be given back.
    `before`: what its earlier bills led to, if any.
    """

    outcome: str
    bill: str = ""
    again_in: float = 0
    amount: int = 0
    currency: str = ""
    returned: bool = False
    before: tuple["Worked", ...] = ()


class Parked(Exception):
    """The bill cannot go on without a person; the rest of the run does."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Later(Exception):
    """Not now: it stays in the to-do list and comes back by itself."""


def bill_subscription(sub: str, now: datetime, ports: Ports) -> Worked:
    """Everything due of one subscription: changes and ends that came due, then each billing date in order."""
    *before, last = _each_due(sub, now, ports)
    return replace(last, before=tuple(before)) if before else last


def _each_due(sub: str, now: datetime, ports: Ports) -> Iterator[Worked]:
    """What each billing date led to; a word at least."""
    worked: Worked | None = None
    idle = Worked("not_due")
    subscription = ports.store.subscription(sub)
    publisher = ports.store.publisher(subscription.publisher) if subscription is not None else None
    while subscription is not None and publisher is not None:
        if ports.held(publisher, now):
            yield Worked("on_hold")
            return
        at, grace = time_of(publisher, now), publisher.settings.grace_hours
        if subscription.due_at is None or subscription.due_at > at:
            break
        # Who subscribed in the moment in which its publisher was made a sandbox stands in the common part until now.
        moved = replace(settled(subscription, publisher, at), due_scope=scope_of(publisher))
        edge = moved.next_edge
        if edge is None or bill_due_at(moved, edge, grace) > at:
            if moved == subscription or not ports.store.move(subscription, moved):
                break
            subscription = replace(moved, rev=subscription.rev + 1)
            idle = Worked("moved")
            continue
        bill = Bill(
            subscription=sub,
            publisher=publisher.id,
            subscriber=moved.subscriber,
            account=publisher.stripe.account if publisher.stripe else "",
            currency=moved.currency,
            edge=edge,
            last=moved.end is not None and edge >= moved.end,
            discounts=discounts_in_force(moved),
            due_scope=scope_of(publisher),
            next_at=at + LEASE,
            created_at=at,
            belated=at - bill_due_at(moved, edge, grace) > KEY_LIFE,
        )
        after = billed(moved, edge, grace)
        if not ports.store.claim(subscription, after, bill):
            subscription = ports.store.subscription(sub)  # claimed, or changed, by somebody else
            continue
        # What was just written needs no reading: should it change meanwhile, the next claim is refused.
        subscription = replace(after, rev=subscription.rev + 1)
        worked = work(replace(bill, rev=1), now, ports, known=(subscription, publisher))
        yield worked
        if worked.again_in:
            return
    if worked is None:
        yield idle


def continue_bill(bill_id: str, now: datetime, ports: Ports, *, placed: bool = False) -> Worked:
    """Go on with a claimed bill, wherever it stopped. `placed`: its place in the account's pace was kept.

    Those that waited for it since it was parked go on with it.
    """
    sub, edge = split_bill_id(bill_id)
    bill = ports.store.bill(sub, edge)
    if bill is None or bill.next_at is None:
        return Worked("settled")
    done = [work(bill, now, ports, placed=placed)]
    while bill is not None and bill.reason == RELEASED and not done[-1].again_in:
        bill = ports.store.bill_after(sub, bill.edge)
        if bill is not None and bill.reason == RELEASED and bill.status == "claimed":
            done.append(work(bill, now, ports))
    return replace(done[-1], before=tuple(done[:-1]))


def work(
    bill: Bill,
    now: datetime,
    ports: Ports,
    *,
    placed: bool = False,
    known: tuple[Subscription, Publisher] | None = None,
) -> Worked:
    """Take one bill from where it stands to sent, empty, held or parked. `known`: what was read or written just now."""
    try:
        # Of a bill that was claimed just now nothing is rated; any other one's record may be older than its lines.
        lines = ports.store.lines(bill.subscription, bill.edge) if known is None else None
        return _work(bill, lines, now, ports, known or _read(bill, ports), placed=placed)
    except PreconditionFailed:
        return Worked("elsewhere", bill.id)  # another worker moved it: it is theirs
    except Later:
        return Worked("later", bill.id)
    except NotFound as missing:
        # A draft that somebody deleted: the next look finds its id gone, and begins another.
        return park(bill, what, ports) if (what := _lacks(missing)) else Worked("later", bill.id)
    except Parked as parked:
        return park(bill, parked.code, ports)
    except LedgerMismatch as mismatch:
        return park(bill, mismatch.code, ports)
    except AccountUnreachable:
        return park(bill, "account_unreachable", ports)
    except ProviderBusy as busy:
        if (pause := _pause(bill, busy, now, known, ports)) is None:
            raise
        return Worked("busy", bill.id, again_in=pause)
    except ProviderRefused as refused:
        return park(bill, _refused(refused), ports)


def _pause(
    bill: Bill, busy: ProviderBusy, now: datetime, known: tuple[Subscription, Publisher] | None, ports: Ports
) -> int | None:
    """After how many seconds Stripe is asked again by the same message; None once a tick may enqueue the bill anew.

    Each bill has a pause of its own, so that those that were refused together do not come back together. It doubles:
    it grows with what has passed of the lease.
    """
    publisher = known[1] if known is not None else ports.store.publisher(bill.publisher)
    if busy.code == KEY_REFUSED or publisher is None or bill.next_at is None:
        return None
    at = time_of(publisher, now)
    passed = max(0, int((at - (bill.next_at - LEASE)).total_seconds()))
    pause = 10 + crc32(bill.id.encode()) % 20 + passed
    return pause if at + timedelta(seconds=pause) < bill.next_at else None


def _refused(refusal: ProviderRefused) -> str:
    """Why a bill that Stripe refused waits: a word of ours where there is one, else Stripe's own code."""
    if refusal.members.get("param") == "currency":
        return "currency_refused"
    return _lacks(refusal) or str(refusal.members.get("provider_code") or refusal.code)


def _lacks(refusal: Refusal) -> str | None:
    """What a bill names besides its own invoice that Stripe does not have, as a code."""
    if refusal.members.get("provider_code", "resource_missing") != "resource_missing":
        return None
    return _MISSING.get(str(refusal.members.get("param", "")).rpartition("[")[2].rstrip("]"))


def park(bill: Bill, code: str, ports: Ports) -> Worked:
    """Take it off the to-do list, with a reason, for a person to release or waive."""
    latest = ports.store.bill(bill.subscription, bill.edge)
    if latest is None or not states.BILL.can(latest.status, "park"):
        return Worked("elsewhere", bill.id)
    parked = replace(latest, status=states.BILL.move(latest.status, "park"), reason=code, next_at=None)
    ports.store.park_mark(parked, parked=True)  # listed first: a crash between leaves a pointer, not a lost bill
    try:
        ports.store.save(parked)
    except PreconditionFailed:
        return Worked("elsewhere", bill.id)
    return Worked("parked", bill.id)


def _read(bill: Bill, ports: Ports) -> tuple[Subscription, Publisher]:
    subscription = ports.store.subscription(bill.subscription)
    publisher = ports.store.publisher(bill.publisher)
    if subscription is None or publisher is None:
        raise Parked("subscription_missing")
    return subscription, publisher


def _work(
    bill: Bill,
    lines: BillLines | None,
    now: datetime,
    ports: Ports,
    known: tuple[Subscription, Publisher],
    *,
    placed: bool,
) -> Worked:
    subscription, publisher = known
    if ports.held(publisher, now):
        return Worked("on_hold", bill.id)
    if bill.status == "claimed":
        bill, lines = _rated(bill, lines, subscription, publisher, ports)
    if lines is None:
        raise Parked("lines_missing")
    if bill.status not in ("rated", "drafted"):
        return Worked(bill.status, bill.id, returned=bill.returned < 0)
    return _collect(bill, lines, publisher, now, ports, placed=placed)


def _rated(
    bill: Bill, frozen: BillLines | None, subscription: Subscription, publisher: Publisher, ports: Ports
) -> tuple[Bill, BillLines]:
    """Rate once: the lines that were frozen first are the bill's, whoever comes after.

    The bill's new status is stored with its next step; until then rating again answers the same frozen lines.
    """
    previous = ports.store.bill_before(bill.subscription, bill.edge)
    if frozen is None:
        _after(previous, ports)
        frozen = ports.store.freeze(_lines(bill, subscription, publisher, previous, ports))
    if bill.reason == RELEASED:
        let_follow(bill, ports.store)
    if frozen.late:
        ports.took(bill.subscription, frozen.late, bill.id)
    empty = frozen.subtotal == 0
    status = states.BILL.move(bill.status, "empty" if empty else "rate")
    rated = replace(charging(bill, frozen), status=status, next_at=None if empty else bill.next_at)
    if empty:
        return ports.store.save(rated), frozen
    reason = None if bill.approved else held_for(rated, previous, publisher, ports.store.bill_before)
    if reason is not None:
        held = replace(rated, status=states.BILL.move("rated", "hold"), reason=reason, next_at=None)
        ports.store.park_mark(held, parked=True)
        return ports.store.save(held), frozen
    return rated, frozen


def _lines(
    bill: Bill, subscription: Subscription, publisher: Publisher, previous: Bill | None, ports: Ports
) -> BillLines:
    try:
        return ports.rate(bill, subscription, publisher, previous)
    except LedgerMismatch as mismatch:
        if not bill.recount:
            raise
        ports.recount(subscription, mismatch.first, mismatch.last)
    return ports.rate(bill, subscription, publisher, previous)


def let_follow(bill: Bill, store: "Following") -> Bill | None:
    """The bill after this one goes on, if it was parked because this one was; that one lets the next go on."""
    after = store.bill_after(bill.subscription, bill.edge)
    if after is None or after.status != "parked" or after.reason != PREVIOUS_OPEN:
        return None
    status = states.BILL.move(after.status, "release")
    return store.unpark(replace(after, status=status, reason=RELEASED, next_at=bill.next_at or after.created_at))


class Following(Protocol):
    """What is stored of bills that wait for each other."""

    def bill_after(self, sub: str, edge: datetime) -> Bill | None: ...
    def unpark(self, bill: Bill) -> Bill: ...


def charging(bill: Bill, frozen: BillLines) -> Bill:
    """The bill with what its frozen lines come to."""
    return replace(
        bill,
        subtotal=frozen.subtotal,
        carry_out=sum(each.amount for each in frozen.carried),
        returned=sum(each.amount for each in frozen.returned),
        application_fee=frozen.application_fee,
        lines=len(frozen.lines),
        late=frozen.late,
    )


def _after(previous: Bill | None, ports: Ports) -> None:
    """A bill takes what the one before left, so that one is rated first: Later while it is, Parked while it cannot."""
    if previous is None or previous.status not in ("claimed", "parked"):
        return
    if ports.store.lines(previous.subscription, previous.edge) is None:
        raise Parked(PREVIOUS_OPEN) if previous.status == "parked" else Later


def held_for(
    bill: Bill, previous: Bill | None, publisher: Publisher, before: Callable[[str, datetime], Bill | None]
) -> str | None:
    """Why a bill waits for approval: above the publisher's amount, or so many times the last one that was not empty.

    Where none of the last MOST_EMPTY charged anything there is nothing to compare with: the amount alone counts.
    """
    settings = publisher.settings
    if settings.hold_above is not None and bill.subtotal > settings.hold_above:
        return "above_amount"
    times = settings.hold_times_last
    for _ in range(MOST_EMPTY if times is not None else 0):
        if previous is None or previous.subtotal > 0:
            break
        previous = before(previous.subscription, previous.edge)
    if times is not None and previous is not None and 0 < previous.subtotal * times < bill.subtotal:
        return "above_times_last"
    return None


def _collect(
    bill: Bill, frozen: BillLines, publisher: Publisher, now: datetime, ports: Ports, *, placed: bool
) -> Worked:
    """Draft → lines → compare → finalize → recorded → paid. At most four writes at Stripe."""
    wanted, at = _request(bill, publisher, ports), time_of(publisher, now)
    if not placed and (wait := ports.throttle.reserve(wanted.account, now)) > 0:
        if bill.next_at is not None and at + timedelta(seconds=wait) >= bill.next_at:
            # No tick may enqueue it before its place comes: it would take a second one.
            ports.store.save(replace(bill, next_at=at + timedelta(seconds=wait) + LEASE))
        return Worked("waiting", bill.id, again_in=wait)
    lines = frozen.invoice_lines(ports.address and f"{ports.address}/invoices/{wanted.invoice}/explain")
    if bill.invoice is None:
        bill, held = _draft(bill, wanted, lines, at, ports)
    else:
        if bill.status == "rated":  # released after it was parked with a draft
            bill = ports.store.save(replace(bill, status=states.BILL.move(bill.status, "draft")))
        bill, held = _resume(bill, wanted, lines, at, ports)
    found = differences(held, lines, bill.currency, wanted.customer)
    if held.status == "draft":
        if found:
            raise Parked("total_differs")
        held = ports.invoices.finalize(wanted.account, held.id, bill.id, bill.attempt)
    if held.status not in ("open", "paid"):
        raise Parked(f"invoice_{held.status}")
    ports.store.record_invoice(record(bill, held, publisher, now))
    if held.status == "open" and held.collection == "send_invoice":
        ports.invoices.send(wanted.account, held.id, bill.id)  # nothing comes back to a bill that says it is sent
    sent = replace(bill, status=states.BILL.move(bill.status, "send"), sent_at=now, next_at=None)
    ports.store.save(sent)
    done = Worked("sent", bill.id, amount=bill.subtotal, currency=bill.currency, returned=bill.returned < 0)
    if held.status == "open" and held.collection == "charge_automatically":
        try:
            ports.invoices.pay(wanted.account, held.id, bill.id, attempt=0)
        except CardDeclined:
            return replace(done, outcome="declined")  # the webhook tells the rest: our schedule tries again
    return done


def _request(bill: Bill, publisher: Publisher, ports: Ports) -> DraftRequest:
    link = publisher.stripe
    if publisher.status != "enabled" or link is None or link.deauthorized_at is not None:
        raise Parked("account_unreachable")
    if not link.charges_enabled:
        raise Parked("account_restricted")
    subscriber = ports.store.subscriber(bill.publisher, bill.subscriber)
    customer = subscriber.customer(link.account) if subscriber is not None else None
    if customer is None:
        raise Parked("customer_missing")
    settings = publisher.settings
    return DraftRequest(
        account=link.account,
        customer=customer.id,
        currency=bill.currency,
        bill=bill.id,
        invoice=invoice_id(bill),
        attempt=bill.attempt,
        subscription=bill.subscription,
        collection=settings.collection,
        days_until_due=settings.days_until_due,
        automatic_tax=settings.automatic_tax,
        application_fee=bill.application_fee,
        footer=settings.footer,
        custom_fields=settings.custom_fields,
        description=settings.memo or f"Bill {bill.id}",
    )


def _draft(
    bill: Bill, wanted: DraftRequest, lines: Sequence[InvoiceLine], at: datetime, ports: Ports
) -> tuple[Bill, HeldInvoice]:
    """Make the attempt's draft, store its id under a condition, then fill it.

    The publisher's settings are in the request. Where they changed since it was sent, what was made then is the
    attempt's; should nothing be left of it, another attempt begins.
    """
    before = _made_before(wanted, bill, ports) if bill.belated or at - bill.created_at > KEY_LIFE else None
    try:
        made = before.id if before is not None else ports.invoices.create_draft(wanted)
    except ProviderRefused as refused:
        if refused.code != "stripe_key_mismatch":
            raise
        before = _made_before(wanted, bill, ports)
        if before is None:
            again = ports.store.save(replace(bill, attempt=bill.attempt + 1))
            return _draft(again, replace(wanted, attempt=again.attempt), lines, at, ports)
        made = before.id
    bill = ports.store.save(
        replace(bill, status=states.BILL.move(bill.status, "draft"), invoice=made, account=wanted.account)
    )
    if before is not None and before.status != "draft":
        return bill, before
    return bill, ports.invoices.add_lines(wanted, made, lines)


def _made_before(wanted: DraftRequest, bill: Bill, ports: Ports) -> HeldInvoice | None:
    """What may have been made for this bill under a key that is forgotten: found by listing, never by search.

    An invoice that was finalized, in whichever attempt, is the bill's: the tables may be those of before it. Else an
    empty draft of this attempt.
    """
    since = min(bill.edge, bill.created_at) - KEY_LIFE
    if bill.due_scope:  # Stripe knows the real time, and these are of a clock that is ahead of it
        since -= MOST_AHEAD
    made = [each for each in ports.invoices.of_customer(wanted.account, wanted.customer, since) if each.bill == bill.id]
    sent = [each for each in made if each.status != "draft"]
    drafts = [each for each in made if each.attempt == bill.attempt and each.status == "draft" and not each.lines]
    return min(sent or drafts, key=lambda each: (each.status == "void", each.created, each.id), default=None)


def _resume(
    bill: Bill, wanted: DraftRequest, lines: Sequence[InvoiceLine], at: datetime, ports: Ports
) -> tuple[Bill, HeldInvoice]:
    """Read the stored draft: the same lines → go on; otherwise delete it and start the next attempt."""
    held = _stored(bill, wanted, ports)
    if held is not None and held.status == "draft" and sorted(held.lines) != sorted(line.amount for line in lines):
        try:
            ports.invoices.delete_draft(wanted.account, held.id)
            held = None
        except ProviderRefused:  # who was filling it meanwhile has finalized it: then it is the bill's invoice
            held = _stored(bill, wanted, ports)
            if held is not None and held.status == "draft":
                raise
    if held is not None:
        return bill, held
    again = ports.store.save(
        replace(bill, status=states.BILL.move(bill.status, "redraft"), invoice=None, attempt=bill.attempt + 1)
    )
    return _draft(again, replace(wanted, attempt=again.attempt), lines, at, ports)


def _stored(bill: Bill, wanted: DraftRequest, ports: Ports) -> HeldInvoice | None:
    """The invoice whose id is stored on the bill; None when it is gone at Stripe."""
    try:
        return ports.invoices.retrieve(wanted.account, bill.invoice or "")
    except NotFound:
        return None


def record(bill: Bill, held: HeldInvoice, publisher: Publisher, now: datetime) -> Invoice:
    """Our record of an invoice, in the to-do list until its payment is known."""
    return Invoice(
        id=invoice_id(bill),
        stripe_id=held.id,
        account=bill.account,
        publisher=bill.publisher,
        subscriber=bill.subscriber,
        subscription=bill.subscription,
        edge=bill.edge,
        currency=bill.currency,
        amount=bill.subtotal,
        application_fee=bill.application_fee,
        total=held.total,
        tax=held.tax,
        amount_remaining=held.amount_remaining,
        number=held.number,
        due_scope=scope_of(publisher),
        next_attempt_at=time_of(publisher, now) + LEASE,
        issued_at=now,
        payable_by=held.due_at,
    )


def invoice_id(bill: Bill) -> str:
    """What the bill's invoice is called."""
    return bill.invoice_name


def split_bill_id(bill_id: str) -> tuple[str, datetime]:
    """Subscription and edge of a bill's public name. NotFound for anything else."""
    sub, _, stamp = bill_id.rpartition(".")
    try:
        return sub, datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise NotFound("unknown_bill", "There is no such bill.") from None
