"""The pages a person would see: authorize, Checkout, hosted invoice, portal. Plain HTML forms, marked as emulated."""

from html import escape
from urllib.parse import parse_qsl

from local.stripe_emulator import cards, checkout, customers, invoices, oauth
from local.stripe_emulator.refusals import Refusal
from local.stripe_emulator.store import Account, Obj
from local.stripe_emulator.world import World

Answer = tuple[int, dict[str, str], str]


def answer(world: World, method: str, path: str, query: str, body: bytes) -> Answer:
    """One page, or what its form does."""
    form = dict(parse_qsl(body.decode(errors="replace") if method == "POST" else query, keep_blank_values=True))
    parts = path.strip("/").split("/")
    try:
        if path == "/oauth/authorize":
            return _authorize(world, method, form)
        if len(parts) >= 3 and parts[0] in _PAGES and parts[1] in world.accounts:
            return _PAGES[parts[0]](world, world.accounts[parts[1]], parts[2], method, form)
    except ValueError:
        return 400, {}, _html("Refused", "<p>A month and a year are numbers.</p>")
    except Refusal as refusal:
        return refusal.status, {}, _html("Refused", f"<p>{escape(str(refusal))}</p>")
    return 404, {}, _html("Not found", "")


def _authorize(world: World, method: str, form: dict[str, str]) -> Answer:
    problem = oauth.authorize_problem(world, form)
    if problem:
        return 400, {}, _html("Cannot connect", f"<p>{escape(problem)}</p>")
    if method == "POST" and form.get("decision") == "deny":
        return _see(oauth.redirect_to(form, error="access_denied", error_description="The user denied your request"))
    scope = form.get("scope", "read_only")
    if method == "POST":
        account = oauth.chosen_account(world, form)
        return _see(oauth.redirect_to(form, scope=scope, code=oauth.grant(world, account, scope)))
    kept = "".join(
        _hidden(name, form[name])
        for name in ("client_id", "redirect_uri", "response_type", "scope", "state")
        if name in form
    )
    choices = "".join(
        f'<option value="{one.id}">{escape(one.details["business_profile"]["name"])} ({one.id})</option>'
        for one in world.accounts.values()
        if one is not world.platform
    )
    prefill = escape(form.get("stripe_user[email]", ""), quote=True)
    return (
        200,
        {},
        _html(
            "Connect your account",
            f"""
<p>This application asks for <b>{escape(scope)}</b> access.</p>
<form method="post">{kept}
<p><label>Account <select name="account">{choices}<option value="new">Create a new account</option></select></label></p>
<p>New account: <label>name <input name="name"></label> <label>e-mail <input name="email" value="{prefill}"></label>
<label>country <input name="country" value="US" size="2"></label>
<label>currency <input name="currency" value="usd" size="3"></label></p>
<button name="decision" value="authorize">Authorize</button> <button name="decision" value="deny">Deny</button></form>
""",
        ),
    )


def _checkout(world: World, account: Account, session_id: str, method: str, form: dict[str, str]) -> Answer:
    session = account.checkout_sessions.need(session_id)
    if session["status"] != "open":
        return 410, {}, _html("Checkout", f"<p>This session is {session['status']}.</p>")
    problem = ""
    if method == "POST":
        try:
            checkout.complete(
                world,
                account,
                session_id,
                form.get("card", ""),
                exp_month=int(form.get("exp_month") or 12),
                exp_year=int(form.get("exp_year") or 2040),
                authenticate=form.get("authenticate", "yes") == "yes",
            )
        except Refusal as refusal:
            problem = f"<p role=alert><b>{escape(str(refusal))}</b></p>"
        else:
            return _see((session["success_url"] or "/").replace("{CHECKOUT_SESSION_ID}", session_id))
    back = session["cancel_url"]
    cancel = f'<p><a href="{escape(back, quote=True)}">Cancel</a></p>' if back else ""
    return (402 if problem else 200), {}, _html("Save a card", f"{problem}{_card_form('Save card')}{cancel}")


def _invoice(world: World, account: Account, invoice_id: str, method: str, form: dict[str, str]) -> Answer:
    invoice = account.invoices.alive(invoice_id)
    problem = ""
    if method == "POST":
        try:
            _pay_by_hand(world, account, invoice, form)
        except Refusal as refusal:
            problem = f"<p role=alert><b>{escape(str(refusal))}</b></p>"
    rows = "".join(
        f"<tr><td>{escape(line['description'] or '')}<td>{line['amount']}</tr>"
        for line in account.invoice_lines[invoice_id]
    )
    pay = _card_form("Pay") if invoice["status"] in ("open", "uncollectible") else ""
    total = f"{invoice['total']} {invoice['currency']} (minor units)"
    return (
        (402 if problem else 200),
        {},
        _html(
            f"Invoice {invoice['number']}",
            f"""{problem}
<p>Status <b>{invoice["status"]}</b>, total {total}, due {invoice["amount_due"]}, left {invoice["amount_remaining"]}</p>
<table>{rows}</table>{pay}""",
        ),
    )


def _pay_by_hand(world: World, account: Account, invoice: Obj, form: dict[str, str]) -> None:
    """The customer is present, so authentication can be passed; the card is kept."""
    if invoice["status"] not in ("open", "uncollectible"):
        return
    method = customers.new_card(world, account, cards.card(form.get("card", "")), 12, 2040)
    customers.attach(world, account, method["id"], invoice["customer"], authenticated=True)
    invoices.pay(world, account, invoice, method["id"], authenticated=form.get("authenticate", "yes") == "yes")


def _portal(world: World, account: Account, session_id: str, method: str, form: dict[str, str]) -> Answer:
    session = account.portal_sessions.need(session_id)
    customer = account.customers.alive(session["customer"])
    problem = ""
    if method == "POST":
        try:
            card = customers.new_card(world, account, cards.card(form.get("card", "")), 12, 2040)
            customers.attach(world, account, card["id"], customer["id"], authenticated=True)
        except Refusal as refusal:
            problem = f"<p role=alert><b>{escape(str(refusal))}</b></p>"
        else:
            customer["invoice_settings"]["default_payment_method"] = card["id"]
            world.emit(account, "customer.updated", customer)
    listed = "".join(
        f'<li><a href="{one["hosted_invoice_url"]}">{one["number"]}</a> {one["status"]} {one["total"]}'
        for one in account.invoices.newest_first(customer["id"])
        if one["number"]
    )
    back = session["return_url"]
    link = f'<p><a href="{escape(back, quote=True)}">Back</a></p>' if back else ""
    return (
        (402 if problem else 200),
        {},
        _html(
            "Your billing",
            f"""{problem}<p>{escape(customer["name"] or "")}</p>
<p>Default card: {customer["invoice_settings"]["default_payment_method"] or "none"}</p><ul>{listed}</ul>
{_card_form("Replace card")}{link}""",
        ),
    )


_PAGES = {"c": _checkout, "i": _invoice, "p": _portal}


def _card_form(label: str) -> str:
    options = "".join(
        f'<option value="{one.number}">{one.number} {one.brand}, saving: {one.saving}, later: {one.charging}</option>'
        for one in cards.all_cards()
    )
    return f"""<form method="post"><p><label>Card <input name="card" list="cards" value="4242424242424242"></label>
<datalist id="cards">{options}</datalist> <label>month <input name="exp_month" value="12" size="2"></label>
<label>year <input name="exp_year" value="2040" size="4"></label>
<label>3-D Secure <select name="authenticate"><option value="yes">succeeds</option><option value="no">fails</option>
</select></label></p><button>{label}</button></form>"""


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{escape(value, quote=True)}">'


def _html(title: str, content: str) -> str:
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><h1>{escape(title)}</h1>"
        f"{content}<hr><p>An emulation on this machine. No money moves; no real card works here.</p></html>"
    )


def _see(url: str) -> Answer:
    return 303, {"Location": url}, ""
