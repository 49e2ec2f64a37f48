"""Meters: how an event becomes a quantity. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

MAX_QUANTITY = 10**15 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What `data[property]` must be: one of `values`, or a number within one of `ranges` (both ends included)."""

    property: str
    values: tuple[str, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """`count` counts matching events; `sum` adds up `data[value_property]`, a non-negative integer of `unit`."""

    id: str
    publisher: str
    name: str
    event_type: str
    aggregation: str = "count"  # or sum
    value_property: str | None = None
    unit: str = "calls"
    filters: tuple[Filter, ...] = ()
    used: bool = False  # by a published plan version: frozen
    short: int = 0  # its number within the publisher: the counter's attribute name, never reused
    created_at: datetime
    rev: int = 0


class BadValue(ValueError):
    """The event has no usable quantity."""


def matches(meter: Meter, data: Mapping[str, object]) -> bool:
    """Whether every filter lets the event through."""
    return all(passes(each, data.get(each.property)) for each in meter.filters)


def quantity(meter: Meter, data: Mapping[str, object]) -> int:
    """How much an event of the meter's type adds: 0 when a filter keeps it out. BadValue when it cannot be told."""
    if not matches(meter, data):
        return 0
    return 1 if meter.aggregation == "count" else value_of(meter, data)


def value_of(meter: Meter, data: Mapping[str, object]) -> int:
    """The quantity a `sum` meter reads from an event that passed its filters. BadValue when there is none."""
    value = data.get(meter.value_property or "")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_QUANTITY:
        raise BadValue(f"{meter.value_property} must be an integer from 0 to {MAX_QUANTITY}")
    return value


def passes(each: Filter, value: object) -> bool:
    """Whether one filter lets this value of its property through."""
    if value is None or isinstance(value, (dict, list)):
        return False
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text in each.values:
        return True
    if not each.ranges or not text.isascii() or not text.lstrip("-").isdigit() or len(text) > 18:
        return False
    number = int(text)
    return any(low <= number <= high for low, high in each.ranges)
