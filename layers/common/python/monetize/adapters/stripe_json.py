"""Read a webhook's body without Stripe's SDK: the receiving function needs six fields of it."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from monetize.domain.stripe_events import Envelope, Notice


class _Data(msgspec.Struct):
    object: dict[str, Any]
    previous_attributes: dict[str, Any] | None = None


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
            hint=_hint(metadata if isinstance(metadata, dict) else {}),
            about=_about(about, event.data.previous_attributes or {}),
        ),
        livemode=event.livemode,
        metadata=metadata if isinstance(metadata, dict) else None,
    )


def _hint(metadata: dict[str, Any]) -> str:
    named = metadata.get("invoice") or metadata.get("subscription")
    if named is None and "subscriber" in metadata:
        named = f"{metadata.get('publisher', '')}/{metadata['subscriber']}"
    return str(named or "")[:300]


def _about(about: dict[str, Any], before: dict[str, Any]) -> tuple[str, ...]:
    """The ids by which it may be ours. A detached card names its customer only among what it was before."""
    ids = [about.get("invoice"), about.get("payment_intent"), about.get("customer"), before.get("customer")]
    if about.get("object") in ("customer", "invoice"):
        ids.append(about.get("id"))
    return tuple(dict.fromkeys(str(each) for each in ids if isinstance(each, str) and each))
