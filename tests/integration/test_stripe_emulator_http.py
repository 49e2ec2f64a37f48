"""The emulator behind a socket: API, OAuth and pages on one origin, the SDK's own HTTP client."""

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import stripe

from local.clock import Clock
from local.stripe_emulator import Fault, Server, StripeEmulator, serve
from local.stripe_emulator.sample import START

REDIRECT = "http://127.0.0.1/callback"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StripeEmulator, Server]]:
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    emulator = StripeEmulator(Clock(START), redirect_uris=[REDIRECT])
    with serve(emulator) as running:
        yield emulator, running


def client_of(server: Server) -> stripe.StripeClient:
    return stripe.StripeClient(
        "sk_test_platform",
        client_id="ca_platform",
        base_addresses={"api": server.url, "connect": server.url},
        http_client=stripe.RequestsClient(timeout=(2, 5)),
        max_network_retries=0,
    )


def browse(url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Open a page, or post its form to its own URL: status, Location, text."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if form is None:
        connection.request("GET", target)
    else:
        connection.request("POST", target, urlencode(form), {"Content-Type": "application/x-www-form-urlencoded"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, response.getheader("Location", ""), text


def connected(emulator: StripeEmulator, client: stripe.StripeClient) -> Any:
    """Go through the authorize page as a publisher does; the options of the connected account."""
    asked: Any = {"redirect_uri": REDIRECT, "scope": "read_write", "state": "s1"}
    url = client.oauth.authorize_url(asked)
    status, _, page = browse(url)
    assert status == 200
    assert "read_write" in page
    form = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    status, location, _ = browse(url, {**form, "decision": "deny"})
    assert parse_qs(urlsplit(location).query)["error"] == ["access_denied"]
    status, location, _ = browse(url, {**form, "decision": "authorize", "account": "new", "name": "Weather"})
    assert status == 303
    assert location.startswith(f"{REDIRECT}?")
    back = parse_qs(urlsplit(location).query)
    assert back["state"] == ["s1"]
    token = client.oauth.token({"grant_type": "authorization_code", "code": back["code"][0]}).to_dict()
    assert token["stripe_user_id"] in emulator.accounts
    return {"stripe_account": token["stripe_user_id"]}


def test_from_connect_to_a_paid_invoice_through_sockets_and_pages(server: tuple[StripeEmulator, Server]) -> None:
    emulator, running = server
    client = client_of(running)
    options = connected(emulator, client)
    customer = client.v1.customers.create({"name": "Ann"}, options)
    session: Any = {
        "mode": "setup",
        "currency": "usd",
        "customer": customer.id,
        "success_url": "http://127.0.0.1/ok?session={CHECKOUT_SESSION_ID}",
    }
    opened = client.v1.checkout.sessions.create(session, options)
    assert opened.url is not None
    assert browse(opened.url)[0] == 200
    assert browse(opened.url, {"card": "4000000000000002"})[0] == 402
    assert browse(opened.url, {"card": "4242424242424242", "exp_month": "May"})[0] == 400
    status, location, _ = browse(opened.url, {"card": "4242424242424242"})
    assert (status, location) == (303, f"http://127.0.0.1/ok?session={opened.id}")
    assert browse(opened.url)[0] == 410
    done = client.v1.checkout.sessions.retrieve(opened.id, {"expand": ["setup_intent"]}, options).to_dict()
    method = done["setup_intent"]["payment_method"]
    client.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method}}, options)
    draft = client.v1.invoices.create({"customer": customer.id, "currency": "usd"}, options)
    client.v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1000, "description": "<Calls>"}]}, options)
    paid = client.v1.invoices.pay(draft.id, None, options)
    assert (paid.status, paid.amount_paid) == ("paid", 1000)
    assert paid.hosted_invoice_url is not None
    assert "&lt;Calls&gt;" in browse(paid.hosted_invoice_url)[2]
    assert paid.invoice_pdf is not None
    assert browse(paid.invoice_pdf)[0] == 200


def test_a_hosted_invoice_and_the_portal_take_a_card(server: tuple[StripeEmulator, Server]) -> None:
    emulator, running = server
    client = client_of(running)
    options = connected(emulator, client)
    customer = client.v1.customers.create({"name": "Ann"}, options)
    draft = client.v1.invoices.create({"customer": customer.id, "currency": "usd"}, options)
    client.v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1000}]}, options)
    opened = client.v1.invoices.finalize_invoice(draft.id, None, options)
    assert opened.hosted_invoice_url is not None
    assert browse(opened.hosted_invoice_url, {"card": "4000000000000341"})[0] == 402
    assert browse(opened.hosted_invoice_url, {"card": "4000002760003184"})[0] == 200
    assert client.v1.invoices.retrieve(draft.id, None, options).status == "paid"
    portal = client.v1.billing_portal.sessions.create({"customer": customer.id}, options)
    assert browse(portal.url, {"card": "5555555555554444"})[0] == 200
    after = client.v1.customers.retrieve(customer.id, None, options)
    assert after.invoice_settings is not None
    assert after.invoice_settings.default_payment_method is not None


def test_an_unregistered_redirect_is_not_followed(server: tuple[StripeEmulator, Server]) -> None:
    _, running = server
    wrong: Any = {"redirect_uri": "https://evil.test/", "scope": "read_write", "state": "s1"}
    status, location, _ = browse(client_of(running).oauth.authorize_url(wrong))
    assert (status, location) == (400, "")


def test_a_broken_connection_reaches_the_sdk_as_one(server: tuple[StripeEmulator, Server]) -> None:
    emulator, running = server
    client = client_of(running)
    options: Any = {"idempotency_key": "k1"}
    emulator.faults = [Fault("time_out", path="/v1/customers", after=True)]
    with pytest.raises(stripe.APIConnectionError):
        client.v1.customers.create({"name": "Ann"}, options)
    assert client.v1.customers.create({"name": "Ann"}, options).name == "Ann"
    assert len(emulator.platform.customers) == 1


def test_errors_carry_stripes_fields_over_http(server: tuple[StripeEmulator, Server]) -> None:
    wrong: Any = {"nmae": "Ann"}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client_of(server[1]).v1.customers.create(wrong)
    assert (refused.value.code, refused.value.param) == ("parameter_unknown", "nmae")
    assert refused.value.request_id


def test_a_taken_port_is_refused(server: tuple[StripeEmulator, Server]) -> None:
    emulator, running = server
    with pytest.raises(OSError, match="in use"):
        serve(emulator, port=running.port)
