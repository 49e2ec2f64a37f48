"""A small HTTP client for JSON and forms: what a portal's page, a browser and the demo need."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit


class Refused(Exception):
    """An answer that is not the expected one; the text names the request and quotes the answer."""

    def __init__(self, request: str, status: int, body: bytes) -> None:
        super().__init__(f"{request} answered {status}: {body.decode(errors='replace')[:500]}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (lower case) and body of a response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None when it is empty."""
        return json.loads(self.body) if self.body else None


@dataclass(slots=True)
class HttpClient:
    """Keeps its connections open, one for each server."""

    timeout: float = 300
    _open: dict[tuple[str, str], http.client.HTTPConnection] = field(default_factory=dict)

    def send(self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request; redirects are not followed. A connection that was closed meanwhile is opened again once."""
        parts = urlsplit(url)
        place = (parts.scheme, parts.netloc)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connection = self._open.get(place)
        if connection is not None:
            try:
                return _ask(connection, method, target, body, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                connection.close()
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._open[place] = kind(parts.netloc, timeout=self.timeout)
        return _ask(self._open[place], method, target, body, headers)

    def form(self, url: str, fields: Mapping[str, str]) -> Answer:
        """Post a form, as a browser does."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.send("POST", url, urlencode(fields).encode(), headers)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


def _ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes, headers: Mapping[str, str] | None
) -> Answer:
    connection.request(method, target, body, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@dataclass(frozen=True, slots=True)
class Api:
    """The API as one caller sees it."""

    http: HttpClient
    url: str
    token: str = ""

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of a successful answer; Refused for any other. Header names take `_` for `-`."""
        return self.answer(method, path, body, **headers).json()

    def answer(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """The same with its headers."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        data = b""
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        answered = self.http.send(method, self.url + path, data, sent)
        if answered.status >= http.client.BAD_REQUEST:
            raise Refused(f"{method} {path}", answered.status, answered.body)
        return answered

    def all(self, path: str) -> list[Any]:
        """Every item of a paginated list."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            joint = "&" if "?" in path else "?"
            page = self.call("GET", f"{path}{joint}limit=100{f'&cursor={cursor}' if cursor else ''}")
            items.extend(page["items"])
            cursor = page["cursor"]
            if cursor is None:
                return items
