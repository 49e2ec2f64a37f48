"""What people ask of billing runs: a dry one of everything, hold and release, parked bills, a sandbox's own clock.

A dry run reads what a real one would read and writes nothing but its own items. It goes shard by shard over the to-do
list in steps; a step and the sums it adds are one transaction on condition of the position it began at, so a step may
be repeated, resumed days later or taken by two workers, and counts once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, Protocol

from monetize.domain import states
from monetize.domain.audit import AuditEntry
from monetize.domain.collecting import HeldInvoice
from monetize.domain.errors import (
    AccountUnreachable,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    ProviderRefused,
    Refusal,
    Unavailable,
)
from monetize.domain.invoices import Bill, BillLines, Due
from monetize.domain.meters import Meter
from monetize.domain.money import currency_of
from monetize.domain.offers import scope_of, time_of
from monetize.domain.periods import Period, to_the_second
from monetize.domain.plans import Plan, PlanTerms, PlanVersion, validate_terms
from monetize.domain.publishers import MOST_AHEAD, Publisher
from monetize.domain.rating import UsageByDay, preview
from monetize.domain.runs import (
    SETTLED,
    Hold,
    Outlier,
    Progress,
    PublisherTotals,
    Run,
    RunPart,
    RunResult,
    WhatIf,
    add,
    foremost,
    rank_of,
)
from monetize.domain.subscriptions import (
    Subscriber,
    Subscription,
    bill_due_at,
    billed,
    discounts_in_force,
    in_force,
)
from monetize.domain.usage import LedgerMismatch
from monetize.services import counting, rating_bills, running
from monetize.services.billing import PREVIOUS_OPEN, RELEASED, held_for, let_follow, split_bill_id
from monetize.services.reporting import Page, bounds
from monetize.services.subscribing import settled

PAGE: Final = 30  # results of one step: it is one transaction
STEPS: Final = 10  # of one message
TRIES: Final = 5
OPEN: Final = ("claimed", "rated", "drafted", "parked", "held")  # begun, and not sent
WAITING: Final = "WAITING#"  # where a shard's bills that wait for a person begin, behind all that is due
WORKED_ON: Final = timedelta(days=1)  # how far ahead the next attempt of an open bill may lie
LOOKED_AT: Final = 1_000  # entries of the to-do list read at once
MOST_EDGES: Final = 24  # of one subscription: two years behind
AHEAD: Final = timedelta(days=62)  # how far into the future a dry run may look


class Runs(Protocol):
    """What is stored of runs."""

    def run(self, run_id: str) -> Run | None: ...
    def begin(self, run: Run) -> Run: ...
    def finish(self, run: Run) -> bool: ...
    def open_run(self, scope: str) -> Run | None: ...
    def runs(self, owner: str, after: str | None, limit: int) -> Page[Run]: ...
    def due_page(
        self, shard: int, after: str | None, through: datetime, scope: str, limit: int
    ) -> tuple[Sequence[tuple[str, Due]], bool]: ...
    def waiting_page(self, shard: int, after: str, pub: str, limit: int) -> tuple[Sequence[tuple[str, str]], bool]: ...
    def seen(self, run_id: str, bills: Collection[str]) -> frozenset[str]: ...
    def any_due(self, shard: int, now: datetime, scope: str) -> bool: ...
    def due_count(self, shard: int, now: datetime, scope: str) -> int: ...
    def worked_on(self, shard: int, now: datetime, until: datetime, scope: str) -> int: ...
    def part(self, run_id: str, shard: int) -> RunPart | None: ...
    def parts(self, run_id: str) -> tuple[RunPart, ...]: ...
    def advance(self, part: RunPart, results: Sequence[RunResult], totals: Sequence[PublisherTotals]) -> bool: ...
    def publishers(self, run_id: str, after: str | None, limit: int) -> Page[PublisherTotals]: ...
    def publisher_totals(self, run_id: str, pub: str) -> PublisherTotals: ...
    def results(self, run_id: str, pub: str, after: str | None, limit: int) -> Page[RunResult]: ...
    def tally(
        self, run_id: str, number: int, counts: Mapping[str, int], amounts: Mapping[str, int], now: datetime
    ) -> None: ...
    def tallied(self, run_id: str) -> tuple[PublisherTotals, datetime | None]: ...
    def hold(self) -> Hold | None: ...
    def set_hold(self, hold: Hold | None, entry: AuditEntry) -> None: ...
    def save_publisher(self, publisher: Publisher, entry: AuditEntry) -> Publisher: ...
    def scopes(self) -> tuple[str, ...]: ...
    def forget_leases(self, shards: Iterable[int], scope: str) -> None: ...
    def settle_bill(self, bill: Bill, entry: AuditEntry) -> Bill: ...


class Store(Protocol):
    """What bills are made of."""

    def subscription(self, sub: str) -> Subscription | None: ...
    def publisher(self, pub: str) -> Publisher | None: ...
    def subscriber(self, pub: str, subr: str) -> Subscriber | None: ...
    def bill(self, sub: str, edge: datetime) -> Bill | None: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def bill_before(self, sub: str, edge: datetime) -> Bill | None: ...
    def bill_after(self, sub: str, edge: datetime) -> Bill | None: ...
    def unpark(self, bill: Bill) -> Bill: ...
    def rated_before(self, sub: str, edge: datetime, since: datetime) -> tuple[BillLines, ...]: ...


class Catalog(Protocol):
    """Plans and who is on them."""

    def plan(self, pub: str, plan: str) -> Plan | None: ...
    def version(self, plan: str, number: int) -> PlanVersion | None: ...
    def subscription(self, sub: str) -> Subscription | None: ...
    def on_version(self, plan: str, number: int, after: str | None, limit: int) -> Page[Subscription]: ...


class Rate(Protocol):
    """Rates a bill and changes nothing anywhere."""

    def __call__(
        self, bill: Bill, subscription: Subscription, publisher: Publisher, previous: Bill | None
    ) -> BillLines: ...


class Invoices(Protocol):
    """The payment provider's invoices."""

    def retrieve(self, account: str, invoice: str) -> HeldInvoice: ...
    def delete_draft(self, account: str, invoice: str) -> None: ...


class Queue(Protocol):
    """To the workers."""

    def send(self, message: Mapping[str, object], *, delay_seconds: int = 0, group: str | None = None) -> None: ...
    def send_many(self, messages: Sequence[tuple[Mapping[str, object], str]]) -> list[int]: ...


class Ids(Protocol):
    """New names."""

    def new(self, prefix: str, at: datetime) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What runs work with. `rate(lines)` rates after the bills whose lines are given as if they had been stored.

    The provider's invoices are asked only about a bill that is waived after it had a draft.
    """

    runs: Runs
    store: Store
    queue: Queue
    ids: Ids
    rate: Callable[[Sequence[BillLines]], Rate]
    invoices: Callable[[], Invoices]


@dataclass(frozen=True, slots=True)
class Imagined:
    """What is stored, and bills that were not made as if they had been: for whoever is several periods behind."""

    stored: rating_bills.Store
    imagined: Sequence[BillLines]

    def plan_version(self, plan: str, number: int) -> PlanVersion | None:
        """One published version."""
        return self.stored.plan_version(plan, number)

    def meters(self, pub: str, ids: Collection[str], numbers: Collection[int]) -> tuple[Meter, ...]:
        """A publisher's meters."""
        return self.stored.meters(pub, ids, numbers)

    def rated_before(self, sub: str, edge: datetime, since: datetime) -> tuple[BillLines, ...]:
        """The frozen lines of the bills before an edge, and the imagined ones of those that are still not rated."""
        stored = self.stored.rated_before(sub, edge, since)
        known = {each.edge for each in stored}
        return (*stored, *(each for each in self.imagined if each.edge not in known))

    def lines(self, sub: str, edge: datetime) -> BillLines | None:
        """The lines of one bill, imagined or frozen."""
        return next((each for each in self.imagined if each.edge == edge), None) or self.stored.lines(sub, edge)

    def bill(self, sub: str, edge: datetime) -> Bill | None:
        """One bill as it is stored."""
        return self.stored.bill(sub, edge)


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks: an operator for everybody, a publisher's administrator for itself."""

    user: str
    organization: str
    operator: bool


# ---- dry runs ----


def begin_dry(who: Who, publisher: str, through: datetime | None, now: datetime, ports: Ports) -> Run:
    """A dry run of everything due up to an instant (now, unless given), of one publisher or (empty) of everybody.

    Invalid `too_far`; NotFound `unknown_publisher`.
    """
    scope, clock = "", now
    if publisher:
        seller = _publisher(publisher, ports)
        clock = time_of(seller, now)
        scope = scope_of(seller)
    until = to_the_second(through or clock)
    if until > clock + AHEAD:
        raise Invalid("too_far", f"A dry run looks at most {AHEAD.days} days ahead.")
    run = ports.runs.begin(
        Run(
            id=ports.ids.new("run", now),
            kind="dry",
            publisher=publisher,
            scope=scope,
            through=until,
            actor=who.user,
            created_at=now,
        )
    )
    _enqueue(_dry_messages(run, range(running.SHARDS)), ports.queue)
    return run


def resume(run: Run, now: datetime, ports: Ports) -> int:
    """Enqueue what is not finished of a dry run again; how many shards that is."""
    if run.kind != "dry" or run.status != "running":
        return 0
    done = {part.shard for part in ports.runs.parts(run.id) if part.done}
    left = [shard for shard in range(running.SHARDS) if shard not in done]
    _enqueue(_dry_messages(run, left), ports.queue)
    if not left:
        _close_dry(run, now, ports)
    return len(left)


def _dry_messages(run: Run, shards: Iterable[int]) -> list[tuple[Mapping[str, object], str]]:
    return [({"kind": "dry", "run": run.id, "shard": shard}, f"dry-{shard:02d}") for shard in shards]


def _enqueue(messages: Sequence[tuple[Mapping[str, object], str]], queue: Queue) -> None:
    lost = queue.send_many(messages)
    if lost and queue.send_many([messages[at] for at in lost]):
        raise Unavailable("queue_unavailable", "The queue does not take messages now.")


def dry_steps(run_id: str, shard: int, now: datetime, ports: Ports) -> str:
    """Go on with one shard of a dry run: `done`, `again` (more is to do), or `elsewhere` (another worker is on it)."""
    run = ports.runs.run(run_id)
    if run is None or run.status != "running":
        return "done"
    part = ports.runs.part(run_id, shard) or RunPart(run=run_id, shard=shard, updated_at=now)
    for _ in range(STEPS):
        if part.done:
            _close_dry(run, now, ports)
            return "done"
        moved = _dry_step(run, part, now, ports)
        if moved is None:
            return "elsewhere"
        part = moved
    if part.done:
        _close_dry(run, now, ports)
        return "done"
    return "again"


def _dry_step(run: Run, part: RunPart, now: datetime, ports: Ports) -> RunPart | None:
    for _ in range(TRIES):
        moved, results, totals = _stepped(run, part, now, ports)
        if ports.runs.advance(moved, results, totals):
            return replace(moved, rev=part.rev + 1)
        latest = ports.runs.part(run.id, part.shard)
        if (latest.rev if latest is not None else 0) != part.rev:
            return None
        # Another shard found one of these bills meanwhile: claimed, parked or released while the run passes.
    raise Unavailable("storage_busy", "Others are changing the same. Try again.", retry_after=1)


def _stepped(
    run: Run, part: RunPart, now: datetime, ports: Ports
) -> tuple[RunPart, Sequence[RunResult], Sequence[PublisherTotals]]:
    found, after, more, results = (_waiting if (part.after or "").startswith(WAITING) else _due)(run, part, ports)
    seen = ports.runs.seen(run.id, [each.id for each in results])
    results = [each for each in results if each.id not in seen]
    counts, amounts, last = dict(part.counts), dict(part.amounts), dict(part.last)
    by_publisher: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {}
    for each in results:
        own = by_publisher.setdefault(each.publisher, ({}, {}, {}))
        for sums in ((counts, amounts, last), own):
            add(sums[0], {each.outcome: 1})
            if each.currency:
                add(sums[1], {each.currency: each.amount})
                add(sums[2], {each.currency: each.last or 0})
    totals = tuple(
        PublisherTotals(publisher=pub, counts=own[0], amounts=own[1], last=own[2]) for pub, own in by_publisher.items()
    )
    moved = replace(
        part,
        after=after,
        done=not more,
        found=part.found + found,
        counts=counts,
        amounts=amounts,
        last=last,
        outliers=foremost((*part.outliers, *(each.outlier() for each in results))),
        updated_at=now,
    )
    return moved, results, totals


def _due(run: Run, part: RunPart, ports: Ports) -> tuple[int, str | None, bool, list[RunResult]]:
    """What is due up to the run's instant, and the bills that workers are on: how many, up to where, whether all."""
    beyond = (part.after or "") > f"{run.through:%Y-%m-%dT%H:%M:%SZ}"
    limit = LOOKED_AT if run.publisher or beyond else PAGE
    horizon = max(run.through, run.created_at) + WORKED_ON
    entries, more = ports.runs.due_page(part.shard, part.after, horizon, run.scope, limit)
    results: list[RunResult] = []
    found, after = 0, part.after
    for position, due in entries:
        if found >= PAGE or len(results) >= PAGE:
            more = True
            break
        made: list[RunResult] = []
        if run.publisher in ("", due.group):
            if due.kind == "subscription" and due.at <= run.through:
                made = list(would_pay(run, due.id, ports))
            elif due.kind == "bill":
                made = list(_open(run, due.id, ports))
        if results and len(results) + len(made) > PAGE:
            more = True
            break
        after = position
        found += bool(made)
        results += made
    return found, (after if more else WAITING), True, results


def _waiting(run: Run, part: RunPart, ports: Ports) -> tuple[int, str | None, bool, list[RunResult]]:
    """The bills that wait for a person, after all that is due."""
    position = (part.after or "").removeprefix(WAITING)
    page, more = ports.runs.waiting_page(part.shard, position, run.publisher, PAGE)
    results = [result for _, bill in page for result in _open(run, bill, ports)]
    return len(results), WAITING + (page[-1][0] if page else position), more, results


def _close_dry(run: Run, now: datetime, ports: Ports) -> None:
    """The last shard to finish closes the run; the others find it closed."""
    parts = ports.runs.parts(run.id)
    latest = ports.runs.run(run.id)
    if latest is None or latest.status != "running" or sum(part.done for part in parts) < running.SHARDS:
        return
    ports.runs.finish(replace(_summed(latest, parts), status="finished", finished_at=now))


def _summed(run: Run, parts: Sequence[RunPart]) -> Run:
    counts: dict[str, int] = {}
    amounts: dict[str, int] = {}
    last: dict[str, int] = {}
    for part in parts:
        for total, more in ((counts, part.counts), (amounts, part.amounts), (last, part.last)):
            add(total, more)
    outliers: list[Outlier] = [each for part in parts for each in part.outliers]
    return replace(
        run,
        found=sum(part.found for part in parts),
        counts=counts,
        amounts=amounts,
        last=last,
        outliers=foremost(outliers),
    )


def would_pay(run: Run, sub: str, ports: Ports) -> Iterator[RunResult]:
    """Every bill a subscription would get up to the run's instant. What cannot be rated is a result too."""
    subscription = ports.store.subscription(sub)
    publisher = ports.store.publisher(subscription.publisher) if subscription is not None else None
    if subscription is None or publisher is None:
        return
    at, grace = run.through, publisher.settings.grace_hours
    before: _Before | None = None
    for _ in range(MOST_EDGES):
        if subscription.due_at is None or subscription.due_at > at:
            return
        moved = settled(subscription, publisher, at)
        edge = moved.next_edge
        if edge is None or bill_due_at(moved, edge, grace) > at:
            if moved == subscription:
                return
            subscription = moved
            continue
        subscription = billed(moved, edge, grace)
        bill = Bill(
            subscription=sub,
            publisher=publisher.id,
            subscriber=moved.subscriber,
            account=publisher.stripe.account if publisher.stripe else "",
            currency=moved.currency,
            edge=edge,
            last=moved.end is not None and edge >= moved.end,
            discounts=discounts_in_force(moved),
            created_at=at,
        )
        before = before or _before(bill, subscription, publisher, ports)
        result, lines = _result(run, bill, subscription, publisher, before, ports)
        yield result
        if lines is None:
            return
        before.imagined.append(lines)
        before.previous = replace(bill, status="sent", subtotal=lines.subtotal, lines=len(lines.lines))


@dataclass(slots=True)
class _Before:
    """The bill before, and what was imagined of those that nobody rated yet. `waits`: one of them for a person."""

    previous: Bill | None
    imagined: list[BillLines]
    waits: bool = False


def _before(bill: Bill, subscription: Subscription, publisher: Publisher, ports: Ports) -> _Before:
    """Those before a bill that were claimed or parked and never rated are rated first, as they will be."""
    unrated: list[Bill] = []
    previous = ports.store.bill_before(bill.subscription, bill.edge)
    while previous is not None and _unrated(previous, ports):
        unrated.append(previous)
        previous = ports.store.bill_before(previous.subscription, previous.edge)
    found = _Before(previous, [])
    for each in reversed(unrated):
        found.waits = found.waits or each.status == "parked"
        lines, _ = _rated(each, subscription, publisher, found, ports)
        found.imagined += [lines] if lines is not None else []
        found.previous = replace(each, subtotal=lines.subtotal if lines is not None else 0)
    return found


def _unrated(bill: Bill, ports: Ports) -> bool:
    return bill.status in ("claimed", "parked") and ports.store.lines(bill.subscription, bill.edge) is None


def _open(run: Run, bill_id: str, ports: Ports) -> Iterator[RunResult]:
    """What a bill that was begun and is not sent comes to: being worked on, or waiting for a person."""
    sub, edge = split_bill_id(bill_id)
    bill, subscription = ports.store.bill(sub, edge), ports.store.subscription(sub)
    publisher = ports.store.publisher(bill.publisher) if bill is not None else None
    if bill is None or subscription is None or publisher is None or bill.due_scope != run.scope:
        return
    if bill.status in OPEN:
        yield _result(run, bill, subscription, publisher, _before(bill, subscription, publisher, ports), ports)[0]


def _rated(
    bill: Bill, subscription: Subscription, publisher: Publisher, before: _Before, ports: Ports
) -> tuple[BillLines | None, str]:
    """Its frozen lines, or what they would be; or why they cannot be told."""
    stored = ports.store.lines(bill.subscription, bill.edge) if bill.rev else None
    if stored is not None:
        return stored, ""
    try:
        return ports.rate(before.imagined)(bill, subscription, publisher, before.previous), ""
    except Refusal as refused:
        return None, refused.code
    except (ValueError, LookupError, ArithmeticError) as failed:
        return None, type(failed).__name__


def _result(
    run: Run, bill: Bill, subscription: Subscription, publisher: Publisher, before: _Before, ports: Ports
) -> tuple[RunResult, BillLines | None]:
    last = before.previous.subtotal if before.previous is not None else None
    lines, reason = _rated(bill, subscription, publisher, before, ports)
    amount, count, outcome = 0, 0, "failed"
    if lines is not None:
        amount, count = lines.subtotal, len(lines.lines)
        outcome, reason = _outcome(replace(bill, subtotal=amount), before, publisher, ports)
    exponent = currency_of(bill.currency).exponent if bill.currency else 2
    result = RunResult(
        run=run.id,
        publisher=bill.publisher,
        subscription=bill.subscription,
        subscriber=bill.subscriber,
        edge=bill.edge,
        currency=bill.currency,
        amount=amount,
        last=last,
        lines=count,
        outcome=outcome,
        reason=reason,
        rank=rank_of(amount, last, outcome, exponent),
    )
    return result, lines


def _outcome(bill: Bill, before: _Before, publisher: Publisher, ports: Ports) -> tuple[str, str]:
    """What would become of a rated bill: sent, empty, held, or parked before Stripe hears of it."""
    if bill.status in ("parked", "held"):
        return bill.status, bill.reason
    if before.waits:
        return "parked", PREVIOUS_OPEN
    if bill.subtotal == 0:
        return "empty", ""
    held = None if bill.approved else held_for(bill, before.previous, publisher, ports.store.bill_before)
    if held is not None:
        return "held", held
    link = publisher.stripe
    if publisher.status != "enabled" or link is None or link.deauthorized_at is not None:
        return "parked", "account_unreachable"
    if not link.charges_enabled:
        return "parked", "account_restricted"
    subscriber = ports.store.subscriber(bill.publisher, bill.subscriber)
    if subscriber is None or subscriber.customer(link.account) is None:
        return "parked", "customer_missing"
    return "bill", ""


# ---- progress ----


def visible(who: Who, run_id: str, ports: Ports) -> Run:
    """A run the caller may see: an operator every one, a publisher its own. NotFound `unknown_run`."""
    run = ports.runs.run(run_id)
    if run is None or not (who.operator or run.publisher == who.organization):
        raise NotFound("unknown_run", "There is no such run.")
    return run


def progress(run: Run, now: datetime, ports: Ports) -> tuple[Run, Progress]:
    """Where a run stands, added up from its parts; nothing is written."""
    if run.kind == "dry":
        parts = ports.runs.parts(run.id) if run.status == "running" else ()
        whole = _summed(run, parts) if run.status == "running" else run
        done = sum(part.done for part in parts) if run.status == "running" else running.SHARDS
        seconds = max(1.0, ((run.finished_at or now) - run.created_at).total_seconds())
        pace = whole.found / seconds if whole.found else None
        left = int(seconds * (running.SHARDS - done) / done) if done else None
        known = Progress(
            found=whole.found,
            counts=whole.counts,
            amounts=whole.amounts,
            last=whole.last,
            left=None,
            per_second=pace,
            seconds_left=0 if run.status == "finished" else left,
            parts_done=done,
        )
        return whole, known
    return _real_progress(run, now, ports)


def _real_progress(run: Run, now: datetime, ports: Ports) -> tuple[Run, Progress]:
    totals, updated = ports.runs.tallied(run.id)
    settled_count = sum(totals.counts.values())
    seconds = max(1.0, ((updated or run.created_at) - run.created_at).total_seconds())
    pace = settled_count / seconds if settled_count else None
    left = 0
    if run.status == "running":
        left = sum(
            ports.runs.due_count(shard, now, run.scope) + ports.runs.worked_on(shard, now, now + WORKED_ON, run.scope)
            for shard in range(running.SHARDS)
        )
    known = Progress(
        found=settled_count + left,
        counts=totals.counts,
        amounts=totals.amounts,
        last={},
        left=left,
        per_second=pace,
        seconds_left=int(left / pace) if pace and left else (0 if left == 0 else None),
    )
    return run, known


# ---- real runs ----


def at_tick(now: datetime, ports: Ports, scope: str = "") -> str:
    """The real run that what is found now belongs to; none where nothing is due.

    A run begins with the first tick that finds something and ends with the first that finds nothing left: nothing due,
    and no bill that a worker is on or that waits for its place. Its closing is the last change of its item: whoever
    listens to changes hears of it once.
    """
    due = any(ports.runs.any_due(shard, now, scope) for shard in range(running.SHARDS))
    run = ports.runs.open_run(scope)
    if run is None:
        if not due:
            return ""
        begun = Run(id=ports.ids.new("run", now), kind="real", scope=scope, through=now, created_at=now)
        try:
            return ports.runs.begin(begun).id
        except PreconditionFailed:
            other = ports.runs.open_run(scope)
            return other.id if other is not None else ""
    until = now + WORKED_ON
    if due or any(ports.runs.worked_on(shard, now, until, scope) for shard in range(running.SHARDS)):
        return run.id
    totals, updated = ports.runs.tallied(run.id)
    ports.runs.finish(
        replace(
            run,
            status="finished",
            found=sum(totals.counts.values()),
            counts=dict(totals.counts),
            amounts=dict(totals.amounts),
            through=now,
            finished_at=updated or now,
        )
    )
    return ""


class Worked(Protocol):
    """What a message led to."""

    @property
    def outcome(self) -> str: ...
    @property
    def amount(self) -> int: ...
    @property
    def currency(self) -> str: ...


def tell(done: Sequence[tuple[str, Worked]], number: int, now: datetime, ports: Callable[[], Ports]) -> None:
    """Add what a batch of messages led to to the runs they belong to: one write a batch, spread over many items.

    What led to nothing (held, done by another, not due any more) is still to be done, or was counted where it was done.
    For watching, not for accounting: a batch that is lost between its work and this is not in it.
    """
    by_run: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for run, worked in done:
        if worked.outcome not in SETTLED:
            continue
        counts, amounts = by_run.setdefault(run, ({}, {}))
        add(counts, {worked.outcome: 1})
        if worked.currency:
            add(amounts, {worked.currency: worked.amount})
    for run, (counts, amounts) in by_run.items():
        ports().runs.tally(run, number, counts, amounts, now)


# ---- hold and release ----


def hold(who: Who, publisher: str, reason: str, now: datetime, ports: Ports) -> None:
    """Pause billing of one publisher, or (empty, operators alone) of everybody. Again: the same hold goes on."""
    if not publisher:
        entry = _entry(who, "", "billing.hold", "*", now, ports.ids, after={"reason": reason})
        ports.runs.set_hold(Hold(by=who.user, reason=reason, since=now), entry)
        return
    seller = _publisher(publisher, ports)
    if seller.held_at is not None and (seller.held_by_operator or not who.operator):
        return
    entry = _entry(who, publisher, "billing.hold", publisher, now, ports.ids, after={"reason": reason})
    ports.runs.save_publisher(replace(seller, held_at=now, held_reason=reason, held_by_operator=who.operator), entry)


def release(who: Who, publisher: str, now: datetime, ports: Ports) -> None:
    """Let billing go on: what is due is enqueued at once. Forbidden `held_by_operator` for a publisher."""
    if not publisher:
        entry = _entry(who, "", "billing.release", "*", now, ports.ids)
        ports.runs.set_hold(None, entry)
        messages = [*running.shards(at_tick(now, ports)), *scope_messages(ports)]
        scopes = ("", *ports.runs.scopes())
    else:
        seller = _publisher(publisher, ports)
        if seller.held_by_operator and not who.operator:
            raise Forbidden("held_by_operator", "The operator of the platform holds this billing.")
        if seller.held_at is not None:
            entry = _entry(who, publisher, "billing.release", publisher, now, ports.ids)
            after = replace(seller, held_at=None, held_reason="", held_by_operator=False)
            ports.runs.save_publisher(after, entry)
        scopes = (scope_of(seller),)
        messages = [_scope_message(seller.id)] if seller.sandbox else running.shards(at_tick(now, ports))
    for scope in scopes:
        ports.runs.forget_leases(range(running.SHARDS), scope)
    _enqueue(messages, ports.queue)


# ---- parked and held bills ----


def release_bill(who: Who, bill: Bill, now: datetime, ports: Ports) -> Bill:
    """Let a parked or held bill go on: a held one is approved; both are enqueued. IllegalMove in any other state.

    Where counter and ledger disagreed, the ledger is what is true, and to say so is the operator's: Forbidden
    `missing_role` for anybody else.
    """
    disagreed = bill.status == "parked" and bill.reason == LedgerMismatch.code
    if disagreed and not who.operator:
        raise Forbidden("missing_role", "Counters are made anew from the ledger by an operator alone.")
    after = replace(
        bill,
        status=states.BILL.move(bill.status, "release"),
        reason=RELEASED,
        approved=bill.approved or bill.status == "held",  # what was parked is not yet looked at for its amount
        recount=bill.recount or disagreed,
        # Stripe keeps what it answered: a refusal would be told again under the same key.
        attempt=bill.attempt + (bill.status == "parked"),
        next_at=to_the_second(now),
    )
    entry = _entry(
        who,
        bill.publisher,
        "bill.release",
        bill.id,
        now,
        ports.ids,
        before={"status": bill.status, "reason": bill.reason},
        after={"status": after.status},
    )
    kept = ports.runs.settle_bill(after, entry)
    ports.queue.send({"kind": "bill", "id": bill.id}, group=bill.publisher)
    return kept


def waive_bill(who: Who, bill: Bill, reason: str, now: datetime, ports: Ports) -> Bill:
    """Let a parked or held bill go: it is never sent, and the draft that it may have at Stripe is deleted.

    Conflict `invoice_finalized` where the invoice is there to be paid: who waived the bill would leave it so.
    """
    after = replace(bill, status=states.BILL.move(bill.status, "waive"), reason=reason, next_at=None)
    if bill.invoice is not None:
        _drop(bill, bill.invoice, ports)
    entry = _entry(
        who,
        bill.publisher,
        "bill.waive",
        bill.id,
        now,
        ports.ids,
        before={"status": bill.status, "reason": bill.reason, "subtotal": str(bill.subtotal)},
        after={"status": after.status, "reason": reason},
    )
    kept = ports.runs.settle_bill(after, entry)
    if following := let_follow(replace(kept, next_at=to_the_second(now)), ports.store):
        ports.queue.send({"kind": "bill", "id": following.id}, group=following.publisher)
    return kept


def _drop(bill: Bill, invoice: str, ports: Ports) -> None:
    """Delete the draft; one that is gone, was voided, or lies on an account that left us cannot be paid."""
    try:
        status = ports.invoices().retrieve(bill.account, invoice).status
        if status == "draft":
            ports.invoices().delete_draft(bill.account, invoice)
            return
    except (NotFound, AccountUnreachable):
        return
    except ProviderRefused:  # a worker that had stalled finalized it in between
        status = "open"
    if status != "void":
        raise Conflict(
            "invoice_finalized",
            "Its invoice is finalized at Stripe. Release the bill, which records it; then void or credit the invoice.",
            invoice=invoice,
        )


# ---- a sandbox's own clock ----


def move_clock(who: Who, publisher: str, to: datetime, now: datetime, ports: Ports) -> Publisher:
    """Move a sandbox publisher's clock forward; what becomes due is billed at once.

    Conflict `not_a_sandbox`, `clock_goes_forward`; Invalid `too_far`.
    """
    seller = _publisher(publisher, ports)
    if not seller.sandbox:
        raise Conflict("not_a_sandbox", "Only a sandbox publisher has a clock of its own.")
    offset = int((to - now).total_seconds())
    if offset < seller.clock_offset_seconds:
        raise Conflict("clock_goes_forward", "A clock is moved forward only.", now=time_of(seller, now).isoformat())
    if offset > MOST_AHEAD.total_seconds():
        raise Invalid("too_far", f"A clock is at most {MOST_AHEAD.days} days ahead.")
    after = replace(seller, clock_offset_seconds=offset)
    entry = _entry(who, publisher, "clock.move", publisher, now, ports.ids, after={"to": to.isoformat()})
    kept = ports.runs.save_publisher(after, entry)
    ports.runs.forget_leases(range(running.SHARDS), publisher)
    _enqueue([_scope_message(publisher)], ports.queue)
    return kept


def scope_messages(ports: Ports) -> list[tuple[Mapping[str, object], str]]:
    """One message for each sandbox."""
    return [_scope_message(pub) for pub in ports.runs.scopes()]


def _scope_message(pub: str) -> tuple[Mapping[str, object], str]:
    return {"kind": "scope", "scope": pub}, pub


# ---- what if ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`terms` (or version `number`, or the plan's draft) over the usage of a month `yyyy-mm` of those on `version`.

    `subscription` asks for one alone.
    """

    publisher: str
    plan: str
    month: str
    number: int | None = None
    terms: PlanTerms | None = None
    version: int | None = None
    subscription: str | None = None


def what_if(
    question: Question,
    after: str | None,
    limit: int,
    catalog: Catalog,
    usage: counting.Usage,
    meters: Callable[[str], Mapping[int, str]],
) -> tuple[tuple[WhatIf, ...], str | None]:
    """Price what was really used, by day and meter, by other terms; both as a full month, so that they compare.

    What came late and what was corrected counts with the rest. NotFound `unknown_plan`, `no_draft`, `unknown_version`,
    `unknown_subscription`; Conflict `currency_differs`; Invalid for terms that no plan could have.
    """
    plan = catalog.plan(question.publisher, question.plan)
    if plan is None:
        raise NotFound("unknown_plan", "There is no such plan.")
    names = meters(question.publisher)
    terms = _terms(plan, question, names, catalog)
    start, end = bounds(question.month)
    if question.subscription is not None:
        one = catalog.subscription(question.subscription)
        if one is None or one.publisher != question.publisher:
            raise NotFound("unknown_subscription", "There is no such subscription.")
        found: tuple[Subscription, ...] = (one,)
        rest = None
    else:
        page = catalog.on_version(plan.id, question.version or plan.latest, after, limit)
        found, rest = page.items, page.after
    answers = []
    for each in found:
        span = in_force(each, end - timedelta(seconds=1))
        held = catalog.version(span.plan, span.version) if span and span.plan and span.version else None
        if held is not None and held.terms.currency != terms.currency:
            raise Conflict("currency_differs", "The two are not in the same currency.")
        used = _used(each, start.date(), (end - timedelta(days=1)).date(), names, usage)
        answers.append(_compared(each, held, terms, used, Period(start, end)))
    return tuple(answers), rest


def _used(
    subscription: Subscription, first: date, last: date, names: Mapping[int, str], usage: counting.Usage
) -> UsageByDay:
    """What its counters say; with late entries or corrections, each distinct event of the ledger."""
    shards = rating_bills.shards_of(subscription)
    late = [entry.ref for entry in usage.late_entries(subscription.id, first, last)]
    if late:
        return counting.exact_usage(subscription.id, first, last, shards, names, usage, late).quantities
    used: dict[str, dict[date, int]] = {}
    for (day, short), quantity in usage.counters(subscription.id, first, last, shards).totals.items():
        if short in names and quantity > 0:
            used.setdefault(names[short], {})[day] = quantity
    return used


def _compared(
    subscription: Subscription, held: PlanVersion | None, terms: PlanTerms, used: UsageByDay, period: Period
) -> WhatIf:
    return WhatIf(
        subscription=subscription.id,
        subscriber=subscription.subscriber,
        currency=terms.currency,
        version=held.number if held is not None else 0,
        now=preview(held.terms, used, period).subtotal if held is not None else 0,
        then=preview(terms, used, period).subtotal,
        usage=tuple((meter, sum(days.values())) for meter, days in sorted(used.items())),
    )


def _terms(plan: Plan, question: Question, names: Mapping[int, str], catalog: Catalog) -> PlanTerms:
    if question.terms is not None:
        validate_terms(question.terms, set(names.values()))
        return question.terms
    if question.number is None:
        if plan.draft is None:
            raise NotFound("no_draft", "The plan has no draft.")
        return plan.draft
    version = catalog.version(plan.id, question.number)
    if version is None:
        raise NotFound("unknown_version", "The plan has no such version.")
    return version.terms


def _publisher(pub: str, ports: Ports) -> Publisher:
    found = ports.store.publisher(pub)
    if found is None:
        raise NotFound("unknown_publisher", "There is no such publisher.")
    return found


def _entry(who: Who, publisher: str, action: str, target: str, now: datetime, ids: Ids, **changes: Any) -> AuditEntry:
    return AuditEntry(
        id=ids.new("aud", now),
        publisher=publisher or who.organization,
        at=now,
        actor=who.user,
        organization=who.organization,
        action=action,
        target=target,
        **changes,
    )
