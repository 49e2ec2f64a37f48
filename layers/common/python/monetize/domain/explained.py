"""What stands behind an invoice's lines, in values: ledger entries, events, and where one of them went."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.lines import Line

_INSTANT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerBatch:
    """One ledger entry as far as a line counts it. `quantity` is of the line's meter, before events seen twice are
    taken out. `taken`: late entries only, by this bill."""

    batch: str
    day: date
    shard: int
    late: bool
    events: int
    quantity: int
    taken: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event by the digest of its (source, id): 96 bits, hexadecimal."""

    digest: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an event stands in the ledger. Only the first place counts: `counted`."""

    batch: str
    day: date
    late: bool
    counted: bool
    quantities: tuple[tuple[str, int], ...]  # (meter, quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAnswer:
    """Whether one event is in this invoice. `why`: billed, not_received, late_for_another_bill, counts_nothing."""

    digest: str
    billed: bool
    why: str
    lines: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """An invoice with its frozen lines."""

    invoice: Invoice
    content: BillLines


def days_of(line: Line) -> tuple[date, date]:
    """First and last UTC day of a line's usage."""
    return line.period.start.date(), (line.period.end - _INSTANT).date()


def rated_days(explained: Explained, line: Line) -> tuple[tuple[date, int], ...]:
    """What the line's meter counted on each day, as it was rated."""
    first, last = days_of(line)
    return tuple(
        (day, used) for meter, day, used in explained.content.usage if meter == line.meter and first <= day <= last
    )
