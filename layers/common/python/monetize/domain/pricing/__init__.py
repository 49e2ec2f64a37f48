"""What a quantity costs under each price model, step by step and exactly. Pure; one module per model."""

from monetize.domain.plans import Charge
from monetize.domain.pricing import graduated, package, per_unit, volume
from monetize.domain.pricing.step import Step


def steps_of(charge: Charge, quantity: int) -> tuple[Step, ...]:
    """The price steps of `quantity` units (≥ 0) above any allowance; the charge has passed `validate_terms`."""
    if charge.model == "graduated":
        return tuple(graduated.steps(charge.tiers, quantity))
    if charge.model == "volume":
        return tuple(volume.steps(charge.tiers, quantity))
    if charge.unit_price is None:
        raise ValueError(f"charge {charge.id} has no unit price")
    if charge.model == "package":
        return tuple(package.steps(charge.unit_price, charge.package_size or 1, quantity))
    return tuple(per_unit.steps(charge.unit_price, quantity))
