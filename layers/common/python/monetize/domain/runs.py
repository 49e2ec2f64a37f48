"""Billing runs as people see them: dry ones, that change nothing, and the progress of real ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

MOST_OUTLIERS: Final = 20
SETTLED: Final = ("sent", "declined", "empty", "held", "parked", "moved", "failed")

# An error is shown before every amount; amounts are ranked by how far they are from the last bill's.
FIRST_RANK: Final = 10**15 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """One subscription whose bill differs most from its last one. `last` is None where there was none."""

    publisher: str
    subscription: str
    currency: str
    amount: int
    last: int | None = None
    outcome: str = "bill"
    reason: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass over what is due up to `through`. `publisher` is empty for everybody's.

    `counts` is by outcome; `amounts` and `last` (what the bills before came to) by currency, in minor units. They are
    filled in when the run is finished; until then they are added up from its parts.
    """

    id: str
    kind: str  # dry, real
    publisher: str = ""
    scope: str = ""
    through: datetime
    status: str = "running"  # finished
    actor: str = ""
    found: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    outliers: tuple[Outlier, ...] = ()
    created_at: datetime
    finished_at: datetime | None = None
    rev: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """How far a dry run got in one shard: everything up to `after` is in these sums, and nothing behind it."""

    run: str
    shard: int
    after: str | None = None
    done: bool = False
    found: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    outliers: tuple[Outlier, ...] = ()
    updated_at: datetime
    rev: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one subscription would pay at one billing date, as a dry run found it."""

    run: str
    publisher: str
    subscription: str
    subscriber: str
    edge: datetime
    currency: str
    amount: int
    last: int | None
    lines: int
    outcome: str  # bill, empty, held, parked, failed
    reason: str = ""
    rank: int = 0
    rev: int = 0

    @property
    def id(self) -> str:
        """One subscription may have several billing dates in one run."""
        return f"{self.subscription}.{self.edge:%Y%m%dT%H%M%SZ}"

    def outlier(self) -> Outlier:
        """As it is shown at the head of a run."""
        return Outlier(
            publisher=self.publisher,
            subscription=self.subscription,
            currency=self.currency,
            amount=self.amount,
            last=self.last,
            outcome=self.outcome,
            reason=self.reason,
            rank=self.rank,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherTotals:
    """A dry run's sums for one publisher."""

    publisher: str
    counts: Mapping[str, int]
    amounts: Mapping[str, int]
    last: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands. `left` is how many are not settled; `per_second` None until anything was."""

    found: int
    counts: Mapping[str, int]
    amounts: Mapping[str, int]
    last: Mapping[str, int]
    left: int | None
    per_second: float | None
    seconds_left: int | None
    parts_done: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The operator's hold on everybody's billing."""

    by: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """One subscription's month by its own version and by another. `usage` is (meter, units)."""

    subscription: str
    subscriber: str
    currency: str
    version: int
    now: int
    then: int
    usage: tuple[tuple[str, int], ...]


def rank_of(amount: int, last: int | None, outcome: str, exponent: int) -> int:
    """How far up the list: what failed or would be held first, then the largest change of money.

    Changes are compared in hundredths of the currency's main unit, without exchange rates.
    """
    if outcome in ("failed", "parked"):
        return FIRST_RANK
    change = abs(amount - (last or 0))
    hundredths = change * 100 // int(10**exponent)
    return min(FIRST_RANK - 1, hundredths + (10**14 if outcome == "held" else 0))


def add(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add up by key, in place."""
    for key, value in more.items():
        total[key] = total.get(key, 0) + value


def foremost(outliers: Sequence[Outlier]) -> tuple[Outlier, ...]:
    """The ones to look at first; among equals by subscription, so that the answer is the same every time."""
    return tuple(sorted(outliers, key=lambda each: (-each.rank, each.subscription))[:MOST_OUTLIERS])
