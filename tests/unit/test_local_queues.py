"""The SQS stand-in delivers at least once, lends, redrives, and hands functions genuine records."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.api_gateway import InvocationError
from local.clock import Clock
from local.queues import MemorySQS
from local.stack import Queue, QueueTrigger
from local.triggers import QueuePoller, failed_ids

DEAD = Queue(
    name="Dead", url="http://q/dead", arn="arn:dead", visibility=30, delay=0, retention=1_209_600, dead_letters=None,
    max_receives=0,
)  # fmt: skip
WORK = Queue(
    name="Work", url="http://q/work", arn="arn:work", visibility=60, delay=0, retention=345_600,
    dead_letters="arn:dead", max_receives=3,
)  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def sqs(clock: Clock) -> MemorySQS:
    return MemorySQS([WORK, DEAD], clock, seed=1)


def send(sqs: MemorySQS, *bodies: str, **more: Any) -> None:
    for body in bodies:
        sqs.send_message(QueueUrl=WORK.url, MessageBody=body, **more)


def received(sqs: MemorySQS, most: int = 10) -> list[dict[str, Any]]:
    answer = sqs.receive_message(QueueUrl=WORK.url, MaxNumberOfMessages=most)
    return list(answer.get("Messages", []))


def test_a_received_message_is_hidden_for_the_visibility_time_out(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "a")
    assert [m["Body"] for m in received(sqs)] == ["a"]
    assert received(sqs) == []
    clock.advance(timedelta(seconds=59))
    assert received(sqs) == []
    clock.advance(timedelta(seconds=1))
    again = received(sqs)
    assert again[0]["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_deleted_message_never_comes_back(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "a")
    sqs.delete_message(QueueUrl=WORK.url, ReceiptHandle=received(sqs)[0]["ReceiptHandle"])
    clock.advance(timedelta(days=1))
    assert received(sqs) == []


def test_an_old_receipt_deletes_nothing(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "a")
    first = received(sqs)[0]["ReceiptHandle"]
    clock.advance(timedelta(minutes=1))
    received(sqs)
    sqs.delete_message(QueueUrl=WORK.url, ReceiptHandle=first)
    clock.advance(timedelta(minutes=1))
    assert len(received(sqs)) == 1


def test_a_delayed_message_is_invisible_until_then(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "a", DelaySeconds=900)
    assert received(sqs) == []
    assert sqs.next_visible([WORK.arn]) == clock.now() + timedelta(minutes=15)
    assert sqs.depths()["Work"] == {"visible": 0, "lent": 0, "delayed": 1}
    clock.advance(timedelta(minutes=15))
    assert len(received(sqs)) == 1


def test_visibility_can_be_changed_while_lent(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "a")
    receipt = received(sqs)[0]["ReceiptHandle"]
    sqs.change_message_visibility(QueueUrl=WORK.url, ReceiptHandle=receipt, VisibilityTimeout=300)
    clock.advance(timedelta(seconds=299))
    assert received(sqs) == []
    clock.advance(timedelta(seconds=1))
    assert len(received(sqs)) == 1


def test_after_the_last_receive_a_message_is_set_apart(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "poison")
    for _ in range(3):
        assert len(received(sqs)) == 1
        clock.advance(timedelta(minutes=1))
    assert received(sqs) == []
    assert [m.body for m in sqs.messages("Dead")] == ["poison"]
    assert sqs.messages("Work") == []


def test_a_message_older_than_the_retention_is_gone(sqs: MemorySQS, clock: Clock) -> None:
    send(sqs, "a")
    clock.advance(timedelta(days=4, seconds=1))
    assert received(sqs) == []


def test_a_batch_takes_what_is_good_and_names_what_is_not(sqs: MemorySQS) -> None:
    entries: list[dict[str, Any]] = [
        {"Id": "a", "MessageBody": "1"},
        {"Id": "b", "MessageBody": "2", "DelaySeconds": 901},
    ]
    answer = sqs.send_message_batch(QueueUrl=WORK.url, Entries=entries)
    assert [each["Id"] for each in answer["Successful"]] == ["a"]
    assert [each["Id"] for each in answer["Failed"]] == ["b"]


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ([], "EmptyBatchRequest"),
        ([{"Id": str(n), "MessageBody": "x"} for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([{"Id": "a", "MessageBody": "x"}, {"Id": "a", "MessageBody": "y"}], "BatchEntryIdsNotDistinct"),
        ([{"Id": str(n), "MessageBody": "x" * 600_000} for n in range(2)], "BatchRequestTooLong"),
    ],
)
def test_a_batch_that_sqs_refuses_is_refused(sqs: MemorySQS, entries: Any, name: str) -> None:
    with pytest.raises(getattr(sqs.exceptions, name)):
        sqs.send_message_batch(QueueUrl=WORK.url, Entries=entries)


def test_an_unknown_queue_is_named_as_boto3_names_it(sqs: MemorySQS) -> None:
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.send_message(QueueUrl="http://q/none", MessageBody="x")


def test_a_message_over_a_mebibyte_is_refused(sqs: MemorySQS) -> None:
    with pytest.raises(Exception, match="1 MiB"):
        send(sqs, "a" * (1024 * 1024 + 1))


def test_the_same_seed_makes_the_same_faults(clock: Clock) -> None:
    def bodies(seed: int) -> list[str]:
        sqs = MemorySQS([WORK, DEAD], clock, seed=seed)
        sqs.faults.duplicate = sqs.faults.reorder = sqs.faults.delay = 0.5
        send(sqs, *"abcdefgh")
        first = [m.body for m in sqs.take(WORK.arn, 100)]
        return [*first, str(sqs.next_visible([WORK.arn]))]

    assert bodies(7) == bodies(7)
    assert any(bodies(seed) != bodies(7) for seed in range(5))


def test_a_duplicate_is_the_same_message_twice(sqs: MemorySQS) -> None:
    sqs.faults.duplicate = 1.0
    send(sqs, "a")
    twice = received(sqs)
    assert [m["Body"] for m in twice] == ["a", "a"]
    assert twice[0]["MessageId"] == twice[1]["MessageId"]
    assert twice[0]["ReceiptHandle"] != twice[1]["ReceiptHandle"]


def poller(sqs: MemorySQS, answer: Callable[[dict[str, Any]], object], *, partial: bool = True) -> QueuePoller:
    trigger = QueueTrigger(function="F", queue=WORK.arn, batch_size=10, partial=partial)
    return QueuePoller(trigger, sqs, lambda _function, event: answer(event))


def test_a_record_is_what_lambda_gets(sqs: MemorySQS) -> None:
    seen: list[dict[str, Any]] = []
    send(sqs, '{"event": "evt_1"}', MessageGroupId="acme")
    poller(sqs, seen.append).run_due()
    (record,) = seen[0]["Records"]
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == WORK.arn
    assert json.loads(record["body"]) == {"event": "evt_1"}
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["attributes"]["MessageGroupId"] == "acme"
    assert record["attributes"]["SentTimestamp"] == "1772323200000"
    assert set(record) == {
        "messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfBody", "eventSource",
        "eventSourceARN", "awsRegion",
    }  # fmt: skip


def test_only_what_a_function_reports_as_failed_comes_back(sqs: MemorySQS, clock: Clock) -> None:
    def fail_b(event: dict[str, Any]) -> Any:
        return {"batchItemFailures": [{"itemIdentifier": r["messageId"]} for r in event["Records"] if r["body"] == "b"]}

    send(sqs, "a", "b", "c")
    worker = poller(sqs, fail_b)
    assert worker.run_due() == 3
    assert worker.run_due() == 0
    assert [m.body for m in sqs.messages("Work")] == ["b"]
    clock.advance(timedelta(minutes=1))
    assert worker.run_due() == 1


def test_without_partial_responses_a_report_is_ignored(sqs: MemorySQS) -> None:
    send(sqs, "a")
    poller(sqs, lambda event: {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]},
           partial=False).run_due()  # fmt: skip
    assert sqs.messages("Work") == []


def test_a_function_that_raises_gets_the_whole_batch_again(sqs: MemorySQS, clock: Clock) -> None:
    def fail(_event: dict[str, Any]) -> Any:
        raise InvocationError("boom")

    send(sqs, "a", "b")
    worker = poller(sqs, fail)
    for _ in range(3):
        assert worker.run_due() == 2
        clock.advance(timedelta(minutes=1))
    assert worker.run_due() == 0
    assert [m.body for m in sqs.messages("Dead")] == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, frozenset()),
        ({}, frozenset()),
        ({"batchItemFailures": None}, frozenset()),
        ({"batchItemFailures": []}, frozenset()),
        ({"batchItemFailures": [{"itemIdentifier": "a"}]}, frozenset({"a"})),
        ({"batchItemFailures": [{"itemIdentifier": "z"}]}, None),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, None),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, None),
        ({"batchItemFailures": [{"id": "a"}]}, None),
        ({"batchItemFailures": "a"}, None),
        ("done", None),
    ],
)
def test_a_report_that_makes_no_sense_fails_the_batch(answer: Any, expected: frozenset[str] | None) -> None:
    assert failed_ids(answer, {"a", "b"}) == expected
