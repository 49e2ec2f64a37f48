"""The catalog as its callers see it: every route through its event."""

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.integration.catalog_fixtures import EVENTS, NOW, Answer, Desk, desk

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


def test_wso2s_four_fields_become_a_plan_an_api_is_sold_at(desk: Desk) -> None:
    plan = a_published_plan(desk)
    tier = desk.make("post_tier", {"name": "Platinum", "commercial": True, "plan": plan})
    api = desk.ask("post_api")
    assert api.status == 201
    assert api.headers["Location"] == f"/apis/{api.body['id']}"
    applied = desk.ask("put_api_tiers", api.body["id"], body={"tiers": [tier["id"]]}, headers={"if-match": api.etag})
    assert applied.status == 200, applied.text
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
