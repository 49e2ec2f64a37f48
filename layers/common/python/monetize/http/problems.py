"""Refusals as Powertools' resolver answers them."""

from aws_lambda_powertools.event_handler import Response

from monetize.domain.errors import Refusal
from monetize.http import plain


def response(refusal: Refusal) -> Response[str]:
    """The whole answer, with the headers that the status calls for."""
    return Response(
        status_code=int(plain.status_of(refusal)),
        content_type=plain.CONTENT_TYPE,
        body=plain.body(refusal),
        headers={**plain.headers(refusal)},
    )
