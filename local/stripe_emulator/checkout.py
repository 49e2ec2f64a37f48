"""Checkout sessions in setup mode, and the setup intents behind them: how a customer's card gets on file."""

from datetime import timedelta
from functools import partial

from local.stripe_emulator import cards, customers
from local.stripe_emulator.refusals import Refusal, declined, invalid
from local.stripe_emulator.store import Account, Obj, matching, merged_metadata, need, page
from local.stripe_emulator.world import Call, World, later, route

LIFE = timedelta(hours=24)
SHORTEST = timedelta(minutes=30)


@route("POST", "/v1/checkout/sessions")
def create_session(call: Call) -> Obj:
    """Only mode=setup; the currency (or the payment method types) must be given."""
    world, account, params = call.world, call.account, call.params
    if params.get("mode") != "setup":
        raise invalid("Only mode=setup is emulated.", "mode")
    if "currency" not in params and "payment_method_types" not in params:
        raise invalid(
            "You must provide `currency` or `payment_method_types` in setup mode.", "currency", "parameter_missing"
        )
    hosted = params.get("ui_mode", "hosted_page") == "hosted_page"
    if hosted:
        need(params, "success_url")
    customer_id = params.get("customer")
    if customer_id:
        account.customers.alive(customer_id, "customer")
    expires = params.get("expires_at", later(call.now, LIFE))
    if not later(call.now, SHORTEST) <= expires <= later(call.now, LIFE):
        raise invalid("The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", "expires_at")
    intent_data = params.get("setup_intent_data") or {}
    intent = account.setup_intents.add(
        {
            "id": world.ids.new("seti"),
            "object": "setup_intent",
            "created": call.now,
            "customer": customer_id,
            "livemode": world.livemode,
            "metadata": merged_metadata({}, intent_data.get("metadata")),
            "description": intent_data.get("description"),
            "status": "requires_payment_method",
            "payment_method": None,
            "usage": "off_session",
            "last_setup_error": None,
            "latest_attempt": None,
            "next_action": None,
            "mandate": None,
            "payment_method_types": ["card"],
            "application": world.client_id,
            "cancellation_reason": None,
        }
    )
    new_id = world.ids.new("cs_live" if world.livemode else "cs_test", 40)
    session = account.checkout_sessions.add(
        {
            "id": new_id,
            "object": "checkout.session",
            "mode": "setup",
            "status": "open",
            "created": call.now,
            "client_reference_id": params.get("client_reference_id"),
            "currency": params.get("currency"),
            "customer": customer_id,
            "customer_email": params.get("customer_email"),
            "expires_at": expires,
            "livemode": world.livemode,
            "metadata": merged_metadata({}, params.get("metadata")),
            "payment_intent": None,
            "payment_method_types": ["card"],
            "payment_status": "no_payment_required",
            "setup_intent": intent["id"],
            "success_url": params.get("success_url"),
            "locale": params.get("locale"),
            "cancel_url": params.get("cancel_url"),
            "return_url": params.get("return_url"),
            "amount_total": None,
            "amount_subtotal": None,
            "invoice": None,
            "subscription": None,
            "custom_fields": [],
            "custom_text": {},
            "ui_mode": params.get("ui_mode", "hosted_page"),
            "client_secret": None if hosted else f"{new_id}_secret",
            "url": f"{world.base_url}/c/{account.id}/{new_id}" if hosted else None,
        }
    )
    world.at(expires, partial(_expire_by_itself, world, account, new_id))
    return session


@route("GET", "/v1/checkout/sessions/{}")
def retrieve_session(call: Call) -> Obj:
    """One."""
    return call.account.checkout_sessions.need(call.ids[0], "session")


@route("GET", "/v1/checkout/sessions")
def list_sessions(call: Call) -> Obj:
    """Filter by customer, status, creation."""
    return page(
        call.account.checkout_sessions.newest_first(call.params.get("customer")),
        call.params,
        call.path,
        keep=matching(call.params, "status"),
    )


@route("POST", "/v1/checkout/sessions/{}/expire")
def expire_session(call: Call) -> Obj:
    """Open ones alone."""
    session = call.account.checkout_sessions.need(call.ids[0], "session")
    if session["status"] != "open":
        raise invalid(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a '
            f"status of {session['status']}."
        )
    _expire(call.world, call.account, session)
    return session


@route("GET", "/v1/setup_intents/{}")
def retrieve_setup_intent(call: Call) -> Obj:
    """One."""
    return call.account.setup_intents.need(call.ids[0], "intent")


@route("GET", "/v1/setup_intents")
def list_setup_intents(call: Call) -> Obj:
    """Of a customer."""
    return page(call.account.setup_intents.newest_first(call.params.get("customer")), call.params, call.path)


def complete(
    world: World,
    account: Account,
    session_id: str,
    number: str,
    *,
    exp_month: int = 12,
    exp_year: int = 2040,
    authenticate: bool = True,
) -> Obj:
    """What the customer does on the hosted page. Raises the card's decline; the session stays open then."""
    session = account.checkout_sessions.need(session_id, "session")
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.")
    intent = account.setup_intents[session["setup_intent"]]
    try:
        card = cards.card(number)
        now = world.clock.now()
        if (exp_year, exp_month) < (now.year, now.month):
            raise cards.decline("expired_card")
        if card.saving == cards.AUTHENTICATION and not authenticate:
            raise declined(
                "setup_intent_authentication_failure",
                "The latest attempt to set up the payment method has failed because authentication failed.",
            )
        method = customers.new_card(world, account, card, exp_month, exp_year)
        if session["customer"]:
            customers.attach(world, account, method["id"], session["customer"], authenticated=True)
        elif card.saving in cards.DECLINES and card.saving != cards.AUTHENTICATION:
            raise cards.decline(card.saving)
    except Refusal as refusal:
        intent["last_setup_error"] = dict(refusal.body["error"])
        world.emit(account, "setup_intent.setup_failed", intent)
        raise
    intent.update(status="succeeded", payment_method=method["id"], last_setup_error=None)
    session.update(status="complete", url=None)
    world.emit(account, "setup_intent.succeeded", intent)
    world.emit(account, "checkout.session.completed", session)
    return session


def _expire(world: World, account: Account, session: Obj) -> None:
    session.update(status="expired", url=None)
    account.setup_intents[session["setup_intent"]]["status"] = "canceled"
    world.emit(account, "checkout.session.expired", session)


def _expire_by_itself(world: World, account: Account, session_id: str) -> None:
    session = account.checkout_sessions[session_id]
    if session["status"] == "open":
        _expire(world, account, session)
