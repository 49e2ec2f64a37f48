"""Per unit: every unit costs the same."""

from collections.abc import Iterator
from decimal import Decimal

from monetize.domain.pricing.step import Step, step


def steps(unit_price: Decimal, quantity: int) -> Iterator[Step]:
    """One step, none for nothing."""
    if quantity:
        yield step(quantity, unit_price)
