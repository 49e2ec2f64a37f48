"""Consumed capacity units, by the arithmetic of the developer guide's page "Read and write operations"."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from local.dynamodb.store import Index, Row, Table
from local.dynamodb.values import Item, item_size

WRITE_UNIT_BYTES = 1024
READ_UNIT_BYTES = 4096
HALF = Decimal("0.5")
TRANSACTIONAL = 2


@dataclass(slots=True)
class Consumed:
    """Units of one table in one call."""

    table: Decimal = Decimal(0)
    indexes: dict[str, Decimal] = field(default_factory=dict)

    def add(self, other: "Consumed") -> None:
        self.table += other.table
        for name, units in other.indexes.items():
            self.indexes[name] = self.indexes.get(name, Decimal(0)) + units

    def total(self) -> Decimal:
        return self.table + sum(self.indexes.values())


def write_units(size: int) -> int:
    """One unit for each KB begun, at least one."""
    return max(1, -(-size // WRITE_UNIT_BYTES))


def read_units(size: int, *, consistent: bool) -> Decimal:
    """One unit for each 4 KB begun, at least one; half of that when eventually consistent."""
    units = max(1, -(-size // READ_UNIT_BYTES))
    return Decimal(units) if consistent else units * HALF


def of_write(table: Table, before: Row | None, after: Row | None, factor: int = 1) -> Consumed:
    """What a write costs: by the larger of the two sizes of the item, and by each index entry it touches.

    `factor` is 2 in a transaction. Index entries are written behind the transaction and are charged once.
    """
    size = max(before.size if before else 0, after.size if after else 0)
    consumed = Consumed(Decimal(write_units(size) * factor))
    for index in table.indexes.values():
        units = _index_units(index, before.item if before else None, after.item if after else None)
        if units:
            consumed.indexes[index.name] = Decimal(units)
    return consumed


def _index_units(index: Index, before: Item | None, after: Item | None) -> int:
    old_place = None if before is None else index.place(before)
    new_place = None if after is None else index.place(after)
    old = index.entry(before) if before is not None and old_place is not None else None
    new = index.entry(after) if after is not None and new_place is not None else None
    if old == new:
        return 0
    old_units = 0 if old is None else write_units(item_size(old))
    new_units = 0 if new is None else write_units(item_size(new))
    if old_place == new_place:
        return max(old_units, new_units)
    return old_units + new_units


def answered(table: Table, consumed: Consumed, detail: str, direction: str | None = None) -> dict[str, Any]:
    """A `ConsumedCapacity`. `direction`, "Read" or "Write", is told for transactions only."""
    answer: dict[str, Any] = {"TableName": table.name, **_units(consumed.total(), direction)}
    if detail == "INDEXES":
        answer["Table"] = _units(consumed.table, direction)
        for key, local in (("GlobalSecondaryIndexes", False), ("LocalSecondaryIndexes", True)):
            touched = {
                name: _units(units, direction)
                for name, units in consumed.indexes.items()
                if table.indexes[name].local is local
            }
            if touched:
                answer[key] = touched
    return answer


def _units(units: Decimal, direction: str | None) -> dict[str, float]:
    plain = {"CapacityUnits": float(units)}
    return {**plain, f"{direction}CapacityUnits": float(units)} if direction else plain


def all_answered(
    consumed: Mapping[str, Consumed], tables: Mapping[str, Table], detail: str, direction: str | None = None
) -> list[dict[str, Any]]:
    """`ConsumedCapacity` of a call on several tables."""
    return [answered(tables[name], units, detail, direction) for name, units in consumed.items()]


def summed(parts: Iterable[tuple[str, Consumed]]) -> dict[str, Consumed]:
    """Units by table."""
    totals: dict[str, Consumed] = {}
    for name, part in parts:
        totals.setdefault(name, Consumed()).add(part)
    return totals
