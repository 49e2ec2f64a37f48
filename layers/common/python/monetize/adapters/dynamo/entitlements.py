"""What ingest and entitlement checks must know of Core, read narrowly and remembered for seconds, in bounds."""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.keys import Key
from monetize.adapters.dynamo.table import Client
from monetize.domain.entitlements import Crossing, Holder, Limit, Offer, PublisherRules, Throttle
from monetize.domain.keys import ApiKey, GatewayKey
from monetize.domain.meters import Meter
from monetize.domain.subscriptions import Subscription
from monetize.domain.usage import Metered, Metering

FACTS_SECONDS: Final = 30
KEY_SECONDS: Final = 10
MAX_REMEMBERED: Final = 20_000
# Anything else is nobody's id, and would not fit a key.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Subscription(msgspec.Struct, gc=False):
    """The part of a subscription's document that ingest needs."""

    id: str
    publisher: str
    activated_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_at: datetime | None = None
    shards: tuple[tuple[str, int], ...] = ()


class _Settings(msgspec.Struct, gc=False):
    grace_hours: int = 24
    late_window_days: int = 35
    payment_grace_days: int = 3
    fail_open: bool = True
    threshold_percents: tuple[int, ...] = (85, 100)
    threshold_amounts: tuple[int, ...] = ()


class _Publisher(msgspec.Struct, gc=False):
    id: str
    settings: _Settings = msgspec.field(default_factory=_Settings)
    clock_offset_seconds: int = 0


class _Tier(msgspec.Struct, gc=False):
    id: str
    throttle: Throttle = msgspec.field(default_factory=Throttle)


class _Allowance(msgspec.Struct, gc=False):
    quantity: int
    per: str


class _Charge(msgspec.Struct, gc=False):
    meter: str | None = None
    allowance: _Allowance | None = None


class _Quota(msgspec.Struct, gc=False):
    meter: str
    quantity: int
    per: str


class _Terms(msgspec.Struct, gc=False):
    charges: tuple[_Charge, ...] = ()
    quotas: tuple[_Quota, ...] = ()
    grace_days: int | None = None


class _Version(msgspec.Struct, gc=False):
    terms: _Terms


@dataclass(slots=True)
class _Kept[T]:
    value: T
    until: datetime


class Remembered[T]:
    """Values by name, for a time, at most so many: the oldest goes first."""

    def __init__(self, seconds: int, limit: int = MAX_REMEMBERED) -> None:
        self._life = timedelta(seconds=seconds)
        self._limit = limit
        self._kept: dict[str, _Kept[T]] = {}

    def get(self, name: str, now: datetime) -> T | None:
        """What is remembered and fresh."""
        kept = self._kept.get(name)
        return kept.value if kept is not None and now < kept.until else None

    def put(self, name: str, value: T, now: datetime) -> None:
        """Remember; replaces."""
        self._kept.pop(name, None)
        while len(self._kept) >= self._limit:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = _Kept(value, now + self._life)

    def stale(self, name: str) -> T | None:
        """What was known last, however old: for the time when nothing else can be known."""
        kept = self._kept.get(name)
        return None if kept is None else kept.value


_subscription = msgspec.json.Decoder(_Subscription)
_holder = msgspec.json.Decoder(Subscription)
_publisher = msgspec.json.Decoder(_Publisher)
_tier = msgspec.json.Decoder(_Tier)
_version = msgspec.json.Decoder(_Version)
_meter = msgspec.json.Decoder(Meter)
_api_key = msgspec.json.Decoder(ApiKey)
_encode = msgspec.json.Encoder().encode
_gateway_key = msgspec.json.Decoder(GatewayKey)


class EntitlementFacts:
    """Core, as the hot path reads it."""

    def __init__(self, client: Client, table: str) -> None:
        self._client = client
        self._table = table
        self._metered: Remembered[Metered] = Remembered(FACTS_SECONDS)
        self._metering: Remembered[Metering] = Remembered(FACTS_SECONDS, 1000)
        self._rules: Remembered[PublisherRules] = Remembered(FACTS_SECONDS, 1000)
        self._gateways: Remembered[GatewayKey] = Remembered(KEY_SECONDS, 1000)
        self._offers: Remembered[Offer] = Remembered(FACTS_SECONDS, 5000)
        self._terms: Remembered[Any] = Remembered(FACTS_SECONDS, 1000)

    # ---- credentials ----

    def gateway(self, key_sha256: str, now: datetime) -> GatewayKey | None:
        """A gateway's key by its hash; None for unknown and revoked ones. Remembered for `KEY_SECONDS`."""
        known = self._gateways.get(key_sha256, now)
        if known is not None:
            return known
        item = self._get(keys.api_key(key_sha256))
        found = None if item is None else _decoded_gateway(item)
        if found is None or found.revoked_at is not None:
            return None
        self._gateways.put(key_sha256, found, now)
        return found

    # ---- ingest ----

    def subscriptions(self, ids: Iterable[str], now: datetime) -> Mapping[str, Metered | None]:
        """Subscriptions by id. Only those that began are remembered: one that just did must not wait to be seen."""
        found: dict[str, Metered | None] = {}
        missing: list[str] = []
        for identity in ids:
            known = self._metered.get(identity, now)
            found[identity] = known
            if known is None and _ID.fullmatch(identity):
                missing.append(identity)
        for item in self._many([keys.subscription(identity) for identity in missing]).values():
            it = _subscription.decode(item["doc"]["S"])
            metered = Metered(
                id=it.id,
                publisher=it.publisher,
                first_day=it.activated_at.date() if it.activated_at else None,
                ended_at=it.ended_at or it.cancel_at,
                shards=it.shards,
            )
            found[it.id] = metered
            if metered.first_day is not None:
                self._metered.put(it.id, metered, now)
        return found

    def metering(self, publisher: str, now: datetime, *, fresh: bool = False) -> Metering:
        """A publisher's meters and settings; `fresh` reads them again unless that was done this second."""
        known = self._metering.get(publisher, now)
        if known is not None and not fresh:
            return known
        item = self._get(keys.publisher(publisher))
        it = _publisher.decode(item["doc"]["S"]) if item is not None else _Publisher(publisher)
        found = Metering(
            publisher=publisher,
            meters=self._meters(publisher),
            late_window_days=it.settings.late_window_days,
            grace_hours=it.settings.grace_hours,
            clock_offset=timedelta(seconds=it.clock_offset_seconds),
        )
        if known is not None and known == found:
            found = known  # the same object: what was compiled from it stays
        self._metering.put(publisher, found, now)
        return found

    def _meters(self, publisher: str) -> tuple[Meter, ...]:
        key = keys.meter(publisher)
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :sk)",
            "ExpressionAttributeValues": {":pk": {"S": key.pk}, ":sk": {"S": key.sk}},
            "ConsistentRead": True,
        }
        found: list[Meter] = []
        while True:
            answer = self._client.query(**request)
            found.extend(_meter.decode(item["doc"]["S"]) for item in answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return tuple(found)
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    # ---- entitlements ----

    def crossed(self, crossing: Crossing, expires_at: datetime) -> None:
        """Store it unless it is there: its event follows from the table's stream."""
        key = keys.threshold(crossing.subscription, crossing.name)
        item = {
            "pk": {"S": key.pk},
            "sk": {"S": key.sk},
            "doc": {"S": _encode(crossing).decode()},
            "rev": {"N": "1"},
            "expires_at": {"N": str(int(expires_at.timestamp()))},
        }
        with suppress(self._client.exceptions.ConditionalCheckFailedException):
            self._client.put_item(TableName=self._table, Item=item, ConditionExpression="attribute_not_exists(pk)")

    def holders(self, hashes: Collection[str]) -> dict[str, Holder]:
        """Who holds these keys: the key and its subscription, as they are now."""
        held: dict[str, ApiKey] = {}
        for item in self._many([keys.api_key(each) for each in hashes]).values():
            key = _decoded_key(item)
            if key is not None:
                held[key.sha256] = key
        items = self._many([keys.subscription(each) for each in {key.subscription for key in held.values()}])
        subscriptions = {it.id: it for it in (_holder.decode(item["doc"]["S"]) for item in items.values())}
        return {
            sha: Holder(key=key, subscription=subscriptions[key.subscription])
            for sha, key in held.items()
            if key.subscription in subscriptions
        }

    def subscription(self, subscription: str) -> Subscription | None:
        """One subscription as it is now."""
        item = self._get(keys.subscription(subscription))
        return None if item is None else _holder.decode(item["doc"]["S"])

    def rules(self, publisher: str, now: datetime) -> PublisherRules:
        """What a publisher decided about entitlements, and its meters' numbers."""
        known = self._rules.get(publisher, now)
        if known is not None:
            return known
        item = self._get(keys.publisher(publisher))
        it = _publisher.decode(item["doc"]["S"]) if item is not None else _Publisher(publisher)
        found = PublisherRules(
            publisher=publisher,
            meters={meter.id: meter.short for meter in self._meters(publisher)},
            payment_grace_days=it.settings.payment_grace_days,
            fail_open=it.settings.fail_open,
            threshold_percents=it.settings.threshold_percents,
            threshold_amounts=it.settings.threshold_amounts,
            clock_offset=timedelta(seconds=it.clock_offset_seconds),
        )
        self._rules.put(publisher, found, now)
        return found

    def last_rules(self, publisher: str) -> PublisherRules | None:
        """What was known last, when nothing can be read."""
        return self._rules.stale(publisher)

    def last_gateway(self, key_sha256: str) -> GatewayKey | None:
        """What was known last, when nothing can be read."""
        return self._gateways.stale(key_sha256)

    def offer(self, publisher: str, tier: str, plan: str | None, version: int | None, now: datetime) -> Offer:
        """What a tier and a plan version allow."""
        name = f"{publisher}/{tier}/{plan}/{version}"
        known = self._offers.get(name, now)
        if known is not None:
            return known
        wanted = [keys.tier(publisher, tier)]
        if plan is not None and version is not None:
            wanted.append(keys.plan_version(plan, version))
        items = self._many(wanted)
        tier_item = items.get((wanted[0].pk, wanted[0].sk))
        plan_item = items.get((wanted[1].pk, wanted[1].sk)) if len(wanted) > 1 else None
        terms = _version.decode(plan_item["doc"]["S"]).terms if plan_item is not None else _Terms()
        found = Offer(
            throttle=_tier.decode(tier_item["doc"]["S"]).throttle if tier_item is not None else Throttle(),
            limits=tuple(_limits(terms)),
            grace_days=terms.grace_days,
        )
        self._offers.put(name, found, now)
        return found

    def terms(self, plan: str, version: int, now: datetime) -> Any:
        """A plan version's terms (`plans.PlanTerms`), for whoever must price: their modules are loaded then only."""
        name = f"{plan}/{version}"
        known = self._terms.get(name, now)
        if known is None:
            from monetize.adapters.dynamo.table import read
            from monetize.domain.plans import PlanVersion

            item = self._get(keys.plan_version(plan, version))
            if item is None:
                return None
            known = read(PlanVersion, item).terms
            self._terms.put(name, known, now)
        return known

    # ---- reading ----

    def _get(self, key: Key) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._client.get_item(
            TableName=self._table, Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}}, ConsistentRead=True
        ).get("Item")
        return found

    def _many(self, wanted: Collection[Key]) -> dict[tuple[str, str], dict[str, Any]]:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        if len(wanted) == 1:
            # The usual question, and a third cheaper this way.
            (key,) = wanted
            item = self._get(key)
            return {} if item is None else {(key.pk, key.sk): item}
        places: list[dict[str, Any]] = [{"pk": {"S": key.pk}, "sk": {"S": key.sk}} for key in wanted]
        for start in range(0, len(places), 100):
            asked = places[start : start + 100]
            while asked:
                request = {self._table: {"Keys": asked, "ConsistentRead": True}}
                answer = self._client.batch_get_item(RequestItems=request)
                for item in answer["Responses"].get(self._table, ()):
                    found[item["pk"]["S"], item["sk"]["S"]] = item
                asked = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
        return found


def _limits(terms: _Terms) -> Iterable[Limit]:
    for quota in terms.quotas:
        yield Limit(meter=quota.meter, quantity=quota.quantity, per=quota.per, hard=True)
    for charge in terms.charges:
        if charge.meter is not None and charge.allowance is not None:
            yield Limit(meter=charge.meter, quantity=charge.allowance.quantity, per=charge.allowance.per, hard=False)


def _decoded_key(item: Mapping[str, Any]) -> ApiKey | None:
    """None for an item that is a gateway's key: the two share their place."""
    try:
        return _api_key.decode(item["doc"]["S"])
    except msgspec.ValidationError:
        return None


def _decoded_gateway(item: Mapping[str, Any]) -> GatewayKey | None:
    # A subscriber's key has every field of a gateway's and its subscription beside.
    found = _decoded_key(item)
    return _gateway_key.decode(item["doc"]["S"]) if found is None else None
