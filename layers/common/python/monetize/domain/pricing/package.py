"""Package: units are sold in packages, and a started package is a whole one."""

from collections.abc import Iterator
from decimal import Decimal

from monetize.domain.pricing.step import Step, step


def started(quantity: int, size: int) -> int:
    """How many packages of `size` (> 0) hold `quantity` units."""
    return -(-quantity // size)


def steps(price: Decimal, size: int, quantity: int) -> Iterator[Step]:
    """One step of whole packages, none for nothing."""
    yield from whole(price, size, started(quantity, size))


def whole(price: Decimal, size: int, packages: int) -> Iterator[Step]:
    """One step of packages already counted."""
    if packages:
        yield step(packages, price, size=size)
