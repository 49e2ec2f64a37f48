"""Flat: an amount per month or year, for the seconds of it that were lived."""

from datetime import timedelta
from typing import Final

from monetize.domain.money import prorate
from monetize.domain.periods import Period

_SECOND: Final = timedelta(seconds=1)


def amount(price: int, lived: Period, nominal: Period, multiple_of: int = 1) -> int:
    """The price of `nominal` for the part `lived`, minor units: what is due at its end less what was due at its start.

    Each is rounded half-up once, so the parts of a month cost together what the month does, however it is cut.
    """
    whole = nominal.seconds
    before = (lived.start - nominal.start) // _SECOND
    return prorate(price, before + lived.seconds, whole, multiple_of) - prorate(price, before, whole, multiple_of)


def kept(charged: int, gross: int, due: int, multiple_of: int = 1) -> int:
    """What stays charged when only `due` of the `gross` fee was lived and `charged` was paid after discounts."""
    return due if charged == gross or gross == 0 else prorate(charged, due, gross, multiple_of)
