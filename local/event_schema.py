"""Write the JSON Schema of our events into `docs/events.schema.json`: `python -m local.event_schema [--check]`.

What each event carries is said here once; a test holds the events that are told to it, and the states are those of
`domain/states.py`.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator

from monetize.adapters.outbox import SOURCE
from monetize.domain import states
from monetize.domain.outbox import INVOICE_STEPS, PAYMENT_STATE, READERS, SUBSCRIPTION_STATUS, VERSION

PAGE = Path(__file__).resolve().parents[1] / "docs" / "events.schema.json"

type Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
MONEY: Final[Schema] = {"type": "integer", "description": "minor units of `currency`"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}


def one_of(values: Iterable[str]) -> Schema:
    """One of some words."""
    return {"enum": sorted(set(values))}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


SUBSCRIPTION: Final = {
    **dict.fromkeys(("subscriber", "application", "product", "tier"), TEXT),
    "plan": or_null(TEXT),
    "version": or_null(COUNT),
}
INVOICE: Final = {
    **dict.fromkeys(("subscriber", "subscription", "currency"), TEXT),
    "amount": MONEY,
    "status": one_of(states.INVOICE.moves),
    "number": or_null(TEXT),
    "attempts": COUNT,
    "next_attempt_at": or_null(TIME),
}
STATUS: Final = {**SUBSCRIPTION, "status": one_of(states.SUBSCRIPTION.moves)}
OWED: Final = {**SUBSCRIPTION, "unpaid": TEXTS, "suspend_at": or_null(TIME)}
CHANGE: Final = {"at": TIME, "tier": TEXT, "plan": or_null(TEXT), "version": or_null(COUNT)}
ACCOUNT: Final = {"status": one_of(states.PUBLISHER.moves), "account": or_null(TEXT)}
STEP: Final = {**INVOICE, "step": one_of(INVOICE_STEPS), "detail": TEXT}


def record(members: Mapping[str, Schema]) -> dict[str, Any]:
    """An object with these members and no others."""
    return {"type": "object", "properties": dict(members), "required": sorted(members), "additionalProperties": False}


EVENTS: Final[Mapping[str, tuple[str, Mapping[str, Schema]]]] = {
    "subscription.created": ("subscription", STATUS),
    **dict.fromkeys(
        (*SUBSCRIPTION_STATUS.values(), "subscription.resumed"), ("subscription", {**STATUS, "reason": TEXT})
    ),
    **dict.fromkeys(PAYMENT_STATE.values(), ("subscription", OWED)),
    "subscription.changed": ("subscription", {**SUBSCRIPTION, "former_tier": TEXT}),
    "subscription.change_scheduled": ("subscription", {**SUBSCRIPTION, "change": record(CHANGE)}),
    "subscription.change_withdrawn": ("subscription", SUBSCRIPTION),
    **dict.fromkeys(
        ("subscription.cancellation_scheduled", "subscription.cancellation_withdrawn"),
        ("subscription", {**SUBSCRIPTION, "cancel_at": or_null(TIME)}),
    ),
    **dict.fromkeys(
        ("subscription.blocked", "subscription.unblocked"),
        ("subscription", {**SUBSCRIPTION, "block": one_of(("none", "production", "all"))}),
    ),
    **dict.fromkeys(("invoice.sent", "invoice.paid"), ("invoice", INVOICE)),
    **dict.fromkeys(INVOICE_STEPS.values(), ("invoice", STEP)),
    **dict.fromkeys(
        ("bill.parked", "bill.held", "bill.waived"),
        (
            "bill",
            {**dict.fromkeys(("subscriber", "subscription", "currency", "reason"), TEXT), "subtotal": or_null(MONEY)},
        ),
    ),
    **dict.fromkeys(
        ("plan.created", "plan.published", "plan.archived"),
        ("plan", {"name": TEXT, "version": COUNT, "status": one_of(states.PLAN.moves)}),
    ),
    **dict.fromkeys(("account.enabled", "account.disconnected"), ("account", ACCOUNT)),
    **dict.fromkeys(("account.restricted", "account.restored"), ("account", {**ACCOUNT, "requirements": TEXTS})),
    "payment_method.changed": ("subscriber", {"account": TEXT}),
    "payment_method.removed": (
        "subscriber",
        {"account": TEXT, "why": one_of(("customer_deleted", "detached"))},
    ),
    "payment_method.expiring": ("subscriber", {"account": TEXT, "expires": {"type": "string", "format": "yyyy-mm"}}),
    **dict.fromkeys(("run.running", "run.finished"), ("run", {"status": one_of(("running", "finished"))})),
    "usage.threshold_crossed": (
        "threshold",
        {
            **dict.fromkeys(("subscription", "meter"), TEXT),
            "kind": one_of(("quota", "allowance", "spending")),
            "per": one_of(("day", "period")),
            **dict.fromkeys(("percent", "limit", "used"), COUNT),
            "resets_at": TIME,
        },
    ),
}


def schema() -> dict[str, Any]:
    """The document `detail` of every event, told apart by `type`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Events of {SOURCE}, version {VERSION}: the member `detail` of what stands on the bus",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in EVENTS],
        "$defs": {name: _event(name, kind, data) for name, (kind, data) in EVENTS.items()},
    }


def _event(name: str, kind: str, data: Mapping[str, Schema]) -> dict[str, Any]:
    if kind not in {each for each, _ in READERS.values()}:
        raise ValueError(f"{name}: nothing tells of a {kind}")
    return record(
        {
            "version": {"const": VERSION},
            "id": {"type": "string", "pattern": "^evt_[0-9a-f]{32}$"},
            "type": {"const": name},
            "time": TIME,
            "publisher": TEXT,
            "entity": record({"kind": {"const": kind}, "id": TEXT}),
            "sequence": COUNT,
            "data": record(data),
        }
    )


def problems(kind: str, detail: object) -> list[str]:
    """What is wrong with one event that was told as `kind`."""
    if kind not in EVENTS:
        return [f"{kind} is not described"]
    return [f"{kind} {error.json_path}: {error.message}" for error in _validator(kind).iter_errors(detail)]


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(_event(kind, *EVENTS[kind]), format_checker=Draft202012Validator.FORMAT_CHECKER)


def page() -> str:
    """The whole file, an event on each line."""
    whole = schema()
    events = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in whole.pop("$defs").items())
    head = json.dumps(whole, indent=1).removesuffix("\n}")
    return f'{head},\n "$defs": {{\n{events}\n }}\n}}\n'


def main(arguments: list[str]) -> int:
    """Write the file, or with `--check` tell whether it is current (exit 1 when not)."""
    if "--check" in arguments:
        if PAGE.is_file() and PAGE.read_text() == page():
            return 0
        print("docs/events.schema.json is not current: run python -m local.event_schema", file=sys.stderr)
        return 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
