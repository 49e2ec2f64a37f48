"""Try refused events again: what is taken now leaves the list, what is refused again stands in a new lot."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from monetize.domain.errors import NotFound
from monetize.services.metering import BATCH_TYPE, Intake, Patience, Ports, Taken, read_events, take


class Store(Protocol):
    """Lots of rejected events."""

    def rejected_lot(self, publisher: str, lot: str) -> list[dict[str, Any]] | None: ...

    def forget_rejected(self, publisher: str, lot: str) -> None: ...


def resubmit(
    lots: Sequence[str],
    *,
    publisher: str,
    now: datetime,
    ports: Ports,
    store: Store,
    intake: Intake,
    patience: Patience,
) -> Taken:
    """All events of these lots, as if they came now. NotFound when a lot is not there (any more); nothing is lost by
    a crash: a lot is forgotten only after its events have their answer, and events taken twice count once.
    """
    found = [(lot, store.rejected_lot(publisher, lot)) for lot in dict.fromkeys(lots)]
    if any(events is None for _, events in found):
        raise NotFound("no_such_lot", "There is no such lot of rejected events.")
    total = Taken()
    for lot, kept in found:
        raw = b"[" + b",".join(each["event"] for each in kept or () if each["event"]) + b"]"
        events, unreadable = read_events(raw, BATCH_TYPE)
        taken = take(
            events,
            unreadable,
            publisher=publisher,
            key="",
            now=now,
            ports=ports,
            intake=intake,
            patience=patience,
            lot=lot,
        )
        total.add(taken)
        if not taken.retry:
            store.forget_rejected(publisher, lot)
    return total
