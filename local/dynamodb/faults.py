"""Faults that a simulator asks the in-memory DynamoDB for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

type Hook = Callable[[str, dict[str, Any]], None]
"""Called with the operation's name as on the wire, "PutItem", and the request."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A refusal that changes nothing.

    A transaction is cancelled with `code` at `positions` and `None` elsewhere. A batch leaves `positions` unprocessed,
    counted over all its requests in order. Any other call raises TransactionConflictException or
    ProvisionedThroughputExceededException.
    """

    code: Literal["TransactionConflict", "ThrottlingError"]
    positions: tuple[int, ...] = (0,)


type Injector = Callable[[str, Mapping[str, Any]], Fault | None]
