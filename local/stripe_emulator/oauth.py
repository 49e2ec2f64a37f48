"""Connect OAuth: one-time codes for accounts whose owner said yes, and the way back out."""

from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import urlencode

from stripe import OAuth

from local.stripe_emulator.parameters import Checker, typed_dict
from local.stripe_emulator.refusals import Refusal, invalid, oauth_refusal
from local.stripe_emulator.store import Account, Obj
from local.stripe_emulator.world import Call, World, route

CODE_LIFE = timedelta(minutes=5)
SCOPES = ("read_only", "read_write")
_TYPES = {"/oauth/token": OAuth.OAuthTokenParams, "/oauth/deauthorize": OAuth.OAuthDeauthorizeParams}


@cache
def _checker(template: str) -> Checker:
    return typed_dict(_TYPES[template])


def checked(template: str, tree: Obj) -> Obj:
    """The parameters of an OAuth request. Raises OAuth's own `invalid_request`."""
    given = {name: value for name, value in tree.items() if name != "client_secret"}
    try:
        params: Obj = _checker(template)(given, "")
    except Refusal as refusal:
        raise oauth_refusal(400, "invalid_request", str(refusal)).not_stored() from None
    return params


def authorize_problem(world: World, params: dict[str, str]) -> str | None:
    """Why the authorize page must not even redirect: an unknown client, or a redirect that is not registered."""
    if params.get("client_id") != world.client_id:
        return "No application matches the supplied client identifier"
    if params.get("redirect_uri") not in world.redirect_uris:
        return "Invalid redirect URI: it is not one of those registered for this application, exactly"
    if params.get("response_type") != "code":
        return "response_type must be code"
    if params.get("scope", "read_only") not in SCOPES:
        return "Invalid scope"
    return None


def grant(world: World, account: Account, scope: str = "read_write") -> str:
    """The owner authorizes the platform: a code for the token request, good once, for five minutes."""
    code = world.ids.new("ac", 32)
    world.codes[code] = (account.id, scope, world.clock.now() + CODE_LIFE)
    return code


def redirect_to(params: dict[str, str], **answer: str) -> str:
    """Back to the application, with its state."""
    if "state" in params:
        answer["state"] = params["state"]
    uri = params["redirect_uri"]
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(answer)}"


def connect(world: World, account: Account, scope: str) -> None:
    """From now on the platform may act for the account."""
    account.connected, account.scope = True, scope
    world.emit(account, "account.application.authorized", _application(world))


def deauthorize(world: World, account: Account) -> None:
    """From now on it may not; the event still tells it."""
    account.connected = False
    world.emit(account, "account.application.deauthorized", _application(world))


def _application(world: World) -> Obj:
    return {"id": world.client_id, "object": "application", "name": "Platform"}


def refuse_writes(account: Account) -> None:
    """A read_only grant reads. Raises 403."""
    if account.scope != "read_write":
        raise Refusal(
            403,
            f"The provided key does not have the required permissions for this endpoint on account '{account.id}'.",
            stored=False,
        )


@route("POST", "/oauth/token")
def token(call: Call) -> Obj:
    """Exchange a code. A used, unknown or stale one is `invalid_grant`."""
    world, params = call.world, call.params
    if params["grant_type"] != "authorization_code":
        raise oauth_refusal(400, "unsupported_grant_type", "Only authorization_code is emulated")
    code = params.get("code", "")
    account_id, scope, until = world.codes.pop(code, ("", "", world.clock.now()))
    if world.clock.now() >= until:
        raise oauth_refusal(400, "invalid_grant", f"Authorization code does not exist: {code}")
    connect(world, world.accounts[account_id], scope)
    return {
        "access_token": world.ids.new("sk_test", 32),
        "livemode": world.livemode,
        "token_type": "bearer",
        "refresh_token": world.ids.new("rt", 32),
        "scope": scope,
        "stripe_user_id": account_id,
        "stripe_publishable_key": world.ids.new("pk_test", 32),
    }


@route("POST", "/oauth/deauthorize")
def deauthorize_route(call: Call) -> Obj:
    """By the platform."""
    world, params = call.world, call.params
    account = world.accounts.get(params["stripe_user_id"])
    if params["client_id"] != world.client_id or account is None or not account.connected:
        raise oauth_refusal(
            401,
            "invalid_client",
            "This application is not connected to stripe account "
            f"{params['stripe_user_id']}, or that account does not exist.",
        )
    deauthorize(world, account)
    return {"stripe_user_id": account.id}


def chosen_account(world: World, form: dict[str, Any]) -> Account:
    """The account that the authorize page's form names: an existing one, or a new one."""
    if form.get("account", "new") != "new":
        account = world.accounts.get(form["account"])
        if account is None or account is world.platform:
            raise invalid("No such account", "account")
        return account
    return world.create_account(
        country=form.get("country") or "US",
        name=form.get("name") or "New business",
        default_currency=form.get("currency") or "usd",
        email=form.get("email") or "owner@example.com",
    )
