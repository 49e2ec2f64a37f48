"""Discounts of one subscription: the publisher gives them, and takes back what no bill has used."""

from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Conflict, Invalid, NotFound
from monetize.domain.money import check_chargeable
from monetize.domain.offers import time_of
from monetize.domain.percentages import parse_percent
from monetize.domain.subscriptions import Discount, Subscription, status_at, with_discount
from monetize.services.subscription_access import (
    Person,
    Ports,
    Request,
    audit,
    of_publisher,
    the_publisher,
    until_unchanged,
)


class Discounts(Protocol):
    """What discounts are kept in; the natural key of each is kept for ever."""

    def given(self, what: str, subscription: str, key_sha256: str) -> Request | None: ...
    def give(
        self, what: str, before: Subscription, after: Subscription, request: tuple[str, str, str], entry: AuditEntry
    ) -> Subscription: ...


def give(
    person: Person,
    subscription_id: str,
    wanted: Discount,
    key: str,
    now: datetime,
    ports: Ports,
    store: Discounts,
) -> tuple[Subscription, Discount]:
    """Give a discount, once for one key for ever; `wanted.id` is made here. It is for bills that are claimed later.

    Conflict `subscription_ended`, `too_many_discounts`, `discount_gone` (given under this key, and used or taken back
    since); Invalid `bad_discount`, `bad_percent`, `amount_not_chargeable`, `discount_on_free_tier`,
    `idempotency_key_reused`.
    """
    if (wanted.percent is None) == (wanted.amount is None):
        raise Invalid("bad_discount", "A discount is a percentage or an amount.")
    if wanted.percent is not None:
        wanted = replace(wanted, percent=_percent(wanted.percent))
    natural = sha256(key.encode()).hexdigest()
    fingerprint = sha256(f"{wanted.percent}\n{wanted.amount}\n{wanted.once}".encode()).hexdigest()

    def once() -> tuple[Subscription, Discount]:
        subscription = of_publisher(person, subscription_id, ports)
        before = store.given("discount", subscription_id, natural)
        if before is not None:
            if before.fingerprint != fingerprint:
                raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another discount.")
            return subscription, _given(subscription, before.made)
        at = time_of(the_publisher(subscription.publisher, ports), now)
        if status_at(subscription, at) == "ended":
            raise Conflict("subscription_ended", "The subscription has ended.")
        if not subscription.commercial:
            raise Invalid("discount_on_free_tier", "A free subscription costs nothing.")
        if wanted.amount is not None:
            check_chargeable(wanted.amount, subscription.currency)
        made = replace(wanted, id=ports.ids.new("dis", at), given_at=at)
        after = with_discount(subscription, made)
        entry = audit(person, subscription, "subscription.discount", at, ports, after=_told(made))
        return store.give("discount", subscription, after, (natural, fingerprint, made.id), entry), made

    return until_unchanged(once)


def take_back(person: Person, subscription_id: str, discount: str, now: datetime, ports: Ports) -> Subscription:
    """Bills that are claimed from now on are without it; those claimed before keep it.

    NotFound `unknown_discount`; Conflict `discount_used`.
    """

    def once() -> Subscription:
        subscription = of_publisher(person, subscription_id, ports)
        found = next((each for each in subscription.discounts if each.id == discount), None)
        if found is None:
            raise NotFound("unknown_discount", "The subscription has no such discount.")
        if found.used_by is not None:
            raise Conflict("discount_used", "A bill has used this discount.", bill=found.used_by)
        at = time_of(the_publisher(subscription.publisher, ports), now)
        left = tuple(each for each in subscription.discounts if each is not found)
        entry = audit(person, subscription, "subscription.discount_taken_back", at, ports, before=_told(found))
        return ports.store.save(subscription, replace(subscription, discounts=left), entry=entry)

    return until_unchanged(once)


def _given(subscription: Subscription, discount: str) -> Discount:
    found = next((each for each in subscription.discounts if each.id == discount), None)
    if found is None:
        raise Conflict("discount_gone", "The discount of this Idempotency-Key was used or taken back.")
    return found


def _percent(text: str) -> str:
    """The shortest way to write it: what is asked for twice may be written in two ways."""
    percent = parse_percent(text)
    if not percent:
        raise Invalid("bad_percent", "A discount takes something off.")
    return f"{percent:f}"


def _told(discount: Discount) -> dict[str, str]:
    much = f"{discount.percent}%" if discount.percent is not None else str(discount.amount)
    return {"discount": discount.id, "off": much, "once": str(discount.once).lower()}
