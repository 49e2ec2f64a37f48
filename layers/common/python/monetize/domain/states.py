"""State machines as data: which moves exist, and where they lead. `docs/states.md` is drawn from here."""

from collections.abc import Mapping
from dataclasses import dataclass

from monetize.domain.errors import IllegalMove


@dataclass(frozen=True, slots=True)
class Machine:
    """`moves[state][move]` is the next state. A state without moves is final."""

    entity: str
    initial: str
    moves: Mapping[str, Mapping[str, str]]

    def move(self, state: str, move: str) -> str:
        """Where `move` leads from `state`; IllegalMove where it leads nowhere."""
        try:
            return self.moves[state][move]
        except KeyError:
            raise IllegalMove(self.entity, state, move) from None

    def can(self, state: str, move: str) -> bool:
        """Whether `state` has that move."""
        return move in self.moves.get(state, {})


PUBLISHER = Machine(
    "publisher",
    "new",
    {
        "new": {"enable": "enabled"},
        "enabled": {"enable": "enabled", "disconnect": "disconnected"},
        "disconnected": {"enable": "enabled"},
    },
)

PLAN = Machine(
    "plan",
    "draft",
    {
        "draft": {"publish": "published", "archive": "archived"},
        "published": {"publish": "published", "archive": "archived"},
        "archived": {},
    },
)

SUBSCRIPTION = Machine(
    "subscription",
    "pending_payment",
    {
        "pending_approval": {
            "approve": "pending_payment",
            "activate": "active",
            "reject": "ended",
            "expire": "ended",
            "cancel": "ended",
        },
        "pending_payment": {
            "activate": "active",
            "await_invoice": "pending_invoice",
            "expire": "ended",
            "cancel": "ended",
        },
        "pending_invoice": {"activate": "active", "expire": "ended", "cancel": "ended"},
        "active": {"pause": "paused", "cancel": "ended"},
        "paused": {"resume": "active", "cancel": "ended"},
        "ended": {},
    },
)

PAYMENT = Machine(
    "payment state",
    "current",
    {
        "current": {"fail": "past_due"},
        "past_due": {"fail": "past_due", "settle": "current", "suspend": "suspended"},
        "suspended": {"fail": "suspended", "settle": "current"},
    },
)

BILL = Machine(
    "bill",
    "claimed",
    {
        "claimed": {"rate": "rated", "park": "parked", "empty": "empty", "adopt": "sent"},
        "rated": {"draft": "drafted", "park": "parked", "hold": "held", "empty": "empty", "adopt": "sent"},
        "held": {"release": "rated", "waive": "waived", "adopt": "sent"},
        "drafted": {"send": "sent", "redraft": "rated", "park": "parked", "adopt": "sent"},
        "parked": {"release": "claimed", "waive": "waived", "adopt": "sent"},
        "sent": {"pay": "paid", "void": "void", "write_off": "uncollectible"},
        "paid": {"refund": "paid"},
        "uncollectible": {"pay": "paid", "void": "void"},
        "empty": {},
        "waived": {},
        "void": {},
    },
)

INVOICE = Machine(
    "invoice",
    "open",
    {
        "open": {
            "pay": "paid",
            "fail": "payment_failed",
            "void": "void",
            "write_off": "uncollectible",
        },
        "payment_failed": {
            "fail": "payment_failed",
            "pay": "paid",
            "void": "void",
            "write_off": "uncollectible",
        },
        "uncollectible": {"fail": "uncollectible", "pay": "paid", "void": "void"},
        "paid": {},
        "void": {},
    },
)

MOVE = Machine("move", "running", {"running": {"step": "running", "finish": "done"}, "done": {}})

MACHINES = (PUBLISHER, PLAN, SUBSCRIPTION, PAYMENT, BILL, INVOICE, MOVE)
