"""Stripe's events from the queue: fetch the object's latest state and apply it."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.errors import ProviderBusy
from monetize.services.applying import apply

logger = Logger()
tracer = Tracer()
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS)

LONGEST_WAIT = 900  # SQS's limit for a delay


def _one(record: SQSRecord) -> None:
    message: dict[str, Any] = record.json_body
    event, tries = str(message["event"]), int(message.get("tries", 0))
    try:
        outcome = apply(event, wiring.clock().now(), wiring.applying())
    except ProviderBusy:
        # An hour without Stripe is no poison: the event waits outside the count that leads to the dead letters.
        again, group = {"event": event, "tries": tries + 1}, record.attributes.message_group_id
        wiring.stripe_events_queue().send(again, delay_seconds=min(LONGEST_WAIT, 15 * 2**tries), group=group)
        outcome = "stripe_unavailable"
    metrics.add_metric(f"StripeEvent_{outcome}", MetricUnit.Count, 1)
    logger.info("stripe event", extra={"event_id": event, "outcome": outcome})


@metrics.log_metrics
@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    return process_partial_response(event=event, record_handler=_one, processor=processor, context=context)
