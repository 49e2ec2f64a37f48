"""A subscriber's applications: what it calls APIs from."""

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Protocol

from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Conflict, Invalid, NotFound, PreconditionFailed
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Application
from monetize.services.subscription_access import Asked, Ids, Person, natural_key, until_unchanged


class Page[T](Protocol):
    """Some of a list, and the position after it."""

    @property
    def items(self) -> tuple[T, ...]: ...
    @property
    def after(self) -> str | None: ...


class Applications(Protocol):
    """What is stored."""

    def publisher(self, publisher: str) -> Publisher | None: ...
    def application(self, publisher: str, subscriber: str, application: str) -> Application | None: ...
    def applications(self, publisher: str, subscriber: str, after: str | None, limit: int) -> Page[Application]: ...
    def requested(self, request_sha256: str) -> Asked | None: ...
    def save_application(
        self, application: Application, entry: AuditEntry, request: tuple[str, str, datetime] | None = None
    ) -> Application: ...
    def delete_application(self, application: Application, entry: AuditEntry) -> None: ...


def create(
    person: Person,
    publisher: str,
    words: tuple[str, str],
    request_key: str | None,
    now: datetime,
    store: Applications,
    ids: Ids,
) -> Application:
    """A new application for one publisher's APIs; `words` are its name and description.

    The same Idempotency-Key answers the same application. NotFound `unknown_publisher`; Invalid
    `idempotency_key_reused`.
    """
    name, description = words
    fingerprint = sha256("\n".join(words).encode()).hexdigest()
    request = natural_key(person, f"applications {publisher}", request_key)

    def once() -> Application:
        found = store.requested(request) if request is not None else None
        if found is not None:
            if found.fingerprint != fingerprint:
                raise Invalid("idempotency_key_reused", "This Idempotency-Key was used for another request.")
            return get(person, publisher, found.made, store)
        if store.publisher(publisher) is None:
            raise NotFound("unknown_publisher", "There is no such publisher.")
        application = Application(
            id=ids.new("app", now),
            publisher=publisher,
            subscriber=person.organization,
            name=name,
            description=description,
            created_at=now,
        )
        kept = None if request is None else (request, fingerprint, now + timedelta(hours=24))
        return store.save_application(application, _entry(person, application, "application.create", now, ids), kept)

    return until_unchanged(once)


def get(person: Person, publisher: str, application: str, store: Applications) -> Application:
    """One of the caller's. NotFound `unknown_application`."""
    found = store.application(publisher, person.organization, application)
    if found is None:
        raise NotFound("unknown_application", "There is no such application.")
    return found


def change(
    person: Person,
    was: tuple[str, str, int],
    name: str,
    description: str,
    now: datetime,
    store: Applications,
    ids: Ids,
) -> Application:
    """Rename or describe. `was` is publisher, application and the revision that was read: PreconditionFailed."""
    publisher, application, rev = was
    found = get(person, publisher, application, store)
    if found.rev != rev:
        raise PreconditionFailed("changed_meanwhile", "This changed since it was read: read it again.")
    after = replace(found, name=name, description=description)
    return store.save_application(after, _entry(person, found, "application.change", now, ids))


def delete(person: Person, publisher: str, application: str, now: datetime, store: Applications, ids: Ids) -> None:
    """Delete one without live subscriptions: Conflict `application_in_use` otherwise."""
    found = get(person, publisher, application, store)
    if found.live:
        raise Conflict("application_in_use", "The application has live subscriptions: cancel them first.")
    store.delete_application(found, _entry(person, found, "application.delete", now, ids))


def _entry(person: Person, application: Application, action: str, now: datetime, ids: Ids) -> AuditEntry:
    return AuditEntry(
        id=ids.new("aud", now),
        publisher=application.publisher,
        at=now,
        actor=person.user,
        organization=person.organization,
        action=action,
        target=application.id,
        after={"fields": "name, description"},
    )
