"""A wall around each tenant: every route with every kind of foreign id in every role, generated from the routes.

What is somebody else's answers exactly as what does not exist, and nothing at rest changes. A route or a member that
the matrix does not know fails it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from local import template
from local.stack import Stack
from local.system import ROOT
from tests.abuse import routes
from tests.abuse.routes import EVERY_TENANT_ROLE, KINDS, PLAIN, ROLES, Operation, send, unknown
from tests.abuse.scene import BATCH, Scene, stage, usage_event

# An operator works for every publisher: these it may read, and change where its work is to change them.
OPERATORS = re.compile(
    r"/(invoices|reports|bills|billing-runs|audit|subscriptions/[^/]+/shards|monetization/publishers)\b"
)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    staged = stage()
    with staged.system:
        yield staged


def at_rest(scene: Scene) -> dict[str, dict[str, Any]]:
    """Every item of every table, by table and key, but the stranger's own reports, kept for the next reader."""
    found: dict[str, dict[str, Any]] = {}
    for table in scene.system.tables.values():
        page: dict[str, Any] = {}
        while page.get("LastEvaluatedKey") or not page:
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]} if page else {}
            page = scene.system.dynamodb.scan(TableName=table, **start)
            for item in page["Items"]:
                key = "|".join(str(item[name]) for name in ("pk", "sk", "id") if name in item)
                if "PUB#rival#REPORTS" not in key:
                    found[f"{table}|{key}"] = item
    return found


def elsewhere(scene: Scene) -> tuple[Any, int]:
    """What left the tables: messages in queues, and requests to Stripe."""
    return scene.system.sqs.sent, len(scene.system.emulator.requests)


def without(text: bytes, *ids: str) -> bytes:
    for each in ids:
        text = text.replace(each.encode(), b"ID")
    return text


class Numbers:
    """A fresh Idempotency-Key for every request."""

    last = 0


def fresh() -> int:
    Numbers.last += 1
    return Numbers.last


def test_the_matrix_knows_every_parameter_and_member() -> None:
    unknown_names = {
        f"{operation.name}: {name}"
        for operation in routes.operations()
        for name in routes.members(operation) - set(KINDS) - PLAIN
    }
    assert not unknown_names


def test_every_route_of_the_template_leads_into_the_matrix() -> None:
    """A resource-wide route without a described operation would be one the matrix cannot see."""
    described = {each.path for each in routes.everything()}
    api = Stack(template.load(ROOT / "template.yaml")).api()
    resources = {route.path.removesuffix("/{proxy+}") for route in api.routes if route.method != "OPTIONS"}
    unseen = {each for each in resources if not any(f"{path}/".startswith(f"{each}/") for path in described)}
    assert not unseen


def refusals(scene: Scene, operation: Operation, token: str, role: str) -> Iterator[str]:
    """What is wrong with the answers to one stranger's requests for everything of acme's."""
    acme, own = scene.acme.ids, {**scene.rival.ids, "batch": "b"}
    last = [name for name in operation.parameters if name in KINDS]
    for kind, identity in acme.items():
        combinations = [{last[-1]: identity}]
        if len(last) > 1:
            combinations += [{last[0]: identity}, {last[0]: acme[operation.kind(last[0])], last[-1]: identity}]
        for sent in combinations:
            twin = {name: unknown(value) for name, value in sent.items()}
            status, _, body = send(scene.system, operation, own, token, number=fresh(), other=sent)
            expected, _, like = send(scene.system, operation, own, token, number=fresh(), other=twin)
            here = f"{role}: {operation.name} with {kind} {sent}: {status} {body[:200]!r}"
            if status not in (403, 404):
                yield here
            elif (status, without(body, *sent.values())) != (expected, without(like, *twin.values())):
                yield f"{here} but an unknown id answers {expected} {like[:200]!r}"


@pytest.mark.parametrize("role", [*ROLES, EVERY_TENANT_ROLE])
def test_a_foreign_id_answers_as_an_unknown_one_and_changes_nothing(scene: Scene, role: str) -> None:
    before, left = at_rest(scene), elsewhere(scene)
    token = scene.as_user("rival", role)
    wrong: list[str] = []
    tried = 0
    for operation in routes.operations():
        if not set(operation.parameters) & set(KINDS) or (role == "operator" and OPERATORS.match(operation.path)):
            continue
        tried += 1
        wrong += refusals(scene, operation, token, role)
    assert not wrong, routes.names(wrong)
    assert tried > 40
    assert at_rest(scene) == before
    assert elsewhere(scene) == left


@pytest.mark.parametrize("role", [*ROLES, EVERY_TENANT_ROLE])
def test_a_foreign_id_in_a_body_or_query_answers_as_an_unknown_one(scene: Scene, role: str) -> None:
    """Not `publisher`: whoever buys names whose API it is. What that shows is tried below."""
    acme, own = scene.acme.ids, {**scene.rival.ids, "batch": "b"}
    before, left = at_rest(scene), elsewhere(scene)
    token = scene.as_user("rival", role)
    wrong: list[str] = []
    tried = 0
    for operation in routes.operations():
        for name in operation.references():
            kind = KINDS[name]
            if kind in ("publisher", "batch", "key") or (role == "operator" and OPERATORS.match(operation.path)):
                continue
            tried += 1
            sent, twin = {name: acme[kind]}, {name: unknown(acme[kind])}
            if "side" in operation.query:
                sent, twin = sent | {"side": "publisher"}, twin | {"side": "publisher"}
            status, _, body = send(scene.system, operation, own, token, number=fresh(), other=sent)
            expected, _, like = send(scene.system, operation, own, token, number=fresh(), other=twin)
            if (status, without(body, acme[kind])) != (expected, without(like, unknown(acme[kind]))):
                wrong.append(f"{operation.name} with {sent}: {status} {body!r}, an unknown id: {expected} {like!r}")
            elif status < 400 and operation.method != "GET":
                wrong.append(f"{operation.name} with {sent}: {status} {body!r}")
    assert not wrong, routes.names(wrong)
    assert tried > 10
    assert at_rest(scene) == before
    assert elsewhere(scene) == left


@pytest.mark.parametrize("role", [each for each in ROLES if each != "operator"])
def test_no_answer_to_a_stranger_names_anything_of_acme(scene: Scene, role: str) -> None:
    """Every reading route, as it is and with acme named as the publisher or the subscriber."""
    marks = [each for kind, each in scene.acme.ids.items() if kind not in ("publisher", "subscriber", "lot")]
    marks += ["App of dev", "dan@dev.example", *scene.acme.secrets.values()]
    own, token = {**scene.rival.ids, "batch": "b"}, scene.as_user("rival", role)
    told = []
    for operation in routes.operations():
        if operation.method != "GET":
            continue
        namable = [name for name in ("publisher", "subscriber") if name in operation.query]
        for chosen in ({}, *({name: scene.acme.ids[name]} for name in namable)):
            for side in ("publisher", "subscriber") if "side" in operation.query else ("",):
                other = chosen | ({"side": side} if side else {})
                status, headers, body = send(scene.system, operation, own, token, number=fresh(), other=other)
                text = body.decode() + json.dumps(headers)
                told += [f"{operation.name} {other}: {status} tells {mark}" for mark in marks if mark in text]
    assert not told, routes.names(told)


def test_without_a_token_every_authorized_route_answers_401(scene: Scene) -> None:
    for operation in routes.operations():
        assert operation.authorized, operation.name
        for token in (None, "not.a.token", scene.acme.secrets["api key"], scene.acme.secrets["gateway key"]):
            status, headers, _ = send(scene.system, operation, {**scene.acme.ids, "batch": "b"}, token, number=fresh())
            assert (status, "www-authenticate" in headers) == (401, True), operation.name


def test_a_token_without_an_organization_or_with_one_made_of_keys_is_refused(scene: Scene) -> None:
    before = at_rest(scene)
    for operation in routes.operations():
        for organization in ("", "acme#SUBR#dev", "acme\x00", "*", "a" * 200, " "):
            token = scene.as_user(organization, EVERY_TENANT_ROLE)
            status, _, body = send(scene.system, operation, {**scene.acme.ids, "batch": "b"}, token, number=fresh())
            assert (status, json.loads(body)["code"]) == (401, "no_organization"), operation.name
    assert at_rest(scene) == before


def test_nobody_does_anything_without_a_role(scene: Scene) -> None:
    before = at_rest(scene)
    for role in ("nothing", "publisher_administrator", "PUBLISHER_ADMIN", "admin"):
        token = scene.as_user("acme", role)
        for operation in routes.operations():
            status, _, body = send(scene.system, operation, {**scene.acme.ids, "batch": "b"}, token, number=fresh())
            assert (status, json.loads(body)["code"]) == (403, "missing_role"), (operation.name, body)
    assert at_rest(scene) == before


# What is read by hand


def test_usage_for_a_foreign_subscription_is_refused_as_for_an_unknown_one(scene: Scene) -> None:
    system, now = scene.system, scene.system.clock.now()
    own = {key: item for key, item in at_rest(scene).items() if scene.acme.ids["subscription"] in key}
    verdicts = []
    for subject in (scene.acme.ids["subscription"], unknown(scene.acme.ids["subscription"]), "acme", "sub_#..%2e"):
        for path, token in (
            ("/usage/events", scene.rival.secrets["gateway key"]),
            ("/publisher/usage/events", scene.as_user("rival", "gateway")),
        ):
            event = usage_event(subject, fresh(), now)
            status, _, body = system.call("POST", path, [event], token=token, headers={"content-type": BATCH})
            told = json.loads(body)
            assert (status, told["accepted"], len(told["rejected"])) == (200, 0, 1)
            verdicts.append(told["rejected"][0]["code"])
    assert set(verdicts) == {"unknown_subject"}
    assert own == {key: item for key, item in at_rest(scene).items() if scene.acme.ids["subscription"] in key}


def test_a_foreign_key_opens_nothing_and_a_foreign_gateway_learns_nothing(scene: Scene) -> None:
    def asked(gateway: str, body: Any) -> Any:
        status, _, answered = scene.system.call("POST", "/entitlements/check", body, token=gateway)
        assert status == 200
        return json.loads(answered)

    acme, rival = scene.acme.secrets, scene.rival.secrets
    assert asked(acme["gateway key"], {"key": acme["api key"]})["allowed"] is True
    nobody = asked(rival["gateway key"], {"key": "mk_live_nobody"})
    assert nobody["allowed"] is False
    assert asked(rival["gateway key"], {"key": acme["api key"]}) == nobody
    assert asked(rival["gateway key"], {"keys": [{"key": acme["api key"], "api": scene.acme.ids["api"]}]}) == {
        "results": [nobody]
    }
    status, _, body = scene.system.call("POST", "/entitlements/check", {"key": "x"}, token="gk_nobody")
    assert (status, json.loads(body)["code"]) == (401, "unknown_gateway_key")


def test_the_same_idempotency_key_of_another_tenant_or_user_is_another_key(scene: Scene) -> None:
    body = {"name": "Shared", "context": "/shared"}
    made = set()
    for organization, user in (("acme", "ann"), ("rival", "ann"), ("rival", "eve")):
        token = scene.as_user(organization, "publisher_admin", user)
        status, _, answered = scene.system.call(
            "POST", "/apis", body | {"name": f"Shared {user}"}, token=token, headers={"Idempotency-Key": "one"}
        )
        assert status == 201, answered
        made.add((organization, json.loads(answered)["id"]))
    assert len({identity for _, identity in made}) == 3


def test_a_completion_token_works_only_for_the_organization_and_user_that_began(scene: Scene) -> None:
    system, world = scene.system, scene.world
    mallory = world.as_user("mallory", "third", "publisher_admin")
    url = mallory.call("POST", "/monetization/connect", {"return_to": "/monetization"})["authorize_url"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    chosen = {"account": "new", "name": "Third", "country": "US", "currency": "usd", "decision": "authorize"}
    back = world.form(url, asked | chosen).headers["location"]
    landed = world.http.send("GET", back).headers["location"]
    completion = parse_qs(urlsplit(landed).fragment)["completion"][0]
    for user, organization in (("eve", "rival"), ("ann", "acme"), ("other", "third"), ("mallory", "fourth")):
        token = scene.as_user(organization, "publisher_admin", user)
        status, _, body = system.call("POST", "/monetization/enable", {"completion": completion}, token=token)
        assert 400 <= status < 500, (user, organization, body)
        assert "acct_" not in body.decode()
    again = world.http.send("GET", back)
    assert "completion" not in again.headers.get("location", ""), "a state is consumed once"
    assert again.status < 500
