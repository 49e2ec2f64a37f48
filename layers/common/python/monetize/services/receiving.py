"""Take Stripe's webhooks: verify, store, enqueue, answer; nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from monetize.domain.errors import Malformed, TooLarge
from monetize.domain.stripe_events import ACCOUNT, Envelope, Notice, is_marked, verify

MAX_BODY = 512 * 1024


class Inbox(Protocol):
    """Which events were seen, and which are done."""

    def put_if_absent(self, notice: Notice, now: datetime) -> bool:
        """Store it; True when it still has to be applied (new, or seen and not done)."""
        ...


class Queue(Protocol):
    """To the worker."""

    def send(self, message: Mapping[str, object], *, delay_seconds: int = 0, group: str | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What receiving works with.

    `known` says whether any of the provider's ids is something of ours, `held` whether a publisher holds an account.
    """

    inbox: Inbox
    queue: Queue
    secrets: Callable[[], Sequence[str]]
    read: Callable[[bytes], Envelope]
    known: Callable[[Sequence[str]], bool]
    held: Callable[[str], bool]
    livemode: bool


def receive(raw: bytes, signature: str, now: datetime, ports: Ports) -> str:
    """What became of it: queued, known (applied before), other_mode, or not_ours.

    Malformed for a body nobody signed, which Stripe must see as a 400. If the queue does not take it, the error goes
    up and Stripe delivers again: the stored event is not done, so it is enqueued then.
    """
    if len(raw) > MAX_BODY:
        raise TooLarge("body_too_large", f"An event may hold {MAX_BODY} bytes.")
    verify(raw, signature, ports.secrets(), now)
    try:
        envelope = ports.read(raw)
    except ValueError as unreadable:
        raise Malformed("malformed_event", "The event cannot be read.") from unreadable
    if envelope.livemode != ports.livemode:
        return "other_mode"
    if not _ours(envelope, ports):
        return "not_ours"
    if not ports.inbox.put_if_absent(envelope.notice, now):
        return "known"
    ports.queue.send({"event": envelope.notice.id}, group=envelope.notice.account)
    return "queued"


def _ours(envelope: Envelope, ports: Ports) -> bool:
    """A publisher's account has other business, and the platform may have other accounts."""
    notice = envelope.notice
    if not notice.account:
        return False
    if notice.type in ACCOUNT:
        return ports.held(notice.account)
    marked = is_marked(notice.type, envelope.metadata)
    return ports.known(notice.about) if marked is None else marked
