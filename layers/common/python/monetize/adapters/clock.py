"""What time it is."""

from datetime import UTC, datetime


class SystemClock:
    """The machine's clock, UTC."""

    def now(self) -> datetime:
        """The present instant."""
        return datetime.now(UTC)
