"""What people ask to be done to an invoice: a credit note, a refund, void, write off, try again. Each once, for ever.

The request's own key is its natural key: it is stored with the audit entry before Stripe is asked, and Stripe is asked
under a key derived from it. A crash anywhere in between is continued by the same request sent again.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from monetize.domain import states
from monetize.domain.audit import AuditEntry
from monetize.domain.dunning import Action, begun, retried_now
from monetize.domain.errors import AccountUnreachable, Conflict, Invalid, NotFound, ProviderRefused, Refusal
from monetize.domain.invoices import Bill, Charged, Invoice, charged_for
from monetize.domain.money import chargeable_part, check_chargeable
from monetize.domain.rating import Carried
from monetize.services.billing import split_bill_id
from monetize.services.payments import ACTING, SILENT, Around, Ports, Written, around_of, audit, bring_up, charge
from monetize.services.subscription_access import Person, until_unchanged

AUTO: Final = "auto"  # nobody asked: what was paid outside goes to the balance, since nobody gives cash back
SETTLED: Final = frozenset({"sent", "empty", "waived", "paid", "void", "uncollectible"})
LEFT_OVER: Final = "Credit for unused time and corrections"  # what the customer reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for. `key` is the caller's Idempotency-Key; `amount` in minor units, None for all that is left."""

    what: str  # credit, refund, void, write_off, retry
    key: str
    amount: int | None = None
    to: str = ""  # of a credit: invoice, card, balance, outside; empty lets the invoice's state decide, as AUTO does
    reason: str = ""
    memo: str = ""
    net: int = field(default=0, repr=False)  # follows from the others: no part of what is asked for

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
    `idempotency_key_reused`, `amount_not_chargeable`; ProviderRefused when Stripe says no, which is final for the key.
    """
    if around_of(invoice_id, now, ports).invoice.publisher != person.organization:
        raise NotFound("unknown_invoice", "There is no such invoice.")
    return _act(person, invoice_id, asked, now, ports)


def credit_correction(invoice_id: str, amount: int, key: str, now: datetime, ports: Ports) -> int:
    """Give back what was paid and is not owed, as far as the invoice can be credited. Answers how much.

    `amount` positive, minor units, tax included. `key` names the correction: the same one is credited once. What is
    answered less than `amount` was not given back.
    """
    name = _name(invoice_id, "billing", "credit", key)
    before = ports.store.action(invoice_id, name)
    if before is not None and before.done_at is not None:
        return 0 if before.refused else before.amount
    invoice = until_unchanged(lambda: bring_up(around_of(invoice_id, now, ports), now, ports)).invoice
    if before is None and (forgotten := _forgotten(invoice, name, ports)) is not None:
        return forgotten[1]
    to = _target(invoice, AUTO)
    most = chargeable_part(min(amount, _creditable(invoice, to)), invoice.currency)
    part = before.amount if before is not None else most
    if part <= 0:
        return 0
    # To where is decided as late as may be: what was begun on an open invoice goes on when it was paid meanwhile.
    asked = Request(what="credit", key=key, amount=part, to=AUTO, reason="order_change", memo="Correction of usage")
    return _act("billing", invoice_id, asked, now, ports).action.amount


def credit_leftover(bill: Bill, now: datetime, ports: Ports) -> int:
    """Give back what a bill leaves in the subscriber's favour and no later bill can take.

    On the invoices that charged it, the newest first, as far as they can be credited, with the tax that came on top;
    under keys of the bill's own, so that it happens once. Answers how much is left over, minor units before that tax:
    it is for a person.
    """
    if bill.returned >= 0 or bill.status not in SETTLED:
        return 0
    content = ports.store.lines(bill.subscription, bill.edge)
    if content is None:
        return -bill.returned
    return sum(_give_back(each, bill, now, ports) for each in content.returned)


def credit_at_once(bill_id: str, now: datetime, ports: Ports) -> None:
    """The same, right after the bill was made. What cannot be given back now is by the daily reconciliation."""
    sub, edge = split_bill_id(bill_id)
    bill = ports.store.bill(sub, edge)
    if bill is not None:
        with suppress(Refusal):
            credit_leftover(bill, now, ports)


def _give_back(credit: Carried, bill: Bill, now: datetime, ports: Ports) -> int:
    """One tax treatment's credit. Answers what no invoice can carry.

    First it is stored which invoice gives how much, then that is carried out: whoever comes in between goes on with it.
    """
    key = f"{bill.id}:{credit.tax_behavior}:{credit.tax_code or ''}"
    while True:
        begun_here, left = until_unchanged(lambda: _allotted(credit, bill, key, now, ports))
        if not begun_here:
            return left
        for action in begun_here:
            _act("billing", action.invoice, _leftover(key, action.amount, action.net), now, ports)


def _leftover(key: str, amount: int, net: int) -> Request:
    return Request(what="credit", key=key, amount=amount, to=AUTO, reason="order_change", memo=LEFT_OVER, net=net)


def _allotted(credit: Carried, bill: Bill, key: str, now: datetime, ports: Ports) -> tuple[list[Action], int]:
    """What was allotted to invoices and is not carried out; and what is left, where nothing is.

    What may be allotted still is to the next invoice, in one write with the bill as it was read before all of them: two
    who see different invoices, or the same ones at different times, allot nothing twice.
    """
    read = ports.store.bill(bill.subscription, bill.edge) or bill
    invoices = ports.store.invoices_up_to(bill)
    known = {each.id: ports.store.action(each.id, _name(each.id, "billing", "credit", key)) for each in invoices}
    left = -credit.amount - sum(each.net for each in known.values() if each is not None and not each.refused)
    pending = [each for each in known.values() if each is not None and each.done_at is None]
    for invoice in invoices:
        if invoice.charged_back and (charged := _charged(credit, invoice, ports)).amount:
            left -= charged.net(invoice.charged_back)  # as much came back to the subscriber by its bank
    if pending or left <= 0:
        return pending, max(0, left)
    for invoice in invoices:
        charged = _charged(credit, invoice, ports)
        if known[invoice.id] is not None or not charged.amount:
            continue
        around = bring_up(around_of(invoice.id, now, ports), now, ports)
        action = _next_note(charged, left, around, key, now, ports)
        if action.amount <= 0:
            continue
        said = {"what": "credit", "amount": str(action.amount), "reason": "order_change"}
        entry = audit("billing", around.invoice, "invoice.credit", said, around.at, ports)
        ports.store.save(around.invoice, bill=read, action=action, entries=(entry,))
        return [replace(action, rev=1)], left
    return [], left


def _next_note(charged: Charged, left: int, around: Around, key: str, now: datetime, ports: Ports) -> Action:
    """What an invoice is to give back of what is left; of amount 0 where it can carry none of it."""
    invoice = around.invoice
    name = _name(invoice.id, "billing", "credit", key)
    forgotten = _forgotten(invoice, name, ports)
    if forgotten is not None:
        invoice, most = replace(invoice, credited=invoice.credited - forgotten[1]), forgotten[1]
    else:
        others = ports.store.acting(invoice.id, now - ACTING)
        taken = sum(each.amount for each in others if each.what in ("credit", "refund"))
        most = _creditable(invoice, _target(invoice, AUTO)) - taken
    amount, net = charged.credited(min(left, charged.amount), invoice, most)
    amount = forgotten[1] if forgotten is not None else amount
    fingerprint = _leftover(key, amount, net).fingerprint
    return Action(id=name, invoice=invoice.id, what="credit", fingerprint=fingerprint, amount=amount, net=net, at=now)


def _forgotten(invoice: Invoice, name: str, ports: Ports) -> tuple[str, int] | None:
    """The note of an action that the tables do not know, since they are those of before it; and its amount."""
    if not invoice.credited:
        return None
    return ports.provider.credited_under(invoice.account, invoice.stripe_id, f"action:{name}")


def _charged(credit: Carried, invoice: Invoice, ports: Ports) -> Charged:
    return charged_for(credit, invoice, ports.store.lines(invoice.subscription, invoice.edge))


def _act(person: Person | str, invoice_id: str, asked: Request, now: datetime, ports: Ports) -> Done:
    name = _name(invoice_id, person.organization if isinstance(person, Person) else person, asked.what, asked.key)
    around, action = until_unchanged(lambda: _begin(person, invoice_id, asked, name, now, ports))
    if action.refused:
        raise ProviderRefused("stripe_refused", "Stripe refused the request.", provider_code=action.refused)
    if action.done_at is not None:
        return Done(around.invoice, action)
    try:
        made = action.made or _carry_out(around, asked, action, now, ports)
    except AccountUnreachable:
        raise  # nothing was done; the same request goes on when the account is back
    except ProviderRefused as refused:
        code = str(refused.members.get("provider_code") or refused.code)
        until_unchanged(lambda: _end(person, action, now, ports, refused=code))
        raise
    return until_unchanged(lambda: _end(person, action, now, ports, made=made))


def _begin(
    person: Person | str, invoice_id: str, asked: Request, name: str, now: datetime, ports: Ports
) -> tuple[Around, Action]:
    """Check, and store what is about to be done with its audit entry; or what was begun before, as it stands now.

    The invoice is written with it: of two requests that are checked on the same state one is checked again, and what
    the other is about to give back counts.
    """
    around, action = around_of(invoice_id, now, ports), ports.store.action(invoice_id, name)
    if action is not None and action.fingerprint != asked.fingerprint:
        raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    if action is not None and action.done_at is not None:
        return around, action
    # What people may do is decided on the latest state. What an action of theirs did is not somebody else's doing.
    around = bring_up(around, now, ports, SILENT if action is not None else Written())
    invoice = around.invoice
    entries: tuple[AuditEntry, ...] = ()
    if action is not None and (made := _made_before(invoice, asked, action, ports)):
        return around, replace(action, made=made)
    amount = _checked(invoice, asked, action, name, now, ports)
    if action is None:
        action = Action(
            id=name,
            invoice=invoice.id,
            what=asked.what,
            fingerprint=asked.fingerprint,
            amount=amount,
            net=asked.net,
            at=now,
        )
        said = {"what": asked.what, "amount": str(amount), "reason": asked.reason}
        entries = (audit(person, invoice, f"invoice.{asked.what}", said, around.at, ports),)
        if asked.what == "retry":
            invoice = begun(retried_now(invoice, around.at, "asked for"), now)
            action = replace(action, tries=invoice.tries)
    ports.store.save(invoice, action=replace(action, at=now), entries=entries)
    return replace(around, invoice=replace(invoice, rev=invoice.rev + 1)), action


def _made_before(invoice: Invoice, asked: Request, action: Action, ports: Ports) -> str | None:
    """What an action that was begun before has done at Stripe already, by the key in its metadata."""
    key = _key(action)
    if asked.what == "credit":
        note = ports.provider.credited_under(invoice.account, invoice.stripe_id, key)
        return note[0] if note is not None else None
    if asked.what == "refund":
        return ports.provider.refunded_under(invoice.account, invoice.payment, key)
    if asked.what == "retry":
        return _came_of(invoice, action)
    return invoice.status if invoice.status == MADE[asked.what] else None


def _came_of(invoice: Invoice, action: Action) -> str | None:
    """What came of a retry; None while the answer of its charge is not known."""
    if invoice.status == "paid":
        return "paid"
    return None if invoice.asked_at is not None and invoice.tries == action.tries else "declined"


def _checked(invoice: Invoice, asked: Request, action: Action | None, name: str, now: datetime, ports: Ports) -> int:
    """How much it is about, where it is legal: what others are about to give back counts as given."""
    if action is not None and asked.what == "retry":
        return action.amount
    if action is not None and _refunded_for(invoice, asked, action, ports):
        return action.amount
    begun_by_others = ports.store.acting(invoice.id, now - ACTING)
    taken = sum(each.amount for each in begun_by_others if each.what in ("credit", "refund") and each.id != name)
    wanted = asked if action is None else replace(asked, amount=action.amount)
    return CHECKS[asked.what](invoice, wanted, taken)


def _refunded_for(invoice: Invoice, asked: Request, action: Action, ports: Ports) -> bool:
    """Whether the refund of a credit note was made, and the note was not."""
    if asked.what != "credit" or _target(invoice, asked.to) != "card":
        return False
    return ports.provider.refunded_under(invoice.account, invoice.payment, _key(action)) is not None


def _end(person: Person | str, action: Action, now: datetime, ports: Ports, **how: Any) -> Done:
    """Store what came of it, with the invoice as it is after it."""
    around, latest = around_of(action.invoice, now, ports), ports.store.action(action.invoice, action.id)
    if latest is not None and latest.done_at is not None:
        return Done(around.invoice, latest)
    ended = replace(latest or action, **how, done_at=now)
    entries: tuple[AuditEntry, ...] = ()
    if ended.refused:
        said = {"what": action.what, "code": ended.refused}
        entries = (audit(person, around.invoice, f"invoice.{action.what}_refused", said, around.at, ports),)
    after = bring_up(around, now, ports, Written(action=ended, entries=entries, hand=False))
    return Done(after.invoice, replace(ended, rev=ended.rev + 1))


def _carry_out(around: Around, asked: Request, action: Action, now: datetime, ports: Ports) -> str:
    """Ask Stripe, under the action's key. Answers the id of what it made, or a word."""
    invoice, provider, key = around.invoice, ports.provider, _key(action)
    if asked.what == "credit":
        to, amount = _target(invoice, asked.to), action.amount
        return provider.credit(
            invoice.account, invoice.stripe_id, invoice.payment, amount, to, asked.reason, asked.memo, key
        )
    if asked.what == "refund":
        return provider.refund(invoice.account, invoice.payment, action.amount, asked.reason, key)
    if asked.what == "retry":
        return charge(around, now, ports).outcome
    (provider.void if asked.what == "void" else provider.write_off)(invoice.account, invoice.stripe_id, key)
    return MADE[asked.what]


def _key(action: Action) -> str:
    return f"action:{action.id}"


def _name(invoice_id: str, whose: str, what: str, key: str) -> str:
    return sha256(f"{whose}\0{invoice_id}\0{what}\0{key}".encode()).hexdigest()


def _target(invoice: Invoice, to: str) -> str:
    if invoice.status != "paid":
        return "invoice"
    if to == AUTO:
        return "card" if invoice.payment and not invoice.out_of_band else "balance"
    return to or ("outside" if invoice.out_of_band else "card" if invoice.payment else "balance")


def _creditable(invoice: Invoice, to: str) -> int:
    """What a credit note may still give back, minor units."""
    if invoice.status == "void":
        return 0
    if invoice.status != "paid":
        return invoice.amount_remaining
    if to == "outside":
        return invoice.creditable
    return min(invoice.returnable, invoice.refundable) if to == "card" else invoice.returnable


def _check_credit(invoice: Invoice, asked: Request, taken: int) -> int:
    to = _target(invoice, asked.to)
    if (to == "invoice") != (invoice.status != "paid") or invoice.status == "void":
        raise Conflict("not_creditable", f"An invoice that is {invoice.status} is not credited to {asked.to or to}.")
    return _within(invoice, asked.amount, _creditable(invoice, to) - taken, "above_creditable", "credited")


def _check_refund(invoice: Invoice, asked: Request, taken: int) -> int:
    if invoice.status != "paid" or not invoice.payment or invoice.out_of_band:
        raise Conflict("not_paid", "Only what was paid by card can be refunded.")
    return _within(invoice, asked.amount, invoice.refundable - taken, "above_refundable", "refunded")


def _within(invoice: Invoice, asked: int | None, left: int, code: str, verb: str) -> int:
    most = chargeable_part(max(0, left), invoice.currency)
    amount = most if asked is None else asked
    check_chargeable(amount, invoice.currency)
    if amount > most or amount <= 0:
        raise Conflict(code, f"At most {most} can still be {verb}.", most=most)
    return amount


def _check_move(move: str, code: str, sentence: str, invoice: Invoice) -> int:
    if not states.INVOICE.can(invoice.status, move):
        raise Conflict(code, sentence)
    return invoice.amount_remaining


MADE: Final = {"void": "void", "write_off": "uncollectible"}
CHECKS: Final[dict[str, Callable[[Invoice, Request, int], int]]] = {
    "credit": _check_credit,
    "refund": _check_refund,
    "void": lambda invoice, *_: _check_move("void", "not_open", "Only what is not paid can be voided.", invoice),
    "write_off": lambda invoice, *_: _check_move("write_off", "not_open", "Only what is open is written off.", invoice),
    "retry": lambda invoice, *_: _check_move("pay", "not_owed", "There is nothing to charge.", invoice),
}


def hosted_page(person: Person, invoice_id: str, now: datetime, ports: Ports) -> str:
    """Where an open invoice is paid and authenticated, for its subscriber or its publisher. Never stored."""
    invoice = around_of(invoice_id, now, ports).invoice
    if person.organization not in (invoice.publisher, invoice.subscriber):
        raise NotFound("unknown_invoice", "There is no such invoice.")
    if not states.INVOICE.can(invoice.status, "pay"):
        raise Conflict("not_owed", "There is nothing to pay.")
    return ports.provider.hosted_page(invoice.account, invoice.stripe_id)
