"""Answers of invoices, reports, exports and the audit."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field

from monetize.domain.audit import AuditEntry
from monetize.domain.currencies import decimals
from monetize.domain.explained import EventAnswer, Explained, LedgerBatch, carried_from, rated_days
from monetize.domain.invoices import Invoice
from monetize.domain.lines import Line
from monetize.domain.money import decimal_amount
from monetize.domain.reports import AGES, Links, Snapshot, Top, months_of, percent
from monetize.http.schemas import Instant, ResponseModel

MINOR = "Minor units of the currency"
Money = Annotated[int, Field(description=MINOR)]


# --- invoices ---


class InvoiceResponse(ResponseModel):
    """An invoice. `amount` is ours, before tax; `total` is Stripe's, tax included."""

    id: str
    number: str
    status: str
    publisher: str
    subscriber: str
    subscription: str
    bill: str
    currency: str
    amount: Money
    tax: Money
    total: Money
    amount_paid: Money
    amount_remaining: Money
    credited: Money
    refunded: Money
    failure: str
    disputed: str
    action_required: bool
    issued_at: Instant
    payable_by: Annotated[Instant | None, Field(description="Where the customer pays by itself, until when")]
    paid_at: Instant | None
    next_attempt_at: Instant | None
    application_fee: Annotated[int | None, Field(description="The platform's share; told to the publisher alone")]

    @classmethod
    def fields(cls, invoice: Invoice, *, publishers: bool) -> dict[str, object]:
        """What every answer about an invoice holds."""
        bill = f"{invoice.subscription}.{invoice.edge:%Y%m%dT%H%M%SZ}"
        own = {"bill": bill, "application_fee": invoice.application_fee if publishers else None}
        same = InvoiceResponse.model_fields.keys() - own.keys()
        return {name: getattr(invoice, name) for name in same} | own

    @classmethod
    def of(cls, invoice: Invoice, *, publishers: bool) -> Self:
        """From the domain."""
        return cls.model_validate(cls.fields(invoice, publishers=publishers))


class InvoicesResponse(ResponseModel):
    """Some invoices. A page may be short although more follow: go on until `cursor` is null."""

    items: list[InvoiceResponse]
    cursor: str | None


class PeriodResponse(ResponseModel):
    """Half-open."""

    start: Instant
    end: Instant


class StepResponse(ResponseModel):
    """`units` times `unit_price` plus `flat_amount` is `amount`: minor units, not rounded. `size`: of a package."""

    units: int
    unit_price: str
    size: int
    flat_amount: Money
    amount: str


class NettedResponse(ResponseModel):
    """Credit taken off this line: whose, and how much (zero or less)."""

    line: str
    kind: str
    amount: Money


class LineResponse(ResponseModel):
    """One line and the numbers it was derived from."""

    id: str
    kind: str
    description: str
    arithmetic: str
    currency: str
    amount: Money
    rated: Annotated[int, Field(description="What the arithmetic gives, before credits were netted; minor units")]
    plan: str
    version: int
    charge: str | None
    meter: str | None
    unit: str
    period: PeriodResponse
    used: int
    allowance: int | None
    allowance_per: str | None
    top_up: int
    billed: int
    steps: list[StepResponse]
    netted: list[NettedResponse]
    full_amount: Money | None
    part_seconds: int | None
    whole_seconds: int | None
    adjusts: str | None
    tax_behavior: str

    @classmethod
    def of(cls, line: Line) -> Self:
        """From the domain."""
        steps = [
            StepResponse(
                units=each.units,
                unit_price=f"{each.unit_price:f}",
                size=each.size,
                flat_amount=each.flat_amount,
                amount=f"{each.amount:f}",
            )
            for each in line.steps
        ]
        own = {
            "arithmetic": line.arithmetic(),
            "steps": steps,
            "netted": [NettedResponse.model_validate(each) for each in line.netted],
            "period": PeriodResponse(start=line.period.start, end=line.period.end),
        }
        same = LineResponse.model_fields.keys() - own.keys()
        return cls.model_validate({name: getattr(line, name) for name in same} | own)


class LinksResponse(ResponseModel):
    """Stripe's hosted page and PDF, asked of Stripe for this answer. Not available: Stripe did not answer."""

    hosted: str
    pdf: str
    available: bool


class WholeInvoiceResponse(InvoiceResponse):
    """An invoice with its lines."""

    lines: list[LineResponse]
    links: LinksResponse

    @classmethod
    def whole(cls, explained: Explained, links: Links, *, publishers: bool) -> Self:
        """From the domain."""
        more = {
            "lines": [LineResponse.of(line) for line in explained.content.lines],
            "links": LinksResponse.model_validate(links),
        }
        return cls.model_validate(cls.fields(explained.invoice, publishers=publishers) | more)


# --- explain ---


class DayResponse(ResponseModel):
    """What a meter counted on one UTC day. `charged` is what of it a daily allowance leaves to pay for."""

    day: date
    quantity: int
    charged: int | None
    packages: int | None


class ExplainedLineResponse(LineResponse):
    """A line with the days behind it. The ledger entries of a day: `?line=…&day=…`.

    `sent_as`: its name among the lines of the sent invoice, where what is beyond 250 is rolled up; empty: not sent.
    """

    days: list[DayResponse]
    sent_as: str

    @classmethod
    def explained(cls, explained: Explained, line: Line, sent: Mapping[str, str]) -> Self:
        """From the domain; `sent` is `sent_as`."""
        above = {each.day: each for each in line.days}
        days = [
            DayResponse(
                day=day,
                quantity=quantity,
                charged=above[day].charged if day in above else (0 if line.allowance_per == "day" else None),
                packages=above[day].packages if day in above else None,
            )
            for day, quantity in rated_days(explained, line)
        ]
        return cls.model_validate(LineResponse.of(line).model_dump() | {"days": days, "sent_as": sent.get(line.id, "")})


class CreditResponse(LineResponse):
    """A credit that was netted into lines, or is left for the next bill. `carried_from`: the bills that left it."""

    carried_from: list[str]

    @classmethod
    def explained(cls, explained: Explained, line: Line) -> Self:
        """From the domain."""
        return cls.model_validate(
            LineResponse.of(line).model_dump() | {"carried_from": list(carried_from(explained, line))}
        )


class BatchResponse(ResponseModel):
    """A ledger entry behind a line: `events` that a gateway sent at once, a person's `correction`, or what exact
    counting took out because it was there twice (`repeated`). `late`: after its day was sealed. Not `taken`: another
    bill counts it.
    """

    batch: str
    kind: Literal["events", "correction", "repeated"]
    day: date
    shard: int
    late: bool
    taken: bool
    events: int
    quantity: int
    reason: Annotated[str, Field(description="Of a correction; told to the publisher alone")]

    @classmethod
    def of(cls, batch: LedgerBatch, *, publishers: bool) -> Self:
        """From the domain."""
        made = cls.model_validate(batch)
        return made if publishers else made.model_copy(update={"reason": ""})


class EventResponse(ResponseModel):
    """An event by its digest: the first 96 bits of BLAKE2b of source, line feed and id; hexadecimal."""

    digest: str
    quantity: int


class PlaceResponse(ResponseModel):
    """Where an event stands in the ledger; at most one place is counted by this bill."""

    batch: str
    day: date
    late: bool
    counted: bool
    quantities: dict[str, int]
    taken_by: Annotated[str, Field(description="Of a late one, the bill that took it; empty while it waits")]


class EventAnswerResponse(ResponseModel):
    """Whether one event was billed by this invoice, where it stands, and which lines count it."""

    digest: str
    billed: bool
    why: Literal[
        "billed",
        "counts_nothing",
        "changes_nothing",
        "in_another_bill",
        "late_for_another_bill",
        "late_waiting",
        "sandbox",
        "rejected",
        "not_received",
    ]
    conflict: Annotated[
        bool, Field(description="The same id came with another day or quantity: one of its places counts")
    ]
    code: Annotated[str, Field(description="Why it was rejected")]
    lines: list[str]
    places: list[PlaceResponse]

    @classmethod
    def of(cls, answer: EventAnswer) -> Self:
        """From the domain."""
        places = [
            PlaceResponse(
                batch=each.batch,
                day=each.day,
                late=each.late,
                counted=each.counted,
                quantities=dict(each.quantities),
                taken_by=each.taken_by,
            )
            for each in answer.places
        ]
        return cls(
            digest=answer.digest,
            billed=answer.billed,
            why=answer.why,
            conflict=answer.conflict,
            code=answer.code,
            lines=list(answer.lines),
            places=places,
        )


class ExplainResponse(ResponseModel):
    """Why an invoice says what it says. What was asked is filled in; `cursor`: ask for more of it."""

    invoice: str
    lines: list[ExplainedLineResponse] | None = None
    credits: list[CreditResponse] | None = None
    batches: list[BatchResponse] | None = None
    events: list[EventResponse] | None = None
    event: EventAnswerResponse | None = None
    cursor: str | None = None


# --- reports ---


class ReportResponse(ResponseModel):
    """A report as of an instant. Not complete: ask again, it goes on from there. `counted` is how much is in it."""

    report: str
    as_of: Instant
    complete: bool
    counted: int


class ReportRow(ResponseModel):
    """One row, and what it is as CSV: its plain members in the order they are documented; its money as decimals too."""

    @classmethod
    def money(cls) -> list[str]:
        """Which members are minor units of the row's currency."""
        return [name for name, field in cls.model_fields.items() if field.description == MINOR]

    @classmethod
    def columns(cls) -> list[str]:
        """The header."""
        plain = [name for name, field in cls.model_fields.items() if field.annotation in (str, int, str | None)]
        named = [each for name in plain for each in ((name, "currency_decimals") if name == "currency" else (name,))]
        return [*named, *(f"{name}_decimal" for name in cls.money())]

    def told(self) -> dict[str, object]:
        """Every cell by its column."""
        values = self.model_dump()
        if "currency" in values:
            currency = str(values["currency"])
            values["currency_decimals"] = decimals(currency)
            values |= {f"{name}_decimal": decimal_amount(values[name], currency) for name in self.money()}
        return values

    def cells(self) -> list[list[object]]:
        """The rows of this one."""
        values = self.told()
        return [[values[name] for name in self.columns()]]


class RevenueRow(ReportRow):
    """Sums of one key and currency. `carried` is under Stripe's least charge: owed, no revenue until it is collected.

    `carried_collected` was carried by earlier invoices and is asked for with these, tax included. `amount` is without
    either; refunds, credit notes and what was written off stand beside it and are not taken off.
    """

    key: str
    name: str
    currency: str
    invoices: int
    amount: Money
    tax: Money
    paid: Money
    outstanding: Money
    uncollectible: Money
    credited: Money
    refunded: Money
    application_fee: Money
    carried: Money
    carried_collected: Money
    void: Money


class RevenueResponse(ReportResponse):
    """Revenue of one month of issue, before tax, without void and carried invoices."""

    month: str
    by: str
    rows: list[RevenueRow]

    @classmethod
    def of(cls, snapshot: Snapshot, month: str, by: str, names: dict[str, str]) -> Self:
        """From the domain."""
        measures = RevenueRow.model_fields.keys() - {"key", "name", "currency"}
        rows = [
            RevenueRow.model_validate(
                {"key": key[0] if len(key) > 1 else "", "currency": key[-1]}
                | {"name": names.get(key[0], "") if len(key) > 1 else ""}
                | {name: counted.get(name, 0) for name in measures}
            )
            for key, counted in snapshot.rows(by)
        ]
        return cls(**_head(snapshot), month=month, by=by, rows=rows)


class MrrRow(ReportRow):
    """What the subscriptions of one plan version commit to in a month, usage aside."""

    plan: str
    name: str
    version: int
    currency: str
    subscriptions: int
    mrr: Money


class MrrResponse(ReportResponse):
    """Monthly recurring revenue at the end of a month (or now): a twelfth of what a year's bills come to without usage.

    Fees, or a higher minimum, less discounts for ever. Without trials, free tiers, what is paused or not yet begun.
    """

    month: str
    totals: dict[str, int]
    rows: list[MrrRow]

    @classmethod
    def of(cls, snapshot: Snapshot, month: str, names: dict[str, str]) -> Self:
        """From the domain."""
        counted = snapshot.rows("plan")
        rows, totals = [], dict[str, int]()
        for currency in sorted({key[-1] for key, _ in counted}):
            theirs = [(key, measures) for key, measures in counted if key[-1] == currency]
            months = months_of([measures["yearly"] for _, measures in theirs])
            totals[currency] = sum(months)
            rows += [
                MrrRow(
                    plan=plan,
                    name=names.get(plan, ""),
                    version=int(version),
                    currency=currency,
                    subscriptions=measures["subscriptions"],
                    mrr=month,
                )
                for ((plan, version, _), measures), month in zip(theirs, months, strict=True)
            ]
        return cls(**_head(snapshot), month=month, totals=totals, rows=rows)


class ChurnRow(ReportRow):
    """Who was a paying subscription when the month began and who is at its end (or now), by currency. Money is MRR.

    `at_start` + `won` - `lost` = `at_end`, and of money with what was `gained` and less what was `reduced`.
    """

    currency: str
    at_start: int
    won: int
    lost: int
    at_end: int
    churn_percent: str | None
    mrr_at_start: Money
    mrr_won: Money
    mrr_gained: Money
    mrr_reduced: Money
    mrr_lost: Money
    mrr_at_end: Money
    mrr_churn_percent: str | None
    reasons: dict[str, int]

    @classmethod
    def columns(cls) -> list[str]:
        """With one for the reasons."""
        return [*super().columns(), "reasons"]

    def cells(self) -> list[list[object]]:
        """Reasons in one cell, each with how many it lost."""
        reasons = ", ".join(f"{reason}: {lost}" for reason, lost in sorted(self.reasons.items()))
        plain = self.told() | {"reasons": reasons}
        return [[plain[name] for name in self.columns()]]


class ChurnResponse(ReportResponse):
    """Churn of one month."""

    month: str
    rows: list[ChurnRow]
    reasons: dict[str, int]

    @classmethod
    def of(cls, snapshot: Snapshot, month: str) -> Self:
        """From the domain."""
        rows, reasons = [], dict[str, int]()
        why: dict[str, dict[str, int]] = {}
        for (currency, reason), counted in snapshot.rows("lost"):
            why.setdefault(currency, {})[reason] = counted["lost"]
            reasons[reason] = reasons.get(reason, 0) + counted["lost"]
        for (currency,), counted in snapshot.rows("churn"):
            get = counted.get
            yearly = [get("yearly_at_start", 0), get("yearly_won", 0), get("yearly_gained", 0)]
            yearly += [-get("yearly_reduced", 0), -get("yearly_lost", 0)]
            at_start, won, gained, reduced, lost = months_of(yearly)
            rows.append(
                ChurnRow(
                    currency=currency,
                    at_start=get("at_start", 0),
                    won=get("won", 0),
                    lost=get("lost", 0),
                    at_end=get("at_end", 0),
                    churn_percent=percent(get("lost", 0), get("at_start", 0)),
                    mrr_at_start=at_start,
                    mrr_won=won,
                    mrr_gained=gained,
                    mrr_reduced=-reduced,
                    mrr_lost=-lost,
                    mrr_at_end=at_start + won + gained + reduced + lost,
                    mrr_churn_percent=percent(get("yearly_lost", 0), get("yearly_at_start", 0)),
                    reasons=why.get(currency, {}),
                )
            )
        return cls(**_head(snapshot), month=month, rows=rows, reasons=reasons)


class ConsumerResponse(ResponseModel):
    """A subscriber and how much it used."""

    subscriber: str
    quantity: int


class UsageRow(ReportRow):
    """One meter: its total, its days and who used most."""

    meter: str
    name: str
    unit: str
    quantity: int
    late: Annotated[
        int, Field(description="Received after its day was sealed: not in the others, repetitions included")
    ]
    let_go: Annotated[
        int, Field(description="Of small consumers not kept: nobody used more than what is told of it and this")
    ]
    days: dict[str, int]
    top: list[ConsumerResponse]

    @classmethod
    def columns(cls) -> list[str]:
        """`of`: total, late, let_go, day or subscriber; `key` is which."""
        return ["meter", "name", "unit", "of", "key", "quantity"]

    def cells(self) -> list[list[object]]:
        """Its total, its days, and who used most."""
        said = [
            ("total", "", self.quantity),
            ("late", "", self.late),
            ("let_go", "", self.let_go),
            *(("day", day, quantity) for day, quantity in sorted(self.days.items())),
        ]
        said += [("subscriber", each.subscriber, each.quantity) for each in self.top]
        return [[self.meter, self.name, self.unit, *each] for each in said]


class UsageReportResponse(ReportResponse):
    """Units counted in one month, by meter."""

    month: str
    rows: list[UsageRow]

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        month: str,
        tops: tuple[Top, ...],
        meters: dict[str, tuple[str, str]],
        only: str | None = None,
    ) -> Self:
        """From the domain; `meters` is name and unit by id, `only` the one meter that is wanted."""
        by_day: dict[str, dict[str, int]] = {}
        for (meter, day), counted in snapshot.rows("day"):
            by_day.setdefault(meter, {})[day] = counted["quantity"]
        rows = [
            UsageRow(
                meter=top.meter,
                name=meters.get(top.meter, ("", ""))[0],
                unit=meters.get(top.meter, ("", ""))[1],
                quantity=top.total,
                late=top.late,
                let_go=top.let_go,
                days=by_day.get(top.meter, {}),
                top=[ConsumerResponse(subscriber=who, quantity=quantity) for who, quantity in top.subscribers],
            )
            for top in tops
            if only in (None, top.meter)
        ]
        return cls(**_head(snapshot), month=month, rows=rows)


class AgingRow(ReportRow):
    """What has been due for so many days and is not paid."""

    age: str
    currency: str
    invoices: int
    outstanding: Money


class AgingResponse(ReportResponse):
    """Unpaid invoices of the last 13 months by the days since they were due."""

    rows: list[AgingRow]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """From the domain, youngest first."""
        order = {age: at for at, age in enumerate(AGES)}
        rows = [
            AgingRow(age=age, currency=currency, invoices=counted["invoices"], outstanding=counted["outstanding"])
            for (age, currency), counted in snapshot.rows("age")
        ]
        return cls(**_head(snapshot), rows=sorted(rows, key=lambda row: (order[row.age], row.currency)))


def _head(snapshot: Snapshot) -> dict[str, object]:
    return {
        "report": snapshot.name.partition("#")[0],
        "as_of": snapshot.as_of,
        "complete": snapshot.complete,
        "counted": snapshot.seen,
    }


class ExportResponse(ResponseModel):
    """A large export: parts behind links that end after a quarter of an hour or sooner. Not complete: ask again."""

    what: str
    month: str
    as_of: Instant
    complete: bool
    invoices: int
    parts: list[str]


# --- audit ---


class AuditResponse(ResponseModel):
    """What one person did. Personal fields appear by name only."""

    id: str
    at: Instant
    actor: str
    organization: str
    action: str
    target: str
    before: dict[str, str] | None
    after: dict[str, str] | None

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """From the domain."""
        return cls.model_validate(entry)


class AuditsResponse(ResponseModel):
    """Some entries of one month, newest first."""

    items: list[AuditResponse]
    cursor: str | None
