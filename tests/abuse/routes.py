"""Every operation of the API as its description tells it, with a request of one's own to begin from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from local import openapi
from local.system import System
from tests.abuse.scene import BATCH

type Json = dict[str, Any]

ROLES = ("publisher_admin", "publisher_viewer", "subscriber", "gateway", "operator", "nothing")
EVERY_TENANT_ROLE = "publisher_admin publisher_viewer subscriber gateway"

# Which kind of id a parameter or a member of a body names. A new name that is not here fails the matrix.
KINDS = {
    **{name: name for name in ("api", "application", "bill", "bundle", "invoice", "meter", "move", "plan", "run")},
    **{name: name for name in ("subscription", "tier", "publisher", "subscriber")},
    "product": "api",
    "apis": "api",
    "tiers": "tier",
    "discount": "discount",
    "lots": "lot",
    "key": "key",
    "batch": "batch",
}
# Members that name nothing anybody owns: numbers, words, times. A version's number is one of a plan's own.
PLAIN = {
    *("number", "limit", "cursor", "after", "month", "status", "side", "links", "line", "day", "from", "to", "group"),
    *("environment", "version", "format", "by", "top", "what", "state", "event", "code", "error", "scope", "name"),
    *("error_description", "description", "context", "environments", "approval", "dry_run", "through", "reason"),
    *("amount", "memo", "commercial", "throttle", "contact", "invoice_email", "spend_cap", "when", "quantity"),
    *("from_version", "to_version", "usage", "period_start", "terms", "wso2", "days", "overlap_hours", "return_to"),
    *("event_type", "aggregation", "value_property", "unit", "filters", "completion", "api_name", "keys", "links"),
    *("grace_hours", "late_window_days", "collection", "days_until_due", "automatic_tax", "footer", "custom_fields"),
    *("retry_days", "payment_grace_days", "hold_above", "hold_times_last", "fail_open", "threshold_percents"),
    *("count", "shards", "threshold_amounts", "percent", "once", "fixed"),
}
# Read by hand, each with tests of its own below the matrix.
BY_HAND = {"/usage/events", "/publisher/usage/events", "/entitlements/check", "/publisher/entitlements/check"}
BY_HAND |= {"/stripe/webhook", "/stripe/oauth/callback", "/openapi.json"}
# What a publisher shows to everybody.
PUBLIC = {"/catalog/{publisher}/products", "/catalog/{publisher}/products/{product}"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `body` is a valid request with somebody's ids, None without a body."""

    method: str
    path: str
    parameters: tuple[str, ...]
    query: tuple[str, ...]
    needed: tuple[str, ...]
    body: Json | None
    authorized: bool

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def references(self) -> tuple[str, ...]:
        """Query parameters and members of the body that name something somebody owns."""
        return tuple(dict.fromkeys(name for name in (*self.query, *(self.body or {})) if name in KINDS))

    def kind(self, parameter: str) -> str:
        """What a parameter names; keys are a gateway's or a subscription's."""
        return "gateway key" if parameter == "key" and self.path.startswith("/gateway-keys") else KINDS[parameter]


@cache
def document() -> Json:
    """The description as the handlers make it now."""
    return openapi.document()


@cache
def operations() -> tuple[Operation, ...]:
    """All of them, but those that are public or read by hand."""
    return tuple(each for each in everything() if each.path not in BY_HAND | PUBLIC)


def everything() -> Iterator[Operation]:
    """All of them."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            named = [_resolved(each) for each in operation.get("parameters", [])]
            yield Operation(
                method=method.upper(),
                path=path,
                parameters=tuple(each["name"] for each in named if each["in"] == "path"),
                query=tuple(each["name"] for each in named if each["in"] == "query"),
                needed=tuple(each["name"] for each in named if each["in"] == "query" and each.get("required")),
                body=_body(operation),
                authorized=operation.get("security") == [{"token": []}],
            )


def members(operation: Operation) -> set[str]:
    """Every name a request may carry: path, query, and the first level of the body."""
    content = document()["paths"][operation.path][operation.method.lower()].get("requestBody", {}).get("content", {})
    found = {*operation.parameters, *operation.query}
    for each in content.values():
        found |= set(_resolved(each["schema"]).get("properties", {}))
    return found


def send(
    system: System,
    operation: Operation,
    own: Mapping[str, str],
    token: str | None,
    *,
    number: int,
    other: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """The operation with ids from `own` (by kind), but `other` (by parameter or member) where that says so.

    An empty header is left out.
    """
    other = other or {}

    def chosen(name: str) -> str:
        return other[name] if name in other else own[operation.kind(name)]

    path = operation.path
    for name in operation.parameters:
        path = path.replace(f"{{{name}}}", chosen(name) if name in KINDS else "1")
    values = {"from": "2026-01-31", "to": "2026-02-01", "day": "2026-01-31"}
    asked = [name for name in operation.query if name in other or name in operation.needed]
    if asked:
        pairs = [f"{name}={other[name] if name in other else values.get(name) or chosen(name)}" for name in asked]
        path = f"{path}?{'&'.join(pairs)}"
    body: Any = None
    if operation.body is not None:
        body = filled(operation.body, own, other)
    sent = {"If-Match": '"1"', "Idempotency-Key": f"abuse-{number}", **(headers or {})}
    given = {name: value for name, value in sent.items() if value}
    return system.call(operation.method, path, body, token=token, headers=given)


def filled(value: Any, own: Mapping[str, str], other: Mapping[str, str], name: str = "") -> Any:
    """A body whose ids are the caller's own, but for those in `other`; free text stays."""
    if isinstance(value, dict):
        return {key: filled(each, own, other, key) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, own, other, name) for each in value]
    if isinstance(value, str) and name in other:
        return other[name]
    if isinstance(value, str) and KINDS.get(name) in own and name != "key":
        return own[KINDS[name]]
    return value


def unknown(identity: str) -> str:
    """An id of the same form that nobody has."""
    head, dot, tail = identity.partition(".")
    changed = "".join("7" if letter == "0" else "0" if letter.isdigit() else letter for letter in head[-12:])
    return f"{head[:-12]}{changed}{dot}{tail}"


def _resolved(value: Json) -> Json:
    while "$ref" in value:
        where: Any = document()
        for part in value["$ref"].removeprefix("#/").split("/"):
            where = where[part]
        value = where
    return value


def _body(operation: Json) -> Json | None:
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return None
    chosen = content.get("application/json") or content.get(BATCH) or next(iter(content.values()))
    made = chosen.get("example", None) or minimal(chosen["schema"])
    copied: Any = json.loads(json.dumps(made))
    return copied if isinstance(copied, dict) else {}


def minimal(schema: Json) -> Any:
    """The smallest value of a schema, as far as our requests go: what has to be there and nothing else."""
    schema = _resolved(schema)
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return minimal(schema[alternatives][0])
    if "enum" in schema or "const" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: minimal(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [minimal(schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return True
    return _text(schema)


def _text(schema: Json) -> str:
    if schema.get("format") == "date-time":
        return "2026-02-03T00:00:00Z"
    if "[0-9]{4}-" in schema.get("pattern", ""):
        return "2026-01"
    return "x" * max(1, int(schema.get("minLength", 1)))


def names(texts: Sequence[str]) -> str:
    """Failures, one a line, as many as can be read."""
    return "\n".join([*texts[:25], f"… {len(texts) - 25} more"] if len(texts) > 25 else texts)
