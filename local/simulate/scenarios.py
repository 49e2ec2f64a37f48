"""What is tried: every crash point of every flow, two and three workers beside each other, and everything at once."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from local.simulate import prices
from local.simulate import world as worlds
from local.simulate.check import check, orphans
from local.simulate.gate import Chances, Crash
from local.simulate.prices import TARIFFS
from local.simulate.processes import Caller, Message, raise_unexpected
from local.simulate.world import HOUR, PUBLISHER, SOURCE, START, SUBSCRIBER, Batch, Sent, Wish, World, build, usage
from local.stripe_emulator.refusals import Refusal

FIRST, SECOND = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STORY = 400
WATCHED = ("Billing_subscription_waiting", "Billing_subscription_later", "Billing_bill_elsewhere", "EventsLate")


@dataclass(slots=True)
class Result:
    """One world that was run."""

    kind: str
    seed: int
    found: list[str]
    doors: int = 0
    crashes: int = 0
    faults: int = 0
    schedule: bytes = b""
    story: list[str] = field(default_factory=list)
    extra: str = ""
    met: Counter[str] = field(default_factory=Counter)


def result(kind: str, made: World, found: list[str], extra: str = "") -> Result:
    """What is kept of a world."""
    gate = made.gate
    made.met += Counter({name: int(made.processes.metrics[name]) for name in WATCHED})
    return Result(
        kind,
        made.seed,
        found,
        gate.doors,
        gate.crashes,
        gate.faults,
        blake2b(repr(gate.schedule).encode(), digest_size=8).digest(),
        [f"{door.worker:>2} {door.when:<6} {door.name}" for door in gate.told[-STORY:]],
        extra,
        made.met,
    )


# --- moments in the life of a subscription, made quickly ---


def at_opening(seed: int, **how: Any) -> World:
    """The opening bill is due."""
    ahead = [each for each in TARIFFS if each.ahead]
    tariff = ahead[seed % len(ahead)]
    made = build(seed, tariff, opened=False, **how)
    _webhooks(made)
    return made


def at_month_end(seed: int, **how: Any) -> World:
    """January was used; the bill at its end is due since a minute. One batch is on its way still."""
    made = build(seed, **how)
    _webhooks(made)
    batches = usage(made, START + timedelta(hours=1), FIRST + timedelta(hours=1), made.rng.randint(1, 3), tag="a")
    made.clock.move_to(FIRST + timedelta(hours=6))
    for batch in batches:
        made.send(batch)
    if made.rng.random() < 0.3:
        made.gate.solo(made.compact)
    made.until_due()
    return made


def at_second_end(seed: int, **how: Any) -> World:
    """January was billed, usage of it came late, February was used; the bill at its end is due since a minute."""
    made = at_month_end(seed, **how)
    made.settle(FIRST + timedelta(days=2))
    on_its_way = made.rng.random() < 0.5  # then somebody sends it beside the bill that is to take it
    for batch in usage(made, FIRST - timedelta(days=3), FIRST - MINUTE, 1, tag="l"):
        if not on_its_way:
            made.send(batch)
    for batch in usage(made, FIRST, SECOND - MINUTE, 1, tag="b"):
        made.clock.move_to(max(each.at for each in batch.events))
        made.send(batch)
    made.until_due()
    return made


def at_mid_month(seed: int, **how: Any) -> World:
    """An afternoon of January, some of which was used already; nothing is due."""
    made = build(seed, **how)
    _webhooks(made)
    noon = START + timedelta(days=made.rng.randint(2, 18), hours=made.rng.randint(3, 14))
    batches = usage(made, START + timedelta(hours=1), noon, made.rng.randint(1, 2), tag="a")
    made.clock.move_to(noon)
    for batch in batches:
        made.send(batch)
    return made


def at_sent(seed: int, **how: Any) -> World:
    """January's bill was just sent; some cards were declined; Stripe's events are under way, all of them."""
    made = at_month_end(seed, **how)
    made.stripe.webhooks.fate = lambda _: (timedelta(0),) * made.rng.choice((1, 1, 2))
    declined = made.rng.random() < 0.5
    if declined:
        made.stripe.set_card_outcome(made.account, made.card, "insufficient_funds")
    made.gate.solo(lambda: _bill(made))
    made.stripe.set_card_outcome(made.account, made.card, "succeed")
    if made.rng.random() < 0.5:
        made.gate.solo(_hearing(made))
    return made


def _webhooks(made: World) -> None:
    """Some worlds hear all of Stripe's events, most hear hardly any: the to-do list has to do without them."""
    heard = made.rng.choice((0.0, 0.0, 0.05, 0.3, 1.0))
    made.hourly = made.rng.random() < 0.1
    made.gate.chances.page = made.rng.choice((0.0, 0.0, 0.5))

    def fate(_event: Any) -> Sequence[timedelta]:
        draw = made.rng.random()
        if draw >= heard:
            return ()
        if draw < heard * 0.2:
            return (timedelta(0), timedelta(seconds=30))
        return (timedelta(minutes=made.rng.randrange(90)),) if draw < heard * 0.5 else (timedelta(0),)

    made.stripe.webhooks.fate = fate


# --- every crash point of a flow ---


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow to be crashed: how to get there, what to do, and what must hold beside the invariants."""

    name: str
    ready: Callable[[int], World]
    act: Callable[[World], object]
    after: Callable[[World], list[str]] = lambda _: []


def crash(flow: Flow, seed: int, at: int, *, keep: bool = False) -> Result:
    """Run a flow, let the process die at its durable door number `at` (0: never), recover, look."""
    made = flow.ready(seed)
    made.gate.keep = keep
    made.gate.durable, made.gate.crash_at = 0, at
    ended = made.gate.solo(lambda: flow.act(made))
    doors = made.gate.durable
    found = [] if ended is None or isinstance(ended, Crash) else [f"ended by {ended!r}"]
    made.gate.quiet()
    found += at_rest(made)
    found += flow.after(made)
    found += orphans(made)
    done = result(f"crash {flow.name}", made, found, f"--at {at}")
    done.doors = doors
    return done


def at_rest(made: World) -> list[str]:
    """Recover, then hold the world to the invariants."""
    try:
        made.settle(made.clock.now() + timedelta(days=3) if made.deauthorized else None)
        return check(made)
    except Exception as error:  # noqa: BLE001 # whatever recovery ends in is a finding
        return [f"recovery ended in {error!r}"]


def _bill(made: World) -> None:
    made.bill(made.subscriptions[0])


def _tick(made: World) -> None:
    made.tick()
    _messages(made)()


def _ingest(made: World) -> None:
    batch = next(each for each in made.batches if not each.done)
    made.send(batch)


def _before_ingest(seed: int) -> World:
    made = at_month_end(seed)
    _fresh(made, FIRST - timedelta(days=3), FIRST + timedelta(hours=20))
    return made


def _before_late(seed: int) -> World:
    made = at_month_end(seed)
    made.settle(FIRST + timedelta(days=2))
    _fresh(made, FIRST - timedelta(days=3), FIRST + timedelta(hours=20))
    return made


def _fresh(made: World, first: datetime, last: datetime) -> Batch:
    sub = made.subscriptions[0]
    step = (last - first) / 4
    events = tuple(Sent(f"fresh-{at}", sub, (first + step * at).replace(microsecond=0), at) for at in range(5))
    batch = Batch(len(made.batches), events, "fresh" if made.seed % 2 else "")
    made.batches.append(batch)
    return batch


def _compactable(seed: int) -> World:
    made = at_month_end(seed)
    again = tuple(made.batches[0].events)
    twice = Batch(len(made.batches), (*again, Sent("twice", made.subscriptions[0], FIRST - timedelta(hours=1), 2)))
    made.batches.append(twice)
    made.send(twice)
    return made


def _to_hear(seed: int) -> World:
    """A paid bill, none of whose events was heard."""
    made = at_month_end(seed)
    made.stripe.webhooks.fate = lambda event: (timedelta(0),) if event.type == "invoice.paid" else ()
    made.gate.solo(lambda: _bill(made))
    return made


def _hear(made: World) -> None:
    for delivery in made.stripe.due_deliveries():
        status = 500
        try:
            status = made.receive(delivery.body, delivery.headers["Stripe-Signature"])
        finally:
            made.stripe.deliver(delivery, status)
    while made.events:
        if not made.apply(made.events[0]):
            made.events.pop(0)


def _declined(seed: int) -> World:
    """The first charge was declined; the bank says yes from now on, and the schedule has come."""
    made = at_month_end(seed)
    made.stripe.webhooks.fate = lambda _: ()
    made.stripe.set_card_outcome(made.account, made.card, "insufficient_funds")
    made.gate.solo(lambda: _bill(made))
    made.stripe.set_card_outcome(made.account, made.card, "succeed")
    made.clock.advance(timedelta(hours=1))
    return made


def _drifted(seed: int) -> World:
    """A paid bill nothing was heard of, and beside it a draft of ours that nobody needs, two days old."""
    from local.stripe_emulator.transport import client_for

    made = at_month_end(seed)
    made.stripe.webhooks.fate = lambda _: ()
    made.gate.solo(lambda: _bill(made))
    sub = made.subscriptions[0]
    name = f"{sub}.{FIRST:%Y%m%dT%H%M%SZ}"
    marks = {"monetize": "bill", "bill": name, "invoice": "inv_none", "attempt": "7", "subscription": sub}
    draft = {"customer": made.customer, "currency": made.tariff.currency, "metadata": marks}
    client_for(made.stripe).v1.invoices.create(draft, {"stripe_account": made.account})  # type: ignore[arg-type]
    made.clock.advance(timedelta(days=2))
    return made


def _reconciled(made: World) -> list[str]:
    """Another pass finds nothing that it could not repair."""
    left = made.reconcile()
    return [f"{left} differences in money stay"] if left else []


def _awaiting_checkout(seed: int) -> World:
    """Somebody without a card ordered and filled in Checkout's page; Stripe's event is under way."""
    from monetize import wiring
    from monetize.adapters.dynamo.table import put
    from monetize.domain.subscriptions import Application, Contact
    from monetize.services.subscribing import Order, subscribe
    from monetize.services.subscription_access import Person

    made = build(seed)
    made.stripe.webhooks.fate = lambda event: (timedelta(0),) if event.type.startswith("checkout") else ()
    wiring.core().write(put(Application(id="app_9", publisher=PUBLISHER, subscriber="new", name="n", created_at=START)))
    order = Order(
        publisher=PUBLISHER,
        application="app_9",
        product="api_1",
        tier="tier_1",
        contact=Contact(name="N", email="n@example.com", country="US"),
        key="order",
    )
    begun = subscribe(Person("nora", "new"), order, made.clock.now(), wiring.subscribing())
    assert begun.checkout is not None  # noqa: S101 # nobody has left a card
    made.clock.advance(MINUTE)
    made.stripe.complete_checkout(made.account, begun.checkout.id)
    made.subscriptions = (*made.subscriptions, begun.subscription.id)
    return made


def _active(made: World) -> list[str]:
    """The order became one active subscription of one customer who has a default card."""
    from monetize import wiring

    sub = wiring.billing_table().subscription(made.subscriptions[-1])
    customers = [
        each
        for each in made.stripe.accounts[made.account].customers.values()
        if each.get("metadata", {}).get("subscriber") == "new"
    ]
    found = []
    if sub.status != "active" or len(sub.spans) != 1:
        return [f"{sub.id} is {sub.status} with {len(sub.spans)} spans"]
    if len(customers) != 1:
        found.append(f"{len(customers)} customers of one subscriber")
    elif not customers[0]["invoice_settings"]["default_payment_method"]:
        found.append("the customer has no default card")
    return found


def _connecting(seed: int) -> World:
    made = build(seed)
    made.stripe.create_account(name="Newcomer", account_id="acct_newcomer")
    made.stripe.redirect_uris.append("https://api.invalid/stripe/oauth/callback")
    return made


def _connect(made: World) -> None:
    """From the button to the confirmation, as one browser does it."""
    from urllib.parse import parse_qs, urlsplit

    from monetize import wiring
    from monetize.services import onboarding

    ports, now = wiring.onboarding(), made.clock.now()
    person = onboarding.Person("nora", "newcomer", "business", now)
    url = onboarding.connect(person, "/", now, ports)
    back = parse_qs(urlsplit(made.stripe.authorize(url, "acct_newcomer")).query)
    returned = onboarding.returned(back["state"][0], back["code"][0], None, now, ports)
    if returned.completion is None:
        raise AssertionError(f"the account did not come back: {returned.outcome}")
    onboarding.enable(person, returned.completion, now, ports)


def _connected(made: World) -> list[str]:
    """Whoever starts again gets there, and then everything is there once."""
    from monetize import wiring
    from monetize.services import onboarding

    publisher = wiring.onboarding().publishers.get("newcomer")
    if publisher is None or publisher.status != "enabled":
        made.gate.solo(lambda: None)
        made.clock.advance(timedelta(minutes=20))
        onboarding.sweep(made.clock.now(), wiring.onboarding())
        held = wiring.onboarding().publishers.holder_of("acct_newcomer")
        if held is None and publisher is not None and publisher.pending is not None:
            account = made.stripe.accounts["acct_newcomer"]
            if account.connected:
                return ["an account nobody confirmed stayed connected"]
        _connect(made)
    publisher = wiring.onboarding().publishers.get("newcomer")
    found = []
    if publisher.status != "enabled" or publisher.stripe.account != "acct_newcomer" or publisher.pending is not None:
        found.append(f"the publisher is {publisher.status}")
    if wiring.onboarding().publishers.holder_of("acct_newcomer") != "newcomer":
        found.append("nobody holds the account")
    if not made.stripe.accounts["acct_newcomer"].connected:
        found.append("the account is not connected")
    names = sorted(
        str(row.item["sk"]["S"])
        for row in worlds.tables(made.dynamodb)[worlds.CORE].space.partitions["PUB#newcomer"].rows.values()
        if str(row.item["sk"]["S"]).startswith("TIER#")
    )
    if len(names) != 4:
        found.append(f"{len(names)} default tiers instead of four")
    return found


# --- what people decide meanwhile ---

DEV, ANN = Caller("dan", SUBSCRIBER, "subscriber"), Caller("ann", PUBLISHER, "publisher_admin")
DECISIONS: dict[str, tuple[str, Any]] = {
    "upgrade": ("change", {"tier": "tier_2", "when": "now"}),
    "change": ("change", {"tier": "tier_2", "when": "period_end"}),
    "back": ("change", {"tier": "tier_1", "when": "now"}),
    "pause": ("pause", None),
    "resume": ("resume", None),
    "cancel": ("cancel", {"when": "now"}),
    "leave": ("cancel", {"when": "period_end"}),
    "stay": ("uncancel", None),
}


def wish(made: World, kind: str) -> Wish:
    """What somebody asks of the first subscription, under a new key."""
    rng, sub, key = made.rng, made.subscriptions[0], f"wish-{len(made.wishes)}"
    if kind == "drop":
        made.wishes.append(Wish(kind, DEV, f"/subscriptions/{sub}/change", key, method="DELETE"))
    elif kind == "topup":
        body = {"meter": made.tariff.meter, "quantity": rng.randint(1, 40)}
        made.wishes.append(Wish(kind, ANN, f"/subscriptions/{sub}/topups", key, body))
    elif kind == "correct":
        day = max(START, made.clock.now() - timedelta(days=rng.randint(0, 20))).date()
        body = {"subscription": sub, "meter": made.tariff.meter, "day": day.isoformat(), "reason": "counted twice"}
        body["quantity"] = rng.choice((-3, -1, 1, 30))
        made.wishes.append(Wish(kind, ANN, "/usage/corrections", key, body, function="record_usage"))
    else:
        what, asked = DECISIONS[kind]
        made.wishes.append(Wish(kind, DEV, f"/subscriptions/{sub}/{what}", key, asked))
    return made.wishes[-1]


def _newest() -> Any:
    """Our record of the newest invoice that was sent."""
    from monetize import wiring

    found = [each for month in ("2026-01", "2026-02") for each in wiring.billing_table().invoices_of(PUBLISHER, month)]
    return max(found, key=lambda each: each.edge, default=None)


def money_wish(made: World, kind: str) -> Wish:
    """What the publisher asks of the newest invoice, under a new key."""
    invoice, key = _newest(), f"wish-{len(made.wishes)}"
    body: dict[str, Any] | None = None
    if kind in ("refunds", "credit-notes"):
        step = prices.STEPS.get(made.tariff.currency, 1)
        body = {"amount": max(step, invoice.amount // 3 // step * step) if invoice else step}
        body["reason"] = "requested_by_customer" if kind == "refunds" else "order_change"
    path = f"/invoices/{invoice.id if invoice else 'inv_none'}/{kind}"
    made.wishes.append(Wish(kind, ANN, path, key, body, function="reports"))
    return made.wishes[-1]


def _ask_money(kind: str) -> Callable[[World], object]:
    return lambda made: made.ask(money_wish(made, kind))


def _paid(seed: int) -> World:
    """January was used up to something, billed and paid, and that was heard."""
    made = at_month_end(seed)
    made.stripe.webhooks.fate = lambda _: (timedelta(0),)
    made.settle()
    return made


def _unpaid(seed: int) -> World:
    """January's bill was sent and the card was declined, and that was heard; now it would be taken."""
    made = at_month_end(seed)
    made.stripe.webhooks.fate = lambda _: (timedelta(0),)
    made.stripe.set_card_outcome(made.account, made.card, "insufficient_funds")
    made.settle(made.clock.now() + HOUR)
    made.stripe.set_card_outcome(made.account, made.card, "succeed")
    return made


def _given_back_once(made: World) -> list[str]:
    """What was asked for was done at Stripe once, and our record says the same."""
    record, account = _newest(), made.stripe.accounts[made.account]
    if record is None:
        return []
    found = []
    done = {
        "refunds": [each for each in account.refunds.values() if each["metadata"].get("monetize") == "refund"],
        "credit-notes": [each for each in account.credit_notes.values() if each["invoice"] == record.stripe_id],
    }
    for kind, made_there in done.items():
        granted = sum(wish.granted for wish in made.wishes if wish.kind == kind)
        if len(made_there) != granted:
            found.append(f"{granted} {kind} were granted, {len(made_there)} were made")
    at_stripe = account.invoices[record.stripe_id]["status"]
    if any(each.kind == "void" and each.granted for each in made.wishes) and at_stripe != "void":
        found.append(f"it was voided and is {at_stripe}")
    if (at_stripe, record.status) in (("paid", "open"), ("void", "open"), ("paid", "payment_failed")):
        found.append(f"the record says {record.status}, Stripe {at_stripe}")
    return found


def _held(seed: int) -> World:
    """January's bill is above the publisher's bound and waits for approval."""
    from dataclasses import replace

    from monetize import wiring
    from monetize.adapters.dynamo.table import put

    made = at_month_end(seed)
    table = wiring.billing_table()
    publisher = table.publisher(PUBLISHER)
    wiring.core().write(put(replace(publisher, settings=replace(publisher.settings, hold_above=0))))
    made.settle(made.clock.now() + HOUR)
    return made


def _on_bill(what: str, body: Any = None) -> Callable[[World], object]:
    def act(made: World) -> None:
        path = f"/bills/{made.subscriptions[0]}.{FIRST:%Y%m%dT%H%M%SZ}/{what}"
        made.wishes.append(Wish(what, ANN, path, f"wish-{what}", body, function="billing_run"))
        made.ask(made.wishes[-1])

    return act


def _ordering(seed: int) -> World:
    """Somebody new, without a card, has an application."""
    from monetize import wiring
    from monetize.adapters.dynamo.table import put
    from monetize.domain.subscriptions import Application

    made = build(seed)
    made.stripe.webhooks.fate = lambda event: (timedelta(0),) if event.type.startswith("checkout") else ()
    wiring.core().write(put(Application(id="app_9", publisher=PUBLISHER, subscriber="new", name="n", created_at=START)))
    return made


def _order(made: World) -> None:
    body = {"publisher": PUBLISHER, "application": "app_9", "product": "api_1", "tier": "tier_1"}
    body |= {"contact": {"name": "N", "email": "n@example.com", "country": "US"}}  # type: ignore[dict-item]
    made.wishes.append(Wish("order", Caller("nora", "new", "subscriber"), "/subscriptions", "order", body))
    made.ask(made.wishes[-1])


def _ordered(made: World) -> list[str]:
    """One subscription of one customer; once Checkout is filled in, it is active."""
    rows = worlds.tables(made.dynamodb)[worlds.CORE].space.partitions
    new = [
        pk
        for pk in (str(each).removeprefix("SUB#") for each in rows if str(each).startswith("SUB#"))
        if pk not in made.subscriptions
    ]
    if len(new) != 1:
        return [f"{len(new)} subscriptions were made of one order"]
    sessions = [
        each for each in made.stripe.accounts[made.account].checkout_sessions.values() if each["status"] == "open"
    ]
    if len(sessions) != 1:
        return [f"{len(sessions)} Checkout pages are open"]
    made.stripe.complete_checkout(made.account, sessions[0]["id"])
    made.subscriptions = (*made.subscriptions, new[0])
    return at_rest(made) + _active(made)


def _decide(kind: str) -> Callable[[World], object]:
    return lambda made: made.ask(wish(made, kind))


def _after(*kinds: str) -> Callable[[int], World]:
    """A world in which these were decided, each a day after the one before."""

    def ready(seed: int) -> World:
        made = at_mid_month(seed)
        for kind in kinds:
            made.ask(wish(made, kind))
            made.clock.advance(timedelta(days=1))
            made.settle(made.clock.now())
        return made

    return ready


def _due_after(*kinds: str) -> Callable[[int], World]:
    """The same, and its next bill is due since a minute."""

    def ready(seed: int) -> World:
        made = _after(*kinds)(seed)
        made.until_due()
        return made

    return ready


def later(made: World) -> list[str]:
    """Another billing date or two, with usage before: what was decided has to be paid and given back."""
    found: list[str] = []
    for _ in range(2 if made.seed % 5 == 0 else 1):
        due = _next_due(made)
        if due is None or found or made.deauthorized:
            return found
        first = made.clock.now() + MINUTE
        if not _ends(made) and first + timedelta(hours=2) < due:
            for batch in usage(made, first, min(due, first + timedelta(days=12)), 1, tag=f"v{len(made.batches)}"):
                made.clock.move_to(max(each.at for each in batch.events))
                made.send(batch)
        made.until_due()
        found += at_rest(made)
    return found


def _stored(made: World) -> Any:
    from monetize import wiring

    return wiring.billing_table().subscription(made.subscriptions[0])


def _next_due(made: World) -> datetime | None:
    due: datetime | None = _stored(made).due_at
    return due


def _ends(made: World) -> bool:
    return _stored(made).end is not None


FLOWS = (
    Flow("opening", at_opening, _bill),
    Flow("month", at_month_end, _bill),
    Flow("second", at_second_end, _bill),
    Flow("run", at_month_end, _tick),
    Flow("ingest", _before_ingest, _ingest),
    Flow("late", _before_late, _ingest),
    Flow("compact", _compactable, lambda made: made.compact()),
    Flow("webhook", _to_hear, _hear),
    Flow("retry", _declined, _tick),
    Flow("reconcile", _drifted, lambda made: made.reconcile(), _reconciled),
    Flow("checkout", _awaiting_checkout, _hear, _active),
    Flow("connect", _connecting, _connect, _connected),
    Flow("upgrade", at_mid_month, _decide("upgrade"), later),
    Flow("change", at_mid_month, _decide("change"), later),
    Flow("pause", at_mid_month, _decide("pause"), later),
    Flow("resume", _after("pause"), _decide("resume"), later),
    Flow("cancel", at_mid_month, _decide("cancel"), later),
    Flow("topup", at_mid_month, _decide("topup"), later),
    Flow("correct", at_mid_month, _decide("correct"), later),
    Flow("turn", _due_after("change"), _tick, later),
    Flow("split", _due_after("upgrade"), _tick, later),
    Flow("last", _due_after("cancel"), _tick, later),
    Flow("order", _ordering, _order, _ordered),
    Flow("refund", _paid, _ask_money("refunds"), _given_back_once),
    Flow("credit", _paid, _ask_money("credit-notes"), _given_back_once),
    Flow("void", _unpaid, _ask_money("void"), _given_back_once),
    Flow("again", _unpaid, _ask_money("retry"), _given_back_once),
    Flow("approve", _held, _on_bill("release")),
    Flow("waive", _held, _on_bill("waive", {"reason": "agreed"})),
)
BY_NAME = {flow.name: flow for flow in FLOWS}


def crash_points(flow: Flow, seed: int) -> int:
    """How many durable doors the flow has when nothing fails."""
    made = flow.ready(seed)
    made.gate.durable = 0
    made.gate.solo(lambda: flow.act(made))
    return made.gate.durable


# --- workers beside each other ---


def together(seed: int, workers: int = 2, *, keep: bool = False) -> Result:
    """Two or three workers on the same subscription, interleaved at every call; some are refused, some die.

    In half of the worlds a worker died on the way before, so that the others go on with one and the same bill.
    """
    made = _moment(seed)
    made.gate.keep = keep
    rng = made.rng
    half_way = rng.random() < 0.5
    if half_way:
        made.gate.durable, made.gate.crash_at = 0, rng.randint(1, 26)
        made.gate.solo(lambda: _bill(made))
        made.gate.crash_at = 0
    jobs = _jobs(made, workers, half_way=half_way)
    made.gate.chances = Chances(
        switch=rng.choice((0.1, 0.3, 0.5, 0.9)),
        dynamodb=rng.choice((0.0, 0.0, 0.05)),
        stripe=rng.choice((0.0, 0.0, 0.1)),
        crash=rng.choice((0.0, 0.0, 0.0, 0.03)),
        echo=rng.choice((0.0, 0.0, 0.1)),
        stall=rng.choice((0.0, 0.0, 0.0, 0.02)),
        queue=rng.choice((0.0, 0.0, 0.2)),
        page=made.gate.chances.page,
    )
    return _run(f"workers {workers}", made, jobs)


def everything(seed: int, *, keep: bool = False) -> Result:
    """All faults at once, in a world of two subscriptions, over two billing dates and sometimes days of silence."""
    made = at_month_end(seed, subscriptions=2)
    made.gate.keep = keep
    rng = made.rng
    made.dynamodb.index_lag = rng.choice((None, 20, timedelta(seconds=40)))
    if rng.random() < 0.25:
        made.stripe.set_card_outcome(made.account, made.card, rng.choice(("insufficient_funds", "do_not_honor")))
        made.stripe.at(
            made.clock.now() + timedelta(hours=rng.randrange(1, 30)),
            lambda: made.stripe.set_card_outcome(made.account, made.card, "succeed"),
        )
    if rng.random() < 0.1:
        leaves = made.clock.now() + timedelta(seconds=rng.choice((0, 1, 3600)))
        made.deauthorized = True
        made.stripe.at(leaves, lambda: made.stripe.deauthorize(made.account))
    if rng.random() < 0.2:
        for body in ({"kind": "bill", "id": "nonsense"}, {"kind": "subscription", "id": "sub_none"}):
            made.queue.append(Message(body, made.clock.now()))
            made.poisoned = True
    silent = rng.random() < 0.25
    if silent:
        made.webhooks = False
    _fresh(made, FIRST - timedelta(days=2), FIRST + timedelta(hours=20))
    surprises: list[str] = []
    for _ in range(rng.randint(1, 3)):
        made.gate.chances = Chances(
            switch=rng.choice((0.1, 0.5)),
            dynamodb=rng.choice((0.0, 0.1, 0.3)),
            stripe=rng.choice((0.0, 0.2, 0.5)),
            crash=rng.choice((0.0, 0.02, 0.05)),
            echo=rng.choice((0.0, 0.1, 0.3)),
            stall=rng.choice((0.0, 0.02)),
            queue=rng.choice((0.0, 0.1, 0.3)),
            page=rng.choice((0.0, 0.5)),
        )
        jobs = [*_jobs(made, 2), made.tick, *rng.sample((_hearing(made), _applying(made), made.reconcile), 2)]
        if made.queue:
            jobs.append(_messages(made))
        surprises += _surprised(made.gate.run(jobs))
        made.clock.advance(timedelta(hours=rng.choice((0, 1, 4, 30))))
    if silent:
        made.gate.quiet()
        made.settle(made.clock.now() + timedelta(days=3))
        made.webhooks = True
    made.gate.quiet()
    made.dynamodb.index_lag = None
    found = surprises + at_rest(made)
    if not found and not made.deauthorized:
        made.clock.advance(timedelta(days=2))
        found = _reconciled(made) + at_rest(made) + orphans(made)
    if not found and made.wishes:
        found = later(made)
    elif not found and not made.deauthorized and rng.random() < 0.5 and made.clock.now() < SECOND:
        made.until_due()
        found = at_rest(made)
    return result("everything", made, found)


def _worker(made: World, queue: list[Message], function: str, most: int) -> Callable[[], object]:
    """A worker that takes what is in a queue; what fails stays there, and another one may have it too."""

    def work() -> None:
        tried: list[Message] = []
        while ready := [message for message in queue if message.at <= made.clock.now() and not _among(message, tried)][
            :most
        ]:
            tried += ready
            failed = made.processes.take(function, ready)
            done = [message for at, message in enumerate(ready) if at not in failed]
            queue[:] = [message for message in queue if not _among(message, done)]

    return work


def _messages(made: World) -> Callable[[], object]:
    """A worker of the billing queue."""
    return _worker(made, made.queue, "bill_subscription", 5)


def _applying(made: World) -> Callable[[], object]:
    """A worker of Stripe's events."""
    return _worker(made, made.events, "apply_stripe_event", 10)


def _hearing(made: World) -> Callable[[], object]:
    """Stripe delivers what is due, one by one; another delivery of the same event may be under way."""

    def work() -> None:
        for delivery in made.stripe.due_deliveries() if made.webhooks else ():
            made.stripe.deliver(delivery, made.receive(delivery.body, delivery.headers["Stripe-Signature"]))

    return work


def _paying(made: World) -> Callable[[], object]:
    """The subscriber pays an open invoice on Stripe's page."""

    def work() -> None:
        for invoice in made.stripe.accounts[made.account].invoices.values():
            if invoice.get("status") == "open":
                with suppress(Refusal):  # declined: a person sees it and goes
                    made.stripe.pay_by_hand(made.account, invoice["id"])
                    made.met["paid by hand"] += 1
                return

    return work


def _among(message: Message, others: Sequence[Message]) -> bool:
    return any(message is each for each in others)


def _moment(seed: int) -> World:
    draw = seed % 14
    if draw >= 12:
        return at_sent(seed)
    if draw >= 10:
        return at_mid_month(seed)
    if draw < 2:
        return at_opening(seed)
    if draw < 8:
        return at_month_end(seed)
    return at_second_end(seed)


def _jobs(made: World, workers: int, *, half_way: bool = False) -> list[Callable[[], object]]:
    """The first one bills; the others do anything that goes on beside it."""
    rng, sub = made.rng, made.subscriptions[0]
    now = made.clock.now()
    edge = max(each for each in (START, FIRST, SECOND) if each <= now)
    name = f"{sub}.{edge:%Y%m%dT%H%M%SZ}"
    again: Callable[[], object] = lambda: made.work({"kind": "bill", "id": name})  # noqa: E731 # one of many jobs
    jobs: list[Callable[[], object]] = [again if half_way else lambda: made.bill(sub)]
    deciding = made.clock.now() < FIRST
    if deciding:
        jobs = [_decision(made)]
    elif made.seed % 14 >= 12:
        asked = money_wish(made, rng.choice(("refunds", "credit-notes", "void", "retry")))
        jobs = [rng.choice((_applying(made), _hearing(made), lambda: _tick(made), lambda: made.ask(asked)))]
    while len(jobs) < workers:
        draw = rng.random()
        if rng.random() < (0.5 if deciding else 0.15):
            jobs.append(_decision(made))
        elif draw < 0.5:
            jobs.append(again if half_way or rng.random() < 0.2 else lambda: made.bill(sub))
        elif draw < 0.8 and now > FIRST:
            batch = next((each for each in made.batches if not each.done), None)
            if batch is None and rng.random() < 0.3:
                near = [each for each in made.batches if min(e.at for e in each.events) > now - timedelta(days=34)]
                if late := [each for each in near if each.events[0].id.startswith("l")]:
                    near = [*near, *late, *late]
                batch = rng.choice(near) if near else None
            if batch is None:
                batch = _straddling(made, edge)
            jobs.append(lambda batch=batch: made.send(batch))  # type: ignore[misc]
        elif draw < 0.85 and now > FIRST:
            jobs.append(made.compact)
        elif draw < 0.93:
            jobs.append(rng.choice((_hearing(made), _applying(made), _paying(made), made.reconcile)))
        else:
            jobs.append(lambda: _tick(made))
    rng.shuffle(jobs)
    return jobs


def _decision(made: World) -> Callable[[], object]:
    wanted = wish(made, made.rng.choice((*DECISIONS, "drop", "topup", "correct")))
    return lambda: made.ask(wanted)


def _straddling(made: World, edge: datetime) -> Batch:
    """A batch on both sides of a billing date."""
    rng, sub, number = made.rng, made.subscriptions[0], len(made.batches)
    events = tuple(
        Sent(f"s{number}-{at}", sub, edge + timedelta(seconds=rng.choice((-90_000, -3600, -1, 0, 1, 3600))), at)
        for at in range(rng.randint(1, 5))
    )
    batch = Batch(number, events, f"key-{number}" if rng.random() < 0.3 else "")
    made.batches.append(batch)
    return batch


def _run(kind: str, made: World, jobs: Sequence[Callable[[], object]]) -> Result:
    found = _surprised(made.gate.run(jobs))
    made.gate.quiet()
    found += at_rest(made)
    if made.wishes and not found:
        found += later(made)
    return result(kind, made, found)


def _surprised(ended: Sequence[BaseException | None]) -> list[str]:
    """Endings that no fault explains."""
    found = []
    for error in ended:
        try:
            raise_unexpected(error)
        except Exception as surprise:  # noqa: BLE001 # whatever it is
            found.append(f"a worker ended by {surprise!r}")
    return found


__all__ = ["BY_NAME", "FLOWS", "SOURCE", "Result", "crash", "crash_points", "everything", "together"]
