"""Bills that wait for a person: listed, alarmed, released or waived, whatever they wait for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.config import load
from monetize.domain.invoices import Bill
from monetize.domain.subscriptions import Subscriber
from monetize.domain.usage import counter_name
from monetize.services import billing, runs
from tests.integration.billing_fixtures import START, Market
from tests.integration.test_runs import DUE, FEBRUARY, OPERATOR, market, with_usage

__all__ = ["market"]

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
A_DAY = timedelta(days=1)


def without_customer(market: Market, org: str = "dev", pub: str = "acme") -> Subscriber:
    """A subscriber whose customer is not known any more; as it was."""
    was = market.stored(Subscriber, keys.subscriber(pub, org))
    market.store(replace(was, customers=()))
    return was


# --- listed and alarmed ---


def test_an_operator_sees_what_waits_of_everybody_page_by_page(market: Market) -> None:
    market.sell("zenith")
    expected = set()
    for pub, org in (("acme", "dev"), ("acme", "eve"), ("zenith", "dev")):
        expected.add((pub, with_usage(market, 0, org, pub)))
        without_customer(market, org, pub)
    market.run_until(DUE + timedelta(hours=1))
    found, cursor = [], ""
    while True:
        page = market.ask("GET", f"/bills?limit=2{cursor}", **OPERATOR).body
        assert len(page["items"]) <= 2
        found += [(each["publisher"], each["subscription"]) for each in page["items"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert len(found) == 3
    assert set(found) == expected
    zenith = market.ask("GET", "/bills?publisher=zenith", **OPERATOR).body["items"]
    assert {each["publisher"] for each in zenith} == {"zenith"}
    own = market.ask("GET", "/bills").body["items"]
    assert {each["publisher"] for each in own} == {"acme"}
    for bill in own:
        market.ask("POST", f"/bills/{bill['id']}/waive", {"reason": "gone"})
    left = market.ask("GET", "/bills", **OPERATOR).body["items"]
    assert {each["publisher"] for each in left} == {"zenith"}


def test_what_is_held_rings_as_what_is_parked_does(market: Market) -> None:
    with_usage(market)
    market.settings(hold_above=5000)
    before = market.system.functions.metrics["BillsWaiting"]
    market.run_until(DUE + timedelta(hours=1))
    assert market.system.functions.metrics["BillsWaiting"] == before + 1


# --- held ---


def test_a_bill_is_compared_with_the_last_one_that_was_not_empty(market: Market) -> None:
    """What used nothing for a month and then a thousand times as much as ever is looked at."""
    sub = with_usage(market, 0)
    market.run_until(DUE + timedelta(hours=1))
    for edge, subtotal in ((FEBRUARY, 0), (datetime(2026, 1, 30, 20, 30, tzinfo=UTC), 100)):
        market.store(replace(market.bill(sub, edge), subtotal=subtotal))
    market.settings(hold_times_last=10)
    market.run_until(MARCH + timedelta(hours=4))
    assert (market.bill(sub, MARCH).status, market.bill(sub, MARCH).reason) == ("held", "above_times_last")


def test_a_first_bill_is_held_for_its_amount_alone(market: Market) -> None:
    market.settings(hold_times_last=2)
    sub = with_usage(market, 0)
    assert market.bill(sub, START).status == "paid"


# --- one behind the other ---


def mistaken(market: Market, sub: str, month: str = "2026-01") -> None:
    """The counter says one more call than the ledger, as after a repair by hand that went wrong."""
    market.system.dynamodb.update_item(
        TableName=load().usage_table,
        Key={"pk": {"S": keys.usage(sub, month, 0)}, "sk": {"S": "COUNTER"}},
        UpdateExpression="ADD #it :one",
        ExpressionAttributeNames={"#it": counter_name(30, 1)},
        ExpressionAttributeValues={":one": {"N": "1"}},
    )


def three_that_wait(market: Market) -> tuple[str, list[Bill]]:
    """February's bill is parked before it is rated, and March's and April's because of it."""
    sub = with_usage(market)
    mistaken(market, sub)
    market.system.schedules.at_most_every = A_DAY
    market.run_until(datetime(2026, 4, 2, 4, tzinfo=UTC))
    bills = [market.bill(sub, edge) for edge in (FEBRUARY, MARCH, APRIL)]
    assert [(bill.status, bill.reason) for bill in bills] == [
        ("parked", "ledger_mismatch"),
        ("parked", "previous_bill_open"),
        ("parked", "previous_bill_open"),
    ]
    return sub, bills


def test_a_counter_that_disagrees_is_made_anew_from_the_ledger_by_an_operator_and_what_waited_behind_goes_on(
    market: Market,
) -> None:
    sub, (february, *_) = three_that_wait(market)
    assert market.ask("POST", f"/bills/{february.id}/release").code == "missing_role"
    assert market.ask("POST", f"/bills/{february.id}/release", **OPERATOR).body["reason"] == "released"
    market.run(minutes=2)
    told = [market.bill(sub, edge) for edge in (FEBRUARY, MARCH, APRIL)]
    assert [(bill.status, bill.subtotal) for bill in told] == [("paid", 5050), ("paid", 4900), ("paid", 4900)]
    assert market.ask("GET", "/bills", **OPERATOR).body["items"] == []


def test_what_waited_behind_a_waived_bill_goes_on(market: Market) -> None:
    sub, (february, *_) = three_that_wait(market)
    market.ask("POST", f"/bills/{february.id}/waive", {"reason": "nobody knows"})
    market.run(minutes=2)
    told = [market.bill(sub, edge) for edge in (FEBRUARY, MARCH, APRIL)]
    assert [(bill.status, bill.subtotal) for bill in told] == [("waived", 0), ("paid", 4900), ("paid", 4900)]


def test_a_worker_that_dies_after_the_first_lets_the_others_go_on_when_it_comes_back(market: Market) -> None:
    sub, (february, *_) = three_that_wait(market)
    market.system.clock.move_to(market.system.clock.now() + timedelta(minutes=1))
    now, ports = market.system.clock.now(), wiring.runs()
    runs.release_bill(runs.Who("olga", "platform", operator=True), february, now, ports)

    def killed(*_: object) -> None:
        raise RuntimeError("killed before Stripe was asked")

    class Invoices:
        of_customer = create_draft = killed

    with pytest.raises(RuntimeError):
        billing.continue_bill(february.id, now, replace(wiring.billing(), invoices=Invoices()))
    market.run(hours=4)
    assert [market.bill(sub, edge).status for edge in (FEBRUARY, MARCH, APRIL)] == ["paid", "paid", "paid"]


def test_a_ledger_that_still_disagrees_parks_the_bill_again(market: Market) -> None:
    sub, (february, *_) = three_that_wait(market)
    now = market.system.clock.now()
    runs.release_bill(runs.Who("olga", "platform", operator=True), february, now, wiring.runs())
    worked = billing.continue_bill(february.id, now, replace(wiring.billing(), recount=lambda *_: 0))
    assert worked.outcome == "parked"
    assert market.bill(sub, FEBRUARY).reason == "ledger_mismatch"
    assert market.bill(sub, MARCH).status == "parked"


# --- waived with something at Stripe ---


def with_another_total(market: Market, monkeypatch: pytest.MonkeyPatch) -> Bill:
    """February's bill, parked beside a draft that is not what was rated."""
    sub = with_usage(market)
    honest = StripeInvoices.add_lines

    def one_cent_more(self: Any, *rest: Any) -> Any:
        held = honest(self, *rest)
        return replace(held, subtotal=held.subtotal + 1)

    with monkeypatch.context() as patched:
        patched.setattr(StripeInvoices, "add_lines", one_cent_more)
        market.run_until(DUE + timedelta(hours=1))
    bill = market.bill(sub, FEBRUARY)
    assert (bill.status, bill.reason, bill.invoice is not None) == ("parked", "total_differs", True)
    return bill


def at_stripe(market: Market, bill: Bill) -> str | None:
    """The status of its invoice; None when there is none."""
    found = market.system.emulator.account(market.account).invoices.get(bill.invoice or "")
    return None if found is None else found.get("status")


def test_waiving_a_bill_deletes_its_draft(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    bill = with_another_total(market, monkeypatch)
    assert market.ask("POST", f"/bills/{bill.id}/waive", {"reason": "ours"}).body["status"] == "waived"
    assert at_stripe(market, bill) is None


def test_a_bill_whose_invoice_can_be_paid_is_not_waived(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    bill = with_another_total(market, monkeypatch)
    params = {"auto_advance": False}
    wiring.stripe().v1.invoices.finalize_invoice(bill.invoice, params, {"stripe_account": market.account})
    assert market.ask("POST", f"/bills/{bill.id}/waive", {"reason": "ours"}).code == "invoice_finalized"
    assert (market.bill(bill.subscription, FEBRUARY).status, at_stripe(market, bill)) == ("parked", "open")
    assert market.ask("POST", f"/bills/{bill.id}/release").status == 200
    market.run(minutes=2)
    assert (market.bill(bill.subscription, FEBRUARY).status, at_stripe(market, bill)) == ("paid", "paid")


def test_a_draft_that_is_finalized_while_its_bill_is_waived_keeps_the_bill(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    bill = with_another_total(market, monkeypatch)
    honest = StripeInvoices.retrieve

    def then_finalized(self: Any, account: str, invoice: str) -> Any:
        held = honest(self, account, invoice)
        wiring.stripe().v1.invoices.finalize_invoice(invoice, {}, {"stripe_account": account})
        return held

    monkeypatch.setattr(StripeInvoices, "retrieve", then_finalized)
    assert market.ask("POST", f"/bills/{bill.id}/waive", {"reason": "ours"}).code == "invoice_finalized"
    assert market.bill(bill.subscription, FEBRUARY).status == "parked"


@pytest.mark.parametrize("how", ["voided", "deleted", "left"])
def test_what_nobody_can_pay_any_more_is_waived(market: Market, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    bill = with_another_total(market, monkeypatch)
    invoices, on = wiring.stripe().v1.invoices, {"stripe_account": market.account}
    if how == "voided":
        invoices.finalize_invoice(bill.invoice, {}, on)
        invoices.void_invoice(bill.invoice, {}, on)
    elif how == "deleted":
        invoices.delete(bill.invoice, None, on)
    else:
        market.system.emulator.deauthorize(market.account)
    assert market.ask("POST", f"/bills/{bill.id}/waive", {"reason": "ours"}).body["status"] == "waived"
