"""The routes of an invoice's payment, asked through the events that the documentation shows."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from functions.publish_events.app import handler as publish_handler
from functions.reconcile.app import handler as reconcile_handler
from functions.reports.app import handler
from tests.integration.documented import documented
from tests.integration.payment_fixtures import Shop, shop

__all__ = ["shop"]

EVENTS = Path(__file__).resolve().parents[2] / "events"
CONTEXT = SimpleNamespace(
    function_name="reports",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:reports",
    memory_limit_in_mb=512,
    aws_request_id="6f0b9c1e",
    get_remaining_time_in_millis=lambda: 29_000,
)


def read(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return event


def ask(name: str, invoice: str, *, key: str | None = "", body: Any = None, **claims: str) -> tuple[int, Any]:
    """The answer to `events/reports_{name}.json` for this invoice, as somebody. `key`: empty keeps the event's own."""
    event = read(f"reports_{name}")
    path = event["rawPath"].replace("inv_00000000000000000000000001", invoice)
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["authorizer"]["jwt"]["claims"] |= claims
    if key is None:
        del event["headers"]["idempotency-key"]
    elif key:
        event["headers"]["idempotency-key"] = key
    if body is not None:
        event["body"] = json.dumps(body)
    answer = documented(event, handler(event, CONTEXT))
    return answer["statusCode"], json.loads(answer["body"])


def test_credit_notes_refunds_and_the_rest_answer_with_the_invoice_after_them(shop: Shop) -> None:
    made = shop.sent(charge=True)
    shop.settle()
    status, body = ask("post_credit_note", made.id)
    assert (status, body["action"], body["amount"]) == (200, "credit", 900)
    assert (body["invoice"]["credited"], body["invoice"]["refunded"]) == (900, 900)
    assert body["made"].startswith("cn_")
    status, body = ask("post_refund", made.id)
    assert (status, body["invoice"]["refunded"]) == (200, 1800)
    assert [step["what"] for step in body["invoice"]["history"]] == ["paid", "credited", "refunded", "refunded"]


def test_void_retry_and_write_off_move_an_open_invoice(shop: Shop) -> None:
    shop.decline()
    made = shop.sent(charge=True)
    shop.settle()
    status, body = ask("post_retry", made.id)
    assert (status, body["invoice"]["status"], body["made"]) == (200, "payment_failed", "declined")
    assert ask("post_mark_uncollectible", made.id)[1]["invoice"]["status"] == "uncollectible"
    assert ask("post_void", made.id)[1]["invoice"]["status"] == "void"
    assert ask("post_void", made.id, key="another")[1]["code"] == "not_open"


@pytest.mark.parametrize(
    "name", ["post_credit_note", "post_refund", "post_void", "post_retry", "post_mark_uncollectible"]
)
def test_every_one_needs_a_key_the_right_role_and_the_right_tenant(shop: Shop, name: str) -> None:
    made = shop.sent()
    assert ask(name, made.id, key=None)[1]["code"] == "idempotency_key_required"
    assert ask(name, made.id, roles="publisher_viewer")[1]["code"] == "missing_role"
    assert ask(name, made.id, organization="other") == ask(name, "inv_never", organization="other")
    assert ask(name, made.id, organization="other")[0] == 404
    assert shop.invoice(made).rev == 1


@pytest.mark.parametrize(
    "body", [{"amount": 0}, {"amount": -5}, {"amount": 1.5}, {"amount": "5"}, {"to": "bank"}, {"surplus": 1}, []]
)
def test_a_credit_note_of_another_form_is_refused_and_changes_nothing(shop: Shop, body: Any) -> None:
    made = shop.sent()
    assert ask("post_credit_note", made.id, body=body)[0] == 422
    assert shop.invoice(made).rev == 1


def test_more_than_is_left_is_refused_and_says_how_much_is(shop: Shop) -> None:
    made = shop.sent()
    status, body = ask("post_credit_note", made.id, body={"amount": 4901})
    assert (status, body["code"], body["most"]) == (409, "above_creditable", 4900)


def test_the_payment_link_is_for_those_who_pay_or_sell(shop: Shop) -> None:
    made = shop.sent()
    status, body = ask("get_payment_link", made.id)
    assert (status, list(body)) == (200, ["url"])
    assert ask("get_payment_link", made.id, organization="stranger")[0] == 404
    assert ask("get_payment_link", made.id, roles="gateway")[0] == 403


def test_the_example_events_of_reconciliation_and_outbox_are_genuine(shop: Shop) -> None:
    for name in ("reconcile_post", "reconcile_get"):
        answer = reconcile_handler(read(name), CONTEXT)
        assert json.loads(answer["body"])["clean"]
    assert reconcile_handler(read("reconcile_daily"), _long()) == {
        "accounts": 1,
        "finished": True,
    }
    assert publish_handler(read("publish_events_stream"), CONTEXT) == {"batchItemFailures": []}
    assert shop.system.outbox()[-1].detail["type"] == "subscription.past_due"


def _long() -> Any:
    return SimpleNamespace(**{**vars(CONTEXT), "get_remaining_time_in_millis": lambda: 900_000})
