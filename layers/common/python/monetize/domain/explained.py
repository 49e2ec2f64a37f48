"""What stands behind an invoice's lines, in values: ledger entries, events, and where one of them went."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal

from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.lines import Line
from monetize.domain.rating import roll_up
from monetize.domain.subscriptions import bill_name

_INSTANT: Final = timedelta(microseconds=1)


type Kind = Literal["events", "correction", "repeated"]
"""What stands in the ledger: a batch of events; a person's correction; what exact counting took out again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerBatch:
    """One ledger entry as far as a line counts it.

    `quantity` is of the line's meter, of events before those seen twice are taken out; negative where a correction or
    exact counting takes away. `late`: after its day was sealed. `taken`: by this bill; what it did not take is
    another's, also where a correction line counts its day anew.
    """

    batch: str
    day: date
    quantity: int
    kind: Kind = "events"
    shard: int = 0
    late: bool = False
    events: int = 0
    taken: bool = True
    reason: str = ""  # of a correction, in its author's words


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some entries, and the position after them."""

    items: tuple[LedgerBatch, ...]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event by the digest of its (source, id): 96 bits, hexadecimal."""

    digest: str
    quantity: int


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events of one entry, and the position after them."""

    items: tuple[Event, ...]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an event stands in the ledger. `counted`: by this bill, at most one place of an event."""

    batch: str
    day: date
    late: bool
    counted: bool
    quantities: tuple[tuple[str, int], ...]  # (meter, quantity)
    taken_by: str = ""  # of a late one: the bill that took it


type Why = Literal[
    "billed",  # one of the lines counts it
    "counts_nothing",  # received and counted; no line charges for what it counts
    "changes_nothing",  # late; with it the earlier period costs what it cost before
    "in_another_bill",  # its day, or an earlier arrival of it, is another bill's
    "late_for_another_bill",  # too late for this one: a later one took it
    "late_waiting",  # too late for this one: the next bill takes it
    "sandbox",  # counted apart, and never billed
    "rejected",  # refused when it came: `code` says why
    "not_received",  # not on the days that this bill charges
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAnswer:
    """Whether one event is in this invoice, and why so.

    `conflict`: the same id came with another day or quantity; the first of its places counts. `code`: of a refusal.
    """

    digest: str
    billed: bool
    why: Why
    conflict: bool = False
    code: str = ""
    lines: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """An invoice with its frozen lines."""

    invoice: Invoice
    content: BillLines


def sent_as(explained: Explained) -> dict[str, str]:
    """By which line of the sent invoice each line is charged: its own, or the one that it was rolled up into."""
    charged = [each for each in explained.content.lines if each.amount]
    own = {each.id for each in roll_up(charged)}
    groups: dict[tuple[object, ...], int] = {}
    found = {}
    for each in charged:
        if each.id in own:
            found[each.id] = each.id
        else:
            group = each.plan, each.version, each.tax_behavior, each.tax_code
            found[each.id] = f"rolled_up:{groups.setdefault(group, len(groups))}"
    return found


def carried_from(explained: Explained, line: Line) -> tuple[str, ...]:
    """Which bills left the credit that a line carries: the one before, and those let off that had taken it."""
    if line.kind != "carry":
        return ()
    content = explained.content
    edges = (*((content.since,) if content.since is not None else ()), *content.restored)
    return tuple(bill_name(content.subscription, edge) for edge in edges)


def days_of(line: Line) -> tuple[date, date]:
    """First and last UTC day of a line's usage."""
    return line.period.start.date(), (line.period.end - _INSTANT).date()


def rated_days(explained: Explained, line: Line) -> tuple[tuple[date, int], ...]:
    """What the line's meter counted on each day, as it was rated."""
    first, last = days_of(line)
    return tuple(
        (day, used) for meter, day, used in explained.content.usage if meter == line.meter and first <= day <= last
    )
