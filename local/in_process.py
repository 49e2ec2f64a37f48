"""The system's servers without sockets, for a story told inside one process."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from local.http_client import Answer, HttpClient
from local.loopback import Request
from local.story import World
from local.system import System


class InProcessHttp(HttpClient):
    """Answers what is sent to the API's or Stripe's address; everything else has no server."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._system = system

    def send(self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request, through the same gateway and emulator as over HTTP."""
        parts = urlsplit(url)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        sent = [(name.lower(), value) for name, value in (headers or {}).items()]
        if url.startswith(self._system.url):
            response = self._system.handle(Request(method, target, [*sent, ("host", "localhost")], body))
            return Answer(response.status, {name.lower(): value for name, value in response.headers}, response.body)
        if url.startswith(self._system.emulator.base_url):
            found = self._system.emulator.handle(method, target, dict(sent), body)
            return Answer(found.status, {name.lower(): value for name, value in found.headers.items()}, found.body)
        raise ConnectionRefusedError(f"nobody answers at {parts.netloc}")


def world_of(system: System) -> World:
    """A story's world over a system without sockets."""
    return World(system.url, system.emulator.base_url, InProcessHttp(system))
