"""Onboarding: who may connect which Stripe account to whom."""

import json
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.system import System

ADMIN = {"plan": "business", "roles": ["publisher_admin"]}


def call(
    system: System, method: str, path: str, body: Any = None, *, user: str = "ann", org: str = "acme", **claims: Any
) -> tuple[int, dict[str, str], Any]:
    token = system.token(user, org, **{**ADMIN, **claims})
    status, headers, raw = system.call(method, path, body, token=token)
    return status, headers, json.loads(raw) if raw else None


def authorize(system: System, **who: Any) -> str:
    """Go through Stripe's page; answers the path of the callback the browser is sent to."""
    status, _, body = call(system, "POST", "/monetization/connect", {"return_to": "/monetization"}, **who)
    assert status == 200, body
    return str(body["authorize_url"])


def come_back(system: System, authorize_url: str, account: str | None) -> dict[str, str]:
    """Authorize as `account` (None: deny) and follow Stripe's redirect; answers the fragment the portal gets."""
    back = urlsplit(system.emulator.authorize(authorize_url, account))
    status, headers, raw = system.call("GET", f"{back.path}?{back.query}")
    assert status == 303, raw
    return {name: values[0] for name, values in parse_qs(urlsplit(headers["location"]).fragment).items()}


def connected(system: System, **who: Any) -> str:
    """A publisher with monetization enabled; answers its account."""
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    fragment = come_back(system, authorize(system, **who), account)
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": fragment["completion"]}, **who)
    assert status == 200, body
    return account


def test_connecting_and_confirming_enables_monetization_and_seeds_four_tiers(system: System) -> None:
    account = system.emulator.create_account(name="Weather Ltd", country="DE", default_currency="eur").id
    fragment = come_back(system, authorize(system), account)
    assert fragment["monetization"] == "pending"
    _, _, before = call(system, "GET", "/monetization")
    assert (before["status"], before["pending"]["account"]) == ("new", account)
    status, headers, body = call(system, "POST", "/monetization/enable", {"completion": fragment["completion"]})
    assert status == 200
    assert headers["etag"]
    assert body["tiers"] == ["Gold", "Silver", "Bronze", "Unlimited"]
    assert body["publisher"]["stripe"]["account"] == account
    status, _, tiers = call(system, "GET", "/tiers")
    assert [tier["name"] for tier in tiers["items"]].sort() == ["Gold", "Silver", "Bronze", "Unlimited"].sort()


def test_a_trial_organization_is_told_to_upgrade(system: System) -> None:
    status, _, body = call(system, "POST", "/monetization/connect", {"return_to": "/monetization"}, plan="trial")
    assert (status, body["code"]) == (402, "upgrade_required")
    assert body["upgrade_url"].endswith("/upgrade")


def test_only_the_portals_own_paths_are_returned_to(system: System) -> None:
    for path in ("https://evil.example", "//evil.example", "/elsewhere", "/monetization@evil.example"):
        status, _, body = call(system, "POST", "/monetization/connect", {"return_to": path})
        assert (status, body["code"]) == (422, "return_to_not_allowed"), path


def test_only_an_admin_of_the_publisher_connects(system: System) -> None:
    status, _, body = call(system, "POST", "/monetization/connect", {}, roles=["publisher_viewer"])
    assert (status, body["code"]) == (403, "missing_role")


def test_denying_access_is_a_normal_answer_and_changes_nothing(system: System) -> None:
    assert come_back(system, authorize(system), None) == {"monetization": "denied"}
    assert call(system, "GET", "/monetization")[0] == 404


def test_a_callback_without_a_state_of_ours_is_refused(system: System) -> None:
    for query in ("", "?code=ac_1", "?state=made-up&code=ac_1"):
        status, headers, raw = system.call("GET", f"/stripe/oauth/callback{query}")
        assert (status, json.loads(raw)["code"]) == (400, "invalid_state")
        assert "location" not in headers


def test_a_state_is_used_once(system: System) -> None:
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    back = urlsplit(system.emulator.authorize(authorize(system), account))
    assert system.call("GET", f"{back.path}?{back.query}")[0] == 303
    status, _, raw = system.call("GET", f"{back.path}?{back.query}")
    assert (status, json.loads(raw)["code"]) == (400, "invalid_state")


def test_a_state_lives_ten_minutes(system: System) -> None:
    back = urlsplit(system.emulator.authorize(authorize(system), system.emulator.create_account().id))
    system.clock.advance(timedelta(minutes=10))
    status, _, raw = system.call("GET", f"{back.path}?{back.query}")
    assert (status, json.loads(raw)["code"]) == (400, "invalid_state")


def test_a_completion_token_works_for_its_own_user_and_browser_only(system: System) -> None:
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    token = come_back(system, authorize(system), account)["completion"]
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": token[:-1] + "x" * 2})
    assert (status, body["code"]) == (403, "wrong_completion")
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": token}, user="bob")
    assert (status, body["code"]) == (403, "wrong_completion")
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": token}, org="other")
    assert (status, body["code"]) == (404, "nothing_pending")
    assert call(system, "GET", "/monetization")[2]["status"] == "new"


def test_an_old_sign_in_gets_the_step_up_challenge(system: System) -> None:
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    token = come_back(system, authorize(system), account)["completion"]
    old = system.clock.now() - timedelta(minutes=6)
    status, headers, body = call(system, "POST", "/monetization/enable", {"completion": token}, auth_time=old)
    assert (status, body["code"]) == (401, "sign_in_again")
    challenge = headers["www-authenticate"]
    assert 'error="insufficient_user_authentication"' in challenge
    assert 'max_age="300"' in challenge


def test_an_account_linked_to_another_organization_is_refused(system: System) -> None:
    account = connected(system)
    fragment = come_back(system, authorize(system, org="rival"), account)
    assert fragment == {"monetization": "account_taken"}
    assert system.emulator.account(account).connected, "the holder's connection stays"


def test_of_two_organizations_that_confirm_one_account_one_is_refused(system: System) -> None:
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    first = come_back(system, authorize(system), account)["completion"]
    second = come_back(system, authorize(system, org="rival"), account)["completion"]
    assert call(system, "POST", "/monetization/enable", {"completion": first})[0] == 200
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": second}, org="rival")
    assert (status, body["code"]) == (409, "account_taken")


def test_a_link_nobody_confirmed_is_let_go_by_the_sweep(system: System) -> None:
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    come_back(system, authorize(system), account)
    assert system.emulator.account(account).connected
    system.run_for(timedelta(hours=2))
    assert not system.emulator.account(account).connected
    assert call(system, "GET", "/monetization")[2]["pending"] is None


def test_the_sweep_keeps_an_account_that_a_publisher_holds(system: System) -> None:
    account = connected(system)
    come_back(system, authorize(system), account)  # connected again, never confirmed
    system.run_for(timedelta(hours=2))
    assert system.emulator.account(account).connected


def test_disconnecting_stops_and_reconnecting_the_same_account_resumes(system: System) -> None:
    account = connected(system)
    status, _, body = call(system, "DELETE", "/monetization")
    assert (status, body["publisher"]["status"]) == (200, "disconnected")
    assert body["unbilled_subscriptions"] == 0
    assert not system.emulator.account(account).connected
    token = come_back(system, authorize(system), account)["completion"]
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": token})
    assert (status, body["tiers"]) == (200, [])
    assert body["publisher"]["status"] == "enabled"


def test_settings_are_edited_only_as_they_were_read(system: System) -> None:
    connected(system)
    _, headers, _ = call(system, "GET", "/monetization")
    token = system.token("ann", "acme", **ADMIN)
    wanted = {"grace_hours": 48, "retry_days": [2, 4]}
    assert system.call("PUT", "/monetization/settings", wanted, token=token)[0] == 428
    fresh = {"If-Match": headers["etag"]}
    status, _, raw = system.call("PUT", "/monetization/settings", wanted, token=token, headers=fresh)
    assert (status, json.loads(raw)["settings"]["grace_hours"]) == (200, 48)
    status, _, raw = system.call("PUT", "/monetization/settings", wanted, token=token, headers=fresh)
    assert (status, json.loads(raw)["code"]) == (412, "changed_meanwhile")


def test_unknown_fields_and_wrong_types_are_refused(system: System) -> None:
    bodies: list[Any] = [{"return_to": "/monetization", "x": 1}, {"return_to": 7}, [], "text"]
    for body in bodies:
        status, headers, answer = call(system, "POST", "/monetization/connect", body)
        assert status in (400, 422), body
        assert headers["content-type"] == "application/problem+json"
        assert answer["code"] in ("invalid_request", "malformed_json")
