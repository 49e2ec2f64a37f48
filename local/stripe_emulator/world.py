"""The state behind every request: accounts, ids, events, timers; and the table of routes."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from local.clock import Clock
from local.stripe_emulator.refusals import Refusal, no_access, no_such
from local.stripe_emulator.store import Account, Ids, Obj
from local.stripe_emulator.webhooks import Event, Webhooks

API_VERSION = "2026-10-28.endive"


class World:
    """Everything that exists. No HTTP here."""

    def __init__(
        self,
        clock: Clock,
        *,
        platform_key: str,
        client_id: str,
        webhook_secrets: Sequence[str],
        seed: int,
        livemode: bool,
        redirect_uris: Sequence[str],
        base_url: str,
    ) -> None:
        self.clock = clock
        self.platform_key = platform_key
        self.client_id = client_id
        self.livemode = livemode
        self.redirect_uris = list(redirect_uris)
        self.base_url = base_url
        self.ids = Ids(seed)
        self.webhooks = Webhooks(self.ids, webhook_secrets)
        self.accounts: dict[str, Account] = {}
        self.codes: dict[str, tuple[str, str, datetime]] = {}
        self.emitted: Counter[str] = Counter()
        self.request: Obj = {"id": None, "idempotency_key": None}
        self._timers: list[tuple[datetime, int, Callable[[], None]]] = []
        self._timer_count = 0
        self.platform = self.create_account(name="Platform", account_id="acct_platform")

    # --- time ---

    @property
    def now(self) -> int:
        """The present, in Unix seconds."""
        return int(self.clock.now().timestamp())

    def at(self, instant: datetime | int, action: Callable[[], None]) -> None:
        """Do something when the clock gets there."""
        when = datetime.fromtimestamp(instant, UTC) if isinstance(instant, int) else instant
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, action))

    def run_timers(self) -> None:
        """What has become due: expiries, overdue invoices, automatic advancement."""
        now = self.clock.now()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def next_timer_at(self) -> datetime | None:
        """When the next of them is."""
        return self._timers[0][0] if self._timers else None

    # --- accounts ---

    def create_account(
        self,
        *,
        country: str = "US",
        default_currency: str = "usd",
        charges_enabled: bool = True,
        name: str = "Publisher",
        email: str = "owner@example.com",
        account_id: str | None = None,
        currently_due: Sequence[str] = (),
    ) -> Account:
        """A Stripe account that nobody has connected yet."""
        new_id = account_id or self.ids.new("acct", 16)
        details: Obj = {
            "id": new_id,
            "object": "account",
            "type": "standard",
            "country": country,
            "default_currency": default_currency,
            "charges_enabled": charges_enabled,
            "payouts_enabled": True,
            "details_submitted": True,
            "email": email,
            "created": self.now,
            "metadata": {},
            "business_profile": {"name": name, "url": None, "support_email": email},
            "business_type": "company",
            "capabilities": {"card_payments": "active" if charges_enabled else "inactive", "transfers": "active"},
            "requirements": {
                "currently_due": list(currently_due),
                "past_due": [],
                "eventually_due": [],
                "errors": [],
                "pending_verification": [],
                "current_deadline": None,
                "alternatives": [],
                "disabled_reason": None if charges_enabled else "requirements.past_due",
            },
            "settings": {"dashboard": {"display_name": name, "timezone": "Etc/UTC"}},
        }
        account = Account(new_id, details)
        self.accounts[new_id] = account
        return account

    def account(self, account_id: str) -> Account:
        """One account, connected or not, for inspection and for hand edits. KeyError when unknown."""
        return self.accounts[account_id]

    def connected(self, account_id: str) -> Account:
        """The account when the platform may act for it. Raises 403 otherwise."""
        account = self.accounts.get(account_id)
        if account is None or not (account.connected or account is self.platform):
            raise no_access(account_id)
        return account

    # --- events ---

    def emit(
        self, account: Account, kind: str, obj: Obj, *, previous: Obj | None = None, livemode: bool | None = None
    ) -> Event:
        """Record that `obj` changed, and schedule the webhook."""
        new_id, now = self.ids.new("evt"), self.now
        connected_id = None if account is self.platform else account.id
        head: Obj = {
            "id": new_id,
            "object": "event",
            "api_version": API_VERSION,
            "created": now,
            "livemode": self.livemode if livemode is None else livemode,
            "pending_webhooks": 1,
            "request": self.request,
            "type": kind,
        }
        if connected_id:
            head["account"] = connected_id
        event = Event(
            new_id,
            kind,
            connected_id,
            str(obj.get("id", "")),
            now,
            head,
            json.dumps(obj),
            json.dumps(previous) if previous else None,
        )
        self.emitted[kind] += 1
        self.webhooks.publish(event, self.clock.now())
        return event

    # --- expansion ---

    def resolve(self, account: Account, holder: Obj, name: str) -> Any:
        """What `expand[]` puts in the place of `name`."""
        if holder.get("object") == "invoice" and name == "payments":
            data = list(account.invoice_payments.newest_first(holder["id"]))
            return {
                "object": "list",
                "data": data,
                "has_more": False,
                "url": f"/v1/invoice_payments?invoice={holder['id']}",
            }
        if holder.get("object") == "invoice" and name == "confirmation_secret":
            intents = [
                one["payment"]["payment_intent"]
                for one in account.invoice_payments.newest_first(holder["id"])
                if one["is_default"]
            ]
            return {"type": "payment_intent", "client_secret": f"{intents[0]}_secret"} if intents else None
        value = holder.get(name)
        if isinstance(value, str):
            return account.find(value) or self.platform.find(value) or value
        return value


@dataclass(slots=True)
class Call:
    """One request on its way to its handler: already authenticated and checked."""

    world: World
    account: Account
    params: Obj
    ids: tuple[str, ...]
    path: str

    @property
    def now(self) -> int:
        """The present, in Unix seconds."""
        return self.world.now

    def emit(self, kind: str, obj: Obj, previous: Obj | None = None) -> None:
        """An event of the account that the request acts for."""
        self.world.emit(self.account, kind, obj, previous=previous)


Handler = Callable[[Call], Obj]
_ROUTES: dict[tuple[str, str], Handler] = {}
_TREE: dict[str, Any] = {}


def route(verb: str, path: str) -> Callable[[Handler], Handler]:
    """Register a handler under the SDK's own (verb, path template); `{}` stands for an id."""

    def register(handler: Handler) -> Handler:
        _ROUTES[verb, path] = handler
        node = _TREE
        for part in path.split("/")[1:]:
            node = node.setdefault(part, {})
        node[" " + verb] = (path, handler)
        return handler

    return register


def routes() -> list[tuple[str, str]]:
    """Every operation that is emulated."""
    return sorted(_ROUTES)


def find_route(verb: str, path: str) -> tuple[str, tuple[str, ...], Handler]:
    """(template, ids, handler). Raises 404 for what is not emulated."""
    node: dict[str, Any] = _TREE
    ids: list[str] = []
    for part in path.split("/")[1:]:
        if part in node:
            node = node[part]
        else:
            node = node.get("{}", {})
            ids.append(part)
    found = node.get(" " + verb)
    if found is None:
        raise Refusal(404, f"Unrecognized request URL ({verb}: {path}), or not emulated.", stored=False)
    return found[0], tuple(ids), found[1]


def deleted(obj: Obj, account_collection: dict[str, Obj]) -> Obj:
    """Delete an object: what is left of it is its id."""
    stub = {"id": obj["id"], "object": obj["object"], "deleted": True}
    account_collection[obj["id"]] = stub
    return stub


def later(now: int, span: timedelta) -> int:
    """An instant after `now`, both in Unix seconds."""
    return now + int(span.total_seconds())


__all__ = ["API_VERSION", "Call", "Handler", "World", "deleted", "find_route", "later", "no_such", "route", "routes"]
