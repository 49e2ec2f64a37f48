"""One contract for every DynamoDB we run on: in memory, behind HTTP, moto, and any endpoint that the SDK is given.

A case in which a backend is known to differ is marked with `differs`: it must then fail, so a backend that comes
round is noticed.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError
from moto import mock_aws

from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.http import serve

ENDPOINT = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB")
BACKENDS = ["memory", "http", "moto", *(["endpoint"] if ENDPOINT else [])]
START = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = count(1)


def value(native: Any) -> dict[str, Any]:
    """An attribute value of a Python one; Decimals and floats are not needed here."""
    match native:
        case bool():
            return {"BOOL": native}
        case int():
            return {"N": str(native)}
        case str():
            return {"S": native}
        case bytes():
            return {"B": native}
        case None:
            return {"NULL": True}
        case list():
            return {"L": [value(element) for element in native]}
        case dict():
            return {"M": item(**native)}
        case set() if all(isinstance(element, str) for element in native):
            return {"SS": sorted(native)}
        case set():
            return {"NS": [str(element) for element in sorted(native)]}
    raise TypeError(native)


def item(**attributes: Any) -> dict[str, Any]:
    return {name: value(native) for name, native in attributes.items()}


def values(**natives: Any) -> dict[str, Any]:
    return {f":{name}": value(native) for name, native in natives.items()}


def plain(stored: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An item whose sets are in one order, to compare."""
    if stored is None:
        return None
    return {name: _ordered(each) for name, each in stored.items()}


def _ordered(each: Mapping[str, Any]) -> dict[str, Any]:
    ((kind, data),) = each.items()
    if kind in {"SS", "NS", "BS"}:
        return {kind: sorted(data)}
    if kind == "M":
        return {kind: plain(data)}
    return {kind: [_ordered(element) for element in data] if kind == "L" else data}


@dataclass(frozen=True)
class Database:
    """A backend's client and a fresh table: (pk, sk) strings; indexes `due`, `inc` and `ranked`."""

    backend: str
    client: Any
    table: str

    def put(self, **attributes: Any) -> Any:
        return self.client.put_item(TableName=self.table, Item=item(**attributes))

    def get(self, pk: str, sk: str, **options: Any) -> dict[str, Any] | None:
        found = self.client.get_item(TableName=self.table, Key=item(pk=pk, sk=sk), ConsistentRead=True, **options)
        return plain(found.get("Item"))

    def update(self, expression: str | None, pk: str = "p", sk: str = "s", **options: Any) -> Any:
        given = {} if expression is None else {"UpdateExpression": expression}
        return self.client.update_item(TableName=self.table, Key=item(pk=pk, sk=sk), **given, **options)

    def query(self, condition: str, natives: Mapping[str, Any], **options: Any) -> Any:
        return self.client.query(
            TableName=self.table,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values(**natives),
            **options,
        )

    def transact(self, *operations: tuple[str, Mapping[str, Any]], **options: Any) -> Any:
        items = [{kind: {"TableName": self.table, **body}} for kind, body in operations]
        return self.client.transact_write_items(TransactItems=items, **options)


def _real_client(endpoint: str | None = None) -> Any:
    return boto3.client(
        "dynamodb",
        region_name="eu-central-1",
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    match request.param:
        case "memory":
            yield "memory", MemoryDynamoDB(Clock(START))
        case "http":
            with serve(MemoryDynamoDB(Clock(START))) as url:
                client = _real_client(url)
                yield "http", client
                client.close()
        case "moto":
            with mock_aws():
                yield "moto", _real_client()
        case _:
            client = _real_client(ENDPOINT)
            yield "endpoint", client
            client.close()


def differs(name: str, reason: str) -> Callable[[Any], Any]:
    """Mark a case that a backend is known to get wrong: it has to fail there."""

    def marked(case: Any) -> Any:
        case.known_to_differ = {**getattr(case, "known_to_differ", {}), name: reason}
        return case

    return marked


def expect_difference(request: pytest.FixtureRequest, reason: str | None) -> None:
    if reason is not None:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


@pytest.fixture
def db(request: pytest.FixtureRequest, backend: tuple[str, Any]) -> Iterator[Database]:
    name, client = backend
    expect_difference(request, getattr(request.function, "known_to_differ", {}).get(name))
    database = Database(name, client, f"contract-{os.getpid()}-{next(NAMES)}")
    create_table(client, database.table)
    yield database
    client.delete_table(TableName=database.table)


def create_table(client: Any, name: str, **options: Any) -> None:
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": attribute, "AttributeType": kind}
            for attribute, kind in (
                ("pk", "S"), ("sk", "S"), ("due_pk", "S"), ("due_sk", "S"), ("team", "S"), ("score", "N")
            )
        ],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            _index("due", "due_pk", "due_sk", {"ProjectionType": "KEYS_ONLY"}),
            _index("inc", "team", None, {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["kept"]}),
            _index("ranked", "team", "score", {"ProjectionType": "ALL"}),
        ],
        **options,
    )  # fmt: skip
    client.get_waiter("table_exists").wait(TableName=name)


def _index(name: str, head: str, ranged: str | None, projection: dict[str, Any]) -> dict[str, Any]:
    keys = [{"AttributeName": head, "KeyType": "HASH"}]
    if ranged:
        keys.append({"AttributeName": ranged, "KeyType": "RANGE"})
    return {"IndexName": name, "KeySchema": keys, "Projection": projection}


def code(refused: pytest.ExceptionInfo[ClientError]) -> str:
    return refused.value.response["Error"]["Code"]


def reasons(refused: pytest.ExceptionInfo[ClientError]) -> list[str]:
    return [reason["Code"] for reason in refused.value.response["CancellationReasons"]]


NOT_THERE = "attribute_not_exists(pk)"


# Items


def test_an_item_comes_back_as_it_was_put(db: Database) -> None:
    everything = {
        "pk": "p", "sk": "s", "text": "é", "number": -12, "yes": True, "nothing": None, "bytes": b"\x00\xff",
        "numbers": {1, 2}, "texts": {"a", "b"}, "nested": {"a": [1, {"b": "c"}], "empty": [], "none": {}}, "blank": "",
    }  # fmt: skip
    db.put(**everything)
    assert db.get("p", "s") == plain(item(**everything))


def test_an_absent_item_has_no_item_in_the_answer(db: Database) -> None:
    assert "Item" not in db.client.get_item(TableName=db.table, Key=item(pk="p", sk="s"))


@pytest.mark.parametrize(
    ("written", "read"),
    [("007", "7"), ("1.50", "1.5"), ("-0", "0"), ("1E+3", "1000"), ("1e-3", "0.001"), ("+5", "5"), (".5", "0.5")],
)
def test_a_number_comes_back_in_its_plain_spelling(
    db: Database, request: pytest.FixtureRequest, written: str, read: str
) -> None:
    expect_difference(request, "keeps the spelling of numbers" if db.backend == "moto" else None)
    db.client.put_item(TableName=db.table, Item={**item(pk="p", sk="s"), "n": {"N": written}})
    stored = db.get("p", "s")
    assert stored is not None
    assert stored["n"] == {"N": read}


def test_equal_numbers_of_different_spelling_are_equal(db: Database) -> None:
    db.client.put_item(TableName=db.table, Item={**item(pk="p", sk="s"), "n": {"N": "1.0"}})
    found = db.query("pk = :p", {"p": "p", "one": 1}, FilterExpression="n = :one")
    assert found["Count"] == 1


@differs("moto", "breaks on an update without an expression")
def test_an_update_without_an_expression_makes_the_item_and_nothing_else(db: Database) -> None:
    db.update(None, ConditionExpression=NOT_THERE)
    assert db.get("p", "s") == item(pk="p", sk="s")
    db.put(pk="p", sk="s", a=1)
    db.update(None)
    assert db.get("p", "s") == item(pk="p", sk="s", a=1)


def test_put_returns_the_replaced_item(db: Database) -> None:
    first = db.client.put_item(TableName=db.table, Item=item(pk="p", sk="s", a=1), ReturnValues="ALL_OLD")
    second = db.client.put_item(TableName=db.table, Item=item(pk="p", sk="s", b=2), ReturnValues="ALL_OLD")
    assert "Attributes" not in first
    assert second["Attributes"] == item(pk="p", sk="s", a=1)
    assert db.get("p", "s") == item(pk="p", sk="s", b=2)


def test_delete_returns_the_item_and_deletes_what_is_absent_without_complaint(db: Database) -> None:
    db.put(pk="p", sk="s", a=1)
    key = item(pk="p", sk="s")
    gone = db.client.delete_item(TableName=db.table, Key=key, ReturnValues="ALL_OLD")
    again = db.client.delete_item(TableName=db.table, Key=key, ReturnValues="ALL_OLD")
    assert gone["Attributes"] == item(pk="p", sk="s", a=1)
    assert "Attributes" not in again
    assert db.get("p", "s") is None


def test_a_condition_on_an_absent_item_sees_an_empty_one(db: Database) -> None:
    db.client.put_item(TableName=db.table, Item=item(pk="p", sk="s"), ConditionExpression=NOT_THERE)
    with pytest.raises(db.client.exceptions.ConditionalCheckFailedException) as refused:
        db.client.put_item(TableName=db.table, Item=item(pk="p", sk="s", a=1), ConditionExpression=NOT_THERE)
    assert code(refused) == "ConditionalCheckFailedException"
    assert "Item" not in refused.value.response
    assert db.get("p", "s") == item(pk="p", sk="s")


def test_a_failed_condition_shows_the_item_when_asked(db: Database) -> None:
    db.put(pk="p", sk="s", a=1)
    with pytest.raises(db.client.exceptions.ConditionalCheckFailedException) as refused:
        db.client.put_item(
            TableName=db.table,
            Item=item(pk="p", sk="s"),
            ConditionExpression=NOT_THERE,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert refused.value.response["Item"] == item(pk="p", sk="s", a=1)


def test_an_update_makes_an_absent_item_of_its_key(db: Database) -> None:
    db.update("SET a = :a", ExpressionAttributeValues=values(a=1))
    assert db.get("p", "s") == item(pk="p", sk="s", a=1)


def test_a_conditional_delete_of_an_absent_item_is_refused(db: Database) -> None:
    with pytest.raises(db.client.exceptions.ConditionalCheckFailedException):
        db.client.delete_item(TableName=db.table, Key=item(pk="p", sk="s"), ConditionExpression="attribute_exists(pk)")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("NONE", None),
        ("ALL_OLD", item(pk="p", sk="s", a=1, b=1)),
        ("ALL_NEW", item(pk="p", sk="s", a=2, b=1)),
        ("UPDATED_OLD", item(a=1)),
        ("UPDATED_NEW", item(a=2)),
    ],
)
def test_an_update_returns_what_is_asked(db: Database, asked: str, expected: dict[str, Any] | None) -> None:
    db.put(pk="p", sk="s", a=1, b=1)
    answer = db.update("SET a = :a", ExpressionAttributeValues=values(a=2), ReturnValues=asked)
    assert answer.get("Attributes") == expected


def test_an_answer_shares_nothing_with_the_stored_item(db: Database) -> None:
    db.put(pk="p", sk="s", nested={"a": [1]})
    answer = db.client.get_item(TableName=db.table, Key=item(pk="p", sk="s"))["Item"]
    answer["nested"]["M"]["a"]["L"].append({"N": "2"})
    answer["pk"]["S"] = "q"
    assert db.get("p", "s") == item(pk="p", sk="s", nested={"a": [1]})


# Conditions

SUBJECT = {
    "a": 5, "word": "hello", "flag": True, "nil": None, "tags": {"x", "y"}, "seq": [1, "two", {"deep": 3}],
    "doc": {"core": {"leaf": "green"}, "dotted.name": 1}, "octets": b"abc", "numbers": {1, 2},
}  # fmt: skip

CONDITIONS: list[tuple[str, dict[str, Any], bool]] = [
    ("a = :v", {"v": 5}, True),
    ("a = :v", {"v": "5"}, False),
    ("a <> :v", {"v": 5}, False),
    ("a <> :v", {"v": "5"}, True),
    ("absent <> :v", {"v": 5}, True),
    ("absent = further", {}, False),
    ("absent = :v", {"v": 5}, False),
    ("a < :v", {"v": 10}, True),
    ("a < :v", {"v": 5}, False),
    ("a <= :v", {"v": 5}, True),
    ("a > :v", {"v": 4}, True),
    ("a >= :v", {"v": 6}, False),
    ("a < :v", {"v": "9"}, False),
    ("absent < :v", {"v": 9}, False),
    (":v > a", {"v": 6}, True),
    ("word > :v", {"v": "hella"}, True),
    ("octets < :v", {"v": b"abd"}, True),
    ("flag = :v", {"v": True}, True),
    ("nil = :v", {"v": None}, True),
    ("tags = :v", {"v": {"y", "x"}}, True),
    ("seq = :v", {"v": [1, "two", {"deep": 3}]}, True),
    ("a BETWEEN :l AND :h", {"l": 5, "h": 7}, True),
    ("a BETWEEN :l AND :h", {"l": 6, "h": 7}, False),
    ("absent BETWEEN :l AND :h", {"l": 6, "h": 7}, False),
    ("a IN (:x, :y)", {"x": 1, "y": 5}, True),
    ("a IN (:x, :y)", {"x": 1, "y": 2}, False),
    ("word IN (:x)", {"x": "hello"}, True),
    ("attribute_exists(a)", {}, True),
    ("attribute_exists(absent)", {}, False),
    ("attribute_exists(nil)", {}, True),
    ("attribute_not_exists(a)", {}, False),
    ("attribute_not_exists(absent)", {}, True),
    ("attribute_not_exists(doc.core.further)", {}, True),
    ("attribute_type(a, :t)", {"t": "N"}, True),
    ("attribute_type(word, :t)", {"t": "N"}, False),
    ("attribute_type(tags, :t)", {"t": "SS"}, True),
    ("attribute_type(absent, :t)", {"t": "N"}, False),
    ("begins_with(word, :p)", {"p": "hel"}, True),
    ("begins_with(word, :p)", {"p": "el"}, False),
    ("begins_with(a, :p)", {"p": "5"}, False),
    ("begins_with(absent, :p)", {"p": "5"}, False),
    ("contains(word, :p)", {"p": "ell"}, True),
    ("contains(tags, :p)", {"p": "x"}, True),
    ("contains(tags, :p)", {"p": "z"}, False),
    ("contains(seq, :p)", {"p": "two"}, True),
    ("contains(seq, :p)", {"p": 2}, False),
    ("contains(numbers, :p)", {"p": 2}, True),
    ("contains(word, :p)", {"p": 1}, False),
    ("contains(absent, :p)", {"p": "x"}, False),
    ("size(word) = :n", {"n": 5}, True),
    ("size(tags) = :n", {"n": 2}, True),
    ("size(seq) > :n", {"n": 2}, True),
    ("size(doc) = :n", {"n": 2}, True),
    ("size(octets) = :n", {"n": 3}, True),
    ("size(absent) = :n", {"n": 0}, False),
    ("size(word) BETWEEN :l AND :h", {"l": 5, "h": 5}, True),
    ("seq[0] = :v", {"v": 1}, True),
    ("seq[2].deep = :v", {"v": 3}, True),
    ("seq[9] = :v", {"v": 3}, False),
    ("doc.core.leaf = :v", {"v": "green"}, True),
    ("doc.#dotted = :v", {"v": 1}, True),
    ("#a = :v", {"v": 5}, True),
    ("a = :v AND word = :w", {"v": 5, "w": "hello"}, True),
    ("a = :v AND word = :w", {"v": 5, "w": "bye"}, False),
    ("a = :v OR word = :w", {"v": 4, "w": "hello"}, True),
    ("NOT a = :v", {"v": 4}, True),
    ("NOT absent = :v", {"v": 4}, True),
    ("NOT a = :v AND word = :w", {"v": 4, "w": "hello"}, True),
    ("a = :v OR a = :u AND word = :w", {"v": 5, "u": 1, "w": "bye"}, True),
    ("(a = :v OR a = :u) AND word = :w", {"v": 5, "u": 1, "w": "bye"}, False),
    ("NOT (a = :v AND word = :w)", {"v": 5, "w": "bye"}, True),
    ("a = :v and not attribute_exists(absent)", {"v": 5}, True),
    ("attribute_not_exists(absent) OR absent < :v", {"v": 5}, True),
    ("  a=:v  ", {"v": 5}, True),
    ("a IN (:x) OR a BETWEEN :l AND :h AND flag = :t", {"x": 0, "l": 1, "h": 9, "t": True}, True),
]
ATTRIBUTE_NAMES = {"#a": "a", "#dotted": "dotted.name"}
MOTO_CONDITIONS = {
    ("absent = further", ""): "finds two absences equal",
    ("a < :v", "9"): "breaks on comparing a number with a string",
    ("size(absent) = :n", "0"): "refuses the size of what is absent",
}


def asked_names(expression: str) -> dict[str, Any]:
    used = {name: attribute for name, attribute in ATTRIBUTE_NAMES.items() if name in expression}
    return {"ExpressionAttributeNames": used} if used else {}


def asked_values(natives: Mapping[str, Any]) -> dict[str, Any]:
    return {"ExpressionAttributeValues": values(**natives)} if natives else {}


@pytest.fixture
def subject(db: Database) -> Database:
    db.put(pk="p", sk="s", **SUBJECT)
    return db


@pytest.mark.parametrize(("expression", "natives", "expected"), CONDITIONS)
def test_a_condition_holds_or_not(
    subject: Database, request: pytest.FixtureRequest, expression: str, natives: dict[str, Any], *, expected: bool
) -> None:
    first = next((str(native) if isinstance(native, str) else repr(native) for native in natives.values()), "")
    expect_difference(request, MOTO_CONDITIONS.get((expression, first)) if subject.backend == "moto" else None)
    given = {**asked_names(expression), **asked_values(natives)}
    found = subject.client.scan(TableName=subject.table, FilterExpression=expression, **given)
    assert (found["Count"], found["ScannedCount"]) == (int(expected), 1)
    check = ("ConditionCheck", {"Key": item(pk="p", sk="s"), "ConditionExpression": expression, **given})
    if expected:
        subject.transact(check)
    else:
        with pytest.raises(subject.client.exceptions.TransactionCanceledException) as refused:
            subject.transact(check)
        assert reasons(refused) == ["ConditionalCheckFailed"]
    assert subject.get("p", "s") == plain(item(pk="p", sk="s", **SUBJECT))


INVALID_CONDITIONS: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "can not be empty"),
    ("a = ", {}, "Syntax error"),
    ("a == :v", {"v": 1}, "Syntax error"),
    ("a = :v AND", {"v": 1}, "Syntax error"),
    ("(a = :v", {"v": 1}, "Syntax error"),
    ("a ! :v", {"v": 1}, "Syntax error"),
    ("_a = :v", {"v": 1}, "Syntax error"),
    ("((a = :v))", {"v": 1}, "redundant parentheses"),
    ("status = :v", {"v": 1}, "reserved keyword: status"),
    ("doc.Name = :v", {"v": 1}, "reserved keyword: Name"),
    ("a = :v", {"v": 1, "unused": 2}, "unused in expressions: keys: {:unused}"),
    ("a = :v AND word = :w", {"v": 1}, "not defined; attribute value: :w"),
    ("#undefined = :v", {"v": 1}, "not defined; attribute name: #undefined"),
    ("a < :v", {"v": {"x"}}, "operand type: SS"),
    ("a < :v", {"v": True}, "operand type: BOOL"),
    ("a BETWEEN :l AND :h", {"l": 7, "h": 5}, "upper bound to be greater"),
    ("a BETWEEN :l AND :h", {"l": 7, "h": "9"}, "same"),
    ("begins_with(word, :p)", {"p": 5}, "operand type: N"),
    ("attribute_exists(:v)", {"v": 5}, "attribute_exists"),
    ("attribute_exists(a, word)", {}, "attribute_exists"),
    ("unheard_of(a)", {}, "unheard_of"),
    ("a = if_not_exists(a, :v)", {"v": 5}, "if_not_exists"),
    ("size(a)", {}, ""),
    ("a = a", {}, "distinct"),
    ("attribute_type(a, :t)", {"t": 5}, "attribute_type"),
]


@pytest.mark.parametrize(("expression", "natives", "fragment"), INVALID_CONDITIONS)
def test_an_invalid_condition_is_refused_whatever_the_item(
    db: Database, request: pytest.FixtureRequest, expression: str, natives: dict[str, Any], fragment: str
) -> None:
    moto_finds = "reserved keyword" in fragment or "redundant" in fragment
    lax = None if moto_finds else "reads conditions leniently, and breaks where the service answers"
    expect_difference(request, lax if db.backend == "moto" else None)
    with pytest.raises(ClientError) as refused:
        db.client.put_item(
            TableName=db.table,
            Item=item(pk="p", sk="s"),
            ConditionExpression=expression,
            **asked_names(expression),
            **asked_values(natives),
        )
    assert code(refused) == "ValidationException"
    if db.backend in {"memory", "http"}:
        assert fragment in refused.value.response["Error"]["Message"]
    assert db.get("p", "s") is None


# Updates

UPDATES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("SET a = :v", {"v": 1}, {}, {"a": 1}),
    ("SET a = :v, b = :w", {"v": 1, "w": "x"}, {"a": 0}, {"a": 1, "b": "x"}),
    ("set a = b, b = a", {}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
    ("SET a = a + :v", {"v": 5}, {"a": 1}, {"a": 6}),
    ("SET a = a - :v", {"v": 5}, {"a": 1}, {"a": -4}),
    ("SET a = :v - a", {"v": 5}, {"a": 1}, {"a": 4}),
    ("SET a = b + c", {}, {"b": 1, "c": 2}, {"a": 3, "b": 1, "c": 2}),
    ("SET a = if_not_exists(a, :v)", {"v": 5}, {}, {"a": 5}),
    ("SET a = if_not_exists(a, :v)", {"v": 5}, {"a": 1}, {"a": 1}),
    ("SET a = if_not_exists(a, :z) + :v", {"v": 5, "z": 0}, {}, {"a": 5}),
    ("SET a = if_not_exists(b, :v)", {"v": 5}, {"b": 2}, {"a": 2, "b": 2}),
    ("SET a = list_append(a, :v)", {"v": [2]}, {"a": [1]}, {"a": [1, 2]}),
    ("SET a = list_append(:v, a)", {"v": [2]}, {"a": [1]}, {"a": [2, 1]}),
    ("SET a = list_append(if_not_exists(a, :e), :v)", {"v": [2], "e": []}, {}, {"a": [2]}),
    ("SET m.x = :v", {"v": 1}, {"m": {}}, {"m": {"x": 1}}),
    ("SET m.x.y = :v", {"v": 1}, {"m": {"x": {"z": 2}}}, {"m": {"x": {"y": 1, "z": 2}}}),
    ("SET l[1] = :v", {"v": 9}, {"l": [1, 2, 3]}, {"l": [1, 9, 3]}),
    ("SET l[7] = :v", {"v": 9}, {"l": [1]}, {"l": [1, 9]}),
    ("SET l[0].x = :v", {"v": 9}, {"l": [{}]}, {"l": [{"x": 9}]}),
    ("SET #a = :v", {"v": 1}, {}, {"a": 1}),
    ("REMOVE a", {}, {"a": 1, "b": 2}, {"b": 2}),
    ("REMOVE a, b", {}, {"a": 1, "b": 2}, {}),
    ("REMOVE absent", {}, {"b": 2}, {"b": 2}),
    ("REMOVE m.x", {}, {"m": {"x": 1, "y": 2}}, {"m": {"y": 2}}),
    ("REMOVE l[1]", {}, {"l": [1, 2, 3]}, {"l": [1, 3]}),
    ("REMOVE l[0], l[2]", {}, {"l": [1, 2, 3]}, {"l": [2]}),
    ("REMOVE l[9]", {}, {"l": [1]}, {"l": [1]}),
    ("ADD a :v", {"v": 5}, {}, {"a": 5}),
    ("ADD a :v", {"v": 5}, {"a": 1}, {"a": 6}),
    ("ADD a :v", {"v": -5}, {"a": 1}, {"a": -4}),
    ("ADD t :v", {"v": {"x"}}, {}, {"t": {"x"}}),
    ("ADD t :v", {"v": {"x", "y"}}, {"t": {"y", "z"}}, {"t": {"x", "y", "z"}}),
    ("ADD t :v", {"v": {1, 2}}, {"t": {2, 3}}, {"t": {1, 2, 3}}),
    ("ADD m.x :v", {"v": 2}, {"m": {"x": 1}}, {"m": {"x": 3}}),
    ("DELETE t :v", {"v": {"x"}}, {"t": {"x", "y"}}, {"t": {"y"}}),
    ("DELETE t :v", {"v": {"x"}}, {"t": {"x"}}, {}),
    ("DELETE t :v", {"v": {"x"}}, {}, {}),
    ("DELETE t :v", {"v": {"q"}}, {"t": {"x"}}, {"t": {"x"}}),
    ("SET a = :v REMOVE b ADD c :w DELETE t :x", {"v": 1, "w": 2, "x": {"x"}}, {"b": 1, "t": {"x", "y"}}, {"a": 1, "c": 2, "t": {"y"}}),  # noqa: E501 a row
    ("REMOVE b SET a = b", {}, {"b": 7}, {"a": 7}),
    ("ADD a :v SET b = a", {"v": 1}, {"a": 1}, {"a": 2, "b": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "natives", "before", "after"), UPDATES)
def test_an_update_changes_what_it_says(
    db: Database,
    expression: str,
    natives: dict[str, Any],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    db.put(pk="p", sk="s", **before)
    answer = db.update(expression, **asked_names(expression), **asked_values(natives), ReturnValues="ALL_NEW")
    assert plain(answer["Attributes"]) == plain(item(pk="p", sk="s", **after))
    assert db.get("p", "s") == plain(item(pk="p", sk="s", **after))


def test_a_nested_change_leaves_the_old_item_as_it_was(db: Database) -> None:
    db.put(pk="p", sk="s", m={"x": [1]})
    answer = db.update("SET m.x[0] = :v", ExpressionAttributeValues=values(v=2), ReturnValues="ALL_OLD")
    assert answer["Attributes"]["m"] == value({"x": [1]})
    with pytest.raises(db.client.exceptions.TransactionCanceledException):
        db.transact(
            (
                "Update",
                {
                    "Key": item(pk="p", sk="s"),
                    "UpdateExpression": "SET m.x[0] = :v",
                    "ExpressionAttributeValues": values(v=3),
                },
            ),
            ("ConditionCheck", {"Key": item(pk="p", sk="absent"), "ConditionExpression": "attribute_exists(pk)"}),
        )
    assert db.get("p", "s") == item(pk="p", sk="s", m={"x": [2]})


INVALID_UPDATES: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "can not be empty"),
    ("SET", {}, "Syntax error"),
    ("SET a", {}, "Syntax error"),
    ("SET a = :v,", {"v": 1}, "Syntax error"),
    ("PUT a = :v", {"v": 1}, "Syntax error"),
    ("SET a = :v SET b = :v", {"v": 1}, "can only be used once"),
    ("SET a = :v, a = :v", {"v": 1}, "overlap"),
    ("SET m.x = :v REMOVE m", {"v": 1}, "overlap"),
    ("SET m.x = :v, m[0] = :v", {"v": 1}, "conflict"),
    ("SET data = :v", {"v": 1}, "reserved keyword: data"),
    ("SET a = :w", {"v": 1}, "not defined; attribute value: :w"),
    ("SET a = :v", {"v": 1, "w": 2}, "unused in expressions: keys: {:w}"),
    ("SET pk = :v", {"v": "q"}, "part of the key"),
    ("REMOVE sk", {}, "part of the key"),
    ("ADD sk :v", {"v": 1}, "part of the key"),
    ("ADD a :v", {"v": "x"}, "operand type: STRING"),
    ("DELETE a :v", {"v": 1}, "operand type: NUMBER"),
    ("SET a = b + :v", {"v": "x"}, "operand type: S"),
    ("SET a = list_append(b, :v)", {"v": 1}, "operand type: N"),
    ("SET a = absent", {}, "does not exist in the item"),
    ("SET a = absent + :v", {"v": 1}, "does not exist in the item"),
    ("SET a = word + :v", {"v": 1}, "incorrect data type"),
    ("ADD word :v", {"v": 1}, "incorrect data type"),
    ("ADD n :v", {"v": {"x"}}, "incorrect data type"),
    ("DELETE n :v", {"v": {"x"}}, "incorrect data type"),
    ("SET a = list_append(n, :v)", {"v": [1]}, "incorrect data type"),
    ("SET absent.x = :v", {"v": 1}, "invalid for update"),
    ("SET n.x = :v", {"v": 1}, "invalid for update"),
    ("SET m[0] = :v", {"v": 1}, "invalid for update"),
    ("REMOVE absent.x", {}, "invalid for update"),
    ("SET a = size(word)", {}, "size"),
    ("SET a = unheard_of(a)", {}, "unheard_of"),
    ("SET a = if_not_exists(:v, :v)", {"v": 1}, "if_not_exists"),
    ("SET due_pk = :v", {"v": 1}, "Type mismatch for Index Key"),
    ("SET due_pk = :v", {"v": ""}, "secondary index key"),
]
MOTO_LAX_UPDATES = {("SET n.x = :v", "invalid for update"): "accepts a path through a number"}


@pytest.mark.parametrize(("expression", "natives", "fragment"), INVALID_UPDATES)
def test_an_invalid_update_is_refused_and_changes_nothing(
    db: Database, request: pytest.FixtureRequest, expression: str, natives: dict[str, Any], fragment: str
) -> None:
    expect_difference(request, MOTO_LAX_UPDATES.get((expression, fragment)) if db.backend == "moto" else None)
    before = {"pk": "p", "sk": "s", "word": "hello", "n": 1, "m": {}}
    db.put(**before)
    with pytest.raises(ClientError) as refused:
        db.update(expression, **asked_names(expression), **asked_values(natives))
    assert code(refused) == "ValidationException"
    if db.backend in {"memory", "http"}:
        assert fragment in refused.value.response["Error"]["Message"]
    assert db.get("p", "s") == item(**before)


# What may be stored


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"sk": {"S": "s"}}, id="no hash key"),
        pytest.param({"pk": {"S": "p"}}, id="no range key"),
        pytest.param({"pk": {"N": "1"}, "sk": {"S": "s"}}, id="hash key of a wrong type"),
        pytest.param({"pk": {"S": ""}, "sk": {"S": "s"}}, id="empty hash key"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": ""}}, id="empty range key"),
        pytest.param({"pk": {"S": "p" * 2049}, "sk": {"S": "s"}}, id="long hash key"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s" * 1025}}, id="long range key"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "n": {"N": "ten"}}, id="no number"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "n": {"N": "1" * 39}}, id="39 digits"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "n": {"N": "1E126"}}, id="too large a number"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "n": {"N": "1E-131"}}, id="too small a number"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "t": {"SS": []}}, id="empty set"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "t": {"SS": ["a", "a"]}}, id="set with duplicates"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "x": {"S": "x" * 400 * 1024}}, id="over 400 KB"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "team": {"N": "1"}}, id="index key of a wrong type"),
        pytest.param({"pk": {"S": "p"}, "sk": {"S": "s"}, "team": {"S": ""}}, id="empty index key"),
    ],
)
def test_an_item_that_does_not_fit_is_refused(
    db: Database, request: pytest.FixtureRequest, wrong: dict[str, Any]
) -> None:
    case = request.node.callspec.id.split("-", 1)[1]
    expect_difference(request, MOTO_LAX_ITEMS.get(case) if db.backend == "moto" else None)
    with pytest.raises(ClientError) as refused:
        db.client.put_item(TableName=db.table, Item=wrong)
    assert code(refused) == "ValidationException"
    assert db.client.scan(TableName=db.table)["Count"] == 0


MOTO_LAX_ITEMS = {
    "39 digits": "accepts any number",
    "too large a number": "accepts any number",
    "set with duplicates": "accepts duplicates",
    "index key of a wrong type": "does not check index keys on put",
}


@differs("moto", "takes a little less")
def test_an_item_of_400_kb_fits(db: Database) -> None:
    db.put(pk="p", sk="s", x="x" * (400 * 1024 - len("pkpsksx")))


def test_an_update_that_outgrows_400_kb_is_refused(db: Database) -> None:
    db.put(pk="p", sk="s", x="x" * (300 * 1024))
    with pytest.raises(ClientError) as refused:
        db.update("SET y = :y", ExpressionAttributeValues=values(y="y" * (200 * 1024)))
    assert code(refused) == "ValidationException"
    stored = db.get("p", "s")
    assert stored is not None
    assert "y" not in stored


def test_38_digits_fit(db: Database) -> None:
    db.put(pk="p", sk="s", n=int("9" * 38))
    assert db.get("p", "s") == item(pk="p", sk="s", n=int("9" * 38))


@pytest.mark.parametrize("key", [{"pk": "p"}, {"pk": "p", "sk": 1}, {"pk": "p", "sk": "s", "a": 1}])
def test_a_key_that_is_not_exactly_the_key_is_refused(
    db: Database, request: pytest.FixtureRequest, key: dict[str, Any]
) -> None:
    lax = "finds nothing under a key of a wrong type" if key.get("sk") == 1 else None
    expect_difference(request, lax if db.backend == "moto" else None)
    with pytest.raises(ClientError) as refused:
        db.client.get_item(TableName=db.table, Key=item(**key))
    assert code(refused) == "ValidationException"


def test_an_unknown_table_is_not_found(db: Database) -> None:
    with pytest.raises(db.client.exceptions.ResourceNotFoundException):
        db.client.get_item(TableName="nowhere", Key=item(pk="p", sk="s"))
    with pytest.raises(db.client.exceptions.ResourceNotFoundException):
        db.client.describe_table(TableName="nowhere")


def test_a_misspelt_parameter_is_not_sent(db: Database) -> None:
    with pytest.raises(ParamValidationError):
        db.client.put_item(TableName=db.table, Items=item(pk="p", sk="s"))
    with pytest.raises(ParamValidationError):
        db.client.get_item(TableName=db.table)
    with pytest.raises(ParamValidationError):
        db.client.put_item(TableName=db.table, Item={"pk": {"S": 1}, "sk": {"S": "s"}})


@differs("moto", "accepts names and values without an expression")
def test_names_and_values_need_an_expression(db: Database) -> None:
    for given in ({"ExpressionAttributeNames": {"#a": "a"}}, {"ExpressionAttributeValues": values(a=1)}):
        with pytest.raises(ClientError) as refused:
            db.client.put_item(TableName=db.table, Item=item(pk="p", sk="s"), **given)
        assert code(refused) == "ValidationException"


# Projections


@pytest.mark.parametrize(
    ("expression", "names", "expected"),
    [
        ("a", {}, {"a": 1}),
        ("a, absent", {}, {"a": 1}),
        ("#n", {"#n": "name"}, {"name": "x"}),
        ("m.x", {}, {"m": {"x": 1}}),
        ("m.x, m.z", {}, {"m": {"x": 1, "z": [1, 2, 3]}}),
        ("m.z[1]", {}, {"m": {"z": [2]}}),
        ("l[0], l[2]", {}, {"l": ["a", "c"]}),
        ("l[2], l[0]", {}, {"l": ["a", "c"]}),
        ("absent", {}, {}),
    ],
)
def test_a_projection_gives_the_asked_parts(
    db: Database, request: pytest.FixtureRequest, expression: str, names: dict[str, str], expected: dict[str, Any]
) -> None:
    expect_difference(request, MOTO_PROJECTIONS.get(expression) if db.backend == "moto" else None)
    db.put(pk="p", sk="s", a=1, name="x", m={"x": 1, "y": 2, "z": [1, 2, 3]}, l=["a", "b", "c"])
    given: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
    assert db.get("p", "s", ProjectionExpression=expression, **given) == item(**expected)


MOTO_PROJECTIONS = {
    "l[0], l[2]": "keeps one of several elements",
    "l[2], l[0]": "keeps one of several elements",
}


# Queries


@pytest.fixture
def letters(db: Database) -> Database:
    for n, sk in enumerate(["a1", "a2", "a3", "b1", "b2"]):
        db.put(pk="p", sk=sk, n=n)
    db.put(pk="q", sk="a1", n=9)
    return db


def sks(answer: Mapping[str, Any]) -> list[str]:
    return [each["sk"]["S"] for each in answer["Items"]]


@pytest.mark.parametrize(
    ("condition", "natives", "expected"),
    [
        ("pk = :p", {}, ["a1", "a2", "a3", "b1", "b2"]),
        ("pk = :p AND sk = :x", {"x": "a2"}, ["a2"]),
        ("pk = :p AND sk < :x", {"x": "a2"}, ["a1"]),
        ("pk = :p AND sk <= :x", {"x": "a2"}, ["a1", "a2"]),
        ("pk = :p AND sk > :x", {"x": "a3"}, ["b1", "b2"]),
        ("pk = :p AND sk >= :x", {"x": "a3"}, ["a3", "b1", "b2"]),
        ("pk = :p AND sk BETWEEN :x AND :y", {"x": "a2", "y": "b1"}, ["a2", "a3", "b1"]),
        ("pk = :p AND begins_with(sk, :x)", {"x": "a"}, ["a1", "a2", "a3"]),
        ("begins_with(sk, :x) AND pk = :p", {"x": "b"}, ["b1", "b2"]),
        ("pk = :p AND sk > :x", {"x": "z"}, []),
    ],
)
def test_a_key_condition_selects_in_order(
    letters: Database, condition: str, natives: dict[str, Any], expected: list[str]
) -> None:
    given = {"p": "p", **natives}
    answer = letters.query(condition, given)
    assert sks(answer) == expected
    assert (answer["Count"], answer["ScannedCount"]) == (len(expected), len(expected))
    assert sks(letters.query(condition, given, ScanIndexForward=False)) == expected[::-1]
    counted = letters.query(condition, given, Select="COUNT")
    assert counted["Count"] == len(expected)
    assert "Items" not in counted


@pytest.mark.parametrize(
    ("condition", "natives"),
    [
        ("sk = :x", {"x": "a"}),
        ("pk > :x", {"x": "a"}),
        ("pk = :x AND sk <> :x", {"x": "a"}),
        ("pk = :x OR sk = :x", {"x": "a"}),
        ("pk = :x AND n = :x", {"x": "a"}),
        ("pk = :x AND contains(sk, :x)", {"x": "a"}),
        ("pk = :x", {"x": 1}),
        ("pk = :x", {"x": ""}),
        ("pk = :x AND sk = :y", {"x": "a"}),
        ("pk = :x", {"x": "a", "y": "b"}),
        ("pk = :x AND sk BETWEEN :y AND :z", {"x": "a", "y": "c", "z": "b"}),
    ],
)
def test_an_invalid_key_condition_is_refused(
    letters: Database, request: pytest.FixtureRequest, condition: str, natives: dict[str, Any]
) -> None:
    lax = MOTO_LAX_KEY_CONDITIONS.get((condition, tuple(natives.values())))
    expect_difference(request, lax if letters.backend == "moto" else None)
    with pytest.raises(ClientError) as refused:
        letters.query(condition, natives)
    assert code(refused) == "ValidationException"


MOTO_LAX_KEY_CONDITIONS: dict[tuple[str, tuple[Any, ...]], str] = {
    ("pk = :x AND sk <> :x", ("a",)): "takes <> in a key condition",
    ("pk = :x OR sk = :x", ("a",)): "takes OR in a key condition",
    ("pk = :x", (1,)): "finds nothing under a key of a wrong type",
    ("pk = :x", ("a", "b")): "accepts unused expression values",
    ("pk = :x AND sk BETWEEN :y AND :z", ("a", "c", "b")): "finds nothing between bounds that are turned round",
}


def test_a_filter_is_applied_after_the_limit(letters: Database) -> None:
    answer = letters.query("pk = :p", {"p": "p", "n": 2}, FilterExpression="n >= :n", Limit=3)
    assert sks(answer) == ["a3"]
    assert (answer["Count"], answer["ScannedCount"]) == (1, 3)
    assert answer["LastEvaluatedKey"] == item(pk="p", sk="a3")


@differs("moto", "filters on key attributes")
def test_a_filter_on_a_key_is_refused(letters: Database) -> None:
    with pytest.raises(ClientError) as refused:
        letters.query("pk = :p", {"p": "p", "s": "a"}, FilterExpression="sk > :s")
    assert code(refused) == "ValidationException"


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_of_a_query_join_to_the_whole(letters: Database, limit: int, *, forward: bool) -> None:
    seen: list[str] = []
    start: dict[str, Any] = {}
    while True:
        answer = letters.query("pk = :p", {"p": "p"}, Limit=limit, ScanIndexForward=forward, **start)
        assert answer["Count"] <= limit
        seen += sks(answer)
        if "LastEvaluatedKey" not in answer:
            break
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
    assert seen == sorted(seen, reverse=not forward)
    assert len(seen) == 5


def test_a_page_may_start_behind_a_key_that_is_gone(letters: Database) -> None:
    letters.client.delete_item(TableName=letters.table, Key=item(pk="p", sk="a2"))
    answer = letters.query("pk = :p", {"p": "p"}, ExclusiveStartKey=item(pk="p", sk="a2"))
    assert sks(answer) == ["a3", "b1", "b2"]


@differs("moto", "looks ahead and leaves out the last key when nothing follows")
def test_a_page_that_ends_at_its_limit_has_a_last_key_though_nothing_follows(letters: Database) -> None:
    answer = letters.query("pk = :p", {"p": "p"}, Limit=5)
    assert answer["LastEvaluatedKey"] == item(pk="p", sk="b2")
    assert "LastEvaluatedKey" not in letters.query("pk = :p", {"p": "p"}, Limit=6)


def test_a_paginator_gives_everything(letters: Database) -> None:
    pages = letters.client.get_paginator("query").paginate(
        TableName=letters.table,
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues=values(p="p"),
        PaginationConfig={"PageSize": 2},
    )
    assert [sk for page in pages for sk in sks(page)] == ["a1", "a2", "a3", "b1", "b2"]


def test_a_page_ends_at_one_megabyte(db: Database) -> None:
    for n in range(4):
        db.put(pk="p", sk=str(n), x="x" * 350 * 1024)
    first = db.query("pk = :p", {"p": "p"})
    assert 2 <= first["Count"] <= 3
    second = db.query("pk = :p", {"p": "p"}, ExclusiveStartKey=first["LastEvaluatedKey"])
    assert sks(first) + sks(second) == ["0", "1", "2", "3"]


def test_strings_sort_by_their_utf_8_bytes(db: Database) -> None:
    ordered = ["A", "Z", "a", "z", "é", "\uffee", "\U0001f600"]
    for sk in reversed(ordered):
        db.put(pk="p", sk=sk)
    assert sks(db.query("pk = :p", {"p": "p"})) == ordered


def test_a_limit_of_zero_is_not_sent(db: Database) -> None:
    with pytest.raises(ParamValidationError):
        db.query("pk = :p", {"p": "p"}, Limit=0)


# Scans


def test_pages_of_a_scan_join_to_the_whole(letters: Database) -> None:
    seen: list[tuple[str, str]] = []
    start: dict[str, Any] = {}
    while True:
        answer = letters.client.scan(TableName=letters.table, Limit=2, **start)
        seen += [(each["pk"]["S"], each["sk"]["S"]) for each in answer["Items"]]
        if "LastEvaluatedKey" not in answer:
            break
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
    assert sorted(seen) == [("p", "a1"), ("p", "a2"), ("p", "a3"), ("p", "b1"), ("p", "b2"), ("q", "a1")]


def test_segments_of_a_scan_share_the_partitions(db: Database) -> None:
    for n in range(40):
        db.put(pk=f"p{n}", sk="s")
    parts = [db.client.scan(TableName=db.table, Segment=n, TotalSegments=3)["Items"] for n in range(3)]
    assert sorted(each["pk"]["S"] for part in parts for each in part) == sorted(f"p{n}" for n in range(40))
    assert all(parts)


# Indexes


def test_an_index_holds_only_items_with_all_its_keys(db: Database) -> None:
    db.put(pk="1", sk="s", due_pk="d", due_sk="2")
    db.put(pk="2", sk="s", due_pk="d", due_sk="1")
    db.put(pk="3", sk="s", due_pk="d")
    db.put(pk="4", sk="s", due_sk="0")
    db.put(pk="5", sk="s")
    found = db.query("due_pk = :d", {"d": "d"}, IndexName="due")
    assert [each["pk"]["S"] for each in found["Items"]] == ["2", "1"]
    assert db.client.scan(TableName=db.table, IndexName="due")["Count"] == 2


def test_an_item_leaves_an_index_with_its_key(db: Database) -> None:
    db.put(pk="p", sk="s", due_pk="d", due_sk="1")
    db.update("SET due_sk = :n", ExpressionAttributeValues=values(n="2"))
    assert db.query("due_pk = :d AND due_sk = :n", {"d": "d", "n": "1"}, IndexName="due")["Count"] == 0
    assert db.query("due_pk = :d AND due_sk = :n", {"d": "d", "n": "2"}, IndexName="due")["Count"] == 1
    db.update("REMOVE due_pk")
    assert db.query("due_pk = :d", {"d": "d"}, IndexName="due")["Count"] == 0
    db.update("SET due_pk = :d", ExpressionAttributeValues=values(d="d"))
    db.client.delete_item(TableName=db.table, Key=item(pk="p", sk="s"))
    assert db.query("due_pk = :d", {"d": "d"}, IndexName="due")["Count"] == 0


def test_an_index_projects_what_it_says(db: Database) -> None:
    db.put(pk="p", sk="s", due_pk="d", due_sk="1", team="t", score=1, kept="k", other="o")
    keys_only = db.query("due_pk = :d", {"d": "d"}, IndexName="due")["Items"]
    included = db.query("team = :t", {"t": "t"}, IndexName="inc")["Items"]
    everything = db.query("team = :t", {"t": "t"}, IndexName="ranked")["Items"]
    assert keys_only == [item(pk="p", sk="s", due_pk="d", due_sk="1")]
    assert included == [item(pk="p", sk="s", team="t", kept="k")]
    assert everything == [db.get("p", "s")]


def test_an_index_sorts_numbers_as_numbers(db: Database) -> None:
    for score in (100, -5, 20, 3):
        db.put(pk=str(score), sk="s", team="t", score=score)
    found = db.query("team = :t AND score >= :n", {"t": "t", "n": -5}, IndexName="ranked")
    assert [each["score"]["N"] for each in found["Items"]] == ["-5", "3", "20", "100"]


def test_pages_of_an_index_join_though_its_keys_are_equal(db: Database) -> None:
    for n in range(7):
        db.put(pk=f"p{n}", sk="s", due_pk="d", due_sk="same")
    seen: list[str] = []
    start: dict[str, Any] = {}
    while True:
        answer = db.query("due_pk = :d", {"d": "d"}, IndexName="due", Limit=2, **start)
        seen += [each["pk"]["S"] for each in answer["Items"]]
        if "LastEvaluatedKey" not in answer:
            break
        assert answer["LastEvaluatedKey"].keys() == {"pk", "sk", "due_pk", "due_sk"}
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
    assert sorted(seen) == [f"p{n}" for n in range(7)]


def test_an_unknown_index_is_refused(db: Database) -> None:
    with pytest.raises(ClientError) as refused:
        db.query("due_pk = :d", {"d": "d"}, IndexName="nowhere")
    assert code(refused) in {"ValidationException", "ResourceNotFoundException"}


def test_a_global_index_is_not_read_consistently(db: Database) -> None:
    with pytest.raises(ClientError) as refused:
        db.query("due_pk = :d", {"d": "d"}, IndexName="due", ConsistentRead=True)
    assert code(refused) == "ValidationException"


def test_an_index_does_not_give_what_it_does_not_hold(db: Database) -> None:
    for given in ({"Select": "ALL_ATTRIBUTES"}, {"ProjectionExpression": "other"}):
        with pytest.raises(ClientError) as refused:
            db.query("due_pk = :d", {"d": "d"}, IndexName="due", **given)
        assert code(refused) == "ValidationException"


# Transactions


def test_a_transaction_writes_everything(db: Database) -> None:
    db.put(pk="p", sk="updated", n=1)
    db.put(pk="p", sk="deleted")
    db.put(pk="p", sk="checked", n=1)
    db.transact(
        ("Put", {"Item": item(pk="p", sk="put"), "ConditionExpression": NOT_THERE}),
        ("Update", {"Key": item(pk="p", sk="updated"), "UpdateExpression": "ADD n :n", "ExpressionAttributeValues": values(n=2)}),  # noqa: E501 a row
        ("Delete", {"Key": item(pk="p", sk="deleted")}),
        ("ConditionCheck", {"Key": item(pk="p", sk="checked"), "ConditionExpression": "n = :n", "ExpressionAttributeValues": values(n=1)}),  # noqa: E501 a row
    )  # fmt: skip
    assert sks(db.query("pk = :p", {"p": "p"})) == ["checked", "put", "updated"]
    assert db.get("p", "updated") == item(pk="p", sk="updated", n=3)


def test_a_refused_transaction_names_the_failed_conditions_by_position_and_writes_nothing(db: Database) -> None:
    db.put(pk="p", sk="there", n=1)
    with pytest.raises(db.client.exceptions.TransactionCanceledException) as refused:
        db.transact(
            ("Put", {"Item": item(pk="p", sk="new")}),
            ("Put", {"Item": item(pk="p", sk="there"), "ConditionExpression": NOT_THERE, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}),  # noqa: E501 a row
            ("Delete", {"Key": item(pk="p", sk="other")}),
            ("ConditionCheck", {"Key": item(pk="p", sk="absent"), "ConditionExpression": "attribute_exists(pk)"}),
        )  # fmt: skip
    assert reasons(refused) == ["None", "ConditionalCheckFailed", "None", "ConditionalCheckFailed"]
    found = refused.value.response["CancellationReasons"]
    assert found[1]["Item"] == item(pk="p", sk="there", n=1)
    assert found[1]["Message"] == "The conditional request failed"
    assert "Item" not in found[3]
    assert "[None, ConditionalCheckFailed, None, ConditionalCheckFailed]" in refused.value.response["Error"]["Message"]
    assert db.get("p", "new") is None


def test_conditions_of_a_transaction_see_the_state_before_it(db: Database) -> None:
    with pytest.raises(db.client.exceptions.TransactionCanceledException) as refused:
        db.transact(
            ("Put", {"Item": item(pk="p", sk="new")}),
            ("ConditionCheck", {"Key": item(pk="p", sk="other"), "ConditionExpression": "attribute_exists(pk)"}),
        )
    assert reasons(refused) == ["None", "ConditionalCheckFailed"]


def test_a_transaction_takes_an_item_once(db: Database) -> None:
    with pytest.raises(ClientError) as refused:
        db.transact(
            ("ConditionCheck", {"Key": item(pk="p", sk="s"), "ConditionExpression": NOT_THERE}),
            ("Put", {"Item": item(pk="p", sk="s")}),
        )
    assert code(refused) == "ValidationException"


def test_a_transaction_takes_100_operations_and_no_more(db: Database) -> None:
    puts = [("Put", {"Item": item(pk="p", sk=str(n))}) for n in range(101)]
    db.transact(*puts[:100])
    with pytest.raises(ClientError) as refused:
        db.transact(*puts)
    assert code(refused) == "ValidationException"
    assert db.query("pk = :p", {"p": "p"}, Select="COUNT")["Count"] == 100


@differs("moto", "has no limit on the size of a transaction")
def test_a_transaction_takes_4_megabytes_and_no_more(db: Database) -> None:
    puts = [("Put", {"Item": item(pk="p", sk=str(n), x="x" * 390 * 1024)}) for n in range(11)]
    with pytest.raises(ClientError) as refused:
        db.transact(*puts)
    assert code(refused) == "ValidationException"
    assert db.get("p", "0") is None


@differs("moto", "refuses as a whole what the service names by position")
def test_an_update_that_its_item_does_not_allow_is_named_by_position(db: Database) -> None:
    db.put(pk="p", sk="s", word="x")
    with pytest.raises(db.client.exceptions.TransactionCanceledException) as refused:
        db.transact(
            ("Put", {"Item": item(pk="p", sk="new")}),
            ("Update", {"Key": item(pk="p", sk="s"), "UpdateExpression": "ADD word :n", "ExpressionAttributeValues": values(n=2)}),  # noqa: E501 a row
        )  # fmt: skip
    assert reasons(refused) == ["None", "ValidationError"]
    assert db.get("p", "new") is None


@differs("moto", "accepts unused expression values")
def test_a_transaction_is_as_strict_as_a_single_write(db: Database) -> None:
    with pytest.raises(ClientError) as refused:
        db.transact(
            ("Put", {"Item": item(pk="p", sk="s"), "ConditionExpression": NOT_THERE, "ExpressionAttributeValues": values(n=2)})  # noqa: E501 a row
        )  # fmt: skip
    assert code(refused) == "ValidationException"


@differs("moto", "does not know ClientRequestToken")
def test_a_repeated_token_writes_once_and_another_request_with_it_is_refused(db: Database) -> None:
    add = (
        "Update",
        {"Key": item(pk="p", sk="s"), "UpdateExpression": "ADD n :n", "ExpressionAttributeValues": values(n=2)},
    )
    token = f"token-{db.table}"
    db.transact(add, ClientRequestToken=token)
    db.transact(add, ClientRequestToken=token)
    assert db.get("p", "s") == item(pk="p", sk="s", n=2)
    with pytest.raises(db.client.exceptions.IdempotentParameterMismatchException):
        db.transact(("Delete", {"Key": item(pk="p", sk="s")}), ClientRequestToken=token)


def test_a_transaction_reads_many_by_position(db: Database) -> None:
    db.put(pk="p", sk="1", a=1)
    db.put(pk="p", sk="3", a=3)
    asked = [{"Get": {"TableName": db.table, "Key": item(pk="p", sk=str(n))}} for n in (1, 2, 3)]
    found = db.client.transact_get_items(TransactItems=asked)["Responses"]
    assert [each.get("Item") for each in found] == [item(pk="p", sk="1", a=1), None, item(pk="p", sk="3", a=3)]


# Batches


def test_a_batch_reads_what_is_there(db: Database) -> None:
    for n in range(3):
        db.put(pk="p", sk=str(n), a=n)
    keys = [item(pk="p", sk=str(n)) for n in (0, 2, 7)]
    answer = db.client.batch_get_item(RequestItems={db.table: {"Keys": keys, "ProjectionExpression": "a"}})
    assert sorted(each["a"]["N"] for each in answer["Responses"][db.table]) == ["0", "2"]
    assert answer["UnprocessedKeys"] == {}


def test_a_batch_read_takes_100_distinct_keys(db: Database) -> None:
    for keys in ([str(n) for n in range(101)], ["1", "1"]):
        with pytest.raises(ClientError) as refused:
            db.client.batch_get_item(RequestItems={db.table: {"Keys": [item(pk="p", sk=key) for key in keys]}})
        assert code(refused) == "ValidationException"


def test_a_batch_writes_and_deletes(db: Database) -> None:
    db.put(pk="p", sk="gone")
    batch = [
        {"PutRequest": {"Item": item(pk="p", sk="new", a=1)}},
        {"DeleteRequest": {"Key": item(pk="p", sk="gone")}},
    ]
    answer = db.client.batch_write_item(RequestItems={db.table: batch})
    assert answer["UnprocessedItems"] == {}
    assert sks(db.query("pk = :p", {"p": "p"})) == ["new"]


@pytest.mark.parametrize("keys", [[str(n) for n in range(26)], ["1", "1"]], ids=["26", "twice"])
def test_a_batch_write_takes_25_distinct_items(db: Database, request: pytest.FixtureRequest, keys: list[str]) -> None:
    lax = "has no limit on the items of a batch" if len(keys) == 26 else None
    expect_difference(request, lax if db.backend == "moto" else None)
    batch = [{"PutRequest": {"Item": item(pk="p", sk=key)}} for key in keys]
    with pytest.raises(ClientError) as refused:
        db.client.batch_write_item(RequestItems={db.table: batch})
    assert code(refused) == "ValidationException"
    assert db.query("pk = :p", {"p": "p"})["Count"] == 0


# Capacity


def units(answer: Mapping[str, Any]) -> tuple[float, float, dict[str, float]]:
    consumed = answer["ConsumedCapacity"]
    consumed = consumed[0] if isinstance(consumed, list) else consumed
    indexes = {name: each["CapacityUnits"] for name, each in consumed.get("GlobalSecondaryIndexes", {}).items()}
    return consumed["CapacityUnits"], consumed.get("Table", {}).get("CapacityUnits", 0), indexes


@differs("moto", "counts one unit whatever the size")
def test_writes_cost_by_the_kilobyte_begun_and_the_larger_size(db: Database) -> None:
    def put(size: int) -> float:
        body = item(pk="p", sk="s", x="x" * size)
        return units(db.client.put_item(TableName=db.table, Item=body, ReturnConsumedCapacity="INDEXES"))[1]

    overhead = len("pkpsksx")
    assert put(1024 - overhead) == 1
    assert put(1025 - overhead) == 2
    assert put(10) == 2
    assert put(10) == 1
    deleted = db.client.delete_item(TableName=db.table, Key=item(pk="p", sk="s"), ReturnConsumedCapacity="INDEXES")
    assert units(deleted)[:2] == (1, 1)


@differs("moto", "counts one unit whatever the indexes")
def test_an_index_costs_when_its_entry_changes(db: Database) -> None:
    def cost(expression: str, **natives: Any) -> tuple[float, float, dict[str, float]]:
        given = asked_values(natives)
        return units(db.update(expression, **given, ReturnConsumedCapacity="INDEXES"))

    assert cost("SET a = :a", a=1) == (1, 1, {})
    assert cost("SET due_pk = :d, due_sk = :n", d="d", n="1") == (2, 1, {"due": 1})
    assert cost("SET a = :a", a=2) == (1, 1, {})
    assert cost("SET due_sk = :n", n="2") == (3, 1, {"due": 2})
    assert cost("REMOVE due_pk") == (2, 1, {"due": 1})


@differs("moto", "counts one unit whatever the size")
def test_reads_cost_by_4_kilobytes_begun_and_half_when_eventually_consistent(db: Database) -> None:
    db.put(pk="p", sk="s", x="x" * 5000)
    key = item(pk="p", sk="s")

    def cost(**options: Any) -> float:
        answer = db.client.get_item(TableName=db.table, ReturnConsumedCapacity="TOTAL", **{"Key": key, **options})
        return units(answer)[0]

    assert cost() == 1
    assert cost(ConsistentRead=True) == 2
    assert cost(Key=item(pk="p", sk="absent")) == 0.5
    queried = db.query("pk = :p", {"p": "p"}, ReturnConsumedCapacity="TOTAL")
    assert units(queried)[0] == 1


@differs("moto", "counts one unit whatever the call")
def test_a_transaction_costs_twice(db: Database) -> None:
    answer = db.transact(
        ("Put", {"Item": item(pk="p", sk="s", x="x" * 1500)}),
        ("ConditionCheck", {"Key": item(pk="p", sk="t"), "ConditionExpression": NOT_THERE}),
        ReturnConsumedCapacity="TOTAL",
    )
    assert units(answer)[0] == 6
    asked = [{"Get": {"TableName": db.table, "Key": item(pk="p", sk="s")}}]
    read = db.client.transact_get_items(TransactItems=asked, ReturnConsumedCapacity="TOTAL")
    assert units(read)[0] == 2


# Tables


def test_a_table_is_described_and_listed(db: Database) -> None:
    described = db.client.describe_table(TableName=db.table)["Table"]
    assert described["TableStatus"] == "ACTIVE"
    assert [each["AttributeName"] for each in described["KeySchema"]] == ["pk", "sk"]
    assert {each["IndexName"] for each in described["GlobalSecondaryIndexes"]} == {"due", "inc", "ranked"}
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    pages = db.client.get_paginator("list_tables").paginate()
    assert db.table in [name for page in pages for name in page["TableNames"]]


def test_a_table_is_made_once(db: Database) -> None:
    with pytest.raises(db.client.exceptions.ResourceInUseException):
        create_table(db.client, db.table)


def test_time_to_live_is_told_as_it_was_set(db: Database) -> None:
    before = db.client.describe_time_to_live(TableName=db.table)["TimeToLiveDescription"]
    assert before["TimeToLiveStatus"] == "DISABLED"
    wanted = {"Enabled": True, "AttributeName": "expires_at"}
    db.client.update_time_to_live(TableName=db.table, TimeToLiveSpecification=wanted)
    after = db.client.describe_time_to_live(TableName=db.table)["TimeToLiveDescription"]
    assert after == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}


def test_an_undeclared_key_attribute_is_refused(db: Database) -> None:
    with pytest.raises(ClientError) as refused:
        db.client.create_table(
            TableName=f"{db.table}-wrong",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        )
    assert code(refused) == "ValidationException"
