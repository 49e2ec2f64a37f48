"""The least that can be charged, in minor units, by settlement currency (docs.stripe.com/currencies).

Stripe compares after conversion to the settlement currency; here the charge currency alone decides, and a currency
without a documented minimum has none above one minor unit.
"""

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


def minimum_charge(currency: str) -> int:
    """Minor units."""
    return _MINIMUMS.get(currency, 1)
