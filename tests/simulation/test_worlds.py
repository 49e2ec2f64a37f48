"""Worlds of the simulator that stand for one rule each, and some of every kind."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from local.dynamodb.faults import Fault
from local.simulate import scenarios
from local.simulate.check import check, orphans
from local.simulate.prices import TARIFFS
from local.simulate.scenarios import FIRST, SECOND
from local.simulate.world import ENVIRONMENT, PUBLISHER, SUBSCRIBER, Batch, Sent, World, build
from monetize import wiring
from monetize.adapters.dynamo.table import put
from monetize.domain.collecting import HeldInvoice
from monetize.domain.subscriptions import Application, Contact
from monetize.services import billing, changing, runs
from monetize.services.subscribing import Order, subscribe
from monetize.services.subscription_access import Person

BY_NAME = {tariff.name: tariff for tariff in TARIFFS}
DEV = Person("dan", SUBSCRIBER)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    wiring.override()


def deaf(seed: int, tariff: str = "per_unit", **how: Any) -> World:
    """A world that hears nothing from Stripe."""
    made = build(seed, BY_NAME[tariff], **how)
    made.stripe.webhooks.fate = lambda _: ()
    return made


def send(made: World, name: str, at: Any, *units: int) -> None:
    """One batch, an event for each number of units."""
    events = tuple(Sent(f"{name}-{n}", "sub_1", at + timedelta(seconds=n), each) for n, each in enumerate(units))
    batch = Batch(len(made.batches), events)
    made.batches.append(batch)
    made.clock.move_to(at)
    made.send(batch)


@pytest.mark.parametrize("kind", ["two", "three", "all"])
def test_worlds_of_every_kind_hold(kind: str) -> None:
    from local.simulate.__main__ import one

    for seed in range(6):
        assert one(kind, seed).found == []


@pytest.mark.parametrize("flow", scenarios.FLOWS, ids=lambda flow: flow.name)
def test_a_crash_at_the_first_and_the_last_door_of_every_flow_is_recovered_from(flow: scenarios.Flow) -> None:
    points = scenarios.crash_points(flow, 3)
    assert points >= (20 if flow.name in ("opening", "month", "second", "run", "turn", "split") else 2)
    for at in {1, 2, points // 2, points - 1, points} - {0}:
        assert scenarios.crash(flow, 3, at).found == []


def test_a_seed_replays_its_world_exactly() -> None:
    first = scenarios.together(7, keep=True)
    again = scenarios.together(7, keep=True)
    assert first.story == again.story
    assert first.schedule == again.schedule


def test_a_long_run_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from local.simulate import __main__ as simulate

    monkeypatch.setattr(simulate, "CHUNK", 1)
    monkeypatch.setattr(simulate, "REPORTED", 4)  # worlds
    told = []
    for name, shares in (("stopped", (4, 8)), ("whole", (8,))):
        report = tmp_path / f"{name}.json"
        for worlds in shares:
            assert simulate.long(worlds, 1, report, 100) == 0
        found = json.loads(report.read_text())
        del found["figures"]["seconds"]
        told.append(found)
    assert told[0] == told[1]
    assert (told[0]["from"], told[0]["next"]) == (100, 108)
    assert told[0]["figures"]["interleavings"] > 4  # of both shares, not of the last


def test_a_charge_without_a_bill_and_an_event_that_vanished_are_noticed() -> None:
    made = deaf(1)
    send(made, "a", FIRST - timedelta(days=2), *[1] * 20)
    made.until_due()
    made.settle()
    assert check(made) == []
    invoices = made.stripe.accounts[made.account].invoices
    invoice = next(iter(invoices.values()))
    invoices["in_again"] = {**invoice, "id": "in_again"}
    assert any("2 finalized invoices" in each for each in check(made))
    del invoices["in_again"]
    made.batches.append(Batch(9, (Sent("nowhere", "sub_1", FIRST, 1),), done=True))
    assert check(made) == ["event nowhere was accepted and is nowhere"]


def test_a_passing_conflict_is_not_told_as_a_second_subscription() -> None:
    made = deaf(2)
    wiring.core().write(
        put(Application(id="app_7", publisher=PUBLISHER, subscriber=SUBSCRIBER, name="n", created_at=made.clock.now()))
    )
    contact = Contact(name="D", email="d@example.com", country="US")
    order = Order(publisher=PUBLISHER, application="app_7", product="api_1", tier="tier_1", contact=contact)
    refused = [Fault("TransactionConflict", (0,))]
    made.dynamodb.inject = lambda _, request: (
        refused.pop() if refused and len(request.get("TransactItems", ())) > 4 else None  # the order itself
    )
    assert subscribe(DEV, order, made.clock.now(), wiring.subscribing()).subscription.status == "active"


def test_a_draft_whose_key_stripe_forgot_is_found_and_not_made_again() -> None:
    for seed in range(3):
        made = scenarios.at_month_end(seed)
        made.gate.keep = True
        points = 0
        while not any(door.when == "after" and door.name == "POST /v1/invoices" for door in made.gate.told):
            points += 1
            made = scenarios.at_month_end(seed)
            made.gate.keep = True
            made.gate.crash_at, made.gate.durable = points, 0
            made.gate.solo(lambda made=made: made.bill("sub_1"))  # type: ignore[misc]
        made.gate.quiet()
        made.clock.advance(timedelta(hours=30))
        made.settle()
        assert check(made) == []
        assert orphans(made) == []


class Instead:
    """A port with some calls answered otherwise."""

    def __init__(self, port: Any, **others: Any) -> None:
        self.port, self.others = port, others

    def __getattr__(self, name: str) -> Any:
        return self.others.get(name) or getattr(self.port, name)


def test_a_draft_that_another_worker_finalizes_before_it_can_be_deleted_is_the_bills_invoice() -> None:
    made = scenarios.at_month_end(1)
    ports, now, store = wiring.billing(), made.clock.now(), wiring.billing_table()

    def dies(*_: object) -> HeldInvoice:
        raise InterruptedError

    def still_empty(account: str, invoice: str) -> HeldInvoice:
        held: HeldInvoice = ports.invoices.retrieve(account, invoice)
        return replace(held, lines=()) if held.status == "draft" else held

    def overtaken(account: str, invoice: str) -> None:
        with pytest.raises(InterruptedError):
            billing.continue_bill(bill, now, replace(ports, store=Instead(store, save=dies)), placed=True)
        ports.invoices.delete_draft(account, invoice)

    with pytest.raises(InterruptedError):
        billing.bill_subscription("sub_1", now, replace(ports, invoices=Instead(ports.invoices, finalize=dies)))
    bill = store.bill("sub_1", FIRST).id
    late = Instead(ports.invoices, retrieve=still_empty, delete_draft=overtaken)
    assert billing.continue_bill(bill, now, replace(ports, invoices=late), placed=True).outcome == "sent"
    assert store.bill("sub_1", FIRST).status == "sent"
    made.settle()
    assert check(made) == []


def test_an_invoice_finalized_without_an_answer_is_recorded_when_the_account_is_back() -> None:
    made = scenarios.at_month_end(1)
    ports, now, store = wiring.billing(), made.clock.now(), wiring.billing_table()

    def lost(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        billing.bill_subscription("sub_1", now, replace(ports, store=Instead(store, record_invoice=lost)))
    bill = store.bill("sub_1", FIRST)
    made.stripe.deauthorize(made.account)
    assert billing.continue_bill(bill.id, now, ports, placed=True).outcome == "parked"
    made.stripe.accounts[made.account].connected = True
    operator = runs.Who("olga", "platform", operator=True)
    runs.release_bill(operator, store.bill("sub_1", FIRST), now, wiring.runs())
    made.settle()
    assert store.bill("sub_1", FIRST).status == "paid"
    assert check(made) == []


def test_usage_has_its_grace_when_something_else_comes_due_before() -> None:
    made = deaf(3)
    changing.cancel(DEV, "sub_1", "period_end", "", made.clock.now(), wiring.subscribing())
    made.clock.move_to(FIRST + timedelta(hours=2))
    made.bill("sub_1")
    assert made.processes.metrics["Billing_subscription_moved"] == 1
    assert wiring.billing_table().bill("sub_1", FIRST) is None
    made.until_due()
    made.bill("sub_1")
    assert wiring.billing_table().bill("sub_1", FIRST) is not None


def test_what_is_due_this_very_second_is_due() -> None:
    made = deaf(4)
    made.until_due()
    made.tick()
    made.work(*(message.body for message in made.queue))
    assert [message.body["kind"] for message in made.queue] == ["shard", "subscription"]


def test_a_period_corrected_by_a_third_bill_keeps_the_correction_of_the_second() -> None:
    made = deaf(5, "graduated")
    send(made, "a", FIRST - timedelta(days=1), 30, 30)
    made.until_due()
    made.settle()
    late = FIRST - timedelta(hours=2)
    for name, at in (("l", FIRST + timedelta(days=20)), ("m", SECOND + timedelta(days=2))):
        made.clock.move_to(at)
        send(made, name, late, 25, 25)
        made.until_due()
        made.settle()
        assert check(made) == []


def test_a_late_batch_resent_after_it_was_billed_stays_billed() -> None:
    made = deaf(5, "graduated")
    made.until_due()
    made.settle()
    send(made, "l", FIRST - timedelta(hours=2), 25, 25)
    made.until_due()
    made.settle()
    made.clock.move_to(SECOND + timedelta(days=2))
    made.send(made.batches[-1])
    assert check(made) == []


def test_credit_that_was_carried_comes_off_the_bill_after() -> None:
    made = deaf(6, "falling")
    send(made, "a", FIRST - timedelta(days=1), 20)
    made.until_due()
    made.settle()
    made.clock.move_to(FIRST + timedelta(days=3))
    send(made, "l", FIRST - timedelta(hours=2), 1)  # one unit more, and all of them cost less
    made.until_due()
    made.settle()
    bill = wiring.billing_table().bill("sub_1", SECOND)
    assert (bill.status, bill.subtotal, bill.carry_out) == ("empty", 0, -385)
    send(made, "c", SECOND + timedelta(days=5), 20)
    made.until_due()
    made.settle()
    assert check(made) == []


def test_the_pace_of_an_account_lets_one_go_and_the_next_wait() -> None:
    made = deaf(7)
    throttle = wiring.billing().throttle
    assert throttle.reserve("acct_1", made.clock.now()) == 0
    assert 0 < throttle.reserve("acct_1", made.clock.now()) < 1
    assert throttle.reserve("acct_2", made.clock.now()) == 0


def test_a_draft_neither_advances_by_itself_nor_takes_what_lies_around() -> None:
    made = deaf(8)
    send(made, "a", FIRST - timedelta(days=2), *[1] * 20)
    made.until_due()
    made.bill("sub_1")
    drafts = [each.params for each in made.stripe.requests if each.operation == "POST /v1/invoices"]
    assert [(each["auto_advance"], each["pending_invoice_items_behavior"]) for each in drafts] == [("false", "exclude")]


def test_an_event_is_done_only_together_with_its_effect() -> None:
    flow = scenarios.BY_NAME["webhook"]
    for at in range(1, scenarios.crash_points(flow, 1) + 1):
        made = flow.ready(1)
        event = next(iter(made.stripe.due_deliveries())).event
        made.stripe.webhooks.redeliver(event, made.clock.now())
        made.gate.durable, made.gate.crash_at = 0, at
        made.gate.solo(lambda made=made: flow.act(made))  # type: ignore[misc]
        made.gate.quiet()
        known = wiring.inbox().get(event.id)
        invoice = next(each for each in wiring.billing_table().invoices_of(PUBLISHER, "2026-02"))
        assert invoice.status == "paid" or known is None or known[1] != "done"


def test_a_paid_invoice_is_never_owed_again() -> None:
    from monetize.domain.dunning import Collected, Terms, brought_up
    from monetize.domain.errors import IllegalMove

    made = deaf(9)
    send(made, "a", FIRST - timedelta(days=2), *[1] * 20)
    made.until_due()
    made.settle()
    store = wiring.payment_table()
    bill = store.bill("sub_1", FIRST)
    invoice = next(each for each in wiring.billing_table().invoices_of(PUBLISHER, "2026-02"))
    assert (bill.status, invoice.status) == ("paid", "paid")
    reading = Collected(
        id=invoice.stripe_id,
        status="open",
        currency=invoice.currency,
        customer=made.customer,
        subtotal=invoice.amount,
        total=invoice.total,
        tax=0,
        amount_paid=0,
        amount_remaining=invoice.total,
        number="",
        attempts=0,
        created=made.clock.now(),
    )
    with pytest.raises(IllegalMove):
        brought_up(invoice, reading, Terms(retry_days=(1,), grace_days=1), made.clock.now())
