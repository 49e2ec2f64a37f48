"""What every refusal looks like: RFC 9457 problem documents, and the one table from kind to status.

Imports nothing but the standard library, so that the functions on the hot path stay quick to start.
"""

import json
from http import HTTPStatus

from monetize.domain import errors
from monetize.domain.errors import Refusal

CONTENT_TYPE = "application/problem+json"

STATUS: dict[type[Refusal], HTTPStatus] = {
    errors.Malformed: HTTPStatus.BAD_REQUEST,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.StepUpRequired: HTTPStatus.UNAUTHORIZED,
    errors.UpgradeRequired: HTTPStatus.PAYMENT_REQUIRED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.PreconditionRequired: HTTPStatus.PRECONDITION_REQUIRED,
    errors.TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(refusal: Refusal) -> HTTPStatus:
    """The status of a refusal: its own kind's, or the nearest kind it descends from."""
    for kind in type(refusal).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    raise TypeError(f"{type(refusal).__name__} has no status")


def document(refusal: Refusal) -> dict[str, object]:
    """The problem document's members."""
    status = status_of(refusal)
    return {
        **refusal.members,
        "type": f"urn:api-monetization:problem:{refusal.code}",
        "title": status.phrase,
        "status": int(status),
        "detail": refusal.detail,
        "code": refusal.code,
    }


def headers(refusal: Refusal) -> dict[str, str]:
    """The headers that the status calls for."""
    chosen = {"Cache-Control": "no-store"}
    if isinstance(refusal, errors.StepUpRequired):
        max_age = refusal.members.get("max_age", 300)
        chosen["WWW-Authenticate"] = (
            f'Bearer error="insufficient_user_authentication", error_description="{refusal.detail}", '
            f'max_age="{max_age}"'
        )
    elif isinstance(refusal, errors.Unauthenticated):
        chosen["WWW-Authenticate"] = "Bearer"
    if isinstance(refusal, errors.TooMany | errors.Unavailable) and "retry_after" in refusal.members:
        chosen["Retry-After"] = str(refusal.members["retry_after"])
    return chosen


def body(refusal: Refusal) -> str:
    """The problem document as JSON text."""
    return json.dumps(document(refusal), default=str)


def problem(refusal: Refusal) -> dict[str, object]:
    """The whole answer, as API Gateway takes it from a function."""
    return {
        "statusCode": int(status_of(refusal)),
        "headers": {"Content-Type": CONTENT_TYPE, **headers(refusal)},
        "body": body(refusal),
        "isBase64Encoded": False,
    }
