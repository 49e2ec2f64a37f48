"""Condition, filter, key condition, projection and update expressions: parsed once per text, run on any item.

Attribute names (`#name`) and values (`:value`) stay symbolic in what is cached, so an expression whose names or
values change at every call is still parsed once.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any, NoReturn, cast

from local.dynamodb.errors import InvalidOperationError, InvalidRequestError
from local.dynamodb.reserved import RESERVED
from local.dynamodb.values import (
    ORDERED,
    SETS,
    TYPE_NAMES,
    Item,
    Value,
    copy_value,
    plus,
    shown,
    sortable,
    sorted_set,
)

type Names = Mapping[str, str]
type Values = Mapping[str, Value]
type Operand = Callable[[Item, Names, Values], Value | None]
type Test = Callable[[Item, Names, Values], bool]
type Step = str | int
type Resolved = tuple[Step, ...]

MAXIMUM_EXPRESSION_BYTES = 4096
CACHED_EXPRESSIONS = 4096

_TOKEN = re.compile(
    r"\s*(?:(?P<name>#[A-Za-z0-9_]+)|(?P<value>:[A-Za-z0-9_]+)|(?P<word>[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<integer>[0-9]+)|(?P<sign><=|>=|<>|[<>=(),.\[\]+\-])|(?P<end>$)|(?P<unknown>.))",
    re.DOTALL,
)
_COMPARATORS = frozenset({"=", "<>", "<", "<=", ">", ">="})
_CLAUSES = frozenset({"SET", "REMOVE", "ADD", "DELETE"})
_FUNCTION_ARITY = {
    "attribute_exists": 1,
    "attribute_not_exists": 1,
    "attribute_type": 2,
    "begins_with": 2,
    "contains": 2,
}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value is, names not yet resolved."""

    steps: tuple[Step, ...]

    def resolved(self, names: Names) -> Resolved:
        return tuple(names[step] if isinstance(step, str) and step[0] == "#" else step for step in self.steps)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A `:value`."""

    name: str


@dataclass(frozen=True, slots=True)
class Size:
    """`size(operand)`."""

    of: "Path | Placeholder"


type Term = Path | Placeholder | Size


@dataclass(frozen=True, slots=True)
class Comparison:
    operator: str
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Between:
    term: Term
    low: Term
    high: Term


@dataclass(frozen=True, slots=True)
class Among:
    term: Term
    options: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Not:
    operand: "Condition"


@dataclass(frozen=True, slots=True)
class Junction:
    operator: str
    left: "Condition"
    right: "Condition"


@dataclass(frozen=True, slots=True)
class Group:
    """A condition in parentheses."""

    inner: "Condition"


type Condition = Comparison | Between | Among | Call | Not | Junction | Group


@dataclass(frozen=True, slots=True)
class ValueRule:
    """The types that a `:value` may have where it is used: checked for every request, before any item is read."""

    placeholder: str
    allowed: frozenset[str]
    operator: str

    def check(self, kind: str, values: Values) -> None:
        (found,) = values[self.placeholder]
        if found not in self.allowed:
            label = "operator" if self.operator in {"ADD", "DELETE"} else "operator or function"
            shown_type = TYPE_NAMES[found] if label == "operator" else found
            raise InvalidRequestError(
                f"Invalid {kind}: Incorrect operand type for operator or function; "
                f"{label}: {self.operator}, operand type: {shown_type}"
            )


@dataclass(frozen=True, slots=True)
class Symbols:
    """What an expression needs from a request."""

    names: frozenset[str]
    values: frozenset[str]
    rules: tuple[ValueRule, ...]
    ranges: tuple[tuple[str, str], ...]
    paths: tuple[Path, ...]


@dataclass(slots=True)
class Seen:
    """Symbols met while parsing."""

    names: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    rules: list[ValueRule] = field(default_factory=list)
    ranges: list[tuple[str, str]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def frozen(self) -> Symbols:
        return Symbols(
            frozenset(self.names), frozenset(self.values), tuple(self.rules), tuple(self.ranges), tuple(self.paths)
        )


class Parser:
    """Recursive descent over one expression of one kind, for instance "ConditionExpression"."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.seen = Seen()
        if not text:
            self.fail("The expression can not be empty;")
        if len(text.encode()) > MAXIMUM_EXPRESSION_BYTES:
            self.fail("Expression size has exceeded the maximum allowed size;")
        self.text = text
        self.tokens = [
            Token(match.lastgroup or "end", match[match.lastgroup or "end"], match.start(match.lastgroup or "end"))
            for match in _TOKEN.finditer(text)
        ]
        self.position = 0

    def fail(self, reason: str) -> NoReturn:
        raise InvalidRequestError(f"Invalid {self.kind}: {reason}")

    def syntax_error(self) -> NoReturn:
        token = self.token
        if token.kind == "end":
            self.fail('Syntax error; token: "<EOF>", near: "' + self.text[-10:].strip() + '"')
        before = self.tokens[self.position - 1].start if self.position else token.start
        following = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
        near = self.text[before : following.start + len(following.text)].strip()
        self.fail(f'Syntax error; token: "{token.text}", near: "{near}"')

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.token
        self.position += 1
        return token

    def sees(self, text: str) -> bool:
        """Whether this sign, or keyword of any case, is next."""
        token = self.token
        return token.text == text if token.kind == "sign" else token.kind == "word" and token.text.upper() == text

    def accept(self, text: str) -> bool:
        if self.sees(text):
            self.position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.syntax_error()

    def end(self) -> None:
        if self.token.kind != "end":
            self.syntax_error()

    def at_call(self) -> bool:
        following = self.tokens[self.position + 1] if self.token.kind == "word" else None
        return following is not None and following.text == "("

    def path(self) -> Path:
        steps: list[Step] = [self.attribute()]
        while True:
            if self.accept("."):
                steps.append(self.attribute())
            elif self.accept("["):
                if self.token.kind != "integer":
                    self.syntax_error()
                steps.append(int(self.take().text))
                self.expect("]")
            else:
                break
        path = Path(tuple(steps))
        self.seen.paths.append(path)
        return path

    def attribute(self) -> str:
        token = self.token
        if token.kind == "name":
            self.seen.names.add(token.text)
        elif token.kind != "word":
            self.syntax_error()
        elif token.text.lower() in RESERVED:
            self.fail(f"Attribute name is a reserved keyword; reserved keyword: {token.text}")
        self.position += 1
        return token.text

    def placeholder(self) -> Placeholder:
        if self.token.kind != "value":
            self.syntax_error()
        name = self.take().text
        self.seen.values.add(name)
        return Placeholder(name)

    def path_or_value(self) -> Path | Placeholder:
        return self.placeholder() if self.token.kind == "value" else self.path()

    def term(self) -> Term:
        if not self.at_call():
            return self.path_or_value()
        function = self.take().text
        if function != "size":
            if function in _FUNCTION_ARITY:
                self.fail(f"The function is not allowed to be used this way in an expression; function: {function}")
            self.fail(f"Invalid function name; function: {function}")
        self.expect("(")
        of = self.path_or_value()
        self.expect(")")
        return Size(of)

    def rule(self, term: object, allowed: Iterable[str], operator: str) -> None:
        if isinstance(term, Placeholder):
            self.seen.rules.append(ValueRule(term.name, frozenset(allowed), operator))

    def condition(self) -> Condition:
        left = self.conjunction()
        while self.accept("OR"):
            left = Junction("OR", left, self.conjunction())
        return left

    def conjunction(self) -> Condition:
        left = self.negation()
        while self.accept("AND"):
            left = Junction("AND", left, self.negation())
        return left

    def negation(self) -> Condition:
        return Not(self.negation()) if self.accept("NOT") else self.primary()

    def primary(self) -> Condition:
        if self.accept("("):
            inner = self.condition()
            self.expect(")")
            if isinstance(inner, Group):
                self.fail("The expression has redundant parentheses;")
            return Group(inner)
        if self.at_call() and self.token.text != "size":
            return self.call()
        term = self.term()
        if self.accept("BETWEEN"):
            return self.between(term)
        if self.accept("IN"):
            return self.among(term)
        if self.token.text not in _COMPARATORS:
            self.syntax_error()
        operator = self.take().text
        right = self.term()
        if term == right:
            self.fail(
                "The first operand must be distinct from the remaining operands for this operator or function; "
                f"operator: {operator}, first operand: {_described(term)}"
            )
        if operator not in {"=", "<>"}:
            self.rule(term, ORDERED, operator)
            self.rule(right, ORDERED, operator)
        return Comparison(operator, term, right)

    def between(self, term: Term) -> Between:
        low = self.term()
        self.expect("AND")
        high = self.term()
        for bound in (term, low, high):
            self.rule(bound, ORDERED, "BETWEEN")
        if isinstance(low, Placeholder) and isinstance(high, Placeholder):
            self.seen.ranges.append((low.name, high.name))
        return Between(term, low, high)

    def among(self, term: Term) -> Among:
        self.expect("(")
        options = [self.term()]
        while self.accept(","):
            options.append(self.term())
        self.expect(")")
        return Among(term, tuple(options))

    def call(self) -> Call:
        function = self.take().text
        if function in {"if_not_exists", "list_append"}:
            self.fail(f"The function is not allowed in a condition expression; function: {function}")
        if function not in _FUNCTION_ARITY:
            self.fail(f"Invalid function name; function: {function}")
        self.expect("(")
        arguments = [self.term()]
        while self.accept(","):
            arguments.append(self.term())
        self.expect(")")
        if len(arguments) != _FUNCTION_ARITY[function]:
            self.fail(
                "Incorrect number of operands for operator or function; "
                f"operator or function: {function}, number of operands: {len(arguments)}"
            )
        if not isinstance(arguments[0], Path) and function.startswith("attribute"):
            self.fail(f"Operator or function requires a document path; operator or function: {function}")
        if function == "attribute_type":
            self.rule(arguments[1], {"S"}, function)
        elif function == "begins_with":
            self.rule(arguments[0], {"S", "B"}, function)
            self.rule(arguments[1], {"S", "B"}, function)
        return Call(function, tuple(arguments))


def _described(term: Term) -> str:
    if isinstance(term, Path):
        return f"[{', '.join(map(str, term.steps))}]"
    return term.name if isinstance(term, Placeholder) else f"size({_described(term.of)})"


def find(item: Item, path: Resolved) -> Value | None:
    """What is at a resolved path, or None."""
    value = item.get(cast("str", path[0]))
    for step in path[1:]:
        if value is None:
            return None
        if isinstance(step, str):
            value = value["M"].get(step) if "M" in value else None
        else:
            elements = value.get("L", ())
            value = elements[step] if step < len(elements) else None
    return value


def _path_operand(path: Path) -> Operand:
    if len(path.steps) > 1:
        return lambda item, names, _values: find(item, path.resolved(names))
    name = cast("str", path.steps[0])
    if name[0] == "#":
        return lambda item, names, _values: item.get(names[name])
    return lambda item, _names, _values: item.get(name)


def _operand(term: Term) -> Operand:
    if isinstance(term, Path):
        return _path_operand(term)
    if isinstance(term, Placeholder):
        name = term.name
        return lambda _item, _names, values: values[name]
    of = _operand(term.of)
    return lambda item, names, values: _measured(of(item, names, values))


def _measured(value: Value | None) -> Value | None:
    """What `size` gives: characters, bytes or members; None, which compares with nothing, for numbers and absences."""
    if value is None:
        return None
    ((kind, data),) = value.items()
    if kind in {"N", "BOOL", "NULL"}:
        return None
    return {"N": str(len(data))}


def compare(operator: str, left: Value | None, right: Value | None) -> bool:
    """Whether the comparison holds. What is absent, or of another type, is different and in no order."""
    if operator == "=":
        return left is not None and left == right
    if operator == "<>":
        return left is None or left != right
    if left is None or right is None:
        return False
    ((kind, a),) = left.items()
    ((other, b),) = right.items()
    if kind != other or kind not in ORDERED:
        return False
    a, b = sortable(kind, a), sortable(kind, b)
    if operator == "<":
        return bool(a < b)
    if operator == "<=":
        return bool(a <= b)
    return bool(a > b if operator == ">" else a >= b)


def _begins_with(value: Value | None, prefix: Value | None) -> bool:
    if value is None or prefix is None or value.keys() != prefix.keys():
        return False
    ((kind, data),) = value.items()
    return kind in {"S", "B"} and bool(data.startswith(prefix[kind]))


def _contains(value: Value | None, sought: Value | None) -> bool:
    if value is None or sought is None:
        return False
    ((kind, data),) = value.items()
    ((sought_kind, element),) = sought.items()
    if kind == "L":
        return sought in data
    if kind in {"S", "B"}:
        return sought_kind == kind and element in data
    return kind in SETS and sought_kind == kind[0] and element in data


def _has_type(value: Value | None, kind: Value | None) -> bool:
    return value is not None and kind is not None and kind["S"] in value


_RELATIONS: dict[str, Callable[[Value | None, Value | None], bool]] = {
    "attribute_type": _has_type,
    "begins_with": _begins_with,
    "contains": _contains,
}


def _test(condition: Condition) -> Test:
    match condition:
        case Group(inner):
            return _test(inner)
        case Not(operand):
            negated = _test(operand)
            return lambda item, names, values: not negated(item, names, values)
        case Junction(operator, left, right):
            first, second = _test(left), _test(right)
            if operator == "AND":
                return lambda item, names, values: first(item, names, values) and second(item, names, values)
            return lambda item, names, values: first(item, names, values) or second(item, names, values)
        case Comparison(operator, left_term, right_term):
            a, b = _operand(left_term), _operand(right_term)
            return lambda item, names, values: compare(operator, a(item, names, values), b(item, names, values))
        case _:
            return _predicate(condition)


def _predicate(condition: Between | Among | Call) -> Test:
    match condition:
        case Between(term, low_term, high_term):
            value, low, high = _operand(term), _operand(low_term), _operand(high_term)
            return lambda item, names, values: (
                compare(">=", found := value(item, names, values), low(item, names, values))
                and compare("<=", found, high(item, names, values))
            )
        case Among(term, options):
            value, choices = _operand(term), [_operand(option) for option in options]
            return lambda item, names, values: any(
                compare("=", value(item, names, values), choice(item, names, values)) for choice in choices
            )
        case Call("attribute_exists", (path,)):
            there = _operand(path)
            return lambda item, names, values: there(item, names, values) is not None
        case Call("attribute_not_exists", (path,)):
            there = _operand(path)
            return lambda item, names, values: there(item, names, values) is None
        case Call(function, (first_term, second_term)):
            relation = _RELATIONS[function]
            first, second = _operand(first_term), _operand(second_term)
            return lambda item, names, values: relation(first(item, names, values), second(item, names, values))
    raise AssertionError(condition)


@dataclass(frozen=True, slots=True)
class CompiledCondition:
    kind: str
    symbols: Symbols
    tree: Condition
    holds: Test


@lru_cache(CACHED_EXPRESSIONS)
def condition(kind: str, text: str) -> CompiledCondition:
    """A condition or filter. Raises InvalidRequestError for what does not parse."""
    parser = Parser(kind, text)
    tree = parser.condition()
    parser.end()
    return CompiledCondition(kind, parser.seen.frozen(), tree, _test(tree))


@dataclass(frozen=True, slots=True)
class KeyTest:
    """One comparison of a key condition: operator, path and the placeholders on its right."""

    operator: str
    path: Path
    operands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompiledKeyCondition:
    kind: str
    symbols: Symbols
    tests: tuple[KeyTest, ...]


def _conjuncts(tree: Condition) -> Iterator[Condition]:
    if isinstance(tree, Group):
        yield from _conjuncts(tree.inner)
    elif isinstance(tree, Junction):
        if tree.operator == "OR":
            raise InvalidRequestError("Invalid operator used in KeyConditionExpression: OR")
        yield from _conjuncts(tree.left)
        yield from _conjuncts(tree.right)
    else:
        yield tree


def _key_test(tree: Condition) -> KeyTest:
    match tree:
        case Comparison("<>", _, _):
            raise InvalidRequestError("Unsupported operator on KeyCondition: operator: <>")
        case Comparison(operator, Path() as path, Placeholder(name)):
            return KeyTest(operator, path, (name,))
        case Comparison(operator, Placeholder(name), Path() as path):
            turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(operator, operator)
            return KeyTest(turned, path, (name,))
        case Between(Path() as path, Placeholder(low), Placeholder(high)):
            return KeyTest("BETWEEN", path, (low, high))
        case Call("begins_with", (Path() as path, Placeholder(name))):
            return KeyTest("begins_with", path, (name,))
        case Not():
            raise InvalidRequestError("Invalid operator used in KeyConditionExpression: NOT")
        case Among():
            raise InvalidRequestError("Invalid operator used in KeyConditionExpression: IN")
        case Call(function, _):
            raise InvalidRequestError(f"Invalid operator used in KeyConditionExpression: {function}")
    raise InvalidRequestError("Invalid KeyConditionExpression: operands must be a key attribute and a value")


@lru_cache(CACHED_EXPRESSIONS)
def key_condition(text: str) -> CompiledKeyCondition:
    """A key condition: one or two comparisons joined by AND."""
    compiled = condition("KeyConditionExpression", text)
    tests = tuple(_key_test(tree) for tree in _conjuncts(compiled.tree))
    return CompiledKeyCondition(compiled.kind, compiled.symbols, tests)


@dataclass(frozen=True, slots=True)
class CompiledProjection:
    kind: str
    symbols: Symbols
    paths: tuple[Path, ...]


@lru_cache(CACHED_EXPRESSIONS)
def projection(text: str) -> CompiledProjection:
    """The paths of a projection."""
    parser = Parser("ProjectionExpression", text)
    paths = [parser.path()]
    while parser.accept(","):
        paths.append(parser.path())
    parser.end()
    return CompiledProjection(parser.kind, parser.seen.frozen(), tuple(paths))


class _Branch:
    """Part of a projected document: what hangs below each step that was asked for."""

    __slots__ = ("below",)

    def __init__(self) -> None:
        self.below: dict[Step, _Branch] = {}


def project(item: Item, paths: Iterable[Resolved]) -> Item:
    """A copy of the asked parts of an item; asked elements of a list close ranks."""
    root = _Branch()
    for path in paths:
        branch = root
        for step in path:
            branch = branch.below.setdefault(step, _Branch())
    projected = ((name, _pruned(item[name], below)) for name, below in root.below.items() if name in item)
    return {name: value for name, value in projected if value is not None}


def _pruned(value: Value, branch: _Branch) -> Value | None:
    if not branch.below:
        return copy_value(value)
    if "M" in value:
        members = value["M"]
        kept = {name: _pruned(members[name], below) for name, below in branch.below.items() if name in members}
        found = {name: member for name, member in kept.items() if member is not None}
        return {"M": found} if found else None
    if "L" in value:
        elements = value["L"]
        asked = sorted(step for step in branch.below if isinstance(step, int) and step < len(elements))
        parts = [_pruned(elements[step], branch.below[step]) for step in asked]
        listed = [part for part in parts if part is not None]
        return {"L": listed} if listed else None
    return None


def check_overlaps(kind: str, paths: Sequence[Resolved]) -> None:
    """Raises InvalidRequestError when one path is within another, or takes the same place for a map and a list."""
    if len(paths) < 2:
        return
    if len({path[0] for path in paths}) == len(paths):
        return
    for one, two in combinations(paths, 2):
        shared = min(len(one), len(two))
        described = f"path one: [{_steps(one)}], path two: [{_steps(two)}]"
        if one[:shared] == two[:shared]:
            raise InvalidRequestError(
                f"Invalid {kind}: Two document paths overlap with each other; "
                f"must remove or rewrite one of these paths; {described}"
            )
        parting = next(place for place in range(shared) if one[place] != two[place])
        if type(one[parting]) is not type(two[parting]):
            raise InvalidRequestError(
                f"Invalid {kind}: Two document paths conflict with each other; "
                f"must remove or rewrite one of these paths; {described}"
            )


def _steps(path: Resolved) -> str:
    return ", ".join(f"[{step}]" if isinstance(step, int) else step for step in path)


@dataclass(frozen=True, slots=True)
class Action:
    """One change: the value is computed from the item as it was; REMOVE has none."""

    clause: str
    path: Path
    value: Operand | None


@dataclass(frozen=True, slots=True)
class CompiledUpdate:
    kind: str
    symbols: Symbols
    actions: tuple[Action, ...]


_TYPE_MISMATCH = "An operand in the update expression has an incorrect data type"
_ABSENT = "The provided expression refers to an attribute that does not exist in the item"
_INVALID_PATH = "The document path provided in the update expression is invalid for update"


def _required(operand: Operand) -> Operand:
    """A right-hand side that must be there."""

    def value(item: Item, names: Names, values: Values) -> Value:
        found = operand(item, names, values)
        if found is None:
            raise InvalidOperationError(_ABSENT)
        return found

    return value


def _sum(left: Operand, right: Operand, sign: int) -> Operand:
    def value(item: Item, names: Names, values: Values) -> Value:
        a, b = left(item, names, values), right(item, names, values)
        if a is None or b is None:
            raise InvalidOperationError(_ABSENT)
        if "N" not in a or "N" not in b:
            raise InvalidOperationError(_TYPE_MISMATCH)
        return {"N": _added(a["N"], b["N"], sign)}

    return value


def _added(left: str, right: str, sign: int = 1) -> str:
    try:
        return plus(left, right, sign)
    except InvalidRequestError as too_large:
        raise InvalidOperationError(str(too_large)) from too_large


def _if_not_exists(path: Operand, otherwise: Operand) -> Operand:
    def value(item: Item, names: Names, values: Values) -> Value | None:
        found = path(item, names, values)
        return otherwise(item, names, values) if found is None else found

    return value


def _list_append(first: Operand, second: Operand) -> Operand:
    def value(item: Item, names: Names, values: Values) -> Value:
        a, b = first(item, names, values), second(item, names, values)
        if a is None or b is None:
            raise InvalidOperationError(_ABSENT)
        if "L" not in a or "L" not in b:
            raise InvalidOperationError(_TYPE_MISMATCH)
        return {"L": [*a["L"], *b["L"]]}

    return value


class UpdateParser(Parser):
    """SET, REMOVE, ADD and DELETE, each at most once, in any order."""

    def actions(self) -> tuple[Action, ...]:
        clauses: set[str] = set()
        actions: list[Action] = []
        while self.token.kind != "end":
            clause = self.token.text.upper()
            if self.token.kind != "word" or clause not in _CLAUSES:
                self.syntax_error()
            if clause in clauses:
                self.fail(f'The "{clause}" section can only be used once in an update expression;')
            clauses.add(clause)
            self.position += 1
            actions.append(self.action(clause))
            while self.accept(","):
                actions.append(self.action(clause))
        return tuple(actions)

    def action(self, clause: str) -> Action:
        path = self.path()
        if clause == "REMOVE":
            return Action(clause, path, None)
        if clause == "SET":
            self.expect("=")
            return Action(clause, path, self.value())
        placeholder = self.placeholder()
        self.rule(placeholder, SETS if clause == "DELETE" else SETS | {"N"}, clause)
        return Action(clause, path, _operand(placeholder))

    def value(self) -> Operand:
        left, left_term = self.operand()
        for sign, factor in (("+", 1), ("-", -1)):
            if self.accept(sign):
                right, right_term = self.operand()
                self.rule(left_term, {"N"}, sign)
                self.rule(right_term, {"N"}, sign)
                return _sum(left, right, factor)
        return _required(left)

    def operand(self) -> tuple[Operand, Term | None]:
        """A right-hand operand, and what it is when it is no function."""
        if self.accept("("):
            inner = self.value()
            self.expect(")")
            return inner, None
        if not self.at_call():
            term = self.path_or_value()
            return _operand(term), term
        function = self.take().text
        self.expect("(")
        first, first_term = self.operand()
        if function not in {"if_not_exists", "list_append"}:
            self.fail(
                f"The function is not allowed in an update expression; function: {function}"
                if function in _FUNCTION_ARITY or function == "size"
                else f"Invalid function name; function: {function}"
            )
        self.expect(",")
        second, second_term = self.operand()
        self.expect(")")
        if function == "if_not_exists":
            if not isinstance(first_term, Path):
                self.fail("Operator or function requires a document path; operator or function: if_not_exists")
            return _if_not_exists(first, second), None
        self.rule(first_term, {"L"}, function)
        self.rule(second_term, {"L"}, function)
        return _list_append(first, second), None


@lru_cache(CACHED_EXPRESSIONS)
def update(text: str) -> CompiledUpdate:
    """An update. Raises InvalidRequestError for what does not parse."""
    parser = UpdateParser("UpdateExpression", text)
    actions = parser.actions()
    return CompiledUpdate(parser.kind, parser.seen.frozen(), actions)


type Compiled = CompiledCondition | CompiledKeyCondition | CompiledProjection | CompiledUpdate


def check_symbols(expressions: Sequence[Compiled], names: Names, values: Values) -> None:
    """Raises InvalidRequestError for a name or value that is used but not given, given but not used, or ill-typed."""
    used_names: set[str] = set()
    used_values: set[str] = set()
    for expression in expressions:
        symbols = expression.symbols
        used_names |= symbols.names
        used_values |= symbols.values
        for name in symbols.names:
            if name not in names:
                raise InvalidRequestError(
                    f"Invalid {expression.kind}: An expression attribute name used in the document path is not "
                    f"defined; attribute name: {name}"
                )
        for value in symbols.values:
            if value not in values:
                raise InvalidRequestError(
                    f"Invalid {expression.kind}: An expression attribute value used in expression is not defined; "
                    f"attribute value: {value}"
                )
        for rule in symbols.rules:
            rule.check(expression.kind, values)
        for low, high in symbols.ranges:
            _check_range(expression.kind, values[low], values[high])
    for given, used, what in ((names, used_names, "Names"), (values, used_values, "Values")):
        if len(given) != len(used):
            unused = ", ".join(sorted(given.keys() - used))
            raise InvalidRequestError(
                f"Value provided in ExpressionAttribute{what} unused in expressions: keys: {{{unused}}}"
            )


def _check_range(kind: str, low: Value, high: Value) -> None:
    if low.keys() != high.keys():
        raise InvalidRequestError(
            f"Invalid {kind}: The BETWEEN operator requires same data type for lower and upper bounds; "
            f"lower bound operand: {shown(low)}, upper bound operand: {shown(high)}"
        )
    if compare(">", low, high):
        raise InvalidRequestError(
            f"Invalid {kind}: The BETWEEN operator requires upper bound to be greater than or equal to lower bound; "
            f"lower bound operand: {shown(low)}, upper bound operand: {shown(high)}"
        )


def apply_update(compiled: CompiledUpdate, item: Item, names: Names, values: Values) -> tuple[Item, list[Resolved]]:
    """The item after the update, the old one untouched, and the paths that were updated.

    Every right-hand side reads the item as it was. Raises InvalidOperationError when the item does not allow it.
    """
    changed: Item = dict(item)
    own: set[str] = set()
    removed: list[Resolved] = []
    paths: list[Resolved] = []
    for action in compiled.actions:
        path = action.path.resolved(names)
        paths.append(path)
        if action.value is None:
            removed.append(path)
            continue
        operand = cast("Value", action.value(item, names, values))
        value: Value | None = operand
        if action.clause == "ADD":
            value = _united(find(item, path), operand)
        elif action.clause == "DELETE":
            before = find(item, path)
            if before is None:
                continue
            value = _without(before, operand)
        if value is None:
            removed.append(path)
        else:
            _place(changed, path, value, own)
    # From the last element to the first, so that every index means a position in the list as it was.
    for path in sorted(removed, key=lambda steps: [(isinstance(step, int), step) for step in steps], reverse=True):
        _remove(changed, path, own)
    return changed, paths


def _united(before: Value | None, operand: Value) -> Value:
    if before is None:
        return operand
    ((kind, data),) = operand.items()
    if kind not in before:
        raise InvalidOperationError(_TYPE_MISMATCH)
    if kind == "N":
        return {"N": _added(before["N"], data)}
    return {kind: sorted_set(kind, {*before[kind], *data})}


def _without(before: Value, operand: Value) -> Value | None:
    ((kind, data),) = operand.items()
    if kind not in before:
        raise InvalidOperationError(_TYPE_MISMATCH)
    rest = [element for element in before[kind] if element not in data]
    return {kind: rest} if rest else None


def _container(item: Item, path: Resolved, own: set[str]) -> Any:
    """The map or list that holds a path's last step, copied once per attribute so that the old item stays as it was."""
    name = cast("str", path[0])
    if name not in item:
        raise InvalidOperationError(_INVALID_PATH)
    if name not in own:
        item[name] = copy_value(item[name])
        own.add(name)
    value: Value | None = find(item, path[:-1])
    data = None if value is None else value.get("M" if isinstance(path[-1], str) else "L")
    if data is None:
        raise InvalidOperationError(_INVALID_PATH)
    return data


def _place(item: Item, path: Resolved, value: Value, own: set[str]) -> None:
    last = path[-1]
    if len(path) == 1:
        item[cast("str", last)] = value
        return
    holder = _container(item, path, own)
    if isinstance(last, int) and last >= len(holder):
        holder.append(value)
    else:
        holder[last] = value


def _remove(item: Item, path: Resolved, own: set[str]) -> None:
    last = path[-1]
    if len(path) == 1:
        item.pop(cast("str", last), None)
        return
    holder = _container(item, path, own)
    if isinstance(last, str):
        holder.pop(last, None)
    elif last < len(holder):
        del holder[last]
