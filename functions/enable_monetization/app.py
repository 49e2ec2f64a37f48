"""Connect a publisher's Stripe account, enable monetization, show and end it; sweep links nobody confirmed."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.http import resolver
from monetize.http.caller import OPERATOR, PUBLISHER_ADMIN, PUBLISHER_VIEWER, Caller
from monetize.http.onboarding_schemas import (
    ConnectRequest,
    ConnectResponse,
    DisconnectResponse,
    EnableRequest,
    EnableResponse,
    FeeBody,
    PublisherResponse,
    SandboxResponse,
    SettingsBody,
)
from monetize.services import onboarding
from monetize.services.onboarding import Person

logger = Logger()
tracer = Tracer()
metrics = Metrics()
app = resolver.build()

OPERATING = ["operating"]


def _person(caller: Caller) -> Person:
    return Person(caller.user, caller.organization, caller.plan, caller.auth_time)


@app.post("/monetization/connect", summary="Begin connecting a Stripe account", tags=["onboarding"])
def post_connect(body: ConnectRequest) -> ConnectResponse:
    caller = resolver.who(app, PUBLISHER_ADMIN)
    url = onboarding.connect(_person(caller), body.return_to, wiring.clock().now(), wiring.onboarding())
    return ConnectResponse(authorize_url=url)


@app.post("/monetization/enable", summary="Confirm the account and enable monetization", tags=["onboarding"])
def post_enable(body: EnableRequest) -> Response[EnableResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN)
    done = onboarding.enable(_person(caller), body.completion, wiring.clock().now(), wiring.onboarding())
    tiers = [tier.name for tier in done.tiers]
    message = (
        "Monetization is enabled again for your organization."
        if done.resumed
        else f"The configurations required for monetization were added to your organization: tiers {', '.join(tiers)}."
    )
    answer = EnableResponse(message=message, publisher=PublisherResponse.of(done.publisher), tiers=tiers)
    return resolver.reply(answer, rev=done.publisher.rev)


@app.get("/monetization", summary="Monetization of the organization", tags=["onboarding"])
def get_monetization() -> Response[PublisherResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN, PUBLISHER_VIEWER)
    publisher = onboarding.status(caller.organization, wiring.onboarding())
    return resolver.reply(PublisherResponse.of(publisher), rev=publisher.rev)


@app.put("/monetization/settings", summary="How the organization bills", tags=["onboarding"])
def put_settings(body: SettingsBody) -> Response[PublisherResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN)
    rev = resolver.expected_revision(app)
    ports = wiring.onboarding()
    publisher = onboarding.change_settings(_person(caller), body.to_settings(), rev, wiring.clock().now(), ports)
    return resolver.reply(PublisherResponse.of(publisher), rev=publisher.rev)


@app.get("/monetization/publishers/<publisher>/fee", summary="The platform's share of one publisher", tags=OPERATING)
def get_fee(publisher: str) -> Response[FeeBody]:
    resolver.who(app, OPERATOR)
    found = onboarding.any_publisher(publisher, wiring.onboarding())
    return resolver.reply(FeeBody.of(found), rev=found.rev)


@app.put("/monetization/publishers/<publisher>/fee", summary="The platform's share of one publisher", tags=OPERATING)
def put_fee(publisher: str, body: FeeBody) -> Response[FeeBody]:
    """Of the bills that are rated from now on. The publisher sees it in its own status and audit."""
    person, rev = _person(resolver.who(app, OPERATOR)), resolver.expected_revision(app)
    now, ports = wiring.clock().now(), wiring.onboarding()
    after = onboarding.set_fee(person, publisher, body.percent, body.fixed, rev, now, ports)
    return resolver.reply(FeeBody.of(after), rev=after.rev)


@app.post("/monetization/publishers/<publisher>/sandbox", summary="Give one publisher its own clock", tags=OPERATING)
def post_sandbox(publisher: str) -> Response[SandboxResponse]:
    """For ever, in test mode alone, before anybody subscribed: its administrator then moves the clock forward."""
    person, now = _person(resolver.who(app, OPERATOR)), wiring.clock().now()
    made = onboarding.make_sandbox(person, publisher, now, wiring.onboarding())
    return resolver.reply(SandboxResponse.of(made, now), rev=made.rev)


@app.delete("/monetization", summary="Stop billing and let the Stripe account go", tags=["onboarding"])
def delete_monetization() -> Response[DisconnectResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN)
    done = onboarding.disconnect(_person(caller), wiring.clock().now(), wiring.onboarding())
    answer = DisconnectResponse(publisher=PublisherResponse.of(done.publisher), unbilled_subscriptions=done.unbilled)
    return resolver.reply(answer, rev=done.publisher.rev)


@metrics.log_metrics
@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    if event.get("sweep") == "pending_links":
        swept = onboarding.sweep(wiring.clock().now(), wiring.onboarding())
        if swept:  # a metric that came every hour would cost as much as three alarms
            metrics.add_metric("PendingLinksSwept", MetricUnit.Count, swept)
        return {"swept": swept}
    return resolver.answer(app, event, context, dynamodb=wiring.dynamodb(), secret=_holds_a_state)


def _holds_a_state(_method: str, path: str) -> bool:
    """Stripe's address carries the one-time state, which is stored as a hash alone; asking again is harmless."""
    return path.endswith("/connect")
