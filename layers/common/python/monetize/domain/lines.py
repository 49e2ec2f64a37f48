"""One line of a bill: what it charges, and every number it was derived from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final, Literal

from monetize.domain.money import format_amount, format_unit_price
from monetize.domain.periods import Period
from monetize.domain.plans import Per, TaxBehavior
from monetize.domain.pricing.allowance import DayAbove
from monetize.domain.pricing.step import Step

type LineKind = Literal[
    "flat", "usage", "minimum", "maximum", "proration_credit", "adjustment", "discount", "carry", "rolled_up"
]

# Stripe refuses longer descriptions of an invoice line.
MOST_DESCRIPTION: Final = 500
MOST_LINES: Final = 250
_MOST_STEPS_IN_WORDS: Final = 6
_DAY_SECONDS: Final = 86_400
_TIMES: Final = "\u00d7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Netted:
    """Part of a credit (`line` is its id) taken off a charge: `amount` ≤ 0, minor units."""

    line: str
    kind: LineKind
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`rated` is what the arithmetic gives (negative for a credit); `amount` ≥ 0 is what is charged after netting.

    `id` is deterministic: the charge and the start of its period. `segment`: the start of the closed segment whose
    re-rating can change this line; None for what is charged in advance and for credits. `used` less the allowance is
    `billed`, whose units make the `steps`. `full_amount` times `part_seconds` / `whole_seconds` makes a prorated fee;
    of an adjustment `full_amount` is the whole difference, of which `rated` is what was really paid.
    `adjusts`: the line corrected. A description left empty is made from name and arithmetic, within Stripe's bound.
    """

    id: str
    kind: LineKind
    name: str
    description: str = ""
    currency: str
    period: Period
    rated: int
    amount: int
    plan: str = ""
    version: int = 0
    charge: str | None = None
    meter: str | None = None
    unit: str = "units"
    tax_behavior: TaxBehavior = "unspecified"
    tax_code: str | None = None
    segment: datetime | None = None
    advance: bool = False
    used: int = 0
    allowance: int | None = None
    allowance_per: Per | None = None
    top_up: int = 0
    billed: int = 0
    steps: tuple[Step, ...] = ()
    days: tuple[DayAbove, ...] = ()
    full_amount: int | None = None
    part_seconds: int | None = None
    whole_seconds: int | None = None
    netted: tuple[Netted, ...] = ()
    adjusts: str | None = None
    merged: int = 0

    def __post_init__(self) -> None:
        if not self.description:
            said = f"{self.name}: {self.arithmetic()}"
            kept = said if len(said) <= MOST_DESCRIPTION else said[: MOST_DESCRIPTION - 1] + "…"
            object.__setattr__(self, "description", kept)

    @property
    def discounted(self) -> int:
        """What discounts left of `rated`: what was really asked for this, other credits being money already owed."""
        return self.rated + sum(each.amount for each in self.netted if each.kind == "discount")

    def arithmetic(self) -> str:
        """How the amount came about, in words: a person can check it with a pocket calculator."""
        said = _usage(self) if self.kind == "usage" else _other(self)
        if not self.netted:
            return said
        return said + "".join(_less(self, kind, list(each)) for kind, each in groupby(self.netted, lambda n: n.kind))


def _usage(line: Line) -> str:
    total = format_amount(line.rated, line.currency)
    return f"{_quantity(line)} = {_priced(line)} = {total}" if line.steps else f"{_quantity(line)} = {total}"


def _quantity(line: Line) -> str:
    extra = f" and a top-up of {line.top_up:,}" if line.top_up else ""
    if line.allowance_per == "day":
        days = f" on {len(line.days)} day{'s' if len(line.days) != 1 else ''}" if line.days else ""
        return f"{line.billed:,} {line.unit} above {line.allowance:,} a day{extra}{days}"
    if line.allowance is not None or line.top_up:
        return f"{line.used:,} {line.unit}, {line.billed:,} above an allowance of {line.allowance or 0:,}{extra}"
    return f"{line.used:,} {line.unit}"


def _priced(line: Line) -> str:
    if len(line.steps) > _MOST_STEPS_IN_WORDS:
        return f"{len(line.steps)} price steps"
    return " + ".join(_step(each, line.currency) for each in line.steps)


def _step(each: Step, currency: str) -> str:
    price = format_unit_price(each.unit_price, currency)
    packages = f" package{'s' if each.units != 1 else ''} of {each.size:,}" if each.size != 1 else ""
    flat = f" + {format_amount(each.flat_amount, currency)}" if each.flat_amount else ""
    return f"{each.units:,}{packages} {_TIMES} {price}{flat}"


def _other(line: Line) -> str:
    total = format_amount(line.rated, line.currency)
    if line.full_amount is None or line.whole_seconds is None or line.part_seconds is None:
        return total
    full = format_amount(line.full_amount, line.currency)
    if line.part_seconds == line.whole_seconds:
        return total
    part, whole, word = line.part_seconds, line.whole_seconds, "seconds"
    if part % _DAY_SECONDS == 0 and whole % _DAY_SECONDS == 0:
        part, whole, word = part // _DAY_SECONDS, whole // _DAY_SECONDS, "days"
    return f"{full} {_TIMES} {part:,} of {whole:,} {word} = {total}"


def _less(line: Line, kind: LineKind, netted: Sequence[Netted]) -> str:
    amount = format_amount(-sum(each.amount for each in netted), line.currency)
    words = {
        "maximum": "above the maximum",
        "proration_credit": "unused time",
        "carry": "earlier credit",
        "adjustment": "corrections",
    }
    return f", less {amount} {words.get(kind, kind)}"
