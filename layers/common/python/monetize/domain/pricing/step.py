"""One price step: some units at one price, exact."""

from dataclasses import dataclass
from decimal import Decimal

from monetize.domain.money import EXACT


@dataclass(frozen=True, slots=True)
class Step:
    """`units` times `unit_price` plus `flat_amount` is `amount`, minor units, unrounded. `size`: of a package."""

    units: int
    unit_price: Decimal
    amount: Decimal
    flat_amount: int = 0
    size: int = 1


def step(units: int, unit_price: Decimal, flat_amount: int = 0, size: int = 1) -> Step:
    """The step with its exact amount."""
    amount = EXACT.multiply(unit_price, units)
    return Step(units, unit_price, EXACT.add(amount, flat_amount) if flat_amount else amount, flat_amount, size)
