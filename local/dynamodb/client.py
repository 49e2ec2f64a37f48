"""DynamoDB in memory, as boto3's low-level client shows it: same calls, answers and exceptions.

Thread-safe: one lock around each call, so every call is atomic and strongly consistent; only index entries can lag,
when asked to. Hooks run outside the lock and may use the client themselves, which is how a simulator interleaves.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError, ParamValidationError
from botocore.loaders import Loader
from botocore.model import StructureShape
from botocore.paginate import Paginator, PaginatorModel

from local.clock import Clock
from local.dynamodb import capacity, expressions, schema
from local.dynamodb.errors import (
    CONDITIONAL_CHECK_FAILED,
    IDEMPOTENT_PARAMETER_MISMATCH,
    RESOURCE_IN_USE,
    RESOURCE_NOT_FOUND,
    THROUGHPUT_EXCEEDED,
    TRANSACTION_CANCELED,
    TRANSACTION_CONFLICT,
    VALIDATION,
    InvalidOperationError,
    InvalidRequestError,
    client_error,
    exceptions,
    service_model,
)
from local.dynamodb.expressions import Compiled, CompiledCondition, CompiledUpdate, Resolved
from local.dynamodb.faults import Fault, Hook, Injector
from local.dynamodb.search import (
    Page,
    Search,
    Symbols,
    check_filter,
    check_select,
    key_bounds,
    read_page,
    scanned,
    selected,
)
from local.dynamodb.store import (
    Change,
    Index,
    IndexChange,
    Place,
    Row,
    Table,
    bounds,
)
from local.dynamodb.values import (
    MAXIMUM_ITEM_BYTES,
    Item,
    Value,
    copy_item,
    intake_item,
    intake_value,
    item_size,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

type Request = dict[str, Any]
type Answer = dict[str, Any]

WRITES = frozenset(
    {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems", "CreateTable", "DeleteTable"}
)
BATCH_ANSWER_BYTES = 16 * 1024 * 1024
TRANSACTION_BYTES = 4 * 1024 * 1024
MAXIMUM_TRANSACTION = 100
MAXIMUM_BATCH_READS = 100
MAXIMUM_BATCH_WRITES = 25
MAXIMUM_LISTED_TABLES = 100
TOKEN_LIFE = timedelta(minutes=10)
TTL_REACHES_BACK = timedelta(days=5 * 365)

_LEGACY = frozenset(
    {
        "AttributeUpdates",
        "AttributesToGet",
        "ConditionalOperator",
        "Expected",
        "KeyConditions",
        "QueryFilter",
        "ScanFilter",
    }
)
_REASONS = {
    "ConditionalCheckFailed": "The conditional request failed",
    "TransactionConflict": "Transaction is ongoing for the item",
    "ThrottlingError": "Throughput exceeds the current capacity of your table or index.",
}
_NO_NAMES: Mapping[str, str] = {}
_NO_VALUES: Mapping[str, Value] = {}


@dataclass(slots=True)
class Write:
    """One checked operation on one item: what it asks, not yet whether it may."""

    kind: str
    """Put, Update, Delete or ConditionCheck."""
    table: Table
    place: Place
    item: Item
    """The new item of a Put; else the key."""
    size: int
    symbols: Symbols
    condition: CompiledCondition | None
    update: CompiledUpdate | None
    shows_refused: bool
    """Whether a failed condition returns the item."""


@cache
def _parameters(operation: str) -> tuple[frozenset[str], tuple[str, ...]]:
    shape = cast("StructureShape", service_model().operation_model(operation).input_shape)
    return frozenset(shape.members), tuple(shape.required_members)


@cache
def _member_parameters(kind: str) -> tuple[frozenset[str], tuple[str, ...]]:
    shape = cast("StructureShape", service_model().shape_for(kind))
    return frozenset(shape.members), tuple(shape.required_members)


def _check_parameters(request: Mapping[str, Any], allowed: frozenset[str], required: Iterable[str]) -> None:
    if not allowed.issuperset(request):
        unknown = next(name for name in request if name not in allowed)
        raise ParamValidationError(
            report=f'Unknown parameter in input: "{unknown}", must be one of: {", ".join(sorted(allowed))}'
        )
    for name in required:
        if name not in request:
            raise ParamValidationError(report=f'Missing required parameter in input: "{name}"')


def _symbols(request: Mapping[str, Any], compiled: Sequence[Compiled]) -> Symbols:
    names = request.get("ExpressionAttributeNames")
    values = request.get("ExpressionAttributeValues")
    if names is None and values is None and not compiled:
        return Symbols(_NO_NAMES, _NO_VALUES)
    for given, what, lead in ((names, "Names", "#"), (values, "Values", ":")):
        if given is None:
            continue
        if not compiled:
            raise InvalidRequestError(f"ExpressionAttribute{what} can only be specified when using expressions")
        if not given:
            raise InvalidRequestError(f"ExpressionAttribute{what} must not be empty")
        for key in given:
            if key[:1] != lead or len(key) == 1:
                raise InvalidRequestError(f'ExpressionAttribute{what} contains invalid key: Syntax error; key: "{key}"')
    checked = _NO_VALUES if values is None else {name: intake_value(value)[0] for name, value in values.items()}
    symbols = Symbols(_NO_NAMES if names is None else names, checked)
    expressions.check_symbols(compiled, symbols.names, symbols.values)
    return symbols


def _paths(compiled: Compiled, paths: Iterable[expressions.Path], symbols: Symbols) -> list[Resolved]:
    resolved = [path.resolved(symbols.names) for path in paths]
    expressions.check_overlaps(compiled.kind, resolved)
    return resolved


class MemoryDynamoDB:
    """boto3's `client("dynamodb")`, in memory.

    `on_call` runs before each operation that changes something durable and may raise, as a crash before the write;
    `after_call` runs after it and may raise, as a crash that loses the answer. `inject` may refuse any call.
    `index_lag` delays the entries of global indexes by a number of later calls, or by a duration on the clock.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        on_call: Hook | None = None,
        after_call: Hook | None = None,
        inject: Injector | None = None,
        index_lag: int | timedelta | None = None,
    ) -> None:
        self.clock = clock
        self.on_call = on_call
        self.after_call = after_call
        self.inject = inject
        self.index_lag = index_lag
        self.cut_page: Callable[[], int | None] | None = None  # where a page ends early
        self.exceptions = exceptions()
        self._lock = RLock()
        self._tables: dict[str, Table] = {}
        self._calls = 0
        self._sequence = 0
        self._pending: deque[IndexChange] = deque()
        self._tokens: dict[str, tuple[datetime, bytes, list[tuple[str, Row | None]]]] = {}
        self._expiries: dict[str, list[tuple[Decimal, int, Place]]] = {}
        self._ties = count()

    def as_boto3(self) -> "DynamoDBClient":
        """This client, under the type of the real one."""
        return cast("DynamoDBClient", self)

    # The calls of the service

    def create_table(self, **request: Any) -> Answer:
        return self._call("CreateTable", self._create_table, request)

    def delete_table(self, **request: Any) -> Answer:
        return self._call("DeleteTable", self._delete_table, request)

    def describe_table(self, **request: Any) -> Answer:
        return self._call("DescribeTable", self._describe_table, request)

    def list_tables(self, **request: Any) -> Answer:
        return self._call("ListTables", self._list_tables, request)

    def update_time_to_live(self, **request: Any) -> Answer:
        return self._call("UpdateTimeToLive", self._update_time_to_live, request)

    def describe_time_to_live(self, **request: Any) -> Answer:
        return self._call("DescribeTimeToLive", self._describe_time_to_live, request)

    def put_item(self, **request: Any) -> Answer:
        return self._call("PutItem", self._put_item, request)

    def update_item(self, **request: Any) -> Answer:
        return self._call("UpdateItem", self._update_item, request)

    def delete_item(self, **request: Any) -> Answer:
        return self._call("DeleteItem", self._delete_item, request)

    def get_item(self, **request: Any) -> Answer:
        return self._call("GetItem", self._get_item, request)

    def query(self, **request: Any) -> Answer:
        return self._call("Query", self._query, request)

    def scan(self, **request: Any) -> Answer:
        return self._call("Scan", self._scan, request)

    def batch_get_item(self, **request: Any) -> Answer:
        return self._call("BatchGetItem", self._batch_get_item, request)

    def batch_write_item(self, **request: Any) -> Answer:
        return self._call("BatchWriteItem", self._batch_write_item, request)

    def transact_write_items(self, **request: Any) -> Answer:
        return self._call("TransactWriteItems", self._transact_write_items, request)

    def transact_get_items(self, **request: Any) -> Answer:
        return self._call("TransactGetItems", self._transact_get_items, request)

    def call(self, operation: str, request: Request) -> Answer:
        """A call by its name on the wire, "PutItem". Raises KeyError for a name this stand-in does not know."""
        return self._call(operation, self._bodies()[operation], request)

    def _bodies(self) -> dict[str, Callable[[Request], Answer]]:
        return {
            "CreateTable": self._create_table,
            "DeleteTable": self._delete_table,
            "DescribeTable": self._describe_table,
            "ListTables": self._list_tables,
            "UpdateTimeToLive": self._update_time_to_live,
            "DescribeTimeToLive": self._describe_time_to_live,
            "PutItem": self._put_item,
            "UpdateItem": self._update_item,
            "DeleteItem": self._delete_item,
            "GetItem": self._get_item,
            "Query": self._query,
            "Scan": self._scan,
            "BatchGetItem": self._batch_get_item,
            "BatchWriteItem": self._batch_write_item,
            "TransactWriteItems": self._transact_write_items,
            "TransactGetItems": self._transact_get_items,
        }

    # What surrounds a client

    def get_paginator(self, operation_name: str) -> "Paginator[Any]":
        """botocore's own paginator over this client: query, scan, list_tables."""
        name = {"query": "Query", "scan": "Scan", "list_tables": "ListTables"}[operation_name]
        models = PaginatorModel(Loader().load_service_model("dynamodb", "paginators-1"))
        operation = service_model().operation_model(name)
        return Paginator(getattr(self, operation_name), models.get_paginator(name), operation)

    def can_paginate(self, operation_name: str) -> bool:
        return operation_name in {"query", "scan", "list_tables"}

    def get_waiter(self, waiter_name: str) -> "Waiter":
        """`table_exists` or `table_not_exists`: never waits, since tables are made and dropped at once."""
        return Waiter(self, waiter_name)

    def close(self) -> None:
        """Nothing to close."""

    # What only the stand-in has

    def expire(self) -> list[tuple[str, Item]]:
        """Remove what has outlived its time to live by the clock, and return it as (table name, item)."""
        removed: list[tuple[str, Item]] = []
        with self._lock:
            now = self.clock.now()
            epoch = Decimal(int(now.timestamp()))
            for name, heap in self._expiries.items():
                table = self._tables[name]
                while heap and heap[0][0] < epoch:
                    expiry, _, place = heappop(heap)
                    row = table.space.get(place)
                    if row is None or self._expiry(table, row.item) != expiry:
                        continue
                    if epoch - expiry > int(TTL_REACHES_BACK.total_seconds()):
                        continue
                    self._commit(table, place, row, None, expired=True)
                    removed.append((name, copy_item(row.item)))
        return removed

    def changes(self, table: str, after_sequence: int = 0) -> list[Change]:
        """Stream records of a table with a later sequence number, in order; the newest million is kept."""
        with self._lock:
            return list(self._table(table).changes_after(after_sequence))

    # Around every call

    def _call(self, operation: str, body: Callable[[Request], Answer], request: Request) -> Answer:
        allowed, required = _parameters(operation)
        _check_parameters(request, allowed, required)
        durable = operation in WRITES
        if durable and self.on_call is not None:
            self.on_call(operation, request)
        try:
            fault = None if self.inject is None else self.inject(operation, request)
            if fault is not None:
                answer = self._refused(operation, request, fault, body)
            else:
                with self._lock:
                    self._settle()
                    answer = body(request)
        except (InvalidRequestError, InvalidOperationError) as invalid:
            raise client_error(operation, VALIDATION, str(invalid)) from None
        answer["ResponseMetadata"] = {"HTTPStatusCode": 200, "RetryAttempts": 0, "HTTPHeaders": {}}
        if durable and self.after_call is not None:
            self.after_call(operation, request)
        return answer

    def _refused(self, operation: str, request: Request, fault: Fault, body: Callable[[Request], Answer]) -> Answer:
        if operation in {"TransactWriteItems", "TransactGetItems"}:
            codes = ["None"] * len(request["TransactItems"])
            for position in fault.positions:
                codes[position] = fault.code
            raise _cancelled(operation, [_reason(code) for code in codes])
        if operation in {"BatchWriteItem", "BatchGetItem"}:
            kept, left = _split_batch(operation, request["RequestItems"], fault.positions)
            if kept:
                with self._lock:
                    self._settle()
                    answer = body({**request, "RequestItems": kept})
                _merge_unprocessed(operation, answer, left)
                return answer
        if fault.code == "TransactionConflict":
            raise client_error(operation, TRANSACTION_CONFLICT, _REASONS[fault.code])
        raise client_error(
            operation, THROUGHPUT_EXCEEDED, "The level of configured provisioned throughput was exceeded."
        )

    def _settle(self) -> None:
        """Let index entries appear whose time has come."""
        self._calls += 1
        while self._pending:
            head = self._pending[0]
            if head.due_at is not None and head.due_at > self.clock.now():
                return
            if head.due_operation > self._calls:
                return
            self._pending.popleft()
            head.index.apply(head.before, head.after)

    def _table(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            raise client_error("", RESOURCE_NOT_FOUND, "Requested resource not found")
        return table

    # Tables

    def _create_table(self, request: Request) -> Answer:
        name = request["TableName"]
        if name in self._tables:
            raise client_error("CreateTable", RESOURCE_IN_USE, f"Table already exists: {name}")
        self._tables[name] = schema.table_of(request, self.clock.now())
        return {"TableDescription": schema.described(self._tables[name])}

    def _delete_table(self, request: Request) -> Answer:
        table = self._table(request["TableName"])
        del self._tables[table.name]
        self._expiries.pop(table.name, None)
        return {"TableDescription": {**schema.described(table), "TableStatus": "DELETING"}}

    def _describe_table(self, request: Request) -> Answer:
        name = request["TableName"]
        if name not in self._tables:
            message = f"Requested resource not found: Table: {name} not found"
            raise client_error("DescribeTable", RESOURCE_NOT_FOUND, message)
        return {"Table": schema.described(self._tables[name])}

    def _list_tables(self, request: Request) -> Answer:
        start = request.get("ExclusiveStartTableName", "")
        limit = request.get("Limit", MAXIMUM_LISTED_TABLES)
        names = sorted(name for name in self._tables if name > start)
        answer: Answer = {"TableNames": names[:limit]}
        if len(names) > limit:
            answer["LastEvaluatedTableName"] = names[limit - 1]
        return answer

    def _update_time_to_live(self, request: Request) -> Answer:
        table = self._table(request["TableName"])
        wanted = request["TimeToLiveSpecification"]
        if wanted["Enabled"] is (table.ttl_attribute is not None):
            raise InvalidRequestError(f"TimeToLive is already {'enabled' if wanted['Enabled'] else 'disabled'}")
        if not wanted["Enabled"]:
            table.ttl_attribute = None
            del self._expiries[table.name]
        else:
            table.ttl_attribute = wanted["AttributeName"]
            self._expiries[table.name] = []
            for head, partition in table.space.partitions.items():
                for key, row in partition.rows.items():
                    self._note_expiry(table, (head, key), row.item)
        return {"TimeToLiveSpecification": dict(wanted)}

    def _describe_time_to_live(self, request: Request) -> Answer:
        table = self._table(request["TableName"])
        if table.ttl_attribute is None:
            return {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}
        described = {"TimeToLiveStatus": "ENABLED", "AttributeName": table.ttl_attribute}
        return {"TimeToLiveDescription": described}

    def _expiry(self, table: Table, item: Item) -> Decimal | None:
        number = item.get(table.ttl_attribute or "", _NO_VALUES).get("N")
        return None if number is None else Decimal(cast("str", number))

    def _note_expiry(self, table: Table, place: Place, item: Item) -> None:
        expiry = self._expiry(table, item)
        if expiry is not None:
            heappush(self._expiries[table.name], (expiry, next(self._ties), place))

    # Writing one item

    def _prepare(self, kind: str, request: Mapping[str, Any]) -> Write:
        """Check a request as far as that needs no stored item."""
        if not _LEGACY.isdisjoint(request):
            raise NotImplementedError("parameters that expressions have replaced")
        condition_text = request.get("ConditionExpression")
        update_text = request.get("UpdateExpression")
        compiled: list[Compiled] = []
        condition = update = None
        if update_text is not None:
            update = expressions.update(update_text)
            compiled.append(update)
        if condition_text is not None:
            condition = expressions.condition("ConditionExpression", condition_text)
            compiled.append(condition)
        symbols = _symbols(request, compiled)
        updated = () if update is None else _paths(update, (action.path for action in update.actions), symbols)
        table = self._table(request["TableName"])
        if kind == "Put":
            item, size = intake_item(request["Item"])
            place = table.place(item)
            if size > MAXIMUM_ITEM_BYTES:
                raise InvalidOperationError("Item size has exceeded the maximum allowed size")
            for index in table.indexes.values():
                index.check(item)
        else:
            item, size = intake_item(request["Key"])
            place = table.place_of_key(item)
        for path in updated:
            if path[0] in {table.schema.hash, table.schema.range}:
                raise InvalidOperationError(
                    "One or more parameter values were invalid: "
                    f"Cannot update attribute {path[0]}. This attribute is part of the key"
                )
        shows = request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
        return Write(kind, table, place, item, size, symbols, condition, update, shows)

    def _allowed(self, write: Write, before: Row | None) -> bool:
        condition = write.condition
        if condition is None:
            return True
        return condition.holds({} if before is None else before.item, write.symbols.names, write.symbols.values)

    def _outcome(self, write: Write, before: Row | None) -> Row | None:
        """The row as the write leaves it. Raises InvalidOperationError when the item does not allow it."""
        if write.kind == "Put":
            return Row(write.item, write.size)
        if write.kind == "Delete":
            return None
        if write.kind == "ConditionCheck":
            return before
        base = write.item if before is None else before.item
        if write.update is None:
            return before or Row(base, write.size)
        item, _ = expressions.apply_update(write.update, base, write.symbols.names, write.symbols.values)
        size = item_size(item)
        if size > MAXIMUM_ITEM_BYTES:
            raise InvalidOperationError("Item size to update has exceeded the maximum allowed size")
        for index in write.table.indexes.values():
            index.check(item)
        return Row(item, size)

    def _commit(
        self, table: Table, place: Place, before: Row | None, after: Row | None, *, expired: bool = False
    ) -> None:
        if after is before:
            return
        if after is None:
            table.space.remove(place)
        else:
            table.space.put(place, after)
        table.items += (after is not None) - (before is not None)
        table.bytes += (after.size if after else 0) - (before.size if before else 0)
        old = None if before is None else before.item
        new = None if after is None else after.item
        for index in table.indexes.values():
            if self.index_lag is None or index.local:
                index.apply(old, new)
            else:
                self._delay(index, old, new)
        if new is not None and table.ttl_attribute is not None and _differs(old, new, table.ttl_attribute):
            self._note_expiry(table, place, new)
        if table.view is not None and old != new:
            self._record(table, old, new, expired=expired)

    def _delay(self, index: Index, old: Item | None, new: Item | None) -> None:
        lag = self.index_lag
        if isinstance(lag, timedelta):
            self._pending.append(IndexChange(index, old, new, 0, self.clock.now() + lag))
        else:
            self._pending.append(IndexChange(index, old, new, self._calls + (lag or 0) + 1, None))

    def _record(self, table: Table, old: Item | None, new: Item | None, *, expired: bool) -> None:
        self._sequence += 1
        image = cast("Item", old if new is None else new)
        table.changes.append(
            Change(
                sequence=self._sequence,
                event="REMOVE" if new is None else "INSERT" if old is None else "MODIFY",
                keys=_only(image, table.schema.attributes()),
                old=copy_item(old) if old is not None and table.view in {"OLD_IMAGE", "NEW_AND_OLD_IMAGES"} else None,
                new=copy_item(new) if new is not None and table.view in {"NEW_IMAGE", "NEW_AND_OLD_IMAGES"} else None,
                at=self.clock.now(),
                expired=expired,
            )
        )

    def _write(self, operation: str, kind: str, request: Request) -> tuple[Write, Row | None, Row | None]:
        write = self._prepare(kind, request)
        before = write.table.space.get(write.place)
        if not self._allowed(write, before):
            details = {"Item": copy_item(before.item)} if before is not None and write.shows_refused else None
            raise client_error(operation, CONDITIONAL_CHECK_FAILED, "The conditional request failed", details)
        after = self._outcome(write, before)
        self._commit(write.table, write.place, before, after)
        return write, before, after

    def _put_item(self, request: Request) -> Answer:
        return self._replaced("PutItem", "Put", request)

    def _delete_item(self, request: Request) -> Answer:
        return self._replaced("DeleteItem", "Delete", request)

    def _replaced(self, operation: str, kind: str, request: Request) -> Answer:
        wanted = request.get("ReturnValues", "NONE")
        if wanted not in {"NONE", "ALL_OLD"}:
            raise InvalidRequestError("Return values set to invalid value")
        write, before, after = self._write(operation, kind, request)
        answer: Answer = {}
        if wanted == "ALL_OLD" and before is not None:
            answer["Attributes"] = copy_item(before.item)
        self._add_write_capacity(answer, request, write.table, before, after)
        return answer

    def _update_item(self, request: Request) -> Answer:
        wanted = request.get("ReturnValues", "NONE")
        if wanted not in {"NONE", "ALL_OLD", "ALL_NEW", "UPDATED_OLD", "UPDATED_NEW"}:
            raise InvalidRequestError(f"Value '{wanted}' at 'returnValues' failed to satisfy constraint")
        write, before, after = self._write("UpdateItem", "Update", request)
        answer: Answer = {}
        shown = after if wanted.endswith("NEW") else before
        if wanted != "NONE" and shown is not None:
            if wanted.startswith("ALL"):
                answer["Attributes"] = copy_item(shown.item)
            elif write.update is not None:
                paths = [action.path.resolved(write.symbols.names) for action in write.update.actions]
                parts = expressions.project(shown.item, paths)
                if parts:
                    answer["Attributes"] = parts
        self._add_write_capacity(answer, request, write.table, before, after)
        return answer

    def _add_write_capacity(
        self, answer: Answer, request: Request, table: Table, before: Row | None, after: Row | None
    ) -> None:
        detail = request.get("ReturnConsumedCapacity", "NONE")
        if detail != "NONE":
            answer["ConsumedCapacity"] = capacity.answered(table, capacity.of_write(table, before, after), detail)

    # Reading one item

    def _read(self, request: Mapping[str, Any]) -> tuple[Table, Row | None, Item | None]:
        """The table, the row at a key, and a copy of the asked parts of its item."""
        if "AttributesToGet" in request:
            raise NotImplementedError("parameters that expressions have replaced")
        text = request.get("ProjectionExpression")
        paths: list[Resolved] | None = None
        if text is None:
            _symbols(request, ())
        else:
            compiled = expressions.projection(text)
            paths = _paths(compiled, compiled.paths, _symbols(request, (compiled,)))
        table = self._table(request["TableName"])
        row = table.space.get(table.place_of_key(intake_item(request["Key"])[0]))
        if row is None:
            return table, None, None
        return table, row, copy_item(row.item) if paths is None else expressions.project(row.item, paths)

    def _get_item(self, request: Request) -> Answer:
        table, row, item = self._read(request)
        answer: Answer = {} if item is None else {"Item": item}
        detail = request.get("ReturnConsumedCapacity", "NONE")
        if detail != "NONE":
            units = capacity.read_units(row.size if row else 0, consistent=bool(request.get("ConsistentRead")))
            answer["ConsumedCapacity"] = capacity.answered(table, capacity.Consumed(units), detail)
        return answer

    # Reading many items

    def _query(self, request: Request) -> Answer:
        if not _LEGACY.isdisjoint(request):
            raise NotImplementedError("parameters that expressions have replaced")
        if "KeyConditionExpression" not in request:
            raise InvalidRequestError(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request."
            )
        keys = expressions.key_condition(request["KeyConditionExpression"])
        search = self._search(request, (keys,))
        head, ranged = key_bounds(keys, search.symbols, search.schema)
        forward = request.get("ScanIndexForward", True)
        start = self._start(request, search)
        inside = (
            ranged is None or start is None or bounds([start[1]], *ranged, entries=search.index is not None) == (0, 1)
        )
        if start is not None and not (start[0] == head and inside):
            raise InvalidRequestError(
                "The provided starting key is outside query boundaries based on provided conditions"
            )
        rows = selected(search, head, ranged, None if start is None else start[1], forward=forward)
        return self._found(request, search, read_page(rows, search, self._limit(request)))

    def _scan(self, request: Request) -> Answer:
        if not _LEGACY.isdisjoint(request):
            raise NotImplementedError("parameters that expressions have replaced")
        if ("Segment" in request) is not ("TotalSegments" in request):
            raise InvalidRequestError("The Segment and TotalSegments parameters must be given together")
        search = self._search(request, ())
        rows = scanned(
            search.space, self._start(request, search), request.get("Segment", 0), request.get("TotalSegments", 1)
        )
        return self._found(request, search, read_page(rows, search, self._limit(request)))

    def _limit(self, request: Request) -> int | None:
        """The request's, or an earlier end: a page may hold less than was asked for, as one of a megabyte does."""
        wanted: int | None = request.get("Limit")
        early = self.cut_page() if self.cut_page is not None else None
        return wanted if early is None else early if wanted is None else min(early, wanted)

    def _search(self, request: Request, compiled: Sequence[Compiled]) -> "Search":
        """Everything a query and a scan check alike."""
        limit = request.get("Limit")
        if limit is not None and limit < 1:
            raise ParamValidationError(report=f"Invalid range for parameter Limit, value: {limit}, valid min value: 1")
        condition = projection = None
        if "FilterExpression" in request:
            condition = expressions.condition("FilterExpression", request["FilterExpression"])
        if "ProjectionExpression" in request:
            projection = expressions.projection(request["ProjectionExpression"])
        used = [*compiled, *(part for part in (condition, projection) if part is not None)]
        symbols = _symbols(request, used)
        table = self._table(request["TableName"])
        index = None
        if "IndexName" in request:
            index = table.indexes.get(request["IndexName"])
            if index is None:
                raise InvalidRequestError(f"The table does not have the specified index: {request['IndexName']}")
            if request.get("ConsistentRead") and not index.local:
                raise InvalidRequestError("Consistent reads are not supported on global secondary indexes")
        search = Search(table, index, symbols, condition, None)
        if condition is not None and compiled:
            check_filter(condition, search)
        if projection is not None:
            search.paths = _paths(projection, projection.paths, symbols)
        check_select(request, search)
        return search

    def _start(self, request: Request, search: "Search") -> Place | None:
        start = request.get("ExclusiveStartKey")
        if start is None:
            return None
        key, _ = intake_item(start)
        typed = dict(search.table.schema.typed())
        if search.index is not None:
            typed |= dict(search.index.schema.typed())
        if key.keys() != typed.keys() or any(kind not in key[name] for name, kind in typed.items()):
            raise InvalidRequestError("The provided starting key is invalid")
        place = search.table.place(key)
        return place if search.index is None else search.index.place(key)

    def _found(self, request: Request, search: "Search", page: Page) -> Answer:
        answer: Answer = {"Count": len(page.rows), "ScannedCount": page.scanned}
        if request.get("Select") != "COUNT":
            paths = search.paths
            answer["Items"] = [
                copy_item(row.item) if paths is None else expressions.project(row.item, paths) for row in page.rows
            ]
        if page.last is not None:
            answer["LastEvaluatedKey"] = _only(page.last.item, search.key_attributes())
        detail = request.get("ReturnConsumedCapacity", "NONE")
        if detail != "NONE":
            units = capacity.read_units(page.size, consistent=bool(request.get("ConsistentRead")))
            consumed = capacity.Consumed(units)
            if search.index is not None:
                consumed = capacity.Consumed(indexes={search.index.name: units})
            answer["ConsumedCapacity"] = capacity.answered(search.table, consumed, detail)
        return answer

    # Batches

    def _batch_get_item(self, request: Request) -> Answer:
        asked = request["RequestItems"]
        if sum(len(each["Keys"]) for each in asked.values()) > MAXIMUM_BATCH_READS:
            raise InvalidRequestError("Too many items requested for the BatchGetItem call")
        answers: dict[str, list[Item]] = {}
        left: dict[str, Any] = {}
        consumed: list[tuple[str, capacity.Consumed]] = []
        size = 0
        for name, each in asked.items():
            answers[name] = []
            shared = {key: value for key, value in each.items() if key != "Keys"}
            consistent = bool(shared.pop("ConsistentRead", False))
            _check_distinct(self._table(name), each["Keys"])
            for key in each["Keys"]:
                _, row, item = self._read({**shared, "TableName": name, "Key": key})
                size += row.size if row else 0
                if size > BATCH_ANSWER_BYTES:
                    left.setdefault(name, {**each, "Keys": []})["Keys"].append(key)
                    continue
                consumed.append(
                    (name, capacity.Consumed(capacity.read_units(row.size if row else 0, consistent=consistent)))
                )
                if item is not None:
                    answers[name].append(item)
        answer: Answer = {"Responses": answers, "UnprocessedKeys": left}
        self._add_capacity(answer, request, consumed)
        return answer

    def _batch_write_item(self, request: Request) -> Answer:
        asked = request["RequestItems"]
        total = sum(len(each) for each in asked.values())
        if not asked or not 1 <= total <= MAXIMUM_BATCH_WRITES:
            raise InvalidRequestError("Too many items requested for the BatchWriteItem call")
        writes: list[Write] = []
        for name, each in asked.items():
            for one in each:
                if len(one) != 1:
                    raise InvalidRequestError("Supplied AttributeValue has more than one request type")
                ((kind, body),) = one.items()
                writes.append(self._prepare("Put" if kind == "PutRequest" else "Delete", {"TableName": name, **body}))
        if len({(write.table.name, write.place) for write in writes}) != len(writes):
            raise InvalidRequestError("Provided list of item keys contains duplicates")
        consumed: list[tuple[str, capacity.Consumed]] = []
        detailed = request.get("ReturnConsumedCapacity", "NONE") != "NONE"
        for write in writes:
            before = write.table.space.get(write.place)
            after = self._outcome(write, before)
            if detailed:
                consumed.append((write.table.name, capacity.of_write(write.table, before, after)))
            self._commit(write.table, write.place, before, after)
        answer: Answer = {"UnprocessedItems": {}}
        self._add_capacity(answer, request, consumed)
        return answer

    def _add_capacity(
        self,
        answer: Answer,
        request: Request,
        consumed: Iterable[tuple[str, capacity.Consumed]],
        direction: str | None = None,
    ) -> None:
        detail = request.get("ReturnConsumedCapacity", "NONE")
        if detail != "NONE":
            totals = capacity.summed(consumed)
            answer["ConsumedCapacity"] = capacity.all_answered(totals, self._tables, detail, direction)

    # Transactions

    def _transact_write_items(self, request: Request) -> Answer:
        operations = _operations(request)
        token = request.get("ClientRequestToken")
        fingerprint = b""
        if token is not None:
            fingerprint = _fingerprint(request)
            repeated = self._repeated(token, fingerprint, request)
            if repeated is not None:
                return repeated
        outcomes = self._judged(self._prepared(operations))
        answer: Answer = {}
        if request.get("ReturnConsumedCapacity", "NONE") != "NONE":
            charged = (
                (write.table.name, capacity.of_write(write.table, before, after, capacity.TRANSACTIONAL))
                for write, before, after in outcomes
            )
            self._add_capacity(answer, request, charged, "Write")
        for write, before, after in outcomes:
            self._commit(write.table, write.place, before, after)
        if token is not None:
            rows = [(write.table.name, after) for write, _, after in outcomes]
            self._tokens[token] = (self.clock.now(), fingerprint, rows)
        return answer

    def _prepared(self, operations: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Write]:
        """A transaction's operations, checked without the items. Raises what a client sees."""
        reasons = [_reason("None")] * len(operations)
        writes: list[Write] = []
        for position, (kind, body) in enumerate(operations):
            try:
                writes.append(self._prepare(kind, body))
            except InvalidOperationError as invalid:
                reasons[position] = _reason("ValidationError", str(invalid))
        if len({(write.table.name, write.place) for write in writes}) != len(writes):
            raise InvalidRequestError("Transaction request cannot include multiple operations on one item")
        if len(writes) < len(operations):
            raise _cancelled("TransactWriteItems", reasons)
        return writes

    def _judged(self, writes: Sequence[Write]) -> list[tuple[Write, Row | None, Row | None]]:
        """Each write with the row before and after it, if all may happen. Raises what a client sees."""
        reasons = [_reason("None")] * len(writes)
        outcomes: list[tuple[Write, Row | None, Row | None]] = []
        refused = False
        size = 0
        for position, write in enumerate(writes):
            before = write.table.space.get(write.place)
            if not self._allowed(write, before):
                shown = before.item if before is not None and write.shows_refused else None
                reasons[position] = _reason("ConditionalCheckFailed", item=shown)
                refused = True
                continue
            try:
                after = self._outcome(write, before)
            except InvalidOperationError as invalid:
                reasons[position] = _reason("ValidationError", str(invalid))
                refused = True
                continue
            size += max(before.size if before else 0, after.size if after else 0)
            outcomes.append((write, before, after))
        if refused:
            raise _cancelled("TransactWriteItems", reasons)
        if size > TRANSACTION_BYTES:
            raise InvalidRequestError("The aggregate size of the items in the transaction exceeds 4 MB")
        return outcomes

    def _repeated(self, token: str, fingerprint: bytes, request: Request) -> Answer | None:
        """The answer to a token seen within ten minutes: nothing is written, only reads are charged."""
        now = self.clock.now()
        while self._tokens:
            oldest = next(iter(self._tokens))
            if now - self._tokens[oldest][0] <= TOKEN_LIFE:
                break
            del self._tokens[oldest]
        if token not in self._tokens:
            return None
        _, seen, rows = self._tokens[token]
        if seen != fingerprint:
            message = "The request uses the same client token as a previous, but non-identical request."
            raise client_error("TransactWriteItems", IDEMPOTENT_PARAMETER_MISMATCH, message)
        answer: Answer = {}
        read = [(name, capacity.Consumed(_transactional_read(row))) for name, row in rows]
        self._add_capacity(answer, request, read, "Read")
        return answer

    def _transact_get_items(self, request: Request) -> Answer:
        asked = request["TransactItems"]
        _check_transaction_length(asked)
        reads: list[tuple[Table, Row | None, Item | None]] = []
        reasons = [_reason("None")] * len(asked)
        for position, each in enumerate(asked):
            allowed, required = _member_parameters("Get")
            _check_parameters(each["Get"], allowed, required)
            try:
                reads.append(self._read(each["Get"]))
            except InvalidOperationError as invalid:
                reasons[position] = _reason("ValidationError", str(invalid))
        if len(reads) < len(asked):
            raise _cancelled("TransactGetItems", reasons)
        places = {
            (each["Get"]["TableName"], json.dumps(each["Get"]["Key"], sort_keys=True, default=repr)) for each in asked
        }
        if len(places) != len(asked):
            raise InvalidRequestError("Transaction request cannot include multiple operations on one item")
        answer: Answer = {"Responses": [{} if item is None else {"Item": item} for _, _, item in reads]}
        consumed = [(table.name, capacity.Consumed(_transactional_read(row))) for table, row, _ in reads]
        self._add_capacity(answer, request, consumed, "Read")
        return answer


class Waiter:
    """Tables are there, or gone, at once: waiting is asking once."""

    def __init__(self, client: MemoryDynamoDB, name: str) -> None:
        self._client = client
        self._name = name

    def wait(self, **request: Any) -> None:
        """Raises ResourceNotFoundException when a table that should exist does not."""
        request.pop("WaiterConfig", None)
        if self._name == "table_exists":
            self._client.describe_table(**request)


def _differs(old: Item | None, new: Item, attribute: str) -> bool:
    return old is None or old.get(attribute) != new.get(attribute)


def _only(item: Item, attributes: Iterable[str]) -> Item:
    return copy_item({name: item[name] for name in attributes})


def _transactional_read(row: Row | None) -> Decimal:
    return capacity.read_units(row.size if row else 0, consistent=True) * capacity.TRANSACTIONAL


def _reason(code: str, message: str | None = None, item: Item | None = None) -> dict[str, Any]:
    reason: dict[str, Any] = {"Code": code}
    message = message or _REASONS.get(code)
    if message is not None:
        reason["Message"] = message
    if item is not None:
        reason["Item"] = copy_item(item)
    return reason


def _cancelled(operation: str, reasons: list[dict[str, Any]]) -> ClientError:
    codes = ", ".join(reason["Code"] for reason in reasons)
    message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
    return client_error(operation, TRANSACTION_CANCELED, message, {"CancellationReasons": reasons})


def _check_transaction_length(asked: Sequence[Any]) -> None:
    if not asked:
        raise ParamValidationError(report="Invalid length for parameter TransactItems, value: 0, valid min length: 1")
    if len(asked) > MAXIMUM_TRANSACTION:
        raise InvalidRequestError(
            "1 validation error detected: Value at 'transactItems' failed to satisfy constraint: "
            "Member must have length less than or equal to 100"
        )


def _operations(request: Request) -> list[tuple[str, Mapping[str, Any]]]:
    asked = request["TransactItems"]
    _check_transaction_length(asked)
    operations: list[tuple[str, Mapping[str, Any]]] = []
    for each in asked:
        if len(each) != 1:
            raise InvalidRequestError("TransactItems can only contain one of Check, Put, Update or Delete")
        ((kind, body),) = each.items()
        if kind not in {"Put", "Update", "Delete", "ConditionCheck"}:
            raise ParamValidationError(report=f'Unknown parameter in TransactItems: "{kind}"')
        allowed, required = _member_parameters(kind)
        _check_parameters(body, allowed, required)
        operations.append((kind, body))
    return operations


def _fingerprint(request: Request) -> bytes:
    text = json.dumps(request["TransactItems"], sort_keys=True, default=repr)
    return blake2b(text.encode(), digest_size=16).digest()


def _check_distinct(table: Table, keys: Sequence[Any]) -> None:
    places = [table.place_of_key(intake_item(key)[0]) for key in keys]
    if len(set(places)) != len(places):
        raise InvalidRequestError("Provided list of item keys contains duplicates")


def _split_batch(
    operation: str, asked: Mapping[str, Any], positions: Iterable[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The requests of a batch to process, and those to leave, in the shape they came in."""
    refused = set(positions)
    kept: dict[str, Any] = {}
    left: dict[str, Any] = {}
    position = 0
    for name, each in asked.items():
        for one in each if operation == "BatchWriteItem" else each["Keys"]:
            side = left if position in refused else kept
            if operation == "BatchWriteItem":
                side.setdefault(name, []).append(one)
            else:
                side.setdefault(name, {**each, "Keys": []})["Keys"].append(one)
            position += 1
    return kept, left


def _merge_unprocessed(operation: str, answer: Answer, left: Mapping[str, Any]) -> None:
    unprocessed = answer["UnprocessedItems" if operation == "BatchWriteItem" else "UnprocessedKeys"]
    for name, each in left.items():
        if name not in unprocessed:
            unprocessed[name] = each
        else:
            unprocessed[name]["Keys"].extend(each["Keys"])
