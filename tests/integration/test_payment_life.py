"""The life of an unpaid invoice: retries, grace, suspension, restoration; and what people and banks do to it."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from local.stripe_emulator import oauth
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.errors import Conflict, Invalid, NotFound, ProviderBusy, ProviderRefused
from monetize.domain.invoices import Invoice
from monetize.domain.plans import PlanVersion
from monetize.domain.subscriptions import Subscriber, Subscription
from monetize.services import payments
from monetize.services.invoice_actions import Done, Request, act, credit_correction
from monetize.services.subscription_access import Person
from tests.integration.payment_fixtures import START, Shop, shop

__all__ = ["shop"]

ANN = Person("ann", "acme")
DAY = timedelta(days=1)


def worked(shop: Shop, invoice: Invoice) -> str:
    """What the worker of the to-do list makes of it now, with all that Stripe then tells."""
    outcome = payments.attempt(invoice.id, shop.now, wiring.payments()).outcome
    shop.settle()
    return outcome


def asked(shop: Shop, invoice: Invoice, what: str, key: str = "key", **details: Any) -> Done:
    done = act(ANN, invoice.id, Request(what=what, key=key, **details), shop.now, wiring.payments())
    shop.settle()
    return done


def history(shop: Shop, invoice: Invoice) -> list[str]:
    return [step.what for step in shop.invoice(invoice).history]


def charges(shop: Shop) -> list[str | None]:
    """Idempotency keys of the charges that Stripe was asked for."""
    return [each.idempotency_key for each in shop.stripe.requests if each.path.endswith("/pay") and not each.replayed]


def told(shop: Shop, invoice: Invoice) -> list[str]:
    """What went out about an invoice."""
    return [each.detail["type"] for each in shop.system.outbox() if each.detail["entity"]["id"] == invoice.id]


def another_card(shop: Shop, number: str = "5555555555554444") -> None:
    """The subscriber puts another card on file, on a Checkout page."""
    session = wiring.customers().begin_setup(shop.account, shop.customer, "usd", "sub_one", "acme", number)
    shop.stripe.complete_checkout(shop.account, session.id, number)


# --- the schedule ---


def test_every_attempt_has_its_own_key_and_follows_the_publishers_days(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    when: list[timedelta] = []
    while (at := shop.invoice(made).next_attempt_at) is not None and len(when) < 10:
        shop.system.clock.move_to(at)
        when.append(at - START)
        assert worked(shop, made) == "declined"
    assert when == [1 * DAY, 3 * DAY, 5 * DAY, 7 * DAY]
    assert shop.invoice(made).attempts == 5
    keys_used = charges(shop)
    assert len(keys_used) == 5
    assert len(set(keys_used)) == 5
    assert shop.invoice(made).status == "payment_failed"


def test_no_attempt_follows_a_hard_decline_until_the_card_is_another(shop: Shop) -> None:
    shop.decline("stolen_card")
    made = shop.sent(charge=True)
    shop.settle()
    assert shop.invoice(made).next_attempt_at is None
    another_card(shop)
    shop.settle()
    assert shop.invoice(made).next_attempt_at == shop.now
    assert worked(shop, made) == "paid"
    assert shop.subscription().payment_state == "current"


def test_a_hard_decline_heard_after_the_card_was_replaced_is_tried_on_the_new_card(shop: Shop) -> None:
    shop.decline("stolen_card")
    made = shop.sent(charge=True)
    another_card(shop)
    new = next(each["payment_method"] for each in reversed(_intents(shop)))
    shop.client.v1.customers.update(shop.customer, {"invoice_settings": {"default_payment_method": new}}, shop.options)
    _newest_first(shop)
    invoice = shop.invoice(made)
    assert (invoice.final, invoice.card, invoice.next_attempt_at) == (False, shop.card, shop.now)
    assert worked(shop, made) == "paid"


def test_a_card_is_charged_only_with_what_is_owed_on_its_own_account(shop: Shop) -> None:
    shop.decline("stolen_card")
    made = shop.sent(charge=True)
    shop.settle()
    shop.change(Invoice, keys.invoice(made.id), account="acct_before")
    shop.stripe.replace_card_number(shop.account, shop.card, 7, 2041)
    shop.settle()
    assert shop.subscriber().customers[0].expires == "2041-07"
    assert shop.invoice(made).next_attempt_at is None


def _intents(shop: Shop) -> list[Any]:
    return list(shop.stripe.accounts[shop.account].setup_intents.values())


def _newest_first(shop: Shop) -> None:
    events = list(shop.stripe.webhooks.events.values())
    while shop.stripe.webhooks.due(shop.now):
        pass
    for event in reversed(events):
        shop.stripe.webhooks.redeliver(event, shop.now)
        shop.settle()


def test_what_fails_on_the_hosted_page_with_another_card_leaves_the_schedule_of_the_card_on_file(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    other = _good_card(shop)
    shop.stripe.set_card_outcome(shop.account, other, "stolen_card")
    for attempts in (2, 3):
        with pytest.raises(Exception, match="declined"):
            shop.stripe.pay_by_hand(shop.account, made.stripe_id, other)
        shop.settle()
        invoice = shop.invoice(made)
        assert (invoice.attempts, invoice.failure, invoice.final) == (attempts, "stolen_card", False)
        assert (invoice.card, invoice.next_attempt_at) == (shop.card, START + DAY)


def _crash_after_pay(shop: Shop) -> Any:
    """Stripe charges, and its answer is lost with the worker. Answers the exception."""

    class Crash(Exception): ...

    def crash(moment: str, request: Any) -> None:
        if moment == "after" and request.path.endswith("/pay"):
            shop.stripe.on_call = None
            raise Crash

    shop.stripe.on_call = crash
    return Crash


def test_a_try_is_counted_before_stripe_is_asked_and_sent_again_under_its_key(shop: Shop) -> None:
    """The answer was lost on the way, and Stripe had not acted: as if the request had not arrived."""
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(START + DAY)
    real = wiring.payments()
    lost = SimpleNamespace(collected=real.provider.collected, pay=_busy)
    with pytest.raises(ProviderBusy):
        payments.attempt(made.id, shop.now, replace(real, provider=lost))
    assert (shop.invoice(made).tries, shop.invoice(made).asked_at) == (2, shop.now)
    assert shop.invoice(made).next_attempt_at == shop.now  # still in the to-do list
    assert worked(shop, made) == "declined"
    assert [str(key).rpartition(":")[2] for key in charges(shop)] == ["0", "1"]
    assert (shop.invoice(made).tries, shop.invoice(made).asked_at, shop.invoice(made).attempts) == (2, None, 2)


def _busy(*_args: Any) -> None:
    raise ProviderBusy("stripe_unavailable", "Stripe does not answer now.")


def test_a_decline_whose_answer_was_lost_is_known_by_its_charge(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(START + DAY)
    with pytest.raises(_crash_after_pay(shop)):
        payments.attempt(made.id, shop.now, wiring.payments())
    while shop.stripe.webhooks.due(shop.now):
        pass  # told, and lost as well
    assert shop.invoice(made).asked_at == shop.now
    assert payments.attempt(made.id, shop.now, wiring.payments()).outcome == "waits"
    invoice = shop.invoice(made)
    assert (invoice.attempts, invoice.tries, invoice.asked_at) == (2, 2, None)
    assert invoice.next_attempt_at == START + 3 * DAY
    assert len(charges(shop)) == 2


def test_a_try_whose_key_stripe_has_forgotten_is_another_one(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(START + DAY)
    real = wiring.payments()
    with pytest.raises(ProviderBusy):
        payments.attempt(
            made.id, shop.now, replace(real, provider=SimpleNamespace(collected=real.provider.collected, pay=_busy))
        )
    shop.system.clock.move_to(START + 2 * DAY)
    assert worked(shop, made) == "declined"
    assert [str(key).rpartition(":")[2] for key in charges(shop)] == ["0", "2"]


def test_a_decline_is_recorded_from_the_answer_where_no_reading_tells_it_from_the_last_one(shop: Shop) -> None:
    """Asking for authentication makes no charge: the second time the invoice looks as it did after the first."""
    shop.decline("authentication_required")
    made = shop.sent(charge=True)
    shop.settle()
    asked(shop, made, "retry")
    invoice = shop.invoice(made)
    assert (invoice.attempts, invoice.asked_at, invoice.next_attempt_at) == (2, None, None)
    assert (invoice.failure, invoice.action_required) == ("authentication_required", True)
    assert history(shop, made).count("action_required") == 2


def test_a_decline_that_its_event_told_first_is_counted_once(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(START + DAY)

    def told_at_once(moment: str, request: Any) -> None:
        if moment == "after" and request.path.endswith("/pay"):
            shop.stripe.on_call = None
            shop.settle()

    shop.stripe.on_call = told_at_once
    assert worked(shop, made) == "declined"
    assert shop.invoice(made).attempts == 2
    assert history(shop, made).count("payment_failed") == 2


def test_a_notice_comes_a_day_before_every_further_charge_and_at_once_where_it_is_nearer(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    when = []
    for _ in range(20):
        at = shop.invoice(made).due_at
        if at is None:
            break
        shop.system.clock.move_to(at)
        before = told(shop, made).count("payment.retry_notice")
        worked(shop, made)
        if told(shop, made).count("payment.retry_notice") > before:
            when.append(at - START)
    assert when == [0 * DAY, 2 * DAY, 4 * DAY, 6 * DAY]
    assert told(shop, made).count("payment.failed") == 5


def test_an_invoice_whose_first_result_was_lost_is_asked_for_under_the_same_key(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.stripe.webhooks.due(shop.now)  # told, and lost
    shop.system.clock.move_to(shop.now + timedelta(hours=1))
    assert payments.attempt(made.id, shop.now, wiring.payments()).outcome == "settled"
    assert shop.invoice(made).status == "paid"
    assert len(charges(shop)) == 1


def test_an_attempt_that_is_worked_twice_charges_once(shop: Shop) -> None:
    made = shop.sent()
    shop.system.clock.move_to(shop.now + timedelta(minutes=15))
    assert worked(shop, made) == "paid"
    assert payments.attempt(made.id, shop.now, wiring.payments()).outcome == "not_due"
    assert shop.stripe.accounts[shop.account].customers[shop.customer]["balance"] == 0
    assert len(charges(shop)) == 1


def test_grace_is_the_subscribers_else_the_plans_else_the_publishers(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    assert shop.subscription().suspend_at == START + 3 * DAY
    shop.change(PlanVersion, keys.plan_version("plan_gold", 1), terms=_with_grace(shop, 10))
    other = shop.sent(charge=True, subscription=shop.subscribe("sub_two").id)
    shop.settle()
    assert shop.subscription("sub_two").suspend_at == START + 10 * DAY
    shop.change(Subscriber, keys.subscriber("acme", "dev"), payment_grace_days=30)
    third = shop.sent(charge=True, subscription=shop.subscribe("sub_three").id)
    shop.settle()
    assert shop.subscription("sub_three").suspend_at == START + 30 * DAY
    assert {shop.invoice(each).status for each in (made, other, third)} == {"payment_failed"}


def _with_grace(shop: Shop, days: int) -> Any:
    version = shop.table.get(PlanVersion, keys.plan_version("plan_gold", 1))
    assert version is not None
    return replace(version.terms, grace_days=days)


def test_access_ends_with_the_grace_after_a_notice_and_comes_back_with_the_payment(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(START + 2 * DAY)
    worked(shop, made)
    assert "suspension_notice" in history(shop, made)
    assert shop.subscription().payment_state == "past_due"
    shop.system.clock.move_to(START + 3 * DAY)
    worked(shop, made)
    assert shop.subscription().payment_state == "suspended"
    shop.stripe.pay_by_hand(shop.account, made.stripe_id, _good_card(shop))
    shop.settle()
    found = shop.subscription()
    assert (found.payment_state, found.past_due_since, found.suspend_at, found.unpaid) == ("current", None, None, ())
    assert [step.what for step in found.history][-3:] == ["past_due", "suspended", "payment_restored"]


def _good_card(shop: Shop) -> str:
    made = shop.client.v1.payment_methods.create(
        {"type": "card", "card": {"number": "4242424242424242", "exp_month": 1, "exp_year": 2040}}, shop.options
    )
    shop.client.v1.payment_methods.attach(made.id, {"customer": shop.customer}, shop.options)
    return str(made.id)


def _two_unpaid(shop: Shop, *, second_grace: int = 3) -> tuple[Invoice, Invoice]:
    """The first fails on day 0 with 3 days of grace, the second on day 1."""
    shop.decline()
    first = shop.sent(charge=True)
    shop.settle()
    shop.change(Subscriber, keys.subscriber("acme", "dev"), payment_grace_days=second_grace)
    shop.system.clock.move_to(START + DAY)
    second = shop.sent(charge=True, edge=START + 31 * DAY)
    shop.settle()
    return first, second


def test_when_one_of_two_is_paid_the_grace_of_the_other_is_what_counts(shop: Shop) -> None:
    first, second = _two_unpaid(shop)
    assert shop.subscription().suspend_at == START + 3 * DAY
    shop.stripe.mark_paid(shop.account, first.stripe_id)
    shop.settle()
    found = shop.subscription()
    assert (found.payment_state, found.past_due_since, found.suspend_at) == ("past_due", START + DAY, START + 4 * DAY)
    shop.system.clock.move_to(START + 4 * DAY)
    worked(shop, second)
    assert told(shop, second).count("subscription.suspension_notice") == 1
    assert shop.subscription().payment_state == "suspended"


def test_the_first_grace_that_ends_suspends_whichever_invoice_it_is_of(shop: Shop) -> None:
    first, second = _two_unpaid(shop, second_grace=1)
    assert shop.subscription().suspend_at == START + 2 * DAY
    shop.system.clock.move_to(START + 2 * DAY)
    worked(shop, second)
    assert shop.subscription().payment_state == "suspended"
    shop.stripe.mark_paid(shop.account, first.stripe_id)
    shop.settle()
    assert shop.subscription().payment_state == "suspended"
    shop.stripe.mark_paid(shop.account, second.stripe_id)
    shop.settle()
    assert shop.subscription().payment_state == "current"


def test_one_paid_invoice_of_two_does_not_restore(shop: Shop) -> None:
    shop.decline()
    first, second = shop.sent(charge=True), shop.sent(charge=True, edge=START + 31 * DAY)
    shop.settle()
    card = _good_card(shop)
    shop.stripe.pay_by_hand(shop.account, first.stripe_id, card)
    shop.settle()
    assert shop.subscription().payment_state == "past_due"
    assert shop.subscription().unpaid == (second.id,)
    shop.stripe.pay_by_hand(shop.account, second.stripe_id, card)
    shop.settle()
    assert shop.subscription().payment_state == "current"


def test_three_d_secure_waits_for_the_customer_with_a_link_that_is_stored_nowhere(shop: Shop) -> None:
    shop.decline("authentication_required")
    made = shop.sent(charge=True)
    shop.settle()
    invoice = shop.invoice(made)
    assert (invoice.action_required, invoice.next_attempt_at) == (True, None)
    assert "action_required" in history(shop, made)
    link = wiring.invoice_actions().hosted_page
    from monetize.http.caller import Caller

    dev = Caller("dana", "dev", "business", frozenset({"subscriber"}), None)
    url = link(dev, made.id)
    assert made.stripe_id in url
    assert url not in str(shop.table.raw(keys.invoice(made.id)))
    with pytest.raises(NotFound):
        link(Caller("eve", "other", "business", frozenset({"subscriber"}), None), made.id)
    shop.stripe.pay_by_hand(shop.account, made.stripe_id)
    shop.settle()
    assert shop.invoice(made).status == "paid"
    assert not shop.invoice(made).action_required


def test_stripes_own_retries_are_observed_and_ours_come_after_them(shop: Shop) -> None:
    shop.stripe.accounts[shop.account].retry_days = (2,)
    shop.decline()
    made = shop.sent()
    shop.client.v1.invoices.update(made.stripe_id, {"auto_advance": True}, shop.options)
    shop.charge(made)
    shop.settle()
    assert shop.invoice(made).next_attempt_at == START + 2 * DAY + timedelta(hours=1)
    shop.system.run_until(START + 2 * DAY + timedelta(minutes=1))
    assert shop.invoice(made).attempts == 2


def test_an_invoice_that_is_paid_by_hand_is_past_due_after_its_date(shop: Shop) -> None:
    made = shop.sent(collection="send_invoice")
    shop.system.clock.move_to(shop.now + timedelta(minutes=15))
    assert worked(shop, made) == "waits"
    shop.system.clock.move_to(START + 14 * DAY)
    worked(shop, made)
    assert shop.invoice(made).status == "payment_failed"
    assert shop.subscription().payment_state == "past_due"
    for day in (16, 17):
        shop.system.clock.move_to(START + day * DAY)
        worked(shop, made)
    assert charges(shop) == []
    assert told(shop, made) == [
        "invoice.sent", "invoice.overdue", "payment.failed", "subscription.suspension_notice",
    ]  # fmt: skip
    assert shop.subscription().payment_state == "suspended"


def test_an_invoice_that_the_customer_pays_by_itself_is_charged_once_for_each_request_and_never_by_itself(
    shop: Shop,
) -> None:
    shop.decline()
    made = shop.sent(collection="send_invoice")
    shop.settle()
    assert asked(shop, made, "retry", "first").action.made == "declined"
    for day in range(1, 20):
        shop.system.clock.move_to(START + day * DAY)
        worked(shop, made)
    assert len(charges(shop)) == 1
    shop.accept()
    assert asked(shop, made, "retry", "second").action.made == "paid"
    assert (shop.invoice(made).status, shop.subscription().payment_state) == ("paid", "current")


def test_a_due_date_that_passes_while_the_account_is_away_is_looked_at_when_it_is_back(shop: Shop) -> None:
    made = shop.sent(collection="send_invoice")
    shop.system.clock.move_to(START + timedelta(hours=1))
    worked(shop, made)
    shop.stripe.deauthorize(shop.account)
    while shop.stripe.webhooks.due(shop.now):
        pass
    shop.system.clock.move_to(START + 15 * DAY)
    assert payments.attempt(made.id, shop.now, wiring.payments()).outcome == "unreachable"
    assert shop.invoice(made).due_at == START + 16 * DAY
    oauth.connect(shop.stripe, shop.stripe.accounts[shop.account], "read_write")
    shop.system.clock.move_to(START + 16 * DAY)
    worked(shop, made)
    assert (shop.invoice(made).status, shop.subscription().payment_state) == ("payment_failed", "past_due")


def test_a_card_that_is_added_is_charged_although_there_was_none_a_moment_before(shop: Shop) -> None:
    made = shop.sent()
    shop.stripe.detach_card(shop.account, shop.card)
    shop.settle()
    shop.system.clock.move_to(START + timedelta(minutes=15))
    assert worked(shop, made) == "refused"
    another_card(shop)
    shop.settle()
    assert worked(shop, made) == "paid"


def test_without_a_card_the_schedule_goes_on_and_nothing_is_lost(shop: Shop) -> None:
    made = shop.sent()
    shop.stripe.detach_card(shop.account, shop.card)
    shop.system.clock.move_to(shop.now + timedelta(minutes=15))
    assert worked(shop, made) == "refused"
    invoice = shop.invoice(made)
    assert (invoice.status, invoice.next_attempt_at) == ("payment_failed", shop.now + DAY)
    assert shop.subscription().payment_state == "past_due"


def test_an_account_that_left_is_asked_again_tomorrow_and_the_rest_goes_on(shop: Shop) -> None:
    made = shop.sent()
    shop.stripe.deauthorize(shop.account)
    shop.system.clock.move_to(shop.now + timedelta(minutes=15))
    assert payments.attempt(made.id, shop.now, wiring.payments()).outcome == "unreachable"
    assert shop.invoice(made).next_attempt_at == shop.now + DAY


# --- by hand, at Stripe ---


def test_an_invoice_voided_by_hand_is_void_here_and_audited(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.void_invoice(shop.account, made.stripe_id)
    shop.settle()
    assert (shop.invoice(made).status, shop.bill(made).status) == ("void", "void")
    assert shop.subscription().payment_state == "current"
    assert ("stripe", "invoice.void", made.id) in shop.audited()


def test_an_invoice_marked_paid_by_hand_is_paid_out_of_band_and_audited(shop: Shop) -> None:
    made = shop.sent()
    shop.stripe.mark_paid(shop.account, made.stripe_id)
    shop.settle()
    invoice = shop.invoice(made)
    assert (invoice.status, invoice.out_of_band) == ("paid", True)
    assert ("stripe", "invoice.paid_out_of_band", made.id) in shop.audited()


def test_an_uncollectible_invoice_keeps_access_shut_until_it_is_paid(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.client.v1.invoices.mark_uncollectible(made.stripe_id, None, shop.options)
    shop.settle()
    assert (shop.invoice(made).status, shop.bill(made).status) == ("uncollectible", "uncollectible")
    assert shop.subscription().payment_state == "past_due"
    shop.system.clock.move_to(START + 3 * DAY)
    worked(shop, made)
    assert shop.subscription().payment_state == "suspended"
    shop.stripe.pay_by_hand(shop.account, made.stripe_id, _good_card(shop))
    shop.settle()
    assert (shop.invoice(made).status, shop.bill(made).status) == ("paid", "paid")
    assert shop.subscription().payment_state == "current"


def test_an_invoice_written_off_before_anything_failed_is_owed_with_its_grace(shop: Shop) -> None:
    made = shop.sent()
    shop.client.v1.invoices.mark_uncollectible(made.stripe_id, None, shop.options)
    shop.settle()
    assert ("stripe", "invoice.write_off", made.id) in shop.audited()
    assert (shop.subscription().payment_state, shop.subscription().suspend_at) == ("past_due", START + 3 * DAY)
    for day in (2, 3):
        shop.system.clock.move_to(START + day * DAY)
        worked(shop, made)
    assert told(shop, made)[-1] == "subscription.suspension_notice"
    assert shop.subscription().payment_state == "suspended"


def test_what_was_written_off_is_charged_once_for_each_request_and_never_by_itself(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    asked(shop, made, "write_off")
    for key in ("one", "one", "two"):
        assert asked(shop, made, "retry", key).action.made == "declined"
        invoice = shop.invoice(made)
        assert (invoice.status, invoice.next_attempt_at, invoice.asked_at) == ("uncollectible", None, None)
    assert len(charges(shop)) == 3
    for hour in range(1, 48):
        shop.system.clock.move_to(START + timedelta(hours=hour))
        if (due := shop.invoice(made).due_at) is not None and due <= shop.now:
            worked(shop, made)
    assert len(charges(shop)) == 3
    shop.accept()
    assert asked(shop, made, "retry", "three").action.made == "paid"
    assert shop.subscription().payment_state == "current"


def test_what_was_paid_beyond_the_invoice_is_seen_told_and_audited(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.overpay(shop.account, made.stripe_id, 300)
    shop.settle()
    assert (shop.invoice(made).overpaid, shop.invoice(made).amount_paid) == (300, 4900)
    assert ("stripe", "invoice.overpaid", made.id) in shop.audited()
    assert told(shop, made)[-1] == "invoice.overpaid"


def test_an_invoice_that_credit_notes_leave_nothing_of_is_settled_and_nobody_paid(shop: Shop) -> None:
    shop.change(Subscription, keys.subscription("sub_one"), status="pending_invoice", activated_at=None)
    made = shop.sent()
    shop.client.v1.credit_notes.create({"invoice": made.stripe_id, "amount": 4900}, shop.options)
    shop.settle()
    assert (shop.invoice(made).status, shop.invoice(made).amount_paid) == ("paid", 0)
    assert told(shop, made) == ["invoice.sent", "invoice.credited", "invoice.settled"]
    assert shop.subscription().status == "pending_invoice"


def test_an_opening_bill_that_a_balance_paid_begins_its_subscription(shop: Shop) -> None:
    shop.change(Subscription, keys.subscription("sub_one"), status="pending_invoice", activated_at=None)
    shop.client.v1.customers.balance_transactions.create(
        shop.customer, {"amount": -4900, "currency": "usd"}, shop.options
    )
    made = shop.sent()
    shop.settle()
    assert (shop.invoice(made).status, shop.invoice(made).amount_paid) == ("paid", 0)
    assert shop.subscription().status == "active"


def test_an_inquiry_that_comes_to_nothing_is_closed(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    inquiry = shop.stripe.open_dispute(shop.account, shop.charge_of(made), inquiry=True)
    shop.settle()
    assert shop.invoice(made).disputed == "open"
    shop.stripe.close_dispute(shop.account, inquiry["id"], won=False)
    shop.settle()
    assert shop.invoice(made).disputed == "closed"
    assert told(shop, made)[-1] == "payment.dispute_closed"


def test_a_second_partial_refund_counts_and_a_failed_one_comes_off(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    charge = shop.charge_of(made)
    shop.stripe.refund_charge(shop.account, charge, 1000)
    shop.settle()
    second = shop.stripe.refund_charge(shop.account, charge, 500)
    shop.settle()
    assert shop.invoice(made).refunded == 1500
    assert history(shop, made).count("refunded") == 2
    shop.stripe.fail_refund(shop.account, second["id"])
    shop.settle()
    assert shop.invoice(made).refunded == 1000
    assert history(shop, made)[-1] == "refund_failed"
    assert [entry for entry in shop.audited() if entry[1] == "invoice.refund"] == [
        ("stripe", "invoice.refund", made.id)
    ] * 3


def test_a_full_refund_leaves_the_invoice_paid_and_the_access_open(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.refund_charge(shop.account, shop.charge_of(made))
    shop.settle()
    invoice = shop.invoice(made)
    assert (invoice.status, invoice.refunded, invoice.amount_paid) == ("paid", 4900, 4900)
    assert shop.subscription().payment_state == "current"
    assert ("stripe", "invoice.refund", made.id) in shop.audited()


@pytest.mark.parametrize(("won", "word"), [(True, "won"), (False, "lost")])
def test_a_dispute_is_told_when_it_opens_and_when_the_bank_decides(shop: Shop, won: bool, word: str) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    dispute = shop.stripe.open_dispute(shop.account, shop.charge_of(made))
    shop.settle()
    assert shop.invoice(made).disputed == "open"
    shop.stripe.close_dispute(shop.account, dispute["id"], won=won)
    shop.settle()
    assert shop.invoice(made).disputed == word
    assert history(shop, made)[-2:] == ["dispute_open", f"dispute_{word}"]
    assert ("stripe", "invoice.dispute", made.id) in shop.audited()
    assert shop.subscription().payment_state == "current"


def test_a_credit_note_made_by_hand_lowers_what_is_open(shop: Shop) -> None:
    made = shop.sent()
    shop.client.v1.credit_notes.create({"invoice": made.stripe_id, "amount": 900}, shop.options)
    shop.settle()
    invoice = shop.invoice(made)
    assert (invoice.credited, invoice.amount_remaining) == (900, 4000)
    assert ("stripe", "invoice.credit_note", made.id) in shop.audited()


def test_a_card_that_is_removed_renewed_or_replaced_is_known_here(shop: Shop) -> None:
    shop.stripe.replace_card_number(shop.account, shop.card, 7, 2041)
    shop.settle()
    assert shop.subscriber().customers[0].expires == "2041-07"
    shop.stripe.detach_card(shop.account, shop.card)
    shop.settle()
    assert shop.subscriber().customers[0].payment_method is None
    done = [action for actor, action, _ in shop.audited() if actor == "stripe"]
    assert set(done) == {"subscriber.card_replaced", "subscriber.card_removed"}


def test_a_customer_deleted_at_stripe_is_forgotten_so_that_a_new_one_can_be_made(shop: Shop) -> None:
    shop.stripe.delete_customer(shop.account, shop.customer)
    shop.settle()
    assert shop.subscriber().customers == ()
    assert shop.subscriber().generation == 1
    assert ("stripe", "subscriber.customer_deleted", "dev") in shop.audited()


# --- by people, here ---


def test_a_credit_note_is_made_once_under_its_key_for_ever(shop: Shop) -> None:
    made = shop.sent()
    first = asked(shop, made, "credit", amount=900)
    shop.system.clock.move_to(shop.now + 40 * DAY)
    again = asked(shop, made, "credit", amount=900)
    assert first.action.made == again.action.made
    assert shop.invoice(made).credited == 900
    with pytest.raises(Invalid) as refused:
        asked(shop, made, "credit", amount=901)
    assert refused.value.code == "idempotency_key_reused"
    assert [entry for entry in shop.audited() if "credit" in entry[1]] == [("ann", "invoice.credit", made.id)]


def test_a_credit_interrupted_after_stripe_made_it_is_found_again_days_later(shop: Shop) -> None:
    made = shop.sent()
    real = wiring.payments()

    class Crash(Exception): ...

    def crash(moment: str, request: Any) -> None:
        if moment == "after" and request.path == "/v1/credit_notes":
            raise Crash

    shop.stripe.on_call = crash
    with pytest.raises(Crash):
        act(ANN, made.id, Request(what="credit", key="key", amount=900), shop.now, real)
    shop.stripe.on_call = None
    shop.system.clock.move_to(shop.now + 3 * DAY)  # Stripe has forgotten the key
    asked(shop, made, "credit", amount=900)
    assert shop.invoice(made).credited == 900


def test_a_refund_gives_money_back_once_and_never_more_than_was_paid(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    asked(shop, made, "refund", amount=4000)
    asked(shop, made, "refund", amount=4000)
    assert shop.invoice(made).refunded == 4000
    with pytest.raises(Conflict) as refused:
        asked(shop, made, "refund", "other", amount=901)
    assert refused.value.code == "above_refundable"
    asked(shop, made, "refund", "rest")
    assert shop.invoice(made).refunded == 4900


@pytest.mark.parametrize(
    "steps", [("balance", "refund"), ("refund", "balance"), ("card", "refund"), ("card", "balance")]
)
def test_what_was_paid_is_given_back_once_whichever_way(shop: Shop, steps: tuple[str, str]) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    for number, way in enumerate(steps):
        how: dict[str, Any] = {"what": "refund"} if way == "refund" else {"what": "credit", "to": way}
        if number == 0:
            asked(shop, made, key="first", amount=4000, **how)
            continue
        with pytest.raises(Conflict) as refused:
            asked(shop, made, key="more", amount=901, **how)
        assert refused.value.members["most"] == 900
        asked(shop, made, key="rest", **how)
    account = shop.stripe.accounts[shop.account]
    balance = -account.customers[shop.customer]["balance"]
    assert balance + account.charges[shop.charge_of(made)]["amount_refunded"] == 4900


@pytest.mark.parametrize(("currency", "odd", "fine"), [("kwd", 905, 910), ("isk", 950, 900), ("usd", None, 905)])
@pytest.mark.parametrize("what", ["credit", "refund"])
def test_what_is_given_back_is_an_amount_that_the_currency_can_be_charged_in(
    shop: Shop, what: str, currency: str, odd: int | None, fine: int
) -> None:
    made = shop.sent(charge=True, currency=currency)
    shop.settle()
    if odd is not None:
        with pytest.raises(Invalid) as refused:
            asked(shop, made, what, "odd", amount=odd)
        assert refused.value.code == "amount_not_chargeable"
    assert shop.invoice(made).refunded == 0
    assert asked(shop, made, what, "fine", amount=fine).action.made
    assert asked(shop, made, what, "rest").action.amount == 4900 - fine
    assert shop.invoice(made).refunded == 4900


@pytest.mark.parametrize("what", ["credit", "refund", "correction"])
def test_all_that_is_left_is_what_of_it_the_currency_can_be_charged_in(shop: Shop, what: str) -> None:
    """A balance that somebody set by hand lowers what is paid by any amount."""
    shop.client.v1.customers.balance_transactions.create(shop.customer, {"amount": -5, "currency": "kwd"}, shop.options)
    made = shop.sent(charge=True, currency="kwd")
    shop.settle()
    assert shop.invoice(made).refundable == 4895
    if what == "correction":
        assert credit_correction(made.id, 6000, "key", shop.now, wiring.payments()) == 4890
        shop.settle()
    else:
        assert asked(shop, made, what).action.amount == 4890
        with pytest.raises(Conflict) as refused:
            asked(shop, made, what, "more")
        assert refused.value.members["most"] == 0
    assert shop.invoice(made).refunded == 4890


def test_what_was_credited_before_it_was_paid_was_not_given_back(shop: Shop) -> None:
    made = shop.sent()
    asked(shop, made, "credit", "less", amount=900)
    shop.charge(made)
    shop.settle()
    assert asked(shop, made, "refund", "all").action.amount == 4000


def test_a_refund_of_a_credit_note_that_failed_can_be_given_back_again(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    asked(shop, made, "credit", "note", amount=1000, to="card")
    refund = next(iter(shop.stripe.accounts[shop.account].refunds.values()))
    shop.stripe.fail_refund(shop.account, refund["id"])
    shop.settle()
    assert asked(shop, made, "refund", "all").action.amount == 4900


def test_two_requests_at_once_do_not_give_back_more_than_was_paid(shop: Shop) -> None:
    """The second is checked after the first was stored and before Stripe was asked."""
    made = shop.sent(charge=True)
    shop.settle()
    refusals = []

    def another(moment: str, request: Any) -> None:
        if moment == "before" and request.method == "POST" and request.path == "/v1/refunds":
            shop.stripe.on_call = None
            with pytest.raises(Conflict) as refused:
                act(ANN, made.id, Request(what="credit", key="b", to="balance"), shop.now, wiring.payments())
            refusals.append(refused.value.code)

    shop.stripe.on_call = another
    asked(shop, made, "refund", "a")
    assert refusals == ["above_creditable"]


def test_of_two_requests_checked_on_one_state_one_is_checked_again(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    ports, real = wiring.payments(), wiring.payments().store

    class Slow:
        """Between this request's check and its writing, another one is stored."""

        raced = False

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def save(self, *args: Any, **how: Any) -> None:
            if how.get("action") is not None and not self.raced:
                self.raced = True
                act(ANN, made.id, Request(what="credit", key="b", to="balance", amount=4000), shop.now, ports)
            real.save(*args, **how)

    with pytest.raises(Conflict) as refused:
        act(ANN, made.id, Request(what="refund", key="a", amount=4900), shop.now, replace(ports, store=Slow()))
    assert (refused.value.code, refused.value.members["most"]) == ("above_refundable", 900)


def test_a_request_that_was_never_carried_out_stands_in_nobodys_way_for_long(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()

    class Crash(Exception): ...

    def crash(moment: str, request: Any) -> None:
        if moment == "before" and request.method == "POST" and request.path == "/v1/refunds":
            raise Crash

    shop.stripe.on_call = crash
    with pytest.raises(Crash):
        act(ANN, made.id, Request(what="refund", key="a", amount=4000), shop.now, wiring.payments())
    shop.stripe.on_call = None
    with pytest.raises(Conflict):
        asked(shop, made, "refund", "b", amount=4900)
    shop.system.clock.move_to(shop.now + timedelta(minutes=16))
    assert asked(shop, made, "refund", "b", amount=4900).action.amount == 4900
    with pytest.raises(Conflict):
        asked(shop, made, "refund", "a", amount=4000)  # looked at anew: nothing is left
    assert shop.invoice(made).refunded == 4900


@pytest.mark.parametrize("fee", [0, 490])
@pytest.mark.parametrize("what", ["refund", "credit"])
def test_the_platforms_share_goes_back_in_proportion_where_there_was_one(shop: Shop, what: str, fee: int) -> None:
    made = shop.sent(charge=True, fee=fee)
    shop.settle()
    asked(shop, made, what, amount=1000)
    assert shop.invoice(made).refunded == 1000
    fees = shop.stripe.platform.application_fees.values()
    assert [each["amount_refunded"] for each in fees] == ([100] if fee else [])


def test_a_credit_note_whose_refund_was_made_and_whose_note_was_not_goes_on_days_later(shop: Shop) -> None:
    made = shop.sent(charge=True, fee=490)
    shop.settle()

    class Crash(Exception): ...

    def crash(moment: str, request: Any) -> None:
        if moment == "before" and request.method == "POST" and request.path == "/v1/credit_notes":
            raise Crash

    shop.stripe.on_call = crash
    with pytest.raises(Crash):
        act(ANN, made.id, Request(what="credit", key="key"), shop.now, wiring.payments())
    shop.stripe.on_call = None
    shop.system.clock.move_to(shop.now + 3 * DAY)
    asked(shop, made, "credit")
    invoice = shop.invoice(made)
    assert (invoice.credited, invoice.credited_to_card, invoice.refunded) == (4900, 4900, 4900)


def test_a_note_that_is_refused_when_its_refund_was_made_is_answered_with_the_refund(shop: Shop) -> None:
    """The platform has its share, so the money goes first; somebody writes a note about it just then."""
    made = shop.sent(charge=True, fee=490)
    shop.settle()

    def by_hand(moment: str, request: Any) -> None:
        if moment == "before" and request.method == "POST" and request.path == "/v1/credit_notes":
            shop.stripe.on_call = None
            (refund,) = shop.stripe.accounts[shop.account].refunds
            linked = [{"type": "refund", "refund": refund, "amount_refunded": 1000}]
            params: Any = {"invoice": made.stripe_id, "amount": 1000, "refunds": linked}
            shop.client.v1.credit_notes.create(params, shop.options)

    shop.stripe.on_call = by_hand
    done = asked(shop, made, "credit", amount=1000)
    assert done.action.made.startswith("re_")
    assert asked(shop, made, "credit", amount=1000).action.made == done.action.made
    assert (shop.invoice(made).refunded, shop.invoice(made).credited) == (1000, 1000)


def test_what_stripe_refuses_is_refused_for_good_and_audited_so(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.open_dispute(shop.account, shop.charge_of(made), 1000)  # nothing of such a charge is refunded
    shop.settle()
    for _ in range(2):
        with pytest.raises(ProviderRefused) as refused:
            asked(shop, made, "refund")
        assert refused.value.members["provider_code"] == "charge_disputed"
    assert sorted(entry[1] for entry in shop.audited() if entry[0] == "ann") == [
        "invoice.refund",
        "invoice.refund_refused",
    ]
    shop.stripe.overpay(shop.account, made.stripe_id, 300)  # it does not hide what is done by hand afterwards
    shop.settle()
    assert ("stripe", "invoice.overpaid", made.id) in shop.audited()


@pytest.mark.parametrize("good", [True, False])
def test_a_retry_whose_event_is_faster_answers_what_came_of_its_one_charge(shop: Shop, good: bool) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    if good:
        shop.accept()
    ports, real = wiring.payments(), wiring.payments().store

    class Raced:
        """The event's worker writes just before what came of the charge is stored."""

        raced = False

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def save(self, invoice: Invoice | None = None, **how: Any) -> None:
            last = invoice.history[-1].what if invoice is not None else ""
            if last in ("paid", "payment_failed") and not self.raced and invoice.tries == 2:  # type: ignore[union-attr]
                self.raced = True
                shop.settle()
            real.save(invoice, **how)

    made_by = [
        act(ANN, made.id, Request(what="retry", key="key"), shop.now, replace(ports, store=Raced())).action.made
        for _ in range(2)
    ]
    assert made_by == (["paid"] * 2 if good else ["declined"] * 2)
    assert (len(charges(shop)), shop.invoice(made).attempts) == (2, 2)


@pytest.mark.parametrize("what", ["void", "refund", "retry"])
def test_an_action_that_somebody_overtakes_at_its_end_is_done(shop: Shop, what: str) -> None:
    if what == "retry":
        shop.decline()
    made = shop.sent(charge=what != "void")
    shop.settle()
    shop.accept()
    ports, real = wiring.payments(), wiring.payments().store

    class Overtaken:
        done = False

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def save(self, *args: Any, **how: Any) -> None:
            action = how.get("action")
            if action is not None and action.done_at is not None and not self.done:
                self.done = True
                shop.change(Invoice, keys.invoice(made.id))
                shop.settle()
            real.save(*args, **how)

    done = act(ANN, made.id, Request(what=what, key="key"), shop.now, replace(ports, store=Overtaken()))
    assert done.action.done_at == shop.now
    assert asked(shop, made, what).action.made == done.action.made


def test_a_retry_that_stripe_did_not_answer_goes_on_with_its_charge_when_it_is_asked_for_again(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    with pytest.raises(_crash_after_pay(shop)):
        act(ANN, made.id, Request(what="retry", key="key"), shop.now, wiring.payments())
    assert asked(shop, made, "retry").action.made == "declined"
    assert asked(shop, made, "retry").action.made == "declined"
    assert len(charges(shop)) == 2


def test_a_paid_invoice_is_credited_to_the_card_or_to_the_balance(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    asked(shop, made, "credit", "one", amount=1000)
    asked(shop, made, "credit", "two", amount=500, to="balance")
    invoice = shop.invoice(made)
    assert (invoice.credited, invoice.refunded) == (1500, 1000)
    assert shop.stripe.accounts[shop.account].customers[shop.customer]["balance"] == -500


def test_voiding_and_writing_off_need_something_open(shop: Shop) -> None:
    made = shop.sent()
    asked(shop, made, "write_off")
    assert shop.invoice(made).status == "uncollectible"
    asked(shop, made, "void")
    assert shop.invoice(made).status == "void"
    with pytest.raises(Conflict) as refused:
        asked(shop, made, "void", "again")
    assert refused.value.code == "not_open"
    assert {entry[:2] for entry in shop.audited()} == {("ann", "invoice.write_off"), ("ann", "invoice.void")}


def test_what_was_asked_for_here_is_audited_as_that_persons_even_if_the_event_is_first(shop: Shop) -> None:
    made = shop.sent()
    shop.settle()

    def told_at_once(moment: str, request: Any) -> None:
        if moment == "after" and request.path.endswith("/void"):
            shop.stripe.on_call = None
            shop.settle()

    shop.stripe.on_call = told_at_once
    done = asked(shop, made, "void")
    assert (done.invoice.status, done.action.made) == ("void", "void")
    assert [entry for entry in shop.audited() if "void" in entry[1]] == [("ann", "invoice.void", made.id)]


def test_a_retry_on_request_charges_now_under_a_new_key(shop: Shop) -> None:
    shop.decline("stolen_card")
    made = shop.sent(charge=True)
    shop.settle()
    shop.accept()
    asked(shop, made, "retry")
    assert shop.invoice(made).status == "paid"
    assert len(set(charges(shop))) == 2


def test_another_publishers_invoice_is_as_unknown_as_one_that_never_was(shop: Shop) -> None:
    made = shop.sent()
    stranger = Person("eve", "other")
    for name in (made.id, "inv_never"):
        with pytest.raises(NotFound) as refused:
            act(stranger, name, Request(what="void", key="key"), shop.now, wiring.payments())
        assert refused.value.code == "unknown_invoice"
    assert shop.invoice(made).status == "open"


def test_a_correction_after_the_last_bill_is_credited_as_far_as_it_goes_once(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    ports = wiring.payments()
    assert credit_correction(made.id, 6000, "correction-1", shop.now, ports) == 4900
    assert credit_correction(made.id, 6000, "correction-1", shop.now, ports) == 4900
    shop.settle()
    assert (shop.invoice(made).credited, shop.invoice(made).refunded) == (4900, 4900)
    assert ("billing", "invoice.credit", made.id) in shop.audited()
    assert credit_correction(made.id, 10, "correction-2", shop.now, ports) == 0


def test_a_correction_of_what_was_paid_outside_goes_to_the_balance(shop: Shop) -> None:
    """Nobody gives cash back by itself: a note that says so would be a promise that nobody keeps."""
    made = shop.sent()
    shop.stripe.mark_paid(shop.account, made.stripe_id)
    shop.settle()
    assert credit_correction(made.id, 900, "correction-1", shop.now, wiring.payments()) == 900
    shop.settle()
    assert shop.stripe.accounts[shop.account].customers[shop.customer]["balance"] == -900
    assert asked(shop, made, "credit", amount=500).action.amount == 500  # a person gave that
    assert shop.stripe.accounts[shop.account].customers[shop.customer]["balance"] == -900


def test_a_correction_that_was_interrupted_is_credited_although_the_invoice_was_paid_meanwhile(shop: Shop) -> None:
    made = shop.sent()

    class Crash(Exception): ...

    def crash(moment: str, request: Any) -> None:
        if moment == "before" and request.method == "POST" and request.path == "/v1/credit_notes":
            raise Crash

    shop.stripe.on_call = crash
    with pytest.raises(Crash):
        credit_correction(made.id, 900, "correction-1", shop.now, wiring.payments())
    shop.stripe.on_call = None
    shop.charge(made)
    shop.settle()
    for _ in range(2):
        assert credit_correction(made.id, 900, "correction-1", shop.now, wiring.payments()) == 900
    shop.settle()
    assert (shop.invoice(made).credited, shop.invoice(made).refunded) == (900, 900)


def test_the_subscriptions_order_of_bills_does_not_matter_to_its_state(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    for _ in range(3):
        for event in reversed(list(shop.stripe.webhooks.events.values())):
            shop.stripe.webhooks.redeliver(event, shop.now)
        shop.settle()
    assert shop.invoice(made).attempts == 1
    assert history(shop, made) == ["payment_failed"]
    assert isinstance(shop.subscription(), Subscription)
