"""An export fits whatever carries it, is a whole month as of an instant, and reads alike in every spreadsheet."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.adapters.objects import ExportObjects
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.lines import Line
from monetize.domain.periods import Period
from monetize.domain.reports import Snapshot
from monetize.http.reports_schemas import (
    AgingRow,
    ChurnRow,
    ConsumerResponse,
    InvoiceResponse,
    MrrRow,
    ReportRow,
    RevenueRow,
    UsageRow,
)
from monetize.services import exporting
from monetize.services.exporting import Export, Ports, What
from monetize.wiring import client_settings

EDGE = datetime(2026, 2, 1, tzinfo=UTC)
NOW = datetime(2026, 2, 10, 8, tzinfo=UTC)
LAMBDA_ANSWER = 6 * 1024 * 1024
JANUARY = Period(datetime(2026, 1, 1, tzinfo=UTC), EDGE)


@dataclass(frozen=True)
class Found:
    items: tuple[Invoice, ...]
    after: str | None


@dataclass
class Shelf:
    """A month of `count` invoices of `lines` lines each, and what exports keep."""

    count: int
    lines: int = 1
    currency: str = "usd"
    kept: dict[str, Snapshot] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)

    def invoices(self, pub: str, month: str, after: str | None, limit: int) -> Found:  # noqa: ARG002
        first = int(after or 0)
        last = min(first + limit, self.count)
        found = tuple(
            Invoice(
                id=f"inv_{number:06d}",
                stripe_id=f"in_{number}",
                account="acct_1",
                publisher="acme",
                subscriber="dev",
                subscription=f"sub_{number:06d}",
                edge=EDGE,
                currency=self.currency,
                amount=1234,
                issued_at=EDGE,
            )
            for number in range(first, last)
        )
        return Found(found, str(last) if last < self.count else None)

    def many_lines(self, of: Sequence[tuple[str, datetime]]) -> tuple[BillLines, ...]:
        lines = tuple(
            Line(
                id=f"calls{number}@2026-01-01T00:00:00Z",
                kind="usage",
                name=f"Requests of endpoint {number}",
                currency=self.currency,
                period=JANUARY,
                rated=1234,
                amount=1234,
                plan="plan_01KAQ4D3T0V9Q8Z7Y6X5W4V3T2",
                version=1,
                charge=f"calls{number}",
                meter="met_01KAQ4D3T0V9Q8Z7Y6X5W4V3T2",
                used=120_000,
                billed=120_000,
            )
            for number in range(self.lines)
        )
        return tuple(BillLines(subscription=sub, edge=edge, lines=lines) for sub, edge in of)

    def snapshot(self, pub: str, name: str) -> Snapshot | None:  # noqa: ARG002
        return self.kept.get(name)

    def keep(self, snapshot: Snapshot, now: datetime) -> bool:  # noqa: ARG002
        stored = self.kept.get(snapshot.name)
        if snapshot.rev != (stored.rev if stored else 0):
            return False
        self.kept[snapshot.name] = replace(snapshot, rev=snapshot.rev + 1)
        return True

    def put(self, name: str, content: str) -> None:
        self.objects[name] = content

    def link(self, name: str) -> str:
        return name

    def export(self, what: What, now: datetime = NOW) -> Export:
        return exporting.export("acme", "2026-02", what, now, Ports(self, lambda: self))


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text.removeprefix(exporting.BYTE_ORDER_MARK))))


@pytest.mark.parametrize(("count", "lines"), [(10, 250), (1_000, 25), (400, 250)])
def test_no_answer_and_no_part_is_larger_than_what_carries_it(count: int, lines: int) -> None:
    shelf = Shelf(count, lines)
    made = shelf.export("lines")
    assert made.text is None or len(json.dumps(made.text)) < LAMBDA_ANSWER
    while not made.complete:
        made = shelf.export("lines")
    texts = shelf.objects.values() if made.text is None else [made.text]
    assert sum(len(_rows(text)) for text in texts) == count * lines
    assert all(len(text) < 1.5 * exporting.PART for text in texts)


def test_lines_are_exported_in_parts_that_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PART", 10_000)
    shelf = Shelf(70, 3)
    seen = [shelf.export("lines", NOW + timedelta(seconds=number)) for number in range(4)]
    assert [(each.complete, each.rows) for each in seen] == [(False, 20), (False, 40), (False, 60), (True, 70)]
    rows = [row["invoice"] for name in seen[-1].parts for row in _rows(shelf.objects[name])]
    assert rows == [f"inv_{number:06d}" for number in range(70) for _ in range(3)]
    assert {each.as_of for each in seen} == {NOW}


def test_an_export_that_crosses_midnight_goes_on() -> None:
    shelf, night = Shelf(9_500), datetime(2026, 2, 10, 23, 59, 50, tzinfo=UTC)
    seen = [shelf.export("invoices", night + timedelta(seconds=8 * number)) for number in range(3)]
    assert [(each.complete, each.rows) for each in seen] == [(False, 4_000), (False, 8_000), (True, 9_500)]
    assert {each.as_of for each in seen} == {night}


def test_a_complete_export_is_made_anew_after_an_hour() -> None:
    shelf = Shelf(4_100)
    shelf.export("invoices")
    assert shelf.export("invoices").rows == 4_100
    shelf.count = 4_150
    kept = shelf.export("invoices", NOW + timedelta(minutes=59))
    assert (kept.rows, kept.complete, kept.as_of) == (4_100, True, NOW)
    later = NOW + timedelta(hours=1)
    shelf.export("invoices", later)
    anew = shelf.export("invoices", later)
    assert (anew.rows, anew.complete, anew.as_of) == (4_150, True, later)


def test_two_who_make_the_same_part_never_mix_theirs() -> None:
    shelf = Shelf(4_100)
    first = shelf.export("invoices").parts
    text = shelf.objects[first[0]]
    other = Shelf(4_100, objects=shelf.objects, currency="eur")  # the same part, read a moment earlier
    other.export("invoices")
    assert shelf.objects[first[0]] == text
    assert len(shelf.objects) == 2


@pytest.mark.parametrize(
    ("currency", "decimals", "decimal"), [("usd", "2", "12.34"), ("jpy", "0", "1234"), ("kwd", "3", "1.234")]
)
def test_money_is_minor_units_and_a_decimal_of_the_currency(currency: str, decimals: str, decimal: str) -> None:
    for what in ("invoices", "lines"):
        text = Shelf(1, currency=currency).export(what).text
        assert text is not None
        told = [(row["amount"], row["currency_decimals"], row["amount_decimal"]) for row in _rows(text)]
        assert told == [("1234", decimals, decimal)]
    for row in (
        MrrRow(plan="p", name="Gold", version=1, currency=currency, subscriptions=1, mrr=1234),
        AgingRow(age="1-30", currency=currency, invoices=1, outstanding=1234),
    ):
        cells = dict(zip(row.columns(), *row.cells(), strict=True))
        assert str(cells["currency_decimals"]) == decimals
        assert cells["mrr_decimal" if isinstance(row, MrrRow) else "outstanding_decimal"] == decimal


def test_a_usage_report_as_csv_tells_days_and_top_subscribers() -> None:
    top = [ConsumerResponse(subscriber="dev", quantity=300)]
    row = UsageRow(
        meter="m", name="Calls", unit="calls", quantity=300, late=5, let_go=7, days={"2026-01-30": 300}, top=top
    )
    assert row.columns() == ["meter", "name", "unit", "of", "key", "quantity"]
    assert row.cells() == [
        ["m", "Calls", "calls", "total", "", 300],
        ["m", "Calls", "calls", "late", "", 5],
        ["m", "Calls", "calls", "let_go", "", 7],
        ["m", "Calls", "calls", "day", "2026-01-30", 300],
        ["m", "Calls", "calls", "subscriber", "dev", 300],
    ]


def test_a_churn_report_as_csv_tells_the_reasons() -> None:
    numbers = {
        name: 1 for name, member in ChurnRow.model_fields.items() if member.annotation is int and name != "reasons"
    }
    row = ChurnRow.model_validate(
        numbers
        | {"currency": "kwd", "churn_percent": "2.00", "mrr_churn_percent": None}
        | {"reasons": {"unpaid": 2, "canceled": 1}}
    )
    cells = dict(zip(row.columns(), *row.cells(), strict=True))
    assert (cells["reasons"], cells["currency_decimals"]) == ("canceled: 1, unpaid: 2", 3)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", " ="])
def test_a_cell_that_looks_like_a_formula_is_text(start: str) -> None:
    read = list(csv.reader(StringIO(exporting.table(["a"], [[f"{start}1+1"], [-5]]), newline="")))
    assert read[1:] == [[f"'{start}1+1"], ["-5"]]


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["=1+1", '"; drop', "a\r\nb", " -x", "\u00e9\u4e2d", "-", "+1", "1e5", "-12"]
)
_AMOUNTS = st.integers(-(10**15), 10**15)
_CURRENCIES = st.sampled_from(["usd", "jpy", "kwd", "isk"])


@given(st.data())
@pytest.mark.parametrize("kind", [RevenueRow, MrrRow, ChurnRow, AgingRow])
def test_a_report_as_csv_has_the_rows_and_cells_of_its_json(kind: type[ReportRow], data: st.DataObject) -> None:
    by_type: dict[Any, Any] = {str: _TEXTS, int: _AMOUNTS, str | None: st.none() | _TEXTS, dict[str, int]: st.just({})}
    about = {name: by_type[member.annotation] for name, member in kind.model_fields.items() if member.annotation}
    rows = data.draw(st.lists(st.fixed_dictionaries(about | {"currency": _CURRENCIES}).map(kind.model_validate)))
    text = exporting.table(kind.columns(), [cells for row in rows for cells in row.cells()])
    read = list(csv.DictReader(StringIO(text.removeprefix(exporting.BYTE_ORDER_MARK), newline="")))
    assert len(read) == len(rows)
    for cells, row in zip(read, rows, strict=True):
        told = json.loads(row.model_dump_json())
        for name in (each for each in kind.columns() if each in told and each != "reasons"):
            assert cells[name].removeprefix("'") == str("" if told[name] is None else told[name]).removeprefix("'")
        for name in kind.money():
            assert Decimal(cells[f"{name}_decimal"]).scaleb(int(cells["currency_decimals"])) == told[name]
            assert len(cells[f"{name}_decimal"].partition(".")[2]) == int(cells["currency_decimals"])


def test_exported_invoices_say_what_their_answers_say() -> None:
    shelf = Shelf(3, currency="kwd")
    told = [InvoiceResponse.of(each, publishers=True) for each in shelf.invoices("acme", "2026-02", None, 3).items]
    text = shelf.export("invoices").text
    assert text is not None
    for cells, invoice in zip(_rows(text), told, strict=True):
        answer = json.loads(invoice.model_dump_json()) | {"invoice": invoice.id}
        same = [name for name in exporting.INVOICE_COLUMNS if name in answer]
        assert len(same) == len(exporting.INVOICE_COLUMNS) - len(exporting.INVOICE_MONEY) - 1
        assert {name: cells[name] for name in same} == {
            name: "" if answer[name] is None else str(answer[name]) for name in same
        }


def test_a_number_in_a_text_is_no_formula() -> None:
    assert exporting.table(["a"], [["-12.30"], ["-1+1"]], header=False) == '"-12.30"\r\n"\'-1+1"\r\n'


def test_a_spreadsheet_is_told_the_encoding_and_splits_no_text() -> None:
    assert exporting.table(["a", "b"], [["3 \u00d7 $1; more", 5]]) == '\ufeff"a","b"\r\n"3 \u00d7 $1; more",5\r\n'


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "eu-central-1"])
def test_a_link_is_signed_as_every_region_takes_it_for_the_buckets_own_host(region: str) -> None:
    client = boto3.client(
        "s3",
        region_name=region,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="none",
        aws_session_token="session",
        config=client_settings("s3"),
    )
    link = urlsplit(ExportObjects(client, "exports").link("acme/a.csv"))
    asked = parse_qs(link.query)
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert asked["X-Amz-Expires"] == ["900"]
    assert link.netloc == (
        "exports.s3.amazonaws.com" if region == "us-east-1" else f"exports.s3.{region}.amazonaws.com"
    )
