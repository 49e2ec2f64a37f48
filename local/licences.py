"""Which third-party packages the layers carry, under which licences, how large: the table of docs/dependencies.md.

python -m local.licences          # write the table
python -m local.licences --check  # fail when the document says something else
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "layers" / "dependencies" / "requirements.txt"
DOCUMENT = ROOT / "docs" / "dependencies.md"
BEGIN, END = "<!-- licences begin -->", "<!-- licences end -->"
# What older packages call the licence that SPDX names on the right.
SPDX = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0 license": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


@dataclass(frozen=True, slots=True)
class Package:
    """One locked package as it is installed; `size` in bytes, unpacked."""

    name: str
    version: str
    licence: str
    size: int


def locked(lock: Path = LOCK) -> Iterator[tuple[str, str, bool]]:
    """(name, version, whether every line of it has a hash) of each package of a lock file."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.read_text("utf-8")):
        named = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        if named:
            yield named.group(1), named.group(2), "--hash=sha256:" in block


def packages(lock: Path = LOCK) -> list[Package]:
    """The packages of a lock file that this machine's platform installs."""
    found = []
    for name, version, _ in locked(lock):
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        found.append(Package(name, version, licence(installed), size(installed)))
    return found


def licence(installed: metadata.Distribution) -> str:
    """The SPDX expression that a package declares, or the nearest thing to it."""
    head = installed.metadata
    declared = head.get("License-Expression") or ""
    classified = [
        each.rpartition(" :: ")[2] for each in head.get_all("Classifier") or [] if each.startswith("License ::")
    ]
    text = declared or (classified[0] if classified else "") or (head.get("License") or "unknown").splitlines()[0]
    return SPDX.get(text, text)


def size(installed: metadata.Distribution) -> int:
    """Bytes of a package's files as installed, without compiled copies."""
    paths = (Path(str(each.locate())) for each in installed.files or () if each.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())


def rendered() -> str:
    """The table as Markdown."""
    rows = [f"| {each.name} | {each.version} | {each.licence} |" for each in packages()]
    return "\n".join([BEGIN, "", "| package | version | licence |", "|---|---|---|", *rows, "", END])


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; 1 when the document differs."""
    parser = argparse.ArgumentParser(description="licences of what the layers carry")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check: bool = parser.parse_args(arguments).check
    text = DOCUMENT.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    wanted = f"{head}{rendered()}{rest.partition(END)[2]}"
    if text == wanted:
        return 0
    if check:
        print("docs/dependencies.md differs: run python -m local.licences")
        return 1
    DOCUMENT.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
