"""What the catalog's routes read and answer."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, PlainSerializer, StringConstraints

from monetize.domain.catalog import Move, Product, Throttle, Tier
from monetize.domain.errors import Invalid
from monetize.domain.keys import GatewayKey
from monetize.domain.meters import Filter, Meter
from monetize.domain.money import format_amount, parse_unit_price
from monetize.domain.offering import (
    Estimate,
    MadeKey,
    MeterTerms,
    MoveRequest,
    Offered,
    PlanDraft,
    Priced,
    ProductTerms,
    Question,
    Shown,
    TierTerms,
)
from monetize.domain.plans import (
    Allowance,
    Charge,
    Plan,
    PlanTerms,
    PlanVersion,
    PriceTier,
    Quota,
    wso2_terms,
)
from monetize.domain.price_words import in_words
from monetize.http.schemas import Bool, Count, Id, Instant, Int, Name, RequestModel, ResponseModel, Text, to_cursor

type Label = Literal["FREE", "PAID", "FREEMIUM"]
type Environment = Literal["production", "sandbox"]
Environments = Annotated[tuple[Environment, ...], Field(min_length=1, max_length=2)]
Limit = Annotated[int, Field(ge=1, le=10**9)]
Property = Annotated[str, StringConstraints(min_length=1, max_length=100)]
# Looser than `DecimalText`: what is wrong with a price is said by the domain, with a code of its own.
PriceText = Annotated[
    str, StringConstraints(max_length=64), Field(description="Minor units, an exact decimal of at most 12 decimals")
]
Price = Annotated[
    Decimal,
    PlainSerializer(lambda price: f"{price:f}", return_type=str),
    Field(description="Minor units, an exact decimal"),
]


# Beyond these years a calendar has no next month, and a typing mistake no sense.
PlainDate = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2199, 12, 31))]
DailyUsage = Annotated[dict[PlainDate, Count], Field(max_length=31)]


class ThrottleBody(RequestModel):
    """Requests at most; null is unlimited."""

    per_second: Limit | None = None
    per_minute: Limit | None = None
    per_hour: Limit | None = None
    per_day: Limit | None = None
    burst: Limit | None = None

    def to_domain(self) -> Throttle:
        return Throttle(**self.model_dump())


class ThrottleResponse(ResponseModel):
    """Requests at most; null is unlimited."""

    per_second: int | None
    per_minute: int | None
    per_hour: int | None
    per_day: int | None
    burst: int | None


class TierRequest(RequestModel):
    """A subscription policy. A commercial one names the plan that says what it costs."""

    name: Name
    description: Text = ""
    commercial: Bool = False
    plan: Id | None = None
    throttle: ThrottleBody = ThrottleBody()

    def to_terms(self) -> TierTerms:
        return TierTerms(
            name=self.name,
            description=self.description,
            commercial=self.commercial,
            plan=self.plan,
            throttle=self.throttle.to_domain(),
        )


class TierResponse(ResponseModel):
    """A subscription policy. `in_use`: to how many APIs and bundles it is applied."""

    id: str
    name: str
    description: str
    commercial: bool
    plan: str | None
    throttle: ThrottleResponse
    in_use: int
    created_at: Instant


class TierList(ResponseModel):
    """Some tiers; `cursor` asks for the rest."""

    items: list[TierResponse]
    cursor: str | None

    @classmethod
    def of(cls, tiers: tuple[Tier, ...], after: str | None) -> Self:
        return cls(items=[TierResponse.model_validate(it) for it in tiers], cursor=to_cursor(after))


# ---- meters


class FilterBody(RequestModel):
    """`data[property]` must be one of `values` or a number within one of `ranges`, both ends included."""

    property: Property
    values: Annotated[tuple[Property, ...], Field(max_length=100)] = ()
    ranges: Annotated[tuple[tuple[Int, Int], ...], Field(max_length=100)] = ()


class FilterResponse(ResponseModel):
    """`data[property]` must be one of `values` or a number within one of `ranges`, both ends included."""

    property: str
    values: list[str]
    ranges: list[tuple[int, int]]


class MeterRequest(RequestModel):
    """How events become a quantity."""

    name: Name
    event_type: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    aggregation: Literal["count", "sum"] = "count"
    value_property: Property | None = None
    unit: Name = "calls"
    filters: Annotated[tuple[FilterBody, ...], Field(max_length=20)] = ()

    def to_terms(self) -> MeterTerms:
        filters = tuple(Filter(property=it.property, values=it.values, ranges=it.ranges) for it in self.filters)
        return MeterTerms(
            name=self.name,
            event_type=self.event_type,
            aggregation=self.aggregation,
            value_property=self.value_property,
            unit=self.unit,
            filters=filters,
        )


class MeterResponse(ResponseModel):
    """How events become a quantity. `used`: a published plan version counts with it, so it is frozen."""

    id: str
    name: str
    event_type: str
    aggregation: Literal["count", "sum"]
    value_property: str | None
    unit: str
    filters: list[FilterResponse]
    used: bool
    short: int
    created_at: Instant


class MeterList(ResponseModel):
    """Some meters; `cursor` asks for the rest."""

    items: list[MeterResponse]
    cursor: str | None

    @classmethod
    def of(cls, meters: tuple[Meter, ...], after: str | None) -> Self:
        return cls(items=[MeterResponse.model_validate(it) for it in meters], cursor=to_cursor(after))


# ---- plans


class AllowanceBody(RequestModel):
    """Units that cost nothing, on every UTC day or in every period."""

    quantity: Int
    per: Literal["day", "period"]

    def to_domain(self) -> Allowance:
        return Allowance(quantity=self.quantity, per=self.per)


class PriceTierBody(RequestModel):
    """Units up to and including `up_to`; null in the last tier."""

    up_to: Int | None = None
    unit_price: PriceText
    flat_amount: Int = 0


class ChargeBody(RequestModel):
    """One priced item. Which fields belong to which model is checked, each with a code of its own."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    name: Name
    model: Literal["flat", "per_unit", "graduated", "volume", "package"]
    meter: Id | None = None
    amount: Int | None = None
    interval: Literal["month", "year"] = "month"
    timing: Literal["advance", "arrears"] = "arrears"
    unit_price: PriceText | None = None
    package_size: Int | None = None
    tiers: Annotated[tuple[PriceTierBody, ...], Field(max_length=200)] = ()
    allowance: AllowanceBody | None = None

    def to_domain(self) -> Charge:
        return Charge(
            id=self.id,
            name=self.name,
            model=self.model,
            meter=self.meter,
            amount=self.amount,
            interval=self.interval,
            timing=self.timing,
            unit_price=None if self.unit_price is None else parse_unit_price(self.unit_price),
            package_size=self.package_size,
            tiers=tuple(
                PriceTier(up_to=it.up_to, unit_price=parse_unit_price(it.unit_price), flat_amount=it.flat_amount)
                for it in self.tiers
            ),
            allowance=None if self.allowance is None else self.allowance.to_domain(),
        )


class QuotaBody(RequestModel):
    """A hard limit without a price."""

    meter: Id
    quantity: Int
    per: Literal["day", "period"]


class TermsBody(RequestModel):
    """What a plan version costs. Money in minor units; `minimum` and `maximum` bound a month's charges."""

    currency: Annotated[str, StringConstraints(min_length=1, max_length=10)]
    charges: Annotated[list[ChargeBody], Field(max_length=60)]
    minimum: Int | None = None
    maximum: Int | None = None
    trial_days: Int = 0
    tax_behavior: Literal["inclusive", "exclusive", "unspecified"] = "unspecified"
    tax_code: Annotated[str, StringConstraints(pattern=r"^txcd_[0-9]{1,20}$")] | None = None
    quotas: Annotated[tuple[QuotaBody, ...], Field(max_length=40)] = ()
    anchor: Literal["calendar", "anniversary"] = "calendar"
    activation: Literal["on_card", "on_payment"] = "on_card"
    grace_days: Annotated[Int, Field(le=365)] | None = None

    def to_domain(self) -> PlanTerms:
        return PlanTerms(
            currency=self.currency,
            charges=tuple(it.to_domain() for it in self.charges),
            minimum=self.minimum,
            maximum=self.maximum,
            trial_days=self.trial_days,
            tax_behavior=self.tax_behavior,
            tax_code=self.tax_code,
            quotas=tuple(Quota(meter=it.meter, quantity=it.quantity, per=it.per) for it in self.quotas),
            anchor=self.anchor,
            activation=self.activation,
            grace_days=self.grace_days,
        )


class Wso2Body(RequestModel):
    """A billing plan in WSO2 API Cloud's four fields: the price of a month, and above each day's usage a charge for
    every `overage_unit` begun."""

    price: Int
    max_daily_usage: Int
    overage_charge: PriceText
    overage_unit: Int
    meter: Id
    currency: Annotated[str, StringConstraints(min_length=1, max_length=10)]
    tax_behavior: Literal["inclusive", "exclusive", "unspecified"] = "unspecified"
    tax_code: Annotated[str, StringConstraints(pattern=r"^txcd_[0-9]{1,20}$")] | None = None
    trial_days: Int = 0

    def to_domain(self) -> PlanTerms:
        return wso2_terms(
            price=self.price,
            max_daily_usage=self.max_daily_usage,
            overage_charge=parse_unit_price(self.overage_charge),
            overage_unit=self.overage_unit,
            meter=self.meter,
            currency=self.currency,
            tax_behavior=self.tax_behavior,
            tax_code=self.tax_code,
            trial_days=self.trial_days,
        )


class PlanRequest(RequestModel):
    """A plan's name and its draft, as `terms` or in the `wso2` form: exactly one of them."""

    name: Name
    description: Text = ""
    terms: TermsBody | None = None
    wso2: Wso2Body | None = None

    def to_draft(self) -> PlanDraft:
        return PlanDraft(name=self.name, description=self.description, terms=one_of(self.terms, self.wso2))


class VersionRequest(RequestModel):
    """The next version's draft; without terms it begins as a copy of the latest version."""

    terms: TermsBody | None = None
    wso2: Wso2Body | None = None

    def to_domain(self) -> PlanTerms | None:
        return None if self.terms is None and self.wso2 is None else one_of(self.terms, self.wso2)


def one_of(terms: TermsBody | None, wso2: Wso2Body | None) -> PlanTerms:
    """The terms in whichever form they came. Invalid `terms_required`, `terms_twice`."""
    if terms is not None and wso2 is not None:
        raise Invalid("terms_twice", "Send terms or wso2, not both.")
    chosen = terms or wso2
    if chosen is None:
        raise Invalid("terms_required", "Send what the plan costs, as terms or wso2.")
    return chosen.to_domain()


class AllowanceResponse(ResponseModel):
    """Units that cost nothing, on every UTC day or in every period."""

    quantity: int
    per: Literal["day", "period"]


class PriceTierResponse(ResponseModel):
    """Units up to and including `up_to`; null in the last tier."""

    up_to: int | None
    unit_price: Price
    flat_amount: int


class ChargeResponse(ResponseModel):
    """One priced item."""

    id: str
    name: str
    model: Literal["flat", "per_unit", "graduated", "volume", "package"]
    meter: str | None
    amount: int | None
    interval: Literal["month", "year"]
    timing: Literal["advance", "arrears"]
    unit_price: Price | None
    package_size: int | None
    tiers: list[PriceTierResponse]
    allowance: AllowanceResponse | None


class QuotaResponse(ResponseModel):
    """A hard limit without a price."""

    meter: str
    quantity: int
    per: Literal["day", "period"]


class TermsResponse(ResponseModel):
    """What a plan version costs."""

    currency: str
    charges: list[ChargeResponse]
    minimum: int | None
    maximum: int | None
    trial_days: int
    tax_behavior: Literal["inclusive", "exclusive", "unspecified"]
    tax_code: str | None
    quotas: list[QuotaResponse]
    anchor: Literal["calendar", "anniversary"]
    activation: Literal["on_card", "on_payment"]
    grace_days: int | None


class PlanResponse(ResponseModel):
    """A plan. `latest_version` is 0 before the first is published; `draft` is what would be published next."""

    id: str
    name: str
    description: str
    status: Literal["draft", "published", "archived"]
    latest_version: int
    draft: TermsResponse | None
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, plan: Plan) -> Self:
        return cls(
            id=plan.id,
            name=plan.name,
            description=plan.description,
            status=plan.status,
            latest_version=plan.latest,
            draft=None if plan.draft is None else TermsResponse.model_validate(plan.draft),
            created_at=plan.created_at,
            updated_at=plan.updated_at,
        )


class PlanList(ResponseModel):
    """Some plans; `cursor` asks for the rest."""

    items: list[PlanResponse]
    cursor: str | None

    @classmethod
    def of(cls, plans: tuple[Plan, ...], after: str | None) -> Self:
        return cls(items=[PlanResponse.of(it) for it in plans], cursor=to_cursor(after))


class VersionResponse(ResponseModel):
    """A published version: it never changes."""

    plan: str
    number: int
    name: str
    terms: TermsResponse
    published_at: Instant
    stripe_product: str | None


class VersionList(ResponseModel):
    """Some versions; `cursor` asks for the rest."""

    items: list[VersionResponse]
    cursor: str | None

    @classmethod
    def of(cls, versions: tuple[PlanVersion, ...], after: str | None) -> Self:
        return cls(items=[VersionResponse.model_validate(it) for it in versions], cursor=to_cursor(after))


class PlanSubscription(ResponseModel):
    """A subscription and the version it pays by."""

    subscription: str
    version: int


class PlanSubscriptionList(ResponseModel):
    """Some subscriptions of a plan; `cursor` asks for the rest."""

    items: list[PlanSubscription]
    cursor: str | None

    @classmethod
    def of(cls, found: tuple[tuple[str, int], ...], after: str | None) -> Self:
        items = [PlanSubscription(subscription=subscription, version=number) for subscription, number in found]
        return cls(items=items, cursor=to_cursor(after))


class MoveBody(RequestModel):
    """Move everybody on one version to another: now, or each at the end of their own period."""

    from_version: Annotated[Int, Field(ge=1, le=9999)]
    to_version: Annotated[Int, Field(ge=1, le=9999)]
    when: Literal["now", "period_end"]

    def to_request(self) -> MoveRequest:
        return MoveRequest(from_version=self.from_version, to_version=self.to_version, when=self.when)


class UnmovedResponse(ResponseModel):
    """A subscription that stayed, and why."""

    subscription: str
    code: str


class MoveResponse(ResponseModel):
    """A bulk move and how far it got. `failures` shows the first hundred of `failed`."""

    id: str
    plan: str
    from_version: int
    to_version: int
    when: Literal["now", "period_end"]
    status: Literal["running", "done"]
    moved: int
    failed: int
    failures: list[UnmovedResponse]
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None


class MoveList(ResponseModel):
    """Some moves; `cursor` asks for the rest."""

    items: list[MoveResponse]
    cursor: str | None

    @classmethod
    def of(cls, moves: tuple[Move, ...], after: str | None) -> Self:
        return cls(items=[MoveResponse.model_validate(it) for it in moves], cursor=to_cursor(after))


# ---- APIs and bundles


class ApiRequest(RequestModel):
    """An API that can be subscribed at the tiers applied to it."""

    name: Name
    description: Text = ""
    context: Annotated[str, StringConstraints(max_length=200)] = ""
    environments: Environments = ("production", "sandbox")
    approval: Bool = False

    def to_terms(self) -> ProductTerms:
        return ProductTerms(
            name=self.name,
            description=self.description,
            context=self.context,
            environments=tuple(dict.fromkeys(self.environments)),
            approval=self.approval,
        )


class BundleRequest(RequestModel):
    """Two APIs or more, subscribed as one."""

    name: Name
    description: Text = ""
    apis: Annotated[list[Id], Field(max_length=20)]
    environments: Environments = ("production", "sandbox")
    approval: Bool = False

    def to_terms(self) -> ProductTerms:
        return ProductTerms(
            name=self.name,
            description=self.description,
            context="",
            environments=tuple(dict.fromkeys(self.environments)),
            approval=self.approval,
            apis=tuple(self.apis),
        )


class AppliedTiers(RequestModel):
    """Exactly the tiers a product is offered at, in the order they are shown. None takes it off the catalog."""

    tiers: Annotated[list[Id], Field(max_length=20)]


class ProductResponse(ResponseModel):
    """An API, or a bundle with its `apis`. `label` is computed from its tiers; null while it has none."""

    id: str
    kind: Literal["api", "bundle"]
    name: str
    description: str
    context: str
    apis: list[str]
    tiers: list[str]
    label: Label | None
    environments: list[Environment]
    approval: bool
    created_at: Instant

    @classmethod
    def of(cls, offered: Offered) -> Self:
        it = offered.product
        return cls.model_validate(_product_fields(it) | {"tiers": it.tiers, "label": offered.label})


def _product_fields(it: Product) -> dict[str, object]:
    return {
        "id": it.id,
        "kind": "bundle" if it.bundle else "api",
        "name": it.name,
        "description": it.description,
        "context": it.context,
        "apis": list(it.apis),
        "environments": it.environments,
        "approval": it.approval,
        "created_at": it.created_at,
    }


class ProductList(ResponseModel):
    """Some APIs or bundles; `cursor` asks for the rest."""

    items: list[ProductResponse]
    cursor: str | None

    @classmethod
    def of(cls, found: tuple[Offered, ...], after: str | None) -> Self:
        return cls(items=[ProductResponse.of(it) for it in found], cursor=to_cursor(after))


class CatalogTier(ResponseModel):
    """A tier as a subscriber sees it: limits, and what it costs in words and as terms."""

    id: str
    name: str
    description: str
    commercial: bool
    throttle: ThrottleResponse
    plan: str | None
    version: int | None
    price: str
    prices: list[str]
    terms: TermsResponse | None

    @classmethod
    def of(cls, priced: Priced) -> Self:
        tier, terms = priced.tier, priced.terms
        units = {meter.id: meter.unit for meter in priced.meters.values()}
        return cls(
            id=tier.id,
            name=tier.name,
            description=tier.description,
            commercial=tier.commercial,
            throttle=ThrottleResponse.model_validate(tier.throttle),
            plan=priced.plan,
            version=priced.version,
            price="Free" if terms is None else _headline(terms),
            prices=[] if terms is None else list(in_words(terms, units)),
            terms=None if terms is None else TermsResponse.model_validate(terms),
        )


def _headline(terms: PlanTerms) -> str:
    by_interval = {
        every: sum(it.amount or 0 for it in terms.charges if it.model == "flat" and it.interval == every)
        for every in ("month", "year")
    }
    fees = [f"{format_amount(fee, terms.currency)} a {every}" for every, fee in by_interval.items() if fee]
    used = any(it.model != "flat" for it in terms.charges)
    return " + ".join([*fees, *(["usage"] if used else [])]) or format_amount(0, terms.currency)


class CatalogProduct(ResponseModel):
    """A product as a subscriber sees it, with the tiers it can be subscribed at now."""

    id: str
    kind: Literal["api", "bundle"]
    name: str
    description: str
    context: str
    apis: list[str]
    label: Label | None
    environments: list[Environment]
    approval: bool
    tiers: list[CatalogTier]
    created_at: Instant

    @classmethod
    def of(cls, shown: Shown) -> Self:
        tiers = [CatalogTier.of(it) for it in shown.tiers]
        return cls.model_validate(_product_fields(shown.product) | {"tiers": tiers, "label": shown.label})


class CatalogList(ResponseModel):
    """Some products; `cursor` asks for the rest."""

    items: list[CatalogProduct]
    cursor: str | None

    @classmethod
    def of(cls, found: tuple[Shown, ...], after: str | None) -> Self:
        return cls(items=[CatalogProduct.of(it) for it in found], cursor=to_cursor(after))


# ---- keys of gateways


class GatewayKeyRequest(RequestModel):
    """A name tells one gateway's key from another's."""

    name: Name


class GatewayKeyResponse(ResponseModel):
    """A gateway's key, without the key."""

    id: str
    name: str
    hint: str
    created_at: Instant
    revoked_at: Instant | None


class MadeGatewayKeyResponse(GatewayKeyResponse):
    """A new key. `key` is shown in this answer only; asked again under the same Idempotency-Key it is null."""

    key: str | None
    already_shown: bool

    @classmethod
    def of_made(cls, made: MadeKey) -> Self:
        shown = GatewayKeyResponse.model_validate(made.key).model_dump()
        return cls(**shown, key=made.secret, already_shown=made.secret is None)


class GatewayKeyList(ResponseModel):
    """Some keys; `cursor` asks for the rest."""

    items: list[GatewayKeyResponse]
    cursor: str | None

    @classmethod
    def of(cls, found: tuple[GatewayKey, ...], after: str | None) -> Self:
        return cls(items=[GatewayKeyResponse.model_validate(it) for it in found], cursor=to_cursor(after))


# ---- previews


class PreviewRequest(RequestModel):
    """Units by meter and UTC day, priced as one whole month.

    The month begins at `period_start`, or else with the first day of the earliest usage's month. `version` prices a
    published version; without it the draft is priced, or else the latest version.
    """

    usage: Annotated[dict[Id, DailyUsage], Field(max_length=40)] = Field(default_factory=dict)
    period_start: PlainDate | None = None
    version: Annotated[Int, Field(ge=1, le=9999)] | None = None

    def to_question(self) -> Question:
        return Question(usage=self.usage, period_start=self.period_start, version=self.version)


class PriceStepResponse(ResponseModel):
    """`units` times `unit_price` plus `flat_amount` is `amount`, exact and unrounded. `size`: units in a package."""

    units: int
    unit_price: Price
    amount: Price
    flat_amount: int
    size: int


class DayAboveResponse(ResponseModel):
    """A UTC day on which more was used than the day allows; `packages` were started of what is charged."""

    day: date
    used: int
    charged: int
    packages: int


class PreviewLine(ResponseModel):
    """One line of the bill. `description` says the arithmetic in words; `steps` hold it exactly."""

    id: str
    kind: str
    description: str
    amount: int
    charge: str | None
    meter: str | None
    used: int
    allowance: int | None
    allowance_per: Literal["day", "period"] | None
    billed: int
    steps: list[PriceStepResponse]
    days: list[DayAboveResponse]


class PreviewResponse(ResponseModel):
    """A whole month's bill before tax, in minor units; `in_words` is the total as a person reads it."""

    currency: str
    period_start: Instant
    period_end: Instant
    lines: list[PreviewLine]
    total: int
    in_words: str

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        currency, rated = estimate.terms.currency, estimate.rated
        return cls(
            currency=currency,
            period_start=estimate.period.start,
            period_end=estimate.period.end,
            lines=[PreviewLine.model_validate(line) for line in rated.lines],
            total=rated.subtotal,
            in_words=format_amount(rated.subtotal, currency),
        )
