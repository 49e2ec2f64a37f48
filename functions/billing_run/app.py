"""Find what is due, shard by shard; and what people ask of billing runs."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.http import resolver
from monetize.services import running

logger = Logger()
tracer = Tracer()
metrics = Metrics()
app = resolver.build()


@metrics.log_metrics
@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    if "requestContext" in event:
        return resolver.answer(app, event, context, dynamodb=wiring.dynamodb())
    if wiring.billing_paused():
        metrics.add_metric("BillingPaused", MetricUnit.Count, 1)
        return {"paused": True}
    lost = wiring.billing_queue().send_many(running.shards())
    if lost:
        raise RuntimeError(f"{len(lost)} shards were not enqueued")  # the schedule tries again
    return {"shards": running.SHARDS}
