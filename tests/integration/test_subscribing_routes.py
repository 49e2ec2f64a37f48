"""Every route of the function: its event, its roles, and what somebody else's id answers."""

import json
from datetime import UTC, date, datetime

import pytest
from botocore.exceptions import ClientError

from functions.subscribe import app as function
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.domain.subscriptions import Subscription
from monetize.domain.usage import Group, event_id
from tests.integration.subscribing_fixtures import EVENTS, NOW, TEMPLATE, Answer, Shop, shop

__all__ = ["shop"]

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
NAMES = sorted(path.stem.removeprefix("subscribe_") for path in EVENTS.glob("subscribe_*.json"))
KEYED = {name: {"idempotency-key": "x"} for name in ("post_topup", "post_discount")}
MATCHED = {"put_spend_cap", "put_application", "put_subscriber", "put_payment_grace"}
OPERATING = {"get_shards", "put_shards"}
OF_A_SUBSCRIPTION = [
    name
    for name in NAMES
    if name not in OPERATING and "/subscriptions/sub_" in (EVENTS / f"subscribe_{name}.json").read_text()
]


def headers(name: str) -> dict[str, str]:
    return KEYED.get(name, {}) | ({"if-match": '"1"'} if name in MATCHED else {})


def test_every_route_has_an_event_and_every_event_a_route() -> None:
    documented = {
        (method.upper(), path)
        for path, item in function.app.get_openapi_schema(title="t", version="1").paths.items()  # type: ignore[union-attr]
        for method in ("get", "put", "post", "delete")
        if getattr(item, method) is not None
    }
    events = set()
    for name in NAMES:
        event = json.loads((EVENTS / f"subscribe_{name}.json").read_text())
        http = event["requestContext"]["http"]
        parts = [
            "{" + part.split("_")[0] + "}" if part[:4] in ("sub_", "app_", "key_", "dis_") else part
            for part in http["path"].split("/")
        ]
        words = {"{sub}": "{subscription}", "{app}": "{application}", "{key}": "{key}", "{dis}": "{discount}"}
        events.add((http["method"], "/".join(words.get(part, part) for part in parts)))
    assert events == {(method, path.replace("<", "{").replace(">", "}")) for method, path in documented}


def test_every_event_goes_through_a_route_of_the_template() -> None:
    routed = {
        f"{each['Properties']['Method']} {each['Properties']['Path']}"
        for each in TEMPLATE["Resources"]["SubscribeFunction"]["Properties"]["Events"].values()
    }
    for name in NAMES:
        assert json.loads((EVENTS / f"subscribe_{name}.json").read_text())["routeKey"] in routed


@pytest.mark.parametrize("name", OF_A_SUBSCRIPTION)
@pytest.mark.parametrize("whose", ["nobody", "somebody"])
def test_somebody_elses_subscription_answers_as_an_unknown_one(shop: Shop, name: str, whose: str) -> None:
    subscription = shop.paying() if whose == "somebody" else "sub_01KK0000000000000000000000"
    before = shop.table.raw(keys.subscription(subscription))
    answer = shop.ask(name, subscription, headers=headers(name), org="globex")
    assert answer.status == 404, answer.text
    assert answer.code == "unknown_subscription"
    assert shop.table.raw(keys.subscription(subscription)) == before


@pytest.mark.parametrize("name", ["get_application", "put_application", "delete_application"])
def test_somebody_elses_application_answers_as_an_unknown_one(shop: Shop, name: str) -> None:
    application = shop.application()
    mine = shop.ask(name, application, org="globex", headers={"if-match": '"1"'})
    unknown = shop.ask(name, "app_01KK0000000000000000000000", org="globex", headers={"if-match": '"1"'})
    assert (mine.status, mine.text) == (unknown.status, unknown.text)
    assert mine.code == "unknown_application"


def test_somebody_elses_application_cannot_be_subscribed(shop: Shop) -> None:
    assert shop.order(shop.application(), "tier_free", org="globex").code == "unknown_application"


def test_somebody_elses_key_is_unknown(shop: Shop) -> None:
    mine, other = shop.paying(), shop.paying(name="Two")
    key = shop.ask("post_key", other).body["id"]
    assert shop.ask("delete_key", mine, key).code == "unknown_key"
    assert shop.ask("post_rotation", mine, key).code == "unknown_key"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("roles", ["", "gateway", "operator"])
def test_a_caller_without_the_role_is_refused_before_anything_is_read(shop: Shop, name: str, roles: str) -> None:
    if roles == "operator" and name in OPERATING:
        roles = "subscriber publisher_admin"
    answer = shop.ask(name, roles=roles)
    assert (answer.status, answer.code) == (403, "missing_role"), answer.text


@pytest.mark.parametrize("name", sorted(OPERATING))
def test_an_operator_is_told_of_a_subscription_that_is_not_there(shop: Shop, name: str) -> None:
    answer = shop.ask(name, "sub_01KK0000000000000000000000", headers={"if-match": '"1"'}, org="ops", roles="operator")
    assert (answer.status, answer.code) == (404, "unknown_subscription")


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("_")[0] in ("post", "put", "delete")])
def test_a_viewer_changes_nothing(shop: Shop, name: str) -> None:
    assert shop.ask(name, roles="publisher_viewer", org="acme").status == 403


def test_usage_is_told_by_day_and_meter_to_both_sides(shop: Shop) -> None:
    subscription = shop.paying()
    counted(shop, subscription, 7)
    for org in ("dev", "acme"):
        by_day = shop.ask("get_usage", subscription, org=org)
        assert by_day.status == 200, by_day.text
        assert by_day.body["items"] == [{"meter": "met_calls", "day": "2026-03-12", "quantity": 7}]
    query = {"from": "2026-03-01", "to": "2026-03-31", "group": "meter"}
    assert shop.ask("get_usage", subscription, query=query).body["items"] == [
        {"meter": "met_calls", "day": None, "quantity": 7}
    ]
    assert shop.ask("get_usage", subscription, query={"from": "2026-03-02", "to": "2026-03-01"}).code == "bad_range"
    assert shop.ask("get_usage", subscription, query={"from": "yesterday", "to": "2026-03-01"}).status == 422


def test_the_ledger_shows_the_batches_behind_a_number(shop: Shop) -> None:
    subscription = shop.paying()
    counted(shop, subscription, 3)
    counted(shop, subscription, 4, first=100)
    page = shop.ask("get_usage_ledger", subscription, query={"day": "2026-03-12", "limit": "1"})
    assert page.status == 200, page.text
    assert page.body["cursor"] is not None
    rest = shop.ask(
        "get_usage_ledger", subscription, query={"day": "2026-03-12", "cursor": page.body["cursor"], "limit": "5"}
    ).body
    rows = page.body["items"] + rest["items"]
    assert sorted(row["quantities"]["met_calls"] for row in rows) == [3, 4]
    assert sum(row["events"] for row in rows) == 7
    bad = shop.ask("get_usage_ledger", subscription, query={"day": "2026-03-12", "cursor": "OTk5OjEyMw"})
    assert bad.code == "bad_cursor"


def test_the_upcoming_invoice_follows_the_usage_and_seals_nothing(shop: Shop) -> None:
    subscription = shop.paying()
    opening = shop.ask("get_upcoming", subscription)
    assert opening.status == 200, opening.text
    assert (opening.body["bill_at"], opening.body["subtotal"]) == ("2026-03-12T19:04:00Z", 3036)
    shop.change(Subscription, keys.subscription(subscription), last_edge=NOW, next_edge=APRIL, due_at=APRIL)
    counted(shop, subscription, 5002)
    running = shop.ask("get_upcoming", subscription, org="acme").body
    assert (running["bill_at"], running["due_at"]) == ("2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z")
    # One started package of 1,000 calls above the day's 5,000, and April in advance.
    assert (running["subtotal"], len(running["lines"])) == (100 + 4900, 2)
    counters = shop.dynamodb.scan(TableName="UsageTable")["Items"]
    assert not any("sealed_through" in item for item in counters)
    free = shop.order(shop.application("F"), "tier_free").body["id"]
    assert shop.ask("get_upcoming", free).body | {"as_of": ""} == {
        "as_of": "",
        "currency": "",
        "bill_at": None,
        "due_at": None,
        "subtotal": 0,
        "lines": [],
        "carry_out": 0,
        "application_fee": None,
    }


def counted(shop: Shop, subscription: str, events: int, first: int = 0) -> None:
    """Usage of today, as a gateway reports it."""
    group = Group(subscription=subscription, sandbox=False, day=date(2026, 3, 12))
    for at in range(first, first + events):
        group.rows[event_id("gw", str(at))] = ((1,), (1,))
    group.seal_content("")
    wiring.usage().record([group], shop.clock.now(), _Patience())


class _Patience:
    def left(self) -> float:
        return 5.0

    def wait(self, seconds: float) -> None:
        del seconds


def test_one_key_makes_one_application_although_its_answer_could_not_be_kept(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamodb = shop.dynamodb.as_boto3()

    def throttled(**_: object) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "UpdateItem")

    def ask(**body: str) -> Answer:
        """As after half a minute, when the first request is not waited for any more."""
        for record in dynamodb.scan(TableName="IdempotencyTable")["Items"]:
            dynamodb.delete_item(TableName="IdempotencyTable", Key={"id": record["id"]})
        return shop.ask("post_application", body={"publisher": "acme", **body}, headers={"idempotency-key": "once"})

    with monkeypatch.context() as broken:
        broken.setattr(dynamodb, "update_item", throttled)
        answer = ask(name="App")
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "storage_busy", "1")
    again = ask(name="App")
    assert again.status == 201
    listed = shop.ask("get_applications", query={"publisher": "acme"}).body["items"]
    assert [each["id"] for each in listed] == [again.body["id"]]
    other = ask(name="Other")
    assert (other.status, other.code) == (422, "idempotency_key_reused")
