"""Stripe's documented test cards: what each number does when it is saved, and when it is charged later."""

from dataclasses import dataclass
from typing import Literal

from local.stripe_emulator.refusals import Refusal, declined

SUCCEED = "succeed"
AUTHENTICATION = "authentication_required"
DISPUTED = "disputed"

_SENTENCES = {
    "generic_decline": ("card_declined", "Your card was declined."),
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "lost_card": ("card_declined", "Your card was declined."),
    "stolen_card": ("card_declined", "Your card was declined."),
    "do_not_honor": ("card_declined", "Your card was declined."),
    "expired_card": ("expired_card", "Your card has expired."),
    "incorrect_cvc": ("incorrect_cvc", "Your card's security code is incorrect."),
    "processing_error": (
        "processing_error",
        "An error occurred while processing your card. Try again in a little bit.",
    ),
    AUTHENTICATION: ("authentication_required", "This payment requires authentication."),
}
DECLINES = frozenset(_SENTENCES)


@dataclass(frozen=True, slots=True)
class Card:
    """`saving`: succeed, a decline code, or authentication_required; `charging`: the same, off session, once saved."""

    number: str
    brand: str = "visa"
    saving: str = SUCCEED
    charging: str = SUCCEED
    country: str = "US"
    funding: Literal["credit", "debit"] = "credit"

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]


_CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242"),
        Card("5555555555554444", brand="mastercard"),
        Card("4000002500003155", saving=AUTHENTICATION),
        Card("4000002760003184", saving=AUTHENTICATION, charging=AUTHENTICATION),
        Card("4000000000000341", charging="generic_decline"),
        Card("4000000000000259", charging=DISPUTED),
        Card("4000000000000002", saving="generic_decline"),
        Card("4000000000009995", saving="insufficient_funds"),
        Card("4000000000009987", saving="lost_card"),
        Card("4000000000000069", saving="expired_card"),
        Card("4000000000000127", saving="incorrect_cvc"),
        Card("4000000000000119", saving="processing_error"),
    )
}
NAMED = {
    "pm_card_visa": "4242424242424242",
    "pm_card_mastercard": "5555555555554444",
    "pm_card_chargeCustomerFail": "4000000000000341",
    "pm_card_authenticationRequired": "4000002760003184",
    "pm_card_chargeDeclined": "4000000000000002",
    "pm_card_createDispute": "4000000000000259",
}


def card(number: str) -> Card:
    """The test card of a number. Raises 402 for any other number, as test mode does."""
    known = _CARDS.get(number.replace(" ", ""))
    if known is None:
        raise declined("incorrect_number", "Your card number is incorrect.")
    return known


def all_cards() -> list[Card]:
    """Every card that is known."""
    return list(_CARDS.values())


def decline(outcome: str, **fields: object) -> Refusal:
    """The 402 of a decline code."""
    code, sentence = _SENTENCES[outcome]
    return declined(code, sentence, outcome, **fields)
