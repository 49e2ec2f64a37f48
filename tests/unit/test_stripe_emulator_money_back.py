"""Credit notes, refunds and disputes, seen through the real SDK."""

from decimal import Decimal
from typing import Any

import pytest
import stripe

from local.stripe_emulator.sample import Sample, sample


@pytest.fixture
def shop() -> Sample:
    return sample()


def kinds(shop: Sample) -> list[str]:
    return [delivery.event.type for delivery in shop.emulator.due_deliveries()]


def charge_of(shop: Sample) -> str:
    return shop.client.v1.charges.list({"customer": shop.customer}, shop.options).data[0].id


def test_a_credit_note_lowers_what_is_left_of_an_open_invoice(shop: Sample) -> None:
    invoice = shop.finalized(1000)
    notes = shop.client.v1.credit_notes
    note = notes.create({"invoice": invoice.id, "amount": 400, "metadata": {"k": "v"}}, shop.options)
    assert (note.type, note.pre_payment_amount, note.number) == ("pre_payment", 400, f"{invoice.number}-CN-01")
    assert shop.client.v1.invoices.retrieve(invoice.id, None, shop.options).amount_remaining == 600
    with pytest.raises(stripe.InvalidRequestError, match="600"):
        notes.create({"invoice": invoice.id, "amount": 601}, shop.options)
    paid = shop.client.v1.invoices.pay(invoice.id, None, shop.options)
    assert (paid.amount_paid, paid.pre_payment_credit_notes_amount) == (600, 400)
    with pytest.raises(stripe.InvalidRequestError):
        notes.void_credit_note(note.id, None, shop.options)


def test_a_voided_credit_note_gives_the_amount_back(shop: Sample) -> None:
    invoice = shop.finalized(1000)
    note = shop.client.v1.credit_notes.create({"invoice": invoice.id, "amount": 400}, shop.options)
    voided = shop.client.v1.credit_notes.void_credit_note(note.id, None, shop.options)
    assert voided.status == "void"
    assert shop.client.v1.invoices.retrieve(invoice.id, None, shop.options).amount_remaining == 1000


def test_an_open_invoice_credited_in_full_is_paid_without_a_charge(shop: Sample) -> None:
    invoice = shop.finalized(1000)
    shop.client.v1.credit_notes.create({"invoice": invoice.id, "amount": 1000}, shop.options)
    assert shop.client.v1.invoices.retrieve(invoice.id, None, shop.options).status == "paid"
    assert shop.emulator.charged(shop.account.id) == {}


def test_after_payment_the_parts_must_add_up_and_stay_within_the_invoice(shop: Sample) -> None:
    invoice = shop.paid(1000)
    notes = shop.client.v1.credit_notes
    with pytest.raises(stripe.InvalidRequestError, match="must equal"):
        notes.create({"invoice": invoice.id, "amount": 400, "refund_amount": 300}, shop.options)
    preview = notes.preview({"invoice": invoice.id, "amount": 400, "credit_amount": 400}, shop.options)
    assert preview.amount == 400
    params: Any = {"invoice": invoice.id, "amount": 400, "refund_amount": 300, "credit_amount": 100}
    note = notes.create(params, shop.options)
    assert (note.type, note.post_payment_amount) == ("post_payment", 400)
    assert shop.client.v1.customers.retrieve(shop.customer, None, shop.options).balance == -100
    assert shop.client.v1.charges.retrieve(charge_of(shop), None, shop.options).amount_refunded == 300
    with pytest.raises(stripe.InvalidRequestError, match="600"):
        notes.create({"invoice": invoice.id, "amount": 601, "credit_amount": 601}, shop.options)
    assert len(notes.list({"invoice": invoice.id}, shop.options).data) == 1


@pytest.mark.parametrize(("currency", "odd", "fine"), [("kwd", 105, 110), ("isk", 150, 200)])
def test_what_is_charged_and_given_back_is_a_multiple_that_the_currency_takes(
    shop: Sample, currency: str, odd: int, fine: int
) -> None:
    v1 = shop.client.v1
    with pytest.raises(stripe.InvalidRequestError, match="multiple"):
        shop.draft(odd, currency=currency)
    paid = shop.paid(10 * fine, currency=currency)
    for name in ("credit_amount", "refund_amount", "out_of_band_amount"):
        wrong, right = ({"invoice": paid.id, "amount": each, name: each} for each in (odd, fine))
        with pytest.raises(stripe.InvalidRequestError, match="multiple"):
            v1.credit_notes.create(wrong, shop.options)  # type: ignore[arg-type]
        assert v1.credit_notes.create(right, shop.options).amount == fine  # type: ignore[arg-type]
    with pytest.raises(stripe.InvalidRequestError, match="multiple"):
        v1.refunds.create({"charge": charge_of(shop), "amount": odd}, shop.options)
    assert v1.refunds.create({"charge": charge_of(shop), "amount": fine}, shop.options).amount == fine


def test_a_credited_line_takes_its_tax_along(shop: Sample) -> None:
    shop.account.tax_percentage = Decimal(19)
    draft = shop.draft(automatic_tax={"enabled": True})
    line: Any = shop.line(1000, tax_behavior="exclusive")
    shop.client.v1.invoices.add_lines(draft.id, {"lines": [line]}, shop.options)
    invoice = shop.client.v1.invoices.finalize_invoice(draft.id, None, shop.options)
    lines: Any = [{"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "amount": 500}]
    note = shop.client.v1.credit_notes.create({"invoice": invoice.id, "lines": lines}, shop.options)
    assert (note.total, note.total_excluding_tax) == (595, 500)


@pytest.mark.parametrize(("behavior", "total", "net"), [("exclusive", 1190, 500), ("inclusive", 1000, 500)])
def test_a_note_without_lines_is_tax_in_proportion(shop: Sample, behavior: str, total: int, net: int) -> None:
    shop.account.tax_percentage = Decimal(19)
    draft = shop.draft(automatic_tax={"enabled": True})
    line: Any = shop.line(1000, tax_behavior=behavior)
    shop.client.v1.invoices.add_lines(draft.id, {"lines": [line]}, shop.options)
    invoice = shop.client.v1.invoices.finalize_invoice(draft.id, None, shop.options)
    note = shop.client.v1.credit_notes.create({"invoice": invoice.id, "amount": total // 2}, shop.options)
    assert invoice.total == total
    assert (note.total, note.subtotal) == (total // 2, net)
    assert note.total_excluding_tax == {"exclusive": 500, "inclusive": 420}[behavior]


def test_refunds_stop_at_the_charge(shop: Sample) -> None:
    shop.paid(1000)
    refunds, charge = shop.client.v1.refunds, charge_of(shop)
    kinds(shop)
    refunds.create({"charge": charge, "amount": 300}, shop.options)
    assert kinds(shop) == ["refund.created", "charge.refunded"]
    with pytest.raises(stripe.InvalidRequestError):
        refunds.create({"charge": charge, "amount": 701}, shop.options)
    refunds.create({"charge": charge}, shop.options)
    assert shop.client.v1.charges.retrieve(charge, None, shop.options).refunded
    with pytest.raises(stripe.InvalidRequestError) as empty:
        refunds.create({"charge": charge, "amount": 1}, shop.options)
    assert empty.value.code == "charge_already_refunded"


def test_a_refund_that_fails_counts_as_not_made(shop: Sample) -> None:
    shop.paid(1000)
    made = shop.client.v1.refunds.create({"charge": charge_of(shop)}, shop.options)
    kinds(shop)
    shop.emulator.fail_refund(shop.account.id, made.id)
    assert kinds(shop) == ["refund.failed"]
    assert shop.client.v1.charges.retrieve(charge_of(shop), None, shop.options).amount_refunded == 0


def test_the_application_fee_goes_back_in_proportion(shop: Sample) -> None:
    shop.paid(1000, application_fee_amount=99)
    for amount, returned in ((500, 49), (500, 99)):
        shop.client.v1.refunds.create(
            {"charge": charge_of(shop), "amount": amount, "refund_application_fee": True}, shop.options
        )
        assert shop.client.v1.application_fees.list().data[0].amount_refunded == returned


def test_a_fee_that_was_not_taken_cannot_be_given_back(shop: Sample) -> None:
    shop.paid(1000)
    with pytest.raises(stripe.InvalidRequestError, match="it has no application fee"):
        shop.client.v1.refunds.create({"charge": charge_of(shop), "refund_application_fee": True}, shop.options)
    assert shop.client.v1.charges.retrieve(charge_of(shop), None, shop.options).amount_refunded == 0


def test_what_was_refunded_without_a_note_cannot_be_credited_unless_the_note_names_it(shop: Sample) -> None:
    invoice = shop.paid(1000)
    notes = shop.client.v1.credit_notes
    made = shop.client.v1.refunds.create({"charge": charge_of(shop), "amount": 400}, shop.options)
    with pytest.raises(stripe.InvalidRequestError, match="600"):
        notes.create({"invoice": invoice.id, "amount": 601, "credit_amount": 601}, shop.options)
    note = notes.create(
        {"invoice": invoice.id, "amount": 400, "refunds": [{"refund": made.id, "amount_refunded": 400}]}, shop.options
    )
    assert [(each.refund, each.amount_refunded) for each in note.refunds] == [(made.id, 400)]
    with pytest.raises(stripe.InvalidRequestError, match="linked"):
        notes.create(
            {"invoice": invoice.id, "amount": 1, "refunds": [{"refund": made.id, "amount_refunded": 1}]}, shop.options
        )
    notes.create({"invoice": invoice.id, "amount": 600, "credit_amount": 600}, shop.options)


def test_an_inquiry_takes_no_money_and_is_closed(shop: Sample) -> None:
    shop.paid(1000)
    kinds(shop)
    inquiry = shop.emulator.open_dispute(shop.account.id, charge_of(shop), inquiry=True)
    shop.emulator.close_dispute(shop.account.id, inquiry["id"], won=False)
    assert kinds(shop) == ["charge.dispute.created", "charge.dispute.closed"]
    assert shop.client.v1.disputes.retrieve(inquiry["id"], None, shop.options).status == "warning_closed"


def test_what_is_overpaid_goes_to_the_customers_balance(shop: Sample) -> None:
    invoice = shop.paid(1000)
    kinds(shop)
    shop.emulator.overpay(shop.account.id, invoice.id, 200)
    assert kinds(shop) == ["invoice.updated", "invoice.overpaid"]
    assert shop.client.v1.invoices.retrieve(invoice.id, None, shop.options).amount_overpaid == 200
    assert shop.client.v1.customers.retrieve(shop.customer, None, shop.options).balance == -200


def test_a_dispute_takes_the_money_and_gives_it_back_when_won(shop: Sample) -> None:
    for won, last in ((True, "charge.dispute.funds_reinstated"), (False, "charge.dispute.closed")):
        shop.paid(1000)
        charge = charge_of(shop)
        kinds(shop)
        dispute = shop.emulator.open_dispute(shop.account.id, charge)
        assert kinds(shop) == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
        with pytest.raises(stripe.InvalidRequestError) as refused:
            shop.client.v1.refunds.create({"charge": charge}, shop.options)
        assert refused.value.code == "charge_disputed"
        shop.emulator.close_dispute(shop.account.id, dispute["id"], won=won)
        assert kinds(shop)[-1] == last
        status = shop.client.v1.disputes.retrieve(dispute["id"], None, shop.options).status
        assert status == ("won" if won else "lost")
