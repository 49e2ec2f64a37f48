"""EventBridge Scheduler on the one clock: rates, cron and one-time schedules, and the asynchronous calls they make.

The scheduler hands an event to Lambda; Lambda then retries a failing function by itself (twice unless the template
says otherwise, after one and two minutes) and sends what still fails to the function's on-failure destination. The
schedule's own dead-letter queue gets only what could not be handed over at all, which here never happens.
"""

import heapq
import json
import re
from calendar import day_abbr, month_abbr
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from local.api_gateway import InvocationError, Invoke, Now
from local.stack import ACCOUNT, REGION, Function, Schedule

HORIZON_YEARS = 5
ASYNC_RETRY_DELAYS = (timedelta(minutes=1), timedelta(minutes=2))
UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
MONTHS = {name.upper(): number for number, name in enumerate(month_abbr) if name}
WEEKDAYS = {name.upper(): (number + 1) % 7 + 1 for number, name in enumerate(day_abbr)}


class ExpressionError(ValueError):
    """A schedule expression that this machine cannot follow."""


@dataclass(frozen=True)
class Rate:
    """Every so often from a start."""

    every: timedelta

    def after(self, instant: datetime, anchor: datetime) -> datetime | None:
        """The first time later than `instant`."""
        passed = (instant - anchor) // self.every
        return anchor + (passed + 1) * self.every


@dataclass(frozen=True)
class Once:
    """At one instant."""

    at: datetime

    def after(self, instant: datetime, anchor: datetime) -> datetime | None:  # noqa: ARG002 # the others need it
        """The instant, if it is still to come."""
        return self.at if self.at > instant else None


@dataclass(frozen=True)
class Cron:
    """`minute hour day-of-month month day-of-week year`, in a time zone. No `W` and no `#`."""

    fields: tuple[str, str, str, str, str, str]
    zone: str = "UTC"

    @cached_property
    def _sets(self) -> tuple[frozenset[int], frozenset[int], frozenset[int], frozenset[int], frozenset[int]]:
        minute, hour, _, month, weekday, year = self.fields
        return (
            _values(minute, 0, 59),
            _values(hour, 0, 23),
            _values(month, 1, 12, MONTHS),
            _values(weekday, 1, 7, WEEKDAYS),
            _values(year, 1970, 2199),
        )

    def _day_matches(self, day: datetime) -> bool:
        _, _, months, weekdays, years = self._sets
        if day.month not in months or day.year not in years:
            return False
        if self.fields[4] != "?" and day.isoweekday() % 7 + 1 not in weekdays:
            return False
        if self.fields[2] == "L":
            return (day + timedelta(days=1)).day == 1
        return self.fields[2] == "?" or day.day in _values(self.fields[2], 1, 31)

    def after(self, instant: datetime, anchor: datetime) -> datetime | None:  # noqa: ARG002 # rates need it
        """The first matching minute later than `instant`, looking a few years ahead."""
        minutes, hours, *_ = self._sets
        zone = ZoneInfo(self.zone)
        local = instant.astimezone(zone).replace(second=0, microsecond=0, tzinfo=None) + timedelta(minutes=1)
        day = local.replace(hour=0, minute=0)
        for _ in range(366 * HORIZON_YEARS):
            if self._day_matches(day):
                for hour in sorted(hours):
                    for minute in sorted(minutes):
                        found = day.replace(hour=hour, minute=minute, tzinfo=zone).astimezone(UTC)
                        if found > instant:
                            return found
            day += timedelta(days=1)
        return None


def _number(text: str, names: Mapping[str, int]) -> int:
    if text.upper() in names:
        return names[text.upper()]
    if not text.isdigit():
        raise ExpressionError(f"{text!r} is not supported in a cron expression")
    return int(text)


def _values(text: str, low: int, high: int, names: Mapping[str, int] | None = None) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in {"*", "?"}:
            first, last = low, high
        elif "-" in span:
            first, last = (_number(end, names or {}) for end in span.split("-"))
        else:
            first = _number(span, names or {})
            last = high if step else first
        if not low <= first <= last <= high:
            raise ExpressionError(f"{part!r} is out of range")
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def parse(expression: str, zone: str = "UTC") -> Rate | Cron | Once:
    """Read `rate(…)`, `cron(…)` or `at(…)`. Raises ExpressionError."""
    found = re.fullmatch(r"(rate|cron|at)\((.+)\)", expression.strip())
    if found is None:
        raise ExpressionError(f"{expression!r} is no schedule expression")
    kind, inner = found.groups()
    if kind == "rate":
        number, _, unit = inner.partition(" ")
        unit = unit.removesuffix("s")
        if not number.isdigit() or int(number) < 1 or unit not in UNITS:
            raise ExpressionError(f"{expression!r} is no rate")
        return Rate(int(number) * UNITS[unit])
    if kind == "at":
        return Once(datetime.fromisoformat(inner).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC))
    fields = inner.split()
    if len(fields) != 6:
        raise ExpressionError(f"{expression!r} has not six fields")
    cron = Cron((fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]), zone)
    cron.after(datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC))
    return cron


@dataclass(slots=True)
class _Pending:
    function: str
    event: dict[str, Any]
    attempt: int
    request_id: str


class Schedules:
    """Fires the template's schedules. `bury(queue ARN, body)` sends to a dead-letter queue.

    `at_most_every` thins out frequent schedules: one that would fire more often fires once in that time. For jumps
    over months, where nothing depends on each tick.
    """

    def __init__(
        self,
        schedules: Sequence[Schedule],
        functions: Mapping[str, Function],
        clock: Now,
        invoke: Invoke,
        bury: Callable[[str, str], None],
    ) -> None:
        self.at_most_every: timedelta | None = None
        self.lost: list[_Pending] = []
        self._functions = functions
        self._clock = clock
        self._invoke = invoke
        self._bury = bury
        self._ties = count()
        self._anchor = clock.now()
        self._timings = {schedule.name: parse(schedule.expression, schedule.zone) for schedule in schedules}
        self._ticks: list[tuple[datetime, int, Schedule]] = []
        self._pending: list[tuple[datetime, int, _Pending]] = []
        for schedule in schedules:
            self._plan(schedule, self._anchor)

    def _plan(self, schedule: Schedule, after: datetime) -> None:
        timing = self._timings[schedule.name]
        following = timing.after(after, self._anchor)
        if following is not None:
            heapq.heappush(self._ticks, (following, next(self._ties), schedule))

    def next_due(self) -> datetime | None:
        """When a schedule fires or a failed call is tried again."""
        heads = [heap[0][0] for heap in (self._ticks, self._pending) if heap]
        return min(heads, default=None)

    def upcoming(self) -> list[tuple[datetime, str]]:
        """Every schedule's next firing, soonest first."""
        return sorted((at, schedule.name) for at, _, schedule in self._ticks)

    def run_due(self) -> int:
        """Fire what is due now; gives how many calls were made."""
        done = 0
        while self._ticks and self._ticks[0][0] <= self._clock.now():
            at, tie, schedule = heapq.heappop(self._ticks)
            gap = self.at_most_every
            now = self._clock.now()
            # A schedule missed while the clock jumped fires once: the scheduler keeps no backlog of ticks.
            self._plan(schedule, max(at, now) if gap is None else max(at, now) + gap - timedelta(microseconds=1))
            self._call(_Pending(schedule.function, _event(schedule, at, tie), 1, str(UUID(int=tie, version=4))))
            done += 1
        while self._pending and self._pending[0][0] <= self._clock.now():
            self._call(heapq.heappop(self._pending)[2])
            done += 1
        return done

    def _call(self, pending: _Pending) -> None:
        try:
            self._invoke(pending.function, deepcopy(pending.event))
        except InvocationError as failed:
            function = self._functions[pending.function]
            if pending.attempt <= function.async_retries:
                at = self._clock.now() + ASYNC_RETRY_DELAYS[min(pending.attempt, 2) - 1]
                again = _Pending(pending.function, pending.event, pending.attempt + 1, pending.request_id)
                heapq.heappush(self._pending, (at, next(self._ties), again))
            elif function.on_failure is not None:
                self._bury(function.on_failure, json.dumps(_on_failure(function, pending, failed, self._clock.now())))
            else:
                self.lost.append(pending)


def _event(schedule: Schedule, at: datetime, number: int) -> dict[str, Any]:
    arn = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{schedule.name}"
    time = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    if schedule.payload is not None:
        text = schedule.payload
        for name, value in (
            ("scheduled-time", time),
            ("execution-id", f"{number:016x}"),
            ("attempt-number", "1"),
            ("schedule-arn", arn),
        ):
            text = text.replace(f"<aws.scheduler.{name}>", value)
        payload: dict[str, Any] = json.loads(text)
        return payload
    return {
        "version": "0",
        "id": str(UUID(int=number, version=4)),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": ACCOUNT,
        "time": time,
        "region": REGION,
        "resources": [arn],
        "detail": "{}",
    }


def _on_failure(function: Function, pending: _Pending, failed: InvocationError, now: datetime) -> dict[str, Any]:
    """Lambda's record of an asynchronous call that was given up."""
    return {
        "version": "1.0",
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "requestContext": {
            "requestId": pending.request_id,
            "functionArn": f"{function.arn}:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": pending.attempt,
        },
        "requestPayload": pending.event,
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": str(failed)},
    }
