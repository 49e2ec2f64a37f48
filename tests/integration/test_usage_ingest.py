"""Usage in: every event counted once, refused with a name, or handed back."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from functions.record_usage import app as ingest
from local.dynamodb import Fault
from monetize.domain.keys import GatewayKey, hashed
from tests.integration.usage_fixtures import CALLS, NOW, SUB, Metered, metered, usage_event

__all__ = ["metered"]

DAY = date(2026, 11, 17)


def test_a_batch_from_a_gateway_is_counted_by_day_and_meter(metered: Metered) -> None:
    answer = metered.send(
        usage_event(1),
        usage_event(2),
        usage_event(3, time="2026-11-16T23:59:59.999Z"),
        usage_event(4, type="api.transfer"),
    )
    assert (answer.status, answer.body) == (
        200,
        {"accepted": 4, "duplicates": 0, "late": 0, "conflicts": [], "rejected": [], "retry": []},
    )
    assert metered.totals() == {"17/1": 2, "16/1": 1, "17/2": 1200}


def test_the_example_events_are_answered(metered: Metered) -> None:
    assert metered.ask("record_usage_events_single").body["accepted"] == 1
    assert metered.ask("record_usage_events_batch").body["accepted"] == 3
    assert metered.ask("record_usage_events_jwt").body["duplicates"] == 3


def test_a_redelivered_batch_is_counted_once(metered: Metered) -> None:
    batch = [usage_event(number) for number in range(5)]
    assert metered.send(*batch).body["accepted"] == 5
    # The order in which a sender lists its events names no other batch.
    again = metered.send(*reversed(batch)).body
    assert (again["accepted"], again["duplicates"]) == (0, 5)
    assert metered.totals() == {"17/1": 5}


def test_an_event_twice_in_a_batch_is_counted_once_and_a_contradiction_is_told(metered: Metered) -> None:
    body = metered.send(
        usage_event(1, type="api.transfer"),
        usage_event(1, type="api.transfer"),
        usage_event(1, type="api.transfer", data={"bytes": 7}),
    ).body
    assert (body["accepted"], body["duplicates"]) == (1, 1)
    assert body["conflicts"] == [{"index": 2, "id": "req-1", "code": "same_id_other_content"}]
    assert metered.totals() == {"17/2": 1200}


def test_an_idempotency_key_names_the_batch_and_other_content_under_it_is_refused(metered: Metered) -> None:
    assert metered.send(usage_event(1), key="lot-1").body["accepted"] == 1
    assert metered.send(usage_event(1), key="lot-1").body["duplicates"] == 1
    body = metered.send(usage_event(1), usage_event(2), usage_event(3, time="2026-11-16T10:00:00Z"), key="lot-1").body
    assert body["accepted"] == 1  # the other day is a group of its own
    assert body["rejected"] == [
        {"index": 0, "id": "req-1", "code": "idempotency_key_reused"},
        {"index": 1, "id": "req-2", "code": "idempotency_key_reused"},
    ]
    assert metered.totals() == {"17/1": 1, "16/1": 1}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject": "sub_nobody"}, "unknown_subject"),
        ({"subject": "s" * 5000}, "unknown_subject"),
        ({"subject": "sub_foreign"}, "unknown_subject"),
        ({"subject": "sub_pending"}, "subscription_not_active"),
        ({"subject": "sub_ended"}, "subscription_ended"),
        ({"subject": "sub_over"}, "subscription_ended"),
        ({"time": "2026-11-17T10:06:00Z"}, "future_time"),
        ({"time": "2026-10-31T23:59:59Z"}, "before_subscription"),
        ({"subject": "sub_old", "time": "2026-10-12T23:59:59Z"}, "beyond_late_window"),
        ({"time": "2026-11-17T10:00:00"}, "bad_time"),
        ({"time": "yesterday"}, "bad_time"),
        ({"time": 5}, "bad_time"),
        ({"type": "api.unheard"}, "unknown_type"),
        ({"type": "api.transfer", "data": {"bytes": -1}}, "bad_value"),
        ({"type": "api.transfer", "data": {"bytes": 10**30}}, "bad_value"),
        ({"type": "api.transfer", "data": {"bytes": 1.5}}, "bad_value"),
        ({"type": "api.transfer", "data": "bytes"}, "bad_value"),
        ({"type": "api.transfer", "data": {}}, "bad_value"),
        ({"id": "x" * 10_000}, "bad_id"),
        ({"id": ""}, "bad_id"),
        ({"id": 7}, "bad_id"),
        ({"id": None}, "bad_id"),
        ({"source": "s" * 10_000}, "bad_source"),
        ({"source": ""}, "bad_source"),
        ({"specversion": "0.3"}, "bad_specversion"),
        ({"environment": "staging"}, "bad_environment"),
    ],
)
def test_one_bad_event_is_named_and_the_others_are_counted(
    metered: Metered, changes: dict[str, Any], code: str
) -> None:
    old = datetime(2026, 1, 1, tzinfo=UTC)
    example = metered.subscription()
    metered.subscribe("sub_foreign", "other")
    for sub, fields in {
        "sub_pending": {"status": "pending_payment", "activated_at": None},
        "sub_ended": {"status": "ended", "ended_at": NOW - timedelta(hours=25)},
        "sub_over": {"status": "ended", "ended_at": datetime(2026, 11, 17, 9, tzinfo=UTC)},
        "sub_old": {"activated_at": old},
    }.items():
        metered.store(replace(example, id=sub, rev=0, **fields))  # type: ignore[arg-type] # of every kind
    body = metered.send(usage_event(0), usage_event(1, **changes), usage_event(2)).body
    assert [(each["index"], each["code"]) for each in body["rejected"]] == [(1, code)]
    assert body["accepted"] == 2
    assert metered.totals() == {"17/1": 2}


def test_what_is_missing_is_named(metered: Metered) -> None:
    event = usage_event(1)
    del event["time"]
    assert metered.send(event).body["rejected"] == [{"index": 0, "id": "req-1", "code": "missing_time"}]


def test_an_event_that_no_filter_lets_through_is_accepted_and_counts_nothing(metered: Metered) -> None:
    assert metered.send(usage_event(1, data={"status": 500})).body["accepted"] == 1
    assert metered.totals() == {}


def test_a_time_in_another_zone_counts_on_its_utc_day(metered: Metered) -> None:
    assert metered.send(usage_event(1, time="2026-11-17T01:30:00+02:00")).body["accepted"] == 1
    assert metered.totals() == {"16/1": 1}


def test_sandbox_usage_is_counted_apart(metered: Metered) -> None:
    metered.send(usage_event(1, environment="sandbox"), usage_event(2))
    assert metered.totals() == {"17/1": 1}
    assert metered.totals(sandbox=True) == {"17/1": 1}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{not json", {}, 400, "malformed_json"),
        (b"\xff\xfe", {}, 400, "malformed_json"),
        (b"7", {}, 400, "malformed_json"),
        (b"[" * 100_000, {}, 400, "malformed_json"),
        (b"[]", {"content-type": "text/csv"}, 415, "unsupported_media_type"),
        (b"[]", {"idempotency-key": "k" * 300}, 400, "bad_idempotency_key"),
        (b"[]", {"authorization": "Bearer gk_nobody"}, 401, "unknown_gateway_key"),
        (b"[]", {"authorization": ""}, 401, "no_organization"),
        (b" " * (4 * 1024 * 1024 + 1), {}, 413, "body_too_large"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_whole(
    metered: Metered, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = metered.ask("record_usage_events_batch", body, headers=headers)
    assert (answer.status, answer.code) == (status, code)


def test_a_body_of_exactly_the_limit_is_taken(metered: Metered) -> None:
    body = json.dumps([usage_event(1)]).encode()
    answer = metered.ask("record_usage_events_batch", body + b" " * (4 * 1024 * 1024 - len(body)))
    assert (answer.status, answer.body["accepted"]) == (200, 1)


def test_five_thousand_events_are_taken_and_one_more_refused(metered: Metered) -> None:
    events = [usage_event(number) for number in range(5000)]
    assert metered.send(*events).body["accepted"] == 5000
    answer = metered.send(*events, usage_event(5000))
    assert (answer.status, answer.code) == (413, "too_many_events")
    assert metered.totals() == {"17/1": 5000}


def test_a_batch_for_a_thousand_subscriptions_is_recorded_in_transactions_of_fifty(metered: Metered) -> None:
    subscriptions = [f"sub_{number:04d}" for number in range(1000)]
    for each in subscriptions:
        metered.subscribe(each)
    calls: list[str] = []
    metered.dynamodb.on_call = lambda operation, _request: calls.append(operation)
    assert metered.send(*[usage_event(1, subject=each) for each in subscriptions]).body["accepted"] == 1000
    assert calls.count("TransactWriteItems") == 20
    assert all(metered.totals(each) == {"17/1": 1} for each in subscriptions[::100])


def test_a_revoked_gateway_key_is_unknown(metered: Metered) -> None:
    metered.store(GatewayKey(id="gk_2", publisher="acme", sha256=hashed("gk_old"), created_at=NOW, revoked_at=NOW))
    answer = metered.ask("record_usage_events_batch", headers={"authorization": "Bearer gk_old"})
    assert (answer.status, answer.code) == (401, "unknown_gateway_key")


def test_a_subscribers_key_is_no_gateway_key(metered: Metered) -> None:
    answer = metered.ask("record_usage_events_batch", headers={"authorization": "Bearer mk_live_example"})
    assert (answer.status, answer.code) == (401, "no_organization")


def test_a_token_without_the_gateway_role_reports_nothing(metered: Metered) -> None:
    answer = metered.ask("record_usage_events_jwt", claims={"roles": "subscriber"})
    assert (answer.status, answer.code) == (403, "missing_role")
    assert metered.totals() == {}


def test_a_meter_made_a_moment_ago_loses_no_event(metered: Metered) -> None:
    metered.send(usage_event(1))
    metered.store(replace(CALLS, id="met_jobs", event_type="job.done", filters=(), short=3))
    assert metered.send(usage_event(2, type="job.done")).body["accepted"] == 1
    assert metered.totals() == {"17/1": 1, "17/3": 1}


def test_events_of_a_sealed_day_wait_as_late_and_are_stored_once(metered: Metered) -> None:
    metered.send(usage_event(1))
    metered.usage.seal(SUB, date(2026, 11, 1), DAY, metered.shards)
    assert metered.send(usage_event(2)).body["late"] == 1
    assert metered.send(usage_event(2)).body["duplicates"] == 1
    assert metered.send(usage_event(1)).body["duplicates"] == 1  # recorded before the seal
    assert metered.totals() == {"17/1": 1}
    (late,) = metered.usage.late_entries(SUB, DAY, DAY)
    assert (late.day, late.quantities, late.taken_by) == (DAY, {1: 1}, "")


def test_a_conflict_is_tried_again_and_nothing_is_counted_twice(metered: Metered, waits: list[float]) -> None:
    metered.subscribe("sub_b")
    _refuse(metered, [Fault("TransactionConflict", (3,)), Fault("ThrottlingError", (0,))])
    assert metered.send(usage_event(1), usage_event(2, subject="sub_b")).body["accepted"] == 2
    assert waits
    assert metered.totals() == {"17/1": 1}
    assert metered.totals("sub_b") == {"17/1": 1}


def test_what_stays_refused_is_handed_back_and_never_answered_with_success(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse(metered, [Fault("TransactionConflict", (0,))] * 50)
    monkeypatch.setattr("functions.record_usage.app.TimeLeft.left", lambda _self: 0.0)
    answer = metered.send(usage_event(1))
    assert (answer.status, answer.code, answer.body["retry"]) == (503, "not_all_stored", [0])
    assert metered.totals() == {}


def test_a_batch_of_which_a_part_is_stored_is_no_success_and_sent_again_it_is_whole(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered.subscribe("sub_b")
    events = [usage_event(1), usage_event(2, subject="sub_b"), usage_event(3)]
    with monkeypatch.context() as impatient:
        metered.dynamodb.inject = _refuse_for("sub_b")
        impatient.setattr("functions.record_usage.app.TimeLeft.left", lambda _self: 0.0)
        answer = metered.send(*events)
        assert (answer.status, answer.code, answer.body["retry"]) == (503, "not_all_stored", [1])
        assert (answer.body["accepted"], answer.headers["Retry-After"]) == (2, "1")
    metered.dynamodb.inject = None
    again = metered.send(*events)
    assert (again.status, again.body["accepted"], again.body["duplicates"]) == (200, 1, 2)
    assert (metered.totals(), metered.totals("sub_b")) == ({"17/1": 2}, {"17/1": 1})


def test_a_hot_subscription_is_spread_over_shards_and_a_resent_batch_finds_itself(
    metered: Metered,
) -> None:
    metered.change(shards=(("2026-11", 4),))
    batches = [[usage_event(f"{lot}-{number}") for number in range(3)] for lot in range(20)]
    for batch in batches:
        assert metered.send(*batch).body["accepted"] == 3
    for batch in batches:
        assert metered.send(*batch).body["duplicates"] == 3
    assert metered.totals() == {"17/1": 60}
    one = metered.usage.counters(SUB, DAY, DAY, lambda _month: 1).totals[DAY, 1]
    assert 0 < one < 60


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of them slept."""
    made: list[float] = []
    monkeypatch.setattr("functions.record_usage.app.TimeLeft.wait", lambda _self, seconds: made.append(seconds))
    return made


def _refuse(metered: Metered, faults: list[Fault]) -> None:
    """Refuse the next transactions."""

    def inject(operation: str, request: Any) -> Fault | None:
        del request
        return faults.pop(0) if operation == "TransactWriteItems" and faults else None

    metered.dynamodb.inject = inject


def _refuse_for(sub: str) -> Callable[[str, Any], Fault | None]:
    """Refuse in every transaction what it writes of one subscription."""

    def inject(operation: str, request: Any) -> Fault | None:
        if operation != "TransactWriteItems":
            return None
        at = [place for place, each in enumerate(request["TransactItems"]) if sub in str(each)]
        return Fault("TransactionConflict", tuple(at)) if at else None

    return inject


def test_waiting_for_other_writers_is_a_metric(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    counted: dict[str, float] = {}
    monkeypatch.setattr(ingest, "TimeLeft", partial(ingest.TimeLeft, sleep=waits.append))
    add = ingest.metrics.add_metric

    def count(name: str, unit: Any, value: float) -> None:
        counted[name] = value
        add(name, unit, value)

    monkeypatch.setattr(ingest.metrics, "add_metric", count)
    _refuse(metered, [Fault("TransactionConflict", (1,)), Fault("TransactionConflict", (1,))])
    metered.send(usage_event(1))
    assert (len(waits), counted["UsageConflicts"], counted["EventsAccepted"]) == (2, 2, 1)


def test_the_instant_a_subscription_ended_is_not_its_own(metered: Metered) -> None:
    ended = NOW - timedelta(hours=1)
    metered.change(status="ended", ended_at=ended)
    before, at = (instant.isoformat().replace("+00:00", "Z") for instant in (ended - timedelta(microseconds=1), ended))
    body = metered.send(usage_event(1, time=before), usage_event(2, time=at)).body
    assert (body["accepted"], body["rejected"]) == (1, [{"index": 1, "id": "req-2", "code": "subscription_ended"}])


def test_a_cancellation_that_came_due_takes_no_event_after_it(metered: Metered) -> None:
    metered.change(cancel_at=NOW - timedelta(hours=1))
    body = metered.send(usage_event(1), usage_event(2, time="2026-11-17T08:00:00Z")).body
    assert (body["accepted"], [each["code"] for each in body["rejected"]]) == (1, ["subscription_ended"])
    metered.clock.advance(timedelta(hours=23))
    late = metered.send(usage_event(3, time="2026-11-17T08:00:00Z")).body
    assert [each["code"] for each in late["rejected"]] == ["subscription_ended"]
