"""The platform's share of a publisher's invoices: set by the operator, taken and given back by Stripe."""

import json
from itertools import pairwise
from typing import Any

import pytest

from local.http_client import Api, Refused
from local.system import System
from tests.integration.test_billing import FEBRUARY, GRACE, MARCH, Shop, open_shop, shop

__all__ = ["shop"]

FEE = "/monetization/publishers/acme/fee"


def operator(shop: Shop) -> Api:
    return shop.world.as_user("olga", "platform", "operator")


def set_fee(shop: Shop, percent: str, fixed: int) -> Any:
    etag = operator(shop).answer("GET", FEE).headers["etag"]
    return operator(shop).call("PUT", FEE, {"percent": percent, "fixed": fixed}, If_Match=etag)


def refusal(api: Api, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        api.call(method, path, body, **headers)
    return refused.value.status, str(json.loads(refused.value.body)["code"])


def fees(shop: Shop) -> list[tuple[int, int]]:
    """What the platform took of each payment at Stripe and what of it went back, oldest first."""
    taken = shop.system.emulator.platform.application_fees.newest_first()
    return [(each["amount"], each["amount_refunded"]) for each in reversed(list(taken))]


def invoice_of(shop: Shop, month: str) -> Any:
    return shop.publisher.call("GET", f"/invoices?side=publisher&month={month}")["items"][0]


# --- setting it ---


def test_an_operator_sets_the_share_and_the_publisher_sees_it_in_its_status_and_audit(shop: Shop) -> None:
    assert operator(shop).call("GET", FEE) == {"percent": "0", "fixed": 0}
    assert set_fee(shop, "2.50", 30) == {"percent": "2.5", "fixed": 30}
    assert shop.publisher.call("GET", "/monetization")["fee"] == {"percent": "2.5", "fixed": 30}
    audit = shop.publisher.call("GET", "/audit?month=2026-01")["items"]
    (entry,) = (each for each in audit if each["action"] == "monetization.fee")
    assert (entry["actor"], entry["organization"], entry["target"]) == ("olga", "platform", "acme")
    assert (entry["before"], entry["after"]) == (
        {"percent": "0", "fixed": "0"},
        {"percent": "2.5", "fixed": "30"},
    )


def test_the_share_is_set_by_an_operator_alone_and_only_as_it_was_read(shop: Shop) -> None:
    etag = operator(shop).answer("GET", FEE).headers["etag"]
    body = {"percent": "1", "fixed": 0}
    assert refusal(shop.publisher, "PUT", FEE, body, If_Match=etag) == (403, "missing_role")
    assert refusal(shop.publisher, "GET", FEE) == (403, "missing_role")
    assert refusal(operator(shop), "PUT", FEE, body)[0] == 428
    operator(shop).call("PUT", FEE, body, If_Match=etag)
    assert refusal(operator(shop), "PUT", FEE, body, If_Match=etag)[0] == 412
    unknown = FEE.replace("acme", "nobody")
    assert refusal(operator(shop), "GET", unknown) == (404, "unknown_publisher")
    assert refusal(operator(shop), "PUT", unknown, body, If_Match=etag) == (404, "unknown_publisher")


@pytest.mark.parametrize(
    "body",
    [{"percent": "100.1", "fixed": 0}, {"percent": "-1", "fixed": 0}, {"percent": "1", "fixed": -1}, {"percent": "1"}],
)
def test_a_share_that_makes_no_sense_is_refused(shop: Shop, body: dict[str, Any]) -> None:
    etag = operator(shop).answer("GET", FEE).headers["etag"]
    assert refusal(operator(shop), "PUT", FEE, body, If_Match=etag)[0] == 422
    assert operator(shop).call("GET", FEE) == {"percent": "0", "fixed": 0}


# --- what it comes to ---


def test_the_share_is_taken_of_bills_rated_from_then_on(shop: Shop) -> None:
    set_fee(shop, "2.5", 30)
    shop.world.run_until(FEBRUARY + GRACE)
    assert [bill.application_fee for bill in shop.bills()] == [0, 25 + 30]
    assert fees(shop) == [(55, 0)]
    assert invoice_of(shop, "2026-02")["application_fee"] == 55
    told = shop.subscriber.call("GET", "/invoices?side=subscriber&publisher=acme&month=2026-02")["items"][0]
    assert told["application_fee"] is None
    set_fee(shop, "0", 0)
    shop.world.run_until(MARCH + GRACE)
    assert fees(shop) == [(55, 0)]


def test_the_share_is_of_what_discounts_left_and_never_more_than_that(shop: Shop) -> None:
    set_fee(shop, "10", 500)
    path = f"/subscriptions/{shop.subscription}/discounts"
    shop.publisher.call("POST", path, {"amount": 900, "once": True}, Idempotency_Key="d")
    shop.world.run_until(MARCH + GRACE)
    assert [(bill.subtotal, bill.application_fee) for bill in shop.bills()[1:]] == [(100, 100), (1000, 600)]
    assert fees(shop) == [(100, 0), (600, 0)]


def test_the_share_is_an_amount_that_the_currency_can_be_charged_in(system: System) -> None:
    fee = {"id": "fee", "name": "Gold", "model": "flat", "amount": 100_000, "timing": "advance"}
    shop = open_shop(system, {"name": "Gold", "terms": {"currency": "isk", "charges": [fee]}})
    set_fee(shop, "1.26", 0)
    shop.world.run_until(FEBRUARY + GRACE)
    assert fees(shop) == [(1300, 0)]  # 1260 is no whole króna


def test_refunds_in_part_and_of_all_return_the_share_in_proportion(shop: Shop) -> None:
    set_fee(shop, "9.9", 0)
    shop.world.run_until(FEBRUARY + GRACE)
    assert fees(shop) == [(99, 0)]
    path = f"/invoices/{invoice_of(shop, '2026-02')['id']}/refunds"
    shop.publisher.call("POST", path, {"amount": 300}, Idempotency_Key="one")
    assert fees(shop) == [(99, 29)]
    shop.publisher.call("POST", path, {"amount": 300}, Idempotency_Key="one")
    assert fees(shop) == [(99, 29)], "the same request is one refund"
    shop.publisher.call("POST", path, {"amount": 333}, Idempotency_Key="two")
    assert fees(shop) == [(99, 62)]
    shop.publisher.call("POST", path, {}, Idempotency_Key="rest")
    assert fees(shop) == [(99, 99)]
    shop.world.settle()
    assert invoice_of(shop, "2026-02")["refunded"] == 1000


def test_credit_notes_that_refund_return_the_share_too_and_the_parts_make_the_whole(shop: Shop) -> None:
    set_fee(shop, "7.77", 0)
    shop.world.run_until(FEBRUARY + GRACE)
    assert fees(shop) == [(78, 0)]
    inv = invoice_of(shop, "2026-02")["id"]
    back = [0]
    steps = [
        ("credit-notes", {"amount": 333, "to": "card"}),
        ("refunds", {"amount": 334}),
        ("credit-notes", {"amount": 111, "to": "card"}),
        ("refunds", {}),
    ]
    for number, (verb, body) in enumerate(steps):
        shop.publisher.call("POST", f"/invoices/{inv}/{verb}", body, Idempotency_Key=f"k{number}")
        shop.world.settle()
        back.append(fees(shop)[0][1])
    assert [after - before for before, after in pairwise(back)] == [25, 27, 8, 18]
    assert back[-1] == 78
    told = invoice_of(shop, "2026-02")
    assert (told["refunded"], told["credited"]) == (1000, 444)
