"""Allowance: units that cost nothing, for every UTC day or for the whole period, and extra ones bought or given."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from monetize.domain.pricing.package import started


@dataclass(frozen=True, slots=True)
class DayAbove:
    """A UTC day on which more was used than the day allows. `charged` is what of it no top-up covers; `packages` of
    them were started, 0 where the charge is no package."""

    day: date
    used: int
    charged: int
    packages: int = 0


def in_period(quantity: int, part_seconds: int, whole_seconds: int) -> int:
    """A period's allowance for the part of it that was lived, rounded up in the subscriber's favour."""
    return -(-quantity * part_seconds // whole_seconds)


def above_daily(
    days: Iterable[tuple[date, int]], allowance: int, top_up: int = 0, size: int | None = None
) -> tuple[DayAbove, ...]:
    """The days, in order, with usage above `allowance`; the earliest excess uses up the top-up first.

    With `size`, the packages of that size started on each day.
    """
    found = []
    for day, used in sorted(days):
        charged = used - allowance
        if charged > 0 and top_up:
            covered = min(charged, top_up)
            top_up -= covered
            charged -= covered
        if charged > 0:
            found.append(DayAbove(day, used, charged, started(charged, size) if size else 0))
    return tuple(found)
