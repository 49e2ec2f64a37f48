"""Events out: derived from what was stored, with ids that repeat and an order for each entity."""

from dataclasses import replace
from typing import Any

import pytest

from monetize.adapters.outbox import Bus
from monetize.domain.outbox import Change, Event, events_of, new_steps
from monetize.services.publishing import Published, publish

INVOICE = {
    "id": "inv_1", "publisher": "acme", "subscriber": "dev", "subscription": "sub_1", "currency": "usd",
    "amount": 4900, "status": "open", "history": [],
}  # fmt: skip
SUBSCRIPTION = {
    "id": "sub_1", "publisher": "acme", "subscriber": "dev", "application": "app", "product": "api", "tier": "gold",
    "status": "active", "payment_state": "current", "invoice_email": "dev@example.com",
}  # fmt: skip


def change(sk: str, before: Any, after: Any, revision: int = 2) -> Change:
    return Change(pk="X", sk=sk, before=before, after=after, revision=revision, at="2026-03-01T12:00:00Z")


def types(*args: Any) -> list[str]:
    return [event.type for event in events_of(change(*args))]


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ({"payment_state": "past_due"}, ["subscription.past_due"]),
        ({"payment_state": "suspended"}, ["subscription.suspended"]),
        ({"status": "paused"}, ["subscription.paused"]),
        ({"status": "ended"}, ["subscription.ended"]),
        ({"tier": "silver"}, ["subscription.changed"]),
        ({"cancel_at": "2026-04-01T00:00:00Z"}, ["subscription.cancellation_scheduled"]),
        ({"block": "all"}, ["subscription.blocked"]),
        ({"rev": 9, "due_at": "2026-04-01T00:00:00Z"}, []),
    ],
)
def test_a_subscriptions_change_is_told_by_what_changed(after: dict[str, Any], told: list[str]) -> None:
    assert types("SUBSCRIPTION", SUBSCRIPTION, SUBSCRIPTION | after) == told


def test_new_lines_of_an_invoices_history_are_told_once_each() -> None:
    failed = {"at": "2026-03-01T12:00:00Z", "what": "payment_failed", "detail": "lost_card"}
    again = {"at": "2026-03-02T12:00:00Z", "what": "payment_failed", "detail": "lost_card"}
    before = INVOICE | {"history": [failed], "status": "payment_failed"}
    after = before | {"history": [failed, again]}
    assert types("INVOICE", INVOICE, before) == ["payment.failed"]
    assert types("INVOICE", before, after) == ["payment.failed"]
    assert types("INVOICE", after, after) == []
    assert types("INVOICE", None, INVOICE, 1) == ["invoice.sent"]


def test_a_crossed_threshold_is_told_once_under_a_name_of_its_own() -> None:
    name = "2026-04-01T00#met_1#quota#period#85"
    crossed = {
        "name": name, "publisher": "acme", "subscription": "sub_1", "meter": "met_1",
        "kind": "quota", "per": "period", "percent": 85, "limit": 100, "used": 86, "resets_at": "2026-04-01T00:00:00Z",
    }  # fmt: skip
    (event,) = events_of(change(f"THRESHOLD#{name}", None, crossed, 1))
    assert (event.type, event.kind, event.entity) == (
        "usage.threshold_crossed",
        "threshold",
        "sub_1#2026-04-01T00#met_1#quota#period#85",  # not the subscription: its own events have another order
    )
    assert event.data["used"] == 86
    assert types(f"THRESHOLD#{name}", crossed, crossed) == []


def test_a_full_history_that_lost_its_oldest_line_tells_the_new_one_only() -> None:
    steps = [{"at": str(number), "what": "refunded"} for number in range(50)]
    new = {"at": "50", "what": "refunded"}
    assert new_steps(steps, [*steps[1:], new]) == [new]


def test_an_event_seen_again_has_the_same_id_and_a_later_change_another() -> None:
    paid = INVOICE | {"status": "paid", "history": [{"at": "2026-03-01T12:00:00Z", "what": "paid"}]}
    first, again = events_of(change("INVOICE", INVOICE, paid)), events_of(change("INVOICE", INVOICE, paid))
    later = events_of(change("INVOICE", INVOICE, paid, 3))
    assert [each.id for each in first] == [each.id for each in again]
    assert not {each.id for each in first} & {each.id for each in later}
    assert [each.sequence for each in (*first, *later)] == sorted(each.sequence for each in (*first, *later))


def test_no_event_holds_personal_data_or_a_card() -> None:
    customer = {"id": "cus_1", "account": "acct_1", "payment_method": "pm_1", "last4": "4242", "expires": "2030-01"}
    contact = {"name": "Dana", "email": "dev@example.com"}
    before = {"id": "dev", "publisher": "acme", "contact": contact, "customers": [customer]}
    after = before | {"customers": [customer | {"payment_method": "pm_2", "last4": "4444"}]}
    told = [
        *events_of(change("SUBSCRIBER", before, after)),
        *events_of(change("SUBSCRIPTION", None, SUBSCRIPTION, 1)),
    ]
    assert len(told) == 3
    text = str([each.detail() for each in told])
    for secret in ("dev@example.com", "Dana", "4444", "pm_2", "cus_1"):
        assert secret not in text


class Refusing:
    """A bus that takes so many events and then no more; of those it takes, some are never acceptable."""

    def __init__(self, takes: int, never: dict[int, str] | None = None) -> None:
        self.takes = takes
        self.never = never or {}

    def put(self, events: Any) -> tuple[int, dict[int, str]]:
        taken = min(self.takes, len(events))
        return taken, {at: why for at, why in self.never.items() if at < taken}


def records(*changes: tuple[str, Change]) -> list[tuple[str, Any]]:
    return [(at, lambda each=each: each) for at, each in changes]


PAUSED = SUBSCRIPTION | {"status": "paused"}
CHANGES = (
    ("100", change("SUBSCRIPTION", None, SUBSCRIPTION, 1)),  # two events
    ("101", change("KEY", None, {})),
    ("102", change("SUBSCRIPTION", SUBSCRIPTION, PAUSED)),
)


def test_a_refused_event_is_where_the_stream_begins_again() -> None:
    assert publish(records(*CHANGES), Refusing(1)) == Published(1, "100")
    assert publish(records(*CHANGES), Refusing(2)) == Published(2, "102")
    assert publish(records(*CHANGES), Refusing(9)) == Published(3)


def test_what_can_never_be_told_is_set_apart_and_its_neighbours_go_on() -> None:
    odd = ("101", change("SUBSCRIPTION", SUBSCRIPTION, SUBSCRIPTION | {"status": "of a newer version"}))

    def torn() -> Change:
        raise ValueError("no document")

    given = [*records(CHANGES[0], odd), ("102", torn), *records(("103", CHANGES[2][1]))]
    assert publish(given, Refusing(9)) == Published(3, None, (("101", "KeyError"), ("102", "ValueError")))
    assert publish(given, Refusing(9, {2: "TooLarge"})) == Published(
        2, None, (("101", "KeyError"), ("102", "ValueError"), ("103", "TooLarge"))
    )
    # What lies behind the position to begin again from is met again, and set apart then.
    assert publish(given, Refusing(1)) == Published(1, "100")
    assert publish(given, Refusing(2)) == Published(2, "103", (("101", "KeyError"), ("102", "ValueError")))


class Client:
    """EventBridge: refuses what it is told to, by the event's type."""

    def __init__(self, **refuses: str) -> None:
        self.refuses = refuses
        self.requests: list[list[str]] = []

    def put_events(self, *, Entries: Any) -> Any:  # noqa: N803 # boto3's name
        self.requests.append([entry["DetailType"] for entry in Entries])
        size = sum(len(entry[name]) for entry in Entries for name in ("Source", "DetailType", "Detail"))
        assert len(Entries) <= 10
        assert size <= 256 * 1024
        answers = [
            {"ErrorCode": self.refuses[entry["DetailType"]]}
            if entry["DetailType"] in self.refuses
            else {"EventId": "1"}
            for entry in Entries
        ]
        return {"FailedEntryCount": sum("ErrorCode" in each for each in answers), "Entries": answers}


def told(kind: str, size: int = 10) -> Event:
    return Event(
        id="evt_1", type=kind, at="", publisher="acme", kind="run", entity="run_1", sequence=1, data={"x": "x" * size}
    )


def test_a_malformed_or_oversize_entry_does_not_hold_up_those_behind_it() -> None:
    client = Client(odd="MalformedDetail")
    events = [told("a"), told("odd"), told("b", 300_000), told("c")]
    assert Bus(client, "bus").put(events) == (4, {1: "MalformedDetail", 2: "TooLarge"})
    assert client.requests == [["a", "odd", "c"]]
    busy = Client(c="ThrottlingException", odd="MalformedDetail")
    assert Bus(busy, "bus").put(events) == (3, {1: "MalformedDetail", 2: "TooLarge"})
    assert Bus(Client(a="InternalFailure"), "bus").put([told("a"), told("b", 300_000)]) == (0, {})


def test_a_request_holds_what_eventbridge_takes_at_once() -> None:
    client = Client()
    assert Bus(client, "bus").put([told("a", 100_000) for _ in range(5)]) == (5, {})
    assert [len(each) for each in client.requests] == [2, 2, 1]
    assert Bus(client, "bus").put([told("a") for _ in range(23)]) == (23, {})
    assert [len(each) for each in client.requests[3:]] == [10, 10, 3]


def test_after_a_restore_the_same_revision_is_another_event_and_a_later_one() -> None:
    """The restored table has a stream of its own; its revisions begin again where they were then."""
    late = change("SUBSCRIPTION", SUBSCRIPTION, SUBSCRIPTION | {"payment_state": "past_due"})
    labels = ("2026-01-01T08:00:00.123", "2026-04-09T10:30:00.000", "")
    first, restored, none = (
        events_of(replace(late, revision=revision, stream=label))[0]
        for label, revision in zip(labels, (600, 6, 6), strict=True)
    )
    assert len({first.id, restored.id, none.id}) == 3
    assert first.sequence < restored.sequence < 2**53
    assert none.sequence == 600


def test_two_events_of_one_change_have_an_order() -> None:
    made = events_of(change("SUBSCRIPTION", None, SUBSCRIPTION, 1))
    assert [each.type for each in made] == ["subscription.created", "subscription.activated"]
    assert made[0].sequence < made[1].sequence < events_of(change("SUBSCRIPTION", None, SUBSCRIPTION, 2))[0].sequence


def test_what_is_deleted_or_a_mere_pointer_tells_nothing() -> None:
    assert events_of(change("INVOICE", INVOICE, None)) == ()
    assert events_of(change("PLAN#plan_1", None, None)) == ()
    assert isinstance(Event, type)
