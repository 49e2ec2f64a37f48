"""DynamoDB on this machine: in memory, at the level of boto3's low-level client."""

from local.dynamodb.client import WRITES, MemoryDynamoDB
from local.dynamodb.faults import Fault
from local.dynamodb.store import Change

__all__ = ["WRITES", "Change", "Fault", "MemoryDynamoDB"]
