"""Read a webhook's body without Stripe's SDK: the receiving function needs six fields of it."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from monetize.domain.stripe_events import Envelope, Notice


class _Data(msgspec.Struct):
    object: dict[str, Any]


class _Event(msgspec.Struct):
    id: str
    type: str
    created: int
    livemode: bool
    data: _Data
    account: str = ""


_decode = msgspec.json.Decoder(_Event).decode


def read(raw: bytes) -> Envelope:
    """The event's envelope. ValueError (msgspec's errors are) when it is not an event."""
    event = _decode(raw)
    about = event.data.object
    metadata = about.get("metadata")
    return Envelope(
        notice=Notice(
            id=event.id,
            type=event.type,
            account=event.account,
            object=str(about.get("id", "")),
            created=datetime.fromtimestamp(event.created, UTC),
        ),
        livemode=event.livemode,
        metadata=metadata if isinstance(metadata, dict) else None,
    )
