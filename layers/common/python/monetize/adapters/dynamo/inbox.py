"""Which Stripe events were seen, and what became of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Client, Op
from monetize.domain.stripe_events import Notice

KEEP = timedelta(days=35)  # Stripe keeps events readable for 30 days


class InboxTable:
    """One item an event: its status and where to find its object, never its payload."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def put_if_absent(self, notice: Notice, now: datetime) -> bool:
        """Store it; True when it still has to be applied (new, or seen and not done)."""
        try:
            self._client.put_item(
                TableName=self._name,
                Item={
                    "pk": {"S": keys.event(notice.id)},
                    "state": {"S": "received"},
                    "type": {"S": notice.type},
                    "account": {"S": notice.account},
                    "object": {"S": notice.object},
                    "hint": {"S": notice.hint},
                    "about": {"S": " ".join(notice.about)},
                    "created": {"N": str(int(notice.created.timestamp()))},
                    "attempts": {"N": "0"},
                    "expires_at": {"N": str(int((now + KEEP).timestamp()))},
                },
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as seen:
            was: dict[str, Any] = seen.response.get("Item", {})
            return bool(was.get("state", {}).get("S") != "done")
        return True

    def get(self, event: str) -> tuple[Notice, str] | None:
        """A stored event and its state (received, done); None when unknown."""
        answer = self._client.get_item(TableName=self._name, Key={"pk": {"S": keys.event(event)}}, ConsistentRead=True)
        item = answer.get("Item")
        if item is None:
            return None
        notice = Notice(
            id=event,
            type=item["type"]["S"],
            account=item["account"]["S"],
            object=item["object"]["S"],
            created=datetime.fromtimestamp(int(item["created"]["N"]), UTC),
            hint=item.get("hint", {}).get("S", ""),
            about=tuple(item.get("about", {}).get("S", "").split()),
        )
        return notice, item["state"]["S"]

    def done(self, event: str, outcome: str) -> Op:
        """The operation that marks it done, to stand in the transaction of its effect: an event has one effect."""
        return Op(
            "Update",
            {
                "Key": {"pk": {"S": keys.event(event)}},
                "UpdateExpression": "SET #state = :done, outcome = :outcome ADD attempts :one",
                "ConditionExpression": "attribute_exists(pk) AND #state <> :done",
                "ExpressionAttributeNames": {"#state": "state"},
                "ExpressionAttributeValues": {
                    ":done": {"S": "done"},
                    ":outcome": {"S": outcome},
                    ":one": {"N": "1"},
                },
            },
            self._name,
        )
