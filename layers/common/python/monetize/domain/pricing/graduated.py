"""Graduated: each unit costs what its own tier says."""

from collections.abc import Iterator, Sequence

from monetize.domain.plans import PriceTier
from monetize.domain.pricing.step import Step, step


def steps(tiers: Sequence[PriceTier], quantity: int) -> Iterator[Step]:
    """One step for every tier reached; a tier's flat amount is due with its first unit."""
    floor = 0
    for tier in tiers:
        if quantity <= floor:
            return
        ceiling = quantity if tier.up_to is None else min(quantity, tier.up_to)
        yield step(ceiling - floor, tier.unit_price, tier.flat_amount)
        floor = ceiling
