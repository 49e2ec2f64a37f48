"""Read a SAM or CloudFormation template, short intrinsic tags included, as plain data."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Safe YAML, and CloudFormation's short forms."""


def _intrinsic(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    """`!Ref x` is {"Ref": "x"}, `!Sub x` {"Fn::Sub": "x"}, `!GetAtt a.b` {"Fn::GetAtt": ["a", "b"]}."""
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    else:
        raise TypeError(f"an intrinsic function over {node}")
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_multi_constructor("!", _intrinsic)
# A template's version is text: unquoted, `2010-09-09` would be read as a date.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)


def parse(text: str) -> dict[str, Any]:
    """A template's text as plain data."""
    parsed = yaml.load(text, Loader=_Loader)  # noqa: S506 a subclass of SafeLoader
    if not isinstance(parsed, dict):
        raise ValueError("a template is a mapping")  # noqa: TRY004 what is wrong is the text
    return parsed


def load(path: str | Path) -> dict[str, Any]:
    """A template file as plain data, intrinsic functions in their long form."""
    return parse(Path(path).read_text(encoding="utf-8"))


def resources(template: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Logical ids and definitions of the resources of one type, in the template's order."""
    for logical_id, definition in template.get("Resources", {}).items():
        if definition.get("Type") == kind:
            yield logical_id, definition


def parameter_defaults(template: Mapping[str, Any]) -> dict[str, str]:
    """Default values of the template's parameters, as text."""
    declared = template.get("Parameters", {})
    return {name: str(each["Default"]) for name, each in declared.items() if "Default" in each}
