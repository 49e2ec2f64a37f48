"""The AWS stand-ins over HTTP, under one address: DynamoDB, SQS, SSM and EventBridge in their JSON protocols.

What calls it says so in `X-Amz-Target`, as every SDK does. Signatures are not checked.
"""

import json
from collections.abc import Mapping
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError

from local.client_errors import shape_name
from local.dynamodb import MemoryDynamoDB
from local.dynamodb import http as dynamodb_http
from local.loopback import Request, Response

PREFIXES = {"AmazonSQS": "sqs", "AmazonSSM": "ssm", "AWSEvents": "events"}
OPERATIONS = {
    "sqs": frozenset(
        {
            "ChangeMessageVisibility",
            "DeleteMessage",
            "DeleteMessageBatch",
            "GetQueueAttributes",
            "GetQueueUrl",
            "ListQueues",
            "PurgeQueue",
            "ReceiveMessage",
            "SendMessage",
            "SendMessageBatch",
        }
    ),
    "ssm": frozenset({"GetParameter", "GetParameters"}),
    "events": frozenset({"PutEvents"}),
}


class AwsEndpoint:
    """Answers requests of AWS's SDKs. `clients` are the stand-ins of `sqs`, `ssm` and `events`."""

    def __init__(self, dynamodb: MemoryDynamoDB, clients: Mapping[str, Any]) -> None:
        self._dynamodb = dynamodb
        self._clients = clients

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        prefix, _, operation = (request.header("x-amz-target") or "").rpartition(".")
        if prefix.startswith("DynamoDB"):
            status, headers, body = dynamodb_http.handle(self._dynamodb, dict(request.headers), request.body)
            kept = [(name.lower(), value) for name, value in headers.items() if name.lower() != "content-length"]
            return Response(int(status), kept, body)
        service = PREFIXES.get(prefix, "")
        if operation not in OPERATIONS.get(service, ()):
            return _answer(400, {"__type": "UnknownOperationException", "message": "no stand-in for this"})
        return self._call(service, operation, request.body)

    def _call(self, service: str, operation: str, body: bytes) -> Response:
        try:
            parameters = json.loads(body or b"{}")
            answer = getattr(self._clients[service], xform_name(operation))(**parameters)
        except ClientError as refused:
            error = refused.response["Error"]
            document = {"__type": f"com.amazonaws.{service}#{shape_name(error['Code'])}", "message": error["Message"]}
            status = int(refused.response["ResponseMetadata"]["HTTPStatusCode"])
            return _answer(status, document, ("x-amzn-query-error", f"{error['Code']};Sender"))
        except (TypeError, ValueError, KeyError) as invalid:
            return _answer(400, {"__type": "SerializationException", "message": str(invalid)})
        return _answer(200, {name: value for name, value in answer.items() if name != "ResponseMetadata"})


def _answer(status: int, document: Mapping[str, Any], *headers: tuple[str, str]) -> Response:
    return Response(status, [("content-type", "application/x-amz-json-1.0"), *headers], json.dumps(document).encode())
