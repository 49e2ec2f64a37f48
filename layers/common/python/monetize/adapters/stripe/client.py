"""A Stripe client with time-outs of its own, and Stripe's errors told as ours.

Facts of stripe-python 16: it retries nothing unless told, ignores `Retry-After`, and waits 80 seconds by default.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
import stripe
from requests.utils import get_environ_proxies

from monetize.domain.errors import AccountUnreachable, CardDeclined, NotFound, ProviderBusy, ProviderRefused

CONNECT_SECONDS = 2
READ_SECONDS = 20

# Stripe asks for the customer instead of the bank, and says so in the code alone.
_AUTHENTICATION = {"invoice_payment_intent_requires_action": "authentication_required"}

stripe.enable_telemetry = False  # it would write a file into the home folder
# At INFO, where Lambda's JSON logs begin, the SDK repeats what Stripe said: OAuth codes and mail addresses included.
logging.getLogger("stripe").setLevel(logging.WARNING)


def build(key: str, *, api_base: str = "", connect_base: str = "", http_client: Any = None) -> stripe.StripeClient:
    """A client. Retries are ours (a queue's, or the caller's): the SDK makes none."""
    bases: dict[str, str] = {}
    if api_base:
        bases["api"] = api_base
    if connect_base:
        bases["connect"] = connect_base
    return stripe.StripeClient(
        key,
        base_addresses=bases,  # type: ignore[arg-type] # a TypedDict whose keys are all optional
        max_network_retries=0,
        http_client=http_client or transport(session(api_base)),
    )


def transport(through: requests.Session) -> stripe.RequestsClient:
    """How requests travel."""
    return stripe.RequestsClient(timeout=(CONNECT_SECONDS, READ_SECONDS), session=through)


def session(api_base: str = "") -> requests.Session:
    """Kept connections, to Stripe unless told otherwise. The environment's proxies are read once: `requests` would read
    them, and a file of passwords in the home folder, before every call."""
    made = requests.Session()
    made.trust_env = False
    made.proxies.update(get_environ_proxies(api_base or stripe.DEFAULT_API_BASE))
    return made


class Counted(stripe.HTTPClient):
    """Another way for requests to travel, and how many went it."""

    name = "requests"

    def __init__(self, inner: stripe.HTTPClient) -> None:
        super().__init__()
        self.requests = 0
        self._inner = inner

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """One request, counted."""
        self.requests += 1
        return self._inner.request(*args, **kwargs)

    def close(self) -> None:
        """The inner one closes what it opened."""
        self._inner.close()  # type: ignore[no-untyped-call] # the SDK's


def options(account: str | None = None, key: str | None = None) -> Any:
    """Request options: the publisher's account and our derived idempotency key."""
    chosen: dict[str, str] = {}
    if account:
        chosen["stripe_account"] = account
    if key:
        chosen["idempotency_key"] = key
    return chosen


def post(client: stripe.StripeClient, path: str, params: Mapping[str, Any], chosen: Any) -> dict[str, Any]:
    """A request as the SDK's own methods send it; the answer as plain JSON.

    For the calls that every invoice costs: the SDK makes an object of every nested part, a sixth of a bill's CPU.
    """
    answer: dict[str, Any] = client.raw_request("post", path, **params, **chosen).data
    return answer


def _code(error: stripe.PermissionError) -> str:
    """What the SDK leaves in the body of a 403."""
    return str(error.code or getattr(error.error, "code", None) or "")


class Plain:
    """An answer's JSON read as the SDK's objects are, made into nothing but what is looked at."""

    __slots__ = ("_found",)

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def __getattr__(self, name: str) -> Any:
        try:
            return _plain(self._found[name])
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> dict[str, Any]:
        """The JSON itself."""
        return self._found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return Plain(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def get(client: stripe.StripeClient, path: str, params: Mapping[str, Any], chosen: Any) -> Plain:
    """What is read with every event about an invoice: a third of its handling was making objects of it."""
    return Plain(client.raw_request("get", path, **params, **chosen).data)


@contextmanager
def told_as_ours() -> Iterator[None]:
    """Translate what the SDK raises into `domain.errors`; anything unknown goes through as it is."""
    try:
        yield
    except stripe.CardError as error:
        raise CardDeclined(
            "card_declined",
            "The bank declined the payment.",
            provider_code=error.code or "card_declined",
            decline_code=str(getattr(error.error, "decline_code", None) or _AUTHENTICATION.get(error.code or "", "")),
            charge=str(getattr(error.error, "charge", None) or ""),
            payment_method=str(getattr(getattr(error.error, "payment_method", None), "id", "")),
        ) from error
    except (stripe.RateLimitError, stripe.APIConnectionError) as error:
        raise ProviderBusy("stripe_unavailable", "Stripe does not answer now.", retry_after=2) from error
    except stripe.PermissionError as error:
        raise AccountUnreachable(
            "account_unreachable", "The Stripe account is not connected any more.", provider_code=_code(error)
        ) from error
    except stripe.AuthenticationError as error:
        raise ProviderBusy("stripe_key_refused", "The platform's Stripe key is refused.") from error
    except stripe.IdempotencyError as error:
        raise ProviderRefused(
            "stripe_key_mismatch", "The same key was used for another request.", provider_code="idempotency_error"
        ) from error
    except stripe.InvalidRequestError as error:
        if error.code == "resource_missing" and error.http_status == 404:
            raise NotFound("stripe_object_missing", "Stripe has no such object.", param=error.param or "") from error
        raise ProviderRefused(
            "stripe_refused",
            "Stripe refused the request.",
            provider_code=error.code or "",
            param=error.param or "",
            provider_message=str(error.user_message or ""),
        ) from error
    except stripe.APIError as error:
        # 409 idempotency_key_in_use and every 5xx: whether it was done shows when the same key is sent again.
        raise ProviderBusy("stripe_unavailable", "Stripe does not answer now.", retry_after=2) from error
