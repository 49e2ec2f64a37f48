"""What a person did: who, when, before, after. Personal fields appear by name only."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Written in the transaction of the change it tells of."""

    id: str  # time-ordered
    publisher: str
    at: datetime
    actor: str
    organization: str
    action: str
    target: str
    before: dict[str, str] | None = None
    after: dict[str, str] | None = None
    rev: int = 0
