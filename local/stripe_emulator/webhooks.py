"""Events, and the webhook deliveries they cause: signed, retried for three days, lost or doubled when asked.

Deliveries are pulled: whoever runs the world asks what is due, posts it, and reports the status it got.
"""

import heapq
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stripe import WebhookSignature

from local.stripe_emulator.store import Ids, Obj

KEPT = timedelta(days=30)
RETRY_FOR = timedelta(days=3)
BACKOFF = tuple(timedelta(minutes=m) for m in (5, 30, 120, 300, 600, 720))


@dataclass(frozen=True, slots=True)
class Event:
    """One state change; `snapshot` is the object as it was then, as JSON text."""

    id: str
    type: str
    account: str | None
    object_id: str
    created: int
    head: Obj
    snapshot: str
    previous: str | None

    def text(self) -> str:
        """The whole event as JSON, as `GET /v1/events/{id}` and the webhook carry it."""
        previous = f', "previous_attributes": {self.previous}' if self.previous else ""
        return f'{json.dumps(self.head)[:-1]}, "data": {{"object": {self.snapshot}{previous}}}}}'


@dataclass
class Delivery:
    """One POST to the webhook endpoint. `headers` are signed anew whenever it is handed out."""

    id: str
    event: Event
    body: bytes
    first_at: datetime
    attempt: int = 0
    headers: dict[str, str] = field(default_factory=dict)


Fate = Callable[[Event], Sequence[timedelta]]


def at_once(_event: Event) -> Sequence[timedelta]:
    """The usual fate of an event: delivered once, now. None: lost. Two: a duplicate. Later: out of order."""
    return (timedelta(0),)


class Webhooks:
    """The platform's one Connect endpoint: every account's events, signed with every active secret."""

    def __init__(self, ids: Ids, secrets: Sequence[str]) -> None:
        self.secrets = list(secrets)
        self.fate: Fate = at_once
        self.events: OrderedDict[str, Event] = OrderedDict()
        self._ids = ids
        self._due: list[tuple[datetime, int, Delivery]] = []
        self._out: dict[str, Delivery] = {}
        self._sequence = 0

    def publish(self, event: Event, now: datetime) -> None:
        """Keep an event (30 days) and schedule its deliveries."""
        horizon = int((now - KEPT).timestamp())
        while self.events and next(iter(self.events.values())).created < horizon:
            self.events.popitem(last=False)
        self.events[event.id] = event
        if not self.secrets:
            return
        for delay in self.fate(event):
            self.redeliver(event, now + delay)

    def redeliver(self, event: Event, at: datetime) -> Delivery:
        """Send an event (again), as the dashboard's *Resend* does."""
        delivery = Delivery(self._ids.new("whd"), event, event.text().encode(), at)
        self._schedule(at, delivery)
        return delivery

    def next_at(self) -> datetime | None:
        """When the next delivery is due."""
        return self._due[0][0] if self._due else None

    def due(self, now: datetime, limit: int | None = None) -> list[Delivery]:
        """Take what is due, oldest first; each must be answered by `delivered`."""
        taken: list[Delivery] = []
        while self._due and self._due[0][0] <= now and (limit is None or len(taken) < limit):
            delivery = heapq.heappop(self._due)[2]
            delivery.attempt += 1
            delivery.headers = {
                "Content-Type": "application/json; charset=utf-8",
                "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
                "Stripe-Signature": self.signature(delivery.body, now),
            }
            self._out[delivery.id] = delivery
            taken.append(delivery)
        return taken

    def signature(self, body: bytes, now: datetime) -> str:
        """The `Stripe-Signature` header: one v1 for each active secret."""
        at, text = int(now.timestamp()), body.decode()
        signed = [WebhookSignature.generate_signature_header(text, secret, at) for secret in self.secrets]
        return ",".join([f"t={at}", *(one.partition(",")[2] for one in signed)])

    def delivered(self, delivery: Delivery, status: int, now: datetime) -> None:
        """Report the endpoint's answer: 2xx ends it, anything else is retried, for three days."""
        self._out.pop(delivery.id, None)
        if 200 <= status < 300:
            return
        again = now + BACKOFF[min(delivery.attempt, len(BACKOFF)) - 1]
        if again - delivery.first_at <= RETRY_FOR:
            self._schedule(again, delivery)

    def _schedule(self, at: datetime, delivery: Delivery) -> None:
        self._sequence += 1
        heapq.heappush(self._due, (at, self._sequence, delivery))
