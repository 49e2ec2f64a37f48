"""What became of an invoice and of a customer at Stripe, read whole; and what people ask for afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import stripe

from monetize.adapters.stripe.client import get, options, told_as_ours
from monetize.domain.collecting import InvoiceLine
from monetize.domain.dunning import ACTION, Collected, FoundCustomer
from monetize.domain.errors import AccountUnreachable, NotFound, ProviderRefused
from monetize.domain.stripe_events import OURS


@dataclass(frozen=True, slots=True)
class StripePayments:
    """Reads carry no key; writes carry one derived from what asked for them."""

    stripe: stripe.StripeClient

    # --- reading ---

    def collected(self, account: str, invoice: str, *, disputed: bool = False) -> Collected:
        """The invoice with its payment, refunds and disputes. NotFound when Stripe has none.

        One request while nothing was attempted, else two, one more where it was ever disputed (`disputed`: we know it),
        and one where it was credited after it was paid. The payment is not expanded in the first: what was paid outside
        Stripe has none to expand.
        """
        with told_as_ours():
            path = f"/v1/invoices/{quote(invoice, safe='')}"
            found = get(self.stripe, path, {"expand": ["payments"]}, options(account))
            intent, charge, dispute, to_card = _intent(found), None, ("", 0), 0
            if intent and (found.attempt_count or found.amount_paid):
                path = f"/v1/payment_intents/{quote(_id(intent), safe='')}"
                intent = get(self.stripe, path, {"expand": ["latest_charge"]}, options(account))
                charge = intent.latest_charge
            if found.post_payment_credit_notes_amount:
                to_card = self._credited_to_card(account, invoice)
            if charge is not None and (charge.disputed or disputed):
                page = self.stripe.v1.disputes.list({"charge": charge.id, "limit": 100}, options(account))
                dispute = next((_dispute(each) for each in page.data), ""), sum(map(_charged_back, page.data))
        refunded = int(charge.amount_refunded) if charge is not None else 0
        return reading(found, intent, refunded, dispute, to_card)

    def _credited_to_card(self, account: str, invoice: str) -> int:
        """What of its credit notes is a refund of the card, minor units."""
        page = self.stripe.v1.credit_notes.list({"invoice": invoice, "limit": 100}, options(account))
        issued = (note for note in page.auto_paging_iter() if note.status == "issued")
        return sum(int(refund.amount_refunded) for note in issued for refund in note.refunds)

    def invoice_of(self, account: str, payment: str) -> str:
        """The invoice that a payment is for; empty where it is for none."""
        with told_as_ours():
            page = self.stripe.v1.invoice_payments.list(
                {"payment": {"type": "payment_intent", "payment_intent": payment}, "limit": 1}, options(account)
            )
        return next((_id(each.invoice) for each in page.data), "")

    def customer(self, account: str, customer: str) -> FoundCustomer:
        """A customer with its default card. NotFound when Stripe never had it; `deleted` when somebody deleted it."""
        with told_as_ours():
            # Two requests: what a deleted customer answers has nothing left to expand.
            found = self.stripe.v1.customers.retrieve(customer, None, options(account))
            if getattr(found, "deleted", False):
                return FoundCustomer(id=customer, deleted=True)
            settings = found.invoice_settings
            default = _id(settings.default_payment_method) if settings is not None else ""
            method = self.stripe.v1.payment_methods.retrieve(default, None, options(account)) if default else None
        metadata = _dict(found.metadata)
        card = method.card if method is not None else None
        return FoundCustomer(
            id=found.id,
            ours=OURS in metadata,
            publisher=metadata.get("publisher", ""),
            subscriber=metadata.get("subscriber", ""),
            payment_method=default or None,
            brand=card.brand if card is not None else "",
            last4=(card.last4 or "") if card is not None else "",
            expires=f"{card.exp_year:04d}-{card.exp_month:02d}" if card is not None else "",
        )

    def hosted_page(self, account: str, invoice: str) -> str:
        """Where the customer pays and authenticates. For the caller alone: never stored, never logged."""
        with told_as_ours():
            return str(self.stripe.v1.invoices.retrieve(invoice, None, options(account)).hosted_invoice_url or "")

    # --- writing ---

    def pay(self, account: str, invoice: str, bill: str, attempt: int) -> None:
        """Charge the customer's default card. CardDeclined is an answer; each attempt has a key of its own."""
        with told_as_ours():
            self.stripe.v1.invoices.pay(
                invoice, {"off_session": True}, options(account, f"{bill}:pay:{invoice}:{attempt}")
            )

    def void(self, account: str, invoice: str, key: str) -> None:
        """Nothing is owed any more."""
        with told_as_ours():
            self.stripe.v1.invoices.void_invoice(invoice, None, options(account, key))

    def write_off(self, account: str, invoice: str, key: str) -> None:
        """Owed, and not expected."""
        with told_as_ours():
            self.stripe.v1.invoices.mark_uncollectible(invoice, None, options(account, key))

    def credit(
        self, account: str, invoice: str, payment: str, amount: int, to: str, reason: str, memo: str, key: str
    ) -> str:
        """A credit note. `to`: invoice (less is open), card (money back), balance (for the customer's next invoice).

        A refund that a note makes itself leaves the platform its share: where there is one, the refund is made first.
        It is what is answered where Stripe then refuses the note: the money went back.
        """
        made_first = ""
        params: dict[str, Any] = {"invoice": invoice, "amount": amount, "metadata": {OURS: "credit_note", "key": key}}
        if to == "card" and self._has_fee(account, payment):
            made_first = self.refunded_under(account, payment, key) or self.refund(account, payment, amount, "", key)
            params["refunds"] = [{"type": "refund", "refund": made_first, "amount_refunded": amount}]
        elif to == "card":
            params["refund_amount"] = amount
        elif to == "balance":
            params["credit_amount"] = amount
        elif to == "outside":
            params["out_of_band_amount"] = amount
        if reason:
            params["reason"] = reason
        if memo:
            params["memo"] = memo
        try:
            with told_as_ours():
                made = self.stripe.v1.credit_notes.create(
                    params,  # type: ignore[arg-type] # built by part; the emulator checks it against the same types
                    options(account, key),
                )
        except AccountUnreachable:
            raise
        except ProviderRefused:
            if not made_first:
                raise
            return made_first
        return str(made.id)

    def _has_fee(self, account: str, payment: str) -> bool:
        """Whether the platform took a share of a payment: Stripe refuses to give back what it did not take."""
        with told_as_ours():
            intent = self.stripe.v1.payment_intents.retrieve(payment, {"expand": ["latest_charge"]}, options(account))
        return isinstance(intent.latest_charge, stripe.Charge) and bool(intent.latest_charge.application_fee)

    def credited_under(self, account: str, invoice: str, key: str) -> tuple[str, int] | None:
        """A credit note that was made under this key, however long ago, and its amount."""
        with told_as_ours():
            page = self.stripe.v1.credit_notes.list({"invoice": invoice, "limit": 100}, options(account))
            made = (note for note in page.auto_paging_iter() if _dict(note.metadata).get("key") == key)
            return next(((note.id, int(note.amount)) for note in made), None)

    def refund(self, account: str, payment: str, amount: int, reason: str, key: str) -> str:
        """Money back to the card, with the platform's share of it."""
        params: dict[str, Any] = {
            "payment_intent": payment,
            "amount": amount,
            "metadata": {OURS: "refund", "key": key},
        }
        if self._has_fee(account, payment):
            params["refund_application_fee"] = True
        if reason:
            params["reason"] = reason
        with told_as_ours():
            made = self.stripe.v1.refunds.create(
                params,  # type: ignore[arg-type] # built by part; the emulator checks it against the same types
                options(account, f"{key}:refund"),
            )
        return str(made.id)

    def refunded_under(self, account: str, payment: str, key: str) -> str | None:
        """A refund that was made under this key, however long ago."""
        with told_as_ours():
            page = self.stripe.v1.refunds.list({"payment_intent": payment, "limit": 100}, options(account))
            return next((each.id for each in page.auto_paging_iter() if _dict(each.metadata).get("key") == key), None)

    # --- many at once, for reconciliation ---

    def customers_since(self, account: str, since: datetime) -> Iterator[FoundCustomer]:
        """Customers that we made since an instant, without their cards. Stripe's search is up to an hour behind."""
        query = f"metadata['{OURS}']:'customer' AND created>{int(since.timestamp())}"
        with told_as_ours():
            page = self.stripe.v1.customers.search({"query": query, "limit": 100}, options(account))
            for each in page.auto_paging_iter():
                metadata = _dict(each.metadata)
                named = metadata.get("publisher", ""), metadata.get("subscriber", "")
                yield FoundCustomer(id=each.id, ours=True, publisher=named[0], subscriber=named[1])

    def invoices_of(self, account: str, customer: str, since: datetime) -> Iterator[Collected]:
        """The customer's invoices since an instant, newest first. What was refunded and disputed is asked apart."""
        with told_as_ours():
            page = self.stripe.v1.invoices.list(
                {
                    "customer": customer,
                    "created": {"gte": int(since.timestamp())},
                    "limit": 100,
                    "expand": ["data.payments"],
                },
                options(account),
            )
            for each in page.auto_paging_iter():
                yield reading(each, _intent(each), 0, ("", 0), None)

    def refunded(self, account: str, customer: str, since: datetime) -> dict[str, int]:
        """By payment: what of it was refunded, minor units."""
        with told_as_ours():
            page = self.stripe.v1.charges.list(
                {"customer": customer, "created": {"gte": int(since.timestamp())}, "limit": 100}, options(account)
            )
            return {
                _id(each.payment_intent): int(each.amount_refunded)
                for each in page.auto_paging_iter()
                if each.status == "succeeded"
            }

    def disputes(self, account: str, since: datetime) -> Iterator[tuple[str, str]]:
        """The account's disputes since an instant, newest first: the payment, and what became of it."""
        with told_as_ours():
            page = self.stripe.v1.disputes.list(
                {"created": {"gte": int(since.timestamp())}, "limit": 100}, options(account)
            )
            for each in page.auto_paging_iter():
                yield _id(each.payment_intent), _dispute(each)

    def lines(self, account: str, invoice: str) -> tuple[InvoiceLine, ...]:
        """What an invoice charges, as we sent it."""
        with told_as_ours():
            page = self.stripe.v1.invoices.line_items.list(invoice, {"limit": 100}, options(account))
            return tuple(
                InvoiceLine(
                    amount=int(each.amount),
                    description=str(each.description or ""),
                    product=_product(each),
                    period_start=_at(each.period.start),
                    period_end=_at(each.period.end),
                )
                for each in page.auto_paging_iter()
            )

    def product_live(self, account: str, product: str) -> bool:
        """Whether a product is there and not archived."""
        try:
            with told_as_ours():
                found = self.stripe.v1.products.retrieve(product, None, options(account))
        except NotFound:
            return False
        return bool(getattr(found, "active", False)) and not getattr(found, "deleted", False)

    def delete_draft(self, account: str, invoice: str) -> None:
        """Delete a draft; one that is gone already is fine."""
        try:
            with told_as_ours():
                self.stripe.v1.invoices.delete(invoice, None, options(account))
        except NotFound:
            return


def reading(found: Any, intent: Any, refunded: int, dispute: tuple[str, int], to_card: int | None) -> Collected:
    """Stripe's invoice in our words. `dispute`: what became of the newest, and what banks hold because of any."""
    metadata = _dict(found.metadata)
    moments = found.status_transitions
    failed_attempt, failure, failed_card = _failure(intent) if found.status in ("open", "uncollectible") else ("",) * 3
    return Collected(
        id=str(found.id),
        status=str(found.status),
        currency=str(found.currency),
        customer=_id(found.customer),
        subtotal=int(found.total_excluding_tax if found.total_excluding_tax is not None else found.total),
        total=int(found.total),
        tax=sum(int(tax.amount) for tax in found.total_taxes or ()),
        amount_paid=int(found.amount_paid),
        amount_remaining=int(found.amount_remaining),
        number=str(found.number or ""),
        attempts=int(found.attempt_count or 0),
        created=_at(found.created),
        bill=metadata.get("bill", "") if metadata.get(OURS) == "bill" else "",
        invoice=metadata.get("invoice", "") if metadata.get(OURS) == "bill" else "",
        paid_at=_at(moments.paid_at) if moments is not None and moments.paid_at else None,
        due_at=_at(found.due_date) if found.due_date else None,
        provider_retry_at=_at(found.next_payment_attempt) if found.next_payment_attempt else None,
        out_of_band=bool(getattr(found, "amount_paid_off_stripe", 0)) and found.status == "paid",
        carried=max(0, int(found.ending_balance or 0)) - max(0, int(found.starting_balance or 0)),
        overpaid=int(getattr(found, "amount_overpaid", 0) or 0),
        credited=int(found.pre_payment_credit_notes_amount or 0) + int(found.post_payment_credit_notes_amount or 0),
        credited_after_payment=int(found.post_payment_credit_notes_amount or 0),
        credited_to_card=to_card,
        refunded=refunded,
        disputed=dispute[0],
        charged_back=dispute[1],
        payment=_id(intent),
        failure=failure,
        failed_attempt=failed_attempt,
        failed_card=failed_card,
        lines=None if found.lines.has_more else tuple(int(each.amount) for each in found.lines.data),
    )


def _failure(intent: Any) -> tuple[str, str, str]:
    """Which attempt failed last, why, and with which payment method; empty words where none is known.

    The error is cleared when anything else of the payment changes; its failed charge stays. Asking the customer to
    authenticate makes no charge.
    """
    if intent is None or isinstance(intent, str):
        return "", "", ""
    error, charge = intent.last_payment_error, intent.latest_charge
    if intent.status == "requires_action":
        return f"{intent.id}:{ACTION}", ACTION, _id(intent.payment_method)
    if error is not None:
        code, card = str(error.decline_code or error.code or ""), _id(getattr(error, "payment_method", None))
        return str(getattr(error, "charge", None) or f"{intent.id}:{code}"), code, card
    if isinstance(charge, stripe.Charge) and charge.status == "failed":
        reason = charge.outcome.reason if charge.outcome is not None else None
        return charge.id, str(reason or charge.failure_code or ""), _id(charge.payment_method)
    return "", "", ""


def _intent(invoice: Any) -> Any:
    """The payment intent that paid it, else the one that is to."""
    payments = getattr(invoice, "payments", None)
    found = [
        each
        for each in (payments.data if payments is not None else ())
        if each.payment.type == "payment_intent" and each.payment.payment_intent is not None
    ]
    best = next((each for each in found if each.status == "paid"), found[0] if found else None)
    return best.payment.payment_intent if best is not None else None


def _product(line: Any) -> str:
    details = line.pricing.price_details if line.pricing is not None else None
    return _id(details.product) if details is not None else ""


def _dispute(dispute: Any) -> str:
    """An inquiry that came to nothing, or a dispute that was headed off, is closed: nobody decides it any more."""
    if dispute.status in ("warning_closed", "prevented"):
        return "closed"
    return str(dispute.status) if dispute.status in ("won", "lost") else "open"


def _charged_back(dispute: Any) -> int:
    """What the bank took of the payment, unless and until the dispute is won. An inquiry takes nothing."""
    takes = dispute.status in ("needs_response", "under_review", "lost")
    return int(dispute.amount) if takes else 0


def _dict(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    return {str(name): str(value) for name, value in dict(metadata.to_dict()).items()}


def _id(thing: Any) -> str:
    return "" if thing is None else str(thing if isinstance(thing, str) else thing.id)


def _at(stamp: Any) -> datetime:
    return datetime.fromtimestamp(int(stamp), UTC)
