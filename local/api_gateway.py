"""API Gateway's HTTP API on this machine: routes, JWT authorizer, CORS, payload format 2.0 and its fixed refusals.

What it imitates: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api.html, with the quotas of
`http-api-quotas.html`. Where the documentation is silent (the path is handed over decoded, claims are rendered as Go
prints them), it does what the service was seen to do.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from threading import Lock
from time import monotonic
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import jwt

from local.loopback import Headers, Request, Response
from local.stack import ACCOUNT, Api, Cors, JwtAuthorizer, Route, Throttle

MAX_REQUEST = 10 * 1024 * 1024
MAX_PAYLOAD = 6 * 1024 * 1024
API_ID = "local"
TEXT_TYPES = frozenset({"application/json", "application/javascript", "application/xml"})
DROPPED_HEADERS = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})
KEPT_TOKENS = 4096


class Now(Protocol):
    """Anything that tells the time."""

    def now(self) -> datetime: ...


type Invoke = Callable[[str, dict[str, Any]], Any]
type FindKey = Callable[[str, str], Any]
"""(issuer, key id) to a public key; raises KeyError for an unknown one."""


class InvocationError(Exception):
    """The function raised, timed out or answered what Lambda cannot carry."""


@dataclass(frozen=True, slots=True)
class _Matcher:
    """A route with its path taken apart. `rank` sorts the more specific first."""

    route: Route
    segments: tuple[tuple[str, str], ...]
    rank: tuple[tuple[int, ...], int]

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """The path's variables, still encoded; None when the route is not meant."""
        found: dict[str, str] = {}
        for at, (kind, name) in enumerate(self.segments):
            if kind == "greedy":
                rest = "/".join(parts[at:])
                if not rest:
                    return None
                found[name] = rest
                return found
            if at >= len(parts):
                return None
            if kind == "variable":
                if not parts[at]:
                    return None
                found[name] = parts[at]
            elif parts[at] != name:
                return None
        return found if len(parts) == len(self.segments) else None


def _matcher(route: Route) -> _Matcher:
    segments: list[tuple[str, str]] = []
    for part in route.path.strip("/").split("/"):
        if part.startswith("{") and part.endswith("+}"):
            segments.append(("greedy", part[1:-2]))
        elif part.startswith("{"):
            segments.append(("variable", part[1:-1]))
        else:
            segments.append(("static", part))
    order = {"static": 0, "variable": 1, "greedy": 2}
    return _Matcher(route, tuple(segments), (tuple(order[kind] for kind, _ in segments), route.method == "ANY"))


class Router:
    """Which route a request takes: static before variable before greedy, its own method before ANY, then $default."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._default = next((route for route in routes if route.path == "$default"), None)
        declared = [route for route in routes if route.path != "$default"]
        self._static = {(route.method, route.path): route for route in declared if "{" not in route.path}
        self._variable = sorted((_matcher(route) for route in declared if "{" in route.path), key=lambda m: m.rank)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and its path variables, decoded; `path` is still encoded."""
        static = self._static.get((method, path)) or self._static.get(("ANY", path))
        if static is not None:
            return static, {}
        parts = path.split("/")[1:]
        for matcher in self._variable:
            if matcher.route.method in {method, "ANY"}:
                found = matcher.match(parts)
                if found is not None:
                    return matcher.route, {name: unquote(value) for name, value in found.items()}
        return (self._default, {}) if self._default is not None else None


def claim_text(value: Any) -> str:
    """A claim as HTTP API hands it over: always text, arrays as `[a b]`, objects as `map[k:v]`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, list):
        return f"[{' '.join(claim_text(item) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{claim_text(value[key])}' for key in sorted(value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


class _DeniedError(Exception):
    def __init__(self, status: int, challenge: str) -> None:
        super().__init__(challenge)
        self.status = status
        self.challenge = challenge


class _Authority:
    """Verifies tokens: signature once per token, times by the clock every time."""

    def __init__(self, clock: Now, find_key: FindKey) -> None:
        self._clock = clock
        self._find_key = find_key
        self._verified: dict[tuple[str, str], dict[str, Any]] = {}

    def authorize(self, authorizer: JwtAuthorizer, scopes: Sequence[str], header: str | None) -> dict[str, Any]:
        """`requestContext.authorizer`, or raises _DeniedError."""
        if not header:
            raise _DeniedError(401, "Bearer")
        scheme, _, rest = header.partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else header
        claims = self._claims(authorizer, token)
        self._check(authorizer, claims)
        held = str(claims.get("scope") or claims.get("scp") or "").split()
        if isinstance(claims.get("scp"), list):
            held = [str(scope) for scope in claims["scp"]]
        if scopes and not set(scopes) & set(held):
            raise _DeniedError(403, f'Bearer scope="{" ".join(scopes)}" error="insufficient_scope"')
        rendered = {name: claim_text(value) for name, value in claims.items()}
        return {"jwt": {"claims": rendered, "scopes": [s for s in held if s in scopes] if scopes else None}}

    def _claims(self, authorizer: JwtAuthorizer, token: str) -> dict[str, Any]:
        known = self._verified.get((authorizer.issuer, token))
        if known is not None:
            return known
        try:
            key = self._find_key(authorizer.issuer, jwt.get_unverified_header(token).get("kid", ""))
            options: Any = {f"verify_{each}": False for each in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
            claims = jwt.decode(token, key, algorithms=["RS256"], options=options)
        except (jwt.InvalidTokenError, KeyError):
            raise _invalid_token("signature") from None
        if len(self._verified) >= KEPT_TOKENS:
            self._verified.clear()
        self._verified[authorizer.issuer, token] = claims
        return claims

    def _check(self, authorizer: JwtAuthorizer, claims: Mapping[str, Any]) -> None:
        now = self._clock.now().timestamp()
        if claims.get("iss") != authorizer.issuer:
            raise _invalid_token("invalid issuer")
        named = claims.get("aud", claims.get("client_id", ""))
        if not set(authorizer.audience) & set(named if isinstance(named, list) else [named]):
            raise _invalid_token("invalid audience")
        if not isinstance(claims.get("exp"), int) or now >= claims["exp"]:
            raise _invalid_token("the token has expired")
        if now < claims.get("nbf", 0) or int(now) < claims.get("iat", 0):
            raise _invalid_token("the token is not valid yet")


def _invalid_token(why: str) -> _DeniedError:
    return _DeniedError(401, f'Bearer scope="" error="invalid_token" error_description="{why}"')


class _Bucket:
    """A token bucket on the machine's own clock: throttles are about its load, not about the world's time."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._tokens = float(throttle.burst)
        self._at = monotonic()
        self._lock = Lock()

    def take(self) -> bool:
        with self._lock:
            now = monotonic()
            self._tokens = min(self._throttle.burst, self._tokens + (now - self._at) * self._throttle.rate)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class ApiGateway:
    """One HTTP API. `invoke(function, event)` calls a function by its logical id and raises InvocationError.

    `stopwatch` measures how long functions take, in seconds; `throttled` turns the template's throttles on.
    """

    def __init__(
        self,
        api: Api,
        invoke: Invoke,
        clock: Now,
        find_key: FindKey,
        *,
        domain: str = "127.0.0.1",
        stopwatch: Callable[[], float] = monotonic,
        throttled: bool = False,
    ) -> None:
        self.api = api
        self._invoke = invoke
        self._clock = clock
        self._authority = _Authority(clock, find_key)
        self._router = Router(api.routes)
        self._domain = domain
        self._stopwatch = stopwatch
        self._buckets = {key: _Bucket(value) for key, value in api.throttles.items()} if throttled else {}
        self._numbers = count(1)

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        request_id = f"local{next(self._numbers):010d}="
        origin = request.header("origin")
        response = self._answer(request, request_id, origin)
        headers = [*response.headers, ("apigw-requestid", request_id)]
        if self.api.cors is not None and origin is not None:
            headers = [(name, value) for name, value in headers if not name.startswith("access-control-")]
            headers += _cors_headers(self.api.cors, origin, preflight=response.status == 204 and _is_preflight(request))
        return Response(response.status, headers, response.body)

    def _answer(self, request: Request, request_id: str, origin: str | None) -> Response:
        if self.api.cors is not None and origin is not None and _is_preflight(request):
            return Response(204)
        if len(request.body) > MAX_REQUEST:
            return _refusal(413, "Request Entity Too Large")
        path, _, query = request.target.partition("?")
        inner = self._inside_stage(path)
        found = self._router.find(request.method, inner) if inner is not None else None
        if found is None:
            return _refusal(404, "Not Found")
        route, variables = found
        authorizer: dict[str, Any] | None = None
        if route.authorizer is not None:
            try:
                authorizer = self._authority.authorize(
                    route.authorizer, route.scopes, request.header(route.authorizer.header)
                )
            except _DeniedError as denied:
                message = "Unauthorized" if denied.status == 401 else "Forbidden"
                return _refusal(denied.status, message, ("www-authenticate", denied.challenge))
        bucket = self._buckets.get(route.key) or self._buckets.get("$default")
        if bucket is not None and not bucket.take():
            return _refusal(429, "Too Many Requests")
        event = self._event(request, request_id, path, query, route, variables, authorizer)
        return self._integrate(route, event)

    def _inside_stage(self, path: str) -> str | None:
        if self.api.stage == "$default":
            return path
        prefix = f"/{self.api.stage}"
        return (path[len(prefix) :] or "/") if path == prefix or path.startswith(f"{prefix}/") else None

    def _integrate(self, route: Route, event: dict[str, Any]) -> Response:
        started = self._stopwatch()
        try:
            if len(event.get("body", "")) > MAX_PAYLOAD // 2 and len(json.dumps(event).encode()) > MAX_PAYLOAD:
                return _refusal(413, "Request Entity Too Large")
            response = _response(self._invoke(route.function, event))
        except InvocationError:
            response = _refusal(500, "Internal Server Error")
        return response if self._stopwatch() - started <= route.timeout else _refusal(503, "Service Unavailable")

    def _event(
        self,
        request: Request,
        request_id: str,
        path: str,
        query: str,
        route: Route,
        variables: Mapping[str, str],
        authorizer: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        now = self._clock.now()
        headers, cookies = _merged(request.headers)
        raw_path = unquote(path)
        headers.setdefault("content-length", str(len(request.body)))
        headers.setdefault("host", self._domain)
        headers.setdefault("x-forwarded-for", request.source_ip)
        headers.setdefault("x-forwarded-port", "443")
        headers.setdefault("x-forwarded-proto", "https")
        headers.setdefault("x-amzn-trace-id", f"Root=1-{int(now.timestamp()):08x}-{request_id[5:15]:0>24}")
        context: dict[str, Any] = {
            "accountId": ACCOUNT,
            "apiId": API_ID,
            "domainName": self._domain,
            "domainPrefix": self._domain.partition(".")[0],
            "http": {
                "method": request.method,
                "path": raw_path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": route.key,
            "stage": self.api.stage,
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now.timestamp() * 1000),
        }
        if authorizer is not None:
            context["authorizer"] = authorizer
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": route.key,
            "rawPath": raw_path,
            "rawQueryString": query,
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": False,
        }
        if cookies:
            event["cookies"] = cookies
        if query:
            event["queryStringParameters"] = _parameters(query)
        if variables:
            event["pathParameters"] = dict(variables)
        if request.body:
            if _is_text(headers.get("content-type", "")):
                event["body"] = request.body.decode("utf-8", "replace")
            else:
                event["body"] = base64.b64encode(request.body).decode("ascii")
                event["isBase64Encoded"] = True
        return event


def _merged(pairs: Headers) -> tuple[dict[str, str], list[str]]:
    """Headers with repeated ones joined by commas, and the cookies, which are kept apart."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in pairs:
        if name == "cookie":
            cookies.extend(part.strip() for part in value.split(";") if part.strip())
        elif name in headers:
            headers[name] = f"{headers[name]},{value}"
        else:
            headers[name] = value
    return headers, cookies


def _parameters(query: str) -> dict[str, str]:
    """Query parameters, decoded, repeated ones joined by commas."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _is_text(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence.startswith("text/") or essence in TEXT_TYPES


def _is_preflight(request: Request) -> bool:
    return request.method == "OPTIONS" and request.header("access-control-request-method") is not None


def _allowed_origin(cors: Cors, origin: str) -> str | None:
    for allowed in cors.origins:
        if allowed == "*":
            return "*"
        if allowed == origin or (allowed.endswith("://*") and origin.startswith(allowed[:-1])):
            return origin
    return None


def _cors_headers(cors: Cors, origin: str, *, preflight: bool) -> Headers:
    allowed = _allowed_origin(cors, origin)
    if allowed is None:
        return []
    headers = [("access-control-allow-origin", allowed)]
    if cors.credentials:
        headers.append(("access-control-allow-credentials", "true"))
    if cors.exposed:
        headers.append(("access-control-expose-headers", ",".join(cors.exposed)))
    if preflight:
        if cors.methods:
            headers.append(("access-control-allow-methods", ",".join(cors.methods)))
        if cors.headers:
            headers.append(("access-control-allow-headers", ",".join(cors.headers)))
        if cors.max_age is not None:
            headers.append(("access-control-max-age", str(cors.max_age)))
    return headers


def _refusal(status: int, message: str, *headers: tuple[str, str]) -> Response:
    body = json.dumps({"message": message}, separators=(",", ":")).encode()
    return Response(status, [("content-type", "application/json"), *headers], body)


def _response(result: Any) -> Response:
    """The function's answer as HTTP: the full form, or inferred from anything else that is JSON."""
    try:
        if not isinstance(result, dict) or "statusCode" not in result:
            return Response(200, [("content-type", "application/json")], _inferred(result))
        return _full(result)
    except (TypeError, ValueError, OverflowError, binascii.Error):
        return _refusal(500, "Internal Server Error")


def _inferred(result: Any) -> bytes:
    body = result if isinstance(result, str) else json.dumps(result, separators=(",", ":"))
    if len(body.encode()) > MAX_PAYLOAD:
        raise ValueError("the response is too large")
    return body.encode()


def _full(result: Mapping[str, Any]) -> Response:
    status = int(result["statusCode"])
    if not 100 <= status <= 599:
        raise ValueError("no HTTP status")
    headers: Headers = []
    for name, value in (result.get("headers") or {}).items():
        if not isinstance(value, str | int | float):
            raise TypeError(f"header {name} is no text")
        lowered = str(name).lower()
        if lowered not in DROPPED_HEADERS:
            headers.append((lowered, claim_text(value)))
    headers += [("set-cookie", str(cookie)) for cookie in result.get("cookies") or ()]
    text = result.get("body") or ""
    if not isinstance(text, str):
        raise TypeError("the body is no text")
    if len(text) > MAX_PAYLOAD // 2 and len(json.dumps(result).encode()) > MAX_PAYLOAD:
        raise ValueError("the response is too large")
    body = base64.b64decode(text, validate=True) if result.get("isBase64Encoded") else text.encode()
    if text and not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", "text/plain;charset=UTF-8"))
    return Response(status, headers, body)
