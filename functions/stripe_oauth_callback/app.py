"""Stripe sends the browser back here: end the OAuth redirect, park the result, send the browser to the portal."""

from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlencode

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.http import resolver
from monetize.services import onboarding

logger = Logger()
tracer = Tracer()
app = resolver.build()

Text = Annotated[str | None, Query(max_length=500)]


@app.get("/stripe/oauth/callback", summary="End of Stripe's authorization", tags=["onboarding"], status_code=303)
def get_callback(
    state: Text = None, code: Text = None, error: Text = None, scope: Text = None, error_description: Text = None
) -> Response[None]:
    """The completion token travels in the fragment: it reaches the portal's page, and no server or log."""
    del scope, error_description  # Stripe sends them; the token request tells the scope that holds
    done = onboarding.returned(state, code, error, wiring.clock().now(), wiring.onboarding())
    fragment = {"monetization": done.outcome}
    if done.completion is not None:
        fragment["completion"] = done.completion
    return Response(
        status_code=int(HTTPStatus.SEE_OTHER),
        headers={
            "Location": f"{wiring.portal()}{done.return_to}#{urlencode(fragment)}",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        },
    )


@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return resolver.answer(app, event, context)
