"""Pieces that every request and response model is made of."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    StringConstraints,
)

from monetize.domain.errors import Invalid

MAX_PAGE = 100


class RequestModel(BaseModel):
    """Unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """What we answer; built from domain objects by attribute."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _utc(at: datetime) -> datetime:
    """The same instant in UTC, which is what everything inside counts in."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("no time of the calendar") from None


Int = Annotated[int, Strict()]
Bool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, le=10**15 - 1)]
Minor = Annotated[int, Strict(), Field(ge=0, le=10**12, description="Minor units of the currency")]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Text = Annotated[str, StringConstraints(max_length=1000)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$")]
DecimalText = Annotated[
    str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?$"), Field(description="An exact decimal")
]
Instant = Annotated[AwareDatetime, AfterValidator(_utc), PlainSerializer(_text, return_type=str)]


def to_cursor(after: str | None) -> str | None:
    """An opaque mark of where a list goes on. It holds a position within the caller's own list, never whose list."""
    return None if after is None else base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None) -> str | None:
    """The position that `to_cursor` marked. Invalid for anything else."""
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        text = ""
    if not text or len(text) > 512 or not text.isprintable():
        raise Invalid("bad_cursor", "This cursor was not made by this API.")
    return text
