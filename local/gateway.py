"""A publisher's API gateway and the sample API behind it: ask if a key may call, pass the call on, report the usage."""

import http.client
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

from local.api_gateway import Now
from local.loopback import Application, Request, Response
from local.usage_buffer import UsageBuffer

EVENT_TYPE = "api.request"
KEPT_DECISIONS = 10_000
REFUSALS = {
    401: ("key_required", "Send your key as X-Api-Key."),
    403: ("forbidden", "This key may not call this API."),
    404: ("not_found", "There is no such page."),
    429: ("quota_exceeded", "The quota is used up."),
    503: ("try_again", "Whether this key may call could not be found out."),
}
type Check = Callable[[str, str], Mapping[str, Any]]
"""(key, API) to the entitlement's document; raises OSError when there was no usable answer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was answered for a key, until when it holds, and how to refuse."""

    status: int
    subscription: str
    environment: str
    code: str
    until: datetime
    retry_after: str | None = None


class PublisherGateway:
    """Stands before an API. `name` is its identity as a source of events, `api` the API's id in the catalog.

    Answers of `check` are kept for `fresh`; while it cannot be asked, an old answer serves for `stale` more.
    """

    def __init__(
        self,
        api: str,
        check: Check,
        buffer: UsageBuffer,
        upstream: Application,
        clock: Now,
        *,
        fresh: timedelta = timedelta(seconds=5),
        stale: timedelta = timedelta(minutes=5),
    ) -> None:
        self.api = api
        self.buffer = buffer
        self._check = check
        self._upstream = upstream
        self._clock = clock
        self._fresh = fresh
        self._stale = stale
        self._lock = Lock()
        self._decisions: OrderedDict[str, Decision] = OrderedDict()

    def handle(self, request: Request) -> Response:
        """Answer one call. Only calls that reached the API are usage."""
        key = request.header("x-api-key")
        if not key:
            return _refused(401)
        decision = self._decide(key)
        if decision is None:
            return _refused(503)
        if decision.status != 200:
            return _refused(decision.status, decision.code, decision.retry_after)
        passed = [(name, value) for name, value in request.headers if name != "x-api-key"]
        response = self._upstream(Request(request.method, request.target, passed, request.body, request.source_ip))
        self.buffer.record(
            subscription=decision.subscription,
            kind=EVENT_TYPE,
            at=self._clock.now(),
            environment=decision.environment,
            data={
                "status": response.status,
                "method": request.method,
                "path": request.target.partition("?")[0],
                "bytes": len(response.body),
            },
        )
        return response

    def _decide(self, key: str) -> Decision | None:
        now = self._clock.now()
        with self._lock:
            known = self._decisions.get(key)
        if known is not None and now < known.until:
            return known
        try:
            made = decision(self._check(key, self.api), now, self._fresh)
        except OSError:
            return known if known is not None and now < known.until + self._stale else None
        with self._lock:
            self._decisions[key] = made
            self._decisions.move_to_end(key)
            while len(self._decisions) > KEPT_DECISIONS:
                self._decisions.popitem(last=False)
        return made


def decision(document: Mapping[str, Any], now: datetime, fresh: timedelta) -> Decision:
    """Read an entitlement: who calls, or which status refuses the call; good for `fresh_seconds`, or else `fresh`."""
    code = str(document.get("reason", ""))
    seconds = document.get("fresh_seconds")
    until = now + (timedelta(seconds=seconds) if isinstance(seconds, int | float) else fresh)
    if document.get("allowed"):
        status = 200
    elif code == "unknown_key":
        status = 401
    elif code == "quota_exceeded":
        status = 429
    else:
        status = 403
    wait = document.get("retry_after")
    return Decision(
        status=status,
        subscription=str(document.get("subscription", "")),
        environment=str(document.get("environment", "production")),
        code=code,
        until=until,
        retry_after=None if wait is None else str(wait),
    )


def _refused(status: int, code: str = "", retry_after: str | None = None) -> Response:
    usual, detail = REFUSALS[status]
    document = {"status": status, "code": code or usual, "detail": detail}
    headers = [("content-type", "application/problem+json")]
    if status == 401:
        headers.append(("www-authenticate", 'ApiKey header="X-Api-Key"'))
    if retry_after is not None:
        headers.append(("retry-after", retry_after))
    return Response(status, headers, json.dumps(document).encode())


def http_check(url: str, gateway_key: str, *, timeout: float = 5.0) -> Check:
    """Ask `POST {url}/entitlements/check` with a gateway key."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def check(key: str, api: str) -> Mapping[str, Any]:
        connection = kind(parts.netloc, timeout=timeout)
        try:
            headers = {"Authorization": f"Bearer {gateway_key}", "Content-Type": "application/json"}
            body = json.dumps({"key": key, "api": api})
            connection.request("POST", f"{parts.path.rstrip('/')}/entitlements/check", body, headers)
            answered = connection.getresponse()
            status, document = answered.status, json.loads(answered.read())
        except (http.client.HTTPException, ValueError) as broken:
            raise OSError(f"no answer: {broken}") from broken
        finally:
            connection.close()
        if status != 200 or not isinstance(document, dict):
            raise OSError(f"answered {status}")
        return document

    return check


def weather(request: Request) -> Response:
    """The sample API: `GET /weather/{city}`, the same weather for a city every time, no data behind it."""
    path = request.target.partition("?")[0].strip("/").split("/")
    if request.method not in {"GET", "HEAD"} or len(path) != 2 or path[0] != "weather" or not path[1]:
        return _refused(404)
    number = crc32(path[1].encode())
    skies = ("sunny", "cloudy", "rain", "snow", "wind")
    document = {"city": path[1], "celsius": number % 41 - 10, "sky": skies[number % len(skies)]}
    return Response(200, [("content-type", "application/json")], json.dumps(document).encode())
