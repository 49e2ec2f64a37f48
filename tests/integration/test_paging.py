"""What comes in pages is read to its end, however little a page holds: DynamoDB's, and the lines of an invoice."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.services.counting import exact_usage
from monetize.services.running import fan_out
from tests.integration.test_billing import FEBRUARY, GRACE, TEN_A_CALL, Shop, open_shop, shop
from tests.integration.usage_fixtures import NOW, SUB, Metered, metered, usage_event

__all__ = ["metered", "shop"]

LINES = 12  # more than an invoice shows: ten


def test_everything_due_in_a_shard_is_enqueued_page_by_page(system: System) -> None:
    now = system.clock.now()
    for number in range(7):
        at = now - timedelta(hours=number)
        item = {"pk": f"SUB#{number}", "sk": "SUBSCRIPTION", "due_pk": keys.due_partition(3, "")}
        item["due_sk"] = f"{keys.instant(at)}#{number}#acme"
        table = wiring.core().name
        system.dynamodb.put_item(TableName=table, Item={name: {"S": text} for name, text in item.items()})
    system.dynamodb.cut_page = lambda: 2
    found = fan_out(3, now, wiring.running())
    assert (found.enqueued, found.oldest) == (7, now - timedelta(hours=6))
    assert fan_out(3, now, wiring.running()).enqueued == 0


@pytest.mark.parametrize("page", [1, 2, 3])
def test_the_ledger_of_a_day_is_read_to_its_end(metered: Metered, page: int) -> None:
    for number in range(7):
        metered.send(usage_event(number), usage_event(f"again-{number % 3}"))
    day = NOW.date()
    metered.usage.seal(SUB, day, day, metered.shards)
    for number in range(4):
        metered.send(usage_event(f"late-{number}"))
    metered.dynamodb.cut_page = lambda: page
    assert len(list(metered.usage.entries(SUB, day, day, metered.shards))) == 7
    refs = [each.ref for each in metered.usage.late_entries(SUB, day, day)]
    assert len(refs) == 4
    found = exact_usage(SUB, day, day, metered.shards, {1: "calls", 2: "bytes"}, metered.usage, refs)
    assert {meter: dict(days) for meter, days in found.quantities.items()} == {"calls": {day: 7 + 3 + 4}}
    month = date(2026, 11, 1), date(2026, 11, 30)
    whole = metered.usage.standing(SUB, *month, metered.shards, 10_000)
    assert (len(whole.entries or ()), dict(whole.totals)) == (7, {(day, 1): 14})


def told(shop: Shop) -> Any:
    """What a month comes to, in bills and at Stripe."""
    for day, calls in (("2026-01-02", 12), ("2026-01-05", 10), ("2026-01-31", 21)):
        shop.world.run_until(datetime.fromisoformat(f"{day}T13:00:00Z"))
        for lot in range(3):
            assert shop.use(day, calls, prefix=f"lot{lot}")["accepted"] == calls
    shop.world.run_until(FEBRUARY + GRACE)
    lists = [shop.publisher.all(path) for path in ("/tiers", "/plans", "/meters", "/invoices?side=publisher")]
    return (
        [(bill.edge, bill.status, bill.subtotal) for bill in shop.bills()],
        [(invoice["status"], invoice["total"]) for invoice in shop.invoices()],
        [len(list(each)) for each in lists],
    )


def test_a_month_comes_to_the_same_whatever_a_page_holds(system: System) -> None:
    system.dynamodb.cut_page = lambda: 1
    bills, invoices, lists = told(open_shop(system))
    assert [(status, amount) for _, status, amount in bills][1:] == [("paid", 1000 + 25 * (6 + 4 + 11))]
    assert invoices[1:] == [("paid", 1000 + 25 * (6 + 4 + 11))]
    assert (len(bills), lists) == (2, [4, 1, 1, 1])


def many_lines(system: System) -> Shop:
    """A subscription whose bill of February has `LINES` lines, of 100, 101, 102 …"""
    fees = [
        {"id": f"fee{n}", "name": f"Fee {n}", "model": "flat", "amount": 100 + n, "timing": "arrears"}
        for n in range(LINES)
    ]
    return open_shop(system, {"name": "Gold", "terms": {"currency": "usd", "charges": [*fees, TEN_A_CALL]}})


def filled_otherwise(monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    """The draft gets one line, after those that an invoice shows, dearer by so much, and another one cheaper."""
    adapter = type(wiring.billing().invoices)
    honest = adapter.add_lines

    def add_lines(self: Any, wanted: Any, invoice: str, lines: Sequence[Any]) -> Any:
        changed = [replace(lines[at], amount=lines[at].amount + more) for at, more in ((-2, by), (-1, -by))]
        return honest(self, wanted, invoice, [*lines[:-2], *changed])

    monkeypatch.setattr(adapter, "add_lines", add_lines)


@pytest.mark.parametrize(("by", "status"), [(0, "paid"), (7, "parked")])
def test_a_draft_is_compared_line_by_line_beyond_the_ten_that_it_shows(
    system: System, monkeypatch: pytest.MonkeyPatch, by: int, status: str
) -> None:
    shop = many_lines(system)
    shop.use("2026-01-01", 3)
    filled_otherwise(monkeypatch, by)
    shop.world.run_until(FEBRUARY + GRACE)
    bill = shop.bills()[-1]
    assert (bill.status, bill.reason) == (status, "total_differs" if by else "")
    (invoice,) = [each for each in shop.invoices() if each["total"]]
    assert (len(invoice["lines"]["data"]), invoice["lines"]["has_more"]) == (10, True)
    assert invoice["status"] == ("draft" if by else "paid")
