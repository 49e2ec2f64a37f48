"""The subscribe handler with its tables and Stripe's emulator, asked through the events in `events/`."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from functions.subscribe.app import handler
from local import template
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables
from local.stores import MemorySSM
from local.stripe_emulator import EmulatorHTTPClient, StripeEmulator
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.subscriptions import SubscriptionTable
from monetize.adapters.dynamo.table import Table, put, read
from monetize.domain.catalog import Product, Tier
from monetize.domain.meters import Meter
from monetize.domain.plans import Plan, PlanTerms, PlanVersion, wso2_terms
from monetize.domain.publishers import Publisher, StripeLink
from monetize.domain.subscriptions import Subscription
from tests.integration.documented import documented

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "events"
NOW = datetime(2026, 3, 12, 19, 4, tzinfo=UTC)
TEMPLATE = template.load(ROOT / "template.yaml")
CONTEXT = SimpleNamespace(
    function_name="subscribe",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:subscribe",
    memory_limit_in_mb=512,
    aws_request_id="6f0b9c1e",
    get_remaining_time_in_millis=lambda: 29_000,
)
CONTACT = {"name": "Dev Eloper", "email": "dev@example.com", "country": "US", "postal_code": "94107"}
GOLD = wso2_terms(
    price=4900, max_daily_usage=5000, overage_charge=Decimal(100), overage_unit=1000, meter="met_calls", currency="usd"
)
PLATINUM = replace(GOLD, charges=(replace(GOLD.charges[0], amount=9900), GOLD.charges[1]))


@dataclass(frozen=True)
class Answer:
    """What the handler answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """A refusal's code, held to the form every refusal has."""
        problem = self.body
        assert self.headers["Content-Type"] == "application/problem+json", self.text
        assert problem["status"] == self.status >= 400
        return str(problem["code"])

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


@dataclass
class Shop:
    """The deployed function, asked as API Gateway would ask it: `acme` sells, `dev` subscribes."""

    dynamodb: MemoryDynamoDB
    table: Table
    stripe: StripeEmulator
    clock: Clock
    account: str

    def ask(
        self,
        event: str,
        *ids: str,
        body: Any = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        org: str = "dev",
        user: str = "dana",
        roles: str = "subscriber publisher_admin",
    ) -> Answer:
        """Send `events/subscribe_{event}.json`, with these ids in the place of its own, as somebody."""
        sent: dict[str, Any] = deepcopy(json.loads((EVENTS / f"subscribe_{event}.json").read_text()))
        for name in ("idempotency-key", "if-match"):
            sent["headers"].pop(name, None)
        path = _with_ids(sent["rawPath"], ids)
        sent["rawPath"] = sent["requestContext"]["http"]["path"] = path
        if query is not None:
            sent["rawQueryString"] = urlencode(query)
        sent["queryStringParameters"] = dict(parse_qsl(sent["rawQueryString"]))
        if body is not None:
            sent["body"] = body if isinstance(body, str) else json.dumps(body)
        sent["headers"] |= headers or {}
        claims = sent["requestContext"]["authorizer"]["jwt"]["claims"]
        claims |= {"sub": user, "organization": org, "roles": roles}
        answer = documented(sent, handler(sent, CONTEXT))
        return Answer(answer["statusCode"], answer.get("headers", {}), answer.get("body") or "")

    def application(self, name: str = "App", org: str = "dev") -> str:
        """A new application's id."""
        body = {"publisher": "acme", "name": name}
        return str(self.ask("post_application", body=body, org=org).body["id"])

    def order(self, application: str, tier: str = "tier_gold", **how: Any) -> Answer:
        """Subscribe an application to the weather API."""
        body = {"publisher": "acme", "application": application, "product": "api_weather", "tier": tier}
        if tier != "tier_free":
            body["contact"] = CONTACT  # type: ignore[assignment] # a body is any JSON
        return self.ask("post_subscription", body=body | how.pop("more", {}), **how)

    def card(self, answer: Answer, number: str = "4242424242424242") -> None:
        """Leave a card on the hosted page, and apply what Stripe would tell."""
        session = answer.body["checkout"]["id"]
        self.stripe.complete_checkout(self.account, session, number)
        self.completed(session)

    def completed(self, session: str) -> None:
        """What the worker does with checkout.session.completed."""
        from monetize.services.subscribing import activate_checkout
        from monetize.services.subscription_access import Card

        paid = wiring.customers().completed_setup(self.account, session)
        card = Card(paid.payment_method, paid.brand, paid.last4, paid.expires)
        now = self.clock.now()
        activate_checkout(paid.subscription, session=session, card=card, now=now, ports=wiring.subscribing())

    def paying(self, tier: str = "tier_gold", name: str = "App") -> str:
        """An active commercial subscription's id."""
        answer = self.order(self.application(name), tier)
        assert answer.status == 201, answer.text
        if answer.body["checkout"]:
            self.card(answer)
        return str(answer.body["id"])

    def stored(self, subscription: str) -> Subscription:
        """A subscription as it stands in the table."""
        found = SubscriptionTable(self.table).subscription(subscription)
        assert found is not None
        return found

    def store(self, *entities: Any) -> None:
        """Put things of other parts of the system."""
        self.table.write(*(put(each) for each in entities))

    def change(self, kind: type, key: keys.Key, **changes: Any) -> None:
        """Change a thing of another part of the system."""
        item = self.table.raw(key)
        assert item is not None
        self.table.write(put(replace(read(kind, item), **changes)))

    def plan(self, name: str, terms: PlanTerms) -> None:
        """A tier `tier_{name}` of the weather API, with a published plan."""
        self.store(
            Plan(
                id=f"plan_{name}",
                publisher="acme",
                name=name,
                status="published",
                latest=1,
                created_at=NOW,
                updated_at=NOW,
            ),
            PlanVersion(plan=f"plan_{name}", publisher="acme", number=1, name=name, terms=terms, published_at=NOW),
            Tier(id=f"tier_{name}", publisher="acme", name=name, commercial=True, plan=f"plan_{name}", created_at=NOW),
        )
        api = self.table.get(Product, keys.product("acme", "api_weather"))
        assert api is not None
        self.store(replace(api, tiers=(*api.tiers, f"tier_{name}")))


def _with_ids(path: str, ids: tuple[str, ...]) -> str:
    """A path whose ids, in order, are these."""
    parts, left = path.split("/"), list(ids)
    for at, part in enumerate(parts):
        if part.split("_")[0] in ("app", "sub", "key", "dis") and left:
            parts[at] = left.pop(0)
    assert not left, f"{path} has no place for {left}"
    return "/".join(parts)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """acme sells the weather API: free, gold (49.00), platinum (99.00)."""
    for name, value in {
        "CORE_TABLE": "CoreTable",
        "USAGE_TABLE": "UsageTable",
        "IDEMPOTENCY_TABLE": "IdempotencyTable",
        "STRIPE_KEY_PARAMETER": "/stripe/key",
        "PORTAL_URL": "https://portal.invalid",
        "POWERTOOLS_SERVICE_NAME": "subscribe",
        "POWERTOOLS_METRICS_NAMESPACE": "monetize",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    clock = Clock(NOW)
    dynamodb = MemoryDynamoDB(clock)
    create_tables(dynamodb.as_boto3(), TEMPLATE)
    emulator = StripeEmulator(clock)
    wiring.override(
        clock=clock,
        dynamodb=dynamodb,
        ssm=MemorySSM({"/stripe/key": emulator.platform_key}),
        stripe_http=EmulatorHTTPClient(emulator),
    )
    account = emulator.connect_account(name="acme").id
    link = StripeLink(account=account, livemode=False, scope="read_write", connected_at=NOW, charges_enabled=True)
    made = Shop(dynamodb, Table(dynamodb, "CoreTable"), emulator, clock, account)
    made.store(
        Publisher(id="acme", status="enabled", stripe=link, created_at=NOW, enabled_at=NOW),
        Meter(id="met_calls", publisher="acme", name="Calls", event_type="api.call", short=1, created_at=NOW),
        Tier(id="tier_free", publisher="acme", name="Free", created_at=NOW),
        Product(id="api_weather", publisher="acme", name="Weather", tiers=("tier_free",), created_at=NOW),
    )
    made.plan("gold", GOLD)
    made.plan("platinum", PLATINUM)
    yield made
    wiring.override()
