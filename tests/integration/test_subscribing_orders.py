"""Ordering, activation and keys, as a subscriber's portal sees them."""

from tests.integration.subscribing_fixtures import Shop, shop

__all__ = ["shop"]


def test_a_free_tier_is_active_at_once_and_stripe_hears_nothing(shop: Shop) -> None:
    answer = shop.order(shop.application(), "tier_free")
    assert answer.status == 201, answer.text
    assert answer.body["status"] == "active"
    assert answer.body["checkout"] is None
    assert answer.body["next_bill_at"] is None
    assert not shop.stripe.requests


def test_a_commercial_tier_waits_for_a_card_and_begins_when_it_is_left(shop: Shop) -> None:
    answer = shop.order(shop.application())
    assert answer.status == 201, answer.text
    assert answer.body["status"] == "pending_payment"
    assert answer.body["checkout"]["url"].startswith("https://")
    shop.card(answer)
    begun = shop.ask("get_subscription", answer.body["id"]).body
    assert begun["status"] == "active"
    assert begun["next_bill_at"] == "2026-03-12T19:04:00Z"
    assert shop.stored(begun["id"]).due_at == shop.clock.now()
    key = shop.ask("post_key", begun["id"])
    assert key.status == 201, key.text
    assert key.body["key"].startswith("mk_live_")
