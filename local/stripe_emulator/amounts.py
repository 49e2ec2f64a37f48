"""Which amounts a currency takes, in minor units: the least, and a multiple of what (docs.stripe.com/currencies).

Stripe compares the least charge after conversion to the settlement currency; here the charge currency alone decides,
and a currency without a documented minimum has none above one minor unit.
"""

from decimal import ROUND_HALF_UP, Decimal

from local.stripe_emulator.refusals import invalid

_MINIMUMS = {
    "usd": 50,
    "aed": 200,
    "aud": 50,
    "bgn": 100,
    "brl": 50,
    "cad": 50,
    "chf": 50,
    "czk": 1500,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "hkd": 400,
    "huf": 17500,
    "inr": 50,
    "jpy": 50,
    "mxn": 1000,
    "myr": 200,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "sgd": 50,
    "thb": 1000,
}


# Three decimals of which the last is 0; two decimals of which both are.
_MULTIPLES = {"bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10, "isk": 100, "ugx": 100}


def minimum_charge(currency: str) -> int:
    """Minor units."""
    return _MINIMUMS.get(currency, 1)


def check_multiple(amount: int, currency: str, param: str) -> None:
    """Raises 400 for an amount that the currency cannot be charged or given back in."""
    multiple = _MULTIPLES.get(currency, 1)
    if amount % multiple:
        raise invalid(f"Invalid amount: amounts in {currency} must be a multiple of {multiple}.", param)


def round_half_up(exact: Decimal, currency: str) -> int:
    """The nearest amount that the currency takes."""
    multiple = _MULTIPLES.get(currency, 1)
    return int((exact / multiple).quantize(Decimal(1), ROUND_HALF_UP)) * multiple
