"""Every worked example of docs/pricing.md is what the code answers."""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest

from monetize.domain.money import format_amount
from monetize.domain.periods import Period
from monetize.domain.plans import PlanTerms, validate_terms
from monetize.domain.rating import preview

GUIDE = Path(__file__).parents[2] / "docs" / "pricing.md"
EXAMPLES = re.findall(r"```json\n(.*?)```\n```text\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
JUNE = Period(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))


def answer(example: str) -> str:
    asked = json.loads(example)
    terms = msgspec.convert(asked["terms"], PlanTerms)
    usage = msgspec.convert(asked["usage"], dict[str, dict[date, int]])
    validate_terms(terms, usage)
    priced = preview(terms, usage, JUNE, units={meter: meter for meter in usage})
    total = format_amount(priced.subtotal, terms.currency)
    return "".join(f"{line.description}\n" for line in priced.lines) + f"Total: {total}\n"


def test_the_guide_shows_every_price_model() -> None:
    shown = {charge["model"] for example, _ in EXAMPLES for charge in json.loads(example)["terms"]["charges"]}
    assert shown == {"flat", "per_unit", "graduated", "volume", "package"}


@pytest.mark.parametrize(("example", "printed"), EXAMPLES)
def test_a_worked_example_is_what_the_code_answers(example: str, printed: str) -> None:
    assert answer(example) == printed


def test_the_guide_names_every_refusal() -> None:
    from monetize.domain import money, plans

    source = Path(plans.__file__).read_text(encoding="utf-8") + Path(money.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'(?:Problem|Invalid)\(\s*"(\w+)"', source))
    named = set(re.findall(r"`(\w+)`", GUIDE.read_text(encoding="utf-8").partition("## What is refused")[2]))
    assert codes == named
