"""Errors of the small AWS stand-ins, as boto3's clients raise them."""

from functools import cache
from typing import Any

from botocore.errorfactory import ClientExceptionsFactory
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel


@cache
def service_model(service: str) -> ServiceModel:
    """botocore's own description of a service."""
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


@cache
def exceptions(service: str) -> Any:
    """What a client shows as `client.exceptions`."""
    return ClientExceptionsFactory().create_client_exceptions(service_model(service))


def shape_name(code: str) -> str:
    """The error's name in the service's model. SQS still sends the codes of its older protocol beside it."""
    name = code.removeprefix("AWS.SimpleQueueService.")
    return "QueueDoesNotExist" if name == "NonExistentQueue" else name


def client_error(service: str, operation: str, code: str, message: str, status: int = 400) -> ClientError:
    """The exception for an error code, with `.response` as botocore parses it from the wire."""
    response: Any = {
        "Error": {"Message": message, "Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": 0, "HTTPHeaders": {}},
    }
    name = shape_name(code)
    if name != code:
        response["Error"]["QueryErrorCode"] = name
    kind: type[ClientError] = exceptions(service).from_code(name)
    return kind(response, operation)
