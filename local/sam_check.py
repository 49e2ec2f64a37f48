"""Does every function answer its event in a container as it does in process? `python -m local.sam_check [FUNCTION …]`

For each function of the template one file of `events/` goes through `sam local invoke`, against stand-ins that this
starts, and through the same handler in process, against stand-ins of its own. A row is well when both answer the same:
the status, and the `code` of a refusal. Events carry example ids, so a 404 is an answer as good as a 201.

Exit codes: 0 all well; 1 some are not, or nothing is built; 3 no Docker here, so nothing was tried.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from local.api_gateway import InvocationError
from local.clock import Clock
from local.containers import NoDockerError, docker_host, reachable
from local.system import ROOT, Ports, System
from local.template import load

EVENTS = ROOT / "events"
BUILT = ROOT / ".aws-sam" / "local" / "template.yaml"
SAM = ROOT / ".venv-sam" / "bin" / "sam"
NOTHING_TRIED = 3
PATIENCE_SECONDS = 300
# One that says more than the first by name would. All the others have few.
TELLING = {
    "check_entitlement": "check_entitlement_many",
    "plans": "plans_post_meter",
    "record_usage": "record_usage_events_batch",
    "subscribe": "subscribe_get_applications",
}
# Switches on what the template makes only when asked, so that it is tried too; samconfig.toml does so for SAM.
OPTIONAL = {"AccessLogGroup": "access-logs"}
REPORT = re.compile(r"REPORT RequestId.*?Init Duration: ([\d.]+) ms\s+Duration: ([\d.]+) ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One function, and the event it is given."""

    function: str
    logical_id: str
    event: Path | None


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back, as far as the two ways can agree: `what` is a status with a code, `done`, or why it failed."""

    what: str
    failed: bool = False
    milliseconds: float | None = None


def cases(template: Mapping[str, Any], events: Path, wanted: Sequence[str] = ()) -> Iterator[Case]:
    """Every function of the template with one of its events; `wanted` names some by their folder."""
    names = {
        logical_id: str(resource["Properties"]["CodeUri"]).strip("/").rpartition("/")[2]
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    for logical_id, name in names.items():
        if wanted and name not in wanted:
            continue
        files = sorted(events.glob(f"{name}_*.json")) + sorted(events.glob(f"{name}.json"))
        telling = events / f"{TELLING.get(name, '')}.json"
        event = telling if telling in files else next(iter(files), None)
        yield Case(function=name, logical_id=logical_id, event=event)


def read_answer(answer: Any) -> Answered:
    """What a handler's answer says: an error's name, an HTTP status, failed messages, or that it was done."""
    if not isinstance(answer, dict):
        return Answered("done")
    if "errorMessage" in answer or "errorType" in answer:
        return Answered(f"{answer.get('errorType', 'error')}: {str(answer.get('errorMessage', ''))[:60]}", failed=True)
    if "statusCode" in answer:
        status = int(answer["statusCode"])
        return Answered(f"{status} {_code(answer.get('body'))}".rstrip(), failed=status >= 500)
    if "batchItemFailures" in answer:
        return Answered(f"{len(answer['batchItemFailures'])} failed")
    if "isAuthorized" in answer:
        return Answered("allowed" if answer["isAuthorized"] else "denied")
    return Answered("done")


def _code(body: Any) -> str:
    try:
        document = json.loads(body)
    except (TypeError, ValueError):
        return ""
    return str(document.get("code", "")) if isinstance(document, dict) else ""


def read_run(code: int, printed: str, logged: str) -> Answered:
    """What `sam local invoke` printed: the answer on standard output, the logs and a report beside it."""
    lines = [line for line in printed.splitlines() if line.strip()]
    if code or not lines:
        last = next((line for line in reversed(logged.splitlines()) if line.strip()), "no output")
        return Answered(f"sam: {last.strip()[:70]}", failed=True)
    try:
        answer = json.loads(lines[-1])
    except ValueError:
        return Answered(f"no JSON: {lines[-1][:60]}", failed=True)
    read = read_answer(answer)
    report = REPORT.search(logged)
    return Answered(read.what, read.failed, float(report[2]) if report else None)


def in_process(each: Sequence[Case], start: datetime) -> dict[str, Answered]:
    """Every case in order, by logical id. A function that this machine leaves out is left out."""
    answered = {}
    with System(clock=Clock(start), parameters=OPTIONAL) as system:
        for case in each:
            if case.event is None or case.logical_id not in system.functions.specs:
                continue
            event = json.loads(case.event.read_text("utf-8"))
            try:
                answered[case.logical_id] = read_answer(system.functions.invoke(case.logical_id, event))
            except InvocationError:
                answered[case.logical_id] = Answered(system.functions.failures[-1].error[:70], failed=True)
    return answered


def invoke(case: Case, variables: Path) -> Answered:
    """One function in a container."""
    command = [str(SAM), "local", "invoke", case.logical_id, "-e", str(case.event), "--env-vars", str(variables)]
    environment = {**os.environ, "PATH": f"{SAM.parent}:{os.environ['PATH']}", "SAM_CLI_TELEMETRY": "0"}
    # Whatever account this machine is signed in to: its keys have no business in a container.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        environment.pop(name, None)
    environment |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        ran = subprocess.run(  # noqa: S603 # our own SAM, with names from our own template
            command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Answered(f"sam: no answer in {PATIENCE_SECONDS} s", failed=True)
    return read_run(ran.returncode, ran.stdout, ran.stderr)


def verdict(there: Answered, here: Answered | None) -> str:
    """One word for the table; "well" when container and process agree."""
    if there.failed:
        return "FAILED"
    if here is not None and (here.failed or here.what != there.what):
        return "DIFFERS"
    return "well"


def _row(*cells: str) -> str:
    return "{:<24}{:<38}{:<36}{:<36}{:>8}{:>7}  {}".format(*cells)


def check(each: Sequence[Case], variables: Path) -> int:
    """Print a row for each case as it is known; gives how many are not well."""
    print(_row("function", "event", "in a container", "in process", "first ms", "sam s", ""), flush=True)
    unwell = 0
    here = in_process(each, datetime.now(UTC))
    with (
        System(clock=Clock(ticking=True), ports=Ports(), stripe_over_http=True, parameters=OPTIONAL).start() as system,
        reachable((system.stripe_url, system.aws_url)) as host,
    ):
        variables.write_text(json.dumps(system.sam_environment(host)), "utf-8")
        for case in each:
            began = monotonic()
            if case.event is None:
                there, word = Answered("nothing tried", failed=True), "NO EVENT FILE"
            else:
                there = invoke(case, variables)
                word = verdict(there, here.get(case.logical_id))
            unwell += word != "well"
            shown = here.get(case.logical_id, Answered("-")).what
            first = f"{there.milliseconds:.0f}" if there.milliseconds is not None else "-"
            name = case.event.stem if case.event is not None else "-"
            print(_row(case.function, name, there.what, shown, first, f"{monotonic() - began:.0f}", word), flush=True)
    return unwell


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's own words for the exit codes."""
    parser = argparse.ArgumentParser(prog="python -m local.sam_check", description=__doc__.partition("\n")[0])
    parser.add_argument("functions", nargs="*", help="by their folder's name; all when none is given")
    asked = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        docker_host()
    except NoDockerError as missing:
        print(f"skipped, no function was run in a container: {missing}", file=sys.stderr)
        return NOTHING_TRIED
    if not BUILT.exists() or not SAM.exists():
        print("nothing is built: run `make build-local` first, or `make sam-check`", file=sys.stderr)
        return 1
    each = list(cases(load(ROOT / "template.yaml"), EVENTS, asked.functions))
    with tempfile.TemporaryDirectory() as folder:
        unwell = check(each, Path(folder) / "environment.json")
    print(f"{len(each) - unwell} of {len(each)} functions answer in a container as in process")
    return 1 if unwell or not each else 0


if __name__ == "__main__":
    sys.exit(main())
