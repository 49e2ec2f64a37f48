"""Routes of what is done to an invoice after it was sent. The function that has `/invoices` registers them."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

from monetize.domain.dunning import Action
from monetize.domain.invoices import Invoice
from monetize.http import resolver
from monetize.http.caller import PUBLISHER_ADMIN, PUBLISHER_VIEWER, SUBSCRIBER, Caller
from monetize.http.payments_schemas import (
    ActionResponse,
    CreditNoteRequest,
    PaymentLinkResponse,
    RefundRequest,
)

TAGS = ["invoices"]


@dataclass(frozen=True, slots=True)
class Actions:
    """What the routes call. `act(caller, invoice, what, idempotency key, details)` carries a request out, once."""

    act: Callable[[Caller, str, str, str, dict[str, Any]], tuple[Invoice, Action]]
    hosted_page: Callable[[Caller, str], str]


def register(app: APIGatewayHttpResolver, actions: Callable[[], Actions]) -> None:
    """Add the routes. Every POST needs an Idempotency-Key, which is its natural key for ever."""

    def done(invoice: str, what: str, **details: Any) -> Response[ActionResponse]:
        who = resolver.who(app, PUBLISHER_ADMIN)
        after, action = actions().act(who, invoice, what, resolver.idempotency_key(app), details)
        return resolver.reply(ActionResponse.of(after, action), status=HTTPStatus.OK, rev=after.rev)

    @app.post("/invoices/<invoice>/credit-notes", summary="Credit an invoice", tags=TAGS)
    def post_credit_note(invoice: str, body: CreditNoteRequest) -> Response[ActionResponse]:
        return done(invoice, "credit", amount=body.amount, to=body.to or "", reason=body.reason or "", memo=body.memo)

    @app.post("/invoices/<invoice>/refunds", summary="Refund what was paid by card", tags=TAGS)
    def post_refund(invoice: str, body: RefundRequest) -> Response[ActionResponse]:
        return done(invoice, "refund", amount=body.amount, reason=body.reason or "")

    @app.post("/invoices/<invoice>/void", summary="Void an unpaid invoice", tags=TAGS)
    def post_void(invoice: str) -> Response[ActionResponse]:
        return done(invoice, "void")

    @app.post("/invoices/<invoice>/mark-uncollectible", summary="Write an unpaid invoice off", tags=TAGS)
    def post_mark_uncollectible(invoice: str) -> Response[ActionResponse]:
        return done(invoice, "write_off")

    @app.post("/invoices/<invoice>/retry", summary="Charge an unpaid invoice now", tags=TAGS)
    def post_retry(invoice: str) -> Response[ActionResponse]:
        return done(invoice, "retry")

    @app.get("/invoices/<invoice>/payment-link", summary="Where to pay and authenticate", tags=TAGS)
    def get_payment_link(invoice: str) -> Response[PaymentLinkResponse]:
        who = resolver.who(app, SUBSCRIBER, PUBLISHER_ADMIN, PUBLISHER_VIEWER)
        return resolver.reply(PaymentLinkResponse(url=actions().hosted_page(who, invoice)))
