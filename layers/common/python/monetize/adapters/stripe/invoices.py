"""Invoices on a publisher's account: one draft, its lines in one call, finalized and paid by the id that was stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import stripe

from monetize.adapters.stripe.client import options, post, told_as_ours
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
            key = f"{wanted.bill}:{wanted.attempt}:create"
            made = post(self.stripe, "/v1/invoices", params, options(wanted.account, key))
        return str(made["id"])

    def add_lines(self, wanted: DraftRequest, invoice: str, lines: Sequence[InvoiceLine]) -> HeldInvoice:
        """All lines in one call, each on its plan's product. Answers the draft as it is then.

        An unspecified tax behavior leaves it to the account.
        """
        sent = [
            {
                "description": line.description[:DESCRIPTION],
                "quantity": 1,
                "period": {"start": int(line.period_start.timestamp()), "end": int(line.period_end.timestamp())},
                "price_data": {
                    "currency": wanted.currency,
                    "product": line.product,
                    "unit_amount": line.amount,
                    **({} if line.tax_behavior == "unspecified" else {"tax_behavior": line.tax_behavior}),
                },
            }
            for line in lines[:MAX_LINES]
        ]
        with told_as_ours():
            key = f"{wanted.bill}:{wanted.attempt}:lines"
            made = self._act(invoice, "add_lines", {"lines": sent}, options(wanted.account, key))
        return self._complete(wanted.account, made)

    def retrieve(self, account: str, invoice: str) -> HeldInvoice:
        """One invoice now. NotFound when it was deleted."""
        with told_as_ours():
            found = self.stripe.v1.invoices.retrieve(invoice, None, options(account))
            return self._complete(account, _held(found.to_dict()))

    def _complete(self, account: str, held: HeldInvoice) -> HeldInvoice:
        """With every line: an invoice answers its first ten only."""
        if held.line_count_complete:
            return held
        with told_as_ours():
            page = self.stripe.v1.invoices.line_items.list(held.id, {"limit": 100}, options(account))
            lines = [line.to_dict() for line in page.auto_paging_iter()]
        return replace(held, lines=_amounts(lines), taxed=_taxed(lines), line_count_complete=True)

    def of_customer(self, account: str, customer: str, since: datetime) -> Iterator[HeldInvoice]:
        """The customer's invoices since an instant, newest first: a list is consistent, a search is an hour behind."""
        with told_as_ours():
            page = self.stripe.v1.invoices.list(
                {"customer": customer, "created": {"gte": int(since.timestamp())}, "limit": 100}, options(account)
            )
            for each in page.auto_paging_iter():
                yield _held(each.to_dict())

    def delete_draft(self, account: str, invoice: str) -> None:
        """Delete a draft; one that is gone already is fine."""
        try:
            with told_as_ours():
                self.stripe.v1.invoices.delete(invoice, None, options(account))
        except NotFound:
            return

    def finalize(self, account: str, invoice: str, bill: str, attempt: int) -> HeldInvoice:
        """Draft → open. It does not advance by itself: paying is our next step."""
        with told_as_ours():
            key = f"{bill}:{attempt}:finalize:{invoice}"
            return self._act(invoice, "finalize", {"auto_advance": False}, options(account, key))

    def pay(self, account: str, invoice: str, bill: str, attempt: int) -> HeldInvoice:
        """Charge the customer's default card. CardDeclined is an answer; each attempt has a key of its own."""
        with told_as_ours():
            key = f"{bill}:pay:{invoice}:{attempt}"
            return self._act(invoice, "pay", {"off_session": True}, options(account, key))

    def send(self, account: str, invoice: str, bill: str) -> HeldInvoice:
        """E-mail an invoice that the customer pays by itself."""
        with told_as_ours():
            return self._act(invoice, "send", {}, options(account, f"{bill}:send:{invoice}"))

    def _act(self, invoice: str, verb: str, params: dict[str, Any], chosen: Any) -> HeldInvoice:
        return _held(post(self.stripe, f"/v1/invoices/{quote(invoice, safe='')}/{verb}", params, chosen))


def _held(invoice: Mapping[str, Any]) -> HeldInvoice:
    metadata = invoice.get("metadata") or {}
    lines = invoice["lines"]
    untaxed = invoice.get("total_excluding_tax")
    return HeldInvoice(
        id=invoice["id"],
        status=str(invoice["status"]),
        currency=str(invoice["currency"]),
        customer=str(invoice["customer"]),
        subtotal=int(untaxed if untaxed is not None else invoice["total"]),
        listed=int(invoice["subtotal"]),
        total=int(invoice["total"]),
        tax=sum(int(tax["amount"]) for tax in invoice.get("total_taxes") or ()),
        amount_paid=int(invoice["amount_paid"]),
        amount_remaining=int(invoice["amount_remaining"]),
        number=str(invoice.get("number") or ""),
        lines=_amounts(lines["data"]),
        taxed=_taxed(lines["data"]),
        line_count_complete=not lines["has_more"],
        bill=str(metadata.get("bill", "")),
        attempt=int(metadata.get("attempt", 0)),
        created=datetime.fromtimestamp(int(invoice["created"]), UTC),
        collection=str(invoice["collection_method"]),
        due_at=datetime.fromtimestamp(int(invoice["due_date"]), UTC) if invoice.get("due_date") else None,
        attempted=int(invoice.get("attempt_count") or 0),
        hosted_url=str(invoice.get("hosted_invoice_url") or ""),
        pdf_url=str(invoice.get("invoice_pdf") or ""),
    )


def _amounts(lines: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(int(line["amount"]) for line in lines)


def _taxed(lines: Sequence[Mapping[str, Any]]) -> frozenset[tuple[int, str]]:
    return frozenset(
        (int(line["amount"]), str(tax["tax_behavior"])) for line in lines for tax in line.get("taxes") or ()
    )
