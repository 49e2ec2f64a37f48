"""Does a request carry the parameters that the pinned SDK's own types name? Decodes and coerces them on the way.

The SDK declares every operation as a method of a `*Service` class, and its parameters as a TypedDict. The index of
(verb, path) is read from the sources without importing them; a type is compiled into a checker when first needed.
"""

import re
import typing
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union
from urllib.parse import parse_qsl

import stripe
from stripe._request_options import RequestOptions
from stripe._stripe_object import UntypedStripeObject
from typing_extensions import is_typeddict

from local.stripe_emulator.refusals import Refusal, invalid, missing

Tree = dict[str, Any]
Checker = Callable[[Any, str], Any]

_OPTIONS = frozenset(RequestOptions.__annotations__)
_SDK = Path(stripe.__file__).parent
_IMPORT = re.compile(r"from (stripe\.params\S+) import (?:\(([^)]*)\)|(\w+))")
_CALL = re.compile(r"self\._request\(\s*\"(\w+)\",\s*\"([^\"]+)\"")
_PARAMS = re.compile(r"\bparams: (?:Optional\[)?\"(\w+)\"")
_PART = re.compile(r"\[([^\]]*)\]")
_INTEGER = re.compile(r"-?\d{1,18}\Z")
MAX_DEPTH = 12
MAX_FIELDS = 20_000


@cache
def operations() -> dict[tuple[str, str], tuple[str, str] | None]:
    """(VERB, path template) → (module, name) of the parameter type, for every operation of the SDK."""
    found: dict[tuple[str, str], tuple[str, str] | None] = {}
    for source in sorted(_SDK.rglob("_*_service.py")):
        text = source.read_text(encoding="utf-8")
        home = {
            name.strip(): module
            for module, many, one in _IMPORT.findall(text)
            for name in (many or one).split(",")
            if name.strip()
        }
        for method in re.split(r"\n    (?:async )?def ", text)[1:]:
            if call := _CALL.search(method):
                named = _PARAMS.search(method)
                verb, path = call.group(1).upper(), re.sub(r"\{\w+\}", "{}", call.group(2))
                found[verb, path] = (home[named.group(1)], named.group(1)) if named else None
    return found


@cache
def checker_of(verb: str, path: str) -> Checker:
    """The checker of one operation, `path` with `{}` for each id. KeyError: the SDK has no such operation."""
    named = operations()[verb, path]
    if named is None:
        return _hash({}, frozenset())
    return typed_dict(getattr(import_module(named[0]), named[1]))


def check(verb: str, path: str, tree: Tree) -> Tree:
    """The parameters, coerced (int, bool, str, Decimal, list, dict). Raises Refusal, never stored under a key."""
    try:
        checked: Tree = checker_of(verb, path)(tree, "")
    except Refusal as refusal:
        raise refusal.not_stored() from None
    return checked


def decode(encoded: str) -> Tree:
    """`a[b][0][c]=1` → `{"a": {"b": {"0": {"c": "1"}}}}`; lists stay keyed by index until their type is known."""
    tree: Tree = {}
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise invalid(f"Invalid request: more than {MAX_FIELDS} parameters").not_stored() from None
    for key, value in pairs:
        bracket = key.find("[")
        if bracket < 0:
            tree[key] = value
            continue
        parts = [key[:bracket], *_PART.findall(key, bracket)]
        if len(parts) > MAX_DEPTH:
            raise invalid(f"Invalid parameter: {parts[0]} is nested too deeply", parts[0]).not_stored()
        node = tree
        for part in parts[:-1]:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                raise invalid(f"Invalid object: {key}", parts[0]).not_stored()
            node = below
        last = parts[-1] or str(len(node))
        node[last] = value
    return tree


def typed_dict(declared: Any) -> Checker:
    """The checker of a TypedDict of the SDK."""
    namespace = vars(import_module(declared.__module__))
    fields = {
        name: _compile(hint, namespace) for name, hint in declared.__annotations__.items() if name not in _OPTIONS
    }
    return _hash(fields, frozenset(declared.__required_keys__) - _OPTIONS)


def _hash(fields: dict[str, Checker], required: frozenset[str]) -> Checker:
    def checked(value: Any, at: str) -> Tree:
        if not isinstance(value, dict):
            raise invalid(f"Invalid object: {at} must be a hash", at)
        result: Tree = {}
        for name, given in value.items():
            field = fields.get(name)
            where = f"{at}[{name}]" if at else name
            if field is None:
                raise invalid(f"Received unknown parameter: {where}", where, "parameter_unknown")
            result[name] = field(given, where)
        for name in required:
            if name not in result:
                raise missing(f"{at}[{name}]" if at else name)
        return result

    return checked


def _compile(hint: Any, namespace: dict[str, Any]) -> Checker:
    hint = _resolved(hint, namespace)
    origin = typing.get_origin(hint)
    if origin in (Union, UnionType):
        return _union([_resolved(arm, namespace) for arm in typing.get_args(hint)], namespace)
    if origin is Literal:
        return _enum(typing.get_args(hint))
    if origin in (list, typing.List):  # noqa: UP006 (the SDK's own spelling)
        return _list(_compile(typing.get_args(hint)[0], namespace))
    if origin is dict:
        return _map(_compile(typing.get_args(hint)[1], namespace))
    if is_typeddict(hint):
        return _lazy(hint)
    return _SCALARS.get(hint, _anything)


def _resolved(hint: Any, namespace: dict[str, Any]) -> Any:
    """Evaluate forward references, drop NotRequired and Required."""
    while True:
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        if isinstance(hint, str):
            hint = eval(hint, namespace)  # noqa: S307 (annotations of the installed SDK, never input)
        elif getattr(typing.get_origin(hint), "_name", None) in {"NotRequired", "Required"}:
            hint = typing.get_args(hint)[0]
        else:
            return hint


def _lazy(declared: Any) -> Checker:
    """Nested types are compiled on first use: an invoice names hundreds that nobody sends."""
    compiled: list[Checker] = []

    def checked(value: Any, at: str) -> Any:
        if not compiled:
            compiled.append(typed_dict(declared))
        return compiled[0](value, at)

    return checked


def _union(arms: list[Any], namespace: dict[str, Any]) -> Checker:
    """`Literal['']` lets a value be unset; `Literal[...] | str` is closed for the API, open only for the SDK."""
    flat: list[Any] = []
    for arm in arms:
        inner = typing.get_args(arm) if typing.get_origin(arm) in (Union, UnionType) else (arm,)
        flat.extend(_resolved(one, namespace) for one in inner)
    literals = [word for arm in flat if typing.get_origin(arm) is Literal for word in typing.get_args(arm)]
    words = tuple(word for word in literals if word != "")
    others = [
        arm
        for arm in flat
        if typing.get_origin(arm) is not Literal
        and arm is not type(None)
        and typing.get_origin(arm) is not UntypedStripeObject
        and arm is not UntypedStripeObject
    ]
    if words:
        others = [arm for arm in others if arm is not str]
    checkers = [_compile(arm, namespace) for arm in others] + ([_enum(words)] if words else [])

    def checked(value: Any, at: str) -> Any:
        if value == "" and "" in literals:
            return ""
        refused: list[Refusal] = []
        for one in checkers:
            try:
                return one(value, at)
            except Refusal as refusal:
                refused.append(refusal)
        raise max(refused, key=_depth, default=invalid(f"Invalid value: {at}", at))

    return checkers[0] if len(checkers) == 1 and "" not in literals else checked


def _depth(refusal: Refusal) -> tuple[int, bool]:
    """Which arm of a union came closest: its complaint lies deepest, or has a code."""
    error = refusal.body["error"]
    return len(error.get("param", "")), "code" in error


def _enum(words: tuple[Any, ...]) -> Checker:
    known = {str(word).lower() if isinstance(word, bool) else str(word): word for word in words}

    def checked(value: Any, at: str) -> Any:
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {at}", at)
        if value not in known:
            raise invalid(f"Invalid {at}: must be one of {', '.join(known)}", at)
        return known[value]

    return checked


def _list(item: Checker) -> Checker:
    def checked(value: Any, at: str) -> list[Any]:
        if not isinstance(value, dict) or not all(key.isdigit() for key in value):
            raise invalid("Invalid array", at)
        return [item(value[key], f"{at}[{key}]") for key in sorted(value, key=int)]

    return checked


def _map(item: Checker) -> Checker:
    def checked(value: Any, at: str) -> Tree:
        if not isinstance(value, dict):
            raise invalid("Invalid object", at)
        return {key: "" if one == "" else item(one, f"{at}[{key}]") for key, one in value.items()}

    return checked


def _string(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"Invalid string: {at}", at)
    if value == "":
        raise invalid(
            f"You passed an empty string for '{at}'. We assume empty values are an attempt to unset a parameter; "
            f"however '{at}' cannot be unset.",
            at,
            "parameter_invalid_empty",
        )
    if len(value) > 5000:
        raise invalid(f"Invalid string: {at} must be at most 5000 characters", at)
    return value


def _integer(value: Any, at: str) -> int:
    if not isinstance(value, str) or not _INTEGER.match(value):
        raise invalid(f"Invalid integer: {value if isinstance(value, str) else at}", at, "parameter_invalid_integer")
    return int(value)


def _boolean(value: Any, at: str) -> bool:
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {value if isinstance(value, str) else at}", at)
    return bool(value == "true")


def _decimal(value: Any, at: str) -> Decimal:
    try:
        number = Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        raise invalid(f"Invalid decimal: {at}", at) from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -12:
        raise invalid(f"Invalid decimal: {at}; must contain at most 12 decimal places.", at)
    return number


def _anything(value: Any, _at: str) -> Any:
    return value


_SCALARS: dict[Any, Checker] = {str: _string, int: _integer, bool: _boolean, Decimal: _decimal, float: _decimal}
