"""Onboarding: who may connect which Stripe account to whom."""

import json
import re
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from local import story
from local.http_client import Api, Refused
from local.in_process import world_of
from local.story import Offer, publish_offer
from local.stripe_emulator.faults import Fault
from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys

METERS = {"calls": {"name": "Requests", "event_type": "api.request", "unit": "calls"}}
WSO2 = {"price": 1000, "max_daily_usage": 10, "overage_charge": "25", "overage_unit": 5, "meter": "{calls}"}
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


def a_commercial_offer(system: System) -> Offer:
    plan = {"name": "Gold", "wso2": {**WSO2, "currency": "eur"}}
    return publish_offer(world_of(system).as_user("ann", "acme", "publisher_admin"), "acme", "Weather", plan, METERS)


def reconnected(system: System, account: str) -> tuple[int, Any]:
    token = come_back(system, authorize(system), account)["completion"]
    status, _, body = call(system, "POST", "/monetization/enable", {"completion": token})
    return status, body


def test_another_account_gets_the_plans_products_and_is_sold_on(system: System) -> None:
    connected(system)
    offer = a_commercial_offer(system)
    other = system.emulator.create_account(country="DE", default_currency="eur")
    assert reconnected(system, other.id)[0] == 200
    assert len(other.products) == 1
    world = world_of(system)
    bob = world.as_user("bob", "globex", "subscriber")
    story.subscribe(world, bob, offer, "App", offer.gold_tier, "bob@globex.example")
    world.run_until(system.clock.now() + timedelta(hours=2))
    assert [invoice["status"] for invoice in other.invoices.values()] == ["paid"]


def test_another_account_is_refused_while_commercial_subscriptions_live(system: System) -> None:
    account = connected(system)
    offer, world = a_commercial_offer(system), world_of(system)
    bob = world.as_user("bob", "globex", "subscriber")
    story.subscribe(world, bob, offer, "App", offer.gold_tier, "bob@globex.example")
    other = system.emulator.create_account(country="DE", default_currency="eur")
    status, body = reconnected(system, other.id)
    assert (status, body["code"], body["account"]) == (409, "other_account_in_use", account)
    assert call(system, "GET", "/monetization")[2]["stripe"]["account"] == account


def test_an_account_of_another_mode_is_let_go_and_never_waits_for_confirmation(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = authorize(system)
    account = system.emulator.create_account(country="DE", default_currency="eur")
    monkeypatch.setattr(system.emulator, "livemode", True)
    assert come_back(system, url, account.id) == {"monetization": "wrong_mode"}
    assert not account.connected
    assert call(system, "GET", "/monetization")[0] == 404


def test_an_account_that_may_only_be_read_is_let_go(system: System) -> None:
    account = system.emulator.create_account(country="DE", default_currency="eur")
    url = authorize(system).replace("scope=read_write", "scope=read_only")
    assert come_back(system, url, account.id) == {"monetization": "read_only_scope"}
    assert not account.connected
    assert call(system, "GET", "/monetization")[0] == 404


def test_what_goes_wrong_at_stripe_sends_the_browser_back_with_a_code(system: System) -> None:
    def fragment(state: str, answer: str) -> str:
        _, headers, _ = system.call("GET", f"/stripe/oauth/callback?state={state}&{answer}")
        return urlsplit(headers["location"]).fragment

    def state() -> str:
        return parse_qs(urlsplit(authorize(system)).query)["state"][0]

    assert fragment(state(), "error=server_error&error_description=x") == "monetization=provider_error"
    assert fragment(state(), "scope=read_write") == "monetization=provider_error"
    assert fragment(state(), "code=ac_made_up") == "monetization=code_refused"
    system.emulator.faults.append(Fault("time_out", path="/oauth/token", times=9))
    assert fragment(state(), "code=ac_made_up") == "monetization=stripe_unavailable"
    assert call(system, "GET", "/monetization")[0] == 404


def test_stripe_sends_nobody_to_an_address_that_was_not_registered(system: System) -> None:
    url = re.sub("redirect_uri=[^&]*", "redirect_uri=https%3A%2F%2Fevil.example%2Fcallback", authorize(system))
    page = world_of(system).http.send("GET", url)
    assert (page.status, "location" in page.headers) == (400, False)


def test_an_account_that_is_restricted_is_shown_so_and_sells_nothing_new_until_it_may_charge(system: System) -> None:
    account = connected(system)
    offer, world = a_commercial_offer(system), world_of(system)
    bob = world.as_user("bob", "globex", "subscriber")
    system.emulator.restrict(account)
    world.settle()
    shown = call(system, "GET", "/monetization")[2]["stripe"]
    assert shown["charges_enabled"] is False
    with pytest.raises(Refused, match="account_restricted"):
        story.subscribe(world, bob, offer, "App", offer.gold_tier, "bob@globex.example")
    system.emulator.restrict(account, charges_enabled=True)
    world.settle()
    assert call(system, "GET", "/monetization")[2]["stripe"]["charges_enabled"] is True
    story.subscribe(world, bob, offer, "App2", offer.gold_tier, "bob@globex.example")


def test_what_stripe_changes_about_an_account_is_audited_as_done_there(system: System) -> None:
    account, world = connected(system), world_of(system)
    system.emulator.restrict(account, currently_due=["external_account"])
    world.settle()
    entries = audited(system)
    (entry,) = [each for each in entries if each["action"] == "monetization.account"]
    assert (entry["actor"], entry["before"]["charges_enabled"], entry["after"]["charges_enabled"]) == (
        "stripe",
        "true",
        "false",
    )
    assert entry["after"]["requirements"] == "external_account"
    system.emulator.restrict(account, currently_due=["external_account"])  # told again, and nothing changed
    world.settle()
    assert audited(system) == entries


def audited(system: System) -> list[dict[str, Any]]:
    month = f"{system.clock.now():%Y-%m}"
    return [json.loads(item["doc"]["S"]) for item in wiring.core().query(keys.audit("acme", month).pk).items]


@pytest.mark.parametrize("by_us", [False, True], ids=["left at Stripe", "let go here"])
def test_hearing_late_that_an_account_left_does_not_disconnect_one_that_is_back(system: System, by_us: bool) -> None:
    account = connected(system)
    if by_us:
        assert call(system, "DELETE", "/monetization")[0] == 200
    else:
        system.emulator.deauthorize(account)
    while system.emulator.webhooks.due(system.clock.now()):
        pass  # on its way
    system.clock.move_to(system.clock.now() + timedelta(minutes=1))
    fragment = come_back(system, authorize(system), account)
    assert call(system, "POST", "/monetization/enable", {"completion": fragment["completion"]})[0] == 200
    (late,) = [each for each in system.emulator.webhooks.events.values() if each.type.endswith(".deauthorized")]
    system.emulator.webhooks.redeliver(late, system.clock.now())
    world_of(system).settle()
    assert call(system, "GET", "/monetization")[2]["status"] == "enabled"


def test_no_answer_that_is_kept_for_repetition_holds_a_secret(system: System) -> None:
    """Whatever POST is repeated under its key, what the table keeps of it opens nothing."""
    shown: list[str] = []

    def post(api: Api, path: str, body: Any) -> Any:
        return api.call("POST", path, body, Idempotency_Key=f"key of {path}")

    world = world_of(system)
    ann, bob = world.as_user("ann", "acme", "publisher_admin"), world.as_user("bob", "globex", "subscriber")
    url = post(ann, "/monetization/connect", {"return_to": "/monetization"})["authorize_url"]
    shown += parse_qs(urlsplit(url).query)["state"]
    account = system.emulator.create_account(country="DE", default_currency="eur").id
    completion = come_back(system, url, account)["completion"]
    shown.append(completion)
    post(ann, "/monetization/enable", {"completion": completion})
    offer = a_commercial_offer(system)
    shown.append(post(ann, "/gateway-keys", {"name": "edge"})["key"])
    application = post(bob, "/applications", {"publisher": "acme", "name": "App"})["id"]
    contact = {"name": "Bob", "email": "bob@globex.example", "country": "US"}
    order = {"publisher": "acme", "application": application, "product": offer.api, "tier": offer.gold_tier}
    made = post(bob, "/subscriptions", order | {"contact": contact})
    shown.append(made["checkout"]["url"])
    shown.append(post(bob, f"/subscriptions/{made['id']}/checkout", None)["url"])
    story.pay_with_card(world, made["checkout"]["url"])
    world.settle()
    key = post(bob, f"/subscriptions/{made['id']}/keys", {"environment": "production", "name": "edge"})
    again = post(bob, f"/subscriptions/{made['id']}/keys", {"environment": "production", "name": "edge"})
    assert (again["id"], again["key"], again["already_shown"]) == (key["id"], None, True)
    shown.append(key["key"])
    rotated = post(bob, f"/subscriptions/{made['id']}/keys/{key['id']}/rotate", {"overlap_hours": 1})
    shown.append(rotated["key"])
    shown.append(post(bob, f"/subscriptions/{made['id']}/portal", None)["url"])
    kept = json.dumps(system.dynamodb.scan(TableName="IdempotencyTable")["Items"], default=str)
    everything = kept + json.dumps(system.dynamodb.scan(TableName="CoreTable")["Items"], default=str)
    assert "App" in kept, "the application's answer is kept, so the test looks at the right place"
    assert [each for each in shown if each in everything] == []
