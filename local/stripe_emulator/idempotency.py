"""Idempotency keys of one account: what a repeated request is answered."""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from local.stripe_emulator.refusals import Refusal, invalid

LIFE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Stored:
    """The first answer under a key."""

    at: datetime
    method: str
    path: str
    body: bytes
    status: int
    answer: bytes
    request_id: str


@dataclass
class Keys:
    """Kept for 24 hours by the clock (Stripe: at least that), then pruned: a later use executes anew."""

    _kept: OrderedDict[str, Stored] = field(default_factory=OrderedDict)

    def find(self, key: str, method: str, path: str, body: bytes, now: datetime) -> Stored | None:
        """The answer to replay. Raises Refusal when the key came with another request."""
        while self._kept and next(iter(self._kept.values())).at <= now - LIFE:
            self._kept.popitem(last=False)
        if len(key) > 255:
            raise invalid("Idempotency-Key must be at most 255 characters").not_stored()
        stored = self._kept.get(key)
        if stored is not None and (stored.method, stored.path, stored.body) != (method, path, body):
            raise Refusal(
                400,
                "Keys for idempotent requests can only be used with the same parameters and endpoint they were "
                f"first used with. Try using a key other than '{key}' if you meant to execute a different request.",
                kind="idempotency_error",
                stored=False,
            )
        return stored

    def keep(self, key: str, stored: Stored) -> None:
        """Remember the first answer."""
        self._kept.setdefault(key, stored)

    def __len__(self) -> int:
        return len(self._kept)
