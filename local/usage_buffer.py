"""Report usage without losing any: events go to disk first, leave in batches, and a batch is resent until answered.

An example for publishers' own gateways: standard library only, nothing of this project imported. How it keeps its word:

- `record` returns after the event is in an append-only file; a crash loses nothing that was recorded.
- A batch is one file. Its name is the `Idempotency-Key`, chosen when the file is opened, and its body is made of the
  file's bytes: sent again after a time-out or a restart it is the same request, and is counted once.
- A file is removed only after an answer that says its events are durable (2xx). Answers that no repetition changes
  (400, 413, 415, 422) move it aside as `.refused`; everything else is tried again, unchanged, with growing pauses.
"""

import http.client
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, RLock
from time import monotonic
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from uuid import uuid4

CONTENT_TYPE = "application/cloudevents-batch+json"
FINAL_REFUSALS = frozenset({400, 413, 415, 422})
LONGEST_PAUSE = 60.0

type Send = Callable[[bytes, str], tuple[int, bytes]]
"""(body, Idempotency-Key) to (status, body); raises OSError when there was no answer."""


class UsageBuffer:
    """Events of one gateway on their way to `POST /usage/events`. Thread-safe.

    `folder` holds one file per batch. A batch is closed at `most` events or `oldest` seconds. With `sync` every event
    is forced to the disk itself, for machines that may lose power; without, it survives the process.
    """

    def __init__(
        self,
        folder: Path,
        send: Send,
        *,
        source: str,
        most: int = 500,
        oldest: float = 2.0,
        sync: bool = False,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.sent = 0
        self._send = send
        self._source = source
        self._most = most
        self._oldest = oldest
        self._sync = sync
        self._seconds = seconds
        self._lock = RLock()
        self._sending = Lock()
        self._open: BinaryIO | None = None
        self._count = 0
        self._opened_at = 0.0
        self._pause = 0.0
        self._not_before = 0.0
        self._number = 0
        # What an earlier run left half full becomes a batch of its own, under the key it was born with.
        for left in sorted(folder.glob("*.open")):
            left.rename(left.with_suffix(".batch"))

    def record(
        self,
        *,
        subscription: str,
        kind: str,
        at: datetime,
        data: Mapping[str, Any],
        environment: str = "production",
        event_id: str | None = None,
    ) -> str:
        """Keep one event; gives its id. `at` is aware; `kind` is what meters match as the event's type."""
        name = event_id or str(uuid4())
        self._append(
            {
                "specversion": "1.0",
                "id": name,
                "source": self._source,
                "type": kind,
                "subject": subscription,
                "time": at.isoformat().replace("+00:00", "Z"),
                "environment": environment,
                "datacontenttype": "application/json",
                "data": dict(data),
            }
        )
        return name

    def _append(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._open is None:
                self._number += 1
                # Sorted by name, files are sent in the order they were opened.
                name = f"{self._number:08d}-{uuid4()}.open"
                self._open = (self.folder / name).open("ab")
                self._count, self._opened_at = 0, self._seconds()
            self._open.write(line)
            self._open.flush()
            if self._sync:
                os.fsync(self._open.fileno())
            self._count += 1
            if self._count >= self._most:
                self._close()

    def _close(self) -> None:
        if self._open is not None:
            path = Path(self._open.name)
            self._open.close()
            path.rename(path.with_suffix(".batch"))
            self._open = None

    def close(self) -> None:
        """Close the open batch without sending it: the next buffer on this folder will."""
        with self._lock:
            self._close()

    def waiting(self) -> int:
        """How many batches are on disk, the open one included."""
        with self._lock:
            return len(list(self.folder.glob("*.batch"))) + (self._open is not None)

    def flush(self, *, now: bool = True) -> int:
        """Send what is due; gives how many batches were answered for good.

        With `now` the open batch is closed whatever its age, and pauses between attempts are ignored. Stops at the
        first batch that must be tried again.
        """
        with self._sending:
            with self._lock:
                if now or (self._open is not None and self._seconds() - self._opened_at >= self._oldest):
                    self._close()
                batches = sorted(self.folder.glob("*.batch"))
            if not now and self._seconds() < self._not_before:
                return 0
            done = 0
            for path in batches:
                if not self._deliver(path):
                    self._pause = min(LONGEST_PAUSE, max(0.5, self._pause * 2))
                    self._not_before = self._seconds() + self._pause
                    break
                self._pause = 0.0
                done += 1
            return done

    def _deliver(self, path: Path) -> bool:
        lines = list(_whole_lines(path))
        if not lines:
            path.unlink()
            return True
        try:
            status, _ = self._send(b"[" + b",".join(lines) + b"]", path.stem)
        except OSError:
            return False
        if 200 <= status < 300:
            self.sent += len(lines)
            path.unlink()
            return True
        if status in FINAL_REFUSALS:
            path.rename(path.with_suffix(".refused"))
            return True
        return False

    def run(self, stop: Event, every: float = 0.2) -> None:
        """Keep sending until told to stop, then send what is left once. For a thread of its own."""
        while not stop.wait(every):
            self.flush(now=False)
        self.flush()


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The events of a file. A last line without its end was cut off by a crash: its `record` never returned."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def http_sender(url: str, gateway_key: str, *, timeout: float = 10.0) -> Send:
    """Send to `url` (its `/usage/events`) with a gateway key, one connection for each batch."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def send(body: bytes, key: str) -> tuple[int, bytes]:
        connection = kind(parts.netloc, timeout=timeout)
        try:
            headers = {"Authorization": f"Bearer {gateway_key}", "Content-Type": CONTENT_TYPE, "Idempotency-Key": key}
            connection.request("POST", f"{parts.path.rstrip('/')}/usage/events", body, headers)
            answered = connection.getresponse()
            return answered.status, answered.read()
        except http.client.HTTPException as broken:
            raise OSError(f"no answer: {broken}") from broken
        finally:
            connection.close()

    return send
