"""Where what we hold and what Stripe holds of ours differ, what it may cost, and whose it is to repair. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from monetize.domain.dunning import Collected
from monetize.domain.invoices import Bill, BillLines, Invoice

MOST_FINDINGS: Final = 200  # listed; all are counted
DRAFT_LIFE: Final = timedelta(hours=1)  # a younger draft may be a worker's, on its way

MISSING_THERE: Final = "missing_there"
MISSING_HERE: Final = "missing_here"
AMOUNT: Final = "amount"
STATUS: Final = "status"
FOREIGN: Final = "foreign_metadata"
STALE: Final = "stale_link"
DUPLICATE: Final = "duplicate"
ORPHAN: Final = "orphan_draft"
NOT_COMPARED: Final = "not_compared"

MONEY: Final = frozenset({MISSING_THERE, AMOUNT, DUPLICATE, NOT_COMPARED})  # the last: nobody knows

REPAIRED: Final = "repaired"
PROPOSED: Final = "proposed"
REPORTED: Final = "reported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference. `money` is what is at stake, minor units of `currency`; 0 when nothing is."""

    kind: str
    subject: str  # our id, or Stripe's where it is not ours
    detail: str
    outcome: str  # repaired, proposed (what a person should do is in the detail), reported
    currency: str = ""
    money: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one pass over a publisher's account found. `after` is where an interrupted pass goes on."""

    publisher: str
    started_at: datetime
    subscribers: int = 0
    invoices: int = 0
    products: int = 0
    reads: int = 0  # requests to Stripe
    counts: tuple[tuple[str, int], ...] = ()  # by "kind:outcome"
    money: tuple[tuple[str, int], ...] = ()  # at stake, by currency
    findings: tuple[Finding, ...] = ()
    after: str | None = None
    stalls: int = 0  # how often in a row it did not come further than `after`
    on_demand: bool = False  # asked for by its publisher, not the daily one
    rev: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing differed."""
        return not self.counts

    @property
    def money_findings(self) -> int:
        """How many differences are in money and were not repaired."""
        wanted = {f"{kind}:{outcome}" for kind in MONEY for outcome in (PROPOSED, REPORTED)}
        return sum(number for name, number in self.counts if name in wanted)


def added(report: Report, finding: Finding) -> Report:
    """The report with one more finding."""
    counts = dict(report.counts)
    name = f"{finding.kind}:{finding.outcome}"
    counts[name] = counts.get(name, 0) + 1
    money = dict(report.money)
    if finding.money and finding.outcome != REPAIRED:
        money[finding.currency] = money.get(finding.currency, 0) + finding.money
    findings = report.findings if len(report.findings) >= MOST_FINDINGS else (*report.findings, finding)
    return replace(report, counts=tuple(sorted(counts.items())), money=tuple(sorted(money.items())), findings=findings)


def stale(invoice: Invoice, found: Collected) -> str:
    """Which of what moves with time is another here than there; empty when nothing is."""
    ours = {
        "status": "open" if invoice.status == "payment_failed" else invoice.status,
        "amount_paid": invoice.amount_paid,
        "overpaid": invoice.overpaid,
        "credited": invoice.credited,
        "refunded": invoice.refunded,
        "attempts": invoice.attempts,
    }
    theirs = {name: getattr(found, name) for name in ours}
    theirs["attempts"] = max(found.attempts, invoice.attempts)
    return ", ".join(f"{name} {ours[name]} is {theirs[name]} there" for name in ours if ours[name] != theirs[name])


def lines_differ(invoice: Invoice, content: BillLines | None, found: Collected) -> Iterator[Finding]:
    """Lines that do not add up as they were sent, though the sum may: a person decides."""
    sent = sorted(each.amount for each in content.invoice_lines()) if content is not None else None
    if sent is None or found.lines is None or sorted(found.lines) == sent:
        return
    yield Finding(
        kind=AMOUNT,
        subject=invoice.id,
        detail=f"{len(sent)} lines were sent, {found.id} holds {len(found.lines)} of other amounts",
        outcome=PROPOSED,
        currency=invoice.currency,
        money=abs(sum(found.lines) - sum(sent)),
    )


def amounts(invoice: Invoice, found: Collected) -> Iterator[Finding]:
    """A sum or currency that is not what was billed: nothing of ours changes it, so somebody did. A person decides."""
    # Where prices include tax, what we billed is the total; elsewhere it is the total without tax.
    if found.currency != invoice.currency or invoice.amount not in (found.subtotal, found.total):
        yield Finding(
            kind=AMOUNT,
            subject=invoice.id,
            detail=f"billed {invoice.amount} {invoice.currency}, {found.id} holds {found.subtotal} {found.currency}",
            outcome=PROPOSED,
            currency=invoice.currency,
            money=abs(found.subtotal - invoice.amount) or invoice.amount,
        )


def orphan(found: Collected, bill: Bill | None, now: datetime) -> bool:
    """Whether a draft of ours is nobody's: made twice, not the one that its bill remembers, or of a bill let go."""
    wanted = bill is not None and bill.invoice == found.id and bill.status != "waived"
    return not wanted and now - found.created > DRAFT_LIFE


def settled(found: Collected) -> bool:
    """Whether an invoice too many takes nothing from anybody: it was voided, or all that was paid went back."""
    return found.status == "void" or (found.status == "paid" and found.refunded >= found.amount_paid)
