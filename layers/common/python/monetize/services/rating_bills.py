"""What a bill is made of: the periods that closed and the one that starts, their prices, and their usage."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Protocol

from monetize.domain import rating
from monetize.domain.errors import NotFound
from monetize.domain.invoices import Bill, BillLines, Product
from monetize.domain.lines import LineKind
from monetize.domain.meters import Meter
from monetize.domain.periods import Period, midnight, nominal_period, utc_days
from monetize.domain.plans import PlanVersion, TaxBehavior
from monetize.domain.publishers import Publisher
from monetize.domain.rating import Adjustment, ApplicationFee, BillInput, Carried, Discount, Rated, Segment, UsageByDay
from monetize.domain.subscriptions import Segment as Stretch
from monetize.domain.subscriptions import Subscription, advance_period, in_force, segments, timeline
from monetize.domain.usage import CORRECTABLE_DAYS
from monetize.services import counting

# Lines of bills that what comes late may still correct; before the last bill, since that one took what had come.
LOOK_BACK = timedelta(days=CORRECTABLE_DAYS)
_GONE = ("waived", "void")
_LET_OFF = (*_GONE, "uncollectible")  # which may be paid one day after all: the credits in it stay where they are
_MONEY: Collection[LineKind] = ("carry", "proration_credit", "adjustment")  # credits that give back what was paid


@dataclass(frozen=True, slots=True)
class BilledUsage:
    """The ledger, as a bill asks it: days are UTC, both ends included; meters by id."""

    ledger: counting.Usage
    meters: Callable[[str], Sequence[Meter]]

    def seal(self, subscription: Subscription, first: date, through: date, now: datetime) -> counting.Totals:
        """Nothing is counted on those days any more; what their counters hold is exact, or LedgerMismatch."""
        shards = shards_of(subscription)
        self.ledger.seal(subscription.id, first, through, shards)
        totals = counting.settled(subscription.id, first, through, shards, now, self.ledger)[1]
        if totals is None:  # another worker settled the same days: it is done
            totals = dict(self.ledger.counters(subscription.id, first, through, shards).totals)
        return totals

    def exact(self, subscription: Subscription, first: date, last: date, late: Sequence[str]) -> UsageByDay:
        """Distinct events, read from the ledger itself, with those late entries."""
        names = self._names(subscription)
        shards = shards_of(subscription)
        return counting.exact_usage(subscription.id, first, last, shards, names, self.ledger, late).quantities

    def late(self, subscription: Subscription, first: date, last: date) -> Mapping[str, date]:
        """Late entries and corrections of those days: day by name."""
        return {entry.ref: entry.day for entry in self.ledger.late_entries(subscription.id, first, last)}

    def _names(self, subscription: Subscription) -> Mapping[int, str]:
        return {meter.short: meter.id for meter in self.meters(subscription.publisher)}


def counted(totals: counting.Totals, meters: Sequence[Meter], first: date, last: date) -> UsageByDay:
    """What counters say of some days, by meter's id."""
    names = {meter.short: meter.id for meter in meters}
    found: dict[str, dict[date, int]] = {}
    for (day, short), quantity in sorted(totals.items()):
        if quantity > 0 and short in names and first <= day <= last:  # corrections may bring a day below zero: zero
            found.setdefault(names[short], {})[day] = quantity
    return found


def shards_of(subscription: Subscription) -> Callable[[str], int]:
    """How many shards a month of its usage has."""
    counts = dict(subscription.shards)
    return lambda month: counts.get(month, 1)


class Store(Protocol):
    """What else it is made of."""

    def plan_version(self, plan: str, number: int) -> PlanVersion | None: ...
    def meters(self, pub: str, ids: Collection[str], numbers: Collection[int]) -> tuple[Meter, ...]: ...
    def rated_before(self, sub: str, edge: datetime, since: datetime) -> tuple[BillLines, ...]: ...
    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def bill(self, sub: str, edge: datetime) -> Bill | None: ...


@dataclass(frozen=True, slots=True)
class Rater:
    """Rates bills. `seal=False` changes nothing anywhere: for dry runs and for what is still running."""

    store: Store
    usage: BilledUsage
    seal: bool = True

    def __call__(
        self, bill: Bill, subscription: Subscription, publisher: Publisher, previous: Bill | None
    ) -> BillLines:
        """Seal what closed, read it exactly, and rate it together with what starts and with what came late."""
        closed = arrears_stretches(subscription, previous.edge if previous else None, bill.edge)
        sealed: counting.Totals | None = None
        if self.seal and closed:
            days = [day for stretch in closed for day in utc_days(Period(stretch.start, stretch.end))]
            sealed = self.usage.seal(subscription, min(days), max(days), bill.created_at)
        before = self.store.rated_before(subscription.id, bill.edge, previous.edge - LOOK_BACK) if previous else ()
        ahead = before[-1].ahead if before else ()
        parts = _Parts(self, subscription, publisher, sealed)
        arrears = tuple(parts.segment(stretch, ahead) for stretch in closed)
        adjustments, taken = self._adjustments(subscription, before, parts)
        starting = parts.starting(bill.edge)
        again, restored = parts.taken_again(before)
        rated = rating.rate(
            BillInput(
                currency=bill.currency,
                at=bill.edge,
                closed=arrears,
                starting=starting,
                adjustments=adjustments,
                carried=(*(before[-1].carried if before else ()), *again),
                discounts=discounts_of(bill),
                fee=ApplicationFee(percent=Decimal(publisher.fee_percent), fixed=publisher.fee_fixed),
            )
        )
        counted_now = (*arrears, *(each.segment for each in adjustments))
        lasting = tuple(each for each in ahead if not any(rating.given_back(segment, each) for segment in arrears))
        made = frozen(bill, rated, counted_now, lasting, taken, parts.products())
        takers = self._later(subscription, bill.edge) if rated.carried else set()
        return replace(
            made,
            carried=tuple(each for each in rated.carried if (each.tax_behavior, each.tax_code) in takers),
            returned=tuple(each for each in rated.carried if (each.tax_behavior, each.tax_code) not in takers),
            since=previous.edge if previous else None,
            restored=restored,
        )

    def _later(self, subscription: Subscription, edge: datetime) -> set[rating.TaxGroup]:
        """The tax treatments that bills after this one may charge, as far as is known: credit of another is given back.

        A pause ends with the plan it began with, so it is one that will be paid.
        """
        found: set[rating.TaxGroup] = set()
        for plan, number in paid_from(subscription, edge):
            version = self.store.plan_version(plan, number)
            if version is not None:
                found.add((version.terms.tax_behavior, version.terms.tax_code))
        return found

    def _adjustments(
        self, subscription: Subscription, before: Sequence[BillLines], parts: "_Parts"
    ) -> tuple[tuple[Adjustment, ...], tuple[str, ...]]:
        """Earlier segments that received usage after they were billed: all of it now, against what was billed."""
        if not before:
            return (), ()
        stretches = [stretch for each in before for stretch in arrears_stretches(subscription, each.since, each.edge)]
        if not stretches:
            return (), ()
        # Whole stretches: what is rated again is rated with all that came late for it, whoever took that.
        reached = [each for each in stretches if each.end > before[-1].edge - LOOK_BACK]
        if not reached:
            return (), ()
        known = self.usage.late(subscription, reached[0].start.date(), _last_day(reached[-1]))
        # What a bill took is what its frozen lines name: whoever rated it too and came second took nothing.
        mine = {ref: day for ref, day in known.items() if all(ref not in each.late for each in before)}
        touched = [
            stretch
            for stretch in reached
            if any(stretch.start.date() <= day <= _last_day(stretch) for day in mine.values())
        ]
        made = tuple(
            Adjustment(
                segment=parts.segment(stretch, self._ahead_into(subscription, before, stretch), known),
                billed=tuple(
                    parts.asked_for(each, line)
                    for each in before
                    for line in (*each.lines, *each.credits)
                    if line.segment == stretch.start
                ),
            )
            for stretch in touched
        )
        return made, tuple(sorted(mine))

    def _ahead_into(
        self, subscription: Subscription, before: Sequence[BillLines], stretch: Stretch
    ) -> tuple[rating.Ahead, ...]:
        """What had been charged in advance when the stretch began; its bill may be older than those at hand."""
        for each in reversed(before):
            if each.edge <= stretch.start:
                return each.ahead
        opened = self.store.lines(subscription.id, stretch.start)
        return opened.ahead if opened is not None else ()


class _Parts:
    """The segments of one bill, each terms and meter read once. `sealed`: what its closed days come to, once known."""

    def __init__(
        self, rater: Rater, subscription: Subscription, publisher: Publisher, sealed: counting.Totals | None
    ) -> None:
        self._rater = rater
        self._subscription = subscription
        self._versions: dict[tuple[str, int], PlanVersion] = {}
        self._publisher = publisher
        self._sealed = sealed
        self._statuses: dict[datetime, str] = {}

    def segment(self, stretch: Stretch, ahead: Sequence[rating.Ahead], late: Collection[str] | None = None) -> Segment:
        """One closed stretch with its usage."""
        subscription = self._subscription
        version = self._version(stretch)
        period = Period(stretch.start, stretch.end)
        nominal = nominal_period(period.start, subscription.anchor)
        usage: UsageByDay = {}
        if any(charge.meter for charge in version.terms.charges):
            usage = self._used(version, period.start.date(), _last_day(stretch), late)
        return Segment(
            period=period,
            nominal=nominal,
            terms=version.terms,
            plan=version.plan,
            version=version.number,
            anchor=subscription.anchor,
            since=paid_since(subscription, stretch),
            usage=usage,
            top_ups=top_ups_in(subscription, period),
            ahead=tuple(
                self._charged(each, period)
                for each in ahead
                if each.period.start < period.end and period.start < each.period.end
            ),
            ended=paid_until(subscription, stretch) == stretch.end,
            units=self._units(version),
        )

    def asked_for(self, content: BillLines, line: rating.Line) -> rating.Line:
        """A line as it is owed: nothing of it where its bill was waived or voided, as if a discount had taken it."""
        if line.rated <= 0 or not self._nothing_owed(content.edge):
            return line
        off = rating.Netted(line="let_off", kind="discount", amount=-line.discounted)
        return replace(line, netted=(*line.netted, off))

    def taken_again(self, before: Sequence[BillLines]) -> tuple[tuple[Carried, ...], tuple[datetime, ...]]:
        """Credits that went into a bill which was let off afterwards, as carried; and the edges of those bills.

        Each bill's credits come back once: with the first that finds it let off, which says so.
        """
        done = {edge for each in before for edge in each.restored}
        found: dict[tuple[TaxBehavior, str | None], int] = {}
        edges = []
        for each in before:
            taken = [] if each.edge in done else list(_money_in(each))
            if taken and self._status(each.edge) in _GONE:
                edges.append(each.edge)
                for line, amount in taken:
                    group = line.tax_behavior, line.tax_code
                    found[group] = found.get(group, 0) + amount
        made = (Carried(amount=sum_, tax_behavior=behavior, tax_code=code) for (behavior, code), sum_ in found.items())
        return tuple(made), tuple(edges)

    def _charged(self, ahead: rating.Ahead, period: Period) -> rating.Ahead:
        """A fee in advance, nothing of which comes back where nobody owes it; its bill stands where it begins."""
        if ahead.period.end > period.end and self._nothing_owed(ahead.period.start):
            return replace(ahead, amount=0)
        return ahead

    def _nothing_owed(self, edge: datetime) -> bool:
        """Whether nobody owes the bill at an edge."""
        return self._status(edge) in _LET_OFF

    def _status(self, edge: datetime) -> str:
        if edge not in self._statuses:
            bill = self._rater.store.bill(self._subscription.id, edge)
            self._statuses[edge] = bill.status if bill is not None else ""
        return self._statuses[edge]

    def _used(self, version: PlanVersion, first: date, last: date, late: Collection[str] | None) -> UsageByDay:
        if late is None and self._sealed is not None:
            return counted(self._sealed, self._meters(version), first, last)
        return self._rater.usage.exact(self._subscription, first, last, sorted(late or ()))

    def starting(self, edge: datetime) -> Segment | None:
        """The period that starts at the edge, charged in advance; as far as it was lived, where all has ended since.

        A change or a pause shortens nothing: while no bill was made at its instant it may still be taken back.
        """
        subscription = self._subscription
        period, span = advance_period(subscription, edge), in_force(subscription, edge)
        if period is None or span is None:
            return None
        stretch = Stretch(period.start, period.end, span)
        version = self._version(stretch)
        return Segment(
            period=period,
            nominal=nominal_period(edge, subscription.anchor),
            terms=version.terms,
            plan=version.plan,
            version=version.number,
            anchor=subscription.anchor,
            since=paid_since(subscription, stretch),
            until=subscription.ended_at,
            units=self._units(version),
        )

    def products(self) -> tuple[Product, ...]:
        """What Stripe calls the versions that were used."""
        return tuple(
            Product(plan=plan, version=number, stripe=version.stripe_product or "")
            for (plan, number), version in sorted(self._versions.items())
        )

    def _units(self, version: PlanVersion) -> Mapping[str, str]:
        """What each meter's units are called."""
        return {meter.id: meter.unit for meter in self._meters(version)}

    def _meters(self, version: PlanVersion) -> Sequence[Meter]:
        """The publisher's meters: those that the version charges for, and those that counted what was sealed."""
        charged = {charge.meter for charge in version.terms.charges if charge.meter}
        numbers = {short for _, short in self._sealed or ()}
        return self._rater.store.meters(self._publisher.id, charged, numbers) if charged or numbers else ()

    def _version(self, stretch: Stretch) -> PlanVersion:
        plan, number = stretch.span.plan or "", stretch.span.version or 0
        found = self._versions.get((plan, number)) or self._rater.store.plan_version(plan, number)
        if found is None:
            raise NotFound("unknown_plan_version", "The plan version is not there.")
        self._versions[plan, number] = found
        return found


def arrears_stretches(subscription: Subscription, since: datetime | None, edge: datetime) -> tuple[Stretch, ...]:
    """The paid stretches from the last billing date (or the first paid instant) to this one."""
    start = since or next((span.start for span in timeline(subscription) if span.paid), edge)
    if start >= edge:
        return ()
    return tuple(stretch for stretch in segments(subscription, start, edge) if stretch.span.paid)


def paid_since(subscription: Subscription, stretch: Stretch) -> datetime:
    """Since when the stretch's version is paid without a break: yearly fees count from there."""
    since = stretch.span.start
    for span in reversed(timeline(subscription)):
        if span.start >= since:
            continue
        if not span.paid or (span.plan, span.version) != (stretch.span.plan, stretch.span.version):
            break
        since = span.start
    return since


def paid_until(subscription: Subscription, stretch: Stretch) -> datetime | None:
    """Until when the stretch's version is paid without a break, as far as is known; None for no end."""
    stops = subscription.end
    for span in timeline(subscription):
        if span.start <= stretch.start:
            continue
        if not span.paid or (span.plan, span.version) != (stretch.span.plan, stretch.span.version):
            return span.start if stops is None else min(stops, span.start)
    return stops


def paid_from(subscription: Subscription, edge: datetime) -> set[tuple[str, int]]:
    """The plan versions that are paid from an instant on, or will be again after a pause, as far as is known."""
    if subscription.end is not None and subscription.end <= edge:
        return set()
    now = in_force(subscription, edge)
    spans = [span for span in timeline(subscription) if span.start > edge] + ([now] if now is not None else [])
    return {(span.plan, span.version) for span in spans if span.plan is not None and span.version is not None}


def top_ups_in(subscription: Subscription, period: Period) -> Mapping[str, int]:
    """Extra allowance given for a period, by meter."""
    found: dict[str, int] = {}
    for each in subscription.topups:
        if period.holds(each.counts_from):
            found[each.meter] = found.get(each.meter, 0) + each.quantity
    return found


def discounts_of(bill: Bill) -> tuple[Discount, ...]:
    """What the bill took when it was claimed, whatever was given or taken back since."""
    return tuple(
        Discount(
            id=each.id,
            name="Discount",
            percent=Decimal(each.percent) if each.percent is not None else None,
            amount=each.amount,
        )
        for each in bill.discounts
    )


def frozen(
    bill: Bill,
    rated: Rated,
    counted_now: Sequence[Segment],
    ahead: Sequence[rating.Ahead],
    late: tuple[str, ...],
    products: tuple[Product, ...],
) -> BillLines:
    """A bill's content, ready to be stored; `counted_now`: what closed, and what was corrected, with all its usage."""
    return BillLines(
        subscription=bill.subscription,
        edge=bill.edge,
        lines=rated.lines,
        credits=rated.credits,
        carried=rated.carried,
        ahead=tuple(each for each in (*ahead, *rating.ahead_of(rated.lines)) if each.period.end > bill.edge),
        products=products,
        subtotal=rated.subtotal,
        application_fee=rated.application_fee,
        late=late,
        usage=tuple(
            (meter, day, quantity)
            for segment in counted_now
            for meter, days in sorted(segment.usage.items())
            for day, quantity in sorted(days.items())
            if quantity
        ),
    )


def _money_in(content: BillLines) -> Iterator[tuple[rating.Line, int]]:
    """Each charge with what credits of money took off it: all but discounts, caps, and what a correction set off."""
    segment = {each.id: each.segment for each in content.credits}
    for line in content.lines:
        for each in line.netted:
            if each.kind in _MONEY and (each.kind != "adjustment" or segment.get(each.line) != line.segment):
                yield line, each.amount


def _last_day(stretch: Stretch) -> date:
    last = stretch.end.date()
    return last - timedelta(days=1) if midnight(last) == stretch.end else last
