"""The batches behind a day's numbers, for whoever wants to check them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from monetize.domain.errors import Invalid
from monetize.domain.usage import Entry, Metered, Metering


class Ledger(Protocol):
    """What was received."""

    def batches(
        self, subscription: str, day: date, shard: int, *, after: str | None, limit: int
    ) -> tuple[tuple[tuple[Entry, datetime], ...], str | None]: ...


class Facts(Protocol):
    """What a publisher's meters are."""

    def metering(self, publisher: str, now: datetime, *, fresh: bool = False) -> Metering: ...


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch: `quantities` by meter id."""

    batch: str
    shard: int
    events: int
    quantities: Mapping[str, int]
    received_at: datetime


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some batches, and the position after them: shard and batch."""

    items: tuple[BatchRow, ...]
    after: str | None


def batches(
    subscription: Metered, day: date, after: str | None, limit: int, now: datetime, ledger: Ledger, facts: Facts
) -> BatchPage:
    """Batches of one day, shard by shard. Invalid `bad_cursor`."""
    shards = subscription.shards_in(f"{day:%Y-%m}")
    shard, position = _position(after, shards)
    names = {meter.short: meter.id for meter in facts.metering(subscription.publisher, now).meters}
    rows: list[BatchRow] = []
    while shard < shards and len(rows) < limit:
        found, position = ledger.batches(subscription.id, day, shard, after=position, limit=limit - len(rows))
        rows += [_row(entry, received_at, names) for entry, received_at in found]
        if position is not None:
            return BatchPage(tuple(rows), f"{shard}:{position}")
        shard += 1
    return BatchPage(tuple(rows), f"{shard}:" if shard < shards else None)


def _row(entry: Entry, received_at: datetime, names: Mapping[int, str]) -> BatchRow:
    totals = entry.content.totals()
    quantities = {names.get(short, str(short)): quantity for short, quantity in sorted(totals.items())}
    return BatchRow(entry.batch, entry.shard, entry.content.events, quantities, received_at)


def _position(after: str | None, shards: int) -> tuple[int, str | None]:
    if after is None:
        return 0, None
    shard, colon, position = after.partition(":")
    if not colon or not shard.isascii() or not shard.isdigit() or len(shard) > 6 or int(shard) >= shards:
        raise Invalid("bad_cursor", "This cursor was not made for this list.")
    return int(shard), position or None
