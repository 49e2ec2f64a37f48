"""One subscription's whole life through the real handlers: what is done to it, and what its bills came to.

It begins at 2026-01-01T00:00Z, so that January is whole: a fee of 31.00 is a dollar a day.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local import story
from local.in_process import world_of
from local.system import System
from monetize import wiring
from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import put
from monetize.domain.publishers import Publisher
from tests.integration.documented import documented_system
from tests.integration.test_billing import METER, Shop

START = datetime(2026, 1, 1, tzinfo=UTC)
SELDOM = timedelta(days=2)  # hourly ticks would find nothing, and take their time

type Terms = Mapping[str, Any]


def flat(amount: int, name: str = "fee", timing: str = "advance", interval: str = "month") -> dict[str, Any]:
    """A flat fee."""
    return {"id": name, "name": name, "model": "flat", "amount": amount, "timing": timing, "interval": interval}


def calls(name: str = "calls", allowance: int | None = None) -> dict[str, Any]:
    """Ten cents a call."""
    charge = {"id": name, "name": name, "model": "per_unit", "meter": "{calls}", "unit_price": "10"}
    return charge if allowance is None else charge | {"allowance": {"quantity": allowance, "per": "period"}}


def terms(*charges: Mapping[str, Any], **more: Any) -> Terms:
    """What a plan costs, in dollars."""
    return {"currency": "usd", "charges": list(charges), **more}


@dataclass
class Life(Shop):
    """A subscription and what everybody does to it; times are of 2026 where a year is not given."""

    tiers: dict[str, str] = field(default_factory=dict)

    def until(self, when: str) -> None:
        """Let time pass; `mm-dd` is that day's noon."""
        full = when if when.startswith("20") else f"2026-{when}"
        self.world.run_until(datetime.fromisoformat(full if "T" in full else f"{full}T12:00").replace(tzinfo=UTC))

    def a_year_on(self) -> None:
        """To the noon of the first yearly edge, in long steps."""
        self.system.schedules.at_most_every = timedelta(days=20)
        self.until("12-20")
        self.system.schedules.at_most_every = SELDOM
        self.until("2027-01-01")

    def do(self, what: str, **body: Any) -> Any:
        """One of the subscriber's own requests."""
        return self.subscriber.call("POST", f"{self.path}/{what}", body or None)

    @property
    def path(self) -> str:
        return f"/subscriptions/{self.subscription}"

    def tier(self, name: str, wanted: Terms) -> str:
        """One more tier of the API (Silver, Unlimited) with a plan of its own; its id."""
        made = self.publisher.call("POST", "/plans", {"name": name, "terms": self._filled(wanted)})
        self.publisher.call("POST", f"/plans/{made['id']}/publish")
        found = next(each for each in self.publisher.all("/tiers") if each["name"] == name)
        read = self.publisher.answer("GET", f"/tiers/{found['id']}")
        body = {key: found[key] for key in ("name", "description", "throttle")}
        body |= {"commercial": True, "plan": made["id"]}
        self.publisher.call("PUT", f"/tiers/{found['id']}", body, If_Match=read.headers["etag"])
        api = self.publisher.answer("GET", f"/apis/{self.offer.api}")
        sold = {"tiers": [*api.json()["tiers"], found["id"]]}
        self.publisher.call("PUT", f"/apis/{self.offer.api}/tiers", sold, If_Match=api.headers["etag"])
        return str(found["id"])

    def move(self, wanted: Terms, when: str = "now") -> None:
        """Publish a second version of the plan and move everybody to it."""
        plan = next(each for each in self.publisher.all("/plans") if each["name"] == "Gold")
        self.publisher.call("POST", f"/plans/{plan['id']}/versions", {"terms": self._filled(wanted)})
        self.publisher.call("POST", f"/plans/{plan['id']}/publish")
        body = {"from_version": 1, "to_version": 2, "when": when}
        self.publisher.call("POST", f"/plans/{plan['id']}/moves", body)
        self.world.settle()

    def correct(self, day: str, quantity: int, key: str = "correction") -> Any:
        """Correct a day's calls."""
        meter = self.offer.meters["calls"]
        body = {"subscription": self.subscription, "meter": meter, "day": day, "quantity": quantity, "reason": "wrong"}
        return self.publisher.call("POST", "/usage/corrections", body, Idempotency_Key=key)

    def top_up(self, quantity: int) -> None:
        """Give extra calls for the running period."""
        body = {"meter": self.offer.meters["calls"], "quantity": quantity}
        self.publisher.call("POST", f"{self.path}/topups", body, Idempotency_Key="gift")

    def declines(self, outcome: str = "insufficient_funds") -> None:
        """What the subscriber's card answers from now on."""
        emulator = self.system.emulator
        (card,) = emulator.account(self.account).payment_methods
        emulator.set_card_outcome(self.account, card, outcome)

    def invoice_of(self, number: int) -> str:
        """Our id of the invoice of one of the bills, the oldest being 0."""
        bill = self.bills()[number].id
        listed = self.subscriber.call("GET", "/invoices?publisher=acme")["items"]
        return str(next(each["id"] for each in listed if each["bill"] == bill))

    def asked(self) -> list[int]:
        """What each bill asked for, minor units, oldest first."""
        return [bill.subtotal for bill in self.bills()]

    def carries(self) -> int:
        """Credit that waits for the next bill."""
        return self.bills()[-1].carry_out

    def given_back(self) -> int:
        """What credit notes came to."""
        return sum(note["amount"] for note in self.system.emulator.account(self.account).credit_notes.values())

    def _filled(self, wanted: Terms) -> Terms:
        charges = [
            each | {"meter": self.offer.meters["calls"]} if "meter" in each else each for each in wanted["charges"]
        ]
        return {**wanted, "charges": charges}


type Begin = Callable[..., Life]


@pytest.fixture
def life() -> Iterator[Begin]:
    """Begins a subscription at those terms (`tiers`: and the API has those too), with a good card."""
    with documented_system(START) as system:

        def begin(gold: Terms, tiers: Mapping[str, Terms] | None = None, **settings: Any) -> Life:
            return _begin(system, gold, tiers or {}, settings)

        yield begin


def _begin(system: System, gold: Terms, tiers: Mapping[str, Terms], settings: Mapping[str, Any]) -> Life:
    system.schedules.at_most_every = SELDOM
    world = world_of(system)
    publisher = world.as_user("ann", "acme", "publisher_admin")
    account = story.connect_stripe(world, publisher, "Acme")["publisher"]["stripe"]["account"]
    offer = story.publish_offer(publisher, "acme", "Weather", {"name": "Gold", "terms": gold}, {"calls": METER})
    made = Life(system, world, account, offer, "")
    if settings:
        table = wiring.core()
        was = table.get(Publisher, keys.publisher("acme"))
        assert was is not None
        table.write(put(replace(was, settings=replace(was.settings, **settings))))
    made.tiers.update({name: made.tier(name, wanted) for name, wanted in tiers.items()})
    subscriber = world.as_user("bob", "globex", "subscriber")
    made.subscription = story.subscribe(world, subscriber, offer, "App", offer.gold_tier, "bob@globex.example")["id"]
    return made
