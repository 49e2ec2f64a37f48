"""A publisher with a clock of its own: who gets one, what stands in its own part of the to-do list, what it bills."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.errors import Conflict
from monetize.domain.offers import time_of
from monetize.services import billing, onboarding
from tests.integration.billing_fixtures import Market
from tests.integration.test_runs import FEBRUARY, OPERATOR, market, with_usage

__all__ = ["market"]

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
MADE = "/monetization/publishers/trial/sandbox"
CLOCK = "/billing-runs/clock"


def sandbox(market: Market) -> None:
    """`trial` sells what acme sells, by its own clock."""
    market.sell("trial")
    made = market.ask("POST", MADE, **OPERATOR)
    assert made.status == 200, made.text


def move(market: Market, to: str) -> Any:
    return market.ask("POST", CLOCK, {"to": to}, org="trial")


def entries(market: Market, scope: str) -> set[str]:
    """What stands in one part of the to-do list."""
    items = market.system.dynamodb.scan(TableName=market.table.name)["Items"]
    parts = {keys.due_partition(shard, scope) for shard in range(keys.DUE_SHARDS)}
    return {item["pk"]["S"].partition("#")[2] for item in items if item.get("due_pk", {}).get("S") in parts}


def test_an_operator_gives_a_publisher_its_own_clock_and_months_are_billed_in_a_minute(market: Market) -> None:
    sandbox(market)
    assert market.ask("GET", "/monetization", org="trial").body["sandbox"] is True
    sub, real = market.subscribe(pub="trial"), with_usage(market, 0)
    market.run(minutes=1)
    to = "2026-04-02T01:00:00Z"
    assert move(market, to).body["now"] == to
    market.run(minutes=1)
    for edge in (FEBRUARY, MARCH, APRIL):
        assert (market.bill(sub, edge).status, market.bill(sub, edge).subtotal) == ("paid", 4900)
    assert market.subscription(sub).next_edge == datetime(2026, 5, 1, tzinfo=UTC)
    assert market.subscription(real).next_edge == FEBRUARY
    assert [each["action"] for each in market.ask("GET", "/audit?month=2026-01", org="trial").body["items"]].count(
        "monetization.sandbox"
    ) == 1


def test_only_an_operator_makes_a_sandbox_and_only_before_anybody_subscribed(market: Market) -> None:
    market.sell("trial")
    for roles in ("publisher_admin", "publisher_viewer", "subscriber", "gateway"):
        assert market.ask("POST", MADE, org="trial", roles=roles).code == "missing_role"
    assert market.ask("POST", MADE.replace("trial", "nobody"), **OPERATOR).code == "unknown_publisher"
    with_usage(market, 0)
    assert market.ask("POST", MADE.replace("trial", "acme"), **OPERATOR).code == "has_subscriptions"
    assert market.publisher("acme").sandbox is False
    first = market.ask("POST", MADE, **OPERATOR)
    again = market.ask("POST", MADE, **OPERATOR)
    assert (again.status, again.body, again.headers["etag"]) == (200, first.body, first.headers["etag"])


def test_who_charges_real_money_has_no_clock_of_its_own(market: Market) -> None:
    market.sell("trial")
    was = market.publisher("trial")
    assert was.stripe is not None
    market.store(replace(was, stripe=replace(was.stripe, livemode=True)))
    assert market.ask("POST", MADE, **OPERATOR).code == "live_mode"
    market.store(replace(was, rev=was.rev + 1))
    person = onboarding.Person("olga", "platform", "business", None)
    live = replace(wiring.onboarding(), livemode=True)
    with pytest.raises(Conflict) as refused:
        onboarding.make_sandbox(person, "trial", market.system.clock.now(), live)
    assert refused.value.code == "live_mode"
    assert market.publisher("trial").sandbox is False


def test_a_clock_is_for_sandboxes_and_goes_forward(market: Market) -> None:
    assert market.ask("POST", CLOCK, {"to": "2026-04-01T00:00:00Z"}).code == "not_a_sandbox"
    sandbox(market)
    assert move(market, "2026-01-01T00:00:00Z").code == "clock_goes_forward"
    assert move(market, "2026-04-01T00:00:00Z").status == 200
    assert move(market, "2026-03-31T23:59:59Z").code == "clock_goes_forward"
    assert move(market, "2036-01-01T00:00:00Z").code == "too_far"
    other = market.ask("POST", CLOCK, {"to": "2026-05-01T00:00:00Z", "publisher": "trial"}, org="acme")
    assert other.code == "not_a_sandbox", "a publisher names itself, whatever it says"


def test_a_sandbox_s_entries_are_in_their_own_part_before_its_clock_is_moved(market: Market) -> None:
    sandbox(market)
    sub = market.subscribe(pub="trial")
    assert entries(market, "trial") == {sub}
    assert entries(market, "") == set()
    market.run(hours=1, minutes=1)  # the tick looks at it, though nobody moved the clock
    assert len(entries(market, "trial")) == 1
    bills = wiring.report_table().bills_of(sub, None, 10).items
    assert [bill.status for bill in bills] == ["paid"]


def test_a_sandbox_s_open_bills_and_invoices_are_in_its_own_part_by_its_own_time(market: Market) -> None:
    sandbox(market)
    sub = market.subscribe(pub="trial")
    market.run(hours=1, minutes=1)
    market.ask("POST", "/billing-runs/hold", {"reason": "wait"}, org="trial")
    assert move(market, "2026-03-02T00:00:00Z").status == 200
    market.run(minutes=1)
    assert market.subscription(sub).next_edge == FEBRUARY

    class Busy:
        def reserve(self, _account: str, _now: datetime) -> float:
            return 60

    now = market.system.clock.now()
    ports = replace(wiring.billing(), throttle=Busy(), held=lambda *_: False)
    assert billing.bill_subscription(sub, now, ports).outcome == "waiting"
    bill = market.bill(sub, FEBRUARY)
    assert (bill.due_scope, bill.next_at) == ("trial", time_of(market.publisher("trial"), now) + billing.LEASE)
    assert sub in entries(market, "trial")
    assert entries(market, "") == set()
    market.ask("POST", "/billing-runs/release", {}, org="trial")
    market.run(hours=1, minutes=5)
    assert [market.bill(sub, edge).status for edge in (FEBRUARY, MARCH)] == ["paid", "paid"]


def test_a_release_bills_what_a_sandbox_owes_by_its_own_time_at_once(market: Market) -> None:
    sandbox(market)
    sub = market.subscribe(pub="trial")
    market.run(hours=1, minutes=1)
    for path, who in (("hold", {"org": "trial"}), ("hold", OPERATOR)):
        market.ask("POST", f"/billing-runs/{path}", {"reason": "wait"}, **who)
    assert move(market, "2026-03-02T00:00:00Z").status == 200
    market.run(minutes=1)
    market.ask("POST", "/billing-runs/release", {}, **OPERATOR)
    market.run(minutes=1)
    assert market.subscription(sub).next_edge == FEBRUARY  # its own hold stays
    market.ask("POST", "/billing-runs/release", {}, org="trial")
    market.run(minutes=1)
    assert [market.bill(sub, edge).status for edge in (FEBRUARY, MARCH)] == ["paid", "paid"]


def test_who_subscribed_in_the_moment_in_which_it_became_a_sandbox_comes_into_its_part(market: Market) -> None:
    market.sell("trial")
    sub = market.subscribe(pub="trial")
    was = market.publisher("trial")
    market.store(replace(was, sandbox=True))
    assert entries(market, "") == {sub}
    market.run(hours=1, minutes=1)
    assert market.subscription(sub).due_scope == "trial"
    assert sub in entries(market, "trial")


def test_an_invoice_made_by_a_clock_that_is_ahead_is_found_and_not_made_again(market: Market) -> None:
    """A bill that was claimed late looks for what may have been made for it, and Stripe dates that by the real time."""
    sandbox(market)
    sub = market.subscribe(pub="trial")
    market.run(hours=1, minutes=1)
    assert move(market, "2026-04-02T01:00:00Z").status == 200
    market.run(minutes=1)
    sent = market.bill(sub, FEBRUARY)
    content = wiring.billing_table().lines(sub, FEBRUARY)
    assert content is not None
    market.store(replace(sent, status="rated", invoice=None, belated=True, next_at=sent.edge))  # tables of before it
    assert billing.continue_bill(sent.id, market.system.clock.now(), wiring.billing(), placed=True).outcome == "sent"
    assert market.bill(sub, FEBRUARY).invoice == sent.invoice
