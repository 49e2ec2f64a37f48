"""Invoices as the emulator keeps them, seen through the real SDK."""

from datetime import timedelta
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


def test_an_invoice_goes_from_draft_to_paid_and_is_charged_once(shop: Sample) -> None:
    draft = shop.draft(1000, 250, metadata={"bill": "b1"})
    assert (draft.status, draft.auto_advance, draft.total_excluding_tax, draft.number) == ("draft", False, 1250, None)
    kinds(shop)
    opened = shop.client.v1.invoices.finalize_invoice(draft.id, None, shop.options)
    assert (opened.status, opened.amount_due, opened.amount_remaining) == ("open", 1250, 1250)
    paid = shop.client.v1.invoices.pay(draft.id, {"expand": ["payments.data.payment.payment_intent"]}, shop.options)
    assert (paid.status, paid.amount_paid, paid.amount_remaining, paid.attempt_count) == ("paid", 1250, 0, 1)
    assert paid.payments is not None
    assert paid.payments.data[0].payment.payment_intent.status == "succeeded"  # type: ignore[union-attr]
    assert {"invoice.finalized", "invoice_payment.paid", "invoice.paid", "charge.succeeded"} <= set(kinds(shop))
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        shop.client.v1.invoices.pay(draft.id, None, shop.options)
    assert shop.emulator.charged(shop.account.id) == {"usd": 1250}


def test_numbers_count_up_by_customer(shop: Sample) -> None:
    first, second = shop.finalized(100).number, shop.finalized(100).number
    assert first is not None
    assert second == f"{first[:-4]}0002"


def test_lines_come_ten_with_the_invoice_and_all_by_pages(shop: Sample) -> None:
    draft = shop.draft(*range(100, 350))
    assert (len(draft.lines.data), draft.lines.has_more) == (10, True)
    lines = shop.client.v1.invoices.line_items.list(draft.id, {"limit": 100}, shop.options)
    assert [line.amount for line in lines.auto_paging_iter()] == list(range(100, 350))
    with pytest.raises(stripe.InvalidRequestError, match="250"):
        shop.client.v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}]}, shop.options)
    assert shop.client.v1.invoices.retrieve(draft.id, None, shop.options).total == sum(range(100, 350))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"currency": "eur"}, "lines[0][price_data][currency]"),
        ({"unit_amount": -1}, "lines[0][price_data][unit_amount]"),
        ({"product": "prod_nothing"}, "lines[0][price_data][product]"),
        ({"unit_amount_decimal": "1.5"}, "lines[0][price_data]"),
    ],
)
def test_a_bad_line_is_refused_and_none_is_added(shop: Sample, change: dict[str, Any], param: str) -> None:
    draft = shop.draft()
    lines: list[Any] = [shop.line(100, **change), shop.line(100)]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.client.v1.invoices.add_lines(draft.id, {"lines": lines}, shop.options)
    assert refused.value.param == param
    assert shop.client.v1.invoices.retrieve(draft.id, None, shop.options).total == 0


def test_decimal_unit_prices_round_half_up_by_line(shop: Sample) -> None:
    draft = shop.draft()
    price: Any = {"currency": "usd", "product": shop.product, "unit_amount_decimal": Decimal("0.5")}
    made = shop.client.v1.invoices.add_lines(draft.id, {"lines": [{"price_data": price, "quantity": 3}]}, shop.options)
    assert made.total == 2


def test_too_little_to_charge_is_carried_into_the_next_invoice(shop: Sample) -> None:
    small = shop.finalized(30)
    assert (small.status, small.amount_due, small.amount_paid, small.ending_balance) == ("paid", 0, 0, 30)
    customer = shop.client.v1.customers.retrieve(shop.customer, None, shop.options)
    assert customer.balance == 30
    following = shop.paid(1000)
    assert (following.total, following.starting_balance, following.amount_paid) == (1000, 30, 1030)
    assert shop.client.v1.customers.retrieve(shop.customer, None, shop.options).balance == 0


def test_the_minimum_charge_depends_on_the_currency(shop: Sample) -> None:
    assert shop.finalized(29, currency="gbp").status == "paid"
    assert shop.finalized(30, currency="gbp").amount_due == 59
    assert shop.finalized(49, currency="jpy").status == "paid"


def test_credit_on_the_balance_is_drawn_first_and_returned_by_voiding(shop: Sample) -> None:
    shop.client.v1.customers.balance_transactions.create(
        shop.customer, {"amount": -400, "currency": "usd"}, shop.options
    )
    invoice = shop.finalized(1000)
    assert (invoice.starting_balance, invoice.amount_due, invoice.ending_balance) == (-400, 600, 0)
    shop.client.v1.invoices.void_invoice(invoice.id, None, shop.options)
    assert shop.client.v1.customers.retrieve(shop.customer, None, shop.options).balance == -400


def test_an_invoice_of_nothing_is_paid_when_finalized(shop: Sample) -> None:
    invoice = shop.finalized(0)
    assert (invoice.status, invoice.amount_paid) == ("paid", 0)
    assert shop.emulator.charged(shop.account.id) == {}


@pytest.mark.parametrize(
    ("behavior", "total", "net", "tax"), [("exclusive", 1190, 1000, 190), ("inclusive", 1000, 840, 160)]
)
def test_automatic_tax_is_on_top_or_within(shop: Sample, behavior: str, total: int, net: int, tax: int) -> None:
    shop.account.tax_percentage = Decimal(19)
    draft = shop.draft(automatic_tax={"enabled": True})
    line: Any = shop.line(1000, tax_behavior=behavior)
    made = shop.client.v1.invoices.add_lines(draft.id, {"lines": [line]}, shop.options)
    assert (made.subtotal, made.total, made.total_excluding_tax) == (1000, total, net)
    assert made.total_taxes is not None
    assert [one.amount for one in made.total_taxes] == [tax]


def test_automatic_tax_needs_a_tax_behavior_and_an_address(shop: Sample) -> None:
    draft = shop.draft(automatic_tax={"enabled": True})
    bare: Any = shop.line(1000)
    with pytest.raises(stripe.InvalidRequestError, match="tax_behavior"):
        shop.client.v1.invoices.add_lines(draft.id, {"lines": [bare]}, shop.options)
    shop.client.v1.customers.update(shop.customer, {"address": ""}, shop.options)
    homeless = shop.draft(automatic_tax={"enabled": True})
    kinds(shop)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.client.v1.invoices.finalize_invoice(homeless.id, None, shop.options)
    assert refused.value.code == "customer_tax_location_invalid"
    assert kinds(shop) == ["invoice.finalization_failed"]


def test_a_decline_is_402_and_counts_the_attempt() -> None:
    shop = sample(card="4000000000000341")
    invoice = shop.finalized(1000)
    kinds(shop)
    with pytest.raises(stripe.CardError) as declined:
        shop.client.v1.invoices.pay(invoice.id, None, shop.options)
    assert (declined.value.code, declined.value.http_status) == ("card_declined", 402)
    assert declined.value.error is not None
    assert declined.value.error.decline_code == "generic_decline"
    after = shop.client.v1.invoices.retrieve(invoice.id, None, shop.options)
    assert (after.status, after.attempt_count, after.amount_remaining) == ("open", 1, 1000)
    assert {"invoice.payment_failed", "charge.failed", "payment_intent.payment_failed"} <= set(kinds(shop))


def test_a_card_that_asks_again_needs_its_owner() -> None:
    shop = sample(card="4000002760003184")
    invoice = shop.finalized(1000)
    with pytest.raises(stripe.CardError) as asked:
        shop.client.v1.invoices.pay(invoice.id, None, shop.options)
    assert asked.value.code == "invoice_payment_intent_requires_action"
    assert "invoice.payment_action_required" in kinds(shop)
    shop.emulator.pay_by_hand(shop.account.id, invoice.id)
    assert shop.client.v1.invoices.retrieve(invoice.id, None, shop.options).status == "paid"


def test_a_card_set_up_with_authentication_is_charged_without() -> None:
    assert sample(card="4000002500003155").paid(1000).status == "paid"


def test_an_expired_card_is_declined_by_the_clock(shop: Sample) -> None:
    update: Any = {"card": {"exp_month": 3, "exp_year": 2027}}
    shop.client.v1.payment_methods.update(shop.card, update, shop.options)
    assert shop.paid(1000).status == "paid"
    shop.emulator.clock.advance(timedelta(days=90))
    with pytest.raises(stripe.CardError) as declined:
        shop.paid(1000)
    assert declined.value.code == "expired_card"


def test_paying_needs_a_card_and_an_account_that_may_charge(shop: Sample) -> None:
    shop.emulator.restrict(shop.account.id)
    with pytest.raises(stripe.InvalidRequestError):
        shop.paid(1000)
    shop.emulator.restrict(shop.account.id, charges_enabled=True)
    shop.emulator.detach_card(shop.account.id, shop.card)
    with pytest.raises(stripe.InvalidRequestError, match="default_payment_method"):
        shop.paid(1000)
    assert shop.emulator.charged(shop.account.id) == {}


def test_illegal_moves_are_refused(shop: Sample) -> None:
    invoices, options = shop.client.v1.invoices, shop.options
    paid, draft = shop.paid(1000), shop.draft(1000)
    for move in (invoices.void_invoice, invoices.mark_uncollectible, invoices.finalize_invoice):
        with pytest.raises(stripe.InvalidRequestError):
            move(paid.id, None, options)
    with pytest.raises(stripe.InvalidRequestError):
        invoices.delete(paid.id, None, options)
    with pytest.raises(stripe.InvalidRequestError):
        invoices.void_invoice(draft.id, None, options)
    with pytest.raises(stripe.InvalidRequestError) as fixed:
        invoices.update(paid.id, {"description": "other"}, options)
    assert fixed.value.code == "invoice_not_editable"
    with pytest.raises(stripe.InvalidRequestError) as closed:
        invoices.add_lines(paid.id, {"lines": [{"amount": 1}]}, options)
    assert closed.value.code == "invoice_not_editable"
    assert invoices.delete(draft.id, None, options).deleted
    with pytest.raises(stripe.InvalidRequestError) as gone:
        invoices.retrieve(draft.id, None, options)
    assert (gone.value.http_status, gone.value.code) == (404, "resource_missing")


def test_uncollectible_may_still_be_paid_or_voided(shop: Sample) -> None:
    invoices = shop.client.v1.invoices
    for end, status in ((invoices.pay, "paid"), (invoices.void_invoice, "void")):
        invoice = shop.finalized(1000)
        assert invoices.mark_uncollectible(invoice.id, None, shop.options).status == "uncollectible"
        end(invoice.id, None, shop.options)
        assert invoices.retrieve(invoice.id, None, shop.options).status == status


def test_paid_out_of_band_charges_nobody(shop: Sample) -> None:
    invoice = shop.finalized(1000)
    shop.emulator.mark_paid(shop.account.id, invoice.id)
    after = shop.client.v1.invoices.retrieve(invoice.id, None, shop.options)
    assert (after.status, after.amount_paid_off_stripe) == ("paid", 1000)
    assert shop.emulator.charged(shop.account.id) == {}


def test_an_invoice_to_send_has_a_due_date_and_becomes_overdue(shop: Sample) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="days_until_due"):
        shop.draft(1000, collection_method="send_invoice")
    with pytest.raises(stripe.InvalidRequestError, match="send_invoice"):
        shop.draft(1000, days_until_due=3)
    invoice = shop.finalized(1000, collection_method="send_invoice", days_until_due=14)
    shop.client.v1.invoices.send_invoice(invoice.id, None, shop.options)
    assert "invoice.sent" in kinds(shop)
    shop.emulator.clock.advance(timedelta(days=14))
    assert kinds(shop) == ["invoice.overdue"]


def test_automatic_advancement_finalizes_after_an_hour_and_collects(shop: Sample) -> None:
    draft = shop.draft(1000, auto_advance=True)
    shop.emulator.clock.advance(timedelta(minutes=59))
    assert shop.client.v1.invoices.retrieve(draft.id, None, shop.options).status == "draft"
    shop.emulator.clock.advance(timedelta(minutes=1))
    assert shop.client.v1.invoices.retrieve(draft.id, None, shop.options).status == "paid"


def test_the_accounts_own_retries_are_observed_when_on(shop: Sample) -> None:
    shop.account.retry_days = (1, 3)
    shop.emulator.set_card_outcome(shop.account.id, shop.card, "insufficient_funds")
    invoice = shop.finalized(1000, auto_advance=True)
    assert invoice.next_payment_attempt == shop.emulator.now + 86400
    shop.emulator.set_card_outcome(shop.account.id, shop.card, "succeed")
    shop.emulator.clock.advance(timedelta(days=1))
    after = shop.client.v1.invoices.retrieve(invoice.id, None, shop.options)
    assert (after.status, after.attempt_count) == ("paid", 2)


def test_an_attempt_by_hand_after_the_first_is_not_counted_and_leaves_the_schedule_as_it_is(shop: Sample) -> None:
    shop.account.retry_days = (1, 3)
    shop.emulator.set_card_outcome(shop.account.id, shop.card, "insufficient_funds")
    invoice = shop.finalized(1000, auto_advance=True)
    with pytest.raises(stripe.CardError) as declined:
        shop.client.v1.invoices.pay(invoice.id, None, shop.options)
    assert declined.value.error is not None
    assert declined.value.error.payment_method is not None
    assert declined.value.error.payment_method.id == shop.card
    after = shop.client.v1.invoices.retrieve(invoice.id, None, shop.options)
    assert (after.attempt_count, after.next_payment_attempt) == (1, invoice.next_payment_attempt)
    shop.emulator.clock.advance(timedelta(days=1))
    assert shop.client.v1.invoices.retrieve(invoice.id, None, shop.options).attempt_count == 2


def test_lists_filter_and_page_newest_first(shop: Sample) -> None:
    made = [shop.draft(metadata={"n": str(at)}).id for at in range(25)]
    shop.finalized(1000)
    listed = shop.client.v1.invoices.list({"customer": shop.customer, "status": "draft", "limit": 10}, shop.options)
    assert (len(listed.data), listed.has_more) == (10, True)
    assert [one.id for one in listed.auto_paging_iter()] == made[::-1]
    now = shop.emulator.now
    assert not shop.client.v1.invoices.list({"created": {"lt": now}}, shop.options).data
    assert shop.client.v1.invoices.list({"created": {"gte": now}}, shop.options).data
    for params in ({"limit": 101}, {"starting_after": "in_nothing"}):
        with pytest.raises(stripe.InvalidRequestError):
            shop.client.v1.invoices.list(params, shop.options)  # type: ignore[arg-type]


def test_search_is_an_hour_behind(shop: Sample) -> None:
    shop.draft(metadata={"bill": "b1"})
    query: Any = {"query": f"metadata['bill']:'b1' AND customer:'{shop.customer}'"}
    assert not shop.client.v1.invoices.search(query, shop.options).data
    shop.emulator.clock.advance(timedelta(hours=1))
    assert len(shop.client.v1.invoices.search(query, shop.options).data) == 1


def test_metadata_merges_and_an_empty_value_removes_a_key(shop: Sample) -> None:
    draft = shop.draft(metadata={"a": "1", "b": "2"})
    after = shop.client.v1.invoices.update(draft.id, {"metadata": {"a": "", "c": "3"}}, shop.options)
    assert after.metadata is not None
    assert after.metadata.to_dict() == {"b": "2", "c": "3"}


def test_the_application_fee_becomes_the_platforms_and_needs_a_connected_account(shop: Sample) -> None:
    shop.paid(1000, application_fee_amount=100)
    fees = shop.client.v1.application_fees.list()
    assert [(fee.amount, fee.account) for fee in fees.data] == [(100, shop.account.id)]
    own = shop.client.v1.customers.create({"name": "Own"})
    with pytest.raises(stripe.InvalidRequestError):
        shop.client.v1.invoices.create({"customer": own.id, "application_fee_amount": 1})
    with pytest.raises(stripe.InvalidRequestError):
        shop.finalized(1000, application_fee_amount=1001)


def test_a_deleted_product_or_customer_stops_an_invoice(shop: Sample) -> None:
    draft = shop.draft(1000)
    shop.client.v1.products.delete(shop.product, None, shop.options)
    with pytest.raises(stripe.InvalidRequestError):
        shop.client.v1.invoices.finalize_invoice(draft.id, None, shop.options)
    shop.emulator.delete_customer(shop.account.id, shop.customer)
    with pytest.raises(stripe.InvalidRequestError) as gone:
        shop.draft()
    assert gone.value.code == "resource_missing"


def test_a_currency_the_account_cannot_charge_is_refused(shop: Sample) -> None:
    shop.account.currencies = frozenset({"usd"})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.draft(currency="kwd")
    assert refused.value.param == "currency"
