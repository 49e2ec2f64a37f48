"""What a publisher offers, at rest: tiers, meters, APIs and bundles, plans and versions, moves, gateway keys."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.keys import Key
from monetize.adapters.dynamo.table import Lost, Op, Table, claim, delete, put, read, release, unchanged
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Listing, Move, Product, Tier
from monetize.domain.errors import Conflict, PreconditionFailed
from monetize.domain.keys import GatewayKey
from monetize.domain.meters import Meter
from monetize.domain.plans import Plan, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Subscription

PAGE = 100
SEQUENCE_TRIES = 8


class CatalogTable:
    """The Core table, as the catalog and plans ask it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def publisher(self, publisher: str) -> Publisher | None:
        """Whose catalog it is."""
        return self._table.get(Publisher, keys.publisher(publisher))

    # ---- tiers

    def tier(self, publisher: str, tier: str) -> Tier | None:
        """One tier, deleted ones too."""
        return self._table.get(Tier, keys.tier(publisher, tier))

    def tiers(self, publisher: str, after: str | None, limit: int) -> Listing[Tier]:
        """A publisher's tiers, deleted ones too."""
        return self._listed(Tier, keys.tier(publisher), after, limit)

    def tiers_by_id(self, publisher: str, wanted: Sequence[str]) -> dict[str, Tier]:
        """Those of the tiers that are there."""
        found = self._table.get_many(Tier, [keys.tier(publisher, each) for each in wanted])
        return {tier.id: tier for tier in found}

    def tier_named(self, publisher: str, name: str) -> Tier | None:
        """Who has a name, whatever its case."""
        return next((it for it in self._all_tiers(publisher) if it.name.casefold() == name.casefold()), None)

    def tiers_of_plan(self, publisher: str, plan: str) -> int:
        """How many tiers name a plan."""
        return sum(it.plan == plan for it in self._all_tiers(publisher))

    def add_tier(self, tier: Tier, plan: Plan | None, entry: AuditEntry) -> Tier:
        """A tier, its name's guard, its plan as it was read."""
        self._save(None, tier, "TIER", entry, [unchanged(plan)] if plan else [])
        return replace(tier, rev=1)

    def save_tier(self, was: Tier, tier: Tier, plan: Plan | None, entry: AuditEntry) -> Tier:
        """A tier that changes, with its name; one that is deleted gives its name back."""
        self._save(was, tier, "TIER", entry, [unchanged(plan)] if plan else [])
        return replace(tier, rev=tier.rev + 1)

    def subscriptions_use(self, publisher: str, *, tier: str | None = None, product: str | None = None) -> bool:
        """Whether a live subscription has (or will change to) this tier, or is of this product.

        Reads the publisher's subscriptions, one by one: deleting is rare, and subscribing stays free of counters.
        """
        after: str | None = None
        while True:
            page = self._table.query(keys.publisher_subscription(publisher).pk, "SUB#", after=after, limit=PAGE)
            wanted = [keys.subscription(item["sk"]["S"].removeprefix("SUB#")) for item in page.items]
            for it in self._table.get_many(Subscription, wanted):
                coming = it.change.tier if it.change else None
                if it.live and (product == it.product or (tier is not None and tier in (it.tier, coming))):
                    return True
            if page.after is None:
                return False
            after = page.after

    def _all_tiers(self, publisher: str) -> Iterable[Tier]:
        where = keys.tier(publisher)
        return (it for it in self._table.list(Tier, where.pk, where.sk).items if it.deleted_at is None)

    # ---- meters

    def meter(self, publisher: str, meter: str) -> Meter | None:
        """One meter."""
        return self._table.get(Meter, keys.meter(publisher, meter))

    def meters(self, publisher: str, after: str | None, limit: int) -> Listing[Meter]:
        """A publisher's meters."""
        return self._listed(Meter, keys.meter(publisher), after, limit)

    def meters_by_id(self, publisher: str, wanted: Iterable[str]) -> dict[str, Meter]:
        """Those of the meters that are there."""
        found = self._table.get_many(Meter, [keys.meter(publisher, each) for each in sorted(wanted)])
        return {meter.id: meter for meter in found}

    def add_meter(self, meter: Meter, entry: AuditEntry) -> Meter:
        """A meter with the next number of its publisher. The number moves on in the same write, so it is never reused.

        Of two who take the same number, one tries again with the next.
        """
        sequence = keys.meter_sequence(meter.publisher)
        for left in reversed(range(SEQUENCE_TRIES)):
            item = self._table.raw(sequence)
            last = int(item["last"]["N"]) if item else 0
            numbered = replace(meter, short=last + 1)
            try:
                self._save(None, numbered, "METER", entry, [_take_number(sequence, last)])
            except _NumberTaken:
                if not left:
                    raise PreconditionFailed("changed_meanwhile", "Many meters are being made: try again.") from None
            else:
                return replace(numbered, rev=1)
        raise AssertionError("unreachable")

    def save_meter(self, was: Meter, meter: Meter, entry: AuditEntry) -> Meter:
        """A meter that changes, with its name."""
        self._save(was, meter, "METER", entry, [])
        return replace(meter, rev=meter.rev + 1)

    def delete_meter(self, meter: Meter, entry: AuditEntry) -> None:
        """A meter goes, as it was read, and its name is free."""
        name = release(keys.name(meter.publisher, "METER", meter.name), owner=meter.id)
        self._write([delete(meter), name, put(entry)])

    # ---- products

    def product(self, publisher: str, product: str) -> Product | None:
        """One API or bundle, deleted ones too."""
        return self._table.get(Product, keys.product(publisher, product))

    def products(self, publisher: str, kind: str, after: str | None, limit: int) -> Listing[Product]:
        """A publisher's APIs (`api`), bundles (`bundle`) or both (empty), deleted ones too."""
        return self._listed(Product, keys.product(publisher, f"{kind}_" if kind else ""), after, limit)

    def products_by_id(self, publisher: str, wanted: Sequence[str]) -> dict[str, Product]:
        """Those of the products that are there."""
        found = self._table.get_many(Product, [keys.product(publisher, each) for each in wanted])
        return {product.id: product for product in found}

    def save_product(
        self, was: Product | None, product: Product, touched: Sequence[Tier | Product], entry: AuditEntry
    ) -> Product:
        """A product, its name, and the counts on the tiers or APIs it takes or lets go: all as they were read."""
        self._save(was, product, "PRODUCT", entry, [put(each) for each in touched])
        return replace(product, rev=product.rev + 1)

    # ---- plans

    def plan(self, publisher: str, plan: str) -> Plan | None:
        """A plan's head."""
        return self._table.get(Plan, keys.plan(publisher, plan))

    def plans(self, publisher: str, after: str | None, limit: int) -> Listing[Plan]:
        """A publisher's plans."""
        return self._listed(Plan, keys.plan(publisher), after, limit)

    def plans_by_id(self, publisher: str, wanted: Iterable[str]) -> dict[str, Plan]:
        """Those of the plans that are there."""
        found = self._table.get_many(Plan, [keys.plan(publisher, each) for each in sorted(wanted)])
        return {plan.id: plan for plan in found}

    def version(self, plan: str, number: int) -> PlanVersion | None:
        """What was published under a number."""
        return self._table.get(PlanVersion, keys.plan_version(plan, number))

    def versions(self, plan: str, after: str | None, limit: int) -> Listing[PlanVersion]:
        """Everything a plan ever published, in order."""
        return self._listed(PlanVersion, Key(f"PLAN#{plan}", "VERSION#"), after, limit)

    def versions_by_number(self, wanted: Iterable[tuple[str, int]]) -> dict[str, PlanVersion]:
        """One version each of several plans, by plan."""
        found = self._table.get_many(PlanVersion, [keys.plan_version(*each) for each in sorted(wanted)])
        return {version.plan: version for version in found}

    def add_plan(self, plan: Plan, entry: AuditEntry) -> Plan:
        """A plan and its name's guard."""
        self._save(None, plan, "PLAN", entry, [])
        return replace(plan, rev=1)

    def save_plan(self, was: Plan, plan: Plan, entry: AuditEntry) -> Plan:
        """A plan's head that changes, with its name."""
        self._save(was, plan, "PLAN", entry, [])
        return replace(plan, rev=plan.rev + 1)

    def delete_plan(self, plan: Plan, entry: AuditEntry) -> None:
        """A plan that was never published goes, and its name is free."""
        self._write([delete(plan), release(keys.name(plan.publisher, "PLAN", plan.name), owner=plan.id), put(entry)])

    def publish(self, plan: Plan, version: PlanVersion, meters: Sequence[Meter], entry: AuditEntry) -> Plan:
        """The version if there is none of its number, the head moved on, the meters it counts with frozen."""
        self._write([put(plan), put(version), *(put(meter) for meter in meters), put(entry)])
        return replace(plan, rev=plan.rev + 1)

    # ---- who is on what, and moves

    def subscriptions_on(
        self, plan: str, version: int | None, after: str | None, limit: int
    ) -> Listing[tuple[str, int]]:
        """Subscriptions and the version they pinned: of one version, or of all in order of version."""
        where = Key(f"PLAN#{plan}", "ON#") if version is None else keys.plan_subscription(plan, version)
        page = self._table.query(where.pk, where.sk, after=None if after is None else where.sk + after, limit=limit)
        found = []
        for item in page.items:
            _, number, subscription = item["sk"]["S"].split("#", 2)
            found.append((subscription, int(number)))
        return tuple(found), page.after and page.after.removeprefix(where.sk)

    def start_move(self, move: Move, entry: AuditEntry) -> bool:
        """A move and the guard of the version it empties; False while another one holds it."""
        guard = claim(keys.moving(move.plan, move.from_version), owner=move.id)
        try:
            self._table.write(put(move), guard, put(entry))
        except Lost as lost:
            if 1 in lost.unmet:
                return False
            raise
        return True

    def running_move(self, plan: str, version: int) -> Move | None:
        """Who holds the guard of a version."""
        guard = self._table.raw(keys.moving(plan, version))
        return self.move(plan, guard["owner"]["S"]) if guard else None

    def move(self, plan: str, move: str) -> Move | None:
        """One move."""
        return self._table.get(Move, keys.plan_move(plan, move))

    def moves(self, plan: str, after: str | None, limit: int) -> Listing[Move]:
        """A plan's moves."""
        return self._listed(Move, keys.plan_move(plan), after, limit)

    def save_move(self, move: Move) -> Move | None:
        """Progress, if nobody recorded any since it was read (None otherwise); the guard goes with the end."""
        ops = [put(move)]
        if move.finished_at is not None:
            ops.append(release(keys.moving(move.plan, move.from_version), owner=move.id))
        try:
            self._table.write(*ops)
        except Lost:
            return None
        return replace(move, rev=move.rev + 1)

    # ---- keys of gateways

    def gateway_key(self, publisher: str, key: str) -> GatewayKey | None:
        """One key by its id."""
        pointer = self._table.raw(keys.gateway_key(publisher, key))
        return self._table.get(GatewayKey, keys.api_key(pointer["owner"]["S"])) if pointer else None

    def gateway_keys(self, publisher: str, after: str | None, limit: int) -> Listing[GatewayKey]:
        """A publisher's keys, without the keys."""
        where = keys.gateway_key(publisher)
        page = self._table.query(where.pk, where.sk, after=None if after is None else where.sk + after, limit=limit)
        wanted = [keys.api_key(item["owner"]["S"]) for item in page.items]
        found = tuple(self._table.get_many(GatewayKey, wanted))
        return found, page.after and page.after.removeprefix(where.sk)

    def add_gateway_key(self, key: GatewayKey, entry: AuditEntry) -> bool:
        """The key under its hash and a pointer under its id; False when there is one of that id."""
        pointer = claim(keys.gateway_key(key.publisher, key.id), owner=key.sha256)
        try:
            self._table.write(pointer, put(key), put(entry))
        except Lost as lost:
            if 0 in lost.unmet:
                return False
            raise
        return True

    def save_gateway_key(self, key: GatewayKey, entry: AuditEntry) -> GatewayKey:
        """A key that changes."""
        self._write([put(key), put(entry)])
        return replace(key, rev=key.rev + 1)

    # ---- one way to list, one way to save what has a name

    def _listed[T](self, kind: type[T], where: Key, after: str | None, limit: int) -> Listing[T]:
        # A cursor holds what comes after the prefix, so whatever a client makes of it stays within its own list.
        page = self._table.query(where.pk, where.sk, after=None if after is None else where.sk + after, limit=limit)
        found = tuple(read(kind, item) for item in page.items)
        return found, page.after and page.after.removeprefix(where.sk)

    def _save(
        self,
        was: Tier | Meter | Product | Plan | None,
        entity: Tier | Meter | Product | Plan,
        kind: str,
        entry: AuditEntry,
        more: Sequence[Op],
    ) -> None:
        """The entity, its audit entry, whatever depends on it, and its name's guard when the name changes."""
        ops = [put(entity), put(entry), *more]
        gone = getattr(entity, "deleted_at", None) is not None
        before = None if was is None else keys.name(was.publisher, kind, was.name)
        after = None if gone else keys.name(entity.publisher, kind, entity.name)
        taken: int | None = None
        if before != after:
            if before is not None:
                ops.append(release(before, owner=entity.id))
            if after is not None:
                taken = len(ops)
                ops.append(claim(after, owner=entity.id))
        try:
            self._table.write(*ops)
        except Lost as lost:
            if taken in lost.unmet:
                raise Conflict("name_taken", f"There is a {kind.lower()} named {entity.name} already.") from None
            if more and more[0].kind == "Update" and 2 in lost.unmet:
                raise _NumberTaken from None
            raise _changed() from None

    def _write(self, ops: Sequence[Op]) -> None:
        try:
            self._table.write(*ops)
        except Lost:
            raise _changed() from None


class _NumberTaken(Exception):
    """Somebody took the number between the read and the write."""


def _changed() -> PreconditionFailed:
    return PreconditionFailed("changed_meanwhile", "It changed while this was done: read it again.")


def _take_number(sequence: Key, last: int) -> Op:
    body: dict[str, Any] = {
        "Key": {"pk": {"S": sequence.pk}, "sk": {"S": sequence.sk}},
        "UpdateExpression": "SET #last = :next",
        "ConditionExpression": "attribute_not_exists(#last)" if last == 0 else "#last = :last",
        "ExpressionAttributeNames": {"#last": "last"},
        "ExpressionAttributeValues": {":next": {"N": str(last + 1)}},
    }
    if last:
        body["ExpressionAttributeValues"][":last"] = {"N": str(last)}
    return Op("Update", body)
