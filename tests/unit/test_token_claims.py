"""The trigger of the stack's own user pool: what it puts into tokens, and what it takes away."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.token_claims import app
from monetize.config import load

EVENT = Path(__file__).parents[2] / "events" / "token_claims.json"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"CORE_TABLE": "core", "USAGE_TABLE": "usage", "CLAIM_PLAN": "tier_of_platform"}.items():
        monkeypatch.setenv(name, value)
    load.cache_clear()
    yield
    load.cache_clear()


def answered(**attributes: str) -> dict[str, Any]:
    event = json.loads(EVENT.read_text(encoding="utf-8"))
    event["request"]["userAttributes"].update(attributes)
    made: dict[str, Any] = app.handler(event, None)["response"]["claimsAndScopeOverrideDetails"]
    return made


def test_both_tokens_carry_organization_plan_and_roles_under_the_configured_names() -> None:
    made = answered()
    expected = {"organization": "acme", "tier_of_platform": "business", "roles": "publisher_admin subscriber"}
    assert made["idTokenGeneration"]["claimsToAddOrOverride"] == expected
    assert made["accessTokenGeneration"]["claimsToAddOrOverride"] == expected


def test_a_role_that_does_not_exist_is_not_passed_on() -> None:
    made = answered(**{"custom:roles": "publisher_viewer root"})
    assert made["accessTokenGeneration"]["claimsToAddOrOverride"]["roles"] == "publisher_viewer"


def test_a_user_without_organization_gets_no_claim_and_nobody_else_may_set_it() -> None:
    made = answered(**{"custom:organization": "", "custom:plan": "", "custom:roles": ""})
    assert made["accessTokenGeneration"]["claimsToAddOrOverride"] == {}
    assert set(made["accessTokenGeneration"]["claimsToSuppress"]) == {"organization", "tier_of_platform", "roles"}


def test_a_scope_whose_role_the_user_does_not_hold_is_taken_away() -> None:
    made = answered()
    assert made["accessTokenGeneration"]["scopesToSuppress"] == ["monetization/operator"]


def test_the_trigger_answers_the_event_it_was_given() -> None:
    event = json.loads(EVENT.read_text(encoding="utf-8"))
    answer = app.handler(event, None)
    assert answer["request"] == json.loads(EVENT.read_text(encoding="utf-8"))["request"]
    assert answer["version"] == "2"
