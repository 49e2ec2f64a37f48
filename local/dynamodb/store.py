"""Tables and their indexes in memory: partitions by hash key, each sorted by its range key.

A stored item is never changed, only replaced, so rows, images and index entries share their values. A partition is
one sorted list: an insertion costs a binary search and a memory move, microseconds up to 100,000 items a partition.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from operator import itemgetter
from typing import Any, cast
from zlib import crc32

from local.dynamodb.errors import InvalidOperationError
from local.dynamodb.values import Item, Value, item_size, sortable, text_size

MAXIMUM_HASH_KEY_BYTES = 2048
MAXIMUM_RANGE_KEY_BYTES = 1024
KEPT_CHANGES = 1_000_000

type Place = tuple[Any, Any]
"""Hash key and range key as they are sorted; the range key of a table without one is the empty string."""


@dataclass(frozen=True, slots=True)
class Row:
    """An item and its size in bytes."""

    item: Item
    size: int


class Partition:
    """Rows of one hash key, in the order of their range keys."""

    __slots__ = ("keys", "rows")

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.rows: dict[Any, Row] = {}

    def put(self, key: Any, row: Row) -> None:
        if key not in self.rows:
            if not self.keys or self.keys[-1] < key:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.rows[key] = row

    def remove(self, key: Any) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class Space:
    """All partitions of a table or of an index."""

    def __init__(self) -> None:
        self.partitions: dict[Any, Partition] = {}
        self._order: list[tuple[int, Any]] | None = None

    def get(self, place: Place) -> Row | None:
        partition = self.partitions.get(place[0])
        return None if partition is None else partition.rows.get(place[1])

    def put(self, place: Place, row: Row) -> None:
        partition = self.partitions.get(place[0])
        if partition is None:
            partition = self.partitions[place[0]] = Partition()
            self._order = None
        partition.put(place[1], row)

    def remove(self, place: Place) -> None:
        partition = self.partitions.get(place[0])
        if partition is None:
            return
        partition.remove(place[1])
        if not partition.rows:
            del self.partitions[place[0]]
            self._order = None

    def order(self) -> list[tuple[int, Any]]:
        """Partitions as a scan meets them: by a digest of the key, so that nobody relies on their order."""
        if self._order is None:
            self._order = sorted((scan_position(key), key) for key in self.partitions)
        return self._order


def scan_position(key: Any) -> int:
    """Where a hash key lies in the order of a scan: 32 bits."""
    return crc32(key if isinstance(key, bytes) else str(key).encode())


@dataclass(frozen=True, slots=True)
class Schema:
    """Key attributes and their types; `range` is empty when there is none."""

    hash: str
    hash_type: str
    range: str
    range_type: str

    def attributes(self) -> tuple[str, ...]:
        return (self.hash, self.range) if self.range else (self.hash,)

    def typed(self) -> tuple[tuple[str, str], ...]:
        head = ((self.hash, self.hash_type),)
        return (*head, (self.range, self.range_type)) if self.range else head


def _key_part(value: Value, name: str, kind: str, limit: int) -> Any:
    data = value.get(kind)
    if data is None:
        (found,) = value
        raise InvalidOperationError(
            f"One or more parameter values were invalid: Type mismatch for key {name} expected: {kind} actual: {found}"
        )
    if kind == "S":
        if not data:
            raise _empty_key(name, "string")
        if len(data) * 4 > limit and text_size(data) > limit:
            raise _long_key(limit)
        return data
    if kind == "N":
        return sortable(kind, data)
    if not data:
        raise _empty_key(name, "binary")
    if len(data) > limit:
        raise _long_key(limit)
    return data


def _empty_key(name: str, kind: str) -> InvalidOperationError:
    return InvalidOperationError(
        "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty "
        f"{kind} value. Key: {name}"
    )


def _long_key(limit: int) -> InvalidOperationError:
    which = "hashkey" if limit == MAXIMUM_HASH_KEY_BYTES else "rangekey"
    return InvalidOperationError(
        "One or more parameter values were invalid: "
        f"Size of {which} has exceeded the maximum size limit of {limit} bytes"
    )


@dataclass(slots=True)
class IndexChange:
    """An index entry to be replaced, waiting for its moment."""

    index: "Index"
    before: Item | None
    after: Item | None
    due_operation: int
    due_at: datetime | None


class Index:
    """A sparse secondary index: an item without every index key has no entry."""

    def __init__(
        self, name: str, schema: Schema, table: Schema, projection: str, included: frozenset[str], *, local: bool
    ) -> None:
        self.name = name
        self.schema = schema
        self.table = table
        self.projection = projection
        self.local = local
        self.attributes = included | {*schema.attributes(), *table.attributes()}
        self.space = Space()

    def check(self, item: Item) -> None:
        """Raises InvalidOperationError for an item whose index key has a wrong type or is empty."""
        for name, kind in self.schema.typed():
            value = item.get(name)
            if value is None:
                continue
            (found,) = value
            if found != kind:
                raise InvalidOperationError(
                    "One or more parameter values were invalid: "
                    f"Type mismatch for Index Key {name} Expected: {kind} Actual: {found} IndexName: {self.name}"
                )
            if kind in {"S", "B"} and not value[kind]:
                raise InvalidOperationError(
                    "One or more parameter values are not valid. A value specified for a secondary index key is not "
                    "supported. The AttributeValue for a key attribute cannot contain an empty "
                    f"{'string' if kind == 'S' else 'binary'} value. IndexName: {self.name}, IndexKey: {name}"
                )

    def place(self, item: Item) -> Place | None:
        """Where an item's entry lies: items with equal index keys are ordered by their table keys."""
        schema = self.schema
        head = item.get(schema.hash)
        if head is None:
            return None
        ranged: Any = ""
        if schema.range:
            value = item.get(schema.range)
            if value is None:
                return None
            ranged = sortable(schema.range_type, value[schema.range_type])
        table = self.table
        own_range = sortable(table.range_type, item[table.range][table.range_type]) if table.range else ""
        own_hash = sortable(table.hash_type, item[table.hash][table.hash_type])
        return sortable(schema.hash_type, head[schema.hash_type]), (ranged, own_hash, own_range)

    def entry(self, item: Item) -> Item:
        """The projected part of an item."""
        if self.projection == "ALL":
            return item
        return {name: value for name, value in item.items() if name in self.attributes}

    def apply(self, before: Item | None, after: Item | None) -> None:
        """Replace the entry of an item."""
        old = None if before is None else self.place(before)
        new = None if after is None else self.place(after)
        if old is not None and old != new:
            self.space.remove(old)
        if new is not None:
            entry = self.entry(cast("Item", after))
            self.space.put(new, Row(entry, item_size(entry)))


@dataclass(frozen=True, slots=True)
class Change:
    """One stream record. Images are copies; which are there depends on the table's StreamViewType."""

    sequence: int
    event: str
    """INSERT, MODIFY or REMOVE."""
    keys: Item
    old: Item | None
    new: Item | None
    at: datetime
    expired: bool
    """Removed because its time to live had passed."""


class Table:
    """Items of one table, its indexes, and what changed."""

    def __init__(self, name: str, schema: Schema, created: datetime, definition: Mapping[str, Any]) -> None:
        self.name = name
        self.schema = schema
        self.created = created
        self.definition = definition
        self.space = Space()
        self.indexes: dict[str, Index] = {}
        self.ttl_attribute: str | None = None
        self.view: str | None = None
        self.changes: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self.items = 0
        self.bytes = 0

    def place(self, item: Item) -> Place:
        """Where an item lies. Raises InvalidOperationError for a missing, empty or ill-typed key."""
        schema = self.schema
        value = item.get(schema.hash)
        if value is None:
            raise _missing_key(schema.hash)
        head = _key_part(value, schema.hash, schema.hash_type, MAXIMUM_HASH_KEY_BYTES)
        if not schema.range:
            return head, ""
        value = item.get(schema.range)
        if value is None:
            raise _missing_key(schema.range)
        return head, _key_part(value, schema.range, schema.range_type, MAXIMUM_RANGE_KEY_BYTES)

    def place_of_key(self, key: Item) -> Place:
        """Where the item with a key lies. Raises InvalidOperationError for anything but exactly the key."""
        schema = self.schema
        if len(key) != (2 if schema.range else 1) or any(
            kind not in key.get(name, ()) for name, kind in schema.typed()
        ):
            raise InvalidOperationError("The provided key element does not match the schema")
        return self.place(key)

    def changes_after(self, sequence: int) -> Iterator[Change]:
        """Kept changes with a later sequence number, in order."""
        if not self.changes:
            return iter(())
        skipped = max(0, sequence - self.changes[0].sequence + 1)
        return islice(self.changes, skipped, None)


def _missing_key(name: str) -> InvalidOperationError:
    return InvalidOperationError(f"One or more parameter values were invalid: Missing the key {name} in the item")


def successor(prefix: str | bytes) -> str | bytes | None:
    """The least key greater than every key that begins with the prefix; None when there is none."""
    if isinstance(prefix, bytes):
        trimmed = prefix.rstrip(b"\xff")
        return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
    text = prefix.rstrip("\U0010ffff")
    if not text:
        return None
    following = 0xE000 if text[-1] == "\ud7ff" else ord(text[-1]) + 1
    return text[:-1] + chr(following)


type Bounds = tuple[int, int]

_RANGE_OF_ENTRY: Callable[[Any], Any] = itemgetter(0)


def bounds(keys: list[Any], operator: str, operands: list[Any], *, entries: bool) -> Bounds:
    """Positions `[from, to)` of the keys that a range condition selects. `entries`: the keys of an index."""
    key = _RANGE_OF_ENTRY if entries else None
    first = operands[0]
    if operator == "=":
        return bisect_left(keys, first, key=key), bisect_right(keys, first, key=key)
    if operator == "<":
        return 0, bisect_left(keys, first, key=key)
    if operator == "<=":
        return 0, bisect_right(keys, first, key=key)
    if operator == ">":
        return bisect_right(keys, first, key=key), len(keys)
    if operator == ">=":
        return bisect_left(keys, first, key=key), len(keys)
    if operator == "BETWEEN":
        return bisect_left(keys, first, key=key), bisect_right(keys, operands[1], key=key)
    above = successor(first)
    low = bisect_left(keys, first, key=key)
    return low, len(keys) if above is None else bisect_left(keys, above, key=key)
