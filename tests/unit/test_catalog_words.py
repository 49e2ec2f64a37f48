"""Prices in words, and labels from tiers."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from monetize.domain.catalog import Tier, label
from monetize.domain.plans import Allowance, Charge, PlanTerms, PriceTier, Quota
from monetize.domain.price_words import charge_in_words, in_words
from monetize.services.catalog import default_tiers, named_id

NOW = datetime(2026, 3, 1, tzinfo=UTC)
UNITS = {"m": "calls"}
PER_UNIT = Charge(id="c", name="Calls", model="per_unit", meter="m", unit_price=Decimal("0.25"))
STEPS = (
    PriceTier(up_to=1000, unit_price=Decimal(1)),
    PriceTier(up_to=None, unit_price=Decimal("0.5"), flat_amount=500),
)


@pytest.mark.parametrize(
    ("charge", "words"),
    [
        (Charge(id="f", name="Fee", model="flat", amount=4900, timing="advance"), "Fee: $49.00 a month, in advance"),
        (Charge(id="f", name="Fee", model="flat", amount=9900, interval="year"), "Fee: $99.00 a year, in arrears"),
        (PER_UNIT, "Calls: calls at $0.0025 each"),
        (
            replace(PER_UNIT, allowance=Allowance(quantity=5000, per="period")),
            "Calls: 5,000 calls a month included, then calls at $0.0025 each",
        ),
        (
            replace(PER_UNIT, model="package", package_size=1000, unit_price=Decimal(100)),
            "Calls: $1.00 for every 1,000 calls begun",
        ),
        (
            replace(PER_UNIT, model="graduated", unit_price=None, tiers=STEPS),
            "Calls: calls by steps: 1 to 1,000 at $0.01 each; above 1,000 at $0.005 each and $5.00 once",
        ),
        (
            replace(PER_UNIT, model="volume", unit_price=None, tiers=STEPS),
            (
                "Calls: all calls of the month at the price of their number: "
                "1 to 1,000 at $0.01 each; above 1,000 at $0.005 each and $5.00 once"
            ),
        ),
    ],
)
def test_a_price_is_said_in_words(charge: Charge, words: str) -> None:
    assert charge_in_words(charge, "usd", UNITS) == words


def test_trial_bounds_and_quotas_are_said_too() -> None:
    terms = PlanTerms(
        currency="jpy",
        charges=(PER_UNIT,),
        trial_days=14,
        minimum=100,
        maximum=9000,
        quotas=(Quota(meter="m", quantity=10**6, per="day"),),
    )
    assert in_words(terms, UNITS) == (
        "The first 14 days are free",
        "Calls: calls at ¥0.25 each",
        "At least ¥100 a month",
        "At most ¥9,000 a month",
        "At most 1,000,000 calls a day",
    )


def test_the_label_follows_from_the_tiers_alone() -> None:
    free = Tier(id="f", publisher="p", name="F", created_at=NOW)
    paid = replace(free, id="c", commercial=True, plan="x")
    assert label([]) is None
    assert label([free]) == label([free, free]) == "FREE"
    assert label([paid]) == "PAID"
    assert label([paid, free]) == label([free, paid]) == "FREEMIUM"


def test_default_tiers_have_the_same_ids_every_time_and_others_for_every_publisher() -> None:
    once, again = default_tiers("acme", NOW), default_tiers("acme", NOW)
    assert [tier.name for tier in once] == ["Gold", "Silver", "Bronze", "Unlimited"]
    assert [tier.id for tier in once] == [tier.id for tier in again]
    assert not {tier.id for tier in once} & {tier.id for tier in default_tiers("globex", NOW)}
    assert once[0].throttle.per_minute == 5000
    assert not any(tier.commercial for tier in once)


def test_an_id_from_names_tells_their_borders() -> None:
    assert named_id("t", "ab", "c") != named_id("t", "a", "bc")
    assert len(named_id("t", "a")) == len("t_") + 26
