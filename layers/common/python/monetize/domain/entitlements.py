"""May this key call now, what is left, and until when: from the subscription, its offer and its live totals. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from monetize.domain.keys import PRODUCTION, ApiKey
from monetize.domain.periods import Period, midnight, nominal_period
from monetize.domain.subscriptions import PAUSED, Subscription, TopUp, allowance_period, in_force, status_at, tier_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Requests at most, per span of time; None is unlimited (as `catalog.Throttle`, without its module)."""

    per_second: int | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    burst: int | None = None

    def document(self) -> dict[str, int]:
        """What is limited."""
        every = ("per_second", "per_minute", "per_hour", "per_day", "burst")
        return {name: limit for name in every if (limit := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A quantity per `day` or `period`: hard (calls stop) or soft (an allowance; more costs money)."""

    meter: str
    quantity: int
    per: str
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a tier and a plan version allow."""

    throttle: Throttle = field(default_factory=Throttle)
    limits: tuple[Limit, ...] = ()
    grace_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A threshold that usage crossed: `percent` of `limit`, per `day` or `period`, of a meter or of `spending`.

    `name` is its natural key within the subscription: the same crossing is stored once, and told once.
    """

    name: str
    publisher: str
    subscription: str
    meter: str
    kind: str  # quota (hard), allowance (soft) or spending
    per: str
    percent: int
    limit: int
    used: int  # when it was noticed
    resets_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherRules:
    """A publisher's own choices. `meters` are the meters' numbers by id."""

    publisher: str
    meters: Mapping[str, int]
    payment_grace_days: int = 3
    fail_open: bool = True
    threshold_percents: tuple[int, ...] = (85, 100)
    threshold_amounts: tuple[int, ...] = ()
    clock_offset: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The subscription at an instant, as far as a decision depends on it.

    `period` is what an allowance counts in, `whole` the anchored period of which it may be a part.
    """

    id: str
    publisher: str
    status: str
    tier: str
    apis: tuple[str, ...]
    payment_state: str
    past_due_since: datetime | None
    suspend_at: datetime | None  # the end of the grace as it was chosen: subscriber's, plan's or publisher's
    block: str
    plan: str | None
    version: int | None
    period: Period
    whole: Period
    topups: tuple[TopUp, ...]
    shards: tuple[tuple[str, int], ...]
    cap: int | None  # minor units in a period

    def shards_in(self, month: str) -> int:
        """Partitions its usage is spread over in a month `yyyy-mm`."""
        return next((count for when, count in self.shards if when == month), 1)


def allowed_at(subscription: Subscription, at: datetime) -> Allowed:
    """What has come due by then counts, whether or not a worker has seen it: an end, another tier, a new period."""
    tier, plan, version = tier_at(subscription, at)
    status, span = status_at(subscription, at), in_force(subscription, at)
    if status == "active" and span is not None and span.kind == PAUSED:
        status = "paused"  # resumed from the next midnight on: nothing is paid until then, so nothing is called
    return Allowed(
        id=subscription.id,
        publisher=subscription.publisher,
        status=status,
        tier=tier,
        apis=(*subscription.apis, subscription.product),
        payment_state=subscription.payment_state,
        past_due_since=subscription.past_due_since,
        suspend_at=subscription.suspend_at,
        block=subscription.block,
        plan=plan,
        version=version,
        period=allowance_period(subscription, at),
        whole=nominal_period(at, subscription.anchor),
        topups=subscription.topups,
        shards=subscription.shards,
        cap=subscription.cap,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A key and whose it is."""

    key: ApiKey
    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One limit and where the subscription stands."""

    meter: str
    per: str
    hard: bool
    limit: int
    used: int
    resets_at: datetime

    @property
    def remaining(self) -> int:
        """What is left, never below 0."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Allowed, or why not. `subscription` is what usage is reported under."""

    allowed: bool
    reason: str = ""
    subscription: str = ""
    publisher: str = ""
    environment: str = ""
    standings: tuple[Standing, ...] = ()
    throttle: Throttle = field(default_factory=Throttle)
    degraded: bool = False


UNKNOWN = Decision(allowed=False, reason="unknown_key")


_STATES = {"ended": "subscription_ended", "paused": "subscription_paused"}


def refusal(key: ApiKey, it: Allowed, offer: Offer, rules: PublisherRules, now: datetime, api: str = "") -> str:
    """Why the subscription may not call at all, by its state alone; empty when it may."""
    if not key.usable(now) or it.publisher != rules.publisher:
        return "unknown_key"
    if api and api not in it.apis:
        return "wrong_api"
    if it.status != "active":
        return _STATES.get(it.status, "subscription_not_active")
    if it.block == "all" or (it.block == "production" and key.environment == PRODUCTION):
        return "blocked"
    if it.payment_state == "suspended":
        return "payment_suspended"
    if it.payment_state == "past_due" and it.past_due_since is not None:
        grace = rules.payment_grace_days if offer.grace_days is None else offer.grace_days
        if now >= (it.suspend_at or it.past_due_since + timedelta(days=grace)):
            return "past_due"
    return ""


def standings(
    it: Allowed, offer: Offer, rules: PublisherRules, totals: Mapping[tuple[date, int], int], now: datetime
) -> Iterator[Standing]:
    """Every limit with what was used of it. Totals by (day, meter number), over the running period."""
    period = it.period
    today = now.date()
    for limit in offer.limits:
        short = rules.meters.get(limit.meter)
        extra = sum(
            topup.quantity for topup in it.topups if topup.meter == limit.meter and period.holds(topup.counts_from)
        )
        if limit.per == "day":
            used = totals.get((today, short), 0) if short is not None else 0
            yield Standing(
                meter=limit.meter,
                per="day",
                hard=limit.hard,
                limit=limit.quantity,
                used=used,
                resets_at=midnight(today + timedelta(days=1)),
            )
            continue
        used = sum(
            quantity
            for (day, number), quantity in totals.items()
            if number == short and period.start.date() <= day <= today
        )
        # A period allowance prorates with its period, rounded up.
        share = -(-limit.quantity * period.seconds // it.whole.seconds)
        yield Standing(
            meter=limit.meter, per="period", hard=limit.hard, limit=share + extra, used=used, resets_at=period.end
        )
