"""New names for things: a prefix and 26 characters that sort by time (Crockford's base 32, as ULIDs are written)."""

import secrets
from datetime import datetime

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Ids:
    """Names by time and chance: 48 bits of milliseconds, 80 random bits."""

    def new(self, prefix: str, at: datetime) -> str:
        """`prefix` + `_` + 26 characters."""
        number = (int(at.timestamp() * 1000) << 80) | secrets.randbits(80)
        return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5))

    def secret(self) -> str:
        """256 random bits, URL-safe text."""
        return secrets.token_urlsafe(32)
