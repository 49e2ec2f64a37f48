"""A small world: one publisher, a few subscriptions of one tariff, a gateway that sends usage, workers, and a clock.

Handlers, services and adapters are the real ones, called with genuine events; below them are the in-memory DynamoDB and
the Stripe emulator.
"""

import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from local import template
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.store import Index, Space, Table
from local.dynamodb.template import create_tables
from local.functions import follow
from local.simulate.gate import Gate, GatedStripe
from local.simulate.prices import CALLS, TARIFFS, UNITS, Tariff, other_than, terms_of
from local.simulate.processes import TIME_LEFT, Answer, Caller, Message, Processes, put_away, raise_unexpected
from local.stores import MemorySSM
from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.transport import EmulatorHTTPClient, client_for

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 1, 10, 9, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
AFTER_LEASE = timedelta(hours=3, minutes=1)
PUBLISHER, SUBSCRIBER, SOURCE = "acme", "dev", "/gateway"
GATEWAY = Caller("gate", PUBLISHER, "gateway")
CORE, USAGE, INBOX = "CoreTable", "UsageTable", "InboxTable"
MOST_ROUNDS = 400  # a day of hourly ticks and of what is delivered again between them, twice over
RECEIVES = 4

ENVIRONMENT = {
    "CORE_TABLE": CORE,
    "USAGE_TABLE": USAGE,
    "INBOX_TABLE": INBOX,
    "IDEMPOTENCY_TABLE": "IdempotencyTable",
    "BILLING_QUEUE_URL": "billing",
    "STRIPE_EVENTS_QUEUE_URL": "events",
    "STRIPE_KEY_PARAMETER": "/key",
    "WEBHOOK_SECRETS_PARAMETER": "/webhook",
    "STRIPE_CLIENT_ID": "ca_platform",
    "PORTAL_URL": "https://portal.invalid",
    "PUBLIC_BASE_URL": "https://api.invalid",
    "UPGRADE_URL": "https://portal.invalid/upgrade",
    "INVOICES_PER_SECOND": "12",
    "POWERTOOLS_SERVICE_NAME": "simulate",
    "POWERTOOLS_METRICS_NAMESPACE": "simulate",
    "POWERTOOLS_LOG_LEVEL": "CRITICAL",
    "POWERTOOLS_TRACE_DISABLED": "true",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
}


@dataclass(frozen=True, slots=True)
class Sent:
    """An event the gateway sends: what the model knows of it. `units` is what the second meter adds up."""

    id: str
    subscription: str
    at: datetime
    units: int

    @property
    def digest(self) -> bytes:
        """What the ledger must know it by (CloudEvents: source and id together)."""
        return blake2b(f"{len(SOURCE)} {SOURCE}{self.id}".encode(), digest_size=12).digest()


@dataclass(slots=True)
class Batch:
    """Events of one request. `done` once its answer said that all of it is durable."""

    number: int
    events: tuple[Sent, ...]
    key: str = ""
    done: bool = False
    refused: frozenset[str] = frozenset()  # events that came after their subscription's end
    late_at: datetime | None = None  # when it was answered that some of it came late
    answers: int = 0


@dataclass(slots=True)
class Wish:
    """What a person asks for under one Idempotency-Key. `status` once it was answered: whoever gets none asks again."""

    kind: str
    caller: Caller
    path: str
    key: str
    body: dict[str, Any] | None = None
    method: str = "POST"
    function: str = "subscribe"
    status: int = 0

    @property
    def granted(self) -> bool:
        """Whether it was answered with success."""
        return HTTPStatus.OK <= self.status < HTTPStatus.BAD_REQUEST


class Ids:
    """New names in the order they are asked for."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"ids/{seed}")

    def new(self, prefix: str, at: datetime) -> str:
        """As the real ones: by time, then by chance."""
        return f"{prefix}_{int(at.timestamp() * 1000):012X}{self._rng.getrandbits(56):014X}"

    def secret(self) -> str:
        """256 bits of chance."""
        return f"{self._rng.getrandbits(256):064x}"


class Sqs:
    """The two queues' sending side; what is received is up to the world."""

    def __init__(self, gate: Gate, clock: Clock, taken: Callable[[str, str, str, datetime], None]) -> None:
        self._gate, self._clock, self._taken = gate, clock, taken

    def send_message(self, **request: Any) -> dict[str, Any]:
        """One."""
        self._gate.pass_("before", f"SendMessage {request['MessageBody']}")
        delay = timedelta(seconds=request.get("DelaySeconds", 0))
        if not self._placed(request, request["QueueUrl"], delay):
            raise ClientError({"Error": {"Code": "ServiceUnavailable", "Message": ""}}, "SendMessage")
        self._gate.pass_("after", "SendMessage")
        return {}

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        """Up to ten."""
        self._gate.pass_("before", "SendMessageBatch")
        failed = [each for each in request["Entries"] if not self._placed(each, request["QueueUrl"])]
        self._gate.pass_("after", "SendMessageBatch")
        return {"Failed": [{"Id": each["Id"]} for each in failed]} if failed else {}

    def _placed(self, sent: Mapping[str, Any], queue: str, delay: timedelta = timedelta(0)) -> bool:
        fault = self._gate.queue_fault()
        if fault == "refused":
            return False
        if fault == "late":
            delay += timedelta(minutes=self._gate.rng.randrange(1, 90))
        at = self._clock.now() + delay
        for _ in range(2 if fault == "twice" else 1):
            self._taken(queue, sent["MessageBody"], sent.get("MessageGroupId", ""), at)
        return True


@dataclass
class World:
    """Everything of one seed."""

    seed: int
    tariff: Tariff
    rng: Random
    clock: Clock
    gate: Gate
    dynamodb: MemoryDynamoDB
    stripe: StripeEmulator
    account: str
    subscriptions: tuple[str, ...]
    processes: Processes
    batches: list[Batch] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    queue: list[Message] = field(default_factory=list)
    events: list[Message] = field(default_factory=list)
    webhooks: bool = True
    deauthorized: bool = False
    declined: bool = False
    poisoned: bool = False
    dead: list[tuple[list[Message], Message]] = field(default_factory=list)  # each with the queue it was taken from
    hourly: bool = False  # the schedule ticks every hour, whatever is due
    met: Counter[str] = field(default_factory=Counter)  # what this world came by
    customer: str = ""
    card: str = ""
    quiet_since: datetime | None = None  # since when nothing fails any more

    def start_of(self, subscription: str) -> datetime:
        """Since when it pays: the world's start, or whenever its order was completed."""
        if subscription == f"sub_{subscription.removeprefix('sub_')[:1]}":
            return START
        from monetize import wiring

        stored = wiring.billing_table().subscription(subscription)
        return START if stored is None or not stored.spans else stored.spans[0].start

    def until_due(self) -> datetime:
        """Move the clock to the instant at which the first subscription's next bill may be made."""
        from monetize import wiring

        due = wiring.billing_table().subscription(self.subscriptions[0]).due_at
        if due is None:
            raise ValueError("nothing will be due")
        self.clock.move_to(due)
        return self.clock.now()

    def judge(self, error: BaseException | None) -> None:
        """Raise what ended a worker where nothing explains it. When all is quiet hardly anything does."""
        from monetize.domain.errors import Refusal

        explained = self.deauthorized or self.poisoned or self.gate.stored
        if isinstance(error, Refusal) and explained:
            return
        raise_unexpected(error, quiet=self.gate.is_quiet)

    # --- what workers do ---

    def bill(self, subscription: str) -> None:
        """A message of the to-do list: a subscription."""
        self.work({"kind": "subscription", "id": subscription})

    def work(self, *bodies: dict[str, Any]) -> None:
        """A batch of the billing queue. What fails is what its lease or the next tick is for."""
        messages = [Message(body, self.clock.now(), PUBLISHER, 1) for body in bodies]
        self.processes.take("bill_subscription", messages)

    def send(self, batch: Batch) -> None:
        """The gateway sends a batch; without a clean answer it will send the same batch again."""
        events = [
            {
                "specversion": "1.0",
                "id": each.id,
                "source": SOURCE,
                "type": "api.call",
                "subject": each.subscription,
                "time": each.at.isoformat(),
                "data": {"n": each.units},
            }
            for each in batch.events
        ]
        answer = self.processes.request(
            "record_usage",
            "POST",
            "/publisher/usage/events",
            caller=GATEWAY,
            body=msgspec.json.encode(events),
            headers={"idempotency-key": batch.key} if batch.key else {},
            form="application/cloudevents-batch+json",
            encoded=True,
        )
        batch.answers += 1
        told = answer.document
        if answer.status == HTTPStatus.OK:
            refused = {each["id"] for each in told["rejected"] if each["code"] == "subscription_ended"}
            if told["accepted"] + told["duplicates"] + told["late"] + len(told["conflicts"]) + len(refused) != len(
                batch.events
            ):
                raise AssertionError(f"batch {batch.number} was refused: {[each['code'] for each in told['rejected']]}")
            batch.done = True
            batch.late_at = self.clock.now() if told["late"] else None
            batch.refused = frozenset(refused)
        elif answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise AssertionError(f"batch {batch.number} was answered {answer.status} {told}")

    def ask(self, wish: Wish) -> None:
        """A person asks; without an answer, or told to come again, the same will be asked again."""
        answer = self.processes.request(
            wish.function,
            wish.method,
            wish.path,
            caller=wish.caller,
            body=None if wish.body is None else msgspec.json.encode(wish.body),
            headers={"idempotency-key": wish.key},
        )
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or _in_use(answer):
            return
        wish.status = answer.status

    def compact(self) -> None:
        """The schedule that settles closed days."""
        self.processes.call("record_usage", {"compact": "usage"})

    def receive(self, raw: bytes, signature: str) -> int:
        """Stripe calls the webhook; the status it gets."""
        answer = self.processes.request(
            "stripe_webhook",
            "POST",
            "/stripe/webhook",
            body=raw,
            headers={"stripe-signature": signature},
            encoded=self.seed % 2 == 1,
        )
        return answer.status

    def apply(self, *messages: Message) -> set[int]:
        """A batch of the events queue; which of them come back."""
        return self.processes.take("apply_stripe_event", messages)

    def reconcile(self) -> int:
        """The daily comparison with Stripe; how many differences in money it could not repair."""
        before = self.processes.metrics["DriftMoneyFindings"]
        self.processes.call("reconcile", {"reconcile": "daily"})
        return int(self.processes.metrics["DriftMoneyFindings"] - before)

    def tick(self) -> None:
        """The schedule."""
        self.processes.call("billing_run", {"tick": "billing"})

    # --- the world's own part ---

    def deliver(self) -> int:
        """Hand over the webhooks that are due; Stripe comes again where it gets no answer."""
        done = 0
        for delivery in self.stripe.due_deliveries():
            done += 1
            if not self.webhooks:
                self.stripe.deliver(delivery, 0)
                continue
            status = 500

            def hear(given: Any = delivery) -> None:
                nonlocal status
                status = self.receive(given.body, given.headers["Stripe-Signature"])

            self.judge(self.gate.solo(hear))
            self.stripe.deliver(delivery, status)
        return done

    def drain(self) -> int:
        """Process what is visible in both queues until nothing is; what fails comes back, four times at most."""
        done = 0
        for queue, function, most in ((self.events, "apply_stripe_event", 10), (self.queue, "bill_subscription", 5)):
            while ready := [message for message in queue if message.at <= self.clock.now()]:
                self.rng.shuffle(ready)
                ready = ready[:most]
                done += len(ready)
                for message in ready:
                    message.receives += 1
                failed = set(range(len(ready)))

                def take(function: str = function, ready: list[Message] = ready) -> None:
                    nonlocal failed
                    failed = self.processes.take(function, ready)

                self.judge(self.gate.solo(take))
                for at, message in enumerate(ready):
                    if at not in failed or message.receives >= RECEIVES:
                        queue[:] = [each for each in queue if each is not message]
                        if at in failed:
                            self.met["dead letter"] += 1
                            self.dead.append((queue, message))
                    else:
                        message.at = self.clock.now() + timedelta(minutes=6)
        return done

    def _redrive(self) -> None:
        """Somebody moves dead letters back, once."""
        for queue, message in self.dead:
            self.met["redriven"] += 1
            queue.append(Message(message.body, self.clock.now(), message.group))
        self.dead = []

    def settle(self, until: datetime | None = None) -> None:
        """Nothing fails any more: redeliveries and ticks until nothing is left to do (or until an instant)."""
        self.gate.quiet()
        self.quiet_since = self.clock.now()
        if self.seed % 2:
            self._redrive()
        for _ in range(MOST_ROUNDS):
            for batch in self.batches:
                if not batch.done and batch.answers >= 0 and _sendable(batch, self.clock.now()):
                    ended = self.gate.solo(lambda batch=batch: self.send(batch))  # type: ignore[misc]
                    if ended is not None:
                        raise ended
            for wish in self.wishes:
                while not wish.status:
                    self.judge(self.gate.solo(lambda wish=wish: self.ask(wish)))  # type: ignore[misc]
                    if not wish.status:  # its key is in use until the invocation that died would have been over
                        self.clock.advance(timedelta(milliseconds=TIME_LEFT))
            self.judge(self.gate.solo(self.tick))
            while self.deliver() + self.drain():
                pass
            following = self._following(until)
            if following is None or (until is not None and following > until):
                break
            self.clock.move_to(following)
        if until is not None:
            self.clock.move_to(until)

    def _following(self, until: datetime | None) -> datetime | None:
        """When something is next; what is overdue waits for its lease to end. None: nothing but billing dates later."""
        now = self.clock.now()
        near = [message.at for message in (*self.queue, *self.events) if message.at > now]
        billing: list[datetime] = []
        due = self.stripe.next_delivery_at()
        if due is not None and self.webhooks:
            near.append(max(due, now))
        for kind, at in due_entries(self.dynamodb):
            if at <= now:
                near.append(now + (HOUR if self.hourly else AFTER_LEASE))
            elif kind != "SUBSCRIPTION" or (until is not None and at <= until):
                near.append(at)
            else:
                billing.append(at)
        following = min(near, default=None)
        # No tick is left out on the way to what comes later.
        return following if following is None else min((following, *billing))


def _in_use(answer: Answer) -> bool:
    return answer.status == HTTPStatus.CONFLICT and answer.document["code"] == "idempotency_key_in_use"


def _sendable(batch: Batch, now: datetime) -> bool:
    return all(each.at <= now + timedelta(minutes=5) for each in batch.events)


def due_shards(dynamodb: MemoryDynamoDB) -> list[int]:
    """Shards of the to-do list that hold anything, read off the index itself."""
    index = tables(dynamodb)[CORE].indexes["due"]
    return sorted(int(key[-2:]) for key in index.space.partitions if key.startswith("DUE#") and key[-2:].isdigit())


def due_entries(dynamodb: MemoryDynamoDB) -> Iterator[tuple[str, datetime]]:
    """What the Core table itself says is due: kind and instant."""
    for partition in tables(dynamodb)[CORE].space.partitions.values():
        for row in partition.rows.values():
            due = row.item.get("due_sk")
            if due is not None and str(row.item["due_pk"]["S"]).startswith("DUE#"):
                sk: Any = row.item["sk"]["S"]
                text: Any = due["S"]
                yield str(sk).partition("#")[0], datetime.fromisoformat(str(text).partition("#")[0])


def tables(dynamodb: MemoryDynamoDB) -> dict[str, Table]:
    """The tables inside, for whoever looks from outside the system."""
    return dynamodb._tables  # the simulator looks where no client can


# --- making worlds quickly: everything before the interesting moment is made once and copied ---


@dataclass(frozen=True)
class Prepared:
    """A tariff's world at its start, opening bill not made."""

    tables: dict[str, Table]
    stripe_account: bytes
    account: str
    customer: str
    card: str


@cache
def _template() -> dict[str, Any]:
    return template.load(ROOT / "template.yaml")


@cache
def prepared(tariff: Tariff, subscriptions: int, opened: bool) -> Prepared:
    """Make one, with `opened` its opening bills made and paid."""
    from monetize import wiring
    from monetize.adapters.dynamo import keys
    from monetize.adapters.dynamo.table import Table as CoreTable
    from monetize.adapters.dynamo.table import claim, put
    from monetize.domain.catalog import Product, Tier
    from monetize.domain.meters import Meter
    from monetize.domain.plans import Plan, PlanVersion
    from monetize.domain.publishers import Publisher, StripeLink
    from monetize.domain.subscriptions import Application, Customer, Subscriber, Subscription, begun, scheduled

    os.environ.update(ENVIRONMENT)
    clock = Clock(START)
    dynamodb = MemoryDynamoDB(clock)
    create_tables(dynamodb.as_boto3(), _template())
    stripe = StripeEmulator(clock, seed=1)
    account = stripe.connect_account(name=PUBLISHER)
    sdk, on = client_for(stripe), {"stripe_account": account.id}
    marked = {"monetize": "customer", "publisher": PUBLISHER, "subscriber": SUBSCRIBER}
    customer = sdk.v1.customers.create({"name": "dev", "metadata": marked}, on).id  # type: ignore[arg-type]
    card = sdk.v1.payment_methods.attach("pm_card_visa", {"customer": customer}, on).id  # type: ignore[arg-type]
    chosen = {"invoice_settings": {"default_payment_method": card}}
    sdk.v1.customers.update(customer, chosen, on)  # type: ignore[arg-type]
    plans = [("plan_1", "tier_1", tariff), ("plan_2", "tier_2", other_than(tariff))]
    products = {plan: sdk.v1.products.create({"name": what.name}, on).id for plan, _, what in plans}  # type: ignore[arg-type]
    link = StripeLink(
        account=account.id,
        livemode=False,
        scope="read_write",
        connected_at=START,
        charges_enabled=True,
        currency=tariff.currency,
    )
    core = CoreTable(dynamodb, CORE)
    made: list[Any] = [
        Publisher(id=PUBLISHER, status="enabled", stripe=link, created_at=START, enabled_at=START),
        Meter(id=CALLS, publisher=PUBLISHER, name="Calls", event_type="api.call", short=1, created_at=START),
        Meter(
            id=UNITS,
            publisher=PUBLISHER,
            name="Units",
            event_type="api.call",
            aggregation="sum",
            value_property="n",
            short=2,
            created_at=START,
        ),
        Product(id="api_1", publisher=PUBLISHER, name="Weather", tiers=("tier_1", "tier_2"), created_at=START),
        Subscriber(
            id=SUBSCRIBER,
            publisher=PUBLISHER,
            customers=(Customer(account=account.id, id=customer, payment_method=card),),
            created_at=START,
        ),
    ]
    for plan, tier, what in plans:
        made += [
            Plan(
                id=plan,
                publisher=PUBLISHER,
                name=what.name,
                status="published",
                latest=1,
                created_at=START,
                updated_at=START,
            ),
            PlanVersion(
                plan=plan,
                publisher=PUBLISHER,
                number=1,
                name=what.name,
                terms=terms_of(what),
                published_at=START,
                stripe_product=products[plan],
            ),
            Tier(id=tier, publisher=PUBLISHER, name=tier, commercial=True, plan=plan, created_at=START),
        ]
    for number in range(subscriptions):
        waiting = Subscription(
            id=f"sub_{number + 1}",
            publisher=PUBLISHER,
            subscriber=SUBSCRIBER,
            application=f"app_{number + 1}",
            product="api_1",
            apis=("api_1",),
            tier="tier_1",
            status="active",
            plan="plan_1",
            version=1,
            currency=tariff.currency,
            account=account.id,
            created_at=START,
        )
        live = begun(waiting, START, advance=bool(tariff.ahead), trial_days=0, anchor="calendar")
        made.append(scheduled(live, 24))
        made.append(
            Application(
                id=f"app_{number + 1}", publisher=PUBLISHER, subscriber=SUBSCRIBER, name="a", live=1, created_at=START
            )
        )
    for entity in made:
        core.write(put(entity))
    for number in range(subscriptions):
        sub = f"sub_{number + 1}"
        core.write(
            claim(keys.publisher_subscription(PUBLISHER, sub), sub),
            claim(keys.subscriber_subscription(PUBLISHER, SUBSCRIBER, sub), sub),
            claim(keys.plan_subscription("plan_1", 1, sub), sub),
            claim(keys.guard(f"app_{number + 1}", "api_1"), sub),
        )
    for table in tables(dynamodb).values():
        table.view = "NEW_AND_OLD_IMAGES"
        table.changes.clear()
    if opened and tariff.ahead:
        processes = Processes(0, lambda: 0, clock.now, raise_unexpected)
        wiring.override(
            clock=clock,
            ids=Ids(0),
            dynamodb=dynamodb,
            ssm=MemorySSM({"/key": stripe.platform_key}),
            stripe_http=EmulatorHTTPClient(stripe),
        )
        for number in range(subscriptions):
            clock.advance(timedelta(seconds=1))
            processes.take("bill_subscription", [Message({"kind": "subscription", "id": f"sub_{number + 1}"}, START)])
        wiring.override()
    return Prepared(tables(dynamodb), pickle.dumps(account), account.id, customer, card)


def build(seed: int, tariff: Tariff | None = None, *, opened: bool = True, subscriptions: int = 1) -> World:
    """A fresh world of this seed, wired to the services."""
    from monetize import wiring

    rng = Random(seed)
    tariff = tariff or TARIFFS[rng.randrange(len(TARIFFS))]
    base = prepared(tariff, subscriptions, opened)
    os.environ.update(ENVIRONMENT)
    clock = Clock(START + timedelta(minutes=1))
    dynamodb = MemoryDynamoDB(clock)
    for name, table in base.tables.items():
        tables(dynamodb)[name] = _copied(table)
        dynamodb._expiries[name] = []  # nothing here lives long enough to expire
    stripe = StripeEmulator(clock, seed=seed + 1000)
    stripe.accounts[base.account] = pickle.loads(base.stripe_account)  # noqa: S301 # our own bytes
    gate = Gate(rng, clock, put_away=put_away)
    gate.watch(dynamodb)
    follow(clock)
    world = World(
        seed,
        tariff,
        rng,
        clock,
        gate,
        dynamodb,
        stripe,
        base.account,
        tuple(f"sub_{number + 1}" for number in range(subscriptions)),
        Processes(seed, lambda: gate.worker, clock.now, raise_unexpected),
        customer=base.customer,
        card=base.card,
    )

    world.processes.judge = world.judge
    dynamodb.query = _quick(dynamodb)  # type: ignore[method-assign]

    def taken(queue: str, body: str, group: str, at: datetime) -> None:
        message = Message(msgspec.json.decode(body), at, group)
        if queue != "billing":
            world.events.append(message)
        elif message.body["kind"] != "shard" or message.body["shard"] in due_shards(dynamodb):
            world.queue.append(message)  # a shard that holds nothing would find nothing: worlds have to be quick

    wiring.override(
        clock=clock,
        ids=Ids(seed),
        dynamodb=dynamodb,
        sqs=Sqs(gate, clock, taken),
        ssm=MemorySSM({"/key": stripe.platform_key, "/webhook": '["whsec_test"]'}),
        stripe_http=GatedStripe(stripe, gate),
        events=SimpleNamespace(put_events=lambda **_: {"FailedEntryCount": 0, "Entries": []}),
    )
    object.__setattr__(wiring.core(), "pause", lambda _seconds: None)  # time stands still here
    return world


def _quick(dynamodb: MemoryDynamoDB) -> Callable[..., Any]:
    """Queries that answer at once for shards that hold nothing: schedules ask 64 of them, worlds fill two at most."""
    query = dynamodb.query
    due, usage = tables(dynamodb)[CORE].indexes["due"].space.partitions, tables(dynamodb)[USAGE].space.partitions
    nothing: dict[str, Any] = {"Items": [], "Count": 0, "ScannedCount": 0}

    def quickly(**request: Any) -> Any:
        values = request["ExpressionAttributeValues"]
        shard = values[":shard"]["S"] if request.get("IndexName") == "due" and ":shard" in values else None
        if shard is not None and shard not in due:
            return dict(nothing)
        partition = values[":pk"]["S"] if ":pk" in values else ""
        if partition.startswith("COMPACT#") and partition not in usage:
            return dict(nothing)
        return query(**request)

    return quickly


def _copied(table: Table) -> Table:
    """A table of its own with the same rows, which nobody ever changes in place."""
    made = Table(table.name, table.schema, table.created, table.definition)
    made.space = _copied_space(table.space)
    for name, index in table.indexes.items():
        twin = Index(name, index.schema, index.table, index.projection, frozenset(), local=index.local)
        twin.attributes = index.attributes
        twin.space = _copied_space(index.space)
        made.indexes[name] = twin
    made.ttl_attribute, made.view = table.ttl_attribute, table.view
    made.items, made.bytes = table.items, table.bytes
    return made


def _copied_space(space: Space) -> Space:
    made = Space()
    for head, partition in space.partitions.items():
        twin = made.partitions[head] = type(partition)()
        twin.keys, twin.rows = list(partition.keys), dict(partition.rows)
    return made


# --- usage ---


def usage(world: World, first: datetime, last: datetime, batches: int, *, tag: str) -> list[Batch]:
    """Batches of events between two instants: some events twice, some batches named, edges of days among them."""
    rng = world.rng
    made: list[Batch] = []
    days = max(1, (last - first).days)
    before: list[Sent] = []
    for number in range(batches):
        sub = rng.choice(world.subscriptions)
        events: list[Sent] = []
        hot = first + timedelta(days=rng.randrange(days))
        for at in range(rng.randint(2, 12)):
            if before and rng.random() < 0.15:
                again = rng.choice(before)
                if again.subscription == sub:
                    events.append(again)
                    continue
            instant = hot if rng.random() < 0.5 else first + timedelta(days=rng.randrange(days))
            second = rng.choice((0, 1, 43_200, 86_399, rng.randrange(86_400)))
            instant = min(instant.replace(hour=0, minute=0, second=0) + timedelta(seconds=second), last)
            events.append(Sent(f"{tag}{number}-{at}", sub, max(instant, first), rng.choice((0, 1, 2, 3, 25))))
        before += events
        key = f"{tag}-key-{number}" if rng.random() < 0.3 else ""
        made.append(Batch(len(world.batches) + len(made), tuple(events), key))
    world.batches += made
    return made
