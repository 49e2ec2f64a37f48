"""Two ways in: the SDK's HTTP client without sockets, and a threaded server on loopback."""

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import stripe

from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.faults import ConnectionBroken

MAX_BODY = 2_000_000


class _Headers(dict[str, str]):
    """Case-insensitive as the SDK expects of a response's headers: looked up in lower case, as well as written."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self.update({name.lower(): value for name, value in headers.items()})


class EmulatorHTTPClient(stripe.HTTPClient):
    """`StripeClient(key, http_client=EmulatorHTTPClient(emulator))`: every request in process, no time-outs."""

    name = "emulator"

    def __init__(self, emulator: StripeEmulator) -> None:
        super().__init__()
        self._emulator = emulator

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """Raises stripe.APIConnectionError for a broken connection."""
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        body = post_data.encode() if isinstance(post_data, str) else (post_data or b"")
        try:
            response = self._emulator.handle(method.upper(), target, dict(headers or {}), body)
        except ConnectionBroken as broken:
            raise stripe.APIConnectionError(  # type: ignore[no-untyped-call]
                f"Broken on purpose: {broken}", should_retry=True
            ) from broken
        return response.body.decode(), response.status, _Headers(response.headers)

    def close(self) -> None:
        """Nothing is open."""


def client_for(emulator: StripeEmulator, *, api_key: str | None = None) -> stripe.StripeClient:
    """The real SDK on the emulator, in process, OAuth included."""
    stripe.enable_telemetry = False
    return stripe.StripeClient(
        api_key or emulator.platform_key,
        http_client=EmulatorHTTPClient(emulator),
        client_id=emulator.client_id,
        base_addresses={"api": emulator.base_url, "connect": emulator.base_url},
    )


class Server:
    """A running emulator: API, OAuth and pages on one origin."""

    def __init__(self, emulator: StripeEmulator, host: str, port: int) -> None:
        self._http = ThreadingHTTPServer((host, port), _handler_for(emulator))
        self._http.daemon_threads = True
        self.host, self.port = host, self._http.server_port
        self.url = f"http://{host}:{self.port}"
        emulator.base_url = self.url
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._http.shutdown()
        self._thread.join(timeout=5)
        self._http.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(emulator: StripeEmulator, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Serve on loopback in a thread; port 0 picks a free one. Raises OSError when the port is taken."""
    return Server(emulator, host, port)


def _handler_for(emulator: StripeEmulator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY:
                self.send_error(413)
                self.close_connection = True
                return
            body = self.rfile.read(length)
            try:
                response = emulator.handle(self.command, self.path, dict(self.headers.items()), body)
            except ConnectionBroken:
                self.close_connection = True
                return
            head = [f"HTTP/1.1 {response.status} -", f"Content-Length: {len(response.body)}"]
            head += [f"{name}: {value}" for name, value in response.headers.items()]
            self.wfile.write("\r\n".join(head).encode() + b"\r\n\r\n" + response.body)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 (names of the standard library)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the standard library's name)
            """Requests are in `emulator.requests`."""

    return Handler
