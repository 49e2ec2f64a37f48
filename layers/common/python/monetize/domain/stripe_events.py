"""Stripe's webhook events: whether one is genuine, whose it is, and whether it concerns us. Pure."""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from monetize.domain.errors import Malformed

TOLERANCE = timedelta(minutes=5)  # Stripe's own default for old events
FUTURE_TOLERANCE = timedelta(minutes=1)  # clocks differ a little; Stripe's SDK accepts any future
OURS = "monetize"  # the metadata key that everything we make at Stripe carries

# Events about objects that carry our metadata when they are ours, and those that must be looked up by an id they hold.
MARKED = frozenset(
    {
        "invoice.finalized",
        "invoice.finalization_failed",
        "invoice.paid",
        "invoice.payment_failed",
        "invoice.payment_action_required",
        "invoice.overdue",
        "invoice.overpaid",
        "invoice.voided",
        "invoice.marked_uncollectible",
        "invoice.updated",
        "customer.updated",
        "customer.deleted",
        "checkout.session.completed",
        "checkout.session.expired",
    }
)
UNMARKED = frozenset(
    {
        "invoice_payment.paid",
        "credit_note.created",
        "credit_note.voided",
        "charge.dispute.created",
        "charge.dispute.closed",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "charge.refunded",
        "refund.created",
        "refund.updated",
        "refund.failed",
        "setup_intent.succeeded",
        "setup_intent.setup_failed",
        "payment_method.attached",
        "payment_method.detached",
        "payment_method.updated",
        "payment_method.automatically_updated",
    }
)
# About the connected account itself.
ACCOUNT = frozenset(
    {"account.updated", "capability.updated", "account.application.authorized", "account.application.deauthorized"}
)

# Applied when they come, and not asked for: each announces what another event, our own step or reconciliation tells
# too, and they are four of the five that every paid invoice makes.
OPTIONAL = frozenset({"invoice.finalized", "invoice.updated", "invoice_payment.paid"})
# What the endpoint is to be subscribed to.
ASKED = (MARKED | UNMARKED | ACCOUNT) - OPTIONAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What is kept of an event: never its payload, which is fetched anew when it is applied."""

    id: str
    type: str
    account: str
    object: str  # the id of the object it is about
    created: datetime
    hint: str = ""  # our own id, as the object's metadata names it: where to look, never what is true
    about: tuple[str, ...] = ()  # the provider's ids by which the object may be ours: invoice, payment, customer


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The parts of an event that are read before it is applied."""

    notice: Notice
    livemode: bool
    metadata: Mapping[str, object] | None


def verify(raw: bytes, header: str, secrets: Iterable[str], now: datetime) -> None:
    """Malformed unless one active secret signed exactly these bytes, a short time ago (Stripe: webhook signatures)."""
    stamp, signatures = _parse(header)
    age = now - datetime.fromtimestamp(stamp, now.tzinfo)
    if age > TOLERANCE or -age > FUTURE_TOLERANCE:
        raise Malformed("stale_signature", "The signature's time is too far from now.")
    signed = b"%d.%s" % (stamp, raw)
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, sha256).hexdigest()
        if any(hmac.compare_digest(expected, each) for each in signatures):
            return
    raise Malformed("bad_signature", "No active secret made this signature.")


def _parse(header: str) -> tuple[int, list[str]]:
    stamp, signatures = "", []
    for part in header.split(",")[:20]:
        name, _, value = part.strip().partition("=")
        if name == "t":
            stamp = value
        elif name == "v1" and value.isascii():
            signatures.append(value)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 11) or not signatures:
        raise Malformed("bad_signature", "The Stripe-Signature header cannot be read.")
    return int(stamp), signatures


def is_marked(kind: str, metadata: Mapping[str, object] | None) -> bool | None:
    """Whether an event's object says that it is ours.

    None when it cannot say, and the ids it names must be looked up. False for what is not taken in at all.
    """
    if kind in MARKED | UNMARKED and OURS in (metadata or {}):
        return True
    return None if kind in UNMARKED else False
