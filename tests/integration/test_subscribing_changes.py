"""What happens to a running subscription: changes, pauses, ends, blocks, caps, top-ups, erasure."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Refusal
from monetize.domain.invoices import Bill
from monetize.domain.plans import PlanVersion
from monetize.domain.subscriptions import WRITTEN, Subscription, billed
from monetize.services import changing, subscribing
from tests.integration.subscribing_fixtures import CONTACT, GOLD, NOW, PLATINUM, Shop, shop

__all__ = ["shop"]


def opened(shop: Shop, tier: str = "tier_gold") -> str:
    """A paying subscription whose opening bill was claimed, on 20 March 10:00."""
    subscription = shop.paying(tier)
    bill_claimed(shop, subscription)
    shop.clock.move_to(datetime(2026, 3, 20, 10, tzinfo=UTC))
    return subscription


def bill_claimed(shop: Shop, subscription: str) -> None:
    """What the billing run does to a subscription when it claims the next bill."""
    stored = shop.stored(subscription)
    assert stored.next_edge is not None
    shop.change(Subscription, keys.subscription(subscription), **_dates(billed(stored, stored.next_edge, 24)))


def _dates(subscription: Subscription) -> dict[str, object]:
    return {"last_edge": subscription.last_edge, "next_edge": subscription.next_edge, "due_at": subscription.due_at}


def settle(shop: Shop, subscription: str) -> Subscription:
    return subscribing.settle(shop.stored(subscription), shop.clock.now(), wiring.subscribing())


def test_an_upgrade_now_is_estimated_first_and_does_what_was_estimated(shop: Shop) -> None:
    subscription = opened(shop)
    estimate = shop.ask("post_change_preview", subscription)
    assert estimate.status == 200, estimate.text
    # From 20 March 00:00: 12 of 31 days are left.
    assert estimate.body["upgrade"] is True
    assert estimate.body["takes_effect_at"] == "2026-03-20T00:00:00Z"
    assert estimate.body["charge"] == 3832  # 99.00 x 12/31
    assert estimate.body["credit"] == 1897  # 49.00 x 12/31
    assert estimate.body["due"] == 3832 - 1897
    after = shop.ask("post_change", subscription).body
    assert (after["tier"], after["next_bill_at"]) == ("tier_platinum", "2026-03-20T00:00:00Z")
    assert shop.stored(subscription).due_at == datetime(2026, 3, 21, tzinfo=UTC)
    on = shop.table.query(keys.plan_subscription("plan_platinum", 1).pk, "ON#").items
    assert [item["owner"]["S"] for item in on] == [subscription]
    assert not shop.table.query(keys.plan_subscription("plan_gold", 1).pk, "ON#").items


def test_a_downgrade_now_begins_at_the_next_midnight(shop: Shop) -> None:
    subscription = opened(shop, "tier_platinum")
    after = shop.ask("post_change", subscription, body={"tier": "tier_gold", "when": "now"}).body
    assert after["tier"] == "tier_platinum"
    assert after["change"]["at"] == after["next_bill_at"] == "2026-03-21T00:00:00Z"
    shop.clock.move_to(datetime(2026, 3, 21, 0, 0, 5, tzinfo=UTC))
    assert shop.stored(subscription).due_at == datetime(2026, 3, 21, tzinfo=UTC)
    done = settle(shop, subscription)
    assert (done.tier, done.plan, done.change) == ("tier_gold", "plan_gold", None)
    assert done.next_edge == datetime(2026, 3, 21, tzinfo=UTC)
    assert done.due_at == datetime(2026, 3, 22, tzinfo=UTC)
    assert shop.table.query(keys.plan_subscription("plan_gold", 1).pk, "ON#").items


def test_a_change_at_the_periods_end_can_be_taken_back_until_then(shop: Shop) -> None:
    subscription = opened(shop)
    after = shop.ask("post_change", subscription, body={"tier": "tier_platinum"}).body
    assert after["change"]["at"] == "2026-04-01T00:00:00Z"
    assert shop.ask("delete_change", subscription).body["change"] is None
    assert shop.ask("delete_change", subscription).code == "no_change_pending"
    shop.ask("post_change", subscription, body={"tier": "tier_platinum"})
    shop.clock.move_to(datetime(2026, 4, 1, tzinfo=UTC))
    assert shop.ask("delete_change", subscription).code == "no_change_pending"


def test_from_free_to_paid_and_back(shop: Shop) -> None:
    subscription = shop.order(shop.application(), "tier_free").body["id"]
    shop.clock.move_to(datetime(2026, 3, 20, 10, tzinfo=UTC))
    refused = shop.ask("post_change", subscription, body={"tier": "tier_gold", "when": "now"})
    assert refused.code == "payment_method_required"
    preview = shop.ask("post_change_preview", subscription, body={"tier": "tier_gold", "when": "now"}).body
    assert (preview["needs_payment_method"], preview["credit"], preview["charge"]) == (True, 0, 1897)
    assert shop.ask("post_checkout", subscription).code == "contact_required"
    assert shop.ask("put_subscriber").status == 200
    session = shop.ask("post_checkout", subscription)
    shop.stripe.complete_checkout(shop.account, session.body["id"], "4242424242424242")
    shop.completed(session.body["id"])
    paid = shop.ask("post_change", subscription, body={"tier": "tier_gold", "when": "now"})
    assert paid.body["next_bill_at"] == "2026-03-20T00:00:00Z", paid.text
    assert paid.body["currency"] == "usd"
    assert shop.stored(subscription).due_at == datetime(2026, 3, 20, tzinfo=UTC)
    bill_claimed(shop, subscription)
    free = shop.ask("post_change", subscription, body={"tier": "tier_free", "when": "period_end"}).body
    assert free["change"]["at"] == "2026-04-01T00:00:00Z"
    shop.clock.move_to(datetime(2026, 4, 1, tzinfo=UTC))
    done = settle(shop, subscription)
    assert (done.tier, done.plan) == ("tier_free", None)
    done = billed(done, datetime(2026, 4, 1, tzinfo=UTC), 24)
    assert (done.next_edge, done.due_at) == (None, None)


def test_a_subscription_stays_in_its_currency(shop: Shop) -> None:
    shop.plan("euro", replace(GOLD, currency="eur"))
    subscription = opened(shop)
    assert shop.ask("post_change", subscription, body={"tier": "tier_euro"}).code == "currency_differs"
    assert shop.ask("post_change", subscription, body={"tier": "tier_gold"}).code == "same_tier"
    assert shop.ask("post_change", subscription, body={"tier": "tier_none"}).code == "unknown_offer"


def test_a_bulk_move_to_another_version_happens_once_now_or_at_the_periods_end(shop: Shop) -> None:
    subscription = opened(shop)
    two = replace(PLATINUM, charges=(replace(GOLD.charges[0], amount=5900), GOLD.charges[1]))
    shop.store(PlanVersion(plan="plan_gold", publisher="acme", number=2, name="Gold", terms=two, published_at=NOW))
    now, ports = shop.clock.now(), wiring.subscribing()
    changing.change_version(subscription, "plan_gold", 2, "period_end", now, ports)
    first = shop.stored(subscription)
    assert first.change is not None
    assert (first.change.at, first.change.version) == (datetime(2026, 4, 1, tzinfo=UTC), 2)
    changing.change_version(subscription, "plan_gold", 2, "period_end", now, ports)
    assert shop.stored(subscription) == first
    shop.clock.move_to(datetime(2026, 4, 1, tzinfo=UTC))
    assert settle(shop, subscription).version == 2
    with pytest.raises(Refusal) as refused:
        changing.change_version(subscription, "plan_other", 2, "now", now, ports)
    assert refused.value.code == "not_on_plan"
    with pytest.raises(Refusal) as refused:
        changing.change_version(subscription, "plan_gold", 9, "now", now, ports)
    assert refused.value.code == "unknown_version"


def test_a_bulk_move_leaves_who_ordered_another_plan_to_what_was_ordered(shop: Shop) -> None:
    subscription = opened(shop)
    shop.store(PlanVersion(plan="plan_gold", publisher="acme", number=2, name="Gold", terms=GOLD, published_at=NOW))
    ordered = shop.ask("post_change", subscription, body={"tier": "tier_free", "when": "period_end"}).body["change"]
    with pytest.raises(Refusal) as refused:
        changing.change_version(subscription, "plan_gold", 2, "period_end", shop.clock.now(), wiring.subscribing())
    assert refused.value.code == "change_pending"
    assert shop.ask("get_subscription", subscription).body["change"] == ordered


def test_a_change_that_has_come_due_holds_whether_or_not_a_worker_has_seen_it(shop: Shop) -> None:
    subscription = opened(shop)
    shop.ask("post_change", subscription, body={"tier": "tier_platinum", "when": "period_end"})
    shop.clock.move_to(datetime(2026, 4, 1, 0, 5, tzinfo=UTC))
    change = shop.ask("post_change", subscription, body={"tier": "tier_gold", "when": "now"}).body["change"]
    assert change["at"] == "2026-04-02T00:00:00Z"
    spans = [(each.start.day, each.start.month, each.tier) for each in shop.stored(subscription).spans]
    assert spans[-1] == (1, 4, "tier_platinum")


def test_cancelling_now_ends_it_this_second_and_leaves_a_last_bill(shop: Shop) -> None:
    subscription = opened(shop)
    gone = shop.ask("post_cancel", subscription, body={"when": "now", "reason": "Moved"}).body
    assert (gone["status"], gone["ended_at"], gone["next_bill_at"]) == (
        "ended",
        "2026-03-20T10:00:00Z",
        "2026-03-20T10:00:00Z",
    )
    stored = shop.stored(subscription)
    assert stored.due_at == datetime(2026, 3, 21, 10, tzinfo=UTC) + WRITTEN
    assert shop.ask("post_cancel", subscription, body={"when": "now"}).code == "illegal_move"
    application = shop.ask("get_application", stored.application, query={"publisher": "acme"}).body
    assert application["live"] == 0
    assert shop.order(stored.application).status == 201


def test_a_cancellation_at_the_periods_end_can_be_taken_back_and_else_comes_by_itself(shop: Shop) -> None:
    subscription = opened(shop)
    leaving = shop.ask("post_cancel", subscription).body
    assert (leaving["status"], leaving["cancel_at"]) == ("active", "2026-04-01T00:00:00Z")
    assert shop.ask("post_change", subscription).code == "cancellation_pending"
    assert shop.ask("post_pause", subscription).code == "cancellation_pending"
    assert shop.ask("post_uncancel", subscription).body["cancel_at"] is None
    assert shop.ask("post_uncancel", subscription).code == "not_cancelling"
    shop.ask("post_cancel", subscription)
    shop.clock.move_to(datetime(2026, 4, 1, 0, 30, tzinfo=UTC))
    shown = shop.ask("get_subscription", subscription).body
    assert shown["status"] == "ended", "before any worker saw it"
    assert shop.ask("post_uncancel", subscription).code == "not_cancelling"
    # The same application can subscribe again at once, without waiting for a worker.
    stored = shop.stored(subscription)
    assert stored.due_at == datetime(2026, 4, 1, tzinfo=UTC)
    assert shop.order(stored.application).status == 201
    settled = shop.stored(subscription)
    assert (settled.status, settled.ended_at) == ("ended", datetime(2026, 4, 1, tzinfo=UTC))
    assert settled.next_edge == datetime(2026, 4, 1, tzinfo=UTC)
    assert settled.due_at == datetime(2026, 4, 2, tzinfo=UTC) + WRITTEN


def test_a_second_subscription_does_not_lose_its_guard_when_the_first_is_settled_again(shop: Shop) -> None:
    first = opened(shop)
    application = shop.stored(first).application
    shop.ask("post_cancel", first, body={"when": "now"})
    second = shop.order(application).body["id"]
    settle(shop, first)
    guard = shop.table.raw(keys.guard(application, "api_weather"))
    assert guard is not None
    assert guard["owner"]["S"] == second


def test_a_pause_keeps_calls_out_at_once_and_stops_paying_at_midnight(shop: Shop) -> None:
    subscription = opened(shop)
    paused = shop.ask("post_pause", subscription).body
    assert (paused["status"], paused["next_bill_at"]) == ("paused", "2026-03-21T00:00:00Z")
    assert shop.ask("post_change", subscription).code == "subscription_not_active"
    assert shop.ask("post_pause", subscription).code == "subscription_not_active"
    bill_claimed(shop, subscription)
    assert shop.stored(subscription).due_at is None
    shop.clock.move_to(datetime(2026, 3, 25, 18, tzinfo=UTC))
    resumed = shop.ask("post_resume", subscription).body
    assert (resumed["status"], resumed["next_bill_at"]) == ("active", "2026-03-25T00:00:00Z")
    assert shop.stored(subscription).due_at == datetime(2026, 3, 25, tzinfo=UTC)
    assert shop.ask("post_resume", subscription).code == "illegal_move"


def test_a_pause_taken_back_on_the_same_day_never_was(shop: Shop) -> None:
    subscription = opened(shop)
    before = shop.stored(subscription)
    shop.ask("post_pause", subscription)
    shop.ask("post_resume", subscription)
    after = shop.stored(subscription)
    assert (after.spans, after.next_edge, after.due_at) == (before.spans, before.next_edge, before.due_at)


def test_a_trial_can_be_cancelled_unbilled_and_not_paused(shop: Shop) -> None:
    shop.plan("trial", replace(GOLD, trial_days=14))
    subscription = shop.paying("tier_trial")
    assert shop.ask("post_pause", subscription).code == "in_trial"
    leaving = shop.ask("post_cancel", subscription).body
    assert (leaving["cancel_at"], leaving["next_bill_at"]) == ("2026-03-27T00:00:00Z", None)
    shop.clock.move_to(datetime(2026, 3, 27, tzinfo=UTC))
    assert settle(shop, subscription).status == "ended"
    assert shop.stored(subscription).due_at is None


def test_the_publisher_ends_a_subscription_too_and_a_stranger_does_not(shop: Shop) -> None:
    subscription = opened(shop)
    assert shop.ask("post_cancel", subscription, body={"when": "now"}, org="globex").status == 404
    assert shop.ask("post_cancel", subscription, body={"when": "now"}, org="acme").body["status"] == "ended"


def test_a_block_and_its_reason_are_visible_to_the_subscriber_and_audited(shop: Shop) -> None:
    subscription = opened(shop)
    assert shop.ask("post_block", subscription, org="acme", user="ann").status == 200
    seen = shop.ask("get_subscription", subscription).body
    assert (seen["block"], seen["block_reason"]) == ("production", "Abuse")
    entries = shop.table.list(AuditEntry, keys.audit("acme", "2026-03").pk).items
    entry = next(each for each in entries if each.action == "subscription.block")
    assert (entry.actor, entry.organization, entry.target) == ("ann", "acme", subscription)
    assert shop.ask("post_unblock", subscription, org="acme").body["block"] == "none"
    shop.ask("post_cancel", subscription, body={"when": "now"})
    assert shop.ask("post_block", subscription, org="acme").code == "subscription_ended"


def test_what_a_person_did_is_audited_without_personal_data(shop: Shop) -> None:
    shop.paying()
    items = shop.table.query(keys.audit("acme", "2026-03").pk).items
    assert len(items) >= 3
    assert all(CONTACT["email"] not in repr(item) and CONTACT["name"] not in repr(item) for item in items)


def test_each_side_has_a_spend_cap_of_its_own_and_the_lower_one_holds(shop: Shop) -> None:
    subscription = opened(shop)

    def put(cap: int | None, org: str) -> None:
        etag = shop.ask("get_subscription", subscription).etag
        body = {"spend_cap": cap}
        assert shop.ask("put_spend_cap", subscription, body=body, org=org, headers={"if-match": etag}).status == 200

    put(20000, "dev")
    put(15000, "acme")
    stored = shop.stored(subscription)
    assert (stored.spend_cap, stored.publisher_spend_cap, stored.cap) == (20000, 15000, 15000)
    put(None, "acme")
    assert shop.stored(subscription).cap == 20000
    assert shop.ask("put_spend_cap", subscription).code == "if_match_required"
    assert shop.ask("put_spend_cap", subscription, headers={"if-match": '"1"'}).status == 412
    free = shop.order(shop.application("F"), "tier_free")
    assert shop.ask("put_spend_cap", free.body["id"], headers={"if-match": free.etag}).code == "spend_cap_on_free_tier"


def test_a_top_up_is_given_once_for_one_key_for_ever(shop: Shop) -> None:
    subscription, headers = opened(shop), {"idempotency-key": "top-1"}
    first = shop.ask("post_topup", subscription, org="acme", headers=headers)
    assert first.status == 201, first.text
    assert first.body["counts_from"] == "2026-03-20T00:00:00Z"
    shop.clock.advance(timedelta(days=400))
    again = shop.ask("post_topup", subscription, org="acme", headers=headers)
    assert again.body["id"] == first.body["id"]
    assert len(shop.stored(subscription).topups) == 1
    more = shop.ask("post_topup", subscription, org="acme", headers=headers, body={"meter": "met_calls", "quantity": 1})
    assert more.code == "idempotency_key_reused"
    assert shop.ask("post_topup", subscription, org="acme").code == "idempotency_key_required"


def test_a_subscriber_gives_itself_no_top_up_and_an_unknown_meter_takes_none(shop: Shop) -> None:
    subscription, headers = opened(shop), {"idempotency-key": "top-1"}
    assert shop.ask("post_topup", subscription, headers=headers).status == 404
    body = {"meter": "met_other", "quantity": 5}
    assert shop.ask("post_topup", subscription, org="acme", headers=headers, body=body).code == "unknown_meter"
    free = shop.order(shop.application("F"), "tier_free").body["id"]
    assert shop.ask("post_topup", free, org="acme", headers=headers).code == "topup_on_free_tier"


def test_contact_data_reaches_stripe_and_needs_the_revision_that_was_read(shop: Shop) -> None:
    opened(shop)
    known = shop.ask("get_subscriber", query={"publisher": "acme"})
    assert known.body["card"]["last4"] == "4242"
    contact = {**CONTACT, "email": "new@example.com"}
    body = {"publisher": "acme", "contact": contact}
    assert shop.ask("put_subscriber", body=body, headers={"if-match": '"1"'}).status == 412
    assert shop.ask("put_subscriber", body=body).status == 412
    after = shop.ask("put_subscriber", body=body, headers={"if-match": known.etag})
    assert after.status == 200, after.text
    customer = next(iter(shop.stripe.account(shop.account).customers.newest_first()))
    assert customer["email"] == "new@example.com"


def test_the_portal_opens_for_who_pays(shop: Shop) -> None:
    subscription = opened(shop)
    assert shop.ask("post_portal", subscription).body["url"].startswith("https://")
    free = shop.order(shop.application("F"), "tier_free").body["id"]
    assert shop.ask("post_portal", free).status == 409


def test_a_publisher_bears_unpaid_invoices_longer_for_one_subscriber(shop: Shop) -> None:
    subscription = opened(shop)
    read = {"if-match": shop.ask("get_payment_grace", subscription, org="acme").etag}
    assert shop.ask("put_payment_grace", subscription, headers=read).status == 404
    assert shop.ask("put_payment_grace", subscription, org="acme").code == "if_match_required"
    assert shop.ask("put_payment_grace", subscription, org="acme", headers=read).body == {"days": 10}
    assert shop.ask("put_payment_grace", subscription, org="acme", headers=read).code == "changed_meanwhile"
    assert shop.ask("get_payment_grace", subscription, org="acme").body == {"days": 10}
    assert shop.ask("get_subscriber", query={"publisher": "acme"}).body["payment_grace_days"] == 10


def ended_and_billed(shop: Shop) -> str:
    subscription = opened(shop)
    shop.ask("post_cancel", subscription, body={"when": "now"})
    bill_claimed(shop, subscription)
    return subscription


def test_erasure_takes_personal_data_here_and_at_stripe(shop: Shop) -> None:
    subscription = ended_and_billed(shop)
    erased = shop.ask("post_erase")
    assert erased.status == 200, erased.text
    assert (erased.body["contact"], erased.body["card"]) == (None, None)
    assert erased.body["erased_at"] == "2026-03-20T10:00:00Z"
    everything = repr(shop.dynamodb.scan(TableName="CoreTable")["Items"])
    assert CONTACT["email"] not in everything
    assert CONTACT["name"] not in everything
    assert shop.stored(subscription).invoice_email == ""
    customer = shop.stripe.account(shop.account).customers.newest_first()
    assert all(each.get("deleted") for each in customer)
    again = shop.order(shop.application("Back"))
    assert again.status == 201, "a new customer, though it is the same organization"
    alive = [each for each in shop.stripe.account(shop.account).customers.newest_first() if not each.get("deleted")]
    assert len(alive) == 1


def test_erasure_is_refused_while_anything_is_owed(shop: Shop) -> None:
    subscription = opened(shop)
    assert shop.ask("post_erase").code == "subscriptions_live"
    shop.ask("post_cancel", subscription, body={"when": "now"})
    assert shop.ask("post_erase").code == "usage_unbilled"
    bill_claimed(shop, subscription)
    edge = datetime(2026, 3, 20, 10, tzinfo=UTC)
    bill = Bill(
        subscription=subscription,
        publisher="acme",
        subscriber="dev",
        account=shop.account,
        currency="usd",
        edge=edge,
        status="sent",
        created_at=edge,
    )
    shop.store(bill)
    assert shop.ask("post_erase").code == "money_due"
    shop.change(Bill, keys.bill(subscription, edge), status="paid")
    assert shop.ask("post_erase").status == 200
    assert shop.stored(subscription).id == subscription


def test_an_erasure_that_stripe_interrupted_is_finished_by_asking_again(shop: Shop) -> None:
    from local.stripe_emulator import Fault

    ended_and_billed(shop)
    shop.stripe.faults.append(Fault("time_out", "DELETE", "/v1/customers/.*", after=True))
    assert shop.ask("post_erase").status == 503
    assert shop.order(shop.application("Back")).code == "erasing"
    assert shop.ask("post_erase").status == 200


def test_an_application_with_live_subscriptions_is_not_deleted(shop: Shop) -> None:
    application = shop.application()
    subscription = shop.order(application, "tier_free").body["id"]
    query = {"publisher": "acme"}
    assert shop.ask("delete_application", application, query=query).code == "application_in_use"
    shop.ask("post_cancel", subscription, body={"when": "now"})
    assert shop.ask("delete_application", application, query=query).status == 204
    assert shop.ask("get_application", application, query=query).status == 404


def test_an_application_is_edited_on_condition_of_what_was_read(shop: Shop) -> None:
    application = shop.application()
    query = {"publisher": "acme"}
    assert shop.ask("put_application", application, query=query).code == "if_match_required"
    renamed = shop.ask("put_application", application, query=query, headers={"if-match": '"1"'})
    assert (renamed.body["name"], renamed.etag) == ("Weather app 2", '"2"')
    assert shop.ask("put_application", application, query=query, headers={"if-match": '"1"'}).status == 412


def test_lists_are_paged_and_filtered_and_their_cursors_open_nobody_elses(shop: Shop) -> None:
    for at in range(5):
        shop.order(shop.application(str(at)), "tier_free")
    query = {"publisher": "acme", "limit": "2"}
    seen, cursor = [], None
    while True:
        page = shop.ask("get_subscriptions", query=query | ({"cursor": cursor} if cursor else {})).body
        seen += [each["id"] for each in page["items"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen)
    everybody = shop.ask("get_subscriptions", query={"side": "publisher", "status": "active"}, org="acme").body
    assert [each["id"] for each in everybody["items"]] == seen
    assert shop.ask("get_subscriptions", query={"side": "publisher"}, org="globex").body["items"] == []
    assert shop.ask("get_subscriptions", query={"publisher": "acme", "status": "gone"}).code == "unknown_status"
    assert shop.ask("get_subscriptions", query={}).code == "publisher_required"
    applications = shop.ask("get_applications", query={"publisher": "acme", "limit": "3"}).body
    assert len(applications["items"]) == 3
    bad = shop.ask("get_subscriptions", query={"publisher": "acme", "cursor": applications["cursor"]})
    assert bad.code == "bad_cursor"


def test_a_sandbox_publisher_lives_by_its_own_clock(shop: Shop) -> None:
    from monetize.domain.publishers import Publisher

    shop.change(Publisher, keys.publisher("acme"), sandbox=True, clock_offset_seconds=86400)
    stored = shop.stored(shop.paying())
    assert stored.spans[0].start == NOW + timedelta(days=1)
    assert stored.due_scope == "acme"
    item = shop.table.raw(keys.subscription(stored.id))
    assert item is not None
    assert item["due_pk"]["S"].startswith("DUE#acme#")


def test_a_customer_deleted_at_stripe_by_hand_is_forgotten_and_made_anew(shop: Shop) -> None:
    first = shop.order(shop.application())
    customers = shop.stripe.account(shop.account).customers
    shop.stripe.delete_customer(shop.account, next(iter(customers.newest_first()))["id"])
    shop.clock.advance(timedelta(hours=25))
    again = shop.ask("post_checkout", first.body["id"])
    assert again.status == 200, again.text
    shop.stripe.complete_checkout(shop.account, again.body["id"], "4242424242424242")
    shop.completed(again.body["id"])
    assert shop.stored(first.body["id"]).status == "active"
    known = shop.ask("get_subscriber", query={"publisher": "acme"})
    shop.stripe.delete_customer(shop.account, next(iter(customers.newest_first()))["id"])
    body = {"publisher": "acme", "contact": {**CONTACT, "phone": "+1 555 0100"}}
    assert shop.ask("put_subscriber", body=body, headers={"if-match": known.etag}).body["card"] is None
    # Within the life of the key that made the deleted one: the next customer is another request.
    assert shop.order(shop.application("Next")).status == 201
    assert sum(not each.get("deleted") for each in customers.newest_first()) == 1


def test_a_cancellation_in_the_second_of_its_opening_bill_still_gets_a_last_bill(shop: Shop) -> None:
    subscription = shop.paying()
    bill_claimed(shop, subscription)
    assert shop.ask("post_cancel", subscription, body={"when": "now"}).body["next_bill_at"] == "2026-03-12T19:04:01Z"


def test_a_pause_taken_back_keeps_the_upgrade_of_the_same_day(shop: Shop) -> None:
    subscription = opened(shop)
    shop.ask("post_change", subscription)
    upgraded = shop.stored(subscription).spans
    shop.ask("post_pause", subscription)
    shop.ask("post_resume", subscription)
    assert shop.stored(subscription).spans == upgraded


def test_a_session_that_was_replaced_expires_without_effect(shop: Shop) -> None:
    subscription = shop.order(shop.application()).body["id"]
    before = shop.stored(subscription)
    ports = wiring.subscribing()
    subscribing.checkout_expired(subscription, session="cs_older", now=shop.clock.now(), ports=ports)
    assert shop.stored(subscription) == before


def test_an_operator_spreads_a_hot_subscription_over_shards_before_the_month_begins(shop: Shop) -> None:
    subscription = opened(shop)
    rev = shop.ask("get_shards", subscription, org="ops", roles="operator").etag
    spread = shop.ask("put_shards", subscription, headers={"if-match": rev}, org="ops", roles="operator")
    assert (spread.status, spread.body["shards"]) == (200, [{"month": "2026-04", "count": 8}])
    assert shop.stored(subscription).shards == (("2026-04", 8),)
    less = {"month": "2026-04", "count": 1}
    back = shop.ask(
        "put_shards", subscription, body=less, headers={"if-match": spread.etag}, org="ops", roles="operator"
    )
    assert back.body["shards"] == []
    stale = shop.ask("put_shards", subscription, headers={"if-match": spread.etag}, org="ops", roles="operator")
    assert (stale.status, stale.code) == (412, "changed_meanwhile")
    assert [each.action for each in shop.table.list(AuditEntry, "PUB#acme#AUDIT#2026-03", "").items][-1] == (
        "subscription.shards"
    )


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"month": "2026-03", "count": 8}, 409, "month_begun"),
        ({"month": "2025-12", "count": 8}, 409, "month_begun"),
        ({"month": "2026-13", "count": 8}, 422, "invalid_request"),
        ({"month": "2026-04", "count": 0}, 422, "invalid_request"),
        ({"month": "2026-04", "count": 65}, 422, "invalid_request"),
    ],
)
def test_shards_are_set_for_a_month_to_come(shop: Shop, body: dict[str, Any], status: int, code: str) -> None:
    subscription = opened(shop)
    rev = shop.ask("get_shards", subscription, org="ops", roles="operator").etag
    asked = shop.ask("put_shards", subscription, body=body, headers={"if-match": rev}, org="ops", roles="operator")
    assert (asked.status, asked.code) == (status, code)


def test_shards_are_not_set_minutes_before_their_month_when_its_first_events_may_be_on_the_way(shop: Shop) -> None:
    subscription = opened(shop)
    rev = shop.ask("get_shards", subscription, org="ops", roles="operator").etag
    shop.clock.move_to(datetime(2026, 3, 31, 23, 50, 1, tzinfo=UTC))
    asked = shop.ask("put_shards", subscription, headers={"if-match": rev}, org="ops", roles="operator")
    assert asked.code == "month_begun"


def test_only_an_operator_sets_shards(shop: Shop) -> None:
    subscription = opened(shop)
    rev = shop.ask("get_subscription", subscription).etag
    for org, roles in (("acme", "publisher_admin"), ("dev", "subscriber")):
        asked = shop.ask("put_shards", subscription, headers={"if-match": rev}, org=org, roles=roles)
        assert (asked.status, asked.code) == (403, "missing_role")
        assert shop.ask("get_shards", subscription, org=org, roles=roles).code == "missing_role"


def test_the_keys_of_a_subscription_are_listed_page_by_page(shop: Shop) -> None:
    subscription = opened(shop)
    made = [shop.ask("post_key", subscription).body["id"] for _ in range(3)]
    first = shop.ask("get_keys", subscription, query={"limit": "2"}).body
    rest = shop.ask("get_keys", subscription, query={"limit": "2", "cursor": first["cursor"]}).body
    assert [each["id"] for each in first["items"] + rest["items"]] == sorted(made)
    assert (len(first["items"]), rest["cursor"]) == (2, None)
