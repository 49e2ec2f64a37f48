"""May this key call now: every reason has a name, what is left is told, and a block is seen within seconds."""

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from functions.check_entitlement import app as entitlement
from monetize.domain.catalog import Throttle, Tier
from monetize.domain.keys import ApiKey, hashed
from monetize.domain.plans import Charge, PlanTerms, PlanVersion, Quota
from monetize.domain.publishers import BillingSettings, Publisher
from monetize.domain.subscriptions import PAID, TRIAL, Change, Span, TopUp
from monetize.services.entitling import DECISION_SECONDS
from tests.integration.usage_fixtures import (
    CONTEXT,
    EVENTS,
    NOW,
    PAYS,
    START,
    SUB,
    TERMS,
    Metered,
    metered,
    usage_event,
)

__all__ = ["metered"]

FRESH = timedelta(seconds=DECISION_SECONDS)


def test_a_key_of_an_active_subscription_may_call_and_is_told_what_is_left(metered: Metered) -> None:
    metered.send(usage_event(1), usage_event(2))
    answer = metered.ask("check_entitlement_one")
    assert answer.status == 200
    assert answer.body == {
        "allowed": True,
        "fresh_seconds": 3,
        "subscription": SUB,
        "environment": "production",
        "throttle": {"per_minute": 5000},
        "meters": [
            {
                "meter": "met_calls",
                "kind": "quota",
                "per": "day",
                "limit": 5,
                "used": 2,
                "remaining": 3,
                "resets_at": "2026-11-18T00:00:00Z",
            },
            {
                "meter": "met_calls",
                "kind": "allowance",
                "per": "period",
                "limit": 100,
                "used": 2,
                "remaining": 98,
                "resets_at": "2026-12-01T00:00:00Z",
            },
        ],
    }
    assert answer.headers["RateLimit-Policy"] == '"per_minute";q=5000;w=60, "met_calls-day";q=5;w=86400'
    assert answer.headers["RateLimit"] == '"met_calls-day";r=3;t=50395'


def test_many_keys_are_answered_in_their_order(metered: Metered) -> None:
    results = metered.ask("check_entitlement_many").body["results"]
    assert [(each["allowed"], each.get("environment"), each.get("reason")) for each in results] == [
        (True, "production", None),
        (True, "sandbox", None),
        (False, None, "unknown_key"),
    ]


def test_a_token_with_the_gateway_role_may_ask(metered: Metered) -> None:
    assert metered.ask("check_entitlement_jwt").body["allowed"]
    assert metered.ask("check_entitlement_jwt", claims={"organization": "other"}).body["reason"] == "unknown_key"
    assert metered.ask("check_entitlement_jwt", claims={"roles": "subscriber"}).code == "missing_role"


@pytest.mark.parametrize(
    ("fields", "reason", "sandbox"),
    [
        ({"status": "pending_payment"}, "subscription_not_active", "subscription_not_active"),
        ({"status": "paused"}, "subscription_paused", "subscription_paused"),
        ({"status": "ended"}, "subscription_ended", "subscription_ended"),
        ({"status": "ended", "ended_at": NOW}, "subscription_ended", "subscription_ended"),
        ({"block": "production"}, "blocked", ""),
        ({"block": "all"}, "blocked", "blocked"),
        ({"payment_state": "suspended"}, "payment_suspended", "payment_suspended"),
        ({"payment_state": "past_due", "past_due_since": NOW - timedelta(days=3)}, "past_due", "past_due"),
        ({"payment_state": "past_due", "past_due_since": NOW - timedelta(days=2)}, "", ""),
        ({"product": "api_tides", "apis": ()}, "wrong_api", ""),
    ],
)
def test_a_subscriptions_state_decides_for_each_environment(
    metered: Metered, fields: dict[str, Any], reason: str, sandbox: str
) -> None:
    metered.change(**fields)
    assert metered.ask("check_entitlement_one").body.get("reason", "") == reason
    assert metered.ask("check_entitlement_one", {"key": "mk_test_example"}).body.get("reason", "") == sandbox


def test_a_cancellation_that_came_due_ends_access_before_a_worker_sees_it(metered: Metered) -> None:
    metered.change(cancel_at=NOW + timedelta(hours=1))
    assert metered.ask("check_entitlement_one").body["allowed"]
    metered.clock.advance(timedelta(hours=1))
    assert metered.ask("check_entitlement_one").body["reason"] == "subscription_ended"


def test_a_change_that_came_due_entitles_before_a_worker_sees_it(metered: Metered) -> None:
    better = replace(TERMS, quotas=(Quota(meter="met_calls", quantity=50, per="day"),))
    metered.store(
        PlanVersion(plan="plan_best", publisher="acme", number=3, name="Best", terms=better, published_at=NOW),
        Tier(id="tier_best", publisher="acme", name="Best", throttle=Throttle(per_minute=9000), created_at=NOW),
    )
    tomorrow = NOW.replace(hour=0, second=0) + timedelta(days=1)
    metered.change(change=Change(at=tomorrow, tier="tier_best", plan="plan_best", version=3))
    assert metered.ask("check_entitlement_one").body["meters"][0]["limit"] == 5
    metered.clock.move_to(tomorrow)
    body = metered.ask("check_entitlement_one").body
    assert (body["meters"][0]["limit"], body["throttle"]) == (50, {"per_minute": 9000})


def test_an_allowance_begins_with_the_period_that_is_billed(metered: Metered) -> None:
    """An upgrade on the 10th began a period of its own: 21 of 30 days of the allowance, and usage since then."""
    tenth = NOW.replace(day=10, hour=0, second=0)
    old, new = Span(start=START, kind=PAID, tier="tier_gold", plan="plan_old", version=1), replace(PAYS, start=tenth)
    top_up = TopUp(id="top_1", meter="met_calls", quantity=7, counts_from=tenth)
    metered.change(spans=(old, new), topups=(top_up,))
    metered.send(usage_event("before", time="2026-11-09T12:00:00Z"), usage_event("after", time="2026-11-11T12:00:00Z"))
    allowance = metered.ask("check_entitlement_one").body["meters"][1]
    assert (allowance["limit"], allowance["used"]) == (100 * 21 // 30 + 7, 1)


def test_a_trial_has_one_allowance(metered: Metered) -> None:
    ends = NOW.replace(day=20, hour=0, second=0)
    metered.change(spans=(replace(PAYS, kind=TRIAL, start=START.replace(day=5)), replace(PAYS, start=ends)))
    allowance = metered.ask("check_entitlement_one").body["meters"][1]
    assert (allowance["limit"], allowance["resets_at"]) == (50, "2026-11-20T00:00:00Z")


def test_revoked_and_expired_keys_are_unknown_and_a_rotated_one_works_until_its_end(metered: Metered) -> None:
    key = ApiKey(id="key_3", subscription=SUB, publisher="acme", environment="production", sha256="", created_at=NOW)
    metered.store(
        replace(key, sha256=hashed("mk_live_revoked"), revoked_at=NOW),
        replace(key, sha256=hashed("mk_live_rotated"), expires_at=NOW + timedelta(hours=1)),
    )
    assert metered.ask("check_entitlement_one", {"key": "mk_live_revoked"}).body["reason"] == "unknown_key"
    assert metered.ask("check_entitlement_one", {"key": "mk_live_rotated"}).body["allowed"]
    metered.clock.advance(timedelta(hours=1))
    assert metered.ask("check_entitlement_one", {"key": "mk_live_rotated"}).body["reason"] == "unknown_key"


def test_a_hard_quota_stops_calls_until_it_resets_and_a_soft_one_does_not(metered: Metered) -> None:
    metered.send(*[usage_event(number) for number in range(5)])
    denied = metered.ask("check_entitlement_one").body
    assert (denied["allowed"], denied["reason"], denied["retry_after"]) == (False, "quota_exceeded", 50395)
    metered.clock.advance(timedelta(days=1))
    every = [(f"{day:02d}", number) for day in range(1, 17) for number in range(7)]
    metered.send(*[usage_event(f"{day}-{number}", time=f"2026-11-{day}T00:00:00Z") for day, number in every])
    allowed = metered.ask("check_entitlement_one").body
    assert allowed["allowed"]
    assert [each["remaining"] for each in allowed["meters"]] == [5, 0]


def test_a_top_up_raises_the_periods_allowance_once(metered: Metered) -> None:
    topup = TopUp(id="top_1", meter="met_calls", quantity=40, counts_from=NOW.replace(day=1, hour=0, second=0))
    metered.change(topups=(topup,))
    assert metered.ask("check_entitlement_one").body["meters"][1]["limit"] == 140
    metered.clock.advance(timedelta(days=20))
    assert metered.ask("check_entitlement_one").body["meters"][1]["limit"] == 100


def test_a_spend_cap_stops_calls_when_the_periods_price_reaches_it(metered: Metered) -> None:
    charge = Charge(id="calls", name="Calls", model="per_unit", meter="met_calls", unit_price=Decimal(100))
    terms = PlanTerms(currency="usd", charges=(charge,))
    metered.store(PlanVersion(plan="plan_gold", publisher="acme", number=2, name="", terms=terms, published_at=NOW))
    metered.change(version=2, spend_cap=1000, publisher_spend_cap=400)
    metered.send(*[usage_event(number) for number in range(3)])
    body = metered.ask("check_entitlement_one").body
    assert (body["allowed"], body["meters"][0]["kind"], body["meters"][0]["remaining"]) == (True, "spending", 100)
    metered.send(usage_event(3))
    metered.clock.advance(FRESH)
    body = metered.ask("check_entitlement_one").body
    assert (body["allowed"], body["reason"]) == (False, "spend_cap_reached")
    assert _told(metered) == [("spending", "spending", 85), ("spending", "spending", 100)]
    assert metered.ask("check_entitlement_one", {"key": "mk_test_example"}).body["allowed"]


def test_a_block_is_seen_when_the_remembered_decision_is_over(metered: Metered) -> None:
    assert metered.ask("check_entitlement_one").body["allowed"]
    was = metered.subscription()
    metered.store(replace(was, block="all"))
    assert metered.ask("check_entitlement_one").body["allowed"]
    metered.clock.advance(FRESH)
    assert metered.ask("check_entitlement_one").body["reason"] == "blocked"


def test_a_threshold_is_told_once_per_period_also_by_several_containers(metered: Metered) -> None:
    metered.send(*[usage_event(number) for number in range(4)])
    metered.ask("check_entitlement_one")
    assert _told(metered) == []
    metered.send(usage_event(4))
    for _ in range(3):
        metered.clock.advance(FRESH)
        metered.change()  # forgets what this container knows
        metered.ask("check_entitlement_one")
    assert _told(metered) == [("met_calls", "quota", 85), ("met_calls", "quota", 100)]


def test_an_amount_of_money_is_a_threshold_that_limits_nothing(metered: Metered) -> None:
    was = metered.table.list(Publisher, "PUB#acme", "PUBLISHER").items[0]
    metered.store(replace(was, settings=BillingSettings(threshold_amounts=(300, 1000))))
    charge = Charge(id="calls", name="Calls", model="per_unit", meter="met_calls", unit_price=Decimal(100))
    terms = PlanTerms(currency="usd", charges=(charge,))
    metered.store(PlanVersion(plan="plan_gold", publisher="acme", number=2, name="", terms=terms, published_at=NOW))
    metered.change(version=2)
    metered.send(usage_event(0), usage_event(1))
    assert metered.ask("check_entitlement_one").body["allowed"]
    assert _told(metered) == []
    metered.send(*[usage_event(number) for number in range(2, 5)])
    for _ in range(2):
        metered.clock.advance(FRESH)
        body = metered.ask("check_entitlement_one").body
        assert (body["allowed"], body.get("meters")) == (True, None)
    (said,) = metered.told()
    assert (said["kind"], said["limit"], said["used"]) == ("spending", 300, 500)


def test_when_nothing_can_be_read_what_was_known_stands_and_the_publisher_decides_on_the_rest(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metered.ask("check_entitlement_one").body["allowed"]
    metered.clock.advance(FRESH)

    def broken(*_args: object, **_kwargs: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb.invalid")

    monkeypatch.setattr(metered.dynamodb, "batch_get_item", broken)
    monkeypatch.setattr(metered.dynamodb, "get_item", broken)
    known = metered.ask("check_entitlement_one").body
    assert (known["allowed"], known["degraded"], known["subscription"]) == (True, True, SUB)
    unknown = metered.ask("check_entitlement_one", {"key": "mk_live_other"}).body
    assert (unknown["allowed"], unknown["degraded"]) == (True, True)
    answer = metered.ask("check_entitlement_one", headers={"authorization": "Bearer gk_unheard"})
    assert (answer.status, answer.code) == (503, "temporarily_unavailable")


def test_a_publisher_that_fails_closed_lets_nobody_through_unseen(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = metered.table.list(Publisher, "PUB#acme", "PUBLISHER").items[0]
    metered.store(replace(was, settings=BillingSettings(fail_open=False)))
    assert metered.ask("check_entitlement_one").body["allowed"]
    metered.clock.advance(FRESH)

    def broken(*_args: object, **_kwargs: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb.invalid")

    monkeypatch.setattr(metered.dynamodb, "batch_get_item", broken)
    monkeypatch.setattr(metered.dynamodb, "get_item", broken)
    body = metered.ask("check_entitlement_one").body
    assert (body["allowed"], body["reason"], body["degraded"]) == (False, "temporarily_unavailable", True)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"[" * 50_000, 400, "malformed_json"),
        ([], 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"key": 7}, 422, "invalid_request"),
        ({"key": ""}, 422, "invalid_request"),
        ({"key": "k" * 300}, 422, "invalid_request"),
        ({"key": "kéy"}, 422, "invalid_request"),
        ({"key": "k", "tenant": "other"}, 422, "invalid_request"),
        ({"keys": []}, 422, "invalid_request"),
        ({"keys": ["k"]}, 422, "invalid_request"),
        ({"keys": [{"key": "k"}] * 101}, 413, "too_many_keys"),
        (b" " * 70_000, 413, "body_too_large"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(metered: Metered, body: object, status: int, code: str) -> None:
    answer = metered.ask("check_entitlement_one", body)
    assert (answer.status, answer.code) == (status, code)


def test_the_authorizer_lets_through_with_the_context_that_access_logs_need(metered: Metered) -> None:
    assert _authorize() == {
        "isAuthorized": True,
        "context": {"publisher": "acme", "subscription": SUB, "environment": "production", "remaining": "5"},
    }


def test_the_authorizer_refuses_whatever_does_not_belong_to_its_publisher_and_api(metered: Metered) -> None:
    assert not _authorize(stageVariables={"publisher": "other"})["isAuthorized"]
    assert not _authorize(stageVariables={})["isAuthorized"]
    assert not _authorize(stageVariables={"publisher": "acme", "api": "api_tides"})["isAuthorized"]
    assert not _authorize(headers={})["isAuthorized"]
    assert not _authorize(headers={"x-api-key": "mk_live_nobody"})["isAuthorized"]


def _authorize(**changes: Any) -> dict[str, Any]:
    event = {**json.loads((EVENTS / "check_entitlement_authorizer.json").read_text()), **changes}
    return entitlement.handler(event, CONTEXT)  # type: ignore[arg-type]


def test_a_threshold_that_could_not_be_noted_is_noted_by_the_next_and_no_call_waits_for_it(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered.send(*[usage_event(number) for number in range(5)])

    def throttled(**_request: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb.invalid")

    with monkeypatch.context() as broken:
        broken.setattr(metered.dynamodb, "put_item", throttled)
        body = metered.ask("check_entitlement_one").body
        assert (body["reason"], body.get("degraded")) == ("quota_exceeded", None)
    assert _told(metered) == []
    metered.clock.advance(FRESH)
    metered.ask("check_entitlement_one")
    assert [percent for _, _, percent in _told(metered)] == [85, 100]


def _told(metered: Metered) -> list[tuple[str, str, int]]:
    return [(said["meter"], said["kind"], said["percent"]) for said in metered.told()]
