"""Stripe's events from the queue: fetch the object's latest state and apply it."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.errors import KEY_REFUSED, ProviderBusy
from monetize.services.applying import apply

logger = Logger()
tracer = Tracer()
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS)

LONGEST_WAIT = 900  # SQS's limit for a delay
RESERVE_MILLISECONDS = 30_000  # more than a silent Stripe takes from one event


def _one(record: SQSRecord, lambda_context: LambdaContext) -> None:
    message: dict[str, Any] = record.json_body
    event, tries = str(message["event"]), int(message.get("tries", 0))
    if lambda_context.get_remaining_time_in_millis() < RESERVE_MILLISECONDS:
        # Those before it took too long. Begun now it might not end, and count as a failure of the whole batch.
        _wait(record, event, tries)
        outcome = "handed_back"
    else:
        outcome = _applied(record, event, tries)
    metrics.add_metric(f"StripeEvent_{outcome}", MetricUnit.Count, 1)
    logger.info("stripe event", extra={"event_id": event, "outcome": outcome})


def _applied(record: SQSRecord, event: str, tries: int) -> str:
    try:
        return apply(event, wiring.clock().now(), wiring.applying())
    except ProviderBusy as busy:
        if busy.code == KEY_REFUSED:
            raise  # waiting mends no key: the dead letters and their alarm tell
        _wait(record, event, tries + 1)
        return "stripe_unavailable"


def _wait(record: SQSRecord, event: str, tries: int) -> None:
    """An hour without Stripe is no poison: the event waits outside the count that leads to the dead letters."""
    delay = min(LONGEST_WAIT, 15 * 2 ** max(0, tries - 1))
    again = {"event": event, "tries": tries}
    wiring.stripe_events_queue().send(again, delay_seconds=delay, group=record.attributes.message_group_id)


@metrics.log_metrics
@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    return process_partial_response(event=event, record_handler=_one, processor=processor, context=context)
