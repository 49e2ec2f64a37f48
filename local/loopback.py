"""An HTTP/1.1 server for loopback: threads, keep-alive, no delay. Small and quick, for the stand-ins only."""

import errno
import socket
import socketserver
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Thread
from typing import Self

MAX_LINE = 65_536
MAX_HEADERS = 200
MAX_BODY = 64 * 1024 * 1024
IDLE_SECONDS = 60

type Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `target` is the path with its query as sent; header names are lower case."""

    method: str
    target: str
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    source_ip: str = "127.0.0.1"

    def header(self, name: str) -> str | None:
        """The first value under a lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Response:
    """One response, header names in lower case."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value under a lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


type Application = Callable[[Request], Response]


class PortInUseError(OSError):
    """Somebody else listens there; the message names the port and what wanted it."""


class _BadRequestError(Exception):
    """What was sent is not HTTP/1.1 as this server reads it."""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"


class _Connection(socketserver.StreamRequestHandler):
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    server: "_Server"

    def handle(self) -> None:
        try:
            while self._one():
                pass
        except (ConnectionError, TimeoutError):
            return
        except _BadRequestError as bad:
            self._send(Response(400, [("content-type", "text/plain")], str(bad).encode()), close=True, head=False)

    def _one(self) -> bool:
        line = self.rfile.readline(MAX_LINE)
        if not line.strip():
            return False
        try:
            method, target, version = line.decode("latin-1").split()
        except ValueError:
            raise _BadRequestError("bad request line") from None
        headers = self._headers()
        by_name = dict(headers)
        if by_name.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body(by_name)
        close = by_name.get("connection", "").lower() == "close" or version == "HTTP/1.0"
        request = Request(method.upper(), target, headers, body, str(self.client_address[0]))
        response = self.server.application(request)
        self._send(response, close=close, head=method.upper() == "HEAD")
        return not close

    def _headers(self) -> Headers:
        headers: Headers = []
        while True:
            line = self.rfile.readline(MAX_LINE)
            if line in (b"\r\n", b"\n", b""):
                return headers
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or len(headers) == MAX_HEADERS:
                raise _BadRequestError("bad headers")
            headers.append((name.strip().lower(), value.strip()))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            raise _BadRequestError("bad content-length")
        return self.rfile.read(int(length)) if length != "0" else b""

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int(self.rfile.readline(MAX_LINE).split(b";")[0], 16)
            except ValueError:
                raise _BadRequestError("bad chunk") from None
            if len(body) + size > MAX_BODY:
                raise _BadRequestError("body too large")
            body += self.rfile.read(size)
            self.rfile.readline(MAX_LINE)
            if size == 0:
                return bytes(body)

    def _send(self, response: Response, *, close: bool, head: bool) -> None:
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if response.status >= 200 and response.status != 204:
            lines.append(f"content-length: {len(response.body)}")
        if close:
            lines.append("connection: close")
        text = "\r\n".join(lines).encode("latin-1", "replace")
        self.wfile.write(text + b"\r\n\r\n" + (b"" if head or response.status == 204 else response.body))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    application: Application


class Loopback:
    """A bound port, serving once started. Port 0 picks a free one."""

    def __init__(self, what: str, port: int = 0) -> None:
        try:
            self._server = _Server(("127.0.0.1", port), _Connection)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    errno.EADDRINUSE, f"port {port} is in use: the {what} cannot listen there; choose another port"
                ) from None
            raise
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread: Thread | None = None
        self._what = what

    def start(self, application: Application) -> Self:
        """Answer requests in threads until closed."""
        self._server.application = application
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name=self._what, daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()


def port_is_free(port: int) -> bool:
    """Whether nobody listens on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
