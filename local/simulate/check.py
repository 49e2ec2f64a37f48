"""What must hold in every world once it has come to rest: DESIGN's invariants, seen from outside.

Items are read as they stand in the tables, invoices and charges as they stand at Stripe. What is owed is worked out
by `prices` from the events the gateway was told are durable.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import msgspec

from local.simulate import prices
from local.simulate.lives import Books, Life, Span
from local.simulate.prices import Tariff
from local.simulate.world import CORE, USAGE, World, tables

ID = 12
LET_OFF = frozenset({"waived", "void"})  # what is written off may still be paid, and does not come by here
FINISHED = frozenset({"sent", "paid", "empty", "waived", "void", "uncollectible"})
FOREVER = datetime.max.replace(tzinfo=UTC)
RECOVERY = timedelta(hours=7)  # two leases and what is waited in between
LEFT_OVER = "Credit for unused time and corrections"  # what the credit notes say that nobody asked for
REPEATED = timedelta(hours=31)  # where Stripe repeats a stored error, until it has forgotten the key
SHORT = {"met_calls": 1, "met_units": 2}


class _Span(msgspec.Struct):
    start: datetime
    kind: str
    plan: str | None = None


class _Change(msgspec.Struct):
    at: datetime
    plan: str | None = None


class _TopUp(msgspec.Struct):
    meter: str
    quantity: int
    counts_from: datetime


class _Doc(msgspec.Struct):
    """The parts of any document that are looked at."""

    status: str = ""
    payment_state: str = ""
    subtotal: int = 0
    carry_out: int = 0
    returned: int = 0
    invoice: str | None = None
    reason: str = ""
    attempt: int = 0
    edge: datetime | None = None
    subscription: str = ""
    late: tuple[str, ...] = ()
    amount: int = 0
    stripe_id: str = ""
    next_at: datetime | None = None
    next_edge: datetime | None = None
    due_at: datetime | None = None
    sent_at: datetime | None = None
    created_at: datetime | None = None
    last: bool = False
    spans: tuple[_Span, ...] = ()
    change: _Change | None = None
    ended_at: datetime | None = None
    cancel_at: datetime | None = None
    topups: tuple[_TopUp, ...] = ()


@dataclass(slots=True)
class _Entry:
    """A ledger entry as it stands: events by digest with their quantities by meter number."""

    day: date
    batch: str
    late: bool
    rows: dict[bytes, dict[int, int]]
    taken_by: str = ""
    ref: str = ""
    correction: dict[int, int] = field(default_factory=dict)


class _Period(msgspec.Struct):
    start: datetime
    end: datetime


class _Line(msgspec.Struct):
    amount: int
    period: _Period
    advance: bool = False


class _Frozen(msgspec.Struct):
    lines: tuple[_Line, ...] = ()


_decode = msgspec.json.Decoder(_Doc).decode


def _doc(item: Mapping[str, Any]) -> _Doc:
    stored = item["doc"]
    return _decode(stored["S"] if "S" in stored else zlib.decompress(bytes(stored["B"])))


def _frozen(item: Mapping[str, Any]) -> _Frozen:
    stored = item["doc"]
    return msgspec.json.decode(stored["S"] if "S" in stored else zlib.decompress(bytes(stored["B"])), type=_Frozen)


def check(world: World) -> list[str]:
    """What does not hold, in sentences; empty when all of it does."""
    core = list(_items(world, CORE))
    bills = {
        sub: sorted(
            (
                (_doc(item), item)
                for item in core
                if item["pk"]["S"] == f"SUB#{sub}" and item["sk"]["S"].startswith("BILL#")
            ),
            key=lambda pair: pair[1]["sk"]["S"],
        )
        for sub in world.subscriptions
    }
    held = world.stripe.accounts[world.account].invoices
    found: list[str] = []
    found += _states(world)
    found += _on_time(world)
    found += _unchanging(world)
    for sub in world.subscriptions:
        ledger = list(_ledger(world, sub))
        stored = next(
            _doc(item) for item in core if item["sk"]["S"] == "SUBSCRIPTION" and item["pk"]["S"] == f"SUB#{sub}"
        )
        life = _life(world, stored)
        own = [bill for bill, _ in bills[sub]]
        found += _kept(world, sub, ledger)
        found += _counted(world, sub, ledger, own)
        found += _amounts(world, sub, life, ledger, own, _history(world, sub, life))
        found += _dates(world, sub, stored, life)
        found += _finished(world, stored, sub, life, own, core)
    found += _collected(world, bills, held, core)
    return found


# --- reading ---


def _items(world: World, table: str) -> Iterator[Mapping[str, Any]]:
    for partition in tables(world.dynamodb)[table].space.partitions.values():
        for row in partition.rows.values():
            yield row.item


def _ledger(world: World, sub: str) -> Iterator[_Entry]:
    head = f"USAGE#{sub}#"
    for pk, partition in tables(world.dynamodb)[USAGE].space.partitions.items():
        if not str(pk).startswith(head):
            continue
        for sk, row in partition.rows.items():
            kind, _, rest = str(sk).partition("#")
            if kind not in ("BATCH", "LATE", "CORRECT"):
                continue
            item: Mapping[str, Any] = row.item
            day, _, batch = rest.partition("#")
            entry = _Entry(
                date.fromisoformat(day), batch, kind == "LATE", {}, item.get("bill", {}).get("S", ""), str(sk)
            )
            columns = {int(name[1:]): value for name, value in item.items() if name[0] == "m" and name[1:].isdigit()}
            if "ids" not in item:
                entry.correction = {short: int(value["N"]) for short, value in columns.items()}
            else:
                ids = bytes(item["ids"]["B"])
                for at in range(len(ids) // ID):
                    entry.rows[ids[at * ID : at * ID + ID]] = {
                        short: _value(value, at) for short, value in columns.items() if _value(value, at)
                    }
            yield entry


def _value(column: Mapping[str, Any], at: int) -> int:
    if "N" in column:
        return int(column["N"])
    packed = bytes(column["B"])
    width = packed[0]
    return int.from_bytes(packed[1 + at * width : 1 + (at + 1) * width], "little")


# --- states ---


@cache
def _reach(entity: str) -> Mapping[str, frozenset[str]]:
    """Where each state can get by declared moves, itself included."""
    from monetize.domain import states

    moves = next(machine.moves for machine in states.MACHINES if machine.entity == entity)
    reached: dict[str, frozenset[str]] = {}
    for state in moves:
        seen, front = {state}, [state]
        while front:
            for after in moves[front.pop()].values():
                if after not in seen:
                    seen.add(after)
                    front.append(after)
        reached[state] = frozenset(seen)
    return reached


_ENTITIES = {"BILL": "bill", "INVOICE": "invoice", "SUBSCRIPTION": "subscription", "PUBLISHER": "publisher"}


def _states(world: World) -> Iterator[str]:
    """Every change of a stored state was a declared one, and every revision followed the one before."""
    for change in world.dynamodb.changes(CORE):
        sk: Any = change.keys["sk"]["S"]
        entity = _ENTITIES.get(str(sk).partition("#")[0])
        new, old = change.new, change.old
        if new is not None and "rev" in new:
            before = int(str(old["rev"]["N"])) if old is not None and "rev" in old else 0
            if int(str(new["rev"]["N"])) != before + 1:
                yield f"{sk}: revision {new['rev']['N']} written over {before}"
        if entity is None or new is None or "doc" not in new:
            continue
        after = _doc(new)
        was = _doc(old) if old is not None else None
        world.met[f"{entity} {after.status}"] += 1
        world.met["credit carried"] += entity == "bill" and after.carry_out < 0
        world.met["credit returned"] += entity == "bill" and after.returned < 0
        world.met["another draft"] += entity == "bill" and was is not None and after.attempt > was.attempt
        world.met["late usage taken"] += entity == "bill" and bool(after.late)
        world.met[f"payment {after.payment_state}"] += entity == "subscription" and bool(after.payment_state)
        reached = _reach(entity)
        if after.status not in reached or (was is not None and after.status not in reached[was.status]):
            yield f"{sk}: {was.status if was else 'nothing'} became {after.status}"
        paying = _reach("payment state")
        if entity == "subscription" and was is not None and after.payment_state not in paying[was.payment_state]:
            yield f"{sk}: payment {was.payment_state} became {after.payment_state}"


def _unchanging(world: World) -> Iterator[str]:
    """Frozen lines, plan versions and ledger entries are written once; a late entry is taken by one bill for ever."""
    for change in world.dynamodb.changes(CORE):
        sk = str(change.keys["sk"]["S"])
        if sk.startswith(("LINES#", "VERSION#")) and change.event != "INSERT":
            yield f"{change.keys['pk']['S']} {sk} was rewritten ({change.event})"
    for change in world.dynamodb.changes(USAGE):
        sk = str(change.keys["sk"]["S"])
        if not sk.startswith(("BATCH#", "LATE#", "CORRECT#", "ADJUST#")) or change.event == "INSERT":
            continue
        old, new = dict(change.old or {}), dict(change.new or {})
        taken = old.pop("bill", None)
        again = new.pop("bill", None)
        if old != new or not sk.startswith("LATE#") or (taken is not None and taken != again):
            yield f"{change.keys['pk']['S']} {sk} was rewritten ({change.event})"


# --- usage ---


def _expected(each: Any) -> dict[int, int]:
    return {1: 1, 2: each.units} if each.units else {1: 1}


def _kept(world: World, sub: str, ledger: list[_Entry]) -> Iterator[str]:
    """No event that was answered is lost; none that was never sent is there; each says what was sent."""
    places: dict[bytes, list[_Entry]] = defaultdict(list)
    for entry in ledger:
        for digest in entry.rows:
            places[digest].append(entry)
    sent = {each.digest: each for batch in world.batches for each in batch.events if each.subscription == sub}
    for batch in world.batches:
        if not batch.done:
            continue
        for each in batch.events:
            if each.subscription == sub and each.digest not in places and each.id not in batch.refused:
                yield f"event {each.id} was accepted and is nowhere"
    for digest, entries in places.items():
        known = sent.get(digest)
        for entry in entries:
            if known is None:
                yield f"{sub}: an event nobody sent stands in {entry.ref}"
            elif entry.day != known.at.date() or entry.rows[digest] != _expected(known):
                yield f"event {known.id} stands in {entry.ref} as {entry.rows[digest]}"


def _counted(world: World, sub: str, ledger: list[_Entry], bills: list[_Doc]) -> Iterator[str]:
    """Counter = ledger + adjustments, and on billed days = distinct events."""
    counter, written = _totals(world, sub)
    on_time = [entry for entry in ledger if not entry.late]
    for entry in on_time:
        for quantities in (*entry.rows.values(), entry.correction):
            for short, quantity in quantities.items():
                written[entry.day, short] += quantity
    if {k: v for k, v in counter.items() if v} != {k: v for k, v in written.items() if v}:
        yield f"{sub}: the counter {_days(counter)} is not the ledger {_days(written)}"
    rated = [bill.edge for bill in bills if bill.status in FINISHED and bill.edge is not None]
    if rated:
        through = max(rated).date() - timedelta(days=1)
        for (day, short), quantity in _distinct(on_time, world.start_of(sub).date(), through).items():
            if max(0, counter[day, short]) != quantity:
                yield f"{sub}: {day} counts {counter[day, short]} of meter {short}, distinct are {quantity}"


_DAYS = "0123456789abcdefghijklmnopqrstuv"


def _totals(world: World, sub: str) -> tuple[Counter[tuple[date, int]], Counter[tuple[date, int]]]:
    """What the counters hold, and what adjustments took out, by day and meter."""
    counter: Counter[tuple[date, int]] = Counter()
    adjusted: Counter[tuple[date, int]] = Counter()
    for pk, partition in tables(world.dynamodb)[USAGE].space.partitions.items():
        if not str(pk).startswith(f"USAGE#{sub}#"):
            continue
        month = str(pk).split("#")[2]
        for sk, row in partition.rows.items():
            item: Mapping[str, Any] = row.item
            for name, value in item.items():
                if not name[1:].isdigit() or "N" not in value:
                    continue
                if sk == "COUNTER" and name[0] in _DAYS:
                    day = date(int(month[:4]), int(month[5:]), _DAYS.index(name[0]))
                    counter[day, int(name[1:])] += int(value["N"])
                elif str(sk).startswith("ADJUST#") and name[0] == "m":
                    adjusted[date.fromisoformat(str(sk).split("#")[1]), int(name[1:])] += int(value["N"])
    return counter, adjusted


def _days(totals: Counter[tuple[date, int]]) -> dict[str, int]:
    return {f"{day}/{short}": quantity for (day, short), quantity in sorted(totals.items())}


def _distinct(entries: list[_Entry], first: date, last: date) -> dict[tuple[date, int], int]:
    """Each event once over those days; corrections on top; never below zero."""
    totals: Counter[tuple[date, int]] = Counter()
    seen: set[bytes] = set()
    inside = [entry for entry in entries if first <= entry.day <= last]
    for entry in sorted(inside, key=lambda each: (each.day, each.batch, each.late)):
        for digest, quantities in entry.rows.items():
            if digest not in seen:
                seen.add(digest)
                for short, quantity in quantities.items():
                    totals[entry.day, short] += quantity
        for short, quantity in entry.correction.items():
            totals[entry.day, short] += quantity
    return {key: max(0, quantity) for key, quantity in totals.items()}


# --- money ---


def _used(tariff: Tariff, entries: list[_Entry], first: datetime, end: datetime) -> dict[date, int]:
    last = (end - timedelta(microseconds=1)).date()
    totals = _distinct(entries, first.date(), last)
    return {day: quantity for (day, short), quantity in totals.items() if short == SHORT[tariff.meter] and quantity}


@dataclass(frozen=True, slots=True)
class _Made:
    """What was known when a bill was made.

    `until` when it charged in advance, if at all; where it had to stop, where it could have. `let_off`: the dates of
    bills that nobody owed, when it was claimed and when it was rated.
    """

    until: datetime | None = None
    known: datetime | None = None
    possible: frozenset[datetime] = frozenset()
    let_off: tuple[frozenset[datetime], ...] = (frozenset(),)
    rated: bool = False

    @property
    def wrong(self) -> bool:
        """A period that was known to be over is charged as far as it was lived; no other is shortened."""
        return self.until is not None and self.until not in self.possible | ({self.known} if self.known else set())

    @property
    def stops(self) -> datetime | None:
        """Where it stopped; a line of nothing is none, then where it had to, or could first."""
        return self.until or self.known or min(self.possible, default=None)


def _history(world: World, sub: str, life: Life) -> dict[datetime, _Made]:
    """Each bill's fee in advance and what was let off, against what was decided when it was claimed, and since."""
    found: dict[datetime, _Made] = {}
    frozen: dict[datetime, _Frozen] = {}
    off: frozenset[datetime] = frozenset()
    known, claims, rated = life, {}, {}
    for change in world.dynamodb.changes(CORE):
        sk = str(change.keys["sk"]["S"])
        if str(change.keys["pk"]["S"]) != f"SUB#{sub}" or "doc" not in (change.new or {}):
            continue
        if sk == "SUBSCRIPTION":
            known = _life(world, _doc(change.new or {}))
        elif sk.startswith("LINES#"):
            frozen[datetime.fromisoformat(sk[6:])] = _frozen(change.new or {})
            rated[datetime.fromisoformat(sk[6:])] = off, change.at
        elif sk.startswith("BILL#"):
            bill = _doc(change.new or {})
            if bill.edge is None or bill.created_at is None:
                continue
            off = off | {bill.edge} if bill.status in LET_OFF else off - {bill.edge}
            if change.event == "INSERT":
                claims[bill.edge] = (known, bill.created_at, off)
    for edge, (then, at, before) in claims.items():
        lines = frozen[edge].lines if edge in frozen else ()
        month = prices.month_of(edge)[1]
        until = next((each.period.end for each in lines if each.advance), None)
        over = [each for each in (then.end,) if each is not None and each <= at and edge < each < month]
        then_off, rated_at = rated.get(edge, (before, at))
        later = [each for each in (life.end,) if each is not None and each <= rated_at and edge < each < month]
        possible = frozenset(later if over else (*later, month))
        let_off = (before, then_off)
        found[edge] = _Made(until, over[0] if over else None, possible, let_off, edge in rated)
    return found


def _amounts(
    world: World, sub: str, life: Life, ledger: list[_Entry], bills: list[_Doc], history: Mapping[datetime, _Made]
) -> Iterator[str]:
    """Each bill is what the prices say of the usage it took; late usage is taken once, by the bill that says so."""
    names = [_name(sub, bill) for bill in bills]
    late = [entry for entry in ledger if entry.late]
    for entry in late:
        if entry.taken_by and entry.taken_by not in names:
            yield f"{entry.ref} was taken by {entry.taken_by}, which does not exist"
    on_time = [entry for entry in ledger if not entry.late]
    books = Books(life)
    for bill in bills:
        edge = bill.edge
        made = history.get(edge or FOREVER, _Made())  # a world may begin with bills that nothing has shortened
        if (
            edge is None
            or bill.status in ("claimed", "rated", "parked")
            or (bill.status == "waived" and not made.rated)
        ):
            return  # said elsewhere
        if made.wrong:
            yield f"{_name(sub, bill)} charged in advance until {made.until}, known was {made.known}"
        took = {entry.ref for entry in late if entry.taken_by == _name(sub, bill)}
        if took != set(bill.late):
            yield f"{_name(sub, bill)} says it took {sorted(bill.late)}, the ledger says {sorted(took)}"
        known = on_time + [
            entry for entry in late if entry.taken_by in names and names.index(entry.taken_by) <= bills.index(bill)
        ]
        then, ways = books, frozenset(made.let_off)
        for let_off in ways:
            books = then.copy() if len(ways) > 1 else then
            owed = books.bill(
                edge,
                lambda tariff, first, end: _used(tariff, on_time, first, end),
                lambda tariff, first, end, known=known: _used(tariff, known, first, end),  # type: ignore[misc]
                made.stops,
                let_off,
            )
            if (bill.subtotal, bill.carry_out, bill.returned) == owed:
                break
        else:
            yield (
                f"{_name(sub, bill)} ({world.tariff.name}) is {bill.subtotal} carrying {bill.carry_out} and returning "
                f"{bill.returned}, owed are {owed[0]} carrying {owed[1]} and returning {owed[2]}"
            )
    if bills and bills[-1].edge is not None:
        for entry in late:
            # What came before the last bill was rated is taken by it at the latest.
            if (
                not entry.taken_by
                and entry.day < bills[-1].edge.date()
                and entry.ref in world_before(world, sub, bills[-1])
            ):
                yield f"{entry.ref} came before {_name(sub, bills[-1])} was rated and was never taken"


def world_before(world: World, sub: str, bill: _Doc) -> set[str]:
    """Late entries of a subscription that stood before its bill was claimed and whose period was billed before it."""
    claimed = next(
        (
            change.at
            for change in world.dynamodb.changes(CORE)
            if change.event == "INSERT"
            and str(change.keys["pk"]["S"]) == f"SUB#{sub}"
            and str(change.keys["sk"]["S"]).startswith("BILL#")
            and _doc(change.new or {}).edge == bill.edge
        ),
        None,
    )
    if claimed is None or bill.edge is None:
        return set()
    month, _ = prices.month_of(bill.edge - timedelta(microseconds=1))
    return {
        str(change.keys["sk"]["S"])
        for change in world.dynamodb.changes(USAGE)
        if change.event == "INSERT"
        and str(change.keys["sk"]["S"]).startswith("LATE#")
        and str(change.keys["pk"]["S"]).startswith(f"USAGE#{sub}#")
        and change.at < claimed
        and date.fromisoformat(str(change.keys["sk"]["S"]).split("#")[1]) < month.date()
    }


def _name(sub: str, bill: _Doc) -> str:
    return f"{sub}.{bill.edge:%Y%m%dT%H%M%SZ}"


# --- an end ---


def _finished(
    world: World, subscription: _Doc, sub: str, life: Life, bills: list[_Doc], core: list[Mapping[str, Any]]
) -> Iterator[str]:
    """Nothing is left half done once nothing fails any more and time has passed."""
    now = world.clock.now()
    for bill in bills:
        since = world.quiet_since
        patience = REPEATED if world.gate.stored else RECOVERY
        if since is not None and bill.sent_at is not None and bill.sent_at > max(since, _due(bill)) + patience:
            yield f"{_name(sub, bill)} was sent only at {bill.sent_at.isoformat()}, nothing failed since {since}"
        if bill.status in FINISHED:
            continue
        if bill.status == "parked" and world.deauthorized and bill.reason == "account_unreachable":
            continue
        yield f"{_name(sub, bill)} was left {bill.status} {bill.reason}".strip()
    if subscription.due_at is not None and subscription.due_at <= now:
        yield f"{sub} is due since {subscription.due_at.isoformat()} and was not billed"
    edges = [bill.edge for bill in bills]
    wanted = life.edges(subscription.next_edge or FOREVER)
    if edges != wanted and (subscription.next_edge is not None or life.end is not None):
        yield f"{sub} was billed at {[str(edge) for edge in edges]}, due were {[str(edge) for edge in wanted]}"
    for item in core:
        listed = item.get("due_pk", {}).get("S", "").startswith("DUE#") and f"#{sub}" in item["due_sk"]["S"]
        if listed and item["sk"]["S"] != "SUBSCRIPTION":
            at = datetime.fromisoformat(item["due_sk"]["S"].partition("#")[0])
            if at <= now and not world.declined and not world.deauthorized:
                yield f"{item['pk']['S']} {item['sk']['S']} is still to be done since {at.isoformat()}"


def _due(bill: _Doc) -> datetime:
    return (bill.edge or datetime.max.replace(tzinfo=UTC)) + timedelta(hours=24)


def _dates(world: World, sub: str, stored: _Doc, life: Life) -> Iterator[str]:
    """No bill is claimed before its time, and the to-do list says when the next thing is to be done."""
    previous: datetime | None = None
    for change in world.dynamodb.changes(CORE):
        if change.event != "INSERT" or str(change.keys["pk"]["S"]) != f"SUB#{sub}":
            continue
        if not str(change.keys["sk"]["S"]).startswith("BILL#") or "doc" not in (change.new or {}):
            continue
        edge = _doc(change.new or {}).edge
        if edge is None:
            continue
        due = life.due(previous, edge)
        if change.at < due:
            yield f"the bill of {edge} was claimed at {change.at}, due is {due}"
        previous = edge
    dates = [each for each in (stored.cancel_at, stored.change.at if stored.change else None) if each is not None]
    if stored.next_edge is not None:
        dates.append(life.due(previous, stored.next_edge))
    if stored.due_at != min(dates, default=None):
        yield f"{sub} stands in the to-do list at {stored.due_at}, due is {min(dates, default=None)}"


def _on_time(world: World) -> Iterator[str]:
    """What was answered as late came after a bill that closed its day."""
    claims = [
        (change.at, _doc(change.new or {}).edge)
        for change in world.dynamodb.changes(CORE)
        if change.event == "INSERT" and str(change.keys["sk"]["S"]).startswith("BILL#") and "doc" in (change.new or {})
    ]
    for batch in world.batches:
        if batch.late_at is None:
            continue
        first = min(each.at for each in batch.events)
        if not any(at <= batch.late_at and edge is not None and edge > first for at, edge in claims):
            yield f"batch {batch.number} was late at {batch.late_at}, and no bill had closed its days"


def _life(world: World, stored: _Doc) -> Life:
    """The spans that were decided, in the model's words: whatever was decided, this is what it costs."""
    tariffs = {"plan_1": world.tariff, "plan_2": prices.other_than(world.tariff)}
    spans = [Span(each.start, tariffs[each.plan or ""] if each.kind == "paid" else None) for each in stored.spans]
    change = stored.change
    if change is not None:
        spans = [each for each in spans if each.start < change.at]
        if not spans or spans[-1].tariff != tariffs[change.plan or ""]:
            spans.append(Span(change.at, tariffs[change.plan or ""]))
    extra = tuple((each.meter, each.quantity, each.counts_from) for each in stored.topups)
    return Life(tuple(spans), stored.ended_at or stored.cancel_at, extra)


# --- Stripe ---


def _collected(
    world: World,
    bills: Mapping[str, list[tuple[_Doc, Mapping[str, Any]]]],
    held: Mapping[str, dict[str, Any]],
    core: list[Mapping[str, Any]],
) -> Iterator[str]:
    """At most one finalized invoice a bill, the one we stored; the same amounts; charged once; records that agree."""
    final: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for invoice in held.values():
        if not invoice.get("deleted") and invoice["status"] != "draft":
            final[invoice["metadata"].get("bill", "")].append(invoice)
    records = {item["pk"]["S"]: _doc(item) for item in core if item["sk"]["S"] == "INVOICE"}
    by_stripe = {record.stripe_id: record for record in records.values()}
    ours = {_name(sub, bill): bill for sub, pairs in bills.items() for bill, _ in pairs}
    frozen = {
        f"{item['pk']['S'].removeprefix('SUB#')}.{datetime.fromisoformat(item['sk']['S'][6:]):%Y%m%dT%H%M%SZ}": _frozen(
            item
        )
        for item in core
        if item["sk"]["S"].startswith("LINES#")
    }
    for name, invoices in final.items():
        if len(invoices) > 1:
            yield f"{name} has {len(invoices)} finalized invoices"
        bill = ours.get(name)
        if bill is None:
            yield f"Stripe has an invoice of {name or 'nobody'}, which is no bill of ours"
            continue
        for invoice in invoices:
            yield from _agrees(world, name, bill, frozen[name], invoice, by_stripe.get(invoice["id"]))
    for name, bill in ours.items():
        if bill.status in ("sent", "paid") and name not in final:
            yield f"{name} is {bill.status} and nothing is at Stripe"
        if bill.status == "empty" and (bill.subtotal or name in final):
            yield f"{name} is empty and asks for {bill.subtotal}"
    if len(by_stripe) != len(records):
        yield "two records of one Stripe invoice"
    yield from _charged(world, final, -sum(bill.returned for own in bills.values() for bill, _ in own))


def _agrees(
    world: World, name: str, bill: _Doc, frozen: _Frozen, invoice: dict[str, Any], record: _Doc | None
) -> Iterator[str]:
    """One finalized invoice against its bill and our record of it."""
    if invoice["id"] != bill.invoice:
        yield f"{name} stored {bill.invoice}, Stripe finalized {invoice['id']}"
    asked = (invoice["total_excluding_tax"] or invoice["total"], invoice["currency"])
    if asked != (bill.subtotal, world.tariff.currency):
        yield f"{name} is {bill.subtotal}, Stripe asks for {asked[0]} {asked[1]}"
    if bill.status == "paid" and invoice["status"] != "paid":
        yield f"{name} is paid here and {invoice['status']} at Stripe"
    if record is None:
        # Finalized without an answer, and then the account left: it is recorded when the parked bill is released.
        if not (world.deauthorized and bill.status == "parked" and bill.reason == "account_unreachable"):
            yield f"{name}: no record of {invoice['id']}"
        return
    if invoice["status"] == "paid" and record.status != "paid" and not world.deauthorized:  # nobody lets us look
        yield f"{name}: paid at Stripe, {record.status} in our record"
    if invoice["status"] == "open" and not world.declined and not world.deauthorized:
        yield f"{name}: open at Stripe, nobody paid it"
    held = sorted(line["amount"] for line in invoice["lines"]["data"])
    sent = sorted(line.amount for line in frozen.lines if line.amount)
    if held != sent:
        yield f"{name}: Stripe's lines are {held}, frozen were {sent}"
    if record.amount != bill.subtotal:
        yield f"{name}: the record says {record.amount}, the bill {bill.subtotal}"


def orphans(world: World) -> list[str]:
    """Drafts of ours that no bill names: harmless, and reconciliation deletes them; a crash alone leaves none."""
    bills = [item for item in _items(world, CORE) if item["sk"]["S"].startswith("BILL#") and "doc" in item]
    stored = {_doc(item).invoice for item in bills}
    return [
        f"draft {invoice['id']} of {invoice['metadata'].get('bill')} is nobody's"
        for invoice in world.stripe.accounts[world.account].invoices.values()
        if not invoice.get("deleted") and invoice["status"] == "draft" and invoice["id"] not in stored
    ]


def _charged(world: World, final: Mapping[str, list[dict[str, Any]]], returned: int) -> Iterator[str]:
    """What the cards gave is what the invoices asked for, each intent once; what is too little to charge is owed on.

    What bills left to give back (`returned`) is credited once.
    """
    account = world.stripe.accounts[world.account]
    good = [charge for charge in account.charges.values() if charge["status"] == "succeeded"]
    twice = [intent for intent, times in Counter(charge["payment_intent"] for charge in good).items() if times > 1]
    if twice:
        yield f"charged twice: {twice}"
    asked = sum(each["total"] for invoices in final.values() for each in invoices if each["status"] in ("open", "paid"))
    open_ = sum(
        each["amount_remaining"] for invoices in final.values() for each in invoices if each["status"] == "open"
    )
    customers = [each for each in account.customers.values() if not each.get("deleted")]
    owed_on = sum(sum(dict(each.get("invoice_credit_balance") or {}).values()) for each in customers)
    taken = sum(charge["amount"] for charge in good)
    notes = [each for each in account.credit_notes.values() if each["status"] == "issued"]
    live = {each["id"] for invoices in final.values() for each in invoices if each["status"] in ("open", "paid")}
    let_off = sum(_let_off(each) for each in notes if each["invoice"] in live)
    if asked != taken + open_ + owed_on + let_off:
        yield (
            f"invoices ask for {asked}; charged {taken}, open {open_}, carried on the customer {owed_on}, "
            f"let off {let_off}"
        )
    given = sum(each["amount"] for each in notes if each["memo"] == LEFT_OVER)
    if given > returned:
        yield f"{returned} were to be given back, and {given} were"


def _let_off(note: Mapping[str, Any]) -> int:
    """What of a credit note nobody has to pay: taken off before it was paid, or put on the customer's balance."""
    off: int = note["pre_payment_amount"]
    if note["customer_balance_transaction"]:
        refunded = sum(each["amount_refunded"] for each in note["refunds"])
        off += note["post_payment_amount"] - (note["out_of_band_amount"] or 0) - refunded
    return off
