"""Every ledger entry and every event is told by the one bill that counts it: repeated, corrected and late ones too."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from monetize.domain.explained import Explained, sent_as
from monetize.domain.invoices import BillLines
from monetize.domain.lines import Line
from monetize.domain.periods import Period
from monetize.domain.plans import Allowance, PlanTerms
from monetize.domain.rating import roll_up
from monetize.services import explaining
from tests.integration.billing_fixtures import GOLD, START, Answer, Market, make_market
from tests.integration.documented import documented_system

DAY = START + timedelta(minutes=30)
EVENT = "/gateways/eu-1/req-0130-{}"
SOURCE = "https://gw.example/eu-1"
FLAT = PlanTerms(currency="usd", charges=GOLD.charges[:1])
WITH_ALLOWANCE = PlanTerms(
    currency="usd",
    charges=(GOLD.charges[0], replace(GOLD.charges[1], allowance=Allowance(quantity=100_000, per="period"))),
)


@dataclass(frozen=True)
class Told:
    """January of three subscriptions: 110 calls and a correction in time, 20 calls and a correction late, repetitions
    both times; one whose plan charges no calls; one whose allowance holds them all."""

    market: Market
    subs: dict[str, str]

    def invoice(self, edge: str, pub: str = "acme") -> str:
        found = self.market.ask("GET", f"/invoices?side=publisher&subscription={self.subs[pub]}", org=pub)
        return next(str(each["id"]) for each in found.body["items"] if f".{edge}" in each["bill"])

    def explain(self, edge: str, query: str = "", pub: str = "acme", **who: Any) -> Answer:
        return self.market.ask("GET", f"/invoices/{self.invoice(edge, pub)}/explain{query}", **({"org": pub} | who))

    def event(self, edge: str, number: int, pub: str = "acme") -> Any:
        return self.explain(edge, f"?event={EVENT.format(number)}", pub).body["event"]

    def line(self, edge: str, kind: str) -> Any:
        return next(each for each in self.explain(edge).body["lines"] if each["kind"] == kind)


@pytest.fixture(scope="module")
def told() -> Any:
    with documented_system(START) as system:
        market = make_market(system)
        market.sell("flat", FLAT)
        market.sell("full", WITH_ALLOWANCE)
        subs = {pub: market.subscribe(pub=pub) for pub in ("acme", "flat", "full")}
        market.run(hours=1, minutes=1)

        def use(count: int, first: int, pub: str = "acme") -> None:
            assert market.use(subs[pub], count, DAY, first=first, pub=pub).status == 200

        def correct(quantity: int) -> None:
            body = {"subscription": subs["acme"], "meter": "met_calls", "day": "2026-01-30", "quantity": quantity}
            key = {"Idempotency-Key": f"corrected-by-{quantity}"}
            assert market.ask("POST", "/usage/corrections", body | {"reason": "lost"}, headers=key).status < 300

        def send(identity: str, **about: Any) -> None:
            event = {"specversion": "1.0", "id": identity, "source": SOURCE, "type": "api.request", "data": {}}
            event |= {"subject": subs["full"], "time": f"{DAY:%Y-%m-%dT%H:%M:%SZ}"} | about
            content = {"content-type": "application/cloudevents-batch+json"}
            body = json.dumps([event])
            sent = market.ask("POST", "/publisher/usage/events", body, org="full", roles="gateway", headers=content)
            assert sent.status == 200, sent.text

        send("sand/1", environment="sandbox")
        send("odd/1", type="nobody.counts.this")
        send("foreign/1", subject=subs["acme"])
        send("again/1")
        send("again/1")
        send("moved/1")
        use(100, 0)
        use(20, 90)
        correct(50)
        for pub in ("flat", "full"):
            use(5, 0, pub)
        market.run_until(datetime(2026, 1, 31, 12, tzinfo=UTC))
        send("moved/1", time="2026-01-31T11:00:00Z")
        market.run_until(datetime(2026, 2, 1, 5, tzinfo=UTC))
        use(25, 105)
        use(3, 50)
        correct(5)
        for pub in ("flat", "full"):
            use(5, 5, pub)
        market.run_until(datetime(2026, 3, 1, 5, tzinfo=UTC))
        send("waits/1")
        yield Told(market, subs)


def _entries(told: Told, edge: str, line: Any, **who: Any) -> list[tuple[str, int, bool, bool]]:
    found = told.explain(edge, f"?line={line['id']}", **who).body["batches"]
    return sorted((each["kind"], each["quantity"], each["late"], each["taken"]) for each in found)


def test_the_entries_behind_a_line_add_up_to_it_with_repetitions_and_corrections(told: Told) -> None:
    line = told.line("20260201", "usage")
    assert _entries(told, "20260201", line) == [
        ("correction", 5, True, False),
        ("correction", 50, False, True),
        ("events", 3, True, False),
        ("events", 20, False, True),
        ("events", 25, True, False),
        ("events", 100, False, True),
        ("repeated", -10, False, True),
    ]
    assert line["used"] == 160 == sum(each[1] for each in _entries(told, "20260201", line) if each[3])


def test_a_correction_line_takes_what_came_late_and_leaves_the_rest_to_the_bill_before(told: Told) -> None:
    line = told.line("20260301", "adjustment")
    assert [each for each in _entries(told, "20260301", line) if each[3]] == [
        ("correction", 5, True, True),
        ("events", 3, True, True),
        ("events", 25, True, True),
    ]
    assert line["used"] == 185
    assert [(day["day"], day["quantity"]) for day in line["days"]] == [("2026-01-30", 185)]


def test_the_words_of_a_correction_are_its_publishers(told: Told) -> None:
    query = f"?line={told.line('20260201', 'usage')['id']}"
    reasons = {
        who: {each["reason"] for each in told.explain("20260201", query, **as_whom).body["batches"]}
        for who, as_whom in (("publisher", {}), ("subscriber", {"org": "dev", "roles": "subscriber"}))
    }
    assert reasons == {"publisher": {"", "lost"}, "subscriber": {""}}


@pytest.mark.parametrize(
    ("number", "february", "march"),
    [
        (7, "billed", "in_another_bill"),  # in time, once
        (95, "billed", "in_another_bill"),  # in time, twice
        (51, "billed", "in_another_bill"),  # in time, and late again
        (107, "billed", "in_another_bill"),  # the same in a batch that also brings new ones
        (120, "late_for_another_bill", "billed"),
        (999, "not_received", "not_received"),
    ],
)
def test_no_event_is_said_to_be_billed_by_two_bills(told: Told, number: int, february: str, march: str) -> None:
    answers = [told.event("20260201", number), told.event("20260301", number)]
    assert [each["why"] for each in answers] == [february, march]
    assert [each["billed"] for each in answers] == [february == "billed", march == "billed"]
    for each in answers:
        assert sum(place["counted"] for place in each["places"]) == each["billed"]


def _named(told: Told, edge: str, identity: str, **who: Any) -> Any:
    """The answer for an event of the full allowance's subscription, its name percent-encoded."""
    return told.explain(edge, f"?event={quote(f'{SOURCE}/{identity}', safe='')}", "full", **who).body["event"]


def test_a_late_event_that_no_bill_has_taken_waits_for_the_next(told: Told) -> None:
    for edge in ("20260201", "20260301"):
        answer = _named(told, edge, "waits/1")
        assert (answer["billed"], answer["why"]) == (False, "late_waiting")
        assert [(each["late"], each["counted"], each["taken_by"]) for each in answer["places"]] == [(True, False, "")]
    took = told.event("20260201", 7, "full")
    assert took["why"] == "late_for_another_bill"
    assert [each["taken_by"] for each in took["places"]] == [f"{told.subs['full']}.20260301T000000Z"]


def test_an_event_that_was_refused_is_told_with_the_refusals_code(told: Told) -> None:
    answer = _named(told, "20260201", "odd/1")
    assert (answer["billed"], answer["why"], answer["code"], answer["places"]) == (
        False,
        "rejected",
        "unknown_type",
        [],
    )
    seen = _named(told, "20260201", "odd/1", org="dev", roles="subscriber")
    assert seen == answer, "the subscription is the subscriber's own"


def test_a_refused_event_of_another_subscription_is_not_told(told: Told) -> None:
    answer = _named(told, "20260201", "foreign/1")
    assert (answer["why"], answer["code"]) == ("not_received", "")
    elsewhere = told.explain("20260201", f"?event={quote(f'{SOURCE}/foreign/1', safe='')}").body["event"]
    assert elsewhere["why"] == "not_received", "it was another publisher's to refuse"


def test_a_sandboxs_event_is_told_as_such_and_never_billed(told: Told) -> None:
    assert [(each["billed"], each["why"]) for each in (_named(told, "20260201", "sand/1"),)] == [(False, "sandbox")]


def test_an_event_sent_again_alike_is_one_and_no_conflict(told: Told) -> None:
    answer = _named(told, "20260201", "again/1")
    assert (answer["billed"], answer["conflict"], len(answer["places"])) == (True, False, 1)


def test_an_id_that_came_with_another_day_is_a_conflict_and_counted_at_its_first(told: Told) -> None:
    answer = _named(told, "20260201", "moved/1")
    assert (answer["billed"], answer["conflict"]) == (True, True)
    places = [(each["day"], each["counted"]) for each in answer["places"]]
    assert places == [("2026-01-30", True), ("2026-01-31", False)]


def test_an_event_that_came_twice_is_counted_in_its_first_place(told: Told) -> None:
    places = told.event("20260201", 95)["places"]
    assert [(each["late"], each["counted"]) for each in places] == [(False, True), (False, False)]
    again = told.event("20260201", 51)["places"]
    assert sorted((each["late"], each["counted"]) for each in again) == [(False, True), (True, False)]


def test_a_late_event_is_billed_by_the_line_that_corrects_its_period(told: Told) -> None:
    answer = told.event("20260301", 120)
    assert answer["lines"] == [told.line("20260301", "adjustment")["id"]]
    assert [(each["late"], each["counted"]) for each in answer["places"]] == [(True, True)]


def test_an_event_nothing_charges_for_was_received(told: Told) -> None:
    answer = told.event("20260201", 2, "flat")
    assert (answer["billed"], answer["why"], answer["lines"]) == (False, "counts_nothing", [])
    assert [each["counted"] for each in answer["places"]] == [True]
    assert told.event("20260201", 7, "flat")["why"] == "late_for_another_bill"


def test_a_late_event_within_the_allowance_changes_nothing_and_was_received(told: Told) -> None:
    assert told.event("20260201", 2, "full")["why"] == "billed"
    answer = told.event("20260301", 7, "full")
    assert (answer["billed"], answer["why"]) == (False, "changes_nothing")
    assert [each["counted"] for each in answer["places"]] == [True]


def test_lists_of_entries_and_events_go_on_where_they_were_cut(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    line = told.line("20260201", "usage")["id"]
    whole = told.explain("20260201", f"?line={line}").body
    assert whole["cursor"] is None
    monkeypatch.setattr(explaining, "BATCHES", 2)
    monkeypatch.setattr(explaining, "EVENTS", 8)
    assert _walk(told, f"?line={line}", "batches", 2) == whole["batches"]
    batch = next(each for each in whole["batches"] if each["quantity"] == 20)
    events = _walk(told, f"?line={line}&day=2026-01-30&batch={batch['batch']}", "events", 8)
    assert len({each["digest"] for each in events}) == len(events) == 20


def test_a_page_of_entries_ends_where_enough_was_read(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    line = told.line("20260201", "usage")["id"]
    whole = told.explain("20260201", f"?line={line}").body["batches"]
    monkeypatch.setattr(explaining, "READS", 1)
    first = told.explain("20260201", f"?line={line}").body
    assert first["cursor"]
    assert _walk(told, f"?line={line}", "batches", len(whole)) == whole


def _walk(told: Told, query: str, member: str, most: int) -> list[Any]:
    found: list[Any] = []
    cursor = ""
    while True:
        page = told.explain("20260201", query + cursor).body
        assert len(page[member]) <= most
        found += page[member]
        if page["cursor"] is None:
            return found
        cursor = f"&cursor={page['cursor']}"


@pytest.mark.parametrize("cursor", ["bm9uc2Vuc2U", "MjAyNi0wMi0xMi8wLw", "MjAyNi0wMS0zMC8teC8"])
def test_a_position_of_another_list_is_refused(told: Told, cursor: str) -> None:
    line = told.line("20260201", "usage")["id"]
    assert told.explain("20260201", f"?line={line}&cursor={cursor}").code == "bad_cursor"
    query = f"?line={line}&day=2026-01-30&batch=x&cursor={cursor}"
    assert told.explain("20260201", query).code == "bad_cursor"


def test_an_entry_of_a_day_that_is_not_the_lines_is_refused(told: Told) -> None:
    line = told.line("20260201", "usage")["id"]
    assert told.explain("20260201", f"?line={line}&day=2026-02-03&batch=x").code == "bad_day"


def test_a_name_with_too_many_readings_is_refused(told: Told) -> None:
    assert told.explain("20260201", "?event=" + "/".join("a" * 23)).code == "bad_event"
    assert told.explain("20260201", "?event=" + "/".join("a" * 21)).status == 200


def test_every_line_names_the_sent_line_that_it_is_part_of(told: Told) -> None:
    january = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    line = Line(id="", kind="flat", name="Fee", currency="usd", period=january, rated=1, amount=1)
    made = [replace(line, id=f"fee{at}", plan=f"p{at % 3}", rated=at, amount=at) for at in range(600)]
    content = BillLines(subscription="sub", edge=january.end, lines=tuple(made))
    invoice = told.market.invoice(told.invoice("20260201"))
    names = sent_as(Explained(invoice, content))
    charged: dict[str, int] = {}
    for each in made[1:]:
        charged[names[each.id]] = charged.get(names[each.id], 0) + each.amount
    assert [charged[each.id] for each in roll_up(made[1:])] == [each.amount for each in content.invoice_lines()]
    assert sorted(set(names.values()) - {each.id for each in made}) == ["rolled_up:0", "rolled_up:1", "rolled_up:2"]
    assert "fee0" not in names, "what charges nothing is not sent"
    lines = told.explain("20260201").body["lines"]
    assert {each["sent_as"] for each in lines} == {each["id"] for each in lines}
