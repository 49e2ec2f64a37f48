"""Metering and entitlements, measured: throughput, write units, price, start-up, exact counting, and how they grow.

python -m local.bench.usage            # everything, plots into docs/
python -m local.bench.usage --quick    # without the long ones and the plots
"""

import contextlib
import gc
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from local import template
from local.bench import stub
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
DOCS = ROOT / "docs"
DAY = date(2026, 10, 31)  # the 31st: counters are at their largest
NOW = datetime(2026, 10, 31, 12, tzinfo=UTC)
GATEWAY_KEY = "gk_bench"
SECONDS = 1.5  # for each measured point
DISTINCT_EVENTS = 10_000_000

# us-east-1, USD (list prices).
WRITE_UNIT = 0.625e-6
HTTP_REQUEST = 1.0e-6
LAMBDA_REQUEST = 0.2e-6
LAMBDA_GB_SECOND = 0.0000133334
LOG_GB = 0.50
STORAGE_GB_MONTH = 0.25 + 0.20  # and PITR
DYNAMODB_LATENCY = 0.015  # assumed, of one transaction of 40 items
LAMBDA_GB = 0.5
LAMBDA_REPORT_BYTES = 350  # START, END, REPORT

ALARM = 0.10
IDLE_POLLER = 0.65 * 0.40  # an idle queue with a Lambda poller: 0.65 million receives a month
SECRET = 0.40
CUSTOM_KEY = 1.00
SCHEDULE_INVOCATION = 1.0e-6


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number against what it is to reach."""

    name: str
    value: float
    unit: str
    target: float
    least: bool = False  # the target is a floor

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.target if self.least else self.value <= self.target

    def row(self) -> str:
        """A line of the table."""
        sign = "≥" if self.least else "≤"
        verdict = "ok" if self.met else "NOT MET"
        return f"{self.name:<76}{self.value:>14,.4g} {self.unit:<12}{sign} {self.target:<10,.6g} {verdict}"


class Bench:
    """Both functions over a stubbed endpoint; reads are answered from tables in memory, writes by an empty answer."""

    def __init__(self, meters: int = 1, *, stubbed: bool = True) -> None:
        for name, value in {
            "CORE_TABLE": "CoreTable",
            "USAGE_TABLE": "UsageTable",
            "POWERTOOLS_SERVICE_NAME": "bench",
            "POWERTOOLS_METRICS_NAMESPACE": "monetize",
            "POWERTOOLS_LOG_LEVEL": "WARNING",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            os.environ[name] = value
        entitlement: Any = import_module("functions.check_entitlement.app")
        ingest: Any = import_module("functions.record_usage.app")
        from monetize import wiring
        from monetize.adapters.dynamo.table import Table
        from monetize.services.entitling import Decisions
        from monetize.services.metering import Intake

        self.ingest, self.entitlement, self.wiring = ingest, entitlement, wiring
        self.clock = Clock(NOW)
        self.memory = MemoryDynamoDB(self.clock)
        create_tables(self.memory.as_boto3(), template.load(TEMPLATE))
        self.units: dict[str, float] = {}
        ingest.intake = Intake()
        self.fresh = Decisions
        entitlement.decisions = Decisions()
        self.table = Table(self.memory, "CoreTable")
        self._store(meters)
        client = stub.client(self._answer) if stubbed else _Counting(self.memory, self.units)
        wiring.override(clock=self.clock, dynamodb=client)

    def _store(self, meters: int) -> None:
        from monetize.adapters.dynamo.table import put
        from monetize.domain.catalog import Throttle, Tier
        from monetize.domain.keys import ApiKey, GatewayKey, hashed
        from monetize.domain.meters import Filter, Meter
        from monetize.domain.plans import Allowance, Charge, PlanTerms, PlanVersion, Quota
        from monetize.domain.publishers import Publisher

        def meter(short: int, **how: Any) -> Meter:
            return Meter(
                id=f"met_{short}",
                publisher="acme",
                name=str(short),
                event_type="api.request",
                short=short,
                created_at=NOW,
                **how,
            )

        successes = (Filter(property="status", ranges=((200, 399),)),)
        every = [
            meter(1, filters=successes),
            meter(2, aggregation="sum", value_property="bytes"),
            meter(3, filters=(Filter(property="method", values=("POST", "PUT")),)),
        ]
        terms = PlanTerms(
            currency="usd",
            charges=(
                Charge(
                    id="calls",
                    name="Calls",
                    model="per_unit",
                    meter="met_1",
                    allowance=Allowance(quantity=1_000_000, per="period"),
                ),
            ),
            quotas=(Quota(meter="met_1", quantity=10**9, per="day"),),
        )
        entities: list[Any] = [
            Publisher(id="acme", status="enabled", created_at=NOW),
            GatewayKey(id="gk_1", publisher="acme", sha256=hashed(GATEWAY_KEY), created_at=NOW),
            Tier(id="tier_gold", publisher="acme", name="Gold", throttle=Throttle(per_minute=5000), created_at=NOW),
            PlanVersion(plan="plan_gold", publisher="acme", number=1, name="Gold", terms=terms, published_at=NOW),
            ApiKey(
                id="key_1",
                subscription=subscription(0),
                publisher="acme",
                environment="production",
                sha256=hashed("mk_live_bench"),
                created_at=NOW,
            ),
            *every[:meters],
        ]
        for entity in entities:
            self.table.write(put(entity))
        self.known = 0
        self.subscribe(20)

    def subscribe(self, count: int) -> None:
        """So many subscriptions in all, active since long."""
        from monetize.adapters.dynamo.table import put
        from monetize.domain.subscriptions import Subscription

        for number in range(self.known, count):
            self.table.write(
                put(
                    Subscription(
                        id=subscription(number),
                        publisher="acme",
                        subscriber="dev",
                        application="app_1",
                        product="api_1",
                        apis=("api_1",),
                        tier="tier_gold",
                        plan="plan_gold",
                        version=1,
                        status="active",
                        created_at=NOW,
                        activated_at=datetime(2026, 1, 1, tzinfo=UTC),
                    )
                )
            )
        self.known = max(self.known, count)

    def _answer(self, operation: str, request: dict[str, Any]) -> Mapping[str, Any]:
        call = {"GetItem": "get_item", "Query": "query", "BatchGetItem": "batch_get_item"}[operation]
        found: Mapping[str, Any] = getattr(self.memory, call)(**request)
        return {name: value for name, value in found.items() if name != "ResponseMetadata"}

    def send(self, event: dict[str, Any]) -> dict[str, Any]:
        """One invocation of record_usage; its log goes nowhere, but is written."""
        answered: dict[str, Any] = self.ingest.handler(event, CONTEXT)
        return answered


class _Counting:
    """The in-memory table with its consumed write units added up, by table."""

    def __init__(self, memory: MemoryDynamoDB, units: dict[str, float]) -> None:
        self._memory = memory
        self._units = units
        self.exceptions = memory.exceptions

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._memory, name)
        if name not in {"transact_write_items", "put_item", "update_item", "batch_write_item"}:
            return method

        def call(**request: Any) -> Any:
            answer = method(**request, ReturnConsumedCapacity="TOTAL")
            consumed = answer["ConsumedCapacity"]
            for each in consumed if isinstance(consumed, list) else [consumed]:
                self._units[name] = self._units.get(name, 0.0) + each["CapacityUnits"]
            return answer

        return call


CONTEXT = SimpleNamespace(
    function_name="bench",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:bench",
    memory_limit_in_mb=512,
    aws_request_id="example",
    get_remaining_time_in_millis=lambda: 29_000,
)


def subscription(number: int) -> str:
    """An id of the length that ids have."""
    return f"sub_01KK0000000000000{number:09d}"


def batch(lot: int, events: int, subscriptions: int) -> dict[str, Any]:
    """A gateway's request as HTTP API hands it over; ids as UUIDs are, 2 % errors, sizes that vary."""
    body = [
        {
            "specversion": "1.0",
            "id": blake2b(b"%d:%d" % (lot, number), digest_size=16).hexdigest(),
            "source": "/gateways/eu-1",
            "type": "api.request",
            "subject": subscription(number % subscriptions),
            "time": f"2026-10-31T10:{number % 60:02d}:00.{number % 1000:03d}Z",
            "data": {
                "status": 200,
                "method": ("GET", "GET", "GET", "POST")[number % 4],
                "bytes": 400 + (number * 7919 + lot) % 60_000,
            },
        }
        for number in range(events)
    ]
    text = json.dumps(body, separators=(",", ":"))
    return {
        "version": "2.0",
        "routeKey": "POST /usage/events",
        "rawPath": "/usage/events",
        "rawQueryString": "",
        "headers": {
            "content-type": "application/cloudevents-batch+json",
            "authorization": f"Bearer {GATEWAY_KEY}",
        },
        "requestContext": {"http": {"method": "POST", "path": "/usage/events"}, "requestId": "example"},
        "body": b64encode(text.encode()).decode(),
        "isBase64Encoded": True,
    }


def throughput(bench: Bench, events: int, subscriptions: int, seconds: float = SECONDS) -> tuple[float, float]:
    """(events a second of CPU, CPU seconds of one batch): the best of several rounds, so a busy machine weighs less."""
    bench.subscribe(subscriptions)
    lots = [batch(lot, events, subscriptions) for lot in range(8)]
    with contextlib.redirect_stdout(io.StringIO()):
        for lot in lots:
            answered = bench.send(lot)
            if json.loads(answered["body"])["accepted"] != events:
                raise RuntimeError(answered["body"][:500])
        spent: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(spent) < 3:
            begun = time.process_time()
            for lot in lots:
                bench.send(lot)
            spent.append((time.process_time() - begun) / len(lots))
    best = min(spent)
    return events / best, best


def write_units(events: int, subscriptions: int, meters: int, day: int = 31, batches: int = 20) -> dict[str, float]:
    """Write units per million events on a day of the month, and bytes stored; to-do entries of the day apart."""
    from monetize.adapters.dynamo import keys
    from monetize.domain.usage import counter_name

    bench = Bench(meters, stubbed=False)
    bench.clock.move_to(NOW)
    for number in range(subscriptions):
        item: dict[str, Any] = {
            "pk": {"S": keys.usage(subscription(number), "2026-10", 0)},
            "sk": {"S": "COUNTER"},
            "sealed_through": {"N": "0"},
        }
        for before in range(1, day):
            for short in range(1, meters + 1):
                item[counter_name(before, short)] = {"N": "123456789012" if short == 2 else "1234567"}
        bench.memory.put_item(TableName="UsageTable", Item=item)
    stored = 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        for lot in range(batches):
            request = batch(lot, events, subscriptions)
            if day != 31:
                body = json.dumps(json.loads(_body(request)), separators=(",", ":"))
                request["body"] = b64encode(body.replace("2026-10-31T", f"2026-10-{day:02d}T").encode()).decode()
            bench.send(request)
    scale = 1e6 / (batches * events)
    for page in _pages(bench.memory):
        stored += sum(_size(item) for item in page if item["sk"]["S"].startswith("BATCH"))
    return {
        "units": bench.units["transact_write_items"] * scale,
        "todo": bench.units.get("batch_write_item", 0.0),
        "bytes": stored * scale,
        "items": subscriptions / events * 1e6,
    }


def _body(request: Mapping[str, Any]) -> bytes:
    from base64 import b64decode

    return b64decode(request["body"])


def _pages(memory: MemoryDynamoDB) -> Iterator[Sequence[dict[str, Any]]]:
    request: dict[str, Any] = {"TableName": "UsageTable"}
    while True:
        answer = memory.scan(**request)
        yield answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def _size(item: Mapping[str, Any]) -> int:
    from local.dynamodb.values import intake_item

    return intake_item(item)[1] + 100  # what storage adds to an item


def price(units: Mapping[str, float], events: int, batch_seconds: float, emf_bytes: int) -> dict[str, float]:
    """USD per million events, item by item."""
    requests = 1e6 / events
    return {
        "DynamoDB writes": units["units"] * WRITE_UNIT,
        "HTTP API": requests * HTTP_REQUEST,
        "Lambda": requests * (LAMBDA_REQUEST + (batch_seconds + DYNAMODB_LATENCY) * LAMBDA_GB * LAMBDA_GB_SECOND),
        "Logs and metrics": requests * (LAMBDA_REPORT_BYTES + emf_bytes) / 1e9 * LOG_GB,
        "One month of storage and PITR": units["bytes"] / 1e9 * STORAGE_GB_MONTH,
    }


def at_rest() -> dict[str, float]:
    """USD a month of the default stack when nothing happens, from the template."""
    resources = template.load(TEMPLATE)["Resources"]
    kinds = [each["Type"] for each in resources.values()]
    pollers = sum(
        1
        for each in resources.values()
        if each["Type"] == "AWS::Serverless::Function"
        for event in each["Properties"].get("Events", {}).values()
        if event["Type"] == "SQS"
    )
    schedules = sum("Schedule" in kind for kind in kinds) + sum(
        1
        for each in resources.values()
        if each["Type"] == "AWS::Serverless::Function"
        for event in each["Properties"].get("Events", {}).values()
        if "Schedule" in event["Type"]
    )
    items = {
        f"{kinds.count('AWS::CloudWatch::Alarm')} alarms": kinds.count("AWS::CloudWatch::Alarm") * ALARM,
        f"{pollers} queues polled by Lambda": pollers * IDLE_POLLER,
        f"{kinds.count('AWS::SecretsManager::Secret')} secrets": kinds.count("AWS::SecretsManager::Secret") * SECRET,
        f"{kinds.count('AWS::KMS::Key')} customer-managed keys": kinds.count("AWS::KMS::Key") * CUSTOM_KEY,
        f"{schedules} schedules, at most every 15 minutes": schedules * 2920 * (SCHEDULE_INVOCATION + LAMBDA_REQUEST),
    }
    conditional = [name for name, each in resources.items() if each.get("Condition")]
    items[f"({len(conditional)} conditional resources are counted as made)"] = 0.0
    return items


def after_free_tier(items: Mapping[str, float]) -> float:
    """Ten alarms, a million SQS requests and the schedules are always free."""
    alarms = next(value for name, value in items.items() if name.endswith(" alarms"))
    queues = next(value for name, value in items.items() if name.endswith("polled by Lambda"))
    rest = sum(value for name, value in items.items() if name.endswith(("secrets", "keys")))
    return max(0.0, alarms - 10 * ALARM) + max(0.0, queues - 0.40) + rest


def entitlement_cpu(*, cached: bool, rounds: int = 400) -> float:
    """Milliseconds of CPU of one check; without the log and the flush of metrics."""
    bench = Bench()
    check = {
        "headers": {"authorization": f"Bearer {GATEWAY_KEY}"},
        "body": json.dumps({"key": "mk_live_bench"}),
        "requestContext": {},
    }
    answer = bench.entitlement.answer_check
    with contextlib.redirect_stdout(io.StringIO()):
        answer(check)
        spent: list[float] = []
        for _ in range(rounds):
            if not cached:
                bench.entitlement.decisions = bench.fresh()
            begun = time.process_time_ns()
            answer(check)
            spent.append((time.process_time_ns() - begun) / 1e6)
            bench.entitlement.metrics.provider.clear_metrics()
    stubbed = 0.0 if cached else _stub_cpu(bench)
    return statistics.median(spent) - stubbed


def _stub_cpu(bench: Bench) -> float:
    """What the in-memory answers of one uncached check cost by themselves: not ours."""
    spent: list[float] = []
    answered = bench._answer  # the bench's own
    total = 0.0

    def timed(operation: str, request: dict[str, Any]) -> Mapping[str, Any]:
        nonlocal total
        begun = time.process_time_ns()
        found = answered(operation, request)
        json.dumps(found)
        total += (time.process_time_ns() - begun) / 1e6
        return found

    bench.wiring.override(clock=bench.clock, dynamodb=stub.client(timed))
    check = {
        "headers": {"authorization": f"Bearer {GATEWAY_KEY}"},
        "body": json.dumps({"key": "mk_live_bench"}),
        "requestContext": {},
    }
    bench.entitlement.answer_check(check)
    for _ in range(100):
        bench.entitlement.decisions = bench.fresh()
        total = 0.0
        bench.entitlement.answer_check(check)
        spent.append(total)
    return statistics.median(spent)


def cold_import(function: str, rounds: int = 7) -> float:
    """Milliseconds of CPU from a running interpreter to the handler imported: best of several, the disk being warm."""
    code = (
        f"import sys,time;sys.path[:0]=[{str(ROOT)!r},{str(ROOT / 'layers/common/python')!r}];"
        f"b=time.process_time();import functions.{function}.app;print((time.process_time()-b)*1000);"
        "never=('stripe','pydantic','aws_xray_sdk','aws_lambda_powertools.event_handler');"
        "bad=[m for m in never if m in sys.modules];assert not bad, bad"
    )
    env = {**os.environ, "POWERTOOLS_SERVICE_NAME": "bench", "POWERTOOLS_METRICS_NAMESPACE": "monetize"}
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env, text=True).stdout)  # noqa: S603 # our own interpreter and code
        for _ in range(rounds)
    ]
    return min(found)


def distinct_cost(events: int, batch_size: int = 1000) -> tuple[float, float]:
    """(CPU seconds, MB at most) of exact counting over so many ids of one day, streamed, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids"
        with path.open("wb") as out:
            for _ in range(events // batch_size):
                drawn = os.urandom(12 * batch_size)
                out.write(b"".join(sorted(drawn[at : at + 12] for at in range(0, len(drawn), 12))))
        done = subprocess.run(  # noqa: S603 # our own interpreter and code
            [sys.executable, "-c", _DISTINCT, str(ROOT / "layers/common/python"), str(path), str(batch_size)],
            capture_output=True,
            check=True,
            text=True,
        )
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


_DISTINCT = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
from datetime import date
from monetize.domain.usage import Batch, Entry, distinct
path, size = sys.argv[2], int(sys.argv[3])
def entries():
    with open(path, "rb") as ids:
        number = 0
        while part := ids.read(12 * size):
            yield Entry(date(2026, 10, 31), "%022d" % number, Batch(part, {1: 1}))
            number += 1
begun = time.process_time()
found = distinct(entries)
assert found.duplicates == 0
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Measure everything, print the table and the JSON, draw the plots."""
    gc.freeze()
    figures: list[Figure] = []
    bench = Bench()
    many, many_seconds = throughput(bench, 1000, 20)
    single, _ = throughput(bench, 1000, 1)
    _, small_seconds = throughput(bench, 100, 5)
    figures.append(Figure("ingest, 1,000 events over 20 subscriptions", many, "events/s", 120_000, least=True))
    figures.append(Figure("ingest, 1,000 events of one subscription", single, "events/s", 200_000, least=True))
    shapes = {"1,000 per batch over 20": (1000, 20, many_seconds), "100 per batch over 5": (100, 5, small_seconds)}
    prices: dict[str, dict[str, float]] = {}
    for name, (events, subscriptions, seconds) in shapes.items():
        for meters in (1, 3):
            units = write_units(events, subscriptions, meters)
            target = {(1000, 1): 90_000, (1000, 3): 130_000, (100, 1): 250_000, (100, 3): 250_000}[events, meters]
            figures.append(
                Figure(f"write units per million events, {name}, {meters} meter(s)", units["units"], "units", target)
            )
            if meters == 1:
                prices[name] = price(units, events, seconds, EMF_BYTES)
    figures.append(Figure("price per million events, 1,000 over 20", sum(_first(prices).values()), "USD", 0.07))
    figures.append(Figure("price per million events, 100 over 5", sum(list(prices.values())[1].values()), "USD", 0.19))
    rest = at_rest()
    figures.append(Figure("stack at rest, list price", sum(rest.values()), "USD/month", 2.50))
    figures.append(Figure("stack at rest, after always-free tiers", after_free_tier(rest), "USD/month", 2.50))
    figures.append(Figure("check_entitlement, cached", entitlement_cpu(cached=True), "ms CPU", 0.1))
    figures.append(Figure("check_entitlement, uncached", entitlement_cpu(cached=False), "ms CPU", 2.0))
    figures.extend(
        Figure(f"cold import of {function}", cold_import(function), "ms", 300)
        for function in ("record_usage", "check_entitlement", "stripe_webhook")
    )
    if not quick:
        seconds, megabytes = distinct_cost(DISTINCT_EVENTS)
        figures.append(Figure("exact distinct of 10 million ids, time", seconds, "s CPU", 8))
        figures.append(Figure("exact distinct of 10 million ids, memory", megabytes, "MB", 320))
        _plots(Bench())
    for figure in figures:
        print(figure.row())
    for name, parts in {**prices, "at rest": rest}.items():
        print(f"\n{name}:", *(f"  {part}: ${value:.4f}" for part, value in parts.items()), sep="\n")
    found = {
        "figures": [
            {"name": each.name, "value": each.value, "unit": each.unit, "target": each.target, "met": each.met}
            for each in figures
        ],
        "prices": prices,
        "at_rest": rest,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))
    bench.wiring.override()
    return found


EMF_BYTES = 320  # of the metrics of one invocation


def _first(prices: Mapping[str, dict[str, float]]) -> dict[str, float]:
    return next(iter(prices.values()))


def _plots(bench: Bench) -> None:
    sizes = [10, 30, 100, 300, 1000, 3000, 5000]
    _plot(
        "bench-usage-batch-size.png",
        "Ingest by batch size (20 subscriptions)",
        ("events per batch", "events per CPU second"),
        sizes,
        [throughput(bench, size, min(20, size), 0.4)[0] for size in sizes],
        log=True,
    )
    spread = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    _plot(
        "bench-usage-subscriptions.png",
        "Ingest by subscriptions in a batch of 1,000 events",
        ("subscriptions per batch", "events per CPU second"),
        spread,
        [throughput(bench, 1000, count, 0.4)[0] for count in spread],
        log=True,
    )
    days = [1, 5, 10, 15, 20, 25, 31]
    _plot(
        "bench-usage-days.png",
        "Write units per million events by day of the month (1,000 over 20, three meters)",
        ("day of the month", "write units"),
        days,
        [write_units(1000, 20, 3, day, batches=5)["units"] for day in days],
    )
    counts = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
    _plot(
        "bench-usage-distinct.png",
        "Exact distinct by events of one day",
        ("events", "CPU seconds"),
        counts,
        [distinct_cost(count)[0] for count in counts],
        log=True,
    )


def _plot(
    file: str,
    title: str,
    labels: tuple[str, str],
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    log: bool = False,
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(xs, ys, marker="o")
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1], ylim=(0, None))
    if log:
        axes.set_xscale("log")
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(DOCS / file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run(quick="--quick" in sys.argv)
