"""A stack that nobody uses: what its schedules alone do, as the cost table of the deployment guide counts it."""

import re
from datetime import timedelta
from pathlib import Path

from local.system import ROOT, System

MONTH = 30


def _stated(name: str) -> int:
    """The first whole number in that row's first two cells."""
    guide = Path(ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").split("## What an idle stack costs")[1]
    (row,) = [line for line in guide.splitlines() if line.startswith(f"| {name}")]
    found = re.search(r"\d[\d,]{2,}", row)
    assert found is not None, row
    return int(found[0].replace(",", ""))


def _runs(system: System) -> int:
    """Without the outbox: its stream's filter, which this machine does not follow, lets no lease through."""
    return sum(number for name, number in system.functions.invocations.items() if name != "PublishEventsFunction")


def test_an_idle_day_runs_sends_and_measures_no_more_than_the_guide_counts(system: System) -> None:
    system.run_for(timedelta(hours=1))  # schedules begin
    runs, sent = _runs(system), system.sqs.sent
    system.run_for(timedelta(days=1))
    assert (_runs(system) - runs) * MONTH <= _stated("Lambda")
    assert (system.sqs.sent - sent) * MONTH <= 64 * 24 * MONTH
    assert set(system.functions.metrics) == {"DueFound"}


def test_leases_and_tallies_mean_nothing_to_the_world_outside(system: System) -> None:
    system.run_for(timedelta(hours=3))
    assert not system.outbox()
