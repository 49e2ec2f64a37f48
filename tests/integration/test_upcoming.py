"""The upcoming invoice is what the bill then asks when nothing more happens: several lives, through the handlers."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from monetize.adapters.dynamo import keys
from monetize.domain.catalog import Product, Tier
from monetize.domain.plans import Allowance, Charge, Plan, PlanTerms, PlanVersion
from tests.integration.billing_fixtures import GOLD, START, Market, market

__all__ = ["market"]

FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
CALLS = Charge(id="calls", name="Calls", model="per_unit", meter="met_calls", unit_price=Decimal("0.5"))
SILVER = PlanTerms(
    currency="usd",
    charges=(Charge(id="fee", name="Silver", model="flat", amount=1900, timing="advance"), CALLS),
)
LEAST = replace(GOLD, minimum=6000)
CAPPED = replace(GOLD, maximum=5000)
ARREARS = PlanTerms(
    currency="usd",
    charges=(
        Charge(id="fee", name="Fee", model="flat", amount=4900, timing="arrears"),
        replace(CALLS, allowance=Allowance(quantity=10, per="day")),
    ),
)
YEARLY = PlanTerms(
    currency="usd",
    charges=(Charge(id="fee", name="Year", model="flat", amount=120_000, timing="advance", interval="year"), CALLS),
)


def give(market: Market, sub: str, key: str, **discount: Any) -> None:
    made = market.ask("POST", f"/subscriptions/{sub}/discounts", discount, headers={"Idempotency-Key": key})
    assert made.status == 201, made.text


def correct(market: Market, sub: str, day: str, quantity: int) -> None:
    body = {"subscription": sub, "meter": "met_calls", "day": day, "quantity": quantity, "reason": "counted wrong"}
    key = {"Idempotency-Key": f"{day}:{quantity}"}
    assert market.ask("POST", "/usage/corrections", body, headers=key).status < 300


def ask(market: Market, sub: str, verb: str, body: Any = None) -> None:
    done = market.ask("POST", f"/subscriptions/{sub}/{verb}", body, org="dev", roles="subscriber")
    assert done.status == 200, done.text


def use(market: Market, sub: str, count: int, day: datetime, first: int = 0) -> None:
    assert market.use(sub, count, day, first).status == 200


def discounts(market: Market, sub: str) -> None:
    give(market, sub, "a", percent="12.5")
    give(market, sub, "b", amount=333, once=True)


def below_nothing(market: Market, sub: str) -> None:
    give(market, sub, "a", amount=99_999, once=True)


def late(market: Market, sub: str) -> None:
    use(market, sub, 40, START + timedelta(minutes=30), first=900)


def credit(market: Market, sub: str) -> None:
    correct(market, sub, "2026-01-31", -250)


def more_credit_than_charges(market: Market, sub: str) -> None:
    give(market, sub, "a", percent="100")
    correct(market, sub, "2026-01-31", -250)


def share(market: Market, sub: str) -> None:
    market.store(replace(market.publisher(), fee_percent="9.9", fee_fixed=30))
    market.settings()


def cancelled(market: Market, sub: str) -> None:
    ask(market, sub, "cancel", {"when": "period_end"})


def downgraded(market: Market, sub: str) -> None:
    ask(market, sub, "change", {"tier": "tier_acme_silver"})


def freed(market: Market, sub: str) -> None:
    ask(market, sub, "change", {"tier": "tier_acme_free"})


def upgraded_within(market: Market, sub: str) -> None:
    ask(market, sub, "change", {"tier": "tier_acme_silver", "when": "period_end"})
    ask(market, sub, "change", {"tier": "tier_acme_platinum", "when": "now"})


def jump(market: Market, instant: datetime) -> None:
    """No hourly ticks on the way: what is due by then is billed then."""
    market.system.clock.move_to(instant)
    market.ask("POST", "/billing-runs", {"dry_run": False}, org="platform", roles="operator")
    market.system.pump()


def nothing(market: Market, sub: str) -> None:
    """Only what was used."""


def lives(market: Market, terms: PlanTerms) -> str:
    """One at gold with these terms, 300 calls in January, February's bill made, 120 calls in February."""
    version = market.stored(PlanVersion, keys.plan_version("plan_acme", 1))
    market.store(replace(version, terms=terms))
    for name, priced in (
        ("silver", SILVER),
        ("platinum", replace(SILVER, charges=(replace(SILVER.charges[0], amount=9900), CALLS))),
    ):
        plan = f"plan_{name}"
        market.store(
            Plan(
                id=plan, publisher="acme", name=name, status="published", latest=1, created_at=START, updated_at=START
            ),
            replace(version, plan=plan, name=name, terms=priced, rev=0),
            Tier(id=f"tier_acme_{name}", publisher="acme", name=name, commercial=True, plan=plan, created_at=START),
        )
    market.store(Tier(id="tier_acme_free", publisher="acme", name="Free", commercial=False, created_at=START))
    offered = market.stored(Product, keys.product("acme", "api_acme"))
    tiers = (*offered.tiers, "tier_acme_silver", "tier_acme_platinum", "tier_acme_free")
    market.store(replace(offered, tiers=tiers))
    sub = market.subscribe()
    jump(market, datetime(2026, 1, 31, 12, tzinfo=UTC))
    use(market, sub, 300, datetime(2026, 1, 31, 11, tzinfo=UTC))
    jump(market, FEBRUARY + timedelta(hours=5))
    use(market, sub, 120, datetime(2026, 2, 1, 4, tzinfo=UTC))
    jump(market, datetime(2026, 2, 10, 12, tzinfo=UTC))
    return sub


HAPPENS = (
    nothing,
    discounts,
    late,
    cancelled,
    below_nothing,
    credit,
    more_credit_than_charges,
    share,
    downgraded,
    freed,
    upgraded_within,
)
PLANS = {"least": LEAST, "capped": CAPPED, "arrears": ARREARS, "yearly": YEARLY}
WORLDS = [
    *(pytest.param(GOLD, each, id=f"gold-{each.__name__}") for each in HAPPENS),
    *(pytest.param(PLANS[name], each, id=f"{name}-{each.__name__}") for name in PLANS for each in HAPPENS[:4]),
]


@pytest.mark.parametrize(("terms", "happens"), WORLDS)
def test_the_upcoming_invoice_is_what_the_bill_then_asks(
    market: Market, terms: PlanTerms, happens: Callable[[Market, str], None]
) -> None:
    sub = lives(market, terms)
    happens(market, sub)
    jump(market, MARCH - timedelta(hours=1))
    path = f"/subscriptions/{sub}/upcoming"
    while True:
        told = market.ask("GET", path).body
        if told["bill_at"] is None:
            break
        assert market.ask("GET", path, org="dev", roles="publisher_admin subscriber").body == told | {
            "application_fee": None
        }
        edge = datetime.fromisoformat(told["bill_at"])
        jump(market, datetime.fromisoformat(told["due_at"]) + timedelta(hours=2))
        bill = market.bill(sub, edge)
        assert (bill.subtotal, bill.carry_out, bill.application_fee) == (
            told["subtotal"],
            told["carry_out"],
            told["application_fee"],
        )
        assert bill.status in ("paid", "empty")
        assert bill.status == "paid" or told["subtotal"] == 0
        if bill.subtotal:
            found = market.ask("GET", "/invoices?side=publisher&subscription=" + sub).body["items"]
            inv = next(each["id"] for each in found if each["bill"] == bill.id)
            shown = market.ask("GET", f"/invoices/{inv}?links=false").body
            assert [(line["id"], line["amount"], line["description"]) for line in shown["lines"]] == [
                (line["id"], line["amount"], line["description"]) for line in told["lines"]
            ]
        if edge >= MARCH:
            break


def test_a_credit_carried_is_explained_by_the_bill_that_left_it(market: Market) -> None:
    sub = lives(market, GOLD)
    more_credit_than_charges(market, sub)
    jump(market, MARCH + timedelta(hours=5))
    left = market.bill(sub, MARCH)
    assert (left.status, left.carry_out) == ("empty", -125)
    (given,) = market.ask("GET", f"/subscriptions/{sub}", org="dev", roles="subscriber").body["discounts"]
    assert market.ask("DELETE", f"/subscriptions/{sub}/discounts/{given['id']}").status == 200
    jump(market, datetime(2026, 4, 1, 5, tzinfo=UTC))
    newest = market.invoices()[0]
    assert newest["amount"] == 4900 - 125
    explained = market.ask("GET", f"/invoices/{newest['id']}/explain").body
    told = [(each["kind"], each["rated"], each["carried_from"]) for each in explained["credits"]]
    assert told == [("carry", -125, [left.id])]
    assert sum(each["amount"] for each in explained["lines"]) == newest["amount"]
