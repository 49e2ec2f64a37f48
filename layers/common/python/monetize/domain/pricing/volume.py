"""Volume: the tier the whole quantity falls into prices every unit."""

from collections.abc import Iterator, Sequence

from monetize.domain.plans import PriceTier
from monetize.domain.pricing.step import Step, step


def steps(tiers: Sequence[PriceTier], quantity: int) -> Iterator[Step]:
    """One step, none for nothing."""
    if not quantity:
        return
    for tier in tiers:
        if tier.up_to is None or quantity <= tier.up_to:
            yield step(quantity, tier.unit_price, tier.flat_amount)
            return
