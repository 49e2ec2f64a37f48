"""What a whole life must be billed: its dates and its sums, worked out from nothing but its spans, prices and usage."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

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
class Closed:
    """A stretch that was billed: what it was `first`, what it comes to `now`, what was asked on which bill since."""

    start: datetime
    end: datetime
    tariff: Tariff
    edge: datetime
    first: int
    now: int
    since: list[tuple[datetime, int]] = field(default_factory=list)

    def corrected(self, edge: datetime, newly: int, let_off: Collection[datetime]) -> int:
        """What the bill at `edge` asks for, or gives back, once it comes to something else.

        Nothing of what nobody owed is given back; and what was let off is asked for no second time.
        """
        if newly == self.now:
            return 0
        owed = 0 if self.edge in let_off else self.first
        asked = owed + sum(amount for at, amount in self.since if amount < 0 or at not in let_off)
        if newly <= self.first:
            should = owed * newly // self.first if self.first else 0
        elif self.now <= self.first or newly >= self.now:
            should = (owed if self.now <= self.first else asked) + newly - max(self.first, self.now)
        else:
            step = prices.STEPS.get(self.tariff.currency, 1)
            part = Fraction(newly - self.first, self.now - self.first)
            should = owed + prices.half_up((asked - owed) * part, step)
        change = newly - self.now
        made = max(min(0, change), min(max(0, change), should - asked))
        self.now = newly
        self.since.append((edge, made))
        return made


@dataclass(slots=True)
class Books:
    """What was billed so far, bill after bill."""

    life: Life
    carry: int = 0  # credit left, zero or negative
    closed: list[Closed] = field(default_factory=list)
    ahead: list[tuple[datetime, datetime, Tariff, int]] = field(default_factory=list)  # fees, each for its stretch
    netted: dict[datetime, int] = field(default_factory=dict)  # what credits took off the bill of a date
    previous: datetime | None = None

    def bill(
        self,
        edge: datetime,
        used: Used,
        used_now: Used,
        until: datetime | None = None,
        let_off: Collection[datetime] = (),
    ) -> tuple[int, int, int]:
        """What the bill at `edge` asks for, and the credit it leaves (zero or negative): for the next, or to give back.

        `used` answers what was used in the closed stretches; `used_now` also what came late and this bill took.
        `until`: where the period that starts was over already. `let_off`: the dates of bills that nobody owes.
        """
        found = [self.carry, -sum(self.netted.pop(each, 0) for each in let_off)]
        for each in self.closed:
            extra = self.life.granted(each.tariff, each.start, each.end)
            newly = prices.behind(each.tariff, each.start, each.end, used_now(each.tariff, each.start, each.end), extra)
            found.append(each.corrected(edge, newly, let_off))
        for first, end, tariff in self.life.stretches(self.previous or self.life.spans[0].start, edge):
            now = prices.behind(tariff, first, end, used(tariff, first, end), self.life.granted(tariff, first, end))
            found += [now, -self._given_back(end, let_off)]
            self.closed.append(Closed(first, end, tariff, edge, now, now))
        begins = self.life.at(edge)
        if begins is not None and begins.ahead:
            until = until or prices.month_of(edge)[1]
            charged = prices.fee(begins, edge, until)
            self.ahead.append((edge, until, begins, charged))
            found.append(charged)
        asked, given = sum(each for each in found if each > 0), -sum(each for each in found if each < 0)
        left = min(0, asked - given)
        # After the last bill none comes that could take it; a pause is no end.
        returned = left if self.life.end is not None and self.life.end <= edge else 0
        self.carry = left - returned
        if min(asked, given):
            self.netted[edge] = min(asked, given)
        self.previous = edge
        return max(0, asked - given), self.carry, returned

    def copy(self) -> "Books":
        """The same, to go on with in another way."""
        closed = [replace(each, since=[*each.since]) for each in self.closed]
        return replace(self, closed=closed, ahead=[*self.ahead], netted={**self.netted})

    def _given_back(self, end: datetime, let_off: Collection[datetime]) -> int:
        """What was paid ahead for time after a stretch that ended before its month did."""
        back = 0
        for each in [each for each in self.ahead if each[0] < end < each[1]]:
            start, _, tariff, charged = each
            back += 0 if start in let_off else charged - prices.fee(tariff, start, end)
            self.ahead.remove(each)
        return back
