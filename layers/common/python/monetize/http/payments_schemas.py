"""What people ask of an invoice after it was sent, and what they are told."""

from typing import Annotated, Literal, Self

from pydantic import Field

from monetize.domain.dunning import Action
from monetize.domain.invoices import Invoice
from monetize.http.schemas import Instant, Int, RequestModel, ResponseModel, Text

Amount = Annotated[Int, Field(ge=1, le=10**12, description="Minor units of the invoice's currency; null: all of it")]


class CreditNoteRequest(RequestModel):
    """A credit note: less to pay on an open invoice; on a paid one money or balance back."""

    amount: Amount | None = None
    to: Annotated[
        Literal["invoice", "card", "balance", "outside"] | None,
        Field(description="Of a paid invoice: money back to the card, the customer's balance, or outside Stripe"),
    ] = None
    reason: Literal["duplicate", "fraudulent", "order_change", "product_unsatisfactory"] | None = None
    memo: Text = ""


class RefundRequest(RequestModel):
    """Money back to the card that paid."""

    amount: Amount | None = None
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None


class PaymentStep(ResponseModel):
    """One line of an invoice's history."""

    at: Instant
    what: str
    detail: str


class InvoicePaymentResponse(ResponseModel):
    """An invoice's payment as it stands. Money in minor units of `currency`."""

    id: str
    status: str
    currency: str
    total: int
    amount_paid: int
    amount_remaining: int
    credited: int
    refunded: int
    disputed: str
    charged_back: int
    attempts: int
    failure: str
    action_required: bool
    out_of_band: bool
    next_attempt_at: Instant | None
    paid_at: Instant | None
    history: tuple[PaymentStep, ...]

    @classmethod
    def of(cls, invoice: Invoice) -> Self:
        """From the entity."""
        return cls.model_validate(invoice)


class ActionResponse(ResponseModel):
    """What was done, and the invoice after it."""

    action: str
    amount: int
    made: str
    done_at: Instant | None
    invoice: InvoicePaymentResponse

    @classmethod
    def of(cls, invoice: Invoice, action: Action) -> Self:
        """From what was done."""
        return cls(
            action=action.what,
            amount=action.amount,
            made=action.made,
            done_at=action.done_at,
            invoice=InvoicePaymentResponse.of(invoice),
        )


class PaymentLinkResponse(ResponseModel):
    """Where the invoice is paid and authenticated, at Stripe. For the caller alone."""

    url: str
