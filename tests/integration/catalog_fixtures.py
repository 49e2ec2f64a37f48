"""The catalog's handler with its tables and Stripe's emulator, asked through the events in `events/`."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest

from functions.plans.app import handler
from local import template
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables
from local.stores import MemorySSM
from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.transport import EmulatorHTTPClient
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Table, claim, put
from monetize.domain.audit import AuditEntry
from monetize.domain.publishers import BillingSettings, Publisher, StripeLink
from monetize.domain.subscriptions import Span, Subscription
from monetize.services.catalog import default_tiers
from tests.integration.documented import documented

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "events"
NOW = datetime(2026, 3, 12, 19, 4, tzinfo=UTC)
TEMPLATE = template.load(ROOT / "template.yaml")
CONTEXT = SimpleNamespace(
    function_name="plans",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:plans",
    memory_limit_in_mb=512,
    aws_request_id="6f0b9c1e",
    get_remaining_time_in_millis=lambda: 29_000,
)


@dataclass
class SentMessages:
    """SQS as far as it is used here."""

    sent: list[dict[str, Any]] = field(default_factory=list)

    def send_message(self, **request: Any) -> None:
        self.sent.append(json.loads(request["MessageBody"]))


@dataclass(frozen=True)
class Answer:
    """What the handler answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """A refusal's code, held to the form every refusal has."""
        problem = self.body
        assert self.headers["Content-Type"] == "application/problem+json"
        assert problem["status"] == self.status >= 400
        assert problem["type"].endswith(problem["code"])
        return str(problem["code"])

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


@dataclass
class Desk:
    """The deployed function, asked as API Gateway would ask it."""

    dynamodb: MemoryDynamoDB
    table: Table
    stripe: StripeEmulator
    queue: SentMessages
    clock: Clock
    accounts: dict[str, str] = field(default_factory=dict)

    def ask(
        self,
        event: str,
        *ids: str,
        body: Any = None,
        query: str | None = None,
        headers: Mapping[str, str] | None = None,
        org: str = "acme",
        user: str = "ann",
        roles: str = "publisher_admin",
    ) -> Answer:
        """Send `events/plans_{event}.json`, with these ids in the place of its own, as somebody of an organization."""
        sent: dict[str, Any] = deepcopy(json.loads((EVENTS / f"plans_{event}.json").read_text()))
        sent["headers"].pop("idempotency-key", None)
        sent["headers"].pop("if-match", None)
        path = _with_ids(sent["rawPath"], ids)
        sent["rawPath"] = sent["requestContext"]["http"]["path"] = path
        if "pathParameters" in sent:
            sent["pathParameters"]["proxy"] = path.split("/", 2)[2]
        if query is not None:
            sent["rawQueryString"], sent["queryStringParameters"] = query, dict(parse_qsl(query))
        if body is not None:
            sent["body"] = body if isinstance(body, str) else json.dumps(body)
        sent["headers"] |= headers or {}
        if "authorizer" in sent["requestContext"]:
            claims = sent["requestContext"]["authorizer"]["jwt"]["claims"]
            claims |= {"sub": user, "organization": org, "roles": roles}
        answer = documented(sent, handler(sent, CONTEXT))
        return Answer(answer["statusCode"], answer.get("headers", {}), answer.get("body") or "")

    def make(self, event: str, body: Any, **how: Any) -> Any:
        """Make something and give its body."""
        answer = self.ask(event, body=body, **how)
        assert answer.status == 201, answer.text
        return answer.body

    def enable(self, organization: str) -> Publisher:
        """An organization that has enabled monetization."""
        account = self.stripe.create_account(name=organization)
        account.connected = True
        self.accounts[organization] = account.id
        link = StripeLink(
            account=account.id, livemode=False, scope="read_write", connected_at=NOW, charges_enabled=True
        )
        publisher = Publisher(id=organization, status="enabled", stripe=link, created_at=NOW, enabled_at=NOW)
        self.table.write(put(publisher), *(put(tier) for tier in default_tiers(organization, NOW)))
        return publisher

    def change(self, entity: Any, **fields: Any) -> None:
        """Change something behind everybody's back."""
        read = self.table.get(type(entity), keys.of(entity))
        assert read is not None
        self.table.write(put(replace(read, **fields)))

    def relink(self, publisher: Publisher | None, **fields: Any) -> None:
        """Change what we hold of a publisher's Stripe account."""
        assert publisher is not None
        assert publisher.stripe is not None
        self.change(publisher, stripe=replace(publisher.stripe, **fields))

    def settle(self, organization: str, settings: BillingSettings) -> None:
        """Change how a publisher bills."""
        publisher = self.table.get(Publisher, keys.publisher(organization))
        self.change(publisher, settings=settings)

    def subscribe(
        self,
        subscription: str,
        publisher: str,
        product: str,
        *,
        tier: str = "tier_x",
        status: str = "active",
        plan: str | None = None,
        version: int | None = None,
    ) -> None:
        """A subscription, its publisher's pointer to it and its plan's, as subscribing leaves them."""
        made = Subscription(
            id=subscription,
            publisher=publisher,
            subscriber="initrode",
            application="app_1",
            product=product,
            apis=(product,),
            tier=tier,
            status=status,
            plan=plan,
            version=version,
            currency="" if plan is None else "usd",
            account="" if plan is None else self.accounts[publisher],
            spans=(Span(start=NOW, kind="free" if plan is None else "paid", tier=tier, plan=plan, version=version),),
            created_at=NOW,
            activated_at=NOW,
        )
        ops = [put(made), claim(keys.publisher_subscription(publisher, subscription), subscription)]
        if plan is not None and version is not None:
            ops.append(claim(keys.plan_subscription(plan, version, subscription), subscription))
        self.table.write(*ops)

    def audited(self, organization: str) -> list[AuditEntry]:
        """What was audited this month, in order."""
        return list(self.table.list(AuditEntry, keys.audit(organization, f"{NOW:%Y-%m}").pk).items)

    def everything(self, organization: str | None = None) -> list[Any]:
        """Every item of every table, or those of the Core table that name an organization."""
        tables = self.dynamodb.list_tables()["TableNames"] if organization is None else ["CoreTable"]
        items = [item for table in tables for item in self.dynamodb.scan(TableName=table)["Items"]]
        return [it for it in items if organization is None or organization in str(it)]


def _with_ids(path: str, ids: tuple[str, ...]) -> str:
    """A path whose variable segments, in order, are these."""
    parts, left = path.split("/"), list(ids)
    fixed = {"tiers", "meters", "plans", "apis", "bundles", "gateway-keys", "catalog", "products", "publish"}
    fixed |= {"versions", "archive", "subscriptions", "preview", "moves", "openapi.json", ""}
    for at, part in enumerate(parts):
        if part not in fixed and left:
            parts[at] = left.pop(0)
    assert not left, f"{path} has no place for {left}"
    return "/".join(parts)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """An empty deployment where acme and globex have enabled monetization."""
    for name, value in {
        "CORE_TABLE": "CoreTable",
        "USAGE_TABLE": "UsageTable",
        "IDEMPOTENCY_TABLE": "IdempotencyTable",
        "STRIPE_KEY_PARAMETER": "/stripe/key",
        "BILLING_QUEUE_URL": "https://sqs.invalid/billing",
        "POWERTOOLS_SERVICE_NAME": "plans",
        "POWERTOOLS_METRICS_NAMESPACE": "monetize",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    clock = Clock(NOW)
    dynamodb = MemoryDynamoDB(clock)
    create_tables(dynamodb.as_boto3(), TEMPLATE)
    emulator = StripeEmulator(clock)
    queue = SentMessages()
    wiring.override(
        clock=clock,
        dynamodb=dynamodb,
        sqs=queue,
        ssm=MemorySSM({"/stripe/key": emulator.platform_key}),
        stripe_http=EmulatorHTTPClient(emulator),
    )
    made = Desk(dynamodb, Table(dynamodb, "CoreTable"), emulator, queue, clock)
    made.enable("acme")
    made.enable("globex")
    yield made
    wiring.override()
