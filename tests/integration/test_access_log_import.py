"""API Gateway's own access logs are usage: each line once, whichever way and however often it comes."""

import gzip
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest

from functions.import_access_logs import app as importer
from local.dynamodb import Fault
from monetize import wiring
from monetize.services.metering import Intake
from tests.integration.usage_fixtures import CONTEXT, EVENTS, SUB, Metered, metered

__all__ = ["metered"]

LINE = {
    "requestId": "req-1",
    "requestTimeEpoch": "1794909600000",
    "apiId": "abcdef",
    "publisher": "acme",
    "subscription": SUB,
    "environment": "production",
    "status": "200",
    "responseLength": "1200",
    "httpMethod": "GET",
    "routeKey": "GET /weather/{city}",
}


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer.metrics.provider, "namespace", "monetize")
    monkeypatch.setattr(importer.metrics.provider, "service", "usage")
    monkeypatch.setattr(importer, "intake", Intake())


def _import(name: str) -> dict[str, int]:
    event = json.loads((EVENTS / f"import_access_logs_{name}.json").read_text())
    return importer.handler(event, CONTEXT)  # type: ignore[arg-type]


def _object(monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any] | str, zipped: bool = True) -> None:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines).encode()
    body = gzip.compress(text) if zipped else text
    s3 = SimpleNamespace(get_object=lambda **_request: {"Body": io.BytesIO(body)})
    monkeypatch.setattr(wiring, "s3", lambda: s3)


def test_a_logs_subscription_counts_each_line_once_however_often_it_is_delivered(metered: Metered) -> None:
    assert _import("cloudwatch")["accepted"] == 3
    assert _import("cloudwatch")["duplicates"] == 3
    assert metered.totals() == {"17/1": 3}


@pytest.mark.parametrize("zipped", [True, False])
def test_an_object_counts_each_line_once(metered: Metered, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    lines = [{**LINE, "requestId": f"req-{number}"} for number in range(5)]
    _object(monkeypatch, *lines, {**LINE, "requestId": "req-9", "status": "500"}, zipped=zipped)
    assert _import("s3")["accepted"] == 6
    assert _import("s3")["accepted"] == 1  # the failed call counts nothing, again
    assert metered.totals() == {"17/1": 5}


def test_unreadable_lines_are_counted_and_skipped_and_calls_of_nobody_passed_over(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ["not json", "{}", json.dumps({**LINE, "requestTimeEpoch": "soon"}), "[" * 100_000]
    nobody = {**LINE, "subscription": "-"}
    _object(monkeypatch, LINE, *bad, "", nobody, {**LINE, "requestId": "req-2", "publisher": "other"})
    counted = _import("s3")
    assert (counted["accepted"], counted["unreadable"], counted["rejected"]) == (1, 4, 1)
    assert metered.totals() == {"17/1": 1}


def test_sandbox_calls_are_counted_apart(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    _object(monkeypatch, {**LINE, "environment": "sandbox"})
    assert _import("s3")["accepted"] == 1
    assert metered.totals() == {}
    assert metered.totals(sandbox=True) == {"17/1": 1}


def test_what_could_not_be_stored_is_delivered_again(metered: Metered) -> None:
    metered.dynamodb.inject = lambda operation, _request: (
        Fault("TransactionConflict") if operation == "TransactWriteItems" else None
    )
    with pytest.raises(importer.NotAllStored):
        _import("cloudwatch")
    metered.dynamodb.inject = None
    assert _import("cloudwatch")["accepted"] == 3
    assert metered.totals() == {"17/1": 3}
