"""What a run meets: many lines, drafts that differ, accounts that go, clocks that jump, other runs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.stripe_emulator.faults import Fault
from monetize import wiring
from monetize.adapters.stripe.client import options
from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.domain.invoices import BillLines, Product
from monetize.domain.lines import Line
from monetize.domain.periods import Period
from monetize.services import billing
from tests.integration.billing_fixtures import Market
from tests.integration.test_runs import DUE, FEBRUARY, OPERATOR, market, with_usage

__all__ = ["market"]

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
JANUARY = Period(datetime(2026, 1, 1, tzinfo=UTC), FEBRUARY)


def writes(market: Market) -> list[str]:
    """What was written about invoices at Stripe so far."""
    asked = [each for each in market.system.emulator.requests if each.method != "GET" and "/invoices" in each.path]
    return [each.path.rsplit("/", 1)[-1] for each in asked]


# --- many lines ---


@pytest.mark.parametrize(("count", "sent"), [(250, 250), (251, 250), (10_000, 250)])
def test_any_number_of_lines_takes_four_writes_and_the_whole_breakdown_is_kept(
    market: Market, count: int, sent: int
) -> None:
    sub = with_usage(market, 0)
    common: dict[str, Any] = {"kind": "flat", "name": "Fee", "currency": "usd", "period": JANUARY}
    lines = tuple(
        Line(id=f"fee-{number}@x", rated=100, amount=100, plan="plan_acme", version=1, **common)
        for number in range(count)
    )
    product = wiring.billing_table().plan_version("plan_acme", 1).stripe_product
    content = BillLines(
        subscription=sub,
        edge=FEBRUARY,
        lines=lines,
        products=(Product(plan="plan_acme", version=1, stripe=product),),
        subtotal=count * 100,
    )
    wiring.billing_table().freeze(content)  # as a worker that rated it and died would
    before = len(writes(market))
    market.run_until(DUE + timedelta(hours=1))
    bill = market.bill(sub, FEBRUARY)
    assert (bill.status, bill.subtotal) == ("paid", count * 100)
    assert writes(market)[before:] == ["invoices", "add_lines", "finalize", "pay"]
    held = wiring.billing().invoices.retrieve(market.account, bill.invoice)
    assert (len(held.lines), held.subtotal) == (sent, count * 100)
    page = wiring.stripe().v1.invoices.line_items.list(bill.invoice, {"limit": 100}, options(market.account))
    at = f"{market.system.functions.environment['PUBLIC_BASE_URL']}/invoices/{billing.invoice_id(bill)}/explain"
    tail = f"{count - 249} more items; see the full breakdown: {at}"
    assert [each.description for each in page.auto_paging_iter()].count(tail) == (count > 250)
    assert len(market.ask("GET", f"/bills/{bill.id}").body["lines"]) == count


# --- what Stripe holds is compared before it is finalized ---


@pytest.mark.parametrize(
    "other",
    [
        {"currency": "eur"},
        {"customer": "cus_another"},
        {"subtotal": 4901},
        {"lines": (4899, 1)},
        {"lines": (4900, 0)},
    ],
    ids=["currency", "customer", "total", "equal sum of other lines", "a line of nothing"],
)
def test_a_draft_that_differs_in_anything_is_parked_and_never_finalized(
    market: Market, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    sub = with_usage(market, 0)
    honest = StripeInvoices.add_lines
    monkeypatch.setattr(StripeInvoices, "add_lines", lambda *given: replace(honest(*given), **other))
    before = len(writes(market))
    market.run_until(DUE + timedelta(hours=1))
    bill = market.bill(sub, FEBRUARY)
    assert (bill.status, bill.reason) == ("parked", "total_differs")
    assert writes(market)[before:] == ["invoices", "add_lines"]


# --- accounts ---


@pytest.mark.parametrize("step", ["create_draft", "add_lines", "finalize"])
def test_an_account_that_leaves_between_two_steps_parks_its_bill_and_the_others_are_paid(
    market: Market, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    market.sell("zenith")
    sub, other = with_usage(market, 0), with_usage(market, 0, "c", pub="zenith")
    honest = getattr(StripeInvoices, step)

    def gone(self: Any, *given: Any) -> Any:
        if f"{sub}." in str(given):
            market.system.emulator.deauthorize(market.account)
        return honest(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(StripeInvoices, step, gone)
        market.run_until(DUE + timedelta(hours=1))
    assert (market.bill(sub, FEBRUARY).status, market.bill(sub, FEBRUARY).reason) == ("parked", "account_unreachable")
    assert market.bill(other, FEBRUARY).status == "paid"


def test_a_bill_in_a_currency_that_the_account_cannot_charge_waits_and_goes_on_when_it_can(market: Market) -> None:
    sub = with_usage(market, 0)
    market.system.emulator.account(market.account).currencies = frozenset({"eur"})
    market.run_until(DUE + timedelta(hours=1))
    (listed,) = market.ask("GET", "/bills?state=parked").body["items"]
    assert (listed["subscription"], listed["reason"]) == (sub, "currency_refused")
    market.system.emulator.account(market.account).currencies = None
    market.ask("POST", f"/bills/{listed['id']}/release")
    market.run(minutes=1)
    assert market.bill(sub, FEBRUARY).status == "paid"


def test_a_refusal_to_finalize_is_not_told_again_to_a_bill_that_was_released(market: Market) -> None:
    sub = with_usage(market, 0)
    fault = Fault("not_offered", path="/v1/invoices/.*/finalize")
    market.system.emulator.faults.append(fault)
    market.run_until(DUE + timedelta(hours=1))
    bill = market.bill(sub, FEBRUARY)
    assert (bill.status, bill.invoice is None) == ("parked", False)
    market.ask("POST", f"/bills/{bill.id}/release")
    market.run(minutes=1)
    assert market.bill(sub, FEBRUARY).status == "paid"
    assert market.bill(sub, FEBRUARY).invoice == bill.invoice


# --- clocks and other runs ---


def test_a_clock_that_jumps_months_ahead_and_back_bills_each_month_once(market: Market) -> None:
    sub = with_usage(market, 0)
    market.system.clock.move_to(datetime(2026, 4, 2, 3, tzinfo=UTC))
    now, ports = market.system.clock.now(), wiring.billing()
    done = billing.bill_subscription(sub, now, replace(ports, throttle=_Free()))
    assert [each.outcome for each in (*done.before, done)] == ["sent", "sent", "sent"]
    back = billing.bill_subscription(sub, DUE, replace(ports, throttle=_Free()))
    assert back.outcome == "not_due"
    again = billing.bill_subscription(sub, now, replace(ports, throttle=_Free()))
    assert again.outcome == "not_due"
    assert [market.bill(sub, edge).subtotal for edge in (FEBRUARY, MARCH, APRIL)] == [4900, 4900, 4900]


class _Free:
    def reserve(self, _account: str, _now: datetime) -> float:
        return 0.0


def test_runs_at_once_and_a_run_that_outlives_the_next_tick_bill_everything_once(market: Market) -> None:
    """The queue stands still over three ticks and two runs that an operator began: everything is enqueued again."""
    subs = [with_usage(market, 0, org) for org in ("a", "b", "c")]
    market.run_until(DUE)
    before = len(writes(market))
    for hours in range(4):
        market.system.clock.move_to(DUE + timedelta(hours=hours))
        assert market.ask("POST", "/billing-runs", {"dry_run": False}, **OPERATOR).status == 202
    runs = market.ask("GET", "/billing-runs", **OPERATOR).body["items"]
    assert [each["status"] for each in runs].count("running") == 1
    market.run(hours=1)
    assert {market.bill(sub, FEBRUARY).status for sub in subs} == {"paid"}
    assert sorted(writes(market)[before:]) == sorted(["invoices", "add_lines", "finalize", "pay"] * 3)
