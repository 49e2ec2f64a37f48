"""Of several invoices that are owed, the first grace that ends is what access depends on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from monetize.domain.dunning import SUSPEND, Terms, subscription_after
from monetize.domain.invoices import Invoice
from monetize.domain.subscriptions import Step, Subscription

AT = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TERMS = Terms(retry_days=(), grace_days=3)


def owed(name: str, since: datetime) -> Invoice:
    return Invoice(
        id=name, stripe_id=f"in_{name}", account="acct", publisher="acme", subscriber="dev", subscription="sub",
        edge=since, currency="usd", amount=100, status="payment_failed", failed_at=since, issued_at=since,
        pending=(Step(at=since + 3 * DAY, what=SUSPEND),),
    )  # fmt: skip


def test_when_one_of_three_is_settled_the_first_end_of_the_others_counts() -> None:
    first, second, third = (owed(name, AT + number * DAY) for number, name in enumerate(("a", "b", "c")))
    subscription = Subscription(
        id="sub", publisher="acme", subscriber="dev", application="app", product="api", apis=(), tier="gold",
        status="active", created_at=AT,
    )  # fmt: skip
    for invoice in (third, first, second):
        subscription = subscription_after(subscription, invoice, TERMS, AT + 2 * DAY)
    assert subscription.suspend_at == AT + 3 * DAY
    settled = replace(first, status="paid", failed_at=None, pending=())
    after = subscription_after(subscription, settled, TERMS, AT + 2 * DAY, [third, second])
    assert (after.suspend_at, after.past_due_since) == (AT + 4 * DAY, AT + DAY)
