"""Ordering, activation and keys, as a subscriber's portal sees them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from local.stripe_emulator import Fault
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.catalog import Product, Tier
from monetize.domain.keys import hashed
from monetize.domain.plans import Plan
from monetize.domain.publishers import BillingSettings, Publisher
from monetize.domain.subscriptions import Subscriber
from monetize.services import subscribing
from tests.integration.subscribing_fixtures import CONTACT, GOLD, NOW, Shop, shop

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
    assert answer.headers["Location"] == f"/subscriptions/{answer.body['id']}"
    assert answer.body["status"] == "pending_payment"
    assert answer.body["checkout"]["url"].startswith("https://")
    shop.card(answer)
    begun = shop.ask("get_subscription", answer.body["id"]).body
    assert begun["status"] == "active"
    assert begun["next_bill_at"] == "2026-03-12T19:04:00Z"
    assert shop.stored(begun["id"]).due_at == shop.clock.now()
    customer = shop.stripe.account(shop.account).customers.newest_first()
    held = next(iter(customer))
    assert held["email"] == "dev@example.com"
    assert held["invoice_settings"]["default_payment_method"]


def test_a_completed_checkout_told_twice_begins_it_once(shop: Shop) -> None:
    answer = shop.order(shop.application())
    shop.card(answer)
    first = shop.stored(answer.body["id"])
    shop.clock.advance(timedelta(hours=5))
    shop.completed(answer.body["checkout"]["id"])
    again = shop.stored(answer.body["id"])
    assert (again.status, again.spans, again.due_at) == (first.status, first.spans, first.due_at)


def test_with_a_card_on_file_it_is_active_at_once_for_the_same_customer(shop: Shop) -> None:
    shop.paying(name="One")
    made = len(list(shop.stripe.account(shop.account).customers.newest_first()))
    answer = shop.order(shop.application("Two"), "tier_platinum")
    assert answer.body["status"] == "active"
    assert answer.body["checkout"] is None
    assert len(list(shop.stripe.account(shop.account).customers.newest_first())) == made == 1


def test_the_address_of_the_checkout_is_stored_nowhere(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    headers = {"idempotency-key": "order-1"}
    url = shop.order(shop.application(), headers=headers).body["checkout"]["url"]
    for name in ("CoreTable", "IdempotencyTable"):
        assert url not in repr(shop.dynamodb.scan(TableName=name)["Items"])
    assert url not in capsys.readouterr().out


def test_the_same_order_again_answers_the_same_subscription_and_its_open_checkout(shop: Shop) -> None:
    application, headers = shop.application(), {"idempotency-key": "order-1"}
    first = shop.order(application, headers=headers)
    again = shop.order(application, headers=headers)
    assert (again.status, again.body["id"]) == (201, first.body["id"])
    assert again.body["checkout"]["id"] == first.body["checkout"]["id"]
    other = shop.order(application, "tier_platinum", headers=headers)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    # Another person's key of the same name is another key.
    foreign = shop.order(application, headers=headers, user="eve")
    assert foreign.code == "already_subscribed"


def test_a_second_order_for_the_same_application_and_api_is_refused(shop: Shop) -> None:
    application = shop.application()
    first = shop.order(application, "tier_free")
    second = shop.order(application)
    assert (second.status, second.code) == (409, "already_subscribed")
    assert second.body["subscription"] == first.body["id"]
    assert shop.order(shop.application("Other"), "tier_free").status == 201


@pytest.mark.parametrize("tier", ["tier_free", "tier_gold"])
def test_of_orders_at_once_one_wins(shop: Shop, tier: str) -> None:
    application = shop.application()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.order(application, tier), range(8)))
    won = [answer for answer in answers if answer.status == 201]
    assert len(won) == 1, [answer.text for answer in answers]
    assert {answer.code for answer in answers if answer.status != 201} <= {
        "already_subscribed",
        "changed_meanwhile",
        "stripe_unavailable",
    }
    listed = shop.ask("get_subscriptions", query={"publisher": "acme"}).body["items"]
    assert [each["id"] for each in listed] == [won[0].body["id"]]


def test_orders_of_one_application_for_different_apis_do_not_stand_in_each_others_way(shop: Shop) -> None:
    application = shop.application()
    for at in range(4):
        shop.store(Product(id=f"api_{at}", publisher="acme", name=f"API {at}", tiers=("tier_free",), created_at=NOW))
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda at: shop.order(application, "tier_free", more={"product": f"api_{at}"}), range(4))
        )
    assert all(answer.status in (201, 412) for answer in answers)
    live = shop.ask("get_application", application, query={"publisher": "acme"}).body["live"]
    assert live == sum(answer.status == 201 for answer in answers)


def test_a_bundle_takes_the_guard_of_each_of_its_apis(shop: Shop) -> None:
    shop.store(
        Product(
            id="api_bundle",
            publisher="acme",
            name="All",
            apis=("api_weather", "api_maps"),
            tiers=("tier_free",),
            created_at=NOW,
        ),
        Product(id="api_maps", publisher="acme", name="Maps", tiers=("tier_free",), created_at=NOW),
    )
    application = shop.application()
    bundle = shop.order(application, "tier_free", more={"product": "api_bundle"})
    assert bundle.body["apis"] == ["api_weather", "api_maps"]
    assert shop.order(application, "tier_free").code == "already_subscribed"
    assert shop.order(application, "tier_free", more={"product": "api_maps"}).code == "already_subscribed"
    assert shop.ask("post_cancel", bundle.body["id"], body={"when": "now"}).body["status"] == "ended"
    assert shop.order(application, "tier_free", more={"product": "api_maps"}).status == 201


def test_an_order_that_stripe_does_not_answer_changes_nothing_and_can_be_sent_again(shop: Shop) -> None:
    application, headers = shop.application(), {"idempotency-key": "order-1"}
    shop.stripe.faults.append(Fault("time_out", "POST", "/v1/customers", after=True))
    refused = shop.order(application, headers=headers)
    assert refused.status == 503
    assert shop.ask("get_subscriptions", query={"publisher": "acme"}).body["items"] == []
    shop.stripe.faults.clear()
    assert shop.order(application, headers=headers).status == 201
    assert len(list(shop.stripe.account(shop.account).customers.newest_first())) == 1


def test_an_order_that_crashed_before_its_checkout_is_resumed_by_the_same_request(shop: Shop) -> None:
    application, headers = shop.application(), {"idempotency-key": "order-1"}
    shop.stripe.faults.append(Fault("time_out", "POST", "/v1/checkout/sessions", after=True))
    assert shop.order(application, headers=headers).status == 503
    shop.stripe.faults.clear()
    again = shop.order(application, headers=headers)
    assert again.status == 201
    assert again.body["checkout"]["url"]
    assert len(list(shop.stripe.account(shop.account).checkout_sessions.newest_first())) == 1


def test_an_expired_checkout_is_replaced_until_the_order_ends_by_itself(shop: Shop) -> None:
    answer = shop.order(shop.application())
    subscription = answer.body["id"]
    assert shop.ask("post_checkout", subscription).body["id"] == answer.body["checkout"]["id"]
    shop.clock.advance(timedelta(hours=25))
    subscribing.checkout_expired(
        subscription, session=answer.body["checkout"]["id"], now=shop.clock.now(), ports=wiring.subscribing()
    )
    second = shop.ask("post_checkout", subscription)
    assert second.status == 200
    assert second.body["id"] != answer.body["checkout"]["id"]
    stored = shop.stored(subscription)
    assert stored.due_at == NOW + timedelta(hours=72)
    shop.clock.move_to(NOW + timedelta(hours=72))
    subscribing.settle(stored, shop.clock.now(), wiring.subscribing())
    over = shop.stored(subscription)
    assert (over.status, over.due_at, over.next_edge) == ("ended", None, None)
    assert shop.order(over.application).status == 201, "its guard is free again"


def test_a_card_left_after_the_order_ended_is_kept_and_starts_nothing(shop: Shop) -> None:
    answer = shop.order(shop.application())
    shop.ask("post_cancel", answer.body["id"], body={"when": "now"})
    shop.card(answer)
    assert shop.stored(answer.body["id"]).status == "ended"
    assert shop.ask("get_subscriber", query={"publisher": "acme"}).body["card"]["last4"] == "4242"


def test_a_plan_may_wait_for_its_opening_bill(shop: Shop) -> None:
    shop.plan("careful", replace(GOLD, activation="on_payment"))
    subscription = shop.paying("tier_careful")
    waiting = shop.stored(subscription)
    assert (waiting.status, waiting.next_edge, waiting.due_at) == ("pending_invoice", NOW, NOW)
    assert shop.ask("post_key", subscription).code == "subscription_not_live"


def test_approval_comes_before_the_card(shop: Shop) -> None:
    shop.change(Publisher, keys.publisher("acme"), settings=BillingSettings(approval=True))
    answer = shop.order(shop.application())
    assert (answer.body["status"], answer.body["checkout"]) == ("pending_approval", None)
    subscription = answer.body["id"]
    assert not shop.stripe.requests
    assert shop.ask("post_checkout", subscription).code == "no_payment_needed"
    assert shop.ask("post_approve", subscription, org="dev").status == 404
    approved = shop.ask("post_approve", subscription, org="acme")
    assert approved.body["status"] == "pending_payment", approved.text
    shop.card(_checkout(shop, subscription))
    assert shop.stored(subscription).status == "active"
    assert shop.ask("post_approve", subscription, org="acme").code == "illegal_move"


def _checkout(shop: Shop, subscription: str):  # type: ignore[no-untyped-def] # an answer with its checkout inside
    from tests.integration.subscribing_fixtures import Answer

    return Answer(200, {}, '{"checkout": ' + shop.ask("post_checkout", subscription).text + "}")


def test_an_approved_free_subscription_begins_at_once_and_a_rejected_one_frees_its_guard(shop: Shop) -> None:
    shop.change(Product, keys.product("acme", "api_weather"), approval=True)
    one = shop.order(shop.application(), "tier_free").body["id"]
    assert shop.ask("post_approve", one, org="acme").body["status"] == "active"
    application = shop.application("Two")
    two = shop.order(application, "tier_free").body["id"]
    rejected = shop.ask("post_reject", two, org="acme", body={"reason": "Unknown company"}).body
    assert (rejected["status"], rejected["end_reason"]) == ("ended", "rejected: Unknown company")
    assert shop.order(application, "tier_free").status == 201


def _restrict(shop: Shop) -> None:
    publisher = shop.table.get(Publisher, keys.publisher("acme"))
    assert publisher is not None
    assert publisher.stripe is not None
    shop.change(Publisher, keys.publisher("acme"), stripe=replace(publisher.stripe, charges_enabled=False))


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda shop: shop.change(Publisher, keys.publisher("acme"), status="disconnected"), "publisher_not_enabled"),
        (_restrict, "account_restricted"),
        (lambda shop: shop.change(Plan, keys.plan("acme", "plan_gold"), status="archived"), "plan_archived"),
        (lambda shop: shop.change(Plan, keys.plan("acme", "plan_gold"), latest=0), "plan_not_published"),
        (
            lambda shop: shop.change(Product, keys.product("acme", "api_weather"), tiers=("tier_free",)),
            "tier_not_offered",
        ),
        (lambda shop: shop.change(Product, keys.product("acme", "api_weather"), deleted_at=NOW), "product_deleted"),
    ],
)
def test_what_takes_no_new_subscription_says_why_in_summary_and_order(shop: Shop, break_it, code: str) -> None:  # type: ignore[no-untyped-def] # parameters
    application = shop.application()
    break_it(shop)
    summary = shop.ask("post_preview")
    ordered = shop.order(application)
    assert (summary.status, summary.code) == (ordered.status, ordered.code) == (409, code)
    assert shop.ask("get_subscriptions", query={"publisher": "acme"}).body["items"] == []


def test_a_restricted_account_still_takes_free_subscriptions(shop: Shop) -> None:
    _restrict(shop)
    assert shop.order(shop.application(), "tier_free").status == 201


@pytest.mark.parametrize("changed", ["publisher", "product", "tier", "plan"])
def test_what_changes_while_an_order_is_written_is_read_again(
    shop: Shop, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = shop.application()
    from monetize.adapters.dynamo.subscriptions import SubscriptionTable

    begin = SubscriptionTable.begin
    tries: list[int] = []

    def begin_late(self, *args):  # type: ignore[no-untyped-def] # the method it stands for
        if not tries:
            kinds = {
                "publisher": (Publisher, keys.publisher("acme")),
                "product": (Product, keys.product("acme", "api_weather")),
                "tier": (Tier, keys.tier("acme", "tier_gold")),
                "plan": (Plan, keys.plan("acme", "plan_gold")),
            }
            shop.change(*kinds[changed])
        tries.append(1)
        return begin(self, *args)

    monkeypatch.setattr(SubscriptionTable, "begin", begin_late)
    assert shop.order(application).status == 201
    assert len(tries) == 2


def test_the_order_summary_prorates_the_first_invoice_and_tells_the_rest(shop: Shop) -> None:
    body = shop.ask("post_preview").body
    # 12 March 19:04 to 1 April: 1,659,360 of 2,678,400 seconds of 49.00
    assert body["first_amount"] == 3036
    assert body["first_amount_text"] == "$30.36"
    assert (body["first_bill_at"], body["next_bill_at"]) == ("2026-03-12T19:04:00Z", "2026-04-01T00:00:00Z")
    assert body["recurring_month"] == 4900
    assert body["needs_payment_method"] is True
    overage = body["charges"][1]
    assert (overage["allowance"], overage["unit_price"], overage["package_size"]) == (
        {"quantity": 5000, "per": "day"},
        "100",
        1000,
    )
    assert "5,000" in overage["words"]
    assert not shop.stripe.requests


def test_the_order_summary_of_a_trial_and_of_a_free_tier(shop: Shop) -> None:
    shop.plan("trial", replace(GOLD, trial_days=14))
    trial = shop.ask("post_preview", body={"publisher": "acme", "product": "api_weather", "tier": "tier_trial"}).body
    assert trial["trial_ends_at"] == trial["first_bill_at"] == "2026-03-27T00:00:00Z"
    assert trial["first_amount"] == 790  # 5 of 31 days of 49.00
    free = shop.ask("post_preview", body={"publisher": "acme", "product": "api_weather", "tier": "tier_free"}).body
    assert (free["first_bill_at"], free["first_amount"], free["currency"]) == (None, 0, None)


def test_what_is_ordered_is_what_the_summary_said(shop: Shop) -> None:
    summary = shop.ask("post_preview").body
    subscription = shop.stored(shop.paying())
    assert subscription.next_edge is not None
    assert subscription.next_edge.isoformat().replace("+00:00", "Z") == summary["first_bill_at"]


def test_a_commercial_tier_needs_a_contact_once(shop: Shop) -> None:
    application = shop.application()
    assert shop.order(application, more={"contact": None}).code == "contact_required"
    assert shop.order(application).status == 201
    assert shop.order(shop.application("Two"), "tier_gold", more={"contact": None}).status == 201


@pytest.mark.parametrize(
    "more",
    [
        {"surprise": 1},
        {"contact": {**CONTACT, "email": "nobody"}},
        {"contact": {**CONTACT, "name": "a\x00b"}},
        {"tier": 7},
        {"spend_cap": -1},
        {"spend_cap": "12"},
        {"application": "../x"},
    ],
)
def test_an_order_that_makes_no_sense_is_refused_and_changes_nothing(shop: Shop, more: dict[str, object]) -> None:
    answer = shop.order(shop.application(), more=more)
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert not shop.stripe.requests
    assert shop.ask("get_subscriptions", query={"publisher": "acme"}).body["items"] == []


def test_a_key_is_shown_once_and_stored_as_a_hash(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    subscription = shop.paying()
    headers = {"idempotency-key": "key-1"}
    capsys.readouterr()
    first = shop.ask("post_key", subscription, headers=headers)
    assert first.status == 201, first.text
    text = first.body["key"]
    assert text.startswith("mk_live_")
    assert len(text) == len("mk_live_") + 43
    again = shop.ask("post_key", subscription, headers=headers)
    assert (again.body["id"], again.body["key"], again.body["already_shown"]) == (first.body["id"], None, True)
    stored = repr([shop.dynamodb.scan(TableName=name)["Items"] for name in ("CoreTable", "IdempotencyTable")])
    assert text not in stored + capsys.readouterr().out
    assert hashed(text) in stored
    other = shop.ask("post_key", subscription, headers=headers, body={"environment": "sandbox"})
    assert other.code == "idempotency_key_reused"
    listed = shop.ask("get_keys", subscription).body["items"]
    assert [each["id"] for each in listed] == [first.body["id"]]
    assert "key" not in listed[0]


def test_equal_key_requests_at_once_make_one_key(shop: Shop) -> None:
    subscription = shop.paying()
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda _: shop.ask("post_key", subscription, headers={"idempotency-key": "k"}), range(6))
        )
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["id"] for answer in answers}) == 1
    assert sum(answer.body["key"] is not None for answer in answers) == 1


def test_a_rotated_key_works_until_its_overlap_is_over_and_is_rotated_once(shop: Shop) -> None:
    subscription = shop.paying()
    old = shop.ask("post_key", subscription).body
    new = shop.ask("post_rotation", subscription, old["id"], body={"overlap_hours": 2})
    assert new.status == 201, new.text
    assert new.body["key"] != old["key"]
    listed = {each["id"]: each for each in shop.ask("get_keys", subscription).body["items"]}
    assert listed[old["id"]]["expires_at"] == "2026-03-12T21:04:00Z"
    assert listed[new.body["id"]]["expires_at"] is None
    assert shop.ask("post_rotation", subscription, old["id"]).code == "key_not_usable"


def test_a_revoked_key_stays_listed_and_revoked(shop: Shop) -> None:
    subscription = shop.paying()
    key = shop.ask("post_key", subscription, body={"environment": "sandbox"}).body
    assert key["key"].startswith("mk_test_")
    assert shop.ask("delete_key", subscription, key["id"]).status == 204
    assert shop.ask("delete_key", subscription, key["id"]).status == 204
    assert shop.ask("get_keys", subscription).body["items"][0]["revoked_at"] == "2026-03-12T19:04:00Z"


def test_a_subscription_has_no_endless_number_of_keys(shop: Shop) -> None:
    subscription = shop.paying()
    for _ in range(20):
        assert shop.ask("post_key", subscription).status == 201
    assert shop.ask("post_key", subscription).code == "too_many_keys"


def test_a_customer_made_after_the_instant_the_tables_were_restored_to_is_found_again(shop: Shop) -> None:
    shop.order(shop.application())
    (made,) = shop.stripe.account(shop.account).customers.newest_first()
    shop.change(Subscriber, keys.subscriber("acme", "dev"), customers=())  # as it was before the order
    shop.clock.advance(timedelta(hours=30))  # the key that made it is forgotten
    assert shop.order(shop.application("Next")).status == 201
    assert [each["id"] for each in shop.stripe.account(shop.account).customers.newest_first()] == [made["id"]]
    known = shop.table.get(Subscriber, keys.subscriber("acme", "dev"))
    assert known is not None
    assert [each.id for each in known.customers] == [made["id"]]


def test_a_customer_is_made_where_stripe_offers_no_search(shop: Shop) -> None:
    shop.stripe.faults.append(Fault("not_offered", "GET", "/v1/customers/search"))
    assert shop.order(shop.application()).status == 201
    assert len(list(shop.stripe.account(shop.account).customers.newest_first())) == 1
