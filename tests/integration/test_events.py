"""Every file of `events/`, through the function it is named after: what `sam local invoke` is given, in process."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local.clock import Clock
from local.sam_check import EVENTS, OPTIONAL, cases, read_answer
from local.system import ROOT, System
from local.template import load

START = datetime(2026, 3, 12, 19, 3, 58, tzinfo=UTC)
FILES = sorted(EVENTS.glob("*.json"))
ALL = {case.function: case for case in cases(load(ROOT / "template.yaml"), EVENTS)}
# Its user pool is made without an issuer only, and this machine brings one: test_token_claims has its events.
NOT_HERE = {"token_claims"}
FOLDERS = [folder.parent.name for folder in (ROOT / "functions").glob("*/app.py")]


def function_of(file: Path) -> str:
    return max((name for name in FOLDERS if file.stem == name or file.stem.startswith(f"{name}_")), key=len, default="")


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with System(clock=Clock(START), parameters={**OPTIONAL, "AccessLogBucket": "access-logs"}) as made:
        made.s3.put_object(Bucket="access-logs", Key="weather/2026/11/17/10/log.gz", Body=b"")
        yield made


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_an_event_is_answered_without_a_failure(system: System, file: Path) -> None:
    name = function_of(file)
    assert name, "named after no function"
    if name in NOT_HERE or name not in ALL:
        return
    system.wire()
    answer = system.functions.invoke(ALL[name].logical_id, json.loads(file.read_text("utf-8")))
    assert not read_answer(answer).failed, answer


def test_every_function_has_an_event() -> None:
    assert [name for name, case in ALL.items() if case.event is None] == []
