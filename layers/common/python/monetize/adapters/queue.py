"""Messages to our own queues: small JSON documents."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

BATCH = 10  # SQS's limit


class Queue:
    """One SQS queue."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def send(self, message: Mapping[str, object], *, delay_seconds: int = 0, group: str | None = None) -> None:
        """One message. `group` makes a standard queue fair between groups (tenants)."""
        request: dict[str, Any] = {"QueueUrl": self._url, "MessageBody": _text(message)}
        if delay_seconds:
            request["DelaySeconds"] = min(delay_seconds, 900)
        if group:
            request["MessageGroupId"] = group
        self._client.send_message(**request)

    def send_many(self, messages: Sequence[tuple[Mapping[str, object], str]]) -> list[int]:
        """Messages with their groups, ten a request. Answers the positions that were not taken."""
        lost: list[int] = []
        for start in range(0, len(messages), BATCH):
            entries = [
                {"Id": str(start + at), "MessageBody": _text(message), "MessageGroupId": group}
                for at, (message, group) in enumerate(messages[start : start + BATCH])
            ]
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
            lost.extend(int(failed["Id"]) for failed in answer.get("Failed", ()))
        return lost


def _text(message: Mapping[str, object]) -> str:
    return json.dumps(message, separators=(",", ":"), sort_keys=True)
