"""The emulator's front door: one request in, one response out, no sockets."""

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import RLock
from typing import Any, Literal

from local.clock import Clock
from local.stripe_emulator import checkout, credit_notes, customers, invoices, oauth, pages, payments, portal
from local.stripe_emulator.dashboard import Dashboard
from local.stripe_emulator.faults import ConnectionBroken, Fault
from local.stripe_emulator.idempotency import Stored
from local.stripe_emulator.parameters import check, decode
from local.stripe_emulator.refusals import Refusal, invalid, oauth_refusal
from local.stripe_emulator.store import Account, Obj, expanded
from local.stripe_emulator.webhooks import Delivery
from local.stripe_emulator.world import API_VERSION, Call, Handler, find_route

RESOURCES = (checkout, credit_notes, customers, invoices, oauth, payments, portal)
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class RequestRecord:
    """One request as it was received, and how it ended (0: no answer reached the client)."""

    method: str
    path: str
    operation: str
    account: str | None
    params: Obj
    idempotency_key: str | None
    status: int = 0
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests a second by the clock, for one account: in all, and for one endpoint."""

    account: int = 100
    endpoint: int = 25


OnCall = Callable[[Literal["before", "after"], RequestRecord], None]


class StripeEmulator(Dashboard):
    """Stripe for one platform and the accounts connected to it. Thread-safe; all time from the clock.

    `on_call` is called before and after the effect of every POST and DELETE; what it raises reaches the caller, so a
    test can crash a process exactly there. `redirect_uris` are the OAuth redirects registered for the platform.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        platform_key: str = "sk_test_platform",
        client_id: str = "ca_platform",
        webhook_secrets: Sequence[str] = ("whsec_test",),
        seed: int = 0,
        livemode: bool = False,
        redirect_uris: Sequence[str] = (),
        base_url: str = "https://stripe.invalid",
        rate_limits: RateLimits | None = None,
        log_size: int = 200_000,
    ) -> None:
        super().__init__(
            clock,
            platform_key=platform_key,
            client_id=client_id,
            webhook_secrets=webhook_secrets,
            seed=seed,
            livemode=livemode,
            redirect_uris=redirect_uris,
            base_url=base_url,
        )
        self.rate_limits = rate_limits
        self.faults: list[Fault] = []
        self.on_call: OnCall | None = None
        self.requests: deque[RequestRecord] = deque(maxlen=log_size)
        self.counts: Counter[str] = Counter()
        self._rates: tuple[int, Counter[tuple[str, str]]] = (0, Counter())
        self._lock = RLock()
        self._request_count = 0

    # --- requests ---

    def handle(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer one request; `target` is the path with its query. Raises ConnectionBroken when a fault says so."""
        with self._lock:
            self.run_timers()
            path, _, query = target.partition("?")
            if not path.startswith(("/v1/", "/oauth/token", "/oauth/deauthorize")):
                status, extra, text = pages.answer(self, method, path, query, body)
                return Response(status, {"Content-Type": "text/html; charset=utf-8", **extra}, text.encode())
            self._request_count += 1
            request_id = f"req_{self._request_count:014d}"
            answer_headers = {"Content-Type": JSON, "Request-Id": request_id, "Stripe-Version": API_VERSION}
            low = {name.lower(): value for name, value in headers.items()}
            try:
                answer = self._answer(method, path, query, low, body, answer_headers)
            except Refusal as refusal:
                answer_headers.update(refusal.headers)
                return Response(refusal.status, answer_headers, _json(refusal.body))
            return Response(answer.status, answer_headers, answer.answer)

    def _answer(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, out: dict[str, str]
    ) -> Stored:
        """Authenticate, limit, replay, break, check, act. Raises Refusal for what no idempotency key stores."""
        account = self._account_of(path, headers)
        template, ids, handler = find_route(method, path)
        record = RequestRecord(
            method, path, f"{method} {template}", headers.get("stripe-account"), {}, headers.get("idempotency-key")
        )
        self.requests.append(record)
        self.counts[record.operation] += 1
        try:
            self._limit(account, template)
            tree = decode(body.decode(errors="replace") if method == "POST" else query)
            record.params = tree
            key = record.idempotency_key if method == "POST" else None
            if key:
                stored = account.keys.find(key, method, path, body, self.clock.now())
                if stored is not None:
                    record.replayed, record.status = True, stored.status
                    out.update({"Idempotent-Replayed": "true", "Original-Request": stored.request_id})
                    return stored
                out["Idempotency-Key"] = key
            params = oauth.checked(template, tree) if template.startswith("/oauth") else check(method, template, tree)
            if method != "GET" and account is not self.platform:
                oauth.refuse_writes(account)
            call = Call(self, account, params, ids, path)
            stored = self._execute(call, handler, record, body, out["Request-Id"])
        except Refusal as refusal:
            record.status = refusal.status
            raise
        record.status = stored.status
        return stored

    def _execute(self, call: Call, handler: Handler, record: RequestRecord, body: bytes, request_id: str) -> Stored:
        """The effect itself, between the faults and hooks that surround it; its answer is stored under the key."""
        mutates = record.method != "GET"
        struck = [fault for fault in self.faults if fault.strikes(record.method, record.path)]
        self._break(record, call, [f for f in struck if not f.after], body, request_id)
        if mutates and self.on_call:
            self.on_call("before", record)
        self.request = {"id": request_id, "idempotency_key": record.idempotency_key}
        try:
            expand = call.params.pop("expand", ())
            result = handler(call)
            if expand:
                result = expanded(result, expand, lambda holder, name: self.resolve(call.account, holder, name))
            status, answer = 200, _json(result)
        except Refusal as refusal:
            if not refusal.stored:
                raise
            status, answer = refusal.status, _json(refusal.body)
        finally:
            self.request = {"id": None, "idempotency_key": None}
        self._break(record, call, [f for f in struck if f.after and f.kind == "error_500"], body, request_id)
        stored = self._store(record, call.account, body, status, answer, request_id)
        record.status = status
        if mutates and self.on_call:
            self.on_call("after", record)
        self._break(record, call, [f for f in struck if f.after], body, request_id)
        return stored

    def _break(self, record: RequestRecord, call: Call, faults: list[Fault], body: bytes, request_id: str) -> None:
        for fault in faults:
            failure = fault.strike()
            if isinstance(failure, ConnectionBroken):
                record.status = 0
            elif failure.stored:
                self._store(record, call.account, body, failure.status, _json(failure.body), request_id)
            raise failure

    def _store(
        self, record: RequestRecord, account: Account, body: bytes, status: int, answer: bytes, request_id: str
    ) -> Stored:
        stored = Stored(self.clock.now(), record.method, record.path, body, status, answer, request_id)
        if record.idempotency_key and record.method == "POST":
            account.keys.keep(record.idempotency_key, stored)
        return stored

    def _account_of(self, path: str, headers: dict[str, str]) -> Account:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if given != self.platform_key:
            if path.startswith("/oauth/"):
                raise oauth_refusal(401, "invalid_client", "No such API key")
            hidden = f"{given[:8]}****" if given else "(none)"
            raise Refusal(401, f"Invalid API Key provided: {hidden}", stored=False)
        version = headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise invalid(f"Invalid Stripe API version: {version}. Only {API_VERSION} is emulated.").not_stored()
        account_id = headers.get("stripe-account")
        return self.connected(account_id) if account_id else self.platform

    def _limit(self, account: Account, template: str) -> None:
        if self.rate_limits is None:
            return
        second = self.now
        if self._rates[0] != second:
            self._rates = (second, Counter())
        seen = self._rates[1]
        seen[account.id, ""] += 1
        seen[account.id, template] += 1
        reason = None
        if seen[account.id, template] > self.rate_limits.endpoint:
            reason = "endpoint-rate"
        if seen[account.id, ""] > self.rate_limits.account:
            reason = "global-rate"
        if reason:
            raise Refusal(
                429,
                "Request rate limit exceeded.",
                code="rate_limit",
                stored=False,
                headers={"Stripe-Rate-Limited-Reason": reason},
            )

    # --- time and webhooks ---

    def next_due_at(self) -> datetime | None:
        """The next instant at which anything happens here by itself: a delivery, an expiry, an advancement."""
        known = [at for at in (self.webhooks.next_at(), self.next_timer_at()) if at is not None]
        return min(known) if known else None

    def next_delivery_at(self) -> datetime | None:
        """When the next webhook is due."""
        return self.webhooks.next_at()

    def due_deliveries(self, now: datetime | None = None, limit: int | None = None) -> list[Delivery]:
        """Take the webhooks that are due, signed with the clock's time; report each with `deliver`."""
        with self._lock:
            self.run_timers()
            return self.webhooks.due(now or self.clock.now(), limit)

    def deliver(self, delivery: Delivery, status: int) -> None:
        """Report what the endpoint answered (0 or 599: nothing). Not 2xx: again later, for three days."""
        with self._lock:
            self.webhooks.delivered(delivery, status, self.clock.now())

    # --- inspection ---

    def charged(self, account_id: str) -> dict[str, int]:
        """What was charged on an account in all, by currency, minor units, before refunds."""
        return self.accounts[account_id].charged()

    def snapshot(self, account_id: str) -> dict[str, dict[str, Obj]]:
        """Deep copies of an account's objects by kind and id, to compare worlds."""
        account = self.accounts[account_id]
        kinds = (
            "customers",
            "products",
            "payment_methods",
            "invoices",
            "invoice_payments",
            "payment_intents",
            "charges",
            "refunds",
            "disputes",
            "credit_notes",
            "checkout_sessions",
            "setup_intents",
        )
        copied: dict[str, dict[str, Obj]] = json.loads(json.dumps({kind: getattr(account, kind) for kind in kinds}))
        return copied


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
