"""Exact totals, what stands behind them, and how people correct them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Final, Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.entitlements import Offer, PublisherRules, allowed_at, standings
from monetize.domain.errors import Conflict, Invalid, NotFound
from monetize.domain.meters import MAX_QUANTITY
from monetize.domain.subscriptions import Subscription
from monetize.domain.usage import (
    CORRECTABLE_DAYS,
    Adjustment,
    Correction,
    Counters,
    Entry,
    Exact,
    LateEntry,
    LedgerMismatch,
    Metered,
    Metering,
    Standing,
    distinct,
)

KEPT_BYTES: Final = 64 * 1024 * 1024  # of event ids held for a second reading, instead of asking the table again
MAX_NAMED_BATCHES: Final = 10_000  # in one adjustment: an item holds 400 KB
TRIES: Final = 5
OPEN_DAY_PERCENT: Final = 80
MAX_RANGE_DAYS: Final = 366

type Shards = Callable[[str], int]
"""The number of partitions of a subscription's usage in a month `yyyy-mm`."""

type Totals = dict[tuple[date, int], int]
"""Quantities by day and meter number."""


class Usage(Protocol):
    """The Usage table."""

    def seal(self, subscription: str, first: date, through: date, shards: Shards) -> None: ...

    def counters(
        self, subscription: str, first: date, last: date, shards: Shards, *, sandbox: bool = False
    ) -> Counters: ...

    def entries(
        self, subscription: str, first: date, last: date, shards: Shards, *, sandbox: bool = False
    ) -> Iterator[Entry]: ...

    def standing(self, subscription: str, first: date, last: date, shards: Shards, keep: int) -> Standing: ...

    def late_entries(self, subscription: str, first: date, last: date) -> tuple[LateEntry, ...]: ...

    def corrections(self, subscription: str, first: date, last: date) -> tuple[Correction, ...]: ...

    def adjust(self, subscription: str, adjustment: Adjustment) -> bool: ...

    def correct(self, subscription: str, correction: Correction, audit: AuditEntry | None = None) -> str: ...

    def claim_correction(self, publisher: str, key: str, content: str) -> bool: ...

    def batches(
        self, subscription: str, day: date, shard: int, *, after: str | None, limit: int
    ) -> tuple[tuple[tuple[Entry, datetime], ...], str | None]: ...

    def to_compact(self, partition: int, through: date, limit: int) -> tuple[tuple[str, date], ...]: ...

    def compacted(self, subscription: str, day: date) -> None: ...


class Facts(Protocol):
    """Subscriptions and publishers."""

    def subscriptions(self, ids: Iterable[str], now: datetime) -> Mapping[str, Metered | None]: ...

    def metering(self, publisher: str, now: datetime, *, fresh: bool = False) -> Metering: ...

    def subscription(self, subscription: str) -> Subscription | None: ...

    def rules(self, publisher: str, now: datetime) -> PublisherRules: ...

    def offer(self, publisher: str, tier: str, plan: str | None, version: int | None, now: datetime) -> Offer: ...


class Ids(Protocol):
    """New names."""

    def new(self, prefix: str, at: datetime) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What counting works with."""

    usage: Usage
    facts: Facts
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactUsage:
    """What a period's distinct events come to, by meter id and day, with corrections and the named late entries."""

    quantities: Mapping[str, Mapping[date, int]]
    events: int
    duplicates: int
    conflicts: int


def settle(subscription: str, first: date, last: date, shards: Shards, now: datetime, usage: Usage) -> Exact:
    """Make ledger, counter and exact totals of those days one and the same, by adjustments.

    For sealed days (billing), and for closed ones before. LedgerMismatch when the counter does not hold what the
    ledger says; never while events are still coming in, for then the two are read at different instants.
    """
    return settled(subscription, first, last, shards, now, usage)[0]


def settled(
    subscription: str, first: date, last: date, shards: Shards, now: datetime, usage: Usage
) -> tuple[Exact, Totals | None]:
    """As `settle`, with what the counters then hold; None: others kept changing them, ask again."""
    before: Totals | None = None
    for _ in range(TRIES):
        standing = usage.standing(subscription, first, last, shards, KEPT_BYTES)
        exact = distinct(_reading(standing, lambda: usage.entries(subscription, first, last, shards)))
        totals = _nonzero(standing.totals)
        ledger: dict[tuple[date, int], int] = defaultdict(int, exact.received)
        further = [(each.day, each.quantities) for each in standing.adjustments]
        further += [(each.day, each.quantities) for each in standing.corrections]
        for day, quantities in further:
            for short, quantity in quantities.items():
                ledger[day, short] += quantity
        if _nonzero(ledger) != totals:
            # Something was written while we read, if the counters are others the next time.
            if totals == before:
                raise LedgerMismatch(subscription, first, last)
            before = totals
            continue
        wanted = list(_wanted(exact, standing.adjustments, now))
        if all(usage.adjust(subscription, each) for each in wanted):
            for each in wanted:
                for short, quantity in each.quantities.items():
                    totals[each.day, short] = totals.get((each.day, short), 0) + quantity
            return exact, totals
        before = None
    return exact, None


def _reading(standing: Standing, again: Callable[[], Iterable[Entry]]) -> Callable[[], Iterable[Entry]]:
    """What was held, or the table once more."""
    kept = standing.entries
    return again if kept is None else lambda: kept


def _wanted(exact: Exact, adjusted: Sequence[Adjustment], now: datetime) -> Iterator[Adjustment]:
    """What is still to be taken out, by day."""
    done: dict[tuple[date, int], int] = defaultdict(int)
    numbers: dict[date, int] = defaultdict(int)
    for each in adjusted:
        numbers[each.day] = max(numbers[each.day], each.number)
        for short, quantity in each.quantities.items():
            done[each.day, short] += quantity
    days: dict[date, dict[int, int]] = defaultdict(dict)
    for day, short in exact.removed.keys() | done.keys():
        delta = -exact.removed.get((day, short), 0) - done[day, short]
        if delta:
            days[day][short] = delta
    for day in sorted(days):
        names = sorted(exact.repeated_in.get(day, ()))[:MAX_NAMED_BATCHES]
        yield Adjustment(day, numbers[day] + 1, days[day], tuple(names), exact.events, now)


def exact_usage(
    subscription: str,
    first: date,
    last: date,
    shards: Shards,
    meters: Mapping[int, str],
    usage: Usage,
    late: Sequence[str] = (),
) -> ExactUsage:
    """Distinct events of those days, with the late entries and late corrections that `late` names (their `ref`).

    `meters` is the publisher's meter ids by number. A quantity that corrections bring below zero is zero.
    """
    wanted = set(late)
    taken = [each for each in usage.late_entries(subscription, first, last) if each.ref in wanted] if wanted else []
    late_batches = [each.entry for each in taken if each.entry is not None]

    def entries() -> Iterator[Entry]:
        yield from usage.entries(subscription, first, last, shards)
        yield from late_batches

    exact = distinct(_rereadable(entries))
    totals: dict[tuple[date, int], int] = defaultdict(int, exact.totals())
    corrections = [(each.day, each.quantities) for each in usage.corrections(subscription, first, last)]
    corrections += [(each.day, each.quantities) for each in taken if each.entry is None]
    for day, quantities in corrections:
        for short, quantity in quantities.items():
            totals[day, short] += quantity
    by_meter: dict[str, dict[date, int]] = {}
    for (day, short), quantity in sorted(totals.items()):
        if quantity > 0 and short in meters:
            by_meter.setdefault(meters[short], {})[day] = quantity
    return ExactUsage(
        quantities=by_meter, events=exact.events, duplicates=exact.duplicates, conflicts=len(exact.conflicts)
    )


def _rereadable(read: Callable[[], Iterator[Entry]]) -> Callable[[], Iterable[Entry]]:
    """Keep what is small, ask again for what is not."""
    kept: list[Entry] = []
    size = 0
    for entry in read():
        kept.append(entry)
        size += len(entry.content.ids)
        if size > KEPT_BYTES:
            return read
    return lambda: kept


def _nonzero(totals: Mapping[tuple[date, int], int]) -> Totals:
    return {key: quantity for key, quantity in totals.items() if quantity}


# ---- for people ----


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUsage:
    """Live totals as of an instant. `sealed_through` by month `yyyy-mm`: what is final but for late events."""

    as_of: datetime
    rows: tuple[tuple[str, date, int], ...]  # (meter id, day, quantity)
    sealed_through: Mapping[str, date | None]


def live_usage(
    subscription: Metered, first: date, last: date, now: datetime, ports: Ports, *, sandbox: bool = False
) -> LiveUsage:
    """What was counted from `first` to `last`, both included. Invalid `bad_range`."""
    if not timedelta(0) <= last - first <= timedelta(days=MAX_RANGE_DAYS):
        raise Invalid("bad_range", f"`from` is not after `to`, and at most {MAX_RANGE_DAYS} days before it.")
    names = {meter.short: meter.id for meter in ports.facts.metering(subscription.publisher, now).meters}
    found = ports.usage.counters(subscription.id, first, last, subscription.shards_in, sandbox=sandbox)
    rows = sorted((names.get(short, str(short)), day, quantity) for (day, short), quantity in found.totals.items())
    return LiveUsage(as_of=now, rows=tuple(rows), sealed_through=found.sealed_through)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionOrder:
    """Add (or, negative, remove) quantity of a meter on a day."""

    publisher: str
    subscription: str
    meter: str
    day: date
    quantity: int
    reason: str
    author: str
    key: str  # the Idempotency-Key: the correction's name for ever


def correct(order: CorrectionOrder, now: datetime, ports: Ports) -> tuple[Correction, str]:
    """A new entry in the ledger, never a rewrite: `counted` in an open day, `late` (for the next bill) in a sealed one.

    NotFound for a foreign subscription or meter; Invalid `idempotency_key_reused`, `bad_quantity`, `bad_day`,
    `day_too_old`, `below_zero`; Conflict `subscription_ended` when no bill comes that could take it. The same order
    again answers the same.
    """
    found = ports.facts.subscriptions([order.subscription], now).get(order.subscription)
    if found is None or found.publisher != order.publisher:
        raise NotFound("no_such_subscription", "There is no such subscription.")
    metering = ports.facts.metering(order.publisher, now)
    short = next((meter.short for meter in metering.meters if meter.id == order.meter), None)
    if short is None:
        raise NotFound("no_such_meter", "There is no such meter.")
    if not 0 < abs(order.quantity) <= MAX_QUANTITY:
        raise Invalid("bad_quantity", f"A correction is not zero, and at most {MAX_QUANTITY} either way.")
    today = (now + metering.clock_offset).date()
    if found.first_day is None or not found.first_day <= order.day <= today:
        raise Invalid("bad_day", "The day is not one of this subscription's days so far.")
    if order.day < today - timedelta(days=CORRECTABLE_DAYS):
        raise Invalid(
            "day_too_old", f"Usage is corrected for {CORRECTABLE_DAYS} days. Change what is owed at an invoice."
        )
    content = "\n".join((order.subscription, order.meter, order.day.isoformat(), str(order.quantity), order.reason))
    if not ports.usage.claim_correction(order.publisher, order.key, content):
        raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another correction.")
    correction = Correction(
        blake2b(f"{order.publisher}\n{order.key}".encode(), digest_size=16).hexdigest(),
        order.day,
        {short: order.quantity},
        order.reason,
        order.author,
        now,
    )
    if found.closed(now + metering.clock_offset, metering.grace_hours) and not _stored(found, correction, ports):
        raise Conflict("subscription_ended", "Its last bill is made. What it owes or is owed is changed at an invoice.")
    if order.quantity < 0 and _counted(found, order.day, short, correction.id, ports) + order.quantity < 0:
        raise Invalid("below_zero", "There is not so much on that day to take away.")
    audit = AuditEntry(
        id=ports.ids.new("aud", now),
        publisher=order.publisher,
        at=now,
        actor=order.author,
        organization=order.publisher,
        action="usage.correct",
        target=order.subscription,
        after={
            "meter": order.meter,
            "day": order.day.isoformat(),
            "quantity": str(order.quantity),
            "reason": order.reason,
        },
    )
    return correction, ports.usage.correct(order.subscription, correction, audit)


def _stored(found: Metered, correction: Correction, ports: Ports) -> bool:
    """Whether this very correction was written before."""
    day = correction.day
    return any(each.id == correction.id for each in ports.usage.corrections(found.id, day, day)) or any(
        each.ref.endswith(correction.id) for each in ports.usage.late_entries(found.id, day, day)
    )


def _counted(found: Metered, day: date, short: int, correction: str, ports: Ports) -> int:
    """What stands on that day, late entries in and this very correction (a repetition) out."""
    totals = ports.usage.counters(found.id, day, day, found.shards_in).totals
    late = ports.usage.late_entries(found.id, day, day)
    own = [each.quantities for each in ports.usage.corrections(found.id, day, day) if each.id == correction]
    own += [each.quantities for each in late if each.ref.endswith(correction)]
    return (
        totals.get((day, short), 0)
        + sum(each.quantities.get(short, 0) for each in late)
        - sum(quantities.get(short, 0) for quantities in own)
    )


# ---- compaction ----


def compact_due(partition: int, now: datetime, ports: Ports, limit: int = 100) -> int:
    """Settle the closed days of one of 64 to-do lists, and the open day of who is near a hard quota; how many."""
    done = 0
    for subscription, day in ports.usage.to_compact(partition, now.date(), limit):
        found = ports.facts.subscriptions([subscription], now).get(subscription)
        if found is None:
            ports.usage.compacted(subscription, day)
            continue
        closed = day < now.date()
        if not closed and not _near_quota(subscription, found, now, ports):
            continue
        through = ports.usage.counters(subscription, day, day, found.shards_in).sealed_through
        if any(sealed is None or sealed < day for sealed in through.values()):
            # Of a sealed day billing has settled the whole period: one day alone would find fewer repetitions.
            settle(subscription, day, day, found.shards_in, now, ports.usage)
        if closed:
            ports.usage.compacted(subscription, day)
        done += 1
    return done


def _near_quota(subscription: str, found: Metered, now: datetime, ports: Ports) -> bool:
    holder = ports.facts.subscription(subscription)
    if holder is None:
        return False
    rules = ports.facts.rules(holder.publisher, now)
    at = now + rules.clock_offset
    it = allowed_at(holder, at)
    offer = ports.facts.offer(it.publisher, it.tier, it.plan, it.version, at)
    if not any(limit.hard for limit in offer.limits):
        return False
    totals = ports.usage.counters(subscription, it.period.start.date(), at.date(), found.shards_in).totals
    return any(
        each.hard and each.used * 100 >= each.limit * OPEN_DAY_PERCENT
        for each in standings(it, offer, rules, totals, at)
    )
