"""Keys of a subscription: shown once, stored hashed, rotated with an overlap, revoked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Conflict, Invalid, NotFound
from monetize.domain.keys import PREFIXES, ApiKey, hashed
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Subscription
from monetize.services.subscription_access import Asked, Ids, Page, Person, natural_key, until_unchanged

MOST_KEYS: Final = 20
LONGEST_OVERLAP: Final = timedelta(days=30)


class Store(Protocol):
    """What is stored. Writes raise PreconditionFailed when something changed since it was read."""

    def publisher(self, publisher: str) -> Publisher | None: ...
    def subscription(self, subscription: str) -> Subscription | None: ...
    def requested(self, request_sha256: str) -> Asked | None: ...
    def keys_of(self, subscription: str, after: str | None = None, limit: int | None = None) -> Page[ApiKey]: ...
    def key(self, subscription: str, key: str) -> ApiKey | None: ...
    def issue(
        self,
        made: ApiKey,
        subscription: Subscription,
        entry: AuditEntry,
        *,
        replaced: ApiKey | None = None,
        request: tuple[str, str, datetime] | None = None,
    ) -> ApiKey: ...
    def save_key(self, key: ApiKey, entry: AuditEntry) -> ApiKey: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What issuing works with."""

    store: Store
    ids: Ids


@dataclass(frozen=True, slots=True)
class Issued:
    """A key, and its text in the one answer that shows it; None when it was shown already."""

    key: ApiKey
    text: str | None


def issue(
    person: Person,
    subscription_id: str,
    environment: str,
    name: str,
    request_key: str | None,
    now: datetime,
    ports: Ports,
) -> Issued:
    """A new key. The same Idempotency-Key answers the same key without its text.

    Conflict `subscription_not_live`, `too_many_keys`; Invalid `idempotency_key_reused`.
    """
    fingerprint = sha256(f"{subscription_id}\n{environment}\n{name}".encode()).hexdigest()
    request = natural_key(person, f"keys {subscription_id}", request_key)

    def once() -> Issued:
        subscription = _issuing(person, subscription_id, ports)
        if sum(key.usable(now) for key in ports.store.keys_of(subscription_id).items) >= MOST_KEYS:
            raise Conflict("too_many_keys", f"A subscription has at most {MOST_KEYS} keys: revoke one.")
        made, text = _made(subscription, environment, name, now, ports)
        kept = None if request is None else (request, fingerprint, now + timedelta(hours=24))
        entry = _entry(person, subscription, "key.issue", made.id, now, ports)
        return Issued(ports.store.issue(made, subscription, entry, request=kept), text)

    return _once(person, subscription_id, request, fingerprint, once, ports)


def rotate(
    person: Person,
    subscription_id: str,
    key_id: str,
    overlap: timedelta,
    request_key: str | None,
    now: datetime,
    ports: Ports,
) -> Issued:
    """A new key in place of one that works until the overlap is over.

    Conflict `key_not_usable` for one that is revoked or was rotated before; Invalid `overlap_too_long`.
    """
    if not timedelta() <= overlap <= LONGEST_OVERLAP:
        raise Invalid("overlap_too_long", f"Keys overlap by {LONGEST_OVERLAP.days} days at most.")
    fingerprint = sha256(f"{subscription_id}\n{key_id}\n{overlap}".encode()).hexdigest()
    request = natural_key(person, f"rotate {key_id}", request_key)

    def once() -> Issued:
        subscription = _issuing(person, subscription_id, ports)
        old = _key(subscription_id, key_id, ports)
        if not old.usable(now) or old.expires_at is not None:
            raise Conflict("key_not_usable", "This key was revoked or rotated already.")
        made, text = _made(subscription, old.environment, old.name, now, ports)
        kept = None if request is None else (request, fingerprint, now + timedelta(hours=24))
        entry = _entry(person, subscription, "key.rotate", f"{old.id} {made.id}", now, ports)
        ending = replace(old, expires_at=now + overlap)
        return Issued(ports.store.issue(made, subscription, entry, replaced=ending, request=kept), text)

    return _once(person, subscription_id, request, fingerprint, once, ports)


def revoke(person: Person, subscription_id: str, key_id: str, now: datetime, ports: Ports) -> None:
    """The key works no more, as soon as gateways' caches of a few seconds are over. Twice is once."""

    def once() -> None:
        subscription = _of_either(person, subscription_id, ports)
        key = _key(subscription_id, key_id, ports)
        if key.revoked_at is None:
            entry = _entry(person, subscription, "key.revoke", key.id, now, ports)
            ports.store.save_key(replace(key, revoked_at=now), entry)

    until_unchanged(once)


def listed(person: Person, subscription_id: str, after: str | None, limit: int, ports: Ports) -> Page[ApiKey]:
    """The keys of one of the caller's subscriptions, without their texts."""
    _of_either(person, subscription_id, ports)
    return ports.store.keys_of(subscription_id, after, limit)


def _once(
    person: Person,
    subscription_id: str,
    request: str | None,
    fingerprint: str,
    make: Callable[[], Issued],
    ports: Ports,
) -> Issued:
    """Make a key unless the same request did; of two equal requests at once the loser answers as a repeat."""

    def attempt() -> Issued:
        found = ports.store.requested(request) if request is not None else None
        return make() if found is None else Issued(_again(person, subscription_id, found, fingerprint, ports), None)

    return until_unchanged(attempt)


def _made(subscription: Subscription, environment: str, name: str, now: datetime, ports: Ports) -> tuple[ApiKey, str]:
    text = PREFIXES[environment] + ports.ids.secret()
    made = ApiKey(
        id=ports.ids.new("key", now),
        subscription=subscription.id,
        publisher=subscription.publisher,
        environment=environment,
        sha256=hashed(text),
        hint=f"{PREFIXES[environment]}…{text[-4:]}",
        name=name,
        created_at=now,
    )
    return made, text


def _again(person: Person, subscription_id: str, found: Asked, fingerprint: str, ports: Ports) -> ApiKey:
    _issuing(person, subscription_id, ports)
    if found.fingerprint != fingerprint:
        raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    return _key(subscription_id, found.made, ports)


def _issuing(person: Person, subscription_id: str, ports: Ports) -> Subscription:
    subscription = _of_either(person, subscription_id, ports)
    if subscription.subscriber != person.organization:
        raise NotFound("unknown_subscription", "There is no such subscription.")
    if subscription.status not in ("active", "paused"):
        raise Conflict("subscription_not_live", "Keys are made for subscriptions that have begun.")
    return subscription


def _of_either(person: Person, subscription_id: str, ports: Ports) -> Subscription:
    subscription = ports.store.subscription(subscription_id)
    if subscription is None or person.organization not in (subscription.subscriber, subscription.publisher):
        raise NotFound("unknown_subscription", "There is no such subscription.")
    return subscription


def _key(subscription_id: str, key_id: str, ports: Ports) -> ApiKey:
    key = ports.store.key(subscription_id, key_id)
    if key is None:
        raise NotFound("unknown_key", "There is no such key.")
    return key


def _entry(
    person: Person, subscription: Subscription, action: str, key: str, now: datetime, ports: Ports
) -> AuditEntry:
    return AuditEntry(
        id=ports.ids.new("aud", now),
        publisher=subscription.publisher,
        at=now,
        actor=person.user,
        organization=person.organization,
        action=action,
        target=subscription.id,
        after={"key": key},
    )
