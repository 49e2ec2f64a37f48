"""The outbox: what was written becomes events, at least once and in order for each entity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from monetize.domain.outbox import Change, Event, events_of


class Bus(Protocol):
    """Whoever listens."""

    def put(self, events: Sequence[Event]) -> tuple[int, Mapping[int, str]]:
        """How many of the first are dealt with, and which of those can never be taken, by index, with the reason."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a batch: how many events were told, the position (sequence number) to begin again from (None: it
    is done), and what was set apart: positions with the reason, in order."""

    told: int
    again: str | None = None
    apart: tuple[tuple[str, str], ...] = ()


def publish(records: Iterable[tuple[str, Callable[[], Change]]], bus: Bus) -> Published:
    """Tell what the records mean, each read by itself: one that cannot be read, or that the bus can never take, is set
    apart, and its neighbours go on.

    What was told behind the position to begin again from is told again, under the same ids.
    """
    told: list[Event] = []
    place: list[int] = []  # of each event: which record it is of
    apart: dict[int, str] = {}
    positions: list[str] = []
    for number, (at, read) in enumerate(records):
        positions.append(at)
        try:
            found = events_of(read())
        except Exception as unreadable:  # noqa: BLE001 # set apart with an alarm; raised, it would stop all behind it
            apart[number] = type(unreadable).__name__
            continue
        told += found
        place += [number] * len(found)
    taken, refused = bus.put(told)
    apart |= {place[index]: why for index, why in refused.items()}
    end = place[taken] if taken < len(told) else len(positions)
    again = positions[end] if end < len(positions) else None
    done = sorted(number for number in apart if number < end)  # what lies behind is met again
    return Published(taken - len(refused), again, tuple((positions[number], apart[number]) for number in done))
