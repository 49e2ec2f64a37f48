"""One system in process for each test: the real handlers over the stand-ins, on a clock that stands still."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from local.system import System
from tests.integration.documented import documented_system

START = datetime(2026, 1, 1, 9, 30, tzinfo=UTC)


@pytest.fixture
def system() -> Iterator[System]:
    """A fresh system at 2026-01-01T09:30Z, nobody connected."""
    with documented_system(START) as running:
        yield running
