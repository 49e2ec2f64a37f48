"""What a change of a stored thing means to the world outside: our events, derived from what was written. Pure.

A change is an item before and after, as the table's stream carries it; so an event is told if and only if its cause
was stored. Documents are read as JSON, not as entities: a stream may hold what an older or newer version wrote.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

VERSION: Final = "1"
REVISIONS: Final = 10**8  # sequences of one stream: a million revisions; JSON's integers (2**53) last until 2141

type Doc = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one item: its key, its document before and after (None: not there), its revision, when.

    `stream` is the label of the table's stream, the instant (RFC 3339, UTC) it was made: a restored table has another.
    """

    pk: str
    sk: str
    before: Doc | None
    after: Doc | None
    revision: int
    at: str  # RFC 3339
    stream: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. `sequence` orders the events of one entity; `id` is the same whenever the change is seen again.

    Revisions repeat after a restore, with other changes: so the stream has its part in both, and a later stream's
    sequences are the higher ones.
    """

    id: str
    type: str
    at: str
    publisher: str
    kind: str
    entity: str
    sequence: int
    data: Mapping[str, Any] = field(default_factory=dict)

    def detail(self) -> dict[str, Any]:
        """The document as it goes out (schemas: docs/events.md)."""
        return {
            "version": VERSION,
            "id": self.id,
            "type": self.type,
            "time": self.at,
            "publisher": self.publisher,
            "entity": {"kind": self.kind, "id": self.entity},
            "sequence": self.sequence,
            "data": dict(self.data),
        }


def events_of(change: Change) -> tuple[Event, ...]:
    """What the change means; nothing for most changes."""
    name = next((name for name in READERS if change.sk == name or (name[-1] == "#" and change.sk.startswith(name))), "")
    if not name or change.after is None:
        return ()
    kind, read = READERS[name]
    since, found = _minutes(change.stream) * REVISIONS, []
    for number, (what, at, data) in enumerate(read(change.before or {}, change.after)):
        seed = f"{change.stream}|{change.pk}|{change.sk}|{change.revision}|{number}|{what}"
        found.append(
            Event(
                id="evt_" + sha256(seed.encode()).hexdigest()[:32],
                type=what,
                at=at or change.at,
                publisher=str(change.after["id"] if kind == "account" else change.after.get("publisher", "")),
                kind=kind,
                entity=_entity(kind, change.after),
                sequence=since + change.revision * 100 + number,
                data=data,
            )
        )
    return tuple(found)


def _minutes(stream: str) -> int:
    """Since 1970 until the stream was made; 0 for a label that is no instant."""
    try:
        made = datetime.fromisoformat(stream)
    except ValueError:
        return 0
    return int(made.replace(tzinfo=UTC).timestamp()) // 60


type Said = tuple[str, str, dict[str, Any]]  # type, when (empty: with the change), data


def _entity(kind: str, after: Doc) -> str:
    if kind == "threshold":
        return f"{after['subscription']}#{after['name']}"
    if kind == "bill":
        edge = "".join(each for each in str(after["edge"])[:19] if each.isalnum())
        return f"{after['subscription']}.{edge}Z"
    return str(after["id"])


def new_steps(before: Sequence[Doc], after: Sequence[Doc]) -> Sequence[Doc]:
    """The lines of a history that were not there before. A history keeps its newest lines only."""
    for kept in range(min(len(before), len(after)), 0, -1):
        if list(before[-kept:]) == list(after[:kept]):
            return after[kept:]
    return after


SUBSCRIPTION_STATUS: Final = {
    "pending_approval": "subscription.pending",
    "pending_payment": "subscription.pending",
    "pending_invoice": "subscription.pending",
    "active": "subscription.activated",
    "paused": "subscription.paused",
    "ended": "subscription.ended",
}
PAYMENT_STATE: Final = {
    "past_due": "subscription.past_due",
    "suspended": "subscription.suspended",
    "current": "subscription.payment_restored",
}


def _subscription(before: Doc, after: Doc) -> Iterator[Said]:
    about = {name: after.get(name) for name in ("subscriber", "application", "product", "tier", "plan", "version")}
    status = after.get("status")
    if not before:
        yield "subscription.created", "", {**about, "status": status}
    if before.get("status") != status:
        resumed = before.get("status") == "paused" and status == "active"
        what = "subscription.resumed" if resumed else SUBSCRIPTION_STATUS[str(status)]
        yield what, "", {**about, "status": status, "reason": after.get("end_reason", "")}
    was, now = before.get("payment_state", "current"), after.get("payment_state", "current")
    if was != now:
        data = {**about, "unpaid": after.get("unpaid", []), "suspend_at": after.get("suspend_at")}
        yield PAYMENT_STATE[now], "", data
    changed = bool(before) and any(before.get(name) != after.get(name) for name in ("tier", "plan", "version"))
    if changed:
        yield "subscription.changed", "", {**about, "former_tier": before.get("tier")}
    waits = after.get("change")
    if waits and waits != before.get("change"):
        change = {name: waits.get(name) for name in ("at", "tier", "plan", "version")}
        yield "subscription.change_scheduled", "", {**about, "change": change}
    if before.get("change") and not waits and not changed and status != "ended":
        yield "subscription.change_withdrawn", "", about
    if before and before.get("cancel_at") != after.get("cancel_at") and status != "ended":
        what = "cancellation_scheduled" if after.get("cancel_at") else "cancellation_withdrawn"
        yield f"subscription.{what}", "", {**about, "cancel_at": after.get("cancel_at")}
    if before.get("block", "none") != after.get("block", "none"):
        what = "subscription.unblocked" if after.get("block") == "none" else "subscription.blocked"
        yield what, "", {**about, "block": after.get("block")}


INVOICE_STEPS: Final = {
    "payment_failed": "payment.failed",
    "action_required": "payment.action_required",
    "retry_notice": "payment.retry_notice",
    "retry": "payment.retry_scheduled",
    "suspension_notice": "subscription.suspension_notice",
    "paid": "payment.succeeded",
    "paid_out_of_band": "payment.succeeded",
    "void": "invoice.voided",
    "uncollectible": "invoice.written_off",
    "settled": "invoice.settled",
    "overpaid": "invoice.overpaid",
    "credited": "invoice.credited",
    "refunded": "payment.refunded",
    "refund_failed": "payment.refund_failed",
    "dispute_open": "payment.disputed",
    "dispute_won": "payment.dispute_won",
    "dispute_lost": "payment.dispute_lost",
    "dispute_closed": "payment.dispute_closed",
    "past_due_date": "invoice.overdue",
}


def _invoice(before: Doc, after: Doc) -> Iterator[Said]:
    names = ("subscriber", "subscription", "currency", "amount", "status", "number", "attempts", "next_attempt_at")
    about = {name: after.get(name) for name in names}
    if not before:
        yield "invoice.sent", "", about
    for step in new_steps(before.get("history", ()), after.get("history", ())):
        what = INVOICE_STEPS.get(str(step["what"]))
        if what is not None:
            yield what, str(step["at"]), {**about, "detail": step.get("detail", ""), "step": step["what"]}
    settled = "settled" in [step["what"] for step in after.get("history", ())[-1:]]  # by credit notes: nobody paid
    if before and before.get("status") != after.get("status") and after.get("status") == "paid" and not settled:
        yield "invoice.paid", "", about


def _bill(before: Doc, after: Doc) -> Iterator[Said]:
    status = after.get("status")
    if status != before.get("status") and status in ("parked", "held", "waived"):
        about = {name: after.get(name) for name in ("subscriber", "subscription", "currency", "subtotal", "reason")}
        yield f"bill.{status}", "", about


def _plan(before: Doc, after: Doc) -> Iterator[Said]:
    about = {"name": after.get("name"), "version": after.get("latest"), "status": after.get("status")}
    if not before:
        yield "plan.created", "", about
    if after.get("latest", 0) > before.get("latest", 0):
        yield "plan.published", "", about
    if before and before.get("status") != after.get("status") and after.get("status") == "archived":
        yield "plan.archived", "", about


def _publisher(before: Doc, after: Doc) -> Iterator[Said]:
    link, former = after.get("stripe") or {}, before.get("stripe") or {}
    about = {"status": after.get("status"), "account": link.get("account")}
    if before.get("status", "new") != after.get("status") and after.get("status") in ("enabled", "disconnected"):
        yield f"account.{after['status']}", "", about
    elif former and former.get("charges_enabled", False) != link.get("charges_enabled", False):
        what = "account.restored" if link.get("charges_enabled") else "account.restricted"
        yield what, "", {**about, "requirements": link.get("requirements", [])}


def _subscriber(before: Doc, after: Doc) -> Iterator[Said]:
    """Which card it is stays out: what matters is that there is one."""
    cards = {each["id"]: each for each in after.get("customers", ())}
    for former in before.get("customers", ()):
        now = cards.get(former["id"])
        if now is None:
            yield "payment_method.removed", "", {"account": former["account"], "why": "customer_deleted"}
        elif former.get("payment_method") and not now.get("payment_method"):
            yield "payment_method.removed", "", {"account": former["account"], "why": "detached"}
        elif (former.get("payment_method"), former.get("expires")) != (now.get("payment_method"), now.get("expires")):
            yield "payment_method.changed", "", {"account": former["account"]}
        if now is not None and now.get("warned") and former.get("warned") != now.get("warned"):
            yield "payment_method.expiring", "", {"account": now["account"], "expires": now.get("expires")}


def _run(before: Doc, after: Doc) -> Iterator[Said]:
    if before.get("status") != after.get("status"):
        yield f"run.{after.get('status')}", "", {"status": after.get("status")}


def _threshold(before: Doc, after: Doc) -> Iterator[Said]:
    names = ("subscription", "meter", "kind", "per", "percent", "limit", "used", "resets_at")
    if not before:
        yield "usage.threshold_crossed", "", {name: after.get(name) for name in names}


READERS: Final[Mapping[str, tuple[str, Callable[[Doc, Doc], Iterator[Said]]]]] = {
    "SUBSCRIPTION": ("subscription", _subscription),
    "INVOICE": ("invoice", _invoice),
    "BILL#": ("bill", _bill),
    "PLAN#": ("plan", _plan),
    "PUBLISHER": ("account", _publisher),
    "SUBSCRIBER": ("subscriber", _subscriber),
    "RUN": ("run", _run),
    "THRESHOLD#": ("threshold", _threshold),
}
