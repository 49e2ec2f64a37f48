"""What becomes of an invoice after it was sent: payment, retries, grace, suspension. Pure.

Whoever learns something new reads the whole invoice at the provider and brings our record up to it. So it does not
matter which event told, how often, or in what order: the last reading wins, and it is always a later one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from monetize.domain import states
from monetize.domain.invoices import Bill, Invoice
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import MOST_HISTORY, Step, Subscriber, Subscription, noted

NOTICE: Final = timedelta(days=1)  # people are told this long before a step
OBSERVED: Final = timedelta(hours=1)  # after an attempt of the provider's own
KEY_LIFE: Final = timedelta(hours=20)  # the provider keeps keys 24 hours at least

# The bank will not say yes to this card, whenever it is asked (Stripe: Smart Retries, "non-retryable decline codes").
HARD_DECLINES: Final = frozenset(
    {
        "authentication_required",
        "highest_risk_level",
        "incorrect_number",
        "invalid_account",
        "lost_card",
        "pickup_card",
        "revocation_of_all_authorizations",
        "revocation_of_authorization",
        "stolen_card",
        "transaction_not_allowed",
    }
)
ACTION: Final = "authentication_required"
NO_CARD: Final = "no_payment_method"
OVERDUE: Final = "overdue"

RETRY_NOTICE: Final = "retry_notice"
SUSPENSION_NOTICE: Final = "suspension_notice"
SUSPEND: Final = "suspend"
PAST_DUE_DATE: Final = "past_due_date"

_MOVES: Final = {"paid": "pay", "void": "void", "uncollectible": "write_off"}
_ENDS: Final = frozenset({"paid", "void", "uncollectible"})
_OWED: Final = frozenset({"payment_failed", "uncollectible"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One invoice of ours as the provider holds it at one instant, with what its payments became. Minor units."""

    id: str
    status: str  # draft, open, paid, void, uncollectible
    currency: str
    customer: str
    subtotal: int
    total: int
    tax: int
    amount_paid: int
    amount_remaining: int
    number: str
    attempts: int  # as the provider counts: the first of all, and its own retries
    created: datetime
    bill: str = ""  # what its metadata names
    invoice: str = ""
    paid_at: datetime | None = None
    due_at: datetime | None = None  # only where the customer pays by itself
    provider_retry_at: datetime | None = None
    out_of_band: bool = False
    carried: int = 0  # what the customer's debt grew by instead of being asked for; < 0: was asked for with it
    overpaid: int = 0
    credited: int = 0
    credited_after_payment: int = 0
    credited_to_card: int | None = None  # None where it was not read
    refunded: int = 0
    disputed: str = ""  # open, won, lost, closed
    charged_back: int = 0
    payment: str = ""
    failure: str = ""
    failed_attempt: str = ""  # the provider's name of the attempt that failed last, whoever's
    failed_card: str = ""  # what it was made with
    lines: tuple[int, ...] | None = None  # what each charges; None where not all of them were read

    @property
    def ours(self) -> bool:
        """Whether its metadata names a bill and an invoice of ours."""
        return bool(self.bill and self.invoice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What was answered to a charge that we asked for. `attempted`: the bank was asked, with `card`."""

    code: str
    attempted: bool = False
    attempt: str = ""
    card: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCustomer:
    """A customer as the provider holds it, with the card that is charged; `deleted`: somebody deleted it there."""

    id: str
    deleted: bool = False
    ours: bool = False
    publisher: str = ""
    subscriber: str = ""
    payment_method: str | None = None
    brand: str = ""
    last4: str = ""
    expires: str = ""  # yyyy-mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When an unpaid invoice is charged again, in days after it first failed, and how long access stays open.

    `card` is what is charged: the payment method on file now. `until`: when the order is called off that this invoice
    was to begin.
    """

    retry_days: tuple[int, ...]
    grace_days: int
    card: str = ""
    until: datetime | None = None


def terms_of(
    publisher: Publisher,
    subscriber: Subscriber | None,
    plan_grace_days: int | None,
    account: str = "",
    until: datetime | None = None,
) -> Terms:
    """Grace by subscriber, else by plan, else by publisher (whose setting has a default)."""
    chosen = [subscriber.payment_grace_days if subscriber is not None else None, plan_grace_days]
    grace = next((days for days in chosen if days is not None), publisher.settings.payment_grace_days)
    customer = subscriber.customer(account) if subscriber is not None else None
    return Terms(
        retry_days=tuple(sorted(publisher.settings.retry_days)),
        grace_days=grace,
        card=(customer.payment_method or "") if customer is not None else "",
        until=until,
    )


def brought_up(invoice: Invoice, found: Collected, terms: Terms, at: datetime) -> Invoice:
    """Our record as the provider's reading makes it. IllegalMove for a step back, which no event can mean.

    Stripe counts the first attempt and its own retries, but not ours after the first (SDK: Invoice.attempt_count), so
    a failed attempt is known by its charge.
    """
    fails = found.failed_attempt not in ("", invoice.failed_attempt)
    to_card = found.credited_to_card
    after = replace(
        invoice,
        total=found.total,
        tax=found.tax,
        amount_paid=found.amount_paid,
        amount_remaining=found.amount_remaining,
        number=found.number or invoice.number,
        carried=found.carried,
        overpaid=found.overpaid,
        attempts=max(invoice.attempts + fails, found.attempts),
        tries=max(invoice.tries, min(found.attempts, 1)),  # the first is asked for by the billing worker
        credited=found.credited,
        credited_after_payment=found.credited_after_payment,
        credited_to_card=invoice.credited_to_card if to_card is None else to_card,
        refunded=found.refunded,
        disputed=found.disputed,
        charged_back=found.charged_back,
        payment=found.payment or invoice.payment,
        out_of_band=found.out_of_band,
        payable_by=found.due_at,
    )
    after = _told(invoice, after, at)
    if found.status in _ENDS:
        after = _ended(invoice, after, found, terms, at)
        return _seen_failing(after, found, terms, at) if fails and found.status == "uncollectible" else after
    if found.status == "draft" or invoice.status in _ENDS:
        states.INVOICE.move(invoice.status, "reopen")  # an illegal move, by its name
    if found.due_at is not None:
        return _awaited(after, found.due_at, terms, at)
    if fails:
        after = _seen_failing(after, found, terms, at)
    if found.provider_retry_at is not None and after.next_attempt_at is not None:
        # Somebody switched the provider's own retries on: they are observed, ours come after them.
        after = replace(after, next_attempt_at=max(after.next_attempt_at, found.provider_retry_at + OBSERVED))
    return after


def _seen_failing(invoice: Invoice, found: Collected, terms: Terms, at: datetime) -> Invoice:
    return failed(invoice, found.failure, terms, at, attempt=found.failed_attempt, card=found.failed_card)


def failed(invoice: Invoice, failure: str, terms: Terms, at: datetime, *, attempt: str = "", card: str = "") -> Invoice:
    """One more failed attempt: when is the next, and what happens until then.

    `attempt` and `card`: the provider's names of it and of what was charged, by default the card on file. What is
    written off stays so, and is not charged by itself.
    """
    since = invoice.failed_at or at
    after = replace(
        invoice,
        status=states.INVOICE.move(invoice.status, "fail"),
        failure=failure,
        failed_at=since,
        failed_attempt=attempt or invoice.failed_attempt,
        action_required=failure == ACTION,
        pending=invoice.pending if invoice.failed_at is not None else _grace(since, terms, at),
    )
    after = step(after, at, "action_required" if after.action_required else "payment_failed", failure)
    another = bool(card and terms.card) and card != terms.card
    if another and invoice.card == terms.card:
        return after  # the card on file has failed before: what somebody tried with another one changes no schedule
    after = replace(after, asked_at=None, card=card or terms.card)
    if after.status in _ENDS:
        return replace(after, next_attempt_at=None)
    if another:
        return retried_now(after, at, "card_replaced")  # it failed on a card that is not the one on file any more
    final = failure in HARD_DECLINES
    after = replace(after, final=final, next_attempt_at=next_attempt(since, terms, at, final=final))
    return _with_retry_notice(after, terms, at)


def answered(invoice: Invoice, refusal: Refused, terms: Terms, at: datetime) -> Invoice:
    """The charge that was asked for last did not succeed, and no reading has told so."""
    invoice = replace(invoice, attempts=invoice.attempts + refusal.attempted)
    after = failed(invoice, refusal.code, terms, at, attempt=refusal.attempt, card=refusal.card)
    return replace(after, asked_at=None)


def begun(invoice: Invoice, now: datetime) -> Invoice:
    """The same with one more charge asked for, unless the answer of the last one is not known: it is asked for again.

    Once the provider has forgotten that one's key, what came of it shows in the invoice, and another is begun. `now` is
    the provider's time, also for a publisher with a clock of its own.
    """
    if invoice.asked_at is not None and now - invoice.asked_at < KEY_LIFE:
        return invoice
    return replace(invoice, tries=invoice.tries + 1, asked_at=now)


def next_attempt(since: datetime, terms: Terms, at: datetime, *, final: bool = False) -> datetime | None:
    """The first of the schedule's days after `since` that is still to come; None after the last, or a final refusal.

    The end of the order that it is for is looked at too: nothing is charged then.
    """
    days = () if final else tuple(since + timedelta(days=each) for each in terms.retry_days)
    ends = () if terms.until is None else (max(terms.until, at),)
    return min((*(day for day in days if day > at), *ends), default=None)


def retried_now(invoice: Invoice, at: datetime, why: str) -> Invoice:
    """The same, to be charged again at once: another card, or somebody asks. Legal while it is owed.

    What was written off is charged once, by whoever asks, and is not in the to-do list for it.
    """
    states.INVOICE.move(invoice.status, "pay")
    at_once = None if invoice.status in _ENDS else at
    pending = tuple(each for each in invoice.pending if each.what != RETRY_NOTICE)
    after = replace(invoice, final=False, action_required=False, next_attempt_at=at_once, pending=pending)
    return step(after, at, "retry", why)


def due_steps(invoice: Invoice, at: datetime) -> tuple[tuple[Step, ...], Invoice]:
    """The steps that have come due, and the invoice with them in its history instead."""
    due = tuple(each for each in invoice.pending if each.at <= at)
    after = replace(invoice, pending=invoice.pending[len(due) :])
    for each in due:
        after = step(after, at, each.what, each.detail)
    return due, after


def step(invoice: Invoice, at: datetime, what: str, detail: str = "") -> Invoice:
    """The same with one more line of history."""
    steps = (*invoice.history, Step(at=at, what=what, detail=detail))
    return replace(invoice, history=steps[-MOST_HISTORY:])


def _told(before: Invoice, after: Invoice, at: datetime) -> Invoice:
    """What moved beside the status, in its history: each is an event to whoever listens."""
    if after.overpaid != before.overpaid:
        after = step(after, at, "overpaid", str(after.overpaid - before.overpaid))
    if after.credited != before.credited:
        after = step(after, at, "credited", str(after.credited - before.credited))
    if after.refunded != before.refunded:
        name = "refunded" if after.refunded > before.refunded else "refund_failed"
        after = step(after, at, name, str(after.refunded - before.refunded))
    if after.disputed != before.disputed:
        after = step(after, at, f"dispute_{after.disputed}" if after.disputed else "dispute_withdrawn")
    return after


def _ended(before: Invoice, after: Invoice, found: Collected, terms: Terms, at: datetime) -> Invoice:
    after = replace(after, next_attempt_at=None)
    if before.status == found.status:
        return after
    after = replace(after, status=states.INVOICE.move(before.status, _MOVES[found.status]), action_required=False)
    if found.status == "uncollectible":
        return step(_still_owed(after, terms, at), at, found.status)
    after = replace(after, pending=(), failed_at=None, asked_at=None)
    if found.status == "void":
        return step(after, at, found.status)
    charged = bool(found.amount_paid) and not found.out_of_band
    after = replace(
        after, failure="", paid_at=found.paid_at or at, attempts=max(before.attempts + charged, found.attempts)
    )
    if after.credited_away:
        return step(after, at, "settled")
    return step(after, at, "paid_out_of_band" if found.out_of_band else "paid")


def _still_owed(invoice: Invoice, terms: Terms, at: datetime) -> Invoice:
    """Written off: the grace goes on; where nothing had failed before, it begins."""
    if invoice.failed_at is None:
        return replace(invoice, failed_at=at, pending=_grace(at, terms, at))
    return replace(invoice, pending=tuple(each for each in invoice.pending if each.what != RETRY_NOTICE))


def _awaited(invoice: Invoice, due_at: datetime, terms: Terms, at: datetime) -> Invoice:
    """An invoice that the customer pays by itself: nothing is charged; after its date it is overdue."""
    if due_at > at:
        invoice = replace(invoice, pending=(Step(at=due_at, what=PAST_DUE_DATE),))
    elif invoice.failed_at is None:
        invoice = failed(step(invoice, at, PAST_DUE_DATE), OVERDUE, replace(terms, retry_days=()), at)
    return replace(invoice, next_attempt_at=terms.until)


def _grace(since: datetime, terms: Terms, at: datetime) -> tuple[Step, ...]:
    end = since + timedelta(days=terms.grace_days)
    return (Step(at=max(at, end - NOTICE), what=SUSPENSION_NOTICE), Step(at=end, what=SUSPEND))


def _with_retry_notice(invoice: Invoice, terms: Terms, at: datetime) -> Invoice:
    """A day before the next charge, or at once where it is nearer. The end of an order is no charge."""
    steps = [each for each in invoice.pending if each.what != RETRY_NOTICE]
    if invoice.next_attempt_at not in (None, terms.until):
        steps.append(Step(at=max(at, invoice.next_attempt_at - NOTICE), what=RETRY_NOTICE))
    return replace(invoice, pending=tuple(sorted(steps, key=lambda each: each.at)))


def subscription_after(
    subscription: Subscription, invoice: Invoice, terms: Terms, at: datetime, others: Sequence[Invoice] = ()
) -> Subscription:
    """The subscription's payment state once this invoice stands as it does.

    Past due with the first invoice that is owed; current again when none is left. What was written off is still owed.
    Access ends with the first grace that ends; `others` are those still owed where this one is not any more.
    """
    owed = invoice.status in _OWED
    unpaid = tuple(each for each in subscription.unpaid if each != invoice.id) + ((invoice.id,) if owed else ())
    after = replace(subscription, unpaid=unpaid) if set(unpaid) != set(subscription.unpaid) else subscription
    if unpaid and after.payment_state == "current":
        since = invoice.failed_at or at
        after = replace(
            after,
            payment_state=states.PAYMENT.move("current", "fail"),
            past_due_since=since,
            suspend_at=_grace_end(invoice) or since + timedelta(days=terms.grace_days),
        )
        return noted(after, at, "past_due", invoice.id)
    if not unpaid and after.payment_state != "current":
        state = states.PAYMENT.move(after.payment_state, "settle")
        after = replace(after, payment_state=state, past_due_since=None, suspend_at=None)
        return noted(after, at, "payment_restored", invoice.id)
    if after.payment_state == "past_due" and owed:
        ends = [each for each in (after.suspend_at, _grace_end(invoice)) if each is not None]
        return replace(after, suspend_at=min(ends, default=None))
    if after.payment_state == "past_due" and others:
        return replace(
            after,
            past_due_since=min(each.failed_at or at for each in others),
            suspend_at=min(_grace_end(each) or at for each in others),
        )
    return after


def _grace_end(invoice: Invoice) -> datetime | None:
    """When its own grace ends; None once it has."""
    return next((each.at for each in invoice.pending if each.what == SUSPEND), None)


def suspended(subscription: Subscription, at: datetime) -> Subscription:
    """The same without access, if it is past due and its grace is over."""
    over = subscription.suspend_at is not None and subscription.suspend_at <= at
    if subscription.payment_state != "past_due" or not over:
        return subscription
    state = states.PAYMENT.move(subscription.payment_state, "suspend")
    return noted(replace(subscription, payment_state=state), at, "suspended", "unpaid")


def bill_after(bill: Bill, invoice: Invoice, at: datetime) -> Bill:
    """The bill once its invoice has come to an end; a worker that crashed before `sent` is overtaken."""
    move = _MOVES.get(invoice.status)
    if move is None:
        return bill
    if bill.status == "drafted":
        bill = replace(bill, status=states.BILL.move("drafted", "send"), sent_at=at, next_at=None)
    if not states.BILL.can(bill.status, move):
        return bill
    return replace(bill, status=states.BILL.move(bill.status, move))


def by_hand(before: Invoice, after: Invoice) -> Iterator[tuple[str, dict[str, str]]]:
    """What somebody did at the provider: the audit's action, and what it changed."""
    if after.status != before.status and after.status in ("void", "uncollectible"):
        yield f"invoice.{'void' if after.status == 'void' else 'write_off'}", {"status": after.status}
    if after.overpaid != before.overpaid:
        yield "invoice.overpaid", {"overpaid": str(after.overpaid)}
    if after.out_of_band and not before.out_of_band:
        yield "invoice.paid_out_of_band", {"amount": str(after.amount_paid)}
    if after.credited != before.credited:
        yield "invoice.credit_note", {"credited": str(after.credited)}
    if after.refunded != before.refunded:
        yield "invoice.refund", {"refunded": str(after.refunded)}
    if after.disputed != before.disputed:
        yield "invoice.dispute", {"disputed": after.disputed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a person asked to be done to an invoice, under the natural key that forbids doing it twice, for ever."""

    id: str  # hash of whose it is and the caller's key
    invoice: str
    what: str  # credit, refund, void, write_off, retry
    fingerprint: str
    amount: int = 0
    net: int = 0  # of a credit that a bill left over: what of that it gives back, before tax on top
    tries: int = 0  # of a retry: the number of its charge
    made: str = ""  # the provider's id of what it made; empty while it is not known to be done
    refused: str = ""  # the provider's code, where it said no
    at: datetime  # when it was last gone about
    done_at: datetime | None = None
    rev: int = 0
