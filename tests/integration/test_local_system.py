"""A small template runs whole: routes, queues, streams, schedules, webhooks, the control page and the AWS protocols."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from local.clock import Clock
from local.loopback import PortInUseError
from local.run import announcement, stripe_account
from local.stack import StreamTrigger
from local.system import ROOT, Ports, System
from local.triggers import StreamPoller, stream_record

START = datetime(2026, 1, 1, tzinfo=UTC)

TEMPLATE = """
Parameters:
  PublicBaseUrl: {Type: String, Default: ""}
  JwtIssuer: {Type: String, Default: ""}
  JwtAudience: {Type: CommaDelimitedList, Default: ""}
Globals:
  Function:
    Timeout: 10
    Environment:
      Variables:
        CORE_TABLE: !Ref Core
        USAGE_TABLE: usage
        WORK_URL: !Ref Work
        STRIPE_KEY_PARAMETER: /stripe-key
        WEBHOOK_SECRETS_PARAMETER: /webhook-secrets
        PUBLIC_BASE_URL: !Ref PublicBaseUrl
Resources:
  Core:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}, {AttributeName: sk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}, {AttributeName: sk, KeyType: RANGE}]
      TimeToLiveSpecification: {AttributeName: expires_at, Enabled: true}
      StreamSpecification: {StreamViewType: NEW_AND_OLD_IMAGES}
  Work:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 60
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 2}
  Dead: {Type: AWS::SQS::Queue}
  Api:
    Type: AWS::Serverless::HttpApi
    Properties:
      Auth:
        DefaultAuthorizer: Jwt
        Authorizers: {Jwt: {JwtConfiguration: {issuer: !Ref JwtIssuer, audience: !Ref JwtAudience}}}
  Web:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: web/
      Handler: app.handler
      Events:
        Echo: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: ANY, Path: "/echo/{proxy+}"}}
        Hook:
          Type: HttpApi
          Properties: {ApiId: !Ref Api, Method: POST, Path: /stripe/webhook, Auth: {Authorizer: NONE}}
        Tick: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), Input: '{"tick": true}'}}
  Worker:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: worker/
      Handler: app.handler
      Events:
        Queue:
          Type: SQS
          Properties: {Queue: !GetAtt Work.Arn, FunctionResponseTypes: [ReportBatchItemFailures]}
        Stream: {Type: DynamoDB, Properties: {Stream: !GetAtt Core.StreamArn, StartingPosition: TRIM_HORIZON}}
"""

WEB = """
import json, os
from monetize import wiring

def handler(event, context):
    now = wiring.clock().now()
    if event.get("tick"):
        wiring.sqs().send_message(QueueUrl=os.environ["WORK_URL"], MessageBody=json.dumps({"tick": now.isoformat()}))
        return None
    path = event["rawPath"]
    if path == "/echo/put":
        wiring.dynamodb().put_item(TableName=os.environ["CORE_TABLE"], Item={
            "pk": {"S": "a"}, "sk": {"S": "b"}, "expires_at": {"N": str(int(now.timestamp()) + 3600)}})
    if path == "/echo/queue":
        wiring.sqs().send_message(QueueUrl=os.environ["WORK_URL"], MessageBody=event["body"])
    if path == "/echo/raise":
        raise RuntimeError("boom")
    if path == "/stripe/webhook":
        return {"statusCode": 200 if now.hour else 500}
    claims = event["requestContext"]["authorizer"]["jwt"]["claims"]
    return {"sub": claims["sub"], "request": context.aws_request_id, "left": context.get_remaining_time_in_millis()}
"""

WORKER = """
import json
from monetize import wiring

seen = []

def handler(event, context):
    failed = []
    for record in event["Records"]:
        if record["eventSource"] == "aws:dynamodb":
            wiring._parts["events"].put_events(Entries=[{"Source": "test", "DetailType": record["eventName"],
                "Detail": json.dumps(record["dynamodb"]["Keys"])}])
        elif "poison" in record["body"]:
            failed.append({"itemIdentifier": record["messageId"]})
        else:
            wiring._parts["events"].put_events(Entries=[{"Source": "test", "DetailType": "message",
                "Detail": record["body"]}])
    return {"batchItemFailures": failed}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    for name, code in (("web", WEB), ("worker", WORKER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text(code, "utf-8")
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE, "utf-8")
    return path


@pytest.fixture
def system(template: Path) -> Iterator[System]:
    with System(template, Clock(START)) as made:
        yield made


@pytest.fixture
def served(template: Path) -> Iterator[System]:
    with System(template, Clock(START), ports=Ports()).start() as made:
        yield made


def seen(system: System) -> list[tuple[str, Any]]:
    return [(event.detail_type, event.detail) for event in system.outbox()]


def test_a_call_reaches_the_handler_with_the_callers_claims(system: System) -> None:
    status, headers, body = system.call("GET", "/echo/x", token=system.token("ann", "acme"))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["sub"] == "ann"
    assert 0 < json.loads(body)["left"] <= 10_000


def test_the_same_seed_names_requests_the_same(template: Path) -> None:
    def name() -> str:
        with System(template, Clock(START), seed=3) as system:
            answer: dict[str, str] = json.loads(system.call("GET", "/echo/x", token=system.token("a", "b"))[2])
            return answer["request"]

    assert name() == name()


def test_an_exception_is_kept_for_people_and_answered_as_500(system: System) -> None:
    assert system.call("GET", "/echo/raise", token=system.token("a", "b"))[0] == 500
    assert system.functions.failures[-1].error == "RuntimeError('boom')"


def test_a_queued_message_is_worked_when_pumped(system: System) -> None:
    system.call("POST", "/echo/queue", {"n": 1}, token=system.token("a", "b"))
    assert seen(system) == []
    system.pump()
    assert seen(system) == [("message", {"n": 1})]


def test_a_poisoned_message_ends_in_the_dead_letters(system: System) -> None:
    system.call("POST", "/echo/queue", {"poison": 1}, token=system.token("a", "b"))
    system.run_for(timedelta(minutes=5))
    assert [m.body for m in system.sqs.messages("Dead")] == ['{"poison": 1}']


def test_changes_reach_the_stream_and_expired_items_leave(system: System) -> None:
    system.call("POST", "/echo/put", token=system.token("a", "b"))
    system.pump()
    system.run_for(timedelta(hours=2))
    keys = {"pk": {"S": "a"}, "sk": {"S": "b"}}
    assert [each for each in seen(system) if each[0] != "message"] == [("INSERT", keys), ("REMOVE", keys)]


def test_a_stream_record_carries_images_as_dynamodb_does(system: System) -> None:
    item = {"pk": {"S": "x"}, "sk": {"S": "y"}, "raw": {"M": {"all": {"L": [{"B": b"a"}, {"BS": [b"b"]}]}}}}
    system.dynamodb.put_item(TableName="Core", Item=item)
    (change,) = system.dynamodb.changes("Core")
    record = stream_record("Core", change)
    assert (record["eventName"], record["eventSource"]) == ("INSERT", "aws:dynamodb")
    assert record["dynamodb"]["Keys"] == {"pk": {"S": "x"}, "sk": {"S": "y"}}
    assert record["dynamodb"]["NewImage"]["raw"] == {"M": {"all": {"L": [{"B": "YQ=="}, {"BS": ["Yg=="]}]}}}
    assert "OldImage" not in record["dynamodb"]
    assert json.loads(json.dumps(record)) == record


def test_a_failing_stream_batch_waits_and_nothing_behind_it_passes(system: System) -> None:
    poller = StreamPoller(
        StreamTrigger(function="F", table="Core", batch_size=2, partial=True, retries=3, on_failure="arn:dead"),
        system.dynamodb,
        system.clock,
        lambda _function, event: answer(event),
        lambda arn, body: buried.append((arn, json.loads(body))),
    )
    got: list[dict[str, Any]] = []
    buried: list[tuple[str, Any]] = []

    def answer(event: dict[str, Any]) -> Any:
        got.append(event)
        bad = [r for r in event["Records"] if r["dynamodb"]["Keys"]["pk"]["S"] == "1"]
        return {"batchItemFailures": [{"itemIdentifier": r["dynamodb"]["SequenceNumber"]} for r in bad]}

    for name in "012":
        system.dynamodb.put_item(TableName="Core", Item={"pk": {"S": name}, "sk": {"S": "s"}})
    for _ in range(10):
        while poller.run_due():
            pass
        due = poller.next_due()
        if due is None:
            break
        system.clock.move_to(due)
    seen_keys = [[r["dynamodb"]["Keys"]["pk"]["S"] for r in event["Records"]] for event in got]
    # 0 is done at once; 1, with whatever is behind it, is tried once and three times again, then given up.
    assert seen_keys == [["0", "1"], ["1", "2"], ["1", "2"], ["1", "2"]]
    ((arn, info),) = buried
    assert (arn, info["DDBStreamBatchInfo"]["batchSize"]) == ("arn:dead", 2)


def test_the_clock_stops_at_every_due_instant(system: System) -> None:
    times: list[datetime] = []
    system.run_until(START + timedelta(days=3, hours=1), times.append)
    assert [detail["tick"][:10] for kind, detail in seen(system) if kind == "message"] == [
        "2026-01-02", "2026-01-03", "2026-01-04",
    ]  # fmt: skip
    assert times[0] == START + timedelta(days=1)
    assert system.clock.now() == START + timedelta(days=3, hours=1)


def test_a_webhook_that_is_refused_is_posted_again(system: System) -> None:
    account = system.emulator.connect_account()
    system.emulator.inject_event(account.id, "customer.updated", {"id": "cus_1", "object": "customer"})
    system.run_for(timedelta(hours=3))
    mine = [each.status for each in system.delivered if each.type == "customer.updated"]
    # The hook refuses in the first hour of the day: at once, after 5 minutes, after 35; it takes the next.
    assert mine == [500, 500, 500, 200]


def test_the_environment_is_given_back(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORE_TABLE", raising=False)
    monkeypatch.setenv("USAGE_TABLE", "mine")
    before = dict(os.environ)
    with System(template, Clock(START)):
        assert (os.environ["CORE_TABLE"], os.environ["USAGE_TABLE"]) == ("Core", "usage")
    assert dict(os.environ) == before


def ask(url: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        sent = json.dumps(body) if body is not None else None
        connection.request(method, path, sent, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if "json" in response.headers["content-type"] else text.decode()
    finally:
        connection.close()


def test_tokens_of_the_control_page_open_the_api(served: System) -> None:
    status, made = ask(served.url, "POST", "/_local/tokens", {"user": "ann", "organization": "acme"})
    assert status == 200
    status, answer = ask(served.url, "GET", "/echo/x", authorization=f"Bearer {made['access_token']}")
    assert (status, answer["sub"]) == (200, "ann")


def test_the_control_page_shows_and_moves(served: System) -> None:
    status, state = ask(served.url, "GET", "/_local")
    assert (status, state["clock"], state["api"]) == (200, "2026-01-01T00:00:00Z", served.url)
    assert ask(served.url, "GET", "/_local", accept="text/html")[1].startswith("<!doctype html>")
    status, moved = ask(served.url, "POST", "/_local/clock", {"to": "2026-01-03T00:00:00Z"})
    assert (status, moved["clock"]) == (200, "2026-01-03T00:00:00Z")
    status, events = ask(served.url, "GET", "/_local/events?after=1")
    assert [each["type"] for each in events["events"]] == ["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"to": "2025-01-01T00:00:00Z"}, 409), ({"to": "2026-02-01T00:00:00"}, 400), ({}, 400), ({"by": "x"}, 400)],
)
def test_a_clock_that_cannot_move_there_stands_still(served: System, body: Any, status: int) -> None:
    assert ask(served.url, "POST", "/_local/clock", body)[0] == status
    assert served.clock.now() == START


def test_a_page_from_elsewhere_moves_nothing(served: System) -> None:
    for headers in ({"host": "evil.test"}, {"origin": "https://evil.test"}, {"host": "localhost.evil.test"}):
        assert ask(served.url, "POST", "/_local/clock", {"by": 60}, **headers)[0] == 403
    assert served.clock.now() == START


def test_the_issuer_can_be_discovered(served: System) -> None:
    issuer = urlsplit(served.identity.issuer)
    status, found = ask(served.url, "GET", f"{issuer.path}/.well-known/openid-configuration")
    assert (status, found["issuer"]) == (200, served.identity.issuer)
    status, keys = ask(served.url, "GET", urlsplit(found["jwks_uri"]).path)
    assert (status, keys["keys"][0]["kid"]) == (200, "local-1")


def test_a_presigned_object_is_served_until_it_expires(served: System) -> None:
    served.s3.put_object(Bucket="exports", Key="a/b.csv", Body="x,y", ContentType="text/csv")
    link = served.s3.generate_presigned_url("get_object", {"Bucket": "exports", "Key": "a/b.csv"}, ExpiresIn=60)
    target = link.removeprefix(served.url)
    assert ask(served.url, "GET", target) == (200, "x,y")
    served.clock.advance(timedelta(minutes=2))
    assert ask(served.url, "GET", target)[0] == 403


@pytest.fixture
def clients(served: System) -> Iterator[dict[str, Any]]:
    made = {
        name: boto3.client(
            name, endpoint_url=served.aws_url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        for name in ("dynamodb", "sqs", "ssm", "events")
    }
    yield made
    for client in made.values():
        client.close()


def test_real_clients_work_on_the_same_state(served: System, clients: dict[str, Any]) -> None:
    clients["dynamodb"].put_item(TableName="Core", Item={"pk": {"S": "x"}, "sk": {"S": "y"}})
    assert served.dynamodb.get_item(TableName="Core", Key={"pk": {"S": "x"}, "sk": {"S": "y"}})["Item"]
    url = clients["sqs"].get_queue_url(QueueName="Dead")["QueueUrl"]
    clients["sqs"].send_message(QueueUrl=url, MessageBody="hello", MessageGroupId="g")
    (message,) = clients["sqs"].receive_message(QueueUrl=url)["Messages"]
    clients["sqs"].delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert message["Body"] == "hello"
    assert served.sqs.messages("Dead") == []
    secret = clients["ssm"].get_parameter(Name="/stripe-key", WithDecryption=True)["Parameter"]["Value"]
    assert secret == served.emulator.platform_key
    clients["events"].put_events(Entries=[{"Source": "s", "DetailType": "t", "Detail": "{}"}])
    assert seen(served)[-1] == ("t", {})


def test_real_clients_raise_the_services_own_errors(clients: dict[str, Any]) -> None:
    sqs, ssm = clients["sqs"], clients["ssm"]
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.get_queue_url(QueueName="None")
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter(Name="/none")


def test_a_port_in_use_is_named(template: Path, served: System) -> None:
    for taken in (
        Ports(api=int(served.url.rpartition(":")[2])),
        Ports(stripe=int(served.stripe_url.rpartition(":")[2])),
        Ports(aws=int(served.aws_url.rpartition(":")[2])),
    ):
        number = taken.api or taken.stripe or taken.aws
        with pytest.raises(PortInUseError, match=f"port {number} is in use"):
            System(template, Clock(START), ports=taken)


def test_the_announcement_names_every_address(served: System) -> None:
    text = announcement(served, Path(".local/sam-env.json"))
    for each in (served.url, served.stripe_url, served.aws_url, "sam local start-api", ".local/sam-env.json"):
        assert each in text


def test_every_event_is_printed_as_it_is_told(template: Path) -> None:
    command = [sys.executable, "-m", "local.run", "--port", "0", "--template", str(template)]
    paths = {"PYTHONPATH": os.pathsep.join((".", "layers/common/python"))}
    environment = dict(os.environ) | paths
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 # ours
        try:
            assert running.stdout is not None
            lines = iter(running.stdout.readline, "")
            url = next(line.split()[1] for line in lines if line.startswith("API"))
            next(line for line in lines if line.startswith("Ctrl-C"))
            assert ask(url, "POST", "/_local/clock", {"by": 2 * 86400})[0] == 200
            printed = next(lines)
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=20)
    at, kind, detail = printed.split(" ", 2)
    assert datetime.fromisoformat(at).tzinfo is not None
    assert (kind, list(json.loads(detail))) == ("message", ["tick"])


def test_positions_of_events_hold_when_the_oldest_are_forgotten(served: System) -> None:
    served.events.recorded = deque(maxlen=2)
    for number in range(5):
        served.events.put_events(Entries=[{"Source": "test", "DetailType": f"{number}", "Detail": "{}"}])
    assert [each.detail_type for each in served.outbox(4)] == ["4"]
    assert [each.detail_type for each in served.outbox(1)] == ["3", "4"]
    status, page = ask(served.url, "GET", "/_local/events?after=4")
    assert (status, [each["type"] for each in page["events"]], page["next"]) == (200, ["4"], 5)


def test_sams_environment_leads_back_here(served: System) -> None:
    web = served.sam_environment()["Web"]
    assert web["CORE_TABLE"] == "Core"
    assert web["AWS_ENDPOINT_URL"] == served.aws_url
    assert web["STRIPE_API_BASE"] == served.stripe_url
    assert web["WORK_URL"].startswith(served.aws_url)


def test_a_container_is_sent_to_the_host_it_knows_and_a_browser_to_this_machine(served: System) -> None:
    web = served.sam_environment("172.17.0.1")["Web"]
    assert web["AWS_ENDPOINT_URL"] == served.aws_url.replace("127.0.0.1", "172.17.0.1")
    assert web["STRIPE_API_BASE"] == served.stripe_url.replace("127.0.0.1", "172.17.0.1")
    assert web["WORK_URL"] == served.sam_environment()["Web"]["WORK_URL"]


def test_a_live_stripe_key_is_refused() -> None:
    with pytest.raises(ValueError, match="test mode"):
        stripe_account({"STRIPE_TEST_KEY": "sk_live_1"})
    assert stripe_account({}) is None
