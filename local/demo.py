"""The whole product on one machine, through HTTP alone: `make demo`, or `make demo ACCESS_LOG=file`.

Starts the local system, then acts as portal, gateway and card holder: connect Stripe, publish a plan, subscribe, call
or import, let the month pass, and compare every invoice with what the demo computed by itself and with what Stripe
holds. Exits non-zero if an invoice is unpaid or a total differs by one minor unit.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from local import gateway, import_access_log, story
from local.clock import Clock
from local.http_client import HttpClient, Refused
from local.import_access_log import Entry, Imported
from local.loopback import Loopback, PortInUseError
from local.story import Offer, StoryError, World
from local.system import Ports, System
from local.tables import table
from local.usage_buffer import UsageBuffer, http_sender

PUBLISHER = "weatherworks"
TICKS = timedelta(hours=6)  # hourly in the template; most of those would find nothing
GRACE = timedelta(hours=24) + TICKS + timedelta(hours=1)  # the default grace, and the tick after it


@dataclass(frozen=True, slots=True)
class Prices:
    """The demo's Gold plan, in US cents; the demo computes with these by itself, apart from the system."""

    price: int = 1900
    max_daily_usage: int = 25
    overage_charge: int = 10
    overage_unit: int = 5

    def overage(self, by_day: Mapping[date, int]) -> int:
        """Each day's usage above the allowance, charged per started unit."""
        above = (max(0, used - self.max_daily_usage) for used in by_day.values())
        return sum(-(-each // self.overage_unit) * self.overage_charge for each in above)


LOG_PRICES = Prices(price=499, max_daily_usage=5, overage_charge=10, overage_unit=5)
MEGABYTE = 1_000_000


@dataclass(slots=True)
class Phases:
    """What took how long."""

    took: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase, and say that it began."""
        print(f"\n== {name}", flush=True)
        began = time.perf_counter()
        yield
        self.took.append((name, time.perf_counter() - began))


def progress(done: int, total: int, what: str) -> None:
    """Say every tenth of a long step."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"  {done:,}/{total:,} {what}", flush=True)


@dataclass(frozen=True, slots=True)
class Expected:
    """What one subscription's invoice must say, in cents."""

    name: str
    subscription: str
    usage: Mapping[date, int]
    amount: int
    lines: Mapping[str, int] = field(default_factory=dict)


def invoices_at_stripe(world: World, system: System, account: str) -> list[dict[str, Any]]:
    """Every invoice Stripe holds on the publisher's account, read with the platform's key."""
    found: list[dict[str, Any]] = []
    headers = {"Authorization": f"Bearer {system.emulator.platform_key}", "Stripe-Account": account}
    query = "limit=100"
    while True:
        answer = world.http.send("GET", f"{world.stripe}/v1/invoices?{query}", headers=headers)
        if answer.status >= 400:  # the first status that is an error
            raise Refused("GET /v1/invoices", answer.status, answer.body)
        page = answer.json()
        found.extend(page["data"])
        if not page["has_more"]:
            return found
        query = f"limit=100&starting_after={page['data'][-1]['id']}"


def compare(expected: Sequence[Expected], held: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> list[str]:
    """Every disagreement between the demo's own arithmetic, the API and Stripe; none is the only good answer."""
    wrong: list[str] = []
    at_stripe: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for invoice in held:
        at_stripe[invoice["metadata"]["subscription"]].append(invoice)
        if invoice["status"] != "paid":
            wrong.append(f"invoice {invoice['id']} is {invoice['status']} at Stripe")
    known = {invoice["id"]: invoice for invoice in ours}
    for each in expected:
        total = sum(invoice["total"] for invoice in at_stripe.pop(each.subscription, []))
        if total != each.amount:
            wrong.append(f"{each.name}: Stripe holds {total}, expected {each.amount}")
    wrong.extend(f"{subscription}: Stripe holds an invoice that nobody expected" for subscription in at_stripe)
    for invoice in held:
        mine = known.pop(invoice["metadata"]["invoice"], None)
        if mine is None or (mine["amount"], mine["status"]) != (invoice["total"], "paid"):
            wrong.append(f"invoice {invoice['id']}: the API says {mine and (mine['amount'], mine['status'])}")
    wrong.extend(f"the API has invoice {missing} and Stripe has not" for missing in known)
    return wrong


def let_pass(world: World, start: datetime, until: datetime) -> None:
    """Move the clock day by day, hour by hour on the last two, and say so."""
    at = start
    while at < until:
        at = min(until, at + (timedelta(days=1) if until - at > timedelta(days=2) else timedelta(hours=6)))
        world.run_until(at)
        print(f"  the clock stands at {at:%Y-%m-%d %H:%M}", flush=True)


def money(cents: int) -> str:
    """US dollars."""
    return f"${cents // 100:,}.{cents % 100:02d}"


def show_invoice(subscriber: Any, invoice: Mapping[str, Any]) -> None:
    """One invoice with the arithmetic of its lines."""
    full = subscriber.call("GET", f"/invoices/{invoice['id']}")
    rows = [(line["description"], money(line["amount"])) for line in full["lines"]]
    print(table(("line", "amount"), [*rows, ("total", money(full["amount"]))]))


@contextmanager
def local_system(start: datetime, port: int) -> Iterator[tuple[System, World]]:
    """The system on loopback, at an instant, and a world that only knows its addresses."""
    quiet = {"POWERTOOLS_METRICS_DISABLED": "true"}
    with System(clock=Clock(start), ports=Ports(api=port), environment=quiet) as system:
        system.schedules.at_most_every = TICKS
        system.start()
        world = World(system.url, system.stripe_url)
        try:
            yield system, world
        finally:
            world.http.close()


def enable(world: World) -> Any:
    """The publisher connects Stripe and enables monetization."""
    publisher = world.as_user("ann", PUBLISHER, "publisher_admin")
    enabled = story.connect_stripe(world, publisher, "Weatherworks Inc")
    print(f"  {enabled['message']}")
    print(f"  connected account {enabled['publisher']['stripe']['account']}")
    return publisher, enabled["publisher"]["stripe"]["account"]


def plan_of(prices: Prices) -> dict[str, Any]:
    """WSO2's four fields."""
    return {
        "name": "Gold",
        "wso2": {
            "price": prices.price,
            "max_daily_usage": prices.max_daily_usage,
            "overage_charge": str(prices.overage_charge),
            "overage_unit": prices.overage_unit,
            "meter": "{requests}",
            "currency": "usd",
        },
    }


def short_story(port: int, phases: Phases) -> list[str]:
    """A publisher, one paying and one free subscriber, a month of calls through a gateway."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    prices = Prices()
    with local_system(start, port) as (system, world):
        with phases("Connect with Stripe and enable monetization"):
            publisher, account = enable(world)
        with phases("A Gold plan beside a free tier, on one API"):
            meter = {
                "name": "Requests",
                "event_type": gateway.EVENT_TYPE,
                "unit": "calls",
                "filters": [{"property": "status", "ranges": [[200, 399]]}],
            }
            offer = story.publish_offer(publisher, PUBLISHER, "Weather", plan_of(prices), {"requests": meter})
            print("  the API is labelled FREEMIUM")
        with phases("A subscriber sees the order summary, subscribes, pays by Checkout"):
            buyer = world.as_user("bob", "globex", "subscriber")
            order = {"publisher": PUBLISHER, "product": offer.api, "tier": offer.gold_tier}
            summary = buyer.call("POST", "/subscriptions/preview", order)
            print(
                f"  first invoice {summary['first_amount_text']}, then every month {money(summary['recurring_month'])}"
            )
            for charge in summary["charges"]:
                print(f"    {charge['words']}")
            paid = story.subscribe(world, buyer, offer, "Globex app", offer.gold_tier, "bills@globex.example")
            free = story.subscribe(world, buyer, offer, "Globex trial", offer.free_tier, "bills@globex.example")
            keys = {
                name: buyer.call("POST", f"/subscriptions/{each['id']}/keys", {}, Idempotency_Key=f"key-{name}")["key"]
                for name, each in (("paid", paid), ("free", free))
            }
            print(f"  subscription {paid['id']} is {paid['status']}; its key was shown once")
        with phases("A month of real calls through the publisher's gateway"):
            usage = month_of_calls(system, world, offer, keys, start)
            rows = [
                (str(day), usage["paid"][day], max(0, usage["paid"][day] - prices.max_daily_usage))
                for day in sorted(usage["paid"])
            ]
            print(table(("day", "calls", "above the allowance"), rows))
        with phases("The billing run of the next month"):
            let_pass(world, start + timedelta(days=31), start + timedelta(days=31) + GRACE)
        with phases("What was invoiced, and what Stripe holds"):
            buyer = world.as_user("bob", "globex", "subscriber")
            publisher = world.as_user("ann", PUBLISHER, "publisher_admin")
            ours = publisher.all("/invoices?side=publisher&month=2026-01") + publisher.all(
                "/invoices?side=publisher&month=2026-02"
            )
            for invoice in ours:
                print(f"  invoice {invoice['number']}, {invoice['status']}:")
                show_invoice(buyer, invoice)
            expected = Expected(
                "Globex app", paid["id"], usage["paid"], 2 * prices.price + prices.overage(usage["paid"])
            )
            return verdict([expected], invoices_at_stripe(world, system, account), ours)


def month_of_calls(
    system: System, world: World, offer: Offer, keys: Mapping[str, str], start: datetime
) -> dict[str, Counter[date]]:
    """Call the sample API with both keys on every day of January; the gateway reports what it saw."""
    counted: dict[str, Counter[date]] = {name: Counter() for name in keys}
    http = HttpClient()
    with tempfile.TemporaryDirectory() as folder:
        sender = http_sender(world.api, offer.gateway_key)
        buffer = UsageBuffer(Path(folder), sender, source="urn:gateway:edge-1")
        check = gateway.http_check(world.api, offer.gateway_key)
        edge = gateway.PublisherGateway(offer.api, check, buffer, gateway.weather, system.clock)
        server = Loopback("the publisher's gateway", 0)
        server.start(edge.handle)
        try:
            for day in range(31):
                world.run_until(start + timedelta(days=day, hours=12))
                for name, calls in (("paid", 10 + day * 7 % 37), ("free", 3)):
                    for call in range(calls):
                        city = "oslo" if call % 9 else "nowhere/else"  # the latter is a 404: seen, and not counted
                        answer = http.send("GET", f"{server.url}/weather/{city}", headers={"X-Api-Key": keys[name]})
                        if answer.status == 200:
                            counted[name][(start + timedelta(days=day)).date()] += 1
                        elif answer.status != 404:
                            raise Refused("the sample API", answer.status, answer.body)
                buffer.flush()
                progress(day + 1, 31, "days called")
            refused = http.send("GET", f"{server.url}/weather/oslo", headers={"X-Api-Key": "mk_live_nobody"})
            print(f"  an unknown key gets {refused.status}")
        finally:
            server.close()
            http.close()
    return counted


def verdict(expected: Sequence[Expected], held: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> list[str]:
    """Print the comparison; answers what is wrong."""
    wrong = compare(expected, held, ours)
    totals = {
        "computed by the demo": sum(each.amount for each in expected),
        "invoiced by the system": sum(invoice["amount"] for invoice in ours),
        "held by Stripe": sum(invoice["total"] for invoice in held),
        "paid at Stripe": sum(invoice["amount_paid"] for invoice in held),
    }
    print(f"  {len(held)} invoices on the publisher's account")
    print(table(("total", "cents", ""), [(name, cents, money(cents)) for name, cents in totals.items()]))
    return wrong


def log_story(path: Path, port: int, phases: Phases) -> list[str]:
    """A real server's log as the traffic: every client address an application, every line an event."""
    read = Imported()
    with phases(f"Read {path.name}"):
        entries = import_access_log.load(path, read)
        if not entries:
            raise StoryError(f"{path} holds no line that can be read")
        first = min(entry.at for entry in entries)
        month = datetime(first.year, first.month, 1, tzinfo=UTC)
        after = datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=UTC)
        for bad in read.malformed[:20]:
            print(f"  line {bad.number}: skipped, {bad.why}")
        other = [entry for entry in entries if not month <= entry.at < after]
        entries = [entry for entry in entries if month <= entry.at < after]
        clients = list(dict.fromkeys(entry.client for entry in sorted(entries, key=lambda entry: entry.at)))
        print(
            f"  {read.lines:,} lines, {len(read.malformed)} malformed, {len(other)} of another month than {month:%B %Y}"
        )
        print(f"  {len(clients):,} client addresses, each an application")
    with local_system(month, port) as (system, world):
        with phases("Connect with Stripe, publish the Gold plan"):
            publisher, account = enable(world)
            offer = story.publish_offer(publisher, PUBLISHER, "Site", log_plan(), log_meters())
        subscriptions, started = log_month(world, offer, entries, read, phases)
        with phases("The billing run of the next month"):
            let_pass(world, max(started.values(), default=month) + timedelta(days=1), after + GRACE)
        with phases("What was invoiced, and what Stripe holds"):
            publisher = world.as_user("ann", PUBLISHER, "publisher_admin")
            ours = publisher.all(f"/invoices?side=publisher&month={after:%Y-%m}")
            expected = log_expected(entries, subscriptions, started, month, after)
            top = sorted(expected, key=lambda each: -each.amount)[:5]
            rows = [(each.name, sum(each.usage.values()), *each.lines.values(), money(each.amount)) for each in top]
            print(table(("the five largest", "requests", "fee", "overage", "bytes", "total"), rows))
            by_subscription = {invoice["subscription"]: invoice for invoice in ours}
            if top and top[0].subscription in by_subscription:
                show_invoice(publisher, by_subscription[top[0].subscription])
            return verdict(expected, invoices_at_stripe(world, system, account), ours)


def log_plan() -> dict[str, Any]:
    """The Gold plan of the log: WSO2's fields, the fee in arrears, and every started megabyte a cent."""
    prices = LOG_PRICES
    return {
        "name": "Gold",
        "terms": {
            "currency": "usd",
            "charges": [
                {"id": "fee", "name": "Monthly fee", "model": "flat", "amount": prices.price, "timing": "arrears"},
                {
                    "id": "overage",
                    "name": "Overage",
                    "model": "package",
                    "meter": "{requests}",
                    "unit_price": str(prices.overage_charge),
                    "package_size": prices.overage_unit,
                    "allowance": {"quantity": prices.max_daily_usage, "per": "day"},
                },
                {
                    "id": "transfer",
                    "name": "Transfer",
                    "model": "package",
                    "meter": "{bytes}",
                    "unit_price": "1",
                    "package_size": MEGABYTE,
                },
            ],
        },
    }


def log_meters() -> dict[str, dict[str, Any]]:
    """Requests and bytes of what succeeded: status 2xx and 3xx."""
    succeeded = [{"property": "status", "ranges": [[200, 399]]}]
    kind = import_access_log.EVENT_TYPE
    return {
        "requests": {"name": "Requests", "event_type": kind, "unit": "requests", "filters": succeeded},
        "bytes": {
            "name": "Bytes",
            "event_type": kind,
            "aggregation": "sum",
            "value_property": "bytes",
            "unit": "bytes",
            "filters": succeeded,
        },
    }


def log_month(
    world: World, offer: Offer, entries: Sequence[Entry], read: Imported, phases: Phases
) -> tuple[dict[str, str], dict[str, datetime]]:
    """Day by day: whoever appears first subscribes at midnight, then the day's lines are reported."""
    subscriptions: dict[str, str] = {}
    started: dict[str, datetime] = {}
    by_day: dict[date, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_day[entry.at.date()].append(entry)
    source = "urn:access-log:demo"
    gate = world.as_gateway(offer.gateway_key)
    for day, lines in sorted(by_day.items()):
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        new = [client for client in dict.fromkeys(line.client for line in lines) if client not in subscriptions]
        with phases(f"{day}: {len(new)} new applications subscribe"):
            world.run_until(midnight)
            for number, client in enumerate(new, 1):
                # Addresses of one network share a subscriber: its first one leaves a card, the others have it on file.
                network = client.split(".")[0].split(":")[0]
                who = world.as_user(f"user-{network}", f"net-{network}", "subscriber")
                made = story.subscribe(world, who, offer, client, offer.gold_tier, f"ops@net-{network}.example")
                subscriptions[client], started[client] = made["id"], midnight
                progress(number, len(new), "subscribed")
        with phases(f"{day}: {len(lines)} lines are reported"):
            world.run_until(midnight + timedelta(days=1) - timedelta(seconds=1))
            import_access_log.send(lines, lambda entry: subscriptions.get(entry.client), gate, source, read)
            print(f"  {read.accepted:,} events accepted, {sum(read.refused.values())} refused", flush=True)
    return subscriptions, started


def log_expected(
    entries: Sequence[Entry],
    subscriptions: Mapping[str, str],
    started: Mapping[str, datetime],
    month: datetime,
    after: datetime,
) -> list[Expected]:
    """Each application's invoice, computed from the log alone."""
    requests: dict[str, Counter[date]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for entry in entries:
        if 200 <= entry.status <= 399:  # what the meters count
            requests[entry.client][entry.at.date()] += 1
            sizes[entry.client] += entry.bytes
    whole = int((after - month).total_seconds())
    found = []
    for client, subscription in subscriptions.items():
        lived = int((after - started[client]).total_seconds())
        fee = (2 * LOG_PRICES.price * lived + whole) // (2 * whole)  # half up
        overage = LOG_PRICES.overage(requests[client])
        transfer = -(-sizes[client] // MEGABYTE)
        lines = {"fee": fee, "overage": overage, "bytes": transfer}
        found.append(Expected(client, subscription, requests[client], sum(lines.values()), lines))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every invoice is paid and every total agrees."""
    parser = argparse.ArgumentParser(prog="python -m local.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--access-log", type=Path, help="take this web server's log as the traffic")
    parser.add_argument("--port", type=int, default=0, help="the API's port; a free one unless given")
    asked = parser.parse_args(arguments)
    phases = Phases()
    try:
        if asked.access_log is not None:
            wrong = log_story(asked.access_log, asked.port, phases)
        else:
            wrong = short_story(asked.port, phases)
    except (PortInUseError, StoryError, Refused, OSError) as failed:
        print(f"\ndemo: {failed}", file=sys.stderr)
        return 1
    print("\n== Time per phase")
    print(table(("phase", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in phases.took]))
    for each in wrong[:20]:
        print(f"WRONG: {each}", file=sys.stderr)
    print(f"\nFAILED: {len(wrong)} disagreements" if wrong else "\nEvery invoice is paid; every total agrees.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
