"""From a table's stream to an EventBridge bus: records read, events put in order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from monetize.domain.outbox import Change, Event

SOURCE = "api-monetization"
BATCH = 10  # EventBridge's limit for one request

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Bus:
    """One event bus."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def changes(self, records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Change]]:
        """What the stream's records say, each with its sequence number."""
        return changes(records)

    def put(self, events: Sequence[Event]) -> int:
        """Put them in order. Answers how many of the first were taken: behind the first refused nothing counts."""
        for start in range(0, len(events), BATCH):
            part = events[start : start + BATCH]
            answer = self._client.put_events(
                Entries=[
                    {
                        "Source": SOURCE,
                        "DetailType": event.type,
                        "Detail": json.dumps(event.detail(), separators=(",", ":")),
                        "EventBusName": self._name,
                    }
                    for event in part
                ]
            )
            if answer.get("FailedEntryCount"):
                return start + next(at for at, entry in enumerate(answer["Entries"]) if "ErrorCode" in entry)
        return len(events)


def changes(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Change]]:
    """Stream records with entities in them, each with its sequence number."""
    for record in records:
        inner = record["dynamodb"]
        before, after = (inner.get(name, {}) for name in ("OldImage", "NewImage"))
        at = datetime.fromtimestamp(int(inner["ApproximateCreationDateTime"]), UTC)
        yield (
            inner["SequenceNumber"],
            Change(
                pk=inner["Keys"]["pk"]["S"],
                sk=inner["Keys"]["sk"]["S"],
                before=_document(before),
                after=_document(after),
                revision=int(after.get("rev", before.get("rev", {"N": "0"}))["N"]),
                at=at.isoformat().replace("+00:00", "Z"),
            ),
        )


def _document(image: Mapping[str, Any]) -> dict[str, Any] | None:
    return _decode(image["doc"]["S"]) if "doc" in image else None
