"""Billing through the local system: once, to the cent, and whatever is in the way."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from local import story
from local.http_client import Api
from local.in_process import world_of
from local.story import Offer, World
from local.system import System
from monetize import wiring
from monetize.domain.invoices import Bill, BillLines
from monetize.services import billing

FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
GRACE = timedelta(days=3)  # grace of a day, and the tick after it
METER = {"name": "Requests", "event_type": "api.request", "unit": "calls"}
TEN_A_CALL = {"id": "calls", "name": "Calls", "model": "per_unit", "meter": "{calls}", "unit_price": "10"}
WSO2 = {"price": 1000, "max_daily_usage": 10, "overage_charge": "25", "overage_unit": 5, "meter": "{calls}"}


@dataclass
class Shop:
    """A publisher with an offer, a subscriber with a subscription, and what both can do."""

    system: System
    world: World
    account: str
    offer: Offer
    subscription: str

    @property
    def publisher(self) -> Api:
        return self.world.as_user("ann", "acme", "publisher_admin")

    @property
    def subscriber(self) -> Api:
        return self.world.as_user("bob", "globex", "subscriber")

    def use(self, day: str, calls: int, *, prefix: str = "e") -> Any:
        """Report calls of one day."""
        events = [
            {
                "specversion": "1.0",
                "id": f"{prefix}-{day}-{number}",
                "source": "urn:test",
                "type": "api.request",
                "subject": self.subscription,
                "time": f"{day}T12:00:00Z",
                "data": {"status": 200},
            }
            for number in range(calls)
        ]
        gateway = self.world.as_gateway(self.offer.gateway_key)
        return gateway.call("POST", "/usage/events", events, Content_Type="application/cloudevents-batch+json")

    def bills(self) -> list[Bill]:
        """All bills of the subscription, oldest first."""
        page = wiring.core().list(Bill, f"SUB#{self.subscription}", "BILL#")
        return list(page.items)

    def invoices(self) -> list[dict[str, Any]]:
        """What Stripe holds, oldest first."""
        return sorted(self.system.emulator.account(self.account).invoices.values(), key=lambda it: it["created"])


def open_shop(system: System, plan: Mapping[str, Any] | None = None) -> Shop:
    system.schedules.at_most_every = timedelta(days=2)  # hourly ticks would find nothing, and take their time
    world = world_of(system)
    publisher = world.as_user("ann", "acme", "publisher_admin")
    account = story.connect_stripe(world, publisher, "Acme")["publisher"]["stripe"]["account"]
    terms = plan or {"name": "Gold", "wso2": {**WSO2, "currency": "usd"}}
    offer = story.publish_offer(publisher, "acme", "Weather", terms, {"calls": METER})
    subscriber = world.as_user("bob", "globex", "subscriber")
    made = story.subscribe(world, subscriber, offer, "App", offer.gold_tier, "bob@globex.example")
    world.run_until(datetime(2026, 1, 2, tzinfo=UTC))  # the opening bill
    return Shop(system, world, account, offer, made["id"])


@pytest.fixture
def shop(system: System) -> Shop:
    """A Gold subscription that began on 2026-01-01T09:30Z."""
    return open_shop(system)


def test_a_month_is_invoiced_to_the_cent_and_paid(shop: Shop) -> None:
    for day, calls in (("2026-01-02", 12), ("2026-01-05", 10), ("2026-01-31", 21)):
        shop.world.run_until(datetime.fromisoformat(f"{day}T13:00:00Z"))
        assert shop.use(day, calls)["accepted"] == calls
    shop.world.run_until(FEBRUARY + GRACE)
    opening, month = shop.invoices()
    lived = int((FEBRUARY - datetime(2026, 1, 1, 9, 30, tzinfo=UTC)).total_seconds())
    assert opening["total"] == round(1000 * lived / (31 * 86400))
    assert month["total"] == 1000 + 25 * (1 + 3)
    assert {invoice["status"] for invoice in shop.invoices()} == {"paid"}
    assert [bill.status for bill in shop.bills()] == ["paid", "paid"]


def test_an_invoice_takes_four_writes_at_stripe(shop: Shop) -> None:
    writes = [it for it in shop.system.emulator.requests if it.method == "POST" and "/invoices" in it.path]
    assert [it.path.rsplit("/", 1)[-1] for it in writes] == ["invoices", "add_lines", "finalize", "pay"]


def test_nothing_to_bill_makes_no_call_to_stripe(system: System) -> None:
    charge = {"id": "calls", "name": "Calls", "model": "per_unit", "meter": "{calls}", "unit_price": "1"}
    shop = open_shop(system, {"name": "Gold", "terms": {"currency": "usd", "charges": [charge]}})
    before = len(system.emulator.requests)
    shop.world.run_until(FEBRUARY + GRACE)
    assert [(bill.status, bill.subtotal) for bill in shop.bills()] == [("empty", 0)]
    asked = list(system.emulator.requests)[before:]
    assert [it.path for it in asked if it.method == "POST" and "/invoices" in it.path] == []


def test_a_bill_is_claimed_once_whoever_tries(shop: Shop) -> None:
    shop.system.clock.move_to(FEBRUARY + GRACE)
    now = shop.system.clock.now()
    outcomes = [billing.bill_subscription(shop.subscription, now, wiring.billing()).outcome for _ in range(3)]
    assert outcomes == ["sent", "not_due", "not_due"]
    shop.system.pump()
    assert len(shop.bills()) == 2
    assert len(shop.invoices()) == 2


def test_a_bill_that_differs_at_stripe_is_parked_and_never_finalized(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = wiring.billing()
    honest = type(ports.invoices).add_lines

    def one_cent_more(self: Any, wanted: Any, invoice: str, lines: Any) -> Any:
        held = honest(self, wanted, invoice, lines)
        return replace(held, subtotal=held.subtotal + 1)

    monkeypatch.setattr(type(ports.invoices), "add_lines", one_cent_more)
    shop.world.run_until(FEBRUARY + GRACE)
    assert [(bill.status, bill.reason) for bill in shop.bills()][-1] == ("parked", "total_differs")
    assert shop.invoices()[-1]["status"] == "draft"


def test_a_deleted_product_parks_the_bill_and_the_rest_goes_on(shop: Shop) -> None:
    other = story.subscribe(
        shop.world,
        shop.world.as_user("eve", "initech", "subscriber"),
        shop.offer,
        "E",
        shop.offer.gold_tier,
        "e@i.example",
    )
    shop.system.emulator.delete_customer(shop.account, customer_of(shop, "globex"))
    shop.world.run_until(FEBRUARY + GRACE)
    last = shop.bills()[-1]
    assert last.status == "parked", last
    page = wiring.core().list(Bill, f"SUB#{other['id']}", "BILL#")
    assert [bill.status for bill in page.items][-1] == "paid"


def customer_of(shop: Shop, subscriber: str) -> str:
    from monetize.adapters.dynamo import keys
    from monetize.domain.subscriptions import Subscriber

    found = wiring.core().get(Subscriber, keys.subscriber("acme", subscriber))
    assert found is not None
    customer = found.customer(shop.account)
    assert customer is not None
    return str(customer.id)


def test_an_account_that_left_in_the_middle_parks_and_charges_nobody(shop: Shop) -> None:
    shop.system.emulator.deauthorize(shop.account)
    shop.world.settle()
    shop.world.run_until(FEBRUARY + GRACE)
    assert (shop.bills()[-1].status, shop.bills()[-1].reason) == ("parked", "account_unreachable")
    assert len(shop.invoices()) == 1


def test_late_usage_is_rated_in_its_own_period_and_charged_with_the_next_bill(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 20, 13, tzinfo=UTC))
    shop.use("2026-01-20", 12)
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 + 25
    told = shop.use("2026-01-20", 5, prefix="late")  # 17 on that day: one more package of five above ten
    assert told["late"] == 5
    shop.world.run_until(MARCH + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 + 25
    adjustment = [line for line in shop.invoices()[-1]["lines"]["data"] if line["amount"] == 25]
    assert len(adjustment) == 1


class Busy:
    """An account whose next place is a minute away."""

    def reserve(self, account: str, now: datetime) -> float:
        assert account
        assert now
        return 60


def late_january(system: System) -> tuple[Shop, str]:
    """A subscription whose February is due, ten cents a call, and the name of February's bill; nothing was used."""
    shop = open_shop(system, {"name": "Gold", "terms": {"currency": "usd", "charges": [TEN_A_CALL]}})
    shop.world.run_until(FEBRUARY + GRACE)
    shop.system.clock.move_to(MARCH + timedelta(days=2))
    return shop, f"{shop.subscription}.20260301T000000Z"


def billed_late(shop: Shop) -> list[tuple[int, int]]:
    """Subtotal and number of late entries of each bill but the first, once April is billed."""
    shop.world.run_until(datetime(2026, 4, 1, tzinfo=UTC) + GRACE)
    return [(bill.subtotal, len(bill.late)) for bill in shop.bills()[1:]]


def test_late_usage_that_comes_while_a_rated_bill_waits_goes_to_the_next_one(system: System) -> None:
    shop, march = late_january(system)
    now = shop.system.clock.now()
    shop.use("2026-01-30", 3, prefix="before")
    waits = billing.bill_subscription(shop.subscription, now, replace(wiring.billing(), throttle=Busy()))
    assert (waits.outcome, waits.bill) == ("waiting", march)
    assert shop.use("2026-01-31", 5)["late"] == 5
    assert billing.continue_bill(march, now + timedelta(minutes=1), wiring.billing(), placed=True).outcome == "sent"
    assert billed_late(shop) == [(30, 1), (50, 1)]


def test_late_usage_seen_only_by_a_worker_who_came_second_goes_to_the_next_bill(system: System) -> None:
    shop, march = late_january(system)
    now = shop.system.clock.now()
    shop.use("2026-01-30", 3, prefix="before")

    def stalled(bill: Bill, *rest: Any) -> Any:
        assert billing.continue_bill(march, now, wiring.billing(), placed=True).outcome == "sent"
        assert shop.use("2026-01-31", 5)["late"] == 5
        lines = wiring.rater()(bill, *rest)
        assert len(lines.late) == 2
        return lines

    assert billing.bill_subscription(shop.subscription, now, replace(wiring.billing(), rate=stalled)).outcome != "sent"
    assert billed_late(shop) == [(30, 1), (50, 1)]


def test_late_entries_name_the_bill_that_they_are_frozen_in(system: System) -> None:
    shop, march = late_january(system)
    now = shop.system.clock.now()
    shop.use("2026-01-30", 3, prefix="before")

    def killed(*_: Any) -> None:
        raise RuntimeError("killed after the lines were frozen")

    with pytest.raises(RuntimeError):
        billing.bill_subscription(shop.subscription, now, replace(wiring.billing(), took=killed))
    assert billing.continue_bill(march, now, wiring.billing()).outcome == "sent"
    (late,) = wiring.usage().late_entries(shop.subscription, date(2026, 1, 1), date(2026, 1, 31))
    assert late.taken_by == march


def test_an_event_repeated_in_another_batch_is_billed_once(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 20, 13, tzinfo=UTC))
    shop.use("2026-01-20", 12)
    shop.use("2026-01-20", 15)  # holds the twelve again, and three more
    shop.world.run_until(FEBRUARY + GRACE)
    assert shop.invoices()[-1]["total"] == 1000 + 25  # 15 calls: one started package above ten


def test_a_cancellation_is_followed_by_the_last_bill_and_no_other(shop: Shop) -> None:
    shop.world.run_until(datetime(2026, 1, 10, 12, tzinfo=UTC))
    shop.use("2026-01-10", 31)
    etag = shop.subscriber.answer("GET", f"/subscriptions/{shop.subscription}").headers["etag"]
    shop.subscriber.call("POST", f"/subscriptions/{shop.subscription}/cancel", {"when": "period_end"}, If_Match=etag)
    shop.world.run_until(MARCH + GRACE)
    assert [bill.last for bill in shop.bills()] == [False, True]
    assert shop.invoices()[-1]["total"] == 25 * 5  # 21 calls above ten: no fee for a month that does not come


def test_a_bill_goes_on_although_the_one_before_is_parked_with_its_lines(shop: Shop) -> None:
    shop.system.emulator.restrict(shop.account, charges_enabled=False)
    shop.world.settle()
    shop.world.run_until(MARCH + GRACE)
    assert [bill.reason for bill in shop.bills()[1:]] == ["account_restricted", "account_restricted"]


def test_a_bill_waits_until_the_one_before_is_rated(shop: Shop) -> None:
    shop.system.clock.move_to(MARCH + GRACE)
    ports = wiring.billing()

    def rate(bill: Bill, *rest: Any) -> Any:
        if bill.edge == FEBRUARY:
            raise RuntimeError("killed while rating")
        return wiring.rater()(bill, *rest)

    with pytest.raises(RuntimeError):
        billing.bill_subscription(shop.subscription, MARCH + GRACE, replace(ports, rate=rate))
    assert billing.bill_subscription(shop.subscription, MARCH + GRACE, ports).outcome == "later"
    february, march = shop.bills()[1:]
    assert (february.status, march.status) == ("claimed", "claimed")
    assert billing.continue_bill(february.id, MARCH + GRACE, ports).outcome == "sent"
    a_second_later = MARCH + GRACE + timedelta(seconds=1)  # its place in the account's pace
    assert billing.continue_bill(march.id, a_second_later, ports).outcome == "sent"


def test_the_lines_of_who_rated_first_stay_the_bills(shop: Shop) -> None:
    store = wiring.billing_table()
    ours = BillLines(subscription=shop.subscription, edge=MARCH, lines=(), subtotal=100)
    assert store.freeze(ours).subtotal == 100
    assert store.freeze(replace(ours, subtotal=200)).subtotal == 100
    kept = store.lines(shop.subscription, MARCH)
    assert kept is not None
    assert kept.subtotal == 100


def test_a_meter_made_after_a_worker_remembered_the_others_is_read(shop: Shop) -> None:
    store = wiring.billing_table()
    (calls,) = store.meters("acme")
    made = shop.publisher.call("POST", "/meters", {"name": "Bytes", "event_type": "api.bytes", "unit": "bytes"})
    assert store.meters("acme", {calls.id}, {calls.short}) == (calls,)  # what is remembered is enough
    by_id = store.meters("acme", {calls.id, made["id"]}, ())
    assert {meter.id for meter in by_id} == {calls.id, made["id"]}
    shop.publisher.call("POST", "/meters", {"name": "Seconds", "event_type": "api.time", "unit": "s"})
    assert len(store.meters("acme", {calls.id}, {calls.short, 3})) == 3  # a number that nobody remembers was counted
