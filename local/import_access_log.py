"""Turn a web server's access log into usage events: `python -m local.import_access_log FILE --url … --key …`.

Reads Apache's and nginx's common and combined formats, and AWS API Gateway's JSON access logs (one object a line). A
line that cannot be read is reported with its number, counted and skipped. Importing a file twice counts it once: an
event's id is the digest of its line and how often the same line came before it.

Who called: for web server logs the client's address names an application, and `--subscriptions` (a CSV file of
address, subscription id) says which subscription that is. API Gateway's logs carry the subscription themselves.
"""

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local.http_client import Api, HttpClient, Refused

EVENT_TYPE = "api.request"
BATCH = 1000
MOST_REPORTED = 20

# host ident user [time] "request" status bytes, and in the combined format "referer" "agent" (quotes are escaped).
_COMMON = re.compile(
    r"(?P<client>\S+) \S+ (?P<user>\S+|\S.*?) \[(?P<time>[^\]]+)\] "
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<bytes>\d+|-)'
    r'(?: "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*")?\s*'
)
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: at for at, name in enumerate(_MONTH_NAMES, 1)}
_TIME = re.compile(r"(\d{2})/(\w{3})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line that was read: who called, when, and what came of it."""

    number: int
    id: str
    client: str
    subscription: str | None
    at: datetime
    method: str
    path: str
    status: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """One line that could not be read."""

    number: int
    why: str


def read(lines: Iterable[str]) -> Iterator[Entry | Malformed]:
    """Every line of a log that is not blank, in order, numbered from 1."""
    seen: Counter[bytes] = Counter()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:12]
        identity = f"{digest.hex()}-{seen[digest]}"
        seen[digest] += 1
        try:
            yield _json(number, identity, text) if text.startswith("{") else _common(number, identity, text)
        except (ValueError, KeyError) as why:
            yield Malformed(number, str(why) or type(why).__name__)


def _common(number: int, identity: str, text: str) -> Entry:
    found = _COMMON.fullmatch(text)
    if found is None:
        raise ValueError("neither the common nor the combined format")
    method, _, rest = found["request"].partition(" ")
    return Entry(
        number=number,
        id=identity,
        client=found["client"],
        subscription=None,
        at=_instant(found["time"]),
        method=method,
        path=rest.rpartition(" ")[0] or rest,
        status=int(found["status"]),
        bytes=0 if found["bytes"] == "-" else int(found["bytes"]),
    )


def _instant(text: str) -> datetime:
    found = _TIME.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        raise ValueError(f"time {text!r} is not dd/Mon/yyyy:hh:mm:ss +hhmm")
    day, _, year, hour, minute, second, sign, zone_hours, zone_minutes = found.groups()
    local = f"{year}-{_MONTHS[found[2]]:02d}-{day}T{hour}:{minute}:{second}{sign}{zone_hours}:{zone_minutes}"
    return datetime.fromisoformat(local).astimezone(UTC)


def _json(number: int, identity: str, text: str) -> Entry:
    """API Gateway's JSON access log; the names are those of the documented format in docs/metering.md."""
    entry: dict[str, Any] = json.loads(text)
    at = entry.get("requestTimeEpoch")
    when = datetime.fromtimestamp(int(at) / 1000, UTC) if at is not None else _instant(str(entry["requestTime"]))
    length = str(entry.get("responseLength", "0"))
    return Entry(
        number=number,
        id=str(entry.get("requestId") or identity),
        client=str(entry.get("ip", "")),
        subscription=str(entry["subscription"]) if entry.get("subscription") not in (None, "", "-") else None,
        at=when,
        method=str(entry.get("httpMethod", "")),
        path=str(entry.get("path") or entry.get("routeKey") or ""),
        status=int(entry["status"]),
        bytes=int(length) if length.isdigit() else 0,
    )


def event(entry: Entry, subscription: str, source: str) -> dict[str, Any]:
    """The CloudEvent of one line."""
    return {
        "specversion": "1.0",
        "id": entry.id,
        "source": source,
        "type": EVENT_TYPE,
        "subject": subscription,
        "time": entry.at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"status": entry.status, "method": entry.method, "path": entry.path[:1000], "bytes": entry.bytes},
    }


@dataclass(slots=True)
class Imported:
    """What became of a log's lines."""

    lines: int = 0
    malformed: list[Malformed] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)  # clients without a subscription
    accepted: int = 0
    duplicates: int = 0
    late: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # events that were not taken, by code

    @property
    def complete(self) -> bool:
        """Whether every line that could be read is counted, now or before."""
        return not self.unknown and not self.refused


def send(
    entries: Sequence[Entry],
    subject_of: Callable[[Entry], str | None],
    gateway: Api,
    source: str,
    into: Imported,
    progress: Callable[[int], None] = lambda _done: None,
) -> None:
    """Report entries in batches. Sending the same entries again counts nothing twice."""
    events = []
    for entry in entries:
        subscription = subject_of(entry)
        if subscription is None:
            into.unknown[entry.client] += 1
        else:
            events.append(event(entry, subscription, source))
    for start in range(0, len(events), BATCH):
        batch = events[start : start + BATCH]
        told = gateway.call("POST", "/usage/events", batch, Content_Type="application/cloudevents-batch+json")
        into.accepted += told["accepted"]
        into.duplicates += told["duplicates"]
        into.late += told["late"]
        for each in told["rejected"]:
            into.refused[each["code"]] += 1
        progress(start + len(batch))


def source_of(path: Path) -> str:
    """What the events of a file name as their source: its name, so that a second import is recognised."""
    return f"urn:access-log:{path.name}"


def load(path: Path, into: Imported) -> list[Entry]:
    """A whole log; what could not be read is noted."""
    entries: list[Entry] = []
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for found in read(lines):
            into.lines += 1
            if isinstance(found, Malformed):
                into.malformed.append(found)
            else:
                entries.append(found)
    return entries


def report(done: Imported) -> str:
    """What became of it, for people."""
    said = [f"line {bad.number}: skipped, {bad.why}" for bad in done.malformed[:MOST_REPORTED]]
    if len(done.malformed) > MOST_REPORTED:
        said.append(f"… and {len(done.malformed) - MOST_REPORTED} more malformed lines")
    said.append(
        f"{done.lines} lines: {done.accepted} events accepted, {done.duplicates} known before, {done.late} late, "
        f"{len(done.malformed)} malformed, {sum(done.unknown.values())} of {len(done.unknown)} clients without a "
        f"subscription, {sum(done.refused.values())} rejected"
    )
    said.extend(f"  {code}: {count}" for code, count in done.refused.most_common())
    return "\n".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every readable line is counted. 1: some are not, and why was printed. 2: nothing could be sent."""
    parser = argparse.ArgumentParser(
        prog="python -m local.import_access_log", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--url", required=True, help="the API, for instance http://127.0.0.1:8787")
    parser.add_argument("--key", required=True, help="a gateway key, gk_…")
    parser.add_argument("--subscriptions", type=Path, help="CSV of address, subscription id")
    parser.add_argument("--source", help="the events' source; the file's name unless given")
    asked = parser.parse_args(arguments)
    done = Imported()
    http = HttpClient()
    try:
        known: dict[str, str] = {}
        if asked.subscriptions is not None:
            with asked.subscriptions.open(newline="", encoding="utf-8") as rows:
                known = {row[0].strip(): row[1].strip() for row in csv.reader(rows) if len(row) >= 2}
        entries = load(asked.file, done)
        gateway = Api(http, asked.url.rstrip("/"), asked.key)
        source = asked.source or source_of(asked.file)
        send(entries, lambda entry: entry.subscription or known.get(entry.client), gateway, source, done)
    except (OSError, Refused) as failed:
        print(f"import_access_log: {failed}", file=sys.stderr)
        return 2
    finally:
        http.close()
    print(report(done))
    return 0 if done.complete else 1


if __name__ == "__main__":
    sys.exit(main())
