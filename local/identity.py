"""An OpenID Connect issuer for this machine: a key made at start, tokens for whoever is asked for."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from local.api_gateway import Now

KEY_ID = "local-1"
LIFETIME = timedelta(hours=1)


@cache
def _key() -> rsa.RSAPrivateKey:
    """One key for the life of the process: making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Identity:
    """Issues access tokens with the claims that the functions read, named as the template names them."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        clock: Now,
        *,
        claim_organization: str = "organization",
        claim_plan: str = "platform_plan",
        claim_roles: str = "roles",
    ) -> None:
        self.issuer = issuer
        self.audience = audience
        self._clock = clock
        self._names = (claim_organization, claim_plan, claim_roles)

    def token(
        self,
        user: str,
        organization: str,
        *,
        plan: str = "business",
        roles: Iterable[str] | str = ("publisher_admin",),
        auth_time: datetime | None = None,
        scope: str = "openid",
        lifetime: timedelta = LIFETIME,
        **extra: Any,
    ) -> str:
        """A signed access token, valid from now by the clock. `auth_time` is now unless given."""
        now = self._clock.now()
        organization_claim, plan_claim, roles_claim = self._names
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.audience,
            "client_id": self.audience,
            "sub": user,
            "token_use": "access",
            "iat": int(now.timestamp()),
            "exp": int((now + lifetime).timestamp()),
            "auth_time": int((auth_time or now).astimezone(UTC).timestamp()),
            "scope": scope,
            organization_claim: organization,
            plan_claim: plan,
            roles_claim: roles if isinstance(roles, str) else " ".join(roles),
            **extra,
        }
        return jwt.encode(claims, _key(), algorithm="RS256", headers={"kid": KEY_ID})

    def find_key(self, issuer: str, key_id: str) -> Any:
        """The public key that verifies a token. Raises KeyError for another issuer or key."""
        if (issuer, key_id) != (self.issuer, KEY_ID):
            raise KeyError(key_id)
        return _key().public_key()

    def configuration(self) -> dict[str, Any]:
        """The discovery document."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/.well-known/jwks.json",
            "token_endpoint": f"{self.issuer}/token",
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def keys(self) -> dict[str, Any]:
        """The key set (RFC 7517)."""
        public = json.loads(RSAAlgorithm.to_jwk(_key().public_key()))
        return {"keys": [{**public, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]}
