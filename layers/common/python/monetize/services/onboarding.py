"""Connect a publisher's own Stripe account, confirm it with a fresh sign-in, keep it current, let go of it.

A stolen authorize URL connects nobody: the state is one-time and bound to organization and user, and what comes back
waits until the same user, freshly signed in, confirms it with a token that only the returning browser was given
(RFC 9700 §2.1, §4.7).
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from monetize.domain import states
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Tier
from monetize.domain.errors import (
    AccountUnreachable,
    Conflict,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    Refusal,
    StepUpRequired,
    UpgradeRequired,
)
from monetize.domain.percentages import parse_percent
from monetize.domain.publishers import (
    Account,
    BillingSettings,
    Grant,
    OAuthState,
    PendingLink,
    Publisher,
    StripeLink,
)
from monetize.services.catalog import default_tiers

STATE_LIFE = timedelta(minutes=10)
COMPLETION_LIFE = timedelta(minutes=10)
FRESH_SIGN_IN = timedelta(minutes=5)
FUTURE_TOLERANCE = timedelta(minutes=1)


class Publishers(Protocol):
    """What is stored."""

    def remember_state(self, state_sha256: str, state: OAuthState) -> None: ...
    def consume_state(self, state_sha256: str) -> OAuthState | None: ...
    def get(self, publisher: str) -> Publisher | None: ...
    def holder_of(self, account: str) -> str | None: ...
    def save(self, publisher: Publisher, entry: AuditEntry | None, also: Sequence[Any] = ()) -> Publisher: ...
    def enable(
        self, publisher: Publisher, tiers: tuple[Tier, ...], release_account: str | None, entry: AuditEntry
    ) -> Publisher: ...
    def sells(self, publisher: str) -> bool: ...
    def unbilled(self, publisher: str) -> int: ...
    def subscribed(self, publisher: str) -> bool: ...
    def make_sandbox(self, publisher: Publisher, entry: AuditEntry) -> Publisher: ...
    def abandoned_links(self, now: datetime) -> list[Publisher]: ...


class Provider(Protocol):
    """Onboarding at the payment provider. OAuth is one adapter."""

    def authorize_url(self, state: str) -> str: ...
    def exchange(self, code: str) -> Grant: ...
    def account(self, account: str) -> Account: ...
    def deauthorize(self, account: str) -> None: ...


class Ids(Protocol):
    """New names and secrets."""

    def new(self, prefix: str, at: datetime) -> str: ...
    def secret(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What onboarding works with. `products` makes what the publisher's plans are sold as on an account; repeatable."""

    publishers: Publishers
    provider: Provider
    products: Callable[[str, str], int]
    ids: Ids
    livemode: bool
    trial_plans: tuple[str, ...]
    upgrade_url: str
    return_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, from verified claims."""

    user: str
    organization: str
    plan: str
    auth_time: datetime | None


def sha256(secret: str) -> str:
    """The only form in which a state or token is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def connect(person: Person, return_to: str, now: datetime, ports: Ports) -> str:
    """Begin: the provider's page to send the browser to. Raises UpgradeRequired for a trial organization."""
    _needs_paid_plan(person, ports)
    if return_to not in ports.return_paths:
        raise Invalid("return_to_not_allowed", "return_to is not one of the portal's own paths.")
    state = ports.ids.secret()
    ports.publishers.remember_state(
        sha256(state),
        OAuthState(
            organization=person.organization, user=person.user, return_to=return_to, expires_at=now + STATE_LIFE
        ),
    )
    return ports.provider.authorize_url(state)


@dataclass(frozen=True, slots=True)
class Returned:
    """Where the browser goes next: a path of the portal, and what its fragment says (never a query, never a log)."""

    return_to: str
    outcome: str  # pending, denied, or the code of what went wrong
    completion: str | None = None


def returned(state: str | None, code: str | None, error: str | None, now: datetime, ports: Ports) -> Returned:
    """The browser came back from the provider. Malformed when the state is not one of ours, used, or too old."""
    known = ports.publishers.consume_state(sha256(state)) if state else None
    if known is None or known.expires_at <= now:
        raise Malformed("invalid_state", "This link was used, is too old, or was not made here. Start again.")
    if error is not None or not code:
        return Returned(known.return_to, "denied" if error == "access_denied" else "provider_error")
    try:
        grant = ports.provider.exchange(code)
        completion = _park(known, grant, now, ports)
    except Refusal as refused:
        return Returned(known.return_to, refused.code)
    return Returned(known.return_to, "pending", completion)


def _park(known: OAuthState, grant: Grant, now: datetime, ports: Ports) -> str:
    """Keep the account as pending and make the token that confirms it."""
    if grant.livemode != ports.livemode or grant.scope != "read_write":
        _let_go(grant.account, ports)
        wrong = "wrong_mode" if grant.livemode != ports.livemode else "read_only_scope"
        raise Conflict(wrong, "The account was connected in another mode, or may only be read.")
    holder = ports.publishers.holder_of(grant.account)
    if holder not in (None, known.organization):
        raise Conflict("account_taken", "This Stripe account belongs to another organization here.")
    account = ports.provider.account(grant.account)
    completion = ports.ids.secret()
    publisher = ports.publishers.get(known.organization) or Publisher(id=known.organization, created_at=now)
    replaced = publisher.pending
    ports.publishers.save(
        replace(
            publisher,
            pending=PendingLink(
                account=account.id,
                livemode=grant.livemode,
                scope=grant.scope,
                user=known.user,
                token_sha256=sha256(completion),
                expires_at=now + COMPLETION_LIFE,
                name=account.name,
                country=account.country,
                currency=account.currency,
                charges_enabled=account.charges_enabled,
                requirements=account.requirements,
            ),
        ),
        None,
    )
    if replaced is not None and replaced.account != account.id:
        _let_go(replaced.account, ports)
    return completion


@dataclass(frozen=True, slots=True)
class Enabled:
    """What enabling configured."""

    publisher: Publisher
    tiers: tuple[Tier, ...]
    resumed: bool


def enable(person: Person, completion: str, now: datetime, ports: Ports) -> Enabled:
    """Confirm the pending account: its owner's browser, the same user, signed in within five minutes."""
    _needs_paid_plan(person, ports)
    publisher = ports.publishers.get(person.organization)
    pending = publisher.pending if publisher is not None else None
    if publisher is None or pending is None or pending.expires_at <= now:
        raise NotFound("nothing_pending", "No connected account waits to be confirmed. Connect with Stripe first.")
    if pending.user != person.user or not hmac.compare_digest(pending.token_sha256, sha256(completion)):
        raise Forbidden("wrong_completion", "Another browser or user began this connection.")
    require_fresh_sign_in(person, now)
    held = publisher.stripe.account if publisher.stripe is not None else None
    if held not in (None, pending.account) and ports.publishers.sells(publisher.id):
        raise Conflict(
            "other_account_in_use",
            "Commercial subscriptions live on the account that was connected before.",
            account=held,
        )
    if held not in (None, pending.account):
        # Before anybody can subscribe there: a crash in between leaves products that the next request finds.
        ports.products(publisher.id, pending.account)
    first = publisher.enabled_at is None
    tiers = default_tiers(publisher.id, now) if first else ()
    link = StripeLink(
        account=pending.account,
        livemode=pending.livemode,
        scope=pending.scope,
        connected_at=now,
        name=pending.name,
        country=pending.country,
        currency=pending.currency,
        charges_enabled=pending.charges_enabled,
        requirements=pending.requirements,
    )
    enabled = ports.publishers.enable(
        replace(
            publisher,
            status=states.PUBLISHER.move(publisher.status, "enable"),
            stripe=link,
            pending=None,
            enabled_at=publisher.enabled_at or now,
        ),
        tiers,
        held if held != pending.account else None,
        _entry(person, "monetization.enable", publisher.id, now, ports, after={"account": pending.account}),
    )
    if held not in (None, pending.account):
        _let_go(str(held), ports)
    return Enabled(enabled, tiers, resumed=not first)


def require_fresh_sign_in(person: Person, now: datetime) -> None:
    """Refuse a sign-in older than five minutes, or of unknown age (RFC 9470)."""
    at = person.auth_time
    if at is None or now - at > FRESH_SIGN_IN or at - now > FUTURE_TOLERANCE:
        raise StepUpRequired(
            "sign_in_again", "Sign in again to confirm this.", max_age=int(FRESH_SIGN_IN.total_seconds())
        )


def status(organization: str, ports: Ports) -> Publisher:
    """The publisher; NotFound before the first connection."""
    publisher = ports.publishers.get(organization)
    if publisher is None:
        raise NotFound("not_enabled", "Monetization was never set up for this organization.")
    return publisher


def change_settings(person: Person, settings: BillingSettings, rev: int, now: datetime, ports: Ports) -> Publisher:
    """Replace the billing settings, if they are still as the caller read them."""
    publisher = replace(status(person.organization, ports), rev=rev)
    entry = _entry(person, "monetization.settings", publisher.id, now, ports)
    return ports.publishers.save(replace(publisher, settings=settings), entry)


def any_publisher(publisher: str, ports: Ports) -> Publisher:
    """One publisher, for an operator. NotFound `unknown_publisher`."""
    found = ports.publishers.get(publisher)
    if found is None:
        raise NotFound("unknown_publisher", "There is no such publisher.")
    return found


def set_fee(
    person: Person, publisher: str, percent: str, fixed: int, rev: int, now: datetime, ports: Ports
) -> Publisher:
    """The platform's share of each invoice from the next bill that is rated on; the publisher's audit tells it.

    `percent` of the subtotal and `fixed` minor units of its currency. Invalid `bad_percent`.
    """
    before = replace(any_publisher(publisher, ports), rev=rev)
    after = replace(before, fee_percent=f"{parse_percent(percent):f}", fee_fixed=fixed)
    entry = _entry(person, "monetization.fee", publisher, now, ports, before=_fee(before), after=_fee(after))
    return ports.publishers.save(after, entry)


def _fee(publisher: Publisher) -> dict[str, str]:
    return {"percent": publisher.fee_percent, "fixed": str(publisher.fee_fixed)}


def make_sandbox(person: Person, publisher: str, now: datetime, ports: Ports) -> Publisher:
    """Give a publisher of a test stack a clock of its own, for ever; again: the same.

    Only before anybody subscribed: what is in the common to-do list is due by the common time. Conflict `live_mode`,
    `has_subscriptions`.
    """
    found = any_publisher(publisher, ports)
    if found.sandbox:
        return found
    if ports.livemode or (found.stripe is not None and found.stripe.livemode):
        raise Conflict("live_mode", "Who charges real money has no clock of its own.")
    if ports.publishers.subscribed(publisher):
        raise Conflict("has_subscriptions", "Somebody subscribed already, by the common time.")
    entry = _entry(person, "monetization.sandbox", publisher, now, ports, after={"sandbox": "true"})
    return ports.publishers.make_sandbox(replace(found, sandbox=True), entry)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """What letting go leaves: subscriptions with a bill that will not be made until the account is back."""

    publisher: Publisher
    unbilled: int


def disconnect(person: Person, now: datetime, ports: Ports) -> Disconnected:
    """Stop billing and let the account go. History stays; repeating it only lets go again."""
    publisher = status(person.organization, ports)
    link = publisher.stripe
    if link is None:
        raise Conflict("not_enabled", "Monetization is not enabled.")
    require_fresh_sign_in(person, now)
    if publisher.status == "enabled":
        publisher = ports.publishers.save(
            replace(
                publisher,
                status=states.PUBLISHER.move(publisher.status, "disconnect"),
                stripe=replace(link, deauthorized_at=now, charges_enabled=False),
            ),
            _entry(person, "monetization.disconnect", publisher.id, now, ports, before={"account": link.account}),
        )
    ports.provider.deauthorize(link.account)
    return Disconnected(publisher, ports.publishers.unbilled(publisher.id))


def account_deauthorized(account: str, now: datetime, ports: Ports, also: Sequence[Any] = ()) -> str:
    """Stripe says that the account let us go: `disconnected`, else nothing was written: `unchanged`, `not_ours`.

    Said late it is not true any more: a publisher may have connected again, so the account itself is asked. `also` are
    further operations of the transaction that stores the effect.
    """
    publisher = _holder(account, ports)
    if publisher is None or publisher.stripe is None:
        return "not_ours"
    if publisher.status != "enabled" or _lets_us_in(account, ports):
        return "unchanged"
    disconnected = replace(
        publisher,
        status=states.PUBLISHER.move(publisher.status, "disconnect"),
        stripe=replace(publisher.stripe, deauthorized_at=now, charges_enabled=False),
    )
    before = {"account": account}
    entry = _entry(_stripe(publisher), "monetization.disconnect", publisher.id, now, ports, before=before)
    ports.publishers.save(disconnected, entry, also)
    return "disconnected"


def _lets_us_in(account: str, ports: Ports) -> bool:
    try:
        ports.provider.account(account)
    except AccountUnreachable:
        return False
    return True


def account_updated(account: str, now: datetime, ports: Ports, also: Sequence[Any] = ()) -> str:
    """Keep what we know of the account current: `updated`, else nothing was written: `unchanged`, `not_ours`.

    `also` are further operations of the transaction that stores the effect.
    """
    publisher = _holder(account, ports)
    if publisher is None or publisher.stripe is None or publisher.stripe.deauthorized_at is not None:
        return "not_ours"
    latest = ports.provider.account(account)
    link = replace(
        publisher.stripe,
        name=latest.name,
        country=latest.country,
        currency=latest.currency,
        charges_enabled=latest.charges_enabled,
        requirements=latest.requirements,
    )
    if link == publisher.stripe:
        return "unchanged"
    entry = _entry(
        _stripe(publisher),
        "monetization.account",
        publisher.id,
        now,
        ports,
        before=_told(publisher.stripe, link),
        after=_told(link, publisher.stripe),
    )
    ports.publishers.save(replace(publisher, stripe=link), entry, also)
    return "updated"


def _told(link: StripeLink, other: StripeLink) -> dict[str, str]:
    """What an audit says of an account that changed: what it may do; the business's own name stays out."""
    changed = [name for name in ("name", "country", "currency") if getattr(link, name) != getattr(other, name)]
    return {
        "charges_enabled": str(link.charges_enabled).lower(),
        "requirements": ", ".join(link.requirements),
        "changed": ", ".join(changed),
    }


def _stripe(publisher: Publisher) -> Person:
    """Whoever did it at Stripe."""
    return Person(user="stripe", organization=publisher.id, plan="", auth_time=None)


def sweep(now: datetime, ports: Ports) -> int:
    """Let go of accounts that came back and were never confirmed, unless a publisher holds them. Answers how many."""
    swept = 0
    for publisher in ports.publishers.abandoned_links(now):
        pending = publisher.pending
        if pending is None or pending.expires_at > now:
            continue
        _let_go(pending.account, ports)
        ports.publishers.save(replace(publisher, pending=None), None)
        swept += 1
    return swept


def _let_go(account: str, ports: Ports) -> None:
    """Deauthorization knows the account alone, so never while any publisher holds it."""
    if ports.publishers.holder_of(account) is None:
        ports.provider.deauthorize(account)


def _holder(account: str, ports: Ports) -> Publisher | None:
    holder = ports.publishers.holder_of(account)
    publisher = ports.publishers.get(holder) if holder else None
    if publisher is None or publisher.stripe is None or publisher.stripe.account != account:
        return None
    return publisher


def _needs_paid_plan(person: Person, ports: Ports) -> None:
    if not person.plan or person.plan in ports.trial_plans:
        raise UpgradeRequired(
            "upgrade_required", "Monetization needs a paid platform plan.", upgrade_url=ports.upgrade_url
        )


def _entry(
    person: Person,
    action: str,
    target: str,
    now: datetime,
    ports: Ports,
    *,
    before: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> AuditEntry:
    return AuditEntry(
        id=ports.ids.new("aud", now),
        publisher=target,
        at=now,
        actor=person.user,
        organization=person.organization,
        action=action,
        target=target,
        before=before,
        after=after,
    )
