"""Requests and answers of onboarding."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field

from monetize.domain.offers import time_of
from monetize.domain.publishers import BillingSettings, Publisher
from monetize.http.schemas import (
    Bool,
    Count,
    DecimalText,
    Instant,
    Int,
    Minor,
    Name,
    RequestModel,
    ResponseModel,
    Text,
)


class ConnectRequest(RequestModel):
    """Begin the connection; come back to `return_to`, a path of the portal."""

    return_to: Annotated[str, Field(max_length=200, examples=["/monetization"])] = "/monetization"


class ConnectResponse(ResponseModel):
    """Where to send the browser."""

    authorize_url: str


class EnableRequest(RequestModel):
    """The token that the browser found in the URL fragment when it came back."""

    completion: Annotated[str, Field(min_length=20, max_length=200)]


class AccountResponse(ResponseModel):
    """A connected Stripe account, to be shown to its owner."""

    account: str
    name: str
    country: str
    currency: str
    charges_enabled: bool
    requirements: list[str]


class SettingsBody(RequestModel):
    """How a publisher bills. Money in minor units."""

    grace_hours: Annotated[Int, Field(ge=1, le=168)] = 24
    late_window_days: Annotated[Int, Field(ge=1, le=60)] = 35
    collection: Literal["charge_automatically", "send_invoice"] = "charge_automatically"
    days_until_due: Annotated[Int, Field(ge=1, le=90)] = 14
    automatic_tax: Bool = False
    memo: Annotated[Text, Field(description="On every invoice, instead of the bill's name")] = ""
    footer: Text = ""
    custom_fields: Annotated[tuple[tuple[Name, Name], ...], Field(max_length=4)] = ()
    retry_days: Annotated[tuple[Annotated[Int, Field(ge=1, le=30)], ...], Field(max_length=8)] = (1, 3, 5, 7)
    payment_grace_days: Annotated[Int, Field(ge=0, le=60)] = 3
    hold_above: Minor | None = None
    hold_times_last: Annotated[Int, Field(ge=2, le=1000)] | None = None
    fail_open: Bool = True
    approval: Bool = False
    threshold_percents: Annotated[tuple[Annotated[Int, Field(ge=1, le=1000)], ...], Field(max_length=8)] = (85, 100)
    threshold_amounts: Annotated[tuple[Minor, ...], Field(max_length=8)] = ()

    def to_settings(self) -> BillingSettings:
        """As the domain holds them."""
        return BillingSettings(
            grace_hours=self.grace_hours,
            late_window_days=self.late_window_days,
            collection=self.collection,
            days_until_due=self.days_until_due,
            automatic_tax=self.automatic_tax,
            memo=self.memo,
            footer=self.footer,
            custom_fields=self.custom_fields,
            retry_days=self.retry_days,
            payment_grace_days=self.payment_grace_days,
            hold_above=self.hold_above,
            hold_times_last=self.hold_times_last,
            fail_open=self.fail_open,
            approval=self.approval,
            threshold_percents=self.threshold_percents,
            threshold_amounts=self.threshold_amounts,
        )


class FeeBody(RequestModel):
    """The platform's share of an invoice: `percent` of its subtotal, 0 to 100, and `fixed` minor units of its currency.

    Together never more than the subtotal.
    """

    percent: DecimalText
    fixed: Minor

    @classmethod
    def of(cls, publisher: Publisher) -> Self:
        """From the domain."""
        return cls(percent=publisher.fee_percent, fixed=publisher.fee_fixed)


class PublisherResponse(ResponseModel):
    """Monetization of one organization."""

    organization: str
    status: Literal["new", "enabled", "disconnected"]
    restricted: bool
    stripe: AccountResponse | None
    pending: AccountResponse | None
    settings: dict[str, object]
    fee: FeeBody
    sandbox: bool
    created_at: Instant
    enabled_at: Instant | None

    @classmethod
    def of(cls, publisher: Publisher) -> Self:
        """What its owner may see of it."""
        link, pending = publisher.stripe, publisher.pending
        settings = SettingsBody.model_validate(publisher.settings, from_attributes=True)
        return cls(
            organization=publisher.id,
            status=publisher.status,
            restricted=link is not None and not link.usable,
            stripe=AccountResponse.model_validate(link) if link else None,
            pending=AccountResponse.model_validate(pending) if pending else None,
            settings=settings.model_dump(),
            fee=FeeBody.of(publisher),
            sandbox=publisher.sandbox,
            created_at=publisher.created_at,
            enabled_at=publisher.enabled_at,
        )


class SandboxResponse(ResponseModel):
    """A publisher with a clock of its own, and what it shows."""

    publisher: str
    sandbox: bool
    now: Instant

    @classmethod
    def of(cls, publisher: Publisher, now: datetime) -> Self:
        """From the domain."""
        return cls(publisher=publisher.id, sandbox=publisher.sandbox, now=time_of(publisher, now))


class EnableResponse(ResponseModel):
    """The confirmation: what was configured."""

    message: str
    publisher: PublisherResponse
    tiers: list[str]


class DisconnectResponse(ResponseModel):
    """What letting go leaves."""

    publisher: PublisherResponse
    unbilled_subscriptions: Count
