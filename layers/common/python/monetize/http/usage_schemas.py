"""What the routes of corrections and rejected events read and answer."""

import json
from datetime import date, datetime
from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Query
from pydantic import Field, StringConstraints

from monetize.http.schemas import MAX_PAGE, Id, Instant, Int, RequestModel, ResponseModel

__all__ = ["Response"]  # so that the hot path's module need not name the resolver's

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Lot = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}#[^\x00-\x1f]+$")
]


class CorrectionRequest(RequestModel):
    """Quantity to add to a day, or, negative, to take away."""

    subscription: Id
    meter: Id
    day: date
    quantity: Annotated[Int, Field(ge=-(10**15 - 1), le=10**15 - 1)]
    reason: Reason


class CorrectionResponse(ResponseModel):
    """`outcome`: counted (the day is open), late (for the next bill), repeated (this very request came before)."""

    id: str
    subscription: str
    meter: str
    day: date
    quantity: int
    reason: str
    outcome: str


class RejectedEvent(ResponseModel):
    """One refused event; `event` is its content, missing when it was too large to keep."""

    index: int
    id: str
    code: str
    event: Any = None


class RejectedLot(ResponseModel):
    """Events refused together; the lot is what can be resubmitted."""

    lot: str
    at: Instant
    events: tuple[RejectedEvent, ...]

    @classmethod
    def of(cls, lot: str, events: list[dict[str, Any]], at: datetime) -> "RejectedLot":
        """From what is stored."""
        return cls(
            lot=lot,
            at=at,
            events=tuple(
                RejectedEvent(index=each["index"], id=each["id"], code=each["code"], event=_readable(each["event"]))
                for each in events
            ),
        )


class RejectedPage(ResponseModel):
    """Newest days first."""

    items: tuple[RejectedLot, ...]
    cursor: str | None = None


class ResubmitRequest(RequestModel):
    """Lots to try again."""

    lots: Annotated[tuple[Lot, ...], Field(min_length=1, max_length=20)]


class NamedEvent(ResponseModel):
    """An event of the request and what is wrong with it."""

    index: int
    id: str
    code: str


class TakenResponse(ResponseModel):
    """As `POST /usage/events` answers."""

    accepted: int
    duplicates: int
    late: int
    conflicts: tuple[NamedEvent, ...]
    rejected: tuple[NamedEvent, ...]
    retry: tuple[int, ...]


def _readable(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text.decode(errors="replace")
