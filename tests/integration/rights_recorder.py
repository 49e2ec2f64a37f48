"""Who asks AWS for what: every call of every function to the stand-ins, as actions and resources that IAM judges."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pytest

from local.functions import Functions
from local.stack import ACCOUNT, REGION, Function, Stack
from local.system import System
from monetize import wiring
from monetize.config import Config

type Asked = tuple[str, str]  # action, ARN

TRANSACTED = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}
PLAIN = {
    "get_item": "GetItem",
    "put_item": "PutItem",
    "update_item": "UpdateItem",
    "delete_item": "DeleteItem",
    "query": "Query",
    "scan": "Scan",
}
PRESIGNED = {"get_object": "GetObject", "put_object": "PutObject"}


def _arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{name}"


def dynamodb_asks(operation: str, request: Mapping[str, Any]) -> Iterator[Asked]:
    """IAM judges a transaction by its single writes; of a batch it knows only the batch."""

    def of(action: str, table: str, index: str = "") -> Asked:
        return f"dynamodb:{action}", _arn("dynamodb", f"table/{table}{f'/index/{index}' if index else ''}")

    if operation in PLAIN:
        yield of(PLAIN[operation], request["TableName"], request.get("IndexName", ""))
    elif operation == "transact_write_items":
        for each in request["TransactItems"]:
            for kind, write in each.items():
                yield of(TRANSACTED[kind], write["TableName"])
    elif operation == "transact_get_items":
        for each in request["TransactItems"]:
            yield of("GetItem", each["Get"]["TableName"])
    elif operation in ("batch_get_item", "batch_write_item"):
        for table in request["RequestItems"]:
            yield of("BatchGetItem" if operation == "batch_get_item" else "BatchWriteItem", table)


def sqs_asks(operation: str, request: Mapping[str, Any]) -> Iterator[Asked]:
    """A batch of messages needs no right of its own."""
    if operation in ("send_message", "send_message_batch"):
        yield "sqs:SendMessage", _arn("sqs", request["QueueUrl"].rpartition("/")[2])


def ssm_asks(operation: str, request: Mapping[str, Any]) -> Iterator[Asked]:
    """Parameters by name."""
    names = request["Names"] if operation == "get_parameters" else [request["Name"]]
    for name in names:
        action = "GetParameters" if operation == "get_parameters" else "GetParameter"
        yield f"ssm:{action}", _arn("ssm", f"parameter{name}")


def s3_asks(operation: str, request: Mapping[str, Any]) -> Iterator[Asked]:
    """A link carries the rights of who signed it."""
    if operation == "generate_presigned_url":
        operation, request = request["ClientMethod"], request["Params"]
    action = {**PRESIGNED, "head_object": "GetObject", "delete_object": "DeleteObject"}[operation]
    version = "Version" if request.get("VersionId") else ""
    yield f"s3:{action}{version}", f"arn:aws:s3:::{request['Bucket']}/{request['Key']}"


def events_asks(_operation: str, request: Mapping[str, Any]) -> Iterator[Asked]:
    """Each entry names its bus."""
    for entry in request["Entries"]:
        yield "events:PutEvents", _arn("events", f"event-bus/{entry.get('EventBusName') or 'default'}")


ASKS: Mapping[str, Callable[[str, Mapping[str, Any]], Iterator[Asked]]] = {
    "dynamodb": dynamodb_asks,
    "sqs": sqs_asks,
    "ssm": ssm_asks,
    "s3": s3_asks,
    "events": events_asks,
}


class Watched:
    """A stand-in that tells what is asked of it."""

    def __init__(self, inner: Any, asks: Callable[[str, Mapping[str, Any]], Iterator[Asked]], told: "Told") -> None:
        self._inner, self._asks, self._told = inner, asks, told

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name.startswith("_") or not callable(found):
            return found

        def asked(*args: Any, **request: Any) -> Any:
            named = dict(zip(("ClientMethod", "Params"), args, strict=False))  # only links are asked by position
            for each in self._asks(name, {**named, **request}):
                self._told(each)
            return found(*args, **request)

        return asked


type Told = Callable[[Asked], None]


@dataclass
class Recorder:
    """Calls and settings by function (its folder), while `attached`."""

    asked: dict[str, set[Asked]] = field(default_factory=dict)
    settings: dict[str, set[str]] = field(default_factory=dict)
    function: str = ""

    def told(self, asked: Asked) -> None:
        """What the function now running asks."""
        if self.function:
            self.asked.setdefault(self.function, set()).add(asked)

    def attach(self, monkeypatch: pytest.MonkeyPatch, make: Callable[[], System]) -> System:
        """A system whose functions run each with its own environment and clients, as in processes of their own."""
        invoke = Functions.invoke
        running: dict[str, Any] = {}

        def parts(system: System) -> dict[str, Any]:
            found: dict[str, Any] = {}
            override = wiring.override
            with pytest.MonkeyPatch.context() as caught:
                caught.setattr(wiring, "override", lambda **given: found.update(given))
                System.wire(system)
            assert wiring.override is override
            watched = {name: Watched(found[name], asks, self.told) for name, asks in ASKS.items()}
            return {**found, **watched}

        def invoked(functions: Functions, logical_id: str, event: dict[str, Any]) -> Any:
            spec = functions.specs[logical_id]
            if running.get("function") != logical_id:
                running["function"] = logical_id
                wiring.override(**parts(running["system"]))
            hidden = _hide(functions, spec)
            self.function = folder_of(spec)
            try:
                return invoke(functions, logical_id, event)
            finally:
                self.function = ""
                os.environ.update(hidden)

        def read(config: Config, name: str) -> Any:
            if self.function and not name.startswith("_"):
                self.settings.setdefault(self.function, set()).add(name)
            return object.__getattribute__(config, name)

        monkeypatch.setattr(Functions, "invoke", invoked)
        monkeypatch.setattr(Config, "__getattribute__", read, raising=False)
        running["system"] = system = make()
        return system


def folder_of(spec: Function) -> str:
    """A function's name."""
    return spec.code.split("/")[1]


def _hide(functions: Functions, spec: Function) -> dict[str, str]:
    """Takes what the template gives other functions alone out of the environment; gives it back to be restored."""
    everybody = {name for each in functions.specs.values() for name in each.environment}
    return {name: os.environ.pop(name) for name in everybody - set(spec.environment) if name in os.environ}


@dataclass(frozen=True, slots=True)
class Right:
    """One action on one resource (an ARN, perhaps with a star) that a statement allows."""

    sid: str
    action: str
    resource: str

    def allows(self, asked: Asked) -> bool:
        """Literal, but for stars in the resource."""
        return self.action == asked[0] and (self.resource == asked[1] or fnmatchcase(asked[1], self.resource))


def rights(stack: Stack, logical_id: str) -> Iterator[Right]:
    """Everything a function's role allows, as this machine resolves the template."""
    role = stack.document["Resources"][logical_id]["Properties"]["Role"]["Fn::GetAtt"][0]
    for policy in stack.resolve(stack.document["Resources"][role]["Properties"]["Policies"]):
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            actions, resources = (
                each if isinstance(each, list) else [each] for each in (statement["Action"], statement["Resource"])
            )
            for action in actions:
                for resource in resources:
                    yield Right(statement["Sid"], action, resource)
