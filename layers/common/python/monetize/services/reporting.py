"""What publishers ask of their money: revenue, recurring revenue, churn, usage, what is unpaid; and lists of invoices.

A report over many invoices or subscriptions is counted in steps that each fit a request: every call adds the next part
to the stored snapshot and says whether it is complete. So no size of publisher is too large, and nothing but the
report itself is written: no counter that the billing run would have to keep.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.collecting import HeldInvoice
from monetize.domain.errors import AccountUnreachable, Invalid, NotFound, ProviderBusy, ProviderRefused
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.meters import Meter
from monetize.domain.money import split
from monetize.domain.offers import time_of
from monetize.domain.periods import midnight
from monetize.domain.plans import PlanTerms, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.reports import OWED, Links, Snapshot, Top, age_bucket, committed, revenue_of
from monetize.domain.subscriptions import PAUSED, Subscription, timeline
from monetize.domain.usage import Counters, LateEntry, last_day
from monetize.services.billing import invoice_id

PAGE: Final = 100
BUDGET: Final = 4_000  # invoices or subscriptions read in one request: about five seconds
FINISHED: Final = 10  # what asking for a finished report takes of it
SCANNED: Final = 1_000  # looked at for one page of a filtered list
SCANNED_LINES: Final = 200  # the same where each is read with its lines
UNFINISHED_LIFE: Final = timedelta(hours=6)  # a large one is counted to its end, not begun anew each hour
OF_ALL: Final = 2_000  # publishers in one item: about a third of what it holds
AGING_MONTHS: Final = 13
PARTITIONS: Final = 1_000  # of usage, read in one request
TOP: Final = 2_000  # subscribers kept by a usage snapshot, all meters together
LEAST_TOP: Final = 100  # and of one meter


class Page[T](Protocol):
    """Some of a list, and the position after it."""

    @property
    def items(self) -> tuple[T, ...]: ...
    @property
    def after(self) -> str | None: ...


class Store(Protocol):
    """What is stored."""

    def publisher(self, pub: str) -> Publisher | None: ...
    def invoice(self, inv: str) -> Invoice | None: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def subscription(self, sub: str) -> Subscription | None: ...
    def version(self, plan: str, number: int) -> PlanVersion | None: ...
    def meters(self, pub: str) -> tuple[Meter, ...]: ...
    def names(self, pub: str) -> Mapping[str, str]: ...
    def invoices(self, pub: str, month: str, after: str | None, limit: int) -> Page[Invoice]: ...
    def bills_of(self, sub: str, after: str | None, limit: int) -> Page[Bill]: ...
    def many_invoices(self, ids: Sequence[str]) -> tuple[Invoice, ...]: ...
    def many_lines(self, of: Sequence[tuple[str, datetime]]) -> tuple[BillLines, ...]: ...
    def many_subscriptions(self, ids: Sequence[str]) -> tuple[Subscription, ...]: ...
    def subscriptions(self, pub: str, after: str | None, limit: int) -> Page[Subscription]: ...
    def subscriptions_of(self, pub: str, subr: str, after: str | None, limit: int) -> Page[Subscription]: ...
    def audit(self, pub: str, month: str, after: str | None, limit: int) -> Page[AuditEntry]: ...
    def sellers(self) -> tuple[str, ...]: ...
    def snapshot(self, pub: str, name: str) -> Snapshot | None: ...
    def keep(self, snapshot: Snapshot, now: datetime) -> bool: ...


class Usage(Protocol):
    """Live totals. Days are UTC, both ends included."""

    def counters(
        self, subscription: str, first: date, last: date, shards: Callable[[str], int], *, sandbox: bool = False
    ) -> Counters: ...
    def late_entries(self, subscription: str, first: date, last: date) -> tuple[LateEntry, ...]: ...


class AtStripe(Protocol):
    """Invoices as Stripe holds them now."""

    def retrieve(self, account: str, invoice: str) -> HeldInvoice: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What reports work with. Stripe's client is made when a link is asked for, and not before."""

    store: Store
    usage: Usage
    invoices: Callable[[], AtStripe]


# ---- invoices ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which invoices. Of one side: `publisher` sees its own, `subscriber` its own at that publisher."""

    publisher: str
    subscriber: str | None = None
    subscription: str | None = None
    month: str | None = None  # of issue, yyyy-mm
    status: str | None = None
    plan: str | None = None  # that one of its lines charges

    def lets(self, invoice: Invoice) -> bool:
        """Whether an invoice is wanted; whose it is is always asked."""
        return (
            invoice.publisher == self.publisher
            and self.subscriber in (None, invoice.subscriber)
            and self.subscription in (None, invoice.subscription)
            and self.month in (None, f"{invoice.issued_at:%Y-%m}")
            and self.status in (None, invoice.status)
        )


@dataclass(frozen=True, slots=True)
class Found[T]:
    """Some of a list, and the position it goes on at."""

    items: tuple[T, ...]
    after: str | None


def invoices(wanted: Filter, after: str | None, limit: int, store: Store) -> Found[Invoice]:
    """Invoices that match, some of them. A page may be short although more follow: go on until there is no position.

    One subscription's are newest first; a publisher's month in order of issue; a subscriber's by subscription.
    """
    if wanted.subscription is not None:
        source = _of_subscription(wanted.subscription, store)
    elif wanted.subscriber is not None:
        source = _of_subscriber(wanted, store)
    else:
        source = _of_publisher(wanted, store)
    found: list[Invoice] = []
    for seen, (position, invoice) in enumerate(source(after), start=1):
        if invoice is not None and wanted.lets(invoice) and _charges(invoice, wanted.plan, store):
            found.append(invoice)
        if len(found) >= limit or seen >= (SCANNED if wanted.plan is None else SCANNED_LINES):
            return Found(tuple(found), position)
    return Found(tuple(found), None)


def _charges(invoice: Invoice, plan: str | None, store: Store) -> bool:
    """Whether it has a line of a plan: what it really charges, whatever its subscription pays by since."""
    if plan is None:
        return True
    content = store.lines(invoice.subscription, invoice.edge)
    return content is not None and any(line.plan == plan and line.amount for line in content.lines)


type _Source = Callable[[str | None], Iterator[tuple[str, Invoice | None]]]


def _of_publisher(wanted: Filter, store: Store) -> _Source:
    month = wanted.month or ""

    def each(after: str | None) -> Iterator[tuple[str, Invoice | None]]:
        while True:
            page = store.invoices(wanted.publisher, month, after, PAGE)
            for invoice in page.items:
                yield f"{_stamp(invoice.issued_at)}#{invoice.id}", invoice
            after = page.after
            if after is None:
                return

    return each


def _of_subscription(sub: str, store: Store) -> _Source:
    """By its bills: an invoice's id follows from its bill's."""

    def each(after: str | None) -> Iterator[tuple[str, Invoice | None]]:
        while True:
            page = store.bills_of(sub, after, PAGE)
            held = {invoice.id: invoice for invoice in store.many_invoices([invoice_id(bill) for bill in page.items])}
            for bill in page.items:
                yield f"BILL#{_stamp(bill.edge)}", held.get(invoice_id(bill))
            after = page.after
            if after is None:
                return

    return each


def _of_subscriber(wanted: Filter, store: Store) -> _Source:
    """Subscription by subscription: a subscriber has few."""

    def each(after: str | None) -> Iterator[tuple[str, Invoice | None]]:
        begun, _, place = (after or "").partition("|")
        listed = None
        while True:
            page = store.subscriptions_of(wanted.publisher, wanted.subscriber or "", listed, PAGE)
            for subscription in page.items:
                if subscription.id < begun:
                    continue
                inner = place or None if subscription.id == begun else None
                for position, invoice in _of_subscription(subscription.id, store)(inner):
                    yield f"{subscription.id}|{position}", invoice
            listed = page.after
            if listed is None:
                return

    return each


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who asks for an invoice: an organization, and what the person may see of it."""

    organization: str
    sells: bool  # its side as a publisher
    buys: bool  # its side as a subscriber
    operates: bool = False

    def publishes(self, invoice: Invoice) -> bool:
        """Whether it is shown as the publisher sees it."""
        return self.operates or (self.sells and self.organization == invoice.publisher)


def visible(inv: str, reader: Reader, store: Store) -> Invoice:
    """An invoice of the reader's, as its publisher or its subscriber. NotFound `unknown_invoice`."""
    found = store.invoice(inv)
    if found is not None and (reader.publishes(found) or (reader.buys and reader.organization == found.subscriber)):
        return found
    raise NotFound("unknown_invoice", "There is no such invoice.")


def links(invoice: Invoice, ports: Ports) -> Links:
    """Where the invoice is shown and downloaded, asked of Stripe now; unavailable where Stripe does not answer."""
    try:
        held = ports.invoices().retrieve(invoice.account, invoice.stripe_id)
    except (ProviderBusy, ProviderRefused, AccountUnreachable, NotFound):
        return Links(available=False)
    return Links(held.hosted_url, held.pdf_url)


# ---- snapshots ----


@dataclass(frozen=True, slots=True)
class Step[T]:
    """How a report is counted: where its things come from, page by page, and what each page adds.

    A page that is not ready yet is None: another request goes on there.
    """

    page: Callable[[str | None], tuple[Sequence[T], str | None] | None]
    count: Callable[[Snapshot, Sequence[T]], None]
    cost: Callable[[Sequence[T]], int] = len  # what a page takes of the budget


def progress[T](
    publisher: str, name: str, as_of: datetime, step: Step[T], now: datetime, store: Store, budget: int = BUDGET
) -> Snapshot:
    """The snapshot of that name, some steps further; from the beginning when the one stored is of another instant."""
    stored = store.snapshot(publisher, name)
    begun = stored is not None and not stored.complete and now - stored.as_of < UNFINISHED_LIFE
    if stored is not None and (stored.as_of == as_of or begun):
        if stored.complete:
            return stored
        snapshot = stored
    else:
        snapshot = Snapshot(publisher=publisher, name=name, as_of=as_of, rev=stored.rev if stored else 0)
    read = 0
    while True:
        found = step.page(snapshot.after)
        if found is None:
            break
        things, after = found
        step.count(snapshot, things)
        read += step.cost(things)
        snapshot = replace(snapshot, after=after, seen=snapshot.seen + len(things), complete=after is None)
        if snapshot.complete or read >= budget:
            break
    if not store.keep(snapshot, now):
        # Another request took the same steps from the same place: what it stored is as good as ours.
        return store.snapshot(publisher, name) or snapshot
    return snapshot


def month_of(text: str | None, now: datetime) -> str:
    """A month `yyyy-mm`, this one by default. Invalid `bad_month`."""
    if text is None:
        return f"{now:%Y-%m}"
    try:
        return f"{datetime.strptime(text, '%Y-%m').replace(tzinfo=UTC):%Y-%m}"
    except ValueError:
        raise Invalid("bad_month", "A month is yyyy-mm.") from None


def own_time(publisher: str, now: datetime, ports: Ports) -> datetime:
    """When it is for a publisher: a sandbox's subscriptions begin, pay and end by its own clock."""
    seller = ports.store.publisher(publisher)
    return now if seller is None else time_of(seller, now)


def _as_of(now: datetime) -> datetime:
    """Snapshots change by the hour: invoices of a month are paid and credited long after it."""
    return now.replace(minute=0, second=0, microsecond=0)


def revenue(publisher: str, month: str, now: datetime, ports: Ports) -> Snapshot:
    """Invoices of one month of issue. Dimensions `day`, `plan`, `api`, `total`.

    What each measure means is `domain.reports.revenue_of`.
    """
    store = ports.store

    def page(after: str | None) -> tuple[Sequence[Invoice], str | None]:
        found = store.invoices(publisher, month, after, PAGE)
        return found.items, found.after

    def count(snapshot: Snapshot, things: Sequence[Invoice]) -> None:
        held = {
            (each.subscription, each.edge): each
            for each in store.many_lines([(i.subscription, i.edge) for i in things])
        }
        subscriptions = {each.id: each for each in store.many_subscriptions([i.subscription for i in things])}
        for invoice in things:
            count_revenue(
                snapshot,
                invoice,
                held.get((invoice.subscription, invoice.edge)),
                subscriptions.get(invoice.subscription),
            )

    return progress(publisher, f"revenue#{month}", _as_of(now), Step(page, count), now, store)


def revenue_of_all(month: str, now: datetime, ports: Ports) -> Snapshot:
    """The same for everybody, one after the other: what each publisher's own report says. Dimension `publisher`.

    Kept in parts of some publishers, as many as there are: one item does not hold them all.
    """
    store, sellers, spent = ports.store, ports.store.sellers(), 0
    chunks = [sellers[at : at + OF_ALL] for at in range(0, len(sellers), OF_ALL)] or [()]
    names = [f"revenue#{month}" + (f"#{number}" if number else "") for number in range(len(chunks))]

    def count(snapshot: Snapshot, things: Sequence[Snapshot]) -> None:
        for theirs in things:
            for (currency,), measures in theirs.rows("total"):
                for measure, value in measures.items():
                    snapshot.add("publisher", (theirs.publisher, currency), measure, value)

    as_of = _begun_at(names, now, store)
    whole = Snapshot(publisher="", name=names[0], as_of=as_of)
    for name, chunk in zip(names, chunks, strict=True):

        def page(after: str | None, chunk: Sequence[str] = chunk) -> tuple[Sequence[Snapshot], str | None] | None:
            nonlocal spent
            following = next((each for each in chunk if each > (after or "")), None)
            if following is None:
                return (), None
            if spent >= BUDGET:
                return None
            before = store.snapshot(following, f"revenue#{month}")
            theirs = revenue(following, month, now, ports)
            known = before.seen if before is not None and before.as_of == theirs.as_of else 0
            spent += FINISHED + theirs.seen - known
            return ((theirs,), following) if theirs.complete else None

        part = progress("", name, as_of, Step(page, count), now, store)
        # Who moved to the next part, because somebody came before, is in both: the same.
        whole.groups.setdefault("publisher", {}).update(part.groups.get("publisher", {}))
        whole = replace(whole, as_of=part.as_of, seen=whole.seen + part.seen, complete=part.complete)
        if not part.complete:
            break
    return whole


def _begun_at(names: Sequence[str], now: datetime, store: Store) -> datetime:
    """As of when parts are counted: the first one's instant until the last one is done, however many hours it takes."""
    first, last = store.snapshot("", names[0]), store.snapshot("", names[-1])
    if first is None or now - first.as_of >= UNFINISHED_LIFE:
        return _as_of(now)
    done = last is not None and last.complete and last.as_of == first.as_of
    return _as_of(now) if done else first.as_of


def count_revenue(
    snapshot: Snapshot, invoice: Invoice, lines: BillLines | None, subscription: Subscription | None
) -> None:
    """Add one invoice. Pure but for the snapshot. Each of its plans gets its lines' share: the parts make the whole."""
    currency, counted = invoice.currency, revenue_of(invoice)
    keys = {
        "total": (),
        "day": (f"{invoice.issued_at:%Y-%m-%d}",),
        "api": (subscription.product if subscription is not None else "",),
    }
    for dimension, key in keys.items():
        for measure, value in {"invoices": 1, **counted}.items():
            snapshot.add(dimension, (*key, currency), measure, value)
    by_plan: dict[str, int] = {}
    for line in lines.lines if lines is not None else ():
        if line.amount:
            by_plan[line.plan] = by_plan.get(line.plan, 0) + line.amount
    plans = by_plan or {"": 1}
    for plan in plans:
        snapshot.add("plan", (plan, currency), "invoices", 1)
    for measure, value in counted.items():
        for plan, part in zip(plans, split(value, list(plans.values())), strict=True):
            snapshot.add("plan", (plan, currency), measure, part)


def subscriptions(publisher: str, month: str, now: datetime, ports: Ports) -> Snapshot:
    """Commercial subscriptions at the end of a month (or now): recurring revenue by plan, and who came and went."""
    store = ports.store
    start, end = bounds(month)
    versions: dict[tuple[str, int], PlanTerms | None] = {}

    def terms(plan: str | None, number: int | None) -> PlanTerms | None:
        if plan is None or number is None:
            return None
        if (plan, number) not in versions:
            found = store.version(plan, number)
            versions[plan, number] = found.terms if found is not None else None
        return versions[plan, number]

    def page(after: str | None) -> tuple[Sequence[Subscription], str | None]:
        found = store.subscriptions(publisher, after, PAGE)
        return found.items, found.after

    def count(snapshot: Snapshot, things: Sequence[Subscription]) -> None:
        # As of the snapshot's own instant, however many requests it takes; nothing is known of a time to come.
        at = min(end, snapshot.as_of)
        for each in things:
            count_subscription(snapshot, each, min(start, at), at, terms)

    return progress(publisher, f"subscriptions#{month}", _as_of(now), Step(page, count), now, store)


def bounds(month: str) -> tuple[datetime, datetime]:
    """A month's first instant and the first one after it."""
    return midnight(date.fromisoformat(f"{month}-01")), midnight(last_day(month) + timedelta(days=1))


def count_subscription(
    snapshot: Snapshot,
    subscription: Subscription,
    start: datetime,
    at: datetime,
    terms: Callable[[str | None, int | None], PlanTerms | None],
) -> None:
    """Add one subscription: what it comes to in a year at `at`, and whether it was a paying one at `start` and `at`."""
    then, now = _standing(subscription, start, terms), _standing(subscription, at, terms)
    currency = (subscription.currency,)
    if now is not None and now.plan is not None:
        of_plan = (now.plan, str(now.version), subscription.currency)
        snapshot.add("plan", of_plan, "subscriptions", 1)
        snapshot.add("plan", of_plan, "yearly", now.yearly)
    if then is not None:
        snapshot.add("churn", currency, "at_start", 1)
        snapshot.add("churn", currency, "yearly_at_start", then.yearly)
    if now is not None:
        snapshot.add("churn", currency, "at_end", 1)
    if then is not None and now is None:
        snapshot.add("churn", currency, "lost", 1)
        snapshot.add("churn", currency, "yearly_lost", then.yearly)
        snapshot.add("lost", (subscription.currency, _why_lost(subscription, at)), "lost", 1)
    if then is None and now is not None:
        snapshot.add("churn", currency, "won", 1)
        snapshot.add("churn", currency, "yearly_won", now.yearly)
    if then is not None and now is not None and then.yearly != now.yearly:
        measure = "yearly_gained" if now.yearly > then.yearly else "yearly_reduced"
        snapshot.add("churn", currency, measure, abs(now.yearly - then.yearly))


@dataclass(frozen=True, slots=True)
class _Standing:
    """A paying subscription at an instant: what it comes to in a year; nothing, and of no plan, while it is paused."""

    yearly: int
    plan: str | None = None
    version: int | None = None


def _standing(
    subscription: Subscription, at: datetime, terms: Callable[[str | None, int | None], PlanTerms | None]
) -> _Standing | None:
    """None before it first pays, on a free tier and from its end on; an order not paid yet has not begun."""
    if subscription.activated_at is None or subscription.activated_at > at:
        return None
    if subscription.end is not None and subscription.end <= at:
        return None
    line = [span for span in timeline(subscription) if span.start <= at]
    if not any(span.paid for span in line):
        return None
    if line[-1].kind == PAUSED:
        return _Standing(0)
    if not line[-1].paid:
        return None
    given = [each for each in subscription.discounts if not each.once and (each.given_at or at) <= at]
    yearly = committed(terms(line[-1].plan, line[-1].version), given)
    return _Standing(yearly, line[-1].plan, line[-1].version)


def _why_lost(subscription: Subscription, at: datetime) -> str:
    if subscription.end is None or subscription.end > at:
        return "free_tier"
    return subscription.end_reason or "ended"


def usage(publisher: str, month: str, now: datetime, ports: Ports, product: str | None = None) -> Snapshot:
    """Units by meter and day, and by subscriber; of one API's subscriptions alone where it is named.

    Of very many subscribers the ones with the least are let go, meter by meter: `let_go` is what they had then, so
    nobody used more than what is told of it and that. NotFound `unknown_product`.

    What came after its day was sealed is told apart, as it was received: only the bill that takes it knows what of it
    was there before.
    """
    store = ports.store
    if product is not None and product not in store.names(publisher):
        raise NotFound("unknown_product", "There is no such API.")
    names = {meter.short: meter.id for meter in store.meters(publisher)}
    first, last = date.fromisoformat(f"{month}-01"), last_day(month)

    def cost(things: Sequence[Subscription]) -> int:
        return sum(dict(each.shards).get(month, 1) + 1 for each in things if product in (None, each.product))

    def page(after: str | None) -> tuple[Sequence[Subscription], str | None]:
        found = store.subscriptions(publisher, after, PAGE)
        for read in range(1, len(found.items)):
            # One partition each: a page of what has many of them is cut, so that it is always read to its end.
            if cost(found.items[:read]) >= PARTITIONS:
                return found.items[:read], found.items[read - 1].id
        return found.items, found.after

    def count(snapshot: Snapshot, things: Sequence[Subscription]) -> None:
        for each in things:
            if product not in (None, each.product):
                continue
            shards = dict(each.shards)
            counted = ports.usage.counters(each.id, first, last, lambda m, of=shards: of.get(m, 1))  # type: ignore[misc]
            for (day, short), quantity in counted.totals.items():
                meter = names.get(short, str(short))
                snapshot.add("meter", (meter,), "quantity", quantity)
                snapshot.add("day", (meter, day.isoformat()), "quantity", quantity)
                snapshot.add("subscriber", (meter, each.subscriber), "quantity", quantity)
            for late in ports.usage.late_entries(each.id, first, last):
                for short, quantity in late.quantities.items():
                    snapshot.add("meter", (names.get(short, str(short)),), "late", quantity)
        trim(snapshot)

    name = f"usage#{month}" if product is None else f"usage#{month}#{product}"
    return progress(publisher, name, _as_of(now), Step(page, count, cost), now, store, PARTITIONS)


def trim(snapshot: Snapshot) -> None:
    """Keep each meter's largest consumers: as many as an item holds of all of them, and those that can be asked for."""
    kept = max(LEAST_TOP, TOP // max(1, len(snapshot.rows("meter"))))
    for meter, whose in _consumers(snapshot).items():
        for subscriber, quantity in whose[kept:]:
            snapshot.drop("subscriber", (meter, subscriber), "quantity")
            snapshot.add("meter", (meter,), "let_go", quantity)


def _consumers(snapshot: Snapshot) -> dict[str, list[tuple[str, int]]]:
    """Subscribers and quantities by meter, the largest first."""
    found: dict[str, list[tuple[str, int]]] = {}
    for (meter, subscriber), measures in snapshot.rows("subscriber"):
        found.setdefault(meter, []).append((subscriber, measures["quantity"]))
    return {meter: sorted(whose, key=lambda each: (-each[1], each[0])) for meter, whose in found.items()}


def aging(publisher: str, now: datetime, ports: Ports) -> Snapshot:
    """What is unpaid of the last 13 months' invoices, by how long it has been due: at once, or on the date it says."""
    store = ports.store
    at = _as_of(now)
    months = last_months(at, AGING_MONTHS)

    def page(after: str | None) -> tuple[Sequence[Invoice], str | None]:
        month, _, place = (after or f"{months[0]}|").partition("|")
        found = store.invoices(publisher, month, place or None, PAGE)
        if found.after is not None:
            return found.items, f"{month}|{found.after}"
        rest = [each for each in months if each > month]
        return found.items, f"{rest[0]}|" if rest else None

    def count(snapshot: Snapshot, things: Sequence[Invoice]) -> None:
        for invoice in things:
            if invoice.status not in OWED or invoice.amount_remaining <= 0:
                continue
            bucket = age_bucket((at - (invoice.payable_by or invoice.issued_at)).days)
            snapshot.add("age", (bucket, invoice.currency), "invoices", 1)
            snapshot.add("age", (bucket, invoice.currency), "outstanding", invoice.amount_remaining)

    return progress(publisher, "aging", at, Step(page, count), now, store)


def last_months(now: datetime, count: int) -> list[str]:
    """This month and those before it, oldest first."""
    index = now.year * 12 + now.month - 1
    return [f"{at // 12:04d}-{at % 12 + 1:02d}" for at in range(index - count + 1, index + 1)]


def top_subscribers(snapshot: Snapshot, count: int) -> tuple[Top, ...]:
    """By meter, who used most."""
    whose = _consumers(snapshot)
    return tuple(
        Top(
            meter=meter,
            total=measures.get("quantity", 0),
            late=measures.get("late", 0),
            let_go=measures.get("let_go", 0),
            subscribers=tuple(whose.get(meter, ())[:count]),
        )
        for (meter,), measures in snapshot.rows("meter")
    )
