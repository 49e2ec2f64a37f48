"""Decide whether calls may pass, remember it for seconds, and note crossed thresholds once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, Protocol

from monetize.domain.entitlements import (
    UNKNOWN,
    Allowed,
    Crossing,
    Decision,
    Holder,
    Offer,
    PublisherRules,
    Standing,
    allowed_at,
    refusal,
    standings,
)
from monetize.domain.keys import SANDBOX, GatewayKey, hashed

MAX_CHECKS: Final = 100
SPENDING: Final = "spending"  # stands for a meter where money is limited, in minor units
DECISION_SECONDS: Final = 3
STALE_HOURS: Final = 1  # how old a decision may be that stands in while nothing can be read
MAX_DECISIONS: Final = 50_000


class Unreadable(Exception):
    """The tables cannot be read now."""


class Totals(Protocol):
    """Live totals of a subscription."""

    @property
    def totals(self) -> Mapping[tuple[date, int], int]: ...


class Usage(Protocol):
    """Counters."""

    def counters(
        self, subscription: str, first: date, last: date, shards: Callable[[str], int], *, sandbox: bool = False
    ) -> Totals: ...


class Facts(Protocol):
    """Keys, subscriptions, offers and publishers' rules; and a note of what was crossed."""

    def holders(self, hashes: Sequence[str]) -> Mapping[str, Holder]: ...

    def rules(self, publisher: str, now: datetime) -> PublisherRules: ...

    def last_rules(self, publisher: str) -> PublisherRules | None: ...

    def offer(self, publisher: str, tier: str, plan: str | None, version: int | None, now: datetime) -> Offer: ...

    def terms(self, plan: str, version: int, now: datetime) -> Any: ...

    def gateway(self, key_sha256: str, now: datetime) -> GatewayKey | None: ...

    def crossed(self, crossing: Crossing, expires_at: datetime) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What deciding works with. `unreadable` are the errors that mean the tables do not answer."""

    facts: Facts
    usage: Usage
    unreadable: tuple[type[Exception], ...] = (Unreadable,)


@dataclass(frozen=True, slots=True)
class _Remembered:
    decision: Decision
    until: datetime


class Decisions:
    """What one container decided in the last seconds, at most so many."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], _Remembered] = {}

    def fresh(self, name: tuple[str, str, str], now: datetime) -> Decision | None:
        """A decision that still holds."""
        kept = self._kept.get(name)
        return kept.decision if kept is not None and now < kept.until else None

    def stale(self, name: tuple[str, str, str], now: datetime) -> Decision | None:
        """The last decision, if it is not older than an hour."""
        kept = self._kept.get(name)
        return kept.decision if kept is not None and now < kept.until + timedelta(hours=STALE_HOURS) else None

    def keep(self, name: tuple[str, str, str], decision: Decision, now: datetime) -> None:
        """Remember; the oldest goes first."""
        self._kept.pop(name, None)
        while len(self._kept) >= MAX_DECISIONS:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = _Remembered(decision, now + timedelta(seconds=DECISION_SECONDS))


def decide(
    checks: Sequence[tuple[str, str]], *, publisher: str, now: datetime, ports: Ports, remembered: Decisions
) -> list[Decision]:
    """A decision for every (key, API or empty), in order.

    When the tables cannot be read, what was decided within the hour stands; for what is not known the publisher's
    own choice decides, and `degraded` says so.
    """
    names = [(publisher, hashed(key), api) for key, api in checks]
    found = {name: remembered.fresh(name, now) for name in names}
    asked = [name for name, decision in found.items() if decision is None]
    if asked:
        try:
            decided = _decide(asked, publisher, now, ports)
        except ports.unreadable:
            found.update({name: _degraded(name, now, ports, remembered) for name in asked})
        else:
            for name, decision in decided.items():
                found[name] = decision
                if decision is not UNKNOWN:
                    # Unknown keys are not remembered: there are too many of them, and a new key works at once.
                    remembered.keep(name, decision, now)
    return [found[name] or UNKNOWN for name in names]


def _decide(
    names: Sequence[tuple[str, str, str]], publisher: str, now: datetime, ports: Ports
) -> dict[tuple[str, str, str], Decision]:
    holders = ports.facts.holders(list({sha for _, sha, _ in names}))
    if not holders:
        return dict.fromkeys(names, UNKNOWN)
    rules = ports.facts.rules(publisher, now)
    at = now + rules.clock_offset
    decided: dict[tuple[str, str, str], Decision] = {}
    totals: dict[tuple[str, bool], tuple[Standing, ...]] = {}
    for name in names:
        holder = holders.get(name[1])
        decided[name] = UNKNOWN if holder is None else _one(holder, name[2], rules, at, ports, totals)
    return decided


def _one(
    holder: Holder,
    api: str,
    rules: PublisherRules,
    now: datetime,
    ports: Ports,
    known: dict[tuple[str, bool], tuple[Standing, ...]],
) -> Decision:
    it = allowed_at(holder.subscription, now)
    offer = ports.facts.offer(it.publisher, it.tier, it.plan, it.version, now)
    reason = refusal(holder.key, it, offer, rules, now, api)
    if reason == "unknown_key":
        return UNKNOWN
    decision = Decision(
        allowed=not reason,
        reason=reason,
        subscription=it.id,
        publisher=it.publisher,
        environment=holder.key.environment,
        throttle=offer.throttle,
    )
    if reason or not (offer.limits or it.cap is not None or (it.plan is not None and rules.threshold_amounts)):
        return decision
    sandbox = holder.key.environment == SANDBOX
    place = (it.id, sandbox)
    if place not in known:
        counted = ports.usage.counters(it.id, it.period.start.date(), now.date(), it.shards_in, sandbox=sandbox)
        known[place] = tuple(standings(it, offer, rules, counted.totals, now))
        if not sandbox:
            caps = () if it.cap is None else (it.cap,)
            spending = _spending(it, (*caps, *rules.threshold_amounts), rules, counted.totals, now, ports)
            known[place] += spending[: len(caps)]
            note_thresholds(it, known[place], spending[len(caps) :], rules, ports)
    stand = known[place]
    exhausted = [each for each in stand if each.hard and each.used >= each.limit]
    return replace(decision, standings=stand, allowed=not exhausted, reason=_why(exhausted))


def _why(exhausted: Sequence[Standing]) -> str:
    if not exhausted:
        return ""
    return "spend_cap_reached" if all(each.meter == SPENDING for each in exhausted) else "quota_exceeded"


def _spending(
    it: Allowed,
    amounts: Sequence[int],
    rules: PublisherRules,
    totals: Mapping[tuple[date, int], int],
    now: datetime,
    ports: Ports,
) -> tuple[Standing, ...]:
    """What the running period costs so far, against each amount: fees whole, usage as counted, so never too little."""
    if not amounts or it.plan is None or it.version is None:
        return ()
    from monetize.domain.rating import preview

    terms = ports.facts.terms(it.plan, it.version, now)
    if terms is None:
        return ()
    names = {short: meter for meter, short in rules.meters.items()}
    usage: dict[str, dict[date, int]] = {}
    for (day, short), quantity in totals.items():
        if short in names and quantity > 0:
            usage.setdefault(names[short], {})[day] = quantity
    spent = preview(terms, usage, it.period).subtotal
    return tuple(
        Standing(meter=SPENDING, per="period", hard=True, limit=amount, used=spent, resets_at=it.period.end)
        for amount in amounts
    )


def note_thresholds(
    it: Allowed,
    stand: Sequence[Standing],
    amounts: Sequence[Standing],
    rules: PublisherRules,
    ports: Ports,
) -> None:
    """Store each threshold that is crossed, once per period (or day) and threshold; its event follows from that.

    Thresholds are percentages of what is limited, and `amounts` of money that limit nothing.
    """
    marks = [(each, percent, str(percent)) for each in stand for percent in rules.threshold_percents]
    marks += [(each, 100, f"amount-{each.limit}") for each in amounts]
    for each, percent, mark in marks:
        if each.limit <= 0 or each.used * 100 < each.limit * percent:
            continue
        kind = "spending" if each.meter == SPENDING else "quota" if each.hard else "allowance"
        crossing = Crossing(
            name=f"{each.resets_at:%Y-%m-%dT%H}#{each.meter}#{kind}#{each.per}#{mark}",
            publisher=it.publisher,
            subscription=it.id,
            meter=each.meter,
            kind=kind,
            per=each.per,
            percent=percent,
            limit=each.limit,
            used=each.used,
            resets_at=each.resets_at,
        )
        _note(crossing, ports)


_noted: dict[tuple[int, str, str], None] = {}  # each container writes a crossing once; the table keeps the first


def _note(crossing: Crossing, ports: Ports) -> None:
    place = (id(ports), crossing.subscription, crossing.name)
    if place in _noted:
        return
    try:
        ports.facts.crossed(crossing, crossing.resets_at + timedelta(days=2))
    except ports.unreadable:
        return  # whoever looks next notes it; the decision itself does not wait for that
    if len(_noted) >= MAX_DECISIONS:
        _noted.clear()
    _noted[place] = None


def _degraded(name: tuple[str, str, str], now: datetime, ports: Ports, remembered: Decisions) -> Decision:
    last = remembered.stale(name, now)
    rules = ports.facts.last_rules(name[0])
    if last is not None and not (last.allowed and rules is not None and not rules.fail_open):
        return replace(last, degraded=True)
    if rules is not None and rules.fail_open:
        return Decision(allowed=True, publisher=name[0], degraded=True)
    return Decision(allowed=False, reason="temporarily_unavailable", publisher=name[0], degraded=True)
