"""Reports of worlds of their own: what was really billed, paid, credited and moved is what they tell."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.plans import Charge, PlanTerms
from monetize.domain.subscriptions import Subscriber
from monetize.services import applying
from tests.integration.billing_fixtures import START, Market, market

__all__ = ["market"]

OPENING = 181  # 49.00 for 27 and a half of January's 744 hours
FEBRUARY_BILLED = datetime(2026, 2, 1, 5, tzinfo=UTC)


def revenue(market: Market, month: str = "2026-01", pub: str = "acme") -> Any:
    """The one row of a month's totals, what is nothing left out."""
    market.run(hours=1)  # another snapshot
    (row,) = market.ask("GET", f"/reports/revenue?by=total&month={month}", org=pub).body["rows"]
    return {name: value for name, value in row.items() if value and name not in ("key", "name", "currency")}


def aging(market: Market) -> dict[str, tuple[int, int]]:
    rows = market.ask("GET", "/reports/aging").body["rows"]
    return {row["age"]: (row["invoices"], row["outstanding"]) for row in rows}


def give_balance(market: Market, amount: int) -> None:
    """Credit (negative) or debt of the subscriber at Stripe, made there by hand."""
    customer = market.stored(Subscriber, keys.subscriber("acme", "dev")).customers[0]
    client = wiring.stripe().v1.customers.balance_transactions
    client.create(customer.id, {"amount": amount, "currency": "usd"}, {"stripe_account": market.account})


def act(market: Market, verb: str, body: Any, key: str = "k") -> Any:
    """An act of the publisher on the newest invoice."""
    newest = market.invoices()[0]["id"]
    done = market.ask("POST", f"/invoices/{newest}/{verb}", body, headers={"Idempotency-Key": key})
    assert done.status < 300, done.text
    return done.body


# --- revenue ---


def test_what_a_customers_credit_at_stripe_paid_is_revenue_and_not_carried(market: Market) -> None:
    market.subscribe()
    give_balance(market, -1_000)
    assert revenue(market) == {"invoices": 1, "amount": OPENING}


def test_what_is_under_the_least_charge_is_no_revenue_until_a_later_invoice_collects_it(market: Market) -> None:
    fee = Charge(id="fee", name="Gold", model="flat", amount=900, timing="advance")
    market.sell("small", PlanTerms(currency="usd", charges=(fee,)))
    market.subscribe(pub="small")
    assert revenue(market, pub="small") == {"invoices": 1, "carried": 33}
    market.run_until(FEBRUARY_BILLED)
    assert revenue(market, "2026-02", "small") == {
        "invoices": 1,
        "amount": 900,
        "paid": 933,
        "carried_collected": 33,
    }


def test_refunds_credit_notes_and_what_is_given_up_stand_beside_revenue(market: Market) -> None:
    market.subscribe()
    market.run(hours=1)
    act(market, "refunds", {"amount": 81})
    assert revenue(market) == {"invoices": 1, "amount": OPENING, "paid": OPENING, "refunded": 81}
    market.settings(collection="send_invoice")
    market.run_until(FEBRUARY_BILLED)
    assert revenue(market, "2026-02") == {"invoices": 1, "amount": 4900, "outstanding": 4900}
    act(market, "credit-notes", {"amount": 900, "reason": "order_change"})
    assert revenue(market, "2026-02") == {"invoices": 1, "amount": 4900, "outstanding": 4000, "credited": 900}
    act(market, "mark-uncollectible", {})
    assert revenue(market, "2026-02") == {"invoices": 1, "amount": 4900, "uncollectible": 4000, "credited": 900}
    act(market, "void", {})
    assert revenue(market, "2026-02") == {"invoices": 1, "void": 4900}


# --- aging ---


def test_an_invoice_is_overdue_from_the_date_it_says_whatever_is_set_since(market: Market) -> None:
    market.settings(collection="send_invoice", days_until_due=10)
    market.subscribe()
    market.run(hours=1)
    (invoice,) = market.invoices()
    assert invoice["payable_by"] == "2026-02-09T21:30:00Z"
    market.settings(collection="charge_automatically", days_until_due=30)
    assert aging(market) == {"not_due": (1, OPENING)}
    market.system.clock.move_to(START + timedelta(days=12))
    assert aging(market) == {"1-30": (1, OPENING)}


def test_the_date_it_is_to_be_paid_by_is_known_before_any_event_tells(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "_apply", lambda *_: "observed")  # nobody has to listen to `invoice.finalized`
    market.settings(collection="send_invoice", days_until_due=10)
    market.subscribe()
    market.run(hours=1)
    assert market.invoices()[0]["payable_by"] == "2026-02-09T21:30:00Z"


def test_what_was_credited_voided_or_given_up_is_not_unpaid(market: Market) -> None:
    market.settings(collection="send_invoice", days_until_due=10)
    market.subscribe()
    market.run(hours=1)
    act(market, "credit-notes", {"amount": 81, "reason": "order_change"})
    market.run(hours=1)
    assert aging(market) == {"not_due": (1, 100)}
    act(market, "mark-uncollectible", {})
    market.run(hours=1)
    assert aging(market) == {}
    act(market, "void", {})
    market.run(hours=1)
    assert aging(market) == {}


# --- whose time ---


def test_a_sandboxs_subscriptions_are_told_by_its_own_clock(market: Market) -> None:
    market.sell("box", sandbox=True)
    moved = market.ask("POST", "/billing-runs/clock", {"to": "2026-04-02T01:00:00Z"}, org="box")
    assert moved.status == 200, moved.text
    market.subscribe(pub="box")
    mrr = market.ask("GET", "/reports/mrr", org="box").body
    assert (mrr["month"], mrr["totals"], mrr["as_of"]) == ("2026-04", {"usd": 4900}, "2026-04-02T01:00:00Z")
    assert market.ask("GET", "/reports/churn?month=2026-04", org="box").body["rows"][0]["won"] == 1
    assert market.ask("GET", "/reports/usage", org="box").body["month"] == "2026-04"
