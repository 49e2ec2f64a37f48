"""A publisher, a subscriber with a card, and invoices that were really finalized on the emulated account."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import stripe

from local.stripe_emulator.transport import client_for
from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Table, put, read
from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.domain.collecting import DraftRequest, InvoiceLine
from monetize.domain.invoices import Bill, Invoice
from monetize.domain.plans import Plan, PlanVersion, wso2_terms
from monetize.domain.publishers import BillingSettings, Publisher, StripeLink
from monetize.domain.subscriptions import Customer, Subscriber, Subscription
from monetize.services.billing import invoice_id
from tests.integration.documented import documented_system

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TERMS = wso2_terms(
    price=4900, max_daily_usage=5000, overage_charge=Decimal(100), overage_unit=1000, meter="met_calls", currency="usd"
)


@dataclass
class Shop:
    """`acme` sells, `dev` subscribes with a card on file. Events reach the handlers as Stripe would send them."""

    system: System
    table: Table
    account: str
    customer: str
    card: str
    client: stripe.StripeClient
    product: str

    @property
    def stripe(self) -> Any:
        return self.system.emulator

    @property
    def options(self) -> Any:
        return {"stripe_account": self.account}

    @property
    def now(self) -> datetime:
        return self.system.clock.now()

    def store(self, *entities: Any) -> None:
        self.table.write(*(put(each) for each in entities))

    def change(self, kind: type, key: keys.Key, **changes: Any) -> None:
        item = self.table.raw(key)
        assert item is not None
        self.table.write(put(replace(read(kind, item), **changes)))

    def subscription(self, name: str = "sub_one") -> Subscription:
        found = self.table.get(Subscription, keys.subscription(name))
        assert found is not None
        return found

    def subscriber(self) -> Subscriber:
        found = self.table.get(Subscriber, keys.subscriber("acme", "dev"))
        assert found is not None
        return found

    def publisher(self) -> Publisher:
        found = self.table.get(Publisher, keys.publisher("acme"))
        assert found is not None
        return found

    def invoice(self, of: Invoice) -> Invoice:
        found = self.table.get(Invoice, keys.invoice(of.id))
        assert found is not None
        return found

    def bill(self, of: Invoice) -> Bill:
        found = self.table.get(Bill, keys.bill(of.subscription, of.edge))
        assert found is not None
        return found

    def audited(self) -> list[tuple[str, str, str]]:
        """(actor, action, target) of every entry, oldest first."""
        months = {f"{self.now:%Y-%m}", f"{START:%Y-%m}"}
        items = [item for month in sorted(months) for item in self.table.query(keys.audit("acme", month).pk).items]
        found = [json.loads(item["doc"]["S"]) for item in items]
        return [(each["actor"], each["action"], each["target"]) for each in found]

    def subscribe(self, name: str, *, subscriber: str = "dev", **more: Any) -> Subscription:
        made = Subscription(
            id=name, publisher="acme", subscriber=subscriber, application="app_one", product="api_weather",
            apis=("api_weather",), tier="tier_gold", status="active", plan="plan_gold", version=1, currency="usd",
            account=self.account, created_at=START, activated_at=START, **more,
        )  # fmt: skip
        self.store(made)
        for key in (keys.subscriber_subscription("acme", subscriber, name), keys.publisher_subscription("acme", name)):
            self.table.client.put_item(TableName=self.table.name, Item={"pk": {"S": key.pk}, "sk": {"S": key.sk}})
        return made

    def draft(
        self, amount: int = 4900, *, subscription: str = "sub_one", edge: datetime = START, currency: str = "usd",
        **more: Any,
    ) -> Bill:  # fmt: skip
        """A claimed bill whose draft is filled, as the billing worker leaves it before it finalizes."""
        bill = Bill(
            subscription=subscription, publisher="acme", subscriber="dev", account=self.account, currency=currency,
            edge=edge, status="drafted", subtotal=amount, created_at=self.now,
        )  # fmt: skip
        wanted = DraftRequest(
            account=self.account, customer=self.customer, currency=currency, bill=bill.id, invoice=invoice_id(bill),
            attempt=0, subscription=subscription, collection=more.pop("collection", "charge_automatically"),
            days_until_due=14, automatic_tax=False, application_fee=more.pop("fee", 0), footer="", custom_fields=(),
            description="Bill",
        )  # fmt: skip
        invoices = StripeInvoices(wiring.stripe())
        made = invoices.create_draft(wanted)
        line = InvoiceLine(
            amount=amount, description="Monthly fee: Gold", product=self.product, period_start=edge,
            period_end=edge + timedelta(days=31),
        )  # fmt: skip
        invoices.add_lines(wanted, made, [line])
        bill = replace(bill, invoice=made)
        self.store(bill)
        return bill

    def sent(self, amount: int = 4900, *, charge: bool = False, **more: Any) -> Invoice:
        """An invoice that was finalized and recorded; with `charge`, its first attempt was made."""
        bill = self.draft(amount, **more)
        assert bill.invoice is not None
        invoices = StripeInvoices(wiring.stripe())
        held = invoices.finalize(self.account, bill.invoice, bill.id, 0)
        made = Invoice(
            id=invoice_id(bill), stripe_id=held.id, account=self.account, publisher="acme", subscriber="dev",
            subscription=bill.subscription, edge=bill.edge, currency=bill.currency, amount=amount, total=held.total,
            amount_remaining=held.amount_remaining, number=held.number, issued_at=self.now,
            next_attempt_at=self.now + timedelta(minutes=15),
        )  # fmt: skip
        self.store(made, replace(bill, rev=1, status="sent", sent_at=self.now))
        key = keys.publisher_invoice("acme", made.issued_at, made.id)
        self.table.client.put_item(TableName=self.table.name, Item={"pk": {"S": key.pk}, "sk": {"S": key.sk}})
        if charge:
            self.charge(made)
        return made

    def charge(self, invoice: Invoice, attempt: int = 0) -> bool:
        """What the billing worker does after it recorded the invoice. False: declined."""
        from monetize.domain.errors import CardDeclined

        try:
            bill = f"{invoice.subscription}.{invoice.edge:%Y%m%dT%H%M%SZ}"
            StripeInvoices(wiring.stripe()).pay(self.account, invoice.stripe_id, bill, attempt)
        except CardDeclined:
            return False
        return True

    def decline(self, code: str = "insufficient_funds") -> None:
        self.stripe.set_card_outcome(self.account, self.card, code)

    def accept(self) -> None:
        self.stripe.set_card_outcome(self.account, self.card, "succeed")

    def charge_of(self, invoice: Invoice) -> str:
        """The id of the charge that paid it."""
        payment = self.invoice(invoice).payment
        return str(self.stripe.accounts[self.account].payment_intents[payment]["latest_charge"])

    def settle(self) -> None:
        """Deliver what Stripe has to tell, and work until nothing is left."""
        self.system.pump()


@pytest.fixture
def shop() -> Iterator[Shop]:
    """Everything is stored as onboarding, the catalog and subscribing leave it."""
    with documented_system(START) as system:
        account = system.emulator.connect_account(name="acme").id
        client = client_for(system.emulator)
        options: Any = {"stripe_account": account}
        customer = client.v1.customers.create(
            {"metadata": {"monetize": "customer", "publisher": "acme", "subscriber": "dev"}}, options
        ).id
        session = client.v1.checkout.sessions.create(
            {"mode": "setup", "currency": "usd", "customer": customer, "success_url": "https://portal.test"}, options
        )
        system.emulator.complete_checkout(account, session.id)
        intent = system.emulator.accounts[account].setup_intents[str(session.setup_intent)]
        card: str = intent["payment_method"]
        client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": card}}, options)
        product = client.v1.products.create({"name": "Gold"}, options).id
        shop = Shop(system, wiring.core(), account, customer, card, client, product)
        link = StripeLink(
            account=account, livemode=False, scope="read_write", connected_at=START, charges_enabled=True, name="acme",
            country="US", currency="usd",
        )  # fmt: skip
        settings = BillingSettings(retry_days=(1, 3, 5, 7), payment_grace_days=3)
        shop.store(
            Publisher(
                id="acme", status="enabled", stripe=link, settings=settings, created_at=START, enabled_at=START
            ),
            Plan(
                id="plan_gold", publisher="acme", name="gold", status="published", latest=1, created_at=START,
                updated_at=START,
            ),
            PlanVersion(
                plan="plan_gold", publisher="acme", number=1, name="gold", terms=TERMS, stripe_product=product,
                published_at=START,
            ),
            Subscriber(
                id="dev", publisher="acme", created_at=START,
                customers=(
                    Customer(
                        account=account, id=customer, payment_method=card, brand="visa", last4="4242", expires="2040-12"
                    ),
                ),
            ),
        )  # fmt: skip
        guard = keys.stripe_account(account)
        shop.table.client.put_item(
            TableName=shop.table.name,
            Item={"pk": {"S": guard.pk}, "sk": {"S": guard.sk}, "owner": {"S": "acme"}},
        )
        shop.subscribe("sub_one")
        shop.settle()
        yield shop
