"""Requests in, answers out: routing, validation, refusals, idempotency, preconditions, the same for every function."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel

from monetize.config import load
from monetize.domain.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotFound,
    PreconditionRequired,
    Refusal,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from monetize.http import caller, plain, problems

MAX_BODY = 256 * 1024
IDEMPOTENCY_SECONDS = 24 * 3600
MAX_KEY = 255
MAX_SEGMENT = 255  # bytes of one part of a path: more cannot be a key of ours, and DynamoDB refuses to look it up


def build() -> APIGatewayHttpResolver:
    """A resolver whose every refusal is a problem document."""
    app = APIGatewayHttpResolver(enable_validation=True, serializer=_json, json_body_deserializer=_read)

    @app.exception_handler(Refusal)  # type: ignore[untyped-decorator]
    def refused(refusal: Refusal) -> Response[str]:
        return problems.response(refusal)

    @app.exception_handler(RequestValidationError)  # type: ignore[untyped-decorator]
    def invalid(error: RequestValidationError) -> Response[str]:
        return problems.response(_invalid(error))

    @app.not_found
    def no_route(_: Exception) -> Response[str]:
        return problems.response(NotFound("no_such_route", "There is no such route."))

    return app


def answer(
    app: APIGatewayHttpResolver,
    event: dict[str, Any],
    context: LambdaContext,
    *,
    dynamodb: Any = None,
    secret: Callable[[str, str], bool] = lambda _method, _path: False,
) -> dict[str, Any]:
    """Resolve one HTTP API event.

    A POST with an `Idempotency-Key` is carried out once in 24 hours: the same key gets the first successful answer
    again, or is refused when the body differs. Keys are the tenant's, the caller's and the route's own. Routes whose
    answers hold a secret (`secret(method, path)`) are not stored here: they keep their own natural key.
    """
    http = event["requestContext"]["http"]
    method, path = http["method"], event["rawPath"]
    body = event.get("body") or ""
    if len(body) > MAX_BODY:
        return plain.problem(TooLarge("body_too_large", f"A body may hold {MAX_BODY} bytes."))
    if any(len(part.encode(errors="replace")) > MAX_SEGMENT for part in path.split("/")):
        return plain.problem(NotFound("no_such_route", "There is no such route."))
    headers = event.get("headers", {})
    media, _, _ = headers.get("content-type", "").partition(";")
    if body and media:
        if media.strip().lower() != "application/json":
            return plain.problem(UnsupportedMedia("unsupported_media_type", "Send application/json."))
        event = {**event, "headers": {**headers, "content-type": "application/json"}}
    key = headers.get("idempotency-key")
    if method != "POST" or key is None or dynamodb is None or secret(method, path):
        return app.resolve(event, context)
    if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
        return plain.problem(Invalid("bad_idempotency_key", f"1 to {MAX_KEY} printable characters."))
    return _once(app, event, context, dynamodb, key)


def _once(
    app: APIGatewayHttpResolver, event: dict[str, Any], context: LambdaContext, dynamodb: Any, key: str
) -> dict[str, Any]:
    """Resolve a POST unless its key was answered; what succeeded is kept under the key."""
    path, body = event["rawPath"], event.get("body") or ""
    claims = event["requestContext"].get("authorizer", {}).get("jwt", {}).get("claims", {})
    whose = [claims.get(load().claim_organization, ""), claims.get("sub", ""), event["routeKey"], path, key]
    config = IdempotencyConfig(
        event_key_jmespath="whose",
        payload_validation_jmespath="[body, query]",
        expires_after_seconds=IDEMPOTENCY_SECONDS,
        hash_function="sha256",
        lambda_context=context,
    )

    def once(request: Mapping[str, Any]) -> dict[str, Any]:
        del request  # only its hash matters here
        answered = app.resolve(event, context)
        if answered["statusCode"] >= HTTPStatus.BAD_REQUEST:
            raise _NotKept(answered)
        return answered

    run = idempotent_function(
        once, data_keyword_argument="request", persistence_store=_store(dynamodb), config=config, key_prefix="http"
    )
    try:
        answered: dict[str, Any] = run(request={"whose": whose, "body": body, "query": event.get("rawQueryString", "")})
    except _NotKept as refused:
        return refused.answered
    except IdempotencyValidationError:
        return plain.problem(Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request."))
    except IdempotencyPersistenceLayerError:
        # What was asked for may be done, unrecorded: whatever makes something has a natural key beside this one.
        return plain.problem(
            Unavailable("storage_busy", "Too much at once: send the same request again.", retry_after=1)
        )
    except IdempotencyAlreadyInProgressError:
        return plain.problem(Conflict("idempotency_key_in_use", "The first request with this key is still running."))
    return answered


class _NotKept(Exception):
    """Carries a refusal past the idempotency store: only what succeeded is answered again."""

    def __init__(self, answered: dict[str, Any]) -> None:
        super().__init__("not kept")
        self.answered = answered


@cache
def _store(dynamodb: Any) -> DynamoDBPersistenceLayer:
    return DynamoDBPersistenceLayer(table_name=load().idempotency_table, boto3_client=dynamodb)


def expected_revision(app: APIGatewayHttpResolver) -> int:
    """The revision named by `If-Match`: an edit must say which state it read (RFC 9110 §13.1.1, RFC 6585 §3)."""
    header = app.current_event.headers.get("if-match")
    if header is None:
        raise PreconditionRequired("if_match_required", "Send If-Match with the ETag you read.")
    tag = header.strip().removeprefix("W/").strip('"')
    if not tag.isascii() or not tag.isdigit():
        raise Malformed("bad_if_match", "If-Match takes one ETag that this API gave.")
    return int(tag)


def idempotency_key(app: APIGatewayHttpResolver) -> str:
    """The client's key, where a request must have one."""
    key: str | None = app.current_event.headers.get("idempotency-key")
    if key is None or not 1 <= len(key) <= MAX_KEY or not key.isprintable():
        raise Malformed("idempotency_key_required", f"Send an Idempotency-Key of 1 to {MAX_KEY} printable characters.")
    return key


def who(app: APIGatewayHttpResolver, *roles: str) -> caller.Caller:
    """The caller, who must have one of `roles`."""
    return caller.of(app).require(*roles)


def reply(
    model: BaseModel,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    rev: int | None = None,
    location: str | None = None,
) -> Response[Any]:
    """An answer with its ETag (the revision) and Location."""
    headers: dict[str, str | list[str]] = {"Cache-Control": "no-store"}
    if rev is not None:
        headers["ETag"] = f'"{rev}"'
    if location is not None:
        headers["Location"] = location
    return Response(status_code=int(status), content_type="application/json", body=model, headers=headers)


def nothing() -> Response[Any]:
    """204."""
    return Response(status_code=int(HTTPStatus.NO_CONTENT))


def _invalid(error: RequestValidationError) -> Refusal:
    found: list[dict[str, str]] = []
    for each in error.errors():
        if each.get("type") == "json_invalid":
            return Malformed("malformed_json", "The body is not JSON.")
        pointer = "/".join(str(part) for part in each.get("loc", ()))
        found.append({"at": pointer, "problem": str(each.get("msg", "invalid"))[:200]})
    return Invalid("invalid_request", "The request does not have the documented form.", errors=found[:20])


def _read(text: str) -> Any:
    """JSON, or the one error that the resolver takes for malformed: too deep and too long a number are no better."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        raise json.JSONDecodeError("unreadable", "", 0) from None


def _json(body: object) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)
