"""The subscriber at the publisher's account: customer, Checkout in setup mode, payment method, customer portal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stripe

from monetize.adapters.stripe.client import options, told_as_ours
from monetize.domain.errors import NotFound, ProviderRefused
from monetize.domain.stripe_events import OURS
from monetize.domain.subscriptions import Contact

_ADDRESS = ("line1", "line2", "city", "state", "postal_code", "country")


@dataclass(frozen=True, slots=True)
class Setup:
    """An open Checkout session. `url` is never stored and never logged."""

    id: str
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PaidWith:
    """What a completed session left: whose, and the card."""

    session: str
    subscription: str
    customer: str
    payment_method: str
    brand: str
    last4: str
    expires: str  # yyyy-mm


@contextmanager
def _of_customer() -> Iterator[None]:
    """As `told_as_ours`; a customer that somebody deleted at Stripe is NotFound `customer_missing`."""
    try:
        with told_as_ours():
            yield
    except NotFound as missing:
        if missing.code != "stripe_object_missing":
            raise
        raise NotFound("customer_missing", "The customer is not at Stripe any more.") from missing
    except ProviderRefused as refused:
        about = (refused.members.get("provider_code"), refused.members.get("param"))
        if about != ("resource_missing", "customer"):
            raise
        raise NotFound("customer_missing", "The customer is not at Stripe any more.") from refused


@dataclass(frozen=True, slots=True)
class StripeCustomers:
    """`returned` makes the portal's address for a subscription and an outcome (`done`, `cancelled`, empty)."""

    stripe: stripe.StripeClient
    returned: Callable[[str, str], str]

    def create_customer(self, account: str, publisher: str, subscriber: str, key: str) -> str:
        """The subscriber's customer there: one of ours that was made before, or a new one. Answers its id.

        Without contact data, so that the same key always carries the same request. The key holds for a day; who was
        made earlier and never stored (a crash, tables restored to before it) is found by its metadata.
        """
        made = self._made_before(account, publisher, subscriber)
        if made is not None:
            return made
        metadata = {OURS: "customer", "publisher": publisher, "subscriber": subscriber}
        with told_as_ours():
            return str(self.stripe.v1.customers.create({"metadata": metadata}, options(account, key)).id)

    def _made_before(self, account: str, publisher: str, subscriber: str) -> str | None:
        """Stripe's search is up to an hour behind: what it does not show yet, the key still covers."""
        if set("'\"\\") & set(publisher + subscriber):
            return None  # such names cannot be asked for
        clauses = (("publisher", publisher), ("subscriber", subscriber), (OURS, "customer"))
        query = " AND ".join(f"metadata['{name}']:'{value}'" for name, value in clauses)
        try:
            with told_as_ours():
                found = self.stripe.v1.customers.search({"query": query}, options(account))
                for each in sorted(found.data, key=lambda each: (each.created, each.id)):
                    if not getattr(
                        self.stripe.v1.customers.retrieve(each.id, None, options(account)), "deleted", False
                    ):
                        return each.id
        except ProviderRefused:
            return None  # search is not offered in every country
        return None

    def update_customer(self, account: str, customer: str, contact: Contact) -> None:
        """Billing and contact information. Stripe has no way to unset a phone number: an empty one stays as it was."""
        address = {name: value for name in _ADDRESS if (value := getattr(contact, name))}
        params: dict[str, Any] = {"name": contact.name, "email": contact.email, "address": address or ""}
        if contact.phone:
            params["phone"] = contact.phone
        with _of_customer():
            self.stripe.v1.customers.update(
                customer,
                params,  # type: ignore[arg-type] # built by part; the emulator checks it against the same types
                options(account),
            )

    def delete_customer(self, account: str, customer: str) -> None:
        """For good, with its cards. One that is gone already is gone."""
        try:
            with _of_customer():
                self.stripe.v1.customers.delete(customer, options=options(account))
        except NotFound:
            return

    def begin_setup(
        self, account: str, customer: str, currency: str, subscription: str, publisher: str, key: str
    ) -> Setup:
        """A hosted page on which the customer leaves a card."""
        metadata = {OURS: "checkout", "subscription": subscription, "publisher": publisher}
        with _of_customer():
            made = self.stripe.v1.checkout.sessions.create(
                {
                    "mode": "setup",
                    "ui_mode": "hosted_page",
                    "customer": customer,
                    "currency": currency,
                    "success_url": self.returned(subscription, "done"),
                    "cancel_url": self.returned(subscription, "cancelled"),
                    "metadata": metadata,
                    "setup_intent_data": {"metadata": metadata},
                },
                options(account, key),
            )
        return _setup(made)

    def open_setup(self, account: str, session: str) -> Setup | None:
        """A session that still waits for its customer; None when it was completed or ran out."""
        with told_as_ours():
            found = self.stripe.v1.checkout.sessions.retrieve(session, options=options(account))
        return _setup(found) if found.status == "open" and found.url else None

    def completed_setup(self, account: str, session: str) -> PaidWith | None:
        """What a completed session left; None while it is not complete or is not ours."""
        with told_as_ours():
            found = self.stripe.v1.checkout.sessions.retrieve(
                session, {"expand": ["setup_intent.payment_method"]}, options(account)
            )
        metadata = found.metadata.to_dict() if found.metadata is not None else {}
        intent = found.setup_intent
        if found.status != "complete" or OURS not in metadata or intent is None or isinstance(intent, str):
            return None
        method = intent.payment_method
        if method is None or isinstance(method, str):
            return None
        card = method.card
        return PaidWith(
            session=found.id,
            subscription=str(metadata.get("subscription", "")),
            customer=str(found.customer or ""),
            payment_method=method.id,
            brand=card.brand if card else "",
            last4=(card.last4 or "") if card else "",
            expires=f"{card.exp_year:04d}-{card.exp_month:02d}" if card else "",
        )

    def set_default(self, account: str, customer: str, payment_method: str) -> None:
        """The card that invoices are charged to."""
        with told_as_ours():
            self.stripe.v1.customers.update(
                customer, {"invoice_settings": {"default_payment_method": payment_method}}, options(account)
            )

    def portal(self, account: str, customer: str) -> str:
        """Stripe's own page for cards, tax ids and invoices; its address is for the caller alone."""
        with told_as_ours():
            made = self.stripe.v1.billing_portal.sessions.create(
                {"customer": customer, "return_url": self.returned("", "")}, options(account)
            )
        return made.url


def _setup(session: stripe.checkout.Session) -> Setup:
    return Setup(session.id, session.url or "", datetime.fromtimestamp(session.expires_at, UTC))
