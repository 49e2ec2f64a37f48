"""A subscription: an application's right to call one API at one tier, and the spans of time it pays by one price.

Times are aware and UTC. What is in force and what is billed when are pure functions of the entity, so that whoever
asks (a gateway, the billing run, an estimate) gets the same answer without waiting for a worker.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from monetize.domain.errors import Conflict
from monetize.domain.periods import (
    Anchor,
    AnchorMode,
    Period,
    anchor_for,
    end_of_day,
    midnight,
    next_edge,
    nominal_period,
    trial_end,
)

FREE: Final = "free"
TRIAL: Final = "trial"
PAID: Final = "paid"
PAUSED: Final = "paused"

MOST_HISTORY: Final = 50
MOST_DISCOUNTS: Final = 20
WRITTEN: Final = timedelta(minutes=5)  # longer than ingest takes from its decision to its write, clocks apart included


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Billing and contact information. Personal: erased on request, never logged."""

    name: str
    email: str
    line1: str = ""
    line2: str = ""
    city: str = ""
    state: str = ""
    postal_code: str = ""
    country: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """The subscriber at one Stripe account: one customer per (subscriber, account)."""

    account: str
    id: str
    payment_method: str | None = None
    brand: str = ""
    last4: str = ""
    expires: str = ""  # yyyy-mm
    warned: str = ""  # the expiry that somebody was told of


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """An organization that consumes one publisher's APIs."""

    id: str
    publisher: str
    contact: Contact | None = None
    customers: tuple[Customer, ...] = ()
    generation: int = 0  # customers let go: part of the derived key that makes the next one
    payment_grace_days: int | None = None
    erasing: bool = False  # while the customers at Stripe are being deleted: nothing new begins
    erased_at: datetime | None = None
    created_at: datetime
    rev: int = 0

    def customer(self, account: str) -> Customer | None:
        """Who it is at that Stripe account."""
        return next((customer for customer in self.customers if customer.account == account), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What a subscriber calls APIs from."""

    id: str
    publisher: str
    subscriber: str
    name: str
    description: str = ""
    live: int = 0  # subscriptions not ended; an application with any is not deleted
    created_at: datetime
    rev: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From `start` to the next span (or the end) one plan version holds. `kind`: free, trial, paid, paused.

    Every start but the first is a UTC midnight. `advance`: the version has charges in advance, so a paid stretch opens
    with a bill.
    """

    start: datetime
    kind: str
    tier: str
    plan: str | None = None
    version: int | None = None
    advance: bool = False

    @property
    def paid(self) -> bool:
        """Whether it is billed."""
        return self.kind == PAID


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of tier that waits for its instant: a period's end or the next midnight."""

    at: datetime
    tier: str
    plan: str | None = None
    version: int | None = None
    advance: bool = False
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the machine did to a subscription, and when. What a person did is in the audit."""

    at: datetime
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """Extra allowance, bought or given once: for the one period that `counts_from`, its day, is in."""

    id: str
    meter: str
    quantity: int
    counts_from: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """Off a bill's charges, once or for ever. Exactly one of percent (decimal string) and amount (minor units).

    Which bills it is for is settled when they are claimed: one given once is for the first.
    """

    id: str
    percent: str | None = None
    amount: int | None = None
    once: bool = False
    used_by: str | None = None  # the bill that took a discount given once
    given_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One application, one product, one tier. `next_edge` is its next billing date, None when nothing will be billed.

    Every bill stands at an edge: the opening bill at the first paid instant, then each period's end. `due_at` is when
    the billing run may take it (edge + grace), the subscription's place in the to-do list.
    """

    id: str
    publisher: str
    subscriber: str
    application: str
    product: str
    apis: tuple[str, ...]
    tier: str
    status: str  # states.SUBSCRIPTION
    payment_state: str = "current"  # states.PAYMENT
    past_due_since: datetime | None = None
    suspend_at: datetime | None = None  # the end of the grace that was chosen when it became past due
    unpaid: tuple[str, ...] = ()  # its invoices that failed and are owed
    block: str = "none"  # none, production, all
    block_reason: str = ""
    plan: str | None = None
    version: int | None = None
    currency: str = ""
    account: str = ""
    spans: tuple[Span, ...] = ()
    anchor_month: int = 1
    anchor_day: int = 1
    next_edge: datetime | None = None
    due_at: datetime | None = None
    last_edge: datetime | None = None
    change: Change | None = None
    cancel_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str = ""
    checkout: str | None = None  # Stripe's session, while payment is pending; its address is never stored
    checkout_expires_at: datetime | None = None
    pending_until: datetime | None = None  # when what is still pending ends by itself
    spend_cap: int | None = None  # the subscriber's, minor units a period
    publisher_spend_cap: int | None = None  # the publisher's; the lower one holds
    topups: tuple[TopUp, ...] = ()
    discounts: tuple[Discount, ...] = ()
    shards: tuple[tuple[str, int], ...] = ()  # (yyyy-mm, shard count) where it is not 1, set before the month begins
    invoice_email: str = ""
    approved_at: datetime | None = None
    due_scope: str = ""  # the part of the to-do list of a publisher with a clock of its own
    history: tuple[Step, ...] = ()  # the newest MOST_HISTORY
    created_at: datetime
    activated_at: datetime | None = None
    rev: int = 0

    @property
    def commercial(self) -> bool:
        """Whether it costs anything."""
        return self.plan is not None

    @property
    def live(self) -> bool:
        """Whether it still holds its guards."""
        return self.status != "ended"

    @property
    def pending(self) -> bool:
        """Whether it waits for somebody before it can begin."""
        return self.status.startswith("pending_")

    @property
    def anchor(self) -> Anchor:
        """Where its periods begin."""
        return Anchor(self.anchor_month, self.anchor_day)

    @property
    def end(self) -> datetime | None:
        """When it ended or will end."""
        return self.ended_at or self.cancel_at

    @property
    def cap(self) -> int | None:
        """The spend cap that holds: the lower of the subscriber's and the publisher's."""
        caps = [cap for cap in (self.spend_cap, self.publisher_spend_cap) if cap is not None]
        return min(caps, default=None)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch `[start, end)` in which one span holds."""

    start: datetime
    end: datetime
    span: Span


def timeline(subscription: Subscription) -> tuple[Span, ...]:
    """All spans with the change that waits, and nothing from the end on."""
    spans, change = subscription.spans, subscription.change
    if change is not None:
        spans = retiered(
            spans, change.at, tier=change.tier, plan=change.plan, version=change.version, advance=change.advance
        )
    end = subscription.end
    return spans if end is None else tuple(span for span in spans if span.start < end)


def in_force(subscription: Subscription, at: datetime) -> Span | None:
    """The span whose price holds at an instant; the first one before it began; None while nothing began."""
    line = timeline(subscription)
    begun = [span for span in line if span.start <= at]
    return begun[-1] if begun else (line[0] if line else None)


def tier_at(subscription: Subscription, at: datetime) -> tuple[str, str | None, int | None]:
    """Tier, plan and version that entitle at an instant. A change that has come due holds before a worker sees it."""
    change = subscription.change
    if change is not None and change.at <= at:
        return change.tier, change.plan, change.version
    return subscription.tier, subscription.plan, subscription.version


def status_at(subscription: Subscription, at: datetime) -> str:
    """The status at an instant: a cancellation that has come due holds before a worker sees it."""
    if subscription.live and subscription.cancel_at is not None and subscription.cancel_at <= at:
        return "ended"
    return subscription.status


def called_off_at(subscription: Subscription) -> datetime | None:
    """When an order that its opening bill was to begin ends, or has ended: what is unpaid then is not owed any more.

    None once it has begun.
    """
    return None if subscription.activated_at is not None else subscription.ended_at or subscription.pending_until


def segments(subscription: Subscription, start: datetime, end: datetime) -> tuple[Segment, ...]:
    """The stretches of `[start, end)`, in order, each under one span; they meet without a gap.

    A UTC day belongs to the span in force from its midnight: spans begin at midnights, and the first day, begun
    anywhere, belongs to the first span; so the whole days of a segment are `periods.utc_days` of it.
    """
    line = timeline(subscription)
    found: list[Segment] = []
    for at, span in enumerate(line):
        after = line[at + 1].start if at + 1 < len(line) else end
        first, last = max(span.start, start), min(after, end, subscription.end or end)
        if first < last:
            found.append(Segment(first, last, span))
    return tuple(found)


def first_edge(subscription: Subscription) -> datetime | None:
    """The first billing date: the first paid instant when something is charged in advance, else its period's end."""
    opening = next((span for span in timeline(subscription) if span.paid), None)
    if opening is None:
        return None
    return opening.start if opening.advance else following_edge(subscription, opening.start)


def following_edge(subscription: Subscription, after: datetime) -> datetime | None:
    """The first billing date later than `after`, which lies on or after the first paid instant; None when none comes.

    Billing dates are the ends of anchored periods while it pays, every instant at which a paid stretch begins or ends,
    and the end of the subscription.
    """
    end = subscription.end
    if end is not None and end <= after:
        return None
    now = in_force(subscription, after)
    dates = [] if end is None else [end]
    if now is not None and now.paid:
        dates.append(next_edge(after, subscription.anchor))
    previous = now
    for span in timeline(subscription):
        if span.start > after:
            opens = span.paid and (span.advance or (previous is not None and previous.paid))
            closes = previous is not None and previous.paid and not span.paid
            if opens or closes:
                dates.append(span.start)
                break
            if span.paid:  # a paid stretch that opens without a bill: its first one follows from its own start
                opened = following_edge(subscription, span.start)
                dates.extend([] if opened is None else [opened])
                break
            previous = span
    return min(dates, default=None)


def upcoming_edge(subscription: Subscription) -> datetime | None:
    """The next billing date that has not been billed."""
    if not subscription.spans:
        return None
    if subscription.last_edge is None:
        return first_edge(subscription)
    return following_edge(subscription, subscription.last_edge)


def arrears_period(subscription: Subscription, edge: datetime) -> Period | None:
    """What a bill at `edge` charges in arrears: since the last bill, or the first paid instant. None: an opening."""
    opening = next((span.start for span in timeline(subscription) if span.paid), None)
    start = subscription.last_edge or opening
    return None if start is None or start >= edge else Period(start, edge)


def advance_period(subscription: Subscription, edge: datetime) -> Period | None:
    """What a bill at `edge` charges in advance: to the period's end. None where nothing paid begins."""
    span = in_force(subscription, edge)
    if span is None or not span.paid or (subscription.end is not None and subscription.end <= edge):
        return None
    return Period(edge, next_edge(edge, subscription.anchor))


def bill_due_at(subscription: Subscription, edge: datetime, grace_hours: int) -> datetime:
    """When the bill at `edge` may be made: at once when nothing metered is in it, else after the grace.

    The last one also takes what came late for periods before it, so it waits until no usage is accepted any more and
    what was accepted is written.
    """
    if subscription.end is not None and edge >= subscription.end:
        return usage_closes_at(subscription.end, grace_hours) + WRITTEN
    arrears = arrears_period(subscription, edge)
    metered = arrears is not None and any(
        segment.span.paid for segment in segments(subscription, arrears.start, arrears.end)
    )
    return edge + timedelta(hours=grace_hours) if metered else edge


def usage_closes_at(end: datetime, grace_hours: int) -> datetime:
    """When no usage of a subscription that ended then is accepted any more: after the grace, and after its last day."""
    return max(end + timedelta(hours=grace_hours), end_of_day(end))


def due_at(subscription: Subscription, grace_hours: int) -> datetime | None:
    """When the next thing is to be done: an end, a change, or a bill. Its place in the to-do list."""
    dates: list[datetime] = []
    if subscription.pending and subscription.pending_until is not None:
        dates.append(subscription.pending_until)
    if subscription.live and subscription.cancel_at is not None:
        dates.append(subscription.cancel_at)
    if subscription.live and subscription.change is not None:
        dates.append(subscription.change.at)
    if subscription.next_edge is not None:
        dates.append(bill_due_at(subscription, subscription.next_edge, grace_hours))
    return min(dates, default=None)


def scheduled(subscription: Subscription, grace_hours: int) -> Subscription:
    """The same with its next billing date and its place in the to-do list; after every change of what decides them."""
    found = replace(subscription, next_edge=upcoming_edge(subscription))
    return replace(found, due_at=due_at(found, grace_hours))


def billed(subscription: Subscription, edge: datetime, grace_hours: int) -> Subscription:
    """The same once the bill at `edge` is claimed: on to the next billing date, discounts given once used by it."""
    bill = bill_name(subscription.id, edge)
    discounts = tuple(
        replace(each, used_by=bill) if each.once and each.used_by is None else each for each in subscription.discounts
    )
    return scheduled(replace(subscription, last_edge=edge, discounts=discounts), grace_hours)


def bill_name(subscription: str, edge: datetime) -> str:
    """The public name of the bill at a billing date."""
    return f"{subscription}.{edge:%Y%m%dT%H%M%SZ}"


def discounts_in_force(subscription: Subscription) -> tuple[Discount, ...]:
    """What the next bill to be claimed takes: discounts for ever, and those given once that no bill has used."""
    return tuple(each for each in subscription.discounts if each.used_by is None)


def with_discount(subscription: Subscription, made: Discount) -> Subscription:
    """The same with one more discount; room is made by forgetting used ones, the oldest first.

    Conflict `too_many_discounts` when none of them is used.
    """
    kept = list(subscription.discounts)
    while len(kept) >= MOST_DISCOUNTS:
        used = next((each for each in kept if each.used_by is not None), None)
        if used is None:
            raise Conflict("too_many_discounts", f"A subscription takes {MOST_DISCOUNTS} discounts at most.")
        kept.remove(used)
    return replace(subscription, discounts=(*kept, made))


def begun(
    subscription: Subscription, now: datetime, *, advance: bool, trial_days: int, anchor: AnchorMode
) -> Subscription:
    """The same with its first spans: free, or a trial of whole days and then paid, or paid. `now` has whole seconds."""
    tier, plan, version = subscription.tier, subscription.plan, subscription.version
    if plan is None:
        return replace(subscription, spans=(Span(start=now, kind=FREE, tier=tier),), activated_at=now)
    paid_from = trial_end(now, trial_days) if trial_days else now
    paid = Span(start=paid_from, kind=PAID, tier=tier, plan=plan, version=version, advance=advance)
    trial = (Span(start=now, kind=TRIAL, tier=tier, plan=plan, version=version, advance=advance),)
    return replace(
        anchored(subscription, anchor, paid_from), spans=(*(trial if trial_days else ()), paid), activated_at=now
    )


def anchored(subscription: Subscription, mode: AnchorMode, first_paid: datetime) -> Subscription:
    """The same with its periods anchored: to calendar months, or to the day it first pays."""
    anchor = anchor_for(mode, first_paid)
    return replace(subscription, anchor_month=anchor.month, anchor_day=anchor.day)


def retiered(
    spans: tuple[Span, ...], at: datetime, *, tier: str, plan: str | None, version: int | None, advance: bool
) -> tuple[Span, ...]:
    """Spans with another tier from `at` on. A trial keeps its end; what is paused stays paused; free becomes paid.

    What goes on as it was is one span: going back before a change began is no change.
    """

    def kind_of(span: Span) -> str:
        if span.kind == PAUSED:
            return PAUSED
        if plan is None:
            return FREE
        return TRIAL if span.kind == TRIAL else PAID

    before = tuple(span for span in spans if span.start < at)
    later = tuple(span for span in spans if span.start > at)
    here = next((span for span in spans if span.start == at), before[-1] if before else None)
    if here is None:
        raise ValueError("a change begins after the subscription does")
    rest = (replace(here, start=at), *later)
    if plan is None:
        rest = rest[:1] if rest[0].kind != PAUSED else rest
    found = list(before)
    for span in rest:
        made = replace(span, kind=kind_of(span), tier=tier, plan=plan, version=version, advance=advance)
        if not found or replace(found[-1], start=made.start) != made:
            found.append(made)
    return tuple(found)


def from_today(subscription: Subscription, now: datetime) -> datetime:
    """When something that costs more begins by price: today's midnight, so the whole day; or the next one.

    The next one on the subscription's own first day, and when today's midnight is a billing date that was billed.
    """
    today = midnight(now.date())
    first = subscription.spans[0].start
    if today <= first or (subscription.last_edge is not None and today <= subscription.last_edge):
        return from_tomorrow(now)
    return today


def from_tomorrow(now: datetime) -> datetime:
    """The next UTC midnight, later than `now`."""
    return midnight(now.date() + timedelta(days=1))


def running_period(subscription: Subscription, now: datetime) -> Period | None:
    """The period an instant falls into, for one that pays then; bounded by the first paid instant and the end."""
    span = in_force(subscription, now)
    if span is None or not span.paid or span.start > now:
        return None
    return next((each for each in billing_periods(subscription, now) if each.holds(now)), None)


def allowance_period(subscription: Subscription, now: datetime) -> Period:
    """The stretch that an allowance, a top-up and a spend cap are for: the running period, or a trial as a whole.

    Where nothing is paid, the anchored period.
    """
    span = in_force(subscription, now)
    if span is not None and span.kind == TRIAL:
        line = timeline(subscription)
        ends = next((each.start for each in line if each.kind != TRIAL), subscription.end)
        if ends is not None and line[0].start < ends:
            return Period(line[0].start, ends)
    return running_period(subscription, now) or nominal_period(now, subscription.anchor)


def billing_periods(subscription: Subscription, until: datetime) -> tuple[Period, ...]:
    """What was not billed in arrears yet, period by period, up to the one that holds `until`."""
    opening = next((span.start for span in timeline(subscription) if span.paid), None)
    start = subscription.last_edge or opening
    found: list[Period] = []
    while start is not None and start <= until:
        edge = following_edge(subscription, start)
        if edge is None:
            break
        found.append(Period(start, edge))
        start = edge
    return tuple(found)


def paused_from(subscription: Subscription, at: datetime) -> Subscription:
    """The same, not paying from the midnight `at` on."""
    span = in_force(subscription, at)
    if span is None:
        raise ValueError("what has not begun cannot pause")
    kept = tuple(each for each in subscription.spans if each.start < at)
    return replace(subscription, spans=(*kept, replace(span, start=at, kind=PAUSED)))


def resumed_from(subscription: Subscription, at: datetime) -> Subscription:
    """The same, paying again from the midnight `at` on; a pause that did not begin before `at` never was."""
    kept = tuple(each for each in subscription.spans if each.start < at)
    last = kept[-1]
    if last.kind != PAUSED:
        return replace(subscription, spans=kept)
    kind = FREE if last.plan is None else PAID
    return replace(subscription, spans=(*kept, replace(last, start=at, kind=kind)))


def noted(subscription: Subscription, at: datetime, what: str, detail: str = "") -> Subscription:
    """The same with one more step in its history."""
    steps = (*subscription.history, Step(at=at, what=what, detail=detail))
    return replace(subscription, history=steps[-MOST_HISTORY:])
