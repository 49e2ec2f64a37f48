"""The checker of request parameters against the SDK's own types."""

from typing import Any

import pytest

from local.stripe_emulator import parameters, world
from local.stripe_emulator.refusals import Refusal

INVOICE = "/v1/invoices"
LINES = "/v1/invoices/{}/add_lines"


def refused(verb: str, path: str, encoded: str) -> dict[str, Any]:
    with pytest.raises(Refusal) as raised:
        parameters.check(verb, path, parameters.decode(encoded))
    assert raised.value.status == 400
    assert not raised.value.stored
    error: dict[str, Any] = raised.value.body["error"]
    return error


def test_every_operation_of_the_sdk_compiles_into_a_checker() -> None:
    assert len(parameters.operations()) == 647
    for verb, path in parameters.operations():
        assert callable(parameters.checker_of(verb, path))


def test_every_emulated_operation_is_one_of_the_sdk() -> None:
    from local.stripe_emulator import core

    assert core.RESOURCES
    emulated = {operation for operation in world.routes() if not operation[1].startswith("/oauth/")}
    assert emulated <= set(parameters.operations())


def test_values_come_out_with_their_types() -> None:
    encoded = (
        "lines[1][price_data][currency]=usd&lines[1][price_data][product]=prod_1&lines[1][quantity]=2"
        "&lines[1][price_data][unit_amount_decimal]=0.5&lines[0][amount]=-5&lines[0][discountable]=false"
        "&lines[0][metadata][bill]=b1&expand[0]=customer"
    )
    checked = parameters.check("POST", LINES, parameters.decode(encoded))
    assert checked["lines"][0] == {"amount": -5, "discountable": False, "metadata": {"bill": "b1"}}
    assert checked["lines"][1]["quantity"] == 2
    assert str(checked["lines"][1]["price_data"]["unit_amount_decimal"]) == "0.5"
    assert checked["expand"] == ["customer"]


@pytest.mark.parametrize(
    ("verb", "path", "encoded", "code", "param"),
    [
        ("POST", INVOICE, "custmer=cus_1", "parameter_unknown", "custmer"),
        ("POST", INVOICE, "stripe_account=acct_1", "parameter_unknown", "stripe_account"),
        ("POST", INVOICE, "automatic_tax[enabld]=true", "parameter_unknown", "automatic_tax[enabld]"),
        ("POST", INVOICE, "automatic_tax[liability][type]=self", "parameter_missing", "automatic_tax[enabled]"),
        ("POST", LINES, "", "parameter_missing", "lines"),
        ("POST", LINES, "lines[0][period][start]=1", "parameter_missing", "lines[0][period][end]"),
        ("POST", LINES, "lines[0][amount]=1.5", "parameter_invalid_integer", "lines[0][amount]"),
        ("POST", LINES, "lines[0][amount]=", "parameter_invalid_integer", "lines[0][amount]"),
        ("POST", LINES, "lines=1", None, "lines"),
        ("POST", LINES, "lines[a][amount]=1", None, "lines"),
        ("POST", INVOICE, "auto_advance=yes", None, "auto_advance"),
        ("POST", INVOICE, "collection_method=by_hand", None, "collection_method"),
        ("POST", INVOICE, "customer[id]=cus_1", None, "customer"),
        ("POST", INVOICE, "customer=", "parameter_invalid_empty", "customer"),
        ("POST", INVOICE, "metadata[a][b]=1", None, "metadata[a]"),
        ("GET", INVOICE, "created[since]=1", "parameter_unknown", "created[since]"),
        ("GET", INVOICE, "created=yesterday", "parameter_invalid_integer", "created"),
        ("GET", INVOICE, "status=late", None, "status"),
        ("POST", "/v1/checkout/sessions", "mode=setup&ui_mode=hosted", None, "ui_mode"),
        ("POST", LINES, "lines[0][quantity_decimal]=NaN", None, "lines[0][quantity_decimal]"),
        ("POST", LINES, "lines[0][quantity_decimal]=0.0000000000001", None, "lines[0][quantity_decimal]"),
    ],
)
def test_a_wrong_parameter_is_named(verb: str, path: str, encoded: str, code: str | None, param: str) -> None:
    error = refused(verb, path, encoded)
    assert (error.get("code"), error["param"]) == (code, param)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        (INVOICE, "discounts=&metadata=&footer=x"),
        (INVOICE, "metadata[gone]="),
        ("/v1/customers/{}", "address=&name=Ann"),
        ("/v1/checkout/sessions", "mode=setup&ui_mode=hosted_page&currency=eur"),
    ],
)
def test_an_empty_value_unsets_what_may_be_unset(path: str, encoded: str) -> None:
    assert parameters.check("POST", path, parameters.decode(encoded))


def test_a_tree_too_deep_is_refused() -> None:
    with pytest.raises(Refusal):
        parameters.decode("a" + "[b]" * 50 + "=1")


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(Refusal):
        parameters.decode("a=1&" * (parameters.MAX_FIELDS + 1) + "a=1")
