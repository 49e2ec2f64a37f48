"""Event source mappings: what polls queues and table streams and calls functions with what it finds."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from local.api_gateway import InvocationError, Invoke, Now
from local.dynamodb import Change, MemoryDynamoDB
from local.dynamodb.values import item_size
from local.functions import serializable
from local.queues import MemorySQS, record
from local.stack import ACCOUNT, REGION, QueueTrigger, StreamTrigger

LONGEST_BACKOFF = timedelta(minutes=5)


class QueuePoller:
    """One queue's mapping: what the function does not report as failed is deleted, the rest comes back by itself."""

    def __init__(self, trigger: QueueTrigger, sqs: MemorySQS, invoke: Invoke) -> None:
        self.trigger = trigger
        self._sqs = sqs
        self._invoke = invoke

    def run_due(self) -> int:
        """Deliver one batch; gives how many messages were in it."""
        queue = self.trigger.queue
        messages = self._sqs.take(queue, self.trigger.batch_size)
        if not messages:
            return 0
        event = {"Records": [record(queue, message) for message in messages]}
        try:
            answer = serializable(self._invoke(self.trigger.function, event))
        except InvocationError:
            return len(messages)
        failed = failed_ids(answer, {message.id for message in messages}) if self.trigger.partial else frozenset()
        for message in messages:
            if failed is not None and message.id not in failed:
                self._sqs.delete(queue, message)
        return len(messages)


def failed_ids(answer: Any, known: set[str]) -> frozenset[str] | None:
    """The identifiers a function reports as failed; None when the whole batch counts as failed.

    An answer of another shape, an empty identifier and an unknown one fail the batch, as Lambda documents it for
    `ReportBatchItemFailures`.
    """
    if answer is None or answer == {}:
        return frozenset()
    failures = answer.get("batchItemFailures") if isinstance(answer, dict) else None
    if failures is None:
        return frozenset() if isinstance(answer, dict) and "batchItemFailures" in answer else None
    if not isinstance(failures, list) or not all(isinstance(each, dict) for each in failures):
        return None
    found = frozenset(str(each.get("itemIdentifier") or "") for each in failures)
    return found if found <= known else None


@dataclass(slots=True)
class _Retry:
    at: datetime
    attempt: int


class StreamPoller:
    """One table stream's mapping: in order, a failing batch is tried again before anything behind it."""

    def __init__(
        self,
        trigger: StreamTrigger,
        dynamodb: MemoryDynamoDB,
        clock: Now,
        invoke: Invoke,
        bury: Callable[[str, str], None],
    ) -> None:
        self.trigger = trigger
        self._dynamodb = dynamodb
        self._clock = clock
        self._invoke = invoke
        self._bury = bury
        self._position = 0
        self._retry: _Retry | None = None

    def next_due(self) -> datetime | None:
        """When a failing batch is tried again."""
        return self._retry.at if self._retry is not None else None

    def run_due(self) -> int:
        """Deliver one batch; gives how many records were delivered."""
        if self._retry is not None and self._retry.at > self._clock.now():
            return 0
        changes = self._dynamodb.changes(self.trigger.table, self._position)[: self.trigger.batch_size]
        if not changes:
            return 0
        sequences = {str(change.sequence) for change in changes}
        failed: frozenset[str] | None = None
        try:
            event = {"Records": [stream_record(self.trigger.table, change) for change in changes]}
            answer = serializable(self._invoke(self.trigger.function, event))
            failed = failed_ids(answer, sequences) if self.trigger.partial else frozenset()
        except InvocationError:
            pass
        if failed is not None and not failed:
            self._position = changes[-1].sequence
            self._retry = None
            return len(changes)
        return self._failed(changes, failed)

    def _failed(self, changes: Sequence[Change], failed: frozenset[str] | None) -> int:
        first = min((int(each) for each in failed), default=changes[0].sequence) if failed else changes[0].sequence
        if first > changes[0].sequence:
            self._position = first - 1
            self._retry = None
        attempt = self._retry.attempt + 1 if self._retry is not None else 1
        if 0 <= self.trigger.retries < attempt:
            if self.trigger.on_failure is not None:
                self._bury(self.trigger.on_failure, json.dumps(_given_up(self.trigger, changes, attempt)))
            self._position = changes[-1].sequence
            self._retry = None
            return len(changes)
        backoff = min(timedelta(seconds=2 ** min(attempt, 10)), LONGEST_BACKOFF)
        self._retry = _Retry(self._clock.now() + backoff, attempt)
        return sum(change.sequence < first for change in changes)


def _image(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as a stream record carries it: binary values as base64 text."""
    return {name: _plain(value) for name, value in item.items()}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    ((kind, data),) = value.items()
    match kind:
        case "B":
            return {"B": base64.b64encode(data).decode()}
        case "BS":
            return {"BS": [base64.b64encode(each).decode() for each in data]}
        case "M":
            return {"M": _image(data)}
        case "L":
            return {"L": [_plain(each) for each in data]}
    return value


def stream_record(table: str, change: Change) -> dict[str, Any]:
    """A change as a DynamoDB stream hands it to a function."""
    inner: dict[str, Any] = {
        "ApproximateCreationDateTime": int(change.at.timestamp()),
        "Keys": _image(change.keys),
        "SequenceNumber": str(change.sequence),
        "SizeBytes": sum(item_size(image) for image in (change.keys, change.new, change.old) if image is not None),
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    if change.new is not None:
        inner["NewImage"] = _image(change.new)
    if change.old is not None:
        inner["OldImage"] = _image(change.old)
    made = {
        "eventID": f"{change.sequence:032x}",
        "eventName": change.event,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": REGION,
        "dynamodb": inner,
        "eventSourceARN": _stream_arn(table),
    }
    if change.expired:
        made["userIdentity"] = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    return made


def _stream_arn(table: str) -> str:
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table}/stream/1970-01-01T00:00:00.000"


def _given_up(trigger: StreamTrigger, changes: Sequence[Change], attempt: int) -> dict[str, Any]:
    """Where in the stream a batch lies that was given up; the records themselves are not in it."""
    return {
        "version": "1.0",
        "requestContext": {"condition": "RetryAttemptsExhausted", "approximateInvokeCount": attempt},
        "DDBStreamBatchInfo": {
            "shardId": "shardId-00000000000000000000-00000000",
            "startSequenceNumber": str(changes[0].sequence),
            "endSequenceNumber": str(changes[-1].sequence),
            "batchSize": len(changes),
            "streamArn": _stream_arn(trigger.table),
        },
    }
