"""Every key of every table, built here and nowhere else (the tables of DESIGN: Core, Usage, Inbox)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any
from zlib import crc32

DUE_SHARDS = 64
CONNECTED = "CONNECTED"  # in `lookup`: publishers with a Stripe account
LEFT = "LEFT"  # in `lookup`: publishers that had one
LINKS = "DUE#LINKS"  # pending Stripe links, by the end of their life: few, so one partition


@dataclass(frozen=True, slots=True)
class Key:
    """Where an item stands, and its place in the two sparse indexes."""

    pk: str
    sk: str
    lookup: str | None = None
    due_pk: str | None = None
    due_sk: str | None = None


def instant(at: datetime) -> str:
    """UTC to the second, so that text order is time order."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def due_partition(shard: int, scope: str = "") -> str:
    """One of the to-do list's 64 partitions; a tenant with a clock of its own has its own part (`scope`)."""
    return f"DUE#{scope}#{shard:02d}" if scope else f"DUE#{shard:02d}"


def due(identity: str, at: datetime | None, scope: str = "", group: str = "") -> dict[str, str]:
    """The index attributes of something due at `at`; nothing when it is not. `group` shares the queue fairly."""
    if at is None:
        return {}
    return {
        "due_pk": due_partition(crc32(identity.encode()) % DUE_SHARDS, scope),
        "due_sk": f"{instant(at)}#{identity}#{group}" if group else f"{instant(at)}#{identity}",
    }


def publisher(pub: str) -> Key:
    return Key(f"PUB#{pub}", "PUBLISHER")


def stripe_account(account: str) -> Key:
    """The guard: one Stripe account, one publisher."""
    return Key(f"STRIPE#{account}", "UNIQUE")


def oauth_state(state_sha256: str) -> Key:
    return Key(f"OAUTH#{state_sha256}", "STATE")


def completion(token_sha256: str) -> Key:
    return Key(f"OAUTH#{token_sha256}", "COMPLETION")


def tier(pub: str, tier_id: str = "") -> Key:
    return Key(f"PUB#{pub}", f"TIER#{tier_id}")


def meter(pub: str, meter_id: str = "") -> Key:
    return Key(f"PUB#{pub}", f"METER#{meter_id}")


def product(pub: str, product_id: str = "") -> Key:
    return Key(f"PUB#{pub}", f"API#{product_id}")


def gateway_key(pub: str, key_id: str = "") -> Key:
    return Key(f"PUB#{pub}", f"GATEWAYKEY#{key_id}")


def plan(pub: str, plan_id: str = "") -> Key:
    return Key(f"PUB#{pub}", f"PLAN#{plan_id}")


def plan_version(plan_id: str, number: int) -> Key:
    return Key(f"PLAN#{plan_id}", f"VERSION#{number:04d}")


def plan_subscription(plan_id: str, number: int, sub: str = "") -> Key:
    """Who is on which version: a pointer beside the version."""
    return Key(f"PLAN#{plan_id}", f"ON#{number:04d}#{sub}")


def plan_move(plan_id: str, move: str = "") -> Key:
    return Key(f"PLAN#{plan_id}", f"MOVE#{move}")


def moving(plan_id: str, number: int) -> Key:
    """The guard: subscriptions of one version are moved by one move at a time."""
    return Key(f"PLAN#{plan_id}", f"MOVING#{number:04d}")


def name(pub: str, kind: str, text: str) -> Key:
    """The guard of a name that is unique, whatever its case, among a publisher's things of one kind."""
    return Key(f"PUB#{pub}#NAMES", f"{kind}#{text.casefold()}")


def meter_sequence(pub: str) -> Key:
    """The last number given to a meter of the publisher."""
    return Key(f"PUB#{pub}", "SEQUENCE#METER")


def subscriber(pub: str, subr: str) -> Key:
    return Key(f"PUB#{pub}#SUBR#{subr}", "SUBSCRIBER")


def application(pub: str, subr: str, app: str = "") -> Key:
    return Key(f"PUB#{pub}#SUBR#{subr}", f"APP#{app}")


def subscriber_subscription(pub: str, subr: str, sub: str = "") -> Key:
    """A subscriber's subscriptions: pointers beside its applications."""
    return Key(f"PUB#{pub}#SUBR#{subr}", f"SUB#{sub}")


def publisher_subscription(pub: str, sub: str = "") -> Key:
    """A publisher's subscriptions: pointers."""
    return Key(f"PUB#{pub}#SUBS", f"SUB#{sub}")


def subscription(sub: str) -> Key:
    return Key(f"SUB#{sub}", "SUBSCRIPTION")


def guard(app: str, api: str) -> Key:
    """One live subscription per (application, API)."""
    return Key(f"APP#{app}#API#{api}", "UNIQUE")


def api_key(key_sha256: str) -> Key:
    """A key's own item (a subscription's or a gateway's), found by its hash."""
    return Key(f"KEY#{key_sha256}", "KEY")


def subscription_key(sub: str, key_id: str = "") -> Key:
    """A subscription's keys by id, without the key: what a person may list and revoke."""
    return Key(f"SUB#{sub}", f"KEY#{key_id}")


def request(request_sha256: str) -> Key:
    """The natural key of a request that makes something once: whose it is and the caller's own key, hashed."""
    return Key(f"REQUEST#{request_sha256}", "ONCE")


def gift(sub: str, what: str, key_sha256: str) -> Key:
    """The natural key, for ever, of what a publisher gave: `topup`, `discount`."""
    return Key(f"SUB#{sub}", f"{what.upper()}#{key_sha256}")


def bill(sub: str, edge: datetime | None = None) -> Key:
    return Key(f"SUB#{sub}", f"BILL#{instant(edge) if edge else ''}")


def bill_lines(sub: str, edge: datetime | None = None) -> Key:
    return Key(f"SUB#{sub}", f"LINES#{instant(edge) if edge else ''}")


def shard_lease(scope: str, shard: int) -> Key:
    """Up to where one shard of the to-do list was enqueued."""
    return Key(f"LEASE#{scope}#{shard:02d}", "LEASE")


def bill_of(bill_id: str) -> Key:
    """A bill by its public name, `{subscription}.{yyyymmddThhmmssZ}`."""
    sub, _, stamp = bill_id.rpartition(".")
    edge = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return bill(sub, edge)


def parked(pub: str, bill_id: str = "") -> Key:
    """A publisher's parked and held bills: pointers, and in the index those of everybody, in as many parts as `due`."""
    place = Key(f"PUB#{pub}#PARKED", f"BILL#{bill_id}")
    if not bill_id:
        return place
    return replace(place, due_pk=parked_partition(crc32(bill_id.encode()) % DUE_SHARDS), due_sk=f"{pub}#{bill_id}")


def parked_partition(shard: int) -> str:
    """One of the 64 parts of the list of everybody's parked and held bills."""
    return f"PARKED#{shard:02d}"


def invoice(inv: str) -> Key:
    return Key(f"INV#{inv}", "INVOICE")


def publisher_invoice(pub: str, issued: datetime | str, inv: str = "") -> Key:
    """A publisher's invoices of one month, in order of issue: pointers."""
    at = issued if isinstance(issued, str) else instant(issued)
    return Key(f"PUB#{pub}#INV#{at[:7]}", f"{at}#{inv}")


def audit(pub: str, month: str, entry: str = "") -> Key:
    return Key(f"PUB#{pub}#AUDIT#{month}", entry)


def payment(payment: str) -> Key:
    """Which invoice a payment belongs to: refunds and disputes name the payment alone."""
    return Key(f"PAYMENT#{payment}", "PAYMENT", lookup=payment)


def action(inv: str, key_sha256: str = "") -> Key:
    """The natural key, for ever, of a refund, a credit note or another act on an invoice."""
    return Key(f"INV#{inv}", f"ACTION#{key_sha256}")


def drift(pub: str) -> Key:
    """What the last reconciliation of a publisher found, if it found anything."""
    return Key(f"PUB#{pub}", "DRIFT")


def drift_on_demand(pub: str) -> Key:
    """Where a reconciliation that the publisher began goes on."""
    return Key(f"PUB#{pub}", "DRIFT#BEGUN")


def reconciliation() -> Key:
    """Where an interrupted reconciliation goes on."""
    return Key("RECONCILIATION", "PROGRESS")


def event(stripe_event: str) -> str:
    """The inbox's key."""
    return f"EVENT#{stripe_event}"


def usage(sub: str, month: str, shard: int) -> str:
    """The partition of one subscription's usage of one month (`yyyy-mm`) and shard."""
    return f"USAGE#{sub}#{month}#{shard}"


def sandbox_usage(sub: str, month: str) -> str:
    """The partition of one subscription's sandbox usage of one month: never billed, never sealed."""
    return f"USAGE#{sub}#{month}#sandbox"


def batch(day: date, batch_id: str) -> str:
    return f"BATCH#{day:%Y-%m-%d}#{batch_id}"


def late(day: date, batch_id: str) -> str:
    return f"LATE#{day:%Y-%m-%d}#{batch_id}"


def correction(day: date, correction_id: str) -> str:
    return f"CORRECT#{day:%Y-%m-%d}#{correction_id}"


def correction_key(pub: str, key: str) -> str:
    """An Idempotency-Key of a correction, in the Usage table: taken for ever."""
    return f"CORRECTION#{pub}#{sha256(key.encode()).hexdigest()}"


def compaction(sub: str) -> str:
    """The to-do list of days to compact, in the Usage table: one of 64 partitions, ordered by day."""
    return f"COMPACT#{crc32(sub.encode()) % DUE_SHARDS:02d}"


def rejected(pub: str) -> str:
    """A publisher's rejected events, in the Usage table, in order of day."""
    return f"REJECTED#{pub}"


def threshold(sub: str, name: str) -> Key:
    """A threshold that was crossed. In a partition of its own, the only one that entitlement checks may write to."""
    return Key(f"THRESHOLD#{sub}", f"THRESHOLD#{name}")


def adjust(day: date, number: int) -> str:
    return f"ADJUST#{day:%Y-%m-%d}#{number:04d}"


def _connected(it: Any) -> str | None:
    """The one list of publishers with a Stripe account, for whoever visits them all once a day; and of former ones."""
    if it.stripe is None:
        return None
    return CONNECTED if it.stripe.deauthorized_at is None else LEFT


def run(run_id: str) -> Key:
    """One pass of billing, dry or real."""
    return Key(f"RUN#{run_id}", "RUN")


def runs(owner: str, run_id: str = "") -> Key:
    """Runs by whose they are (a publisher, or `*` for everybody's), in order of time: pointers."""
    return Key(f"RUNS#{owner}", run_id)


def open_run(scope: str = "") -> Key:
    """The real run that is going on, if one is: a marker."""
    return Key(f"OPENRUN#{scope}", "RUN")


def run_part(run_id: str, shard: int) -> Key:
    """How far a dry run got in one shard of the to-do list."""
    return Key(f"RUN#{run_id}", f"PART#{shard:02d}")


def run_tally(run_id: str, number: int | None = None) -> Key:
    """What workers did in a real run: one of many items, so that no worker waits for another."""
    return Key(f"RUN#{run_id}", "TALLY#" if number is None else f"TALLY#{number:02d}")


def run_publisher(run_id: str, pub: str = "", shard: int | None = None) -> Key:
    """What a dry run found for one publisher in one shard."""
    return Key(f"RUN#{run_id}#PUBS", f"{pub}#{shard:02d}" if shard is not None else pub)


def run_seen(run_id: str, bill_id: str) -> Key:
    """That a bill is in a dry run's sums: a worker may claim it, or a person release it, while the run passes."""
    return Key(f"RUN#{run_id}#SEEN#{crc32(bill_id.encode()) % DUE_SHARDS:02d}", bill_id)


def run_result(run_id: str, pub: str, rank: int = 0, sub: str = "") -> Key:
    """What one subscription would pay, the largest change first."""
    return Key(f"RUN#{run_id}#PUB#{pub}", f"{10**15 - 1 - rank:015d}#{sub}" if sub else "")


def hold() -> Key:
    """The operator's hold on billing of all publishers."""
    return Key("HOLD#ALL", "HOLD")


def scope(pub: str = "") -> Key:
    """Publishers with a clock of their own."""
    return Key("SCOPES", pub)


def snapshot(pub: str, name: str) -> Key:
    """A report as far as it was counted."""
    return Key(f"PUB#{pub}#REPORTS", name)


def _pending_link(it: Any) -> dict[str, str]:
    if it.pending is None:
        return {}
    return {"due_pk": LINKS, "due_sk": f"{instant(it.pending.expires_at)}#{it.id}"}


# By the entity's name, so that the functions of the hot path can build keys without importing every entity.
_OF: dict[str, Callable[[Any], Key]] = {
    "Publisher": lambda it: replace(publisher(it.id), lookup=_connected(it), **_pending_link(it)),
    "Tier": lambda it: tier(it.publisher, it.id),
    "Meter": lambda it: meter(it.publisher, it.id),
    "Product": lambda it: product(it.publisher, it.id),
    "Plan": lambda it: plan(it.publisher, it.id),
    "PlanVersion": lambda it: plan_version(it.plan, it.number),
    "Move": lambda it: plan_move(it.plan, it.id),
    "Subscriber": lambda it: replace(
        subscriber(it.publisher, it.id), lookup=it.customers[-1].id if it.customers else None
    ),
    "Application": lambda it: application(it.publisher, it.subscriber, it.id),
    "Subscription": lambda it: Key(f"SUB#{it.id}", "SUBSCRIPTION", **due(it.id, it.due_at, it.due_scope, it.publisher)),
    "Bill": lambda it: Key(
        f"SUB#{it.subscription}", f"BILL#{instant(it.edge)}", **due(it.id, it.next_at, it.due_scope, it.publisher)
    ),
    "BillLines": lambda it: bill_lines(it.subscription, it.edge),
    "Invoice": lambda it: Key(
        f"INV#{it.id}", "INVOICE", lookup=it.stripe_id, **due(it.id, it.due_at, it.due_scope, it.publisher)
    ),
    "AuditEntry": lambda it: audit(it.publisher, f"{it.at:%Y-%m}", it.id),
    "ApiKey": lambda it: api_key(it.sha256),
    "GatewayKey": lambda it: api_key(it.sha256),
}


def register(kind: type, key: Callable[[Any], Key]) -> None:
    """Teach where a further kind of entity stands (called once, at import, by the adapter that owns it)."""
    _OF[kind.__name__] = key


def of(entity: object) -> Key:
    """Where an entity stands."""
    return _OF[type(entity).__name__](entity)
