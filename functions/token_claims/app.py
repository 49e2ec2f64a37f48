"""Put organization, platform plan and roles into the tokens of the stack's own user pool.

Cognito's pre token generation trigger, event version 2. The values come from custom attributes that no app client may
write, so a user cannot choose their own tenant.
"""

from typing import Any

from monetize.config import load

ROLES = frozenset({"publisher_admin", "publisher_viewer", "subscriber", "gateway", "operator"})


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """The event with the claims to add and the scopes to take away. A user without organization gets no claim."""
    del context
    config = load()
    attributes = event["request"].get("userAttributes", {})
    held = [role for role in attributes.get("custom:roles", "").split() if role in ROLES]
    claims = {
        config.claim_organization: attributes.get("custom:organization", ""),
        config.claim_plan: attributes.get("custom:plan", ""),
        config.claim_roles: " ".join(held),
    }
    # Suppressed where there is nothing to say: then neither a token nor another trigger says it for us.
    change = {
        "claimsToAddOrOverride": {name: value for name, value in claims.items() if value},
        "claimsToSuppress": [name for name, value in claims.items() if not value],
    }
    unearned = [scope for scope in event["request"].get("scopes", []) if _role(scope) in ROLES.difference(held)]
    event["response"] = {
        "claimsAndScopeOverrideDetails": {
            "idTokenGeneration": change,
            "accessTokenGeneration": {**change, "scopesToSuppress": unearned},
        }
    }
    return event


def _role(scope: str) -> str:
    """`monetization/operator` asks for the role `operator`; `openid` asks for none."""
    server, slash, name = scope.rpartition("/")
    return name if slash and server else ""
