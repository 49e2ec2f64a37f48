"""The stream reaches the bus: one story from a declined card to its payment, in order, each event once."""

import json
from datetime import UTC, datetime, timedelta

from local.client_errors import client_error
from local.system import System
from tests.integration.payment_fixtures import START, Shop, shop
from tests.integration.test_billing import open_shop

__all__ = ["shop"]


def test_a_declined_and_then_paid_invoice_is_told_in_order(shop: Shop) -> None:
    already = len(shop.system.outbox())
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.accept()
    shop.charge(made, attempt=1)
    shop.settle()
    told = [each.detail for each in shop.system.outbox(already)]
    assert [each["type"] for each in told if each["entity"]["id"] == made.id] == [
        "invoice.sent",
        "payment.failed",
        "payment.succeeded",
        "invoice.paid",
    ]
    mine = [each for each in told if each["entity"]["id"] == "sub_one"]
    assert [each["type"] for each in mine] == ["subscription.past_due", "subscription.payment_restored"]
    assert [each["sequence"] for each in mine] == sorted({each["sequence"] for each in mine})
    assert len({each["id"] for each in told}) == len(told)
    assert {each["version"] for each in told} == {"1"}
    assert {each["publisher"] for each in told} == {"acme"}
    assert all(shop.customer not in str(each) and made.stripe_id not in str(each) for each in told)


def test_an_event_that_the_bus_refuses_is_told_when_it_takes_it_again(shop: Shop) -> None:
    already = len(shop.system.outbox())
    real = shop.system.events.put_events
    shop.system.events.put_events = lambda *, Entries: {  # type: ignore[method-assign] # noqa: N803 # boto3's name
        "FailedEntryCount": len(Entries),
        "Entries": [{"ErrorCode": "ThrottlingException"} for _ in Entries],
    }
    made = shop.sent(charge=True)
    shop.settle()
    assert shop.system.outbox(already) == []
    shop.system.events.put_events = real  # type: ignore[method-assign]
    due = shop.system.next_due()
    assert due is not None
    shop.system.run_until(due)
    told = [each.detail["type"] for each in shop.system.outbox(already) if each.detail["entity"]["id"] == made.id]
    assert told == ["invoice.sent", "payment.succeeded", "invoice.paid"]


def test_a_bus_that_is_down_for_a_day_loses_nothing(shop: Shop) -> None:
    already, real = len(shop.system.outbox()), shop.system.events.put_events

    def down(**_: object) -> None:
        raise client_error("events", "PutEvents", "InternalFailure", "down")

    shop.system.events.put_events = down  # type: ignore[method-assign, assignment]
    made = shop.sent(charge=True)
    shop.system.run_for(timedelta(hours=20))
    shop.system.events.put_events = real  # type: ignore[method-assign]
    shop.system.run_for(timedelta(minutes=6))
    told = [each.detail["type"] for each in shop.system.outbox(already) if each.detail["entity"]["id"] == made.id]
    assert told == ["invoice.sent", "payment.succeeded", "invoice.paid"]
    assert shop.system.sqs.messages("OutboxDeadLetters") == []


def test_a_record_that_cannot_be_read_is_set_apart_and_those_around_it_are_told(shop: Shop) -> None:
    already = len(shop.system.outbox())
    before = shop.sent(charge=True)
    torn = {"pk": {"S": "SUB#odd"}, "sk": {"S": "SUBSCRIPTION"}, "doc": {"S": "{"}, "rev": {"N": "1"}}
    shop.table.client.put_item(TableName=shop.table.name, Item=torn)
    after = shop.sent(charge=True, edge=START + timedelta(days=31))
    shop.settle()
    told = {each.detail["entity"]["id"] for each in shop.system.outbox(already)}
    assert {before.id, after.id} <= told
    (letter,) = shop.system.sqs.messages("OutboxDeadLetters")
    assert json.loads(letter.body)["why"] == "DecodeError"
    assert set(json.loads(letter.body)) == {"position", "why"}


def test_a_crossed_threshold_reaches_the_bus_once(system: System) -> None:
    charge = {"id": "calls", "name": "Calls", "model": "per_unit", "meter": "{calls}", "unit_price": "1"}
    quota = {"meter": "{calls}", "quantity": 20, "per": "day"}
    sells = open_shop(system, {"name": "Gold", "terms": {"currency": "usd", "charges": [charge], "quotas": [quota]}})
    key = sells.subscriber.call("POST", f"/subscriptions/{sells.subscription}/keys", {"name": "k"})["key"]
    gateway, already = sells.world.as_gateway(sells.offer.gateway_key), len(system.outbox())
    sells.world.run_until(datetime(2026, 1, 2, 13, tzinfo=UTC))
    assert sells.use("2026-01-02", 18)["accepted"] == 18
    for hour in (14, 15):
        assert gateway.call("POST", "/entitlements/check", {"key": key})["allowed"]
        sells.world.run_until(datetime(2026, 1, 2, hour, tzinfo=UTC))
    told = [each.detail for each in system.outbox(already) if each.detail["type"] == "usage.threshold_crossed"]
    assert [(each["version"], each["publisher"], each["data"]["percent"]) for each in told] == [("1", "acme", 85)]
