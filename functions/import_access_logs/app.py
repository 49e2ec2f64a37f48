"""Access logs of publishers' own API Gateways in: from CloudWatch Logs as written, or from S3 as they arrive."""

import gzip
import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.services.importing import lots
from monetize.services.metering import Intake, take

logger = Logger()
metrics = Metrics()
intake = Intake()


class NotAllStored(Exception):
    """Some events could not be stored now. Lambda delivers again: what was stored is found by its name."""


class Patience:
    """Waits are left to the redelivery."""

    def left(self) -> float:
        """No time is spent here."""
        return 0.0

    def wait(self, seconds: float) -> None:
        """Never called: nothing is left."""


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    del context
    if "awslogs" in event:
        name, lines = _from_logs(event["awslogs"]["data"])
    else:
        name, lines = _from_object(event["detail"])
    counted = _record(lines, name)
    for what, count in counted.items():
        metrics.add_metric(f"AccessLog{what.title()}", MetricUnit.Count, count)
    metrics.flush_metrics()
    if counted["retry"]:
        raise NotAllStored(str(counted["retry"]))
    return counted


def _record(lines: Iterable[str | bytes], name: str) -> dict[str, int]:
    counted = dict.fromkeys(("accepted", "duplicates", "late", "rejected", "unreadable", "retry"), 0)
    ports = wiring.metering()
    for found, unread in lots(lines, name):
        counted["unreadable"] += unread
        for lot in found:
            taken = take(
                lot.events,
                (),
                publisher=lot.publisher,
                key=lot.name,
                now=wiring.clock().now(),
                ports=ports,
                intake=intake,
                patience=Patience(),
            )
            counted["accepted"] += taken.accepted
            counted["duplicates"] += taken.duplicates
            counted["late"] += taken.late
            counted["rejected"] += len(taken.rejected) + len(taken.conflicts)
            counted["retry"] += len(taken.retry)
    if counted["unreadable"]:
        logger.warning("lines of an access log could not be read", extra={"count": counted["unreadable"]})
    return counted


def _from_logs(data: str) -> tuple[str, Iterable[str | bytes]]:
    """A subscription's delivery: named by the ids of its log events, so a repeated one is the same lot."""
    document = json.loads(gzip.decompress(b64decode(data)))
    if document.get("messageType") != "DATA_MESSAGE":
        return "control", ()
    events = document["logEvents"]
    digest = sha256("\n".join(each["id"] for each in events).encode()).hexdigest()
    return f"logs:{digest}", [each["message"] for each in events]


def _from_object(detail: Mapping[str, Any]) -> tuple[str, Iterable[str | bytes]]:
    """A new object: named by bucket, key and version; lines of JSON, gzipped or not."""
    bucket, key = detail["bucket"]["name"], detail["object"]["key"]
    version = detail["object"].get("version-id", "")
    request = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})
    name = sha256(f"{bucket}\n{key}\n{version or detail['object'].get('etag', '')}".encode()).hexdigest()
    return f"s3:{name}", _lines(wiring.s3().get_object(**request)["Body"])


def _lines(body: Any) -> Iterator[bytes]:
    content = body.read()
    yield from (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).splitlines()
