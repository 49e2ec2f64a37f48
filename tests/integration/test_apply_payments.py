"""What Stripe tells of our invoices reaches invoice, bill and subscription, whatever the order and however often."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import release
from monetize.domain.catalog import Throttle, Tier
from monetize.domain.invoices import Bill, Invoice
from monetize.domain.keys import ApiKey, hashed
from monetize.domain.stripe_events import ACCOUNT, ASKED, MARKED, OPTIONAL, UNMARKED, Notice
from monetize.domain.subscriptions import Subscription
from monetize.services.applying import HANDLERS, apply
from monetize.services.billing import invoice_id
from monetize.services.entitling import DECISION_SECONDS, Decisions, decide
from tests.integration.payment_fixtures import START, Shop, shop

__all__ = ["shop"]


def test_a_paid_invoice_settles_its_bill(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    invoice = shop.invoice(made)
    assert (invoice.status, invoice.amount_paid, invoice.amount_remaining) == ("paid", 4900, 0)
    assert invoice.paid_at == shop.now
    assert invoice.due_at is None
    assert shop.bill(made).status == "paid"
    assert shop.subscription().payment_state == "current"


def test_a_declined_invoice_makes_the_subscription_past_due_and_is_tried_again_on_schedule(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    invoice, subscription = shop.invoice(made), shop.subscription()
    assert (invoice.status, invoice.attempts, invoice.failure) == ("payment_failed", 1, "insufficient_funds")
    assert (subscription.payment_state, subscription.unpaid) == ("past_due", (made.id,))
    assert shop.bill(made).status == "sent"


def test_a_completed_checkout_activates_what_waited_for_a_card(shop: Shop) -> None:
    shop.subscribe("sub_new", pending_until=shop.now + timedelta(hours=72))
    shop.change(Subscription, keys.subscription("sub_new"), status="pending_payment", activated_at=None)
    setup = wiring.customers().begin_setup(shop.account, shop.customer, "usd", "sub_new", "acme", "key")
    shop.stripe.complete_checkout(shop.account, setup.id, "5555555555554444")
    shop.settle()
    assert shop.subscription("sub_new").status == "active"
    card = shop.subscriber().customers[0]
    assert (card.brand, card.last4) == ("mastercard", "4444")
    assert card.payment_method != shop.card


def test_a_checkout_that_ran_out_leaves_the_order_to_be_resumed(shop: Shop) -> None:
    setup = wiring.customers().begin_setup(shop.account, shop.customer, "usd", "sub_new", "acme", "key")
    shop.subscribe("sub_new", checkout=setup.id)
    shop.change(Subscription, keys.subscription("sub_new"), status="pending_payment", activated_at=None)
    shop.client.v1.checkout.sessions.expire(setup.id, None, shop.options)
    shop.settle()
    found = shop.subscription("sub_new")
    assert (found.status, found.checkout) == ("pending_payment", None)


def test_an_account_that_let_us_go_stops_billing_and_one_that_is_restricted_is_marked(shop: Shop) -> None:
    shop.stripe.restrict(shop.account, currently_due=["external_account"])
    shop.settle()
    link = shop.publisher().stripe
    assert link is not None
    assert (link.charges_enabled, link.requirements) == (False, ("external_account",))
    shop.stripe.deauthorize(shop.account)
    shop.settle()
    assert shop.publisher().status == "disconnected"


def test_an_opening_bill_that_is_paid_begins_the_subscription(shop: Shop) -> None:
    shop.change(Subscription, keys.subscription("sub_one"), status="pending_invoice", activated_at=None)
    shop.sent(charge=True)
    shop.settle()
    assert shop.subscription().status == "active"
    assert shop.subscription().activated_at == shop.now


def test_an_invoice_paid_before_its_worker_could_record_it_is_adopted(shop: Shop) -> None:
    """The worker crashed after it finalized; somebody paid on the hosted page before anybody came back."""
    bill = shop.draft()
    assert bill.invoice is not None
    shop.client.v1.invoices.finalize_invoice(bill.invoice, None, shop.options)
    shop.settle()
    assert shop.table.get(Invoice, keys.invoice(invoice_id(bill))) is None  # open: its worker is on the way
    shop.stripe.pay_by_hand(shop.account, bill.invoice)
    shop.settle()
    made = shop.table.get(Invoice, keys.invoice(invoice_id(bill)))
    assert made is not None
    assert (made.status, made.amount, made.stripe_id) == ("paid", 4900, bill.invoice)
    after = shop.bill(made)
    assert (after.status, after.next_at, after.sent_at) == ("paid", None, shop.now)


def test_an_invoice_paid_before_its_worker_could_list_it_is_listed_once(shop: Shop) -> None:
    """The worker crashed between the record and its place in the list; when it comes back the bill is settled."""
    made = shop.sent(charge=True)
    place = keys.publisher_invoice("acme", made.issued_at, made.id)
    shop.table.write(release(place))
    shop.change(Bill, keys.bill(made.subscription, made.edge), status="drafted", sent_at=None)
    shop.settle()
    assert shop.bill(made).status == "paid"
    assert [item["sk"]["S"] for item in shop.table.query(place.pk).items] == [place.sk]


def test_an_adopted_invoice_is_in_its_publishers_list(shop: Shop) -> None:
    bill = shop.draft()
    assert bill.invoice is not None
    shop.client.v1.invoices.finalize_invoice(bill.invoice, None, shop.options)
    shop.stripe.pay_by_hand(shop.account, bill.invoice)
    shop.settle()
    (listed,) = shop.table.query(keys.publisher_invoice("acme", f"{START:%Y-%m}").pk).items
    assert listed["sk"]["S"].endswith(f"#{invoice_id(bill)}")


def test_a_reading_that_was_overtaken_is_read_again(shop: Shop) -> None:
    """Between our reading of the invoice at Stripe and our writing, another worker wrote something later."""
    made = shop.sent()
    ports = wiring.payments()

    class Overtaken:
        """The provider; while its first answer is on the way, the invoice is paid and another worker stores that."""

        def __init__(self) -> None:
            self.answers = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(ports.provider, name)

        def collected(self, *args: Any, **how: Any) -> Any:
            self.answers += 1
            found = ports.provider.collected(*args, **how)
            if self.answers == 1:
                shop.charge(made)
                shop.settle()
                assert shop.invoice(made).status == "paid"
            return found

    slow = replace(ports, provider=Overtaken())
    wiring.inbox().put_if_absent(_notice(shop, "invoice.updated", made.stripe_id, hint=made.id), shop.now)
    assert apply("evt_slow", shop.now, replace(wiring.applying(), payments=slow)) == "applied"
    assert slow.provider.answers == 2
    assert shop.invoice(made).status == "paid"


def _notice(shop: Shop, kind: str, about: str, hint: str = "") -> Notice:
    return Notice(
        id="evt_slow", type=kind, account=shop.account, object=about, created=shop.now, hint=hint, about=(about,)
    )


@pytest.mark.parametrize(
    "kind",
    [
        "invoice.paid",
        "payment_method.updated",
        "checkout.session.completed",
        "checkout.session.expired",
        "account.updated",
        "account.application.deauthorized",
    ],
)
def test_every_effect_and_its_done_mark_are_one_write(shop: Shop, kind: str) -> None:
    """Another worker ended the event after this one read it as open: of the effect nothing is written a second time."""
    about, hint = _with_something_to_tell(shop, kind)
    inbox = wiring.inbox()
    inbox.put_if_absent(_notice(shop, kind, about, hint), shop.now)
    wiring.payment_table().save(event=("evt_slow", "elsewhere"))
    stale = iter([(_notice(shop, kind, about, hint), "received")])
    late = replace(wiring.applying(), inbox=SimpleNamespace(get=lambda event: next(stale, None) or inbox.get(event)))
    before = len(shop.system.dynamodb.changes(shop.table.name, 0))
    assert apply("evt_slow", shop.now, late) == "known"
    assert len(shop.system.dynamodb.changes(shop.table.name, 0)) == before
    assert next(stale, None) is None
    # The same, not ended by anybody: the effect and the mark are there.
    again = replace(_notice(shop, kind, about, hint), id="evt_again")
    inbox.put_if_absent(again, shop.now)
    assert apply("evt_again", shop.now, wiring.applying()) == "applied"
    assert len(shop.system.dynamodb.changes(shop.table.name, 0)) > before
    found = inbox.get("evt_again")
    assert found is not None
    assert found[1] == "done"


def _with_something_to_tell(shop: Shop, kind: str) -> tuple[str, str]:
    """What the event is about, and the hint it carries; its webhook itself is lost."""
    about, hint = shop.account, ""
    if kind == "invoice.paid":
        made = shop.sent(charge=True)
        about, hint = made.stripe_id, made.id
    elif kind == "payment_method.updated":
        shop.stripe.replace_card_number(shop.account, shop.card, 7, 2041)
        about = shop.customer
    elif kind.startswith("checkout"):
        setup = wiring.customers().begin_setup(shop.account, shop.customer, "usd", "sub_new", "acme", "key")
        shop.subscribe("sub_new", checkout=setup.id, pending_until=shop.now + timedelta(hours=72))
        shop.change(Subscription, keys.subscription("sub_new"), status="pending_payment", activated_at=None)
        if kind.endswith("completed"):
            shop.stripe.complete_checkout(shop.account, setup.id, "5555555555554444")
        about, hint = setup.id, "sub_new"
    elif kind == "account.updated":
        shop.stripe.restrict(shop.account, currently_due=["external_account"])
    elif kind == "account.application.deauthorized":
        shop.stripe.deauthorize(shop.account)
    while shop.stripe.webhooks.due(shop.now):
        pass
    return about, hint


def test_an_account_that_let_us_go_is_audited_as_done_at_stripe(shop: Shop) -> None:
    shop.stripe.deauthorize(shop.account)
    shop.settle()
    assert shop.audited() == [("stripe", "monetization.disconnect", "acme")]


@pytest.mark.parametrize("kind", sorted(MARKED | UNMARKED | ACCOUNT))
def test_every_type_that_is_taken_in_has_an_effect_or_is_observed_on_purpose(kind: str) -> None:
    found = [prefix for prefix, _ in HANDLERS if kind.startswith(prefix)]
    assert len(found) == 1 or kind == "account.application.authorized"


def test_the_guide_asks_stripe_for_the_events_that_tell_something_and_no_more() -> None:
    guide = Path("docs/deploy.md").read_text(encoding="utf-8")
    listed = guide.split("with these events:")[1].split("Put its signing secret")[0]
    assert set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", listed)) == ASKED
    assert ASKED >= (MARKED | UNMARKED | ACCOUNT) - OPTIONAL


@pytest.mark.parametrize(
    ("kind", "became"),
    [
        ("invoice.finalization_failed", "paid"),
        ("invoice_payment.paid", "paid"),
        ("refund.created", "refunded"),
        ("refund.updated", "refunded"),
        ("charge.refunded", "refunded"),
        ("charge.dispute.created", "dispute_open"),
        ("charge.dispute.funds_withdrawn", "dispute_open"),
        ("charge.dispute.funds_reinstated", "dispute_won"),
        ("charge.dispute.closed", "dispute_won"),
    ],
)
def test_any_one_event_about_an_invoice_is_enough(shop: Shop, kind: str, became: str) -> None:
    """All others are lost: the invoice is brought up to everything that happened to it."""
    made = shop.sent()
    shop.settle()
    shop.charge(made)
    account = shop.stripe.accounts[shop.account]
    if became != "paid":
        shop.settle()
        charge = shop.charge_of(made)
        if became == "refunded":
            shop.stripe.refund_charge(shop.account, charge, 500)
        else:
            dispute = shop.stripe.open_dispute(shop.account, charge)
            if became == "dispute_won":
                shop.stripe.close_dispute(shop.account, dispute["id"], won=True)
    _lose(shop)
    assert became not in [step.what for step in shop.invoice(made).history]
    about = {
        "invoice": account.invoices, "invoice_payment": account.invoice_payments, "refund": account.refunds,
        "charge": account.charges if kind == "charge.refunded" else account.disputes,
    }[kind.partition(".")[0]]  # fmt: skip
    shop.stripe.inject_event(shop.account, kind, next(reversed(about.values())))
    shop.settle()
    assert shop.invoice(made).history[-1].what == became


def _lose(shop: Shop) -> None:
    while shop.stripe.webhooks.due(shop.now):
        pass


def test_a_card_that_failed_to_be_set_up_tells_what_the_customer_has_now(shop: Shop) -> None:
    shop.stripe.detach_card(shop.account, shop.card)
    _lose(shop)
    intent = next(iter(shop.stripe.accounts[shop.account].setup_intents.values()))
    shop.stripe.inject_event(shop.account, "setup_intent.setup_failed", intent)
    shop.settle()
    assert shop.subscriber().customers[0].payment_method is None
    assert ("stripe", "subscriber.card_removed", "dev") in shop.audited()


def test_a_refund_told_before_its_payment_is_in_our_index_is_found_by_its_invoice(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.stripe.refund_charge(shop.account, _charged(shop), 500)
    _lose(shop)
    refunded = next(iter(shop.stripe.accounts[shop.account].charges.values()))
    about = (refunded["payment_intent"], shop.customer)
    assert shop.invoice(made).payment == ""
    notice = replace(_notice(shop, "charge.refunded", refunded["id"]), about=about)
    wiring.inbox().put_if_absent(notice, shop.now)
    assert apply("evt_slow", shop.now, wiring.applying()) == "applied"
    assert (shop.invoice(made).status, shop.invoice(made).refunded) == ("paid", 500)


def _charged(shop: Shop) -> str:
    return str(next(iter(shop.stripe.accounts[shop.account].charges)))


def test_a_suspension_reaches_the_next_check_and_so_does_the_payment_that_ends_it(shop: Shop) -> None:
    shop.store(
        Tier(id="tier_gold", publisher="acme", name="Gold", throttle=Throttle(per_minute=5000), created_at=START),
        ApiKey(
            id="key_one", subscription="sub_one", publisher="acme", environment="production",
            sha256=hashed("mk_live_one"), created_at=START,
        ),
    )  # fmt: skip
    remembered = Decisions()

    def allowed() -> tuple[bool, str]:
        (decision,) = decide(
            [("mk_live_one", "api_weather")],
            publisher="acme",
            now=shop.now,
            ports=wiring.entitling(),
            remembered=remembered,
        )
        return decision.allowed, decision.reason

    assert allowed() == (True, "")
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(START + timedelta(days=3) - timedelta(seconds=10))
    assert allowed() == (True, "")
    shop.system.clock.move_to(START + timedelta(days=3))  # the grace is over, and no worker came yet
    assert allowed() == (False, "past_due")
    shop.accept()
    shop.stripe.pay_by_hand(shop.account, made.stripe_id)
    shop.settle()
    shop.system.clock.move_to(shop.now + timedelta(seconds=DECISION_SECONDS))
    assert allowed() == (True, "")
