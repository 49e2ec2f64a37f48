"""Invoices and their lines as CSV: a small month in the answer, a large one in parts behind links that end."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import StringIO
from typing import Final, Literal, Protocol

from monetize.domain.currencies import CURRENCIES
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.reports import Snapshot
from monetize.services.reporting import Page

type What = Literal["invoices", "lines"]

SMALL: Final = 1_000  # invoices that are answered at once
PART: Final = 4_000  # invoices of one object and one request
PAGE: Final = 100

INVOICE_COLUMNS: Final = (
    "invoice",
    "number",
    "status",
    "issued_at",
    "paid_at",
    "subscriber",
    "subscription",
    "currency",
    "currency_decimals",
    "amount",
    "tax",
    "total",
    "amount_paid",
    "amount_remaining",
    "credited",
    "refunded",
    "application_fee",
)
LINE_COLUMNS: Final = (
    "invoice",
    "line",
    "kind",
    "description",
    "currency",
    "currency_decimals",
    "amount",
    "rated",
    "plan",
    "version",
    "charge",
    "meter",
    "used",
    "billed",
    "period_start",
    "period_end",
)


class Store(Protocol):
    """What is stored."""

    def invoices(self, pub: str, month: str, after: str | None, limit: int) -> Page[Invoice]: ...
    def many_lines(self, of: Sequence[tuple[str, datetime]]) -> tuple[BillLines, ...]: ...
    def snapshot(self, pub: str, name: str) -> Snapshot | None: ...
    def keep(self, snapshot: Snapshot, now: datetime) -> bool: ...


class Objects(Protocol):
    """Where large exports are kept for some days."""

    def put(self, name: str, content: str) -> None: ...
    def link(self, name: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What exports work with. The objects' client is made for a large export, and not before."""

    store: Store
    objects: Callable[[], Objects]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """`text` of a small one; else the parts so far, each a CSV with a header, and whether that is all."""

    text: str | None = None
    complete: bool = True
    rows: int = 0
    parts: tuple[str, ...] = ()


def export(pub: str, month: str, what: What, now: datetime, ports: Ports) -> Export:
    """A publisher's invoices of one month of issue, or their lines, as CSV. Call again until complete."""
    invoices, after = _read(pub, month, None, SMALL, ports.store)
    if after is None:
        return Export(text=_csv(invoices, what, ports.store), rows=len(invoices))
    name = f"export#{what}#{month}"
    stored = ports.store.snapshot(pub, name)
    if stored is None or stored.as_of.date() != now.date():
        stored = Snapshot(publisher=pub, name=name, as_of=now, rev=stored.rev if stored else 0)
    if not stored.complete:
        stored = _step(stored, month, what, now, ports)
    objects = ports.objects()
    links = tuple(objects.link(each) for each in stored.parts)
    return Export(complete=stored.complete, rows=stored.seen, parts=links)


def _step(snapshot: Snapshot, month: str, what: What, now: datetime, ports: Ports) -> Snapshot:
    """One more part. It is stored before it is named: a crash between makes the same object again."""
    pub = snapshot.publisher
    invoices, after = _read(pub, month, snapshot.after, PART, ports.store)
    part = f"{pub}/{what}-{month}-{snapshot.as_of:%Y%m%dT%H%M%SZ}-{len(snapshot.parts) + 1:04d}.csv"
    ports.objects().put(part, _csv(invoices, what, ports.store))
    moved = replace(
        snapshot,
        after=after,
        seen=snapshot.seen + len(invoices),
        complete=after is None,
        parts=(*snapshot.parts, part),
    )
    if not ports.store.keep(moved, now):
        return ports.store.snapshot(pub, snapshot.name) or moved
    return moved


def _read(pub: str, month: str, after: str | None, most: int, store: Store) -> tuple[list[Invoice], str | None]:
    found: list[Invoice] = []
    while True:
        page = store.invoices(pub, month, after, PAGE)
        found += page.items
        after = page.after
        if after is None or len(found) >= most:
            return found, after


def _csv(invoices: Sequence[Invoice], what: What, store: Store) -> str:
    if what == "invoices":
        return table(INVOICE_COLUMNS, (_invoice_row(each) for each in invoices))
    rows: list[list[object]] = []
    for start in range(0, len(invoices), PAGE):
        part = invoices[start : start + PAGE]
        held = {
            (each.subscription, each.edge): each for each in store.many_lines([(i.subscription, i.edge) for i in part])
        }
        for invoice in part:
            content = held.get((invoice.subscription, invoice.edge))
            rows += _line_rows(invoice, content) if content is not None else []
    return table(LINE_COLUMNS, rows)


def _invoice_row(each: Invoice) -> list[object]:
    return [
        each.id,
        each.number,
        each.status,
        _at(each.issued_at),
        _at(each.paid_at),
        each.subscriber,
        each.subscription,
        each.currency,
        _decimals(each.currency),
        each.amount,
        each.tax,
        each.total,
        each.amount_paid,
        each.amount_remaining,
        each.credited,
        each.refunded,
        each.application_fee,
    ]


def _line_rows(invoice: Invoice, content: BillLines) -> list[list[object]]:
    return [
        [
            invoice.id,
            line.id,
            line.kind,
            line.description,
            line.currency,
            _decimals(line.currency),
            line.amount,
            line.rated,
            line.plan,
            line.version,
            line.charge or "",
            line.meter or "",
            line.used,
            line.billed,
            _at(line.period.start),
            _at(line.period.end),
        ]
        for line in content.lines
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_plain(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _decimals(currency: str) -> int:
    known = CURRENCIES.get(currency)
    return known.exponent if known is not None else 0


def _at(instant: datetime | None) -> str:
    return "" if instant is None else instant.isoformat().replace("+00:00", "Z")
