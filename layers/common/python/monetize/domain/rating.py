"""What one subscription owes at one billing date: the pure function of its terms, its periods and its usage.

Charges are rated line by line, one half-up rounding each; credits are netted into the charges of the same tax
treatment, so that no line sent is negative, and what is left over is carried to the next bill.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

from monetize.domain.currencies import Currency
from monetize.domain.lines import MOST_LINES, Line, LineKind, Netted
from monetize.domain.money import EXACT, chargeable, currency_of, prorate, split
from monetize.domain.periods import YEAR, Anchor, Period, nominal_period
from monetize.domain.plans import Charge, PlanTerms, TaxBehavior
from monetize.domain.pricing import allowance as allowances
from monetize.domain.pricing import flat, package, steps_of
from monetize.domain.pricing.step import Step

__all__ = [
    "Adjustment",
    "Ahead",
    "ApplicationFee",
    "BillInput",
    "Carried",
    "Discount",
    "Line",
    "Netted",
    "Rated",
    "Segment",
    "Step",
    "UsageByDay",
    "ahead_of",
    "preview",
    "rate",
    "roll_up",
]

type UsageByDay = Mapping[str, Mapping[date, int]]
type TaxGroup = tuple[TaxBehavior, str | None]

_NO_USAGE: Final[UsageByDay] = {}
_NO_TOP_UPS: Final[Mapping[str, int]] = {}
_INSTANT: Final = timedelta(microseconds=1)
_PERCENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A flat fee that was charged in advance for `period`: `gross` minor units, `amount` of them after discounts."""

    charge: str
    period: Period
    amount: int
    gross: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Time under one plan version.

    `nominal`: the full month the period lies in. `since`: when this version began to be paid without a break (None:
    with this period); yearly fees count from it. `usage`: units by meter and UTC day; days outside the period are
    other segments'. `top_ups`: extra allowance by meter. `ahead`: what was charged in advance and reaches into this
    segment. `ended`: nothing is paid by this version from the segment's end on, so that a year's fee stops here.
    `until`: when that is known of a segment that starts; its fees in advance are charged no further. `trial`: free.
    `units`: what a meter's units are called.
    """

    period: Period
    nominal: Period
    terms: PlanTerms
    plan: str = ""
    version: int = 0
    anchor: Anchor = field(default_factory=Anchor)
    since: datetime | None = None
    usage: UsageByDay = field(default_factory=lambda: _NO_USAGE)
    top_ups: Mapping[str, int] = field(default_factory=lambda: _NO_TOP_UPS)
    ahead: tuple[Ahead, ...] = ()
    ended: bool = False
    until: datetime | None = None
    trial: bool = False
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """An earlier closed segment with all its usage as known now, and every line and credit billed for it so far."""

    segment: Segment
    billed: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """Off a bill's charges: `percent` (0 to 100) or `amount` in minor units. Once or for ever is the caller's."""

    id: str
    name: str
    percent: Decimal | None = None
    amount: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Credit (`amount` ≤ 0) no charge of its tax treatment could take up."""

    amount: int
    tax_behavior: TaxBehavior = "unspecified"
    tax_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationFee:
    """The platform's share: a percentage of the subtotal and a fixed amount, never above the subtotal."""

    percent: Decimal = Decimal(0)
    fixed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BillInput:
    """One billing date: what closed is charged in arrears, what starts in advance."""

    currency: str
    at: datetime
    closed: tuple[Segment, ...] = ()
    starting: Segment | None = None
    adjustments: tuple[Adjustment, ...] = ()
    carried: tuple[Carried, ...] = ()
    discounts: tuple[Discount, ...] = ()
    fee: ApplicationFee = field(default_factory=ApplicationFee)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """`lines` are charged (every amount ≥ 0); `credits` (every `rated` < 0) were netted into them or are carried.

    `subtotal` + `carry` = the sum of `rated` over lines and credits; `carry` = the sum of `carried` ≤ 0.
    """

    lines: tuple[Line, ...]
    credits: tuple[Line, ...]
    subtotal: int
    carry: int
    carried: tuple[Carried, ...]
    application_fee: int


def rate(bill: BillInput) -> Rated:
    """Price one bill. Raises Invalid `unknown_currency`, ValueError for input no caller can mean."""
    currency = currency_of(bill.currency)
    netting = _Netting(currency)
    for segment in bill.closed:
        _same_currency(segment, bill)
        netting.take(_arrears(segment, currency))
        netting.take_credits(_unused(segment, currency))
    for adjustment in bill.adjustments:
        _same_currency(adjustment.segment, bill)
        lines = _differences(adjustment, currency)
        netting.take(lines, _asked(adjustment, sum(each.rated for each in lines), currency))
    if bill.starting is not None:
        _same_currency(bill.starting, bill)
        netting.take(_advance(bill.starting, currency))
    for discount in bill.discounts:
        netting.discount(discount, bill.at)
    netting.take_credits(_carry_lines(bill))
    return netting.result(bill.fee)


def preview(terms: PlanTerms, usage: UsageByDay, period: Period, units: Mapping[str, str] | None = None) -> Rated:
    """What a full period costs: its fees, in advance or arrears, and its usage. Yearly fees are shown whole."""
    segment = Segment(period=period, nominal=period, terms=terms, usage=usage, units=units or {})
    currency = currency_of(terms.currency)
    fees = [_preview_fee(segment, each, currency) for each in terms.charges if each.model == "flat"]
    ahead = tuple(
        Ahead(charge=each.charge or "", period=period, amount=each.rated, gross=each.rated)
        for each, charge in zip(fees, (c for c in terms.charges if c.model == "flat"), strict=True)
        if charge.interval == "month"
    )
    netting = _Netting(currency)
    priced = replace(terms, charges=tuple(each for each in terms.charges if each.model != "flat"))
    arrears = list(_usage_lines(segment, currency))
    bounded = replace(segment, terms=replace(priced, charges=terms.charges), ahead=ahead)
    arrears.extend(_bounds(bounded, currency, arrears))
    netting.take(fees)
    netting.take(arrears)
    return netting.result(ApplicationFee())


def ahead_of(lines: Iterable[Line]) -> tuple[Ahead, ...]:
    """What a bill's lines charged in advance: to be handed to the segments it reaches into."""
    return tuple(
        Ahead(charge=each.charge, period=each.period, amount=each.discounted, gross=each.rated)
        for each in lines
        if each.advance and each.charge is not None
    )


def given_back(segment: Segment, ahead: Ahead) -> bool:
    """Whether the closed segment stops a fee that was charged for longer: a month's at any end, a year's for good."""
    if not segment.period.start < ahead.period.end or ahead.period.end <= segment.period.end:
        return False
    return segment.ended or any(each.id == ahead.charge and each.interval == "month" for each in segment.terms.charges)


def roll_up(lines: Sequence[Line], limit: int = MOST_LINES, breakdown: str = "") -> tuple[Line, ...]:
    """At most `limit` lines with the same sum: the tail is merged, one line per plan version and tax treatment.

    `breakdown`: where all of them can be read.
    """
    if len(lines) <= limit:
        return tuple(lines)
    groups = {_roll_up_group(each) for each in lines}
    kept = limit - len(groups)
    if kept < 0:
        raise ValueError(f"{len(groups)} tax treatments and plan versions do not fit into {limit} lines")
    tail: dict[tuple[str, int, TaxGroup], list[Line]] = {}
    for each in lines[kept:]:
        tail.setdefault(_roll_up_group(each), []).append(each)
    return (*lines[:kept], *(_merged(each, number, breakdown) for number, each in enumerate(tail.values())))


# ---- what a segment charges ----


def _arrears(segment: Segment, currency: Currency) -> list[Line]:
    """The signed lines of a closed segment: usage, fees in arrears, minimum or maximum."""
    if segment.trial:
        return []
    lines = list(_usage_lines(segment, currency))
    monthly = list(lines)
    for charge in segment.terms.charges:
        if charge.model == "flat" and charge.timing == "arrears":
            line = _fee_in_arrears(segment, charge, currency)
            if line is not None and line.rated:
                lines.append(line)
                if charge.interval == "month":
                    monthly.append(line)
    lines.extend(_bounds(segment, currency, monthly))
    return lines


def _usage_lines(segment: Segment, currency: Currency) -> Iterator[Line]:
    first, last = segment.period.start.date(), (segment.period.end - _INSTANT).date()
    for charge in segment.terms.charges:
        if charge.meter is None:
            continue
        days = segment.usage.get(charge.meter)
        if days:
            inside = [(day, used) for day, used in days.items() if first <= day <= last]
            line = _usage_line(segment, charge, inside, currency)
            if line is not None:
                yield line


def _usage_line(segment: Segment, charge: Charge, days: Sequence[tuple[date, int]], currency: Currency) -> Line | None:
    quantities = [quantity for _, quantity in days]
    used = sum(quantities)
    if quantities and min(quantities) < 0:
        raise ValueError(f"the usage of meter {charge.meter} is negative on a day")
    if used == 0:
        return None
    top_up = segment.top_ups.get(charge.meter or "", 0)
    allowed = charge.allowance
    above: tuple[allowances.DayAbove, ...] = ()
    free: int | None = None
    if allowed is not None and allowed.per == "day":
        free = allowed.quantity
        above = allowances.above_daily(days, free, top_up, charge.package_size)
        billed, steps = _daily_steps(charge, above)
    else:
        if allowed is not None:
            free = allowances.in_period(allowed.quantity, segment.period.seconds, segment.nominal.seconds)
        billed = max(0, used - (free or 0) - top_up)
        steps = steps_of(charge, billed)
    exact = steps[0].amount if len(steps) == 1 else _sum(steps)
    rated = chargeable(exact, currency)
    return Line(
        id=_id(charge.id, segment.period),
        kind="usage",
        name=charge.name,
        currency=currency.code,
        period=segment.period,
        rated=rated,
        amount=max(0, rated),
        plan=segment.plan,
        version=segment.version,
        charge=charge.id,
        meter=charge.meter,
        unit=segment.units.get(charge.meter or "", "units"),
        tax_behavior=segment.terms.tax_behavior,
        tax_code=segment.terms.tax_code,
        segment=segment.period.start,
        used=used,
        allowance=free,
        allowance_per=None if allowed is None else allowed.per,
        top_up=top_up,
        billed=billed,
        steps=steps,
        days=above,
    )


def _daily_steps(charge: Charge, above: tuple[allowances.DayAbove, ...]) -> tuple[int, tuple[Step, ...]]:
    """Units charged and their steps. Packages are started anew every day; other models price the days' sum once."""
    billed = sum([each.charged for each in above])
    if charge.model != "package":
        return billed, steps_of(charge, billed)
    if charge.unit_price is None or not charge.package_size:
        raise ValueError(f"charge {charge.id} has no package price")
    packages = sum([each.packages for each in above])
    return billed, tuple(package.whole(charge.unit_price, charge.package_size, packages))


def _fee_in_arrears(segment: Segment, charge: Charge, currency: Currency) -> Line | None:
    if charge.interval == "month":
        return _fee(segment, charge, segment.period, segment.nominal, currency)
    end = segment.period.end
    year = nominal_period(end - _INSTANT, segment.anchor, YEAR)
    if end != year.end and not segment.ended:
        return None
    lived = Period(max(segment.since or segment.period.start, year.start), end)
    return _fee(segment, charge, lived, year, currency)


def _advance(segment: Segment, currency: Currency) -> list[Line]:
    """The fees charged when a segment starts; a year's when it begins to be paid and at every yearly edge."""
    if segment.trial:
        return []
    lines = []
    for charge in segment.terms.charges:
        if charge.model != "flat" or charge.timing != "advance":
            continue
        start = segment.period.start
        if charge.interval == "month":
            nominal, end = segment.nominal, segment.period.end
        else:
            nominal = nominal_period(start, segment.anchor, YEAR)
            end = nominal.end
            if start not in (segment.since or start, nominal.start):
                continue
        lived = Period(start, min(end, segment.until or end))
        lines.append(_fee(segment, charge, lived, nominal, currency, advance=True))
    return [each for each in lines if each.rated]


def _fee(
    segment: Segment, charge: Charge, lived: Period, nominal: Period, currency: Currency, *, advance: bool = False
) -> Line:
    full = charge.amount or 0
    rated = flat.amount(full, lived, nominal, currency.multiple_of)
    return Line(
        id=_id(charge.id, lived),
        kind="flat",
        name=charge.name,
        currency=currency.code,
        period=lived,
        rated=rated,
        amount=rated,
        plan=segment.plan,
        version=segment.version,
        charge=charge.id,
        tax_behavior=segment.terms.tax_behavior,
        tax_code=segment.terms.tax_code,
        advance=advance,
        segment=None if advance else segment.period.start,
        full_amount=full,
        part_seconds=lived.seconds,
        whole_seconds=nominal.seconds,
    )


def _preview_fee(segment: Segment, charge: Charge, currency: Currency) -> Line:
    return _fee(segment, charge, segment.period, segment.nominal, currency, advance=charge.timing == "advance")


def _bounds(segment: Segment, currency: Currency, monthly: Sequence[Line]) -> Iterator[Line]:
    """The true-up to the minimum, or the cap at the maximum, of the month's usage and monthly fees."""
    terms = segment.terms
    if terms.minimum is None and terms.maximum is None:
        return
    arrears = sum(each.rated for each in monthly)
    total = arrears + _lived_ahead(segment, currency)
    if terms.minimum is not None:
        least = flat.amount(terms.minimum, segment.period, segment.nominal, currency.multiple_of)
        if total < least:
            yield _plain(segment, "minimum", "minimum", "Up to the minimum commitment", least - total, currency)
    if terms.maximum is not None:
        most = flat.amount(terms.maximum, segment.period, segment.nominal, currency.multiple_of)
        # Fees in advance were charged already: the cap takes back usage, at most all of it.
        over = min(total - most, arrears)
        if over > 0:
            yield _plain(segment, "maximum", "maximum", "Above the maximum", -over, currency)


def _lived_ahead(segment: Segment, currency: Currency) -> int:
    """The monthly fees in advance that belong to this segment, before discounts."""
    monthly = {each.id: each for each in segment.terms.charges if each.model == "flat" and each.interval == "month"}
    total = 0
    for each in segment.ahead:
        if each.charge in monthly:
            total += _due_of(segment, each, monthly[each.charge], currency)
    return total


def _due_of(segment: Segment, ahead: Ahead, charge: Charge, currency: Currency) -> int:
    """What of a fee charged in advance is due until the segment's end, before discounts."""
    if ahead.period.end <= segment.period.end:
        return ahead.gross
    if charge.interval == "month":
        nominal = segment.nominal
    else:
        nominal = nominal_period(ahead.period.start, segment.anchor, YEAR)
    return flat.amount(
        charge.amount or 0, Period(ahead.period.start, segment.period.end), nominal, currency.multiple_of
    )


def _unused(segment: Segment, currency: Currency) -> Iterator[Line]:
    """Credits for fees charged in advance beyond a segment that stopped them."""
    charges = {each.id: each for each in segment.terms.charges}
    for each in segment.ahead:
        if not given_back(segment, each):
            continue
        charge = charges[each.charge]
        due = _due_of(segment, each, charge, currency)
        credit = flat.kept(each.amount, each.gross, due, currency.multiple_of) - each.amount
        if credit < 0:
            unused = Period(segment.period.end, each.period.end)
            line = replace(
                _plain(segment, "unused", "proration_credit", f"{charge.name}, unused time", credit, currency),
                id=_id(f"unused:{charge.id}", unused),
                description="",
                period=unused,
                charge=charge.id,
                segment=None,
                full_amount=-each.amount,
                part_seconds=unused.seconds,
                whole_seconds=each.period.seconds,
            )
            yield line


# ---- corrections ----


def _differences(adjustment: Adjustment, currency: Currency) -> list[Line]:
    """What re-rating a closed segment changes, line by line."""
    segment = adjustment.segment
    now = {each.id: each for each in _arrears(segment, currency)}
    before: dict[str, int] = {}
    names: dict[str, Line] = {}
    for each in adjustment.billed:
        if each.segment == segment.period.start:
            of = each.adjusts or each.id
            difference = each.full_amount if each.adjusts and each.full_amount is not None else each.rated
            before[of] = before.get(of, 0) + difference
            names.setdefault(of, each)
    lines = []
    for key in sorted({*now, *before}):
        known = now.get(key) or names[key]
        newly = now[key].rated if key in now else 0
        difference = newly - before.get(key, 0)
        if difference:
            lines.append(_correction(known, segment, newly, difference))
    return lines


def _correction(known: Line, segment: Segment, newly: int, difference: int) -> Line:
    current = (
        known
        if known.rated == newly and known.adjusts is None
        else replace(known, rated=newly, used=0, billed=0, steps=(), days=())
    )
    start, end = segment.period.start, segment.period.end
    return replace(
        current,
        id=f"adjust:{known.adjusts or known.id}",
        kind="adjustment",
        name=f"Correction of {known.name}, {start:%Y-%m-%d} to {end:%Y-%m-%d}",
        description="",
        rated=difference,
        amount=max(0, difference),
        netted=(),
        adjusts=known.adjusts or known.id,
        segment=segment.period.start,
        full_amount=difference,
        part_seconds=None,
        whole_seconds=None,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a correction asks for (or, negative, gives back) after the discounts of what it corrects.

    `settled`: what of it was discounted by its own bill, so that this bill's discounts leave it alone.
    """

    amount: int
    settled: int


def _asked(adjustment: Adjustment, difference: int, currency: Currency) -> _Asked:
    """What a difference of prices is worth, whichever steps led to it.

    Up to what the segment was first billed, in proportion to what discounts left of that; what came on top, whole,
    and what of it goes away again, in proportion to what was asked for it.
    """
    first = paid = before = asked = 0
    for each in adjustment.billed:
        if each.segment != adjustment.segment.period.start:
            continue
        asked += each.discounted
        if each.adjusts is None:
            first += each.rated
            paid += each.discounted
        before += each.rated if each.adjusts is None or each.full_amount is None else each.full_amount
    newly = before + difference
    if newly <= first:
        owed = prorate(paid, newly, first, currency.multiple_of) if first > 0 else 0
    elif before <= first:
        owed = paid + newly - first
    elif newly >= before:
        owed = asked + difference
    else:
        owed = paid + prorate(asked - paid, newly - first, before - first, currency.multiple_of)
    low, high = sorted((0, difference))
    amount = max(low, min(high, owed - asked))
    return _Asked(amount, settled=max(0, min(amount, owed - asked - max(0, newly - max(first, before)))))


# ---- netting ----


class _Netting:
    """Charges with what credits leave of them, in the order they were rated."""

    def __init__(self, currency: Currency) -> None:
        self._currency = currency
        self._charges: list[Line] = []
        self._left: list[int] = []
        self._taken: dict[int, list[Netted]] = {}
        self._credits: list[Line] = []
        self._open: list[tuple[Line, int]] = []
        self._settled: dict[int, int] = {}

    def take(self, lines: Iterable[Line], asked: _Asked | None = None) -> None:
        """One segment's signed lines: its own credits (a cap, a correction) come off its own charges first.

        What is left of charges or credits is brought to what is `asked`, where less of them was paid.
        """
        first = len(self._charges)
        negative = []
        for line in lines:
            if line.rated < 0:
                negative.append(line)
            else:
                self._charges.append(line)
                self._left.append(line.rated)
        own = range(first, len(self._charges))
        rests = [self._net(credit, -credit.rated, own) for credit in negative]
        gifts = rests if asked is None or not sum(rests) else self._parts(-asked.amount, rests)
        for credit, rest, given in zip(negative, rests, gifts, strict=True):
            kept = replace(credit, rated=credit.rated + rest - given) if given != rest else credit
            if kept.rated:
                self._credits.append(kept)
            if given:
                self._open.append((kept, given))
        if asked is not None and own:
            less = sum(self._left[at] for at in own) - max(0, asked.amount)
            if less > 0:
                name = "Discount of the bill it corrects"
                off = self._off(f"discount:{self._charges[first].id}", name, -less, self._charges[first].period)
                self._net(off, less, own)
            if asked.settled:
                left = [self._left[at] for at in own]
                self._settled.update(zip(own, self._parts(asked.settled, left), strict=True))

    def take_credits(self, lines: Iterable[Line]) -> None:
        """Credits for whatever is charged on this bill."""
        for line in lines:
            self._credits.append(line)
            self._open.append((line, -line.rated))

    def discount(self, discount: Discount, at: datetime) -> None:
        """Take a discount off every charge in proportion; it never makes a credit."""
        among = range(len(self._charges))
        open_ = [max(0, self._left[at] - self._settled.get(at, 0)) for at in among]
        base = sum(open_)
        if discount.percent is not None:
            exact = EXACT.multiply(EXACT.multiply(discount.percent, base), _PERCENT)
            amount = min(base, chargeable(exact, self._currency))
        else:
            amount = min(base, discount.amount or 0)
        if amount <= 0:
            return
        period = Period(at, at + timedelta(seconds=1))
        self._net(self._off(f"discount:{discount.id}", discount.name, -amount, period), amount, among, open_)

    def _off(self, id_: str, name: str, rated: int, period: Period) -> Line:
        """A discount's own line."""
        currency = self._currency.code
        line = Line(
            id=id_,
            kind="discount",
            name=name,
            description=name,
            currency=currency,
            period=period,
            rated=rated,
            amount=0,
        )
        self._credits.append(line)
        return line

    def result(self, fee: ApplicationFee) -> Rated:
        """Net every open credit into the charges of its tax treatment and add up."""
        carried: dict[TaxGroup, int] = {}
        for credit, amount in self._open:
            group = _group(credit)
            same = [at for at, line in enumerate(self._charges) if _group(line) == group]
            rest = self._net(credit, amount, same)
            if rest:
                carried[group] = carried.get(group, 0) - rest
        lines = tuple(self._final(at) for at in range(len(self._charges)))
        subtotal = sum(self._left)
        return Rated(
            lines=lines,
            credits=tuple(self._credits),
            subtotal=subtotal,
            carry=sum(carried.values()),
            carried=tuple(
                Carried(amount=amount, tax_behavior=behavior, tax_code=code)
                for (behavior, code), amount in carried.items()
            ),
            application_fee=_application_fee(fee, subtotal, self._currency),
        )

    def _net(self, credit: Line, amount: int, among: Sequence[int], open_: Sequence[int] | None = None) -> int:
        """Take `amount` off what is left of the charges `among` (or what is `open_` of it) by largest remainder.

        What they cannot take up comes back.
        """
        weights = open_ if open_ is not None else [self._left[at] for at in among]
        room = sum(weights)
        taken = min(amount, room)
        if taken <= 0:
            return amount
        for at, part in zip(among, self._parts(taken, weights), strict=True):
            if part:
                self._left[at] -= part
                self._taken.setdefault(at, []).append(Netted(line=credit.id, kind=credit.kind, amount=-part))
        return amount - taken

    def _parts(self, total: int, weights: Sequence[int]) -> list[int]:
        """A total by largest remainder, in what the currency can charge where all of it can be."""
        multiple = self._currency.multiple_of
        if multiple > 1 and not any(weight % multiple for weight in (total, *weights)):
            return [multiple * part for part in split(total // multiple, [weight // multiple for weight in weights])]
        return split(total, weights)

    def _final(self, at: int) -> Line:
        line, taken = self._charges[at], self._taken.get(at)
        if taken is None:
            return line
        return replace(line, description="", amount=self._left[at], netted=tuple(taken))


def _application_fee(fee: ApplicationFee, subtotal: int, currency: Currency) -> int:
    share = EXACT.add(EXACT.multiply(EXACT.multiply(fee.percent, subtotal), _PERCENT), fee.fixed)
    return max(0, min(subtotal, chargeable(share, currency)))


def _carry_lines(bill: BillInput) -> Iterator[Line]:
    for number, each in enumerate(bill.carried):
        if each.amount > 0:
            raise ValueError("what is carried is a credit")
        if each.amount:
            yield Line(
                id=f"carry:{number}",
                kind="carry",
                name="Credit from before",
                description="Credit from before",
                currency=bill.currency,
                period=Period(bill.at, bill.at + timedelta(seconds=1)),
                rated=each.amount,
                amount=0,
                tax_behavior=each.tax_behavior,
                tax_code=each.tax_code,
            )


# ---- small parts ----


def _plain(segment: Segment, key: str, kind: LineKind, name: str, rated: int, currency: Currency) -> Line:
    return Line(
        id=_id(key, segment.period),
        kind=kind,
        name=name,
        currency=currency.code,
        period=segment.period,
        rated=rated,
        amount=max(0, rated),
        plan=segment.plan,
        version=segment.version,
        tax_behavior=segment.terms.tax_behavior,
        tax_code=segment.terms.tax_code,
        segment=segment.period.start,
    )


def _id(key: str, period: Period) -> str:
    return f"{key}@{period.start.isoformat()[:19]}Z"


def _sum(steps: Iterable[Step]) -> Decimal:
    total = Decimal(0)
    for each in steps:
        total = EXACT.add(total, each.amount)
    return total


def _group(line: Line) -> TaxGroup:
    return line.tax_behavior, line.tax_code


def _roll_up_group(line: Line) -> tuple[str, int, TaxGroup]:
    return line.plan, line.version, _group(line)


def _merged(lines: Sequence[Line], number: int, breakdown: str) -> Line:
    first = lines[0]
    return Line(
        id=f"rolled_up:{number}",
        kind="rolled_up",
        name="More items",
        description=f"{len(lines)} more items; see the full breakdown{breakdown and f': {breakdown}'}",
        currency=first.currency,
        period=Period(min(each.period.start for each in lines), max(each.period.end for each in lines)),
        rated=sum(each.rated for each in lines),
        amount=sum(each.amount for each in lines),
        plan=first.plan,
        version=first.version,
        tax_behavior=first.tax_behavior,
        tax_code=first.tax_code,
        merged=len(lines),
    )


def _same_currency(segment: Segment, bill: BillInput) -> None:
    if segment.terms.currency != bill.currency:
        raise ValueError(f"a bill in {bill.currency} cannot charge terms in {segment.terms.currency}")
