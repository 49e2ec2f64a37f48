"""The one door every call of a worker goes through: counted, crashed, refused, and handed from worker to worker.

Workers are threads of which exactly one runs at a time; who runs next is drawn from the world's seed at every door,
so a seed replays an interleaving exactly.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

import stripe

from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.client import WRITES
from local.dynamodb.faults import Fault
from local.functions import Crash
from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.faults import Fault as StripeFault
from local.stripe_emulator.transport import EmulatorHTTPClient

__all__ = ["Chances", "Crash", "Door", "Gate", "GatedStripe"]

MAIN = -1
WAIT_SECONDS = 60  # of a worker for its turn: far more than any world takes
STRIPE_BEFORE = ("rate_limited", "conflict", "lock_timeout", "refused", "error_500")
STRIPE_AFTER = ("time_out", "error_500")


@dataclass(frozen=True, slots=True)
class Door:
    """One call as it passed: who, `before` and `after` a durable one or `read`, and which."""

    worker: int
    when: str
    name: str


@dataclass(slots=True)
class Chances:
    """Between 0 and 1, at every door.

    `echo`: DynamoDB's answer is lost and the SDK sends the same call again, which finds its own write. `stall`: sleep
    until all others are done, and `stalled` long on top. `queue`: a message is refused, sent twice or late. `page`: a
    page of a query ends early.
    """

    switch: float = 0.0
    dynamodb: float = 0.0
    stripe: float = 0.0
    crash: float = 0.0
    echo: float = 0.0
    stall: float = 0.0
    queue: float = 0.0
    page: float = 0.0
    stalled: timedelta = timedelta(hours=26)


def _shut() -> threading.Lock:
    """A turn to wait for: opened by whoever gives it, shut again by whoever took it. Cheaper than a semaphore."""
    turn = threading.Lock()
    turn.acquire()
    return turn


@dataclass
class Gate:
    """`crash_at`: the number of the durable door at which the only worker dies. `told` keeps the doors when asked.

    `put_away`: what a worker's process keeps where others would find it; the answer brings it back.
    """

    rng: Random
    clock: Clock
    chances: Chances = field(default_factory=Chances)
    put_away: Callable[[], Callable[[], None]] = lambda: lambda: None
    crash_at: int = 0
    durable: int = 0
    doors: int = 0
    crashes: int = 0
    faults: int = 0
    stored: int = 0  # errors that Stripe keeps under their key, and repeats for a day
    keep: bool = False
    told: list[Door] = field(default_factory=list)
    schedule: list[tuple[int, int]] = field(default_factory=list)
    _current: int = MAIN
    _echoing: bool = False
    _alive: list[int] = field(default_factory=list)
    _stalled: list[int] = field(default_factory=list)
    _go: list[threading.Lock] = field(default_factory=list)
    _back: threading.Lock = field(default_factory=_shut)

    @property
    def worker(self) -> int:
        """Who runs; MAIN for none."""
        return self._current

    # --- doors ---

    def pass_(self, when: str, name: str) -> None:
        """A call goes by. Raises Crash where the worker's process is to die."""
        if self.keep:
            self.told.append(Door(self._current, when, name))
        if self._current == MAIN:
            return
        self.doors += 1
        if when != "read":
            self.durable += 1
            if self.durable == self.crash_at or (self.chances.crash and self.rng.random() < self.chances.crash):
                self.crashes += 1
                self._note(f"crash {when} {name}")
                raise Crash(f"{when} {name}")
        self._turn()

    def refuse(self, operation: str, request: Mapping[str, Any]) -> Fault | None:
        """What DynamoDB refuses without doing anything."""
        if operation not in WRITES:
            self.pass_("read", operation)
        if self._current == MAIN or not self.chances.dynamodb or self.rng.random() >= self.chances.dynamodb:
            return None
        writes = operation in WRITES
        if not writes and operation != "BatchGetItem" and self.rng.random() < 0.5:
            return None  # reads are throttled too, less often
        self.faults += 1
        code = "TransactionConflict" if writes and self.rng.random() < 0.6 else "ThrottlingError"
        positions = (0,)
        if operation == "TransactWriteItems":
            positions = (self.rng.randrange(len(request["TransactItems"])),)
        self._note(f"{code} {operation}")
        return Fault(code, positions)  # type: ignore[arg-type] # one of the two

    def stripe_fault(self, path: str) -> StripeFault | None:
        """What Stripe does to a POST instead of (or after) its effect."""
        if self._current == MAIN or not self.chances.stripe or self.rng.random() >= self.chances.stripe:
            return None
        self.faults += 1
        after = self.rng.random() < 0.5
        kind = self.rng.choice(STRIPE_AFTER if after else STRIPE_BEFORE)
        self._note(f"stripe {kind} {'after' if after else 'before'} {path}")
        stored = self.rng.random() < 0.3
        self.stored += stored and kind == "error_500"
        return StripeFault(
            kind,  # type: ignore[arg-type] # one of theirs
            path=re.escape(path),
            after=after,
            stored=stored,
        )

    def queue_fault(self) -> str:
        """What befalls a message on its way: "refused", "twice", "late", or nothing."""
        if self._current == MAIN or not self.chances.queue or self.rng.random() >= self.chances.queue:
            return ""
        self.faults += 1
        kind = self.rng.choice(("refused", "twice", "late"))
        self._note(f"queue: {kind}")
        return kind

    def cut_page(self) -> int | None:
        """After how many items a page ends, if it ends early."""
        if self._current == MAIN or not self.chances.page or self.rng.random() >= self.chances.page:
            return None
        return self.rng.randint(1, 3)

    def quiet(self) -> None:
        """From here on nothing fails any more. Pages may end anywhere all the same."""
        self.chances, self.crash_at = Chances(page=self.chances.page), 0

    @property
    def is_quiet(self) -> bool:
        """Whether nothing fails any more: then whatever goes wrong is a finding."""
        return not self.crash_at and self.chances == Chances(page=self.chances.page)

    def _note(self, what: str) -> None:
        if self.keep:
            self.told.append(Door(self._current, "fault", what))

    # --- turns ---

    def run(self, jobs: Sequence[Callable[[], object]]) -> list[BaseException | None]:
        """Run the jobs beside each other until all are over; what each was ended by, None for the end of its work."""
        ended: list[BaseException | None] = [None] * len(jobs)
        self._go = [_shut() for _ in jobs]
        self._alive = list(range(len(jobs)))
        self._stalled = []

        def life(number: int) -> None:
            self._wait(self._go[number])
            try:
                jobs[number]()
            except (Exception, Crash) as error:  # noqa: BLE001 # whatever ends a worker is what we look at
                ended[number] = error
            self._alive.remove(number)
            self._next()

        threads = [threading.Thread(target=life, args=(number,), daemon=True) for number in self._alive]
        for thread in threads:
            thread.start()
        self._next()
        self._wait(self._back)
        for thread in threads:
            thread.join(WAIT_SECONDS)
        return ended

    def _turn(self) -> None:
        me, chances = self._current, self.chances
        if chances.stall and len(self._alive) > 1 and self.rng.random() < chances.stall:
            self._alive.remove(me)
            self._stalled.append(me)
            self._note("stalls")
            bring_back = self.put_away()
            self._next()
            self._wait(self._go[me])
            bring_back()
            return
        if len(self._alive) < 2 or self.rng.random() >= chances.switch:
            return
        other = self.rng.choice(self._alive)
        if other == me:
            return
        if not self.rng.randrange(4):
            self.clock.advance(timedelta(milliseconds=self.rng.choice((1, 100, 3000))))  # the others take their time
        bring_back = self.put_away()
        self._current = other
        self.schedule.append((self.doors, other))
        self._go[other].release()
        self._wait(self._go[me])
        bring_back()

    def _next(self) -> None:
        if not self._alive and self._stalled:
            self._alive, self._stalled = self._stalled, []
            self.clock.advance(self.chances.stalled)
        if not self._alive:
            self._current = MAIN
            self._back.release()
            return
        self._current = self.rng.choice(self._alive)
        self.schedule.append((self.doors, self._current))
        self._go[self._current].release()

    def _wait(self, turn: threading.Lock) -> None:
        if not turn.acquire(timeout=WAIT_SECONDS):
            raise RuntimeError("a worker never got its turn")

    def solo(self, job: Callable[[], object]) -> BaseException | None:
        """One worker alone, in this very thread."""
        self._current, self._alive = 0, [0]
        try:
            job()
        except (Exception, Crash) as error:  # noqa: BLE001 # whatever ends a worker is what we look at
            return error
        finally:
            self._current, self._alive = MAIN, []
        return None

    def watch(self, dynamodb: MemoryDynamoDB) -> None:
        """Put the table's calls behind this door."""
        dynamodb.on_call = lambda operation, request: self.pass_("before", _named(operation, request))
        dynamodb.after_call = lambda operation, request: self._answered(dynamodb, operation, request)
        dynamodb.inject = self.refuse
        dynamodb.cut_page = self.cut_page

    def _answered(self, dynamodb: MemoryDynamoDB, operation: str, request: dict[str, Any]) -> None:
        self.pass_("after", _named(operation, request))
        if self._current == MAIN or self._echoing or not self.chances.echo or self.rng.random() >= self.chances.echo:
            return
        adds = " ADD " in f" {request.get('UpdateExpression', '')}"
        if operation == "TransactWriteItems" or not (adds or "ConditionExpression" in request):
            return  # the SDK's token makes a transaction one; what neither asks nor adds says the same again
        self.faults += 1
        self._note(f"answer lost, sent again: {_named(operation, request)}")
        self._echoing = True
        try:
            dynamodb.call(operation, request)
        finally:
            self._echoing = False


class GatedStripe(EmulatorHTTPClient):
    """The SDK's HTTP client, behind the door."""

    def __init__(self, emulator: StripeEmulator, gate: Gate) -> None:
        super().__init__(emulator)
        self._gate = gate
        self.orders: dict[str, int] = {}

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """As the SDK asks. A door before and after what changes something."""
        path = url.split("://", 1)[-1].partition("/")[2].partition("?")[0]
        if method.upper() == "GET":
            self._gate.pass_("read", f"GET /{path}")
            return super().request(method, url, headers, post_data, _usage=_usage)
        name = f"{method.upper()} /{path}"
        self._gate.pass_("before", name)
        fault = self._gate.stripe_fault(f"/{path}")
        if fault is not None:
            fault.method = method.upper()
            self._emulator.faults.append(fault)
        try:
            answer = super().request(method, url, headers, post_data, _usage=_usage)
        except stripe.APIConnectionError:
            self._gate.pass_("after", name)
            raise
        finally:
            if fault is not None:
                self._emulator.faults.remove(fault)
        self._gate.pass_("after", name)
        return answer


def _named(operation: str, request: Mapping[str, Any]) -> str:
    """The operation and the first sort key it writes: enough to follow a story."""
    if operation == "TransactWriteItems":
        parts = [next(iter(each.items())) for each in request["TransactItems"]]
        return f"{operation} {', '.join(f'{kind} {_key(body)}' for kind, body in parts[:4])}"
    if operation == "BatchWriteItem":
        return operation
    return f"{operation} {_key(request)}"


def _key(body: Mapping[str, Any]) -> str:
    holder = body.get("Item") or body.get("Key") or {}
    return "/".join(str(holder[name].get("S")) for name in ("pk", "sk") if name in holder)
