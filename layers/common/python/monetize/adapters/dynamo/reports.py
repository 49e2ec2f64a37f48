"""Runs, snapshots of reports, and the lists that people read: each in pages, none by a scan."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.billing import due_of
from monetize.adapters.dynamo.table import Lost, Op, Page, Table, claim, put, read
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Product, Tier
from monetize.domain.errors import Invalid, PreconditionFailed
from monetize.domain.invoices import Bill, BillLines, Due, Invoice
from monetize.domain.meters import Meter
from monetize.domain.plans import Plan, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.reports import Snapshot
from monetize.domain.runs import Hold, PublisherTotals, Run, RunPart, RunResult
from monetize.domain.subscriptions import Subscription

KEPT: Final = timedelta(days=35)  # a dry run and a snapshot can be made again
KEPT_RUNS: Final = timedelta(days=400)
TALLIES: Final = 32

keys.register(Run, lambda it: keys.run(it.id))
keys.register(RunPart, lambda it: keys.run_part(it.run, it.shard))
keys.register(RunResult, lambda it: keys.run_result(it.run, it.publisher, it.rank, it.id))
keys.register(Snapshot, lambda it: keys.snapshot(it.publisher, it.name))

CHANGED = ("changed_meanwhile", "This changed since it was read: read it again.")


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The Core table, as reports ask it."""

    table: Table

    # --- one thing ---

    def publisher(self, pub: str) -> Publisher | None:
        """One publisher."""
        return self.table.get(Publisher, keys.publisher(pub))

    def invoice(self, inv: str) -> Invoice | None:
        """One invoice."""
        return self.table.get(Invoice, keys.invoice(inv))

    def bill(self, bill_id: str) -> Bill | None:
        """One bill, by its public name; None for what is no such name."""
        try:
            key = keys.bill_of(bill_id)
        except ValueError:
            return None
        return self.table.get(Bill, key)

    def lines(self, sub: str, edge: datetime) -> BillLines | None:
        """A bill's frozen lines; None until it is rated."""
        return self.table.get(BillLines, keys.bill_lines(sub, edge))

    def subscription(self, sub: str) -> Subscription | None:
        """One subscription."""
        return self.table.get(Subscription, keys.subscription(sub))

    def version(self, plan: str, number: int) -> PlanVersion | None:
        """One published version."""
        return self.table.get(PlanVersion, keys.plan_version(plan, number))

    def plan(self, pub: str, plan: str) -> Plan | None:
        """One plan's head, with its draft."""
        return self.table.get(Plan, keys.plan(pub, plan))

    def meters(self, pub: str) -> tuple[Meter, ...]:
        """A publisher's meters."""
        return self.table.list(Meter, keys.meter(pub).pk, keys.meter(pub).sk).items

    def names(self, pub: str) -> Mapping[str, str]:
        """What a publisher's products, tiers and plans are called, by id."""
        found: dict[str, str] = {}
        kinds: tuple[tuple[type[Product | Tier | Plan], keys.Key], ...] = (
            (Product, keys.product(pub)),
            (Tier, keys.tier(pub)),
            (Plan, keys.plan(pub)),
        )
        for kind, prefix in kinds:
            found.update({each.id: each.name for each in self.table.list(kind, prefix.pk, prefix.sk).items})
        return found

    # --- pages ---

    def invoices(self, pub: str, month: str, after: str | None, limit: int) -> Page[Invoice]:
        """A publisher's invoices of one month of issue (yyyy-mm), in that order."""
        page = self.table.query(keys.publisher_invoice(pub, month).pk, after=after, limit=limit)
        wanted = [keys.invoice(item["sk"]["S"].partition("#")[2]) for item in page.items]
        return Page(tuple(self.table.get_many(Invoice, wanted)), page.after)

    def bills_of(self, sub: str, after: str | None, limit: int) -> Page[Bill]:
        """A subscription's bills, newest first."""
        page = self.table.query(f"SUB#{sub}", "BILL#", after=after, limit=limit, newest_first=True)
        return Page(tuple(read(Bill, item) for item in page.items), page.after)

    def many_invoices(self, ids: Sequence[str]) -> tuple[Invoice, ...]:
        """Invoices by id; those that are not there are left out."""
        return tuple(self.table.get_many(Invoice, [keys.invoice(each) for each in ids]))

    def many_lines(self, of: Iterable[tuple[str, datetime]]) -> tuple[BillLines, ...]:
        """Lines of bills, by subscription and edge."""
        return tuple(self.table.get_many(BillLines, [keys.bill_lines(sub, edge) for sub, edge in of]))

    def many_subscriptions(self, ids: Iterable[str]) -> tuple[Subscription, ...]:
        """Subscriptions by id."""
        return tuple(self.table.get_many(Subscription, [keys.subscription(each) for each in sorted(set(ids))]))

    def subscriptions(self, pub: str, after: str | None, limit: int) -> Page[Subscription]:
        """A publisher's subscriptions, oldest first."""
        prefix = keys.publisher_subscription(pub)
        return self._pointed(prefix, after, limit)

    def subscriptions_of(self, pub: str, subr: str, after: str | None, limit: int) -> Page[Subscription]:
        """A subscriber's subscriptions at one publisher, oldest first."""
        return self._pointed(keys.subscriber_subscription(pub, subr), after, limit)

    def on_version(self, plan: str, number: int, after: str | None, limit: int) -> Page[Subscription]:
        """Who is on one version of a plan."""
        return self._pointed(keys.plan_subscription(plan, number), after, limit)

    def _pointed(self, prefix: keys.Key, after: str | None, limit: int) -> Page[Subscription]:
        page = self.table.query(prefix.pk, prefix.sk, after=prefix.sk + after if after else None, limit=limit)
        wanted = [item["sk"]["S"].removeprefix(prefix.sk) for item in page.items]
        found = tuple(self.table.get_many(Subscription, [keys.subscription(each) for each in wanted]))
        return Page(found, page.after.removeprefix(prefix.sk) if page.after else None)

    def parked(self, pub: str, after: str | None, limit: int) -> Page[Bill]:
        """A publisher's parked and held bills."""
        prefix = keys.parked(pub)
        page = self.table.query(prefix.pk, prefix.sk, after=prefix.sk + after if after else None, limit=limit)
        wanted = [keys.bill_of(item["sk"]["S"].removeprefix(prefix.sk)) for item in page.items]
        return Page(
            tuple(self.table.get_many(Bill, wanted)), page.after.removeprefix(prefix.sk) if page.after else None
        )

    def parked_anywhere(self, after: str | None, limit: int) -> Page[Bill]:
        """Everybody's parked and held bills, part by part (seconds behind the table). Invalid `bad_cursor`."""
        part, _, position = (after or "00#").partition("#")
        if not (part.isdigit() and int(part) < keys.DUE_SHARDS):
            raise Invalid("bad_cursor", "This cursor was not made for this list.")
        wanted: list[keys.Key] = []
        for shard in range(int(part), keys.DUE_SHARDS):
            found, more = parked_page(self.table, shard, position, limit - len(wanted))
            wanted += [keys.bill_of(bill) for _, bill in found]
            if more or len(wanted) == limit:
                bills = tuple(self.table.get_many(Bill, wanted))
                return Page(bills, f"{shard:02d}#{found[-1][0]}" if found else f"{shard:02d}#{position}")
            position = ""
        return Page(tuple(self.table.get_many(Bill, wanted)), None)

    def audit(self, pub: str, month: str, after: str | None, limit: int) -> Page[AuditEntry]:
        """What people did in a month, newest first."""
        page = self.table.query(keys.audit(pub, month).pk, after=after, limit=limit, newest_first=True)
        return Page(tuple(read(AuditEntry, item) for item in page.items), page.after)

    def sellers(self) -> tuple[str, ...]:
        """Every publisher that has, or had, a Stripe account, by name."""
        found = (*self.table.looked_up(keys.CONNECTED), *self.table.looked_up(keys.LEFT))
        return tuple(sorted({key.pk.removeprefix("PUB#") for key in found}))

    # --- snapshots ---

    def snapshot(self, pub: str, name: str) -> Snapshot | None:
        """A report as far as it was counted."""
        return self.table.get(Snapshot, keys.snapshot(pub, name))

    def keep(self, snapshot: Snapshot, now: datetime) -> bool:
        """The next step of a snapshot; False when somebody else took it."""
        try:
            self.table.write(put(snapshot, now + KEPT))
        except Lost:
            return False
        return True


@dataclass(frozen=True, slots=True)
class RunTable:
    """The Core table, as runs ask it."""

    table: Table

    def run(self, run_id: str) -> Run | None:
        """One run."""
        return self.table.get(Run, keys.run(run_id))

    def begin(self, run: Run) -> Run:
        """A new run, listed; a real one only where none is going on (PreconditionFailed)."""
        kept = run.created_at + (KEPT if run.kind == "dry" else KEPT_RUNS)
        ops = [put(run, kept), claim(keys.runs(run.publisher or "*", run.id), expires_at=kept)]
        if run.kind == "real":
            ops.append(claim(keys.open_run(run.scope), run.id))
        try:
            self.table.write(*ops)
        except Lost:
            raise PreconditionFailed(*CHANGED) from None
        return replace(run, rev=1)

    def finish(self, run: Run) -> bool:
        """Close a run with its sums: the item's last change, which tells everybody. False when it was closed."""
        kept = run.created_at + (KEPT if run.kind == "dry" else KEPT_RUNS)
        ops = [put(run, kept)]
        if run.kind == "real":
            key = keys.open_run(run.scope)
            ops.append(Op("Delete", {"Key": {"pk": {"S": key.pk}, "sk": {"S": key.sk}}}))
        try:
            self.table.write(*ops)
        except Lost:
            return False
        return True

    def open_run(self, scope: str) -> Run | None:
        """The real run that is going on."""
        item = self.table.raw(keys.open_run(scope))
        return None if item is None else self.run(item["owner"]["S"])

    def runs(self, owner: str, after: str | None, limit: int) -> Page[Run]:
        """A publisher's runs, or (`*`) those of everybody, newest first."""
        page = self.table.query(keys.runs(owner).pk, after=after, limit=limit, newest_first=True)
        return Page(tuple(self.table.get_many(Run, [keys.run(item["sk"]["S"]) for item in page.items])), page.after)

    # --- dry ---

    def due_page(
        self, shard: int, after: str | None, through: datetime, scope: str, limit: int
    ) -> tuple[Sequence[tuple[str, Due]], bool]:
        """What is due in a shard up to an instant, after a position, each with its own; and whether more follows."""
        first, last = (
            (after or "") + "!",
            keys.instant(through) + "$",
        )  # "!" < "#" < "$": behind `after`, up to `through`
        if first > last:
            return (), False
        answer = self.table.client.query(
            TableName=self.table.name,
            IndexName="due",
            KeyConditionExpression="due_pk = :shard AND due_sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":shard": {"S": keys.due_partition(shard, scope)},
                ":first": {"S": first},
                ":last": {"S": last},
            },
            Limit=limit,
        )
        return [(item["due_sk"]["S"], due_of(item)) for item in answer["Items"]], "LastEvaluatedKey" in answer

    def due_count(self, shard: int, now: datetime, scope: str) -> int:
        """How much is due in a shard: subscriptions, open bills, invoices to try again."""
        request: dict[str, Any] = {
            "TableName": self.table.name,
            "IndexName": "due",
            "KeyConditionExpression": "due_pk = :shard AND due_sk < :until",
            "ExpressionAttributeValues": {
                ":shard": {"S": keys.due_partition(shard, scope)},
                ":until": {"S": keys.instant(now) + "$"},
            },
            "Select": "COUNT",
        }
        return self._count(request)

    def worked_on(self, shard: int, now: datetime, until: datetime, scope: str) -> int:
        """How many bills of a shard somebody is on: their next attempt is ahead, up to an instant."""
        request: dict[str, Any] = {
            "TableName": self.table.name,
            "IndexName": "due",
            "KeyConditionExpression": "due_pk = :shard AND due_sk BETWEEN :now AND :until",
            "FilterExpression": "begins_with(sk, :bill)",
            "ExpressionAttributeValues": {
                ":shard": {"S": keys.due_partition(shard, scope)},
                ":now": {"S": keys.instant(now) + "$"},
                ":until": {"S": keys.instant(until) + "$"},
                ":bill": {"S": "BILL#"},
            },
            "Select": "COUNT",
        }
        return self._count(request)

    def _count(self, request: dict[str, Any]) -> int:
        """How many a query finds, over all its pages."""
        count = 0
        while True:
            answer = self.table.client.query(**request)
            count += int(answer["Count"])
            if "LastEvaluatedKey" not in answer:
                return count
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def any_due(self, shard: int, now: datetime, scope: str) -> bool:
        """Whether a shard has anything due."""
        answer = self.table.client.query(
            TableName=self.table.name,
            IndexName="due",
            KeyConditionExpression="due_pk = :shard AND due_sk < :until",
            ExpressionAttributeValues={
                ":shard": {"S": keys.due_partition(shard, scope)},
                ":until": {"S": keys.instant(now) + "$"},
            },
            Limit=1,
        )
        return bool(answer["Items"])

    def part(self, run_id: str, shard: int) -> RunPart | None:
        """How far one shard is."""
        return self.table.get(RunPart, keys.run_part(run_id, shard))

    def parts(self, run_id: str) -> tuple[RunPart, ...]:
        """How far all of them are."""
        return self.table.list(RunPart, keys.run(run_id).pk, "PART#").items

    def advance(self, part: RunPart, results: Sequence[RunResult], totals: Sequence[PublisherTotals]) -> bool:
        """One step of one shard with what it found, all or nothing.

        False when another worker took this step, or another shard found one of these bills: it moved meanwhile.
        """
        kept = part.updated_at + KEPT
        ops = [put(part, kept)]
        ops += [claim(keys.run_seen(part.run, each.id), expires_at=kept) for each in results]
        ops += [Op("Put", {"Item": put(each, kept).body["Item"]}) for each in results]
        ops += [_publisher_sums(part, each, kept) for each in totals]
        try:
            self.table.write(*ops)
        except Lost:
            return False
        return True

    def seen(self, run_id: str, bills: Collection[str]) -> frozenset[str]:
        """Which of these bills are in the run's sums already."""
        found = self.table.raw_many([keys.run_seen(run_id, each) for each in dict.fromkeys(bills)])
        return frozenset(item["sk"]["S"] for item in found)

    def waiting_page(self, shard: int, after: str, pub: str, limit: int) -> tuple[Sequence[tuple[str, str]], bool]:
        """Parked and held bills of a shard (of one publisher, or of all) behind a position; whether more follows."""
        return parked_page(self.table, shard, after, limit, pub)

    def publishers(self, run_id: str, after: str | None, limit: int) -> Page[PublisherTotals]:
        """A dry run's sums by publisher, in the order of their names."""
        found: dict[str, list[dict[str, Any]]] = {}
        position = f"{after}#~" if after else None
        while len(found) <= limit:
            page = self.table.query(keys.run_publisher(run_id).pk, after=position, limit=1000)
            for item in page.items:
                found.setdefault(item["sk"]["S"].rpartition("#")[0], []).append(item)
            position = page.after
            if position is None:
                break
        whole = list(found)[:limit]
        more = len(found) > limit or position is not None
        return Page(tuple(_sums(pub, found[pub]) for pub in whole), whole[-1] if more and whole else None)

    def publisher_totals(self, run_id: str, pub: str) -> PublisherTotals:
        """A dry run's sums for one publisher."""
        page = self.table.query(keys.run_publisher(run_id).pk, f"{pub}#")
        return _sums(pub, page.items)

    def results(self, run_id: str, pub: str, after: str | None, limit: int) -> Page[RunResult]:
        """What a publisher's subscriptions would pay, outliers first."""
        return self.table.list(RunResult, keys.run_result(run_id, pub).pk, after=after, limit=limit)

    # --- real ---

    def tally(
        self, run_id: str, number: int, counts: Mapping[str, int], amounts: Mapping[str, int], now: datetime
    ) -> None:
        """Add to what was done in a real run: one of many items, so that workers do not wait for each other.

        What cannot be written is left out: the work it tells of is done, and must not be repeated for it.
        """
        key = keys.run_tally(run_id, number % TALLIES)
        with suppress(ClientError, BotoCoreError):
            self.table.client.update_item(
                TableName=self.table.name, **_adding(key, counts, amounts, {}, now + KEPT_RUNS, now)
            )

    def tallied(self, run_id: str) -> tuple[PublisherTotals, datetime | None]:
        """What was done so far, and when the last of it was."""
        items = self.table.query(keys.run_tally(run_id).pk, keys.run_tally(run_id).sk).items
        times = [datetime.fromisoformat(item["updated_at"]["S"]) for item in items]
        return _sums("", items), max(times, default=None)

    # --- hold and clock ---

    def hold(self) -> Hold | None:
        """The operator's hold on everybody's billing."""
        item = self.table.raw(keys.hold())
        if item is None:
            return None
        return Hold(by=item["by"]["S"], reason=item["reason"]["S"], since=datetime.fromisoformat(item["since"]["S"]))

    def set_hold(self, hold: Hold | None, entry: AuditEntry) -> None:
        """Hold everybody's billing, or (None) let it go on."""
        key = keys.hold()
        place = {"pk": {"S": key.pk}, "sk": {"S": key.sk}}
        if hold is None:
            self.table.write(Op("Delete", {"Key": place}), put(entry))
            return
        item = place | {"by": {"S": hold.by}, "reason": {"S": hold.reason}, "since": {"S": keys.instant(hold.since)}}
        self.table.write(Op("Put", {"Item": item}), put(entry))

    def save_publisher(self, publisher: Publisher, entry: AuditEntry) -> Publisher:
        """A publisher as it was read becomes another."""
        try:
            self.table.write(put(publisher), put(entry))
        except Lost:
            raise PreconditionFailed(*CHANGED) from None
        return replace(publisher, rev=publisher.rev + 1)

    def scopes(self) -> tuple[str, ...]:
        """Sandboxes: publishers with a part of the to-do list of their own."""
        return tuple(item["sk"]["S"] for item in self.table.query(keys.scope().pk).items)

    def forget_leases(self, shards: Iterable[int], scope: str) -> None:
        """Let the next fan-out begin at the head of every shard: what was put back is enqueued again at once."""
        for shard in shards:
            key = keys.shard_lease(scope, shard)
            self.table.client.delete_item(TableName=self.table.name, Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}})

    # --- bills ---

    def settle_bill(self, bill: Bill, entry: AuditEntry) -> Bill:
        """A bill that was parked or held, moved on by a person: off the list of what waits."""
        pointer = keys.parked(bill.publisher, bill.id)
        ops = [
            put(bill),
            Op("Delete", {"Key": {"pk": {"S": pointer.pk}, "sk": {"S": pointer.sk}}}),
            put(entry),
        ]
        try:
            self.table.write(*ops)
        except Lost:
            raise PreconditionFailed(*CHANGED) from None
        return replace(bill, rev=bill.rev + 1)


class Gate:
    """Whether billing is held, for workers: the operator's hold, read at most every half minute."""

    LIFE: Final = timedelta(seconds=30)

    def __init__(self, runs: RunTable) -> None:
        self._runs = runs
        self._until: datetime | None = None
        self._held = False

    def __call__(self, publisher: Publisher, now: datetime) -> bool:
        """Whether this publisher's bills wait."""
        if publisher.held_at is not None:
            return True
        if self._until is None or not now < self._until:
            self._held, self._until = self._runs.hold() is not None, now + self.LIFE
        return self._held


def parked_page(
    table: Table, shard: int, after: str, limit: int, pub: str = ""
) -> tuple[Sequence[tuple[str, str]], bool]:
    """Parked and held bills of one part behind a position: each one's own position and name; whether more follows."""
    first, last = f"{after}!" if after else f"{pub}#" if pub else "!", f"{pub}$" if pub else "~"
    if first > last:
        return (), False
    answer = table.client.query(
        TableName=table.name,
        IndexName="due",
        KeyConditionExpression="due_pk = :part AND due_sk BETWEEN :first AND :last",
        ExpressionAttributeValues={
            ":part": {"S": keys.parked_partition(shard)},
            ":first": {"S": first},
            ":last": {"S": last},
        },
        Limit=limit,
    )
    found = [item["due_sk"]["S"] for item in answer["Items"]]
    return [(each, each.rpartition("#")[2]) for each in found], "LastEvaluatedKey" in answer


def _publisher_sums(part: RunPart, totals: PublisherTotals, kept: datetime) -> Op:
    key = keys.run_publisher(part.run, totals.publisher, part.shard)
    return Op("Update", _adding(key, totals.counts, totals.amounts, totals.last, kept, part.updated_at))


def _adding(
    key: keys.Key,
    counts: Mapping[str, int],
    amounts: Mapping[str, int],
    last: Mapping[str, int],
    kept: datetime,
    now: datetime,
) -> dict[str, Any]:
    sums = {
        f"{kind}_{name}": value
        for kind, group in (("n", counts), ("a", amounts), ("l", last))
        for name, value in group.items()
    }
    names, values, adds = {}, {}, []
    for number, (name, value) in enumerate(sorted(sums.items())):
        names[f"#{number}"] = name
        values[f":{number}"] = {"N": str(value)}
        adds.append(f"#{number} :{number}")
    return {
        "Key": {"pk": {"S": key.pk}, "sk": {"S": key.sk}},
        "UpdateExpression": f"SET expires_at = :kept, updated_at = :now ADD {', '.join(adds)}",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {
            ":kept": {"N": str(int(kept.timestamp()))},
            ":now": {"S": keys.instant(now)},
            **values,
        },
    }


def _sums(pub: str, items: Iterable[Mapping[str, Any]]) -> PublisherTotals:
    found: dict[str, dict[str, int]] = {"n": {}, "a": {}, "l": {}}
    for item in items:
        for name, value in item.items():
            kind, _, rest = name.partition("_")
            if kind in found and rest:
                found[kind][rest] = found[kind].get(rest, 0) + int(value["N"])
    return PublisherTotals(publisher=pub, counts=found["n"], amounts=found["a"], last=found["l"])
