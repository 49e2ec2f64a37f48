"""Billing, measured: rating, fan-out, one bill's CPU and write units, Stripe's writes, the price, and a calendar.

python -m local.bench.billing            # everything, the plot into docs/
python -m local.bench.billing --quick    # fewer rounds, 4 of 64 shards, no plot
"""

import contextlib
import gc
import io
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import boto3
import requests
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from local import template
from local.bench.usage import Figure
from local.clock import Clock
from local.dynamodb.http import handle
from local.loopback import Request
from local.system import WEBHOOK_ROUTE, System

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
DUE = datetime(2026, 2, 2, 1, tzinfo=UTC)
SUBSCRIPTIONS = 1_000_000
SHARDS = 64

# us-east-1, USD (list prices); Lambda on arm64.
WRITE_UNIT = 0.625e-6
READ_UNIT = 0.125e-6
LAMBDA_REQUEST = 0.2e-6
LAMBDA_GB_SECOND = 0.0000133334
SQS_REQUEST = 0.4e-6
HTTP_REQUEST = 1.0e-6
LOG_GB = 0.50
VCPU_MB = 1769  # Lambda gives this much memory one processor, and less of it a share
STRIPE_SECONDS = 0.5  # of one call
DYNAMODB_SECONDS = 0.005  # of one call
BILLS_A_BATCH = 5  # of the template's event source
EVENTS_A_BATCH = 10
APPLY_CPU = 0.01  # seconds of one event: two requests to Stripe and eight to DynamoDB, by what a bill's cost
LOG_BYTES = 700  # of one bill: a line of ours, and its share of START, END and REPORT

# Of the calendar: what the template and Stripe's documentation say.
INVOICES_A_SECOND = 12
CONCURRENCY = 500  # BillingConcurrency of a platform of this size; the template's default is for a small one
PUBLISHERS = 2_000

CONTEXT = SimpleNamespace(
    function_name="bench",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:bench",
    memory_limit_in_mb=512,
    aws_request_id="example",
    get_remaining_time_in_millis=lambda: 290_000,
)


# ---- rating ----


def rating_speed(seconds: float = 2.0) -> float:
    """Periods of 30 days a second: 3 meters, two graduated and one with a daily allowance and packages above it."""
    from monetize.domain.periods import Period
    from monetize.domain.plans import Allowance, Charge, PlanTerms, PriceTier
    from monetize.domain.rating import BillInput, Segment, rate

    def graduated(meter: str) -> Charge:
        tiers = (
            PriceTier(up_to=1_000, unit_price=Decimal("0.5")),
            PriceTier(up_to=10_000, unit_price=Decimal("0.25")),
            PriceTier(up_to=None, unit_price=Decimal("0.1")),
        )
        return Charge(id=f"ch_{meter}", name=meter, model="graduated", meter=meter, tiers=tiers)

    daily = Charge(
        id="ch_daily",
        name="Overage",
        model="package",
        meter="c",
        unit_price=Decimal(100),
        package_size=1_000,
        allowance=Allowance(quantity=5_000, per="day"),
    )
    terms = PlanTerms(currency="usd", charges=(graduated("a"), graduated("b"), daily))
    days = [date(2026, 6, 1) + timedelta(days=at) for at in range(30)]
    usage = {name: {day: 4_000 + 137 * day.day for day in days} for name in ("a", "b", "c")}
    period = Period(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
    segment = Segment(period=period, nominal=period, terms=terms, plan="p", version=1, usage=usage)
    asked = BillInput(currency="usd", at=period.end, closed=(segment,))
    rounds, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < seconds:
        for _ in range(100):
            rate(asked)
        rounds += 100
    return rounds / spent


# ---- fan-out ----


@dataclass(slots=True)
class FanOut:
    """What finding, leasing and enqueuing cost: CPU seconds, peak memory of the process, units and requests."""

    shards: int
    enqueued: int
    cpu: float
    peak_mb: float
    read_units: float
    write_units: float
    queries: int
    sends: int


def fan_out(shards: int = SHARDS) -> FanOut:
    """Some of the 64 shards of 1,000,000 due subscriptions through the worker, boto included, endpoints stubbed."""
    per_shard = SUBSCRIPTIONS // SHARDS
    pages, units = _due_pages(per_shard)
    counts = {"Query": 0, "SendMessageBatch": 0, "UpdateItem": 0, "GetItem": 0}
    served = iter(pages)

    def dynamodb(request: Any, **_: Any) -> AWSResponse:
        nonlocal served
        operation = _operation(request)
        counts[operation] += 1
        if operation == "Query":
            body = next(served, None)
            if body is None:
                served = iter(pages)
                body = next(served)
            return _reply(request, body, "application/x-amz-json-1.0")
        return _reply(request, b"{}", "application/x-amz-json-1.0")

    sent = json.dumps(
        {
            "Successful": [
                {"Id": str(at), "MessageId": "00000000-0000-4000-8000-000000000000", "MD5OfMessageBody": "0" * 32}
                for at in range(10)
            ],
            "Failed": [],
        }
    ).encode()

    def sqs(request: Any, **_: Any) -> AWSResponse:
        counts["SendMessageBatch"] += 1
        return _reply(request, sent, "application/x-amz-json-1.0")

    worker, wiring = _worker()
    clock = Clock(DUE)
    queue = _boto("sqs", sqs)
    queue.meta.events.unregister("after-call.sqs.SendMessageBatch")  # the stub's answers have no right digests
    wiring.override(clock=clock, dynamodb=_boto("dynamodb", dynamodb), sqs=queue)
    gc.collect()
    begun = time.process_time()
    for shard in range(shards):
        served = iter(pages)
        with contextlib.redirect_stdout(io.StringIO()):
            worker.handler(_sqs({"kind": "shard", "shard": shard, "scope": ""}), CONTEXT)
    cpu = time.process_time() - begun
    wiring.override()
    return FanOut(
        shards=shards,
        enqueued=per_shard * shards,
        cpu=cpu * SHARDS / shards,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        read_units=(units + 0.5) * SHARDS,
        write_units=float(SHARDS),
        queries=counts["Query"] * SHARDS // shards,
        sends=counts["SendMessageBatch"] * SHARDS // shards,
    )


def _due_pages(count: int) -> tuple[list[bytes], float]:
    """The index's answers for one shard in pages of 1 MB, and the read units of asking for them."""
    entries, size, pages, units = [], 0, [], 0.0
    for number in range(count):
        sub = f"sub_01KDWE90E0{number:016d}"
        item = {
            "pk": {"S": f"SUB#{sub}"},
            "sk": {"S": "SUBSCRIPTION"},
            "due_pk": {"S": "DUE#07"},
            "due_sk": {"S": f"2026-02-02T00:00:00Z#{sub}#publisher-{number % PUBLISHERS:04d}"},
        }
        entries.append(item)
        size += sum(len(name) + len(value["S"]) for name, value in item.items())
        if size >= 1_000_000 or number == count - 1:
            answer: dict[str, Any] = {"Items": entries, "Count": len(entries), "ScannedCount": len(entries)}
            if number != count - 1:
                answer["LastEvaluatedKey"] = item
            pages.append(json.dumps(answer).encode())
            units += -(-size // 4096) * 0.5
            entries, size = [], 0
    return pages, units


# ---- one bill ----


class Stand:
    """A publisher whose subscribers owe a fee and two meters' usage of January: three lines each."""

    def __init__(self, count: int) -> None:
        self.system = System(clock=Clock(JANUARY))
        from monetize import wiring

        self.wiring = wiring
        self.posted = 0
        self.subs = [f"sub_01KDWE90E0{number:016d}" for number in range(count)]
        self._seed()
        self.worker: Any = import_module("functions.bill_subscription.app")

    def _seed(self) -> None:
        from monetize.adapters.dynamo.table import put
        from monetize.domain.meters import Meter
        from monetize.domain.plans import Charge, Plan, PlanTerms, PlanVersion
        from monetize.domain.publishers import Publisher, StripeLink
        from monetize.domain.subscriptions import Customer, Span, Subscriber, Subscription, scheduled

        account = self.system.emulator.connect_account(name="acme").id
        stripe, options = self.wiring.stripe(), {"stripe_account": account}
        customer = stripe.v1.customers.create({"email": "dev@example.com"}, options)
        card = stripe.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id}, options)
        stripe.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}}, options)
        product = stripe.v1.products.create({"name": "Gold"}, options)
        link = StripeLink(
            account=account, livemode=False, scope="read_write", connected_at=JANUARY, charges_enabled=True
        )
        charges = (
            Charge(id="fee", name="Gold", model="flat", amount=4900, timing="advance"),
            Charge(id="calls", name="Calls", model="per_unit", meter="met_1", unit_price=Decimal("0.5")),
            Charge(id="bytes", name="Traffic", model="per_unit", meter="met_2", unit_price=Decimal("0.001")),
        )
        terms = PlanTerms(currency="usd", charges=charges)
        table = self.wiring.core()
        common: dict[str, Any] = {"publisher": "acme", "created_at": JANUARY}
        for entity in (
            Publisher(id="acme", status="enabled", stripe=link, created_at=JANUARY, enabled_at=JANUARY),
            Meter(id="met_1", name="Calls", event_type="api.request", short=1, used=True, **common),
            Meter(id="met_2", name="Bytes", event_type="api.request", short=2, used=True, **common),
            Plan(id="plan_1", name="Gold", status="published", latest=1, updated_at=JANUARY, **common),
            PlanVersion(
                plan="plan_1",
                publisher="acme",
                number=1,
                name="Gold",
                terms=terms,
                published_at=JANUARY,
                stripe_product=product.id,
            ),
            Subscriber(
                id="dev",
                customers=(Customer(account=account, id=customer.id, payment_method=card.id),),
                **common,
            ),
        ):
            table.write(put(entity))
        for sub in self.subs:
            subscription = Subscription(
                id=sub,
                publisher="acme",
                subscriber="dev",
                application="app_1",
                product="api_1",
                apis=("api_1",),
                tier="tier_1",
                status="active",
                plan="plan_1",
                version=1,
                currency="usd",
                account=account,
                spans=(Span(start=JANUARY, kind="paid", tier="tier_1", plan="plan_1", version=1, advance=True),),
                created_at=JANUARY,
                activated_at=JANUARY,
            )
            table.write(put(scheduled(subscription, 24)))

    def use(self) -> None:
        """Ten events on every day of January for everyone."""
        from monetize.domain.usage import Group, event_id

        ledger = self.wiring.usage()
        patience = SimpleNamespace(left=lambda: 1.0, wait=lambda _: None)
        for sub in self.subs:
            groups = []
            for at in range(31):
                group = Group(sub, False, JANUARY.date() + timedelta(days=at))
                rows = {event_id("bench", f"{sub}-{at}-{n}"): ((1, 2), (1, 1200)) for n in range(10)}
                group.rows.update(rows)
                group.seal_content("")
                groups.append(group)
            ledger.record(groups, self.system.clock.now(), patience)

    def bill(self, sub: str) -> None:
        """One message to the worker; a second later, so that nobody waits for a place."""
        self.system.clock.move_to(self.system.clock.now() + timedelta(seconds=1))
        with contextlib.redirect_stdout(io.StringIO()):
            answer = self.worker.handler(_sqs({"kind": "subscription", "id": sub}), CONTEXT)
        if answer["batchItemFailures"]:
            raise RuntimeError("a bill failed")

    def bill_all(self) -> None:
        """Everyone."""
        for sub in self.subs:
            self.bill(sub)

    def webhooks(self) -> None:
        """Deliver what Stripe has to tell and let the workers apply it; no schedule runs."""
        with contextlib.redirect_stdout(io.StringIO()):
            while self._deliver() + sum(poller.run_due() for poller in self.system._queues):
                pass

    def _deliver(self) -> int:
        """What the endpoint is subscribed to (docs/deploy.md) reaches us; of the rest Stripe would not tell."""
        from monetize.domain.stripe_events import ASKED

        emulator, posted = self.system.emulator, self.posted
        waiting = emulator.due_deliveries(limit=100)
        for delivery in waiting:
            if delivery.event.type in ASKED:
                headers = [(name.lower(), value) for name, value in delivery.headers.items()]
                answer = self.system.gateway.handle(Request("POST", WEBHOOK_ROUTE, headers, delivery.body))
                emulator.deliver(delivery, answer.status)
                self.posted = posted = posted + 1
            else:
                emulator.deliver(delivery, 200)
        return len(waiting)

    def to_february(self) -> None:
        """Openings billed and paid, January used, and the clock after the grace."""
        self.bill_all()
        self.webhooks()
        self.use()
        self.system.clock.move_to(DUE)

    def close(self) -> None:
        self.system.close()


class _Counted:
    """The in-memory tables with consumed units added up, by what they are: reads and writes, calls."""

    READS = frozenset({"get_item", "query", "batch_get_item"})
    WRITES = frozenset({"transact_write_items", "put_item", "update_item", "delete_item", "batch_write_item"})

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.exceptions = memory.exceptions
        self.reads = self.writes = 0.0
        self.calls = 0
        self.detail: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._memory, name)
        if name not in self.READS | self.WRITES:
            return method

        def call(**request: Any) -> Any:
            self.calls += 1
            try:
                answer = method(**request, ReturnConsumedCapacity="TOTAL")
            except self.exceptions.ConditionalCheckFailedException:
                self.writes += 1  # a failed condition is billed by the item's size: these are small
                self.detail["failed condition"] = self.detail.get("failed condition", 0) + 1
                raise
            consumed = answer.get("ConsumedCapacity", [])
            for each in consumed if isinstance(consumed, list) else [consumed]:
                if name in self.READS:
                    self.reads += each["CapacityUnits"]
                else:
                    self.writes += each["CapacityUnits"]
                    self.detail[name] = self.detail.get(name, 0) + each["CapacityUnits"]
            return answer

        return call


@dataclass(slots=True)
class Units:
    """Of one bill: DynamoDB's units and calls up to `sent`, those of its webhooks, and Stripe's calls."""

    writes: float
    reads: float
    calls: float
    webhook_writes: float
    webhook_reads: float
    webhook_calls: float
    webhooks: float
    webhook_stripe: float
    stripe_writes: float
    stripe_reads: float
    detail: dict[str, float]


def units(count: int = 20) -> Units:
    """Counted over some bills of three lines."""
    stand = Stand(count)
    try:
        stand.to_february()
        system = stand.system
        counted = _Counted(system.dynamodb)
        _rewire(stand, dynamodb=counted)
        asked, told = len(system.emulator.requests), stand.posted
        stand.bill_all()
        writes, reads, calls, detail = counted.writes, counted.reads, counted.calls, dict(counted.detail)
        made = list(system.emulator.requests)[asked:]
        counted.writes = counted.reads = counted.calls = 0
        asked = len(system.emulator.requests)
        stand.webhooks()
        return Units(
            writes=writes / count,
            reads=reads / count,
            calls=calls / count,
            webhook_writes=counted.writes / count,
            webhook_reads=counted.reads / count,
            webhook_calls=counted.calls / count,
            webhooks=(stand.posted - told) / count,
            webhook_stripe=(len(system.emulator.requests) - asked) / count,
            stripe_writes=sum(each.method != "GET" for each in made) / count,
            stripe_reads=sum(each.method == "GET" for each in made) / count,
            detail={name: value / count for name, value in detail.items()},
        )
    finally:
        stand.close()


def bill_cpu(count: int = 60) -> float:
    """Milliseconds of CPU of one bill end to end: the handler, boto and Stripe's SDK with `requests`, without the
    stand-ins behind them, the network and TLS. Median."""
    from monetize.adapters.stripe import client

    stand = Stand(count)
    try:
        stand.to_february()
        inside = [0.0]
        session = client.session("https://api.stripe.com")
        session.mount("https://", _StripeInProcess(stand.system.emulator, inside))
        session.mount("http://", _StripeInProcess(stand.system.emulator, inside))

        def dynamodb(request: Any, **_: Any) -> AWSResponse:
            begun = time.process_time()
            headers = {name: _text(value) for name, value in request.headers.items()}
            body = request.body if isinstance(request.body, bytes) else (request.body or "").encode()
            status, answered, content = handle(stand.system.dynamodb, headers, body)
            inside[0] += time.process_time() - begun
            del answered["x-amz-crc32"]
            return _reply(request, content, answered["Content-Type"], int(status))

        _rewire(stand, dynamodb=_boto("dynamodb", dynamodb), stripe_http=client.transport(session))
        spent = []
        gc.collect()
        for sub in stand.subs:
            inside[0], begun = 0.0, time.process_time()
            stand.bill(sub)
            spent.append((time.process_time() - begun - inside[0]) * 1000)
        return statistics.median(spent[5:])
    finally:
        stand.close()


class _StripeInProcess(requests.adapters.BaseAdapter):
    """Stripe's emulator behind `requests`; its own CPU is told apart."""

    def __init__(self, emulator: Any, inside: list[float]) -> None:
        super().__init__()
        self._emulator, self._inside = emulator, inside

    def send(self, request: Any, **_: Any) -> Any:  # type: ignore[override] # the adapter's options do not matter here
        begun = time.process_time()
        parts = urlsplit(request.url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        body = request.body.encode() if isinstance(request.body, str) else (request.body or b"")
        answer = self._emulator.handle(request.method, target, dict(request.headers), body)
        self._inside[0] += time.process_time() - begun
        made = requests.Response()
        made.status_code, made.url, made.request = answer.status, request.url, request
        made.headers.update(answer.headers)
        made.raw = io.BytesIO(answer.body)
        return made

    def close(self) -> None:
        """Nothing is open."""


def stripe_writes(lines: int) -> tuple[int, int]:
    """Stripe's writes and reads for one invoice of so many lines; none: an empty bill."""
    from monetize.domain.invoices import Bill, BillLines, Product
    from monetize.domain.lines import Line
    from monetize.domain.periods import Period
    from monetize.services import billing

    stand = Stand(1)
    try:
        period = Period(JANUARY, FEBRUARY)

        def rate(bill: Bill, *_: Any) -> BillLines:
            made = tuple(
                Line(
                    id=f"line-{number}",
                    kind="flat",
                    name="Line",
                    currency="usd",
                    period=period,
                    rated=100,
                    amount=100,
                    plan="plan_1",
                    version=1,
                )
                for number in range(lines)
            )
            version = stand.wiring.billing_table().plan_version("plan_1", 1)
            product = Product(plan="plan_1", version=1, stripe=version.stripe_product)
            return BillLines(
                subscription=bill.subscription, edge=bill.edge, lines=made, products=(product,), subtotal=100 * lines
            )

        before = len(stand.system.emulator.requests)
        ports = replace(stand.wiring.billing(), rate=rate)
        worked = billing.bill_subscription(stand.subs[0], JANUARY, ports)
        if worked.outcome not in ("sent", "empty", "not_due"):
            raise RuntimeError(worked.outcome)
        made = list(stand.system.emulator.requests)[before:]
        writes = sum(each.method != "GET" for each in made)
        return writes, len(made) - writes
    finally:
        stand.close()


# ---- price ----


def price(counted: Units, cpu_ms: float, found: FanOut) -> tuple[dict[str, float], dict[str, float]]:
    """USD of billing 1,000,000 subscriptions up to `sent`, and of their webhooks; by what it is spent on."""
    biller, applier, receiver = (
        memory(f"{name}Function") for name in ("BillSubscription", "ApplyStripeEvent", "StripeWebhook")
    )
    waiting = (counted.stripe_writes + counted.stripe_reads) * STRIPE_SECONDS + counted.calls * DYNAMODB_SECONDS
    seconds = cpu_ms / 1000 * VCPU_MB / biller + waiting
    bills = {
        "lambda_seconds": seconds * biller / 1024 * LAMBDA_GB_SECOND,
        "lambda_requests": LAMBDA_REQUEST / BILLS_A_BATCH,
        "dynamodb_writes": counted.writes * WRITE_UNIT,
        "dynamodb_reads": counted.reads * READ_UNIT,
        "sqs": SQS_REQUEST * (1 / 10 + 1 / BILLS_A_BATCH + 1 / BILLS_A_BATCH),  # sent, received, deleted, in batches
        "logs": LOG_BYTES * LOG_GB / 1e9,
        "find_and_fan_out": (found.cpu * VCPU_MB / 1024 * LAMBDA_GB_SECOND + found.read_units * READ_UNIT) / 1e6,
    }
    hooks = counted.webhooks
    received = 0.03 * hooks  # seconds of the receiving function
    applied = counted.webhook_stripe * STRIPE_SECONDS + counted.webhook_calls * DYNAMODB_SECONDS
    applied += hooks * APPLY_CPU * VCPU_MB / applier
    webhooks = {
        "http_api": HTTP_REQUEST * hooks,
        "lambda_seconds": (received * receiver + applied * applier) / 1024 * LAMBDA_GB_SECOND,
        "lambda_requests": LAMBDA_REQUEST * hooks * (1 + 1 / EVENTS_A_BATCH),
        "dynamodb_writes": counted.webhook_writes * WRITE_UNIT,
        "dynamodb_reads": counted.webhook_reads * READ_UNIT,
        "sqs": SQS_REQUEST * hooks * (1 + 2 / EVENTS_A_BATCH),
        "logs": LOG_BYTES * LOG_GB / 1e9 * hooks,
    }
    million = 1_000_000
    return {name: usd * million for name, usd in bills.items()}, {name: usd * million for name, usd in webhooks.items()}


def memory(function: str) -> int:
    """Megabytes of one of the template's functions."""
    return int(template.load(ROOT / "template.yaml")["Resources"][function]["Properties"]["MemorySize"])


# ---- calendar ----


@dataclass(slots=True)
class Calendar:
    """When every publisher's bills are sent: (subscriptions, seconds) each, and how many bills a second there are."""

    finished: list[tuple[int, float]]
    platform_rate: float
    alone: float  # seconds the largest would need with the platform to itself


def calendar(seconds_a_bill: float, concurrency: int = CONCURRENCY) -> Calendar:
    """1,000,000 subscriptions of 2,000 publishers all due at one instant.

    Sizes fall as 1/rank. The queue is fair: at each instant the workers are shared evenly among the publishers that
    still have something, none beyond its own account's pace; what one cannot use goes to the others.
    """
    weights = [1 / rank for rank in range(1, PUBLISHERS + 1)]
    whole = sum(weights)
    sizes = [max(1, round(SUBSCRIPTIONS * weight / whole)) for weight in weights]
    sizes[0] += SUBSCRIPTIONS - sum(sizes)
    rate = concurrency / seconds_a_bill
    left = sorted(sizes)
    finished: list[tuple[int, float]] = []
    now, done_each, at = 0.0, 0.0, 0
    while at < len(left):
        active = len(left) - at
        share = min(INVOICES_A_SECOND, rate / active)  # all sizes are served alike, so the smallest ends first
        step = (left[at] - done_each) / share
        now, done_each = now + step, float(left[at])
        finished.append((left[at], now))
        at += 1
    return Calendar(finished, rate, max(sizes) / min(INVOICES_A_SECOND, rate))


def plot(found: Calendar, path: Path) -> None:
    """Finish time by publisher size, both axes by powers of ten."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    axes.loglog([size for size, _ in found.finished], [at / 60 for _, at in found.finished], ".", markersize=4)
    sizes = [found.finished[0][0], found.finished[-1][0]]
    axes.loglog(sizes, [size / INVOICES_A_SECOND / 60 for size in sizes], "--", linewidth=1)
    axes.set_xlabel("subscriptions of the publisher")
    axes.set_ylabel("minutes until its last bill is sent")
    axes.set_title("1,000,000 bills of 2,000 publishers due at once: a fair queue starves nobody")
    axes.legend(["finished", f"its own account's pace alone: {INVOICES_A_SECOND} invoices a second"])
    axes.grid(visible=True, which="both", linewidth=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


# ---- parts ----


def _rewire(stand: Stand, **parts: Any) -> None:
    """The system's stand-ins with some of them replaced."""
    from local.stripe_emulator.transport import EmulatorHTTPClient

    system = stand.system
    stand.wiring.override(
        **{
            "clock": system.clock,
            "dynamodb": system.dynamodb,
            "sqs": system.sqs,
            "ssm": system.ssm,
            "events": system.events,
            "s3": system.s3,
            "stripe_http": EmulatorHTTPClient(system.emulator),
            **parts,
        }
    )


def _worker() -> tuple[Any, Any]:
    for name, value in {
        "CORE_TABLE": "CoreTable",
        "USAGE_TABLE": "UsageTable",
        "BILLING_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/billing",
        "POWERTOOLS_SERVICE_NAME": "bench",
        "POWERTOOLS_METRICS_NAMESPACE": "monetize",
        "POWERTOOLS_LOG_LEVEL": "WARNING",
        "POWERTOOLS_TRACE_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        os.environ[name] = value
    from monetize import wiring

    return import_module("functions.bill_subscription.app"), wiring


def _boto(service: str, answer: Any) -> Any:
    """boto3's low-level client, signing and serializing as ever; `answer` stands for the endpoint."""
    from monetize.wiring import client_settings

    made: Any = boto3.client(  # type: ignore[call-overload] # the name is not a literal here
        service,
        region_name="us-east-1",
        aws_access_key_id="example",
        aws_secret_access_key="example",  # noqa: S106 # signs requests that go nowhere
        config=client_settings(service),
    )
    made.meta.events.register(f"before-send.{service}", answer)
    return made


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_args: Any, **_kwargs: Any) -> Iterator[bytes]:
        """urllib3's own way of giving a body."""
        yield self._content


def _reply(request: Any, content: bytes, kind: str, status: int = 200) -> AWSResponse:
    headers = HTTPHeaders()
    headers["Content-Type"] = kind
    return AWSResponse(request.url, status, headers, _Body(content))


def _operation(request: Any) -> str:
    return _text(request.headers["X-Amz-Target"]).rpartition(".")[2]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _sqs(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": "00000000-0000-4000-8000-000000000000",
                "receiptHandle": "example",
                "body": json.dumps(message),
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": "0",
                    "MessageGroupId": "acme",
                    "SenderId": "example",
                    "ApproximateFirstReceiveTimestamp": "0",
                },
                "messageAttributes": {},
                "md5OfBody": "",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:billing",
                "awsRegion": "us-east-1",
            }
        ]
    }


def run(*, quick: bool = False) -> dict[str, Any]:
    """Every figure, printed as it is known; the numbers for a file."""
    figures: list[Figure] = []

    def told(*found: Figure) -> None:
        for figure in found:
            figures.append(figure)
            print(figure.row(), flush=True)

    told(
        Figure(
            "periods of 30 days, 3 meters, rated on one core",
            rating_speed(0.5 if quick else 2),
            "/s",
            5_000,
            least=True,
        )
    )
    found = fan_out(4 if quick else SHARDS)
    measured = "all 64 shards" if not quick else "4 of 64 shards, times 16"
    told(
        Figure(f"find, lease and fan out 1,000,000 ({measured})", found.cpu, "CPU s", 120),
        Figure("peak memory of an invocation of the fan-out", found.peak_mb, "MB", 256),
    )
    print(
        f"    {found.read_units:,.0f} read units, {found.write_units:,.0f} write units, "
        f"{found.queries:,} queries, {found.sends:,} sends of ten messages"
    )
    counted = units(5 if quick else 20)
    cpu = bill_cpu(20 if quick else 60)
    told(
        Figure("one bill of 3 lines end to end, our CPU", cpu, "ms", 12),
        Figure("write units of a bill of 3 lines up to `sent`", counted.writes, "WCU", 24),
        Figure("write units of its webhooks", counted.webhook_writes, "WCU", 12),
    )
    print(
        f"    {counted.reads:.1f} read units in {counted.calls:.0f} calls up to `sent`: "
        + ", ".join(f"{name} {value:.1f}" for name, value in sorted(counted.detail.items()))
    )
    writes = {lines: stripe_writes(lines) for lines in (3, 250, 10_000, 0)}
    told(
        *(
            Figure(f"Stripe writes for an invoice of {lines:,} lines", made, "calls", 4 if lines else 0)
            for lines, (made, _) in writes.items()
        )
    )
    bills, webhooks = price(counted, cpu, found)
    told(
        Figure("price of 1,000,000 bills up to `sent`", sum(bills.values()), "USD", 25),
        Figure("price of their webhooks", sum(webhooks.values()), "USD", 15),
    )
    for part in (bills, webhooks):
        print("    " + ", ".join(f"{name} {usd:.2f}" for name, usd in part.items()))
    seconds_a_bill = 4 * STRIPE_SECONDS + counted.calls * DYNAMODB_SECONDS
    seconds_a_bill += cpu / 1000 * VCPU_MB / memory("BillSubscriptionFunction")
    print(
        f"    assumed: {STRIPE_SECONDS} s a Stripe call, {DYNAMODB_SECONDS * 1000:.0f} ms a DynamoDB call, "
        f"arm64 of the template's memory sizes, {BILLS_A_BATCH} bills and {EVENTS_A_BATCH} events a batch, "
        f"{counted.webhooks:.0f} webhooks a bill and {counted.webhook_stripe:.0f} Stripe calls to apply, us-east-1; "
        "Stripe's fees and the free tier left out"
    )
    when = calendar(seconds_a_bill)
    if not quick:
        plot(when, DOCS / "bench-billing-calendar.png")
    hours = max(at for _, at in when.finished) / 3600
    small = [at for size, at in when.finished if size <= 1_000]
    told(
        Figure("calendar: the last of 2,000 publishers is billed after", hours, "h", 24),
        Figure("calendar: the slowest publisher of at most 1,000 subscriptions", max(small) / 3600, "h", 2),
    )
    print(
        f"    {CONCURRENCY} workers of {seconds_a_bill:.2f} s a bill are {when.platform_rate:.0f} bills a second; "
        f"{INVOICES_A_SECOND} a second for each account; the largest has {max(size for size, _ in when.finished):,}"
    )
    return {
        "figures": [
            {"name": f.name, "value": f.value, "unit": f.unit, "target": f.target, "met": f.met} for f in figures
        ],
        "price": {"bills": bills, "webhooks": webhooks},
        "units": {"detail": counted.detail, "reads": counted.reads, "webhook_reads": counted.webhook_reads},
        "fan_out": {"read_units": found.read_units, "write_units": found.write_units, "sends": found.sends},
        "calendar": {"bills_a_second": when.platform_rate, "hours": hours, "workers": CONCURRENCY},
    }


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv[1:])))
