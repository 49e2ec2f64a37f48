"""What people ask to be done to an invoice: a credit note, a refund, void, write off, try again. Each once, for ever.

The request's own key is its natural key: it is stored with the audit entry before Stripe is asked, and Stripe is asked
under a key derived from it. A crash anywhere in between is continued by the same request sent again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from monetize.domain import states
from monetize.domain.dunning import Action, retried_now
from monetize.domain.errors import Conflict, Invalid, NotFound, PreconditionFailed
from monetize.domain.invoices import Bill, Invoice
from monetize.services.billing import Worked
from monetize.services.payments import Around, Ports, Written, around_of, audit, bring_up, charge
from monetize.services.subscription_access import Person

KEY_LIFE: Final = timedelta(hours=20)  # Stripe keeps keys 24 hours at least; after this a repeat looks before it acts
SETTLED: Final = frozenset({"sent", "empty", "paid", "void", "uncollectible"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for. `key` is the caller's Idempotency-Key; `amount` in minor units, None for all that is left."""

    what: str  # credit, refund, void, write_off, retry
    key: str
    amount: int | None = None
    to: str = ""  # of a credit: invoice, card, balance, outside; empty lets the invoice's state decide
    reason: str = ""
    memo: str = ""

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked for, without the key."""
        return sha256(repr(replace(self, key="")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Done:
    """The invoice as it is now, and what was done to it."""

    invoice: Invoice
    action: Action


def act(person: Person, invoice_id: str, asked: Request, now: datetime, ports: Ports) -> Done:
    """Carry it out, once. A publisher's own invoices only: another's is NotFound `unknown_invoice`.

    Conflict `not_open`, `not_paid`, `not_owed`, `above_creditable`, `above_refundable`; Invalid
    `idempotency_key_reused`; ProviderRefused when Stripe says no.
    """
    around = around_of(invoice_id, now, ports)
    if around.invoice.publisher != person.organization:
        raise NotFound("unknown_invoice", "There is no such invoice.")
    return _act(person, around, asked, now, ports)


def credit_correction(invoice_id: str, amount: int, key: str, now: datetime, ports: Ports) -> int:
    """Give back what a correction of billed usage leaves, as far as the invoice can be credited. Answers how much.

    `amount` positive, minor units. `key` names the correction: the same one is credited once. What is answered less
    than `amount` belongs to the next bill.
    """
    around = around_of(invoice_id, now, ports)
    before = ports.store.action(invoice_id, _name(around.invoice, "billing", "credit", key))
    if before is not None and before.done_at is not None:
        return before.amount
    around = bring_up(around, now, ports)
    to = _target(around.invoice, "")
    part = before.amount if before is not None else min(amount, _creditable(around.invoice, to))
    if part <= 0:
        return 0
    asked = Request(what="credit", key=key, amount=part, to=to, reason="order_change", memo="Correction of usage")
    return _act("billing", around, asked, now, ports).action.amount


def credit_leftover(bill: Bill, now: datetime, ports: Ports) -> int:
    """Give back what a subscription's last bill leaves in its favour: no bill comes that could take it.

    On its invoices, the newest first, as far as they can be credited; under keys of the bill's own, so that it happens
    once. Answers how much there is left over, minor units: that is for a person.
    """
    left = -bill.carry_out if bill.last and bill.status in SETTLED else 0
    if left <= 0:
        return 0
    for invoice in ports.store.invoices_up_to(bill):
        left -= credit_correction(invoice.id, left, bill.id, now, ports)
        if left <= 0:
            return 0
    return left


def _act(person: Person | str, around: Around, asked: Request, now: datetime, ports: Ports) -> Done:
    invoice = around.invoice
    name = _name(invoice, person.organization if isinstance(person, Person) else person, asked.what, asked.key)
    action = ports.store.action(invoice.id, name)
    if action is not None and action.fingerprint != asked.fingerprint:
        raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    if action is not None and action.done_at is not None:
        return Done(invoice, action)
    if action is None:
        around = bring_up(around, now, ports)  # what people may do is decided on the latest state
        action = _begin(person, around, asked, name, now, ports)
    made = _carry_out(around, asked, action, now, ports)
    done = replace(action, made=made, done_at=now)
    latest = bring_up(around_of(invoice.id, now, ports), now, ports, Written(action=done, hand=False))
    return Done(latest.invoice, replace(done, rev=done.rev + 1))


def _begin(person: Person | str, around: Around, asked: Request, name: str, now: datetime, ports: Ports) -> Action:
    """Check, and store what is about to be done with its audit entry. Of two at once, one goes on."""
    invoice = around.invoice
    amount = CHECKS[asked.what](invoice, asked)
    action = Action(id=name, invoice=invoice.id, what=asked.what, fingerprint=asked.fingerprint, amount=amount, at=now)
    said = {"what": asked.what, "amount": str(amount), "reason": asked.reason}
    entry = audit(person, invoice, f"invoice.{asked.what}", said, around.at, ports)
    try:
        ports.store.save(action=action, entries=(entry,))
    except PreconditionFailed:
        raise Conflict("idempotency_key_in_use", "The first request with this key is still running.") from None
    return replace(action, rev=1)


def _carry_out(around: Around, asked: Request, action: Action, now: datetime, ports: Ports) -> str:
    """Ask Stripe, under the action's key. Answers the id of what it made, or a word."""
    invoice, provider, key = around.invoice, ports.provider, f"action:{action.id}"
    late = now - action.at > KEY_LIFE
    if asked.what == "credit":
        before = provider.credited_under(invoice.account, invoice.stripe_id, key) if late else None
        to = _target(invoice, asked.to)
        return before or provider.credit(
            invoice.account, invoice.stripe_id, action.amount, to, asked.reason, asked.memo, key
        )
    if asked.what == "refund":
        before = provider.refunded_under(invoice.account, invoice.payment, key) if late else None
        return before or provider.refund(invoice.account, invoice.payment, action.amount, asked.reason, key)
    if asked.what == "void":
        if invoice.status != "void":
            provider.void(invoice.account, invoice.stripe_id, key)
        return "void"
    if asked.what == "write_off":
        if invoice.status != "uncollectible":
            provider.write_off(invoice.account, invoice.stripe_id, key)
        return "uncollectible"
    return _try_again(around, now, ports).outcome


def _try_again(around: Around, now: datetime, ports: Ports) -> Worked:
    ports.store.save(retried_now(around.invoice, around.at, "asked for"))
    return charge(around_of(around.invoice.id, now, ports), now, ports)


def _name(invoice: Invoice, whose: str, what: str, key: str) -> str:
    return sha256(f"{whose}\0{invoice.id}\0{what}\0{key}".encode()).hexdigest()


def _target(invoice: Invoice, to: str) -> str:
    if invoice.status != "paid":
        return "invoice"
    return to or ("outside" if invoice.out_of_band else "card" if invoice.payment else "balance")


def _creditable(invoice: Invoice, to: str) -> int:
    """What a credit note may still give back, minor units."""
    if invoice.status == "void":
        return 0
    if invoice.status != "paid":
        return invoice.amount_remaining
    left = invoice.total - invoice.credited
    return min(left, invoice.amount_paid - invoice.refunded) if to == "card" else left


def _check_credit(invoice: Invoice, asked: Request) -> int:
    to = _target(invoice, asked.to)
    if (to == "invoice") != (invoice.status != "paid") or invoice.status == "void":
        raise Conflict("not_creditable", f"An invoice that is {invoice.status} is not credited to {asked.to or to}.")
    return _within(asked.amount, _creditable(invoice, to), "above_creditable", "credited")


def _check_refund(invoice: Invoice, asked: Request) -> int:
    if invoice.status != "paid" or not invoice.payment or invoice.out_of_band:
        raise Conflict("not_paid", "Only what was paid by card can be refunded.")
    return _within(asked.amount, invoice.amount_paid - invoice.refunded, "above_refundable", "refunded")


def _within(asked: int | None, most: int, code: str, verb: str) -> int:
    amount = most if asked is None else asked
    if amount > most or amount <= 0:
        raise Conflict(code, f"At most {most} can still be {verb}.", most=most)
    return amount


def _check_move(move: str, code: str, sentence: str, invoice: Invoice) -> int:
    if not states.INVOICE.can(invoice.status, move):
        raise Conflict(code, sentence)
    return invoice.amount_remaining


CHECKS: Final[dict[str, Callable[[Invoice, Request], int]]] = {
    "credit": _check_credit,
    "refund": _check_refund,
    "void": lambda invoice, _: _check_move("void", "not_open", "Only what is not paid can be voided.", invoice),
    "write_off": lambda invoice, _: _check_move("write_off", "not_open", "Only what is open is written off.", invoice),
    "retry": lambda invoice, _: _check_move("pay", "not_owed", "There is nothing to charge.", invoice),
}


def hosted_page(person: Person, invoice_id: str, now: datetime, ports: Ports) -> str:
    """Where an open invoice is paid and authenticated, for its subscriber or its publisher. Never stored."""
    invoice = around_of(invoice_id, now, ports).invoice
    if person.organization not in (invoice.publisher, invoice.subscriber):
        raise NotFound("unknown_invoice", "There is no such invoice.")
    if not states.INVOICE.can(invoice.status, "pay"):
        raise Conflict("not_owed", "There is nothing to pay.")
    return ports.provider.hosted_page(invoice.account, invoice.stripe_id)
