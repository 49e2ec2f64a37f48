"""Our own events to whoever listens, on EventBridge. The client is made when the first event is told."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

SOURCE = "api-monetization"


class EventBus:
    """One event bus; without a name nothing is told."""

    def __init__(self, client: Callable[[], Any], name: str) -> None:
        self._client = client
        self._name = name

    def tell(self, kind: str, detail: Mapping[str, object]) -> bool:
        """Whether one event was taken."""
        if not self._name:
            return True
        entry = {"Source": SOURCE, "DetailType": kind, "Detail": json.dumps(detail), "EventBusName": self._name}
        try:
            answer = self._client().put_events(Entries=[entry])
        except (BotoCoreError, ClientError):
            return False
        return not answer.get("FailedEntryCount")
