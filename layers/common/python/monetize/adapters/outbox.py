"""From a table's stream to an EventBridge bus: records read, events put in order."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from monetize.domain.outbox import Change, Event

SOURCE = "api-monetization"
BATCH = 10  # EventBridge's limit for one request
MAX_BYTES = 256 * 1024  # its limit for the entries of one request
NEVER = frozenset({"InvalidArgument", "MalformedDetail"})  # entries that it would refuse again

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Bus:
    """One event bus."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def changes(self, records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Callable[[], Change]]]:
        """The stream's records, each with its sequence number, to be read one by one."""
        return ((record["dynamodb"]["SequenceNumber"], partial(change, record)) for record in records)

    def put(self, events: Sequence[Event]) -> tuple[int, dict[int, str]]:
        """Put them in order. Answers how many of the first are dealt with: behind the first that is refused for now
        nothing counts. With it those that are never taken, by index: too large, or malformed."""
        apart: dict[int, str] = {}
        for part in self._parts(events, apart):
            answer = self._client.put_events(Entries=[entry for _, entry in part])
            for (index, _), entry in zip(part, answer["Entries"], strict=True):
                code = entry.get("ErrorCode")
                if code in NEVER:
                    apart[index] = code
                elif code:
                    return index, {at: why for at, why in apart.items() if at < index}
        return len(events), apart

    def _parts(self, events: Sequence[Event], apart: dict[int, str]) -> Iterator[list[tuple[int, dict[str, str]]]]:
        """The entries with their indices, as many as a request holds; what no request holds is set apart."""
        part: list[tuple[int, dict[str, str]]] = []
        room = MAX_BYTES
        for index, event in enumerate(events):
            entry = {
                "Source": SOURCE,
                "DetailType": event.type,
                "Detail": json.dumps(event.detail(), separators=(",", ":")),
                "EventBusName": self._name,
            }
            size = sum(len(entry[name].encode()) for name in ("Source", "DetailType", "Detail"))
            if size > MAX_BYTES:
                apart[index] = "TooLarge"
                continue
            if part and (len(part) == BATCH or size > room):
                yield part
                part, room = [], MAX_BYTES
            part.append((index, entry))
            room -= size
        if part:
            yield part


def change(record: Mapping[str, Any]) -> Change:
    """What one stream record says."""
    inner = record["dynamodb"]
    before, after = (inner.get(name, {}) for name in ("OldImage", "NewImage"))
    at = datetime.fromtimestamp(int(inner["ApproximateCreationDateTime"]), UTC)
    return Change(
        pk=inner["Keys"]["pk"]["S"],
        sk=inner["Keys"]["sk"]["S"],
        before=_document(before),
        after=_document(after),
        revision=int(after.get("rev", before.get("rev", {"N": "0"}))["N"]),
        at=at.isoformat().replace("+00:00", "Z"),
        stream=str(record.get("eventSourceARN", "")).rpartition("/stream/")[2],
    )


def _document(image: Mapping[str, Any]) -> dict[str, Any] | None:
    return _decode(image["doc"]["S"]) if "doc" in image else None
