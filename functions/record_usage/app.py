"""Usage events in. Their path imports no resolver and no schema library; the other routes load theirs when asked."""

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.errors import Refusal, Unauthenticated, Unavailable
from monetize.domain.keys import hashed
from monetize.http import gateway, plain
from monetize.services.metering import Intake, Taken, read_events, take

logger = Logger()
metrics = Metrics()
intake = Intake()

PARTITIONS = 64
SETTLE_SECONDS = 10.0
KEPT_SECONDS = 2.0  # of the function's time, for the answer


class TimeLeft:
    """Waits for conflicts to pass, as long as the invocation lasts."""

    def __init__(self, context: Any, sleep: Callable[[float], None] = time.sleep) -> None:
        self._context = context
        self._sleep = sleep
        self.waits = 0

    def left(self) -> float:
        """Seconds until the answer must go out."""
        return float(self._context.get_remaining_time_in_millis()) / 1000 - KEPT_SECONDS

    def wait(self, seconds: float) -> None:
        """Let others finish."""
        self.waits += 1
        self._sleep(seconds)


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    if "compact" in event:
        return _compact(context)
    if not event["rawPath"].endswith("/usage/events"):
        return _for_people(event, context)
    try:
        taken = _take(event, context)
    except Refusal as refusal:
        metrics.add_metric("UsageRefused", MetricUnit.Count, 1)
        metrics.flush_metrics()
        logger.warning("usage refused", extra={"code": refusal.code})
        return plain.problem(refusal)
    metrics.flush_metrics()
    if taken.retry:
        # Only what is durable may be answered with success: the same batch, sent again, finds what was stored.
        return plain.problem(
            Unavailable("not_all_stored", "Send this batch again, unchanged.", retry_after=1, **taken.document())
        )
    return gateway.reply(taken.document())


def _take(event: dict[str, Any], context: LambdaContext) -> Taken:
    now = wiring.clock().now()
    ports = wiring.metering()
    publisher = publisher_of(event)
    events, unreadable = read_events(gateway.body(event), event["headers"].get("content-type", ""))
    patience = TimeLeft(context)
    taken = take(
        events,
        unreadable,
        publisher=publisher,
        key=gateway.idempotency_key(event),
        now=now,
        ports=ports,
        intake=intake,
        patience=patience,
    )
    metrics.add_metric("EventsAccepted", MetricUnit.Count, taken.accepted)
    for name, count in (
        ("EventsLate", taken.late),
        ("EventsDuplicate", taken.duplicates),
        ("EventsConflicting", len(taken.conflicts)),
        ("EventsRejected", len(taken.rejected)),
        ("EventsNotStored", len(taken.retry)),
        ("UsageConflicts", patience.waits),
    ):
        if count:
            metrics.add_metric(name, MetricUnit.Count, count)
    return taken


def _compact(context: LambdaContext) -> dict[str, Any]:
    """The schedule: settle closed days, and open ones near a hard quota, as far as the time reaches."""
    from monetize.services.counting import compact_due

    time_left = TimeLeft(context)
    done = 0
    ports = wiring.counting()
    partitions = list(range(PARTITIONS))
    random.shuffle(partitions)  # when the time is too short for all, it is short for other ones next time
    for partition in partitions:
        if time_left.left() < SETTLE_SECONDS:
            break
        done += compact_due(partition, wiring.clock().now(), ports)
    return {"compacted": done}


def publisher_of(event: dict[str, Any]) -> str:
    """The tenant of a gateway key or of verified claims."""
    key = gateway.gateway_key(event)
    if key is None:
        return gateway.tenant(event)
    found = wiring.entitlement_facts().gateway(hashed(key), wiring.clock().now())
    if found is None:
        raise Unauthenticated("unknown_gateway_key", "This gateway key is not known.")
    publisher: str = found.publisher
    return publisher


def _for_people(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    from monetize.http import resolver

    # A correction's Idempotency-Key is its name for ever, kept in the ledger: the 24-hour store is not for it.
    natural = event["rawPath"].endswith("/usage/corrections")
    return resolver.answer(people(), event, context, dynamodb=None if natural else wiring.dynamodb())


@cache
def people() -> Any:
    """The resolver of the routes that people use: corrections, rejected events. Made at their first request."""
    from http import HTTPStatus

    from monetize.http import resolver, schemas, usage_schemas
    from monetize.http.caller import GATEWAY, PUBLISHER_ADMIN, PUBLISHER_VIEWER
    from monetize.services import counting, resubmitting

    app = resolver.build()

    @app.post(
        "/usage/corrections",
        summary="Add or take away usage of a day",
        tags=["usage"],
        status_code=201,
    )
    def post_correction(
        body: usage_schemas.CorrectionRequest,
    ) -> usage_schemas.Response[usage_schemas.CorrectionResponse]:
        who = resolver.who(app, PUBLISHER_ADMIN)
        order = counting.CorrectionOrder(
            publisher=who.organization,
            subscription=body.subscription,
            meter=body.meter,
            day=body.day,
            quantity=body.quantity,
            reason=body.reason,
            author=who.user,
            key=resolver.idempotency_key(app),
        )
        made, outcome = counting.correct(order, wiring.clock().now(), wiring.counting())
        answer = usage_schemas.CorrectionResponse(
            id=made.id,
            subscription=body.subscription,
            meter=body.meter,
            day=body.day,
            quantity=body.quantity,
            reason=body.reason,
            outcome=outcome,
        )
        return resolver.reply(answer, status=HTTPStatus.CREATED)

    @app.get("/usage/rejected", summary="Events that were refused in the last 30 days", tags=["usage"])
    def get_rejected(
        limit: usage_schemas.Limit = 20, cursor: str | None = None
    ) -> usage_schemas.Response[usage_schemas.RejectedPage]:
        who = resolver.who(app, PUBLISHER_ADMIN, PUBLISHER_VIEWER, GATEWAY)
        after = schemas.from_cursor(cursor)
        lots, following = wiring.usage().rejected(who.organization, wiring.clock().now(), after=after, limit=limit)
        items = tuple(usage_schemas.RejectedLot.of(*lot) for lot in lots)
        return resolver.reply(usage_schemas.RejectedPage(items=items, cursor=schemas.to_cursor(following)))

    @app.post("/usage/rejected/resubmit", summary="Try refused events again", tags=["usage"])
    def post_resubmit(body: usage_schemas.ResubmitRequest) -> usage_schemas.Response[usage_schemas.TakenResponse]:
        who = resolver.who(app, PUBLISHER_ADMIN, GATEWAY)
        taken = resubmitting.resubmit(
            body.lots,
            publisher=who.organization,
            now=wiring.clock().now(),
            ports=wiring.metering(),
            store=wiring.usage(),
            intake=intake,
            patience=TimeLeft(app.lambda_context),
        )
        return resolver.reply(usage_schemas.TakenResponse.model_validate(taken.document()))

    return app
