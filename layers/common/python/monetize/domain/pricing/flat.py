"""Flat: an amount per month or year, for the seconds of it that were lived."""

from monetize.domain.money import prorate
from monetize.domain.periods import Period


def amount(price: int, lived: Period, nominal: Period, multiple_of: int = 1) -> int:
    """The price of `nominal` for the part `lived`, minor units, rounded half-up once."""
    if lived == nominal:
        return price
    return prorate(price, lived.seconds, nominal.seconds, multiple_of)


def kept(charged: int, gross: int, due: int, multiple_of: int = 1) -> int:
    """What stays charged when only `due` of the `gross` fee was lived and `charged` was paid after discounts."""
    return due if charged == gross or gross == 0 else prorate(charged, due, gross, multiple_of)
