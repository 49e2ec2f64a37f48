"""What `template.yaml` declares, every reference resolved to this machine: functions, routes, queues, schedules."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

REGION = "us-east-1"
ACCOUNT = "000000000000"
STACK_NAME = "local"
PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK_NAME}/00000000",
    "AWS::StackName": STACK_NAME,
    "AWS::URLSuffix": "amazonaws.com",
}
ARN_KINDS = {
    "AWS::DynamoDB::Table": ("dynamodb", "table/"),
    "AWS::Events::EventBus": ("events", "event-bus/"),
    "AWS::KMS::Key": ("kms", "key/"),
    "AWS::Lambda::Function": ("lambda", "function:"),
    "AWS::S3::Bucket": ("s3", ""),
    "AWS::SNS::Topic": ("sns", ""),
    "AWS::SQS::Queue": ("sqs", ""),
    "AWS::Serverless::Function": ("lambda", "function:"),
}
NAME_PROPERTIES = {
    "AWS::DynamoDB::Table": "TableName",
    "AWS::Events::EventBus": "Name",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SSM::Parameter": "Name",
    "AWS::Serverless::Function": "FunctionName",
}


class TemplateError(Exception):
    """The template says something this machine cannot follow; the message names where."""


class _NoValue:
    """`AWS::NoValue`: the property or element is absent."""


NO_VALUE = _NoValue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One Lambda function. `timeout` in seconds, `memory` in MB; `async_retries` and `on_failure` (a queue's ARN) rule
    what happens to events nobody waits for.
    """

    logical_id: str
    name: str
    arn: str
    code: str
    handler: str
    timeout: int
    memory: int
    environment: Mapping[str, str]
    async_retries: int
    on_failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAuthorizer:
    """A JWT authorizer: who issues, whom for, and the header that carries the token."""

    name: str
    issuer: str
    audience: tuple[str, ...]
    header: str = "authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Requests per second in the long run, and at once."""

    rate: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route of the HTTP API. `method` may be ANY; `path` is `$default` for the one that takes the rest."""

    method: str
    path: str
    function: str
    authorizer: JwtAuthorizer | None
    scopes: tuple[str, ...] = ()
    timeout: float = 30.0

    @property
    def key(self) -> str:
        """As API Gateway names it: `GET /plans/{id}`."""
        return self.path if self.path == "$default" else f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """The gateway's own CORS answers."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    credentials: bool
    max_age: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The HTTP API: routes, CORS, throttles by route key with `$default` for the others."""

    stage: str
    routes: tuple[Route, ...]
    cors: Cors | None
    throttles: Mapping[str, Throttle]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """An SQS queue. Durations in seconds; `dead_letters` is another queue's ARN."""

    name: str
    url: str
    arn: str
    visibility: int
    delay: int
    retention: int
    dead_letters: str | None
    max_receives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTrigger:
    """A queue's event source mapping."""

    function: str
    queue: str
    batch_size: int
    partial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTrigger:
    """A table stream's event source mapping. `retries` of -1 is without end."""

    function: str
    table: str
    batch_size: int
    partial: bool
    retries: int
    on_failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An EventBridge schedule. `payload` is the target's input as written, None for the service's own event."""

    name: str
    expression: str
    zone: str
    function: str
    payload: str | None
    retries: int
    dead_letters: str | None


@dataclass(slots=True)
class Stack:
    """A template (as `local.template.load` reads it) and this machine's values for its parameters.

    `queue_base` is where the queue stand-in answers (`http://127.0.0.1:9324`).
    """

    document: Mapping[str, Any]
    values: Mapping[str, str] = field(default_factory=dict)
    queue_base: str = "http://sqs.local"
    _conditions: dict[str, bool] = field(default_factory=dict)

    # Intrinsic functions

    def parameter(self, name: str) -> Any:
        """A parameter's local value, or its default; lists are split."""
        declared = self.document.get("Parameters", {})[name]
        value = self.values.get(name, declared.get("Default"))
        if value is None:
            raise TemplateError(f"parameter {name} has neither a default nor a local value")
        if declared.get("Type") == "CommaDelimitedList" or str(declared.get("Type", "")).startswith("List<"):
            return [part.strip() for part in str(value).split(",") if part.strip()]
        return str(value)

    def condition(self, name: str) -> bool:
        """Whether a named condition holds."""
        if name not in self._conditions:
            self._conditions[name] = bool(self.resolve(self.document["Conditions"][name]))
        return self._conditions[name]

    def resolve(self, value: Any) -> Any:
        """The value with references, conditions and substitutions carried out; NO_VALUE where it is to be absent."""
        if isinstance(value, dict):
            if len(value) == 1:
                ((name, argument),) = value.items()
                if name == "Ref":
                    return self._ref(argument)
                if name == "Condition":
                    return self.condition(argument) if isinstance(argument, str) else {name: self.resolve(argument)}
                if name.startswith("Fn::"):
                    return self._intrinsic(name[4:], argument)
            resolved = {key: self.resolve(item) for key, item in value.items()}
            return {key: item for key, item in resolved.items() if item is not NO_VALUE}
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not NO_VALUE]
        return value

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in PSEUDO_PARAMETERS:
            return PSEUDO_PARAMETERS[name]
        if name in self.document.get("Parameters", {}):
            return self.parameter(name)
        kind = self.document.get("Resources", {}).get(name, {}).get("Type")
        if kind == "AWS::SQS::Queue":
            return f"{self.queue_base}/{ACCOUNT}/{self.physical_name(name)}"
        return self.physical_name(name)

    def physical_name(self, logical_id: str) -> str:
        """What the resource is called here: its own name, or the logical id."""
        resource = self.document.get("Resources", {}).get(logical_id, {})
        named = NAME_PROPERTIES.get(resource.get("Type", ""))
        value = self.resolve(resource.get("Properties", {}).get(named, NO_VALUE)) if named else NO_VALUE
        return logical_id if value is NO_VALUE else str(value)

    def _attribute(self, logical_id: str, attribute: str) -> str:
        resource = self.document.get("Resources", {}).get(logical_id, {})
        kind = resource.get("Type", "")
        name = self.physical_name(logical_id)
        if attribute in {"Arn", "StreamArn"} and kind in ARN_KINDS:
            service, prefix = ARN_KINDS[kind]
            place = "::" if service == "s3" else f"{REGION}:{ACCOUNT}:"
            arn = f"arn:aws:{service}:{place}{prefix}{name}"
            return f"{arn}/stream/1970-01-01T00:00:00.000" if attribute == "StreamArn" else arn
        if attribute.endswith("Name"):
            return name
        return f"{name}.{attribute}"

    def _intrinsic(self, name: str, argument: Any) -> Any:  # noqa: C901 # a table of functions
        match name:
            case "Sub":
                return self._substitute(argument)
            case "GetAtt":
                logical_id, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
                return self._attribute(logical_id, str(self.resolve(attribute)))
            case "If":
                chosen = argument[1] if self.condition(argument[0]) else argument[2]
                return self.resolve(chosen)
            case "Equals":
                left, right = self.resolve(argument)
                return left == right
            case "Not":
                return not self.resolve(argument[0])
            case "And":
                return all(self.resolve(item) for item in argument)
            case "Or":
                return any(self.resolve(item) for item in argument)
            case "Join":
                return str(argument[0]).join(str(part) for part in self.resolve(argument[1]))
            case "Split":
                return str(self.resolve(argument[1])).split(argument[0])
            case "Select":
                return self.resolve(argument[1])[int(self.resolve(argument[0]))]
            case "FindInMap":
                first, second, third = self.resolve(argument)[:3]
                return self.resolve(self.document["Mappings"][first][second][third])
            case "Length":
                return len(self.resolve(argument))
            case "ToJsonString" | "Base64":
                return self.resolve(argument)
            case "GetAZs":
                return [f"{REGION}a", f"{REGION}b"]
        raise TemplateError(f"Fn::{name} is not known here")

    def _substitute(self, argument: Any) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else (argument[0], argument[1])

        def value(found: re.Match[str]) -> str:
            name = found.group(1)
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            if name in own:
                return str(self.resolve(own[name]))
            if "." in name:
                logical_id, attribute = name.split(".", 1)
                return self._attribute(logical_id, attribute)
            replaced = self._ref(name)
            return ",".join(replaced) if isinstance(replaced, list) else str(replaced)

        return re.sub(r"\$\{([^}]+)\}", value, text)

    # Resources

    def resources(self, *kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Logical id and resolved properties of each resource of these types whose condition holds."""
        for logical_id, resource in self.document.get("Resources", {}).items():
            if resource.get("Type") not in kinds:
                continue
            if "Condition" in resource and not self.condition(resource["Condition"]):
                continue
            yield logical_id, self.resolve(resource.get("Properties", {}))

    def _globals(self, section: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self.resolve(self.document.get("Globals", {}).get(section, {})))

    def functions(self) -> dict[str, Function]:
        """Every function, by logical id, with the Globals section merged in."""
        shared = self._globals("Function")
        shared_environment = shared.get("Environment", {}).get("Variables", {})
        found: dict[str, Function] = {}
        for logical_id, properties in self.resources("AWS::Serverless::Function"):
            merged = {**shared, **properties}
            environment = {**shared_environment, **properties.get("Environment", {}).get("Variables", {})}
            asynchronous = merged.get("EventInvokeConfig", {})
            on_failure = asynchronous.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
            found[logical_id] = Function(
                logical_id=logical_id,
                name=self.physical_name(logical_id),
                arn=self._attribute(logical_id, "Arn"),
                code=str(merged.get("CodeUri", ".")),
                handler=str(merged.get("Handler", "app.handler")),
                timeout=int(merged.get("Timeout", 3)),
                memory=int(merged.get("MemorySize", 128)),
                environment={name: _text(value) for name, value in environment.items()},
                async_retries=int(asynchronous.get("MaximumRetryAttempts", 2)),
                on_failure=on_failure or merged.get("DeadLetterQueue", {}).get("TargetArn"),
            )
        return found

    def _events(self, *kinds: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for logical_id, properties in self.resources("AWS::Serverless::Function"):
            for name, event in properties.get("Events", {}).items():
                if event.get("Type") in kinds:
                    yield logical_id, name, event.get("Properties", {})

    def api(self) -> Api:
        """The HTTP API that the functions' events name. One API per template."""
        shared = self._globals("HttpApi")
        own = [properties for _, properties in self.resources("AWS::Serverless::HttpApi")]
        if len(own) > 1:
            raise TemplateError("more than one AWS::Serverless::HttpApi")
        properties = {**shared, **(own[0] if own else {})}
        auth = properties.get("Auth", {})
        authorizers = {name: _authorizer(name, value) for name, value in auth.get("Authorizers", {}).items()}
        default = auth.get("DefaultAuthorizer")
        settings = dict(properties.get("RouteSettings", {}))
        if "DefaultRouteSettings" in properties:
            settings["$default"] = properties["DefaultRouteSettings"]
        routes: list[Route] = []
        for function, event_name, event in self._events("HttpApi"):
            route = _route(function, event, authorizers, default, event_name)
            routes.append(route)
            if "RouteSettings" in event:
                settings[route.key] = event["RouteSettings"]
        keys = [route.key for route in routes]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise TemplateError(f"routes declared twice: {', '.join(twice)}")
        return Api(
            stage=str(properties.get("StageName", "$default")),
            routes=tuple(routes),
            cors=_cors(properties.get("CorsConfiguration")),
            throttles={
                key: Throttle(rate=float(value["ThrottlingRateLimit"]), burst=int(value["ThrottlingBurstLimit"]))
                for key, value in settings.items()
                if "ThrottlingRateLimit" in value and "ThrottlingBurstLimit" in value
            },
        )

    def queues(self) -> dict[str, Queue]:
        """Every queue, by ARN."""
        found: dict[str, Queue] = {}
        for logical_id, properties in self.resources("AWS::SQS::Queue"):
            if properties.get("FifoQueue") in {True, "true"}:
                raise TemplateError(f"{logical_id}: FIFO queues have no stand-in here")
            redrive = properties.get("RedrivePolicy", {})
            arn = self._attribute(logical_id, "Arn")
            found[arn] = Queue(
                name=self.physical_name(logical_id),
                url=str(self._ref(logical_id)),
                arn=arn,
                visibility=int(properties.get("VisibilityTimeout", 30)),
                delay=int(properties.get("DelaySeconds", 0)),
                retention=int(properties.get("MessageRetentionPeriod", 345_600)),
                dead_letters=redrive.get("deadLetterTargetArn"),
                max_receives=int(redrive.get("maxReceiveCount", 0)),
            )
        return found

    def queue_triggers(self) -> list[QueueTrigger]:
        """The queues' event source mappings that are on."""
        found: list[QueueTrigger] = []
        for function, name, event in self._events("SQS"):
            if event.get("Enabled", True) in {False, "false"}:
                continue
            if "FilterCriteria" in event:
                raise TemplateError(f"{function}.{name}: filter criteria have no stand-in here")
            found.append(
                QueueTrigger(
                    function=function,
                    queue=str(event["Queue"]),
                    batch_size=int(event.get("BatchSize", 10)),
                    partial="ReportBatchItemFailures" in event.get("FunctionResponseTypes", []),
                )
            )
        return found

    def stream_triggers(self) -> list[StreamTrigger]:
        """The table streams' event source mappings that are on. `table` is the physical name."""
        found: list[StreamTrigger] = []
        for function, _, event in self._events("DynamoDB"):
            if event.get("Enabled", True) in {False, "false"}:
                continue
            found.append(
                StreamTrigger(
                    function=function,
                    table=str(event["Stream"]).split("/")[1],
                    batch_size=int(event.get("BatchSize", 100)),
                    partial="ReportBatchItemFailures" in event.get("FunctionResponseTypes", []),
                    retries=int(event.get("MaximumRetryAttempts", -1)),
                    on_failure=event.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"),
                )
            )
        return found

    def schedules(self) -> list[Schedule]:
        """Every schedule that is on: the functions' own and those declared beside them."""
        found: list[Schedule] = []
        functions = self.functions()
        by_arn = {function.arn: logical_id for logical_id, function in functions.items()}
        for function, name, event in self._events("ScheduleV2", "Schedule"):
            if event.get("State", "ENABLED") != "ENABLED" or event.get("Enabled", True) in {False, "false"}:
                continue
            expression = event.get("ScheduleExpression") or event["Schedule"]
            found.append(_schedule(str(event.get("Name", f"{function}{name}")), expression, function, event, event))
        for logical_id, properties in self.resources("AWS::Scheduler::Schedule"):
            target = properties["Target"]
            if properties.get("State", "ENABLED") != "ENABLED":
                continue
            if target["Arn"] not in by_arn:
                raise TemplateError(f"{logical_id}: the target is no function of this template")
            name = str(properties.get("Name", logical_id))
            found.append(_schedule(name, properties["ScheduleExpression"], by_arn[target["Arn"]], properties, target))
        return found


def _text(value: Any) -> str:
    """An environment variable's value as Lambda gets it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _authorizer(name: str, properties: Mapping[str, Any]) -> JwtAuthorizer:
    jwt = properties.get("JwtConfiguration")
    if jwt is None:
        raise TemplateError(f"authorizer {name}: only JWT authorizers have a stand-in here")
    audience = jwt.get("audience", [])
    source = str(properties.get("IdentitySource", "$request.header.Authorization"))
    return JwtAuthorizer(
        name=name,
        issuer=str(jwt["issuer"]),
        audience=(audience,) if isinstance(audience, str) else tuple(audience),
        header=source.rpartition(".")[2].lower(),
    )


def _route(
    function: str,
    event: Mapping[str, Any],
    authorizers: Mapping[str, JwtAuthorizer],
    default: str | None,
    event_name: str,
) -> Route:
    path = str(event.get("Path", "$default"))
    method = str(event.get("Method", "ANY")).upper()
    auth = event.get("Auth", {})
    named = auth.get("Authorizer", default)
    if named not in {None, "NONE"} and named not in authorizers:
        raise TemplateError(f"{function}.{event_name}: no authorizer {named}")
    if str(event.get("PayloadFormatVersion", "2.0")) != "2.0":
        raise TemplateError(f"{function}.{event_name}: only payload format 2.0 has a stand-in here")
    return Route(
        method="ANY" if method in {"ANY", "X-AMAZON-APIGATEWAY-ANY-METHOD", "*"} else method,
        path=path,
        function=function,
        authorizer=None if named in {None, "NONE"} else authorizers[named],
        scopes=tuple(auth.get("AuthorizationScopes", ())),
        timeout=min(30.0, int(event.get("TimeoutInMillis", 30_000)) / 1000),
    )


def _cors(properties: Any) -> Cors | None:
    if properties in (None, False):
        return None
    if properties is True:
        properties = {"AllowOrigins": ["*"]}

    def names(key: str) -> tuple[str, ...]:
        value = properties.get(key, [])
        return (value,) if isinstance(value, str) else tuple(value)

    return Cors(
        origins=names("AllowOrigins"),
        methods=names("AllowMethods"),
        headers=names("AllowHeaders"),
        exposed=names("ExposeHeaders"),
        credentials=properties.get("AllowCredentials") in {True, "true"},
        max_age=int(properties["MaxAge"]) if "MaxAge" in properties else None,
    )


def _schedule(
    name: str, expression: str, function: str, timing: Mapping[str, Any], target: Mapping[str, Any]
) -> Schedule:
    return Schedule(
        name=name,
        expression=str(expression),
        zone=str(timing.get("ScheduleExpressionTimezone", "UTC")),
        function=function,
        payload=target.get("Input"),
        retries=int(target.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185)),
        dead_letters=target.get("DeadLetterConfig", {}).get("Arn"),
    )
