"""What we ship is pinned, hashed, permissively licensed, and small enough for Lambda."""

from importlib import metadata
from pathlib import Path

import pytest

from local import licences
from local.licences import ROOT, locked, packages

LOCKS = sorted([licences.LOCK, *(ROOT / "local" / "requirements").glob("*.txt")])
PERMISSIVE = {"Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "PSF-2.0", "MPL-2.0"}
# Lambda's limit is 250 MB for a function with its layers, unpacked; bytecode about doubles what is code.
LIMIT = 100 * 1024 * 1024


@pytest.mark.parametrize("lock", LOCKS, ids=lambda each: each.name)
def test_every_dependency_is_pinned_with_hashes_and_names_no_registry(lock: Path) -> None:
    found = list(locked(lock))
    assert found
    assert [name for name, _, hashed in found if not hashed] == []
    text = lock.read_text("utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert "--index-url" not in text


def test_what_is_installed_here_is_what_is_locked() -> None:
    """Otherwise the tests speak of other code than the layer carries."""
    for name, version, _ in locked():
        try:
            assert metadata.version(name) == version, name
        except metadata.PackageNotFoundError:
            continue


def test_the_layers_carry_only_permissive_licences_and_the_page_lists_them() -> None:
    for package in packages():
        assert set(package.licence.replace("(", "").replace(")", "").split(" AND ")) <= PERMISSIVE, package
    assert licences.main(["--check"]) == 0


def test_the_dependencies_leave_most_of_lambdas_room() -> None:
    assert len(packages()) > 10
    assert 10_000_000 < sum(package.size for package in packages()) < LIMIT
