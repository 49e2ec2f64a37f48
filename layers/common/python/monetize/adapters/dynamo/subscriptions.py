"""Subscribers, applications and subscriptions: who holds what, and one live subscription per (application, API)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Lost, Op, Page, Table, claim, delete, put, read, release, unchanged
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Product, Tier
from monetize.domain.errors import Conflict, PreconditionFailed
from monetize.domain.keys import ApiKey
from monetize.domain.meters import Meter
from monetize.domain.offers import Offer
from monetize.domain.plans import Plan, PlanVersion
from monetize.domain.publishers import Publisher
from monetize.domain.subscriptions import Application, Subscriber, Subscription

CHANGED = ("changed_meanwhile", "This changed since it was read: read it again.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request made, and the hash of what it asked for."""

    made: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SubscriptionTable:
    """The Core table, as subscribing asks it."""

    table: Table

    # --- what is offered ---

    def publisher(self, publisher: str) -> Publisher | None:
        """One publisher."""
        return self.table.get(Publisher, keys.publisher(publisher))

    def offer(self, publisher: str, product: str, tier: str) -> Offer | None:
        """A product at a tier with the newest published version of its plan; None where one of them is not."""
        seller = self.table.get(Publisher, keys.publisher(publisher))
        api = self.table.get(Product, keys.product(publisher, product))
        policy = self.table.get(Tier, keys.tier(publisher, tier))
        if seller is None or api is None or policy is None:
            return None
        plan = self.table.get(Plan, keys.plan(publisher, policy.plan)) if policy.plan else None
        version = self.version(plan.id, plan.latest) if plan is not None and plan.latest else None
        return Offer(publisher=seller, product=api, tier=policy, plan=plan, version=version)

    def version(self, plan: str, number: int) -> PlanVersion | None:
        """One published version."""
        return self.table.get(PlanVersion, keys.plan_version(plan, number))

    def meter(self, publisher: str, meter: str) -> Meter | None:
        """One meter."""
        return self.table.get(Meter, keys.meter(publisher, meter))

    # --- subscribers ---

    def subscriber(self, publisher: str, subscriber: str) -> Subscriber | None:
        """An organization as one publisher's subscriber."""
        return self.table.get(Subscriber, keys.subscriber(publisher, subscriber))

    def save_subscriber(self, subscriber: Subscriber, entry: AuditEntry | None) -> Subscriber:
        """As it is now, if nobody changed it."""
        self._write(put(subscriber), *_entries(entry))
        return replace(subscriber, rev=subscriber.rev + 1)

    # --- applications ---

    def application(self, publisher: str, subscriber: str, application: str) -> Application | None:
        """One application of a subscriber."""
        return self.table.get(Application, keys.application(publisher, subscriber, application))

    def applications(self, publisher: str, subscriber: str, after: str | None, limit: int) -> Page[Application]:
        """A subscriber's applications, oldest first."""
        prefix = keys.application(publisher, subscriber)
        return self.table.list(Application, prefix.pk, prefix.sk, after=after, limit=limit)

    def save_application(
        self, application: Application, entry: AuditEntry, request: tuple[str, str, datetime] | None = None
    ) -> Application:
        """A new one with the natural key of its request, or one as it was read."""
        asked = [] if request is None else [_ask(keys.request(request[0]), application.id, request[1], request[2])]
        self._write(put(application), put(entry), *asked)
        return replace(application, rev=application.rev + 1)

    def delete_application(self, application: Application, entry: AuditEntry) -> None:
        """One as it was read: a subscription begun meanwhile has changed it."""
        self._write(delete(application), put(entry))

    # --- subscriptions ---

    def subscription(self, subscription: str) -> Subscription | None:
        """One subscription."""
        return self.table.get(Subscription, keys.subscription(subscription))

    def guarded_by(self, application: str, apis: Sequence[str]) -> str | None:
        """Which live subscription stands in the way of one for these APIs."""
        for api in apis:
            item = self.table.raw(keys.guard(application, api))
            if item is not None:
                return str(item["owner"]["S"])
        return None

    def requested(self, request_sha256: str) -> Asked | None:
        """What a request with that natural key made."""
        return self._asked(keys.request(request_sha256))

    def begin(
        self,
        subscription: Subscription,
        application: Application,
        offer: Offer,
        entry: AuditEntry,
        request: tuple[str, str, datetime] | None,
    ) -> Subscription:
        """A subscription with its guards and pointers, while what it was offered still holds.

        Conflict `already_subscribed` when a guard is taken; PreconditionFailed when anything read has changed, or when
        the same request got there first.
        """
        guards = [claim(keys.guard(application.id, api), subscription.id) for api in subscription.apis]
        read_before = [
            unchanged(it) for it in (offer.publisher, offer.product, offer.tier, offer.plan) if it is not None
        ]
        asked = [] if request is None else [_ask(keys.request(request[0]), subscription.id, request[1], request[2])]
        ops = [
            *guards,
            put(subscription),
            put(replace(application, live=application.live + 1)),
            *(claim(pointer, subscription.id) for pointer in _pointers(subscription)),
            put(entry),
            *read_before,
            *asked,
        ]
        try:
            self.table.write(*ops)
        except Lost as lost:
            if asked and len(ops) - 1 in lost.unmet:
                raise PreconditionFailed(*CHANGED) from None
            if any(at < len(guards) for at in lost.unmet):
                raise Conflict("already_subscribed", "The application is subscribed to this API already.") from None
            raise PreconditionFailed(*CHANGED) from None
        return replace(subscription, rev=1)

    def save(
        self,
        before: Subscription,
        after: Subscription,
        *,
        entry: AuditEntry | None = None,
        subscriber: Subscriber | None = None,
        also: Sequence[Op] = (),
    ) -> Subscription:
        """A subscription as it was read becomes another.

        With a new plan version its pointer moves; when it ends its guards are released and its application has one
        live subscription less. `also` are operations of other tables' stores for the same transaction.
        """
        ops: list[Op] = [put(replace(after, rev=before.rev))]
        if (before.plan, before.version) != (after.plan, after.version):
            ops += [release(it, before.id) for it in _on_version(before)] + [
                claim(it, after.id) for it in _on_version(after)
            ]
        if before.live and not after.live:
            ops += [release(keys.guard(before.application, api), before.id) for api in before.apis]
            application = self.application(before.publisher, before.subscriber, before.application)
            if application is not None:
                ops.append(put(replace(application, live=max(0, application.live - 1))))
        if subscriber is not None:
            ops.append(put(subscriber))
        self._write(*ops, *_entries(entry), *also)
        return replace(after, rev=before.rev + 1)

    def of_subscriber(self, publisher: str, subscriber: str, after: str | None, limit: int) -> Page[Subscription]:
        """A subscriber's subscriptions at one publisher, oldest first."""
        return self._pointed(keys.subscriber_subscription(publisher, subscriber), after, limit)

    def of_publisher(self, publisher: str, after: str | None, limit: int) -> Page[Subscription]:
        """A publisher's subscriptions, oldest first."""
        return self._pointed(keys.publisher_subscription(publisher), after, limit)

    def _pointed(self, prefix: keys.Key, after: str | None, limit: int) -> Page[Subscription]:
        page = self.table.query(prefix.pk, prefix.sk, after=after, limit=limit)
        wanted = [keys.subscription(item["sk"]["S"].removeprefix(prefix.sk)) for item in page.items]
        return Page(tuple(self.table.get_many(Subscription, wanted)), page.after)

    # --- keys ---

    def keys_of(self, subscription: str, after: str | None = None, limit: int | None = None) -> Page[ApiKey]:
        """A subscription's keys, oldest first; all of them without `limit`."""
        prefix = keys.subscription_key(subscription)
        page = self.table.query(prefix.pk, prefix.sk, after=after, limit=limit)
        wanted = [keys.api_key(item["owner"]["S"]) for item in page.items]
        return Page(tuple(self.table.get_many(ApiKey, wanted)), page.after)

    def key(self, subscription: str, key: str) -> ApiKey | None:
        """One of its keys, by id."""
        item = self.table.raw(keys.subscription_key(subscription, key))
        return None if item is None else self.table.get(ApiKey, keys.api_key(item["owner"]["S"]))

    def issue(
        self,
        made: ApiKey,
        subscription: Subscription,
        entry: AuditEntry,
        *,
        replaced: ApiKey | None = None,
        request: tuple[str, str, datetime] | None = None,
    ) -> ApiKey:
        """A key of a subscription that is as it was read; with `replaced`, that one's end in the same step."""
        ops = [
            put(made),
            claim(keys.subscription_key(made.subscription, made.id), made.sha256),
            unchanged(subscription),
            put(entry),
        ]
        if replaced is not None:
            ops.append(put(replaced))
        if request is not None:
            ops.append(_ask(keys.request(request[0]), made.id, request[1], request[2]))
        self._write(*ops)
        return replace(made, rev=1)

    def save_key(self, key: ApiKey, entry: AuditEntry) -> ApiKey:
        """A key as it was read becomes another: revoked, or with an end."""
        self._write(put(key), put(entry))
        return replace(key, rev=key.rev + 1)

    # --- top-ups, discounts ---

    def given(self, what: str, subscription: str, key_sha256: str) -> Asked | None:
        """The `topup` or `discount` that was given under that natural key."""
        return self._asked(keys.gift(subscription, what, key_sha256))

    def give(
        self, what: str, before: Subscription, after: Subscription, request: tuple[str, str, str], entry: AuditEntry
    ) -> Subscription:
        """A subscription with what it was given. `request`: the natural key, kept for ever, what was asked, the id."""
        natural, fingerprint, made = request
        self._write(
            put(replace(after, rev=before.rev)),
            _ask(keys.gift(before.id, what, natural), made, fingerprint, None),
            put(entry),
        )
        return replace(after, rev=before.rev + 1)

    # --- what is owed ---

    def money_due(self, publisher: str, subscriber: str) -> str | None:
        """The code of the first reason why a subscriber still owes something; None when nothing is left.

        A bill is `sent` for as long as its invoice is open, so that invoices need no list of their own here.
        """
        # Here, since nothing else in subscribing needs rating: it would cost every cold start.
        from monetize.domain.invoices import Bill

        prefix = keys.subscriber_subscription(publisher, subscriber)
        pointers = self.table.query(prefix.pk, prefix.sk).items
        ids = [item["sk"]["S"].removeprefix(prefix.sk) for item in pointers]
        for subscription in self.table.get_many(Subscription, [keys.subscription(each) for each in ids]):
            if subscription.live:
                return "subscriptions_live"
            if subscription.next_edge is not None:
                return "usage_unbilled"
            bills = self.table.query(f"SUB#{subscription.id}", "BILL#").items
            if any(read(Bill, item).status not in _SETTLED for item in bills):
                return "money_due"
        return None

    def forget_application(self, application: Application) -> None:
        """An application without the words its owner gave it."""
        self._write(put(replace(application, name="erased", description="")))

    def forget_subscription(self, subscription: Subscription) -> None:
        """A subscription without personal data."""
        self._write(put(replace(subscription, invoice_email="")))

    def _asked(self, key: keys.Key) -> Asked | None:
        item = self.table.raw(key)
        return None if item is None else Asked(str(item["owner"]["S"]), str(item["fingerprint"]["S"]))

    def _write(self, *ops: Op) -> None:
        try:
            self.table.write(*ops)
        except Lost:
            raise PreconditionFailed(*CHANGED) from None


_SETTLED = frozenset({"empty", "waived", "paid", "void", "uncollectible"})


def _pointers(subscription: Subscription) -> list[keys.Key]:
    return [
        keys.publisher_subscription(subscription.publisher, subscription.id),
        keys.subscriber_subscription(subscription.publisher, subscription.subscriber, subscription.id),
        *_on_version(subscription),
    ]


def _on_version(subscription: Subscription) -> list[keys.Key]:
    if subscription.plan is None or subscription.version is None:
        return []
    return [keys.plan_subscription(subscription.plan, subscription.version, subscription.id)]


def _ask(key: keys.Key, made: str, fingerprint: str, expires_at: datetime | None) -> Op:
    op = claim(key, made, expires_at)
    item: dict[str, Any] = {**op.body["Item"], "fingerprint": {"S": fingerprint}}
    return replace(op, body={**op.body, "Item": item})


def _entries(entry: AuditEntry | None) -> list[Op]:
    return [] if entry is None else [put(entry)]
