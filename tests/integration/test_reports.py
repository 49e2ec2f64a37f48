"""What reports count: who pays and what for, what is revenue, what is overdue, who used most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.errors import NotFound
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.lines import Line
from monetize.domain.periods import Period
from monetize.domain.plans import Charge, PlanTerms, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.reports import Snapshot
from monetize.domain.subscriptions import Discount, Span, Subscription
from monetize.domain.usage import Counters, LateEntry
from monetize.http.reports_schemas import AgingResponse, ChurnResponse, MrrResponse, RevenueResponse
from monetize.services import reporting
from monetize.services.reporting import Found, Ports, count_revenue

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


def _fee(amount: int, interval: str = "month", minimum: int | None = None) -> PlanTerms:
    fee = Charge(id="fee", name="Fee", model="flat", amount=amount, interval=interval, timing="advance")  # type: ignore[arg-type]
    return PlanTerms(currency="usd", charges=(fee,), minimum=minimum)


TERMS = {
    "small": _fee(1_000),
    "large": _fee(5_000),
    "yearly": _fee(12_006, "year"),
    "least": _fee(1_000, minimum=3_000),
}


def _paid(sub: str, plan: str, since: datetime, **about: Any) -> Subscription:
    made = Subscription(
        id=sub,
        publisher="acme",
        subscriber=f"dev-{sub}",
        application="app",
        product="api",
        apis=(),
        tier="gold",
        status="active",
        plan=plan,
        version=1,
        currency="usd",
        spans=(Span(start=since, kind="paid", tier="gold", plan=plan, version=1, advance=True),),
        created_at=since,
        activated_at=since,
    )
    return replace(made, **about)


def _moved(sub: str, plan: str, to: str) -> Subscription:
    was = _paid(sub, plan, JANUARY)
    later = replace(was.spans[0], start=FEBRUARY + timedelta(days=9), plan=to)
    return replace(was, spans=(*was.spans, later), plan=to)


@dataclass
class Desk:
    """What reports read."""

    subs: Sequence[Subscription] = ()
    invoices_: Sequence[Invoice] = ()
    counted: Mapping[str, Mapping[tuple[date, int], int]] = field(default_factory=dict)
    late: Sequence[LateEntry] = ()
    people: Sequence[str] = ("acme",)
    kept: dict[tuple[str, str], Snapshot] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def publisher(self, pub: str) -> Publisher:
        return Publisher(id=pub, created_at=JANUARY)

    def sellers(self) -> tuple[str, ...]:
        return tuple(self.people)

    def names(self, pub: str) -> dict[str, str]:  # noqa: ARG002
        return {each.product: each.product for each in self.subs}

    def meters(self, pub: str) -> tuple[()]:  # noqa: ARG002
        return ()

    def version(self, plan: str, number: int) -> PlanVersion:
        return PlanVersion(
            plan=plan, publisher="acme", number=number, name=plan, terms=TERMS[plan], published_at=JANUARY
        )

    def subscriptions(self, pub: str, after: str | None, limit: int) -> Found[Subscription]:  # noqa: ARG002
        rest = [each for each in self.subs if each.id > (after or "")]
        return Found(tuple(rest[:limit]), rest[limit - 1].id if len(rest) > limit else None)

    def invoices(self, pub: str, month: str, after: str | None, limit: int) -> Found[Invoice]:
        rest = [each for each in self.invoices_ if f"{each.issued_at:%Y-%m}" == month and each.publisher == pub]
        return Found(tuple(rest[int(after or 0) :][:limit]), None)

    def many_lines(self, of: Sequence[object]) -> tuple[()]:  # noqa: ARG002
        return ()

    def many_subscriptions(self, ids: Sequence[str]) -> tuple[()]:  # noqa: ARG002
        return ()

    def snapshot(self, pub: str, name: str) -> Snapshot | None:
        return self.kept.get((pub, name))

    def keep(self, snapshot: Snapshot, now: datetime) -> bool:  # noqa: ARG002
        self.kept[snapshot.publisher, snapshot.name] = replace(snapshot, rev=snapshot.rev + 1)
        return True

    def counters(self, subscription: str, first: date, last: date, shards: Any, *, sandbox: bool = False) -> Counters:  # noqa: ARG002
        self.read += [subscription] * shards(f"{first:%Y-%m}")
        return Counters(self.counted.get(subscription, {}), {})

    def late_entries(self, subscription: str, first: date, last: date) -> tuple[LateEntry, ...]:  # noqa: ARG002
        return tuple(each for each in self.late if each.ref.startswith(subscription))

    @property
    def ports(self) -> Ports:
        return Ports(store=self, usage=self, invoices=lambda: None)  # type: ignore[arg-type,return-value] # the parts that are asked


def _spans(sub: str, *spans: tuple[datetime, str, str | None], **about: Any) -> Subscription:
    """One that was begun in January and whose stretches (start, kind, plan) are these."""
    made = tuple(
        Span(start=start, kind=kind, tier="gold", plan=plan, version=1 if plan else None, advance=True)
        for start, kind, plan in spans
    )
    return _paid(sub, "small", spans[0][0], **({"spans": made} | about))


def _mrr(*subs: Subscription, month: str = "2026-02", now: datetime = MARCH) -> Any:
    snapshot = reporting.subscriptions("acme", month, now, Desk(subs).ports)
    return MrrResponse.of(snapshot, month, {})


def _churn(*subs: Subscription, month: str = "2026-02", now: datetime = MARCH) -> Any:
    desk = Desk(subs)
    made = ChurnResponse.of(reporting.subscriptions("acme", month, now, desk.ports), month)
    return made.rows[0] if made.rows else None


# --- recurring revenue and churn ---


def test_recurring_revenue_is_fees_a_twelfth_of_yearly_ones_or_a_higher_minimum() -> None:
    subs = [_paid(plan, plan, JANUARY) for plan in sorted(TERMS)]
    report = MrrResponse.of(reporting.subscriptions("acme", "2026-02", MARCH, Desk(subs).ports), "2026-02", {})
    assert {row.plan: row.mrr for row in report.rows} == {
        "small": 1_000,
        "large": 5_000,
        "yearly": 1_001,
        "least": 3_000,
    }
    assert report.totals == {"usd": 10_001}  # rounded once: 10,000.5


def test_churn_tells_who_was_won_and_lost_and_who_moved() -> None:
    row = _churn(
        _paid("a", "small", JANUARY),
        _paid("b", "large", JANUARY, ended_at=FEBRUARY + timedelta(days=3), status="ended", end_reason="canceled"),
        _paid("c", "small", FEBRUARY + timedelta(days=3)),
        _moved("d", "small", "large"),
        _moved("e", "large", "small"),
    )
    assert (row.at_start, row.won, row.lost, row.at_end, row.churn_percent) == (4, 1, 1, 4, "25.00")
    assert (row.mrr_at_start, row.mrr_won, row.mrr_lost) == (12_000, 1_000, 5_000)
    assert (row.mrr_gained, row.mrr_reduced, row.mrr_churn_percent) == (4_000, 4_000, "41.67")
    assert row.reasons == {"canceled": 1}


def test_an_order_that_waits_for_its_first_payment_is_not_recurring_and_not_won() -> None:
    order = _paid(
        "a", "small", FEBRUARY, status="pending_invoice", activated_at=None, pending_until=FEBRUARY + timedelta(days=3)
    )
    assert _churn(order) is None
    snapshot = reporting.subscriptions("acme", "2026-02", MARCH, Desk([order]).ports)
    assert MrrResponse.of(snapshot, "2026-02", {}).totals == {}


def test_an_order_paid_after_the_month_was_not_there_at_its_end() -> None:
    order = _paid("a", "small", FEBRUARY, activated_at=MARCH + timedelta(days=2))
    assert _churn(order, now=MARCH + timedelta(days=9)) is None
    row = _churn(order, month="2026-03", now=MARCH + timedelta(days=9))
    assert (row.at_start, row.won, row.at_end, row.mrr_won) == (0, 1, 1, 1_000)


def test_a_trial_is_not_recurring_until_it_pays() -> None:
    tried = _spans("a", (JANUARY, "trial", "small"), (FEBRUARY + timedelta(days=9), "paid", "small"))
    assert _mrr(tried, month="2026-01").totals == {}
    assert _churn(tried, month="2026-01") is None
    assert _mrr(tried).totals == {"usd": 1_000}
    row = _churn(tried)
    assert (row.at_start, row.won, row.lost, row.at_end) == (0, 1, 0, 1)


def test_what_is_blocked_or_past_due_is_still_recurring() -> None:
    blocked = _paid("a", "small", JANUARY, block="all")
    owing = _paid("b", "small", JANUARY, payment_state="suspended", past_due_since=FEBRUARY)
    assert _mrr(blocked, owing).totals == {"usd": 2_000}


def test_a_free_tier_is_not_recurring_and_who_goes_there_is_lost() -> None:
    free = _spans("a", (JANUARY, "free", None))
    gone = _spans("b", (JANUARY, "paid", "large"), (FEBRUARY + timedelta(days=9), "free", None))
    came = _spans("c", (JANUARY, "free", None), (FEBRUARY + timedelta(days=9), "paid", "small"))
    row = _churn(free, gone, came)
    assert (row.at_start, row.won, row.lost, row.at_end) == (1, 1, 1, 1)
    assert (row.reasons, row.mrr_lost, row.mrr_at_end) == ({"free_tier": 1}, 5_000, 1_000)
    assert _mrr(free, gone, came).totals == {"usd": 1_000}


def test_a_paused_subscription_is_there_at_nothing_until_it_resumes() -> None:
    paused = _spans(
        "a",
        (JANUARY, "paid", "large"),
        (FEBRUARY + timedelta(days=9), "paused", "large"),
        (MARCH + timedelta(days=9), "paid", "large"),
    )
    assert _mrr(paused).rows == []
    row = _churn(paused)
    assert (row.at_start, row.lost, row.at_end, row.mrr_reduced, row.mrr_at_end) == (1, 0, 1, 5_000, 0)
    row = _churn(paused, month="2026-03", now=MARCH + timedelta(days=20))
    assert (row.won, row.lost, row.mrr_at_start, row.mrr_gained, row.mrr_at_end) == (0, 0, 0, 5_000, 5_000)


def test_a_pause_before_anything_was_paid_is_not_there() -> None:
    tried = _spans("a", (JANUARY, "trial", "small"), (JANUARY + timedelta(days=9), "paused", "small"))
    assert _churn(tried) is None


def test_who_comes_and_goes_within_a_month_is_neither_won_nor_lost() -> None:
    brief = _paid("a", "small", FEBRUARY + timedelta(days=3), ended_at=FEBRUARY + timedelta(days=9), status="ended")
    assert _churn(brief) is None


@pytest.mark.parametrize(
    ("plan", "discounts", "monthly"),
    [
        ("large", (Discount(id="d", percent="10"),), 4_500),
        ("large", (Discount(id="d", amount=600),), 4_400),
        ("large", (Discount(id="d", amount=600), Discount(id="e", percent="50")), 2_200),  # in their order
        ("large", (Discount(id="d", percent="50"), Discount(id="e", amount=600)), 1_900),
        ("small", (Discount(id="d", amount=5_000),), 0),  # never below nothing
        ("large", (Discount(id="d", percent="10", once=True),), 5_000),
        ("least", (Discount(id="d", percent="10"),), 2_700),
        ("yearly", (Discount(id="d", amount=606),), 950),  # off the one bill that charges it
    ],
)
def test_recurring_revenue_is_less_the_discounts_for_ever(
    plan: str, discounts: tuple[Discount, ...], monthly: int
) -> None:
    assert _mrr(_paid("a", plan, JANUARY, discounts=discounts)).totals == {"usd": monthly}


def test_a_discount_given_within_the_month_reduces_what_was_recurring() -> None:
    given = Discount(id="d", percent="10", given_at=FEBRUARY + timedelta(days=3))
    row = _churn(_paid("a", "large", JANUARY, discounts=(given,)))
    assert (row.mrr_at_start, row.mrr_reduced, row.mrr_at_end) == (5_000, 500, 4_500)


@given(st.lists(st.tuples(*[st.sampled_from(["", *sorted(TERMS)])] * 2), min_size=1, max_size=40))
def test_what_was_won_and_lost_adds_up_to_the_minor_unit(moves: list[tuple[str, str]]) -> None:
    subs = []
    for number, (before, after) in enumerate(moves):
        kinds = [("paid" if plan else "free", plan or None) for plan in (before, after)]
        subs.append(_spans(f"{number:03d}", (JANUARY, *kinds[0]), (FEBRUARY + timedelta(days=9), *kinds[1])))
    row = _churn(*subs)
    if row is None:
        assert all(move == ("", "") for move in moves)
        return
    assert row.at_start + row.won - row.lost == row.at_end == sum(bool(after) for _, after in moves)
    came = row.mrr_at_start + row.mrr_won + row.mrr_gained
    assert came - row.mrr_reduced - row.mrr_lost == row.mrr_at_end == _mrr(*subs).totals.get("usd", 0)
    rows = _mrr(*subs).rows
    assert sum(each.mrr for each in rows) == row.mrr_at_end


def test_money_of_several_currencies_is_never_added() -> None:
    row = _mrr(_paid("a", "small", JANUARY), _paid("b", "small", JANUARY, currency="eur"))
    assert row.totals == {"usd": 1_000, "eur": 1_000}


def test_a_month_to_come_is_told_as_it_stands_now() -> None:
    ending = _paid("b", "large", JANUARY, ended_at=FEBRUARY + timedelta(days=20), status="canceling")
    row = _churn(_paid("a", "small", JANUARY), ending, month="2026-07", now=FEBRUARY + timedelta(days=3))
    assert (row.at_start, row.won, row.lost, row.at_end) == (2, 0, 0, 2)


# --- revenue ---


def _invoice(name: str = "a", **about: Any) -> Invoice:
    made = Invoice(
        id=f"inv_{name}",
        stripe_id=f"in_{name}",
        account="acct",
        publisher="acme",
        subscriber="dev",
        subscription="sub",
        edge=FEBRUARY,
        currency="usd",
        amount=5_000,
        total=5_000,
        status="paid",
        amount_paid=5_000,
        issued_at=FEBRUARY,
    )
    return replace(made, **about)


def _revenue(*invoices: Invoice) -> Any:
    snapshot = Snapshot(publisher="acme", name="revenue#2026-02", as_of=MARCH)
    for each in invoices:
        count_revenue(snapshot, each, None, None)
    (row,) = RevenueResponse.of(snapshot, "2026-02", "total", {}).rows
    return row


def test_a_void_invoice_is_counted_and_is_no_revenue() -> None:
    row = _revenue(_invoice(), _invoice("b", status="void", amount_paid=0))
    assert (row.invoices, row.amount, row.paid, row.void) == (2, 5_000, 5_000, 5_000)


def test_what_was_credited_and_refunded_stands_beside_revenue() -> None:
    row = _revenue(
        _invoice(credited=1_000, refunded=400),
        _invoice("b", credited=5_000, amount_paid=0),  # a credit note settled it: nothing is carried
    )
    assert (row.amount, row.credited, row.refunded, row.carried) == (10_000, 6_000, 400, 0)


def test_what_is_owed_and_what_is_given_up_stand_apart() -> None:
    row = _revenue(
        _invoice(status="open", amount_paid=0, amount_remaining=5_000),
        _invoice("b", status="uncollectible", amount_paid=0, amount_remaining=3_000),
    )
    assert (row.amount, row.paid, row.outstanding, row.uncollectible) == (10_000, 0, 5_000, 3_000)


def test_an_amount_under_the_least_charge_is_carried_and_no_revenue() -> None:
    row = _revenue(_invoice(amount=30, total=36, tax=6, amount_paid=0, carried=36))
    assert (row.invoices, row.amount, row.tax, row.carried) == (1, 0, 0, 30)
    row = _revenue(_invoice(amount=30, total=30, amount_paid=0, carried=30, credited=30))
    assert (row.amount, row.carried, row.credited) == (30, 0, 30), "a credit note settled it"


def test_parts_of_an_invoice_of_several_plans_sum_to_it_in_every_measure() -> None:
    line = Line(id="a", kind="flat", name="Fee", currency="usd", period=Period(JANUARY, FEBRUARY), rated=0, amount=0)
    amounts = {"p1": 3_333, "p2": 1_666, "p3": 1}
    lines = tuple(replace(line, id=plan, plan=plan, amount=amount) for plan, amount in amounts.items())
    content = BillLines(subscription="sub", edge=FEBRUARY, lines=lines)
    snapshot = Snapshot(publisher="acme", name="revenue#2026-02", as_of=MARCH)
    about: dict[str, Any] = {
        "total": 5_950,
        "tax": 950,
        "amount_paid": 5_950,
        "refunded": 101,
        "credited": 7,
        "application_fee": 125,
    }
    count_revenue(snapshot, _invoice(**about), content, None)
    total, by_plan = (RevenueResponse.of(snapshot, "2026-02", by, {}).rows for by in ("total", "plan"))
    assert {row.key: row.amount for row in by_plan} == amounts
    assert {row.invoices for row in (*total, *by_plan)} == {1}
    for measure in ("amount", "tax", "paid", "refunded", "credited", "application_fee"):
        assert sum(getattr(row, measure) for row in by_plan) == getattr(total[0], measure) > 0


def test_revenue_of_several_currencies_is_never_added() -> None:
    snapshot = Snapshot(publisher="acme", name="revenue#2026-02", as_of=MARCH)
    for currency in ("usd", "eur", "jpy"):
        count_revenue(snapshot, _invoice(currency=currency), None, None)
    for by in ("total", "day", "plan", "api"):
        rows = RevenueResponse.of(snapshot, "2026-02", by, {}).rows
        assert sorted((row.currency, row.amount) for row in rows) == [("eur", 5_000), ("jpy", 5_000), ("usd", 5_000)]


def test_finished_reports_take_nearly_nothing_of_a_requests_budget() -> None:
    desk = Desk(people=[f"p{number:03d}" for number in range(50)])
    at = MARCH
    for each in desk.people:
        done = Snapshot(publisher=each, name="revenue#2026-02", as_of=at, seen=4_000, complete=True)
        done.add("total", ("usd",), "amount", 1)
        desk.keep(done, at)
    report = reporting.revenue_of_all("2026-02", at, desk.ports)
    assert report.complete
    assert len(report.rows("publisher")) == 50


def test_revenue_of_very_many_publishers_is_kept_in_items_that_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "OF_ALL", 20)
    monkeypatch.setattr(reporting, "BUDGET", 25 * (reporting.FINISHED + 1))
    people = [f"p{number:03d}" for number in range(50)]
    invoices = [_invoice(pub, publisher=pub, amount=number) for number, pub in enumerate(people, start=1)]
    desk = Desk(invoices_=invoices, people=people)
    seen = []
    for hours in range(2):  # begun in one hour and done in the next: of one instant
        report = reporting.revenue_of_all("2026-02", MARCH + timedelta(hours=hours), desk.ports)
        seen.append((report.complete, len(report.rows("publisher")), report.as_of))
    assert seen == [(False, 25, MARCH), (True, 50, MARCH)]
    assert sum(measures["amount"] for _, measures in report.rows("publisher")) == sum(range(51))
    kept = [each for (pub, _), each in desk.kept.items() if not pub]
    assert sorted(len(each.rows("publisher")) for each in kept) == [10, 20, 20]


def test_who_moved_to_the_next_part_of_a_report_of_everybody_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "OF_ALL", 2)
    monkeypatch.setattr(reporting, "BUDGET", 2 * reporting.FINISHED)
    people = ["b", "c", "d", "e"]
    desk = Desk(people=people)
    for each in ("a", *people):
        done = Snapshot(publisher=each, name="revenue#2026-02", as_of=MARCH, seen=1, complete=True)
        done.add("total", ("usd",), "amount", 7)
        desk.keep(done, MARCH)
    assert not reporting.revenue_of_all("2026-02", MARCH, desk.ports).complete
    desk.people = ["a", *people]
    while not (report := reporting.revenue_of_all("2026-02", MARCH, desk.ports)).complete:
        pass
    assert {key[0]: measures["amount"] for key, measures in report.rows("publisher")} == dict.fromkeys(people, 7)


# --- aging ---


def _aged(*days: int, payable_after: timedelta | None = None) -> dict[str, tuple[int, int]]:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    invoices = [
        _invoice(
            str(at),
            issued_at=now - timedelta(days=at),
            payable_by=now - timedelta(days=at) + payable_after if payable_after else None,
            status=status,
            amount_paid=0,
            amount_remaining=100 + at,
        )
        for at, status in zip(days, ["open", "payment_failed"] * len(days), strict=False)
    ]
    paid = _invoice("paid", issued_at=now - timedelta(days=5), amount_remaining=0)
    gone = _invoice("gone", issued_at=now - timedelta(days=5), status="void", amount_remaining=5_000)
    desk = Desk(invoices_=(*invoices, paid, gone))
    report = AgingResponse.of(reporting.aging("acme", now, desk.ports))
    return {row.age: (row.invoices, row.outstanding) for row in report.rows}


def test_what_is_unpaid_is_told_by_the_days_since_it_was_due() -> None:
    found = _aged(0, 1, 30, 31, 60, 61, 90, 91, 300)
    assert found == {
        "not_due": (1, 100),
        "1-30": (2, 231),
        "31-60": (2, 291),
        "61-90": (2, 351),
        "over_90": (2, 591),
    }
    assert list(found) == ["not_due", "1-30", "31-60", "61-90", "over_90"]


def test_an_invoice_that_is_sent_is_due_later() -> None:
    assert _aged(30, 31, payable_after=timedelta(days=30)) == {"not_due": (1, 130), "1-30": (1, 131)}


# --- usage ---


def test_every_meter_keeps_its_largest_consumers() -> None:
    day = date(2026, 2, 3)
    subs = [_paid(f"{number:04d}", "small", JANUARY) for number in range(2_500)]
    counted = {each.id: {(day, 1): 10**9 + at, (day, 2): 1_000 - at % 7} for at, each in enumerate(subs)}
    desk = Desk(subs, counted=counted)
    while not (snapshot := reporting.usage("acme", "2026-02", MARCH, desk.ports)).complete:
        pass
    tops = {each.meter: each for each in reporting.top_subscribers(snapshot, 3)}
    assert tops["1"].subscribers[0] == ("dev-2499", 10**9 + 2_499)
    assert [quantity for _, quantity in tops["2"].subscribers] == [1_000, 1_000, 1_000]
    assert tops["2"].total == sum(each[day, 2] for each in counted.values())
    assert len(snapshot.groups["subscriber"]) <= reporting.TOP


def test_what_small_consumers_used_who_were_let_go_bounds_what_anybody_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "TOP", 3)
    monkeypatch.setattr(reporting, "LEAST_TOP", 3)
    monkeypatch.setattr(reporting, "PAGE", 2)
    day = date(2026, 2, 3)
    used = [5, 60, 70, 80, 90, 5]
    subs = [_paid(str(at), "small", JANUARY, subscriber=f"dev-{at % 5}") for at in range(len(used))]
    desk = Desk(subs, counted={each.id: {(day, 1): used[at]} for at, each in enumerate(subs)})
    (top,) = reporting.top_subscribers(reporting.usage("acme", "2026-02", MARCH, desk.ports), 3)
    assert top.subscribers == (("dev-4", 90), ("dev-3", 80), ("dev-2", 70))
    assert (top.total, top.let_go) == (310, 5 + 60 + 5)
    assert top.let_go + sum(quantity for _, quantity in top.subscribers) == top.total


def test_usage_is_told_of_one_api_alone() -> None:
    day = date(2026, 2, 3)
    subs = [_paid("a", "small", JANUARY), _paid("b", "small", JANUARY, product="other")]
    desk = Desk(subs, counted={"a": {(day, 1): 7}, "b": {(day, 1): 20}})
    found = {
        product: [top.total for top in reporting.top_subscribers(made, 3)]
        for product in (None, "api", "other")
        if (made := reporting.usage("acme", "2026-02", MARCH, desk.ports, product)).complete
    }
    assert found == {None: [27], "api": [7], "other": [20]}
    with pytest.raises(NotFound, match="no such API"):
        reporting.usage("acme", "2026-02", MARCH, desk.ports, "somebody else's")


def test_a_usage_report_of_many_partitions_goes_on_in_steps_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PARTITIONS", 100)
    subs = [_paid(f"{number:04d}", "small", JANUARY, shards=(("2026-02", 64),)) for number in range(5)]
    desk = Desk(subs, counted={each.id: {(date(2026, 2, 3), 1): 7} for each in subs})
    seen = []
    while True:
        desk.read.clear()
        snapshot = reporting.usage("acme", "2026-02", MARCH, desk.ports)
        seen.append(len(desk.read))
        if snapshot.complete:
            break
    assert seen == [128, 128, 64]
    assert snapshot.rows("meter") == [(("1",), {"quantity": 35})]


def test_what_came_after_its_day_was_sealed_is_told_apart() -> None:
    day = date(2026, 2, 3)
    late = LateEntry("a#1", day, {1: 20}, MARCH)
    desk = Desk([_paid("a", "small", JANUARY)], counted={"a": {(day, 1): 7}}, late=(late,))
    (top,) = reporting.top_subscribers(reporting.usage("acme", "2026-02", MARCH, desk.ports), 3)
    assert (top.total, top.late, top.subscribers) == (7, 20, (("dev-a", 7),))
