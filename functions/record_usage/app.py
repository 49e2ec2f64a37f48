"""Usage events in. Their path imports no resolver and no schema library; the other routes load theirs when asked."""

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
    if not event["rawPath"].endswith("/usage/events"):
        return _others()(event, context)
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


@cache
def _others() -> Callable[[dict[str, Any], LambdaContext], dict[str, Any]]:
    """The routes that people use: corrections, rejected events. Made at their first request."""
    raise NotImplementedError
