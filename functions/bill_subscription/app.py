"""Bill one subscription per message: the unit of retry is the unit of money."""

import math
from functools import partial
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.services import billing, changing, payments, plans, running

logger = Logger()
tracer = Tracer()
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS)


def _one(record: SQSRecord) -> None:
    message: dict[str, Any] = record.json_body
    kind, now = message["kind"], wiring.clock().now()
    worked = WORK[kind](message, now)
    if kind != "shard":
        metrics.add_metric(f"Billing_{kind}_{worked.outcome}", MetricUnit.Count, 1)
    logger.info("billing step", extra={"kind": kind, "outcome": worked.outcome, "bill": worked.bill})
    if worked.again_in:
        # Its place is kept: the message comes back when its turn is, and this receive does not count as a failure.
        again = {"kind": "bill", "id": worked.bill, "placed": True}
        group = record.raw_event["attributes"].get("MessageGroupId")
        wiring.billing_queue().send(again, delay_seconds=math.ceil(worked.again_in), group=group)


def _shard(message: dict[str, Any], now: Any) -> billing.Worked:
    found = running.fan_out(int(message["shard"]), now, wiring.running(), str(message.get("scope", "")))
    metrics.add_metric("DueFound", MetricUnit.Count, found.enqueued)
    if found.oldest is not None:
        metrics.add_metric("OldestDueSeconds", MetricUnit.Seconds, (now - found.oldest).total_seconds())
    return billing.Worked("fanned_out")


def _subscription(message: dict[str, Any], now: Any) -> billing.Worked:
    return billing.bill_subscription(message["id"], now, wiring.billing())


def _bill(message: dict[str, Any], now: Any) -> billing.Worked:
    return billing.continue_bill(message["id"], now, wiring.billing(), placed=bool(message.get("placed")))


def _move(message: dict[str, Any], now: Any) -> billing.Worked:
    change = partial(changing.change_version, ports=wiring.subscribing())
    done = plans.run_move_step(message["plan"], message["id"], now, change, wiring.plans())
    return billing.Worked("done" if done else "stepped")


def _invoice(message: dict[str, Any], now: Any) -> billing.Worked:
    return payments.attempt(message["id"], now, wiring.payments())


WORK = {"invoice": _invoice, "shard": _shard, "subscription": _subscription, "bill": _bill, "move": _move}


@metrics.log_metrics
@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    return process_partial_response(event=event, record_handler=_one, processor=processor, context=context)
