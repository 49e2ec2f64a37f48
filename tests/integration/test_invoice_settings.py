"""What a publisher decides about its invoices reaches them by the billing run, whenever it is decided."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.domain.collecting import DraftRequest
from monetize.domain.invoices import Bill
from tests.integration.billing_fixtures import GOLD, START, Market, market

__all__ = ["market"]

OPENING = 181  # 49.00 for 27 and a half of January's 744 hours
RETRIED = timedelta(hours=4)  # what a killed worker left is enqueued again


class Killed(RuntimeError):
    """A worker that ends in the middle."""


def held(market: Market) -> list[dict[str, Any]]:
    """What Stripe holds, oldest first."""
    found = market.system.emulator.account(market.account).invoices.values()
    return sorted((each for each in found if "created" in each), key=lambda it: it["created"])


def told(market: Market, kind: str) -> int:
    """How many events of a kind Stripe made."""
    return int(market.system.emulator.emitted[kind])


def opening(market: Market, **settings: Any) -> Bill:
    """The opening bill of a new subscription under these settings."""
    market.settings(**settings)
    sub = market.subscribe()
    market.run(hours=1, minutes=1)
    return market.bill(sub, START)


def killed_after(monkeypatch: pytest.MonkeyPatch, step: str, *, effect: bool) -> None:
    """The worker that comes to this step at Stripe ends there, once, after or before Stripe acts."""
    was = getattr(StripeInvoices, step)

    def once(self: StripeInvoices, *args: Any, **more: Any) -> Any:
        monkeypatch.setattr(StripeInvoices, step, was)
        if effect:
            was(self, *args, **more)
        raise Killed

    monkeypatch.setattr(StripeInvoices, step, once)


def test_memo_footer_and_custom_fields_are_on_the_invoice(market: Market) -> None:
    opening(market, memo="Net 10", footer="Thank you", custom_fields=(("VAT", "DE123"), ("Order", "7")))
    (invoice,) = held(market)
    assert (invoice["description"], invoice["footer"]) == ("Net 10", "Thank you")
    assert invoice["custom_fields"] == [{"name": "VAT", "value": "DE123"}, {"name": "Order", "value": "7"}]


def test_an_invoice_without_a_memo_names_its_bill(market: Market) -> None:
    bill = opening(market)
    assert [each["description"] for each in held(market)] == [f"Bill {bill.id}"]


def test_an_invoice_that_is_sent_is_mailed_and_charges_nobody(market: Market) -> None:
    bill = opening(market, collection="send_invoice", days_until_due=10)
    (invoice,) = held(market)
    assert (bill.status, invoice["status"], invoice["attempt_count"]) == ("sent", "open", 0)
    assert invoice["due_date"] - invoice["status_transitions"]["finalized_at"] == 10 * 86_400
    assert told(market, "invoice.sent") == 1


@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
def test_an_invoice_is_mailed_once_although_its_worker_was_killed_at_it(
    market: Market, monkeypatch: pytest.MonkeyPatch, effect: bool
) -> None:
    killed_after(monkeypatch, "send", effect=effect)
    bill = opening(market, collection="send_invoice")
    assert bill.status != "sent"
    market.system.run_for(RETRIED)
    assert (market.bill(bill.subscription, START).status, told(market, "invoice.sent")) == ("sent", 1)


def test_automatic_tax_comes_on_top_and_is_no_difference(market: Market) -> None:
    market.sell("taxed", replace(GOLD, tax_behavior="exclusive"))
    was = market.publisher("taxed")
    assert was.stripe is not None
    account = market.system.emulator.account(was.stripe.account)
    account.tax_percentage = Decimal(19)
    market.store(replace(was, settings=replace(was.settings, automatic_tax=True)))
    sub = market.subscribe(pub="taxed")
    market.run(hours=1, minutes=1)
    bill = market.bill(sub, START)
    assert bill.status == "paid"
    (invoice,) = account.invoices.values()
    assert invoice["automatic_tax"]["enabled"] is True
    assert (bill.subtotal, invoice["total_excluding_tax"], invoice["total"]) == (OPENING, OPENING, OPENING + 34)
    assert [charge["amount"] for charge in account.charges.values()] == [OPENING + 34]


@pytest.mark.parametrize(
    "change",
    [
        {"footer": "Thank you"},
        {"collection": "send_invoice"},
        {"automatic_tax": True},
        {"custom_fields": (("a", "b"),)},
        {"memo": "Net 10"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_change_between_two_tries_of_a_draft_park_nothing(
    market: Market, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    killed_after(monkeypatch, "create_draft", effect=True)
    bill = opening(market)
    market.settings(**change)
    market.system.run_for(RETRIED)
    assert market.bill(bill.subscription, START).status == "paid"
    assert [each["status"] for each in held(market)] == ["paid"]  # the draft that was made first, as it was asked for


def test_settings_that_change_when_the_first_draft_is_gone_begin_another_attempt(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = StripeInvoices.create_draft

    def lost(self: StripeInvoices, wanted: DraftRequest) -> str:
        monkeypatch.setattr(StripeInvoices, "create_draft", was)
        self.delete_draft(wanted.account, was(self, wanted))
        raise Killed

    monkeypatch.setattr(StripeInvoices, "create_draft", lost)
    bill = opening(market)
    market.settings(footer="Thank you")
    market.system.run_for(RETRIED)
    after = market.bill(bill.subscription, START)
    assert (after.status, after.attempt) == ("paid", bill.attempt + 1)
    assert [each["footer"] for each in held(market) if each["status"] == "paid"] == ["Thank you"]


def test_how_an_invoice_is_collected_is_what_its_draft_says(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(monkeypatch, "finalize", effect=True)
    bill = opening(market, collection="send_invoice")
    market.settings(collection="charge_automatically")
    market.system.run_for(RETRIED)
    assert (market.bill(bill.subscription, START).status, told(market, "invoice.sent")) == ("sent", 1)
    assert [each["status"] for each in held(market)] == ["open"]


def test_no_two_bills_of_an_account_share_a_key_at_stripe(market: Market) -> None:
    """A shared one would answer the second bill with the first one's draft, or refuse it."""
    for name in ("one", "two", "three"):
        market.subscribe("dev", name)
    market.run(days=4)
    made = [each for each in market.system.emulator.requests if each.method == "POST" and "/invoices" in each.path]
    assert len([each for each in made if each.path == "/v1/invoices"]) >= 6
    assert {(each.status, each.replayed) for each in made} == {(200, False)}
    assert len({each.idempotency_key for each in made}) == len(made)
