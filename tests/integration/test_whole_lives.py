"""Whole lives, to the cent: each instant is paid for once, by the version it was lived under, whatever happened."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from local.http_client import Refused
from local.story import CARD
from monetize.adapters.stripe.invoices import StripeInvoices
from monetize.domain.collecting import DraftRequest, HeldInvoice, InvoiceLine
from tests.integration.life_fixtures import SELDOM, Begin, Life, Terms, calls, flat, life, terms

__all__ = ["life"]

A_DOLLAR_A_DAY = terms(flat(3100), calls())  # in January
YEARLY = terms(flat(36500, interval="year"), calls())


# --- changes, pauses and ends within a month ---


def test_a_cancellation_after_a_change_to_other_charges_gives_back_the_new_ones_rest(life: Begin) -> None:
    it = life(A_DOLLAR_A_DAY, {"Silver": terms(flat(6200, "silver"), calls("requests"))})
    it.until("01-11")
    it.do("change", tier=it.tiers["Silver"], when="now")
    it.until("01-21")
    it.do("cancel", when="now")
    it.until("01-25")
    # 21 days at a dollar come back and 21 at two are charged; ten and a half of those come back
    assert (it.asked(), it.given_back()) == ([3100, 4200 - 2100, 0], 2100)


def test_two_pauses_in_a_month_give_back_each_day_once(life: Begin) -> None:
    it = life(A_DOLLAR_A_DAY)
    for paused, resumed in (("01-05", "01-11"), ("01-15", "01-21")):
        it.until(paused)
        it.do("pause")
        it.until(resumed)
        it.do("resume")
    it.until("02-05")
    # back: 26 days, then 16; charged again: 21, then 11; January: five and five and eleven
    assert it.asked() == [3100, 0, 0, 0, 0, 3100 - (2600 - 2100 + 1600 - 1100)]


@pytest.mark.parametrize(("bound", "used"), [("minimum", (0, 0)), ("maximum", (200, 300))])
def test_a_minimum_and_a_maximum_are_each_versions_own_days(life: Begin, bound: str, used: tuple[int, int]) -> None:
    it = life(terms(flat(310), calls(), **{bound: 3100}))
    it.until("01-05")
    it.use("2026-01-05", used[0])
    it.until("01-11")
    it.move(terms(flat(620), calls(), **{bound: 3100}))
    it.until("01-15")
    it.use("2026-01-15", used[1])
    it.until("02-05")
    # ten days come to 10.00 with the 1.00 paid ahead, of which 2.10 come back; then 21 to 21.00 with 4.20
    assert it.asked() == [310, 900 - 210 + 420, (2100 - 420) + 620]


def test_a_cancellation_at_the_periods_end_ends_there_although_a_change_waited(life: Begin) -> None:
    it = life(A_DOLLAR_A_DAY, {"Silver": terms(flat(1550), calls())})
    it.until("01-09")
    it.do("change", tier=it.tiers["Silver"], when="now")  # a downgrade: it waits for midnight
    told = it.do("cancel", when="period_end")
    assert (told["cancel_at"], told["change"]) == ("2026-02-01T00:00:00Z", None)
    it.until("02-05")
    assert (it.asked(), it.given_back()) == ([3100, 0], 0)


# --- a year's fee stops with its version, also at the edge of a month ---


def at_the_years_edge_of_march(it: Life, what: str) -> None:
    """The version in force stops with February, in one of the ways there are; asked on its last day."""
    it.until("02-28")
    match what:
        case "cancel":
            it.do("cancel", when="period_end")
        case "change":
            it.do("change", tier=it.tiers["Silver"], when="period_end")
        case "move":
            it.move(terms(calls()), "period_end")
        case "pause":
            it.do("pause")
    it.until("03-05")


WAYS = ["cancel", "change", "move", "pause"]


@pytest.mark.parametrize("what", WAYS)
def test_a_year_paid_ahead_comes_back_from_a_months_edge_on(life: Begin, what: str) -> None:
    it = life(YEARLY, {"Silver": terms(calls())})
    at_the_years_edge_of_march(it, what)
    assert it.asked() == [36500, 0, 0]
    rest = 36500 - 31 * 100 - 28 * 100
    assert (it.given_back(), it.carries()) == ((rest, 0) if what == "cancel" else (0, -rest))


@pytest.mark.parametrize("what", WAYS)
def test_a_year_in_arrears_is_charged_at_the_months_edge_it_stops_at(life: Begin, what: str) -> None:
    it = life(terms(flat(36500, timing="arrears", interval="year"), calls()), {"Silver": terms(calls())})
    at_the_years_edge_of_march(it, what)
    assert it.asked() == [0, 31 * 100 + 28 * 100]
    assert it.carries() == 0


def test_annual_to_monthly_to_annual_charges_each_day_once(life: Begin) -> None:
    it = life(YEARLY, {"Silver": terms(flat(5000), calls())})
    it.until("01-15")
    it.do("change", tier=it.tiers["Silver"], when="period_end")
    it.until("02-15")
    it.do("change", tier=it.offer.gold_tier, when="period_end")
    it.until("03-05")
    # from February 334 days come back and a month is charged; from March the 306 days to the yearly edge
    assert it.asked() == [36500, 0, 30600 - (33400 - 5000)]
    assert it.carries() == 0


def test_a_year_that_is_paused_is_given_back_once_and_goes_on_to_its_edge(life: Begin) -> None:
    it = life(YEARLY)
    it.until("02-28")
    it.do("pause")
    it.until("03-11")
    it.do("resume")
    it.until("03-15")
    it.use("2026-03-15", 150)
    it.until("04-05")
    # 306 days came back in March, 296 are charged from the 11th: ten days of credit pay for calls
    assert it.asked() == [36500, 0, 0, 0, 1500 - 1000]


@pytest.mark.parametrize("gold", [A_DOLLAR_A_DAY, YEARLY])
@pytest.mark.parametrize("when", ["now", "period_end"])
def test_what_a_change_is_said_to_cost_is_what_its_bill_asks(life: Begin, gold: Terms, when: str) -> None:
    it = life(gold, {"Silver": terms(flat(6200), calls())})
    it.until("01-11")
    told = it.do("change/preview", tier=it.tiers["Silver"], when=when)
    it.do("change", tier=it.tiers["Silver"], when=when)
    it.until("02-05")
    bill = it.bills()[1]
    rest = 0 if gold is A_DOLLAR_A_DAY else 334 * 100
    said = (4200, 2100 + rest) if when == "now" else (6200, rest)
    assert (told["charge"], told["credit"], told["due"]) == (*said, bill.subtotal + bill.carry_out)


# --- long pauses and late usage ---

BY_THE_DAY = terms(flat(8680), calls())  # 2.80 a day in months of 31, 3.10 in February


def test_a_pause_of_a_hundred_days_keeps_the_credit(life: Begin) -> None:
    it = life(BY_THE_DAY)
    it.until("02-07")
    it.do("pause")
    it.until("05-18")
    it.do("resume")
    it.until("06-05")
    assert it.asked() == [8680, 8680, 0, 0, 8680 - (21 * 310 - 14 * 280)]


def test_a_cancellation_after_a_pause_of_a_hundred_days_gives_the_credit_back(life: Begin) -> None:
    it = life(BY_THE_DAY)
    it.until("02-07")
    it.do("pause")
    it.until("05-18")
    it.do("cancel", when="now")
    it.until("05-22")
    assert (it.asked(), it.given_back()) == ([8680, 8680, 0, 0], 21 * 310)


def test_late_usage_of_before_a_pause_is_billed_however_long_the_pause_is(life: Begin) -> None:
    it = life(terms(calls()))
    it.until("02-05")
    it.do("pause")
    it.until("02-10")
    assert it.use("2026-02-03", 50)["late"] == 50
    it.until("05-18")
    it.do("cancel", when="now")
    it.until("05-22")
    assert it.asked() == [0, 0, 500]


@pytest.mark.parametrize(
    ("bound", "used", "months"),
    [
        (
            "minimum",
            60,
            (600, 500, 500 + 10),
        ),  # January had more; each month after it is trued up; a call more is a call
        ("maximum", 100, (500, 0, 0)),  # January was at its most already
    ],
)
def test_late_usage_that_the_second_next_bill_takes_sees_the_fee_of_its_period(
    life: Begin, bound: str, used: int, months: tuple[int, ...]
) -> None:
    it = life(terms(flat(1000), calls(), **{bound: 1500}))
    it.until("01-31")
    it.use("2026-01-31", used)
    it.until("03-04")
    assert it.use("2026-01-31", 1, prefix="late")["late"] == 1
    it.until("04-05")
    assert it.asked() == [1000, *(1000 + each for each in months)]


# --- top-ups ---


def allowed(it: Life, key: str) -> int:
    """The calls that a gateway is told are included in the running period."""
    told = it.world.as_gateway(it.offer.gateway_key).call("POST", "/entitlements/check", {"key": key})
    (meter,) = told["meters"]
    return int(meter["limit"])


def reason(it: Life, key: str) -> str:
    """Why a call is not allowed; empty when it is."""
    told = it.world.as_gateway(it.offer.gateway_key).call("POST", "/entitlements/check", {"key": key})
    return str(told.get("reason", ""))


def key_of(it: Life) -> str:
    """A key of the subscriber's."""
    made = it.subscriber.call("POST", f"{it.path}/keys", {"environment": "production", "name": "app"})
    return str(made["key"])


def test_a_top_up_counts_in_the_period_of_its_day_and_in_none_after_it(life: Begin) -> None:
    it = life(terms(calls(allowance=31)))
    key = key_of(it)
    it.until("01-05")
    it.top_up(100)
    it.use("2026-01-05", 140)
    assert allowed(it, key) == 31 + 100
    it.until("01-10")
    it.move(terms(calls(allowance=62)))
    assert allowed(it, key) == 10 + 100
    it.until("01-11")
    assert allowed(it, key) == 42
    it.use("2026-01-11", 100)
    it.until("02-05")
    assert allowed(it, key) == 62
    assert it.asked() == [10 * (140 - 10 - 100), 10 * (100 - 42)]


def test_a_top_up_counts_in_no_period_before_its_day(life: Begin) -> None:
    it = life(terms(calls(allowance=0)))
    it.until("01-05")
    it.use("2026-01-05", 100)
    it.until("01-10")
    it.do("pause")
    it.until("01-15")
    it.do("resume")
    it.top_up(100)
    assert it.use("2026-01-05", 1, prefix="late")["late"] == 1
    it.use("2026-01-15", 100)
    it.until("02-05")
    assert it.asked() == [1000, 10]


def test_an_upgrade_takes_along_the_top_up_of_its_day(life: Begin) -> None:
    it = life(terms(calls(allowance=31)), {"Silver": terms(flat(3100), calls(allowance=62))})
    key = key_of(it)
    it.until("01-11")
    it.top_up(100)
    it.do("change", tier=it.tiers["Silver"], when="now")
    assert allowed(it, key) == 42 + 100
    it.use("2026-01-11", 150)
    it.until("02-05")
    assert it.asked() == [2100, 10 * (150 - 142) + 3100]


def test_calls_pass_again_with_the_period_that_a_resume_begins_so_that_none_is_free(life: Begin) -> None:
    it = life(terms(calls()), grace_hours=1)
    key = key_of(it)
    it.until("01-03")
    it.system.schedules.at_most_every = timedelta(hours=2)
    it.until("01-05")
    it.do("pause")
    it.until("01-06T04:00")  # the bill at the pause's midnight is made: the new period begins with the next
    assert len(it.bills()) == 1
    it.do("resume")
    assert reason(it, key) == "subscription_paused"
    it.until("01-07T00:00")
    assert reason(it, key) == ""


# --- bills that were let off ---


def let_off(it: Life, how: str, number: int = -1) -> None:
    """A bill that nobody pays, the newest unless told, is let off by the publisher."""
    if how == "waive":
        it.publisher.call("POST", f"/bills/{it.bills()[number].id}/waive", {"reason": "a gift"})
    else:
        it.publisher.call("POST", f"/invoices/{it.invoice_of(number)}/{how}", {}, Idempotency_Key=how)
    it.world.settle()


def begun_and_let_off(life: Begin, how: str, gold: Terms) -> Life:
    """January's opening bill is let off."""
    it = life(gold, hold_above=100) if how == "waive" else life(gold)
    it.declines()
    it.until("01-02")
    let_off(it, how)
    it.declines("succeed")
    return it


HOW = ["waive", "void", "mark-uncollectible"]


@pytest.mark.parametrize("how", HOW)
def test_a_bill_that_was_let_off_gives_nothing_back(life: Begin, how: str) -> None:
    it = begun_and_let_off(life, how, A_DOLLAR_A_DAY)
    it.until("01-10")
    it.do("pause")
    it.until("01-21")
    it.do("resume")
    it.until("01-25")
    assert it.asked() == [3100, 0, 1100]
    assert it.carries() == 0


@pytest.mark.parametrize("how", HOW)
def test_the_last_bill_after_one_that_was_let_off_leaves_nothing(life: Begin, how: str) -> None:
    it = begun_and_let_off(life, how, A_DOLLAR_A_DAY)
    it.until("01-10")
    it.do("cancel", when="now")
    it.until("01-20")
    assert [(bill.status, bill.carry_out) for bill in it.bills()][1:] == [("empty", 0)]
    assert it.given_back() == 0


@pytest.mark.parametrize("how", ["void", "mark-uncollectible"])
def test_a_correction_of_a_bill_that_was_let_off_gives_nothing(life: Begin, how: str) -> None:
    it = life(terms(calls()))
    it.declines()
    it.until("01-05")
    it.use("2026-01-05", 100)
    it.until("02-03")
    let_off(it, how)
    it.declines("succeed")
    it.correct("2026-01-05", -40)
    it.until("02-05")
    it.use("2026-02-05", 100)
    it.until("03-05")
    assert it.asked() == [1000, 1000]


@pytest.mark.parametrize(("voided", "months"), [("02-05", (2600, 3100)), ("03-05", (3100, 2600))])
def test_credit_that_had_gone_into_a_bill_let_off_comes_back_once(
    life: Begin, voided: str, months: tuple[int, int]
) -> None:
    it = life(A_DOLLAR_A_DAY)
    it.until("01-05")
    it.do("pause")
    it.until("01-11")
    it.do("resume")
    it.until("01-12")
    it.declines()
    it.until(voided)
    let_off(it, "void", 3)
    it.until("05-05")
    # 5.00 of the pause's 26.00 were left when January went on; they had gone into what was asked in February
    assert it.asked() == [3100, 0, 0, 3100 - 500, *months, 3100]


def test_a_bill_written_off_that_is_paid_after_all_keeps_the_credit_that_went_into_it(life: Begin) -> None:
    it = life(A_DOLLAR_A_DAY)
    it.until("01-05")
    it.do("pause")
    it.until("01-11")
    it.do("resume")
    it.until("01-12")
    it.declines()
    it.until("02-05")
    let_off(it, "mark-uncollectible")
    it.declines("succeed")
    it.until("03-05")
    address = next(each for each in it.invoices() if each["status"] == "uncollectible")["hosted_invoice_url"]
    it.world.form(address, {"card": CARD, "exp_month": "12", "exp_year": "2040"})
    it.until("04-05")
    assert [bill.status for bill in it.bills()][3:] == ["paid"] * 3
    assert it.asked() == [3100, 0, 0, 2600, 3100, 3100]


@pytest.mark.parametrize(("route", "why"), [("credit-notes", "order_change"), ("refunds", "requested_by_customer")])
def test_a_gift_of_the_publishers_changes_nothing_of_what_a_pause_gives_back(life: Begin, route: str, why: str) -> None:
    it = life(A_DOLLAR_A_DAY)
    it.until("01-05")
    gift = {"amount": 3100, "reason": why}
    it.publisher.call("POST", f"/invoices/{it.invoice_of(0)}/{route}", gift, Idempotency_Key="gift")
    it.until("01-10")
    it.do("pause")
    it.until("01-21")
    it.do("resume")
    it.until("02-05")
    assert it.asked() == [3100, 0, 0, 3100 - (2100 - 1100)]


# --- two tax treatments in one bill ---


def changed_with_tax(life: Begin, first: str, second: str) -> Life:
    """At 20 % tax: from 31.00 to 62.00 on the 11th of January, each with its own tax behavior; 300 calls before."""
    taxed = {"tax_code": "txcd_10103001"}
    silver = terms(flat(6200, "silver"), calls(), tax_behavior=second, **taxed)
    gold = terms(flat(3100), calls(), tax_behavior=first, **taxed)
    it = life(gold, {"Silver": silver}, automatic_tax=True)
    it.system.emulator.account(it.account).tax_percentage = Decimal(20)
    it.until("01-05")
    it.use("2026-01-05", 300)
    it.until("01-11")
    it.do("change", tier=it.tiers["Silver"], when="now")
    return it


@pytest.mark.parametrize(
    ("first", "second", "taxes", "total"),
    [
        ("exclusive", "inclusive", 180 + 700, 900 + 180 + 4200),  # a fifth on top of the calls; a sixth of the fee
        ("inclusive", "exclusive", 150 + 840, 900 + 4200 + 840),
    ],
)
def test_each_line_of_a_bill_says_its_own_tax(life: Begin, first: str, second: str, taxes: int, total: int) -> None:
    it = changed_with_tax(life, first, second)
    it.until("01-15")
    bill, invoice = it.bills()[-1], it.invoices()[-1]
    assert (bill.status, bill.subtotal, bill.carry_out) == ("paid", (3000 - 2100) + 4200, 0)
    assert (sum(each["amount"] for each in invoice["total_taxes"]), invoice["total"]) == (taxes, total)


@pytest.mark.parametrize("wrong", [{"amount": 1}, {"tax_behavior": "exclusive"}, {"tax_behavior": "inclusive"}])
def test_a_bill_with_both_taxes_that_stripe_holds_otherwise_is_parked(
    life: Begin, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    it = changed_with_tax(life, "exclusive", "inclusive")
    honest = StripeInvoices.add_lines

    def add(self: StripeInvoices, wanted: DraftRequest, invoice: str, lines: Sequence[InvoiceLine]) -> HeldInvoice:
        return honest(self, wanted, invoice, [replace(line, **wrong) for line in lines])

    monkeypatch.setattr(StripeInvoices, "add_lines", add)
    it.until("01-15")
    assert (it.bills()[-1].status, it.bills()[-1].reason) == ("parked", "total_differs")
    assert it.invoices()[-1]["status"] == "draft"


def test_a_taxed_bill_of_more_lines_than_an_invoice_answers_at_once_is_compared_whole(life: Begin) -> None:
    fees = [flat(100 + number, f"fee-{number}") for number in range(12)]
    it = life(terms(*fees, calls(), tax_behavior="exclusive", tax_code="txcd_10103001"), automatic_tax=True)
    it.system.emulator.account(it.account).tax_percentage = Decimal(20)
    it.until("01-02")
    assert [(bill.status, bill.subtotal) for bill in it.bills()] == [("paid", 1266)]


# --- between an edge and its bill ---


def test_a_month_cancelled_before_its_bill_is_charged_as_far_as_it_was_lived(life: Begin) -> None:
    it = life(BY_THE_DAY)
    it.until("02-01")  # its bill waits out the grace of a day
    it.do("cancel", when="now")
    it.until("02-05")
    assert [(bill.subtotal, bill.carry_out) for bill in it.bills()] == [(8680, 0), (155, 0), (0, 0)]
    assert it.given_back() == 0


def test_a_year_cancelled_before_its_bill_is_charged_as_far_as_it_was_lived(life: Begin) -> None:
    it = life(YEARLY)
    it.a_year_on()
    it.do("cancel", when="now")
    it.until("2027-01-05")
    assert [(bill.subtotal, bill.carry_out) for bill in it.bills()] == [(36500, 0), *[(0, 0)] * 11, (50, 0), (0, 0)]
    assert it.given_back() == 0


@pytest.mark.parametrize("interval", ["month", "year"])
@pytest.mark.parametrize("what", ["pause", "change"])
def test_what_is_taken_back_before_its_own_bill_has_shortened_no_fee(life: Begin, what: str, interval: str) -> None:
    it = life(terms(flat(BY_THE_DAY["charges"][0]["amount"], interval=interval), calls()), {"Silver": terms(calls())})
    edge = "2026-02-01" if interval == "month" else "2027-01-01"
    it.until(edge) if interval == "month" else it.a_year_on()
    it.do("pause") if what == "pause" else it.do("change", tier=it.tiers["Silver"], when="now")
    it.system.schedules.at_most_every = timedelta(hours=1)  # the edge's bill is made in the night that it begins in
    it.until(f"{edge[:-1]}2T05:00")
    assert it.asked()[-1] == 8680
    it.do("resume") if what == "pause" else it.do("change", tier=it.offer.gold_tier, when="now")
    it.system.schedules.at_most_every = SELDOM
    it.until(f"{edge[:5]}03-05")
    assert sum(it.asked()) + it.carries() == 8680 * (3 if interval == "month" else 2)


# --- old corrections ---


def test_a_correction_of_a_quarter_ago_is_billed_as_its_month_was_and_an_older_one_refused(life: Begin) -> None:
    it = life(terms(flat(1000), calls(), minimum=1500), grace_hours=1)
    it.until("01-30")
    it.use("2026-01-30", 100)
    it.until("04-30")
    it.system.schedules.at_most_every = timedelta(hours=12)  # so that April's bill is made when it is due
    it.until("05-02")  # 92 days later
    assert len(it.bills()) == 5
    assert it.correct("2026-01-30", -40)["outcome"] == "late"
    it.use("2026-05-02", 100)
    it.until("05-03")
    with pytest.raises(Refused, match="day_too_old"):
        it.correct("2026-01-30", -1, "a day later")
    it.system.schedules.at_most_every = SELDOM
    it.until("06-05")
    # January came to 20.00, and to 16.00 with 40 calls less: above its minimum still, with the fee paid ahead
    assert it.asked() == [1000, 2000, 1500, 1500, 1500, 2000 - 400]
