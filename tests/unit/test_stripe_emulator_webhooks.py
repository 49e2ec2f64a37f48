"""Events and their deliveries."""

import json
from datetime import timedelta
from typing import Any

import pytest
import stripe

from local.stripe_emulator import Delivery
from local.stripe_emulator.sample import Sample, sample
from local.stripe_emulator.webhooks import Event

SECRETS = ("whsec_old", "whsec_new")


@pytest.fixture
def shop() -> Sample:
    made = sample(webhook_secrets=SECRETS)
    for delivery in made.emulator.due_deliveries():
        made.emulator.deliver(delivery, 200)
    return made


def renamed(shop: Sample, name: str = "Bob") -> None:
    shop.client.v1.customers.update(shop.customer, {"name": name}, shop.options)


def test_a_delivery_is_signed_with_every_active_secret_at_the_clocks_time(shop: Sample) -> None:
    renamed(shop)
    [delivery] = shop.emulator.due_deliveries()
    header = delivery.headers["Stripe-Signature"]
    assert header.startswith(f"t={shop.emulator.now},v1=")
    for secret in SECRETS:
        assert stripe.WebhookSignature.verify_header(delivery.body, header, secret)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(delivery.body, header, "whsec_other")
    shop.emulator.webhooks.secrets = ["whsec_new"]
    renamed(shop)
    [rotated] = shop.emulator.due_deliveries()
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(rotated.body, rotated.headers["Stripe-Signature"], "whsec_old")


def test_an_event_is_a_snapshot_with_account_mode_version_and_request(shop: Sample) -> None:
    options: Any = {**shop.options, "idempotency_key": "k1"}
    shop.client.v1.customers.update(shop.customer, {"name": "Bob"}, options)
    renamed(shop, "Carl")
    body = json.loads(shop.emulator.due_deliveries()[0].body)
    assert (body["type"], body["account"], body["livemode"]) == ("customer.updated", shop.account.id, False)
    assert body["api_version"] == "2026-10-28.endive"
    assert body["request"]["idempotency_key"] == "k1"
    assert (body["data"]["object"]["name"], body["data"]["previous_attributes"]["name"]) == ("Bob", "Ann")


def test_the_same_event_is_readable_for_30_days_by_its_account_alone(shop: Sample) -> None:
    renamed(shop)
    body = json.loads(shop.emulator.due_deliveries()[0].body)
    events = shop.client.v1.events
    assert events.retrieve(body["id"], None, shop.options).to_dict() == body
    assert events.list({"type": "customer.updated"}, shop.options).data[0].id == body["id"]
    with pytest.raises(stripe.InvalidRequestError):
        events.retrieve(body["id"])
    shop.emulator.clock.advance(timedelta(days=31))
    renamed(shop)
    with pytest.raises(stripe.InvalidRequestError):
        events.retrieve(body["id"], None, shop.options)


def test_what_is_refused_is_retried_with_back_off_for_three_days(shop: Sample) -> None:
    clock = shop.emulator.clock
    renamed(shop)
    began, seen, waits = clock.now(), [], []
    while (at := shop.emulator.next_delivery_at()) is not None:
        waits.append(at - clock.now())
        clock.move_to(at)
        [delivery] = shop.emulator.due_deliveries()
        seen.append(delivery.event.id)
        shop.emulator.deliver(delivery, 500)
    assert len(set(seen)) == 1
    assert waits == sorted(waits)
    assert timedelta(days=2) < clock.now() - began <= timedelta(days=3)


def test_an_accepted_delivery_is_not_repeated(shop: Sample) -> None:
    renamed(shop)
    [delivery] = shop.emulator.due_deliveries()
    shop.emulator.deliver(delivery, 204)
    shop.emulator.clock.advance(timedelta(days=4))
    assert shop.emulator.due_deliveries() == []


def test_events_can_be_lost_doubled_and_reordered(shop: Sample) -> None:
    fates = iter([(), (timedelta(0), timedelta(seconds=5)), (timedelta(0),)])

    def fate(_event: Event) -> tuple[timedelta, ...]:
        return next(fates)

    shop.emulator.webhooks.fate = fate
    for name in ("lost", "doubled", "once"):
        renamed(shop, name)

    def names(deliveries: list[Delivery]) -> list[str]:
        return [json.loads(one.body)["data"]["object"]["name"] for one in deliveries]

    assert names(shop.emulator.due_deliveries()) == ["doubled", "once"]
    shop.emulator.clock.advance(timedelta(seconds=5))
    assert names(shop.emulator.due_deliveries()) == ["doubled"]
    listed = shop.client.v1.events.list({"type": "customer.updated", "limit": 3}, shop.options)
    assert [one.to_dict()["data"]["object"]["name"] for one in listed.data] == ["once", "doubled", "lost"]


def test_an_event_can_be_resent(shop: Sample) -> None:
    renamed(shop)
    [delivery] = shop.emulator.due_deliveries()
    shop.emulator.webhooks.redeliver(delivery.event, shop.emulator.clock.now())
    [again] = shop.emulator.due_deliveries()
    assert (again.body, again.id == delivery.id) == (delivery.body, False)


def test_a_live_endpoint_also_gets_test_events() -> None:
    shop = sample(livemode=True)
    renamed(shop)
    shop.emulator.inject_event(shop.account.id, "customer.updated", {"id": "cus_test"}, livemode=False)
    modes = [json.loads(one.body)["livemode"] for one in shop.emulator.due_deliveries()]
    assert modes[-2:] == [True, False]


def test_a_restricted_account_tells_the_platform(shop: Sample) -> None:
    shop.emulator.restrict(shop.account.id, currently_due=["company.tax_id"])
    assert [one.event.type for one in shop.emulator.due_deliveries()] == ["account.updated", "capability.updated"]
    account = shop.client.v1.accounts.retrieve(shop.account.id)
    assert account.charges_enabled is False
    assert account.requirements is not None
    assert account.requirements.currently_due == ["company.tax_id"]
