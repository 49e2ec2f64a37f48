"""The simulator's own check: whatever is broken in a world that came to rest is said."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.simulate import scenarios
from local.simulate.check import check, orphans
from local.simulate.scenarios import FIRST
from local.simulate.world import CORE, ENVIRONMENT, START, USAGE, World, tables
from monetize import wiring

EDGE = f"{FIRST:%Y-%m-%dT%H:%M:%SZ}"
LAST = f"sub_1.{FIRST:%Y%m%dT%H%M%SZ}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    wiring.override()


def at_rest(seed: int = 4) -> World:
    """January was used, partly late, and billed; February too."""
    made = scenarios.at_second_end(seed)
    made.settle()
    assert check(made) == []
    return made


def row(made: World, table: str, pk: str, sk: str) -> dict[str, Any]:
    item: Any = tables(made.dynamodb)[table].space.partitions[pk].rows[sk].item
    assert isinstance(item, dict)
    return item


def edit(item: dict[str, Any], **members: Any) -> None:
    """Change a stored document where it lies: no record of a change says so."""
    item["doc"] = {"S": json.dumps(json.loads(item["doc"]["S"]) | members)}


def bill(made: World) -> dict[str, Any]:
    return row(made, CORE, "SUB#sub_1", f"BILL#{EDGE}")


def invoice(made: World) -> dict[str, Any]:
    """What Stripe holds of January's bill."""
    invoices = made.stripe.accounts[made.account].invoices.values()
    return next(each for each in invoices if each["metadata"].get("bill") == LAST)


def record(made: World) -> dict[str, Any]:
    """Our record of it."""
    partitions = tables(made.dynamodb)[CORE].space.partitions
    for pk in partitions:
        if str(pk).startswith("INV#") and f'"{invoice(made)["id"]}"' in partitions[pk].rows["INVOICE"].item["doc"]["S"]:
            return row(made, CORE, str(pk), "INVOICE")
    raise AssertionError("no record")


def rewrite(made: World, item: dict[str, Any], **members: Any) -> None:
    """Store an item again, as a bug of ours would: the tables' change records say so."""
    after = {**item, "rev": {"N": str(int(item["rev"]["N"]) + 1)}} if "rev" in item else dict(item)
    if members:
        edit(after, **members)
    made.dynamodb.put_item(TableName=CORE, Item=after)


def another_amount(made: World) -> None:
    edit(bill(made), subtotal=json.loads(bill(made)["doc"]["S"])["subtotal"] + 1)


def a_missing_bill(made: World) -> None:
    del tables(made.dynamodb)[CORE].space.partitions["SUB#sub_1"].rows[f"BILL#{EDGE}"]


def a_bill_left_behind(made: World) -> None:
    edit(bill(made), status="drafted")


def charged_again(made: World) -> None:
    charges = made.stripe.accounts[made.account].charges
    known = next(each for each in charges.values() if each["status"] == "succeeded")
    charges["ch_again"] = {**known, "id": "ch_again"}


def charged_for_nothing(made: World) -> None:
    charges = made.stripe.accounts[made.account].charges
    known = next(each for each in charges.values() if each["status"] == "succeeded")
    charges["ch_other"] = {**known, "id": "ch_other", "payment_intent": "pi_other"}


def a_counter_off_by_one(made: World) -> None:
    partitions = tables(made.dynamodb)[USAGE].space.partitions
    counter: Any = next(each for pk, each in partitions.items() if "sub_1#2026-01" in str(pk)).rows["COUNTER"].item
    name = next(each for each in counter if each[1:].isdigit())
    counter[name] = {"N": str(int(counter[name]["N"]) + 1)}


def late_usage_of_a_bill_that_is_not(made: World) -> None:
    partitions = tables(made.dynamodb)[USAGE].space.partitions
    late: Any = next(
        entry.item for each in partitions.values() for sk, entry in each.rows.items() if str(sk).startswith("LATE#")
    )
    late["bill"] = {"S": "sub_1.20990101T000000Z"}


def a_ledger_entry_that_is_gone(made: World) -> None:
    partitions = tables(made.dynamodb)[USAGE].space.partitions
    for each in partitions.values():
        for sk in [sk for sk in each.rows if str(sk).startswith("BATCH#")]:
            del each.rows[sk]


def lines_rewritten(made: World) -> None:
    rewrite(made, row(made, CORE, "SUB#sub_1", f"LINES#{EDGE}"))


def a_revision_left_out(made: World) -> None:
    item = bill(made)
    made.dynamodb.put_item(TableName=CORE, Item={**item, "rev": {"N": str(int(item["rev"]["N"]) + 2)}})


def a_move_back(made: World) -> None:
    rewrite(made, bill(made), status="claimed")


def another_place_in_the_to_do_list(made: World) -> None:
    edit(row(made, CORE, "SUB#sub_1", "SUBSCRIPTION"), due_at="2026-05-01T00:00:00Z")


def no_record(made: World) -> None:
    del tables(made.dynamodb)[CORE].space.partitions[record(made)["pk"]["S"]].rows["INVOICE"]


def a_record_of_another_amount(made: World) -> None:
    edit(record(made), amount=1)


def a_record_not_paid(made: World) -> None:
    edit(record(made), status="open")


def another_line_at_stripe(made: World) -> None:
    invoice(made)["lines"]["data"][0]["amount"] += 1


def another_total_at_stripe(made: World) -> None:
    invoice(made)["total_excluding_tax"] += 1


def an_invoice_of_no_bill(made: World) -> None:
    invoice(made)["metadata"]["bill"] = "sub_1.20990101T000000Z"


def an_unpaid_invoice(made: World) -> None:
    invoice(made)["status"] = "open"


def an_end_that_nobody_billed(made: World) -> None:
    edit(row(made, CORE, "SUB#sub_1", "SUBSCRIPTION"), ended_at=f"{START:%Y-%m-%d}T12:00:00Z")


BREAKAGES: dict[Callable[[World], None], str] = {
    another_amount: "owed are",
    a_missing_bill: "was billed at",
    a_bill_left_behind: "was left drafted",
    charged_again: "charged twice",
    charged_for_nothing: "invoices ask for",
    a_counter_off_by_one: "the counter",
    late_usage_of_a_bill_that_is_not: "which does not exist",
    a_ledger_entry_that_is_gone: "was accepted and is nowhere",
    lines_rewritten: "was rewritten",
    a_revision_left_out: "revision",
    a_move_back: "became claimed",
    another_place_in_the_to_do_list: "stands in the to-do list",
    no_record: "no record of",
    a_record_of_another_amount: "the record says",
    a_record_not_paid: "paid at Stripe",
    another_line_at_stripe: "Stripe's lines are",
    another_total_at_stripe: "Stripe asks for",
    an_invoice_of_no_bill: "no bill of ours",
    an_unpaid_invoice: "paid here and open at Stripe",
    an_end_that_nobody_billed: "was billed at",
}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda each: each.__name__)
def test_whatever_is_broken_is_said(breakage: Callable[[World], None]) -> None:
    made = at_rest()
    breakage(made)
    assert any(BREAKAGES[breakage] in sentence for sentence in check(made)), check(made)


def test_a_draft_that_no_bill_names_is_said() -> None:
    made = at_rest()
    assert orphans(made) == []
    known = invoice(made)
    invoices = made.stripe.accounts[made.account].invoices
    invoices["in_orphan"] = {**known, "id": "in_orphan", "status": "draft"}
    assert len(orphans(made)) == 1


def test_a_bill_before_its_time_is_said() -> None:
    made = scenarios.at_month_end(4)
    subscription = wiring.billing_table().subscription("sub_1")
    made.clock.move_to(subscription.due_at)
    changes = made.dynamodb.changes(CORE)
    made.settle()
    assert check(made) == []
    for change in made.dynamodb.changes(CORE)[len(changes) :]:
        if str(change.keys["sk"]["S"]) == f"BILL#{EDGE}":
            object.__setattr__(change, "at", FIRST)
    assert any("was claimed at" in sentence for sentence in check(made))
