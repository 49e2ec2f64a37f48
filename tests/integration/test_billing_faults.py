"""What can be wrong at Stripe when a bill is made, and what becomes of the bill."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.stripe_emulator.faults import Fault
from local.system import System
from monetize import wiring
from monetize.domain.errors import ProviderBusy
from monetize.services import billing
from tests.integration.test_billing import FEBRUARY, GRACE, MARCH, Shop, open_shop, shop

__all__ = ["shop"]

FEE = {"id": "fee", "name": "Fee", "model": "flat", "amount": 1000, "timing": "advance"}
A_CENT_A_CALL = {"id": "calls", "name": "Calls", "model": "per_unit", "meter": "{calls}", "unit_price": "1"}


def last(shop: Shop) -> tuple[str, str]:
    """State and reason of the newest bill."""
    found = shop.bills()[-1]
    return found.status, found.reason


def test_a_bill_whose_product_is_gone_waits_for_a_person_and_goes_on_when_it_is_back(shop: Shop) -> None:
    (product,) = shop.system.emulator.account(shop.account).products
    shop.system.clock.move_to(FEBRUARY + timedelta(days=1, minutes=10))
    wiring.stripe().v1.products.delete(product, None, {"stripe_account": shop.account})
    billing.bill_subscription(shop.subscription, shop.system.clock.now(), wiring.billing())
    assert last(shop) == ("parked", "product_missing")
    shop.world.run_until(FEBRUARY + timedelta(days=3))  # reconciliation makes it again
    shop.publisher.call("POST", f"/bills/{shop.bills()[-1].id}/release")
    shop.world.settle()
    assert last(shop)[0] == "paid"


def test_a_bill_whose_customer_is_gone_waits_for_a_person_before_anybody_was_told(shop: Shop) -> None:
    shop.system.emulator.webhooks.fate = lambda _: ()
    customers = shop.system.emulator.account(shop.account).customers
    shop.system.emulator.delete_customer(shop.account, next(iter(customers)))
    shop.world.run_until(FEBRUARY + GRACE)
    assert last(shop) == ("parked", "customer_missing")


def test_what_is_too_little_to_charge_is_collected_with_the_next_invoice(system: System) -> None:
    shop = open_shop(system, {"name": "Gold", "terms": {"currency": "usd", "charges": [A_CENT_A_CALL]}})
    shop.world.run_until(datetime(2026, 1, 10, 13, tzinfo=UTC))
    shop.use("2026-01-10", 20)
    shop.world.run_until(FEBRUARY + GRACE)
    account = shop.system.emulator.account(shop.account)
    assert [charge["amount"] for charge in account.charges.values()] == []
    revenue = shop.publisher.call("GET", "/reports/revenue?month=2026-02&by=total")["rows"]
    assert [row["carried"] for row in revenue] == [20]
    shop.world.run_until(datetime(2026, 2, 10, 13, tzinfo=UTC))
    shop.use("2026-02-10", 100)
    shop.world.run_until(MARCH + GRACE)
    assert [bill.subtotal for bill in shop.bills()] == [20, 100]
    assert [charge["amount"] for charge in account.charges.values()] == [120]


class Later:
    """An account whose next place is some seconds away; it counts how often one was taken."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.taken = seconds, 0

    def reserve(self, account: str, now: datetime) -> float:
        assert account
        assert now
        self.taken += 1
        return self.seconds


def paced(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Later:
    """Let every bill wait so long for its place."""
    throttle, real = Later(seconds), wiring.billing
    monkeypatch.setattr(wiring, "billing", lambda: replace(real(), throttle=throttle))
    return throttle


def test_a_place_hours_away_is_waited_for_and_taken_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = paced(monkeypatch, 60 * 3600)
    shop.system.schedules.at_most_every = timedelta(hours=6)
    shop.world.run_until(FEBRUARY + GRACE + timedelta(hours=2))
    claimed = shop.bills()[-1].created_at
    shop.world.run_until(claimed + timedelta(hours=59, minutes=50))
    assert (last(shop)[0], throttle.taken) == ("rated", 1)
    shop.world.run_until(claimed + timedelta(hours=60, minutes=1))
    assert (last(shop)[0], throttle.taken) == ("paid", 1)
    assert len(shop.invoices()) == 2


def test_a_bill_that_waited_goes_on_to_the_ones_behind_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = paced(monkeypatch, 30)
    shop.system.clock.move_to(MARCH + GRACE)
    shop.world.run_until(MARCH + GRACE + timedelta(minutes=10))
    assert [bill.status for bill in shop.bills()[1:]] == ["paid", "paid"]
    assert throttle.taken == 2


def test_a_message_says_what_became_of_each_of_its_bills(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.system.clock.move_to(MARCH + GRACE)
    honest = type(wiring.billing().invoices).add_lines

    def one_cent_more(self: Any, wanted: Any, invoice: str, lines: Any) -> Any:
        held = honest(self, wanted, invoice, lines)
        return replace(held, subtotal=held.subtotal + (1 if "20260201" in wanted.bill else 0))

    monkeypatch.setattr(type(wiring.billing().invoices), "add_lines", one_cent_more)
    before = shop.system.functions.metrics["BillsWaiting"]
    shop.world.run_until(MARCH + GRACE + timedelta(minutes=10))
    assert [bill.status for bill in shop.bills()[1:]] == ["parked", "paid"]
    assert shop.system.functions.metrics["BillsWaiting"] == before + 1


def test_due_dates_are_told_one_by_one(shop: Shop) -> None:
    shop.system.clock.move_to(MARCH + GRACE)
    ports = replace(wiring.billing(), throttle=Later(0))
    worked = billing.bill_subscription(shop.subscription, shop.system.clock.now(), ports)
    told = [(each.outcome, each.bill[-17:]) for each in (*worked.before, worked)]
    assert told == [("sent", ".20260201T000000Z"), ("sent", ".20260301T000000Z")]


def test_messages_of_bills_carry_their_publisher_as_group(shop: Shop) -> None:
    sent: list[dict[str, Any]] = []
    real = shop.system.sqs.send_message_batch

    def watched(**request: Any) -> Any:
        sent.extend(request["Entries"])
        return real(**request)

    shop.system.sqs.send_message_batch = watched  # type: ignore[method-assign]
    shop.world.run_until(FEBRUARY + GRACE)
    groups = {each["MessageGroupId"] for each in sent if json.loads(each["MessageBody"])["kind"] == "subscription"}
    assert groups == {"acme"}


@pytest.mark.parametrize("kind", ["rate_limited", "lock_timeout", "conflict", "time_out"])
@pytest.mark.parametrize("step", ["", "/.*/add_lines", "/.*/finalize"])
def test_stripe_that_is_busy_is_asked_again_by_the_same_key_and_no_receive_is_used_up(
    shop: Shop, kind: Any, step: str
) -> None:
    fault = Fault(kind, path=f"/v1/invoices{step}", times=4, after=kind == "time_out")
    shop.system.emulator.faults.append(fault)
    shop.world.run_until(FEBRUARY + GRACE + timedelta(minutes=15))
    assert fault.seen >= (1 if fault.after else 4)
    assert not shop.system.functions.failures
    assert [bill.status for bill in shop.bills()] == ["paid", "paid"]
    invoices = shop.system.emulator.account(shop.account).invoices.values()
    assert [it["status"] for it in invoices if "status" in it] == ["paid", "paid"]  # a draft begun anew is deleted
    assert shop.system.functions.metrics["Billing_subscription_busy"] == 1


def test_stripe_that_is_busy_for_longer_than_the_bills_lease_counts_as_a_failure(shop: Shop) -> None:
    shop.system.clock.move_to(FEBRUARY + timedelta(days=1, minutes=10))
    now, ports = shop.system.clock.now(), wiring.billing()
    shop.system.emulator.faults.append(Fault("rate_limited", path="/v1/invoices", times=100))
    first = billing.bill_subscription(shop.subscription, now, ports)
    assert first.outcome == "busy"
    assert 10 <= first.again_in < 30
    with pytest.raises(ProviderBusy):
        billing.continue_bill(first.bill, now + billing.LEASE, ports, placed=True)
