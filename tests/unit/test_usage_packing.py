"""Packed ids and exact totals: whatever the batches, every distinct event counts once."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monetize.domain import usage
from monetize.domain.usage import Batch, Entry, batch_id, counter_key, counter_name, distinct, event_id, pack

DAYS = [date(2026, 11, day) for day in (1, 2, 3)]
quantities = st.integers(min_value=0, max_value=10**15 - 1)
rows = st.dictionaries(
    st.integers(min_value=0, max_value=60).map(lambda number: event_id("s", str(number))),
    st.tuples(quantities, quantities),
    min_size=1,
)


def _packed(found: dict[bytes, tuple[int, int]]) -> Batch:
    shorts = (1, 2)
    return pack({event: (shorts, values) for event, values in found.items()})


@given(rows)
def test_what_is_packed_is_read_back(found: dict[bytes, tuple[int, int]]) -> None:
    content = _packed(found)
    read = {event: (counted.get(1, 0), counted.get(2, 0)) for event, counted in content.rows()}
    assert read == found
    assert content.totals() == {
        short: total for short in (1, 2) if (total := sum(values[short - 1] for values in found.values()))
    }


@given(rows, st.randoms())
def test_a_batch_is_named_by_its_content_in_any_order(found: dict[bytes, tuple[int, int]], random: object) -> None:
    shuffled = list(found.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert batch_id(_packed(dict(shuffled))) == batch_id(_packed(found))
    changed = {event: (values[0], (values[1] + 1) % 10**15) for event, values in found.items()}
    assert batch_id(_packed(changed)) != batch_id(_packed(found))


@given(st.lists(st.tuples(st.sampled_from(DAYS), st.sets(st.integers(0, 40), min_size=1)), max_size=12))
def test_totals_never_depend_on_how_events_were_batched(deliveries: list[tuple[date, set[int]]]) -> None:
    entries = [
        Entry(day, f"{number:022d}", _packed({event_id("s", str(event)): (1, event + 1) for event in events}))
        for number, (day, events) in enumerate(deliveries)
    ]
    first: dict[int, date] = {}
    for day, events in sorted(deliveries, key=lambda each: each[0]):
        for event in events:
            first.setdefault(event, day)
    expected: dict[tuple[date, int], int] = {}
    for event, day in first.items():
        for short, quantity in ((1, 1), (2, event + 1)):
            expected[day, short] = expected.get((day, short), 0) + quantity
    for order in (entries, entries[::-1]):
        found = distinct(lambda order=order: order)  # type: ignore[misc]
        assert {key: total for key, total in found.totals().items() if total} == expected
        assert found.duplicates == sum(len(events) for _, events in deliveries) - len(first)


def test_a_quantity_that_contradicts_the_first_is_a_conflict() -> None:
    event = event_id("s", "1")
    entries = [
        Entry(DAYS[0], name, _packed({event: (1, quantity)})) for name, quantity in (("b", 5), ("a", 4), ("c", 4))
    ]
    found = distinct(lambda: entries)
    assert found.totals() == {(DAYS[0], 1): 1, (DAYS[0], 2): 4}
    assert [(each.counted[1], each.ignored[1]) for each in found.conflicts] == [("a", "b")]


def test_more_events_than_one_pass_holds_are_counted_in_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_PASS_IDS", 50)
    monkeypatch.setattr(usage, "_BUCKET_IDS", 7)
    events = [{event_id("s", str(number)): (1, 0) for number in range(low, low + 100)} for low in (0, 60, 120)]
    entries = [Entry(DAYS[0], str(number), _packed(each)) for number, each in enumerate(events)]
    found = distinct(lambda: entries)
    assert (found.totals(), found.duplicates) == ({(DAYS[0], 1): 220}, 80)


def test_the_ends_of_the_id_space_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_PASS_IDS", 1)
    ends = {b"\x00" * 12: (1, 0), b"\xff" * 12: (1, 0)}
    entries = [Entry(DAYS[0], name, _packed(ends)) for name in "ab"]
    assert distinct(lambda: entries).totals() == {(DAYS[0], 1): 2}


def test_what_arrives_between_two_readings_waits_for_the_next_run() -> None:
    entries = [Entry(DAYS[0], name, _packed({event_id("s", "1"): (1, 0)})) for name in ("b", "c")]
    readings = 0

    def read() -> list[Entry]:
        nonlocal readings
        readings += 1
        return entries if readings == 1 else [Entry(DAYS[0], "a", entries[0].content), *entries]

    found = distinct(read)
    assert (found.totals(), found.duplicates) == ({(DAYS[0], 1): 1}, 1)


def test_two_pairs_that_read_alike_are_two_events() -> None:
    assert event_id("ab", "c") != event_id("a", "bc")


def test_counter_names_are_read_back_and_other_attributes_are_not() -> None:
    for day in range(1, 32):
        assert counter_key(counter_name(day, 12)) == (day, 12)
    assert [counter_key(name) for name in ("pk", "sk", "sealed_through", "expires_at", "01", "")] == [None] * 6


def test_months_run_over_the_end_of_a_year() -> None:
    assert list(usage.months_of(date(2026, 11, 30), date(2027, 2, 1))) == ["2026-11", "2026-12", "2027-01", "2027-02"]
    assert [usage.last_day(month).day for month in ("2026-11", "2026-12", "2028-02")] == [30, 31, 29]
