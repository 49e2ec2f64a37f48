"""A market with two sides and a stranger, told once through HTTP: everything whose id somebody else might send.

`acme` sells, `dev` (another organization) buys; `rival` does both at its own Stripe account and owns nothing of
theirs. The clock stands after acme's first billing run, so that there are bills and invoices to reach for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from local.clock import Clock
from local.http_client import Api, Refused
from local.in_process import world_of
from local.story import Offer, World, connect_stripe, publish_offer, subscribe
from local.system import System

START = datetime(2026, 1, 31, 20, 30, tzinfo=UTC)
BILLED = datetime(2026, 2, 2, 1, 30, tzinfo=UTC)
METER = {
    "name": "Calls",
    "event_type": "api.call",
    "aggregation": "count",
    "unit": "calls",
    "filters": [{"property": "status", "ranges": [[200, 299]]}],
}
PLAN: dict[str, Any] = {
    "name": "Gold plan",
    "wso2": {
        "price": 1900,
        "max_daily_usage": 5,
        "overage_charge": "100",
        "overage_unit": 10,
        "meter": "{requests}",
        "currency": "usd",
    },
}
BATCH = "application/cloudevents-batch+json"


@dataclass(frozen=True, slots=True)
class Side:
    """One publisher with one subscriber, and the ids of all they have, by kind."""

    publisher: str
    subscriber: str
    offer: Offer
    ids: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Scene:
    """The system and who is in it."""

    system: System
    world: World
    acme: Side
    rival: Side

    def as_user(self, organization: str, roles: str, user: str = "eve") -> str:
        """A fresh token."""
        return self.system.token(user, organization, roles=roles)


def usage_event(subscription: str, number: int, at: datetime, **data: Any) -> dict[str, Any]:
    """One call, as a gateway reports it."""
    return {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": "urn:gateway:edge",
        "type": "api.call",
        "subject": subscription,
        "time": at.isoformat().replace("+00:00", "Z"),
        "data": {"status": 200, **data},
    }


def report(api: Api, events: list[dict[str, Any]], path: str = "/usage/events") -> Any:
    """A batch of events."""
    return api.call("POST", path, events, Content_Type=BATCH)


def open_side(system: System, world: World, publisher: str, subscriber: str) -> Side:
    """Connect, sell, subscribe, call: everything before the first bill."""
    now = system.clock.now()
    admin = world.as_user("ann", publisher, "publisher_admin")
    connect_stripe(world, admin, publisher.title())
    offer = publish_offer(admin, publisher, "Weather", PLAN, {"requests": METER})
    tier = admin.call("GET", f"/tiers/{offer.gold_tier}")
    gateway_key = admin.call("GET", "/gateway-keys")["items"][0]
    second = admin.call("POST", "/apis", {"name": "Tides", "context": "/tides"})
    bundle = admin.call("POST", "/bundles", {"name": "Sky", "apis": [offer.api, second["id"]]})
    buyer = world.as_user("dan", subscriber, "subscriber")
    subscription = subscribe(world, buyer, offer, f"App of {subscriber}", offer.gold_tier, f"dan@{subscriber}.example")
    key = buyer.call("POST", f"/subscriptions/{subscription['id']}/keys", {"name": "main"}, Idempotency_Key="k1")
    edge = world.as_gateway(offer.gateway_key)
    report(edge, [usage_event(subscription["id"], number, now) for number in range(12)])
    report(edge, [usage_event(subscription["id"], 900, now) | {"type": "api.call", "time": "2031-01-01T00:00:00Z"}])
    rejected = admin.call("GET", "/usage/rejected")["items"]
    ids = {
        "publisher": publisher,
        "subscriber": subscriber,
        "tier": offer.gold_tier,
        "free tier": offer.free_tier,
        "meter": offer.meters["requests"],
        "plan": tier["plan"],
        "api": offer.api,
        "unused api": second["id"],
        "bundle": bundle["id"],
        "gateway key": gateway_key["id"],
        "application": subscription["application"],
        "subscription": subscription["id"],
        "key": key["id"],
        "lot": rejected[0]["lot"] if rejected else "",
    }
    return Side(publisher, subscriber, offer, ids, {"gateway key": offer.gateway_key, "api key": key["key"]})


def after_billing(world: World, side: Side) -> Side:
    """The same with what exists only after the first billing run: a move between versions, bills and invoices."""
    admin = world.as_user("ann", side.publisher, "publisher_admin")
    plan = side.ids["plan"]
    terms = {**PLAN["wso2"], "price": 2100, "meter": side.ids["meter"]}
    admin.call("POST", f"/plans/{plan}/versions", {"wso2": terms})
    admin.call("POST", f"/plans/{plan}/publish")
    move = admin.call("POST", f"/plans/{plan}/moves", {"from_version": 1, "to_version": 2, "when": "period_end"})
    subscription = f"/subscriptions/{side.ids['subscription']}"
    discount = admin.call("POST", f"{subscription}/discounts", {"percent": "10"}, Idempotency_Key="d1")
    invoices = admin.call("GET", "/invoices?side=publisher&month=2026-02")["items"]
    run = admin.call("POST", "/billing-runs", {"dry_run": True})
    found = {"move": move["id"], "invoice": invoices[0]["id"], "bill": invoices[0]["bill"], "run": run["id"]}
    found["discount"] = discount["id"]
    return Side(side.publisher, side.subscriber, side.offer, {**side.ids, **found}, side.secrets)


def stage(log_level: str = "CRITICAL") -> Scene:
    """Everything, on a new system. The caller closes the system."""
    system = System(clock=Clock(START), log_level=log_level)
    try:
        return _told(system)
    except BaseException:
        system.close()
        raise


def _told(system: System) -> Scene:
    world = world_of(system)
    acme = open_side(system, world, "acme", "dev")
    rival = open_side(system, world, "rival", "rival")
    world.run_until(BILLED)
    scene = Scene(system, world, after_billing(world, acme), after_billing(world, rival))
    world.settle()
    failed = [each.trace for each in system.functions.failures]
    assert not failed, failed[0]
    return scene


__all__ = ["Refused", "Scene", "Side", "stage"]
