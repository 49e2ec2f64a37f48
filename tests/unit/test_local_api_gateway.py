"""The HTTP API stand-in behaves as API Gateway does: what it matches, hands over, maps back and refuses."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from local.api_gateway import ApiGateway, InvocationError, Router, claim_text
from local.clock import Clock
from local.identity import Identity
from local.loopback import Request, Response
from local.stack import Api, Cors, JwtAuthorizer, Route, Throttle

ISSUER = "http://issuer.test"
AUTHORIZER = JwtAuthorizer(name="Jwt", issuer=ISSUER, audience=("portal",))
CORS = Cors(
    origins=("https://portal.test",),
    methods=("GET", "POST"),
    headers=("authorization",),
    exposed=("ETag", "Location"),
    credentials=False,
    max_age=600,
)


def route(method: str, path: str, *, function: str = "F", scopes: tuple[str, ...] = (), open_: bool = True) -> Route:
    return Route(method=method, path=path, function=function, authorizer=None if open_ else AUTHORIZER, scopes=scopes)


class World:
    """A gateway over one recording function."""

    def __init__(
        self, *routes: Route, cors: Cors | None = None, stage: str = "$default", answer: Any = None, **options: Any
    ) -> None:
        self.clock = Clock(datetime(2026, 3, 12, 19, 3, 58, tzinfo=UTC))
        self.identity = Identity(ISSUER, "portal", self.clock)
        self.events: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Any] = lambda _event: {"statusCode": 200} if answer is None else answer
        throttles = options.pop("throttles", {})
        api = Api(stage=stage, routes=routes, cors=cors, throttles=throttles)
        self.gateway = ApiGateway(api, self.invoke, self.clock, self.identity.find_key, **options)

    def invoke(self, _function: str, event: dict[str, Any]) -> Any:
        self.events.append(event)
        return self.answer(event)

    def get(self, target: str = "/x", method: str = "GET", body: bytes = b"", **headers: str) -> Response:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return self.gateway.handle(Request(method, target, named, body))

    def sent(self, target: str = "/x", method: str = "POST", body: bytes = b"", **headers: str) -> dict[str, Any]:
        self.get(target, method, body, **headers)
        return self.events[-1]


def refusal(response: Response) -> tuple[int, bytes]:
    return response.status, response.body


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/pets/dog/1", "GET /pets/dog/1"),
        ("GET", "/pets/dog/2", "GET /pets/dog/{id}"),
        ("POST", "/pets/dog/2", "ANY /pets/{proxy+}"),
        ("GET", "/pets/cat/2/tail", "ANY /pets/{proxy+}"),
        ("GET", "/elsewhere", "$default"),
        ("GET", "/pets/", "$default"),
        ("GET", "/pets", "$default"),
    ],
)
def test_the_most_specific_route_that_fits_wins(method: str, path: str, expected: str) -> None:
    declared = [
        route("ANY", "$default"),
        route("ANY", "/pets/{proxy+}"),
        route("GET", "/pets/dog/{id}"),
        route("GET", "/pets/dog/1"),
    ]
    found = Router(declared).find(method, path)
    assert found is not None
    assert found[0].key == expected


def test_a_method_of_its_own_goes_before_any() -> None:
    found = Router([route("ANY", "/a/{x}", function="any"), route("GET", "/a/{x}", function="own")]).find("GET", "/a/1")
    assert found is not None
    assert found[0].function == "own"


def test_an_event_has_every_part_of_payload_format_2() -> None:
    world = World(route("ANY", "/plans/{proxy+}"))
    request = Request(
        "POST",
        "/plans/a%20b/c?tag=x&tag=y&q=%C3%A9&flag",
        [
            ("host", "api.test"),
            ("x-one", "1"),
            ("x-one", "2"),
            ("cookie", "a=1; b=2"),
            ("content-type", "application/json; charset=utf-8"),
            ("user-agent", "test"),
        ],
        b'{"name": "Gold"}',
        "192.0.2.7",
    )
    world.gateway.handle(request)
    event = world.events[0]
    assert event["version"] == "2.0"
    assert event["routeKey"] == "ANY /plans/{proxy+}"
    assert event["rawPath"] == "/plans/a b/c"
    assert event["rawQueryString"] == "tag=x&tag=y&q=%C3%A9&flag"
    assert event["queryStringParameters"] == {"tag": "x,y", "q": "é", "flag": ""}
    assert event["pathParameters"] == {"proxy": "a b/c"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["x-one"] == "1,2"
    assert "cookie" not in event["headers"]
    assert (event["body"], event["isBase64Encoded"]) == ('{"name": "Gold"}', False)
    context = event["requestContext"]
    assert context["http"] == {
        "method": "POST",
        "path": "/plans/a b/c",
        "protocol": "HTTP/1.1",
        "sourceIp": "192.0.2.7",
        "userAgent": "test",
    }
    assert context["time"] == "12/Mar/2026:19:03:58 +0000"
    assert context["timeEpoch"] == 1773342238000
    assert context["stage"] == "$default"
    assert "authorizer" not in context


def test_a_request_without_a_body_has_none() -> None:
    assert "body" not in World(route("GET", "/x")).sent(method="GET")


@pytest.mark.parametrize("kind", ["text/csv", "application/json", "application/xml", "application/javascript"])
def test_text_arrives_as_it_is(kind: str) -> None:
    event = World(route("POST", "/x")).sent(body=b"a", content_type=kind)
    assert (event["body"], event["isBase64Encoded"]) == ("a", False)


@pytest.mark.parametrize(
    "kind", ["application/cloudevents-batch+json", "application/x-www-form-urlencoded", "application/problem+json", ""]
)
def test_every_other_type_arrives_in_base64(kind: str) -> None:
    event = World(route("POST", "/x")).sent(body=b"[]", content_type=kind)
    assert (base64.b64decode(event["body"]), event["isBase64Encoded"]) == (b"[]", True)


def test_an_answer_in_full_is_mapped_back() -> None:
    answer = {
        "statusCode": 201,
        "headers": {"Location": "/x/1", "X-Count": 3, "Content-Length": "999"},
        "cookies": ["a=1", "b=2"],
        "body": base64.b64encode(b"\x00\x01").decode(),
        "isBase64Encoded": True,
    }
    response = World(route("GET", "/x"), answer=answer).get()
    assert response.status == 201
    assert response.body == b"\x00\x01"
    assert ("location", "/x/1") in response.headers
    assert ("x-count", "3") in response.headers
    assert [value for name, value in response.headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert response.header("content-length") is None


def test_an_answer_without_a_status_is_inferred() -> None:
    response = World(route("GET", "/x"), answer={"hello": "world"}).get()
    assert (response.status, response.body) == (200, b'{"hello":"world"}')
    assert response.header("content-type") == "application/json"


@pytest.mark.parametrize(
    "answer",
    [{"statusCode": "no"}, {"statusCode": 200, "body": {"not": "text"}}, {"statusCode": 9}, {1, 2},
     {"statusCode": 200, "body": "!", "isBase64Encoded": True}, {"statusCode": 200, "headers": {"a": []}}],
)  # fmt: skip
def test_an_answer_that_is_no_response_is_an_internal_error(answer: Any) -> None:
    assert refusal(World(route("GET", "/x"), answer=answer).get()) == (500, b'{"message":"Internal Server Error"}')


def test_a_function_that_raises_is_an_internal_error() -> None:
    world = World(route("GET", "/x"))

    def fail(_event: dict[str, Any]) -> Any:
        raise InvocationError("boom")

    world.answer = fail
    assert refusal(world.get()) == (500, b'{"message":"Internal Server Error"}')


def test_a_path_without_a_route_is_not_found() -> None:
    assert refusal(World(route("GET", "/x")).get("/y")) == (404, b'{"message":"Not Found"}')
    assert refusal(World(route("GET", "/x")).get("/x", "POST")) == (404, b'{"message":"Not Found"}')


def test_more_than_10_megabytes_never_reach_the_function() -> None:
    world = World(route("POST", "/x"))
    # Refused before a route is looked for.
    response = world.get("/nowhere", "POST", b"a" * (10 * 1024 * 1024 + 1), content_type="text/plain")
    assert refusal(response) == (413, b'{"message":"Request Entity Too Large"}')
    assert world.get("/nowhere", "POST", b"a" * 10 * 1024 * 1024).status == 404


def test_an_event_of_more_than_6_megabytes_never_reaches_the_function() -> None:
    world = World(route("POST", "/x"))
    # 5 MB are under the gateway's limit and, in base64, over the function's.
    assert world.get(method="POST", body=b"a" * 5 * 1024 * 1024).status == 413
    assert world.get(method="POST", body=b"a" * 5 * 1024 * 1024, content_type="text/plain").status == 200
    assert len(world.events) == 1


def test_an_answer_of_more_than_6_megabytes_is_an_internal_error() -> None:
    big = {"statusCode": 200, "body": "a" * (6 * 1024 * 1024)}
    assert World(route("GET", "/x"), answer=big).get().status == 500


def test_30_seconds_are_the_most_a_function_may_take() -> None:
    times = iter([0.0, 29.9, 100.0, 130.1])
    world = World(route("GET", "/x"), stopwatch=lambda: next(times))
    assert world.get().status == 200
    assert refusal(world.get()) == (503, b'{"message":"Service Unavailable"}')


def test_claims_arrive_as_text() -> None:
    world = World(route("GET", "/x", open_=False))
    token = world.identity.token("ann", "acme", groups=["a", "b"], admin=True, level=3, nested={"k": [1, 2]})
    event = world.sent(method="GET", authorization=f"Bearer {token}")
    claims = event["requestContext"]["authorizer"]["jwt"]["claims"]
    assert claims["organization"] == "acme"
    assert claims["groups"] == "[a b]"
    assert claims["admin"] == "true"
    assert claims["level"] == "3"
    assert claims["nested"] == "map[k:[1 2]]"
    assert claims["auth_time"] == str(int(world.clock.now().timestamp()))
    assert all(isinstance(value, str) for value in claims.values())
    assert event["requestContext"]["authorizer"]["jwt"]["scopes"] is None


def test_null_claims_are_rendered_as_go_does() -> None:
    assert claim_text(None) == "<nil>"


def denied(world: World, header: str | None) -> Response:
    return world.get(authorization=header) if header is not None else world.get()


def test_without_a_token_there_is_a_challenge() -> None:
    response = denied(World(route("GET", "/x", open_=False)), None)
    assert refusal(response) == (401, b'{"message":"Unauthorized"}')
    assert response.header("www-authenticate") == "Bearer"


def test_a_token_ends_by_the_systems_clock() -> None:
    world = World(route("GET", "/x", open_=False))
    token = world.identity.token("ann", "acme", lifetime=timedelta(hours=1))
    assert denied(world, f"Bearer {token}").status == 200
    world.clock.advance(timedelta(hours=1))
    response = denied(world, f"Bearer {token}")
    assert refusal(response) == (401, b'{"message":"Unauthorized"}')
    assert str(response.header("www-authenticate")).startswith('Bearer scope="" error="invalid_token"')


def test_a_token_of_another_audience_issuer_or_key_is_refused() -> None:
    world = World(route("GET", "/x", open_=False))
    other_audience = Identity(ISSUER, "another", world.clock).token("ann", "acme")
    other_issuer = Identity("http://evil.test", "portal", world.clock).token("ann", "acme")
    good = world.identity.token("ann", "acme")
    head, _, signature = good.split(".")
    claims = {**jwt.decode(good, options={"verify_signature": False}), "organization": "other"}
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    none = jwt.encode(claims, "", algorithm="none", headers={"kid": "local-1"})
    for token in (other_audience, other_issuer, f"{head}.{forged}.{signature}", none, "rubbish", "a.b.c"):
        assert denied(world, f"Bearer {token}").status == 401
    assert not world.events


def test_a_token_from_the_future_is_refused() -> None:
    world = World(route("GET", "/x", open_=False))
    later = Identity(ISSUER, "portal", Clock(world.clock.now() + timedelta(minutes=5)))
    assert denied(world, f"Bearer {later.token('ann', 'acme')}").status == 401


def test_a_route_with_scopes_needs_one_of_them() -> None:
    world = World(route("GET", "/x", open_=False, scopes=("usage/write", "usage/all")))
    response = denied(world, f"Bearer {world.identity.token('ann', 'acme', scope='openid')}")
    assert refusal(response) == (403, b'{"message":"Forbidden"}')
    assert "insufficient_scope" in str(response.header("www-authenticate"))
    event = world.sent(
        method="GET", authorization=f"Bearer {world.identity.token('ann', 'acme', scope='openid usage/write')}"
    )
    assert event["requestContext"]["authorizer"]["jwt"]["scopes"] == ["usage/write"]


def test_preflight_is_answered_by_the_gateway_alone() -> None:
    world = World(route("ANY", "/x", open_=False), cors=CORS)
    response = world.get(method="OPTIONS", origin="https://portal.test", access_control_request_method="POST")
    assert response.status == 204
    assert response.header("access-control-allow-origin") == "https://portal.test"
    assert response.header("access-control-allow-methods") == "GET,POST"
    assert response.header("access-control-allow-headers") == "authorization"
    assert response.header("access-control-max-age") == "600"
    assert not world.events


def test_cors_headers_are_the_gateways_and_only_for_its_origins() -> None:
    answer = {"statusCode": 200, "headers": {"Access-Control-Allow-Origin": "*"}, "body": "x"}
    world = World(route("GET", "/x"), cors=CORS, answer=answer)
    allowed = world.get(origin="https://portal.test")
    assert [v for n, v in allowed.headers if n == "access-control-allow-origin"] == ["https://portal.test"]
    assert allowed.header("access-control-expose-headers") == "ETag,Location"
    assert world.get(origin="https://evil.test").header("access-control-allow-origin") is None


def test_a_named_stage_is_part_of_the_path() -> None:
    world = World(route("GET", "/x"), stage="prod")
    assert world.get("/x").status == 404
    assert world.sent("/prod/x", "GET")["rawPath"] == "/prod/x"


def test_a_throttled_route_answers_429_when_asked_to() -> None:
    throttles = {"GET /x": Throttle(rate=0.001, burst=2)}
    world = World(route("GET", "/x"), route("GET", "/y"), throttles=throttles, throttled=True)
    statuses = [world.get().status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert world.get("/y").status == 200
