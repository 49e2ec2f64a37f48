"""A publisher with subscribers who pay and use, on the local system: what billing and reports are tried on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Table, put, read
from monetize.domain.catalog import Product, Tier
from monetize.domain.invoices import Bill, Invoice
from monetize.domain.meters import Meter
from monetize.domain.plans import Charge, Plan, PlanTerms, PlanVersion
from monetize.domain.publishers import BillingSettings, Publisher, StripeLink
from monetize.domain.subscriptions import Subscription
from monetize.services.subscribing import activate_checkout
from monetize.services.subscription_access import Card
from tests.integration.documented import documented_system

START = datetime(2026, 1, 30, 20, 30, tzinfo=UTC)  # near the month's end: few ticks until the first bills
CONTACT = {"name": "Dev Eloper", "email": "dev@example.com", "country": "US", "postal_code": "94107"}
GOLD = PlanTerms(
    currency="usd",
    charges=(
        Charge(id="fee", name="Gold", model="flat", amount=4900, timing="advance"),
        Charge(id="calls", name="Calls", model="per_unit", meter="met_calls", unit_price=Decimal("0.5")),
    ),
)


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """A refusal's code."""
        assert self.headers["content-type"] == "application/problem+json", self.text
        assert self.body["status"] == self.status >= 400
        return str(self.body["code"])


@dataclass
class Market:
    """`acme` sells the weather API at gold: 49.00 a month in advance and half a cent a call."""

    system: System
    table: Table
    account: str

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        org: str = "acme",
        roles: str = "publisher_admin",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request of somebody."""
        token = self.system.token("ann", org, roles=roles.split())
        status, answered, text = self.system.call(method, path, body, token=token, headers=headers)
        return Answer(status, answered, text.decode())

    def store(self, *entities: Any) -> None:
        """Put things as other parts of the system would."""
        for entity in entities:
            self.table.write(put(entity))

    def stored[T](self, kind: type[T], key: keys.Key) -> T:
        """A thing as it stands in the table."""
        item = self.table.raw(key)
        assert item is not None
        return read(kind, item)

    def publisher(self, pub: str = "acme") -> Publisher:
        return self.stored(Publisher, keys.publisher(pub))

    def settings(self, **changes: Any) -> None:
        """Change acme's settings."""
        was = self.publisher()
        self.store(replace(was, settings=replace(was.settings, **changes)))

    def subscription(self, sub: str) -> Subscription:
        return self.stored(Subscription, keys.subscription(sub))

    def bill(self, sub: str, edge: datetime) -> Bill:
        return self.stored(Bill, keys.bill(sub, edge))

    def invoices(self, org: str = "dev") -> list[Any]:
        """A subscriber's invoices, as it sees them."""
        found = self.ask("GET", "/invoices?publisher=acme", org=org, roles="subscriber")
        assert found.status == 200, found.text
        return list(found.body["items"])

    def invoice(self, inv: str) -> Invoice:
        return self.stored(Invoice, keys.invoice(inv))

    def subscribe(self, org: str = "dev", name: str = "App", pub: str = "acme", tier: str = "gold") -> str:
        """An active subscription with a good card; its opening bill is still to be made."""
        made = self.ask("POST", "/applications", {"publisher": pub, "name": name}, org=org, roles="subscriber")
        assert made.status == 201, made.text
        order = {
            "publisher": pub,
            "application": made.body["id"],
            "product": f"api_{pub}",
            "tier": f"tier_{pub}_{tier}",
            "contact": CONTACT,
        }
        ordered = self.ask("POST", "/subscriptions", order, org=org, roles="subscriber")
        assert ordered.status == 201, ordered.text
        if ordered.body["checkout"]:
            session = ordered.body["checkout"]["id"]
            account = self.publisher(pub).stripe
            assert account is not None
            self.system.emulator.complete_checkout(account.account, session, "4242424242424242")
            paid = wiring.customers().completed_setup(account.account, session)
            card = Card(paid.payment_method, paid.brand, paid.last4, paid.expires)
            now = self.system.clock.now()
            activate_checkout(paid.subscription, session=session, card=card, now=now, ports=wiring.subscribing())
        return str(ordered.body["id"])

    def use(self, sub: str, count: int, day: datetime, first: int = 0, pub: str = "acme") -> Answer:
        """That many calls on a day, told by the gateway."""
        events = [
            {
                "specversion": "1.0",
                "id": f"req-{day:%m%d}-{number}",
                "source": "/gateways/eu-1",
                "type": "api.request",
                "subject": sub,
                "time": day.isoformat().replace("+00:00", "Z"),
                "data": {"status": 200},
            }
            for number in range(first, first + count)
        ]
        content = {"content-type": "application/cloudevents-batch+json"}
        return self.ask(
            "POST", "/publisher/usage/events", json.dumps(events), org=pub, roles="gateway", headers=content
        )

    def sell(self, pub: str, terms: PlanTerms = GOLD, **about: Any) -> str:
        """Another publisher with the same offer; its Stripe account."""
        account = self.system.emulator.connect_account(name=pub).id
        link = StripeLink(account=account, livemode=False, scope="read_write", connected_at=START, charges_enabled=True)
        plan = f"plan_{pub}"
        about.setdefault("settings", BillingSettings(grace_hours=2))
        self.store(
            Publisher(id=pub, status="enabled", stripe=link, created_at=START, enabled_at=START, **about),
            Meter(
                id="met_calls",
                publisher=pub,
                name="Calls",
                event_type="api.request",
                short=1,
                used=True,
                created_at=START,
            ),
            Plan(
                id=plan,
                publisher=pub,
                name="Gold",
                status="published",
                latest=1,
                created_at=START,
                updated_at=START,
            ),
            PlanVersion(
                plan=plan,
                publisher=pub,
                number=1,
                name="Gold",
                terms=terms,
                published_at=START,
                stripe_product=self.product(account),
            ),
            Tier(id=f"tier_{pub}_gold", publisher=pub, name="Gold", commercial=True, plan=plan, created_at=START),
            Product(id=f"api_{pub}", publisher=pub, name="Weather", tiers=(f"tier_{pub}_gold",), created_at=START),
        )
        return account

    def product(self, account: str) -> str:
        """A product at Stripe."""
        made = wiring.stripe().v1.products.create({"name": "Gold"}, {"stripe_account": account})
        return str(made.id)

    def run(self, **duration: int) -> None:
        """Let time pass."""
        self.system.run_for(timedelta(**duration))

    def run_until(self, instant: datetime) -> None:
        self.system.run_until(instant)


def make_market(system: System) -> Market:
    """acme, selling."""
    made = Market(system, Table(system.dynamodb, wiring.core().name), "")
    made.account = made.sell("acme")
    return made


@pytest.fixture
def market() -> Iterator[Market]:
    """A fresh system at 2026-01-30T20:30Z with acme selling."""
    with documented_system(START) as system:
        yield make_market(system)
