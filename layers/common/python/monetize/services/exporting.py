"""Invoices and their lines as CSV: a small month in the answer, a large one in parts behind links that end."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from io import StringIO
from typing import Final, Literal, Protocol

from monetize.domain.currencies import decimals
from monetize.domain.invoices import BillLines, Invoice
from monetize.domain.money import decimal_amount
from monetize.domain.reports import Snapshot
from monetize.services.reporting import UNFINISHED_LIFE, Page

type What = Literal["invoices", "lines"]

AT_ONCE: Final = 4_000_000  # bytes of an answer as JSON: Lambda's end at 6 MB
PART: Final = 4_000_000  # bytes of one object and one request, and at most a page more
PART_INVOICES: Final = 4_000  # the same: about five seconds
PAGE: Final = {"invoices": 100, "lines": 20}  # invoices read at once: an invoice may have hundreds of lines
FRESH: Final = timedelta(hours=1)  # a complete one is answered again
BYTE_ORDER_MARK: Final = "\ufeff"  # without it Excel reads the text as the machine's own code page

INVOICE_MONEY: Final = (
    "amount",
    "tax",
    "total",
    "amount_paid",
    "amount_remaining",
    "credited",
    "refunded",
    "application_fee",
)
LINE_MONEY: Final = ("amount", "rated")
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
    *INVOICE_MONEY,
    *(f"{each}_decimal" for each in INVOICE_MONEY),
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
    *(f"{each}_decimal" for each in LINE_MONEY),
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
    """`text` of a small one; else the parts so far, each a CSV with a header, and whether that is all.

    `as_of`: nothing in it is older.
    """

    as_of: datetime
    text: str | None = None
    complete: bool = True
    rows: int = 0
    parts: tuple[str, ...] = ()


def export(pub: str, month: str, what: What, now: datetime, ports: Ports) -> Export:
    """A publisher's invoices of one month of issue, or their lines, as CSV. Call again until complete.

    One that was begun is made to its end; a complete one is made anew after an hour.
    """
    name = f"export#{what}#{month}"
    stored = ports.store.snapshot(pub, name)
    begun = stored is not None and now - stored.as_of < (FRESH if stored.complete else UNFINISHED_LIFE)
    if stored is None or not begun:
        stored = Snapshot(publisher=pub, name=name, as_of=now, rev=stored.rev if stored else 0)
    if not stored.complete:
        text, read, after = _part(pub, month, what, stored.after, ports.store)
        if not stored.parts and after is None and len(json.dumps(text)) <= AT_ONCE:
            return Export(as_of=now, text=text, rows=read)
        stored = _keep(stored, text, read, after, now, ports)
    objects = ports.objects()
    links = tuple(objects.link(each) for each in stored.parts)
    return Export(as_of=stored.as_of, complete=stored.complete, rows=stored.seen, parts=links)


def _keep(snapshot: Snapshot, text: str, read: int, after: str | None, now: datetime, ports: Ports) -> Snapshot:
    """One more part. It is stored before it is named, by its content: whoever came first names what is kept."""
    pub = snapshot.publisher
    what, month = snapshot.name.split("#")[1:]
    digest = blake2b(text.encode(), digest_size=6).hexdigest()
    part = f"{pub}/{what}-{month}-{snapshot.as_of:%Y%m%dT%H%M%SZ}-{len(snapshot.parts) + 1:04d}-{digest}.csv"
    ports.objects().put(part, text)
    moved = replace(
        snapshot, after=after, seen=snapshot.seen + read, complete=after is None, parts=(*snapshot.parts, part)
    )
    if not ports.store.keep(moved, now):
        return ports.store.snapshot(pub, snapshot.name) or moved
    return moved


def _part(pub: str, month: str, what: What, after: str | None, store: Store) -> tuple[str, int, str | None]:
    """The next CSV, how many invoices it tells of, and the position after them."""
    csvs: list[str] = []
    size = read = 0
    while True:
        page = store.invoices(pub, month, after, PAGE[what])
        text = table(_columns(what), _rows(page.items, what, store), header=not csvs)
        csvs.append(text)
        size, read, after = size + len(text.encode()), read + len(page.items), page.after
        if after is None or size >= PART or read >= PART_INVOICES:
            return "".join(csvs), read, after


def _columns(what: What) -> Sequence[str]:
    return INVOICE_COLUMNS if what == "invoices" else LINE_COLUMNS


def _rows(invoices: Sequence[Invoice], what: What, store: Store) -> list[list[object]]:
    if what == "invoices":
        return [_invoice_row(each) for each in invoices]
    held = {
        (each.subscription, each.edge): each for each in store.many_lines([(i.subscription, i.edge) for i in invoices])
    }
    found = ((each, held.get((each.subscription, each.edge))) for each in invoices)
    return [row for invoice, content in found if content is not None for row in _line_rows(invoice, content)]


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
        decimals(each.currency),
        *(getattr(each, name) for name in INVOICE_MONEY),
        *(decimal_amount(getattr(each, name), each.currency) for name in INVOICE_MONEY),
    ]


def _line_rows(invoice: Invoice, content: BillLines) -> list[list[object]]:
    return [
        [
            invoice.id,
            line.id,
            line.kind,
            line.description,
            line.currency,
            decimals(line.currency),
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
            *(decimal_amount(getattr(line, name), line.currency) for name in LINE_MONEY),
        ]
        for line in content.lines
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True) -> str:
    """RFC 4180 behind a byte order mark, every text quoted: spreadsheets split at semicolons too.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; a number is none.
    """
    out = StringIO()
    if header:
        out.write(BYTE_ORDER_MARK)
    writer = csv.writer(out, lineterminator="\r\n", quoting=csv.QUOTE_STRINGS)
    if header:
        writer.writerow(columns)
    for row in rows:
        writer.writerow([_plain(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


# As OWASP lists them under "CSV injection": full-width signs become plain ones when a spreadsheet reads them.
_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


def _plain(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return text
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text


def _at(instant: datetime | None) -> str:
    return "" if instant is None else instant.isoformat().replace("+00:00", "Z")
