"""The tables are those of an earlier moment, Stripe is not: whatever the moment was, nobody is charged twice."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Op, Table, put
from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.domain.drift import Report
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.publishers import Publisher
from monetize.services import billing, reconciling, runs
from tests.integration.test_billing import FEBRUARY, Shop, open_shop

MADE = FEBRUARY + timedelta(hours=35)  # after the grace and the tick that makes the bill
LATER = timedelta(days=5)  # Stripe has forgotten the keys
ANN = runs.Who("ann", "acme", operator=False)


SEEN = {
    "plain": {"absent", "claimed", "drafted", "sent", "paid"},
    "approved": {"held", "rated"},
    "edited": {"drafted"},
    "released": {"parked", "claimed"},
}

type Items = dict[tuple[str, str], dict[str, Any]]


def items(shop: Shop) -> Items:
    """The core table as it is."""
    page = shop.system.dynamodb.scan(TableName=wiring.core().name)
    assert "LastEvaluatedKey" not in page
    return {(item["pk"]["S"], item["sk"]["S"]): item for item in page["Items"]}


def restore(shop: Shop, then: Items) -> None:
    """The core table as it was then."""
    dynamodb, name, now = shop.system.dynamodb, wiring.core().name, items(shop)
    for (pk, sk), item in now.items():
        if (pk, sk) not in then:
            dynamodb.delete_item(TableName=name, Key={"pk": {"S": pk}, "sk": {"S": sk}})
        elif item != then[pk, sk]:
            dynamodb.put_item(TableName=name, Item=then[pk, sk])
    for key in then.keys() - now.keys():
        dynamodb.put_item(TableName=name, Item=then[key])


def reconcile(shop: Shop) -> Report:
    return reconciling.reconcile("acme", shop.system.clock.now(), lambda: True, wiring.reconciling())


def bill_on(shop: Shop) -> None:
    """What the workers do once billing goes on: every bill that is open, then everything due."""
    ports, now = wiring.billing(), shop.system.clock.now()
    for bill in shop.bills() * 2:  # a draft that is gone is noticed, and then another is made
        billing.continue_bill(bill.id, now, ports)
    billing.bill_subscription(shop.subscription, now, ports)
    shop.system.pump()


def held(shop: Shop) -> list[tuple[str, str, int]]:
    return [
        (each["id"], each["status"], each["amount_paid"])
        for each in shop.system.emulator.account(shop.account).invoices.values()
        if not each.get("deleted")
    ]


def charges(shop: Shop) -> int:
    return len(shop.system.emulator.account(shop.account).charges)


def plain(shop: Shop) -> None:
    shop.world.run_until(MADE)


def approved(shop: Shop) -> None:
    """The bill is above what may be sent unseen, and a person releases it."""
    publisher = wiring.core().get(Publisher, keys.publisher("acme"))
    wiring.core().write(put(replace(publisher, settings=replace(publisher.settings, hold_above=1))))
    shop.world.run_until(MADE)
    assert shop.bills()[-1].status == "held"
    runs.release_bill(ANN, shop.bills()[-1], shop.system.clock.now(), wiring.runs())
    shop.system.pump()


def edited(shop: Shop) -> None:
    """Somebody changed the draft, so it was parked; released, it was made anew."""

    def meddle(moment: str, request: Any) -> None:
        if moment == "after" and request.path.endswith("/add_lines"):
            shop.system.emulator.on_call = None
            (draft,) = [
                each
                for each in shop.system.emulator.account(shop.account).invoices.values()
                if each["status"] == "draft"
            ]
            line = draft["lines"]["data"][0]
            draft["lines"]["data"] = [{**line, "amount": line["amount"] + 1}]
            draft["total"] += 1
            raise RuntimeError("the answer was lost")

    shop.system.emulator.on_call = meddle
    shop.world.run_until(MADE)
    billing.continue_bill(shop.bills()[-1].id, shop.system.clock.now(), wiring.billing())
    shop.system.pump()
    assert shop.bills()[-1].attempt == 1


def released(shop: Shop) -> None:
    """The total differed, so it was parked with its draft; a person looked and released it."""
    honest = StripeInvoices.add_lines

    def one_cent_more(self: Any, wanted: Any, invoice: str, lines: Any) -> Any:
        sent = honest(self, wanted, invoice, lines)
        return replace(sent, subtotal=sent.subtotal + 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StripeInvoices, "add_lines", one_cent_more)
        shop.world.run_until(MADE)
    assert shop.bills()[-1].status == "parked"
    runs.release_bill(ANN, shop.bills()[-1], shop.system.clock.now(), wiring.runs())
    shop.system.pump()


STORIES: dict[str, Callable[[Shop], None]] = {
    "plain": plain,
    "approved": approved,
    "edited": edited,
    "released": released,
}


def told(shop: Shop, story: str, later: timedelta) -> tuple[list[Items], list[tuple[str, str, int]], int]:
    """The February bill is made, paid and heard of; answers the moments before, and what Stripe holds since."""
    shop.world.run_until(FEBRUARY)
    shop.use("2026-01-20", 40)
    moments, real = [items(shop)], Table.write

    def noted(table: Table, *ops: Op) -> None:
        real(table, *ops)
        moments.append(items(shop))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Table, "write", noted)
        STORIES[story](shop)
    shop.system.clock.move_to(MADE + later)
    assert shop.bills()[-1].status == "paid", shop.bills()[-1]
    return moments, held(shop), charges(shop)


@pytest.mark.parametrize("story", STORIES)
def test_whatever_a_restored_bill_was_doing_its_invoice_is_adopted_and_billing_goes_on(
    system: System, story: str
) -> None:
    shop = open_shop(system)
    moments, expected, charged = told(shop, story, LATER)
    final, seen = shop.bills()[-1], set[str]()
    for moment in reversed(moments):
        restore(shop, moment)
        status = next((bill.status for bill in shop.bills() if bill.edge == final.edge), "absent")
        seen.add(status)
        report = reconcile(shop)
        assert {outcome for name, _ in report.counts for outcome in [name.partition(":")[2]]} <= {"repaired"}, report
        bill_on(shop)
        assert reconcile(shop).clean
        assert held(shop) == expected
        assert charges(shop) == charged
        (bill,) = [each for each in shop.bills() if each.edge == final.edge]
        assert (bill.status, bill.invoice, bill.subtotal) == ("paid", final.invoice, final.subtotal)
        if status in ("parked", "held"):
            assert wiring.core().query(keys.parked("acme").pk).items == ()
        invoice = wiring.core().get(Invoice, keys.invoice(billing.invoice_id(bill)))
        assert invoice is not None
        assert (invoice.status, invoice.amount) == ("paid", final.subtotal)
        assert wiring.core().get(BillLines, keys.bill_lines(bill.subscription, bill.edge)) is not None
    assert SEEN[story] <= seen


@pytest.mark.parametrize("later", [timedelta(hours=1), timedelta(hours=22), LATER], ids=str)
@pytest.mark.parametrize("story", STORIES)
def test_billing_that_goes_on_too_early_finds_the_invoice_instead_of_making_another(
    system: System, story: str, later: timedelta
) -> None:
    shop = open_shop(system)
    moments, expected, charged = told(shop, story, later)
    for moment in reversed(moments):
        restore(shop, moment)
        for bill in shop.bills():
            if bill.status in ("held", "parked"):
                runs.release_bill(ANN, bill, shop.system.clock.now(), wiring.runs())
        bill_on(shop)
        shop.system.pump()
        assert held(shop) == expected
        assert charges(shop) == charged
    assert reconcile(shop).money_findings == 0
