"""One pass over everything due: 64 shards, each found, leased and fanned out by itself.

The to-do list is the index `due`; its head is what is left to do, so nothing here has to remember what was done. A
lease says of one shard "everything due up to this instant was enqueued": the next tick enqueues only what came due
since, and once the lease is over whatever is still there is enqueued again. A message lost costs a delay, never a bill.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from monetize.domain.errors import Unavailable
from monetize.domain.invoices import Due

SHARDS = 64
LEASE = timedelta(hours=3)


class ToDo(Protocol):
    """The to-do list."""

    def leased_up_to(self, shard: int, now: datetime, scope: str) -> datetime | None: ...
    def lease(self, shard: int, up_to: datetime, until: datetime | None, scope: str) -> None: ...
    def due_in_shard(
        self, shard: int, since: datetime | None, now: datetime, scope: str
    ) -> Iterator[Sequence[Due]]: ...


class Queue(Protocol):
    """To the workers."""

    def send_many(self, messages: Sequence[tuple[Mapping[str, object], str]]) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What the run works with."""

    todo: ToDo
    queue: Queue


@dataclass(frozen=True, slots=True)
class FannedOut:
    """What one shard had: how many were enqueued, and since when the oldest waits."""

    enqueued: int
    oldest: datetime | None


def shards(run: str = "") -> list[tuple[Mapping[str, object], str]]:
    """One message for each shard, to the workers. `run` is the run that what they find belongs to."""
    belongs = {"run": run} if run else {}
    return [({"kind": "shard", "shard": shard, **belongs}, f"shard-{shard:02d}") for shard in range(SHARDS)]


def fan_out(shard: int, now: datetime, ports: Ports, scope: str = "", run: str = "") -> FannedOut:
    """Enqueue what is due in one shard. The group of a message is its publisher, so no one starves the others.

    The lease is written last: after a crash the shard is enqueued again, and a message twice is a bill once.
    """
    since = ports.todo.leased_up_to(shard, now, scope)
    enqueued, oldest = 0, None
    belongs = {"run": run} if run else {}
    for page in ports.todo.due_in_shard(shard, since, now, scope):
        oldest = oldest or (page[0].at if page else None)
        messages = [({"kind": due.kind, "id": due.id, **belongs}, due.group) for due in page]
        lost = ports.queue.send_many(messages)
        if lost:
            messages = [messages[at] for at in lost]
            lost = ports.queue.send_many(messages)
        enqueued += len(page) - len(lost)
        if lost:
            raise Unavailable("queue_unavailable", "The queue does not take messages now.")
    ports.todo.lease(shard, now, now + LEASE if since is None else None, scope)
    return FannedOut(enqueued, oldest)
