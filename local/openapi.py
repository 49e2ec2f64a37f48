"""One OpenAPI 3.1 document of the whole API, generated from the handlers, with the requests of `events/` as examples.

    python -m local.openapi          # writes docs/openapi.json and the copy that GET /openapi.json serves
    python -m local.openapi --check  # fails when either is not what the handlers say

A handler made of a resolver describes itself; the few that read requests by hand are described in
`openapi_by_hand.yaml`. Which routes need a token, and that every path is routed at all, comes from the template.
"""

import argparse
import base64
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from local import template
from local.stack import Route, Stack

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "openapi.json"
SERVED = ROOT / "functions" / "plans" / "openapi.json"
BY_HAND = Path(__file__).with_name("openapi_by_hand.yaml")

# Functions whose `app` is a resolver, in the order their routes are told.
RESOLVERS = (
    "enable_monetization",
    "stripe_oauth_callback",
    "plans",
    "subscribe",
    "record_usage",
    "billing_run",
    "reports",
    "reconcile",
)
GATEWAY_KEY_ROUTES = {"/usage/events", "/entitlements/check"}
METHODS = ("get", "put", "post", "delete", "patch")

type Json = dict[str, Any]
type Request = tuple[str, str, Json]  # method, path, event


def document(root: Path = ROOT) -> Json:
    """The whole document. Raises ValueError for a path that the template does not route to its function."""
    routes = [route for route in Stack(template.load(root / "template.yaml")).api().routes if route.method != "OPTIONS"]
    merged: Json = {"paths": {}, "components": {"schemas": {}}}
    for function in RESOLVERS:
        if (root / "functions" / function / "app.py").exists():
            _merge(merged, _of_resolver(function), function)
    by_hand: Json = yaml.safe_load(BY_HAND.read_text(encoding="utf-8"))
    _merge(merged, _copied(by_hand), "by hand")
    examples = list(_examples(root / "events"))
    for path, method, operation in _operations(merged):
        _finish(path, method, operation, _routed(path, method, routes), examples)
    schemas = merged["components"]["schemas"]
    for gone in ("HTTPValidationError", "ValidationError", "RequestValidationError", "ResponseValidationError"):
        schemas.pop(gone, None)
    schemas["Problem"] = PROBLEM
    schemas["GatewayMessage"] = GATEWAY_MESSAGE
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "tags": [{"name": tag} for tag in _tags(merged)],
        "paths": dict(sorted(merged["paths"].items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "parameters": PARAMETERS,
            "responses": RESPONSES,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; 1 when a copy differs."""
    parser = argparse.ArgumentParser(description="OpenAPI of the whole API")
    parser.add_argument("--check", action="store_true", help="compare the copies instead of writing them")
    check: bool = parser.parse_args(arguments).check
    made = document()
    wanted = {
        DOCUMENT: json.dumps(made, indent=2, ensure_ascii=False) + "\n",
        SERVED: json.dumps(made, separators=(",", ":"), ensure_ascii=False) + "\n",
    }
    differing = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if not check:
        for path in differing:
            path.write_text(wanted[path], encoding="utf-8")
    for path in differing:
        print(f"{path.relative_to(ROOT)} {'differs: run python -m local.openapi' if check else 'written'}")
    return 1 if check and differing else 0


# ---- gathering


def _resolver(function: str) -> Any:
    module = import_module(f"functions.{function}.app")
    if hasattr(module, "app"):
        return module.app
    # The hot path makes its resolver at the first request that needs one.
    return module.people()


def _of_resolver(function: str) -> Json:
    app = _resolver(function)
    described: Json = json.loads(app.get_openapi_json_schema(title=INFO["title"], version=INFO["version"]))
    preconditions = {
        route.func.__name__
        for route in (*app._static_routes, *app._dynamic_routes)
        if "expected_revision(" in inspect.getsource(route.func)
    }
    for path, method, operation in _operations(described):
        name = operation["operationId"]
        # The generated id repeats the path and the method behind the handler's own name.
        tail = re.sub(r"\W", "_", path) + f"_{method}"
        operation["operationId"] = name.removesuffix(tail)
        if operation["operationId"] in preconditions:
            name = "OptionalIfMatch" if (method, path) == MATCHES_WHAT_IS_THERE else "IfMatch"
            operation.setdefault("parameters", []).append({"$ref": f"#/components/parameters/{name}"})
    return described


def _merge(into: Json, part: Json, source: str) -> None:
    """Add a part; a name (of a schema or an operation) that is there already gets the source behind it."""
    schemas: Json = into["components"]["schemas"]
    renamed = {
        name: f"{name}_{source}"
        for name, schema in part.get("components", {}).get("schemas", {}).items()
        if name in schemas and schemas[name] != schema
    }
    if renamed:
        part = _rereferenced(part, renamed)
    for name, schema in part.get("components", {}).get("schemas", {}).items():
        schemas[renamed.get(name, name)] = schema
    taken = {operation["operationId"] for _, _, operation in _operations(into)}
    for _, _, operation in _operations(part):
        if operation["operationId"] in taken:
            operation["operationId"] += f"_{source}"
    for path, operations in part["paths"].items():
        there = into["paths"].setdefault(path, {})
        if set(there) & set(operations):
            raise ValueError(f"{path} is described twice, the second time by {source}")
        there.update(operations)


def _rereferenced(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _rereferenced(each, renamed) for key, each in value.items()}
    if isinstance(value, list):
        return [_rereferenced(each, renamed) for each in value]
    if isinstance(value, str) and value.startswith("#/components/schemas/"):
        name = value.rpartition("/")[2]
        return f"#/components/schemas/{renamed.get(name, name)}"
    return value


def _copied(value: Json) -> Json:
    """Without YAML's shared anchors: every operation is finished on its own."""
    copied: Json = json.loads(json.dumps(value))
    return copied


def _operations(part: Json) -> Iterator[tuple[str, str, Json]]:
    for path, operations in part["paths"].items():
        for method in METHODS:
            if method in operations:
                yield path, method, operations[method]


def _tags(merged: Json) -> list[str]:
    return list(dict.fromkeys(tag for _, _, operation in _operations(merged) for tag in operation.get("tags", [])))


def _routed(path: str, method: str, routes: list[Route]) -> Route:
    """The gateway's route for a request: an exact path before a greedy one, the longest of those."""
    plain = re.sub(r"\{\w+\}", "x", path)
    matching = [
        route
        for route in routes
        if route.method in ("ANY", method.upper())
        and re.fullmatch(re.sub(r"\\{\w+\\\+\\}", ".+", re.escape(route.path)), plain)
    ]
    if not matching:
        raise ValueError(f"the template routes no {method.upper()} {path}")
    return max(matching, key=lambda route: ("+}" not in route.path, len(route.path)))


# ---- what every operation has, said once


def _finish(path: str, method: str, operation: Json, route: Route, examples: Sequence[Request]) -> None:
    parameters: list[Json] = operation.setdefault("parameters", [])
    references = {each.get("$ref", "").rpartition("/")[2] for each in parameters}
    takes_key = method == "post" and route.authorizer is not None and path not in TAKES_NO_KEY
    if takes_key and "IdempotencyKey" not in references:
        key = "RequiredIdempotencyKey" if path in NEEDS_KEY else "IdempotencyKey"
        parameters.append({"$ref": f"#/components/parameters/{key}"})
    if not parameters:
        del operation["parameters"]
    responses: Json = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        _tell_tables(response)
    for empty in ("204", "303"):
        responses.get(empty, {}).pop("content", None)
    if route.authorizer is not None:
        operation["security"] = [{"token": []}]
    else:
        operation["security"] = [{"gatewayKey": []}] if path in GATEWAY_KEY_ROUTES else []
    for status in sorted(_refusals(path, method, operation)):
        responses[str(int(status))] = {"$ref": f"#/components/responses/{REFUSED.get(status, 'Problem')}"}
    responses["5XX"] = {"$ref": "#/components/responses/Unavailable"}
    _add_example(path, method, operation, examples)


def _refusals(path: str, method: str, operation: Json) -> Iterator[HTTPStatus]:
    """The statuses of an operation's refusals, from what it asks for: no other is answered, which tests hold."""
    named: dict[str, Json] = {
        each.get("name") or each["$ref"].rpartition("/")[2]: each for each in operation.get("parameters", ())
    }
    checked = [each for name, each in named.items() if not name.endswith("IfMatch") and not _is_any_text(each)]
    hot = path in GATEWAY_KEY_ROUTES or path.startswith(("/publisher/", "/stripe/"))
    yield HTTPStatus.TOO_MANY_REQUESTS
    if operation["security"]:
        yield HTTPStatus.UNAUTHORIZED
    if operation["security"] == [{"token": []}]:
        yield HTTPStatus.FORBIDDEN
    if "{" in path or "publisher" in named or path in OF_THE_CALLER or ("requestBody" in operation and not hot):
        yield HTTPStatus.NOT_FOUND
    if (checked or method in ("post", "put")) and not path.endswith(("/usage/events", "/stripe/webhook")):
        yield HTTPStatus.UNPROCESSABLE_ENTITY
    if method in ("post", "put"):
        yield from (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if not path.endswith(("/entitlements/check", "/stripe/webhook")):
            yield HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if method != "get" and not hot:
        yield from (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)
    if path == "/invoices/{invoice}/payment-link":
        yield HTTPStatus.CONFLICT
    if "IfMatch" in named:
        yield HTTPStatus.PRECONDITION_REQUIRED
    if path in ("/monetization/connect", "/monetization/enable"):
        yield HTTPStatus.PAYMENT_REQUIRED
    if path == "/stripe/oauth/callback":
        yield HTTPStatus.BAD_REQUEST


def _is_any_text(parameter: Json) -> bool:
    """A part of the path that may be anything: what is none of ours is not found, never invalid."""
    schema: Json = parameter.get("schema", {})
    return parameter.get("in") == "path" and schema.get("type") == "string"


def _tell_tables(response: Json) -> None:
    """An answer that is a document or a text is JSON or, where it was asked for, a table."""
    content = response.get("content", {})
    alternatives: list[Json] = content.get("application/json", {}).get("schema", {}).get("anyOf", [])
    documents = [each for each in alternatives if each.get("type") != "string"]
    if len(documents) == 1 and len(alternatives) == 2:
        content["application/json"]["schema"] = documents[0]
        content["text/csv"] = {"schema": {"type": "string"}}


def _add_example(path: str, method: str, operation: Json, examples: Sequence[Request]) -> None:
    content = operation.get("requestBody", {}).get("content", {})
    pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
    for verb, raw, event in examples:
        if verb == method and pattern.fullmatch(raw) and event.get("body"):
            sent = event["headers"].get("content-type", "application/json")
            if sent in content and "example" not in content[sent]:
                content[sent]["example"] = body_of(event)


def body_of(event: Json) -> Any:
    """An event's body as JSON."""
    body = event["body"]
    return json.loads(base64.b64decode(body) if event.get("isBase64Encoded") else body)


def _examples(events: Path) -> Iterator[Request]:
    """Requests of `events/`; of several to one path and content type the first in the alphabet is shown."""
    for path in sorted(events.glob("*.json")):
        event = json.loads(path.read_text(encoding="utf-8"))
        http = event.get("requestContext", {}).get("http") if isinstance(event, dict) else None
        if http and event.get("rawPath"):
            yield http["method"].lower(), event["rawPath"], event


REFUSED = {
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "TooLarge",
    HTTPStatus.TOO_MANY_REQUESTS: "TooMany",
}
# Asked again, these look at what there is: an address at Stripe, a decision. They neither need a key nor look at one.
TAKES_NO_KEY = {
    "/monetization/connect",
    "/publisher/entitlements/check",
    "/subscriptions/{subscription}/checkout",
    "/subscriptions/{subscription}/portal",
}
# What moves money: the key is its natural key, for ever.
NEEDS_KEY = {
    "/usage/corrections",
    *(f"/subscriptions/{{subscription}}/{what}" for what in ("topups", "discounts")),
    *(f"/invoices/{{invoice}}/{what}" for what in ("credit-notes", "refunds", "void", "retry", "mark-uncollectible")),
}
# The first time there is nothing to match.
MATCHES_WHAT_IS_THERE = ("put", "/subscriber")
# What the caller itself may not have yet.
OF_THE_CALLER = {"/monetization", "/monetization/enable", "/subscriber", "/subscriber/erase", "/billing-runs/hold"}
INFO: Json = {
    "title": "API monetization",
    "version": "1",
    "description": (
        "Bill the subscribers of your APIs by usage and by tier, on your own Stripe account. Money is integer minor "
        "units with an ISO currency in lower case; unit prices are exact decimals of minor units, as strings; times "
        "are RFC 3339, UTC. Every refusal of this API is a problem document (RFC 9457) with a stable `code`. What the "
        'gateway before it refuses has the gateway\'s own fixed body, `{"message": ...}`: 401 without a valid token, '
        "404 for a path nobody serves, 413 above 10 MB, 429 and 503 when it throttles or a function fails. "
        "What belongs to another tenant answers exactly as what does not exist."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
PROBLEM: Json = {
    "type": "object",
    "description": "Why a request was not carried out (RFC 9457). `code` never changes; further members depend on it.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}
GATEWAY_MESSAGE: Json = {
    "type": "object",
    "description": "What API Gateway itself refuses.",
    "required": ["message"],
    "properties": {"message": {"type": "string"}},
}
PARAMETERS: Json = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key with the same request is carried out once in 24 hours and answered the same.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "RequiredIdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "The same key with the same request is carried out once, for ever, and answered the same.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "OptionalIfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag of what was read, unless there is nothing yet; 412 when it changed since.",
        "schema": {"type": "string"},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "required": True,
        "description": "The ETag of what was read; 412 when it changed since.",
        "schema": {"type": "string"},
    },
}


def _by_gateway_or_us(description: str) -> Json:
    content = {"application/json": "GatewayMessage", "application/problem+json": "Problem"}
    schemas = {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in content.items()}
    return {"description": description, "content": schemas}


RESPONSES: Json = {
    "Problem": {
        "description": "Refused, and why",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    },
    "Unauthorized": _by_gateway_or_us("No valid token (the gateway's own answer), or a token that is not enough"),
    "TooLarge": _by_gateway_or_us("A body above 256 KB (ours), or above 10 MB (the gateway's own answer)"),
    "TooMany": _by_gateway_or_us("Too many requests, by the gateway's throttles or by ours"),
    "Unavailable": _by_gateway_or_us("Something failed or is busy: the same request may be sent again"),
}
SECURITY_SCHEMES: Json = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "gatewayKey": {"type": "http", "scheme": "bearer", "description": "A publisher's gateway key, `gk_…`"},
}

if __name__ == "__main__":
    sys.exit(main())
