"""What of `sam local` can be held to its rules without Docker: addresses, the relay, and reading what SAM prints."""

import json
import socket
from pathlib import Path

import pytest

from local import containers, lambda_image, sam_check
from local.loopback import Loopback, Response
from local.sam_check import Answered, cases, read_answer, read_run, verdict

REPORTED = "REPORT RequestId: x\tInit Duration: 0.05 ms\tDuration: 1301.72 ms\tBilled Duration: 1302 ms\n"
TEMPLATE = {
    "Resources": {
        "PlansFunction": {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "functions/plans/"}},
        "PlansQueue": {"Type": "AWS::SQS::Queue", "Properties": {}},
        "ReportsFunction": {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "functions/reports/"}},
    }
}


def inspected(*configs: dict[str, str]) -> str:
    return json.dumps([{"IPAM": {"Config": list(configs)}}])


def test_a_bridge_that_names_no_gateway_has_the_first_address() -> None:
    assert containers.bridge_gateways(inspected({"Subnet": "172.17.0.0/16"})) == ["172.17.0.1"]
    named = {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.254"}
    assert containers.bridge_gateways(inspected(named, {"Subnet": "fd00::/64"})) == ["172.18.0.254"]


def test_without_docker_that_is_what_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(containers.NoDockerError, match="no docker command"):
        containers.docker_host()


def test_without_docker_the_check_is_skipped_aloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sam_check.main([]) == sam_check.NOTHING_TRIED == 3
    assert "skipped, no function was run in a container" in capsys.readouterr().err


def test_a_relay_carries_a_request_there_and_its_answer_back() -> None:
    server = Loopback("target").start(lambda request: Response(200, [], request.body * 2))
    # Another port of loopback stands for the bridge.
    with (
        containers.Relay("127.0.0.1", 0, server.port) as relay,
        socket.create_connection(("127.0.0.1", relay.port), 5) as caller,
    ):
        caller.sendall(b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")
        answer = b"".join(iter(lambda: caller.recv(1000), b""))
    server.close()
    assert answer.endswith(b"hellohello")


def test_the_telling_event_is_chosen_and_a_function_without_one_stays_in_the_list(tmp_path: Path) -> None:
    for name in ("plans_list_plans", "plans_post_meter"):
        (tmp_path / f"{name}.json").write_text("{}")
    plans, reports = cases(TEMPLATE, tmp_path)
    assert plans.event == tmp_path / "plans_post_meter.json"
    assert (reports.logical_id, reports.event) == ("ReportsFunction", None)
    assert [case.function for case in cases(TEMPLATE, tmp_path, ["reports"])] == ["reports"]


@pytest.mark.parametrize(
    ("answer", "what", "failed"),
    [
        ({"statusCode": 404, "body": '{"code": "no_such_plan"}'}, "404 no_such_plan", False),
        ({"statusCode": 204}, "204", False),
        ({"statusCode": 502, "body": ""}, "502", True),
        ({"errorType": "KeyError", "errorMessage": "'CORE_TABLE'"}, "KeyError: 'CORE_TABLE'", True),
        ({"batchItemFailures": []}, "0 failed", False),
        ({"isAuthorized": False}, "denied", False),
        ({"swept": 0}, "done", False),
    ],
)
def test_an_answer_is_read_for_what_it_says(answer: object, what: str, failed: bool) -> None:
    assert read_answer(answer) == Answered(what, failed)


def test_what_sam_prints_is_read_for_answer_and_time() -> None:
    assert read_run(0, '{"statusCode": 204}', REPORTED) == Answered("204", milliseconds=1301.72)
    assert read_run(1, "", "Error: no image\n").what == "sam: Error: no image"
    assert read_run(0, "not json", REPORTED).failed


def test_a_row_is_well_only_when_container_and_process_agree() -> None:
    assert verdict(Answered("201"), Answered("201")) == "well"
    assert verdict(Answered("201"), None) == "well"
    assert verdict(Answered("404 x"), Answered("201")) == "DIFFERS"
    assert verdict(Answered("502", failed=True), Answered("502", failed=True)) == "FAILED"


def test_the_image_has_the_name_that_sam_looks_for() -> None:
    assert lambda_image.image_name("x86_64") == "public.ecr.aws/lambda/python:3.13-x86_64"
    assert lambda_image.image_name("aarch64") == "public.ecr.aws/lambda/python:3.13-arm64"


def test_libraries_are_read_from_what_ldd_prints() -> None:
    printed = (
        "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tvdso.so.1\n"
    )
    assert lambda_image.linked(printed) == ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
