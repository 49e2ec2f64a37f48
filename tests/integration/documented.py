"""A system whose every event on the bus must be as its schema says, in whichever test it was told."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from local.clock import Clock
from local.event_schema import problems
from local.system import System


@contextmanager
def documented_system(start: datetime) -> Iterator[System]:
    """A fresh system at an instant, nobody connected."""
    with System(clock=Clock(start)) as running:
        yield running
        assert [found for told in running.outbox() for found in problems(told.detail_type, told.detail)] == []
