"""Credit notes: less to pay on an open invoice, money or balance back on a paid one."""

from decimal import ROUND_HALF_UP, Decimal

from local.stripe_emulator import customers, invoices, payments
from local.stripe_emulator.amounts import check_multiple, round_half_up
from local.stripe_emulator.refusals import invalid
from local.stripe_emulator.store import Obj, matching, merged_metadata, page, unset
from local.stripe_emulator.world import Call, route

PARTS = ("refund_amount", "credit_amount", "out_of_band_amount")


@route("POST", "/v1/credit_notes")
def create_credit_note(call: Call) -> Obj:
    """Issue it, with its refund, its balance credit, or both."""
    world, account, params = call.world, call.account, call.params
    note = _worked_out(call)
    invoice = account.invoices[note["invoice"]]
    note["id"] = world.ids.new("cn")
    note["pdf"] = f"{world.base_url}/i/{account.id}/{invoice['id']}/pdf"
    note["number"] = f"{invoice['number']}-CN-{len(list(account.credit_notes.newest_first(invoice['id']))) + 1:02d}"
    if params.get("refund_amount"):
        made = payments.refund(world, account, _charge_of(call, invoice), params["refund_amount"])
        note["refunds"] = [_linked(made, made["amount"])]
    account.credit_notes.add(note)
    if params.get("credit_amount"):
        moved = customers.move_balance(
            world,
            account,
            invoice["customer"],
            invoice["currency"],
            -params["credit_amount"],
            "credit_note",
            credit_note=note["id"],
        )
        note["customer_balance_transaction"] = moved["id"]
    invoice["pre_payment_credit_notes_amount"] += note["pre_payment_amount"]
    invoice["post_payment_credit_notes_amount"] += note["post_payment_amount"]
    call.emit("credit_note.created", note)
    if note["pre_payment_amount"]:
        _lower(call, invoice, note["pre_payment_amount"])
    call.emit("invoice.updated", invoice)
    return note


@route("GET", "/v1/credit_notes/preview")
def preview_credit_note(call: Call) -> Obj:
    """What it would be, nothing kept."""
    return {**_worked_out(call), "id": "cn_preview", "number": "preview", "pdf": ""}


@route("GET", "/v1/credit_notes/{}")
def retrieve_credit_note(call: Call) -> Obj:
    """One."""
    return call.account.credit_notes.need(call.ids[0])


@route("GET", "/v1/credit_notes/{}/lines")
def list_credit_note_lines(call: Call) -> Obj:
    """All of its lines."""
    return page(call.account.credit_notes.need(call.ids[0])["lines"]["data"], call.params, call.path)


@route("POST", "/v1/credit_notes/{}")
def update_credit_note(call: Call) -> Obj:
    """Memo and metadata."""
    note = call.account.credit_notes.need(call.ids[0])
    note["metadata"] = merged_metadata(note["metadata"], call.params.get("metadata"))
    if "memo" in call.params:
        note["memo"] = call.params["memo"]
    call.emit("credit_note.updated", note)
    return note


@route("POST", "/v1/credit_notes/{}/void")
def void_credit_note(call: Call) -> Obj:
    """Only while its invoice is open."""
    note = call.account.credit_notes.need(call.ids[0])
    invoice = call.account.invoices[note["invoice"]]
    if note["status"] != "issued" or invoice["status"] != "open":
        raise invalid("You can only void an issued credit note of an open invoice.")
    note.update(status="void", voided_at=call.now)
    invoice["pre_payment_credit_notes_amount"] -= note["pre_payment_amount"]
    _lower(call, invoice, -note["pre_payment_amount"])
    call.emit("credit_note.voided", note)
    call.emit("invoice.updated", invoice)
    return note


@route("GET", "/v1/credit_notes")
def list_credit_notes(call: Call) -> Obj:
    """Of an invoice or of a customer."""
    owner = call.params.get("invoice") or call.params.get("customer")
    return page(
        call.account.credit_notes.newest_first(owner),
        call.params,
        call.path,
        keep=matching(call.params, "invoice", "customer"),
    )


def _lower(call: Call, invoice: Obj, amount: int) -> None:
    invoice["amount_remaining"] -= amount
    invoice["amount_due"] -= amount
    payment = invoices.default_payment(call.account, invoice)
    if payment is not None:
        payment["amount_requested"] = invoice["amount_remaining"]
    if invoice["amount_remaining"] == 0:
        invoices.credited_in_full(call.world, call.account, invoice)


def _charge_of(call: Call, invoice: Obj) -> str:
    payment = invoices.default_payment(call.account, invoice)
    intent = payment and call.account.payment_intents[payment["payment"]["payment_intent"]]
    if not intent or intent["status"] != "succeeded":
        raise invalid("This invoice has no charge to refund.", "refund_amount")
    return str(intent["latest_charge"])


def _worked_out(call: Call) -> Obj:
    """The note without id and number. Raises 400 above what is creditable, or when the parts do not add up."""
    params = call.params
    invoice = call.account.invoices.alive(params["invoice"], "invoice")
    if invoice["status"] not in ("open", "paid", "uncollectible"):
        raise invalid(f"A credit note needs a finalized invoice; this one is {invoice['status']}.", "invoice")
    if "shipping_cost" in params:
        raise invalid("shipping_cost is not emulated", "shipping_cost")
    refunds = [_existing(call, invoice, given) for given in params.get("refunds", ())]
    lines, tax = _lines(call, invoice)
    subtotal = sum(line["amount"] for line in lines)
    total = subtotal + tax if "lines" in params else params.get("amount", subtotal)
    if "lines" not in params and "amount" not in params:
        total = _parts(params, refunds)
    taxes = {"exclusive": tax} if "lines" in params else _shares(invoice, total)
    if total <= 0:
        raise invalid("The credit note's amount must be greater than 0.", "amount")
    for name in ("amount", *PARTS):
        check_multiple(params.get(name, 0), invoice["currency"], name)
    if "amount" in params and "lines" in params and params["amount"] != total:
        raise invalid(f"The sum of the lines ({total}) must equal the amount ({params['amount']}).", "amount")
    already = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
    paid = invoice["status"] == "paid"
    # What was refunded without a note is given back too (the SDK's docstring).
    creditable = invoice["total"] - already - _unlinked(call, invoice, refunds) if paid else invoice["amount_remaining"]
    if total > creditable:
        raise invalid(f"The credit note's total ({total}) is more than what can be credited ({creditable}).", "amount")
    parts = _parts(params, refunds)
    if parts != (total if paid else 0):
        raise invalid(
            f"The sum of credit amount, refund amount and out of band amount ({parts}) must equal the "
            f"post-payment credit note amount ({total if paid else 0})."
        )
    return {
        "object": "credit_note",
        "amount": total,
        "amount_shipping": 0,
        "created": call.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": params.get("effective_at", call.now),
        "invoice": invoice["id"],
        "livemode": call.world.livemode,
        "memo": unset(params, "memo"),
        "lines": {"object": "list", "data": lines, "has_more": False, "url": call.path},
        "metadata": merged_metadata({}, params.get("metadata")),
        "out_of_band_amount": params.get("out_of_band_amount"),
        "post_payment_amount": total if paid else 0,
        "pre_payment_amount": 0 if paid else total,
        "pretax_credit_amounts": [],
        "reason": params.get("reason"),
        "refunds": refunds,
        "shipping_cost": None,
        "status": "issued",
        "subtotal": total - taxes.get("exclusive", 0),
        "subtotal_excluding_tax": total - sum(taxes.values()),
        "total": total,
        "total_excluding_tax": total - sum(taxes.values()),
        "total_taxes": [],
        "voided_at": None,
        "type": "post_payment" if paid else "pre_payment",
    }


def _shares(invoice: Obj, total: int) -> dict[str, int]:
    """What of a note without lines is tax, by behavior: as of the invoice (docs.stripe.com/tax/invoicing/refunds)."""
    return {
        each["tax_behavior"]: round_half_up(
            Decimal(each["amount"]) * total / max(1, invoice["total"]), invoice["currency"]
        )
        for each in invoice["total_taxes"] or ()
    }


def _parts(params: Obj, refunds: list[Obj]) -> int:
    named = sum(params.get(name, 0) for name in PARTS)
    return int(named + sum(each["amount_refunded"] for each in refunds))


def _linked(refund: Obj, amount: int) -> Obj:
    return {"amount_refunded": amount, "refund": refund["id"], "type": "refund", "payment_record_refund": None}


def _existing(call: Call, invoice: Obj, given: Obj) -> Obj:
    """A refund that was made before, of a payment of this invoice."""
    refund = call.account.refunds.need(given.get("refund", ""), "refunds")
    if refund["charge"] != _charge_of(call, invoice):
        raise invalid("The refund is not of a payment of this invoice.", "refunds")
    amount: int = given["amount_refunded"] if "amount_refunded" in given else refund["amount"]
    if amount + _linked_of(call, invoice, refund["id"]) > refund["amount"]:
        raise invalid("More than the refund's amount would be linked to credit notes.", "refunds")
    return _linked(refund, amount)


def _linked_of(call: Call, invoice: Obj, refund: str) -> int:
    return sum(
        each["amount_refunded"]
        for note in call.account.credit_notes.newest_first(invoice["id"])
        for each in note["refunds"]
        if each["refund"] == refund
    )


def _unlinked(call: Call, invoice: Obj, linking: list[Obj]) -> int:
    """What went back to the card and is in no credit note, the one that is being made included."""
    payment = invoices.default_payment(call.account, invoice)
    charge = payment and call.account.payment_intents[payment["payment"]["payment_intent"]]["latest_charge"]
    now = {each["refund"]: each["amount_refunded"] for each in linking}
    made = call.account.refunds.newest_first() if charge else ()
    return sum(
        each["amount"] - _linked_of(call, invoice, each["id"]) - now.get(each["id"], 0)
        for each in made
        if each["charge"] == charge and each["status"] == "succeeded"
    )


def _lines(call: Call, invoice: Obj) -> tuple[list[Obj], int]:
    """Credited lines, and the exclusive tax that goes with them in proportion."""
    made: list[Obj] = []
    tax = Decimal(0)
    known = {line["id"]: line for line in call.account.invoice_lines[invoice["id"]]}
    for at, given in enumerate(call.params.get("lines", ())):
        if given["type"] == "custom_line_item":
            amount = int(
                Decimal(given.get("unit_amount", given.get("unit_amount_decimal", 0))) * given.get("quantity", 1)
            )
            line = None
        else:
            line = known.get(given.get("invoice_line_item"))
            if line is None:
                raise invalid("No such line on this invoice.", f"lines[{at}][invoice_line_item]", "resource_missing")
            amount = given.get("amount", line["amount"])
            if amount > line["amount"]:
                raise invalid("A line can't be credited by more than its amount.", f"lines[{at}][amount]")
            tax += sum(
                (
                    Decimal(one["amount"]) * amount / line["amount"]
                    for one in line["taxes"]
                    if one["tax_behavior"] == "exclusive"
                ),
                Decimal(0),
            )
        made.append(
            {
                "id": call.world.ids.new("cnli"),
                "object": "credit_note_line_item",
                "amount": amount,
                "description": given.get("description") or (line or {}).get("description"),
                "discount_amount": 0,
                "discount_amounts": [],
                "invoice_line_item": line and line["id"],
                "livemode": call.world.livemode,
                "quantity": given.get("quantity"),
                "tax_rates": [],
                "taxes": [],
                "type": given["type"],
                "unit_amount": given.get("unit_amount"),
                "unit_amount_decimal": None,
                "pretax_credit_amounts": [],
                "metadata": merged_metadata({}, given.get("metadata")),
            }
        )
    return made, int(tax.quantize(Decimal(1), ROUND_HALF_UP))
