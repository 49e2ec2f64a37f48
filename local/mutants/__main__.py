"""Plant every fault in a copy of the code, one at a time, and see who notices.

python -m local.mutants                    all of them
python -m local.mutants --only 'carry|seal'  those whose name matches
python -m local.mutants --check            only that every old text still stands where it is said to stand

Each is killed, lives, or could not be tried: a time-out is no verdict. Exits non-zero unless all are killed.
"""

import argparse
import ast
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import yaml

from local import template
from local.mutants.planted import PLANTED, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "functions",
    "layers",
    "local",
    "tests",
    "events",
    "template.yaml",
    "samconfig.toml",
    "pyproject.toml",
    "docs",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis", "node_modules")
SECONDS = 240
FAILED_TESTS = 1  # pytest's exit status for tests that failed; others mean that nothing was tried
TIMED_OUT = -1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who noticed a mutant; nobody when `killer` is empty. `trouble`: a killer that came to no end or no start."""

    mutant: Mutant
    killer: str
    by: str
    seconds: float
    trouble: str = ""


def missing(mutants: Sequence[Mutant]) -> list[str]:
    """Mutants whose old text does not stand exactly once in its file, or that make no Python and no template."""
    found = []
    for mutant in mutants:
        path = ROOT / mutant.file
        sound = path.read_text("utf-8") if path.is_file() else ""
        if sound.count(mutant.old) != 1:
            found.append(f"{mutant.name}: its text stands {sound.count(mutant.old)} times in {mutant.file}")
            continue
        made = sound.replace(mutant.old, mutant.new)
        try:
            if path.suffix == ".py":
                ast.parse(made)
            else:
                template.parse(made)
        except (SyntaxError, ValueError, yaml.YAMLError) as broken:
            found.append(f"{mutant.name}: what it makes cannot be read ({broken})")
    return found


@dataclass(slots=True)
class Sound:
    """Which killers are content with the code as it is, each asked once: one that is not proves nothing."""

    known: dict[str, str] = field(default_factory=dict)

    def trouble(self, killer: str, copy: Path) -> str:
        """Why a killer's word does not count; empty when it does. The copy holds the sound code."""
        if killer not in self.known:
            status, output = _ask(killer, copy)
            self.known[killer] = "" if status == 0 else f"{killer} fails on sound code: {output.strip()[-200:]}"
        return self.known[killer]


def attempt(mutant: Mutant, copy: Path, sound_killers: Sound) -> Verdict:
    """Plant one fault in the copy, ask its killers in turn, and take it out again."""
    path = copy / mutant.file
    sound = path.read_text()
    began = time.monotonic()
    path.write_text(sound.replace(mutant.old, mutant.new))
    trouble = ""
    try:
        for killer in mutant.killers:
            status, output = _ask(killer, copy)
            noticed = _noticed(killer, status, output)
            if noticed:
                path.write_text(sound)
                trouble = sound_killers.trouble(killer, copy)
                if not trouble:
                    return Verdict(mutant, killer, noticed, time.monotonic() - began)
                path.write_text(sound.replace(mutant.old, mutant.new))
            if status not in (0, FAILED_TESTS):
                trouble = f"{killer}: {output.strip()[-300:]}"
    finally:
        path.write_text(sound)
    return Verdict(mutant, "", "", time.monotonic() - began, trouble)


def _ask(killer: str, copy: Path) -> tuple[int, str]:
    words = shlex.split(killer)
    if words[0] == "pytest":
        asked = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words[1:]]
    else:
        seeds = words[-1]
        kind = words[0] if words[0] != "crash" else f"crash:{words[1]}"
        asked = [sys.executable, "-m", "local.simulate", "run", "--seeds", seeds, "--kinds", kind]
        asked += ["--processes", "1", "--most-failures", "1"]
    try:
        done = subprocess.run(  # noqa: S603 # our own words
            asked, cwd=copy, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT, f"came to no end in {SECONDS} seconds"
    return done.returncode, done.stdout + done.stderr


def _noticed(killer: str, status: int, output: str) -> str:
    """What noticed it, or nothing: an error of collection is no test that failed."""
    if status != FAILED_TESTS:
        return ""
    if killer.startswith("pytest"):
        found = re.search(r"^FAILED \S*::(\w+)", output, re.MULTILINE)
        return found[1] if found else ""
    found = re.search(r"replay (.+)\n\s+(.+)", output)
    return f"seed {found[1]}: {found[2][:90]}" if found else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m local.mutants")
    parser.add_argument("--only", default="", help="a regular expression their names match")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--beside", type=int, default=2, help="how many at once")
    asked = parser.parse_args(arguments)
    gone = missing(PLANTED)
    for sentence in gone:
        print(sentence)
    if gone or asked.check:
        print(f"{len(PLANTED)} mutants, {len(gone)} of them without a place")
        return 1 if gone else 0
    chosen = [mutant for mutant in PLANTED if re.search(asked.only, mutant.name)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies: Queue[Path] = Queue()
        sound = Sound()
        for number in range(asked.beside):
            copies.put(_copy(Path(scratch) / str(number)))

        def one(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                verdict = attempt(mutant, copy, sound)
            finally:
                copies.put(copy)
            print(_told(verdict), flush=True)
            return verdict

        with ThreadPoolExecutor(asked.beside) as workers:
            verdicts = list(workers.map(one, chosen))
    killed = sum(bool(each.killer) for each in verdicts)
    untried = sum(bool(each.trouble) for each in verdicts)
    living = len(verdicts) - killed - untried
    print(f"\n{len(verdicts)} mutants: {killed} killed, {living} living, {untried} that could not be tried")
    return 0 if killed == len(verdicts) else 1


def _copy(where: Path) -> Path:
    where.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, where / name, ignore=LEFT_OUT)
        elif source.is_file():
            shutil.copy2(source, where / name)
    return where


def _told(verdict: Verdict) -> str:
    mutant = verdict.mutant
    if verdict.killer:
        return (
            f"killed {mutant.name} in {verdict.seconds:.0f} s by {verdict.killer.removeprefix('pytest ')}: {verdict.by}"
        )
    if verdict.trouble:
        return f"ERROR  {mutant.name} in {mutant.file}: {verdict.trouble}"
    return f"LIVES  {mutant.name} in {mutant.file}: {mutant.breaks}"


if __name__ == "__main__":
    sys.exit(main())
