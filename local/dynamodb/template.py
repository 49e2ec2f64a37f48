"""Make the tables that a SAM template declares, on any DynamoDB: in memory, moto or an endpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from local.template import parameter_defaults, resources

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_CARRIED = (
    "AttributeDefinitions",
    "KeySchema",
    "LocalSecondaryIndexes",
    "GlobalSecondaryIndexes",
    "BillingMode",
    "ProvisionedThroughput",
)


def create_tables(
    client: "DynamoDBClient", template: Mapping[str, Any], *, parameters: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Create every `AWS::DynamoDB::Table` of a template; gives {logical id: table name}.

    A table without a name, or whose name is a parameter left empty, is named by its logical id. Billing is on demand
    unless the template says otherwise by a plain value. Raises ResourceInUseException for a table that exists.
    """
    given = {**parameter_defaults(template), **(parameters or {})}
    made: dict[str, str] = {}
    for logical_id, definition in resources(template, "AWS::DynamoDB::Table"):
        properties = definition["Properties"]
        name = _name(properties.get("TableName"), given) or logical_id
        request = {key: _plain(properties[key]) for key in _CARRIED if key in properties}
        if not isinstance(request.get("BillingMode"), str) and "ProvisionedThroughput" not in request:
            request["BillingMode"] = "PAY_PER_REQUEST"
        for index in request.get("GlobalSecondaryIndexes", ()):
            for metered in ("OnDemandThroughput", "ContributorInsightsSpecification", "WarmThroughput"):
                index.pop(metered, None)
        view = properties.get("StreamSpecification", {}).get("StreamViewType")
        if view:
            request["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": view}
        client.create_table(TableName=name, **request)
        client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        expiry = properties.get("TimeToLiveSpecification", {})
        if str(expiry.get("Enabled", False)).lower() == "true":
            client.update_time_to_live(
                TableName=name,
                TimeToLiveSpecification={"Enabled": True, "AttributeName": expiry["AttributeName"]},
            )
        made[logical_id] = name
    return made


def _name(declared: Any, parameters: Mapping[str, str]) -> str:
    """A literal name or a parameter's value; empty for `!If` and anything else that only a deployment knows."""
    if isinstance(declared, str):
        return declared
    if isinstance(declared, Mapping) and "Ref" in declared:
        return parameters.get(declared["Ref"], "")
    return ""


def _plain(value: Any) -> Any:
    """A copy, so that what the client does with it does not reach the template."""
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(element) for element in value] if isinstance(value, list) else value
