"""An opening bill is looked at when its order ends, whatever the schedule of retries says."""

from datetime import UTC, datetime, timedelta

from monetize.domain.dunning import Terms, next_attempt

AT = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_the_end_of_an_order_is_looked_at_also_after_a_final_refusal() -> None:
    terms = Terms(retry_days=(1, 5), grace_days=3, until=AT + 3 * DAY)
    assert next_attempt(AT, terms, AT) == AT + DAY
    assert next_attempt(AT, terms, AT + DAY) == AT + 3 * DAY
    assert next_attempt(AT, terms, AT, final=True) == AT + 3 * DAY


def test_a_failure_after_the_end_of_an_order_is_looked_at_once_more_at_once() -> None:
    terms = Terms(retry_days=(1,), grace_days=3, until=AT)
    assert next_attempt(AT, terms, AT + 2 * DAY) == AT + 2 * DAY


def test_without_an_order_to_end_the_schedule_alone_decides() -> None:
    terms = Terms(retry_days=(1, 5), grace_days=3)
    assert next_attempt(AT, terms, AT + 5 * DAY) is None
    assert next_attempt(AT, terms, AT, final=True) is None
