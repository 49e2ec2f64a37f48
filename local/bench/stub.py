"""DynamoDB's endpoint answered inside botocore: everything of the client is paid for but the network."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config

type Answer = Callable[[str, dict[str, Any]], Mapping[str, Any]]
"""(operation, request as JSON) to the answer as JSON."""


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_args: Any, **_kwargs: Any) -> Iterator[bytes]:
        """urllib3's own way of giving a body."""
        yield self._content


def client(answer: Answer) -> Any:
    """boto3's low-level client, signing and serializing as ever; `answer` stands for DynamoDB."""
    made = boto3.client(
        "dynamodb",
        region_name="us-east-1",
        aws_access_key_id="example",
        aws_secret_access_key="example",  # noqa: S106 # signs requests that go nowhere
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}, parameter_validation=False),  # as wiring
    )

    def before_send(request: Any, **_kwargs: Any) -> AWSResponse:
        operation = request.headers["X-Amz-Target"]
        name = (operation.decode() if isinstance(operation, bytes) else operation).partition(".")[2]
        content = _EMPTY if name in _WRITES else json.dumps(answer(name, json.loads(request.body))).encode()
        return AWSResponse(request.url, 200, _headers(), _Body(content))

    made.meta.events.register("before-send.dynamodb", before_send)  # type: ignore[arg-type] # its answer is the reply
    return made


def _headers() -> Any:
    made = HTTPHeaders()
    made["Content-Type"] = "application/x-amz-json-1.0"
    return made


_WRITES = frozenset({"TransactWriteItems", "PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"})
_EMPTY = b"{}"
