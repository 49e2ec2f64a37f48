"""Nothing undocumented is said, in whichever test: events as their schemas tell them, answers as OpenAPI does."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from local.clock import Clock
from local.event_schema import problems
from local.loopback import Request, Response
from local.openapi import DOCUMENT
from local.system import System

type Json = dict[str, Any]


@contextmanager
def documented_system(start: datetime) -> Iterator[System]:
    """A fresh system at an instant, nobody connected."""
    with System(clock=Clock(start)) as running:
        heard = watch(running)
        yield running
        assert [found for told in running.outbox() for found in problems(told.detail_type, told.detail)] == []
        assert heard == [], heard[0]


def watch(system: System) -> list[str]:
    """Listens to the API from now on; what it answers and does not document is added to the list that is given."""
    found: list[str] = []
    handle = system.gateway.handle

    def handled(request: Request) -> Response:
        response = handle(request)
        wrong = undocumented(request.method, request.target, response.status, dict(response.headers), response.body)
        if wrong:
            found.append(wrong)
        return response

    vars(system.gateway)["handle"] = handled
    return found


def documented(event: Mapping[str, Any], answer: Json) -> Json:
    """A function's answer to an HTTP API event, when OpenAPI tells it so."""
    body = str(answer.get("body") or "")
    raw = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
    method = event["requestContext"]["http"]["method"]
    wrong = undocumented(method, event["rawPath"], answer["statusCode"], answer.get("headers", {}), raw)
    assert wrong == "", wrong
    return answer


def undocumented(method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> str:
    """What an answer says that its operation does not; what asks for no operation is the gateway's to refuse."""
    for verb, pattern, path in _operations():
        if verb == method and pattern.fullmatch(target.partition("?")[0]):
            told = f"{method} {path}: {status} {body[:300]!r}"
            names = {name.lower(): value for name, value in headers.items()}
            media = names.get("content-type", "").partition(";")[0]
            contents = _contents(path, method.lower(), status)
            if contents is None:
                return f"{told} has a status that is not told"
            if body and media not in contents:
                return f"{told} has a content type that is not told: {media}"
            if not body or not media.endswith("json"):
                return "" if body or not contents else f"{told} has no body"
            errors = list(contents[media].iter_errors(json.loads(body)))
            return f"{told}: {errors[0].json_path} {errors[0].message[:300]}" if errors else ""
    return ""


@cache
def _document() -> Json:
    found: Json = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return found


@cache
def _operations() -> list[tuple[str, re.Pattern[str], str]]:
    """Method, pattern and path; a path without parameters before those that would take it for one."""
    paths = _document()["paths"]
    return [
        (method.upper(), re.compile("[^/]+".join(map(re.escape, re.split(r"\{\w+\}", path)))), path)
        for path in sorted(paths, key=lambda path: path.count("{"))
        for method in paths[path]
    ]


@cache
def _contents(path: str, method: str, status: int) -> dict[str, Draft202012Validator] | None:
    """What an answer with this status may hold, by content type; None when there is no such answer."""
    responses = _document()["paths"][path][method]["responses"]
    response = responses.get(str(status)) or responses.get(f"{status // 100}XX")
    if response is None:
        return None
    if "$ref" in response:
        response = _document()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return {
        media: Draft202012Validator({**content.get("schema", {}), "components": _document()["components"]})
        for media, content in response.get("content", {}).items()
    }
