"""The two functions of usage with their tables, asked through the events in `events/`."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from functions.check_entitlement import app as entitlement
from functions.record_usage import app as ingest
from local import template
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables
from local.triggers import stream_record
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Table, put, read
from monetize.adapters.dynamo.usage import UsageTable
from monetize.adapters.outbox import change
from monetize.domain.catalog import Throttle, Tier
from monetize.domain.keys import ApiKey, GatewayKey, hashed
from monetize.domain.meters import Filter, Meter
from monetize.domain.outbox import events_of
from monetize.domain.plans import Allowance, Charge, PlanTerms, PlanVersion, Quota
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import PAID, Span, Subscription
from monetize.services.entitling import Decisions
from monetize.services.metering import Intake
from tests.integration.documented import documented

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "events"
NOW = datetime(2026, 11, 17, 10, 0, 5, tzinfo=UTC)
START = datetime(2026, 11, 1, tzinfo=UTC)
PAYS = Span(start=START, kind=PAID, tier="tier_gold", plan="plan_gold", version=1)
SUB = "sub_01KK00000000000000000000A1"
TEMPLATE = template.load(ROOT / "template.yaml")
CONTEXT = SimpleNamespace(
    function_name="record_usage",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:record_usage",
    memory_limit_in_mb=512,
    aws_request_id="6f0b9c1e",
    get_remaining_time_in_millis=lambda: 29_000,
)
CALLS = Meter(
    id="met_calls",
    publisher="acme",
    name="Calls",
    event_type="api.request",
    filters=(Filter(property="status", ranges=((200, 399),)),),
    short=1,
    created_at=NOW,
)
BYTES = Meter(
    id="met_bytes",
    publisher="acme",
    name="Bytes",
    event_type="api.transfer",
    aggregation="sum",
    value_property="bytes",
    unit="bytes",
    short=2,
    created_at=NOW,
)


@dataclass(frozen=True)
class Answer:
    """What a handler answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """A refusal's code, held to the form every refusal has."""
        assert self.headers["Content-Type"] == "application/problem+json", self.text
        assert self.body["status"] == self.status >= 400
        return str(self.body["code"])


def usage_event(number: int | str, **members: Any) -> dict[str, Any]:
    """One event of the example subscription, ten o'clock on 17 November."""
    return {
        "specversion": "1.0",
        "id": f"req-{number}",
        "source": "/gateways/eu-1",
        "type": "api.request",
        "subject": SUB,
        "time": "2026-11-17T10:00:00Z",
        "data": {"status": 200, "bytes": 1200},
        **members,
    }


@dataclass
class Metered:
    """acme meters calls and bytes; `SUB` of dev is active since 1 November."""

    dynamodb: MemoryDynamoDB
    table: Table
    usage: UsageTable
    clock: Clock
    calls: list[str] = field(default_factory=list)

    def told(self) -> list[Mapping[str, Any]]:
        """What the table's stream means to the world outside: thresholds."""
        records = [stream_record("CoreTable", each) for each in self.dynamodb.changes("CoreTable")]
        events = [event for record in records for event in events_of(change(record))]
        return [event.data for event in events if event.type == "usage.threshold_crossed"]

    def store(self, *entities: Any) -> None:
        for entity in entities:
            self.table.write(put(entity))

    def change(self, **fields: Any) -> None:
        """Rewrite the example subscription."""
        was = self.subscription()
        self.store(replace(was, **fields))
        wiring.entitlement_facts.cache_clear()  # type: ignore[attr-defined]
        wiring.metering.cache_clear()  # type: ignore[attr-defined]
        wiring.entitling.cache_clear()  # type: ignore[attr-defined]

    def subscription(self, sub: str = SUB) -> Subscription:
        item = self.table.raw(keys.subscription(sub))
        assert item is not None
        return read(Subscription, item)

    def subscribe(self, sub: str, publisher: str = "acme") -> None:
        self.store(replace(_SUBSCRIPTION, id=sub, publisher=publisher))

    def ask(
        self, name: str, body: object = None, *, headers: Mapping[str, str] | None = None, **changes: Any
    ) -> Answer:
        """One of the events, with another body, further headers or other claims."""
        event = deepcopy(json.loads((EVENTS / f"{name}.json").read_text()))
        if body is not None:
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            event["body"] = b64encode(text).decode() if event["isBase64Encoded"] else text.decode()
        event["headers"].update(headers or {})
        if "claims" in changes:
            event["requestContext"]["authorizer"]["jwt"]["claims"].update(changes["claims"])
        for member in ("rawQueryString", "rawPath"):
            if member in changes:
                event[member] = changes[member]
        handler = ingest.handler if name.startswith("record_usage") else entitlement.handler
        answered = documented(event, handler(event, CONTEXT))  # type: ignore[arg-type]
        return Answer(answered["statusCode"], answered["headers"], answered["body"])

    def send(self, *events: dict[str, Any], key: str = "") -> Answer:
        """A batch from the gateway."""
        return self.ask("record_usage_events_batch", list(events), headers={"idempotency-key": key} if key else None)

    def totals(self, sub: str = SUB, *, sandbox: bool = False) -> dict[str, int]:
        """Live totals of the month by day and meter number, `17/1`."""
        found = self.usage.counters(
            sub,
            NOW.date().replace(day=1),
            NOW.date().replace(day=30),
            self.shards,
            sandbox=sandbox,
        )
        return {f"{day.day}/{short}": quantity for (day, short), quantity in found.totals.items()}

    def shards(self, month: str) -> int:
        return next((count for when, count in self.subscription().shards if when == month), 1)


_SUBSCRIPTION = Subscription(
    id=SUB,
    publisher="acme",
    subscriber="dev",
    application="app_1",
    product="api_weather",
    apis=("api_weather",),
    tier="tier_gold",
    status="active",
    plan="plan_gold",
    version=1,
    spans=(PAYS,),
    created_at=START,
    activated_at=START,
)
TERMS = PlanTerms(
    currency="usd",
    charges=(
        Charge(
            id="calls",
            name="Calls",
            model="per_unit",
            meter="met_calls",
            allowance=Allowance(quantity=100, per="period"),
        ),
    ),
    quotas=(Quota(meter="met_calls", quantity=5, per="day"),),
)


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metered]:
    """A system with one publisher, one gateway, one subscription and its two keys."""
    for name, value in {
        "CORE_TABLE": "CoreTable",
        "USAGE_TABLE": "UsageTable",
        "IDEMPOTENCY_TABLE": "IdempotencyTable",
        "POWERTOOLS_SERVICE_NAME": "record_usage",
        "POWERTOOLS_METRICS_NAMESPACE": "monetize",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    clock = Clock(NOW)
    dynamodb = MemoryDynamoDB(clock)
    create_tables(dynamodb.as_boto3(), TEMPLATE)
    for module in (ingest, entitlement):
        # Read from the environment when the module was imported, which was before this test's.
        monkeypatch.setattr(module.metrics.provider, "namespace", "monetize")
        monkeypatch.setattr(module.metrics.provider, "service", "usage")
    monkeypatch.setattr(ingest, "intake", Intake())
    monkeypatch.setattr(entitlement, "decisions", Decisions())
    wiring.override(clock=clock, dynamodb=dynamodb)
    made = Metered(dynamodb, Table(dynamodb, "CoreTable"), UsageTable(dynamodb, "UsageTable", "CoreTable"), clock)
    made.store(
        Publisher(id="acme", status="enabled", created_at=NOW),
        Publisher(id="other", status="enabled", created_at=NOW),
        CALLS,
        BYTES,
        GatewayKey(id="gk_1", publisher="acme", sha256=hashed("gk_example"), created_at=NOW),
        Tier(id="tier_gold", publisher="acme", name="Gold", throttle=Throttle(per_minute=5000), created_at=NOW),
        PlanVersion(plan="plan_gold", publisher="acme", number=1, name="Gold", terms=TERMS, published_at=NOW),
        _SUBSCRIPTION,
        _key("mk_live_example", "production"),
        _key("mk_test_example", "sandbox"),
    )
    yield made
    wiring.override()


def _key(text: str, environment: str) -> ApiKey:
    return ApiKey(
        id=f"key_{environment}",
        subscription=SUB,
        publisher="acme",
        environment=environment,
        sha256=hashed(text),
        created_at=NOW,
    )
