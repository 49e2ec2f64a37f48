"""Discounts of a subscription: given by its publisher, taken by bills when they are claimed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.http_client import Refused
from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.errors import Conflict
from monetize.domain.subscriptions import (
    MOST_DISCOUNTS,
    Discount,
    Subscription,
    billed,
    discounts_in_force,
    with_discount,
)
from monetize.services import billing
from tests.integration import subscribing_fixtures
from tests.integration.billing_fixtures import Market, market
from tests.integration.subscribing_fixtures import Answer
from tests.integration.subscribing_fixtures import shop as counter
from tests.integration.test_billing import FEBRUARY, GRACE, MARCH, Shop, open_shop, shop

__all__ = ["counter", "market", "shop"]

APRIL = datetime(2026, 4, 1, tzinfo=UTC)


def give(shop: Shop, key: str = "d1", **discount: Any) -> Any:
    return shop.publisher.call("POST", f"{_path(shop)}/discounts", discount, Idempotency_Key=key)


def take_back(shop: Shop, discount: str) -> Any:
    return shop.publisher.call("DELETE", f"{_path(shop)}/discounts/{discount}")


def seen(shop: Shop) -> Mapping[str, Any]:
    """The discounts as the subscriber sees them, by id: the bill that used each."""
    told = shop.subscriber.call("GET", _path(shop))["discounts"]
    return {each["id"]: each["used_by"] for each in told}


def totals(shop: Shop) -> list[int]:
    return [invoice["total"] for invoice in shop.invoices()][1:]  # without the opening one


def _path(shop: Shop) -> str:
    return f"/subscriptions/{shop.subscription}"


# --- what bills make of them ---


def test_a_discount_for_ever_comes_off_every_bill_and_is_in_the_upcoming_one(shop: Shop) -> None:
    made = give(shop, percent="12.50")
    assert (made["percent"], made["amount"], made["once"], made["used_by"]) == ("12.5", None, False, None)
    assert shop.subscriber.call("GET", f"{_path(shop)}/upcoming")["subtotal"] == 875
    shop.world.run_until(MARCH + GRACE)
    assert totals(shop) == [875, 875]
    assert seen(shop) == {made["id"]: None}


def test_a_discount_given_once_is_used_by_exactly_one_bill(shop: Shop) -> None:
    made = give(shop, amount=300, once=True)
    assert shop.subscriber.call("GET", f"{_path(shop)}/upcoming")["subtotal"] == 700
    assert seen(shop) == {made["id"]: None}, "what is looked at uses nothing"
    shop.world.run_until(MARCH + GRACE)
    assert totals(shop) == [700, 1000]
    assert seen(shop) == {made["id"]: shop.bills()[1].id}


def test_discounts_come_off_one_after_the_other_in_the_order_they_were_given(shop: Shop) -> None:
    give(shop, "one", amount=200)
    give(shop, "two", percent="50")
    shop.world.run_until(FEBRUARY + GRACE)
    assert totals(shop) == [400]


def test_an_amount_above_a_bill_takes_it_to_nothing_and_leaves_no_credit(shop: Shop) -> None:
    give(shop, amount=5000, once=True)
    shop.world.run_until(MARCH + GRACE)
    assert [(bill.status, bill.subtotal, bill.carry_out) for bill in shop.bills()[1:]] == [
        ("empty", 0, 0),
        ("paid", 1000, 0),
    ]


def test_a_discount_given_once_is_for_the_next_bill_even_when_that_charges_nothing(system: System) -> None:
    charge = {"id": "calls", "name": "Calls", "model": "per_unit", "meter": "{calls}", "unit_price": "10"}
    shop = open_shop(system, {"name": "Gold", "terms": {"currency": "usd", "charges": [charge]}})
    made = give(shop, percent="50", once=True)
    shop.world.run_until(FEBRUARY + GRACE)
    assert [bill.status for bill in shop.bills()] == ["empty"]
    assert seen(shop) == {made["id"]: shop.bills()[0].id}
    shop.use("2026-02-03", 20)
    shop.world.run_until(MARCH + GRACE)
    assert [invoice["total"] for invoice in shop.invoices()] == [200]


def test_a_dry_run_gives_a_discount_once_to_its_first_bill_alone(shop: Shop) -> None:
    made = give(shop, amount=300, once=True)
    shop.world.run_until(FEBRUARY)
    run = shop.publisher.call("POST", "/billing-runs", {"dry_run": True, "through": (MARCH + GRACE).isoformat()})
    shop.world.settle()
    results = shop.publisher.call("GET", f"/billing-runs/{run['id']}/results")["items"]
    assert sorted((each["edge"][:10], each["amount"]) for each in results) == [
        ("2026-02-01", 700),
        ("2026-03-01", 1000),
    ]
    assert seen(shop) == {made["id"]: None}


@pytest.mark.parametrize("let_off", ["waived", "void"])
def test_a_discount_given_once_stays_used_by_a_bill_that_is_let_off(market: Market, let_off: str) -> None:
    market.settings(collection="send_invoice", hold_above=4000 if let_off == "waived" else None)
    sub = market.subscribe()
    market.run(hours=1)
    discounts = f"/subscriptions/{sub}/discounts"
    key = {"Idempotency-Key": "once"}
    made = market.ask("POST", discounts, {"amount": 300, "once": True}, headers=key)
    assert made.status == 201, made.text
    _billed_until(market, FEBRUARY + timedelta(hours=5))
    bill = market.bill(sub, FEBRUARY)
    assert bill.subtotal == 4600
    if let_off == "waived":
        done = market.ask("POST", f"/bills/{bill.id}/waive", {"reason": "goodwill"})
    else:
        void = f"/invoices/{billing.invoice_id(bill)}/void"
        done = market.ask("POST", void, {}, headers={"Idempotency-Key": "void"})
    assert done.status == 200, done.text
    market.settings(hold_above=None)
    _billed_until(market, MARCH + timedelta(hours=5))
    assert [market.bill(sub, edge).status for edge in (FEBRUARY, MARCH)] == [let_off, "sent"]
    assert market.bill(sub, MARCH).subtotal == 4900
    told = market.ask("GET", f"/subscriptions/{sub}", org="dev", roles="subscriber").body["discounts"]
    assert [(each["id"], each["used_by"]) for each in told] == [(made.body["id"], bill.id)]


def _billed_until(market: Market, instant: datetime) -> None:
    """No hourly ticks on the way."""
    market.system.clock.move_to(instant)
    market.ask("POST", "/billing-runs", {"dry_run": False}, org="platform", roles="operator")
    market.system.pump()


# --- the claim ---


def killed_while_rating(shop: Shop) -> None:
    """February's bill is claimed and no more."""

    def rate(*_: Any) -> Any:
        raise RuntimeError("killed while rating")

    shop.system.clock.move_to(FEBRUARY + GRACE)
    with pytest.raises(RuntimeError):
        billing.bill_subscription(shop.subscription, FEBRUARY + GRACE, replace(wiring.billing(), rate=rate))
    assert shop.bills()[-1].status == "claimed"


def test_a_claimed_bill_keeps_the_discounts_of_its_claim_whatever_is_given_or_taken_back_after(shop: Shop) -> None:
    once, ever = give(shop, "once", amount=300, once=True), give(shop, "ever", amount=100)
    killed_while_rating(shop)
    assert seen(shop) == {once["id"]: shop.bills()[-1].id, ever["id"]: None}
    take_back(shop, ever["id"])
    give(shop, "later", amount=50)
    shop.world.run_until(MARCH + GRACE)
    assert totals(shop) == [600, 950]


def test_what_a_bill_has_used_cannot_be_taken_back(shop: Shop) -> None:
    made = give(shop, amount=300, once=True)
    killed_while_rating(shop)
    with pytest.raises(Refused, match="discount_used"):
        take_back(shop, made["id"])


def test_a_discount_given_between_reading_and_claiming_refuses_the_claim_and_is_in_it(shop: Shop) -> None:
    ports = wiring.billing()
    claims: list[bool] = []

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(ports.store, name)

        def claim(self, *asked: Any) -> bool:
            if not claims:
                give(shop, amount=300, once=True)
            claims.append(ports.store.claim(*asked))
            return claims[-1]

    shop.system.clock.move_to(FEBRUARY + GRACE)
    billing.bill_subscription(shop.subscription, FEBRUARY + GRACE, replace(ports, store=Store()))
    assert claims == [False, True]
    assert totals(shop) == [700]
    assert list(seen(shop).values()) == [shop.bills()[-1].id]


def test_a_claim_uses_up_what_was_given_once_and_nothing_else() -> None:
    ever, once, former = (
        Discount(id="ever", percent="10"),
        Discount(id="once", amount=1, once=True),
        Discount(id="former", amount=1, once=True, used_by="another"),
    )
    subscription = Subscription(
        id="sub_1",
        publisher="acme",
        subscriber="dev",
        application="app",
        product="api",
        apis=(),
        tier="gold",
        status="active",
        discounts=(ever, once, former),
        created_at=FEBRUARY,
    )
    assert discounts_in_force(subscription) == (ever, once)
    after = billed(subscription, FEBRUARY, 24)
    assert after.discounts == (ever, replace(once, used_by="sub_1.20260201T000000Z"), former)
    assert discounts_in_force(after) == (ever,)


def test_a_subscription_has_so_many_discounts_at_most_and_used_ones_make_room() -> None:
    subscription = Subscription(
        id="sub_1",
        publisher="acme",
        subscriber="dev",
        application="app",
        product="api",
        apis=(),
        tier="gold",
        status="active",
        created_at=FEBRUARY,
    )
    for number in range(MOST_DISCOUNTS):
        subscription = with_discount(subscription, Discount(id=f"d{number}", amount=1, once=number in (3, 5)))
    with pytest.raises(Conflict, match="too_many_discounts"):
        with_discount(subscription, Discount(id="more", amount=1))
    subscription = with_discount(billed(subscription, FEBRUARY, 24), Discount(id="more", amount=1))
    known = [each.id for each in subscription.discounts]
    assert len(known) == MOST_DISCOUNTS
    assert ("d3" in known, "d5" in known, known[-1]) == (False, True, "more")


# --- giving and taking back ---

KEY = {"idempotency-key": "d1"}


def given(counter: subscribing_fixtures.Shop, subscription: str, body: Any = None, key: str = "d1") -> Answer:
    return counter.ask("post_discount", subscription, org="acme", body=body, headers={"idempotency-key": key})


def test_a_discount_is_given_once_for_one_key_for_ever(counter: subscribing_fixtures.Shop) -> None:
    subscription = counter.paying()
    first = given(counter, subscription, {"percent": "10"})
    assert first.status == 201, first.text
    assert given(counter, subscription, {"percent": "10.0"}).body["id"] == first.body["id"]
    assert len(counter.stored(subscription).discounts) == 1
    assert given(counter, subscription, {"percent": "10", "once": True}).code == "idempotency_key_reused"
    assert counter.ask("post_discount", subscription, org="acme").code == "idempotency_key_required"
    taken = counter.ask("delete_discount", subscription, first.body["id"], org="acme")
    assert (taken.status, taken.body["discounts"]) == (200, [])
    assert given(counter, subscription, {"percent": "10"}).code == "discount_gone"
    assert counter.ask("delete_discount", subscription, first.body["id"], org="acme").code == "unknown_discount"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "bad_discount"),
        ({"percent": "10", "amount": 5}, "bad_discount"),
        ({"percent": "0"}, "bad_percent"),
        ({"percent": "0.00"}, "bad_percent"),
        ({"percent": "100.01"}, "bad_percent"),
        ({"percent": "-1"}, "invalid_request"),
        ({"percent": 10}, "invalid_request"),
        ({"amount": 0}, "invalid_request"),
        ({"amount": 1.5}, "invalid_request"),
    ],
)
def test_a_discount_that_makes_no_sense_is_refused(
    counter: subscribing_fixtures.Shop, body: dict[str, Any], code: str
) -> None:
    subscription = counter.paying()
    assert given(counter, subscription, body).code == code
    assert counter.stored(subscription).discounts == ()


def test_an_amount_must_be_one_the_currency_can_be_charged_in(counter: subscribing_fixtures.Shop) -> None:
    subscription = counter.paying()
    for currency, refused, fine in (("isk", 150, 200), ("kwd", 15, 20)):
        counter.change(Subscription, keys.subscription(subscription), currency=currency)
        assert given(counter, subscription, {"amount": refused}, currency).code == "amount_not_chargeable"
        assert given(counter, subscription, {"amount": fine}, currency).status == 201


def test_the_publisher_gives_a_discount_before_an_order_begins_and_none_once_it_has_ended(
    counter: subscribing_fixtures.Shop,
) -> None:
    waiting = counter.order(counter.application()).body
    assert waiting["status"] == "pending_payment"
    assert given(counter, waiting["id"]).status == 201
    counter.ask("post_cancel", waiting["id"], body={"when": "now"})
    assert given(counter, waiting["id"], key="d2").code == "subscription_ended"
    free = counter.order(counter.application("F"), "tier_free").body["id"]
    assert given(counter, free).code == "discount_on_free_tier"


def test_a_subscriber_neither_gives_itself_a_discount_nor_takes_one_back(counter: subscribing_fixtures.Shop) -> None:
    subscription = counter.paying()
    made = given(counter, subscription).body["id"]
    assert counter.ask("post_discount", subscription, headers={"idempotency-key": "x"}).status == 404
    assert counter.ask("delete_discount", subscription, made).status == 404
    other = counter.paying(name="Two")
    assert counter.ask("delete_discount", other, made, org="acme").code == "unknown_discount"
    assert [each.id for each in counter.stored(subscription).discounts] == [made]


def test_what_was_given_and_taken_back_is_audited(counter: subscribing_fixtures.Shop) -> None:
    subscription = counter.paying()
    made = given(counter, subscription, {"percent": "12.5", "once": True}).body["id"]
    counter.ask("delete_discount", subscription, made, org="acme")
    items = counter.table.query(keys.audit("acme", "2026-03").pk).items
    entries = {each["action"]: each for each in (json.loads(item["doc"]["S"]) for item in items)}
    said = {"discount": made, "off": "12.5%", "once": "true"}
    assert entries["subscription.discount"]["after"] == said
    taken_back = entries["subscription.discount_taken_back"]
    assert (taken_back["before"], taken_back["actor"], taken_back["target"]) == (said, "dana", subscription)
