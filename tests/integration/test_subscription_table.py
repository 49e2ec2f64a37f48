"""The conditions of every transaction on subscriptions: each one refuses alone, and then nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.subscriptions import SubscriptionTable
from monetize.adapters.dynamo.table import Op, Table, claim, put
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Product, Tier
from monetize.domain.errors import Conflict, PreconditionFailed
from monetize.domain.keys import ApiKey
from monetize.domain.offers import Offer
from monetize.domain.plans import Plan
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Application, Subscriber, Subscription, TopUp
from tests.integration.subscribing_fixtures import NOW, TEMPLATE

LATER = datetime(2026, 3, 13, tzinfo=UTC)


@dataclass
class Bench:
    """A table with an offer and an application, as they were read."""

    client: MemoryDynamoDB
    table: Table
    store: SubscriptionTable
    offer: Offer
    application: Application

    def everything(self) -> list[Any]:
        """All that is stored, to see that nothing changed."""
        items = self.client.scan(TableName="CoreTable")["Items"]
        return sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))

    def touch(self, entity: Any) -> None:
        """Somebody else writes it."""
        self.table.write(put(entity))


@pytest.fixture
def bench() -> Bench:
    """One publisher, product, tier and plan; one application."""
    client = MemoryDynamoDB(Clock(NOW))
    create_tables(client.as_boto3(), TEMPLATE)
    table = Table(client, "CoreTable")
    offer = Offer(
        publisher=Publisher(id="acme", created_at=NOW),
        product=Product(id="api_1", publisher="acme", name="A", created_at=NOW),
        tier=Tier(id="tier_1", publisher="acme", name="T", created_at=NOW),
        plan=Plan(id="plan_1", publisher="acme", name="P", status="published", created_at=NOW, updated_at=NOW),
    )
    application = Application(id="app_1", publisher="acme", subscriber="dev", name="A", created_at=NOW)
    assert offer.plan is not None
    table.write(*(put(each) for each in (offer.publisher, offer.product, offer.tier, offer.plan, application)))
    read = replace(
        offer,
        publisher=replace(offer.publisher, rev=1),
        product=replace(offer.product, rev=1),
        tier=replace(offer.tier, rev=1),
        plan=replace(offer.plan, rev=1),
    )
    return Bench(client, table, SubscriptionTable(table), read, replace(application, rev=1))


def entry(number: int = 1) -> AuditEntry:
    return AuditEntry(
        id=f"aud_{number}", publisher="acme", at=NOW, actor="d", organization="dev", action="a", target="t"
    )


def wanted(identity: str = "sub_1", **changes: Any) -> Subscription:
    fields: dict[str, Any] = {
        "id": identity,
        "publisher": "acme",
        "subscriber": "dev",
        "application": "app_1",
        "product": "api_1",
        "apis": ("api_1", "api_2"),
        "tier": "tier_1",
        "status": "active",
        "plan": "plan_1",
        "version": 1,
        "created_at": NOW,
    }
    return Subscription(**fields | changes)


def begun(bench: Bench) -> Subscription:
    return bench.store.begin(wanted(), bench.application, bench.offer, entry(), ("r1", "print", LATER))


def refused(bench: Bench, act: Callable[[], object], kind: type[Exception] = PreconditionFailed) -> None:
    before = bench.everything()
    with pytest.raises(kind):
        act()
    assert bench.everything() == before


def test_beginning_writes_guards_pointers_application_and_audit_together(bench: Bench) -> None:
    made = begun(bench)
    assert bench.store.subscription("sub_1") == made
    assert bench.store.guarded_by("app_1", ["api_2"]) == "sub_1"
    assert [each.id for each in bench.store.of_publisher("acme", None, 9).items] == ["sub_1"]
    assert [each.id for each in bench.store.of_subscriber("acme", "dev", None, 9).items] == ["sub_1"]
    application = bench.store.application("acme", "dev", "app_1")
    assert application is not None
    assert application.live == 1
    asked = bench.store.requested("r1")
    assert asked is not None
    assert (asked.made, asked.fingerprint) == ("sub_1", "print")
    assert bench.table.raw(keys.audit("acme", "2026-03", "aud_1"))


@pytest.mark.parametrize("what", ["publisher", "product", "tier", "plan"])
def test_nothing_begins_on_an_offer_that_changed(bench: Bench, what: str) -> None:
    bench.touch(getattr(bench.offer, what))
    refused(bench, lambda: begun(bench))


def test_nothing_begins_for_an_application_that_changed(bench: Bench) -> None:
    bench.touch(bench.application)
    refused(bench, lambda: begun(bench))


@pytest.mark.parametrize("api", ["api_1", "api_2"])
def test_nothing_begins_where_a_guard_is_taken(bench: Bench, api: str) -> None:
    bench.table.write(claim(keys.guard("app_1", api), "sub_0"))
    refused(bench, lambda: begun(bench), Conflict)


def test_nothing_begins_twice_for_one_request(bench: Bench) -> None:
    begun(bench)
    other = wanted("sub_2", application="app_2", apis=("api_9",))
    application = Application(id="app_2", publisher="acme", subscriber="dev", name="B", created_at=NOW)
    bench.touch(application)
    request = ("r1", "print", LATER)
    refused(
        bench,
        lambda: bench.store.begin(other, replace(application, rev=1), bench.offer, entry(2), request),
    )


def test_a_subscription_that_changed_is_not_overwritten(bench: Bench) -> None:
    read = begun(bench)
    bench.store.save(read, replace(read, block="all"))
    refused(bench, lambda: bench.store.save(read, replace(read, status="paused")))


def test_ending_releases_the_guards_that_are_its_own_and_no_others(bench: Bench) -> None:
    read = begun(bench)
    gone = bench.store.save(read, replace(read, status="ended"))
    assert bench.store.guarded_by("app_1", ["api_1", "api_2"]) is None
    application = bench.store.application("acme", "dev", "app_1")
    assert application is not None
    assert application.live == 0
    bench.table.write(claim(keys.guard("app_1", "api_1"), "sub_2"))
    bench.store.save(gone, replace(gone, end_reason="again"))
    assert bench.store.guarded_by("app_1", ["api_1"]) == "sub_2"
    refused(bench, lambda: bench.store.save(replace(gone, status="active", rev=gone.rev + 1), gone))


def test_the_pointer_moves_with_the_plan_version(bench: Bench) -> None:
    read = begun(bench)
    bench.store.save(read, replace(read, version=2))
    assert bench.table.raw(keys.plan_subscription("plan_1", 1, "sub_1")) is None
    assert bench.table.raw(keys.plan_subscription("plan_1", 2, "sub_1")) is not None


def test_a_subscriber_that_changed_or_a_foreign_operation_that_fails_stops_all(bench: Bench) -> None:
    read = begun(bench)
    subscriber = Subscriber(id="dev", publisher="acme", created_at=NOW)
    bench.touch(subscriber)
    refused(bench, lambda: bench.store.save(read, replace(read, block="all"), subscriber=subscriber))
    never = Op(
        "ConditionCheck",
        {"Key": {"pk": {"S": "x"}, "sk": {"S": "y"}}, "ConditionExpression": "attribute_exists(pk)"},
    )
    refused(bench, lambda: bench.store.save(read, replace(read, block="all"), also=[never]))


def a_key(identity: str = "key_1") -> ApiKey:
    return ApiKey(
        id=identity,
        subscription="sub_1",
        publisher="acme",
        environment="production",
        sha256=f"sha-{identity}",
        created_at=NOW,
    )


def test_a_key_is_made_for_a_subscription_as_it_was_read_and_once_for_a_request(bench: Bench) -> None:
    read = begun(bench)
    request = ("k1", "print", LATER)
    made = bench.store.issue(a_key(), read, entry(2), request=request)
    assert bench.store.keys_of("sub_1").items == (made,)
    assert bench.store.key("sub_1", "key_1") == made
    refused(bench, lambda: bench.store.issue(a_key("key_2"), read, entry(3), request=request))
    stale = replace(made, rev=0)
    refused(bench, lambda: bench.store.issue(a_key("key_2"), read, entry(3), replaced=stale))
    bench.store.save(read, replace(read, block="all"))
    refused(bench, lambda: bench.store.issue(a_key("key_2"), read, entry(3)))


def test_a_top_up_is_kept_under_its_key_for_ever(bench: Bench) -> None:
    read = begun(bench)
    topped = replace(read, topups=(TopUp(id="top_1", meter="m", quantity=1, counts_from=NOW),))
    after = bench.store.give("topup", read, topped, ("t1", "print", "top_1"), entry(2))
    item = bench.table.raw(keys.gift("sub_1", "topup", "t1"))
    assert item is not None
    assert "expires_at" not in item
    refused(bench, lambda: bench.store.give("topup", after, topped, ("t1", "print", "top_2"), entry(3)))
    refused(bench, lambda: bench.store.give("topup", read, topped, ("t2", "print", "top_2"), entry(3)))


def test_a_request_is_forgotten_by_the_tables_own_time_to_live(bench: Bench) -> None:
    begun(bench)
    item = bench.table.raw(keys.request("r1"))
    assert item is not None
    assert int(item["expires_at"]["N"]) == int(LATER.timestamp())
    assert timedelta(days=1) > LATER - NOW
