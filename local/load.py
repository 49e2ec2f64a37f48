"""The local system under load with faults on, over loopback: `make load`, or `python -m local.load --clients 50`.

Gateways report usage and ask for entitlements, buyers subscribe and look at their usage, all at once, while DynamoDB
throttles and refuses transactions, Stripe answers 429, 409 and 500, and queues deliver twice. A client that gets no
success sends the same request again, as the API asks. Afterwards every accepted event must be in the counters and in
the ledger, once, and every order must be one subscription. Handlers share one process and run one at a time, so the
figures are this machine's and a lower bound: in Lambda every request has a process of its own.

Exits non-zero when anything was lost or counted twice.
"""

import argparse
import json
import os
import platform
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from local.clock import Clock
from local.dynamodb.faults import Fault as TableFault
from local.http_client import Api, HttpClient
from local.story import World, connect_stripe, publish_offer, subscribe
from local.stripe_emulator.faults import Fault as StripeFault
from local.stripe_emulator.faults import Kind
from local.system import Ports, System
from local.tables import table

BATCH = "application/cloudevents-batch+json"
METERS = {"requests": {"name": "Calls", "event_type": "api.call", "aggregation": "count", "unit": "calls"}}
PLAN: Mapping[str, Any] = {
    "name": "Gold plan",
    "wso2": {
        "price": 1900,
        "max_daily_usage": 1000,
        "overage_charge": "100",
        "overage_unit": 1000,
        "meter": "{requests}",
        "currency": "usd",
    },
}
WRITES = frozenset({"PutItem", "UpdateItem", "TransactWriteItems", "BatchWriteItem"})
CONTACT = {"name": "Load", "email": "load@example.com", "country": "US"}
STRIPE_FAULTS: tuple[Kind, ...] = ("error_500", "rate_limited", "lock_timeout", "conflict", "time_out")
SHARES = {"usage": 55, "check": 30, "read": 10, "order": 5}
RESENT = 0.05  # of the batches that were answered: sent once more, and all duplicates
PATIENCE = 60  # times the same request is sent again; a crashed one holds its Idempotency-Key for 30 seconds
SUBSCRIPTIONS = 20


@dataclass(slots=True)
class Tally:
    """What all clients saw. One lock: it is taken for microseconds between requests of milliseconds."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    accepted: Counter[str] = field(default_factory=Counter)
    orders: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    wrong: list[str] = field(default_factory=list)
    unanswered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, route: str, seconds: float, status: int) -> None:
        with self.lock:
            self.took[route].append(seconds)
            self.statuses[route][status] += 1

    def complain(self, what: str) -> None:
        with self.lock:
            self.wrong.append(what)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the clients work on."""

    api: str
    publisher: str
    product: str
    tiers: tuple[str, ...]
    gateway_key: str
    subscriptions: tuple[str, ...]
    keys: tuple[str, ...]
    buyer_token: str


@dataclass(slots=True)
class TickingWorld(World):
    """A world whose clock goes by itself: only what is due is run."""

    system: System | None = None

    def settle(self) -> None:
        """Let webhooks and queues of this very instant arrive."""
        if self.system is not None:
            self.system.pump()


class Faults:
    """Throttling, conflicts and Stripe's refusals, by chance from a seed."""

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._random = Random(f"{seed}/faults")
        self._lock = threading.Lock()
        self.struck: Counter[str] = Counter()

    def start(self, rate: float) -> None:
        """A share of DynamoDB's calls and of Stripe's fail from now on; queues deliver some messages twice."""

        def table_fault(operation: str, request: Mapping[str, Any]) -> TableFault | None:
            with self._lock:
                drawn = self._random.random()
            if drawn >= rate or operation not in WRITES:
                return None
            items = request.get("TransactItems", (None,))
            at = (self._random.randrange(len(items)),)
            conflicts = "TransactItems" in request and drawn < rate / 2
            self.struck["conflicts" if conflicts else "throttled"] += 1
            return TableFault("TransactionConflict" if conflicts else "ThrottlingError", at)

        self._system.dynamodb.inject = table_fault
        self._system.sqs.faults.duplicate = rate
        self._system.emulator.faults += [
            StripeFault(kind, method=method, nth=nth, times=1, stored=False)
            for number, kind in enumerate(STRIPE_FAULTS * 40)
            for method, nth in (("POST", 3 + number * 5), ("GET", 7 + number * 9))
        ]

    def stop(self) -> None:
        """Everything works again."""
        self._system.dynamodb.inject = None
        self._system.sqs.faults.duplicate = 0.0
        self.struck["stripe"] = sum(each.seen >= each.nth for each in self._system.emulator.faults)
        self._system.emulator.faults.clear()


class Client(threading.Thread):
    """One gateway or buyer with connections of its own."""

    def __init__(self, number: int, stage: Stage, tally: Tally, system: System, until: float, seed: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._number = number
        self._stage = stage
        self._tally = tally
        self._system = system
        self._until = until
        self._random = Random(f"{seed}/{number}")
        self._http = HttpClient()
        self._sent = 0

    def run(self) -> None:
        """Requests until the time is over; the last one is carried through."""
        try:
            while time.monotonic() < self._until:
                what = self._random.choices(list(SHARES), list(SHARES.values()))[0]
                getattr(self, f"_{what}")()
        except Exception as broken:  # noqa: BLE001 # a thread's failure is the run's failure, and must be told
            self._tally.complain(f"{self.name}: {broken!r}")
        finally:
            self._http.close()

    def _ask(self, route: str, method: str, path: str, body: Any, token: str, **headers: str) -> Any:
        """Send until there is an answer that is not "again"; its JSON, or None when patience ends."""
        data = json.dumps(body).encode() if body is not None else b""
        sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        for attempt in range(PATIENCE):
            began = time.perf_counter()
            answer = self._http.send(method, self._stage.api + path, data, sent)
            self._tally.add(route, time.perf_counter() - began, answer.status)
            if answer.status < 400:
                return answer.json()
            if answer.status not in (429, 500, 503) and not (answer.status == 409 and b"in_use" in answer.body):
                self._tally.complain(f"{route} answered {answer.status}: {answer.body[:200]!r}")
                return None
            time.sleep(min(2.0, 0.05 * 2**attempt) * (0.5 + self._random.random() / 2))
        with self._tally.lock:
            self._tally.unanswered += 1
        return None

    def _events(self, subscription: str, now: datetime) -> list[dict[str, Any]]:
        events = []
        for _ in range(self._random.choice((1, 1, 5, 20))):
            self._sent += 1
            events.append(
                {
                    "specversion": "1.0",
                    "id": f"{self._number}-{self._sent}",
                    "source": "urn:gateway:load",
                    "type": "api.call",
                    "subject": subscription,
                    "time": (now - timedelta(seconds=self._random.random() * 60)).isoformat().replace("+00:00", "Z"),
                    "data": {"status": 200},
                }
            )
        return events

    def _usage(self) -> None:
        subscription = self._random.choice(self._stage.subscriptions)
        events = self._events(subscription, self._system.clock.now())
        for again in (False, True):
            if again and self._random.random() >= RESENT:
                return
            key = self._stage.gateway_key
            told = self._ask("POST /usage/events", "POST", "/usage/events", events, key, Content_Type=BATCH)
            if told is None:
                return
            counted = told["accepted"] + told["duplicates"]
            if counted != len(events):
                self._tally.complain(f"{len(events)} events, answered {told}")
            if not again:
                with self._tally.lock:
                    self._tally.accepted[subscription] += len(events)

    def _check(self) -> None:
        body = {"key": self._random.choice(self._stage.keys), "api": self._stage.product}
        told = self._ask("POST /entitlements/check", "POST", "/entitlements/check", body, self._stage.gateway_key)
        if told is not None and not told["allowed"]:
            self._tally.complain(f"a paid key was refused: {told}")

    def _read(self) -> None:
        subscription = self._random.choice(self._stage.subscriptions)
        self._ask("GET /subscriptions/{id}", "GET", f"/subscriptions/{subscription}", None, self._stage.buyer_token)

    def _order(self) -> None:
        token, self._sent = self._system.token("buyer", f"buyer-{self._number}", roles="subscriber"), self._sent + 1
        name = f"order-{self._number}-{self._sent}"
        body: dict[str, Any] = {"publisher": self._stage.publisher, "name": name}
        made = self._ask("POST /applications", "POST", "/applications", body, token, Idempotency_Key=name)
        if made is None:
            return
        order = {"publisher": self._stage.publisher, "application": made["id"], "product": self._stage.product}
        order |= {"tier": self._random.choice(self._stage.tiers), "contact": CONTACT}
        for _ in range(1 + (self._random.random() < RESENT)):
            told = self._ask("POST /subscriptions", "POST", "/subscriptions", order, token, Idempotency_Key=name)
            if told is not None:
                with self._tally.lock:
                    self._tally.orders[made["id"]].add(told["id"])


def build(world: World) -> Stage:
    """One publisher, twenty paid subscriptions with a key each, and what buyers may order."""
    publisher = world.as_user("ann", "acme", "publisher_admin")
    connect_stripe(world, publisher, "Acme")
    offer = publish_offer(publisher, "acme", "Weather", PLAN, METERS)
    buyer = world.as_user("bob", "globex", "subscriber")
    made, keys = [], []
    for number in range(SUBSCRIPTIONS):
        one = subscribe(world, buyer, offer, f"App {number}", offer.gold_tier, "bob@globex.example")
        made.append(one["id"])
        keys.append(buyer.call("POST", f"/subscriptions/{one['id']}/keys", {}, Idempotency_Key=f"key-{number}")["key"])
    # One order in five is paid: a customer and a page for a card are made at Stripe, faults and all.
    tiers = (*[offer.free_tier] * 4, offer.gold_tier)
    return Stage(world.api, "acme", offer.api, tiers, offer.gateway_key, tuple(made), tuple(keys), buyer.token)


def settle(system: System, world: World, stage: Stage, tally: Tally, clients: int) -> list[str]:
    """With the faults gone: what was accepted against counters and ledger, and orders against subscriptions."""
    system.pump()
    wrong = list(tally.wrong)
    buyer = world.as_user("bob", "globex", "subscriber")
    today = system.clock.now().date()
    days = (today - timedelta(days=1), today)
    for subscription in stage.subscriptions:
        rows = buyer.call("GET", f"/subscriptions/{subscription}/usage?from={days[0]}&to={days[1]}")["items"]
        counted = sum(row["quantity"] for row in rows)
        batches = [each for day in days for each in buyer.all(f"/subscriptions/{subscription}/usage/ledger?day={day}")]
        recorded = sum(quantity for batch in batches for quantity in batch["quantities"].values())
        if not counted == recorded == tally.accepted[subscription]:
            told = f"{tally.accepted[subscription]} events accepted, {counted} counted, {recorded} in the ledger"
            wrong.append(f"{subscription}: {told}")
    live: Counter[str] = Counter()
    for number in range(clients):
        one = Api(world.http, world.api, system.token("buyer", f"buyer-{number}", roles="subscriber"))
        live.update(each["application"] for each in one.all("/subscriptions?publisher=acme"))
        names = Counter(each["name"] for each in one.all("/applications?publisher=acme"))
        wrong += [f"buyer-{number} has {times} applications {name}" for name, times in names.items() if times > 1]
    for application in {*live, *tally.orders}:
        answered = tally.orders[application]  # none where patience ended
        if len(answered) > 1 or live[application] > 1 or (answered and not live[application]):
            wrong.append(f"{application} was answered {sorted(answered)} and has {live[application]} subscriptions")
    return wrong


def percentile(times: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))] * 1000


def summary(tally: Tally, seconds: float, clients: int, faults: Counter[str], wrong: Sequence[str]) -> dict[str, Any]:
    """The figures as they are written."""
    routes = {
        route: {
            "requests": len(times),
            "p50_ms": round(percentile(times, 0.50), 1),
            "p99_ms": round(percentile(times, 0.99), 1),
            "max_ms": round(max(times) * 1000, 1),
            "statuses": {str(status): count for status, count in sorted(tally.statuses[route].items())},
        }
        for route, times in sorted(tally.took.items())
    }
    return {
        "clients": clients,
        "seconds": round(seconds, 1),
        "requests_per_second": round(sum(len(times) for times in tally.took.values()) / seconds, 1),
        "events_accepted": sum(tally.accepted.values()),
        "orders": len(tally.orders),
        "unanswered": tally.unanswered,
        "faults": dict(faults),
        "wrong": list(wrong),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "routes": routes,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and tell by the exit code whether everything added up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--faults", type=float, default=0.02, help="share of DynamoDB writes that fail")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    asked = parser.parse_args(arguments)
    with System(clock=Clock(ticking=True), ports=Ports(), seed=asked.seed).start(ticking=True) as system:
        world = TickingWorld(system.url, system.stripe_url, system=system)
        stage = build(world)
        tally, faults = Tally(), Faults(system, asked.seed)
        faults.start(asked.faults)
        began = time.monotonic()
        until = began + asked.seconds
        clients = [Client(number, stage, tally, system, until, asked.seed) for number in range(asked.clients)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(max(0.0, until + 120 - time.monotonic()))
            if client.is_alive():
                tally.complain(f"{client.name} came to no end")
        took = time.monotonic() - began
        faults.stop()
        wrong = settle(system, world, stage, tally, asked.clients)
        wrong += [f"a function failed: {each.error}" for each in unexpected(system)]
        world.http.close()
    found = summary(tally, took, asked.clients, faults.struck, wrong)
    show(found)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 1 if wrong else 0


def unexpected(system: System) -> list[Any]:
    """Failures of functions that no fault of ours explains."""
    faults = ("Throughput", "Throttling", "TransactionCanceled", "TransactionConflict", "Batch", "ProviderBusy")
    return [each for each in system.functions.failures if not any(name in each.error + each.trace for name in faults)]


def show(found: Mapping[str, Any]) -> None:
    """The figures as a table, and what is wrong."""
    print(
        f"{found['clients']} clients for {found['seconds']} s on {found['cores']} cores: "
        f"{found['requests_per_second']} requests/s, {found['events_accepted']:,} events accepted, "
        f"{found['orders']} orders, faults {found['faults']}"
    )
    rows = [
        (
            route,
            one["requests"],
            f"{one['p50_ms']:.0f}",
            f"{one['p99_ms']:.0f}",
            f"{one['max_ms']:.0f}",
            one["statuses"],
        )
        for route, one in found["routes"].items()
    ]
    print(table(("route", "requests", "p50 ms", "p99 ms", "max ms", "statuses"), rows))
    print(f"  given up after {PATIENCE} tries: {found['unanswered']}")
    for each in found["wrong"][:20]:
        print(f"WRONG: {each}")
    print("nothing lost, nothing twice" if not found["wrong"] else f"{len(found['wrong'])} wrong")


if __name__ == "__main__":
    sys.exit(main())
