"""A lease on a shard: ticks go on from it, never renew it, and it stands for nothing that the queue did not take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local import template
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.billing import BillingTable
from monetize.adapters.dynamo.subscriptions import SubscriptionTable
from monetize.adapters.dynamo.table import Table
from monetize.domain.errors import Unavailable
from monetize.services.running import LEASE, Ports, fan_out

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 2, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHARD = 7


@dataclass
class Line:
    """A queue that keeps what it took; `refused` are the positions that the next calls do not take."""

    took: list[str] = field(default_factory=list)
    refused: list[set[int]] = field(default_factory=list)

    def send_many(self, messages: Sequence[tuple[Mapping[str, object], str]]) -> list[int]:
        lost = self.refused.pop(0) if self.refused else set()
        self.took += [str(body["id"]) for at, (body, _) in enumerate(messages) if at not in lost]
        return sorted(lost)


@dataclass
class Shard:
    """One shard of the to-do list, ticked by the hour."""

    dynamodb: MemoryDynamoDB
    ports: Ports
    queue: Line

    def add(self, identity: str, at: datetime) -> None:
        """Something that comes due."""
        due = {"due_pk": keys.due_partition(SHARD, ""), "due_sk": f"{keys.instant(at)}#{identity}#acme"}
        item = {"pk": f"SUB#{identity}", "sk": "SUBSCRIPTION", **due}
        self.dynamodb.put_item(TableName="CoreTable", Item={name: {"S": text} for name, text in item.items()})

    def tick(self, at: datetime) -> list[str]:
        """What a tick enqueues."""
        before = len(self.queue.took)
        fan_out(SHARD, at, self.ports)
        return self.queue.took[before:]


@pytest.fixture
def shard() -> Shard:
    dynamodb = MemoryDynamoDB(Clock(NOW))
    create_tables(dynamodb.as_boto3(), template.load(ROOT / "template.yaml"))
    queue, core = Line(), Table(dynamodb, "CoreTable")
    return Shard(dynamodb, Ports(BillingTable(core, SubscriptionTable(core)), queue), queue)


def test_a_tick_under_a_lease_enqueues_only_what_came_due_since(shard: Shard) -> None:
    shard.add("a", NOW)
    assert shard.tick(NOW) == ["a"]
    shard.add("b", NOW + HOUR)
    assert shard.tick(NOW + HOUR) == ["b"]
    assert shard.tick(NOW + HOUR) == []


def test_a_message_that_was_lost_comes_back_when_the_lease_ends_however_often_it_ticked(shard: Shard) -> None:
    shard.add("a", NOW)
    told = [shard.tick(NOW + hours * HOUR) for hours in range(2 * (LEASE // HOUR))]
    every = LEASE // HOUR
    assert [hours for hours, found in enumerate(told) if found == ["a"]] == [0, every]


@pytest.mark.parametrize("refused", [{0}, {1, 2}, {0, 1, 2}])
def test_a_shard_is_not_leased_while_the_queue_refuses_a_part_of_it(shard: Shard, refused: set[int]) -> None:
    for identity in "abc":
        shard.add(identity, NOW)
    shard.queue.refused = [refused, set(range(len(refused)))]
    with pytest.raises(Unavailable, match="queue_unavailable"):
        shard.tick(NOW)
    assert shard.tick(NOW) == ["a", "b", "c"], "nothing of it was leased"


def test_what_the_queue_takes_at_the_second_try_is_enqueued_once(shard: Shard) -> None:
    for identity in "abc":
        shard.add(identity, NOW)
    shard.queue.refused = [{1}]
    assert sorted(shard.tick(NOW)) == ["a", "b", "c"]
    assert shard.tick(NOW + HOUR) == []
