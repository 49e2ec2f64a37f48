"""One clock for the whole local system: it stands still, jumps, or ticks with the machine's. Thread-safe."""

from datetime import UTC, datetime, timedelta
from threading import Lock


class Clock:
    """UTC time that somebody moves. Never goes back.

    With `ticking` it follows the machine's clock from `start` on (`make run`); without, it stands still until moved
    (the demo and the tests), so that a world replays exactly.
    """

    def __init__(self, start: datetime | None = None, *, ticking: bool = False) -> None:
        self._lock = Lock()
        self._ticking = ticking
        self._now = start or datetime.now(UTC)
        self._offset = self._now - datetime.now(UTC)

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        with self._lock:
            return datetime.now(UTC) + self._offset if self._ticking else self._now

    def move_to(self, instant: datetime) -> None:
        """Jump forward to `instant`; an instant in the past changes nothing."""
        with self._lock:
            if self._ticking:
                self._offset = max(self._offset, instant - datetime.now(UTC))
            else:
                self._now = max(self._now, instant)

    def advance(self, by: timedelta) -> None:
        """Jump forward by a duration."""
        self.move_to(self.now() + by)
