"""Parameters, events and objects on this machine: as much of SSM, EventBridge and S3 as the functions use."""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from itertools import count
from threading import Lock
from typing import Any

from botocore.exceptions import ClientError

from local.api_gateway import Now
from local.client_errors import client_error, exceptions
from local.stack import ACCOUNT, REGION

KEPT_EVENTS = 100_000
MAX_PARAMETERS = 10
MAX_ENTRIES = 10

type Answer = dict[str, Any]

_METADATA = {"HTTPStatusCode": 200, "RetryAttempts": 0, "HTTPHeaders": {}}


class MemorySSM:
    """boto3's `client("ssm")` over a dictionary. All are SecureStrings: read with decryption, or not at all."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)
        self.exceptions = exceptions("ssm")

    def get_parameter(self, *, Name: str, WithDecryption: bool = False) -> Answer:  # noqa: N803 # boto3's names
        if Name not in self.values:
            raise client_error("ssm", "GetParameter", "ParameterNotFound", f"Parameter {Name} not found.")
        return {"Parameter": self._parameter(Name, decrypted=WithDecryption), "ResponseMetadata": _METADATA}

    def get_parameters(self, *, Names: Sequence[str], WithDecryption: bool = False) -> Answer:  # noqa: N803
        if len(Names) > MAX_PARAMETERS:
            raise client_error("ssm", "GetParameters", "ValidationException", "At most 10 names.")
        found = [self._parameter(name, decrypted=WithDecryption) for name in Names if name in self.values]
        missing = [name for name in Names if name not in self.values]
        return {"Parameters": found, "InvalidParameters": missing, "ResponseMetadata": _METADATA}

    def _parameter(self, name: str, *, decrypted: bool) -> Answer:
        return {
            "Name": name,
            "Type": "SecureString",
            "Value": self.values[name] if decrypted else "encrypted",
            "Version": 1,
            "ARN": f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{name.removeprefix('/')}",
            "DataType": "text",
        }


@dataclass(frozen=True, slots=True)
class BusEvent:
    """One event on a bus; `detail` is the JSON document as sent."""

    id: str
    bus: str
    source: str
    detail_type: str
    detail: Any
    at: datetime


class MemoryEvents:
    """boto3's `client("events")`: records what was put; nothing subscribes."""

    def __init__(self, clock: Now) -> None:
        self.clock = clock
        self.recorded: deque[BusEvent] = deque(maxlen=KEPT_EVENTS)
        self.total = 0
        self.listener: Callable[[BusEvent], None] | None = None
        self.exceptions = exceptions("events")
        self._numbers = count(1)

    def put_events(self, *, Entries: Sequence[Mapping[str, Any]]) -> Answer:  # noqa: N803
        if not 1 <= len(Entries) <= MAX_ENTRIES:
            raise client_error("events", "PutEvents", "ValidationException", "1 to 10 entries.")
        answers = [self._put(entry) for entry in Entries]
        failed = sum("ErrorCode" in answer for answer in answers)
        return {"FailedEntryCount": failed, "Entries": answers, "ResponseMetadata": _METADATA}

    def _put(self, entry: Mapping[str, Any]) -> Answer:
        missing = [name for name in ("Source", "DetailType", "Detail") if not entry.get(name)]
        if missing:
            return {"ErrorCode": "InvalidArgument", "ErrorMessage": f"{missing[0]} is required."}
        try:
            detail = json.loads(entry["Detail"])
        except ValueError:
            return {"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}
        name = f"{next(self._numbers):08d}-0000-4000-8000-000000000000"
        bus = str(entry.get("EventBusName", "default")).rpartition("/")[2]
        event = BusEvent(name, bus, entry["Source"], entry["DetailType"], detail, self.clock.now())
        self.recorded.append(event)
        self.total += 1
        if self.listener is not None:
            self.listener(event)
        return {"EventId": name}

    def since(self, position: int) -> list[BusEvent]:
        """Those after so many, oldest first, as far as they are kept."""
        kept = list(self.recorded)
        return kept[max(0, position - (self.total - len(kept))) :]


class MemoryS3:
    """boto3's `client("s3")` over a dictionary: whole objects, and links that the local server answers."""

    def __init__(self, clock: Now, base_url: str) -> None:
        self.clock = clock
        self.base_url = base_url
        self.objects: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.exceptions = exceptions("s3")
        self._lock = Lock()

    def put_object(self, *, Bucket: str, Key: str, Body: bytes | str, **extra: Any) -> Answer:  # noqa: N803
        data = Body.encode() if isinstance(Body, str) else bytes(Body)
        with self._lock:
            self.objects[Bucket, Key] = (data, str(extra.get("ContentType", "binary/octet-stream")))
        return {"ETag": f'"{len(data):032x}"', "ResponseMetadata": _METADATA}

    def get_object(self, *, Bucket: str, Key: str, VersionId: str = "") -> Answer:  # noqa: N803, ARG002 # one is kept
        data, kind = self._object(Bucket, Key, "GetObject")
        return {"Body": BytesIO(data), "ContentLength": len(data), "ContentType": kind, "ResponseMetadata": _METADATA}

    def head_object(self, *, Bucket: str, Key: str) -> Answer:  # noqa: N803
        data, kind = self._object(Bucket, Key, "HeadObject")
        return {"ContentLength": len(data), "ContentType": kind, "ResponseMetadata": _METADATA}

    def delete_object(self, *, Bucket: str, Key: str) -> Answer:  # noqa: N803
        with self._lock:
            self.objects.pop((Bucket, Key), None)
        return {"ResponseMetadata": _METADATA}

    def generate_presigned_url(
        self,
        ClientMethod: str,  # noqa: N803, ARG002
        Params: Mapping[str, Any],  # noqa: N803
        ExpiresIn: int = 3600,  # noqa: N803
    ) -> str:
        until = int(self.clock.now().timestamp()) + ExpiresIn
        return f"{self.base_url}/_local/objects/{Params['Bucket']}/{Params['Key']}?until={until}"

    def _object(self, bucket: str, key: str, operation: str) -> tuple[bytes, str]:
        with self._lock:
            if (bucket, key) not in self.objects:
                raise _no_such_key(operation)
            return self.objects[bucket, key]


def _no_such_key(operation: str) -> ClientError:
    return client_error("s3", operation, "NoSuchKey", "The specified key does not exist.", 404)
