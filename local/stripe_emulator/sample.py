"""Where most tests begin: a connected publisher, a product, and a customer whose card is on file."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stripe

from local.clock import Clock
from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.store import Account
from local.stripe_emulator.transport import client_for

START = datetime(2027, 1, 31, 12, tzinfo=UTC)


@dataclass
class Sample:
    """One publisher with one customer. `options` goes with every call of the SDK."""

    emulator: StripeEmulator
    client: stripe.StripeClient
    account: Account
    customer: str
    card: str
    product: str

    @property
    def options(self) -> Any:
        """The connected account's header."""
        return {"stripe_account": self.account.id}

    def draft(self, *amounts: int, currency: str = "usd", **params: Any) -> stripe.Invoice:
        """A draft with one line for each amount (minor units)."""
        invoices = self.client.v1.invoices
        asked: Any = {"customer": self.customer, "currency": currency, "auto_advance": False, **params}
        made = invoices.create(asked, self.options)
        lines: list[Any] = [self.line(amount, currency) for amount in amounts]
        return invoices.add_lines(made.id, {"lines": lines}, self.options) if lines else made

    def line(self, amount: int, currency: str = "usd", **price_data: Any) -> dict[str, Any]:
        """The parameters of one line."""
        return {
            "price_data": {"currency": currency, "product": self.product, "unit_amount": amount, **price_data},
            "period": {"start": 1798761600, "end": 1801440000},
            "description": "Calls",
        }

    def finalized(self, *amounts: int, **params: Any) -> stripe.Invoice:
        """An invoice that was finalized."""
        return self.client.v1.invoices.finalize_invoice(self.draft(*amounts, **params).id, None, self.options)

    def paid(self, *amounts: int, **params: Any) -> stripe.Invoice:
        """An invoice that was charged."""
        return self.client.v1.invoices.pay(self.finalized(*amounts, **params).id, None, self.options)


def sample(clock: Clock | None = None, *, card: str = "4242424242424242", **settings: Any) -> Sample:
    """A world with one publisher. `settings` go to the emulator."""
    emulator = StripeEmulator(clock or Clock(START), **settings)
    client = client_for(emulator)
    account = emulator.connect_account(name="Weather")
    options: Any = {"stripe_account": account.id}
    address: Any = {"country": "US", "postal_code": "94107"}
    customer = client.v1.customers.create({"name": "Ann", "email": "ann@example.com", "address": address}, options)
    session = client.v1.checkout.sessions.create(
        {"mode": "setup", "currency": "usd", "customer": customer.id, "success_url": "https://portal.test/ok"}, options
    )
    emulator.complete_checkout(account.id, session.id, card)
    intent = account.setup_intents[str(session.setup_intent)]
    method: str = intent["payment_method"]
    client.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method}}, options)
    product = client.v1.products.create({"name": "Gold"}, options)
    return Sample(emulator, client, account, customer.id, method, product.id)
