"""Access logs of AWS API Gateway as usage events: the documented JSON line, in lots that keep their name."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from monetize.services.metering import MAX_EVENTS, MAX_ID, Event

EVENT_TYPE: Final = "api.request"
SANDBOX: Final = "sandbox"


class Line(msgspec.Struct, gc=False):
    """One line, as `docs/metering.md` has API Gateway write it; every value is text there, "-" where there is none."""

    request_id: str = msgspec.field(name="requestId")
    time_ms: str | int = msgspec.field(name="requestTimeEpoch")
    publisher: str
    subscription: str
    api: str = msgspec.field(name="apiId", default="")
    environment: str = ""
    status: str | int = ""
    bytes: str | int = msgspec.field(name="responseLength", default="")
    method: str = msgspec.field(name="httpMethod", default="")
    route: str = msgspec.field(name="routeKey", default="")


@dataclass(frozen=True, slots=True)
class Lot:
    """Events of one publisher that are recorded under one name."""

    publisher: str
    name: str
    events: tuple[Event, ...]


_line = msgspec.json.Decoder(Line)


def event_of(text: str | bytes) -> tuple[str, Event] | None:
    """(publisher, event) of a line; None for a call of no subscription. ValueError for an unreadable line."""
    line = _line.decode(text)
    if line.subscription in {"", "-"} or line.publisher in {"", "-"}:
        return None  # refused before anybody was known
    milliseconds = int(line.time_ms)
    if not 0 < len(line.request_id) <= MAX_ID or not 0 <= milliseconds < 1 << 43:
        raise ValueError("a request id and a time are needed")
    data = {"status": _number(line.status), "bytes": _number(line.bytes), "method": line.method, "route": line.route}
    made = Event(
        id=line.request_id,
        source=f"aws:apigateway:{line.api}"[:MAX_ID],
        type=EVENT_TYPE,
        subject=line.subscription,
        time=datetime.fromtimestamp(milliseconds / 1000, UTC),
        data=data,
        environment="sandbox" if line.environment == SANDBOX else "production",
    )
    return line.publisher, made


def _number(value: str | int) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0


def lots(lines: Iterable[str | bytes], name: str) -> Iterator[tuple[Sequence[Lot], int]]:
    """Lots of at most 5,000 lines each, and how many of the lines could not be read.

    The same lines under the same name make the same lots: delivered again they are found.
    """
    by_publisher: dict[str, list[Event]] = {}
    unread = taken = number = 0
    for text in lines:
        if not text.strip():
            continue
        taken += 1
        try:
            found = event_of(text)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            unread += 1
            found = None
        if found is not None:
            by_publisher.setdefault(found[0], []).append(found[1])
        if taken == MAX_EVENTS:
            yield _lots(by_publisher, f"{name}#{number}"), unread
            by_publisher, unread, taken, number = {}, 0, 0, number + 1
    if taken:
        yield _lots(by_publisher, f"{name}#{number}"), unread


def _lots(by_publisher: dict[str, list[Event]], name: str) -> list[Lot]:
    return [Lot(publisher, name, tuple(events)) for publisher, events in sorted(by_publisher.items())]
