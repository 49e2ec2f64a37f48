"""A real run while it goes on: its sums at each moment, held and released, and its end."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from monetize import wiring
from monetize.services import billing
from tests.integration.billing_fixtures import GOLD, Market
from tests.integration.test_dry_runs import Busy
from tests.integration.test_runs import DUE, FEBRUARY, OPERATOR, market, with_usage

__all__ = ["market"]


def newest(market: Market) -> Any:
    """The newest run, as an operator sees it; its sums add up."""
    run = market.ask("GET", "/billing-runs?limit=1", **OPERATOR).body["items"][0]
    seen = market.ask("GET", f"/billing-runs/{run['id']}", **OPERATOR).body
    assert seen["found"] == sum(seen["counts"].values()) + (seen["left"] or 0)
    return seen


def test_a_run_s_sums_add_up_at_each_moment_held_and_released_twice_and_its_end_is_told_once(
    market: Market,
) -> None:
    market.sell("zenith", replace(GOLD, currency="eur"))
    subs = [with_usage(market, 0, org) for org in ("a", "b")]
    other = with_usage(market, 0, "c", pub="zenith")
    market.run(hours=2)
    market.ask("POST", "/billing-runs/hold", {"reason": "look"})
    market.run_until(DUE + timedelta(hours=2))
    seen = newest(market)
    assert (seen["status"], seen["counts"], seen["amounts"]) == ("running", {"sent": 1}, {"eur": 4900})
    assert (seen["left"], seen["found"]) == (2, 3)
    assert market.subscription(other).next_edge != FEBRUARY
    for _ in range(2):
        market.ask("POST", "/billing-runs/release", {})
    market.run(minutes=1)
    seen = newest(market)
    assert (seen["counts"], seen["amounts"]) == ({"sent": 3}, {"eur": 4900, "usd": 9800})
    assert (seen["left"], seen["found"], seen["seconds_left"]) == (0, 3, 0)
    assert [market.bill(sub, FEBRUARY).status for sub in subs] == ["paid", "paid"]
    market.run(hours=3)
    closed = newest(market)
    assert (closed["status"], closed["counts"], closed["amounts"]) == ("finished", seen["counts"], seen["amounts"])
    told = [each.detail for each in market.system.outbox(0) if each.detail["entity"]["id"] == closed["id"]]
    assert [each["type"] for each in told].count("run.finished") == 1


def test_a_run_goes_on_while_a_bill_waits_for_its_place(market: Market, monkeypatch: Any) -> None:
    """Nothing is due then; that the run is over would be told while its bills are still to be sent."""
    sub = with_usage(market, 0)
    market.run(hours=2)
    with monkeypatch.context() as patched:
        patched.setattr(type(wiring.billing().throttle), "reserve", lambda *_: 3 * 3600.0)
        market.run_until(DUE + timedelta(minutes=15))
    assert market.bill(sub, FEBRUARY).status == "rated"
    seen = newest(market)
    assert (seen["left"], seen["found"]) == (1, 1)
    market.run(hours=2)
    assert newest(market)["status"] == "running"
    market.run(hours=4)
    closed = newest(market)
    assert (closed["status"], closed["counts"], closed["amounts"]) == ("finished", {"sent": 1}, {"usd": 4900})


def test_a_hold_after_some_were_sent_stops_the_rest_before_stripe(market: Market) -> None:
    subs = [with_usage(market, 0, org) for org in ("a", "b", "c")]
    market.run_until(DUE)
    now, ports = market.system.clock.now(), wiring.billing()
    assert billing.bill_subscription(subs[0], now, ports).outcome == "sent"
    waits = billing.bill_subscription(subs[1], now, replace(ports, throttle=Busy()))
    assert waits.outcome == "waiting"
    market.ask("POST", "/billing-runs/hold", {"reason": "look"})
    market.run(minutes=1)
    writes = [each for each in market.system.emulator.requests if each.method == "POST"]
    assert billing.continue_bill(waits.bill, now + timedelta(minutes=1), ports, placed=True).outcome == "on_hold"
    market.run(hours=3)
    assert [each for each in market.system.emulator.requests if each.method == "POST"] == writes
    market.ask("POST", "/billing-runs/release", {})
    market.run(hours=1, minutes=5)
    assert {market.bill(sub, FEBRUARY).status for sub in subs} == {"paid"}


def test_what_an_operator_releases_is_told_by_the_run_that_it_was_held_in(market: Market) -> None:
    sub = with_usage(market, 0)
    market.run(hours=2)
    market.ask("POST", "/billing-runs/hold", {"reason": "look"}, **OPERATOR)
    market.run_until(DUE + timedelta(hours=2))
    assert (newest(market)["left"], market.subscription(sub).next_edge) == (1, FEBRUARY)
    market.ask("POST", "/billing-runs/release", {}, **OPERATOR)
    market.run(minutes=1)
    seen = newest(market)
    assert (seen["counts"], seen["amounts"], seen["left"]) == ({"sent": 1}, {"usd": 4900}, 0)
