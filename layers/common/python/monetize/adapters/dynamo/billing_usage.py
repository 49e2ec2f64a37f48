"""The usage ledger, as a bill asks it: days sealed, totals exact, late entries taken once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from monetize.adapters.dynamo.usage import UsageTable
from monetize.domain.meters import Meter
from monetize.domain.rating import UsageByDay
from monetize.domain.subscriptions import Subscription


@dataclass(frozen=True, slots=True)
class BillingUsage:
    """`meters` answers a publisher's meters: the ledger knows their numbers, a bill their ids."""

    usage: UsageTable
    meters: Callable[[str], Sequence[Meter]]

    def seal(self, subscription: Subscription, first: date, through: date) -> None:
        """Nothing is counted on those days any more."""
        self.usage.seal(subscription.id, first, through, shards_of(subscription))

    def exact(self, subscription: Subscription, first: date, last: date, late: frozenset[str]) -> UsageByDay:
        """Units by meter and day, with those late entries."""
        counted = dict(self.usage.counters(subscription.id, first, last, shards_of(subscription)).totals)
        if late:
            for entry in self.usage.late_entries(subscription.id, first, last):
                if entry.ref in late:
                    for short, quantity in entry.quantities.items():
                        counted[entry.day, short] = counted.get((entry.day, short), 0) + quantity
        return self._by_meter(subscription, counted)

    def late(self, subscription: Subscription, first: date, last: date) -> Sequence[tuple[str, date, str]]:
        """Late entries and corrections of those days: name, day, and the bill that took them."""
        found = self.usage.late_entries(subscription.id, first, last)
        return tuple((entry.ref, entry.day, entry.taken_by) for entry in found)

    def take_late(self, subscription: Subscription, refs: Sequence[str], bill: str) -> frozenset[str]:
        """Take them for a bill; answers those that another bill already had."""
        return frozenset(self.usage.take_late(subscription.id, refs, bill))

    def _by_meter(self, subscription: Subscription, counted: Mapping[tuple[date, int], int]) -> UsageByDay:
        names = {meter.short: meter.id for meter in self.meters(subscription.publisher)}
        found: dict[str, dict[date, int]] = {}
        for (day, short), quantity in counted.items():
            if quantity:
                found.setdefault(names[short], {})[day] = quantity
        return found


def shards_of(subscription: Subscription) -> Callable[[str], int]:
    """How many shards a month of its usage has."""
    counts = dict(subscription.shards)
    return lambda month: counts.get(month, 1)
