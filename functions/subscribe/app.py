"""Applications, the order summary, subscriptions and their keys, and the subscriber's own data."""

from collections import Counter
from datetime import date, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.subscriptions import Subscriber, Subscription
from monetize.domain.usage import Metered
from monetize.http import resolver
from monetize.http.caller import OPERATOR, PUBLISHER_ADMIN, PUBLISHER_VIEWER, SUBSCRIBER, Caller
from monetize.http.schemas import MAX_PAGE, from_cursor, to_cursor
from monetize.http.subscribing_schemas import (
    ApplicationChange,
    ApplicationRequest,
    ApplicationResponse,
    ApplicationsResponse,
    BatchResponse,
    BlockRequest,
    CancelRequest,
    ChangePreviewResponse,
    ChangeRequest,
    CheckoutResponse,
    DiscountRequest,
    DiscountResponse,
    EraseRequest,
    IssuedKeyResponse,
    KeyRequest,
    KeyResponse,
    KeysResponse,
    LedgerResponse,
    OrderSummaryResponse,
    PaymentGraceBody,
    PortalResponse,
    PreviewRequest,
    RejectRequest,
    RotateRequest,
    ShardsBody,
    ShardsResponse,
    SpendCapBody,
    SubscribeRequest,
    SubscriberRequest,
    SubscriberResponse,
    SubscriptionResponse,
    SubscriptionsResponse,
    TopUpRequest,
    TopUpResponse,
    UpcomingResponse,
    UsageResponse,
    UsageRow,
)
from monetize.services import (
    applications,
    changing,
    counting,
    discounting,
    issuing,
    quoting,
    subscribers,
    subscribing,
    usage_ledger,
)
from monetize.services.subscribing import Order
from monetize.services.subscription_access import Person, of_anybody, visible

logger = Logger()
tracer = Tracer()
app = resolver.build()

APPLICATIONS = ["applications"]
SUBSCRIPTIONS = ["subscriptions"]
PUBLISHING = ["subscriptions of a publisher"]
OPERATING = ["operating"]
USAGE = ["usage"]
SELF = ["subscriber"]
KEYS = ["keys"]

EITHER = (SUBSCRIBER, PUBLISHER_ADMIN)
READERS = (SUBSCRIBER, PUBLISHER_ADMIN, PUBLISHER_VIEWER)

type Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
type Cursor = Annotated[str | None, Query(max_length=800)]
type Publisher = Annotated[str, Query(min_length=1, max_length=128)]


def _person(caller: Caller) -> Person:
    return Person(caller.user, caller.organization)


def _subscriber() -> Person:
    return _person(resolver.who(app, SUBSCRIBER))


def _publisher() -> Person:
    return _person(resolver.who(app, PUBLISHER_ADMIN))


def _key() -> str | None:
    return resolver.idempotency_key(app) if app.current_event.headers.get("idempotency-key") is not None else None


# --- applications ---


@app.post("/applications", summary="Make an application", tags=APPLICATIONS, status_code=201)
def post_application(body: ApplicationRequest) -> Response[ApplicationResponse]:
    person, ports = _subscriber(), wiring.subscribing()
    words = (body.name, body.description)
    made = applications.create(person, body.publisher, words, _key(), wiring.clock().now(), ports.store, ports.ids)
    location = f"/applications/{made.id}?publisher={made.publisher}"
    return resolver.reply(ApplicationResponse.of(made), status=HTTPStatus.CREATED, rev=made.rev, location=location)


@app.get("/applications", summary="List applications", tags=APPLICATIONS)
def get_applications(publisher: Publisher, limit: Limit = 50, cursor: Cursor = None) -> Response[ApplicationsResponse]:
    person = _subscriber()
    page = wiring.subscribing().store.applications(publisher, person.organization, from_cursor(cursor), limit)
    items = [ApplicationResponse.of(each) for each in page.items]
    return resolver.reply(ApplicationsResponse(items=items, cursor=to_cursor(page.after)))


@app.get("/applications/<application>", summary="One application", tags=APPLICATIONS)
def get_application(application: str, publisher: Publisher) -> Response[ApplicationResponse]:
    found = applications.get(_subscriber(), publisher, application, wiring.subscribing().store)
    return resolver.reply(ApplicationResponse.of(found), rev=found.rev)


@app.put("/applications/<application>", summary="Rename or describe an application", tags=APPLICATIONS)
def put_application(application: str, publisher: Publisher, body: ApplicationChange) -> Response[ApplicationResponse]:
    person, ports = _subscriber(), wiring.subscribing()
    was = (publisher, application, resolver.expected_revision(app))
    after = applications.change(person, was, body.name, body.description, wiring.clock().now(), ports.store, ports.ids)
    return resolver.reply(ApplicationResponse.of(after), rev=after.rev)


@app.delete("/applications/<application>", summary="Delete an application", tags=APPLICATIONS, status_code=204)
def delete_application(application: str, publisher: Publisher) -> Response[None]:
    person, ports = _subscriber(), wiring.subscribing()
    applications.delete(person, publisher, application, wiring.clock().now(), ports.store, ports.ids)
    return resolver.nothing()


# --- ordering ---


@app.post("/subscriptions/preview", summary="Order summary", tags=SUBSCRIPTIONS)
def post_preview(body: PreviewRequest) -> Response[OrderSummaryResponse]:
    person = _subscriber()
    order = quoting.preview(person, body.publisher, body.product, body.tier, wiring.clock().now(), wiring.subscribing())
    return resolver.reply(OrderSummaryResponse.of(order))


@app.post("/subscriptions", summary="Subscribe an application to an API at a tier", tags=SUBSCRIPTIONS, status_code=201)
def post_subscription(body: SubscribeRequest) -> Response[SubscriptionResponse]:
    person = _subscriber()
    order = Order(
        publisher=body.publisher,
        application=body.application,
        product=body.product,
        tier=body.tier,
        contact=body.contact.to_contact() if body.contact else None,
        invoice_email=body.invoice_email or "",
        spend_cap=body.spend_cap,
        key=_key(),
    )
    made = subscribing.subscribe(person, order, wiring.clock().now(), wiring.subscribing())
    metrics = Metrics()
    metrics.add_metric("SubscriptionsStarted", MetricUnit.Count, 1)
    metrics.flush_metrics()  # here alone: an invocation without metrics would be warned of
    answer = SubscriptionResponse.of(made.subscription, made.subscription.created_at, made.checkout)
    return resolver.reply(
        answer,
        status=HTTPStatus.CREATED,
        rev=made.subscription.rev,
        location=f"/subscriptions/{made.subscription.id}",
    )


@app.get("/subscriptions", summary="List subscriptions", tags=SUBSCRIPTIONS)
def get_subscriptions(
    publisher: Annotated[str | None, Query(max_length=128)] = None,
    status: Annotated[str | None, Query(max_length=30)] = None,
    side: Literal["subscriber", "publisher"] = "subscriber",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[SubscriptionsResponse]:
    """As `subscriber`, the caller's at one `publisher`; as `publisher`, everybody's at the caller's organization."""
    roles = (SUBSCRIBER,) if side == "subscriber" else (PUBLISHER_ADMIN, PUBLISHER_VIEWER)
    person = _person(resolver.who(app, *roles))
    page = subscribing.listed(person, side, publisher, status, from_cursor(cursor), limit, wiring.subscribing())
    now = wiring.clock().now()
    items = [SubscriptionResponse.of(each, now) for each in page.items]
    return resolver.reply(SubscriptionsResponse(items=items, cursor=to_cursor(page.after)))


@app.get("/subscriptions/<subscription>", summary="One subscription", tags=SUBSCRIPTIONS)
def get_subscription(subscription: str) -> Response[SubscriptionResponse]:
    person = _person(resolver.who(app, *READERS))
    return _shown(visible(person, subscription, wiring.subscribing()))


@app.post("/subscriptions/<subscription>/checkout", summary="Where to leave a card", tags=SUBSCRIPTIONS)
def post_checkout(subscription: str) -> Response[CheckoutResponse]:
    started = subscribing.resume_checkout(_subscriber(), subscription, wiring.clock().now(), wiring.subscribing())
    return resolver.reply(CheckoutResponse.model_validate(started.checkout))


# --- changes ---


@app.post("/subscriptions/<subscription>/change/preview", summary="Estimate a change of tier", tags=SUBSCRIPTIONS)
def post_change_preview(subscription: str, body: ChangeRequest) -> Response[ChangePreviewResponse]:
    estimate = changing.preview_change(
        _subscriber(), subscription, body.tier, body.when, wiring.clock().now(), wiring.subscribing()
    )
    return resolver.reply(ChangePreviewResponse.of(estimate))


@app.post("/subscriptions/<subscription>/change", summary="Change the tier", tags=SUBSCRIPTIONS)
def post_change(subscription: str, body: ChangeRequest) -> Response[SubscriptionResponse]:
    after = changing.change(
        _subscriber(), subscription, body.tier, body.when, wiring.clock().now(), wiring.subscribing()
    )
    return _shown(after)


@app.delete("/subscriptions/<subscription>/change", summary="Take back a change that waits", tags=SUBSCRIPTIONS)
def delete_change(subscription: str) -> Response[SubscriptionResponse]:
    return _shown(changing.drop_change(_subscriber(), subscription, wiring.clock().now(), wiring.subscribing()))


@app.post("/subscriptions/<subscription>/cancel", summary="Cancel", tags=SUBSCRIPTIONS)
def post_cancel(subscription: str, body: CancelRequest) -> Response[SubscriptionResponse]:
    person = _person(resolver.who(app, *EITHER))
    now = wiring.clock().now()
    return _shown(changing.cancel(person, subscription, body.when, body.reason, now, wiring.subscribing()))


@app.post("/subscriptions/<subscription>/uncancel", summary="Take a cancellation back", tags=SUBSCRIPTIONS)
def post_uncancel(subscription: str) -> Response[SubscriptionResponse]:
    person = _person(resolver.who(app, *EITHER))
    return _shown(changing.take_back_cancellation(person, subscription, wiring.clock().now(), wiring.subscribing()))


@app.post("/subscriptions/<subscription>/pause", summary="Pause", tags=SUBSCRIPTIONS)
def post_pause(subscription: str) -> Response[SubscriptionResponse]:
    return _shown(changing.pause(_subscriber(), subscription, wiring.clock().now(), wiring.subscribing()))


@app.post("/subscriptions/<subscription>/resume", summary="Resume", tags=SUBSCRIPTIONS)
def post_resume(subscription: str) -> Response[SubscriptionResponse]:
    return _shown(changing.resume(_subscriber(), subscription, wiring.clock().now(), wiring.subscribing()))


@app.put("/subscriptions/<subscription>/spend-cap", summary="The most a period may cost", tags=SUBSCRIPTIONS)
def put_spend_cap(subscription: str, body: SpendCapBody) -> Response[SubscriptionResponse]:
    person = _person(resolver.who(app, *EITHER))
    rev, now = resolver.expected_revision(app), wiring.clock().now()
    return _shown(changing.set_spend_cap(person, subscription, body.spend_cap, rev, now, wiring.subscribing()))


# --- the publisher's side ---


@app.post("/subscriptions/<subscription>/approve", summary="Let a subscription begin", tags=PUBLISHING)
def post_approve(subscription: str) -> Response[SubscriptionResponse]:
    return _shown(subscribing.approve(_publisher(), subscription, wiring.clock().now(), wiring.subscribing()))


@app.post("/subscriptions/<subscription>/reject", summary="Refuse a subscription", tags=PUBLISHING)
def post_reject(subscription: str, body: RejectRequest) -> Response[SubscriptionResponse]:
    now = wiring.clock().now()
    return _shown(subscribing.reject(_publisher(), subscription, body.reason, now, wiring.subscribing()))


@app.post("/subscriptions/<subscription>/block", summary="Keep calls out", tags=PUBLISHING)
def post_block(subscription: str, body: BlockRequest) -> Response[SubscriptionResponse]:
    now = wiring.clock().now()
    return _shown(changing.block(_publisher(), subscription, body.scope, body.reason, now, wiring.subscribing()))


@app.post("/subscriptions/<subscription>/unblock", summary="Let calls in again", tags=PUBLISHING)
def post_unblock(subscription: str) -> Response[SubscriptionResponse]:
    return _shown(changing.unblock(_publisher(), subscription, wiring.clock().now(), wiring.subscribing()))


@app.post("/subscriptions/<subscription>/topups", summary="Give extra allowance", tags=PUBLISHING, status_code=201)
def post_topup(subscription: str, body: TopUpRequest) -> Response[TopUpResponse]:
    """Once for one `Idempotency-Key`, for ever."""
    person, key, ports = _publisher(), resolver.idempotency_key(app), wiring.subscribing()
    after, made = changing.top_up(
        person, subscription, body.meter, body.quantity, key, wiring.clock().now(), ports, ports.store
    )
    answer = TopUpResponse.model_validate(made)
    return resolver.reply(answer, status=HTTPStatus.CREATED, rev=after.rev, location=f"/subscriptions/{after.id}")


@app.post("/subscriptions/<subscription>/discounts", summary="Give a discount", tags=PUBLISHING, status_code=201)
def post_discount(subscription: str, body: DiscountRequest) -> Response[DiscountResponse]:
    """Off bills that are claimed from now on. Once for one `Idempotency-Key`, for ever."""
    person, key, ports = _publisher(), resolver.idempotency_key(app), wiring.subscribing()
    after, made = discounting.give(
        person, subscription, body.to_discount(), key, wiring.clock().now(), ports, ports.store
    )
    answer = DiscountResponse.model_validate(made)
    return resolver.reply(answer, status=HTTPStatus.CREATED, rev=after.rev, location=f"/subscriptions/{after.id}")


@app.delete("/subscriptions/<subscription>/discounts/<discount>", summary="Take a discount back", tags=PUBLISHING)
def delete_discount(subscription: str, discount: str) -> Response[SubscriptionResponse]:
    """Bills that are claimed from now on are without it."""
    person, ports = _publisher(), wiring.subscribing()
    return _shown(discounting.take_back(person, subscription, discount, wiring.clock().now(), ports))


@app.get("/subscriptions/<subscription>/payment-grace", summary="Days an unpaid invoice is borne", tags=PUBLISHING)
def get_payment_grace(subscription: str) -> Response[PaymentGraceBody]:
    person = _person(resolver.who(app, PUBLISHER_ADMIN, PUBLISHER_VIEWER))
    return _grace(subscribers.of_publisher_side(person, subscription, wiring.clock().now(), wiring.subscribing()))


@app.put("/subscriptions/<subscription>/payment-grace", summary="Days an unpaid invoice is borne", tags=PUBLISHING)
def put_payment_grace(subscription: str, body: PaymentGraceBody) -> Response[PaymentGraceBody]:
    """For all subscriptions of this subscriber with the publisher."""
    person, rev = _publisher(), resolver.expected_revision(app)
    now, ports = wiring.clock().now(), wiring.subscribing()
    return _grace(subscribers.set_payment_grace(person, subscription, body.days, rev, now, ports))


def _grace(subscriber: Subscriber) -> Response[PaymentGraceBody]:
    return resolver.reply(PaymentGraceBody(days=subscriber.payment_grace_days), rev=subscriber.rev)


@app.get("/subscriptions/<subscription>/shards", summary="Months whose usage is spread", tags=OPERATING)
def get_shards(subscription: str) -> Response[ShardsResponse]:
    resolver.who(app, OPERATOR)
    return _shards(of_anybody(subscription, wiring.subscribing()))


@app.put("/subscriptions/<subscription>/shards", summary="Spread a hot subscription's usage", tags=OPERATING)
def put_shards(subscription: str, body: ShardsBody) -> Response[ShardsResponse]:
    """For one month to come, when the metric `UsageConflicts` says that batches wait for each other."""
    person, rev = _person(resolver.who(app, OPERATOR)), resolver.expected_revision(app)
    now, ports = wiring.clock().now(), wiring.subscribing()
    return _shards(changing.set_shards(person, subscription, body.month, body.count, rev, now, ports))


def _shards(subscription: Subscription) -> Response[ShardsResponse]:
    shards = [ShardsBody(month=month, count=count) for month, count in subscription.shards]
    return resolver.reply(ShardsResponse(shards=shards), rev=subscription.rev)


# --- usage and the running period ---


@app.get("/subscriptions/<subscription>/usage", summary="What was counted", tags=USAGE)
def get_usage(
    subscription: str,
    since: Annotated[date, Query(alias="from")],
    through: Annotated[date, Query(alias="to")],
    group: Literal["day", "meter"] = "day",
    environment: Literal["production", "sandbox"] = "production",
) -> Response[UsageResponse]:
    """From one UTC day to another, both included; by day and meter, or by meter alone."""
    found = visible(_person(resolver.who(app, *READERS)), subscription, wiring.subscribing())
    live = counting.live_usage(
        _metered(found), since, through, wiring.clock().now(), wiring.counting(), sandbox=environment == "sandbox"
    )
    rows: list[tuple[str, date | None, int]] = list(live.rows)
    if group == "meter":
        sums: Counter[str] = Counter()
        for meter, _, quantity in live.rows:
            sums[meter] += quantity
        rows = [(meter, None, quantity) for meter, quantity in sorted(sums.items())]
    answer = UsageResponse(
        subscription=subscription,
        environment=environment,
        as_of=live.as_of,
        items=[UsageRow(meter=meter, day=day, quantity=quantity) for meter, day, quantity in rows],
        sealed_through=dict(live.sealed_through),
    )
    return resolver.reply(answer)


@app.get("/subscriptions/<subscription>/usage/ledger", summary="The batches behind a day's numbers", tags=USAGE)
def get_ledger(
    subscription: str, day: Annotated[date, Query()], limit: Limit = 50, cursor: Cursor = None
) -> Response[LedgerResponse]:
    found = visible(_person(resolver.who(app, *READERS)), subscription, wiring.subscribing())
    now, facts = wiring.clock().now(), wiring.entitlement_facts()
    page = usage_ledger.batches(_metered(found), day, from_cursor(cursor), limit, now, wiring.usage(), facts)
    items = [BatchResponse.model_validate(each) for each in page.items]
    return resolver.reply(LedgerResponse(subscription=subscription, day=day, items=items, cursor=to_cursor(page.after)))


def _metered(subscription: Subscription) -> Metered:
    first = subscription.spans[0].start.date() if subscription.spans else None
    return Metered(
        id=subscription.id,
        publisher=subscription.publisher,
        first_day=first,
        ended_at=subscription.end,
        shards=subscription.shards,
    )


@app.get("/subscriptions/<subscription>/upcoming", summary="The next invoice as of now", tags=USAGE)
def get_upcoming(subscription: str) -> Response[UpcomingResponse]:
    caller = resolver.who(app, *READERS)
    now, ports = wiring.clock().now(), wiring.subscribing()
    found = quoting.upcoming(_person(caller), subscription, now, ports, wiring.billing_table(), wiring.estimator())
    sells = found.publisher == caller.organization and not caller.roles.isdisjoint((PUBLISHER_ADMIN, PUBLISHER_VIEWER))
    shown = UpcomingResponse.of(found.as_of, found.currency, found.bill_at, found.due_at, found.lines, publishers=sells)
    return resolver.reply(shown)


# --- the subscriber itself ---


@app.post("/subscriptions/<subscription>/portal", summary="Stripe's page for cards and invoices", tags=SELF)
def post_portal(subscription: str) -> Response[PortalResponse]:
    return resolver.reply(PortalResponse(url=subscribers.portal(_subscriber(), subscription, wiring.subscribing())))


@app.get("/subscriber", summary="Contact and billing data at a publisher", tags=SELF)
def get_subscriber(publisher: Publisher) -> Response[SubscriberResponse]:
    found = subscribers.get(_subscriber(), publisher, wiring.subscribing())
    return resolver.reply(SubscriberResponse.of(found.subscriber, found.customer), rev=found.subscriber.rev)


@app.put("/subscriber", summary="Replace contact and billing data; reaches Stripe", tags=SELF)
def put_subscriber(body: SubscriberRequest) -> Response[SubscriberResponse]:
    """With `If-Match`, but for the first time, when there is nothing to match."""
    person = _subscriber()
    rev = resolver.expected_revision(app) if app.current_event.headers.get("if-match") else None
    contact, now = body.contact.to_contact(), wiring.clock().now()
    after = subscribers.put_contact(person, body.publisher, contact, rev, now, wiring.subscribing())
    return resolver.reply(SubscriberResponse.of(after.subscriber, after.customer), rev=after.subscriber.rev)


@app.post("/subscriber/erase", summary="Erase personal data, here and at Stripe", tags=SELF)
def post_erase(body: EraseRequest) -> Response[SubscriberResponse]:
    person, ports = _subscriber(), wiring.subscribing()
    after = subscribers.erase(person, body.publisher, wiring.clock().now(), ports, ports.store)
    return resolver.reply(SubscriberResponse.of(after, None), rev=after.rev)


# --- keys ---


@app.post("/subscriptions/<subscription>/keys", summary="Make a key, shown once", tags=KEYS, status_code=201)
def post_key(subscription: str, body: KeyRequest) -> Response[IssuedKeyResponse]:
    made = issuing.issue(
        _subscriber(), subscription, body.environment, body.name, _key(), wiring.clock().now(), wiring.issuing()
    )
    return _issued(made, subscription)


@app.get("/subscriptions/<subscription>/keys", summary="List keys", tags=KEYS)
def get_keys(subscription: str, limit: Limit = 50, cursor: Cursor = None) -> Response[KeysResponse]:
    person = _person(resolver.who(app, *READERS))
    page = issuing.listed(person, subscription, from_cursor(cursor), limit, wiring.issuing())
    items = [KeyResponse.of(each) for each in page.items]
    return resolver.reply(KeysResponse(items=items, cursor=to_cursor(page.after)))


@app.delete("/subscriptions/<subscription>/keys/<key>", summary="Revoke a key", tags=KEYS, status_code=204)
def delete_key(subscription: str, key: str) -> Response[None]:
    person = _person(resolver.who(app, *EITHER))
    issuing.revoke(person, subscription, key, wiring.clock().now(), wiring.issuing())
    return resolver.nothing()


@app.post(
    "/subscriptions/<subscription>/keys/<key>/rotate",
    summary="A new key; the old one works on for a while",
    tags=KEYS,
    status_code=201,
)
def post_rotation(subscription: str, key: str, body: RotateRequest) -> Response[IssuedKeyResponse]:
    overlap = timedelta(hours=body.overlap_hours)
    made = issuing.rotate(_subscriber(), subscription, key, overlap, _key(), wiring.clock().now(), wiring.issuing())
    return _issued(made, subscription)


def _issued(made: issuing.Issued, subscription: str) -> Response[IssuedKeyResponse]:
    key = made.key
    answer = IssuedKeyResponse(
        id=key.id,
        environment=key.environment,
        name=key.name,
        hint=key.hint,
        key=made.text,
        already_shown=made.text is None,
        created_at=key.created_at,
        expires_at=key.expires_at,
    )
    return resolver.reply(answer, status=HTTPStatus.CREATED, location=f"/subscriptions/{subscription}/keys/{key.id}")


def _shown(subscription: Subscription) -> Response[SubscriptionResponse]:
    answer = SubscriptionResponse.of(subscription, wiring.clock().now())
    return resolver.reply(answer, rev=subscription.rev)


_SECRETS = ("/keys", "/rotate", "/checkout", "/portal", "/topups", "/discounts")


def _secret(method: str, path: str) -> bool:
    """Answers with a key or an address that must not be stored; these routes have natural keys of their own."""
    return method == "POST" and (path == "/subscriptions" or path.endswith(_SECRETS))


@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return resolver.answer(app, event, context, dynamodb=wiring.dynamodb(), secret=_secret)
