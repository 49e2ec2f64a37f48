"""Change a running subscription: its tier, its pauses, its end, what the publisher keeps out, what it may spend.

Every instant but a cancellation's is a UTC midnight. What costs more begins with the present day, what costs less with
the next day or period; what was paid ahead and is not used comes back with the bill at that instant.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, Protocol

from monetize.domain import states
from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Conflict, Invalid, NotFound, PreconditionFailed
from monetize.domain.meters import Meter
from monetize.domain.offers import Estimate, Offer, check_open, in_advance, time_of, yearly_fees
from monetize.domain.periods import Anchor, Period, midnight, nominal_period
from monetize.domain.plans import PlanTerms, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.rating import BillInput, Segment, ahead_of, rate
from monetize.domain.subscriptions import (
    PAUSED,
    TRIAL,
    Change,
    Subscription,
    TopUp,
    allowance_period,
    anchored,
    following_edge,
    from_today,
    from_tomorrow,
    in_force,
    noted,
    paused_from,
    resumed_from,
    retiered,
    running_period,
    scheduled,
    status_at,
    timeline,
)
from monetize.services.subscribing import changed_over, ended
from monetize.services.subscription_access import (
    Person,
    Ports,
    Request,
    audit,
    of_anybody,
    of_publisher,
    of_subscriber,
    the_offer,
    the_publisher,
    until_unchanged,
    version_of,
    visible,
)

MOST_TOPUPS: Final = 200
SHARDS_KNOWN: Final = timedelta(minutes=10)  # events are taken 5 minutes early, by who remembers the old count a while


class TopUps(Protocol):
    """What top-ups are kept in; the natural key of each is kept for ever."""

    def meter(self, publisher: str, meter: str) -> Meter | None: ...
    def given(self, what: str, subscription: str, key_sha256: str) -> Request | None: ...
    def give(
        self, what: str, before: Subscription, after: Subscription, request: tuple[str, str, str], entry: AuditEntry
    ) -> Subscription: ...


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a change leads."""

    tier: str
    version: PlanVersion | None

    @property
    def terms(self) -> PlanTerms | None:
        return self.version.terms if self.version is not None else None


# --- change of tier ---


def preview_change(person: Person, subscription_id: str, tier: str, when: str, now: datetime, ports: Ports) -> Estimate:
    """What `change` would do, without doing it. Refuses what it would refuse, but for a missing card."""
    subscription, at = _as_of_now(of_subscriber(person, subscription_id, ports), now, ports)
    offer = _new_offer(subscription, tier, ports)
    old = version_of(subscription, ports)
    after, effective, upgrade = _changed(subscription, old, _Target(tier, offer.version), offer.publisher, when, at)
    credit, charge = _estimate(subscription, old, offer.version, after, effective)
    return Estimate(
        tier=tier,
        version=offer.version,
        currency=after.currency or subscription.currency,
        upgrade=upgrade,
        takes_effect_at=effective,
        credit=credit,
        charge=charge,
        due=charge - credit,
        next_bill_at=after.next_edge,
        needs_payment_method=offer.version is not None and not _has_card(subscription, offer.publisher, ports),
    )


def change(person: Person, subscription_id: str, tier: str, when: str, now: datetime, ports: Ports) -> Subscription:
    """Another tier of the same product, `now` or at the `period_end`; a change that waited before is replaced.

    Conflict: `subscription_not_active`, `cancellation_pending`, `same_tier`, `currency_differs`,
    `payment_method_required`, and what `check_open` refuses. NotFound `unknown_offer`.
    """

    def once() -> Subscription:
        stored = of_subscriber(person, subscription_id, ports)
        subscription, at = _as_of_now(stored, now, ports)
        offer = _new_offer(subscription, tier, ports)
        if offer.version is not None and not _has_card(subscription, offer.publisher, ports):
            raise Conflict("payment_method_required", "Leave a card first: ask for a checkout.")
        target = _Target(tier, offer.version)
        after, effective, _ = _changed(subscription, version_of(subscription, ports), target, offer.publisher, when, at)
        entry = audit(
            person,
            subscription,
            "subscription.change",
            at,
            ports,
            before={"tier": subscription.tier},
            after={"tier": tier, "at": effective.isoformat()},
        )
        return ports.store.save(stored, after, entry=entry)

    return until_unchanged(once)


def drop_change(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscription:
    """Take back a change that still waits. Conflict `no_change_pending`."""

    def once() -> Subscription:
        subscription = of_subscriber(person, subscription_id, ports)
        publisher = the_publisher(subscription.publisher, ports)
        at = time_of(publisher, now)
        if subscription.change is None or subscription.change.at <= at:
            raise Conflict("no_change_pending", "No change waits.")
        after = scheduled(replace(subscription, change=None), publisher.settings.grace_hours)
        entry = audit(person, subscription, "subscription.change_dropped", at, ports)
        return ports.store.save(subscription, after, entry=entry)

    return until_unchanged(once)


def change_version(subscription_id: str, plan: str, version: int, when: str, now: datetime, ports: Ports) -> None:
    """Move a subscription to another version of its plan, as the publisher's bulk move asks. Twice is once.

    `when` is `now` or `period_end`. Raises what cannot be moved: Conflict `subscription_not_active`,
    `cancellation_pending`, `currency_differs`, `not_on_plan`, `change_pending`; NotFound `unknown_subscription`,
    `unknown_version`.
    """

    def once() -> None:
        stored = of_anybody(subscription_id, ports)
        subscription, at = _as_of_now(stored, now, ports)
        waits = subscription.change
        if waits is not None and (waits.plan, waits.version) == (plan, version):
            return
        if waits is not None and waits.plan != plan:
            raise Conflict("change_pending", "The subscriber has ordered another plan, which comes first.")
        if subscription.plan != plan:
            raise Conflict("not_on_plan", "The subscription has another plan.")
        if subscription.version == version and waits is None:
            return
        target = ports.store.version(plan, version)
        if target is None:
            raise NotFound("unknown_version", "The plan has no such version.")
        publisher = the_publisher(subscription.publisher, ports)
        wanted = _Target(subscription.tier, target)
        after, effective, _ = _changed(subscription, version_of(subscription, ports), wanted, publisher, when, at)
        after = noted(after, at, "version_moved", f"{plan}:{version} from {effective.isoformat()}")
        ports.store.save(stored, after)

    until_unchanged(once)


def _as_of_now(stored: Subscription, now: datetime, ports: Ports) -> tuple[Subscription, datetime]:
    """The subscription with what has come due of a change carried out, whether or not a worker saw it; and its now."""
    publisher = the_publisher(stored.publisher, ports)
    at = time_of(publisher, now)
    due = stored.live and stored.change is not None and stored.change.at <= at
    return (changed_over(stored, publisher) if due else stored), at


def _new_offer(subscription: Subscription, tier: str, ports: Ports) -> Offer:
    offer = the_offer(subscription.publisher, subscription.product, tier, ports)
    check_open(offer)
    if tier == subscription.tier and subscription.change is None:
        raise Conflict("same_tier", "The subscription has this tier already.")
    return offer


def _changed(
    subscription: Subscription, old: PlanVersion | None, target: _Target, publisher: Publisher, when: str, at: datetime
) -> tuple[Subscription, datetime, bool]:
    """The subscription after the change, when its price takes effect, and whether it costs more."""
    _must_be_active(subscription, at)
    if subscription.cancel_at is not None:
        raise Conflict("cancellation_pending", "The subscription is about to end: take that back first.")
    terms = target.terms
    version = target.version
    plan, number = (version.plan, version.number) if version is not None else (None, None)
    if (target.tier, plan, number) == (subscription.tier, subscription.plan, subscription.version):
        # What it has: whatever was to come is dropped, and nothing ends or begins.
        return scheduled(replace(subscription, change=None), publisher.settings.grace_hours), at, False
    if terms is not None and subscription.currency and subscription.currency != terms.currency:
        raise Conflict("currency_differs", "A subscription stays in its currency: make another one.")
    upgrade = yearly_fees(terms) > yearly_fees(old.terms if old else None) or (old is None and terms is not None)
    subscription = replace(subscription, change=None)
    ends = period_end(subscription, at)
    wait = when == "period_end" and ends is not None
    effective = ends if wait and ends is not None else from_today(subscription, at) if upgrade else from_tomorrow(at)
    currency = terms.currency if terms else subscription.currency
    if terms is not None and not any(span.paid for span in subscription.spans):
        account = publisher.stripe.account if publisher.stripe else ""
        subscription = replace(anchored(subscription, terms.anchor, effective), account=account, currency=currency)
    advance = in_advance(terms)
    if upgrade and not wait:
        spans = retiered(subscription.spans, effective, tier=target.tier, plan=plan, version=number, advance=advance)
        after = replace(subscription, spans=spans, tier=target.tier, plan=plan, version=number, currency=currency)
        after = noted(after, at, "tier_changed", target.tier)
    else:
        waits = Change(at=effective, tier=target.tier, plan=plan, version=number, advance=advance, currency=currency)
        after = replace(subscription, change=waits)
    return scheduled(after, publisher.settings.grace_hours), effective, upgrade


def period_end(subscription: Subscription, at: datetime) -> datetime | None:
    """When the running period, or the trial, ends; None for what is free."""
    span = in_force(subscription, at)
    if span is None:
        return None
    if span.paid:
        period = running_period(subscription, at)
        return period.end if period is not None else following_edge(subscription, span.start)
    return next((each.start for each in timeline(subscription) if each.start > at and each.paid), None)


def _estimate(
    subscription: Subscription,
    old: PlanVersion | None,
    new: PlanVersion | None,
    after: Subscription,
    effective: datetime,
) -> tuple[int, int]:
    """Credit for what was paid ahead and falls after the instant, and the new fees in advance to the period's end."""
    credit = charge = 0
    span = in_force(subscription, effective)
    if old is not None and span is not None and span.paid and span.start < effective:
        # The month that ends here or is cut: a year's fee comes back from the edge of a month on, too.
        whole = nominal_period(effective - timedelta(seconds=1), subscription.anchor)
        start = max(span.start, whole.start)
        opened = _advance_only(old.terms, Period(start, whole.end), subscription.anchor)
        ahead = ahead_of(rate(BillInput(currency=old.terms.currency, at=start, starting=opened)).lines)
        closed = replace(opened, period=Period(start, effective), ahead=ahead, ended=True)
        rated = rate(BillInput(currency=old.terms.currency, at=effective, closed=(closed,)))
        credit = -sum(line.rated for line in rated.credits)
    begins = in_force(after, effective)
    if new is not None and begins is not None and begins.paid:
        whole = nominal_period(effective, after.anchor)
        starting = _advance_only(new.terms, Period(effective, whole.end), after.anchor)
        charge = rate(BillInput(currency=new.terms.currency, at=effective, starting=starting)).subtotal
    return credit, charge


def _advance_only(terms: PlanTerms, period: Period, anchor: Anchor) -> Segment:
    fees = tuple(charge for charge in terms.charges if charge.model == "flat" and charge.timing == "advance")
    return Segment(
        period=period,
        nominal=nominal_period(period.start, anchor),
        terms=replace(terms, charges=fees, minimum=None, maximum=None),
        anchor=anchor,
        since=period.start,
    )


def _has_card(subscription: Subscription, publisher: Publisher, ports: Ports) -> bool:
    account = subscription.account or (publisher.stripe.account if publisher.stripe else "")
    subscriber = ports.store.subscriber(subscription.publisher, subscription.subscriber)
    customer = subscriber.customer(account) if subscriber is not None else None
    return customer is not None and customer.payment_method is not None


def _must_be_active(subscription: Subscription, at: datetime) -> None:
    if status_at(subscription, at) != "active":
        raise Conflict("subscription_not_active", f"The subscription is {status_at(subscription, at)}.")


# --- end, pause ---


def cancel(person: Person, subscription_id: str, when: str, reason: str, now: datetime, ports: Ports) -> Subscription:
    """End a subscription `now`, at this very second, or at the `period_end`. What is free, paused or pending ends now.

    The last bill is made either way. Cancelling again changes nothing; Conflict `illegal_move` once it has ended.
    """

    def once() -> Subscription:
        subscription = visible(person, subscription_id, ports)
        publisher = the_publisher(subscription.publisher, ports)
        at = time_of(publisher, now)
        if subscription.cancel_at is not None and (when == "period_end" or subscription.cancel_at <= at):
            return subscription
        # A change that waits is dropped with it, so the period is the one that runs without it.
        runs = replace(subscription, change=None)
        ends = period_end(runs, at) if subscription.status == "active" and when == "period_end" else None
        if ends is not None:
            after = replace(runs, cancel_at=ends, end_reason=reason)
            after = scheduled(after, publisher.settings.grace_hours)
        else:
            after = ended(subscription, "cancel", _not_before(subscription, at), reason or "cancelled", publisher)
        entry = audit(person, subscription, "subscription.cancel", at, ports, after={"at": (ends or at).isoformat()})
        return ports.store.save(subscription, after, entry=entry)

    return until_unchanged(once)


def _not_before(subscription: Subscription, at: datetime) -> datetime:
    """A cancellation is later than what was billed, if by a second: the last bill gives back what was paid ahead."""
    if subscription.last_edge is not None and at <= subscription.last_edge:
        return subscription.last_edge + timedelta(seconds=1)
    return at


def take_back_cancellation(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscription:
    """Before it ends, a subscription can stay. Conflict `not_cancelling`."""

    def once() -> Subscription:
        subscription = visible(person, subscription_id, ports)
        publisher = the_publisher(subscription.publisher, ports)
        at = time_of(publisher, now)
        if subscription.cancel_at is None or subscription.cancel_at <= at or not subscription.live:
            raise Conflict("not_cancelling", "The subscription is not about to end.")
        after = replace(subscription, cancel_at=None, end_reason="")
        entry = audit(person, subscription, "subscription.uncancel", at, ports)
        return ports.store.save(subscription, scheduled(after, publisher.settings.grace_hours), entry=entry)

    return until_unchanged(once)


def pause(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscription:
    """Nothing can be called from now on, and nothing is paid from the next midnight on: that ends the period.

    Conflict: `subscription_not_active`, `in_trial`, `cancellation_pending`, `change_pending`.
    """

    def once() -> Subscription:
        subscription = of_subscriber(person, subscription_id, ports)
        publisher = the_publisher(subscription.publisher, ports)
        at = time_of(publisher, now)
        _must_be_active(subscription, at)
        span = in_force(subscription, at)
        if span is not None and span.kind == TRIAL:
            raise Conflict("in_trial", "A trial cannot be paused.")
        if subscription.cancel_at is not None:
            raise Conflict("cancellation_pending", "The subscription is about to end.")
        if subscription.change is not None:
            raise Conflict("change_pending", "A change of tier waits: drop it first.")
        status = states.SUBSCRIPTION.move(subscription.status, "pause")
        after = paused_from(replace(subscription, status=status), from_tomorrow(at))
        after = scheduled(after, publisher.settings.grace_hours)
        entry = audit(person, subscription, "subscription.pause", at, ports)
        return ports.store.save(subscription, after, entry=entry)

    return until_unchanged(once)


def resume(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscription:
    """A new period begins with the present day, and calls pass again; a pause that has not begun never was.

    Where today's midnight was billed as the pause's first, both begin with the next.
    """

    def once() -> Subscription:
        subscription = of_subscriber(person, subscription_id, ports)
        publisher = the_publisher(subscription.publisher, ports)
        at = time_of(publisher, now)
        status = states.SUBSCRIPTION.move(subscription.status, "resume")
        since = next(span.start for span in reversed(subscription.spans) if span.kind == PAUSED)
        begins = since if since > at else max(since, from_today(subscription, at))
        after = resumed_from(replace(subscription, status=status), begins)
        after = scheduled(after, publisher.settings.grace_hours)
        entry = audit(person, subscription, "subscription.resume", at, ports)
        return ports.store.save(subscription, after, entry=entry)

    return until_unchanged(once)


# --- what the publisher decides, and caps ---


def block(person: Person, subscription_id: str, scope: str, reason: str, now: datetime, ports: Ports) -> Subscription:
    """Keep out the production keys, or all of them; the subscriber sees it and why. It costs what it did."""
    return _blocked(person, subscription_id, (scope, reason), "subscription.block", now, ports)


def unblock(person: Person, subscription_id: str, now: datetime, ports: Ports) -> Subscription:
    """Let calls pass again."""
    return _blocked(person, subscription_id, ("none", ""), "subscription.unblock", now, ports)


def _blocked(
    person: Person, subscription_id: str, block: tuple[str, str], action: str, now: datetime, ports: Ports
) -> Subscription:
    def once() -> Subscription:
        subscription = of_publisher(person, subscription_id, ports)
        if not subscription.live:
            raise Conflict("subscription_ended", "The subscription has ended.")
        after = replace(subscription, block=block[0], block_reason=block[1])
        entry = audit(
            person,
            subscription,
            action,
            now,
            ports,
            before={"block": subscription.block},
            after={"block": block[0], "reason": block[1]},
        )
        return ports.store.save(subscription, after, entry=entry)

    return until_unchanged(once)


def set_spend_cap(
    person: Person, subscription_id: str, cap: int | None, rev: int, now: datetime, ports: Ports
) -> Subscription:
    """The most a period may cost, minor units; subscriber and publisher have one each and the lower one holds.

    Invalid `spend_cap_on_free_tier`; PreconditionFailed when it changed since `rev` was read.
    """
    subscription = visible(person, subscription_id, ports)
    if subscription.rev != rev:
        raise PreconditionFailed("changed_meanwhile", "This changed since it was read: read it again.")
    if not subscription.commercial:
        raise Invalid("spend_cap_on_free_tier", "A free subscription spends nothing.")
    if person.organization == subscription.subscriber:
        field, was, after = "spend_cap", subscription.spend_cap, replace(subscription, spend_cap=cap)
    else:
        field, was = "publisher_spend_cap", subscription.publisher_spend_cap
        after = replace(subscription, publisher_spend_cap=cap)
    entry = audit(
        person, subscription, "subscription.spend_cap", now, ports, before={field: str(was)}, after={field: str(cap)}
    )
    return ports.store.save(subscription, after, entry=entry)


def set_shards(
    person: Person, subscription_id: str, month: str, count: int, rev: int, now: datetime, ports: Ports
) -> Subscription:
    """Spread the usage of a month `yyyy-mm` to come over `count` partitions: an operator's answer to write conflicts.

    Conflict `month_begun` once events of that month may have been placed; PreconditionFailed when it changed since
    `rev` was read.
    """
    subscription = of_anybody(subscription_id, ports)
    if subscription.rev != rev:
        raise PreconditionFailed("changed_meanwhile", "This changed since it was read: read it again.")
    at = time_of(the_publisher(subscription.publisher, ports), now)
    if at + SHARDS_KNOWN >= datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC):
        raise Conflict("month_begun", "Shards are set before their month begins.")
    counts = {**dict(subscription.shards), month: count}
    after = replace(subscription, shards=tuple(sorted((when, many) for when, many in counts.items() if many > 1)))
    said = {"month": month, "count": str(count)}
    entry = audit(person, subscription, "subscription.shards", at, ports, after=said)
    return ports.store.save(subscription, after, entry=entry)


def top_up(
    person: Person,
    subscription_id: str,
    meter: str,
    quantity: int,
    key: str,
    now: datetime,
    ports: Ports,
    store: TopUps,
) -> tuple[Subscription, TopUp]:
    """Give extra allowance in the running period, once for one key for ever.

    Conflict `subscription_not_active`, `too_many_topups`; Invalid `unknown_meter`, `idempotency_key_reused`,
    `topup_on_free_tier`.
    """
    natural = sha256(key.encode()).hexdigest()
    fingerprint = sha256(f"{meter}\n{quantity}".encode()).hexdigest()

    def once() -> tuple[Subscription, TopUp]:
        subscription = of_publisher(person, subscription_id, ports)
        found = store.given("topup", subscription_id, natural)
        if found is not None:
            if found.fingerprint != fingerprint:
                raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another top-up.")
            return subscription, next(each for each in subscription.topups if each.id == found.made)
        publisher = the_publisher(subscription.publisher, ports)
        at = time_of(publisher, now)
        _must_be_active(subscription, at)
        version = version_of(subscription, ports)
        if version is None:
            raise Invalid("topup_on_free_tier", "A free subscription has no paid allowance.")
        if store.meter(subscription.publisher, meter) is None or all(
            charge.meter != meter for charge in version.terms.charges
        ):
            raise Invalid("unknown_meter", "The subscription's plan has no such meter.")
        if len(subscription.topups) >= MOST_TOPUPS:
            raise Conflict("too_many_topups", f"A subscription takes {MOST_TOPUPS} top-ups at most.")
        # Its day, not its period's first: should a change of today's end that period, it counts in the one of today.
        start = max(allowance_period(subscription, at).start, midnight(at.date()))
        made = TopUp(id=ports.ids.new("top", at), meter=meter, quantity=quantity, counts_from=start)
        after = replace(subscription, topups=(*subscription.topups, made))
        entry = audit(
            person, subscription, "subscription.topup", at, ports, after={"meter": meter, "quantity": str(quantity)}
        )
        return store.give("topup", subscription, after, (natural, fingerprint, made.id), entry), made

    return until_unchanged(once)
