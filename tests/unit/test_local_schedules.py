"""Schedules fire when EventBridge Scheduler would, and failing calls are retried as Lambda retries them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.api_gateway import InvocationError
from local.clock import Clock
from local.schedules import ExpressionError, Schedules, parse
from local.stack import Function, Schedule

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def function(*, retries: int = 2, on_failure: str | None = "arn:dead") -> Function:
    return Function(
        logical_id="F", name="F", arn="arn:F", code="f/", handler="app.handler", timeout=30, memory=128,
        environment={}, async_retries=retries, on_failure=on_failure,
    )  # fmt: skip


def schedule(expression: str, payload: str | None = '{"tick": 1}') -> Schedule:
    return Schedule(
        name="tick", expression=expression, zone="UTC", function="F", payload=payload, retries=2, dead_letters=None
    )


class World:
    def __init__(self, *schedules: Schedule, of: Function | None = None) -> None:
        self.clock = Clock(START)
        self.fired: list[tuple[datetime, dict[str, Any]]] = []
        self.buried: list[tuple[str, str]] = []
        self.failing = False
        self.schedules = Schedules(
            schedules,
            {"F": of or function()},
            self.clock,
            self.invoke,
            lambda arn, body: self.buried.append((arn, body)),
        )

    def invoke(self, _function: str, event: dict[str, Any]) -> Any:
        self.fired.append((self.clock.now(), event))
        if self.failing:
            raise InvocationError("boom")

    def run(self, duration: timedelta) -> None:
        until = self.clock.now() + duration
        while (due := self.schedules.next_due()) is not None and due <= until:
            self.clock.move_to(due)
            self.schedules.run_due()
        self.clock.move_to(until)


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("rate(5 minutes)", "UTC", "2026-01-31T12:05:00"),
        ("rate(1 hour)", "UTC", "2026-01-31T13:00:00"),
        ("rate(2 days)", "UTC", "2026-02-02T12:00:00"),
        ("cron(30 4 * * ? *)", "UTC", "2026-02-01T04:30:00"),
        ("cron(0/15 12 * * ? *)", "UTC", "2026-01-31T12:15:00"),
        ("cron(0 0 1 * ? *)", "UTC", "2026-02-01T00:00:00"),
        ("cron(0 0 L * ? *)", "UTC", "2026-02-28T00:00:00"),
        ("cron(0 9 ? * MON-FRI *)", "UTC", "2026-02-02T09:00:00"),
        ("cron(0 9 ? * SUN *)", "UTC", "2026-02-01T09:00:00"),
        ("cron(0 0 29 FEB ? *)", "UTC", "2028-02-29T00:00:00"),
        ("cron(0 13 * * ? *)", "Europe/Paris", "2026-02-01T12:00:00"),
        ("at(2026-03-01T00:00:00)", "UTC", "2026-03-01T00:00:00"),
    ],
)
def test_the_next_time_is_the_one_that_the_expression_names(expression: str, zone: str, expected: str) -> None:
    assert parse(expression, zone).after(START, START) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_what_has_passed_does_not_fire() -> None:
    assert parse("at(2026-01-01T00:00:00)").after(START, START) is None
    assert parse("cron(0 0 1 1 ? 2025)").after(START, START) is None


@pytest.mark.parametrize(
    "expression", ["every day", "rate(0 minutes)", "rate(1 fortnight)", "cron(0 0 * * *)", "cron(60 0 * * ? *)",
                   "cron(0 0 ? * 6#3 *)", "cron(0 0 15W * ? *)"],
)  # fmt: skip
def test_an_expression_that_cannot_be_followed_is_an_error(expression: str) -> None:
    with pytest.raises(ExpressionError):
        parse(expression)


def test_a_rate_fires_from_the_start_on_and_never_drifts() -> None:
    world = World(schedule("rate(1 hour)"))
    world.run(timedelta(hours=3, minutes=30))
    assert [at - START for at, _ in world.fired] == [timedelta(hours=n) for n in (1, 2, 3)]
    assert world.fired[0][1] == {"tick": 1}


def test_a_jump_over_many_ticks_fires_once() -> None:
    world = World(schedule("rate(1 hour)"))
    world.clock.advance(timedelta(days=30))
    world.schedules.run_due()
    assert len(world.fired) == 1
    assert world.schedules.next_due() == START + timedelta(days=30, hours=1)


def test_frequent_schedules_can_be_thinned_out() -> None:
    world = World(schedule("rate(1 hour)"))
    world.schedules.at_most_every = timedelta(days=1)
    world.run(timedelta(days=3))
    assert len(world.fired) == 3


def test_without_an_input_the_event_is_the_schedulers_own() -> None:
    world = World(schedule("rate(1 hour)", None))
    world.run(timedelta(hours=1))
    event = world.fired[0][1]
    assert (event["source"], event["detail-type"], event["time"]) == (
        "aws.scheduler", "Scheduled Event", "2026-01-31T13:00:00Z",
    )  # fmt: skip


def test_context_attributes_of_an_input_are_filled_in() -> None:
    world = World(schedule("rate(1 hour)", '{"at": "<aws.scheduler.scheduled-time>"}'))
    world.run(timedelta(hours=1))
    assert world.fired[0][1] == {"at": "2026-01-31T13:00:00Z"}


def test_a_failing_call_is_tried_twice_more_and_then_buried() -> None:
    world = World(schedule("at(2026-02-01T00:00:00)"))
    world.failing = True
    world.run(timedelta(days=1))
    first = datetime(2026, 2, 1, tzinfo=UTC)
    assert [at - first for at, _ in world.fired] == [timedelta(0), timedelta(minutes=1), timedelta(minutes=3)]
    ((arn, body),) = world.buried
    assert arn == "arn:dead"
    assert json.loads(body)["requestPayload"] == {"tick": 1}
    assert json.loads(body)["requestContext"]["approximateInvokeCount"] == 3


def test_the_function_decides_how_often_it_is_retried() -> None:
    world = World(schedule("at(2026-02-01T00:00:00)"), of=function(retries=0, on_failure=None))
    world.failing = True
    world.run(timedelta(days=1))
    assert len(world.fired) == 1
    assert world.buried == []
    assert len(world.schedules.lost) == 1
