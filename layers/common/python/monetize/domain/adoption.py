"""A bill taken back from its invoice: its lines, as far as they can be told from what was sent. Pure."""

from collections.abc import Sequence

from monetize.domain.collecting import InvoiceLine
from monetize.domain.invoices import Bill, BillLines, Product
from monetize.domain.lines import Line
from monetize.domain.periods import Period
from monetize.domain.plans import PlanVersion
from monetize.domain.rating import ahead_of


def lines_taken_back(
    bill: Bill, sent: Sequence[InvoiceLine], version: PlanVersion | None, before: BillLines | None
) -> BillLines:
    """What the next bills need of this one: what was charged for which time, and what was paid in advance.

    A line is its charge's by the name that its description begins with. `before` is the bill before: what it had
    carried was taken by this one, what had been paid in advance beyond this date still holds.
    """
    lines = tuple(_line(bill, each, number, version) for number, each in enumerate(sent))
    former = before.ahead if before is not None else ()
    product = (
        ()
        if version is None
        else (Product(plan=version.plan, version=version.number, stripe=version.stripe_product or ""),)
    )
    return BillLines(
        subscription=bill.subscription,
        edge=bill.edge,
        lines=lines,
        ahead=tuple(each for each in (*former, *ahead_of(lines)) if each.period.end > bill.edge),
        products=product,
        subtotal=sum(line.amount for line in lines),
        since=before.edge if before is not None else None,
    )


def _line(bill: Bill, sent: InvoiceLine, number: int, version: PlanVersion | None) -> Line:
    charges = version.terms.charges if version is not None else ()
    charge = next((each for each in charges if sent.description.startswith(f"{each.name}: ")), None)
    starts = sent.period_start >= bill.edge
    return Line(
        id=f"{charge.id if charge is not None else 'adopted'}:{sent.period_start:%Y-%m-%d}:{number}",
        kind="usage" if charge is not None and charge.meter is not None else "flat",
        name=charge.name if charge is not None else "Adopted",
        description=sent.description or "Adopted",
        currency=bill.currency,
        period=Period(sent.period_start, sent.period_end),
        rated=sent.amount,
        amount=sent.amount,
        plan=version.plan if version is not None else "",
        version=version.number if version is not None else 0,
        charge=charge.id if charge is not None else None,
        meter=charge.meter if charge is not None else None,
        tax_behavior=version.terms.tax_behavior if version is not None else "unspecified",
        tax_code=version.terms.tax_code if version is not None else None,
        segment=None if starts else sent.period_start,
        advance=starts,
    )
