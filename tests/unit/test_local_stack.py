"""What the template declares is read as CloudFormation and SAM would resolve it."""

from typing import Any

import pytest

from local import template
from local.functions import union
from local.stack import NO_VALUE, Route, Stack, TemplateError

TEMPLATE = """
Parameters:
  Stage: {Type: String, Default: blue}
  Origins: {Type: CommaDelimitedList, Default: "http://a.test, http://b.test"}
  Secret: {Type: String}
Conditions:
  IsBlue: !Equals [!Ref Stage, blue]
  IsRed: !Not [!Condition IsBlue]
Mappings:
  Sizes: {blue: {memory: 256}}
Globals:
  Function:
    Timeout: 20
    Environment: {Variables: {TABLE: !Ref Table, SHARED: global}}
Resources:
  Table: {Type: AWS::DynamoDB::Table, Properties: {}}
  Gone: {Type: AWS::SQS::Queue, Condition: IsRed, Properties: {}}
  Dead: {Type: AWS::SQS::Queue}
  Work:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: !Sub "work-${Stage}"
      VisibilityTimeout: 120
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 4}
  Api:
    Type: AWS::Serverless::HttpApi
    Properties:
      Auth:
        DefaultAuthorizer: Jwt
        Authorizers:
          Jwt:
            IdentitySource: $request.header.Authorization
            JwtConfiguration: {issuer: "http://issuer.test", audience: !Ref Origins}
      CorsConfiguration: {AllowOrigins: !Ref Origins, ExposeHeaders: [ETag], MaxAge: 60}
      DefaultRouteSettings: {ThrottlingRateLimit: 100, ThrottlingBurstLimit: 200}
      RouteSettings:
        "GET /open": {ThrottlingRateLimit: 5, ThrottlingBurstLimit: 10}
  Web:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: web/
      MemorySize: !FindInMap [Sizes, !Ref Stage, memory]
      Environment: {Variables: {SHARED: own, QUEUE: !Ref Work, FLAG: true}}
      Events:
        Any: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: any, Path: "/things/{proxy+}"}}
        Open: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: get, Path: /open, Auth: {Authorizer: NONE}}}
        Tick:
          Type: ScheduleV2
          Properties: {ScheduleExpression: rate(1 hour), Input: "{}", RetryPolicy: {MaximumRetryAttempts: 1}}
        Off: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 hour), State: DISABLED}}
  Worker:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: worker/
      Timeout: 60
      EventInvokeConfig:
        MaximumRetryAttempts: 1
        DestinationConfig: {OnFailure: {Type: SQS, Destination: !GetAtt Dead.Arn}}
      Events:
        Queue:
          Type: SQS
          Properties: {Queue: !GetAtt Work.Arn, BatchSize: 5, FunctionResponseTypes: [ReportBatchItemFailures]}
        Stream:
          Type: DynamoDB
          Properties: {Stream: !GetAtt Table.StreamArn, StartingPosition: TRIM_HORIZON, MaximumRetryAttempts: 3}
  Nightly:
    Type: AWS::Scheduler::Schedule
    Properties:
      ScheduleExpression: cron(0 3 * * ? *)
      FlexibleTimeWindow: {Mode: "OFF"}
      Target: {Arn: !GetAtt Worker.Arn, RoleArn: x}
"""


@pytest.fixture
def stack() -> Stack:
    return Stack(template.parse(TEMPLATE), {"Secret": "s"}, queue_base="http://q")


def test_a_parameter_without_default_or_value_is_an_error() -> None:
    with pytest.raises(TemplateError, match="Secret"):
        Stack(template.parse(TEMPLATE)).parameter("Secret")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Ref": "Stage"}, "blue"),
        ({"Ref": "Origins"}, ["http://a.test", "http://b.test"]),
        ({"Ref": "Table"}, "Table"),
        ({"Ref": "Work"}, "http://q/000000000000/work-blue"),
        ({"Ref": "AWS::Region"}, "us-east-1"),
        ({"Fn::GetAtt": ["Work", "Arn"]}, "arn:aws:sqs:us-east-1:000000000000:work-blue"),
        ({"Fn::Sub": "${AWS::StackName}/${Stage}/${Work.QueueName}/${!Kept}"}, "local/blue/work-blue/${Kept}"),
        ({"Fn::Sub": ["${x}-${Stage}", {"x": {"Ref": "Stage"}}]}, "blue-blue"),
        ({"Fn::If": ["IsRed", "red", "other"]}, "other"),
        ({"Fn::Join": [",", {"Ref": "Origins"}]}, "http://a.test,http://b.test"),
        ({"Fn::Select": [1, {"Ref": "Origins"}]}, "http://b.test"),
        ([1, {"Fn::If": ["IsRed", 2, {"Ref": "AWS::NoValue"}]}], [1]),
        ({"a": {"Ref": "AWS::NoValue"}, "b": 1}, {"b": 1}),
    ],
)
def test_intrinsic_functions_resolve(stack: Stack, value: Any, expected: Any) -> None:
    assert stack.resolve(value) == expected


def test_no_value_is_not_a_value(stack: Stack) -> None:
    assert stack.resolve({"Ref": "AWS::NoValue"}) is NO_VALUE


def test_an_unknown_intrinsic_is_an_error(stack: Stack) -> None:
    with pytest.raises(TemplateError, match="Transform"):
        stack.resolve({"Fn::Transform": {}})


def test_globals_are_merged_into_functions(stack: Stack) -> None:
    web = stack.functions()["Web"]
    assert (web.timeout, web.memory, web.async_retries, web.on_failure) == (20, 256, 2, None)
    assert web.environment == {
        "TABLE": "Table", "SHARED": "own", "QUEUE": "http://q/000000000000/work-blue", "FLAG": "true",
    }  # fmt: skip
    worker = stack.functions()["Worker"]
    assert (worker.timeout, worker.async_retries) == (60, 1)
    assert worker.on_failure == "arn:aws:sqs:us-east-1:000000000000:Dead"


def test_functions_that_disagree_on_a_variable_cannot_share_a_process(stack: Stack) -> None:
    with pytest.raises(ValueError, match="SHARED"):
        union(stack.functions())


def test_routes_know_their_authorizer(stack: Stack) -> None:
    by_key: dict[str, Route] = {route.key: route for route in stack.api().routes}
    assert by_key.keys() == {"ANY /things/{proxy+}", "GET /open"}
    authorizer = by_key["ANY /things/{proxy+}"].authorizer
    assert authorizer is not None
    assert (authorizer.issuer, authorizer.audience) == ("http://issuer.test", ("http://a.test", "http://b.test"))
    assert by_key["GET /open"].authorizer is None


def test_cors_and_throttles_are_read(stack: Stack) -> None:
    api = stack.api()
    assert api.cors is not None
    assert api.cors.origins == ("http://a.test", "http://b.test")
    assert (api.cors.exposed, api.cors.max_age) == (("ETag",), 60)
    assert {key: each.rate for key, each in api.throttles.items()} == {"$default": 100, "GET /open": 5}


def test_a_resource_whose_condition_fails_is_absent(stack: Stack) -> None:
    assert [queue.name for queue in stack.queues().values()] == ["Dead", "work-blue"]


def test_queues_know_where_the_dead_go(stack: Stack) -> None:
    work = stack.queues()["arn:aws:sqs:us-east-1:000000000000:work-blue"]
    assert (work.visibility, work.max_receives) == (120, 4)
    assert work.dead_letters == "arn:aws:sqs:us-east-1:000000000000:Dead"


def test_triggers_and_schedules_are_read(stack: Stack) -> None:
    (queue,) = stack.queue_triggers()
    assert (queue.function, queue.batch_size, queue.partial) == ("Worker", 5, True)
    (stream,) = stack.stream_triggers()
    assert (stream.function, stream.table, stream.retries) == ("Worker", "Table", 3)
    assert [(each.function, each.expression, each.payload) for each in stack.schedules()] == [
        ("Web", "rate(1 hour)", "{}"),
        ("Worker", "cron(0 3 * * ? *)", None),
    ]
