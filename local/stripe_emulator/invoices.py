"""One-off invoices: draft → open → paid | uncollectible | void, with lines, tax, balance and payment."""

from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import partial

from local.stripe_emulator import cards, customers, payments
from local.stripe_emulator.amounts import check_multiple, minimum_charge, round_half_up
from local.stripe_emulator.refusals import Refusal, declined, invalid
from local.stripe_emulator.search import searched
from local.stripe_emulator.store import Account, Obj, in_range, matching, merged_metadata, need, page, unset
from local.stripe_emulator.world import Call, World, deleted, later, route

MAX_LINES = 250
MAX_TOTAL = 99_999_999
SHOWN_LINES = 10
_TEXTS = ("description", "footer", "statement_descriptor", "custom_fields", "default_payment_method")
_ALWAYS_EDITABLE = frozenset({"metadata", "auto_advance", "default_payment_method", "payment_settings"})
_UNSUPPORTED = (
    "subscription",
    "from_invoice",
    "on_behalf_of",
    "transfer_data",
    "shipping_cost",
    "default_tax_rates",
    "customer_account",
    "default_source",
)


@route("POST", "/v1/invoices")
def create_invoice(call: Call) -> Obj:
    """An empty draft."""
    world, account, params = call.world, call.account, call.params
    _supported(params)
    customer = account.customers.alive(need(params, "customer"), "customer")
    currency = params.get("currency") or customer["currency"] or account.details["default_currency"]
    if len(currency) != 3 or (account.currencies is not None and currency not in account.currencies):
        raise invalid(f"Invalid currency: {currency}. This account cannot charge it.", "currency")
    new_id = world.ids.new("in")
    invoice: Obj = {
        "id": new_id,
        "object": "invoice",
        "account_country": account.details["country"],
        "account_name": account.details["business_profile"]["name"],
        "account_tax_ids": None,
        "application": world.client_id,
        "amount_paid_off_stripe": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": False,
        "automatic_tax": {"enabled": False, "liability": None, "status": None},
        "automatically_finalizes_at": None,
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": call.now,
        "currency": currency,
        "customer": customer["id"],
        "default_source": None,
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "default_tax_rates": [],
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "livemode": world.livemode,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "parent": None,
        "period_end": call.now,
        "period_start": call.now,
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "starting_balance": 0,
        "status": "draft",
        "amount_paid": 0,
        "amount_overpaid": 0,
        "amount_shipping": 0,
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "webhooks_delivered_at": None,
        "lines": {
            "object": "list",
            "data": [],
            "has_more": False,
            "total_count": 0,
            "url": f"/v1/invoices/{new_id}/lines",
        },
        **dict.fromkeys(_TEXTS),
    }
    _assign(call, invoice)
    if invoice["collection_method"] == "send_invoice" and not (params.get("days_until_due") or params.get("due_date")):
        raise invalid(
            "When creating an invoice with collection_method=send_invoice, you must specify either "
            "`due_date` or `days_until_due`.",
            "days_until_due",
        )
    account.invoice_lines[new_id] = []
    _total(account, invoice)
    account.invoices.add(invoice)
    if invoice["auto_advance"]:
        invoice["automatically_finalizes_at"] = later(call.now, timedelta(hours=1))
        world.at(invoice["automatically_finalizes_at"], partial(_advance, world, account, new_id))
    call.emit("invoice.created", invoice)
    return invoice


@route("GET", "/v1/invoices/{}")
def retrieve_invoice(call: Call) -> Obj:
    """A deleted draft is gone."""
    return call.account.invoices.alive(call.ids[0], "invoice")


@route("GET", "/v1/invoices")
def list_invoices(call: Call) -> Obj:
    """Filter by customer, status, collection method, creation, due date."""
    fits = matching(call.params, "status", "collection_method")
    due = call.params.get("due_date")
    return page(
        call.account.invoices.newest_first(call.params.get("customer")),
        call.params,
        call.path,
        keep=lambda obj: fits(obj) and in_range(obj["due_date"], due),
    )


@route("GET", "/v1/invoices/search")
def search_invoices(call: Call) -> Obj:
    """Up to an hour behind."""
    return searched(call, call.account.invoices)


@route("GET", "/v1/invoices/{}/lines")
def list_lines(call: Call) -> Obj:
    """In the order they were added."""
    call.account.invoices.alive(call.ids[0], "invoice")
    return page(call.account.invoice_lines[call.ids[0]], call.params, call.path)


@route("POST", "/v1/invoices/{}")
def update_invoice(call: Call) -> Obj:
    """A draft; once finalized, little of it."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    _supported(call.params)
    if invoice["status"] != "draft":
        for name in call.params:
            if name not in _ALWAYS_EDITABLE:
                raise invalid(f"Finalized invoices can't be updated in this way: {name}", name, "invoice_not_editable")
    before = {name: invoice[name] for name in call.params if name in invoice}
    _assign(call, invoice)
    if invoice["status"] == "draft":
        _total(call.account, invoice)
    call.emit("invoice.updated", invoice, before)
    return invoice


@route("DELETE", "/v1/invoices/{}")
def delete_invoice(call: Call) -> Obj:
    """A draft alone."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    _must_be(invoice, "draft", message="You can only delete draft invoices.")
    stub = deleted(invoice, call.account.invoices)
    call.emit("invoice.deleted", invoice)
    return stub


@route("POST", "/v1/invoices/{}/add_lines")
def add_lines(call: Call) -> Obj:
    """All or none; at most 250 on one invoice."""
    world, account = call.world, call.account
    invoice = account.invoices.alive(call.ids[0], "invoice")
    if invoice["status"] != "draft":
        raise invalid("This invoice is no longer editable.", "invoice", "invoice_not_editable")
    lines = account.invoice_lines[invoice["id"]]
    if len(lines) + len(call.params["lines"]) > MAX_LINES:
        raise invalid(f"Invoices can have at most {MAX_LINES} line items.", "lines")
    added = [_line(world, account, invoice, given, f"lines[{at}]") for at, given in enumerate(call.params["lines"])]
    lines.extend(added)
    if "invoice_metadata" in call.params:
        invoice["metadata"] = merged_metadata(invoice["metadata"], call.params["invoice_metadata"])
    _total(account, invoice)
    call.emit("invoice.updated", invoice)
    return invoice


@route("POST", "/v1/invoices/{}/remove_lines")
def remove_lines(call: Call) -> Obj:
    """By line id; their invoice items go too."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    if invoice["status"] != "draft":
        raise invalid("This invoice is no longer editable.", "invoice", "invoice_not_editable")
    gone = {line["id"] for line in call.params["lines"]}
    lines = call.account.invoice_lines[invoice["id"]]
    lines[:] = [line for line in lines if line["id"] not in gone]
    _total(call.account, invoice)
    call.emit("invoice.updated", invoice)
    return invoice


@route("POST", "/v1/invoices/{}/finalize")
def finalize_invoice(call: Call) -> Obj:
    """Number it, apply the balance; nothing due, or less than the minimum charge: paid at once."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    if "auto_advance" in call.params:
        invoice["auto_advance"] = call.params["auto_advance"]
    finalize(call.world, call.account, invoice)
    if invoice["status"] == "open" and invoice["auto_advance"]:
        _collect(call.world, call.account, invoice)
    return invoice


@route("POST", "/v1/invoices/{}/pay")
def pay_invoice(call: Call) -> Obj:
    """With the card given, the invoice's, or the customer's. Raises the decline, 402."""
    world, account, params = call.world, call.account, call.params
    invoice = account.invoices.alive(call.ids[0], "invoice")
    if invoice["status"] == "draft":
        finalize(world, account, invoice)
        if invoice["status"] == "paid":
            return invoice
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid")
    _must_be(invoice, "open", "uncollectible", message="This invoice can no longer be paid.")
    if params.get("paid_out_of_band"):
        settle(world, account, invoice, None)
        return invoice
    pay(world, account, invoice, params.get("payment_method"))
    return invoice


@route("POST", "/v1/invoices/{}/void")
def void_invoice(call: Call) -> Obj:
    """Open or uncollectible alone."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    void(call.world, call.account, invoice)
    return invoice


@route("POST", "/v1/invoices/{}/mark_uncollectible")
def mark_uncollectible(call: Call) -> Obj:
    """Open alone; it may still be paid."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    _must_be(invoice, "open", message="You can only mark open invoices as uncollectible.")
    invoice["status"] = "uncollectible"
    invoice["status_transitions"]["marked_uncollectible_at"] = call.now
    call.emit("invoice.marked_uncollectible", invoice)
    return invoice


@route("POST", "/v1/invoices/{}/send")
def send_invoice(call: Call) -> Obj:
    """A draft is finalized first; the e-mail itself is not emulated."""
    invoice = call.account.invoices.alive(call.ids[0], "invoice")
    if invoice["collection_method"] != "send_invoice":
        raise invalid("You can only manually send an invoice if its collection method is 'send_invoice'.")
    if invoice["status"] == "draft":
        finalize(call.world, call.account, invoice)
    call.emit("invoice.sent", invoice)
    return invoice


# --- drafts ---


def _supported(params: Obj) -> None:
    for name in _UNSUPPORTED:
        if params.get(name):
            raise invalid(f"{name} is not emulated", name)
    if params.get("discounts"):
        raise invalid("discounts are not emulated", "discounts")
    if params.get("pending_invoice_items_behavior") == "include":
        raise invalid("pending invoice items are not emulated", "pending_invoice_items_behavior")


def _assign(call: Call, invoice: Obj) -> None:
    params = call.params
    metadata = merged_metadata(invoice["metadata"], params.get("metadata"))
    method = params.get("collection_method", invoice["collection_method"])
    for name in ("days_until_due", "due_date"):
        if params.get(name) and method != "send_invoice":
            raise invalid(f"You can only specify `{name}` if collection_method is 'send_invoice'.", name)
    if params.get("application_fee_amount") is not None and call.account is call.world.platform:
        raise invalid("An application fee needs a connected account.", "application_fee_amount")
    if params.get("default_payment_method"):
        card = call.account.payment_methods.need(params["default_payment_method"], "default_payment_method")
        if card["customer"] != invoice["customer"]:
            raise invalid("The payment method does not belong to the customer.", "default_payment_method")
    invoice.update(metadata=metadata, collection_method=method)
    for name in (*_TEXTS, "auto_advance", "effective_at", "number"):
        if name in params:
            invoice[name] = unset(params, name)
    if "application_fee_amount" in params:
        call.account.invoice_fees[invoice["id"]] = params["application_fee_amount"]
    if "automatic_tax" in params:
        invoice["automatic_tax"]["enabled"] = params["automatic_tax"]["enabled"]
    if params.get("due_date"):
        invoice["due_date"] = params["due_date"]
    elif params.get("days_until_due") is not None:
        invoice["due_date"] = later(invoice["created"], timedelta(days=params["days_until_due"]))


def _line(world: World, account: Account, invoice: Obj, given: Obj, at: str) -> Obj:
    pricing = [name for name in ("amount", "price_data", "pricing") if name in given]
    if len(pricing) != 1:
        raise invalid("You must specify exactly one of amount, price_data, pricing.", at, "parameters_exclusive")
    if pricing == ["pricing"]:
        raise invalid("Prices are not emulated; use price_data.", f"{at}[pricing]")
    quantity = given.get("quantity_decimal", Decimal(given.get("quantity", 1)))
    if quantity < 0:
        raise invalid("This value must be greater than or equal to 0.", f"{at}[quantity]", "parameter_invalid_integer")
    data, product, unit = given.get("price_data"), None, None
    if data is None:
        amount = given["amount"]
    else:
        product, unit = _priced(world, account, invoice, data, f"{at}[price_data]")
        amount = int((unit * quantity).quantize(Decimal(1), ROUND_HALF_UP))
    check_multiple(amount, invoice["currency"], at)
    behavior = (data or {}).get("tax_behavior") or account.default_tax_behavior
    if invoice["automatic_tax"]["enabled"]:
        if amount < 0:
            raise invalid("Negative amounts cannot be added to an invoice with automatic tax.", at)
        if behavior not in ("exclusive", "inclusive"):
            raise invalid(
                "Automatic tax needs a tax_behavior of inclusive or exclusive.", f"{at}[price_data][tax_behavior]"
            )
    period = given.get("period") or {"start": invoice["created"], "end": invoice["created"]}
    if period["end"] < period["start"]:
        raise invalid("The period's end must not be before its start.", f"{at}[period]")
    line_id = world.ids.new("il")
    account.tax_behaviors[line_id] = behavior
    return {
        "id": line_id,
        "object": "line_item",
        "amount": amount,
        "subtotal": amount,
        "currency": invoice["currency"],
        "description": given.get("description") or (product or {}).get("name"),
        "discount_amounts": [],
        "discountable": given.get("discountable", amount >= 0),
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": world.livemode,
        "metadata": merged_metadata({}, given.get("metadata")),
        "parent": {
            "type": "invoice_item_details",
            "subscription_item_details": None,
            "invoice_item_details": {
                "invoice_item": world.ids.new("ii"),
                "proration": False,
                "proration_details": None,
                "subscription": None,
            },
        },
        "period": period,
        "pretax_credit_amounts": [],
        "quantity": int(quantity),
        "quantity_decimal": str(quantity),
        "pricing": None
        if product is None
        else {
            "type": "price_details",
            "unit_amount_decimal": str(unit),
            "price_details": {"price": world.ids.new("price"), "product": product["id"]},
        },
        "taxes": [],
    }


def _priced(world: World, account: Account, invoice: Obj, data: Obj, at: str) -> tuple[Obj, Decimal]:
    if data["currency"].lower() != invoice["currency"]:
        raise invalid(
            f"The currency of the line ({data['currency']}) must be the invoice's ({invoice['currency']}).",
            f"{at}[currency]",
        )
    if ("unit_amount" in data) == ("unit_amount_decimal" in data):
        raise invalid("Specify one of unit_amount and unit_amount_decimal.", at, "parameters_exclusive")
    unit = Decimal(data["unit_amount"] if "unit_amount" in data else data["unit_amount_decimal"])
    if unit < 0:
        raise invalid(
            "This value must be greater than or equal to 0.", f"{at}[unit_amount]", "parameter_invalid_integer"
        )
    if "product" in data:
        return account.products.alive(data["product"], f"{at}[product]"), unit
    made = need(data, "product_data")
    return account.products.add(
        {
            "id": world.ids.new("prod", 14),
            "object": "product",
            "active": True,
            "created": world.now,
            "name": made["name"],
            "metadata": merged_metadata({}, made.get("metadata")),
            "livemode": world.livemode,
            "updated": world.now,
            "type": "service",
            "images": [],
            "tax_code": made.get("tax_code"),
        }
    ), unit


def _total(account: Account, invoice: Obj) -> None:
    """Work out tax and totals of a draft."""
    lines = account.invoice_lines[invoice["id"]]
    enabled = invoice["automatic_tax"]["enabled"]
    located = bool((invoice["customer_address"] or {}).get("country"))
    invoice["automatic_tax"]["status"] = None if not enabled else "complete" if located else "requires_location_inputs"
    rate = account.tax_percentage if enabled and located else None
    exclusive = inclusive = 0
    for line in lines:
        line["taxes"] = []
        if rate is not None:
            behavior = account.tax_behaviors[line["id"]]
            outside = behavior == "exclusive"
            base = line["amount"] * rate / (100 if outside else 100 + rate)
            tax = round_half_up(base, invoice["currency"])
            line["taxes"] = [_tax(tax, line["amount"] - (0 if outside else tax), behavior)]
            exclusive, inclusive = exclusive + (tax if outside else 0), inclusive + (0 if outside else tax)
    subtotal = sum(line["amount"] for line in lines)
    taxes = [
        _tax(amount, subtotal - inclusive, behavior)
        for amount, behavior in ((exclusive, "exclusive"), (inclusive, "inclusive"))
        if amount
    ]
    total = subtotal + exclusive
    invoice["lines"].update(data=lines[:SHOWN_LINES], has_more=len(lines) > SHOWN_LINES, total_count=len(lines))
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal - inclusive,
        total=total,
        total_taxes=taxes,
        total_excluding_tax=subtotal - inclusive,
        amount_due=max(total, 0),
        amount_remaining=max(total, 0),
    )
    if lines:
        invoice["period_start"] = min(line["period"]["start"] for line in lines)
        invoice["period_end"] = max(line["period"]["end"] for line in lines)


def _tax(amount: int, taxable: int, behavior: str | None) -> Obj:
    return {
        "amount": amount,
        "tax_behavior": behavior,
        "taxable_amount": taxable,
        "type": "tax_rate_details",
        "tax_rate_details": {"tax_rate": "txr_automatic"},
        "taxability_reason": "standard_rated",
    }


# --- the life after the draft ---


def finalize(world: World, account: Account, invoice: Obj) -> None:
    """draft → open, or → paid when nothing (or too little) is due. Raises 400 when it cannot be."""
    if invoice["status"] != "draft":
        raise invalid(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.", code="invoice_not_editable"
        )
    customer = account.customers.alive(invoice["customer"], "customer")
    _total(account, invoice)
    _refuse_unfinalizable(world, account, invoice)
    currency, due = invoice["currency"], invoice["total"]
    balance = customers.balance_of(customer, currency)
    owed = due + balance
    payable = max(owed, 0)
    if 0 < payable < minimum_charge(currency):
        payable = 0
    starting, ending = balance, owed - payable
    if ending != starting:
        kind = "applied_to_invoice" if due > 0 and ending <= 0 else "invoice_too_small" if ending > 0 else "adjustment"
        customers.move_balance(world, account, customer["id"], currency, ending - starting, kind, invoice=invoice["id"])
    customer["currency"] = customer["currency"] or currency
    number = invoice["number"] or f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    customer["next_invoice_sequence"] += 1
    page_url = f"{world.base_url}/i/{account.id}/{invoice['id']}"
    invoice.update(
        number=number,
        status="open",
        starting_balance=starting,
        ending_balance=ending,
        amount_due=payable,
        amount_remaining=payable,
        hosted_invoice_url=page_url,
        invoice_pdf=f"{page_url}/pdf",
        effective_at=invoice["effective_at"] or world.now,
        automatically_finalizes_at=None,
        last_finalization_error=None,
    )
    invoice["status_transitions"]["finalized_at"] = world.now
    if payable:
        intent = payments.new_intent(world, account, invoice, account.invoice_fees.get(invoice["id"]))
        _invoice_payment(world, account, invoice, {"type": "payment_intent", "payment_intent": intent["id"]})
    world.emit(account, "invoice.finalized", invoice)
    if not payable:
        _paid(world, account, invoice)
    elif invoice["due_date"]:
        world.at(invoice["due_date"], partial(_overdue, world, account, invoice["id"]))


def _refuse_unfinalizable(world: World, account: Account, invoice: Obj) -> None:
    refusal: Refusal | None = None
    if invoice["automatic_tax"]["status"] == "requires_location_inputs":
        refusal = invalid(
            "The customer's location isn't recognized. Set a valid customer address in order to "
            "automatically calculate tax.",
            code="customer_tax_location_invalid",
        )
    elif invoice["total"] > MAX_TOTAL:
        refusal = invalid(f"Amount must be no more than {MAX_TOTAL}.", code="amount_too_large")
    elif (account.invoice_fees.get(invoice["id"]) or 0) > max(invoice["total"], 0):
        refusal = invalid("The application fee must not exceed the invoice's total.", "application_fee_amount")
    elif any(
        line["pricing"] and account.products[line["pricing"]["price_details"]["product"]].get("deleted")
        for line in account.invoice_lines[invoice["id"]]
    ):
        refusal = invalid("A product of this invoice was deleted.", code="resource_missing")
    if refusal is not None:
        invoice["last_finalization_error"] = dict(refusal.body["error"])
        world.emit(account, "invoice.finalization_failed", invoice)
        raise refusal


def _invoice_payment(world: World, account: Account, invoice: Obj, payment: Obj, *, default: bool = True) -> Obj:
    return account.invoice_payments.add(
        {
            "id": world.ids.new("inpay"),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["amount_remaining"],
            "created": world.now,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": default,
            "livemode": world.livemode,
            "payment": payment,
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }
    )


def default_payment(account: Account, invoice: Obj) -> Obj | None:
    """The open or settled default payment of an invoice."""
    return next((one for one in account.invoice_payments.newest_first(invoice["id"]) if one["is_default"]), None)


def pay(
    world: World,
    account: Account,
    invoice: Obj,
    method_id: str | None = None,
    *,
    authenticated: bool = False,
    automatic: bool = False,
) -> None:
    """Charge what is left. Raises the decline.

    Any attempt counts as the first; afterwards only Stripe's own retries raise `attempt_count` (the SDK's docstring).
    """
    customer = account.customers.alive(invoice["customer"], "customer")
    if not account.details["charges_enabled"]:
        raise invalid("Your account cannot currently make charges.", code="account_invalid")
    chosen = method_id or invoice["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    if chosen is None:
        raise invalid(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set one prior to "
            "calling pay, or pass a payment_method."
        )
    card = account.payment_methods.need(chosen, "payment_method")
    if card["customer"] != customer["id"]:
        raise invalid("The payment method does not belong to the customer.", "payment_method")
    payment = default_payment(account, invoice)
    if payment is None:
        raise invalid("This invoice has nothing left to charge.")
    intent = account.payment_intents[payment["payment"]["payment_intent"]]
    intent["amount"] = invoice["amount_remaining"]
    counts = automatic or not invoice["attempted"]
    invoice["attempted"] = True
    invoice["attempt_count"] += counts
    try:
        payments.charge(world, account, intent, card, authenticated=authenticated)
    except Refusal as refusal:
        raise _attempt_failed(world, account, invoice, refusal, counts=counts) from None
    settle(world, account, invoice, payment)


def _attempt_failed(world: World, account: Account, invoice: Obj, refusal: Refusal, *, counts: bool) -> Refusal:
    retry_days = account.retry_days
    if not counts:
        pass  # an attempt by hand leaves the schedule as it is
    elif invoice["auto_advance"] and invoice["attempt_count"] <= len(retry_days):
        wait = timedelta(days=retry_days[invoice["attempt_count"] - 1])
        invoice["next_payment_attempt"] = later(world.now, wait)
        world.at(invoice["next_payment_attempt"], partial(_retry, world, account, invoice["id"]))
    else:
        invoice["next_payment_attempt"] = None
    customer = account.customers[invoice["customer"]]
    customer["delinquent"] = True
    error = refusal.body["error"]
    if error["code"] == cards.AUTHENTICATION:
        world.emit(account, "invoice.payment_action_required", invoice)
        refusal = declined(
            "invoice_payment_intent_requires_action",
            "This payment requires additional user action before it can be completed.",
        )
    world.emit(account, "invoice.payment_failed", invoice)
    world.emit(account, "invoice.updated", invoice)
    return refusal


def settle(world: World, account: Account, invoice: Obj, payment: Obj | None) -> None:
    """Record that what was left is paid, by `payment` or (None) out of band."""
    amount = invoice["amount_remaining"]
    if payment is None:
        pending = default_payment(account, invoice)
        if pending is not None:
            cancel_payment(world, account, pending)
        payment = _invoice_payment(world, account, invoice, {"type": "payment_record"}, default=False)
        invoice["amount_paid_off_stripe"] = amount
    payment.update(status="paid", amount_paid=amount)
    payment["status_transitions"]["paid_at"] = world.now
    invoice["amount_paid"] += amount
    invoice["amount_remaining"] = 0
    account.customers[invoice["customer"]]["delinquent"] = False
    world.emit(account, "invoice_payment.paid", payment)
    _paid(world, account, invoice)


def _paid(world: World, account: Account, invoice: Obj) -> None:
    invoice.update(status="paid", attempted=True, next_payment_attempt=None)
    invoice["status_transitions"]["paid_at"] = world.now
    world.emit(account, "invoice.updated", invoice)
    world.emit(account, "invoice.paid", invoice)
    if invoice["amount_paid"] and not invoice.get("amount_paid_off_stripe"):
        world.emit(account, "invoice.payment_succeeded", invoice)


def overpaid(world: World, account: Account, invoice: Obj, amount: int) -> None:
    """More was paid than was due: the customer's balance takes it (the SDK's docstring of `amount_overpaid`)."""
    _must_be(invoice, "paid", message="Only a paid invoice can be overpaid.")
    customers.move_balance(
        world, account, invoice["customer"], invoice["currency"], -amount, "adjustment", invoice=invoice["id"]
    )
    invoice["amount_overpaid"] += amount
    world.emit(account, "invoice.updated", invoice)
    world.emit(account, "invoice.overpaid", invoice)


def credited_in_full(world: World, account: Account, invoice: Obj) -> None:
    """Credit notes left nothing to pay on an open invoice."""
    pending = default_payment(account, invoice)
    if pending is not None:
        cancel_payment(world, account, pending)
    _paid(world, account, invoice)


def void(world: World, account: Account, invoice: Obj) -> None:
    """Open or uncollectible → void; balance that was applied goes back."""
    _must_be(invoice, "open", "uncollectible", message="You can only void open or uncollectible invoices.")
    applied = (invoice["ending_balance"] or 0) - invoice["starting_balance"]
    if applied:
        customers.move_balance(
            world,
            account,
            invoice["customer"],
            invoice["currency"],
            -applied,
            "unapplied_from_invoice",
            invoice=invoice["id"],
        )
    pending = default_payment(account, invoice)
    if pending is not None:
        cancel_payment(world, account, pending)
    invoice.update(status="void", next_payment_attempt=None)
    invoice["status_transitions"]["voided_at"] = world.now
    world.emit(account, "invoice.voided", invoice)


def cancel_payment(world: World, account: Account, payment: Obj) -> None:
    """Cancel an open payment and its intent."""
    payment["status"] = "canceled"
    payment["status_transitions"]["canceled_at"] = world.now
    intent = account.payment_intents[payment["payment"]["payment_intent"]]
    intent.update(status="canceled", canceled_at=world.now, cancellation_reason="void_invoice")
    world.emit(account, "payment_intent.canceled", intent)


def _collect(world: World, account: Account, invoice: Obj) -> None:
    """Automatic collection: what a decline raises is an event, not an answer."""
    if invoice["collection_method"] == "send_invoice":
        world.emit(account, "invoice.sent", invoice)
        return
    try:
        pay(world, account, invoice, automatic=True)
    except Refusal:
        return


def _advance(world: World, account: Account, invoice_id: str) -> None:
    invoice = account.invoices[invoice_id]
    if invoice.get("status") == "draft" and invoice["auto_advance"]:
        try:
            finalize(world, account, invoice)
        except Refusal:
            return
        if invoice["status"] == "open":
            _collect(world, account, invoice)


def _retry(world: World, account: Account, invoice_id: str) -> None:
    invoice = account.invoices[invoice_id]
    if invoice.get("status") == "open" and invoice["auto_advance"] and invoice["next_payment_attempt"]:
        _collect(world, account, invoice)


def _overdue(world: World, account: Account, invoice_id: str) -> None:
    invoice = account.invoices[invoice_id]
    if invoice.get("status") == "open":
        world.emit(account, "invoice.overdue", invoice)


def _must_be(invoice: Obj, *statuses: str, message: str) -> None:
    if invoice["status"] not in statuses:
        raise invalid(f"{message} This invoice is {invoice['status']}.")
