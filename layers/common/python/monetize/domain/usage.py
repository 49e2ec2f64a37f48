"""What was used: packed event ids, batches named by their content, and exact totals over any number of them. Pure."""

from array import array
from base64 import urlsafe_b64encode
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from sys import byteorder
from typing import Final, Protocol

from monetize.domain.meters import Meter
from monetize.domain.subscriptions import usage_closes_at

ID_BYTES: Final = 12  # 96 bits: a collision among 10^9 events has a chance of 10^-11
BATCH_ID_BYTES: Final = 16
CORRECTABLE_DAYS: Final = 92  # a quarter; bills look back so far for what came late

# `"1"`…`"v"` is the day of the month: with a meter's number behind it, 93 names of three meters stay far under 1 KB.
_DAY_NAMES: Final = "0123456789abcdefghijklmnopqrstuv"
_ARRAYS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}

type Column = int | bytes
"""Quantities of one meter: one number for all events, or a byte that tells the width and little-endian numbers."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One ledger entry's content: sorted event ids of `ID_BYTES`, one after another, and quantities by meter number."""

    ids: bytes
    columns: Mapping[int, Column]

    @property
    def events(self) -> int:
        """How many."""
        return len(self.ids) // ID_BYTES

    def totals(self) -> dict[int, int]:
        """Quantity by meter number."""
        events = self.events
        return {short: _total(column, events) for short, column in self.columns.items()}

    def rows(self) -> Iterator[tuple[bytes, dict[int, int]]]:
        """Each event: its id, and what it counts by meter number (nothing where it counts nothing)."""
        columns = {short: _values(column, self.events) for short, column in self.columns.items()}
        for at, event in enumerate(_unpack(self.ids)):
            yield event, {short: values[at] for short, values in columns.items() if values[at]}


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch where it stands: whose day, under which name, in which shard; `late` when the day was sealed."""

    day: date
    batch: str
    content: Batch
    shard: int = 0
    late: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that was not taken, where it stood in the request, and its text."""

    index: int
    id: str
    code: str
    event: bytes = b""


@dataclass(slots=True)
class Group:
    """Events of one subscription, environment and day: one ledger entry."""

    subscription: str
    sandbox: bool
    day: date
    rows: dict[bytes, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    indexes: list[int] = field(default_factory=list)
    content: Batch = field(default_factory=lambda: Batch(b"", {}))
    batch: str = ""
    shard: int = 0
    shards: int = 1
    named: bool = False  # by the sender's Idempotency-Key: the content is compared

    def seal_content(self, named: str) -> None:
        """Pack what was gathered, and name it."""
        self.content = pack(self.rows)
        self.batch = named or batch_id(self.content)
        self.named = bool(named)
        self.shard = shard_of(self.batch, self.shards)


class Outcome(Enum):
    """What became of a group."""

    NEW = "accepted"
    DUPLICATE = "duplicates"
    LATE = "late"
    REUSED = "reused"
    RETRY = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What must be known of a subscription to take its events. `first_day` None: not active yet.

    `ended_at` is its end, also one that is still to come.
    """

    id: str
    publisher: str
    first_day: date | None
    ended_at: datetime | None = None
    shards: tuple[tuple[str, int], ...] = ()

    def shards_in(self, month: str) -> int:
        """Partitions its usage is spread over in a month `yyyy-mm`."""
        return next((count for when, count in self.shards if when == month), 1)

    def closed(self, at: datetime, grace_hours: int) -> bool:
        """Whether its last bill may have been made: what would come now could not be billed any more."""
        return self.ended_at is not None and at >= usage_closes_at(self.ended_at, grace_hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """What must be known of a publisher: its meters and how long it takes late events."""

    publisher: str
    meters: tuple[Meter, ...]
    late_window_days: int = 35
    grace_hours: int = 24
    clock_offset: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class LateEntry:
    """What came after its day was sealed, or a correction of a sealed day. `ref` names it within its subscription."""

    ref: str
    day: date
    quantities: Mapping[int, int]  # by meter number; a correction's may be negative
    received_at: datetime
    taken_by: str = ""  # the bill that took it
    entry: Entry | None = None  # None: a correction
    reason: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """Quantity added to or taken from a day by a person, in the open period."""

    id: str
    day: date
    quantities: Mapping[int, int]
    reason: str
    author: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What exact counting took out of a day: number `n` of that day."""

    day: date
    number: int
    quantities: Mapping[int, int]  # by meter number, negative
    batches: tuple[str, ...]
    examined: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Counters:
    """Live totals by (day, meter number), and through which day each month's shards are sealed."""

    totals: Mapping[tuple[date, int], int]
    sealed_through: Mapping[str, date | None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a subscription's partitions hold of some days, late entries apart.

    Each partition was read in this order: adjustments, entries, corrections, and its counter last. `entries` is None
    where they were too many to hold.
    """

    adjustments: tuple[Adjustment, ...]
    entries: tuple[Entry, ...] | None
    corrections: tuple[Correction, ...]
    totals: Mapping[tuple[date, int], int]


class LedgerMismatch(Exception):
    """Ledger and counter of a subscription disagree: nothing is billed until somebody has looked."""

    code = "ledger_mismatch"

    def __init__(self, subscription: str, first: date, last: date) -> None:
        super().__init__(f"{self.code}: {subscription} {first} {last}")
        self.subscription = subscription
        self.first = first
        self.last = last


class Hasher(Protocol):
    """A hash begun, to be copied for every event of one source."""

    def copy(self) -> "Hasher": ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


def hasher(source: str) -> Hasher:
    """The hash of a source's events: copy it, add the id, take the digest."""
    # The length makes two pairs that read alike end to end two events.
    return blake2b(f"{len(source)} {source}".encode(), digest_size=ID_BYTES)


def event_id(source: str, identity: str) -> bytes:
    """96 bits of (source, id): CloudEvents' own uniqueness rule (specification 1.0, `id`)."""
    hashed = hasher(source)
    hashed.update(identity.encode())
    return hashed.digest()


def pack(rows: Mapping[bytes, tuple[tuple[int, ...], tuple[int, ...]]]) -> Batch:
    """Event id → (meter numbers, quantities), the quantities in the meters' order."""
    order = sorted(rows)
    values = [rows[each] for each in order]
    first = values[0][0]
    if all(shorts is first for shorts, _ in values):
        columns = {
            short: _column(column)
            for short, column in zip(first, zip(*[quantities for _, quantities in values], strict=True), strict=True)
        }
    else:
        dense = [dict(zip(shorts, quantities, strict=True)) for shorts, quantities in values]
        every = sorted({short for each in dense for short in each})
        columns = {short: _column([each.get(short, 0) for each in dense]) for short in every}
    # A meter that nothing matched is not a column.
    return Batch(b"".join(order), {short: column for short, column in columns.items() if column != 0})


def batch_id(content: Batch) -> str:
    """A batch's name by its content alone: a resent batch finds itself."""
    digest = blake2b(content.ids, digest_size=BATCH_ID_BYTES, person=b"usage batch")
    for short, column in sorted(content.columns.items()):
        encoded = column if isinstance(column, bytes) else str(column).encode()
        digest.update(b"%d:%d:" % (short, len(encoded)))
        digest.update(encoded)
    return _text(digest.digest())


def named_batch_id(owner: str, key: str) -> str:
    """A batch's name by the name its sender gave it."""
    return _text(blake2b(f"{owner}\n{key}".encode(), digest_size=BATCH_ID_BYTES, person=b"usage key").digest())


def shard_of(batch: str, shards: int) -> int:
    """Where a batch stands among its subscription's shards: a function of its name, so a resent one comes back."""
    return 0 if shards <= 1 else int.from_bytes(blake2b(batch.encode(), digest_size=4).digest()) % shards


@lru_cache(maxsize=8192)
def counter_name(day_of_month: int, short: int) -> str:
    """The counter's attribute for a day and a meter's number: `h3` is day 17 of meter 3."""
    return f"{_DAY_NAMES[day_of_month]}{short}"


def counter_key(name: str) -> tuple[int, int] | None:
    """The day and the meter's number of a counter's attribute; None for the item's other attributes."""
    day, short = _DAY_NAMES.find(name[:1]), name[1:]
    return (day, int(short)) if day > 0 and short.isascii() and short.isdigit() else None


def months_of(first: date, last: date) -> Iterator[str]:
    """Every month (`yyyy-mm`) from one day to another, both included."""
    year, month = first.year, first.month
    while (year, month) <= (last.year, last.month):
        yield f"{year:04d}-{month:02d}"
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)


def last_day(month: str) -> date:
    """The last day of a month `yyyy-mm`."""
    year, number = int(month[:4]), int(month[5:])
    return date(year + number // 12, number % 12 + 1, 1) - timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One event id with two meanings: the first counts, the other does not, and somebody should look."""

    event: bytes
    counted: tuple[date, str]
    ignored: tuple[date, str]


@dataclass(slots=True)
class Exact:
    """Totals over distinct events. `removed` is what the repetitions had added, by the day they were counted on."""

    received: dict[tuple[date, int], int] = field(default_factory=dict)
    removed: dict[tuple[date, int], int] = field(default_factory=dict)
    repeated_in: dict[date, set[str]] = field(default_factory=dict)
    events: int = 0
    duplicates: int = 0
    conflicts: list[Conflict] = field(default_factory=list)

    def totals(self) -> dict[tuple[date, int], int]:
        """Quantity by (day, meter number), each distinct event once."""
        return {key: quantity - self.removed.get(key, 0) for key, quantity in self.received.items()}


type Name = tuple[date, str, bool]  # of an entry: day, batch, late

MAX_CONFLICTS: Final = 1000  # kept by name; the count of duplicates holds them all
_PASS_IDS: Final = 6_000_000
_BUCKET_IDS: Final = 150_000


def distinct(entries: Callable[[], Iterable[Entry]]) -> Exact:
    """Count every event once, over all entries; the lowest (day, batch) wins. `entries` may be read several times.

    Memory: 16 bytes an event of one pass (6 million events), not more with more events: the id space is then cut in
    ranges, one reading each.
    """
    found = Exact()
    names: set[Name] = set()
    for entry in entries():
        names.add((entry.day, entry.batch, entry.late))
        found.events += entry.content.events
        for short, quantity in entry.content.totals().items():
            key = (entry.day, short)
            found.received[key] = found.received.get(key, 0) + quantity
    # The smaller rank wins. What arrives between two readings has no rank and waits for the next run.
    ranks = {name: rank for rank, name in enumerate(sorted(names))}
    passes = -(-found.events // _PASS_IDS) or 1
    for at in range(passes):
        repeats = _repeats(entries, ranks, at, passes, found.events)
        if repeats:
            _take_out(entries, ranks, repeats, found)
    return found


def _edges(at: int, passes: int, buckets: int) -> list[bytes]:
    """The first ids of the buckets of one pass, without the pass's own beginning; the last edge ends the pass."""
    space = 1 << 64
    low, high = space * at // passes, space * (at + 1) // passes
    edges = [low + (high - low) * step // buckets for step in range(buckets + 1)]
    return [min(edge, space - 1).to_bytes(8) if edge < space else b"\xff" * (ID_BYTES + 1) for edge in edges]


def _repeats(
    entries: Callable[[], Iterable[Entry]], ranks: Mapping[Name, int], at: int, passes: int, events: int
) -> dict[int, bytearray]:
    """Ids that stand in more than one entry, within one range of the id space: by the rank of every entry of theirs."""
    buckets = max(1, events // passes // _BUCKET_IDS)
    edges = _edges(at, passes, buckets)
    ids = [bytearray() for _ in range(buckets)]
    owners = [array("I") for _ in range(buckets)]
    for entry in entries():
        number = ranks.get((entry.day, entry.batch, entry.late))
        if number is None:
            continue
        packed = entry.content.ids
        unpacked = _unpack(packed)
        rank = array("I", (number,))
        low = bisect_left(unpacked, edges[0])
        for bucket in range(buckets):
            high = bisect_left(unpacked, edges[bucket + 1], low)
            if high > low:
                ids[bucket] += packed[low * ID_BYTES : high * ID_BYTES]
                owners[bucket] += rank * (high - low)
                low = high
    repeats: dict[int, bytearray] = {}
    for bucket in range(buckets):
        _repeats_in(ids[bucket], owners[bucket], repeats)
        ids[bucket], owners[bucket] = bytearray(), array("I")
    return repeats


def _repeats_in(ids: bytearray, owners: Sequence[int], repeats: dict[int, bytearray]) -> None:
    unpacked = _unpack(ids)
    if len(set(unpacked)) == len(unpacked):
        return
    first: dict[bytes, int] = {}
    for event, rank in zip(unpacked, owners, strict=True):
        was = first.setdefault(event, rank)
        if was == rank:
            continue
        if was >= 0:
            repeats.setdefault(was, bytearray()).extend(event)
            first[event] = -1  # its first place is known to the rest
        repeats.setdefault(rank, bytearray()).extend(event)


def _take_out(
    entries: Callable[[], Iterable[Entry]], ranks: Mapping[Name, int], repeats: dict[int, bytearray], found: Exact
) -> None:
    """Reread what the repeated events counted, decide who wins, take the others out."""
    meanings: dict[bytes, list[tuple[int, date, str, dict[int, int]]]] = {}
    for entry in entries():
        rank = ranks.get((entry.day, entry.batch, entry.late), -1)
        wanted = repeats.get(rank)
        if wanted is None:
            continue
        ours = set(_unpack(wanted))
        for event, quantities in entry.content.rows():
            if event in ours:
                meanings.setdefault(event, []).append((rank, entry.day, entry.batch, quantities))
    for event, places in meanings.items():
        places.sort(key=lambda place: place[0])
        _, day, batch, counted = places[0]
        for _, other_day, other_batch, quantities in places[1:]:
            found.duplicates += 1
            found.repeated_in.setdefault(other_day, set()).add(other_batch)
            for short, quantity in quantities.items():
                key = (other_day, short)
                found.removed[key] = found.removed.get(key, 0) + quantity
            if (other_day != day or quantities != counted) and len(found.conflicts) < MAX_CONFLICTS:
                found.conflicts.append(Conflict(event, (day, batch), (other_day, other_batch)))


def _column(values: Sequence[int]) -> Column:
    first = values[0]
    if values.count(first) == len(values):
        return first
    width = (max(values).bit_length() + 7) // 8
    if width == 1:
        return b"\x01" + bytes(values)
    code = _ARRAYS.get(width)
    if code is None:
        return bytes((width,)) + b"".join([value.to_bytes(width, "little") for value in values])
    numbers = array(code, values)
    if byteorder == "big":
        numbers.byteswap()
    return bytes((width,)) + numbers.tobytes()


def _values(column: Column, events: int) -> Sequence[int]:
    if isinstance(column, int):
        return (column,) * events
    width = column[0]
    if width == 1:
        return column[1:]
    code = _ARRAYS.get(width)
    if code is None:
        return [int.from_bytes(column[at : at + width], "little") for at in range(1, len(column), width)]
    numbers = array(code, column[1:])
    if byteorder == "big":
        numbers.byteswap()
    return numbers


def _total(column: Column, events: int) -> int:
    return column * events if isinstance(column, int) else sum(_values(column, events))


@lru_cache(maxsize=512)
def _unpacker(events: int) -> Struct:
    return Struct(f"{ID_BYTES}s" * events)


def _unpack(packed: bytes | bytearray) -> tuple[bytes, ...]:
    events = len(packed) // ID_BYTES
    # A format of this length is compiled once for each usual size, not for buckets of a hundred thousand.
    unpacker = _unpacker(events) if events <= 5000 else Struct(f"{ID_BYTES}s" * events)
    return unpacker.unpack(packed)


def _text(digest: bytes) -> str:
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
