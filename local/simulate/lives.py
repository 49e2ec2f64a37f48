"""What a whole life must be billed: its dates and its sums, worked out from nothing but its spans, prices and usage."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from local.simulate import prices
from local.simulate.prices import Tariff

GRACE = timedelta(hours=24)
WRITTEN = timedelta(minutes=5)

type Used = Callable[[Tariff, datetime, datetime], Mapping[date, int]]


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` to the next one; `tariff` None while nothing is paid."""

    start: datetime
    tariff: Tariff | None


@dataclass(frozen=True, slots=True)
class Life:
    """A subscription in calendar months. `end`: when it ended or will. `extra`: top-ups (meter, units, given when)."""

    spans: tuple[Span, ...]
    end: datetime | None
    extra: tuple[tuple[str, int, datetime], ...] = ()

    def stretches(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, Tariff]]:
        """The paid parts of `[start, end)`, each at one price."""
        if self.end is not None:
            end = min(end, self.end)
        for at, span in enumerate(self.spans):
            after = self.spans[at + 1].start if at + 1 < len(self.spans) else end
            first, last = max(start, span.start), min(end, after)
            if span.tariff is not None and first < last:
                yield first, last, span.tariff

    def at(self, instant: datetime) -> Tariff | None:
        """What is paid from an instant on; None for nothing."""
        if self.end is not None and self.end <= instant:
            return None
        begun = [span for span in self.spans if span.start <= instant]
        return begun[-1].tariff if begun else None

    def edges(self, before: datetime) -> list[datetime]:
        """The billing dates earlier than an instant."""
        found: set[datetime] = set()
        paid = False
        for at, span in enumerate(self.spans):
            after = self.spans[at + 1].start if at + 1 < len(self.spans) else before
            if self.end is not None:
                after = min(after, self.end)
                if span.start >= self.end:
                    break
            if span.tariff is None:
                found |= {span.start} if paid else set()
                paid = False
                continue
            if paid or span.tariff.ahead:
                found.add(span.start)
            month = prices.month_of(span.start)[1]
            while month < after:
                found.add(month)
                month = prices.month_of(month)[1]
            paid = True
        if self.end is not None and any(span.tariff is not None and span.start < self.end for span in self.spans):
            found.add(self.end)
        return sorted(each for each in found if each < before)

    def due(self, previous: datetime | None, edge: datetime) -> datetime:
        """When the bill at `edge` may be made: a day later where usage is in it, at once where none is.

        The last one waits until no usage is accepted any more and what was accepted is written.
        """
        if self.end is not None and edge >= self.end:
            day_over = datetime(edge.year, edge.month, edge.day, tzinfo=UTC) + timedelta(days=1)
            if edge == day_over - timedelta(days=1):
                day_over = edge
            return max(self.end + GRACE, day_over) + WRITTEN
        closes = any(self.stretches(previous or self.spans[0].start, edge))
        return edge + GRACE if closes else edge

    def granted(self, tariff: Tariff, start: datetime, end: datetime) -> int:
        """Extra allowance that was given in a stretch."""
        return sum(units for meter, units, at in self.extra if meter == tariff.meter and start <= at < end)


@dataclass(slots=True)
class Books:
    """What was billed so far, bill after bill."""

    life: Life
    carry: int = 0  # credit left, zero or negative
    closed: list[tuple[datetime, datetime, Tariff, int]] = field(default_factory=list)  # each with what was billed
    ahead: list[tuple[datetime, datetime, Tariff, int]] = field(default_factory=list)  # fees, each for its stretch
    previous: datetime | None = None

    def bill(self, edge: datetime, used: Used, used_now: Used, until: datetime | None = None) -> tuple[int, int]:
        """What the bill at `edge` asks for, and the credit it leaves (zero or negative).

        `used` answers what was used in the closed stretches; `used_now` also what came late and this bill took.
        `until`: where the period that starts was over already.
        """
        owed = 0
        for at, (first, end, tariff, so_far) in enumerate(self.closed):
            extra = self.life.granted(tariff, first, end)
            now = prices.behind(tariff, first, end, used_now(tariff, first, end), extra)
            owed += now - so_far
            self.closed[at] = (first, end, tariff, now)
        for first, end, tariff in self.life.stretches(self.previous or self.life.spans[0].start, edge):
            now = prices.behind(tariff, first, end, used(tariff, first, end), self.life.granted(tariff, first, end))
            owed += now - self._given_back(end)
            self.closed.append((first, end, tariff, now))
        begins = self.life.at(edge)
        if begins is not None and begins.ahead:
            until = until or prices.month_of(edge)[1]
            charged = prices.fee(begins, edge, until)
            self.ahead.append((edge, until, begins, charged))
            owed += charged
        total = self.carry + owed
        self.carry = min(0, total)
        self.previous = edge
        return max(0, total), self.carry

    def _given_back(self, end: datetime) -> int:
        """What was paid ahead for time after a stretch that ended before its month did."""
        back = 0
        for each in [each for each in self.ahead if each[0] < end < each[1]]:
            start, _, tariff, charged = each
            back += charged - prices.fee(tariff, start, end)
            self.ahead.remove(each)
        return back
