"""The service's errors, as a real client raises them: subclasses of `botocore.exceptions.ClientError`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from botocore.errorfactory import ClientExceptionsFactory
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel

CONDITIONAL_CHECK_FAILED = "ConditionalCheckFailedException"
TRANSACTION_CANCELED = "TransactionCanceledException"
TRANSACTION_CONFLICT = "TransactionConflictException"
THROUGHPUT_EXCEEDED = "ProvisionedThroughputExceededException"
RESOURCE_NOT_FOUND = "ResourceNotFoundException"
RESOURCE_IN_USE = "ResourceInUseException"
IDEMPOTENT_PARAMETER_MISMATCH = "IdempotentParameterMismatchException"
VALIDATION = "ValidationException"

ANSWERED_BAD_REQUEST = 400


@cache
def service_model() -> ServiceModel:
    """botocore's own description of DynamoDB."""
    return ServiceModel(Loader().load_service_model("dynamodb", "service-2"), "dynamodb")


@cache
def exceptions() -> Any:
    """What a client shows as `client.exceptions`."""
    return ClientExceptionsFactory().create_client_exceptions(service_model())


class InvalidRequestError(Exception):
    """The request as a whole is refused, whatever the tables hold: a `ValidationException`."""


class InvalidOperationError(Exception):
    """One operation does not fit its table or item: alone a `ValidationException`, in a transaction a cancellation
    reason `ValidationError` at its position.
    """


def client_error(operation: str, code: str, message: str, details: Mapping[str, Any] | None = None) -> ClientError:
    """The exception for an error code, with `.response` as botocore parses it from the wire."""
    response: dict[str, Any] = {
        "Error": {"Message": message, "Code": code},
        "ResponseMetadata": {"HTTPStatusCode": ANSWERED_BAD_REQUEST, "RetryAttempts": 0, "HTTPHeaders": {}},
        "message": message,
        **(details or {}),
    }
    kind: type[ClientError] = exceptions().from_code(code)
    return kind(response, operation)  # type: ignore[arg-type] # the stub types every optional part of a response
