"""The one way entities are written: conditions by position, others in between, and nothing half done."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from local.clock import Clock
from local.dynamodb import Fault, MemoryDynamoDB
from local.dynamodb.template import create_tables
from local.system import ROOT
from local.template import load
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import ATTEMPTS, Lost, Table, claim, put
from monetize.domain.errors import Unavailable
from monetize.domain.publishers import Publisher

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Publisher(id="ann", created_at=NOW)
BOB = Publisher(id="bob", created_at=NOW)


class Conflicts:
    """Refuses the first so many transactions, each as if another one held an item."""

    def __init__(self, times: int, code: str = "TransactionConflict") -> None:
        self.times = times
        self.code = code

    def __call__(self, operation: str, _request: Mapping[str, Any]) -> Fault | None:
        if operation not in ("TransactWriteItems", "PutItem") or not self.times:
            return None
        self.times -= 1
        return Fault(self.code)  # type: ignore[arg-type] # the code is one of two


def table(inject: Conflicts | None = None) -> tuple[Table, list[float]]:
    client = MemoryDynamoDB(Clock(NOW))
    names = create_tables(client.as_boto3(), load(ROOT / "template.yaml"))
    client.inject = inject
    waited: list[float] = []
    return Table(client, names["CoreTable"], waited.append), waited


def test_a_conflict_is_no_condition_and_is_tried_again() -> None:
    core, waited = table(Conflicts(2))
    core.write(put(ANN), put(BOB))
    assert len(waited) == 2
    assert core.get(Publisher, keys.publisher("ann")) is not None


@pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError"])
def test_whoever_is_always_in_between_makes_the_write_unavailable_and_changes_nothing(code: str) -> None:
    core, waited = table(Conflicts(ATTEMPTS, code))
    with pytest.raises(Unavailable) as refused:
        core.write(put(ANN), put(BOB))
    assert refused.value.code == "storage_busy"
    assert len(waited) == ATTEMPTS - 1
    assert core.get(Publisher, keys.publisher("ann")) is None


def test_a_single_write_is_tried_again_as_well() -> None:
    core, waited = table(Conflicts(1))
    core.write(put(ANN))
    assert len(waited) == 1


def test_a_lost_condition_is_told_by_position_and_never_tried_again() -> None:
    core, waited = table()
    core.write(put(BOB))
    with pytest.raises(Lost) as lost:
        core.write(put(ANN), put(BOB), claim(keys.stripe_account("acct_1"), owner="ann"))
    assert lost.value.unmet == {1}
    assert waited == []
    assert core.get(Publisher, keys.publisher("ann")) is None


def test_an_entity_is_replaced_only_as_it_was_read() -> None:
    core, _ = table()
    core.write(put(ANN))
    read = core.get(Publisher, keys.publisher("ann"))
    assert read is not None
    core.write(put(read))
    with pytest.raises(Lost):
        core.write(put(read))
