"""The whole system on one machine: every stand-in wired to the handlers, on one clock.

    system = System(Path("template.yaml"), Clock(start))        # in process, no sockets
    system = System(Path("template.yaml"), Clock(start), ports=Ports())  # and on loopback, after start()
    status, headers, body = system.call("GET", "/plans", token=system.token("ann", "acme"))
    system.run_until(next_month)

One system at a time in a process: handlers read one environment. `close` frees it for the next.
"""

import errno
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from local import control, template
from local.api_gateway import ApiGateway
from local.aws_endpoint import AwsEndpoint
from local.clock import Clock
from local.dynamodb import MemoryDynamoDB
from local.dynamodb.template import create_tables
from local.functions import Functions
from local.identity import Identity
from local.loopback import Loopback, PortInUseError, Request, Response, port_is_free
from local.queues import MemorySQS
from local.schedules import Schedules
from local.stack import Stack
from local.stores import BusEvent, MemoryEvents, MemoryS3, MemorySSM
from local.stripe_emulator.core import StripeEmulator
from local.stripe_emulator.transport import EmulatorHTTPClient, Server, serve
from local.triggers import QueuePoller, StreamPoller

ROOT = Path(__file__).resolve().parent.parent
AUDIENCE = "local"
LOOPBACK = "127.0.0.1"
IN_PROCESS_URL = "http://api.local"
WEBHOOK_ROUTE = "/stripe/webhook"
CALLBACK_ROUTE = "/stripe/oauth/callback"
DEFAULT_PORTAL = "http://localhost:8080"
MAX_ROUNDS = 100_000
MAX_IDLE_LOOKS = 3
DELIVERIES_AT_ONCE = 100
KEPT_DELIVERIES = 10_000
PUMP_SECONDS = 0.05

type Progress = Callable[[datetime], None]
type Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of the API, Stripe's emulator and the AWS stand-ins; 0 picks a free one."""

    api: int = 0
    stripe: int = 0
    aws: int = 0


@dataclass(frozen=True, slots=True)
class StripeAccount:
    """A real Stripe platform account in test mode, instead of the emulator."""

    key: str
    client_id: str
    webhook_secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """One webhook that was posted, and what the webhook answered."""

    event: str
    type: str
    status: int
    at: datetime


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> dict[str, Any]:
    """The template; reading it takes longer than all the rest of making a system. Nobody writes into it."""
    return template.load(path)


class StalledError(RuntimeError):
    """Something stays due although it was run: the system would run for ever without moving the clock."""


class System:
    """Everything `template.yaml` declares, running.

    `parameters` adds values for the template's parameters. With `ports` the three servers answer on loopback between
    `start` and `close`; PortInUseError names a port that is taken. `stripe` replaces the emulator by Stripe itself.
    Handlers call the emulator in process, or with `stripe_over_http` through its server, as they would call Stripe.
    """

    def __init__(
        self,
        template_path: Path = ROOT / "template.yaml",
        clock: Clock | None = None,
        *,
        seed: int = 0,
        ports: Ports | None = None,
        parameters: Mapping[str, str] | None = None,
        portal_origins: Sequence[str] = (DEFAULT_PORTAL,),
        stripe: StripeAccount | None = None,
        emulator: StripeEmulator | None = None,
        environment: Mapping[str, str] | None = None,
        log_level: str = "CRITICAL",
        throttled: bool = False,
        stripe_over_http: bool = False,
        index_lag: int | timedelta | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self._ports = ports
        self._servers: list[Loopback] = []
        self._stripe_server: Server | None = None
        self._ticker: threading.Thread | None = None
        self._stopping = threading.Event()
        self._pumping = threading.RLock()
        self.delivered: deque[Delivered] = deque(maxlen=KEPT_DELIVERIES)
        self._api_server = self._bind("API", ports.api) if ports is not None else None
        self._aws_server = self._bind("AWS stand-ins", ports.aws) if ports is not None else None
        self.url = self._api_server.url if self._api_server is not None else IN_PROCESS_URL
        self.aws_url = self._aws_server.url if self._aws_server is not None else "http://sqs.local"
        self.emulator = emulator or StripeEmulator(self.clock, seed=seed)
        self.stripe_url = self._serve_stripe(ports) if ports is not None else self.emulator.base_url
        self.emulator.redirect_uris.append(f"{self.url}{CALLBACK_ROUTE}")
        account = stripe or StripeAccount(
            self.emulator.platform_key, self.emulator.client_id, tuple(self.emulator.webhooks.secrets)
        )
        self.template = _read(template_path.resolve(), template_path.stat().st_mtime_ns)
        self.stack = Stack(
            self.template,
            self._parameters(account, portal_origins, stripe is None, log_level) | dict(parameters or {}),
            queue_base=self.aws_url,
        )
        specs = self.stack.functions()
        self.functions = Functions(
            specs, template_path.resolve().parent, self.clock, overrides=self._endpoints() | dict(environment or {}),
            seed=seed,
        )  # fmt: skip
        variables = self.functions.environment
        self.dynamodb = MemoryDynamoDB(self.clock, index_lag=index_lag)
        self.tables = create_tables(self.dynamodb.as_boto3(), self.template, parameters=self.stack.values)
        self.sqs = MemorySQS(list(self.stack.queues().values()), self.clock, seed=seed)
        self.ssm = MemorySSM(
            {
                variables.get("STRIPE_KEY_PARAMETER", ""): account.key,
                variables.get("WEBHOOK_SECRETS_PARAMETER", ""): json.dumps(account.webhook_secrets),
            }
        )
        self.events = MemoryEvents(self.clock)
        self.s3 = MemoryS3(self.clock, self.url)
        self.identity: Identity = Identity(
            f"{self.url}/_local/identity",
            AUDIENCE,
            self.clock,
            claim_organization=variables.get("CLAIM_ORGANIZATION", "organization"),
            claim_plan=variables.get("CLAIM_PLAN", "platform_plan"),
            claim_roles=variables.get("CLAIM_ROLES", "roles"),
        )
        self.gateway = ApiGateway(
            self.stack.api(), self.functions.invoke, self.clock, self.identity.find_key, throttled=throttled
        )
        self.schedules = Schedules(self.stack.schedules(), specs, self.clock, self.functions.invoke, self.sqs.send_to)
        self._queues = [
            QueuePoller(trigger, self.sqs, self.functions.invoke) for trigger in self.stack.queue_triggers()
        ]
        self._streams = [
            StreamPoller(trigger, self.dynamodb, self.clock, self.functions.invoke, self.sqs.send_to)
            for trigger in self.stack.stream_triggers()
        ]
        self._polled = [poller.trigger.queue for poller in self._queues]
        self._real_stripe = stripe is not None
        self._stripe_over_http = stripe_over_http and ports is not None
        self.wire()

    # Wiring

    def _bind(self, what: str, port: int) -> Loopback:
        try:
            server = Loopback(what, port)
        except PortInUseError:
            self.close()
            raise
        self._servers.append(server)
        return server

    def _serve_stripe(self, ports: Ports) -> str:
        if ports.stripe and not port_is_free(ports.stripe):
            self.close()
            message = f"port {ports.stripe} is in use: the Stripe emulator cannot listen there; choose another port"
            raise PortInUseError(errno.EADDRINUSE, message)
        self._stripe_server = serve(self.emulator, port=ports.stripe)
        return self._stripe_server.url

    def _parameters(
        self, account: StripeAccount, portal_origins: Sequence[str], emulated: bool, log_level: str
    ) -> dict[str, str]:
        wanted = {
            "StripeClientId": account.client_id,
            "StripeApiBase": self.stripe_url if emulated else "",
            "StripeConnectBase": self.stripe_url if emulated else "",
            "PublicBaseUrl": self.url,
            "PortalUrl": ",".join(portal_origins),
            "UpgradeUrl": f"{portal_origins[0]}/upgrade",
            "JwtIssuer": f"{self.url}/_local/identity",
            "JwtAudience": AUDIENCE,
            "Livemode": "false",
            "LogLevel": log_level,
            "Tracing": "off",
        }
        return {name: value for name, value in wanted.items() if name in self.template.get("Parameters", {})}

    def _endpoints(self) -> dict[str, str]:
        return {f"AWS_ENDPOINT_URL_{service}": self.aws_url for service in ("DYNAMODB", "SQS", "SSM", "EVENTBRIDGE")}

    def wire(self) -> None:
        """Hand the stand-ins to the handlers. Done at start; again after somebody else has overridden them."""
        from monetize import wiring

        parts: dict[str, Any] = {
            "clock": self.clock,
            "dynamodb": self.dynamodb,
            "sqs": self.sqs,
            "ssm": self.ssm,
            "events": self.events,
            "s3": self.s3,
        }
        if not self._real_stripe and not self._stripe_over_http:
            parts["stripe_http"] = EmulatorHTTPClient(self.emulator)
        wiring.override(**parts)

    # Life

    def start(self, *, ticking: bool = False) -> Self:
        """Answer on loopback. With `ticking`, a thread runs what becomes due (`make run`)."""
        if self._api_server is not None and self._aws_server is not None:
            endpoint = AwsEndpoint(self.dynamodb, {"sqs": self.sqs, "ssm": self.ssm, "events": self.events})
            self._aws_server.start(endpoint.handle)
            self._api_server.start(self.handle)
        if ticking:
            self._ticker = threading.Thread(target=self._tick, name="pump", daemon=True)
            self._ticker.start()
        return self

    def close(self) -> None:
        """Stop the servers and give the environment back."""
        self._stopping.set()
        if self._ticker is not None:
            self._ticker.join(10)
        for server in self._servers:
            server.close()
        if self._stripe_server is not None:
            self._stripe_server.close()
        if hasattr(self, "functions"):
            from monetize import wiring

            wiring.override()
            self.functions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Requests

    def handle(self, request: Request) -> Response:
        """One request to the API, or to the control page under `/_local`."""
        if request.target.startswith("/_local"):
            return control.handle(self, request)
        return self.gateway.handle(request)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        """One request through the gateway without sockets: (status, headers, body).

        `body` is bytes or text as it is, or anything else as JSON; `path` may carry a query. Header names come back in
        lower case, repeated ones joined by commas.
        """
        sent = [(name.lower(), value) for name, value in (headers or {}).items()]
        if isinstance(body, str):
            body = body.encode()
        elif body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            if not any(name == "content-type" for name, _ in sent):
                sent.append(("content-type", "application/json"))
        if token is not None:
            sent.append(("authorization", f"Bearer {token}"))
        response = self.handle(Request(method.upper(), path, sent, body or b""))
        answered: dict[str, str] = {}
        for name, value in response.headers:
            answered[name] = f"{answered[name]},{value}" if name in answered else value
        return response.status, answered, response.body

    def token(self, user: str, organization: str, **claims: Any) -> str:
        """An access token; see `Identity.token`."""
        return self.identity.token(user, organization, **claims)

    # Time

    def pump(self, progress: Progress | None = None) -> int:
        """Run everything due at the present instant until nothing is left; gives how much was done."""
        with self._pumping:
            self.dynamodb.expire()
            total = 0
            for _ in range(MAX_ROUNDS):
                done = self.schedules.run_due()
                done += sum(poller.run_due() for poller in self._queues)
                done += self._deliver_webhooks()
                done += sum(poller.run_due() for poller in self._streams)
                if not done:
                    return total
                total += done
                if progress is not None:
                    progress(self.clock.now())
            raise StalledError(f"{MAX_ROUNDS} rounds at {self.clock.now().isoformat()} and still something is due")

    def next_due(self) -> datetime | None:
        """When anything happens next by itself: a message, a schedule, a webhook, a retry."""
        known = [self.schedules.next_due(), self.sqs.next_visible(self._polled), self.emulator.next_due_at()]
        known += [poller.next_due() for poller in self._streams]
        return min((at for at in known if at is not None), default=None)

    def run_until(self, instant: datetime, progress: Progress | None = None) -> None:
        """Move the clock to `instant`, stopping at every due instant on the way to run what is due there.

        `progress` is told the time whenever something was done.
        """
        with self._pumping:
            idle = 0
            while True:
                done = self.pump(progress)
                due = self.next_due()
                if due is None or due > instant:
                    break
                # A ticking clock may pass something between two looks, so once is no proof.
                idle = idle + 1 if due <= self.clock.now() and not done else 0
                if idle > MAX_IDLE_LOOKS:
                    raise StalledError(f"due since {due.isoformat()} and never run")
                self.clock.move_to(due)
            self.clock.move_to(instant)
            self.pump(progress)

    def run_for(self, duration: timedelta, progress: Progress | None = None) -> None:
        """`run_until` so much later."""
        self.run_until(self.clock.now() + duration, progress)

    def _deliver_webhooks(self) -> int:
        if self._real_stripe:
            return 0
        deliveries = self.emulator.due_deliveries(limit=DELIVERIES_AT_ONCE)
        for delivery in deliveries:
            headers = [(name.lower(), value) for name, value in delivery.headers.items()]
            response = self.gateway.handle(Request("POST", WEBHOOK_ROUTE, headers, delivery.body))
            self.emulator.deliver(delivery, response.status)
            self.delivered.append(Delivered(delivery.event.id, delivery.event.type, response.status, self.clock.now()))
        return len(deliveries)

    def _tick(self) -> None:
        while not self._stopping.wait(PUMP_SECONDS):
            try:
                self.pump()
            except StalledError as stalled:
                print(f"the system is stuck: {stalled}", file=sys.stderr)

    # To look at

    def outbox(self, after: int = 0) -> list[BusEvent]:
        """Events put on the bus, oldest first, from a position on."""
        return self.events.since(after)

    def sam_environment(self, host: str = LOOPBACK) -> dict[str, dict[str, str]]:
        """What `sam local … --env-vars` takes: by logical id, the environment that leads to these stand-ins.

        `host` is what a container calls this machine. Only variables that the template declares: SAM drops all others,
        and takes region and credentials from the machine's own settings, or made-up ones.
        """
        shared = {"AWS_ENDPOINT_URL": self.aws_url}
        if not self._real_stripe:
            shared |= {"STRIPE_API_BASE": self.stripe_url, "STRIPE_CONNECT_BASE": self.stripe_url}
        there = {name: url.replace(f"//{LOOPBACK}:", f"//{host}:") for name, url in shared.items()}
        own = {spec.logical_id: {**spec.environment, **there} for spec in self.functions.specs.values()}
        # What SAM calls Parameters is for functions that are not listed: those this system was not asked for.
        return {"Parameters": there, **own}
