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
    told, again = publish(bus.changes(event["Records"]), bus)
    if told:
        metrics.add_metric("EventsPublished", MetricUnit.Count, told)
    if again is None:
        return {"batchItemFailures": []}
    logger.warning("the bus refused an event", extra={"position": again})
    return {"batchItemFailures": [{"itemIdentifier": again}]}
