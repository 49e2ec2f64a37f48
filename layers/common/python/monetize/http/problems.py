"""What every refusal looks like: RFC 9457 problem documents, and the one table from kind to status."""

import json
from http import HTTPStatus

from aws_lambda_powertools.event_handler import Response

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


def response(refusal: Refusal) -> Response[str]:
    """The whole answer, with the headers that the status calls for."""
    headers: dict[str, str | list[str]] = {"Cache-Control": "no-store"}
    if isinstance(refusal, errors.StepUpRequired):
        max_age = refusal.members.get("max_age", 300)
        headers["WWW-Authenticate"] = (
            f'Bearer error="insufficient_user_authentication", error_description="{refusal.detail}", '
            f'max_age="{max_age}"'
        )
    elif isinstance(refusal, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(refusal, errors.TooMany | errors.Unavailable) and "retry_after" in refusal.members:
        headers["Retry-After"] = str(refusal.members["retry_after"])
    return Response(
        status_code=int(status_of(refusal)),
        content_type=CONTENT_TYPE,
        body=json.dumps(document(refusal), default=str),
        headers=headers,
    )
