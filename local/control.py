"""The page and JSON API under `/_local`: what runs where, tokens, the clock, events. Loopback callers only."""

import html
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from local.loopback import Request, Response

if TYPE_CHECKING:
    from local.system import System

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1", ""})
RECENT = 50


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def handle(system: "System", request: Request) -> Response:
    """Answer a request under `/_local`.

    The `Host` must name loopback, and so must an `Origin`: a web page elsewhere, or a name that was rebound to
    127.0.0.1, moves no clock and gets no token.
    """
    try:
        _check_host(request)
        path, _, query = request.target.partition("?")
        route = _ROUTES.get((request.method, path.rstrip("/")))
        if route is not None:
            return route(system, request, parse_qs(query))
        if request.method == "GET" and path.startswith("/_local/objects/"):
            return _object(system, unquote(path.removeprefix("/_local/objects/")), parse_qs(query))
    except _RefusedError as refused:
        return _json({"detail": str(refused)}, refused.status)
    return _json({"detail": "no such page"}, HTTPStatus.NOT_FOUND)


def _check_host(request: Request) -> None:
    host = request.header("host")
    origin = request.header("origin")
    names = [urlsplit(f"//{host}").hostname or ""] if host is not None else []
    names += [urlsplit(origin).hostname or origin] if origin is not None else []
    if not set(names) <= LOOPBACK_NAMES:
        raise _RefusedError(HTTPStatus.FORBIDDEN, "only from this machine, by its loopback name")


def _json(document: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    body = json.dumps(document, indent=2, default=_text).encode()
    return Response(int(status), [("content-type", "application/json"), ("cache-control", "no-store")], body)


def _text(value: Any) -> str:
    return instant_text(value) if isinstance(value, datetime) else str(value)


def instant_text(at: datetime) -> str:
    """RFC 3339, UTC, with Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _body(request: Request) -> dict[str, Any]:
    try:
        document = json.loads(request.body or b"{}")
    except ValueError:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None
    if not isinstance(document, dict):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body must be an object")
    return document


def state(system: "System") -> dict[str, Any]:
    """Addresses, clock, queues and the newest of everything."""
    return {
        "api": system.url,
        "stripe": system.stripe_url,
        "aws": system.aws_url,
        "issuer": system.identity.issuer,
        "audience": system.identity.audience,
        "clock": system.clock.now(),
        "next_due": system.next_due(),
        "schedules": [{"name": name, "at": at} for at, name in system.schedules.upcoming()],
        "queues": system.sqs.depths(),
        "routes": [route.key for route in system.gateway.api.routes],
        "invocations": {name: count for name, count in system.functions.invocations.items() if count},
        "failures": [
            {"function": failure.function, "error": failure.error, "at": failure.at}
            for failure in list(system.functions.failures)[-RECENT:]
        ],
        "webhooks": [
            {"event": each.event, "type": each.type, "status": each.status, "at": each.at}
            for each in list(system.delivered)[-RECENT:]
        ],
    }


def _state(system: "System", request: Request, _query: dict[str, list[str]]) -> Response:
    found = state(system)
    if "text/html" not in (request.header("accept") or ""):
        return _json(found)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td><pre>{html.escape(json.dumps(value, indent=1, default=_text))}</pre></td>"
        for name, value in found.items()
    )
    page = f"<!doctype html><meta charset=utf-8><title>Local system</title><table>{rows}</table>"
    headers = [("content-type", "text/html; charset=utf-8"), ("content-security-policy", "default-src 'none'")]
    return Response(200, headers, page.encode())


def _clock(system: "System", request: Request, _query: dict[str, list[str]]) -> Response:
    """`{"to": RFC 3339}` or `{"by": seconds}`: run the system forward to there."""
    asked = _body(request)
    try:
        if "to" in asked:
            target = datetime.fromisoformat(asked["to"])
        else:
            target = system.clock.now() + timedelta(seconds=float(asked["by"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, 'say {"to": "2030-01-01T00:00:00Z"} or {"by": 3600}') from None
    if target.tzinfo is None:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the time needs its zone, as in 2030-01-01T00:00:00Z")
    if target < system.clock.now():
        raise _RefusedError(HTTPStatus.CONFLICT, "the clock only goes forward")
    system.run_until(target.astimezone(UTC))
    return _json({"clock": system.clock.now(), "next_due": system.next_due()})


def _tokens(system: "System", request: Request, _query: dict[str, list[str]]) -> Response:
    """`{"user", "organization", "plan", "roles", "auth_time", "scope"}`, all but the first two with defaults."""
    asked = _body(request)
    wanted: dict[str, Any] = {name: asked[name] for name in ("plan", "roles", "scope") if name in asked}
    try:
        if "auth_time" in asked:
            wanted["auth_time"] = datetime.fromisoformat(asked["auth_time"])
        token = system.identity.token(str(asked["user"]), str(asked["organization"]), **wanted)
    except (KeyError, TypeError, ValueError):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, 'say at least {"user": …, "organization": …}') from None
    return _json({"access_token": token, "token_type": "Bearer", "expires_in": 3600})


def _events(system: "System", _request: Request, query: dict[str, list[str]]) -> Response:
    """Events on the bus from position `after` on, oldest first."""
    after = query.get("after", ["0"])[0]
    if not after.isdigit():
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "after is a position")
    events = [
        {"id": each.id, "source": each.source, "type": each.detail_type, "detail": each.detail, "at": each.at}
        for each in system.outbox(int(after))
    ]
    return _json({"events": events, "next": system.events.total})


def _failures(system: "System", _request: Request, _query: dict[str, list[str]]) -> Response:
    return _json(
        [{"function": f.function, "error": f.error, "at": f.at, "trace": f.trace} for f in system.functions.failures]
    )


def _object(system: "System", name: str, query: dict[str, list[str]]) -> Response:
    bucket, _, key = name.partition("/")
    until = query.get("until", ["0"])[0]
    if not until.isdigit() or system.clock.now().timestamp() > int(until):
        raise _RefusedError(HTTPStatus.FORBIDDEN, "the link has expired")
    found = system.s3.objects.get((bucket, key))
    if found is None:
        raise _RefusedError(HTTPStatus.NOT_FOUND, "no such object")
    return Response(200, [("content-type", found[1])], found[0])


type _Route = Callable[["System", Request, dict[str, list[str]]], Response]

_ROUTES: dict[tuple[str, str], _Route] = {
    ("GET", "/_local"): _state,
    ("POST", "/_local/clock"): _clock,
    ("POST", "/_local/tokens"): _tokens,
    ("POST", "/_local/identity/token"): _tokens,
    ("GET", "/_local/events"): _events,
    ("GET", "/_local/failures"): _failures,
    ("GET", "/_local/identity/.well-known/openid-configuration"): lambda system, _r, _q: _json(
        system.identity.configuration()
    ),
    ("GET", "/_local/identity/.well-known/jwks.json"): lambda system, _r, _q: _json(system.identity.keys()),
}
