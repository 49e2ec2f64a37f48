"""Compare with Stripe what we hold: daily for every connected account, and on demand for the caller's own."""

import time
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.drift import Report
from monetize.http import resolver
from monetize.http.caller import PUBLISHER_ADMIN, PUBLISHER_VIEWER
from monetize.http.reconciliation_schemas import ReconcileRequest, ReconciliationResponse
from monetize.http.schemas import from_cursor, to_cursor
from monetize.services import reconciling

logger = Logger()
tracer = Tracer()
metrics = Metrics()
app = resolver.build()

TAGS = ["reconciliation"]
ON_DEMAND_SECONDS = 20  # of API Gateway's thirty
RESERVE_MILLISECONDS = 60_000  # of a scheduled pass, to write down where it stopped


@app.get("/reconciliation", summary="What the last reconciliation found", tags=TAGS)
def get_reconciliation() -> Response[ReconciliationResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN, PUBLISHER_VIEWER)
    found = wiring.reconciling().store.report(caller.organization)
    return resolver.reply(ReconciliationResponse.of(found))


@app.post("/reconciliation", summary="Compare with Stripe now, and repair what is ours", tags=TAGS)
def post_reconciliation(body: ReconcileRequest) -> Response[ReconciliationResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN)
    now, until = wiring.clock().now(), time.monotonic() + ON_DEMAND_SECONDS
    report, cursor = reconciling.on_demand(
        caller.organization, now, lambda: time.monotonic() < until, wiring.reconciling(), cursor=from_cursor(body.after)
    )
    _measure(report)
    answer = ReconciliationResponse.of(report)
    return resolver.reply(answer.model_copy(update={"after": to_cursor(cursor)}))


def _measure(report: Report) -> None:
    """Numbers without names: how much was compared, at what price, and what differed."""
    metrics.add_metric("DriftMoneyFindings", MetricUnit.Count, report.money_findings)
    metrics.add_metric("DriftFindings", MetricUnit.Count, sum(number for _, number in report.counts))
    metrics.add_metric("ReconciliationReads", MetricUnit.Count, report.reads)
    logger.info(
        "reconciled",
        extra={
            "publisher": report.publisher,
            "subscribers": report.subscribers,
            "invoices": report.invoices,
            "reads": report.reads,
            "findings": dict(report.counts),
            "money": dict(report.money),
            "finished": report.after is None,
        },
    )


@metrics.log_metrics
@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    if "reconcile" not in event:
        return resolver.answer(app, event, context, dynamodb=wiring.dynamodb())

    def left() -> bool:
        return context.get_remaining_time_in_millis() > RESERVE_MILLISECONDS

    resume = event["reconcile"] == "resume"
    try:
        reports = reconciling.reconcile_all(wiring.clock().now(), left, wiring.reconciling(), resume_only=resume)
    except reconciling.Broken as broken:
        for report in broken.reports:
            _measure(report)
        raise
    for report in reports:
        _measure(report)
    return {"accounts": len(reports), "finished": not reports or reports[-1].after is None}
