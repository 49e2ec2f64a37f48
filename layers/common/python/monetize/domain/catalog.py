"""What a publisher offers: tiers, APIs, bundles; and how an API is labelled from its tiers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# Some of a list in order, and where the rest begins (None at the end).
type Listing[T] = tuple[tuple[T, ...], str | None]

DEFAULT_TIERS = (
    ("Gold", "5,000 requests a minute", 5000),
    ("Silver", "2,000 requests a minute", 2000),
    ("Bronze", "1,000 requests a minute", 1000),
    ("Unlimited", "No throttling", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Requests at most, per span of time; None is unlimited."""

    per_second: int | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    burst: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A subscription policy. A commercial tier names the plan that says what it costs."""

    id: str
    publisher: str
    name: str
    description: str = ""
    commercial: bool = False
    plan: str | None = None
    throttle: Throttle = Throttle()
    in_use: int = 0  # products it is applied to; a tier in use is not deleted
    created_at: datetime
    deleted_at: datetime | None = None  # kept: subscriptions that ended tell which tier they had
    rev: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An API, or a bundle of APIs, that can be subscribed at one of its tiers."""

    id: str
    publisher: str
    name: str
    description: str = ""
    context: str = ""
    apis: tuple[str, ...] = ()  # of a bundle; an API stands for itself
    tiers: tuple[str, ...] = ()
    environments: tuple[str, ...] = ("production", "sandbox")
    approval: bool = False
    in_bundles: int = 0  # bundles it is part of; such an API is not deleted
    created_at: datetime
    deleted_at: datetime | None = None  # kept: invoices and ended subscriptions name it
    rev: int = 0

    @property
    def bundle(self) -> bool:
        """Whether it stands for several APIs."""
        return bool(self.apis)

    @property
    def guards(self) -> tuple[str, ...]:
        """The APIs for which an application may hold one live subscription only."""
        return self.apis or (self.id,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmoved:
    """A subscription that a move left where it was, and the code of the refusal."""

    subscription: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A bulk move of the subscriptions of one version of a plan to another. `after` is how far it got.

    `when` is `now` or `period_end` (each subscription's own). `failures` holds the first ones; `failed` counts all.
    """

    id: str
    publisher: str
    plan: str
    from_version: int
    to_version: int
    when: str
    status: str = "running"  # states.MOVE
    moved: int = 0
    failed: int = 0
    failures: tuple[Unmoved, ...] = ()
    after: str | None = None
    actor: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    rev: int = 0


def label(tiers: Iterable[Tier]) -> str | None:
    """FREE, PAID or FREEMIUM, from the tiers applied; None while there are none (WSO2 API Cloud's rule)."""
    kinds = {tier.commercial for tier in tiers}
    if not kinds:
        return None
    if kinds == {True, False}:
        return "FREEMIUM"
    return "PAID" if kinds == {True} else "FREE"
