"""Every currency Stripe charges in: its minor unit, what it can be charged in multiples of, and the least charge.

Source: Stripe's "Supported currencies" page: presentment currencies, zero-decimal, three-decimal, special cases and
minimum charge amounts. Minimums are the ones of the settlement currency; where Stripe names none, it converts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Currency:
    """One presentment currency.

    `exponent`: decimals of the integer Stripe is sent. `multiple_of`: what every amount must be divisible by, in minor
    units. `minimum_charge`: minor units, None where Stripe publishes none.
    """

    code: str
    exponent: int
    multiple_of: int = 1
    minimum_charge: int | None = None


_TWO_DECIMALS: Final = """
aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop crc cve czk
dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr jmd kes kgs khr kyd kzt lak lbp lkr
lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln qar ron rsd rub
sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah usd uyu uzs wst xcd xcg yer zar zmw
"""
_NO_DECIMALS: Final = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
# The last digit must be 0 for Stripe's payment partners.
_THREE_DECIMALS: Final = "bhd jod kwd omr tnd"
# No minor unit any more, still sent with two decimals for compatibility: only whole units can be charged.
_WHOLE_UNITS_SENT_AS_TWO_DECIMALS: Final = "isk ugx"

_MINIMUM_CHARGES: Final[Mapping[str, int]] = {
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


def _all() -> Iterator[Currency]:
    groups = ((_TWO_DECIMALS, 2, 1), (_NO_DECIMALS, 0, 1), (_THREE_DECIMALS, 3, 10))
    for codes, exponent, multiple_of in (*groups, (_WHOLE_UNITS_SENT_AS_TWO_DECIMALS, 2, 100)):
        for code in codes.split():
            yield Currency(
                code=code, exponent=exponent, multiple_of=multiple_of, minimum_charge=_MINIMUM_CHARGES.get(code)
            )


CURRENCIES: Final[Mapping[str, Currency]] = MappingProxyType({known.code: known for known in _all()})


def decimals(currency: str) -> int:
    """How many decimals a currency's minor units are: 2 for usd, 0 for jpy, 3 for kwd."""
    known = CURRENCIES.get(currency)
    return known.exponent if known is not None else 0
