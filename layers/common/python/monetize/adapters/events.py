"""Our own events to whoever listens, on EventBridge. The client is made when the first event is told."""

import json
from collections.abc import Callable, Mapping
from typing import Any

SOURCE = "api-monetization"


class EventBus:
    """One event bus; without a name nothing is told."""

    def __init__(self, client: Callable[[], Any], name: str) -> None:
        self._client = client
        self._name = name

    def tell(self, kind: str, detail: Mapping[str, object]) -> None:
        """One event. An event that is not taken is an error: whoever calls decides what it means."""
        if not self._name:
            return
        entry = {"Source": SOURCE, "DetailType": kind, "Detail": json.dumps(detail), "EventBusName": self._name}
        answer = self._client().put_events(Entries=[entry])
        if answer.get("FailedEntryCount"):
            raise RuntimeError(f"event bus refused {kind}: {answer['Entries'][0].get('ErrorCode', '')}")
