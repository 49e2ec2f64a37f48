"""What differs from Stripe is found, and repaired where it is ours; what agrees costs no write."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from functions.reconcile.app import handler
from local.stripe_emulator import Fault
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import delete, release
from monetize.domain.adoption import lines_taken_back
from monetize.domain.drift import Report
from monetize.domain.errors import Invalid
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.plans import PlanVersion
from monetize.domain.rating import Carried
from monetize.domain.subscriptions import Customer, Discount, Span, Subscriber, Subscription, billed, scheduled
from monetize.http.schemas import to_cursor
from monetize.services import reconciling
from monetize.services.billing import invoice_id
from tests.integration.payment_fixtures import START, TERMS, Shop, shop

__all__ = ["shop"]

HOUR = timedelta(hours=1)


def reconcile(shop: Shop) -> Report:
    """One pass. The number of requests that it prints is the number that Stripe got, whatever it found."""
    asked = len(shop.stripe.requests)
    report = reconciling.reconcile("acme", shop.now, lambda: True, wiring.reconciling())
    assert report.reads == len(shop.stripe.requests) - asked
    return report


def unheard(shop: Shop) -> Report:
    """One pass over an account that answers nothing."""
    return reconciling.reconcile("acme", shop.now, lambda: True, wiring.reconciling())


def owes(shop: Shop, amount: int, status: str = "empty") -> None:
    """The last bill left that much in the subscriber's favour."""
    edge = START + 31 * 24 * HOUR
    bill = Bill(
        subscription="sub_one", publisher="acme", subscriber="dev", account=shop.account, currency="usd", edge=edge,
        last=True, status=status, returned=-amount, created_at=shop.now,
    )  # fmt: skip
    shop.store(bill, BillLines(subscription="sub_one", edge=edge, lines=(), returned=(Carried(amount=-amount),)))


def silence(shop: Shop) -> None:
    """Every webhook that is on its way is lost."""
    while shop.stripe.webhooks.due(shop.now):
        pass


def kinds(report: Report) -> dict[str, int]:
    return dict(report.counts)


def writes(shop: Shop) -> tuple[int, int]:
    """(changes of the Core table, writes at Stripe) so far."""
    changes = shop.system.dynamodb.changes(shop.table.name, 0)
    return len(changes), sum(each.method != "GET" for each in shop.stripe.requests)


def test_a_clean_run_writes_nothing_and_says_how_much_it_read(shop: Shop) -> None:
    shop.sent(charge=True)
    refunded = shop.sent(charge=True, edge=START + 31 * 24 * HOUR)
    shop.decline()
    shop.sent(charge=True, edge=START + 62 * 24 * HOUR)
    shop.settle()
    shop.stripe.refund_charge(shop.account, shop.charge_of(refunded), 100)
    shop.client.v1.invoices.create({"customer": shop.customer}, shop.options)  # the publisher's own business
    shop.settle()
    before, asked = writes(shop), len(shop.stripe.requests)
    report = reconcile(shop)
    assert report.clean, report.findings
    assert report.reads == len(shop.stripe.requests) - asked == 7
    assert writes(shop) == before
    assert (report.subscribers, report.invoices, report.products) == (1, 3, 1)
    assert shop.table.get(Report, keys.drift("acme")) is None


def test_missed_webhooks_are_made_up_for(shop: Shop) -> None:
    paid, voided = shop.sent(charge=True), shop.sent(edge=START + 31 * 24 * HOUR)
    shop.stripe.void_invoice(shop.account, voided.stripe_id)
    silence(shop)
    report = reconcile(shop)
    assert kinds(report) == {"status:repaired": 2}
    assert (shop.invoice(paid).status, shop.invoice(voided).status) == ("paid", "void")
    assert reconcile(shop).clean
    assert shop.table.get(Report, keys.drift("acme")) is None  # nothing differs any more


def test_refunds_disputes_and_credit_notes_that_nobody_told_of_are_found(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.refund_charge(shop.account, shop.charge_of(made), 500)
    shop.client.v1.credit_notes.create({"invoice": made.stripe_id, "credit_amount": 300}, shop.options)
    shop.stripe.open_dispute(shop.account, shop.charge_of(made))
    silence(shop)
    assert kinds(reconcile(shop)) == {"status:repaired": 1}
    invoice = shop.invoice(made)
    assert (invoice.refunded, invoice.credited, invoice.disputed) == (500, 300, "open")
    assert reconcile(shop).clean


@pytest.mark.parametrize(("won", "word"), [(True, "won"), (False, "lost")])
def test_a_dispute_that_the_bank_decided_unheard_is_found(shop: Shop, won: bool, word: str) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    dispute = shop.stripe.open_dispute(shop.account, shop.charge_of(made))
    shop.settle()
    shop.stripe.close_dispute(shop.account, dispute["id"], won=won)
    silence(shop)
    assert kinds(reconcile(shop)) == {"status:repaired": 1}
    assert shop.invoice(made).disputed == word
    assert ("stripe", "invoice.dispute", made.id) in shop.audited()
    assert reconcile(shop).clean


def test_a_dispute_of_what_was_paid_long_ago_is_found(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.system.clock.move_to(shop.now + timedelta(days=115))
    shop.stripe.open_dispute(shop.account, shop.charge_of(made))
    silence(shop)
    assert kinds(reconcile(shop)) == {"status:repaired": 1}
    assert shop.invoice(made).disputed == "open"
    assert reconcile(shop).clean


def test_without_a_customer_the_invoices_are_compared_all_the_same(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    owes(shop, 1200)
    shop.stripe.refund_charge(shop.account, shop.charge_of(made), 100)
    silence(shop)
    shop.change(Subscriber, keys.subscriber("acme", "dev"), customers=())
    assert kinds(reconcile(shop)) == {"status:repaired": 1, "amount:repaired": 1}
    assert (shop.invoice(made).refunded, shop.invoice(made).credited) == (1300, 1200)


def test_an_invoice_whose_record_was_lost_in_a_crash_is_adopted(shop: Shop) -> None:
    made = shop.sent(charge=True)
    silence(shop)
    shop.table.write(delete(shop.invoice(made)))
    report = reconcile(shop)
    assert kinds(report) == {"missing_here:repaired": 1}
    invoice = shop.invoice(made)
    assert (invoice.status, invoice.amount, invoice.stripe_id) == ("paid", 4900, made.stripe_id)
    assert shop.bill(made).status == "paid"
    assert reconcile(shop).clean


def test_a_draft_made_twice_is_deleted_and_the_one_on_its_way_is_left(shop: Shop) -> None:
    bill = shop.draft()
    assert bill.invoice is not None
    twin = shop.client.v1.invoices.create(
        {"customer": shop.customer, "metadata": {"monetize": "bill", "bill": bill.id, "invoice": "inv_x"}}, shop.options
    ).id
    assert reconcile(shop).clean  # a young draft may be a worker's
    shop.system.clock.move_to(shop.now + 2 * HOUR)
    assert kinds(reconcile(shop)) == {"orphan_draft:repaired": 1}
    held = shop.stripe.accounts[shop.account].invoices
    assert held[twin].get("deleted")
    assert held[bill.invoice]["status"] == "draft"
    shop.change(Bill, keys.bill(bill.subscription, bill.edge), status="waived")
    assert kinds(reconcile(shop)) == {"orphan_draft:repaired": 1}  # nobody will send it
    assert held[bill.invoice].get("deleted")


def test_what_the_publisher_made_for_the_same_customer_is_never_touched(shop: Shop) -> None:
    line: Any = {"amount": 700, "description": "consulting"}
    own = []
    for _ in range(2):
        made = shop.client.v1.invoices.create({"customer": shop.customer, "currency": "usd"}, shop.options)
        shop.client.v1.invoices.add_lines(made.id, {"lines": [line]}, shop.options)
        own.append(made.id)
    shop.client.v1.invoices.finalize_invoice(own[0], None, shop.options)
    silence(shop)
    shop.system.clock.move_to(shop.now + 2 * HOUR)
    assert reconcile(shop).clean
    held = shop.stripe.accounts[shop.account].invoices
    assert [held[each]["status"] for each in own] == ["open", "draft"]


def test_a_second_invoice_for_one_bill_is_money_and_waits_for_a_person(shop: Shop) -> None:
    made = shop.sent()
    twin = shop.client.v1.invoices.create(
        {
            "customer": shop.customer,
            "currency": "usd",
            "metadata": {"monetize": "bill", "bill": f"sub_one.{START:%Y%m%dT%H%M%SZ}", "invoice": made.id},
        },
        shop.options,
    )
    line: Any = {"amount": 700, "description": "again"}
    shop.client.v1.invoices.add_lines(twin.id, {"lines": [line]}, shop.options)
    shop.client.v1.invoices.finalize_invoice(twin.id, None, shop.options)
    silence(shop)
    report = reconcile(shop)
    assert kinds(report) == {"duplicate:proposed": 1}
    assert (dict(report.money), report.money_findings) == ({"usd": 700}, 1)
    assert shop.stripe.accounts[shop.account].invoices[twin.id]["status"] == "open"
    shop.client.v1.invoices.void_invoice(twin.id, None, shop.options)  # as a person is told to
    silence(shop)
    assert reconcile(shop).clean


def twin_of(shop: Shop, bill: str, invoice: str) -> str:
    """Another invoice for the same bill, finalized."""
    metadata = {"monetize": "bill", "bill": bill, "invoice": invoice}
    twin = shop.client.v1.invoices.create(
        {"customer": shop.customer, "currency": "usd", "metadata": metadata}, shop.options
    )
    line: Any = {"amount": 700, "description": "again"}
    shop.client.v1.invoices.add_lines(twin.id, {"lines": [line]}, shop.options)
    shop.client.v1.invoices.finalize_invoice(twin.id, None, shop.options)
    return twin.id


def test_a_second_invoice_that_was_paid_is_no_matter_once_all_of_it_went_back(shop: Shop) -> None:
    made = shop.sent()
    twin = twin_of(shop, shop.bill(made).id, made.id)
    shop.client.v1.invoices.pay(twin, None, shop.options)
    silence(shop)
    assert kinds(reconcile(shop)) == {"duplicate:proposed": 1}
    (charge,) = shop.stripe.accounts[shop.account].charges
    shop.stripe.refund_charge(shop.account, charge, 600)
    silence(shop)
    assert kinds(reconcile(shop)) == {"duplicate:proposed": 1}
    shop.stripe.refund_charge(shop.account, charge)
    silence(shop)
    assert reconcile(shop).clean


def test_of_two_invoices_the_one_that_the_bill_remembers_is_recorded_again(shop: Shop) -> None:
    """The other one was made before it, so that it comes first."""
    edge = START + 31 * 24 * HOUR
    name = f"sub_one.{edge:%Y%m%dT%H%M%SZ}"
    wanted = invoice_id(
        Bill(
            subscription="sub_one", publisher="acme", subscriber="dev", account=shop.account, currency="usd",
            edge=edge, created_at=shop.now,
        )
    )  # fmt: skip
    twin = twin_of(shop, name, wanted)
    shop.system.clock.move_to(shop.now + HOUR)
    made = shop.sent(edge=edge)
    assert made.id == wanted
    silence(shop)
    shop.table.write(delete(shop.invoice(made)))
    assert kinds(reconcile(shop)) == {"missing_here:repaired": 1, "duplicate:proposed": 1}
    assert shop.invoice(made).stripe_id == made.stripe_id != twin


def test_a_restored_bill_is_taken_back_from_what_stands_and_not_from_what_was_voided(shop: Shop) -> None:
    edge = START + 31 * 24 * HOUR
    name = f"sub_one.{edge:%Y%m%dT%H%M%SZ}"
    voided = twin_of(shop, name, "inv_voided")
    shop.stripe.void_invoice(shop.account, voided)
    shop.system.clock.move_to(shop.now + HOUR)
    made = shop.sent(edge=edge, charge=True)
    silence(shop)
    place = keys.publisher_invoice("acme", made.issued_at, made.id)
    shop.table.write(delete(shop.invoice(made)), delete(shop.bill(made)), release(place))
    assert kinds(reconcile(shop)) == {"missing_here:repaired": 2}
    assert (shop.bill(made).status, shop.bill(made).invoice) == ("paid", made.stripe_id)


def test_what_an_account_before_this_one_holds_is_not_looked_for_here(shop: Shop) -> None:
    made = shop.sent()
    silence(shop)
    shop.change(Invoice, keys.invoice(made.id), account="acct_before", stripe_id="in_before")
    shop.stripe.void_invoice(shop.account, made.stripe_id)
    silence(shop)
    assert "missing_there:proposed" not in kinds(reconcile(shop))


def test_a_decline_that_nobody_told_of_is_found(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    silence(shop)
    assert kinds(reconcile(shop)) == {"status:repaired": 1}
    assert (shop.invoice(made).status, shop.subscription().payment_state) == ("payment_failed", "past_due")
    assert reconcile(shop).clean


def test_of_two_disputes_of_one_payment_the_newest_counts(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    first = shop.stripe.open_dispute(shop.account, shop.charge_of(made), 1000)
    shop.stripe.close_dispute(shop.account, first["id"], won=True)
    shop.system.clock.move_to(shop.now + HOUR)
    shop.stripe.open_dispute(shop.account, shop.charge_of(made), 2000)
    shop.settle()
    assert (shop.invoice(made).disputed, shop.invoice(made).charged_back) == ("open", 2000)
    assert reconcile(shop).clean


def test_a_wrong_amount_and_a_deleted_invoice_are_money_and_are_not_touched(shop: Shop) -> None:
    made, gone = shop.sent(), shop.sent(edge=START + 31 * 24 * HOUR)
    shop.change(Invoice, keys.invoice(made.id), amount=5000)
    del shop.stripe.accounts[shop.account].invoices[gone.stripe_id]
    report = reconcile(shop)
    assert kinds(report) == {"amount:proposed": 1, "missing_there:proposed": 1}
    assert dict(report.money) == {"usd": 100 + 4900}
    stored = shop.table.get(Report, keys.drift("acme"))
    assert stored is not None
    assert {each.subject for each in stored.findings} == {made.id, gone.id}


def test_lines_that_are_others_than_were_sent_are_money_although_their_sum_is_the_same(shop: Shop) -> None:
    made = shop.sent()
    bill = shop.bill(made)
    sent = wiring.reconciling().provider.lines(shop.account, made.stripe_id)
    shop.store(lines_taken_back(bill, sent, None, None))
    silence(shop)
    assert reconcile(shop).clean
    (line,) = shop.stripe.accounts[shop.account].invoices[made.stripe_id]["lines"]["data"]
    shop.stripe.accounts[shop.account].invoices[made.stripe_id]["lines"]["data"] = [
        {**line, "id": "il_a", "amount": 4000},
        {**line, "id": "il_b", "amount": 900},
    ]
    report = reconcile(shop)
    assert (kinds(report), report.money_findings) == ({"amount:proposed": 1}, 1)


def test_lines_beyond_the_first_page_are_compared_while_the_invoice_is_young(shop: Shop) -> None:
    """A list shows ten lines of an invoice. They are read whole in its first days; after that neither side changes."""
    made = shop.sent()
    account = shop.stripe.accounts[shop.account]
    lines = account.invoice_lines[made.stripe_id]
    lines[:] = [{**lines[0], "id": f"il_{number}", "amount": 350} for number in range(14)]
    account.invoices[made.stripe_id]["lines"].update(data=lines[:10], has_more=True)
    sent = wiring.reconciling().provider.lines(shop.account, made.stripe_id)
    assert len(sent) == 14
    shop.store(lines_taken_back(shop.bill(made), sent, None, None))
    silence(shop)
    assert reconcile(shop).clean
    lines[0]["amount"], lines[13]["amount"] = 300, 400
    report = reconcile(shop)
    assert (kinds(report), report.money_findings) == ({"amount:proposed": 1}, 1)
    shop.system.clock.move_to(shop.now + timedelta(days=8))
    silence(shop)
    assert reconcile(shop).reads == report.reads - 1


def test_a_line_taken_back_is_of_its_plans_tax_treatment(shop: Shop) -> None:
    made = shop.sent()
    sent = wiring.reconciling().provider.lines(shop.account, made.stripe_id)
    terms = replace(TERMS, tax_behavior="exclusive", tax_code="txcd_10103001")
    version = PlanVersion(plan="plan_gold", publisher="acme", number=1, name="Gold", terms=terms, published_at=START)
    (line,) = lines_taken_back(shop.bill(made), sent, version, None).lines
    assert (line.tax_behavior, line.tax_code) == ("exclusive", "txcd_10103001")


def test_another_currency_is_money(shop: Shop) -> None:
    made = shop.sent()
    silence(shop)
    shop.stripe.accounts[shop.account].invoices[made.stripe_id]["currency"] = "eur"
    report = reconcile(shop)
    assert (kinds(report), report.money_findings, dict(report.money)) == ({"amount:proposed": 1}, 1, {"usd": 4900})
    assert "4900 usd" in report.findings[0].detail
    assert "4900 eur" in report.findings[0].detail


def test_invoices_of_another_deployment_on_the_same_account_are_reported_and_left(shop: Shop) -> None:
    foreign = shop.client.v1.invoices.create(
        {
            "customer": shop.customer,
            "metadata": {"monetize": "bill", "bill": f"sub_else.{START:%Y%m%dT%H%M%SZ}", "invoice": "inv_else"},
        },
        shop.options,
    )
    silence(shop)
    shop.system.clock.move_to(shop.now + 2 * HOUR)
    assert kinds(reconcile(shop)) == {"foreign_metadata:reported": 1}
    assert shop.stripe.accounts[shop.account].invoices[foreign.id]["status"] == "draft"
    shop.client.v1.invoices.finalize_invoice(foreign.id, None, shop.options)
    silence(shop)
    assert kinds(reconcile(shop)) == {"foreign_metadata:reported": 1}


def test_a_card_product_or_customer_changed_by_hand_is_noticed(shop: Shop) -> None:
    shop.stripe.detach_card(shop.account, shop.card)
    shop.client.v1.products.update(shop.product, {"active": False}, shop.options)
    silence(shop)
    report = reconcile(shop)
    assert kinds(report) == {"missing_there:repaired": 1, "stale_link:repaired": 1}
    assert shop.subscriber().customers[0].payment_method is None
    shop.stripe.delete_customer(shop.account, shop.customer)
    silence(shop)
    assert "stale_link:repaired" in kinds(reconcile(shop))
    assert shop.subscriber().customers == ()


def test_a_card_about_to_expire_is_told_of_once(shop: Shop) -> None:
    customer = replace(shop.subscriber().customers[0], expires="2026-04")
    shop.change(Subscriber, keys.subscriber("acme", "dev"), customers=(customer,))
    shop.stripe.accounts[shop.account].payment_methods[shop.card]["card"].update(exp_month=4, exp_year=2026)
    for _ in range(2):
        assert reconcile(shop).clean
        shop.settle()
    told = [each.detail for each in shop.system.outbox() if each.detail["type"] == "payment_method.expiring"]
    assert [each["data"]["expires"] for each in told] == ["2026-04"]
    assert shop.audited() == [("stripe", "subscriber.card_expiring", "dev")]
    shop.stripe.detach_card(shop.account, shop.card)
    shop.settle()
    before = shop.subscriber()
    assert reconcile(shop).clean
    assert shop.subscriber() == before  # what is gone does not expire


def test_an_account_that_left_unheard_is_disconnected_and_nothing_of_ours_is_lost(shop: Shop) -> None:
    made = shop.sent()
    shop.stripe.deauthorize(shop.account)
    silence(shop)
    assert kinds(unheard(shop)) == {"stale_link:repaired": 1}
    assert (shop.publisher().status, shop.invoice(made).status) == ("disconnected", "open")
    assert ("stripe", "monetization.disconnect", "acme") in shop.audited()
    assert kinds(unheard(shop)) == {"stale_link:reported": 1}


def test_a_key_that_lacks_a_right_disconnects_nobody(shop: Shop) -> None:
    shop.stripe.faults.append(Fault("not_permitted", method="GET", times=10**6))
    assert kinds(unheard(shop)) == {"stale_link:reported": 1}
    assert shop.publisher().status == "enabled"


@pytest.mark.parametrize(("enabled", "needs"), [(False, ("external_account",)), (True, ())])
def test_what_the_account_may_do_is_known_although_nobody_told(
    shop: Shop, enabled: bool, needs: tuple[str, ...]
) -> None:
    shop.stripe.restrict(shop.account, currently_due=["external_account"])
    if enabled:
        shop.settle()
        shop.stripe.restrict(shop.account, charges_enabled=True)
    silence(shop)
    assert kinds(reconcile(shop)) == {"stale_link:repaired": 1}
    link = shop.publisher().stripe
    assert link is not None
    assert (link.charges_enabled, link.requirements) == (enabled, needs)
    assert ("stripe", "monetization.account", "acme") in shop.audited()
    assert reconcile(shop).clean


EDITS: dict[str, tuple[bool, Callable[[Shop, Invoice], object], dict[str, object]]] = {
    "voided": (False, lambda shop, made: shop.stripe.void_invoice(shop.account, made.stripe_id), {"status": "void"}),
    "marked paid": (
        False,
        lambda shop, made: shop.stripe.mark_paid(shop.account, made.stripe_id),
        {"status": "paid", "out_of_band": True},
    ),
    "marked uncollectible": (
        False,
        lambda shop, made: shop.client.v1.invoices.mark_uncollectible(made.stripe_id, None, shop.options),
        {"status": "uncollectible"},
    ),
    "credited": (
        False,
        lambda shop, made: shop.client.v1.credit_notes.create({"invoice": made.stripe_id, "amount": 900}, shop.options),
        {"credited": 900, "amount_remaining": 4000},
    ),
    "refunded": (
        True,
        lambda shop, made: shop.stripe.refund_charge(shop.account, shop.charge_of(made), 500),
        {"refunded": 500},
    ),
    "overpaid": (
        True,
        lambda shop, made: shop.stripe.overpay(shop.account, made.stripe_id, 300),
        {"overpaid": 300},
    ),
    "disputed": (
        True,
        lambda shop, made: shop.stripe.open_dispute(shop.account, shop.charge_of(made)),
        {"disputed": "open", "charged_back": 4900},
    ),
    "asked about": (
        True,
        lambda shop, made: shop.stripe.open_dispute(shop.account, shop.charge_of(made), inquiry=True),
        {"disputed": "open", "charged_back": 0},
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_at_stripe_that_nobody_told_of_is_seen_and_repaired(shop: Shop, edit: str) -> None:
    paid, change, became = EDITS[edit]
    made = shop.sent(charge=paid)
    shop.settle()
    change(shop, made)
    silence(shop)
    assert kinds(reconcile(shop)) == {"status:repaired": 1}
    invoice = shop.invoice(made)
    assert {name: getattr(invoice, name) for name in became} == became
    assert [entry[0] for entry in shop.audited() if entry[2] == made.id] == ["stripe"]
    assert reconcile(shop).clean


def test_what_is_taken_back_at_stripe_unheard_is_taken_back_here(shop: Shop) -> None:
    """A refund that the bank returned, a note that was voided, an inquiry that came to nothing."""
    paid, owed = shop.sent(charge=True), shop.sent(edge=START + 31 * 24 * HOUR)
    shop.settle()
    refund = shop.stripe.refund_charge(shop.account, shop.charge_of(paid), 500)
    asked = shop.stripe.open_dispute(shop.account, shop.charge_of(paid), inquiry=True)
    note = shop.client.v1.credit_notes.create({"invoice": owed.stripe_id, "amount": 900}, shop.options)
    shop.settle()
    assert (shop.invoice(paid).refunded, shop.invoice(owed).credited) == (500, 900)
    shop.stripe.fail_refund(shop.account, refund["id"])
    shop.stripe.close_dispute(shop.account, asked["id"], won=False)
    shop.client.v1.credit_notes.void_credit_note(note.id, None, shop.options)
    silence(shop)
    assert kinds(reconcile(shop)) == {"status:repaired": 2}
    assert (shop.invoice(paid).refunded, shop.invoice(paid).disputed) == (0, "closed")
    assert (shop.invoice(owed).credited, shop.invoice(owed).amount_remaining) == (0, 4900)
    assert reconcile(shop).clean


@pytest.mark.parametrize("edit", ["renewed", "replaced"])
def test_a_card_that_is_another_unheard_is_charged_with_what_failed(shop: Shop, edit: str) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    if edit == "renewed":
        shop.stripe.replace_card_number(shop.account, shop.card, 7, 2041)
    else:
        session = wiring.customers().begin_setup(shop.account, shop.customer, "usd", "sub_one", "acme", "key")
        shop.stripe.complete_checkout(shop.account, session.id, "5555555555554444")
        new = [each["payment_method"] for each in shop.stripe.accounts[shop.account].setup_intents.values()][-1]
        settings: Any = {"invoice_settings": {"default_payment_method": new}}
        shop.client.v1.customers.update(shop.customer, settings, shop.options)
    silence(shop)
    assert kinds(reconcile(shop)) == {"stale_link:repaired": 1}
    assert shop.invoice(made).next_attempt_at == shop.now
    assert ("stripe", "subscriber.card_replaced", "dev") in shop.audited()


# --- after a restore ---


def paused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As deployed while restored tables are brought up."""
    monkeypatch.setenv("BILLING_PAUSED", "true")
    shop.system.wire()


def test_a_customer_made_after_the_restored_instant_is_found_with_its_card_and_its_invoices(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscriber had a free tier then. What it paid since is at Stripe, under a customer that nobody here knows."""
    made = shop.sent(charge=True)
    silence(shop)
    place = keys.publisher_invoice("acme", made.issued_at, made.id)
    shop.table.write(delete(shop.invoice(made)), delete(shop.bill(made)), release(place))
    known = shop.subscriber().customers
    shop.change(Subscriber, keys.subscriber("acme", "dev"), customers=())
    shop.system.clock.move_to(shop.now + 2 * HOUR)  # Stripe's search is an hour behind
    assert reconcile(shop).clean  # daily, nobody is looked for: most who have no customer have a free tier
    paused(shop, monkeypatch)
    assert kinds(reconcile(shop)) == {"missing_here:repaired": 3}
    assert shop.subscriber().customers == known
    assert (shop.invoice(made).status, shop.bill(made).reason) == ("paid", "adopted")
    assert ("stripe", "subscriber.customer_found", "dev") in shop.audited()
    assert reconcile(shop).clean


def test_who_came_after_the_restored_instant_is_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(publisher: str, subscriber: str) -> str:
        metadata = {"monetize": "customer", "publisher": publisher, "subscriber": subscriber}
        return shop.client.v1.customers.create({"metadata": metadata}, shop.options).id

    lost, second = made("acme", "newcomer"), made("acme", "dev")
    made("another-deployments", "dev")
    shop.client.v1.customers.create({"name": "the publisher's own"}, shop.options)
    silence(shop)
    shop.system.clock.move_to(shop.now + 2 * HOUR)
    paused(shop, monkeypatch)
    before = writes(shop)
    report = reconcile(shop)
    assert kinds(report) == {"foreign_metadata:reported": 2}
    assert {each.subject for each in report.findings} == {lost, second}
    assert writes(shop)[1] == before[1]


def test_where_stripe_offers_no_search_a_restored_pass_goes_on_without(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused(shop, monkeypatch)
    shop.stripe.faults.append(Fault("not_offered", "GET", "/v1/customers/search"))
    made = shop.sent(charge=True)
    silence(shop)
    report = reconcile(shop)
    assert kinds(report) == {"not_compared:reported": 1, "status:repaired": 1}
    assert shop.invoice(made).status == "paid"


def test_after_a_restore_invoices_are_adopted_before_anything_is_billed_again(shop: Shop) -> None:
    """The tables are those of before two billing dates; Stripe holds the invoices of both."""
    spans = (Span(start=START, kind="paid", tier="tier_gold", plan="plan_gold", version=1, advance=True),)
    restored = scheduled(
        Subscription(
            id="sub_old", publisher="acme", subscriber="dev", application="app", product="api_weather", apis=(),
            tier="tier_gold", status="active", plan="plan_gold", version=1, currency="usd", account=shop.account,
            spans=spans, created_at=START,
        ),
        24,
    )  # fmt: skip
    assert restored.next_edge == START
    following = billed(restored, START, 24).next_edge
    assert following is not None
    edges = [START, following]
    shop.subscribe("sub_old")
    shop.change(Subscription, keys.subscription("sub_old"), spans=spans, next_edge=START, due_at=restored.due_at)
    made = [shop.sent(subscription="sub_old", edge=edge, charge=True) for edge in edges]
    silence(shop)
    for each in made:
        place = keys.publisher_invoice("acme", each.issued_at, each.id)
        shop.table.write(delete(shop.invoice(each)), delete(shop.bill(each)), release(place))
    report = reconcile(shop)
    listed = shop.table.query(keys.publisher_invoice("acme", f"{START:%Y-%m}").pk).items
    assert {item["sk"]["S"].partition("#")[2] for item in listed} == {each.id for each in made}
    assert kinds(report) == {"missing_here:repaired": 4}
    for each in made:
        assert shop.invoice(each).status == "paid"
        bill = shop.table.get(Bill, keys.bill("sub_old", each.edge))
        assert bill is not None
        assert (bill.status, bill.invoice, bill.subtotal, bill.reason) == ("paid", each.stripe_id, 4900, "adopted")
        lines = shop.table.get(BillLines, keys.bill_lines("sub_old", each.edge))
        assert lines is not None
        assert ([line.amount for line in lines.lines], lines.subtotal) == ([4900], 4900)
        assert (lines.ahead[-1].period.start, lines.ahead[-1].amount) == (each.edge, 4900)
    found = shop.subscription("sub_old")
    assert found.last_edge == edges[1]
    assert found.next_edge is not None
    assert found.next_edge > edges[1]
    assert reconcile(shop).clean


def test_a_billing_date_that_was_lost_on_the_way_waits_for_a_person(shop: Shop) -> None:
    """Its bill was parked when the tables were lost, and the next one was sent: nobody knows what it owed."""
    spans = (Span(start=START, kind="paid", tier="tier_gold", plan="plan_gold", version=1, advance=True),)
    shop.subscribe("sub_old")
    restored = scheduled(replace(shop.subscription("sub_old"), spans=spans), 24)
    gift = Discount(id="dis_1", amount=100, once=True)
    dates = {"next_edge": START, "due_at": restored.due_at}
    shop.change(Subscription, keys.subscription("sub_old"), spans=spans, discounts=(gift,), **dates)
    following = billed(restored, START, 24).next_edge
    assert following is not None
    made = shop.sent(subscription="sub_old", edge=following, charge=True)
    silence(shop)
    place = keys.publisher_invoice("acme", made.issued_at, made.id)
    shop.table.write(delete(shop.invoice(made)), delete(shop.bill(made)), release(place))
    assert kinds(reconcile(shop)) == {"missing_here:proposed": 1, "missing_here:repaired": 2}
    lost = shop.table.get(Bill, keys.bill("sub_old", START))
    assert lost is not None
    assert (lost.status, lost.reason, lost.next_at) == ("parked", "not_invoiced", None)
    assert (lost.discounts, shop.subscription("sub_old").discounts[0].used_by) == ((gift,), lost.id)
    assert [item["sk"]["S"] for item in shop.table.query(keys.parked("acme").pk).items] == [f"BILL#{lost.id}"]
    lines = shop.table.get(BillLines, keys.bill_lines("sub_old", following))
    assert lines is not None
    assert lines.since == START
    assert shop.subscription("sub_old").last_edge == following
    assert reconcile(shop).clean


def test_a_bill_that_a_person_waived_is_not_adopted_but_shown(shop: Shop) -> None:
    made = shop.sent(charge=True)
    silence(shop)
    shop.table.write(delete(shop.invoice(made)))
    shop.change(Bill, keys.bill(made.subscription, made.edge), status="waived", invoice=None)
    report = reconcile(shop)
    assert (kinds(report), dict(report.money)) == ({"amount:proposed": 1}, {"usd": 4900})
    assert shop.bill(made).status == "waived"


@pytest.mark.parametrize("status", ["empty", "waived"])
def test_what_the_last_bill_left_in_the_subscribers_favour_is_credited_once(shop: Shop, status: str) -> None:
    """Who waives a bill lets go what it charges, not what it gives back."""
    made = shop.sent(charge=True)
    shop.settle()
    owes(shop, 1200, status)
    assert kinds(reconcile(shop)) == {"amount:repaired": 1}
    shop.settle()
    assert (shop.invoice(made).credited, shop.invoice(made).refunded) == (1200, 1200)
    assert ("billing", "invoice.credit", made.id) in shop.audited()
    assert reconcile(shop).clean
    assert shop.invoice(made).credited == 1200


def test_what_the_bank_took_back_is_not_owed_to_the_subscriber_as_well(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.open_dispute(shop.account, shop.charge_of(made), 1000)
    shop.settle()
    owes(shop, 1000)
    assert reconcile(shop).clean
    assert shop.invoice(made).credited == 0


def test_what_no_invoice_can_carry_is_shown_as_money(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    owes(shop, 6000)
    report = reconcile(shop)
    assert dict(report.money) == {"usd": 1100}
    assert shop.invoice(made).credited == 4900


@pytest.mark.parametrize("by_card", [4900, 4000])
def test_an_opening_bill_that_was_paid_after_its_order_ended_is_given_back(shop: Shop, by_card: int) -> None:
    """What the customer's balance paid goes to nobody's card: that is for a person."""
    rest = 4900 - by_card
    if rest:
        shop.client.v1.customers.balance_transactions.create(
            shop.customer, {"amount": -rest, "currency": "usd"}, shop.options
        )
    made = shop.sent(charge=True)
    shop.settle()
    shop.change(Subscription, keys.subscription("sub_one"), status="ended", activated_at=None, ended_at=shop.now - HOUR)
    report = reconcile(shop)
    assert kinds(report) == {"amount:repaired": 1} | ({"amount:proposed": 1} if rest else {})
    assert dict(report.money) == ({"usd": rest} if rest else {})
    assert shop.invoice(made).refunded == by_card
    assert kinds(reconcile(shop)) == ({"amount:proposed": 1} if rest else {})


# --- the function ---


def context(milliseconds: int = 900_000) -> Any:
    return SimpleNamespace(
        function_name="reconcile",
        function_version="1",
        invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:reconcile",
        memory_limit_in_mb=512,
        aws_request_id="6f0b9c1e",
        get_remaining_time_in_millis=lambda: milliseconds,
    )


def test_a_pass_that_runs_out_of_time_goes_on_where_it_stopped(shop: Shop) -> None:
    shop.sent(charge=True)
    silence(shop)
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 0, "finished": True}
    tired = handler({"reconcile": "daily"}, context(1_000))
    assert tired == {"accounts": 1, "finished": False}
    rested = handler({"reconcile": "resume"}, context())
    assert rested == {"accounts": 1, "finished": True}
    assert shop.table.get(Report, keys.reconciliation()) is None
    stored = shop.table.get(Report, keys.drift("acme"))
    assert stored is not None
    assert kinds(stored) == {"status:repaired": 1}


def with_many_subscribers(shop: Shop, number: int) -> None:
    """Subscribers without anything to repair, each with a customer and an own subscription."""
    for at in range(number):
        name = f"dev{at:03}"
        made: Any = {"metadata": {"monetize": "customer", "publisher": "acme", "subscriber": name}}
        customer = Customer(account=shop.account, id=shop.client.v1.customers.create(made, shop.options).id)
        shop.store(Subscriber(id=name, publisher="acme", created_at=START, customers=(customer,)))
        shop.subscribe(f"sub_of_{name}", subscriber=name)
    silence(shop)


def test_an_account_of_any_size_is_compared_in_slices_each_subscriber_once(shop: Shop) -> None:
    with_many_subscribers(shop, 120)
    whole = reconcile(shop)
    assert (whole.subscribers, whole.reads) == (121, 1 + 1 + 120 * 2 + 3 + 1)
    ports, slices = wiring.reconciling(), 0
    report = Report(publisher="acme", started_at=shop.now, after=reconciling.BEGINNING)
    while report.after is not None and slices < 10:
        allowed = [True] * 25 + [False]
        asked = len(shop.stripe.requests)
        report = reconciling.reconcile("acme", shop.now, partial(allowed.pop, 0), ports, begun=report)
        assert len(shop.stripe.requests) - asked <= 25 * 4
        slices += 1
    assert slices == 5
    assert (report.subscribers, report.reads, report.products) == (whole.subscribers, whole.reads, 1)
    assert report.clean


def test_when_stripe_stops_answering_the_pass_goes_on_later_where_it_was(shop: Shop) -> None:
    with_many_subscribers(shop, 5)
    shop.sent(charge=True)
    silence(shop)
    shop.stripe.faults.append(Fault("refused", method="GET", path="/v1/customers/.*", times=10**6))
    assert handler({"reconcile": "daily"}, context()) == {"accounts": 1, "finished": False}
    waiting = shop.table.get(Report, keys.reconciliation())
    assert waiting is not None
    assert waiting.products == 1
    shop.stripe.faults.clear()
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 1, "finished": True}
    stored = shop.table.get(Report, keys.drift("acme"))
    assert stored is not None
    assert (stored.products, stored.subscribers - waiting.subscribers) == (1, 6)


def test_a_pass_that_crashes_keeps_the_place_where_it_was_to_go_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class CrashError(BaseException): ...  # out of time or memory: nothing catches it

    def crash(*_: Any, **__: Any) -> Any:
        raise CrashError

    shop.sent(charge=True)
    silence(shop)
    assert not handler({"reconcile": "daily"}, context(1_000))["finished"]
    with monkeypatch.context() as patched:
        patched.setattr(reconciling, "_subscriber", crash)
        with pytest.raises(CrashError):
            handler({"reconcile": "resume"}, context())
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 1, "finished": True}
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 0, "finished": True}


def test_one_that_cannot_be_compared_is_reported_and_the_rest_goes_on(shop: Shop) -> None:
    """What is paid here is a draft there: no event can mean that, and nobody else waits for it."""
    odd = shop.sent(charge=True)
    shop.settle()
    shop.stripe.accounts[shop.account].invoices[odd.stripe_id]["status"] = "open"
    with_many_subscribers(shop, 3)
    report = reconcile(shop)
    assert kinds(report) == {"not_compared:reported": 1}
    assert (report.subscribers, report.money_findings) == (4, 1)
    assert [(each.subject, each.detail.rpartition(": ")[2]) for each in report.findings] == [("dev", "illegal_move")]


def another_publisher(shop: Shop) -> None:
    """`zeta` comes after `acme`, with an account of its own and nobody who subscribed."""
    account = shop.stripe.connect_account(name="zeta").id
    link = shop.publisher().stripe
    assert link is not None
    shop.store(replace(shop.publisher(), id="zeta", rev=0, stripe=replace(link, account=account, name="zeta")))
    guard = keys.stripe_account(account)
    key = {"pk": {"S": guard.pk}, "sk": {"S": guard.sk}, "owner": {"S": "zeta"}}
    shop.table.client.put_item(TableName=shop.table.name, Item=key)


def test_an_odd_subscriber_keeps_nobody_else_from_being_compared(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with_many_subscribers(shop, 3)
    another_publisher(shop)
    real, seen = reconciling._subscriber, list[str]()

    def odd(going: Any, subscriber: Subscriber) -> None:
        seen.append(subscriber.id)
        if subscriber.id == "dev001":
            raise KeyError("what no event can mean")
        real(going, subscriber)

    monkeypatch.setattr(reconciling, "_subscriber", odd)
    with pytest.raises(reconciling.Broken) as broken:
        handler({"reconcile": "daily"}, context())
    assert isinstance(broken.value.__cause__, ExceptionGroup)
    assert [report.publisher for report in broken.value.reports] == ["acme", "zeta"]
    assert sorted(seen) == ["dev", "dev000", "dev001", "dev002"]
    stored = shop.table.get(Report, keys.drift("acme"))
    assert stored is not None
    assert (kinds(stored), stored.money_findings) == ({"not_compared:reported": 1}, 1)
    assert (stored.findings[0].subject, stored.findings[0].detail) == ("dev001", "could not be compared: KeyError")
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 0, "finished": True}


def test_an_account_that_cannot_be_compared_at_all_keeps_no_other_from_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_publisher(shop)
    real, seen = reconciling._steps, list[str]()

    def odd(going: Any, after: str) -> Any:
        seen.append(going.publisher.id)
        if going.publisher.id == "acme":
            raise KeyError("what was stored cannot be read")
        return real(going, after)

    monkeypatch.setattr(reconciling, "_steps", odd)
    for _ in range(2):
        with pytest.raises(reconciling.Broken):
            handler({"reconcile": "daily"}, context())
    assert seen == ["acme", "zeta"] * 2


def test_one_that_stripe_never_answers_for_is_left_out_after_a_while(shop: Shop) -> None:
    with_many_subscribers(shop, 2)
    another_publisher(shop)
    path = f"/v1/customers/{shop.customer}"
    shop.stripe.faults.append(Fault("refused", method="GET", path=path, times=10**6))
    assert handler({"reconcile": "daily"}, context()) == {"accounts": 1, "finished": False}
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 1, "finished": False}
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 1, "finished": False}
    assert handler({"reconcile": "resume"}, context()) == {"accounts": 2, "finished": True}
    stored = shop.table.get(Report, keys.drift("acme"))
    assert stored is not None
    assert (kinds(stored), stored.findings[0].subject) == ({"not_compared:reported": 1}, "dev")
    assert stored.subscribers >= 3


def sliced(shop: Shop, steps: int, cursor: str | None) -> tuple[Report, str | None]:
    """So many steps of a pass that a publisher asked for."""
    allowed = [True] * steps + [False]
    return reconciling.on_demand("acme", shop.now, partial(allowed.pop, 0), wiring.reconciling(), cursor=cursor)


def test_slices_of_a_pass_keep_each_others_findings(shop: Shop) -> None:
    made = shop.sent()
    shop.change(Invoice, keys.invoice(made.id), amount=5000)
    with_many_subscribers(shop, 3)
    report, begun = sliced(shop, 3, None)
    cursor = begun
    assert report.subscribers == 1
    while cursor is not None:
        assert cursor == begun  # it says which pass, never where
        assert shop.table.get(Report, keys.drift("acme")) is None
        report, cursor = sliced(shop, 2, cursor)
    assert (kinds(report), report.subscribers) == ({"amount:proposed": 1}, 4)
    stored = shop.table.get(Report, keys.drift("acme"))
    assert stored is not None
    assert (kinds(stored), stored.reads) == (kinds(report), report.reads)
    for stale in (begun, "SUB#sub_zzz"):
        with pytest.raises(Invalid, match="bad_cursor"):
            sliced(shop, 9, stale)
    assert shop.table.get(Report, keys.drift("acme")) == stored


def test_a_pass_that_is_begun_anew_takes_the_place_of_one_that_was_left(shop: Shop) -> None:
    _, left = sliced(shop, 1, None)
    shop.system.clock.move_to(shop.now + HOUR)
    _, newer = sliced(shop, 1, None)
    with pytest.raises(Invalid, match="bad_cursor"):
        sliced(shop, 9, left)
    assert sliced(shop, 9, newer)[1] is None
    assert sliced(shop, 9, None)[1] is None


def test_a_publisher_reconciles_on_demand_and_reads_what_was_found(shop: Shop) -> None:
    shop.sent(charge=True)
    silence(shop)
    token = shop.system.token("ann", "acme", roles="publisher_admin")
    status, _, body = shop.system.call("POST", "/reconciliation", {}, token=token)
    assert status == 200, body
    assert json.loads(body)["counts"] == {"status:repaired": 1}
    status, _, body = shop.system.call("GET", "/reconciliation", token=token)
    assert (status, json.loads(body)["clean"]) == (200, False)
    status, _, body = shop.system.call("GET", "/reconciliation", token=shop.system.token("eve", "other", roles="x"))
    assert status == 403
    stranger = shop.system.token("eve", "other", roles="publisher_admin")
    assert json.loads(shop.system.call("GET", "/reconciliation", token=stranger)[2])["clean"]
    assert shop.system.call("POST", "/reconciliation", {}, token=stranger)[0] == 404
    status, _, body = shop.system.call("POST", "/reconciliation", {"after": to_cursor("elsewhere")}, token=token)
    assert (status, json.loads(body)["code"]) == (422, "bad_cursor")
