"""Bill one subscription per message: the unit of retry is the unit of money."""

import math
import random
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.offers import time_of
from monetize.services import billing, changing, invoice_actions, payments, plans, running, runs

logger = Logger()
tracer = Tracer()
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS)
TALLIED = ("subscription", "bill")
tallies: list[tuple[str, billing.Worked]] = []  # of this batch: told to the run once, when the batch is over


def _one(record: SQSRecord) -> None:
    message: dict[str, Any] = record.json_body
    kind, now = message["kind"], wiring.clock().now()
    group = record.raw_event["attributes"].get("MessageGroupId")
    present = int(now.timestamp() * 1000)
    if (early := message.get("at", 0) - present) > 0:
        # A queue delays by a quarter of an hour at most: its place has not come yet.
        wiring.billing_queue().send(message, delay_seconds=math.ceil(early / 1000), group=group)
        return
    worked = WORK[kind](message, now)
    for each in (*worked.before, worked):
        if kind != "shard":  # 64 of them an hour mostly find nothing, and say so in their own metric
            metrics.add_metric(f"Billing_{kind}_{each.outcome}", MetricUnit.Count, 1)
            logger.info("billing step", extra={"kind": kind, "outcome": each.outcome, "bill": each.bill})
        if each.returned:
            invoice_actions.credit_at_once(each.bill, now, wiring.payments())
        if each.outcome in ("parked", "held"):
            metrics.add_metric("BillsWaiting", MetricUnit.Count, 1)  # the alarm's, whichever message it happened to
        if kind in TALLIED and "run" in message and not each.again_in:
            tallies.append((message["run"], each))
    if worked.again_in:
        # Its place is kept: the message comes back when its turn is, and this receive does not count as a failure.
        again = {"kind": "bill", "id": worked.bill, "placed": True, "more": kind == "subscription" or "more" in message}
        again["at"] = present + math.ceil(worked.again_in * 1000)
        if "run" in message:
            again["run"] = message["run"]
        wiring.billing_queue().send(again, delay_seconds=math.ceil(worked.again_in), group=group)


def _shard(message: dict[str, Any], now: datetime) -> billing.Worked:
    return _fan_out(int(message["shard"]), "", str(message.get("run", "")), now)


def _scope(message: dict[str, Any], now: datetime) -> billing.Worked:
    """Everything due by a sandbox publisher's own clock: few, so all its shards at once."""
    publisher = wiring.billing_table().publisher(message["scope"])
    if publisher is not None:
        for shard in range(running.SHARDS):
            _fan_out(shard, publisher.id, "", time_of(publisher, now))
    return billing.Worked("fanned_out")


def _dry(message: dict[str, Any], now: datetime) -> billing.Worked:
    outcome = runs.dry_steps(message["run"], int(message["shard"]), now, wiring.runs())
    if outcome == "again":
        wiring.billing_queue().send(message, group=f"dry-{message['shard']}")
    return billing.Worked(outcome)


def _fan_out(shard: int, scope: str, run: str, now: datetime) -> billing.Worked:
    found = running.fan_out(shard, now, wiring.running(), scope, run)
    metrics.add_metric("DueFound", MetricUnit.Count, found.enqueued)
    if found.oldest is not None:
        metrics.add_metric("OldestDueSeconds", MetricUnit.Seconds, (now - found.oldest).total_seconds())
    return billing.Worked("fanned_out")


def _subscription(message: dict[str, Any], now: datetime) -> billing.Worked:
    return billing.bill_subscription(message["id"], now, wiring.billing())


def _bill(message: dict[str, Any], now: datetime) -> billing.Worked:
    worked = billing.continue_bill(message["id"], now, wiring.billing(), placed=bool(message.get("placed")))
    if message.get("more") and worked.outcome in ("sent", "declined", "empty"):
        # Its subscription was being billed when this bill had to wait for its place: it may be several periods behind.
        behind = _subscription({"id": billing.split_bill_id(message["id"])[0]}, now)
        if behind.outcome != "not_due":
            return replace(behind, before=(*worked.before, replace(worked, before=()), *behind.before))
    return worked


def _move(message: dict[str, Any], now: datetime) -> billing.Worked:
    change = partial(changing.change_version, ports=wiring.subscribing())
    done = plans.run_move_step(message["plan"], message["id"], now, change, wiring.plans())
    return billing.Worked("done" if done else "stepped")


def _invoice(message: dict[str, Any], now: datetime) -> billing.Worked:
    return payments.attempt(message["id"], now, wiring.payments())


WORK = {
    "bill": _bill,
    "dry": _dry,
    "invoice": _invoice,
    "move": _move,
    "scope": _scope,
    "shard": _shard,
    "subscription": _subscription,
}


@metrics.log_metrics
@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    tallies.clear()
    answer = process_partial_response(event=event, record_handler=_one, processor=processor, context=context)
    runs.tell(tallies, random.randrange(1 << 16), wiring.clock().now(), wiring.runs)
    return answer
