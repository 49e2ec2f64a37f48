"""Requests and answers of applications and subscriptions."""

from datetime import date, datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from monetize.domain.invoices import BillLines
from monetize.domain.keys import ApiKey
from monetize.domain.money import format_amount
from monetize.domain.offers import Estimate, OrderSummary
from monetize.domain.plans import Charge
from monetize.domain.price_words import charge_in_words
from monetize.domain.subscriptions import (
    Application,
    Contact,
    Customer,
    Discount,
    Subscriber,
    Subscription,
    status_at,
)
from monetize.http.schemas import Bool, DecimalText, Id, Instant, Minor, Name, RequestModel, ResponseModel, Text

Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+\.[^@\s\x00-\x1f\x7f]+$"),
    Field(examples=["dev@example.com"]),
]
Short = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Country = Annotated[str, StringConstraints(pattern=r"^([A-Z]{2})?$"), Field(description="ISO 3166-1 alpha-2")]
Environment = Literal["production", "sandbox"]


class ContactBody(RequestModel):
    """Billing and contact information."""

    name: Name
    email: Email
    line1: Short = ""
    line2: Short = ""
    city: Short = ""
    state: Short = ""
    postal_code: Short = ""
    country: Country = ""
    phone: Annotated[str, StringConstraints(max_length=20, pattern=r"^[0-9+() .-]*$")] = ""

    def to_contact(self) -> Contact:
        """As the domain has it."""
        return Contact(**self.model_dump())


class ContactResponse(ResponseModel):
    """Billing and contact information."""

    name: str
    email: str
    line1: str
    line2: str
    city: str
    state: str
    postal_code: str
    country: str
    phone: str


# --- applications ---


class ApplicationRequest(RequestModel):
    """A new application, for the APIs of one publisher."""

    publisher: Id
    name: Name
    description: Text = ""


class ApplicationChange(RequestModel):
    """An application as it is to be."""

    name: Name
    description: Text = ""


class ApplicationResponse(ResponseModel):
    """An application. `live` counts its subscriptions that have not ended."""

    id: str
    publisher: str
    name: str
    description: str
    live: int
    created_at: Instant

    @classmethod
    def of(cls, application: Application) -> Self:
        """From the domain."""
        return cls.model_validate(application)


class ApplicationsResponse(ResponseModel):
    """Some of the caller's applications."""

    items: list[ApplicationResponse]
    cursor: str | None


# --- order summary ---


class PreviewRequest(RequestModel):
    """A publisher's API (or bundle) at one of its tiers."""

    publisher: Id
    product: Id
    tier: Id


class AllowanceResponse(ResponseModel):
    """Units that cost nothing."""

    quantity: int
    per: str


class ChargeResponse(ResponseModel):
    """One priced item, and what it says in words."""

    id: str
    name: str
    model: str
    meter: str | None
    amount: int | None
    interval: str
    timing: str
    unit_price: str | None
    package_size: int | None
    allowance: AllowanceResponse | None
    tiers: list[dict[str, str | int | None]]
    words: str

    @classmethod
    def of(cls, charge: Charge, currency: str) -> Self:
        """From the domain."""
        return cls(
            id=charge.id,
            name=charge.name,
            model=charge.model,
            meter=charge.meter,
            amount=charge.amount,
            interval=charge.interval,
            timing=charge.timing,
            unit_price=None if charge.unit_price is None else f"{charge.unit_price:f}",
            package_size=charge.package_size,
            allowance=None if charge.allowance is None else AllowanceResponse.model_validate(charge.allowance),
            tiers=[
                {"up_to": tier.up_to, "unit_price": f"{tier.unit_price:f}", "flat_amount": tier.flat_amount}
                for tier in charge.tiers
            ],
            words=charge_in_words(charge, currency, {}),
        )


class OrderSummaryResponse(ResponseModel):
    """What subscribing now would mean. Money in minor units of `currency`, before tax."""

    tier: str
    tier_name: str
    plan: str | None
    version: int | None
    currency: str | None
    starts_at: Instant
    trial_ends_at: Instant | None
    first_bill_at: Instant | None
    first_amount: int
    first_amount_text: str | None
    first_period_ends_at: Instant | None
    next_bill_at: Instant | None
    recurring_month: int
    recurring_year: int
    minimum: int | None
    maximum: int | None
    charges: list[ChargeResponse]
    card_on_file: bool
    needs_payment_method: bool
    needs_approval: bool

    @classmethod
    def of(cls, order: OrderSummary) -> Self:
        """From the domain."""
        terms = order.version.terms if order.version else None
        currency = terms.currency if terms else None
        return cls(
            tier=order.tier.id,
            tier_name=order.tier.name,
            plan=order.version.plan if order.version else None,
            version=order.version.number if order.version else None,
            currency=currency,
            starts_at=order.starts_at,
            trial_ends_at=order.trial_ends_at,
            first_bill_at=order.first_bill_at,
            first_amount=order.first_amount,
            first_amount_text=format_amount(order.first_amount, currency) if currency else None,
            first_period_ends_at=order.first_period_ends_at,
            next_bill_at=order.next_bill_at,
            recurring_month=order.recurring_month,
            recurring_year=order.recurring_year,
            minimum=terms.minimum if terms else None,
            maximum=terms.maximum if terms else None,
            charges=[ChargeResponse.of(charge, currency) for charge in terms.charges] if terms and currency else [],
            card_on_file=order.card_on_file,
            needs_payment_method=terms is not None and not order.card_on_file,
            needs_approval=order.approval,
        )


# --- subscriptions ---


class SubscribeRequest(RequestModel):
    """An order. A commercial tier needs `contact`, unless the publisher knows it already."""

    publisher: Id
    application: Id
    product: Id
    tier: Id
    contact: ContactBody | None = None
    invoice_email: Email | None = None
    spend_cap: Minor | None = None


class CheckoutResponse(ResponseModel):
    """Where to leave a card. The address is shown here alone."""

    id: str
    url: str
    expires_at: Instant


class SpanResponse(ResponseModel):
    """From `start` on, what one plan version says holds."""

    start: Instant
    kind: str
    tier: str
    plan: str | None
    version: int | None


class ChangeResponse(ResponseModel):
    """A change of tier that waits for its instant."""

    at: Instant
    tier: str
    plan: str | None
    version: int | None


class StepResponse(ResponseModel):
    """What the machine did, and when."""

    at: Instant
    what: str
    detail: str


class TopUpResponse(ResponseModel):
    """Extra allowance, for the one period that `counts_from` is in."""

    id: str
    meter: str
    quantity: int
    counts_from: Instant


class DiscountResponse(ResponseModel):
    """Off each bill, or off the one bill that takes it when it is claimed: `used_by`. Percent, or minor units."""

    id: str
    percent: str | None
    amount: int | None
    once: bool
    used_by: str | None


class SubscriptionResponse(ResponseModel):
    """A subscription, as its subscriber and its publisher see it. Caps in minor units of `currency`."""

    id: str
    publisher: str
    subscriber: str
    application: str
    product: str
    apis: list[str]
    tier: str
    status: str
    payment_state: str
    past_due_since: Instant | None
    block: str
    block_reason: str
    plan: str | None
    version: int | None
    currency: str
    spans: list[SpanResponse]
    next_bill_at: Instant | None = Field(validation_alias="next_edge")
    last_bill_at: Instant | None = Field(validation_alias="last_edge")
    change: ChangeResponse | None
    cancel_at: Instant | None
    ended_at: Instant | None
    end_reason: str
    pending_until: Instant | None
    checkout_expires_at: Instant | None
    spend_cap: int | None
    publisher_spend_cap: int | None
    topups: list[TopUpResponse]
    discounts: list[DiscountResponse]
    history: list[StepResponse]
    invoice_email: str
    created_at: Instant
    activated_at: Instant | None
    checkout: CheckoutResponse | None = None

    @classmethod
    def of(cls, subscription: Subscription, at: Instant, checkout: object = None) -> Self:
        """From the domain, as it stands at an instant."""
        model = cls.model_validate(_Seen(subscription))
        shown = None if checkout is None else CheckoutResponse.model_validate(checkout)
        return model.model_copy(update={"status": status_at(subscription, at), "checkout": shown})


class _Seen:
    """A subscription without its stored session id: `checkout` of an answer is the address alone."""

    checkout = None

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __getattr__(self, name: str) -> object:
        return getattr(self._subscription, name)


class SubscriptionsResponse(ResponseModel):
    """Some of a list."""

    items: list[SubscriptionResponse]
    cursor: str | None


class ChangeRequest(RequestModel):
    """Another tier of the same API: now, or when the period ends."""

    tier: Id
    when: Literal["now", "period_end"] = "period_end"


class ChangePreviewResponse(ResponseModel):
    """An estimate. Money in minor units of `currency`, before tax and discounts, without usage. `due` < 0 is credit."""

    tier: str
    plan: str | None
    version: int | None
    currency: str
    upgrade: bool
    takes_effect_at: Instant
    credit: int
    charge: int
    due: int
    next_bill_at: Instant | None
    needs_payment_method: bool

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """From the service."""
        version = estimate.version
        return cls(
            tier=estimate.tier,
            plan=version.plan if version else None,
            version=version.number if version else None,
            currency=estimate.currency,
            upgrade=estimate.upgrade,
            takes_effect_at=estimate.takes_effect_at,
            credit=estimate.credit,
            charge=estimate.charge,
            due=estimate.due,
            next_bill_at=estimate.next_bill_at,
            needs_payment_method=estimate.needs_payment_method,
        )


class CancelRequest(RequestModel):
    """Now, or when the period ends."""

    when: Literal["now", "period_end"] = "period_end"
    reason: Short = ""


class BlockRequest(RequestModel):
    """What to keep out, and why; the subscriber sees both."""

    scope: Literal["production", "all"]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class RejectRequest(RequestModel):
    """Why."""

    reason: Short = ""


class SpendCapBody(RequestModel):
    """The most a period may cost, in minor units; null lifts it. Subscriber and publisher have one each."""

    spend_cap: Minor | None


class ShardsBody(RequestModel):
    """Over how many partitions a hot subscription's usage of a month is spread; set before the month begins."""

    month: Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2026-04"])]
    count: Annotated[int, Field(strict=True, ge=1, le=64)]


class ShardsResponse(ResponseModel):
    """Every month whose usage is spread."""

    shards: list[ShardsBody]


class PaymentGraceBody(RequestModel):
    """How many days an unpaid invoice of this subscriber leaves access open; null leaves it to the plan."""

    days: Annotated[int, Field(strict=True, ge=0, le=365)] | None


class TopUpRequest(RequestModel):
    """Extra allowance in the running period."""

    meter: Id
    quantity: Annotated[int, Field(strict=True, ge=1, le=10**15 - 1)]


class DiscountRequest(RequestModel):
    """A percentage above 0 and at most 100, or an amount in minor units: off every bill, or `once`."""

    percent: DecimalText | None = None
    amount: Annotated[Minor, Field(ge=1)] | None = None
    once: Bool = False

    def to_discount(self) -> Discount:
        """As the domain has it, before it has an id."""
        return Discount(id="", percent=self.percent, amount=self.amount, once=self.once)


# --- keys ---


class KeyRequest(RequestModel):
    """A key for one environment."""

    environment: Environment = "production"
    name: Short = ""


class RotateRequest(RequestModel):
    """How long the old key goes on working."""

    overlap_hours: Annotated[int, Field(strict=True, ge=0, le=720)] = 24


class KeyResponse(ResponseModel):
    """A key without its text."""

    id: str
    environment: str
    name: str
    hint: str
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """From the domain."""
        return cls.model_validate(key)


class IssuedKeyResponse(ResponseModel):
    """A new key. `key` is its text, in this answer alone; a repeat answers `already_shown` instead."""

    id: str
    environment: str
    name: str
    hint: str
    key: str | None
    already_shown: bool
    created_at: Instant
    expires_at: Instant | None


class KeysResponse(ResponseModel):
    """The keys of a subscription."""

    items: list[KeyResponse]
    cursor: str | None


# --- the subscriber itself ---


class CardResponse(ResponseModel):
    """The card on file at one publisher."""

    brand: str
    last4: str
    expires: str


class SubscriberRequest(RequestModel):
    """Billing and contact information at one publisher."""

    publisher: Id
    contact: ContactBody


class SubscriberResponse(ResponseModel):
    """The caller's organization at one publisher."""

    id: str
    publisher: str
    contact: ContactResponse | None
    card: CardResponse | None
    payment_grace_days: int | None
    erased_at: Instant | None

    @classmethod
    def of(cls, subscriber: Subscriber, customer: Customer | None) -> Self:
        """From the domain, with the customer at the publisher's present account."""
        card = customer if customer is not None and customer.payment_method else None
        return cls(
            id=subscriber.id,
            publisher=subscriber.publisher,
            contact=None if subscriber.contact is None else ContactResponse.model_validate(subscriber.contact),
            card=None if card is None else CardResponse.model_validate(card),
            payment_grace_days=subscriber.payment_grace_days,
            erased_at=subscriber.erased_at,
        )


class EraseRequest(RequestModel):
    """At which publisher the caller's data is to be erased."""

    publisher: Id


class PortalResponse(ResponseModel):
    """Stripe's own page for cards, tax ids and invoices. The address is shown here alone."""

    url: str


# --- usage and the running period ---


class UsageRow(ResponseModel):
    """A quantity. `day` is None in a sum over days."""

    meter: str
    day: date | None
    quantity: int


class UsageResponse(ResponseModel):
    """What was counted, as of an instant. `sealed_through`: up to which day of a month it is final."""

    subscription: str
    environment: str
    as_of: Instant
    items: list[UsageRow]
    sealed_through: dict[str, date | None]


class BatchResponse(ResponseModel):
    """One received batch of one day: quantities by meter."""

    batch: str
    shard: int
    events: int
    quantities: dict[str, int]
    received_at: Instant


class LedgerResponse(ResponseModel):
    """Some of the batches behind a day's numbers."""

    subscription: str
    day: date
    items: list[BatchResponse]
    cursor: str | None


class UpcomingLine(ResponseModel):
    """A line as it would stand on the invoice now, its arithmetic in words."""

    id: str
    kind: str
    description: str
    meter: str | None
    used: int
    amount: int
    period_start: Instant
    period_end: Instant


class UpcomingResponse(ResponseModel):
    """The next bill by the usage counted so far, minor units before tax. Without `bill_at` none is to come."""

    as_of: Instant
    currency: str
    bill_at: Instant | None
    due_at: Instant | None
    subtotal: int
    carry_out: Annotated[int, Field(description="Credit that is left for the bill after it, zero or less")]
    application_fee: Annotated[int | None, Field(description="The platform's share; told to the publisher alone")]
    lines: list[UpcomingLine]

    @classmethod
    def of(
        cls,
        as_of: datetime,
        currency: str,
        bill_at: datetime | None,
        due_at: datetime | None,
        lines: BillLines | None,
        *,
        publishers: bool,
    ) -> Self:
        """From a bill that was rated without being claimed."""
        return cls(
            as_of=as_of,
            currency=currency,
            bill_at=bill_at,
            due_at=due_at,
            subtotal=lines.subtotal if lines else 0,
            carry_out=sum(each.amount for each in lines.carried) if lines else 0,
            application_fee=(lines.application_fee if lines else 0) if publishers else None,
            lines=[
                UpcomingLine(
                    id=line.id,
                    kind=line.kind,
                    description=line.description,
                    meter=line.meter,
                    used=line.used,
                    amount=line.amount,
                    period_start=line.period.start,
                    period_end=line.period.end,
                )
                for line in (lines.lines if lines else ())
            ],
        )
