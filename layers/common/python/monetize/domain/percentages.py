"""A share in percent: what a discount takes off, what the platform takes of a bill."""

from decimal import Decimal
from typing import Final

from monetize.domain.errors import Invalid
from monetize.domain.money import EXACT

_HUNDRED: Final = Decimal(100)
_MOST: Final = 32  # characters


def parse_percent(text: str) -> Decimal:
    """A share in percent, 0 to 100, without trailing zeros. Raises Invalid `bad_percent`."""
    whole, point, fraction = text.partition(".")
    digits = whole.isascii() and whole.isdigit() and (not point or (fraction.isascii() and fraction.isdigit()))
    if not digits or len(text) > _MOST:
        raise Invalid("bad_percent", "A percentage is a string of decimal digits, like 12.5.")
    percent = EXACT.create_decimal(text)
    if percent > _HUNDRED:
        raise Invalid("bad_percent", "A percentage is at most 100.")
    return percent.normalize(EXACT)
