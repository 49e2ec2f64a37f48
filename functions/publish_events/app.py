"""The outbox: changes of the core table become events on the bus."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.services.publishing import publish

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
    del context
    bus = wiring.publishing()
    published = publish(bus.changes(event["Records"]), bus)
    if published.told:
        metrics.add_metric("EventsPublished", MetricUnit.Count, published.told)
    for at, why in published.apart:
        # Neither the record nor the event goes with it: they may hold who somebody is. The stream keeps it for a day.
        wiring.outbox_dead_letters().send({"position": at, "why": why})
        metrics.add_metric("EventsSetApart", MetricUnit.Count, 1)
        logger.error("an event was set apart", extra={"position": at, "why": why})
    if published.again is None:
        return {"batchItemFailures": []}
    logger.warning("the bus refused an event", extra={"position": published.again})
    return {"batchItemFailures": [{"itemIdentifier": published.again}]}
