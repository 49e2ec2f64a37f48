"""The publisher's gateway asks before it passes a call on, and reports exactly what it passed on."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.clock import Clock
from local.gateway import PublisherGateway, weather
from local.loopback import Request
from local.usage_buffer import UsageBuffer

ALLOWED = {"allowed": True, "subscription": "sub_1", "environment": "sandbox"}


class World:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock(datetime(2026, 3, 1, tzinfo=UTC))
        self.sent: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.answer: Mapping[str, Any] | None = ALLOWED
        self.buffer = UsageBuffer(folder, self.send, source="urn:gateway:test")
        self.gateway = PublisherGateway("api_weather", self.check, self.buffer, weather, self.clock)

    def send(self, body: bytes, _key: str) -> tuple[int, bytes]:
        self.sent += json.loads(body)
        return 200, b"{}"

    def check(self, key: str, api: str) -> Mapping[str, Any]:
        self.asked.append((key, api))
        if self.answer is None:
            raise OSError("no answer")
        return self.answer

    def call(self, key: str | None = "mk_test_1", target: str = "/weather/oslo?x=1") -> int:
        headers = [("x-api-key", key)] if key else []
        return self.gateway.handle(Request("GET", target, headers)).status


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.buffer.close()


def test_a_call_that_reached_the_api_is_one_event(world: World) -> None:
    assert world.call() == 200
    world.buffer.flush()
    (event,) = world.sent
    assert (event["subject"], event["type"], event["environment"]) == ("sub_1", "api.request", "sandbox")
    assert event["time"] == "2026-03-01T00:00:00Z"
    assert event["data"] == {"status": 200, "method": "GET", "path": "/weather/oslo", "bytes": event["data"]["bytes"]}
    assert event["data"]["bytes"] > 0


def test_the_apis_own_refusals_are_events_too(world: World) -> None:
    assert world.call(target="/nowhere") == 404
    world.buffer.flush()
    assert world.sent[0]["data"]["status"] == 404


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"allowed": False, "reason": "unknown_key"}, 401),
        ({"allowed": False, "reason": "quota_exceeded", "retry_after": 60}, 429),
        ({"allowed": False, "reason": "subscription_blocked"}, 403),
        ({}, 403),
    ],
)
def test_a_refused_call_reaches_no_api_and_is_no_usage(world: World, answer: dict[str, Any], status: int) -> None:
    world.answer = answer
    assert world.call() == status
    world.buffer.flush()
    assert world.sent == []


def test_without_a_key_nobody_is_asked(world: World) -> None:
    assert world.call(key=None) == 401
    assert world.asked == []


def test_an_answer_holds_for_a_few_seconds(world: World) -> None:
    world.call()
    world.call()
    assert world.asked == [("mk_test_1", "api_weather")]
    world.clock.advance(timedelta(seconds=5))
    world.call()
    assert len(world.asked) == 2


def test_an_old_answer_serves_for_a_while_when_nobody_answers(world: World) -> None:
    world.call()
    world.answer = None
    world.clock.advance(timedelta(minutes=1))
    assert world.call() == 200
    world.clock.advance(timedelta(minutes=5))
    assert world.call() == 503


def test_the_upstream_never_sees_the_key(world: World) -> None:
    seen: list[Request] = []

    def upstream(request: Request) -> Any:
        seen.append(request)
        return weather(request)

    gateway = PublisherGateway("a", world.check, world.buffer, upstream, world.clock)
    gateway.handle(Request("GET", "/weather/oslo", [("x-api-key", "k"), ("accept", "*/*")]))
    assert seen[0].headers == [("accept", "*/*")]
