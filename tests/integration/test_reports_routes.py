"""Invoices, their explanation, reports and exports, over bills that were really made."""

import csv
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import claim
from monetize.domain.invoices import Invoice
from monetize.http.schemas import to_cursor
from monetize.services import exporting, reporting
from tests.integration.billing_fixtures import START, Answer, Market, make_market
from tests.integration.documented import documented_system

FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
LAST_DAY = datetime(2026, 1, 31, 11, tzinfo=UTC)


@dataclass(frozen=True)
class Billed:
    """One subscription after its opening bill of 30 January and the one of 1 February, with 300 calls in January."""

    market: Market
    sub: str
    opening: str
    february: str

    def get(self, path: str, **who: Any) -> Answer:
        return self.market.ask("GET", path, **who)


@pytest.fixture(scope="module")
def billed() -> Any:
    with documented_system(START) as system:
        market = make_market(system)
        sub = market.subscribe()
        market.run(hours=2)
        assert market.use(sub, 100, START + timedelta(hours=1)).status == 200
        market.run_until(LAST_DAY + timedelta(hours=1))
        assert market.use(sub, 200, LAST_DAY).status == 200
        market.run_until(datetime(2026, 2, 1, 5, tzinfo=UTC))
        found = {each["bill"][-16:]: each["id"] for each in market.invoices()}
        yield Billed(market, sub, found["20260130T203000Z"], found["20260201T000000Z"])


def _csv(text: str) -> list[dict[str, str]]:
    assert text.startswith(exporting.BYTE_ORDER_MARK)
    return list(csv.DictReader(StringIO(text.removeprefix(exporting.BYTE_ORDER_MARK))))


# --- invoices ---


def test_each_side_sees_its_own_invoices_and_nobody_else_any(billed: Billed) -> None:
    assert [each["id"] for each in billed.market.invoices()] == [billed.february, billed.opening]
    mine = billed.get("/invoices?side=publisher&month=2026-02").body["items"]
    assert [each["id"] for each in mine] == [billed.february]
    assert billed.get("/invoices?side=publisher&month=2026-02", org="other").body["items"] == []
    assert billed.get("/invoices?publisher=acme", org="other", roles="subscriber").body["items"] == []
    theirs = billed.get(f"/invoices?publisher=acme&subscription={billed.sub}", org="other", roles="subscriber")
    assert theirs.body["items"] == []


def test_a_foreign_invoice_is_an_unknown_one(billed: Billed) -> None:
    foreign = billed.get(f"/invoices/{billed.february}", org="other")
    unknown = billed.get("/invoices/inv_nothing", org="other")
    assert (foreign.status, foreign.body) == (unknown.status, unknown.body) == (404, foreign.body)
    assert billed.get(f"/invoices/{billed.february}/explain", org="other").code == "unknown_invoice"


def test_who_only_buys_sees_nothing_of_what_the_organization_sells(billed: Billed) -> None:
    for path in (f"/invoices/{billed.february}", f"/invoices/{billed.february}/explain"):
        assert billed.get(path, roles="subscriber").code == "unknown_invoice"
        assert billed.get(path, org="dev", roles="publisher_viewer").code == "unknown_invoice"
        assert billed.get(path, roles="publisher_viewer").status == 200
    both = billed.get(f"/invoices/{billed.february}", org="dev", roles="publisher_admin subscriber")
    assert both.body["application_fee"] is None


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("side=publisher&month=2026-01", 1),
        ("side=publisher&month=2026-03", 0),
        ("side=publisher&subscriber=dev", 2),
        ("side=publisher&subscriber=nobody", 0),
        ("side=publisher&subscriber=dev&month=2026-02", 1),
        ("side=publisher&month=2026-02&status=paid", 1),
        ("side=publisher&month=2026-02&status=void", 0),
        ("side=publisher&month=2026-02&plan=plan_acme", 1),
        ("side=publisher&month=2026-02&plan=plan_other", 0),
        ("side=publisher&subscriber=dev&plan=plan_acme&status=paid", 2),
    ],
)
def test_invoices_are_filtered(billed: Billed, query: str, count: int) -> None:
    assert len(billed.get(f"/invoices?{query}").body["items"]) == count


def test_a_list_of_a_plan_goes_on_where_enough_lines_were_read(billed: Billed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SCANNED_LINES", 1)
    query, seen, cursor = "/invoices?side=publisher&subscriber=dev&plan=plan_acme", [], ""
    while True:
        page = billed.get(query + cursor).body
        seen += [each["id"] for each in page["items"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert seen == [billed.february, billed.opening]
    none = billed.get("/invoices?side=publisher&subscriber=dev&plan=plan_other").body
    assert (none["items"], none["cursor"] is None) == ([], False), "a page may be empty although more is to be read"


def test_a_list_goes_on_where_its_page_ended(billed: Billed) -> None:
    first = billed.get("/invoices?publisher=acme&limit=1", org="dev", roles="subscriber").body
    second = billed.get(
        f"/invoices?publisher=acme&limit=1&cursor={first['cursor']}", org="dev", roles="subscriber"
    ).body
    assert [first["items"][0]["id"], second["items"][0]["id"]] == [billed.february, billed.opening]
    by_sub = f"/invoices?side=publisher&subscription={billed.sub}&limit=1"
    first = billed.get(by_sub).body
    second = billed.get(f"{by_sub}&cursor={first['cursor']}").body
    assert [first["items"][0]["id"], second["items"][0]["id"]] == [billed.february, billed.opening]
    monthly = "/invoices?side=publisher&month=2026-02&limit=1"
    assert billed.get(f"{monthly}&cursor={billed.get(monthly).body['cursor']}").body == {"items": [], "cursor": None}


@pytest.mark.parametrize(
    "query", ["side=publisher&subscription={sub}&cursor={place}", "publisher=acme&cursor={sub_place}", "side=publisher"]
)
def test_a_position_of_another_list_is_refused(billed: Billed, query: str) -> None:
    place = "2026-01-30T20:31:00Z#inv_x"
    made = {"sub": billed.sub, "place": to_cursor(place), "sub_place": to_cursor(f"{billed.sub}|{place}")}
    who = {"org": "dev", "roles": "subscriber"} if query.startswith("publisher") else {}
    if query == "side=publisher":  # any position is one of a month's
        assert billed.get(f"/invoices?{query}&month=2026-01&cursor={made['place']}").status == 200
    else:
        assert billed.get(f"/invoices?{query.format(**made)}", **who).code == "bad_cursor"


def test_an_invoice_shows_lines_whose_arithmetic_adds_up(billed: Billed) -> None:
    got = billed.get(f"/invoices/{billed.february}", org="dev", roles="subscriber").body
    assert sum(line["amount"] for line in got["lines"]) == got["amount"] == 5050
    assert [line["arithmetic"] for line in got["lines"]] == ["300 calls = 300 \u00d7 $0.005 = $1.50", "$49.00"]
    assert got["application_fee"] is None
    assert billed.get(f"/invoices/{billed.february}").body["application_fee"] == 0


def test_stripes_links_are_asked_for_and_kept_nowhere(billed: Billed) -> None:
    links = billed.get(f"/invoices/{billed.february}").body["links"]
    assert links["available"]
    assert links["hosted"].startswith("https://")
    assert links["pdf"].startswith("https://")
    held = billed.market.table.raw(keys.invoice(billed.february))
    assert links["hosted"] not in str(held)
    assert billed.get(f"/invoices/{billed.february}?links=false").body["links"]["hosted"] == ""


def test_an_invoice_is_shown_while_stripe_does_not_answer(billed: Billed, monkeypatch: pytest.MonkeyPatch) -> None:
    from monetize.adapters.stripe.invoices import StripeInvoices
    from monetize.domain.errors import ProviderBusy

    def silent(*_: object) -> None:
        raise ProviderBusy("stripe_unavailable", "Stripe does not answer now.")

    monkeypatch.setattr(StripeInvoices, "retrieve", silent)
    got = billed.get(f"/invoices/{billed.february}")
    assert got.status == 200
    assert got.body["links"] == {"hosted": "", "pdf": "", "available": False}


# --- explain ---


def test_an_invoice_is_explained_down_to_the_event(billed: Billed) -> None:
    from monetize.domain.usage import event_id

    path = f"/invoices/{billed.february}/explain"
    line = billed.get(path).body["lines"][0]
    assert [(day["day"], day["quantity"]) for day in line["days"]] == [("2026-01-30", 100), ("2026-01-31", 200)]
    batches = billed.get(f"{path}?line={line['id']}&day=2026-01-31").body["batches"]
    assert [(batch["events"], batch["quantity"], batch["late"]) for batch in batches] == [(200, 200, False)]
    assert sum(batch["quantity"] for batch in billed.get(f"{path}?line={line['id']}").body["batches"]) == line["used"]
    batch = batches[0]["batch"]
    events = billed.get(f"{path}?line={line['id']}&day=2026-01-31&batch={batch}").body["events"]
    assert len(events) == 200
    assert {"digest": event_id("/gateways/eu-1", "req-0131-7").hex(), "quantity": 1} in events


def test_one_event_is_found_where_it_was_billed(billed: Billed) -> None:
    path = f"/invoices/{billed.february}/explain?event="
    found = billed.get(f"{path}/gateways/eu-1/req-0131-7", org="dev", roles="subscriber").body["event"]
    assert (found["billed"], found["why"], found["lines"]) == (True, "billed", ["calls@2026-01-30T20:30:00Z"])
    assert [(place["day"], place["counted"], place["quantities"]) for place in found["places"]] == [
        ("2026-01-31", True, {"met_calls": 1})
    ]
    unknown = billed.get(f"{path}/gateways/eu-1/req-9").body["event"]
    assert (unknown["billed"], unknown["why"], unknown["places"]) == (False, "not_received", [])
    assert billed.get(f"{path}nothing").code == "bad_event"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("line=nothing", "unknown_line"),
        ("line=calls@2026-01-30T20:30:00Z&day=2026-02-01", "bad_day"),
        ("line=calls@2026-01-30T20:30:00Z&batch=x", "day_required"),
        ("line=calls@2026-01-30T20:30:00Z&day=2026-01-31&batch=x", "unknown_batch"),
    ],
)
def test_what_an_invoice_does_not_hold_is_refused_by_name(billed: Billed, query: str, code: str) -> None:
    assert billed.get(f"/invoices/{billed.february}/explain?{query}").code == code


# --- reports ---


@pytest.mark.parametrize(
    ("by", "key", "name", "amount"),
    [
        ("total", "", "", 5050),
        ("day", "2026-02-01", "", 5050),
        ("plan", "plan_acme", "Gold", 5050),
        ("api", "api_acme", "Weather", 5050),
    ],
)
def test_revenue_is_told_by_day_plan_and_api(billed: Billed, by: str, key: str, name: str, amount: int) -> None:
    report = billed.get(f"/reports/revenue?month=2026-02&by={by}").body
    assert report["complete"]
    assert [(row["key"], row["name"], row["amount"]) for row in report["rows"]] == [(key, name, amount)]


def test_an_operator_sees_what_each_publisher_earned_and_nobody_else_does(billed: Billed) -> None:
    report = billed.get("/reports/revenue?month=2026-02&by=publisher", roles="operator").body
    total = billed.get("/reports/revenue?month=2026-02&by=total").body["rows"]
    assert report["complete"]
    assert [(row["key"], row["currency"], row["amount"]) for row in report["rows"]] == [("acme", "usd", 5050)]
    assert [row | {"key": ""} for row in report["rows"]] == total
    assert billed.get("/reports/revenue?month=2026-02&by=publisher").status == 403


def test_recurring_revenue_churn_usage_and_aging(billed: Billed) -> None:
    mrr = billed.get("/reports/mrr?month=2026-02").body
    assert mrr["totals"] == {"usd": 4900}
    churn = billed.get("/reports/churn?month=2026-01").body["rows"][0]
    assert (churn["at_start"], churn["won"], churn["lost"], churn["mrr_won"]) == (0, 1, 0, 4900)
    usage = billed.get("/reports/usage?month=2026-01").body["rows"]
    assert [(row["meter"], row["quantity"], row["top"]) for row in usage] == [
        ("met_calls", 300, [{"subscriber": "dev", "quantity": 300}])
    ]
    assert billed.get("/reports/usage?month=2026-01&meter=met_calls&product=api_acme").body["rows"] == usage
    assert billed.get("/reports/usage?month=2026-01&meter=met_other").body["rows"] == []
    assert billed.get("/reports/usage?month=2026-01&product=api_other").code == "unknown_product"
    assert billed.get("/reports/aging").body["rows"] == []


def test_reports_come_as_csv_by_query_and_by_accept(billed: Billed) -> None:
    for answer in (
        billed.get("/reports/revenue?month=2026-02&format=csv"),
        billed.get("/reports/revenue?month=2026-02", headers={"accept": "text/csv"}),
    ):
        assert answer.headers["content-type"].startswith("text/csv")
        rows = _csv(answer.text)
        assert [(row["key"], row["currency"], row["amount"]) for row in rows] == [("2026-02-01", "usd", "5050")]


def test_a_publisher_sees_its_own_reports_alone(billed: Billed) -> None:
    assert billed.get("/reports/revenue?month=2026-02&publisher=acme", org="other").body["rows"] == []
    assert billed.get("/reports/revenue", roles="subscriber").code == "missing_role"
    operators = billed.get("/reports/revenue?month=2026-02&publisher=acme", org="platform", roles="operator")
    assert [row["amount"] for row in operators.body["rows"]] == [5050]
    nobody = billed.get("/reports/revenue?publisher=nobody", org="platform", roles="operator")
    assert nobody.code == "unknown_publisher"


def test_a_large_report_goes_on_from_request_to_request(billed: Billed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PAGE", 1)
    monkeypatch.setattr(reporting, "progress", _small_steps(reporting.progress))
    invoice = billed.market.stored(Invoice, keys.invoice(billed.opening))
    # Two more of another month, so that pages follow each other.
    for number in (1, 2):
        at = datetime(2025, 6, number, tzinfo=UTC)
        billed.market.store(replace(invoice, id=f"inv_{number}", stripe_id=f"in_{number}", issued_at=at, rev=0))
        billed.market.table.write(claim(keys.publisher_invoice("acme", at, f"inv_{number}")))
    seen = []
    for _ in range(3):
        report = billed.get("/reports/revenue?month=2025-06&by=total").body
        seen.append((report["complete"], report["counted"]))
    assert seen == [(False, 1), (False, 2), (True, 2)]
    assert report["rows"][0]["amount"] == 2 * invoice.amount


def test_a_report_of_everybody_waits_for_the_one_that_is_still_counted(
    billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        at = datetime(2025, 7, 1 + number, tzinfo=UTC)
        invoice = billed.market.stored(Invoice, keys.invoice(billed.opening))
        billed.market.store(replace(invoice, id=f"inv_j{number}", stripe_id=f"in_j{number}", issued_at=at, rev=0))
        billed.market.table.write(claim(keys.publisher_invoice("acme", at, f"inv_j{number}")))
    monkeypatch.setattr(reporting, "PAGE", 1)
    monkeypatch.setattr(reporting, "progress", _small_steps(reporting.progress))
    seen = []
    for _ in range(5):
        report = billed.get("/reports/revenue?month=2025-07&by=publisher", roles="operator").body
        seen.append((report["complete"], sum(row["invoices"] for row in report["rows"])))
    assert seen == [(False, 0), (False, 0), (False, 0), (False, 3), (True, 3)]


def _small_steps(progress: Any) -> Any:
    return lambda *given: progress(*given[:6], 1)


# --- exports ---


def test_a_small_month_is_exported_at_once(billed: Billed) -> None:
    answer = billed.get("/invoices/export?month=2026-02")
    assert answer.headers["content-disposition"] == 'attachment; filename="invoices-2026-02.csv"'
    rows = _csv(answer.text)
    assert [(row["invoice"], row["amount"], row["currency_decimals"]) for row in rows] == [
        (billed.february, "5050", "2")
    ]
    lines = _csv(billed.get("/invoices/export?month=2026-02&what=lines").text)
    assert sum(int(line["amount"]) for line in lines) == 5050


def test_a_large_month_is_exported_in_parts_behind_links(billed: Billed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PAGE", {"invoices": 1})
    monkeypatch.setattr(exporting, "PART", 1)
    answers = [billed.get("/invoices/export?month=2026-01").body for _ in range(3)]
    assert [answer["complete"] for answer in answers] == [False, True, True]
    s3 = billed.market.system.s3
    made = [s3.objects[place][0].decode() for place in sorted(s3.objects)]
    rows = [row["invoice"] for text in made for row in _csv(text)]
    assert rows == [billed.opening]
    assert len(answers[-1]["parts"]) == 2
    assert all("acme/invoices-2026-01" in link for link in answers[-1]["parts"])
    assert {answer["as_of"] for answer in answers} == {answers[0]["as_of"]}


# --- audit ---


def test_what_people_did_is_listed_newest_first(billed: Billed) -> None:
    page = billed.get("/audit?month=2026-01&limit=2").body
    rest = billed.get(f"/audit?month=2026-01&cursor={page['cursor']}").body
    actions = [each["action"] for each in (*page["items"], *rest["items"])]
    assert sorted(actions) == ["application.create", "subscriber.contact", "subscription.create"]
    assert billed.get("/audit?month=2026-01", org="other").body["items"] == []
    assert billed.get("/audit?month=2026-01", roles="publisher_viewer").code == "missing_role"


def test_nothing_of_a_link_is_logged(billed: Billed, capsys: pytest.CaptureFixture[str]) -> None:
    billed.get(f"/invoices/{billed.february}")
    assert "stripe.invalid" not in capsys.readouterr().out
