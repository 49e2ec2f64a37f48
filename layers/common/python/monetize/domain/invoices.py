"""What a subscription owes at one billing date (the bill), and what Stripe collects (the invoice)."""

from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256

from monetize.domain.collecting import InvoiceLine
from monetize.domain.currencies import CURRENCIES
from monetize.domain.money import chargeable_part, prorate
from monetize.domain.rating import Ahead, Carried, Line, roll_up
from monetize.domain.subscriptions import Discount, Step, bill_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One entry of the to-do list: what (subscription, bill, invoice …) and since when.

    `group` is its publisher: messages of one group wait for each other, not for the others.
    """

    kind: str
    id: str
    at: datetime
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """At most one for (subscription, edge): its key says so. Money in minor units of `currency`.

    `invoice` is Stripe's id of the one draft that may ever be finalized or paid, stored under a condition.
    """

    subscription: str
    publisher: str
    subscriber: str
    account: str
    currency: str
    edge: datetime
    last: bool = False  # the final bill after a cancellation
    status: str = "claimed"  # states.BILL
    attempt: int = 0  # drafts begun; part of the derived idempotency keys
    subtotal: int = 0
    carry_out: int = 0  # credit left for the next bill, zero or negative
    returned: int = 0  # credit that no later bill can take, zero or negative: it becomes credit notes
    application_fee: int = 0
    lines: int = 0
    invoice: str | None = None
    reason: str = ""  # why parked or held; `released`, `adopted`
    approved: bool = False  # released by a person: safety bounds do not hold it again
    recount: bool = False  # an operator let its counters be made anew from the ledger
    late: tuple[str, ...] = ()  # sort keys of the late entries and corrections it took
    discounts: tuple[Discount, ...] = ()  # those in force when it was claimed
    run: str = ""
    due_scope: str = ""  # the part of the to-do list of a publisher with a clock of its own
    next_at: datetime | None = None  # in the to-do list until sent, empty, waived; parked and held are not in it
    created_at: datetime
    belated: bool = False  # claimed so late that its invoice may have been made before, and the tables restored
    sent_at: datetime | None = None
    rev: int = 0

    @property
    def id(self) -> str:
        """The bill's public name."""
        return bill_name(self.subscription, self.edge)

    @property
    def invoice_name(self) -> str:
        """The public name of its invoice follows from its own, so a repeat names the same one."""
        return "inv_" + sha256(self.id.encode()).hexdigest()[:26]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What Stripe calls the plan version that a line charges."""

    plan: str
    version: int
    stripe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLines:
    """What a bill charges, frozen when rated; apart from the bill, so that a change of status does not rewrite it.

    `credits` were netted into `lines`, are in `carried`, which the next bill takes, or in `returned`, which no bill
    ever does: it is given back. `ahead`: what is charged in advance beyond this edge, this bill's and still running
    older ones. `late` names the late entries and corrections it took. `usage` is what was rated, corrected periods
    anew: (meter, day, quantity).
    """

    subscription: str
    edge: datetime
    lines: tuple[Line, ...]
    credits: tuple[Line, ...] = ()
    carried: tuple[Carried, ...] = ()
    returned: tuple[Carried, ...] = ()
    ahead: tuple[Ahead, ...] = ()
    products: tuple[Product, ...] = ()
    subtotal: int = 0
    application_fee: int = 0
    late: tuple[str, ...] = ()
    usage: tuple[tuple[str, date, int], ...] = ()
    since: datetime | None = None  # the billing date before, where its arrears begin; None: the first paid instant
    restored: tuple[datetime, ...] = ()  # edges of bills that were let off, whose credits it took again
    rev: int = 0

    def invoice_lines(self, breakdown: str = "") -> tuple[InvoiceLine, ...]:
        """The lines as they are sent: what is charged, and at most as many as an invoice holds.

        `breakdown`: where all of them can be read, for who sees only some.
        """
        product = {(each.plan, each.version): each.stripe for each in self.products}
        return tuple(
            InvoiceLine(
                amount=line.amount,
                description=line.description,
                product=product.get((line.plan, line.version), ""),
                period_start=line.period.start,
                period_end=line.period.end,
                tax_behavior=line.tax_behavior,
            )
            for line in roll_up([line for line in self.lines if line.amount], breakdown=breakdown)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """Our record of one Stripe invoice of ours. `total` is Stripe's, tax included; `amount` is ours."""

    id: str
    stripe_id: str
    account: str
    publisher: str
    subscriber: str
    subscription: str
    edge: datetime
    currency: str
    amount: int
    application_fee: int = 0
    total: int = 0
    tax: int = 0
    amount_paid: int = 0
    amount_remaining: int = 0
    carried: int = 0  # what the customer's debt at the provider grew by instead of being asked for; < 0: was asked for
    overpaid: int = 0  # paid beyond what was due: the provider's balance of the customer has it
    credited: int = 0
    credited_after_payment: int = 0  # of it: money or balance back, where the rest lowered what was due
    credited_to_card: int = 0  # of that: refunds, which `refunded` counts too
    refunded: int = 0
    status: str = "open"  # states.INVOICE
    number: str = ""
    attempts: int = 0  # that we know of, whoever made them
    tries: int = 0  # charges that we asked for; the number of each is in its key
    asked_at: datetime | None = None  # since when the answer of the last of them is not known
    next_attempt_at: datetime | None = None
    due_scope: str = ""
    failure: str = ""  # the provider's code of the last failed attempt
    failed_at: datetime | None = None  # since when it is owed and not paid; the schedule counts from here
    failed_attempt: str = ""  # the provider's name of the last failed attempt: each is counted once
    final: bool = False  # a hard decline: no further attempt until the payment method changes
    card: str = ""  # the payment method that last failed; while it is the one on file, the schedule is its own
    action_required: bool = False  # the customer has to authenticate on the hosted page
    out_of_band: bool = False  # paid outside Stripe
    disputed: str = ""  # open, won, lost, closed (an inquiry that came to nothing)
    charged_back: int = 0  # what the bank took of the payment, unless and until the dispute is won
    payment: str = ""  # the payment behind it, once there is one: refunds and disputes name it
    pending: tuple[Step, ...] = ()  # what the schedule does next beside attempts, in order
    history: tuple[Step, ...] = ()  # the newest MOST_HISTORY
    issued_at: datetime
    payable_by: datetime | None = None  # only where the customer pays by itself
    paid_at: datetime | None = None
    rev: int = 0

    @property
    def due_at(self) -> datetime | None:
        """When the next thing is to be done about it: an attempt or a step. Its place in the to-do list."""
        dates = [step.at for step in self.pending[:1]]
        return min(dates if self.next_attempt_at is None else [*dates, self.next_attempt_at], default=None)

    @property
    def refundable(self) -> int:
        """What was paid by the payment behind it and was not given back, on whatever way. Minor units."""
        otherwise = self.credited_after_payment - self.credited_to_card
        return max(0, self.amount_paid - self.refunded - otherwise - self.charged_back)

    @property
    def creditable(self) -> int:
        """What credit notes may still say, once it is paid: refunds without a note count as if they had one."""
        return max(0, self.total - self.credited - max(0, self.refunded - self.credited_to_card))

    @property
    def returnable(self) -> int:
        """What of that is still to be given back: what the bank took was, and a note about it moves no money."""
        return max(0, self.creditable - self.charged_back)

    @property
    def credited_away(self) -> bool:
        """Whether credit notes left nothing to pay: settled, and nobody paid."""
        return self.status == "paid" and not self.amount_paid and self.credited > self.credited_after_payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """What an invoice charges under one tax treatment: `amount`, as rated, and how much tax comes on top of what.

    `tax` on top of `base`, the provider's own sums: what is given back takes its share of the tax along.
    """

    amount: int
    base: int = 1
    tax: int = 0
    multiple_of: int = 1

    def gross(self, net: int) -> int:
        """With its tax, minor units."""
        return net + prorate(net, self.tax, self.base, self.multiple_of)

    def net(self, gross: int) -> int:
        """Without it: of `gross(net)` that net itself."""
        return prorate(gross, self.base, self.base + self.tax, self.multiple_of)

    def credited(self, wanted: int, invoice: Invoice, most: int) -> tuple[int, int]:
        """What a credit note says to give back `wanted`, tax included and at most `most`; and what of `wanted` it is.

        Counted from what was given back before, so that the notes of one invoice sum to what they would in one.
        """
        before = self.net(invoice.total - invoice.creditable)
        due = self.gross(before + wanted) - self.gross(before)
        given = chargeable_part(max(0, min(due, most)), invoice.currency)
        if given == due:
            return given, wanted
        return given, max(0, min(wanted, self.net(self.gross(before) + given) - before))


def charged_for(credit: Carried, invoice: Invoice, content: BillLines | None) -> Charged:
    """What an invoice charges under a credit's tax treatment; all of it where its lines are not known any more."""
    multiple = CURRENCIES[invoice.currency].multiple_of
    on_top = max(0, invoice.total - invoice.amount)
    if content is None:
        return Charged(amount=invoice.amount, base=max(1, invoice.amount), tax=on_top, multiple_of=multiple)
    treatment = credit.tax_behavior, credit.tax_code
    amount = sum(each.amount for each in content.lines if (each.tax_behavior, each.tax_code) == treatment)
    base = sum(each.amount for each in content.lines if each.tax_behavior == credit.tax_behavior)
    if credit.tax_behavior != "exclusive" or base == 0:
        return Charged(amount=amount, multiple_of=multiple)
    return Charged(amount=amount, base=base, tax=on_top, multiple_of=multiple)
