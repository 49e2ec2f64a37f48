"""Moving everybody on one version of a plan to another, in the background."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import claim, release
from monetize.domain.errors import Conflict, ProviderBusy
from monetize.services.plans import STEP, run_move_step
from tests.integration.catalog_fixtures import CONTEXT, NOW, Desk, desk
from tests.integration.test_plans_routes import a_published_plan, wso2

__all__ = ["desk"]

MOVE = {"from_version": 1, "to_version": 2, "when": "now"}


@dataclass
class Changes:
    """Stands for the change of one subscription: repoints it, refuses some, breaks once on others."""

    desk: Desk
    refused: set[str] = field(default_factory=set)
    breaks_on: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, subscription: str, plan: str, version: int, when: str, now: datetime) -> None:
        assert now == self.desk.clock.now()
        self.asked.append((subscription, when))
        if subscription in self.breaks_on:
            self.breaks_on.discard(subscription)
            raise ProviderBusy("stripe_unavailable", "Stripe does not answer now.")
        if subscription in self.refused:
            raise Conflict("illegal_move", "It ended.")
        pointers = [claim(keys.plan_subscription(plan, version, subscription))]
        self.desk.table.write(release(keys.plan_subscription(plan, 1, subscription)), *pointers)


@pytest.fixture
def plan(desk: Desk) -> str:
    """A plan of two versions with a few more subscriptions on the first than one step moves."""
    made = a_published_plan(desk)
    desk.ask("post_version", made, body={})
    desk.ask("post_publish", made)
    for number in range(STEP + 3):
        desk.subscribe(f"sub_{number:03d}", "acme", "api_1", plan=made, version=1)
    return made


def step(desk: Desk, changes: Changes) -> bool:
    """Run the oldest message in the queue."""
    message = desk.queue.sent.pop(0)
    assert message["kind"] == "move"
    return run_move_step(message["plan"], message["id"], desk.clock.now(), changes, wiring.plans())


def on(desk: Desk, plan: str, version: int) -> int:
    """How many are on a version."""
    return len(desk.ask("list_subscriptions", plan, query=f"version={version}&limit=100").body["items"])


def test_a_move_is_asked_for_once_runs_in_steps_and_can_be_watched(desk: Desk, plan: str) -> None:
    asked = desk.ask("post_move", plan, body=MOVE)
    assert asked.status == 202
    where = asked.body["id"]
    assert asked.headers["Location"] == f"/plans/{plan}/moves/{where}"
    changes = Changes(desk)
    assert step(desk, changes) is False
    halfway = desk.ask("get_move", plan, where).body
    assert (halfway["status"], halfway["moved"]) == ("running", STEP)
    assert step(desk, changes) is True
    done = desk.ask("get_move", plan, where).body
    assert (done["status"], done["moved"], done["failed"]) == ("done", STEP + 3, 0)
    assert done["finished_at"] == "2026-03-12T19:04:00Z"
    assert desk.queue.sent == []
    assert (on(desk, plan, 1), on(desk, plan, 2)) == (0, STEP + 3)
    assert [it["id"] for it in desk.ask("list_moves", plan).body["items"]] == [where]


def test_who_is_on_which_version_is_a_query(desk: Desk, plan: str) -> None:
    desk.subscribe("sub_new", "acme", "api_1", plan=plan, version=2)
    assert on(desk, plan, 1) == STEP + 3
    assert on(desk, plan, 2) == 1
    everybody, cursor = [], ""
    while True:
        page = desk.ask("list_subscriptions", plan, query=f"limit=10{cursor}").body
        everybody += page["items"]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert len(everybody) == STEP + 4
    assert everybody[-1] == {"subscription": "sub_new", "version": 2}


def test_a_subscription_that_cannot_be_moved_is_told_and_passed_over(desk: Desk, plan: str) -> None:
    where = desk.ask("post_move", plan, body=MOVE | {"when": "period_end"}).body["id"]
    changes = Changes(desk, refused={"sub_001"})
    step(desk, changes)
    step(desk, changes)
    done = desk.ask("get_move", plan, where).body
    assert (done["moved"], done["failed"]) == (STEP + 2, 1)
    assert done["failures"] == [{"subscription": "sub_001", "code": "illegal_move"}]
    assert {when for _, when in changes.asked} == {"period_end"}


def test_a_step_that_breaks_begins_again_where_it_began(desk: Desk, plan: str) -> None:
    where = desk.ask("post_move", plan, body=MOVE).body["id"]
    changes = Changes(desk, breaks_on={"sub_004"})
    message = desk.queue.sent[0]
    with pytest.raises(ProviderBusy):
        step(desk, changes)
    assert desk.ask("get_move", plan, where).body["moved"] == 0
    desk.queue.sent.append(message)
    while desk.queue.sent:
        step(desk, changes)
    assert desk.ask("get_move", plan, where).body["status"] == "done"
    assert (on(desk, plan, 1), on(desk, plan, 2)) == (0, STEP + 3)


def test_of_two_steps_at_once_one_records_and_goes_on(desk: Desk, plan: str) -> None:
    where = desk.ask("post_move", plan, body=MOVE | {"when": "period_end"}).body["id"]
    desk.queue.sent *= 2
    between = [True]

    class Meanwhile(Changes):
        def __call__(self, *_asked: Any) -> None:
            if between:
                between.clear()
                step(desk, Changes(desk, refused={f"sub_{number:03d}" for number in range(STEP + 3)}))

    step(desk, Meanwhile(desk, refused={f"sub_{number:03d}" for number in range(STEP + 3)}))
    assert len(desk.queue.sent) == 1
    assert desk.ask("get_move", plan, where).body["failed"] == STEP


def test_a_message_that_comes_again_after_the_end_does_nothing(desk: Desk, plan: str) -> None:
    desk.ask("post_move", plan, body=MOVE)
    again = desk.queue.sent[0]
    changes = Changes(desk)
    while desk.queue.sent:
        step(desk, changes)
    before = desk.everything("acme")
    desk.queue.sent.append(again)
    desk.clock.advance(timedelta(days=1))
    assert step(desk, changes) is True
    assert desk.everything("acme") == before


def test_asking_again_wakes_the_running_move_and_makes_no_second(desk: Desk, plan: str) -> None:
    first = desk.ask("post_move", plan, body=MOVE).body
    again = desk.ask("post_move", plan, body=MOVE)
    assert (again.status, again.body["id"]) == (202, first["id"])
    assert desk.queue.sent[0] == desk.queue.sent[1]
    other = desk.ask("post_move", plan, body=MOVE | {"when": "period_end"})
    assert (other.status, other.code) == (409, "move_running")
    changes = Changes(desk)
    while desk.queue.sent:
        step(desk, changes)
    assert desk.ask("post_move", plan, body=MOVE).body["id"] != first["id"]


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"to_version": 1}, 409, "same_version"),
        ({"to_version": 3}, 404, "no_such_version"),
        ({"from_version": 9}, 404, "no_such_version"),
        ({"when": "later"}, 422, "invalid_request"),
        ({"from_version": 0}, 422, "invalid_request"),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(
    desk: Desk, plan: str, changed: dict[str, Any], status: int, code: str
) -> None:
    refused = desk.ask("post_move", plan, body=MOVE | changed)
    assert (refused.status, refused.code) == (status, code)
    assert desk.queue.sent == []


def test_nobody_is_moved_to_an_archived_plan(desk: Desk, plan: str) -> None:
    desk.ask("post_archive", plan)
    assert desk.ask("post_move", plan, body=MOVE).code == "plan_archived"


def test_a_move_of_another_plan_is_not_there(desk: Desk, plan: str) -> None:
    other = a_published_plan(desk, name="Other")
    where = desk.ask("post_move", plan, body=MOVE).body["id"]
    assert desk.ask("get_move", other, where).code == "no_such_move"
    assert desk.clock.now() == NOW


def test_the_billing_workers_message_moves_real_subscriptions(desk: Desk) -> None:
    from functions.bill_subscription.app import handler as bill

    plan = a_published_plan(desk)
    meter = desk.ask("get_version", plan, "1").body["terms"]["charges"][1]["meter"]
    desk.ask("post_version", plan, body={"wso2": wso2(meter, price=9900)})
    desk.ask("post_publish", plan)
    tier = desk.make("post_tier", {"name": "Platinum", "commercial": True, "plan": plan})["id"]
    desk.subscribe("sub_live", "acme", "api_1", plan=plan, version=1, tier=tier)
    desk.subscribe("sub_paused", "acme", "api_1", plan=plan, version=1, tier=tier, status="paused")
    where = desk.ask("post_move", plan, body=MOVE).body["id"]
    message = {
        "messageId": "1",
        "body": json.dumps(desk.queue.sent.pop()),
        "attributes": {"MessageGroupId": "acme"},
        "eventSource": "aws:sqs",
    }
    assert bill({"Records": [message]}, CONTEXT) == {"batchItemFailures": []}
    done = desk.ask("get_move", plan, where).body
    assert (done["status"], done["moved"]) == ("done", 1), done["failures"]
    assert [it["code"] for it in done["failures"]] == ["subscription_not_active"]
    versions = {
        it["subscription"]: it["version"] for it in desk.ask("list_subscriptions", plan, query="").body["items"]
    }
    assert versions == {"sub_live": 2, "sub_paused": 1}
