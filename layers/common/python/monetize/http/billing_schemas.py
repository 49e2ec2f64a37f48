"""Requests and answers of billing runs and bills."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from monetize.domain.invoices import Bill, BillLines
from monetize.domain.publishers import Publisher
from monetize.domain.runs import Outlier, Progress, PublisherTotals, Run, RunResult, WhatIf
from monetize.http.catalog_schemas import TermsBody
from monetize.http.reports_schemas import LineResponse, Money
from monetize.http.schemas import Bool, Id, Instant, Int, RequestModel, ResponseModel

Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
MonthText = Annotated[str, StringConstraints(pattern=r"^2[0-9]{3}-(0[1-9]|1[0-2])$")]


class RunRequest(RequestModel):
    """A dry run changes nothing. `through`: as if it were that instant. A real one, by an operator, begins now."""

    dry_run: Bool
    publisher: Id | None = None
    through: Instant | None = None


class OutlierResponse(ResponseModel):
    """A bill that differs much from the last one, or would be held or parked."""

    publisher: str
    subscription: str
    currency: str
    amount: Money
    last: Money | None
    outcome: str
    reason: str

    @classmethod
    def of(cls, outlier: Outlier) -> Self:
        """From the domain."""
        return cls.model_validate(outlier)


class RunResponse(ResponseModel):
    """A run. `counts` by outcome; `amounts`, and `last` (the bills before), by currency in minor units."""

    id: str
    kind: Literal["dry", "real"]
    publisher: str | None
    through: Instant
    status: str
    created_at: Instant
    finished_at: Instant | None
    counts: dict[str, int]
    amounts: dict[str, int]
    last: dict[str, int]

    @classmethod
    def fields(cls, run: Run) -> dict[str, object]:
        """What every answer about a run holds."""
        same = RunResponse.model_fields.keys() - {"publisher"}
        return {name: getattr(run, name) for name in same} | {"publisher": run.publisher or None}

    @classmethod
    def of(cls, run: Run) -> Self:
        """From the domain."""
        return cls.model_validate(cls.fields(run))


class RunsResponse(ResponseModel):
    """Some runs, newest first."""

    items: list[RunResponse]
    cursor: str | None


class RunProgressResponse(RunResponse):
    """A run and where it stands. `left`: of a real run, what is due now and not settled."""

    found: int
    left: int | None
    per_second: float | None
    seconds_left: int | None
    shards_done: int | None
    outliers: list[OutlierResponse]

    @classmethod
    def whole(cls, run: Run, progress: Progress) -> Self:
        """From the domain."""
        return cls.model_validate(
            cls.fields(run)
            | {
                "found": progress.found,
                "counts": dict(progress.counts),
                "amounts": dict(progress.amounts),
                "last": dict(progress.last),
                "left": progress.left,
                "per_second": round(progress.per_second, 2) if progress.per_second is not None else None,
                "seconds_left": progress.seconds_left,
                "shards_done": progress.parts_done,
                "outliers": [OutlierResponse.of(each) for each in run.outliers],
            }
        )


class PublisherTotalsResponse(ResponseModel):
    """A dry run's sums of one publisher."""

    publisher: str
    counts: dict[str, int]
    amounts: dict[str, int]
    last: dict[str, int]

    @classmethod
    def of(cls, totals: PublisherTotals) -> Self:
        """From the domain."""
        return cls.model_validate(totals)


class PublishersResponse(ResponseModel):
    """Some publishers of a dry run."""

    items: list[PublisherTotalsResponse]
    cursor: str | None


class ResultResponse(ResponseModel):
    """What one subscription would pay at one billing date, and what it paid last."""

    subscription: str
    subscriber: str
    edge: Instant
    currency: str
    amount: Money
    last: Money | None
    lines: int
    outcome: str
    reason: str

    @classmethod
    def of(cls, result: RunResult) -> Self:
        """From the domain."""
        return cls.model_validate(result)


class ResultsResponse(ResponseModel):
    """Some results, outliers first."""

    items: list[ResultResponse]
    cursor: str | None


class HoldRequest(RequestModel):
    """Whose billing waits: one publisher's, or everybody's (operators, without `publisher`)."""

    publisher: Id | None = None
    reason: Reason = ""


class HoldResponse(ResponseModel):
    """Whether billing waits."""

    publisher: str | None
    held: bool
    since: Instant | None = None
    reason: str = ""

    @classmethod
    def of(cls, publisher: Publisher) -> Self:
        """From the domain."""
        held = publisher.held_at is not None
        return cls(publisher=publisher.id, held=held, since=publisher.held_at, reason=publisher.held_reason)


class ClockRequest(RequestModel):
    """Where a sandbox publisher's clock is to stand. Forward only."""

    to: Instant
    publisher: Id | None = None


class ClockResponse(ResponseModel):
    """A sandbox publisher's own time."""

    publisher: str
    now: Instant
    ahead_seconds: int


class WhatIfRequest(RequestModel):
    """`terms`, a published version `number`, or the plan's draft, over a month's usage of those on `version`.

    Without `version` those on the latest. Terms need not be stored anywhere.
    """

    plan: Id
    month: MonthText
    number: Annotated[Int, Field(ge=1)] | None = None
    terms: TermsBody | None = None
    version: Annotated[Int, Field(ge=1)] | None = None
    subscription: Id | None = None
    limit: Annotated[Int, Field(ge=1, le=100)] = 50
    cursor: Annotated[str, StringConstraints(max_length=800)] | None = None
    publisher: Id | None = None

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if self.number is not None and self.terms is not None:
            raise ValueError("either number or terms")
        return self


class WhatIfItem(ResponseModel):
    """One subscription's month: `now` by its own version, `then` by the other; both as a full month, minor units."""

    subscription: str
    subscriber: str
    currency: str
    version: int
    now: Money
    then: Money
    difference: Money
    usage: dict[str, int]

    @classmethod
    def of(cls, each: WhatIf) -> Self:
        """From the domain."""
        return cls(
            subscription=each.subscription,
            subscriber=each.subscriber,
            currency=each.currency,
            version=each.version,
            now=each.now,
            then=each.then,
            difference=each.then - each.now,
            usage=dict(each.usage),
        )


class WhatIfResponse(ResponseModel):
    """Some subscriptions, and the sums of this page."""

    items: list[WhatIfItem]
    now: Money
    then: Money
    cursor: str | None


class BillResponse(ResponseModel):
    """A bill: what one subscription owes at one billing date."""

    id: str
    subscription: str
    publisher: str
    subscriber: str
    currency: str
    edge: Instant
    status: str
    reason: str
    subtotal: Money
    carry_out: Money
    returned: Money
    application_fee: Money
    created_at: Instant
    sent_at: Instant | None
    next_at: Instant | None

    @classmethod
    def of(cls, bill: Bill) -> Self:
        """From the domain."""
        return cls.model_validate(bill)


class BillsResponse(ResponseModel):
    """Some bills that wait for a person."""

    items: list[BillResponse]
    cursor: str | None


class WholeBillResponse(BillResponse):
    """A bill with its lines; none until it is rated."""

    lines: list[LineResponse]
    credits: list[LineResponse]

    @classmethod
    def whole(cls, bill: Bill, content: BillLines | None) -> Self:
        """From the domain."""
        held = BillResponse.of(bill).model_dump()
        lines = [LineResponse.of(line) for line in content.lines] if content is not None else []
        credits_ = [LineResponse.of(line) for line in content.credits] if content is not None else []
        return cls.model_validate(held | {"lines": lines, "credits": credits_})


class WaiveRequest(RequestModel):
    """Why a bill is let go."""

    reason: Annotated[Reason, StringConstraints(min_length=1)]
