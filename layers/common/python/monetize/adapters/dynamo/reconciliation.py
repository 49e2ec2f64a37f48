"""What reconciliation reads of ours, in pages, and the little it writes."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Lost, Op, Table, claim, delete, put, read, release
from monetize.domain.drift import Report
from monetize.domain.errors import PreconditionFailed
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.plans import Plan, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Subscriber, Subscription


def _place(report: Report) -> keys.Key:
    if report.after is None:
        return keys.drift(report.publisher)
    return keys.drift_on_demand(report.publisher) if report.on_demand else keys.reconciliation()


keys.register(Report, _place)


@dataclass(frozen=True, slots=True)
class ReconciliationTable:
    """The Core table, as reconciliation asks it."""

    table: Table

    def connected(self, after: str = "") -> Iterator[str]:
        """Publishers that have a Stripe account, in the order of their names, from after one of them on."""
        found = [key.pk.removeprefix("PUB#") for key in self.table.looked_up(keys.CONNECTED)]
        yield from sorted(each for each in found if each > after)

    def publisher(self, pub: str) -> Publisher | None:
        """One publisher."""
        return self.table.get(Publisher, keys.publisher(pub))

    def subscribers(self, pub: str, after: str | None) -> Iterator[tuple[str, Subscriber]]:
        """A publisher's subscribers, each once, with the position to go on after.

        They are found through their subscriptions: each at the first of its own.
        """
        prefix = keys.publisher_subscription(pub)
        while True:
            page = self.table.query(prefix.pk, prefix.sk, after=after, limit=100)
            wanted = [keys.subscription(item["sk"]["S"].removeprefix(prefix.sk)) for item in page.items]
            for subscription in self.table.get_many(Subscription, wanted):
                first = keys.subscriber_subscription(pub, subscription.subscriber)
                head = self.table.query(first.pk, first.sk, limit=1).items
                if head and head[0]["sk"]["S"] != f"{first.sk}{subscription.id}":
                    continue
                subscriber = self.table.get(Subscriber, keys.subscriber(pub, subscription.subscriber))
                if subscriber is not None:
                    yield f"{prefix.sk}{subscription.id}", subscriber
            if page.after is None:
                return
            after = page.after

    def subscribers_named(self, pub: str, names: Sequence[str]) -> dict[str, Subscriber]:
        """A publisher's subscribers by name; those that are not there are left out."""
        wanted = [keys.subscriber(pub, each) for each in dict.fromkeys(names) if each]
        return {each.id: each for each in self.table.get_many(Subscriber, wanted)}

    def subscriptions_of(self, subscriber: Subscriber) -> list[Subscription]:
        """All of a subscriber's subscriptions."""
        prefix = keys.subscriber_subscription(subscriber.publisher, subscriber.id)
        names = [item["sk"]["S"].removeprefix(prefix.sk) for item in self.table.query(prefix.pk, prefix.sk).items]
        return list(self.table.get_many(Subscription, [keys.subscription(each) for each in names]))

    def bills_since(self, subscription: str, since: datetime) -> list[Bill]:
        """A subscription's bills from an instant on."""
        page = self.table.query(keys.bill(subscription).pk, "BILL#", after=keys.bill(subscription, since).sk)
        return [read(Bill, item) for item in page.items]

    def bill(self, sub: str, edge: datetime) -> Bill | None:
        """One bill."""
        return self.table.get(Bill, keys.bill(sub, edge))

    def invoices(self, ids: Sequence[str]) -> dict[str, Invoice]:
        """Invoices by id."""
        wanted = list(dict.fromkeys(ids))
        return {each.id: each for each in self.table.get_many(Invoice, [keys.invoice(inv) for inv in wanted])}

    def products(self, pub: str, after: str | None) -> Iterator[tuple[str, PlanVersion]]:
        """The newest published version of each plan that has a product at Stripe, with the position to go on after."""
        prefix = keys.plan(pub)
        plans = [plan for plan in self.table.list(Plan, prefix.pk, prefix.sk).items if plan.latest]
        versions = self.table.get_many(PlanVersion, [keys.plan_version(plan.id, plan.latest) for plan in plans])
        placed = ((f"{prefix.sk}{version.plan}", version) for version in versions if version.stripe_product)
        yield from (each for each in placed if after is None or each[0] > after)

    def lines(self, sub: str, edge: datetime) -> BillLines | None:
        """What one bill charged."""
        return self.table.get(BillLines, keys.bill_lines(sub, edge))

    def bill_before(self, sub: str, edge: datetime) -> Bill | None:
        """The bill of the edge before, if there was one."""
        return self._before(Bill, sub, keys.bill(sub).sk, keys.bill(sub, edge).sk)

    def lines_before(self, sub: str, edge: datetime) -> BillLines | None:
        """What the newest rated bill before an edge charged."""
        return self._before(BillLines, sub, keys.bill_lines(sub).sk, keys.bill_lines(sub, edge).sk)

    def _before[T](self, kind: type[T], sub: str, prefix: str, sk: str) -> T | None:
        page = self.table.query(keys.subscription(sub).pk, prefix, after=sk, newest_first=True, limit=1)
        return read(kind, page.items[0]) if page.items else None

    def adopt(self, bills: Sequence[Bill], lines: BillLines | None, before: Subscription, after: Subscription) -> None:
        """Bills that an invoice proves, what was charged, their subscription past them. PreconditionFailed.

        A parked one is listed as such before, and one that is settled is unlisted after: a crash between leaves a
        pointer, not a lost bill.
        """
        waiting = [keys.parked(bill.publisher, bill.id) for bill in bills if bill.status == "parked"]
        for place in waiting:
            self._once(claim(place))
        ops = [put(bill) for bill in bills]
        ops += [] if lines is None else [put(lines)]
        ops += [] if after == before else [put(replace(after, rev=before.rev))]
        try:
            self.table.write(*ops)
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "It changed since it was read.") from None
        for bill in bills:
            if bill.status != "parked" and bill.rev:
                self._once(release(keys.parked(bill.publisher, bill.id)))

    def _once(self, op: Op) -> None:
        with suppress(Lost):
            self.table.write(op)

    def report(self, pub: str) -> Report | None:
        """What the last pass that found anything found."""
        return self.table.get(Report, keys.drift(pub))

    def interrupted(self) -> Report | None:
        """The pass that ran out of time, as far as it came."""
        return self.table.get(Report, keys.reconciliation())

    def begun(self, pub: str) -> Report | None:
        """The pass that the publisher itself began and that is not at its end."""
        return self.table.get(Report, keys.drift_on_demand(pub))

    def save(self, report: Report) -> None:
        """A finished report replaces the last one; an unfinished one is where the next pass goes on.

        PreconditionFailed when another pass wrote meanwhile: of two who take up an interrupted one, one does.
        """
        self._write(put(report))

    def forget(self, report: Report) -> None:
        """The interrupted pass came to its end, or nothing differs any more."""
        self._write(delete(report))

    def _write(self, op: Op) -> None:
        try:
            self.table.write(op)
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "Another pass was here meanwhile.") from None
