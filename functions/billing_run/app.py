"""Find what is due, shard by shard; and what people ask of billing runs."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.errors import Forbidden, NotFound, Unavailable
from monetize.domain.invoices import Bill
from monetize.domain.offers import time_of
from monetize.domain.runs import Run
from monetize.http import resolver
from monetize.http.billing_schemas import (
    BillResponse,
    BillsResponse,
    ClockRequest,
    ClockResponse,
    HoldRequest,
    HoldResponse,
    PublishersResponse,
    PublisherTotalsResponse,
    ResultResponse,
    ResultsResponse,
    RunProgressResponse,
    RunRequest,
    RunResponse,
    RunsResponse,
    WaiveRequest,
    WhatIfItem,
    WhatIfRequest,
    WhatIfResponse,
    WholeBillResponse,
)
from monetize.http.caller import OPERATOR, PUBLISHER_ADMIN, PUBLISHER_VIEWER
from monetize.http.schemas import MAX_PAGE, from_cursor, to_cursor
from monetize.services import running, runs
from monetize.services.runs import Question, Who

logger = Logger()
tracer = Tracer()
metrics = Metrics()
app = resolver.build()

RUNS = ["billing runs"]
BILLS = ["bills"]
CHANGERS = (PUBLISHER_ADMIN, OPERATOR)
READERS = (PUBLISHER_ADMIN, PUBLISHER_VIEWER, OPERATOR)

type Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
type Cursor = Annotated[str | None, Query(max_length=800)]
type Name = Annotated[str | None, Query(min_length=1, max_length=128)]


def _who(*roles: str) -> Who:
    caller = resolver.who(app, *roles)
    return Who(caller.user, caller.organization, OPERATOR in caller.roles)


def _whose(who: Who, publisher: str | None) -> str:
    """Whose billing: a publisher's own, whatever it names; an operator names one, or (empty) means everybody's."""
    return (publisher or "") if who.operator else who.organization


# --- runs ---


@app.post("/billing-runs", summary="A dry run of everything due, or a real run now", tags=RUNS, status_code=202)
def post_run(body: RunRequest) -> Response[RunResponse]:
    """A dry run goes on in the background and is watched by its Location. It changes nothing."""
    who = _who(*CHANGERS)
    run = _dry(who, body) if body.dry_run else _real(who)
    return resolver.reply(RunResponse.of(run), status=HTTPStatus.ACCEPTED, location=f"/billing-runs/{run.id}")


def _dry(who: Who, body: RunRequest) -> Run:
    return runs.begin_dry(who, _whose(who, body.publisher), body.through, wiring.clock().now(), wiring.runs())


def _real(who: Who) -> Run:
    if not who.operator:
        raise Forbidden("missing_role", f"This needs the role {OPERATOR}.", roles=[OPERATOR])
    _tick()
    run: Run | None = wiring.runs().runs.open_run("")
    if run is None:
        raise NotFound("nothing_due", "Nothing is due.")
    return run


@app.get("/billing-runs", summary="List runs, newest first", tags=RUNS)
def get_runs(publisher: Name = None, limit: Limit = 50, cursor: Cursor = None) -> Response[RunsResponse]:
    who = _who(*READERS)
    page = wiring.runs().runs.runs(_whose(who, publisher) or "*", from_cursor(cursor), limit)
    items = [RunResponse.of(each) for each in page.items]
    return resolver.reply(RunsResponse(items=items, cursor=to_cursor(page.after)))


@app.get("/billing-runs/<run>", summary="A run and where it stands", tags=RUNS)
def get_run(run: str) -> Response[RunProgressResponse]:
    ports = wiring.runs()
    found, progress = runs.progress(runs.visible(_who(*READERS), run, ports), wiring.clock().now(), ports)
    return resolver.reply(RunProgressResponse.whole(found, progress))


@app.get("/billing-runs/<run>/publishers", summary="A dry run's sums by publisher", tags=RUNS)
def get_run_publishers(run: str, limit: Limit = 50, cursor: Cursor = None) -> Response[PublishersResponse]:
    ports = wiring.runs()
    found = runs.visible(_who(*READERS), run, ports)
    page = ports.runs.publishers(found.id, from_cursor(cursor), limit)
    items = [PublisherTotalsResponse.of(each) for each in page.items]
    return resolver.reply(PublishersResponse(items=items, cursor=to_cursor(page.after)))


@app.get("/billing-runs/<run>/results", summary="What each subscriber would pay, outliers first", tags=RUNS)
def get_run_results(
    run: str, publisher: Name = None, limit: Limit = 50, cursor: Cursor = None
) -> Response[ResultsResponse]:
    who, ports = _who(*READERS), wiring.runs()
    found = runs.visible(who, run, ports)
    page = ports.runs.results(found.id, _whose(who, publisher) or found.publisher, from_cursor(cursor), limit)
    items = [ResultResponse.of(each) for each in page.items]
    return resolver.reply(ResultsResponse(items=items, cursor=to_cursor(page.after)))


@app.post("/billing-runs/<run>/resume", summary="Go on with a dry run that stopped", tags=RUNS, status_code=202)
def post_resume(run: str) -> Response[RunResponse]:
    ports = wiring.runs()
    found = runs.visible(_who(*CHANGERS), run, ports)
    runs.resume(found, wiring.clock().now(), ports)
    return resolver.reply(RunResponse.of(found), status=HTTPStatus.ACCEPTED, location=f"/billing-runs/{found.id}")


@app.post("/billing-runs/hold", summary="Pause billing of one publisher or of everybody", tags=RUNS)
def post_hold(body: HoldRequest) -> Response[HoldResponse]:
    """Workers see it within half a minute; a bill that is being made meanwhile is finished."""
    who, now, ports = _who(*CHANGERS), wiring.clock().now(), wiring.runs()
    publisher = _whose(who, body.publisher)
    runs.hold(who, publisher, body.reason, now, ports)
    return resolver.reply(_held(publisher))


@app.post("/billing-runs/release", summary="Let billing go on", tags=RUNS)
def post_release(body: HoldRequest) -> Response[HoldResponse]:
    who, now, ports = _who(*CHANGERS), wiring.clock().now(), wiring.runs()
    publisher = _whose(who, body.publisher)
    runs.release(who, publisher, now, ports)
    return resolver.reply(_held(publisher))


@app.get("/billing-runs/hold", summary="Whether billing waits", tags=RUNS)
def get_hold(publisher: Name = None) -> Response[HoldResponse]:
    return resolver.reply(_held(_whose(_who(*READERS), publisher)))


def _held(publisher: str) -> HoldResponse:
    if publisher:
        found = wiring.runs().store.publisher(publisher)
        if found is None:
            raise NotFound("unknown_publisher", "There is no such publisher.")
        return HoldResponse.of(found)
    hold = wiring.runs().runs.hold()
    if hold is None:
        return HoldResponse(publisher=None, held=False)
    return HoldResponse(publisher=None, held=True, since=hold.since, reason=hold.reason)


@app.post("/billing-runs/clock", summary="Move a sandbox publisher's own clock", tags=RUNS)
def post_clock(body: ClockRequest) -> Response[ClockResponse]:
    """Whatever becomes due by it is billed at once, in test mode as always."""
    who, now, ports = _who(*CHANGERS), wiring.clock().now(), wiring.runs()
    moved = runs.move_clock(who, _whose(who, body.publisher) or who.organization, body.to, now, ports)
    return resolver.reply(
        ClockResponse(publisher=moved.id, now=time_of(moved, now), ahead_seconds=moved.clock_offset_seconds)
    )


@app.post("/billing-runs/what-if", summary="Price a past month's usage by another plan version", tags=RUNS)
def post_what_if(body: WhatIfRequest) -> Response[WhatIfResponse]:
    who, catalog = _who(*READERS), wiring.report_table()
    question = Question(
        publisher=_whose(who, body.publisher) or who.organization,
        plan=body.plan,
        month=body.month,
        number=body.number,
        terms=body.terms.to_domain() if body.terms is not None else None,
        version=body.version,
        subscription=body.subscription,
    )

    def meters(pub: str) -> dict[int, str]:
        return {meter.short: meter.id for meter in catalog.meters(pub)}

    found, after = runs.what_if(question, from_cursor(body.cursor), body.limit, catalog, wiring.usage(), meters)
    items = [WhatIfItem.of(each) for each in found]
    return resolver.reply(
        WhatIfResponse(
            items=items,
            now=sum(each.now for each in items),
            then=sum(each.then for each in items),
            cursor=to_cursor(after),
        )
    )


# --- bills ---


@app.get("/bills", summary="Bills that wait for a person", tags=BILLS)
def get_bills(
    state: Literal["parked", "held"] | None = None,
    publisher: Name = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[BillsResponse]:
    """A page may be short although more follow: go on until `cursor` is null."""
    who = _who(*READERS)
    whose, table = _whose(who, publisher), wiring.report_table()
    page = (
        table.parked(whose, from_cursor(cursor), limit) if whose else table.parked_anywhere(from_cursor(cursor), limit)
    )
    wanted = ("parked", "held") if state is None else (state,)
    items = [BillResponse.of(each) for each in page.items if each.status in wanted]
    return resolver.reply(BillsResponse(items=items, cursor=to_cursor(page.after)))


@app.get("/bills/<bill>", summary="One bill with its lines", tags=BILLS)
def get_bill(bill: str) -> Response[WholeBillResponse]:
    found = _bill(_who(*READERS), bill)
    lines = wiring.report_table().lines(found.subscription, found.edge)
    return resolver.reply(WholeBillResponse.whole(found, lines), rev=found.rev)


@app.post("/bills/<bill>/release", summary="Let a parked or held bill go on", tags=BILLS)
def post_bill_release(bill: str) -> Response[BillResponse]:
    who = _who(*CHANGERS)
    after = runs.release_bill(who, _bill(who, bill), wiring.clock().now(), wiring.runs())
    return resolver.reply(BillResponse.of(after), rev=after.rev)


@app.post("/bills/<bill>/waive", summary="Let a parked or held bill go, unpaid for ever", tags=BILLS)
def post_bill_waive(bill: str, body: WaiveRequest) -> Response[BillResponse]:
    """Its draft at Stripe is deleted. Where its invoice is finalized already: 409 `invoice_finalized`."""
    who = _who(*CHANGERS)
    after = runs.waive_bill(who, _bill(who, bill), body.reason, wiring.clock().now(), wiring.runs())
    return resolver.reply(BillResponse.of(after), rev=after.rev)


def _bill(who: Who, bill: str) -> Bill:
    found: Bill | None = wiring.report_table().bill(bill)
    if found is None or not (who.operator or found.publisher == who.organization):
        raise NotFound("unknown_bill", "There is no such bill.")
    return found


# --- the schedule ---


def _tick() -> None:
    """Every shard of the common to-do list, and every sandbox that has a clock of its own."""
    now, ports = wiring.clock().now(), wiring.runs()
    run = runs.at_tick(now, ports)
    messages = [*running.shards(run), *runs.scope_messages(ports)]
    lost = wiring.billing_queue().send_many(messages)
    if lost:
        raise Unavailable("queue_unavailable", "The queue does not take messages now.")  # the schedule tries again


@metrics.log_metrics
@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    if "requestContext" in event:
        return resolver.answer(app, event, context, dynamodb=wiring.dynamodb())
    if wiring.billing_paused():
        metrics.add_metric("BillingPaused", MetricUnit.Count, 1)
        return {"paused": True}
    _tick()
    return {"shards": running.SHARDS}
