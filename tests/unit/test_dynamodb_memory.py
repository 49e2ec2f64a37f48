"""What only the in-memory DynamoDB has: faults, lagging indexes, change records, expiry, templates and threads."""

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.clock import Clock
from local.dynamodb import Fault, MemoryDynamoDB
from local.dynamodb.http import handle
from local.dynamodb.template import create_tables
from local.template import load, parse

START = datetime(2026, 3, 1, tzinfo=UTC)
type Make = Callable[..., MemoryDynamoDB]


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def make(clock: Clock) -> Make:
    def made(**options: Any) -> MemoryDynamoDB:
        client = MemoryDynamoDB(clock)
        create_table(client)
        for name, option in options.items():
            setattr(client, name, option)
        return client

    return made


def create_table(client: MemoryDynamoDB, **options: Any) -> None:
    client.create_table(
        TableName="t",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "due")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "by_due",
                "KeySchema": [{"AttributeName": "due", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
        **options,
    )


def put(client: MemoryDynamoDB, pk: str = "p", **attributes: dict[str, Any]) -> dict[str, Any]:
    return client.put_item(TableName="t", Item={"pk": {"S": pk}, **attributes})


def get(client: MemoryDynamoDB, pk: str = "p") -> dict[str, Any] | None:
    return client.get_item(TableName="t", Key={"pk": {"S": pk}}).get("Item")


def due(client: MemoryDynamoDB) -> int:
    return int(
        client.query(
            TableName="t",
            IndexName="by_due",
            KeyConditionExpression="due = :d",
            ExpressionAttributeValues={":d": {"S": "d"}},
        )["Count"]
    )


class CrashError(Exception):
    """A process that dies."""


def crash(operation: str, request: Mapping[str, Any]) -> None:
    raise CrashError


def always(fault: Fault) -> Callable[[str, Mapping[str, Any]], Fault]:
    return lambda _operation, _request: fault


def test_a_crash_before_a_write_leaves_nothing(make: Make) -> None:
    client = make(on_call=crash)
    with pytest.raises(CrashError):
        put(client)
    client.on_call = None
    assert get(client) is None


def test_a_crash_after_a_write_loses_only_the_answer(make: Make) -> None:
    client = make(after_call=crash)
    with pytest.raises(CrashError):
        put(client)
    assert get(client) == {"pk": {"S": "p"}}


def test_hooks_see_writes_and_no_reads(make: Make) -> None:
    seen: list[str] = []
    client = make(on_call=lambda operation, _: seen.append(operation))
    put(client)
    get(client)
    client.transact_write_items(TransactItems=[{"Delete": {"TableName": "t", "Key": {"pk": {"S": "p"}}}}])
    assert seen == ["PutItem", "TransactWriteItems"]


def test_a_hook_may_write_between_a_read_and_a_write(make: Make) -> None:
    client = make()

    def other_worker(operation: str, request: Mapping[str, Any]) -> None:
        client.on_call = None
        put(client, n={"N": "1"})

    client.on_call = other_worker
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        client.put_item(TableName="t", Item={"pk": {"S": "p"}}, ConditionExpression="attribute_not_exists(pk)")
    assert get(client) == {"pk": {"S": "p"}, "n": {"N": "1"}}


@pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError"])
def test_an_injected_fault_cancels_a_transaction_by_position(make: Make, code: Any) -> None:
    client = make(inject=always(Fault(code, (1,))))
    puts = [{"Put": {"TableName": "t", "Item": {"pk": {"S": pk}}}} for pk in ("1", "2", "3")]
    with pytest.raises(client.exceptions.TransactionCanceledException) as refused:
        client.transact_write_items(TransactItems=puts)
    assert [reason["Code"] for reason in refused.value.response["CancellationReasons"]] == ["None", code, "None"]
    client.inject = None
    assert get(client, "1") is None


def test_an_injected_fault_refuses_a_single_call(make: Make) -> None:
    client = make(inject=always(Fault("TransactionConflict")))
    with pytest.raises(client.exceptions.TransactionConflictException):
        put(client)
    client.inject = always(Fault("ThrottlingError"))
    with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
        get(client)
    client.inject = None
    assert get(client) is None


def test_throttled_requests_of_a_batch_come_back_unprocessed(make: Make) -> None:
    client = make(inject=always(Fault("ThrottlingError", (1,))))
    batch = [{"PutRequest": {"Item": {"pk": {"S": pk}}}} for pk in ("1", "2")]
    answer = client.batch_write_item(RequestItems={"t": batch})
    assert answer["UnprocessedItems"] == {"t": [batch[1]]}
    keys = [{"pk": {"S": pk}} for pk in ("1", "2")]
    read = client.batch_get_item(RequestItems={"t": {"Keys": keys}})
    assert read["Responses"] == {"t": [{"pk": {"S": "1"}}]}
    assert read["UnprocessedKeys"] == {"t": {"Keys": [keys[1]]}}


def test_an_index_lags_by_calls(make: Make) -> None:
    client = make(index_lag=2)
    put(client, due={"S": "d"})
    assert [due(client) for _ in range(4)] == [0, 0, 1, 1]


def test_an_index_lags_by_time(make: Make, clock: Clock) -> None:
    client = make(index_lag=timedelta(seconds=5))
    put(client, due={"S": "d"})
    assert due(client) == 0
    clock.advance(timedelta(seconds=5))
    assert due(client) == 1


def test_a_lagging_index_shows_changes_in_order(make: Make, clock: Clock) -> None:
    client = make(index_lag=timedelta(seconds=5))
    put(client, due={"S": "d"})
    put(client, due={"S": "later"})
    clock.advance(timedelta(seconds=5))
    assert due(client) == 0


def test_changes_are_recorded_with_both_images(clock: Clock) -> None:
    client = MemoryDynamoDB(clock)
    create_table(client, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"})
    put(client, n={"N": "1"})
    put(client, n={"N": "1"})
    put(client, n={"N": "2"})
    client.delete_item(TableName="t", Key={"pk": {"S": "p"}})
    records = client.changes("t")
    assert [record.event for record in records] == ["INSERT", "MODIFY", "REMOVE"]
    assert records[1].old == {"pk": {"S": "p"}, "n": {"N": "1"}}
    assert records[1].new == {"pk": {"S": "p"}, "n": {"N": "2"}}
    assert all(record.keys == {"pk": {"S": "p"}} for record in records)
    assert client.changes("t", records[0].sequence) == records[1:]
    assert client.changes("t", records[2].sequence) == []


def test_a_refused_transaction_records_no_change(clock: Clock) -> None:
    client = MemoryDynamoDB(clock)
    create_table(client, StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"})
    put(client)
    absent = {"ConditionExpression": "attribute_not_exists(pk)"}
    puts = [{"Put": {"TableName": "t", "Item": {"pk": {"S": pk}}, **absent}} for pk in ("q", "p")]
    with pytest.raises(ClientError):
        client.transact_write_items(TransactItems=puts)
    (only,) = client.changes("t")
    assert (only.keys, only.old, only.new) == ({"pk": {"S": "p"}}, None, None)


def test_what_outlives_its_time_is_there_until_it_is_expired(make: Make, clock: Clock) -> None:
    client = make()
    put(client, "before", ttl={"N": str(int(START.timestamp()) + 9)})
    client.update_time_to_live(TableName="t", TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"})
    put(client, "after", ttl={"N": str(int(START.timestamp()) + 9)}, due={"S": "d"})
    put(client, "prolonged", ttl={"N": str(int(START.timestamp()) + 9)})
    put(client, "prolonged", ttl={"N": str(int(START.timestamp()) + 90)})
    put(client, "text", ttl={"S": "1"})
    put(client, "for ever")
    assert client.expire() == []
    clock.advance(timedelta(seconds=10))
    assert get(client, "after") is not None
    assert {(table, item["pk"]["S"]) for table, item in client.expire()} == {("t", "before"), ("t", "after")}
    assert get(client, "after") is None
    assert due(client) == 0
    assert client.scan(TableName="t")["Count"] == 3


def test_a_token_is_forgotten_after_ten_minutes(make: Make, clock: Clock) -> None:
    client = make()
    add: dict[str, Any] = {
        "TableName": "t",
        "Key": {"pk": {"S": "p"}},
        "UpdateExpression": "ADD n :n",
        "ExpressionAttributeValues": {":n": {"N": "1"}},
    }
    for wait in (0, 600, 1):
        clock.advance(timedelta(seconds=wait))
        client.transact_write_items(TransactItems=[{"Update": add}], ClientRequestToken="token")
    assert get(client) == {"pk": {"S": "p"}, "n": {"N": "2"}}


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns as often as they can, so that a missing lock is noticed."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_a_counter_counts_every_thread(make: Make) -> None:
    client = make()

    def count() -> None:
        for _ in range(200):
            client.update_item(
                TableName="t",
                Key={"pk": {"S": "p"}},
                UpdateExpression="ADD n :n",
                ExpressionAttributeValues={":n": {"N": "1"}},
            )

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert get(client) == {"pk": {"S": "p"}, "n": {"N": "800"}}


def test_a_request_is_handled_without_a_server(make: Make) -> None:
    status, headers, body = handle(make(), {"X-Amz-Target": "DynamoDB_20120810.ListTables"}, b"{}")
    assert (status, body) == (200, b'{"TableNames": ["t"]}')
    assert headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    ("target", "body", "kind"),
    [
        ("DynamoDB_20120810.Fly", b"{}", b"UnknownOperationException"),
        ("DynamoDB_20120810.GetItem", b"{", b"SerializationException"),
        ("DynamoDB_20120810.GetItem", b"{}", b"SerializationException"),
        ("DynamoDB_20120810.DescribeTable", b'{"TableName": "x"}', b"v20120810#ResourceNotFoundException"),
    ],
)
def test_what_cannot_be_handled_is_named(make: Make, target: str, body: bytes, kind: bytes) -> None:
    status, _, answer = handle(make(), {"x-amz-target": target}, body)
    assert status == 400
    assert kind in answer


TEMPLATE = """
AWSTemplateFormatVersion: 2010-09-09
Parameters:
  CoreName: {Type: String, Default: ""}
  UsageName: {Type: String, Default: usage-restored}
Conditions:
  Named: !Not [!Equals [!Ref CoreName, ""]]
Resources:
  CoreTable:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !If [Named, !Ref CoreName, !Ref AWS::NoValue]
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}, {AttributeName: due, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - {IndexName: due, KeySchema: [{AttributeName: due, KeyType: HASH}], Projection: {ProjectionType: KEYS_ONLY}}
      TimeToLiveSpecification: {AttributeName: expires_at, Enabled: true}
      StreamSpecification: {StreamViewType: NEW_IMAGE}
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
  UsageTable:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !Ref UsageName
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
  Topic:
    Type: AWS::SNS::Topic
    Properties: {DisplayName: !Sub "${CoreTable.Arn}-x", TopicName: !GetAtt CoreTable.Arn}
"""


def test_tables_are_made_as_the_template_declares_them(clock: Clock) -> None:
    client = MemoryDynamoDB(clock)
    template = parse(TEMPLATE)
    assert create_tables(client.as_boto3(), template) == {"CoreTable": "CoreTable", "UsageTable": "usage-restored"}
    described = client.describe_table(TableName="CoreTable")["Table"]
    assert [each["IndexName"] for each in described["GlobalSecondaryIndexes"]] == ["due"]
    assert described["StreamSpecification"]["StreamViewType"] == "NEW_IMAGE"
    ttl = client.describe_time_to_live(TableName="CoreTable")["TimeToLiveDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}


def test_a_table_takes_the_name_of_a_given_parameter(clock: Clock) -> None:
    client = MemoryDynamoDB(clock)
    made = create_tables(client.as_boto3(), parse(TEMPLATE), parameters={"UsageName": "mine"})
    assert made["UsageTable"] == "mine"


def test_intrinsic_functions_are_read_in_their_long_form(tmp_path: Any) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    template = load(path)
    assert template["AWSTemplateFormatVersion"] == "2010-09-09"
    assert template["Conditions"]["Named"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "CoreName"}, ""]}]}
    assert template["Resources"]["Topic"]["Properties"] == {
        "DisplayName": {"Fn::Sub": "${CoreTable.Arn}-x"},
        "TopicName": {"Fn::GetAtt": ["CoreTable", "Arn"]},
    }


@pytest.mark.parametrize(("sk", "taken"), [("BILL#1", True), ("BILL#", True), ("BIL", False), ("LINES#1", False)])
def test_a_query_goes_on_only_within_its_own_bounds(clock: Clock, sk: str, *, taken: bool) -> None:
    client = MemoryDynamoDB(clock)
    client.create_table(
        TableName="t",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    request: dict[str, Any] = {
        "TableName": "t",
        "KeyConditionExpression": "pk = :pk AND begins_with(sk, :prefix)",
        "ExpressionAttributeValues": {":pk": {"S": "p"}, ":prefix": {"S": "BILL#"}},
        "ExclusiveStartKey": {"pk": {"S": "p"}, "sk": {"S": sk}},
    }
    if taken:
        assert client.query(**request)["Items"] == []
        return
    with pytest.raises(ClientError, match="outside query boundaries"):
        client.query(**request)
