"""Keys: what a subscriber's application and a publisher's gateway show. Only hashes are kept."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

PRODUCTION: Final = "production"
SANDBOX: Final = "sandbox"

GATEWAY_PREFIX: Final = "gk_"
PREFIXES: Final = {PRODUCTION: "mk_live_", SANDBOX: "mk_test_"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A subscription's key in one environment. `hint` is what a list may show of it: its prefix and last four."""

    id: str
    subscription: str
    publisher: str
    environment: str  # production, sandbox
    sha256: str
    hint: str = ""
    name: str = ""
    created_at: datetime
    expires_at: datetime | None = None  # set when rotated: the old key works until then
    revoked_at: datetime | None = None
    rev: int = 0

    def usable(self, at: datetime) -> bool:
        """Whether calls with it may pass at that instant."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKey:
    """What a publisher's gateway reports usage and asks for entitlements with."""

    id: str
    publisher: str
    sha256: str
    name: str = ""
    hint: str = ""
    created_at: datetime
    revoked_at: datetime | None = None
    rev: int = 0


def hashed(key: str) -> str:
    """How a key is stored and looked up. Keys are 256 random bits, so a plain hash cannot be searched."""
    return sha256(key.encode()).hexdigest()
