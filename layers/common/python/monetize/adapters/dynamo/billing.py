"""What is due, and the bills and invoices that come of it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.subscriptions import SubscriptionTable
from monetize.adapters.dynamo.table import Lost, Table, claim, put, read, release
from monetize.domain.errors import PreconditionFailed
from monetize.domain.invoices import Bill, BillLines, Due, Invoice
from monetize.domain.meters import Meter
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Subscriber, Subscription

MAX_PUBLISHERS = 100  # whose meters a worker remembers
MAX_VERSIONS = 1_000
KINDS = {"SUBSCRIPTION": "subscription", "INVOICE": "invoice"}


@dataclass(frozen=True, slots=True)
class BillingTable:
    """The Core table, as the billing run asks it."""

    table: Table
    subscriptions: SubscriptionTable
    versions: dict[tuple[str, int], PlanVersion] = field(default_factory=dict, compare=False, repr=False)
    metered: dict[str, tuple[Meter, ...]] = field(default_factory=dict, compare=False, repr=False)

    def leased_up_to(self, shard: int, now: datetime, scope: str) -> datetime | None:
        """Up to which instant the shard was enqueued under a lease that still holds; None: begin at its head."""
        item = self.table.raw(keys.shard_lease(scope, shard))
        if item is None or _at(item["held_until"]["S"]) <= now:
            return None
        return _at(item["up_to"]["S"])

    def lease(self, shard: int, up_to: datetime, until: datetime | None, scope: str) -> None:
        """Everything due up to that instant is enqueued; `until` begins a new lease, None goes on with the one held."""
        key = keys.shard_lease(scope, shard)
        values = {":up_to": {"S": keys.instant(up_to)}}
        changes = "SET up_to = :up_to"
        if until is not None:
            changes += ", held_until = :until"
            values[":until"] = {"S": keys.instant(until)}
        self.table.client.update_item(
            TableName=self.table.name,
            Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}},
            UpdateExpression=changes,
            ExpressionAttributeValues=values,
        )

    def due_in_shard(self, shard: int, since: datetime | None, now: datetime, scope: str) -> Iterator[Sequence[Due]]:
        """What is due, oldest first, page by page."""
        condition = "due_pk = :shard AND due_sk < :until"
        values = {
            ":shard": {"S": keys.due_partition(shard, scope)},
            ":until": {"S": keys.instant(now) + "$"},  # after "now#…": what is due this very second is due
        }
        if since is not None:
            condition = "due_pk = :shard AND due_sk BETWEEN :since AND :until"
            values[":since"] = {"S": keys.instant(since) + "$"}
        request: dict[str, Any] = {
            "TableName": self.table.name,
            "IndexName": "due",
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
        }
        if since is not None and since >= now:
            return
        while True:
            answer = self.table.client.query(**request)
            yield [due_of(item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def subscription(self, sub: str) -> Subscription | None:
        """One subscription."""
        return self.table.get(Subscription, keys.subscription(sub))

    def publisher(self, pub: str) -> Publisher | None:
        """One publisher."""
        return self.table.get(Publisher, keys.publisher(pub))

    def subscriber(self, pub: str, subr: str) -> Subscriber | None:
        """One subscriber of a publisher."""
        return self.table.get(Subscriber, keys.subscriber(pub, subr))

    def plan_version(self, plan: str, number: int) -> PlanVersion | None:
        """One published version. It never changes, so it is read once while this worker lives."""
        found = self.versions.get((plan, number))
        if found is None:
            found = self.table.get(PlanVersion, keys.plan_version(plan, number))
            if found is not None:
                if len(self.versions) >= MAX_VERSIONS:
                    self.versions.clear()
                self.versions[plan, number] = found
        return found

    def meters(self, pub: str, ids: Collection[str] = (), numbers: Collection[int] = ()) -> tuple[Meter, ...]:
        """A publisher's meters, with those of these ids and numbers among them.

        What a plan charges for is frozen, and a number is never given again: for who names what it needs, the meters
        that were read before are as good, unless one of them is missing there.
        """
        known = self.metered.get(pub)
        if known is not None and (ids or numbers):
            here = {meter.id for meter in known}, {meter.short for meter in known}
            if here[0].issuperset(ids) and here[1].issuperset(numbers):
                return known
        key = keys.meter(pub)
        found = self.table.list(Meter, key.pk, key.sk).items
        if len(self.metered) >= MAX_PUBLISHERS:
            self.metered.clear()
        self.metered[pub] = found
        return found

    def rated_before(self, sub: str, edge: datetime, since: datetime) -> tuple[BillLines, ...]:
        """The frozen lines of the bills from `since` up to (without) an edge, oldest first."""
        answer = self.table.query_between(
            f"SUB#{sub}", keys.bill_lines(sub, since).sk, keys.bill_lines(sub, edge - timedelta(seconds=1)).sk
        )
        return tuple(read(BillLines, item) for item in answer)

    def claim(self, was: Subscription, moved: Subscription, bill: Bill) -> bool:
        """The bill, if there is none for this edge, and the subscription's next date: both or neither.

        False when another worker claimed it, or the subscription changed meanwhile: read again.
        """
        try:
            self.subscriptions.save(was, moved, also=(put(bill),))
        except (Lost, PreconditionFailed):
            return False
        return True

    def move(self, was: Subscription, moved: Subscription) -> bool:
        """The subscription's next date alone, where its edge owes nothing. False when it changed meanwhile."""
        try:
            self.subscriptions.save(was, moved)
        except (Lost, PreconditionFailed):
            return False
        return True

    def bill(self, sub: str, edge: datetime) -> Bill | None:
        """One bill."""
        return self.table.get(Bill, keys.bill(sub, edge))

    def bill_before(self, sub: str, edge: datetime) -> Bill | None:
        """The bill of the edge before, if there was one."""
        page = self.table.query(f"SUB#{sub}", "BILL#", after=keys.bill(sub, edge).sk, newest_first=True, limit=1)
        return read(Bill, page.items[0]) if page.items else None

    def bill_after(self, sub: str, edge: datetime) -> Bill | None:
        """The bill of the edge after, if there is one."""
        page = self.table.query(f"SUB#{sub}", "BILL#", after=keys.bill(sub, edge).sk, limit=1)
        return read(Bill, page.items[0]) if page.items else None

    def lines(self, sub: str, edge: datetime) -> BillLines | None:
        """A bill's frozen lines; None until it is rated."""
        return self.table.get(BillLines, keys.bill_lines(sub, edge))

    def freeze(self, lines: BillLines) -> BillLines:
        """Store the lines if there are none: of two workers who rated, the first one's are the bill's."""
        try:
            self.table.write(put(lines))
        except Lost:
            stored = self.lines(lines.subscription, lines.edge)
            if stored is None:
                raise
            return stored
        return replace(lines, rev=1)

    def save(self, bill: Bill) -> Bill:
        """Replace a bill that is still as it was read. PreconditionFailed: another worker is on it."""
        try:
            self.table.write(put(bill))
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "The bill changed since it was read.") from None
        return replace(bill, rev=bill.rev + 1)

    def record_invoice(self, invoice: Invoice) -> None:
        """The invoice and its place in its publisher's list, if absent: its id derives from its bill."""
        issued = invoice.issued_at
        try:
            self.table.write(put(invoice))
        except Lost:
            stored = self.invoice(invoice.id)
            issued = stored.issued_at if stored is not None else issued  # listed once, at the instant that was stored
        try:
            self.table.write(claim(keys.publisher_invoice(invoice.publisher, issued, invoice.id)))
        except Lost:
            return

    def invoice(self, inv: str) -> Invoice | None:
        """One invoice."""
        return self.table.get(Invoice, keys.invoice(inv))

    def park_mark(self, bill: Bill, parked: bool) -> None:
        """List or unlist a parked bill under its publisher: a pointer beside the bill."""
        key = keys.parked(bill.publisher, bill.id)
        try:
            self.table.write(claim(key) if parked else release(key))
        except Lost:
            return

    def unpark(self, bill: Bill) -> Bill:
        """A parked bill goes on, and is off the list of what waits. PreconditionFailed: another worker is on it."""
        try:
            self.table.write(put(bill), release(keys.parked(bill.publisher, bill.id)))
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "The bill changed since it was read.") from None
        return replace(bill, rev=bill.rev + 1)

    def invoices_of(self, pub: str, month: str) -> Iterator[Invoice]:
        """A publisher's invoices of one month (yyyy-mm), in order of issue."""
        after: str | None = None
        while True:
            page = self.table.query(keys.publisher_invoice(pub, month).pk, after=after, limit=100)
            wanted = [keys.invoice(item["sk"]["S"].partition("#")[2]) for item in page.items]
            yield from self.table.get_many(Invoice, wanted)
            if page.after is None:
                return
            after = page.after


def due_of(item: dict[str, Any]) -> Due:
    """What an entry of the to-do list stands for."""
    at, identity, group = (*item["due_sk"]["S"].split("#", 2), "")[:3]
    sk = item["sk"]["S"]
    return Due(kind=KINDS.get(sk) or sk.partition("#")[0].lower(), id=identity, at=_at(at), group=group or identity)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)
