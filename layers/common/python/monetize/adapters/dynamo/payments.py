"""Invoices after they were sent, what they do to subscriptions and bills, and what people asked to be done to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.inbox import InboxTable
from monetize.adapters.dynamo.table import Lost, Op, Table, put, read
from monetize.domain.audit import AuditEntry
from monetize.domain.dunning import Action
from monetize.domain.errors import PreconditionFailed
from monetize.domain.invoices import Bill, BillLines, Invoice
from monetize.domain.plans import PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Subscriber, Subscription

keys.register(Action, lambda it: keys.action(it.invoice, it.id))


@dataclass(frozen=True, slots=True)
class PaymentTable:
    """The Core table, as payments ask it. An event's effect and its `done` stand in one transaction."""

    table: Table
    inbox: InboxTable

    # --- what is read ---

    def invoice(self, inv: str) -> Invoice | None:
        """One invoice."""
        return self.table.get(Invoice, keys.invoice(inv))

    def invoice_known_as(self, ids: Sequence[str]) -> Invoice | None:
        """The invoice that one of the provider's ids (an invoice's, a payment's) belongs to."""
        for each in ids:
            for key in self.table.looked_up(each):
                if key.sk == "INVOICE":
                    return self.table.get(Invoice, key)
                if key.sk == "PAYMENT":
                    item = self.table.raw(key)
                    return self.invoice(item["owner"]["S"]) if item is not None else None
        return None

    def subscriber_known_as(self, ids: Sequence[str]) -> Subscriber | None:
        """The subscriber who is this customer at the provider."""
        for each in ids:
            for key in self.table.looked_up(each):
                if key.sk == "SUBSCRIBER":
                    return self.table.get(Subscriber, key)
        return None

    def knows(self, ids: Sequence[str]) -> bool:
        """Whether any of the provider's ids is something of ours. By the index: seconds behind."""
        return any(self.table.looked_up(each) for each in ids)

    def holds(self, account: str) -> bool:
        """Whether a publisher holds that account at the provider."""
        return self.table.raw(keys.stripe_account(account)) is not None

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
        """One published version."""
        return self.table.get(PlanVersion, keys.plan_version(plan, number))

    def bill(self, sub: str, edge: datetime) -> Bill | None:
        """The bill that an invoice carries."""
        return self.table.get(Bill, keys.bill(sub, edge))

    def lines(self, sub: str, edge: datetime) -> BillLines | None:
        """What that bill charges, and what it leaves over."""
        return self.table.get(BillLines, keys.bill_lines(sub, edge))

    def owed_by(self, publisher: str, subscriber: str) -> Iterator[Invoice]:
        """A subscriber's invoices that failed and are owed."""
        prefix = keys.subscriber_subscription(publisher, subscriber)
        names = [item["sk"]["S"].removeprefix(prefix.sk) for item in self.table.query(prefix.pk, prefix.sk).items]
        for subscription in self.table.get_many(Subscription, [keys.subscription(each) for each in names]):
            yield from self.table.get_many(Invoice, [keys.invoice(each) for each in subscription.unpaid])

    def invoices_up_to(self, bill: Bill) -> list[Invoice]:
        """The invoices of a subscription's bills up to and with this one, the newest first, at most twenty bills."""
        sub, own = bill.subscription, keys.bill(bill.subscription, bill.edge)
        page = self.table.query(own.pk, keys.bill(sub).sk, after=f"{own.sk}~", newest_first=True, limit=20)
        sent = [each.invoice_name for item in page.items if (each := read(Bill, item)).invoice]
        return list(self.table.get_many(Invoice, [keys.invoice(each) for each in sent]))

    def action(self, invoice: str, action: str) -> Action | None:
        """What a request with that natural key did to the invoice."""
        return self.table.get(Action, keys.action(invoice, action))

    def acting(self, invoice: str, since: datetime) -> list[Action]:
        """What people asked for here and is on its way: what is seen at the provider is that."""
        prefix = keys.action(invoice)
        found = self.table.list(Action, prefix.pk, prefix.sk).items
        return [each for each in found if each.done_at is None and each.at >= since]

    # --- what is written ---

    def save(
        self,
        invoice: Invoice | None = None,
        *,
        subscription: Subscription | None = None,
        bill: Bill | None = None,
        subscriber: Subscriber | None = None,
        invoices: Sequence[Invoice] = (),
        action: Action | None = None,
        entries: Sequence[AuditEntry] = (),
        event: tuple[str, str] | None = None,
    ) -> None:
        """All of it or nothing, each as it was read. PreconditionFailed when anything changed meanwhile.

        `event` is a Stripe event and what became of it: done once, and only together with its effect.
        """
        ops: list[Op] = [put(each) for each in (invoice, subscription, bill, subscriber, action) if each is not None]
        ops += [put(each) for each in (*invoices, *entries)]
        if invoice is not None and invoice.payment:
            ops.append(_points(invoice))
        if event is not None:
            ops.append(self.inbox.done(*event))
        try:
            self.table.write(*ops)
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "It changed since it was read.") from None

    def done(self, event: str, outcome: str) -> Op:
        """The end of an event, for somebody else's transaction."""
        return self.inbox.done(event, outcome)

    def record(self, invoice: Invoice) -> None:
        """A new invoice with its place in its publisher's list. PreconditionFailed: somebody else recorded it."""
        try:
            self.table.write(put(invoice), _listed(invoice))
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "Another worker recorded it.") from None

    def listed(self, invoice: Invoice) -> None:
        """Its place in its publisher's list, which the worker that recorded it may have left out."""
        self.table.write(_listed(invoice))


def _listed(invoice: Invoice) -> Op:
    """The same whoever writes it, so without a condition."""
    key = keys.publisher_invoice(invoice.publisher, invoice.issued_at, invoice.id)
    return Op("Put", {"Item": {"pk": {"S": key.pk}, "sk": {"S": key.sk}}})


def _points(invoice: Invoice) -> Op:
    """From the payment to the invoice: the same whoever writes it, so without a condition."""
    key = keys.payment(invoice.payment)
    item: dict[str, Any] = {
        "pk": {"S": key.pk},
        "sk": {"S": key.sk},
        "lookup": {"S": invoice.payment},
        "owner": {"S": invoice.id},
    }
    return Op("Put", {"Item": item})
