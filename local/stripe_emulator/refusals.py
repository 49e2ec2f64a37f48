"""What Stripe answers when it refuses: status, type, code, parameter, sentence."""

from typing import Any, Self


class Refusal(Exception):
    """An answer other than 2xx. `stored`: an idempotency key remembers it (never for failed validation)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        stored: bool = True,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stored = stored
        self.headers = headers or {}
        self.body: dict[str, Any] = {"error": {"type": kind, "message": message, **fields}}

    def not_stored(self) -> Self:
        """The same answer, forgotten by its idempotency key."""
        self.stored = False
        return self


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """400 invalid_request_error."""
    fields: dict[str, Any] = {name: value for name, value in (("code", code), ("param", param)) if value is not None}
    return Refusal(400, message, **fields)


def missing(param: str, message: str | None = None) -> Refusal:
    """400 parameter_missing."""
    return invalid(message or f"Missing required param: {param}.", param, "parameter_missing")


def no_such(kind: str, object_id: str, param: str = "id") -> Refusal:
    """404 resource_missing: the same for an unknown id and for one of another account."""
    return Refusal(404, f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


def no_access(account_id: str) -> Refusal:
    """403 account_invalid: never connected, or deauthorized."""
    return Refusal(
        403,
        f"The provided key does not have access to account '{account_id}' (or that account does not exist). "
        "Application access may have been revoked.",
        code="account_invalid",
        stored=False,
    )


def declined(code: str, message: str, decline_code: str | None = None, **fields: Any) -> Refusal:
    """402 card_error."""
    extra: dict[str, Any] = {"decline_code": decline_code} if decline_code else {}
    return Refusal(402, message, kind="card_error", code=code, **extra, **fields)


def oauth_refusal(status: int, error: str, description: str) -> Refusal:
    """OAuth's own shape: `error` is a word, not an object."""
    refusal = Refusal(status, description)
    refusal.body = {"error": error, "error_description": description}
    return refusal
