"""Schemathesis over the API's own description: no 5xx, and every answer as documented, whatever is sent.

Requests are generated from the description, valid and invalid, in process and from a fixed seed. A few of a kind in
every run; SCHEMATHESIS_EXAMPLES=200 goes deeper, SCHEMATHESIS_SEED=2 elsewhere.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from local.loopback import Request
from tests.abuse import routes
from tests.abuse.routes import KINDS, Operation, filled, send
from tests.abuse.scene import Scene, Side, stage

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
SEED = int(os.environ.get("SCHEMATHESIS_SEED", "1"))
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# A batch of events is never refused for one of them, which is told in the answer.
TAKES_ANYTHING = ("/usage/events",)
# What takes the ground from under the others comes last.
LAST = ("/monetization", "/subscriber/erase")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    staged = stage()
    with staged.system:
        yield staged


def answered(scene: Scene, case: Case[Any], token: str | None) -> schemathesis.Response:
    """Send a case through the gateway, and give the answer as Schemathesis reads it."""
    kwargs: dict[str, Any] = case.as_transport_kwargs(base_url=scene.system.url)
    kwargs.pop("verify", None)
    prepared = requests.Request(**kwargs).prepare()
    if token is not None:
        prepared.headers["Authorization"] = f"Bearer {token}"
    body = prepared.body or b""
    assert isinstance(body, str | bytes)
    parts = urlsplit(prepared.url or "")
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    sent = [(name.lower(), _text(value)) for name, value in prepared.headers.items()]
    request = Request(prepared.method or "GET", target, sent, body.encode() if isinstance(body, str) else body)
    response = scene.system.handle(request)
    headers: dict[str, list[str]] = {}
    for name, value in response.headers:
        headers.setdefault(name, []).append(value)
    return schemathesis.Response(response.status, headers, response.body, prepared, 0.0, verify=False)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def with_real_ids(case: Case[Any], operation: Operation, own: Mapping[str, str]) -> None:
    """Lead a generated request to what exists: most requests with random ids end at 404."""
    for name in operation.parameters:
        if name in KINDS:
            case.path_parameters[name] = own[operation.kind(name)]
    for name in operation.query:
        if KINDS.get(name) in own and name in case.query:
            case.query[name] = own[operation.kind(name)]
    case.body = filled(case.body, own, {})


def with_what_was_read(scene: Scene, case: Case[Any], token: str | None) -> None:
    """The ETag of the thing, or of what the thing is part of, as a client reads it before an edit."""
    path = case.formatted_path
    for each in (path, path.rpartition("/")[0]):
        _, headers, _ = scene.system.call("GET", f"{each}?publisher=acme", token=token)
        if "etag" in headers:
            case.headers["If-Match"] = headers["etag"]
            return


@cache
def unguarded() -> dict[str, Any]:
    """The description without its tokens: those are ours to bring, and test_tenants.py tries what happens without."""
    copied: dict[str, Any] = json.loads(json.dumps(routes.document()))
    for methods in copied["paths"].values():
        for operation in methods.values():
            operation["security"] = []
    return copied


def tokens(scene: Scene, side: Side, operation: Operation) -> list[str | None]:
    """Who may call: the side's administrator, its subscriber, or its gateway; nobody where none is asked for."""
    if operation.path in ("/usage/events", "/entitlements/check"):
        return [side.secrets["gateway key"]]
    if not operation.authorized:
        return [None]
    everything = "publisher_admin publisher_viewer subscriber gateway operator"
    return [scene.as_user(side.publisher, everything, "ann"), scene.as_user(side.subscriber, everything, "dan")]


def broken(scene: Scene, operation: Operation, mode: GenerationMode, seen: Counter[int]) -> str | None:
    """The first request of one operation that is not answered as documented, if there is one."""
    described = schemathesis.openapi.from_dict(unguarded())[operation.path][operation.method]
    own = {**scene.acme.ids, "batch": "b"}
    callers = tokens(scene, scene.acme, operation)

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described.as_strategy(generation_mode=mode), real=st.booleans(), caller=st.sampled_from(callers))
    def holds(case: Case[Any], real: bool, caller: str | None) -> None:
        if real:
            with_real_ids(case, operation, own)
            if "If-Match" in case.headers:
                with_what_was_read(scene, case, caller)
        failures = scene.system.functions.failures
        failures.clear()
        response = answered(scene, case, caller)
        seen[response.status_code // 100] += 1
        if response.status_code >= 500:
            told = failures[-1].trace if failures else response.content[:300].decode()
            raise AssertionError(f"{case.as_curl_command()}\n{response.status_code} {told}")
        # With ids of ours in it a wrong request may have become a right one.
        may_be_right = real or operation.path.endswith(TAKES_ANYTHING)
        checks = CHECKS if may_be_right else [*CHECKS, negative_data_rejection]
        case.validate_response(response, checks=checks)

    try:
        holds()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, operation.name  # nothing is sent that could be wrong
    except (AssertionError, Failure, FailureGroup) as error:
        return f"{operation.name} ({mode.value}): {error}"
    return None


def chosen(method: str) -> list[Operation]:
    found = [each for each in routes.everything() if each.method == method]
    return sorted(found, key=lambda each: each.path.startswith(LAST))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_every_answer_is_as_documented(scene: Scene, method: str) -> None:
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    seen: Counter[int] = Counter()
    wrong = [broken(scene, operation, mode, seen) for operation in chosen(method) for mode in modes]
    found = [each for each in wrong if each is not None]
    assert not found, "\n\n".join(found)
    # Requests that all end at the first check would prove little.
    assert seen[2] > seen.total() / 20, seen


def test_a_key_is_asked_for_where_that_is_documented_and_looked_at_where_it_is_taken(scene: Scene) -> None:
    own = {**scene.acme.ids, "batch": "b"}
    for operation in routes.operations():
        if operation.method != "POST" or not operation.authorized or operation.path.startswith("/publisher/"):
            continue
        named = routes.document()["paths"][operation.path]["post"].get("parameters", [])
        documented = {each["$ref"].rpartition("/")[2] for each in named if "$ref" in each}
        for key, code, parameters in (
            ("", {"idempotency_key_required"}, {"RequiredIdempotencyKey"}),
            ("\x01", {"idempotency_key_required", "bad_idempotency_key"}, {"RequiredIdempotencyKey", "IdempotencyKey"}),
        ):
            headers = {"Idempotency-Key": key}
            answers = [
                json.loads(body or b"{}").get("code")
                for token in tokens(scene, scene.acme, operation)
                for _, _, body in [send(scene.system, operation, own, token, number=0, headers=headers)]
            ]
            assert bool(set(answers) & code) == bool(documented & parameters), (operation.name, answers)
