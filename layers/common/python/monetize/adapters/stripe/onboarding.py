"""Onboarding by Stripe Connect OAuth (Standard accounts)."""

from dataclasses import dataclass
from urllib.parse import urlencode

import stripe

from monetize.adapters.stripe.client import options, told_as_ours
from monetize.domain.errors import ProviderBusy, ProviderRefused
from monetize.domain.publishers import Account, Grant

CONNECT = "https://connect.stripe.com"


@dataclass(frozen=True, slots=True)
class OAuthOnboarding:
    """Stripe's authorize page and what comes back from it. No token is kept: the platform's key does the rest."""

    stripe: stripe.StripeClient
    client_id: str
    redirect_uri: str
    connect_base: str = ""

    def authorize_url(self, state: str) -> str:
        """Stripe's page for creating or choosing an account."""
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.client_id,
                "scope": "read_write",
                "redirect_uri": self.redirect_uri,
                "state": state,
            }
        )
        return f"{self.connect_base or CONNECT}/oauth/authorize?{query}"

    def exchange(self, code: str) -> Grant:
        """Trade a code, once. ProviderRefused for one that is used, expired or not ours."""
        try:
            with told_as_ours():
                token = self.stripe.oauth.token({"grant_type": "authorization_code", "code": code})
        except stripe.oauth_error.OAuthError as error:
            raise ProviderRefused(
                "code_refused", "Stripe did not accept the authorization code.", provider_code=error.code or ""
            ) from error
        except AttributeError as error:
            # stripe-python 16 fails so on error codes it does not know.
            raise ProviderBusy("stripe_unavailable", "Stripe answered something unexpected.") from error
        return Grant(account=str(token.stripe_user_id), livemode=bool(token.livemode), scope=str(token.scope))

    def account(self, account: str) -> Account:
        """The account as it is now."""
        with told_as_ours():
            found = self.stripe.v1.accounts.retrieve(account)
        profile = found.business_profile
        settings = getattr(getattr(found, "settings", None), "dashboard", None)
        needed = found.requirements.currently_due if found.requirements is not None else None
        return Account(
            id=found.id,
            name=str((profile and profile.name) or getattr(settings, "display_name", None) or ""),
            country=str(found.country or ""),
            currency=str(found.default_currency or ""),
            charges_enabled=bool(found.charges_enabled),
            requirements=tuple(needed or ()),
        )

    def deauthorize(self, account: str) -> None:
        """Let an account go; one that already left is fine."""
        try:
            with told_as_ours():
                self.stripe.oauth.deauthorize({"client_id": self.client_id, "stripe_user_id": account}, options())
        except stripe.oauth_error.OAuthError as error:
            if error.code != "invalid_client":
                raise ProviderBusy("stripe_unavailable", "Stripe did not let the account go yet.") from error
