"""Requests of gateways, read by hand: no resolver and no schema library on the path that every call takes."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from monetize.config import load
from monetize.domain.errors import Forbidden, Malformed, Unauthenticated
from monetize.domain.keys import GATEWAY_PREFIX

MAX_KEY: Final = 255
_base64: Final = msgspec.json.Decoder(bytes)
_ROLES: Final = frozenset({"gateway", "publisher_admin"})
# As in http.caller: a tenant's name becomes part of keys.
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")
_WORDS: Final = re.compile(r"[^\s,\[\]\"]+")


def body(event: Mapping[str, Any]) -> bytes:
    """The request's bytes; HTTP API encodes every content type it does not take for text."""
    text: str = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return text.encode()
    try:
        # Twice as fast as binascii, and as strict as a text that API Gateway encoded can be held to.
        return _base64.decode(f'"{text}"')
    except msgspec.DecodeError as wrong:
        raise Malformed("malformed_body", "The body cannot be read.") from wrong


def gateway_key(event: Mapping[str, Any]) -> str | None:
    """The gateway key that was sent, if any."""
    scheme, _, token = event.get("headers", {}).get("authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token.startswith(GATEWAY_PREFIX) and len(token) < 200 else None


def tenant(event: Mapping[str, Any]) -> str:
    """The organization of verified claims. Unauthenticated without them, Forbidden without a gateway's role."""
    claims = event["requestContext"].get("authorizer", {}).get("jwt", {}).get("claims")
    config = load()
    organization = str((claims or {}).get(config.claim_organization, "")).strip()
    if not claims or not str(claims.get("sub", "")).strip() or not _TENANT.fullmatch(organization):
        raise Unauthenticated("no_organization", "Send a gateway key, or a token that names an organization.")
    roles = claims.get(config.claim_roles, "")
    if _ROLES.isdisjoint(roles if isinstance(roles, list) else _WORDS.findall(str(roles))):
        raise Forbidden("missing_role", "This needs the role gateway or publisher_admin.", roles=sorted(_ROLES))
    return organization


def idempotency_key(event: Mapping[str, Any]) -> str:
    """The client's key; empty when it sent none."""
    key: str = event.get("headers", {}).get("idempotency-key", "")
    if key and (len(key) > MAX_KEY or not key.isprintable()):
        raise Malformed("bad_idempotency_key", f"An Idempotency-Key has 1 to {MAX_KEY} printable characters.")
    return key


def reply(document: object, headers: Mapping[str, str] | None = None, status: int = 200) -> dict[str, Any]:
    """A JSON answer, as API Gateway takes it from a function."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})},
        "body": json.dumps(document, separators=(",", ":")),
        "isBase64Encoded": False,
    }
