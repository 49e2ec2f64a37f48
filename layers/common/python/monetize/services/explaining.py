"""Why an invoice says what it says: line → price step → day → ledger entries → event ids; and where one event went.

A bill counts what arrived in time for the days between two billing dates, and the late entries and corrections of
earlier days that it took. Everything else on those earlier days is an earlier bill's, although a correction line is the
difference of the whole period counted anew.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Protocol

from monetize.domain.errors import Invalid, NotFound
from monetize.domain.explained import (
    BatchPage,
    Event,
    EventAnswer,
    EventPage,
    Explained,
    LedgerBatch,
    Place,
    Why,
    days_of,
)
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.lines import Line
from monetize.domain.meters import Meter
from monetize.domain.periods import midnight, nominal_period
from monetize.domain.subscriptions import Subscription, segments, timeline
from monetize.domain.usage import ID_BYTES, Adjustment, Correction, Entry, LateEntry, event_id, shard_of
from monetize.services.rating_bills import LOOK_BACK, shards_of

BATCHES: Final = 500  # in one answer
EVENTS: Final = 5_000
LOTS: Final = 100  # of refused events, searched for one
READS: Final = 200  # of the ledger, for one answer: about two seconds
MOST_READINGS: Final = 20  # of an event's name, by its slashes
_INSTANT: Final = timedelta(microseconds=1)

type Days = tuple[date, date]
"""Both included."""

type Position = tuple[date, int, str | None]
"""Day, shard, and the entry to go on after."""


class Store(Protocol):
    """What is stored."""

    def lines(self, sub: str, edge: datetime) -> BillLines | None: ...
    def subscription(self, sub: str) -> Subscription | None: ...
    def meters(self, pub: str) -> tuple[Meter, ...]: ...


class Usage(Protocol):
    """The ledger. Days are UTC, both ends included."""

    def entries(
        self, subscription: str, first: date, last: date, shards: Callable[[str], int], *, sandbox: bool = False
    ) -> Iterator[Entry]: ...

    def batches(
        self, subscription: str, day: date, shard: int, *, after: str | None, limit: int
    ) -> tuple[tuple[tuple[Entry, datetime], ...], str | None]: ...

    def late_entries(self, subscription: str, first: date, last: date) -> tuple[LateEntry, ...]: ...

    def corrections(self, subscription: str, first: date, last: date) -> tuple[Correction, ...]: ...

    def adjustments(self, subscription: str, first: date, last: date) -> tuple[Adjustment, ...]: ...

    def rejected(
        self, publisher: str, now: datetime, *, after: str | None, limit: int
    ) -> tuple[tuple[tuple[str, list[dict[str, Any]], datetime], ...], str | None]: ...


def explain(invoice: Invoice, store: Store) -> Explained:
    """The invoice with the lines it was rated to. NotFound `lines_missing`."""
    content = store.lines(invoice.subscription, invoice.edge)
    if content is None:
        raise NotFound("lines_missing", "The lines of this invoice are not there.")
    return Explained(invoice, content)


def line_of(explained: Explained, line: str) -> Line:
    """One of its lines, credits included. NotFound `unknown_line`."""
    for each in (*explained.content.lines, *explained.content.credits):
        if each.id == line:
            return each
    raise NotFound("unknown_line", "The invoice has no such line.")


def batches(
    explained: Explained, line: str, day: date | None, after: str | None, store: Store, usage: Usage
) -> BatchPage:
    """Some of the ledger entries behind a line, or behind one of its days. Invalid `bad_day`, `bad_cursor`.

    Corrections, what exact counting took out and late entries come first, then what arrived in time, day by day.
    """
    wanted = line_of(explained, line)
    if wanted.meter is None:
        return BatchPage((), None)
    first, last = _days(wanted, day)
    ledger = _Ledger(explained, store, usage)
    short = ledger.short(wanted.meter)
    position: Position = first, 0, None
    found: list[LedgerBatch] = []
    if after is None or after.isdecimal():
        skipped = int(after or 0)
        found = [each for each in ledger.apart(first, last, short) if each.quantity]
        if len(found) > skipped + BATCHES:
            return BatchPage(tuple(found[skipped : skipped + BATCHES]), str(skipped + BATCHES))
        found = found[skipped:]
    else:
        position = _position(after, first, last)
    return ledger.in_time(position, last, short, found)


def events(
    explained: Explained, line: str, day: date, batch: str, after: str | None, store: Store, usage: Usage
) -> EventPage:
    """Some of the events of one ledger entry that a line counts. NotFound `unknown_batch`; Invalid `bad_day`."""
    wanted = line_of(explained, line)
    _days(wanted, day)
    if after is not None and not after.isdecimal():
        raise Invalid("bad_cursor", "This cursor was not made for this list.")
    ledger = _Ledger(explained, store, usage)
    entry = ledger.entry(day, batch)
    if entry is None:
        raise NotFound("unknown_batch", "There is no such ledger entry on that day.")
    short, begun = ledger.short(wanted.meter or ""), int(after or 0)
    counted = ((event, quantities.get(short, 0)) for event, quantities in entry.content.rows())
    rows = [Event(digest=event.hex(), quantity=quantity) for event, quantity in counted if quantity]
    return EventPage(tuple(rows[begun : begun + EVENTS]), str(begun + EVENTS) if len(rows) > begun + EVENTS else None)


def find(explained: Explained, event: str, now: datetime, store: Store, usage: Usage) -> EventAnswer:
    """Whether and where one event was billed; `event` is `source/id`. Both may hold slashes: every reading is tried.

    Looked for on the days of this bill and in the earlier periods that it counted anew; then among what its sandbox
    used on its own days, and among the LOTS newest lots of what was refused.
    """
    names = _readings(event)
    candidates = [event_id(source, identity) for source, identity in names]
    ledger = _Ledger(explained, store, usage)
    meters = {meter.short: meter.id for meter in store.meters(explained.invoice.publisher)}
    found = [each for days in ledger.counted_days() for each in ledger.occurrences(days, candidates)]
    digest = found[0].digest if found else candidates[-1]
    found = sorted((each for each in found if each.digest == digest), key=lambda each: each.order)
    winner, why = _winner(found)
    if not found and (apart := ledger.in_sandbox(candidates)) is not None:
        return EventAnswer(digest=apart.hex(), billed=False, why="sandbox")
    if not found and (refused := _refused(explained.invoice, names, now, usage)) is not None:
        name, code = refused
        return EventAnswer(digest=event_id(*name).hex(), billed=False, why="rejected", code=code)
    conflict = len({(each.entry.day, tuple(sorted(each.quantities.items()))) for each in found}) > 1
    places = tuple(
        Place(
            batch=each.entry.batch,
            day=each.entry.day,
            late=each.entry.late,
            counted=each is winner,
            quantities=tuple((meters.get(short, str(short)), count) for short, count in each.quantities.items()),
            taken_by=each.taken_by,
        )
        for each in found
    )
    if winner is None:
        return EventAnswer(digest=digest.hex(), billed=False, why=why, conflict=conflict, places=places)
    lines = _lines(explained, winner, {meters.get(short) for short in winner.quantities})
    if not lines:
        why = "changes_nothing" if winner.entry.late and winner.quantities else "counts_nothing"
    return EventAnswer(digest=digest.hex(), billed=bool(lines), why=why, conflict=conflict, lines=lines, places=places)


@dataclass(frozen=True, slots=True)
class _Occurrence:
    """An event in one entry. `bill`: -1 of an earlier bill, 0 of this one, 1 not of this one; `taken_by`: late ones."""

    entry: Entry
    digest: bytes
    quantities: dict[int, int]
    bill: int
    taken_by: str = ""

    @property
    def order(self) -> tuple[date, str, bool]:
        """The lowest counts (domain.usage.distinct)."""
        return self.entry.day, self.entry.batch, self.entry.late


def _winner(found: Sequence[_Occurrence]) -> tuple[_Occurrence | None, Why]:
    """The one occurrence this bill counts: none where an earlier bill had the event, whatever came again."""
    mine = [each for each in found if each.bill == 0]
    in_time = [each for each in mine if not each.entry.late]
    if in_time:
        return in_time[0], "billed"
    if any(each.bill < 0 for each in found):
        return None, "in_another_bill"
    if mine:
        return mine[0], "billed"
    if not found:
        return None, "not_received"
    return None, "late_for_another_bill" if any(each.taken_by for each in found) else "late_waiting"


def _lines(explained: Explained, winner: _Occurrence, counted: set[str | None]) -> tuple[str, ...]:
    """What charges for it: late ones by the lines, or credits, that correct their period, its bounds included."""
    late = winner.entry.late
    return tuple(
        line.id
        for line in (*explained.content.lines, *explained.content.credits)
        if (line.kind == "adjustment") == late
        and (line.meter in counted or (late and line.meter is None and winner.quantities))
        and days_of(line)[0] <= winner.entry.day <= days_of(line)[1]
    )


class _Ledger:
    """The ledger as one bill looks at it."""

    def __init__(self, explained: Explained, store: Store, usage: Usage) -> None:
        self._invoice, self._content = explained.invoice, explained.content
        self._store, self._usage = store, usage
        self._subscription = store.subscription(explained.invoice.subscription)
        self._late = frozenset(explained.content.late)

    def short(self, meter: str) -> int:
        """A meter's number."""
        return next((each.short for each in self._store.meters(self._invoice.publisher) if each.id == meter), 0)

    @cached_property
    def own(self) -> Days | None:
        """The days between the billing date before and this one: None for an opening bill."""
        since = self._content.since
        if since is None and self._subscription is not None:
            since = next((span.start for span in timeline(self._subscription) if span.paid), None)
        if since is None or since >= self._invoice.edge:
            return None
        return since.date(), (self._invoice.edge - _INSTANT).date()

    def is_own(self, day: date) -> bool:
        """Whether what arrived in time for that day is this bill's."""
        return self.own is not None and self.own[0] <= day <= self.own[1]

    def counted_days(self) -> Iterator[Days]:
        """Its own days, and every earlier period that it counted anew."""
        if self.own is not None:
            yield self.own
        if not self._late:
            return
        through = (self._invoice.edge - _INSTANT).date()
        first = ((self._content.since or self._invoice.edge) - LOOK_BACK).date()
        late = self._usage.late_entries(self._invoice.subscription, first, through)
        yield from sorted({self._period(each.day) for each in late if each.ref in self._late})

    def _period(self, day: date) -> Days:
        """The billed period that a day belongs to."""
        subscription = self._subscription
        if subscription is None:
            return day, day
        nominal = nominal_period(midnight(day + timedelta(days=1)) - _INSTANT, subscription.anchor)
        for stretch in segments(subscription, nominal.start, nominal.end):
            first, last = stretch.start.date(), (stretch.end - _INSTANT).date()
            if first <= day <= last:
                return first, last
        return day, day

    def occurrences(self, days: Days, candidates: Sequence[bytes]) -> Iterator[_Occurrence]:
        """Where any of these events stand on those days."""
        subscription = self._invoice.subscription
        for entry in self._usage.entries(subscription, *days, self._shards):
            yield from _held(entry, candidates, 0 if self.is_own(entry.day) else -1)
        for late in self._usage.late_entries(subscription, *days):
            if late.entry is not None:
                yield from _held(late.entry, candidates, self._taken(late), late.taken_by)

    def in_sandbox(self, candidates: Sequence[bytes]) -> bytes | None:
        """Which of these events was sent for the sandbox on the bill's own days."""
        if self.own is None:
            return None
        for entry in self._usage.entries(self._invoice.subscription, *self.own, self._shards, sandbox=True):
            for held in _held(entry, candidates, 1):
                return held.digest
        return None

    def _taken(self, late: LateEntry) -> int:
        if late.ref in self._late:
            return 0
        # Bills are named by subscription and date: in their order.
        mine = f"{self._invoice.subscription}.{self._invoice.edge:%Y%m%dT%H%M%SZ}"
        return -1 if "" < late.taken_by < mine else 1

    def apart(self, first: date, last: date, short: int) -> Iterator[LedgerBatch]:
        """What is not an entry that arrived in time."""
        subscription = self._invoice.subscription
        for correction in self._usage.corrections(subscription, first, last):
            yield LedgerBatch(
                batch=correction.id,
                day=correction.day,
                quantity=correction.quantities.get(short, 0),
                kind="correction",
                taken=self.is_own(correction.day),
                reason=correction.reason,
            )
        for adjustment in self._usage.adjustments(subscription, first, last):
            yield LedgerBatch(
                batch=str(adjustment.number),
                day=adjustment.day,
                quantity=adjustment.quantities.get(short, 0),
                kind="repeated",
                taken=self.is_own(adjustment.day),
            )
        for late in self._usage.late_entries(subscription, first, last):
            yield LedgerBatch(
                batch=late.ref.rpartition("#")[2].removeprefix("correction-"),
                day=late.day,
                quantity=late.quantities.get(short, 0),
                kind="events" if late.entry is not None else "correction",
                late=True,
                events=late.entry.content.events if late.entry is not None else 0,
                taken=late.ref in self._late,
                reason=late.reason,
            )

    def in_time(self, position: Position, last: date, short: int, found: list[LedgerBatch]) -> BatchPage:
        """Add entries that arrived in time, from a position on, until the page is full or enough was read."""
        day, shard, place = position
        for _ in range(READS):
            entries, place = self._usage.batches(
                self._invoice.subscription, day, shard, after=place, limit=max(1, BATCHES - len(found))
            )
            for entry, _ in entries:
                if quantity := entry.content.totals().get(short, 0):
                    found.append(
                        LedgerBatch(
                            batch=entry.batch,
                            day=day,
                            quantity=quantity,
                            shard=shard,
                            events=entry.content.events,
                            taken=self.is_own(day),
                        )
                    )
            if place is None:
                shard += 1
                if shard >= self._shards(f"{day:%Y-%m}"):
                    day, shard = day + timedelta(days=1), 0
            if day > last:
                return BatchPage(tuple(found), None)
            if len(found) >= BATCHES:
                break
        return BatchPage(tuple(found), f"{day}/{shard}/{place or ''}")

    def entry(self, day: date, batch: str) -> Entry | None:
        """One entry of events, late or not."""
        shard, place = shard_of(batch, self._shards(f"{day:%Y-%m}")), None
        while True:
            entries, place = self._usage.batches(self._invoice.subscription, day, shard, after=place, limit=BATCHES)
            for entry, _ in entries:
                if entry.batch == batch:
                    return entry
            if place is None:
                break
        late = self._usage.late_entries(self._invoice.subscription, day, day)
        return next((each.entry for each in late if each.entry is not None and each.entry.batch == batch), None)

    def _shards(self, month: str) -> int:
        return 1 if self._subscription is None else shards_of(self._subscription)(month)


def _days(line: Line, day: date | None) -> Days:
    first, last = days_of(line)
    if day is None:
        return first, last
    if not first <= day <= last:
        raise Invalid("bad_day", "The day is not one of this line's.")
    return day, day


def _position(after: str, first: date, last: date) -> Position:
    try:
        day, shard, place = after.split("/", 2)
        found: Position = date.fromisoformat(day), int(shard), place or None
    except ValueError:
        found = last + timedelta(days=1), 0, None
    if not (first <= found[0] <= last and 0 <= found[1] < 1_000_000):
        raise Invalid("bad_cursor", "This cursor was not made for this list.")
    return found


def _held(entry: Entry, candidates: Sequence[bytes], bill: int, taken_by: str = "") -> Iterator[_Occurrence]:
    for digest in candidates:
        if _holds(entry.content.ids, digest):
            quantities = next(quantities for held, quantities in entry.content.rows() if held == digest)
            yield _Occurrence(entry, digest, quantities, bill, taken_by)


def _refused(
    invoice: Invoice, names: Sequence[tuple[str, str]], now: datetime, usage: Usage
) -> tuple[tuple[str, str], str] | None:
    """The event among what was refused of this subscription, newest days first: its name, and the refusal's code."""
    after, wanted = None, frozenset(names)
    identities = {identity for _, identity in names}
    for _ in range(LOTS):
        lots, after = usage.rejected(invoice.publisher, now, after=after, limit=1)
        for _, events, _ in lots:
            for each in events:
                if each["id"] not in identities:
                    continue
                told = _read(each["event"])
                name = told.get("source"), told.get("id")
                if name in wanted and told.get("subject") == invoice.subscription:
                    return (str(name[0]), str(name[1])), str(each["code"])
        if after is None:
            return None
    return None


def _read(event: bytes) -> dict[str, Any]:
    """A refused event's text, which may be anything."""
    try:
        told = json.loads(event)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _readings(event: str) -> Sequence[tuple[str, str]]:
    """The names that `source/id` may be: a slash may belong to either, so each is tried as the one between."""
    slashes = [at for at, letter in enumerate(event) if letter == "/" and 0 < at < len(event) - 1]
    if not 0 < len(slashes) <= MOST_READINGS:
        raise Invalid("bad_event", f"An event is named source/id, with at most {MOST_READINGS} slashes.")
    return [(event[:at], event[at + 1 :]) for at in slashes]


def _holds(ids: bytes, digest: bytes) -> bool:
    """Whether sorted ids hold one: by halves."""
    low, high = 0, len(ids) // ID_BYTES
    while low < high:
        middle = (low + high) // 2
        if ids[middle * ID_BYTES : (middle + 1) * ID_BYTES] < digest:
            low = middle + 1
        else:
            high = middle
    return ids[low * ID_BYTES : (low + 1) * ID_BYTES] == digest
