"""The schema of our events names every type that can be told."""

import inspect
import re

from jsonschema import Draft202012Validator

from local.event_schema import EVENTS, problems, schema
from monetize.domain import outbox
from monetize.domain.outbox import Change, events_of


def test_every_type_that_the_code_can_tell_is_described() -> None:
    words = "subscription|invoice|payment|payment_method|bill|plan|account|run|usage"
    source = inspect.getsource(outbox)
    plain = set(re.findall(rf'"((?:{words})\.[a-z_]+)"', source))
    stems = set(re.findall(rf'f"((?:{words})\.)\{{', source))
    assert plain <= set(EVENTS)
    assert stems == {"subscription.", "bill.", "account.", "run."}  # their endings are states, or named in the source
    assert all(name in plain or name.startswith(tuple(stems)) for name in EVENTS)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


def test_what_is_not_described_is_a_problem() -> None:
    run = {"id": "run_1", "publisher": "", "status": "finished"}
    change = Change(pk="X", sk="RUN", before=None, after=run, revision=1, at="2026-03-01T12:00:00Z")
    (event,) = events_of(change)
    detail = event.detail()
    assert problems(event.type, detail) == []
    assert list(Draft202012Validator(schema()).iter_errors(detail)) == []
    assert problems("run.vanished", detail) == ["run.vanished is not described"]
    assert problems(event.type, {**detail, "card": "4242"}) != []
    assert problems(event.type, {**detail, "time": "yesterday"}) != []
