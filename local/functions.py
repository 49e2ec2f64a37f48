"""Lambda on this machine: handlers called in process, one at a time, in the environment that the template gives."""

import importlib.util
import json
import os
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from random import Random
from threading import RLock
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from local.api_gateway import InvocationError, Now
from local.stack import REGION, Function

KEPT_FAILURES = 1000
# What differs between functions and is read when their module is imported, not by `config`.
OWN_VARIABLES = frozenset({"POWERTOOLS_SERVICE_NAME"})
MACHINE_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "POWERTOOLS_TRACE_DISABLED": "true",
}

type Handler = Callable[[dict[str, Any], Any], Any]

# Powertools keeps the current event on a class, as Lambda runs one invocation at a time in each process. So do we.
_one_at_a_time = RLock()
_numbers = count(1)


class Crash(BaseException):
    """Raised by a fault hook where the function's process is to die. No `except Exception` on the way catches it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An invocation that ended in an exception; `trace` is for people."""

    function: str
    error: str
    trace: str
    at: datetime


@dataclass(slots=True)
class Context:
    """What Lambda passes beside the event."""

    function_name: str
    memory_limit_in_mb: int
    invoked_function_arn: str
    aws_request_id: str
    deadline: float
    function_version: str = "$LATEST"
    identity: Any = None
    client_context: Any = None
    tenant_id: str | None = None
    log_group_name: str = field(init=False)
    log_stream_name: str = "local"

    def __post_init__(self) -> None:
        self.log_group_name = f"/aws/lambda/{self.function_name}"

    def get_remaining_time_in_millis(self) -> int:
        """Until the function's time-out, by the machine's clock."""
        return max(0, int((self.deadline - monotonic()) * 1000))


class Functions:
    """The template's functions. Environment variables are set while this exists; `close` puts the old ones back."""

    def __init__(
        self,
        specs: Mapping[str, Function],
        root: Path,
        clock: Now,
        *,
        overrides: Mapping[str, str] | None = None,
        seed: int = 0,
        stopwatch: Callable[[], float] = monotonic,
    ) -> None:
        self.specs = dict(specs)
        self.failures: deque[Failure] = deque(maxlen=KEPT_FAILURES)
        self.metrics: Counter[str] = Counter()
        self.environment = {**MACHINE_VARIABLES, **union(specs), **(overrides or {})}
        self.invocations: dict[str, int] = dict.fromkeys(specs, 0)
        self._root = root
        self._clock = clock
        self._stopwatch = stopwatch
        self._random = Random(f"{seed}/functions")
        self._before = dict(os.environ)
        # Imported anew for every system: what a module keeps between invocations belongs to one world.
        self._handlers: dict[str, Handler] = {}
        self._modules: list[str] = []
        os.environ.update(self.environment)
        layer = str(root / "layers" / "common" / "python")
        if layer not in sys.path:
            sys.path.insert(0, layer)
        follow(clock)
        count_metrics(self.metrics)

    def invoke(self, logical_id: str, event: dict[str, Any]) -> Any:
        """Call a function and wait for its answer. Raises InvocationError for what it raises, and for a time-out."""
        spec = self.specs[logical_id]
        context = self._context(spec)
        with _one_at_a_time:
            started = self._stopwatch()
            self.invocations[logical_id] += 1
            try:
                result = self._handler(spec)(event, context)
            except (Exception, SystemExit, Crash) as error:
                self.failures.append(
                    Failure(logical_id, repr(error), "".join(traceback.format_exception(error)), self._clock.now())
                )
                raise InvocationError(f"{logical_id}: {type(error).__name__}") from error
            if self._stopwatch() - started > spec.timeout:
                raise InvocationError(f"{logical_id}: timed out after {spec.timeout} seconds")
        return result

    def close(self) -> None:
        """Put the environment back as it was."""
        for name in self.environment:
            if name in self._before:
                os.environ[name] = self._before[name]
            else:
                os.environ.pop(name, None)
        for module in self._modules:
            sys.modules.pop(module, None)
        follow(None)

    def _context(self, spec: Function) -> Context:
        return Context(
            function_name=spec.name,
            memory_limit_in_mb=spec.memory,
            invoked_function_arn=spec.arn,
            aws_request_id=str(UUID(int=self._random.getrandbits(128), version=4)),
            deadline=monotonic() + spec.timeout,
        )

    def _handler(self, spec: Function) -> Handler:
        known = self._handlers.get(spec.logical_id)
        if known is not None:
            return known
        module_name, _, function_name = spec.handler.rpartition(".")
        path = self._root / spec.code / f"{module_name.replace('.', '/')}.py"
        if not path.is_file():
            raise FileNotFoundError(f"{spec.logical_id}: no handler at {spec.code}{module_name}.py")
        for name in OWN_VARIABLES & spec.environment.keys():
            os.environ[name] = spec.environment[name]
        unique = f"_local_{spec.logical_id}_{next(_numbers)}"
        made = importlib.util.spec_from_file_location(unique, path)
        if made is None or made.loader is None:
            raise ImportError(f"cannot import {path.name}")
        module = importlib.util.module_from_spec(made)
        # Pydantic and typing look a module's names up here when they resolve annotations.
        sys.modules[unique] = module
        self._modules.append(unique)
        made.loader.exec_module(module)
        handler = self._handlers[spec.logical_id] = cast("Handler", getattr(module, function_name))
        return handler


def union(specs: Mapping[str, Function]) -> dict[str, str]:
    """One environment for every function, since they share a process. Raises ValueError where two disagree."""
    together: dict[str, str] = {}
    first: dict[str, str] = {}
    for logical_id, spec in specs.items():
        for name, value in spec.environment.items():
            if name in OWN_VARIABLES:
                continue
            if together.setdefault(name, value) != value:
                raise ValueError(f"{name} is {together[name]!r} in {first[name]} and {value!r} in {logical_id}")
            first.setdefault(name, logical_id)
    return together


def follow(clock: Now | None) -> None:
    """Let Powertools' idempotency records live by this clock: they ask the machine's and take no other."""
    import datetime as real

    from aws_lambda_powertools.utilities.idempotency import base as handler
    from aws_lambda_powertools.utilities.idempotency.persistence import base, datarecord, dynamodb

    stand_in: Any = real
    if clock is not None:
        present = clock.now

        class Clocked(real.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return present() if tz is None else present().astimezone(tz)

        stand_in = SimpleNamespace(datetime=Clocked, timedelta=real.timedelta, timezone=real.timezone)
    for module in (handler, base, datarecord, dynamodb):
        vars(module)["dt"] = stand_in


def count_metrics(counted: Counter[str]) -> None:
    """Add up what the functions measure, by name, instead of printing CloudWatch's documents."""
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf import cloudwatch

    def flush(self: Any, raise_on_empty_metrics: bool = False) -> None:  # noqa: ARG001 # theirs
        for name, metric in self.metric_set.items():
            values = metric["Value"]
            counted[name] += sum(values) if isinstance(values, list) else values
        self.clear_metrics()

    provider: Any = cloudwatch.AmazonCloudWatchEMFProvider
    provider.flush_metrics = flush


def serializable(result: Any) -> Any:
    """What a queue or a stream reads of a function's answer: JSON, as Lambda sends it. Raises InvocationError."""
    try:
        return json.loads(json.dumps(result))
    except (TypeError, ValueError) as error:
        raise InvocationError(f"the answer is no JSON: {error}") from error
