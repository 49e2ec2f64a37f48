"""CreateTable and DescribeTable: from a definition to a table, and back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from local.dynamodb.errors import InvalidRequestError
from local.dynamodb.store import Index, Schema, Table

REGION = "local"
ACCOUNT = "000000000000"
MAXIMUM_GLOBAL_INDEXES = 20
_INVALID = "One or more parameter values were invalid: "


def _schema(key_schema: list[Mapping[str, str]], types: Mapping[str, str]) -> Schema:
    roles = [element["KeyType"] for element in key_schema]
    if roles not in (["HASH"], ["HASH", "RANGE"]):
        raise InvalidRequestError("Invalid KeySchema: The first KeySchemaElement is not a HASH key type")
    names = [element["AttributeName"] for element in key_schema]
    for name in names:
        if name not in types:
            raise InvalidRequestError(
                f"{_INVALID}Some index key attributes are not defined in AttributeDefinitions. "
                f"Keys: [{', '.join(names)}], AttributeDefinitions: [{', '.join(types)}]"
            )
    ranged = names[1] if len(names) > 1 else ""
    return Schema(names[0], types[names[0]], ranged, types.get(ranged, ""))


def table_of(request: Mapping[str, Any], created: datetime) -> Table:
    """An empty table by a CreateTable request. Raises InvalidRequestError."""
    types = {element["AttributeName"]: element["AttributeType"] for element in request["AttributeDefinitions"]}
    for kind in types.values():
        if kind not in {"S", "N", "B"}:
            raise InvalidRequestError(f"Member must satisfy enum value set: [B, N, S]; attribute type: {kind}")
    if request.get("BillingMode", "PROVISIONED") == "PROVISIONED" and "ProvisionedThroughput" not in request:
        raise InvalidRequestError(
            f"{_INVALID}ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED"
        )
    table = Table(request["TableName"], _schema(request["KeySchema"], types), created, dict(request))
    used = set(table.schema.attributes())
    if len(request.get("GlobalSecondaryIndexes") or ()) > MAXIMUM_GLOBAL_INDEXES:
        raise InvalidRequestError(f"{_INVALID}GlobalSecondaryIndex count exceeds the per-table limit of 20")
    for key, local in (("GlobalSecondaryIndexes", False), ("LocalSecondaryIndexes", True)):
        for definition in request.get(key) or ():
            index = _index(definition, types, table.schema, local=local)
            if index.name in table.indexes:
                raise InvalidRequestError(f"{_INVALID}Duplicate index name: {index.name}")
            table.indexes[index.name] = index
            used |= set(index.schema.attributes())
    if used != types.keys():
        raise InvalidRequestError(
            f"{_INVALID}Some AttributeDefinitions are not used. AttributeDefinitions: "
            f"[{', '.join(types)}], keys used: [{', '.join(sorted(used))}]"
        )
    stream = request.get("StreamSpecification") or {}
    table.view = stream.get("StreamViewType") if stream.get("StreamEnabled", bool(stream)) else None
    return table


def _index(definition: Mapping[str, Any], types: Mapping[str, str], table: Schema, *, local: bool) -> Index:
    projection = definition["Projection"]
    kind = projection.get("ProjectionType", "ALL")
    included = frozenset(projection.get("NonKeyAttributes") or ())
    if (kind == "INCLUDE") is not bool(included):
        raise InvalidRequestError(
            f"{_INVALID}ProjectionType is {kind}, but NonKeyAttributes is {'not ' if not included else ''}specified"
        )
    schema = _schema(definition["KeySchema"], types)
    if local and schema.hash != table.hash:
        raise InvalidRequestError(
            f"{_INVALID}Table KeySchema does not have the same leading hash key as index: {definition['IndexName']}"
        )
    return Index(definition["IndexName"], schema, table, kind, included, local=local)


def described(table: Table) -> dict[str, Any]:
    """A TableDescription."""
    definition = table.definition
    arn = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table.name}"
    answer: dict[str, Any] = {
        "TableName": table.name,
        "TableStatus": "ACTIVE",
        "TableArn": arn,
        "TableId": str(uuid5(NAMESPACE_URL, arn)),
        "AttributeDefinitions": [dict(element) for element in definition["AttributeDefinitions"]],
        "KeySchema": [dict(element) for element in definition["KeySchema"]],
        "CreationDateTime": table.created,
        "ItemCount": table.items,
        "TableSizeBytes": table.bytes,
        "DeletionProtectionEnabled": bool(definition.get("DeletionProtectionEnabled")),
        "ProvisionedThroughput": {
            "NumberOfDecreasesToday": 0,
            "ReadCapacityUnits": 0,
            "WriteCapacityUnits": 0,
            **definition.get("ProvisionedThroughput", {}),
        },
    }
    if definition.get("BillingMode") == "PAY_PER_REQUEST":
        answer["BillingModeSummary"] = {"BillingMode": "PAY_PER_REQUEST"}
    for key in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes"):
        if definition.get(key):
            answer[key] = [_index_described(table, arn, index) for index in definition[key]]
    if table.view:
        answer["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": table.view}
        answer["LatestStreamArn"] = f"{arn}/stream/{table.created.isoformat()}"
    return answer


def _index_described(table: Table, arn: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    index = table.indexes[definition["IndexName"]]
    entries = [row for partition in index.space.partitions.values() for row in partition.rows.values()]
    answer = {
        **definition,
        "IndexArn": f"{arn}/index/{index.name}",
        "ItemCount": len(entries),
        "IndexSizeBytes": sum(row.size for row in entries),
    }
    return answer if index.local else {**answer, "IndexStatus": "ACTIVE"}
