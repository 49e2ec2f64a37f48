"""The example buffer for publishers loses no event and sends a batch again as the same request."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local.usage_buffer import UsageBuffer

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Receiver:
    """Stands for `/usage/events`: answers what it is told to, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, list[dict[str, Any]]]] = []
        self.answers: list[tuple[int, dict[str, Any]] | OSError] = []

    def __call__(self, body: bytes, key: str) -> tuple[int, bytes]:
        self.got.append((key, json.loads(body)))
        answer = self.answers.pop(0) if self.answers else (200, {"accepted": len(self.got[-1][1])})
        if isinstance(answer, OSError):
            raise answer
        return answer[0], json.dumps(answer[1]).encode()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def make(tmp_path: Path, receiver: Receiver) -> Iterator[Callable[..., UsageBuffer]]:
    buffers: list[UsageBuffer] = []

    def made(folder: str = "spool", **options: Any) -> UsageBuffer:
        buffers.append(UsageBuffer(tmp_path / folder, receiver, source="urn:gateway:test", **options))
        return buffers[-1]

    yield made
    for buffer in buffers:
        buffer.close()


def record(buffer: UsageBuffer, *ids: str) -> None:
    for each in ids:
        buffer.record(subscription="sub_1", kind="api.request", at=AT, data={"status": 200}, event_id=each)


def ids(batch: tuple[str, list[dict[str, Any]]]) -> list[str]:
    return [event["id"] for event in batch[1]]


def test_an_event_is_a_cloudevent(make: Callable[..., UsageBuffer], receiver: Receiver) -> None:
    buffer = make()
    buffer.record(subscription="sub_1", kind="api.request", at=AT, data={"status": 200}, environment="sandbox")
    buffer.flush()
    (event,) = receiver.got[0][1]
    assert event["specversion"] == "1.0"
    assert event["source"] == "urn:gateway:test"
    assert event["subject"] == "sub_1"
    assert event["time"] == "2026-03-01T12:00:00Z"
    assert event["environment"] == "sandbox"
    assert event["data"] == {"status": 200}


def test_a_batch_without_an_answer_is_sent_again_as_the_same_request(
    make: Callable[..., UsageBuffer], receiver: Receiver
) -> None:
    buffer = make()
    receiver.answers = [OSError("cut off"), (503, {})]
    record(buffer, "a", "b")
    assert [buffer.flush() for _ in range(3)] == [0, 0, 1]
    assert receiver.got[0] == receiver.got[1] == receiver.got[2]
    assert buffer.waiting() == 0


def test_what_was_recorded_survives_a_crash_and_keeps_its_key(
    make: Callable[..., UsageBuffer], receiver: Receiver
) -> None:
    receiver.answers = [OSError("cut off")]
    first = make()
    record(first, "a")
    first.flush()
    record(first, "b")
    # The process dies here: nothing is closed, and the last write was cut off half way.
    left = shutil.copytree(first.folder, first.folder.with_name("after"))
    (open_file,) = left.glob("*.open")
    with open_file.open("ab") as file:
        file.write(b'{"id": "half')
    second = make("after")
    assert second.flush() == 2
    assert receiver.got[1] == receiver.got[0]
    assert ids(receiver.got[2]) == ["b"]


def test_a_full_batch_closes_and_the_next_event_opens_another(
    make: Callable[..., UsageBuffer], receiver: Receiver
) -> None:
    buffer = make(most=2)
    record(buffer, "a", "b", "c")
    assert buffer.waiting() == 2
    buffer.flush()
    assert [ids(batch) for batch in receiver.got] == [["a", "b"], ["c"]]
    assert receiver.got[0][0] != receiver.got[1][0]


def test_an_open_batch_leaves_when_it_is_old_enough(make: Callable[..., UsageBuffer], receiver: Receiver) -> None:
    now = [0.0]
    buffer = make(oldest=2.0, seconds=lambda: now[0])
    record(buffer, "a")
    assert buffer.flush(now=False) == 0
    now[0] = 2.0
    assert buffer.flush(now=False) == 1


def test_pauses_between_attempts_grow(make: Callable[..., UsageBuffer], receiver: Receiver) -> None:
    now = [0.0]
    buffer = make(oldest=0.0, seconds=lambda: now[0])
    receiver.answers = [(503, {})] * 3
    record(buffer, "a")
    for at in (0.0, 0.4, 0.5, 1.4, 1.5):
        now[0] = at
        buffer.flush(now=False)
    assert len(receiver.got) == 3


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_batch_refused_for_good_is_set_aside_not_lost(
    make: Callable[..., UsageBuffer], receiver: Receiver, status: int
) -> None:
    buffer = make()
    receiver.answers = [(status, {})]
    record(buffer, "a")
    buffer.flush()
    buffer.flush()
    assert len(receiver.got) == 1
    assert len(list(buffer.folder.glob("*.refused"))) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 429, 500])
def test_any_other_refusal_is_tried_again(make: Callable[..., UsageBuffer], receiver: Receiver, status: int) -> None:
    buffer = make()
    receiver.answers = [(status, {})]
    record(buffer, "a")
    assert buffer.flush() == 0
    assert buffer.flush() == 1
