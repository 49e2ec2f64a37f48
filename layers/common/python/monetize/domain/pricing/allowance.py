"""Allowance: units that cost nothing, for every UTC day or for the whole period, and extra ones bought or given."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date


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


def above_daily(days: Iterable[tuple[date, int]], allowance: int, top_up: int = 0) -> tuple[DayAbove, ...]:
    """The days, in order, with usage above `allowance`; the earliest excess uses up the top-up first."""
    found = []
    for day, used in sorted(days):
        above = used - allowance
        if above > 0:
            covered = min(above, top_up)
            top_up -= covered
            if above > covered:
                found.append(DayAbove(day, used, above - covered))
    return tuple(found)
