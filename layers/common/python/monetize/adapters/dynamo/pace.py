"""A pace for calls to one Stripe account, shared by every worker: a generic cell rate limiter in one item."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from monetize.adapters.dynamo.table import Table

KEEP = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class AccountPace:
    """At most `per_second` places a second for each account; a place taken is kept, so who waits asks once.

    The item holds the next free place in milliseconds (`free`). One write takes a place: the common case, an account
    that is idle, succeeds at the first attempt; a place later costs a second write, the first condition having failed.
    """

    table: Table
    per_second: int

    def reserve(self, account: str, now: datetime) -> float:
        """Take the next free place; the seconds until it, 0 when it is now."""
        present = int(now.timestamp() * 1000)
        step = max(1, 1000 // self.per_second)
        client = self.table.client
        request = {
            "TableName": self.table.name,
            "Key": {"pk": {"S": f"PACE#{account}"}, "sk": {"S": "PACE"}},
            "ReturnValues": "UPDATED_NEW",
            "ExpressionAttributeNames": {"#free": "free"},  # a word DynamoDB reserves
        }
        later = {":expires": {"N": str(int((now + KEEP).timestamp()))}}
        while True:
            try:
                client.update_item(
                    **request,
                    UpdateExpression="SET #free = :next, expires_at = :expires",
                    ConditionExpression="attribute_not_exists(#free) OR #free <= :now",
                    ExpressionAttributeValues={
                        ":now": {"N": str(present)},
                        ":next": {"N": str(present + step)},
                        **later,
                    },
                )
            except client.exceptions.ConditionalCheckFailedException:
                pass
            else:
                return 0.0
            try:
                answer = client.update_item(
                    **request,
                    UpdateExpression="SET #free = #free + :step, expires_at = :expires",
                    ConditionExpression="#free > :now",
                    ExpressionAttributeValues={":now": {"N": str(present)}, ":step": {"N": str(step)}, **later},
                )
            except client.exceptions.ConditionalCheckFailedException:
                continue  # the last place passed meanwhile: one is free now
            place = int(answer["Attributes"]["free"]["N"]) - step
            return max(0.0, (place - present) / 1000)
