"""What a dry run counts: everything that would be paid, begun or still to come, once, and without any effect."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monetize import wiring
from monetize.services import billing, runs
from tests.integration.billing_fixtures import START, Market
from tests.integration.test_runs import DUE, FEBRUARY, OPERATOR, dry, everything, market, with_usage
from tests.integration.test_waiting_bills import MARCH, without_customer

__all__ = ["market"]


class Busy:
    """An account whose next place is a minute away."""

    def reserve(self, _account: str, _now: datetime) -> float:
        return 60


def results(market: Market, run: str, **who: Any) -> list[Any]:
    """All of them, by subscription and billing date."""
    found = market.ask("GET", f"/billing-runs/{run}/results", **who).body["items"]
    return sorted(found, key=lambda each: (each["subscription"], each["edge"]))


def begun(market: Market) -> dict[str, tuple[str, int, str]]:
    """February of five subscriptions: parked, held, waiting for its place, drafted, and still to be claimed."""
    expected: dict[str, tuple[str, int, str]] = {}
    parked, held, waits, drafted, due = (
        with_usage(market, calls, org) for calls, org in ((10, "a"), (900, "b"), (20, "c"), (30, "d"), (0, "e"))
    )
    was = without_customer(market, "a")
    market.settings(hold_above=5300)
    market.run_until(DUE)
    now, ports = market.system.clock.now(), wiring.billing()
    assert billing.bill_subscription(parked, now, ports).outcome == "parked"
    market.store(replace(was, rev=was.rev + 1))
    assert billing.bill_subscription(held, now, ports).outcome == "held"
    assert billing.bill_subscription(waits, now, replace(ports, throttle=Busy())).outcome == "waiting"

    def killed(*_: Any) -> Any:
        raise RuntimeError("killed after the draft was made")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(ports.invoices), "add_lines", killed)
        patched.setattr(type(ports.throttle), "reserve", lambda *_: 0.0)
        with pytest.raises(RuntimeError):
            billing.bill_subscription(drafted, now, ports)
    assert market.bill(drafted, FEBRUARY).status == "drafted"
    expected[parked] = ("parked", 4905, "customer_missing")
    expected[held] = ("held", 5350, "above_amount")
    expected[waits] = ("bill", 4910, "")
    expected[drafted] = ("bill", 4915, "")
    expected[due] = ("bill", 4900, "")
    return expected


@pytest.mark.parametrize("who", ["publisher", "operator"])
def test_bills_that_were_begun_are_in_a_dry_run_once_and_their_sum_is_what_is_charged_then(
    market: Market, who: str
) -> None:
    expected = begun(market)
    caller: dict[str, Any] = OPERATOR if who == "operator" else {"org": "acme", "roles": "publisher_admin"}
    before, asked = everything(market), len(market.system.emulator.requests)
    told = dry(market, **caller)
    assert everything(market) == before
    assert len(market.system.emulator.requests) == asked
    assert told["counts"] == {"parked": 1, "held": 1, "bill": 3}
    assert told["amounts"] == {"usd": sum(amount for _, amount, _ in expected.values())}
    if who == "publisher":
        found = results(market, told["id"])
        assert {each["subscription"]: (each["outcome"], each["amount"], each["reason"]) for each in found} == expected
        assert sum(each["amount"] for each in found) == told["amounts"]["usd"]
        assert sum(each["last"] for each in found) == told["last"]["usd"]
    assert told["outliers"][0]["reason"] == "customer_missing"
    for bill in market.ask("GET", "/bills").body["items"]:
        market.ask("POST", f"/bills/{bill['id']}/release")
    market.run(hours=4)
    assert {sub: market.bill(sub, FEBRUARY).subtotal for sub in expected} == {
        sub: amount for sub, (_, amount, _) in expected.items()
    }
    assert {market.bill(sub, FEBRUARY).status for sub in expected} == {"paid"}


def test_late_usage_counts_once_however_many_bills_a_dry_run_imagines(market: Market) -> None:
    """Late usage of January waits while March's bill is claimed and not rated; April's comes after it."""
    sub = with_usage(market)
    market.system.schedules.at_most_every = timedelta(days=1)
    market.run_until(MARCH)
    late = market.use(sub, 40, START + timedelta(minutes=40), first=1000)
    assert late.body["late"] == 40
    market.system.clock.move_to(MARCH + timedelta(hours=3))

    def killed(*_: Any) -> Any:
        raise RuntimeError("killed before anything was rated")

    now, ports = market.system.clock.now(), wiring.billing()
    with pytest.raises(RuntimeError):
        billing.bill_subscription(sub, now, replace(ports, rate=killed))
    assert market.bill(sub, MARCH).status == "claimed"
    told = dry(market, through="2026-04-02T00:00:00Z")
    found = results(market, told["id"])
    assert [(each["edge"][:7], each["outcome"], each["amount"]) for each in found] == [
        ("2026-03", "bill", 4900 + 20),
        ("2026-04", "bill", 4900),
    ]
    assert [each["last"] for each in found] == [5050, 4920]
    assert (told["counts"], told["amounts"]) == ({"bill": 2}, {"usd": 9820})
    market.run_until(datetime(2026, 4, 3, tzinfo=UTC))
    april = datetime(2026, 4, 1, tzinfo=UTC)
    assert [market.bill(sub, edge).subtotal for edge in (MARCH, april)] == [4920, 4900]


def test_what_is_claimed_while_a_dry_run_passes_is_in_it_once(market: Market) -> None:
    """The subscription's shard was counted before a worker claimed its bill, the bill's shard after."""
    sub = with_usage(market)
    market.system.clock.move_to(DUE)
    ports, now = wiring.runs(), market.system.clock.now()
    run = runs.begin_dry(runs.Who("ann", "acme", operator=False), "acme", None, now, ports)
    shards = [shard for shard in range(64) if _has(market, sub, shard)]
    runs.dry_steps(run.id, shards[0], now, ports)
    billing.bill_subscription(sub, now, replace(wiring.billing(), throttle=Busy()))
    assert market.bill(sub, FEBRUARY).status == "claimed"
    market.system.pump()
    told = market.ask("GET", f"/billing-runs/{run.id}").body
    assert (told["status"], told["counts"], told["amounts"]) == ("finished", {"bill": 1}, {"usd": 5050})


def _has(market: Market, sub: str, shard: int) -> bool:
    page, _ = wiring.runs().runs.due_page(shard, None, DUE, "", 10)
    return any(due.id == sub for _, due in page)


def test_a_change_and_an_end_that_are_still_to_come_are_in_a_dry_run(market: Market) -> None:
    sub = with_usage(market, 0)
    etag = market.ask("GET", f"/subscriptions/{sub}", org="dev", roles="subscriber").headers["etag"]
    ended = market.ask(
        "POST",
        f"/subscriptions/{sub}/cancel",
        {"when": "period_end"},
        org="dev",
        roles="subscriber",
        headers={"if-match": etag},
    )
    assert ended.status == 200, ended.text
    assert market.use(sub, 100, START + timedelta(minutes=30)).body["accepted"] == 100
    told = dry(market, through="2026-03-03T00:00:00Z")
    assert (told["counts"], told["amounts"]) == ({"bill": 1}, {"usd": 50})  # no fee for a month that does not come
    market.run_until(datetime(2026, 2, 3, tzinfo=UTC))
    assert market.bill(sub, FEBRUARY).subtotal == 50


def test_what_waits_behind_a_parked_bill_is_priced_as_if_that_was_released(market: Market) -> None:
    sub = with_usage(market)
    market.system.clock.move_to(DUE)
    now, ports = market.system.clock.now(), wiring.billing()

    def refused(*_: Any) -> Any:
        raise billing.Parked("subscription_missing")

    assert billing.bill_subscription(sub, now, replace(ports, rate=refused)).outcome == "parked"
    told = dry(market, through="2026-03-02T00:00:00Z")
    found = results(market, told["id"])
    assert [(each["edge"][:7], each["outcome"], each["reason"], each["amount"]) for each in found] == [
        ("2026-02", "parked", "subscription_missing", 5050),
        ("2026-03", "parked", "previous_bill_open", 4900),
    ]
