"""What no client of good will sends: forged signatures, broken events, cursors, prices, keys, sizes, depths, letters.

The rule is the same everywhere: never a 5xx, a problem document where we refuse, and nothing half done.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.abuse import routes
from tests.abuse.routes import EVERY_TENANT_ROLE, send
from tests.abuse.scene import BATCH, PLAN, Scene, stage, usage_event

bounded = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LETTERS = st.text(st.characters(codec="utf-8"), max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | LETTERS
JSON = st.recursive(SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(LETTERS, each, max_size=4))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    staged = stage()
    with staged.system:
        yield staged


@pytest.fixture
def admin(scene: Scene) -> str:
    return scene.as_user("acme", EVERY_TENANT_ROLE)


def refused(scene: Scene, answer: tuple[int, dict[str, str], bytes]) -> str:
    """The code of a refusal in its documented form, the gateway's own included; empty for a success."""
    status, headers, body = answer
    failures = scene.system.functions.failures
    assert status < 500, failures[-1].trace[-700:] if failures else body
    if status < 400:
        return ""
    told = json.loads(body)
    if headers["content-type"] == "application/json":
        assert set(told) == {"message"}, told
        return str(told["message"])
    assert headers["content-type"] == "application/problem+json"
    assert told["status"] == status
    return str(told["code"])


# Stripe's webhook


def signed(scene: Scene, body: bytes, *, secret: str | None = None, late: int = 0) -> str:
    """A signature as Stripe makes it, by default a right one."""
    at = int(scene.system.clock.now().timestamp()) - late
    key = secret or scene.system.emulator.webhooks.secrets[0]
    mac = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


def post_webhook(scene: Scene, body: bytes, signature: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
    return scene.system.call("POST", "/stripe/webhook", body, headers=headers)


def test_no_forged_signature_is_believed(scene: Scene) -> None:
    sent = scene.system.sqs.sent
    body = json.dumps({"id": "evt_1", "object": "event", "type": "invoice.paid", "livemode": False}).encode()
    right = signed(scene, body)

    @bounded
    @given(
        st.one_of(LETTERS, st.text("tv0123456789abcdef=,.", max_size=120), st.sampled_from([right[:-1], right[:20]]))
    )
    def holds(signature: str) -> None:
        assert refused(scene, post_webhook(scene, body, signature)) != ""

    holds()
    for forged in (
        signed(scene, body, secret="whsec_other"),
        signed(scene, body, late=301),
        signed(scene, body, late=-301 * 1000),
        signed(scene, body + b" "),
        right.replace("v1=", "v0="),
        right.partition(",")[2],
        right.upper(),
    ):
        assert refused(scene, post_webhook(scene, body, forged)) != ""
    assert scene.system.sqs.sent == sent


def test_a_signed_body_of_any_form_breaks_nothing(scene: Scene) -> None:
    """Who holds the secret may still send what we cannot read."""
    kinds = st.sampled_from(["invoice.paid", "checkout.session.completed", "account.application.deauthorized", "", "x"])
    events = st.fixed_dictionaries(
        {"id": SCALARS, "type": kinds | JSON, "livemode": st.just(False) | JSON, "data": JSON},
        optional={"account": JSON, "created": JSON, "object": st.just("event") | JSON},
    )

    @bounded
    @given(st.one_of(st.binary(max_size=60), events.map(lambda each: json.dumps(each).encode())))
    def holds(body: bytes) -> None:
        # API Gateway hands text over as UTF-8: what is none cannot be verified, and what cannot be is refused.
        refused(scene, post_webhook(scene, body, signed(scene, body)))
        scene.system.pump()

    holds()


# Usage


def test_every_event_is_counted_in_exactly_one_verdict_whatever_it_holds(scene: Scene) -> None:
    sub, now, key = scene.acme.ids["subscription"], scene.system.clock.now(), scene.acme.secrets["gateway key"]
    sound = usage_event(sub, 1, now)
    members = st.sampled_from(sorted(sound))
    broken = st.dictionaries(members, JSON, max_size=3).map(lambda wrong: {**sound, **wrong})

    @bounded
    @given(st.lists(broken | JSON, max_size=6), st.sampled_from([BATCH, f"{BATCH}; charset=utf-8"]))
    def holds(events: list[Any], content_type: str) -> None:
        answer = scene.system.call("POST", "/usage/events", events, token=key, headers={"content-type": content_type})
        if refused(scene, answer) == "":
            told = json.loads(answer[2])
            parts = (
                told["accepted"] + told["duplicates"] + told["late"] + len(told["rejected"]) + len(told["conflicts"])
            )
            assert parts == len(events), (events, told)

    holds()


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json", "application/cloudevents+json", "multipart/form-data", "\x7f"],
)
def test_events_under_another_content_type_are_refused_or_read_never_lost(scene: Scene, content_type: str) -> None:
    event = usage_event(scene.acme.ids["subscription"], 1, scene.system.clock.now())
    body = json.dumps([event]).encode()
    headers = {"content-type": content_type}
    token = scene.acme.secrets["gateway key"]
    answer = scene.system.call("POST", "/usage/events", body, token=token, headers=headers)
    refused(scene, answer)


# Cursors


def test_a_cursor_moves_within_ones_own_list_only(scene: Scene, admin: str) -> None:
    lists = [each for each in routes.operations() if "cursor" in each.query and each.method == "GET"]
    assert len(lists) > 10
    stranger = scene.as_user("rival", EVERY_TENANT_ROLE)
    acme, rival = scene.acme.ids, scene.rival.ids
    marks = [acme[kind] for kind in ("tier", "plan", "api", "subscription", "application", "invoice", "meter")]
    texts = [
        f"PUB#acme|TIER#{acme['tier']}",
        "TIER#",
        "\x00",
        "PUB#acme",
        "~",
        "!",
        *marks,
        "SUB#" + marks[3],
        "0" * 512,
    ]
    cursors = [base64.urlsafe_b64encode(each.encode()).decode().rstrip("=") for each in texts]
    for operation in lists:
        for cursor in [*cursors, "%00", "é", "=", "a" * 800, "..", "_-", "%F0%9F%98%80"]:
            answer = send(scene.system, operation, rival, stranger, number=0, other={"cursor": cursor})
            refused(scene, answer)
            told = answer[2].decode()
            assert not any(mark in told for mark in marks), (operation.name, cursor, told)


# Money


def test_a_price_is_taken_exactly_or_not_at_all(scene: Scene, admin: str) -> None:
    number = iter(range(10**6))
    texts = st.one_of(
        st.decimals(min_value=0, max_value=10**9, places=12).map(str),
        st.decimals(allow_nan=True, allow_infinity=True).map(str),
        st.from_regex(r"[0-9]{1,25}(\.[0-9]{0,25})?", fullmatch=True),
        st.sampled_from(
            ["1e3", "0x10", "١٢", "1_000", "+1", "-0", " 1", "1 ", ".5", "5.", "00.10", "1,5", "NaN", "∞", ""]
        ),
        LETTERS,
    )

    @bounded
    @given(texts, st.integers() | st.just(1900))
    def holds(price: str, amount: int) -> None:
        terms = {**PLAN["wso2"], "meter": scene.acme.ids["meter"], "overage_charge": price, "price": amount}
        body = {"name": f"Fuzzed {next(number)}", "wso2": terms}
        answer = scene.system.call("POST", "/plans", body, token=admin)
        if refused(scene, answer) == "":
            kept = json.loads(answer[2])
            text = json.dumps(kept)
            assert price.isascii()
            assert Decimal(price) >= 0
            charges = (kept.get("draft") or kept)["charges"] if "charges" in text else []
            prices = [each.get("unit_price") for each in charges if each.get("unit_price") is not None]
            assert all(Decimal(each) >= 0 for each in prices)
            assert amount >= 0

    holds()


# Idempotency keys


def test_an_idempotency_key_of_another_request_is_refused(scene: Scene, admin: str) -> None:
    body = {"name": "First", "context": "/first"}

    def post(key: str, sent: Any, path: str = "/apis") -> tuple[int, dict[str, str], bytes]:
        return scene.system.call("POST", path, sent, token=admin, headers={"Idempotency-Key": key})

    first = post("same", body)
    assert first[0] == 201
    again = post("same", body)
    assert (again[0], json.loads(again[2])) == (201, json.loads(first[2]))
    assert refused(scene, post("same", body | {"name": "Second"})) == "idempotency_key_reused"
    assert post("same", {"name": "M", "event_type": "e", "aggregation": "count", "unit": "u"}, "/meters")[0] == 201

    @bounded
    @given(st.one_of(LETTERS, st.text("a\x00\x1f\x7f é😀'\"%", max_size=300)))
    def holds(key: str) -> None:
        refused(scene, post(key, {"name": "x" * 101, "context": "/x"}))

    holds()


# Sizes, depths, letters


BODIES = {
    "256 KB and a byte": b'"' + b"a" * (256 * 1024) + b'"',
    "10 MB and a byte": b"[" + b" " * (10 * 1024 * 1024) + b"]",
    "a deep list": b"[" * 50_000 + b"]" * 50_000,
    "a deep object": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "a huge number": b'{"name": 1' + b"0" * 5_000 + b"}",
    "a huge exponent": b'{"name": 1e999999999, "quantity": 1e400}',
    "not a number": b'{"name": NaN, "quantity": Infinity}',
    "a lone surrogate": b'{"name": "\\ud800", "reason": "\\udfff"}',
    "a zero letter": b'{"name": "a\\u0000b", "reason": "\\u0000"}',
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "a mark of byte order": b'\xef\xbb\xbf{"name": "a"}',
    "the same member twice": b'{"name": "a", "name": {"b": 1}}',
    "a prototype": b'{"__proto__": {"a": 1}, "constructor": 1, "__class__": "x"}',
    "nothing": b"",
    "null": b"null",
    "a number": b"7",
    "a list": b"[[[]]]",
    "a form": b"name=a&context=b",
}


@pytest.mark.parametrize("what", BODIES)
def test_every_route_with_a_body_refuses_what_is_none(scene: Scene, admin: str, what: str) -> None:
    tried = 0
    for operation in routes.everything():
        if operation.body is None and operation.method != "POST":
            continue
        tried += 1
        path = operation.path
        for name in operation.parameters:
            path = path.replace(f"{{{name}}}", scene.acme.ids.get(routes.KINDS.get(name, ""), "1"))
        content = BATCH if "usage/events" in path else "application/json"
        token = scene.acme.secrets["gateway key"] if path in ("/usage/events", "/entitlements/check") else admin
        headers = {"content-type": content, "If-Match": '"1"', "Idempotency-Key": f"{what}-{path}"}
        answer = scene.system.call(operation.method, path, BODIES[what], token=token, headers=headers)
        code = refused(scene, answer)
        if operation.body is not None and b"name" not in BODIES[what] and BODIES[what] != b"":
            assert code != "" or "events" in path, (operation.name, answer)
    assert tried > 40


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/JSON",
    ],
)
def test_another_content_type_is_refused_in_the_documented_form(scene: Scene, admin: str, content_type: str) -> None:
    for operation in routes.operations():
        if operation.body is None:
            continue
        headers = {"content-type": content_type, "If-Match": '"77"'}
        answer = send(scene.system, operation, scene.acme.ids, admin, number=0, headers=headers)
        refused(scene, answer)


PATHS = [
    "%00",
    "%2e%2e",
    "..%2f..%2f",
    "%F0%9F%98%80",
    "%ff",
    "a" * 3000,
    "sub_%23BILL",
    "*",
    "'--",
    "%0d%0ax: y",
    "{id}",
]


@pytest.mark.parametrize("identity", PATHS)
def test_an_id_of_any_letters_is_an_unknown_one(scene: Scene, admin: str, identity: str) -> None:
    for operation in routes.operations():
        named = [name for name in operation.parameters if name in routes.KINDS]
        if named:
            other = {named[-1]: identity}
            status, headers, body = send(scene.system, operation, scene.acme.ids, admin, number=0, other=other)
            code = refused(scene, (status, headers, body))
            not_this_role = status == 403 and code == "missing_role"  # an operator's route says that before it looks
            assert not_this_role or status in (400, 404, 409, 422), (operation.name, code, body)
