"""Invoices and why they say what they say, reports, exports, and what people did."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.errors import Invalid, NotFound
from monetize.domain.explained import sent_as
from monetize.domain.reports import Links
from monetize.http import payment_routes, resolver
from monetize.http.caller import OPERATOR, PUBLISHER_ADMIN, PUBLISHER_VIEWER, SUBSCRIBER, Caller
from monetize.http.reports_schemas import (
    AgingResponse,
    AgingRow,
    AuditResponse,
    AuditsResponse,
    BatchResponse,
    ChurnResponse,
    ChurnRow,
    CreditResponse,
    EventAnswerResponse,
    EventResponse,
    ExplainedLineResponse,
    ExplainResponse,
    ExportResponse,
    InvoiceResponse,
    InvoicesResponse,
    MrrResponse,
    MrrRow,
    ReportResponse,
    ReportRow,
    RevenueResponse,
    RevenueRow,
    UsageReportResponse,
    UsageRow,
    WholeInvoiceResponse,
)
from monetize.http.schemas import MAX_PAGE, from_cursor, to_cursor
from monetize.services import explaining, exporting, reporting
from monetize.services.reporting import Filter, Reader

logger = Logger()
tracer = Tracer()
app = resolver.build()
payment_routes.register(app, wiring.invoice_actions)

INVOICES = ["invoices"]
REPORTS = ["reports"]
SELLERS = (PUBLISHER_ADMIN, PUBLISHER_VIEWER, OPERATOR)
ANYONE = (SUBSCRIBER, *SELLERS)

type Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
type Cursor = Annotated[str | None, Query(max_length=800)]
type Name = Annotated[str | None, Query(min_length=1, max_length=128)]
type Month = Annotated[str | None, Query(pattern=r"^2[0-9]{3}-(0[1-9]|1[0-2])$", description="yyyy-mm, or this one")]
type Format = Annotated[Literal["json", "csv"] | None, Query(description="Or by Accept: text/csv")]


def _seller(publisher: str | None) -> str:
    """Whose reports: the caller's own; an operator names a publisher."""
    caller = resolver.who(app, *SELLERS)
    return _of_operator(caller, publisher) if _operates(caller) else caller.organization


def _seller_now(publisher: str | None) -> tuple[str, reporting.Ports, datetime]:
    """Whose reports of subscriptions and their usage, and when it is for them."""
    seller, ports = _seller(publisher), wiring.reporting()
    return seller, ports, reporting.own_time(seller, wiring.clock().now(), ports)


def _reader() -> Reader:
    """Who asks for one invoice, of either side."""
    caller = resolver.who(app, *ANYONE)
    return Reader(
        organization=caller.organization,
        sells=not caller.roles.isdisjoint(SELLERS),
        buys=SUBSCRIBER in caller.roles,
        operates=_operates(caller),
    )


def _operates(caller: Caller) -> bool:
    return OPERATOR in caller.roles


def _of_operator(caller: Caller, publisher: str | None) -> str:
    if publisher is None:
        return caller.organization
    if wiring.reporting().store.publisher(publisher) is None:
        raise NotFound("unknown_publisher", "There is no such publisher.")
    return publisher


def _wants_csv(chosen: str | None) -> bool:
    return chosen == "csv" or (chosen is None and "text/csv" in (app.current_event.headers.get("accept") or ""))


def _csv(text: str, name: str) -> Response[Any]:
    headers: dict[str, str | list[str]] = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}.csv"',
    }
    return Response(status_code=200, content_type="text/csv; charset=utf-8", body=text, headers=headers)


def _report(
    model: ReportResponse, rows: Sequence[ReportRow], row: type[ReportRow], chosen: str | None
) -> Response[Any]:
    if not model.complete:
        answer = resolver.reply(model)
        answer.headers["Retry-After"] = "1"
        return answer
    if not _wants_csv(chosen):
        return resolver.reply(model)
    return _csv(exporting.table(row.columns(), [cells for each in rows for cells in each.cells()]), model.report)


# --- invoices ---


@app.get("/invoices", summary="List invoices, of either side", tags=INVOICES)
def get_invoices(
    side: Literal["subscriber", "publisher"] = "subscriber",
    publisher: Name = None,
    subscriber: Name = None,
    subscription: Name = None,
    month: Month = None,
    status: Annotated[str | None, Query(max_length=30)] = None,
    plan: Annotated[str | None, Query(min_length=1, max_length=128, description="That a line charges")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[InvoicesResponse]:
    """A publisher's by month of issue; a subscriber's at one publisher; or those of one subscription."""
    now = wiring.clock().now()
    if side == "publisher":
        seller = _seller(publisher)
        named = subscription is not None or subscriber is not None
        chosen = month if named else reporting.month_of(month, now)
        wanted = Filter(
            publisher=seller,
            subscriber=subscriber,
            subscription=subscription,
            month=chosen,
            status=status,
            plan=plan,
        )
    else:
        caller = resolver.who(app, SUBSCRIBER)
        if publisher is None:
            raise Invalid("publisher_required", "Name the publisher whose invoices you want.")
        wanted = Filter(
            publisher=publisher,
            subscriber=caller.organization,
            subscription=subscription,
            month=month,
            status=status,
            plan=plan,
        )
    found = reporting.invoices(wanted, from_cursor(cursor), limit, wiring.reporting().store)
    items = [InvoiceResponse.of(each, publishers=side == "publisher") for each in found.items]
    return resolver.reply(InvoicesResponse(items=items, cursor=to_cursor(found.after)))


@app.get("/invoices/export", summary="Export a month's invoices or their lines as CSV", tags=INVOICES)
def get_export(
    month: Month = None, what: Literal["invoices", "lines"] = "invoices", publisher: Name = None
) -> Response[ExportResponse | str]:
    """A small month is the answer itself, as CSV. A large one is made in parts: ask again until it is complete."""
    seller, now = _seller(publisher), wiring.clock().now()
    chosen = reporting.month_of(month, now)
    made = exporting.export(seller, chosen, what, now, wiring.exporting())
    if made.text is not None:
        return _csv(made.text, f"{what}-{chosen}")
    answer = resolver.reply(
        ExportResponse(
            what=what,
            month=chosen,
            as_of=made.as_of,
            complete=made.complete,
            invoices=made.rows,
            parts=list(made.parts),
        )
    )
    if not made.complete:
        answer.headers["Retry-After"] = "1"
    return answer


@app.get("/invoices/<invoice>", summary="One invoice with its lines and their arithmetic", tags=INVOICES)
def get_invoice(invoice: str, links: bool = True) -> Response[WholeInvoiceResponse]:
    """The links are Stripe's own, asked for this answer; `links=false` spares the call."""
    reader, ports = _reader(), wiring.reporting()
    found = reporting.visible(invoice, reader, ports.store)
    explained = explaining.explain(found, wiring.report_table())
    known = reporting.links(found, ports) if links else Links(available=False)
    shown = WholeInvoiceResponse.whole(explained, known, publishers=reader.publishes(found))
    return resolver.reply(shown, rev=found.rev)


@app.get("/invoices/<invoice>/explain", summary="From an invoice's line down to event ids", tags=INVOICES)
def get_explain(
    invoice: str,
    line: Name = None,
    day: date | None = None,
    batch: Name = None,
    event: Annotated[str | None, Query(max_length=2_000, description="source/id of one event")] = None,
    cursor: Cursor = None,
) -> Response[ExplainResponse]:
    """Without a query: lines, steps and days. `line` and `day`: ledger entries. With `batch`: digests of event ids."""
    reader, ports = _reader(), wiring.reporting()
    store, usage = wiring.report_table(), wiring.usage()
    found = reporting.visible(invoice, reader, ports.store)
    explained = explaining.explain(found, store)
    if event is not None:
        answered = EventAnswerResponse.of(explaining.find(explained, event, wiring.clock().now(), store, usage))
        return resolver.reply(ExplainResponse(invoice=found.id, event=answered))
    if line is None:
        sent = sent_as(explained)
        lines = [ExplainedLineResponse.explained(explained, each, sent) for each in explained.content.lines]
        credits_ = [CreditResponse.explained(explained, each) for each in explained.content.credits]
        return resolver.reply(ExplainResponse(invoice=found.id, lines=lines, credits=credits_))
    if batch is not None:
        if day is None:
            raise Invalid("day_required", "Name the day of the ledger entry.")
        held = explaining.events(explained, line, day, batch, from_cursor(cursor), store, usage)
        events = [EventResponse.model_validate(each) for each in held.items]
        return resolver.reply(ExplainResponse(invoice=found.id, events=events, cursor=to_cursor(held.after)))
    page = explaining.batches(explained, line, day, from_cursor(cursor), store, usage)
    batches = [BatchResponse.of(each, publishers=reader.publishes(found)) for each in page.items]
    return resolver.reply(ExplainResponse(invoice=found.id, batches=batches, cursor=to_cursor(page.after)))


# --- reports ---


@app.get("/reports/revenue", summary="Revenue of a month by day, plan, API or publisher", tags=REPORTS)
def get_revenue(
    month: Month = None,
    by: Literal["total", "day", "plan", "api", "publisher"] = "day",
    publisher: Name = None,
    format: Format = None,  # noqa: A002 # the name of the query parameter
) -> Response[RevenueResponse | str]:
    """By `publisher`: every publisher of the deployment, for operators."""
    ports, now = wiring.reporting(), wiring.clock().now()
    chosen = reporting.month_of(month, now)
    if by == "publisher":
        resolver.who(app, OPERATOR)
        everybody = RevenueResponse.of(reporting.revenue_of_all(chosen, now, ports), chosen, by, {})
        return _report(everybody, everybody.rows, RevenueRow, format)
    seller = _seller(publisher)
    snapshot = reporting.revenue(seller, chosen, now, ports)
    names = dict(ports.store.names(seller)) if by in ("plan", "api") else {}
    model = RevenueResponse.of(snapshot, chosen, by, names)
    return _report(model, model.rows, RevenueRow, format)


@app.get("/reports/mrr", summary="Monthly recurring revenue by plan version", tags=REPORTS)
def get_mrr(month: Month = None, publisher: Name = None, format: Format = None) -> Response[MrrResponse | str]:  # noqa: A002
    seller, ports, now = _seller_now(publisher)
    chosen = reporting.month_of(month, now)
    model = MrrResponse.of(reporting.subscriptions(seller, chosen, now, ports), chosen, dict(ports.store.names(seller)))
    return _report(model, model.rows, MrrRow, format)


@app.get("/reports/churn", summary="Subscriptions and recurring revenue won and lost in a month", tags=REPORTS)
def get_churn(
    month: Month = None,
    publisher: Name = None,
    format: Format = None,  # noqa: A002
) -> Response[ChurnResponse | str]:
    seller, ports, now = _seller_now(publisher)
    chosen = reporting.month_of(month, now)
    model = ChurnResponse.of(reporting.subscriptions(seller, chosen, now, ports), chosen)
    return _report(model, model.rows, ChurnRow, format)


@app.get("/reports/usage", summary="Usage of a month by meter, and the top subscribers", tags=REPORTS)
def get_usage(
    month: Month = None,
    top: Annotated[int, Query(ge=1, le=100)] = 10,
    meter: Name = None,
    product: Annotated[str | None, Query(min_length=1, max_length=128, description="One API's usage alone")] = None,
    publisher: Name = None,
    format: Format = None,  # noqa: A002
) -> Response[UsageReportResponse | str]:
    seller, ports, now = _seller_now(publisher)
    chosen = reporting.month_of(month, now)
    snapshot = reporting.usage(seller, chosen, now, ports, product)
    meters = {each.id: (each.name, each.unit) for each in ports.store.meters(seller)}
    tops = reporting.top_subscribers(snapshot, top)
    model = UsageReportResponse.of(snapshot, chosen, tops, meters, meter)
    return _report(model, model.rows, UsageRow, format)


@app.get("/reports/aging", summary="What is unpaid, by how long it has been due", tags=REPORTS)
def get_aging(publisher: Name = None, format: Format = None) -> Response[AgingResponse | str]:  # noqa: A002
    seller, now = _seller(publisher), wiring.clock().now()
    model = AgingResponse.of(reporting.aging(seller, now, wiring.reporting()))
    return _report(model, model.rows, AgingRow, format)


# --- audit ---


@app.get("/audit", summary="What people did in a month, newest first", tags=["audit"])
def get_audit(
    month: Month = None, publisher: Name = None, limit: Limit = 50, cursor: Cursor = None
) -> Response[AuditsResponse]:
    caller = resolver.who(app, PUBLISHER_ADMIN, OPERATOR)
    whose = _of_operator(caller, publisher) if _operates(caller) else caller.organization
    chosen = reporting.month_of(month, wiring.clock().now())
    page = wiring.reporting().store.audit(whose, chosen, from_cursor(cursor), limit)
    items = [AuditResponse.of(each) for each in page.items]
    return resolver.reply(AuditsResponse(items=items, cursor=to_cursor(page.after)))


@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return resolver.answer(app, event, context, dynamodb=wiring.dynamodb())
