"""Tiers, meters, APIs and bundles of a publisher, its gateways' keys, and what everybody may see of them."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import DEFAULT_TIERS, Listing, Product, Throttle, Tier
from monetize.domain.errors import Conflict, Invalid, NotFound, PreconditionFailed, Refusal
from monetize.domain.keys import GATEWAY_PREFIX, GatewayKey, hashed
from monetize.domain.meters import Meter
from monetize.domain.offering import MadeKey, MeterTerms, Offered, Priced, ProductTerms, Shown, TierTerms
from monetize.domain.plans import Plan, PlanVersion
from monetize.domain.publishers import Publisher


class Store(Protocol):
    """What is stored of a catalog. Every access names the publisher; what is not theirs is not there."""

    def publisher(self, publisher: str) -> Publisher | None: ...

    def tier(self, publisher: str, tier: str) -> Tier | None: ...
    def tiers(self, publisher: str, after: str | None, limit: int) -> Listing[Tier]: ...
    def tiers_by_id(self, publisher: str, wanted: Sequence[str]) -> dict[str, Tier]: ...
    def tier_named(self, publisher: str, name: str) -> Tier | None: ...
    def add_tier(self, tier: Tier, plan: Plan | None, entry: AuditEntry) -> Tier: ...
    def save_tier(self, was: Tier, tier: Tier, plan: Plan | None, entry: AuditEntry) -> Tier: ...
    def subscriptions_use(self, publisher: str, *, tier: str | None = None, product: str | None = None) -> bool: ...

    def meter(self, publisher: str, meter: str) -> Meter | None: ...
    def meters(self, publisher: str, after: str | None, limit: int) -> Listing[Meter]: ...
    def meters_by_id(self, publisher: str, wanted: Iterable[str]) -> dict[str, Meter]: ...
    def add_meter(self, meter: Meter, entry: AuditEntry) -> Meter: ...
    def save_meter(self, was: Meter, meter: Meter, entry: AuditEntry) -> Meter: ...
    def delete_meter(self, meter: Meter, entry: AuditEntry) -> None: ...

    def product(self, publisher: str, product: str) -> Product | None: ...
    def products(self, publisher: str, kind: str, after: str | None, limit: int) -> Listing[Product]: ...
    def products_by_id(self, publisher: str, wanted: Sequence[str]) -> dict[str, Product]: ...
    def save_product(
        self, was: Product | None, product: Product, touched: Sequence[Tier | Product], entry: AuditEntry
    ) -> Product: ...

    def plan(self, publisher: str, plan: str) -> Plan | None: ...
    def plans_by_id(self, publisher: str, wanted: Iterable[str]) -> dict[str, Plan]: ...
    def versions_by_number(self, wanted: Iterable[tuple[str, int]]) -> dict[str, PlanVersion]: ...

    def gateway_key(self, publisher: str, key: str) -> GatewayKey | None: ...
    def gateway_keys(self, publisher: str, after: str | None, limit: int) -> Listing[GatewayKey]: ...
    def add_gateway_key(self, key: GatewayKey, entry: AuditEntry) -> bool: ...
    def save_gateway_key(self, key: GatewayKey, entry: AuditEntry) -> GatewayKey: ...


class Ids(Protocol):
    """New names and secrets."""

    def new(self, prefix: str, at: datetime) -> str: ...
    def secret(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What the catalog works with."""

    store: Store
    ids: Ids


@dataclass(frozen=True, slots=True)
class Act:
    """Who does something, for which publisher, when (UTC)."""

    user: str
    publisher: str
    at: datetime

    def entry(
        self, ids: Ids, action: str, target: str, before: dict[str, str] | None, after: dict[str, str] | None
    ) -> AuditEntry:
        """The audit entry of it."""
        return AuditEntry(
            id=ids.new("aud", self.at),
            publisher=self.publisher,
            at=self.at,
            actor=self.user,
            organization=self.publisher,
            action=action,
            target=target,
            before=before,
            after=after,
        )


def default_tiers(publisher: str, now: datetime) -> tuple[Tier, ...]:
    """The tiers that enabling a publisher makes. Their ids follow from the publisher and the name: twice is once."""
    return tuple(
        Tier(
            id=named_id("tier", publisher, name),
            publisher=publisher,
            name=name,
            description=description,
            throttle=Throttle(per_minute=per_minute),
            created_at=now,
        )
        for name, description, per_minute in DEFAULT_TIERS
    )


def named_id(prefix: str, *names: str) -> str:
    """An id that follows from names: prefix, `_` and 26 characters of their hash, which tells nothing of them."""
    digest = sha256("\x00".join(names).encode()).digest()
    return f"{prefix}_{base64.b32hexencode(digest)[:26].decode()}"


def same_revision(rev: int, expected: int) -> None:
    """PreconditionFailed when a thing is no longer as the caller read it."""
    if rev != expected:
        raise PreconditionFailed("changed_since_read", "It changed since you read it: read it again.")


def missing(kind: str) -> Refusal:
    """The one answer for what is not there and for what is somebody else's."""
    return NotFound(f"no_such_{kind}", f"There is no such {kind.replace('_', ' ')}.")


# ---- tiers


def create_tier(act: Act, terms: TierTerms, ports: Ports) -> Tier:
    """A new tier. NotFound `no_such_plan`, Conflict `name_taken`, Invalid `plan_required`, `plan_of_free_tier`."""
    plan = _plan_of(act.publisher, terms, ports)
    _free_name(act.publisher, terms.name, None, ports)
    tier = Tier(
        id=ports.ids.new("tier", act.at),
        publisher=act.publisher,
        name=terms.name,
        description=terms.description,
        commercial=terms.commercial,
        plan=terms.plan,
        throttle=terms.throttle,
        created_at=act.at,
    )
    return ports.store.add_tier(tier, plan, act.entry(ports.ids, "tier.created", tier.id, None, _of_tier(tier)))


def read_tier(publisher: str, tier_id: str, ports: Ports) -> Tier:
    """One tier. NotFound."""
    tier = ports.store.tier(publisher, tier_id)
    if tier is None or tier.deleted_at is not None:
        raise missing("tier")
    return tier


def list_tiers(publisher: str, after: str | None, limit: int, ports: Ports) -> Listing[Tier]:
    """Tiers, oldest first. A page may hold fewer than `limit` and still not be the last."""
    found, rest = ports.store.tiers(publisher, after, limit)
    return tuple(it for it in found if it.deleted_at is None), rest


def edit_tier(act: Act, tier_id: str, expected: int, terms: TierTerms, ports: Ports) -> Tier:
    """Change a tier. What it costs is fixed while it is in use: Conflict `tier_in_use`."""
    was = read_tier(act.publisher, tier_id, ports)
    same_revision(was.rev, expected)
    plan = _plan_of(act.publisher, terms, ports)
    if (was.commercial, was.plan) != (terms.commercial, terms.plan) and _in_use(was, ports):
        raise Conflict("tier_in_use", "A tier in use keeps what it costs: make another tier.")
    if was.name.casefold() != terms.name.casefold():
        _free_name(act.publisher, terms.name, was.id, ports)
    tier = replace(
        was,
        name=terms.name,
        description=terms.description,
        commercial=terms.commercial,
        plan=terms.plan,
        throttle=terms.throttle,
    )
    entry = act.entry(ports.ids, "tier.changed", tier.id, _of_tier(was), _of_tier(tier))
    return ports.store.save_tier(was, tier, plan, entry)


def delete_tier(act: Act, tier_id: str, ports: Ports) -> None:
    """Delete a tier that no product offers and no live subscription has: Conflict `tier_in_use` otherwise."""
    was = read_tier(act.publisher, tier_id, ports)
    if _in_use(was, ports):
        raise Conflict("tier_in_use", "A tier in use is not deleted.")
    entry = act.entry(ports.ids, "tier.deleted", was.id, _of_tier(was), None)
    ports.store.save_tier(was, replace(was, deleted_at=act.at), None, entry)


def _in_use(tier: Tier, ports: Ports) -> bool:
    return tier.in_use > 0 or ports.store.subscriptions_use(tier.publisher, tier=tier.id)


def _plan_of(publisher: str, terms: TierTerms, ports: Ports) -> Plan | None:
    if terms.commercial != (terms.plan is not None):
        if terms.commercial:
            raise Invalid("plan_required", "A commercial tier names the plan that says what it costs.")
        raise Invalid("plan_of_free_tier", "A free tier has no plan.")
    if terms.plan is None:
        return None
    plan = ports.store.plan(publisher, terms.plan)
    if plan is None:
        raise missing("plan")
    if plan.status == "archived":
        raise Conflict("plan_archived", "An archived plan takes no new tiers.")
    return plan


def _free_name(publisher: str, name: str, own: str | None, ports: Ports) -> None:
    # The guard in the write settles races; this finds the names of tiers that were seeded without one.
    holder = ports.store.tier_named(publisher, name)
    if holder is not None and holder.id != own:
        raise Conflict("name_taken", f"There is a tier named {name} already.")


def _of_tier(tier: Tier) -> dict[str, str]:
    limits = {
        "per_second": tier.throttle.per_second,
        "per_minute": tier.throttle.per_minute,
        "per_hour": tier.throttle.per_hour,
        "per_day": tier.throttle.per_day,
        "burst": tier.throttle.burst,
    }
    shown = {"name": tier.name, "description": tier.description, "plan": tier.plan or ""}
    return shown | {name: str(limit) for name, limit in limits.items() if limit is not None}


# ---- meters


def create_meter(act: Act, terms: MeterTerms, ports: Ports) -> Meter:
    """A new meter, with the publisher's next number. Conflict `name_taken`."""
    _check_meter(terms)
    meter = Meter(
        id=ports.ids.new("met", act.at),
        publisher=act.publisher,
        name=terms.name,
        event_type=terms.event_type,
        aggregation=terms.aggregation,
        value_property=terms.value_property,
        unit=terms.unit,
        filters=terms.filters,
        created_at=act.at,
    )
    entry = act.entry(ports.ids, "meter.created", meter.id, None, {"name": meter.name})
    return ports.store.add_meter(meter, entry)


def read_meter(publisher: str, meter_id: str, ports: Ports) -> Meter:
    """One meter. NotFound."""
    meter = ports.store.meter(publisher, meter_id)
    if meter is None:
        raise missing("meter")
    return meter


def edit_meter(act: Act, meter_id: str, expected: int, terms: MeterTerms, ports: Ports) -> Meter:
    """Change a meter no published version uses: Conflict `meter_frozen` otherwise."""
    was = read_meter(act.publisher, meter_id, ports)
    same_revision(was.rev, expected)
    _check_meter(terms)
    _not_frozen(was)
    meter = replace(
        was,
        name=terms.name,
        event_type=terms.event_type,
        aggregation=terms.aggregation,
        value_property=terms.value_property,
        unit=terms.unit,
        filters=terms.filters,
    )
    entry = act.entry(ports.ids, "meter.changed", meter.id, {"name": was.name}, {"name": meter.name})
    return ports.store.save_meter(was, meter, entry)


def delete_meter(act: Act, meter_id: str, ports: Ports) -> None:
    """Delete a meter no published version uses: Conflict `meter_frozen` otherwise. Its number is not given again."""
    was = read_meter(act.publisher, meter_id, ports)
    _not_frozen(was)
    ports.store.delete_meter(was, act.entry(ports.ids, "meter.deleted", was.id, {"name": was.name}, None))


def _not_frozen(meter: Meter) -> None:
    if meter.used:
        raise Conflict("meter_frozen", "A published plan version counts with this meter: make another one.")


def _check_meter(terms: MeterTerms) -> None:
    if (terms.aggregation == "sum") != (terms.value_property is not None):
        if terms.aggregation == "sum":
            raise Invalid("value_property_required", "A meter that adds up names the property it adds.")
        raise Invalid("value_property_of_count", "A meter that counts has no value property.")
    for each in terms.filters:
        if not each.values and not each.ranges:
            raise Invalid("empty_filter", f"The filter of {each.property} lets nothing through.")
        if any(low > high for low, high in each.ranges):
            raise Invalid("backward_range", f"A range of {each.property} ends before it begins.")


# ---- products: APIs and bundles

API, BUNDLE = "api", "bundle"


def create_product(act: Act, kind: str, terms: ProductTerms, ports: Ports) -> Offered:
    """Register an API, or make a bundle of two APIs or more. NotFound `no_such_api`; Invalid for odd bundles."""
    touched = _more_in_bundles((), terms.apis, act.publisher, ports) if kind == BUNDLE else []
    product = Product(
        id=ports.ids.new(kind, act.at),
        publisher=act.publisher,
        name=terms.name,
        description=terms.description,
        context=terms.context,
        apis=terms.apis,
        environments=terms.environments,
        approval=terms.approval,
        created_at=act.at,
    )
    entry = act.entry(ports.ids, f"{kind}.created", product.id, None, _of_product(product))
    return Offered(ports.store.save_product(None, product, touched, entry), ())


def read_product(publisher: str, kind: str, product_id: str, ports: Ports) -> Offered:
    """One API or bundle. NotFound."""
    return _offered([_product(publisher, kind, product_id, ports)], ports)[0]


def list_products(publisher: str, kind: str, after: str | None, limit: int, ports: Ports) -> Listing[Offered]:
    """APIs or bundles, oldest first."""
    found, rest = ports.store.products(publisher, kind, after, limit)
    return tuple(_offered([it for it in found if it.deleted_at is None], ports)), rest


def edit_product(act: Act, kind: str, product_id: str, expected: int, terms: ProductTerms, ports: Ports) -> Offered:
    """Change an API or bundle. What a bundle holds is fixed while it is subscribed: Conflict `bundle_in_use`."""
    was = _product(act.publisher, kind, product_id, ports)
    same_revision(was.rev, expected)
    touched: list[Product] = []
    if kind == BUNDLE and set(was.apis) != set(terms.apis):
        if ports.store.subscriptions_use(act.publisher, product=was.id):
            raise Conflict("bundle_in_use", "A subscribed bundle keeps its APIs: make another one.")
        touched = _more_in_bundles(was.apis, terms.apis, act.publisher, ports)
    product = replace(
        was,
        name=terms.name,
        description=terms.description,
        context=terms.context,
        environments=terms.environments,
        approval=terms.approval,
        apis=terms.apis,
    )
    entry = act.entry(ports.ids, f"{kind}.changed", product.id, _of_product(was), _of_product(product))
    return _offered([ports.store.save_product(was, product, touched, entry)], ports)[0]


def delete_product(act: Act, kind: str, product_id: str, ports: Ports) -> None:
    """Delete what is in no bundle and has no live subscription: Conflict `api_in_bundle`, `product_in_use`."""
    was = _product(act.publisher, kind, product_id, ports)
    if was.in_bundles:
        raise Conflict("api_in_bundle", "A bundle holds this API: take it out first.")
    if ports.store.subscriptions_use(act.publisher, product=was.id):
        raise Conflict("product_in_use", "It has live subscriptions.")
    touched: list[Tier | Product] = [
        *_tiers_moved(was.tiers, (), act.publisher, ports),
        *_more_in_bundles(was.apis, (), act.publisher, ports, least=0),
    ]
    entry = act.entry(ports.ids, f"{kind}.deleted", was.id, _of_product(was), None)
    ports.store.save_product(was, replace(was, deleted_at=act.at, tiers=()), touched, entry)


def apply_tiers(act: Act, kind: str, product_id: str, expected: int, tiers: tuple[str, ...], ports: Ports) -> Offered:
    """Offer a product at exactly these tiers, in this order. A tier taken away keeps its subscriptions.

    NotFound `no_such_tier`; Conflict `plan_not_published`, `plan_archived`; Invalid `tier_twice`.
    """
    was = _product(act.publisher, kind, product_id, ports)
    same_revision(was.rev, expected)
    if len(set(tiers)) != len(tiers):
        raise Invalid("tier_twice", "A tier is named twice.")
    touched = _tiers_moved(was.tiers, tiers, act.publisher, ports)
    product = replace(was, tiers=tiers)
    entry = act.entry(
        ports.ids, f"{kind}.tiers_applied", was.id, {"tiers": " ".join(was.tiers)}, {"tiers": " ".join(tiers)}
    )
    return _offered([ports.store.save_product(was, product, touched, entry)], ports)[0]


def _product(publisher: str, kind: str, product_id: str, ports: Ports) -> Product:
    product = ports.store.product(publisher, product_id)
    if product is None or product.deleted_at is not None or product.bundle != (kind == BUNDLE):
        raise missing(kind)
    return product


def _offered(products: Sequence[Product], ports: Ports) -> list[Offered]:
    if not products:
        return []
    wanted = list(dict.fromkeys(tier for product in products for tier in product.tiers))
    tiers = ports.store.tiers_by_id(products[0].publisher, wanted)
    return [Offered(it, tuple(tiers[tier] for tier in it.tiers if tier in tiers)) for it in products]


def _tiers_moved(before: Sequence[str], after: Sequence[str], publisher: str, ports: Ports) -> list[Tier]:
    """The tiers that are applied to one product more, or to one less, with their new count."""
    changed = sorted(set(before) ^ set(after))
    found = ports.store.tiers_by_id(publisher, changed)
    added = [found.get(tier) for tier in changed if tier in after]
    plans = ports.store.plans_by_id(publisher, {tier.plan for tier in added if tier and tier.plan})
    for tier in added:
        if tier is None or tier.deleted_at is not None:
            raise missing("tier")
        if tier.plan is not None:
            _sellable(plans.get(tier.plan), tier)
    return [replace(it, in_use=it.in_use + (1 if it.id in after else -1)) for it in found.values()]


def _sellable(plan: Plan | None, tier: Tier) -> None:
    if plan is None or plan.status == "draft":
        raise Conflict("plan_not_published", f"The plan of tier {tier.name} is not published.", tier=tier.id)
    if plan.status == "archived":
        raise Conflict("plan_archived", f"The plan of tier {tier.name} is archived.", tier=tier.id)


def _more_in_bundles(
    before: Sequence[str], after: Sequence[str], publisher: str, ports: Ports, *, least: int = 2
) -> list[Product]:
    """The APIs that are in one bundle more, or in one less, with their new count."""
    if len(set(after)) != len(after):
        raise Invalid("api_twice", "An API is named twice.")
    if len(after) < least:
        raise Invalid("bundle_too_small", "A bundle holds two APIs or more.")
    changed = sorted(set(before) ^ set(after))
    found = ports.store.products_by_id(publisher, changed)
    for each in changed:
        api = found.get(each)
        if each in after and (api is None or api.deleted_at is not None):
            raise missing("api")
        if each in after and api is not None and api.bundle:
            raise Invalid("bundle_in_bundle", "A bundle holds APIs, not bundles.")
    return [replace(it, in_bundles=it.in_bundles + (1 if it.id in after else -1)) for it in found.values()]


def _of_product(product: Product) -> dict[str, str]:
    shown = {
        "name": product.name,
        "description": product.description,
        "context": product.context,
        "environments": " ".join(product.environments),
        "approval": str(product.approval).lower(),
    }
    return shown | ({"apis": " ".join(product.apis)} if product.apis else {})


# ---- what everybody may see


def public_products(publisher: str, after: str | None, limit: int, ports: Ports) -> Listing[Shown]:
    """Products of an enabled publisher that have a tier. NotFound `no_such_publisher`."""
    _selling(publisher, ports)
    found, rest = ports.store.products(publisher, "", after, limit)
    return tuple(it for it in _shown(found, ports) if it.tiers), rest


def public_product(publisher: str, product_id: str, ports: Ports) -> Shown:
    """One product of an enabled publisher. NotFound."""
    _selling(publisher, ports)
    product = ports.store.product(publisher, product_id)
    shown = _shown([product] if product else [], ports)
    if not shown or not shown[0].tiers:
        raise missing("product")
    return shown[0]


def _selling(publisher: str, ports: Ports) -> None:
    found = ports.store.publisher(publisher)
    if found is None or found.status != "enabled":
        raise missing("publisher")


def _shown(products: Sequence[Product], ports: Ports) -> list[Shown]:
    offered = _offered([it for it in products if it.deleted_at is None], ports)
    if not offered:
        return []
    publisher = offered[0].product.publisher
    plans = ports.store.plans_by_id(publisher, {tier.plan for it in offered for tier in it.tiers if tier.plan})
    on_sale = {it.id: it for it in plans.values() if it.status == "published"}
    versions = ports.store.versions_by_number((it.id, it.latest) for it in on_sale.values())
    wanted = {charge.meter for it in versions.values() for charge in it.terms.charges if charge.meter}
    wanted |= {quota.meter for it in versions.values() for quota in it.terms.quotas}
    meters = ports.store.meters_by_id(publisher, wanted)

    def priced(tier: Tier) -> Priced | None:
        if tier.plan is None:
            return Priced(tier, None, None, None, {})
        version = versions.get(tier.plan)
        if version is None:
            return None
        return Priced(tier, tier.plan, version.number, version.terms, meters)

    return [
        Shown(it.product, tuple(filter(None, (priced(tier) for tier in it.tiers if tier.deleted_at is None))))
        for it in offered
    ]


# ---- keys of gateways


def make_gateway_key(act: Act, name: str, asked: str | None, ports: Ports) -> MadeKey:
    """A new key for a gateway. The same `asked` (the client's Idempotency-Key) finds the key it made, without secret.

    Invalid `idempotency_key_reused` when it was used for another name.
    """
    key_id = ports.ids.new("gwk", act.at) if asked is None else named_id("gwk", act.publisher, act.user, asked)
    secret = GATEWAY_PREFIX + ports.ids.secret()
    key = GatewayKey(
        id=key_id,
        publisher=act.publisher,
        sha256=hashed(secret),
        name=name,
        hint=f"{GATEWAY_PREFIX}…{secret[-4:]}",
        created_at=act.at,
    )
    entry = act.entry(ports.ids, "gateway_key.created", key.id, None, {"name": name, "hint": key.hint})
    if ports.store.add_gateway_key(key, entry):
        return MadeKey(replace(key, rev=1), secret)
    made = _gateway_key(act.publisher, key_id, ports)
    if made.name != name:
        raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    return MadeKey(made, None)


def revoke_gateway_key(act: Act, key_id: str, ports: Ports) -> None:
    """End a key at once. Again changes nothing. NotFound."""
    key = _gateway_key(act.publisher, key_id, ports)
    if key.revoked_at is not None:
        return
    entry = act.entry(ports.ids, "gateway_key.revoked", key.id, {"hint": key.hint}, None)
    ports.store.save_gateway_key(replace(key, revoked_at=act.at), entry)


def _gateway_key(publisher: str, key_id: str, ports: Ports) -> GatewayKey:
    key = ports.store.gateway_key(publisher, key_id)
    if key is None:
        raise missing("gateway_key")
    return key
