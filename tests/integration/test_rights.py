"""Every function does all it does with the rights and the settings that the template gives it, and with few more.

One story through every kind of trigger, each function in its own environment with its own clients. What it asked of AWS
is then held against its role's statements, as IAM would judge them; so are rights nobody used.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from local.clock import Clock
from local.in_process import world_of
from local.sam_check import EVENTS
from local.stack import Stack
from local.story import World, subscribe
from local.system import System
from tests.abuse.routes import operations, send
from tests.abuse.scene import BILLED, START, Side, after_billing, open_side, report, usage_event
from tests.integration.rights_recorder import Recorder, Right, dynamodb_asks, folder_of, rights

LOGS = {"AccessLogGroup": "edge", "AccessLogBucket": "access-logs"}
# Used by Lambda itself, or by libraries outside these stand-ins.
SERVICES = {"Logs", "Traces", "Consume", "Stream", "ListStreams", "DeadLetters", "SecretsKey"}


# Rights that the story does not come to, and what does.
_POWERTOOLS = "read again when a request's record disappears between two looks"
NOT_REACHED: dict[tuple[str, str, str], str] = {
    **{
        (function, "Idempotency", "GetItem"): _POWERTOOLS
        for function in (
            "billing_run",
            "enable_monetization",
            "plans",
            "reconcile",
            "record_usage",
            "reports",
            "subscribe",
        )
    },
    ("enable_monetization", "Idempotency", "UpdateItem"): "POST /monetization/enable with an Idempotency-Key, kept",
    ("apply_stripe_event", "Core", "DeleteItem"): "a subscription that ends in an event's transaction frees its place",
    ("apply_stripe_event", "Enqueue", "SendMessage"): "Stripe down for an hour: test_apply_payments",
    ("bill_subscription", "Usage", "PutItem"): "a repeated event, found when a period is sealed: test_usage_totals",
    ("billing_run", "Usage", "GetItem"): "what-if over a period's usage: test_runs",
    ("billing_run", "Usage", "Query"): "what-if over a period's usage: test_runs",
    ("billing_run", "Secret", "GetParameter"): "a bill waived beside its draft: test_waiting_bills",
    ("enable_monetization", "Core", "DeleteItem"): "another account frees the former one: test_onboarding",
    ("import_access_logs", "Usage", "UpdateItem"): "lines that a meter counts: test_access_log_import",
    ("import_access_logs", "Usage", "BatchWriteItem"): "lines that a meter counts: test_access_log_import",
    ("reconcile", "Core", "PutItem"): "drift that is found: test_reconciliation",
    ("reconcile", "Core", "DeleteItem"): "drift that is gone: test_reconciliation",
    ("reports", "Idempotency", "UpdateItem"): "an action on an invoice that is carried out: test_payment_routes",
    ("reports", "Usage", "Query"): "explaining a line of metered usage: test_reports_routes",
    ("reports", "Exports", "PutObject"): "an export too large for an answer: test_reports_routes",
    ("reports", "Exports", "GetObject"): "an export too large for an answer: test_reports_routes",
    ("subscribe", "Core", "DeleteItem"): "a subscription cancelled at once: test_subscribing_changes",
}
RARELY_READ = {
    "apply_stripe_event": {"STRIPE_EVENTS_QUEUE_URL"},
    "billing_run": {"STRIPE_KEY_PARAMETER", "STRIPE_API_BASE", "STRIPE_CONNECT_BASE"},
    "publish_events": {"OUTBOX_DEAD_LETTERS_URL"},
    "reports": {"EXPORTS_BUCKET"},
}


@dataclass
class Seen:
    """What the story did."""

    recorder: Recorder
    stack: Stack
    functions: dict[str, str]  # folder: logical id

    def rights(self, function: str) -> list[Right]:
        return list(rights(self.stack, self.functions[function]))


def _as_people(system: System, side: Side, number: int) -> None:
    """Every operation of the API with one's own ids, reads before writes, deletions last."""
    order = {"GET": 0, "PUT": 1, "POST": 2, "DELETE": 3}
    roles = {
        role: system.token(user, organization, roles=role, plan="business")
        for role, user, organization in (
            ("publisher_admin gateway", "ann", side.publisher),
            ("subscriber", "dan", side.subscriber),
            ("operator", "olga", "operations"),
        )
    }
    for operation in sorted(operations(), key=lambda each: order.get(each.method, 1)):
        for token in roles.values():
            number += 1
            try:
                send(system, operation, side.ids, token, number=number)
            except KeyError:
                break  # it names something that this side does not have


def _through_a_month(system: System, world: World) -> Side:
    """Onboarding to invoices and the days after, late usage and a correction, access logs, what a gateway asks."""
    acme = open_side(system, world, "acme", "dev")
    edge = world.as_gateway(acme.offer.gateway_key)
    broke = world.as_user("bo", "broke", "subscriber")
    other = subscribe(world, broke, acme.offer, "Other", acme.offer.gold_tier, "bo@broke.example")
    edge.call("POST", "/entitlements/check", {"key": acme.secrets["api key"], "api": acme.offer.api})
    _by_other_ways_in(system, acme, other["id"])
    world.run_until(BILLED)
    acme = after_billing(world, acme)
    world.settle()  # the move to another version is over
    broke = world.as_user("bo", "broke", "subscriber")
    broke.call("POST", f"/subscriptions/{other['id']}/change", {"tier": acme.offer.free_tier, "when": "now"})
    report(edge, [usage_event(acme.ids["subscription"], 5000, START)])
    _correct(world, acme)
    world.as_user("olga", "operations", "operator").call("GET", "/reports/revenue?by=publisher")
    world.run_until(BILLED + timedelta(days=6))
    assert any(each.credit_notes for each in system.emulator.accounts.values())  # what was left of the fee
    return acme


def _correct(world: World, side: Side) -> None:
    admin = world.as_user("ann", side.publisher, "publisher_admin")
    body = {"subscription": side.ids["subscription"], "meter": side.ids["meter"], "day": "2026-01-31"}
    admin.call("POST", "/usage/corrections", {**body, "quantity": -2, "reason": "twice"}, Idempotency_Key="c1")


def _by_other_ways_in(system: System, side: Side, other: str) -> None:
    """Access logs by both ways, and the Lambda authorizer."""
    line = {
        "requestId": "r1",
        "requestTimeEpoch": str(int(START.timestamp() * 1000)),
        "apiId": "abcdef",
        "publisher": side.publisher,
        "subscription": side.ids["subscription"],
        "environment": "production",
        "status": "200",
        "responseLength": "1",
        "httpMethod": "GET",
        "routeKey": "GET /",
    }
    lines = [line, {**line, "requestId": "r2", "subscription": other}, {**line, "requestId": "r3", "publisher": "x"}]
    system.s3.put_object(
        Bucket="access-logs", Key="weather/2026/11/17/10/log.gz", Body="\n".join(map(json.dumps, lines))
    )
    for name in ("import_access_logs_s3", "import_access_logs_cloudwatch", "check_entitlement_authorizer"):
        logical_id = "CheckEntitlementFunction" if name.startswith("check") else "ImportAccessLogsFunction"
        event = json.loads((EVENTS / f"{name}.json").read_text("utf-8"))
        if name.endswith("s3"):
            event["detail"]["object"].pop("version-id")
            system.functions.invoke(logical_id, event)
            event["detail"]["object"]["version-id"] = "v1"
        system.functions.invoke(logical_id, event)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        system = recorder.attach(patch, lambda: System(clock=Clock(START), parameters=LOGS))
        with system:
            world = world_of(system)
            acme = _through_a_month(system, world)
            _as_people(system, acme, 0)
            world.settle()
            world.run_until(system.clock.now() + timedelta(days=2))
            broken = [each.trace for each in system.functions.failures]
            assert not broken, broken[0]
            names = {folder_of(spec): logical_id for logical_id, spec in system.functions.specs.items()}
            yield Seen(recorder, system.stack, names)


def test_no_function_asks_for_what_its_role_does_not_allow(seen: Seen) -> None:
    refused = [
        (function, *asked)
        for function in seen.functions
        for asked in sorted(seen.recorder.asked.get(function, ()))
        if not any(right.allows(asked) for right in seen.rights(function))
    ]
    assert not refused


def test_no_role_allows_what_nobody_needs(seen: Seen) -> None:
    """What the story does not reach is listed with what does."""
    spare = {
        (function, right.sid, right.action.partition(":")[2])
        for function in seen.functions
        for right in seen.rights(function)
        if right.sid not in SERVICES and not any(right.allows(asked) for asked in seen.recorder.asked.get(function, ()))
    }
    assert not spare - set(NOT_REACHED)


def test_every_function_is_told_by_something(seen: Seen) -> None:
    assert {name for name, spec in seen.functions.items() if not seen.recorder.asked.get(name)} == {"preflight"}
    assert {function for function, _, _ in NOT_REACHED} <= set(seen.functions)


def test_a_function_is_given_every_setting_it_reads_and_no_other_of_its_own(seen: Seen) -> None:
    for function, logical_id in seen.functions.items():
        stated = seen.stack.document["Resources"][logical_id]["Properties"]
        own = set(stated.get("Environment", {}).get("Variables", {})) - {"POWERTOOLS_SERVICE_NAME"}
        shared = set(seen.stack.document["Globals"]["Function"]["Environment"]["Variables"])
        read = {name.upper() for name in seen.recorder.settings.get(function, ())}
        assert read <= own | shared, function
        assert own - read <= RARELY_READ.get(function, set()), function


@pytest.mark.parametrize(
    ("operation", "request_", "expected"),
    [
        ("query", {"TableName": "T", "IndexName": "due"}, [("dynamodb:Query", "table/T/index/due")]),
        ("get_item", {"TableName": "T"}, [("dynamodb:GetItem", "table/T")]),
        ("batch_write_item", {"RequestItems": {"T": []}}, [("dynamodb:BatchWriteItem", "table/T")]),
        (
            "transact_write_items",
            {"TransactItems": [{"ConditionCheck": {"TableName": "T"}}, {"Delete": {"TableName": "U"}}]},
            [("dynamodb:ConditionCheckItem", "table/T"), ("dynamodb:DeleteItem", "table/U")],
        ),
    ],
)
def test_a_request_is_judged_as_iam_judges_it(
    operation: str, request_: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    found = [(action, arn.partition(":table")[2]) for action, arn in dynamodb_asks(operation, request_)]
    assert [(action, f"table{name}") for action, name in found] == expected


@pytest.mark.parametrize(
    ("resource", "asked", "allowed"),
    [
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/x/y", True),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::c/x", False),
        ("arn:t/T", "arn:t/T/index/due", False),
        ("arn:t/T/index/due", "arn:t/T", False),
    ],
)
def test_a_table_is_not_its_index_and_a_star_ends_nowhere_else(resource: str, asked: str, allowed: bool) -> None:
    assert Right("Any", "a:B", resource).allows(("a:B", asked)) is allowed
    assert not Right("Any", "a:B", resource).allows(("a:C", asked))
