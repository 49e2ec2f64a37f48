"""What holds for every request: isolation, idempotency, faults, limits, OAuth, and the life of a card."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import stripe

from local.clock import Clock
from local.stripe_emulator import Fault, RateLimits, RequestRecord, StripeEmulator, client_for
from local.stripe_emulator.refusals import Refusal
from local.stripe_emulator.sample import START, Sample, sample

REDIRECT = "https://api.test/callback"


@pytest.fixture
def shop() -> Sample:
    return sample(redirect_uris=[REDIRECT])


def keyed(shop: Sample, key: str) -> Any:
    return {**shop.options, "idempotency_key": key}


def create(shop: Sample, key: str | None = None, **params: Any) -> stripe.Invoice:
    made: Any = {"customer": shop.customer, "currency": "usd", **params}
    options: Any = {**shop.options, "idempotency_key": key}
    return shop.client.v1.invoices.create(made, options)


def drafts(shop: Sample) -> int:
    return len(shop.account.invoices)


# --- isolation ---


def test_another_accounts_id_is_as_unknown_as_any(shop: Sample) -> None:
    invoice = shop.finalized(1000)
    other: Any = {"stripe_account": shop.emulator.connect_account(name="Other").id}
    for act in (
        lambda: shop.client.v1.invoices.retrieve(invoice.id, None, other),
        lambda: shop.client.v1.invoices.pay(invoice.id, None, other),
        lambda: shop.client.v1.customers.update(shop.customer, {"name": "x"}, other),
        lambda: shop.client.v1.invoices.create({"customer": shop.customer}, other),
        lambda: shop.client.v1.invoices.retrieve(invoice.id),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            act()
        assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    assert not shop.client.v1.invoices.list(None, other).data


def test_an_account_that_left_or_never_came_is_403(shop: Sample) -> None:
    stranger = shop.emulator.create_account()
    shop.emulator.deauthorize(shop.account.id)
    for account_id in (shop.account.id, stranger.id, "acct_nothing"):
        with pytest.raises(stripe.PermissionError) as refused:
            shop.client.v1.invoices.list(None, {"stripe_account": account_id})
        assert refused.value.error is not None
        assert refused.value.error.code == "account_invalid"
        with pytest.raises(stripe.PermissionError):
            shop.client.v1.accounts.retrieve(account_id)


def test_a_read_only_grant_cannot_write(shop: Sample) -> None:
    shop.account.scope = "read_only"
    assert shop.client.v1.invoices.list(None, shop.options).data == []
    with pytest.raises(stripe.PermissionError):
        create(shop)


def test_a_wrong_key_and_another_version_are_refused(shop: Sample) -> None:
    with pytest.raises(stripe.AuthenticationError):
        client_for(shop.emulator, api_key="sk_test_other").v1.invoices.list()
    with pytest.raises(stripe.InvalidRequestError, match="version"):
        shop.client.v1.invoices.list(None, {"stripe_version": "2020-08-27"})


def test_what_is_not_emulated_says_so(shop: Sample) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="not emulated"):
        shop.client.v1.payouts.list()


# --- idempotency ---


def test_a_repeated_key_replays_the_answer_and_acts_once(shop: Sample) -> None:
    first, again = create(shop, "k1"), create(shop, "k1")
    assert first.id == again.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert drafts(shop) == 1
    assert [record.replayed for record in shop.emulator.requests][-2:] == [False, True]


def test_a_key_with_other_parameters_or_path_is_refused(shop: Sample) -> None:
    create(shop, "k1")
    with pytest.raises(stripe.IdempotencyError):
        create(shop, "k1", description="other")
    with pytest.raises(stripe.IdempotencyError):
        shop.client.v1.customers.create({}, keyed(shop, "k1"))
    assert drafts(shop) == 1


def test_a_key_belongs_to_one_account(shop: Sample) -> None:
    other = shop.emulator.connect_account(name="Other")
    theirs: Any = {"stripe_account": other.id, "idempotency_key": "k1"}
    made = [shop.client.v1.customers.create({}, options).id for options in (keyed(shop, "k1"), theirs)]
    assert made[0] != made[1]


def test_a_key_is_forgotten_after_24_hours(shop: Sample) -> None:
    create(shop, "k1")
    shop.emulator.clock.advance(timedelta(hours=24) - timedelta(seconds=1))
    create(shop, "k1")
    assert drafts(shop) == 1
    shop.emulator.clock.advance(timedelta(seconds=1))
    create(shop, "k1")
    assert drafts(shop) == 2


def test_a_stored_decline_is_replayed_even_when_the_card_is_good_again(shop: Sample) -> None:
    invoice = shop.finalized(1000)
    shop.emulator.set_card_outcome(shop.account.id, shop.card, "insufficient_funds")
    options: Any = {**shop.options, "idempotency_key": "pay"}
    with pytest.raises(stripe.CardError):
        shop.client.v1.invoices.pay(invoice.id, None, options)
    shop.emulator.set_card_outcome(shop.account.id, shop.card, "succeed")
    with pytest.raises(stripe.CardError) as replayed:
        shop.client.v1.invoices.pay(invoice.id, None, options)
    assert replayed.value.headers is not None
    assert replayed.value.headers["Idempotent-Replayed"] == "true"
    options["idempotency_key"] = "pay-2"
    assert shop.client.v1.invoices.pay(invoice.id, None, options).status == "paid"


def test_failed_validation_is_not_remembered(shop: Sample) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        create(shop, "k1", nonsense="x")
    assert create(shop, "k1").status == "draft"


# --- faults ---


def test_a_stored_500_is_replayed_with_or_without_its_effect(shop: Sample) -> None:
    for after, made in ((False, 0), (True, 1)):
        shop.emulator.faults = [Fault("error_500", path="/v1/invoices", after=after)]
        for _ in range(2):
            with pytest.raises(stripe.APIError) as failed:
                create(shop, f"k{after}")
            assert failed.value.http_status == 500
        assert drafts(shop) == made


def test_a_500_that_is_not_stored_executes_anew(shop: Sample) -> None:
    shop.emulator.faults = [Fault("error_500", path="/v1/invoices", stored=False)]
    with pytest.raises(stripe.APIError):
        create(shop, "k1")
    assert create(shop, "k1").status == "draft"


def test_a_time_out_after_success_is_found_again_by_its_key(shop: Sample) -> None:
    shop.emulator.faults = [Fault("time_out", path="/v1/invoices", after=True)]
    with pytest.raises(stripe.APIConnectionError):
        create(shop, "k1")
    assert drafts(shop) == 1
    assert create(shop, "k1").id in shop.account.invoices
    assert drafts(shop) == 1


@pytest.mark.parametrize(
    ("kind", "error", "status"),
    [
        ("rate_limited", stripe.RateLimitError, 429),
        ("lock_timeout", stripe.RateLimitError, 429),
        ("conflict", stripe.StripeError, 409),
        ("refused", stripe.APIConnectionError, None),
        ("time_out", stripe.APIConnectionError, None),
    ],
)
def test_a_fault_before_the_effect_changes_nothing(
    shop: Sample, kind: Any, error: type[stripe.StripeError], status: int | None
) -> None:
    shop.emulator.faults = [Fault(kind, path="/v1/invoices", nth=2)]
    create(shop)
    with pytest.raises(error) as failed:
        create(shop, "k1")
    assert failed.value.http_status == status
    assert drafts(shop) == 1
    create(shop, "k1")
    assert drafts(shop) == 2


def test_should_retry_makes_the_sdk_retry_a_429(shop: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    options: Any = {**shop.options, "max_network_retries": 1}
    params: Any = {"customer": shop.customer}
    shop.emulator.faults = [Fault("lock_timeout", path="/v1/invoices", should_retry=True)]
    assert shop.client.v1.invoices.create(params, options).status == "draft"
    shop.emulator.faults = [Fault("lock_timeout", path="/v1/invoices")]
    with pytest.raises(stripe.RateLimitError):
        shop.client.v1.invoices.create(params, options)


def test_a_crash_can_be_placed_before_or_after_the_effect(shop: Sample) -> None:
    def crash_at(phase: str) -> Callable[[str, RequestRecord], None]:
        def crash(now: str, record: RequestRecord) -> None:
            if now == phase and record.operation == "POST /v1/invoices":
                raise KeyboardInterrupt

        return crash

    for phase, made in (("before", 0), ("after", 1)):
        shop.emulator.on_call = crash_at(phase)
        with pytest.raises(KeyboardInterrupt):
            create(shop, "k1")
        assert drafts(shop) == made
    shop.emulator.on_call = None
    create(shop, "k1")
    assert drafts(shop) == 1


def test_rate_limits_count_by_account_endpoint_and_second() -> None:
    shop = sample()
    shop.emulator.clock.advance(timedelta(seconds=1))
    shop.emulator.rate_limits = RateLimits(account=30, endpoint=25)
    for _ in range(25):
        create(shop)
    with pytest.raises(stripe.RateLimitError):
        create(shop)
    for _ in range(4):
        shop.client.v1.customers.list(None, shop.options)
    with pytest.raises(stripe.RateLimitError):
        shop.client.v1.customers.list(None, shop.options)
    shop.client.v1.customers.list()
    shop.emulator.clock.advance(timedelta(seconds=1))
    create(shop)


# --- OAuth ---


def authorize_url(shop: Sample, **params: Any) -> str:
    asked: Any = {"redirect_uri": REDIRECT, "scope": "read_write", "state": "s1", **params}
    return shop.client.oauth.authorize_url(asked)


def test_a_code_connects_once_and_within_five_minutes(shop: Sample) -> None:
    account = shop.emulator.create_account(country="DE", default_currency="eur")
    back = parse_qs(urlsplit(shop.emulator.authorize(authorize_url(shop), account.id)).query)
    assert back["state"] == ["s1"]
    token: Any = {"grant_type": "authorization_code", "code": back["code"][0]}
    assert shop.client.oauth.token(token).to_dict()["stripe_user_id"] == account.id
    assert shop.client.v1.accounts.retrieve(account.id).default_currency == "eur"
    with pytest.raises(stripe.oauth_error.InvalidGrantError):
        shop.client.oauth.token(token)
    late = parse_qs(urlsplit(shop.emulator.authorize(authorize_url(shop), account.id)).query)
    shop.emulator.clock.advance(timedelta(minutes=5))
    with pytest.raises(stripe.oauth_error.InvalidGrantError):
        shop.client.oauth.token({"grant_type": "authorization_code", "code": late["code"][0]})


def test_a_denial_and_an_unregistered_redirect(shop: Sample) -> None:
    assert parse_qs(urlsplit(shop.emulator.authorize(authorize_url(shop))).query)["error"] == ["access_denied"]
    for wrong in (f"{REDIRECT}/", "https://evil.test/callback"):
        with pytest.raises(ValueError, match="redirect"):
            shop.emulator.authorize(authorize_url(shop, redirect_uri=wrong), shop.account.id)


def test_deauthorizing_ends_access_and_tells_the_platform(shop: Sample) -> None:
    shop.emulator.due_deliveries()
    shop.client.oauth.deauthorize({"client_id": "ca_platform", "stripe_user_id": shop.account.id})
    assert [one.event.type for one in shop.emulator.due_deliveries()] == ["account.application.deauthorized"]
    with pytest.raises(stripe.PermissionError):
        create(shop)
    with pytest.raises(stripe.oauth_error.InvalidClientError):
        shop.client.oauth.deauthorize({"client_id": "ca_platform", "stripe_user_id": shop.account.id})


def test_oauth_parameters_are_checked(shop: Sample) -> None:
    wrong: Any = {"grant_type": "authorization_code", "kode": "x"}
    with pytest.raises(stripe.oauth_error.InvalidRequestError, match="kode"):
        shop.client.oauth.token(wrong)


# --- cards and Checkout ---


def session(shop: Sample, **params: Any) -> stripe.checkout.Session:
    asked: Any = {
        "mode": "setup",
        "currency": "usd",
        "customer": shop.customer,
        "success_url": "https://p.test/ok",
        **params,
    }
    return shop.client.v1.checkout.sessions.create(asked, shop.options)


def test_a_declined_card_leaves_the_session_open_for_another(shop: Sample) -> None:
    opened = session(shop)
    for number in ("4000000000000002", "4000000000009995", "4000000000000069", "1234"):
        with pytest.raises(Refusal):
            shop.emulator.complete_checkout(shop.account.id, opened.id, number)
    with pytest.raises(Refusal):
        shop.emulator.complete_checkout(shop.account.id, opened.id, "4000002500003155", authenticate=False)
    shop.emulator.complete_checkout(shop.account.id, opened.id, "5555 5555 5555 4444")
    done = shop.client.v1.checkout.sessions.retrieve(
        opened.id, {"expand": ["setup_intent.payment_method"]}, shop.options
    )
    assert done.status == "complete"
    assert done.to_dict()["setup_intent"]["payment_method"]["card"]["last4"] == "4444"
    assert shop.emulator.emitted["setup_intent.setup_failed"] == 5


def test_a_session_expires_after_24_hours_or_at_once(shop: Sample) -> None:
    first, second = session(shop), session(shop)
    assert shop.client.v1.checkout.sessions.expire(first.id, None, shop.options).status == "expired"
    shop.emulator.clock.advance(timedelta(hours=24))
    assert shop.client.v1.checkout.sessions.retrieve(second.id, None, shop.options).status == "expired"
    assert shop.emulator.emitted["checkout.session.expired"] == 2
    with pytest.raises(Refusal):
        shop.emulator.complete_checkout(shop.account.id, second.id)


def test_setup_mode_needs_a_currency_and_other_modes_are_not_there(shop: Sample) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        session(shop, currency=None)
    assert refused.value.param == "currency"
    with pytest.raises(stripe.InvalidRequestError, match="setup"):
        session(shop, mode="payment")


def test_a_detached_card_is_gone_from_lists_and_defaults_and_cannot_come_back(shop: Sample) -> None:
    methods = shop.client.v1.payment_methods
    assert [one.id for one in methods.list({"customer": shop.customer}, shop.options).data] == [shop.card]
    methods.detach(shop.card, None, shop.options)
    assert not methods.list({"customer": shop.customer}, shop.options).data
    customer = shop.client.v1.customers.retrieve(shop.customer, None, shop.options)
    assert customer.invoice_settings is not None
    assert customer.invoice_settings.default_payment_method is None
    with pytest.raises(stripe.InvalidRequestError):
        methods.attach(shop.card, {"customer": shop.customer}, shop.options)


def test_a_deleted_customer_answers_deleted(shop: Sample) -> None:
    shop.emulator.delete_customer(shop.account.id, shop.customer)
    assert shop.client.v1.customers.retrieve(shop.customer, None, shop.options).deleted
    with pytest.raises(stripe.InvalidRequestError):
        shop.client.v1.customers.update(shop.customer, {"name": "x"}, shop.options)


def test_the_portal_needs_a_configuration(shop: Sample) -> None:
    portal, wanted = shop.client.v1.billing_portal, {"customer": shop.customer}
    assert portal.sessions.create(wanted, shop.options).url  # type: ignore[arg-type]
    shop.account.has_portal_configuration = False
    with pytest.raises(stripe.InvalidRequestError, match="configuration"):
        portal.sessions.create(wanted, shop.options)  # type: ignore[arg-type]
    portal.configurations.create({"features": {"invoice_history": {"enabled": True}}}, shop.options)
    assert portal.sessions.create(wanted, shop.options).url  # type: ignore[arg-type]


# --- replay ---


def test_the_same_seed_and_calls_make_the_same_world() -> None:
    def world(seed: int) -> Any:
        shop = sample(Clock(START), seed=seed)
        shop.paid(1000, 250)
        events = [one.event for one in shop.emulator.due_deliveries()]
        return shop.emulator.snapshot(shop.account.id), [(one.id, one.type, one.snapshot) for one in events]

    assert world(1) == world(1)
    assert world(1) != world(2)


def test_a_fresh_emulator_holds_nothing() -> None:
    emulator = StripeEmulator(Clock(START))
    assert emulator.next_due_at() is None
    assert client_for(emulator).v1.accounts.list().data == []
