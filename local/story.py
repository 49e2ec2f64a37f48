"""What the people of the demo do, each through HTTP alone: a publisher, subscribers, and both on Stripe's pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.http_client import Answer, Api, HttpClient, Refused

CARD = "4242424242424242"
SEE_OTHER = (302, 303)


class StoryError(Exception):
    """The story did not go as it should; the text says where."""


@dataclass(slots=True)
class World:
    """Where everything answers."""

    api: str
    stripe: str
    http: HttpClient = field(default_factory=HttpClient)

    def as_user(self, user: str, organization: str, roles: str) -> Api:
        """The API for a user who signs in now."""
        local = Api(self.http, self.api)
        asked = {"user": user, "organization": organization, "roles": roles, "plan": "business"}
        return Api(self.http, self.api, local.call("POST", "/_local/tokens", asked)["access_token"])

    def as_gateway(self, key: str) -> Api:
        """The API for a gateway with its key."""
        return Api(self.http, self.api, key)

    def run_until(self, instant: datetime) -> None:
        """Move the system's clock; whatever is due on the way is done."""
        Api(self.http, self.api).call("POST", "/_local/clock", {"to": instant.isoformat()})

    def settle(self) -> None:
        """Let webhooks and queues of this very instant arrive."""
        Api(self.http, self.api).call("POST", "/_local/clock", {"by": 0})

    def form(self, url: str, fields: Mapping[str, str]) -> Answer:
        """Send a form of one of Stripe's pages."""
        return self.http.form(url, fields)


def connect_stripe(world: World, publisher: Api, name: str) -> Any:
    """From "Connect with Stripe" to "Monetization is enabled"; answers the confirmation."""
    url = publisher.call("POST", "/monetization/connect", {"return_to": "/monetization"})["authorize_url"]
    page = world.http.send("GET", url)
    if page.status != 200:
        raise Refused("Stripe's page", page.status, page.body)
    chosen = {"account": "new", "name": name, "country": "US", "currency": "usd", "decision": "authorize"}
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}  # the page's hidden fields
    back = world.form(url, asked | chosen)
    if back.status not in SEE_OTHER:
        raise Refused("Stripe's authorization", back.status, back.body)
    portal = world.http.send("GET", back.headers["location"])
    if portal.status not in SEE_OTHER:
        raise Refused("the callback", portal.status, portal.body)
    fragment = parse_qs(urlsplit(portal.headers["location"]).fragment)
    if fragment["monetization"] != ["pending"]:
        raise StoryError(f"Stripe's account did not come back: {fragment['monetization'][0]}")
    return publisher.call("POST", "/monetization/enable", {"completion": fragment["completion"][0]})


def pay_with_card(world: World, checkout_url: str, card: str = CARD) -> None:
    """Leave a card on Stripe's Checkout page."""
    page = world.http.send("GET", checkout_url)
    if page.status != 200:
        raise Refused("Checkout's page", page.status, page.body)
    done = world.form(checkout_url, {"card": card, "exp_month": "12", "exp_year": "2040", "authenticate": "yes"})
    if done.status not in SEE_OTHER:
        raise Refused("Checkout", done.status, done.body)


@dataclass(frozen=True, slots=True)
class Offer:
    """What the publisher sells: ids of the API, its tiers, its meters, and a gateway key."""

    publisher: str
    api: str
    free_tier: str
    gold_tier: str
    meters: Mapping[str, str]
    gateway_key: str


def publish_offer(
    publisher: Api,
    organization: str,
    api_name: str,
    plan: Mapping[str, Any],
    meters: Mapping[str, Mapping[str, Any]],
) -> Offer:
    """Meters, a published plan, a commercial and a free tier, an API with both, and a key for the gateway.

    `plan` is the body of `POST /plans`; `{name}` in any of its texts stands for the id of that meter.
    """
    ids = {name: publisher.call("POST", "/meters", terms)["id"] for name, terms in meters.items()}
    made = publisher.call("POST", "/plans", _filled(plan, ids))
    publisher.call("POST", f"/plans/{made['id']}/publish")
    tiers = {tier["name"]: tier for tier in publisher.all("/tiers")}
    gold, free = tiers["Gold"], tiers["Bronze"]
    read = publisher.answer("GET", f"/tiers/{gold['id']}")
    wanted = {key: gold[key] for key in ("name", "description", "throttle")}
    wanted |= {"commercial": True, "plan": made["id"]}
    publisher.call("PUT", f"/tiers/{gold['id']}", wanted, If_Match=read.headers["etag"])
    api = publisher.answer("POST", "/apis", {"name": api_name, "context": f"/{api_name.lower()}"})
    labelled = publisher.call(
        "PUT",
        f"/apis/{api.json()['id']}/tiers",
        {"tiers": [gold["id"], free["id"]]},
        If_Match=api.headers["etag"],
    )
    if labelled["label"] != "FREEMIUM":
        raise StoryError(f"a free and a commercial tier make an API FREEMIUM, not {labelled['label']}")
    key = publisher.call("POST", "/gateway-keys", {"name": "edge"}, Idempotency_Key="demo-gateway")["key"]
    return Offer(organization, api.json()["id"], free["id"], gold["id"], ids, key)


def _filled(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format_map(ids) if value.startswith("{") else value
    if isinstance(value, Mapping):
        return {name: _filled(each, ids) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, ids) for each in value]
    return value


def subscribe(world: World, subscriber: Api, offer: Offer, name: str, tier: str, email: str) -> Any:
    """An application, subscribed at a tier; a card is left where one is asked for. Answers the live subscription."""
    application = subscriber.call("POST", "/applications", {"publisher": offer.publisher, "name": name})
    order = {
        "publisher": offer.publisher,
        "application": application["id"],
        "product": offer.api,
        "tier": tier,
        "contact": {"name": name, "email": email, "country": "US"},
    }
    subscription = subscriber.call("POST", "/subscriptions", order)
    if subscription["checkout"] is not None:
        pay_with_card(world, subscription["checkout"]["url"])
        world.settle()
        subscription = subscriber.call("GET", f"/subscriptions/{subscription['id']}")
    if subscription["status"] != "active":
        raise StoryError(f"subscription {subscription['id']} is {subscription['status']}, not active")
    return subscription
