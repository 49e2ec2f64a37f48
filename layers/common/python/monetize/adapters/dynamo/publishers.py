"""Publishers, their guards and the one-time states of their connection."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.keys import Key
from monetize.adapters.dynamo.table import Lost, Op, Table, claim, put, release
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Tier
from monetize.domain.errors import Conflict, PreconditionFailed
from monetize.domain.publishers import OAuthState, Publisher
from monetize.domain.subscriptions import Subscription

KEEP = timedelta(days=1)  # TTL is a broom, not a clock: life is checked against `expires_at` in the item


class PublisherTable:
    """The Core table, as onboarding asks it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def remember_state(self, state_sha256: str, state: OAuthState) -> None:
        """Keep a state until its one use."""
        key = keys.oauth_state(state_sha256)
        self._table.write(
            Op(
                "Put",
                {
                    "Item": {
                        "pk": {"S": key.pk},
                        "sk": {"S": key.sk},
                        "organization": {"S": state.organization},
                        "user": {"S": state.user},
                        "return_to": {"S": state.return_to},
                        "until": {"N": str(int(state.expires_at.timestamp()))},
                        "expires_at": {"N": str(int((state.expires_at + KEEP).timestamp()))},
                    },
                    "ConditionExpression": "attribute_not_exists(pk)",
                },
            )
        )

    def consume_state(self, state_sha256: str) -> OAuthState | None:
        """Take a state away; of two who try, one gets it."""
        key = keys.oauth_state(state_sha256)
        client = self._table.client
        try:
            answer = client.delete_item(
                TableName=self._table.name,
                Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}},
                ConditionExpression="attribute_exists(pk)",
                ReturnValues="ALL_OLD",
            )
        except client.exceptions.ConditionalCheckFailedException:
            return None
        was: dict[str, Any] = answer["Attributes"]
        return OAuthState(
            organization=was["organization"]["S"],
            user=was["user"]["S"],
            return_to=was["return_to"]["S"],
            expires_at=datetime.fromtimestamp(int(was["until"]["N"]), UTC),
        )

    def get(self, publisher: str) -> Publisher | None:
        """One publisher."""
        return self._table.get(Publisher, keys.publisher(publisher))

    def holder_of(self, account: str) -> str | None:
        """Which publisher holds a Stripe account."""
        guard = self._table.raw(keys.stripe_account(account))
        return guard["owner"]["S"] if guard else None

    def save(self, publisher: Publisher, entry: AuditEntry | None, also: Sequence[Op] = ()) -> Publisher:
        """Replace it, if it is still as it was read. PreconditionFailed otherwise.

        `also` are operations of other tables' stores for the same transaction.
        """
        try:
            self._table.write(put(publisher), *([put(entry)] if entry else []), *also)
        except Lost:
            raise PreconditionFailed("changed_meanwhile", "The publisher changed since it was read.") from None
        return replace(publisher, rev=publisher.rev + 1)

    def make_sandbox(self, publisher: Publisher, entry: AuditEntry) -> Publisher:
        """It has a part of the to-do list of its own from now on, which every tick looks at."""
        return self.save(publisher, entry, [claim(keys.scope(publisher.id))])

    def enable(
        self, publisher: Publisher, tiers: tuple[Tier, ...], release_account: str | None, entry: AuditEntry
    ) -> Publisher:
        """Publisher, the guard of its account, the first tiers and the audit entry: all or nothing.

        The guard is put if there is none or if it is this publisher's own: of two organizations that confirm one
        account, one is refused.
        """
        link = publisher.stripe
        if link is None:
            raise ValueError("an enabled publisher has an account")
        guard = claim(keys.stripe_account(link.account), owner=publisher.id)
        guard.body["ConditionExpression"] = "attribute_not_exists(pk) OR #owner = :owner"
        guard.body["ExpressionAttributeNames"] = {"#owner": "owner"}
        guard.body["ExpressionAttributeValues"] = {":owner": {"S": publisher.id}}
        ops = [put(publisher), guard, *(put(tier) for tier in tiers), put(entry)]
        if release_account is not None:
            ops.append(release(keys.stripe_account(release_account), owner=publisher.id))
        try:
            self._table.write(*ops)
        except Lost as lost:
            if 1 in lost.unmet:
                raise Conflict("account_taken", "This Stripe account belongs to another organization here.") from None
            raise PreconditionFailed("changed_meanwhile", "The publisher changed since it was read.") from None
        return replace(publisher, rev=publisher.rev + 1)

    def sells(self, publisher: str) -> bool:
        """Whether any commercial subscription is live."""
        return any(it.commercial and it.live for it in self._subscriptions(publisher))

    def unbilled(self, publisher: str) -> int:
        """How many subscriptions have a bill still to come."""
        return sum(it.next_edge is not None for it in self._subscriptions(publisher))

    def subscribed(self, publisher: str) -> bool:
        """Whether anybody ever subscribed."""
        return bool(self._table.query(keys.publisher_subscription(publisher).pk, "SUB#", limit=1).items)

    def _subscriptions(self, publisher: str) -> Any:
        after: str | None = None
        while True:
            page = self._table.query(keys.publisher_subscription(publisher).pk, "SUB#", after=after, limit=100)
            wanted = [keys.subscription(item["sk"]["S"].removeprefix("SUB#")) for item in page.items]
            yield from self._table.get_many(Subscription, wanted)
            if page.after is None:
                return
            after = page.after

    def abandoned_links(self, now: datetime) -> list[Publisher]:
        """Publishers whose pending account was not confirmed in time, oldest first, at most a hundred."""
        client = self._table.client
        answer = client.query(
            TableName=self._table.name,
            IndexName="due",
            KeyConditionExpression="due_pk = :links AND due_sk < :now",
            ExpressionAttributeValues={":links": {"S": keys.LINKS}, ":now": {"S": keys.instant(now)}},
            Limit=100,
        )
        wanted = [Key(item["pk"]["S"], item["sk"]["S"]) for item in answer["Items"]]
        return list(self._table.get_many(Publisher, wanted))
