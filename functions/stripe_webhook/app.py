"""Stripe calls: verify, store, enqueue, answer. Holds no Stripe key and imports no Stripe SDK."""

import base64
import json
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.errors import Refusal
from monetize.http import plain
from monetize.services.receiving import receive

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    del context
    body = event.get("body") or ""
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    signature = event.get("headers", {}).get("stripe-signature", "")
    try:
        outcome = receive(raw, signature, wiring.clock().now(), wiring.receiving())
    except Refusal as refusal:
        metrics.add_metric("WebhookRefused", MetricUnit.Count, 1)
        logger.warning("webhook refused", extra={"code": refusal.code})
        return plain.problem(refusal)
    metrics.add_metric(f"Webhook_{outcome}", MetricUnit.Count, 1)
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps({"outcome": outcome}),
    }
