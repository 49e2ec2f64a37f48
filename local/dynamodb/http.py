"""DynamoDB's own protocol, JSON 1.0 over HTTP, in front of the in-memory tables: for any real SDK client.

Point the SDK at it with `AWS_ENDPOINT_URL_DYNAMODB`. Signatures are not checked.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4
from zlib import crc32

from botocore.exceptions import ClientError, ParamValidationError

from local.dynamodb.client import MemoryDynamoDB

type Answer = tuple[int, dict[str, str], bytes]

CONTENT_TYPE = "application/x-amz-json-1.0"
LOOPBACK = "127.0.0.1"
_MODELLED = "com.amazonaws.dynamodb.v20120810#"
_UNMODELLED = "com.amazon.coral.validate#"
_UNKNOWN = "com.amazon.coral.service#UnknownOperationException"
_SERIALIZATION = "com.amazon.coral.service#SerializationException"


def _with_bytes(parsed: dict[str, Any]) -> dict[str, Any]:
    """Binary values are base64 on the wire. No other member of the protocol is named B or BS alone."""
    if len(parsed) == 1:
        if isinstance(data := parsed.get("B"), str):
            return {"B": base64.b64decode(data, validate=True)}
        if isinstance(data := parsed.get("BS"), list):
            return {"BS": [base64.b64decode(element, validate=True) for element in data]}
    return parsed


def _on_the_wire(value: object) -> str | float:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    raise TypeError(f"{type(value)} has no place in an answer")


def handle(client: MemoryDynamoDB, headers: Mapping[str, str], body: bytes) -> Answer:
    """Answer one request as (status, headers, body). Header names in any case."""
    target = next((value for name, value in headers.items() if name.lower() == "x-amz-target"), "")
    operation = target.rpartition(".")[2]
    try:
        request = json.loads(body or b"{}", object_hook=_with_bytes)
    except ValueError:
        return _answer(HTTPStatus.BAD_REQUEST, {"__type": _SERIALIZATION, "message": "not a JSON document"})
    try:
        answer = client.call(operation, request)
    except KeyError:
        return _answer(HTTPStatus.BAD_REQUEST, {"__type": _UNKNOWN, "message": f"no operation {operation}"})
    except ParamValidationError as invalid:
        return _answer(HTTPStatus.BAD_REQUEST, {"__type": _SERIALIZATION, "message": str(invalid)})
    except ClientError as refused:
        return _answer(HTTPStatus.BAD_REQUEST, _refusal(refused))
    del answer["ResponseMetadata"]
    return _answer(HTTPStatus.OK, answer)


def _refusal(refused: ClientError) -> dict[str, Any]:
    response: Mapping[str, Any] = refused.response
    error = response["Error"]
    prefix = _UNMODELLED if error["Code"] == "ValidationException" else _MODELLED
    details = {name: response[name] for name in ("Item", "CancellationReasons") if name in response}
    return {"__type": prefix + error["Code"], "message": error["Message"], **details}


def _answer(status: HTTPStatus, document: Mapping[str, Any]) -> Answer:
    body = json.dumps(document, default=_on_the_wire).encode()
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "x-amzn-RequestId": str(uuid4()),
        "x-amz-crc32": str(crc32(body)),
    }
    return status, headers, body


def _handler(client: MemoryDynamoDB) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave in one segment: two would wait for a delayed acknowledgement
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, answer = handle(client, dict(self.headers.items()), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name in the standard library
            pass

    return Handler


class Server(ThreadingHTTPServer):
    """One thread for each connection; none outlives the process."""

    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serve(client: MemoryDynamoDB, port: int = 0) -> Iterator[str]:
    """Serve on loopback while the context lasts; gives the endpoint's URL. Port 0: any free one."""
    with Server((LOOPBACK, port), _handler(client)) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
