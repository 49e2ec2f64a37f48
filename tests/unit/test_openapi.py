"""The API's description is what the handlers say, is valid, and its examples are requests that are really sent."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from local import openapi, template
from local.stack import Stack

# A resource's own path is routed with what is below it, whether or not it answers anything itself.
NOTHING_THERE = {
    *("GET /catalog", "ANY /reports", "ANY /reconciliation", "ANY /bills", "ANY /bills/{proxy+}"),
    *("ANY /billing-runs", "ANY /billing-runs/{proxy+}", "ANY /invoices", "ANY /invoices/{proxy+}", "ANY /audit"),
    *("ANY /reports/{proxy+}", "ANY /reconciliation/{proxy+}"),
}


@cache
def made() -> dict[str, Any]:
    return openapi.document()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in made()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_committed_copies_are_what_the_handlers_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--check"]) == 0, capsys.readouterr().out


def test_the_document_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(made()).iter_errors()] == []


def test_every_operation_is_told_with_summary_tag_and_a_name_of_its_own() -> None:
    names = []
    for path, method, operation in operations():
        assert operation.get("summary"), (method, path)
        assert operation.get("tags"), (method, path)
        assert any(code.startswith(("2", "3")) for code in operation["responses"]), (method, path)
        assert "4XX" not in operation["responses"], "a refusal is told by its own status"
        refusals = {each.get("$ref") for code, each in operation["responses"].items() if code.startswith("4")}
        assert refusals <= {f"#/components/responses/{name}" for name in made()["components"]["responses"]}
        names.append(operation["operationId"])
    assert len(set(names)) == len(names)


def test_examples_are_requests_of_the_documented_form() -> None:
    checked = 0
    for path, method, operation in operations():
        for body in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in body:
                schema = {**body["schema"], "components": made()["components"]}
                problems = [error.message for error in OAS31Validator(schema).iter_errors(body["example"])]
                assert problems == [], (method, path)
                checked += 1
    assert checked >= 20


def test_every_edit_that_needs_an_etag_says_so() -> None:
    put = made()["paths"]["/plans/{plan}"]["put"]
    assert {"$ref": "#/components/parameters/IfMatch"} in put["parameters"]
    assert {"$ref": "#/components/parameters/IdempotencyKey"} not in put["parameters"]


def test_public_routes_need_no_token_and_the_others_do() -> None:
    for path, method, operation in operations():
        public = path.startswith(("/catalog/", "/stripe/", "/openapi.json"))
        gateway = path in openapi.GATEWAY_KEY_ROUTES
        wanted: list[dict[str, list[str]]] = [] if public else [{"gatewayKey": []}] if gateway else [{"token": []}]
        assert operation["security"] == wanted, (method, path)


def test_every_route_of_the_template_is_described() -> None:
    stack = Stack(template.load(openapi.ROOT / "template.yaml"))
    written = {name for name, each in stack.functions().items() if (openapi.ROOT / each.code / "app.py").exists()}
    routes = [route for route in stack.api().routes if route.function in written]
    described = [(path, method) for path, method, _ in operations()]
    silent = []
    for route in routes:
        pattern = re.sub(r"\\{\w+\\\+\\}", ".+", re.escape(route.path))
        served = any(
            route.method in ("ANY", method.upper()) and re.fullmatch(pattern, re.sub(r"\{\w+\}", "x", path))
            for path, method in described
        )
        if not served and route.method != "OPTIONS":
            silent.append(route.key)
    assert set(silent) <= NOTHING_THERE


def test_a_schema_that_means_two_things_gets_two_names() -> None:
    into: dict[str, Any] = {"paths": {}, "components": {"schemas": {"Thing": {"type": "string"}}}}
    reference = {"operationId": "x", "schema": {"$ref": "#/components/schemas/Thing"}}
    part = {"paths": {"/x": {"get": reference}}, "components": {"schemas": {"Thing": {"type": "integer"}}}}
    openapi._merge(into, json.loads(json.dumps(part)), "other")
    assert into["components"]["schemas"]["Thing_other"] == {"type": "integer"}
    assert into["paths"]["/x"]["get"]["schema"]["$ref"] == "#/components/schemas/Thing_other"
