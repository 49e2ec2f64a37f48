"""Who is calling: from the claims that API Gateway verified, and from nothing else."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from monetize.config import load
from monetize.domain.errors import Forbidden, Unauthenticated

PUBLISHER_ADMIN = "publisher_admin"
PUBLISHER_VIEWER = "publisher_viewer"
SUBSCRIBER = "subscriber"
GATEWAY = "gateway"
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in user of an organization. `organization` is the tenant of everything this request touches."""

    user: str
    organization: str
    plan: str
    roles: frozenset[str]
    auth_time: datetime | None

    def require(self, *roles: str) -> "Caller":
        """Refuse a caller that has none of these roles."""
        if self.roles.isdisjoint(roles):
            raise Forbidden("missing_role", f"This needs the role {' or '.join(roles)}.", roles=list(roles))
        return self


def of(app: APIGatewayHttpResolver) -> Caller:
    """The caller of the current request; Unauthenticated when there are no verified claims."""
    authorizer = app.current_event.request_context.authorizer
    claims = authorizer.jwt_claim if authorizer is not None else None
    config = load()
    organization = str((claims or {}).get(config.claim_organization, "")).strip()
    user = str((claims or {}).get("sub", "")).strip()
    if not claims or not user or not _NAME.fullmatch(organization):
        raise Unauthenticated("no_organization", "The token names no organization.")
    return Caller(
        user=user,
        organization=organization,
        plan=str(claims.get(config.claim_plan, "")),
        roles=frozenset(words(claims.get(config.claim_roles, ""))),
        auth_time=_instant(claims.get("auth_time")),
    )


# A tenant's name becomes part of keys: no separator of ours, no control characters.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")


def words(claim: object) -> list[str]:
    """A claim that is a list: HTTP API renders arrays as `[a b]`; others use spaces or commas."""
    if isinstance(claim, list):
        return [str(each) for each in claim]
    return re.findall(r"[^\s,\[\]\"]+", str(claim))


def _instant(claim: object) -> datetime | None:
    text = str(claim) if claim is not None else ""
    return datetime.fromtimestamp(int(text), UTC) if text.isascii() and text.isdigit() and len(text) <= 11 else None
