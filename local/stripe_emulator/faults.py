"""What can go wrong between a client and Stripe, as rules that a test or a seeded simulator lays down."""

import re
from dataclasses import dataclass
from typing import Literal

from local.stripe_emulator.refusals import Refusal, invalid

Kind = Literal[
    "error_500", "rate_limited", "lock_timeout", "conflict", "time_out", "refused", "not_offered", "not_permitted"
]


class ConnectionBroken(Exception):
    """No answer reached the client: `refused` (nothing happened) or `time_out` (it may have)."""


@dataclass
class Fault:
    """Break the `nth` request that matches (1 = the next one), and the `times` - 1 after it.

    `after`: the request has its effect first. `stored`: a 500 is remembered by the idempotency key, and replayed.
    `should_retry`: the value of `Stripe-Should-Retry`, none by default.
    """

    kind: Kind
    method: str = "POST"
    path: str = ".*"
    nth: int = 1
    times: int = 1
    after: bool = False
    stored: bool = True
    should_retry: bool | None = None
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Count a request; is it one to break?"""
        if method != self.method or not re.fullmatch(self.path, path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times

    def strike(self) -> Refusal | ConnectionBroken:
        """The failure itself."""
        headers = {} if self.should_retry is None else {"Stripe-Should-Retry": str(self.should_retry).lower()}
        match self.kind:
            case "time_out" | "refused":
                return ConnectionBroken(self.kind)
            case "not_offered":
                return invalid("This API is not available to you.")
            case "not_permitted":
                return Refusal(403, "The provided key does not have the required permissions.", stored=False)
            case "error_500":
                return Refusal(500, "An unknown error occurred.", kind="api_error", stored=self.stored, headers=headers)
            case "conflict":
                return Refusal(
                    409,
                    "There is currently another in-progress request using this Idempotent Key.",
                    kind="idempotency_error",
                    code="idempotency_key_in_use",
                    stored=False,
                    headers=headers,
                )
            case "lock_timeout":
                return Refusal(
                    429,
                    "This object cannot be accessed right now because another API request or Stripe process is "
                    "currently accessing it.",
                    code="lock_timeout",
                    stored=False,
                    headers=headers,
                )
            case "rate_limited":
                return Refusal(429, "Request rate limit exceeded.", code="rate_limit", stored=False, headers=headers)
