"""Keep the whole system up on this machine: `python -m local.run`, or `make run`.

It listens on loopback alone. With `--docker` (`make run DOCKER=1`) containers reach it too, and `.local/sam-env.json`
is what `sam local … --env-vars .local/sam-env.json` needs: docs/sam-local.md.
With STRIPE_TEST_KEY, STRIPE_TEST_CLIENT_ID and STRIPE_TEST_WEBHOOK_SECRET set, Stripe's own test mode takes the
emulator's place; `stripe listen --forward-connect-to …/stripe/webhook` then brings the webhooks.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from local.clock import Clock
from local.containers import NoDockerError, reachable
from local.loopback import PortInUseError
from local.stores import BusEvent
from local.system import LOOPBACK, ROOT, Ports, StripeAccount, System

API_PORT = 8787
PRINT_IT = """python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'"""
SAMPLE_USERS = {
    "publisher": {"user": "ann", "organization": "acme", "roles": ["publisher_admin"]},
    "subscriber": {"user": "bob", "organization": "globex", "roles": ["subscriber"]},
    "gateway": {"user": "edge", "organization": "acme", "roles": ["gateway"]},
    "trial": {"user": "tom", "organization": "trialists", "roles": ["publisher_admin"], "plan": "trial"},
}


def stripe_account(environment: Mapping[str, str]) -> StripeAccount | None:
    """The real Stripe platform account that the environment names, in test mode. ValueError for a live key."""
    key = environment.get("STRIPE_TEST_KEY", "")
    if not key:
        return None
    if "_test_" not in key:
        raise ValueError("STRIPE_TEST_KEY is no test mode key: this machine never works on live money")
    secrets = tuple(s for s in environment.get("STRIPE_TEST_WEBHOOK_SECRET", "").split(",") if s)
    return StripeAccount(key, environment.get("STRIPE_TEST_CLIENT_ID", ""), secrets)


def write_sam_environment(system: System, folder: Path, host: str = LOOPBACK) -> Path:
    """Write what `sam local --env-vars` reads; gives the file. `host` is what containers call this machine."""
    folder.mkdir(exist_ok=True)
    path = folder / "sam-env.json"
    path.write_text(json.dumps(system.sam_environment(host), indent=2) + "\n", "utf-8")
    return path


def announcement(system: System, sam_file: Path | None = None) -> str:
    """What a person needs to begin: addresses, a token for each kind of caller, a first request."""
    sam = [
        "SAM (docs/sam-local.md), after `make build-local`, with .venv-sam/bin on PATH:",
        f"  sam local invoke PlansFunction -e events/plans_list_plans.json --env-vars {sam_file}",
        f"  sam local start-api --env-vars {sam_file}",
    ]
    if sam_file is None:
        sam = ["SAM (docs/sam-local.md): `make run DOCKER=1` lets the containers of sam local in."]
    tokens = {name: system.token(**claims) for name, claims in SAMPLE_USERS.items()}  # type: ignore[arg-type] # literal
    lines = [
        f"API             {system.url}",
        f"control page    {system.url}/_local",
        f"events          {system.url}/_local/events, and below as they are told",
        f"Stripe          {system.stripe_url}",
        f"AWS stand-ins   {system.aws_url}   (DynamoDB, SQS, SSM, EventBridge)",
        f"issuer          {system.identity.issuer}",
        "",
        "Tokens, good for an hour (more: POST /_local/tokens):",
        *(f"  {name:<11} {token}" for name, token in tokens.items()),
        "",
        "Try:",
        f"  TOKEN=$(curl -s {system.url}/_local/tokens -d '{json.dumps(SAMPLE_USERS['publisher'])}' | {PRINT_IT})",
        f"  curl -s -X POST {system.url}/monetization/connect -d '{{}}' \\",
        '    -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json"',
        "Open the authorize_url that it answers and authorize. The browser then goes to the portal, where nothing need",
        "listen: copy the completion from its address, and",
        f'  curl -s -X POST {system.url}/monetization/enable -d \'{{"completion": "COMPLETION"}}\' \\',
        '    -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json"',
        f"  curl -s -X POST {system.url}/_local/clock -d '{{\"by\": 86400}}'   # a day later",
        "",
        *sam,
        "",
        "Ctrl-C stops it; nothing is kept.",
    ]
    return "\n".join(lines)


def told(event: BusEvent) -> str:
    """One line for an event that went out."""
    return f"{event.at:%Y-%m-%dT%H:%M:%SZ} {event.detail_type} {json.dumps(event.detail, separators=(',', ':'))}"


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.run", description="The whole system on this machine.")
    parser.add_argument("--port", type=int, default=API_PORT, help="of the API; the next two serve Stripe and AWS")
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the stand-ins")
    parser.add_argument("--template", type=Path, default=ROOT / "template.yaml")
    parser.add_argument("--portal", default="http://localhost:8080", help="origins of the portal, by commas")
    parser.add_argument("--docker", action="store_true", help="let containers in, for sam local")
    parser.add_argument("--log-level", default="WARNING", help="of the functions' logs, on standard output")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until interrupted. 1 when it cannot start, with the reason on standard error."""
    asked = _arguments(sys.argv[1:] if argv is None else argv)
    following = (asked.port, asked.port + 1, asked.port + 2) if asked.port else (0, 0, 0)
    try:
        system = System(
            asked.template,
            Clock(ticking=True),
            seed=asked.seed,
            ports=Ports(*following),
            portal_origins=asked.portal.split(","),
            stripe=stripe_account(os.environ),
            log_level=asked.log_level,
            stripe_over_http=True,
        )
    except (PortInUseError, FileNotFoundError, ValueError) as cannot:
        print(f"cannot start: {cannot.strerror if isinstance(cannot, PortInUseError) else cannot}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    with system.start(ticking=True), ExitStack() as doors:
        sam_file = None
        if asked.docker:
            try:
                host = doors.enter_context(reachable((system.stripe_url, system.aws_url)))
            except (NoDockerError, OSError) as cannot:
                print(f"cannot start: {cannot}", file=sys.stderr)
                return 1
            sam_file = write_sam_environment(system, ROOT / ".local", host).relative_to(ROOT)
        print(announcement(system, sam_file), flush=True)
        system.events.listener = lambda event: print(told(event), flush=True)
        stop.wait()
        print("stopping", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
