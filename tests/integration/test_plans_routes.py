"""The catalog as its callers see it: every route through its event."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import stripe

from functions.plans.app import app
from local.stripe_emulator.faults import Fault
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.stripe.products import StripeProducts
from monetize.domain.errors import Invalid
from monetize.domain.plans import Plan
from monetize.domain.publishers import BillingSettings, Publisher
from monetize.services.plans import products_on
from tests.integration.catalog_fixtures import EVENTS, NOW, Desk, desk

__all__ = ["desk"]

METER = {"name": "Calls", "event_type": "api.call"}


def wso2(meter: str, **changed: Any) -> dict[str, Any]:
    fields = {"price": 4900, "max_daily_usage": 5000, "overage_charge": "100", "overage_unit": 1000}
    return {**fields, "meter": meter, "currency": "usd"} | changed


def a_plan(desk: Desk, org: str = "acme", name: str = "Gold plan", **changed: Any) -> str:
    """A draft plan in WSO2's four fields; gives its id."""
    meter = desk.make("post_meter", METER | {"name": f"Calls of {name}"}, org=org)["id"]
    return str(desk.make("post_plan", {"name": name, "wso2": wso2(meter, **changed)}, org=org)["id"])


def a_published_plan(desk: Desk, org: str = "acme", name: str = "Gold plan", **changed: Any) -> str:
    plan = a_plan(desk, org, name, **changed)
    assert desk.ask("post_publish", plan, org=org).status == 201
    return plan


def a_commercial_tier(desk: Desk, plan: str, name: str = "Platinum", org: str = "acme") -> str:
    return str(desk.make("post_tier", {"name": name, "commercial": True, "plan": plan}, org=org)["id"])


def an_api(desk: Desk, *tiers: str, name: str = "Weather", org: str = "acme") -> str:
    """An API offered at these tiers; gives its id."""
    api = str(desk.make("post_api", {"name": name}, org=org)["id"])
    if tiers:
        applied = desk.ask("put_api_tiers", api, body={"tiers": list(tiers)}, headers={"if-match": '"1"'}, org=org)
        assert applied.status == 200, applied.text
    return api


def seeded(desk: Desk, name: str, org: str = "acme") -> str:
    """The id of a tier that enabling made."""
    return next(str(it["id"]) for it in desk.ask("list_tiers", org=org).body["items"] if it["name"] == name)


# ---- the path a publisher takes


def test_wso2s_four_fields_become_a_plan_an_api_is_sold_at(desk: Desk) -> None:
    plan = a_published_plan(desk)
    tier = a_commercial_tier(desk, plan)
    api = desk.ask("post_api")
    assert api.status == 201
    assert api.headers["Location"] == f"/apis/{api.body['id']}"
    applied = desk.ask("put_api_tiers", api.body["id"], body={"tiers": [tier]}, headers={"if-match": api.etag})
    assert applied.body["label"] == "PAID"
    listed = desk.ask("list_catalog", "acme").body["items"]
    assert [it["id"] for it in listed] == [api.body["id"]]
    shown = listed[0]["tiers"][0]
    assert shown["price"] == "$49.00 a month + usage"
    assert shown["prices"] == [
        "Monthly fee: $49.00 a month, in advance",
        "Overage: 5,000 calls a day included, then $1.00 for every 1,000 calls begun",
    ]
    assert shown["terms"]["charges"][1]["unit_price"] == "100"


# ---- tiers


def test_default_tiers_can_be_edited(desk: Desk) -> None:
    gold = desk.ask("get_tier", seeded(desk, "Gold"))
    body = {"name": "Gold", "throttle": {"per_minute": 6000, "burst": 10}}
    changed = desk.ask("put_tier", gold.body["id"], body=body, headers={"if-match": gold.etag})
    assert changed.status == 200
    assert changed.body["throttle"] == {
        "per_second": None,
        "per_minute": 6000,
        "per_hour": None,
        "per_day": None,
        "burst": 10,
    }
    assert changed.etag != gold.etag


def test_an_edit_must_say_which_state_it_read(desk: Desk) -> None:
    gold = seeded(desk, "Gold")
    body = {"name": "Gold"}
    assert desk.ask("put_tier", gold, body=body).code == "if_match_required"
    assert desk.ask("put_tier", gold, body=body, headers={"if-match": "gold"}).code == "bad_if_match"
    stale = desk.ask("put_tier", gold, body=body, headers={"if-match": '"7"'})
    assert (stale.status, stale.code) == (412, "changed_since_read")


def test_no_edit_writes_over_what_its_caller_did_not_read(desk: Desk) -> None:
    meter = desk.make("post_meter", METER)["id"]
    plan = desk.make("post_plan", {"name": "P", "wso2": wso2(meter)})["id"]
    one, two, gold = an_api(desk, name="One"), an_api(desk, name="Two"), seeded(desk, "Gold")
    bundle = desk.make("post_bundle", {"name": "Both", "apis": [one, two]})["id"]
    edits: list[tuple[str, str, dict[str, Any]]] = [
        ("put_tier", gold, {"name": "Golden"}),
        ("put_meter", meter, METER),
        ("put_plan", plan, {"name": "Q", "wso2": wso2(meter)}),
        ("put_api", two, {"name": "Three"}),
        ("put_api_tiers", two, {"tiers": [gold]}),
        ("put_bundle", bundle, {"name": "All", "apis": [one, two]}),
        ("put_bundle_tiers", bundle, {"tiers": [gold]}),
    ]
    before = desk.everything("acme")
    for route, which, body in edits:
        stale = desk.ask(route, which, body=body, headers={"if-match": '"99"'})
        assert (route, stale.status, stale.code) == (route, 412, "changed_since_read")
        unsaid = desk.ask(route, which, body=body)
        assert (route, unsaid.status, unsaid.code) == (route, 428, "if_match_required")
    assert desk.everything("acme") == before


def test_an_edit_that_another_overtakes_is_refused(desk: Desk) -> None:
    gold, between = seeded(desk, "Gold"), [True]

    def interleave(operation: str, _request: Any) -> None:
        if operation == "TransactWriteItems" and between:
            between.clear()
            assert desk.ask("put_tier", gold, body={"name": "First"}, headers={"if-match": '"1"'}).status == 200

    desk.dynamodb.on_call = interleave
    lost = desk.ask("put_tier", gold, body={"name": "Second"}, headers={"if-match": '"1"'})
    assert (lost.status, lost.code) == (412, "changed_meanwhile")
    assert desk.ask("get_tier", gold).body["name"] == "First"


@pytest.mark.parametrize("route", ["post_tier", "put_tier"])
def test_a_plan_archived_while_a_tier_takes_it_stops_the_tier(desk: Desk, route: str) -> None:
    plan, between = a_published_plan(desk), [True]
    ids = [seeded(desk, "Gold")] if route == "put_tier" else []

    def interleave(operation: str, _request: Any) -> None:
        if operation == "TransactWriteItems" and between:
            between.clear()
            assert desk.ask("post_archive", plan).status == 200

    desk.dynamodb.on_call = interleave
    body = {"name": "Platinum", "commercial": True, "plan": plan}
    assert desk.ask(route, *ids, body=body, headers={"if-match": '"1"'}).code == "changed_meanwhile"


@pytest.mark.parametrize("name", ["Gold", "gold", "  GOLD "])
def test_a_tiers_name_is_its_own_whatever_its_case(desk: Desk, name: str) -> None:
    assert desk.ask("post_tier", body={"name": name}).code == "name_taken"
    made = desk.make("post_tier", {"name": "Silver plus"})
    taken = desk.ask("put_tier", made["id"], body={"name": name}, headers={"if-match": '"1"'})
    assert (taken.status, taken.code) == (409, "name_taken")


def test_a_name_is_one_things_among_a_publishers_things_of_its_kind(desk: Desk) -> None:
    meter = desk.make("post_meter", METER)["id"]
    made: list[tuple[str, dict[str, Any]]] = [
        ("post_meter", METER),
        ("post_plan", {"name": "Calls", "wso2": wso2(meter)}),
        ("post_api", {"name": "Calls"}),
    ]
    for route, body in made[1:]:
        desk.make(route, body)
    for route, body in made:
        taken = desk.ask(route, body=body | {"name": "cALLS"})
        assert (route, taken.status, taken.code) == (route, 409, "name_taken")
    desk.make("post_api", {"name": "Calls"}, org="globex")


def test_of_two_tiers_made_at_once_with_one_name_one_is_made(desk: Desk) -> None:
    between = [True]

    def interleave(operation: str, _request: Any) -> None:
        if operation == "TransactWriteItems" and between:
            between.clear()
            desk.make("post_tier", {"name": "Fast"})

    desk.dynamodb.on_call = interleave
    assert desk.ask("post_tier", body={"name": "Fast"}).code == "name_taken"


def test_a_name_given_up_can_be_taken(desk: Desk) -> None:
    made = desk.make("post_tier", {"name": "Fast"})
    assert desk.ask("post_tier", body={"name": "Fast"}).code == "name_taken"
    assert desk.ask("put_tier", made["id"], body={"name": "Faster"}, headers={"if-match": '"1"'}).status == 200
    assert desk.make("post_tier", {"name": "Fast"})["id"] != made["id"]
    assert desk.ask("delete_tier", made["id"]).status == 204
    desk.make("post_tier", {"name": "Faster"})


def test_a_commercial_tier_names_a_plan_and_a_free_one_none(desk: Desk) -> None:
    plan = a_plan(desk)
    assert desk.ask("post_tier", body={"name": "A", "commercial": True}).code == "plan_required"
    assert desk.ask("post_tier", body={"name": "A", "plan": plan}).code == "plan_of_free_tier"
    unknown = desk.ask("post_tier", body={"name": "A", "commercial": True, "plan": "plan_none"})
    assert (unknown.status, unknown.code) == (404, "no_such_plan")


def test_a_tier_in_use_keeps_what_it_costs_and_is_not_deleted(desk: Desk) -> None:
    plan = a_published_plan(desk)
    tier = a_commercial_tier(desk, plan)
    api = an_api(desk, tier)
    etag = desk.ask("get_tier", tier).etag
    assert desk.ask("delete_tier", tier).code == "tier_in_use"
    assert desk.ask("put_tier", tier, body={"name": "Platinum"}, headers={"if-match": etag}).code == "tier_in_use"
    taken_away = desk.ask("put_api_tiers", api, body={"tiers": []}, headers={"if-match": '"2"'})
    assert (taken_away.status, taken_away.body["label"]) == (200, None)
    assert desk.ask("delete_tier", tier).status == 204
    assert desk.ask("get_tier", tier).code == "no_such_tier"
    assert tier not in {it["id"] for it in desk.ask("list_tiers").body["items"]}


def test_a_tier_with_a_live_subscription_is_not_deleted(desk: Desk) -> None:
    tier = seeded(desk, "Gold")
    desk.subscribe("sub_1", "acme", "api_gone", tier=tier)
    assert desk.ask("delete_tier", tier).code == "tier_in_use"


def test_a_tier_of_ended_subscriptions_is_deleted(desk: Desk) -> None:
    tier = seeded(desk, "Gold")
    desk.subscribe("sub_1", "acme", "api_gone", tier=tier, status="ended")
    assert desk.ask("delete_tier", tier).status == 204


# ---- meters


def test_a_meter_a_published_version_uses_is_frozen(desk: Desk) -> None:
    meter = desk.make("post_meter", METER)
    plan = desk.make("post_plan", {"name": "P", "wso2": wso2(meter["id"])})["id"]
    assert desk.ask("put_meter", meter["id"], headers={"if-match": '"1"'}).status == 200
    desk.ask("post_publish", plan)
    frozen = desk.ask("get_meter", meter["id"])
    assert frozen.body["used"] is True
    assert desk.ask("put_meter", meter["id"], headers={"if-match": frozen.etag}).code == "meter_frozen"
    assert desk.ask("delete_meter", meter["id"]).code == "meter_frozen"


def test_a_meters_number_is_never_given_again(desk: Desk) -> None:
    first = desk.make("post_meter", METER)
    second = desk.make("post_meter", METER | {"name": "Bytes"})
    assert (first["short"], second["short"]) == (1, 2)
    assert desk.ask("delete_meter", second["id"]).status == 204
    assert desk.ask("get_meter", second["id"]).code == "no_such_meter"
    assert desk.make("post_meter", METER | {"name": "Bytes"})["short"] == 3
    assert desk.make("post_meter", METER, org="globex")["short"] == 1


def test_two_meters_made_at_once_take_two_numbers(desk: Desk) -> None:
    store, between = desk.dynamodb, [True]

    def interleave(operation: str, _request: Any) -> None:
        if operation == "TransactWriteItems" and between:
            between.clear()
            desk.make("post_meter", METER | {"name": "The other"})

    store.on_call = interleave
    made = desk.make("post_meter", METER)
    assert made["short"] == 2
    assert sorted(it["short"] for it in desk.ask("list_meters").body["items"]) == [1, 2]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"aggregation": "sum"}, "value_property_required"),
        ({"value_property": "bytes"}, "value_property_of_count"),
        ({"filters": [{"property": "status"}]}, "empty_filter"),
        ({"filters": [{"property": "status", "ranges": [[299, 200]]}]}, "backward_range"),
        ({"aggregation": "max"}, "invalid_request"),
        ({"event_type": ""}, "invalid_request"),
        ({"surprise": 1}, "invalid_request"),
    ],
)
def test_a_meter_that_makes_no_sense_is_refused(desk: Desk, changed: dict[str, Any], code: str) -> None:
    refused = desk.ask("post_meter", body=METER | changed)
    assert (refused.status, refused.code) == (422, code)
    assert desk.ask("list_meters").body["items"] == []
    meter = desk.make("post_meter", METER)
    edited = desk.ask("put_meter", meter["id"], body=METER | changed, headers={"if-match": '"1"'})
    assert (edited.status, edited.code) == (422, code)
    assert desk.ask("get_meter", meter["id"]).body == meter


# ---- plans


TEN, OPEN = {"up_to": 10, "unit_price": "2"}, {"unit_price": "1"}
FLAT = {"id": "fee", "name": "Fee", "model": "flat", "amount": 100}


def steps(*tiers: dict[str, Any]) -> dict[str, Any]:
    return {"charges": [{"id": "c", "name": "C", "model": "graduated", "meter": "METER", "tiers": list(tiers)}]}


def per_unit(price: Any) -> dict[str, Any]:
    return {"charges": [{"id": "c", "name": "C", "model": "per_unit", "meter": "METER", "unit_price": price}]}


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        (steps(TEN, TEN, OPEN), "overlapping_tiers"),
        (steps(OPEN, TEN), "open_tier_not_last"),
        (steps(TEN), "last_tier_not_open"),
        (steps(), "tiers_missing"),
        (per_unit("-1"), "negative_price"),
        (per_unit("0.0000000000001"), "price_too_precise"),
        (per_unit("1e3"), "price_malformed"),
        (per_unit("NaN"), "price_malformed"),
        (per_unit("9" * 16), "price_too_large"),
        (per_unit(1), "invalid_request"),
        (per_unit(None), "price_missing"),
        ({"charges": [FLAT], "currency": "xxx"}, "unknown_currency"),
        ({"charges": [FLAT], "currency": "USD"}, "unknown_currency"),
        ({"charges": []}, "no_charges"),
        ({"charges": [FLAT | {"amount": -1}]}, "negative_amount"),
        ({"charges": [FLAT | {"amount": 1.5}]}, "invalid_request"),
        ({"charges": [FLAT, FLAT]}, "duplicate_charge"),
        ({"charges": [FLAT], "minimum": 10, "maximum": 5}, "maximum_below_minimum"),
        ({"charges": [FLAT], "trial_days": -1}, "bad_trial_days"),
        ({"charges": [FLAT], "quotas": [{"meter": "met_none", "quantity": 1, "per": "day"}]}, "unknown_meter"),
        ({"charges": [FLAT], "tax_code": "vat"}, "invalid_request"),
        (json.loads(json.dumps(per_unit("1")).replace("METER", "met_none")), "unknown_meter"),
    ],
)
def test_terms_that_make_no_sense_are_refused_with_their_own_code(desk: Desk, terms: dict[str, Any], code: str) -> None:
    meter = desk.make("post_meter", METER)["id"]
    body = json.dumps({"name": "P", "terms": {"currency": "usd"} | terms}).replace("METER", meter)
    refused = desk.ask("post_plan", body=body)
    assert (refused.status, refused.code) == (422, code)
    assert desk.ask("list_plans").body["items"] == []


def test_terms_come_in_one_form(desk: Desk) -> None:
    meter = desk.make("post_meter", METER)["id"]
    assert desk.ask("post_plan", body={"name": "P"}).code == "terms_required"
    both = {"name": "P", "wso2": wso2(meter), "terms": {"currency": "usd", "charges": [FLAT]}}
    assert desk.ask("post_plan", body=both).code == "terms_twice"


def test_a_price_below_any_coin_is_kept_exactly(desk: Desk) -> None:
    meter = desk.make("post_meter", METER)["id"]
    terms = {"currency": "jpy", **json.loads(json.dumps(per_unit("0.000000000001")).replace("METER", meter))}
    plan = desk.make("post_plan", {"name": "P", "terms": terms})
    assert plan["draft"]["charges"][0]["unit_price"] == "0.000000000001"
    published = desk.ask("post_publish", plan["id"]).body
    assert published["terms"]["charges"][0]["unit_price"] == "0.000000000001"


def test_another_publishers_meter_is_an_unknown_meter(desk: Desk) -> None:
    theirs = desk.make("post_meter", METER, org="globex")["id"]
    assert desk.ask("post_plan", body={"name": "P", "wso2": wso2(theirs)}).code == "unknown_meter"


def test_a_published_version_never_changes(desk: Desk) -> None:
    plan = a_published_plan(desk)
    before = desk.ask("get_version", plan, "1").body
    meter = before["terms"]["charges"][1]["meter"]
    body = {"name": "Gold plan", "wso2": wso2(meter, price=9900)}
    assert desk.ask("put_plan", plan, body=body, headers={"if-match": '"2"'}).code == "no_draft"
    assert desk.ask("post_publish", plan).code == "no_draft"
    begun = desk.ask("post_version", plan, body={"wso2": wso2(meter, price=9900)})
    assert begun.status == 201
    assert desk.ask("post_version", plan, body={}).code == "draft_exists"
    assert desk.ask("post_publish", plan).body["number"] == 2
    assert desk.ask("get_version", plan, "1").body == before
    assert desk.ask("get_version", plan, "2").body["terms"]["charges"][0]["amount"] == 9900
    assert [it["number"] for it in desk.ask("list_versions", plan).body["items"]] == [1, 2]
    assert desk.ask("get_version", plan, "3").code == "no_such_version"


def test_a_new_version_begins_as_a_copy_of_the_latest(desk: Desk) -> None:
    plan = a_published_plan(desk)
    begun = desk.ask("post_version", plan, body={}).body
    assert begun["draft"] == desk.ask("get_version", plan, "1").body["terms"]
    assert begun["latest_version"] == 1


def test_a_published_plan_keeps_its_name_and_its_currency(desk: Desk) -> None:
    plan = a_published_plan(desk)
    begun = desk.ask("post_version", plan, body={})
    meter = begun.body["draft"]["charges"][1]["meter"]
    match = {"if-match": begun.etag}
    renamed = desk.ask("put_plan", plan, body={"name": "Golden", "wso2": wso2(meter)}, headers=match)
    assert renamed.code == "name_fixed"
    euros = {"name": "Gold plan", "wso2": wso2(meter, currency="eur")}
    assert desk.ask("put_plan", plan, body=euros, headers=match).code == "currency_fixed"


def test_a_draft_may_be_renamed_and_deleted(desk: Desk) -> None:
    plan = a_plan(desk)
    meter = desk.ask("get_plan", plan).body["draft"]["charges"][1]["meter"]
    body = {"name": "Golden", "wso2": wso2(meter)}
    assert desk.ask("put_plan", plan, body=body, headers={"if-match": '"1"'}).body["name"] == "Golden"
    tier = a_commercial_tier(desk, plan)
    assert desk.ask("delete_plan", plan).code == "plan_in_use"
    desk.ask("delete_tier", tier)
    assert desk.ask("delete_plan", plan).status == 204
    assert desk.ask("get_plan", plan).code == "no_such_plan"


def test_a_plan_that_was_published_is_not_deleted(desk: Desk) -> None:
    assert desk.ask("delete_plan", a_published_plan(desk)).code == "plan_published"


def test_a_publisher_that_is_not_enabled_publishes_nothing(desk: Desk) -> None:
    plan = a_plan(desk, org="initech")
    refused = desk.ask("post_publish", plan, org="initech")
    assert (refused.status, refused.code) == (409, "publisher_not_enabled")
    assert desk.ask("get_plan", plan, org="initech").body["latest_version"] == 0


def test_a_deauthorized_account_publishes_nothing_and_a_restricted_one_does(desk: Desk) -> None:
    publisher = desk.table.get(Publisher, keys.publisher("acme"))
    plan = a_plan(desk)
    desk.relink(publisher, deauthorized_at=NOW)
    assert desk.ask("post_publish", plan).code == "publisher_not_enabled"
    desk.relink(publisher, charges_enabled=False)
    assert desk.ask("post_publish", plan).status == 201


def test_automatic_tax_needs_to_know_whether_prices_include_it(desk: Desk) -> None:
    desk.settle("acme", BillingSettings(automatic_tax=True))
    assert desk.ask("post_publish", a_plan(desk)).code == "tax_behavior_required"
    a_published_plan(desk, name="Taxed", tax_behavior="exclusive")


def test_an_archived_plan_takes_nothing_new(desk: Desk) -> None:
    plan = a_published_plan(desk)
    tier = a_commercial_tier(desk, plan)
    api = an_api(desk, tier, name="Before")
    archived = desk.ask("post_archive", plan)
    assert (archived.status, archived.body["status"]) == (200, "archived")
    assert desk.ask("post_archive", plan).etag == archived.etag
    assert desk.ask("post_version", plan, body={}).code == "plan_archived"
    assert desk.ask("post_publish", plan).code == "plan_archived"
    assert desk.ask("put_plan", plan, headers={"if-match": archived.etag}).code == "plan_archived"
    assert desk.ask("post_tier", body={"name": "B", "commercial": True, "plan": plan}).code == "plan_archived"
    other = an_api(desk, name="After")
    applied = desk.ask("put_api_tiers", other, body={"tiers": [tier]}, headers={"if-match": '"1"'})
    assert applied.code == "plan_archived"
    assert desk.ask("get_catalog_product", "acme", api).code == "no_such_product"


# ---- previews


def test_a_preview_prices_a_draft_line_by_line_in_words(desk: Desk) -> None:
    plan = a_plan(desk)
    meter = desk.ask("get_plan", plan).body["draft"]["charges"][1]["meter"]
    usage = {meter: {"2026-02-03": 5000, "2026-02-04": 7500, "2026-02-28": 5001}}
    asked = desk.ask("post_preview", plan, body={"usage": usage})
    assert asked.status == 200, asked.text
    estimate = asked.body
    assert (estimate["period_start"], estimate["period_end"]) == ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
    fee, overage = estimate["lines"]
    assert fee["amount"] == 4900
    assert overage["amount"] == 400
    assert "above 5,000 a day on 2 days" in overage["description"]
    assert [(it["day"], it["charged"], it["packages"]) for it in overage["days"]] == [
        ("2026-02-04", 2500, 3),
        ("2026-02-28", 1, 1),
    ]
    assert (estimate["total"], estimate["in_words"]) == (5300, "$53.00")


def test_a_preview_prices_any_version(desk: Desk) -> None:
    plan = a_published_plan(desk)
    meter = desk.ask("get_version", plan, "1").body["terms"]["charges"][1]["meter"]
    desk.ask("post_version", plan, body={"wso2": wso2(meter, price=9900)})
    totals = [desk.ask("post_preview", plan, body=body).body["total"] for body in ({}, {"version": 1}, {"version": 2})]
    assert totals == [9900, 4900, 9900]
    assert desk.ask("post_preview", plan, body={"version": 3}).code == "no_such_version"


def test_a_previewed_month_may_begin_on_any_day(desk: Desk) -> None:
    plan = a_plan(desk)
    leap = desk.ask("post_preview", plan, body={"period_start": "2028-02-29"}).body
    assert (leap["period_start"], leap["period_end"]) == ("2028-02-29T00:00:00Z", "2028-03-29T00:00:00Z")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"usage": {"METER": {"2026-03-01": 1}}, "period_start": "2026-02-01"}, "day_outside_period"),
        ({"usage": {"METER": {"2026-02-30": 1}}}, "invalid_request"),
        ({"usage": {"METER": {"2026-02-03": -1}}}, "invalid_request"),
        ({"usage": {"METER": {"2026-02-03": 10**15}}}, "invalid_request"),
        ({"usage": {"met_none": {"2026-02-03": 1}}}, "unknown_meter"),
        ({"usage": {"OTHER": {"2026-02-03": 1}}}, "meter_not_priced"),
        ({"period_start": "9999-12-31"}, "invalid_request"),
    ],
)
def test_a_preview_that_makes_no_sense_is_refused(desk: Desk, changed: dict[str, Any], code: str) -> None:
    plan = a_plan(desk)
    meter = desk.ask("get_plan", plan).body["draft"]["charges"][1]["meter"]
    other = desk.make("post_meter", METER | {"name": "Other"})["id"]
    body = json.dumps(changed).replace("METER", meter).replace("OTHER", other)
    refused = desk.ask("post_preview", plan, body=body)
    assert (refused.status, refused.code) == (422, code)


# ---- the product at Stripe


def test_a_plan_is_one_product_on_its_publishers_account(desk: Desk) -> None:
    plan = a_published_plan(desk)
    product = desk.ask("get_version", plan, "1").body["stripe_product"]
    held = desk.stripe.account(desk.accounts["acme"]).products
    assert held[product]["name"] == "Gold plan"
    assert held[product]["metadata"] == {"publisher": "acme", "plan": plan}
    desk.ask("post_version", plan, body={})
    assert desk.ask("post_publish", plan).body["stripe_product"] == product
    assert len(held) == 1


def test_a_publish_that_crashed_after_stripe_finds_its_product_again(desk: Desk) -> None:
    plan = a_plan(desk)

    def crash(operation: str, request: Any) -> None:
        if operation == "TransactWriteItems" and "VERSION#0001" in str(request):
            raise ConnectionError("the function died here")

    desk.dynamodb.on_call = crash
    with pytest.raises(ConnectionError):
        desk.ask("post_publish", plan)
    desk.dynamodb.on_call = None
    held = desk.stripe.account(desk.accounts["acme"]).products
    assert len(held) == 1
    meter = desk.ask("get_plan", plan).body["draft"]["charges"][1]["meter"]
    renamed = {"name": "Golden", "wso2": wso2(meter)}
    desk.ask("put_plan", plan, body=renamed, headers={"if-match": '"1"'})
    published = desk.ask("post_publish", plan)
    assert published.status == 201
    assert [held[product]["name"] for product in held] == ["Golden"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("error_500", path="/v1/products", stored=True),
        Fault("time_out", path="/v1/products", after=True),
        Fault("rate_limited", path="/v1/products"),
        Fault("refused", "GET", "/v1/products/.*"),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_publish_that_stripe_did_not_answer_is_simply_asked_again(desk: Desk, fault: Fault) -> None:
    plan = a_plan(desk)
    desk.stripe.faults.append(replace(fault))
    failed = desk.ask("post_publish", plan)
    assert (failed.status, failed.code) == (503, "stripe_unavailable")
    assert desk.ask("get_plan", plan).body["latest_version"] == 0
    assert desk.ask("post_publish", plan).status == 201
    assert len(desk.stripe.account(desk.accounts["acme"]).products) == 1


def test_a_product_made_between_the_look_and_the_making_is_the_one(desk: Desk) -> None:
    products, account = wiring.stripe_products(), desk.accounts["acme"]
    made = [products._create(account, "acme", "plan_1", "P", None) for _ in range(2)]
    assert made[0] == made[1]


def test_a_tax_code_stripe_does_not_know_is_told_so(desk: Desk) -> None:
    def refusal(param: str, status: int) -> Exception:
        made: Any = stripe.InvalidRequestError
        return cast("Exception", made("No such thing", param, code="resource_missing", http_status=status))

    class Refusing:
        def create(self, *_: Any) -> None:
            raise refusal("tax_code", 400)

        def retrieve(self, *_: Any) -> None:
            raise refusal("id", 404)

    client: Any = SimpleNamespace(v1=SimpleNamespace(products=Refusing()))
    with pytest.raises(Invalid, match="unknown_tax_code"):
        StripeProducts(client).ensure("acct_1", "acme", "plan_1", "P", "txcd_1")


def test_an_archived_product_is_made_usable_again(desk: Desk) -> None:
    plan = a_published_plan(desk)
    product = desk.ask("get_version", plan, "1").body["stripe_product"]
    held = desk.stripe.account(desk.accounts["acme"]).products
    held[product]["active"] = False
    desk.ask("post_version", plan, body={})
    desk.ask("post_publish", plan)
    assert held[product]["active"] is True


def test_a_plan_has_an_end_of_versions(desk: Desk) -> None:
    plan = a_published_plan(desk)
    desk.change(desk.table.get(Plan, keys.plan("acme", plan)), latest=9999)
    assert desk.ask("post_version", plan, body={}).code == "too_many_versions"


def test_another_tax_code_is_another_product(desk: Desk) -> None:
    plan = a_published_plan(desk, tax_code="txcd_10103000")
    first = desk.ask("get_version", plan, "1").body
    again = {"wso2": wso2(first["terms"]["charges"][1]["meter"], tax_code="txcd_10103001")}
    desk.ask("post_version", plan, body=again)
    second = desk.ask("post_publish", plan).body
    held = desk.stripe.account(desk.accounts["acme"]).products
    assert held[first["stripe_product"]]["tax_code"] == "txcd_10103000"
    assert held[second["stripe_product"]]["tax_code"] == "txcd_10103001"


def test_another_account_gets_the_products_of_every_published_plan(desk: Desk) -> None:
    plan = a_published_plan(desk, tax_code="txcd_10103000")
    first = desk.ask("get_version", plan, "1").body
    again = {"wso2": wso2(first["terms"]["charges"][1]["meter"])}
    desk.ask("post_version", plan, body=again)
    second = desk.ask("post_publish", plan).body
    a_plan(desk, name="Never published")
    other = desk.stripe.create_account(name="acme two")
    other.connected = True
    for _ in range(2):
        assert products_on("acme", other.id, wiring.plans()) == 2
    assert set(other.products) == {first["stripe_product"], second["stripe_product"]}


def test_two_publishes_at_once_make_one_version(desk: Desk) -> None:
    plan, between = a_plan(desk), [True]

    def interleave(operation: str, request: Any) -> None:
        if operation == "TransactWriteItems" and "VERSION#" in str(request) and between:
            between.clear()
            assert desk.ask("post_publish", plan).status == 201

    desk.dynamodb.on_call = interleave
    lost = desk.ask("post_publish", plan)
    assert (lost.status, lost.code) == (412, "changed_meanwhile")
    assert len(desk.ask("list_versions", plan).body["items"]) == 1


def test_a_published_version_is_never_replaced_even_by_a_head_that_forgot_it(desk: Desk) -> None:
    plan = a_plan(desk)
    head = wiring.core().raw(keys.plan("acme", plan))
    first = desk.ask("post_publish", plan).body
    now = wiring.core().raw(keys.plan("acme", plan))
    desk.dynamodb.put_item(TableName=wiring.core().name, Item=head | {"rev": now["rev"]})
    again = desk.ask("post_publish", plan)
    assert (again.status, again.code) == (412, "changed_meanwhile")
    assert [each["published_at"] for each in desk.ask("list_versions", plan).body["items"]] == [first["published_at"]]


def test_a_meter_deleted_while_a_plan_is_published_stops_the_publish(desk: Desk) -> None:
    plan, between = a_plan(desk), [True]
    meter = desk.ask("get_plan", plan).body["draft"]["charges"][1]["meter"]

    def interleave(operation: str, request: Any) -> None:
        if operation == "TransactWriteItems" and "VERSION#" in str(request) and between:
            between.clear()
            assert desk.ask("delete_meter", meter).status == 204

    desk.dynamodb.on_call = interleave
    assert desk.ask("post_publish", plan).code == "changed_meanwhile"
    assert desk.ask("post_publish", plan).code == "unknown_meter"


# ---- APIs and bundles


def test_the_label_follows_from_the_tiers(desk: Desk) -> None:
    paid, free = a_commercial_tier(desk, a_published_plan(desk)), seeded(desk, "Gold")
    api = an_api(desk)
    labels = []
    for rev, tiers in enumerate(([], [free], [free, paid], [paid])):
        applied = desk.ask("put_api_tiers", api, body={"tiers": tiers}, headers={"if-match": f'"{rev + 1}"'})
        labels.append(applied.body["label"])
    assert labels == [None, "FREE", "FREEMIUM", "PAID"]
    assert desk.ask("get_tier", free).body["in_use"] == 0
    assert desk.ask("get_tier", paid).body["in_use"] == 1


def test_a_tier_whose_plan_is_a_draft_is_not_applied(desk: Desk) -> None:
    tier = a_commercial_tier(desk, a_plan(desk))
    api = an_api(desk)
    refused = desk.ask("put_api_tiers", api, body={"tiers": [tier]}, headers={"if-match": '"1"'})
    assert (refused.status, refused.code) == (409, "plan_not_published")


def test_tiers_applied_are_known_and_named_once(desk: Desk) -> None:
    api, gold = an_api(desk), seeded(desk, "Gold")
    match = {"if-match": '"1"'}
    assert desk.ask("put_api_tiers", api, body={"tiers": [gold, gold]}, headers=match).code == "tier_twice"
    assert desk.ask("put_api_tiers", api, body={"tiers": ["tier_x"]}, headers=match).code == "no_such_tier"
    desk.ask("delete_tier", gold)
    assert desk.ask("put_api_tiers", api, body={"tiers": [gold]}, headers=match).code == "no_such_tier"


def test_a_tier_deleted_while_it_is_applied_is_not_applied(desk: Desk) -> None:
    api, gold, between = an_api(desk), seeded(desk, "Gold"), [True]

    def interleave(operation: str, request: Any) -> None:
        if operation == "TransactWriteItems" and f"API#{api}" in str(request) and between:
            between.clear()
            assert desk.ask("delete_tier", gold).status == 204

    desk.dynamodb.on_call = interleave
    applied = desk.ask("put_api_tiers", api, body={"tiers": [gold]}, headers={"if-match": '"1"'})
    assert applied.code == "changed_meanwhile"


def test_a_bundle_holds_apis_only_and_at_least_two(desk: Desk) -> None:
    one, two = an_api(desk, name="One"), an_api(desk, name="Two")
    bundle = desk.make("post_bundle", {"name": "Both", "apis": [one, two]})
    assert bundle["kind"] == "bundle"
    nested = desk.ask("post_bundle", body={"name": "Nested", "apis": [one, bundle["id"]]})
    assert (nested.status, nested.code) == (422, "bundle_in_bundle")
    assert desk.ask("post_bundle", body={"name": "Small", "apis": [one]}).code == "bundle_too_small"
    assert desk.ask("post_bundle", body={"name": "Twice", "apis": [one, one]}).code == "api_twice"
    unknown = desk.ask("post_bundle", body={"name": "Odd", "apis": [one, "api_x"]})
    assert (unknown.status, unknown.code) == (404, "no_such_api")


def test_an_api_in_a_bundle_is_not_deleted(desk: Desk) -> None:
    one, two, three = (an_api(desk, name=name) for name in ("One", "Two", "Three"))
    bundle = desk.make("post_bundle", {"name": "Both", "apis": [one, two]})["id"]
    assert desk.ask("delete_api", one).code == "api_in_bundle"
    body = {"name": "Both", "apis": [two, three]}
    assert desk.ask("put_bundle", bundle, body=body, headers={"if-match": '"1"'}).status == 200
    assert desk.ask("delete_api", one).status == 204
    assert desk.ask("delete_api", three).code == "api_in_bundle"
    assert desk.ask("delete_bundle", bundle).status == 204
    assert desk.ask("delete_api", three).status == 204
    assert desk.ask("get_api", three).code == "no_such_api"


def test_what_is_subscribed_is_not_deleted_and_a_bundle_keeps_its_apis(desk: Desk) -> None:
    one, two, three = (an_api(desk, name=name) for name in ("One", "Two", "Three"))
    bundle = desk.make("post_bundle", {"name": "Both", "apis": [one, two]})["id"]
    desk.subscribe("sub_1", "acme", bundle)
    desk.subscribe("sub_2", "acme", three)
    assert desk.ask("delete_api", three).code == "product_in_use"
    assert desk.ask("delete_bundle", bundle).code == "product_in_use"
    body = {"name": "Both", "apis": [two, three]}
    assert desk.ask("put_bundle", bundle, body=body, headers={"if-match": '"1"'}).code == "bundle_in_use"
    same = desk.ask("put_bundle", bundle, body={"name": "Renamed", "apis": [two, one]}, headers={"if-match": '"1"'})
    assert same.body["name"] == "Renamed"


def test_a_tier_goes_with_its_api(desk: Desk) -> None:
    gold = seeded(desk, "Gold")
    api = an_api(desk, gold)
    assert desk.ask("get_tier", gold).body["in_use"] == 1
    assert desk.ask("delete_api", api).status == 204
    assert desk.ask("get_tier", gold).body["in_use"] == 0


def test_an_api_is_no_bundle_and_a_bundle_no_api(desk: Desk) -> None:
    one, two = an_api(desk, name="One"), an_api(desk, name="Two")
    bundle = desk.make("post_bundle", {"name": "Both", "apis": [one, two]})["id"]
    assert desk.ask("get_api", bundle).code == "no_such_api"
    assert desk.ask("get_bundle", one).code == "no_such_bundle"
    assert sorted(it["id"] for it in desk.ask("list_apis").body["items"]) == sorted([one, two])
    assert [it["id"] for it in desk.ask("list_bundles").body["items"]] == [bundle]


# ---- the public catalog


def test_the_catalog_shows_what_can_be_subscribed_now(desk: Desk) -> None:
    an_api(desk, name="No tiers")
    free = an_api(desk, seeded(desk, "Gold"), name="Free")
    assert [it["id"] for it in desk.ask("list_catalog", "acme").body["items"]] == [free]
    shown = desk.ask("get_catalog_product", "acme", free).body
    assert shown["label"] == "FREE"
    assert shown["tiers"][0]["price"] == "Free"
    assert shown["tiers"][0]["throttle"]["per_minute"] == 5000
    assert desk.ask("get_catalog_product", "globex", free).code == "no_such_product"


def test_the_catalog_of_a_publisher_that_sells_nothing_is_not_there(desk: Desk) -> None:
    assert desk.ask("list_catalog", "initech").code == "no_such_publisher"
    publisher = desk.table.get(Publisher, keys.publisher("globex"))
    api = an_api(desk, seeded(desk, "Gold", "globex"), org="globex")
    assert desk.ask("get_catalog_product", "globex", api).status == 200
    desk.change(publisher, status="disconnected")
    assert desk.ask("list_catalog", "globex").code == "no_such_publisher"
    assert desk.ask("get_catalog_product", "globex", api).code == "no_such_publisher"


def test_lists_go_on_where_the_page_before_ended(desk: Desk) -> None:
    made = [an_api(desk, name=f"API {number}") for number in range(5)]
    found, cursor = [], ""
    while True:
        page = desk.ask("list_apis", query=f"limit=2{cursor}").body
        assert len(page["items"]) <= 2
        found += [it["id"] for it in page["items"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert sorted(found) == sorted(made)
    assert desk.ask("list_apis", query="cursor=!!!").code == "bad_cursor"
    assert desk.ask("list_apis", query="limit=101").code == "invalid_request"


def test_a_cursor_reaches_nobody_elses_list(desk: Desk) -> None:
    for number in range(3):
        an_api(desk, name=f"API {number}")
    theirs = an_api(desk, org="globex")
    cursor = desk.ask("list_apis", query="limit=1").body["cursor"]
    there = desk.ask("list_apis", query=f"cursor={cursor}", org="globex").body["items"]
    assert {it["id"] for it in there} <= {theirs}


# ---- keys of gateways


def test_a_gateway_key_is_shown_once(desk: Desk) -> None:
    made = desk.make("post_gateway_key", {"name": "edge-1"}, headers={"idempotency-key": "k1"})
    assert made["key"].startswith("gk_")
    assert made["already_shown"] is False
    again = desk.make("post_gateway_key", {"name": "edge-1"}, headers={"idempotency-key": "k1"})
    assert (again["id"], again["key"], again["already_shown"]) == (made["id"], None, True)
    reused = desk.ask("post_gateway_key", body={"name": "edge-2"}, headers={"idempotency-key": "k1"})
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    listed = desk.ask("list_gateway_keys").body["items"]
    assert [it["id"] for it in listed] == [made["id"]]
    assert "key" not in listed[0]
    stored = str(desk.everything())
    assert made["key"] not in stored
    assert made["key"][3:] not in stored


def test_a_revoked_gateway_key_stays_listed(desk: Desk) -> None:
    made = desk.make("post_gateway_key", {"name": "edge-1"})
    assert desk.ask("delete_gateway_key", made["id"]).status == 204
    assert desk.ask("delete_gateway_key", made["id"]).status == 204
    assert desk.ask("list_gateway_keys").body["items"][0]["revoked_at"] == "2026-03-12T19:04:00Z"
    assert [entry.action for entry in desk.audited("acme")].count("gateway_key.revoked") == 1


def test_two_people_with_one_idempotency_key_make_two_gateway_keys(desk: Desk) -> None:
    same = {"idempotency-key": "k1"}
    made = {
        desk.make("post_gateway_key", {"name": "edge"}, headers=same, org=org, user=user)["id"]
        for org, user in (("acme", "ann"), ("acme", "bob"), ("globex", "ann"))
    }
    assert len(made) == 3


# ---- for all of it


def test_a_post_repeated_under_its_key_is_carried_out_once(desk: Desk) -> None:
    same = {"idempotency-key": "once"}
    first = desk.make("post_tier", {"name": "Fast"}, headers=same)
    assert desk.make("post_tier", {"name": "Fast"}, headers=same) == first
    assert desk.ask("post_tier", body={"name": "Faster"}, headers=same).code == "idempotency_key_reused"
    assert desk.make("post_tier", {"name": "Fast"}, headers=same, org="globex")["id"] != first["id"]


def test_what_a_person_did_is_audited_with_the_change(desk: Desk) -> None:
    plan = a_published_plan(desk)
    tier = a_commercial_tier(desk, plan)
    an_api(desk, tier)
    found = desk.audited("acme")
    told = {entry.action: entry for entry in found}
    assert sorted(told) == [
        "api.created",
        "api.tiers_applied",
        "meter.created",
        "plan.created",
        "plan.published",
        "tier.created",
    ]
    assert {entry.actor for entry in found} == {"ann"}
    assert told["api.tiers_applied"].after == {"tiers": tier}
    refused = desk.ask("delete_tier", tier)
    assert refused.status == 409
    assert len(desk.audited("acme")) == 6


ROUTES = sorted(path.stem.removeprefix("plans_") for path in EVENTS.glob("plans_*.json"))
PUBLIC = {"list_catalog", "get_catalog_product", "get_openapi"}
READS = {name for name in ROUTES if name.startswith(("get_", "list_"))} - PUBLIC


def test_every_route_has_an_event_and_every_event_a_route() -> None:
    sent = set()
    for name in ROUTES:
        event = json.loads((EVENTS / f"plans_{name}.json").read_text())
        sent.add((event["requestContext"]["http"]["method"], event["rawPath"]))
    served = {(route.method, route.path) for route in (*app._static_routes, *app._dynamic_routes)}
    matched = {
        (method, path)
        for method, path in served
        for verb, raw in sent
        if verb == method and re.fullmatch(re.sub(r"<\w+>", "[^/]+", path), raw)
    }
    assert matched == served
    assert len(served) == len(ROUTES)


@pytest.mark.parametrize("route", sorted(set(ROUTES) - PUBLIC))
def test_every_route_asks_for_its_role(desk: Desk, route: str) -> None:
    for roles in ("subscriber", "gateway", ""):
        refused = desk.ask(route, roles=roles, headers={"if-match": '"1"'})
        assert (refused.status, refused.code) == (403, "missing_role")
    viewed = desk.ask(route, roles="publisher_viewer", headers={"if-match": '"1"'})
    assert (viewed.status == 403) == (route not in READS and route != "post_preview")


def test_every_route_with_a_foreign_id_answers_as_with_an_unknown_one(desk: Desk) -> None:
    plan = a_published_plan(desk)
    desk.ask("post_version", plan, body={})
    desk.ask("post_publish", plan)
    meter = desk.ask("get_version", plan, "1").body["terms"]["charges"][1]["meter"]
    tier = a_commercial_tier(desk, plan)
    one, two = an_api(desk, tier, name="One"), an_api(desk, name="Two")
    bundle = desk.make("post_bundle", {"name": "Both", "apis": [one, two]})["id"]
    move = desk.ask("post_move", plan, body={"from_version": 1, "to_version": 2, "when": "now"}).body["id"]
    key = desk.make("post_gateway_key", {"name": "edge"})["id"]
    ids = {"tiers": tier, "meters": meter, "plans": plan, "apis": one, "bundles": bundle, "gateway-keys": key}
    tried = 0
    before = desk.everything("acme")
    for route in sorted(set(ROUTES) - PUBLIC):
        event = json.loads((EVENTS / f"plans_{route}.json").read_text())
        parts = event["rawPath"].split("/")
        if len(parts) < 3:
            continue
        own = [ids[parts[1]], *([move] if route == "get_move" else [])]
        body = json.loads(event["body"]) if "body" in event else None
        if route == "put_tier":
            body = {"name": "Mine"}
        elif route == "put_plan":
            theirs = desk.make("post_meter", METER | {"name": f"For {route}"}, org="globex")["id"]
            body = {"name": "Mine", "wso2": wso2(theirs)}
        elif route in ("post_version", "post_preview"):
            body = {}
        answers = [
            desk.ask(route, *asked, body=body, org="globex", headers={"if-match": '"1"'})
            for asked in (own, [f"{ids[parts[1]][:-1]}x", *own[1:]])
        ]
        assert [it.status for it in answers] == [404, 404], (route, answers)
        assert answers[0].text == answers[1].text
        tried += 1
    assert tried == 28
    assert desk.everything("acme") == before


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("post_tier", {"name": "T", "commercial": True, "plan": "PLAN"}),
        ("post_bundle", {"name": "B", "apis": ["API", "OWN"]}),
        ("put_api_tiers", {"tiers": ["TIER"]}),
    ],
)
def test_a_foreign_id_in_a_body_answers_as_an_unknown_one(desk: Desk, route: str, body: dict[str, Any]) -> None:
    plan, tier, api = a_published_plan(desk), seeded(desk, "Gold"), an_api(desk)
    own = an_api(desk, org="globex")
    known = {"PLAN": plan, "TIER": tier, "API": api, "OWN": own}
    answers = []
    for ids in (known, known | dict.fromkeys(("PLAN", "TIER", "API"), "none_1")):
        text = json.dumps(body)
        for name, value in ids.items():
            text = text.replace(f'"{name}"', f'"{value}"')
        path = [own] if route.startswith("put") else []
        answers.append(desk.ask(route, *path, body=text, org="globex", headers={"if-match": '"1"'}))
    assert [it.status for it in answers] == [404, 404]
    assert answers[0].text == answers[1].text


def test_a_body_that_is_no_json_is_told_so(desk: Desk) -> None:
    refused = desk.ask("post_tier", body="{")
    assert (refused.status, refused.code) == (400, "malformed_json")
