"""The page that names a test for every pitfall names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_a_page_names_exists() -> None:
    known = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    named = {
        name: page.name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"`(test_[a-z]\w+)`", page.read_text())
    }
    assert {name: page for name, page in named.items() if name not in known} == {}


def test_every_pitfall_has_a_test_by_name() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", (ROOT / "docs" / "pitfalls.md").read_text(), re.MULTILINE)
    without = [what for what, where in rows if not re.search(r"`test_\w+`|\]\(", where)]
    assert len(rows) == 2 + 15 + 16
    assert [what for what in without if not what.endswith(("elsewhere", "asked for"))] == []
