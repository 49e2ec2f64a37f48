"""Dry runs, progress, holds, parked bills, a sandbox's own clock and what-if, over the whole local system."""

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.clock import Clock
from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.catalog import Tier
from monetize.domain.invoices import BillLines
from monetize.domain.lines import Line
from monetize.domain.periods import Period
from monetize.domain.plans import Charge, Plan, PlanTerms
from monetize.domain.runs import RunPart
from monetize.domain.subscriptions import Subscriber
from monetize.services import running, runs
from tests.integration.billing_fixtures import GOLD, START, Market, make_market

EVENTS = Path(__file__).resolve().parents[2] / "events"
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
DUE = datetime(2026, 2, 1, 2, 20, tzinfo=UTC)  # after the grace of two hours, before the tick of half past
OPERATOR: dict[str, Any] = {"org": "platform", "roles": "operator"}
OPENING = 181  # 49.00 for 27 and a half of January's 744 hours


@pytest.fixture
def market() -> Iterator[Market]:
    with System(clock=Clock(START)) as system:
        yield make_market(system)


def with_usage(market: Market, calls: int = 300, org: str = "dev", pub: str = "acme") -> str:
    """A subscription that paid its opening bill and used something in January; it stands at the 1 February's bill."""
    sub = market.subscribe(org, pub=pub)
    market.run(hours=1, minutes=1)
    if calls:
        assert market.use(sub, calls, START + timedelta(minutes=30), pub=pub).status == 200
    return sub


def dry(market: Market, org: str = "acme", roles: str = "publisher_admin", **body: Any) -> Any:
    """A dry run to its end."""
    begun = market.ask("POST", "/billing-runs", {"dry_run": True, **body}, org=org, roles=roles)
    assert begun.status == 202, begun.text
    market.system.pump()
    done = market.ask("GET", begun.headers["location"], org=org, roles=roles)
    assert done.status == 200, done.text
    return done.body


def everything(market: Market) -> dict[Any, Any]:
    """All that is stored but the run's own items, the idempotency records and the pace."""
    found = {}
    for table in market.system.tables:
        answer = market.system.dynamodb.scan(TableName=table)
        assert "LastEvaluatedKey" not in answer
        for item in answer["Items"]:
            place = item.get("pk", item.get("id"))["S"]
            if not place.startswith(("RUN", "http", "OPENRUN")):
                found[table, place, item.get("sk", {}).get("S")] = item
    return found


# --- dry runs ---


def test_a_dry_run_tells_what_the_real_one_then_charges(market: Market) -> None:
    sub = with_usage(market)
    market.run_until(DUE)
    told = dry(market)
    assert told["status"] == "finished"
    assert (told["counts"], told["amounts"], told["last"]) == ({"bill": 1}, {"usd": 5050}, {"usd": OPENING})
    result = market.ask("GET", f"/billing-runs/{told['id']}/results").body["items"][0]
    assert (result["subscription"], result["amount"], result["last"]) == (sub, 5050, OPENING)
    market.run(hours=1)
    assert market.bill(sub, FEBRUARY).subtotal == result["amount"]


def test_a_dry_run_changes_nothing_anywhere(market: Market) -> None:
    with_usage(market)
    market.run_until(DUE)
    before, asked = everything(market), len(market.system.emulator.requests)
    dry(market, through=(DUE + timedelta(days=40)).isoformat())
    assert everything(market) == before
    assert len(market.system.emulator.requests) == asked


def test_a_dry_run_looks_ahead_bill_after_bill(market: Market) -> None:
    sub = with_usage(market)
    told = dry(market, through="2026-03-03T00:00:00Z")
    assert told["counts"] == {"bill": 2}
    found = market.ask("GET", f"/billing-runs/{told['id']}/results").body["items"]
    assert sorted((each["edge"], each["amount"], each["last"]) for each in found) == [
        ("2026-02-01T00:00:00Z", 5050, OPENING),
        ("2026-03-01T00:00:00Z", 4900, 5050),
    ]
    assert {each["subscription"] for each in found} == {sub}


def test_a_dry_run_puts_outliers_first_and_failures_before_them(market: Market) -> None:
    quiet, busy = with_usage(market, 0, "quiet"), with_usage(market, 900, "busy")
    broken = with_usage(market, 0, "broken")
    was = market.stored(Subscriber, keys.subscriber("acme", "broken"))
    market.store(replace(was, customers=()))
    market.run_until(DUE)
    told = dry(market)
    assert [each["subscription"] for each in told["outliers"]] == [broken, busy, quiet]
    assert told["outliers"][0]["reason"] == "customer_missing"
    listed = market.ask("GET", f"/billing-runs/{told['id']}/results").body["items"]
    assert [each["subscription"] for each in listed] == [broken, busy, quiet]
    assert told["counts"] == {"bill": 2, "parked": 1}


def test_a_dry_run_of_everybody_is_summed_by_publisher(market: Market) -> None:
    market.sell("zenith")
    with_usage(market, 100)
    with_usage(market, 0, pub="zenith")
    market.run_until(DUE)
    told = dry(market, "platform", "operator")
    assert told["amounts"] == {"usd": 4950 + 4900}
    page = market.ask("GET", f"/billing-runs/{told['id']}/publishers?limit=1", org="platform", roles="operator").body
    rest = market.ask(
        "GET", f"/billing-runs/{told['id']}/publishers?cursor={page['cursor']}", org="platform", roles="operator"
    ).body
    sums = [(each["publisher"], each["amounts"]) for each in (*page["items"], *rest["items"])]
    assert sums == [("acme", {"usd": 4950}), ("zenith", {"usd": 4900})]
    only = dry(market, "zenith")
    assert only["amounts"] == {"usd": 4900}


def test_a_publisher_sees_its_own_runs_alone(market: Market) -> None:
    told = dry(market)
    assert market.ask("GET", f"/billing-runs/{told['id']}", org="other").code == "unknown_run"
    assert market.ask("GET", "/billing-runs", org="other").body["items"] == []
    assert [each["id"] for each in market.ask("GET", "/billing-runs").body["items"]] == [told["id"]]
    assert market.ask("POST", "/billing-runs", {"dry_run": True, "publisher": "acme"}, org="other").code == (
        "unknown_publisher"
    )
    assert market.ask("POST", "/billing-runs", {"dry_run": False}).code == "missing_role"


def test_a_step_of_a_dry_run_taken_twice_counts_once(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        with_usage(market, 0, f"dev-{number}")
    market.run_until(DUE)
    for name in ("PAGE", "STEPS", "LOOKED_AT"):
        monkeypatch.setattr(runs, name, 1)
    begun = market.ask("POST", "/billing-runs", {"dry_run": True}).body
    ports, now = wiring.runs(), market.system.clock.now()
    stale = ports.runs.run(begun["id"])
    assert stale is not None
    for shard in range(running.SHARDS):
        part = ports.runs.part(stale.id, shard) or RunPart(run=stale.id, shard=shard, updated_at=now)
        first = runs._dry_step(stale, part, now, ports)
        assert runs._dry_step(stale, part, now, ports) is None  # the same step by another worker
        assert first is not None
    market.system.pump()
    done = market.ask("GET", f"/billing-runs/{begun['id']}").body
    assert (done["status"], done["counts"]) == ("finished", {"bill": 3})


def test_a_dry_run_that_lost_its_messages_is_resumed(market: Market) -> None:
    with_usage(market, 0)
    market.run_until(DUE)
    begun = market.ask("POST", "/billing-runs", {"dry_run": True}).body
    market.system.sqs.purge_queue(QueueUrl=market.system.functions.environment["BILLING_QUEUE_URL"])
    market.system.pump()
    assert market.ask("GET", f"/billing-runs/{begun['id']}").body["status"] == "running"
    market.ask("POST", f"/billing-runs/{begun['id']}/resume")
    market.system.pump()
    done = market.ask("GET", f"/billing-runs/{begun['id']}").body
    assert (done["status"], done["counts"]) == ("finished", {"bill": 1})


def test_an_imagined_bill_is_rated_upon_as_if_it_was_stored() -> None:
    def lines(month: int) -> BillLines:
        return BillLines(subscription="sub_x", edge=datetime(2026, month, 1, tzinfo=UTC), lines=())

    class Stored:
        def plan_version(self, plan: str, number: int) -> None:
            raise AssertionError((plan, number))

        def meters(self, pub: str, ids: Collection[str], numbers: Collection[int]) -> tuple[()]:
            raise AssertionError((pub, ids, numbers))

        def rated_before(self, sub: str, edge: datetime, since: datetime) -> tuple[BillLines, ...]:
            assert (sub, edge.month, since) == ("sub_x", 3, FEBRUARY)
            return (lines(1),)

        def lines(self, sub: str, edge: datetime) -> BillLines | None:
            return lines(edge.month) if (sub, edge.month) == ("sub_x", 1) else None

        def bill(self, sub: str, edge: datetime) -> None:
            raise AssertionError((sub, edge))

    imagined = runs.Imagined(Stored(), (lines(2),))
    assert imagined.rated_before("sub_x", datetime(2026, 3, 1, tzinfo=UTC), FEBRUARY) == (lines(1), lines(2))
    found = [imagined.lines("sub_x", datetime(2026, month, 1, tzinfo=UTC)) for month in (1, 2, 3)]
    assert found == [lines(1), lines(2), None]


def test_a_dry_run_too_far_ahead_is_refused(market: Market) -> None:
    far = {"dry_run": True, "through": "2027-01-01T00:00:00Z"}
    assert market.ask("POST", "/billing-runs", far).code == "too_far"


# --- real runs ---


def test_a_real_run_is_watched_and_closed(market: Market) -> None:
    with_usage(market)
    market.run_until(DUE)
    market.run(hours=1)
    found = market.ask("GET", "/billing-runs", **OPERATOR).body["items"]
    last = market.ask("GET", f"/billing-runs/{found[0]['id']}", **OPERATOR).body
    assert (last["kind"], last["counts"], last["amounts"]) == ("real", {"sent": 1}, {"usd": 5050})
    assert last["left"] == 0
    market.run(hours=3)
    closed = market.ask("GET", f"/billing-runs/{found[0]['id']}", **OPERATOR).body
    assert (closed["status"], closed["counts"], closed["amounts"]) == ("finished", {"sent": 1}, {"usd": 5050})
    assert wiring.runs().runs.open_run("") is None


def test_an_operator_begins_a_real_run_at_once(market: Market) -> None:
    sub = with_usage(market)
    market.run_until(DUE)
    begun = market.ask("POST", "/billing-runs", {"dry_run": False}, **OPERATOR)
    assert begun.status == 202
    market.system.pump()
    assert market.bill(sub, FEBRUARY).status in ("sent", "paid")


# --- hold and release ---


@pytest.mark.parametrize("who", ["publisher", "operator"])
def test_what_is_held_is_not_billed_until_it_is_released(market: Market, who: str) -> None:
    sub = with_usage(market)
    caller: dict[str, Any] = OPERATOR if who == "operator" else {}
    held = market.ask("POST", "/billing-runs/hold", {"reason": "looking"}, **caller)
    assert held.body["held"] is True
    market.run_until(DUE + timedelta(hours=2))
    assert market.subscription(sub).next_edge == FEBRUARY
    assert market.ask("GET", "/billing-runs/hold", **caller).body["reason"] == "looking"
    market.run(minutes=1)
    released = market.ask("POST", "/billing-runs/release", {}, **caller)
    assert released.body["held"] is False
    market.run(minutes=1)
    assert market.bill(sub, FEBRUARY).subtotal == 5050
    actions = [each["action"] for each in market.ask("GET", "/audit?month=2026-02", **caller).body["items"]]
    assert "billing.release" in actions


def test_an_operators_hold_on_a_publisher_is_released_by_an_operator(market: Market) -> None:
    held = market.ask("POST", "/billing-runs/hold", {"publisher": "acme", "reason": "fraud"}, **OPERATOR)
    assert held.body["held"] is True
    assert market.ask("POST", "/billing-runs/release", {}).code == "held_by_operator"
    released = market.ask("POST", "/billing-runs/release", {"publisher": "acme"}, **OPERATOR)
    assert released.body["held"] is False


def test_one_publishers_hold_leaves_the_others_alone(market: Market) -> None:
    market.sell("zenith")
    mine, theirs = with_usage(market, 0), with_usage(market, 0, pub="zenith")
    market.ask("POST", "/billing-runs/hold", {"publisher": "zenith"})  # a publisher names itself, whatever it says
    market.run_until(DUE + timedelta(hours=1))
    assert market.subscription(mine).next_edge == FEBRUARY
    assert market.subscription(theirs).next_edge != FEBRUARY


# --- parked and held bills ---


def test_a_bill_above_the_publishers_bound_waits_and_is_released(market: Market) -> None:
    sub = with_usage(market)
    market.settings(hold_above=5000)
    market.run_until(DUE + timedelta(hours=1))
    listed = market.ask("GET", "/bills?state=held").body["items"]
    assert [(each["subscription"], each["reason"], each["subtotal"]) for each in listed] == [
        (sub, "above_amount", 5050)
    ]
    assert market.ask("GET", "/bills?state=parked").body["items"] == []
    bill = listed[0]["id"]
    whole = market.ask("GET", f"/bills/{bill}").body
    assert sum(line["amount"] for line in whole["lines"]) == 5050
    assert market.ask("POST", f"/bills/{bill}/release").body["status"] == "rated"
    market.system.pump()
    assert market.bill(sub, FEBRUARY).status in ("sent", "paid")
    assert market.ask("GET", "/bills").body["items"] == []
    assert market.ask("POST", f"/bills/{bill}/release").code == "illegal_move"


def test_an_approved_bill_is_not_held_again_after_it_was_parked(market: Market) -> None:
    sub = with_usage(market)
    market.settings(hold_above=5000)
    market.run_until(DUE + timedelta(hours=1))
    was = market.stored(Subscriber, keys.subscriber("acme", "dev"))
    market.store(replace(was, customers=()))
    bill = market.bill(sub, FEBRUARY).id
    market.ask("POST", f"/bills/{bill}/release")
    market.system.pump()
    assert (market.bill(sub, FEBRUARY).status, market.bill(sub, FEBRUARY).reason) == ("parked", "customer_missing")
    market.store(replace(was, rev=was.rev + 1))
    market.ask("POST", f"/bills/{bill}/release")
    market.run(minutes=1)
    assert market.bill(sub, FEBRUARY).status in ("sent", "paid")


def test_a_parked_bill_that_is_released_is_still_held_for_its_amount(market: Market) -> None:
    sub = with_usage(market)
    was = market.stored(Subscriber, keys.subscriber("acme", "dev"))
    market.store(replace(was, customers=()))
    market.run_until(DUE + timedelta(hours=1))
    bill = market.bill(sub, FEBRUARY)
    assert bill.status == "parked"
    market.settings(hold_above=5000)
    market.store(replace(was, rev=was.rev + 1))
    market.ask("POST", f"/bills/{bill.id}/release")
    market.run(minutes=1)
    assert (market.bill(sub, FEBRUARY).status, market.bill(sub, FEBRUARY).reason) == ("held", "above_amount")


def test_a_bill_is_waived_for_ever(market: Market) -> None:
    sub = with_usage(market)
    market.settings(hold_above=5000)
    market.run_until(DUE + timedelta(hours=1))
    bill = market.ask("GET", "/bills").body["items"][0]["id"]
    assert market.ask("POST", f"/bills/{bill}/waive", {}).status == 422
    waived = market.ask("POST", f"/bills/{bill}/waive", {"reason": "our mistake"})
    assert waived.body["status"] == "waived"
    market.run(hours=5)
    assert market.bill(sub, FEBRUARY).status == "waived"
    assert market.bill(sub, FEBRUARY).invoice is None
    assert market.ask("GET", "/bills").body["items"] == []


def test_a_parked_bill_goes_on_when_its_reason_is_gone(market: Market) -> None:
    sub = with_usage(market)
    was = market.stored(Subscriber, keys.subscriber("acme", "dev"))
    market.store(replace(was, customers=()))
    market.run_until(DUE + timedelta(hours=1))
    listed = market.ask("GET", "/bills?state=parked").body["items"]
    assert [(each["subscription"], each["reason"]) for each in listed] == [(sub, "customer_missing")]
    market.store(replace(was, rev=was.rev + 1))
    market.ask("POST", f"/bills/{listed[0]['id']}/release")
    market.system.pump()
    assert market.bill(sub, FEBRUARY).invoice is not None


def test_a_foreign_bill_is_an_unknown_one(market: Market) -> None:
    sub = with_usage(market)
    market.run_until(DUE + timedelta(hours=1))
    bill = market.bill(sub, FEBRUARY).id
    assert market.ask("GET", f"/bills/{bill}").status == 200
    for name in (bill, "nothing", f"{sub}.20200101T000000Z"):
        assert market.ask("GET", f"/bills/{name}", org="other").code == "unknown_bill"
        assert market.ask("POST", f"/bills/{name}/release", org="other").code == "unknown_bill"


def test_a_bill_of_ten_thousand_lines_is_stored_and_read(market: Market) -> None:
    period = Period(datetime(2026, 1, 1, tzinfo=UTC), FEBRUARY)
    common: dict[str, Any] = {"kind": "flat", "name": "Fee", "currency": "usd", "period": period}
    lines = tuple(Line(id=f"fee-{number}@x", rated=100, amount=100, **common) for number in range(10_000))
    content = BillLines(subscription="sub_x", edge=FEBRUARY, lines=lines, subtotal=1_000_000)
    table = wiring.billing_table()
    table.freeze(content)
    assert table.lines("sub_x", FEBRUARY).lines == lines
    assert [line.amount for line in content.invoice_lines()][-1] == 9751 * 100
    assert len(content.invoice_lines()) == 250


# --- what if ---


def test_a_past_month_is_priced_by_a_draft(market: Market) -> None:
    sub = with_usage(market, 300)
    plan = market.stored(Plan, keys.plan("acme", "plan_acme"))
    draft = PlanTerms(currency="usd", charges=(replace(GOLD.charges[0], amount=3900), _calls("2")))
    market.store(replace(plan, draft=draft))
    asked = {"plan": "plan_acme", "month": "2026-01"}
    told = market.ask("POST", "/billing-runs/what-if", asked).body
    assert [(each["subscription"], each["now"], each["then"]) for each in told["items"]] == [(sub, 5050, 4500)]
    assert told["items"][0]["usage"] == {"met_calls": 300}
    assert (told["now"], told["then"], told["cursor"]) == (5050, 4500, None)
    assert market.ask("POST", "/billing-runs/what-if", asked, org="other").code == "unknown_plan"
    assert market.ask("POST", "/billing-runs/what-if", asked | {"number": 9}).code == "unknown_version"
    one = market.ask("POST", "/billing-runs/what-if", asked | {"subscription": sub}).body
    assert one["then"] == 4500
    assert market.stored(Tier, keys.tier("acme", "tier_acme_gold")).plan == "plan_acme"


def test_a_past_month_is_priced_by_terms_that_are_stored_nowhere_with_what_came_late_and_was_corrected(
    market: Market,
) -> None:
    sub = with_usage(market, 300)
    market.run_until(DUE + timedelta(hours=1))
    day = START + timedelta(minutes=30)
    assert market.use(sub, 310, day).body["late"] == 310  # all of it again, and ten more
    correction = {"subscription": sub, "meter": "met_calls", "day": "2026-01-30", "quantity": -4, "reason": "test"}
    made = market.ask(
        "POST", "/usage/corrections", correction, roles="publisher_admin gateway", headers={"idempotency-key": "c1"}
    )
    assert made.body["outcome"] == "late", made.text
    charge = {"id": "calls", "name": "Calls", "model": "per_unit", "meter": "met_calls", "unit_price": "2"}
    terms: dict[str, Any] = {"currency": "usd", "charges": [charge]}
    before, asked = everything(market), len(market.system.emulator.requests)
    question = {"plan": "plan_acme", "month": "2026-01", "terms": terms, "subscription": sub}
    told = market.ask("POST", "/billing-runs/what-if", question)
    assert told.status == 200, told.text
    (item,) = told.body["items"]
    assert (item["usage"], item["now"], item["then"]) == ({"met_calls": 306}, 4900 + 153, 612)
    assert (everything(market), len(market.system.emulator.requests)) == (before, asked)
    assert market.ask("POST", "/billing-runs/what-if", question | {"number": 1}).status == 422
    unknown = {"currency": "usd", "charges": [charge | {"meter": "met_other"}]}
    assert market.ask("POST", "/billing-runs/what-if", question | {"terms": unknown}).status == 422
    yen = market.ask("POST", "/billing-runs/what-if", question | {"terms": terms | {"currency": "jpy"}})
    assert yen.code == "currency_differs"


def _calls(price: str) -> Charge:
    from decimal import Decimal

    return replace(GOLD.charges[1], unit_price=Decimal(price))


# --- events ---


EXAMPLES = [*sorted(EVENTS.glob("billing_run_*.json")), *sorted(EVENTS.glob("reports_*.json"))]
EXPECTED = (None, "unknown_run", "unknown_bill", "unknown_invoice", "no_draft", "not_a_sandbox")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_event_finds_its_route(market: Market, path: Path) -> None:
    event = json.loads(path.read_text())
    name = "billing_run" if path.stem.startswith("billing_run") else "reports"
    specs = market.system.functions.specs.values()
    function = next(each for each in specs if each.environment["POWERTOOLS_SERVICE_NAME"] == name)
    answer = market.system.functions.invoke(function.logical_id, event)
    if "requestContext" not in event:
        assert answer == {"shards": running.SHARDS}
    elif answer["headers"]["Content-Type"].startswith("text/csv"):
        assert answer["statusCode"] == 200
    else:
        assert json.loads(answer["body"]).get("code") in EXPECTED
