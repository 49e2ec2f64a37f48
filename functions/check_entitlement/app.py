"""May this key call now, what is left: for any gateway, and as Lambda authorizer of a publisher's own API Gateway."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError

from monetize import wiring
from monetize.domain.entitlements import UNKNOWN, Decision, Standing
from monetize.domain.errors import Invalid, Malformed, Refusal, TooLarge, Unauthenticated, Unavailable
from monetize.domain.keys import hashed
from monetize.http import gateway, plain
from monetize.services.entitling import DECISION_SECONDS, MAX_CHECKS, SPENDING, Decisions, decide

MAX_BODY = 64 * 1024
MAX_KEY = 200
_WINDOWS = {"per_second": 1, "per_minute": 60, "per_hour": 3600, "per_day": 86400}

logger = Logger()
metrics = Metrics()
decisions = Decisions()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    del context
    if "routeArn" in event:
        answer = _authorize(event)
    else:
        try:
            answer = answer_check(event)
        except Refusal as refusal:
            metrics.add_metric("EntitlementRefused", MetricUnit.Count, 1)
            logger.warning("entitlement check refused", extra={"code": refusal.code})
            answer = plain.problem(refusal)
    metrics.flush_metrics()
    return answer


def answer_check(event: Mapping[str, Any]) -> dict[str, Any]:
    """`{"key", "api"?}` gets one decision and RateLimit headers, `{"keys": [{"key", "api"?}…]}` a list."""
    now = wiring.clock().now()
    publisher = _publisher_of(event, now)
    checks, many = _checks(gateway.body(event))
    found = decide(checks, publisher=publisher, now=now, ports=wiring.entitling(), remembered=decisions)
    _count(found)
    if many:
        return gateway.reply({"results": [document(each, now) for each in found]})
    return gateway.reply(document(found[0], now), rate_limit_headers(found[0], now))


def _publisher_of(event: Mapping[str, Any], now: datetime) -> str:
    key = gateway.gateway_key(event)
    if key is None:
        return gateway.tenant(event)
    facts = wiring.entitlement_facts()
    try:
        found = facts.gateway(hashed(key), now)
    except (ClientError, BotoCoreError) as failed:
        found = facts.last_gateway(hashed(key))
        if found is None:
            raise Unavailable("temporarily_unavailable", "Try again.", retry_after=1) from failed
    if found is None:
        raise Unauthenticated("unknown_gateway_key", "This gateway key is not known.")
    publisher: str = found.publisher
    return publisher


def _checks(raw: bytes) -> tuple[list[tuple[str, str]], bool]:
    if len(raw) > MAX_BODY:
        raise TooLarge("body_too_large", f"A body may hold {MAX_BODY} bytes.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as unreadable:
        raise Malformed("malformed_json", "The body is not JSON.") from unreadable
    if not isinstance(body, dict):
        raise Invalid("invalid_request", "Send an object with `key` or `keys`.")
    if "keys" not in body:
        return [_check(body)], False
    every = body["keys"]
    if set(body) != {"keys"} or not isinstance(every, list) or not every:
        raise Invalid("invalid_request", "`keys` is a list of objects with `key` and, if you like, `api`.")
    if len(every) > MAX_CHECKS:
        raise TooLarge("too_many_keys", f"At most {MAX_CHECKS} keys in one request.", limit=MAX_CHECKS)
    return [_check(each) for each in every], True


def _check(each: object) -> tuple[str, str]:
    if not isinstance(each, dict) or not set(each) <= {"key", "api"}:
        raise Invalid("invalid_request", "A check has `key` and, if you like, `api`.")
    key, api = each.get("key"), each.get("api", "")
    if not isinstance(key, str) or not isinstance(api, str) or not 0 < len(key) <= MAX_KEY or len(api) > MAX_KEY:
        raise Invalid("invalid_request", f"`key` and `api` are text of at most {MAX_KEY} characters.")
    if not (key.isascii() and api.isascii()):
        raise Invalid("invalid_request", "`key` and `api` are ASCII.")
    return key, api


def document(decision: Decision, now: datetime) -> dict[str, object]:
    """A decision as JSON."""
    found: dict[str, object] = {"allowed": decision.allowed, "fresh_seconds": DECISION_SECONDS}
    for name in ("reason", "subscription", "environment"):
        if value := getattr(decision, name):
            found[name] = value
    if decision.degraded:
        found["degraded"] = True
    if limits := decision.throttle.document():
        found["throttle"] = limits
    if decision.standings:
        found["meters"] = [_standing(each) for each in decision.standings]
    if decision.reason in {"quota_exceeded", "spend_cap_reached"}:
        found["retry_after"] = max(1, *(_seconds(each, now) for each in exhausted(decision)))
    return found


def exhausted(decision: Decision) -> Sequence[Standing]:
    """The hard limits that are used up."""
    return [each for each in decision.standings if each.hard and each.used >= each.limit]


def _standing(each: Standing) -> dict[str, object]:
    return {
        "meter": each.meter,
        "kind": "spending" if each.meter == SPENDING else "quota" if each.hard else "allowance",
        "per": each.per,
        "limit": each.limit,
        "used": each.used,
        "remaining": each.remaining,
        "resets_at": _text(each.resets_at),
    }


def rate_limit_headers(decision: Decision, now: datetime) -> dict[str, str]:
    """`RateLimit-Policy`, `RateLimit` (draft-ietf-httpapi-ratelimit-headers): hard quotas and the tier's throttle."""
    policies = [
        f'"{name}";q={limit};w={_WINDOWS[name]}'
        for name, limit in decision.throttle.document().items()
        if name in _WINDOWS
    ]
    limits = []
    for each in decision.standings:
        if each.hard and each.meter != SPENDING:
            name = f"{each.meter}-{each.per}"
            window = ";w=86400" if each.per == "day" else ""
            policies.append(f'"{name}";q={each.limit}{window}')
            limits.append(f'"{name}";r={each.remaining};t={_seconds(each, now)}')
    found = {"RateLimit-Policy": ", ".join(policies)} if policies else {}
    return found | ({"RateLimit": ", ".join(limits)} if limits else {})


def _seconds(each: Standing, now: datetime) -> int:
    return max(0, int((each.resets_at - now).total_seconds()))


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _count(found: Sequence[Decision]) -> None:
    allowed = sum(each.allowed for each in found)
    metrics.add_metric("EntitlementsAllowed", MetricUnit.Count, allowed)
    if len(found) > allowed:
        metrics.add_metric("EntitlementsDenied", MetricUnit.Count, len(found) - allowed)
    if any(each.degraded for each in found):
        metrics.add_metric("EntitlementsDegraded", MetricUnit.Count, sum(each.degraded for each in found))


def _authorize(event: Mapping[str, Any]) -> dict[str, Any]:
    """HTTP API's simple response (payload 2.0). The stage variables `publisher` and `api` say whose API asks.

    They are set by whoever owns that API Gateway, whom the parameter GatewayApiArns lets in: without a publisher
    nobody is let through, since a key of one publisher must not open another's API.
    """
    now = wiring.clock().now()
    variables = event.get("stageVariables") or {}
    publisher, api = str(variables.get("publisher", "")), str(variables.get("api", ""))
    key = str((event.get("headers") or {}).get("x-api-key", ""))
    if not publisher or not 0 < len(key) <= MAX_KEY or not key.isascii():
        _count([UNKNOWN])
        return {"isAuthorized": False, "context": _context(UNKNOWN)}
    ports = wiring.entitling()
    decision = decide([(key, api)], publisher=publisher, now=now, ports=ports, remembered=decisions)[0]
    _count([decision])
    return {"isAuthorized": decision.allowed, "context": _context(decision)}


def _context(decision: Decision) -> dict[str, str]:
    """What the access log and the integration get: `$context.authorizer.subscription` and so on."""
    found = {
        "publisher": decision.publisher,
        "subscription": decision.subscription,
        "environment": decision.environment,
        "reason": decision.reason,
    }
    hard = [each for each in decision.standings if each.hard]
    if hard:
        found["remaining"] = str(min(each.remaining for each in hard))
    return {name: value for name, value in found.items() if value}
