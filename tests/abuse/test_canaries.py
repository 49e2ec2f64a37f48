"""Recognisable secrets in every input and setting, the whole story with its failures, and none where it must not be.

What is watched: every log record as Lambda would write it (Powertools' loggers at DEBUG, all others at INFO, which is
what the runtime's JSON format lets through), standard output, metrics with their dimensions, trace annotations, the
text of every exception, events on the bus, queue messages, and every value ever written to a table.
"""

import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aws_lambda_powertools.metrics.provider.cloudwatch_emf import cloudwatch

from local.clock import Clock
from local.dynamodb.faults import Fault as TableFault
from local.http_client import Refused
from local.in_process import world_of
from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.faults import Fault
from local.system import System
from tests.abuse import routes
from tests.abuse.routes import KINDS, filled
from tests.abuse.scene import BILLED, METER, PLAN, START, open_side, report, usage_event

CARD = "4242424242424242"
DECLINED_LATER = "4000000000000341"
CONTACT = {
    "name": "Canary Person",
    "email": "canary.person@pii.example",
    "line1": "77 Canary Street",
    "city": "Canaryville",
    "postal_code": "C4N4RY",
    "country": "US",
    "phone": "+15550142857",
}
MAX_LINES = 12
MAX_LINE_BYTES = 16 * 1024
# What may be stored, where, and why. Nothing may be logged.
PERSONAL = {each for name, each in CONTACT.items() if name != "country"} | {"invoices@pii.example"}
STORED_WITH_REASON = {
    "|SUBSCRIBER": "contact and billing data are the subscriber entity's own, erased on request",
    "|SUBSCRIPTION": "the address invoices go to is the subscription's own, erased with the subscriber",
}


@dataclass
class Watched:
    """Everything that left the handlers, by where it went."""

    told: dict[str, list[str]] = field(default_factory=dict)
    written: list[tuple[str, str]] = field(default_factory=list)
    logged: list[list[int]] = field(default_factory=list)

    def add(self, where: str, text: str) -> None:
        self.told.setdefault(where, []).append(text)
        if where == "log" and self.logged:
            self.logged[-1].append(len(text))


def plain(value: Any) -> str:
    """A written value as text, compressed documents opened."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(plain(each) for each in value) + "]"
    if isinstance(value, bytes | bytearray):
        try:
            return zlib.decompress(bytes(value)).decode()
        except (zlib.error, UnicodeDecodeError):
            return bytes(value).decode("latin-1")
    return str(value)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Listen to logs, metrics and traces. The root logger stands where Lambda's runtime puts it."""
    found = Watched()
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    spoken = logging.Logger.callHandlers

    def heard(self: logging.Logger, record: logging.LogRecord) -> None:
        formatter = next((each.formatter for each in self.handlers if each.formatter is not None), None)
        text = formatter.format(record) if formatter is not None else record.getMessage()
        if record.exc_info:
            text += logging.Formatter().formatException(record.exc_info)
        found.add("log", f"{self.name}: {text}")
        spoken(self, record)

    def annotated(self: Any, key: str, value: Any, *_: Any) -> None:
        found.add("trace", f"{key}: {value}")

    monkeypatch.setattr(logging.Logger, "callHandlers", heard)
    from aws_lambda_powertools import Tracer

    monkeypatch.setattr(Tracer, "put_annotation", annotated)
    monkeypatch.setattr(Tracer, "put_metadata", annotated)
    yield found
    root.setLevel(before)


@pytest.fixture
def system(watched: Watched) -> Iterator[System]:
    """A system whose settings are canaries, and whose every way out is watched."""
    clock = Clock(START)
    emulator = StripeEmulator(
        clock, platform_key="sk_test_CANARYPLATFORMKEY", webhook_secrets=("whsec_CANARYONE", "whsec_CANARYTWO")
    )
    with System(clock=clock, emulator=emulator, log_level="DEBUG") as running:
        provider: Any = cloudwatch.AmazonCloudWatchEMFProvider
        counted = provider.flush_metrics

        def flush(self: Any, *args: Any, **kwargs: Any) -> None:
            watched.add("metric", f"{self.metric_set} {self.dimension_set} {self.metadata_set}")
            counted(self, *args, **kwargs)

        provider.flush_metrics = flush
        writing = {"PutItem", "UpdateItem", "TransactWriteItems", "BatchWriteItem"}

        def wrote(operation: str, request: dict[str, Any]) -> None:
            if operation in writing:
                watched.written.extend(each for each in writes(operation, request))

        running.dynamodb.after_call = wrote
        send = running.sqs._put

        def sent(stored: Any, body: str, *rest: Any) -> Any:
            watched.add("queue", body)
            return send(stored, body, *rest)

        vars(running.sqs)["_put"] = sent
        begin = running.functions._context

        def begun(spec: Any) -> Any:
            watched.logged.append([])
            return begin(spec)

        vars(running.functions)["_context"] = begun
        yield running
        running.dynamodb.after_call = None


def writes(operation: str, request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, everything) of each item that a request writes."""
    if operation in ("PutItem", "UpdateItem"):
        yield _one(request)
    elif operation == "TransactWriteItems":
        for each in request["TransactItems"]:
            yield _one(next(iter(each.values())))
    else:
        for table, operations in request["RequestItems"].items():
            for each in operations:
                yield _one({**next(iter(each.values())), "TableName": table})


def _one(request: Mapping[str, Any]) -> tuple[str, str]:
    key = request.get("Key") or request.get("Item") or {}
    named = "|".join(str(key[name].get("S")) for name in ("pk", "sk", "id") if name in key)
    return f"{request.get('TableName')}|{named}", plain(request)


def connect(system: System, secrets: dict[str, str]) -> Any:
    """Connect Stripe, keeping every secret of the way; the code is broken once first."""
    world = world_of(system)
    admin = world.as_user("ann", "acme", "publisher_admin")
    secrets["jwt"] = admin.token
    url = admin.call("POST", "/monetization/connect", {"return_to": "/monetization"})["authorize_url"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    secrets["oauth state"] = asked["state"]
    chosen = {"account": "new", "name": "Acme", "country": "US", "currency": "usd", "decision": "authorize"}
    wrong = world.http.send("GET", f"{system.url}/stripe/oauth/callback?state={asked['state']}&code=ac_CANARYWRONGCODE")
    assert wrong.status < 500
    secrets["wrong oauth code"] = "ac_CANARYWRONGCODE"
    url = admin.call("POST", "/monetization/connect", {"return_to": "/monetization"})["authorize_url"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    secrets["second oauth state"] = asked["state"]
    back = world.form(url, asked | chosen).headers["location"]
    secrets["oauth code"] = parse_qs(urlsplit(back).query)["code"][0]
    landed = world.http.send("GET", back).headers["location"]
    secrets["completion"] = parse_qs(urlsplit(landed).fragment)["completion"][0]
    with pytest.raises(Refused):
        admin.call("POST", "/monetization/enable", {"completion": "CANARYWRONGCOMPLETION" * 2})
    secrets["wrong completion"] = "CANARYWRONGCOMPLETION"
    admin.call("POST", "/monetization/enable", {"completion": secrets["completion"]})
    return admin


def offer(admin: Any, secrets: dict[str, str]) -> tuple[str, str]:
    """An API with the Gold tier on a plan, and a gateway's key."""
    meter = admin.call("POST", "/meters", METER)["id"]
    plan = admin.call("POST", "/plans", {**PLAN, "wso2": {**PLAN["wso2"], "meter": meter}})["id"]
    admin.call("POST", f"/plans/{plan}/publish")
    tier = next(each for each in admin.all("/tiers") if each["name"] == "Gold")
    etag = admin.answer("GET", f"/tiers/{tier['id']}").headers["etag"]
    wanted = {name: tier[name] for name in ("name", "description", "throttle")}
    admin.call("PUT", f"/tiers/{tier['id']}", wanted | {"commercial": True, "plan": plan}, If_Match=etag)
    api = admin.answer("POST", "/apis", {"name": "Weather", "context": "/weather"})
    identity = api.json()["id"]
    admin.call("PUT", f"/apis/{identity}/tiers", {"tiers": [tier["id"]]}, If_Match=api.headers["etag"])
    secrets["gateway key"] = admin.call("POST", "/gateway-keys", {"name": "edge"}, Idempotency_Key="g")["key"]
    return identity, tier["id"]


def tell(system: System) -> dict[str, str]:
    """The whole story, failures included; gives every secret that came up, by name."""
    secrets = {
        "platform key": "sk_test_CANARYPLATFORMKEY",
        "first webhook secret": "whsec_CANARYONE",
        "second webhook secret": "whsec_CANARYTWO",
        "card": CARD,
        "second card": DECLINED_LATER,
    }
    world = world_of(system)
    # The first account call meets a broken and a busy Stripe.
    system.emulator.faults += [
        Fault("error_500", path="/v1/customers", stored=False),
        Fault("rate_limited", path="/v1/checkout/.*"),
    ]
    admin = connect(system, secrets)
    api, tier = offer(admin, secrets)
    buyer = world.as_user("dan", "dev", "subscriber")
    secrets["second jwt"] = buyer.token
    application = buyer.call("POST", "/applications", {"publisher": "acme", "name": "App"})["id"]
    order = {
        "publisher": "acme",
        "application": application,
        "product": api,
        "tier": tier,
        "contact": CONTACT,
        "invoice_email": "invoices@pii.example",
    }
    bad = {**order, "contact": {**CONTACT, "email": "canary.person@pii.example and more", "phone": "+15550142857" * 20}}
    with pytest.raises(Refused):
        buyer.call("POST", "/subscriptions", bad)
    subscription = patiently(buyer, "/subscriptions", order)
    page = subscription["checkout"]["url"]
    secrets["checkout url"] = page
    world.form(page, {"card": "4000000000000002", "exp_month": "12", "exp_year": "2040", "cvc": "737"})
    world.form(page, {"card": DECLINED_LATER, "exp_month": "12", "exp_year": "2040", "authenticate": "yes"})
    world.settle()
    sub = subscription["id"]
    for name in ("production", "sandbox"):
        body = {"name": name, "environment": name}
        secrets[f"{name} key"] = buyer.call("POST", f"/subscriptions/{sub}/keys", body, Idempotency_Key=name)["key"]
    made = buyer.call("GET", f"/subscriptions/{sub}/keys")["items"][0]["id"]
    rotated = buyer.call("POST", f"/subscriptions/{sub}/keys/{made}/rotate", {"overlap_hours": 1}, Idempotency_Key="r")
    secrets["rotated key"] = rotated["key"]
    use(system, secrets, sub)
    secrets["portal url"] = buyer.call("POST", f"/subscriptions/{sub}/portal")["url"]
    bad_webhooks(system, secrets)
    # The opening bill meets a declined card; the table is throttled now and then while bills are made.
    struck = iter(range(10**9))
    system.dynamodb.inject = lambda name, _: (
        TableFault("ThrottlingError") if name == "UpdateItem" and next(struck) % 37 == 0 else None
    )
    world.run_until(BILLED)
    system.dynamodb.inject = None
    after_bills(system, secrets, sub)
    return secrets


def patiently(api: Any, path: str, body: Any) -> Any:
    """As a portal does when Stripe is busy: the same request again."""
    for _ in range(5):
        try:
            return api.call("POST", path, body, Idempotency_Key="order")
        except Refused as refused:
            if refused.status != 503:
                raise
    raise AssertionError("never answered")


def use(system: System, secrets: dict[str, str], sub: str) -> None:
    """Calls, checks, and what goes wrong with both."""
    world, now = world_of(system), system.clock.now()
    edge = world.as_gateway(secrets["gateway key"])
    report(edge, [usage_event(sub, number, now, token="CANARYEVENTDATA") for number in range(30)])
    secrets["event data"] = "CANARYEVENTDATA"
    edge.call("POST", "/entitlements/check", {"key": secrets["rotated key"]})
    edge.call("POST", "/entitlements/check", {"key": "mk_live_CANARYUNKNOWNKEY"})
    secrets["unknown key"] = "mk_live_CANARYUNKNOWNKEY"
    thief = world.as_gateway("gk_CANARYUNKNOWNGATEWAY")
    secrets["unknown gateway key"] = "gk_CANARYUNKNOWNGATEWAY"
    for path, body in (("/entitlements/check", {"key": "x"}), ("/usage/events", [])):
        with pytest.raises(Refused):
            thief.call("POST", path, body)
    system.call("POST", "/usage/events", b'{"CANARYBROKENJSON', token=secrets["gateway key"])
    system.call("POST", "/subscriptions", b'{"CANARYBROKENJSON', token=secrets["second jwt"])
    secrets["broken body"] = "CANARYBROKENJSON"


def bad_webhooks(system: System, secrets: dict[str, str]) -> None:
    """A forged signature, and a body that is none."""
    for signature in ("t=1,v1=CANARYSIGNATURE", "CANARYSIGNATURE"):
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
        status, _, _ = system.call("POST", "/stripe/webhook", b'{"id": "CANARYFORGED"}', headers=headers)
        assert status == 400
    secrets["forged signature"], secrets["forged body"] = "CANARYSIGNATURE", "CANARYFORGED"


def after_bills(system: System, secrets: dict[str, str], sub: str) -> None:
    """Invoices with their links, exports, erasure, and the end."""
    world = world_of(system)
    admin = world.as_user("ann", "acme", "publisher_admin")
    buyer = world.as_user("dan", "dev", "subscriber")
    invoices = [*admin.all("/invoices?side=publisher&month=2026-01"), *admin.all("/invoices?side=publisher")]
    assert invoices
    for invoice in invoices:
        told = buyer.call("GET", f"/invoices/{invoice['id']}")
        for name in ("hosted_url", "pdf_url", "hosted_invoice_url", "invoice_pdf"):
            if value := (told.get("links") or told).get(name):
                secrets[f"{name} of {invoice['id']}"] = value
        if told["status"] not in ("paid", "void"):
            link = buyer.call("GET", f"/invoices/{invoice['id']}/payment-link")["url"]
            secrets[f"payment link of {invoice['id']}"] = link
    system.call("GET", "/invoices/export?what=lines&month=2026-01", token=admin.token)
    buyer.call("POST", f"/subscriptions/{sub}/cancel", {"when": "now"})
    world.settle()


def test_no_secret_is_told_or_stored_anywhere(
    system: System, watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = tell(system)
    for event in system.outbox():
        watched.add("event", f"{event.detail_type} {json.dumps(event.detail)}")
    for failure in system.functions.failures:
        watched.add("error", failure.trace)
    out, err = capfd.readouterr()
    watched.add("output", out + err)
    for delivered in system.emulator.requests:
        assert CARD not in str(delivered.params)
    forbidden = {**secrets, **{f"personal {each}": each for each in PERSONAL}}
    leaks = [
        f"{name} in {where}: {text[:300]}"
        for name, secret in forbidden.items()
        for where, texts in watched.told.items()
        for text in texts
        if secret in text
    ]
    assert not leaks, "\n".join(leaks[:20])
    kept = [
        f"{name} stored at {key}"
        for name, secret in forbidden.items()
        for key, text in watched.written
        if secret in text and not (secret in PERSONAL and key.endswith(tuple(STORED_WITH_REASON)))
    ]
    assert not kept, "\n".join(sorted(set(kept))[:20])
    assert {"log", "metric", "event", "queue"} <= set(watched.told), "a way out was not watched"
    assert len(watched.written) > 100
    assert {"payment link", "checkout url", "portal url"} <= {name.partition(" of ")[0] for name in secrets}
    stored_personally = {key.rpartition("|")[2] for key, text in watched.written if "canary.person@pii" in text}
    assert stored_personally == {"SUBSCRIBER"}, "what is written is not seen any more"


def test_nothing_of_a_request_is_logged_whatever_it_is(system: System, watched: Watched) -> None:
    """Words in bodies, paths, queries and headers of every route: whoever sends a secret in the wrong place is kept."""
    side = open_side(system, world_of(system), "acme", "dev")
    roles = "publisher_admin publisher_viewer subscriber gateway operator"
    tokens = [system.token("ann", "acme", roles=roles), system.token("dan", "dev", roles=roles)]
    own = {**dict.fromkeys(KINDS.values(), "x_CANARYPATH"), **side.ids}
    headers = {
        "If-Match": '"CANARYETAG"',
        "User-Agent": "CANARYAGENT",
        "Cookie": "CANARYCOOKIE",
        "X-Api-Key": "CANARYKEY",
    }
    asked = "cursor=CANARYCURSOR&publisher=CANARYPUBLISHER&month=CANARYMONTH&CANARYNAME=CANARYVALUE"
    for number, operation in enumerate(routes.everything()):
        path = operation.path
        for name in operation.parameters:
            path = path.replace(f"{{{name}}}", own[operation.kind(name)] if name in KINDS else "1")
        for token in (*tokens, side.secrets["gateway key"], "CANARYTOKEN"):
            for body in (operation.body, words_of_canaries(operation.body)):
                key = {"Idempotency-Key": f"CANARYIDEMPOTENCY-{number}-{body == operation.body}"}
                sent = None if body is None else filled(body, own, {})
                for where, more in ((path, {}), (f"{path}?{asked}", headers)):
                    system.call(operation.method, where, sent, token=token, headers={**key, **more})
        system.call(operation.method, f"{operation.path}/CANARYPATH", b'{"CANARYBODY', token=tokens[0])
    system.pump()
    for failure in system.functions.failures:
        watched.add("error", failure.trace)
    leaks = [
        f"{where}: {text[:300]}"
        for where in ("log", "metric", "trace", "error")
        for text in watched.told.get(where, ())
        if "CANARY" in text
    ]
    assert not leaks, "\n".join(sorted(set(leaks))[:20])
    assert len(watched.told["log"]) > 100


def words_of_canaries(value: Any) -> Any:
    """A body whose every text is a canary, and every unknown member too."""
    if isinstance(value, dict):
        return {**{name: words_of_canaries(each) for name, each in value.items()}, "CANARYMEMBER": "CANARYTEXT"}
    if isinstance(value, list):
        return [words_of_canaries(each) for each in value]
    return f"CANARYTEXT {value}" if isinstance(value, str) else value


def test_an_invocation_logs_little_whatever_happens(system: System, watched: Watched) -> None:
    """At DEBUG, with faults: a few lines for each message or request, and no line as long as a request may be."""
    tell(system)
    lines = [len(each) for each in watched.logged]
    longest = max((size for each in watched.logged for size in each), default=0)
    assert sum(lines) <= 3 * len(lines), f"{sum(lines)} lines in {len(lines)} invocations"
    assert max(lines) <= MAX_LINES
    assert longest <= MAX_LINE_BYTES
