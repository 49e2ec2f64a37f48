"""The outbox: what was written becomes events, at least once and in order for each entity."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from monetize.domain.outbox import Change, Event, events_of


class Bus(Protocol):
    """Whoever listens."""

    def put(self, events: Sequence[Event]) -> int: ...


def publish(changes: Iterable[tuple[str, Change]], bus: Bus) -> tuple[int, str | None]:
    """How many events were told, and the position (sequence number) to begin again from, None when all were.

    What was told behind that position is told again, under the same ids.
    """
    told: list[Event] = []
    position: list[str] = []
    for at, change in changes:
        found = events_of(change)
        told += found
        position += [at] * len(found)
    taken = bus.put(told)
    return taken, None if taken == len(told) else position[taken]
