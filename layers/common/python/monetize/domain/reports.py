"""A report is counted in steps, each adding some invoices or subscriptions to what was counted before. Pure."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A report as of an instant, as far as it was counted: everything up to `after` is in it, nothing behind it.

    `groups[dimension]["a|b|measure"]` are counts and minor units.
    """

    publisher: str
    name: str
    as_of: datetime
    after: str | None = None
    seen: int = 0
    complete: bool = False
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    parts: tuple[str, ...] = ()  # objects an export consists of
    rev: int = 0

    def add(self, dimension: str, key: tuple[str, ...], measure: str, value: int) -> None:
        """Count some more. A snapshot that is being built is nobody else's."""
        group = self.groups.setdefault(dimension, {})
        name = "|".join((*(part.replace("|", "/") for part in key), measure))
        group[name] = group.get(name, 0) + value

    def rows(self, dimension: str) -> list[tuple[tuple[str, ...], dict[str, int]]]:
        """The measures of every key of a dimension, in the keys' order."""
        found: dict[tuple[str, ...], dict[str, int]] = {}
        for name, value in self.groups.get(dimension, {}).items():
            *key, measure = name.split("|")
            found.setdefault(tuple(key), {})[measure] = value
        return sorted(found.items())
