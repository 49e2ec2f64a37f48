"""What was set apart comes back: a rehearsal for every queue of dead letters, in the way that docs/deploy.md says."""

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from functions.publish_events.app import handler as publish
from local import template as templates
from local.system import System
from local.triggers import stream_record
from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.services import publishing, reconciling
from tests.integration.payment_fixtures import Shop, shop
from tests.integration.test_billing import FEBRUARY, open_shop

__all__ = ["shop"]

ROOT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)

CONTEXT: Any = SimpleNamespace(
    function_name="publish_events",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:publish_events",
    memory_limit_in_mb=256,
    aws_request_id="6f0b9c1e",
)

REHEARSALS = {
    "StripeEventsDeadLetters": "test_what_was_poison_is_applied_once_when_its_cause_is_mended_and_it_is_moved_back",
    "BillingDeadLetters": "test_a_bill_that_was_set_apart_is_sent_once_when_it_is_moved_back",
    "SchedulesDeadLetters": "test_a_scheduled_run_that_was_given_up_is_made_up_for_by_the_next",
    "OutboxDeadLetters": "test_events_that_were_set_apart_are_told_when_the_stream_is_read_again_under_the_same_ids",
    "AccessLogsDeadLetters": "test_what_could_not_be_stored_is_delivered_again",
}


def defect(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


def move_back(system: System, queue: str) -> None:
    """`aws sqs start-message-move-task`."""
    url = system.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    arn = system.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    system.sqs.start_message_move_task(SourceArn=arn)


def test_every_queue_of_dead_letters_has_a_way_back_that_is_written_down_and_rehearsed() -> None:
    queues = templates.resources(templates.load(ROOT / "template.yaml"), "AWS::SQS::Queue")
    assert {name for name, _ in queues if name.endswith("DeadLetters")} == set(REHEARSALS)
    guide = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for queue, rehearsal in REHEARSALS.items():
        assert f"| `{queue}Alarm` |" in guide
        assert f"def {rehearsal}(" in tests


def test_a_bill_that_was_set_apart_is_sent_once_when_it_is_moved_back(system: System) -> None:
    sells = open_shop(system)
    opening = len(sells.invoices())
    sells.world.run_until(FEBRUARY + timedelta(hours=30))
    system.schedules.at_most_every = None  # every tick, as it is
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(StripeInvoices, "create_draft", defect)
        sells.world.run_until(FEBRUARY + timedelta(hours=41))
    dead = system.sqs.messages("BillingDeadLetters")
    assert dead
    assert sells.bills()[-1].sent_at is None
    move_back(system, "BillingDeadLetters")
    url = system.sqs.get_queue_url(QueueName="BillingQueue")["QueueUrl"]
    for each in dead:  # and once more
        system.sqs.send_message(QueueUrl=url, MessageBody=each.body)
    system.pump()
    assert [bill.status for bill in sells.bills()] == ["paid", "paid"]
    assert [each["status"] for each in sells.invoices()[opening:]] == ["paid"]
    assert system.sqs.messages("BillingDeadLetters") == []


def test_a_scheduled_run_that_was_given_up_is_made_up_for_by_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    shop.stripe.refund_charge(shop.account, shop.charge_of(made), 100)
    while shop.stripe.webhooks.due(shop.now):
        pass
    with monkeypatch.context() as broken:
        broken.setattr(reconciling, "reconcile_all", defect)
        shop.system.run_for(timedelta(hours=25))
    payloads = [json.loads(each.body)["requestPayload"] for each in shop.system.sqs.messages("SchedulesDeadLetters")]
    assert {"reconcile": "daily"} in payloads
    assert shop.invoice(made).refunded == 0
    shop.system.run_for(timedelta(hours=24))
    assert shop.invoice(made).refunded == 100
    after = shop.invoice(made)
    for payload in payloads:  # whoever does not want to wait
        assert shop.system.functions.invoke("ReconcileFunction", payload)["finished"]
    assert shop.invoice(made) == after


def test_events_that_were_set_apart_are_told_when_the_stream_is_read_again_under_the_same_ids(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(shop.system.outbox())
    with monkeypatch.context() as broken:
        broken.setattr(publishing, "events_of", defect)
        made = shop.sent(charge=True)
        shop.settle()
    letters = [json.loads(each.body) for each in shop.system.sqs.messages("OutboxDeadLetters")]
    assert {each["why"] for each in letters} == {"ZeroDivisionError"}
    assert shop.system.outbox(before) == []
    changes = shop.system.dynamodb.changes(shop.table.name, 0)
    assert {each["position"] for each in letters} <= {str(each.sequence) for each in changes}
    known = {each.detail["id"] for each in shop.system.outbox()}
    for start in range(0, len(changes), 100):
        records = [stream_record(shop.table.name, each) for each in changes[start : start + 100]]
        assert publish({"Records": records}, CONTEXT) == {"batchItemFailures": []}
    again = [each.detail for each in shop.system.outbox(before)]
    assert known <= {each["id"] for each in again}
    told = [each["type"] for each in again if each["entity"]["id"] == made.id]
    assert told == ["invoice.sent", "payment.succeeded", "invoice.paid"]
    assert len({each["id"] for each in again}) == len(again)
