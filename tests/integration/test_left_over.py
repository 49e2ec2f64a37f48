"""What is left in the subscriber's favour: it comes off the next bill that can take it, or is given back, once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from local import story
from local.clock import Clock
from local.in_process import world_of
from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import delete, put
from monetize.domain.dunning import Action
from monetize.domain.invoices import Bill, BillLines
from monetize.domain.plans import TaxBehavior
from monetize.domain.publishers import Publisher
from monetize.domain.rating import Carried
from monetize.services import invoice_actions
from tests.integration.test_billing import METER, Shop

START = datetime(2026, 1, 1, tzinfo=UTC)
YEARLY = {"id": "year", "name": "Year", "model": "flat", "amount": 36500, "timing": "advance", "interval": "year"}
CODE = "txcd_10103001"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def plan(amount: int | None = 3100, *, name: str = "Gold", tax: str | None = None, **terms: Any) -> dict[str, Any]:
    """A monthly fee in advance, or (None) a yearly one of 365.00."""
    fee = YEARLY if amount is None else {**YEARLY, "id": "fee", "name": "Fee", "amount": amount, "interval": "month"}
    treatment = {"tax_behavior": tax, "tax_code": CODE} if tax else {}
    return {"name": name, "terms": {"currency": "usd", "charges": [fee], **treatment, **terms}}


@dataclass
class Life(Shop):
    """One subscription, from the first of January on."""

    def until(self, when: str) -> None:
        self.world.run_until(at(when))

    def do(self, what: str, **body: str) -> Any:
        return self.subscriber.call("POST", f"/subscriptions/{self.subscription}/{what}", body or None)

    def sell(self, body: Mapping[str, Any]) -> str:
        """A further commercial tier of the API, by the plan's own name. Answers its id."""
        made = self.publisher.call("POST", "/plans", body)
        self.publisher.call("POST", f"/plans/{made['id']}/publish")
        tier = next(each for each in self.publisher.all("/tiers") if each["name"] == body["name"])
        read = self.publisher.answer("GET", f"/tiers/{tier['id']}")
        wanted = {key: tier[key] for key in ("name", "description", "throttle")}
        wanted |= {"commercial": True, "plan": made["id"]}
        self.publisher.call("PUT", f"/tiers/{tier['id']}", wanted, If_Match=read.headers["etag"])
        read = self.publisher.answer("GET", f"/apis/{self.offer.api}")
        known = [each if isinstance(each, str) else each["id"] for each in read.json()["tiers"]]
        self.publisher.call(
            "PUT", f"/apis/{self.offer.api}/tiers", {"tiers": [*known, tier["id"]]}, If_Match=read.headers["etag"]
        )
        return str(tier["id"])

    def notes(self) -> list[dict[str, Any]]:
        return list(self.system.emulator.account(self.account).credit_notes.values())

    def credited(self) -> list[int]:
        return [note["amount"] for note in self.notes()]

    def left(self) -> list[tuple[int, int, int]]:
        """What each bill charges, carries on and gives back."""
        return [(bill.subtotal, bill.carry_out, bill.returned) for bill in self.bills()]

    def billed(self, when: str) -> None:
        """Only the billing worker works, and only now."""
        self.system.clock.move_to(at(when))
        wiring.billing_queue().send({"kind": "subscription", "id": self.subscription}, group="acme")
        self.system.pump()

    def reconcile(self) -> dict[str, Any]:
        found: dict[str, Any] = self.publisher.call("POST", "/reconciliation", {})
        return found


@contextmanager
def life(gold: Mapping[str, Any], *, tax: int | None = None, fee: str = "") -> Iterator[Life]:
    with System(clock=Clock(START)) as system:
        system.schedules.at_most_every = timedelta(days=2)
        world = world_of(system)
        publisher = world.as_user("ann", "acme", "publisher_admin")
        account = story.connect_stripe(world, publisher, "Acme")["publisher"]["stripe"]["account"]
        table = wiring.core()
        was = table.get(Publisher, keys.publisher("acme"))
        assert was is not None
        if tax is not None:
            system.emulator.account(account).tax_percentage = Decimal(tax)
            table.write(put(replace(was, settings=replace(was.settings, automatic_tax=True), fee_percent=fee or "0")))
        offer = story.publish_offer(publisher, "acme", "Weather", gold, {"calls": METER})
        subscriber = world.as_user("bob", "globex", "subscriber")
        made = story.subscribe(world, subscriber, offer, "App", offer.gold_tier, "bob@globex.example")
        yield Life(system, world, account, offer, made["id"])


def test_what_is_left_of_a_plan_is_given_back_when_the_tier_becomes_free() -> None:
    with life(plan(None)) as shop:
        shop.until("2026-01-10T12:00")
        shop.do("change", tier=shop.offer.free_tier, when="now")
        shop.billed("2026-01-12T00:00")
        assert shop.left() == [(36500, 0, 0), (0, 0, -35500)]
        assert shop.credited() == [35500]
        assert [invoice["status"] for invoice in shop.invoices()] == ["paid"]
        shop.until("2026-01-15T00:00")
        assert shop.credited() == [35500]
        assert not shop.reconcile()["findings"]


@pytest.mark.parametrize(("back", "days"), [("2026-01-20T12:00", 346), ("2026-06-20T12:00", 195)])
def test_a_bill_that_comes_after_all_does_not_take_what_was_given_back(back: str, days: int) -> None:
    with life(plan(None)) as shop:
        shop.until("2026-01-10T12:00")
        shop.do("change", tier=shop.offer.free_tier, when="now")
        shop.until(back)
        shop.do("change", tier=shop.offer.gold_tier, when="now")
        shop.until(f"{at(back) + timedelta(days=3):%Y-%m-%d}")
        assert shop.left()[2] == (days * 100, 0, 0)
        shop.do("cancel", when="now")
        shop.until(f"{at(back) + timedelta(days=8):%Y-%m-%d}")
        charged, carried, returned = shop.left()[3]
        assert (charged, carried) == (0, 0)
        assert shop.credited() == [35500, -returned]


def test_who_pays_again_before_the_bill_is_made_carries_on_with_the_credit() -> None:
    """The bill of the change is made a day later at least; by then a billing date is known that can take it."""
    with life(plan(None)) as shop:
        shop.until("2026-01-10T12:00")
        shop.do("change", tier=shop.offer.free_tier, when="now")
        shop.billed("2026-01-11T01:00")  # the change holds; its bill is not due yet
        shop.system.clock.move_to(at("2026-01-12T12:00"))
        shop.do("change", tier=shop.offer.gold_tier, when="now")
        shop.billed("2026-01-13T12:00")
        assert shop.left()[1:] == [(0, -35500, 0), (0, -100, 0)]
        assert shop.credited() == []


def test_a_pause_keeps_what_is_left_for_when_it_ends_and_the_last_bill_gives_it_back() -> None:
    with life(plan(None)) as shop:
        shop.until("2026-01-10T12:00")
        shop.do("pause")
        shop.until("2026-05-01T12:00")
        assert shop.left()[1] == (0, -35500, 0)
        assert shop.credited() == []
        shop.do("cancel", when="now")
        shop.until("2026-05-06T00:00")
        assert shop.left()[2] == (0, 0, -35500)
        assert shop.credited() == [35500]


def test_credit_of_a_tax_treatment_that_is_not_paid_any_more_is_given_back_at_once() -> None:
    with life(plan(tax="exclusive"), tax=20) as shop:
        silver = shop.sell(plan(6200, name="Silver", tax="inclusive"))
        shop.until("2026-01-11T12:00")
        shop.do("change", tier=silver, when="now")
        shop.billed("2026-01-12T00:00")
        assert shop.left() == [(3100, 0, 0), (4200, 0, -2100)]
        assert [(note["amount"], note["invoice"]) for note in shop.notes()] == [(2520, shop.invoices()[0]["id"])]
        shop.until("2026-03-05T00:00")
        assert shop.left()[2:] == [(6200, 0, 0), (6200, 0, 0)]
        assert shop.credited() == [2520]


def test_credit_waits_for_a_version_that_is_known_to_be_paid_later() -> None:
    with life(plan(tax="exclusive"), tax=20) as shop:
        silver = shop.sell(plan(6200, name="Silver", tax="inclusive"))
        shop.until("2026-01-11T12:00")
        shop.do("change", tier=silver, when="now")
        shop.do("change", tier=shop.offer.gold_tier, when="period_end")
        shop.until("2026-02-03T00:00")
        assert shop.left()[1:] == [(4200, -2100, 0), (1000, 0, 0)]
        assert shop.credited() == []


def test_a_worker_that_dies_around_the_note_leaves_it_to_be_made_once() -> None:
    for moment in ("before", "after"):
        with life(plan(None)) as shop:
            shop.until("2026-01-10T12:00")
            shop.do("change", tier=shop.offer.free_tier, when="now")

            def crash(when: str, request: Any, moment: str = moment) -> None:
                if when == moment and request.method == "POST" and request.path == "/v1/credit_notes":
                    raise ConnectionError

            shop.system.emulator.on_call = crash
            shop.billed("2026-01-12T00:00")
            shop.system.emulator.on_call = None
            assert shop.left()[1] == (0, 0, -35500)
            assert shop.credited() == ([] if moment == "before" else [35500])
            for _ in range(2):
                shop.reconcile()
                assert shop.credited() == [35500]
            shop.until("2026-01-15T00:00")
            assert shop.credited() == [35500]
            invoice = wiring.payments().store.invoice_known_as((shop.invoices()[0]["id"],))
            assert invoice is not None
            assert (invoice.credited, invoice.refunded) == (35500, 35500)


@pytest.mark.parametrize(("tax", "given", "share"), [("exclusive", 2520, 210), ("inclusive", 2100, 210)])
def test_a_note_takes_the_tax_on_top_along_and_the_platforms_share(tax: str, given: int, share: int) -> None:
    with life(plan(tax=tax), tax=20, fee="10") as shop:
        shop.until("2026-01-11T00:00")
        shop.do("cancel", when="now")
        shop.until("2026-01-15T00:00")
        assert shop.left() == [(3100, 0, 0), (0, 0, -2100)]
        (note,) = shop.notes()
        assert (note["amount"], note["subtotal"], note["post_payment_amount"]) == (given, 2100, given)
        assert note["total_excluding_tax"] == (2100 if tax == "exclusive" else 1750)
        (invoice,) = shop.invoices()
        assert invoice["total"] == (3720 if tax == "exclusive" else 3100)
        (refund,) = shop.system.emulator.account(shop.account).refunds.values()
        assert refund["amount"] == given
        (fee,) = shop.system.emulator.platform.application_fees.values()
        assert (fee["amount"], fee["amount_refunded"]) == (310, share)


def leaves(shop: Life, edge: str, amount: int, tax: TaxBehavior) -> Bill:
    """A bill that returned so much, as one is stored."""
    first = shop.bills()[0]
    bill = replace(
        first, rev=0, edge=at(edge), status="empty", invoice=None, subtotal=0, lines=0, returned=-amount, next_at=None
    )
    credit = Carried(amount=-amount, tax_behavior=tax, tax_code=None if tax == "unspecified" else CODE)
    content = BillLines(subscription=bill.subscription, edge=bill.edge, lines=(), returned=(credit,))
    wiring.core().write(put(bill), put(content))
    return bill


@pytest.mark.parametrize("parts", [(1, 1), (7, 8, 9), (1033, 1033, 1033), (999, 1, 2)])
def test_notes_of_one_invoice_sum_to_what_one_would_say(parts: tuple[int, ...]) -> None:
    """19 percent of 31.00 is 5.89: the tax of each part is rounded, that of all parts is not rounded twice."""
    with life(plan(tax="exclusive"), tax=19) as shop:
        shop.until("2026-01-03T00:00")
        for day, amount in enumerate((*parts, 3100 - sum(parts)), start=4):
            bill = leaves(shop, f"2026-01-{day:02d}", amount, "exclusive")
            for _ in range(2):
                assert invoice_actions.credit_leftover(bill, shop.system.clock.now(), wiring.payments()) == 0
            so_far = 3100 if day == 4 + len(parts) else sum(parts[: day - 3])
            assert sum(shop.credited()) == (so_far * 119 + 50) // 100
        assert sum(shop.credited()) == 3689 == shop.invoices()[0]["total"]


def test_a_note_never_says_more_than_can_be_credited_and_the_rest_is_for_a_person_before_tax() -> None:
    with life(plan(tax="exclusive"), tax=20) as shop:
        shop.until("2026-01-03T00:00")
        (invoice,) = shop.invoices()
        paid = wiring.payments().store.invoice_known_as((invoice["id"],))
        assert paid is not None
        asked = {"amount": 2400, "reason": "requested_by_customer"}
        shop.publisher.call("POST", f"/invoices/{paid.id}/refunds", asked, Idempotency_Key="by hand")
        shop.until("2026-01-11T00:00")
        shop.do("cancel", when="now")
        shop.billed("2026-01-12T01:00")
        assert shop.left()[-1] == (0, 0, -2100)
        assert shop.credited() == [3720 - 2400]
        found = shop.reconcile()["findings"]
        assert [(each["money"], each["outcome"]) for each in found] == [(2100 - 1100, "proposed")]
        assert shop.credited() == [3720 - 2400]


def test_what_was_given_back_is_known_by_its_note_where_the_tables_are_those_of_before_it() -> None:
    with life(plan(tax="exclusive"), tax=20) as shop:
        shop.until("2026-01-11T00:00")
        shop.do("cancel", when="now")
        shop.until("2026-01-15T00:00")  # longer than Stripe remembers keys
        assert shop.credited() == [2520]
        invoice = wiring.payments().store.invoice_known_as((shop.invoices()[0]["id"],))
        assert invoice is not None
        table, prefix = wiring.core(), keys.action(invoice.id)
        for action in table.list(Action, prefix.pk, prefix.sk).items:
            table.write(delete(action))
        for _ in range(2):
            assert not shop.reconcile()["findings"]
            assert shop.credited() == [2520]


def two_invoices(shop: Life) -> tuple[Any, Any, int]:
    """January's and February's fee were paid, then it was cancelled; the last bill is not made yet."""
    shop.until("2026-02-11T00:00")
    shop.do("cancel", when="now")
    table = wiring.payments().store
    older, newer = [table.invoice_known_as((each["id"],)) for each in shop.invoices()]
    return older, newer, round(3100 * 18 / 28)


def test_what_an_older_invoice_gave_back_is_not_given_again_by_a_newer_one_that_can_by_then() -> None:
    with life(plan()) as shop:
        older, newer, unused = two_invoices(shop)
        asked = {"reason": "requested_by_customer"}
        shop.publisher.call("POST", f"/invoices/{newer.id}/refunds", asked, Idempotency_Key="all of it")
        shop.billed("2026-02-12T01:00")
        assert [(note["amount"], note["invoice"]) for note in shop.notes()] == [(unused, older.stripe_id)]
        by_hand = next(
            each for each in shop.system.emulator.account(shop.account).refunds.values() if each["amount"] == 3100
        )
        shop.system.emulator.fail_refund(shop.account, by_hand["id"])
        shop.until("2026-02-15T00:00")
        assert shop.credited() == [unused]
        assert not [each for each in shop.reconcile()["findings"] if each["kind"] == "amount"]


def test_two_who_see_different_invoices_give_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with life(plan()) as shop:
        older, newer, unused = two_invoices(shop)
        bill = leaves(shop, "2026-03-05", unused, "unspecified")
        ports, now, other = wiring.payments(), shop.system.clock.now(), list[int]()
        table = type(ports.store)
        all_of_them, acting = table.invoices_up_to, table.acting

        def some(self: Any, of: Bill) -> Any:
            return [each for each in all_of_them(self, of) if each.id == (older.id if other else newer.id)]

        def meanwhile(self: Any, *about: Any) -> Any:
            """The first one has decided what the newer invoice gives; now another comes, and ends before it."""
            if not other:
                other.append(1)
                other.append(invoice_actions.credit_leftover(bill, now, ports))
                monkeypatch.setattr(table, "invoices_up_to", all_of_them)
            return acting(self, *about)

        monkeypatch.setattr(table, "invoices_up_to", some)
        monkeypatch.setattr(table, "acting", meanwhile)
        assert invoice_actions.credit_leftover(bill, now, ports) == 0
        assert other == [1, 0]
        assert [(note["amount"], note["invoice"]) for note in shop.notes()] == [(unused, older.stripe_id)]
