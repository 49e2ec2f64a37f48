"""What the system refuses, by kind. The code is stable and public; `http` knows the status of each kind."""


class Refusal(Exception):
    """A request that is not carried out, and why.

    `code` never changes once published; `detail` is a sentence for people; `members` are the extra members of the
    problem document (RFC 9457 §3.2).
    """

    def __init__(self, code: str, detail: str, **members: object) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.members = members


class Malformed(Refusal):
    """The request cannot be read at all."""


class Invalid(Refusal):
    """The request can be read and makes no sense."""


class Unauthenticated(Refusal):
    """Nobody known is calling."""


class StepUpRequired(Refusal):
    """The caller must sign in again before this (RFC 9470). `members` holds `max_age` in seconds."""


class UpgradeRequired(Refusal):
    """The organization's own platform plan does not include this."""


class Forbidden(Refusal):
    """The caller is known and may not do this."""


class NotFound(Refusal):
    """There is no such thing, or it is somebody else's: the two are never told apart."""


class Conflict(Refusal):
    """The state of things does not allow this now."""


class PreconditionFailed(Refusal):
    """The thing changed since the caller read it."""


class PreconditionRequired(Refusal):
    """The caller must say which state it read."""


class TooLarge(Refusal):
    """More than a request may hold."""


class UnsupportedMedia(Refusal):
    """A content type this route does not read."""


class TooMany(Refusal):
    """Slower, please. `members` may hold `retry_after` in seconds."""


class Unavailable(Refusal):
    """Something we depend on does not answer; nothing was changed, or the same request finds out what was."""


class IllegalMove(Conflict):
    """A state machine was asked for a move it does not have."""

    def __init__(self, entity: str, state: str, move: str) -> None:
        super().__init__("illegal_move", f"A {entity} that is {state} cannot {move}.", state=state, move=move)


KEY_REFUSED = "stripe_key_refused"  # a ProviderBusy that lasts until an operator mends the platform's key


class ProviderBusy(Unavailable):
    """Stripe did not answer, or asks to come back later: whether it acted is found out by the same request again."""


class ProviderRefused(Conflict):
    """Stripe answered no. `members["provider_code"]` is its code."""


class CardDeclined(ProviderRefused):
    """The customer's bank answered no. `members["decline_code"]` is its reason."""


class AccountUnreachable(ProviderRefused):
    """The publisher's account does not let us in any more: it was deauthorized or closed."""
