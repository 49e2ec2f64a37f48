"""Take usage events in: read, judge, group by subscription and day, record each group once, answer when durable."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from monetize.domain import meters, usage
from monetize.domain.errors import Malformed, TooLarge, UnsupportedMedia
from monetize.domain.keys import PRODUCTION, SANDBOX
from monetize.domain.meters import Filter, Meter
from monetize.domain.usage import Group, Hasher, Metered, Metering, Outcome, Rejected

MAX_EVENTS: Final = 5000
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_ID: Final = 256  # characters of an event's id, and of its source
FUTURE_TOLERANCE: Final = timedelta(minutes=5)

BATCH_TYPE: Final = "application/cloudevents-batch+json"
SINGLE_TYPE: Final = "application/cloudevents+json"
PLAIN_TYPE: Final = "application/json"


type _Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]


class Event(msgspec.Struct, gc=False):
    """One CloudEvent 1.0 in structured mode, as far as it is used. `subject` is the subscription."""

    id: _Name
    source: _Name
    type: str
    subject: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    specversion: Literal["1.0"] = "1.0"
    data: Any = None
    environment: Literal["production", "sandbox"] = "production"


class Patience(Protocol):
    """How long there is to try again, and how to wait."""

    def left(self) -> float:
        """Seconds until the answer must go out."""
        ...

    def wait(self, seconds: float) -> None: ...


class Ledger(Protocol):
    """Where groups are recorded."""

    def expect(self, days: Collection[tuple[str, date]]) -> None:
        """Note that these days of these subscriptions will have something to compact."""
        ...

    def record(self, groups: Sequence[Group], now: datetime, patience: Patience) -> list[Outcome]:
        """Each group once, however often it comes; an outcome for every group, in their order."""
        ...

    def reject(self, publisher: str, batch: str, rejected: Sequence[Rejected], now: datetime) -> bool:
        """Keep what was refused; False when it could not be kept."""
        ...


class Facts(Protocol):
    """Subscriptions and publishers as they were within the last seconds."""

    def subscriptions(self, ids: Collection[str], now: datetime) -> Mapping[str, Metered | None]: ...

    def metering(self, publisher: str, now: datetime, *, fresh: bool = False) -> Metering: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What metering works with."""

    ledger: Ledger
    facts: Facts


@dataclass(slots=True)
class Taken:
    """The answer. Counts of events; an event is in exactly one of them."""

    accepted: int = 0
    duplicates: int = 0
    late: int = 0
    conflicts: list[Rejected] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    retry: list[int] = field(default_factory=list)

    def add(self, other: "Taken") -> None:
        """Count another answer in."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.late += other.late
        self.conflicts += other.conflicts
        self.rejected += other.rejected
        self.retry += other.retry

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "late": self.late,
            "conflicts": [_named(each) for each in self.conflicts],
            "rejected": [_named(each) for each in self.rejected],
            "retry": self.retry,
        }


_batches = msgspec.json.Decoder(list[Event])
_single = msgspec.json.Decoder(Event)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_loose = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def read_events(raw: bytes, content_type: str) -> tuple[list[Event | None], list[Rejected]]:
    """The events of a body: None where one cannot be read, and why. A bad one never spoils the others.

    Malformed `malformed_json`, UnsupportedMedia `unsupported_media_type`, TooLarge `too_many_events` and
    `body_too_large` for the whole body.
    """
    if len(raw) > MAX_BYTES:
        raise TooLarge("body_too_large", f"A batch may hold {MAX_BYTES} bytes.", limit=MAX_BYTES)
    kind = content_type.partition(";")[0].strip().lower()
    if kind == SINGLE_TYPE or (kind == PLAIN_TYPE and raw.lstrip()[:1] == b"{"):
        raw = b"[" + raw + b"]"
    elif kind not in {BATCH_TYPE, PLAIN_TYPE}:
        raise UnsupportedMedia("unsupported_media_type", f"Send {BATCH_TYPE} or {SINGLE_TYPE}.")
    try:
        events: list[Event | None] = list(_batches.decode(raw))
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return _one_by_one(raw)
    except msgspec.DecodeError as unreadable:
        raise Malformed("malformed_json", "The body is not JSON.") from unreadable
    _few_enough(events)
    return events, []


def _one_by_one(raw: bytes) -> tuple[list[Event | None], list[Rejected]]:
    try:
        parts = _raws.decode(raw)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as unreadable:
        raise Malformed("malformed_json", "The body is not a JSON array of events.") from unreadable
    _few_enough(parts)
    events: list[Event | None] = []
    rejected: list[Rejected] = []
    for index, part in enumerate(parts):
        try:
            events.append(_single.decode(part))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
            events.append(None)
            rejected.append(Rejected(index, _id_of(part), _code_of(str(wrong)), bytes(part)))
    return events, rejected


def _few_enough(events: Sequence[object]) -> None:
    if len(events) > MAX_EVENTS:
        raise TooLarge("too_many_events", f"A batch may hold {MAX_EVENTS} events.", limit=MAX_EVENTS)


def _id_of(part: msgspec.Raw) -> str:
    try:
        found = _loose.decode(part).get("id", "")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return found[:MAX_ID] if isinstance(found, str) else ""


_FIELD = re.compile(r"(?:required field `|at `\$\.)(\w+)")


def _code_of(message: str) -> str:
    """`missing_…`, `bad_…` by the field that msgspec names, or `bad_event`."""
    named = _FIELD.search(message)
    if named is None:
        return "bad_event"
    return f"{'missing' if 'missing required' in message else 'bad'}_{named[1]}"


class Compiled:
    """A meter as the loop over thousands of events wants it: verdicts on filter values are remembered, in bounds."""

    __slots__ = ("_verdicts", "counts", "filters", "meter", "short")

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.short = meter.short
        self.counts = meter.aggregation == "count"
        self.filters: tuple[tuple[str, Filter, dict[object, bool]], ...] = tuple(
            (each.property, each, {}) for each in meter.filters
        )

    def quantity(self, data: Any) -> int:
        """How much an event adds. BadValue when it cannot be told."""
        for name, each, verdicts in self.filters:
            value = data.get(name)
            kind = type(value)
            if kind is not int and kind is not str:
                if not meters.passes(each, value):
                    return 0
                continue
            verdict = verdicts.get(value)
            if verdict is None:
                verdict = meters.passes(each, value)
                if len(verdicts) < _MAX_VERDICTS:
                    verdicts[value] = verdict
            if not verdict:
                return 0
        return 1 if self.counts else meters.value_of(self.meter, data)


_MAX_VERDICTS = 2000
_NO_DATA: Final[Mapping[str, Any]] = {}


class _Type:
    """All meters of one event type, and what an event's data comes to: (meter numbers, quantities)."""

    __slots__ = ("constant", "decided_by", "meters", "rows", "shorts")

    def __init__(self, of_type: Sequence[Meter]) -> None:
        self.shorts = tuple(meter.short for meter in of_type)
        self.meters = tuple(Compiled(meter) for meter in of_type)
        properties = {each.property for meter in of_type for each in meter.filters}
        counting = all(meter.aggregation == "count" for meter in of_type)
        # Where every event counts one, whatever its data.
        self.constant = (self.shorts, (1,) * len(self.shorts)) if counting and not properties else None
        # Where one property decides (a status, as a rule), its values and what they came to.
        self.decided_by = properties.pop() if counting and len(properties) == 1 else ""
        self.rows: dict[object, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def row(self, data: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What an event counts; `_NOTHING` when no filter lets it through. BadValue when it cannot be told."""
        quantities = tuple([meter.quantity(data) for meter in self.meters])
        found = (self.shorts, quantities) if any(quantities) else _NOTHING
        if self.decided_by:
            value = data.get(self.decided_by)
            if type(value) in (int, str) and len(self.rows) < _MAX_VERDICTS:
                self.rows[value] = found
        return found


_NOTHING: Final[tuple[tuple[int, ...], tuple[int, ...]]] = ((), ())


def compile_meters(found: Iterable[Meter]) -> dict[str, _Type]:
    """Meters by event type."""
    by_type: dict[str, list[Meter]] = {}
    for meter in sorted(found, key=lambda each: each.short):
        by_type.setdefault(meter.event_type, []).append(meter)
    return {name: _Type(of_type) for name, of_type in by_type.items()}


class Intake:
    """What one container remembers between requests: compiled meters, while they do not change."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[tuple[Meter, ...], dict[str, _Type]]] = {}

    def types(self, metering: Metering) -> dict[str, _Type]:
        """A publisher's meters by event type."""
        known = self._compiled.get(metering.publisher)
        if known is None or known[0] is not metering.meters:
            if len(self._compiled) >= 256:
                self._compiled.clear()
            known = self._compiled[metering.publisher] = (metering.meters, compile_meters(metering.meters))
        return known[1]


@dataclass(slots=True)
class _Window:
    """Which days a subscription takes events of, as ordinals; and why not others."""

    facts: Metered | None
    first: int = 0
    last_instant: datetime | None = None
    code: str = ""
    groups: dict[int, Group] = field(default_factory=dict)  # by ordinal of the day; a sandbox's under its negative


def take(
    events: Sequence[Event | None],
    unreadable: Sequence[Rejected],
    *,
    publisher: str,
    key: str,
    now: datetime,
    ports: Ports,
    intake: Intake,
    patience: Patience,
    lot: str = "",
) -> Taken:
    """Record what can be recorded, keep what cannot, and say what became of every event.

    `publisher` is the tenant of the credentials; `key` the Idempotency-Key, empty when there is none; `lot` where the
    events stood rejected before, so that what is rejected again gets another place.
    """
    taken, groups = _judge(events, unreadable, publisher, now, ports, intake, fresh=False)
    if any(each.code == "unknown_type" for each in taken.rejected):
        # A meter made a moment ago must not lose events to what is remembered.
        taken, groups = _judge(events, unreadable, publisher, now, ports, intake, fresh=True)
    named = usage.named_batch_id(publisher, key) if key else ""
    for group in groups:
        group.seal_content(named)
    if groups:
        ports.ledger.expect({(group.subscription, group.day) for group in groups if not group.sandbox})
        for group, outcome in zip(groups, ports.ledger.record(groups, now, patience), strict=True):
            _tell(group, outcome, events, taken)
    if taken.rejected:
        _keep(publisher, taken, lot, now, ports)
    return taken


def _judge(
    events: Sequence[Event | None],
    unreadable: Sequence[Rejected],
    publisher: str,
    now: datetime,
    ports: Ports,
    intake: Intake,
    *,
    fresh: bool,
) -> tuple[Taken, list[Group]]:
    """What is refused, and the rest in groups; nothing is recorded yet."""
    metering = ports.facts.metering(publisher, now, fresh=fresh)
    at = now + metering.clock_offset
    known = ports.facts.subscriptions({event.subject for event in events if event is not None}, now)
    windows = {subject: _window(found, metering, at) for subject, found in known.items()}
    taken = Taken(rejected=list(unreadable))
    return taken, _group(events, intake.types(metering), windows, at, taken)


def _group(  # noqa: C901 # one loop: a call for each event and question would halve the throughput
    events: Sequence[Event | None],
    types: Mapping[str, "_Type"],
    windows: Mapping[str, "_Window"],
    at: datetime,
    taken: Taken,
) -> list[Group]:
    limit = at + FUTURE_TOLERANCE
    today = at.date().toordinal()
    groups: list[Group] = []
    prefixes: dict[str, Hasher] = {}
    rejected = taken.rejected
    duplicates = uncounted = 0
    for index, event in enumerate(events):
        if event is None:
            continue
        time = event.time
        if time.tzinfo is not UTC:
            try:
                time = time.astimezone(UTC)
            except OverflowError:
                rejected.append(Rejected(index, event.id, "bad_time", _encode(event)))
                continue
        ordinal = time.toordinal()
        window = windows[event.subject]
        code = window.code
        if not code:
            if ordinal < window.first:
                code = _too_old(window, ordinal)
            elif ordinal >= today and time > limit:
                code = "future_time"
            elif window.last_instant is not None and time >= window.last_instant:
                code = "subscription_ended"
        of_type = types.get(event.type)
        if code or of_type is None:
            rejected.append(Rejected(index, event.id, code or "unknown_type", _encode(event)))
            continue
        data = event.data
        if type(data) is not dict:
            data = _NO_DATA
        row = of_type.constant
        if row is None and of_type.decided_by:
            value = data.get(of_type.decided_by)
            kind = type(value)
            if kind is str or kind is int:
                row = of_type.rows.get(value)
        if row is None:
            try:
                row = of_type.row(data)
            except meters.BadValue:
                rejected.append(Rejected(index, event.id, "bad_value", _encode(event)))
                continue
        if row is _NOTHING:
            uncounted += 1
            continue
        place = ordinal if event.environment == PRODUCTION else -ordinal
        group = window.groups.get(place)
        if group is None:
            group = window.groups[place] = _new_group(event.subject, ordinal, event.environment, window)
            groups.append(group)
        source = event.source
        prefix = prefixes.get(source)
        if prefix is None:
            prefix = prefixes[source] = usage.hasher(source)
        hashed = prefix.copy()
        hashed.update(event.id.encode())
        rows, indexes = group.rows, group.indexes
        before = rows.setdefault(hashed.digest(), row)
        if len(rows) > len(indexes):
            indexes.append(index)
        elif before == row:
            duplicates += 1
        else:
            taken.conflicts.append(Rejected(index, event.id, "same_id_other_content"))
    taken.duplicates += duplicates
    taken.accepted += uncounted
    return groups


def _new_group(subject: str, ordinal: int, environment: str, window: "_Window") -> Group:
    day = date.fromordinal(ordinal)
    sandbox = environment == SANDBOX
    shards = 1 if sandbox or window.facts is None else window.facts.shards_in(f"{day:%Y-%m}")
    return Group(subject, sandbox, day, shards=shards)


def _window(found: Metered | None, metering: Metering, at: datetime) -> _Window:
    if found is None or found.publisher != metering.publisher:
        return _Window(None, code="unknown_subject")
    if found.first_day is None:
        return _Window(found, code="subscription_not_active")
    if found.closed(at, metering.grace_hours):
        return _Window(found, code="subscription_ended")
    oldest = (at - timedelta(days=metering.late_window_days)).date()
    return _Window(found, max(found.first_day, oldest).toordinal(), found.ended_at)


def _too_old(window: _Window, ordinal: int) -> str:
    first = window.facts.first_day if window.facts is not None else None
    return "before_subscription" if first is not None and ordinal < first.toordinal() else "beyond_late_window"


def _tell(group: Group, outcome: Outcome, events: Sequence[Event | None], taken: Taken) -> None:
    count = len(group.indexes)
    if outcome is Outcome.NEW:
        taken.accepted += count
    elif outcome is Outcome.DUPLICATE:
        taken.duplicates += count
    elif outcome is Outcome.LATE:
        taken.late += count
    elif outcome is Outcome.RETRY:
        taken.retry.extend(group.indexes)
    else:
        for index in group.indexes:
            event = events[index]
            if event is not None:
                taken.rejected.append(Rejected(index, event.id, "idempotency_key_reused", _encode(event)))


def _keep(publisher: str, taken: Taken, lot: str, now: datetime, ports: Ports) -> None:
    taken.rejected.sort(key=lambda each: each.index)
    digest = sha256(lot.encode())
    for each in taken.rejected:
        digest.update(each.event)
        digest.update(each.code.encode())
    if not ports.ledger.reject(publisher, digest.hexdigest()[:22], taken.rejected, now):
        taken.retry.extend(each.index for each in taken.rejected)
        taken.rejected = []


def _named(each: Rejected) -> dict[str, object]:
    return {"index": each.index, "id": each.id, "code": each.code}
