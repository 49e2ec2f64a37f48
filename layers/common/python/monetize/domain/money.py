"""How much: exact amounts in minor units, rounded once, and split without losing a unit."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation
from functools import lru_cache
from typing import Final

from monetize.domain.currencies import CURRENCIES, Currency
from monetize.domain.errors import Invalid

PRICE_DECIMALS: Final = 12
PRICE_INTEGER_DIGITS: Final = 15

# Wide enough for any quantity times any price, and Inexact is trapped: a product is either exact or an error.
EXACT: Final = Context(prec=120, rounding=ROUND_HALF_UP, traps=[Inexact, InvalidOperation])
_ROUNDING: Final = Context(prec=120, rounding=ROUND_HALF_UP)
_ONE: Final = Decimal(1)


def round_half_up(exact: Decimal) -> int:
    """The nearest integer, halves away from zero; exact up to 120 digits whatever the thread's own context is."""
    return int(exact.quantize(_ONE, context=_ROUNDING))


def divide_half_up(numerator: int, denominator: int) -> int:
    """`numerator / denominator` to the nearest integer, halves away from zero; `denominator` > 0."""
    half_up = (2 * abs(numerator) + denominator) // (2 * denominator)
    return half_up if numerator >= 0 else -half_up


def chargeable(exact: Decimal, currency: Currency) -> int:
    """Minor units Stripe can charge: one half-up rounding, to the currency's multiple (ISK and UGX whole, …)."""
    if currency.multiple_of == 1:
        return round_half_up(exact)
    # By integers: a quotient of decimals might not be exact.
    numerator, denominator = exact.as_integer_ratio()
    return currency.multiple_of * divide_half_up(numerator, denominator * currency.multiple_of)


def prorate(amount: int, part_seconds: int, whole_seconds: int, multiple_of: int = 1) -> int:
    """The share of `amount` (minor units) that `part_seconds` are of `whole_seconds`, rounded half-up once."""
    if whole_seconds <= 0 or part_seconds < 0:
        raise ValueError("a part is not negative and a whole is positive")
    return multiple_of * divide_half_up(amount * part_seconds, whole_seconds * multiple_of)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in parts proportional to `weights` (≥ 0, not all zero) by largest remainder: the parts sum to it.

    Equal remainders go to the earlier part, so the answer is one and the same everywhere. A negative total is the
    mirror image of the positive one.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights are not negative and not all zero")
    size = abs(total)
    shares = [divmod(size * weight, whole) for weight in weights]
    parts = [floor for floor, _ in shares]
    missing = size - sum(parts)
    if missing:
        by_remainder = sorted(range(len(shares)), key=lambda at: -shares[at][1])
        for at in by_remainder[:missing]:
            parts[at] += 1
    return parts if total >= 0 else [-part for part in parts]


def parse_unit_price(text: str) -> Decimal:
    """A price of one unit in minor units, from its decimal string.

    Raises Invalid: `price_malformed` (exponents, signs other than a minus, NaN, blanks), `negative_price`,
    `price_too_precise` (more than 12 decimals), `price_too_large` (more than 15 integer digits).
    """
    if not isinstance(text, str):
        raise Invalid("price_malformed", "A unit price is a string of decimal digits.")
    digits = text.removeprefix("-")
    whole, point, fraction = digits.partition(".")
    readable = whole.isascii() and whole.isdigit() and (not point or (fraction.isascii() and fraction.isdigit()))
    if not readable:
        raise Invalid("price_malformed", "A unit price is a string of decimal digits, like 0.0025.")
    # Judged before Decimal sees it: a hostile string may have a million digits.
    if len(fraction.rstrip("0")) > PRICE_DECIMALS:
        raise Invalid("price_too_precise", f"A unit price has at most {PRICE_DECIMALS} decimals.")
    if len(whole.lstrip("0")) > PRICE_INTEGER_DIGITS:
        raise Invalid("price_too_large", f"A unit price has at most {PRICE_INTEGER_DIGITS} digits before the point.")
    price = EXACT.create_decimal(f"{whole}.{fraction.rstrip('0')}" if fraction.rstrip("0") else whole)
    if digits != text and price:
        raise Invalid("negative_price", "A unit price is not negative.")
    return price


def check_unit_price(price: Decimal) -> None:
    """Hold a price that is a Decimal already to the same rules and codes as `parse_unit_price`."""
    if not price.is_finite():
        raise Invalid("price_malformed", "A unit price is a finite number.")
    # By exponent first: written out, 1e999999999 would fill the memory.
    if price and price.adjusted() >= PRICE_INTEGER_DIGITS:
        raise Invalid("price_too_large", f"A unit price has at most {PRICE_INTEGER_DIGITS} digits before the point.")
    exponent = price.normalize(EXACT).as_tuple().exponent if len(price.as_tuple().digits) <= EXACT.prec else None
    if not isinstance(exponent, int) or exponent < -PRICE_DECIMALS:
        raise Invalid("price_too_precise", f"A unit price has at most {PRICE_DECIMALS} decimals.")
    if price < 0:
        raise Invalid("negative_price", "A unit price is not negative.")


def currency_of(code: str) -> Currency:
    """The currency of an ISO 4217 code in lower case. Raises Invalid `unknown_currency`."""
    found = CURRENCIES.get(code)
    if found is None:
        raise Invalid("unknown_currency", f"Stripe does not charge in {code!r}; codes are lower case, like usd.")
    return found


def check_chargeable(amount: int, currency: str) -> None:
    """Invalid `amount_not_chargeable` unless Stripe takes this amount (minor units) of the currency, either way."""
    multiple = currency_of(currency).multiple_of
    if amount % multiple:
        raise Invalid("amount_not_chargeable", f"Amounts in {currency} are multiples of {multiple} minor units.")


def chargeable_part(amount: int, currency: str) -> int:
    """The most of an amount (minor units, ≥ 0) that Stripe takes of the currency."""
    return amount - amount % currency_of(currency).multiple_of


def decimal_amount(minor: int, currency: str) -> str:
    """An amount for machines, in the currency's main unit with all its decimals: `1234.50`, `-500`, `1.230`."""
    exponent = currency_of(currency).exponent
    whole, fraction = divmod(abs(minor), 10**exponent)
    sign = "-" if minor < 0 else ""
    return f"{sign}{whole}.{fraction:0{exponent}}" if exponent else f"{sign}{whole}"


_SYMBOLS: Final = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "krw": "₩"}


def format_amount(minor: int, currency: str) -> str:
    """An amount for people: `$1,234.50`, `-¥500`, `KWD 1.230`."""
    exponent = currency_of(currency).exponent
    whole, fraction = divmod(abs(minor), 10**exponent)
    number = f"{whole:,}.{fraction:0{exponent}}" if exponent else f"{whole:,}"
    return _signed(number, minor < 0, currency)


# A plan's prices are said on every bill of every subscriber.
@lru_cache(maxsize=4096)
def format_unit_price(minor: Decimal, currency: str) -> str:
    """A unit price in minor units for people, with every digit it has: `$0.000025`, `KWD 0.0155`."""
    exponent = currency_of(currency).exponent
    major = EXACT.scaleb(minor, -exponent)
    whole, _, fraction = f"{abs(major):,f}".partition(".")
    fraction = fraction.rstrip("0").ljust(exponent, "0")
    return _signed(f"{whole}.{fraction}" if fraction else whole, major < 0, currency)


def _signed(number: str, negative: bool, currency: str) -> str:
    sign, symbol = "-" if negative else "", _SYMBOLS.get(currency)
    return f"{sign}{symbol}{number}" if symbol else f"{currency.upper()} {sign}{number}"
