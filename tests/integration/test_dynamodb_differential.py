"""Random histories do the same to the in-memory DynamoDB and to moto: same answers, same refusals, same contents."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from local.clock import Clock
from local.dynamodb import MemoryDynamoDB

type Operation = tuple[str, Any]

TABLES = count(1)
NUMBERS = {":n": {"N": "3"}, ":m": {"N": "-7"}}
KEYS = st.tuples(st.sampled_from("pq"), st.sampled_from(["a", "a1", "b"])).map(
    lambda key: {"pk": {"S": key[0]}, "sk": {"S": key[1]}}
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(-20, 20).map(lambda number: {"N": str(number)}),
        "word": st.sampled_from(["", "x", "xy", "z"]).map(lambda text: {"S": text}),
        "tags": st.sets(st.sampled_from("xyz"), min_size=1).map(lambda tags: {"SS": sorted(tags)}),
        "doc": st.integers(0, 3).map(lambda number: {"M": {"leaf": {"N": str(number)}}}),
        "seq": st.lists(st.integers(0, 3), max_size=3).map(lambda each: {"L": [{"N": str(n)} for n in each]}),
        "due": st.sampled_from("de").map(lambda text: {"S": text}),
    },
)
# (expression, the values it uses)
CONDITIONS = st.sampled_from(
    [
        (None, []),
        ("attribute_not_exists(pk)", []),
        ("attribute_exists(pk)", []),
        ("attribute_exists(n) AND NOT n > :n", [":n"]),
        ("n BETWEEN :m AND :n OR attribute_not_exists(due)", [":m", ":n"]),
        ("n IN (:n, :m)", [":n", ":m"]),
        ("attribute_exists(tags) AND size(tags) < :n", [":n"]),
        ("doc.leaf = :n", [":n"]),
        ("NOT (n = :n OR n = :m)", [":n", ":m"]),
        ("attribute_exists(seq[1])", []),
        ("begins_with(word, :x)", [":x"]),
        ("contains(tags, :x) OR contains(word, :x)", [":x"]),
    ]
)
UPDATES = st.sampled_from(
    [
        ("SET n = :n", [":n"]),
        ("ADD n :m", [":m"]),
        ("SET n = if_not_exists(n, :n) - :m", [":n", ":m"]),
        ("SET n = n + :n", [":n"]),
        ("ADD tags :s", [":s"]),
        ("DELETE tags :s", [":s"]),
        ("REMOVE due", []),
        ("SET due = :d REMOVE n", [":d"]),
        ("SET doc.leaf = :n", [":n"]),
        ("REMOVE doc.leaf", []),
        ("SET seq[0] = :n", [":n"]),
        ("REMOVE seq[0]", []),
        ("SET seq = list_append(seq, :l)", [":l"]),
        ("SET word = :x, due = :d", [":x", ":d"]),
    ]
)
VALUES: dict[str, Any] = {
    **NUMBERS,
    ":x": {"S": "x"},
    ":d": {"S": "d"},
    ":s": {"SS": ["x", "y"]},
    ":l": {"L": [{"N": "3"}]},
}


def _used(names: list[str]) -> dict[str, Any]:
    return {"ExpressionAttributeValues": {name: VALUES[name] for name in names}} if names else {}


def _put(key: dict[str, Any], attributes: dict[str, Any], condition: tuple[str | None, list[str]]) -> dict[str, Any]:
    return {"Item": {**key, **attributes}, **_condition(condition)}


def _condition(condition: tuple[str | None, list[str]]) -> dict[str, Any]:
    return {} if condition[0] is None else {"ConditionExpression": condition[0], **_used(condition[1])}


def _update(
    key: dict[str, Any], update: tuple[str, list[str]], condition: tuple[str | None, list[str]]
) -> dict[str, Any]:
    names = sorted({*update[1], *condition[1]})
    return {"Key": key, "UpdateExpression": update[0], **_condition(condition), **_used(names)}


PUTS = st.builds(_put, KEYS, ATTRIBUTES, CONDITIONS)
EDITS = st.builds(_update, KEYS, UPDATES, CONDITIONS)
DELETES = st.builds(lambda key, condition: {"Key": key, **_condition(condition)}, KEYS, CONDITIONS)
CHECKS = st.builds(
    lambda key, condition: {"Key": key, **_condition(condition)}, KEYS, CONDITIONS.filter(lambda pair: pair[0])
)
IN_TRANSACTION = st.one_of(
    st.tuples(st.just("Put"), PUTS),
    st.tuples(st.just("Update"), EDITS),
    st.tuples(st.just("Delete"), DELETES),
    st.tuples(st.just("ConditionCheck"), CHECKS),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put_item"), PUTS.map(lambda body: {**body, "ReturnValues": "ALL_OLD"})),
    st.tuples(st.just("update_item"), EDITS.map(lambda body: {**body, "ReturnValues": "ALL_NEW"})),
    st.tuples(st.just("delete_item"), DELETES.map(lambda body: {**body, "ReturnValues": "ALL_OLD"})),
    st.tuples(st.just("transact_write_items"), st.lists(IN_TRANSACTION, min_size=1, max_size=4)),
)
READS: list[dict[str, Any]] = [
    {"KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": {":p": {"S": "p"}}},
    {
        "KeyConditionExpression": "pk = :p AND begins_with(sk, :a)",
        "FilterExpression": "n > :z OR attribute_exists(due)",
        "ExpressionAttributeValues": {":p": {"S": "p"}, ":a": {"S": "a"}, ":z": {"N": "0"}},
        "ScanIndexForward": False,
    },
    {
        "IndexName": "due",
        "KeyConditionExpression": "due = :d AND sk >= :a",
        "ExpressionAttributeValues": {":d": {"S": "d"}, ":a": {"S": "a1"}},
    },
]


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client(
            "dynamodb", region_name="eu-central-1", aws_access_key_id="testing", aws_secret_access_key="testing"
        )


def _create(client: Any, table: str) -> None:
    client.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "due")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "due",
                "KeySchema": [{"AttributeName": "due", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["n"]},
            }
        ],
    )


def _outcome(client: Any, table: str, operation: Operation) -> Any:
    """What a client sees of an operation; refusals by code and, in a transaction, by position."""
    name, body = operation
    if name == "transact_write_items":
        request: dict[str, Any] = {"TransactItems": [{kind: {"TableName": table, **each}} for kind, each in body]}
    else:
        request = {"TableName": table, **body}
    try:
        answer = getattr(client, name)(**request)
    except ClientError as refused:
        response: dict[str, Any] = {**refused.response}
        reasons = response.get("CancellationReasons")
        return response["Error"]["Code"], reasons and [reason["Code"] for reason in reasons]
    return _normal(answer.get("Attributes"))


def _normal(item: Any) -> Any:
    if item is None:
        return None
    return {
        name: {kind: sorted(data) if kind == "SS" else data}
        for name, each in item.items()
        for kind, data in each.items()
    }


def _contents(client: Any, table: str) -> Any:
    scanned = [_normal(item) for item in client.scan(TableName=table)["Items"]]
    answers = [client.query(TableName=table, **read) for read in READS]
    ordered = sorted(scanned, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))
    found = [([_normal(item) for item in each["Items"]], each["Count"], each["ScannedCount"]) for each in answers]
    # Items with equal index keys are in no order.
    found[2][0].sort(key=lambda item: (item["sk"]["S"], item["pk"]["S"]))
    return ordered, found


def _same(ours: Any, theirs: Any) -> bool:
    """moto refuses as a whole an update that its item does not allow; the service names it by position."""
    if ours == theirs:
        return True
    named = isinstance(ours, tuple) and ours[1] is not None and "ValidationError" in ours[1]
    return named and isinstance(theirs, tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(history=st.lists(OPERATIONS, min_size=1, max_size=14))
def test_a_random_history_goes_as_it_does_on_moto(reference: Any, history: list[Operation]) -> None:
    memory = MemoryDynamoDB(Clock(datetime(2026, 3, 1, tzinfo=UTC)))
    table = f"differential-{next(TABLES)}"
    for client in (memory, reference):
        _create(client, table)
    try:
        for operation in history:
            ours, theirs = _outcome(memory, table, operation), _outcome(reference, table, operation)
            assert _same(ours, theirs), (operation, ours, theirs)
        assert _contents(memory, table) == _contents(reference, table)
    finally:
        reference.delete_table(TableName=table)
