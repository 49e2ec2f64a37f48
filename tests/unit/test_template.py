"""What `template.yaml` must hold: rights, routes, durability, dead letters, alarms, and its agreement with the code."""

import ast
import copy
import json
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from local import template as templates
from local.stack import Stack
from monetize.domain.outbox import READERS

ROOT = Path(__file__).parents[2]
TEMPLATE = templates.load(ROOT / "template.yaml")
RESOURCES: Mapping[str, dict[str, Any]] = TEMPLATE["Resources"]
FUNCTIONS = dict(templates.resources(TEMPLATE, "AWS::Serverless::Function"))
QUEUES = dict(templates.resources(TEMPLATE, "AWS::SQS::Queue"))
TABLES = dict(templates.resources(TEMPLATE, "AWS::DynamoDB::Table"))
ROLES = dict(templates.resources(TEMPLATE, "AWS::IAM::Role"))
ALARMS = dict(templates.resources(TEMPLATE, "AWS::CloudWatch::Alarm"))
SHARED_ENVIRONMENT: Mapping[str, Any] = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]

HOT_PATH = {"record_usage", "check_entitlement", "stripe_webhook"}
CALLS_STRIPE = {
    "enable_monetization",
    "stripe_oauth_callback",
    "plans",
    "subscribe",
    "apply_stripe_event",
    "bill_subscription",
    "billing_run",
    "reconcile",
    "reports",
}
PUBLIC = {
    "GET /stripe/oauth/callback",
    "GET /catalog",
    "GET /catalog/{proxy+}",
    "GET /openapi.json",
    "POST /usage/events",
    "POST /entitlements/check",
    "POST /stripe/webhook",
}


def folder(logical_id: str) -> str:
    """The function's name: its folder under `functions/`."""
    return str(FUNCTIONS[logical_id]["Properties"]["CodeUri"]).split("/")[1]


NAMES = sorted(map(folder, FUNCTIONS))
ID_OF = {folder(logical_id): logical_id for logical_id in FUNCTIONS}


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = FUNCTIONS[ID_OF[name]]["Properties"]
    return found


def environment(name: str) -> dict[str, Any]:
    return {**SHARED_ENVIRONMENT, **properties(name).get("Environment", {}).get("Variables", {})}


def events(name: str, kind: str) -> list[dict[str, Any]]:
    found = properties(name).get("Events", {}).values()
    return [event["Properties"] for event in found if event["Type"] == kind]


def routes() -> Iterator[tuple[str, str, bool]]:
    """Function, route key, whether anyone may call it."""
    for name in NAMES:
        for event in events(name, "HttpApi"):
            yield name, f"{event['Method']} {event['Path']}", event.get("Auth", {}).get("Authorizer") == "NONE"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(name: str) -> list[dict[str, Any]]:
    """The policy statements of a function's role, optional ones included."""
    role = properties(name)["Role"]["Fn::GetAtt"][0]
    found = []
    for policy in ROLES[role]["Properties"]["Policies"]:
        found += [each["Fn::If"][1] if "Fn::If" in each else each for each in policy["PolicyDocument"]["Statement"]]
    return found


def statements_as_written(name: str) -> list[dict[str, Any]]:
    """The same with the conditions of the optional ones."""
    role = ROLES[properties(name)["Role"]["Fn::GetAtt"][0]]
    return [each for policy in role["Properties"]["Policies"] for each in policy["PolicyDocument"]["Statement"]]


def actions(name: str) -> set[str]:
    return {action for statement in statements(name) for action in as_list(statement["Action"])}


def names_in(value: Any) -> Iterator[str]:
    """Logical ids and parameters that a value refers to."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "Ref":
                yield item
            elif key == "Fn::GetAtt":
                yield item[0]
            elif key == "Fn::Sub":
                text = item if isinstance(item, str) else item[0]
                yield from (found.split(".")[0] for found in re.findall(r"\$\{([^!}][^}]*)\}", text))
                yield from names_in([] if isinstance(item, str) else item[1])
            else:
                yield from names_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from names_in(item)


def circle(template: Mapping[str, Any]) -> list[str]:
    """A circle of resources as CloudFormation sees them after translation, or nothing.

    SAM writes every function with an HTTP event into the API's body, and moves events out of the function.
    """
    graph: dict[str, set[str]] = {}
    for logical_id, resource in template["Resources"].items():
        own = {name: value for name, value in resource.get("Properties", {}).items() if name != "Events"}
        edges = set(names_in(own)) | set(as_list(resource.get("DependsOn", [])))
        if resource["Type"] == "AWS::Serverless::Function":
            edges |= set(names_in(template["Globals"]["Function"]))
            for event in resource["Properties"].get("Events", {}).values():
                if event["Type"] == "HttpApi":
                    graph.setdefault(event["Properties"]["ApiId"]["Ref"], set()).add(logical_id)
        graph.setdefault(logical_id, set()).update(edges & set(template["Resources"]))
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as found:
        return list(found.args[1])
    return []


# Functions


def test_every_function_has_its_handler_and_every_folder_its_function() -> None:
    folders = {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}
    assert set(NAMES) == folders
    for name in NAMES:
        tree = ast.parse((ROOT / "functions" / name / "app.py").read_text(encoding="utf-8"))
        assert "handler" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_a_function_folder_holds_nothing_else_to_import() -> None:
    for path in (ROOT / "functions").glob("*/*.py"):
        assert path.name == "app.py", path


@pytest.mark.parametrize("name", NAMES)
def test_every_function_states_its_memory_time_out_and_purpose(name: str) -> None:
    stated = properties(name)
    assert 128 <= stated["MemorySize"] <= 1769
    assert 1 <= stated["Timeout"] <= 900
    assert stated["Description"]


@pytest.mark.parametrize("name", NAMES)
def test_every_function_logs_into_a_group_of_the_template(name: str) -> None:
    group = RESOURCES[properties(name)["LoggingConfig"]["LogGroup"]["Ref"]]
    assert group["Type"] == "AWS::Logs::LogGroup"


def test_every_log_group_forgets() -> None:
    for logical_id, group in templates.resources(TEMPLATE, "AWS::Logs::LogGroup"):
        assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}, logical_id


def test_only_functions_that_http_callers_wait_for_end_before_the_gateway_does() -> None:
    """A function with HTTP routes alone that ran past 30 seconds would work for nobody."""
    for name in NAMES:
        kinds = {event["Type"] for event in properties(name).get("Events", {}).values()}
        if kinds == {"HttpApi"}:
            assert properties(name)["Timeout"] < 30, name


def test_every_function_is_traced_unless_the_deployment_turns_it_off() -> None:
    assert TEMPLATE["Globals"]["Function"]["Tracing"] == {"Fn::If": ["TracingIsOn", "Active", "PassThrough"]}
    for name in NAMES:
        assert "Tracing" not in properties(name)


@pytest.mark.parametrize("name", sorted(HOT_PATH))
def test_the_hot_path_imports_no_tracer_resolver_stripe_or_pydantic(name: str) -> None:
    text = (ROOT / "functions" / name / "app.py").read_text(encoding="utf-8")
    for word in ("Tracer", "event_handler", "import stripe", "pydantic"):
        assert word not in text


def test_an_architecture_is_one_parameter_for_functions_and_layers() -> None:
    assert TEMPLATE["Globals"]["Function"]["Architectures"] == [{"Ref": "Architecture"}]
    for _, layer in templates.resources(TEMPLATE, "AWS::Serverless::LayerVersion"):
        assert layer["Properties"]["CompatibleArchitectures"] == [{"Ref": "Architecture"}]
        assert layer["Metadata"] == {"BuildMethod": "python3.13", "BuildArchitecture": {"Ref": "Architecture"}}
        assert layer["Properties"]["RetentionPolicy"] == "Retain"


def test_our_layer_starts_above_the_package() -> None:
    """SAM itself puts the content under python/: one folder higher would be imported as python.monetize."""
    content = RESOURCES["CommonLayer"]["Properties"]["ContentUri"]
    assert (ROOT / content / "monetize" / "__init__.py").is_file()


# Environment and configuration


def variables_config_reads() -> set[str]:
    tree = ast.parse((ROOT / "layers/common/python/monetize/config.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "env":
            found.add(node.slice)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            found.add(node.args[0])
    return {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_variable_of_the_template_is_read_by_config_and_the_reverse() -> None:
    given = {variable for name in NAMES for variable in environment(name) if not variable.startswith("POWERTOOLS_")}
    assert given - {"AWS_ENDPOINT_URL"} == variables_config_reads()


def test_a_deployment_has_no_endpoint_of_aws_but_awss_own() -> None:
    """Even an empty AWS_ENDPOINT_URL would be taken for an address: it must not be there."""
    assert TEMPLATE["Parameters"]["AwsEndpointUrl"]["Default"] == ""
    chosen = SHARED_ENVIRONMENT["AWS_ENDPOINT_URL"]
    assert chosen == {"Fn::If": ["NamesAwsEndpoint", {"Ref": "AwsEndpointUrl"}, {"Ref": "AWS::NoValue"}]}


def test_only_config_reads_the_environment() -> None:
    for path in [*(ROOT / "functions").rglob("*.py"), *(ROOT / "layers/common").rglob("*.py")]:
        if path.name != "config.py":
            assert not re.search(r"os\.environ|getenv", path.read_text(encoding="utf-8")), path


def test_no_environment_refers_to_the_api_or_the_user_pool() -> None:
    forbidden = {
        logical_id
        for logical_id, resource in RESOURCES.items()
        if resource["Type"] == "AWS::Serverless::HttpApi" or resource["Type"].startswith("AWS::Cognito::")
    }
    for name in NAMES:
        assert not forbidden & set(names_in(environment(name))), name


def test_no_circle_between_resources() -> None:
    assert circle(TEMPLATE) == []


@pytest.mark.parametrize("variable", [{"Fn::Sub": "https://${Api}.example.com"}, {"Ref": "UserPool"}])
def test_a_circle_through_an_environment_would_be_found(variable: dict[str, str]) -> None:
    planted = copy.deepcopy(TEMPLATE)
    planted["Globals"]["Function"]["Environment"]["Variables"]["PUBLIC_BASE_URL"] = variable
    assert circle(planted)


def test_no_secret_is_a_parameter_or_a_variable() -> None:
    """Secrets are SSM SecureStrings that the operator makes; the stack knows their names."""
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    assert not re.search(r"\b(sk|rk)_(live|test)_|whsec_[A-Za-z0-9]{8}|resolve:", text)
    assert not [name for name, made in TEMPLATE["Parameters"].items() if made.get("NoEcho")]


# Routes


def test_only_these_routes_are_public() -> None:
    assert {key for name, key, public in routes() if public and name != "preflight"} == PUBLIC
    assert RESOURCES["Api"]["Properties"]["Auth"]["DefaultAuthorizer"] == "Jwt"


def test_no_route_is_declared_twice() -> None:
    keys = [key for _, key, _ in routes()]
    assert len(keys) == len(set(keys))


def test_a_function_has_fewer_than_40_api_permissions() -> None:
    """SAM adds one permission per route, and a function's resource policy ends at 20 KB."""
    for name in NAMES:
        assert len(events(name, "HttpApi")) < 40, name


def test_every_public_route_has_a_throttle_of_its_own() -> None:
    settings = RESOURCES["Api"]["Properties"]["RouteSettings"]
    assert set(settings) == PUBLIC
    for setting in [*settings.values(), RESOURCES["Api"]["Properties"]["DefaultRouteSettings"]]:
        assert setting["ThrottlingRateLimit"] > 0
        assert setting["ThrottlingBurstLimit"] >= setting["ThrottlingRateLimit"]


def test_a_browsers_preflight_reaches_every_route_that_takes_any_method() -> None:
    """ANY takes OPTIONS too, and the authorizer would refuse it: a preflight carries no token."""
    guarded = {key.removeprefix("ANY ") for _, key, public in routes() if key.startswith("ANY ") and not public}
    answered = {key.removeprefix("OPTIONS ") for name, key, public in routes() if name == "preflight" and public}
    assert guarded == answered
    assert (
        not actions("preflight")
        - {"logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments"}
        - {"xray:PutTelemetryRecords"}
    )


def test_a_portal_can_read_the_headers_it_needs() -> None:
    cors = RESOURCES["Api"]["Properties"]["CorsConfiguration"]
    assert {"ETag", "Location", "WWW-Authenticate"} <= set(cors["ExposeHeaders"])
    assert {"authorization", "content-type", "idempotency-key", "if-match"} <= set(cors["AllowHeaders"])
    assert cors["AllowOrigins"] == {"Ref": "PortalUrl"}
    assert "AllowCredentials" not in cors


def test_the_access_log_carries_no_path_query_or_header() -> None:
    """A callback's query holds an OAuth code; a path may hold a person's id."""
    line = json.loads(RESOURCES["Api"]["Properties"]["AccessLogSettings"]["Format"])
    assert not [value for value in line.values() if re.search(r"path|query|header|identity|claims", value)]


# Rights


@pytest.mark.parametrize("name", NAMES)
def test_every_function_has_a_role_of_its_own_without_managed_policies(name: str) -> None:
    role = properties(name)["Role"]["Fn::GetAtt"][0]
    assert role == ID_OF[name].replace("Function", "Role")
    assert "ManagedPolicyArns" not in ROLES[role]["Properties"]
    assert "Policies" not in properties(name)


@pytest.mark.parametrize("name", NAMES)
def test_no_star_where_something_narrower_works(name: str) -> None:
    for statement in statements(name):
        for action in as_list(statement["Action"]):
            assert re.fullmatch(r"[a-z0-9]+:[A-Za-z]+", action), action
        if as_list(statement["Resource"]) == ["*"]:
            # X-Ray knows no resources.
            assert {action.split(":")[0] for action in as_list(statement["Action"])} == {"xray"}
        else:
            stated = json.dumps(statement["Resource"])
            for whole in ("/stream/*", "ExportsBucket.Arn}/*", "${AccessLogBucket}/${AccessLogPrefix}*"):
                stated = stated.replace(whole, "")
            assert "*" not in stated


@pytest.mark.parametrize("name", NAMES)
def test_no_policy_comes_near_its_limit(name: str) -> None:
    """A role's inline policies end at 10,240 characters, references resolved and spaces not counted."""
    role = properties(name)["Role"]["Fn::GetAtt"][0]
    values = {"SecretsKeyArn": f"arn:aws:kms:us-east-1:000000000000:key/{'0' * 36}", "CoreTableName": "t" * 60}
    resolved = Stack(TEMPLATE, values).resolve(ROLES[role]["Properties"]["Policies"])
    assert len(json.dumps(resolved, separators=(",", ":"))) < 8_000


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_is_taken_by_lambda_alone(role: str) -> None:
    (trust,) = ROLES[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}


def test_a_service_of_aws_is_let_in_only_for_something_named() -> None:
    """Else it is let in for whoever has that service work for them."""
    for logical_id, permission in templates.resources(TEMPLATE, "AWS::Lambda::Permission"):
        assert permission["Properties"]["Principal"].endswith(".amazonaws.com"), logical_id
        assert {"SourceArn", "SourceAccount"} & set(permission["Properties"]), logical_id
    policies = {
        logical_id: each
        for logical_id, each in RESOURCES.items()
        if each["Type"] in ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy")
    }
    assert len(policies) == 3
    for logical_id, policy in policies.items():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Deny" or "aws:Source" in json.dumps(statement["Condition"]), logical_id


def test_nobody_scans_a_table_or_deletes_one() -> None:
    for name in NAMES:
        assert not {"dynamodb:Scan", "dynamodb:DeleteTable", "dynamodb:UpdateTable"} & actions(name)


def test_only_those_who_take_usage_write_without_a_condition() -> None:
    """A batch write knows no conditions; the to-do list of days to compact needs none."""
    assert {name for name in NAMES if "dynamodb:BatchWriteItem" in actions(name)} == {
        "record_usage",
        "import_access_logs",
    }


def readers(parameter: str) -> set[str]:
    return {
        name
        for name in NAMES
        for statement in statements(name)
        if statement["Action"] == "ssm:GetParameter" and parameter in json.dumps(statement["Resource"])
    }


def test_the_stripe_key_is_readable_only_by_functions_that_call_stripe() -> None:
    assert readers("StripeKeyParameter") == CALLS_STRIPE
    assert {name for name in NAMES if "STRIPE_KEY_PARAMETER" in environment(name)} == CALLS_STRIPE


def test_the_webhook_secrets_are_readable_only_by_the_webhook() -> None:
    assert readers("WebhookSecretsParameter") == {"stripe_webhook"}
    assert {name for name in NAMES if "WEBHOOK_SECRETS_PARAMETER" in environment(name)} == {"stripe_webhook"}


def test_usage_and_entitlements_read_no_secret() -> None:
    for name in ("record_usage", "check_entitlement"):
        assert not {action for action in actions(name) if action.startswith(("ssm:", "kms:", "secretsmanager:"))}


def test_a_key_is_used_only_through_the_parameter_store() -> None:
    for name in NAMES:
        for statement in statements(name):
            if "kms:Decrypt" in as_list(statement["Action"]):
                assert "kms:ViaService" in statement["Condition"]["StringEquals"]
                assert statement["Resource"] == {"Ref": "SecretsKeyArn"}


@pytest.mark.parametrize(
    ("variable", "queue"),
    [("STRIPE_EVENTS_QUEUE_URL", "StripeEventsQueue"), ("BILLING_QUEUE_URL", "BillingQueue")],
)
def test_who_is_given_a_queue_may_send_to_it_and_nobody_else(variable: str, queue: str) -> None:
    given = {name: environment(name)[variable] for name in NAMES if variable in environment(name)}
    may = {
        name
        for name in NAMES
        for statement in statements(name)
        if "sqs:SendMessage" in as_list(statement["Action"]) and queue in names_in(statement["Resource"])
    }
    assert given == {name: {"Ref": queue} for name in may}


# State


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_table_can_be_restored_survives_the_stack_and_forgets(table: str) -> None:
    definition = TABLES[table]
    stated = definition["Properties"]
    assert stated["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert (definition["DeletionPolicy"], definition["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert stated["DeletionProtectionEnabled"] is True
    assert stated["TimeToLiveSpecification"]["Enabled"] is True
    assert stated["BillingMode"] == "PAY_PER_REQUEST"
    assert "TableName" not in stated


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_table_can_be_another_one_after_a_restore(table: str) -> None:
    variable = {"CoreTable": "CORE_TABLE", "UsageTable": "USAGE_TABLE", "InboxTable": "INBOX_TABLE"}.get(
        table, "IDEMPOTENCY_TABLE"
    )
    makes = f"Makes{table}"
    assert TABLES[table]["Condition"] == makes
    assert TEMPLATE["Conditions"][makes] == {"Fn::Equals": [{"Ref": f"{table}Name"}, ""]}
    assert SHARED_ENVIRONMENT[variable] == {"Fn::If": [makes, {"Ref": table}, {"Ref": f"{table}Name"}]}


@pytest.mark.parametrize("queue", sorted(QUEUES))
def test_every_queue_is_encrypted(queue: str) -> None:
    assert QUEUES[queue]["Properties"]["SqsManagedSseEnabled"] is True


def test_exports_are_encrypted_private_read_over_tls_and_forgotten() -> None:
    bucket = RESOURCES["ExportsBucket"]
    stated = bucket["Properties"]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert stated["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    kept_out = {"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"}
    assert stated["PublicAccessBlockConfiguration"] == dict.fromkeys(kept_out, True)
    assert stated["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    (expiry,) = stated["LifecycleConfiguration"]["Rules"]
    assert (expiry["Status"], expiry["ExpirationInDays"] <= 7) == ("Enabled", True)
    (only_tls,) = RESOURCES["ExportsBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (only_tls["Effect"], only_tls["Principal"], only_tls["Action"]) == ("Deny", "*", "s3:*")
    assert only_tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_tables_have_the_keys_and_indexes_the_code_is_written_for() -> None:
    def keys(schema: list[dict[str, str]]) -> list[str]:
        return [key["AttributeName"] for key in schema]

    assert keys(TABLES["CoreTable"]["Properties"]["KeySchema"]) == ["pk", "sk"]
    assert keys(TABLES["UsageTable"]["Properties"]["KeySchema"]) == ["pk", "sk"]
    assert keys(TABLES["InboxTable"]["Properties"]["KeySchema"]) == ["pk"]
    assert keys(TABLES["IdempotencyTable"]["Properties"]["KeySchema"]) == ["id"]
    indexes = TABLES["CoreTable"]["Properties"]["GlobalSecondaryIndexes"]
    assert {index["IndexName"]: keys(index["KeySchema"]) for index in indexes} == {
        "lookup": ["lookup"],
        "due": ["due_pk", "due_sk"],
    }
    assert {index["Projection"]["ProjectionType"] for index in indexes} == {"KEYS_ONLY"}
    assert TABLES["CoreTable"]["Properties"]["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}


# Asynchronous paths


def dead_letters() -> set[str]:
    return {logical_id for logical_id in QUEUES if logical_id.endswith("DeadLetters")}


def test_every_queue_sets_failures_apart_and_every_dead_letter_rings() -> None:
    for logical_id in set(QUEUES) - dead_letters():
        redrive = QUEUES[logical_id]["Properties"]["RedrivePolicy"]
        assert redrive["deadLetterTargetArn"]["Fn::GetAtt"][0] in dead_letters()
        assert redrive["maxReceiveCount"] >= 3
    watched = {name for alarm in ALARMS.values() for name in names_in(alarm["Properties"].get("Dimensions", []))}
    assert dead_letters() <= watched
    for logical_id in dead_letters():
        assert QUEUES[logical_id]["Properties"]["MessageRetentionPeriod"] == 14 * 86_400


def test_a_message_stays_hidden_for_six_times_the_time_out_and_failures_are_single() -> None:
    consumed = set()
    for name in NAMES:
        for event in events(name, "SQS"):
            queue = event["Queue"]["Fn::GetAtt"][0]
            consumed.add(queue)
            assert QUEUES[queue]["Properties"]["VisibilityTimeout"] >= 6 * properties(name)["Timeout"]
            assert event["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
            assert "MaximumConcurrency" in event["ScalingConfig"]
    assert consumed == set(QUEUES) - dead_letters()


def test_a_schedule_retries_little_and_its_failures_are_kept_on_both_sides() -> None:
    """The scheduler keeps what it could not hand over; Lambda keeps what the function failed at."""
    scheduled = [name for name in NAMES if events(name, "ScheduleV2")]
    assert set(scheduled) == {"billing_run", "reconcile", "enable_monetization", "record_usage"}
    for name in scheduled:
        for event in events(name, "ScheduleV2"):
            assert event["RetryPolicy"]["MaximumRetryAttempts"] <= 3
            assert event["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0] in dead_letters()
            json.loads(event["Input"])
            # Unnamed, SAM calls it by its logical id, and a second stack of the account collides.
            assert "AWS::StackName" in names_in(event["Name"])
    for name in [*scheduled, "import_access_logs"]:
        failed = properties(name)["EventInvokeConfig"]
        assert failed["MaximumRetryAttempts"] <= 2
        kept = failed["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0]
        assert kept in dead_letters()
        assert any(
            kept in names_in(statement["Resource"]) and statement["Action"] == "sqs:SendMessage"
            for statement in statements(name)
        )


def test_the_outbox_reads_the_stream_from_the_start_and_keeps_what_it_could_not_publish() -> None:
    (stream,) = events("publish_events", "DynamoDB")
    assert stream["StartingPosition"] == "TRIM_HORIZON"
    assert stream["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert stream["BisectBatchOnFunctionError"] is True
    assert stream["MaximumRetryAttempts"] == -1  # for as long as the stream keeps it
    assert "MaximumRecordAgeInSeconds" not in stream
    assert stream["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0] in dead_letters()


def test_the_outbox_is_woken_for_everything_an_event_can_come_from_and_nothing_else() -> None:
    (stream,) = events("publish_events", "DynamoDB")
    (only,) = stream["FilterCriteria"]["Filters"]
    pattern = json.loads(only["Pattern"])
    wanted = {name if isinstance(name, str) else name["prefix"] for name in pattern["dynamodb"]["Keys"]["sk"]["S"]}
    begins = {name["prefix"] for name in pattern["dynamodb"]["Keys"]["sk"]["S"] if isinstance(name, dict)}
    assert wanted == set(READERS)
    assert begins == {name for name in READERS if name.endswith("#")}
    assert pattern["eventName"] == ["INSERT", "MODIFY"]


def test_access_logs_are_an_option_that_leaves_nothing_behind_when_off() -> None:
    off = Stack(TEMPLATE, {})
    made = {logical_id for logical_id in RESOURCES if "AccessLog" in logical_id}
    assert "ImportAccessLogsFunction" in made
    for logical_id in made:
        assert not off.condition(RESOURCES[logical_id]["Condition"]), logical_id
        for other in set(names_in(RESOURCES[logical_id].get("Properties", {}))) & made:
            assert IMPLIES[RESOURCES[logical_id]["Condition"]] >= {RESOURCES[other]["Condition"]}, logical_id


IMPLIES = {
    "HasAccessLogGroup": {"HasAccessLogGroup", "ImportsAccessLogs"},
    "HasAccessLogBucket": {"HasAccessLogBucket", "ImportsAccessLogs"},
    "ImportsAccessLogs": {"ImportsAccessLogs"},
}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, set()),
        ({"AccessLogGroup": "/acme/edge"}, {"AccessLogLines", "AccessLogGroupPermission"}),
        (
            {"AccessLogBucket": "acme-logs"},
            {"AccessLogObjects", "AccessLogObjectsPermission", "AccessLogsDeadLettersPolicy"},
        ),
    ],
)
def test_each_source_of_access_logs_is_connected_by_itself(given: dict[str, str], made: set[str]) -> None:
    stack = Stack(TEMPLATE, given)
    sources = [each for each in RESOURCES.values() if str(each.get("Condition", "")).startswith("HasAccessLog")]
    found = {name for name, each in RESOURCES.items() if each in sources and stack.condition(each["Condition"])}
    assert found == made
    assert stack.condition("ImportsAccessLogs") is bool(given)
    may_read = [
        each for each in stack.resolve(statements_as_written("import_access_logs")) if each["Sid"] == "AccessLogs"
    ]
    assert bool(may_read) is ("AccessLogBucket" in given)


def test_only_named_gateways_may_call_the_authorizer_three_at_most() -> None:
    permissions = ("HasGatewayApi", "HasSecondGatewayApi", "HasThirdGatewayApi")
    for many in range(4):
        named = [f"arn:aws:execute-api:eu-west-1:111122223333:api{number}/authorizers/*" for number in range(many)]
        stack = Stack(TEMPLATE, {"GatewayApiArns": ",".join(named)})
        may = [
            stated["SourceArn"]
            for logical_id, stated in stack.resources("AWS::Lambda::Permission")
            if logical_id.endswith("GatewayAuthorizerPermission")
        ]
        assert may == named
        assert [stack.condition(name) for name in permissions] == [number < many for number in range(3)]


def test_pausing_stops_billing_and_nothing_else() -> None:
    (billing,) = events("bill_subscription", "SQS")
    assert billing["Enabled"] == {"Fn::If": ["BillingIsPaused", False, True]}
    (applying,) = events("apply_stripe_event", "SQS")
    assert applying["Enabled"] is True
    assert {name for name in NAMES if "BILLING_PAUSED" in environment(name)} == {"billing_run", "reconcile"}


def test_every_alarm_tells_somebody() -> None:
    for alarm in ALARMS.values():
        assert alarm["Properties"]["AlarmActions"] == [{"Ref": "AlarmTopic"}]
        assert alarm["Properties"]["AlarmDescription"]


def test_what_needs_a_person_rings_at_the_first_one() -> None:
    """One message set apart, one parked bill, one difference in money, one crash: none waits for a second."""
    first: set[str] = set()
    for alarm in ALARMS.values():
        stated = alarm["Properties"]
        if (stated["ComparisonOperator"], stated["Threshold"]) == ("GreaterThanThreshold", 0):
            assert stated["EvaluationPeriods"] * stated["Period"] <= 3600
            assert stated["Statistic"] in ("Sum", "Maximum")
            assert stated["TreatMissingData"] == "notBreaching"
            queues = {each for each in names_in(stated["Dimensions"]) if each in QUEUES}
            first |= queues or {stated["MetricName"]}
    assert first >= dead_letters() | {"BillsWaiting", "DriftMoneyFindings", "5xx"}


def test_the_guide_says_of_every_alarm_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+Alarm)` \|", (ROOT / "docs" / "deploy.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(ALARMS)


def metrics_of(name: str) -> list[str]:
    """Patterns of the metrics a function's handler sends; what is filled in at run time matches any word."""
    tree = ast.parse((ROOT / "functions" / name / "app.py").read_text(encoding="utf-8"))
    patterns = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_metric":
            first = node.args[0]
            parts = first.values if isinstance(first, ast.JoinedStr) else [first]
            patterns.append("".join(str(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in parts))
    return patterns


def test_an_alarm_on_our_own_metric_names_a_function_that_sends_it() -> None:
    namespace = SHARED_ENVIRONMENT["POWERTOOLS_METRICS_NAMESPACE"]
    for logical_id, alarm in ALARMS.items():
        stated = alarm["Properties"]
        if stated["Namespace"] == namespace:
            (dimension,) = stated["Dimensions"]
            assert dimension["Name"] == "service"
            assert environment(dimension["Value"])["POWERTOOLS_SERVICE_NAME"] == dimension["Value"]
            sent = metrics_of(dimension["Value"])
            assert any(re.fullmatch(each, stated["MetricName"]) for each in sent), logical_id


def test_a_subscription_that_stays_due_rings_within_hours() -> None:
    stated = ALARMS["UnbilledDueAlarm"]["Properties"]
    assert (stated["MetricName"], stated["Statistic"]) == ("OldestDueSeconds", "Maximum")
    assert stated["Threshold"] <= 3 * 3600
    assert stated["EvaluationPeriods"] * stated["Period"] <= 3600


# Sign-in


def test_no_app_client_writes_organization_plan_or_roles() -> None:
    for _, client in templates.resources(TEMPLATE, "AWS::Cognito::UserPoolClient"):
        assert not [name for name in client["Properties"]["WriteAttributes"] if name.startswith("custom:")]
        assert client["Properties"]["AllowedOAuthFlows"] == ["code"]


def test_the_user_pool_is_made_only_without_an_issuer_and_calls_the_second_version_of_the_trigger() -> None:
    for logical_id, resource in RESOURCES.items():
        if resource["Type"].startswith("AWS::Cognito::") or logical_id.startswith("TokenClaims"):
            assert resource["Condition"] == "MakesUserPool", logical_id
    pool = RESOURCES["UserPool"]["Properties"]
    assert pool["UserPoolTier"] == "ESSENTIALS"
    assert pool["LambdaConfig"]["PreTokenGenerationConfig"]["LambdaVersion"] == "V2_0"


def test_every_role_of_the_trigger_is_a_scope_of_the_resource_server() -> None:
    tree = ast.parse((ROOT / "functions/token_claims/app.py").read_text(encoding="utf-8"))
    roles = next(
        ast.literal_eval(node.value.args[0])
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "ROLES"
        and isinstance(node.value, ast.Call)
    )
    scopes = RESOURCES["UserPoolResourceServer"]["Properties"]["Scopes"]
    assert {scope["ScopeName"] for scope in scopes} == roles
    identifier = RESOURCES["UserPoolResourceServer"]["Properties"]["Identifier"]
    allowed = RESOURCES["UserPoolClient"]["Properties"]["AllowedOAuthScopes"]
    assert {f"{identifier}/{role}" for role in roles} <= set(allowed)


# What the deployment tells


def test_a_portal_finds_what_it_needs_in_the_outputs() -> None:
    needed = {"ApiUrl", "WebhookUrl", "RedirectUrl", "Issuer", "ClientId", "LoginUrl", "EntitlementFunctionArn"}
    assert needed | {"StripeEventsQueueUrl", "BillingQueueUrl"} <= set(TEMPLATE["Outputs"])


def test_every_parameter_is_described_and_used() -> None:
    used = set(names_in([TEMPLATE["Resources"], TEMPLATE["Globals"], TEMPLATE["Conditions"], TEMPLATE["Outputs"]]))
    for name, declared in TEMPLATE["Parameters"].items():
        assert declared["Description"], name
        assert name in used, name
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert {name for group in groups for name in group["Parameters"]} == set(TEMPLATE["Parameters"])


def test_an_idle_stack_costs_at_most_2_dollars_50_a_month() -> None:
    """Prices of the table in docs/deploy.md: its other lines, and what this template has of the two that grow."""
    pollers = sum(len(events(name, "SQS")) for name in NAMES)
    table = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").split("## What an idle stack costs")[1]
    prices = dict(re.findall(r"^\| \**([a-zA-Z]+).*?\| \**(\d+\.\d\d)\** \| [^|]+ \|$", table, re.MULTILINE))
    always = [alarm for alarm in ALARMS.values() if "Condition" not in alarm]
    assert prices["alarms"] == f"{0.10 * len(always):.2f}"
    assert prices["SQS"] == f"{0.26 * pollers:.2f}"
    assert float(prices.pop("sum")) >= sum(map(float, prices.values())) - 0.001
    assert sum(map(float, prices.values())) <= 2.50
