"""Charges and what follows them: payment intents, refunds, disputes, application fees, invoice payments."""

from local.stripe_emulator import cards
from local.stripe_emulator.amounts import check_multiple
from local.stripe_emulator.refusals import Refusal, invalid
from local.stripe_emulator.store import Account, Collection, Obj, matching, merged_metadata, page, unset
from local.stripe_emulator.world import Call, World, route


def new_intent(world: World, account: Account, invoice: Obj, fee: int | None) -> Obj:
    """The payment intent of a finalized invoice."""
    return account.payment_intents.add(
        {
            "id": world.ids.new("pi"),
            "object": "payment_intent",
            "amount": invoice["amount_due"],
            "amount_received": 0,
            "amount_capturable": 0,
            "application_fee_amount": fee,
            "created": world.now,
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "livemode": world.livemode,
            "metadata": {},
            "status": "requires_payment_method",
            "payment_method": None,
            "latest_charge": None,
            "next_action": None,
            "last_payment_error": None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic",
            "confirmation_method": "automatic",
            "description": f"Payment for Invoice {invoice['number']}",
            "payment_method_types": ["card"],
        }
    )


def charge(world: World, account: Account, intent: Obj, method: Obj, *, authenticated: bool = False) -> Obj:
    """Charge a card off session. Raises the card's decline after recording the failed charge."""
    outcome = account.card_outcomes.get(method["id"], cards.SUCCEED)
    if authenticated and outcome == cards.AUTHENTICATION:
        outcome = cards.SUCCEED
    if outcome == cards.SUCCEED and _expired(world, method):
        outcome = "expired_card"
    intent["payment_method"] = method["id"]
    if outcome == cards.AUTHENTICATION:
        intent.update(status="requires_action", last_payment_error=None)
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
        world.emit(account, "payment_intent.requires_action", intent)
        raise cards.decline(outcome)
    made = _charge_object(world, account, intent, method)
    intent["latest_charge"] = made["id"]
    if outcome in cards.DECLINES:
        raise _failed(world, account, intent, made, method, outcome)
    intent.update(status="succeeded", amount_received=intent["amount"], next_action=None, last_payment_error=None)
    if intent["application_fee_amount"]:
        _take_fee(world, account, made)
    world.emit(account, "charge.succeeded", made)
    world.emit(account, "payment_intent.succeeded", intent)
    if outcome == cards.DISPUTED:
        open_dispute(world, account, made["id"])
    return made


def _expired(world: World, method: Obj) -> bool:
    now = world.clock.now()
    return (method["card"]["exp_year"], method["card"]["exp_month"]) < (now.year, now.month)


def _charge_object(world: World, account: Account, intent: Obj, method: Obj) -> Obj:
    card = method["card"]
    return account.charges.add(
        {
            "id": world.ids.new("ch"),
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": intent["amount"],
            "amount_refunded": 0,
            "application": None,
            "application_fee": None,
            "application_fee_amount": intent["application_fee_amount"],
            "balance_transaction": None,
            "captured": True,
            "created": world.now,
            "currency": intent["currency"],
            "customer": intent["customer"],
            "disputed": False,
            "failure_code": None,
            "failure_message": None,
            "livemode": world.livemode,
            "metadata": {},
            "paid": True,
            "outcome": {"type": "authorized", "network_status": "approved_by_network", "reason": None},
            "payment_intent": intent["id"],
            "payment_method": method["id"],
            "refunded": False,
            "status": "succeeded",
            "payment_method_details": {"type": "card", "card": {"brand": card["brand"], "last4": card["last4"]}},
            "description": intent["description"],
            "billing_details": method["billing_details"],
        }
    )


def _failed(world: World, account: Account, intent: Obj, made: Obj, method: Obj, outcome: str) -> Refusal:
    refusal = cards.decline(outcome, charge=made["id"], payment_method=dict(method))
    error = refusal.body["error"]
    made.update(
        status="failed",
        paid=False,
        captured=False,
        amount_captured=0,
        failure_code=error["code"],
        failure_message=error["message"],
        outcome={"type": "issuer_declined", "network_status": "declined_by_network", "reason": outcome},
    )
    intent.update(status="requires_payment_method", payment_method=None, last_payment_error=dict(error))
    world.emit(account, "charge.failed", made)
    world.emit(account, "payment_intent.payment_failed", intent)
    return refusal


def _take_fee(world: World, account: Account, made: Obj) -> None:
    """The platform's share: its object lives on the platform's account."""
    fee = world.platform.application_fees.add(
        {
            "id": world.ids.new("fee"),
            "object": "application_fee",
            "account": account.id,
            "amount": made["application_fee_amount"],
            "amount_refunded": 0,
            "application": world.client_id,
            "charge": made["id"],
            "created": world.now,
            "currency": made["currency"],
            "livemode": world.livemode,
            "originating_transaction": made["id"],
            "refunded": False,
        }
    )
    made["application_fee"], made["application"] = fee["id"], world.client_id
    world.emit(world.platform, "application_fee.created", fee)


def refund_fee(world: World, fee: Obj, amount: int) -> Obj:
    """Give (a part of) the platform's share back. Raises 400 above what is left."""
    if amount > fee["amount"] - fee["amount_refunded"]:
        raise invalid("Refund amount is greater than the unrefunded amount on the fee.", "amount")
    fee["amount_refunded"] += amount
    fee["refunded"] = fee["amount_refunded"] == fee["amount"]
    made = world.platform.fee_refunds.add(
        {
            "id": world.ids.new("fr"),
            "object": "fee_refund",
            "amount": amount,
            "created": world.now,
            "currency": fee["currency"],
            "fee": fee["id"],
            "metadata": {},
            "balance_transaction": None,
        }
    )
    world.emit(world.platform, "application_fee.refunded", fee)
    return made


def refund(
    world: World,
    account: Account,
    charge_id: str,
    amount: int | None = None,
    *,
    reason: str | None = None,
    metadata: dict[str, str] | None = None,
    with_fee: bool = False,
) -> Obj:
    """Refund a charge, in full unless an amount is given. Raises 400 above what is left."""
    made = account.charges.need(charge_id, "charge")
    left = made["amount"] - made["amount_refunded"]
    if made["status"] != "succeeded":
        raise invalid("This charge was not successful, so it cannot be refunded.", "charge")
    if left == 0:
        raise invalid(f"Charge {charge_id} has already been refunded.", code="charge_already_refunded")
    if made["disputed"]:
        raise invalid(f"Charge {charge_id} has been charged back; cannot issue a refund.", code="charge_disputed")
    amount = left if amount is None else amount
    if amount <= 0:
        raise invalid("This value must be greater than or equal to 1.", "amount", "parameter_invalid_integer")
    check_multiple(amount, made["currency"], "amount")
    if amount > left:
        raise invalid(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", "amount")
    if with_fee and not made["application_fee"]:
        raise invalid(f"Attempting to refund_application_fee on {charge_id}, but it has no application fee")
    if with_fee:
        fee = world.platform.application_fees[made["application_fee"]]
        total = made["amount_refunded"] + amount
        share = fee["amount"] * total // made["amount"] - fee["amount_refunded"]
        if share > 0:
            refund_fee(world, fee, share)
    made["amount_refunded"] += amount
    made["refunded"] = made["amount_refunded"] == made["amount"]
    new = account.refunds.add(
        {
            "id": world.ids.new("re"),
            "object": "refund",
            "amount": amount,
            "charge": charge_id,
            "created": world.now,
            "currency": made["currency"],
            "metadata": merged_metadata({}, metadata),
            "reason": reason,
            "payment_intent": made["payment_intent"],
            "status": "succeeded",
            "balance_transaction": None,
            "failure_reason": None,
            "receipt_number": None,
        }
    )
    world.emit(account, "refund.created", new)
    world.emit(account, "charge.refunded", made)
    return new


def fail_refund(world: World, account: Account, refund_id: str, reason: str = "expired_or_canceled_card") -> Obj:
    """The bank sends a refund back, days later: the charge counts as not refunded by that much."""
    failed = account.refunds.need(refund_id)
    made = account.charges[failed["charge"]]
    failed.update(status="failed", failure_reason=reason)
    made["amount_refunded"] -= failed["amount"]
    made["refunded"] = False
    world.emit(account, "refund.failed", failed)
    return failed


def open_dispute(
    world: World,
    account: Account,
    charge_id: str,
    amount: int | None = None,
    reason: str = "fraudulent",
    *,
    inquiry: bool = False,
) -> Obj:
    """A cardholder disputes a charge: the money is taken back at once. An inquiry only asks."""
    made = account.charges.need(charge_id)
    made["disputed"] = True
    dispute = account.disputes.add(
        {
            "id": world.ids.new("du"),
            "object": "dispute",
            "amount": made["amount"] if amount is None else amount,
            "charge": charge_id,
            "created": world.now,
            "currency": made["currency"],
            "livemode": world.livemode,
            "metadata": {},
            "payment_intent": made["payment_intent"],
            "reason": reason,
            "status": "warning_needs_response" if inquiry else "needs_response",
            "is_charge_refundable": inquiry,
            "balance_transactions": [],
            "evidence": {},
            "evidence_details": {},
        }
    )
    world.emit(account, "charge.dispute.created", dispute)
    if not inquiry:
        world.emit(account, "charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(world: World, account: Account, dispute_id: str, *, won: bool) -> Obj:
    """The bank decides; an inquiry that nobody turned into a chargeback is closed."""
    dispute = account.disputes.need(dispute_id)
    inquiry = dispute["status"].startswith("warning_")
    dispute["status"] = "warning_closed" if inquiry else "won" if won else "lost"
    world.emit(account, "charge.dispute.closed", dispute)
    if won and not inquiry:
        account.charges[dispute["charge"]]["disputed"] = False
        world.emit(account, "charge.dispute.funds_reinstated", dispute)
    return dispute


# --- routes ---


def _collection(call: Call, kind: str) -> Collection:
    if kind == "application_fees":
        return call.world.platform.application_fees if call.account is call.world.platform else Collection(kind)
    collection: Collection = getattr(call.account, kind)
    return collection


def _readable(kind: str, *filters: str) -> None:
    """Retrieve and list, for objects that nobody creates directly."""

    def retrieve(call: Call) -> Obj:
        return _collection(call, kind).need(call.ids[0])

    def listed(call: Call) -> Obj:
        return page(
            _collection(call, kind).newest_first(call.params.get("customer")),
            call.params,
            call.path,
            keep=matching(call.params, *filters),
        )

    route("GET", f"/v1/{kind}/{{}}")(retrieve)
    route("GET", f"/v1/{kind}")(listed)


_readable("charges", "payment_intent")
_readable("payment_intents")
_readable("refunds", "charge", "payment_intent")
_readable("disputes", "charge", "payment_intent")
_readable("application_fees", "charge")


@route("GET", "/v1/invoice_payments/{}")
def retrieve_invoice_payment(call: Call) -> Obj:
    """One attempt or promise to pay an invoice."""
    return call.account.invoice_payments.need(call.ids[0])


@route("GET", "/v1/invoice_payments")
def list_invoice_payments(call: Call) -> Obj:
    """Filter by invoice, status, or the payment behind it."""
    fits, payment = matching(call.params, "invoice", "status"), call.params.get("payment")
    return page(
        call.account.invoice_payments.newest_first(),
        call.params,
        call.path,
        keep=lambda obj: fits(obj) and (payment is None or payment.items() <= obj["payment"].items()),
    )


@route("POST", "/v1/refunds")
def create_refund(call: Call) -> Obj:
    """By charge or by payment intent."""
    params = call.params
    charge_id = params.get("charge")
    if charge_id is None:
        if "payment_intent" not in params:
            raise invalid("One of the following params should be provided for this request: payment_intent or charge.")
        charge_id = call.account.payment_intents.need(params["payment_intent"], "payment_intent")["latest_charge"]
        if charge_id is None:
            raise invalid("This PaymentIntent does not have a successful charge to refund.", "payment_intent")
    return refund(
        call.world,
        call.account,
        charge_id,
        params.get("amount"),
        reason=params.get("reason"),
        metadata=unset(params, "metadata"),
        with_fee=params.get("refund_application_fee", False),
    )


@route("POST", "/v1/refunds/{}")
def update_refund(call: Call) -> Obj:
    """Metadata alone."""
    made = call.account.refunds.need(call.ids[0])
    made["metadata"] = merged_metadata(made["metadata"], call.params.get("metadata"))
    call.emit("refund.updated", made)
    return made


@route("POST", "/v1/application_fees/{}/refunds")
def create_fee_refund(call: Call) -> Obj:
    """By the platform, on its own account."""
    fee = _collection(call, "application_fees").need(call.ids[0])
    return refund_fee(call.world, fee, call.params.get("amount", fee["amount"] - fee["amount_refunded"]))
