"""One way to read and write an entity: a JSON document with a revision, every write conditional on it."""

import random
import time
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Protocol, cast

import msgspec
from botocore.exceptions import ClientError

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.keys import Key
from monetize.domain.errors import Invalid, Unavailable

COMPRESSED = frozenset({"BillLines", "Snapshot"})
COMPRESSED_FROM = 2048  # characters: what is shorter stays legible in the console, and costs two units at most
ATTEMPTS = 6
FIRST_PAUSE = 0.025  # seconds, at most; doubled for each attempt


class Client(Protocol):
    """The part of boto3's low-level DynamoDB client that is used."""

    exceptions: Any

    def get_item(self, **kwargs: Any) -> Any: ...
    def put_item(self, **kwargs: Any) -> Any: ...
    def update_item(self, **kwargs: Any) -> Any: ...
    def delete_item(self, **kwargs: Any) -> Any: ...
    def query(self, **kwargs: Any) -> Any: ...
    def batch_get_item(self, **kwargs: Any) -> Any: ...
    def batch_write_item(self, **kwargs: Any) -> Any: ...
    def transact_write_items(self, **kwargs: Any) -> Any: ...


class Lost(Exception):
    """A write's condition did not hold. `unmet` are the positions of the operations that were refused by theirs.

    A position is an index into the operations as given. Conflicts with other transactions and throttling are not
    conditions: such a write is tried again.
    """

    def __init__(self, unmet: frozenset[int]) -> None:
        super().__init__(f"conditions unmet at {sorted(unmet)}")
        self.unmet = unmet


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a write, in the form `transact_write_items` takes."""

    kind: str  # Put, Update, Delete, ConditionCheck
    body: dict[str, Any]
    table: str | None = None  # another table than the one that writes

    def on(self, table: str) -> "Op":
        """The same operation on another table, for a transaction over two."""
        return replace(self, table=table)


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast("type", kind))


_encode = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical").encode


def document(entity: object) -> str:
    """The entity as JSON text; decimals as strings, instants as RFC 3339."""
    return _encode(entity).decode()


def read[T](kind: type[T], item: dict[str, Any]) -> T:
    """The entity an item holds, with the item's revision."""
    entity: Any = _decoder(cast("Hashable", kind)).decode(_text(item["doc"]))
    read_at: T = replace(entity, rev=int(item["rev"]["N"]))
    return read_at


def _stored(entity: Any) -> dict[str, Any]:
    """A document as an attribute. What grows long is compressed: ten thousand bill lines fit the 400 KB of an item."""
    text = document(entity)
    if len(text) < COMPRESSED_FROM or type(entity).__name__ not in COMPRESSED:
        return {"S": text}
    return {"B": zlib.compress(text.encode())}


def _text(stored: dict[str, Any]) -> str | bytes:
    text: str | bytes = stored["S"] if "S" in stored else zlib.decompress(bytes(stored["B"]))
    return text


def item_of(entity: Any, rev: int, expires_at: datetime | None = None) -> dict[str, Any]:
    """The item that holds an entity at revision `rev`."""
    key = keys.of(entity)
    item: dict[str, Any] = {
        "pk": {"S": key.pk},
        "sk": {"S": key.sk},
        "doc": _stored(entity),
        "rev": {"N": str(rev)},
    }
    item |= _indexed(key)
    if expires_at is not None:
        item["expires_at"] = {"N": str(int(expires_at.timestamp()))}
    return item


def _indexed(key: Key) -> dict[str, Any]:
    """Its place in the indexes."""
    places = {"lookup": key.lookup, "due_pk": key.due_pk, "due_sk": key.due_sk}
    return {name: {"S": value} for name, value in places.items() if value is not None}


def put(entity: Any, expires_at: datetime | None = None) -> Op:
    """Create (revision 0: must not exist) or replace (must still have the revision that was read)."""
    body: dict[str, Any] = {"Item": item_of(entity, entity.rev + 1, expires_at)}
    if entity.rev == 0:
        body["ConditionExpression"] = "attribute_not_exists(pk)"
    else:
        body["ConditionExpression"] = "rev = :was"
        body["ExpressionAttributeValues"] = {":was": {"N": str(entity.rev)}}
    return Op("Put", body)


def delete(entity: Any) -> Op:
    """Delete what still has the revision that was read."""
    key = keys.of(entity)
    return Op(
        "Delete",
        {
            "Key": {"pk": {"S": key.pk}, "sk": {"S": key.sk}},
            "ConditionExpression": "rev = :was",
            "ExpressionAttributeValues": {":was": {"N": str(entity.rev)}},
        },
    )


def unchanged(entity: Any) -> Op:
    """Nothing is written; the whole write fails if this entity changed since it was read."""
    key = keys.of(entity)
    return Op(
        "ConditionCheck",
        {
            "Key": {"pk": {"S": key.pk}, "sk": {"S": key.sk}},
            "ConditionExpression": "rev = :was",
            "ExpressionAttributeValues": {":was": {"N": str(entity.rev)}},
        },
    )


def claim(key: Key, owner: str = "", expires_at: datetime | None = None) -> Op:
    """Put a bare marker if there is none: a unique name, a guard, a pointer. `owner` says whose it is."""
    item: dict[str, Any] = {"pk": {"S": key.pk}, "sk": {"S": key.sk}, **_indexed(key)}
    if owner:
        item["owner"] = {"S": owner}
    if expires_at is not None:
        item["expires_at"] = {"N": str(int(expires_at.timestamp()))}
    return Op("Put", {"Item": item, "ConditionExpression": "attribute_not_exists(pk)"})


def release(key: Key, owner: str = "") -> Op:
    """Delete a marker; with `owner`, only one that is theirs (or already gone)."""
    body: dict[str, Any] = {"Key": {"pk": {"S": key.pk}, "sk": {"S": key.sk}}}
    if owner:
        body["ConditionExpression"] = "attribute_not_exists(pk) OR #owner = :owner"
        body["ExpressionAttributeNames"] = {"#owner": "owner"}
        body["ExpressionAttributeValues"] = {":owner": {"S": owner}}
    return Op("Delete", body)


@dataclass(frozen=True, slots=True)
class Page[T]:
    """Some of a list, and where the rest begins: `after` is the last sort key, None at the end."""

    items: tuple[T, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """One DynamoDB table."""

    client: Client
    name: str
    pause: Callable[[float], None] = time.sleep  # seconds

    def get[T](self, kind: type[T], key: Key) -> T | None:
        """One entity, read consistently; None where there is none."""
        item = self.raw(key)
        return None if item is None else read(kind, item)

    def raw(self, key: Key) -> dict[str, Any] | None:
        """One item as DynamoDB holds it."""
        answer = self.client.get_item(
            TableName=self.name, Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}}, ConsistentRead=True
        )
        item: dict[str, Any] | None = answer.get("Item")
        return item

    def write(self, *ops: Op) -> None:
        """All of it or nothing. Lost when a condition did not hold; Unavailable when others were always in between.

        A transaction that met another one on the same item (or was throttled) changed nothing and is tried again:
        botocore does not do that, since for all it knows the conditions would not hold any more.
        """
        for attempt in range(ATTEMPTS):
            try:
                if len(ops) == 1 and ops[0].kind != "ConditionCheck":
                    self._single(ops[0])
                else:
                    self._all(ops)
            except (self.client.exceptions.TransactionCanceledException, ClientError) as refused:
                if not passing(refused):
                    raise
                if attempt == ATTEMPTS - 1:
                    raise Unavailable(
                        "storage_busy", "Others are changing the same. Try again.", retry_after=1
                    ) from None
                self.pause(random.uniform(0, FIRST_PAUSE * 2**attempt))
            else:
                return

    def _all(self, ops: Sequence[Op]) -> None:
        try:
            self.client.transact_write_items(
                TransactItems=[{op.kind: {"TableName": op.table or self.name, **op.body}} for op in ops]
            )
        except self.client.exceptions.TransactionCanceledException as refused:
            unmet = unmet_conditions(refused)
            if unmet:
                raise Lost(unmet) from None
            raise

    def _single(self, op: Op) -> None:
        call = {"Put": self.client.put_item, "Update": self.client.update_item, "Delete": self.client.delete_item}
        try:
            call[op.kind](TableName=op.table or self.name, **op.body)
        except self.client.exceptions.ConditionalCheckFailedException:
            raise Lost(frozenset({0})) from None

    def query(
        self,
        pk: str,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        consistent: bool = True,
    ) -> Page[dict[str, Any]]:
        """Items of one partition whose sort key begins with `prefix`, in its order; all of them without `limit`.

        Invalid `bad_cursor` for a position `after` that is not one of the list: DynamoDB takes none outside of it.
        """
        if after is not None and not after.startswith(prefix):
            raise Invalid("bad_cursor", "This cursor was not made for this list.")
        condition, values = "pk = :pk", {":pk": {"S": pk}}
        if prefix:
            condition += " AND begins_with(sk, :prefix)"
            values[":prefix"] = {"S": prefix}
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ConsistentRead": consistent,
            "ScanIndexForward": not newest_first,
        }
        if after is not None:
            request["ExclusiveStartKey"] = {"pk": {"S": pk}, "sk": {"S": after}}
        items: list[dict[str, Any]] = []
        while True:
            if limit is not None:
                request["Limit"] = limit - len(items)
            answer = self.client.query(**request)
            items.extend(answer["Items"])
            last = answer.get("LastEvaluatedKey")
            if last is None or (limit is not None and len(items) >= limit):
                return Page(tuple(items), last["sk"]["S"] if last else None)
            request["ExclusiveStartKey"] = last

    def query_between(self, pk: str, first: str, last: str) -> Iterator[dict[str, Any]]:
        """Items of one partition with sort keys from `first` to `last`, both included, in order."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": {":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
            "ConsistentRead": True,
        }
        while True:
            answer = self.client.query(**request)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def list[T](
        self, kind: type[T], pk: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> Page[T]:
        """Entities of one partition, in the order of their sort keys."""
        page = self.query(pk, prefix, after=after, limit=limit)
        return Page(tuple(read(kind, item) for item in page.items), page.after)

    def get_many[T](self, kind: type[T], wanted: Sequence[Key]) -> Iterator[T]:
        """Entities by key, in the order asked for; those that are not there are left out."""
        for item in self.raw_many(wanted):
            yield read(kind, item)

    def raw_many(self, wanted: Sequence[Key]) -> Iterator[dict[str, Any]]:
        """Items by key, a hundred a request, in the order asked for; those that are not there are left out."""
        for start in range(0, len(wanted), 100):
            part = wanted[start : start + 100]
            found: dict[tuple[str, str], dict[str, Any]] = {}
            asked: list[dict[str, Any]] = [{"pk": {"S": key.pk}, "sk": {"S": key.sk}} for key in part]
            while asked:
                answer = self.client.batch_get_item(RequestItems={self.name: {"Keys": asked, "ConsistentRead": True}})
                for item in answer["Responses"].get(self.name, ()):
                    found[item["pk"]["S"], item["sk"]["S"]] = item
                asked = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            for key in part:
                if (item := found.get((key.pk, key.sk))) is not None:
                    yield item

    def looked_up(self, value: str) -> tuple[Key, ...]:
        """Who is known by this foreign id, or is of this list, by the `lookup` index (seconds behind the table)."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "IndexName": "lookup",
            "KeyConditionExpression": "lookup = :value",
            "ExpressionAttributeValues": {":value": {"S": value}},
        }
        found: list[Key] = []
        while True:
            answer = self.client.query(**request)
            found += [Key(item["pk"]["S"], item["sk"]["S"]) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return tuple(found)
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


_PASSING = frozenset(
    {
        "TransactionConflict",
        "TransactionConflictException",
        "TransactionInProgressException",
        "ThrottlingError",
        "ThrottlingException",
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
    }
)


def passing(refused: Any) -> bool:
    """Whether the same write may succeed a moment later: others were in between, or there was too much at once."""
    error = refused.response.get("Error", {}).get("Code")
    if error != "TransactionCanceledException":
        return error in _PASSING
    reasons: Iterable[dict[str, Any]] = refused.response.get("CancellationReasons", ())
    codes = {reason.get("Code") for reason in reasons} - {"None", None}
    return bool(codes) and codes <= _PASSING


def unmet_conditions(refused: Any) -> frozenset[int]:
    """Positions of the operations whose condition failed; conflicts and throttling are not conditions."""
    reasons: Iterable[dict[str, Any]] = refused.response.get("CancellationReasons", ())
    return frozenset(at for at, reason in enumerate(reasons) if reason.get("Code") == "ConditionalCheckFailed")
