"""What comes in from Stripe: verified, stored once, enqueued until it is done; what is not ours costs nothing."""

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws_lambda_powertools.utilities.batch.exceptions import BatchProcessingError
from stripe import WebhookSignature

from functions.apply_stripe_event.app import handler as apply_handler
from functions.stripe_webhook.app import handler
from local.stripe_emulator import oauth
from local.stripe_emulator.faults import Fault
from local.stripe_emulator.webhooks import Event
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.config import load
from monetize.domain.audit import AuditEntry
from monetize.domain.invoices import Invoice
from monetize.domain.stripe_events import ACCOUNT, ASKED
from monetize.services import payments, reconciling
from monetize.services.applying import apply
from tests.integration.documented import documented
from tests.integration.payment_fixtures import START, Shop, shop

__all__ = ["shop"]

DEAD = "StripeEventsDeadLetters"
EVENTS = Path(__file__).resolve().parents[2] / "events"
CONTEXT = SimpleNamespace(
    function_name="stripe_webhook",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:stripe_webhook",
    memory_limit_in_mb=512,
    aws_request_id="6f0b9c1e",
    get_remaining_time_in_millis=lambda: 10_000,
)

WORKING = SimpleNamespace(**{**vars(CONTEXT), "get_remaining_time_in_millis": lambda: 60_000})


def event(shop: Shop, kind: str, obj: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": more.pop("id", "evt_test"), "object": "event", "type": kind, "created": int(shop.now.timestamp()),
        "livemode": False, "account": shop.account, "data": {"object": obj}, **more,
    }  # fmt: skip


def posted(
    shop: Shop, body: bytes | dict[str, Any], *, secret: str = "", at: int | None = None, encoded: bool = False
) -> dict[str, Any]:
    """The answer to a delivery, signed at an instant by a secret (an active one unless given)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    stamp = int(shop.now.timestamp()) if at is None else at
    signature = WebhookSignature.generate_signature_header(
        raw.decode(), secret or shop.stripe.webhooks.secrets[0], stamp
    )
    sent = json.loads((EVENTS / "stripe_webhook_post.json").read_text())
    sent["headers"]["stripe-signature"] = signature
    sent["body"] = base64.b64encode(raw).decode() if encoded else raw.decode()
    sent["isBase64Encoded"] = encoded
    answer: dict[str, Any] = documented(sent, handler(sent, CONTEXT))
    return answer


def outcome(answer: dict[str, Any]) -> str:
    assert answer["statusCode"] == 200, answer
    return str(json.loads(answer["body"])["outcome"])


def refusal(answer: dict[str, Any]) -> tuple[int, str]:
    return answer["statusCode"], json.loads(answer["body"])["code"]


OURS = {"id": "in_1", "object": "invoice", "metadata": {"monetize": "bill", "invoice": "inv_1"}}


def test_a_signature_of_another_secret_is_refused_and_stores_nothing(shop: Shop) -> None:
    assert refusal(posted(shop, event(shop, "invoice.paid", OURS), secret="whsec_other")) == (400, "bad_signature")
    assert wiring.inbox().get("evt_test") is None


def test_any_active_secret_signs_while_one_is_rotated(shop: Shop) -> None:
    shop.system.ssm.values[load().webhook_secrets_parameter] = json.dumps(["whsec_new", "whsec_old"])
    shop.system.wire()  # what was read before is read again
    for number, secret in enumerate(("whsec_new", "whsec_old")):
        answer = posted(shop, event(shop, "invoice.paid", OURS, id=f"evt_{number}"), secret=secret)
        assert outcome(answer) == "queued"


def test_any_of_a_headers_signatures_may_be_the_one_of_an_active_secret(shop: Shop) -> None:
    """Stripe signs with the old and the new secret while one is rolled; we may know either alone."""
    raw, at = json.dumps(event(shop, "invoice.paid", OURS)), int(shop.now.timestamp())
    old, new = (
        WebhookSignature.generate_signature_header(raw, secret, at).partition(",")[2]
        for secret in ("whsec_unknown", shop.stripe.webhooks.secrets[0])
    )
    for signatures in (f"{old},{new}", f"{new},{old}"):
        sent = json.loads((EVENTS / "stripe_webhook_post.json").read_text())
        sent["headers"]["stripe-signature"] = f"t={at},{signatures}"
        sent |= {"body": raw, "isBase64Encoded": False}
        assert outcome(handler(sent, CONTEXT)) == "queued"


@pytest.mark.parametrize("seconds", [-301, 61])
def test_old_and_future_signatures_are_refused(shop: Shop, seconds: int) -> None:
    at = int(shop.now.timestamp()) + seconds
    assert refusal(posted(shop, event(shop, "invoice.paid", OURS), at=at)) == (400, "stale_signature")


def test_a_base64_body_is_verified_as_the_bytes_that_were_signed(shop: Shop) -> None:
    assert outcome(posted(shop, event(shop, "invoice.paid", OURS), encoded=True)) == "queued"


def test_a_body_above_the_limit_is_refused_unread(shop: Shop) -> None:
    big = event(shop, "invoice.paid", OURS | {"padding": "x" * (512 * 1024)})
    assert refusal(posted(shop, big)) == (413, "body_too_large")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 1}', b"not json"])
def test_a_signed_body_that_is_no_event_is_refused(shop: Shop, body: bytes) -> None:
    assert refusal(posted(shop, body)) == (400, "malformed_event")


@pytest.mark.parametrize("header", ["", "t=1", "v1=ab", "t=x,v1=ab", "t=1,v1=\u00e9", "," * 500])
def test_a_signature_header_that_cannot_be_read_is_refused(shop: Shop, header: str) -> None:
    sent = json.loads((EVENTS / "stripe_webhook_post.json").read_text())
    sent["headers"]["stripe-signature"] = header
    assert refusal(handler(sent, CONTEXT)) == (400, "bad_signature")


@pytest.mark.parametrize("mode", [True, False], ids=["live event", "test event"])
@pytest.mark.parametrize("deployed", ["true", "false"], ids=["live stack", "test stack"])
def test_an_event_for_another_mode_is_dropped_before_it_is_stored(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, deployed: str, mode: bool
) -> None:
    monkeypatch.setenv("LIVEMODE", deployed)
    shop.system.wire()  # what was read before is read again
    answered = outcome(posted(shop, event(shop, "invoice.paid", OURS, livemode=mode)))
    matches = mode == (deployed == "true")
    assert answered == ("queued" if matches else "other_mode")
    assert (wiring.inbox().get("evt_test") is not None) == matches


TAKING = """
import json, sys
from types import SimpleNamespace
from unittest.mock import MagicMock

from functions.stripe_webhook.app import handler
from monetize import wiring

ssm = MagicMock()
ssm.get_parameter.return_value = {"Parameter": {"Value": "whsec_a", "Type": "SecureString", "Name": "secrets"}}
dynamodb, sqs = MagicMock(), MagicMock()
wiring.override(dynamodb=dynamodb, sqs=sqs, ssm=ssm)
event, context = json.load(sys.stdin)
answer = handler(event, SimpleNamespace(**context))
assert dynamodb.put_item.called and sqs.send_message.called, answer
print(json.dumps(sorted(sys.modules)))
"""


def test_taking_an_event_imports_no_sdk_of_stripe_and_holds_no_key_of_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an interpreter of its own, from the first import to the answer."""
    monkeypatch.delenv("STRIPE_KEY_PARAMETER", raising=False)
    raw, at = json.dumps(event(shop, "invoice.paid", OURS)), int(datetime.now(UTC).timestamp())
    sent = json.loads((EVENTS / "stripe_webhook_post.json").read_text())
    sent["headers"]["stripe-signature"] = WebhookSignature.generate_signature_header(raw, "whsec_a", at)
    sent |= {"body": raw, "isBase64Encoded": False}
    context = {name: each for name, each in vars(CONTEXT).items() if not callable(each)}
    done = subprocess.run(  # noqa: S603 # our own interpreter and text
        [sys.executable, "-c", TAKING],
        input=json.dumps([sent, context]),
        cwd=EVENTS.parent,
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join((".", "layers/common/python"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "functions.stripe_webhook.app" in imported
    assert imported & {"stripe", "requests", "pydantic", "aws_xray_sdk", "monetize.adapters.stripe.client"} == set()


def test_an_event_of_the_platforms_own_account_is_dropped_before_it_is_stored(shop: Shop) -> None:
    assert outcome(posted(shop, event(shop, "invoice.paid", OURS, account=""))) == "not_ours"
    assert wiring.inbox().get("evt_test") is None


@pytest.mark.parametrize(
    ("kind", "obj"),
    [
        ("invoice.paid", {"id": "in_x", "object": "invoice", "metadata": {}, "customer": "cus_x"}),
        ("charge.refunded", {"id": "ch_x", "object": "charge", "payment_intent": "pi_x", "customer": "cus_x"}),
        ("payment_method.attached", {"id": "pm_x", "object": "payment_method", "customer": "cus_x"}),
        ("credit_note.created", {"id": "cn_x", "object": "credit_note", "invoice": "in_x", "customer": "cus_x"}),
        ("refund.created", {"id": "re_x", "object": "refund", "payment_intent": "pi_x"}),
        ("product.created", {"id": "prod_x", "object": "product"}),
        ("payment_intent.succeeded", {"id": "pi_x", "object": "payment_intent"}),
    ],
)
def test_a_publishers_other_business_is_dropped_before_any_store_or_call(
    shop: Shop, kind: str, obj: dict[str, Any]
) -> None:
    asked = len(shop.stripe.requests)
    assert outcome(posted(shop, event(shop, kind, obj))) == "not_ours"
    assert wiring.inbox().get("evt_test") is None
    assert len(shop.stripe.requests) == asked


def test_what_happens_to_an_account_that_no_publisher_holds_is_dropped_before_it_is_stored(shop: Shop) -> None:
    for number, kind in enumerate(sorted(ACCOUNT)):
        stranger = event(shop, kind, {"id": "acct_stranger"}, id=f"evt_s{number}", account="acct_stranger")
        assert posted(shop, stranger)["body"] == '{"outcome": "not_ours"}'
        assert wiring.inbox().get(f"evt_s{number}") is None
        assert (
            posted(shop, event(shop, kind, {"id": shop.account}, id=f"evt_o{number}"))["body"]
            == '{"outcome": "queued"}'
        )


def test_a_replayed_event_is_enqueued_until_it_is_done_and_never_after(shop: Shop) -> None:
    made = shop.sent(charge=True)
    sent = event(shop, "invoice.paid", {"id": made.stripe_id, "metadata": {"monetize": "bill", "invoice": made.id}})
    assert outcome(posted(shop, sent)) == "queued"
    assert outcome(posted(shop, sent)) == "queued"
    assert apply("evt_test", shop.now, wiring.applying()) == "applied"
    assert outcome(posted(shop, sent)) == "known"
    revision = shop.invoice(made).rev
    assert apply("evt_test", shop.now, wiring.applying()) == "known"
    assert shop.invoice(made).rev == revision


def test_when_the_queue_does_not_take_it_stripe_is_asked_to_deliver_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DownError(Exception): ...

    def refuse(**_: Any) -> None:
        raise DownError

    sent = event(shop, "invoice.paid", OURS)
    monkeypatch.setattr(shop.system.sqs, "send_message", refuse)
    with pytest.raises(DownError):  # Lambda answers 5xx
        posted(shop, sent)
    monkeypatch.undo()
    assert outcome(posted(shop, sent)) == "queued"


def test_an_event_that_names_our_invoice_from_another_account_changes_nothing(shop: Shop) -> None:
    made = shop.sent()
    forged = {"id": made.stripe_id, "object": "invoice", "metadata": {"monetize": "bill", "invoice": made.id}}
    assert outcome(posted(shop, event(shop, "invoice.paid", forged, account="acct_evil"))) == "queued"
    assert apply("evt_test", shop.now, wiring.applying()) == "foreign"
    twin = forged | {"id": "in_other"}
    assert outcome(posted(shop, event(shop, "invoice.voided", twin, id="evt_twin"))) == "queued"
    assert apply("evt_twin", shop.now, wiring.applying()) == "foreign"
    assert shop.invoice(made) == shop.invoice(made)
    assert shop.invoice(made).status == "open"


@pytest.mark.parametrize("kind", ["refund.created", "payment_method.attached", "customer.updated"])
def test_what_another_account_says_of_ours_is_not_ours(shop: Shop, kind: str) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    payment = shop.invoice(made).payment
    about: dict[str, dict[str, Any]] = {
        "refund.created": {"id": "re_1", "object": "refund", "payment_intent": payment, "metadata": {}},
        "payment_method.attached": {"id": "pm_1", "object": "payment_method", "customer": shop.customer},
        "customer.updated": {
            "id": shop.customer,
            "object": "customer",
            "metadata": {"monetize": "customer", "publisher": "acme", "subscriber": "dev"},
        },
    }
    posted(shop, event(shop, kind, about[kind], account="acct_else"))
    asked = len(shop.stripe.requests)
    assert apply("evt_test", shop.now, wiring.applying()) == "not_ours"
    assert len(shop.stripe.requests) == asked


def test_a_paid_invoice_that_its_bill_does_not_remember_is_not_recorded(shop: Shop) -> None:
    """A second invoice that names a bill of ours: reconciliation shows it, and no event makes it the bill's."""
    bill = shop.draft()
    metadata = {"monetize": "bill", "bill": bill.id, "invoice": "inv_twin"}
    twin = shop.client.v1.invoices.create({"customer": shop.customer, "metadata": metadata}, shop.options)
    shop.client.v1.invoices.finalize_invoice(twin.id, None, shop.options)
    shop.settle()
    found = shop.table.raw(keys.bill(bill.subscription, bill.edge))
    assert found is not None
    assert shop.table.raw(keys.invoice("inv_twin")) is None
    assert json.loads(found["doc"]["S"])["status"] == "drafted"


def test_an_event_whose_object_is_gone_is_done_and_changes_nothing(shop: Shop) -> None:
    made = shop.sent()
    sent = event(shop, "invoice.paid", {"id": made.stripe_id, "metadata": {"monetize": "bill", "invoice": made.id}})
    assert outcome(posted(shop, sent)) == "queued"
    del shop.stripe.accounts[shop.account].invoices[made.stripe_id]
    assert apply("evt_test", shop.now, wiring.applying()) == "gone"
    assert wiring.inbox().get("evt_test")[1] == "done"
    assert shop.invoice(made).status == "open"


def test_a_deleted_draft_of_ours_that_was_never_recorded_is_gone_and_done(shop: Shop) -> None:
    gone = {"id": "in_never", "object": "invoice", "metadata": {"monetize": "bill", "invoice": "inv_never"}}
    assert outcome(posted(shop, event(shop, "invoice.finalized", gone))) == "queued"
    assert apply("evt_test", shop.now, wiring.applying()) == "gone"


def test_ten_thousand_events_in_reverse_order_end_where_the_last_one_would(shop: Shop) -> None:
    """All events of one invoice's life, a thousand times over, newest first: as if each had been heard in time."""
    shop.decline()
    made = shop.sent()
    kept: list[Any] = []
    shop.stripe.webhooks.fate = lambda told: kept.extend([told]) or ()  # type: ignore[func-returns-value]
    shop.charge(made)
    shop.charge(made, attempt=1)
    shop.accept()
    shop.charge(made, attempt=2)
    shop.stripe.refund_charge(shop.account, _charge(shop, made.stripe_id), 1000)
    shop.stripe.refund_charge(shop.account, _charge(shop, made.stripe_id), 500)
    kept.reverse()
    ports = wiring.receiving()
    assert len(kept) >= 10
    notices = [ports.read(each.text().encode()).notice for each in kept]
    for number in range(10_000):
        notice = replace(notices[number % len(kept)], id=f"evt_{number % 1000}")
        if ports.known(notice.about) and wiring.inbox().put_if_absent(notice, shop.now):
            apply(notice.id, shop.now, wiring.applying())
    invoice = shop.invoice(made)
    assert (invoice.status, invoice.amount_paid, invoice.refunded, invoice.attempts) == ("paid", 4900, 1500, 1)
    assert shop.bill(made).status == "paid"
    assert shop.subscription().payment_state == "current"


def _charge(shop: Shop, stripe_id: str) -> str:
    intents = shop.stripe.accounts[shop.account].payment_intents
    return str(next(each["latest_charge"] for each in intents.values() if each["status"] == "succeeded"))


def test_a_webhook_lost_for_three_days_is_made_up_for_by_the_schedule(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.stripe.webhooks.due(shop.now)
    shop.system.clock.move_to(START + timedelta(days=3))
    assert payments.attempt(made.id, shop.now, wiring.payments()).outcome == "settled"
    assert shop.invoice(made).status == "paid"


def test_stripe_down_for_an_hour_delays_events_and_buries_none(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.stripe.faults.append(Fault("refused", method="GET", times=10**6))
    shop.system.run_until(shop.now + timedelta(hours=1))
    assert shop.invoice(made).status == "open"
    shop.stripe.faults.clear()
    shop.system.run_until(shop.now + timedelta(minutes=16))
    assert shop.invoice(made).status == "paid"
    queues = shop.system.stack.queues().values()
    buried = next(each.dead_letters for each in queues if "StripeEventsQueue" in each.name)
    assert buried is not None
    assert shop.system.sqs.take(buried, 10) == []


def test_a_credit_note_that_is_voided_by_hand_is_owed_again_at_once(shop: Shop) -> None:
    """Stripe tells it with two events; only the one about the note is asked for."""
    made = shop.sent()
    note = shop.client.v1.credit_notes.create({"invoice": made.stripe_id, "amount": 900}, shop.options)
    shop.settle()
    assert shop.invoice(made).credited == 900
    shop.client.v1.credit_notes.void_credit_note(note.id, None, shop.options)
    for delivery in shop.stripe.webhooks.due(shop.now):
        if delivery.event.type in ASKED:
            shop.stripe.webhooks.redeliver(delivery.event, shop.now)
    shop.settle()
    invoice = shop.invoice(made)
    assert (invoice.credited, invoice.amount_remaining) == (0, 4900)
    assert shop.audited().count(("stripe", "invoice.credit_note", made.id)) == 2


@pytest.mark.parametrize("seed", range(12))
def test_events_in_any_order_at_any_time_end_in_one_state(shop: Shop, seed: int) -> None:
    """Each event of a story reaches us at some moment after it happened, some twice, while the story goes on."""
    chance, kept = random.Random(seed), list[Event]()
    happened = iter(_story(shop))
    made = next(happened)
    for _ in happened:
        new = [each for each in shop.stripe.webhooks.events.values() if each not in kept]
        silence(shop)
        kept += new
        for each in chance.sample(kept, min(len(kept), chance.randint(0, 3))):
            shop.stripe.webhooks.redeliver(each, shop.now)
        shop.settle()
    chance.shuffle(kept)
    for each in kept:
        shop.stripe.webhooks.redeliver(each, shop.now)
        shop.settle()
    invoice, subscription = shop.invoice(made), shop.subscription()
    assert (invoice.status, invoice.amount_paid, invoice.refunded, invoice.credited, invoice.disputed) == (
        "paid", 4900, 700, 300, "won",
    )  # fmt: skip
    assert (invoice.next_attempt_at, invoice.pending, invoice.failure) == (None, (), "")
    assert (subscription.payment_state, subscription.unpaid, subscription.suspend_at) == ("current", (), None)
    assert shop.bill(made).status == "paid"
    assert shop.subscriber().customers[0].payment_method == shop.card
    assert shop.publisher().status == "enabled"
    report = reconciling.reconcile("acme", shop.now, lambda: True, wiring.reconciling())
    assert report.clean, report.findings


def _story(shop: Shop) -> Iterator[Any]:
    """Declined, paid, partly refunded and credited, disputed and won; the account was restricted, left, came back."""
    shop.decline()
    made = shop.sent(charge=True)
    yield made
    shop.accept()
    shop.charge(made, attempt=1)
    yield
    charge = _charge(shop, made.stripe_id)
    shop.stripe.refund_charge(shop.account, charge, 700)
    shop.stripe.restrict(shop.account, currently_due=["external_account"])
    yield
    shop.client.v1.credit_notes.create({"invoice": made.stripe_id, "credit_amount": 300}, shop.options)
    shop.stripe.restrict(shop.account, charges_enabled=True)
    yield
    dispute = shop.stripe.open_dispute(shop.account, charge)
    yield
    shop.stripe.deauthorize(shop.account)
    oauth.connect(shop.stripe, shop.stripe.accounts[shop.account], "read_write")
    shop.stripe.close_dispute(shop.account, dispute["id"], won=True)
    yield


def silence(shop: Shop) -> None:
    while shop.stripe.webhooks.due(shop.now):
        pass


def test_stripe_hanging_buries_no_event_that_had_to_wait_its_turn(shop: Shop) -> None:
    """Two events take all the time of a batch. The others were not tried: they wait, and it counts as no failure."""
    made = shop.sent(charge=True)
    records = batch_of(shop, made, 5)
    shop.stripe.faults.append(Fault("refused", method="GET", times=10**6))
    left = iter([60_000, 38_000, 16_000, 16_000, 16_000])
    hanging = SimpleNamespace(**{**vars(CONTEXT), "get_remaining_time_in_millis": lambda: next(left)})
    assert apply_handler({"Records": records}, hanging) == {"batchItemFailures": []}
    again = [json.loads(each.body) for each in shop.system.sqs.messages("StripeEventsQueue")]
    ours = [each for each in again if each["event"].startswith("evt_hang")]
    assert sorted((each["event"], each["tries"]) for each in ours) == [
        ("evt_hang0", 1), ("evt_hang1", 1), ("evt_hang2", 0), ("evt_hang3", 0), ("evt_hang4", 0),
    ]  # fmt: skip
    shop.stripe.faults.clear()
    shop.system.run_for(timedelta(minutes=30))
    assert all(wiring.inbox().get(each["event"])[1] == "done" for each in ours)
    assert shop.system.sqs.messages(DEAD) == []


def test_a_refused_platform_key_is_set_apart_so_that_the_alarm_tells(shop: Shop) -> None:
    made = shop.sent(charge=True)
    (record,) = batch_of(shop, made, 1)
    sent, key = shop.system.sqs.messages("StripeEventsQueue"), shop.stripe.platform_key
    shop.stripe.platform_key = "sk_test_rolled"
    with pytest.raises(BatchProcessingError):  # all of the batch failed
        apply_handler({"Records": [record]}, WORKING)
    assert shop.system.sqs.messages("StripeEventsQueue") == sent
    shop.stripe.platform_key = key
    assert apply_handler({"Records": [record]}, WORKING) == {"batchItemFailures": []}
    assert shop.invoice(made).status == "paid"


def batch_of(shop: Shop, made: Invoice, number: int) -> list[dict[str, Any]]:
    """So many events about one invoice, received and stored, as the queue hands them over."""
    record = json.loads((EVENTS / "apply_stripe_event_queue.json").read_text())["Records"][0]
    about = {"id": made.stripe_id, "metadata": {"monetize": "bill", "invoice": made.id}}
    names = [f"evt_hang{at}" for at in range(number)]
    for name in names:
        posted(shop, event(shop, "invoice.paid", about, id=name))
    queue = next(each.arn for each in shop.system.stack.queues().values() if "StripeEventsQueue" in each.name)
    for message in shop.system.sqs.take(queue, 10):
        shop.system.sqs.delete(queue, message)
    return [record | {"messageId": name, "body": json.dumps({"event": name})} for name in names]


def test_an_invoice_paid_twice_is_charged_once(shop: Shop) -> None:
    made = shop.sent()
    shop.charge(made)
    shop.charge(made)
    shop.stripe.webhooks.due(shop.now)
    assert payments.attempt(made.id, shop.now + timedelta(hours=1), wiring.payments()).outcome == "settled"
    intents = shop.stripe.accounts[shop.account].payment_intents
    assert [each["amount_received"] for each in intents.values() if each["amount_received"]] == [4900]
    assert shop.invoice(made).amount_paid == 4900


def test_a_poisoned_message_is_set_apart_and_the_rest_of_its_batch_is_applied(shop: Shop) -> None:
    made = shop.sent(charge=True)
    sent = event(shop, "invoice.paid", {"id": made.stripe_id, "metadata": {"monetize": "bill", "invoice": made.id}})
    posted(shop, sent)
    batch = json.loads((EVENTS / "apply_stripe_event_queue.json").read_text())
    record = batch["Records"][0]
    batch["Records"] = [
        record | {"messageId": "bad", "body": "{"},
        record | {"messageId": "good", "body": '{"event": "evt_test"}'},
        record | {"messageId": "unknown", "body": '{"event": "evt_never"}'},
    ]
    answer = apply_handler(batch, WORKING)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
    assert shop.invoice(made).status == "paid"


def test_what_was_poison_is_applied_once_when_its_cause_is_mended_and_it_is_moved_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    sqs = shop.system.sqs
    made = shop.sent(charge=True)
    with monkeypatch.context() as broken:
        broken.setattr(payments, "heard", defect)
        shop.settle()
        shop.system.run_for(timedelta(minutes=40))
    dead = sqs.messages(DEAD)
    assert dead
    assert shop.invoice(made).status == "open"
    url = sqs.get_queue_url(QueueName=DEAD)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.start_message_move_task(SourceArn=arn)
    shop.settle()
    paid = shop.invoice(made)
    assert paid.status == "paid"
    assert sqs.messages(DEAD) == []
    for each in dead:  # and once more
        queue = wiring.stripe_events_queue()
        queue.send(json.loads(each.body))
    shop.settle()
    assert shop.invoice(made) == paid


def test_the_effect_and_the_done_mark_are_one_write(shop: Shop) -> None:
    """Another worker ended the event between our reading and our writing: nothing is written twice."""
    made = shop.sent(charge=True)
    sent = event(shop, "invoice.paid", {"id": made.stripe_id, "metadata": {"monetize": "bill", "invoice": made.id}})
    posted(shop, sent)
    wiring.payment_table().save(event=("evt_test", "elsewhere"))
    ports = wiring.payments()
    from monetize.domain.errors import PreconditionFailed

    with pytest.raises(PreconditionFailed):
        payments.heard(made.id, "evt_test", shop.now, ports)
    assert shop.invoice(made).status == "open"
    assert shop.table.list(AuditEntry, keys.audit("acme", "2026-03").pk).items == ()
