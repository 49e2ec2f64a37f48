"""Every measurement, each part in a process of its own: the table on the screen, the numbers in `.local/bench.json`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("usage", "billing")
REPORT = ROOT / ".local" / "bench.json"


def measure(part: str, options: list[str]) -> Any:
    """Run one part, show what it prints, and read the numbers from its last line."""
    print(f"== {part}", flush=True)
    command = [sys.executable, "-m", f"local.bench.{part}", *options]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 # our own modules
        for line in running.stdout or ():
            if last:
                print(last, end="", flush=True)
            last = line
    if running.returncode:
        print(last)
        raise SystemExit(f"{part} failed")
    return json.loads(last)


def main() -> None:
    """`--quick`: fewer rounds, no plots."""
    found = {part: measure(part, sys.argv[1:]) for part in PARTS}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=1) + "\n")
    missed = [each["name"] for part in found.values() for each in part["figures"] if not each["met"]]
    print(f"\n{REPORT.relative_to(ROOT)} is written; not met: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
