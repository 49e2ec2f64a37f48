"""The composition root: which adapters serve which use case. Everything is made once and imported when first needed."""

from collections.abc import Callable
from functools import cache
from typing import Any

from monetize.config import load

_parts: dict[str, Any] = {}
_made: list[Callable[[], Any]] = []


def override(**parts: Any) -> None:
    """Use these parts instead of AWS's: clock, ids, dynamodb, sqs, ssm, s3, events, stripe_http.

    For one machine and for tests. Called without parts it goes back to the real ones. Parts already made are made anew.
    """
    _parts.clear()
    _parts.update(parts)
    load.cache_clear()
    for each in _made:
        each.cache_clear()  # type: ignore[attr-defined] # every one is a functools.cache


def part[T](make: Callable[[], T]) -> Callable[[], T]:
    """Made once, until parts are overridden."""
    once = cache(make)
    _made.append(once)
    return once


def _client(name: str) -> Any:
    if name in _parts:
        return _parts[name]
    import boto3

    return boto3.client(name, config=client_settings(name))  # type: ignore[call-overload] # the name is not a literal here


def client_settings(name: str) -> Any:
    """How boto3 talks to a service."""
    from botocore.config import Config

    # Short time-outs: a request that hangs must leave time for the retry within the function's own limit.
    return Config(
        connect_timeout=2,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": 4},
        # A fifth of an ingest request's CPU otherwise; DynamoDB checks what we send anyway.
        parameter_validation=name != "dynamodb",
        # Links are signed by the one signature that every region takes, for the host of the bucket's own region: the
        # common host may redirect, and the signature is not the other host's.
        signature_version="s3v4" if name == "s3" else None,
        s3={"addressing_style": "virtual"} if name == "s3" else None,
        # A constant: botocore puts its own together anew, twice a request, which is an eighth of a bill's CPU.
        user_agent="monetize",
    )


@part
def clock() -> Any:
    """What time it is."""
    from monetize.adapters.clock import SystemClock

    return _parts.get("clock") or SystemClock()


@part
def ids() -> Any:
    """New names."""
    from monetize.adapters.ids import Ids

    return _parts.get("ids") or Ids()


@part
def dynamodb() -> Any:
    """boto3's low-level DynamoDB client."""
    return _client("dynamodb")


@part
def sqs() -> Any:
    """boto3's low-level SQS client."""
    return _client("sqs")


@part
def s3() -> Any:
    """boto3's S3 client."""
    return _client("s3")


@part
def core() -> Any:
    """The Core table."""
    from monetize.adapters.dynamo.table import Table

    return Table(dynamodb(), load().core_table)


@part
def parameters() -> Any:
    """Secrets by name."""
    from monetize.adapters.parameters import Parameters

    return Parameters(_client("ssm"))


@part
def stripe_events_queue() -> Any:
    """From the webhook to the worker."""
    from monetize.adapters.queue import Queue

    return Queue(sqs(), load().stripe_events_queue_url)


@part
def billing_queue() -> Any:
    """From the tick to the workers."""
    from monetize.adapters.queue import Queue

    return Queue(sqs(), load().billing_queue_url)


@part
def stripe_http() -> Any:
    """How requests to Stripe travel, counted."""
    from monetize.adapters.stripe import client

    return client.Counted(_parts.get("stripe_http") or client.transport(client.session(load().stripe_api_base)))


@part
def stripe() -> Any:
    """Stripe's client, with the platform's key."""
    from monetize.adapters.stripe import client

    config = load()
    return client.build(
        parameters().secret(config.stripe_key_parameter),
        api_base=config.stripe_api_base,
        connect_base=config.stripe_connect_base,
        http_client=stripe_http(),
    )


@part
def portal() -> str:
    """Where browsers are sent back to: the first of the portal's origins."""
    return load().portal_url.split(",")[0].rstrip("/")


@part
def onboarding() -> Any:
    """What onboarding works with."""
    from monetize.adapters.dynamo.publishers import PublisherTable
    from monetize.adapters.stripe.onboarding import OAuthOnboarding
    from monetize.services.onboarding import Ports
    from monetize.services.plans import products_on

    config = load()
    return Ports(
        products=lambda publisher, account: products_on(publisher, account, plans()),
        publishers=PublisherTable(core()),
        provider=OAuthOnboarding(
            stripe(),
            config.stripe_client_id,
            f"{config.public_base_url}/stripe/oauth/callback",
            config.stripe_connect_base,
        ),
        ids=ids(),
        livemode=config.livemode,
        trial_plans=config.trial_plans,
        upgrade_url=config.upgrade_url,
        return_paths=config.portal_return_paths,
    )


@part
def inbox() -> Any:
    """Which Stripe events were seen."""
    from monetize.adapters.dynamo.inbox import InboxTable

    return InboxTable(dynamodb(), load().inbox_table)


@part
def receiving() -> Any:
    """What the webhook works with."""
    from monetize.adapters import stripe_json
    from monetize.services.receiving import Ports

    config = load()
    return Ports(
        inbox=inbox(),
        queue=stripe_events_queue(),
        secrets=lambda: parameters().secrets(config.webhook_secrets_parameter),
        read=stripe_json.read,
        known=payment_table().knows,
        held=payment_table().holds,
        livemode=config.livemode,
    )


@part
def catalog() -> Any:
    """What the catalog works with."""
    from monetize.adapters.dynamo.catalog import CatalogTable
    from monetize.services.catalog import Ports

    return Ports(store=CatalogTable(core()), ids=ids())


@part
def plans() -> Any:
    """What plans work with. Stripe's client and the queue's are made when first needed."""
    from monetize.adapters.dynamo.catalog import CatalogTable
    from monetize.services.plans import Ports

    return Ports(store=CatalogTable(core()), ids=ids(), products=stripe_products, queue=billing_queue)


@part
def stripe_products() -> Any:
    """Plans as products on a publisher's account."""
    from monetize.adapters.stripe.products import StripeProducts

    return StripeProducts(stripe())


@part
def subscribing() -> Any:
    """What subscribing works with."""
    from monetize.adapters.dynamo.subscriptions import SubscriptionTable
    from monetize.services.subscription_access import Ports

    return Ports(store=SubscriptionTable(core()), payments=customers, ids=ids())


@part
def issuing() -> Any:
    """What issuing keys works with."""
    from monetize.adapters.dynamo.subscriptions import SubscriptionTable
    from monetize.services.issuing import Ports

    return Ports(store=SubscriptionTable(core()), ids=ids())


@part
def customers() -> Any:
    """Subscribers at the publishers' Stripe accounts; browsers come back to the portal."""
    from monetize.adapters.stripe.customers import StripeCustomers

    origin = portal()

    def returned(subscription: str, outcome: str) -> str:
        page = f"{origin}/subscriptions/{subscription}" if subscription else f"{origin}/subscriptions"
        return f"{page}?checkout={outcome}" if outcome else page

    return StripeCustomers(stripe(), returned)


@part
def billing_table() -> Any:
    """The Core table, as billing asks it."""
    from monetize.adapters.dynamo.billing import BillingTable
    from monetize.adapters.dynamo.subscriptions import SubscriptionTable

    return BillingTable(core(), SubscriptionTable(core()))


@part
def billing_paused() -> bool:
    """Whether an operator paused billing; ingest goes on."""
    return load().billing_paused


@part
def running() -> Any:
    """What the fan-out works with."""
    from monetize.services.running import Ports

    return Ports(todo=billing_table(), queue=billing_queue())


@part
def usage() -> Any:
    """The ledger and the counters of usage."""
    from monetize.adapters.dynamo.usage import UsageTable

    return UsageTable(dynamodb(), load().usage_table, load().core_table)


@part
def counting() -> Any:
    """What exact totals and corrections work with."""
    from monetize.services.counting import Ports

    return Ports(usage=usage(), facts=entitlement_facts(), ids=ids())


@part
def entitlement_facts() -> Any:
    """Core, as ingest and entitlement checks read it."""
    from monetize.adapters.dynamo.entitlements import EntitlementFacts

    return EntitlementFacts(dynamodb(), load().core_table)


@part
def metering() -> Any:
    """What ingest works with."""
    from monetize.services.metering import Ports

    return Ports(ledger=usage(), facts=entitlement_facts())


@part
def entitling() -> Any:
    """What entitlement checks work with."""
    from botocore.exceptions import BotoCoreError, ClientError

    from monetize.services.entitling import Ports

    return Ports(facts=entitlement_facts(), usage=usage(), unreadable=(ClientError, BotoCoreError))


@part
def rater() -> Any:
    """What rates a bill, sealing what it charges."""
    from monetize.services.rating_bills import BilledUsage, Rater

    table = billing_table()
    return Rater(table, BilledUsage(usage(), table.meters))


@part
def billing() -> Any:
    """What the billing worker works with."""
    from monetize.adapters.dynamo.pace import AccountPace
    from monetize.adapters.stripe.invoices import StripeInvoices
    from monetize.services.billing import Ports
    from monetize.services.rating_bills import shards_of

    pace = AccountPace(core(), load().invoices_per_second)

    def recount(subscription: Any, first: Any, last: Any) -> int:
        return int(usage().recount(subscription.id, first, last, shards_of(subscription)))

    table, at = billing_table(), load().public_base_url
    return Ports(table, StripeInvoices(stripe()), pace, rater(), usage().note_taken, recount, gate(), at)


@part
def payment_table() -> Any:
    """The Core table, as payments ask it."""
    from monetize.adapters.dynamo.payments import PaymentTable

    return PaymentTable(core(), inbox())


@part
def payments() -> Any:
    """What payments work with."""
    from monetize.adapters.stripe.payments import StripePayments
    from monetize.services.payments import Ports

    return Ports(store=payment_table(), provider=StripePayments(stripe()), ids=ids())


@part
def applying() -> Any:
    """What applying Stripe's events works with."""
    from monetize.services.applying import Ports

    return Ports(
        inbox=inbox(), payments=payments(), subscribing=subscribing(), onboarding=onboarding(), sessions=customers()
    )


@part
def estimator() -> Any:
    """What rates a bill that is still to come: it seals nothing."""
    from monetize.services.rating_bills import BilledUsage, Rater

    table = billing_table()
    return Rater(table, BilledUsage(usage(), table.meters), seal=False)


@part
def report_table() -> Any:
    """The Core table, as reports ask it."""
    from monetize.adapters.dynamo.reports import ReportTable

    return ReportTable(core())


@part
def stripe_invoices() -> Any:
    """Invoices on publishers' accounts."""
    from monetize.adapters.stripe.invoices import StripeInvoices

    return StripeInvoices(stripe())


@part
def reporting() -> Any:
    """What reports work with."""
    from monetize.services.reporting import Ports

    return Ports(store=report_table(), usage=usage(), invoices=stripe_invoices)


@part
def export_objects() -> Any:
    """Where large exports are kept."""
    from monetize.adapters.objects import ExportObjects

    return ExportObjects(_client("s3"), load().exports_bucket)


@part
def exporting() -> Any:
    """What exports work with."""
    from monetize.services.exporting import Ports

    return Ports(store=report_table(), objects=export_objects)


@part
def run_table() -> Any:
    """The Core table, as runs ask it."""
    from monetize.adapters.dynamo.reports import RunTable

    return RunTable(core())


@part
def invoice_actions() -> Any:
    """What the routes of an invoice's payment call."""
    from monetize.http.payment_routes import Actions
    from monetize.services import invoice_actions as actions
    from monetize.services.subscription_access import Person

    def act(caller: Any, invoice: str, what: str, key: str, details: dict[str, Any]) -> tuple[Any, Any]:
        person = Person(caller.user, caller.organization)
        asked = actions.Request(what=what, key=key, **details)
        done = actions.act(person, invoice, asked, clock().now(), payments())
        return done.invoice, done.action

    def hosted_page(caller: Any, invoice: str) -> str:
        person = Person(caller.user, caller.organization)
        return actions.hosted_page(person, invoice, clock().now(), payments())

    return Actions(act, hosted_page)


@part
def gate() -> Any:
    """Whether billing is held."""
    from monetize.adapters.dynamo.reports import Gate

    return Gate(run_table())


@part
def runs() -> Any:
    """What runs work with: a rater that changes nothing."""
    from monetize.services.rating_bills import BilledUsage, Rater
    from monetize.services.runs import Imagined, Ports

    table = billing_table()
    counted = BilledUsage(usage(), table.meters)
    return Ports(
        runs=run_table(),
        store=table,
        queue=billing_queue(),
        ids=ids(),
        rate=lambda lines: Rater(Imagined(table, lines), counted, seal=False),
        invoices=stripe_invoices,
    )


@part
def reconciling() -> Any:
    """What reconciliation works with."""
    from monetize.adapters.dynamo.reconciliation import ReconciliationTable
    from monetize.services.reconciling import Ports

    ours = payments()
    return Ports(
        store=ReconciliationTable(core()),
        provider=ours.provider,
        products=stripe_products,
        payments=ours,
        onboarding=onboarding,
        restored=billing_paused,
        requests=lambda: int(stripe_http().requests),
    )


@part
def publishing() -> Any:
    """What the outbox works with."""
    from monetize.adapters.outbox import Bus

    return Bus(_client("events"), load().event_bus)


@part
def outbox_dead_letters() -> Any:
    """Where it is said what could not be told."""
    from monetize.adapters.queue import Queue

    return Queue(sqs(), load().outbox_dead_letters_url)
