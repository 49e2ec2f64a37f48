"""Whole lives of subscriptions through the local system: orders, usage, corrections, changes, ends, and their bills."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from local.http_client import Api, Refused
from tests.integration.test_billing import FEBRUARY, GRACE, Shop, shop

__all__ = ["shop"]


def refusal(api: Api, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and code of a request that is refused."""
    with pytest.raises(Refused) as refused:
        api.call(method, path, body, **headers)
    return refused.value.status, str(json.loads(refused.value.body)["code"])


def correction(shop: Shop, day: str, quantity: int) -> dict[str, Any]:
    return {
        "subscription": shop.subscription,
        "meter": shop.offer.meters["calls"],
        "day": day,
        "quantity": quantity,
        "reason": "counted twice",
    }


def test_until_the_last_bill_usage_is_accepted_and_billed_and_after_it_refused(shop: Shop) -> None:
    shop.world.run_until(FEBRUARY + GRACE)  # January is billed
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/pause")
    shop.world.run_until(datetime(2026, 2, 8, tzinfo=UTC))  # and February up to the pause
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    bills = len(shop.bills())
    shop.world.run_until(datetime(2026, 2, 8, 23, 59, tzinfo=UTC))
    assert len(shop.bills()) == bills
    told = shop.use("2026-01-20", 15)
    assert (told["accepted"], told["late"]) == (0, 15)
    told = shop.use("2026-02-03", 12)
    assert (told["accepted"], told["late"]) == (0, 12)
    shop.system.clock.move_to(datetime(2026, 2, 9, tzinfo=UTC))
    told = shop.use("2026-02-03", 20, prefix="after")
    assert {each["code"] for each in told["rejected"]} == {"subscription_ended"}
    assert (told["accepted"], told["late"], len(told["rejected"])) == (0, 0, 20)
    shop.world.run_until(datetime(2026, 2, 12, tzinfo=UTC))
    paused, last = shop.bills()[-2:]
    assert (last.last, len(last.late)) == (True, 2)
    assert last.carry_out == paused.carry_out + 25 + 25  # what the pause gave back pays for it


def test_what_a_last_bill_leaves_in_favour_of_the_subscriber_becomes_a_credit_note(shop: Shop) -> None:
    shop.world.run_until(FEBRUARY + GRACE)
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    shop.world.run_until(datetime(2026, 2, 7, 12, tzinfo=UTC))
    last = shop.bills()[-1]
    unused = round(1000 * (28 - 3) / 28)
    assert (last.last, last.subtotal, last.carry_out) == (True, 0, -unused)
    notes = list(shop.system.emulator.account(shop.account).credit_notes.values())
    assert [(note["amount"], note["invoice"]) for note in notes] == [(unused, shop.invoices()[-1]["id"])]


def test_a_correction_that_no_bill_could_take_is_refused(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 12, tzinfo=UTC))
    shop.use("2026-01-10", 31)
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "now"})
    order = correction(shop, "2026-01-10", -10)
    made = shop.publisher.call("POST", "/usage/corrections", order, Idempotency_Key="first")
    assert made["outcome"] == "counted"
    shop.world.run_until(FEBRUARY)
    assert shop.bills()[-1].last
    later = correction(shop, "2026-01-10", -5)
    refused = refusal(shop.publisher, "POST", "/usage/corrections", later, Idempotency_Key="second")
    assert refused == (409, "subscription_ended")
    again = shop.publisher.call("POST", "/usage/corrections", order, Idempotency_Key="first")
    assert again["outcome"] == "repeated"
