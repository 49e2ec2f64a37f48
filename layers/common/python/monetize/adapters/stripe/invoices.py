"""Invoices on a publisher's account: one draft, its lines in one call, finalized and paid by the id that was stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import stripe

from monetize.adapters.stripe.client import options, told_as_ours
from monetize.domain.collecting import DraftRequest, HeldInvoice, InvoiceLine
from monetize.domain.errors import NotFound
from monetize.domain.stripe_events import OURS

MAX_LINES = 250  # Stripe's limit for one invoice
DESCRIPTION = 500  # characters of a line's description that Stripe takes


@dataclass(frozen=True, slots=True)
class StripeInvoices:
    """Writes carry keys derived from the bill: the same step repeated is the same request."""

    stripe: stripe.StripeClient

    def create_draft(self, wanted: DraftRequest) -> str:
        """An empty draft that advances only when we say so. Answers its id."""
        params: dict[str, Any] = {
            "customer": wanted.customer,
            "currency": wanted.currency,
            "auto_advance": False,
            "collection_method": wanted.collection,
            "pending_invoice_items_behavior": "exclude",
            "discounts": "",
            "description": wanted.description,
            "metadata": {
                OURS: "bill",
                "bill": wanted.bill,
                "invoice": wanted.invoice,
                "attempt": str(wanted.attempt),
                "subscription": wanted.subscription,
            },
        }
        if wanted.collection == "send_invoice":
            params["days_until_due"] = wanted.days_until_due
        if wanted.automatic_tax:
            params["automatic_tax"] = {"enabled": True}
        if wanted.application_fee:
            params["application_fee_amount"] = wanted.application_fee
        if wanted.footer:
            params["footer"] = wanted.footer
        if wanted.custom_fields:
            params["custom_fields"] = [{"name": name, "value": value} for name, value in wanted.custom_fields]
        with told_as_ours():
            made = self.stripe.v1.invoices.create(
                params,  # type: ignore[arg-type] # built by part; the emulator checks it against the same types
                options(wanted.account, f"{wanted.bill}:{wanted.attempt}:create"),
            )
        return str(made.id)

    def add_lines(self, wanted: DraftRequest, invoice: str, lines: Sequence[InvoiceLine], tax: str) -> HeldInvoice:
        """All lines in one call, each on the plan's product. Answers the draft as it is then.

        `tax` is the plan's tax behavior; unspecified leaves it to the account.
        """
        behavior = {} if tax == "unspecified" else {"tax_behavior": tax}
        sent = [
            {
                "description": line.description[:DESCRIPTION],
                "quantity": 1,
                "period": {"start": int(line.period_start.timestamp()), "end": int(line.period_end.timestamp())},
                "price_data": {
                    "currency": wanted.currency,
                    "product": line.product,
                    "unit_amount": line.amount,
                    **behavior,
                },
            }
            for line in lines[:MAX_LINES]
        ]
        with told_as_ours():
            made = self.stripe.v1.invoices.add_lines(
                invoice,
                {"lines": sent},  # type: ignore[typeddict-item] # see create_draft
                options(wanted.account, f"{wanted.bill}:{wanted.attempt}:lines"),
            )
        return self._complete(wanted.account, _held(made))

    def retrieve(self, account: str, invoice: str) -> HeldInvoice:
        """One invoice now. NotFound when it was deleted."""
        with told_as_ours():
            return self._complete(account, _held(self.stripe.v1.invoices.retrieve(invoice, None, options(account))))

    def _complete(self, account: str, held: HeldInvoice) -> HeldInvoice:
        """With every line: an invoice answers its first ten only."""
        if held.line_count_complete:
            return held
        with told_as_ours():
            page = self.stripe.v1.invoices.line_items.list(held.id, {"limit": 100}, options(account))
            amounts = tuple(int(line.amount) for line in page.auto_paging_iter())
        return replace(held, lines=amounts, line_count_complete=True)

    def of_customer(self, account: str, customer: str, since: datetime) -> Iterator[HeldInvoice]:
        """The customer's invoices since an instant, newest first: a list is consistent, a search is an hour behind."""
        with told_as_ours():
            page = self.stripe.v1.invoices.list(
                {"customer": customer, "created": {"gte": int(since.timestamp())}, "limit": 100}, options(account)
            )
            for each in page.auto_paging_iter():
                yield _held(each)

    def delete_draft(self, account: str, invoice: str) -> None:
        """Delete a draft; one that is gone already is fine."""
        try:
            with told_as_ours():
                self.stripe.v1.invoices.delete(invoice, None, options(account))
        except NotFound:
            return

    def finalize(self, account: str, invoice: str, bill: str) -> HeldInvoice:
        """Draft → open. It does not advance by itself: paying is our next step."""
        with told_as_ours():
            return _held(
                self.stripe.v1.invoices.finalize_invoice(
                    invoice, {"auto_advance": False}, options(account, f"{bill}:finalize:{invoice}")
                )
            )

    def pay(self, account: str, invoice: str, bill: str, attempt: int) -> HeldInvoice:
        """Charge the customer's default card. CardDeclined is an answer; each attempt has a key of its own."""
        with told_as_ours():
            return _held(
                self.stripe.v1.invoices.pay(
                    invoice, {"off_session": True}, options(account, f"{bill}:pay:{invoice}:{attempt}")
                )
            )

    def send(self, account: str, invoice: str, bill: str) -> HeldInvoice:
        """E-mail an invoice that the customer pays by itself."""
        with told_as_ours():
            return _held(
                self.stripe.v1.invoices.send_invoice(invoice, None, options(account, f"{bill}:send:{invoice}"))
            )


def _held(invoice: Any) -> HeldInvoice:
    metadata = invoice.metadata or {}
    taxes = getattr(invoice, "total_taxes", None) or ()
    lines = invoice.lines
    return HeldInvoice(
        id=invoice.id,
        status=str(invoice.status),
        currency=str(invoice.currency),
        customer=str(invoice.customer),
        subtotal=int(invoice.total_excluding_tax if invoice.total_excluding_tax is not None else invoice.total),
        total=int(invoice.total),
        tax=sum(int(tax.amount) for tax in taxes),
        amount_paid=int(invoice.amount_paid),
        amount_remaining=int(invoice.amount_remaining),
        number=str(invoice.number or ""),
        lines=tuple(int(line.amount) for line in lines.data),
        line_count_complete=not lines.has_more,
        bill=str(metadata["bill"]) if "bill" in metadata else "",
        attempt=int(metadata["attempt"]) if "attempt" in metadata else 0,
        created=datetime.fromtimestamp(int(invoice.created), UTC),
        attempted=int(invoice.attempt_count or 0),
        hosted_url=str(invoice.hosted_invoice_url or ""),
        pdf_url=str(invoice.invoice_pdf or ""),
    )
