"""Whole lives of subscriptions through the local system: orders, usage, corrections, changes, ends, and their bills."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local import story
from local.http_client import Api, Refused
from local.in_process import world_of
from local.system import System
from monetize import wiring
from tests.integration.test_billing import FEBRUARY, GRACE, MARCH, METER, WSO2, Shop, open_shop, shop

__all__ = ["shop"]


def refusal(api: Api, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and code of a request that is refused."""
    with pytest.raises(Refused) as refused:
        api.call(method, path, body, **headers)
    return refused.value.status, str(json.loads(refused.value.body)["code"])


def correction(shop: Shop, day: str, quantity: int) -> dict[str, Any]:
    return {
        "subscription": shop.subscription,
        "meter": shop.offer.meters["calls"],
        "day": day,
        "quantity": quantity,
        "reason": "counted twice",
    }


def test_until_the_last_bill_usage_is_accepted_and_billed_and_after_it_refused(shop: Shop) -> None:
    shop.world.run_until(FEBRUARY + GRACE)  # January is billed
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/pause")
    shop.world.run_until(datetime(2026, 2, 8, tzinfo=UTC))  # and February up to the pause
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    bills = len(shop.bills())
    shop.world.run_until(datetime(2026, 2, 8, 23, 59, tzinfo=UTC))
    assert len(shop.bills()) == bills
    told = shop.use("2026-01-20", 15)
    assert (told["accepted"], told["late"]) == (0, 15)
    told = shop.use("2026-02-03", 12)
    assert (told["accepted"], told["late"]) == (0, 12)
    shop.system.clock.move_to(datetime(2026, 2, 9, tzinfo=UTC))
    told = shop.use("2026-02-03", 20, prefix="after")
    assert {each["code"] for each in told["rejected"]} == {"subscription_ended"}
    assert (told["accepted"], told["late"], len(told["rejected"])) == (0, 0, 20)
    shop.world.run_until(datetime(2026, 2, 12, tzinfo=UTC))
    paused, last = shop.bills()[-2:]
    assert (last.last, len(last.late)) == (True, 2)
    assert last.returned == paused.carry_out + 25 + 25  # what the pause gave back pays for it


def test_what_a_last_bill_leaves_in_favour_of_the_subscriber_becomes_a_credit_note(shop: Shop) -> None:
    shop.world.run_until(FEBRUARY + GRACE)
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    shop.world.run_until(datetime(2026, 2, 7, 12, tzinfo=UTC))
    last = shop.bills()[-1]
    unused = round(1000 * (28 - 3) / 28)
    assert (last.last, last.subtotal, last.carry_out, last.returned) == (True, 0, 0, -unused)
    notes = list(shop.system.emulator.account(shop.account).credit_notes.values())
    assert [(note["amount"], note["invoice"]) for note in notes] == [(unused, shop.invoices()[-1]["id"])]


def test_a_correction_that_only_the_last_bill_can_take_becomes_a_credit_note_by_itself(shop: Shop) -> None:
    shop.world.run_until(FEBRUARY)
    shop.use("2026-01-20", 40)  # thirty above the allowance: 150
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.bills()[-1].subtotal == 1000 + 150
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    asked = correction(shop, "2026-01-20", -30)
    made = shop.publisher.call("POST", "/usage/corrections", asked, Idempotency_Key="counted twice")
    assert made["outcome"] == "late"
    shop.world.run_until(datetime(2026, 2, 7, 12, tzinfo=UTC))  # the last bill, and the day's reconciliation
    last, unused = shop.bills()[-1], round(1000 * (28 - 3) / 28)
    assert (last.last, last.subtotal, last.returned) == (True, 0, -(unused + 150))
    notes = list(shop.system.emulator.account(shop.account).credit_notes.values())
    assert [(note["amount"], note["invoice"]) for note in notes] == [(unused + 150, shop.invoices()[-1]["id"])]
    shop.world.run_until(datetime(2026, 2, 10, tzinfo=UTC))
    assert len(shop.system.emulator.account(shop.account).credit_notes) == 1


def test_a_correction_that_no_bill_could_take_is_refused(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 12, tzinfo=UTC))
    shop.use("2026-01-10", 31)
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    first = correction(shop, "2026-01-10", -10)
    made = shop.publisher.call("POST", "/usage/corrections", first, Idempotency_Key="first")
    assert made["outcome"] == "counted"
    shop.world.run_until(FEBRUARY)
    assert shop.bills()[-1].last
    later = correction(shop, "2026-01-10", -5)
    refused = refusal(shop.publisher, "POST", "/usage/corrections", later, Idempotency_Key="second")
    assert refused == (409, "subscription_ended")
    again = shop.publisher.call("POST", "/usage/corrections", first, Idempotency_Key="first")
    assert again["outcome"] == "repeated"


def test_an_opening_bill_paid_when_its_order_has_ended_is_given_back(system: System) -> None:
    shop, _ = wait_for_opening_bill(system, DECLINED_LATER)
    shop.world.run_until(datetime(2026, 1, 2, tzinfo=UTC))
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    invoice = shop.invoices()[-1]
    shop.world.form(invoice["hosted_invoice_url"], {"card": story.CARD, "exp_month": "12", "exp_year": "2040"})
    assert shop.invoices()[-1]["status"] == "paid"
    shop.world.run_until(datetime(2026, 1, 4, 12, tzinfo=UTC))
    assert status(shop) == "ended"
    notes = list(shop.system.emulator.account(shop.account).credit_notes.values())
    assert [note["amount"] for note in notes] == [invoice["total"]]


DECLINED_LATER = "4000000000000341"  # Stripe's test card that can be left and never charged
ON_PAYMENT = {
    "name": "Gold",
    "terms": {
        "currency": "usd",
        "activation": "on_payment",
        "charges": [{"id": "fee", "name": "Gold", "model": "flat", "amount": 1000, "timing": "advance"}],
    },
}


def open_offer(system: System, plan: Any) -> Shop:
    """A publisher with an offer that nobody subscribed to yet."""
    system.schedules.at_most_every = timedelta(hours=6)
    world = world_of(system)
    publisher = world.as_user("ann", "acme", "publisher_admin")
    account = story.connect_stripe(world, publisher, "Acme")["publisher"]["stripe"]["account"]
    offer = story.publish_offer(publisher, "acme", "Weather", plan, {"calls": METER})
    return Shop(system, world, account, offer, "")


def order(shop: Shop, application: str) -> dict[str, Any]:
    return {
        "publisher": "acme",
        "application": application,
        "product": shop.offer.api,
        "tier": shop.offer.gold_tier,
        "contact": {"name": "Bob", "email": "bob@globex.example", "country": "US"},
    }


def wait_for_opening_bill(system: System, card: str) -> tuple[Shop, str]:
    """An offer that begins when its opening bill is paid, and an order of bob's with that card."""
    shop = open_offer(system, ON_PAYMENT)
    application = shop.subscriber.call("POST", "/applications", {"publisher": "acme", "name": "App"})
    made = shop.subscriber.call("POST", "/subscriptions", order(shop, application["id"]))
    story.pay_with_card(shop.world, made["checkout"]["url"], card)
    shop.world.settle()
    return replace(shop, subscription=made["id"]), application["id"]


def status(shop: Shop) -> str:
    return str(shop.subscriber.call("GET", f"/subscriptions/{shop.subscription}")["status"])


def test_an_order_that_waits_for_its_opening_bill_begins_when_that_is_paid(system: System) -> None:
    shop, _ = wait_for_opening_bill(system, story.CARD)
    assert status(shop) == "pending_invoice"
    assert refusal(shop.subscriber, "POST", f"/subscriptions/{shop.subscription}/pause") == (
        409,
        "subscription_not_active",
    )
    shop.world.run_until(datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert status(shop) == "active"
    assert [(bill.status, bill.edge) for bill in shop.bills()] == [("paid", datetime(2026, 1, 1, 9, 30, tzinfo=UTC))]
    shop.world.run_until(FEBRUARY + GRACE)
    assert [(bill.status, bill.subtotal) for bill in shop.bills()][1:] == [("paid", 1000)]


def test_an_order_whose_opening_bill_is_never_paid_ends_and_owes_nothing(system: System) -> None:
    shop, application = wait_for_opening_bill(system, DECLINED_LATER)
    shop.world.run_until(datetime(2026, 1, 3, tzinfo=UTC))
    assert status(shop) == "pending_invoice"
    assert shop.invoices()[-1]["status"] == "open"
    shop.world.run_until(datetime(2026, 1, 6, tzinfo=UTC))
    assert status(shop) == "ended"
    assert [invoice["status"] for invoice in shop.invoices()] == ["void"]
    shop.world.run_until(FEBRUARY + GRACE)
    assert [bill.status for bill in shop.bills()] == ["void"]  # no last bill of what never began
    found = wiring.subscribing().store.subscription(shop.subscription)
    assert found is not None
    assert (found.payment_state, found.unpaid, found.due_at) == ("current", (), None)
    shop.subscriber.call("DELETE", f"/applications/{application}?publisher=acme")  # nothing holds it any more


def test_an_opening_bill_paid_with_another_card_begins_the_order(system: System) -> None:
    shop, _ = wait_for_opening_bill(system, DECLINED_LATER)
    shop.world.run_until(datetime(2026, 1, 2, tzinfo=UTC))
    checkout = shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/checkout")
    story.pay_with_card(shop.world, checkout["url"])
    shop.world.settle()
    shop.world.run_until(datetime(2026, 1, 2, 6, tzinfo=UTC))
    assert status(shop) == "active"


def test_an_order_that_is_cancelled_before_it_is_paid_owes_nothing(system: System) -> None:
    shop, _ = wait_for_opening_bill(system, DECLINED_LATER)
    shop.world.run_until(datetime(2026, 1, 2, tzinfo=UTC))
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    shop.world.run_until(datetime(2026, 1, 6, tzinfo=UTC))
    assert [invoice["status"] for invoice in shop.invoices()] == ["void"]
    assert [bill.status for bill in shop.bills()] == ["void"]


def test_a_correction_before_its_bill_changes_that_bill_and_one_after_it_the_next(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 13, tzinfo=UTC))
    shop.use("2026-01-10", 31)  # 21 above ten: five packages
    before = shop.publisher.call("POST", "/usage/corrections", correction(shop, "2026-01-10", -10), Idempotency_Key="1")
    assert before["outcome"] == "counted"
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 + 25 * 3  # 21 - 10 + 10 free ones: eleven above ten
    after = shop.publisher.call("POST", "/usage/corrections", correction(shop, "2026-01-10", -6), Idempotency_Key="2")
    assert after["outcome"] == "late"
    more = shop.publisher.call("POST", "/usage/corrections", correction(shop, "2026-01-11", 12), Idempotency_Key="3")
    assert more["outcome"] == "late"
    shop.world.run_until(MARCH + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 - 25 * 2 + 25  # six less on the 10th, two above ten on the 11th
    assert shop.bills()[-1].subtotal == 1000 - 25


def test_a_correction_twice_is_one(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 13, tzinfo=UTC))
    for outcome in ("counted", "repeated"):
        body = correction(shop, "2026-01-10", 12)
        made = shop.publisher.call("POST", "/usage/corrections", body, Idempotency_Key="1")
        assert made["outcome"] == outcome
    usage = shop.subscriber.call("GET", f"/subscriptions/{shop.subscription}/usage?from=2026-01-10&to=2026-01-10")
    assert [row["quantity"] for row in usage["items"]] == [12]
    assert usage["as_of"] == "2026-01-10T13:00:00Z"
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 + 25


PERIOD_ALLOWANCE = {
    "name": "Gold",
    "terms": {
        "currency": "usd",
        "charges": [
            {"id": "fee", "name": "Gold", "model": "flat", "amount": 1000, "timing": "advance"},
            {
                "id": "calls",
                "name": "Calls",
                "model": "per_unit",
                "meter": "{calls}",
                "unit_price": "10",
                "allowance": {"quantity": 28, "per": "period"},
            },
        ],
    },
}


def test_a_top_up_is_allowance_of_its_period_in_the_decision_and_in_the_bill(system: System) -> None:
    shop = open_shop(system, PERIOD_ALLOWANCE)
    shop.world.run_until(FEBRUARY + GRACE)
    key = shop.subscriber.call(
        "POST", f"/subscriptions/{shop.subscription}/keys", {"environment": "production", "name": "app"}
    )["key"]
    for _ in range(2):
        body = {"meter": shop.offer.meters["calls"], "quantity": 5}
        shop.publisher.call("POST", f"/subscriptions/{shop.subscription}/topups", body, Idempotency_Key="gift")
    shop.use("2026-02-03", 40)
    checked = shop.world.as_gateway(shop.offer.gateway_key).call("POST", "/entitlements/check", {"key": key})
    assert [(each["limit"], each["used"]) for each in checked["meters"]] == [(33, 40)]
    shop.world.run_until(MARCH + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 + 10 * (40 - 33)
    checked = shop.world.as_gateway(shop.offer.gateway_key).call("POST", "/entitlements/check", {"key": key})
    assert [(each["limit"], each["used"]) for each in checked["meters"]] == [(28, 0)]


def next_version(shop: Shop, price: int) -> str:
    """A second version of the plan, at another price; the plan's id."""
    plan = next(each for each in shop.publisher.all("/plans") if each["name"] == "Gold")
    wanted = {"wso2": {**WSO2, "meter": shop.offer.meters["calls"], "price": price, "currency": "usd"}}
    shop.publisher.call("POST", f"/plans/{plan['id']}/versions", wanted)
    shop.publisher.call("POST", f"/plans/{plan['id']}/publish")
    return str(plan["id"])


def move(shop: Shop, plan: str, when: str) -> str:
    body = {"from_version": 1, "to_version": 2, "when": when}
    return str(shop.publisher.call("POST", f"/plans/{plan}/moves", body)["id"])


def told(system: System, kind: str) -> list[Any]:
    return [event for event in system.events.recorded if event.detail_type == kind]


def test_a_bulk_move_at_the_periods_end_bills_each_period_by_its_own_version(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 15, tzinfo=UTC))
    plan = next_version(shop, 2000)
    made = move(shop, plan, "period_end")
    shop.world.run_until(datetime(2026, 1, 15, 6, tzinfo=UTC))
    watched = shop.publisher.call("GET", f"/plans/{plan}/moves/{made}")
    assert (watched["status"], watched["moved"]) == ("done", 1)
    (notice,) = told(shop.system, "subscription.change_scheduled")
    change = notice.detail["data"]["change"]
    assert (notice.detail["entity"]["id"], change["at"], change["version"]) == (
        shop.subscription,
        "2026-02-01T00:00:00Z",
        2,
    )
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 2000  # nothing used in January; February costs what version 2 says
    assert [each.detail["data"]["version"] for each in told(shop.system, "subscription.changed")] == [2]
    assert told(shop.system, "subscription.change_withdrawn") == []


def test_a_change_that_is_taken_back_is_told_too(shop: Shop) -> None:
    path = f"/subscriptions/{shop.subscription}/change"
    shop.subscriber.call("POST", path, {"tier": shop.offer.free_tier, "when": "period_end"})
    shop.subscriber.call("DELETE", path)
    shop.world.settle()
    assert len(told(shop.system, "subscription.change_scheduled")) == 1
    assert len(told(shop.system, "subscription.change_withdrawn")) == 1


def test_a_bulk_move_now_prorates_both_versions(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 15, 12, tzinfo=UTC))
    plan = next_version(shop, 2000)
    move(shop, plan, "now")
    shop.world.run_until(datetime(2026, 1, 17, 12, tzinfo=UTC))
    left = 31 - 14  # days from the midnight of the 15th
    assert shop.invoices()[-1]["total"] == round(2000 * left / 31) - round(1000 * left / 31)
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 2000


def test_an_order_keeps_the_version_it_was_made_for(system: System) -> None:
    """A new version published while the card is still awaited prices nobody who ordered before."""
    shop = open_offer(system, {"name": "Gold", "wso2": {**WSO2, "currency": "usd"}})
    application = shop.subscriber.call("POST", "/applications", {"publisher": "acme", "name": "App"})
    made = shop.subscriber.call("POST", "/subscriptions", order(shop, application["id"]))
    next_version(shop, 2000)
    story.pay_with_card(shop.world, made["checkout"]["url"])
    shop.world.settle()
    shop = replace(shop, subscription=made["id"])
    assert status(shop) == "active"
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 1000


def test_an_order_whose_tier_or_plan_is_withdrawn_meanwhile_still_begins_as_ordered(system: System) -> None:
    shop = open_offer(system, {"name": "Gold", "wso2": {**WSO2, "currency": "usd"}})
    application = shop.subscriber.call("POST", "/applications", {"publisher": "acme", "name": "App"})
    made = shop.subscriber.call("POST", "/subscriptions", order(shop, application["id"]))
    api = shop.publisher.answer("GET", f"/apis/{shop.offer.api}")
    tiers = {"tiers": [shop.offer.free_tier]}
    shop.publisher.call("PUT", f"/apis/{shop.offer.api}/tiers", tiers, If_Match=api.headers["etag"])
    story.pay_with_card(shop.world, made["checkout"]["url"])
    shop.world.settle()
    assert status(replace(shop, subscription=made["id"])) == "active"
    other = shop.subscriber.call("POST", "/applications", {"publisher": "acme", "name": "Other"})
    assert refusal(shop.subscriber, "POST", "/subscriptions", order(shop, other["id"])) == (409, "tier_not_offered")


def test_erasure_waits_for_the_last_bill_and_leaves_its_invoices(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 13, tzinfo=UTC))
    shop.use("2026-01-10", 31)
    erase = ("POST", "/subscriber/erase", {"publisher": "acme"})
    assert refusal(shop.subscriber, *erase) == (409, "subscriptions_live")
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "period_end"})
    shop.world.run_until(FEBRUARY + GRACE)
    shop.subscriber.call(*erase)
    account = shop.system.emulator.account(shop.account)
    assert [customer.get("deleted") for customer in account.customers.values()] == [True]
    assert [invoice["status"] for invoice in shop.invoices()] == ["paid", "paid"]
    kept = shop.subscriber.call("GET", "/invoices?publisher=acme")["items"]
    assert sorted(each["amount"] for each in kept) == sorted(bill.subtotal for bill in shop.bills())
    stored = json.dumps(shop.system.dynamodb.scan(TableName="CoreTable")["Items"], default=str)
    assert "bob@globex.example" not in stored


def test_totals_are_explained_by_their_batches(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 13, tzinfo=UTC))
    shop.use("2026-01-09", 4)
    shop.use("2026-01-10", 3)
    path, calls = f"/subscriptions/{shop.subscription}/usage", shop.offer.meters["calls"]
    by_day = shop.subscriber.call("GET", f"{path}?from=2026-01-01&to=2026-01-31&group=day")
    assert [(row["day"], row["quantity"]) for row in by_day["items"]] == [("2026-01-09", 4), ("2026-01-10", 3)]
    by_meter = shop.publisher.call("GET", f"{path}?from=2026-01-01&to=2026-01-31&group=meter")
    assert [(row["meter"], row["quantity"]) for row in by_meter["items"]] == [(calls, 7)]
    assert by_meter["as_of"] == "2026-01-10T13:00:00Z"
    ledger = shop.publisher.call("GET", f"{path}/ledger?day=2026-01-09")
    assert sum(batch["quantities"][calls] for batch in ledger["items"]) == 4
