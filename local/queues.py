"""SQS on this machine: at-least-once delivery on the one clock, at the level of boto3's low-level client.

Standard queues only. Messages become visible, are lent for the visibility time-out, come back unless deleted, and go
to the dead-letter queue after the template's number of receives. Seeded faults duplicate, reorder and delay.
"""

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from random import Random
from threading import RLock
from typing import Any
from uuid import UUID

from botocore.exceptions import ClientError

from local.api_gateway import Now
from local.client_errors import client_error, exceptions
from local.stack import REGION, Queue

MAX_BATCH = 10
MAX_BYTES = 1024 * 1024
MAX_DELAY = 900
MAX_VISIBILITY = 43_200

type Answer = dict[str, Any]


@dataclass(slots=True)
class QueueFaults:
    """Chances between 0 and 1, drawn from the system's seed. `longest_delay` in seconds."""

    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    longest_delay: int = 60


@dataclass(slots=True)
class Message:
    """One message in a queue. `visible_at` moves whenever it is lent."""

    id: str
    body: str
    attributes: Mapping[str, Any]
    group: str | None
    sent_at: datetime
    visible_at: datetime
    number: int
    receives: int = 0
    first_received_at: datetime | None = None
    receipt: str | None = None


@dataclass(slots=True)
class _Stored:
    queue: Queue
    messages: dict[int, Message] = field(default_factory=dict)
    due: list[tuple[datetime, int]] = field(default_factory=list)
    receipts: dict[str, int] = field(default_factory=dict)

    def push(self, message: Message) -> None:
        heapq.heappush(self.due, (message.visible_at, message.number))

    def head(self) -> Message | None:
        """The message visible first, skipping entries that are out of date."""
        while self.due:
            at, number = self.due[0]
            message = self.messages.get(number)
            if message is not None and message.visible_at == at:
                return message
            heapq.heappop(self.due)
        return None

    def forget(self, message: Message) -> None:
        self.messages.pop(message.number, None)
        if message.receipt is not None:
            self.receipts.pop(message.receipt, None)


class MemorySQS:
    """boto3's `client("sqs")` for the template's queues, in memory. Thread-safe."""

    def __init__(self, queues: Sequence[Queue], clock: Now, *, seed: int = 0) -> None:
        self.clock = clock
        self.faults = QueueFaults()
        self.exceptions = exceptions("sqs")
        self.sent = 0
        self._random = Random(f"{seed}/queues")
        self._lock = RLock()
        self._by_url = {queue.url: _Stored(queue) for queue in queues}
        self._by_arn = {stored.queue.arn: stored for stored in self._by_url.values()}
        self._numbers = count(1)

    # The calls of the service

    def send_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803 # boto3's names
        MessageBody: str,  # noqa: N803
        DelaySeconds: int | None = None,  # noqa: N803
        MessageAttributes: Mapping[str, Any] | None = None,  # noqa: N803
        MessageGroupId: str | None = None,  # noqa: N803
    ) -> Answer:
        with self._lock:
            stored = self._stored(QueueUrl, "SendMessage")
            message = self._put(stored, MessageBody, DelaySeconds, MessageAttributes or {}, MessageGroupId)
            return _answered({"MessageId": message.id, "MD5OfMessageBody": _md5(message.body)})

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> Answer:  # noqa: N803
        with self._lock:
            stored = self._stored(QueueUrl, "SendMessageBatch")
            _check_batch(Entries, "SendMessageBatch")
            if sum(len(entry["MessageBody"].encode()) for entry in Entries) > MAX_BYTES:
                raise client_error(
                    "sqs", "SendMessageBatch", "AWS.SimpleQueueService.BatchRequestTooLong", "The batch is too long."
                )
            done: list[Answer] = []
            failed: list[Answer] = []
            for entry in Entries:
                try:
                    message = self._put(
                        stored,
                        entry["MessageBody"],
                        entry.get("DelaySeconds"),
                        entry.get("MessageAttributes", {}),
                        entry.get("MessageGroupId"),
                    )
                except ClientError as refused:
                    failed.append(_failed(entry["Id"], refused))
                else:
                    done.append({"Id": entry["Id"], "MessageId": message.id, "MD5OfMessageBody": _md5(message.body)})
            return _answered({"Successful": done} | ({"Failed": failed} if failed else {}))

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int = 1,  # noqa: N803
        VisibilityTimeout: int | None = None,  # noqa: N803
        WaitTimeSeconds: int = 0,  # noqa: N803, ARG002 # never waits: the clock stands still
        AttributeNames: Sequence[str] = (),  # noqa: N803, ARG002 # always all of them
        MessageSystemAttributeNames: Sequence[str] = (),  # noqa: N803, ARG002
        MessageAttributeNames: Sequence[str] = (),  # noqa: N803, ARG002
    ) -> Answer:
        if not 1 <= MaxNumberOfMessages <= MAX_BATCH:
            raise _invalid("ReceiveMessage", "MaxNumberOfMessages must be between 1 and 10.")
        with self._lock:
            stored = self._stored(QueueUrl, "ReceiveMessage")
            taken = self._take(stored, MaxNumberOfMessages, VisibilityTimeout)
            messages = [_as_received(message) for message in taken]
            return _answered({"Messages": messages} if messages else {})

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> Answer:  # noqa: N803
        with self._lock:
            self._delete(self._stored(QueueUrl, "DeleteMessage"), ReceiptHandle)
            return _answered({})

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> Answer:  # noqa: N803
        with self._lock:
            stored = self._stored(QueueUrl, "DeleteMessageBatch")
            _check_batch(Entries, "DeleteMessageBatch")
            for entry in Entries:
                self._delete(stored, entry["ReceiptHandle"])
            return _answered({"Successful": [{"Id": entry["Id"]} for entry in Entries]})

    def change_message_visibility(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        ReceiptHandle: str,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
    ) -> Answer:
        with self._lock:
            stored = self._stored(QueueUrl, "ChangeMessageVisibility")
            if not 0 <= VisibilityTimeout <= MAX_VISIBILITY:
                raise _invalid("ChangeMessageVisibility", "VisibilityTimeout must be between 0 and 43200.")
            message = stored.messages.get(stored.receipts.get(ReceiptHandle, 0))
            if message is None:
                raise client_error(
                    "sqs", "ChangeMessageVisibility", "ReceiptHandleIsInvalid", "The receipt handle is not valid."
                )
            message.visible_at = self.clock.now() + timedelta(seconds=VisibilityTimeout)
            stored.push(message)
            return _answered({})

    def get_queue_url(self, *, QueueName: str) -> Answer:  # noqa: N803
        for stored in self._by_url.values():
            if stored.queue.name == QueueName:
                return _answered({"QueueUrl": stored.queue.url})
        raise _unknown_queue("GetQueueUrl")

    def list_queues(self) -> Answer:
        return _answered({"QueueUrls": list(self._by_url)})

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str] = ("All",)) -> Answer:  # noqa: N803
        with self._lock:
            stored = self._stored(QueueUrl, "GetQueueAttributes")
            visible, lent, delayed = self._census(stored)
            known = {
                "ApproximateNumberOfMessages": str(visible),
                "ApproximateNumberOfMessagesNotVisible": str(lent),
                "ApproximateNumberOfMessagesDelayed": str(delayed),
                "QueueArn": stored.queue.arn,
                "VisibilityTimeout": str(stored.queue.visibility),
                "DelaySeconds": str(stored.queue.delay),
                "MessageRetentionPeriod": str(stored.queue.retention),
            }
            asked = known if "All" in AttributeNames else {name: known[name] for name in AttributeNames}
            return _answered({"Attributes": dict(asked)})

    def purge_queue(self, *, QueueUrl: str) -> Answer:  # noqa: N803
        with self._lock:
            stored = self._stored(QueueUrl, "PurgeQueue")
            stored.messages.clear()
            stored.due.clear()
            stored.receipts.clear()
            return _answered({})

    def start_message_move_task(self, *, SourceArn: str, DestinationArn: str | None = None) -> Answer:  # noqa: N803
        """From dead letters back to the queue they came from (or another), all at once."""
        with self._lock:
            graves = self._by_arn.get(SourceArn)
            origin = [each for each in self._by_url.values() if each.queue.dead_letters == SourceArn]
            if graves is None or not origin:
                raise client_error(
                    "sqs", "StartMessageMoveTask", "InvalidParameterValue", "The source is no dead-letter queue."
                )
            target = self._by_arn[DestinationArn] if DestinationArn is not None else origin[0]
            for message in list(graves.messages.values()):
                graves.forget(message)
                self._put(target, message.body, 0, message.attributes, message.group)
            return _answered({"TaskHandle": f"move-{SourceArn}"})

    # What only the stand-in has

    def take(self, arn: str, most: int) -> list[Message]:
        """Lend up to `most` visible messages of a queue, as an event source mapping polls it."""
        with self._lock:
            stored = self._by_arn[arn]
            return self._take(stored, most, None)

    def delete(self, arn: str, message: Message) -> None:
        """Delete a message that was lent, unless it has been lent again since."""
        with self._lock:
            if message.receipt is not None:
                self._delete(self._by_arn[arn], message.receipt)

    def send_to(self, arn: str, body: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Send to a queue named by its ARN, as AWS's services do to dead-letter queues."""
        with self._lock:
            self._put(self._by_arn[arn], body, None, attributes or {}, None)

    def next_visible(self, arns: Sequence[str]) -> datetime | None:
        """When the next message of these queues becomes visible; it may be now or past."""
        with self._lock:
            heads = [self._by_arn[arn].head() for arn in arns]
            return min((message.visible_at for message in heads if message is not None), default=None)

    def depths(self) -> dict[str, dict[str, int]]:
        """By queue name: how many messages are visible, lent and delayed."""
        with self._lock:
            named = ("visible", "lent", "delayed")
            return {s.queue.name: dict(zip(named, self._census(s), strict=True)) for s in self._by_url.values()}

    def messages(self, name: str) -> list[Message]:
        """All messages of a queue by its name, oldest first, for tests and the control page."""
        with self._lock:
            return [m for s in self._by_url.values() if s.queue.name == name for m in s.messages.values()]

    # Inside

    def _stored(self, url: str, operation: str) -> _Stored:
        stored = self._by_url.get(url)
        if stored is None:
            raise _unknown_queue(operation)
        return stored

    def _put(
        self, stored: _Stored, body: str, delay: int | None, attributes: Mapping[str, Any], group: str | None
    ) -> Message:
        seconds = stored.queue.delay if delay is None else delay
        if not body or len(body.encode()) > MAX_BYTES:
            raise _invalid("SendMessage", "The message must hold 1 byte to 1 MiB.")
        if not 0 <= seconds <= MAX_DELAY:
            raise _invalid("SendMessage", f"Value {seconds} for parameter DelaySeconds is invalid.")
        faults = self.faults
        copies = 2 if faults.duplicate and self._random.random() < faults.duplicate else 1
        name = str(UUID(int=self._random.getrandbits(128), version=4))
        now = self.clock.now()
        for _ in range(copies):
            late = 0
            if faults.delay and self._random.random() < faults.delay:
                late = self._random.randint(1, faults.longest_delay)
            visible = now + timedelta(seconds=seconds + late)
            message = Message(name, body, attributes, group, now, visible, next(self._numbers))
            stored.messages[message.number] = message
            stored.push(message)
        self.sent += 1
        return message

    def _take(self, stored: _Stored, most: int, visibility: int | None) -> list[Message]:
        now = self.clock.now()
        lent_until = now + timedelta(seconds=stored.queue.visibility if visibility is None else visibility)
        taken: list[Message] = []
        while len(taken) < most:
            message = stored.head()
            if message is None or message.visible_at > now:
                break
            heapq.heappop(stored.due)
            if now - message.sent_at > timedelta(seconds=stored.queue.retention):
                stored.forget(message)
            elif stored.queue.dead_letters is not None and message.receives >= stored.queue.max_receives:
                self._bury(stored, message)
            else:
                taken.append(message)
        if self.faults.reorder and self._random.random() < self.faults.reorder:
            self._random.shuffle(taken)
        for message in taken:
            self._lend(stored, message, now, lent_until)
        return taken

    def _lend(self, stored: _Stored, message: Message, now: datetime, until: datetime) -> None:
        message.receives += 1
        message.first_received_at = message.first_received_at or now
        if message.receipt is not None:
            stored.receipts.pop(message.receipt, None)
        message.receipt = f"{message.number}#{message.receives}#{self._random.getrandbits(64):016x}"
        stored.receipts[message.receipt] = message.number
        message.visible_at = until
        stored.push(message)

    def _bury(self, stored: _Stored, message: Message) -> None:
        stored.forget(message)
        graves = self._by_arn.get(stored.queue.dead_letters or "")
        if graves is None:
            return
        buried = Message(
            message.id,
            message.body,
            message.attributes,
            message.group,
            message.sent_at,
            self.clock.now(),
            next(self._numbers),
        )
        graves.messages[buried.number] = buried
        graves.push(buried)

    def _delete(self, stored: _Stored, receipt: str) -> None:
        number = stored.receipts.pop(receipt, None)
        message = stored.messages.get(number) if number is not None else None
        if message is not None:
            stored.forget(message)

    def _census(self, stored: _Stored) -> tuple[int, int, int]:
        now = self.clock.now()
        visible = sum(message.visible_at <= now for message in stored.messages.values())
        delayed = sum(message.visible_at > now and not message.receives for message in stored.messages.values())
        return visible, len(stored.messages) - visible - delayed, delayed


def record(queue_arn: str, message: Message) -> dict[str, Any]:
    """A message as an event source mapping hands it to a function."""
    attributes = {
        "ApproximateReceiveCount": str(message.receives),
        "SentTimestamp": _milliseconds(message.sent_at),
        "SenderId": "AROALOCAL:local",
        "ApproximateFirstReceiveTimestamp": _milliseconds(message.first_received_at or message.sent_at),
    }
    if message.group is not None:
        attributes["MessageGroupId"] = message.group
    return {
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": attributes,
        "messageAttributes": {
            name: {
                "stringValue": value.get("StringValue"),
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": value["DataType"],
            }
            for name, value in message.attributes.items()
        },
        "md5OfBody": _md5(message.body),
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": REGION,
    }


def _as_received(message: Message) -> Answer:
    received: Answer = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": _md5(message.body),
        "Body": message.body,
        "Attributes": {
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": _milliseconds(message.sent_at),
            "SenderId": "AROALOCAL:local",
            "ApproximateFirstReceiveTimestamp": _milliseconds(message.first_received_at or message.sent_at),
        },
    }
    if message.group is not None:
        received["Attributes"]["MessageGroupId"] = message.group
    if message.attributes:
        received["MessageAttributes"] = dict(message.attributes)
    return received


def _milliseconds(at: datetime) -> str:
    return str(int(at.timestamp() * 1000))


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def _answered(answer: Answer) -> Answer:
    return {**answer, "ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0, "HTTPHeaders": {}}}


def _check_batch(entries: Sequence[Mapping[str, Any]], operation: str) -> None:
    prefix = "AWS.SimpleQueueService."
    if not entries:
        raise client_error("sqs", operation, f"{prefix}EmptyBatchRequest", "There must be at least one entry.")
    if len(entries) > MAX_BATCH:
        raise client_error("sqs", operation, f"{prefix}TooManyEntriesInBatchRequest", "At most 10 entries.")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise client_error("sqs", operation, f"{prefix}BatchEntryIdsNotDistinct", "Ids must be distinct.")


def _failed(name: str, refused: ClientError) -> Answer:
    error = refused.response["Error"]
    return {"Id": name, "SenderFault": True, "Code": error["Code"], "Message": error["Message"]}


def _invalid(operation: str, message: str) -> ClientError:
    return client_error("sqs", operation, "InvalidParameterValue", message)


def _unknown_queue(operation: str) -> ClientError:
    return client_error(
        "sqs", operation, "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist."
    )
