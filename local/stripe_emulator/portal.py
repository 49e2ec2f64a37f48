"""Customer portal sessions, events, and the accounts themselves."""

import json
from typing import Any

from local.stripe_emulator.refusals import Refusal, invalid, no_access, no_such
from local.stripe_emulator.store import Obj, in_range, merged_metadata, need, page
from local.stripe_emulator.world import Call, route


@route("POST", "/v1/billing_portal/sessions")
def create_portal_session(call: Call) -> Obj:
    """Needs a configuration: the account's default one, or the one given."""
    world, account, params = call.world, call.account, call.params
    customer = account.customers.alive(need(params, "customer"), "customer")
    if "configuration" in params:
        configuration = account.portal_configurations.need(params["configuration"], "configuration")["id"]
    elif account.has_portal_configuration or account.portal_configurations:
        configuration = next(iter(account.portal_configurations), "bpc_default")
    else:
        raise invalid(
            "No configuration provided and your test mode default configuration has not been created. "
            "Provide a configuration or create your default."
        )
    new_id = world.ids.new("bps")
    return account.portal_sessions.add(
        {
            "id": new_id,
            "object": "billing_portal.session",
            "configuration": configuration,
            "created": call.now,
            "customer": customer["id"],
            "flow": params.get("flow_data"),
            "livemode": world.livemode,
            "locale": params.get("locale"),
            "on_behalf_of": None,
            "return_url": params.get("return_url"),
            "url": f"{world.base_url}/p/{account.id}/{new_id}",
        }
    )


@route("POST", "/v1/billing_portal/configurations")
def create_configuration(call: Call) -> Obj:
    """What the portal lets a customer do: kept, shown, not enforced."""
    return call.account.portal_configurations.add(
        {
            "id": call.world.ids.new("bpc"),
            "object": "billing_portal.configuration",
            "active": True,
            "created": call.now,
            "updated": call.now,
            "features": call.params["features"],
            "business_profile": call.params.get("business_profile") or {},
            "livemode": call.world.livemode,
            "is_default": not call.account.portal_configurations,
            "login_page": {"enabled": False, "url": None},
            "default_return_url": call.params.get("default_return_url") or None,
            "application": call.world.client_id,
            "metadata": merged_metadata({}, call.params.get("metadata")),
        }
    )


@route("GET", "/v1/billing_portal/configurations")
def list_configurations(call: Call) -> Obj:
    """All."""
    return page(call.account.portal_configurations.newest_first(), call.params, call.path)


@route("GET", "/v1/billing_portal/configurations/{}")
def retrieve_configuration(call: Call) -> Obj:
    """One."""
    return call.account.portal_configurations.need(call.ids[0], "configuration")


@route("GET", "/v1/events/{}")
def retrieve_event(call: Call) -> Obj:
    """For 30 days, by the account it happened on."""
    event = call.world.webhooks.events.get(call.ids[0])
    if event is None or (event.account or call.world.platform.id) != call.account.id:
        raise no_such("event", call.ids[0])
    found: Obj = json.loads(event.text())
    return found


@route("GET", "/v1/events")
def list_events(call: Call) -> Obj:
    """Filter by type (`a.*` too), types, creation."""
    params = call.params
    account_id = None if call.account is call.world.platform else call.account.id
    wanted = params.get("types", [params["type"]] if "type" in params else None)
    events = (
        {"id": event.id, "event": event}
        for event in reversed(call.world.webhooks.events.values())
        if event.account == account_id and in_range(event.created, params.get("created")) and _typed(event.type, wanted)
    )
    found = page(events, params, call.path)
    found["data"] = [json.loads(one["event"].text()) for one in found["data"]]
    return found


def _typed(kind: str, wanted: Any) -> bool:
    return wanted is None or any(kind == one or (one.endswith("*") and kind.startswith(one[:-1])) for one in wanted)


@route("GET", "/v1/accounts/{}")
def retrieve_account(call: Call) -> Obj:
    """The platform reads the accounts that are connected to it; an account reads itself."""
    account = call.world.accounts.get(call.ids[0])
    if account is None or (call.account is not call.world.platform and account is not call.account):
        raise no_access(call.ids[0])
    return call.world.connected(account.id).details


@route("GET", "/v1/account")
def retrieve_current_account(call: Call) -> Obj:
    """The account of the request."""
    return call.account.details


@route("GET", "/v1/accounts")
def list_accounts(call: Call) -> Obj:
    """Those that are connected."""
    if call.account is not call.world.platform:
        raise Refusal(403, "Only a platform lists accounts.")
    connected = [one.details for one in reversed(call.world.accounts.values()) if one.connected]
    return page(connected, call.params, call.path)
