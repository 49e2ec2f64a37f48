"""Exact totals: ledger, counter and distinct events are one and the same, and people can correct them."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from functions.record_usage import app as ingest
from local.dynamodb import Fault
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.usage import LedgerMismatch
from monetize.services import counting
from monetize.services.counting import exact_usage, settle, settled
from tests.integration.usage_fixtures import CONTEXT, NOW, SUB, Metered, metered, usage_event

__all__ = ["metered"]

DAY = date(2026, 11, 17)
FIRST, LAST = date(2026, 11, 1), date(2026, 11, 30)


def test_what_settling_answers_is_what_the_counters_hold(metered: Metered) -> None:
    metered.send(usage_event(1), usage_event(2))
    metered.send(usage_event(2), usage_event(3))
    for first, last in (
        (date(2026, 11, 1), date(2026, 11, 30)),
        (FIRST, DAY),
    ):  # a whole month is one query, others four
        totals = settled(SUB, first, last, metered.shards, NOW, metered.usage)[1]
        assert totals == metered.usage.counters(SUB, first, last, metered.shards).totals != {}


def test_a_month_whole_and_its_parts_are_read_alike(metered: Metered) -> None:
    metered.send(usage_event(1), usage_event(2))
    metered.send(usage_event(2), usage_event(3))
    settle(SUB, DAY, DAY, metered.shards, NOW, metered.usage)
    whole = metered.usage.standing(SUB, date(2026, 11, 1), date(2026, 11, 30), metered.shards, 1000)
    assert whole == metered.usage.standing(SUB, date(2026, 11, 2), date(2026, 11, 29), metered.shards, 1000)
    assert (len(whole.adjustments), len(whole.entries or ()), dict(whole.totals)) == (1, 2, {(DAY, 1): 3})
    assert metered.usage.standing(SUB, DAY, DAY, metered.shards, 12).entries is None  # too many to hold


def test_a_batch_that_arrives_while_a_day_is_settled_is_no_mismatch(metered: Metered) -> None:
    metered.send(usage_event(1))
    first = True

    def between(operation: str, request: Mapping[str, Any]) -> None:
        nonlocal first
        if operation == "GetItem" and request["Key"].get("sk") == {"S": "COUNTER"} and first:
            first = False
            metered.send(usage_event(2))

    metered.dynamodb.inject = between  # the entries are read, the counter is not
    totals = settled(SUB, DAY, DAY, metered.shards, NOW, metered.usage)[1]
    assert not first
    assert totals == {(DAY, 1): 2}


METERS = {1: "met_calls", 2: "met_bytes"}


def _exact(metered: Metered, *late: str) -> dict[str, dict[date, int]]:
    found = exact_usage(SUB, FIRST, LAST, metered.shards, METERS, metered.usage, late)
    return {meter: dict(days) for meter, days in found.quantities.items()}


def test_an_event_resent_in_another_batch_is_taken_out_and_the_counter_follows(metered: Metered) -> None:
    metered.send(*[usage_event(number) for number in range(10)])
    metered.send(*[usage_event(number) for number in range(8, 12)])
    assert metered.totals() == {"17/1": 14}
    exact = settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)
    assert (exact.events, exact.duplicates, exact.conflicts) == (14, 2, [])
    assert metered.totals() == {"17/1": 12}
    (adjustment,) = metered.usage.adjustments(SUB, FIRST, LAST)
    assert (adjustment.number, adjustment.quantities, len(adjustment.batches)) == (1, {1: -2}, 1)
    settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)
    assert metered.totals() == {"17/1": 12}
    assert _exact(metered) == {"met_calls": {DAY: 12}}


def test_an_id_seen_on_two_days_is_a_conflict_and_the_first_day_wins(metered: Metered) -> None:
    metered.send(usage_event(1))
    metered.send(usage_event(1, time="2026-11-16T10:00:00Z"))
    exact = settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)
    assert [(each.counted[0], each.ignored[0]) for each in exact.conflicts] == [(date(2026, 11, 16), DAY)]
    assert metered.totals() == {"16/1": 1, "17/1": 0}


def test_repetitions_over_shards_are_found(metered: Metered) -> None:
    metered.change(shards=(("2026-11", 4),))
    for size in range(1, 12):
        metered.send(*[usage_event(number) for number in range(size)])
    settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)
    assert metered.totals() == {"17/1": 11}


def test_a_counter_that_differs_from_the_ledger_is_an_error_with_a_name(metered: Metered) -> None:
    metered.send(usage_event(1))
    metered.dynamodb.update_item(
        TableName="UsageTable",
        Key={"pk": {"S": keys.usage(SUB, "2026-11", 0)}, "sk": {"S": "COUNTER"}},
        UpdateExpression="ADD #it :one",
        ExpressionAttributeNames={"#it": "h1"},
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
    with pytest.raises(LedgerMismatch):
        settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)


def test_two_who_settle_at_once_take_out_once(metered: Metered) -> None:
    metered.send(usage_event(1))
    metered.send(usage_event(1), usage_event(2))
    first = True

    def other(operation: str, request: object) -> None:
        nonlocal first
        if operation == "TransactWriteItems" and first:
            first = False
            settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)

    metered.dynamodb.on_call = other
    settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)
    assert metered.totals() == {"17/1": 2}
    assert len(metered.usage.adjustments(SUB, FIRST, LAST)) == 1


def test_sealing_reaches_every_shard_of_every_month_also_without_a_counter(metered: Metered) -> None:
    metered.change(shards=(("2026-11", 3),), activated_at=datetime(2026, 10, 1, tzinfo=UTC))
    metered.usage.seal(SUB, date(2026, 10, 20), DAY, metered.shards)
    metered.usage.seal(SUB, date(2026, 10, 20), date(2026, 11, 3), metered.shards)  # never back
    found = metered.usage.counters(SUB, date(2026, 10, 20), DAY, metered.shards)
    assert dict(found.sealed_through) == {"2026-10": date(2026, 10, 31), "2026-11": DAY}
    for number in range(12):
        assert metered.send(usage_event(number)).body["late"] == 1
    assert metered.send(usage_event(0, time="2026-10-21T00:00:00Z")).body["late"] == 1


def test_late_entries_count_where_they_are_named_and_say_which_bill_names_them(metered: Metered) -> None:
    metered.send(usage_event(1))
    metered.usage.seal(SUB, FIRST, LAST, metered.shards)
    metered.send(usage_event(1), usage_event(2), usage_event(3))  # one of them a repetition
    assert _exact(metered) == {"met_calls": {DAY: 1}}
    (late,) = metered.usage.late_entries(SUB, FIRST, LAST)
    metered.usage.note_taken(SUB, [late.ref, f"{late.ref}-gone"], "bill-1")
    assert [each.taken_by for each in metered.usage.late_entries(SUB, FIRST, LAST)] == ["bill-1"]
    assert _exact(metered, late.ref) == {"met_calls": {DAY: 3}}
    assert metered.totals() == {"17/1": 1}


def test_a_correction_is_a_new_entry_with_reason_author_and_audit(metered: Metered) -> None:
    metered.send(*[usage_event(number) for number in range(5)])
    answer = metered.ask("record_usage_post_correction")
    assert (answer.status, answer.body["outcome"]) == (201, "counted")
    assert metered.totals() == {"17/1": 3}
    (stored,) = metered.usage.corrections(SUB, FIRST, LAST)
    assert (stored.quantities, stored.reason, stored.author) == ({1: -2}, "health checks were metered", "alice")
    audit = metered.table.query("PUB#acme#AUDIT#2026-11").items
    assert len(audit) == 1
    assert metered.ask("record_usage_post_correction").body["outcome"] == "repeated"
    assert metered.totals() == {"17/1": 3}
    settle(SUB, FIRST, LAST, metered.shards, NOW, metered.usage)
    assert _exact(metered) == {"met_calls": {DAY: 3}}


def test_a_correction_of_a_sealed_day_waits_for_the_next_bill(metered: Metered) -> None:
    metered.send(*[usage_event(number) for number in range(5)])
    metered.usage.seal(SUB, FIRST, LAST, metered.shards)
    assert metered.ask("record_usage_post_correction").body["outcome"] == "late"
    assert metered.ask("record_usage_post_correction").body["outcome"] == "repeated"
    assert metered.totals() == {"17/1": 5}
    (late,) = metered.usage.late_entries(SUB, FIRST, LAST)
    assert _exact(metered) == {"met_calls": {DAY: 5}}
    assert _exact(metered, late.ref) == {"met_calls": {DAY: 3}}


def test_two_equal_corrections_of_a_sealed_day_at_once_are_stored_once(metered: Metered) -> None:
    metered.send(*[usage_event(number) for number in range(5)])
    metered.usage.seal(SUB, FIRST, LAST, metered.shards)
    writes = 0

    def other(operation: str, _request: object) -> None:
        nonlocal writes
        writes += operation == "TransactWriteItems"
        if operation == "TransactWriteItems" and writes == 2:  # the first was refused by the seal
            assert metered.ask("record_usage_post_correction").body["outcome"] == "late"

    metered.dynamodb.on_call = other
    assert metered.ask("record_usage_post_correction").body["outcome"] == "repeated"
    metered.dynamodb.on_call = None
    assert len(metered.usage.late_entries(SUB, FIRST, LAST)) == 1
    assert len(metered.table.query("PUB#acme#AUDIT#2026-11").items) == 1


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"subscription": "sub_nobody"}, 404, "no_such_subscription"),
        ({"subscription": "sub_foreign"}, 404, "no_such_subscription"),
        ({"meter": "met_nothing"}, 404, "no_such_meter"),
        ({"quantity": 0}, 422, "bad_quantity"),
        ({"quantity": -6}, 422, "below_zero"),
        ({"quantity": 1.5}, 422, "invalid_request"),
        ({"quantity": 10**30}, 422, "invalid_request"),
        ({"day": "2026-11-18"}, 422, "bad_day"),
        ({"day": "2026-10-31"}, 422, "bad_day"),
        ({"reason": ""}, 422, "invalid_request"),
        ({"author": "bob"}, 422, "invalid_request"),
    ],
)
def test_a_correction_that_makes_no_sense_changes_nothing(
    metered: Metered, changes: dict[str, object], status: int, code: str
) -> None:
    metered.subscribe("sub_foreign", "other")
    metered.send(*[usage_event(number) for number in range(5)])
    body = {"subscription": SUB, "meter": "met_calls", "day": "2026-11-17", "quantity": 1, "reason": "because"}
    answer = metered.ask("record_usage_post_correction", {**body, **changes})
    assert (answer.status, answer.code) == (status, code)
    assert metered.totals() == {"17/1": 5}
    assert metered.usage.corrections(SUB, FIRST, LAST) == ()


def test_a_corrections_key_is_its_name_for_ever(metered: Metered) -> None:
    body = {"subscription": SUB, "meter": "met_calls", "day": "2026-11-17", "quantity": 4, "reason": "because"}
    assert metered.ask("record_usage_post_correction", body).status == 201
    metered.clock.advance(timedelta(days=8))
    assert metered.ask("record_usage_post_correction", body).body["outcome"] == "repeated"
    assert metered.totals() == {"17/1": 4}
    answer = metered.ask("record_usage_post_correction", {**body, "quantity": 5})
    assert (answer.status, answer.code) == (422, "idempotency_key_reused")
    assert metered.totals() == {"17/1": 4}


def test_a_correction_needs_a_publishers_administrator_and_a_key(metered: Metered) -> None:
    assert metered.ask("record_usage_post_correction", claims={"roles": "publisher_viewer"}).status == 403
    assert metered.ask("record_usage_post_correction", headers={"idempotency-key": ""}).status == 400
    assert metered.ask("record_usage_post_correction", claims={"organization": "other"}).status == 404


def test_rejected_events_are_listed_and_resubmitted(metered: Metered) -> None:
    metered.send(usage_event(1), usage_event(2, type="job.done"), usage_event(3, subject="sub_nobody"))
    page = metered.ask("record_usage_get_rejected").body
    (lot,) = page["items"]
    assert [(each["id"], each["code"]) for each in lot["events"]] == [
        ("req-2", "unknown_type"),
        ("req-3", "unknown_subject"),
    ]
    assert lot["events"][0]["event"]["type"] == "job.done"
    assert metered.ask("record_usage_get_rejected", claims={"organization": "other"}).body["items"] == []
    foreign = metered.ask("record_usage_post_resubmit", {"lots": [lot["lot"]]}, claims={"organization": "other"})
    assert (foreign.status, foreign.code) == (404, "no_such_lot")
    metered.subscribe("sub_nobody")
    answer = metered.ask("record_usage_post_resubmit", {"lots": [lot["lot"]]})
    assert (answer.body["accepted"], len(answer.body["rejected"])) == (1, 1)
    assert metered.totals("sub_nobody") == {"17/1": 1}
    (left,) = metered.ask("record_usage_get_rejected").body["items"]
    assert [each["id"] for each in left["events"]] == ["req-2"]
    assert left["lot"] != lot["lot"]


def test_rejected_events_are_forgotten_after_thirty_days(metered: Metered) -> None:
    metered.send(usage_event(1, type="job.done"))
    metered.clock.advance(timedelta(days=29))
    assert len(metered.ask("record_usage_get_rejected").body["items"]) == 1
    metered.clock.advance(timedelta(days=4))
    assert metered.ask("record_usage_get_rejected").body["items"] == []


def test_closed_days_are_compacted_from_the_to_do_list_and_open_ones_near_a_hard_quota(metered: Metered) -> None:
    metered.send(usage_event(1, time="2026-11-16T10:00:00Z"))
    metered.send(usage_event(1, time="2026-11-16T10:00:00Z"), usage_event(2, time="2026-11-16T10:00:00Z"))
    metered.send(usage_event("a"))
    metered.send(usage_event("a"), usage_event("b"))
    assert metered.totals() == {"16/1": 3, "17/1": 3}
    assert _compact() == 1  # yesterday; today is at 60 % of the quota of 5
    assert metered.totals() == {"16/1": 2, "17/1": 3}
    metered.send(usage_event("c"))
    assert _compact() == 1  # today, at 80 %
    assert metered.totals() == {"16/1": 2, "17/1": 3}
    metered.clock.advance(timedelta(days=1))
    assert _compact() == 1
    assert _compact() == 0


def test_a_day_that_billing_sealed_is_not_settled_alone(metered: Metered) -> None:
    metered.send(usage_event(1, time="2026-11-15T10:00:00Z"))
    metered.send(usage_event(1, time="2026-11-16T10:00:00Z"))
    metered.usage.seal(SUB, FIRST, date(2026, 11, 16), metered.shards)
    settle(SUB, FIRST, date(2026, 11, 16), metered.shards, NOW, metered.usage)
    assert metered.totals() == {"15/1": 1, "16/1": 0}
    _compact()
    assert metered.totals() == {"15/1": 1, "16/1": 0}


def test_the_first_batch_of_a_day_is_noted_before_it_is_counted(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered.dynamodb.inject = lambda operation, _request: (
        Fault("TransactionConflict") if operation == "TransactWriteItems" else None
    )
    monkeypatch.setattr(ingest.TimeLeft, "left", lambda _self: 0.0)
    assert metered.send(usage_event(1)).status == 503
    partition = int(keys.compaction(SUB)[-2:])
    assert metered.usage.to_compact(partition, DAY, 10) == ((SUB, DAY),)


def test_live_usage_is_read_by_day_and_meter(metered: Metered) -> None:
    metered.send(usage_event(1), usage_event(2, type="api.transfer", time="2026-11-16T10:00:00Z"))
    ports = wiring.counting()
    subscription = ports.facts.subscriptions([SUB], NOW)[SUB]
    found = counting.live_usage(subscription, FIRST, LAST, NOW, ports)
    assert found.rows == (("met_bytes", date(2026, 11, 16), 1200), ("met_calls", DAY, 1))
    assert found.as_of == NOW
    batches, after = metered.usage.batches(SUB, DAY, 0, after=None, limit=10)
    assert (len(batches), after) == (1, None)


def _compact() -> int:
    answered = ingest.handler({"compact": True}, CONTEXT)  # type: ignore[arg-type]
    return int(answered["compacted"])
