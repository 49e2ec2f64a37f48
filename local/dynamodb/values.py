"""Attribute values in the low-level format: checked, copied, measured and compared.

A stored value is normal: numbers in one spelling, sets sorted. Two normal values are the same exactly when they are
equal Python objects.
"""

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

from botocore.exceptions import ParamValidationError

from local.dynamodb.errors import InvalidRequestError

type Value = dict[str, Any]
type Item = dict[str, Value]

MAXIMUM_ITEM_BYTES = 400 * 1024
MAXIMUM_DIGITS = 38
MAXIMUM_DEPTH = 32
CONTAINER_BYTES = 3
MAXIMUM_EXPONENT = 125
MINIMUM_EXPONENT = -130

KINDS = frozenset({"S", "N", "B", "BOOL", "NULL", "SS", "NS", "BS", "L", "M"})
SETS = frozenset({"SS", "NS", "BS"})
ORDERED = frozenset({"S", "N", "B"})
TYPE_NAMES = {
    "S": "STRING",
    "N": "NUMBER",
    "B": "BINARY",
    "BOOL": "BOOLEAN",
    "NULL": "NULL",
    "SS": "STRING_SET",
    "NS": "NUMBER_SET",
    "BS": "BINARY_SET",
    "L": "LIST",
    "M": "MAP",
}

_ARITHMETIC = Context(prec=MAXIMUM_DIGITS, traps=[InvalidOperation, Overflow, Inexact])


def text_size(text: str) -> int:
    """Bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _is_plain_integer(text: str) -> bool:
    digits = text[1:] if text[:1] == "-" else text
    return (
        len(digits) <= MAXIMUM_DIGITS
        and digits.isascii()
        and digits.isdigit()
        and (digits[0] != "0" or len(text) == 1)
        and bool(digits)
    )


def normal_number(text: str) -> str:
    """The one spelling of a number: no exponent, no leading or trailing zeros.

    Raises InvalidRequestError for what is not a number, has more than 38 significant digits, or is out of range.
    """
    if _is_plain_integer(text):
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise InvalidRequestError(f"The parameter cannot be converted to a numeric value: {text}") from None
    if not number.is_finite() or "_" in text or text != text.strip():
        raise InvalidRequestError(f"The parameter cannot be converted to a numeric value: {text}")
    if not number:
        return "0"
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    if len(digits) > MAXIMUM_DIGITS:
        raise InvalidRequestError("Attempting to store more than 38 significant digits in a Number")
    if number.adjusted() > MAXIMUM_EXPONENT:
        raise InvalidRequestError(
            "Number overflow. Attempting to store a number with magnitude larger than supported range"
        )
    if number.adjusted() < MINIMUM_EXPONENT:
        raise InvalidRequestError(
            "Number underflow. Attempting to store a number with magnitude smaller than supported range"
        )
    plain = format(number, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    sign, digits = ("-", plain[1:]) if plain[0] == "-" else ("", plain.removeprefix("+"))
    whole, point, rest = digits.partition(".")
    return f"{sign}{whole.lstrip('0') or '0'}{point}{rest}"


def plus(left: str, right: str, sign: int = 1) -> str:
    """The sum, or the difference with sign -1, of two normal numbers. Never rounded: what does not fit is refused."""
    if _is_plain_integer(left) and _is_plain_integer(right):
        return normal_number(str(int(left) + sign * int(right)))
    try:
        return normal_number(str(_ARITHMETIC.add(Decimal(left), sign * Decimal(right))))
    except Inexact:
        raise InvalidRequestError("Attempting to store more than 38 significant digits in a Number") from None


def _number_size(text: str) -> int:
    """Published as approximate: one byte for two significant digits, and one; one more for a sign."""
    significant = len(text.replace(".", "").strip("-0")) or 1
    return (significant + 1) // 2 + (2 if text[0] == "-" else 1)


def _wrong_parameter(value: object) -> ParamValidationError:
    return ParamValidationError(report=f"Invalid type for an attribute value, value: {value!r}, type: {type(value)}")


def _elements(kind: str, data: object) -> list[Any]:
    if not isinstance(data, list | tuple | set | frozenset):
        raise _wrong_parameter(data)
    element_kind = kind[0]
    elements = [intake(element_kind, element)[0] for element in data]
    if not elements:
        raise InvalidRequestError(
            "One or more parameter values were invalid: An "
            f"{ {'SS': 'string', 'NS': 'number', 'BS': 'binary'}[kind] } set  may not be empty"
        )
    if len(set(elements)) != len(elements):
        raise InvalidRequestError(
            "One or more parameter values were invalid: Input collection "
            f"[{', '.join(map(str, elements))}] contains duplicates."
        )
    return sorted_set(kind, elements)


def sorted_set(kind: str, elements: Iterable[Any]) -> list[Any]:
    """The members of a set in the order in which sets are stored."""
    return sorted(elements, key=Decimal) if kind == "NS" else sorted(elements)


def intake(kind: str, data: Any, depth: int = 0) -> tuple[Any, int]:
    """A checked, normal copy of what a value holds, and its size in bytes.

    Raises botocore's ParamValidationError for what a client would not even send, InvalidRequestError for the rest.
    """
    if kind == "S" and isinstance(data, str):
        return data, text_size(data)
    if kind == "N" and isinstance(data, str):
        number = normal_number(data)
        return number, _number_size(number)
    if kind == "B" and isinstance(data, bytes | bytearray):
        return bytes(data), len(data)
    if kind == "BOOL" and isinstance(data, bool):
        return data, 1
    if kind == "NULL" and isinstance(data, bool):
        if not data:
            raise InvalidRequestError(
                "One or more parameter values were invalid: Null attribute value types must have the value of true"
            )
        return True, 1
    if kind in SETS:
        elements = _elements(kind, data)
        return elements, sum(intake(kind[0], element)[1] for element in elements)
    if depth >= MAXIMUM_DEPTH:
        raise InvalidRequestError("Nesting Levels have exceeded supported limits")
    if kind == "L" and isinstance(data, list | tuple):
        pairs = [intake_value(element, depth + 1) for element in data]
        return [value for value, _ in pairs], CONTAINER_BYTES + sum(size + 1 for _, size in pairs)
    if kind == "M" and isinstance(data, Mapping):
        copied: Item = {}
        total = CONTAINER_BYTES
        for name, member in data.items():
            copied[name], size = intake_value(member, depth + 1)
            total += size + 1 + text_size(name)
        return copied, total
    raise _wrong_parameter({kind: data})


def intake_value(value: Any, depth: int = 0) -> tuple[Value, int]:
    """A checked, normal copy of one attribute value, and its size in bytes."""
    if not isinstance(value, Mapping) or len(value) > 1 or not all(kind in KINDS for kind in value):
        raise _wrong_parameter(value)
    if not value:
        raise InvalidRequestError(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"
        )
    ((kind, data),) = value.items()
    copied, size = intake(kind, data, depth)
    return {kind: copied}, size


def intake_item(item: Any) -> tuple[Item, int]:
    """A checked, normal copy of an item, and its size in bytes: names and values."""
    if not isinstance(item, Mapping):
        raise _wrong_parameter(item)
    copied: Item = {}
    total = 0
    for name, value in item.items():
        if type(value) is dict and len(value) == 1 and type(data := value.get("S")) is str:
            copied[name] = {"S": data}
            total += text_size(name) + text_size(data)
            continue
        copied[name], size = intake_value(value)
        total += text_size(name) + size
    return copied, total


def size_of(kind: str, data: Any) -> int:
    """Bytes of a normal value."""
    if kind == "S":
        return text_size(data)
    if kind == "N":
        return _number_size(data)
    if kind == "B":
        return len(data)
    if kind in SETS:
        return sum(size_of(kind[0], element) for element in data)
    if kind == "L":
        return CONTAINER_BYTES + sum(value_size(element) + 1 for element in data)
    if kind == "M":
        return CONTAINER_BYTES + sum(value_size(member) + 1 + text_size(name) for name, member in data.items())
    return 1


def value_size(value: Value) -> int:
    """Bytes of a normal attribute value."""
    ((kind, data),) = value.items()
    return size_of(kind, data)


def item_size(item: Item) -> int:
    """Bytes of a normal item: names and values."""
    return sum(text_size(name) + value_size(value) for name, value in item.items())


def copy_value(value: Value) -> Value:
    """A copy that shares nothing that can change."""
    ((kind, data),) = value.items()
    if kind == "M":
        return {kind: copy_item(data)}
    if kind == "L":
        return {kind: [copy_value(element) for element in data]}
    if kind in SETS:
        return {kind: list(data)}
    return {kind: data}


def copy_item(item: Item) -> Item:
    """A copy that shares nothing that can change."""
    return {name: copy_value(value) for name, value in item.items()}


def sortable(kind: str, data: Any) -> Any:
    """What orders scalar values of one type as the service does: strings by UTF-8 bytes, which is by code point."""
    return Decimal(data) if kind == "N" else data


def shown(value: Value) -> str:
    """A value as the service's messages spell it."""
    ((kind, data),) = value.items()
    return f"AttributeValue: {{{kind}:{data}}}"
