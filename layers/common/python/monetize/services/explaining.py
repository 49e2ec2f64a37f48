"""Why an invoice says what it says: line → price step → day → ledger batches → event ids; and where one event went."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import Final, Protocol

from monetize.domain.errors import Invalid, NotFound
from monetize.domain.explained import Event, EventAnswer, Explained, LedgerBatch, Place, days_of
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.lines import Line
from monetize.domain.meters import Meter
from monetize.domain.subscriptions import Subscription
from monetize.domain.usage import ID_BYTES, Entry, LateEntry, event_id

MOST_BATCHES: Final = 1_000
MOST_EVENTS: Final = 5_000


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

    def late_entries(self, subscription: str, first: date, last: date) -> tuple[LateEntry, ...]: ...


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


def batches(explained: Explained, line: str, day: date | None, store: Store, usage: Usage) -> tuple[LedgerBatch, ...]:
    """The ledger entries behind a line, or behind one of its days; the first 1,000."""
    wanted = line_of(explained, line)
    if wanted.meter is None:
        return ()
    first, last = days_of(wanted)
    if day is not None:
        if not first <= day <= last:
            raise Invalid("bad_day", "The day is not one of this line's.")
        first = last = day
    short = _short(explained, wanted.meter, store)
    found = []
    for entry, taken in _entries(explained, first, last, store, usage):
        quantity = entry.content.totals().get(short, 0)
        if quantity:
            found.append(
                LedgerBatch(
                    batch=entry.batch,
                    day=entry.day,
                    shard=entry.shard,
                    late=entry.late,
                    events=entry.content.events,
                    quantity=quantity,
                    taken=taken,
                )
            )
        if len(found) >= MOST_BATCHES:
            break
    return tuple(found)


def events(explained: Explained, line: str, day: date, batch: str, store: Store, usage: Usage) -> tuple[Event, ...]:
    """The events of one ledger entry that a line counts; the first 5,000. NotFound `unknown_batch`."""
    wanted = line_of(explained, line)
    short = _short(explained, wanted.meter or "", store)
    for entry, _ in _entries(explained, day, day, store, usage):
        if entry.batch == batch:
            counted = ((event, quantities.get(short, 0)) for event, quantities in entry.content.rows())
            rows = [Event(digest=event.hex(), quantity=quantity) for event, quantity in counted if quantity]
            return tuple(rows[:MOST_EVENTS])
    raise NotFound("unknown_batch", "There is no such ledger entry on that day.")


def find(explained: Explained, event: str, store: Store, usage: Usage) -> EventAnswer:
    """Whether and where one event was billed; `event` is `source/id`. Both may hold slashes: every reading is tried."""
    candidates = _digests(event)
    meters = {meter.short: meter.id for meter in store.meters(explained.invoice.publisher)}
    spans = [days_of(line) for line in explained.content.lines if line.meter is not None]
    if not spans:
        return EventAnswer(digest=candidates[-1].hex(), billed=False, why="not_received")
    first, last = min(first for first, _ in spans), max(last for _, last in spans)
    found: list[tuple[Entry, bool, bytes, dict[int, int]]] = []
    for entry, taken in _entries(explained, first, last, store, usage):
        for digest in candidates:
            if _holds(entry.content.ids, digest):
                quantities = next(quantities for held, quantities in entry.content.rows() if held == digest)
                found.append((entry, taken, digest, quantities))
    if not found:
        return EventAnswer(digest=candidates[-1].hex(), billed=False, why="not_received")
    digest = found[0][2]
    found.sort(key=lambda each: (each[0].day, each[0].batch, each[0].late))
    winner = next((each for each in found if each[1]), None)
    places = tuple(
        Place(
            batch=entry.batch,
            day=entry.day,
            late=entry.late,
            counted=winner is not None and winner[0] is entry,
            quantities=tuple((meters.get(short, str(short)), quantity) for short, quantity in quantities.items()),
        )
        for entry, _, _, quantities in found
    )
    if winner is None:
        return EventAnswer(digest=digest.hex(), billed=False, why="late_for_another_bill", places=places)
    entry, _, _, quantities = winner
    counted = {meters.get(short) for short in quantities}
    lines = tuple(
        line.id
        for line in explained.content.lines
        if line.meter in counted and days_of(line)[0] <= entry.day <= days_of(line)[1]
    )
    why = "billed" if lines else "counts_nothing"
    return EventAnswer(digest=digest.hex(), billed=bool(lines), why=why, lines=lines, places=places)


def _entries(explained: Explained, first: date, last: date, store: Store, usage: Usage) -> Iterator[tuple[Entry, bool]]:
    """Ledger entries and late ones of those days, and whether this bill counts them."""
    invoice, content = explained.invoice, explained.content
    subscription = store.subscription(invoice.subscription)
    shards = dict(subscription.shards) if subscription is not None else {}
    for entry in usage.entries(invoice.subscription, first, last, lambda month: shards.get(month, 1)):
        yield entry, True
    mine = set(content.late)
    for late in usage.late_entries(invoice.subscription, first, last):
        if late.entry is not None:
            yield late.entry, late.ref in mine


def _short(explained: Explained, meter: str, store: Store) -> int:
    return next((each.short for each in store.meters(explained.invoice.publisher) if each.id == meter), 0)


def _digests(event: str) -> Sequence[bytes]:
    """The digests that `source/id` may have: a slash may belong to either, so each is tried as the one between."""
    if "/" not in event.strip("/") or len(event) > 2_000:
        raise Invalid("bad_event", "An event is named source/id.")
    slashes = [at for at, letter in enumerate(event) if letter == "/" and 0 < at < len(event) - 1]
    return [event_id(event[:at], event[at + 1 :]) for at in slashes]


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
