"""What people decide about a catalog, and what they are shown of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from monetize.domain.catalog import Product, Throttle, Tier, label
from monetize.domain.keys import GatewayKey
from monetize.domain.meters import Filter, Meter
from monetize.domain.periods import Period
from monetize.domain.plans import PlanTerms
from monetize.domain.rating import Rated


@dataclass(frozen=True, slots=True, kw_only=True)
class TierTerms:
    """What a person decides about a tier."""

    name: str
    description: str
    commercial: bool
    plan: str | None
    throttle: Throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTerms:
    """What a person decides about a meter."""

    name: str
    event_type: str
    aggregation: str
    value_property: str | None
    unit: str
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductTerms:
    """What a person decides about an API or a bundle. `apis` are a bundle's."""

    name: str
    description: str
    context: str
    environments: tuple[str, ...]
    approval: bool
    apis: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offered:
    """A product with the tiers it is offered at, in order, and its label."""

    product: Product
    tiers: tuple[Tier, ...]

    @property
    def label(self) -> str | None:
        """FREE, PAID, FREEMIUM or, without tiers, None."""
        return label(self.tiers)


@dataclass(frozen=True, slots=True)
class Priced:
    """A tier as the public sees it. `terms` is None on a free tier; `meters` are those it names."""

    tier: Tier
    plan: str | None
    version: int | None
    terms: PlanTerms | None
    meters: dict[str, Meter]


@dataclass(frozen=True, slots=True)
class Shown:
    """A product as the public sees it: only tiers that can be subscribed now."""

    product: Product
    tiers: tuple[Priced, ...]

    @property
    def label(self) -> str | None:
        """FREE, PAID or FREEMIUM."""
        return label(priced.tier for priced in self.tiers)


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A gateway key; `secret` only in the answer that made it."""

    key: GatewayKey
    secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDraft:
    """What a person decides about a plan."""

    name: str
    description: str = ""
    terms: PlanTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What would this usage cost? `usage`: units by meter and UTC day. `version` None: the draft, else the latest."""

    usage: Mapping[str, Mapping[date, int]]
    period_start: date | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """One whole month's bill under some terms, before tax."""

    terms: PlanTerms
    period: Period
    rated: Rated


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRequest:
    """Everybody on `from_version` to `to_version`, `when`: now or period_end."""

    from_version: int
    to_version: int
    when: str
