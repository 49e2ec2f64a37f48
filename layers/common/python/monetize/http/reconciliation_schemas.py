"""What a reconciliation found, as its publisher reads it."""

from typing import Annotated, Self

from pydantic import Field

from monetize.domain.drift import Report
from monetize.http.schemas import Instant, RequestModel, ResponseModel


class ReconcileRequest(RequestModel):
    """Go on where the last answer stopped."""

    after: Annotated[str | None, Field(max_length=400)] = None


class FindingResponse(ResponseModel):
    """One difference. `money` in minor units of `currency`; `outcome`: repaired, proposed, reported."""

    kind: str
    subject: str
    detail: str
    outcome: str
    currency: str
    money: int


class ReconciliationResponse(ResponseModel):
    """What was compared and what differed. `after` is set when time ran out: send it to go on."""

    clean: bool
    started_at: Instant | None
    subscribers: int
    invoices: int
    products: int
    reads: int
    counts: dict[str, int]
    money_at_stake: dict[str, int]
    findings: tuple[FindingResponse, ...]
    after: str | None

    @classmethod
    def of(cls, report: Report | None) -> Self:
        """From a report; without one, nothing differed the last time anybody looked."""
        if report is None:
            return cls(
                clean=True, started_at=None, subscribers=0, invoices=0, products=0, reads=0, counts={},
                money_at_stake={}, findings=(), after=None,
            )  # fmt: skip
        return cls(
            clean=report.clean,
            started_at=report.started_at,
            subscribers=report.subscribers,
            invoices=report.invoices,
            products=report.products,
            reads=report.reads,
            counts=dict(report.counts),
            money_at_stake=dict(report.money),
            findings=tuple(FindingResponse.model_validate(each) for each in report.findings),
            after=report.after,
        )
