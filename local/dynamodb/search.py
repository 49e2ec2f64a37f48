"""Query and scan: which rows a request selects, in which order, and where a page ends."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from local.dynamodb import expressions
from local.dynamodb.errors import InvalidRequestError
from local.dynamodb.expressions import CompiledCondition, Resolved
from local.dynamodb.store import Index, Place, Row, Schema, Space, Table, bounds, scan_position
from local.dynamodb.values import Value, sortable

PAGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Symbols:
    """Names and values of one request."""

    names: Mapping[str, str]
    values: Mapping[str, Value]


@dataclass(slots=True)
class Page:
    """What a query or scan met."""

    rows: list[Row]
    scanned: int
    size: int
    last: Row | None
    """The last row met, when the page ended before the rows did."""


@dataclass(slots=True)
class Search:
    """A checked query or scan."""

    table: Table
    index: Index | None
    symbols: Symbols
    filter: CompiledCondition | None
    paths: list[Resolved] | None

    @property
    def schema(self) -> Schema:
        return self.table.schema if self.index is None else self.index.schema

    @property
    def space(self) -> Space:
        return self.table.space if self.index is None else self.index.space

    def key_attributes(self) -> tuple[str, ...]:
        own = self.table.schema.attributes()
        return own if self.index is None else (*self.index.schema.attributes(), *own)


def key_bounds(
    compiled: expressions.CompiledKeyCondition, symbols: Symbols, keys: Schema
) -> tuple[Any, tuple[str, list[Any]] | None]:
    """The hash key of a query, and its condition on the range key."""
    tests: dict[Any, expressions.KeyTest] = {}
    for test in compiled.tests:
        path = test.path.resolved(symbols.names)
        if path[0] in tests:
            raise InvalidRequestError("KeyConditionExpressions must only contain one condition per key")
        if len(path) > 1:
            raise InvalidRequestError("KeyConditionExpressions cannot have conditions on nested attributes")
        tests[path[0]] = test
    if keys.hash not in tests:
        raise InvalidRequestError(f"Query condition missed key schema element: {keys.hash}")
    if len(tests) > 1 and keys.range not in tests:
        raise InvalidRequestError(
            f"Query condition missed key schema element: {keys.range}"
            if keys.range
            else "Query key condition not supported"
        )
    if len(tests) > len(keys.attributes()):
        raise InvalidRequestError("Conditions can be of length 1 or 2 only")
    if tests[keys.hash].operator != "=":
        raise InvalidRequestError("Query key condition not supported")
    (head,) = _key_operands(tests[keys.hash], symbols, keys.hash, keys.hash_type)
    if len(tests) == 1:
        return head, None
    test = tests[keys.range]
    return head, (test.operator, _key_operands(test, symbols, keys.range, keys.range_type))


def _key_operands(test: expressions.KeyTest, symbols: Symbols, name: str, kind: str) -> list[Any]:
    found: list[Any] = []
    for operand in test.operands:
        value = symbols.values[operand]
        if kind not in value or (test.operator == "begins_with" and kind == "N"):
            raise InvalidRequestError(
                "One or more parameter values were invalid: Condition parameter type does not match schema type"
            )
        if not value[kind]:
            raise InvalidRequestError(
                "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain "
                f"an empty {'string' if kind == 'S' else 'binary'} value. Key: {name}"
            )
        found.append(sortable(kind, value[kind]))
    return found


def check_filter(condition: CompiledCondition, search: Search) -> None:
    keys = search.schema.attributes()
    for path in condition.symbols.paths:
        name = path.resolved(search.symbols.names)[0]
        if name in keys:
            raise InvalidRequestError(
                f"Filter Expression can only contain non-primary key attributes: Primary key attribute: {name}"
            )


def check_select(request: Mapping[str, Any], search: Search) -> None:
    select = request.get("Select")
    if search.paths is not None and select not in {None, "SPECIFIC_ATTRIBUTES"}:
        raise InvalidRequestError(f"Cannot specify the ProjectionExpression when choosing to get {select}")
    if select == "SPECIFIC_ATTRIBUTES" and search.paths is None:
        raise InvalidRequestError(
            "Must specify the AttributesToGet or ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES"
        )  # one message
    index = search.index
    if index is None:
        if select == "ALL_PROJECTED_ATTRIBUTES":
            raise InvalidRequestError("ALL_PROJECTED_ATTRIBUTES can be used only when Querying using an IndexName")
        return
    if index.local or index.projection == "ALL":
        return
    if select == "ALL_ATTRIBUTES":
        raise InvalidRequestError(
            "One or more parameter values were invalid: Select type ALL_ATTRIBUTES is not supported for global "
            f"secondary index {index.name} because its projection type is not ALL"
        )
    for path in search.paths or ():
        if path[0] not in index.attributes:
            raise InvalidRequestError(
                "One or more parameter values were invalid: "
                f"Global secondary index {index.name} does not project [{path[0]}]"
            )


def selected(
    search: Search, head: Any, ranged: tuple[str, list[Any]] | None, after: Any, *, forward: bool
) -> Iterator[Row]:
    """Rows of one partition within the bounds, in the asked direction, beginning behind `after`."""
    partition = search.space.partitions.get(head)
    if partition is None:
        return
    keys = partition.keys
    low, high = 0, len(keys)
    if ranged is not None:
        low, high = bounds(keys, ranged[0], ranged[1], entries=search.index is not None)
    if after is not None:
        if forward:
            low = max(low, bounds(keys, ">", [after], entries=False)[0])
        else:
            high = min(high, bounds(keys, "<", [after], entries=False)[1])
    for position in range(low, high) if forward else range(high - 1, low - 1, -1):
        yield partition.rows[keys[position]]


def scanned(space: Space, start: Place | None, segment: int, segments: int) -> Iterator[Row]:
    order = space.order()
    first = 0
    if start is not None:
        first = bounds(order, ">=", [(scan_position(start[0]), start[0])], entries=False)[0]
    for position, head in order[first:] if first else order:
        if position % segments != segment:
            continue
        partition = space.partitions[head]
        keys = partition.keys
        low = 0
        if start is not None and head == start[0]:
            low = bounds(keys, ">", [start[1]], entries=False)[0]
        for key in keys[low:] if low else keys:
            yield partition.rows[key]


def read_page(rows: Iterator[Row], search: Search, limit: int | None) -> Page:
    """Rows up to a limit or 1 MB, counted before the filter. A page that ends at its limit says so, last or not."""
    found: list[Row] = []
    scanned = size = 0
    last: Row | None = None
    condition, symbols = search.filter, search.symbols
    for row in rows:
        if scanned and size + row.size > PAGE_BYTES:
            return Page(found, scanned, size, last)
        scanned += 1
        size += row.size
        last = row
        if condition is None or condition.holds(row.item, symbols.names, symbols.values):
            found.append(row)
        if scanned == limit:
            return Page(found, scanned, size, last)
    return Page(found, scanned, size, None)
