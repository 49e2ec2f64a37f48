"""The real handlers, called with genuine events: every worker has modules of its own, as every Lambda process has.

Workers are threads, so what Powertools keeps on a class (the current request) is put away while another one runs.
"""

import base64
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from local import functions

ROOT = Path(__file__).resolve().parents[2]
TIME_LEFT = 300_000  # milliseconds
FORM = "application/json"


@dataclass(slots=True)
class Message:
    """One message to the workers. `at`: visible from then on."""

    body: dict[str, Any]
    at: datetime
    group: str = ""
    receives: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom API Gateway's authorizer verified."""

    user: str
    organization: str
    roles: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A function's answer to a request."""

    status: int
    document: Any


@cache
def module_of(function: str, worker: int) -> ModuleType:
    """A function's module as that worker's process imported it."""
    name = f"_worker_{worker}_{function}"
    spec = importlib.util.spec_from_file_location(name, ROOT / "functions" / function / "app.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no function {function}")
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def put_away() -> Callable[[], None]:
    """Keep what this process keeps on classes; call the answer to bring it back."""
    from aws_lambda_powertools.event_handler.api_gateway import BaseRouter

    router: Any = BaseRouter
    kept = {name: vars(router)[name] for name in ("current_event", "lambda_context") if name in vars(router)}

    def back() -> None:
        for name, value in kept.items():
            setattr(router, name, value)

    return back


@dataclass
class Processes:
    """The functions as the workers of one world call them.

    `worker` answers who is asking; `judge` raises what ended a message's handling where no fault explains it.
    """

    seed: int
    worker: Callable[[], int]
    now: Callable[[], datetime]
    judge: Callable[[BaseException | None], None]
    metrics: Counter[str] = field(default_factory=Counter)
    _known: set[tuple[str, int]] = field(default_factory=set)
    _requests: int = 0

    def __post_init__(self) -> None:
        functions.count_metrics(self.metrics)

    def module(self, function: str) -> ModuleType:
        """The asking worker's own module, as it is when its process has just begun in this world."""
        worker = max(0, self.worker())
        made = module_of(function, worker)
        if (function, worker) not in self._known:
            self._known.add((function, worker))
            fresh: dict[str, Any] = vars(made)
            if "random" in fresh:
                fresh["random"] = Random(f"{self.seed}/{function}/{worker}")  # a seed replays its world
            if "intake" in fresh:
                fresh["intake"] = fresh["Intake"]()
                fresh["TimeLeft"] = lambda _context: Patience()
        return made

    def call(self, function: str, event: dict[str, Any]) -> Any:
        """One invocation."""
        return self.module(function).handler(event, _context(function))

    def take(self, function: str, messages: Sequence[Message]) -> set[int]:
        """A batch of a queue's messages: which of them (by position) come back.

        Raises what ended a message's handling where no fault explains it; Crash when the process died.
        """
        from aws_lambda_powertools.utilities.batch.exceptions import BatchProcessingError

        records = [self._record(message, str(at)) for at, message in enumerate(messages)]
        try:
            answer = self.call(function, {"Records": records})
            failed = {int(each["itemIdentifier"]) for each in answer["batchItemFailures"]}
        except BatchProcessingError:
            failed = set(range(len(messages)))
        for _, error, _ in self.module(function).processor.exceptions if failed else ():
            self.judge(error)
        return failed

    def request(
        self,
        function: str,
        method: str,
        path: str,
        *,
        caller: Caller | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        route: str = "",
        form: str = FORM,
        encoded: bool = False,
    ) -> Answer:
        """A request as HTTP API hands it over. `encoded`: the body as base64."""
        self._requests += 1
        path, _, query = path.partition("?")
        at = self.now()
        context: dict[str, Any] = {
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
            "requestId": str(self._requests),
            "routeKey": route or f"{method} {path}",
            "stage": "$default",
            "timeEpoch": int(at.timestamp() * 1000),
        }
        if caller is not None:
            claims = {"sub": caller.user, "organization": caller.organization, "roles": caller.roles}
            claims |= {"platform_plan": "business", "auth_time": str(int(at.timestamp()))}
            context["authorizer"] = {"jwt": {"claims": claims, "scopes": None}}
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": context["routeKey"],
            "rawPath": path,
            "rawQueryString": query,
            "headers": {"content-type": form, "host": "localhost", **(headers or {})},
            "requestContext": context,
            "isBase64Encoded": encoded,
        }
        if body is not None:
            event["body"] = base64.b64encode(body).decode() if encoded else body.decode()
        answer = self.call(function, event)
        text = answer.get("body")
        return Answer(int(answer["statusCode"]), json.loads(text) if text else None)

    def _record(self, message: Message, name: str) -> dict[str, Any]:
        sent = str(int(message.at.timestamp() * 1000))
        attributes = {"ApproximateReceiveCount": str(message.receives), "SentTimestamp": sent}
        if message.group:
            attributes["MessageGroupId"] = message.group
        return {
            "messageId": name,
            "receiptHandle": name,
            "body": json.dumps(message.body),
            "attributes": attributes,
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:000000000000:queue",
            "awsRegion": "eu-west-1",
        }


def raise_unexpected(error: BaseException | None, *, quiet: bool = False) -> None:
    """Let pass what faults explain; raise anything else, which is a finding. `quiet`: nothing fails any more."""
    from botocore.exceptions import ClientError

    from monetize.domain.errors import Refusal

    if error is not None and isinstance(error.__cause__, ExceptionGroup):  # of several publishers, say
        for each in error.__cause__.exceptions:
            raise_unexpected(each, quiet=quiet)
        return
    if error is not None and (quiet or not isinstance(error, (ClientError, functions.Crash, Refusal))):
        raise error


class Patience:
    """How long ingest tries again: so many waits."""

    def __init__(self, waits: int = 3) -> None:
        self.waits = 0
        self._left = waits

    def left(self) -> float:
        """Seconds, as far as anybody asks."""
        return 100.0 if self._left > 0 else 0.0

    def wait(self, seconds: float) -> None:
        """Time stands still here."""
        del seconds
        self.waits += 1
        self._left -= 1


def _context(function: str) -> Any:
    return SimpleNamespace(
        function_name=function,
        memory_limit_in_mb=512,
        invoked_function_arn=f"arn:aws:lambda:eu-west-1:000000000000:function:{function}",
        aws_request_id="00000000-0000-4000-8000-000000000000",
        get_remaining_time_in_millis=lambda: TIME_LEFT,
    )
